"""Exercises of chapter 7b, a run of eighty days."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import log

import llmhw
from llmhw.catalog import read_table
from llmhw.cost import job_mtbf_seconds
from llmhw.exercises.base import Exercise
from llmhw.rates import training_constants
from llmhw.step_time import straggler_share
from llmhw.trainers import trainer
from llmhw.training import train
from llmhw.units import GIB

_H100 = "Standard_ND96isr_H100_v5"
_META = llmhw.Parallelism(tp=8, pp=16, dp=128, vpp=8, zero=3, sequence_parallel=True, uneven=True)
_MOST_SEQUENCES, _TOKENS = 2048, 15.6e12


def _hours_each(run: str) -> float:
    """Device-hours for each interruption of a published run."""
    return next(float(r["device_hours_per_interruption"]) for r in read_table("failures") if r["run"] == run)


def _apart(run: str, devices: int) -> float:
    """Seconds between failures."""
    return float(job_mtbf_seconds(mtbf_device_hours=_hours_each(run), devices=devices))


def _young_minutes(write: int, hours: int, twice: int = 2) -> float:
    return float((twice * write * hours * 3600) ** 0.5 / 60)


def _longest_restart(devices: int, goodput: float) -> float:
    """Minutes of a restart that leave this goodput alone: e^(-t_r / t_f) of the exact model."""
    return -_apart("Llama 3 405B", devices) * log(goodput) / 60


def _first_order(devices: int, goodput: float) -> float:
    """The same where a restart never fails: t_r / t_f is lost."""
    return _apart("Llama 3 405B", devices) * (1 - goodput) / 60


# -- design -----------------------------------------------------------------------------------


@cache
def _meta() -> llmhw.TrainingJob:
    return llmhw.TrainingJob(
        model=llmhw.model("llama-3.1-405b"),
        cluster=llmhw.instance(_H100).cluster(nodes=2048),
        parallelism=_META,
        global_batch=_MOST_SEQUENCES,
        seq_len=8192,
        precision="bf16-mixed-fp32-grads",
        kernels="megatron",
        software="torchtitan",
    )


def _ends_in_time(answer: llmhw.Parallelism, cards: int, days: int) -> str:
    """What is wrong with a layout, or ""."""
    if answer.devices > cards or answer.devices % 8:
        return f"it takes {answer.devices:,} cards; you have {cards:,}, in nodes of 8"
    unit = answer.dp * (answer.pp if answer.vpp > 1 else 1)
    batch = _MOST_SEQUENCES // unit * unit
    if not batch:
        return f"the least that it can deal out in a step is {unit:,} sequences"
    cluster = llmhw.instance(_H100).cluster(nodes=answer.devices // 8)
    found = train(replace(_meta(), cluster=cluster, parallelism=answer, global_batch=batch), tokens=_TOKENS)
    if not found.memory.fits:
        return f"it needs {found.memory.device_bytes / GIB:.0f} GiB a card"
    taken = found.run.days if found.run else float("inf")
    return "" if taken <= days else f"with {batch:,} sequences a step it takes {taken:.0f} days"


def _scatter_percent(answer: float) -> str:
    if answer < 0.05:
        return "no machine is so steady: is it a share of the mean, in percent, times the factor of 2,048 nodes?"
    if answer > 5000:
        return "so much is another program's doing: leave out the first products, and take products of 256 x 256"
    return ""


def _usual_percent() -> float:
    jitter = training_constants(_meta().cluster.accelerator, trainer("torchtitan")).jitter
    return 100 * float(straggler_share(nodes=2048, jitter=10 * jitter))


EXERCISES = (
    Exercise(
        "7b.1",
        "compute",
        1,
        "At the failure rate of {run}, how many hours lie between two failures on {devices:,} H100?",
        unit="hours",
        given={
            "run": ("Llama 3 405B", "OPT-175B", "Meta RSC clusters", "BLOOM-176B"),
            "devices": (24576, 8192, 32768, 100_000),
        },
        answer=lambda run, devices: _apart(run, devices) / 3600,
        slips={
            "nodes, where every card counts": 8,
            "of all the devices together: divide by their number": lambda run, devices: _hours_each(run),
        },
        hints=("The table has device-hours for each interruption. How many device-hours pass in one hour?",),
    ),
    Exercise(
        "7b.2",
        "by hand",
        1,
        "A checkpoint holds training up for {write} s, and a job fails every {hours} hours. How many minutes apart "
        "should "
        "checkpoints lie, by Young's formula?",
        unit="minutes",
        given={"write": (30, 20, 60, 120), "hours": (6, 3, 12, 24)},
        answer=_young_minutes,
        slips={
            "the 2 under the root": lambda write, hours: _young_minutes(write, hours, twice=1),
            "hours where seconds are wanted": 1 / 60,
            "seconds, not minutes": 60,
        },
        hints=(
            "Bring both times to seconds first.",
            "The square root of 2 x seconds of a checkpoint x seconds between.",
        ),
    ),
    Exercise(
        "7b.3",
        "find the mistake",
        2,
        "One of {nodes:,} nodes of 8 cards runs at {speed:.0%} of its speed, and no spare is there. The operator "
        "keeps it: "
        '"Dropping it means dropping its whole replica, and that costs more than its few cards." By how many '
        "percent does a "
        "step get longer if the job goes on without that replica, one of {replicas}, at the same batch?",
        unit="%",
        given={"nodes": (2048,), "speed": (0.9, 0.8), "replicas": (128, 64, 32, 96, 48, 16)},
        answer=lambda nodes, speed, replicas: 100 * (replicas / (replicas - 1) - 1),
        slips={
            "that is what keeping it costs": lambda nodes, speed, replicas: 100 * (1 / speed - 1),
            "a share, not percent": 1 / 100,
        },
        hints=("The work of the missing replica is dealt out to the others.",),
        tolerance=0.005,
    ),
    Exercise(
        "7b.4",
        "derive",
        2,
        "At Llama 3's failure rate on {devices:,} H100, how many minutes may a restart take at most for a goodput of "
        "{goodput:.0%}? Count restarts alone: let checkpoints and work done again cost nothing, and take the exact "
        "model, in "
        "which a restart may fail too.",
        unit="minutes",
        given={"devices": (65536, 32768, 98304, 131072), "goodput": (0.9, 0.85, 0.8)},
        answer=_longest_restart,
        slips={
            "restarts that never fail: the first order only": _first_order,
            "seconds, not minutes": 60,
            "hours, not minutes": 1 / 60,
        },
        hints=(
            "Which factor of `llmhw.cost.goodput_fraction` is left if the interval and the write go to 0?",
            "A restart succeeds if no failure comes while it lasts.",
        ),
    ),
    Exercise(
        "7b.5",
        "design",
        3,
        "You have {cards:,} H100 (Azure ND H100 v5) and must train Llama 3.1 405B on 15.6 trillion tokens within "
        "{days} days, "
        "failures included. A step may have at most 2,048 sequences of 8,192 tokens; `check` takes the largest "
        "batch up to "
        "that which your layout can deal out. Give a `llmhw.Parallelism` that fits.",
        form="a llmhw.Parallelism",
        given={"cards": (24576,), "days": (60, 56, 65)},
        accept=_ends_in_time,
        answer=lambda cards, days: replace(_META, cp=2, dp=cards // 256, cp_kind="all-gather"),
        hints=(
            "An interleaved pipeline takes micro-batches in multiples of its stages. How many sequences is that at "
            "least?",
            "Which axis uses more cards and leaves the number of replicas as it is?",
        ),
    ),
    Exercise(
        "7b.6",
        "measure",
        1,
        "How much does your own machine scatter? Time 100 equal matrix products (256 x 256, after a few to warm "
        "up), and divide "
        "their standard deviation by their mean. How many percent longer would a step be if each of 2,048 nodes "
        "scattered so, by "
        "this chapter's formula?",
        form="one number, in %",
        accept=_scatter_percent,
        answer=_usual_percent,
        hints=("`llmhw.step_time.straggler_share(nodes=2048, jitter=...)` is a share of the step.",),
    ),
)
