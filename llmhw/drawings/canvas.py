"""The paper of all drawings: boxes, labels, arrows and brackets at places of a grid of lines of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any, ParamSpec

from llmhw.plot import INK, PALETTE, _matplotlib
from llmhw.units import LLMHWError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")

BLUE, ORANGE, GREEN, PINK, LIGHT, RED, GREY = PALETTE[:7]

WIDEST = 37.0  # units; a phone shows it at about 70 %
_POINT = 10.0  # points of a unit: the height of a line of text

DRAWINGS: dict[str, Callable[..., Any]] = {}


def drawing(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """Register a function that draws with defaults for all it takes; a test looks at each."""
    DRAWINGS[function.__name__] = function
    return function


class Canvas:
    """A drawing of `width` by `height` units, the height of a line of text each, origin at the upper left.

    Raises `LLMHWError` if it is wider than a phone can show.
    """

    def __init__(self, width: float, height: float) -> None:
        if not 0 < width <= WIDEST:
            raise LLMHWError(f"width={width} must be above 0 and at most {WIDEST:g} units, or a phone shows no letters")
        _matplotlib()
        import matplotlib.pyplot as plt

        self.width, self.height = width, height
        size = (width * _POINT / 72, height * _POINT / 72)
        self.figure: Figure = plt.figure(figsize=size, dpi=72)
        self.axes: Any = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.axis("off")

    def text(
        self, x: float, y: float, text: str, *, colour: str = INK, size: float = 9.0, bold: bool = False,
        at: str = "center", turned: bool = False,
    ) -> None:  # fmt: skip
        """A label whose middle is at y, at the left, center or right of x; `turned` reads upwards."""
        self.axes.text(
            x, y, text, color=colour, fontsize=size, weight="bold" if bold else "normal",
            ha=at, va="center", rotation=90 if turned else 0, linespacing=1.15,
        )  # fmt: skip

    def box(
        self, x: float, y: float, width: float, height: float, text: str = "", colour: str = INK, *,
        fill: float = 0.25, dashed: bool = False, hatch: str = "", size: float = 9.0, bold: bool = False,
        round: bool = False,
    ) -> None:  # fmt: skip
        """A box with its upper left corner at x, y; fill is the tone of its colour, 0 an outline."""
        from matplotlib.patches import FancyBboxPatch, Rectangle

        if round:
            shape: Any = partial(FancyBboxPatch, boxstyle="round,pad=0,rounding_size=0.5")
        else:
            shape = Rectangle
        place = ((x, y), width, height)
        if fill:
            self.axes.add_patch(shape(*place, facecolor=colour, alpha=fill, linewidth=0))
        looks = {"linewidth": 1.0, "linestyle": "--" if dashed else "-", "hatch": hatch or None}
        self.axes.add_patch(shape(*place, fill=False, edgecolor=colour, **looks))
        if text:
            self.text(x + width / 2, y + height / 2, text, size=size, bold=bold)

    def line(self, *points: tuple[float, float], colour: str = INK, dashed: bool = False, width: float = 1.0) -> None:
        """A line through the points."""
        xs, ys = zip(*points, strict=True)
        self.axes.plot(xs, ys, color=colour, linewidth=width, linestyle="--" if dashed else "-", solid_capstyle="butt")

    def arrow(
        self, start: tuple[float, float], end: tuple[float, float], text: str = "", *, colour: str = INK,
        bend: float = 0.0, both: bool = False, dashed: bool = False, width: float = 1.2,
        off: tuple[float, float] = (0.0, -0.7),
    ) -> None:  # fmt: skip
        """An arrow; `both` has two heads, `bend` curves it, `off` moves its label from the middle."""
        looks = {
            "arrowstyle": "<|-|>" if both else "-|>", "color": colour, "linewidth": width, "shrinkA": 0, "shrinkB": 0,
            "mutation_scale": 8, "connectionstyle": f"arc3,rad={bend}", "linestyle": "--" if dashed else "-",
        }  # fmt: skip
        self.axes.annotate("", end, start, arrowprops=looks)
        if text:
            middle = ((start[0] + end[0]) / 2 + off[0], (start[1] + end[1]) / 2 + off[1])
            self.text(*middle, text, colour=colour, size=8.5)

    def bracket(self, start: float, end: float, y: float, text: str, *, above: bool = True, colour: str = INK) -> None:
        """A bracket from x=start to x=end with its label above or below."""
        tip = 0.4 if above else -0.4
        self.line((start, y + tip), (start, y), (end, y), (end, y + tip), colour=colour)
        self.text((start + end) / 2, y - 0.8 if above else y + 0.8, text, colour=colour, size=8.5)

    def cells(
        self, x: float, y: float, size: float, colours: list[list[str]], *, fill: float = 0.35, gap: float = 0.1
    ) -> None:
        """Rows of small squares; the colour "" is an empty one."""
        for row, line in enumerate(colours):
            for column, colour in enumerate(line):
                left, top = x + column * size, y + row * size
                self.box(left, top, size - gap, size - gap, colour=colour or GREY, fill=fill if colour else 0.0)

    def legend(self, names: Mapping[str, str], x: float, y: float, *, step: float | None = None) -> None:
        """What colours mean: name -> colour, side by side, `step` apart or as far as each name is long."""
        for name, colour in names.items():
            self.box(x, y - 0.45, 0.9, 0.9, colour=colour)
            self.text(x + 1.3, y, name, at="left", size=8.5)
            x += step if step is not None else 2.6 + 0.52 * len(name)


def problems(figure: Figure) -> list[str]:
    """What is wrong with a drawing: labels outside of it, labels that touch, letters too small for a phone."""
    figure.draw_without_rendering()
    paper = figure.bbox
    texts = [text for axes in figure.axes for text in axes.texts if text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    found = [f"too small: {text.get_text()!r}" for text in texts if float(text.get_fontsize()) < 8]
    for name, box in boxes:
        if box.x0 < paper.x0 - 1 or box.x1 > paper.x1 + 1 or box.y0 < paper.y0 - 1 or box.y1 > paper.y1 + 1:
            found.append(f"leaves the drawing: {name!r}")
    for (name, box), (other, beside) in combinations(boxes, 2):
        across = min(box.x1, beside.x1) - max(box.x0, beside.x0)
        down = min(box.y1, beside.y1) - max(box.y0, beside.y0)
        if across > 1 and down > 1.5:
            found.append(f"touch: {name!r} and {other!r}")
    return found
