"""Activations: what the forward pass must keep for the backward pass, op by op.

Two profiles. `kernels="torch"` is what plain PyTorch and transformers keep: we walk through the operations of a
block in the order in which transformers runs them and note what each one saves, every tensor once. Tests hold the
result against PyTorch's own saved-tensor hooks, byte for byte. `kernels="megatron"` are the published formulas for
Megatron-LM's fused kernels (Korthikanti et al. 2022). They also stand in where nobody wrote down how transformers
computes a family's blocks: `by_op` tells, and answers say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from llmhw.block import Kept, block, first_block, last_block, layer_input, saved_bytes
from llmhw.checks import check_items, check_made, checked
from llmhw.families import FAMILIES, Style
from llmhw.formula import Estimate, Term, term
from llmhw.job import ATTENTION, KERNELS, Layout, usual_attention
from llmhw.memory import PRECISIONS
from llmhw.model import Attention, Layer, ModelSpec, Tensor
from llmhw.units import LLMHWError, check_choice, check_count, share, shown

RECOMPUTE = ("none", "selective", "full", "block")


# -- the tape ---------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Tensor:
    """One storage: rows of `width` elements, or score matrices if `keys` is set. A view is the same object.

    table    its name, if it is made once for all layers
    grad     a gradient flows through it
    """

    width: int
    bytes: int
    batch: int = 1
    seq_len: int = 1
    keys: int = 0
    table: str = ""
    grad: bool = True

    def like(self, **changes: Any) -> _Tensor:
        """A fresh tensor of the same shape but for the changes."""
        same = {"width": self.width, "bytes": self.bytes, "batch": self.batch, "seq_len": self.seq_len}
        return _Tensor(**same | {"keys": self.keys, "grad": self.grad} | changes)

    def term(self, label: str, key: str, times: int = 1) -> Term:
        """Its bytes, so many times."""
        one = Kept(part="", label=label, width=self.width, rows=self.seq_len, element=self.bytes, keys=self.keys)
        return one.term(self.batch, times, key=key)


# Part, label and key of a kept tensor's term.
_Where = tuple[str, str, str]


@dataclass(eq=False)
class _Tape:
    """Runs a block on paper: every operation makes a tensor and keeps what PyTorch's operation saves.

    batch, seq_len   of the micro-batch
    e                bytes of an element of the model's number format
    flash            PyTorch's SDPA if true, else eager attention
    recompute        none, selective (the attention core) or full
    tp               tensor-parallel ranks: heads, feed-forward and vocabulary are split
    spread           the same with sequence parallel, else 1: norms and residuals are split over the tokens
    tables           tensors that all layers share, by name
    kept             what is saved
    """

    batch: int
    seq_len: int
    e: int
    flash: bool
    recompute: str
    tp: int
    spread: int
    tables: dict[str, _Tensor]
    kept: dict[_Tensor, _Where] = field(default_factory=dict)

    # making and keeping

    def new(self, width: int, size: int = 0, *, keys: int = 0, rows: int = 0) -> _Tensor:
        """A fresh tensor: a row of `width` elements of `size` bytes (default: the model's) for each token."""
        return _Tensor(width, size or self.e, self.batch, rows or self.seq_len, keys)

    def table(self, name: str, width: int, size: int, *, batch: int = 1, keys: int = 0) -> _Tensor:
        """A tensor that all layers share and that needs no gradient: rotary tables, masks, positions."""
        if name not in self.tables:
            self.tables[name] = _Tensor(width, size, batch, self.seq_len, keys, table=name, grad=False)
        return self.tables[name]

    def keep(self, part: str, label: str, *tensors: _Tensor, key: str = "") -> None:
        """Save tensors for the backward pass; one that is saved already costs nothing. `key`: see `Term`."""
        for tensor in tensors:
            self.kept.setdefault(tensor, (part, tensor.table, "") if tensor.table else (part, label, key))

    # moving between the split and the whole sequence

    def gathered(self, x: _Tensor) -> _Tensor:
        """All tokens, from the ranks that split them (sequence parallel)."""
        return x if self.spread == 1 else x.like(seq_len=self.seq_len)

    def scattered(self, x: _Tensor) -> _Tensor:
        """This rank's tokens of a sum over the ranks."""
        return x if self.spread == 1 else x.like(seq_len=share(self.seq_len, self.spread))

    # PyTorch's operations

    def cast(self, x: _Tensor, size: int) -> _Tensor:
        """`.to(dtype)`: the same tensor if it has that type already. Saves nothing."""
        return x if x.bytes == size else x.like(bytes=size)

    def linear(self, part: str, label: str, x: _Tensor, width: int, key: str = "linear input") -> _Tensor:
        """x W: saves its input (and the weight, which is no activation)."""
        self.keep(part, label, x, key=key)
        return x.like(width=width, bytes=self.e)

    def mul(self, part: str, labels: tuple[str, str], a: _Tensor, b: _Tensor, key: str = "") -> _Tensor:
        """a b: each side needs the other for its gradient; `key` is that of a."""
        if b.grad:
            self.keep(part, labels[0], a, key=key)
        if a.grad:
            self.keep(part, labels[1], b)
        return a.like(bytes=max(a.bytes, b.bytes))


# -- norms ------------------------------------------------------------------------------------


def _norm(
    t: _Tape,
    kind: str,
    x: _Tensor,
    part: str = "norms",
    vectors: int = 1,
    weights: int = 0,
    whole: _Tensor | None = None,
) -> _Tensor:
    """A normalization layer, as transformers computes it.

    kind      rms          Llama's: in fp32, back to the model's format, times the weight
              rms-late     OLMo 2's: times the weight in fp32, then back
              rms-plus-1   Gemma's: times (1 + weight) in fp32, then back
              layer        PyTorch's LayerNorm
              layer-plus-1 Nemotron's: with 1 + weight
              layer-fp32   OLMo's LayerNorm in fp32, without weights
              cohere       Cohere's LayerNorm, written out in fp32
    vectors   vectors that are normalized in one row: 1, or the heads when each head is
    weights   elements of the weight, if they are not as many as in a vector
    whole     the storage that x is a part of, if it is
    """
    if kind.startswith("layer"):
        x = t.cast(x, 4) if kind == "layer-fp32" else x
        t.keep(part, "input of LayerNorm", x, key="LayerNorm input")
        t.keep(part, "mean", x.like(width=vectors), key="norm mean")
        t.keep(part, "1 / standard deviation", x.like(width=vectors), key="norm scale")
        if kind == "layer-plus-1":
            t.keep(part, "1 + weight", _Tensor(x.width // vectors, t.e), key="norm weight")
        return x.like(bytes=t.e)
    given, x = x, t.cast(x, 4)
    scale = x.like(width=vectors)
    if kind == "cohere":
        x = x.like()
    t.keep(part, "input in fp32", whole if whole and x is given else x, key="norm input")
    t.keep(part, "1 / root mean square", scale, key="norm scale")
    if kind == "cohere":
        t.keep(part, "centred input, computed again", x.like(), key="norm input")
    normed = x.like()
    if kind == "rms":
        normed = t.cast(normed, t.e)
    t.keep(part, "normalized, before the weight", normed, key="normalized")
    if kind not in ("rms", "rms-late"):
        weight = "1 + weight in fp32" if kind == "rms-plus-1" else "weight in fp32"
        if kind == "rms-plus-1" or t.e != 4:
            t.keep(part, weight, _Tensor(weights or x.width // vectors, 4), key="norm weight")
    return normed.like(bytes=t.e)


# -- activation functions ---------------------------------------------------------------------

# transformers' names, by how the function is computed
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_fast",
    "relu": "relu",
    "relu2": "relu2",
}


def _activate(t: _Tape, name: str, x: _Tensor, part: str = "activation function", *, parts: int = 1) -> _Tensor:
    """An activation function, by its name in transformers.

    parts        equal parts of a row, of which it takes the first: 2 for gate and up in one matrix

    silu, gelu   one kernel that saves its input (gelu: exact, or gelu_pytorch_tanh)
    gelu_new     written out in Python: x, tanh, and the two factors
    gelu_fast    written out in Python in another order, with three more factors
    relu         saves its result
    relu2        ReLU, then its square
    """
    kind = _ACTIVATIONS[name]
    if kind in ("relu", "relu2"):
        y = x.like()
        t.keep(part, "result of relu", y)
        return y.like() if kind == "relu2" else y
    t.keep(part, f"input of {kind.partition('_')[0]}", x, key="activation input")
    y = x.like(width=x.width // parts)
    if kind in ("silu", "gelu"):
        return y
    if kind == "gelu_fast":
        for label in ("0.045 times the input", "0.798 times the input", "1 + 0.045 times its square"):
            t.keep(part, label, y.like())
    t.keep(part, "tanh", y.like())
    return t.mul(part, ("half the input", "1 + tanh"), y.like(), y.like())


# -- attention --------------------------------------------------------------------------------


def _rotate(t: _Tape, s: Style, a: Attention, q: _Tensor, k: _Tensor) -> tuple[_Tensor, _Tensor]:
    """Rotary embedding: x cos + rotate_half(x) sin. The tables are saved once for all layers."""
    if not s.rotary:
        return q, k
    for table in _rotary_tables(t, s, a):
        # some families repeat the tables' entries anew in every layer
        t.keep("rotary", table.table, table.like() if s.rotary_own else table)
    if s.query_scale:
        t.keep("rotary", "scale of each position", _Tensor(1, t.e, 1, t.seq_len))
    return t.new(a.heads * a.head_dim), t.new(a.kv_heads * a.head_dim)


def _rotary_tables(t: _Tape, s: Style, a: Attention) -> list[_Tensor]:
    width = int(a.head_dim * s.rotary) // (1 + s.rotary_once)
    if s.rotary_complex:
        return [t.table("table of complex numbers", width // 2, 8)]
    which = f" of {a.kind} layers" if s.rotary_by_kind else ""
    batch, size = t.batch if s.rotary_batch else 1, 4 if s.rotary_fp32 else t.e
    return [t.table(f"{name} table{which}", width, size, batch=batch) for name in ("cos", "sin")]


def _core(t: _Tape, s: Style, a: Attention, q: _Tensor, k: _Tensor, v: _Tensor) -> _Tensor:
    """Scores, softmax and the product with the values."""
    part = "attention"
    out = t.new(a.heads * a.v_head_dim)
    masks = _masks(t, s, a)
    if a.index_topk:  # every layer has its own, of the tokens that its indexer chose
        masks = [_Tensor(1, 1 if t.flash else t.e, t.batch, t.seq_len, t.seq_len, grad=False)]
    if t.recompute == "selective":
        t.keep(part, "inputs of the recomputed core", q, k, v, *masks, _positions(t, s))
        return out
    if t.flash:
        if masks:
            # with a mask transformers does not let the kernel group the heads: it copies keys and values
            k, v = _repeat(t, a, k), _repeat(t, a, v)
            t.keep(part, "mask in the model's format", t.new(1, keys=t.seq_len))
        t.keep(part, "queries", q)
        t.keep(part, "keys", k)
        t.keep(part, "values", v, key="values")
        t.keep(part, "logarithms of the softmax sums", t.new(a.heads, 4))
        t.keep(part, "output of the attention core", out)
        # queries joined from a turned and a plain part lie head by head, and so does the kernel's output:
        # the output projection needs it token by token, which is one more copy
        return out.like() if s.rotary_cat else out
    size = 4 if s.upcast else t.e
    width = a.heads * a.head_dim
    t.keep(part, "queries", t.cast(_batched(t, a, q, width), size))
    t.keep(part, "keys", t.cast(_batched(t, a, _repeat(t, a, k), width), size))
    scores = t.new(a.heads, keys=t.seq_len)
    if s.softcap:
        t.keep(part, "tanh of the capped scores", scores.like())
    if s.sinks:
        t.keep(part, "place of the largest score", t.new(a.heads, 8))
        scores.keys = t.seq_len + 1
    softmax = scores.like(bytes=4 if s.softmax_fp32 else t.e)
    probabilities = t.cast(softmax, t.e)
    if softmax is not probabilities:
        t.keep(part, "probabilities in fp32", softmax, key="probabilities")
    t.keep(part, "probabilities", probabilities, key="probabilities")
    t.keep(part, "values", _batched(t, a, _repeat(t, a, v), a.heads * a.v_head_dim), key="values")
    return out


def _batched(t: _Tape, a: Attention, x: _Tensor, width: int) -> _Tensor:
    """What a batched matrix product saves: a copy, or a view where the strides allow one."""
    return x if t.batch == 1 or a.heads == 1 else t.new(width)


def _repeat(t: _Tape, a: Attention, x: _Tensor) -> _Tensor:
    """transformers' repeat_kv: a copy of keys or values for every query head; a single KV head is only viewed."""
    return x if a.heads == a.kv_heads or a.kv_heads == 1 else t.new(a.heads * a.head_dim)


def _masks(t: _Tape, s: Style, a: Attention) -> list[_Tensor]:
    """The mask that the model makes once and hands to its layers.

    SDPA needs one, beside what causality needs, where the sequence is longer than a window.
    """
    if not t.flash:
        # GPT-Neo's windows are buffers of its attention
        name = "causal mask" if a.window is None or not s.registry else "window mask"
        return [t.table(name, 1, t.e, batch=t.batch, keys=t.seq_len)]
    if a.index_topk:
        return [t.table("causal mask", 1, 1, keys=t.seq_len)]
    if a.window is not None and t.seq_len >= a.window:
        return [t.table("window mask", 1, 1, keys=t.seq_len)]
    return []


def _positions(t: _Tape, s: Style) -> _Tensor:
    return t.table("position ids", 1, 8, batch=t.batch if s.learned == "sequence" else 1)


# -- blocks -----------------------------------------------------------------------------------


def _part(layer: Layer, part: str, *, stack: bool = False, shared: bool = False) -> Tensor | None:
    """The layer's weight of this part; `stack` for that of its experts, `shared` for that of the shared one."""
    wanted = (t for t in layer.tensors if t.part == part and t.shared == shared)
    return next((t for t in wanted if (t.component == "experts") == stack), None)


def _compressed(t: _Tape, s: Style, layer: Layer, x: _Tensor) -> _Tensor:
    """Multi-head latent attention: queries and keys out of their compressions, the turned part of the keys shared."""
    a = _own_heads(t, layer)
    hidden, x = x.width, t.gathered(x)
    small, into = _part(layer, "q_a"), "input of the projections out of the compressions"
    rank = next(n.into for n in layer.tensors if n.part == "kv_b")
    if small:
        first = t.linear("qkv", "input of the q and kv compressions", x, small.out)
        x_q = _norm(t, s.norm, first, "inner norms")
        q = t.linear("qkv", into, x_q, a.heads * a.head_dim)
    else:
        q = t.linear("qkv", "input of the q projection and kv compression", x, a.heads * a.head_dim)
    both = t.linear("qkv", "input of the q and kv compressions", x, a.latent)
    inner = _norm(t, s.norm, both.like(width=rank), "inner norms", whole=both)
    # values are views of what the keys were copied from
    turned = a.latent - rank
    v = t.linear("qkv", into, inner, a.heads * (a.head_dim - turned + a.v_head_dim))
    q, k = _rotate(t, s, replace(a, kv_heads=a.heads), q, v)
    out = _core(t, s, replace(a, kv_heads=a.heads), q, k, v)
    return t.scattered(t.linear("output projection", "input of the output projection", out, hidden))


def _attention(t: _Tape, s: Style, layer: Layer, x: _Tensor) -> _Tensor:
    if layer.linear_attention:
        return _delta(t, s, layer, x)
    if layer.attention and layer.attention.latent:
        return _compressed(t, s, layer, x)
    a = _own_heads(t, layer)
    hidden, x = x.width, t.gathered(x)
    widths = (a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.v_head_dim)
    both = None
    if s.gated:
        # a query and its gate are parts of one row
        both, k, v = (t.linear("qkv", _QKV, x, n) for n in (2 * widths[0], *widths[1:]))
        q = both.like(width=widths[0])
    elif _part(layer, "qkv"):
        # queries, keys and values are views of one result, which lives as long as one of them
        q = k = v = t.linear("qkv", "input of the qkv projection", x, sum(widths))
    else:
        q, k, v = (t.linear("qkv", _QKV, x, width) for width in widths)
    for name, width in (("q", a.heads), ("k", a.kv_heads)):
        weight = _part(layer, f"{name}_norm")
        if weight:
            vectors = width if weight.shape[-1] == a.head_dim else 1
            elements = weight.numel if weight.shape == (a.head_dim,) else share(weight.numel, t.tp)
            whole = both if name == "q" else None
            normed = _norm(t, s.norm, q if name == "q" else k, "qk norms", vectors, elements, whole)
            q, k = (normed, k) if name == "q" else (q, normed)
    q, k = _rotate(t, s, a, q, k)
    out = _core(t, s, a, q, k, v)
    if s.gated:
        out = t.mul("output projection", ("output of the attention core", "sigmoid of the gate"), out, out.like())
    return t.scattered(t.linear("output projection", "input of the output projection", out, hidden))


_QKV = "input of the q, k and v projections"
_CHUNK = 64  # tokens that transformers' own delta rule takes at once


def _delta(t: _Tape, s: Style, layer: Layer, x: _Tensor) -> _Tensor:
    """Gated DeltaNet as transformers' own code runs it: in fp32, on whole chunks of tokens, chunk after chunk."""
    linear = layer.linear_attention
    assert linear is not None
    hidden, x = x.width, t.gathered(x)
    heads, channels = share(linear.heads, t.tp), share(linear.conv_channels, t.tp)
    values, part = heads * linear.value_dim, "linear attention"
    mixed = t.linear("qkv", "input of the projections", x, channels)
    # keys of as many heads as values are not repeated: in fp32 they stay views of what they were cut from
    views = t.e == 4 and channels == heads * (2 * linear.key_dim + linear.value_dim)
    fused = sum(n.part == "in_proj" for n in layer.tensors) == 2
    z = t.new(channels + values if views and fused else values)
    t.keep(part, "input of the convolution", mixed)
    padded = t.new(channels, rows=t.seq_len + linear.conv_kernel - 1)
    t.keep(part, "its result, with the padding", padded)
    t.keep(part, "share that is written", t.new(heads))
    for label in ("decay of each head", "its negative"):
        t.keep(part, label, _Tensor(heads, 4))
    for label in ("input of softplus", "result of softplus"):
        t.keep(part, label, t.new(heads, 4))
    if views:
        t.keep(part, "queries, keys and values", t.new(channels))
    else:
        for label in ("queries", "keys"):
            t.keep(part, label, t.new(heads * linear.key_dim, 4))
    _delta_core(t, part, heads, linear.key_dim, linear.value_dim)
    # the padded result of a single head needs no copy to lie token by token
    t.keep("norms", "input in fp32", t.new(values, 4, rows=_padded(t) if t.e == 4 and heads == 1 else 0))
    t.keep("norms", "1 / root mean square", t.new(heads, 4))
    for label in ("normalized, before the weight", "normalized, before the gate"):
        t.keep("norms", label, t.new(values))
    t.keep("activation function", "input of silu", t.cast(z, 4))
    t.keep("activation function", "activated gate", t.new(values, 4))
    return t.scattered(t.linear("output projection", "input of the output projection", t.new(values), hidden))


def _padded(t: _Tape) -> int:
    """Tokens of whole chunks."""
    return -(-t.seq_len // _CHUNK) * _CHUNK


def _delta_core(t: _Tape, part: str, heads: int, key_dim: int, value_dim: int) -> None:
    """The rule itself: queries and keys normalized, each chunk solved as a triangular system, the state passed on.

    In fp32, where tokens fill the last chunk, strides make it keep four more copies of queries and keys: 1 to 3 %.
    """
    chunks = _padded(t) // _CHUNK

    def rows(label: str, width: int, times: int = 1, count: int = _padded(t)) -> None:
        for _ in range(times):
            t.keep(part, label, t.new(width, 4, rows=count))

    rows("1 / the lengths of queries and keys", heads, 2, t.seq_len)
    rows("products of tokens of a chunk, and their decays", heads * _CHUNK, 5)
    rows("queries, keys and what they write", heads * key_dim, 4 if chunks == 1 else 6)
    rows("values, new and corrected", heads * value_dim, 3)
    rows("decays", heads, 4)
    rows("decays of whole chunks", heads, count=chunks)
    rows("states between chunks", heads * key_dim * value_dim, count=chunks)
    t.keep(part, "mask of a chunk", _Tensor(_CHUNK * _CHUNK, 1))


def _own_heads(t: _Tape, layer: Layer) -> Attention:
    """The attention of one tensor-parallel rank; KV heads fewer than the ranks are copied."""
    a = layer.attention
    if a is None:
        raise LLMHWError("a layer without attention has no op-by-op profile; use kernels='megatron'")
    return replace(a, heads=share(a.heads, t.tp), kv_heads=max(1, a.kv_heads // t.tp))


def _mlp(t: _Tape, s: Style, layer: Layer, x: _Tensor) -> _Tensor:
    """The feed-forward part: gated, plain, or experts; which one, the tensors say."""
    hidden, x = x.width, t.gathered(x)
    if any(n.component == "experts" for n in layer.tensors):
        return t.scattered(_experts(t, s, layer, x))
    gate, both, up = _part(layer, "gate"), _part(layer, "gate_up"), _part(layer, "up")
    if gate:
        return t.scattered(_gated(t, s, x, gate.out, hidden))
    if both:
        g = t.linear("mlp", "input of the gate and up projection", x, share(both.out, t.tp))
        activated = _activate(t, s.activation, g, parts=2)
        product = t.mul("mlp", ("activated gate", "gate and up"), activated, g, "activated gate")
        return t.scattered(t.linear("mlp", "input of the down projection", product, hidden))
    if not up:
        raise LLMHWError("a layer without a feed-forward part has no op-by-op profile; use kernels='megatron'")
    h = t.linear("mlp", "input of the first projection", x, share(up.out, t.tp))
    activated = _activate(t, s.activation, h)
    return t.scattered(t.linear("mlp", "input of the second projection", activated, hidden))


def _gated(t: _Tape, s: Style, x: _Tensor, inner: int, hidden: int) -> _Tensor:
    """SwiGLU and its kin with separate gate and up projections."""
    g = t.linear("mlp", "input of the gate and up projections", x, share(inner, t.tp))
    activated = _activate(t, s.activation, g)
    up = t.linear("mlp", "input of the gate and up projections", x, g.width)
    product = t.mul("mlp", ("activated gate", "up"), activated, up, "activated gate")
    return t.linear("mlp", "input of the down projection", product, hidden)


def _route(t: _Tape, s: Style, x: _Tensor, count: int, used: int) -> _Tensor:
    """The router: probabilities, the choice, and the weight of each chosen expert."""
    part, scores, late = "routing", "routing probabilities", s.router.startswith("chosen")
    weights = t.new(used, t.e if s.router == "chosen" else 4)
    if s.router in ("sigmoid", "softmax-fp32"):
        x32 = t.cast(x, 4)
        if x32 is not x:
            t.keep(part, "router's weight in fp32", _Tensor(count * x.width, 4))
        t.keep(part, "input of the router", x32)
    else:
        t.linear(part, "input of the router", x, count)
    if not late:
        t.keep(part, scores, t.new(count, 4))
    if s.router_groups:
        t.keep(part, "groups that are left out", t.new(count, 1))
    t.keep(part, "chosen experts", t.new(used, 8))
    if late:
        t.keep(part, scores, weights)
        return t.cast(weights, t.e)
    if s.norm_topk:
        t.keep(part, "sum of the chosen probabilities", t.new(1, 4))
        t.keep(part, "weights of the chosen experts", weights)
    return t.cast(weights, t.e) if s.router == "softmax-cast" else weights.like()


def _experts(t: _Tape, s: Style, layer: Layer, x: _Tensor) -> _Tensor:
    """Routed experts, as transformers runs them with grouped matrix products: no token is dropped."""
    experts = _part(layer, "gate_up", stack=True)
    if experts is None:
        raise LLMHWError("experts without a gate have no op-by-op profile; use kernels='megatron'")
    count, used = experts.experts, experts.used
    inner = share(experts.out // 2, t.tp)
    weights = _route(t, s, x, count, used)
    biased = any(n.component == "experts" and not n.matmul for n in layer.tensors)
    for label in (*(["expert of each row"] if biased else []), "token of each row", "order of the rows", "order back"):
        t.keep("routing", label, t.new(used, 8))
    t.keep("routing", "end of each expert's rows", _Tensor(count, 4))
    rows = t.new(x.width * used)
    both = t.linear("experts", "rows of the experts", rows, 2 * inner * used)
    if s.clamped:
        t.keep("experts", "gate and up", both)
        half = t.new(inner * used)
        for label in ("clamped gate", "sigmoid of the gate", "up + 1", "activated gate"):
            t.keep("experts", label, half.like())
        product = half.like()
    else:
        activated = _activate(t, s.activation, both, "experts", parts=2)
        product = t.mul("experts", ("activated gate", "gate and up"), activated, both)
    out = t.linear("experts", "input of the down projection", product, x.width * used)
    t.keep("experts", "weight of each row", weights.like(), key="row weight")
    t.keep("experts", "output of the experts", out)
    inside = _part(layer, "gate", shared=True)
    if inside:
        shared = _gated(t, s, x, inside.out, x.width)
        if _part(layer, "router", shared=True):
            t.mul("mlp", ("sigmoid of the shared expert's gate", "output of the shared expert"), t.new(1), shared)
    return x.like()


def _block(t: _Tape, s: Style, layer: Layer, x: _Tensor) -> None:
    """One block; sums save nothing, so only what feeds them is followed."""
    if s.block == "parallel":
        h = _norm(t, s.norm, x)
        _attention(t, s, layer, h)
        two = _part(layer, "norm")
        _mlp(t, s, layer, _norm(t, s.norm, x) if two else h)
    elif s.block == "behind":
        _attention(t, s, layer, x)
        h = _norm(t, s.norm, x.like())
        _mlp(t, s, layer, h)
        _norm(t, s.norm, x.like())
    elif s.block == "post":
        _norm(t, s.norm, _attention(t, s, layer, x))
        x = x.like()
        _norm(t, s.norm, _mlp(t, s, layer, x))
    else:
        h = _attention(t, s, layer, _norm(t, s.norm, x))
        if s.block == "sandwich":
            _norm(t, s.norm, h)
        h = _mlp(t, s, layer, _norm(t, s.norm, x.like()))
        if s.block == "sandwich":
            _norm(t, s.norm, h)


# -- plain PyTorch and transformers -----------------------------------------------------------


def by_op(spec: ModelSpec) -> bool:
    """Whether the torch profile is exact for this model: it is known how transformers computes each of its blocks.

    >>> from llmhw import model
    >>> by_op(model("llama-3-8b"))
    True
    """
    style = spec.family.style
    states = {layer.linear_attention.kind for layer, _ in spec.layer_kinds if layer.linear_attention}
    return style is not None and style_of(spec).activation in _ACTIVATIONS and states <= {style.state}


@cache
def style_of(spec: ModelSpec) -> Style:
    """The family's style, with what this model's own config changes about it; for a model that `by_op` covers."""
    style = spec.family.style
    if style is None:
        covered = sorted(key for key, family in FAMILIES.items() if family.style)
        raise LLMHWError(
            f"model_type={spec.model_type!r} has no op-by-op profile; use a model of one of {', '.join(covered)}"
        )
    config = spec.config
    named = (config.get(key) for key in ("hidden_activation", "hidden_act", "activation_function"))
    activation = next((name for name in named if name), style.activation)
    changes: dict[str, Any] = {"rotary": spec.rotary, "activation": activation}
    if isinstance(config.get("use_parallel_residual"), bool):
        changes["block"] = "parallel" if config["use_parallel_residual"] else "pre"
    if config.get("do_layer_norm_before") is False:
        changes["block"] = "behind"
    for key, name in (("attn_logit_softcapping", "softcap"), ("final_logit_softcapping", "logit_softcap")):
        if key in config:
            changes[name] = bool(config[key])
    changes["router_groups"] = config.get("topk_method") == "group_limited_greedy"
    if isinstance(config.get("norm_topk_prob"), bool):
        changes["norm_topk"] = config["norm_topk_prob"]
    return replace(style, **changes)


def _tape(spec: ModelSpec, style: Style, case: Case, recompute: str, tables: dict[str, _Tensor]) -> _Tape:
    if case.attention == "flash" and not style.sdpa:
        raise LLMHWError(
            f"attention='flash': transformers does not run model_type={spec.model_type!r} with SDPA; use 'eager'"
        )
    if recompute == "selective" and not style.registry:
        raise LLMHWError(
            f"recompute='selective': transformers' attention of model_type={spec.model_type!r} cannot be run again by "
            "itself; use 'full' or 'none', or kernels='megatron'"
        )
    return _Tape(
        case.batch,
        share(case.seq_len, case.cp),
        case.element,
        case.attention == "flash",
        recompute,
        tp=case.tp,
        spread=case.layout.spread,
        tables=tables,
    )


def _widest(spec: ModelSpec) -> Attention:
    """The attention of a hybrid's other layers, whose tables are handed to all."""
    found = (layer.attention for layer in spec.layers if layer.attention)
    return next(found, Attention(spec.heads, spec.kv_heads, spec.head_dim, spec.head_dim))


def _layer(spec: ModelSpec, style: Style, t: _Tape, layer: Layer) -> None:
    """One layer on a tape that has seen none of its tensors but what all layers share."""
    x = t.scattered(t.new(spec.hidden))
    if t.recompute != "full":
        _block(t, style, layer, x)
        return
    if layer.attention is None:
        tables = [*_rotary_tables(t, style, _widest(spec)), _positions(t, style)]
        t.keep("layer inputs", "input of a recomputed layer", x, *tables, key="layer input")
        return
    a = _own_heads(t, layer)
    tables = [*_masks(t, style, a), *(_rotary_tables(t, style, a) if style.rotary else [])]
    if style.alibi:
        tables.append(t.table("bias of each position and head", a.heads, t.e, batch=t.batch))
    else:
        tables.append(_positions(t, style))
    t.keep("layer inputs", "input of a recomputed layer", x, *tables, key="layer input")


def _embedding(spec: ModelSpec, style: Style, t: _Tape) -> None:
    width = spec.head_shape[1]
    t.keep("embedding", "token ids", t.new(1, 8))
    if style.learned == "batch":
        t.keep("embedding", "", _positions(t, style))
    elif style.learned:
        t.keep("embedding", "position ids, with their offset", t.new(1, 8))
    if style.alibi:
        _norm(t, style.norm, t.new(spec.hidden), "embedding")
    if width != spec.hidden:
        t.linear("embedding", "input of the projection in", t.new(width), spec.hidden)


def _head(spec: ModelSpec, style: Style, t: _Tape, loss: bool) -> None:
    x, width = t.scattered(t.new(spec.hidden)), spec.head_shape[1]
    if style.block != "behind":
        x = _norm(t, style.norm, x, "final norm")
    x = t.gathered(x)
    if width != spec.hidden:
        x = t.linear("head", "input of the projection out", x, width)
    if not spec.head_shape[0]:
        return
    logits = t.linear("head", "input of the head", x, share(spec.head_shape[0], t.tp), "head input")
    if style.logit_softcap:
        t.keep("head", "tanh of the capped logits", logits.like())
        logits = logits.like()
    if loss:
        t.keep("loss", "log-probabilities in fp32", t.cast(logits, 4).like())
        # shifted by one; the slice of a single padded sequence is contiguous and stays a view of it
        t.keep("loss", "labels", t.new(1, 8, rows=t.seq_len + (t.batch == 1)))
        t.keep("loss", "weight of all labels", _Tensor(1, 4))


Layers = Iterable[tuple[Layer, str, int]]  # kinds of layers, each with its recompute mode and how many there are
_Stream = Iterator[tuple[str, Term, bool]]  # parts, their terms, and whether layers share them


def _torch(spec: ModelSpec, case: Case, layers: Layers, *, embedding: bool, head: bool, loss: bool) -> _Stream:
    """The op-by-op profile; what layers share comes behind them. Without one, the formulas for fused kernels."""
    if not by_op(spec):
        yield from _megatron(spec, case, layers, embedding=embedding, head=head, loss=loss)
        return
    style = style_of(spec)
    tables: dict[str, _Tensor] = {}
    shared: dict[_Tensor, _Where] = {}
    fused = case.fused and case.element < 4
    dropped = _FROZEN * (case.adapted is not None) + _FUSED * fused

    def run(what: Callable[..., None], *args: Any, recompute: str = "none", times: int = 1) -> _Stream:
        t = _tape(spec, style, case, recompute, tables)
        what(spec, style, t, *args)
        if case.adapted is not None and what is _layer and recompute != "full":
            # the output projection reads what the fused attention keeps
            core = {"o"} if t.flash and not style.rotary_cat else set[str]()
            yield from ((part, one.scaled(times), False) for part, one in _adapters(args[0], case, core))
        for tensor, (part, label, key) in t.kept.items():
            if key in dropped:
                continue
            if fused and key == "norm input" and tensor.bytes > case.element:
                tensor = tensor.like(bytes=case.element)
            if tensor.table:
                shared.setdefault(tensor, (part, label, key))
            else:
                yield part, tensor.term(label, key, times), False

    if embedding and case.adapted is None:  # frozen, it needs no token ids for a gradient
        yield from run(_embedding)
    for layer, mode, count in layers:
        yield from run(_layer, layer, recompute=mode, times=count)
    yield from ((part, tensor.term(label, key), True) for tensor, (part, label, key) in shared.items())
    if head:
        yield from run(_head, loss)


# Keys of what is kept for the gradients of weights alone: not where these are frozen.
_FROZEN = ("linear input", "normalized", "norm weight", "head input")
# Keys of what fused kernels do not keep: they run a norm's scaling and an activated gate again, which costs nothing.
_FUSED = ("normalized", "activated gate")


def _adapters(layer: Layer, case: Case, kept: set[str]) -> Iterator[tuple[str, Term]]:
    """What LoRA keeps of a layer: the input of each first factor (of dropout its mask and result), and its result.

    kept   parts whose input is kept already

    Where adapters are in fp32 and the model is not, they run under autocast: the input is cast anew for every module,
    and so are both factors. Else modules that read the same rows (queries, keys and values; gate and up) keep them
    once, if there is no dropout. Fused kernels cast and multiply in one, and keep the rows alone.
    """
    cast = case.adapters == "fp32" and case.element < 4 and not case.fused
    seen = set[str]() if cast else {*kept}
    for tensor in layer.tensors:
        if not tensor.matmul or len(tensor.shape) != 2 or tensor.module not in (case.adapted or ()):
            continue
        width = share(tensor.into, case.tp if tensor.split == "row" else 1)
        sizes: dict[str, Any] = {"batch": case.batch, "seq_len": share(case.seq_len, case.cp), "width": width}
        sizes["bytes_per_element"] = case.element
        if not case.fused:
            result = {"width": case.rank}
            yield "adapters", term(saved_bytes, f"result of {tensor.module}'s first factor", **sizes | result)
        if cast:
            both = {"batch": 1, "seq_len": case.rank, "width": tensor.into + tensor.out}
            yield "adapters", term(saved_bytes, f"factors of {tensor.module} in 16 bit", **sizes | both)
        rows = _READ.get(tensor.part, tensor.part)
        if case.dropout:
            mask = {"bytes_per_element": 1}
            yield "adapters", term(saved_bytes, f"mask of {tensor.module}'s dropout", **sizes | mask)
        elif rows in seen:
            continue
        if not cast:
            seen.add(rows)
        yield "adapters", term(saved_bytes, f"input of {tensor.module}'s adapter", **sizes)


# Parts of a layer that read the same rows as another one.
_READ = {"k": "q", "v": "q", "up": "gate"}


# -- Megatron's fused kernels -----------------------------------------------------------------


def _megatron(spec: ModelSpec, case: Case, layers: Layers, *, embedding: bool, head: bool, loss: bool) -> _Stream:
    """Korthikanti's terms one by one, with GQA, gated feed-forward, experts and context parallel."""
    x, batch = case.layout, case.batch
    sizes: dict[str, Any] = {"seq_len": case.seq_len, "dropout": spec.dropout if case.dropout is None else case.dropout}
    found = [(first_block(spec, x, **sizes).kept(batch), 1)] if embedding else []
    for layer, mode, count in layers:
        if mode == "full":
            found.append(({"layer inputs": [layer_input(spec, x, seq_len=case.seq_len).term(batch)]}, count))
        else:
            walked = block(spec, layer, x, attention=case.attention or "flash", imbalance=case.imbalance, **sizes)
            found.append((walked.kept(batch, again=("core_attn",) if mode == "selective" else ()), count))
    if head:
        ends = last_block(spec, x, seq_len=case.seq_len).kept(batch)
        found.append(({name: terms for name, terms in ends.items() if loss or name != "loss"}, 1))
    yield from ((name, t.scaled(n), False) for kept, n in found for name, terms in kept.items() for t in terms)


# -- estimates --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    """One micro-batch on one rank: what every estimate of activations takes.

    batch, seq_len      sequences of the micro-batch and tokens of each
    precision           see `llmhw.memory.PRECISIONS`: the whole model runs in the format it computes with. Autocast,
                        which casts operation by operation, keeps other tensors and is not covered
    attention           flash (a fused kernel: PyTorch's SDPA, FlashAttention) or eager (score matrices); None: flash,
                        or eager where transformers has no other
    kernels             torch: what PyTorch and transformers keep, op by op. megatron: the published formulas for
                        Megatron-LM's fused kernels, with grouped heads, gated feed-forward parts, experts and cp
    tp, cp              tensor- and context-parallel ranks; the logits are split over tp, as in a parallel loss
    sequence_parallel   norms and residuals are split over the tp ranks
    expert_tp           tensor-parallel ranks inside an expert (kernels="megatron")
    imbalance           the busiest expert rank's load over the mean (kernels="megatron")
    dropout             count dropout masks (kernels="megatron"); None: where the family was trained with dropout.
                        The torch profile is without dropout, but for that of adapters
    fused               norms and gated activations are one kernel each (torch.compile, Liger, Unsloth): see `_FUSED`
    adapted             modules with LoRA's adapters, as `llmhw.memory.lora_modules` names them; all other weights are
                        frozen. None: the weights themselves are trained
    adapters, rank      their format, fp32 or bf16, and their inner size
    """

    batch: int = 1
    seq_len: int
    precision: str = "bf16"
    attention: str | None = None
    kernels: str = "torch"
    tp: int = 1
    sequence_parallel: bool = False
    cp: int = 1
    expert_tp: int = 1
    imbalance: float = 1.0
    dropout: bool | None = None
    fused: bool = False
    adapted: tuple[str, ...] | None = None
    adapters: str = "fp32"
    rank: int = 16

    def __post_init__(self) -> None:
        check_made(self)
        check_choice("precision", self.precision, PRECISIONS)
        if self.attention is not None:
            check_choice("attention", self.attention, ATTENTION)
        check_choice("kernels", self.kernels, KERNELS)
        if self.imbalance < 1:
            raise LLMHWError(f"imbalance={self.imbalance} is the busiest rank's load over the mean; use 1 or more")

    @property
    def element(self) -> int:
        """Bytes of an element of the format that the model computes with."""
        return PRECISIONS[self.precision].compute

    @property
    def layout(self) -> Layout:
        """The same as a layout."""
        shared = ("tp", "cp", "expert_tp", "sequence_parallel")
        return Layout(micro_batch=self.batch, **{name: getattr(self, name) for name in shared})


def _estimate(what: str, spec: ModelSpec, case: Case, layers: Layers, **ends: bool) -> Estimate:
    """What layers and ends keep; `shared`: only what layers share, or only what they do not."""
    if case.attention is None:
        case = replace(case, attention=usual_attention(spec, case.kernels))
    wanted = {ends.pop("shared")} if "shared" in ends else {True, False}
    profile = _megatron if case.kernels == "megatron" else _torch
    parts: dict[str, list[Term]] = {}
    for name, t, shared in profile(spec, case, layers, **{"embedding": False, "head": False, "loss": False, **ends}):
        if shared in wanted:
            parts.setdefault(name, []).append(t)
    title = f"{what} of {spec.name}, {case.kernels} kernels, batch {case.batch}, {case.seq_len} tokens"
    return Estimate.of(title, "bytes", parts)


def layer_number(spec: ModelSpec, number: Any) -> int:
    """The number of a layer; below 0 it is counted from the end."""
    whole = isinstance(number, int) and not isinstance(number, bool)
    if not whole or not -spec.num_layers <= number < spec.num_layers:
        raise LLMHWError(f"layer={shown(number)} is not one of the {spec.num_layers} layers of {spec.name}")
    return int(number) % spec.num_layers


@checked
def layer_activations(spec: ModelSpec, layer: int | Layer, *, recompute: str = "none", **case: Any) -> Estimate:
    """Activations that one block keeps for the backward pass on one rank, op by op.

    layer       a layer of the spec, or its number
    recompute   none, selective (the attention core) or full (the whole block)
    case        the fields of `Case`

    Tables that all layers share (rotary embedding, masks) are not in here; `activations` counts them once.

    >>> from llmhw import model
    >>> one = layer_activations(model("llama-2-7b"), 0, seq_len=4096)
    >>> one["mlp"] / 2**20
    290.0
    """
    check_choice("recompute", recompute, RECOMPUTE[:3])
    chosen = layer if isinstance(layer, Layer) else spec.layers[layer_number(spec, layer)]
    return _estimate("activations of one layer", spec, Case(**case), [(chosen, recompute, 1)], shared=False)


@checked
def shared_activations(spec: ModelSpec, layers: Iterable[tuple[int, str]], **case: Any) -> Estimate:
    """Tables that layers share, such as rotary embedding and masks: kept once for a micro-batch (the torch profile).

    layers   kinds of layers, numbers of `ModelSpec.layer_kinds`, each with its recompute mode
    case     the fields of `Case`
    """
    kinds = [(spec.layer_kinds[kind][0], mode, 1) for kind, mode in layers]
    return _estimate("tables that layers share", spec, Case(**case), kinds, shared=True)


@checked(layers=None)
def activations(
    spec: ModelSpec,
    *,
    recompute: str = "none",
    recompute_layers: int = 0,
    loss: bool = True,
    layers: Iterable[int] | None = None,
    embedding: bool = True,
    head: bool = True,
    **case: Any,
) -> Estimate:
    """Activations that one micro-batch keeps between forward and backward pass on one rank, part by part.

    recompute         none; selective (the attention core runs again: its inputs are kept); full (every layer runs
                      again: its input is kept); block (the first `recompute_layers` layers run again)
    loss              count the loss, too
    layers            numbers of the layers that the rank holds (a pipeline stage); None: all
    embedding, head   whether it holds the embedding; the last norm, the head and the loss
    case              the fields of `Case`: batch, seq_len, precision, attention, kernels, tp, cp, ...

    The torch profile equals what PyTorch's saved-tensor hooks count, byte for byte, on the CPU. On CUDA, LayerNorm
    keeps its two statistics in fp32 and fused attention a few bytes of generator state; where a sliding window needs
    a mask, another kernel runs, which pads it. Not counted: the logits in the model's format, which live as long as
    the caller holds them; temporaries; gradients.
    Where transformers' way of computing the blocks is not written down (`by_op`), both profiles are the formulas for
    fused kernels.

    >>> from llmhw import model
    >>> spec = model("llama-3-8b")
    >>> [round(activations(spec, seq_len=4096, recompute=r).total / 2**30, 2) for r in ("none", "selective", "full")]
    [26.6, 26.59, 3.08]
    """
    check_choice("recompute", recompute, RECOMPUTE)
    last = spec.num_layers - 1
    given = range(spec.num_layers) if layers is None else check_items("layers", layers)
    held = [check_count("layers", i, 0, last) for i in given]
    if recompute == "block" and not 0 < recompute_layers <= len(held):
        raise LLMHWError(
            f"recompute_layers={recompute_layers} must be between 1 and the {len(held)} layers when recompute='block'"
        )
    modes = [recompute] * len(held)
    if recompute == "block":
        modes = ["full" if place < recompute_layers else "none" for place in range(len(held))]
    counted = Counter((spec.kind_numbers[i], mode) for i, mode in zip(held, modes, strict=True))
    kinds = [(spec.layer_kinds[kind][0], mode, count) for (kind, mode), count in counted.items()]
    what = f"activations, recompute {recompute},"
    return _estimate(what, spec, Case(**case), kinds, embedding=embedding, head=head, loss=loss)
