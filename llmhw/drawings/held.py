"""Drawings of memory at rest: the bytes of one parameter through a training step, the KV cache of one token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmhw.drawings.canvas import BLUE, GREEN, GREY, LIGHT, ORANGE, PINK, Canvas, drawing
from llmhw.memory import kv_cache_bytes_per_token, training_states
from llmhw.model import ModelSpec, model_of
from llmhw.units import LLMHWError, format_quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"weights": BLUE, "gradients": ORANGE, "master copy": LIGHT, "momentum": GREEN, "variance": PINK}

# What a step of AdamW does in this order: from what it reads to what it writes.
_STEPS = (
    ("1 backward", ("weights",), ("gradients",)),
    ("2 averages", ("gradients",), ("momentum", "variance")),
    ("3 update", ("momentum", "variance"), ("master copy",)),
    ("4 rounding", ("master copy",), ("weights",)),
)


def parameter_bytes(spec: ModelSpec, optimizer: str, precision: str) -> dict[str, int]:
    """Whole bytes that training keeps of one parameter, by what they hold; what is less than a byte is left out.

    >>> parameter_bytes(model_of("llama-2-7b"), "adamw", "bf16-mixed")
    {'weights': 2, 'gradients': 2, 'master copy': 4, 'momentum': 4, 'variance': 4}
    """
    count = spec.parameters.total
    shares = {
        part.name: round(float(part.value) / count)
        for part in training_states(spec, optimizer=optimizer, precision=precision)
    }
    return {name: share for name, share in shares.items() if share}


@drawing
def parameter(spec: ModelSpec | str = "llama-2-7b", precision: str = "bf16-mixed") -> Figure:
    """One parameter under AdamW, a square a byte, and the order in which a step writes them."""
    held = parameter_bytes(model_of(spec), "adamw", precision)
    total = sum(held.values())
    size, gap = min(1.62, 26.0 / total), 0.7
    paper = Canvas(36, 14.2)
    paper.text(0.4, 0.9, f"one parameter in training: {total} bytes", at="left", bold=True)
    x, middles = 0.4, {}
    for name, count in held.items():
        paper.cells(x, 4.2, size, [[_COLOURS.get(name, GREY)] * count])
        middles[name] = x + count * size / 2
        label = name.replace("gradients", "gradi-\nent").replace("weights", "weight").replace(" copy", "\ncopy")
        paper.text(middles[name], 2.8, label, size=8.5)
        paper.text(middles[name], 5.0 + size, f"{count} B", bold=True)
        x += count * size + gap
    low = 6.0 + size
    for level, (name, starts, ends) in enumerate(_STEPS):
        if {*starts, *ends} <= held.keys():
            y = low + 1.0 + 1.3 * level
            out, into = ([middles[end] + aside for end in kind] for kind, aside in ((starts, 0.6), (ends, -0.6)))
            for port in out:
                paper.line((port, low), (port, y), colour=GREY)
            paper.line((min(out + into), y), (max(out + into), y), colour=GREY)
            for port in into:
                paper.arrow((port, y), (port, low - 0.2), colour=GREY)
            paper.text(29.6, y, name, at="left", size=8.5)
    return paper.figure


@drawing
def cached_token(spec: ModelSpec | str = "llama-3-8b") -> Figure:
    """What one token leaves in the KV cache of a layer, head by head, and of all layers.

    spec   a model whose layers all keep keys and values of every token; for others `LLMHWError`
    """
    found = model_of(spec)
    attention, each = found.layers[0].attention, kv_cache_bytes_per_token(found)
    if attention is None or attention.kind != "full" or len(found.attention_summary) != 1:
        raise LLMHWError(
            f"spec={found.name} has layers of several kinds or without K and V; give one such as llama-3-8b"
        )
    groups, heads, d = attention.kv_heads, attention.heads, attention.head_dim
    paper = Canvas(36, 17.4)
    paper.text(0.4, 0.9, f"one token in {found.name}", at="left", bold=True)
    size = min(2.4, 26.0 / groups)
    left = 9.0
    for row, (name, colour) in enumerate((("keys K", GREEN), ("values V", ORANGE))):
        y = 6.2 + 2.4 * row
        paper.text(0.4, y + 0.8, name, at="left", bold=True)
        for i in range(groups):
            paper.box(left + i * size, y, size - 0.4, 1.6, colour=colour, fill=0.35)
    paper.text(0.4, 3.6, "queries", at="left", bold=True)
    wide = (size - 0.4) / (heads // groups)
    for i in range(heads):
        x = left + i // (heads // groups) * size + i % (heads // groups) * wide
        paper.box(x, 2.8, wide, 1.6, colour=BLUE, fill=0.15)
    for i in range(groups):
        middle = left + i * size + (size - 0.4) / 2
        paper.line((middle, 4.5), (middle, 6.1), colour=GREY)
    paper.text(left + groups * size, 1.9, f"{heads} heads, not kept", at="right", size=8.5)
    layer_bytes = format_quantity(each / found.num_layers, "bytes")
    number = each / found.num_layers / (2 * groups * d)
    paper.text(0.4, 12.3, f"kept: 2 × {groups} heads × {d} numbers × {number:g} bytes", at="left")
    paper.text(35.6, 12.3, f"= {layer_bytes} a layer", at="right")
    paper.text(0.4, 14.1, f"× {found.num_layers} layers", at="left")
    paper.text(35.6, 14.1, f"= {format_quantity(each, 'bytes')} a token", at="right", bold=True)
    paper.text(0.4, 15.9, f"× {4096:,} tokens", at="left")
    paper.text(35.6, 15.9, f"= {format_quantity(4096 * each, 'bytes')} a sequence", at="right", bold=True)
    return paper.figure
