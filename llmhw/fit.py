"""What fits on a device, or on a few that share the model: inference by format, full training, LoRA and QLoRA.

Nothing is counted here: inference is an engine's plan, `llmhw.serving_memory`; training is `llmhw.training_memory`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from llmhw.checks import check_items, checked
from llmhw.formula import Estimate, Part, Report, Table, term
from llmhw.hardware import Accelerator, Cluster, accelerator, cards, larger
from llmhw.language import said
from llmhw.margin import barely, known_error, visible_bytes
from llmhw.memory import told_towers
from llmhw.model import ModelSpec
from llmhw.precision import CHECKPOINT, checkpoint_name, format_label, formats_in, number_format, weight_bytes
from llmhw.units import LLMHWError, check_choice, check_count, check_number, format_quantity, format_range

# `import llmhw` loads this module, and should stay quick: jobs and what is made of them come late.
if TYPE_CHECKING:
    from llmhw.job import ServingJob, TrainingJob
    from llmhw.serving import ServingMemory

# Beside the checkpoint's own; nvfp4 where a device multiplies 4-bit floats.
INFERENCE_FORMATS = ("bf16", "fp8", "int8", "nvfp4", "int4-gptq", "q4_k_m")

# What `fit` answers for.
USES = ("inference", "full", "full-8bit", "lora", "qlora")

# A model that states no longest sequence is asked about this many tokens at most.
_LIMIT = 131072
_INFERENCE = "inference, "
# More sequences than anybody runs on one device at a time.
_MOST = 2**16
# Parts of a training job that come with its tokens.
_ACTIVATIONS = ("activations", "layer being recomputed", "temporaries", "embedding and final norm", "logits and loss")


class Held(NamedTuple):
    """What a use needs of one device at some batch and length, and what the device offers for it.

    needed     bytes, by the meter that `offered` is read on
    offered    an engine's share of the device; in training all of it, as nvidia-smi shows it
    explained  makes `estimate`: most of those that are tried are asked for a number alone
    room       gives the formula behind `offered`
    error      share of the need that nine of ten measured needs are within: `llmhw.margin`
    job        of training
    least      of the need what cannot be given back: what is more than that fills a device, and makes none too small
    refusal    why an engine does not start all the same; "" where it does
    """

    needed: float
    offered: float
    explained: Callable[[], Estimate]
    room: Callable[[], str]
    error: float
    job: TrainingJob | None = None
    refusal: str = ""
    least: float | None = None

    @property
    def estimate(self) -> Estimate:
        """The need, part by part."""
        return self.explained()

    @property
    def fits(self) -> bool:
        return self.needed <= self.offered and not self.refusal


@dataclass(frozen=True, slots=True)
class Fit:
    """One use of a model on a device.

    use             what is done, in words
    held            what one device needs and offers
    max_seq_len     longest sequences that fit at this batch, at most the model's own limit; 0 if not one token does
    max_sequences   most sequences of this length that fit at a time; 0 if not one does
    way             what was tried and would make it fit; "" if it fits, or nothing would
    """

    use: str
    held: Held
    max_seq_len: int
    max_sequences: int
    way: str

    @property
    def estimate(self) -> Estimate:
        """The bytes needed, part by part."""
        return self.held.estimate

    @property
    def needed_bytes(self) -> float:
        """What it needs of a device."""
        return self.held.needed

    @property
    def usable_bytes(self) -> float:
        """What the device offers."""
        return self.held.offered

    def explain(self) -> str:
        """The formulas behind the need and the offer."""
        return f"{self.estimate.explain()}\n\n{self.held.room()}"

    @property
    def fits(self) -> bool:
        """Whether the need is within the offer, and the engine starts."""
        return self.held.fits

    @property
    def fits_barely(self) -> bool:
        """Whether it fits by less than the known error: see `llmhw.margin`."""
        return self.fits and barely(self.needed_bytes, self.usable_bytes, self.held.error)

    @property
    def verdict(self) -> str:
        """Fits, fits barely, does not fit, does not start."""
        if self.held.refusal:
            return "Does not start"
        return "Does not fit" if not self.fits else "Fits barely" if self.fits_barely else "Fits"

    @property
    def short(self) -> str:
        """By how much it falls short; "" if it fits."""
        if self.fits:
            return ""
        if self.held.refusal:
            return "no, does not start"
        return said("no, short by {short}", short=format_quantity(self.needed_bytes - self.usable_bytes, "bytes"))

    @property
    def way_out(self) -> str:
        """By how much it falls short, and what would make it fit; "" if it fits."""
        if self.fits:
            return ""
        if self.held.refusal:
            return self.held.refusal
        short = said("short by {short}", short=format_quantity(self.needed_bytes - self.usable_bytes, "bytes"))
        return f"{short}; {self.way or said('needs more devices than tensor parallelism can use')}"

    def to_row(self) -> dict[str, Any]:
        """Plain numbers in base units, without parts."""
        names = (
            "use",
            "fits",
            "fits_barely",
            "needed_bytes",
            "usable_bytes",
            "max_seq_len",
            "max_sequences",
            "way_out",
        )
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers in base units."""
        return self.to_row() | {"parts": self.estimate.to_dict()["parts"]}


