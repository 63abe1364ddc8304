"""What is asked: a training or a serving job, and how it is laid out over devices.

A field keeps what was asked, so that `dataclasses.replace` changes one thing and asks for the rest again. Where the
answer follows from other fields, a property has it: `pipeline_schedule`, `batch`, `compute_format`, `dropout_masks`,
`page_tokens`, `context_limit`. In a `ServingJob` such answers stand in the fields themselves, marked as `Assumed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, lru_cache, partial
from inspect import cleandoc
from operator import attrgetter
from textwrap import fill
from typing import Any, TypeVar

from llmhw.checks import check_flag, check_object, check_text, checked
from llmhw.engines import (
    ServingEngine,
    check_engine,
    default_cache,
    default_engine,
    default_weights,
    engine_names,
    serving_engine,
)
from llmhw.hardware import Cluster, accelerator, cluster_of, memory_bytes
from llmhw.model import ModelSpec, model_of
from llmhw.precision import CHECKPOINT, formats_in, number_format
from llmhw.trainers import ATTENTION_KERNELS, CUDA_GRAPHS, DISPATCHERS, GRAD_REDUCE, SWITCHES, Trainer, trainer
from llmhw.units import (
    LLMHWError,
    ceil_div,
    check_choice,
    check_count,
    check_divides,
    check_number,
    indivisible,
    maximum,
    parse_number,
    shown,
    unknown_name,
    where,
)

C = TypeVar("C", bound=type)

SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero-bubble")
RECOMPUTE = ("none", "selective", "per-op", "full", "block")
ATTENTION = ("flash", "eager")
KERNELS = ("torch", "megatron")
LOSSES = ("plain", "copied", "fused", "chunked")
CP_KINDS = ("ring", "all-gather")
OFFLOAD = ("none", "optimizer", "all")
METHODS = ("sft", "dpo", "grpo")
ADAPTERS = ("fp32", "bf16")
ENGINES = engine_names()
SPLITS = ("tensor", "layers")
LORA_TARGETS = ("all-linear", "attention", "mlp")
ALL_REDUCES = ("two-shot", "one-shot", "nvls", "auto")
# Modules that Megatron-Core can compute again (recompute_modules), in its words.
MODULES = {
    "core_attn": "attention's core",
    "layernorm": "norms before attention and the feed-forward part",
    "mla_up_proj": "queries, keys and values out of their compressions",
    "mlp": "feed-forward parts without experts",
    "moe_act": "activation functions of the experts",
    "shared_experts": "experts that every token passes",
    "moe": "routing and all experts",
}
COMPUTE = ("fp32", "tf32", "fp16", "bf16", "fp8", "fp8-row", "fp8-block", "mxfp8", "nvfp4")


# -- fields -----------------------------------------------------------------------------------
# A field says once what it means and what it must hold: the class's docstring, its check and the option of the command
# are made from that. None is what was not asked.


def asked(meaning: str, default: Any, kind: Any, check: Callable[[str, Any], Any] | None = None) -> Any:
    """A field that a person may set.

    kind    int, float, bool, str, or the names to choose from
    check   from the field's name and value to the value, or an `LLMHWError`
    """
    return field(default=default, metadata={"meaning": meaning, "kind": kind, "check": check})


# No count of a job is larger: sums and products of what is asked stay numbers that mean something.
MOST = 10**9


def count(meaning: str, default: int | None = 1, *, least: int = 1, most: int = MOST) -> Any:
    """A whole number."""

    def check(name: str, value: Any) -> int:
        found = check_count(name, value, least)
        if found > most:
            raise LLMHWError(f"{name}={value!r} must be at most {most:,}")
        return found

    return asked(meaning, default, int, check)


def number(meaning: str, default: float | None = None, **bounds: Any) -> Any:
    """A number; `bounds` as in `llmhw.units.check_number`."""
    return asked(meaning, default, float, partial(check_number, **bounds))


def share(meaning: str, default: float | None, rule: str, holds: Callable[[float], bool]) -> Any:
    """A part of a whole; `rule` says in words what `holds` tests."""

    def check(name: str, value: float) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not holds(value):
            raise LLMHWError(f"{name}={shown(value)} must be {rule}")
        return value

    return asked(meaning, default, float, check)


def choice(names: Iterable[str], meaning: str, default: str | None) -> Any:
    """One of a few names."""
    return asked(meaning, default, tuple(names), partial(check_choice, choices=names))


def flag(meaning: str, default: bool | None = False) -> Any:
    """Yes or no."""
    return asked(meaning, default, bool, check_flag)


def check_fields(job: Any) -> None:
    """Check every field of a dataclass by itself; None stands for what was not asked, where that may be."""
    for name, default, is_name, check in _fields_asked(job.__class__):
        value = getattr(job, name)
        if value is None:
            if default is not None:
                raise LLMHWError(f"{name}=None must be given; its default is {default!r}")
            continue
        if is_name and not isinstance(value, str):
            raise LLMHWError(f"{name}={shown(value)} must be a name")
        if check and not isinstance(value, Assumed):
            object.__setattr__(job, name, check(name, value))


@cache
def _fields_asked(kind: type) -> list[tuple[str, Any, bool, Any]]:
    """Name, default, whether it is a name, and check of each field that was made with `asked`."""
    made = [(f.name, f.default, f.metadata) for f in fields(kind) if f.metadata]
    return [(name, default, said["kind"] is str, said["check"]) for name, default, said in made]


def _format(name: str, value: str) -> str:
    try:
        return number_format(value).name
    except LLMHWError as error:
        raise LLMHWError(str(error).replace("number_format=", f"{name}=", 1)) from None


def _size(name: str, value: str | float) -> float:
    """Bytes, or a size as it is written: 500GB."""
    return float(memory_bytes(value, name)) if isinstance(value, str) else check_number(name, value, above=True)


class Assumed:
    """A value that nobody asked for: it follows from other fields, and `dataclasses.replace` asks for it again."""

    __slots__ = ()


class AssumedInt(int, Assumed):
    """An assumed whole number."""

    __slots__ = ()


class AssumedFloat(float, Assumed):
    """An assumed number."""

    __slots__ = ()


class AssumedStr(str, Assumed):
    """An assumed name."""

    __slots__ = ()


def assumed(value: int | float | str) -> Any:
    """The same value, marked as not asked for.

    >>> assumed(3) + 1, isinstance(assumed("vllm"), Assumed), assumed("vllm") == "vllm"
    (4, True, True)
    """
    kinds: dict[type, Callable[[Any], Any]] = {int: AssumedInt, float: AssumedFloat, str: AssumedStr}
    return kinds[type(value)](value)


def usual_attention(spec: ModelSpec, kernels: str) -> str:
    """The attention that a training job runs with: flash, or eager where plain PyTorch has no other for the family.

    >>> from llmhw.model import model
    >>> usual_attention(model("gemma-2-2b"), "torch"), usual_attention(model("gemma-2-2b"), "megatron")
    ('eager', 'flash')
    """
    style = spec.family.style
    return "eager" if kernels == "torch" and style is not None and not style.sdpa else "flash"


def saves_attention(job: TrainingJob) -> bool:
    """Whether recompute="selective" saves much: not of fused attention, nor where its core cannot run by itself."""
    style = job.model.family.style
    return job.attention == "eager" and (job.kernels != "torch" or style is None or style.registry)


def keeps_scaled(job: TrainingJob) -> bool:
    """Whether per-op checkpointing keeps every second product in 8 and 4 bit as it does in 16.

    Compiled, as its partitioner runs no product again that it need not: torchao's table of torchtitan has peaks of 47.7
    GB in bf16 and float8 alike. In eager mode the policy decides, whose list has no scaled products.
    """
    return job.trainer.elementwise == "compiled"


def find_named(job: Any) -> None:
    """Put the objects in the place of names: a model's, and a device's or a cluster's."""
    object.__setattr__(job, "model", model_of(job.model, "model"))
    object.__setattr__(job, "cluster", cluster_of(job.cluster))


