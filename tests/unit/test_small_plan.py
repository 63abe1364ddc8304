"""A plan on plain numbers against the search with arrays, held to the same candidates."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest

from llmhw.hardware import Cluster
from llmhw.job import ServingJob
from llmhw.live import CALCULATORS
from llmhw.live.base import PATIENCE
from llmhw.model import model
from llmhw.planning import Demand, Limits
from llmhw.planning.serving import plan_serving
from llmhw.planning.small import RANKS, plan_small
from llmhw.units import LLMHWError
from tests.live import numbers

MODELS = ("llama-3-8b", "llama-3-70b", "qwen3-32b", "mixtral-8x7b", "qwen3-30b-a3b", "mistral-nemo-12b")


def question(seed: int) -> tuple[ServingJob, dict[str, Any], str]:
    """A job, what is asked of it, and the figure that is the least."""
    rng = random.Random(seed)
    formats = {"weights": rng.choice(["bf16", "fp8", "int4-awq"]), "kv": rng.choice(["bf16", "fp8"])}
    job = ServingJob(model=model(rng.choice(MODELS)), cluster=Cluster("h100"), **formats)  # type: ignore[arg-type]
    demand = Demand(
        users=round(10 ** rng.uniform(0, 2.7)), slo_ttft=2.0, slo_tpot=1 / rng.choice([5, 10, 20, 30, 50]),
        input_tokens=rng.choice([200, 1000, 4000]), output_tokens=rng.choice([100, 500, 1000]),
    )  # fmt: skip
    bought = rng.random() < 0.3
    limits = Limits(purchase=1e15) if bought else Limits()
    return job, {"demand": demand, "limits": limits}, "purchase" if bought else "dollars_per_hour"


@pytest.mark.parametrize("seed", range(16))
def test_it_is_never_dearer_than_the_search_and_keeps_the_level(seed: int) -> None:
    """The search steps by a few per cent between numbers of users; this one is exact, and so at most as dear."""
    job, asked, figure = question(seed)
    small = plan_small(job, **asked)
    full = plan_serving(job, **asked, tp=RANKS, pp=(1,), ep=1, attention_dp=1, best=1)
    assert bool(small.choices) == bool(full.choices)
    if not small.choices:
        return
    mine, others = small.best.figures[figure].value, full.best.figures[figure].value
    assert mine <= others * (1 + 1e-9)
    # only where a few instances more or fewer are a large step, as on cheap cards with few users each
    assert mine > 0.75 * others
    if small.holds(small.best) == "yes":
        assert small.best.figures["tpot"].most <= asked["demand"].slo_tpot
    served = small.best.estimate.point
    for name, value in (("ttft", served.ttft_seconds), ("tpot", served.tpot_seconds)):
        assert small.best.figures[name].value == pytest.approx(value, rel=1e-9)
    assert small.best.figures["tokens_per_second"].value == pytest.approx(served.tokens_per_second, rel=1e-9)


def test_choices_get_dearer_and_are_of_different_devices() -> None:
    job, asked, figure = question(3)
    found = plan_small(job, **asked, best=4).choices
    prices = [choice.figures[figure].value for choice in found]
    assert prices == sorted(prices)
    assert len({choice.job.cluster.accelerator.name for choice in found}) == len(found) == 4


def test_a_budget_that_is_too_small_is_an_answer_with_a_way_out() -> None:
    job, asked, _ = question(3)
    least = plan_small(job, **asked).best.figures["dollars_per_hour"].value
    short = plan_small(job, demand=asked["demand"], limits=Limits(budget_per_hour=least / 2))
    assert not short.choices
    assert short.changes[0].startswith("budget_per_hour=")
    enough = plan_small(job, demand=asked["demand"], limits=Limits(budget_per_hour=least))
    assert enough.best.figures["dollars_per_hour"].value == least


@pytest.mark.parametrize("settings", [{}, {"users": 137, "speed": 31}, {"way": "buy", "budget": 100}])
def test_an_answer_in_pieces_ends_as_the_whole_one(settings: dict[str, Any]) -> None:
    """Each piece times a few loads; the last one says what an answer at once says, whatever was asked before."""
    from llmhw.planning import small

    plan = CALCULATORS["plan"]
    small._kept.cache_clear()
    pieces = []
    for _ in range(100):
        token = PATIENCE.set(3)
        pieces.append(plan.answer(settings))
        PATIENCE.reset(token)
        if not pieces[-1].more:
            break
    assert len(pieces) > 2
    small._kept.cache_clear()
    assert numbers(pieces[-1]) == numbers(plan.answer(settings))


def test_rates_and_percentiles_are_refused() -> None:
    job, *_ = question(3)
    with pytest.raises(LLMHWError, match="takes a rate and a percentile"):
        plan_small(job, demand=Demand(rate=2.0))


def test_no_calculator_needs_a_package() -> None:
    """As in the browser: only the standard library is there."""
    code = (
        "import sys; sys.modules['numpy'] = sys.modules['pandas'] = None\n"
        "from llmhw.live import CALCULATORS\n"
        "for one in CALCULATORS.values(): assert one.answer({}).figures, one.name"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
