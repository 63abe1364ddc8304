"""What the ranks of a training job send each other in one step.

Bytes are those of the tensor that one rank hands to the collective: the whole tensor of an all-reduce, the shard
that an all-gather starts from, the full tensor that a reduce-scatter takes, all rows of an all-to-all. What then
crosses the wires depends on the algorithm: see `wire_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from llmhw.formula import FORMULAS, formula
from llmhw.job import Parallelism, TrainingJob
from llmhw.memory import precision_named
from llmhw.model import Layer, ModelSpec, Tensor
from llmhw.schedule import pipeline_actions
from llmhw.sharding import Place, local_tensor, outer_tensors, place_of, stage_layers
from llmhw.units import LLMHWError, ceil_div, check_choice, format_quantity, html_table, text_table

KINDS = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "send", "recv")
AXES = (
    "dp",
    "fsdp",
    "replica",
    "tp",
    "cp",
    "pp",
    "ep",
    "expert_tp",
    "expert_dp",
    "expert_fsdp",
    "expert_replica",
    "embedding",
)

# -- formulas ---------------------------------------------------------------------------------


@formula(source="ring algorithm (Patarasu and Yuan 2009): a reduce-scatter, then an all-gather", unit="bytes")
def all_reduce_wire_bytes(*, size: Any, ranks: Any) -> Any:
    """Bytes that one rank sends (and receives) in a ring all-reduce: 2 (n - 1) / n of the tensor.

    size   bytes of the tensor on one rank

    >>> all_reduce_wire_bytes(size=1000, ranks=4)
    1500.0
    """
    return 2 * (ranks - 1) * size / ranks


@formula(source="ring algorithm: every rank passes on what it adds up, one part at a time", unit="bytes")
def reduce_scatter_wire_bytes(*, size: Any, ranks: Any) -> Any:
    """Bytes that one rank sends in a ring reduce-scatter: (n - 1) / n of the tensor it hands in.

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


@formula(source="every rank keeps its own part", unit="bytes")
def all_to_all_wire_bytes(*, size: Any, ranks: Any) -> Any:
    """Bytes that one rank sends in an all-to-all with equal parts: (n - 1) / n of what it hands in.

    >>> all_to_all_wire_bytes(size=1000, ranks=4)
    750.0
    """
    return (ranks - 1) * size / ranks


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


@formula(source="PyTorch fully_shard: every parameter is cut along its first dimension, rounded up", unit="bytes")
def fsdp_shard_bytes(*, rows: Any, row_elements: Any, shards: Any, bytes_per_element: Any) -> Any:
    """A parameter's part of the all-gather, padding included.

    rows, row_elements   its first dimension, and the elements behind it

    >>> fsdp_shard_bytes(rows=10, row_elements=4, shards=4, bytes_per_element=2)
    24
    """
    return ceil_div(rows, shards) * row_elements * bytes_per_element


