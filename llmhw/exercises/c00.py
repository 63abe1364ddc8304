"""Exercises of chapter 0, a card and a layer."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import llmhw
from llmhw.exercises.base import Exercise
from llmhw.flops import matmul_flops
from llmhw.model import ModelSpec
from llmhw.rates import matmul_bytes

_HEAD_DIM = 128
_VOCAB = 128_256


def _llama(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int) -> ModelSpec:
    """A model built like Llama 3, with its head tied to the embedding."""
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": _HEAD_DIM}
    config = {"model_type": "llama", "vocab_size": _VOCAB, "tie_word_embeddings": True, **sizes}
    return ModelSpec.from_config(config, name="yours")


def _layer(hidden: int, intermediate: int, kv_heads: int) -> float:
    return float(_llama(hidden, intermediate, 1, hidden // _HEAD_DIM, kv_heads).layers[0].params) / 1e6


def _bound(n: int, card: str, sparsity: int = 1) -> int:
    """Tokens from which an n x n matrix is bound by arithmetic: 2tnn / 2(tn + nn + tn) reaches the ridge."""
    ridge = sparsity * llmhw.accelerator(card).ridge("bf16")
    guess = ceil(ridge * n / (n - 2 * ridge))
    assert matmul_flops(tokens=guess, weights=n * n) >= ridge * matmul_bytes(m=guess, n=n, k=n)
    return guess


def _sent(model: str, card: str) -> float:
    rate = llmhw.accelerator(card).link_bytes_per_second
    assert rate is not None
    return float(1e3 * llmhw.weights(llmhw.model(model), "bf16").total / rate)


def _share(model: str) -> float:
    count = llmhw.model(model).parameters
    return 100 * count.active / count.total


def _routed(model: str) -> float:
    """The share if everything were an expert."""
    expert = next(t for layer in llmhw.model(model).layers for t in layer.tensors if t.experts > t.used)
    return 100 * expert.used / expert.experts


def _shaped(answer: Mapping[str, Any], billion: float) -> str:
    """What is wrong with a shape, or ""."""
    names = ("hidden", "intermediate", "layers", "heads", "kv_heads")
    if set(answer) != set(names) or any(type(answer[name]) is not int or answer[name] < 1 for name in names):
        return f"it needs whole numbers for {', '.join(names)}"
    if answer["hidden"] != _HEAD_DIM * answer["heads"]:
        return f"{answer['heads']} heads of {_HEAD_DIM} do not make a width of {answer['hidden']:,}"
    if answer["heads"] % answer["kv_heads"]:
        return f"{answer['heads']} query heads cannot share {answer['kv_heads']} heads of keys evenly"
    if not 2.5 <= answer["intermediate"] / answer["hidden"] <= 4:
        return f"the MLP is {answer['intermediate'] / answer['hidden']:.2f} times as wide as the stream, not 2.5 to 4"
    off = _llama(**answer).parameters.total / (billion * 1e9) - 1
    return "" if abs(off) <= 0.01 else f"it has {abs(off):.1%} too {'many' if off > 0 else 'few'} parameters"


def _an_answer(billion: float) -> dict[str, int]:
    """A shape 3.5 times as wide in the MLP, with the number of layers that comes nearest."""
    found = []
    for heads in range(8, 72, 8):
        for layers in range(8, 97):
            hidden = heads * _HEAD_DIM
            shape = {"hidden": hidden, "intermediate": 7 * hidden // 2, "layers": layers, "heads": heads, "kv_heads": 8}
            if hidden // layers in range(64, 160):  # neither a thread nor a pancake
                found.append((abs(_llama(**shape).parameters.total - billion * 1e9), layers, shape))
    return min(found, key=lambda each: each[:2])[2]


_WEIGHTS = ("llama-3-8b", "llama-3-70b", "mistral-7b", "llama-2-13b", "qwen3-32b")
_LINKED = ("H100", "A100 80GB SXM4", "B200", "H200 SXM5")
_CARDS = ("H100", "A100 80GB SXM4", "B200", "MI300X", "RTX 4090")
_MIXTURES: tuple[str, ...] = (
    "qwen3-30b-a3b",
    "mixtral-8x7b",
    "mixtral-8x22b",
    "qwen3-235b-a22b",
    "glm-4.5-air",
    "gpt-oss-120b",
)
_MIXTURES += ("deepseek-v2-lite", "olmoe-1b-7b", "qwen2-57b-a14b", "kimi-k2", "deepseek-v3", "phi-3.5-moe")
_TIED: tuple[str, ...] = (
    "llama-3.2-1b",
    "llama-3.2-3b",
    "smollm3-3b",
    "granite-3.0-8b",
    "granite-3.0-2b",
    "gemma-2b",
    "gemma-7b",
)
_TIED += ("phi-4-mini", "smollm2-135m", "smollm2-360m", "smollm2-1.7b", "granite-4.0-micro")


EXERCISES = (
    Exercise(
        "0.1",
        "by hand",
        1,
        "A layer is built like Llama's, with h = {hidden:,}, f = {intermediate:,}, query heads of 128 that together "
        "are as wide as the residual stream, and {kv_heads} heads of keys and values. How many million weights has it?",
        unit="million",
        given={
            "hidden": (8192, 4096, 5120, 6144, 7168),
            "intermediate": (28_672, 14_336, 16_384, 20_480, 24_576),
            "kv_heads": (8, 4),
        },
        answer=_layer,
        slips={
            "K and V as wide as Q; fewer heads make them narrower": lambda hidden, intermediate, kv_heads: _layer(
                hidden, intermediate, hidden // _HEAD_DIM
            ),
            "two matrices in the MLP; a gated one has three": lambda hidden, intermediate, kv_heads: (
                _layer(hidden, intermediate, kv_heads) - hidden * intermediate / 1e6
            ),
            "K without V": lambda hidden, intermediate, kv_heads: (
                _layer(hidden, intermediate, kv_heads) - hidden * kv_heads * _HEAD_DIM / 1e6
            ),
        },
        hints=("Four matrices for attention: two square ones and two narrow ones.", "The MLP has gate, up and down."),
        tolerance=0.005,
    ),
    Exercise(
        "0.2",
        "compute",
        1,
        "Read the config.json of {model} in the catalog (`llmhw.catalog.read_model`). Its head is tied to its "
        "embedding. How many parameters does the formula give?",
        unit="parameters",
        given={"model": _TIED},
        answer=lambda model: llmhw.model(model).parameters.total,
        slips={
            "the head counted although it is the embedding": lambda model: (
                llmhw.model(model).parameters.total + llmhw.model(model).vocab_size * llmhw.model(model).hidden
            ),
            "the last norm forgotten": lambda model: llmhw.model(model).parameters.total - llmhw.model(model).hidden,
        },
        hints=(
            "Which term of the formula is there only if the head is a matrix of its own?",
            "Do not forget the norms.",
        ),
        tolerance=0,
    ),
    Exercise(
        "0.3",
        "derive",
        2,
        "The vectors of t tokens are multiplied by one {n:,} × {n:,} matrix in bf16 on an {card}. Input, matrix and "
        "output cross the memory once. From how many tokens on does arithmetic take longer than memory?",
        unit="tokens",
        given={"n": (8192, 4096, 6144, 12_288), "card": _CARDS},
        answer=_bound,
        slips={
            "only the matrix is read; input and output move too": lambda n, card: llmhw.accelerator(card).ridge("bf16"),
            "the peak with sparsity, which is twice the dense one": lambda n, card: _bound(n, card, 2),
        },
        hints=(
            "Write FLOPs and bytes as functions of t and n, and divide.",
            "Set the quotient equal to peak over bandwidth.",
        ),
        tolerance=0.005,
    ),
    Exercise(
        "0.4",
        "find the mistake",
        1,
        "The link of a card is sold by the sum of both directions. With that sum somebody computes how long one {card} "
        "needs to send the bf16 weights of {model} to its neighbor. How long does it need at least?",
        unit="ms",
        given={"model": _WEIGHTS, "card": _LINKED},
        answer=lambda model, card: _sent(model, card),
        slips={"both directions added, though the weights go in one": 1 / 2},
        hints=("Nothing comes back: which half of the sum works for you?",),
    ),
    Exercise(
        "0.5",
        "design",
        3,
        "Design a dense model of {billion} billion parameters, to 1 %, built like Llama 3: a head tied to an embedding "
        "of 128,256 entries, heads of 128 that together are as wide as the residual stream, an MLP 2.5 to 4 times as "
        "wide.",
        given={"billion": (3, 1.5, 2, 4, 5, 6, 7, 9, 10, 12, 14, 20)},
        answer=_an_answer,
        accept=lambda answer, billion: _shaped(answer, billion),
        form="a dict with the keys hidden, intermediate, layers, heads and kv_heads",
        hints=("Choose the width first; 12 h² a layer is a good guess.", "Mend the rest with the width of the MLP."),
    ),
    Exercise(
        "0.6",
        "measure",
        2,
        "On your machine, multiply in NumPy and float32 a 2,048 × 2,048 matrix by another one, and by a vector; take "
        "the fastest of several runs. How many times more FLOP/s has the first?",
        answer=lambda: 90,
        accept=lambda answer: (
            "" if 1.5 <= answer <= 1e4 else "matrix times matrix should win clearly: divide FLOPs by seconds, for both"
        ),
        form="one number: FLOP/s with the matrix over FLOP/s with the vector",
        hints=("2n³ FLOPs with the matrix, 2n² with the vector.",),
    ),
    Exercise(
        "0.7",
        "compute",
        2,
        "What share of the parameters of {model} does one token use?",
        unit="%",
        given={"model": _MIXTURES},
        answer=_share,
        slips={"k of E experts; attention, embedding and head are used by every token": _routed},
        hints=("`llmhw.model(...).parameters` has two counts.",),
        tolerance=0.01,
    ),
)
