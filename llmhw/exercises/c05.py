"""Exercises of chapter 5, one device."""

from __future__ import annotations

from typing import Any

import llmhw
from llmhw.exercises.base import Exercise
from llmhw.units import GIB


def _billions(device: str, each: float = 16) -> float:
    return float(llmhw.accelerator(device).memory_bytes / each / 1e9)


def _loss(model: str, seq_len: int) -> float:
    """GiB of log-probabilities and of two gradients in fp32."""
    return 12 * llmhw.model(model).vocab_size * seq_len / GIB


def _traffic(micro_batches: int) -> float:
    """Seconds of 2 N bytes down for each micro-batch, and up once."""
    passes = micro_batches + 1
    link = llmhw.link("PCIe 4.0 x16")
    return float(passes * 2 * llmhw.model("llama-2-7b").parameters.total / link.bytes_per_second)


def _times(answer: Any) -> str:
    """Whether accumulation can take so many times as long."""
    times = float(answer)
    if not times > 0:
        return "give the time of 8 micro-batches of 4 over that of 32 at once"
    if times < 0.5:
        return f"{times:.2g} times as long: 8 micro-batches hardly take half the time; is it the inverse?"
    if times > 30:
        return f"{times:.3g} times as long is more than 8 times the launches explain; let it warm up first"
    return ""


def _recipe(answer: Any) -> str:
    """Whether it is the dearest recipe that fits."""
    card, model, use = answer
    spec = llmhw.model(model)
    if spec.parameters.total < 1e9:
        return f"{spec.name} has less than a billion parameters; take a larger model"
    rows = list(llmhw.fit(spec, card, seq_len=4096, formats=()))
    uses = [row.use for row in rows]
    if use not in uses:
        return f"the recipe must be one of: {'; '.join(uses)}"
    chosen = uses.index(use)
    if not rows[chosen].fits:
        return f"{use} does not fit: {rows[chosen].short}"
    dearer = [row.use for row in rows[:chosen] if row.fits]
    return f"it fits, but {dearer[0]!r} fits as well and trains more of it" if dearer else ""


EXERCISES = (
    Exercise(
        "5.1",
        "by hand",
        1,
        "How many billion parameters do the states of AdamW in mixed precision allow on {device}, and nothing else?",
        unit="billion parameters",
        given={"device": ("RTX 4090", "RTX A6000", "L4", "A100 80GB SXM", "H200", "RTX 5090")},
        answer=_billions,
        slips={
            "12 bytes: weights and gradients are states too": 16 / 12,
            "18 bytes: gradients are in bf16 here": 16 / 18,
            "GB for GiB": 1e9 / 2**30,
        },
        hints=("16 bytes a parameter, and the card's memory is in GiB.",),
    ),
    Exercise(
        "5.2",
        "find the mistake",
        2,
        "The loss is not divided by {steps}. How many times as long is the first update, with SGD and with AdamW?",
        unit="times",
        given={"steps": (8, 4, 16, 32)},
        answer=lambda steps: {"SGD": float(steps), "AdamW": 1.0},
        slips={
            "AdamW divides by the root of the variance": lambda steps: {"SGD": float(steps), "AdamW": float(steps)},
            "too large a gradient makes steps longer, not shorter": lambda steps: {"SGD": 1 / steps, "AdamW": 1.0},
        },
        hints=("Write both updates down with c g in place of g.",),
        tolerance=0.05,
    ),
    Exercise(
        "5.3",
        "measure",
        2,
        "How many times as long as 32 sequences at once do 8 times 4 take on your machine, for the small Llama?",
        form="one number, the time of 8 × 4 over that of 32 at once",
        answer=lambda: 1.5,
        accept=_times,
        hints=("Run each once before you take the time.",),
    ),
    Exercise(
        "5.4",
        "derive",
        2,
        "What do log-probabilities and two gradients in fp32 take of {model} with {seq_len:,} tokens?",
        unit="GiB",
        given={
            "model": ("gemma-3-1b", "llama-3.2-1b", "qwen2.5-0.5b", "starcoderbase-1b"),
            "seq_len": (3000, 2048, 5000),
        },
        answer=_loss,
        slips={
            "the log-probabilities alone": 1 / 3,
            "2 bytes a number": 1 / 2,
            "one gradient, and there are two": 2 / 3,
        },
        hints=("4 bytes, three tensors, a number for each token and word.",),
    ),
    Exercise(
        "5.5",
        "compute",
        3,
        "ZeRO-Offload of Llama-2-7B, {micro_batches} micro-batches: the seconds of a step's traffic over PCIe 4.0 x16?",
        unit="s",
        given={"micro_batches": (32, 16, 8, 64)},
        answer=_traffic,
        slips={
            "gradients once a step; they go down after every micro-batch": lambda micro_batches: _traffic(1),
            "gradients in fp32": lambda micro_batches: _traffic(2 * micro_batches),
            "both directions' rate": 1 / 2,
        },
        hints=("2 N bytes down for each micro-batch, 2 N up at the end.", "The rate is of one direction."),
    ),
    Exercise(
        "5.6",
        "design",
        3,
        "A model of at least a billion parameters, your card: the recipe that trains most of it and fits?",
        form="a tuple (card, model, recipe)",
        answer=lambda: ("RTX 4090", "llama-2-7b", "LoRA, rank 16"),
        accept=_recipe,
        hints=("Bytes a parameter of each recipe, times parameters; then what else lives at the fullest moment.",),
    ),
)
