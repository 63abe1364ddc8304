"""The cheapest machines for a size of model: at the prices of their day, cheapest of all, and with the right reason."""

from __future__ import annotations

from typing import Any

import pytest

import llmhw
from llmhw.planning.sizes import SMALLEST, cheapest_serving, cheapest_training, market
from llmhw.search import search
from llmhw.step_time import time_step
from llmhw.units import LLMHWError

SPACE: dict[str, Any] = {"vpp": 1, "cp": 1, "micro_batch": (1, 2), "tp": (1, 8), "sharding": ((1, 1), (3, 1))}


def tuning(model: str) -> llmhw.TrainingJob:
    return llmhw.TrainingJob(
        model=llmhw.model(model), cluster=llmhw.Cluster("h100"), kernels="megatron", global_batch=64
    )


def of(name: str, year: str = "") -> list[Any]:
    return [offer for offer in market("AWS", year) if offer.device.name == name]


def test_prices_are_those_of_their_day() -> None:
    then, now = market("AWS", "2023"), market("AWS")
    assert {offer.price.date[:4] for offer in then} == {"2023"}
    assert len({(offer.machine.name) for offer in now}) == len(now)
    names = {offer.device.name for offer in then}
    assert "A10G" in names
    assert not names & {"H200 SXM5 141GB", "B200 SXM 180GB", "L40S"}
    assert all(offer.device.year <= 2023 for offer in then)


def test_a_card_of_ones_own_costs_its_price_over_its_years() -> None:
    offer = market("AWS", bought=["rtx 4090"], years=2)[-1]
    price = llmhw.accelerator("rtx 4090").purchase_prices[0].dollars
    assert offer.price.dollars_per_device_hour == pytest.approx(price / (2 * 365 * 24))


def test_the_run_is_the_cheapest_of_all_that_are_in_time() -> None:
    """Every place searched by itself, and priced by hand."""
    job, tokens, days = tuning("llama-2-7b"), 1e8, 1.0
    offers = of("A100 40GB SXM4") + of("H100 SXM5 80GB")
    found = cheapest_training(job, offers, days=days, tokens=tokens, **SPACE)
    assert found is not None
    steps, costs = tokens / (64 * job.seq_len), {}
    for offer in offers:
        for devices in offer.counts(1, 128):
            place = offer.place(devices)
            asked = llmhw.TrainingJob(
                model=job.model, cluster=llmhw.Cluster(offer.device), kernels="megatron", global_batch=64
            )
            best = search(asked, place.cluster, best=1, **SPACE).best
            if best and best[0].seconds * steps < days * 86400:
                paid = best[0].seconds * steps / 3600 * offer.price.dollars_per_device_hour * devices
                costs[str(place)] = paid
    assert min(costs, key=lambda name: costs[name]) == str(found.place)
    assert found.paid == pytest.approx(min(costs.values()))
    assert found.seconds == pytest.approx(time_step(found.job).total * steps)


@pytest.mark.parametrize(
    ("model", "device", "days", "reason"),
    [
        ("llama-2-7b", "A100 80GB SXM4", 1, SMALLEST),
        ("llama-2-13b", "A10G", 1, "memory"),
        ("llama-2-7b", "A100 80GB SXM4", 0.006, "time"),
        ("llama-2-70b", "H200 SXM5 141GB", 1, "dollars"),
    ],
)
def test_what_keeps_a_run_from_fewer_devices(model: str, device: str, days: float, reason: str) -> None:
    found = cheapest_training(tuning(model), of(device), days=days, tokens=1e8, **SPACE)
    assert found is not None
    assert found.binds == reason


def test_the_service_is_the_cheapest_that_is_fast_enough() -> None:
    job = llmhw.ServingJob(model="llama-2-7b", cluster="h100")
    offers = market("AWS", "2023")
    asked = {"users": 8, "weights": ("bf16", "fp16"), "kv": ("bf16", "fp16")}
    slow = cheapest_serving(job, offers, slo_tpot=0.05, **asked)
    fast = cheapest_serving(job, offers, slo_tpot=0.012, **asked)
    assert slow is not None
    assert fast is not None
    assert str(slow) == "1 x A10G"  # the article's own card
    assert slow.paid < fast.paid
    assert fast.seconds <= 0.012 < slow.seconds <= 0.05
    estimate = llmhw.serve(slow.job, input_tokens=1000, output_tokens=250, concurrency=8)
    assert estimate.point.tpot_seconds == pytest.approx(slow.seconds)


def test_all_users_are_at_work() -> None:
    """70B in 8 bit fit on one H100, with room for some users only."""
    job = llmhw.ServingJob(model="llama-3.3-70b", cluster="h100")
    few, many = (
        cheapest_serving(job, of("H100 SXM5 80GB"), users=users, slo_tpot=0.05, weights="fp8", kv="bf16")
        for users in (4, 64)
    )
    assert few is not None
    assert many is not None
    assert few.devices == 1 < many.devices
    for found, users in ((few, 4), (many, 64)):
        point = llmhw.serve(found.job, input_tokens=1000, output_tokens=250, concurrency=users).point
        assert point.concurrency == users


def test_cards_without_bf16_are_asked_too() -> None:
    """A T4 multiplies in fp16: of a whole price list it is one."""
    found = cheapest_training(tuning("gpt2"), market("AWS", "2023"), days=30, tokens=1e8, **SPACE)
    assert found is not None
    assert found.devices <= 8


def test_what_nothing_can_do_is_none() -> None:
    assert cheapest_training(tuning("llama-2-70b"), of("A10G"), days=0.001, tokens=1e12, **SPACE) is None
    job = llmhw.ServingJob(model="llama-3.1-405b", cluster="h100")
    assert cheapest_serving(job, of("A10G"), users=8, slo_tpot=0.05, weights="bf16") is None


def test_a_year_without_prices_is_an_error() -> None:
    with pytest.raises(LLMHWError, match=r"year='1999' has no prices of AWS; the catalog has 2023, 2026"):
        market("AWS", "1999")
    with pytest.raises(LLMHWError, match="bought='TPU v5e' has no price to buy"):
        market("AWS", bought=["tpu v5e"])
