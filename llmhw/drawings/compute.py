"""Drawings of work and its rate: a matrix product, its backward pass, the two rates of a card, bounds of a time."""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING

import llmhw
from llmhw.drawings.canvas import BLUE, GREEN, GREY, LIGHT, ORANGE, PINK, Canvas, drawing
from llmhw.flops import matmul_flops
from llmhw.units import format_quantity as show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BF16 = 2  # bytes


@drawing
def matmul(tokens: int = 8192, inputs: int = 4096, outputs: int = 14336) -> Figure:
    """A matrix product: one number of the result is one row of the left by one column of the right."""
    paper = Canvas(36, 15.2)
    paper.box(12.5, 1.4, 11, 4.6, "", ORANGE)
    paper.box(4, 6.8, 7, 6, "", BLUE)
    paper.box(12.5, 6.8, 11, 6, "", GREEN)
    paper.box(18, 1.4, 0.9, 4.6, "", ORANGE, fill=0.8)
    paper.box(4, 9.2, 7, 0.9, "", BLUE, fill=0.8)
    paper.box(18, 9.2, 0.9, 0.9, "", GREEN, fill=0.9)
    paper.text(15.1, 3.7, "W", bold=True, size=11)
    paper.text(7.5, 11.5, "X", bold=True, size=11)
    paper.text(15.6, 11.5, "Y = X W", bold=True, size=11)
    paper.text(18, 0.7, f"n = {outputs:,}", size=8.5)
    paper.text(11.9, 3.7, f"k = {inputs:,}", at="right", size=8.5)
    paper.text(7.5, 6.1, f"k = {inputs:,}", size=8.5)
    paper.text(2.9, 9.8, f"t = {tokens:,}", turned=True, size=8.5)
    paper.arrow((24.6, 9.65), (19.1, 9.65))
    paper.text(24.9, 8.6, "one number of Y:", at="left", size=8.5)
    paper.text(24.9, 9.9, f"{inputs:,} multiplications", at="left", size=8.5)
    paper.text(24.9, 11.2, f"{inputs:,} additions", at="left", size=8.5)
    flops = matmul_flops(tokens=tokens, weights=inputs * outputs)
    paper.text(18, 14.2, f"t n numbers of 2 k FLOPs each: 2 t k n = {show(flops, 'FLOP')}", bold=True)
    return paper.figure


@drawing
def backward_products(tokens: int = 8192, inputs: int = 4096, outputs: int = 14336) -> Figure:
    """The product of the forward pass and the two that it causes in the backward pass, all of one size."""
    looks = {"X": (2.6, 3.2, BLUE), "W": (3.6, 2.6, ORANGE), "Y": (3.6, 3.2, GREEN)}
    looks |= {"Wᵀ": (2.6, 3.6, ORANGE), "Xᵀ": (3.2, 2.6, BLUE)}
    looks |= {f"∂{name}": looks[name] for name in "XWY"}
    rows = {
        "forward": ("X", "W", "Y", "the output"),
        "backward, 1": ("∂Y", "Wᵀ", "∂X", "for the layer below"),
        "backward, 2": ("Xᵀ", "∂Y", "∂W", "for the optimizer"),
    }
    flops = show(matmul_flops(tokens=tokens, weights=inputs * outputs), "FLOP")
    paper = Canvas(37, 15.6)
    for i, (name, (*boxes, use)) in enumerate(rows.items()):
        y = 2.6 + 4.5 * i
        paper.text(0.3, y, name, at="left", bold=True)
        for x, box, sign in zip((9.3, 15.2, 21.1), boxes, ("×", "=", ""), strict=True):
            wide, high, colour = looks[box]
            paper.box(
                x - wide / 2,
                y - high / 2,
                wide,
                high,
                box,
                colour,
                dashed="∂" in box,
                fill=0.15 if "∂" in box else 0.35,
            )
            paper.text(x + 2.95, y, sign, size=11)
        paper.text(24.4, y - 0.7, f"2 t k n = {flops}", at="left", size=8.5)
        paper.text(24.4, y + 0.7, use, at="left", size=8.5)
    paper.text(0.3, 14.9, "dashed: a gradient of the loss; t tokens, W of k by n", at="left", size=8.5)
    return paper.figure


