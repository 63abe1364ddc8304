"""The orders in which pipeline stages run their micro-batches, drawn, and how long they wait."""

from __future__ import annotations

from typing import Any

from llmhw.formula import term
from llmhw.job import SCHEDULES, Parallelism
from llmhw.language import said
from llmhw.live.base import Answer, Calculator, Control, Figure, Settings
from llmhw.live.charts import passes
from llmhw.live.typed import call, command
from llmhw.schedule import (
    Slot,
    bubble_seconds,
    chunks_in_flight,
    idle_slots,
    pipeline_actions,
    stages_in_flight,
    time_slots,
)
from llmhw.units import format_quantity

_MOST_DRAWN = 1600


def _drawn(slots: tuple[tuple[Slot, ...], ...]) -> list[tuple[int, float, float, str]]:
    spans = [(row, slot) for row, stage in enumerate(slots) for slot in stage]
    return [(row, slot.start, slot.end - slot.start, slot.action[0]) for row, slot in spans]


def _pipeline(settings: Settings) -> Answer:
    p, m, v = settings["p"], settings["m"], settings["v"]
    order = Parallelism(pp=p, vpp=v, schedule=settings["schedule"]).pipeline_schedule
    slots = time_slots(pipeline_actions(order, p, v, m))
    end = max(slot.end for stage in slots for slot in stage)
    waits = max(idle_slots(slots))
    share, held = waits / end, float(stages_in_flight(order, p, v, m, 0))
    others: dict[str, Any] = {"forward": v * (p - 1), "backward": 2 * v * (p - 1), "chunks": v}
    others["zero_bubble"] = int(order == "zero-bubble")
    closed = term(bubble_seconds, said("slots that a stage waits"), **others)
    sizes: dict[str, Any] = {"stages": p, "stage": 0, "chunks": v, "micro_batches": m}
    ahead: dict[str, Any] = {"per_hop": 2 if order == "interleaved" else 1, "waits": int(order == "zero-bubble")}
    chunks = term(chunks_in_flight, said("chunks in memory on the first stage"), **sizes, **ahead)
    told = format_quantity(share, "fraction")
    verdict = said("{order}: a stage waits for {share} of the step", order=order, share=told)
    kinds = {"F": said("forward"), "B": said("backward")}
    if order == "zero-bubble":
        kinds = {"F": said("forward"), "I": said("backward, inputs"), "W": said("backward, weights")}
    words = said(
        "{stages} stages, {batches} micro-batches, {slots} slots; each stage waits in {idle} of them.",
        stages=p,
        batches=m,
        slots=end,
        idle=waits,
    )
    spans = _drawn(slots)
    pictures, notes = [], [said("A forward pass takes one slot, a backward pass two; sending takes none.")]
    if len(spans) <= _MOST_DRAWN:
        rows = [str(i) for i in range(p)]
        length = said("{slots} slots", slots=end)
        pictures = [passes(rows, spans, end, f"{words} {said('White is waiting.')}", words, kinds, length)]
    else:
        notes.append(said("{count} passes are too many to draw.", count=f"{len(spans):,}"))
    if closed.value != waits:
        notes.append(
            said("The closed form, {slots} slots, needs more micro-batches than stages.", slots=f"{closed.value:g}")
        )
    return Answer(
        verdict=verdict,
        figures=[
            Figure(said("share of the step that a stage waits"), told, share, lambda: f"{waits} / {end} = {told}"),
            Figure(said("slots that a stage waits"), f"{waits:,}", waits, closed.explain),
            Figure(said("slots of the step"), f"{end:,}", end),
            Figure(
                said("micro-batches in memory on the first stage"),
                f"{held:g}",
                held,
                None if order == "gpipe" else chunks.explain,
            ),
        ],
        pictures=pictures,
        notes=notes,
        python="from llmhw.schedule import idle_slots, pipeline_actions, stages_in_flight, time_slots\n"
        f"slots = time_slots({call('pipeline_actions', order, p, v, m)})\n"
        "waits, end = max(idle_slots(slots)), max(slot.end for stage in slots for slot in stage)\n"
        f"waits / end, waits, end, float({call('stages_in_flight', order, p, v, m, 0)})",
        command=command("explain", "bubble_seconds", *(f"{k}={n}" for k, n in others.items()), options={}),
    )


PIPELINE = Calculator(
    name="pipeline",
    title="How long do the stages of a pipeline wait?",
    controls=[
        Control("p", "number", 4, "Stages", least=1, most=16),
        Control("m", "number", 8, "Micro-batches", least=1, most=32),
        Control(
            "v",
            "number",
            1,
            "Model chunks on each stage",
            least=1,
            most=4,
            help="More than one: the interleaved order, which needs micro-batches in multiples of the stages",
        ),
        Control(
            "schedule", "choice", "1f1b", "Order", choices=[(name, name) for name in SCHEDULES if name != "interleaved"]
        ),
    ],
    function=_pipeline,
)
