"""A plan of serving on plain numbers: the cheapest places first, until nothing that is left can be cheaper.

The formulas are those of `llmhw plan serve`, of one job at a time; the space is small: one format, tensor-parallel
ranks of one node. What cannot be cheaper than what was found, by its bandwidth and arithmetic alone, is never timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from heapq import heapify, heappop, heappush
from math import floor, inf, lcm
from typing import Any

from llmhw.checks import check_object
from llmhw.cost import RunOptions
from llmhw.engine import memory_rate
from llmhw.hardware import Cluster
from llmhw.job import ServingJob
from llmhw.memory import kv_cache
from llmhw.ownership import HOURS_PER_MONTH
from llmhw.planning import places as places_of
from llmhw.planning.demand import Demand
from llmhw.planning.places import Offer, Place
from llmhw.planning.question import FREE, Question, Site, context_of, settled, sites, why, words
from llmhw.planning.result import Choice, Figure, Limits, Plan, Refusal, missed
from llmhw.precision import weight_bytes
from llmhw.rates import serving_constants
from llmhw.service import Service, check_lengths, dollars_per_million_tokens, engine_for, lender, serve, time_interval
from llmhw.serving import memory_of
from llmhw.units import LLMHWError, check_count, format_quantity

RANKS = (1, 2, 4, 8)
COLUMNS = {
    "dollars_per_hour": "an hour",
    "purchase": "to buy",
    "tokens_per_second_per_user": "tokens/s a user",
    "ttft": "first token",
    "tokens_per_second": "tokens/s in all",
}


# -- what no engine does better ---------------------------------------------------------------


def users_by_bandwidth(
    *, seconds: Any, ranks: Any, weight_bytes: Any, weights_per_second: Any, cache_bytes: Any, cache_per_second: Any
) -> Any:
    """Most users to whom so many ranks can write a token in a time, by the roofline; below 1 not even one.

    seconds        for a token of each
    weight_bytes   that a pass reads at least, of all ranks, at `weights_per_second` of each
    cache_bytes    of one sequence, at `cache_per_second`

    >>> round(users_by_bandwidth(seconds=0.05, ranks=1, weight_bytes=16e9, weights_per_second=3.2e12, cache_bytes=0.5e9,
    ...                          cache_per_second=2e12))
    180
    """
    return (seconds - weight_bytes / weights_per_second / ranks) * ranks * cache_per_second / cache_bytes


def users_by_arithmetic(*, seconds: Any, ranks: Any, flops_per_second: Any, params: Any, tokens: Any) -> Any:
    """Most users whose requests so many ranks can compute in the time that each may take, at the peak.

    seconds   of a request, from its arrival to its last token
    params    that a token uses
    tokens    of a request, in and out

    >>> users_by_arithmetic(seconds=24, ranks=1, flops_per_second=1e15, params=8e9, tokens=1500)
    1000.0
    """
    return seconds * ranks * flops_per_second / (2 * params * tokens)


# -- one instance -----------------------------------------------------------------------------


@dataclass(eq=False)
class Instance:
    """One engine on so many devices: how many users fit, and how late their tokens are.

    What was timed is kept, for the next question is hardly another.
    """

    job: ServingJob
    demand: Demand
    timed: dict[int, tuple[float, float, float]] = field(default_factory=dict)
    decoded: dict[int, float] = field(default_factory=dict)
    ranges: dict[Any, Range] = field(default_factory=dict)

    @cached_property
    def capacity(self) -> int:
        """Sequences that run at once; 0 where not one of the longest that must fit does, or it does not start."""
        job, demand, held = self.job, self.demand, memory_of(self.job)
        if held.refusal or (demand.context is not None and not held.sequences(demand.context)):
            return 0
        return min(held.sequences(demand.tokens), job.max_sequences) * job.attention_dp

    @cached_property
    def short(self) -> float:
        """Bytes by which one sequence is too large for a device."""
        held, tokens = memory_of(self.job), self.demand.context or self.demand.tokens
        return max(held.cache_bytes(tokens, i) - left for i, left in enumerate(held.left_bytes))

    @cached_property
    def service(self) -> Service:
        """What times it."""
        return Service(self.job, engine_for(self.job), self.demand.input_tokens, self.demand.output_tokens, replicas=1)

    @cached_property
    def longer(self) -> tuple[float, float]:
        """The most of measured over predicted times, of one user and of several."""
        alone, several = (max(1.0, (time_interval(self.job, n) or (1.0, 1.0))[1]) for n in (1, 2))
        return alone, several

    def times(self, users: int) -> tuple[float, float, float]:
        """Seconds until the first token, and between two; tokens a second of all."""
        if users not in self.timed:
            first, following, every = self.service.answers(users, "parts").parts.values()
            self.timed[users] = float(first), float(following), float(every)
        return self.timed[users]

    def decoding(self, users: int) -> float:
        """Seconds of a pass that decodes alone: what no token is quicker than."""
        if users not in self.decoded:
            self.decoded[users] = float(self.service.decoding(users).total)
        return self.decoded[users]

    def within(self, ttft: float, tpot: float, *, sure: bool) -> Range:
        """What is known of how many users keep these limits."""
        key = ttft, tpot, sure
        if key not in self.ranges:
            made = Range(self.capacity, ttft, tpot, self.longer if sure else (1.0, 1.0))
            for users, found in self.timed.items():
                made.learn(users, made.lateness(users, found[0], found[1]))
            for users, seconds in self.decoded.items():
                if (late := made.lateness(users, 0.0, seconds)) > 1:
                    made.learn(users, late)
            self.ranges[key] = made
        return self.ranges[key]


@dataclass(eq=False)
class Range:
    """Users of an instance that keep limits: so many are known to, and more than `most` are known not to."""

    most: int
    ttft: float
    tpot: float
    longer: tuple[float, float]
    least: int = 0
    seen: list[tuple[int, float]] = field(default_factory=list)

    def lateness(self, users: int, first: float, following: float) -> float:
        """The worse of two times over its limit; above 1 it is missed."""
        return max(first / self.ttft, following / self.tpot) * self.longer[users > 1]

    def learn(self, users: int, late: float) -> None:
        """More users are no slower for each: what so many miss by a factor, that many fewer do not keep either."""
        if late <= 1:
            self.least = max(self.least, min(users, self.most))
        else:
            self.most = min(self.most, users - 1, int(users / late) if users > 2 else users - 1)
            # a number that was timed and keeps its limits counts, where tiles of products make a step between
            self.least = min(self.least, users - 1)
            self.most = max(self.most, self.least)
        self.seen.append((users, late))

    def next_try(self, most: int) -> int:
        """Users to time next, of at most so many: where the line through the last two meets the limit."""
        high = min(self.most, most)
        if len(self.seen) < 2:
            return high
        (n1, w1), (n2, w2) = self.seen[-2:]
        meets = n2 + (1 - w2) * (n1 - n2) / (w1 - w2) if w1 != w2 else high
        return min(max(floor(meets), self.least + 1), high)


@lru_cache(maxsize=16)
def _kept(job: ServingJob, demand: Demand) -> dict[Cluster, Instance | str]:
    """The instances of a job that were looked at, by their devices."""
    return {}


def _instance(job: ServingJob, demand: Demand, cluster: Cluster) -> Instance | str:
    """One on devices, all of them its tensor-parallel ranks; of what is refused the reason."""
    ranks = cluster.devices
    try:
        made = replace(
            job, cluster=cluster, weights=str(job.weights), kv=str(job.kv), max_model_len=_longest(job, demand),
            tp=ranks, pp=1,
        )  # fmt: skip
        if ranks > 1:
            cluster.link_for(ranks)
        found = Instance(made, demand)
        if found.capacity:
            engine_for(made)
    except LLMHWError as error:
        return str(error)
    return found


def _longest(job: ServingJob, demand: Demand) -> int:
    question = Question(job, demand, FREE, places_of.ANY, "cost", {})
    return context_of(question) if job.software.paged else demand.tokens


# -- places -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Spot:
    """A site, with what of it decides what an instance may be and costs.

    each      dollars of a device, an hour or to buy
    node      devices of a node
    weights_per_second, cache_per_second   at which a device reads at most
    peak      FLOP/s of it in its fastest format
    """

    site: Site
    each: float
    node: int
    weights_per_second: float
    cache_per_second: float
    peak: float
    instances: dict[int, Cluster | None] = field(default_factory=dict)

    @classmethod
    def of(cls, site: Site, engine: str, bought: bool) -> Spot:
        """That of a site."""
        device = site.offer.device
        node = (site.offer.own or site.offer.place(site.step).cluster).devices_per_node
        known, rate = serving_constants(device, engine), memory_rate(device)
        peak = max(device.peaks.values(), default=inf)
        each = site.purchase[0] if bought else site.price
        return cls(site, each, node, rate * known.bandwidth, rate * known.cache, peak)

    def instance(self, ranks: int) -> Cluster | None:
        """The devices of an instance, without the network of others: offers of one device share its times."""
        if ranks not in self.instances:
            c = self.site.instance(ranks)
            self.instances[ranks] = c and Cluster(c.accelerator, c.devices, c.devices_per_node, c.intra_link)
        return self.instances[ranks]

    def beats(self, other: Spot) -> bool:
        """Whether it is the same device, no dearer, in as small numbers and as large nodes."""
        a, b = self.site, other.site
        return (
            a.offer.device.name == b.offer.device.name
            and b.step % a.step == 0
            and self.node >= other.node
            and a.devices == b.devices
            and a.instance(2) == b.instance(2)
        )


def _spots(where: Iterable[Site], engine: str, bought: bool) -> tuple[Spot, ...]:
    """The sites, the cheapest first, without those that a cheaper one beats."""
    kept: list[Spot] = []
    for spot in sorted((Spot.of(site, engine, bought) for site in where), key=lambda one: (one.each, one.site.step)):
        if spot.each < inf and not any(other.beats(spot) for other in kept):
            kept.append(spot)
    return tuple(kept)


@lru_cache(maxsize=8)
def _market(engine: str, bought: bool, run: RunOptions) -> tuple[Spot, ...]:
    """All that can be bought, or rented: kept, as it is the same for every question."""
    limits = Limits(purchase=1e15) if bought else FREE
    any_job = ServingJob(model="llama-3-8b", cluster="h100")  # type: ignore[arg-type]
    offers = None if bought or run == places_of.ANY else places_of.rentable(run)
    return _spots(sites(Question(any_job, Demand(), limits, run, "cost", {}), None, offers), engine, bought)


# -- the search -------------------------------------------------------------------------------


@dataclass(eq=False)
class Candidate:
    """So many ranks of a spot in an instance; more users than `able` none can have, by its rates alone."""

    spot: Spot
    ranks: int
    able: int
    instance: Instance | None = None
    range: Range | None = None

    def devices(self, each: int, users: int) -> int:
        """Devices of as many instances as have so many users each, in whole machines that are full of them."""
        together = lcm(self.ranks, self.spot.site.step)
        return -(-self.ranks * -(-users // each) // together) * together

    def dollars(self, each: int, users: int) -> float:
        """What they cost: an hour, or to buy."""
        return self.devices(each, users) * self.spot.each if each else inf

    def at_least(self, users: int) -> float:
        """What it costs at least, by what is known."""
        return self.dollars(self.able if self.range is None else self.range.most, users)

    def settled(self, users: int) -> bool:
        """Whether what it costs is known."""
        known = self.range
        return known is not None and known.least > 0 and self.dollars(known.least, users) == self.at_least(users)


@dataclass
class _Search:
    """The best-first search of one question."""

    question: Question
    best: int
    patience: float = inf
    found: dict[str, Candidate] = field(default_factory=dict)
    refused: dict[str, tuple[float, int, Callable[[], str]]] = field(default_factory=dict)
    tried: int = 0
    timed: int = 0
    complete: bool = True

    @cached_property
    def users(self) -> int:
        """How many there are."""
        return self.question.demand.users or 1

    @cached_property
    def lengths(self) -> Demand:
        """The demand without what one instance does not know."""
        return replace(self.question.demand, users=None, slo_ttft=None, slo_tpot=None)

    @cached_property
    def kept(self) -> dict[Cluster, Instance | str]:
        """The instances that were looked at, for this question and those before it."""
        return _kept(self.question.job, self.lengths)

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Seconds that the first token and the next may take."""
        found = {bound.figure: bound.limit for bound in self.question.level}
        return found.get("ttft", inf), found.get("tpot", inf)

    def candidates(self, where: Iterable[Spot], ranks: Sequence[int]) -> list[tuple[float, int, Candidate]]:
        """All of them, by what they cost at least."""
        job, demand = self.question.job, self.question.demand
        spec, (ttft, tpot) = job.model, self.limits
        params, most = spec.parameters, self.question.limits.most_devices or inf
        context = max(1, int(demand.input_tokens + demand.output_tokens / 2))
        cache = max(1.0, float(kv_cache(spec, seq_len=context, kv_format=str(job.kv)).total))
        stored = weight_bytes(spec, str(job.weights)) * (1 - job.weight_offload)
        read, whole = stored * params.active / params.total, ttft + tpot * demand.output_tokens
        found: list[tuple[float, int, Candidate]] = []
        for spot in where:
            memory = spot.site.offer.device.memory_bytes
            for n in ranks:
                if n > min(spot.node, spot.site.devices or n, most):
                    continue
                self.tried += 1
                reads = {"weights_per_second": spot.weights_per_second, "cache_per_second": spot.cache_per_second}
                able = min(
                    users_by_bandwidth(seconds=tpot, ranks=n, weight_bytes=read, cache_bytes=cache, **reads),
                    users_by_arithmetic(seconds=whole, ranks=n, flops_per_second=spot.peak, params=params.active,
                                        tokens=demand.tokens),
                    1e9,
                )  # fmt: skip
                if 0.9 * stored > n * memory:
                    self.refuse(spot, n, 3.0, lambda: _SHORT)
                elif able < 1:
                    self.refuse(spot, n, 2.0, lambda: _SLOW)
                else:
                    one = Candidate(spot, n, int(able))
                    found.append((one.at_least(self.users), len(found), one))
        return found

    def run(self, where: Iterable[Spot], ranks: Sequence[int]) -> None:
        """The cheapest of each device, until enough devices are found that nothing left is cheaper than."""
        heap = self.candidates(where, ranks)
        heapify(heap)
        while heap and len(self.found) < self.best:
            dollars, order, one = heappop(heap)
            name = one.spot.site.offer.device.name
            if name in self.found or one.at_least(self.users) == inf:
                continue
            if one.at_least(self.users) > dollars:  # more is known by now, from a candidate with as many ranks of it
                heappush(heap, (one.at_least(self.users), order, one))
                continue
            if one.settled(self.users):
                self.found[name] = one
            elif self.timed >= self.patience:
                self.complete = False
                break
            elif self._tightened(one):
                heappush(heap, (one.at_least(self.users), order, one))

    def _tightened(self, one: Candidate) -> bool:
        """Know more of a candidate; False: it is none."""
        if one.range is None or one.instance is None:
            return self._opened(one)
        known, made = one.range, one.instance
        users = known.next_try(self.users)
        self.timed += 1
        late = known.lateness(users, 0.0, made.decoding(users))
        if late <= 1:
            late = known.lateness(users, *made.times(users)[:2])
        known.learn(users, late)
        return known.most > 0 or self.refuse(one.spot, one.ranks, 1.0, lambda: self._late_words(made))

    def _opened(self, one: Candidate) -> bool:
        """Look at the memory of a candidate."""
        cluster = one.spot.instance(one.ranks)
        if cluster is None:
            return False
        if cluster not in self.kept:
            self.kept[cluster] = _instance(self.question.job, self.lengths, cluster)
        made = self.kept[cluster]
        if isinstance(made, str):
            return self.refuse(one.spot, one.ranks, 4.0, lambda: made)
        if not made.capacity:
            return self.refuse(one.spot, one.ranks, 2.5, lambda: _short_words(made))
        one.instance, one.range = made, made.within(*self.limits, sure=self.question.sure)
        one.range.most = max(min(one.range.most, one.able), one.range.least)
        return one.range.most > 0 or self.refuse(one.spot, one.ranks, 1.0, lambda: self._late_words(made))

    def _late_words(self, made: Instance) -> str:
        first, following, _ = made.times(1)
        told = {"ttft": ("first token", first), "tpot": ("next token", following)}
        said = [f"{told[b.figure][0]} {format_quantity(told[b.figure][1], 'seconds')} of {b.limit:g} s"
                for b in self.question.level]  # fmt: skip
        sure = " over the interval" if self.question.sure else ""
        return f"too slow{sure} even for one user: {', '.join(said)}"

    def refuse(self, spot: Spot, ranks: int, grade: float, reason: Callable[[], str]) -> bool:
        """Remember why a device is not taken: the reason that is nearest to being none. False, as it is none.

        It is the same in whatever order the questions come: that of the most ranks, worked out when all is known.
        """
        name = spot.site.offer.device.name
        if name not in self.refused or (grade, -ranks) < self.refused[name][:2]:
            self.refused[name] = grade, -ranks, reason
        return False


