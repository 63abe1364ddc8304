"""The one walk of a block: what one rank computes, moves and keeps in a layer, as a list of operations.

FLOPs, memory traffic, kernels, Megatron's activations and seconds are sums over that list. Sizes are those of one
micro-batch on one rank, after tensor, context and expert parallelism have cut them; they are plain numbers, or arrays
of many layouts at once. Nothing here knows a device: `llmhw.rates` turns operations into seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmhw.flops import (
    attended_pairs,
    attended_tokens,
    attention_core_flops,
    chunk_flops,
    convolutions,
    depthwise_conv_flops,
    indexed_pairs,
    linear_attention_flops,
)
from llmhw.formula import Term, formula, term
from llmhw.job import Layout
from llmhw.model import Attention, Layer, LinearAttention, ModelSpec, Tensor
from llmhw.sharding import local_tensor
from llmhw.units import any_of, ceil_div, maximum, minimum, share

# What fused kernels multiply at once.
_TOGETHER = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}

# Kernels that a part launches beside its matrix products, as the operations of its source add up; [inferred]: nobody
# published a profile.
_ROUTING_KERNELS = 60  # [inferred] Megatron-Core: top-k, histogram, sort, permutation, weights, and back
_EAGER_KERNELS = 15  # [inferred] masks, transposes and biases of attention that is not fused
_EXPONENTIAL = 16  # FLOP that the ordinary cores do in the time of one exponential: 256 and 16 a cycle
# Traffic of operations of eager PyTorch over one kernel that does them all, as transformers writes them: RMSNorm widens
# to fp32, squares, averages, scales, narrows and multiplies (36 bytes an element in place of 4, backward as many times
# more); rotary embedding negates, joins, multiplies twice and adds (20 in place of 4); a gate is multiplied apart (10
# in place of 6). LayerNorm and GELU have kernels of their own.
_ALONE = {"rms": 8.0, "rotary": 5.0, "gate": 1.7}
_STATE_KERNELS = 6  # [inferred] convolution, gates, decay, state, output gate and norm of linear attention


@formula(source="every element read and written once by each fused pass; 16-bit activations", unit="bytes")
def pass_bytes(*, tokens: Any, width: Any, passes: Any, bytes_per_element: Any = 2) -> Any:
    """Memory traffic of elementwise passes over vectors.

    passes   reads plus writes of one element: a norm reads one and writes one, a sum of two reads two and writes one

    >>> pass_bytes(tokens=4096, width=8192, passes=2)
    134217728
    """
    return tokens * width * passes * bytes_per_element


@formula(source="definition: one tensor with a row for each token", unit="bytes")
def saved_bytes(*, batch: Any, seq_len: Any, width: Any, bytes_per_element: Any) -> Any:
    """Bytes of one tensor that an operation saves for its backward pass.

    batch, seq_len      sequences and tokens of each; 1 for a table that all sequences share
    width               elements a token: the hidden size, the feed-forward size, heads x head size, ...
    bytes_per_element   2 for bf16, 4 for fp32, 8 for token ids

    >>> saved_bytes(batch=1, seq_len=4096, width=4096, bytes_per_element=2) / 2**20
    32.0
    """
    return batch * seq_len * width * bytes_per_element


@formula(source="definition: a number for each query and key", unit="bytes")
def score_matrix_bytes(*, batch: Any, heads: Any, queries: Any, keys: Any, bytes_per_element: Any) -> Any:
    """Bytes of one matrix of attention scores, probabilities or masks.

    heads            query heads; 1 for a mask that all heads share
    queries, keys    tokens on the two sides: the sequence length

    >>> score_matrix_bytes(batch=1, heads=32, queries=4096, keys=4096, bytes_per_element=2) / 2**30
    1.0
    """
    return batch * heads * queries * keys * bytes_per_element


# -- operations -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A tensor that Megatron-LM's fused kernels keep for the backward pass (Korthikanti et al. 2022).

    part      of the estimate: norms, qkv, attention, ...
    width     elements of a row; of a score matrix: heads
    rows      of a sequence
    element   bytes of an element
    keys      keys of a score matrix; 0: no matrix
    again     modules that make it again, so that it is not kept where one is recomputed: see `llmhw.job.MODULES`
    operand   what a linear layer takes in: 8-bit layers keep it as they multiply it
    """

    part: str
    label: str
    width: Any
    rows: Any
    element: int = 2
    keys: int = 0
    again: tuple[str, ...] = ()
    operand: bool = False

    def term(self, batch: Any, times: Any = 1, *, key: str = "") -> Term:
        """Its bytes for so many sequences."""
        sizes = {"seq_len": self.rows, "width": self.width}
        if self.keys:
            sizes = {"heads": self.width, "queries": self.rows, "keys": self.keys}
        made = score_matrix_bytes if self.keys else saved_bytes
        return term(made, self.label, times, key=key, batch=batch, **sizes, bytes_per_element=self.element)


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operation of the forward pass.

    name      of the module, or of what it does
    part      of the block: norms, attention, mlp, experts, router, residual
    kernels   that it launches
    kept      what it keeps for the backward pass
    again     modules that it is a part of, which run it once more where they are recomputed
    """

    name: str
    part: str
    kernels: Any = 1
    kept: tuple[Kept, ...] = ()
    again: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Matmul(Op):
    """A matrix product: (m x k) times (k x n), `groups` of them at once.

    m        rows: tokens of the micro-batch; of a mixture of experts, those of one expert
    n, k     outputs and inputs on this rank
    groups   experts on this rank, or 1
    split    how tensor parallelism cuts the matrix, see `llmhw.model.Tensor`
    experts, used   all experts of the layer, and those of one token
    adapter  a factor of an adapter (LoRA), which is trained where the matrices beside it are not
    """

    m: Any
    n: Any
    k: Any
    groups: Any = 1
    split: str = "whole"
    experts: int = 1
    used: int = 1
    adapter: bool = False

    @property
    def flops(self) -> Any:
        """FLOPs of one pass; a backward pass of a trained matrix has two."""
        return 2.0 * self.groups * self.m * self.n * self.k

    @property
    def weights(self) -> Any:
        """Elements of the matrices."""
        return self.groups * self.n * self.k


@dataclass(frozen=True, slots=True, kw_only=True)
class Core(Op):
    """Attention's core on one rank, or the scores of a sparse-attention indexer.

    batch, heads, kv_heads   sequences and heads on this rank
    queries, keys            tokens on this rank, and tokens that they may see
    pairs                    query-key pairs of a head that the masks leave
    head_dim, v_head_dim     lengths of keys and of values
    parts                    kernels that it is done in, each over a part of the keys
    """

    batch: Any
    heads: Any
    kv_heads: Any
    queries: Any
    keys: Any
    pairs: Any
    head_dim: int
    v_head_dim: int
    parts: Any = 1

    @property
    def flops(self) -> Any:
        """FLOPs of one forward pass over the pairs that the masks leave."""
        return 1.0 * attention_core_flops(
            batch=self.batch, heads=self.heads, pairs=self.pairs, head_dim=self.head_dim, v_head_dim=self.v_head_dim
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class State(Op):
    """Linear attention's state and the short convolution before it.

    flops   the least: in the recurrent form
    more    that kernels do beyond it: products within chunks, or for Mamba an exponential for each element of the state
    """

    flops: Any
    more: Any = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass(Op):
    """Elementwise passes over vectors: norms, activation functions, sums, rotary embedding, softmax, routing, dropout.

    rows, width      vectors and their elements
    ahead, behind    reads plus writes of an element in the forward and in the backward pass
    element          bytes of an element
    alone            traffic over that where each of PyTorch's operations is a kernel of its own
    """

    rows: Any
    width: Any
    ahead: Any
    behind: Any
    element: int = 2
    alone: float = 1.0

    @property
    def routed(self) -> bool:
        """Whether the vectors are rows of experts, in an order that data decide."""
        return self.part == "experts"

    @property
    def forward_bytes(self) -> Any:
        """Memory traffic of the forward pass."""
        return pass_bytes(tokens=self.rows, width=self.width, passes=self.ahead, bytes_per_element=self.element)

    @property
    def backward_bytes(self) -> Any:
        """Memory traffic of the backward pass."""
        return pass_bytes(tokens=self.rows, width=self.width, passes=self.behind, bytes_per_element=self.element)


@dataclass(frozen=True, slots=True)
class Block:
    """What one rank does for one micro-batch in one layer, or outside the layers."""

    ops: tuple[Op, ...] = ()

    @property
    def matmuls(self) -> tuple[Matmul, ...]:
        """The matrix products."""
        return tuple(op for op in self.ops if isinstance(op, Matmul))

    @property
    def cores(self) -> tuple[Core, ...]:
        """Attention's core, and its indexer's."""
        return tuple(op for op in self.ops if isinstance(op, Core))

    @property
    def passes(self) -> tuple[Pass, ...]:
        """Everything elementwise."""
        return tuple(op for op in self.ops if isinstance(op, Pass))

    @property
    def state_flops(self) -> Any:
        """FLOPs of linear attention's state."""
        return sum(op.flops for op in self.ops if isinstance(op, State))

    @property
    def kernels(self) -> Any:
        """Kernels launched in a forward pass."""
        return sum(op.kernels for op in self.ops)

    @property
    def plain(self) -> int:
        """Elementwise operations that are counted as one kernel, and are several where nothing fuses them."""
        return sum(op.kernels == 1 for op in self.passes if not op.routed and op.name != "attention added up")

    @property
    def forward_bytes(self) -> Any:
        """Memory traffic of all elementwise passes; products and attention's core move their own."""
        return sum(op.forward_bytes for op in self.passes)

    @property
    def backward_bytes(self) -> Any:
        """The same of the backward pass."""
        return sum(op.backward_bytes for op in self.passes)

    @property
    def flops(self) -> Any:
        """FLOPs of one forward pass."""
        return sum(op.flops for op in self.ops if isinstance(op, (Matmul, Core, State)))

    def kept(self, batch: Any, *, again: Collection[str] = (), stored: float = 1.0) -> dict[str, list[Term]]:
        """Terms of what the block keeps for its backward pass, by part.

        again       modules that are computed again: see `llmhw.job.MODULES`
        stored      bytes that a linear layer keeps of an element of its input, over those of 16 bit
        """
        parts: dict[str, list[Term]] = {}
        for op in self.ops:
            for one in op.kept:
                if not any(name in again for name in one.again):
                    parts.setdefault(one.part, []).append(one.term(batch, stored if one.operand else 1))
        return parts