@dataclass(frozen=True, slots=True, repr=False)
class FitTable(Report):
    """The answer of `fit`: a row for each use. Iterate over it, or take `.to_frame()`.

    devices    that share the model (tp)
    engine     whose plan the rows of inference are, by format of the weights
    refused    formats that no row is for, and why
    left_out   why there are no rows of training; "" if there are
    towers     which towers are counted beside the text model, and which parts of it are not, in words
    """

    model: str
    device: str
    devices: int
    batch: int
    seq_len: int
    kv_format: str
    engine: dict[str, str]
    rows: tuple[Fit, ...]
    refused: dict[str, str]
    left_out: str = ""
    towers: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What was asked, in one line."""
        place = self.device if self.devices == 1 else f"{self.devices} x {self.device}, tp={self.devices}"
        return said(
            "{model} on {place}, batch {batch}, {seq_len:,} tokens, KV cache in {kv_format}",
            model=self.model,
            place=place,
            batch=self.batch,
            seq_len=self.seq_len,
            kv_format=self.kv_format,
        )

    @property
    def verdict(self) -> str:
        """What fits, and what does not."""
        found = []
        for told in ("Fits", "Fits barely", "Does not fit", "Does not start"):
            uses = [row.use for row in self.rows if row.verdict == told]
            formats = [use.removeprefix(_INFERENCE) for use in uses if use.startswith(_INFERENCE)]
            named = [said("inference in {formats}", formats=", ".join(formats))] if formats else []
            named += [_spoken(use) for use in uses if not use.startswith(_INFERENCE)]
            found += [said("{verdict}: {uses}.", verdict=said(told), uses="; ".join(named))] if named else []
        return " ".join(found)

    def warnings(self) -> list[str]:
        """What there is no row for."""
        told = [said("no inference in {name}: {why}", name=name, why=why) for name, why in self.refused.items()]
        return [
            *self.towers,
            *told,
            *([said("no training: {left_out}", left_out=self.left_out)] if self.left_out else []),
        ]

    def next_steps(self) -> list[str]:
        """For each use that does not fit, what was tried and would."""
        return [said("{use}: {way}", use=_spoken(row.use), way=row.way) for row in self.rows if row.way]

    def explain(self, use: str | None = None) -> str:
        """The formulas behind one use, or all."""
        rows = self.rows if use is None else (self[use],)
        return "\n\n".join(f"{row.use}\n\n{row.estimate.explain()}" for row in rows)

    def __iter__(self) -> Any:
        return iter(self.rows)

    def __getitem__(self, use: str) -> Fit:
        found = {row.use: row for row in self.rows}
        short = {name.partition(" (")[0]: row for name, row in found.items()}  # "inference, checkpoint"
        if use in short | found:
            return (short | found)[use]
        why = "".join(f"; {line}" for line in self.warnings())
        raise LLMHWError(f"use={use!r} is not in this table; use one of {', '.join(found)}{why}")

    def text_rows(self) -> list[tuple[str, str, str, str, str, str]]:
        """Use, verdict, need, offer, longest sequence and most sequences as text."""
        return [
            (
                _spoken(row.use),
                row.short or ("barely" if row.fits_barely else "yes"),
                *format_range((row.usable_bytes, row.needed_bytes), "bytes")[::-1],  # type: ignore[misc]
                f"{row.max_seq_len:,}" if row.max_seq_len else "-",
                f"{row.max_sequences:,}" if row.max_sequences else "-",
            )
            for row in self.rows
        ]

    def records(self) -> list[dict[str, Any]]:
        """Needs and offers in bytes, by use."""
        asked = ("model", "device", "devices", "batch", "seq_len", "kv_format")
        told = {name: getattr(self, name) for name in asked}
        return [told | row.to_row() | {"towers": "; ".join(self.towers)} for row in self.rows]

    index = "use"

    def tables(self) -> list[Table]:
        columns = ("use", "fits", "needs", "offers", "longest", "most")
        full = (*columns[:-2], "longest sequence", "most sequences")
        return [Table(self.title, full, self.text_rows(), right=2, head=columns)]


def _spoken(use: str) -> str:
    """A use in the reader's language."""
    method, _, rest = use.partition(", ")
    if use.startswith(_INFERENCE):
        return said("inference, {format}", format=rest)
    if rest.startswith("rank "):
        return said("{method}, rank {rank}", method=method, rank=rest.removeprefix("rank "))
    return said(use)


