"""Pictures that several calculators share: stacked bars against a limit, a curve, passes of a pipeline.

All are 340 wide, so that their text of 13 is as large on a phone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import floor, log10

from llmhw.language import said
from llmhw.live.base import Picture
from llmhw.live.picture import Drawing

WIDTH = 340.0
LINE, BAR = 20.0, 16.0  # a line of text, and a bar under it


Boxes = dict[int, list[tuple[float, float, float, float]]]


def legend(drawing: Drawing, top: float, entries: Sequence[tuple[str, int]], boxes: Boxes | None = None) -> None:
    """A square and a name for each series, in two columns, below `top`.

    boxes   what else is drawn in the colours of series, one path for all of each
    """
    every = {series: list(places) for series, places in (boxes or {}).items()}
    for i, (name, series) in enumerate(entries):
        x, y = (i % 2) * WIDTH / 2, top + LINE * (i // 2)
        every.setdefault(series, []).append((x, y + 5, 11.6, 11))
        drawing.text(x + 16, y + 15, name, size=12)
    for series, places in every.items():
        drawing.boxes(places, series)


def legend_height(entries: int) -> float:
    """What `legend` takes for so many."""
    return LINE * ((entries + 1) // 2)


def bars(
    rows: Mapping[str, Mapping[str, float]],
    told: Callable[[float], str],
    caption: str,
    *,
    room: tuple[str, float] | None = None,
    names: Callable[[str], str] = str,
    shares: bool = False,
) -> Picture:
    """Bars made of parts, one below the other, with their sums; parts of one name have one colour.

    Parts of less than a hundredth of the longest bar are put together.

    rows     label of each bar -> its parts
    told     a value as text
    room     a limit across all bars, and what it is called
    names    what a part is called
    shares   the legend says each part's share of the first bar, too
    """
    rows = _without_small(rows)
    parts = list(dict.fromkeys(part for row in rows.values() for part, value in row.items() if value > 0))
    whole = {label: sum(row.values()) for label, row in rows.items()}
    most = max([*whole.values(), *([room[1]] if room else []), 1e-30])
    first = next(iter(rows.values()), {})
    entries = []
    for i, part in enumerate(parts):
        share = f" {100 * first.get(part, 0.0) / max(sum(first.values()), 1e-30):.0f} %" if shares else ""
        entries.append((names(part) + share, i))
    tall = len(rows) * (LINE + BAR + 4) + (LINE if room else 0)
    drawing = Drawing(WIDTH, tall + legend_height(len(entries)) + 4)
    scale, words, boxes = (WIDTH - 2) / most, list[str](), Boxes()
    for i, (label, row) in enumerate(rows.items()):
        y, x = i * (LINE + BAR + 4), 0.0
        drawing.text(0, y + 15, label, size=12)
        drawing.text(WIDTH, y + 15, told(whole[label]), at="end", size=12)
        for series, part in enumerate(parts):
            if value := row.get(part, 0.0):
                boxes.setdefault(series, []).append((x, y + LINE, value * scale, BAR))
                x += value * scale
        inside = ", ".join(f"{names(part)} {told(value)}" for part, value in row.items() if value)
        words.append(f"{label}: {told(whole[label])}" + (f" ({inside})" if len(row) > 1 else ""))
    if room:
        x = room[1] * scale
        for i in range(len(rows)):
            y = i * (LINE + BAR + 4) + LINE
            drawing.line([(x, y - 2), (x, y + BAR + 2)], width=2)
        drawing.text(x, tall - 5, f"{room[0]} {told(room[1])}", at="end" if x > WIDTH / 2 else "start", size=12)
        words.append(f"{room[0]}: {told(room[1])}")
    legend(drawing, tall, entries, boxes)
    return Picture(drawing.svg("; ".join(words)), caption, "; ".join(words))


def _without_small(rows: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The same with parts that nobody would see put together."""
    least = max((sum(row.values()) for row in rows.values()), default=0.0) / 100
    seen = {part for row in rows.values() for part, value in row.items() if value >= least}
    made = {}
    for label, row in rows.items():
        rest = sum(value for part, value in row.items() if part not in seen)
        made[label] = {part: value for part, value in row.items() if part in seen} | ({"others": rest} if rest else {})
    return made


def nice(value: float) -> float:
    """The round number (1, 2 or 5 and zeros) that is at least so large."""
    if value <= 0:
        return 1.0
    ten = 10.0 ** floor(log10(value))
    return next(n * ten for n in (1, 2, 5, 10) if n * ten >= value * (1 - 1e-12))


