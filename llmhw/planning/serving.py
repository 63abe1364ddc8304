"""Plans of serving: machines, layouts, formats and replicas for a load and a service level, held against limits.

All layouts in all formats on all devices are timed at once (`llmhw.serving_grid`); what is shown are single predictions
(`llmhw.serve`) of the few that come first. Where nothing else is said the level is kept over the whole 80 % interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import ceil, inf, isfinite
from typing import Any

import numpy as np

from llmhw.checks import check_items, check_object
from llmhw.cost import RunOptions
from llmhw.hardware import Cluster
from llmhw.job import ServingJob, limits_of
from llmhw.language import said
from llmhw.margin import known_error
from llmhw.ownership import HOURS_PER_MONTH
from llmhw.planning import places as places_of
from llmhw.planning.demand import Demand
from llmhw.planning.places import Offer
from llmhw.planning.question import (
    BY,
    FREE,
    USUAL,
    Pick,
    Question,
    Site,
    caches_tried,
    choice_of,
    context_of,
    draft_of,
    formats_tried,
    settled,
    sites,
    why,
    words,
)
from llmhw.planning.result import (
    Bound,
    Choice,
    Figure,
    Limits,
    Plan,
    Refusal,
    missed,
    ranked,
    smallest_changes,
    undominated,
)
from llmhw.precision import formats_in, weight_bytes
from llmhw.search import Found, ServingSpace, search
from llmhw.service import (
    check_lengths,
    dollars_per_million_tokens,
    engine_for,
    provenance,
    simulate_service,
    time_interval,
)
from llmhw.serving_grid import Rooms, ServingGrid, grids
from llmhw.units import LLMHWError, check_choice, check_count, format_quantity

COLUMNS = {
    "dollars_per_hour": "an hour",
    "dollars_per_million": "a million",
    "purchase": "to buy",
    "ttft": "first token",
    "tokens_per_second_per_user": "tokens/s a user",
    "concurrency": "users",
    "headroom": "memory free",
}
_FRONT = {"dollars_per_hour": False, "dollars_per_million": False, "tpot": False, "devices": False, "headroom": True}


# -- formats and layouts ----------------------------------------------------------------------


_MOST_STAGES = 8


def layouts(job: ServingJob, most: int, given: Mapping[str, Any]) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Ways to lay one instance out on at most so many devices: attention_dp, ep, and pairs of tp and pp.

    Powers of two, and experts either on all ranks or cut by all; what is given is fixed, or tried.
    """
    ServingSpace.of(job, 1, dict(given))  # refuses names and values that are none
    sizes = [2**i for i in range(most.bit_length()) if 2**i <= most]
    axes = {name: _values(given.get(name)) for name in ("tp", "pp", "attention_dp", "ep")}
    experts = limits_of(job.model, job.cluster).experts
    layers = job.software.split == "layers"
    tps = axes["tp"] or ([1] if layers else [n for n in sizes if job.model.heads % n == 0])
    pps = axes["pp"] or [n for n in sizes if n <= min(job.model.num_layers, most if layers else _MOST_STAGES)]
    pairs = [(tp, pp) for tp, pp in product(tps, pps) if tp * pp <= most]
    dps = axes["attention_dp"] or [1]
    for dp, ep in product(dps, axes["ep"] or [1]):
        yield dp, ep, [(tp, pp) for tp, pp in pairs if tp * pp * dp <= most]
    if experts > 1 and not (axes["attention_dp"] or axes["ep"]) and not layers:
        for n in (n for n in sizes if n > 1 and experts % n == 0):
            if 1 in tps and not axes["tp"]:
                yield n, n, [(1, pp) for pp in pps if n * pp <= most]  # attention shared, experts spread
            if n in tps:
                yield 1, n, [(n, pp) for pp in pps if n * pp <= most]


def _values(given: Any) -> list[int]:
    if given is None:
        return []
    return [given] if isinstance(given, int) else list(check_items("layout", given, empty=False))


# -- the search -------------------------------------------------------------------------------


