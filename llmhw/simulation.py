"""An inference engine, simulated request by request: how batching, the KV cache and the load make latency.

The time of a step comes from elsewhere: a `StepModel`, or any function of what the step does. Time advances from event
to event. While a batch only decodes, all its sequences advance together, over many steps at once where the step model
is affine, with the same result as step by step. Only requests in flight are held in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from heapq import heappop, heappush
from math import ceil, exp, inf, isfinite, log, sqrt
from os import PathLike
from random import Random
from typing import Any, NamedTuple, Protocol

from llmhw.queueing import StepModel, littles_law, number_from
from llmhw.units import (
    LLMHWError,
    ceil_div,
    check_choice,
    check_count,
    format_quantity,
    html_table,
    nearest,
)

StepSeconds = Callable[[int, int, int, int], float]

MODES = ("static", "dynamic", "continuous", "disaggregated")
_UNLIMITED = 2**62


# -- requests ---------------------------------------------------------------------------------


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
        check_count("high", self.high, check_count("low", self.low))

    def draw(self, random: Random, /) -> int:
        return random.randint(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Exponential with that mean, rounded up to whole tokens."""

    mean: float

    def __post_init__(self) -> None:
        number_from("mean", self.mean, above=True)

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
        number_from("median", self.median, above=True)
        number_from("sigma", self.sigma)
        least = check_count("least", self.least)
        if self.most is not None:
            check_count("most", self.most, least)

    def draw(self, random: Random, /) -> int:
        # beyond the exponent of 60 no length is printable, let alone served
        length = round(self.median * exp(min(random.gauss(0, 1) * self.sigma, 60.0)))
        return max(self.least, length if self.most is None else min(length, self.most))


@dataclass(frozen=True, slots=True)
class Empirical:
    """Lengths drawn from those given, each as likely as it is frequent."""

    values: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise LLMHWError("values=() must hold at least one length")
        object.__setattr__(self, "values", tuple(check_count("values", value) for value in self.values))

    @classmethod
    def from_csv(cls, path: str | PathLike[str], column: str) -> Empirical:
        """The lengths of one column of a CSV file, such as output_tokens of a recorded trace."""
        values = tuple(_whole(row, column, place) for place, row in _read_rows(path, (column,)))
        if not values:
            raise LLMHWError(f"{path} has no rows; a distribution needs at least one length")
        return cls(values)

    def draw(self, random: Random, /) -> int:
        return random.choice(self.values)


Lengths = int | Distribution


def _drawer(argument: str, lengths: Lengths, seed: int) -> Callable[[], int]:
    """A function that gives the next length; every argument has its own stream of random numbers."""
    if isinstance(lengths, (int, float)):
        constant = check_count(argument, lengths)
        return lambda: constant
    if not callable(getattr(lengths, "draw", None)):
        raise LLMHWError(
            f"{argument}={lengths!r} must be a whole number or a distribution such as LogNormal(median=200, sigma=1)"
        )
    random = _stream(seed, argument)
    draw = lengths.draw
    return lambda: draw(random)


def _stream(seed: int, what: str) -> Random:
    # a text is hashed by SHA-512, alike everywhere
    return Random(f"{seed} {what}")


def _check_seed(seed: Any) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise LLMHWError(f"seed={seed!r} must be a whole number")


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
        if isinstance(self.rate, (int, float)) and self.rate == 0:
            raise LLMHWError(f"rate={self.rate!r} must be a number above 0; no request would ever come")
        number_from("rate", self.rate, above=True)
        if self.requests is None and self.seconds is None:
            raise LLMHWError("requests=None needs seconds= in its place: without both, the requests never end")
        if self.requests is not None:
            check_count("requests", self.requests, 0)
        if self.seconds is not None:
            number_from("seconds", self.seconds)
        _check_seed(self.seed)
        _drawer("input_tokens", self.input_tokens, 0)
        _drawer("output_tokens", self.output_tokens, 0)

    def __iter__(self) -> Iterator[Request]:
        wait = _stream(self.seed, "arrivals").expovariate
        inputs = _drawer("input_tokens", self.input_tokens, self.seed)
        outputs = _drawer("output_tokens", self.output_tokens, self.seed)
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
        check_count("concurrency", self.concurrency)
        check_count("requests", self.requests, 0)
        number_from("think_seconds", self.think_seconds)
        _check_seed(self.seed)
        _drawer("input_tokens", self.input_tokens, 0)
        _drawer("output_tokens", self.output_tokens, 0)


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
        number_from("speed", self.speed, above=True)
        if self.most is not None:
            check_count("most", self.most, 0)

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
    text = row[column]
    try:
        value = float(text)
    except ValueError:
        value = inf
    # float() also reads "1_000", "nan" and "inf"
    if not isfinite(value) or "_" in text:
        raise LLMHWError(f"{place}: {column}={text!r} must be a number, without unit and thousands separators")
    return value


def _whole(row: Mapping[str, str], column: str, place: str) -> int:
    value = _number(row, column, place)
    if not value.is_integer() or value < 1:
        raise LLMHWError(f"{place}: {column}={row[column]!r} must be a whole number of at least 1")
    return int(value)


