"""Constants fitted to measurements, and what they come to on rows that were left out of the fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import partial
from math import exp
from statistics import median
from typing import Any

from llmhw.catalog import read_calibration
from llmhw.units import LLMHWError
from llmhw.validation.kinds import KINDS, Predictor, Progress, Timed, counted, open_table, validate
from llmhw.validation.regression import priors, robust_fit, rounded, with_constants
from llmhw.validation.statistics import Group, Validation, percentile, source_family
from llmhw.validation.table import Row, Source

# Configurations that an interval is read from, at least.
LEAST = 10
# Parts that the configurations of a single source are dealt to, each left out once.
_PARTS = 5

_TIMED = "Huber's loss on log(predicted / measured), normal priors on the logarithms of the constants"
_OTHERS = "least mean of |predicted / measured - 1|"

# What `calibration.json` says about its own fit, and nobody else's.
_ABOUT = ("date", "data", "method", "residuals", "left_out", "unfitted", "distance", "fitted")

# Votes of a source's rows of one device and model are this power of their number fewer than the rows: they share what
# is special about them. Between one vote in all (1) and one each (0); of 0 and 0.5, that with which left-out sources
# are predicted better.
_ALIKE = 0.5


def fit(source: Source | None, kind: str, *, fresh: bool = False) -> dict[str, Any]:
    """The constants that suit the rows of a table best, as `validate` takes them.

    source, kind   as in `validate`
    fresh          start constants of time from their priors, as those of `calibration.json` were made; default: from
                   its values, so that few rows move what they say something about and leave the rest

    Rows that are repeats, were not opened or cannot be read do not count. Intervals are not known: see `calibration`.
    Raises `LLMHWError` for a kind without constants.

    >>> fit(None, "training-memory")["reserved_over_allocated"]
    1.05
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
                         out. A meter with fewer than `LEAST` configurations has none, and `no_interval` says so
    """
    rows = usable(source, kind)
    timed = KINDS[kind].timed
    if timed is not None:
        return _timed_calibration(kind, timed, rows, fresh, progress)
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
        "method": f"{_OTHERS}, one vote a configuration; left_out is of {together} left out of the fit",
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
    sizes = [abs(group.error) for group in groups]
    if not sizes:
        return {"groups": 0}
    return _percentiles(sizes, [group.error for group in groups])


def _fit(kind: str, fresh: bool, rows: list[Row]) -> dict[str, Any]:
    chosen = KINDS[kind]
    if chosen.timed is not None:
        notes = _Notes(kind, chosen.timed, rows, fresh)
        return notes.calibration(notes.fit())
    assert chosen.fit is not None
    return chosen.fit(rows)


def _bare(subject: str) -> dict[str, Any]:
    """Known constants without what speaks for them."""
    known = {name: value for name, value in read_calibration(subject).items() if name not in _ABOUT}
    return known | {"interval": {}}


class _Notes:
    """Rows of a table on a tape (`llmhw.validation.tape`), to be fitted in seconds, with and without some of them.

    One vote a configuration: the median of its rows.
    """

    def __init__(self, kind: str, timed: Timed, rows: list[Row], fresh: bool) -> None:
        import numpy

        from llmhw.validation.tape import Tape

        self.timed, self.known = timed, _bare(timed.subject)
        self.priors = priors(self.known, fresh)
        self.names = self.priors.names
        tape = Tape()
        results: list[Any] = []
        measured: dict[tuple[str, ...], list[float]] = {}
        predict, self.kinds, self.meters, self.alike = Predictor(kind, self.known), [], [], []
        signs: list[int] = []
        for row in rows:
            try:
                found = predict(row)
                key = (source_family(row.source), row["software"], found.meter, *found.configuration)
                if key not in measured:
                    leaves = {name: tape.leaf(name, len(results)) for name in self.names}
                    what = timed.kinds(row, self.known)
                    results.append(timed.noted(row, with_constants(self.known, leaves)))
                    self.kinds.append(what)
                    self.meters.append(found.meter)
                    self.alike.append((what["source"], row["device"] or row["gpu"], found.configuration[0]))
                    signs.append(1 if found.unit == "seconds" else -1)
            except LLMHWError:
                continue
            measured.setdefault(key, []).append(found.measured)
        if not results:
            raise LLMHWError("rows=[] has no row that can be predicted, so nothing can be fitted")
        self.signs = numpy.array(signs)
        self.measured = numpy.log([median(same) for same in measured.values()])
        self._replay = tape.replay(results, self.names)

    def residuals(self, values: Any) -> Any:
        """log(predicted / measured time) of each configuration."""
        import numpy

        return self.signs * (numpy.log(self._replay(values)[0]) - self.measured)

    def _slopes(self, values: Any, found: Any) -> Any:
        results, slopes = self._replay(values, slopes=True)
        return (self.signs / results)[:, None] * slopes * values

    def fit(self, votes: Any = None) -> Any:
        """The constants that suit the rows with votes best."""
        import numpy

        counted = numpy.ones(len(self.kinds), dtype=bool) if votes is None else votes
        alike = Counter(key for key, one in zip(self.alike, counted, strict=True) if one)
        weights = numpy.array([alike[key] ** -_ALIKE if alike[key] else 0.0 for key in self.alike]) * counted
        p = self.priors
        how: dict[str, Any] = {"noise": self.timed.noise, "weights": weights, "rounds": 10}
        found: Any = robust_fit(self.residuals, self._slopes, p.start, p.spread, p.most, **how)
        return numpy.array(found)

    @property
    def distances(self) -> list[str]:
        """What a question may differ in from all that was fitted: the source, then `Timed.kinds`."""
        return [what for what in self.kinds[0] if what != "assumed"]

    def left_out(self, what: str) -> Any:
        """Residuals of each configuration under constants fitted without all that are alike in `what`.

        Of a single source a part of the configurations is left out in turn.
        """
        import numpy

        found = numpy.zeros(len(self.kinds))
        names = numpy.array([kind[what] for kind in self.kinds])
        if what == "source" and len(set(names)) == 1:
            names = numpy.array([str(i % _PARTS) for i in range(len(names))])
        for name in sorted(set(names)):
            held = names == name
            found[held] = self.residuals(self.fit(~held))[held]
        return found

    def known_elsewhere(self) -> Any:
        """Whether each configuration is of nothing that only its own source has."""
        import numpy

        found = numpy.ones(len(self.kinds), dtype=bool)
        for what in self.distances[1:]:
            places: dict[str, set[str]] = {}
            for kind in self.kinds:
                places.setdefault(kind[what], set()).add(kind["source"])
            found &= numpy.array([len(places[kind[what]]) > 1 for kind in self.kinds])
        return found

    def calibration(self, values: Any) -> dict[str, Any]:
        """The known constants with these values."""
        return with_constants(self.known, {n: rounded(v) for n, v in zip(self.names, values, strict=True)})


def _timed_calibration(
    kind: str, timed: Timed, rows: list[Row], fresh: bool, progress: Progress | None
) -> dict[str, Any]:
    """What `calibration` gives for constants of time: each of a row's `kinds` is left out in turn."""
    import numpy

    tell = progress or (lambda done, total: None)
    tell(0, 1)
    notes = _Notes(kind, timed, rows, fresh)
    distances = notes.distances
    values = notes.fit()
    made = notes.calibration(values)
    unseen = {}
    for done, what in enumerate(distances, 1):
        tell(done, len(distances) + 1)
        unseen[what] = notes.left_out(what)
    tell(len(distances) + 1, len(distances) + 1)
    meters = sorted(set(notes.meters))
    own = numpy.array(notes.meters)
    start = numpy.array([float(notes.known["prior"][name]["value"]) for name in notes.names])

    def errors_of(residuals: Any, chosen: Any) -> dict[str, Any]:
        return _of_residuals(notes.signs[chosen] * residuals[chosen])

    def by_meter(residuals: Any) -> dict[str, Any]:
        return {meter: errors_of(residuals, own == meter) for meter in meters}

    sources = sorted({found["source"] for found in notes.kinds})
    by_source = numpy.array([sources.index(found["source"]) for found in notes.kinds])
    held = [f"one {what}" for what in distances]
    if len(sources) == 1:
        held[0] = f"single configurations, a part of {_PARTS}"
    made |= {
        "date": date.today().isoformat(),
        "data": f"{len(notes.kinds)} configurations, llmhw validate --kind {kind}",
        "method": f"{_TIMED}; a source's n rows of one device and model have n^{1 - _ALIKE:g} votes. left_out: "
        f"all of {', '.join(held)} at a time",
        "residuals": by_meter(notes.residuals(values)),
        "unfitted": by_meter(notes.residuals(start)),
        "left_out": by_meter(unseen["source"])
        | {"sources": {name: errors_of(unseen["source"], by_source == i) for i, name in enumerate(sources)}}
        | {what: by_meter(unseen[what]) for what in distances[1:]},
        "fitted": {what: sorted({found[what] for found in notes.kinds}) for what in distances[1:]} | {"assumed": [""]},
    }
    assumed = numpy.array([bool(found.get("assumed")) for found in notes.kinds])
    plain = notes.known_elsewhere() & ~assumed
    made["distance"] = {}
    for meter in meters:
        here = own == meter
        if here.sum() < LEAST:
            continue
        # what is new to a fit only by its source; widths of independent errors add up as squares do
        width = _width(unseen["source"][here & plain if (here & plain).sum() >= LEAST else here])
        made["interval"][meter] = [round(exp(-width), 3), round(exp(width), 3)]
        apart = {what: unseen[what][here] for what in distances[1:]}
        apart["assumed"] = unseen["source"][here & assumed]
        made["distance"][meter] = {
            what: round(max(0.0, _width(found) ** 2 - width**2) ** 0.5, 3)
            for what, found in apart.items()
            if len(found) >= LEAST
        }
    missing = [meter for meter in meters if meter not in made["interval"]]
    if missing:
        made["no_interval"] = f"fewer than {LEAST} configurations were left out of a fit: {', '.join(missing)}"
    return made


def _width(residuals: Any) -> float:
    """What 80 % of residuals are smaller than."""
    return percentile([abs(r) for r in residuals], 80)


def _of_residuals(residuals: Sequence[float]) -> dict[str, Any]:
    """What log(predicted / measured) of so many configurations come to."""
    found = [exp(r) - 1 for r in residuals]
    sizes = [abs(e) for e in found]
    return _percentiles(sizes, found) if found else {"groups": 0}


def _percentiles(sizes: list[float], signed: list[float]) -> dict[str, Any]:
    return {
        "groups": len(sizes),
        "median_abs_error": round(percentile(sizes, 50), 4),
        "p90_abs_error": round(percentile(sizes, 90), 4),
        "mean_abs_error": round(sum(sizes) / len(sizes), 4),
        "bias": round(percentile(signed, 50), 4),
    }


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
