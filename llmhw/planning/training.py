"""Plans of training: machines for rent and layouts of a job, held against limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from llmhw.checks import check_flag, check_items, check_object
from llmhw.cost import Default, RunOptions, TrainingRun, newest_prices
from llmhw.flops import training_flops
from llmhw.hardware import Accelerator, Cluster, PriceList, accelerator, larger
from llmhw.job import Parallelism, TrainingJob
from llmhw.language import said
from llmhw.margin import known_error, visible_bytes
from llmhw.memory import lora_tensors, training_states, weights
from llmhw.ownership import HOURS_PER_MONTH, rent_or_buy
from llmhw.planning import places as places_of
from llmhw.planning.places import Offer, Place
from llmhw.planning.result import (
    Bound,
    Choice,
    Figure,
    Limits,
    Plan,
    Refusal,
    exclusion,
    missed,
    ranked,
    reasons,
    smallest_changes,
    undominated,
)
from llmhw.planning.usual import TUNED, usual_batch
from llmhw.search import Found, Space, search
from llmhw.training import TrainingEstimate, train, usual_tokens
from llmhw.units import LLMHWError, check_choice, check_count, check_number, format_quantity

BY = {"cost": "dollars", "time": "days", "devices": "devices", "energy": "energy_kwh"}
# Figures of the table, and those that count for the front: whether more is better.
COLUMNS = {
    "days": "time",
    "dollars": "cost",
    "dollars_per_hour": "an hour",
    "headroom": "memory free",
    "mfu": "MFU",
}
WORDS = {
    "dollars": "cost",
    "days": "time",
    "devices": "devices",
    "energy_kwh": "energy",
    "headroom": "memory free",
}
OTHER_WORDS = {
    "dollars_per_hour": "dollars an hour",
    "dollars_per_month": "dollars a month",
    "purchase": "price to buy",
    "peak_kw": "peak power",
}
_FRONT = {"days": False, "dollars": False, "devices": False, "headroom": True}

# -- what is assumed --------------------------------------------------------------------------

DEADLINES = {
    True: Default("deadline_days", 90.0, "as long as large models train: Llama 3 405B 54 days, BLOOM 118"),
    False: Default("deadline_days", 7.0, "a week for fine-tuning"),
}


# Axes of the layout that fine-tuning software leaves alone: it has ZeRO or FSDP.
_ALONE: Mapping[str, Any] = {"tp": (1,), "pp": (1,), "cp": (1,)}
# Not tried unless it is asked for: hardly any software cuts single experts, and it is never the fastest.
_WHOLE: Mapping[str, Any] = {"expert_tp": (1,)}


# -- candidates -------------------------------------------------------------------------------

# Of their peak devices have never trained more; what needs a higher share is not searched.
MOST_MFU = 0.85
MOST_DEVICES = 2**17
_DOUBLINGS = 5  # numbers of devices that are tried beyond the least


@dataclass(frozen=True)
class Question:
    """What is asked, once all that was left open is settled.

    ways     the job, or several ways to do it: the first that fits on a machine is taken there
    asked    the limits, those assumed among them
    """

    ways: tuple[TrainingJob, ...]
    limits: Limits
    run: RunOptions
    tokens: float
    by: str
    space: Mapping[str, Any]
    batch_given: bool = True
    tuning: bool = False
    assumed: tuple[Default, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def what(self) -> str:
        """The job in a few words."""
        job = self.ways[0]
        text = "plans to train {model}, {tokens} tokens, {batch:,} x {length:,} tokens a step"
        if self.tuning:
            text = "plans to fine-tune {model}, {tokens} tokens, {batch:,} x {length:,} tokens a step"
        tokens = format_quantity(self.tokens, "count")
        return said(text, model=job.model.name, tokens=tokens, batch=job.batch, length=job.seq_len)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """The limits; that memory suffices is always one of them."""
        asked = self.limits.bounds()
        return asked if any(b.figure == "headroom" for b in asked) else (*asked, FITS)


FREE = Limits()
FITS = Bound("headroom", "headroom", 0.0, least=True)


def least_days(job: TrainingJob, tokens: float, peak: float) -> float:
    """Days of a run on a device with that peak, were all of it used."""
    made = training_flops(job.model, batch=1, seq_len=job.seq_len)
    backward = float(made["backward"]) / (2 if job.frozen else 1)
    each = (float(made["forward"]) + backward) / job.seq_len
    return each * tokens / peak / 86400


def least_bytes(job: TrainingJob) -> float:
    """Bytes that all devices together hold at least: weights, gradients and optimizer, or frozen weights."""
    if job.frozen:
        return float(weights(job.model, job.base or job.cluster.accelerator.half_format).total)
    held = training_states(job.model, optimizer=job.optimizer, precision=job.precision)
    return float(held.total if job.parallelism.offload == "none" else held["weights"])


def sensible(question: Question, offer: Offer) -> list[int]:
    """Numbers of devices to try: from what memory and deadline ask for at the very best, a few doublings up."""
    device, limits = offer.device, question.limits
    job = on(question.ways[-1], Cluster(device))
    away = {"optimizer", "all"} & set(question.space.get("offload", ()))
    room = visible_bytes(device) * (1 - limits.headroom)
    by_memory = 0.0 if away else 0.9 * least_bytes(job) / room
    alone = least_days(job, question.tokens, device.peak(job.peak_format)) / MOST_MFU
    by_time = alone / limits.deadline_days if limits.deadline_days else 0.0
    least = max(by_memory, by_time, 1.0)
    most = min(limits.most_devices or MOST_DEVICES, MOST_DEVICES)
    if limits.budget_per_hour and offer.price:
        most = min(most, int(limits.budget_per_hour / offer.price.dollars_per_device_hour))
    found = offer.counts(least, most)
    return found[:_DOUBLINGS]


def on(job: TrainingJob, cluster: Cluster) -> TrainingJob:
    """The job on another cluster, with a layout that is always valid: a search replaces it."""
    single = Cluster(cluster.accelerator)
    return replace(job, cluster=single, parallelism=Parallelism(cp_kind=job.parallelism.cp_kind), micro_batch=1)


def dealt_batch(batch: int, devices: int) -> int:
    """A batch near to this one that an odd number of devices can share: a multiple of its odd part.

    >>> dealt_batch(1024, 64), dealt_batch(1024, 72), dealt_batch(1024, 96)
    (1024, 1008, 1056)
    """
    odd = devices
    while odd % 2 == 0:
        odd //= 2
    if odd == 1:
        return batch
    step = odd
    while step * 2 <= devices and abs(round(batch / (2 * step)) * 2 * step - batch) <= batch / 8:
        step *= 2
    return max(step, round(batch / step) * step)


# -- the search of one offer ------------------------------------------------------------------


@dataclass(frozen=True)
class Searched:
    """Layouts that were found at some places: of each the fastest that fits, with what it holds."""

    picks: tuple[tuple[Place, TrainingJob], ...]
    refused: tuple[Refusal, ...]
    tried: int = 0
    valid: int = 0
    fitting: int = 0


def search_places(question: Question, found: Sequence[Place]) -> Searched:
    """The layouts of a question at places of one kind; those of the first way that fits there."""
    picks: list[tuple[Place, TrainingJob]] = []
    counts: Counter[str] = Counter()
    left, short = list(found), dict[Place, str]()
    for way in question.ways:
        short = {}
        batches: dict[int, list[Place]] = {}
        for place in left:
            needed = least_bytes(way) if "offload" not in question.space else 0.0
            if needed > place.devices * visible_bytes(place.cluster.accelerator):
                size = format_quantity(needed, "bytes")
                short[place] = said("nothing fits; weights and optimizer alone are {size}", size=size)
                continue
            batch = way.batch if question.batch_given else dealt_batch(way.batch, place.devices)
            batches.setdefault(batch, []).append(place)
        for batch, some in batches.items():
            job = replace(on(way, some[0].cluster), global_batch=batch)
            try:
                made = search(job, [p.cluster for p in some], best=1, **question.space)
            except LLMHWError as error:
                short |= dict.fromkeys(some, str(error))
                continue
            counts.update(tried=made.tried, valid=made.valid, fitting=made.fitting)
            for place in some:
                near = made.near.get(place.cluster, ())
                if near:
                    picks.append((place, picked(near, question.limits.headroom).job))
                else:
                    short[place] = _short(made.short.get(place.cluster))
        left = list(short)
    refused = [Refusal(str(place), why) for place, why in short.items()]
    return Searched(tuple(picks), tuple(refused), counts["tried"], counts["valid"], counts["fitting"])


def picked(near: Sequence[Found], headroom: float) -> Found:
    """The fastest that has the room even where memory is underestimated; else the fastest; else what needs least."""
    room = visible_bytes(near[0].job.cluster.accelerator) * (1 - headroom)
    for error in (known_error("training"), 0.0):
        found = next((f for f in near if f.device_bytes * (1 + error) <= room), None)
        if found:
            return found
    return near[-1]


def _short(closest: Found | None) -> str:
    if closest is None:
        return said("no layout is valid on so many devices")
    short = closest.device_bytes - visible_bytes(closest.job.cluster.accelerator)
    return said("nothing fits; the closest is short by {size} a device", size=format_quantity(short, "bytes"))


def planned_layout(job: TrainingJob, cluster: Cluster, **space: Any) -> tuple[TrainingJob | None, str]:
    """The fastest layout of a job that fits its devices, with room where there is one; and what batch was assumed.

    space   axes that are fixed, as in `llmhw.search`; None where nothing fits
    """
    tuning = job.frozen or job.method != "sft"
    batch = None if job.global_batch is not None else TUNED if tuning else usual_batch(job)
    single = replace(on(job, cluster), global_batch=job.global_batch if batch is None else int(batch.value))
    asked = Question((single,), FREE, places_of.ANY, 1.0, "time", {**_WHOLE, **space}, batch is None, tuning)
    found = search_places(asked, [Place(cluster)])
    picks = [chosen for _, chosen in found.picks]
    return (picks[0] if picks else None), said("assumed {value}", value=batch) if batch else ""


# -- figures ----------------------------------------------------------------------------------


def choice_of(question: Question, place: Place, job: TrainingJob) -> Choice:
    """A layout at a place, with the figures of its single prediction."""
    options = {f.name: getattr(question.run, f.name) for f in fields(RunOptions)}
    paid = options if place.price is None else options | _PAID | {"price": place.price}
    make = partial(train, job, tokens=question.tokens, **paid)
    estimate = make()
    figures = figures_of(estimate, place)
    if question.limits.purchase is not None:
        with suppress(LLMHWError):  # a device that nobody sells
            figures["purchase"] = Figure(rent_or_buy(place.cluster, price=1.0).purchase, "dollars")
    found = Choice(str(place), words(job), job, figures, make, where=place)
    found.__dict__["estimate"] = estimate
    return found


_PAID = {"provider": None, "region": None, "kind": "on_demand", "prices": None}


def figures_of(estimate: TrainingEstimate, place: Place) -> dict[str, Figure]:
    """All that a plan counts of one prediction, with the ends of its intervals."""
    run, held, c = estimate.run, estimate.memory, place.cluster
    step, ends = estimate.step_seconds, estimate.step_seconds_interval
    low, high = (end / step for end in ends) if ends else (None, None)

    def grown(value: float, unit: str) -> Figure:
        """What grows with the step's time."""
        return Figure(value, unit, low and value * low, high and value * high)

    def falls(value: float, unit: str) -> Figure:
        return Figure(value, unit, high and value / high, low and value / low)

    capacity = held.capacity_bytes
    error = known_error("training")
    free = [1 - held.device_bytes * factor / capacity for factor in (1, 1 + error, 1 - error)]
    found = {"days": grown(run.days, "days") if run.finishes else Figure(float("inf"), "days")}
    if run.dollars is not None and run.price is not None:
        an_hour = run.price.dollars_per_device_hour * c.devices
        found["dollars"] = grown(run.dollars, "dollars")
        found["dollars_per_hour"] = Figure(an_hour, "dollars")
        found["dollars_per_month"] = Figure(an_hour * HOURS_PER_MONTH, "dollars")
    found["devices"] = Figure(c.devices, "count")
    found["headroom"] = Figure(free[0], "fraction", free[1], free[2])
    found["goodput"] = Figure(run.goodput, "fraction")
    if run.energy_kwh is not None and run.watts is not None:
        found["energy_kwh"] = grown(run.energy_kwh, "kWh")
    if run.co2_kg is not None:
        found["co2_kg"] = grown(run.co2_kg, "kg")
    if run.peak_kw is not None:
        found["peak_kw"] = Figure(run.peak_kw, "kW")
    found["mfu"] = falls(estimate.mfu, "fraction")
    found["tokens_per_second"] = falls(estimate.tokens_per_second, "tokens/s")
    found["step_seconds"] = grown(step, "seconds")
    return found


