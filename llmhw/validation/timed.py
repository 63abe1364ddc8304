"""Constants of time: fitted to rows on a tape, judged on what was left out of the fit, and the intervals from that."""

from __future__ import annotations

from collections import Counter
from datetime import date
from functools import cached_property
from math import exp
from statistics import median
from typing import Any

from llmhw.catalog import read_calibration
from llmhw.step_interval import NEW, UNSTATED
from llmhw.units import LLMHWError
from llmhw.validation.kinds import Predictor, Progress, Timed
from llmhw.validation.regression import priors, robust_fit, rounded, with_constants
from llmhw.validation.statistics import error_summary, percentile, source_family
from llmhw.validation.table import Row

# Configurations that an interval is read from, at least.
LEAST = 10
# Parts that the configurations of a single source are dealt to, each left out once.
_PARTS = 5

_METHOD = "Huber's loss on log(predicted / measured), normal priors on the logarithms of the constants"

# What `calibration.json` says about its own fit, and nobody else's.
_ABOUT = ("date", "data", "method", "residuals", "left_out", "unfitted", "held", "distance", "fitted")


# The same where known constants are the start: the rows are of the machine that is asked about, and all count.
_OWN = 0.0


class Notes:
    """Rows of a table on a tape (`llmhw.validation.tape`), to be fitted in seconds, with and without some of them.

    One vote a configuration: the median of its rows. Rows that a table keeps out of fits (`fitted` is false: `held`),
    and those whose layout was searched, have none.
    """

    def __init__(self, kind: str, timed: Timed, rows: list[Row], fresh: bool) -> None:
        import numpy

        from llmhw.validation.tape import Tape

        known = read_calibration(timed.subject)
        self.timed, self.power = timed, timed.alike if fresh else _OWN
        self.known = {name: value for name, value in known.items() if name not in _ABOUT} | {"interval": {}}
        self.priors = priors(self.known, fresh)
        self.names = self.priors.names
        tape = Tape()
        results: list[Any] = []
        measured: dict[tuple[str, ...], list[float]] = {}
        predict, self.kinds, self.meters, self.alike = Predictor(kind, self.known), [], [], []
        self.flags: list[tuple[str, ...]] = []
        signs: list[int] = []
        held: list[bool] = []
        for row in rows:
            try:
                found = predict(row)
                key = (source_family(row.source), row["software"], found.meter, *found.configuration)
                if key not in measured:
                    leaves = {name: tape.leaf(name, len(results)) for name in self.names}
                    what = timed.kinds(row, self.known)
                    flags = timed.flags(row, self.known) if timed.flags else ()
                    results.append(timed.noted(row, with_constants(self.known, leaves)))
                    self.kinds.append(what)
                    self.flags.append(flags)
                    self.meters.append(found.meter)
                    self.alike.append((what["source"], row["device"] or row["gpu"], found.configuration[0]))
                    signs.append(1 if found.unit == "seconds" else -1)
                    held.append(row.flag("fitted") is False)
            except LLMHWError:
                continue
            measured.setdefault(key, []).append(found.measured)
        self.held = numpy.array(held, dtype=bool)
        searched = [UNSTATED["layout"] in flags for flags in self.flags]
        self.voting = ~self.held & ~numpy.array(searched, dtype=bool)
        if not self.voting.any():
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

    def fit(self, chosen: Any = True, begin: Any = None) -> Any:
        """The constants that suit the rows that have a vote best; `chosen`: only these; `begin`: where to start."""
        import numpy

        counted = self.voting & chosen
        p = self.priors
        how: dict[str, Any] = {"noise": self.timed.noise, "weights": self.votes(counted), "rounds": 10, "begin": begin}
        found: Any = robust_fit(self.residuals, self._slopes, p.start, p.spread, p.most, **how)
        return numpy.array(found)

    @cached_property
    def whole(self) -> Any:
        """The constants that suit all rows that have a vote."""
        return self.fit()

    def votes(self, counted: Any) -> Any:
        """What each of these configurations counts: those of one source, device and model share what is special."""
        import numpy

        alike = Counter(key for key, one in zip(self.alike, counted, strict=True) if one)
        return numpy.array([alike[key] ** -self.power if alike[key] else 0.0 for key in self.alike]) * counted

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
        # from where most rows are, a fit takes two rounds, not ten
        near = self.whole if self.timed.flags else None
        names = numpy.array([kind[what] for kind in self.kinds])
        if what == "source" and len(set(names)) == 1:
            names = numpy.array([str(i % _PARTS) for i in range(len(names))])
        for name in sorted(set(names)):
            held = names == name
            found[held] = self.residuals(self.fit(~held, near))[held]
        return found

    def alone(self, what: str) -> Any:
        """Whether no other source has each configuration's kind of `what`."""
        import numpy

        places: dict[str, set[str]] = {}
        for kind in self.kinds:
            places.setdefault(kind[what], set()).add(kind["source"])
        return numpy.array([len(places[kind[what]]) == 1 for kind in self.kinds])

    def calibration(self, values: Any) -> dict[str, Any]:
        """The known constants with these values."""
        return with_constants(self.known, {n: rounded(v) for n, v in zip(self.names, values, strict=True)})


