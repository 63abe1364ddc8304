"""Quantiles of any number of times, in little memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, exp, inf, log

from llmhw.units import LLMHWError, check_count, check_number


class Quantiles:
    """Quantiles of many numbers in little memory.

    relative_error   of a quantile once there are more than `exact` numbers: they are then counted in buckets whose
                     bounds grow by a constant factor (DDSketch, Masson et al. 2019); sum, least and most stay exact
    exact            up to so many numbers a quantile is one of them

    A quantile q is the smallest number that a share q of all are not above. Two of these merge without loss.

    >>> q = Quantiles()
    >>> q.extend([1.0, 2.0, 3.0, 4.0])
    >>> q.quantile(0.5), q.mean
    (2.0, 2.5)
    """

    __slots__ = ("_buckets", "_count", "_exact", "_least", "_most", "_pending", "_sum", "_width", "relative_error")

    def __init__(self, relative_error: float = 0.01, exact: int = 10_000) -> None:
        self.relative_error = check_number("relative_error", relative_error, above=True)
        if self.relative_error >= 1:
            raise LLMHWError(f"relative_error={relative_error!r} must be below 1, such as 0.01")
        self._exact = check_count("exact", exact)
        self._width = log((1 + relative_error) / (1 - relative_error))
        self._pending: list[float] = []
        self._buckets: dict[int | None, int] = {}  # None: zeros
        self._count = 0
        self._sum = 0.0
        self._least, self._most = inf, -inf

    def add(self, value: float) -> None:
        """One more number, of at least 0."""
        self._pending.append(value)
        if len(self._pending) > self._exact:
            self._fold()

    def extend(self, values: Iterable[float]) -> None:
        """More numbers."""
        for value in values:
            self.add(value)

    def _fold(self) -> None:
        values, self._pending = self._pending, []
        if not values:
            return
        buckets, scale = self._buckets, 1 / self._width
        for value in values:
            bucket = ceil(log(value) * scale) if value > 0 else None
            buckets[bucket] = buckets.get(bucket, 0) + 1
        self._count += len(values)
        self._sum += sum(values)
        self._least, self._most = min(self._least, *values), max(self._most, *values)

    @property
    def is_exact(self) -> bool:
        """Whether a quantile is one of the numbers."""
        return not self._buckets

    @property
    def count(self) -> int:
        return self._count + len(self._pending)

    @property
    def total(self) -> float:
        return self._sum + sum(self._pending)

    @property
    def mean(self) -> float | None:
        """None if there are no numbers."""
        return self.total / self.count if self.count else None

    @property
    def largest(self) -> float | None:
        return max(self._most, max(self._pending, default=-inf)) if self.count else None

    def quantile(self, q: float) -> float | None:
        """The number that a share `q` of all are not above; None if there are no numbers."""
        return self.quantiles((q,))[0]

    def quantiles(self, qs: Iterable[float]) -> list[float | None]:
        """Several quantiles."""
        wanted = list(qs)
        for q in wanted:
            if not 0 <= q <= 1:
                raise LLMHWError(f"q={q!r} must be from 0 to 1")
        if not self.count:
            return [None] * len(wanted)
        if self.is_exact:
            values = sorted(self._pending)
            return [values[max(0, ceil(q * len(values) - 1e-9) - 1)] for q in wanted]
        self._fold()
        ordered = sorted(self._buckets.items(), key=lambda item: -inf if item[0] is None else item[0])
        return [self._from_buckets(ordered, q) for q in wanted]

    def _from_buckets(self, ordered: list[tuple[int | None, int]], q: float) -> float:
        rank, seen = max(1, ceil(q * self._count - 1e-9)), 0
        for bucket, count in ordered:
            seen += count
            if seen >= rank:
                if bucket is None:
                    return 0.0
                middle = exp(bucket * self._width) * (1 - self.relative_error)
                return min(max(middle, self._least), self._most)
        return self._most


@dataclass(frozen=True, slots=True)
class Spread:
    """How a time is distributed over the requests, in seconds; None where no request has one."""

    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    largest: float | None

    @classmethod
    def of(cls, found: Quantiles) -> Spread:
        """What a collection of numbers comes to."""
        p50, p90, p95, p99 = found.quantiles((0.5, 0.9, 0.95, 0.99))
        return cls(found.count, found.mean, p50, p90, p95, p99, found.largest)
