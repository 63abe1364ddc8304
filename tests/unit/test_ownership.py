"""Rent or buy: against published analyses, a ledger kept month by month, chance, and what `train` and `serve` say."""

from __future__ import annotations

import json
import random
import re
import statistics
from dataclasses import fields
from typing import Any

import pytest

import llmhw
from llmhw.catalog import read_table
from llmhw.hardware import Cluster, Price, PriceList, PurchasePrice
from llmhw.ownership import (
    HOURS_PER_MONTH,
    Ownership,
    OwnershipOptions,
    _owned,
    _Owner,
    per_million_tokens,
    per_run,
    per_user_month,
    rent_or_buy,
)
from llmhw.units import LLMHWError
from tests.unit.command import answer, refused, run

EIGHT = ("h100", 8)
GIVEN: dict[str, Any] = {
    "purchase_price": 30_000,
    "server_factor": 1.5,
    "life_months": 48,
    "electricity": 0.1,
    "hosting": 200,
    "upkeep": 0.05,
    "staff": 100,
    "interest": 0.08,
    "idle_fraction": 0.15,
    "price": 4.0,
}


def published(what: str, source: str = "") -> tuple[float, float]:
    """The first published range of a thing."""
    row = next(r for r in read_table("published_costs") if r["what"] == what and source in r["source"])
    return float(row["low"]), float(row["high"])


def spent(found: Ownership) -> float:
    """Purchase and running, nothing sold."""
    return found.purchase + found.dollars - float(found.owned["lost value"])


# -- what others computed ---------------------------------------------------------------------


def test_a_published_break_even_follows_from_its_own_inputs() -> None:
    """The middle of each of its ranges; of upkeep, staff and interest it has none."""
    middle = {
        what: statistics.mean(published(what)) for what in ("price of a server", "electricity", "hosting", "rent")
    }
    found = rent_or_buy(
        EIGHT,
        purchase_price=middle["price of a server"] / 8,
        server_factor=1,
        electricity=middle["electricity"],
        hosting=middle["hosting"],
        price=middle["rent"],
        upkeep=0,
        staff=0,
        interest=0,
    )
    low, high = published("break-even")
    assert found.chosen is not None
    assert low < found.chosen.break_even_months < high


@pytest.mark.parametrize(
    ("source", "left_out"), [("v2-pseo", {}), ("technolynx", {"electricity": 0, "interest": 0, "upkeep": 0})]
)
def test_three_years_of_a_server_are_within_what_others_say(source: str, left_out: dict[str, float]) -> None:
    low, high = published("owning a server", source)
    assert low < spent(rent_or_buy(EIGHT, months=36, **left_out)) < high


# -- a ledger ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("months", "used"), [(1, 1.0), (18, 0.6), (48, 0.25), (60, 1.0)])
def test_owning_is_a_ledger_kept_month_by_month(months: int, used: float) -> None:
    o = GIVEN
    price = value = 8 * o["purchase_price"] * o["server_factor"]
    lost = interest = power = hosting = upkeep = staff = 0.0
    for _ in range(months):
        after = max(value - price / o["life_months"], 0.0)
        interest += (value + after) / 2 * o["interest"] / 12
        lost, value = lost + value - after, after
        work, idle = 700 * 0.85 + 374, 700 * o["idle_fraction"] + 374
        hours = HOURS_PER_MONTH
        power += 8 * (used * hours * work + (1 - used) * hours * idle) / 1000 * 1.2 * o["electricity"]
        hosting += 8 * (700 + 374) / 1000 * o["hosting"]
        upkeep += price * o["upkeep"] / 12
        staff += 8 * o["staff"]
    found = rent_or_buy(EIGHT, months=months, utilization=used, **GIVEN)
    kept = {"lost value": lost, "electricity": power, "hosting": hosting, "upkeep": upkeep, "staff": staff}
    for name, dollars in kept.items():
        assert found.owned[name] == pytest.approx(dollars), name
    assert found.resale == pytest.approx(value, abs=1e-6)
    if months <= o["life_months"]:
        assert found.owned["interest"] == pytest.approx(interest)


