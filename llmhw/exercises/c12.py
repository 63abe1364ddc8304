"""Exercises of chapter 12, choosing."""

from functools import cache
from typing import Any

import llmhw
from llmhw.exercises.base import Exercise
from llmhw.job import ServingJob, TrainingJob
from llmhw.planning.sizes import cheapest_serving, cheapest_training, market
from llmhw.search import search
from llmhw.step_time import time_step
from llmhw.training import memory

_AXES = {"vpp": (1, 2, 4), "cp": 1, "micro_batch": (1, 2), "tp": (1, 2, 4, 8), "sharding": ((1, 1), (3, 1))}
_SMALL = ("T4", "A10G", "L40S")
_LARGE = (
    "RTX PRO 6000 Blackwell Server", "A100 40GB SXM4", "A100 80GB SXM4",
    "H100 SXM5 80GB", "H200 SXM5 141GB", "B200 SXM 180GB",
)  # fmt: skip


@cache
def _hour(model: str, limit: int) -> float:
    """Dollars an hour of AWS's cheapest machine that writes a token in so many milliseconds."""
    job = ServingJob(model=llmhw.model(model), cluster=llmhw.Cluster("h100", 1))
    machines = [o for o in market("AWS", "") if o.device.name in (*_SMALL, *_LARGE)]
    half: Any = {"weights": ("bf16", "fp16"), "kv": ("bf16", "fp16")}
    pick: Any = cheapest_serving(job, machines, users=8, slo_tpot=limit / 1000, **half)
    return float(pick.paid)


@cache
def _wire(users: int) -> float:
    """Per cent that NVLink 4 gives over NVLink 3 to a node of H100."""
    speed = []
    for link in ("NVLink 3", "NVLink 4"):
        place = llmhw.Cluster("h100", 8, 8, intra_link=link)
        job = ServingJob(model=llmhw.model("llama-3-70b"), cluster=place, tp=8)
        load = {"input_tokens": 1000, "output_tokens": 250, "concurrency": users}
        best = search(job, [place], best=1, weights="bf16", kv="bf16", tp=8, pp=1, **load).best[0]
        speed.append(1 / best.seconds)
    return 100 * (speed[1] / speed[0] - 1)


def _memory_binds_hours(tokens: int, card: str, share: float) -> float:
    device = llmhw.accelerator(card)
    return float(6e6 * tokens * device.memory_bytes / (16 * share * device.peak("bf16")) / 3600)


def _tuning() -> TrainingJob:
    place = llmhw.Cluster("h100", 1)
    return TrainingJob(model=llmhw.model("llama-2-7b"), cluster=place, kernels="megatron", global_batch=64)


@cache
def _runs_a_month() -> float:
    """Runs at which eight RTX 4090 of one's own, spread over three years, cost what the rent of the same runs does."""
    own = [o for o in market("AWS", bought=["rtx 4090"]) if o.price and o.price.kind == "bought"]
    bought: Any = cheapest_training(_tuning(), own, days=1, tokens=100e6, **_AXES)
    rented = [o for o in market("AWS", "") if o.device.name in _LARGE]
    rent: Any = cheapest_training(_tuning(), rented, days=1, tokens=100e6, **_AXES)
    return float(730 * bought.place.dollars_per_hour / rent.paid)


@cache
def _best() -> TrainingJob:
    place = llmhw.Cluster("h100", 64, inter_link="infiniband ndr")
    job = TrainingJob(model=llmhw.model("llama-3-70b"), cluster=place, kernels="megatron", global_batch=64)
    found: TrainingJob = search(job, best=1).best[0].job
    return found


def _accept_layout(job: TrainingJob) -> str:
    if not isinstance(job, TrainingJob):
        raise TypeError
    best = _best()
    for name in ("model", "cluster", "global_batch", "seq_len"):
        if getattr(job, name) != getattr(best, name):
            return f"{name} must be as the exercise says"
    if not memory(job).fits:
        return "it does not fit into the memory of the cards"
    ratio = time_step(job).total / time_step(best).total
    return f"it fits, and a step takes {ratio:.2f} times as long as the best one's" if ratio > 1.1 else ""


