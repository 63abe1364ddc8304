"""What a number format is and costs: the bits of a value, what a group shares, and what a model weighs in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmhw.formula import Table, Term, term
from llmhw.language import said
from llmhw.live import charts
from llmhw.live.base import Answer, Calculator, Control, Figure, Picture, Settings
from llmhw.live.choices import MODEL
from llmhw.live.models import chosen
from llmhw.live.picture import Drawing
from llmhw.live.typed import command
from llmhw.memory import weights
from llmhw.precision import (
    NumberFormat,
    grouped_bits_per_weight,
    mean_bits_per_weight,
    model_bits_per_weight,
    number_format,
    number_formats,
)
from llmhw.units import format_quantity

_SERIES = {"sign": 3, "exponent": 1, "mantissa": 0, "digits": 0, "index": 2}


def scales_term(fmt: NumberFormat) -> Term:
    """Bits of a weight with those of its group's scales, as `bits_per_weight` counts them."""
    group = fmt.group**2 if fmt.layout == "tile" else fmt.group or 1
    shared: dict[str, Any] = {
        "scale_bits": fmt.scale_bits if fmt.group else 0,
        "zero_bits": fmt.zero_bits if fmt.group else 0,
    }
    outer: dict[str, Any] = {"outer_group": fmt.outer_group or 1, "outer_scale_bits": fmt.outer_scale_bits}
    return term(grouped_bits_per_weight, "a weight with its scales", bits=fmt.bits, group=group, **shared, **outer)


def _bits_picture(fmt: NumberFormat) -> Picture | None:
    """One square a bit of a value."""
    bits = [name for name, count in fmt.value_bits for _ in range(count)]
    if not bits:
        return None
    across = 16 if len(bits) <= 16 else 32
    size, rows = charts.WIDTH / across, -(-len(bits) // across)
    legend = [(f"{said(name)}: {count}", _SERIES[name]) for name, count in fmt.value_bits]
    drawing = Drawing(charts.WIDTH, rows * (size + 4) + charts.legend_height(len(legend)) + 4)
    for i, name in enumerate(bits):
        drawing.box(i % across * size, i // across * (size + 4) + 1, size - 2, size - 2, _SERIES[name])
    charts.legend(drawing, rows * (size + 4), legend)
    words = said("Bits of one value, from the first: {bits}", bits=", ".join(label for label, _ in legend))
    return Picture(drawing.svg(words), said("The bits of one value of {name}", name=fmt.name), words)


def _facts(fmt: NumberFormat) -> Iterable[tuple[str, str]]:
    """What the catalog knows of a format, as text."""
    yield said("bits of the value alone"), f"{fmt.bits:g}"
    if fmt.group:
        group = f"{fmt.group} x {fmt.group}" if fmt.layout == "tile" else f"{fmt.group}"
        yield said("weights that share a scale"), group
        yield said("bits of that scale"), f"{fmt.scale_bits}"
        if fmt.zero_bits:
            yield said("bits of a zero point"), f"{fmt.zero_bits}"
    for name, bits in (("row", fmt.row_bits), ("column", fmt.column_bits), ("matrix", fmt.tensor_bits)):
        if bits:
            yield said("further bits for each {what}", what=said(name)), f"{bits}"
    if floats := fmt.float_terms():
        largest, step = (t.value for t in floats)
        yield said("largest value"), f"{largest:.4g}"
        yield said("step at 1"), f"{step:.4g}"
    yield said("multiplied in"), fmt.compute


def _formats(settings: Settings) -> Answer:
    fmt, own = number_format(settings["format"]), chosen(settings)
    bits, held = fmt.bits_per_weight, weights(own.spec, fmt.name)
    total, mean = float(held.total), model_bits_per_weight(own.spec, fmt.name)
    size = format_quantity(total, "bytes")
    over = term(mean_bits_per_weight, "a weight", weight_bytes=total, weights=own.spec.parameters.text)
    figures = [
        Figure(said("bits of a weight, with scales"), f"{bits:g}", bits, scales_term(fmt).explain),
        Figure(said("bits of a weight, mean of the model"), f"{mean:.4g}", mean, over.explain),
        Figure(said("weights of the model"), size, total, held.explain),
    ]
    picture = _bits_picture(fmt)
    given = {"model": own.spec.name, "name": fmt.name}
    return Answer(
        verdict=said("{model} in {name}: {size}, {bits} bits of a weight", size=size, bits=f"{mean:.4g}", **given),
        figures=figures,
        python=_python(own.python, fmt.name),
        command="\n".join(
            (
                command("formats", fmt.name, options={}),
                command("model", own.word, options={"weights": fmt.name}),
            )
        ),
        tables=[Table(said("What {name} stores", name=fmt.name), (), [*_facts(fmt)])],
        pictures=[picture] if picture else [],
        notes=[f"{fmt.source}", *([fmt.note] if fmt.note else [])],
    )


def _python(model: str, name: str) -> str:
    made = f"spec, name = {model}, {name!r}"
    values = (
        "llmhw.number_format(name).bits_per_weight",
        "model_bits_per_weight(spec, name)",
        "float(llmhw.weights(spec, name).total)",
    )
    lines = "\n".join(f"    {value}," for value in values)
    return f"import llmhw\nfrom llmhw.precision import model_bits_per_weight\n\n{made}\n(\n{lines}\n)"


FORMATS = Calculator(
    name="formats",
    title="What does a number format cost?",
    controls=[
        Control(name="format", kind="choice", default="bf16", label="Number format",
                choices=[(name, name) for name in number_formats()]),
        MODEL,
    ],
    function=_formats,
)  # fmt: skip
