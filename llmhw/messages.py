"""What the ranks of a training job send each other in one step, and how long a message takes.

Bytes are those of the tensor that one rank hands to the collective: the whole tensor of an all-reduce, the shard
that an all-gather starts from, the full tensor that a reduce-scatter takes, all rows of an all-to-all. What then
crosses the wires depends on the algorithm: see `wire_bytes`. A step is timed from the same messages that
`collectives` lists; their numbers may be arrays of many layouts.

A network has two levels: inside a node (the scale-up domain: NVLink, Infinity Fabric, TPU ICI) and between nodes
(InfiniBand, EFA, RoCE). A collective that leaves the node uses the adapters of all its ranks there at once ("rails").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from llmhw.checks import checked
from llmhw.formula import Report, Table, formula
from llmhw.job import Layout, Parallelism, TrainingJob
from llmhw.memory import precision_named
from llmhw.model import Attention, Layer, Tensor
from llmhw.sharding import Place, fsdp_rows, local_tensor, outer_tensors, place_of, stage_layers
from llmhw.units import LLMHWError, ceil_div, check_choice, format_quantity, log, maximum, minimum, plain_fields, where

KINDS = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "send", "recv")

# Ranks of each kind of group, and how many ranks its neighbours are apart: tp varies fastest, then cp, dp, pp; experts
# are dealt over the dp x cp x tp ranks of a stage, expert_tp fastest.
GROUPS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "dp": (lambda x: x.dp * x.cp, lambda x: x.tp),  # all that see other data
    "fsdp": (lambda x: x.shards, lambda x: x.tp),  # those that share one sharded copy
    "replica": (lambda x: x.replicas, lambda x: x.tp * x.shards),  # the same shard in each copy
    "tp": (lambda x: x.tp, lambda x: 1),
    "cp": (lambda x: x.cp, lambda x: x.tp),
    "pp": (lambda x: x.pp, lambda x: x.dp * x.cp * x.tp),
    "ep": (lambda x: x.ep, lambda x: x.expert_tp),  # one copy of all experts
    "expert_tp": (lambda x: x.expert_tp, lambda x: 1),  # the parts of an expert
    "expert_dp": (lambda x: x.inside // (x.ep * x.expert_tp), lambda x: x.ep * x.expert_tp),
    "expert_fsdp": (lambda x: x.expert_shards, lambda x: x.ep * x.expert_tp),
    "expert_replica": (
        lambda x: x.inside // (x.ep * x.expert_tp) // x.expert_shards,
        lambda x: x.ep * x.expert_tp * x.expert_shards,
    ),
    # both ends of a pipeline
    "embedding": (lambda x: minimum(x.pp, 2), lambda x: maximum(x.pp - 1, 1) * x.dp * x.cp * x.tp),
}
AXES = tuple(GROUPS)

# -- formulas ---------------------------------------------------------------------------------


@formula(source="ring algorithm (Patarasu and Yuan 2009): a reduce-scatter, then an all-gather", unit="bytes")
def all_reduce_wire_bytes(*, size: Any, ranks: Any) -> Any:
    """Bytes that one rank sends (and receives) in a ring all-reduce: 2 (n - 1) / n of the tensor.

    size   bytes of the tensor on one rank

    >>> all_reduce_wire_bytes(size=1000, ranks=4)
    1500.0
    """
    return 2 * (ranks - 1) * size / ranks


@formula(source="every part but a rank's own leaves it: added up on its way round a ring, or as it is", unit="bytes")
def reduce_scatter_wire_bytes(*, size: Any, ranks: Any) -> Any:
    """Bytes that one rank sends in a ring reduce-scatter, or in an all-to-all: (n - 1) / n of the tensor it hands in.

    size   bytes of the full tensor on one rank

    >>> reduce_scatter_wire_bytes(size=1000, ranks=4)
    750.0
    """
    return (ranks - 1) * size / ranks


@formula(source="ring algorithm: every shard visits every rank", unit="bytes")
def all_gather_wire_bytes(*, size: Any, ranks: Any) -> Any:
    """Bytes that one rank sends in a ring all-gather: n - 1 times the shard.

    size   bytes of the shard that one rank hands in

    >>> all_gather_wire_bytes(size=250, ranks=4)
    750
    """
    return (ranks - 1) * size


@formula(source="point to point: the tensor, once", unit="bytes")
def send_wire_bytes(*, size: Any) -> Any:
    """Bytes that a send puts on the wire.

    >>> send_wire_bytes(size=1000)
    1000
    """
    return size


@formula(source="Megatron-LM (Shoeybi et al. 2019), section 3; Korthikanti et al. 2022, section 4.2.2", unit="bytes")
def activation_message_bytes(*, batch: Any, tokens: Any, width: Any, bytes_per_element: Any) -> Any:
    """The hidden vectors of a micro-batch that tensor or pipeline ranks pass on.

    tokens   of a sequence on this rank: seq_len / cp, and / tp too where sequence parallelism has split it

    >>> activation_message_bytes(batch=1, tokens=4096, width=8192, bytes_per_element=2)
    67108864
    """
    return batch * tokens * width * bytes_per_element


@formula(source="ring attention (Liu et al. 2023); Llama 3 (2024), section 3.3.2 for all-gather", unit="bytes")
def context_message_bytes(
    *, batch: Any, tokens: Any, kv_heads: Any, head_dim: Any, v_head_dim: Any, bytes_per_element: Any
) -> Any:
    """Keys and values of one rank's tokens, which context parallelism passes round.

    >>> context_message_bytes(batch=1, tokens=8192, kv_heads=8, head_dim=128, v_head_dim=128, bytes_per_element=2)
    33554432
    """
    return batch * tokens * kv_heads * (head_dim + v_head_dim) * bytes_per_element


@formula(source="GShard (Lepikhin et al. 2020): each token goes to each of its experts", unit="bytes")
def expert_message_bytes(*, tokens: Any, used: Any, width: Any, bytes_per_element: Any) -> Any:
    """Rows that one rank hands to the all-to-all of a mixture of experts; the load is taken as equal.

    tokens   of a micro-batch on this rank
    used     experts that a token goes to

    >>> expert_message_bytes(tokens=4096, used=8, width=7168, bytes_per_element=2)
    469762048
    """
    return tokens * used * width * bytes_per_element


@formula(source="PyTorch fully_shard: every parameter is cut along one dimension, rounded up", unit="bytes")
def fsdp_shard_bytes(*, rows: Any, row_elements: Any, shards: Any, bytes_per_element: Any) -> Any:
    """A parameter's part of the all-gather, padding included.

    rows, row_elements   along that dimension, and elements of each: see `llmhw.sharding.fsdp_rows`

    >>> fsdp_shard_bytes(rows=10, row_elements=4, shards=4, bytes_per_element=2)
    24
    """
    return ceil_div(rows, shards) * row_elements * bytes_per_element


# -- collectives ------------------------------------------------------------------------------


_WIRE: dict[str, Callable[..., Any]] = {
    "all-reduce": all_reduce_wire_bytes,
    "reduce-scatter": reduce_scatter_wire_bytes,
    "all-gather": all_gather_wire_bytes,
    "all-to-all": reduce_scatter_wire_bytes,
}


@dataclass(frozen=True, slots=True)
class Collective:
    """One kind of message that a rank takes part in, `calls` times a step.

    kind            all-reduce, reduce-scatter, all-gather, all-to-all, send or recv
    axis            which ranks: see `group_ranks`
    ranks           how many they are
    calls           times in one optimizer step
    bytes_per_call  bytes of the tensor that this rank hands in
    what            in words
    phase           forward, backward or step
    copies          of an all-to-all to the experts that sends a row to a node once: how often the same row is among
                    what is sent; 1: all of them cross
    """

    kind: str
    axis: str
    ranks: Any
    calls: Any
    bytes_per_call: Any
    what: str
    phase: str
    copies: Any = 1

    @property
    def bytes(self) -> Any:
        """Bytes handed in over the whole step."""
        return self.calls * self.bytes_per_call

    @property
    def shifts(self) -> bool:
        """Ring attention's all-to-all: each rank hands everything to its neighbour."""
        return self.axis == "cp" and self.kind == "all-to-all"

    @property
    def wire_bytes_per_call(self) -> Any:
        """Bytes that this rank sends in a call, with ring algorithms; nothing for a receive."""
        if self.kind == "recv":
            return 0.0
        if self.kind == "send" or self.shifts:
            return send_wire_bytes(size=self.bytes_per_call)
        return _WIRE[self.kind](size=self.bytes_per_call, ranks=self.ranks)

    @property
    def wire_bytes(self) -> float:
        """Bytes that this rank sends over the whole step."""
        return float(self.calls * self.wire_bytes_per_call)