def training_job(
    spec: ModelSpec, *, device: str | Accelerator, devices: int = 1, batch: int = 1, **asked: Any
) -> TrainingJob:
    """The job of one micro-batch under full recompute, as plain PyTorch and transformers run it.

    devices   tensor-parallel ranks
    batch     sequences of the micro-batch
    asked     other fields of `TrainingJob`: seq_len, optimizer, precision, frozen

    >>> from llmhw import model
    >>> job = training_job(model("gemma-2-2b"), device="h100")
    >>> job.recompute, job.attention
    ('full', 'eager')
    """
    from llmhw.job import Parallelism, TrainingJob

    return TrainingJob(
        model=spec,
        cluster=Cluster(device, devices),
        parallelism=Parallelism(tp=devices),
        micro_batch=batch,
        recompute="full",
        **asked,
    )


@checked
def checkpointed_activations(
    spec: ModelSpec, *, device: str | Accelerator, devices: int = 1, batch: int = 1, seq_len: int
) -> Estimate:
    """Activations of a `training_job` in 16 bit at its fullest moment, as `llmhw.training_memory` counts them.

    Raises `LLMHWError` for a model with linear attention.

    >>> from llmhw import model
    >>> [part.name for part in checkpointed_activations(model("llama-3-8b"), device="h100", seq_len=4096)]
    ['activations', 'embedding and final norm', 'logits and loss']
    """
    from llmhw.training import memory

    asked: dict[str, Any] = {"batch": batch, "seq_len": seq_len, "precision": "bf16", "frozen": True}
    (stage,) = memory(training_job(spec, device=device, devices=devices, **asked)).stages
    return replace(stage, title=f"activations of {spec.name}", parts=tuple(p for p in stage if p.name in _ACTIVATIONS))


# -- one use ----------------------------------------------------------------------------------


class _Question(NamedTuple):
    """What is asked of every use."""

    spec: ModelSpec
    gpu: Accelerator
    devices: int
    batch: int
    seq_len: int
    kv_format: str | None
    rank: int
    utilization: float | None
    plans: dict[Any, ServingMemory]  # that were made already
    engine: str | None = None
    trained: Mapping[str, Any] = {}  # fields of every training job, which nobody changes


def _serving_job(q: _Question, name: str) -> ServingJob:
    """The job that `llmhw serve` would be asked for."""
    from llmhw.engines import default_engine, serving_engine
    from llmhw.job import ServingJob

    asked: dict[str, Any] = {"weights": name, "kv": q.kv_format, "max_model_len": q.seq_len}
    asked |= {"utilization": q.utilization, "engine": q.engine, "model": q.spec, "cluster": Cluster(q.gpu, q.devices)}
    fmt = formats_in(q.spec, name)[0]
    if not (serving_engine(q.engine) if q.engine else default_engine(q.gpu, fmt)).cells:
        return ServingJob(**asked, tp=q.devices)
    # llama.cpp deals layers, and allocates as many slots as it is told
    return ServingJob(**asked, pp=q.devices, max_sequences=q.batch)


