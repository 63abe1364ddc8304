"""Exercises of chapter 14, the capstone."""

from __future__ import annotations

from typing import Any

import llmhw
from llmhw.exercises.base import Exercise
from llmhw.exercises.capstone import check_case
from llmhw.ownership import rent_dollars, rent_or_buy
from llmhw.planning.demand import Demand
from llmhw.units import GIB

_READ = (1.0, 20.0)  # tokens a second that people read, and more


def _cache(model: str, batch: int, tokens: int) -> float:
    return float(llmhw.kv_cache(model, batch=batch, seq_len=tokens).total) / GIB


def _holds(place: tuple[str, int], rate: float, budget: float) -> str:
    """What keeps a machine from the case of 14.5; "" if nothing does."""
    card, number = place
    purchase = rent_or_buy(llmhw.Cluster(card, number), months=36).purchase
    if purchase > budget:
        return f"it costs {purchase:,.0f} dollars to buy"
    if number < 2:
        return "one card has no spare"
    for left, when in ((number, ""), (number - 1, " when one card has failed")):
        job = llmhw.ServingJob(
            model=llmhw.model("qwen3-32b"), cluster=llmhw.Cluster(card, left), engine="vllm", weights="fp8", kv="bf16"
        )
        need = Demand(rate=rate, slo_tpot=0.05, slo_ttft=2, input_tokens=3000, output_tokens=500)
        plan = llmhw.plan(job, [(card, left)], demand=need, best=10)
        if not any(plan.holds(c) == "yes" and c.figures["devices"].value <= left for c in plan.choices):
            return f"it does not keep the limits at the worse end of the interval{when}"
    return ""


def _read(value: Any) -> str:
    low, high = _READ
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError("a number is wanted")
    if value > 60:
        return "is that in words a minute? Times 1.3, over 60 seconds"
    return "" if low <= value <= high else "nobody reads like that; count the words of a minute again"


EXERCISES = (
    Exercise(
        "14.1",
        "by hand",
        1,
        "A bank has {people:,} advisers, each of whom asks for {each} summaries a day, {share:.0%} of them in the "
        "busiest hour. How many requests arrive in a second then?",
        lambda people, each, share: people * each * share / 3600,
        unit="requests/s",
        given={"people": (900, 1500, 600, 2400), "each": (25, 40, 16), "share": (0.15, 0.12, 0.2)},
        slips={
            "the mean of the day in place of the busiest hour": lambda people, each, share: people * each / 86400,
            "all of the day in one hour": lambda people, each, share: people * each / 3600,
            "requests an hour": 3600,
        },
        hints=("How many summaries are asked for in the busiest hour?",),
    ),
    Exercise(
        "14.2",
        "compute",
        2,
        "{batch} requests of {model} are at work, each of {tokens:,} tokens at its end. How much memory does their KV "
        "cache take in BF16?",
        lambda model, batch, tokens: _cache(model, batch, tokens),
        unit="GiB",
        given={
            "model": ("qwen3-32b", "qwen3-8b", "llama-3.3-70b"),
            "batch": (40, 24, 64),
            "tokens": (3500, 2500, 6000),
        },
        slips={
            "all query heads in place of the KV heads": lambda model, batch, tokens: (
                _cache(model, batch, tokens) * llmhw.model(model).heads / llmhw.model(model).kv_heads
            ),
            "one request": lambda model, batch, tokens: _cache(model, 1, tokens),
        },
        hints=("Tokens of all requests, times K and V, layers, KV heads, dimensions of a head, bytes.",),
    ),
    Exercise(
        "14.3",
        "find the mistake",
        2,
        'The vendor writes: "Your machine makes {highest:,} tokens/s, so divide its cost by that." The hospitals ask '
        "for {letters:,} letters of {tokens} tokens a day. By which factor is a token dearer than that?",
        lambda highest, letters, tokens: highest * 86400 / (letters * tokens),
        given={"highest": (3600, 2500, 5000), "letters": (48_000, 30_000, 20_000), "tokens": (500, 400, 800)},
        slips={
            "the busiest hour in place of the day": lambda highest, letters, tokens: (
                highest * 3600 / (0.12 * letters * tokens)
            ),
            "8 working hours: the machine costs at night too": 1 / 3,
            "the reverse": lambda highest, letters, tokens: letters * tokens / (highest * 86400),
        },
        hints=("Which tokens does the rent of a night pay for?", "Tokens of a day, over its seconds."),
    ),
    Exercise(
        "14.4",
        "derive",
        2,
        "Owning {cards} cards costs {owned:,} dollars over {months} months, whatever they are used for. Derive the "
        "rent of a card-hour at which renting them all the time costs as much.",
        lambda cards, owned, months: owned / rent_dollars(devices=cards, months=months, dollars_per_device_hour=1),
        unit="dollars/hour",
        given={"cards": (4, 8, 2), "owned": (247_000, 520_000, 130_000), "months": (36, 48, 24)},
        slips={
            "of all cards, and of one is asked": lambda cards, owned, months: (
                owned / rent_dollars(devices=1, months=months, dollars_per_device_hour=1)
            ),
            "8 hours a day": 3,
        },
        hints=("A month has 730.5 hours.",),
    ),
    Exercise(
        "14.5",
        "design",
        3,
        "Find a machine for Qwen3-32B in FP8 that costs at most {budget:,} dollars to buy, servers included, and keeps "
        "50 ms between tokens and 2 s to the first at {rate} requests a second of 3,000 tokens in and 500 out: at the "
        "worse end of the interval, and when one card has failed. Give the card and the number.",
        lambda budget, rate: ("h100", 2),
        form='a tuple of a card and a number, as ("l40s", 4)',
        accept=lambda place, budget, rate: _holds(place, rate, budget),
        given={"budget": (100_000, 120_000, 150_000, 110_000), "rate": (0.8, 0.5, 0.6, 0.9)},
        hints=("Which cards have a price to buy? `llmhw prices --help` says how to list them.",),
    ),
    Exercise(
        "14.6",
        "measure",
        1,
        "How fast is fast enough? Read for one minute as you usually do, count the words and take 1.3 tokens for each. "
        "How many tokens a second do you read?",
        lambda: 250 * 1.3 / 60,
        unit="tokens/s",
        form="one number, in tokens a second: yours",
        accept=_read,
    ),
    Exercise(
        "14.7",
        "design",
        3,
        "Your own case: fill in `mine`, and hand it over.",
        lambda: _example(),
        form="a dict as `llmhw.exercises.capstone.KEYS` describes it",
        accept=lambda case: "; ".join(check_case(case).lacking),
    ),
)


def _example() -> dict[str, Any]:
    """A case in which nothing is lacking."""
    return {
        "question": "Which machine answers our questions?",
        "inputs": {"people": (100, "told by the office"), "requests/s": (0.4, "measured for a week")},
        "memory": (30e9, 45e9),
        "speed": {"ms between tokens": (40, 50)},
        "options": {"2 x L40S": 40_000, "1 x H100": 70_000, "rent 2 x L40S": 55_000},
        "budget": 60_000,
        "chosen": "2 x L40S",
        "utilization": 0.4,
        "turns": {"requests/s": 0.9, "rent": 0.8, "months": 14},
        "risks": {
            "it is slower": "rent one for a day",
            "fewer bits harm": "judge 100 answers of both",
            "nobody uses it": "ask 20 of them first",
        },
        "memo": "We recommend 2 x L40S, for 40,000 dollars of 60,000.",
    }
