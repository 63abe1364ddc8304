"""Rent or buy: what devices cost to own over some months, what their rent would be, and when one passes the other.

Owning: straight-line loss of value, interest, electricity with cooling, a place in a data centre, upkeep, people.
Renting: each provider's price, paid for the hours that are needed. All in US dollars of the prices' dates: no taxes, no
discounts, no change of prices in later months.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from math import inf
from typing import Any

from llmhw.catalog import read_table
from llmhw.checks import check_text, checked
from llmhw.cost import (
    HOST,
    POWER,
    PUE,
    Default,
    TrainingRun,
    device_power_watts,
    newest_prices,
    price_of,
    run_dollars,
)
from llmhw.formula import Estimate, Report, Table, explained, formula, term
from llmhw.hardware import Cluster, Price, PurchasePrice, old_price, prices, purchase_prices
from llmhw.job import asked, check_fields, documented, number
from llmhw.language import said
from llmhw.price_files import price_list
from llmhw.service import ServingEstimate, dollars_per_million_tokens
from llmhw.training import TrainingEstimate
from llmhw.units import LLMHWError, check_number, format_quantity, minimum, plain_fields, shown, where

HOURS_PER_MONTH = 365.25 * 24 / 12

# -- formulas ---------------------------------------------------------------------------------


@formula(source="devices, the servers they are in, and switches between servers", unit="dollars")
def purchase_dollars(*, devices: Any, dollars_per_device: Any, server_factor: Any, network_factor: Any = 1) -> Any:
    """What the machines cost to buy.

    server_factor    price of a server over that of its devices
    network_factor   price of servers and their network over that of the servers; 1 for a single one

    >>> purchase_dollars(devices=8, dollars_per_device=30_000, server_factor=1.5)
    360000.0
    """
    return devices * dollars_per_device * server_factor * network_factor


@formula(
    source="straight-line depreciation: the same loss every month, nothing left at the end of life", unit="dollars"
)
def lost_value_dollars(*, purchase: Any, months: Any, life_months: Any) -> Any:
    """What machines lose of their price in some months; the rest is what they are sold for.

    >>> lost_value_dollars(purchase=360_000, months=18, life_months=54)
    120000.0
    """
    return purchase * minimum(months / life_months, 1.0)


@formula(source="simple interest on what is tied up on average", unit="dollars")
def interest_dollars(*, purchase: Any, lost_value: Any, interest: Any, months: Any) -> Any:
    """Interest on the price, as the machines lose their value.

    interest   a year

    >>> interest_dollars(purchase=360_000, lost_value=120_000, interest=0.1, months=12)
    30000.0
    """
    return (purchase - lost_value / 2) * interest * months / 12


@formula(source="definition: at work in that share of the hours, idle in the rest", unit="W")
def mean_watts(*, working_watts: Any, idle_watts: Any, utilization: Any) -> Any:
    """Mean power of a device with its share of the host.

    >>> mean_watts(working_watts=969, idle_watts=479, utilization=0.5)
    724.0
    """
    return utilization * working_watts + (1 - utilization) * idle_watts


@formula(source="power x time x PUE x price; a month has 730.5 hours", unit="dollars")
def electricity_dollars(*, devices: Any, watts: Any, pue: Any, months: Any, dollars_per_kwh: Any) -> Any:
    """Electricity of the machines and of their cooling.

    >>> round(electricity_dollars(devices=8, watts=969, pue=1.2, months=12, dollars_per_kwh=0.1))
    8154
    """
    return devices * watts / 1000 * pue * months * HOURS_PER_MONTH * dollars_per_kwh


@formula(source="colocation is sold by the power that must be there: board power and host, used or not", unit="dollars")
def hosting_dollars(*, devices: Any, tdp_watts: Any, host_watts: Any, months: Any, dollars_per_kw_month: Any) -> Any:
    """A place in somebody's data centre, without its electricity.

    >>> round(hosting_dollars(devices=8, tdp_watts=700, host_watts=374, months=12, dollars_per_kw_month=200))
    20621
    """
    return devices * (tdp_watts + host_watts) / 1000 * months * dollars_per_kw_month


@formula(source="a contract for a share of the price, a year", unit="dollars")
def upkeep_dollars(*, purchase: Any, upkeep: Any, months: Any) -> Any:
    """Maintenance and repairs.

    >>> upkeep_dollars(purchase=360_000, upkeep=0.1, months=18)
    54000.0
    """
    return purchase * upkeep * months / 12


@formula(source="definition", unit="dollars")
def staff_dollars(*, devices: Any, months: Any, dollars_per_device_month: Any) -> Any:
    """People who operate the machines.

    >>> staff_dollars(devices=8, months=18, dollars_per_device_month=100)
    14400
    """
    return devices * months * dollars_per_device_month


@formula(source="list price x hours that are paid for; a month has 730.5 hours", unit="dollars")
def rent_dollars(*, devices: Any, months: Any, dollars_per_device_hour: Any, utilization: Any = 1) -> Any:
    """Rent of as many devices.

    utilization   share of the hours that are paid for: those that are needed, or all where they are reserved

    >>> rent_dollars(devices=8, months=12, dollars_per_device_hour=2.5, utilization=0.5)
    87660.0
    """
    return devices * months * HOURS_PER_MONTH * utilization * dollars_per_device_hour


@formula(source="the price over what owning saves in a month; nothing is sold", unit="months")
def break_even_months(*, purchase: Any, rent_a_month: Any, running_a_month: Any) -> Any:
    """When rent would have cost more than owning has, if the machines were worth nothing then; infinite: never.

    running_a_month   of owning: electricity, hosting, upkeep, staff and interest

    >>> break_even_months(purchase=360_000, rent_a_month=26_000, running_a_month=8_000)
    20.0
    """
    saved = rent_a_month - running_a_month
    return where(saved > 0, purchase / where(saved > 0, saved, 1.0), inf)


@formula(source="cost over the hours that are used", unit="dollars")
def owned_device_hour_dollars(*, dollars: Any, devices: Any, months: Any, utilization: Any) -> Any:
    """What an hour of a device that is used costs its owner.

    >>> round(owned_device_hour_dollars(dollars=360_000, devices=8, months=36, utilization=0.6), 2)
    2.85
    """
    return dollars / (devices * months * HOURS_PER_MONTH * utilization)


# -- what is asked ----------------------------------------------------------------------------


@cache
def _known() -> dict[str, dict[str, str]]:
    return {row["argument"]: row for row in read_table("ownership")}


def _usual(argument: str) -> str:
    return f"{float(_known()[argument]['value']):g}"


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class OwnershipOptions:
    """Prices and habits of an owner; what is not given is assumed, and listed in the result with its source.

    A range comes with each assumed value; a value that is given has none.
    """

    months: float = number("Over which owning and renting are compared.", 36.0, above=True, most=600)
    utilization: float = number("Share of the hours in which the devices are needed.", 1.0, least=1e-3, most=1)
    purchase_price: float | None = number(
        "Dollars of a device, or its share of a whole server where the factor below is 1; default: the newest known.",
        above=True,
        most=1e9,
    )
    server_factor: float | None = number(
        f"Price of a server over that of its devices; default: {_usual('server_factor')}, and 1 for a whole system.",
        least=1,
        most=100,
    )
    network_factor: float | None = number(
        f"Price of servers with their network over that of servers; default: {_usual('network_factor')} for several.",
        least=1,
        most=100,
    )
    life_months: float | None = number(
        f"Until the machines are worth nothing, in a straight line; default: {_usual('life_months')}.",
        least=1,
        most=600,
    )
    electricity: float | None = number(f"Dollars a kWh; default: {_usual('electricity')}.", most=100)
    hosting: float | None = number(
        f"Dollars a month for each kW of space, power and cooling; default: {_usual('hosting')}; 0: your own room.",
        most=1e5,
    )
    upkeep: float | None = number(f"Maintenance, share of the price a year; default: {_usual('upkeep')}.", most=10)
    staff: float | None = number(f"Dollars a month for each device; default: {_usual('staff')}.", most=1e6)
    interest: float | None = number(f"Interest a year; default: {_usual('interest')}.", most=1)
    power_fraction: float | None = number(
        f"Share of the board power that is drawn at work; default: {POWER.value:g}.", above=True, most=1
    )
    idle_fraction: float | None = number(f"The same when idle; default: {_usual('idle_fraction')}.", most=1)
    host_watts: float | None = number(f"Power of the host, for one device; default: {HOST.value:g}.", most=1e6)
    pue: float | None = number(
        f"Energy of the building over that of the machines; default: {PUE.value:g}.", least=1, most=100
    )
    price: float | Price | None = asked(  # noqa: RUF009
        "Rent, in dollars of a device-hour; default: the cheapest of the catalog.", None, float
    )
    provider: str | None = asked("Rent of this provider alone.", None, str, check_text)
    region: str | None = asked("Rent in this region alone.", None, str, check_text)
    prices: Any = asked(  # noqa: RUF009
        "A CSV file with prices of your own: see `llmhw.price_files.read_prices`.", None, object, price_list
    )
    device_hours: float | None = number("Of a run, to say what it costs.", above=True, most=1e15)
    tokens_per_second: float | None = number(
        "That a service makes on all devices, to say what a million cost.", above=True, most=1e15
    )
    users: float | None = number("Of a service, to say what each costs a month.", above=True, most=1e12)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class Guess:
    """A value with its range; one that was given has none."""

    argument: str
    value: float
    low: float
    high: float
    source: str

    @property
    def assumed(self) -> Default:
        """How it is listed."""
        between = f" ({self.low:g} to {self.high:g})" if self.low != self.high else ""
        return Default(self.argument, self.value, f"{self.source}{between}")


@dataclass(frozen=True, slots=True)
class Offer:
    """Renting for as long: one provider's cheapest machine of one kind.

    dollars             over the months, for the hours that are paid
    break_even_months   when owning has paid; infinite: not while the machines live. *_low, *_high: from the ranges of
                        what owning costs
    """

    price: Price
    dollars: float
    break_even_months: float
    break_even_low: float
    break_even_high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a break-even that never comes is None."""
        found = plain_fields(self, "price") | {
            name: None if value == inf else value
            for name in ("break_even_months", "break_even_low", "break_even_high")
            for value in [getattr(self, name)]
        }
        kept = ("provider", "instance", "kind", "region", "date", "dollars_per_device_hour")
        return {name: getattr(self.price, name) for name in kept} | found