_REFUSED = 5  # devices of which it is said why they are not taken, the nearest
_UNSURE = "nothing keeps the level over its whole 80 % interval: these keep it at the estimate"
_SHORT = "does not fit: its weights are too large for so many"
_SLOW = "too slow: its bandwidth or its arithmetic alone takes longer"


def _short_words(made: Instance) -> str:
    if refusal := memory_of(made.job).refusal:
        return f"does not start: {refusal}"
    amount = format_quantity(max(made.short, 0.0), "bytes")
    return f"does not fit: short by {amount} on each of {made.job.tp} in {made.job.weights}"


# -- what it comes to -------------------------------------------------------------------------


def _choice(question: Question, one: Candidate) -> Choice:
    """A candidate with its figures: those of `llmhw.serve` at that load."""
    assert one.instance is not None
    assert one.range is not None
    demand, users, site, made = question.demand, question.demand.users or 1, one.spot.site, one.instance
    replicas = one.devices(one.range.least, users) // one.ranks
    place: Place = site.place(site.instance(one.ranks) or made.job.cluster, one.ranks, replicas)
    job = replace(made.job, cluster=place.cluster)
    if job.software.paged and demand.context is None:  # as many as fit: the engine must be told
        job = replace(job, max_model_len=None)
    service = replace(made.service, replicas=replicas)
    first, following, every = service.answers(users, "parts").parts.values()
    ttft, tpot, speed = float(first), float(following), float(every)
    low, high = time_interval(job, users) or (1.0, 1.0)
    figures = {
        "ttft": Figure(ttft, "seconds", ttft * low, ttft * high),
        "tpot": Figure(tpot, "seconds", tpot * low, tpot * high),
        "tokens_per_second_per_user": Figure(1 / tpot, "tokens/s", 1 / (tpot * high), 1 / (tpot * low)),
        "tokens_per_second": Figure(speed, "tokens/s", speed / high, speed / low),
        "devices": Figure(place.devices, "count"),
        "replicas": Figure(replicas, "count"),
        "concurrency": Figure(users, "count"),
    }
    if place.price is not None:
        hour = place.price.dollars_per_device_hour * place.devices
        million = float(dollars_per_million_tokens(dollars_per_hour=hour, tokens_per_second=speed))
        figures["dollars_per_hour"] = Figure(hour, "dollars")
        figures["dollars_per_month"] = Figure(hour * HOURS_PER_MONTH, "dollars")
        figures["dollars_per_million"] = Figure(million, "dollars", million * low, million * high)
    if site.purchase[0] < inf:
        figures["purchase"] = Figure(site.purchase[0] * place.devices, "dollars")
    asked: Mapping[str, Any] = {"input_tokens": demand.input_tokens, "output_tokens": demand.output_tokens}
    paid: Mapping[str, Any] = {"price": place.price} if place.price else {}

    def predicted() -> Any:
        found = serve(job, **asked, concurrency=users, **paid)
        if found.fits or not job.software.paged:
            return found
        short = replace(job, max_model_len=demand.context or demand.tokens)  # the longest that is asked for, no more
        return serve(short, **asked, concurrency=users, **paid)

    return Choice(str(place), words(job), job, figures, predicted, where=place)