def words(job: TrainingJob) -> str:
    """What is trained and how it lies on the devices, in words."""
    made = str(Found(lambda: job, 0.0, 0.0, None))
    return f"{way_of(job)}; {made}" if way_of(job) else made


def asked_layout(job: TrainingJob) -> str:
    """The layout as one asks for it: what is not at its default, without dp, which follows from the devices."""
    plain = {f.name: f.default for made in (Parallelism, TrainingJob) for f in fields(made)}
    layout = {
        n: v for n, v in Found(lambda: job, 0.0, 0.0, None).layout.items() if n != "dp" and v not in ("", plain[n])
    }
    layout = {n: v for n, v in layout.items() if (n, v) != ("schedule", "interleaved")}  # what 1f1b is with vpp
    return ", ".join(f"{name}={value}" for name, value in layout.items()) or "data-parallel ranks alone"


def way_of(job: TrainingJob) -> str:
    """What is trained of the model, where it is not all of it."""
    aim = "" if job.method == "sft" else job.method.upper()
    name = said("{method}, rank {rank}", method="LoRA", rank=job.rank) if job.frozen else ""
    if job.base:
        name = said("QLoRA in {format}, rank {rank}", format=job.base, rank=job.rank)
    loss = said("loss in chunks") if job.loss == "chunked" else ""
    return ", ".join(filter(None, (aim, name, loss)))