def as_asked(thing: Any) -> dict[str, Any]:
    """The fields as plain numbers and names: a model, a device and a link by name."""
    found = {}
    for f in fields(thing):
        value = getattr(thing, f.name)
        if isinstance(value, Cluster):
            value = {entry.name: _named(getattr(value, entry.name)) for entry in fields(value)}
        elif is_dataclass(value) and not hasattr(value, "name"):
            value = as_asked(value)
        found[f.name] = _named(value)
    return found


def _named(value: Any) -> Any:
    return getattr(value, "name", value)


def documented(made: C) -> C:
    """A dataclass whose docstring lists its fields, after the first paragraph."""
    rows: dict[str, str] = {}
    for f in fields(made):
        if f.metadata:
            kind = f.metadata["kind"]
            rows[f.name] = f.metadata["meaning"] + (f" [{'|'.join(kind)}]" if isinstance(kind, tuple) else "")
    wide = max(map(len, rows)) + 2
    lines = [
        fill(name.ljust(wide) + text, 114, subsequent_indent=" " * wide, break_on_hyphens=False)
        for name, text in rows.items()
    ]
    first, blank, rest = cleandoc(made.__doc__ or "").partition("\n\n")  # as Python 3.13 itself has it
    made.__doc__ = "\n".join([first, "", *lines]) + blank + rest
    return made


# -- training ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The numbers of a layout, unchecked: each is plain, or an array of many layouts that broadcasts against others.

    Names are those of `Parallelism`; micro_batch is in sequences, micro_batches are those of a rank in one step.
    """

    dp: Any = 1
    tp: Any = 1
    pp: Any = 1
    cp: Any = 1
    ep: Any = 1
    expert_tp: Any = 1
    vpp: Any = 1
    zero: Any = 0
    replicas: Any = 1
    sequence_parallel: Any = False
    micro_batch: Any = 1
    micro_batches: Any = 1

    @property
    def spread(self) -> Any:
        """Ranks that norms and residuals are split over: tp with sequence parallelism, else 1."""
        return where(self.sequence_parallel, self.tp, 1)

    @property
    def inside(self) -> Any:
        """Ranks of a pipeline stage."""
        return self.dp * self.cp * self.tp

    @property
    def devices(self) -> Any:
        """Ranks in all."""
        return self.inside * self.pp

    @property
    def shards(self) -> Any:
        """Ranks that share the dense states under ZeRO: dp x cp, less the replicas."""
        return self.dp * self.cp // self.replicas

    @property
    def expert_shards(self) -> Any:
        """Ranks that hold the same experts, and share their states under ZeRO."""
        return maximum(1, self.inside // (self.ep * self.expert_tp) // self.replicas)


def _stage(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value not in (0, 1, 2, 3):
        raise LLMHWError(f"{name}={shown(value)} is not a stage; use 0, 1, 2 or 3 (FSDP is 3)")
    return int(value)


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How a job is split over devices.

    The number of devices is dp x tp x pp x cp.

    >>> Parallelism(tp=8, pp=2, dp=4).devices
    64
    """

    dp: int = count("Data-parallel ranks; with ZeRO or FSDP they share the states.")
    tp: int = count("Tensor-parallel ranks.")
    pp: int = count("Pipeline stages.")
    vpp: int = count("Virtual stages: model chunks on each stage.")
    cp: int = count("Context-parallel ranks.")
    cp_kind: str = choice(CP_KINDS, "How context-parallel ranks pass keys and values on.", "ring")
    ep: int = count("Expert-parallel ranks, out of the dp x cp x tp ranks of a stage.")
    expert_tp: int = count("Tensor-parallel ranks of an expert.")
    zero: int = asked("ZeRO stage: 1 splits optimizer states, 2 gradients too, 3 weights too (FSDP).", 0, int, _stage)
    replicas: int = count("HSDP: copies of the sharded model; dp / replicas ranks share one.")
    sequence_parallel: bool = flag("Split norms and residuals over the tp ranks too (Korthikanti et al. 2022).")
    schedule: str = choice(SCHEDULES, "Order of a pipeline's work; 1f1b is interleaved where vpp > 1.", "1f1b")
    uneven: bool = flag("Embedding and head count as layers where stages share them out, as in Megatron-LM.")
    by_cost: bool = flag("Layers are dealt to stages by their cost, with the head's; default: as the software does.")
    offload: str = choice(OFFLOAD, "In host memory; all: weights, gradients and optimizer.", "none")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.schedule == "interleaved" and self.vpp == 1:
            raise LLMHWError("schedule='interleaved' needs vpp of at least 2; use 1f1b for one chunk a stage")
        if self.vpp > 1 and self.schedule == "gpipe":
            raise LLMHWError(f"vpp={self.vpp} needs schedule='interleaved' or 'zero-bubble', not 'gpipe'")
        check_rules(LAYOUT_RULES, self.layout(), None)

    @property
    def pipeline_schedule(self) -> str:
        """The schedule that runs: 1f1b is interleaved where a rank holds several chunks."""
        return "interleaved" if self.schedule == "1f1b" and self.vpp > 1 else self.schedule

    @property
    def devices(self) -> int:
        """Ranks in all."""
        return self.dp * self.tp * self.pp * self.cp

    @property
    def shards(self) -> int:
        """Ranks that share the dense states under ZeRO: dp x cp, less the replicas."""
        return int(self.layout().shards)

    @property
    def expert_shards(self) -> int:
        """Ranks that hold the same experts, and share their states under ZeRO."""
        return int(self.layout().expert_shards)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and names."""
        return as_asked(self)

    def layout(self, micro_batch: int = 1, micro_batches: int = 1) -> Layout:
        """The numbers alone, with those of the batch."""
        numbers = {name: getattr(self, name) for name in Layout.__slots__ if not name.startswith("micro")}
        return Layout(**numbers, micro_batch=micro_batch, micro_batches=micro_batches)


@checked
def data_parallel(*, devices: int, tp: int = 1, pp: int = 1, cp: int = 1) -> int:
    """Data-parallel ranks that tensor, pipeline and context parallelism leave of so many devices.

    >>> data_parallel(devices=64, tp=8, pp=2)
    4
    """
    taken = check_count("tp", tp) * check_count("pp", pp) * check_count("cp", cp)
    if check_count("devices", devices) % taken:
        raise LLMHWError(f"tp x pp x cp = {tp} x {pp} x {cp} = {taken} does not divide devices={devices}")
    return devices // taken


# -- rules ------------------------------------------------------------------------------------
# One table for a layout that a person gives, which is refused with a reason, and for arrays of layouts, which are
# masked.


@dataclass(frozen=True, slots=True)
class Rule:
    """What a layout must keep.

    name     in a few words
    holds    whether it does: of plain numbers, or of arrays; takes the `Layout` and the `Limits`
    refuse   in words why not, and what would do
    """

    name: str
    holds: Callable[[Layout, Any], Any]
    refuse: Callable[[Layout, Any], str]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a layout is held against: a model's sizes, a batch and a cluster."""

    name: str
    heads: int
    kv_heads: int
    experts: int
    seq_len: int
    node: int
    batch: int = 1
    shared: bool = False


