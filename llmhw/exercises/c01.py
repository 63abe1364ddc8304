"""Exercises of chapter 1, the matching table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import ceil
from typing import Any

import llmhw
from llmhw.engines import serving_engine
from llmhw.exercises.base import Exercise
from llmhw.fit import checkpointed_activations
from llmhw.units import GIB

_CARDS = ("RTX 4090", "RTX A6000", "A100 40GB SXM4", "A10G", "H100", "L4", "A100 80GB SXM4", "H200 SXM5", "B200", "T4")
_FOUR_BITS = "int4-gptq"


def _room(card: str) -> float:
    """Bytes that are planned with on one card."""
    return serving_engine("vllm").utilization * llmhw.accelerator(card).memory_bytes


@cache
def _states(model: str) -> float:
    return float(llmhw.training_states(llmhw.model(model)).total)


def _trainable(card: str) -> str:
    """The model with the most parameters whose states fit."""
    fitting = [name for name in llmhw.models() if _states(name) <= _room(card)]
    return max(fitting, key=lambda name: llmhw.model(name).parameters.total)


def _cards(model: str, card: str, tokens: int = 4096) -> int:
    free = _room(card)
    if tokens:
        free -= checkpointed_activations(llmhw.model(model), device=card, seq_len=tokens).total
    return ceil(_states(model) / free)


def _served(model: str, users: int, tokens: int) -> float:
    spec = llmhw.model(model)
    cache = llmhw.kv_cache(spec, batch=users, seq_len=tokens).total if users else 0
    return float(llmhw.weights(spec, _FOUR_BITS).total + cache) / GIB


def _conversations(model: str, cards: int, card: str, tokens: int, weights: str = "fp8", share: float = 1) -> int:
    spec = llmhw.model(model)
    left = share * cards * _room(card) - llmhw.weights(spec, weights).total
    return max(0, int(left // llmhw.kv_cache(spec, seq_len=tokens).total))


def _zero_2(model: str, card: str) -> int:
    count = llmhw.model(model).parameters.total
    return ceil(14 * count / (_room(card) - 2 * count))


def _own(answer: Mapping[str, Any]) -> str:
    """Whether the parameters follow from the memory that was named."""
    if set(answer) != {"GiB", "billion"} or not 0.5 <= answer["GiB"] <= 1e5:
        return "it needs the memory in GiB and the parameters in billions"
    planned = serving_engine("vllm").utilization * answer["GiB"] * GIB
    right = planned * 8 / llmhw.number_format(_FOUR_BITS).bits_per_weight / 1e9
    for slip, factor in {"": 1, "all of the memory was taken": 1 / serving_engine("vllm").utilization}.items():
        if abs(answer["billion"] / (right * factor) - 1) < 0.02:
            return slip
    return f"{answer['GiB']} GiB and {answer['billion']} billion do not go together: bytes, share, bits"


EXERCISES = (
    Exercise(
        "1.1",
        "compute",
        2,
        "Which is the largest model of the catalog (`llmhw.models()`) that one {card} can train fully, if you count "
        "states only?",
        given={"card": _CARDS},
        answer=_trainable,
        form="the name of a model",
        hints=("`room(card)` is the offer, `llmhw.training_states(...)` the need.",),
    ),
    Exercise(
        "1.2",
        "compute",
        1,
        "How many {card} does {model} need for training, with one sequence of {tokens:,} tokens on each? By what "
        "factor does the number fall on a card with more memory?",
        unit="cards",
        given={
            "card": ("H100", "A100 80GB SXM4"),
            "model": ("llama-3-70b", "llama-3.1-405b", "mistral-large-2407", "qwen2.5-72b", "deepseek-v3"),
            "tokens": (4096, 8192),
        },
        answer=lambda card, model, tokens: _cards(model, card, tokens),
        slips={"no activations": lambda card, model, tokens: _cards(model, card, 0)},
        hints=("`train_cards` above does it.",),
        tolerance=0,
    ),
    Exercise(
        "1.3",
        "find the mistake",
        2,
        '"70B needs 35 GB." Which of the six questions does this answer silently? How much does {model} need in '
        "4 bits (int4-gptq) for {users} users with {tokens:,} tokens each?",
        unit="GiB",
        given={"model": ("llama-3-70b", "llama-3.1-405b", "qwen3-32b"), "users": (16, 8, 32), "tokens": (4096, 8192)},
        answer=_served,
        slips={
            "no cache": lambda model, users, tokens: _served(model, 0, tokens),
            "the cache of one user": lambda model, users, tokens: _served(model, 1, tokens),
            "exactly 4 bits for every weight": lambda model, users, tokens: (
                _served(model, users, tokens)
                - _served(model, 0, tokens)
                + llmhw.model(model).parameters.total / 2 / GIB
            ),
        },
        hints=("Two terms: what all users share, and what each has.",),
    ),
    Exercise(
        "1.4",
        "compute",
        2,
        "DeepSeek-V3 in fp8 does not fit on 8 H100. How many conversations of {tokens:,} tokens do {cards} {card} "
        "hold?",
        unit="conversations",
        given={"tokens": (32_768, 16_384, 65_536, 131_072), "cards": (8, 16), "card": ("H200 SXM5", "B200")},
        answer=lambda tokens, cards, card: _conversations("deepseek-v3", cards, card, tokens),
        slips={
            "the whole memory of the cards": lambda tokens, cards, card: _conversations(
                "deepseek-v3", cards, card, tokens, share=1 / serving_engine("vllm").utilization
            ),
            "the weights in bf16": lambda tokens, cards, card: _conversations(
                "deepseek-v3", cards, card, tokens, weights="bf16"
            ),
        },
        hints=("What the weights leave, divided by the cache of one conversation.",),
        tolerance=0,
    ),
    Exercise(
        "1.5",
        "by hand",
        2,
        "Llama-2-7B has 32 layers and 32 KV heads of 128, Mistral-7B has 32 layers and 8. On one A10G, with room for "
        "20.6 GiB, their bf16 weights leave 8.0 and 7.1 GiB. How many conversations of {tokens:,} tokens does each "
        "hold?",
        unit="conversations",
        given={"tokens": (4096, 2048, 1024, 8192, 512)},
        answer=lambda tokens: {
            name: _conversations(name, 1, "A10G", tokens, weights="bf16") for name in ("llama-2-7b", "mistral-7b")
        },
        slips={
            "K without V": lambda tokens: {
                name: _conversations(name, 1, "A10G", tokens // 2, weights="bf16")
                for name in ("llama-2-7b", "mistral-7b")
            },
        },
        hints=("Bytes of a token: 2 (K and V) × layers × KV heads × 128 × 2.", "Only whole conversations count."),
        tolerance=0,
    ),
    Exercise(
        "1.6",
        "derive",
        2,
        "ZeRO-2 splits gradients and optimizer states over the cards, but each card holds all weights. Derive the "
        "fewest cards as a function of N and the planned memory of a card. How many {card} does {model} need, states "
        "only?",
        unit="cards",
        given={
            "card": ("A100 40GB SXM4", "RTX A6000", "A100 80GB SXM4", "H100"),
            "model": ("mistral-7b", "llama-3-8b", "qwen3-14b", "llama-2-13b"),
        },
        answer=lambda card, model: _zero_2(model, card),
        slips={
            "the weights were split, too, as in ZeRO-3": lambda card, model: _cards(model, card, 0),
        },
        hints=("Of the 16 bytes, 2 are whole on each card.",),
        tolerance=0,
    ),
    Exercise(
        "1.7",
        "measure",
        1,
        "Ask your machine how much memory its graphics card has, or its processor if there is none (nvidia-smi, "
        "rocm-smi, free -g, the system settings). How many billion parameters does that serve in 4 bits (int4-gptq) at "
        "92 %, before any cache?",
        answer=lambda: {
            "GiB": 24,
            "billion": serving_engine("vllm").utilization
            * 24
            * GIB
            * 8
            / llmhw.number_format(_FOUR_BITS).bits_per_weight
            / 1e9,
        },
        accept=_own,
        form="a dict with the keys GiB and billion",
        hints=("Bytes times 8 are bits; a weight has a little more than 4.",),
    ),
)