@dataclass(frozen=True, slots=True, repr=False)
class Communication(Report):
    """Everything that one rank sends and receives in a step."""

    title: str
    collectives: tuple[Collective, ...]

    def __iter__(self) -> Iterator[Collective]:
        return iter(self.collectives)

    @property
    def bytes(self) -> int:
        """Bytes handed to collectives in a step."""
        return sum(c.bytes for c in self.collectives)

    @property
    def wire_bytes(self) -> float:
        """Bytes that this rank sends in a step, with ring algorithms."""
        return sum(c.wire_bytes for c in self.collectives)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        rows = self.records()
        return {"title": self.title, "collectives": rows, "bytes": self.bytes, "wire_bytes": self.wire_bytes}

    def records(self) -> list[dict[str, Any]]:
        """Every collective as plain numbers."""
        return [plain_fields(c) | {"wire_bytes": c.wire_bytes} for c in self.collectives]

    def rows(self) -> list[tuple[str, ...]]:
        """What, kind, axis, phase, calls, bytes of a call and of the step, as text."""
        return [
            (
                c.what,
                c.kind,
                f"{c.axis} {c.ranks}",
                c.phase,
                f"{c.calls:,}",
                format_quantity(c.bytes_per_call, "bytes"),
                format_quantity(c.bytes, "bytes"),
            )
            for c in self.collectives
        ]

    def tables(self) -> list[Table]:
        columns = ("what", "kind", "ranks", "phase", "calls", "each", "in a step")
        return [Table(self.title, columns, self.rows(), right=4)]