def check_rules(rules: Iterable[Rule], x: Layout, limits: Limits | None) -> None:
    """Refuse a layout by the first rule that it breaks."""
    for rule in rules:
        if not rule.holds(x, limits):
            raise LLMHWError(rule.refuse(x, limits))


LAYOUT_RULES = (
    Rule(
        "replicas divide dp",
        lambda x, _: x.dp % x.replicas == 0,
        lambda x, _: indivisible("replicas", x.replicas, "dp", x.dp),
    ),
    Rule(
        "replicas shard the weights",
        lambda x, _: (x.replicas == 1) | (x.zero == 3),
        lambda x, _: f"replicas={x.replicas} is HSDP, which shards the weights: use it with zero=3",
    ),
    Rule(
        "chunks need stages",
        lambda x, _: (x.vpp == 1) | (x.pp > 1),
        lambda x, _: f"vpp={x.vpp} splits pipeline stages, and pp=1 has none; use vpp=1 or pp of at least 2",
    ),
    Rule(
        "sequence parallel needs tp",
        lambda x, _: (x.sequence_parallel == 0) | (x.tp > 1),
        lambda x, _: "sequence_parallel=True splits over the tp ranks, and tp=1; use tp of at least 2",
    ),
    Rule(
        "experts fill the ranks of a stage",
        lambda x, _: x.inside % (x.ep * x.expert_tp) == 0,
        lambda x, _: (
            f"ep x expert_tp = {x.ep} x {x.expert_tp} does not divide dp x cp x tp = {x.inside}, "
            "the ranks of a stage that experts are spread over"
        ),
    ),
)
TENSOR_RULES = (
    Rule(
        "tp divides heads",
        lambda x, m: m.heads % x.tp == 0,
        lambda x, m: indivisible("tp", x.tp, "heads", m.heads),
    ),
    Rule(
        "KV heads are split or copied evenly",
        lambda x, m: (m.kv_heads % x.tp == 0) | (x.tp % m.kv_heads == 0),
        lambda x, m: (
            f"tp={x.tp} neither divides kv_heads={m.kv_heads} nor is a multiple of it, so KV heads can be "
            "neither split nor copied evenly"
        ),
    ),
    Rule(
        "shared blocks lie on one stage",
        lambda x, m: (x.pp == 1) | (not m.shared),
        lambda x, m: f"pp={x.pp} would part layers of {m.name} from the block that they share; use pp=1",
    ),
    Rule(
        "tp fits node boundaries",
        lambda x, m: (x.tp % m.node == 0) | ((x.tp < m.node) & ((m.node % x.tp == 0) | (x.devices <= m.node))),
        lambda x, m: (
            f"tp={x.tp} does not fit node boundaries: neither it nor devices_per_node={m.node} divides the other"
        ),
    ),
)
BATCH_RULES = (
    Rule(
        "micro-batches fill the batch",
        lambda x, m: (m.batch % (x.micro_batch * x.dp) == 0) & (x.micro_batches > 0),
        lambda x, m: (
            f"micro_batch x dp = {x.micro_batch} x {x.dp} does not divide global_batch={m.batch}; "
            f"use a multiple of {x.micro_batch * x.dp}"
        ),
    ),
)
EXPERT_RULES = (
    Rule(
        "ep spreads experts",
        lambda x, m: (x.ep == 1) | (m.experts > 1),
        lambda x, m: f"ep={x.ep} spreads experts, and {m.name} has none; use ep=1",
    ),
    Rule(
        "ep divides experts",
        lambda x, m: m.experts % x.ep == 0,
        lambda x, m: indivisible("ep", x.ep, "experts", m.experts),
    ),
)
JOB_RULES = (
    Rule(
        "cp cuts the sequence",
        lambda x, m: (x.cp == 1) | (m.seq_len % (2 * x.cp) == 0),
        lambda x, m: f"cp={x.cp} cuts a sequence into {2 * x.cp} parts, and seq_len={m.seq_len} is no multiple",
    ),
    Rule(
        "sequence parallel cuts the sequence",
        lambda x, m: (x.sequence_parallel == 0) | (m.seq_len % x.tp == 0),
        lambda x, m: f"tp={x.tp} with sequence_parallel does not divide seq_len={m.seq_len}",
    ),
    *EXPERT_RULES,
    Rule(
        "micro-batches fill whole rounds of the pipeline",
        lambda x, m: (x.vpp == 1) | (x.micro_batches % x.pp == 0),
        lambda x, m: (
            f"the interleaved schedule needs micro-batches in multiples of pp={x.pp}; there are "
            f"{x.micro_batches} = global_batch / (micro_batch x dp)"
        ),
    ),
)


def _experts(spec: ModelSpec) -> int:
    """Routed experts of a layer; 1 in a dense model."""
    return max((t.experts for layer, _ in spec.layer_kinds for t in layer.tensors), default=1)


def limits_of(spec: ModelSpec, cluster: Cluster, *, seq_len: int = 1, batch: int = 1) -> Limits:
    """What layouts of this model on this cluster are held against."""
    shared = any(layer.borrowed for layer, _ in spec.layer_kinds)
    node = cluster.devices_per_node
    return Limits(spec.name, spec.heads, spec.kv_heads, _experts(spec), seq_len, node, batch, shared)


def filling_micro_batches(p: Parallelism) -> int:
    """Least micro-batches of a rank, in whole rounds of stages, with which these wait for at most 1/8 of their work.

    A stage waits (pp - 1) / (vpp x micro-batches) of the time that it works: see `llmhw.schedule.bubble_seconds`.

    >>> filling_micro_batches(Parallelism(pp=16)), filling_micro_batches(Parallelism(pp=16, vpp=8))
    (128, 16)
    """
    return p.pp * ceil_div(8, p.vpp) if p.pp > 1 else 1


