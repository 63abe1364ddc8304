"""Drawings of a long run: who waits for whom in a step, and what a failure costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmhw.cost import daly_interval_seconds
from llmhw.drawings.canvas import BLUE, GREEN, GREY, ORANGE, RED, Canvas, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@drawing
def slowest_decides(times: tuple[float, ...] = (0.996, 1.003, 0.998, 1.1, 1.001)) -> Figure:
    """Nodes of one step: all wait for the last one.

    times   of each node, over the mean of the others
    """
    paper = Canvas(37, 3.6 + 1.9 * len(times))
    left, unit, last = 5.5, 24.0, max(times)
    paper.legend({"works": BLUE, "waits": GREY}, left, 0.9)
    for i, each in enumerate(times):
        y = 2.0 + 1.9 * i
        paper.text(left - 0.5, y + 0.7, f"node {i}", at="right")
        paper.box(left, y, unit * each, 1.4, f"{each:.3f}", RED if each == last else BLUE)
        if each < last:
            paper.box(left + unit * each, y, unit * (last - each), 1.4, colour=GREY, hatch="//", fill=0.1)
    end = left + unit * last
    paper.line((end, 1.6), (end, 2.0 + 1.9 * len(times)), dashed=True)
    paper.text(end + 0.4, 2.7, "the step\nends here", at="left", size=8.5)
    return paper.figure


@drawing
def failure_and_checkpoints(write: float = 2.3, between: float = 11134.0, restart: float = 600.0) -> Figure:
    """Work, checkpoints, a failure, and what it loses. Not to scale; the seconds are.

    write, between, restart   seconds that a checkpoint holds training up, between failures, and of a restart
    """
    every = daly_interval_seconds(write_seconds=write, mtbf_seconds=between)
    paper = Canvas(37, 12.5)
    paper.legend({"work that counts": GREEN, "checkpoint": ORANGE, "work done again": RED, "restart": GREY}, 0.5, 0.9)
    x, y, high = 0.5, 4.6, 2.2
    for wide, colour in (
        (6.0, GREEN), (1.0, ORANGE), (6.0, GREEN), (1.0, ORANGE), (3.6, RED), (7.0, GREY), (6.0, GREEN), (1.0, ORANGE),
        (3.6, GREEN),
    ):  # fmt: skip
        paper.box(x, y, wide, high, colour=colour, hatch="//" if colour == RED else "")
        x += wide
    paper.bracket(7.5, 13.5, 3.9, f"$t_c$ = {every:,.0f} s")
    paper.arrow((7.0, 9.2), (7.0, 7.0), colour=ORANGE)
    paper.text(7.0, 10.0, f"$t_w$ = {write:.1f} s", size=8.5)
    paper.arrow((18.1, 3.2), (18.1, 4.5), colour=RED, width=2.0)
    paper.text(17.8, 2.6, "a failure", size=8.5, colour=RED)
    paper.bracket(14.5, 18.1, 7.5, "$t_c$ / 2", above=False)
    paper.bracket(18.1, 25.1, 7.5, f"$t_r$ = {restart:,.0f} s", above=False)
    paper.text(18.5, 11.7, f"the next failure comes after $t_f$ = {between / 3600:.1f} hours, on average", size=8.5)
    return paper.figure