# -- the walk ---------------------------------------------------------------------------------


def block(
    spec: ModelSpec,
    layer: Layer,
    layout: Layout,
    *,
    seq_len: int,
    attention: str = "flash",
    fused: bool = True,
    dropout: bool = False,
    imbalance: float = 1.0,
    ring: bool = False,
    packed: int | None = None,
    rank: int = 0,
    adapted: Collection[str] = (),
    training: bool = True,
) -> Block:
    """The operations of one layer for one micro-batch on one rank.

    attention   flash, or eager: the score matrix is written and read
    fused       queries, keys and values come from one product, gate and up too (Megatron-LM)
    dropout     masks are drawn, written and read
    imbalance   tokens of the busiest expert rank over the mean
    ring        context-parallel ranks attend to the keys of one rank after the other, and add up what comes out
    packed      tokens of a document, on average, where none attends to another's: see `llmhw.flops.attended_tokens`
    rank        of the adapters beside the matrices of these names, see `llmhw.memory.lora_tensors`
    adapted     names of those tensors, without .weight
    training    False: without the traffic around a state and of experts' biases, which serving's constants hold already

    >>> from llmhw import model
    >>> spec = model("llama-3-8b")
    >>> found = block(spec, spec.layers[0], Layout(tp=8), seq_len=8192)
    >>> [(m.name, m.m, m.n, m.k) for m in found.matmuls][:2]
    [('qkv', 8192, 768, 4096), ('o_proj', 8192, 4096, 512)]
    """
    walk = _Walk(
        spec, layer, layout, seq_len, attention, fused, dropout, imbalance, ring, packed, rank, adapted, training
    )
    return Block((*walk.norms(), *walk.products(), *walk.mixing(), *walk.sums()))