def _read_rows(
    path: str | PathLike[str], needed: tuple[str, ...], one_of: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file, each with its place for messages; empty lines are left out."""
    from csv import Error, reader
    from os.path import isdir

    if isdir(path):
        raise LLMHWError(f"{path} is a folder; give the path of a CSV file")
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
    if one_of and not any(column in columns for column in one_of):
        raise LLMHWError(f"column {' or '.join(map(repr, one_of))} is missing in {path}; {there}")


# -- KV cache ---------------------------------------------------------------------------------


class OutOfBlocksError(LLMHWError):
    """The KV cache has fewer free blocks than are asked for; nothing was changed."""


class PageTable:
    """Which blocks of the KV cache each sequence holds.

    blocks         of the cache
    block_tokens   tokens that a block holds

    A block belongs to one sequence, or to several that share a prefix; it is free again when the last one lets it go.
    A sequence that writes into a block which others hold gets a copy of its own.

    >>> table = PageTable(blocks=4, block_tokens=16)
    >>> table.add("a", 20)
    >>> table.fork("a", "b")
    >>> table.append("b")  # a copy of the second block: "a" holds it too
    >>> table.blocks_of("a"), table.blocks_of("b"), table.free
    ((0, 1), (0, 2), 1)
    """

    __slots__ = ("_free", "_held", "_new", "_shared", "_tokens", "block_tokens", "blocks")

    def __init__(self, blocks: int, block_tokens: int = 16) -> None:
        self.blocks = check_count("blocks", blocks)
        self.block_tokens = check_count("block_tokens", block_tokens)
        self._held: dict[Hashable, list[int]] = {}
        self._tokens: dict[Hashable, int] = {}
        self._free: list[int] = []  # given back; those from _new on were never used
        self._new = 0
        self._shared: dict[int, int] = {}  # holders of a block, where they are more than one

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return self.blocks - self._new + len(self._free)

    @property
    def used(self) -> int:
        """Blocks that somebody holds, each counted once."""
        return self._new - len(self._free)

    def __contains__(self, sequence: Hashable) -> bool:
        return sequence in self._held

    def __len__(self) -> int:
        return len(self._held)

    def blocks_of(self, sequence: Hashable) -> tuple[int, ...]:
        """The blocks of a sequence, in the order of its tokens."""
        return tuple(self._blocks(sequence))

    def tokens_of(self, sequence: Hashable) -> int:
        """The tokens that `add`, `append` and `fork` put there."""
        self._blocks(sequence)
        return self._tokens[sequence]

    def add(self, sequence: Hashable, tokens: int, parent: Hashable = None, shared_tokens: int = 0) -> None:
        """A new sequence; of `shared_tokens`, the whole blocks are those of `parent`."""
        if sequence in self._held:
            raise LLMHWError(f"sequence={sequence!r} holds blocks already; release it first")
        held: list[int] = []
        whole = shared_tokens // self.block_tokens
        if whole:
            held = self._blocks(parent)[:whole]
            if shared_tokens > min(tokens, self._tokens[parent]):
                raise LLMHWError(
                    f"shared_tokens={shared_tokens} must be at most tokens={tokens} and those of parent={parent!r}, "
                    f"{self._tokens[parent]}"
                )
        new = self._take(-(-tokens // self.block_tokens) - len(held))
        for block in held:
            self._shared[block] = self._shared.get(block, 1) + 1
        self._held[sequence] = held + new if held else new
        self._tokens[sequence] = tokens

    def fork(self, parent: Hashable, child: Hashable) -> None:
        """A new sequence that holds all the blocks of `parent`, as for a second answer to the same prompt."""
        if child in self._held:
            raise LLMHWError(f"child={child!r} holds blocks already; release it first")
        blocks = self._blocks(parent)
        for block in blocks:
            self._shared[block] = self._shared.get(block, 1) + 1
        self._held[child] = list(blocks)
        self._tokens[child] = self._tokens[parent]

    def append(self, sequence: Hashable, tokens: int = 1) -> None:
        """More tokens at the end of a sequence; a last block that is not full and shared is copied first."""
        blocks = self._blocks(sequence)
        check_count("tokens", tokens, 0)
        if not tokens:
            return
        before = self._tokens[sequence]
        partial = before % self.block_tokens != 0
        copy = partial and blocks[before // self.block_tokens] in self._shared
        missing = max(0, -(-(before + tokens) // self.block_tokens) - len(blocks))
        new = self._take(missing + copy)
        if copy:
            at = before // self.block_tokens
            self._drop(blocks[at])
            blocks[at] = new.pop()
        blocks += new
        self._tokens[sequence] = before + tokens

    def grow(self, sequences: Iterable[Hashable]) -> int:
        """One block more for each of these sequences, which the caller will fill; returns how many they were."""
        free, held = self._free, self._held
        grown = 0
        for sequence in sequences:
            if free:
                held[sequence].append(free.pop())
            else:
                held[sequence] += self._take(1)
            grown += 1
        return grown

    def release(self, sequence: Hashable) -> None:
        """Forget a sequence; blocks that no other one holds are free."""
        blocks = self._blocks(sequence)
        del self._held[sequence], self._tokens[sequence]
        if self._shared:
            for block in blocks:
                if block in self._shared:
                    self._drop(block)
                else:
                    self._free.append(block)
        else:
            self._free += blocks

    def check(self) -> None:
        """Raise AssertionError if a block is lost, free while it is held, or shared without being counted."""
        holders: dict[int, int] = {}
        for sequence, blocks in self._held.items():
            assert len(set(blocks)) == len(blocks), f"{sequence!r} holds a block twice"
            assert len(blocks) * self.block_tokens >= self._tokens[sequence], f"{sequence!r} has tokens without a block"
            for block in blocks:
                holders[block] = holders.get(block, 0) + 1
        assert {block: n for block, n in holders.items() if n > 1} == self._shared, "holders are miscounted"
        free = set(self._free)
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & holders.keys(), "a block is free and held"
        assert free | holders.keys() == set(range(self._new)), "a block is lost"
        assert self._new <= self.blocks, "more blocks than there are"

    def _blocks(self, sequence: Hashable) -> list[int]:
        try:
            return self._held[sequence]
        except KeyError:
            raise LLMHWError(f"sequence={sequence!r} holds no blocks; add it first") from None

    def _take(self, count: int) -> list[int]:
        free = self._free
        if count <= 0:
            return []
        if count <= len(free):
            taken = free[-count:]
            del free[-count:]
            return taken
        if count > self.free:
            raise OutOfBlocksError(
                f"{count} blocks are needed and {self.free} of {self.blocks} are free; release a sequence"
            )
        more = count - len(free)
        taken = [*free, *range(self._new, self._new + more)]
        free.clear()
        self._new += more
        return taken

    def _drop(self, block: int) -> None:
        """One holder less of a shared block."""
        holders = self._shared[block] - 1
        if holders == 1:
            del self._shared[block]
        else:
            self._shared[block] = holders


# -- statistics -------------------------------------------------------------------------------


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
        self.relative_error = number_from("relative_error", relative_error, above=True)
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

    def merge(self, other: Quantiles) -> None:
        """All numbers of another one, with the same relative error."""
        if other.relative_error != self.relative_error:
            raise LLMHWError(
                f"relative_error={other.relative_error} cannot be merged into {self.relative_error}; use one for both"
            )
        if other._buckets:
            if not self._buckets:
                self._fold()
            for bucket, count in other._buckets.items():
                self._buckets[bucket] = self._buckets.get(bucket, 0) + count
            self._count += other._count
            self._sum += other._sum
            self._least, self._most = min(self._least, other._least), max(self._most, other._most)
        self.extend(other._pending)

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

    def to_dict(self) -> dict[str, float | int | None]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


# -- what is simulated ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SLO:
    """What a request must keep to count as good.

    ttft_seconds   time to the first token, at most
    tpot_seconds   mean time between the tokens after it, at most; a request of one token keeps any
    """

    ttft_seconds: float = inf
    tpot_seconds: float = inf

    def __post_init__(self) -> None:
        for name in ("ttft_seconds", "tpot_seconds"):
            if getattr(self, name) != inf:
                number_from(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Engine:
    """An inference engine: how long its steps take, how it forms batches, what its KV cache holds.

    step                 a `StepModel`, or a function of (tokens of prompts that are computed, tokens in the cache that
                         these attend to, sequences that decode, tokens in the cache of those) that gives seconds
    mode                 static          a batch is filled, run until its longest member ends, then the next
                         dynamic         a batch is run whole once `preferred_sizes` allow or `max_delay_seconds` are
                                         over (Triton's dynamic batcher)
                         continuous      requests join and leave at every step; the cache is paged (vLLM)
                         disaggregated   prefill and decode on machines of their own; decode is continuous
    max_sequences        in a batch
    max_batched_tokens   tokens of prompts in one step (with chunked prefill: and of sequences that decode). A longer
                         prompt has a step of its own, or chunks. Static and dynamic batches compute theirs in one step
    kv_blocks            blocks of the KV cache; None: no limit. Of the decode machine, if it is disaggregated
    block_tokens         tokens of a block
    max_context          longest prompt and answer together; None: no limit
    chunked_prefill      continuous: prompts are computed in pieces beside the sequences that decode; else prompts
                         come first, and decoding waits
    watermark            continuous: share of the blocks that admission leaves free
    shared_prefix_tokens continuous: system prompt that all prompts begin with; its whole blocks are there once and
                         computed already
    max_delay_seconds    dynamic: longest that the oldest request waits for others; default 0
    preferred_sizes      dynamic: sizes at which a batch is run at once; default: max_sequences
    early_return         static, dynamic: an answer is complete with its own last token, not with that of its batch
    prefill_step         disaggregated: steps of a prefill machine; default: `step`
    prefill_workers      disaggregated: prefill machines
    transfer_seconds     disaggregated: to move a prompt's cache, and `transfer_token_seconds` for each token;
                         transfers do not wait for each other

    Continuous batching admits in the order of arrival. When blocks run out, the youngest sequence gives all of its own
    back and goes to the head of the queue; its prompt and what it generated are computed again. A prompt gets all
    its blocks on admission, also if it is computed in chunks. In static and dynamic batches each member reserves the
    cache of the longest prompt and the longest answer.
    """

    step: StepSeconds
    mode: str = "continuous"
    max_sequences: int = 256
    max_batched_tokens: int = 8192
    kv_blocks: int | None = None
    block_tokens: int = 16
    max_context: int | None = None
    chunked_prefill: bool = False
    watermark: float = 0.01
    shared_prefix_tokens: int = 0
    max_delay_seconds: float = 0.0
    preferred_sizes: tuple[int, ...] = ()
    early_return: bool = False
    prefill_step: StepSeconds | None = None
    prefill_workers: int = 1
    transfer_seconds: float = 0.0
    transfer_token_seconds: float = 0.0

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        for name in ("step", "prefill_step"):
            if not callable(getattr(self, name)) and (name == "step" or self.prefill_step is not None):
                raise LLMHWError(f"{name}={getattr(self, name)!r} must be a StepModel or a function of four numbers")
        check_count("max_sequences", self.max_sequences)
        check_count("max_batched_tokens", self.max_batched_tokens)
        check_count("block_tokens", self.block_tokens)
        check_count("prefill_workers", self.prefill_workers)
        check_count("shared_prefix_tokens", self.shared_prefix_tokens, 0)
        for name in ("kv_blocks", "max_context"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        for name in ("max_delay_seconds", "transfer_seconds", "transfer_token_seconds", "watermark"):
            number_from(name, getattr(self, name))
        if self.watermark >= 1:
            raise LLMHWError(f"watermark={self.watermark!r} must be below 1, such as 0.01")
        sizes = tuple(sorted(check_count("preferred_sizes", size) for size in self.preferred_sizes))
        object.__setattr__(self, "preferred_sizes", sizes)
        if sizes and sizes[-1] > self.max_sequences:
            raise LLMHWError(f"preferred_sizes={sizes} must be at most max_sequences={self.max_sequences}")
        if self.chunked_prefill and self.max_batched_tokens < self.max_sequences:
            raise LLMHWError(
                f"max_batched_tokens={self.max_batched_tokens} must be at least max_sequences={self.max_sequences}: "
                "with chunked prefill the tokens of sequences that decode count too"
            )
        prefix = self.shared_prefix_tokens // self.block_tokens
        if self.kv_blocks is not None and prefix >= self.kv_blocks:
            raise LLMHWError(
                f"shared_prefix_tokens={self.shared_prefix_tokens} fills all kv_blocks={self.kv_blocks}; give more"
            )
        self._check_options()

    def _check_options(self) -> None:
        """Options of another mode would be ignored in silence."""
        batch, paged = ("static", "dynamic"), ("continuous", "disaggregated")
        owners = {
            "chunked_prefill": ("continuous",),
            "shared_prefix_tokens": ("continuous",),
            "max_delay_seconds": ("dynamic",),
            "preferred_sizes": ("dynamic",),
            "early_return": batch,
            "watermark": paged,
            "prefill_step": ("disaggregated",),
            "prefill_workers": ("disaggregated",),
            "transfer_seconds": ("disaggregated",),
            "transfer_token_seconds": ("disaggregated",),
        }
        for f in fields(self):
            modes = owners.get(f.name)
            if modes is not None and self.mode not in modes and getattr(self, f.name) != f.default:
                raise LLMHWError(
                    f"{f.name}={getattr(self, f.name)!r} belongs to mode {' and '.join(modes)}, not to {self.mode}; "
                    "leave it out"
                )

    def _check_request(self, request: Request, number: int) -> None:
        """Raise `LLMHWError` for a request that can never be served."""
        arrival, inputs, outputs, name = request
        place = name or f"request {number + 1}"
        if not (type(inputs) is int and inputs >= 1 and type(outputs) is int and outputs >= 1):
            check_count(f"{place}: input_tokens", inputs)
            check_count(f"{place}: output_tokens", outputs)
            raise LLMHWError(f"{place}: input_tokens={inputs!r} and output_tokens={outputs!r} must be int")
        if not 0 <= arrival < inf:
            raise LLMHWError(f"{place}: arrival_seconds={arrival!r} must be a number of at least 0")
        if self.max_context is not None and inputs + outputs > self.max_context:
            raise LLMHWError(
                f"{place}: input_tokens={inputs} and output_tokens={outputs} must be at most "
                f"max_context={self.max_context} together; leave the request out or allow a longer context"
            )
        if self.kv_blocks is not None and -(-(inputs + outputs - 1) // self.block_tokens) > self.kv_blocks:
            raise LLMHWError(
                f"{place}: input_tokens={inputs} and output_tokens={outputs} need "
                f"{ceil_div(inputs + outputs - 1, self.block_tokens)} blocks of {self.block_tokens} tokens, more than "
                f"kv_blocks={self.kv_blocks}; leave the request out or give more blocks"
            )
        if self.shared_prefix_tokens and inputs <= self.shared_prefix_tokens:
            raise LLMHWError(
                f"{place}: input_tokens={inputs} must be more than shared_prefix_tokens={self.shared_prefix_tokens}, "
                "which it begins with"
            )


class _Sequence:
    """A request in flight."""

    __slots__ = (
        "admitted",
        "arrival",
        "bucket",
        "cached",
        "finish",
        "first",
        "generated",
        "inputs",
        "number",
        "outputs",
        "preemptions",
        "ready",
        "serial",
        "slot",
        "spans",
    )

    def __init__(self, number: int, arrival: float, inputs: int, outputs: int) -> None:
        self.number = number
        self.arrival = arrival
        self.inputs = inputs
        self.outputs = outputs
        self.generated = 0
        self.cached = 0  # tokens of the prompt that are computed, while it is computed
        self.admitted = -1.0
        self.first = -1.0
        self.ready = arrival  # when the decode machine has its cache
        self.finish = 0  # the decode step after which it ends
        self.serial = 0  # 0: does not decode
        self.bucket = 0  # decode steps at which it needs a new block, modulo the tokens of a block
        self.preemptions = 0
        self.slot = -1
        self.spans: list[tuple[int, float, float]] = []


# -- where requests come from -----------------------------------------------------------------


class _Open:
    """Requests of an iterable, taken one by one when they are needed."""

    def __init__(self, engine: Engine, requests: Iterable[Request]) -> None:
        try:
            self._requests = iter(requests)
        except TypeError:
            raise LLMHWError(
                f"requests={requests!r} must be Poisson, Closed, Recorded or an iterable of Request"
            ) from None
        self._engine = engine
        self._head: _Sequence | None = None
        self._last = 0.0
        self._count = 0

    def peek(self) -> _Sequence | None:
        """The next request, or None if no more come unless one is completed."""
        if self._head is None:
            request = next(self._requests, None)
            if request is not None:
                number = self._count
                try:
                    arrival, inputs, outputs = request[:3]
                    checked = request if isinstance(request, Request) else Request(arrival, inputs, outputs)
                    self._engine._check_request(checked, number)
                except LLMHWError:
                    raise
                except (TypeError, ValueError):
                    raise LLMHWError(f"request {number + 1} is {request!r}; give a Request") from None
                if arrival < self._last:
                    raise LLMHWError(
                        f"{checked.name or f'request {number + 1}'}: arrival_seconds={arrival!r} must not be before "
                        f"that of the request before it, {self._last!r}; sort the requests by arrival"
                    )
                self._last = arrival
                self._count += 1
                self._head = _Sequence(number, arrival, inputs, outputs)
        return self._head

    def pop(self) -> None:
        self._head = None

    def next_time(self, now: float) -> float:
        """When something may come next; infinite if nothing will."""
        head = self._head or self.peek()
        return inf if head is None else head.arrival

    def arrived(self, now: float) -> _Sequence | None:
        """The next request if it is there by now."""
        head = self._head or self.peek()
        return head if head is not None and head.arrival <= now else None

    def completed(self, now: float) -> None:
        """A request was answered."""


class _Users(_Open):
    """Requests of a fixed number of users, who wait for their answers."""

    def __init__(self, engine: Engine, load: Closed) -> None:
        super().__init__(engine, ())
        self._load = load
        self._times = [0.0] * min(load.concurrency, load.requests)
        self._left = load.requests - len(self._times)
        self._inputs = _drawer("input_tokens", load.input_tokens, load.seed)
        self._outputs = _drawer("output_tokens", load.output_tokens, load.seed)

    def peek(self) -> _Sequence | None:
        if not self._times:
            return None
        if self._head is None:
            request = Request(self._times[0], self._inputs(), self._outputs())
            self._engine._check_request(request, self._count)
            self._head = _Sequence(self._count, *request[:3])
            self._count += 1
        # another user may have become earlier
        self._head.arrival = self._head.ready = self._times[0]
        return self._head

    def pop(self) -> None:
        heappop(self._times)
        self._head = None

    def next_time(self, now: float) -> float:
        return self._times[0] if self._times else inf

    def arrived(self, now: float) -> _Sequence | None:
        return self.peek() if self._times and self._times[0] <= now else None

    def completed(self, now: float) -> None:
        if self._left:
            self._left -= 1
            heappush(self._times, now + self._load.think_seconds)


class _Prefilled(_Open):
    """Requests whose prompts a pool of prefill machines has computed, each batch in order of arrival."""

    def __init__(self, engine: Engine, source: _Open, run: _Run) -> None:
        super().__init__(engine, ())
        self._source = source
        self._run = run
        self._step = engine.prefill_step or engine.step
        self._machines = [0.0] * engine.prefill_workers  # when each is free
        self._ready: list[tuple[float, int, _Sequence]] = []

    def _start(self, now: float) -> float:
        """When the next batch can start."""
        return max(self._machines[0], self._source.next_time(now))

    def _advance(self, now: float) -> None:
        while (start := self._start(now)) <= now:
            batch: list[_Sequence] = []
            tokens = 0
            while len(batch) < self._engine.max_sequences and (head := self._source.arrived(start)) is not None:
                if batch and tokens + head.inputs > self._engine.max_batched_tokens:
                    break
                self._source.pop()
                self._run.begins(head)
                batch.append(head)
                tokens += head.inputs
            seconds = _checked_seconds(self._step, tokens, 0, 0, 0)
            end = start + seconds
            heappop(self._machines)
            heappush(self._machines, end)
            self._run.prefill_busy += seconds
            for sequence in batch:
                sequence.admitted, sequence.first, sequence.generated = start, end, 1
                if sequence.outputs == 1:
                    self._run.ends(sequence, end)
                    self._source.completed(end)
                    continue
                moved = self._engine.transfer_seconds + self._engine.transfer_token_seconds * sequence.inputs
                sequence.ready = end + moved
                sequence.cached = sequence.inputs
                heappush(self._ready, (sequence.ready, sequence.number, sequence))

    def next_time(self, now: float) -> float:
        self._advance(now)
        ready = self._ready[0][0] if self._ready else inf
        return min(ready, self._start(now))

    def arrived(self, now: float) -> _Sequence | None:
        self._advance(now)
        return self._ready[0][2] if self._ready and self._ready[0][0] <= now else None

    def pop(self) -> None:
        heappop(self._ready)

    def completed(self, now: float) -> None:
        self._source.completed(now)


def _checked_seconds(step: StepSeconds, prefill: int, prefill_context: int, sequences: int, context: int) -> float:
    seconds = step(prefill, prefill_context, sequences, context)
    if not 0 <= seconds < inf:
        raise LLMHWError(
            f"step({prefill}, {prefill_context}, {sequences}, {context})={seconds!r} must be seconds of at least 0"
        )
    return seconds


# -- what a run collects ----------------------------------------------------------------------


class RequestTrace(NamedTuple):
    """What happened to one request; spans are (slot in the batch, from, to), one for each admission."""

    number: int
    arrival_seconds: float
    admitted_seconds: float
    first_token_seconds: float
    finish_seconds: float
    input_tokens: int
    output_tokens: int
    preemptions: int
    spans: tuple[tuple[int, float, float], ...]


class StepTrace(NamedTuple):
    """One step, or several equal ones in a row."""

    start_seconds: float
    end_seconds: float
    steps: int
    prefill_tokens: int
    decode_sequences: int
    kv_blocks: int


class _Run:
    """Counts and times of one simulation; where it is, should it be interrupted."""

    def __init__(self, slo: SLO | None, trace_requests: int, trace_seconds: tuple[float, float] | None) -> None:
        self.now = 0.0
        self.start: float | None = None
        self.last = 0.0
        self.begun = self.ended = 0
        self.good = 0
        self.slo = slo
        self.ttft, self.tpot, self.latency, self.wait = Quantiles(), Quantiles(), Quantiles(), Quantiles()
        self.inputs = self.outputs = 0
        self.busy = self.prefill_busy = 0.0
        self.sequence_seconds = 0.0
        self.block_seconds = 0.0
        self.largest_batch = self.largest_blocks = 0
        self.steps = self.preemptions = self.recomputed = 0
        self.trace_requests, self.window = trace_requests, trace_seconds
        self.tracing = bool(trace_requests) or trace_seconds is not None
        self.open_traces = trace_requests
        self.requests: list[RequestTrace] = []
        self.step_rows: list[StepTrace] = []
        self.slots: list[int] = []
        self.next_slot = 0

    def begins(self, sequence: _Sequence) -> None:
        """A request that is taken from its source."""
        self.begun += 1
        if self.start is None:
            self.start = sequence.arrival

    def ends(self, sequence: _Sequence, now: float) -> None:
        """A request whose answer is complete."""
        arrival, first, outputs = sequence.arrival, sequence.first, sequence.outputs
        ttft = first - arrival
        self.ttft.add(ttft)
        self.latency.add(now - arrival)
        self.wait.add(sequence.admitted - arrival)
        tpot = 0.0
        if outputs > 1:
            tpot = (now - first) / (outputs - 1)
            self.tpot.add(tpot)
        if self.slo is not None and ttft <= self.slo.ttft_seconds and tpot <= self.slo.tpot_seconds:
            self.good += 1
        self.inputs += sequence.inputs
        self.outputs += outputs
        if now > self.last:
            self.last = now
        self.ended += 1
        if self.tracing:
            self._trace(sequence, now)

    def enters(self, sequence: _Sequence, now: float) -> None:
        """A place in the batch, for drawing."""
        if self.slots:
            sequence.slot = heappop(self.slots)
        else:
            sequence.slot, self.next_slot = self.next_slot, self.next_slot + 1
        sequence.spans.append((sequence.slot, now, now))

    def leaves(self, sequence: _Sequence, now: float) -> None:
        if sequence.slot >= 0:
            slot, since, _ = sequence.spans.pop()
            sequence.spans.append((slot, since, now))
            heappush(self.slots, slot)
            sequence.slot = -1

    def _trace(self, s: _Sequence, now: float) -> None:
        self.leaves(s, now)
        early = s.number < self.trace_requests
        self.open_traces -= early
        inside = self.window is not None and s.arrival <= self.window[1] and now >= self.window[0]
        if early or inside:
            self.requests.append(
                RequestTrace(
                    s.number,
                    s.arrival,
                    s.admitted,
                    s.first,
                    now,
                    s.inputs,
                    s.outputs,
                    s.preemptions,
                    tuple(s.spans),
                )
            )

    def trace_step(self, start: float, end: float, steps: int, prefill: int, decode: int, blocks: int) -> None:
        inside = self.window is not None and start <= self.window[1] and end >= self.window[0]
        if self.open_traces > 0 or inside:
            self.step_rows.append(StepTrace(start, end, steps, prefill, decode, blocks))


# -- engines ----------------------------------------------------------------------------------


class _Continuous:
    """In-flight batching over a paged KV cache."""

    def __init__(self, engine: Engine, source: _Open, run: _Run) -> None:
        self.engine, self.source, self.run_ = engine, source, run
        self.affine = engine.step if isinstance(engine.step, StepModel) else None
        blocks = _UNLIMITED if engine.kv_blocks is None else engine.kv_blocks
        self.table = PageTable(blocks, engine.block_tokens)
        self.reserve = 0 if engine.kv_blocks is None else int(engine.watermark * blocks)
        # of a shared prefix only the whole blocks are shared
        self.prefix = engine.shared_prefix_tokens // engine.block_tokens * engine.block_tokens
        if self.prefix:
            self.table.add("prefix", self.prefix)
        self.running: dict[int, _Sequence] = {}  # in the order of admission
        self.again: deque[_Sequence] = deque()  # preempted
        self.prefilling: list[_Sequence] = []  # admitted, prompt not computed to its end
        self.blocked = False  # what is next in the queue must wait for an answer to be complete
        # decoding sequences, all together
        self.now = 0.0
        self.k = 0  # decode steps so far
        self.decoding = 0
        self.context = 0  # tokens that they hold in the cache
        self.buckets: list[dict[int, None]] = [{} for _ in range(engine.block_tokens)]
        self.heap: list[tuple[int, int, _Sequence]] = []  # by the step after which they end
        self.serial = 0

    def run(self) -> None:
        plan = self._plan_chunks if self.engine.chunked_prefill else self._plan_prompts
        source, run = self.source, self.run_
        while True:
            chunks = plan()
            if chunks:
                self._mixed(chunks)
            elif self.decoding:
                self._decode()
            else:
                at = source.next_time(self.now)
                if at == inf:
                    break
                self.now = max(self.now, at)
            run.now = self.now
        if self.prefix:
            self.table.release("prefix")
        assert not self.table.used, "blocks were left behind"

    # -- admission

    def _admit(self, most_tokens: int, spare: int) -> _Sequence | None:
        """The next in the queue, if it is there and fits; its blocks are taken.

        most_tokens   of its prompt
        spare         blocks to leave free
        """
        if len(self.running) >= self.engine.max_sequences:
            self.blocked = True
            return None
        preempted = bool(self.again)
        head = self.again[0] if preempted else self.source.arrived(self.now)
        if head is None:
            return None
        tokens = head.inputs + head.generated
        prefix = self.prefix
        if head.cached:  # computed elsewhere
            tokens = head.cached
        elif tokens - prefix > most_tokens:
            return None
        table = self.table
        need = -(-(tokens - prefix) // table.block_tokens)
        free = table.free
        if need > free - spare or (self.running and need > free - spare - self.reserve):
            self.blocked = True
            return None
        if preempted:
            self.again.popleft()
        else:
            self.source.pop()
            if head.admitted < 0:
                self.run_.begins(head)
                head.admitted = self.now
        if prefix:
            table.add(head.number, tokens, "prefix", prefix)
        else:
            table.add(head.number, tokens)
        self.running[head.number] = head
        if self.run_.tracing:
            self.run_.enters(head, self.now)
        return head

    def _plan_prompts(self) -> list[tuple[_Sequence, int]]:
        """Prompts for a step of their own, all of each."""
        self.blocked = False
        chunks: list[tuple[_Sequence, int]] = []
        left = self.engine.max_batched_tokens
        # the first prompt may be longer than a step's tokens
        while (sequence := self._admit(left if chunks else _UNLIMITED, 0)) is not None:
            if sequence.cached:
                self._join(sequence)
                continue
            tokens = sequence.inputs + sequence.generated - self.prefix
            sequence.cached = self.prefix
            chunks.append((sequence, tokens))
            left -= tokens
        return chunks

    def _plan_chunks(self) -> list[tuple[_Sequence, int]]:
        """Pieces of prompts to compute beside the sequences that decode."""
        self.blocked = False
        admits = not self._make_room(1) if self.decoding else True
        left = self.engine.max_batched_tokens - self.decoding
        chunks: list[tuple[_Sequence, int]] = []
        for sequence in self.prefilling:
            tokens = min(left, sequence.inputs + sequence.generated - sequence.cached)
            if tokens <= 0:
                break
            chunks.append((sequence, tokens))
            left -= tokens
        while admits and left > 0:
            spare = len(self.buckets[self.k % self.engine.block_tokens])
            admitted = self._admit(_UNLIMITED, spare)
            if admitted is None:
                break
            admitted.cached = self.prefix
            self.prefilling.append(admitted)
            tokens = min(left, admitted.inputs + admitted.generated - self.prefix)
            chunks.append((admitted, tokens))
            left -= tokens
        return chunks

    # -- steps

    def _mixed(self, chunks: list[tuple[_Sequence, int]]) -> None:
        """A step that computes prompts and, with chunked prefill, lets the others decode one token."""
        prefill = context = 0
        for sequence, tokens in chunks:
            prefill += tokens
            context += sequence.cached
        chunked = self.engine.chunked_prefill
        decoding = self.decoding if chunked else 0
        held = self.context if chunked else 0
        model = self.affine
        if model is not None:
            seconds = (
                model.base_seconds
                + model.prefill_token_seconds * prefill
                + model.sequence_seconds * decoding
                + model.cached_token_seconds * (context + held)
            )
        else:
            seconds = _checked_seconds(self.engine.step, prefill, context, decoding, held)
        if decoding:
            table = self.table
            table.grow(self.buckets[self.k % table.block_tokens])
        self._passes(seconds, 1, prefill, decoding)
        self.run_.block_seconds += self.table.used * seconds
        if decoding:
            self.k += 1
            self.context += decoding
            self._finish()
        for sequence, tokens in chunks:
            sequence.cached += tokens
            if sequence.cached == sequence.inputs + sequence.generated:
                if sequence.first < 0:
                    sequence.first = self.now
                sequence.generated += 1
                self._join(sequence)
        if chunked:
            self.prefilling = [s for s in self.prefilling if not s.serial and s.number in self.running]

    def _passes(self, seconds: float, steps: int, prefill: int, decoding: int) -> None:
        """Time goes on."""
        run = self.run_
        running = len(self.running)
        used = self.table.used
        if running > run.largest_batch:
            run.largest_batch = running
        if used > run.largest_blocks:
            run.largest_blocks = used
        run.busy += seconds
        run.sequence_seconds += running * seconds
        run.steps += steps
        if run.tracing:
            run.trace_step(self.now, self.now + seconds, steps, prefill, decoding, used)
        self.now += seconds

    def _join(self, sequence: _Sequence) -> None:
        """A sequence whose prompt is in the cache starts to decode, or ends."""
        left = sequence.outputs - sequence.generated
        if not left:
            self._complete(sequence)
            return
        held = sequence.inputs + sequence.generated - 1
        self.serial += 1
        sequence.serial = self.serial
        sequence.finish = self.k + left
        sequence.cached = 0
        sequence.bucket = (self.k - held) % self.engine.block_tokens
        self.buckets[sequence.bucket][sequence.number] = None
        self.decoding += 1
        self.context += held
        heappush(self.heap, (sequence.finish, self.serial, sequence))

    def _decode(self) -> None:
        """As many decode steps as bring nothing new: until one ends, may be admitted, or blocks run out."""
        heap, table, k = self.heap, self.table, self.k
        while heap[0][2].serial != heap[0][1]:
            heappop(heap)
        n = heap[0][0] - k
        block_tokens = table.block_tokens
        model = self.affine
        if model is None:
            n = 1
        batch = self.decoding
        if batch * (n // block_tokens + 1) > table.free:
            n = self._steps_with_blocks(n)
            if not n:
                self._make_room(1)
                n, batch = 1, self.decoding
                if not batch:
                    return
        if model is None:
            slope, each = 0.0, _checked_seconds(self.engine.step, 0, 0, batch, self.context)
            seconds = each
        else:
            slope = model.cached_token_seconds * batch
            each = (
                model.base_seconds + model.sequence_seconds * batch + model.cached_token_seconds * self.context
            )  # of the first step; each later one takes `slope` more
            seconds = n * each + slope * (n * (n - 1) / 2)
            if n > 1 and not self.blocked:
                now = self.now
                coming = self.source.next_time(now)
                if now + seconds >= coming:
                    n = _steps_until(coming, now, each, slope, n)
                    seconds = n * each + slope * (n * (n - 1) / 2)
        buckets = self.buckets
        block_seconds = table.used * seconds
        if n <= block_tokens:
            for j in range(n):
                bucket = buckets[(k + j) % block_tokens]
                if bucket:
                    grown = table.grow(bucket)
                    block_seconds += grown * (seconds - j * each - slope * (j * (j - 1) / 2))
        else:
            for phase, bucket in enumerate(buckets):
                if bucket:
                    for j in range((phase - k) % block_tokens, n, block_tokens):
                        grown = table.grow(bucket)
                        block_seconds += grown * (seconds - j * each - slope * (j * (j - 1) / 2))
        self._passes(seconds, n, 0, batch)
        self.run_.block_seconds += block_seconds
        self.k = k + n
        self.context += batch * n
        self._finish()

    def _steps_with_blocks(self, most: int) -> int:
        """Decode steps that the free blocks allow, up to `most`."""
        free, block_tokens = self.table.free, self.engine.block_tokens
        rounds = min(free // self.decoding, most // block_tokens)
        steps, free = rounds * block_tokens, free - rounds * self.decoding
        while steps < most:
            free -= len(self.buckets[(self.k + steps) % block_tokens])
            if free < 0:
                break
            steps += 1
        return steps

    def _make_room(self, steps: int) -> bool:
        """Preempt the youngest until that many decode steps have their blocks; whether one was."""
        preempted = False
        while self.decoding and self._steps_with_blocks(steps) < steps:
            _, sequence = self.running.popitem()
            self._preempt(sequence)
            preempted = True
        return preempted

    def _preempt(self, sequence: _Sequence) -> None:
        if sequence.serial:
            sequence.generated = sequence.outputs - (sequence.finish - self.k)
            self._leave(sequence)
            self.run_.recomputed += sequence.inputs + sequence.generated - self.prefix
        else:
            self.prefilling.remove(sequence)
            self.run_.recomputed += sequence.cached - self.prefix
        sequence.cached = 0
        sequence.preemptions += 1
        self.run_.preemptions += 1
        self.table.release(sequence.number)
        self.again.appendleft(sequence)
        if self.run_.tracing:
            self.run_.leaves(sequence, self.now)

    def _leave(self, sequence: _Sequence) -> None:
        """No longer among those that decode; `generated` is what it is by now."""
        sequence.serial = 0
        del self.buckets[sequence.bucket][sequence.number]
        self.decoding -= 1
        self.context -= sequence.inputs + sequence.generated - 1

    def _finish(self) -> None:
        """Those whose last token has just come."""
        heap, k = self.heap, self.k
        while heap and heap[0][0] <= k:
            _, serial, sequence = heappop(heap)
            if sequence.serial == serial:
                sequence.generated = sequence.outputs
                self._leave(sequence)
                self._complete(sequence)

    def _complete(self, sequence: _Sequence) -> None:
        del self.running[sequence.number]
        self.table.release(sequence.number)
        self.run_.ends(sequence, self.now)
        self.source.completed(self.now)


def _steps_until(coming: float, now: float, each: float, slope: float, most: int) -> int:
    """The fewest steps after which it is `coming` or later, from 1 to `most`; step j takes each + slope x j seconds."""
    gap = coming - now
    first = each - slope / 2
    bottom = first + sqrt(first * first + 2 * slope * max(gap, 0.0))
    n = min(most, max(1, ceil(2 * gap / bottom))) if bottom > 0 else most
    while n < most and now + (n * each + slope * (n * (n - 1) / 2)) < coming:
        n += 1
    while n > 1 and now + ((n - 1) * each + slope * ((n - 1) * (n - 2) / 2)) >= coming:
        n -= 1
    return n


class _Batches:
    """Whole batches, one after the other: static, and dynamic at the level of requests."""

    def __init__(self, engine: Engine, source: _Open, run: _Run) -> None:
        self.engine, self.source, self.run_ = engine, source, run
        blocks = _UNLIMITED if engine.kv_blocks is None else engine.kv_blocks
        self.table = PageTable(blocks, engine.block_tokens)
        self.waiting: deque[_Sequence] = deque()  # taken from the source, in no batch yet
        self.now = 0.0

    def run(self) -> None:
        form = self._static if self.engine.mode == "static" else self._dynamic
        while (start := form()) is not None:
            size = self._fitting()
            if self.engine.preferred_sizes and self.engine.mode == "dynamic":
                size = max((p for p in self.engine.preferred_sizes if p <= size), default=size)
            self._serve([self.waiting.popleft() for _ in range(size)], start)
            self.run_.now = self.now
        assert not self.table.used, "blocks were left behind"

    def _pull(self, by: float = inf) -> bool:
        """Take the next request if it comes by then."""
        head = self.source.peek()
        if head is None or head.arrival > by:
            return False
        self.source.pop()
        self.run_.begins(head)
        self.waiting.append(head)
        return True

    def _static(self) -> float | None:
        """Wait until the batch is full, or nobody comes any more; when it starts, None at the end."""
        inputs = outputs = 0
        for size in range(1, self.engine.max_sequences + 1):
            if len(self.waiting) < size and not self._pull():
                break
            last = self.waiting[size - 1]
            inputs, outputs = max(inputs, last.inputs), max(outputs, last.outputs)
            if not self._fits(size, inputs, outputs):
                break
        return max(self.now, self.waiting[-1].arrival) if self.waiting else None

    def _dynamic(self) -> float | None:
        """Wait for a preferred size, or until the oldest has waited long enough."""
        if not self.waiting and not self._pull():
            return None
        enough = (self.engine.preferred_sizes or (self.engine.max_sequences,))[0]
        deadline = max(self.now, self.waiting[0].arrival + self.engine.max_delay_seconds)
        while len(self.waiting) < enough and self._pull(deadline):
            pass
        start = deadline if len(self.waiting) < enough else max(self.now, self.waiting[enough - 1].arrival)
        while len(self.waiting) < self.engine.max_sequences and self._pull(start):
            pass
        return start

    def _fitting(self) -> int:
        """Of those that wait, how many fit as one batch: each reserves what the longest of them needs."""
        inputs = outputs = 0
        for size, sequence in enumerate(self.waiting):
            inputs, outputs = max(inputs, sequence.inputs), max(outputs, sequence.outputs)
            if not self._fits(size + 1, inputs, outputs):
                return size
        return len(self.waiting)

    def _fits(self, batch: int, inputs: int, outputs: int) -> bool:
        blocks = -(-(inputs + outputs - 1) // self.engine.block_tokens)
        return self.engine.kv_blocks is None or batch * blocks <= self.engine.kv_blocks

    def _serve(self, batch: list[_Sequence], start: float) -> None:
        engine, run = self.engine, self.run_
        prompt = sum(sequence.inputs for sequence in batch)
        longest = max(sequence.outputs for sequence in batch)
        room = max(sequence.inputs for sequence in batch) + longest - 1
        for sequence in batch:
            self.table.add(sequence.number, room)
            sequence.admitted = start
            if run.tracing:
                run.enters(sequence, start)
        first = start + _checked_seconds(engine.step, prompt, 0, 0, 0)
        wanted = {sequence.outputs - 1 for sequence in batch} if engine.early_return else {longest - 1}
        after = self._decode_seconds(len(batch), prompt, wanted)
        end = first + after[longest - 1]
        run.busy += end - start
        run.sequence_seconds += len(batch) * (end - start)
        run.block_seconds += self.table.used * (end - start)
        run.largest_blocks = max(run.largest_blocks, self.table.used)
        run.largest_batch = max(run.largest_batch, len(batch))
        run.steps += longest
        if run.tracing:
            run.trace_step(start, first, 1, prompt, 0, self.table.used)
            if longest > 1:
                run.trace_step(first, end, longest - 1, 0, len(batch), self.table.used)
        for sequence in sorted(batch, key=lambda s: s.outputs) if engine.early_return else batch:
            sequence.first = first
            finish = first + after[sequence.outputs - 1] if engine.early_return else end
            self.table.release(sequence.number)
            run.ends(sequence, finish)
            self.source.completed(finish)
        self.now = end

    def _decode_seconds(self, batch: int, context: int, wanted: set[int]) -> dict[int, float]:
        """Seconds of that many decode steps; members that are done go on in their places."""
        step = self.engine.step
        if isinstance(step, StepModel):
            slope = step.cached_token_seconds * batch
            each = step.base_seconds + step.sequence_seconds * batch + step.cached_token_seconds * context
            return {n: n * each + slope * (n * (n - 1) / 2) for n in wanted}
        found, seconds, most = {}, 0.0, max(wanted)
        for n in range(most + 1):
            if n in wanted:
                found[n] = seconds
            if n < most:
                seconds += _checked_seconds(step, 0, 0, batch, context + n * batch)
        return found


# -- result -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class SimulationResult:
    """What a simulation found.

    mode                       of the engine
    requests                   that were answered; `unanswered`: in flight when it was interrupted
    seconds                    from the first arrival to the last answer
    requests_per_second, output_tokens_per_second   over `seconds`
    input_tokens, output_tokens   of the requests answered
    ttft, tpot, latency, wait  seconds to the first token, between the tokens after it, to the last one, and from
                               arrival to admission, each as a `Spread`
    relative_error             of the percentiles: 0 up to 10,000 requests; means and the largest are exact
    slo, good, goodput, goodput_per_second   the objective, the requests that keep it, their share, and how many a
                               second; None without one
    mean_in_system, mean_waiting   requests, by Little's law: exact, as all of a complete run come and go in `seconds`
    mean_batch, largest_batch  sequences in the batch, over the time in which there is one
    utilization                share of `seconds` in which the engine is busy; with prefill machines, of the decode
                               machine, and `prefill_utilization` of the others
    kv_occupancy, kv_peak      share of the KV blocks that are held, mean over `seconds` and largest; None without limit
    steps                      of the engine
    preemptions, recomputed_tokens   sequences that had to give their blocks back, and tokens computed again for it
    complete, note             False if it was interrupted, and where
    requests_trace, steps_trace   what was asked to be traced
    """

    mode: str
    requests: int
    unanswered: int
    seconds: float
    requests_per_second: float
    output_tokens_per_second: float
    input_tokens: int
    output_tokens: int
    ttft: Spread
    tpot: Spread
    latency: Spread
    wait: Spread
    relative_error: float
    slo: SLO | None
    good: int | None
    goodput: float | None
    goodput_per_second: float | None
    mean_in_system: float
    mean_waiting: float
    mean_batch: float
    largest_batch: int
    utilization: float
    prefill_utilization: float | None
    kv_occupancy: float | None
    kv_peak: float | None
    steps: int
    preemptions: int
    recomputed_tokens: int
    complete: bool = True
    note: str = ""
    requests_trace: tuple[RequestTrace, ...] = ()
    steps_trace: tuple[StepTrace, ...] = ()

    @property
    def title(self) -> str:
        """One line that says what was simulated."""
        if not self.requests:
            return f"{self.mode} batching: no request was answered" + (f" ({self.note})" if self.note else "")
        partial = f" ({self.note})" if self.note else ""
        seconds = format_quantity(self.seconds, "seconds")
        return f"{self.mode} batching: {self.requests:,} requests in {seconds}{partial}"

    def to_dict(self) -> dict[str, Any]:
        """All fields but the traces as plain values; an objective that is not set is None."""

        def plain(value: float) -> float | None:
            return None if value == inf else value

        traces = ("requests_trace", "steps_trace")
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in traces}
        slo = self.slo
        return found | {
            "ttft": self.ttft.to_dict(),
            "tpot": self.tpot.to_dict(),
            "latency": self.latency.to_dict(),
            "wait": self.wait.to_dict(),
            "slo": None
            if slo is None
            else {"ttft_seconds": plain(slo.ttft_seconds), "tpot_seconds": plain(slo.tpot_seconds)},
        }

    def rows(self) -> list[tuple[str, str, str]]:
        """Quantity, value and what belongs to it, as text."""
        if not self.requests:
            return [("requests", "0", self.note or "no request came")]

        def times(name: str, spread: Spread) -> tuple[str, str, str]:
            rest = ", ".join(
                f"{q} {format_quantity(getattr(spread, q), 'seconds')}" for q in ("p50", "p90", "p95", "p99")
            )
            if not spread.count:
                return name, "none", "all answers have one token"
            return name, format_quantity(spread.mean, "seconds"), rest

        rows = [
            ("requests", f"{self.requests:,}", format_quantity(self.requests_per_second, "a second")),
            (
                "output tokens",
                f"{self.output_tokens:,}",
                f"{format_quantity(self.output_tokens_per_second, 'a second')}",
            ),
            times("time to first token", self.ttft),
            times("time per token", self.tpot),
            times("latency", self.latency),
            times("wait in the queue", self.wait),
            (
                "batch",
                f"{self.mean_batch:.1f}",
                f"largest {self.largest_batch:,}; {self.mean_in_system:.1f} requests in the system",
            ),
            ("utilization", format_quantity(self.utilization, "fraction"), f"{self.steps:,} steps"),
        ]
        if self.prefill_utilization is not None:
            rows.append(("prefill utilization", format_quantity(self.prefill_utilization, "fraction"), ""))
        if self.kv_occupancy is not None and self.kv_peak is not None:
            peak = format_quantity(self.kv_peak, "fraction")
            rows.append(("KV blocks held", format_quantity(self.kv_occupancy, "fraction"), f"at most {peak}"))
        if self.preemptions:
            again = f"{self.recomputed_tokens:,} tokens computed again"
            rows.append(("preemptions", f"{self.preemptions:,}", again))
        if self.slo is not None and self.goodput is not None:
            limits = [
                f"{name} at most {format_quantity(limit, 'seconds')}"
                for name, limit in (("first token", self.slo.ttft_seconds), ("token", self.slo.tpot_seconds))
                if limit < inf
            ]
            met = "" if self.good else "; no request keeps it"
            rate = format_quantity(self.goodput_per_second, "a second")
            rows.append(
                ("goodput", format_quantity(self.goodput, "fraction"), ", ".join([rate, *limits]) + met),
            )
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
        return "\n".join([self.title, *(f"{a:<{first}}  {b:>{second}}  {c}".rstrip() for a, b, c in rows)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self.title, ("quantity", "value", "percentiles or detail"), self.rows())


def simulate(
    engine: Engine,
    requests: Poisson | Closed | Recorded | Iterable[Request],
    *,
    slo: SLO | None = None,
    trace_requests: int = 0,
    trace_seconds: tuple[float, float] | None = None,
) -> SimulationResult:
    """Run requests through an engine and tell how long they took.

    requests         a load, or any iterable of `Request` in the order of arrival, which is read as it is needed
    slo              what a request must keep to be good
    trace_requests   the first so many are traced, with the steps until they are answered
    trace_seconds    (from, to): requests and steps in this time are traced

    Interrupted (Ctrl-C), it returns what it has, with `complete=False` and where it was in `note`.

    >>> engine = Engine(StepModel(0.008, prefill_token_seconds=1e-5, cached_token_seconds=4e-8), max_sequences=64)
    >>> found = simulate(engine, Poisson(rate=10, input_tokens=500, output_tokens=200, requests=500, seed=1))
    >>> found.requests, round(found.tpot.mean, 3), found.preemptions
    (500, 0.01, 0)
    """
    check_count("trace_requests", trace_requests, 0)
    if trace_seconds is not None:
        try:
            low, high = trace_seconds
        except (TypeError, ValueError):
            raise LLMHWError(f"trace_seconds={trace_seconds!r} must be two numbers, (from, to)") from None
        number_from("trace_seconds[1]", high, number_from("trace_seconds[0]", low))
    run = _Run(slo, trace_requests, trace_seconds)
    source = _Users(engine, requests) if isinstance(requests, Closed) else _Open(engine, requests)
    machine: _Continuous | _Batches
    if engine.mode in ("static", "dynamic"):
        machine = _Batches(engine, source, run)
    else:
        pooled = engine.mode == "disaggregated"
        machine = _Continuous(engine, _Prefilled(engine, source, run) if pooled else source, run)
    note = ""
    try:
        machine.run()
    except KeyboardInterrupt:
        flight = run.begun - run.ended
        at = format_quantity(max(run.now, run.last), "seconds")
        note = f"interrupted at {at} of simulated time, {run.ended:,} requests answered, {flight:,} in flight"
    return _result(engine, run, note)


def _result(engine: Engine, run: _Run, note: str) -> SimulationResult:
    seconds = max(run.last, run.now if note else 0.0) - (run.start or 0.0) if run.begun else 0.0

    def over(amount: float) -> float:
        return amount / seconds if seconds > 0 else 0.0

    limited = engine.kv_blocks
    rated = run.slo is not None
    good = run.good if rated else None
    return SimulationResult(
        mode=engine.mode,
        requests=run.ended,
        unanswered=run.begun - run.ended,
        seconds=seconds,
        requests_per_second=over(run.ended),
        output_tokens_per_second=over(run.outputs),
        input_tokens=run.inputs,
        output_tokens=run.outputs,
        ttft=Spread.of(run.ttft),
        tpot=Spread.of(run.tpot),
        latency=Spread.of(run.latency),
        wait=Spread.of(run.wait),
        relative_error=0.0 if run.latency.is_exact else run.latency.relative_error,
        slo=run.slo,
        good=good,
        goodput=run.good / run.ended if rated and run.ended else None,
        goodput_per_second=over(run.good) if rated else None,
        mean_in_system=littles_law(arrivals_per_second=over(run.ended), seconds=run.latency.mean or 0.0),
        mean_waiting=littles_law(arrivals_per_second=over(run.ended), seconds=run.wait.mean or 0.0),
        mean_batch=run.sequence_seconds / run.busy if run.busy else 0.0,
        largest_batch=run.largest_batch,
        utilization=over(run.busy),
        prefill_utilization=over(run.prefill_busy) / engine.prefill_workers if engine.mode == "disaggregated" else None,
        kv_occupancy=None if limited is None else over(run.block_seconds) / limited,
        kv_peak=None if limited is None else run.largest_blocks / limited,
        steps=run.steps,
        preemptions=run.preemptions,
        recomputed_tokens=run.recomputed,
        complete=not note,
        note=note,
        requests_trace=tuple(run.requests),
        steps_trace=tuple(run.step_rows),
    )
