"""Exercises of chapter 3, compute."""

from __future__ import annotations

from math import ceil
from typing import Any

import llmhw
from llmhw.exercises.base import Exercise
from llmhw.flops import utilization

_LLAMA_3_FLOPS = 3.8e25  # the Llama 3 paper's, of 405B


def _mfu(hours: float, peak: float | None = None) -> float:
    """Percent, of so many hours of H100 SXM."""
    peak = peak or llmhw.accelerator("h100 sxm").peak("bf16")
    return 100 * float(utilization(flops=_LLAMA_3_FLOPS, seconds=hours * 3600, peak_flops_per_second=peak))


def _even_context(model: str) -> float:
    """Tokens at which attention costs as much as all the weights."""
    one = llmhw.forward_flops(llmhw.model(model), seq_len=1)
    return float((one.total - one["attention_core"]) / one["attention_core"])


def _least_tokens(device: str, bits: int) -> float:
    return llmhw.accelerator(device).ridge("bf16") * bits / 8 / 2


def _cards(rate: int, share: float) -> int:
    weights = llmhw.weights(llmhw.model("llama-3-70b"), "bf16")
    card = llmhw.accelerator("h100 sxm")
    read = float(weights.total - weights["embedding"])
    return ceil(rate * read / (share * card.memory_bandwidth_bytes_per_second))


def _measured(answer: Any) -> str:
    """Whether two rates can be those of one machine."""
    names = ("flops_per_second", "bytes_per_second")
    if set(answer) != set(names):
        return f"the keys must be {names[0]!r} and {names[1]!r}"
    flops, moved = (float(answer[name]) for name in names)
    if not 1e9 < flops < 1e16:
        return f"{flops:.3g} FLOP/s is no rate of a machine of today; a product of n x n matrices has 2 n^3 FLOPs"
    if not 1e8 < moved < 1e14:
        return f"{moved:.3g} bytes/s is no rate of a memory of today; a copy reads all bytes and writes all bytes"
    if flops < moved / 4:
        return "its arithmetic is slower than a number is read; was the clock of the product stopped late?"
    return ""


EXERCISES = (
    Exercise(
        "3.1",
        "compute",
        2,
        "Llama 3 405B took 3.8e25 FLOPs. With {hours:,.0f} GPU-hours on H100 SXM, what is the average MFU?",
        unit="%",
        given={"hours": (30.84e6, 24e6, 27e6, 36e6, 41e6)},
        answer=_mfu,
        slips={
            "the sparse peak of the data sheet": 1 / 2,
            "the peak of the H100 PCIe": lambda hours: _mfu(hours, llmhw.accelerator("h100 pcie").peak("bf16")),
        },
        hints=("MFU is FLOPs over seconds, over the dense peak in bf16 of the card.",),
    ),
    Exercise(
        "3.2",
        "derive",
        2,
        "At which context does attention cost as much as all the weights of {model}, forward, all pairs?",
        unit="tokens",
        given={"model": ("llama-3-8b", "llama-2-7b", "llama-3-70b", "mistral-7b", "qwen2.5-7b")},
        answer=_even_context,
        slips={
            "the rule s = 6 h; its MLP is wider than the plain transformer's": lambda model: (
                6 * llmhw.model(model).hidden
            ),
            "causal pairs, and all pairs are asked": 2,
            "2 N with the embedding table in it": lambda model: (
                2
                * llmhw.model(model).parameters.total
                / llmhw.forward_flops(llmhw.model(model), seq_len=1)["attention_core"]
            ),
        },
        hints=("Set 4 L a d s equal to 2 FLOPs for each weight of a matrix.", "The embedding table is no such matrix."),
        tolerance=0.01,
    ),
    Exercise(
        "3.3",
        "find the mistake",
        1,
        "A blog post reports {claimed} % MFU for an H100 SXM run in bf16, of the sparse peak. What is the MFU?",
        unit="%",
        given={"claimed": (21, 17, 19, 24, 26)},
        answer=lambda claimed: 2 * claimed,
        slips={"the wrong way: the dense peak is the smaller one": 1 / 4},
        hints=("The tokens per second stay. Only what they are divided by changes.",),
        tolerance=0.005,
    ),
    Exercise(
        "3.4",
        "by hand",
        2,
        "Weights in {bits} bits, multiplied in bf16: from how many tokens on does arithmetic limit it on {device}?",
        unit="tokens",
        given={"device": ("L4", "H100 SXM", "A100 80GB SXM"), "bits": (4, 8)},
        answer=_least_tokens,
        slips={
            "weights of 16 bits": lambda device, bits: _least_tokens(device, 16),
            "bits in place of bytes": lambda device, bits: 8 * _least_tokens(device, bits),
            "1 FLOP for a weight and token, and it is 2": 2,
        },
        hints=("A weight of β bytes does 2 FLOPs for each token: the intensity is 2 t / β.",),
    ),
    Exercise(
        "3.5",
        "design",
        2,
        "Llama-3-70B in bf16 at {rate} tokens/s for one user, at {share:.0%} of the bound: how many H100 SXM?",
        unit="cards",
        given={"rate": (100, 80, 150, 200), "share": (0.6, 0.5, 0.7)},
        answer=_cards,
        slips={
            "all of the bound, and real systems reach less": lambda rate, share: _cards(rate, 1),
            "weights of 1 byte": lambda rate, share: ceil(_cards(rate, share) / 2),
        },
        hints=("Each token reads all weights once: bytes times tokens a second.", "Cards come whole."),
        tolerance=0,
    ),
    Exercise(
        "3.6",
        "measure",
        3,
        "Measure the FLOP/s of a matrix product and the bytes/s of a copy on your machine.",
        form='a dict {"flops_per_second": ..., "bytes_per_second": ...}',
        answer=lambda: {"flops_per_second": 1e12, "bytes_per_second": 1e11},
        accept=_measured,
        hints=("Take the best of several runs, and wait for the device before the clock stops.",),
    ),
)