@dataclass
class Searched:
    """What was found at all sites, and why nothing was."""

    picks: list[Pick]
    refused: dict[str, tuple[float, str]]
    tried: int = 0
    valid: int = 0
    fitting: int = 0
    formats: dict[str, dict[str, None]] = field(default_factory=dict)  # by device, those that keep level and limits


_ROUNDS = 4


def most_within(grid: ServingGrid, question: Question, longer: Any, users: Any = inf) -> dict[str, Any]:
    """The most users of one instance that keep the level, to a few per cent; with their times, by interpolation.

    longer   factor on predicted times, with one user and with several: arrays
    users    of an instance at most

    `low` keeps the level, `high` does not (or is one more than fit); 0 where not even one user does.
    """
    ttft, tpot = (next((b.limit for b in question.level if b.figure == f), inf) for f in ("ttft", "tpot"))
    service = grid.service(question.demand.input_tokens, question.demand.output_tokens)
    alone, several = longer

    def missed(n: Any) -> tuple[Any, list[Any]]:
        times = list(service.answers(np.maximum(n, 1), "parts").parts.values())
        factor = np.where(n > 1, several, alone)
        worst = np.maximum(times[0] / ttft, times[1] / tpot) * factor
        return np.broadcast_to(worst, grid.shape), [np.broadcast_to(t, grid.shape) for t in times]

    capacity = np.minimum(grid.capacity, users)
    low, high = np.minimum(capacity, 1.0), capacity.copy()
    worst, times = missed(low)
    low_worst, low = worst, np.where(worst <= 1, low, 0.0)
    worst, full = missed(high)
    keeps = worst <= 1
    times = [np.where(keeps, b, a) for a, b in zip(times, full, strict=True)]
    low, high, high_worst = np.where(keeps & (low > 0), high, low), np.where(keeps, high + 1, high), worst
    for i in range(_ROUNDS):
        open_ = (low > 0) & (high - low > 1) & (high / np.maximum(low, 1) > 1.05)
        if not open_.any():
            break
        share = np.log(1 / low_worst) / np.log(np.maximum(high_worst, 1 + 1e-9) / low_worst)
        share = np.where(np.isfinite(share) & (i % 3 < 2), np.clip(share, 0.02, 0.98), 0.5)
        guess = np.exp(np.log(np.maximum(low, 1)) * (1 - share) + np.log(np.maximum(high, 2)) * share)
        n = np.where(open_, np.clip(np.floor(guess), low + 1, np.maximum(high - 1, low + 1)), np.maximum(low, 1))
        worst, made = missed(n)
        up, down = open_ & (worst <= 1), open_ & (worst > 1)
        low, low_worst = np.where(up, n, low), np.where(up, worst, low_worst)
        high, high_worst = np.where(down, n, high), np.where(down, worst, high_worst)
        times = [np.where(up, b, a) for a, b in zip(times, made, strict=True)]
    return {"low": low, "high": high, "ttft": times[0], "tpot": times[1], "each": times[2], "alone": low_worst}


def searched(question: Question, where: Sequence[Site], progress: Callable[[int, int], None] | None) -> Searched:
    """Every layout and format at every site; of each site the cheapest, the quickest and the smallest."""
    demand, job = question.demand, question.job
    quality = demand.quality or "high"
    weights, kv = formats_tried(job), caches_tried(job)
    accepted = set(formats_tried(job, quality)), set(caches_tried(job, quality))
    mask = np.array([w in accepted[0] for w in weights])[:, None] & np.array([k in accepted[1] for k in kv])[None]
    if not mask.any():
        raise LLMHWError(f"quality={quality!r} leaves no format that {job.engine} reads; use usable or any")
    context = demand.context or demand.tokens
    rooms, found = Rooms(weights, kv, demand.tokens, context), Searched([], {})
    smallest = min((n for n, ok in zip(weights, mask.any(axis=1), strict=True) if ok), key=_bits(job))
    least = weight_bytes(job.model, smallest)
    most = {site: _most(question, site, least) for site in where}
    every = list(layouts(job, max(most.values()), question.space))
    for i, (dp, ep, pairs) in enumerate(every):
        rows, kinds = _rows(question, most, dp, ep, pairs, found)
        for devices, _, grid in grids(rows, weights, kv, rooms):
            longer = _longer(grid, question.sure)
            made = most_within(grid, question, longer, _share(question, grid, [kinds[k][0] for k in devices])) | {
                "longer": np.broadcast_to(longer[1], grid.shape)
            }
            made["held"] = grid.held(np.maximum(made["low"], 1))
            for d, kind in enumerate(devices):
                for site in kinds[kind]:
                    _picked(question, site, grid, made, d, mask, found)
        if progress is not None:
            progress(i + 1, len(every))
    return found