# -- what comes out ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Ownership(Report):
    """Owning beside renting.

    purchase, resale      what the machines cost, and what they are sold for after the months
    owned                 lost value, interest, electricity, hosting, upkeep and staff, which add up to the cost
    owned_low, owned_high from the ranges of what was assumed, taken as independent
    chosen                the rent that is compared: the cheapest on demand, or what was asked for; None: none is known
    joined                the cheapest machine that holds as many as a server does, where the rent is that of fewer
    offers                each provider's cheapest machine of each kind, the cheapest first
    break_even_utilization   share of the hours from which owning is cheaper over the months; above 1 or infinite: never
    life_months           until the machines are worth nothing
    serving               what makes the tokens and has the users that were asked about, in words
    at_home               what owning comes to with one's own room and nobody paid, for what is sold to people
    """

    accelerator: str
    devices: int
    months: float
    utilization: float
    purchase: float
    resale: float
    owned: Estimate
    owned_low: float
    owned_high: float
    chosen: Offer | None
    joined: Offer | None
    offers: tuple[Offer, ...]
    break_even_utilization: float | None
    life_months: float
    at_home: float | None
    no_price: str
    bought: PurchasePrice | None
    defaults: tuple[Default, ...]
    made: Mapping[str, Estimate] = field(repr=False, hash=False)
    asked: OwnershipOptions = field(repr=False)
    serving: str = ""

    @property
    def dollars(self) -> float:
        """What owning costs over the months."""
        return float(self.owned.total)

    @property
    def running_a_month(self) -> float:
        """What owning costs a month beside the machines: electricity, hosting, upkeep, staff and interest."""
        return (self.dollars - float(self.owned["lost value"])) / self.months

    @property
    def dollars_per_device_hour(self) -> float:
        """Of owning, for each hour that is used."""
        sizes = {"devices": self.devices, "months": self.months, "utilization": self.utilization}
        return float(owned_device_hour_dollars(dollars=self.dollars, **sizes))

    @property
    def rented_device_hour(self) -> float | None:
        """Of renting, for each hour that is used."""
        if self.chosen is None:
            return None
        sizes = {"devices": self.devices, "months": self.months, "utilization": self.utilization}
        return float(owned_device_hour_dollars(dollars=self.chosen.dollars, **sizes))

    @property
    def title(self) -> str:
        """What is bought or rented, for how long."""
        text = "{devices:,} x {device} for {months:g} months, needed all the time"
        if self.utilization != 1:
            text = "{devices:,} x {device} for {months:g} months, needed {percent:g} % of the time"
        percent = 100 * self.utilization
        return said(text, devices=self.devices, device=self.accelerator, months=self.months, percent=percent)

    @property
    def setting(self) -> str:
        """What the tokens are made by, where they were asked about."""
        return self.serving

    @property
    def verdict(self) -> str:
        """Which is cheaper, by how much, and since when."""
        own = f"{_dollars(self.dollars)} ({self._between()})"
        if self.chosen is None:
            return said("Owning costs {owning}.", owning=own)
        rent, near = self.chosen.dollars, ""
        sure = self.owned_high < rent or self.owned_low > rent
        word = ("Buy" if self.dollars < rent else "Rent") if sure else "Even"
        if not sure:
            less = self.dollars < rent
            near = said(
                ", owning a little cheaper at the estimate" if less else ", renting a little cheaper at the estimate"
            )
        return said(
            "{word}: owning {owning}, renting {renting} at {where}{near}; {paid}.",
            word=said(word),
            owning=own,
            renting=_dollars(rent),
            where=_where(self.chosen.price),
            near=near,
            paid=self._paid(self.chosen),
        )

    def _between(self) -> str:
        return said("{low} to {high}", low=_dollars(self.owned_low), high=_dollars(self.owned_high))

    def _paid(self, offer: Offer) -> str:
        text, between = _months(offer)
        if offer.break_even_months == inf:
            found = said("break-even not within the {months:g} months that they live", months=self.life_months)
        else:
            found = said("break-even after {months}", months=text)
        return f"{found}{f' ({between})' if between else ''}"

    def warnings(self) -> list[str]:
        """Old prices, and by how many providers' prices the answer hangs."""
        found = []
        demand = [offer for offer in self.offers if offer.price.kind == "on_demand"]
        dearer = sum(offer.dollars > self.dollars for offer in demand)
        if len(demand) > 1:
            text = "owning is cheaper than {some} of {all} providers on demand"
            found.append(said(text, some=dearer, all=len(demand)))
        if self.joined is not None and self.chosen is not None:
            few, whole = self.chosen.price, self.joined
            text = "{provider} rents {devices} devices: the cheapest machine of {all} is {price}, {dollars}, {paid}"
            if few.devices == 1:
                text = "{provider} rents 1 device: the cheapest machine of {all} is {price}, {dollars}, {paid}"
            told = {"provider": _where(few), "devices": few.devices, "all": whole.price.devices, "price": whole.price}
            found.append(said(text, **told, dollars=_dollars(whole.dollars), paid=self._paid(whole)))
        if self.bought is not None and self.bought.kind == "launch price":
            found.append(said("the price to buy is a launch price of {date}: give yours", date=self.bought.date))
        if self.chosen is not None and (old := old_price(self.chosen.price)):
            found.append(said("the {old}", old=old))
        return found

    def next_steps(self) -> list[str]:
        """A card in one's own room takes no data centre."""
        if self.at_home is None:
            return []
        return [said("hosting=0, staff=0, pue=1: owning {dollars}", dollars=_dollars(self.at_home))]

    def explain(self, part: str | None = None) -> str:
        """The formulas behind one part (or all), with these numbers."""
        names = {"total": None, "rent": "renting"}
        if part in names and names[part] is None:
            return "\n".join([f"total = {_dollars(self.dollars)}, the sum of", *self._sums()])
        kinds = {name: [made] for name, made in self.made.items()}
        return explained(names.get(part or "", part), owning=[self.owned], **kinds)

    def _sums(self) -> list[str]:
        return [f"    {part.name}: {_dollars(float(part.value))}" for part in self.owned]

    def rows(self) -> list[tuple[str, str, str]]:
        """Owning as text: part, dollars, dollars a month."""
        parts = [(part.name, float(part.value)) for part in self.owned]
        return [
            (name, _dollars(value), _dollars(value / self.months)) for name, value in [*parts, ("total", self.dollars)]
        ]

    def summary(self) -> list[tuple[str, str, str]]:
        """What a decision asks: quantity, value, and how it came about."""
        rented = self.rented_device_hour
        each = self.bought.dollars if self.bought else float(self.asked.purchase_price or 0)
        beside = self.purchase / self.devices / each
        price = self.bought or said("{price} as given", price=_dollars(each))
        bought = said("{price} a device", price=price)
        if beside != 1:
            bought = said("{price} a device, x {factor:.3g} for servers and network", price=price, factor=beside)
        found = [
            ("purchase", _dollars(self.purchase), bought),
            ("sold after that", _dollars(self.resale), "straight line"),
            ("owning", _dollars(self.dollars), self._between()),
        ]
        if self.chosen is None:
            found.append(("renting", "unknown", self.no_price))
        else:
            found.append(("renting", _dollars(self.chosen.dollars), str(self.chosen.price)))
            found.append(("break-even", *_months(self.chosen)))
            share = self.break_even_utilization or 0
            least = format_quantity(share, "fraction") if share <= 1 else "never"
            found.append(("owning pays from", least, said("of the hours, over {months:g} months", months=self.months)))
        beside_it = "" if rented is None else said("renting {price}", price=_dollars(rented))
        found.append(("a device-hour used", _dollars(self.dollars_per_device_hour), beside_it))
        return [*found, *self._units()]

    def _units(self) -> list[tuple[str, str, str]]:
        """What a run, a million tokens or a user come to, where they were asked for."""
        o = self.asked
        asked: list[tuple[str, Paid]] = []
        if o.device_hours is not None:
            asked.append((said("a run of {hours:,g} h", hours=o.device_hours), per_run(self, o.device_hours)))
        if o.tokens_per_second is not None:
            asked.append(("a million tokens", per_million_tokens(self, o.tokens_per_second)))
        if o.users is not None:
            asked.append(("a user, a month", per_user_month(self, o.users)))
        return [
            (
                name,
                _dollars(paid.owned),
                "" if paid.rented is None else said("renting {price}", price=_dollars(paid.rented)),
            )
            for name, paid in asked
        ]

    def tables(self) -> list[Table]:
        found = [
            Table(self.title, ("quantity", "value", "range or origin"), self.summary(), prose=True, head=()),
            Table("", ("owning", "in all", "a month"), self.rows()),
        ]
        if self.offers:
            head = ("renting", "kind", "a device-hour", "in all", "a month", "break-even")
            rows = [
                (
                    _where(offer.price),
                    offer.price.kind.replace("_", " "),
                    _dollars(offer.price.dollars_per_device_hour),
                    _dollars(offer.dollars),
                    _dollars(offer.dollars / self.months),
                    _months(offer)[0],
                )
                for offer in self.offers
            ]
            found.append(Table("", head, rows, right=2))
        return found

    def footer(self) -> list[str]:
        return [said("assumed {value}", value=d) for d in self.defaults]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers in dollars, months and shares."""
        paid = {
            "run": None if self.asked.device_hours is None else per_run(self, self.asked.device_hours),
            "million_tokens": (
                None if (speed := self.asked.tokens_per_second) is None else per_million_tokens(self, speed)
            ),
            "user_month": None if self.asked.users is None else per_user_month(self, self.asked.users),
        }
        return {
            "device": self.accelerator,
            **{name: getattr(self, name) for name in ("devices", "months", "utilization", "purchase", "resale")},
            "owned_dollars": self.dollars,
            "owned_low": self.owned_low,
            "owned_high": self.owned_high,
            "owned": {part.name: float(part.value) for part in self.owned},
            "owned_dollars_per_device_hour": self.dollars_per_device_hour,
            "rented_dollars": self.chosen and self.chosen.dollars,
            "rented_dollars_per_device_hour": self.rented_device_hour,
            "rent": self.chosen and self.chosen.to_dict(),
            "rent_of_a_machine": self.joined and self.joined.to_dict(),
            "break_even_utilization": None if (share := self.break_even_utilization) == inf else share,
            "at_home_dollars": self.at_home,
            "no_price": self.no_price or None,
            "purchase_price": self.bought and self.bought.to_dict(),
            **{name: None if value is None else plain_fields(value) for name, value in paid.items()},
            "offers": [offer.to_dict() for offer in self.offers],
            "serving": self.serving or None,
            "verdict": self.verdict,
            "warnings": self.warnings(),
            "defaults": {d.argument: {"value": d.value, "source": d.source} for d in self.defaults},
        }

    def to_row(self) -> dict[str, Any]:
        """One row: what was asked, then what it comes to."""
        rent = (
            self.chosen.to_dict() if self.chosen else dict.fromkeys(("break_even_months", "provider", "kind", "date"))
        )
        units = ("run", "million_tokens", "user_month")
        left_out = ("offers", "warnings", "defaults", "rent", "rent_of_a_machine", "purchase_price", "owned", *units)
        whole = self.to_dict()
        flat = {k: v for k, v in whole.items() if k not in left_out}
        flat |= {f"{u}_{k}": v for u in units if whole[u] for k, v in whole[u].items()}
        parts = {f"owned_{part.name.replace(' ', '_')}": float(part.value) for part in self.owned}
        told = {f"rent_{name}": rent[name] for name in ("provider", "kind", "date")}
        ends = {name: rent.get(name) for name in ("break_even_months", "break_even_low", "break_even_high")}
        return flat | parts | told | ends

    def records(self) -> list[dict[str, Any]]:
        """Each way to rent, beside owning."""
        own = {"device": self.accelerator, "devices": self.devices, "owned_dollars": self.dollars}
        return [own | offer.to_dict() for offer in self.offers]


def _dollars(value: float) -> str:
    return format_quantity(value, "dollars")


def _where(price: Price) -> str:
    if price.kind == "given":
        return said("the price given")
    return " ".join(filter(None, (price.provider, price.instance)))


def _months(offer: Offer) -> tuple[str, str]:
    """The break-even and its range as text."""

    def told(value: float) -> str:
        return said("never") if value == inf else f"{value:.1f}"

    value, low, high = (told(v) for v in (offer.break_even_months, offer.break_even_low, offer.break_even_high))
    between = "" if low == high else said("{low} to {high}", low=low, high=high)
    return (value if offer.break_even_months == inf else said("{number} months", number=value)), between


# -- how it is computed -----------------------------------------------------------------------


def _sure(argument: str, value: float, source: str = "as given") -> Guess:
    """A value without a range."""
    return Guess(argument, value, value, value, source)


def _purchase(cluster: Cluster, o: OwnershipOptions) -> tuple[Guess, PurchasePrice | None]:
    """Dollars of a device: as given, or the newest price with its range."""
    if o.purchase_price is not None:
        return _sure("purchase_price", o.purchase_price), None
    device = cluster.accelerator
    found = purchase_prices(device, listed=o.prices, quoted=o.region is not None)
    if not found:
        raise LLMHWError(f"purchase_price is not known of {device.name}; give purchase_price=, in dollars of a device")
    newest = max(found, key=lambda price: price.date)
    if o.prices is not None and newest in o.prices.purchase:  # an offer of one's own has no range
        return _sure("purchase_price", newest.dollars, newest.source), newest
    row = _known()["purchase_price"]
    low, high = (newest.dollars * float(row[end]) for end in ("low", "high"))
    return Guess(
        "purchase_price", newest.dollars, low, high, f"{newest.kind} of {newest.date}, {newest.source}"
    ), newest


def _guesses(cluster: Cluster, o: OwnershipOptions) -> tuple[dict[str, Guess], PurchasePrice | None]:
    """Every number that owning takes, given or assumed."""
    bought, price = _purchase(cluster, o)
    found = {"purchase_price": bought}
    fixed = {d.argument: d for d in (POWER, HOST, PUE)}
    system = price is not None and price.kind == "system price"
    for name in (
        "server_factor network_factor life_months electricity hosting upkeep staff interest power_fraction "
        "idle_fraction host_watts pue"
    ).split():
        value = getattr(o, name)
        if value is None and (
            (name == "server_factor" and system) or (name == "network_factor" and cluster.nodes == 1)
        ):
            value = 1.0
        if value is not None:
            found[name] = _sure(name, value)
        elif name in fixed:
            found[name] = _sure(name, float(fixed[name].value), fixed[name].source)
        else:
            row = _known()[name]
            value, low, high = (float(row[column]) for column in ("value", "low", "high"))
            found[name] = Guess(name, value, low, high, f"{row['source']}, {row['date']}")
    return found, price


def _owned(cluster: Cluster, o: OwnershipOptions, x: Mapping[str, float]) -> tuple[Estimate, float, float]:
    """Owning as parts; what the machines cost; and what owning costs in a month once they are bought."""
    device, count, months = cluster.accelerator, cluster.devices, o.months
    tdp = device.require("tdp_watts")
    paid = term(
        purchase_dollars,
        "purchase",
        devices=count,
        dollars_per_device=x["purchase_price"],
        server_factor=x["server_factor"],
        network_factor=x["network_factor"],
    )
    purchase = paid.value
    lost = term(lost_value_dollars, "lost value", purchase=purchase, months=months, life_months=x["life_months"])
    power = {"tdp_watts": tdp, "host_watts": x["host_watts"]}
    work, idle = (device_power_watts(power_fraction=x[name], **power) for name in ("power_fraction", "idle_fraction"))
    drawn = term(mean_watts, "power", working_watts=work, idle_watts=idle, utilization=o.utilization)
    energy = {"devices": count, "watts": drawn.value, "pue": x["pue"], "months": months}
    room = {"devices": count, **power, "months": months}
    parts = {
        "lost value": [replace(lost, because=(paid,))],
        "interest": [
            term(
                interest_dollars,
                "interest",
                purchase=purchase,
                lost_value=lost.value,
                interest=x["interest"],
                months=months,
            )
        ],
        "electricity": [
            replace(
                term(electricity_dollars, "electricity", **energy, dollars_per_kwh=x["electricity"]), because=(drawn,)
            )
        ],
        "hosting": [term(hosting_dollars, "hosting", **room, dollars_per_kw_month=x["hosting"])],
        "upkeep": [term(upkeep_dollars, "upkeep", purchase=purchase, upkeep=x["upkeep"], months=months)],
        "staff": [term(staff_dollars, "staff", devices=count, months=months, dollars_per_device_month=x["staff"])],
    }
    made = Estimate.of(f"Owning {count:,} x {device.name} for {months:g} months", "dollars", parts)
    running = (float(made.total) - float(made["lost value"])) / months
    return made, float(purchase), running


def _spread(value: float, guesses: Iterable[Guess], at: Callable[[str, float], float]) -> tuple[float, float]:
    """The range of a figure, from those of its inputs: deviations one at a time, added as independent ones are."""
    below = above = 0.0
    for guess in guesses:
        if guess.low == guess.high:
            continue
        moves = [at(guess.argument, end) - value for end in (guess.low, guess.high)]
        below += min(*moves, 0.0) ** 2
        above += max(*moves, 0.0) ** 2
    return value - below**0.5, value + above**0.5


class _Owner:
    """Owning with one set of guesses, and what it is at the ends of their ranges."""

    def __init__(self, cluster: Cluster, options: OwnershipOptions) -> None:
        self.cluster, self.options = cluster, options
        self.guesses, self.bought = _guesses(cluster, options)
        self.central = {name: guess.value for name, guess in self.guesses.items()}
        self.owned, self.purchase, self.running = _owned(cluster, options, self.central)
        self.ends = {
            (g.argument, end): _owned(cluster, options, self.central | {g.argument: end})
            for g in self.guesses.values()
            if g.low != g.high
            for end in (g.low, g.high)
        }

    def spread(self, figure: Callable[[Estimate, float, float], float]) -> tuple[float, float]:
        """The range of a figure of owning."""
        central = figure(self.owned, self.purchase, self.running)
        return _spread(central, self.guesses.values(), lambda name, end: figure(*self.ends[name, end]))

    def offer(self, price: Price) -> Offer:
        """Renting at a price, and when owning has paid beside it."""
        o, count = self.options, self.cluster.devices
        paid = 1.0 if price.kind == "reserved" else o.utilization
        rate = {"dollars_per_device_hour": price.dollars_per_device_hour, "utilization": paid}
        monthly = float(rent_dollars(devices=count, months=1, **rate))
        # in months the range has no end where it never comes; the share that a month pays back has one
        low, high = self.spread(lambda _, purchase, running: (monthly - running) / purchase)
        value = break_even_months(purchase=self.purchase, rent_a_month=monthly, running_a_month=self.running)
        ends = (inf if share <= 0 else 1 / share for share in (high, low))
        life = self.central["life_months"]
        return Offer(price, monthly * o.months, *(inf if month > life else float(month) for month in (value, *ends)))


def _cheapest(cluster: Cluster, o: OwnershipOptions) -> list[Price]:
    """Each provider's cheapest of the newest prices of each kind, those that were asked for."""
    device = cluster.accelerator
    found: dict[tuple[str, str], Price] = {}
    elsewhere = o.provider is not None or o.region is not None
    for kind in dict.fromkeys(price.kind for price in prices(device, listed=o.prices, quoted=elsewhere)):
        with suppress(LLMHWError):  # none of this kind there
            offers, _ = newest_prices(device, o.provider, o.region, kind, o.prices)
            for offer in sorted(offers, key=lambda price: price.dollars_per_device_hour):
                found.setdefault((offer.provider, kind), offer)
    return list(found.values())