def timed_calibration(
    kind: str, timed: Timed, rows: list[Row], fresh: bool, progress: Progress | None
) -> dict[str, Any]:
    """What `llmhw.validation.calibration` gives for constants of time: each of a row's `kinds` is left out in turn.

    unfitted   errors with the priors alone
    held       errors on the rows that a table keeps out of fits, by meter and source: they count nowhere else
    distance   by meter, how much wider an interval is for each flag or new kind: widths add up as squares do
    fitted     the kinds that the fit has seen
    """
    import numpy

    tell = progress or (lambda done, total: None)
    tell(0, 1)
    notes = Notes(kind, timed, rows, fresh)
    distances = notes.distances
    values = notes.whole
    made = notes.calibration(values)
    unseen = {}
    for done, what in enumerate(distances, 1):
        tell(done, len(distances) + 1)
        unseen[what] = notes.left_out(what)
    tell(len(distances) + 1, len(distances) + 1)
    own, judged = numpy.array(notes.meters), ~notes.held
    meters = sorted(set(own[judged].tolist()))
    prior = numpy.array([float(notes.known["prior"][name]["value"]) for name in notes.names])

    def errors_of(residuals: Any, chosen: Any) -> dict[str, Any]:
        return error_summary([exp(r) - 1 for r in notes.signs[chosen] * residuals[chosen]])

    def by_meter(residuals: Any, chosen: Any = judged) -> dict[str, Any]:
        return {
            meter: errors_of(residuals, chosen & (own == meter)) for meter in meters if (own[chosen] == meter).any()
        }

    def by_source(residuals: Any, chosen: Any = judged) -> dict[str, Any]:
        names = numpy.array([found["source"] for found in notes.kinds])
        return {name: errors_of(residuals, chosen & (names == name)) for name in sorted(set(names[chosen].tolist()))}

    held = [f"one {what}" for what in distances]
    if len({found["source"] for found in notes.kinds}) == 1:
        held[0] = f"single configurations, a part of {_PARTS}"
    residuals = notes.residuals(values)
    made |= {
        "date": date.today().isoformat(),
        "data": f"{judged.sum()} configurations, llmhw validate --kind {kind}",
        "method": f"{_METHOD}; a source's n rows of one device and model have n^{1 - notes.power:g} votes. left_out: "
        f"all of {', '.join(held)} at a time",
        "residuals": by_meter(residuals),
        "unfitted": by_meter(notes.residuals(prior)),
        "left_out": by_meter(unseen["source"])
        | {"sources": by_source(unseen["source"])}
        | {what: by_meter(unseen[what]) for what in distances[1:]},
        "fitted": {
            what: sorted({found[what] for found, votes in zip(notes.kinds, notes.voting, strict=True) if votes})
            for what in distances[1:]
        }
        | {"assumed": [""]},
    }
    if notes.held.any():
        made["held"] = by_meter(residuals, notes.held) | {"sources": by_source(residuals, notes.held)}
    widths = _by_distance if timed.flags is None else _by_flags
    made["interval"], made["distance"] = {}, {}
    for meter in meters:
        if (judged & (own == meter)).sum() >= LEAST:
            width, more = widths(notes, unseen, meter)
            made["interval"][meter] = [round(exp(-width), 3), round(exp(width), 3)]
            made["distance"][meter] = {what: round(wider, 3) for what, wider in more.items()}
    missing = [meter for meter in meters if meter not in made["interval"]]
    if missing:
        made["no_interval"] = f"fewer than {LEAST} configurations were left out of a fit: {', '.join(missing)}"
    return made


# -- intervals --------------------------------------------------------------------------------


