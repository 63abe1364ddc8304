"""Rows of spans and meters beside them, and the file of the Trace Event Format that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from llmhw.checks import check_object
from llmhw.units import LLMHWError


@dataclass(frozen=True, slots=True)
class Span:
    """Something that takes time, on one row.

    row      its number
    name     what it is
    start, seconds   from the beginning of the timeline
    kind     what it is of: spans of one kind are alike
    parts    seconds by name of what it consists of, in turn; they add up to `seconds`, or are not known
    facts    what more there is to say of it
    """

    row: int
    name: str
    start: float
    seconds: float
    kind: str
    parts: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def end(self) -> float:
        """When it is over."""
        return self.start + self.seconds


@dataclass(frozen=True, slots=True)
class Level:
    """What a meter shows from a moment on.

    name     of the meter
    at       seconds from the beginning
    values   by name, in the meter's unit
    """

    name: str
    at: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Timeline:
    """Rows of spans, and meters beside them.

    title     what it is of
    rows      names of the rows
    seconds   from its beginning to its end
    notes     what must be known to read it
    """

    title: str
    rows: tuple[str, ...]
    spans: tuple[Span, ...]
    levels: tuple[Level, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    def sums(self, row: int) -> dict[str, float]:
        """Seconds of each part on a row; of a span without parts, of its kind."""
        found: dict[str, float] = {}
        for span in self.spans:
            if span.row == row:
                for name, seconds in (span.parts or {span.kind: span.seconds}).items():
                    found[name] = found.get(name, 0.0) + seconds
        return found

    def to_dict(self) -> dict[str, Any]:
        """The Trace Event Format: times in microseconds, complete events (X), counters (C), names (M)."""
        from llmhw import __version__

        events = [_named("process_name", 0, self.title)]
        for i, name in enumerate(self.rows):
            events += [_named("thread_name", i, name), _named("thread_sort_index", i, i)]
        for span in sorted(self.spans, key=lambda span: (span.start, -span.seconds)):
            events += _events(span)
        for level in self.levels:
            counted = {"ph": "C", "pid": _PROCESS, "name": level.name, "ts": level.at * 1e6}
            events.append(counted | {"args": dict(level.values)})
        told = {"title": self.title, "seconds": self.seconds, "notes": list(self.notes), "llmhw_version": __version__}
        return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": told}


_PROCESS = 1
# Microseconds by which the last part of a span ends before the span: readers round to nanoseconds, and drop what seems
# to end behind the span that it lies in.
_WITHIN = 2e-3


def _named(what: str, row: int, name: Any) -> dict[str, Any]:
    key = "sort_index" if what == "thread_sort_index" else "name"
    return {"ph": "M", "pid": _PROCESS, "tid": row, "name": what, "args": {key: name}}


def _events(span: Span) -> Iterator[dict[str, Any]]:
    """A span and the parts within it, of which `args` has the exact seconds."""
    same = {"ph": "X", "pid": _PROCESS, "tid": span.row}
    at, long = span.start * 1e6, span.seconds * 1e6
    yield {**same, "name": span.name, "cat": span.kind, "ts": at, "dur": long, "args": dict(span.facts)}
    for name, seconds in span.parts.items() if len(span.parts) > 1 else ():
        end = min(at + seconds * 1e6, span.start * 1e6 + long - _WITHIN)
        if end > at:
            yield {**same, "name": name, "cat": "part", "ts": at, "dur": end - at, "args": {"seconds": seconds}}
        at += seconds * 1e6


def in_turn(row: int, parts: Mapping[str, float], start: float) -> list[Span]:
    """Spans one after another, each of the kind that its name says."""
    found = []
    for name, seconds in parts.items():
        found.append(Span(row, name, start, seconds, name))
        start += seconds
    return found


def write(timeline: Timeline, path: str | PathLike[str], *, inputs: Iterable[str | PathLike[str]] = ()) -> None:
    """Write a timeline to a file, whole or not at all.

    inputs   files that it was made from, which are never written onto

    Raises `LLMHWError` for a name that does not end in .json, and if the path cannot be written.
    """
    import json

    from llmhw.files import write_whole

    check_object("timeline", timeline, "Timeline")
    check_name(path, inputs)
    write_whole(path, lambda: json.dumps(timeline.to_dict(), separators=(",", ":"), allow_nan=False), inputs=inputs)


def check_name(path: str | PathLike[str], inputs: Iterable[str | PathLike[str]] = ()) -> None:
    """Raise `LLMHWError` if no timeline is written to a file of this name: it must end in .json."""
    from llmhw.files import check_output

    check_output(path, inputs)
    if not str(path).lower().endswith(".json"):
        raise LLMHWError(f"timeline={str(path)!r} must end in .json: it is a Chrome trace, which Perfetto opens")