# -- the search of all ------------------------------------------------------------------------


@dataclass
class Results:
    """What was found so far."""

    choices: list[Choice] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    complete: bool = True

    def add(self, question: Question, made: Searched) -> None:
        """Put in what a search found, with the figures of each single prediction."""
        self.counts.update({name: getattr(made, name) for name in ("tried", "valid", "fitting")})
        self.refused += made.refused
        self.choices += [choice_of(question, place, job) for place, job in made.picks]

    def better(self, question: Question, place: Place) -> Choice | None:
        """A choice that keeps all limits and is quicker, cheaper and on no more devices than a place could ever be."""
        days, dollars = at_best(question, place)
        for c in self.choices:
            paid = c.figures.get("dollars")
            least = paid is not None and paid.value <= dollars and c.figures["days"].value <= days
            if least and c.figures["devices"].value <= place.devices and not c.misses(question.bounds, sure=True):
                return c
        return None


def at_best(question: Question, place: Place) -> tuple[float, float]:
    """Days and dollars of a run that no device has ever done better: its peak, less what always goes."""
    job = on(question.ways[-1], place.cluster)
    try:
        peak = place.cluster.accelerator.peak(job.peak_format) * place.devices
    except LLMHWError:  # a format that the device lacks: the search says so
        return 0.0, 0.0
    days = least_days(job, question.tokens, peak) / MOST_MFU
    return days, 24 * days * (place.dollars_per_hour or float("inf"))


