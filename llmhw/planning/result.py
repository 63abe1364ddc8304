"""Choices held against limits: which hold over their interval, which only at the estimate, and what would change that.

Nothing here knows a job: a choice is figures with intervals, a limit is a bound of one figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

from llmhw.formula import Report, Table
from llmhw.job import asked, check_fields, documented, number
from llmhw.language import said
from llmhw.units import LLMHWError, check_count, format_quantity, format_range


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of a choice, with the ends of its 80 % interval where it has one.

    >>> str(Figure(10.0, "dollars", 8.0, 13.0))
    '$10.00 ($8.00 to $13.00)'
    """

    value: float
    unit: str
    low: float | None = None
    high: float | None = None

    @property
    def least(self) -> float:
        """The lower end, or the number itself."""
        return self.value if self.low is None else self.low

    @property
    def most(self) -> float:
        """The upper end, or the number itself."""
        return self.value if self.high is None else self.high

    def __str__(self) -> str:
        if self.unit == "count" and float(self.value).is_integer():
            return f"{self.value:,.0f}"
        told, *ends = format_range(
            *_in_seconds([v for v in (self.value, self.low, self.high) if v is not None], self.unit)
        )
        return f"{told} ({said(' to ').join(ends)})" if ends else told


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit: the figure that it is of, and the most (or with `least`, the least) that it may be.

    argument   the name of what was asked, as it is typed
    """

    argument: str
    figure: str
    limit: float
    least: bool = False

    def miss(self, figure: Figure, *, sure: bool = False) -> float:
        """How far a figure is beyond the limit, as a share of it; 0 or below: it holds. `sure`: over its interval.

        >>> Bound("dollars", "dollars", 10).miss(Figure(12.0, "dollars"))
        0.2
        """
        value = (figure.least if self.least else figure.most) if sure else figure.value
        beyond = self.limit - value if self.least else value - self.limit
        return beyond / self.limit if self.limit else beyond

    def __str__(self) -> str:
        return f"{self.argument}={self.limit:.12g}"

    def at(self, unit: str) -> Figure:
        """The limit as a figure."""
        return Figure(self.limit, unit)

    def asks(self, value: float) -> str:
        """What to ask for instead, so that this value holds."""
        return f"{self.argument}={_rounded(value, up=not self.least):.12g}"


def _rounded(value: float, *, up: bool) -> float:
    """To three digits, to the side on which the bound still holds."""
    from math import ceil, floor, log10

    if value <= 0:
        return value
    step = 10.0 ** (floor(log10(value)) - 2)
    return float(f"{(ceil if up else floor)(round(value / step, 6)) * step:.12g}")


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an answer may take; what is not given is not limited.

    A limit holds for sure where the whole 80 % interval keeps it.
    """

    deadline_days: float | None = number("Most days of the whole run.", above=True, most=1e6)
    budget: float | None = number("Most dollars in all.", above=True, most=1e15)
    budget_per_hour: float | None = number("Most dollars an hour, of all devices.", above=True, most=1e12)
    budget_per_month: float | None = number("Most dollars a month (730.5 hours).", above=True, most=1e13)
    purchase: float | None = number("Most dollars to buy the devices.", above=True, most=1e15)
    most_devices: int | None = asked(
        "Most devices in all.", None, int, lambda name, value: check_count(name, value, most=10**6)
    )
    headroom: float = number("Share of each device's memory that must stay free.", 0.0, most=0.95)
    peak_kw: float | None = number("Most kilowatts that the room can give.", above=True, most=1e9)

    def __post_init__(self) -> None:
        check_fields(self)

    def bounds(self) -> tuple[Bound, ...]:
        """What was limited."""
        found = [
            Bound(name, figure, value)
            for name, figure in _FIGURE_OF.items()
            if (value := getattr(self, name)) is not None
        ]
        return (*found, *([Bound("headroom", "headroom", self.headroom, least=True)] if self.headroom else []))


_FIGURE_OF = {
    "deadline_days": "days",
    "budget": "dollars",
    "budget_per_hour": "dollars_per_hour",
    "budget_per_month": "dollars_per_month",
    "purchase": "purchase",
    "most_devices": "devices",
    "peak_kw": "peak_kw",
}


