"""How a training job lies on its devices: what each stage holds, when it works, what the step's time is spent on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from llmhw.formula import Table
from llmhw.job import COMPUTE, SCHEDULES, TrainingJob
from llmhw.language import said
from llmhw.live.base import Answer, Calculator, Control, Figure, Picture, Settings
from llmhw.live.charts import bars, passes
from llmhw.live.jobs import AUTO, COUNTS, NETWORKS, cluster_of, job_call, job_command
from llmhw.live.models import chosen, device_of
from llmhw.live.step import RECOMPUTE, bytes_told, held_parts
from llmhw.memory import PRECISIONS
from llmhw.model import ModelSpec
from llmhw.planning.cuts import fewest_cuts
from llmhw.timeline.training import BUBBLE
from llmhw.timeline.training import train as timeline
from llmhw.training import JobMemory, TrainingEstimate, train
from llmhw.units import format_quantity

_MOST_ROWS, _MOST_PASSES = 16, 400


def _open(value: str) -> int | None:
    return None if value == AUTO else int(value)


def job_of(settings: Settings, spec: ModelSpec) -> tuple[TrainingJob, str | None]:
    """The job that is asked about, and the network that was."""
    c, named = cluster_of(device_of(settings), int(settings["count"]), settings["network"])
    layout: dict[str, Any] = {
        "cp": int(settings["cp"]),
        "zero": int(settings["zero"]),
        "schedule": settings["schedule"],
    }
    layout |= {name: size for name in ("vpp", "ep") if (size := _open(settings[name])) not in (None, 1)}
    asked = {name: settings[name] for name in ("recompute", "precision")}
    asked |= {name: _open(settings[name]) for name in ("micro_batch", "seq_len", "global_batch")}
    asked |= {} if settings["compute"] == AUTO else {"compute": settings["compute"]}
    sizes = {"tp": _open(settings["tp"]), "pp": _open(settings["pp"])}
    return fewest_cuts(spec, c, layout=layout, **sizes, **asked), named


def memory_by_stage(held: JobMemory) -> Picture:
    """What a device of each stage holds, against what it has."""
    stages = [*range(len(held.stages))]
    if len(stages) > _MOST_ROWS:
        stages = sorted({0, held.worst, stages[-1]})
    rows: dict[str, Mapping[str, float]] = {}
    for i in stages:
        label = said("stage {number}", number=i) if len(held.stages) > 1 else said("a device")
        rows[label] = held_parts(held, i)
    caption = said("What a device of each stage holds at its fullest, and what it has.")
    room = said("a device has"), held.capacity_bytes
    return bars(rows, bytes_told, caption, room=room, names=said)


def parts_of_time(found: TrainingEstimate) -> Picture:
    """What the step's time is spent on."""
    parts = {name: seconds for name, seconds in found.time.parts.items() if seconds > 0}
    caption = said("Parts of the time of a step.")
    return bars({said("a step"): parts}, _seconds, caption, names=said, shares=True)