def test_at_the_break_even_rent_has_cost_what_owning_has() -> None:
    found = rent_or_buy(EIGHT, months=30, **GIVEN)
    assert found.chosen is not None
    paid = found.chosen.break_even_months
    assert paid < 48
    running = (found.dollars - float(found.owned["lost value"])) / 30
    assert found.purchase + paid * running == pytest.approx(paid * found.chosen.dollars / 30)


def test_at_the_least_share_of_the_hours_both_cost_the_same() -> None:
    share = rent_or_buy(EIGHT, months=24, **GIVEN).break_even_utilization
    assert share is not None
    even = rent_or_buy(EIGHT, months=24, utilization=share, **GIVEN)
    assert even.chosen is not None
    assert even.dollars == pytest.approx(even.chosen.dollars)
    assert even.dollars_per_device_hour == pytest.approx(even.rented_device_hour)
    assert rent_or_buy(EIGHT, months=24, utilization=0.9 * share, **GIVEN).verdict.startswith("Rent: ")
    assert rent_or_buy(EIGHT, months=24, utilization=1.1 * share, **GIVEN).verdict.startswith("Buy: ")


def test_a_break_even_beyond_the_machines_life_is_none() -> None:
    found = rent_or_buy(EIGHT, **GIVEN | {"price": 1.5})
    assert found.chosen is not None
    assert found.chosen.break_even_months == float("inf")
    assert "not within the 48 months that they live" in found.verdict
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["rent"]["break_even_months"] is None
    cheap = rent_or_buy(EIGHT, **GIVEN | {"price": 0.01})
    assert json.loads(json.dumps(cheap.to_dict(), allow_nan=False))["break_even_utilization"] is None


# -- ranges -----------------------------------------------------------------------------------


def test_what_is_given_has_no_range_and_is_not_assumed() -> None:
    found = rent_or_buy(EIGHT, power_fraction=0.8, host_watts=300, pue=1.1, **GIVEN)
    assert found.defaults == ()
    assert found.owned_low == found.owned_high == pytest.approx(found.dollars)
    assumed = {d.argument for d in rent_or_buy(EIGHT).defaults}
    assert {"purchase_price", "server_factor", "life_months", "interest", "pue"} <= assumed
    assert "network_factor" not in assumed  # one server needs none
    assert "network_factor" in {d.argument for d in rent_or_buy(("h100", 16)).defaults}


def test_the_range_is_that_of_independent_chances() -> None:
    """Each value drawn by itself, its range as the standard deviation to that side."""
    owner = _Owner(Cluster("h100", 8), OwnershipOptions(months=24))
    draw, totals = random.Random(7), []
    for _ in range(4000):
        values = {}
        for name, guess in owner.guesses.items():
            z = draw.gauss(0, 1)
            values[name] = max(guess.value + z * (guess.high - guess.value if z > 0 else guess.value - guess.low), 0.0)
        values["life_months"] = max(values["life_months"], 24)
        totals.append(float(_owned(owner.cluster, owner.options, values)[0].total))
    low, high = owner.spread(lambda owned, _, __: float(owned.total))
    assert statistics.pstdev(totals) == pytest.approx((high - low) / 2, rel=0.2)


def test_every_assumed_value_lies_in_its_range_and_is_an_option() -> None:
    options = {f.name for f in fields(OwnershipOptions)}
    for row in read_table("ownership"):
        assert row["argument"] in options
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
        assert row["unit"]


def test_dearer_inputs_make_owning_dearer() -> None:
    base = rent_or_buy(EIGHT, **GIVEN).dollars
    for name in ("purchase_price", "server_factor", "electricity", "hosting", "upkeep", "staff", "interest"):
        assert rent_or_buy(EIGHT, **GIVEN | {name: 1.1 * GIVEN[name]}).dollars > base
    assert rent_or_buy(EIGHT, **GIVEN | {"life_months": 60}).dollars < base
    assert rent_or_buy(("h100", 80), network_factor=1, **GIVEN).dollars == pytest.approx(10 * base)


# -- rent -------------------------------------------------------------------------------------


def _price(kind: str, dollars: float) -> Price:
    return Price(
        provider="mine",
        accelerator="H100 SXM5 80GB",
        devices=1,
        kind=kind,
        dollars_per_hour=dollars,
        dollars_per_device_hour=dollars,
        date="2026-11-01",
        status="given",
        source="mine",
    )


