"""Constants fitted to measurements, and what they come to on rows that were left out of the fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date
from functools import partial
from typing import Any

from llmhw.units import LLMHWError
from llmhw.validation.kinds import KINDS, Predictor, Progress, counted, open_table, validate
from llmhw.validation.statistics import Group, Validation, error_summary, source_family
from llmhw.validation.table import Row, Source
from llmhw.validation.timed import Notes, timed_calibration

# Parts that the configurations of a single source are dealt to, each left out once.
_PARTS = 5


def fit(source: Source | None, kind: str, *, fresh: bool = False) -> dict[str, Any]:
    """The constants that suit the rows of a table best, as `validate` takes them.

    source, kind   as in `validate`
    fresh          start constants of time from their priors, as those of `calibration.json` were made; default: from
                   its values, so that few rows move what they say something about and leave the rest

    Rows that are repeats, were not opened or cannot be read do not count. Intervals are not known: see `calibration`.
    Raises `LLMHWError` for a kind without constants.

    >>> 1 < fit(None, "training-memory")["reserved_over_allocated"] < 1.2
    True
    """
    return _fit(kind, fresh, usable(source, kind))


def calibration(
    source: Source | None,
    kind: str,
    *,
    fresh: bool = False,
    each: Callable[..., Iterable[Validation]] = map,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What `fit` gives, with what speaks for it: as `--fit` writes it.

    source, kind, fresh   as in `fit`
    each                  `map`, or that of a pool of processes
    progress              called as progress(fits done, fits in all)

    date, data, method   of this fit
    residuals            errors on the rows themselves, by meter
    left_out             errors on rows that a fit has not seen, by meter and by source: all sources of a cluster are
                         left out together, of a single one a fifth of its configurations
    interval             for constants of time: least and most of measured over predicted time of 80 % of what was left
                         out. A meter with few configurations has none, and `no_interval` says so
    """
    rows = usable(source, kind)
    timed = KINDS[kind].timed
    if timed is not None:
        return timed_calibration(kind, timed, rows, fresh, progress)
    together, parts = _parts(kind, rows)
    tell = progress or (lambda done, total: None)
    tell(0, len(parts) + 1)
    made = _fit(kind, fresh, rows)
    tell(1, len(parts) + 1)
    everything = validate(rows, kind, calibration=made)
    unseen: list[Group] = []
    for done, found in enumerate(each(partial(_left_out, kind, fresh, rows), parts), 2):
        unseen += found.groups
        tell(done, len(parts) + 1)
    meters = sorted({group.meter for group in everything.groups})
    made |= {
        "date": date.today().isoformat(),
        "data": f"{len(everything.groups)} configurations, llmhw validate --kind {kind}",
        "method": f"least mean of |predicted / measured - 1|, one vote a configuration; left_out is of {together} "
        "left out of the fit",
        "residuals": {meter: errors([g for g in everything.groups if g.meter == meter]) for meter in meters},
        "left_out": {meter: errors([g for g in unseen if g.meter == meter]) for meter in meters},
    }
    families = sorted({source_family(group.source) for group in unseen})
    made["left_out"]["sources"] = {
        name: errors([g for g in unseen if source_family(g.source) == name]) for name in families
    }
    return made


def usable(source: Source | None, kind: str) -> list[Row]:
    """Rows that count: read by somebody, no repeats, with a measured value."""
    chosen, table = open_table(source, kind)
    if not chosen.fits:
        fitting = ", ".join(name for name, other in KINDS.items() if other.fits)
        raise LLMHWError(f"kind={kind!r} has no constants to fit; these have: {fitting}")
    rows = []
    for row in counted(chosen, table.rows):
        try:
            row.check(chosen.measured)
        except LLMHWError:
            continue
        rows.append(row)
    return rows


def errors(groups: list[Group]) -> dict[str, Any]:
    """What the errors of so many groups come to."""
    return error_summary([group.error for group in groups])


def _fit(kind: str, fresh: bool, rows: list[Row]) -> dict[str, Any]:
    chosen = KINDS[kind]
    if chosen.timed is not None:
        notes = Notes(kind, chosen.timed, rows, fresh)
        return notes.calibration(notes.fit())
    assert chosen.fit is not None
    return chosen.fit(rows)


def _parts(kind: str, rows: list[Row]) -> tuple[str, list[set[str]]]:
    """What is left out together, in words, and the names of the rows of each part."""
    clusters: dict[str, set[str]] = {}
    for row in rows:
        clusters.setdefault(row["cluster"] or source_family(row.source), set()).add(row.name)
    if len(clusters) > 1:
        return "whole sources", [clusters[name] for name in sorted(clusters)]
    configurations: dict[tuple[str, ...], set[str]] = {}
    predict = Predictor(kind)
    for row in rows:
        try:
            configurations.setdefault(predict(row).configuration, set()).add(row.name)
        except LLMHWError:
            continue
    dealt = list(configurations.values())
    return "single configurations", [set().union(*dealt[i::_PARTS]) for i in range(min(_PARTS, len(dealt)))]


def _left_out(kind: str, fresh: bool, rows: list[Row], names: set[str]) -> Validation:
    """Rows of these names, predicted with constants that were fitted to the others."""
    held, rest = ([row for row in rows if (row.name in names) is wanted] for wanted in (True, False))
    try:
        return validate(held, kind, calibration=_fit(kind, fresh, rest))
    except LLMHWError:
        return Validation((), (), ())  # the others tell nothing of these constants