def curve(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    caption: str,
    across: str,
    up: str,
    *,
    mark: tuple[float, float, str] | None = None,
    box: tuple[float, str] | None = None,
    logarithmic: bool = True,
    told: Callable[[float], str] = lambda value: f"{value:g}",
    said_up: Callable[[float], str] = lambda value: f"{value:.3g}",
) -> Picture:
    """Lines over one axis, with a dot where the reader stands.

    across, up    what the axes are
    mark          the dot and its label
    box           how far to the right limits are kept, and what that is called: a box around that part
    logarithmic   whether steps across are ratios
    """
    points = [p for line in lines.values() for p in line] + ([mark[:2]] if mark else [])
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top = nice(max(y for _, y in points))
    labels = [said_up(share * top) for share in (0.0, 0.5, 1.0)]
    box_left, box_top, high = max(46.0, 6.8 * max(map(len, labels)) + 8), 28.0, 170.0
    wide = WIDTH - box_left - 10

    def at(x: float, y: float) -> tuple[float, float]:
        over = log10(right / left) if logarithmic else right - left
        part = (log10(x / left) if logarithmic else x - left) / over if over else 0.5
        return box_left + part * wide, box_top + high * (1 - y / top)

    drawing = Drawing(WIDTH, box_top + high + 40 + legend_height(len(lines) if len(lines) > 1 else 0))
    drawing.text(0, 12, up, size=12)
    for share in (0.0, 0.5, 1.0):
        y = box_top + high * (1 - share)
        drawing.line([(box_left, y), (box_left + wide, y)], width=0.5)
        drawing.text(box_left - 4, y + 4, said_up(share * top), at="end", size=12)
    for x, where in ((left, "start"), (right, "end")):
        drawing.text(at(x, 0)[0], box_top + high + 15, told(x), at=where, size=12)
    drawing.text(box_left + wide / 2, box_top + high + 32, across, at="middle", size=12)
    words = []
    if box:
        x = at(min(max(box[0], left), right), 0)[0]
        drawing.box(box_left, box_top, x - box_left, high, 2, fill=0.15, outline=True)
        drawing.text(box_left + 4, box_top + 13, box[1], size=12)
        words.append(said("{box}: up to {x}", box=box[1], x=told(box[0])))
    for series, (name, line) in enumerate(lines.items()):
        drawing.line([at(*point) for point in line], series, width=2)
        (x0, y0), (x1, y1) = line[0], line[-1]
        ends = (said("{y} at {x}", y=said_up(y), x=told(x)) for x, y in ((x0, y0), (x1, y1)))
        words.append(f"{name}: {', '.join(ends)}")
    if mark:
        x, y = at(*mark[:2])
        drawing.dot(x, y)
        end = x > box_left + wide / 2
        drawing.text(x + (-7 if end else 7), max(y - 7, box_top + 10), mark[2], at="end" if end else "start", bold=True)
        words.append(mark[2])
    if len(lines) > 1:
        legend(drawing, box_top + high + 36, [(name, i) for i, name in enumerate(lines)])
    told_all = f"{up} / {across}. {'; '.join(words)}"
    return Picture(drawing.svg(told_all), caption, told_all)


def passes(
    rows: Sequence[str],
    spans: Iterable[tuple[int, float, float, str]],
    end: float,
    caption: str,
    words: str,
    kinds: Mapping[str, str],
    told: str,
) -> Picture:
    """What each row does when; passes of one kind on one row are one path, so that a thousand of them stay small.

    spans   row, start, length and kind of each
    kinds   kind -> what it is called; others are not drawn
    told    what stands at the right end of the axis
    """
    tall = min(24.0, max(10.0, 320 / max(1, len(rows))))
    label = 7.5 * max((len(row) for row in rows), default=0) + 6
    scale = (WIDTH - label) / end if end else 0.0
    drawing = Drawing(WIDTH, tall * len(rows) + 18 + legend_height(len(kinds)))
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for row, start, length, kind in spans:
        if kind in kinds:
            found.setdefault((row, kind), []).append((label + start * scale, length * scale))
    for i, name in enumerate(rows):
        if tall >= 13 or i % 2 == 0:
            drawing.text(0, tall * i + min(tall, 17) - 3, name, size=12)
    series = {kind: i for i, kind in enumerate(kinds)}
    boxes = Boxes()
    for (row, kind), places in found.items():
        boxes.setdefault(series[kind], []).extend((x, tall * row + 1, width, tall - 2) for x, width in places)
    below = tall * len(rows)
    drawing.text(label, below + 13, "0", size=12)
    drawing.text(WIDTH, below + 13, told, at="end", size=12)
    legend(drawing, below + 16, [(name, series[kind]) for kind, name in kinds.items()], boxes)
    return Picture(drawing.svg(words), caption, words)