@checked(options=None)
def rent_or_buy(cluster: Cluster, options: OwnershipOptions = OwnershipOptions(), **changes: Any) -> Ownership:
    """What devices cost to own over some months, beside what their rent would be.

    options   prices and habits; `changes`: fields of `OwnershipOptions`, in place of these

    A rented device is paid for the share `utilization` of the hours, a reserved or an owned one for all. Owning counts
    the price less what the machines are sold for, in a straight line; the break-even counts no sale, and one later than
    the machines' life is none. Every assumed value is listed with its source and its range; ranges are taken as
    independent. A price to buy or a board power that is not known raises `LLMHWError`; without a rent only owning is
    answered.

    >>> found = rent_or_buy("h100", months=18, utilization=0.6, purchase_price=30_000, price=2.5)
    >>> found.resale < found.purchase, found.chosen.break_even_months > 18
    (True, True)
    """
    if not isinstance(options, OwnershipOptions):
        raise LLMHWError(f"options={shown(options)} must be OwnershipOptions; make them with it")
    o = replace(options, **changes)
    owner = _Owner(cluster, o)
    listed = o.prices if o.price is None else None
    chosen, unknown = price_of(cluster.accelerator, cluster.devices, o.price, o.provider, o.region, "on_demand", listed)
    offers = [owner.offer(price) for price in ([chosen] if o.price is not None and chosen else _cheapest(cluster, o))]
    total, home = float(owner.owned.total), None
    if owner.bought is not None and owner.bought.kind in ("launch price", "system price") and o.hosting is None:
        home = float(_owned(cluster, o, owner.central | {"hosting": 0.0, "staff": 0.0, "pue": 1.0})[0].total)
    low, high = owner.spread(lambda owned, _, __: float(owned.total))
    return Ownership(
        accelerator=cluster.accelerator.name,
        devices=cluster.devices,
        months=o.months,
        utilization=o.utilization,
        purchase=owner.purchase,
        resale=owner.purchase - float(owner.owned["lost value"]),
        owned=owner.owned,
        owned_low=max(low, 0.0),
        owned_high=max(high, total),
        **_compared(owner, chosen),
        offers=tuple(sorted(offers, key=lambda offer: offer.dollars)),
        life_months=owner.central["life_months"],
        at_home=home,
        no_price=unknown,
        bought=owner.bought,
        defaults=tuple(g.assumed for g in owner.guesses.values() if g.source != "as given"),
        asked=o,
    )


