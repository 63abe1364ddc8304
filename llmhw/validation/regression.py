"""Robust regression of a few constants: least squares that outliers cannot pull far, with what was known before.

Constants are fitted in logarithms, since all are above 0 and matter by their ratio. Needs NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import exp
from typing import Any


def robust_fit(
    residuals: Callable[[Any], Any],
    slopes: Callable[[Any, Any], Any],
    start: Sequence[float],
    spread: Sequence[float],
    *,
    noise: float = 0.05,
    weights: Any = 1.0,
    bend: float = 1.5,
    rounds: int = 6,
) -> list[float]:
    """The constants that suit all rows best: Huber's loss, and a normal prior on the logarithm of each constant.

    residuals   `residuals(constants)`: log(predicted / measured) of each row
    slopes      `slopes(constants, residuals)`: of each row by the logarithm of each constant
    start       the prior's centre of each constant, where the search starts
    spread      the prior's standard deviation of each constant's logarithm
    noise       standard deviation of a residual that the constants do not explain
    weights     of the rows: votes
    bend        deviations in units of `noise` beyond which they count linearly, not squared

    Gauss-Newton with reweighting (Huber 1964); a step that does not lower the loss is halved.

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

    x = centre.copy()
    r = residuals(numpy.exp(x))
    best = loss(x, r)
    for _ in range(rounds):
        each = slopes(numpy.exp(x), r)
        votes = weights * numpy.minimum(1.0, limit / numpy.maximum(numpy.abs(r), 1e-12)) / noise**2
        normal = each.T @ (each * votes[:, None]) + numpy.diag(1 / sigma**2)
        pull = -(each.T @ (votes * r) + (x - centre) / sigma**2)
        step = numpy.clip(numpy.linalg.solve(normal, pull), -0.5, 0.5)
        for _ in range(5):
            tried = x + step
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


def fit_calibration(
    known: Mapping[str, Any],
    residual: Callable[[Mapping[str, Any], int], float],
    belongs: Sequence[Callable[[str], bool]],
    *,
    fresh: bool = False,
    noise: float = 0.05,
) -> dict[str, Any]:
    """A calibration whose constants suit all rows best: `known` with other values.

    known      groups of numbers, and `prior`: for each constant by its place ("families.hopper.matmul8") its value
               before any row was seen, how far its logarithm may be off (`spread`), and where that comes from; one
               that is `held` moves only where known values are the start
    residual   `residual(calibration, row)`: log(predicted / measured) of a row
    belongs    for each row: whether a place's group ("common", "families.hopper") is its own
    fresh      start from the priors; otherwise the known values are the prior's centre, and few rows move few constants

    Values are rounded to four digits.
    """
    import numpy

    names, start, spread = priors(known, fresh)
    touched = [[i for i, mine in enumerate(belongs) if mine(name.rpartition(".")[0])] for name in names]

    def at(values: Sequence[float], which: Iterable[int]) -> Any:
        tried = with_constants(known, dict(zip(names, map(float, values), strict=True)))
        return numpy.array([residual(tried, i) for i in which])

    def slopes(values: Any, found: Any) -> Any:
        made = numpy.zeros((len(belongs), len(names)))
        for i, which in enumerate(touched):
            if which:
                moved = values.copy()
                moved[i] *= exp(0.02)
                made[which, i] = (at(moved, which) - found[which]) / 0.02
        return made

    every = range(len(belongs))
    best = robust_fit(lambda values: at(values, every), slopes, start, spread, noise=noise)
    return with_constants(known, {name: rounded(value) for name, value in zip(names, best, strict=True)})


def priors(known: Mapping[str, Any], fresh: bool) -> tuple[list[str], list[float], list[float]]:
    """Names of the constants to be fitted, where each starts, and how far its logarithm may be off."""
    names = [name for name, prior in known["prior"].items() if not (fresh and prior.get("held"))]
    start = [float(known["prior"][name]["value"]) if fresh else constant(known, name) for name in names]
    return names, start, [float(known["prior"][name]["spread"]) for name in names]


def rounded(value: float) -> float:
    """Four digits of a constant."""
    return float(f"{value:.4g}")
