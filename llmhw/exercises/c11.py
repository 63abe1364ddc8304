"""Exercises of chapter 11, cost."""

from functools import cache

import llmhw
from llmhw.cost import run_energy_kwh
from llmhw.exercises.base import Exercise
from llmhw.ownership import HOURS_PER_MONTH, Ownership, rent_or_buy
from llmhw.service import dollars_per_million_tokens

_H100_WATTS = float(llmhw.accelerator("h100").tdp_watts or 0)


def _days(billion: float, trillion: float, devices: int, card: str) -> float:
    flops = 6 * billion * 1e9 * trillion * 1e12
    return flops / (devices * 0.4 * llmhw.accelerator(card).peak("bf16")) / 86400


def _million(price: float, devices: int, speed: int, load: float) -> float:
    return float(dollars_per_million_tokens(dollars_per_hour=price * devices, tokens_per_second=speed * load))


@cache
def _break_even(card: str, provider: str) -> float:
    found = rent_or_buy(llmhw.Cluster(card, 8), months=36, provider=provider).break_even_utilization
    assert found is not None
    return 100 * found


def _accept_machine(answer: Ownership) -> str:
    if not isinstance(answer, Ownership):
        raise TypeError
    if answer.months != 36:
        return "compare over 36 months"
    if answer.chosen is None or answer.dollars >= answer.chosen.dollars:
        return "with these values renting is cheaper"
    return ""


def _accept_power(answer: float) -> str:
    if not 0 < answer < 20:
        return "dollars a month are wanted, for one machine that runs around the clock"
    return ""


EXERCISES = (
    Exercise(
        "11.1",
        "by hand",
        1,
        "A {billion}B model on {trillion} T tokens with {devices} {card} at 40 % of the dense peak. How many days?",
        unit="days",
        given={"billion": (13, 7, 3), "trillion": (1, 2), "devices": (64, 128), "card": ("A100 80GB SXM4", "H100")},
        answer=_days,
        slips={"at the full peak": 0.4, "2 FLOP a parameter and token: forward only": 1 / 3},
        hints=("6 FLOP for each parameter and token.", "Divide by devices x 0.4 x peak, then by 86,400."),
    ),
    Exercise(
        "11.2",
        "by hand",
        1,
        "A machine of {devices} cards at ${price} a card-hour writes {speed:,} tokens/s when full. What does a million "
        "tokens cost at {load:.0%} of that?",
        unit="dollars",
        given={
            "devices": (8, 4, 1),
            "price": (2.5, 4.0, 1.2),
            "speed": (10000, 2500, 6000),
            "load": (0.25, 0.5, 0.1),
        },
        answer=_million,
        slips={
            "the full machine's": lambda devices, price, speed, load: _million(price, devices, speed, 1),
            "one card's hour": lambda devices, price, speed, load: _million(price, 1, speed, load),
        },
        hints=("Dollars an hour over tokens an hour.", "The machine costs the same when it idles."),
    ),
    Exercise(
        "11.3",
        "compute",
        2,
        "From which share of the hours on is owning 8 {card} cheaper than renting them from {provider}, over three "
        "years?",
        unit="%",
        given={"card": ("h200", "h100"), "provider": ("AWS", "CoreWeave", "Nebius", "Azure")},
        answer=_break_even,
        slips={},
        hints=(
            "Both costs are straight lines in the share of hours; where do they cross?",
            "`rent_or_buy(..., provider=)` knows `break_even_utilization`.",
        ),
    ),
    Exercise(
        "11.4",
        "find the mistake",
        2,
        "'Our {devices} H100 have a limit of 700 W each, so {days} days of training take just that.' What do "
        "they take, with 85 % of the board drawn, {host} W of host for each, and a PUE of {pue}?",
        unit="kWh",
        given={"devices": (64, 256, 1024), "days": (10, 30), "host": (374, 300), "pue": (1.2, 1.1)},
        answer=lambda devices, days, host, pue: run_energy_kwh(
            device_hours=devices * days * 24, watts=0.85 * _H100_WATTS + host, pue=pue
        ),
        slips={
            "the sentence's own: the board at its limit, and nothing beside it": lambda devices, days, host, pue: (
                run_energy_kwh(device_hours=devices * days * 24, watts=_H100_WATTS)
            ),
            "the building is left out": lambda devices, days, host, pue: run_energy_kwh(
                device_hours=devices * days * 24, watts=0.85 * _H100_WATTS + host
            ),
        },
        hints=("Board, host, then the building times both.",),
        tolerance=0.01,
    ),
    Exercise(
        "11.5",
        "derive",
        2,
        "A machine costs ${purchase:,} and ${running:,} a month to run; its rent is ${rent:,} a month if it is used "
        "all the time, and you use {share:.0%} of it. After how many months has buying paid, if nothing is sold?",
        unit="months",
        given={"purchase": (370000, 250000), "running": (6000, 4000), "rent": (24000, 32000), "share": (0.9, 0.6)},
        answer=lambda purchase, running, rent, share: purchase / (rent * share - running),
        slips={
            "the rent of all hours": lambda purchase, running, rent, share: purchase / (rent - running),
            "as if running cost nothing": lambda purchase, running, rent, share: purchase / (rent * share),
        },
        hints=("What does owning save in a month?",),
        tolerance=0.01,
    ),
    Exercise(
        "11.6",
        "measure",
        2,
        "What does your own machine cost a month if it runs around the clock? Take its draw from a meter, from "
        "`nvidia-smi`, or from its label, and your price of a kWh; give dollars for a month and divide by its GPUs or "
        "processors' cores.",
        unit="dollars",
        answer=lambda: 0.146 * HOURS_PER_MONTH * 0.1 / 8,
        accept=_accept_power,
        form="one number, dollars a month for one core or GPU",
        hints=("Watts x 730.5 hours / 1000 are kWh.",),
    ),
    Exercise(
        "11.7",
        "design",
        3,
        "Your own decision. For which quotes would you buy? Put a price of a card, a rent and the share of hours that "
        "you need into `rent_or_buy` over 36 months, so that owning 8 H200 is cheaper, and give what it returns.",
        answer=lambda: rent_or_buy(llmhw.Cluster("h200", 8), months=36, provider="AWS", utilization=0.8),
        accept=_accept_machine,
        form="what `llmhw.ownership.rent_or_buy` returns",
        hints=("A dear rent, or many hours.", "11.3 says from which share on."),
    ),
)
