"""Exercises of chapter 9, KV cache and PagedAttention."""

from collections.abc import Callable
from math import ceil
from typing import Any

import llmhw
from llmhw.exercises.base import Exercise
from llmhw.job import ServingJob
from llmhw.serving import serving_memory
from llmhw.simulation import PageTable, empty_page_share


def _token_kib(model: str) -> float:
    return float(llmhw.kv_cache_bytes_per_token(llmhw.model(model))) / 2**10


def _longest(model: str, card: str, kv: str) -> int:
    job = ServingJob(model=llmhw.model(model), cluster=llmhw.Cluster(card), kv=kv, max_model_len=131072)
    return int(serving_memory(job).longest)


def _largest_page(tokens: int, share: float) -> int:
    pages: list[int] = [2**k for k in range(12)]
    return max(p for p in pages if empty_page_share(tokens=tokens, page_tokens=p) <= share)


def _pages(prompt: int, answers: int, tokens: int, page: int, *, shared: bool = True) -> int:
    """Pages that answers to one prompt hold, with the prompt shared or not."""
    table = PageTable(blocks=100_000, block_tokens=page)
    table.add(0, prompt)
    for i in range(1, answers):
        if shared:
            table.fork(0, i)
        else:
            table.add(i, prompt)
    for i in range(answers):
        table.append(i, tokens)
    return table.used


def _at_once(tokens: int, chat: int) -> int:
    return tokens // 16 // ceil(chat / 16)


Append = Callable[[dict[str, tuple[list[int], int]], list[int], str, int], Any]


def append(table: dict[str, tuple[list[int], int]], free: list[int], name: str, page_tokens: int) -> None:
    """One answer to 9.7: a token more for a sequence of a page table.

    >>> table, free = {"A": ([0], 3), "B": ([0], 3)}, [1, 2]
    >>> append(table, free, "B", 4)
    >>> table, free
    ({'A': ([0], 3), 'B': ([1], 4)}, [2])
    """
    pages, tokens = table[name]
    if tokens % page_tokens == 0:
        pages = [*pages, free.pop(0)]
    elif sum(pages[-1] in held for held, _ in table.values()) > 1:
        pages = [*pages[:-1], free.pop(0)]
    table[name] = pages, tokens + 1


def _accept_append(answer: Append) -> str:
    if not callable(answer):
        return "it is not a function"
    for page, start, writers in ((4, 10, "BABABBBAB"), (4, 8, "ABBA"), (1, 3, "BBA"), (16, 33, "ABAB" * 9)):
        theirs = PageTable(blocks=200, block_tokens=page)
        theirs.add("A", start)
        theirs.fork("A", "B")
        held = len(theirs.blocks_of("A"))
        mine = {"A": (list(range(held)), start), "B": (list(range(held)), start)}
        free = list(range(held, 200))
        for step, name in enumerate(writers):
            answer(mine, free, name, page)
            theirs.append(name)
            where = f"with pages of {page}, after write {step + 1} by {name}"
            tokens = {each: theirs.tokens_of(each) for each in "AB"}
            if {each: mine[each][1] for each in "AB"} != tokens:
                return f"{where}: the counts of tokens are wrong"
            for each in "AB":
                if len(mine[each][0]) != len(theirs.blocks_of(each)):
                    return f"{where}: {each} has too many or too few pages"
            same = [a == b for a, b in zip(mine["A"][0], mine["B"][0], strict=False)]
            right = [a == b for a, b in zip(theirs.blocks_of("A"), theirs.blocks_of("B"), strict=False)]
            if same != right:
                return f"{where}: A and B share other pages than they should"
            if len(free) != theirs.free or set(free) & {p for pages, _ in mine.values() for p in pages}:
                return f"{where}: the list of free pages is wrong"
    return ""


def _accept_slowdown(answer: float) -> str:
    if not 0.5 < answer < 100:
        return "a ratio of two times is wanted, scattered over contiguous; on most machines it lies between 1 and 5"
    return ""


