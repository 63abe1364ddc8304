"""A plan of serving: what is asked, where it may run, in which formats, and what a choice comes to. No arrays here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from math import inf, isfinite, lcm
from typing import Any

from llmhw.cost import Default, RunOptions
from llmhw.hardware import Cluster, PurchasePrice, purchase_prices
from llmhw.job import ServingJob
from llmhw.language import said
from llmhw.ownership import HOURS_PER_MONTH
from llmhw.planning import places as places_of
from llmhw.planning.demand import QUALITY, Demand
from llmhw.planning.places import Offer, Place
from llmhw.planning.result import Bound, Choice, Figure, Limits
from llmhw.precision import checkpoint_name, formats_in, number_format, number_formats
from llmhw.service import ServingEstimate, engine_for, serve, time_interval
from llmhw.units import LLMHWError

BY = {"cost": "", "latency": "tpot", "devices": "devices", "speed": "tokens_per_second"}


# MLPerf Inference (loadgen/mlperf.conf): Llama 2 70B 2 s and 0.2 s on a server, 0.45 s and 0.04 s interactive.
_LEVEL = (
    Default("slo_ttft", 2.0, "as MLPerf Inference asks of Llama 2 70B on a server"),
    Default("slo_tpot", 0.05, "20 tokens/s a user; MLPerf Inference asks for 5 on a server, 25 for interactive use"),
)


@dataclass(frozen=True)
class Question:
    """What is asked, once all that was left open is settled."""

    job: ServingJob
    demand: Demand
    limits: Limits
    run: RunOptions
    by: str
    space: Mapping[str, Any]
    counts: tuple[int, ...] = ()
    sure: bool = True

    @cached_property
    def level(self) -> tuple[Bound, ...]:
        """The service level."""
        found = (("slo_ttft", "ttft", self.demand.slo_ttft), ("slo_tpot", "tpot", self.demand.slo_tpot))
        return tuple(Bound(name, figure, limit) for name, figure, limit in found if limit is not None)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """All limits."""
        return (*self.level, *self.limits.bounds())

    @property
    def price_figure(self) -> str:
        """What counts as cost."""
        if self.limits.purchase is not None:
            return "purchase"
        return "dollars_per_hour" if self.demand.loaded else "dollars_per_million"

    @property
    def figure(self) -> str:
        """The figure that ranks."""
        return BY[self.by] or self.price_figure


# Of formats of as many bits that are multiplied alike, the one that is most in use: the others are as fast.
_USUAL = (
    *("bf16", "fp16", "fp8", "int8", "gptq-8bit", "mxfp8", "int4-awq", "nvfp4", "mxfp4", "gptq-3bit"),
    *("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ3_M", "Q3_K_M", "Q2_K", "mlx-8bit", "mlx-6bit", "mlx-4bit", "mlx-3bit"),
)


def formats_tried(job: ServingJob, quality: str | None = None) -> list[str]:
    """Weight formats that are worth trying for a job's engine, of at least this quality; its checkpoint's own first."""
    if job.was_asked("weights"):
        return [str(job.weights)]
    engine, spec = job.software, job.model
    least = QUALITY[quality][0] if quality else 0
    names = [n for n in _USUAL if n in number_formats() and engine.reads(number_format(n))]
    names = [n for n in names if number_format(n).bits >= least]
    if engine.cells or not engine.default_weights:
        names = [n for n in names if (number_format(n).kind == "gguf") == engine.cells]
    if spec.checkpoint.quantized:
        own = checkpoint_name(spec)
        if all(engine.reads(fmt) for fmt in formats_in(spec, own)):
            bits = formats_in(spec, own)[0].bits
            return [own, *(n for n in names if n != own and number_format(n).bits < bits)]
    return names


def caches_tried(job: ServingJob, quality: str | None = None) -> list[str]:
    """Formats of the cache."""
    if job.was_asked("kv"):
        return [str(job.kv)]
    least = QUALITY[quality][1] if quality else 0
    found = [n for n in ("bf16", "fp8") if job.software.caches(n) and number_format(n).bits >= least]
    own = job.model.checkpoint.kv
    return list(dict.fromkeys([*found, *([own] if own and job.software.caches(own) else [])]))


@dataclass(frozen=True, eq=False)
class Site:
    """One way to have devices; `devices`: how many, where that is fixed."""

    offer: Offer
    devices: int | None = None

    @property
    def step(self) -> int:
        """Devices that are had together."""
        return self.offer.step

    @property
    def price(self) -> float:
        """Dollars of a device-hour; infinite where none is known."""
        return self.offer.price.dollars_per_device_hour if self.offer.price else inf

    @cached_property
    def purchase(self) -> tuple[float, PurchasePrice | None]:
        """Dollars to buy a device."""
        found = buying_price(self.offer.device.name)
        return (found.dollars if found else inf), found

    def instance(self, devices: int) -> Cluster | None:
        """The devices of one instance, if so many are joined here."""
        if self.devices is not None and self.devices % devices:
            return None
        try:
            if self.offer.machine is None and self.offer.own is None:
                return Cluster(self.offer.device, devices)
            if self.offer.machine is None:
                return _own(self.offer, devices)
            c = self.offer.place(-(-devices // self.step) * self.step).cluster
            if devices > self.offer.most:
                return None
            return Cluster(c.accelerator, devices, c.devices_per_node, c.intra_link, c.inter_link)
        except LLMHWError:
            return None

    def place(self, instance: Cluster, each: int, replicas: int) -> Place:
        """Enough devices for so many instances, in whole machines."""
        together = lcm(each, self.step)
        devices = self.devices or -(-each * replicas // together) * together
        node = instance.devices_per_node
        if devices > node and devices % node:
            node = max(n for n in range(each, node + 1) if devices % n == 0 and n % each == 0)
        c = Cluster(self.offer.device, devices, node, instance.intra_link, instance.inter_link)
        found = self.offer.place(self.step)
        machines = -(-devices // self.step) if self.offer.machine else 1
        return Place(c, self.offer.price, found.machine, machines)


def _own(offer: Offer, devices: int) -> Cluster:
    """Devices without a machine: a pair of cards may have a faster link than eight have."""
    own = offer.own
    if own is None:
        return Cluster(offer.device, devices)
    default = Cluster(offer.device).intra_link
    link = None if own.intra_link == default else own.intra_link
    return Cluster(offer.device, devices, own.devices_per_node, link, own.inter_link)


def buying_price(device: str) -> PurchasePrice | None:
    """What a device costs to buy: the newest price, of several the lowest.

    >>> buying_price("RTX 3090").kind
    'launch price'
    """
    found = purchase_prices(device)
    newest = max((p.date for p in found), default="")
    return min((p for p in found if p.date == newest), key=lambda p: p.dollars, default=None)


def sites(question: Question, clusters: Any, offers: Iterable[Offer] | None) -> list[Site]:
    """Where the job may run."""
    run = question.run
    if clusters is not None:
        found = []
        for place in places_of.given(clusters, run):
            offer = Offer(place.cluster.accelerator, place.price, own=place.cluster)
            found.append(Site(offer, place.devices if place.devices > 1 else None))
        return found
    if offers is None:
        rented = places_of.priced(run.prices, quoted=bool(run.provider or run.region))
        devices = _bought() if question.limits.purchase is not None else rented
        offers = [o for device in devices for o in places_of.offers(device, run)[0]]
    if question.limits.purchase is not None:  # one's own devices: one way to have each
        offers = {o.device.name: o for o in offers if buying_price(o.device.name)}.values()
        offers = [Offer(o.device, o.price, own=o.own or Cluster(o.device)) for o in offers]
    if question.counts:
        return [Site(o, n) for o in offers for n in question.counts if n % o.step == 0]
    return [Site(o) for o in offers]


def _bought() -> list[Any]:
    from llmhw.hardware import accelerators

    names = {p.accelerator for p in purchase_prices()}
    return [device for device in accelerators() if device.name in names]


@dataclass(frozen=True, eq=False)
class Pick:
    """One layout in one format at one site: numbers of an instance, as the arrays have them."""

    site: Site
    job: ServingJob
    concurrency: float
    replicas: int
    least_more: float  # the fewest users at which an instance is known to miss the level
    figures: Mapping[str, Figure] = field(default_factory=dict)


def draft_of(question: Question, pick: Pick) -> Choice:
    """A pick with the figures that the arrays have: those of a single prediction with so many users."""
    place = pick.site.place(pick.job.cluster, pick.job.devices, max(1, pick.replicas))
    job = replace(pick.job, cluster=place.cluster)
    load = {"concurrency": int(pick.concurrency) * job.replicas}
    return Choice(str(place), words(job), job, pick.figures, _served(question, job, place, load))


def _served(question: Question, job: ServingJob, place: Place, load: Mapping[str, Any]) -> Callable[[], Any]:
    """What makes the single prediction of a job."""
    demand = question.demand
    if job.software.paged and demand.context is None and not question.job.was_asked("max_model_len"):
        job = replace(job, max_model_len=None)
    lengths: dict[str, Any] = {"input_tokens": demand.input_tokens, "output_tokens": demand.output_tokens}
    paid: dict[str, Any] = {"price": place.price} if place.price else {"kind": question.run.kind}
    return partial(serve, job, **lengths, **load, **paid)


def choice_of(question: Question, pick: Pick) -> Choice:
    """The single prediction of a pick at the load; without one, with the most users that keep the level."""
    demand, job = question.demand, pick.job
    place = pick.site.place(job.cluster, job.devices, max(1, pick.replicas))
    job = replace(job, cluster=place.cluster)
    load: dict[str, Any] = {"rate": demand.rate}
    if demand.users is not None:
        load = {"concurrency": demand.users}
    elif demand.rate is None:
        load = {"concurrency": max(1, _most_users(question, pick)) * job.replicas}
    found = Choice(str(place), words(job), job, {}, _served(question, job, place, load))
    settled_job = found.estimate.job
    if settled_job.max_model_len is not None:  # what fits: the engine must be told
        settled_job = replace(settled_job, max_model_len=int(settled_job.max_model_len), tp=job.tp, pp=job.pp)
    made = replace(found, job=settled_job, figures=figures_of(found.estimate, place, pick.site))
    made.__dict__["estimate"] = found.estimate
    return made


def _most_users(question: Question, pick: Pick) -> int:
    """The most users of one instance that keep the level, between what the arrays say and what misses it."""
    from bisect import bisect_left

    from llmhw.service import Service

    job, demand, low = pick.job, question.demand, int(pick.concurrency)
    service = Service(job, engine_for(job), demand.input_tokens, demand.output_tokens, replicas=1)
    limits = {b.figure: b.limit for b in question.level}

    def late(n: int) -> bool:
        longer = (time_interval(job, n) or (1.0, 1.0))[1] if question.sure else 1.0
        point = service.at(n)
        return (
            max(point.ttft_seconds / limits.get("ttft", inf), point.tpot_seconds / limits.get("tpot", inf)) > 1 / longer
        )

    between = range(low + 1, max(low + 1, int(pick.least_more)))
    return low + bisect_left(between, True, key=late)


def figures_of(e: ServingEstimate, place: Place, site: Site) -> dict[str, Figure]:
    """All that a plan counts of one prediction, with the ends of its intervals."""
    low, high = e.interval or (1.0, 1.0)
    point, job = e.point, e.job
    tokens = e.tokens_per_second_interval or (point.tokens_per_second,) * 2

    def seconds(value: float) -> Figure:
        return Figure(value, "seconds", value * low, value * high)

    found = {
        "ttft": seconds(point.ttft_seconds),
        "tpot": seconds(point.tpot_seconds),
        "tokens_per_second": Figure(point.tokens_per_second, "tokens/s", *tokens),
        "tokens_per_second_per_user": Figure(
            point.tokens_per_second_per_user, "tokens/s", *(1 / (point.tpot_seconds * f) for f in (high, low))
        ),
        "concurrency": Figure(point.concurrency, "count"),
        "devices": Figure(place.devices, "count"),
        "replicas": Figure(job.replicas, "count"),
        "requests_per_second": Figure(e.requests_per_second, "a second"),
    }
    if place.price is not None:
        an_hour = place.price.dollars_per_device_hour * place.devices
        found["dollars_per_hour"] = Figure(an_hour, "dollars")
        found["dollars_per_month"] = Figure(an_hour * HOURS_PER_MONTH, "dollars")
        paid = e.dollars_per_million_tokens
        if paid is not None:
            ends = (paid * point.tokens_per_second / t for t in (tokens[1], tokens[0]))
            found["dollars_per_million"] = Figure(paid, "dollars", *ends)
    if isfinite(site.purchase[0]):
        found["purchase"] = Figure(site.purchase[0] * place.devices, "dollars")
    many = -(-point.concurrency // (job.replicas * job.attention_dp)) if point.concurrency else 1
    needed = e.memory.needed_bytes(min(e.tokens, job.context_limit), max(1, many))
    free = [1 - needed * f / e.memory.capacity_bytes for f in (1, 1 + e.memory.error, 1 - e.memory.error)]
    found["headroom"] = Figure(free[0], "fraction", free[1], free[2])
    return found


def words(job: ServingJob) -> str:
    """Formats, layout and instances, in words."""
    told = [said("{weights}, cache {kv}", weights=job.weights, kv=job.kv)]
    told += [f"{name} {getattr(job, name)}" for name in ("tp", "pp", "ep", "attention_dp") if getattr(job, name) > 1]
    if job.replicas > 1:
        told.append(said("{replicas} replicas", replicas=job.replicas))
    return ", ".join(told).replace("attention_dp", "attention dp")


def settled(job: ServingJob, demand: Demand) -> tuple[ServingJob, Demand, list[str]]:
    """The job and its demand with all that was left open, and what was assumed for that."""
    notes = []
    if demand.slo_ttft is None and demand.slo_tpot is None:
        demand = replace(demand, **{one.argument: one.value for one in _LEVEL})
        notes += [said("assumed {value}", value=one) for one in _LEVEL]
    if demand.quality is None and not job.was_asked("weights"):
        demand = replace(demand, quality="high")
        notes.append(said("assumed quality='high': weights of at least 8 bits, or the checkpoint's own format"))
    elif demand.quality is None:
        demand = replace(demand, quality="any")
    one = Cluster(job.cluster.accelerator)
    layout: dict[str, Any] = {"attention_dp": 1, "ep": 1, "tp": None, "pp": None}
    asked_for = {
        f.name: getattr(job, f.name) for f in fields(job) if f.name in ("weights", "kv") and job.was_asked(f.name)
    }
    kept = replace(job, cluster=one, engine=str(job.engine), **layout, **asked_for)  # of all devices one engine
    return kept, demand, notes


def context_of(question: Question) -> int:
    """max_model_len of every job: what must fit, or the model's own limit, of which engines take what fits."""
    return int(question.demand.context or question.job.context_limit)


