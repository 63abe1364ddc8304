"""Robust regression of a few constants: least squares that outliers cannot pull far, with what was known before.

Constants are fitted in logarithms, since all are above 0 and matter by their ratio. Needs NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any


def robust_fit(
    residuals: Callable[[Any], Any],
    slopes: Callable[[Any, Any], Any],
    start: Sequence[float],
    spread: Sequence[float],
    most: Sequence[float] | float = inf,
    *,
    begin: Sequence[float] | None = None,
    noise: float = 0.05,
    weights: Any = 1.0,
    bend: float = 1.5,
    rounds: int = 6,
) -> list[float]:
    """The constants that suit all rows best: Huber's loss, and a normal prior on the logarithm of each constant.

    residuals   `residuals(constants)`: log(predicted / measured) of each row
    slopes      `slopes(constants, residuals)`: of each row by the logarithm of each constant
    start       the prior's centre of each constant
    spread      the prior's standard deviation of each constant's logarithm
    most        what no constant may be above
    begin       where the search starts; default: at the priors' centres
    noise       standard deviation of a residual that the constants do not explain
    weights     of the rows: votes
    bend        deviations in units of `noise` beyond which they count linearly, not squared

    Gauss-Newton with reweighting (Huber 1964); a step that does not lower the loss is halved. Constants at their most
    that would rise further stay there.

    >>> import numpy
    >>> x, y = numpy.array([1, 2, 3, 4]), numpy.array([2.0, 4.1, 5.9, 30.0])
    >>> found = robust_fit(lambda c: numpy.log(c[0] * x / y), lambda c, r: numpy.ones((4, 1)), [1.0], [2.0])
    >>> round(found[0], 2)
    2.06
    """
    import numpy

    centre = numpy.log(numpy.array(start, dtype=float))
    sigma = numpy.array(spread, dtype=float)
    limit = bend * noise

    def loss(x: Any, r: Any) -> float:
        size = numpy.abs(r)
        huber = numpy.where(size < limit, size**2 / 2, limit * (size - limit / 2)) / noise**2
        return float((weights * huber).sum() + (((x - centre) / sigma) ** 2).sum() / 2)

    highest = numpy.log(numpy.broadcast_to(numpy.array(most, dtype=float), centre.shape))
    x = numpy.minimum(centre if begin is None else numpy.log(numpy.array(begin, dtype=float)), highest)
    r = residuals(numpy.exp(x))
    best = loss(x, r)
    for _ in range(rounds):
        each = slopes(numpy.exp(x), r)
        votes = weights * numpy.minimum(1.0, limit / numpy.maximum(numpy.abs(r), 1e-12)) / noise**2
        normal = each.T @ (each * votes[:, None]) + numpy.diag(1 / sigma**2)
        pull = -(each.T @ (votes * r) + (x - centre) / sigma**2)
        step = numpy.zeros_like(x)
        free = (x < highest) | (pull < 0)
        step[free] = numpy.clip(numpy.linalg.solve(normal[numpy.ix_(free, free)], pull[free]), -0.5, 0.5)
        for _ in range(5):
            tried = numpy.minimum(x + step, highest)
            found = residuals(numpy.exp(tried))
            value = loss(tried, found)
            if value < best:
                break
            step = step / 2
        else:
            break
        gain, x, r, best = best - value, tried, found, value
        if gain < 1e-3 * best:
            break
    return [float(v) for v in numpy.exp(x)]


def constant(known: Mapping[str, Any], name: str) -> float:
    """A constant of a calibration by its place ("families.hopper.matmul8")."""
    found: Any = known
    for key in name.split("."):
        found = found[key]
    return float(found)


def with_constants(known: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A calibration with other values in these places."""
    changed: dict[str, Any] = dict(known)
    copied: dict[str, dict[str, Any]] = {"": changed}
    for name, value in values.items():
        path, place, target = name.split("."), "", changed
        for key in path[:-1]:
            place += f".{key}"
            if place not in copied:
                target[key] = copied[place] = dict(target[key])
            target = copied[place]
        target[path[-1]] = value
    return changed


@dataclass(frozen=True, slots=True)
class Priors:
    """Constants to be fitted, by place ("families.hopper.matmul8"), with what is known of each before any row is seen.

    start    where the search starts: the centre of a normal distribution of the logarithm
    spread   its standard deviation
    most     what none may be above: 1 for shares; infinite where nothing bounds one
    """

    names: list[str]
    start: list[float]
    spread: list[float]
    most: list[float]


def priors(known: Mapping[str, Any], fresh: bool) -> Priors:
    """What `prior` of a calibration says of each constant.

    fresh   start from `value`; else from the known values, so that few rows move few constants, and `held` ones, too
    """
    chosen = {name: prior for name, prior in known["prior"].items() if not (fresh and prior.get("held"))}
    return Priors(
        list(chosen),
        [float(prior["value"]) if fresh else constant(known, name) for name, prior in chosen.items()],
        [float(prior["spread"]) for prior in chosen.values()],
        [float(prior.get("most", inf)) for prior in chosen.values()],
    )


def rounded(value: float) -> float:
    """Four digits of a constant."""
    return float(f"{value:.4g}")
