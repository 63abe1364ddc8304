"""Does it fit: what inference, fine-tuning or training of a model needs of a card, part by part, and what it offers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import llmhw
from llmhw.fit import Fit, FitTable
from llmhw.language import said
from llmhw.live import charts
from llmhw.live.base import Answer, Calculator, Control, Figure, Settings
from llmhw.live.choices import CACHES, COUNTS, DEVICE, MODEL, WEIGHTS
from llmhw.live.models import Chosen, chosen, device_of
from llmhw.live.typed import call, command
from llmhw.model import ModelSpec
from llmhw.units import format_quantity, format_range

_TASKS = (
    ("inference", "Inference"), ("qlora", "Fine-tuning, QLoRA"), ("lora", "Fine-tuning, LoRA"),
    ("full", "Full training, AdamW"), ("full-8bit", "Full training, 8-bit AdamW"),
)  # fmt: skip


def _asked(settings: Settings, spec: ModelSpec) -> dict[str, Any]:
    """The question as `llmhw.fit` is asked it; what has no effect on the use is left out."""
    task = settings["task"]
    found: dict[str, Any] = {"devices": int(settings["devices"]), "batch": settings["batch"]}
    found["seq_len"] = min(settings["seq_len"], spec.max_seq_len or settings["seq_len"])
    found["uses"] = [task]
    if task == "inference":
        found |= {"formats": [settings["format"]], "kv_format": settings["kv"] or None}
    elif task in ("lora", "qlora"):
        found["rank"] = settings["rank"]
    return found


def _verdict(row: Fit) -> str:
    room, needed = format_range((row.usable_bytes, row.needed_bytes), "bytes")
    given = {"needed": needed, "room": room, "error": format_quantity(row.held.error, "fraction")}
    if row.held.refusal:
        return said("Does not start, though it fits: {needed} of {room} on each device", **given)
    if not row.fits:
        short = format_quantity(row.needed_bytes - row.usable_bytes, "bytes")
        return said("Does not fit: short by {short} on each device ({needed} of {room})", short=short, **given)
    if row.fits_barely:
        return said("Fits barely: {needed} of {room} on each device, within the error of {error}", **given)
    return said("Fits: {needed} of {room} on each device", **given)


def _most(spec: Any, device: Any, asked: dict[str, Any], name: str, most: int) -> str:
    """What the largest batch or length needs, and one more, which is too much unless the model has no longer one."""
    lines = []
    for number in (most, most + 1):
        try:
            row = llmhw.fit(spec, device, **{**asked, name: number}).rows[0]
        except llmhw.LLMHWError as error:  # longer than the model was made for
            lines.append(str(error))
            continue
        lines.append(f"{name}={number:,}: {_verdict(row)}")
        if number == most:
            lines.append(row.estimate.explain())
    return "\n\n".join(lines)


def _figures(row: Fit, explain_most: Callable[[str, int], str]) -> list[Figure]:
    room, needed = format_range((row.usable_bytes, row.needed_bytes), "bytes")
    longest, most = row.max_seq_len, row.max_sequences

    def largest(name: str, number: int) -> Callable[[], str] | None:
        return partial(explain_most, name, number) if number else row.estimate.explain

    return [
        Figure(said("needed"), needed, row.needed_bytes, row.estimate.explain),
        Figure(said("offered"), room, row.usable_bytes, row.held.room),
        Figure(said("longest sequence"), said("{n} tokens", n=f"{longest:,}") if longest else said("none"), longest,
               largest("seq_len", longest)),
        Figure(said("most sequences at a time"), f"{most:,}" if most else said("none"), most, largest("batch", most)),
    ]  # fmt: skip


def _notes(table: FitTable, row: Fit, settings: Settings) -> list[str]:
    error = format_quantity(row.held.error, "fraction")
    found = [said("Nine of ten measured needs are within {error} of such a prediction.", error=error)]
    if table.seq_len < settings["seq_len"]:
        found.insert(0, said("{model} was made for {n} tokens at most: counted with these.", model=table.model,
                             n=f"{table.seq_len:,}"))  # fmt: skip
    if row.held.job is not None:
        found.append(said("With full recompute, the least that training can do with, in plain PyTorch."))
    if not row.fits:
        found.append(said("What was tried: {way}", way=row.way or row.way_out))
    if engine := "".join(set(table.engine.values())):
        found.append(
            said("Counted as {engine} plans its memory, with its cache in {kv}.", engine=engine, kv=table.kv_format)
        )
    return [*found, *table.towers]


def _fit(settings: Settings) -> Answer:
    own, device = chosen(settings), device_of(settings)
    asked = _asked(settings, own.spec)
    table = llmhw.fit(own.spec, device, **asked)
    row = table.rows[0]
    parts = {part.name: float(part.value) for part in row.estimate}
    # nvidia-smi shows a little that is no tensor
    rest = row.needed_bytes - sum(parts.values())
    if rest > 1e-6 * row.needed_bytes:
        parts["context and fragments"] = rest
    show = partial(format_quantity, unit="bytes")
    caption = said("What one device holds, and what it offers")
    bar = charts.bars({device.name: parts}, show, caption, room=(said("offered"), row.usable_bytes), names=said)
    return Answer(
        verdict=_verdict(row),
        good=row.fits,
        figures=_figures(row, partial(_most, own.spec, device, asked)),
        python=_python(own, device.name, asked),
        command=_command(own, device.name, asked),
        pictures=[bar],
        notes=_notes(table, row, settings),
    )


def _python(own: Chosen, device: str, asked: dict[str, Any]) -> str:
    made = call("llmhw.fit", own.python, device, **asked)
    values = ", ".join(f"row.{name}" for name in ("needed_bytes", "usable_bytes", "max_seq_len", "max_sequences"))
    return f"import llmhw\n\nrow = {made}.rows[0]\n{values}"


def _command(own: Chosen, device: str, asked: dict[str, Any]) -> str:
    options = {"gpu": device, "gpus": asked["devices"], "use": asked["uses"][0]}
    options |= {name: asked[name] for name in ("batch", "seq_len")} | {"rank": asked.get("rank")}
    if "formats" in asked:
        options |= {"weights": asked["formats"][0], "kv": asked["kv_format"]}
    return command("fit", own.word, options=options)


_TRAINED = tuple(name for name, _ in _TASKS if name != "inference")

FIT = Calculator(
    name="fit",
    title="Does it fit?",
    controls=[
        Control(name="task", kind="choice", default="inference", label="What for", choices=_TASKS),
        MODEL,
        DEVICE,
        Control(name="devices", kind="choice", default="1", label="How many, sharing the model", choices=COUNTS),
        Control(name="format", kind="choice", default="bf16", label="Format of the weights", choices=WEIGHTS,
                when={"task": ("inference",)}),
        Control(name="seq_len", kind="number", default=4096, label="Tokens of a sequence", least=128, most=2**20,
                logarithmic=True),
        Control(name="batch", kind="number", default=1, label="Sequences at a time", least=1, most=1024,
                logarithmic=True),
        Control(name="kv", kind="choice", default="", label="Format of the KV cache", choices=CACHES, more=True,
                when={"task": ("inference",)}),
        Control(name="rank", kind="number", default=16, label="Rank of the adapters", least=1, most=256,
                logarithmic=True, more=True, when={"task": ("lora", "qlora")}),
    ],
    function=_fit,
)  # fmt: skip
