"""Drawings of how a predictor is judged: rows, configurations, sources, and what is hidden from a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmhw.drawings.canvas import BLUE, GREEN, GREY, ORANGE, RED, Canvas, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@drawing
def hidden(rows: int = 1330, configurations: int = 1125, sources: int = 31) -> Figure:
    """Three ways to hide something from a fit: a row, a configuration, a source.

    rows, configurations, sources   how many there are in all
    """
    paper = Canvas(37, 19)
    paper.legend({"in the fit": BLUE, "hidden, and judged": ORANGE, "gives it away": RED}, 0.5, 0.9)
    ways = (
        (f"a row\nof {rows:,}", "a repeat of it\nstays in", "tells nothing"),
        (f"a configuration\nof {configurations:,}", "its neighbors\nstay in", "tells little"),
        (f"a whole source\nof {sources}", "nothing of it\nstays in", "what you will get"),
    )
    for i, (what, stays, worth) in enumerate(ways):
        y = 2.6 + 5.5 * i
        paper.text(0.5, y + 2.0, what, at="left", size=9)
        for group in range(3):
            x = 8.2 + 5.6 * group
            paper.box(x - 0.3, y, 5.2, 4.0, colour=GREY, fill=0.06)
            for line in range(2):
                for repeat in range(3):
                    colour = _colour(i, group, line, repeat)
                    paper.box(x + 1.6 * repeat, y + 0.35 + 1.8 * line, 1.3, 1.4, colour=colour)
        paper.text(25.6, y + 1.3, stays, at="left", size=8.5)
        paper.text(25.6, y + 3.2, worth, at="left", size=9, colour=GREEN if i == 2 else RED)
    return paper.figure


def _colour(way: int, group: int, line: int, repeat: int) -> str:
    """Of one row: a group is a source, a line of it a configuration, and its boxes repeats."""
    if group:
        return BLUE
    if way == 0:
        return (ORANGE if repeat == 0 else RED) if line == 0 else BLUE
    if way == 1:
        return ORANGE if line == 0 else RED
    return ORANGE
