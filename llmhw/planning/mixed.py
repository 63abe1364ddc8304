"""Unequal cards in one machine, or in a pipeline: layers dealt by memory, a pass as the sum over the cards.

As llama.cpp splits a model by layers, and pipelines of vLLM with VLLM_PP_LAYER_PARTITION. Tensor parallelism cuts all
cards alike: the one with the least memory and the slowest one count, see `equal_parts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmhw.engine import Engine, engine_of, formats_of
from llmhw.engines import serving_engine
from llmhw.formula import Report, Table
from llmhw.hardware import Accelerator, Cluster, Link, accelerator_of, link_of
from llmhw.job import ServingJob
from llmhw.language import said
from llmhw.memory import kv_cache, weights
from llmhw.model import ModelSpec, Tensor
from llmhw.planning.demand import QUALITY
from llmhw.precision import component_formats, formats_in, number_format
from llmhw.service import lender, time_interval
from llmhw.serving import ServingMemory, parts_beside
from llmhw.units import LLMHWError, check_choice, check_count, format_quantity


@dataclass(frozen=True)
class Share:
    """What one card has of a model.

    layers    numbers of its layers
    weights   bytes, with embedding or head where it has them
    cache     bytes of the sequences
    beside    bytes of workspaces and context
    budget    bytes that the engine may take
    """

    device: Accelerator
    layers: range
    weights: float
    cache: float
    beside: float
    budget: float

    @property
    def needed(self) -> float:
        """Bytes in all."""
        return self.weights + self.cache + self.beside

    @property
    def fits(self) -> bool:
        """Whether the card holds it."""
        return self.needed <= self.budget


def _tensors(job: ServingJob, layers: range) -> list[tuple[Tensor, int]]:
    """Those of some layers; embedding before the first, unless the host reads its rows; head last."""
    spec, host = job.model, job.software.rows_in_host
    held = [(t, 1) for i in layers for t in spec.layers[i].tensors]
    first, last = layers.start == 0, layers.stop == spec.num_layers
    for t in spec.tensors:
        if (t.part == "tokens" and ((first and not host) or (spec.tied and last))) or (t.part != "tokens" and last):
            held.append((t, 1))
    return held


def dealt_by_memory(spec: ModelSpec, rooms: Sequence[float]) -> list[range]:
    """Layers dealt in proportion to the rooms, each at least one; as llama.cpp deals them by free memory.

    >>> from llmhw import model
    >>> [len(part) for part in dealt_by_memory(model("llama-3-8b"), [24.0, 12.0, 12.0])]
    [16, 8, 8]
    """
    layers, total = spec.num_layers, sum(rooms)
    if len(rooms) > layers:
        raise LLMHWError(f"{len(rooms)} cards are more than layers={layers}; every card needs a layer")
    ends, done, sofar = [], 0, 0.0
    for i, room in enumerate(rooms):
        sofar += room
        left = len(rooms) - i - 1
        done = min(max(done + 1, round(layers * sofar / total)), layers - left)
        ends.append(done)
    return [range(a, b) for a, b in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True, repr=False)
class Mixed(Report):
    """One model on unequal cards.

    shares            what each card has, in the order of the layers
    job               the same on the first card alone: engine and formats
    seconds           of a decoding pass, by card
    first_token       seconds, of a prompt that passes all cards
    sequences, context   at a time, and tokens of each
    interval          least and most of measured over predicted time
    """

    job: ServingJob
    shares: tuple[Share, ...]
    seconds: tuple[float, ...]
    sends: float
    first_token: float
    sequences: int
    context: int
    link: Link | None
    interval: tuple[float, float] | None
    notes: tuple[str, ...] = field(default=())

    @property
    def fits(self) -> bool:
        """Whether every card holds its share."""
        return all(share.fits for share in self.shares)

    @property
    def tpot(self) -> float:
        """Seconds between two tokens: the cards take turns."""
        return sum(self.seconds) + self.sends

    @property
    def tokens_per_second(self) -> float:
        """Of all sequences."""
        return self.sequences / self.tpot

    @property
    def cards(self) -> str:
        """The cards in words."""
        return " + ".join(share.device.name for share in self.shares)

    @property
    def title(self) -> str:
        job = self.job
        text = "{model} in {weights}, KV cache in {kv}, layers dealt over {cards}, {engine}"
        told = {"model": job.model.name, "weights": job.weights, "kv": job.kv, "engine": job.engine}
        return said(text, **told, cards=self.cards)

    @property
    def verdict(self) -> str:
        """Whether it fits, and how fast it is."""
        short = max(self.shares, key=lambda s: s.needed - s.budget)
        if not self.fits:
            missing = format_quantity(short.needed - short.budget, "bytes")
            text = "Does not fit: {device} is short by {missing} with its {layers} layers."
            return said(text, device=short.device.name, missing=missing, layers=len(short.layers))
        low, high = self.interval or (1.0, 1.0)
        each = 1 / self.tpot
        return said(
            "Fits; {speed} for each of {users} (80 %: {low} to {high}), {context:,} tokens each.",
            speed=format_quantity(each, "tokens/s"),
            users=self.sequences,
            low=format_quantity(each / high, ""),
            high=format_quantity(each / low, ""),
            context=self.context,
        )

    def tables(self) -> list[Table]:
        rows = [
            (
                share.device.name,
                f"{len(share.layers)}",
                format_quantity(share.weights, "bytes"),
                format_quantity(share.cache, "bytes"),
                format_quantity(share.needed, "bytes"),
                format_quantity(share.budget, "bytes"),
                format_quantity(seconds, "seconds"),
            )
            for share, seconds in zip(self.shares, self.seconds, strict=True)
        ]
        heads = ("card", "layers", "weights", "cache", "needs", "may take", "of a pass")
        return [Table(self.title, heads, rows)]

    def footer(self) -> list[str]:
        first, following = format_quantity(self.first_token, "seconds"), format_quantity(self.tpot, "seconds")
        return [said("first token {first}, next token {next}; the cards take turns", first=first, next=following)]

    def warnings(self) -> Sequence[str]:
        return self.notes

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: bytes, seconds, tokens."""
        return {
            "model": self.job.model.name,
            "engine": str(self.job.engine),
            "weights": str(self.job.weights),
            "kv": str(self.job.kv),
            "fits": self.fits,
            "verdict": self.verdict,
            "tpot_seconds": self.tpot,
            "ttft_seconds": self.first_token,
            "tokens_per_second": self.tokens_per_second,
            "interval": self.interval and list(self.interval),
            "sequences": self.sequences,
            "context": self.context,
            "cards": [
                {"device": s.device.name, "layers": len(s.layers), "weights_bytes": s.weights, "cache_bytes": s.cache,
                 "needed_bytes": s.needed, "budget_bytes": s.budget, "fits": s.fits, "seconds": t}
                for s, t in zip(self.shares, self.seconds, strict=True)
            ],
        }  # fmt: skip

    def to_row(self) -> dict[str, Any]:
        return {name: value for name, value in self.to_dict().items() if name not in ("cards", "interval")}


