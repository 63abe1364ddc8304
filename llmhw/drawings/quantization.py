"""Drawings of fewer bits: what the bits of a format mean, how GPTQ and AWQ choose integers, what LoRA adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmhw.drawings.canvas import BLUE, GREEN, GREY, ORANGE, PINK, Canvas, drawing
from llmhw.memory import lora_params, lora_tensors
from llmhw.model import ModelSpec, model_of
from llmhw.precision import number_format, stored_weight_bytes
from llmhw.units import format_quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = ("fp32", "bf16", "fp16", "fp8 e4m3", "fp8 e5m2", "int8", "int4", "nf4", "mxfp4", "nvfp4")
_COLOURS = {"sign": PINK, "exponent": ORANGE, "mantissa": BLUE, "digits": BLUE, "index": GREEN}


def _bits(name: str) -> list[str]:
    """The colours of a format's bits; the catalog's fp8 is E4M3, and E5M2 has a bit more of exponent."""
    held = dict(number_format(name.split()[0]).value_bits)
    if name.endswith("e5m2"):
        held |= {"exponent": held["exponent"] + 1, "mantissa": held["mantissa"] - 1}
    return [_COLOURS[part] for part, count in held.items() for _ in range(count)]


def _shared(name: str) -> str:
    """What a group shares, as the catalog has it."""
    fmt = number_format(name)
    if fmt.group:
        return f"+ {fmt.scale_bits} for {fmt.group} = {fmt.bits_per_weight:g} bits"
    return "a scale a row" if fmt.row_bits else ""


@drawing
def number_bits() -> Figure:
    """The bits of ten formats, one square a bit, and the scale that a group shares."""
    paper = Canvas(36, 17.6)
    paper.legend({"sign": PINK, "exponent": ORANGE, "mantissa or digits": BLUE, "index": GREEN}, 6.6, 0.9)
    size = 0.78
    for row, name in enumerate(_SHOWN):
        y, bits = 2.6 + 1.5 * row, _bits(name)
        paper.text(0.4, y + size / 2, name, at="left", bold=True)
        paper.cells(6.6, y, size, [bits])
        shared = _shared(name.split()[0]) if "fp8" not in name else "a scale a matrix"
        told = f"{len(bits)} bits" if not shared else f"{len(bits)} bits, {shared}" if "=" not in shared else shared
        if name != "fp32":
            paper.text(6.6 + len(bits) * size + 0.7, y + size / 2, told, at="left", size=8.5)
        else:
            paper.text(35.7, y + size / 2, told, at="right", size=8.5)
    return paper.figure


@drawing
def error_compensation(columns: int = 8, at: int = 3) -> Figure:
    """GPTQ on one row of a matrix: columns done, the one that is rounded, and those that take its error up."""
    paper = Canvas(36, 12)
    paper.text(0.4, 0.9, "GPTQ: round a column, correct those to its right", at="left", bold=True)
    wide = 32.0 / columns
    for i in range(columns):
        colour, fill = (GREY, 0.3) if i < at else (ORANGE, 0.45) if i == at else (BLUE, 0.2)
        paper.box(2 + i * wide, 5.4, wide - 0.4, 2.6, f"w{i + 1}", colour, fill=fill)
    middle = 2 + at * wide + (wide - 0.4) / 2
    for i in range(at + 1, columns):
        paper.arrow((middle, 5.3), (2 + i * wide + (wide - 0.4) / 2, 5.3), colour=ORANGE, bend=-0.32, width=0.8)
    paper.text(middle, 2.7, "error", colour=ORANGE, size=8.5)
    paper.bracket(2, 2 + at * wide - 0.4, 9.2, "integers, final", above=False)
    paper.bracket(2 + (at + 1) * wide, 2 + columns * wide - 0.4, 9.2, "still free: moved, rounded later", above=False)
    return paper.figure


@drawing
def activation_scales(channels: int = 8, loud: int = 2) -> Figure:
    """AWQ on one matrix: the channel with large activations gets a finer grid, by a scale that the input gives back."""
    paper = Canvas(36, 13.4)
    paper.text(0.4, 0.9, "AWQ: a channel that is loud gets finer steps", at="left", bold=True)
    step = 3.2
    for i in range(channels):
        strong = i == loud
        x = 9.4 + i * step
        high = 3.2 if strong else 0.9 + 0.15 * (i % 3)
        paper.box(x, 5.6 - high, step - 0.6, high, colour=ORANGE if strong else GREY, fill=0.4)
        paper.box(x, 7.6, step - 0.6, 2.2, "w·c" if strong else "w", ORANGE if strong else BLUE, fill=0.25, bold=strong)
        paper.text(x + step / 2 - 0.3, 6.6, "÷ c" if strong else "", size=8.5)
    paper.text(0.4, 4.4, "activations", at="left", size=8.5)
    paper.text(0.4, 8.7, "weights", at="left", size=8.5)
    paper.text(0.4, 11.6, "(x ÷ c)(w·c) = x·w: the product stays, the loud\nchannel's rounding error shrinks by c",
               at="left", size=8)  # fmt: skip
    return paper.figure


@drawing
def adapters(
    spec: ModelSpec | str = "llama-3-8b", rank: int = 16, module: str = "q_proj", base_format: str = "nf4-dq"
) -> Figure:
    """LoRA beside one matrix: W frozen, B times A trained, with parameters and bytes.

    base_format   of the frozen matrix
    """
    added = [t for t, _ in lora_tensors(model_of(spec), rank=rank, targets=[module])]
    inputs, outputs = added[0].shape[1], added[1].shape[0]
    count = lora_params(rank=rank, in_features=inputs, out_features=outputs)
    fmt = number_format(base_format)
    frozen = stored_weight_bytes(
        elements=inputs * outputs, bits_per_weight=fmt.stored_bits(outputs, inputs) / inputs / outputs
    )
    paper = Canvas(36, 17.2)
    paper.text(0.4, 0.9, f"{module} of {model_of(spec).name}, rank {rank}", at="left", bold=True)
    paper.box(1.5, 3.4, 10, 10, f"W frozen\n{outputs:,} × {inputs:,}\n{fmt.name}", GREY)
    paper.text(13.6, 8.4, "+", bold=True, size=14)
    paper.box(16.0, 3.4, 1.6, 10, colour=GREEN)
    paper.text(16.8, 2.5, f"B {outputs:,} × {rank}", size=8.5)
    paper.text(19.2, 8.4, "×", bold=True, size=12)
    paper.box(21.0, 7.6, 10, 1.6, colour=GREEN)
    paper.text(26.0, 6.6, f"A {rank} × {inputs:,}", size=8.5)
    paper.text(26.0, 10.4, f"{count:,} trained", size=8.5)
    paper.text(26.0, 11.9, f"1 of {inputs * outputs / count:,.0f} parameters", size=8.5)
    paper.text(6.5, 14.6, f"{format_quantity(frozen, 'bytes')} held", size=8.5)
    states = 4 * count  # fp32: adapter, gradient, and two of AdamW
    paper.text(6.5, 16.0, "no gradient, no optimizer", size=8.5)
    paper.text(24.0, 14.6, f"16 bytes each: {format_quantity(4 * states, 'bytes')}", size=8.5)
    paper.text(24.0, 16.0, "adapter, gradient, two averages in FP32", size=8.5)
    return paper.figure