@dataclass(frozen=True, eq=False)
class Choice:
    """One way to do the job.

    place      devices or machines, as in "16 x H100 SXM5 80GB (2 x AWS p5.48xlarge)"
    layout     how the job lies on them, in words
    job        the job with that layout
    figures    by name: days, dollars, devices, headroom, tokens_per_second ...; one that
               is not known (no price) is not there, and breaks every limit on it
    make       makes the single prediction of this job, with all its intervals
    where      the `Place` with its price
    """

    place: str
    layout: str
    job: Any = field(repr=False)
    figures: Mapping[str, Figure]
    make: Callable[[], Any] = field(repr=False)
    note: str = ""
    where: Any = field(default=None, repr=False)

    @cached_property
    def estimate(self) -> Any:
        """The `TrainingEstimate` or `ServingEstimate`, made when it is asked for."""
        return self.make()

    def misses(self, bounds: Iterable[Bound], *, sure: bool = False) -> dict[Bound, float]:
        """The limits that it breaks, and by what share of each; infinite where its figure is not known."""
        found = {}
        for bound in bounds:
            figure = self.figures.get(bound.figure)
            miss = float("inf") if figure is None else bound.miss(figure, sure=sure)
            if miss > 1e-12:
                found[bound] = miss
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: place, layout, figures with their ends."""
        found: dict[str, Any] = {"place": self.place, "layout": self.layout}
        for name, figure in self.figures.items():
            found[name] = figure.value
            if figure.low is not None:
                found |= {f"{name}_low": figure.low, f"{name}_high": figure.high}
        return found


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was not taken, and by how much it misses."""

    place: str
    why: str


def ranked(choices: Iterable[Choice], bounds: Sequence[Bound], by: str, *, most: bool = False) -> list[Choice]:
    """Choices that keep all bounds: first those that keep them over their whole interval, then the others.

    by     the figure that counts, the least first, or with `most` the most
    """

    def key(choice: Choice) -> tuple[bool, float]:
        figure = choice.figures.get(by)
        value = float("inf") if figure is None else -figure.value if most else figure.value
        return bool(choice.misses(bounds, sure=True)), value

    return sorted((c for c in choices if not c.misses(bounds)), key=key)


def undominated(choices: Sequence[Choice], names: Mapping[str, bool]) -> list[Choice]:
    """Choices that no other is at least as good as in every figure, and better in one.

    names   figure -> whether more of it is better
    """
    inf = float("inf")

    def point(choice: Choice) -> list[float]:
        found = [(choice.figures.get(name), more) for name, more in names.items()]
        return [inf if figure is None else -figure.value if more else figure.value for figure, more in found]

    points = [point(c) for c in choices]
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: points[i]):
        if not any(all(a <= b for a, b in zip(points[j], points[i], strict=True)) for j in kept):
            kept.append(i)
    return [choices[i] for i in kept]


def smallest_changes(choices: Sequence[Choice], bounds: Sequence[Bound]) -> list[tuple[Choice, tuple[Bound, ...]]]:
    """The fewest limits to move so that a choice holds, and for each such set the choice that moves them least."""
    for number_of in range(1, len(bounds) + 1):
        found = []
        for moved in combinations(bounds, number_of):
            able = [(c, c.misses(bounds)) for c in choices]
            able = [(c, misses) for c, misses in able if set(misses) <= set(moved)]
            able = [(c, misses) for c, misses in able if max(misses.values(), default=0.0) < float("inf")]
            if able:
                best, _ = min(able, key=lambda one: max(one[1].values(), default=0.0))
                found.append((best, moved))
        if found:
            return sorted(found, key=lambda one: max(one[0].misses(bounds).values(), default=0.0))
    return []


def contradiction(choices: Sequence[Choice], bounds: Sequence[Bound]) -> tuple[Bound, ...]:
    """The fewest limits that nothing keeps together; () where something keeps all."""
    kept = [set(bounds) - set(c.misses(bounds)) for c in choices]
    for number_of in range(1, len(bounds) + 1):
        for some in combinations(bounds, number_of):
            if not any(set(some) <= one for one in kept):
                return some
    return ()


# -- words ------------------------------------------------------------------------------------


def compared(choice: Choice, other: Choice, names: Mapping[str, str]) -> str:
    """What a choice has more and less of than another, as in "cost +12 %, time -30 %"."""
    told = []
    for name, word in names.items():
        one, two = choice.figures.get(name), other.figures.get(name)
        if one is None or two is None or not two.value:
            continue
        if one.unit == "fraction":  # of a share, points
            if abs(one.value - two.value) < 0.005:
                continue
            told.append(said("{word} {one} against {other}", word=said(word), one=_told(one), other=_told(two)))
        elif abs(change := one.value / two.value - 1) >= 0.005:
            told.append(f"{said(word)} {change:+.0%}".replace("%", " %"))
    return ", ".join(told) or said("no difference that counts")


def apart(choice: Choice, other: Choice, by: str) -> bool:
    """Whether the interval of a figure of one ends before that of the other begins."""
    one, two = choice.figures.get(by), other.figures.get(by)
    return one is None or two is None or one.most < two.least or two.most < one.least