def hopeless(question: Question, place: Place) -> str:
    """Why a place breaks a limit, were it as good as can be; "" if it may keep all."""
    days, dollars = at_best(question, place)
    figures = {"days": Figure(days, "days"), "dollars": Figure(dollars, "dollars")}
    best = Choice(str(place), "", None, {n: f for n, f in figures.items() if f.value < float("inf")}, lambda: None)
    broken = [b for b in best.misses(question.bounds) if b.figure in best.figures]
    if not broken:
        return ""
    return said(
        "even at {share:.0%} of its peak {missed}", share=MOST_MFU, missed=missed(best, broken, WORDS | OTHER_WORDS)
    )


def searched(
    question: Question,
    groups: Sequence[Sequence[Place]],
    *,
    progress: Callable[[int, int], None] | None = None,
    executor: Any = None,
    results: Results | None = None,
) -> Results:
    """Search groups of places; Ctrl-C ends it with what was found until then.

    executor   a `concurrent.futures` executor that searches the groups; then all of them are searched
    """
    found = results or Results()
    waiting = [executor.submit(search_places, question, group) for group in groups] if executor else []
    try:
        for i, group in enumerate(groups):
            if executor:
                found.add(question, waiting[i].result())
            else:
                _search(question, group, found)
            if progress is not None:
                progress(i + 1, len(groups))
    except KeyboardInterrupt:
        found.complete = False
        for one in waiting:
            one.cancel()
    return found


