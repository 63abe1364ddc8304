"""What comes to an engine: requests at random, from users who wait, or as they were recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil, exp, inf
from os import PathLike
from random import Random
from typing import Any, NamedTuple, Protocol

from llmhw.units import LLMHWError, check_count, check_number, finite, nearest, shown

# Beyond this, seconds are told apart by some microseconds only; clocks that count from 1970 are far below.
LATEST = 1e10
# Requests of a load: of so many, a percentile is known, and each takes its time.
MOST_REQUESTS = 10**8
MOST_USERS = 10**6
MOST_TOKENS = 10**9
MOST_BYTES = 8 * 10**9


def check_requests(argument: str, value: Any, least: int = 0, most: int = MOST_REQUESTS) -> int:
    """A number of requests, or of users, that can be simulated.

    >>> check_requests("requests", 10**30)
    Traceback (most recent call last):
    llmhw.units.LLMHWError: requests=1000000000000000000000000000000 must be a whole number of at most 100,000,000
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > most:
        raise LLMHWError(f"{argument}={shown(value)} must be a whole number of at most {most:,}")
    return check_count(argument, value, least)


def _check_length(argument: str, value: Any, least: int = 1) -> int:
    return check_requests(argument, value, least, MOST_TOKENS)


def _check_median(argument: str, value: Any) -> None:
    check_number(argument, value, above=True, most=MOST_TOKENS)


class Request(NamedTuple):
    """One request: when it comes, tokens of its prompt, tokens that it makes the engine generate.

    name   what messages call it; default: its number
    """

    arrival_seconds: float
    input_tokens: int
    output_tokens: int
    name: str = ""


class Distribution(Protocol):
    """Lengths in tokens, drawn one at a time from a seeded generator."""

    def draw(self, random: Random, /) -> int:
        """The next length."""


@dataclass(frozen=True, slots=True)
class Uniform:
    """Whole numbers from `low` to `high`, all equally likely."""

    low: int
    high: int

    def __post_init__(self) -> None:
        low, high = _check_length("low", self.low), _check_length("high", self.high)
        if high < low:
            raise LLMHWError(f"low={low} must be at most high={high}; exchange the two")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def draw(self, random: Random, /) -> int:
        return random.randint(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Exponential with that mean, rounded up to whole tokens."""

    mean: float

    def __post_init__(self) -> None:
        _check_median("mean", self.mean)

    def draw(self, random: Random, /) -> int:
        return max(1, ceil(random.expovariate(1) * self.mean))


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Half of the lengths below `median`; their logarithm has the standard deviation `sigma`.

    least, most   lengths beyond are cut to these
    """

    median: float
    sigma: float
    least: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        _check_median("median", self.median)
        check_number("sigma", self.sigma, most=10)
        object.__setattr__(self, "least", _check_length("least", self.least))
        if self.most is not None:
            object.__setattr__(self, "most", _check_length("most", self.most, self.least))

    def draw(self, random: Random, /) -> int:
        length = self.median * exp(random.gauss(0, 1) * self.sigma)
        return max(self.least, round(min(length, MOST_TOKENS if self.most is None else self.most)))


@dataclass(frozen=True, slots=True)
class Empirical:
    """Lengths drawn from those given, each as likely as it is frequent.

    path   of the file that they are from, if they are
    """

    values: tuple[int, ...]
    path: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.values, Iterable) or isinstance(self.values, (str, bytes)):
            raise LLMHWError(f"values={shown(self.values)} must be lengths, such as (100, 200)")
        object.__setattr__(self, "values", tuple(_check_length("values", value) for value in self.values))
        if not self.values:
            raise LLMHWError("values=() must hold at least one length")

    @classmethod
    def from_csv(cls, path: str | PathLike[str], column: str) -> Empirical:
        """The lengths of one column of a CSV file, such as output_tokens of a recorded trace."""
        values = tuple(_whole(row, column, place) for place, row in _read_rows(path, (column,)))
        if not values:
            raise LLMHWError(f"{path} has no rows; a distribution needs at least one length")
        return cls(values, str(path))

    def draw(self, random: Random, /) -> int:
        return random.choice(self.values)


Lengths = int | Distribution


def drawer(argument: str, lengths: Lengths, seed: int) -> Callable[[], int]:
    """A function that gives the next length; every argument has its own stream of random numbers."""
    if isinstance(lengths, (int, float)):
        constant = _check_length(argument, lengths)
        return lambda: constant
    if not callable(getattr(lengths, "draw", None)):
        raise LLMHWError(
            f"{argument}={shown(lengths)} must be a whole number or a distribution, as LogNormal(median=200, sigma=1)"
        )
    random = _stream(seed, argument)
    draw = lengths.draw
    return lambda: draw(random)