def _check_stages(p: Parallelism, layers: int) -> None:
    """Every chunk of the pipeline gets something to do."""
    chunks = p.pp * p.vpp
    if p.by_cost and p.vpp == 1 and p.pp <= layers:
        return
    if p.uneven and chunks <= layers + 2:  # a chunk may hold the embedding alone, or the head
        return
    if chunks <= layers and (layers + 2) % chunks == 0 and layers % chunks:
        raise LLMHWError(
            f"pp x vpp={chunks} does not divide layers={layers}, but it does when embedding and head count as layers; "
            "use uneven=True"
        )
    check_divides("pp x vpp", chunks, "layers", layers)


def _again(name: str, value: str) -> str:
    """Names of modules, in the order of `MODULES`."""
    named = set(value.replace(",", " ").split())
    for one in sorted(named - set(MODULES)):
        raise unknown_name(name, one, MODULES)
    return ",".join(one for one in MODULES if one in named)


def _software(name: str, value: str) -> str:
    return trainer(check_text(name, value)).name


_switches_of = attrgetter(*SWITCHES)


@cache
def _switched(software: str, compiled: bool | None, attention: str | None, *switched: Any) -> Trainer:
    found = trainer(software)
    changes: dict[str, Any] = {name: value for name, value in zip(SWITCHES, switched, strict=True) if value is not None}
    if compiled is not None and found.elementwise != "fused":
        changes["elementwise"] = "compiled" if compiled else "eager"
    if attention is not None:
        changes["attention"] = attention
    return replace(found, **changes)


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """A training job: what is trained, on what, and how it is laid out.

    model may be a name, cluster too, or a name and a count, as in ("h100", 8); by default every device is a
    data-parallel rank.
    With recompute per-op, torchtitan's selective checkpointing, the outputs of attention and of every second matrix
    product are kept; block runs `recompute_layers` of each stage again. As compute, fp8 has one scale a tensor, and
    fp8-row one a row.
    Raises `LLMHWError` for a layout that cannot run; one that does not fit in memory is an answer, not an error.
    """

    model: ModelSpec
    cluster: Cluster
    parallelism: Parallelism = None  # type: ignore[assignment]  # data-parallel over the cluster, once that is known
    micro_batch: int = count("Sequences that one data-parallel rank passes through the model at a time.")
    global_batch: int | None = count(
        "Sequences of an optimizer step, over all ranks; default: micro_batch x dp, with pipeline stages so many times "
        "that they wait for at most an eighth of their work: 8 x pp / vpp micro-batches.",
        None,
    )
    seq_len: int = count("Tokens of each sequence.", 4096)
    recompute: str = choice(
        RECOMPUTE, "Run again: attention's core (selective), single operations, every layer or some of a stage.", "none"
    )
    recompute_layers: int = count("Layers of each stage, where recompute is block.", 0, least=0)
    recompute_modules: str = asked(
        f"Modules that run again, with blanks between: {', '.join(MODULES)} (Megatron-Core).", "", str, _again
    )
    precision: str = asked(
        "Formats of weights, gradients and optimizer: `llmhw.memory.PRECISIONS`.", "bf16-mixed", str, check_text
    )
    compute: str | None = choice(COMPUTE, "Of matrix products; default: bf16, or fp32 where precision is fp32.", None)
    optimizer: str = asked("What is kept for each weight: `llmhw.memory.OPTIMIZERS`.", "adamw", str, check_text)
    optimizer_in_backward: bool = flag(
        "A weight is updated as soon as its gradient is there, which then goes (torchtune, LOMO)."
    )
    frozen: bool = flag("Only adapters are trained (LoRA): no gradients and no optimizer for the model's own weights.")
    rank: int = count("Rank of the adapters.", 16)
    targets: str = asked(
        "Linear layers with adapters: all-linear, attention, mlp, or names of modules with blanks between.",
        "all-linear",
        str,
        check_text,
    )
    adapters: str | None = choice(ADAPTERS, "Format of the adapters; default: the software's, fp32 under peft.", None)
    adapter_layers: int | None = count("Layers with adapters, the last ones (as in MLX); default: all.", None)
    base: str | None = asked(
        "Format of the frozen weights, as nf4-dq for QLoRA; default: that of the weights.", None, str, _format
    )
    loss: str = choice(
        LOSSES,
        "plain: logits in fp32 and their gradients; copied: the same with a copy of the logits, shifted by one "
        "(transformers until early 2025); fused: gradients over 16-bit logits (Unsloth); chunked: never all "
        "logits at once (Liger, Cut Cross-Entropy). Default: the software's.",
        None,
    )
    attention: str = choice(
        ATTENTION, "flash is fused: no score matrix. Default: flash, or eager where plain PyTorch has no other.", None
    )
    kernels: str = choice(
        KERNELS,
        "Plain PyTorch, or Megatron's fused ones (Korthikanti et al. 2022); default: the software's, or torch.",
        None,
    )
    software: str = asked(
        "What trains: `llmhw.trainers`. Default: torchtitan, megatron-bridge with kernels=megatron; maxtext on TPUs.",
        None,
        str,
        _software,
    )
    compiled: bool | None = flag("PyTorch compiled layer by layer; default: as the software does.", None)
    tp_overlap: bool | None = flag("Tensor-parallel messages beside products; default: as the software does.", None)
    grad_overlap: bool | None = flag("Gradients reduced beside the backward pass; default: as the software does.", None)
    gather_prefetch: bool | None = flag("Sharded weights gathered ahead; default: as the software does.", None)
    grad_reduce: str | None = choice(
        GRAD_REDUCE, "Format in which gradients are reduced; default: the software's, or that of precision.", None
    )
    cuda_graph: str | None = choice(CUDA_GRAPHS, "What is launched as a graph; default: the software's.", None)
    dispatcher: str | None = choice(DISPATCHERS, "What takes tokens to experts; default: the software's.", None)
    a2a_overlap: bool | None = flag("That runs beside other work; default: as the software does.", None)
    attention_kernel: str | None = choice(
        ATTENTION_KERNELS, "Whose flash attention: cudnn is FlashAttention 3 and 4 too; default: the software's.", None
    )
    packed: int | None = count(
        "Tokens of a document, on average, where sequences are packed; none attends to another's.", None
    )
    checkpoint_offload: bool = flag("Inputs of recomputed layers wait in host memory (Unsloth, torchtune).")
    host_memory: float | None = asked(
        "Memory of a node's host, as 500GB, that what is offloaded must fit.", None, float, _size
    )
    method: str = choice(
        METHODS, "Fine-tuning on answers, on pairs of answers (DPO), or on answers of its own (GRPO).", "sft"
    )
    reference: bool | None = flag(
        "The model as it was is held, too; default: for DPO, unless adapters are switched off for it.", None
    )
    completion: int | None = count("Tokens of an answer, out of seq_len (GRPO); default: half.", None)
    group: int = count("Answers to a prompt (GRPO).", 8)
    rollout_share: float = share(
        "Of each device for an engine that writes the answers (vLLM beside it); 0: the model itself does (GRPO).",
        0.0,
        "a share from 0 to below 1",
        lambda x: 0 <= x < 1,
    )
    rollout_gpus: int = count("More devices, for an engine that writes the answers (GRPO).", 0, least=0)
    dropout: bool | None = flag("Default: as the family was trained, where kernels is megatron; else without.", None)
    mtp: bool = flag("Multi-token prediction is trained too: the model's own layers for it, on the last stage.")
    expert_imbalance: float = number("Tokens of the busiest expert rank over the mean.", 1.0, least=1)

    def __post_init__(self) -> None:
        find_named(self)
        if self.parallelism is None:
            object.__setattr__(self, "parallelism", Parallelism(dp=self.cluster.devices))
        check_object("parallelism", self.parallelism, "Parallelism")
        check_fields(self)
        self._assume()
        p, spec = self.parallelism, self.model
        if p.devices != self.cluster.devices:
            raise LLMHWError(
                f"dp x tp x pp x cp = {p.dp} x {p.tp} x {p.pp} x {p.cp} = {p.devices} is not the cluster's "
                f"{self.cluster.devices} devices"
            )
        limits = limits_of(spec, self.cluster, seq_len=self.seq_len, batch=self.batch)
        check_rules((*BATCH_RULES, *TENSOR_RULES), self.layout, limits)
        _check_stages(p, spec.num_layers)
        check_rules(JOB_RULES, self.layout, limits)
        if not self.expert_imbalance <= max(limits.experts, 1):
            raise LLMHWError(
                f"expert_imbalance={self.expert_imbalance:g} must be at most the experts of a layer of {spec.name}, "
                f"{limits.experts}"
            )
        self._check_tuning()
        if self.rank > spec.hidden:
            raise LLMHWError(f"rank={self.rank} must be at most hidden={spec.hidden}")
        if self.recompute == "block" and not 0 < self.recompute_layers <= spec.num_layers // p.pp:
            raise LLMHWError(
                f"recompute_layers={self.recompute_layers} must be between 1 and the {spec.num_layers // p.pp} layers "
                "of a stage when recompute='block'"
            )

    def _check_tuning(self) -> None:
        """What fine-tuning asks for fits together."""
        layers = self.model.num_layers
        if self.adapter_layers is not None and self.adapter_layers > layers:
            raise LLMHWError(f"adapter_layers={self.adapter_layers} must be at most layers={layers}")
        if self.optimizer_in_backward and self.micro_batches > 1:
            raise LLMHWError(
                f"optimizer_in_backward=True keeps no gradients, and {self.micro_batches} micro-batches a step add "
                f"them up; use global_batch={self.micro_batch * self.parallelism.dp}"
            )
        if self.completion is not None and self.completion >= self.seq_len:
            raise LLMHWError(f"completion={self.completion} must be less than seq_len={self.seq_len}, with the prompt")
        if self.rollout_share and self.rollout_gpus:
            raise LLMHWError(
                f"rollout_share={self.rollout_share:g} puts the engine on these devices, rollout_gpus="
                f"{self.rollout_gpus} on others; give one of them"
            )

    def _assume(self) -> None:
        """What follows from the software, which follows from the kernels where nobody says it."""

        def settle(name: str, value: Callable[[], str]) -> None:
            if getattr(self, name) is None or isinstance(getattr(self, name), Assumed):
                object.__setattr__(self, name, assumed(value()))

        known = self.software is not None and not isinstance(self.software, Assumed)
        settle("kernels", lambda: trainer(self.software).kernels if known else "torch")
        settle("software", lambda: _usual_software(self.kernels, self.cluster.accelerator.architecture))
        p = self.parallelism
        if trainer(self.software).dealt == "cost" and p.pp > 1 and p.vpp == 1 and not p.by_cost:
            object.__setattr__(self, "parallelism", replace(p, by_cost=True))
        settle("attention", lambda: usual_attention(self.model, self.kernels))
        settle("loss", lambda: trainer(self.software).loss)
        settle("adapters", lambda: trainer(self.software).adapters)

    @property
    def trainer(self) -> Trainer:
        """The software, with what this job switches otherwise."""
        return _switched(self.software, self.compiled, self.attention_kernel, *_switches_of(self))

    @property
    def batch(self) -> int:
        """Sequences of one optimizer step, over all ranks: as asked, or as many as fill the pipeline."""
        if self.global_batch is not None:
            return self.global_batch
        return self.micro_batch * self.parallelism.dp * filling_micro_batches(self.parallelism)

    @property
    def micro_batches(self) -> int:
        """Micro-batches that each data-parallel rank runs in a step."""
        return self.batch // (self.micro_batch * self.parallelism.dp)

    @property
    def sequences(self) -> int:
        """Sequences of a micro-batch that pass through the model: of DPO's pairs both."""
        return self.micro_batch * (2 if self.method == "dpo" else 1)

    @property
    def answer_tokens(self) -> int:
        """Tokens of a sequence whose logits are needed: under GRPO the answer's alone."""
        if self.method != "grpo":
            return self.seq_len
        return self.completion or max(1, self.seq_len // 2)

    @property
    def has_reference(self) -> bool:
        """Whether another copy of the model is held: not where switching adapters off gives the model as it was."""
        return (self.method == "dpo" and not self.frozen) if self.reference is None else self.reference

    @property
    def adapted_layers(self) -> int:
        """Layers with adapters, the last ones."""
        return self.adapter_layers or self.model.num_layers

    @property
    def compute_format(self) -> str:
        """Number format that matrix products are done in."""
        half = self.cluster.accelerator.half_format
        return self.compute or ("fp32" if self.precision == "fp32" else half)

    @property
    def peak_format(self) -> str:
        """The format whose peak bounds matrix products: that without its scales, fp8 for fp8-row and fp8-block."""
        return self.compute_format.partition("-")[0]

    @property
    def dropout_masks(self) -> bool:
        """Whether dropout is applied: as asked, or with Megatron's kernels as the family was trained."""
        if self.dropout is None:
            return self.kernels == "megatron" and self.model.dropout
        return self.dropout

    def check_effects(self) -> None:
        """Refuse what would be ignored in silence: a field that is not at its default and has no effect in this job.

        A job is asked this when its memory or time is, so that a search may start from any.
        """
        for name, belongs, holds in EFFECTS:
            holder: Any = self if name in self.__slots__ else self.parallelism
            value = getattr(holder, name)
            default = type(holder).__dataclass_fields__[name].default
            if value != default and not isinstance(value, Assumed) and not holds(self):
                raise LLMHWError(f"{name}={value!r} has no effect here: it belongs with {belongs}; leave it out")

    def effective(self) -> TrainingJob:
        """The job without switches that have no effect in it, which `check_effects` would refuse.

        For who takes a job's switches to other layouts: overlapped exchanges of experts mean nothing where ep=1.

        >>> from llmhw import model
        >>> job = TrainingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 8), tp_overlap=True)
        >>> job.tp_overlap, job.effective().tp_overlap
        (True, None)
        """
        idle: dict[str, Any] = {}
        for name, _, holds in EFFECTS:
            if name in self.__slots__:
                value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
                if value != default and not isinstance(value, Assumed) and not holds(self):
                    idle[name] = default
        return replace(self, **idle) if idle else self

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and names, as it was asked."""
        return as_asked(self)

    @property
    def by_module(self) -> bool:
        """Whether single modules of a layer may run again."""
        return self.kernels == "megatron" and self.recompute in ("none", "selective")

    @property
    def again(self) -> frozenset[str]:
        """Modules of a layer that run again where it does not as a whole: see `MODULES`."""
        named = frozenset(filter(None, self.recompute_modules.split(",")))
        return named | ({"core_attn"} if self.recompute == "selective" else set())

    def recomputes(self, number: int) -> bool:
        """Whether the forward pass of layer `number` of a stage is run a second time, as a whole."""
        return self.recompute == "full" or (self.recompute == "block" and number < self.recompute_layers)

    @property
    def layout(self) -> Layout:
        """The numbers of the layout, those of the batch among them."""
        return self.parallelism.layout(self.micro_batch, self.micro_batches)


def offloads(job: TrainingJob) -> bool:
    """Whether something of the job lies in host memory."""
    return job.parallelism.offload != "none" or job.checkpoint_offload or job.optimizer.startswith("paged-")


# Devices that PyTorch's own kernels do not run on, by the start of their architecture -> what trains on them.
_OWN_SOFTWARE = {"TPU": "maxtext", "NeuronCore": "neuron", "Gaudi": "gaudi"}


def _usual_software(kernels: str | None, architecture: str) -> str:
    if kernels == "megatron":
        return "megatron-bridge"
    return next((name for start, name in _OWN_SOFTWARE.items() if architecture.startswith(start)), "torchtitan")


# Fields that have an effect only where others are set: what they belong with, and whether a job has it. ZeRO on a
# single rank is not among them: FSDP on one card is something that people run.
EFFECTS: tuple[tuple[str, str, Callable[[TrainingJob], bool]], ...] = (
    ("recompute_layers", "recompute='block'", lambda job: job.recompute == "block"),
    ("recompute_modules", "kernels='megatron' and recompute='none' or 'selective'", lambda job: job.by_module),
    ("mtp", "a model with layers of multi-token prediction", lambda job: bool(job.model.mtp_tensors)),
    ("expert_imbalance", "a model with experts", lambda job: _experts(job.model) > 1),
    ("expert_tp", "a model with experts", lambda job: _experts(job.model) > 1),
    ("cp_kind", "cp of at least 2", lambda job: job.parallelism.cp > 1),
    ("schedule", "pp of at least 2", lambda job: job.parallelism.pp > 1),
    ("by_cost", "pp of at least 2 and vpp=1", lambda job: job.parallelism.pp > 1 and job.parallelism.vpp == 1),
    ("uneven", "pp of at least 2", lambda job: job.parallelism.pp > 1),
    ("rank", "adapters, frozen=True", lambda job: job.frozen),
    ("base", "adapters, frozen=True", lambda job: job.frozen),
    ("targets", "adapters, frozen=True", lambda job: job.frozen),
    ("adapters", "adapters, frozen=True", lambda job: job.frozen),
    ("adapter_layers", "adapters, frozen=True", lambda job: job.frozen),
    ("optimizer_in_backward", "kernels='torch'", lambda job: job.kernels == "torch"),
    ("checkpoint_offload", "recompute='full'", lambda job: job.recompute == "full"),
    ("host_memory", "something that is offloaded", lambda job: offloads(job)),
    ("reference", "method='dpo' or 'grpo'", lambda job: job.method != "sft"),
    ("completion", "method='grpo'", lambda job: job.method == "grpo"),
    ("group", "method='grpo'", lambda job: job.method == "grpo"),
    ("rollout_share", "method='grpo'", lambda job: job.method == "grpo"),
    ("rollout_gpus", "method='grpo'", lambda job: job.method == "grpo"),
    ("method", "kernels='torch' and pp=1", lambda job: job.kernels == "torch" and job.parallelism.pp == 1),
    ("loss", "kernels='torch'", lambda job: job.kernels == "torch"),
    ("compiled", "kernels='torch'", lambda job: job.kernels == "torch"),
    ("attention_kernel", "attention='flash'", lambda job: job.attention == "flash"),
    ("dispatcher", "a model with experts", lambda job: _experts(job.model) > 1),
    ("a2a_overlap", "a model with experts", lambda job: _experts(job.model) > 1),
    ("tp_overlap", "tp of at least 2", lambda job: job.parallelism.tp > 1),
    ("gather_prefetch", "zero=3", lambda job: job.parallelism.zero == 3),
)


# -- serving ----------------------------------------------------------------------------------


def in_host(job: ServingJob) -> dict[str, float]:
    """The fields that put a part of the weights or of the cache into host memory, with what they say."""
    layers = job.gpu_layers if job.gpu_layers is not None and job.gpu_layers <= job.model.num_layers else None
    asked = {"weight_offload": job.weight_offload, "kv_offload": job.kv_offload, "cpu_moe": job.cpu_moe}
    return {name: value for name, value in asked.items() if value} | ({} if layers is None else {"gpu_layers": layers})


def _weights(name: str, value: str) -> str:
    return CHECKPOINT if isinstance(value, str) and value == CHECKPOINT else _format(name, value)


def _host(name: str, value: str) -> str:
    """The name of a processor, or a bandwidth as it was given."""
    text = check_text(name, value).strip()
    if text.lower().endswith("b/s"):
        parse_number(name, text[: text.rindex("/")].strip(), least=1e6)
        return text
    found = accelerator(text)
    if not found.architecture.startswith("CPU"):
        raise LLMHWError(
            f"{name}={value!r} is no processor of a host; use a CPU of the catalog, or 83GB/s of its memory"
        )
    return found.name


def _engine(name: str, value: str) -> str:
    found = serving_engine(check_text(name, value))
    return f"{found.name}:{found.version}" if found.version else found.name


def _up_to(name: str, value: Any, least: int, most: int) -> int:
    whole = check_count(name, value, least)
    if whole > most:
        raise LLMHWError(f"{name}={value!r} must be at most {most:,}")
    return whole


def bounded(meaning: str, default: int | None, most: int, *, least: int = 1) -> Any:
    """A whole number with an upper bound; None is what was not asked."""
    return asked(meaning, default, int, partial(_up_to, least=least, most=most))


# Options that llama.cpp has, and what is built on it.
CELL_OPTIONS = ("n_ctx", "n_batch", "flash_attention", "kv_v", "swa_full", "gpu_layers", "cpu_moe")
_TOKENS = 10**9
_RANKS = 10**6


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class ServingJob:
    """A serving job: what is served, on what, in which formats, and what one instance of the engine may take.

    model and cluster as in `TrainingJob`.
    Split by layers, the stages never work at once (llama.cpp's layer split, device_map="auto" of transformers). To add
    up, tp ranks each take a part and then gather (two-shot), or each read everything (one-shot: one exchange, more
    bytes), or the switch adds up (nvls); auto is the fastest. utilization is vLLM's gpu_memory_utilization.
    One instance takes tp x pp x attention_dp devices; the cluster holds one or more (`replicas`). Raises `LLMHWError`
    for what cannot run; a job that does not fit in memory is an answer, not an error.

    What is None follows from the rest (`llmhw.engines`) and is marked as `Assumed`; `llmhw.serving.settled` chooses tp,
    pp and max_model_len by memory.

    >>> from llmhw import model
    >>> job = ServingJob(model=model("llama-3-70b"), cluster=Cluster("h100", 8), tp=4, weights="fp8")
    >>> job.engine, job.replicas, job.page_tokens, job.context_limit
    ('vllm', 2, 16, 8192)
    """

    model: ModelSpec
    cluster: Cluster
    tp: int = bounded("Tensor-parallel ranks; default: the fewest that hold the model.", None, _RANKS)
    pp: int = bounded("Pipeline stages; default: 1, or the fewest where an engine splits by layers.", None, _RANKS)
    ep: int = bounded("Expert-parallel ranks, out of tp x attention_dp of a stage; the rest cut experts.", 1, _RANKS)
    attention_dp: int = bounded("Groups of tp ranks that share the experts, each with its own sequences.", 1, _RANKS)
    split: str = choice(
        SPLITS, "layers: pp stages take turns, as in llama.cpp and device_map='auto'; default: the engine's.", None
    )
    all_reduce: str = choice(
        ALL_REDUCES, "How tp ranks add up: in two exchanges, in one of more bytes, in the switch.", "two-shot"
    )
    engine: str = asked(
        "What serves, with its version or the newest: vllm, vllm:0.9.2; default: vllm, or llama.cpp for GGUF files and "
        "on Apple.",
        None,
        ENGINES,
        _engine,
    )
    weights: str = asked(
        "Weight format: `llmhw formats`; default: checkpoint, its own, where the engine reads it.", None, str, _weights
    )
    kv: str = asked(
        "Cache format; default: the one that the checkpoint has scales for, else 16 bit.", None, str, _format
    )
    page_size: int | None = bounded(
        "Tokens of a page of the cache (PagedAttention); default: the engine's.", None, _TOKENS
    )
    utilization: float = share(
        "Share of the memory to take; default: the engine's.",
        None,
        "above 0 and at most 1; vLLM's default is 0.92",
        lambda x: 0 < x <= 1,
    )
    max_sequences: int = bounded("Sequences that run at a time on tp x pp ranks; default: the engine's.", None, 10**6)
    max_batched_tokens: int = bounded(
        "Most tokens of one forward pass on tp x pp ranks; default: the engine's.", None, _TOKENS
    )
    max_model_len: int | None = bounded(
        "Longest sequence, prompt and answer; default: the model's own limit, or what fits.", None, _TOKENS
    )
    n_ctx: int | None = bounded("Cells of llama.cpp's cache, shared by max_sequences slots alike.", None, _TOKENS)
    n_batch: int | None = bounded("llama.cpp's batch, which limits its micro-batch, max_batched_tokens.", None, _TOKENS)
    flash_attention: bool | None = flag("Fused attention; default: auto, wherever llama.cpp has a kernel.", None)
    kv_v: str | None = asked("Format of cached values in llama.cpp; default: as keys, --kv.", None, str, _format)
    swa_full: bool = flag("Layers with a sliding window keep all tokens in llama.cpp's cache, too.")
    gpu_layers: int | None = bounded(
        "Layers on devices, the last ones, in llama.cpp; default: all.", None, 10**6, least=0
    )
    cpu_moe: int = bounded("Layers, the first ones, whose experts stay in host memory (llama.cpp).", 0, 10**6, least=0)
    prefix_tokens: int = bounded("Tokens that all sequences begin with, cached once.", 0, _TOKENS, least=0)
    prefix_hit: float = share(
        "Share of a prompt found in the cache of earlier requests (vLLM's prefix caching, SGLang's radix cache).",
        0.0,
        "a share of at least 0 and below 1",
        lambda x: 0 <= x < 1,
    )
    lora_adapters: int = bounded("Adapters that lie on the device beside the model.", 0, 10**6, least=0)
    lora_rank: int = bounded("Rank of each adapter; default: 16.", None, 10**6)
    lora_targets: str = choice(
        LORA_TARGETS, "Matrices that adapters are at; vLLM and Punica: all that are not experts.", "all-linear"
    )
    weight_offload: float = share(
        "Share of weights in host memory, read in every pass (vLLM's cpu-offload-gb).",
        0.0,
        "a share from 0 to 1",
        lambda x: 0 <= x <= 1,
    )
    kv_offload: float = share(
        "Share of the cache there.", 0.0, "a share of at least 0 and below 1", lambda x: 0 <= x < 1
    )
    host: str | None = asked(
        "Processor of the host, or its memory's bandwidth (83GB/s); default: EPYC 9654, or Ryzen 9 7950X for GDDR.",
        None,
        str,
        _host,
    )

    def __post_init__(self) -> None:
        find_named(self)
        for f in fields(self):
            if isinstance(getattr(self, f.name), Assumed):
                object.__setattr__(self, f.name, None)
        check_fields(self)
        if self.lora_rank is not None:
            if not self.lora_adapters:
                raise LLMHWError(f"lora_rank={self.lora_rank} has no effect without adapters; give lora_adapters=1")
            if self.lora_rank > self.model.hidden:
                raise LLMHWError(f"lora_rank={self.lora_rank} must be at most hidden={self.model.hidden}")
        if self.lora_targets != "all-linear" and not self.lora_adapters:
            raise LLMHWError(f"lora_targets={self.lora_targets!r} has no effect without adapters; give lora_adapters=1")
        if self.host is not None and not in_host(self):
            raise LLMHWError(
                f"host={self.host!r} has no effect without anything there; give weight_offload, kv_offload, gpu_layers "
                "or cpu_moe"
            )
        self._assume()
        self._check_cells()
        check_engine(self.software, self.cluster.accelerator, self.model, self.weights, self.kv)
        self._check_lengths()
        self._check_layout()
        if self.prefix_hit and not (self.software.paged or self.software.cells):
            raise LLMHWError(
                f"prefix_hit={self.prefix_hit:g}: {self.engine} keeps no cache between requests; use 0, or an engine "
                "that does, such as vllm"
            )
        if self.weight_offload and self.software.cells:
            raise LLMHWError(
                f"weight_offload={self.weight_offload:g}: {self.engine} deals whole layers, or their experts; use "
                "gpu_layers or cpu_moe"
            )

    def _set(self, **values: int | float | str) -> None:
        """Assume these where nothing was asked."""
        for name, value in values.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, assumed(value))

    def _assume(self) -> None:
        """What follows from the model, the device and the engine."""
        device = self.cluster.accelerator
        self._set(engine=default_engine(device, formats_in(self.model, self.weights or CHECKPOINT)[0]).name)
        engine, whole = self.software, 0
        if self.context_limit <= engine.whole_up_to:
            whole = min(self.context_limit, _TOKENS)
        if self.weights is None and engine.runs_on(device):
            self._set(weights=default_weights(engine, device, self.model))
        self._set(weights="bf16")
        self._set(
            kv=default_cache(engine, device, self.model, self.weights),
            split=engine.split if self.tp is None or self.tp == 1 else "tensor",
            utilization=engine.utilization,
            max_sequences=min(engine.max_sequences or 1, self.max_batched_tokens or MOST),
            max_batched_tokens=max(engine.max_batched_tokens or 8192, whole),
            lora_rank=16,
            tp=1,
            pp=1,
        )

    def _check_cells(self) -> None:
        """Options of llama.cpp, and n_ctx as max_model_len of every slot."""
        if not self.software.cells:
            for f in fields(self):
                if f.name in CELL_OPTIONS and getattr(self, f.name) != f.default:
                    known = ", ".join(name for name in ENGINES if serving_engine(name).cells)
                    raise LLMHWError(
                        f"{f.name}={getattr(self, f.name)!r} is no option of {self.engine}; use engine={known}"
                    )
            return
        values = self.kv_v or self.kv
        if self.flash_attention is False and number_format(values).bits < 16:
            raise LLMHWError(
                f"kv_v={values!r}: {self.engine} quantizes cached values only with flash attention, and "
                "flash_attention=False; use kv_v='fp16', or leave flash_attention out"
            )
        if self.n_ctx is not None:
            if self.max_model_len is not None:
                raise LLMHWError(
                    f"n_ctx={self.n_ctx} are the cells of all slots and max_model_len={self.max_model_len} those of "
                    "one; give one of the two"
                )
            object.__setattr__(self, "max_model_len", max(1, self.n_ctx // self.max_sequences))
            object.__setattr__(self, "n_ctx", None)

    def assuming(self, **values: int) -> ServingJob:
        """The same job with these values in place of what nobody asked for; they stay `Assumed`."""
        given: dict[str, Any] = dict(values)
        made = replace(self, **given)
        for name, value in values.items():
            object.__setattr__(made, name, assumed(int(value)))
        return made

    def assumptions(self) -> dict[str, int]:
        """Whole numbers that nobody asked for."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, AssumedInt)}

    def was_asked(self, name: str) -> bool:
        """Whether a person gave this field.

        >>> from llmhw import model
        >>> job = ServingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 1), kv="fp8")
        >>> job.was_asked("kv"), job.was_asked("engine")
        (True, False)
        """
        value = getattr(self, name)
        return value is not None and not isinstance(value, Assumed)

    @property
    def software(self) -> ServingEngine:
        """What `llmhw.engines` knows of the engine, with its defaults on the device."""
        ranks = (self.tp or 1) * (self.pp or 1)
        return serving_engine(self.engine).on(self.cluster.accelerator, ranks)

    def _check_lengths(self) -> None:
        """Lengths of sequences and of pages."""
        if not (self.max_model_len or self.model.max_seq_len):
            raise LLMHWError(f"{self.model.name} states no longest sequence; give max_model_len")
        if self.prefix_tokens >= self.context_limit:
            raise LLMHWError(
                f"prefix_tokens={self.prefix_tokens} must be less than max_model_len={self.context_limit}, "
                "which it is a part of"
            )
        if self.page_tokens > 1 and not self.software.paged:
            paged = ", ".join(name for name in ENGINES if serving_engine(name).paged)
            raise LLMHWError(
                f"page_size={self.page_size}: {self.engine} keeps the cache of a sequence in one block; use 1, or an "
                f"engine with pages: {paged}"
            )

    def _check_layout(self) -> None:
        """Ranks, experts, node boundaries and stages."""
        spec, devices = self.model, self.devices
        if self.cluster.devices % devices:
            raise LLMHWError(
                f"tp x pp x attention_dp = {self.tp} x {self.pp} x {self.attention_dp} = {devices} does not divide the "
                f"cluster's {self.cluster.devices} devices"
            )
        if self.split == "layers" and self.tp > 1:
            raise LLMHWError(f"split='layers' deals whole layers to pp ranks, and tp={self.tp} cuts them; use tp=1")
        x, limits = Layout(tp=self.tp, pp=self.pp, dp=self.attention_dp, ep=self.ep), limits_of(spec, self.cluster)
        if self.attention_dp > 1 and limits.experts == 1:
            raise LLMHWError(
                f"attention_dp={self.attention_dp} spreads experts, and {spec.name} has none; use attention_dp=1 and, "
                "for more instances, a cluster with more devices"
            )
        check_rules(EXPERT_RULES, x, limits)
        if self.tp * self.attention_dp % self.ep:
            raise LLMHWError(
                f"ep={self.ep} does not divide tp x attention_dp = {self.tp} x {self.attention_dp} = "
                f"{self.tp * self.attention_dp}, the ranks of a stage that experts are spread over"
            )
        check_rules(TENSOR_RULES, x, limits)
        if self.pp > spec.num_layers:
            raise LLMHWError(f"pp={self.pp} is more than layers={spec.num_layers}; every stage needs a layer")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and names, as it was asked."""
        return as_asked(self)

    @property
    def context_limit(self) -> int:
        """Longest sequence, prompt and answer: as asked, or the model's own limit."""
        return self.max_model_len or self.model.max_seq_len or 0

    @property
    def page_tokens(self) -> int:
        """Tokens of a page of the KV cache: as asked, or the engine's."""
        return self.page_size or self.software.page_size

    @property
    def devices(self) -> int:
        """Devices of one instance of the engine."""
        return self.tp * self.pp * self.attention_dp

    @property
    def replicas(self) -> int:
        """Instances of the engine on the cluster."""
        return self.cluster.devices // self.devices

    @property
    def parallelism(self) -> Parallelism:
        """The same layout as training writes it: attention_dp is dp, and experts are cut by what ep leaves."""
        return _serving_layout(self.attention_dp, self.tp, self.pp, self.ep)


# asked for many times of each job; its checks cost more than all that is done with it
@lru_cache(maxsize=1024, typed=True)
def _serving_layout(dp: int, tp: int, pp: int, ep: int) -> Parallelism:
    return Parallelism(dp=dp, tp=tp, pp=pp, ep=ep, expert_tp=tp * dp // ep)