# -- collectives ------------------------------------------------------------------------------


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
    """

    kind: str
    axis: str
    ranks: int
    calls: int
    bytes_per_call: int
    what: str
    phase: str

    @property
    def bytes(self) -> int:
        """Bytes handed in over the whole step."""
        return self.calls * self.bytes_per_call

    @property
    def wire_bytes(self) -> float:
        """Bytes that this rank sends over the whole step, with ring algorithms; nothing for a receive."""
        if self.kind == "recv":
            return 0.0
        entry = FORMULAS[f"{self.kind.replace('-', '_')}_wire_bytes"]
        ranks = {} if self.kind == "send" else {"ranks": self.ranks}
        return float(self.calls * entry.function(size=self.bytes_per_call, **ranks))


@dataclass(frozen=True, slots=True)
class Communication:
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
        names = Collective.__slots__
        rows = [{**{n: getattr(c, n) for n in names}, "wire_bytes": c.wire_bytes} for c in self.collectives]
        return {"title": self.title, "collectives": rows, "bytes": self.bytes, "wire_bytes": self.wire_bytes}

    def to_frame(self) -> Any:
        """A pandas DataFrame, one row a collective; needs pandas."""
        import pandas

        return pandas.DataFrame(self.to_dict()["collectives"])

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

    def __str__(self) -> str:
        head = ("what", "kind", "ranks", "phase", "calls", "each", "in a step")
        return "\n".join([self.title, *text_table([head, *self.rows()], right=4)])

    def _repr_html_(self) -> str:
        return html_table(
            self.title, ("what", "kind", "ranks", "phase", "calls", "each", "in a step"), self.rows(), right=4
        )


def group_ranks(parallelism: Parallelism, place: Place | int, axis: str) -> tuple[int, ...]:
    """The ranks that one collective joins, seen from one of them.

    axis   dp (all that see other data: dp x cp), fsdp (those that share one sharded copy), replica (the same shard
           in each copy), tp, cp, pp, ep (one copy of all experts), expert_tp (the parts of an expert), expert_dp,
           expert_fsdp, expert_replica (the same for experts), embedding (both ends of a pipeline)

    >>> group_ranks(Parallelism(dp=2, tp=2), 3, "dp")
    (1, 3)
    """
    p = parallelism
    mine = place if isinstance(place, Place) else place_of(p, place)
    check_choice("axis", axis, AXES)
    same: dict[str, tuple[str, ...]] = {
        "dp": ("pp", "tp"),
        "fsdp": ("pp", "tp", "replica"),
        "replica": ("pp", "tp", "shard"),
        "tp": ("pp", "cp", "dp"),
        "cp": ("pp", "dp", "tp"),
        "pp": ("dp", "cp", "tp"),
        "embedding": ("dp", "cp", "tp"),
        "ep": ("pp", "expert_tp"),
        "expert_tp": ("pp", "ep"),
        "expert_dp": ("pp", "ep", "expert_tp"),
        "expert_fsdp": ("pp", "ep", "expert_tp"),
        "expert_replica": ("pp", "ep", "expert_tp", "expert_shard"),
    }
    block, inside = p.ep * p.expert_tp, p.devices // p.pp

    def belongs(other: Place) -> bool:
        if any(getattr(other, name) != getattr(mine, name) for name in same[axis]):
            return False
        if axis in ("ep", "expert_tp"):
            return other.rank // block == mine.rank // block
        if axis == "expert_fsdp":
            copy = p.expert_shards * block
            return other.rank % inside // copy == mine.rank % inside // copy
        return axis != "embedding" or other.pp in (0, p.pp - 1)

    return tuple(rank for rank in range(p.devices) if belongs(place_of(p, rank)))


# -- gradients and weights --------------------------------------------------------------------

_FIRST_BUCKET, _BUCKET = 2**20, 25 * 2**20


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


def _chunk_tensors(spec: ModelSpec, p: Parallelism, place: Place, chunk: int) -> list[list[Tensor]]:
    """This rank's tensors of one of its model chunks, by block, in order of use: before, each layer, behind."""
    where: dict[str, Any] = {"tp_rank": place.tp, "ep_rank": place.ep, "expert_tp_rank": place.expert_tp}
    before, behind = outer_tensors(spec, p, place.pp)
    numbers = stage_layers(spec, p, place.pp)[chunk]
    return [
        [local_tensor(spec, p, t, **where) for t in before] if chunk == 0 else [],
        *[[local_tensor(spec, p, t, spec.layers[n], **where) for t in _used_order(spec.layers[n])] for n in numbers],
        [local_tensor(spec, p, t, **where) for t in behind] if chunk == p.vpp - 1 else [],
    ]


def _shard_bytes(tensors: Iterable[Tensor], shards: int, width: int) -> int:
    return sum(
        int(
            fsdp_shard_bytes(
                rows=t.shape[0], row_elements=t.numel // t.shape[0], shards=shards, bytes_per_element=width
            )
        )
        for t in tensors
        if t.shape[0]
    )


class _Step:
    """Collects the collectives of one rank's step; equal ones are added up."""

    def __init__(self, parallelism: Parallelism, place: Place) -> None:
        self.parallelism, self.place = parallelism, place
        self.found: dict[tuple[str, str, int, str, str], int] = {}

    def add(self, kind: str, axis: str, calls: int, size: int, what: str, phase: str) -> None:
        if calls and size:
            key = (kind, axis, int(size), what, phase)
            self.found[key] = self.found.get(key, 0) + calls

    def collectives(self) -> tuple[Collective, ...]:
        sizes: dict[str, int] = {}
        made = []
        for (kind, axis, size, what, phase), calls in self.found.items():
            if axis not in sizes:
                sizes[axis] = len(group_ranks(self.parallelism, self.place, axis))
            if sizes[axis] > 1:
                made.append(Collective(kind, axis, sizes[axis], calls, size, what, phase))
        return tuple(made)