@dataclass(frozen=True, slots=True)
class Swing:
    """What owning costs at the two ends of one value's range.

    dollars_low, dollars_high   at the value's low and high end, all else as assumed
    """

    argument: str
    low: float
    high: float
    dollars_low: float
    dollars_high: float

    @property
    def dollars(self) -> float:
        """Between the ends."""
        return abs(self.dollars_high - self.dollars_low)


@checked(options=None)
def swings(cluster: Cluster, options: OwnershipOptions = OwnershipOptions(), **changes: Any) -> tuple[Swing, ...]:
    """What owning costs when one assumed value at a time is at the ends of its range, the widest swing first.

    options, changes   as in `rent_or_buy`; a value that is given has no range, and is not among these

    >>> [swing.argument for swing in swings(("h100", 8), months=36)][:2]
    ['purchase_price', 'life_months']
    """
    owner = _Owner(cluster, replace(options, **changes))
    guesses = (guess for guess in owner.guesses.values() if guess.low != guess.high)
    made = (
        Swing(g.argument, g.low, g.high, *(float(owner.ends[g.argument, end][0].total) for end in (g.low, g.high)))
        for g in guesses
    )
    return tuple(sorted(made, key=lambda swing: -swing.dollars))


def _compared(owner: _Owner, price: Price | None) -> dict[str, Any]:
    """What owning is compared with: the rent, that of a whole machine, the formulas, and the share that is even."""
    if price is None:
        return {"chosen": None, "joined": None, "break_even_utilization": None, "made": {}}
    o, count, chosen = owner.options, owner.cluster.devices, owner.offer(price)
    rent: dict[str, Any] = {"devices": count, "dollars_per_device_hour": price.dollars_per_device_hour}
    rented = term(rent_dollars, "renting", months=o.months, utilization=o.utilization, **rent)
    monthly: dict[str, Any] = {"rent_a_month": chosen.dollars / o.months, "running_a_month": owner.running}
    paid = term(break_even_months, "break-even", purchase=owner.purchase, **monthly)
    made = {
        "renting": Estimate.of("Renting", "dollars", {"renting": [rented]}),
        "paid": Estimate.of("When owning has paid", "months", {"break-even": [paid]}),
    }
    together = min(count, owner.cluster.devices_per_node)
    joined = None
    if price.kind != "given" and price.devices < together:
        offers, _ = newest_prices(owner.cluster.accelerator, o.provider, o.region, "on_demand", o.prices)
        whole = [offer for offer in offers if offer.devices >= together]
        if whole:
            joined = owner.offer(min(whole, key=lambda offer: offer.dollars_per_device_hour))
    share = _least_share(owner, float(rent_dollars(months=o.months, **rent)))
    return {"chosen": chosen, "joined": joined, "break_even_utilization": share, "made": made}


