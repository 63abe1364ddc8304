"""Predictions beside measurements: groups with one vote each, errors, and how they are printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import median
from typing import Any

from llmhw.formula import Report, Table
from llmhw.units import LLMHWError, format_quantity, plain_fields, shown

# Reasons that are printed; a source has a row of its own up to so many sources.
_MOST_REASONS = 40
_MOST_SOURCES = 200

COLUMNS = ("source", "rows", "skipped", "groups", "median", "p90", "bias", "in interval", "largest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One measured row with what is predicted for it.

    predicted, measured   of one thing in one unit, measured above 0
    unit            of both: bytes, tokens/s, ...; printed by `llmhw.units.format_quantity`
    meter           how it was measured, where that matters: allocated, reserved or device for memory
    low, high       the interval that holds the measured value in 80 % of cases, None if the predictor gives none
    parts           what the prediction was made of, for a fit of constants
    id, source, configuration   of the row; `validate` fills them in. Rows with the same configuration are one group
    """

    predicted: float
    measured: float
    unit: str
    meter: str = ""
    low: float | None = None
    high: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    id: str = ""
    source: str = ""
    configuration: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True, slots=True)
class Group:
    """One configuration: the medians of its rows. Successive releases of one source may be in one group.

    source   that of the first row
    """

    source: str
    configuration: tuple[str, ...]
    ids: tuple[str, ...]
    unit: str
    meter: str
    predicted: float
    measured: float
    low: float | None = None
    high: float | None = None

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted / self.measured - 1

    @property
    def covered(self) -> bool | None:
        """Whether the measured value lies in the interval; None if there is none."""
        if self.low is None or self.high is None:
            return None
        return self.low <= self.measured <= self.high

    def to_dict(self) -> dict[str, Any]:
        """Plain values in base units."""
        return plain_fields(self) | {"error": self.error}


@cache
def source_family(source: str) -> str:
    """The source without a release or version at its end: successive releases measure the same things again.

    A release is "v4" or "4.1" or "26.04.01", alone or behind "version" or "release"; a plain number is none, nor is
    the number of a table, figure or section.

    >>> source_family("MLPerf Training v4.1")
    'MLPerf Training'
    >>> source_family("LLaMA (Touvron 2023) Sec 2.4")
    'LLaMA (Touvron 2023) Sec 2.4'
    """
    import re

    name = source.strip()
    release = r"(?:v\d+(?:\.\d+)*|\d+(?:\.\d+)+)(?:[.-]?(?:rc|post|dev)\d*)?"
    found = re.fullmatch(rf"(.*\S)\s+(?:{release}|\({release}\))", name, re.IGNORECASE)
    part = r"\b(?:tab|tables?|fig|figures?|sec|sections?|chapters?|appendix|eq)\.?$"
    if not found or re.search(part, found[1], re.IGNORECASE):
        return name
    return re.sub(r",?(?:\s+(?:version|release))?$", "", found[1], flags=re.IGNORECASE)


def groups(rows: Iterable[Prediction], family: Callable[[str], str] = source_family) -> Iterator[Group]:
    """One group for each configuration, unit and meter of each source family.

    family   what of a source's name tells families apart; default: its name without the release
    """
    found: dict[tuple[Any, ...], list[Prediction]] = {}
    for row in rows:
        found.setdefault((family(row.source), row.configuration, row.unit, row.meter), []).append(row)
    for same in found.values():
        lows = [r.low for r in same if r.low is not None]
        highs = [r.high for r in same if r.high is not None]
        yield Group(
            same[0].source,
            same[0].configuration,
            tuple(r.id for r in same),
            same[0].unit,
            same[0].meter,
            median(r.predicted for r in same),
            median(r.measured for r in same),
            median(lows) if lows and highs else None,
            median(highs) if lows and highs else None,
        )


def scaled(predicted: float, interval: Sequence[float] | None, unit: str) -> tuple[float, float] | tuple[None, None]:
    """The low and high end of a prediction.

    interval   least and most of measured over predicted time; None if it is not known
    unit       of the prediction: seconds, or a rate, which is low where time is high
    """
    if interval is None:
        return None, None
    low, high = interval if unit == "seconds" else (1 / interval[1], 1 / interval[0])
    return predicted * low, predicted * high


def percentile(values: Iterable[float], percent: float) -> float:
    """A percentile, linear between neighbours.

    >>> percentile([1, 2, 3, 4], 50)
    2.5
    """
    ordered = sorted(values)
    if not ordered:
        raise LLMHWError("values=[] has no percentile; no row of this table could be predicted")
    at = (len(ordered) - 1) * percent / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def error_summary(errors: Sequence[float]) -> dict[str, Any]:
    """How many errors there are, and what they come to.

    >>> error_summary([0.1, -0.2, 0.0])["median_abs_error"]
    0.1
    """
    if not len(errors):
        return {"groups": 0}
    sizes = [abs(error) for error in errors]
    return {
        "groups": len(sizes),
        "median_abs_error": round(percentile(sizes, 50), 4),
        "p90_abs_error": round(percentile(sizes, 90), 4),
        "mean_abs_error": round(sum(sizes) / len(sizes), 4),
        "bias": round(percentile(errors, 50), 4),
    }