EXERCISES = (
    Exercise(
        "9.1",
        "by hand",
        1,
        "Read layers, KV heads and head size of {model} off its card. What does a token weigh in its cache, in 16 bit?",
        unit="KiB",
        given={
            "model": (
                "qwen3-32b",
                "llama-2-13b",
                "qwen2.5-7b",
                "llama-3.2-3b",
                "llama-3.1-405b",
                "mixtral-8x7b",
                "llama-3.1-70b",
                "qwen2.5-14b",
                "llama-3.2-1b",
                "qwen3-8b",
                "mistral-7b",
            )
        },
        answer=_token_kib,
        slips={
            "K without V": 1 / 2,
            "8 bit in place of 16, and K without V": 1 / 4,
            "one layer, not all": lambda model: _token_kib(model) / llmhw.model(model).num_layers,
        },
        hints=("K and V, in each layer, for each KV head, each number of a head.", "Query heads leave nothing behind."),
    ),
    Exercise(
        "9.2",
        "compute",
        2,
        "`vllm serve` of {model} on one {card} stops at once: the 131,072 tokens of its configuration do not fit. What "
        "is the largest `--max-model-len` that starts, with a cache in {kv}?",
        unit="tokens",
        given={
            "model": ("llama-3.1-8b", "qwen3-8b", "llama-3.2-3b"),
            "card": ("RTX 4090", "A10G", "RTX 3090"),
            "kv": ("bf16", "fp8"),
        },
        answer=_longest,
        slips={
            "the 8-bit cache where the 16-bit one is asked, or the reverse": lambda model, card, kv: _longest(
                model, card, "fp8" if kv == "bf16" else "bf16"
            )
        },
        hints=("One sequence of that length must fit into the cache.", "`serving_memory(job).longest` tells."),
    ),
    Exercise(
        "9.3",
        "derive",
        2,
        "At most {share:.0%} of the held cache may be empty, and sequences have {tokens:,} tokens. What is the largest "
        "power of two that a page may hold?",
        unit="tokens",
        given={"share": (0.01, 0.02, 0.05), "tokens": (3000, 60, 300, 1000)},
        answer=_largest_page,
        slips={
            "a whole page is lost per sequence; it is half of one on average": lambda share, tokens: _largest_page(
                tokens, share / 2
            )
        },
        hints=(
            "How many tokens of the last page are empty on average?",
            "(p - 1) / 2 tokens of s + (p - 1) / 2 are empty.",
        ),
        tolerance=0,
    ),
    Exercise(
        "9.4",
        "by hand",
        2,
        "You draw {answers} answers of {tokens} tokens to a prompt of {prompt:,}, with pages of 16 and the prompt "
        "shared. How many pages are held at the end?",
        unit="pages",
        given={"answers": (8, 4, 16), "tokens": (100, 200), "prompt": (1000, 1024, 500)},
        answer=lambda answers, tokens, prompt: _pages(prompt, answers, tokens, 16),
        slips={
            "nothing is shared": lambda answers, tokens, prompt: _pages(prompt, answers, tokens, 16, shared=False),
            "the partly filled page of the prompt cannot stay shared": lambda answers, tokens, prompt: (
                ceil(prompt / 16) + answers * ceil(tokens / 16)
            ),
        },
        hints=(
            "Whole pages of the prompt are there once. What does each answer hold beside them?",
            "Each answer has its own copy of what lies in the partly filled page.",
        ),
        tolerance=0,
    ),
    Exercise(
        "9.5",
        "find the mistake",
        2,
        "A log says `GPU KV cache size: {tokens:,} tokens` and `Maximum concurrency for 4,096 tokens per request`. A "
        "colleague divides and plans for so many users. Their chats never hold more than {chat} tokens. For how many "
        "of them is there room, with pages of 16?",
        unit="users",
        given={"tokens": (451744, 109248, 178880, 22096), "chat": (500, 300, 900, 1200)},
        answer=_at_once,
        slips={"the colleague's: nothing reserves 4,096 tokens": lambda tokens, chat: tokens // 4096},
        hints=(
            "What does a chat hold, in whole pages?",
            "Pages are taken as tokens come, not at once.",
        ),
        tolerance=0.005,
    ),
    Exercise(
        "9.6",
        "measure",
        2,
        "How much slower does your machine read scattered pages than contiguous memory? Add up 256 MiB in pieces of "
        "4 KiB, in order and in random order, and give the ratio of the times.",
        unit="times",
        answer=lambda: 1.3,
        accept=_accept_slowdown,
        form="one number, the time in random order over the time in order",
        hints=("`numpy.take` of rows of 1,024 float32 gathers pages; time it for an ordered and a shuffled index.",),
    ),
    Exercise(
        "9.7",
        "design",
        3,
        "Write `append(table, free, name, page_tokens)` of a page table. `table` has for each sequence a pair, the "
        "list of its pages and its tokens; `free` is the list of free pages. It adds one token: into the last page if "
        "that has room and nobody else holds it, else into a new page, in place of the last one if that was shared.",
        answer=lambda: append,
        accept=_accept_append,
        form="a function append(table, free, name, page_tokens)",
        hints=(
            "Three cases: the last page is full, or shared and not full, or neither.",
            "Whoever writes into a shared page takes a new one in its place; the others keep the old one.",
        ),
    ),
)
