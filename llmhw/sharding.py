"""Which part of every tensor one rank holds.

Tensor parallelism cuts matrices by the role of their module, pipeline parallelism deals out layers, expert
parallelism deals out experts, and ZeRO or FSDP cut what is left over the data-parallel ranks. Every size is
that of the real tensor on that rank, so the ranks add up to the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any

from llmhw.formula import Estimate, Part, formula, term
from llmhw.job import Layout, Parallelism
from llmhw.memory import optimizer_named, optimizer_parts, precision_named, state_bytes
from llmhw.model import Layer, ModelSpec, Tensor
from llmhw.units import LLMHWError, ceil_div, check_divides, maximum, minimum, where


@formula(source="torch.chunk: equal parts, rounded up; the last ones get what is left", unit="count")
def chunk_size(*, size: Any, parts: Any, index: Any) -> Any:
    """Length of part number `index` (from 0) when a dimension is cut into `parts`.

    >>> [chunk_size(size=10, parts=4, index=i) for i in range(4)]
    [3, 3, 3, 1]
    """
    return maximum(0, minimum(ceil_div(size, parts), size - index * ceil_div(size, parts)))


# -- ranks ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where one rank stands in the layout.

    rank              its number in the job: tp varies fastest, then cp, dp, pp, as in Megatron-LM
    tp, cp, dp, pp    its number in each group
    ep, expert_tp     which experts it holds, and which part of each
    shard, replica    its part of the dense states under ZeRO, and which copy of the model (HSDP)
    expert_shard      its part of its experts' states
    """

    rank: int
    tp: int
    cp: int
    dp: int
    pp: int
    ep: int
    expert_tp: int
    shard: int
    replica: int
    expert_shard: int