def _width(residuals: Any) -> float:
    """What 80 % of residuals are smaller than."""
    return percentile([abs(r) for r in residuals], 80)


def _by_distance(notes: Notes, unseen: dict[str, Any], meter: str) -> tuple[float, dict[str, float]]:
    """Half the width of a meter's interval, as a logarithm, and how much wider it is for what was never fitted."""
    import numpy

    here = numpy.array(notes.meters) == meter
    assumed = numpy.array([bool(found.get("assumed")) for found in notes.kinds])
    plain = here & ~assumed
    for what in notes.distances[1:]:
        plain &= ~notes.alone(what)
    # what is new to a fit only by its source; widths of independent errors add up as squares do
    width = _width(unseen["source"][plain if plain.sum() >= LEAST else here])
    apart = {what: unseen[what][here] for what in notes.distances[1:]}
    apart["assumed"] = unseen["source"][here & assumed]
    more = {
        what: max(0.0, _width(found) ** 2 - width**2) ** 0.5 for what, found in apart.items() if len(found) >= LEAST
    }
    return width, more


def _by_flags(notes: Notes, unseen: dict[str, Any], meter: str) -> tuple[float, dict[str, float]]:
    """The same from flags, each of which adds a variance of its own, the same for every meter.

    The variances suit the residuals of all that was left out, source by source and kind by kind; then all of a meter's
    widths are scaled so that its interval holds 80 % of the configurations of sources that were left out.
    """
    import numpy

    usable = numpy.flatnonzero(~notes.held)
    names = sorted({flag for flags in notes.flags for flag in flags} | set(NEW.values()))
    new = {what: notes.alone(what) for what in notes.distances[1:]}
    cases = [
        (unseen["source"][i], {*notes.flags[i], *(NEW[what] for what, alone in new.items() if alone[i])}, i)
        for i in usable
    ]
    for what in new:
        cases += [(unseen[what][i], {*notes.flags[i], NEW[what]}, i) for i in usable]
    has = numpy.array([[True, *(name in flags for name in names)] for _, flags, _ in cases], dtype=float)
    votes = notes.votes(~notes.held)
    weights = numpy.array([votes[i] for *_, i in cases])
    variances = additive_variances(has, numpy.array([r for r, *_ in cases]) ** 2, weights)
    here = numpy.array(notes.meters)[usable] == meter
    expected = (has[: len(usable)] @ variances) ** 0.5
    sizes = numpy.abs(unseen["source"][usable])
    # between one vote each and one for what a source has of a device and model: both hold for some 80 %
    scale = _weighted_percentile(sizes[here] / expected[here], votes[usable][here] ** 0.5, 80)
    of_all = has[: len(usable)][here].all(axis=0)
    width = float(scale * variances[of_all].sum() ** 0.5)
    more = {
        name: float(scale * variance**0.5)
        for name, variance, always in zip(["", *names], variances, of_all, strict=True)
        if not always and variance > 1e-6
    }
    return width, more


def additive_variances(has: Any, squares: Any, weights: Any, *, freedom: float = 4.0) -> Any:
    """Variance that each flag adds to a residual, at least 0: the likeliest under Student's distribution.

    has       rows x flags, 1 where a row has a flag
    squares   of the residuals
    weights   of the rows: votes
    freedom   degrees of Student's distribution: few let single outliers count little

    Each round raises the likelihood (Hunter and Lange 2004, minorization).

    >>> import numpy
    >>> has = numpy.array([[1, 0]] * 9000 + [[1, 1]] * 9000)
    >>> drawn = numpy.random.default_rng(1).normal(size=18000) * numpy.where(has[:, 1], 0.5, 0.3)
    >>> found = additive_variances(has, drawn**2, numpy.ones(18000), freedom=1e3)
    >>> [round(float(v), 1) for v in found**0.5]
    [0.3, 0.4]
    """
    import numpy

    variances = numpy.full(has.shape[1], float((weights * squares).sum() / weights.sum()) / 2)
    for _ in range(300):
        whole = has @ variances
        robust = (freedom + 1) / (freedom + squares / whole)
        pull = has.T @ (weights * robust * squares / whole**2)
        variances = variances * (pull / numpy.maximum(has.T @ (weights / whole), 1e-300)) ** 0.5
    return variances


def _weighted_percentile(values: Any, weights: Any, percent: float) -> float:
    import numpy

    order = numpy.argsort(values)
    reached = numpy.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(numpy.searchsorted(reached, percent / 100)), len(values) - 1)])