def _search(question: Question, group: Sequence[Place], found: Results) -> None:
    """Search what may still be worth it of one group."""
    able = []
    for place in group:
        if why := hopeless(question, place):
            found.refused.append(Refusal(str(place), why))
        else:
            able.append(place)
    worse = {place: better for place in able if (better := found.better(question, place))}
    for place, choice in list(worse.items())[:1]:
        days, dollars = at_best(question, place)
        text = "even at {share:.0%} of its peak {time}, without a price: {place} beats that"
        if dollars < float("inf"):
            text = "even at {share:.0%} of its peak {time} and {dollars}: {place} beats that"
        told = {"share": MOST_MFU, "time": Figure(days, "days"), "dollars": format_quantity(dollars, "dollars")}
        found.refused.append(Refusal(str(place), said(text, **told, place=choice.place)))
    left = [place for place in able if place not in worse]
    if left:
        found.add(question, search_places(question, left))


# -- the plan ---------------------------------------------------------------------------------


def plan_training(
    job: TrainingJob | Sequence[TrainingJob],
    clusters: Any = None,
    *,
    limits: Limits = FREE,
    run: RunOptions = places_of.ANY,
    tokens: float | None = None,
    best: int = 5,
    by: str = "cost",
    counts: Sequence[int] = (),
    offers: Iterable[Offer] | None = None,
    tuning: bool = False,
    progress: Callable[[int, int], None] | None = None,
    executor: Any = None,
    **space: Any,
) -> Plan:
    """Which machines to take for a training job, how it lies on them, what it takes and costs.

    job        what is trained; its layout is replaced. Several: ways to do it, of which the first that fits is taken
    clusters   where: clusters, names of devices, or names with counts; default: whatever can be rented
    limits     what the answer may take. Without a deadline, and where the number of devices is free, 90 days are
               assumed, or 7 for fine-tuning; an assumed limit that nothing keeps is let go
    run        prices, failures and power
    tokens     of the run; default: as `llmhw.train` has it
    best       how many choices to return
    by         cost, time, devices or energy: what counts among those that hold
    counts     numbers of devices to try; default: what memory and deadline ask for, and up
    offers     ways to have devices; default: all that the catalog has a price of
    tuning     whether a model is fine-tuned: it decides what is assumed
    progress   called with what is done and what there is to do
    executor   a `concurrent.futures` executor that spreads the search
    space      axes of the layout that are fixed, or values to try, as in `llmhw.search`

    Every choice is a layout whose figures are those of `llmhw.train`, with their intervals. Storage, network traffic,
    people and failed runs are not counted.

    >>> from llmhw import Cluster, TrainingJob, model
    >>> job = TrainingJob(model=model("llama-3-8b"), cluster="h100")
    >>> found = plan_training(job, ["h100", ("h100", 8)], tokens=1e9)
    >>> found.best.place, found.refused[0].why[:12]
    ('8 x H100 SXM5 80GB (RunPod Community)', 'nothing fits')
    """
    jobs = [job] if isinstance(job, TrainingJob) else check_items("job", job, empty=False)
    _check(jobs, limits, run, tokens, best, by, counts, tuning)
    Space.of(on(jobs[0], jobs[0].cluster), [1], space)  # a wrong value is told once, not of each place
    tuning = tuning or any(one.frozen or one.method != "sft" for one in jobs)
    fixed = bool(counts) or clusters is not None
    question = replace(settled(jobs, limits, run, tokens, by, space, tuning, fixed), counts=tuple(counts))
    ways = list(offers) if offers is not None else [] if clusters is not None else places_of.rentable(run)
    groups = candidates(question, clusters, counts, ways)
    found = searched(question, groups, progress=progress, executor=executor)
    if not ranked(found.choices, question.bounds, BY[by]):
        question = _less_assumed(question, found)
    return answered(question, found, groups, best, ways, free=not fixed)


def _check(
    jobs: Sequence[Any], limits: Any, run: Any, tokens: Any, best: Any, by: Any, counts: Any, tuning: Any
) -> None:
    for one in jobs:
        check_object("job", one, "TrainingJob")
        if one.frozen:
            lora_tensors(one.model, rank=one.rank, targets=one.targets)
    for number in check_items("counts", counts):
        check_count("counts", number, most=MOST_DEVICES)
    check_choice("by", by, BY)
    check_object("limits", limits, "Limits")
    check_object("run", run, "RunOptions")
    check_flag("tuning", tuning)
    if tokens is not None:
        check_number("tokens", tokens, least=1, most=1e18)
    check_count("best", best, most=1000)