def reasons(order: Sequence[Choice], bounds: Sequence[Bound], by: str, names: Mapping[str, str]) -> list[str]:
    """Why the first is the best, and what the next gives up; `by`: the figure that counts, `names`: words of all."""
    if not order:
        return []
    best, word = order[0], said(names.get(by, by))
    sure = [c for c in order if not c.misses(bounds, sure=True)]
    text = "least {word} of {number:,} choices that keep all limits, and it keeps them {how}"
    if len(order) == 1:
        text = "the only choice that keeps all limits, and it keeps them {how}"
    how = "over their whole interval" if best in sure else "at the estimate; none does over its whole interval"
    found = [said(text, word=word, number=len(order), how=said(how))]
    least = min(order, key=lambda c: c.figures[by].value if by in c.figures else float("inf"))
    if least is not best:
        missed = ", ".join(said(names.get(b.figure, b.figure)) for b in least.misses(bounds, sure=True))
        text = "{place} has less {word} ({figure}), but may miss its {limits}"
        found.append(said(text, place=least.place, word=word, figure=_told(least.figures[by]), limits=missed))
    if len(order) > 1:
        differs = compared(order[1], best, names)
        if not apart(best, order[1], by):
            differs += said("; their intervals of {word} overlap", word=word)
        found.append(said("the next, {place}, against it: {differs}", place=order[1].place, differs=differs))
    return found


def exclusion(choices: Sequence[Choice], bounds: Sequence[Bound]) -> str:
    """Which limits exclude each other, and how far what keeps the others comes; "" where something keeps all."""
    some = contradiction(choices, bounds)
    told = []
    for bound in some:
        others = [b for b in some if b is not bound]
        can = [c for c in choices if not c.misses(others) and bound.figure in c.figures]
        if can:
            nearest = min(can, key=lambda c: bound.miss(c.figures[bound.figure]))
            figure = nearest.figures[bound.figure]
            kept = said("with {limits} ", limits=said(" and ").join(map(str, others))) if others else ""
            text = "{kept}the most is {figure} ({place})" if bound.least else "{kept}the least is {figure} ({place})"
            told.append(said(text, kept=kept, figure=_told(figure), place=nearest.place))
    if not told:
        return ""
    text = "nothing keeps {limits}: {told}" if len(some) == 1 else "{limits} exclude each other: {told}"
    return said(text, limits=said(" and ").join(map(str, some)), told="; ".join(told))


def missed(choice: Choice, bounds: Sequence[Bound], names: Mapping[str, str]) -> str:
    """Which limits a choice breaks, and by how much."""
    told = []
    for bound in choice.misses(bounds):
        figure, word = choice.figures.get(bound.figure), names.get(bound.figure, bound.figure.replace("_", " "))
        if figure is None:
            told.append(said("{word} is not known", word=said(word)))
        else:
            text = "{word} {figure}, least {limit}" if bound.least else "{word} {figure}, most {limit}"
            told.append(said(text, word=said(word), figure=_told(figure), limit=_told(bound.at(figure.unit))))
    return "; ".join(told)


def few(front: Sequence[Choice], names: Iterable[str], most: int) -> list[Choice]:
    """Some of a front, in its order: what is best at each figure, and others evenly between."""
    if len(front) <= most:
        return list(front)
    ends = []
    for name in names:
        able = [c for c in front if name in c.figures]
        ends += [min(able, key=lambda c: c.figures[name].value)] if able else []
        ends += [max(able, key=lambda c: c.figures[name].value)] if able and name == "headroom" else []
    step = len(front) / most
    between = [front[int((i + 0.5) * step)] for i in range(most)]
    kept = list(dict.fromkeys(map(id, [*ends, *between])))[:most]
    return [c for c in front if id(c) in kept]