def _accept_rate(answer: float) -> str:
    if not answer > 0:
        return "layouts a second are wanted: `tried` over the seconds"
    if answer < 500:
        return "fewer than 500 a second: time the search alone, not the import"
    return ""


EXERCISES = (
    Exercise(
        "12.1",
        "by hand",
        1,
        "A card of {gb} GB. What is the largest model that it trains with AdamW in mixed precision, if the states "
        "were all?",
        unit="billion parameters",
        given={"gb": (24, 80, 141, 40, 48, 180, 16, 32, 94, 192, 288)},
        answer=lambda gb: gb / 16,
        slips={
            "the largest that it serves: 2 bytes a parameter": 8.0,
            "12 bytes are the optimizer's alone": 16 / 12,
        },
        hints=("Weights, gradients, a master copy, two moments: how many bytes?",),
    ),
    Exercise(
        "12.2",
        "compute",
        2,
        "The table was made for 8 users at 50 ms a token. Ask again for {model} in 16 bit at AWS, on the newest "
        "list, at {limit} ms. What does the hour of the cheapest machine cost?",
        unit="dollars",
        given={"model": ("llama-2-7b", "llama-3.1-8b"), "limit": (10, 20, 30)},
        answer=_hour,
        slips={"the machine for 50 ms": lambda model, limit: _hour(model, 50)},
        hints=(
            "The weights alone take the A10G longer than that.",
            "`cheapest_serving(job, machines, users=8, slo_tpot=)`, with the chapter's machines.",
        ),
    ),
    Exercise(
        "12.3",
        "compute",
        2,
        "NVLink gave little in training. How many per cent does NVLink 4 in place of 3 give eight H100 that serve "
        "70B in 16 bit, tensor parallel 8, to {users} users?",
        unit="%",
        given={"users": (64, 16, 32)},
        answer=_wire,
        hints=("`Cluster(..., intra_link=)` changes the links alone.", "Compare tokens per second of the two."),
        tolerance=0.05,
        form="one number, in %",
    ),
    Exercise(
        "12.4",
        "derive",
        2,
        "Devices must hold the states and be in time. Up to which deadline does time decide, and from then on "
        "memory, for fine-tuning on {tokens} million tokens on {card} at {share:.0%} of the peak, 16 bytes a "
        "parameter?",
        unit="hours",
        given={"tokens": (100, 300, 1000), "card": ("H100", "A100 80GB SXM4", "B200"), "share": (0.4, 0.3)},
        answer=_memory_binds_hours,
        slips={
            "at the full peak": lambda tokens, card, share: share * _memory_binds_hours(tokens, card, share),
            "2 FLOP a parameter and token: forward only": 1 / 3,
        },
        hints=("Set both bounds on the devices equal.", "The size of the model falls out."),
        tolerance=0.05,
    ),
    Exercise(
        "12.5",
        "find the mistake",
        2,
        "A colleague wants eight RTX 4090 of their own to fine-tune 7B, because a run on 100 million tokens costs a "
        "twentieth of the rented one. How many such runs a month must there be, before owning, spread over three "
        "years, costs less than AWS's cheapest machine for them?",
        unit="runs a month",
        answer=_runs_a_month,
        form="one number, in runs a month",
        hints=("Own cards are paid when they idle, too.", "A month of the own cards over the rent of one run."),
        tolerance=0.05,
    ),
    Exercise(
        "12.6",
        "measure",
        1,
        "How many layouts a second does the search try on your machine, for Llama-3-70B on 64 H100?",
        unit="layouts/s",
        answer=lambda: 60_000,
        accept=_accept_rate,
        form="one number, layouts a second",
        hints=("`search(job, place, best=1).tried` over the seconds that it takes.",),
    ),
    Exercise(
        "12.7",
        "design",
        3,
        "Lay out Llama-3-70B on 64 H100 with InfiniBand NDR, 64 sequences of 4,096 tokens a step, so that it fits "
        "and a step takes at most 10 % longer than the best that the search finds. Try by reasoning first.",
        answer=_best,
        accept=_accept_layout,
        form="a llmhw.TrainingJob",
        hints=(
            "Tensor parallel inside a node, ZeRO over data parallel, as little pipeline as memory allows.",
            "Recompute only what does not fit.",
        ),
    ),
)