def settled(
    ways: Sequence[TrainingJob],
    limits: Limits,
    run: RunOptions,
    tokens: float | None,
    by: str,
    space: Mapping[str, Any],
    tuning: bool,
    fixed: bool,
) -> Question:
    """The question with all that was left open, and what was assumed for that."""
    first, assumed = ways[0], []
    if tokens is None:
        assumed.append(usual_tokens(replace(first, frozen=True) if tuning and not first.frozen else first))
        tokens = assumed[-1].value
    batch_given = first.global_batch is not None
    if not batch_given:
        assumed.append(TUNED if tuning else usual_batch(first))
        ways = [replace(on(one, one.cluster), global_batch=int(assumed[-1].value)) for one in ways]
    space = {**_WHOLE, **(_ALONE if tuning else {}), **space}
    if limits.deadline_days is None and not fixed:
        assumed.append(DEADLINES[not tuning])
        limits = replace(limits, deadline_days=assumed[-1].value)
    return Question(tuple(ways), limits, run, tokens, by, space, batch_given, tuning, tuple(assumed))


def candidates(question: Question, clusters: Any, counts: Sequence[int], offers: Sequence[Offer]) -> list[list[Place]]:
    """Places to search, those of one kind together; what may be cheapest comes first."""
    found: list[list[Place]] = []
    if clusters is not None:
        groups: dict[Any, list[Place]] = {}
        for place in places_of.given(clusters, question.run):
            groups.setdefault(place.kind, []).append(place)
        found = list(groups.values())
    errors = []
    numbers = set(counts)
    for offer in offers:
        able = []
        try:
            for n in counts or sensible(question, offer):
                try:
                    able.append(offer.place(n))
                except LLMHWError as error:  # it comes in other numbers
                    errors.append(error)
        except LLMHWError as error:  # a device that lacks the format
            errors.append(error)
        found.append(able)
        numbers -= {place.devices for place in able}
    if errors and (numbers or not any(found)):
        raise next((e for e in errors if any(str(e).startswith(f"gpus={n} ") for n in numbers)), errors[0])
    return sorted(filter(None, found), key=lambda group: at_best(question, group[0])[1])


def _less_assumed(question: Question, found: Results) -> Question:
    """The question without an assumed deadline that nothing keeps."""
    days = next((d for d in question.assumed if d.argument == "deadline_days"), None)
    if days is None:
        return question
    free = replace(question, limits=replace(question.limits, deadline_days=None))
    left = tuple(d for d in question.assumed if d is not days)
    return replace(free, assumed=left) if ranked(found.choices, free.bounds, BY[question.by]) else question


def answered(
    question: Question,
    found: Results,
    groups: Sequence[Sequence[Place]],
    best: int,
    offers: Sequence[Offer],
    *,
    free: bool,
) -> Plan:
    """The plan, from all layouts that were found."""
    bounds, by = question.bounds, BY[question.by]
    if not any(by in c.figures for c in found.choices):
        by = "days"  # without any price
    choices = sorted(found.choices, key=lambda c: c.figures["days"].value)
    order = ranked(choices, bounds, by)
    near = sorted((c for c in choices if c not in order), key=lambda c: max(c.misses(bounds).values()))
    refused = [*(Refusal(c.place, missed(c, bounds, WORDS | OTHER_WORDS)) for c in near), *found.refused]
    why, changes = reasons(order, bounds, by, WORDS), []
    if found.complete:
        if order:
            changes = improvements(question, order[0])
        else:
            more = beyond(question, groups, offers, free=free)
            excluded = exclusion([*choices, *more], bounds)
            why = [excluded] if excluded else []
            changes = list(ways_out(question, [*choices, *more], groups, offers))
    return Plan(
        title=question.what,
        choices=tuple(_kinds(order, best)),
        front=tuple(undominated(order, _FRONT)),
        columns=COLUMNS,
        told=("days", "dollars", "headroom"),
        bounds=bounds,
        refused=tuple(refused),
        why=tuple(why),
        about=about(order[0].estimate.run) if order else (),
        changes=tuple(changes),
        notes=tuple(_notes(question, order, found)),
        counts=found.counts,
        complete=found.complete,
    )


def _notes(question: Question, order: Sequence[Choice], found: Results) -> list[str]:
    notes = [said("assumed {value}", value=d) for d in question.assumed]
    if question.tuning and all(question.space.get(name) is value for name, value in _ALONE.items()):
        notes.append(said("assumed tp=1, pp=1, cp=1: ZeRO or FSDP alone, as fine-tuning software has it"))
    if not found.complete:
        notes.insert(0, said("interrupted: only a part was tried"))
    if order:
        notes += [line for line in order[0].estimate.warnings() if said("assumed") not in line]
    return notes


_SOME_FAILURES = 0.05