def test_a_reserved_machine_is_paid_whether_it_is_used_or_not() -> None:
    listed = PriceList("mine", (_price("on_demand", 4.0), _price("reserved", 2.0)))
    found = rent_or_buy(EIGHT, months=12, utilization=0.5, prices=listed)
    dollars = {offer.price.kind: offer.dollars for offer in found.offers}
    assert dollars["on_demand"] == pytest.approx(dollars["reserved"]) == pytest.approx(8 * 8766 * 0.5 * 4)


def test_an_offer_to_buy_in_a_file_has_no_range() -> None:
    bought = PurchasePrice("H100 SXM5 80GB", 27_500.0, "offer", "", "2026-11-01", "given", "a vendor")
    found = rent_or_buy(EIGHT, prices=PriceList("mine", (_price("on_demand", 4.0),), (bought,)))
    assert found.bought == bought
    assert next(d for d in found.defaults if d.argument == "purchase_price").source == "a vendor"


def test_a_rent_of_single_devices_is_said_beside_that_of_a_machine() -> None:
    found = rent_or_buy(EIGHT)
    assert found.chosen is not None
    assert found.joined is not None
    assert found.chosen.price.devices < 8 <= found.joined.price.devices
    assert found.joined.dollars > found.chosen.dollars
    assert any("the cheapest machine of 8 is" in line for line in found.warnings())
    assert rent_or_buy("h100").joined is None
    assert rent_or_buy(EIGHT, provider="AWS").joined is None


def test_each_provider_has_its_cheapest_machine_of_each_kind() -> None:
    found = rent_or_buy(EIGHT)
    keys = [(offer.price.provider, offer.price.kind) for offer in found.offers]
    assert len(keys) == len(set(keys)) > 8
    assert [offer.dollars for offer in found.offers] == sorted(offer.dollars for offer in found.offers)
    only = rent_or_buy(EIGHT, provider="aws")
    assert {offer.price.provider for offer in only.offers} == {"AWS"}


# -- what things come to ----------------------------------------------------------------------


def test_a_rented_run_and_rented_tokens_cost_what_train_and_serve_say() -> None:
    owned = rent_or_buy(EIGHT, price=2.5)
    layout = llmhw.Parallelism(dp=8, zero=3)
    job = llmhw.TrainingJob(model="llama-3-8b", cluster=EIGHT, parallelism=layout, recompute="full", seq_len=4096)
    trained = llmhw.train(job, tokens=1e9, price=2.5)
    assert per_run(owned, trained).rented == pytest.approx(trained.run.dollars)
    assert per_run(owned, trained) == per_run(owned, trained.run) == per_run(owned, trained.run.device_hours)
    serving = llmhw.ServingJob(model="llama-3-70b", cluster=EIGHT, tp=8)
    served = llmhw.serve(serving, input_tokens=1000, output_tokens=200, concurrency=32, price=2.5)
    assert per_million_tokens(owned, served).rented == pytest.approx(served.dollars_per_million_tokens)
    assert per_user_month(owned, served) == per_user_month(owned, 32)
    month = owned.chosen and owned.chosen.dollars / owned.months
    assert per_user_month(owned, 32).rented == pytest.approx((month or 0) / 32)


def test_hours_that_are_not_used_make_the_used_ones_dearer() -> None:
    half, full = (rent_or_buy(EIGHT, utilization=u, **GIVEN) for u in (0.5, 1.0))
    assert 1.8 < per_million_tokens(half, 5000).owned / per_million_tokens(full, 5000).owned < 2
    assert per_million_tokens(half, 5000).rented == pytest.approx(per_million_tokens(full, 5000).rented)


# -- faces ------------------------------------------------------------------------------------


def test_task_ten_is_one_command() -> None:
    """Rent or buy 8 H100 over 18 months, needed 60 % of the time."""
    line = ("cost", "--gpu", "h100", "--gpus", "8", "--months", "18", "--utilization", "0.6")
    done = run(*line)
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].startswith(("Rent: owning $", "Buy: owning $", "Even: owning $"))
    for word in (
        "break-even",
        "owning pays from",
        "lost value",
        "AWS p5.48xlarge",
        "spot",
        "assumed electricity=0.146",
    ):
        assert word.replace("electricity=", "--electricity ") in done.stdout
    found = answer(*line)
    own = rent_or_buy(EIGHT, months=18, utilization=0.6).to_dict()
    assert {k: v for k, v in found.items() if k != "versions"} == json.loads(json.dumps(own))


