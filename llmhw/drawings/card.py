"""Drawings of one device: what is on a card, and three products by the FLOPs that they do with a byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmhw.drawings.canvas import BLUE, GREEN, GREY, LIGHT, ORANGE, PINK, Canvas, drawing
from llmhw.flops import matmul_flops
from llmhw.hardware import Accelerator, accelerator_of, link, usual_network
from llmhw.model import ModelSpec, model_of
from llmhw.plot import INK
from llmhw.rates import matmul_bytes
from llmhw.units import format_quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS, _WIDTH = 33, 31.8  # of the rows of multiprocessors


def _rate(bytes_per_second: float) -> str:
    return format_quantity(bytes_per_second, "bytes/s")


def _ways_out(card: Accelerator) -> list[tuple[str, str, float, str]]:
    """Where bytes leave the card: what leads there, how fast in one direction, and what is there."""
    found = []
    if card.link and card.link_bytes_per_second:
        others = f"{card.scale_up_devices - 1} neighbors"
        found.append((card.link, others, card.link_bytes_per_second, PINK))
    if card.host_link:
        found.append(
            (card.host_link.removesuffix(" x16"), "CPU, its memory", link(card.host_link).bytes_per_second, LIGHT)
        )
    if network := usual_network(card):
        found.append(("network", "other nodes", network.bytes_per_second, GREY))
    return found


def _processors(paper: Canvas, count: int) -> None:
    """A square for each multiprocessor, with its tensor cores as one small square in it."""
    size = _WIDTH / _COLUMNS
    xs = [2.2 + (i % _COLUMNS + 0.5) * size for i in range(count)]
    ys = [4.8 + (i // _COLUMNS + 0.5) * size for i in range(count)]
    # markers, not boxes: one shape in the file, used many times; a unit of the canvas is 10 points
    for colour, share, alpha in ((BLUE, 0.85, 0.3), (ORANGE, 0.35, 0.9)):
        paper.axes.plot(xs, ys, "s", color=colour, alpha=alpha, markersize=10 * size * share, markeredgewidth=0)


@drawing
def card(device: Accelerator | str = "H100 SXM5 80GB", number_format: str = "bf16") -> Figure:
    """What is on a card and what leads out of it, with the rates of the catalog, links in one direction."""
    found = accelerator_of(device)
    ways = _ways_out(found)
    rows = -(-(found.multiprocessors or 1) // _COLUMNS)
    chip = 4.8 + rows * _WIDTH / _COLUMNS  # where the rows of processors end
    edge = chip + 9.2
    paper = Canvas(36, edge + 7.2)
    paper.box(0.4, 0.5, 35.2, edge - 0.5, colour=INK, fill=0, round=True)
    paper.text(1.4, 1.6, found.name, at="left", bold=True)
    paper.box(1.4, 2.8, 33.2, chip - 0.8, colour=BLUE, fill=0.06)
    paper.text(2.2, 3.8, f"{found.multiprocessors} multiprocessors (SM); orange: tensor cores", at="left")
    _processors(paper, found.multiprocessors or 0)
    peak = format_quantity(found.peak(number_format), "FLOP/s")
    paper.text(2.2, chip + 0.9, f"{peak} in {number_format}, dense", at="left", bold=True)
    paper.box(20.0, chip + 0.2, 14.0, 1.4, "L2 cache, shared by all", LIGHT, size=8.5)
    paper.box(1.4, chip + 5.8, 33.2, 2.4, colour=GREEN)
    held = f"{found.memory_type}: {format_quantity(found.memory_bytes, 'bytes')} usable"
    paper.text(18, chip + 7.0, held, bold=True)
    paper.arrow((18, chip + 5.8), (18, chip + 2.0), colour=GREEN, both=True, width=5)
    paper.text(19.2, chip + 3.9, _rate(found.memory_bandwidth_bytes_per_second), at="left", bold=True)
    step = 35.2 / max(len(ways), 1)
    for i, (name, there, rate, colour) in enumerate(ways):
        x = 0.4 + (i + 0.5) * step
        paper.arrow((x - 2, edge), (x - 2, edge + 3.9), colour=colour, both=True, width=0.8 + rate / 1.5e11)
        paper.text(x - 1.0, edge + 1.9, f"{name}\n{_rate(rate)}", at="left", size=8.5)
        paper.box(x - step / 2 + 0.5, edge + 4.0, step - 1, 2.4, there, colour, size=8.5)
    return paper.figure


@drawing
def products(tokens: int = 6, spec: ModelSpec | str = "llama-3-8b") -> Figure:
    """Three products with a width of the model: FLOPs that they do with each byte they must move, 2 bytes a number."""
    h = model_of(spec).hidden
    cases = (
        ("dot product", "1 × h by h × 1", (1, h, 1), (1.0, 5.0)),
        ("one token", "1 × h by h × h", (1, h, h), (1.0, 5.0)),
        (f"{tokens} tokens", f"{tokens} × h by h × h", (tokens, h, h), (2.4, 5.0)),
    )
    paper = Canvas(36, 12.6)
    for i, (name, shape, (m, k, n), (tall, wide)) in enumerate(cases):
        x, middle = 0.4 + 12.0 * i, 4.6
        paper.text(x + 5.4, 0.9, name, bold=True)
        paper.box(x, middle - tall / 2, wide, tall, colour=ORANGE)
        paper.text(x + wide + 0.6, middle, "×")
        right = 0.8 if n == 1 else 5.0
        paper.box(x + wide + 1.2, middle - 2.5, right, 5.0, colour=BLUE)
        flops, moved = matmul_flops(tokens=m, weights=k * n), matmul_bytes(m=m, n=n, k=k)
        paper.text(x + 5.4, 8.4, shape, size=8.5)
        paper.text(x + 5.4, 9.7, format_quantity(flops, "FLOP"), size=8.5)
        paper.text(x + 5.4, 10.8, f"{format_quantity(moved, 'bytes')} moved", size=8.5)
        paper.text(x + 5.4, 12.0, f"{flops / moved:.1f} FLOP a byte", bold=True)
    return paper.figure