@drawing
def two_rates(device: str = "h100 sxm") -> Figure:
    """A card as two rates: bytes that arrive from its memory, and arithmetic on what has arrived."""
    card = llmhw.accelerator(device)
    ridge = card.ridge("bf16")
    paper = Canvas(36, 11.4)
    paper.box(0.5, 2.0, 9.5, 5.6, "", BLUE, round=True)
    paper.text(5.25, 3.6, "memory (HBM)", bold=True)
    paper.text(5.25, 5.0, show(card.memory_bytes, "bytes"))
    paper.text(5.25, 6.3, "weights, KV cache", size=8.5)
    paper.box(24.5, 2.0, 11, 5.6, "", ORANGE, round=True)
    paper.text(30, 3.6, "tensor cores", bold=True)
    paper.text(30, 5.0, f"P = {show(card.peak('bf16'), 'FLOP/s')}")
    paper.text(30, 6.3, "hold a tile at a time", size=8.5)
    paper.arrow((10.2, 4.8), (24.3, 4.8), width=3, colour=GREY)
    paper.text(17.25, 3.7, f"W = {show(card.memory_bandwidth_bytes_per_second, 'bytes/s')}")
    paper.text(17.25, 6.0, "again in every step", size=8.5)
    paper.text(18, 0.8, card.name, bold=True)
    paper.text(18, 9.0, f"while 1 byte arrives, {ridge:.0f} FLOPs can be done: the ridge point P / W")
    paper.text(18, 10.4, f"a bf16 weight is {_BF16} bytes: it must serve {ridge * _BF16 / 2:.0f} tokens per reading")
    return paper.figure


def intensity_rows(model: str = "llama-3-70b", width: int = 8192) -> dict[str, float]:
    """FLOP per byte of four kinds of work in bf16: a dot product, square products by tokens, attention of decode."""
    spec = llmhw.model(model)
    found = {"dot product": matmul_flops(tokens=1, weights=width) / (2 * width * _BF16)}
    for tokens in (1, 64, 2048):
        moved = _BF16 * (width * width + 2 * tokens * width)
        name = f"matrix, {tokens:,} token{'s' * (tokens > 1)}"
        found[name] = matmul_flops(tokens=tokens, weights=width * width) / moved
    past = 2047
    core = llmhw.forward_flops(spec, batch=1, seq_len=1, past=past, causal=True)["attention_core"]
    found["attention, decode"] = core / llmhw.kv_cache(spec, batch=1, seq_len=past + 1).total
    return found


@drawing
def intensities(model: str = "llama-3-70b", device: str = "h100 sxm") -> Figure:
    """How often each byte that is read is used, on a logarithmic scale, beside the ridge point of a card."""
    card, rows = llmhw.accelerator(device), intensity_rows(model)
    ridge = card.ridge("bf16")
    start, end, least, most = 16.0, 33.0, 0.25, 4096.0

    def place(value: float) -> float:
        return start + (end - start) * log2(value / least) / log2(most / least)

    pictures: dict[str, list[tuple[float, float, float, float, str]]] = {
        "dot product": [(10.8, 0.5, 4.0, 0.35, BLUE), (10.8, 1.2, 4.0, 0.35, ORANGE)],
        "attention, decode": [(10.8, 0.35, 4.0, 0.35, BLUE), (10.8, 0.9, 4.0, 1.0, PINK)],
    }
    paper = Canvas(36, 5.8 + 2.5 * len(rows))
    paper.text(12.8, 0.8, "read", bold=True)
    paper.text((start + end) / 2, 0.8, "FLOP per byte", bold=True)
    for i, (name, value) in enumerate(rows.items()):
        y = 1.9 + 2.5 * i
        paper.text(0.3, y + 1, name, at="left")
        lines = {"matrix, 1 token": 0.25, "matrix, 64 tokens": 0.6, "matrix, 2,048 tokens": 1.9}.get(name, 0)
        drawn = pictures.get(name, [(10.8, 0.05, 1.9, lines, BLUE), (12.9, 0.05, 1.9, 1.9, ORANGE)])
        for x, down, wide, high, colour in drawn:
            paper.box(x, y + down, wide, high, "", colour, fill=0.5)
        busy = value > ridge
        paper.box(start, y + 0.5, place(value) - start, 1.0, "", GREEN if busy else GREY, fill=0.4)
        text = f"{value:.1f}" if value < 10 else f"{value:,.0f}"
        inside = place(value) + 1.4 > end
        paper.text(place(value) + (-0.3 if inside else 0.3), y + 1, text, at="right" if inside else "left")
    bottom = 2.2 + 2.5 * len(rows)
    paper.line((place(ridge), 1.6), (place(ridge), bottom), dashed=True)
    paper.text(end, bottom + 0.6, f"dashed: ridge point of {card.name}, {ridge:.0f}", at="right", size=8.5)
    paper.legend({"tokens, queries": BLUE, "weights": ORANGE, "keys, values": PINK, "arithmetic binds": GREEN}, 0.4,
                 bottom + 2.4)  # fmt: skip
    return paper.figure