@checked
def group_ranks(parallelism: Parallelism, place: Place | int, axis: str) -> tuple[int, ...]:
    """The ranks that one collective joins, seen from one of them.

    axis   dp (all that see other data: dp x cp), fsdp (those that share one sharded copy), replica (the same shard
           in each copy), tp, cp, pp, ep (one copy of all experts), expert_tp (the parts of an expert), expert_dp,
           expert_fsdp, expert_replica (the same for experts), embedding (both ends of a pipeline)

    >>> group_ranks(Parallelism(dp=2, tp=2), 3, "dp")
    (1, 3)
    """
    p = parallelism
    rank = (place if isinstance(place, Place) else place_of(p, place)).rank
    check_choice("axis", axis, AXES)
    ranks, stride = (of(p.layout()) for of in GROUPS[axis])
    mine = rank // stride % ranks if axis != "embedding" else rank // stride
    if mine >= ranks or (axis == "embedding" and rank % stride >= p.devices // p.pp):
        return (rank,)  # between the ends of a pipeline
    return tuple(rank + (i - mine) * stride for i in range(ranks))


# -- gradients and weights --------------------------------------------------------------------

_FIRST_BUCKET, _BUCKET = 2**20, 25 * 2**20


@checked
def ddp_buckets(sizes: Iterable[int], bucket_cap_mb: float | None = None) -> list[int]:
    """Bytes of the buckets that DistributedDataParallel reduces, first one first.

    sizes           bytes of the gradients, in the order in which the backward pass finishes them
    bucket_cap_mb   as given to DDP; default 25 with a first bucket of 1 MiB

    A bucket is closed by the gradient that reaches its limit, so it may be larger. This is how DDP fills its
    buckets from the second step on; in the first, one bucket holds everything.

    >>> ddp_buckets([700_000, 700_000, 20_000_000, 20_000_000, 5_000])
    [1400000, 40000000, 5000]
    """
    cap = _BUCKET if bucket_cap_mb is None else int(bucket_cap_mb * 2**20)
    limit = _FIRST_BUCKET if bucket_cap_mb is None else cap
    buckets, held = [], 0
    for size in sizes:
        held += size
        if held >= limit:
            buckets.append(held)
            held, limit = 0, cap
    return [*buckets, held] if held else buckets


def _used_order(layer: Layer) -> list[Tensor]:
    """A layer's tensors in the order in which its forward pass uses them."""
    moments = {"norm_in": 0, "norm": 2, "norm_out": 4}
    return sorted(layer.tensors, key=lambda t: moments.get(t.part, 1 if t.component in ("attention", "norms") else 3))


def _message(
    x: Layout, kind: str, axis: str, calls: Any, size: Any, what: str, phase: str, copies: Any = 1
) -> Collective:
    return Collective(kind, axis, GROUPS[axis][0](x), calls, size, what, phase, copies)


@checked
def gathered_width(job: TrainingJob) -> int:
    """Bytes of an element of a weight that FSDP gathers: as it is multiplied.

    Of the 8-bit formats only fp8 with one scale a tensor is cast before it travels (torchao's
    enable_fsdp_float8_all_gather).
    """
    return 1 if job.compute_format == "fp8" else precision_named(job.precision).compute


@checked
def reduced_width(job: TrainingJob) -> int:
    """Bytes of an element of a gradient that is reduced over data-parallel ranks.

    >>> from llmhw import Cluster, model
    >>> job = TrainingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 8), precision="bf16-mixed-fp32-grads")
    >>> reduced_width(job)
    4
    """
    return {"fp32": 4, "bf16": 2}.get(job.trainer.grad_reduce, precision_named(job.precision).gradients)


# Megatron-Core, `DistributedDataParallelConfig.bucket_size`: elements, and so many for each rank where they are more.
_MEGATRON_BUCKET, _FOR_EACH_RANK, _ZERO_BUCKET = 40_000_000, 1_000_000, 500_000_000


@checked
def in_buckets(job: TrainingJob, c: Collective) -> Collective:
    """A message of a flat buffer, sent in as many calls as its trainer makes of it.

    Megatron-Core's buckets hold 40 million elements, or a million for each data-parallel rank if that is more; DDP's
    25 MiB; those of the ZeRO that shards states alone 500 million elements (DeepSpeed's reduce_bucket_size, and about
    InternEvo's).
    """
    if job.trainer.buckets == "megatron":
        bucket = maximum(_MEGATRON_BUCKET, _FOR_EACH_RANK * c.ranks) * reduced_width(job)
    elif job.trainer.buckets == "ddp" or c.kind == "all-reduce":
        bucket = _BUCKET
    else:
        bucket = _ZERO_BUCKET * reduced_width(job)
    whole = c.bytes_per_call * (c.ranks if c.kind == "all-gather" else 1)
    count = maximum(1, ceil_div(whole, bucket))
    return replace(c, calls=c.calls * count, bytes_per_call=c.bytes_per_call / count)


def shard_elements(tensors: Iterable[tuple[Tensor, Any]], shards: Any) -> Any:
    """Elements of one rank's shards of tensors, each with how many there are; padding included."""
    dealt = [(*fsdp_rows(t, shards), count) for t, count in tensors]
    return sum(
        count * fsdp_shard_bytes(rows=rows, row_elements=behind, shards=shards, bytes_per_element=1)
        for rows, behind, count in dealt
    )


@checked
def flat_messages(job: TrainingJob, x: Layout, elements: Any, kind: str = "") -> Iterator[Collective]:
    """Gradients and weights of one flat buffer under ZeRO-0 to 2, in one step.

    elements   that a rank holds of the buffer, whole
    kind       "" for dense tensors, "expert " for experts

    ZeRO-0 reduces everything; ZeRO-1 scatters what is added up and gathers new weights; ZeRO-2 keeps no whole gradients
    from one micro-batch to the next, and so scatters those of each.
    """
    if job.frozen:
        return
    axis, recipe, width = f"{kind.replace(' ', '_')}dp", precision_named(job.precision), reduced_width(job)
    ranks = GROUPS[axis][0](x)
    flat = ceil_div(elements, ranks)
    whole, split = where(x.zero == 0, 1, 0), where((x.zero == 1) | (x.zero == 2), 1, 0)
    times = where(x.zero == 2, x.micro_batches, split)
    yield _message(x, "all-reduce", axis, whole, elements * width, f"{kind}gradients", "backward")
    yield _message(x, "reduce-scatter", axis, times, flat * ranks * width, f"{kind}gradients", "backward")
    yield _message(x, "all-gather", axis, split, flat * recipe.weights, f"updated {kind}weights", "step")


@checked
def sharded_messages(
    job: TrainingJob, x: Layout, elements: Any, kind: str = "", what: str = "a block"
) -> Iterator[Collective]:
    """FSDP2's messages for one group of tensors and one micro-batch; in a pipeline, for the whole step.

    elements   of one rank's shard, padding included
    what       a block; or outside the blocks: the root group, which stays whole until the backward pass has ended

    A forward pass lets go of what it gathered, and so does a backward pass. In a pipeline weights stay whole for the
    step, and gradients are reduced once (torchtitan's default; Llama 3, section 3.3.2).
    """
    prefix = kind.replace(" ", "_")
    size, names, shard = elements * gathered_width(job), f"{kind}weights", elements * reduced_width(job)
    on = where(x.zero == 3, 1, 0)
    again = 0 if what != "a block" or job.parallelism.pp > 1 else on
    full = GROUPS[f"{prefix}fsdp"][0](x) * shard
    yield _message(x, "all-gather", f"{prefix}fsdp", on, size, f"{names} of {what}", "forward")
    yield _message(x, "all-gather", f"{prefix}fsdp", again, size, f"{names} of {what}, again", "backward")
    if job.frozen:
        return
    yield _message(x, "reduce-scatter", f"{prefix}fsdp", on, full, f"gradients of {names} of {what}", "backward")
    yield _message(x, "all-reduce", f"{prefix}replica", on, shard, "their shards, over the copies", "backward")


# -- activations ------------------------------------------------------------------------------


def _alone(ranks: Any) -> bool:
    """Whether a group is one rank, of all layouts: it sends nothing."""
    return type(ranks) is int and ranks == 1


@checked
def layer_messages(job: TrainingJob, x: Layout, layer: Layer, *, again: bool = False) -> Iterator[Collective]:
    """What a rank sends in one layer for one micro-batch: tensor, context and expert parallel.

    again   the layer's forward pass is run a second time
    """
    if not _alone(x.tp):
        yield from _tensor_parallel(job, x, layer, again)
    if layer.attention is not None and not _alone(x.cp):
        yield from _context_parallel(job, x, layer.attention, again)
    stack = next((t for t in layer.tensors if t.component == "experts" and t.matmul), None)
    if stack is not None:
        yield from _expert_parallel(job, x, stack, again)


# What sequence parallelism splits and the gradients of weights need whole: Megatron-LM gathers it a second time.
INPUTS_ONCE_MORE = "inputs once more, for the weights' gradients"


class _Meetings:
    """The two ways of tensor-parallel ranks to meet."""

    def __init__(self, job: TrainingJob, x: Layout) -> None:
        self.x, self.tokens = x, job.seq_len // x.cp
        sizes: dict[str, Any] = {"width": job.model.hidden, "bytes_per_element": precision_named(job.precision).compute}
        self.whole = activation_message_bytes(batch=x.micro_batch, tokens=self.tokens, **sizes)
        self.part = activation_message_bytes(batch=x.micro_batch, tokens=self.tokens // x.tp, **sizes)

    def close(self, what: str, phase: str, calls: Any) -> Iterator[Collective]:
        """Sum what the ranks computed: an all-reduce, or a reduce-scatter under sequence parallelism."""
        split = where(self.x.sequence_parallel, calls, 0)
        yield _message(self.x, "all-reduce", "tp", calls - split, self.whole, what, phase)
        yield _message(self.x, "reduce-scatter", "tp", split, self.whole, what, phase)

    def spread(self, what: str, phase: str, calls: Any) -> Iterator[Collective]:
        """Give every rank all tokens; they have them already without sequence parallelism."""
        yield _message(self.x, "all-gather", "tp", where(self.x.sequence_parallel, calls, 0), self.part, what, phase)


def _tensor_parallel(job: TrainingJob, x: Layout, layer: Layer, again: bool) -> Iterator[Collective]:
    meet = _Meetings(job, x)
    # column-row pairs of the layer that a sum closes: attention (or what stands for it), and the MLP
    pairs = len({t.component for t in layer.tensors if t.matmul and t.split == "row"})
    if again:
        # PyTorch's checkpoint stops once it has what the backward pass needs, which is before a layer's last sum
        skipped = 0 if job.kernels == "megatron" else 1
        yield from meet.close("outputs once more, recomputed", "backward", max(0, pairs - skipped))
    if again or job.recompute == "per-op":
        yield from meet.spread("inputs once more, recomputed", "backward", pairs)
    yield from meet.close("outputs of attention and MLP", "forward", pairs)
    yield from meet.close("gradients of their inputs", "backward", pairs)
    yield from meet.spread("inputs of attention and MLP", "forward", pairs)
    yield from meet.spread("gradients of their outputs", "backward", pairs)
    if job.trainer.regathers:
        yield from meet.spread(INPUTS_ONCE_MORE, "backward", pairs)


def _context_parallel(job: TrainingJob, x: Layout, a: Attention, again: bool) -> Iterator[Collective]:
    sizes: dict[str, Any] = {
        "batch": x.micro_batch,
        "tokens": job.seq_len // x.cp,
        "kv_heads": maximum(1, a.kv_heads // x.tp),
        "head_dim": a.head_dim,
        "v_head_dim": a.v_head_dim,
    }
    size = context_message_bytes(bytes_per_element=precision_named(job.precision).compute, **sizes)
    kind, calls = ("all-to-all", x.cp - 1) if job.parallelism.cp_kind == "ring" else ("all-gather", 1)
    yield _message(x, kind, "cp", calls, size, "keys and values", "forward")
    yield _message(x, kind, "cp", calls, size, "keys and values, again", "backward")
    if again or job.recompute == "selective":
        yield _message(x, kind, "cp", calls, size, "keys and values, recomputed", "backward")
    # gradients of keys and values are summed in fp32 on their way round
    summed = context_message_bytes(bytes_per_element=4, **sizes)
    yield _message(x, "all-to-all", "cp", x.cp, summed, "gradients of keys and values", "backward")


def _expert_parallel(job: TrainingJob, x: Layout, stack: Tensor, again: bool) -> Iterator[Collective]:
    """Rows to the experts and back, as the dispatcher sends them.

    alltoall        NCCL's: a row for each expert of a token
    allgather       every rank gets all tokens, and what it made of them is added up
    deepep, hybridep   a row for each rank that a token goes to, which crosses to a node once
    """
    tokens = x.micro_batch * job.seq_len // x.cp // x.spread
    copies: Any = 1
    used = stack.used
    if job.trainer.dispatcher in ("deepep", "hybridep"):
        used = copies = nodes_reached(nodes=x.ep, picks=stack.used)
    sizes: dict[str, Any] = {"width": stack.into, "bytes_per_element": precision_named(job.precision).compute}
    size = expert_message_bytes(tokens=tokens, used=used, **sizes)
    turns = [("", "forward", True), ("", "backward", False), *([(", recomputed", "backward", True)] if again else [])]
    for note, phase, counted in turns:
        if counted:
            what = f"rows for each expert, counted{note}"
            yield _message(x, "all-to-all", "ep", 1, 8 * stack.experts, what, phase)
        if job.trainer.dispatcher == "allgather":
            own = expert_message_bytes(tokens=tokens, used=1, **sizes)
            yield _message(x, "all-gather", "ep", 1, own, f"rows to the experts{note}", phase)
            yield _message(x, "reduce-scatter", "ep", 1, x.ep * own, f"rows back{note}", phase)
        else:
            yield _message(x, "all-to-all", "ep", 1, size, f"rows to the experts{note}", phase, copies)
            yield _message(x, "all-to-all", "ep", 1, size, f"rows back{note}", phase, copies)
        yield _message(x, "all-gather", "expert_tp", 1, size, f"rows for all parts of an expert{note}", phase)
        yield _message(x, "reduce-scatter", "expert_tp", 1, x.expert_tp * size, f"sum of the parts{note}", phase)


@checked
def end_messages(job: TrainingJob, x: Layout, *, first: bool, last: bool) -> Iterator[Collective]:
    """Tensor-parallel messages outside the layers, for one micro-batch: the embedding; the head and the loss."""
    if _alone(x.tp):
        return
    meet = _Meetings(job, x)
    if first:
        yield from meet.close("embedded tokens", "forward", 1)
        yield from meet.spread("gradients of embedded tokens", "backward", 1)
    if last:
        yield from meet.spread("input of the head", "forward", 1)
        yield from meet.close("gradient of the head's input", "backward", 1)
        # per token: the largest logit, the sum of the exponentials, the label's term; in fp32
        size = x.micro_batch * meet.tokens * 4
        yield _message(x, "all-reduce", "tp", 3, size, "loss over the vocabulary", "forward")


@checked
def norm_messages(job: TrainingJob, x: Layout, tensors: Iterable[tuple[Tensor, Any]]) -> Iterator[Collective]:
    """Under sequence parallelism a rank sees part of the tokens, so the gradients of norms are summed, in one step."""
    width, norms = reduced_width(job), [(t, n) for t, n in tensors if t.component == "norms"]
    on = 0 if job.frozen else where(x.sequence_parallel, 1, 0)
    if job.kernels == "megatron":
        size = width * sum(count * t.numel for t, count in norms)
        yield _message(x, "all-reduce", "tp", on, size, "gradients of norms", "step")
        return
    # DTensor leaves them unsummed, and AdamW reads a gradient three times; FSDP sums them before it reduces them
    reads: Any = 3 if job.optimizer.startswith("adamw") else 1
    reads = where(x.zero == 3, x.micro_batches if job.parallelism.pp == 1 else 1, reads)
    for t, count in norms:
        yield _message(x, "all-reduce", "tp", on * count * reads, width * t.numel, "gradients of norms", "step")


@checked
def pipeline_messages(job: TrainingJob, x: Layout, *, first: bool, last: bool) -> Iterator[Collective]:
    """What a pipeline stage sends and receives in one step.

    Megatron-LM without sequence parallelism sends each tensor-parallel rank's part alone, and puts the parts together
    where they arrive (Narayanan et al. 2021, section 4.1).
    """
    ahead, behind = x.vpp - last, x.vpp - first  # chunks of this stage that have one after, and one before them
    split = x.tp if job.kernels == "megatron" else x.spread
    size = activation_message_bytes(
        batch=x.micro_batch,
        tokens=job.seq_len // x.cp // split,
        width=job.model.hidden,
        bytes_per_element=precision_named(job.precision).compute,
    )
    for kind, forward, backward in (("send", ahead, behind), ("recv", behind, ahead)):
        yield _message(x, kind, "pp", forward * x.micro_batches, size, "hidden vectors", "forward")
        yield _message(x, kind, "pp", backward * x.micro_batches, size, "their gradients", "backward")
    arrive = where(split == x.spread, 0, x.micro_batches)
    yield _message(x, "all-gather", "tp", behind * arrive, size, "hidden vectors, put together", "forward")
    yield _message(x, "all-gather", "tp", ahead * arrive, size, "their gradients, put together", "backward")


@checked
def tied_messages(job: TrainingJob, x: Layout, *, tp_rank: int = 0) -> Iterator[Collective]:
    """Tied embeddings lie on both ends of a pipeline, which add up their gradients."""
    if job.model.tied and job.parallelism.pp > 1 and not job.frozen:
        table = next(t for t in job.model.tensors if t.part == "tokens")
        size = reduced_width(job) * local_tensor(x, table, tp_rank=tp_rank).numel
        yield _message(x, "all-reduce", "embedding", 1, size, "gradients of tied embeddings", "step")


# -- the whole step ---------------------------------------------------------------------------


class _Step:
    """Collects the collectives of one rank's step; equal ones are added up."""

    def __init__(self) -> None:
        self.found: dict[tuple[Any, ...], int] = {}

    def add(self, messages: Iterable[Collective], times: int = 1) -> None:
        for c in messages:
            if c.calls and c.bytes_per_call and c.ranks > 1:
                key = (c.kind, c.axis, c.ranks, int(c.bytes_per_call), c.what, c.phase, c.copies)
                self.found[key] = self.found.get(key, 0) + int(c.calls) * times

    def collectives(self) -> tuple[Collective, ...]:
        return tuple(
            Collective(kind, axis, ranks, calls, size, what, phase, copies)
            for (kind, axis, ranks, size, what, phase, copies), calls in self.found.items()
        )


def _states(step: _Step, job: TrainingJob, place: Place, bucket_cap_mb: float | None) -> None:
    """Gradients reduced and weights gathered over the data-parallel ranks."""
    p, x, width = job.parallelism, job.layout, reduced_width(job)
    rank: dict[str, Any] = {"tp_rank": place.tp, "ep_rank": place.ep, "expert_tp_rank": place.expert_tp}
    before, behind = outer_tensors(job.model, p, place.pp)
    # experts that other ranks than the dense tensors' share are reduced apart from them
    apart = p.ep * p.expert_tp * p.tp > 1
    cut: dict[int, list[Tensor]] = {}  # of each layer object: those of a kind are one
    for chunk, numbers in enumerate(stage_layers(job.model, p, place.pp, mtp=job.mtp)):
        layers = [job.model.layers[n] for n in numbers]
        for layer in layers:
            if id(layer) not in cut:
                cut[id(layer)] = [local_tensor(x, t, layer, **rank) for t in _used_order(layer)]
        blocks = [
            [local_tensor(x, t, **rank) for t in before] if chunk == 0 else [],
            *[cut[id(layer)] for layer in layers],
            [local_tensor(x, t, **rank) for t in behind] if chunk == p.vpp - 1 else [],
        ]
        for kind, shards in (("", p.shards), ("expert ", p.expert_shards)):
            mine = [[t for t in b if (apart and t.component == "experts") == bool(kind)] for b in blocks]
            if p.zero == 3:
                times = job.micro_batches if p.pp == 1 else 1
                alike = Counter(map(id, layers))
                for own, inside in zip(map(id, layers), mine[1:-1], strict=True):
                    if many := alike.pop(own, 0):
                        elements = shard_elements([(t, 1) for t in inside], shards)
                        step.add(sharded_messages(job, x, elements, kind), times * many)
                root = shard_elements([(t, 1) for t in (*mine[0], *mine[-1])], shards)
                step.add(sharded_messages(job, x, root, kind, "outside the blocks"), times)
                continue
            tensors = [t for b in reversed(mine) for t in reversed(b)]
            if p.zero:
                step.add(flat_messages(job, x, sum(t.numel for t in tensors), kind))
                continue
            axis = f"{kind.replace(' ', '_')}dp"
            for size in () if job.frozen else ddp_buckets((t.numel * width for t in tensors), bucket_cap_mb):
                step.add([_message(x, "all-reduce", axis, 1, size, f"{kind}gradients, by bucket", "backward")])


@checked
def collectives(
    job: TrainingJob, place: Place | int | None = None, *, pp_rank: int = 0, bucket_cap_mb: float | None = None
) -> Communication:
    """Every collective that one rank takes part in during one optimizer step.

    place           a `Place`, or the rank's number; default: the first rank of stage `pp_rank`
    bucket_cap_mb   DDP's bucket size; default 25 MiB, with a first bucket of 1 MiB

    Counted as PyTorch does it: DDP's buckets (reduced once a step, however many micro-batches), `fully_shard` with a
    group for each block and one for the rest (gathered in forward and backward and reduced for every micro-batch; in a
    pipeline gathered and reduced once), tensor parallelism closed after attention and MLP, a vocabulary-parallel loss,
    sends between stages, ring or all-gather attention, all-to-all to the experts and back with equal load. ZeRO-1 and 2
    send one flat buffer. With `kernels="megatron"` sequence parallelism gathers once more in the backward pass, and the
    gradients of the norms are summed in one call. Recompute repeats the forward collectives of its layers (selective:
    those of attention's core), though PyTorch's checkpoint stops before a layer's last one.

    Bytes are of the tensor that this rank hands in; `.wire_bytes` is what it sends with ring algorithms.
    """
    p, x = job.parallelism, job.layout
    if place is None:
        if not 0 <= pp_rank < p.pp:
            raise LLMHWError(f"pp_rank={pp_rank} is not one of the {p.pp} stages 0 to {p.pp - 1}")
        place = pp_rank * (p.devices // p.pp)
    here = place if isinstance(place, Place) else place_of(p, place)
    step, ends = _Step(), {"first": here.pp == 0, "last": here.pp == p.pp - 1}
    layers = [job.model.layers[n] for chunk in stage_layers(job.model, p, here.pp, mtp=job.mtp) for n in chunk]
    _states(step, job, here, bucket_cap_mb)
    alike = Counter((id(layer), job.recomputes(number)) for number, layer in enumerate(layers))
    for number, layer in enumerate(layers):
        again = job.recomputes(number)
        if many := alike.pop((id(layer), again), 0):
            step.add(layer_messages(job, x, layer, again=again), job.micro_batches * many)
    step.add(end_messages(job, x, **ends), job.micro_batches)
    outer = [t for side in outer_tensors(job.model, p, here.pp) for t in side]
    step.add(norm_messages(job, x, [(t, 1) for t in (*(t for layer in layers for t in layer.tensors), *outer)]))
    if p.pp > 1:
        step.add(pipeline_messages(job, x, **ends))
        if any(ends.values()):
            step.add(tied_messages(job, x, tp_rank=here.tp))
    return Communication(f"collectives of {job.model.name} on rank {here.rank}, one step", step.collectives())


# -- time -------------------------------------------------------------------------------------


@formula(source="alpha-beta model (Hockney 1994)", unit="seconds")
def message_seconds(
    *, wire_bytes: Any, bandwidth_bytes_per_second: Any, hops: Any = 1, latency_seconds: Any = 0
) -> Any:
    """Time of a message or of a collective: its bytes at the link's bandwidth, and a latency for each hop in turn.

    wire_bytes   bytes that one rank sends: see `all_reduce_wire_bytes` and its kin
    hops         steps that wait for each other: n - 1 of a ring's reduce-scatter or all-gather

    >>> message_seconds(wire_bytes=1e9, bandwidth_bytes_per_second=50e9, hops=7, latency_seconds=1e-5)
    0.02007
    """
    return wire_bytes / bandwidth_bytes_per_second + hops * latency_seconds


@formula(source="a message hides behind a product that takes longer: bytes / W = FLOPs x tokens / P", unit="tokens")
def hiding_tokens(
    *, bytes_per_param: Any, flops_per_param: Any, flops_per_second: Any, bandwidth_bytes_per_second: Any
) -> Any:
    """Tokens of a micro-batch from which on the messages of its weights take no longer than its products.

    bytes_per_param   sent for each parameter: 2 where FSDP gathers in bf16
    flops_per_param   multiplied meanwhile, for each parameter and token: 2 in a forward pass, 4 in a backward pass
    flops_per_second  of a device

    An H100 at its peak, whose weights come over eight adapters of 50 GB/s at once:

    >>> rates = {"flops_per_second": 989e12, "bandwidth_bytes_per_second": 400e9}
    >>> hiding_tokens(bytes_per_param=2, flops_per_param=2, **rates)
    2472.5
    """
    return bytes_per_param / flops_per_param * flops_per_second / bandwidth_bytes_per_second


@formula(source="NCCL: rings cross each node boundary once, over the adapters of all their ranks there", unit="bytes/s")
def group_bandwidth(*, local_ranks: Any, inside_bytes_per_second: Any, between_bytes_per_second: Any) -> Any:
    """Bus bandwidth of a ring that spans nodes: the slower of the links inside and of the adapters between.

    local_ranks                 ranks of the group in one node
    between_bytes_per_second    of one device's adapter

    >>> group_bandwidth(local_ranks=8, inside_bytes_per_second=360e9, between_bytes_per_second=50e9) / 1e9
    360.0
    """
    return minimum(inside_bytes_per_second, local_ranks * between_bytes_per_second)


@formula(source="expectation over independent picks: each misses a node with probability 1 - 1 / nodes", unit="count")
def nodes_reached(*, nodes: Any, picks: Any) -> Any:
    """Nodes that a token's experts lie in, on average, when they are spread evenly.

    picks   experts of a token

    >>> round(nodes_reached(nodes=4, picks=8), 2)
    3.6
    """
    return nodes * (1 - (1 - 1 / nodes) ** picks)


@formula(source="ring algorithms: every step waits for the slowest link of the ring", unit="seconds")
def ring_seconds(
    *,
    wire_bytes: Any,
    ranks: Any,
    local_ranks: Any,
    rounds: Any = 1,
    inside_bytes_per_second: Any,
    between_bytes_per_second: Any,
    inside_latency: Any = 0,
    between_latency: Any = 0,
) -> Any:
    """A reduce-scatter or an all-gather (one round), or an all-reduce (two), of so many bytes on the wire.

    local_ranks   ranks of the group in one node
    latencies     seconds of a hop: one from each rank to the next, and a ring that leaves its node waits for the link
                  between nodes in each of them

    >>> rates = {"inside_bytes_per_second": 350e9, "between_bytes_per_second": 50e9}
    >>> ring_seconds(wire_bytes=7e9, ranks=8, local_ranks=8, **rates)
    0.02
    """
    within = ranks <= local_ranks
    shared = group_bandwidth(
        local_ranks=local_ranks,
        inside_bytes_per_second=inside_bytes_per_second,
        between_bytes_per_second=between_bytes_per_second,
    )
    hops = rounds * (ranks - 1) * where(within, inside_latency, between_latency)
    return wire_bytes / where(within, inside_bytes_per_second, shared) + hops


# NCCL's trees, as `collectives.csv` fits them: their rate over that of rings, and the time until a piece has climbed
# a level of them, in hops of a ring.
_TREE_RATE, _TREE_HOPS = 0.48, 7.5


@formula(
    source="NCCL: the faster of a ring and of two trees over the nodes, which only an all-reduce has", unit="seconds"
)
def all_reduce_seconds(
    *,
    wire_bytes: Any,
    ranks: Any,
    local_ranks: Any,
    inside_bytes_per_second: Any,
    between_bytes_per_second: Any,
    inside_latency: Any = 0,
    between_latency: Any = 0,
) -> Any:
    """An all-reduce of so many bytes on the wire of a ring; arguments as those of `ring_seconds`.

    A ring waits once for each rank, a tree twice for each doubling of the nodes, at about half the rate.

    >>> rates = {"inside_bytes_per_second": 350e9, "between_bytes_per_second": 50e9, "between_latency": 1e-5}
    >>> round(all_reduce_seconds(wire_bytes=64e6, ranks=256, local_ranks=8, **rates) * 1e3, 2)
    1.13
    """
    given: dict[str, Any] = {
        "local_ranks": local_ranks,
        "inside_bytes_per_second": inside_bytes_per_second,
        "between_bytes_per_second": between_bytes_per_second,
    }
    latencies = {"inside_latency": inside_latency, "between_latency": between_latency}
    ring = ring_seconds(wire_bytes=wire_bytes, ranks=ranks, rounds=2, **given, **latencies)
    levels = log(maximum(1, ranks / local_ranks)) / log(2)
    tree = wire_bytes / (_TREE_RATE * group_bandwidth(**given)) + 2 * levels * _TREE_HOPS * between_latency
    return where(ranks <= local_ranks, ring, minimum(ring, tree))


@formula(source="both networks work at once; a row crosses to a node once (DeepEP, DeepSeek 2025)", unit="seconds")
def all_to_all_seconds(
    *,
    size: Any,
    ranks: Any,
    local_ranks: Any,
    copies: Any = 1,
    inside_bytes_per_second: Any,
    between_bytes_per_second: Any,
    inside_latency: Any = 0,
    between_latency: Any = 0,
) -> Any:
    """Every rank hands in `size` bytes, an equal part for each rank.

    copies      of one row among them, where it crosses to a node once, however many experts it has there; 1: all cross
    latencies   seconds until the first bytes have arrived, of all messages of a rank

    >>> rates = {"inside_bytes_per_second": 350e9, "between_bytes_per_second": 50e9}
    >>> all_to_all_seconds(size=8e9, ranks=8, local_ranks=8, **rates)
    0.02
    """
    nodes = ranks / local_ranks
    inside = size * (local_ranks - 1) / local_ranks / inside_bytes_per_second + (local_ranks > 1) * inside_latency
    crossing = size / copies * nodes_reached(nodes=nodes, picks=copies) * (nodes - 1) / nodes
    return where(nodes == 1, inside, maximum(inside, crossing / between_bytes_per_second + between_latency))


@formula(source="a full mesh has one link to each peer: no message takes a way round", unit="fraction")
def mesh_share(*, ranks: Any, devices: Any) -> Any:
    """Share of a device's links in a full mesh that lead to the other members of a group.

    >>> mesh_share(ranks=2, devices=8)
    0.14285714285714285
    """
    return (maximum(minimum(ranks, devices), 2) - 1) / (devices - 1)


@formula(source="XLA's collectives use the rings of all axes that a group spans (scaling-book)", unit="fraction")
def torus_share(*, ranks: Any, devices: Any, axes: Any) -> Any:
    """Share of a device's links in a torus that lie along the axes that a group spans; its sides are taken as equal.

    devices   of the torus

    >>> torus_share(ranks=16, devices=256, axes=2), torus_share(ranks=17, devices=256, axes=2)
    (0.5, 1.0)
    """
    spanned = axes * log(maximum(ranks, 2)) / log(maximum(devices, 2))
    return minimum(ceil_div(spanned, 1 + 1e-9), axes) / axes


@dataclass(frozen=True, slots=True)
class Network:
    """The network as one device sees it, with what collectives reach on it.

    per_node          devices of a scale-up domain
    inside, between   bytes per second and direction, per device
    inside_latency, between_latency   seconds of a hop
    topology          of the links inside, see `llmhw.hardware.Link`
    meshed            devices that a mesh inside joins
    """

    per_node: int
    inside: float
    between: float
    inside_latency: float
    between_latency: float
    topology: str = ""
    meshed: int = 2

    @property
    def axes(self) -> int:
        """Axes of the torus inside; 0: it is none."""
        return int(self.topology.split()[1]) if self.topology.startswith("torus") else 0

    def reached(self, ranks: Any) -> Any:
        """Bytes per second inside of each rank of a group of so many in a node."""
        if self.topology == "mesh":
            return self.inside * mesh_share(ranks=ranks, devices=self.meshed)
        if self.axes:
            return self.inside * torus_share(ranks=ranks, devices=self.per_node, axes=self.axes)
        return self.inside

    def waited(self, ranks: Any) -> Any:
        """Seconds that each of a group's other ranks in a node adds to a collective.

        On a torus the rings of all axes that the group spans run one after the other, each both ways round.
        """
        if not self.axes:
            return self.inside_latency
        spanned = self.axes * torus_share(ranks=ranks, devices=self.per_node, axes=self.axes)
        hops = spanned * (ranks ** (1 / spanned) - 1) / 2
        return self.inside_latency * hops / maximum(1, ranks - 1)

    def local(self, ranks: Any, stride: Any) -> Any:
        """Ranks of a group in one node; its neighbours are `stride` devices apart."""
        return minimum(ranks, ceil_div(self.per_node, stride))

    def timing(self, c: Collective, x: Layout) -> tuple[Callable[..., Any], dict[str, Any]]:
        """The formula that times one call, and what goes into it."""
        stride = GROUPS[c.axis][1](x)
        # a ring is as slow as its slowest link, which leaves the node if the group does
        near = (stride * c.ranks if c.shifts else stride + 1) <= self.per_node
        return self._timing(c, self.local(c.ranks, stride), near)

    def seconds(self, c: Collective, local_ranks: Any) -> Any:
        """All calls of a step, if so many ranks of the group share a node, wherever its layout would put them."""
        formula, given = self._timing(c, minimum(local_ranks, c.ranks), local_ranks >= (c.ranks if c.shifts else 2))
        return c.calls * formula(**given)

    def _timing(self, c: Collective, local: Any, near: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
        if c.kind == "send" or c.shifts:
            return message_seconds, {
                "wire_bytes": c.bytes_per_call,
                "bandwidth_bytes_per_second": where(near, self.reached(2), self.between),
                "latency_seconds": where(near, self.inside_latency, self.between_latency),
            }
        given: dict[str, Any] = {
            "ranks": c.ranks,
            "local_ranks": local,
            "inside_bytes_per_second": self.reached(local),
            "between_bytes_per_second": self.between,
            "inside_latency": self.waited(local),
            "between_latency": self.between_latency,
        }
        if c.kind == "all-to-all":
            # NCCL sends to each rank apart; kernels that know nodes send to each node
            away = where(c.copies > 1, ceil_div(c.ranks, local) - 1, c.ranks - local)
            given["between_latency"] = self.between_latency * away
            return all_to_all_seconds, {"size": c.bytes_per_call, "copies": c.copies, **given}
        given["wire_bytes"] = c.wire_bytes_per_call
        return all_reduce_seconds if c.kind == "all-reduce" else ring_seconds, given