def pipeline_of(found: TrainingEstimate) -> tuple[Picture | None, str]:
    """When each stage works in a step, and why that is not drawn if it is not."""
    job, p = found.job, found.job.parallelism
    if p.pp == 1:
        return None, ""
    fewest = 2 * p.pp if p.pp <= 4 else p.pp
    drawn = found
    if job.micro_batches > fewest:
        fewer = replace(job, global_batch=fewest * job.micro_batch * p.dp)
        drawn = train(fewer)
    count = drawn.job.micro_batches
    if p.pp > _MOST_ROWS or 2 * p.pp * p.vpp * count > _MOST_PASSES:
        return None, said("{stages} stages are too many to draw.", stages=p.pp)
    made = timeline(drawn)
    kinds = {"forward": said("forward"), "backward": said("backward"), "optimizer": said("optimizer")}
    halves = {"backward, inputs": "backward", "backward, weights": "backward"}
    spans = [(s.row, s.start, s.seconds, halves.get(s.kind, s.kind)) for s in made.spans]
    others = {kind for *_, kind in spans} - {*kinds, BUBBLE}
    told = said("A step, stage by stage; white is waiting.")
    if drawn is not found:
        told = said(
            "A step, stage by stage, with {few} of its {all} micro-batches; white is waiting.",
            few=count,
            all=job.micro_batches,
        )
    spans = [(row, start, length, "others" if kind in others else kind) for row, start, length, kind in spans]
    idle = said(
        "A stage waits for {share} of the step.",
        share=format_quantity(found.time.parts.get(BUBBLE, 0.0) / found.step_seconds, "fraction"),
    )
    names = {**kinds, "others": said("messages and others")}
    rows = [said("stage {number}", number=i) for i in range(p.pp)]
    return passes(rows, spans, made.seconds, f"{told} {idle}", f"{told} {idle}", names, _seconds(made.seconds)), ""


def _seconds(value: float) -> str:
    return format_quantity(value, "seconds")


def _interval(found: TrainingEstimate) -> str:
    if not found.step_seconds_interval:
        return _seconds(found.step_seconds)
    low, high = map(_seconds, found.step_seconds_interval)
    return said("{value} (80 %: {low} to {high})", value=_seconds(found.step_seconds), low=low, high=high)


def _figures(found: TrainingEstimate) -> list[Figure]:
    held = found.memory

    def explained(part: str) -> Any:
        return lambda: found.explain(part)

    return [
        Figure(
            said("memory of the fullest device"),
            format_quantity(held.device_bytes, "bytes"),
            held.device_bytes,
            explained("nvidia-smi"),
        ),
        Figure(said("time of a step"), _interval(found), found.step_seconds, explained("step")),
        Figure("MFU", format_quantity(found.mfu, "fraction"), found.mfu, explained("MFU")),
        Figure(
            said("tokens/s in all"),
            format_quantity(found.tokens_per_second, "tokens/s"),
            found.tokens_per_second,
            explained("tokens/s in all"),
        ),
        Figure(
            said("tokens/s a device"),
            format_quantity(found.tokens_per_second_per_device, "tokens/s"),
            found.tokens_per_second_per_device,
            explained("tokens/s a device"),
        ),
    ]


_PYTHON = (
    "found.memory.device_bytes, found.step_seconds, found.mfu, found.tokens_per_second, "
    "found.tokens_per_second_per_device"
)
_SHORT = ", found.memory.device_bytes - found.memory.capacity_bytes"


def _assumed(settings: Settings, job: TrainingJob) -> list[str]:
    """What was left open, and what was taken."""
    p, taken = job.parallelism, []
    for name in ("tp", "pp", "ep"):
        if settings[name] == AUTO and not (name == "ep" and p.ep == 1):
            taken.append(f"{name}={getattr(p, name)}")
    notes = [said("{layout} taken: the fewest cuts with which it fits, if any.", layout=", ".join(taken))] * bool(taken)
    if settings["global_batch"] == AUTO:
        notes.append(said("global_batch={batch} taken: usual for a model of this size.", batch=job.batch))
    return [*notes, said("llmhw plan train searches all layouts; here one is computed.")]


def _layout(settings: Settings) -> Answer:
    model = chosen(settings)
    job, network = job_of(settings, model.spec)
    found = train(job)
    held = found.memory
    drawn, why = pipeline_of(found)
    figures = _figures(found)
    if not held.fits:
        short = held.device_bytes - held.capacity_bytes
        figures.append(Figure(said("short by"), format_quantity(short, "bytes"), short, lambda: _ways_out(held)))
    return Answer(
        verdict=found.verdict,
        good=None if held.fits_barely else held.fits,
        figures=figures,
        pictures=[*([drawn] if drawn else []), memory_by_stage(held), parts_of_time(found)],
        tables=[_sizes(job)],
        notes=[*_assumed(settings, job), *([why] if why else []), *found.warnings()],
        python=f"{job_call(job, model, network)}found = llmhw.train(job)\n{_PYTHON}{'' if held.fits else _SHORT}",
        command=job_command("train", job, model, network),
    )


