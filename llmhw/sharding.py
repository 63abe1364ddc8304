"""Which part of every tensor one rank holds.

Tensor parallelism cuts a tensor as it says of itself (`Tensor.split`), pipeline parallelism deals out layers, expert
parallelism deals out experts, and ZeRO or FSDP cut what is left over the data-parallel ranks. Every size is
that of the real tensor on that rank, so the ranks add up to the whole model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import prod
from typing import Any

from llmhw.checks import checked, whole
from llmhw.formula import Estimate, Term, formula, term
from llmhw.job import Layout, Parallelism, TrainingJob
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


@checked(rank=whole(0))
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


@checked
def places(parallelism: Parallelism) -> Iterator[Place]:
    """Every rank of the layout, in order."""
    return (place_of(parallelism, rank) for rank in range(parallelism.devices))


# -- tensors ----------------------------------------------------------------------------------


@checked(rank=whole(0))
def context_chunks(rank: int, ranks: int, *, zigzag: bool = True) -> tuple[int, int]:
    """The two chunks, of 2 x `ranks` of a sequence, that one context-parallel rank holds.

    zigzag   one from the front and one from the back, so that all have as much of a causal mask; else in order

    >>> [context_chunks(rank, 4) for rank in range(4)]
    [(0, 7), (1, 6), (2, 5), (3, 4)]
    """
    if rank >= ranks:
        raise LLMHWError(f"rank={rank} is not one of the {ranks} ranks 0 to {ranks - 1}")
    return (rank, 2 * ranks - 1 - rank) if zigzag else (2 * rank, 2 * rank + 1)


@checked
def context_pairs(ranks: int, *, zigzag: bool = True) -> list[float]:
    """Pairs of chunks that a causal mask leaves to each context-parallel rank; half of one on the diagonal.

    >>> context_pairs(4), context_pairs(4, zigzag=False)
    ([8.0, 8.0, 8.0, 8.0], [2.0, 6.0, 10.0, 14.0])
    """
    return [sum(chunk + 0.5 for chunk in context_chunks(rank, ranks, zigzag=zigzag)) for rank in range(ranks)]


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
    return tensor.cut(shape, experts=count, used=minimum(tensor.used, count))


@checked
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
    if tensor.split == "whole" or (type(layout.tp) is int and layout.tp == 1):
        return tensor
    if tensor.split == "column":
        return tensor.cut(_columns(layer, tensor, layout.tp, tp_rank))
    dim = 1 if tensor.split == "row" and not tensor.swapped else 0
    return tensor.cut(_cut(tensor.shape, dim, layout.tp, tp_rank))


def row_elements(tensor: Tensor) -> Any:
    """Elements of a tensor behind its first dimension, along which FSDP cuts it."""
    return prod(tensor.shape[1:])


def fsdp_rows(tensor: Tensor, ranks: Any) -> tuple[Any, Any]:
    """Rows that FSDP deals to its ranks, and elements of each.

    They lie along the first dimension; along the second in a stack of fewer experts than ranks (torchtitan).
    """
    first = tensor.shape[0], row_elements(tensor)
    if tensor.component != "experts" or len(tensor.shape) < 3:
        return first
    few, rows = ranks > tensor.shape[0], tensor.shape[1]
    return where(few, rows, first[0]), where(few, tensor.numel // rows, first[1])


@checked(pp_rank=whole(0))
def stage_layers(
    spec: ModelSpec, parallelism: Parallelism, pp_rank: int, *, mtp: bool = False
) -> tuple[tuple[int, ...], ...]:
    """Numbers of the layers that a pipeline stage holds, one tuple for each of its `vpp` model chunks.

    Layers are dealt evenly over pp x vpp chunks; chunk c lies on stage c mod pp. Under `uneven`, embedding and head
    count as a layer each, with `mtp` those of multi-token prediction as two, and earlier chunks are the longer ones.
    With `by_cost` a stage takes layers until it, and those before it, have more than their part of all costs.

    >>> from llmhw import model
    >>> stage_layers(model("llama-2-7b"), Parallelism(pp=4, vpp=4), 1)
    ((2, 3), (10, 11), (18, 19), (26, 27))
    >>> [len(stage_layers(model("llama-3-8b"), Parallelism(pp=8, by_cost=True), i)[0]) for i in range(8)]
    [5, 4, 4, 5, 4, 4, 4, 2]
    """
    p = parallelism
    if not 0 <= pp_rank < p.pp:
        raise LLMHWError(f"pp_rank={pp_rank} is not one of the {p.pp} stages 0 to {p.pp - 1}")
    return _dealt(spec, p.pp, p.vpp, p.uneven, p.by_cost, mtp)[pp_rank]


def _dealt(
    spec: ModelSpec, pp: int, vpp: int, uneven: bool, by_cost: bool, mtp: bool
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    more = 2 * mtp_layers(spec) if mtp else 0  # a layer, and the head once more
    return _by_cost(spec, pp) if by_cost else _chunks(spec.num_layers, pp, vpp, uneven, more)


@lru_cache(maxsize=4096)
def _by_cost(spec: ModelSpec, pp: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Numbers of the layers of every stage, as nanotron deals them: a head costs its matrix, a layer all of its own.

    Keys and values are counted there with as many heads as queries have.
    """

    def cost(layer: Layer) -> int:
        a = layer.attention
        shared = 2 * (a.heads - a.kv_heads) * a.head_dim * spec.hidden if a and not a.latent else 0
        return sum(t.active for t in layer.tensors if t.matmul) + shared

    costs = [cost(layer) for layer in spec.layers]
    total = sum(costs) + spec.vocab_size * spec.hidden
    stages: list[list[int]] = [[] for _ in range(pp)]
    stage = spent = 0
    for number, one in enumerate(costs):
        stages[stage].append(number)
        spent += one
        stage += stage < pp - 1 and spent * pp > total * (stage + 1)
    return tuple((tuple(numbers),) for numbers in stages)