def plan_small(
    job: ServingJob,
    *,
    demand: Demand,
    limits: Limits = FREE,
    run: RunOptions = places_of.ANY,
    best: int = 3,
    ranks: Sequence[int] = RANKS,
    offers: Iterable[Offer] | None = None,
    patience: float = inf,
) -> Plan:
    """The cheapest places, each of another device, that serve so many users in time.

    job      what is served; one format, the job's or 16 bit, one engine
    demand   with users; lengths and service level
    limits   `budget_per_hour` to rent, or `purchase` to buy; what else it has is held against what is found
    ranks    tensor-parallel ranks of an instance that are tried, within a node
    offers   ways to have devices; default: all that the catalog has a price of
    patience   how many loads are timed at most: a plan that is not `complete` goes on where it is asked for again

    The same as `llmhw plan serve` with --tp of these ranks, --pp 1 and these formats, but for the steps of a few per
    cent between numbers of users that it takes: this one is exact. No percentile, no rate.

    >>> from llmhw import model
    >>> job = ServingJob(model=model("llama-3-8b"), cluster=Cluster("h100"))
    >>> plan_small(job, demand=Demand(users=10)).best.figures["tpot"].most <= 0.05
    True
    """
    check_object("job", job, "ServingJob")
    check_object("demand", demand, "Demand")
    check_count("best", best, most=100)
    check_lengths(job, demand.input_tokens, demand.output_tokens)
    if demand.rate is not None or demand.percentile is not None:
        raise LLMHWError("demand must be of users here; `llmhw plan serve` takes a rate and a percentile")
    demand = replace(demand, users=demand.users or 1)
    job, demand, notes = settled(job, demand)
    question = Question(job, demand, limits, run, "cost", {})
    engine, bought = lender(job.software).constants, limits.purchase is not None
    where = _market(engine, bought, run)
    if offers is not None:
        where = _spots(sites(question, None, offers), engine, bought)
    made = _Search(question, best, patience)
    made.run(where, ranks)
    if not made.found and made.complete:
        loose = _Search(replace(question, sure=False), best, patience - made.timed)
        loose.run(where, ranks)
        made = loose if loose.found or not loose.complete else made
        notes += ["nothing keeps the level over its whole 80 % interval: these keep it at the estimate"] * bool(
            loose.found
        )
    choices = [_choice(question, one) for one in made.found.values()]
    inside = [c for c in choices if not c.misses(limits.bounds())]
    changes = []
    if choices and not inside:
        for c in choices[:1]:
            changes = [f"{', '.join(b.asks(c.figures[b.figure].value) for b in c.misses(limits.bounds()))}: {c.place}"]
    refused = [Refusal(c.place, missed(c, limits.bounds(), COLUMNS)) for c in choices if c not in inside]
    order = sorted(made.refused, key=lambda name: (made.refused[name][0], name))
    nearest = [name for name in order if name not in made.found][:_REFUSED]
    refused += [Refusal(name, made.refused[name][2]()) for name in nearest]
    columns = {n: head for n, head in COLUMNS.items() if n != "purchase" or limits.purchase is not None}
    return Plan(
        title=f"plans to serve {job.model.name}: {demand.input_tokens:,} tokens in, {demand.output_tokens:,} out, "
        f"{demand.users:,} users",
        choices=tuple(inside), front=(), columns=columns, bounds=question.bounds, refused=tuple(refused),
        why=tuple(why(question, inside)), changes=tuple(changes), notes=tuple(notes),
        counts={"places": made.tried}, complete=made.complete,
    )  # fmt: skip