def about(run: TrainingRun) -> tuple[str, ...]:
    """Failures and energy of a run in two lines."""
    told = {name: (value, note) for name, value, note in run.rows()}
    failures, energy = ("goodput", "failures", "spares"), ("energy", "CO2", "peak power")
    lines = (failures, energy) if run.failures_expected >= _SOME_FAILURES else (energy,)
    return tuple(
        "; ".join(f"{said(name)} {said(told[name][0])}, {said(told[name][1])}" for name in line) for line in lines
    )


def _kinds(order: Sequence[Choice], best: int) -> list[Choice]:
    """The best of each kind of machine, then others, in their order."""
    first: dict[Any, Choice] = {}
    for choice in order:
        first.setdefault(choice.where.kind, choice)
    chosen = [*first.values(), *(c for c in order if c not in first.values())][:best]
    return [c for c in order if c in chosen]


# -- what would help --------------------------------------------------------------------------


def beyond(
    question: Question, groups: Sequence[Sequence[Place]], offers: Sequence[Offer], *, free: bool
) -> list[Choice]:
    """What was refused without a search, more devices, and fewer, than the limits let one try.

    They show which limit to move.
    """
    open_limits = Limits(headroom=question.limits.headroom)
    asked = replace(question, limits=open_limits)
    more: list[list[Place]] = [[p for p in group if hopeless(question, p)][:_TRIES] for group in groups]
    if free:
        quick = replace(question, limits=replace(open_limits, deadline_days=question.limits.deadline_days))
        for offer in offers:
            with suppress(LLMHWError):
                numbers = {*sensible(quick, offer)[:3], *sensible(asked, offer)[:3]}
                more.append([offer.place(n) for n in sorted(numbers)])
    else:
        for group in groups:
            largest = max(group, key=lambda p: p.devices)
            with suppress(LLMHWError):
                more.append([places_of.grown(largest, times) for times in (2, 4, 8, 16)])
    known = {str(p) for group in groups for p in group if not hopeless(question, p)}
    left = [[p for p in group if str(p) not in known] for group in more]
    left = sorted(filter(None, left), key=lambda group: at_best(question, group[0])[1])
    # the cheapest, and the cheapest of those that may be in time: either limit may be the one to move
    deadline = question.limits.deadline_days or float("inf")
    in_time = [group for group in left if any(at_best(question, p)[0] <= deadline for p in group)][:_TRIES]
    return [c for some in (in_time, left[:_TRIES]) for c in searched(asked, some).choices]


def ways_out(
    question: Question, choices: Sequence[Choice], groups: Sequence[Sequence[Place]], offers: Sequence[Offer]
) -> Iterator[str]:
    """Changes of what was asked that were tried, each with what it gives."""
    bounds, by = question.bounds, BY[question.by]
    held = [c for c in choices if not c.misses(bounds)]
    if held:  # on other numbers of devices than those that were asked for
        best = ranked(held, bounds, by)[0]
        yield f"gpus={best.figures['devices'].value}: {_short_of(best)}"
    for best, moved in smallest_changes(choices, [b for b in bounds if b is not FITS])[:_MOST_CHANGES]:
        broken = [b for b in moved if b in best.misses(bounds)]
        if broken and not best.misses([FITS]):
            other = _other_count(question, best)
            asks = (b.asks(best.figures[b.figure].value) for b in broken)
            yield f"{', '.join([*other, *asks])}: {_short_of(best)}"
    yield from _fewer_tokens(question, choices)
    told = 0
    for text, asked, where in variants(question, groups, offers):
        order = ranked(searched(asked, where[:_TRIES]).choices, bounds, by)
        if order:
            yield f"{_opened(text, order[0].job)}: {_short_of(order[0])}"
            told += 1
        if told == _MOST_CHANGES:
            return


_TRIES, _MOST_CHANGES = 6, 4
_OPEN = " left open"


def _other_count(question: Question, choice: Choice) -> list[str]:
    """The number of devices, where another one was asked for."""
    number = choice.where.devices
    return [f"gpus={number}"] if question.counts and number not in question.counts else []


def _opened(text: str, job: TrainingJob) -> str:
    """Of an axis that was left open, what was found for it."""
    if not text.endswith(_OPEN):
        return text
    name = text.removesuffix(_OPEN).replace("sharding", "zero")
    return f"{name}={getattr(job.parallelism, name, getattr(job, name, None))!r}"