def mixed(
    spec: ModelSpec,
    devices: Sequence[Accelerator | str],
    *,
    engine: str = "llama.cpp",
    weights_format: str | None = None,
    kv: str | None = None,
    input_tokens: int = 1000,
    output_tokens: int = 500,
    context: int = 4096,
    sequences: int = 1,
    link: Link | str | None = None,
) -> Mixed:
    """A model split by layers over unequal cards of one machine.

    devices          the cards, in the order of the layers
    weights_format, kv   as `llmhw.ServingJob` has them
    context          tokens of each sequence that the cache has room for, at least those of a request
    sequences        at work together
    link             between the cards; default: what the slower of two neighbours hangs on

    Layers are dealt by memory; every card reads its own weights and cache, and the cards take turns, so that a pass is
    the sum over them and hands its hidden states on.

    >>> from llmhw import model
    >>> found = mixed(model("llama-3.1-8b"), ["RTX 3090", "RTX 4090"], weights_format="Q4_K_M")
    >>> found.fits, [len(share.layers) for share in found.shares]
    (True, [16, 16])
    """
    cards = [accelerator_of(one) for one in devices]
    if len(cards) < 2:
        raise LLMHWError("devices must be two cards or more; one alone is a question for llmhw.serve")
    many, length = (
        check_count("sequences", sequences),
        max(check_count("context", context), input_tokens + output_tokens),
    )
    asked: dict[str, Any] = {"weights": weights_format, "kv": kv, "engine": engine, "max_sequences": many}
    jobs = [ServingJob(model=spec, cluster=Cluster(d), max_model_len=length, **asked) for d in cards]
    asked = {"weights": str(jobs[0].weights), "kv": str(jobs[0].kv)}
    jobs = [replace(job, **asked) for job in jobs]
    budgets = [_budget(job) for job in jobs]
    beside = [sum(float(part.value) for part in parts_beside(job, 0)) for job in jobs]
    parts = dealt_by_memory(spec, [max(b - more, 1.0) for b, more in zip(budgets, beside, strict=True)])
    shares, engines = [], []
    for job, layers, budget, more in zip(jobs, parts, budgets, beside, strict=True):
        held = float(weights(spec, str(job.weights), tensors=_tensors(job, layers)).total)
        cached = float(kv_cache(spec, batch=many, seq_len=length, kv_format=job.kv, layers=layers).total)
        shares.append(Share(job.cluster.accelerator, layers, held, cached, more, budget))
        engines.append(_engine(job, layers))
    joined = link_of("link", link) or _slowest(cards)
    load: dict[str, Any] = {"decoding": many, "context": input_tokens + output_tokens / 2}
    times = [float(one.seconds(**load)) for one in engines]
    # the loop that schedules and samples runs once, not on every card
    once = [float(one.timed(**load, detail="parts").parts.get("scheduling", 0.0)) for one in engines]
    times = [t - (o if i else 0.0) for i, (t, o) in enumerate(zip(times, once, strict=True))]
    chunk = jobs[0].max_batched_tokens
    # a card begins with a chunk once the one before has done it
    alone = [float(one.prompt_seconds(input_tokens, chunk=chunk)) for one in engines]
    prompt = max(alone) + (sum(alone) - max(alone)) / max(1, -(-input_tokens // chunk))
    sends = sum(one.constants.sends for one in engines[:-1])
    moved = many * spec.hidden * 2 * (len(cards) - 1)
    sends += moved / joined.bytes_per_second if joined else 0.0
    sure = time_interval(jobs[0], many)
    return Mixed(jobs[0], tuple(shares), tuple(times), sends, prompt, many, length, joined, sure, _notes(joined))


def _budget(job: ServingJob) -> float:
    return float(ServingMemory(job, ()).room_beside(0.0))


def _engine(job: ServingJob, layers: range) -> Engine:
    """The engine of one card with its layers; the head is the last card's."""
    spec, fmt = job.model, str(job.weights)
    outside = spec.tensors if layers.stop == spec.num_layers else ()
    part = replace(spec, layers=tuple(spec.layers[i] for i in layers), tensors=outside, mtp_tensors=(), towers=())
    constants = lender(job.software).constants
    made = engine_of(part, job.cluster, engine=constants, weights=fmt, kv=str(job.kv))
    kept = component_formats(part, fmt) | {(-1, ""): formats_in(spec, fmt)[0]}
    kept.setdefault((-1, "head"), kept[-1, ""])
    many = {key: formats_of(made.device, made.constants, one, str(job.kv)) for key, one in kept.items()}
    return replace(made, many=many)


def _slowest(cards: Sequence[Accelerator]) -> Link | None:
    found = [Cluster(card, 2, devices_per_node=8).intra_link for card in cards]
    known = [one for one in found if one is not None]
    hosts = [link_of("link", card.host_link) for card in cards if card.host_link]
    alike = len({card.name for card in cards}) == 1
    among = known if alike else [h for h in hosts if h is not None]
    return min(among, key=lambda one: one.bytes_per_second, default=None)


def _notes(link: Link | None) -> tuple[str, ...]:
    told = said("the link between the cards is not known: nothing is counted")
    if link:
        told = said("link={link!r} between the cards", link=link.name)
    text = "{link}; layers are dealt by memory, as llama.cpp deals them without --tensor-split"
    return (said(text, link=told),)


def equal_parts(devices: Sequence[Accelerator | str]) -> Accelerator:
    """What tensor parallelism makes of unequal cards: each counts as the slowest, with the least memory.

    >>> equal_parts(["RTX 3090", "RTX 3060 12GB"]).name
    'RTX 3060 12GB'
    """
    cards = [accelerator_of(one) for one in devices]
    if not cards:
        raise LLMHWError("devices=[] is empty; give at least one")
    slowest = min(cards, key=lambda card: card.memory_bandwidth_bytes_per_second)
    least = min(card.memory_bytes for card in cards)
    if least == slowest.memory_bytes:
        return slowest
    return replace(slowest, name=f"{slowest.name} [{format_quantity(least, 'bytes')}]", memory_bytes=least)


# From most bits to fewest: those of a layer split by llama.cpp.
_LADDER = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ3_M", "Q2_K")


def best_mixed(
    spec: ModelSpec,
    devices: Sequence[Accelerator | str],
    *,
    engine: str | None = None,
    weights_format: str | None = None,
    quality: str = "usable",
    tokens_per_second: float | None = None,
    **asked: Any,
) -> Mixed:
    """`mixed` in the format with most bits that fits, and is quick enough if a speed is asked for; else the smallest.

    quality   as in `llmhw.planning.Demand`: formats that are tried
    asked     other arguments of `mixed`

    >>> from llmhw import model
    >>> str(best_mixed(model("llama-3.1-70b"), ["RTX 3090", "RTX 4090"]).job.weights)
    'Q4_K_M'
    """
    name = engine or "llama.cpp"
    if weights_format is not None:
        return mixed(spec, devices, engine=name, weights_format=weights_format, **asked)
    least = QUALITY[check_choice("quality", quality, QUALITY)][0]
    known = serving_engine(name)
    formats = [f for f in (*_LADDER, "bf16", "fp8", "int4-awq") if known.reads(number_format(f))]
    if known.cells:
        formats = list(_LADDER)
    formats = [f for f in formats if number_format(f).bits >= least] or formats[-1:]
    made = None
    for fmt in sorted(formats, key=lambda f: -number_format(f).bits):
        made = mixed(spec, devices, engine=name, weights_format=fmt, **asked)
        if made.fits and (tokens_per_second is None or 1 / made.tpot >= tokens_per_second):
            return made
    assert made is not None
    return made