def _least_share(owner: _Owner, rent_all: float) -> float:
    """Share of the hours from which owning is cheaper: both are linear in it."""
    idle, busy = (
        float(_owned(owner.cluster, replace(owner.options, utilization=u), owner.central)[0].total) for u in (1e-3, 1.0)
    )
    slope = (busy - idle) / (1 - 1e-3)
    at_none = idle - 1e-3 * slope
    return at_none / (rent_all - slope) if rent_all > slope else inf


# -- what things come to ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Paid:
    """Dollars of a thing on machines that are owned, and on rented ones (None: no rent is known)."""

    owned: float
    rented: float | None


@checked(run=None)
def per_run(owned: Ownership, run: TrainingEstimate | TrainingRun | float) -> Paid:
    """What a training run or a fine-tune costs.

    run   an estimate of `llmhw.train`, its `run`, or device-hours

    >>> per_run(rent_or_buy("h100", price=2.5), 1000).rented
    2500.0
    """
    hours = run.run.device_hours if isinstance(run, TrainingEstimate) else getattr(run, "device_hours", run)
    hours = check_number("run", hours, above=True, most=1e18)
    rates = (owned.dollars_per_device_hour, owned.rented_device_hour)
    own, rent = (
        None if rate is None else float(run_dollars(device_hours=hours, dollars_per_device_hour=rate)) for rate in rates
    )
    return Paid(own or 0.0, rent)


@checked(service=None)
def per_million_tokens(owned: Ownership, service: ServingEstimate | float) -> Paid:
    """What a million output tokens cost while the machines are at work.

    service   an estimate of `llmhw.serve` on as many devices, or tokens/s of all of them
    """
    speed = service.point.tokens_per_second if isinstance(service, ServingEstimate) else service
    speed = check_number("service", speed, above=True, most=1e18)
    rates = (owned.dollars_per_device_hour, owned.rented_device_hour)
    own, rent = (
        None
        if rate is None
        else float(dollars_per_million_tokens(dollars_per_hour=rate * owned.devices, tokens_per_second=speed))
        for rate in rates
    )
    return Paid(own or 0.0, rent)


@checked(users=None)
def per_user_month(owned: Ownership, users: ServingEstimate | float) -> Paid:
    """What a user costs in a month.

    users   how many share the machines, or an estimate of `llmhw.serve`: as many as are at work at its load
    """
    count = users.point.concurrency if isinstance(users, ServingEstimate) else users
    shares = check_number("users", count, above=True, most=1e18) * owned.months
    return Paid(owned.dollars / shares, None if owned.chosen is None else owned.chosen.dollars / shares)
