"""Drawings of mechanisms: a card, a layer, collectives, shards, pages. Needs matplotlib (extra `plot`).

Each is a function that takes a model, a device or a layout and returns a matplotlib Figure; what it writes beside its
boxes comes from the library. `DRAWINGS` has them all by name. A function draws on a `Canvas`:

    @drawing
    def ring(ranks: int = 4) -> Figure:
        paper = Canvas(36, 12)
        paper.box(1, 4, 6, 3, "rank 0", BLUE)
        paper.arrow((7, 5.5), (11, 5.5))
        return paper.figure

One unit of the canvas is the height of a line of text, 10 points; y grows downwards. A canvas is at most 37 units wide,
so that its letters are legible on a phone, where it is shown at 70 %. Boxes have a light tone of their colour, legible
on white and on dark. `problems` tells which labels leave the picture or touch another.
"""

from llmhw.drawings.canvas import BLUE, DRAWINGS, GREEN, GREY, LIGHT, ORANGE, PINK, RED, Canvas, drawing, problems

__all__ = [
    "BLUE",
    "DRAWINGS",
    "GREEN",
    "GREY",
    "LIGHT",
    "ORANGE",
    "PINK",
    "RED",
    "Canvas",
    "drawing",
    "problems",
]
