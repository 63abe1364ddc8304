"""The KV cache in blocks."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from llmhw.formula import Term, formula, term
from llmhw.simulation.load import Distribution
from llmhw.units import LLMHWError, ceil_div, check_count


@formula(source="of a sequence's last page any number of tokens from 1 to all is held equally often", unit="fraction")
def empty_page_share(*, tokens: Any, page_tokens: Any) -> Any:
    """Share of a paged KV cache that is held and empty, on average.

    tokens        that a sequence holds; the mean of its life if it grows
    page_tokens   of a page

    Holds while a page is shorter than the sequences. Counts the last page of each sequence; free pages are no waste.

    >>> round(empty_page_share(tokens=300, page_tokens=16), 4)
    0.0244
    """
    return (page_tokens - 1) / 2 / (tokens + (page_tokens - 1) / 2)


@formula(source="definition", unit="fraction")
def unused_share(*, tokens: Any, pages: Any, page_tokens: Any) -> Any:
    """Share of the pages that sequences hold which no token fills.

    tokens        that they have
    pages         that they hold, of `page_tokens` each

    >>> unused_share(tokens=90, pages=6, page_tokens=16)
    0.0625
    """
    return 1 - tokens / (pages * page_tokens)


@formula(source="a block as long as the longest sequence for each, as before PagedAttention", unit="count")
def reserved_sequences(*, pages: Any, longest_pages: Any) -> Any:
    """Sequences for which a cache of so many pages has room where each reserves the longest that is allowed.

    >>> reserved_sequences(pages=64, longest_pages=20)
    3
    """
    return pages // longest_pages


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

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._held)

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


@dataclass(frozen=True)
class FilledCache:
    """A cache with its sequences, in pages and with a block of the longest one reserved for each.

    table          whose pages are whose
    waiting        sequences that found no page for a token, and wait with what they have, or with nothing
    longest_pages  of the longest sequence that is allowed
    """

    table: PageTable
    waiting: tuple[str, ...]
    longest_pages: int

    @property
    def tokens(self) -> int:
        """Of all sequences that hold pages."""
        return sum(map(self.table.tokens_of, self.table))

    @property
    def unused(self) -> Term:
        """Share of the held pages that no token fills."""
        sizes: dict[str, Any] = {
            "tokens": self.tokens,
            "pages": self.table.used,
            "page_tokens": self.table.block_tokens,
        }
        return term(unused_share, "held and empty", **sizes)

    @property
    def most_reserved(self) -> Term:
        """Sequences that a reservation for each leaves room for."""
        sizes: dict[str, Any] = {"pages": self.table.blocks, "longest_pages": self.longest_pages}
        return term(reserved_sequences, "with a reservation each", **sizes)

    @property
    def reserved(self) -> tuple[str, ...]:
        """The first of the sequences with pages: as many as would find a reservation."""
        return tuple(map(str, self.table))[: int(self.most_reserved.value)]

    @property
    def unused_reserved(self) -> Term:
        """Share of the reservations that no token fills."""
        sizes: dict[str, Any] = {"tokens": sum(map(self.table.tokens_of, self.reserved))}
        sizes |= {"pages": len(self.reserved) * self.longest_pages, "page_tokens": self.table.block_tokens}
        return term(unused_share, "reserved and empty", **sizes)


def filled_cache(
    prompts: Mapping[str, int], written: int, *, pages: int, page_tokens: int = 16, longest_tokens: int
) -> FilledCache:
    """The cache after sequences have come with their prompts and written so many tokens each, one a step.

    prompts         name -> tokens of each, in the order in which they come
    longest_tokens  of a sequence: nobody writes more

    >>> held = filled_cache({"A": 20, "B": 40}, 30, pages=8, longest_tokens=64)
    >>> held.table.blocks_of("A"), held.table.blocks_of("B"), held.unused.value, held.reserved
    ((0, 1, 6, 7), (2, 3, 4, 5), 0.109375, ('A', 'B'))
    """
    check_count("written", written, 0)
    table = PageTable(pages, page_tokens)
    longest_pages = ceil_div(check_count("longest_tokens", longest_tokens), page_tokens)
    waiting: list[str] = []
    for name, tokens in prompts.items():
        try:
            table.add(name, min(check_count(f"prompts[{name!r}]", tokens), longest_tokens))
        except OutOfBlocksError:
            waiting.append(name)
    for _ in range(written):
        for name in prompts:
            if name not in waiting and table.tokens_of(name) < longest_tokens:
                try:
                    table.append(name)
                except OutOfBlocksError:
                    waiting.append(name)
    return FilledCache(table, tuple(waiting), longest_pages)


class Emptiness(NamedTuple):
    """What `measure_empty` finds.

    share    of the tokens for which pages are held that are empty
    tokens   that a sequence holds on average
    """

    share: float
    tokens: float


def measure_empty(
    page_tokens: int, prompts: Distribution, answers: Distribution, *, steps: int = 800, seed: int = 7
) -> Emptiness:
    """The share of held pages that is empty, measured: sequences come, get a token a step, and leave.

    page_tokens   of a page; the longest sequence there may be: a block reserved for it
    prompts       tokens of a prompt, `draw(random)`
    answers       tokens of an answer
    steps         that are played; one sequence comes in eight of them

    A cache that is always large enough: who waits or is preempted is another question, `simulate` answers it.

    >>> from llmhw.simulation import Uniform
    >>> found = measure_empty(16, Uniform(200, 400), Uniform(50, 100))
    >>> abs(found.share - empty_page_share(tokens=found.tokens, page_tokens=16)) < 0.003
    True
    """
    check_count("steps", steps)
    random, left = Random(seed), dict[Hashable, int]()
    table = PageTable(2**30, page_tokens)
    tokens = room = count = 0
    for step in range(steps):
        if random.random() < 1 / 8:
            table.add(step, prompts.draw(random))
            left[step] = answers.draw(random)
        for name in [name for name, more in left.items() if not more]:
            table.release(name)
            del left[name]
        for name in left:
            table.append(name)
            left[name] -= 1
        tokens += sum(map(table.tokens_of, left))
        count, room = count + len(left), room + table.used * page_tokens
    if not count:
        raise LLMHWError(f"steps={steps} are too few: no sequence came; use 100 or more")
    return Emptiness(1 - tokens / room, tokens / count)