def _inference(name: str, q: _Question) -> Held:
    """An engine's plan: what it holds beside the cache, and the cache of the batch."""
    found = _plan(name, q)
    needed = found.needed_bytes(q.seq_len, -(-q.batch // found.job.attention_dp))

    def explained() -> Estimate:
        stage = found.stages[found.worst]
        return replace(stage, parts=(*stage.parts, *_cache_part(found, q, needed - float(stage.total))))

    refusal = found.refusal if needed <= found.budget_bytes else ""
    return Held(needed, found.budget_bytes, explained, lambda: found.explain("budget"), found.error, refusal=refusal)


def _plan(name: str, q: _Question) -> ServingMemory:
    """The plan of an engine: where it has pages that layers do not share, the same for all lengths above a batch's."""
    from llmhw.serving import serving_memory

    longest = q._replace(seq_len=max(q.spec.max_seq_len or _LIMIT, q.seq_len), batch=1)
    for asked in (longest, q):
        key = (name, asked.gpu.name, asked.devices, asked.seq_len, asked.batch)
        if key not in q.plans:
            q.plans[key] = serving_memory(_serving_job(asked, name))
        plan = q.plans[key]
        alike = not (any(plan.pools) or q.spec.towers) and q.seq_len >= plan.job.max_batched_tokens
        if plan.job.software.paged and alike:
            break
        if plan.job.software.paged:
            q = q._replace(batch=1)
    return plan


def _cache_part(found: Any, q: _Question, cache: float) -> Iterable[Part]:
    from llmhw.memory import kv_cache

    room = q.seq_len if found.job.software.paged else found.job.context_limit
    held = kv_cache(q.spec, batch=q.batch, seq_len=room, kv_format=found.job.kv, tp=q.devices)
    whole = float(held.total)
    # whole pages are a little more than the tokens
    times = cache / whole if whole else 1.0
    return [Part("KV cache", tuple(t.scaled(times) for part in held for t in part.terms))]


def _trained(q: _Question, **recipe: Any) -> Held:
    """Training by the nvidia-smi meter."""
    from llmhw.training import device_bytes, memory

    recipe = {**q.trained, **recipe}
    job = training_job(q.spec, device=q.gpu, devices=q.devices, batch=q.batch, seq_len=q.seq_len, **recipe)

    def explained() -> Estimate:
        return memory(job).stages[0]

    room = partial(_visible, q.gpu)
    held = device_bytes(job), visible_bytes(q.gpu)
    return Held(*held, explained, room, known_error("training"), job, least=device_bytes(job, least=True))


def _visible(device: Accelerator) -> str:
    """`visible_bytes` as a formula: a job of training may take all that CUDA shows."""
    from llmhw.serving import engine_budget_bytes

    sizes: dict[str, Any] = {
        "memory": device.memory_bytes,
        "driver": device.memory_bytes - visible_bytes(device),
        "utilization": 1,
    }
    return term(engine_budget_bytes, "what a program may take", **sizes).explain()


# -- the table --------------------------------------------------------------------------------


def _most(holds: Callable[[int], Held], most: int, low: int = 1) -> int:
    """The largest number from `low` on at which a use fits; 0 if there is none. What is needed grows with it."""
    high = most
    least, greatest = holds(low), holds(high)
    if not least.fits:
        return 0
    if greatest.fits:
        return most
    known = [(low, _curve(least)), (high, _curve(greatest))]
    for step in count(1):
        if high - low <= 1:
            break
        # needs are nearly straight lines or parabolas; every fourth step is half the way, whatever they look like
        guess = low + _fitting(known[-3:], range(low + 1, high), least.offered) if step % 4 else (low + high) // 2
        middle = min(max(guess, low + 1), high - 1)
        held = holds(middle)
        low, high = (middle, high) if held.fits else (low, middle)
        known.append((middle, _curve(held)))
    return low


def _curve(held: Held) -> float:
    """The need without what stops growing where a device is full."""
    return held.needed if held.least is None else held.least


def _fitting(known: Sequence[tuple[int, float]], numbers: range, offered: float) -> int:
    """How many of these numbers need no more than is offered, on the curve through two or three known needs."""
    (a, at_a), (b, at_b), *more = known
    slope, bend = (at_b - at_a) / (b - a), 0.0
    for c, at_c in more:
        bend = ((at_c - at_a) / (c - a) - slope) / (c - b)
    return bisect_left(numbers, True, key=lambda n: at_a + slope * (n - a) + bend * (n - a) * (n - b) > offered)


@lru_cache(maxsize=256)
def _known_most(asked: tuple[Any, ...]) -> dict[float, int]:
    """What `_most_trained` has found already, by room."""
    return {}


def _most_trained(held: Held, q: _Question, name: str, holds: Callable[[int], Held], most: int) -> int:
    """`_most` of training, whose need knows nothing of a device: more room holds no less, so others' answers help."""
    from llmhw.training import OnAnyDevice

    assert held.job is not None
    known = _known_most((OnAnyDevice(held.job), q.devices, q.gpu.half_format, name, most))
    if held.offered not in known:
        low = max((n for room, n in known.items() if room < held.offered), default=0)
        high = min((n for room, n in known.items() if room > held.offered), default=most)
        known[held.offered] = high if low == high else _most(holds, high, low or 1)
    return known[held.offered]


def _row(use: str, at: Callable[[_Question], Held], q: _Question, able: Callable[[Accelerator], bool]) -> Fit:
    held = at(q)

    def most_of(name: str, most: int) -> int:
        def holds(n: int) -> Held:
            change: dict[str, Any] = {name: n}
            return at(q._replace(**change))

        return _most(holds, most) if held.job is None else _most_trained(held, q, name, holds, most)

    longest = most_of("seq_len", max(q.spec.max_seq_len or _LIMIT, q.seq_len))
    # where one sequence does not fit, no number of them does
    most = most_of("batch", _MOST) if held.fits or q.batch > 1 else 0
    return Fit(use, held, longest, most, _way_out(held, longest, at, q, able))


def _way_out(
    held: Held, longest: int, at: Callable[[_Question], Held], q: _Question, able: Callable[[Accelerator], bool]
) -> str:
    """What would make a use fit, each tried: shorter sequences, a larger device of the same vendor, more devices."""
    if held.fits:
        return ""
    if held.refusal:
        return held.refusal.partition("; ")[2]
    if longest:
        return said("fits up to {longest:,} tokens", longest=longest)

    def fits(change: dict[str, Any]) -> bool:
        try:
            return at(q._replace(**change)).fits
        except LLMHWError:
            return False

    tried = 0
    for rival in larger(q.gpu):
        if rival.memory_bytes >= held.needed * 0.9 and rival.memory_bytes > tried and able(rival):
            if fits({"gpu": rival}):
                return said("fits on {name}", name=rival.name)
            tried = rival.memory_bytes  # no other of that size holds it either
    if held.job and (more := _more_devices(held.job, held.offered)):
        return said("fits with {changes}", changes=more)
    for devices in (2 * q.devices, 4 * q.devices, 8 * q.devices):
        if fits({"devices": devices}):
            return said("fits with {changes}", changes=f"devices={devices}")
    return ""


@lru_cache(maxsize=256)
def _known_devices(asked: tuple[Any, ...]) -> dict[float, str]:
    """What `_more_devices` has found already, by room."""
    return {}


def _more_devices(job: TrainingJob, room: float) -> str:
    """The fewest devices that do, in words; "" where none do. The same for all devices with as much room and links."""
    from llmhw.training import OnAnyDevice, least_devices

    c = job.cluster
    links = (c.devices, c.devices_per_node, c.intra_link is None, c.inter_link is None)
    known = _known_devices((OnAnyDevice(job), c.accelerator.architecture, c.accelerator.half_format, links))
    if room not in known:
        found = least_devices(job)
        known[room] = found.text if found else ""
    return known[room]


def _trains(device: Accelerator) -> bool:
    return device.half_format in device.peaks


def _serves(q: _Question, name: str, device: Accelerator) -> bool:
    """Whether an engine has what it needs to know of a device and these formats."""
    from llmhw.service import engine_for

    try:
        engine_for(_serving_job(q._replace(gpu=device), name))
    except LLMHWError:
        return False
    return True


def _checked(q: _Question) -> _Question:
    """The question, if its numbers make sense."""
    from llmhw.job import MOST

    counts = {"batch": _MOST, "seq_len": MOST, "devices": MOST, "rank": q.spec.hidden}
    for name, most in counts.items():
        if check_count(name, getattr(q, name)) > most:
            raise LLMHWError(f"{name}={getattr(q, name)!r} must be at most {most:,}")
    limit = q.spec.max_seq_len
    if limit and q.seq_len > limit:
        raise LLMHWError(f"seq_len={q.seq_len} is longer than {q.spec.name} was made for, {limit}; use at most that")
    if q.utilization is not None:
        check_number("utilization", q.utilization, above=True, most=1)
    return q._replace(batch=int(q.batch), seq_len=int(q.seq_len), devices=int(q.devices), rank=int(q.rank))


@checked
def fit(
    spec: ModelSpec,
    device: str | Accelerator,
    *,
    devices: int = 1,
    batch: int = 1,
    seq_len: int | None = None,
    formats: Iterable[str] | None = None,
    kv_format: str | None = None,
    rank: int = 16,
    targets: str = "all-linear",
    utilization: float | None = None,
    engine: str | None = None,
    software: str | None = None,
    loss: str | None = None,
    uses: Iterable[str] | None = None,
) -> FitTable:
    """What of this model fits on one device, or on several that share it.

    device        an `Accelerator` or its name
    devices       tensor-parallel ranks; what is shown is what each of them holds
    batch         sequences at a time: cached together for inference, a micro-batch for training
    seq_len       tokens of each, at most the model's own limit; default: 4096, or that limit
    formats       weight formats to try for inference; default: that of a quantized checkpoint, and of
                  `INFERENCE_FORMATS` those that can be served there
    kv_format     format of the cache; default: the engine's
    rank, targets   of the LoRA adapters, as in `llmhw.TrainingJob`
    utilization   share of a device that an engine takes; default: the engine's own
    engine        that serves, with a version if need be; default: the one that `llmhw serve` has by default
    software, loss   that trains, and how it computes the loss, as in `llmhw.TrainingJob`
    uses          what to try of `USES`; default: all

    Inference is the plan of that engine: `batch` sequences fit beside the weights.
    Training is `llmhw.training_memory` of a `training_job`, with full recompute, the least that training can do with.
    A model whose activations no profile covers, and a device without a 16-bit rate, have no rows of training;
    `left_out` says why.

    >>> from llmhw import model
    >>> table = fit(model("llama-3-8b"), "RTX 4090")
    >>> table["inference, bf16"].fits, table["full training, AdamW mixed precision"].fits
    (True, False)
    >>> [row.use for row in fit(model("llama-3-8b"), "RTX 4090", uses=["qlora"])]
    ['QLoRA, rank 16']
    """
    gpu = accelerator(device) if isinstance(device, str) else device
    kv = None if kv_format is None else number_format(kv_format).name
    seq_len = min(4096, spec.max_seq_len or 4096) if seq_len is None else seq_len
    q = _checked(_Question(spec, gpu, devices, batch, seq_len, kv, rank, utilization, {}, engine))
    q = q._replace(trained={"software": software, "loss": loss})
    asked = USES if uses is None else check_items("uses", uses, partial(check_choice, choices=USES), empty=False)
    jobs, refused = _served(q, formats) if "inference" in asked else ({}, {})
    called = {name: format_label(spec, name) for name in jobs}
    rows = [_row(_INFERENCE + called[name], partial(_inference, name), q, partial(_serves, q, name)) for name in jobs]
    trained = _trainings(q, targets, asked)
    left_out = _untrained(q) if trained else ""
    if not left_out:
        rows += [_row(use, at, q, _trains) for use, at in trained.items()]
    if not rows:
        why = [*list(refused.values())[:1], *([f"no training: {left_out}"] if left_out else [])]
        raise LLMHWError("; ".join(why))
    engines = {called[name]: job.engine for name, job in jobs.items()}
    caches = " or ".join(dict.fromkeys(job.kv for job in jobs.values())) or "-"
    place = (spec.name, gpu.name, q.devices, q.batch, q.seq_len)
    towers = tuple(told_towers(spec, how="whole on each device"))
    return FitTable(*place, caches, engines, tuple(rows), refused, left_out, towers)


@checked
def smallest_card(
    spec: ModelSpec, weights: str, *, vendor: str = "NVIDIA", seq_len: int | None = None, batch: int = 1
) -> Accelerator | None:
    """The card with the least memory on which inference in that format fits, as `fit` has it; None where none does.

    seq_len   tokens of each sequence; default: 4096, or the model's own limit

    Of cards with equal memory it is the first that can: the catalog's order says nothing of which is better.

    >>> from llmhw import model
    >>> [smallest_card(model("llama-3.1-8b"), name).memory_vendor for name in ("bf16", "int4-awq")]
    ['16 GB', '10 GB']
    """
    least = weight_bytes(spec, weights)
    seq_len = min(4096, spec.max_seq_len or 4096) if seq_len is None else seq_len
    refused: set[int] = set()
    for card in cards(vendor):
        if card.memory_bytes < least or card.memory_bytes in refused:
            continue
        q = _checked(_Question(spec, card, 1, batch, seq_len, None, 1, None, {}))
        try:
            if _inference(weights, q).fits:
                return card
        except LLMHWError:  # an engine that does not run there, a format that it does not multiply
            continue
        refused.add(card.memory_bytes)  # too little for the others of that size, too
    return None


def _trainings(q: _Question, targets: str, asked: Iterable[str]) -> dict[str, Callable[[_Question], Held]]:
    """The ways to train among `USES` that are asked for: what the table calls them, and what each needs."""
    adapters: dict[str, Any] = {"precision": "bf16", "frozen": True, "rank": q.rank, "targets": targets}
    known: dict[str, tuple[str, dict[str, Any]]] = {
        "full": ("full training, AdamW mixed precision", {"optimizer": "adamw", "precision": "bf16-mixed"}),
        "full-8bit": ("full training, 8-bit AdamW in bf16", {"optimizer": "adamw-8bit", "precision": "bf16"}),
        "lora": (f"LoRA, rank {q.rank}", adapters),
        "qlora": (f"QLoRA, rank {q.rank}", {**adapters, "base": "nf4-dq"}),
    }
    return {use: partial(_trained, **recipe) for name, (use, recipe) in known.items() if name in asked}


def _untrained(q: _Question) -> str:
    """Why nothing can be said of training there; "" if it can."""
    try:
        q.gpu.peak(q.gpu.half_format)
        if q.devices > 1:
            Cluster(q.gpu, q.devices).link_for(q.devices)  # without one nothing is trained together
        checkpointed_activations(q.spec, device=q.gpu, devices=q.devices, seq_len=1)
    except LLMHWError as error:
        return str(error)
    return ""


def _served(q: _Question, formats: Iterable[str] | None) -> tuple[dict[str, ServingJob], dict[str, str]]:
    """The job of each format, and why there is none of others; a default that cannot be served is not asked for."""
    jobs: dict[str, ServingJob] = {}
    refused: dict[str, str] = {}
    for name in _usual_formats(q) if formats is None else formats:
        if not (isinstance(name, str) and name == CHECKPOINT):
            number_format(name)  # a name that nobody knows is no format to refuse
        try:
            jobs[name] = _serving_job(q, name)
        except LLMHWError as error:
            refused[name] = str(error)
    told = refused if formats is not None or not jobs else {CHECKPOINT: refused.get(CHECKPOINT, "")}
    return jobs, {name: why for name, why in told.items() if why}


def _usual_formats(q: _Question) -> list[str]:
    """The checkpoint's own format if it is quantized, and others that devices like this one multiply."""
    names = ["bf16" if "bf16" in q.gpu.peaks else "fp16", *INFERENCE_FORMATS[1:]]
    if "fp4" not in q.gpu.peaks:
        names.remove("nvfp4")
    if not q.spec.quantization:
        return names
    try:
        own = checkpoint_name(q.spec)
    except LLMHWError:  # its row says why
        own = CHECKPOINT
    return [CHECKPOINT, *(name for name in names if number_format(name).name != own)]