@cache
def _chunks(layers: int, pp: int, vpp: int, uneven: bool, more: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Numbers of the layers of every chunk, by stage; `more`: layers that come behind, on the last."""
    count = pp * vpp
    if uneven and (layers % count or more):
        base, longer = divmod(layers + 2 + more, count)
        sizes = [base + (i < longer) for i in range(count)]
        sizes[0] -= 1
        sizes[-1] -= 1 + more
        for i in range(1, count):  # what the last chunk has too many of, those before it have fewer
            if sizes[-1] < 0:
                taken = min(sizes[-1 - i], -sizes[-1])
                sizes[-1 - i] -= taken
                sizes[-1] += taken
    else:
        check_divides("pp x vpp", count, "layers", layers)
        sizes = [layers // count] * count
    starts = [sum(sizes[:i]) for i in range(count)]
    dealt = [tuple(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    return tuple(tuple(dealt[v * pp + stage] for v in range(vpp)) for stage in range(pp))


@dataclass(frozen=True)
class Chunk:
    """What a model chunk holds: how many layers of which kind (numbers of `ModelSpec.layer_kinds`), and which ends."""

    kinds: dict[int, int]
    first: bool
    last: bool

    @property
    def ends(self) -> tuple[str, ...]:
        """Which ends of the model it holds: first, last."""
        return (*(("first",) if self.first else ()), *(("last",) if self.last else ()))

    @property
    def parts(self) -> tuple[tuple[int | str, int], ...]:
        """Kinds of layers and ends, each with how many there are."""
        before, behind = (((end, 1),) if there else () for end, there in (("first", self.first), ("last", self.last)))
        return (*before, *self.kinds.items(), *behind)


@dataclass(frozen=True)
class Stage(Chunk):
    """Pipeline stages that do the same.

    index    number of the first of them
    count    how many they are
    layers   layers of each kind, those that are computed twice apart
    chunks   their model chunks, and how many are alike
    """

    index: int
    count: int
    layers: dict[tuple[int, bool], int]
    chunks: tuple[tuple[Chunk, int], ...]

    def computed(self, again: bool) -> Stage:
        """The same with every layer's forward pass run once, or a second time."""
        return replace(self, layers={(kind, again): n for kind, n in self.kinds.items()})


@checked
def stages_of(job: TrainingJob, *, every: bool = False) -> tuple[Stage, ...]:
    """The distinct stages of a job's pipeline; `every`: the one that each rank belongs to, in order."""
    again = {"full": job.model.num_layers, "block": job.recompute_layers}.get(job.recompute, 0)
    p = job.parallelism
    distinct, order = _stages(job.model, p.pp, p.vpp, p.uneven, p.by_cost, job.mtp, again)
    return tuple(distinct[i] for i in order) if every else distinct


@lru_cache(maxsize=4096)
def _stages(
    spec: ModelSpec, pp: int, vpp: int, uneven: bool, by_cost: bool, mtp: bool, again: int
) -> tuple[tuple[Stage, ...], tuple[int, ...]]:
    number = spec.kind_numbers
    found: dict[Any, list[Any]] = {}
    order = []
    for stage, chunks in enumerate(_dealt(spec, pp, vpp, uneven, by_cost, mtp)):
        held = [number[i] for chunk in chunks for i in chunk]
        layers = Counter((kind, place < again) for place, kind in enumerate(held))
        ends = [(stage == 0 and v == 0, stage == pp - 1 and v == vpp - 1) for v in range(vpp)]
        counted = Counter(
            (tuple(sorted(Counter(number[i] for i in chunk).items())), *end)
            for chunk, end in zip(chunks, ends, strict=True)
        )
        key = (tuple(sorted(layers.items())), tuple(sorted(counted.items())))
        found.setdefault(key, [stage, 0, Counter(held)])[1] += 1
        order.append(list(found).index(key))
    made = tuple(
        Stage(
            kinds=dict(kinds),
            first=any(first for (_, first, _), _ in counted),
            last=any(last for (_, _, last), _ in counted),
            index=index,
            count=count,
            layers=dict(layers),
            chunks=tuple((Chunk(dict(one), first, last), n) for (one, first, last), n in counted),
        )
        for (layers, counted), (index, count, kinds) in found.items()
    )
    return made, tuple(order)


@checked(pp_rank=whole(0))
def outer_tensors(spec: ModelSpec, parallelism: Parallelism, pp_rank: int) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors outside the layers on a stage, not yet cut: those before its layers and those behind them.

    The first stage holds the embeddings, the last the final norm and the head. Tied embeddings lie on both ends.
    """
    before, behind = _outer(spec, parallelism.pp > 1)
    return list(before) if pp_rank == 0 else [], list(behind) if pp_rank == parallelism.pp - 1 else []


@lru_cache(maxsize=4096)
def _outer(spec: ModelSpec, cut: bool) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    before = [t for t in spec.tensors if t.component == "embedding" or t.part == "embedding_norm"]
    behind = [t for t in spec.tensors if t not in before]
    if spec.tied and cut:
        behind += [t for t in before if t.part == "tokens"]
    return tuple(before), tuple(behind)


@checked
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

Held = Sequence[tuple[Tensor, Any]]  # tensors, each with how many layers hold one


def shard_tensor(tensor: Tensor, shards: Any, index: Any = 0) -> Tensor:
    """One rank's part of a parameter under FSDP2: cut along the first dimension, as `fully_shard` does.

    A stack of fewer experts than ranks is cut along the second, as torchtitan has it.

    >>> shard_tensor(Tensor("norm.weight", (10,), "norms"), 4, 3).shape
    (1,)
    """
    shape = _cut(tensor.shape, 0, shards, index)
    if tensor.component == "experts" and len(tensor.shape) > 2:
        second = _cut(tensor.shape, 1, shards, index)
        shape = tuple(where(shards > tensor.shape[0], b, a) for a, b in zip(shape, second, strict=True))
    if tensor.component == "experts":
        return tensor.cut(shape, experts=maximum(1, shape[0]), used=1)
    return tensor.cut(shape)


def is_split(zero: int, what: str) -> bool:
    """Whether a ZeRO stage splits weights, gradients, or the optimizer's states."""
    return zero >= {"weights": 3, "gradients": 2, "optimizer": 1}[what]


def shard_held(held: Held, layout: Layout, what: str, *, shard: Any = 0, expert_shard: Any = 0) -> Held:
    """One rank's part of tensors that it would hold without ZeRO.

    layout   its `zero` is plain; its other numbers may be arrays
    what     weights, gradients or optimizer
    shard, expert_shard   the rank's number among those that share the dense tensors, and the experts

    ZeRO-1 and 2 lay the tensors end to end and cut the line evenly (rounded up), without the padding that a
    framework adds for alignment. ZeRO-3 is FSDP2: see `shard_tensor`.
    """
    if not is_split(layout.zero, what):
        return held
    made: list[tuple[Tensor, Any]] = []
    for experts, ranks, index in ((False, layout.shards, shard), (True, layout.expert_shards, expert_shard)):
        mine = [(t, count) for t, count in held if (t.component == "experts") == experts]
        if layout.zero == 3:
            made += [(shard_tensor(t, ranks, index), count) for t, count in mine]
        elif mine:
            size = chunk_size(size=sum(count * t.numel for t, count in mine), parts=ranks, index=index)
            buffer = Tensor("flat buffer", (size,), "experts" if experts else "attention")
            alone = where(ranks == 1, 1, 0)  # then nothing is laid end to end
            made += [(t, count * alone) for t, count in mine] + [(buffer, 1 - alone)]
    return [(t, count) for t, count in made if not (isinstance(count, int) and count == 0)]


@checked
def shard_tensors(spec: ModelSpec, parallelism: Parallelism, place: Place | int, what: str = "optimizer") -> Held:
    """What a rank holds of every tensor once ZeRO is applied, with the number of layers: see `shard_held`.

    place   a `Place`, or the rank's number
    """
    place = _place(parallelism, place)
    held = _held(spec, parallelism, place)
    return shard_held(held, parallelism.layout(), what, shard=place.shard, expert_shard=place.expert_shard)


def _place(parallelism: Parallelism, place: Place | int) -> Place:
    return place if isinstance(place, Place) else place_of(parallelism, place)


def _held(spec: ModelSpec, p: Parallelism, place: Place) -> Held:
    return rank_tensors(spec, p, pp_rank=place.pp, tp_rank=place.tp, ep_rank=place.ep, expert_tp_rank=place.expert_tp)


def state_terms(
    held: Held,
    layout: Layout,
    *,
    optimizer: str = "adamw",
    precision: str = "bf16-mixed",
    uncut: Any = None,
    shard: Any = 0,
    expert_shard: Any = 0,
) -> dict[str, list[Term]]:
    """Weights, gradients, master copy and optimizer states of tensors that a rank would hold without ZeRO, as terms.

    uncut    see `uncut_rows`
    others   those of `rank_states` and `shard_held`
    """
    chosen, recipe = optimizer_named(optimizer), precision_named(precision)
    index = {"shard": shard, "expert_shard": expert_shard}
    parts: dict[str, list[Term]] = {}
    for name, what, width in (
        ("weights", "weights", recipe.weights),
        ("gradients", "gradients", recipe.gradients),
        ("master copy", "optimizer", recipe.master),
    ):
        if width:
            elements = sum(count * t.numel for t, count in shard_held(held, layout, what, **index))
            parts[name] = [term(state_bytes, name, elements=elements, bytes_per_element=width)]
    if layout.zero < 3 and uncut is not None:
        made = term(state_bytes, "embedding rows of other ranks", elements=uncut, bytes_per_element=recipe.gradients)
        parts["gradients"].append(made)
    if layout.zero in (1, 2) and chosen.scheme in ("factored", "muon"):
        # what a matrix needs as a whole is dealt out matrix by matrix
        for experts, ranks in ((False, layout.shards), (True, layout.expert_shards)):
            mine = [(t, count) for t, count in held if (t.component == "experts") == experts]
            for name, terms in optimizer_parts(mine, chosen, recipe.state).items():
                parts.setdefault(name, []).extend(t.scaled(1 / ranks) for t in terms)
        return parts
    return parts | optimizer_parts(shard_held(held, layout, "optimizer", **index), chosen, recipe.state)


def uncut_rows(spec: ModelSpec, layout: Layout | Parallelism, tp_rank: int = 0) -> Any:
    """Elements of the token embedding's gradient that DTensor computes on each rank beside those of its own rows.

    FSDP cuts them away; None where tensor parallelism cuts no rows, and for a draft, whose table is its target's.
    """
    table = next((t for t in spec.tensors if t.part == "tokens"), None)
    if table is None:
        return None
    more = table.numel - local_tensor(layout, table, tp_rank=tp_rank).numel
    return more if isinstance(layout, Layout) or more else None


def mtp_layers(spec: ModelSpec) -> int:
    """Layers of multi-token prediction in the checkpoint: each begins with products of twice the hidden size.

    >>> from llmhw import model
    >>> mtp_layers(model("deepseek-v3")), mtp_layers(model("mimo-v2-flash")), mtp_layers(model("llama-3-8b"))
    (1, 3, 0)
    """
    return sum(t.into for t in spec.mtp_tensors if t.matmul and t.part == "mtp") // (2 * spec.hidden)


class StageTensors:
    """What the first rank of each pipeline stage holds: its tensors, and sums over them that are made once.

    pp    stages, where embeddings that are tied lie on the first and on the last
    mtp   layers of multi-token prediction lie on the last

    A kind of layer is its number in `ModelSpec.layer_kinds`, the ends are "first" and "last".
    """

    def __init__(self, spec: ModelSpec, layout: Layout, pp: int, mtp: bool = False) -> None:
        self.spec, self.layout, self.pp, self.mtp = spec, layout, pp, mtp
        self._local: dict[Any, list[Tensor]] = {}
        self._whole: dict[Any, tuple[int, Any]] = {}
        self._shards: dict[Any, Any] = {}

    def at(self, layout: Layout, pp: int) -> StageTensors:
        """The same in other layouts with the same tp, ep and expert_tp; what does not change is kept."""
        made = StageTensors(self.spec, layout, pp, self.mtp)
        made._local, made._whole = self._local, self._whole
        return made

    def _key(self, which: int | str) -> Any:
        return which if isinstance(which, int) else (which, self.pp > 1)

    def outer(self, end: str) -> tuple[Tensor, ...]:
        """Whole tensors outside the layers, on the first or the last stage."""
        first, last = _outer(self.spec, self.pp > 1)
        return first if end == "first" else (*last, *(self.spec.mtp_tensors if self.mtp else ()))

    def of(self, which: int | str) -> list[Tensor]:
        """The rank's tensors of a kind of layer, or of an end."""
        key = self._key(which)
        if key not in self._local:
            layer = self.spec.layer_kinds[which][0] if isinstance(which, int) else None
            tensors = layer.tensors if layer else self.outer(str(which))
            self._local[key] = [local_tensor(self.layout, t, layer) for t in tensors]
        return self._local[key]

    def held(self, chunk: Chunk, *, component: str = "") -> list[tuple[Tensor, int]]:
        """The rank's tensors of a chunk or stage (of one component), each with how many there are."""
        return [(t, n) for which, n in chunk.parts for t in self.of(which) if not component or t.component == component]

    def elements(self, chunk: Chunk, experts: bool) -> tuple[int, Any]:
        """How many tensors a chunk or stage holds, and their elements: of experts, or of all others."""
        count, size = 0, 0
        for which, n in chunk.parts:
            key = (self._key(which), experts)
            if key not in self._whole:
                mine = [t.numel for t in self.of(which) if (t.component == "experts") == experts]
                self._whole[key] = (len(mine), sum(mine))
            count, size = count + n * self._whole[key][0], size + n * self._whole[key][1]
        return count, size

    def shard(self, which: int | str, experts: bool) -> Any:
        """Elements of the rank's FSDP shards of a kind of layer or of an end, padding included; 0 if it has none."""
        key = (which, experts)
        if key not in self._shards:
            mine = [t for t in self.of(which) if (t.component == "experts") == experts]
            ranks = self.layout.expert_shards if experts else self.layout.shards
            dealt = [fsdp_rows(t, ranks) for t in mine]
            self._shards[key] = sum(ceil_div(rows, ranks) * behind for rows, behind in dealt)
        return self._shards[key]


@checked
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
    parts = state_terms(
        _held(spec, parallelism, place),
        parallelism.layout(),
        optimizer=optimizer,
        precision=precision,
        uncut=uncut_rows(spec, parallelism, place.tp) if kernels == "torch" and place.pp == 0 else None,
        shard=place.shard,
        expert_shard=place.expert_shard,
    )
    return Estimate.of(f"training states of {spec.name} on rank {place.rank}: {optimizer}, {precision}", "bytes", parts)


@checked
def rank_parameter_bytes(
    spec: ModelSpec, parallelism: Parallelism, place: Place | int = 0, *, precision: str = "bf16-mixed"
) -> int:
    """Bytes of the weights that a rank holds between steps.

    >>> from llmhw import model
    >>> rank_parameter_bytes(model("llama-2-7b"), Parallelism(tp=2, dp=2))
    6738681856
    """
    return int(rank_states(spec, parallelism, place, optimizer="sgd", precision=precision)["weights"])
