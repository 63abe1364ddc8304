"""Plans of training: machines for rent and layouts of a job, held against limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from llmhw.checks import check_flag, check_items, check_object
from llmhw.cost import Default, RunOptions
from llmhw.flops import training_flops
from llmhw.hardware import Cluster, purchase_prices
from llmhw.job import Parallelism, TrainingJob
from llmhw.margin import known_error, visible_bytes
from llmhw.memory import training_states, weights
from llmhw.planning import places as places_of
from llmhw.planning.places import Offer, Place
from llmhw.planning.result import (
    Bound,
    Choice,
    Figure,
    Limits,
    Plan,
    Refusal,
    ranked,
    smallest_changes,
    undominated,
)
from llmhw.search import Found, search
from llmhw.training import TrainingEstimate, train, usual_tokens
from llmhw.units import LLMHWError, check_choice, check_count, check_number, format_quantity

BY = {"cost": "dollars", "time": "days", "devices": "devices", "energy": "energy_kwh"}
# Figures of the table, and those that count for the front: whether more is better.
COLUMNS = {
    "days": "time",
    "dollars": "cost",
    "dollars_per_hour": "an hour",
    "headroom": "free",
    "mfu": "MFU",
}
_FRONT = {"days": False, "dollars": False, "devices": False, "headroom": True}

# -- what is assumed --------------------------------------------------------------------------

_FEW, _USUAL, _MANY = 2**19, 2**22, 2**24
_BATCH = (
    (1e9, _FEW, "0.5 M tokens a step, as GPT-3's models below a billion parameters (arXiv 2005.14165, table 2.1)"),
    (2e11, _USUAL, "4 M tokens a step, as all of Llama 2 (arXiv 2307.09288, section 2.2)"),
    (float("inf"), _MANY, "16 M tokens a step, as Llama 3 405B most of the time (arXiv 2407.21783, section 3.4.1)"),
)
_TUNED = Default("global_batch", 128, "128 sequences a step, as Tulu 3's fine-tuning (arXiv 2411.15124, table 10)")
DEADLINES = {
    True: Default("deadline_days", 90.0, "as long as large models train: Llama 3 405B 54 days, BLOOM 118"),
    False: Default("deadline_days", 7.0, "a week for fine-tuning"),
}


def usual_batch(job: TrainingJob) -> Default:
    """Sequences of a step where nobody says how many."""
    if job.frozen or job.method != "sft":
        return _TUNED
    tokens, source = next((t, s) for most, t, s in _BATCH if job.model.parameters.text < most)
    return Default("global_batch", max(1, tokens // job.seq_len), source)


# -- candidates -------------------------------------------------------------------------------

# Of their peak devices have never trained more; what needs a higher share is not searched.
_MOST_MFU = 0.75
_MOST_DEVICES = 2**17
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
    alone = least_days(job, question.tokens, device.peak(job.peak_format)) / _MOST_MFU
    by_time = alone / limits.deadline_days if limits.deadline_days else 0.0
    least = max(by_memory, by_time, 1.0)
    most = min(limits.most_devices or _MOST_DEVICES, _MOST_DEVICES)
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
    (1024, 1152, 960)
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

    picks: tuple[tuple[Place, TrainingJob, str], ...]
    refused: tuple[Refusal, ...]
    tried: int = 0
    valid: int = 0
    fitting: int = 0


def search_places(question: Question, found: Sequence[Place]) -> Searched:
    """The layouts of a question at places of one kind; those of the first way that fits there."""
    picks: list[tuple[Place, TrainingJob, str]] = []
    refused: list[Refusal] = []
    counts: Counter[str] = Counter()
    left = list(found)
    for way in question.ways:
        short: dict[Place, str] = {}
        batches: dict[int, list[Place]] = {}
        for place in left:
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
                    picks.append((place, picked(near, question.limits.headroom).job, ""))
                else:
                    short[place] = _short(made.closest)
        left = list(short)
    refused += [Refusal(str(place), why) for place, why in (short if left else {}).items()]
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
        return "no layout is valid on so many devices"
    short = closest.device_bytes - visible_bytes(closest.job.cluster.accelerator)
    return f"nothing fits; the closest is short by {format_quantity(short, 'bytes')} a device"


# -- figures ----------------------------------------------------------------------------------


def choice_of(question: Question, place: Place, job: TrainingJob) -> Choice:
    """A layout at a place, with the figures of its single prediction."""
    options = {f.name: getattr(question.run, f.name) for f in fields(RunOptions)}
    paid = options if place.price is None else options | _PAID | {"price": place.price}
    make = partial(train, job, tokens=question.tokens, **paid)
    estimate = make()
    found = Choice(str(place), words(job), job, figures_of(estimate, place), make)
    found.__dict__["estimate"] = estimate
    return found


_PAID = {"provider": None, "region": None, "kind": "on_demand"}


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
        found["dollars_per_month"] = Figure(an_hour * 730, "dollars")
    bought = [p.dollars * c.devices for p in purchase_prices(c.accelerator)]
    if bought:
        middle = sorted(bought)[len(bought) // 2]
        found["purchase"] = Figure(middle, "dollars", *((min(bought), max(bought)) if len(bought) > 1 else ()))
    found["devices"] = Figure(c.devices, "count")
    found["headroom"] = Figure(free[0], "fraction", free[1], free[2])
    found["goodput"] = Figure(run.goodput, "fraction")
    if run.energy_kwh is not None and run.watts is not None:
        found["energy_kwh"] = grown(run.energy_kwh, "kWh")
    found["mfu"] = falls(estimate.mfu, "fraction")
    found["tokens_per_second"] = falls(estimate.tokens_per_second, "tokens/s")
    found["step_seconds"] = grown(step, "seconds")
    return found


def words(job: TrainingJob) -> str:
    """What is trained and how it lies on the devices, in words."""
    made = str(Found(lambda: job, 0.0, 0.0, None))
    return f"{way_of(job)}; {made}" if way_of(job) else made


def way_of(job: TrainingJob) -> str:
    """What is trained of the model, where it is not all of it."""
    if not job.frozen:
        return "" if job.method == "sft" else job.method.upper()
    name = f"QLoRA in {job.base}" if job.base else "LoRA"
    return f"{name}, rank {job.rank}"


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
    **space: Any,
) -> Plan:
    """Which machines to take for a training job, how it lies on them, what it takes and costs.

    job        what is trained; its layout is replaced. Several: ways to do it, of which the first that fits is taken
    clusters   where: clusters, names of devices, or names with counts; default: whatever can be rented
    limits     what the answer may take. Without a deadline, and where the number of devices is free, 90 days are
               assumed, or 7 for fine-tuning
    run        prices, failures and power
    tokens     of the run; default: as `llmhw.train` has it
    best       how many choices to return
    by         cost, time, devices or energy: what counts among those that hold
    counts     numbers of devices to try; default: what memory and deadline ask for, and up
    offers     ways to have devices; default: all that the catalog has a price of
    tuning     whether a model is fine-tuned: it decides what is assumed
    progress   called with what is done and what there is to do
    space      axes of the layout that are fixed, or values to try, as in `llmhw.search`
    """
    jobs = [job] if isinstance(job, TrainingJob) else check_items("job", job, empty=False)
    for one in jobs:
        check_object("job", one, "TrainingJob")
    for number in counts:
        check_count("counts", number, most=_MOST_DEVICES)
    check_choice("by", by, BY)
    check_object("limits", limits, "Limits")
    check_object("run", run, "RunOptions")
    check_flag("tuning", tuning)
    if tokens is not None:
        check_number("tokens", tokens, least=1, most=1e18)
    check_count("best", best, most=1000)
    tuning = tuning or any(one.frozen or one.method != "sft" for one in jobs)
    fixed = bool(counts) or clusters is not None
    question, notes = settled(jobs, limits, run, tokens, by, space, tuning, fixed)
    groups = candidates(question, clusters, counts, offers)
    made, complete = searched(question, groups, progress)
    return answered(question, made, best, notes, complete)


def settled(
    ways: Sequence[TrainingJob],
    limits: Limits,
    run: RunOptions,
    tokens: float | None,
    by: str,
    space: Any,
    tuning: bool,
    fixed: bool,
) -> tuple[Question, list[str]]:
    """The question with all that was left open, and what was assumed for that."""
    notes: list[str] = []
    first = ways[0]
    if tokens is None:
        usual = usual_tokens(replace(first, frozen=True) if tuning and not first.frozen else first)
        tokens = usual.value
        notes.append(f"assumed {usual}")
    batch_given = first.global_batch is not None
    if not batch_given:
        usual = _TUNED if tuning else usual_batch(first)
        ways = [replace(on(one, one.cluster), global_batch=int(usual.value)) for one in ways]
        notes.append(f"assumed {usual}")
    if limits.deadline_days is None and not fixed:
        usual = DEADLINES[not tuning]
        limits = replace(limits, deadline_days=usual.value)
        notes.append(f"assumed {usual}")
    return Question(tuple(ways), limits, run, tokens, by, space, batch_given), notes


def candidates(
    question: Question, clusters: Any, counts: Sequence[int], offers: Iterable[Offer] | None
) -> list[list[Place]]:
    """Places to search, those of one kind together."""
    if clusters is not None:
        groups: dict[Any, list[Place]] = {}
        for place in places_of.given(clusters, question.run):
            groups.setdefault(place.kind, []).append(place)
        return list(groups.values())
    found = []
    if offers is None:
        offers = [o for device in places_of.priced() for o in places_of.offers(device, question.run)[0]]
    for offer in offers:
        try:
            numbers = list(counts) or sensible(question, offer)
            found.append([offer.place(n) for n in numbers])
        except LLMHWError:
            continue
    return [group for group in found if group]


def searched(
    question: Question, groups: Sequence[list[Place]], progress: Callable[[int, int], None] | None
) -> tuple[list[Searched], bool]:
    """All groups, or those that were done when Ctrl-C came."""
    made: list[Searched] = []
    try:
        for i, group in enumerate(groups):
            made.append(search_places(question, group))
            if progress is not None:
                progress(i + 1, len(groups))
    except KeyboardInterrupt:
        return made, False
    return made, True


def answered(question: Question, made: Sequence[Searched], best: int, notes: list[str], complete: bool) -> Plan:
    """The plan, from all layouts that were found."""
    choices = [choice_of(question, place, job) for one in made for place, job, _ in one.picks]
    choices.sort(key=lambda c: c.figures["days"].value)
    bounds, by = question.bounds, BY[question.by]
    order = ranked(choices, bounds, by)
    refused = [r for one in made for r in one.refused]
    changes: list[str] = []
    if not order:
        missed = sorted(choices, key=lambda c: max(c.misses(bounds).values(), default=0))
        refused = [*(Refusal(c.place, _missed(c, bounds)) for c in missed), *refused]
        changes += [
            f"{', '.join(b.asks(c.figures[b.figure].value) for b in moved)}: {c.place}"
            for c, moved in smallest_changes(choices, bounds)[:3]
        ]
    counts = {name: sum(getattr(one, name) for one in made) for name in ("tried", "valid", "fitting")}
    first = question.ways[0]
    what = f"{first.model.name}, {format_quantity(question.tokens, 'count')} tokens"
    return Plan(
        title=f"plans to train {what}",
        choices=tuple(order[:best]),
        front=tuple(undominated(order, _FRONT)),
        columns=COLUMNS,
        bounds=bounds,
        refused=tuple(refused),
        changes=tuple(changes),
        notes=tuple(notes),
        counts=counts,
        complete=complete,
    )


def _missed(choice: Choice, bounds: Sequence[Bound]) -> str:
    told = []
    for bound in choice.misses(bounds):
        figure = choice.figures.get(bound.figure)
        told.append(f"{bound.figure} {figure or 'not known'} against {bound.limit:g}")
    return ", ".join(told)