def _states(step: _Step, job: TrainingJob, place: Place, bucket_cap_mb: float | None) -> None:
    """Gradients reduced and weights gathered over the data-parallel ranks."""
    p, recipe = job.parallelism, precision_named(job.precision)
    # experts that other ranks than the dense tensors' share are reduced apart from them
    apart = p.ep * p.expert_tp * p.tp > 1
    for chunk in range(p.vpp):
        blocks = _chunk_tensors(job.model, p, place, chunk)
        dense = [[t for t in block if t.component != "experts" or not apart] for block in blocks]
        experts = [[t for t in block if t.component == "experts" and apart] for block in blocks]
        for kinds, prefix, name, shards in (
            (dense, "", "", p.shards),
            (experts, "expert_", "expert ", p.expert_shards),
        ):
            if p.zero == 3:
                _fully_sharded(step, job, kinds, prefix, shards, place, chunk)
                continue
            tensors = [t for block in reversed(kinds) for t in reversed(block)]
            if p.zero == 0:
                for size in ddp_buckets((t.numel * recipe.gradients for t in tensors), bucket_cap_mb):
                    step.add("all-reduce", f"{prefix}dp", 1, size, f"{name}gradients, by bucket", "backward")
            else:
                flat = ceil_div(sum(t.numel for t in tensors), shards)
                times, full = job.micro_batches if p.zero == 2 else 1, flat * shards * recipe.gradients
                step.add("reduce-scatter", f"{prefix}dp", times, full, f"{name}gradients", "backward")
                step.add("all-gather", f"{prefix}dp", 1, flat * recipe.weights, f"updated {name}weights", "step")


