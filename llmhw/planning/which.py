"""Which one? The cheapest card for a model, models for a machine, and devices side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np

from llmhw.cost import RunOptions
from llmhw.engines import serving_engine
from llmhw.formula import Report, Table
from llmhw.hardware import Accelerator, Cluster, accelerator_of
from llmhw.job import ServingJob, TrainingJob
from llmhw.language import said
from llmhw.model import ModelSpec, model, models
from llmhw.ownership import HOURS_PER_MONTH
from llmhw.planning import places as places_of
from llmhw.planning.demand import Demand
from llmhw.planning.places import Offer
from llmhw.planning.question import FREE, Pick, Question, Site, choice_of, draft_of, settled, sites
from llmhw.planning.result import Bound, Choice, Figure, Limits, Plan, Refusal, ranked, smallest_changes, undominated
from llmhw.planning.serving import COLUMNS, Searched, plan_serving, searched, too_much
from llmhw.precision import checkpoint_name, formats_in, number_format
from llmhw.service import Service, check_lengths, engine_for, serve, time_interval
from llmhw.serving import memory_of
from llmhw.units import LLMHWError, check_count, check_number, format_quantity

# -- the cheapest card ------------------------------------------------------------------------

# What people put on cards of their own: vLLM, and llama.cpp for GGUF files, Apple and mixed machines.
ENGINES = ("vllm", "llama.cpp")
_CARDS = (1, 2, 4)  # one, and more where none suffices
_FRONT = {"purchase": False, "dollars_per_hour": False, "tpot": False, "devices": False}


def cheapest(
    spec: ModelSpec | str,
    *,
    demand: Demand | None = None,
    tokens_per_second: float | None = None,
    limits: Limits = FREE,
    run: RunOptions = places_of.ANY,
    engines: Sequence[str] = ENGINES,
    offers: Iterable[Offer] | None = None,
    best: int = 5,
    **job: Any,
) -> Plan:
    """The cheapest card that runs a model for one user, to buy, or to rent where `limits` has a budget an hour.

    demand              lengths, users, context, quality; default: one user, formats of at least 4 bits
    tokens_per_second   that each user gets at least
    limits              what it may cost (`purchase`, `budget_per_hour`), and how many cards it may be; default: one, or
                        the fewest up to four
    engines             that are tried
    offers              ways to have devices, default: all with a price
    job                 other fields of `llmhw.ServingJob`

    `why` says which formats the cards take. Cards whose price is not known are left out.

    >>> found = cheapest("qwen3-32b", tokens_per_second=20, limits=Limits(purchase=2500))
    >>> found.best.figures["purchase"].value <= 2500
    True
    """
    check_count("best", best, most=1000)
    asked = demand or Demand(users=1)
    asked = replace(asked, users=1) if not asked.loaded else asked
    asked = replace(asked, quality=asked.quality or "usable")
    if tokens_per_second is not None:
        check_number("tokens_per_second", tokens_per_second, above=True, most=1e6)
        asked = replace(asked, slo_tpot=1 / tokens_per_second)
    renting = limits.purchase is None and (limits.budget_per_hour or limits.budget_per_month)
    if limits.purchase is None and not renting:
        limits = replace(limits, purchase=1e15)
    if limits.most_devices is None:
        given = None if offers is None else list(offers)
        for cards in _CARDS:
            few = replace(limits, most_devices=cards)
            plan = cheapest(spec, demand=asked, limits=few, run=run, engines=engines, offers=given, best=best, **job)
            if plan.choices:
                break
        return plan
    spec = model(spec) if isinstance(spec, str) else spec
    listed = None if offers is None else list(offers)
    made: list[tuple[Question, Searched]] = []
    told: list[str] = []
    notes: list[str] = []
    for engine in engines:
        try:
            one = ServingJob(model=spec, cluster=_home(engine), engine=engine, **job)
            check_lengths(one, asked.input_tokens, asked.output_tokens)
            settled_job, settled_demand, notes = settled(one, asked)
            question = Question(settled_job, settled_demand, limits, run, "cost", {})
            where = _able(engine, sites(question, None, listed))
            with np.errstate(all="ignore"):
                found = searched(question, where, None) if where else Searched([], {})
                if where and not found.picks:
                    question = replace(question, sure=False)
                    found = searched(question, where, None)
            made.append((question, found))
        except LLMHWError as error:
            told.append(f"{engine}: {error}")
    if not made:
        raise LLMHWError(told[0])
    return _cheapest(spec, made, limits, best, [*notes, *told])


def _home(engine: str) -> Cluster:
    """A device that an engine runs on, which its places then replace."""
    names = {"Apple": "M4 Max 128GB"}
    vendors = serving_engine(engine).vendors
    return Cluster(accelerator_of("h100" if "NVIDIA" in vendors else names.get(vendors[0], "h100")))


def _able(engine: str, where: Iterable[Site]) -> list[Site]:
    """The sites that an engine runs on."""
    return [site for site in where if serving_engine(engine).runs_on(site.offer.device)]


def _in_speed(bound: Bound) -> Bound:
    """A limit on the time of a token as one on the tokens of a second, which is what is asked for here."""
    if bound.argument != "slo_tpot":
        return bound
    return Bound("tokens_per_second", "tokens_per_second_per_user", 1 / bound.limit, least=True)


def _cheapest(
    spec: ModelSpec, made: Sequence[tuple[Question, Searched]], limits: Limits, best: int, notes: list[str]
) -> Plan:
    """The cards of all engines together."""
    first = made[0][0]
    bounds, figure = [_in_speed(b) for b in first.bounds if b.limit < 1e15], first.price_figure
    drafts: dict[Choice, tuple[Question, Pick]] = {}
    for question, found in made:
        for pick in found.picks:
            drafts[draft_of(question, pick)] = question, pick
    order = ranked(list(drafts), bounds, figure)
    shown, seen = [], set()
    for c in order:
        kind = (c.job.cluster.accelerator.name, c.job.cluster.devices)
        if kind in seen:
            continue  # of a card the better engine
        seen.add(kind)
        question, pick = drafts[c]
        exact = choice_of(question, pick)
        shown.append(replace(exact, layout=f"{exact.layout}, {exact.job.engine}"))
        if len(shown) == best:
            break
    shown = ranked(shown, bounds, figure) or shown
    formats: dict[str, dict[str, None]] = {}
    for _, found in made:
        for name, kept in found.formats.items():
            formats.setdefault(name, {}).update(kept)
    why = []
    for device in dict.fromkeys(c.job.cluster.accelerator.name for c in shown):
        some = ", ".join(formats.get(device, {})) or said("nothing else")
        why.append(said("{device} takes {formats}", device=device, formats=some))
    refused = {name: why for _, found in reversed(made) for name, (_, why) in found.refused.items()}
    late = [] if shown else too_much(drafts, bounds)
    changes = [
        f"{', '.join(b.asks(c.figures[b.figure].value) for b in moved)}: {c.place}, {c.layout}"
        for c, moved in (smallest_changes(list(drafts), bounds)[:3] if not shown else [])
    ]
    columns = {name: head for name, head in COLUMNS.items() if name not in ("dollars_per_million", "concurrency")}
    return Plan(
        title=said(
            "cards that serve {model}: {input:,} tokens in, {output:,} out, {users:,} at a time",
            model=spec.name,
            input=first.demand.input_tokens,
            output=first.demand.output_tokens,
            users=first.demand.users or 1,
        ),
        choices=tuple(shown),
        front=tuple(undominated(shown, _FRONT)),
        columns={"purchase": "to buy"} | columns,
        bounds=tuple(bounds),
        refused=(*late, *(Refusal(name, why) for name, why in refused.items() if name not in formats)),
        why=tuple(why),
        changes=tuple(changes),
        notes=tuple(note.replace("slo_tpot=0.05:", "tokens_per_second=20:") for note in notes),
        counts={
            "tried": sum(f.tried for _, f in made),
            "fitting": sum(f.fitting for _, f in made),
        },
    )


# -- models for a machine ---------------------------------------------------------------------


@dataclass(frozen=True)
class Runs:
    """A model on a machine."""

    job: ServingJob
    longest: int
    tokens_per_second: Figure
    first_token: float
    billions: float
    headroom: float

    def to_row(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "model": self.job.model.name,
            "parameters": self.billions * 1e9,
            "weights": str(self.job.weights),
            "engine": str(self.job.engine),
            "tp": self.job.tp,
            "pp": self.job.pp,
            "longest": self.longest,
            "tokens_per_second": self.tokens_per_second.value,
            "tokens_per_second_low": self.tokens_per_second.low,
            "tokens_per_second_high": self.tokens_per_second.high,
            "ttft_seconds": self.first_token,
            "headroom": self.headroom,
        }


@dataclass(frozen=True, repr=False)
class Runnable(Report):
    """The models that run on a machine, the largest that are quick enough first."""

    cluster: Cluster
    found: tuple[Runs, ...]
    tried: int
    least: float
    context: int
    best: int = 20

    @property
    def title(self) -> str:
        text = "models that run on {cluster}, one user, at least {context:,} tokens of context"
        return said(text, cluster=self.cluster, context=self.context)

    @property
    def verdict(self) -> str:
        """How many run, and the first of them."""
        if not self.found:
            place = f"{self.cluster.devices} x {self.cluster.accelerator.name}"
            return said("Does not work: none of {number:,} models fits {place}.", number=self.tried, place=place)
        quick = sum(one.tokens_per_second.value >= self.least for one in self.found)
        first = self.found[0]
        speed = format_quantity(first.tokens_per_second.value, "tokens/s")
        return said(
            "{some:,} of {all:,} models run, {quick:,} with at least {least:g} tokens/s; the largest of these: "
            "{model} in {weights}, {speed}.",
            some=len(self.found),
            all=self.tried,
            quick=quick,
            least=self.least,
            model=first.job.model.name,
            weights=first.job.weights,
            speed=speed,
        )

    def rows(self) -> list[tuple[str, ...]]:
        """The first models, as text."""
        return [
            (
                one.job.model.name,
                f"{one.billions:,.3g} B",
                f"{one.job.weights}, {one.job.engine}",
                f"{one.longest:,}",
                f"{one.tokens_per_second.value:,.3g}",
                said("{low:,.3g} to {high:,.3g}", low=one.tokens_per_second.least, high=one.tokens_per_second.most),
                format_quantity(one.first_token, "seconds"),
                format_quantity(one.headroom, "fraction"),
            )
            for one in self.found[: self.best]
        ]

    def tables(self) -> list[Table]:
        heads = ("model", "size", "format", "longest context", "tokens/s", "80 %", "first token", "free")
        return [Table(self.title, heads, self.rows())]

    def footer(self) -> list[str]:
        left = len(self.found) - self.best
        return [said("{left:,} more; --best {all} shows all", left=left, all=len(self.found))] if left > 0 else []

    def records(self) -> Sequence[dict[str, Any]]:
        return [one.to_row() for one in self.found]

    def to_dict(self) -> dict[str, Any]:
        return {
            "device": self.cluster.accelerator.name,
            "devices": self.cluster.devices,
            "verdict": self.verdict,
            "tried": self.tried,
            "models": list(self.records()),
        }


# Of an engine, from most bits to fewest; a checkpoint's own come first.
_LADDER = {"vllm": ("bf16", "fp16", "fp8", "int8", "int4-awq"), "llama.cpp": ("Q8_0", "Q6_K", "Q4_K_M")}
_REQUEST = (512, 256)


def runnable(
    cluster: Cluster,
    *,
    context: int = 4096,
    tokens_per_second: float = 10.0,
    quality: str = "usable",
    engine: str | None = None,
    names: Iterable[str] | None = None,
    best: int = 20,
) -> Runnable:
    """The models of the catalog that run on a machine, for one user.

    context             tokens of a sequence that must fit, or the model's limit where that is lower
    tokens_per_second   what counts as quick enough: the largest models of these come first
    quality             as `Demand.quality`: formats that are acceptable; of these the one with most bits that fits
    engine              default: vllm where it runs and the format is none of GGUF, else llama.cpp

    >>> found = runnable(Cluster("RTX 4090"), names=["llama-3.1-8b", "llama-3.1-70b"])
    >>> [one.job.model.name for one in found.found]
    ['llama-3.1-8b']
    """
    check_count("context", context)
    check_number("tokens_per_second", tokens_per_second, above=True)
    listed = list(models() if names is None else names)
    made, tried = [], 0
    for name in listed:
        spec = model(name)
        if spec.makes != "tokens":
            continue
        tried += 1
        one = _runs(spec, cluster, context, quality, engine)
        if one is not None:
            made.append(one)
    made.sort(key=lambda r: (r.tokens_per_second.value < tokens_per_second, -r.billions, -r.tokens_per_second.value))
    return Runnable(cluster, tuple(made), tried, tokens_per_second, context, check_count("best", best))


def _ladder(spec: ModelSpec, device: Accelerator, quality: str, engine: str | None) -> list[tuple[str, str]]:
    """Engine and format, those with most bits first."""
    from llmhw.planning.demand import QUALITY

    least = QUALITY[quality][0]
    found = []
    own = ""
    if spec.checkpoint.quantized:
        try:
            own = checkpoint_name(spec)
        except LLMHWError:
            own = ""
    for name in ENGINES if engine is None else (engine,):
        kept = serving_engine(name)
        if not kept.runs_on(device):
            continue
        formats = _LADDER.get(kept.name, _LADDER["llama.cpp" if kept.cells else "vllm"])
        bits = formats_in(spec, own)[0].bits if own else 99
        ladder = [f for f in formats if least <= number_format(f).bits < bits]
        found += [(name, f) for f in ([own] if own and kept.reads(formats_in(spec, own)[0]) else []) + ladder]
    # llama.cpp after vllm at as many bits
    return sorted(found, key=lambda one: -formats_in(spec, one[1])[0].bits)


def _runs(spec: ModelSpec, cluster: Cluster, context: int, quality: str, engine: str | None) -> Runs | None:
    memory = cluster.devices * cluster.accelerator.memory_bytes
    length = min(context, spec.max_seq_len or context)
    prompt = min(_REQUEST[0], max(1, length - 1))
    answer = max(1, min(_REQUEST[1], length - prompt))
    for name, fmt in _ladder(spec, cluster.accelerator, quality, engine):
        if spec.parameters.text * formats_in(spec, fmt)[0].bits / 8 > memory:
            continue
        try:
            job = _whole(ServingJob(model=spec, cluster=cluster, engine=name, weights=fmt, max_sequences=1))
            longest = _longest(job, length)
            if longest < length:
                continue
            job = replace(job, max_model_len=longest)
            held = memory_of(job)
            point = Service(job, engine_for(job), prompt, answer).at(1)
            needed = held.needed_bytes(length)
        except LLMHWError:
            continue
        low, high = time_interval(job, 1) or (1.0, 1.0)
        each = 1 / point.tpot_seconds
        free = 1 - needed / held.capacity_bytes
        speed = Figure(each, "tokens/s", each / high, each / low)
        return Runs(job, int(longest), speed, point.ttft_seconds, spec.parameters.text / 1e9, free)
    return None


def _whole(job: ServingJob) -> ServingJob:
    """The job split over as many devices of the machine as its model can be: for one user that is the quickest."""
    n = job.cluster.devices
    axis = "pp" if job.software.split == "layers" else "tp"
    for size in range(n, 1, -1):
        layout: dict[str, Any] = {axis: size}
        try:
            made = replace(job, cluster=Cluster(job.cluster.accelerator, size, n, job.cluster.intra_link), **layout)
            if axis == "tp":
                made.cluster.link_for(size)
            return made
        except LLMHWError:
            continue
    return replace(job, cluster=Cluster(job.cluster.accelerator))


def _longest(job: ServingJob, least: int) -> int:
    """The longest sequence that fits, to a per cent, by the line through two needs; 0 where not even the least does."""
    most = max(least, int(job.model.max_seq_len or least))
    paged = job.software.paged
    whole = memory_of(replace(job, max_model_len=most)) if paged else None

    def needs(tokens: int) -> tuple[float, bool]:
        held = whole or memory_of(replace(job, max_model_len=tokens))
        if held.refusal and tokens == most:
            return inf, False
        lacks = max(held.cache_bytes(tokens, i) - left for i, left in enumerate(held.left_bytes))
        return lacks, lacks <= 0

    low, high = least, most
    lacking, fits = needs(low)
    if not fits:
        return 0
    beyond, fits = needs(high)
    if fits:
        return high
    for _ in range(4):
        guess = low + int((high - low) * lacking / (lacking - beyond)) if beyond < inf else (low + high) // 2
        middle = min(max(guess - guess % 16, low + 1), high - 1)
        if middle <= low or high - low <= low // 100:
            break
        found, fits = needs(middle)
        if fits:
            low, lacking = middle, found
        else:
            high, beyond = middle, found
    return low


# -- side by side -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """One device of a comparison: the layout that serves most within the level, one user alone, and training."""

    device: Accelerator
    choice: Choice | None
    figures: Mapping[str, Figure]
    why: str = ""


# Rows of the table: figure, its name, and whether more of it is better; None: neither.
_ROWS: tuple[tuple[str, str, bool | None], ...] = (
    ("devices", "devices", None),
    ("weights_bytes", "weights a device", None),
    ("longest", "longest context", True),
    ("alone", "tokens/s of one user alone", True),
    ("concurrency", "users within the level", True),
    ("tokens_per_second_per_user", "tokens/s of each then", None),
    ("tokens_per_second", "tokens/s of all", True),
    ("ttft", "first token then", False),
    ("dollars_per_hour", "rent an hour", False),
    ("dollars_per_million", "a million tokens", False),
    ("dollars_per_user_month", "rent of a user and month", False),
    ("purchase", "to buy", False),
    ("watts", "power", False),
    ("joules_per_token", "joules a token", False),
    ("watts_per_user", "power of a user", False),
    ("training_tokens_per_second", "training, tokens/s", True),
    ("training_mfu", "training, MFU", None),
    ("training_dollars_per_billion", "training, a billion tokens", False),
)


# What the verdict says of the best in a figure.
_SAID = {
    "alone": "Fastest for one user",
    "tokens_per_second": "most for all",
    "dollars_per_million": "cheapest a token",
    "joules_per_token": "least energy",
}


@dataclass(frozen=True, repr=False)
class Comparison(Report):
    """Devices side by side for one model: speed, memory, dollars, power, with 80 % intervals."""

    spec: ModelSpec
    demand: Demand
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        demand = self.demand
        text = "{model} side by side: {input:,} tokens in, {output:,} out"
        return said(text, model=self.spec.name, input=demand.input_tokens, output=demand.output_tokens)

    def best(self, name: str, more: bool) -> Column | None:
        """The column that is best in a figure."""
        known = [c for c in self.columns if name in c.figures]
        if len(known) < 2:
            return None
        return (max if more else min)(known, key=lambda c: c.figures[name].value)

    @property
    def verdict(self) -> str:
        """Who is fastest for one user, for all, and cheapest."""
        told = []
        more = {name: sign is True for name, _, sign in _ROWS}
        for name, word in _SAID.items():
            best = self.best(name, more[name])
            if best is not None:
                told.append(f"{said(word)}: {best.device.name} ({_told(best.figures[name])})")
        if not told:
            none = [c for c in self.columns if c.choice is None]
            if len(none) == len(self.columns):
                why = f"{none[0].device.name}: {none[0].why}"
                return said("Does not work on any of them: {why}", why=why)
            works = ", ".join(c.device.name for c in self.columns if c.choice is not None)
            return said("Works on {devices}.", devices=works)
        return said("{told}.", told="; ".join(told))

    def tables(self) -> list[Table]:
        heads = ("", *(c.device.name for c in self.columns))
        rows = [("layout", *(c.choice.layout if c.choice else "-" for c in self.columns))]
        for name, title, more in _ROWS:
            if any(name in c.figures for c in self.columns):
                best = None if more is None else self.best(name, more)
                cells = [(_told(c.figures[name], ends=True) if name in c.figures else "-") + (" *" if c is best else "")
                         for c in self.columns]  # fmt: skip
                rows.append((title, *cells))
        return [Table(self.title, heads, rows, prose=False)]

    def footer(self) -> list[str]:
        told = [f"{c.device.name}: {c.why}" for c in self.columns if c.why]
        return [said("* the best of them; in brackets the 80 % interval"), *told]

    def warnings(self) -> Sequence[str]:
        return self.notes

    def records(self) -> Sequence[dict[str, Any]]:
        found = []
        for c in self.columns:
            row: dict[str, Any] = {"model": self.spec.name, "device": c.device.name}
            row |= {"layout": c.choice.layout if c.choice else None, "why": c.why}
            for name, figure in c.figures.items():
                row[name] = figure.value
                if figure.low is not None:
                    row |= {f"{name}_low": figure.low, f"{name}_high": figure.high}
            found.append(row)
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.spec.name,
            "verdict": self.verdict,
            "devices": list(self.records()),
            "notes": list(self.notes),
        }


def _told(figure: Figure, *, ends: bool = False) -> str:
    if figure.unit == "count":
        return str(figure)
    return str(figure) if ends else format_quantity(figure.value, figure.unit)


def side_by_side(
    spec: ModelSpec | str,
    devices: Sequence[Accelerator | str],
    *,
    devices_each: int | None = None,
    demand: Demand | None = None,
    run: RunOptions = places_of.ANY,
    offers: Mapping[str, Sequence[Offer]] | None = None,
    train: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **job: Any,
) -> Comparison:
    """Devices beside each other for one model.

    devices_each   of each kind; default: as few as hold the model and keep the level
    demand         lengths, service level, quality
    train          whether training is compared too, on eight of each, or on so many
    job            other fields of `llmhw.ServingJob`

    Each column is what `llmhw plan serve` finds for that device; the numbers are those of its single prediction.

    >>> found = side_by_side("llama-3-8b", ["h100", "l4"])
    >>> found.best("alone", True).device.name
    'H100 SXM5 80GB'
    """
    spec = model(spec) if isinstance(spec, str) else spec
    cards = [accelerator_of(one) for one in devices]
    if devices_each is not None:
        check_count("gpus", devices_each, most=10**6)
    if len(cards) < 2:
        raise LLMHWError("compare takes two devices or more; give gpu twice, as in --gpu h100 --gpu h200")
    wanted = demand or Demand()
    columns: list[Column] = []
    wrong: list[str] = []
    notes: dict[str, None] = {}
    for i, card in enumerate(cards):
        try:
            offered = (offers or {}).get(card.name)
            columns.append(_column(spec, card, devices_each, wanted, run, train, notes, job, offered))
        except LLMHWError as error:
            columns.append(Column(card, None, {}, str(error)))
            wrong.append(str(error))
        if progress is not None:
            progress(i + 1, len(cards))
    if len(wrong) == len(cards) and len(set(wrong)) == 1:  # it is the question that is wrong, and no device
        raise LLMHWError(wrong[0])
    return Comparison(spec, wanted, tuple(columns), tuple(notes))


def _column(
    spec: ModelSpec, card: Accelerator, number: int | None, demand: Demand, run: RunOptions, train: bool,
    notes: dict[str, None], asked: Mapping[str, Any], offers: Sequence[Offer] | None,
) -> Column:  # fmt: skip
    if offers is None:
        offers, _ = places_of.offers(card, run)
    offers = [min(offers, key=lambda o: o.price.dollars_per_device_hour if o.price else 0.0)]
    one = ServingJob(model=spec, cluster=Cluster(card), **asked)
    plan = plan_serving(
        one, demand=demand, run=run, by="cost" if number is None else "speed", best=1, offers=offers,
        counts=(number,) if number else (),
    )  # fmt: skip
    notes |= dict.fromkeys(plan.notes)
    figures: dict[str, Figure] = {}
    why = ""
    if plan.choices:
        figures = dict(plan.best.figures) | _beside(plan.best, demand)
    else:
        why = plan.refused[0].why if plan.refused else plan.verdict
    if train:
        try:
            figures |= _trained(spec, card, number or 8, run)
        except LLMHWError as error:
            why = "; ".join(filter(None, (why, said("training: {error}", error=error))))
    return Column(card, plan.choices[0] if plan.choices else None, figures, why)


def _beside(choice: Choice, demand: Demand) -> dict[str, Figure]:
    """Figures of a comparison that a plan has not: memory, one user alone, power."""
    e = choice.estimate
    job = e.job
    low, high = time_interval(job, 1) or (1.0, 1.0)
    alone = serve(job, input_tokens=demand.input_tokens, output_tokens=demand.output_tokens, concurrency=1)
    speed = alone.point.tokens_per_second_per_user
    stage = e.memory.stages[e.memory.worst]
    found = {
        "weights_bytes": Figure(sum(float(p.value) for p in stage if p.name == "weights"), "bytes"),
        "longest": Figure(e.memory.longest, "tokens"),
        "alone": Figure(speed, "tokens/s", speed / high, speed / low),
    }
    users, rate = choice.figures["concurrency"], choice.figures["tokens_per_second"]
    if "dollars_per_hour" in choice.figures:
        month = choice.figures["dollars_per_hour"].value * HOURS_PER_MONTH
        found["dollars_per_user_month"] = Figure(month / users.value, "dollars")
    if (watts := e.watts) is not None:
        found["watts"] = Figure(watts, "W")
        found["joules_per_token"] = Figure(watts / rate.value, "J", watts / rate.most, watts / rate.least)
        found["watts_per_user"] = Figure(watts / users.value, "W")
    return found


def _trained(spec: ModelSpec, card: Accelerator, number: int, run: RunOptions) -> dict[str, Figure]:
    """Training's speed on so many devices, in the layout that a plan finds."""
    from llmhw.planning.training import plan_training

    length = min(4096, spec.max_seq_len or 4096)
    tokens = 1e9
    job = TrainingJob(model=spec, cluster=Cluster(card), seq_len=length)
    plan = plan_training(job, [(card.name, number)], run=run, tokens=tokens, best=1)
    if not plan.choices:
        raise LLMHWError(plan.refused[0].why if plan.refused else plan.verdict)
    kept = plan.best.figures
    found = {"training_tokens_per_second": kept["tokens_per_second"], "training_mfu": kept["mfu"]}
    if "dollars" in kept:
        found["training_dollars_per_billion"] = kept["dollars"]
    return found
