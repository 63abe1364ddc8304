"""Drawings as SVG text, without matplotlib: what the browser has not got.

Colours are the page's (`--figure-0` and on, and the colour of its text), so a drawing is at home in light and in dark.
A unit of the drawing is a CSS pixel at full size; 640 is the widest, and text of 13 stays legible on a phone if a
drawing is at most 400 wide or is drawn to be read without its small print.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from llmhw.live.base import rounded

SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")  # where the page names none


def colour(series: int | None) -> str:
    """The colour of a series, counted from 0; None is the colour of text."""
    if series is None:
        return "currentColor"
    return f"var(--figure-{series % len(SERIES)},{SERIES[series % len(SERIES)]})"


def _at(place: float) -> str:
    """A place to a tenth, short; rounded first, so that what lies between two tenths is the same everywhere."""
    return f"{rounded(place):.1f}".removesuffix(".0")


_SIZE = 12  # of text, unless it says another


class Drawing:
    """An SVG that is written from left to right; `svg(words)` gives its text."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._parts: list[str] = []

    def _put(self, element: str, inside: str = "", **attributes: Any) -> None:
        said = ""
        for key, value in attributes.items():
            if value is not None:
                text = f"{rounded(value):.4g}" if isinstance(value, float) else str(value)
                said += f' {key.strip("_").replace("_", "-")}="{escape(text)}"'
        self._parts.append(f"<{element}{said}>{inside}</{element}>" if inside else f"<{element}{said}/>")

    def box(
        self, x: float, y: float, width: float, height: float, series: int | None = None, *, fill: float = 0.75,
        outline: bool = False, title: str = "",
    ) -> None:  # fmt: skip
        """A box; `title` is shown where a pointer rests on it."""
        inside = f"<title>{escape(title)}</title>" if title else ""
        self._put("rect", inside, x=float(x), y=float(y), width=max(float(width), 0.0), height=float(height),
                  fill=colour(series) if fill else "none", fill_opacity=fill or None,
                  stroke=colour(series) if outline else None)  # fmt: skip

    def boxes(
        self, places: Iterable[tuple[float, float, float, float]], series: int | None = None, *, fill: float = 0.75
    ) -> None:
        """Many boxes of one colour (x, y, width, height) as one path, with a seam between neighbours."""
        path = "".join(
            f"M{_at(x)} {_at(y)}h{_at(max(width - 0.6, 0.3))}v{_at(height)}h-{_at(max(width - 0.6, 0.3))}z"
            for x, y, width, height in places
        )
        self._put("path", d=path, fill=colour(series), fill_opacity=fill)

    def text(
        self, x: float, y: float, text: str, *, at: str = "start", size: float = 13, bold: bool = False,
        series: int | None = None,
    ) -> None:  # fmt: skip
        """A label whose baseline is at y; `at` start, middle or end."""
        self._put("text", escape(text), x=float(x), y=float(y), text_anchor=None if at == "start" else at,
                  font_size=None if size == _SIZE else size, font_weight="bold" if bold else None,
                  fill=None if series is None else colour(series))  # fmt: skip

    def letters(self, places: Iterable[tuple[float, float, str]], *, size: float = 12) -> None:
        """Single letters, each centred at x with its baseline at y; those of a line are one element."""
        lines: dict[float, list[tuple[float, str]]] = {}
        for x, y, letter in places:
            lines.setdefault(y, []).append((x, letter))
        for y, found in lines.items():
            xs = " ".join(_at(x - size * 0.33) for x, _ in found)
            text = "".join(letter for _, letter in found)
            self._put("text", escape(text), x=xs, y=float(y), font_size=None if size == _SIZE else size)

    def line(
        self, points: list[tuple[float, float]], series: int | None = None, *, width: float = 1.0, dashed: bool = False
    ) -> None:
        """A line through points."""
        self._put("polyline", points=" ".join(f"{_at(x)},{_at(y)}" for x, y in points), fill="none",
                  stroke=colour(series), stroke_width=width, stroke_dasharray="5 4" if dashed else None)  # fmt: skip

    def dot(self, x: float, y: float, series: int | None = None, *, radius: float = 4.0) -> None:
        self._put("circle", cx=float(x), cy=float(y), r=radius, fill=colour(series))

    def svg(self, words: str) -> str:
        """The drawing; `words` say what it shows to who does not see it."""
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{escape(words)}" '
            f'style="max-width:{self.width:g}px" font-family="inherit" font-size="{_SIZE}" fill="currentColor">'
            f"{''.join(self._parts)}</svg>"
        )