@dataclass(frozen=True, repr=False)
class Plan(Report):
    """The answers to "what should I buy or rent, how do I lay it out, what does it cost?".

    choices    those that keep all limits, best first; those that keep them over their whole interval before others
    front      those that no other beats in everything at once
    columns    figure -> its head in the table
    told       figures of the verdict; default: all of the columns
    bounds     the limits
    refused    what was not taken, the nearest first, with the reason and by how much
    why        why the best is best, and what the next gives up
    about      more of the best, in lines
    changes    the smallest changes of what was asked that would make it possible
    notes      what was assumed
    counts     how many layouts were tried, valid and fit
    complete   whether all was tried: Ctrl-C keeps what was found until then
    """

    title: str
    choices: tuple[Choice, ...]
    front: tuple[Choice, ...]
    columns: Mapping[str, str]
    told: tuple[str, ...] = ()
    bounds: tuple[Bound, ...] = ()
    refused: tuple[Refusal, ...] = ()
    why: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    complete: bool = True

    @property
    def best(self) -> Choice:
        """The first of the choices."""
        if not self.choices:
            raise LLMHWError(f"{self.title}: {self.verdict}")
        return self.choices[0]

    @property
    def verdict(self) -> str:
        """What to take, or what is short."""
        if not self.choices:
            broken = ", ".join(str(b) for b in self.bounds if b.limit)
            nearest = f"{self.refused[0].place}: {self.refused[0].why}" if self.refused else ""
            found = said("Does not work within {limits}", limits=broken) if broken else said("Does not work")
            return found + (said("; nearest: {choice}.", choice=nearest) if nearest else said("."))
        best = self.choices[0]
        names = [name for name in self.told or self.columns if name in best.figures]
        told = ", ".join(f"{said(self.columns[name])} {best.figures[name]}" for name in names)
        told += "; " + self.holds(best) if best.misses(self.bounds, sure=True) else ""
        return said("Take {place}: {told}.", place=best.place, told=told)

    def holds(self, choice: Choice) -> str:
        """Whether a choice keeps all limits over its interval: "yes", or what may be missed."""
        unsure = [said(self.columns.get(b.figure, b.figure)) for b in choice.misses(self.bounds, sure=True)]
        return said("not sure: {figures}", figures=", ".join(unsure)) if unsure else "yes"

    def tables(self) -> list[Table]:
        shown = [name for name in self.columns if any(name in c.figures for c in (*self.choices, *self.front))]
        heads = ("", "devices", *(self.columns[name] for name in shown), "holds", "layout")

        def rows(choices: Iterable[Choice]) -> list[tuple[str, ...]]:
            return [
                (str(i), c.place, *(_told(c.figures.get(name)) for name in shown), self.holds(c), c.layout)
                for i, c in enumerate(choices, 1)
            ]

        tables = [Table(self.title, heads, rows(self.choices) or [("", "none", *[""] * (len(heads) - 2))], right=2)]
        others = [c for c in self.front if c not in self.choices]
        if others:
            some = few(others, ("days", "devices", "headroom"), _FEW)
            title = "others that nothing beats in everything at once"
            if len(some) < len(others):
                title = said(
                    "others that nothing beats in everything at once, {some} of {all}", some=len(some), all=len(others)
                )
            tables.append(Table(title, heads, rows(some), right=2))
        return tables

    def footer(self) -> list[str]:
        lines = [*(said("Why: {text}", text=line) for line in self.why), *self.about]
        shown = _of_each_device(self.refused)[:_REFUSED]
        lines += [said("refused: {place}: {why}", place=one.place, why=one.why) for one in shown]
        if len(self.refused) > len(shown):
            lines.append(said("refused: {number:,} more (--json lists them)", number=len(self.refused) - len(shown)))
        if self.counts:
            counts = ", ".join(f"{count:,} {said(name)}" for name, count in self.counts.items())
            lines.append(said("layouts: {counts}", counts=counts))
        return lines

    def warnings(self) -> Sequence[str]:
        return self.notes

    def next_steps(self) -> Sequence[str]:
        return self.changes

    def records(self) -> Sequence[Mapping[str, Any]]:
        front = [c for c in self.front if c not in self.choices]
        ranked = [({"rank": i}, c) for i, c in enumerate(self.choices, 1)] + [({"rank": None}, c) for c in front]
        return [{**rank, "holds": self.holds(c), **c.to_dict()} for rank, c in ranked]

    def to_row(self) -> dict[str, Any]:
        """The best choice, as a row of a table of many plans."""
        best = self.choices[0].to_dict() if self.choices else {}
        return {"title": self.title, "verdict": self.verdict, "fits": bool(self.choices), **best}

    def to_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "verdict": self.verdict,
            "choices": [{"rank": i, "holds": self.holds(c), **c.to_dict()} for i, c in enumerate(self.choices, 1)],
            "front": [c.to_dict() for c in self.front],
            "refused": [{"place": one.place, "why": one.why} for one in self.refused],
            "why": list(self.why),
            "about": list(self.about),
            "changes": list(self.changes),
            "notes": list(self.notes),
            "counts": dict(self.counts),
            "complete": self.complete,
        }


def _of_each_device(refused: Iterable[Refusal]) -> list[Refusal]:
    """The first, thus the nearest, refusal of each kind of device."""
    found: dict[str, Refusal] = {}
    for one in refused:
        found.setdefault(one.place.partition(" x ")[2].partition(" (")[0] or one.place, one)
    return list(found.values())


_FEW, _REFUSED = 8, 5  # rows of a front, and refusals, that are shown


def _told(figure: Figure | None) -> str:
    if figure is not None and figure.unit == "count":
        return str(figure)
    return "-" if figure is None else format_quantity(*_in_seconds(figure.value, figure.unit))


def _in_seconds(values: Any, unit: str) -> tuple[Any, str]:
    """Days as seconds, which are told in the unit that suits them."""
    if unit != "days":
        return values, unit
    return ([86400 * v for v in values] if isinstance(values, list) else 86400 * values), "seconds"