def test_a_model_says_what_makes_the_tokens() -> None:
    line = ("cost", "llama-3-70b", "--gpu", "h100", "--gpus", "8", "--weights", "fp8", "--price", "2.5")
    found = answer(*line)
    job = llmhw.ServingJob(model="llama-3-70b", cluster=EIGHT, weights="fp8")
    sizes = {"input_tokens": 1000, "output_tokens": 500}
    best = llmhw.search(job, best=1, weights=[job.weights], kv=[job.kv], **sizes).best[0].job
    served = llmhw.serve(best, **sizes, price=2.5)
    assert found["million_tokens"]["rented"] == pytest.approx(served.dollars_per_million_tokens)
    assert f"{served.point.concurrency:,} users" in found["serving"]
    rows = answer("cost", "llama-3-8b,llama-3-70b", "--gpu", "h100", "--gpus", "4")
    assert rows[0]["million_tokens"]["owned"] < rows[1]["million_tokens"]["owned"]
    assert "a million tokens owned" in run("cost", "llama-3-8b,llama-3-70b", "--gpu", "h100", "--gpus", "4").stdout
    assert "do not hold llama-3.1-405b in bf16" in refused("cost", "llama-3.1-405b", "--gpu", "h100", "--gpus", "4")
    assert "has no effect without a model" in refused("cost", "--gpu", "h100", "--input-tokens", "5")
    assert "--users 3 follows from the model" in refused(*line, "--users", "3")


def test_several_values_are_one_table() -> None:
    done = run("cost", "--gpu", "h100", "--gpus", "8", "--utilization", "0.3,0.9")
    assert "2 combinations of utilization" in done.stdout
    rows = answer("cost", "--gpu", "h100", "--gpus", "8", "--utilization", "0.3,0.9")
    assert [row["utilization"] for row in rows] == [0.3, 0.9]


@pytest.mark.parametrize("part", ["total", "lost value", "electricity", "rent", "renting", "break-even"])
def test_every_part_is_explained(part: str) -> None:
    assert len(rent_or_buy(EIGHT).explain(part)) > 40


def test_what_cannot_be_answered_is_said_with_a_way_out() -> None:
    assert "--purchase-price" in refused("cost", "--gpu", "rx 7600")
    assert "months" in refused("cost", "--gpu", "h100", "--months", "0")
    assert "--utilization" in refused("cost", "--gpu", "h100", "--utilization", "60")
    with pytest.raises(LLMHWError, match="tdp_watts of accelerator TPU v5e is not known"):
        rent_or_buy("tpu v5e", purchase_price=5000)
    with pytest.raises(LLMHWError, match="owned='h100' must be"):
        per_run("h100", 5)  # type: ignore[arg-type]


def test_a_card_of_ones_own_room_takes_no_data_centre() -> None:
    found = rent_or_buy("rtx 4090")
    assert found.at_home is not None
    assert found.at_home == pytest.approx(rent_or_buy("rtx 4090", hosting=0, staff=0, pue=1).dollars)
    assert found.next_steps() == [f"hosting=0, staff=0, pue=1: owning ${found.at_home:,.0f}"]
    assert rent_or_buy("h100").next_steps() == []


def test_a_service_is_owned_where_the_longest_text_of_its_model_has_no_room() -> None:
    """qwen3-8b takes 40,960 tokens; beside its weights in 16 bit an RTX 5090 has room for fewer."""
    line = ("cost", "qwen3-8b", "--gpu", "RTX 5090")
    found = re.search(r"([\d,.]+) tokens/s for all of ([\d,]+) users, all that fit", run(*line).stdout)
    assert found
    served = answer("serve", "qwen3-8b", "--gpu", "RTX 5090", "--weights", "bf16", "--max-model-len", "1500")
    assert [float(one.replace(",", "")) for one in found.groups()] == [
        pytest.approx(served["tokens_per_second"], rel=1e-3),
        served["concurrency"],
    ]