@dataclass(frozen=True)
class _Walk:
    spec: ModelSpec
    layer: Layer
    x: Layout
    seq_len: int
    attention: str
    fused: bool
    dropout: bool
    imbalance: float
    ring: bool
    packed: int | None
    rank: int
    adapted: Collection[str]
    training: bool

    @cached_property
    def used(self) -> tuple[Tensor, ...]:
        return self.layer.used

    @cached_property
    def tokens(self) -> Any:
        """Of the tensor-parallel group, for one micro-batch: what its matrix products see."""
        return share(self.x.micro_batch * self.seq_len, self.x.cp)

    @cached_property
    def own(self) -> Any:
        """Of this rank between them."""
        return share(self.tokens, self.x.spread)

    @cached_property
    def rows(self) -> Any:
        """Of this rank between them, of one sequence: what is kept there."""
        return share(share(self.seq_len, self.x.cp), self.x.spread)

    def norms(self) -> Iterator[Op]:
        """OLMo's two norms have no weights, and are kernels that keep their input all the same."""
        a, found = self.layer.attention, False
        for t in self.used:
            if t.component != "norms" or not t.name.endswith("weight"):
                continue
            rows, width = self.own, t.shape[0]
            if a and t.part in ("q_norm", "k_norm") and width == a.head_dim:  # each head by itself
                rows = self.tokens
                width = width * maximum(1, (a.heads if t.part == "q_norm" else a.kv_heads) // self.x.tp)
            inside = t.part not in ("norm_in", "norm", "norm_out")  # what attention keeps is counted there
            found = found or not inside
            yield self._norm(t.module, rows, width, not inside, () if inside else ("layernorm",))
        if not found:
            yield self._norm("first norm", self.own, self.spec.hidden, True)
            yield self._norm("second norm", self.own, self.spec.hidden, True)

    def _norm(self, name: str, rows: Any, width: Any, keeps: bool, again: tuple[str, ...] = ()) -> Op:
        kept = self._keep("norms", f"input of {name}", width, self.rows) if keeps else ()
        style = self.spec.family.style
        alone = _ALONE["rms"] if style is not None and style.norm.startswith("rms") else 1.0
        return Pass(
            name=name, part="norms", rows=rows, width=width, ahead=2, behind=3, kept=kept, again=again, alone=alone
        )

    def products(self) -> Iterator[Op]:
        """Matrix products in the order of the tensors, each feed-forward part with its activation function."""
        gated = {_group(t) for t in self.used if t.matmul and t.part in ("gate", "gate_up")}
        made: dict[str, dict[str, Any]] = {}
        last: dict[str, str] = {}  # products that follow an activation function, with their feed-forward part
        beside: set[str] = set()  # products with an adapter
        for t in self.used:
            if not t.matmul:
                continue
            local, group = local_tensor(self.x, t, self.layer), _group(t)
            name = group + (_TOGETHER.get(t.part, t.module) if self.fused else t.module)
            if t.name.removesuffix(".weight") in self.adapted:
                beside.add(name)
            if name in made:
                made[name]["n"] = made[name]["n"] + local.out
                continue
            first = all(m["part"] != t.component for m in made.values())
            sizes: dict[str, Any] = {"m": self.own if t.split == "whole" else self.tokens}
            if len(t.shape) == 3:  # a block-diagonal matrix, whose blocks see all tokens
                sizes["groups"] = local.shape[0]
            if t.split == "experts":
                spread = self.x.ep * self.x.expert_tp
                sizes = {
                    "m": self.own * t.used * spread * self.imbalance / t.experts,
                    "groups": maximum(1, local.shape[0]),
                    "experts": t.experts,
                    "used": t.used,
                }
            kept = self._inputs(t, local, first)
            last |= {name: group} if t.part == "down" else {}
            made[name] = {
                "name": name, "part": t.component, "n": local.out, "k": local.into, "split": t.split, "kept": kept,
                "again": self._again(t), **sizes,
            }  # fmt: skip
        biased = any(t.component == "experts" and t.name.endswith("bias") for t in self.used)
        for m in (Matmul(**given) for given in made.values()):
            yield m
            if m.split == "experts" and biased and self.training:  # grouped products do not add it
                yield Pass(name=f"bias of {m.name}", part="experts", rows=m.m * m.groups, width=m.n, ahead=2, behind=1)
            if m.name in beside:
                yield from self._adapter(m)
            if m.name in last:
                yield self._activation(m, last[m.name] in gated)

    def _adapter(self, m: Matmul) -> Iterator[Op]:
        """LoRA's two factors beside a product, what they give added to its result, and dropout before them (peft)."""
        name, r = f"adapter of {m.name}", self.rank
        same: dict[str, Any] = {
            "part": m.part, "m": m.m, "groups": m.groups, "split": m.split, "experts": m.experts, "used": m.used,
            "again": m.again, "adapter": True,
        }  # fmt: skip
        yield Matmul(name=f"{name}, down", n=r, k=m.k, **same)
        yield Matmul(name=f"{name}, up", n=m.n, k=r, **same)
        yield Pass(name=f"{name}, scaled and added", part=m.part, rows=m.m, width=m.n, ahead=5, behind=2, kernels=2)
        # on the way back its gradient is added to that of the input
        drop = 2.5 if self.dropout else 0
        yield Pass(name=f"input of {name}", part=m.part, rows=m.m, width=m.k, ahead=drop, behind=3 + drop)

    def _again(self, t: Tensor) -> tuple[str, ...]:
        """Modules that a matrix is a part of: see `llmhw.job.MODULES`."""
        if t.component in ("experts", "router"):
            return ("moe",)
        if t.component == "mlp":
            return ("shared_experts", "moe") if self._mixture else ("mlp",)
        latent = self.layer.attention is not None and self.layer.attention.latent
        return ("mla_up_proj",) if latent and t.part in ("q_b", "kv_b") else ()

    @cached_property
    def _mixture(self) -> bool:
        return any(t.component == "experts" for t in self.used)

    def _inputs(self, t: Tensor, local: Tensor, first: bool) -> tuple[Kept, ...]:
        """What a matrix product keeps."""
        hidden, whole = self.spec.hidden, share(self.seq_len, self.x.cp)
        if t.component == "attention" and self.layer.attention:
            norm: dict[str, Any] = {"operand": True, "again": ("layernorm",)}
            kept = self._keep("qkv", "input of the qkv projection", hidden, self.rows, **norm) if first else ()
            if t.part in ("q_a", "kv_a"):
                kept += self._keep("qkv", f"result of {t.module}, before and after its norm", 2 * local.out, whole)
            if t.part == "o":
                label = "input of the output projection"
                kept += self._keep("output projection", label, local.into, whole, operand=True)
            return kept
        if t.component == "mlp":
            part, label, rows = "mlp", "input of the feed-forward part", self.rows
            inner = whole
        elif t.component == "experts":
            part, label = "experts", "rows of the experts"
            # every rank's experts see `used` rows for each of its tokens when the load is even
            rows = inner = self.rows * t.used * self.x.expert_tp * self.imbalance
        else:
            return ()
        again = self._again(t)
        # rows of the experts are copies, made inside the module; all others come from the norm before it
        before = again if part == "experts" else ("layernorm",)
        kept = self._keep(part, label, hidden, rows, operand=True, again=before) if first else ()
        if t.part == "down":
            act = (*again, *(("moe_act",) if part == "experts" else ()))
            kept += self._keep(part, "input of the last projection", local.into, inner, operand=True, again=act)
            if part == "experts":
                kept += self._keep(part, "output of the experts", hidden, rows, again=again)
        return kept

    def _activation(self, down: Matmul, gated: bool) -> Op:
        """The activation function before the last product of a feed-forward part."""
        routed = down.split == "experts"
        rows = self.rows * down.used * self.x.expert_tp * self.imbalance if routed else share(self.seq_len, self.x.cp)
        part = "experts" if routed else "activation function"
        width = down.k * (2 if gated else 1)
        kept = self._keep(part, "input of the activation function", width, rows, again=down.again)
        ahead, behind = (3, 5) if gated else (2, 3)
        return Pass(
            name=f"activation of {down.name}", part=down.part, rows=down.m * down.groups, width=down.k, ahead=ahead,
            behind=behind, kept=kept, again=(*down.again, *(("moe_act",) if routed else ())),
            alone=_ALONE["gate"] if gated else 1.0,
        )  # fmt: skip

    def mixing(self) -> Iterator[Op]:
        """Attention's core with rotary embedding and unfused softmax, or linear attention's state."""
        a, linear, x = self.layer.attention, self.layer.linear_attention, self.x
        if a is not None:
            heads, kv_heads = share(a.heads, x.tp), maximum(1, share(a.kv_heads, x.tp))
            yield self._core(a, heads, kv_heads)
            if self.ring and any_of(x.cp > 1):
                # each part's result in 16 bit and the sum in fp32, read and written; then gradients of queries and keys
                more = 6 * (x.cp - 1)
                yield Pass(
                    name="attention added up", part="attention", rows=self.tokens, width=heads * a.v_head_dim,
                    ahead=more, behind=more, kernels=x.cp - 1,
                )  # fmt: skip
            if a.index_heads:  # whole on every rank: its choice holds for all heads
                pairs = self._documents(indexed_pairs, a)
                yield Core(
                    name="indexer", part="attention", batch=x.micro_batch, heads=a.index_heads, kv_heads=1,
                    queries=share(self.seq_len, x.cp), keys=self.seq_len, pairs=pairs / x.cp,
                    head_dim=a.index_dim, v_head_dim=0,
                )  # fmt: skip
            if self.spec.rotary:
                width = (heads + (0 if a.shared else kv_heads)) * a.head_dim
                again = ("mla_up_proj",) if a.latent else ()
                yield Pass(
                    name="rotary embedding", part="attention", rows=self.tokens, width=width, ahead=2, behind=2,
                    again=again, alone=_ALONE["rotary"],
                )  # fmt: skip
            if self.attention == "eager":
                # scale, mask and softmax in one kernel; dropout apart, with a mask of one byte
                more = 2.5 if self.dropout and not self.adapted else 0
                rows = x.micro_batch * heads * share(self.seq_len, x.cp)
                yield Pass(
                    name="softmax", part="attention", rows=rows, width=self.seq_len, ahead=2 + more, behind=3 + more,
                    kernels=_EAGER_KERNELS,
                )  # fmt: skip
        if linear is not None:
            state = linear_attention_flops(
                tokens=self.tokens, heads=linear.heads / x.tp, key_dim=linear.key_dim, value_dim=linear.value_dim,
                products=linear.products,
            )  # fmt: skip
            for t in convolutions(self.layer):
                outputs, inputs, kernel = local_tensor(self.x, t, self.layer).shape
                state = state + depthwise_conv_flops(tokens=self.tokens, channels=outputs * inputs, kernel=kernel)
            kept = self._beside_state(linear)
            more = self._chunked(linear)
            yield State(name=linear.kind, part="attention", flops=state, more=more, kernels=_STATE_KERNELS, kept=kept)
            if self.training:
                yield from self._around_state(linear)

    def _chunked(self, linear: LinearAttention) -> Any:
        """What kernels of training do beyond the recurrent form."""
        heads, k, v = linear.heads / self.x.tp, linear.key_dim, linear.value_dim
        if v == 1:  # Mamba, RG-LRU: no products to speak of, but every element of the state decays by itself
            return _EXPONENTIAL * self.tokens * heads * k
        widths = v if linear.kind == "mamba-2" else k + v if linear.products == 2 else 3 * k + 2 * v
        return chunk_flops(tokens=self.tokens, heads=heads, widths=widths, chunk=_chunk(linear))

    def _around_state(self, linear: LinearAttention) -> Iterator[Op]:
        """Traffic of a state's inputs and result, of its convolution, gate and norm, and of a state for each chunk."""
        tp, rows = self.x.tp, self.tokens
        inputs = share(linear.conv_channels or linear.heads * (2 * linear.key_dim + linear.value_dim), tp)
        result = share(linear.heads * linear.value_dim or linear.conv_channels, tp)
        part: dict[str, Any] = {"part": "attention", "kernels": 0}
        if linear.conv_channels:
            yield Pass(name="convolution", rows=rows, width=inputs, ahead=2, behind=4, **part)
        yield Pass(name="gate and norm of the state", rows=rows, width=result, ahead=3, behind=5, **part)
        if linear.heads:
            # once for the states of chunks and once for the results, and back with gradients
            yield Pass(name="inputs of the state", rows=rows, width=inputs, ahead=2, behind=5, **part)
            yield Pass(name="result of the state", rows=rows, width=result, ahead=1, behind=2, **part)
        if linear.value_dim > 1:
            states = share(linear.heads * linear.key_dim * linear.value_dim, tp)
            # written, passed on from chunk to chunk, read
            yield Pass(
                name="states of chunks", rows=rows / _chunk(linear), width=states, ahead=4, behind=8, element=4, **part
            )

    def _beside_state(self, linear: LinearAttention) -> tuple[Kept, ...]:
        """What goes into and comes out of a state and its convolution; chunked kernels compute the states anew.

        Mamba-2's kernel runs its convolution again, too (mamba_split_conv1d_scan_combined). The delta rule's keeps what
        it made of each chunk's tokens, its decays, and queries and keys repeated for every value head
        (flash-linear-attention's chunk_gated_delta_rule and chunk_kda, as Megatron-Core calls them).
        """
        whole, tp = share(self.seq_len, self.x.cp), self.x.tp
        parts = ("in_proj", "x_proj") if self.layer.attention else ("in_proj", "x_proj", "q_b")
        before = [local_tensor(self.x, t, self.layer) for t in self.used if t.matmul and t.part in parts]
        results = sum((t.numel // t.into for t in before), start=0)
        kept = self._keep("state", "results of the projections", results, whole)
        if linear.conv_channels and linear.kind != "mamba-2":
            kept += self._keep("state", "output of the convolution", share(linear.conv_channels, tp), whole)
        if linear.products == _DELTA:
            kept += self._delta(linear, share(linear.heads, tp), whole)
        width = share(linear.heads * linear.value_dim or linear.conv_channels, tp)
        kept += self._keep("state", "output of the state", width, whole)
        if not self.layer.attention:  # else they are counted with it
            kept += self._keep("state", "input of the projections", self.spec.hidden, self.rows, operand=True)
            closing = [local_tensor(self.x, t, self.layer) for t in self.used if t.part == "o" and t.matmul]
            for t in closing:
                kept += self._keep("output projection", "input of the output projection", t.into, whole, operand=True)
        return kept

    def _delta(self, linear: LinearAttention, heads: Any, rows: Any) -> tuple[Kept, ...]:
        """What the delta rule's kernels keep beside what goes in and comes out."""
        channels = linear.kind != "gated-deltanet"
        keys = (linear.conv_channels - linear.heads * linear.value_dim) // 2
        made = heads * _chunk(linear) * (1 + channels)
        kept = self._keep("state", "products of a chunk's tokens", made, rows)
        kept += self._keep("state", "decays", heads * (linear.key_dim if channels else 1), rows, element=4)
        kept += self._keep("state", "share that is written", heads, rows)
        if keys < linear.heads * linear.key_dim:
            kept += self._keep("state", "queries and keys, for each value head", 2 * heads * linear.key_dim, rows)
        return kept

    def _core(self, a: Attention, heads: Any, kv_heads: Any) -> Op:
        own = share(self.seq_len, self.x.cp)
        stored = heads if a.latent else kv_heads
        up: dict[str, Any] = {"again": ("mla_up_proj",)} if a.latent else {}
        kept = self._keep("attention", "queries", heads * a.head_dim, own, **up)
        if not a.shared:  # else the layer keeps them that made them
            kept += self._keep("attention", "keys", stored * a.head_dim, own, **up)
            kept += self._keep("attention", "values", stored * a.v_head_dim, own, **up)
        if self.attention == "flash":
            kept += self._keep(
                "attention", "logarithms of the softmax sums", heads, own, element=4, again=("core_attn",)
            )
        else:
            scores: dict[str, Any] = {"keys": self.seq_len, "again": ("core_attn",)}
            kept += self._keep("attention", "softmax", heads, own, **scores)
            if self.dropout:
                kept += self._keep("attention", "dropout mask of the softmax", heads, own, element=1, **scores)
                kept += self._keep("attention", "softmax after dropout", heads, own, **scores)
        return Core(
            name=f"{a.kind} attention", part="attention", batch=self.x.micro_batch, heads=heads, kv_heads=kv_heads,
            queries=own, keys=self.seq_len if a.span is None else minimum(a.span, self.seq_len),
            pairs=self._documents(attended_pairs, a) / self.x.cp, head_dim=a.head_dim, v_head_dim=a.v_head_dim,
            parts=self.x.cp if self.ring else 1, kept=kept, again=("core_attn",),
        )  # fmt: skip

    def _documents(self, pairs: Callable[..., Any], a: Attention) -> Any:
        """Pairs of a sequence: of as many documents as it holds, where several are packed into it."""
        if self.packed is None or self.attention == "eager":
            return pairs(a, seq_len=self.seq_len)
        longest = min(attended_tokens(mean=self.packed), self.seq_len)
        return self.seq_len / longest * pairs(a, seq_len=longest)

    def sums(self) -> Iterator[Op]:
        """Two sums onto the residual, dropout before each, and the rows of the experts sorted and put back."""
        hidden, kept = self.spec.hidden, tuple[Kept, ...]()
        if self.dropout and not self.adapted:  # else it is that of the adapters
            for what in ("mask after attention", "mask after the feed-forward part"):
                kept += self._keep("dropout", what, hidden, self.rows, element=1)
            yield Pass(
                name="dropout", part="residual", rows=self.own, width=hidden, ahead=1, behind=6, kernels=0, kept=kept
            )
        yield Pass(name="residual", part="residual", rows=self.own, width=hidden, ahead=6, behind=6, kernels=2)
        routed = next((t for t in self.layer.tensors if t.split == "experts" and t.matmul), None)
        if routed is not None:
            kept = self._keep(
                "routing", "routing probabilities in fp32", routed.experts, self.rows, element=4, again=("moe",)
            )
            if all(t.component != "mlp" for t in self.layer.tensors):
                kept = (*self._keep("routing", "input of the router", hidden, self.rows, again=("layernorm",)), *kept)
            rows = self.own * routed.used * self.imbalance
            width = routed.into if self.training and routed.part != "down" else hidden  # latent experts are narrower
            yield Pass(
                name="routing", part="experts", rows=rows, width=width, ahead=6, behind=6, kernels=_ROUTING_KERNELS,
                kept=kept, again=("moe",),
            )  # fmt: skip

    def _keep(self, part: str, label: str, width: Any, rows: Any, **more: Any) -> tuple[Kept, ...]:
        return (Kept(part=part, label=label, width=width, rows=rows, **more),)


def _chunk(linear: LinearAttention) -> int:
    """Tokens that kernels of training treat together: mamba-ssm's default, and flash-linear-attention's."""
    return 256 if linear.kind == "mamba-2" else 64


# Multiply-adds of a state's element by which the delta rule is known.
_DELTA = 3


def _group(t: Tensor) -> str:
    """Which feed-forward part a matrix belongs to, as its operation's name begins."""
    if t.component == "mlp":
        return "shared " if t.shared else "mlp "
    return "expert " if t.component == "experts" else ""


def layer_input(spec: ModelSpec, layout: Layout, *, seq_len: int) -> Kept:
    """All that a block keeps that is computed again as a whole."""
    rows = share(share(seq_len, layout.cp), layout.spread)
    return Kept(part="layer inputs", label="input of a recomputed layer", width=spec.hidden, rows=rows)


# -- outside the layers -----------------------------------------------------------------------

# Megatron-LM pads the vocabulary to a multiple of so many for each tensor-parallel rank (make-vocab-size-divisible-by).
VOCABULARY_MULTIPLE = 128
# Reads plus writes of a logit in fp32, in forward and backward pass together: plain widens it, takes logarithms and the
# way back in kernels of their own; fused and chunked read 16 bit and write the gradient over it (Unsloth, Liger).
LOSS_PASSES = {"plain": 6.0, "copied": 10.0, "fused": 2.0, "chunked": 2.0}


def first_block(spec: ModelSpec, layout: Layout, *, seq_len: int, dropout: bool = False) -> Block:
    """What the first stage does before its layers: the embedding is looked up, and its gradient added up."""
    rows = share(share(seq_len, layout.cp), layout.spread)
    kept = (Kept(part="embedding", label="dropout mask", width=spec.hidden, rows=rows, element=1),) if dropout else ()
    tokens = share(layout.micro_batch * seq_len, layout.cp)
    found = Pass(
        name="embedding", part="embedding", rows=share(tokens, layout.spread), width=spec.hidden, ahead=2, behind=4,
        kept=kept,
    )  # fmt: skip
    return Block((found, *_projections(spec, layout, tokens, "embedding")))


def last_block(spec: ModelSpec, layout: Layout, *, seq_len: int, loss: str = "plain", multiple: int = 1) -> Block:
    """What the last stage does behind its layers: final norm, output head and loss.

    loss       see `LOSS_PASSES`
    multiple   rows of a rank's part of the output matrix are padded to a multiple of this, see `VOCABULARY_MULTIPLE`

    >>> from llmhw import model
    >>> last_block(model("llama-3-8b"), Layout(), seq_len=8192).flops / 1e12
    8.607...
    """
    vocab, width = spec.head_shape
    tokens, rows = share(layout.micro_batch * seq_len, layout.cp), share(share(seq_len, layout.cp), layout.spread)
    columns = multiple * ceil_div(vocab, multiple * layout.tp)
    last = (Kept(part="final norm", label="input of the last norm", width=spec.hidden, rows=rows),)
    taken = (Kept(part="head", label="input of the head", width=spec.hidden, rows=rows),)
    logits = (
        Kept(part="loss", label="logits in fp32", width=share(vocab, layout.tp), rows=share(seq_len, layout.cp),
             element=4),
    )  # fmt: skip
    own = share(tokens, layout.spread)
    norm = Pass(name="final norm", part="final norm", rows=own, width=width, ahead=2, behind=3, kept=last)
    passes = LOSS_PASSES[loss] / 2
    if not vocab:  # an embedder
        return Block((norm, *_projections(spec, layout, tokens, "head")))
    return Block(
        (
            norm,
            *_projections(spec, layout, tokens, "head"),
            Matmul(name="head", part="head", m=tokens, n=columns, k=width, split="vocab", kept=taken),
            Pass(
                name="loss", part="loss", rows=tokens, width=columns, ahead=passes, behind=passes, element=4,
                kept=logits,
            ),
        )
    )  # fmt: skip


def _projections(spec: ModelSpec, layout: Layout, tokens: Any, component: str) -> tuple[Matmul, ...]:
    """Matrices between the layers and what is at their ends, whole on every rank (OPT-350M, DeepSeek-V4's streams)."""
    first = component == "embedding"
    held = (t for t in spec.tensors if t.matmul and t.split == "whole" and (t.component == "embedding") == first)
    rows = share(tokens, layout.spread)
    return tuple(Matmul(name=t.module, part=component, m=rows, n=t.out, k=t.into) for t in held)