def _stream(seed: int, what: str) -> Random:
    # a text is hashed by SHA-512, alike everywhere
    return Random(f"{seed} {what}")


def _check_seed(seed: Any) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise LLMHWError(f"seed={shown(seed)} must be a whole number")


@dataclass(frozen=True, slots=True)
class Poisson:
    """Requests that come at random, independently of each other, `rate` a second on average.

    requests        how many; or None
    seconds         how long they come; or None. One of the two is needed; with both, what ends first
    input_tokens    length of the prompts: a whole number, or a distribution
    output_tokens   tokens to generate, likewise
    seed            fixes all draws: the same on every platform, to the last digit of its log and exp; arrivals and
                    both lengths have streams of their own, so that a change of one leaves the others as they are
    """

    rate: float
    input_tokens: Lengths
    output_tokens: Lengths
    requests: int | None = None
    seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.rate, (int, float)) and not isinstance(self.rate, bool) and self.rate == 0:
            raise LLMHWError(f"rate={self.rate!r} must be a number above 0; no request would ever come")
        check_number("rate", self.rate, above=True, most=1e12)
        if self.requests is None and self.seconds is None:
            raise LLMHWError("requests=None needs seconds= in its place: without both, the requests never end")
        if self.requests is not None:
            check_requests("requests", self.requests)
        if self.seconds is not None:
            check_number("seconds", self.seconds, most=LATEST)
        self._check_end()
        _check_seed(self.seed)
        drawer("input_tokens", self.input_tokens, 0)
        drawer("output_tokens", self.output_tokens, 0)

    def _check_end(self) -> None:
        if self.requests is None:
            assert self.seconds is not None
            if self.rate * self.seconds > MOST_REQUESTS:
                raise LLMHWError(
                    f"rate={self.rate!r} for seconds={self.seconds!r} is more than {MOST_REQUESTS:,} requests; "
                    "give fewer of them with requests="
                )
        elif self.seconds is None and self.requests > self.rate * LATEST / 2:
            raise LLMHWError(
                f"rate={self.rate!r} and requests={self.requests} come for longer than {LATEST / 2:g} seconds; "
                "give a higher rate or fewer requests"
            )

    def __iter__(self) -> Iterator[Request]:
        wait = _stream(self.seed, "arrivals").expovariate
        inputs = drawer("input_tokens", self.input_tokens, self.seed)
        outputs = drawer("output_tokens", self.output_tokens, self.seed)
        end = inf if self.seconds is None else self.seconds
        left = -1 if self.requests is None else self.requests
        clock = 0.0
        while left:
            clock += wait(self.rate)
            if clock > end:
                return
            yield Request(clock, inputs(), outputs())
            left -= 1