def _fewer_tokens(question: Question, choices: Sequence[Choice]) -> Iterator[str]:
    """Most tokens, to two digits, with which a choice keeps all limits."""
    grows = {"days", "dollars", "energy_kwh"}
    best: tuple[float, Choice | None] = (0.0, None)
    for choice in choices:
        misses = choice.misses(question.bounds)
        if misses and {b.figure for b in misses} <= grows and max(misses.values()) < float("inf"):
            best = max(best, (1 / (1 + max(misses.values())), choice), key=lambda one: one[0])
    share, chosen = best
    if chosen is not None:
        fewer = float(f"{share * question.tokens * 0.95:.1e}")
        made = choice_of(replace(question, tokens=fewer), chosen.where, chosen.job)
        if not made.misses(question.bounds):
            yield f"{', '.join([f'tokens={fewer:g}', *_other_count(question, made)])}: {_short_of(made)}"


def variants(
    question: Question, groups: Sequence[Sequence[Place]], offers: Sequence[Offer]
) -> Iterator[tuple[str, Question, Sequence[Sequence[Place]]]]:
    """What may be asked instead, those that lose least first."""
    space, first = question.space, question.ways[0]
    trained = [way for way in question.ways if not way.frozen]

    def of_jobs(**changes: Any) -> Question:
        return replace(question, ways=tuple(replace(way, **changes) for way in question.ways))

    def of_space(**values: Any) -> Question:
        return replace(question, space={**space, **values})

    for name in [n for n in space if n != "offload"]:
        left = {n: v for n, v in space.items() if n != name}
        yield f"{name}{_OPEN}", replace(question, space=left), groups
    if first.compute is None and first.precision != "fp32" and trained:
        yield "compute='fp8'", of_jobs(compute="fp8"), groups
    if trained and first.optimizer == "adamw":
        yield "optimizer='adamw-8bit'", of_jobs(optimizer="adamw-8bit"), groups
    if "offload" not in space:
        for away in ("optimizer", "all"):
            yield f"offload={away!r}", of_space(offload=(away,)), groups
    if question.tuning and len(trained) == len(question.ways):
        yield "frozen=True", of_jobs(frozen=True), groups
        yield "frozen=True, base='nf4-dq'", of_jobs(frozen=True, base="nf4-dq"), groups
    elif question.tuning and not any(way.base for way in question.ways):
        yield "base='nf4-dq'", of_jobs(base="nf4-dq"), groups
    known = {offer.device.name for offer in offers} | {p.cluster.accelerator.name for group in groups for p in group}
    largest = max(map(accelerator, known), key=lambda d: d.memory_bytes)
    for device in _larger(largest, question.run.prices):
        some = []
        for offer in places_of.offers(device, question.run)[0]:
            with suppress(LLMHWError):
                some.append([offer.place(n) for n in question.counts or sensible(question, offer)])
        yield f"gpu={device.name!r}", question, [group for group in some if group]


def _larger(device: Accelerator, listed: PriceList | None = None) -> list[Accelerator]:
    """Devices with more memory that can be rented, those with the cheapest memory first."""
    priced = {d.name for d in places_of.priced(listed)}
    found = {}
    for more in larger(device):
        paid, _ = newest_prices(more, listed=listed) if more.name in priced else ([], "")
        if paid:
            found[more] = min(p.dollars_per_device_hour for p in paid) / more.memory_bytes
    return sorted(found, key=lambda more: found[more])


def improvements(question: Question, best: Choice) -> list[str]:
    """Changes of the best choice that make it cheaper, or quicker where it has no price: each was tried."""
    by = "dollars" if "dollars" in best.figures else "days"
    place, found = best.where, []
    tries: list[tuple[str, Question, Place]] = []
    job = best.job
    if job.compute is None and job.precision != "fp32" and not job.frozen:
        fp8 = replace(question, ways=tuple(replace(way, compute="fp8") for way in question.ways))
        tries.append(("compute='fp8'", fp8, place))
    if place.price is not None and (spot := places_of.spot(place, question.run.prices)):
        tries.append(("kind='spot'", question, spot))
    for text, asked, where in tries:
        order = ranked(searched(asked, [[where]]).choices, question.bounds, by)
        if order and order[0].figures[by].value < 0.95 * best.figures[by].value:
            found.append(f"{text}: {_short_of(order[0])}")
    return found


def _short_of(choice: Choice) -> str:
    told = [str(choice.figures[name]) for name in ("days", "dollars") if name in choice.figures]
    return f"{choice.place}, {', '.join(told)}"
