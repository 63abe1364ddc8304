"""Drawings of a transformer layer: its weights, to scale, and where a token's vector passes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmhw.drawings.canvas import BLUE, GREEN, GREY, ORANGE, PINK, Canvas, drawing
from llmhw.model import ModelSpec, Tensor, model_of
from llmhw.plot import INK
from llmhw.units import LLMHWError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SYMBOLS = {
    "q": r"$h \times a\,d$",
    "k": r"$h \times a_{kv}\,d$",
    "v": r"$h \times a_{kv}\,d$",
    "o": r"$a\,d \times h$",
    "gate": r"$h \times f$",
    "up": r"$h \times f$",
    "down": r"$f \times h$",
}
_COLOURS = {"q": BLUE, "k": ORANGE, "v": GREEN, "o": PINK, "gate": BLUE, "up": BLUE, "down": PINK}


def _matrices(spec: ModelSpec) -> dict[str, Tensor]:
    """The weight matrices of the first layer by their part."""
    found = {tensor.part: tensor for tensor in spec.layers[0].tensors if tensor.matmul and tensor.experts == 1}
    if not found.keys() >= _SYMBOLS.keys():
        raise LLMHWError(
            f"spec={spec.name} has no layer of q, k, v, o, gate, up and down to draw; "
            f"give a dense model with grouped queries and a gated MLP, such as llama-3-8b"
        )
    return found


def _matrix(paper: Canvas, part: str, tensor: Tensor, middle: float, top: float, scale: float) -> float:
    """One matrix, rows and columns to scale, with its name above and its shape below; returns its bottom."""
    rows, columns = (tensor.into, tensor.out) if part != "down" else (tensor.out, tensor.into)
    wide, tall = columns * scale, rows * scale
    paper.box(middle - wide / 2, top, wide, tall, colour=_COLOURS[part], fill=0.3)
    paper.text(middle, top - 0.8, part, bold=True)
    paper.text(middle, top + tall + 0.9, _SYMBOLS[part])
    paper.text(middle, top + tall + 2.1, f"{tensor.into:,} × {tensor.out:,}", size=8.5)
    return top + tall


def _block(paper: Canvas, name: str, top: float, bottom: float) -> None:
    """A frame beside the residual stream: the vector goes in by a norm and comes back by a sum."""
    paper.box(3.6, top, 32.0, bottom - top, colour=INK, fill=0, dashed=True)
    paper.text(4.4, top + 1.0, name, at="left", bold=True)
    paper.arrow((1.4, top + 3.0), (4.4, top + 3.0), colour=GREY)
    paper.box(4.4, top + 2.4, 4.0, 1.3, "norm, $h$", GREY, size=8.5)
    paper.arrow((3.6, bottom - 0.8), (1.4, bottom - 0.8), colour=GREY)
    paper.text(2.3, bottom - 1.6, "+", bold=True)


@drawing
def layer(spec: ModelSpec | str = "llama-3-8b") -> Figure:
    """A layer's weights with the shape of each, to scale, beside the residual stream that they read and add to.

    spec   a dense model with grouped queries and a gated MLP; for others `LLMHWError`
    """
    found = model_of(spec)
    parts = _matrices(found)
    scale = min(5.0 / found.hidden, 14.4 / found.intermediate)
    tall = found.hidden * scale
    second = tall + 11.8
    end = second + 2 * tall + 11.6
    paper = Canvas(36, end + 2.2)
    paper.text(0.4, 0.9, f"one of {found.num_layers} layers of {found.name}", at="left", bold=True)
    paper.text(35.6, 0.9, f"{found.layers[0].params:,} weights", at="right")
    paper.line((1.4, 2.0), (1.4, end + 0.6), colour=GREY, width=3)
    paper.arrow((1.4, end), (1.4, end + 1.8), colour=GREY, width=3)
    paper.text(0.5, end / 2, f"residual stream: {found.hidden:,} numbers a token", turned=True, size=8.5)
    heads = f"attention, {found.heads} heads of {found.head_dim}, {found.kv_heads} of K and V"
    _block(paper, heads, 2.2, second - 1.0)
    for part, middle in (("q", 11.4), ("k", 18.4), ("v", 25.2), ("o", 32.0)):
        _matrix(paper, part, parts[part], middle, 5.6, scale)
    _block(paper, "MLP", second, end)
    left, right = 4.8 + found.intermediate * scale / 2, 35.2 - found.intermediate * scale / 2
    bottom = _matrix(paper, "gate", parts["gate"], left, second + 4.6, scale)
    _matrix(paper, "up", parts["up"], right, second + 4.6, scale)
    _matrix(paper, "down", parts["down"], 20.0, bottom + 4.2, scale)
    return paper.figure
