"""Drawings of how devices share a model: collectives, a ring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmhw.drawings.canvas import BLUE, GREEN, ORANGE, PINK, Canvas, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = (BLUE, ORANGE, GREEN, PINK)


@drawing
def collectives(ranks: int = 4) -> Figure:
    """Four collectives, what each rank has before and after: a row a rank, a colour a part of the tensor."""
    colours = [_COLOURS[i % 4] for i in range(ranks)]
    whole = [colours] * ranks
    own = [[colours[i] if i == j else "" for j in range(ranks)] for i in range(ranks)]
    kinds = {
        "reduce-scatter": ("addends", whole, "its part of the sum", own),
        "all-gather": ("its part", own, "the whole", whole),
        "all-reduce": ("addends", whole, "the whole sum", whole),
    }
    size, wide = 1.2, 1.2 * ranks
    paper = Canvas(34, 3.4 + len(kinds) * (wide + 3.0))
    paper.text(9.5 + wide / 2, 0.9, "before", bold=True)
    paper.text(23.5 + wide / 2, 0.9, "after", bold=True)
    y = 2.6
    for name, (first, before, last, after) in kinds.items():
        paper.text(0.4, y + wide / 2, name, at="left", bold=True)
        paper.cells(9.5, y, size, before)
        paper.arrow((10.5 + wide, y + wide / 2), (22.5, y + wide / 2))
        paper.cells(23.5, y, size, after)
        paper.text(9.5 + wide / 2, y + wide + 0.8, first, size=8.5)
        paper.text(23.5 + wide / 2, y + wide + 0.8, last, size=8.5)
        y += wide + 3.0
    paper.text(0.4, y - 0.4, "a row: one rank; a colour: one part of the tensor", at="left", size=8.5)
    return paper.figure
