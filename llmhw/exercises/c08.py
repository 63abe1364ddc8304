"""Exercises of chapter 8, quantization and LoRA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llmhw
from llmhw.exercises.base import Exercise
from llmhw.memory import lora_params, lora_states, lora_tensors
from llmhw.precision import grouped_bits_per_weight, stored_weight_bytes
from llmhw.units import LLMHWError


def _bits(group: int, scale_bits: int, zero_bits: int) -> float:
    return float(grouped_bits_per_weight(bits=4, group=group, scale_bits=scale_bits, zero_bits=zero_bits))


def _gb(billions: int, bits: int) -> float:
    return float(stored_weight_bytes(elements=billions * 1e9, bits_per_weight=bits)) / 1e9


def _equal_rank(out: int, into: int) -> float:
    return out * into / float(lora_params(rank=1, in_features=into, out_features=out))


def _states_gib(model: str, rank: int, base_format: str = "nf4-dq", optimizer: str = "adamw") -> float:
    found = lora_states(llmhw.model(model), rank=rank, base_format=base_format, optimizer=optimizer)
    return float(found.total) / 2**30


def _without_adapter_states(model: str, rank: int) -> float:
    added = sum(count * t.numel for t, count in lora_tensors(llmhw.model(model), rank=rank))
    return _states_gib(model, rank) - 12 * added / 2**30


Rounding = Callable[[Any, Any], Any]


def gptq(weights: Any, hessian: Any) -> Any:
    """One answer to 8.6: whole numbers for [out, in] weights, whose error is judged by hessian, [in, in].

    >>> import numpy
    >>> gptq(numpy.array([[0.4, 0.4]]), numpy.array([[1.0, 0.9], [0.9, 1.0]]))
    array([[0., 1.]])
    """
    import numpy

    left = numpy.linalg.cholesky(numpy.linalg.inv(hessian)).T  # upper: row i is how column i's error is passed on
    free, whole = weights.astype(float).copy(), numpy.zeros_like(weights, dtype=float)
    for i in range(free.shape[1]):
        whole[:, i] = numpy.round(free[:, i])
        error = (free[:, i] - whole[:, i]) / left[i, i]
        free[:, i:] -= numpy.outer(error, left[i, i:])
    return whole


def share_of_rounding(answer: Rounding) -> float:
    """The error that an answer to 8.6 leaves, over that of plain rounding, for weights and inputs drawn once.

    >>> share_of_rounding(lambda weights, hessian: weights.round())
    1.0
    """
    import numpy

    draw = numpy.random.default_rng(8)
    weights = draw.normal(size=(16, 32)) * 3
    inputs = draw.normal(size=(256, 8)) @ draw.normal(size=(8, 32)) + 0.3 * draw.normal(size=(256, 32))
    found = numpy.asarray(answer(weights.copy(), inputs.T @ inputs), dtype=float)
    if found.shape != weights.shape:
        raise LLMHWError(f"answer returns the shape {found.shape}; the weights have {weights.shape}, return the same")
    if not (found == numpy.round(found)).all():
        raise LLMHWError("answer returns fractions; round all that it returns to whole numbers")
    error, rounding = (((weights - each) @ inputs.T) ** 2 for each in (found, numpy.round(weights)))
    return float(error.sum() / rounding.sum())


def _accept_gptq(answer: Rounding) -> str:
    if not callable(answer):
        return "it is not a function"
    try:
        share = share_of_rounding(answer)
    except LLMHWError as error:
        return str(error)
    return "" if share < 0.6 else f"its error is {share:.2f} times that of plain rounding; GPTQ leaves less than 0.6"


EXERCISES = (
    Exercise(
        "8.1", "compute", 1,
        "4-bit weights share a scale of {scale_bits} bits and a zero point of {zero_bits} bits in groups of {group}. "
        "How many bits does a weight cost?",
        unit="bits", tolerance=0.001,
        given={"group": (64, 32, 128, 256), "scale_bits": (16, 32), "zero_bits": (4, 8, 16)},
        answer=_bits,
        slips={
            "the weight alone": lambda group, scale_bits, zero_bits: 4,
            "no zero point": lambda group, scale_bits, zero_bits: _bits(group, scale_bits, 0),
        },
        hints=("A scale and a zero point are shared: divide their bits among the group.",),
    ),
    Exercise(
        "8.2", "by hand", 1,
        "All of {billions} billion parameters at exactly {bits} bits, no scale at all: how many GB?",
        unit="GB",
        given={"billions": (70, 7, 13, 32, 120), "bits": (4, 3, 8)},
        answer=_gb,
        slips={"the compression against FP32, taken from the FP16 size": 1 / 2, "bits for bytes": 8},
        hints=("How many parameters share a byte?",),
    ),
    Exercise(
        "8.3", "find the mistake", 2,
        "140 GB in FP16, GPTQ compresses 8 times, so 17.5 GB are left. Which step is wrong: the baseline, the size in "
        "FP16, or the division?",
        choices=("the baseline", "the size in FP16", "the division"),
        answer=lambda: "the baseline",
        slips={"2 bytes times 70 billion are 140 GB": "the size in FP16", "140 / 8 is 17.5": "the division"},
        hints=("Eight times smaller than what?",),
    ),
    Exercise(
        "8.4", "derive", 2,
        "LoRA stands beside one matrix of {out:,} x {into:,}. At which rank does it train as many parameters as the "
        "matrix has?",
        unit="",
        form="one number, the rank",
        given={"out": (4096, 1024, 8192, 14336), "into": (4096, 2048, 5120)},
        answer=_equal_rank,
        slips={"one of the two factors": lambda out, into: float(into)},
        hints=("Write the parameters of both factors as a multiple of the rank.",),
    ),
    Exercise(
        "8.5", "compute", 2,
        "QLoRA on {model}: NF4 with double quantization, rank {rank} beside every linear layer, AdamW and adapters in "
        "FP32. How many GiB are held before a token is read?",
        unit="GiB", tolerance=0.005,
        given={"model": ("llama-3-8b", "mistral-7b", "llama-2-13b", "qwen2.5-7b"), "rank": (64, 32, 128)},
        answer=_states_gib,
        slips={
            "LoRA, with the frozen weights in BF16": lambda model, rank: _states_gib(model, rank, "bf16"),
            "adapters without gradients and averages": _without_adapter_states,
        },
        hints=("`lora_states` adds four things; embedding and head stay in 16 bit.",),
    ),
    Exercise(
        "8.6", "design", 3,
        "Write GPTQ: a function of the weights, [out, in], and of H = X^T X, [in, in], that returns whole numbers. "
        "Round column by column and pass each error on. It must leave less than 0.6 times the error of plain rounding.",
        form="a function gptq(weights, hessian)",
        accept=_accept_gptq,
        answer=lambda: gptq,
        hints=("An upper Cholesky factor of the inverse of H says how much of an error each later column takes up.",),
    ),
    Exercise(
        "8.7", "measure", 2,
        "Quantize the chapter's model on your machine to 2 bits by rounding, in groups of 32 in place of 128. By how "
        "many percent does the perplexity grow?",
        form="a number, in percent",
        accept=lambda answer: "" if 2 < float(answer) < 60 else "groups of 128 lose 60 %, and 3 bits lose 5 %: "
        "it lies between",
        answer=lambda: 25.0,
        hints=("RTNConfig has group_size.",),
    ),
)  # fmt: skip