def place_of(parallelism: Parallelism, rank: int) -> Place:
    """Where a rank stands.

    >>> place = place_of(Parallelism(dp=2, tp=2, pp=2), 5)
    >>> place.pp, place.dp, place.tp
    (1, 0, 1)
    """
    p = parallelism
    if not 0 <= rank < p.devices:
        raise LLMHWError(f"rank={rank} is not one of the {p.devices} ranks 0 to {p.devices - 1}")
    inside = rank % (p.devices // p.pp)  # number in its pipeline stage
    data = inside // p.tp  # dp x cp, cp fastest
    experts = inside // (p.ep * p.expert_tp)
    return Place(
        rank=rank,
        tp=inside % p.tp,
        cp=data % p.cp,
        dp=data // p.cp,
        pp=rank // (p.devices // p.pp),
        ep=inside // p.expert_tp % p.ep,
        expert_tp=inside % p.expert_tp,
        shard=data % p.shards,
        replica=data // p.shards,
        expert_shard=experts % p.expert_shards,
    )


def places(parallelism: Parallelism) -> Iterator[Place]:
    """Every rank of the layout, in order."""
    return (place_of(parallelism, rank) for rank in range(parallelism.devices))


# -- tensors ----------------------------------------------------------------------------------


def _cut(shape: tuple[Any, ...], dim: int, parts: Any, index: Any) -> tuple[Any, ...]:
    return (*shape[:dim], chunk_size(size=shape[dim], parts=parts, index=index), *shape[dim + 1 :])


def _columns(layer: Layer | None, tensor: Tensor, tp: Any, rank: Any) -> tuple[Any, ...]:
    """Shape of a column-parallel tensor on one rank."""
    dim = 1 if tensor.swapped else 0
    size = tensor.shape[dim]
    a = layer.attention if layer else None
    pieces = [(size, tp, rank)]
    if a and tensor.part in ("k", "v"):
        pieces = [(size, *_kv_cut(a.kv_heads, tp, rank))]
    elif a and tensor.part == "qkv":
        kv = a.kv_heads * (a.head_dim + a.v_head_dim)
        pieces = [(size - kv, tp, rank), *[(kv // 2, *_kv_cut(a.kv_heads, tp, rank))] * 2]
    elif tensor.part == "gate_up":
        pieces = [(size // 2, tp, rank)] * 2
    local = sum(chunk_size(size=n, parts=parts, index=index) for n, parts, index in pieces)
    return (*tensor.shape[:dim], local, *tensor.shape[dim + 1 :])


def _kv_cut(kv_heads: int, tp: Any, rank: Any) -> tuple[Any, Any]:
    """Parts and index of keys and values: with fewer KV heads than ranks, neighbouring ranks hold the same one."""
    parts = where(kv_heads % tp == 0, tp, minimum(tp, kv_heads))
    return parts, rank * parts // tp


def _experts(tensor: Tensor, x: Layout | Parallelism, ep_rank: Any, expert_tp_rank: Any) -> Tensor:
    shape = _cut(tensor.shape, 0, x.ep, ep_rank)
    count = maximum(1, shape[0])
    # inside an expert by what lies between its matrices: outputs of the first, inputs of the last, whose bias is whole
    if tensor.part == "down":
        dim = (1 if tensor.swapped else 2) if tensor.matmul else 0
    else:
        dim = 2 if tensor.swapped else 1
    if tensor.part == "gate_up":
        half = chunk_size(size=shape[dim] // 2, parts=x.expert_tp, index=expert_tp_rank)
        shape = (*shape[:dim], 2 * half, *shape[dim + 1 :])
    elif dim:
        shape = _cut(shape, dim, x.expert_tp, expert_tp_rank)
    return replace(tensor, shape=shape, experts=count, used=minimum(tensor.used, count))


def local_tensor(
    layout: Layout | Parallelism,
    tensor: Tensor,
    layer: Layer | None = None,
    *,
    tp_rank: int = 0,
    ep_rank: int = 0,
    expert_tp_rank: int = 0,
) -> Tensor:
    """The part of one tensor that a rank holds under tensor and expert parallelism, before ZeRO.

    layout   plain numbers, or arrays: then the sizes of the tensor are arrays too
    layer    the layer it belongs to, for its KV heads; None outside the layers

    Sizes that do not divide are cut as torch.chunk cuts them.
    """
    if tensor.split == "experts":
        return _experts(tensor, layout, ep_rank, expert_tp_rank)
    if tensor.split == "whole":
        return tensor
    if tensor.split == "column":
        return replace(tensor, shape=_columns(layer, tensor, layout.tp, tp_rank))
    dim = 1 if tensor.split == "row" and not tensor.swapped else 0
    return replace(tensor, shape=_cut(tensor.shape, dim, layout.tp, tp_rank))


def row_elements(tensor: Tensor) -> Any:
    """Elements of a tensor behind its first dimension, along which FSDP cuts it."""
    return prod(tensor.shape[1:])


def stage_layers(spec: ModelSpec, parallelism: Parallelism, pp_rank: int) -> tuple[tuple[int, ...], ...]:
    """Numbers of the layers that a pipeline stage holds, one tuple for each of its `vpp` model chunks.

    Layers are dealt evenly over pp x vpp chunks; chunk c lies on stage c mod pp. Under `uneven`, embedding and head
    count as a layer each, and earlier chunks are the longer ones.

    >>> from llmhw import model
    >>> stage_layers(model("llama-2-7b"), Parallelism(pp=4, vpp=4), 1)
    ((2, 3), (10, 11), (18, 19), (26, 27))
    """
    p = parallelism
    if not 0 <= pp_rank < p.pp:
        raise LLMHWError(f"pp_rank={pp_rank} is not one of the {p.pp} stages 0 to {p.pp - 1}")
    return _chunks(spec.num_layers, p.pp, p.vpp, p.uneven)[pp_rank]


@cache
def _chunks(layers: int, pp: int, vpp: int, uneven: bool) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Numbers of the layers of every chunk, by stage."""
    count = pp * vpp
    if uneven and layers % count:
        base, longer = divmod(layers + 2, count)
        sizes = [base + (i < longer) for i in range(count)]
        sizes[0] -= 1
        sizes[-1] -= 1
    else:
        check_divides("pp x vpp", count, "layers", layers)
        sizes = [layers // count] * count
    starts = [sum(sizes[:i]) for i in range(count)]
    dealt = [tuple(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    return tuple(tuple(dealt[v * pp + stage] for v in range(vpp)) for stage in range(pp))


def outer_tensors(spec: ModelSpec, parallelism: Parallelism, pp_rank: int) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors outside the layers on a stage, not yet cut: those before its layers and those behind them.

    The first stage holds the embeddings, the last the final norm and the head. Tied embeddings lie on both ends.
    """
    first, last = pp_rank == 0, pp_rank == parallelism.pp - 1
    before = [t for t in spec.tensors if t.component == "embedding" or t.part == "embedding_norm"]
    behind = [t for t in spec.tensors if t not in before]
    if spec.tied and parallelism.pp > 1:
        behind += [t for t in before if t.part == "tokens"]
    return before if first else [], behind if last else []


def rank_tensors(
    spec: ModelSpec,
    parallelism: Parallelism,
    *,
    pp_rank: int = 0,
    tp_rank: int = 0,
    ep_rank: int = 0,
    expert_tp_rank: int = 0,
) -> tuple[tuple[Tensor, int], ...]:
    """Every tensor of a rank with the shape it has there, and how many of the stage's layers hold one.

    Tensor, pipeline and expert parallelism are applied, ZeRO is not: see `shard_tensors`. Names are those of
    `ModelSpec`, relative to the layer.

    >>> from llmhw import model
    >>> tensors = rank_tensors(model("llama-2-7b"), Parallelism(tp=8, pp=2), pp_rank=1, tp_rank=3)
    >>> next((t.shape, count) for t, count in tensors if t.module == "down_proj")
    ((4096, 1376), 16)
    >>> next((t.shape, count) for t, count in tensors if t.module == "lm_head")
    ((4000, 4096), 1)
    """
    where: dict[str, Any] = {"tp_rank": tp_rank, "ep_rank": ep_rank, "expert_tp_rank": expert_tp_rank}
    before, behind = outer_tensors(spec, parallelism, pp_rank)
    held = [(local_tensor(parallelism, t, **where), 1) for t in before]
    kinds: dict[int, tuple[Layer, int]] = {}
    for chunk in stage_layers(spec, parallelism, pp_rank):
        for number in chunk:
            layer = spec.layers[number]
            kinds[id(layer)] = layer, kinds.get(id(layer), (layer, 0))[1] + 1
    for layer, count in kinds.values():
        held += [(local_tensor(parallelism, t, layer, **where), count) for t in layer.tensors]
    return (*held, *((local_tensor(parallelism, t, **where), 1) for t in behind))


# -- states under ZeRO and FSDP ---------------------------------------------------------------


def shard_tensor(tensor: Tensor, shards: int, index: int) -> Tensor:
    """One rank's part of a parameter under FSDP2: cut along the first dimension, as `fully_shard` does.

    >>> shard_tensor(Tensor("norm.weight", (10,), "norms"), 4, 3).shape
    (1,)
    """
    if shards == 1:
        return tensor
    cut = replace(tensor, shape=_cut(tensor.shape, 0, shards, index))
    return replace(cut, experts=max(1, cut.shape[0]), used=1) if tensor.experts > 1 else cut


def _place(parallelism: Parallelism, place: Place | int) -> Place:
    return place if isinstance(place, Place) else place_of(parallelism, place)


def _held(spec: ModelSpec, p: Parallelism, place: Place) -> tuple[tuple[Tensor, int], ...]:
    return rank_tensors(spec, p, pp_rank=place.pp, tp_rank=place.tp, ep_rank=place.ep, expert_tp_rank=place.expert_tp)


def _flat_parts(held: tuple[tuple[Tensor, int], ...], shards: int, index: int) -> Iterator[tuple[Tensor, int]]:
    """One rank's part of all these tensors laid end to end (ZeRO-1 and 2)."""
    total = sum(count * t.numel for t, count in held)
    size = chunk_size(size=total, parts=shards, index=index)
    low = min(total, index * ceil_div(total, shards))
    high, at = low + size, 0
    for tensor, count in held:
        whole = 0
        for _ in range(count):
            part = max(0, min(high, at + tensor.numel) - max(low, at))
            at += tensor.numel
            if part == tensor.numel:
                whole += 1
            elif part:
                yield replace(tensor, shape=(part,), experts=1, used=1), 1
        if whole:
            yield tensor, whole


def shard_tensors(
    spec: ModelSpec, parallelism: Parallelism, place: Place | int, what: str = "optimizer"
) -> tuple[tuple[Tensor, int], ...]:
    """What a rank holds of every tensor once ZeRO is applied, with the number of layers.

    place   a `Place`, or the rank's number
    what    weights, gradients or optimizer

    ZeRO-1 and 2 lay the tensors end to end and cut the line evenly (rounded up), without the padding that a
    framework adds for alignment. ZeRO-3 is FSDP2: every parameter is cut along its first dimension.
    """
    p, place = parallelism, _place(parallelism, place)
    held = _held(spec, p, place)
    least = {"weights": 3, "gradients": 2, "optimizer": 1}[what]
    if p.zero < least:
        return held
    if p.zero == 3:
        return tuple(
            (
                shard_tensor(t, p.expert_shards, place.expert_shard)
                if t.component == "experts"
                else shard_tensor(t, p.shards, place.shard),
                count,
            )
            for t, count in held
        )
    dense = tuple(pair for pair in held if pair[0].component != "experts")
    experts = tuple(pair for pair in held if pair[0].component == "experts")
    return (
        *_flat_parts(dense, p.shards, place.shard),
        *_flat_parts(experts, p.expert_shards, place.expert_shard),
    )


def rank_states(
    spec: ModelSpec,
    parallelism: Parallelism,
    place: Place | int = 0,
    *,
    optimizer: str = "adamw",
    precision: str = "bf16-mixed",
    kernels: str = "megatron",
) -> Estimate:
    """Bytes of weights, gradients, master copy and optimizer states that one rank holds.

    place       a `Place`, or the rank's number
    optimizer, precision   as in `llmhw.training_states`, which this equals for a layout of one device
    kernels     megatron, or torch: PyTorch's DTensor computes the gradient of a vocabulary-parallel embedding whole on
                every rank, and keeps it so unless FSDP cuts it

    Counts tensors, wherever they lie (`offload` moves them to host memory). Gathered weights, buckets, the padding
    of FSDP's uneven shards and other temporary buffers come on top.

    >>> from llmhw import model
    >>> round(rank_states(model("llama-2-7b"), Parallelism(dp=8, zero=3)).total / 2**30, 2)
    12.55
    """
    place = _place(parallelism, place)
    chosen, recipe = optimizer_named(optimizer), precision_named(precision)
    owned = shard_tensors(spec, parallelism, place, "optimizer")
    parts = []
    for name, what, width in (
        ("weights", "weights", recipe.weights),
        ("gradients", "gradients", recipe.gradients),
        ("master copy", "optimizer", recipe.master),
    ):
        tensors = owned if what == "optimizer" else shard_tensors(spec, parallelism, place, what)
        elements = sum(count * t.numel for t, count in tensors)
        if not width:
            continue
        terms = [term(state_bytes, name, elements=elements, bytes_per_element=width)]
        uncut = _uncut_gradient(spec, parallelism, place) if kernels == "torch" and what == "gradients" else 0
        if uncut:
            terms.append(term(state_bytes, "embedding rows of other ranks", elements=uncut, bytes_per_element=width))
        parts.append(Part(name, tuple(terms)))
    parts += [Part(name, tuple(terms)) for name, terms in optimizer_parts(owned, chosen, recipe.state).items()]
    return Estimate(
        f"training states of {spec.name} on rank {place.rank}: {optimizer}, {precision}", "bytes", tuple(parts)
    )


def _uncut_gradient(spec: ModelSpec, p: Parallelism, place: Place) -> int:
    """Elements that DTensor's gradient of the token embedding has beyond this rank's rows of it."""
    if p.tp == 1 or p.zero == 3 or place.pp > 0:
        return 0
    table = next(t for t in spec.tensors if t.part == "tokens")
    return table.numel - local_tensor(p, table, tp_rank=place.tp).numel


def rank_parameter_bytes(
    spec: ModelSpec, parallelism: Parallelism, place: Place | int = 0, *, precision: str = "bf16-mixed"
) -> int:
    """Bytes of the weights that a rank holds between steps.

    >>> from llmhw import model
    >>> rank_parameter_bytes(model("llama-2-7b"), Parallelism(tp=2, dp=2))
    6738681856
    """
    return int(rank_states(spec, parallelism, place, optimizer="sgd", precision=precision)["weights"])


def rank_gradient_bytes(
    spec: ModelSpec,
    parallelism: Parallelism,
    place: Place | int = 0,
    *,
    precision: str = "bf16-mixed",
    kernels: str = "megatron",
) -> int:
    """Bytes of the gradients that a rank holds when a step's backward pass has ended; `kernels` as in `rank_states`."""
    states = rank_states(spec, parallelism, place, optimizer="sgd", precision=precision, kernels=kernels)
    return int(states["gradients"])


def rank_optimizer_bytes(
    spec: ModelSpec,
    parallelism: Parallelism,
    place: Place | int = 0,
    *,
    optimizer: str = "adamw",
    precision: str = "bf16-mixed",
) -> int:
    """Bytes of the optimizer's states that a rank holds, its fp32 master copy included.

    >>> from llmhw import model
    >>> spec = model("llama-2-7b")
    >>> round(rank_optimizer_bytes(spec, Parallelism(dp=8, zero=1)) / spec.parameters.total, 3)
    1.5
    """
    states = rank_states(spec, parallelism, place, optimizer=optimizer, precision=precision)
    return int(sum(part.value for part in states if part.name not in ("weights", "gradients")))