def _fully_sharded(
    step: _Step, job: TrainingJob, blocks: list[list[Tensor]], prefix: str, shards: int, place: Place, chunk: int
) -> None:
    """FSDP2: each block is a group of its own, what lies outside the blocks is the root group."""
    recipe = precision_named(job.precision)
    root = [t for block in (blocks[0], blocks[-1]) for t in block]
    names = f"{prefix.replace('_', ' ')}weights"
    forward, backward, reduced = _gathers(job, place, chunk)
    once = reduced if job.parallelism.pp > 1 else job.micro_batches
    for tensors, what, ahead, again in (
        *((block, "a block", forward, backward) for block in blocks[1:-1]),
        (root, "outside the blocks", once, 0),
    ):
        size = _shard_bytes(tensors, shards, recipe.weights)
        full = shards * _shard_bytes(tensors, shards, recipe.gradients)
        step.add("all-gather", f"{prefix}fsdp", ahead, size, f"{names} of {what}", "forward")
        step.add("all-gather", f"{prefix}fsdp", again, size, f"{names} of {what}, again", "backward")
        step.add("reduce-scatter", f"{prefix}fsdp", reduced, full, f"gradients of {names} of {what}", "backward")
        step.add("all-reduce", f"{prefix}replica", reduced, full // shards, "their shards, over the copies", "backward")


def _gathers(job: TrainingJob, place: Place, chunk: int) -> tuple[int, int, int]:
    """How often a block is gathered for forward and for backward passes, and its gradients are reduced, in a step.

    A forward pass lets go of what it gathered. So does a backward pass, but not in a pipeline: PyTorch keeps the
    weights after a backward pass for the next pass to use, and reduces the gradients once, at the end.
    """
    p = job.parallelism
    if p.pp == 1:
        return job.micro_batches, job.micro_batches, job.micro_batches
    mine = str(chunk * p.pp + place.pp)
    whole, forward, backward = False, 0, 0
    for action in pipeline_actions(p.pipeline_schedule, p.pp, p.vpp, job.micro_batches)[place.pp]:
        if action[1:].split(".")[0] != mine:
            continue
        ahead = action[0] == "F"
        forward, backward = forward + (ahead and not whole), backward + (not ahead and not whole)
        whole = not ahead
    return forward, backward, 1


# -- activations ------------------------------------------------------------------------------


def _width(job: TrainingJob) -> int:
    """Bytes of an element of an activation."""
    return precision_named(job.precision).weights


def _tensor_parallel(step: _Step, job: TrainingJob, place: Place, layers: list[Layer]) -> None:
    p, spec, times = job.parallelism, job.model, job.micro_batches
    if p.tp == 1:
        return
    tokens = job.seq_len // p.cp
    message: dict[str, Any] = {"batch": job.micro_batch, "width": spec.hidden, "bytes_per_element": _width(job)}
    whole = int(activation_message_bytes(tokens=tokens, **message))
    part = int(activation_message_bytes(tokens=tokens // p.tp, **message))

    def close(what: str, phase: str, calls: int) -> None:
        """Sum what the ranks computed: an all-reduce, or a reduce-scatter under sequence parallelism."""
        step.add("reduce-scatter" if p.sequence_parallel else "all-reduce", "tp", calls, whole, what, phase)

    def spread(what: str, phase: str, calls: int) -> None:
        """Give every rank all tokens; they have them already without sequence parallelism."""
        if p.sequence_parallel:
            step.add("all-gather", "tp", calls, part, what, phase)

    pairs = times * sum(_pairs(layer) for layer in layers)
    again = _recomputed(job, layers)
    # PyTorch's checkpoint stops once it has what the backward pass needs, which is before a layer's last sum
    skipped = 0 if job.kernels == "megatron" else 1
    close("outputs once more, recomputed", "backward", times * sum(max(0, _pairs(x) - skipped) for x in again))
    spread("inputs once more, recomputed", "backward", times * sum(_pairs(x) for x in again))
    close("outputs of attention and MLP", "forward", pairs)
    close("gradients of their inputs", "backward", pairs)
    spread("inputs of attention and MLP", "forward", pairs)
    spread("gradients of their outputs", "backward", pairs)
    if job.kernels == "megatron":
        spread("inputs once more, for the weights' gradients", "backward", pairs)
    if place.pp == 0:
        close("embedded tokens", "forward", times)
        spread("gradients of embedded tokens", "backward", times)
    if place.pp == p.pp - 1:
        spread("input of the head", "forward", times)
        close("gradient of the head's input", "backward", times)
        # per token: the largest logit, the sum of the exponentials, the label's term; in fp32
        step.add("all-reduce", "tp", 3 * times, job.micro_batch * tokens * 4, "loss over the vocabulary", "forward")
    if p.sequence_parallel:
        _norm_gradients(step, job, place, layers)


def _recomputed(job: TrainingJob, layers: list[Layer]) -> list[Layer]:
    """The layers of a stage whose forward pass is run a second time."""
    if job.recompute == "full":
        return layers
    return layers[: job.recompute_layers] if job.recompute == "block" else []


def _pairs(layer: Layer) -> int:
    """Column-row pairs of a layer that tensor parallelism closes: attention (or what stands for it), and the MLP."""
    kinds = {t.component for t in layer.tensors if t.matmul and t.split == "row"}
    return len(kinds & {"attention", "mlp"})


def _norm_gradients(step: _Step, job: TrainingJob, place: Place, layers: list[Layer]) -> None:
    """Under sequence parallelism a rank sees part of the tokens, so the gradients of whole tensors are summed."""
    width = precision_named(job.precision).gradients
    held = [t for layer in layers for t in layer.tensors]
    held += [t for part in outer_tensors(job.model, job.parallelism, place.pp) for t in part]
    whole = [t for t in held if t.component == "norms"]
    if job.kernels == "megatron":
        step.add("all-reduce", "tp", 1, width * sum(t.numel for t in whole), "gradients of norms", "step")
        return
    # DTensor leaves them unsummed, and AdamW reads a gradient three times; FSDP sums them before it reduces them
    reads = 3 if job.optimizer.startswith("adamw") else 1
    if job.parallelism.zero == 3:
        reads = job.micro_batches if job.parallelism.pp == 1 else 1
    for tensor in whole:
        step.add("all-reduce", "tp", reads, width * tensor.numel, "gradients of norms", "step")


def _pipeline(step: _Step, job: TrainingJob, place: Place) -> None:
    p = job.parallelism
    if p.pp == 1:
        return
    tokens = job.seq_len // p.cp // (p.tp if p.sequence_parallel else 1)
    size = int(
        activation_message_bytes(
            batch=job.micro_batch, tokens=tokens, width=job.model.hidden, bytes_per_element=_width(job)
        )
    )
    first, last = place.pp == 0, place.pp == p.pp - 1
    ahead, behind = p.vpp - last, p.vpp - first  # chunks of this stage that have one after, and one before them
    for kind, forward, backward in (("send", ahead, behind), ("recv", behind, ahead)):
        step.add(kind, "pp", forward * job.micro_batches, size, "hidden vectors", "forward")
        step.add(kind, "pp", backward * job.micro_batches, size, "their gradients", "backward")
    if job.model.tied and (first or last):
        recipe = precision_named(job.precision)
        table = next(t for t in job.model.tensors if t.part == "tokens")
        local = local_tensor(job.model, p, table, tp_rank=place.tp)
        step.add("all-reduce", "embedding", 1, recipe.gradients * local.numel, "gradients of tied embeddings", "step")


def _context_parallel(step: _Step, job: TrainingJob, layers: list[Layer]) -> None:
    p, times, width = job.parallelism, job.micro_batches, _width(job)
    if p.cp == 1:
        return
    again = layers if job.recompute == "selective" else _recomputed(job, layers)
    for number, layer in enumerate(layers):
        a = layer.attention
        if a is None:
            continue
        sizes: dict[str, Any] = {
            "batch": job.micro_batch,
            "tokens": job.seq_len // p.cp,
            "kv_heads": max(1, a.kv_heads // p.tp),
            "head_dim": a.head_dim,
            "v_head_dim": a.v_head_dim,
        }
        size = int(context_message_bytes(bytes_per_element=width, **sizes))
        # gradients of keys and values are summed in fp32 on their way round
        summed = int(context_message_bytes(bytes_per_element=4, **sizes))
        kind, calls = ("all-to-all", p.cp - 1) if p.cp_kind == "ring" else ("all-gather", 1)
        step.add(kind, "cp", calls * times, size, "keys and values", "forward")
        step.add(kind, "cp", calls * times, size, "keys and values, again", "backward")
        if number < len(again):
            step.add(kind, "cp", calls * times, size, "keys and values, recomputed", "backward")
        step.add("all-to-all", "cp", p.cp * times, summed, "gradients of keys and values", "backward")


def _expert_parallel(step: _Step, job: TrainingJob, layers: list[Layer]) -> None:
    p, times, width = job.parallelism, job.micro_batches, _width(job)
    tokens = job.micro_batch * job.seq_len // p.cp // (p.tp if p.sequence_parallel else 1)
    again = _recomputed(job, layers)
    for number, layer in enumerate(layers):
        stack = next((t for t in layer.tensors if t.component == "experts" and t.matmul), None)
        if stack is None:
            continue
        size = int(
            expert_message_bytes(tokens=tokens, used=stack.used, width=job.model.hidden, bytes_per_element=width)
        )
        for note, phase, counted in (
            ("", "forward", True),
            ("", "backward", False),
            (", recomputed", "backward", True),
        ):
            if note and number >= len(again):
                continue
            if counted:
                step.add("all-to-all", "ep", times, 8 * stack.experts, f"rows for each expert, counted{note}", phase)
            step.add("all-to-all", "ep", times, size, f"rows to the experts{note}", phase)
            step.add("all-to-all", "ep", times, size, f"rows back{note}", phase)
            step.add("all-gather", "expert_tp", times, size, f"rows for all parts of an expert{note}", phase)
            step.add("reduce-scatter", "expert_tp", times, p.expert_tp * size, f"sum of the parts{note}", phase)


# -- the whole step ---------------------------------------------------------------------------


def collectives(
    job: TrainingJob, place: Place | int | None = None, *, pp_rank: int = 0, bucket_cap_mb: float | None = None
) -> Communication:
    """Every collective that one rank takes part in during one optimizer step.

    place           a `Place`, or the rank's number; default: the first rank of stage `pp_rank`
    bucket_cap_mb   DDP's bucket size; default 25 MiB, with a first bucket of 1 MiB

    Counted as PyTorch does it: DDP's buckets (reduced once a step, however many micro-batches), `fully_shard` with a
    group for each block and one for the rest (gathered in forward and backward and reduced for every micro-batch),
    tensor parallelism closed after attention and MLP, a vocabulary-parallel loss, sends between stages, ring or
    all-gather attention, all-to-all to the experts and back with equal load. ZeRO-1 and 2 send one flat buffer.
    With `kernels="megatron"` sequence parallelism gathers once more in the backward pass, and the gradients of the
    norms are summed in one call. Recompute repeats the forward collectives of its layers (selective: those of
    attention's core), though PyTorch's checkpoint stops before a layer's last one.

    Bytes are of the tensor that this rank hands in; `.wire_bytes` is what it sends with ring algorithms.
    """
    p = job.parallelism
    if place is None:
        if not 0 <= pp_rank < p.pp:
            raise LLMHWError(f"pp_rank={pp_rank} is not one of the {p.pp} stages 0 to {p.pp - 1}")
        place = pp_rank * (p.devices // p.pp)
    here = place if isinstance(place, Place) else place_of(p, place)
    step = _Step(p, here)
    layers = [job.model.layers[n] for chunk in stage_layers(job.model, p, here.pp) for n in chunk]
    _states(step, job, here, bucket_cap_mb)
    _tensor_parallel(step, job, here, layers)
    _context_parallel(step, job, layers)
    _expert_parallel(step, job, layers)
    _pipeline(step, job, here)
    return Communication(f"collectives of {job.model.name} on rank {here.rank}, one step", step.collectives())