def _ways_out(held: JobMemory) -> str:
    """What would make it fit: searched when it is asked for, as that takes longer than the answer."""
    return "\n".join(held.next_steps()) or held.way_out


def _sizes(job: TrainingJob) -> Table:
    p = job.parallelism
    rows = [
        (said("data-parallel ranks"), p.dp),
        (said("tensor-parallel ranks"), p.tp),
        (said("pipeline stages"), p.pp),
        (said("context-parallel ranks"), p.cp),
        (said("expert-parallel ranks"), p.ep),
        (said("micro-batches of a step"), job.micro_batches),
    ]
    return Table(said("Layout"), ("", said("number")), [(name, f"{value:,}") for name, value in rows if value > 1])


def _powers(first: int, last: int) -> tuple[tuple[str, str], ...]:
    return tuple((str(n), f"{n:,}") for i in range(first, last + 1) if (n := 2**i))


def _same(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, name) for name in names)


_ZERO = (
    ("0", "0: nothing is split"),
    ("1", "1: optimizer states"),
    ("2", "2: gradients too"),
    ("3", "3: weights too (FSDP)"),
)
_ORDERS = tuple(name for name in SCHEDULES if name != "interleaved")  # which 1f1b is where stages have chunks
_PRODUCTS = tuple(name for name in COMPUTE if name in ("bf16", "fp8", "fp8-block", "mxfp8", "nvfp4"))
SEQUENCES = _powers(9, 17)

LAYOUT = Calculator(
    name="layout",
    title="How does a training job lie on its devices?",
    controls=[
        Control("model", "model", "llama-3-70b", "Model"),
        Control("device", "device", "H100 SXM5 80GB", "Device"),
        Control("count", "choice", "64", "Devices", choices=COUNTS),
        Control("tp", "choice", AUTO, "Tensor-parallel ranks", choices=((AUTO, "as few as fit"), *_powers(0, 6))),
        Control("pp", "choice", AUTO, "Pipeline stages", choices=((AUTO, "as few as fit"), *_powers(0, 6))),
        Control("zero", "choice", "1", "ZeRO stage", choices=_ZERO),
        Control("recompute", "choice", "none", "Run again in the backward pass", choices=tuple(RECOMPUTE.items())),
        Control("micro_batch", "choice", "1", "Micro-batch, in sequences", choices=_powers(0, 5)),
        Control("seq_len", "choice", "4096", "Sequence length, in tokens", choices=SEQUENCES),
        Control("global_batch", "choice", AUTO, "Batch of a step, in sequences",
                choices=((AUTO, "as is usual for the model's size"), *_powers(3, 14)), more=True),
        Control("cp", "choice", "1", "Context-parallel ranks", choices=_powers(0, 5), more=True),
        Control("ep", "choice", AUTO, "Expert-parallel ranks", more=True,
                choices=((AUTO, "as many of a node as share them evenly"), *_powers(0, 7))),
        Control("vpp", "choice", "1", "Model chunks on each stage", choices=_same("12345689"), more=True),
        Control("schedule", "choice", "1f1b", "Order of the pipeline", choices=_same(_ORDERS), more=True),
        Control("precision", "choice", "bf16-mixed", "Formats of weights, gradients and optimizer",
                choices=_same(PRECISIONS), more=True),
        Control("compute", "choice", AUTO, "Format of matrix products",
                choices=((AUTO, "as the weights"), *_same(_PRODUCTS)), more=True),
        Control("network", "choice", AUTO, "Network between nodes", choices=NETWORKS, more=True),
    ],
    function=_layout,
)  # fmt: skip