def _share(question: Question, grid: ServingGrid, where: Sequence[Site]) -> Any:
    """Users of an instance at most: all there are, or its share of them where the devices are given."""
    users = question.demand.users
    if users is None:
        return inf
    each = [[ceil(users / max(1, (s.devices or 0) // job.devices)) if job else 1 for job in row]
            for s, row in zip(where, grid.jobs, strict=True)]  # fmt: skip
    return np.array(each, dtype=float)[:, :, None, None]


def _most(question: Question, site: Site, least_bytes: float) -> int:
    """Most devices of an instance that are tried at a site: those of a fast network, more where these do not suffice.

    least_bytes   of the weights in the smallest format that is acceptable
    """
    device = site.offer.device
    node = (site.offer.own or site.offer.place(site.step).cluster).devices_per_node
    needed = least_bytes / (0.8 * device.memory_bytes)
    experts = limits_of(question.job.model, question.job.cluster).experts
    most = node if needed <= node and experts == 1 else max(2 * node, 16 if experts == 1 else 32)
    if site.devices:
        most = site.devices
    return max(1, min(most, 144, question.limits.most_devices or most))


def _rows(
    question: Question, where: Mapping[Site, int], dp: int, ep: int, pairs: Sequence[tuple[int, int]], found: Searched
) -> tuple[list[list[ServingJob | None]], list[list[Site]]]:
    """Jobs by kind of devices and layout, and the sites of each kind: those that differ in price only share one."""
    rows: dict[Any, list[ServingJob | None]] = {}
    kinds: dict[Any, list[Site]] = {}
    for site in where:
        sizes = [tp * pp * dp for tp, pp in pairs]
        made = {n: site.instance(n) if n <= where[site] else None for n in dict.fromkeys(sizes)}
        key = (site.offer.device.name, site.devices, tuple(_alike(c) for c in made.values()))
        kinds.setdefault(key, []).append(site)
        if key not in rows:
            rows[key] = [None] * len(pairs)
            for i, (tp, pp) in enumerate(pairs):
                cluster = made[sizes[i]]
                if cluster is not None:
                    known = any(job is not None for job in rows[key])
                    rows[key][i] = _job(question, site, cluster, known, found, tp=tp, pp=pp, attention_dp=dp, ep=ep)
    return list(rows.values()), list(kinds.values())


def _alike(c: Cluster | None) -> Any:
    """What of an instance's devices decides its speed."""
    return c and (c.devices, c.devices_per_node, c.intra_link, c.inter_link if c.nodes > 1 else None)


def _job(
    question: Question, site: Site, cluster: Cluster, known: bool, found: Searched, **layout: Any
) -> ServingJob | None:
    """The job of one instance in 16 bit, as formats are axes of their own; None where a rule or a fact refuses it."""
    half = cluster.accelerator.half_format
    length = context_of(question) if question.job.software.paged else question.demand.tokens
    try:
        made = replace(question.job, cluster=cluster, weights=half, kv=half, max_model_len=length, **layout)
        if made.tp * made.attention_dp > 1:
            cluster.link_for(made.tp * made.attention_dp)
        if not known:
            engine_for(made)  # raises where a fact of the device is not known
    except LLMHWError as error:
        _refuse(found, site, 3.0, str(error))
        return None
    return made


def _bits(job: ServingJob) -> Callable[[str], float]:
    return lambda name: formats_in(job.model, name)[0].bits_per_weight


def _refuse(found: Searched, site: Site, grade: float, why: str) -> None:
    """Remember why a device is not taken: the reason that is nearest to being none."""
    name = site.offer.device.name
    if name not in found.refused or grade < found.refused[name][0]:
        found.refused[name] = grade, why


def _longer(grid: ServingGrid, sure: bool) -> tuple[Any, Any]:
    """How much longer than predicted times may be, of one user and of several."""

    def factor(load: int) -> Callable[[ServingJob], float]:
        return lambda job: (time_interval(job, load) or (1.0, 1.0))[1] if sure else 1.0

    alone, several = (np.maximum(grid.each(factor(load)), 1.0) for load in (1, 2))
    return alone, several


def _picked(
    question: Question, site: Site, grid: ServingGrid, made: Mapping[str, Any], d: int, mask: Any, found: Searched
) -> None:
    """The best of one site in one grid: the cheapest, the quickest for each user, the fewest devices."""
    limits, low = question.limits, made["low"][d]
    sizes = np.array([0 if job is None else job.devices for job in grid.jobs[d]])[:, None, None]
    stages = np.array([1 if job is None else job.pp for job in grid.jobs[d]])[:, None, None]
    there = np.broadcast_to(sizes > 0, low.shape)
    found.tried += int(low.size)
    found.valid += int((there & grid.able[d]).sum())
    fits = there & (grid.capacity[d] > 0)
    found.fitting += int(fits.sum())
    able = mask & fits
    if not able.any():
        usable = mask & there & np.broadcast_to(grid.able[d], low.shape)
        short = grid.short[d][usable]
        if short.size:
            _refuse(found, site, 2 + float(short.min()) / 1e15, _short_words(grid, d, usable))
        return
    keeps = able & (low > 0)
    if not keeps.any():
        worst = np.where(able & np.isfinite(made["alone"][d]), made["alone"][d], inf)
        at = _place_of(worst)
        _refuse(found, site, 1 + min(worst[at], 1e6) / 1e7, _late_words(question, made, d, at))
        return
    figures, replicas, keeps = _figures_at(question, site, grid, made, d, sizes, keeps)
    inside = keeps.copy()
    for bound in limits.bounds():
        if bound.figure in figures:
            value = figures[bound.figure]
            inside &= value >= bound.limit if bound.least else value <= bound.limit
    among = inside if inside.any() else keeps
    if not among.any():
        _refuse(found, site, 1.5, said("{devices} are too few for the load", devices=site.devices))
        return
    kept = inside.any(axis=(0, 2))
    taken = found.formats.setdefault(site.offer.device.name, {})
    taken |= {name: None for name, ok in zip(grid.weights, kept, strict=True) if ok}
    seen = set()
    for name in dict.fromkeys([question.figure, question.price_figure, "devices"]):
        value = -figures[name] if name == "tokens_per_second" else figures[name]
        # its balance over stages is ideal: a pipeline must be better by a tenth
        value = np.where(stages > 1, value + 0.1 * abs(value), value)
        near = among & (value <= np.where(among, value, inf).min() + 0.03 * abs(np.where(among, value, inf).min()))
        # of what is within 3 % the smallest instance: more stages need more users at once to be as even as is assumed
        order = np.where(near, sizes + (value - value[near].min()) / (1e-9 + 0.05 * abs(value[near].min())), inf)
        at = _place_of(order)
        if at not in seen:
            seen.add(at)
            job, n = grid.at((d, *at)), float(low[at])
            told = _drafted(job, n, {name: float(value[at]) for name, value in figures.items()})
            found.picks.append(Pick(site, job, n, int(replicas[at]), float(made["high"][d][at]), told))


def _figures_at(
    question: Question, site: Site, grid: ServingGrid, made: Mapping[str, Any], d: int, sizes: Any, keeps: Any
) -> tuple[dict[str, Any], Any, Any]:
    """Figures of all layouts of a site, the instances of each, and which of those that keep the level are enough."""
    demand, low, each = question.demand, made["low"][d], made["each"][d]
    with np.errstate(all="ignore"):
        replicas = np.ceil(_wanted(demand, low, each / made["longer"][d]))
        if site.devices:
            able = site.devices // np.maximum(sizes, 1)
            keeps = keeps & (replicas <= able) if demand.loaded else keeps
            devices, replicas = np.broadcast_to(site.devices, low.shape), np.broadcast_to(able, low.shape)
        else:
            together = np.lcm(np.maximum(sizes, 1), site.step)  # whole machines, full of instances
            devices = np.ceil(sizes * replicas / together) * together
            replicas = np.floor(devices / np.maximum(sizes, 1))
        an_hour = devices * site.price
        total = each * replicas
        figures = {
            "dollars_per_hour": an_hour,
            "dollars_per_month": an_hour * HOURS_PER_MONTH,
            "dollars_per_million": dollars_per_million_tokens(dollars_per_hour=an_hour, tokens_per_second=total),
            "purchase": devices * site.purchase[0],
            "devices": devices.astype(float),
            "tpot": made["tpot"][d],
            "ttft": made["ttft"][d],
            "tokens_per_second": total,
            "tokens_per_second_per_user": 1 / made["tpot"][d],
            "concurrency": low * replicas,
            "headroom": 1 - made["held"][d] / site.offer.device.memory_bytes,
        }
    return figures, replicas, keeps


def _place_of(values: Any) -> tuple[int, ...]:
    """Where the least is."""
    return tuple(int(i) for i in np.unravel_index(int(values.argmin()), values.shape))


def _drafted(job: ServingJob, users: float, values: Mapping[str, float]) -> dict[str, Figure]:
    """Figures as the arrays have them, with their intervals; what is not known is left out."""
    low, high = time_interval(job, int(users)) or (1.0, 1.0)
    error = known_error("paged" if job.software.paged else "llama.cpp")
    found = {}
    for name, value in values.items():
        if not isfinite(value):
            continue
        if name in ("ttft", "tpot"):
            found[name] = Figure(value, "seconds", value * low, value * high)
        elif name == "dollars_per_million":
            found[name] = Figure(value, "dollars", value * low, value * high)
        elif name.startswith("tokens_per_second"):
            found[name] = Figure(value, "tokens/s", value / high, value / low)
        elif name == "headroom":
            found[name] = Figure(value, "fraction", 1 - (1 - value) * (1 + error), 1 - (1 - value) * (1 - error))
        else:
            found[name] = Figure(value, "count" if name in ("devices", "concurrency") else "dollars")
    return found


def _wanted(demand: Demand, users: Any, tokens_per_second: Any) -> Any:
    """Instances that the load takes."""
    if demand.users is not None:
        return demand.users / users
    if demand.rate is not None:
        return demand.rate * demand.output_tokens / tokens_per_second
    return np.ones_like(users)


def _short_words(grid: ServingGrid, d: int, usable: Any) -> str:
    short = np.where(usable, grid.short[d], inf)
    at = _place_of(short)
    job = grid.at((d, *at))
    amount = format_quantity(float(max(short[at], 0.0)), "bytes")
    text = "does not fit: short by {amount} on each of {devices} in {weights}"
    return said(text, amount=amount, devices=job.devices, weights=job.weights)


def _late_words(question: Question, made: Mapping[str, Any], d: int, at: Any) -> str:
    told = []
    for bound in question.level:
        seconds = float(made[bound.figure][d][at])
        figure, time = said(_SPOKEN[bound.figure]), format_quantity(seconds, "seconds")
        told.append(said("{figure} {time} of {limit:g} s", figure=figure, time=time, limit=bound.limit))
    text = (
        "too slow over the interval even for one user: {times}"
        if question.sure
        else "too slow even for one user: {times}"
    )
    return said(text, times=", ".join(told))


_SPOKEN = {"ttft": "first token", "tpot": "next token"}

# -- queues -----------------------------------------------------------------------------------

_MOST_SIMULATED = 2000


def queued(question: Question, pick: Pick, rounds: int = 6) -> tuple[Choice | None, str]:
    """The choice with as many instances as it takes for a percentile of requests at random; None: not within reach."""
    demand, site = question.demand, pick.site
    percentile = (demand.percentile or 0) / 100
    level: dict[str, Any] = {b.argument: b.limit for b in question.level}
    replicas, share = pick.replicas, 0.0
    lengths: dict[str, Any] = {"input_tokens": demand.input_tokens, "output_tokens": demand.output_tokens}
    for _ in range(rounds):
        choice = choice_of(question, replace(pick, replicas=replicas))
        job: ServingJob = choice.job
        load: dict[str, Any] = {"rate": demand.rate}
        if demand.users is not None:
            load = {"concurrency": -(-demand.users // job.replicas) * job.replicas}
        found = simulate_service(job, **load, requests=_MOST_SIMULATED, **lengths, **level).result
        share = found.goodput or 0.0
        if share >= percentile and found.keeps_up is not False:
            note = said("{share} of requests at random keep the limits", share=format_quantity(share, "fraction"))
            return replace(choice, note=note), note
        if site.devices:
            break
        replicas = max(replicas + 1, ceil(replicas * 1.2))
    text = "{share} of requests keep the limits, not {percentile:g}"
    told = said(text, share=format_quantity(share, "fraction"), percentile=percentile)
    return None, f"{choice.place}, {choice.layout}: {told}"


# -- the plan ---------------------------------------------------------------------------------


def plan_serving(
    job: ServingJob,
    clusters: Any = None,
    *,
    demand: Demand = USUAL,
    limits: Limits = FREE,
    run: RunOptions = places_of.ANY,
    best: int = 5,
    by: str = "cost",
    counts: Sequence[int] = (),
    offers: Iterable[Offer] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **space: Any,
) -> Plan:
    """Which machines to take for a service, how it lies on them, how many users it serves and what it costs.

    job        what is served; its layout is replaced, and its formats where they were not asked for
    clusters   where: clusters, names of devices, or names with counts; default: whatever can be rented, or bought where
               `limits` has a purchase price
    demand     lengths, load, service level, quality; without a level one is assumed
    limits     what the answer may take
    run        prices
    best       how many choices to return
    by         cost, latency, devices or speed: what counts among those that hold
    counts     numbers of devices; default: as many as the load takes
    offers     ways to have devices; default: all that the catalog has a price of
    progress   called with what is done and what there is to do
    space      axes of the layout that are fixed, or values to try: tp, pp, ep, attention_dp

    >>> from llmhw import model
    >>> found = plan_serving(ServingJob(model=model("llama-3-8b"), cluster="h100"), ["h100", "l4"])
    >>> found.best.figures["tpot"].most <= 0.05
    True
    """
    check_object("job", job, "ServingJob")
    check_choice("by", by, BY)
    for what, thing, kind in (("demand", demand, "Demand"), ("limits", limits, "Limits"), ("run", run, "RunOptions")):
        check_object(what, thing, kind)
    check_count("best", best, most=1000)
    for n in counts:
        check_count("counts", n, most=10**6)
    check_lengths(job, demand.input_tokens, demand.output_tokens)
    job, demand, notes = settled(job, demand)
    if by == "latency" and not demand.loaded:
        demand = replace(demand, users=1)
        notes.append("assumed users=1: what is quickest for one")
    question = Question(job, demand, limits, run, by, space, tuple(counts))
    where = sites(question, clusters, offers)
    if not where:
        raise LLMHWError("no device can be considered: none has such a price; give gpu, or other limits")
    with np.errstate(all="ignore"):
        found = searched(question, where, progress)
        if not _any_holds(question, found):  # nothing holds over its interval: what holds at the estimate
            loose = replace(question, sure=False)
            likely = searched(loose, where, progress)
            if not found.picks or _any_holds(loose, likely):
                question, found = loose, likely
        if not found.picks:
            relaxed = replace(question, demand=replace(demand, slo_ttft=None, slo_tpot=None))
            made = searched(relaxed, where, progress)
            if not demand.loaded:  # nothing is quicker than one user
                relaxed = replace(relaxed, demand=replace(relaxed.demand, users=1))
            made.picks += searched(replace(relaxed, by="latency"), where, None).picks
            return answered(question, made, best, notes, found)
    return answered(question, found, best, notes)


def _any_holds(question: Question, found: Searched) -> bool:
    """Whether one of the picks keeps level and limits."""
    return any(not draft_of(question, pick).misses(question.bounds) for pick in found.picks)


_MOST_FRONT = 5


def answered(
    question: Question, found: Searched, best: int, notes: list[str], elsewhere: Searched | None = None
) -> Plan:
    """The plan, from all that was picked; `elsewhere`: what kept the level nowhere, of which these are the nearest."""
    bounds, figure = question.bounds, question.figure
    drafts, most = _drafts(question, found.picks), figure == "tokens_per_second"
    order = ranked(list(drafts), bounds, figure, most=most)
    notes = list(notes)
    if not question.sure and order:
        text = "nothing keeps the level over its whole 80 % interval: these keep it at the estimate"
        notes.insert(0, said(text))
    shown, late = _shown(question, order, drafts, best)
    shown = ranked(shown, bounds, figure, most=most) or shown
    notes += [f"{c.place}: {c.note}" for c in shown if c.note]
    if shown:
        notes += provenance(shown[0].job)[0]
    front = _spread(undominated(order, _FRONT))
    if question.demand.loaded:
        front = [choice_of(question, drafts[c]) for c in front]
    front = undominated([*shown, *(c for c in front if not c.misses(bounds))], _FRONT)
    changes: list[str] = []
    if not shown:
        late += too_much(drafts, bounds)
        changes = [
            f"{', '.join(b.asks(c.figures[b.figure].value) for b in moved)}: {c.place}, {c.layout}"
            for c, moved in smallest_changes(list(drafts), bounds)[:3]
        ]
    taken = set() if elsewhere else {p.site.offer.device.name for p in found.picks}
    refused = sorted((elsewhere or found).refused.items(), key=lambda r: r[1])
    return Plan(
        title=_title(question),
        choices=tuple(shown),
        front=tuple(front),
        columns=_columns(question),
        bounds=bounds,
        refused=(*late, *(Refusal(name, why) for name, (_, why) in refused if name not in taken)),
        why=tuple(why(question, shown)),
        changes=tuple(changes),
        notes=tuple(notes),
        counts={"tried": found.tried, "valid": found.valid, "fitting": found.fitting},
    )


def _shown(
    question: Question, order: Sequence[Choice], drafts: Mapping[Choice, Pick], best: int
) -> tuple[list[Choice], list[Refusal]]:
    """The first choices as single predictions, with the queues that a percentile asks for; those that queues refuse."""
    shown: list[Choice] = []
    late: list[Refusal] = []
    for c in order:
        if len(shown) == best or len(late) > best:
            break
        if question.demand.percentile is None:
            shown.append(choice_of(question, drafts[c]))
            continue
        made, why = queued(question, drafts[c])
        if made is None:
            late.append(Refusal(c.place, why))
        else:
            shown.append(made)
    return shown, late


def _spread(front: Sequence[Choice]) -> list[Choice]:
    """Some of a front, of each device the first."""
    return list({c.job.cluster.accelerator.name: c for c in reversed(front)}.values())[::-1][:_MOST_FRONT]


def _drafts(question: Question, picks: Sequence[Pick]) -> dict[Choice, Pick]:
    """Choices of the picks, each layout of a site with as many users once."""
    found: dict[Any, Pick] = {}
    for pick in picks:
        offer = pick.site.offer
        machine = offer.machine and (offer.machine.provider, offer.machine.name)
        where = (offer.device.name, machine, pick.site.price, pick.site.devices)
        key = (*where, pick.job.devices, words(pick.job), pick.concurrency)
        found.setdefault(key, pick)
    return {draft_of(question, pick): pick for pick in found.values()}


def too_much(choices: Iterable[Choice], bounds: Sequence[Bound]) -> list[Refusal]:
    """Choices that break limits: those that break the fewest first, of these the nearest; of a device the first."""
    broken = [(c, misses) for c in choices if (misses := c.misses(bounds))]
    found: dict[str, Refusal] = {}
    for c, _ in sorted(broken, key=lambda one: (len(one[1]), max(one[1].values()))):
        found.setdefault(c.job.cluster.accelerator.name, Refusal(c.place, missed(c, bounds, COLUMNS | _OTHER_WORDS)))
    return list(found.values())


_OTHER_WORDS = {"tpot": "next token", "devices": "devices", "purchase": "to buy"}


def _columns(question: Question) -> dict[str, str]:
    return {name: head for name, head in COLUMNS.items() if name != "purchase" or question.limits.purchase is not None}


def _title(question: Question) -> str:
    demand = question.demand
    load = said("what one instance serves")
    if demand.users is not None:
        load = said("{users:,} users", users=demand.users)
    elif demand.rate is not None:
        load = said("{rate:g} requests/s", rate=demand.rate)
    return said(
        "plans to serve {model} by {engine}: {input:,} tokens in, {output:,} out, {load}",
        model=question.job.model.name,
        engine=question.job.engine,
        input=demand.input_tokens,
        output=demand.output_tokens,
        load=load,
    )


# -- the layout of a job on devices that are there --------------------------------------------


def planned_layout(
    job: ServingJob,
    *,
    input_tokens: int,
    output_tokens: int,
    concurrency: int | None = None,
    slo_ttft: float | None = None,
    slo_tpot: float | None = None,
) -> tuple[ServingJob, str]:
    """The job in the layout with most tokens a second at a load, where none was asked for; and what was chosen.

    A pipeline is taken only where nothing else fits or keeps the limits. An engine that deals layers to all devices,
    and a single device, leave nothing to choose.

    >>> job, why = planned_layout(ServingJob(model="llama-3-70b", cluster=("h100", 4)), input_tokens=1000,
    ...                           output_tokens=500, concurrency=8)
    >>> job.tp, why.startswith("tp=4 assumed")
    (4, True)
    """
    asked_for = any(job.was_asked(name) for name in ("tp", "pp")) or job.ep > 1 or job.attention_dp > 1
    n = job.cluster.devices
    if asked_for or n == 1 or not job.software.paged or job.split == "layers":
        return job, ""
    fixed: dict[str, Any] = {"weights": str(job.weights), "kv": str(job.kv), "best": 50, "concurrency": concurrency}
    fixed |= {"input_tokens": input_tokens, "output_tokens": output_tokens}
    experts = limits_of(job.model, job.cluster).experts
    ways = [{"ep": 1, "attention_dp": 1}]
    ways += [{"ep": n, "attention_dp": n, "tp": 1}] if experts > 1 and experts % n == 0 else []
    tried, found = 0, list[Found]()
    level: dict[str, Any] = {"slo_ttft": slo_ttft, "slo_tpot": slo_tpot}
    # stages come last: their balance is taken for ideal
    for limits, stages in product((level, {}), ({"pp": 1}, {})):
        for way in ways:
            try:
                made = search(job, job.cluster, **fixed, **limits, **way, **stages)
            except LLMHWError:
                continue
            tried, found = tried + made.valid, [*found, *made.best]
        if found:
            break
    if not found:
        return job, ""
    best = min(found, key=lambda f: f.seconds).job
    layout: dict[str, Any] = {name: int(getattr(best, name)) for name in ("tp", "pp", "ep", "attention_dp")}
    text = "{layout} assumed: most tokens/s at this load of {tried} layouts"
    if best.replicas > 1:
        text = "{layout} assumed, {replicas} replicas: most tokens/s at this load of {tried} layouts"
    sizes = ", ".join(f"{name}={size}" for name, size in layout.items() if size > 1 or name == "tp")
    return replace(job, **layout), said(text, layout=sizes, replicas=best.replicas, tried=tried)