@dataclass(frozen=True, slots=True)
class Closed:
    """A fixed number of users: each sends its next request when its last one is answered.

    concurrency     users
    requests        of all users together
    think_seconds   from an answer to the same user's next request

    The other arguments are those of `Poisson`.
    """

    concurrency: int
    input_tokens: Lengths
    output_tokens: Lengths
    requests: int
    think_seconds: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_requests("concurrency", self.concurrency, 1, MOST_USERS)
        check_requests("requests", self.requests)
        check_number("think_seconds", self.think_seconds, most=LATEST)
        _check_seed(self.seed)
        drawer("input_tokens", self.input_tokens, 0)
        drawer("output_tokens", self.output_tokens, 0)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Requests of a CSV file, read line by line while they are needed.

    path    columns arrival_seconds, or gap_seconds since the request before; input_tokens; output_tokens; any others
            are ignored
    speed   2 replays the trace twice as fast
    most    requests to read; default: all

    A wrong cell, or an arrival before the one in the row above, raises `LLMHWError` with file, line and rule.
    """

    path: str | PathLike[str]
    speed: float = 1.0
    most: int | None = None

    def __post_init__(self) -> None:
        check_number("speed", self.speed, above=True)
        if self.most is not None:
            check_requests("most", self.most)

    def __iter__(self) -> Iterator[Request]:
        clock = 0.0
        rows = _read_rows(self.path, ("input_tokens", "output_tokens"), ("arrival_seconds", "gap_seconds"))
        for number, (place, row) in enumerate(rows):
            if number == self.most:
                return
            if "arrival_seconds" not in row:
                gap = _number(row, "gap_seconds", place)
                if gap < 0:
                    raise LLMHWError(
                        f"{place}: gap_seconds={row['gap_seconds']!r} must be a number of at least 0; "
                        "sort the requests by arrival"
                    )
                clock += gap
            else:
                arrival = _number(row, "arrival_seconds", place)
                if number and arrival < clock:
                    raise LLMHWError(
                        f"{place}: arrival_seconds={row['arrival_seconds']!r} must not be before that of the request "
                        f"above, {clock!r}; sort the requests by arrival"
                    )
                clock = arrival
            yield Request(
                clock / self.speed, _whole(row, "input_tokens", place), _whole(row, "output_tokens", place), place
            )


def _number(row: Mapping[str, str], column: str, place: str) -> float:
    value = finite(row[column])
    if value is None:
        raise LLMHWError(f"{place}: {column}={shown(row[column])} must be a number, without unit or separators")
    return value


def _whole(row: Mapping[str, str], column: str, place: str) -> int:
    value = _number(row, column, place)
    if not value.is_integer() or not 1 <= value <= MOST_TOKENS:
        rule = f"a whole number of at least 1 and at most {MOST_TOKENS:,}"
        raise LLMHWError(f"{place}: {column}={shown(row[column])} must be {rule}")
    return int(value)


def _read_rows(
    path: str | PathLike[str], needed: tuple[str, ...], one_of: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file, each with its place for messages; empty lines are left out."""
    from csv import Error, reader

    _check_file(path)
    columns: list[str] = []
    line = 1
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = reader(file, strict=True)
            for values in lines:
                cells = [value.strip() for value in values]
                place, line = f"{path}, line {line}", lines.line_num + 1
                if not any(cells):
                    continue
                if not columns:
                    columns = cells
                    _check_columns(str(path), columns, needed, one_of)
                    continue
                if any(cells[len(columns) :]):
                    raise LLMHWError(f"{place}: {len(cells)} cells for {len(columns)} columns; put one in each")
                cells += [""] * (len(columns) - len(cells))
                yield place, dict(zip(columns, cells, strict=False))
    except FileNotFoundError:
        raise LLMHWError(f"{path} does not exist; give the path of a CSV file") from None
    except UnicodeDecodeError:
        raise LLMHWError(f"{path} is not text in UTF-8, after line {line - 1}; save it as CSV in UTF-8") from None
    except Error as error:
        raise LLMHWError(f"{path}, line {line} is not CSV ({error}); close its quotes") from None
    except OSError as error:
        raise LLMHWError(f"{path} cannot be read ({error.strerror}); give the path of a CSV file") from None
    if not columns:
        raise LLMHWError(f"{path} is empty; its first line must name the columns")


def _check_file(path: str | PathLike[str]) -> None:
    """Raise `LLMHWError` for what is there and no file, or too large a one."""
    from os.path import exists, getsize, isdir, isfile

    way_out = "give the path of a CSV file"
    if not isinstance(path, (str, PathLike)) or not str(path).strip() or "\0" in str(path):
        raise LLMHWError(f"path={shown(path)} is no path; {way_out}")
    if isdir(path):
        raise LLMHWError(f"{path} is a folder; {way_out}")
    if exists(path) and not isfile(path):
        raise LLMHWError(f"{path} is no regular file, which is read more than once; {way_out}")
    if exists(path) and getsize(path) > MOST_BYTES:
        raise LLMHWError(f"{path} has more than {MOST_BYTES:,} bytes; split it into several files")


def _check_columns(path: str, columns: list[str], needed: tuple[str, ...], one_of: tuple[str, ...]) -> None:
    twice = next((column for column in columns if column and columns.count(column) > 1), None)
    if twice:
        raise LLMHWError(f"{path} has the column {twice!r} twice; rename or remove one")
    there = f"its columns are {', '.join(columns)}"
    for column in needed:
        if column not in columns:
            close = nearest(column, [c for c in columns if c], 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise LLMHWError(f"column {column!r}{hint} is missing in {path}; {there}")
    found = [column for column in one_of if column in columns]
    if one_of and not found:
        raise LLMHWError(f"column {' or '.join(map(repr, one_of))} is missing in {path}; {there}")
    if len(found) > 1:
        raise LLMHWError(f"{path} has the columns {' and '.join(map(repr, found))}, which both say when; remove one")


def input_files(*loads: Any) -> tuple[str, ...]:
    """The files that loads, lengths or paths are read from: what is never written onto.

    >>> input_files(None, 500, "trace.csv", Recorded("other.csv"))
    ('trace.csv', 'other.csv')
    """
    paths = (load if isinstance(load, (str, PathLike)) else getattr(load, "path", None) for load in loads)
    return tuple(str(path) for path in paths if path)
