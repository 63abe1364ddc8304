"""Cheapest machines for models of several sizes, at the prices of one day, and what keeps them from being cheaper.

The kind of table that articles print: model size, card for training, card for serving, what binds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmhw.hardware import Accelerator, Cluster, Price, accelerator, instances, prices, purchase_prices
from llmhw.job import ServingJob, TrainingJob
from llmhw.margin import visible_bytes
from llmhw.planning.places import Offer, Place
from llmhw.planning.training import least_bytes, least_days, on
from llmhw.search import search
from llmhw.units import LLMHWError

HOURS_A_YEAR = 24 * 365


@dataclass(frozen=True)
class Pick:
    """The cheapest place that does a job, and why not a cheaper one.

    job      with its layout; of serving, with its formats
    paid     dollars: of the run, or of an hour of serving
    seconds  of the run; of serving, of a token that a user waits for
    binds    why not half as many of the same machine: memory, time, dollars (they would cost more), or that there is no
             smaller one
    """

    place: Place = field(repr=False)
    job: TrainingJob | ServingJob = field(repr=False)
    paid: float
    seconds: float
    binds: str

    @property
    def devices(self) -> int:
        """Devices in all."""
        return self.place.devices

    def __str__(self) -> str:
        return f"{self.place.devices:,} x {self.place.cluster.accelerator.name}"


def market(provider: str, year: str = "", *, bought: Sequence[str] = (), years: float = 3) -> list[Offer]:
    """Ways to have devices: a provider's machines at its list prices, and cards at their price over their years.

    year     only prices of that year; default: the newest of each machine
    bought   names of devices that are bought; they run around the clock for so many `years`, and power is not paid
    """
    listed = [p for p in prices(provider=provider, kind="on_demand") if p.date.startswith(year)]
    newest: dict[str, Price] = {}
    for price in sorted(listed, key=lambda p: p.date):
        newest[price.instance] = price
    machines = {m.name: m for m in instances() if m.provider == provider}
    known = [p for p in newest.values() if p.instance in machines]
    found = [Offer(accelerator(p.accelerator), p, machines[p.instance]) for p in known]
    if not found:
        raise LLMHWError(f"year={year!r} has no prices of {provider}; the catalog has {', '.join(_years(provider))}")
    return found + [_bought(accelerator(name), years) for name in bought]


def _years(provider: str) -> list[str]:
    return sorted({p.date[:4] for p in prices(provider=provider)})


def _bought(device: Accelerator, years: float) -> Offer:
    paid = purchase_prices(device)
    if not paid:
        raise LLMHWError(f"bought={device.name!r} has no price to buy in the catalog; leave it out")
    hourly = paid[0].dollars / (HOURS_A_YEAR * years)
    fact = {"kind": "bought", "date": paid[0].date, "status": "derived", "source": paid[0].source}
    price = Price(accelerator=device.name, devices=1, dollars_per_hour=hourly, dollars_per_device_hour=hourly, **fact)
    return Offer(device, price)


# -- training ---------------------------------------------------------------------------------

_DOUBLINGS = 5  # numbers of devices that are tried, from what memory and time ask for at the very best
_MOST_MFU = 0.75


def cheapest_training(
    job: TrainingJob, offers: Iterable[Offer], *, days: float, tokens: float, **space: Any
) -> Pick | None:
    """The run that costs least of those that are done in time; None if nothing is.

    job     with its batch; its layout is replaced
    space   axes of the layout, as in `llmhw.search`

    Counts steps that never fail: `llmhw.plan` has goodput, energy and intervals too.
    """
    seconds_left, steps = days * 86400, tokens / (job.batch * job.seq_len)

    def timed(places: Sequence[Place]) -> dict[Place, Any]:
        near = _near(on(job, places[0].cluster), places, **space)
        return {p: near[p.cluster] for p in places if p.cluster in near}

    def alone(offer: Offer) -> float:  # days of one device at the very best
        there = on(job, Cluster(offer.device))
        return least_days(there, tokens, offer.device.peak(there.peak_format)) / _MOST_MFU

    def least(offer: Offer) -> float:  # dollars: so many device-hours are paid on any number of devices
        return _hour(offer.place(offer.step)) / offer.step * alone(offer) * 24

    best: tuple[float, Place, Any, Offer] | None = None
    for offer in sorted(offers, key=least):
        if best is not None and least(offer) > best[0]:
            break
        room, by_time = visible_bytes(offer.device), alone(offer) / days
        places = [offer.place(n) for n in offer.counts(max(1.0, 0.9 * least_bytes(job) / room, by_time), 2**17)]
        if not places:
            continue
        for place, found in timed(places[:_DOUBLINGS]).items():
            paid = _hour(place) * found.seconds * steps / 3600
            if found.seconds * steps <= seconds_left and (best is None or paid < best[0]):
                best = paid, place, found, offer
    if best is None:
        return None
    paid, place, found, offer = best
    half = place.devices // 2
    if half < offer.step:
        binds = SMALLEST
    else:
        less = list(timed([offer.place(half)]).values())
        late = bool(less) and less[0].seconds * steps > seconds_left
        binds = "memory" if not less else "time" if late else "dollars"
    return Pick(place, found.job, paid, found.seconds * steps, binds)


SMALLEST = "the smallest machine"


def _hour(place: Place) -> float:
    dollars = place.dollars_per_hour
    return float("inf") if dollars is None else dollars


# -- serving ----------------------------------------------------------------------------------


def cheapest_serving(
    job: ServingJob,
    offers: Iterable[Offer],
    *,
    users: int,
    slo_tpot: float,
    input_tokens: int = 1000,
    output_tokens: int = 250,
    most: int = 16,
    **space: Any,
) -> Pick | None:
    """The machines that cost least an hour and write so many users a token in time each; None if none does.

    most    devices to try
    space   axes of the layout and formats, as in `llmhw.search`
    """
    load = {"input_tokens": input_tokens, "output_tokens": output_tokens, "concurrency": users, **space}
    found: list[tuple[float, Place, Any, Offer]] = []
    for offer in offers:
        least = min(found, key=lambda f: f[0])[0] if found else float("inf")
        places = [p for p in (offer.place(n) for n in offer.counts(1, most)) if _hour(p) < least]
        if places:
            near = _serving(job, places, slo_tpot=slo_tpot, **load)
            found += [(_hour(p), p, near[p.cluster], offer) for p in places if p.cluster in near]
    if not found:
        return None
    paid, place, one, offer = min(found, key=lambda f: f[0])
    half = place.devices // 2
    binds = SMALLEST if half < offer.step else "time" if _serving(job, [offer.place(half)], **load) else "memory"
    settled = replace(one.job, max_model_len=input_tokens + output_tokens)
    return Pick(place, settled, paid, one.next_token, binds)


def _near(job: Any, places: Sequence[Place], **asked: Any) -> dict[Any, Any]:
    """The fastest layout on each cluster that keeps all limits."""
    return {cluster: near[0] for cluster, near in _searched(job, places, **asked).items() if near}


def _serving(job: ServingJob, places: Sequence[Place], **load: Any) -> dict[Any, Any]:
    """The fastest layout on each cluster that keeps all limits with all users at work, none waiting for room."""

    def at_work(one: Any) -> float:
        answer = one.first_token + (load["output_tokens"] - 1) * one.next_token
        return float(answer / (load["output_tokens"] * one.seconds))

    found: dict[Any, Any] = {}
    for cluster, near in _searched(job, places, **load).items():
        able = [one for one in near if at_work(one) > 0.99 * load["concurrency"]]
        found |= {cluster: able[0]} if able else {}
    return found


def _searched(job: Any, places: Sequence[Place], **asked: Any) -> Mapping[Any, Any]:
    try:
        return search(job, [p.cluster for p in places], best=1, **asked).near
    except LLMHWError:  # a format that the device does not have
        return {}
