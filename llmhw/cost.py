"""The economics of a whole training run: time with failures, device-hours, dollars and energy.

The step time comes from elsewhere, measured or predicted; nothing here knows how a step is spent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from statistics import median
from typing import Any

from llmhw.catalog import read_table
from llmhw.checks import check_text, checked
from llmhw.formula import Report, Table, Term, formula, term
from llmhw.grids import Grid, emitted_kg, grid
from llmhw.hardware import PRICE_KINDS, Accelerator, Cluster, Price, PriceList, instances, old_price, prices
from llmhw.job import asked, check_fields, choice, documented, number
from llmhw.language import said
from llmhw.price_files import price_list
from llmhw.units import (
    GB,
    LLMHWError,
    ceil_div,
    check_choice,
    check_count,
    check_number,
    exp,
    expm1,
    format_quantity,
    format_range,
    maximum,
    plain_fields,
    shown,
    unknown_name,
    where,
)

# -- formulas ---------------------------------------------------------------------------------


@formula(source="definition: the last step may be a part of a batch", unit="count")
def training_steps(*, tokens: Any, tokens_per_step: Any) -> Any:
    """Optimizer steps of a run.

    tokens_per_step   global batch x sequence length

    >>> training_steps(tokens=366_000_000_000, tokens_per_step=2048 * 2048)
    87262
    """
    return ceil_div(tokens, tokens_per_step)


@formula(source="definition", unit="FLOP")
def run_flops(*, tokens: Any, flops_per_token: Any) -> Any:
    """Model FLOPs of a run.

    flops_per_token   forward and backward, without recompute

    >>> run_flops(tokens=15.6e12, flops_per_token=6 * 405e9)
    3.7908e+25
    """
    return tokens * flops_per_token


@formula(source="definition", unit="seconds")
def productive_seconds(*, steps: Any, step_seconds: Any) -> Any:
    """Time of a run's steps, each taken once: no failure, no checkpoint.

    >>> productive_seconds(steps=87262, step_seconds=105)
    9162510
    """
    return steps * step_seconds


@formula(source="definition", unit="seconds")
def checkpoint_write_seconds(*, checkpoint_bytes: Any, bytes_per_second: Any, blocking: Any = 1) -> Any:
    """How long a checkpoint holds training up.

    bytes_per_second   into storage, from all devices together
    blocking           share of the write during which training stands still: 1, or less when it is asynchronous

    >>> checkpoint_write_seconds(checkpoint_bytes=2.3e12, bytes_per_second=57.5e9)
    40.0
    """
    return blocking * checkpoint_bytes / bytes_per_second


@formula(source="failures of devices are independent, and one stops the job", unit="seconds")
def job_mtbf_seconds(*, mtbf_device_hours: Any, devices: Any) -> Any:
    """Mean time between the failures of a job.

    mtbf_device_hours   device-hours for each interruption, of whatever cause

    >>> job_mtbf_seconds(mtbf_device_hours=50677, devices=16384) / 3600
    3.09307861328125
    """
    return mtbf_device_hours * 3600 / devices


@formula(source="Daly 2006 (FGCS 22), the higher-order estimate; its first term is that of Young 1974", unit="seconds")
def daly_interval_seconds(*, write_seconds: Any, mtbf_seconds: Any) -> Any:
    """Training time between two checkpoints that makes the run shortest.

    write_seconds   time that a checkpoint holds training up

    Daly's own example, checkpoints of 5 minutes and a failure every 24 hours, gives 117 minutes (Young: 120):

    >>> round(daly_interval_seconds(write_seconds=300, mtbf_seconds=24 * 3600) / 60)
    117
    """
    ratio = (write_seconds / (2 * mtbf_seconds)) ** 0.5
    series = (2 * write_seconds * mtbf_seconds) ** 0.5 * (1 + ratio / 3 + ratio**2 / 9) - write_seconds
    return where(write_seconds < 2 * mtbf_seconds, series, mtbf_seconds)


@formula(source="Daly 2006 (FGCS 22), complete model: M e^(R/M) (e^((t+d)/M) - 1) / t, inverted", unit="fraction")
def goodput_fraction(*, interval_seconds: Any, write_seconds: Any, mtbf_seconds: Any, restart_seconds: Any = 0) -> Any:
    """Share of a run's wall-clock time that makes progress, for failures at random times.

    interval_seconds   training between two checkpoints, t
    write_seconds      what a checkpoint costs, d
    mtbf_seconds       mean time between failures of the job, M; they may hit a checkpoint or a restart too
    restart_seconds    from a failure until training goes on: detection, repair, loading; R

    Exact however frequent the failures are; a job that hardly ever finishes has a goodput near 0. While they are rare
    it is 1 - d/t - (t/2 + R)/M: the checkpoints, half an interval of lost work, and the restart.

    >>> round(goodput_fraction(interval_seconds=3600, write_seconds=40, mtbf_seconds=360_000, restart_seconds=600), 3)
    0.982
    >>> round(1 - 40 / 3600 - (3600 / 2 + 600) / 360_000, 3)
    0.982
    >>> goodput_fraction(interval_seconds=3600, write_seconds=40, mtbf_seconds=60, restart_seconds=600) < 1e-20
    True
    """
    attempt = maximum((interval_seconds + write_seconds) / mtbf_seconds, 1e-12)
    checkpoints = interval_seconds / (interval_seconds + write_seconds)
    repeats = attempt * exp(-attempt) / -expm1(-attempt)
    restarts = exp(-restart_seconds / mtbf_seconds)
    return maximum(checkpoints * repeats * restarts, 1e-200)


@formula(source="definition of goodput", unit="seconds")
def wall_seconds(*, productive_seconds: Any, goodput: Any) -> Any:
    """Expected wall-clock time of a run, with its checkpoints, failures and lost work.

    >>> wall_seconds(productive_seconds=9_000_000, goodput=0.9)
    10000000.0
    """
    return productive_seconds / goodput


@formula(source="failures come at a constant rate, in restarts too", unit="count")
def expected_failures(*, wall_seconds: Any, mtbf_seconds: Any) -> Any:
    """Failures that a run meets, on average.

    >>> round(expected_failures(wall_seconds=54 * 86400, mtbf_seconds=3.093 * 3600))
    419
    """
    return wall_seconds / mtbf_seconds


@formula(source="definition; devices are paid for while they wait, spare ones are not counted", unit="device-hours")
def run_device_hours(*, wall_seconds: Any, devices: Any) -> Any:
    """Device-hours that a run occupies.

    >>> run_device_hours(wall_seconds=54 * 86400, devices=16384)
    21233664.0
    """
    return wall_seconds * devices / 3600


@formula(source="definition", unit="dollars")
def run_dollars(*, device_hours: Any, dollars_per_device_hour: Any) -> Any:
    """Rent of the devices; storage, network and people are not in it.

    DeepSeek-V3 published 2.788 million H800 hours at $2:

    >>> run_dollars(device_hours=2_788_000, dollars_per_device_hour=2)
    5576000
    """
    return device_hours * dollars_per_device_hour


@formula(source="board power while training, and what the host draws for one device", unit="W")
def device_power_watts(*, tdp_watts: Any, power_fraction: Any, host_watts: Any = 0) -> Any:
    """Electrical power of one device with its share of the host.

    >>> device_power_watts(tdp_watts=700, power_fraction=0.85, host_watts=374)
    969.0
    """
    return tdp_watts * power_fraction + host_watts


@formula(source="power x time x PUE", unit="kWh")
def run_energy_kwh(*, device_hours: Any, watts: Any, pue: Any = 1) -> Any:
    """Electrical energy of a run.

    watts   of one device with its share of the host
    pue     power usage effectiveness: energy of the building over energy of the machines

    BLOOM's published 433,196 kWh are its device-hours at 400 W:

    >>> run_energy_kwh(device_hours=1_082_990, watts=400)
    433196.0
    """
    return device_hours * watts * pue / 1000


@formula(source="every device at its board power at once, and the host's draw; x PUE", unit="kW")
def room_peak_kw(*, devices: Any, tdp_watts: Any, host_watts: Any = 0, pue: Any = 1) -> Any:
    """The most electrical power that the room must give, its cooling included.

    >>> round(room_peak_kw(devices=8, tdp_watts=700, host_watts=374, pue=1.2), 2)
    10.31
    """
    return devices * (tdp_watts + host_watts) * pue / 1000


@formula(
    source="Palm 1938: failures at a constant rate, x mean time to repair, however that is distributed", unit="count"
)
def nodes_in_repair(*, devices: Any, mtbf_device_hours: Any, hardware_share: Any, repair_hours: Any) -> Any:
    """Nodes that are away for repair on average: a failed device takes its node with it.

    hardware_share   of the interruptions that need a part to be replaced or a machine to be taken out
    repair_hours     until the machine is back

    >>> round(nodes_in_repair(devices=16384, mtbf_device_hours=50677, hardware_share=0.78, repair_hours=96), 1)
    24.2
    """
    return devices / mtbf_device_hours * hardware_share * repair_hours


def poisson_quantile(mean: Any, cover: float) -> Any:
    """The smallest count that a Poisson variable of this mean exceeds in at most 1 - cover of all cases.

    >>> poisson_quantile(1.0, 0.99)
    4.0
    """
    from statistics import NormalDist

    if getattr(mean, "ndim", 0):
        import numpy

        return numpy.vectorize(poisson_quantile, otypes=[float])(mean, cover)
    if mean > 500:  # a normal variable is as good, and the sum below would begin at 0
        return float(ceil_div(mean + NormalDist().inv_cdf(cover) * mean**0.5, 1))
    chance = reached = exp(-mean)
    count = 0
    while reached < cover and chance > 0:  # rounding may keep the sum below a cover near 1
        count += 1
        chance *= mean / count
        reached += chance
    return float(count)


@formula(
    source="Palm 1938: nodes away for repair are Poisson; the smallest count with P(away <= spares) >= cover",
    unit="count",
    cover=0.999999,
)
def spare_nodes(*, nodes_away: Any, cover: Any = 0.99) -> Any:
    """Spare nodes with which a run never waits for a repair in that share of its time.

    nodes_away   on average

    >>> spare_nodes(nodes_away=24.2)
    36.0
    """
    return poisson_quantile(nodes_away, cover)


# -- what is assumed unless it is given -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Default:
    """A value that was assumed because it was not given, and where it comes from."""

    argument: str
    value: Any
    source: str

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else f"{self.value:,g}"
        return f"{self.argument}={value}: {said(self.source)}"


# Detection and diagnosis take less than 10 minutes there; loading and lost work another 15 at most.
_RESTART = Default(
    "restart_seconds", 600.0, "MegaScale (arXiv 2402.15627), section 6: detection and tests within 10 min"
)
# OLMo's H100s average just over 600 of their 700 W while training, about 85 % at most. Most model cards count 100 %.
POWER = Default("power_fraction", 0.85, "measured on H100 by Morrison et al. 2025 (arXiv 2503.05804), section 4.3")
# 0.76 x 10,200 W / 8 devices is 969 W; less 0.85 x 700 W for the GPU.
HOST = Default("host_watts", 374.0, "8 x H100 nodes draw 76 % of 10.2 kW (Newkirk et al. 2025, arXiv 2506.14551)")
# Of 419 unexpected interruptions about 78 % were confirmed or suspected faults of hardware.
_HARDWARE = Default("hardware_share", 0.78, "Llama 3 (arXiv 2407.21783), section 3.3.4: of unexpected interruptions")
_REPAIR = Default(
    "repair_hours", 96.0, "a part takes 3 to 5 days to be replaced (Non-uniform TP, arXiv 2504.06095, as quoted)"
)
PUE = Default("pue", 1.2, "Jupiter cluster in Morrison et al. 2025 (arXiv 2503.05804); 1.12 in their other one")
# 2.3 TB in 40 s from 384 GPUs. Llama 3's storage, 2 TB/s for 16,384 GPUs, is 0.12 GB/s for each.
_STORAGE_PER_DEVICE = 0.15 * GB
_STORAGE = "{rate:g} GB/s a device: BLOOM wrote 2.3 TB from 384 GPUs in 40 s (stas00/ml-engineering, fault-tolerance)"


def _mtbf(device: Accelerator) -> Default:
    """Device-hours per interruption: median of the published runs on this architecture, or of all."""
    rows = [row for row in read_table("failures") if row["device_hours_per_interruption"]]
    same = [row for row in rows if row["architecture"] == device.architecture]
    used = same or rows
    value = median(float(row["device_hours_per_interruption"]) for row in used)
    text = (
        "median of what is published for {kind} ({runs})"
        if same
        else "median of what is published for any device ({runs})"
    )
    runs = ", ".join(row["run"] for row in used)
    return Default("mtbf_device_hours", value, said(text, kind=device.architecture, runs=runs))


# -- prices -----------------------------------------------------------------------------------


def newest_prices(
    device: Accelerator,
    provider: str | None = None,
    region: str | None = None,
    kind: str = "on_demand",
    listed: PriceList | None = None,
) -> tuple[list[Price], str]:
    """The newest price of each machine with a device; without any, the reason.

    Prices that are more than a year older than the catalog's newest count only where there are no others.
    """
    offers = prices(device, listed=listed, quoted=provider is not None or region is not None)
    whose = listed.name if listed else "the catalog"
    for argument, value in (("provider", provider), ("region", region)):
        if value is None:
            continue
        known = sorted({getattr(offer, argument) for offer in offers})
        wanted = value.strip().casefold()
        offers = [offer for offer in offers if getattr(offer, argument).strip().casefold() == wanted]
        if not offers:
            at = f" at {provider}" if argument == "region" and provider is not None else ""
            has = f"{whose} has {', '.join(known)}" if known else f"{whose} has none; give price="
            raise LLMHWError(f"{argument}={value!r} has no price of {device.name}{at}; {has}")
    fitting = [offer for offer in offers if offer.kind == kind]
    newest = {(offer.provider, offer.instance): offer.date for offer in reversed(fitting)}  # prices() has newest first
    fitting = [offer for offer in fitting if offer.date == newest[offer.provider, offer.instance]]
    if fitting:
        return [offer for offer in fitting if not old_price(offer)] or fitting[:1], ""
    others = sorted({offer.kind for offer in offers})
    if others and (provider is not None or region is not None):
        raise LLMHWError(f"kind={kind!r} has no price of {device.name} there; {whose} has only {', '.join(others)}")
    text = "no {kind} price of {device} is known: {whose} has none; give price="
    if others:
        text = "no {kind} price of {device} is known: {whose} has only {others}"
    elif listed is None and (there := [p for p in prices(device, quoted=True) if p.kind == kind]):
        return [], said(
            "no {kind} price of {device} is known in dollars: region={region} takes that in another currency",
            kind=said(kind),
            device=device.name,
            region=there[0].region,
        )
    return [], said(text, kind=said(kind), device=device.name, whose=said(whose), others=", ".join(others))


def _chosen_price(
    device: Accelerator,
    count: int,
    provider: str | None,
    region: str | None,
    kind: str,
    listed: PriceList | None = None,
) -> tuple[Price | None, str]:
    """The cheapest of each machine's newest prices; or None and the reason.

    A job that no single machine holds asks for machines with a network that the catalog knows, if there are any.
    """
    fitting, unpaid = newest_prices(device, provider, region, kind, listed)
    machines = {(m.provider, m.name): m for m in instances(device) if m.network_bytes_per_second}
    if fitting and count > max((m.count for m in machines.values()), default=count):
        fitting = [offer for offer in fitting if (offer.provider, offer.instance) in machines] or fitting
    return min(fitting, key=lambda offer: offer.dollars_per_device_hour, default=None), unpaid


def common_provider(
    devices: Iterable[Accelerator], count: int = 1, kind: str = "on_demand", listed: PriceList | None = None
) -> str | None:
    """The provider with a price of every one of these devices, the cheapest of them all together; None: nobody has.

    listed   prices of one's own, instead of the catalog's

    >>> from llmhw import accelerator
    >>> common_provider([accelerator("h100"), accelerator("h200"), accelerator("b200")]) is not None
    True
    """
    wanted = list(devices)
    having = ({p.provider for p in prices(d, listed=listed) if p.kind == kind} for d in wanted)
    shared = set.intersection(*having) if wanted else set()
    chosen = {name: [_chosen_price(d, count, name, None, kind, listed)[0] for d in wanted] for name in sorted(shared)}
    sums = {name: sum(p.dollars_per_device_hour for p in found if p) for name, found in chosen.items()}
    return min(sums, key=lambda name: sums[name], default=None)


# -- the run ----------------------------------------------------------------------------------


def _between_failures(name: str, value: float) -> float:
    return inf if isinstance(value, float) and value == inf else check_number(name, value, above=True, most=1e12)


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Prices, failures and power of a run; what is not given is assumed, and listed in the result with its source.

    A price may be a `Price` too. For more devices than a machine has, the catalog's is that of a machine whose network
    is known, if there is any. Failures are those published for the device's architecture, else for any device.
    """

    price: float | Price | None = asked(  # noqa: RUF009
        "Dollars per device-hour; default: the cheapest of each machine's newest price in the catalog.", None, float
    )
    provider: str | None = asked("Only prices of this provider.", None, str, check_text)
    region: str | None = asked("Only prices in this region.", None, str, check_text)
    kind: str = choice(PRICE_KINDS, "Of the price.", "on_demand")
    prices: Any = asked(  # noqa: RUF009
        "A CSV file with prices of your own, instead of the catalog's: see `llmhw.price_files.read_prices`.",
        None,
        object,
        price_list,
    )
    mtbf_device_hours: float | None = asked(
        "Device-hours between failures; inf for none; default: as published.", None, float, _between_failures
    )
    restart_seconds: float | None = number(
        f"Seconds from a failure until training goes on, lost work apart; default: {_RESTART.value:g}.",
        most=1e9,
    )
    checkpoint_interval_seconds: float | None = asked(
        "Seconds of training between two checkpoints; default: Daly's optimum, at least one step.", None, float
    )
    checkpoint_blocking: float = number("Share of a checkpoint's write that holds training up.", 1.0, most=1)
    storage_bytes_per_second: float | None = number(
        f"Into storage, from all devices together; default: {_STORAGE_PER_DEVICE / GB:g} GB/s for each.",
        least=1,
        most=1e18,
    )
    power_fraction: float | None = number(
        f"Share of the board power (TDP) that is drawn; default: {POWER.value:g}.", above=True, most=1
    )
    host_watts: float | None = number(f"Power of the host, for one device; default: {HOST.value:g}.", most=1e6)
    pue: float | None = number(
        f"Energy of the building over that of the machines; default: {PUE.value:g}.", least=1, most=100
    )
    grid: str | None = asked(
        "Where the electricity is made: a country, or a state of the US; default: the world's mean.",
        None,
        str,
        lambda name, value: grid(value).name,
    )
    hardware_share: float | None = number(
        f"Share of failures that take a machine out for repair; default: {_HARDWARE.value:g}.", most=1
    )
    repair_hours: float | None = number(
        f"Until a failed machine is back, for the number of spares; default: {_REPAIR.value:g}.", most=1e5
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.mtbf_device_hours == inf and self.restart_seconds is not None:
            raise LLMHWError(
                f"restart_seconds={self.restart_seconds:g} has no effect where mtbf_device_hours=inf: leave one out"
            )


# Rows that are called otherwise than their formula.
_LABELS = {
    "compute": "flops",
    "without failures": "time without failures",
    "cost": "dollars",
    "peak power": "peak power",
}


@dataclass(frozen=True, slots=True, repr=False)
class TrainingRun(Report):
    """What a whole training run takes.

    days                          expected wall-clock time, with checkpoints, failures and lost work
    days_without_failures         the steps alone
    device_hours                  of the devices that train, over `days`
    dollars, price                rent, and the price it was computed with; None: see `reasons`
    energy_kwh, watts             of the building, and of one device with its host; None: see `reasons`
    co2_kg, grid                  of that energy, and where it is made
    peak_kw                       that the room must give: all devices at their board power, and the host's, x PUE
    spare_devices                 with which the run does not wait for repairs in 99 % of its time, in whole nodes; they
                                  are not in the cost. None for one node
    goodput                       share of `days` that makes progress
    checkpoint_seconds            how long a checkpoint holds training up
    checkpoint_interval_seconds   training between two checkpoints
    mtbf_seconds                  mean time between failures of the job; infinite if there are none
    failures_expected             over `days`
    *_low, *_high                 from the interval of the step time; None if none was given
    defaults                      what was assumed, with its source
    reasons                       why a field is None, by its name

    `explain("goodput")` shows a formula with this run's numbers; without a name, all of them.
    """

    accelerator: str
    devices: int
    tokens: int
    tokens_per_step: int
    steps: int
    flops: float
    step_seconds: float
    days: float
    days_without_failures: float
    device_hours: float
    dollars: float | None
    price: Price | None
    energy_kwh: float | None
    watts: float | None
    co2_kg: float | None
    grid: Grid
    peak_kw: float | None
    spare_devices: int | None
    goodput: float
    checkpoint_seconds: float
    checkpoint_interval_seconds: float
    mtbf_seconds: float
    failures_expected: float
    days_low: float | None
    days_high: float | None
    device_hours_low: float | None
    device_hours_high: float | None
    dollars_low: float | None
    dollars_high: float | None
    terms: tuple[Term, ...]
    defaults: tuple[Default, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def title(self) -> str:
        """One line that says what is trained where."""
        return said(
            "{tokens} tokens on {devices:,} x {device}",
            tokens=format_quantity(self.tokens, "count"),
            devices=self.devices,
            device=self.accelerator,
        )

    @property
    def finishes(self) -> bool:
        """Whether the job makes noticeable progress: more than a millionth of its time."""
        return self.goodput > 1e-6

    @property
    def verdict(self) -> str:
        """How long the run takes and what it costs, with the interval."""
        if not self.finishes:
            return said(
                "Never finishes: {share} of its time makes progress.", share=format_quantity(self.goodput, "fraction")
            )
        told = {name: (value, between) for name, value, between in self.rows()}
        parts = [told["time"]] + [told["cost"]] * (self.dollars is not None)
        return said(
            "{told}.", told=", ".join(value + (f" (80 %: {between})" if between else "") for value, between in parts)
        )

    def warnings(self) -> list[str]:
        """An old price, and failures that never let the job finish."""
        found = [said("the {old}", old=old) for old in [old_price(self.price)] if old]
        if not self.finishes:
            found.append(said("failures come faster than checkpoints: the run never finishes"))
        return found

    @property
    def names(self) -> list[str]:
        """What `explain` explains: the formulas' names, and those of the rows."""
        return list(dict.fromkeys([*(t.label for t in self.terms), *(row[0] for row in self.rows())]))

    def explain(self, name: str | None = None) -> str:
        """The formulas behind one quantity (or all), with this run's numbers, unit and source."""
        if name is not None and name not in self.names:
            raise unknown_name("name", name, self.names)
        label = _LABELS.get(name or "", name)
        found = [t.explain() for t in self.terms if label in (None, t.label)]
        if found:
            return "\n\n".join(found)
        _, value, origin = next(row for row in self.rows() if row[0] == name)
        source = f"\n[{self.price.source}]" if name == "price" and self.price else ""
        return f"{name} = {value}: {origin or self.reasons.get(label or '', 'see time')}{source}"

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values; an infinite time between failures is None."""
        found = plain_fields(self, "terms") | {
            "verdict": self.verdict,
            "defaults": {d.argument: {"value": d.value, "source": d.source} for d in self.defaults},
        }
        if not self.finishes:  # numbers without a meaning
            grows = ("days", "device_hours", "dollars")
            endless = (*grows, *(f"{name}_{end}" for name in grows for end in ("low", "high")))
            found |= dict.fromkeys((*endless, "energy_kwh", "co2_kg", "failures_expected"))
            found["reasons"] = {"days": self.verdict, **found["reasons"]}
        return found

    def rows(self) -> list[tuple[str, str, str]]:
        """Quantity, value, and its range or how it came about, as text."""

        def shown(name: str, unit: str, times: float = 1) -> tuple[str, str]:
            value, *ends = (getattr(self, name + end, None) for end in ("", "_low", "_high"))
            if value is None:
                return "unknown", ""
            if not self.finishes:
                return "never finishes", ""
            told, *between = format_range([times * v for v in (value, *ends) if v is not None], unit)
            return told, said(" to ").join(between)

        def seconds(value: float) -> str:
            return format_quantity(value, "seconds")

        saved = said(
            "a checkpoint of {time} every {interval}",
            time=seconds(self.checkpoint_seconds),
            interval=seconds(self.checkpoint_interval_seconds),
        )
        failures = "no failures" if self.mtbf_seconds == inf else said("one in {time}", time=seconds(self.mtbf_seconds))
        drawn = self.reasons.get("energy_kwh") or said("{power} a device", power=format_quantity(self.watts, "W"))
        return [
            ("steps", f"{self.steps:,}", said("{time} each", time=seconds(self.step_seconds))),
            ("compute", f"{self.flops:.3g} FLOP", "model FLOPs"),
            ("time", *shown("days", "seconds", 86400)),
            ("without failures", seconds(86400 * self.days_without_failures), "the steps alone"),
            ("goodput", format_quantity(self.goodput, "fraction"), saved),
            ("failures", shown("failures_expected", "count")[0], failures),
            ("device-hours", *shown("device_hours", "count")),
            ("cost", *shown("dollars", "dollars")),
            ("price", *self._price()),
            ("energy", shown("energy_kwh", "kWh")[0], drawn),
            ("CO2", shown("co2_kg", "kg")[0], str(self.grid)),
            ("peak power", shown("peak_kw", "kW")[0], "of the room: all devices at their limit"),
            ("spares", *self._spares()),
        ]

    def _spares(self) -> tuple[str, str]:
        if self.spare_devices is None:
            return "none", "one node: a failure stops it until it is repaired"
        more = format_quantity(self.spare_devices / self.devices, "fraction")
        why = said("{share} more, so that no repair is waited for; not in the cost", share=more)
        return said("{number:,} devices", number=self.spare_devices), why

    def _price(self) -> tuple[str, str]:
        if self.price is None:
            return "unknown", self.reasons["dollars"]
        rate = format_quantity(self.price.dollars_per_device_hour, "dollars")
        return rate, said("a device-hour, {origin}", origin=self.price.origin)

    def tables(self) -> list[Table]:
        return [Table(self.title, ("quantity", "value", "range or origin"), self.rows(), prose=True, head=())]

    def footer(self) -> list[str]:
        return [said("assumed {value}", value=d) for d in self.defaults]


def _steps_interval(interval: tuple[float, float] | None, estimate: float) -> tuple[float, float] | None:
    if interval is None:
        return None
    try:
        low, high = interval
    except (TypeError, ValueError):
        raise LLMHWError(f"step_seconds_interval={shown(interval)} must be two numbers, (low, high)") from None
    low = check_number("step_seconds_interval[0]", low, above=True)
    high = check_number("step_seconds_interval[1]", high, above=True)
    if not low <= estimate <= high:
        raise LLMHWError(f"step_seconds_interval=({low:g}, {high:g}) must hold step_seconds={estimate:g}")
    return low, high


def _ends(central: dict[str, Any], interval: tuple[float, float] | None, step: float) -> dict[str, Any]:
    """What grows with the step time, at both ends of its interval."""
    return {
        f"{name}_{end}": None if interval is None or value is None else value * (interval[i] / step)
        for name, value in central.items()
        for i, end in enumerate(("low", "high"))
    }


class _Ledger:
    """The terms of a run as they are made, and what was assumed for them."""

    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self.terms: list[Term] = []
        self.assumed: list[Default] = []

    def add(self, function: Any, label: str, **inputs: Any) -> Any:
        """The value of a formula."""
        self.terms.append(term(function, label, **inputs))
        return self.terms[-1].value

    def given(self, default: Default) -> float:
        """An option, or what is assumed for it."""
        value = getattr(self.options, default.argument)
        if value is not None:
            return float(value)
        self.assumed.append(default)
        return float(default.value)

    def goodput(self, device: Accelerator, devices: int, size: float, step: float, alone: float) -> dict[str, Any]:
        """Checkpoints of so many bytes, failures, and the share of time that they leave."""
        o = self.options
        source = said(_STORAGE, rate=_STORAGE_PER_DEVICE / GB)
        rate = self.given(Default("storage_bytes_per_second", _STORAGE_PER_DEVICE * devices, source))
        hours = max(self.given(_mtbf(device)), 1e-6)
        restart = self.given(_RESTART)
        inputs = {"checkpoint_bytes": size, "bytes_per_second": rate, "blocking": o.checkpoint_blocking}
        write = self.add(checkpoint_write_seconds, "checkpoint", **inputs)
        mtbf = self.add(job_mtbf_seconds, "time between failures", mtbf_device_hours=hours, devices=devices)
        if o.checkpoint_interval_seconds is not None:
            every = check_number("checkpoint_interval_seconds", o.checkpoint_interval_seconds, step, most=1e12)
        elif mtbf == inf:
            every = alone
        else:
            best = self.add(daly_interval_seconds, "checkpoint interval", write_seconds=write, mtbf_seconds=mtbf)
            every = max(best, step)
        every = min(every, alone)
        times = {"interval_seconds": every, "write_seconds": write, "mtbf_seconds": mtbf, "restart_seconds": restart}
        return {
            "goodput": self.add(goodput_fraction, "goodput", **times),
            "checkpoint_seconds": write,
            "checkpoint_interval_seconds": every,
            "mtbf_seconds": mtbf,
        }

    def energy(self, device: Accelerator, devices: int, hours: float) -> dict[str, Any]:
        """Power of a device and of the room, energy and CO2 of the run; None where the power is not published."""
        made = grid(self.options.grid or "World")
        if device.tdp_watts is None:
            return {"watts": None, "energy_kwh": None, "co2_kg": None, "peak_kw": None, "grid": made}
        drawn, host, pue = self.given(POWER), self.given(HOST), self.given(PUE)
        inputs = {"tdp_watts": device.tdp_watts, "power_fraction": drawn, "host_watts": host}
        watts = float(self.add(device_power_watts, "power", **inputs))
        energy = float(self.add(run_energy_kwh, "energy", device_hours=hours, watts=watts, pue=pue))
        if self.options.grid is None:
            self.assumed.append(
                Default(
                    "grid", made.name, said("{kg:g} kg a kWh, {source}", kg=made.kg_co2_per_kwh, source=made.source)
                )
            )
        room = {"tdp_watts": device.tdp_watts, "host_watts": host, "pue": pue}
        return {
            "watts": watts,
            "energy_kwh": energy,
            "co2_kg": float(self.add(emitted_kg, "CO2", energy_kwh=energy, kg_per_kwh=made.kg_co2_per_kwh)),
            "peak_kw": float(self.add(room_peak_kw, "peak power", devices=devices, **room)),
            "grid": made,
        }

    def spares(self, cluster: Cluster, mtbf_seconds: float) -> int | None:
        """Devices of the spare nodes that a run over several nodes needs."""
        if cluster.nodes == 1:
            return None
        away = self.add(
            nodes_in_repair,
            "nodes in repair",
            devices=cluster.devices,
            mtbf_device_hours=mtbf_seconds * cluster.devices / 3600,
            hardware_share=self.given(_HARDWARE),
            repair_hours=self.given(_REPAIR),
        )
        return int(self.add(spare_nodes, "spares", nodes_away=away)) * cluster.devices_per_node


@checked(step_seconds=None, flops_per_token=None, step_seconds_interval=None)
def training_run(
    options: RunOptions = RunOptions(),
    *,
    step_seconds: float,
    tokens_per_step: int,
    tokens: float,
    flops_per_token: float,
    checkpoint_bytes: float,
    cluster: Cluster,
    step_seconds_interval: tuple[float, float] | None = None,
    **changes: Any,
) -> TrainingRun:
    """Time, device-hours, dollars and energy of a whole training run, failures counted in.

    options                 prices, failures and power; `changes`: fields of `RunOptions`, in place of these
    step_seconds            one optimizer step; `step_seconds_interval`: its (low, high), carried into the results
    tokens_per_step         global batch x sequence length
    flops_per_token         model FLOPs, forward and backward
    checkpoint_bytes        what a run needs to go on: weights and optimizer states; gradients are not kept

    Every default is listed in the result with its source. A price or board power that is not known leaves its
    fields None with a reason; a provider or region without a price raises `LLMHWError` with those that have one.
    Evaluations, batch ramp-up, failed runs and repairs longer than `restart_seconds` are not counted.

    >>> bloom = training_run(step_seconds=105, tokens_per_step=2048 * 2048, tokens=366e9, flops_per_token=6 * 176e9,
    ...                      cluster=Cluster("A100 80GB SXM", 384), checkpoint_bytes=2.3e12, price=2.0)
    >>> print(f"{bloom.days:.0f} days, goodput {bloom.goodput:.3f}")
    109 days, goodput 0.971
    """
    o = replace(options, **changes)
    device, count = cluster.accelerator, cluster.devices
    step = check_number("step_seconds", step_seconds, above=True, most=1e12)
    interval = _steps_interval(step_seconds_interval, step)
    check_number("tokens", tokens, most=1e18)
    total, per_step = check_count("tokens", tokens), check_count("tokens_per_step", tokens_per_step)
    per_token = check_number("flops_per_token", flops_per_token, above=True, most=1e30)
    size = check_number("checkpoint_bytes", checkpoint_bytes, most=1e30)
    made = _Ledger(o)
    steps = made.add(training_steps, "steps", tokens=total, tokens_per_step=per_step)
    flops = made.add(run_flops, "flops", tokens=total, flops_per_token=per_token)
    alone = made.add(productive_seconds, "time without failures", steps=steps, step_seconds=step)
    kept = made.goodput(device, count, size, step, alone)
    wall = made.add(wall_seconds, "time", productive_seconds=alone, goodput=kept["goodput"])
    failures = made.add(expected_failures, "failures", wall_seconds=wall, mtbf_seconds=kept["mtbf_seconds"])
    hours = made.add(run_device_hours, "device-hours", wall_seconds=wall, devices=count)
    dollars = None
    paid, unpaid = price_of(device, count, o.price, o.provider, o.region, o.kind, o.prices)
    if paid is not None:
        rate = paid.dollars_per_device_hour
        dollars = float(made.add(run_dollars, "dollars", device_hours=hours, dollars_per_device_hour=rate))
    power = made.energy(device, count, hours)
    reasons = {} if paid else {"dollars": unpaid, "price": unpaid}
    if power["watts"] is None:
        reasons |= dict.fromkeys(
            ("energy_kwh", "watts", "co2_kg", "peak_kw"),
            said("the power of {device} is not published", device=device.name),
        )
    central: dict[str, Any] = {"days": wall / 86400, "device_hours": hours, "dollars": dollars}
    return TrainingRun(
        accelerator=device.name,
        devices=count,
        tokens=total,
        tokens_per_step=per_step,
        steps=steps,
        flops=float(flops),
        step_seconds=step,
        days_without_failures=alone / 86400,
        price=paid,
        failures_expected=failures,
        spare_devices=made.spares(cluster, kept["mtbf_seconds"]),
        terms=tuple(made.terms),
        defaults=tuple(made.assumed),
        reasons=reasons,
        **kept,
        **power,
        **central,
        **_ends(central, interval, step),
    )


@checked
def price_of(
    device: Accelerator,
    count: int,
    price: float | Price | None,
    provider: str | None,
    region: str | None,
    kind: str,
    prices: Any = None,
) -> tuple[Price | None, str]:
    """The price to compute with; or None, and the reason.

    prices   of one's own, instead of the catalog's: what `llmhw.price_files.read_prices` gives, or the path of its file
    """
    check_choice("kind", kind, PRICE_KINDS)
    listed = price_list("prices", prices)
    if price is None:
        return _chosen_price(device, count, provider, region, kind, listed)
    if listed is not None:
        raise LLMHWError(f"price={price!s} is given: leave prices={listed.name} out")
    if provider is not None or region is not None:
        raise LLMHWError(f"price={price!s} is given: leave provider and region out")
    if kind != "on_demand":
        raise LLMHWError(f"kind={kind!r} has no effect where price={price!s} is given: leave one out")
    if not isinstance(price, Price):
        dollars = check_number("price", price, above=True, most=1e6)
        price = Price(
            accelerator=device.name,
            devices=1,
            kind="given",
            dollars_per_hour=dollars,
            dollars_per_device_hour=dollars,
            status="given",
            source="the argument price",
        )
    if price.accelerator != device.name:
        raise LLMHWError(f"price={price!s} is one of {price.accelerator}, not of {device.name}")
    return price, ""
