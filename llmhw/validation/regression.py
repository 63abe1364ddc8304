"""Robust regression of a few constants: least squares that outliers cannot pull far, with what was known before.

Constants are fitted in logarithms, since all are above 0 and matter by their ratio. Needs NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Residuals = Callable[[Sequence[float], Sequence[int]], Sequence[float]]


def robust_fit(
    residuals: Residuals,
    start: Sequence[float],
    spread: Sequence[float],
    affects: Sequence[Sequence[int]],
    rows: int,
    *,
    noise: float = 0.05,
    bend: float = 1.5,
    rounds: int = 6,
) -> list[float]:
    """The constants that suit all rows best: Huber's loss, and a normal prior on the logarithm of each constant.

    residuals   `residuals(constants, rows)`: log(predicted / measured) of these rows
    start       the prior's centre of each constant, where the search starts
    spread      the prior's standard deviation of each constant's logarithm
    affects     rows that a constant touches, for each constant
    rows        how many there are
    noise       standard deviation of a residual that the constants do not explain
    bend        deviations in units of `noise` beyond which they count linearly, not squared

    Gauss-Newton with reweighting (Huber 1964); a step that does not lower the loss is halved.

    >>> pairs = [(1, 2.0), (2, 4.1), (3, 5.9), (4, 30.0)]
    >>> import math
    >>> found = robust_fit(lambda c, rows: [math.log(c[0] * pairs[i][0] / pairs[i][1]) for i in rows],
    ...                    [1.0], [2.0], [range(4)], 4)
    >>> round(found[0], 2)
    2.06
    """
    import numpy

    centre = numpy.log(numpy.array(start, dtype=float))
    sigma = numpy.array(spread, dtype=float)
    everything = list(range(rows))
    limit = bend * noise

    def loss(x: numpy.ndarray, r: numpy.ndarray) -> float:
        size = numpy.abs(r)
        huber = numpy.where(size < limit, size**2 / 2, limit * (size - limit / 2)) / noise**2
        return float(huber.sum() + (((x - centre) / sigma) ** 2).sum() / 2)

    def at(x: numpy.ndarray, which: Sequence[int]) -> numpy.ndarray:
        return numpy.array(residuals(numpy.exp(x).tolist(), which), dtype=float)

    x = centre.copy()
    r = at(x, everything)
    best = loss(x, r)
    for _ in range(rounds):
        slopes = numpy.zeros((rows, len(x)))
        for i, which in enumerate(affects):
            if len(which):
                moved = x.copy()
                moved[i] += 0.02
                slopes[which, i] = (at(moved, which) - r[which]) / 0.02
        weights = numpy.minimum(1.0, limit / numpy.maximum(numpy.abs(r), 1e-12)) / noise**2
        normal = slopes.T @ (slopes * weights[:, None]) + numpy.diag(1 / sigma**2)
        pull = -(slopes.T @ (weights * r) + (x - centre) / sigma**2)
        step = numpy.clip(numpy.linalg.solve(normal, pull), -0.5, 0.5)
        for _ in range(5):
            tried = x + step
            found = at(tried, everything)
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
    names = [name for name, prior in known["prior"].items() if not (fresh and prior.get("held"))]
    touched = [[i for i, mine in enumerate(belongs) if mine(name.rpartition(".")[0])] for name in names]

    def put(values: Sequence[float]) -> dict[str, Any]:
        changed: dict[str, Any] = dict(known)
        for name, value in zip(names, values, strict=True):
            *path, last = name.split(".")
            target = changed
            for key in path:
                target[key] = dict(target[key])
                target = target[key]
            target[last] = value
        return changed

    def value(name: str) -> float:
        found: Any = known
        for key in name.split("."):
            found = found[key]
        return float(found)

    def residuals(values: Sequence[float], which: Sequence[int]) -> list[float]:
        tried = put(values)
        return [residual(tried, i) for i in which]

    start = [float(known["prior"][name]["value"]) if fresh else value(name) for name in names]
    spread = [float(known["prior"][name]["spread"]) for name in names]
    return put([float(f"{v:.4g}") for v in robust_fit(residuals, start, spread, touched, len(belongs), noise=noise)])