@dataclass(frozen=True, slots=True, repr=False)
class Validation(Report):
    """Predictions beside measurements; one vote for each group.

    rows      every row that was predicted
    skipped   (id, source, reason) of every other row
    groups    the configurations. Rows of successive releases of one source share them (see `source_family`), except
              in `by_source`, where each source forms groups of its own: those may add up to more
    kind      what was validated, and
    title     its name for people
    unread    columns of the table that say nothing to this kind
    note      where it was interrupted, "" if it was not
    repeats   (id, source, row that it repeats) of rows that count already: these are not skipped
    """

    rows: tuple[Prediction, ...]
    skipped: tuple[tuple[str, str, str], ...]
    groups: tuple[Group, ...]
    kind: str = ""
    title: str = ""
    unread: tuple[str, ...] = ()
    note: str = ""
    repeats: tuple[tuple[str, str, str], ...] = ()

    @property
    def predicted(self) -> int:
        """How many values were predicted."""
        return len(self.rows)

    @property
    def complete(self) -> bool:
        """Whether all rows were gone through."""
        return not self.note

    @property
    def verdict(self) -> str:
        """How many rows were predicted, and how well."""
        total = len(self.rows) + len(self.skipped)
        counted = f"{len(self.rows):,} of {total:,} row{'' if total == 1 else 's'} predicted"
        if self.repeats:
            counted += f" ({len(self.repeats):,} repeat{'' if len(self.repeats) == 1 else 's'} apart)"
        start = f"{self.note[:1].upper()}{self.note[1:]}; " if self.note else ""
        if not self.groups:
            return f"{start}{counted}"
        middle, high, inside = (_percent(v, "") for v in (self.median_abs_error, self.p90_abs_error, self.coverage80))
        held = "" if inside == "-" else f"; {inside} lie in their 80 % intervals"
        return f"{start}{counted}: median error {middle}, 90th percentile {high}{held}"

    def warnings(self) -> list[str]:
        """What must be known to trust the numbers."""
        found = []
        if self.unread:
            names = ", ".join(shown(name, 60) for name in self.unread[:8])
            more = f" and {len(self.unread) - 8} more" if len(self.unread) > 8 else ""
            found.append(f"Not read, as no column of this kind is called so: {names}{more}.")
        if 0 < len(self.groups) < 10:
            configurations = "1 configuration" if len(self.groups) == 1 else f"{len(self.groups)} configurations"
            found.append(f"{configurations} only: the percentiles of so few say little.")
        return found

    def to_row(self) -> dict[str, Any]:
        """The kind, then counts, errors and coverage."""
        return {"kind": self.kind, **self._numbers(), "largest_error": self.largest, "complete": self.complete}

    @property
    def median_abs_error(self) -> float | None:
        """Median of |predicted / measured - 1| over the groups; None if there are none."""
        return percentile([abs(g.error) for g in self.groups], 50) if self.groups else None

    @property
    def p90_abs_error(self) -> float | None:
        """90th percentile of |predicted / measured - 1| over the groups; None if there are none."""
        return percentile([abs(g.error) for g in self.groups], 90) if self.groups else None

    @property
    def bias(self) -> float | None:
        """Median of predicted / measured - 1, below 0 where predictions are low; None if there are no groups."""
        return percentile([g.error for g in self.groups], 50) if self.groups else None

    @property
    def coverage80(self) -> float | None:
        """Share of the groups with an interval whose measured value lies in it; None if no group has one."""
        covered = [g.covered for g in self.groups if g.covered is not None]
        return sum(covered) / len(covered) if covered else None

    @property
    def largest(self) -> float | None:
        """The error that is furthest from 0, with its sign; None if there are no groups."""
        return max((g.error for g in self.groups), key=abs, default=None)

    def worst(self, count: int = 10) -> list[Group]:
        """The groups with the largest errors, largest first."""
        return sorted(self.groups, key=lambda g: -abs(g.error))[:count]

    def by_source(self) -> dict[str, Validation]:
        """The same for each source of the table alone, in its order; groups are formed inside each source."""
        rows: dict[str, list[Prediction]] = {}
        skipped: dict[str, list[tuple[str, str, str]]] = {}
        for r in self.rows:
            rows.setdefault(r.source, []).append(r)
        for s in self.skipped:
            skipped.setdefault(s[1], []).append(s)
        return {
            name: Validation(
                tuple(rows.get(name, ())),
                tuple(skipped.get(name, ())),
                tuple(groups(rows.get(name, ()), str)),
                self.kind,
                self.title,
                repeats=tuple(one for one in self.repeats if one[1] == name),
            )
            for name in {**rows, **skipped}
        }

    def by_meter(self) -> dict[str, Validation]:
        """The same for each way of measuring alone, such as prompts and decoded tokens; nothing is skipped in these."""
        rows: dict[str, list[Prediction]] = {}
        grouped: dict[str, list[Group]] = {}
        for r in self.rows:
            rows.setdefault(r.meter, []).append(r)
        for g in self.groups:
            grouped.setdefault(g.meter, []).append(g)
        return {
            name: Validation(tuple(rows[name]), (), tuple(same), self.kind, self.title)
            for name, same in grouped.items()
        }

    def reasons(self) -> list[tuple[str, int]]:
        """Why rows were skipped, and how many of them, most first."""
        return Counter(reason.removeprefix(f"{name}: ") for name, _, reason in self.skipped).most_common()

    def _numbers(self) -> dict[str, Any]:
        return {
            "rows": len(self.rows),
            "skipped": len(self.skipped),
            "repeats": len(self.repeats),
            "groups": len(self.groups),
            "median_abs_error": self.median_abs_error,
            "p90_abs_error": self.p90_abs_error,
            "bias": self.bias,
            "coverage80": self.coverage80,
        }

    def to_dict(self, *, worst: int = 10) -> dict[str, Any]:
        """Plain values: counts, errors and coverage as shares (None if nothing was predicted), by source and meter.

        worst   how many of the groups with the largest errors to list
        """
        return {
            "kind": self.kind,
            "verdict": self.verdict,
            **self._numbers(),
            "complete": self.complete,
            "by_source": {name: part._numbers() for name, part in self.by_source().items()},
            "by_meter": {name: part._numbers() for name, part in self.by_meter().items()},
            "worst": [group.to_dict() for group in self.worst(worst)],
            "skipped_rows": [{"id": i, "source": s, "reason": why} for i, s, why in self.skipped],
        }

    def table(self) -> list[tuple[str, ...]]:
        """One row a source, one a meter where there are several, and one for all, as text: see `COLUMNS`."""
        lines: list[tuple[str, ...]] = []
        meters = self.by_meter()
        several = [(f"all: {name}", part) for name, part in meters.items()] if len(meters) > 1 else []
        sources = list(self.by_source().items())
        if len(sources) > _MOST_SOURCES:
            sources.sort(key=lambda item: -len(item[1].rows) - len(item[1].skipped))
            sources = sources[:_MOST_SOURCES]
        for name, part in [*sources, *several, ("all", self)]:
            counts = (len(part.rows), len(part.skipped), len(part.groups))
            shares = (
                (part.median_abs_error, ""),
                (part.p90_abs_error, ""),
                (part.bias, "+"),
                (part.coverage80, ""),
                (part.largest, "+"),
            )
            lines.append((name, *map(str, counts), *(_percent(value, sign) for value, sign in shares)))
        return lines

    def sections(self, *, worst: int = 10) -> list[Table]:
        """What is printed: title, columns and rows of the errors, the worst groups and the reasons for skipped rows.

        Reasons are whole; of sources and reasons, those with the most rows are listed.
        """
        title = f"{self.title or self.kind}: |predicted / measured - 1|, one vote a configuration"
        found = [Table(title, COLUMNS, self.table())]
        listed = self.worst(worst)
        if listed:
            rows = [
                (
                    f"{100 * g.error:+z.1f} %",
                    format_quantity(g.predicted, g.unit),
                    format_quantity(g.measured, g.unit),
                    ", ".join(g.ids[:4]) + (f" and {len(g.ids) - 4} more" if len(g.ids) > 4 else ""),
                    g.source,
                )
                for g in listed
            ]
            columns = ("error", "predicted", "measured", "ids", "source")
            found.append(Table(f"the {len(rows)} largest errors", columns, rows))
        if self.skipped:
            counted = self.reasons()
            reasons = [(str(count), reason) for reason, count in counted[:_MOST_REASONS]]
            if len(counted) > _MOST_REASONS:
                rest = sum(count for _, count in counted[_MOST_REASONS:])
                reasons.append((str(rest), f"{len(counted) - _MOST_REASONS:,} more reasons: `skipped` has all"))
            found.append(Table("skipped rows", ("rows", "reason"), reasons, prose=True))
        return found

    def tables(self) -> list[Table]:
        return self.sections(worst=0)[:1]

    def records(self) -> list[dict[str, Any]]:
        """Counts, errors and coverage of each source and of all."""
        return [{"source": name} | part._numbers() for name, part in [*self.by_source().items(), ("all", self)]]

    index = "source"


def _percent(value: float | None, sign: str) -> str:
    return "-" if value is None else f"{100 * value:{sign}z.1f} %"