@drawing
def bounds(tokens: int = 256, inputs: int = 4096, outputs: int = 14336, device: str = "h100 sxm") -> Figure:
    """The two times of a product: at best one hides behind the other, at worst they follow each other."""
    card = llmhw.accelerator(device)
    reading = _BF16 * (inputs * outputs + tokens * (inputs + outputs)) / card.memory_bandwidth_bytes_per_second
    working = matmul_flops(tokens=tokens, weights=inputs * outputs) / card.peak("bf16")
    scale = 19 / (reading + working)
    longest = max(reading, working)
    paper = Canvas(37, 10.6)
    paper.text(0.3, 2.6, "at best: at once", at="left")
    paper.box(10.5, 1.1, reading * scale, 1.2, f"reading {reading * 1e6:.0f} µs", BLUE)
    paper.box(10.5, 2.6, working * scale, 1.2, f"arithmetic {working * 1e6:.0f} µs", ORANGE)
    paper.text(30.2, 2.4, f"max: {longest * 1e6:.0f} µs", at="left", size=8.5)
    paper.text(0.3, 6.0, "at worst: in turn", at="left")
    paper.box(10.5, 5.4, reading * scale, 1.2, "reading", BLUE)
    paper.box(10.5 + reading * scale, 5.4, working * scale, 1.2, "arithmetic", ORANGE)
    paper.text(30.2, 6.0, f"sum: {(reading + working) * 1e6:.0f} µs", at="left", size=8.5)
    paper.line((10.5 + longest * scale, 0.8), (10.5 + longest * scale, 7.2), dashed=True)
    paper.text(18.5, 8.2, f"the sum is {(reading + working) / longest:.2f} times the max: never more than 2")
    paper.text(18.5, 9.7, f"{tokens} tokens by {inputs:,} × {outputs:,} weights, bf16, {card.name}", size=8.5)
    return paper.figure


@drawing
def busy(model: float = 0.511, hardware: float = 0.679, peak: str = "312 TFLOP/s") -> Figure:
    """A card's time as shares of its peak: FLOPs of the model, FLOPs done again, and the rest.

    model      MFU
    hardware   HFU, at least the MFU
    """
    paper = Canvas(36, 8.6)
    start, wide, y = 0.8, 34.4, 3.0
    shares = {"model": (0.0, model, GREEN), "again": (model, hardware, LIGHT), "waiting": (hardware, 1.0, GREY)}
    for name, (low, high, colour) in shares.items():
        if high - low > 0.01:
            paper.box(start + low * wide, y, (high - low) * wide, 2.0, name if high - low > 0.12 else "", colour,
                      hatch="///" if name == "again" else "", fill=0.15 if name == "waiting" else 0.4)  # fmt: skip
    paper.bracket(start, start + model * wide, 2.4, f"MFU {model:.1%}")
    paper.bracket(start, start + hardware * wide, 5.6, f"HFU {hardware:.1%}", above=False)
    paper.text(start + wide, 0.8, f"all of {peak}", at="right", size=8.5)
    paper.text(start, 7.8, "again: recomputed; waiting: for memory, messages, the host", at="left", size=8.5)
    return paper.figure