def why(question: Question, shown: Sequence[Choice]) -> list[str]:
    """Why the first is first, and what the next gives up."""
    if not shown:
        return []
    first, name = shown[0], question.figure
    told = []
    spoken = said(_NAMES.get(name, name.replace("_", " ")))
    if name in first.figures:
        text = "{place} has the least {figure} of all that hold"
        if name == "tokens_per_second":
            text = "{place} has the most {figure} of all that hold"
        told.append(said(text, place=first.place, figure=spoken))
    if len(shown) > 1 and name in shown[1].figures:
        other = shown[1]
        told.append(said("next, {place}: {differs}", place=other.place, differs=_differs(first, other, name, spoken)))
    return told


_NAMES = {
    "dollars_per_hour": "dollars an hour",
    "dollars_per_million": "dollars a million tokens",
    "purchase": "dollars to buy",
    "tpot": "time between tokens",
    "devices": "devices",
    "tokens_per_second": "tokens/s",
}


def _differs(first: Choice, other: Choice, name: str, spoken: str) -> str:
    share = other.figures[name].value / first.figures[name].value - 1
    told = [
        said(
            "{share:.0%} more {figure}" if share >= 0 else "{share:.0%} fewer {figure}", share=abs(share), figure=spoken
        )
    ]
    gains = {"tokens_per_second_per_user": "{share:.0%} faster for each user", "headroom": "more free memory"}
    for figure, better in gains.items():
        a, b = first.figures.get(figure), other.figures.get(figure)
        if a and b and b.value > a.value * 1.05:
            told.append(said(better, share=b.value / a.value - 1))
    return "; ".join(told)


FREE, USUAL = Limits(), Demand()
