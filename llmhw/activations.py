"""Activations: what the forward pass must keep for the backward pass, op by op.

Two profiles. `kernels="torch"` is what plain PyTorch and transformers keep: we walk through the operations of a
block in the order in which transformers runs them and note what each one saves, every tensor once. Tests hold the
result against PyTorch's own saved-tensor hooks, byte for byte. `kernels="megatron"` are the published formulas for
Megatron-LM's fused kernels (Korthikanti et al. 2022).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from llmhw.block import block, first_block, last_block, layer_input, saved_bytes, score_matrix_bytes
from llmhw.families import FAMILIES, Style
from llmhw.formula import Estimate, Part, Term, term
from llmhw.job import ATTENTION, KERNELS, Layout
from llmhw.memory import PRECISIONS
from llmhw.model import Attention, Layer, ModelSpec, Tensor
from llmhw.units import LLMHWError, check_choice, check_count, share, unknown_name

RECOMPUTE = ("none", "selective", "full", "block")


# -- the tape ---------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Tensor:
    """One storage: rows of `width` elements, or score matrices if `keys` is set. A view is the same object.

    grad     a gradient flows through it
    shared   made once for all layers
    halved   what uses it takes one half of each row (gate and up in one matrix)
    """

    label: str
    width: int
    bytes: int
    batch: int
    seq_len: int
    keys: int = 0
    grad: bool = True
    shared: bool = False
    halved: bool = False

    def term(self) -> Term:
        if self.keys:
            return term(
                score_matrix_bytes,
                self.label,
                batch=self.batch,
                heads=self.width,
                queries=self.seq_len,
                keys=self.keys,
                bytes_per_element=self.bytes,
            )
        return term(
            saved_bytes,
            self.label,
            batch=self.batch,
            seq_len=self.seq_len,
            width=self.width,
            bytes_per_element=self.bytes,
        )


@dataclass(eq=False)
class _Tape:
    """Runs a block on paper: every operation makes a tensor and keeps what PyTorch's operation saves.

    batch, seq_len   of the micro-batch
    e                bytes of an element of the model's number format
    flash            PyTorch's SDPA if true, else eager attention
    selective        the attention core is recomputed
    tp               tensor-parallel ranks: heads, feed-forward and vocabulary are split
    spread           the same with sequence parallel, else 1: norms and residuals are split over the tokens
    """

    batch: int
    seq_len: int
    e: int
    flash: bool
    selective: bool = False
    tp: int = 1
    spread: int = 1
    kept: dict[_Tensor, tuple[str, str]] = field(default_factory=dict)
    tables: dict[str, _Tensor] = field(default_factory=dict)
    quiet: bool = False

    # making and keeping

    def new(self, width: int, size: int | None = None, *, keys: int = 0, batch: int = 0, rows: int = 0) -> _Tensor:
        """A fresh tensor: a row of `width` elements of `size` bytes (default: the model's) for each token."""
        return _Tensor("", width, size or self.e, batch or self.batch, rows or self.seq_len, keys)

    def table(self, name: str, width: int, size: int, *, batch: int = 1, keys: int = 0) -> _Tensor:
        """A tensor that all layers share and that needs no gradient: rotary tables, masks, positions."""
        if name not in self.tables:
            made = self.new(width, size, keys=keys, batch=batch)
            made.label, made.grad, made.shared = name, False, True
            self.tables[name] = made
        return self.tables[name]

    def keep(self, part: str, label: str, *tensors: _Tensor) -> None:
        """Save tensors for the backward pass; one that is saved already costs nothing."""
        if self.quiet:
            return
        for tensor in tensors:
            if tensor not in self.kept:
                self.kept[tensor] = (part, tensor.label if tensor.shared else label)

    @contextmanager
    def recomputed(self, part: str, label: str, *inputs: _Tensor) -> Iterator[None]:
        """What runs inside is run again in the backward pass: only its inputs are kept."""
        self.keep(part, label, *inputs)
        before, self.quiet = self.quiet, True
        yield
        self.quiet = before

    # moving between the split and the whole sequence

    def gathered(self, x: _Tensor) -> _Tensor:
        """All tokens, from the ranks that split them (sequence parallel)."""
        return x if self.spread == 1 else replace(x, seq_len=self.seq_len, label="")

    def scattered(self, x: _Tensor) -> _Tensor:
        """This rank's tokens of a sum over the ranks."""
        return x if self.spread == 1 else replace(x, seq_len=share(self.seq_len, self.spread), label="")

    # PyTorch's operations

    def cast(self, x: _Tensor, size: int) -> _Tensor:
        """`.to(dtype)`: the same tensor if it has that type already. Saves nothing."""
        return x if x.bytes == size else replace(x, bytes=size, shared=False, halved=False, label="")

    def like(self, x: _Tensor, size: int | None = None) -> _Tensor:
        """The fresh result of an operation that saves nothing (a sum, a product with a number)."""
        return replace(x, bytes=size or x.bytes, shared=False, halved=False, label="")

    def linear(self, part: str, label: str, x: _Tensor, width: int) -> _Tensor:
        """x W: saves its input (and the weight, which is no activation)."""
        self.keep(part, label, x)
        return replace(x, width=width, bytes=self.e, halved=False, label="")

    def mul(self, part: str, labels: tuple[str, str], a: _Tensor, b: _Tensor) -> _Tensor:
        """a b: each side needs the other for its gradient."""
        if b.grad:
            self.keep(part, labels[0], a)
        if a.grad:
            self.keep(part, labels[1], b)
        return self.like(a, max(a.bytes, b.bytes))


# -- norms ------------------------------------------------------------------------------------


def _norm(t: _Tape, kind: str, x: _Tensor, part: str = "norms", vectors: int = 1, weights: int = 0) -> _Tensor:
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
    """
    if kind.startswith("layer"):
        x = t.cast(x, 4) if kind == "layer-fp32" else x
        t.keep(part, "input of LayerNorm", x)
        t.keep(part, "mean", replace(x, width=vectors, label=""))
        t.keep(part, "1 / standard deviation", replace(x, width=vectors, label=""))
        if kind == "layer-plus-1":
            t.keep(part, "1 + weight", _Tensor("", x.width // vectors, t.e, 1, 1))
        return t.like(x, t.e)
    x = t.cast(x, 4)
    scale = replace(x, width=vectors, label="")
    if kind == "cohere":
        x = t.like(x)
    t.keep(part, "input in fp32", x)
    t.keep(part, "1 / root mean square", scale)
    if kind == "cohere":
        t.keep(part, "centred input, computed again", t.like(x))
    normed = t.like(x)
    if kind == "rms":
        normed = t.cast(normed, t.e)
        t.keep(part, "normalized, before the weight", normed)
        return t.like(normed, t.e)
    t.keep(part, "normalized, before the weight", normed)
    if kind != "rms-late":
        weight = "1 + weight in fp32" if kind == "rms-plus-1" else "weight in fp32"
        if kind == "rms-plus-1" or t.e != 4:
            t.keep(part, weight, _Tensor("", weights or x.width // vectors, 4, 1, 1))
    return t.like(normed, t.e)


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


def _activate(t: _Tape, name: str, x: _Tensor, part: str = "activation function") -> _Tensor:
    """An activation function, by its name in transformers.

    silu, gelu   one kernel that saves its input (gelu: exact, or gelu_pytorch_tanh)
    gelu_new     written out in Python: x, tanh, and the two factors
    gelu_fast    written out in Python in another order, with three more factors
    relu         saves its result
    relu2        ReLU, then its square
    """
    if name not in _ACTIVATIONS:
        raise LLMHWError(
            f"hidden_act={name!r} has no op-by-op profile; use kernels='megatron', or one of {', '.join(_ACTIVATIONS)}"
        )
    kind = _ACTIVATIONS[name]
    if kind in ("relu", "relu2"):
        y = t.like(x)
        t.keep(part, "result of relu", y)
        return t.like(y) if kind == "relu2" else y
    t.keep(part, f"input of {kind.partition('_')[0]}", x)
    y = replace(x, width=x.width // 2, label="") if x.halved else t.like(x)
    if kind in ("silu", "gelu"):
        return y
    if kind == "gelu_fast":
        t.keep(part, "0.045 times the input", t.like(y))
        t.keep(part, "0.798 times the input", t.like(y))
        t.keep(part, "1 + 0.045 times its square", t.like(y))
    t.keep(part, "tanh", t.like(y))
    return t.mul(part, ("half the input", "1 + tanh"), t.like(y), t.like(y))


# -- attention --------------------------------------------------------------------------------


def _rotate(t: _Tape, s: Style, a: Attention, q: _Tensor, k: _Tensor) -> tuple[_Tensor, _Tensor]:
    """Rotary embedding: x cos + rotate_half(x) sin. The tables are saved once for all layers."""
    if not s.rotary:
        return q, k
    for table in _rotary_tables(t, s, a):
        # some families repeat the tables' entries anew in every layer
        t.keep("rotary", table.label, replace(table, shared=False) if s.rotary_own else table)
    if s.query_scale:
        t.keep("rotary", "scale of each position", _Tensor("", 1, t.e, 1, t.seq_len))
    return t.new(a.heads * a.head_dim), t.new(a.kv_heads * a.head_dim)


def _rotary_tables(t: _Tape, s: Style, a: Attention) -> list[_Tensor]:
    width = int(a.head_dim * s.rotary) // (1 + s.rotary_once)
    which = f" of {a.kind} layers" if s.rotary_by_kind else ""
    return [t.table(f"{name} table{which}", width, 4 if s.rotary_fp32 else t.e) for name in ("cos", "sin")]


def _core(t: _Tape, s: Style, a: Attention, q: _Tensor, k: _Tensor, v: _Tensor) -> _Tensor:
    """Scores, softmax and the product with the values."""
    part = "attention"
    out = t.new(a.heads * a.v_head_dim)
    copies = [out]
    # a window only needs a mask, beside what causality needs, where the sequence is longer than it
    masked = a.window is not None and t.seq_len >= a.window

    def run() -> None:
        if t.flash:
            keys, values = k, v
            if masked:
                # with a mask transformers does not let the kernel group the heads: it copies keys and values
                keys, values = _repeat(t, a, k), _repeat(t, a, v)
                t.keep(part, "mask in the model's format", t.new(1, keys=t.seq_len))
            t.keep(part, "queries", q)
            t.keep(part, "keys", keys)
            t.keep(part, "values", values)
            t.keep(part, "logarithms of the softmax sums", t.new(a.heads, 4))
            t.keep(part, "output of the attention core", out)
            if s.rotary_cat:
                # queries joined from a turned and a plain part lie head by head, and so does the kernel's output:
                # the output projection needs it token by token, which is one more copy
                copies.append(t.like(out))
            return
        size = 4 if s.upcast else t.e
        t.keep(part, "queries", t.cast(_batched(t, a, q), size))
        t.keep(part, "keys", t.cast(_batched(t, a, _repeat(t, a, k)), size))
        scores = t.new(a.heads, keys=t.seq_len)
        if s.softcap:
            t.keep(part, "tanh of the capped scores", t.like(scores))
        if s.sinks:
            t.keep(part, "place of the largest score", t.new(a.heads, 8))
            scores.keys = t.seq_len + 1
        softmax = t.like(scores, 4 if s.softmax_fp32 else t.e)
        probabilities = t.cast(softmax, t.e)
        if softmax is not probabilities:
            t.keep(part, "probabilities in fp32", softmax)
        t.keep(part, "probabilities", probabilities)
        t.keep(part, "values", _batched(t, a, _repeat(t, a, v)))

    if not t.selective:
        run()
        return copies[-1]
    inputs = [q, k, v, *_masks(t, s, a), *([_positions(t, s)] if s.positions == "attention" else [])]
    with t.recomputed(part, "inputs of the recomputed core", *inputs):
        run()
    return out


def _batched(t: _Tape, a: Attention, x: _Tensor) -> _Tensor:
    """What a batched matrix product saves: a copy, or a view where the strides allow one."""
    return x if t.batch == 1 or a.heads == 1 else t.new(a.heads * a.head_dim)


def _repeat(t: _Tape, a: Attention, x: _Tensor) -> _Tensor:
    """transformers' repeat_kv: a copy of keys or values for every query head; a single KV head is only viewed."""
    return x if a.heads == a.kv_heads or a.kv_heads == 1 else t.new(a.heads * a.head_dim)


def _masks(t: _Tape, s: Style, a: Attention) -> list[_Tensor]:
    """The mask that the model makes once and hands to its layers; SDPA needs one for a window only."""
    if not t.flash:
        # GPT-Neo's windows are buffers of its attention
        name = "causal mask" if a.window is None or not s.registry else "window mask"
        return [t.table(name, 1, t.e, batch=t.batch, keys=t.seq_len)]
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


def _attention(t: _Tape, s: Style, layer: Layer, x: _Tensor) -> _Tensor:
    a = _own_heads(t, layer)
    hidden, x = x.width, t.gathered(x)
    widths = (a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.v_head_dim)
    if _part(layer, "qkv"):
        # queries, keys and values are views of one result, which lives as long as one of them
        q = k = v = t.linear("qkv", "input of the qkv projection", x, sum(widths))
    else:
        q, k, v = (t.linear("qkv", "input of the q, k and v projections", x, width) for width in widths)
    for name, width in (("q", a.heads), ("k", a.kv_heads)):
        weight = _part(layer, f"{name}_norm")
        if weight:
            vectors = width if weight.shape[-1] == a.head_dim else 1
            elements = weight.numel if weight.shape == (a.head_dim,) else share(weight.numel, t.tp)
            normed = _norm(t, s.norm, q if name == "q" else k, "qk norms", vectors, elements)
            q, k = (normed, k) if name == "q" else (q, normed)
    q, k = _rotate(t, s, a, q, k)
    out = _core(t, s, a, q, k, v)
    return t.scattered(t.linear("output projection", "input of the output projection", out, hidden))


def _own_heads(t: _Tape, layer: Layer) -> Attention:
    """The attention of one tensor-parallel rank; KV heads fewer than the ranks are copied."""
    a = layer.attention
    if a is None or a.latent:
        raise LLMHWError("a layer without plain attention has no op-by-op profile; use kernels='megatron'")
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
        g.halved = True
        activated = _activate(t, s.activation, g)
        product = t.mul("mlp", ("activated gate", "gate and up"), activated, g)
        product.width = activated.width
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
    product = t.mul("mlp", ("activated gate", "up"), activated, up)
    return t.linear("mlp", "input of the down projection", product, hidden)


def _route(t: _Tape, s: Style, x: _Tensor, count: int, used: int) -> _Tensor:
    """The router: probabilities, the choice, and the weight of each chosen expert."""
    part, scores = "routing", "routing probabilities"
    chosen = t.new(used, 8)
    if s.router == "sigmoid":
        x32 = t.cast(x, 4)
        if x32 is not x:
            t.keep(part, "router's weight in fp32", _Tensor("", count * x.width, 4, 1, 1))
        t.keep(part, "input of the router", x32)
        t.keep(part, scores, t.new(count, 4))
        t.keep(part, "chosen experts", chosen)
        weights = t.new(used, 4)
    elif s.router.startswith("chosen"):
        t.linear(part, "input of the router", x, count)
        t.keep(part, "chosen experts", chosen)
        weights = t.new(used, 4 if s.router == "chosen-fp32" else t.e)
        t.keep(part, scores, weights)
        return t.cast(weights, t.e)
    else:
        t.linear(part, "input of the router", x, count)
        t.keep(part, scores, t.new(count, 4))
        t.keep(part, "chosen experts", chosen)
        weights = t.new(used, 4)
    if s.norm_topk:
        t.keep(part, "sum of the chosen probabilities", t.new(1, 4))
        t.keep(part, "weights of the chosen experts", weights)
    return t.cast(weights, t.e) if s.router == "softmax-cast" else t.like(weights)


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
    t.keep("routing", "end of each expert's rows", _Tensor("", count, 4, 1, 1))
    rows = t.new(x.width * used)
    both = t.linear("experts", "rows of the experts", rows, 2 * inner * used)
    both.halved = True
    if s.clamped:
        t.keep("experts", "gate and up", both)
        half = t.new(inner * used)
        for label in ("clamped gate", "sigmoid of the gate", "up + 1", "activated gate"):
            t.keep("experts", label, t.like(half))
        product = t.like(half)
    else:
        activated = _activate(t, s.activation, both, "experts")
        product = t.mul("experts", ("activated gate", "gate and up"), activated, both)
        product.width = activated.width
    out = t.linear("experts", "input of the down projection", product, x.width * used)
    t.keep("experts", "weight of each row", t.like(weights))
    t.keep("experts", "output of the experts", out)
    inside = _part(layer, "gate", shared=True)
    if inside:
        shared = _gated(t, s, x, inside.out, x.width)
        if _part(layer, "router", shared=True):
            t.mul("mlp", ("sigmoid of the shared expert's gate", "output of the shared expert"), t.new(1), shared)
    return t.like(x)


def _block(t: _Tape, s: Style, layer: Layer, x: _Tensor) -> None:
    """One block; sums save nothing, so only what feeds them is followed."""
    if s.block == "parallel":
        h = _norm(t, s.norm, x)
        _attention(t, s, layer, h)
        two = _part(layer, "norm")
        _mlp(t, s, layer, _norm(t, s.norm, x) if two else h)
    elif s.block == "behind":
        _attention(t, s, layer, x)
        h = _norm(t, s.norm, t.like(x))
        _mlp(t, s, layer, h)
        _norm(t, s.norm, t.like(x))
    elif s.block == "post":
        _norm(t, s.norm, _attention(t, s, layer, x))
        x = t.like(x)
        _norm(t, s.norm, _mlp(t, s, layer, x))
    else:
        h = _attention(t, s, layer, _norm(t, s.norm, x))
        if s.block == "sandwich":
            _norm(t, s.norm, h)
        h = _mlp(t, s, layer, _norm(t, s.norm, t.like(x)))
        if s.block == "sandwich":
            _norm(t, s.norm, h)


# -- plain PyTorch and transformers -----------------------------------------------------------


@cache
def style_of(spec: ModelSpec) -> Style:
    """The family's style, with what this model's own config changes about it."""
    style = spec.family.style
    if style is None:
        covered = sorted(key for key, family in FAMILIES.items() if family.style)
        raise LLMHWError(
            f"model_type={spec.model_type!r} has no op-by-op profile; use kernels='megatron' for the published "
            f"formulas, or a model of one of {', '.join(covered)}"
        )
    config = spec.config
    changes: dict[str, Any] = {"rotary": spec.rotary}
    for key in ("hidden_activation", "hidden_act", "activation_function"):
        if config.get(key):
            changes["activation"] = config[key]
            break
    if isinstance(config.get("use_parallel_residual"), bool):
        changes["block"] = "parallel" if config["use_parallel_residual"] else "pre"
    if config.get("do_layer_norm_before") is False:
        changes["block"] = "behind"
    if "attn_logit_softcapping" in config:
        changes["softcap"] = bool(config["attn_logit_softcapping"])
    if "final_logit_softcapping" in config:
        changes["logit_softcap"] = bool(config["final_logit_softcapping"])
    if isinstance(config.get("norm_topk_prob"), bool):
        changes["norm_topk"] = config["norm_topk_prob"]
    return replace(style, **changes)


def _parts(kept: Mapping[_Tensor, tuple[str, str]], times: int = 1) -> dict[str, list[Term]]:
    parts: dict[str, list[Term]] = {}
    for tensor, (part, label) in kept.items():
        tensor.label = label
        made = tensor.term()
        parts.setdefault(part, []).append(replace(made, times=times, value=times * made.value))
    return parts


def _tape(spec: ModelSpec, style: Style, case: _Case, recompute: str) -> _Tape:
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
        case.e,
        case.attention == "flash",
        selective=recompute == "selective",
        tp=case.tp,
        spread=case.tp if case.sequence_parallel else 1,
    )


def _run_layer(spec: ModelSpec, style: Style, layer: Layer, t: _Tape, recompute: str) -> None:
    """One layer on a tape that has seen none of its tensors; what all layers share stays on the tape."""
    x = t.scattered(t.new(spec.hidden))
    if recompute != "full":
        _block(t, style, layer, x)
        return
    a = _own_heads(t, layer)
    tables = [*_masks(t, style, a), *(_rotary_tables(t, style, a) if style.rotary else [])]
    if style.positions != "none":
        tables.append(_positions(t, style))
    if style.alibi:
        tables.append(t.table("bias of each position and head", a.heads, t.e, batch=t.batch))
    t.keep("layer inputs", "input of a recomputed layer", x, *tables)


def _torch(
    spec: ModelSpec, case: _Case, layers: list[tuple[Layer, str, int]], *, embedding: bool, head: bool, loss: bool
) -> dict[str, list[Term]]:
    """The op-by-op profile of these layers, each with its recompute mode and its count."""
    style = style_of(spec)
    parts: dict[str, list[Term]] = {}
    tables: dict[str, _Tensor] = {}
    shared: dict[_Tensor, tuple[str, str]] = {}
    width = spec.head_shape[1]

    def add(kept: Mapping[_Tensor, tuple[str, str]], times: int = 1) -> None:
        for name, terms in _parts(kept, times).items():
            parts.setdefault(name, []).extend(terms)

    def tape(recompute: str) -> _Tape:
        made = _tape(spec, style, case, recompute)
        made.tables = tables
        return made

    if embedding:
        t = tape("none")
        t.keep("embedding", "token ids", t.new(1, 8))
        if style.learned == "batch":
            shared[_positions(t, style)] = ("embedding", "position ids")
        elif style.learned:
            t.keep("embedding", "position ids, with their offset", t.new(1, 8))
        if style.alibi:
            _norm(t, style.norm, t.new(spec.hidden), "embedding")
        if width != spec.hidden:
            t.linear("embedding", "input of the projection in", t.new(width), spec.hidden)
        add(t.kept)
    for layer, recompute, count in layers:
        t = tape(recompute)
        _run_layer(spec, style, layer, t, recompute)
        shared = {tensor: where for tensor, where in t.kept.items() if tensor.shared} | shared
        add({tensor: where for tensor, where in t.kept.items() if not tensor.shared}, count)
    add(shared)
    if head:
        t = tape("none")
        x = t.scattered(t.new(spec.hidden))
        if style.block != "behind":
            x = _norm(t, style.norm, x, "final norm")
        x = t.gathered(x)
        if width != spec.hidden:
            x = t.linear("head", "input of the projection out", x, width)
        logits = t.linear("head", "input of the head", x, share(spec.vocab_size, t.tp))
        if style.logit_softcap:
            t.keep("head", "tanh of the capped logits", t.like(logits))
            logits = t.like(logits)
        if loss:
            t.keep("loss", "log-probabilities in fp32", t.like(t.cast(logits, 4)))
            # shifted by one; the slice of a single padded sequence is contiguous and stays a view of it
            t.keep("loss", "labels", t.new(1, 8, rows=t.seq_len + (t.batch == 1)))
            t.keep("loss", "weight of all labels", _Tensor("", 1, 4, 1, 1))
        add(t.kept)
    return parts


# -- Megatron's fused kernels -----------------------------------------------------------------


def _stored(spec: ModelSpec, case: _Case) -> tuple[Layout, dict[str, Any]]:
    """The layout, and what else decides what Megatron-LM's fused kernels keep: see `llmhw.block.Block.kept`."""
    layout = Layout(
        tp=case.tp,
        cp=case.cp,
        expert_tp=case.expert_tp,
        sequence_parallel=case.sequence_parallel,
        micro_batch=case.batch,
    )
    return layout, {"seq_len": case.seq_len, "dropout": spec.dropout if case.dropout is None else case.dropout}


def _megatron_layer(spec: ModelSpec, case: _Case, layer: Layer, recompute: str) -> dict[str, list[Term]]:
    """Korthikanti's terms one by one, with GQA, gated feed-forward, experts and context parallel."""
    x, options = _stored(spec, case)
    if recompute == "full":
        return {"layer inputs": [layer_input(spec, x, seq_len=case.seq_len).term(x.micro_batch)]}
    found = block(spec, layer, x, attention=case.attention, imbalance=case.imbalance, **options)
    return found.kept(x.micro_batch, selective=recompute == "selective", stored=case.stored)


def _megatron(
    spec: ModelSpec, case: _Case, layers: list[tuple[Layer, str, int]], *, embedding: bool, head: bool, loss: bool
) -> dict[str, list[Term]]:
    x, options = _stored(spec, case)
    parts: dict[str, list[Term]] = {}
    if embedding:
        parts |= first_block(spec, x, **options).kept(x.micro_batch)
    for layer, recompute, count in layers:
        for name, terms in _megatron_layer(spec, case, layer, recompute).items():
            parts.setdefault(name, []).extend(t.scaled(count) for t in terms)
    if head:
        ends = last_block(spec, x, seq_len=case.seq_len).kept(x.micro_batch)
        parts |= {name: terms for name, terms in ends.items() if loss or name != "loss"}
    return parts


# -- estimates --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Case:
    """The arguments that both profiles take, checked."""

    batch: int
    seq_len: int
    e: int
    attention: str
    tp: int
    sequence_parallel: bool
    cp: int
    expert_tp: int
    imbalance: float
    dropout: bool | None
    stored: float = 1.0

    def __post_init__(self) -> None:
        for name in ("batch", "seq_len", "tp", "cp", "expert_tp"):
            object.__setattr__(self, name, check_count(name, getattr(self, name)))
        check_choice("attention", self.attention, ATTENTION)
        if self.imbalance < 1:
            raise LLMHWError(f"imbalance={self.imbalance} is the busiest rank's load over the mean; use 1 or more")


def layer_activations(
    spec: ModelSpec,
    layer: int | Layer,
    *,
    batch: int = 1,
    seq_len: int,
    dtype_bytes: int = 2,
    attention: str = "flash",
    recompute: str = "none",
    kernels: str = "torch",
    tp: int = 1,
    sequence_parallel: bool = False,
    cp: int = 1,
    expert_tp: int = 1,
    imbalance: float = 1.0,
    dropout: bool | None = None,
) -> Estimate:
    """Activations that one block keeps for the backward pass on one rank, op by op.

    layer          a layer of the spec, or its number
    dtype_bytes    bytes of an element of the model's number format: 2, or 4 for fp32 (kernels="torch")
    recompute      none, selective (the attention core) or full (the whole block)
    others         see `activations`

    Tables that all layers share (rotary embedding, masks) are not in here; `activations` counts them once.

    >>> from llmhw import model
    >>> one = layer_activations(model("llama-2-7b"), 0, seq_len=4096)
    >>> one["mlp"] / 2**20
    290.0
    """
    check_choice("recompute", recompute, RECOMPUTE[:3])
    check_choice("kernels", kernels, KERNELS)
    case = _Case(
        batch=batch,
        seq_len=seq_len,
        e=dtype_bytes,
        attention=attention,
        tp=tp,
        sequence_parallel=sequence_parallel,
        cp=cp,
        expert_tp=expert_tp,
        imbalance=imbalance,
        dropout=dropout,
    )
    if isinstance(layer, int) and not -spec.num_layers <= layer < spec.num_layers:
        raise LLMHWError(f"layer={layer} is not one of the {spec.num_layers} layers of {spec.name}")
    block = spec.layers[layer] if isinstance(layer, int) else layer
    if kernels == "megatron":
        parts = _megatron_layer(spec, case, block, recompute)
    else:
        style = style_of(spec)
        t = _tape(spec, style, case, recompute)
        _run_layer(spec, style, block, t, recompute)
        parts = _parts({tensor: where for tensor, where in t.kept.items() if not tensor.shared})
    return Estimate(
        f"activations of one layer of {spec.name}, {kernels} kernels, batch {batch}, {seq_len} tokens",
        "bytes",
        tuple(Part(name, tuple(terms)) for name, terms in parts.items()),
    )


def shared_activations(
    spec: ModelSpec,
    layers: Iterable[tuple[int, str]],
    dtype_bytes: int = 2,
    *,
    batch: int,
    seq_len: int,
    attention: str = "flash",
    tp: int = 1,
    cp: int = 1,
    sequence_parallel: bool = False,
) -> Estimate:
    """Tables that layers share, such as rotary embedding and masks: kept once for a micro-batch (the torch profile).

    layers   kinds of layers, numbers of `ModelSpec.layer_kinds`, each with its recompute mode
    others   as in `layer_activations`
    """
    case = _Case(
        batch=batch,
        seq_len=seq_len,
        e=dtype_bytes,
        attention=attention,
        tp=tp,
        sequence_parallel=sequence_parallel,
        cp=cp,
        expert_tp=1,
        imbalance=1.0,
        dropout=None,
    )
    kinds = [(spec.layer_kinds[kind][0], mode, 0) for kind, mode in layers]
    parts = _torch(spec, case, kinds, embedding=False, head=False, loss=False)
    found = {name: tuple(t for t in terms if t.times) for name, terms in parts.items()}
    title = f"tables that layers of {spec.name} share"
    return Estimate(title, "bytes", tuple(Part(name, terms) for name, terms in found.items() if terms))


def activations(
    spec: ModelSpec,
    *,
    batch: int = 1,
    seq_len: int,
    precision: str = "bf16",
    attention: str = "flash",
    recompute: str = "none",
    recompute_layers: int = 0,
    loss: bool = True,
    kernels: str = "torch",
    tp: int = 1,
    sequence_parallel: bool = False,
    cp: int = 1,
    expert_tp: int = 1,
    imbalance: float = 1.0,
    dropout: bool | None = None,
    layers: Iterable[int] | None = None,
    embedding: bool = True,
    head: bool = True,
) -> Estimate:
    """Activations that one micro-batch keeps between forward and backward pass on one rank, part by part.

    batch, seq_len      sequences of the micro-batch and tokens of each
    precision           see `llmhw.memory.PRECISIONS`: the whole model runs in the format it computes with. Autocast,
                        which casts operation by operation, keeps other tensors and is not covered
    attention           flash (a fused kernel: PyTorch's SDPA, FlashAttention) or eager (score matrices)
    recompute           none; selective (the attention core runs again: its inputs are kept); full (every layer runs
                        again: its input is kept); block (the first `recompute_layers` layers run again)
    loss                count the loss, too
    kernels             torch: what PyTorch and transformers keep, op by op. megatron: the published formulas for
                        Megatron-LM's fused kernels, with grouped heads, gated feed-forward parts, experts and cp
    tp, cp              tensor- and context-parallel ranks; the logits are split over tp, as in a parallel loss
    sequence_parallel   norms and residuals are split over the tp ranks
    expert_tp           tensor-parallel ranks inside an expert (kernels="megatron")
    imbalance           the busiest expert rank's load over the mean (kernels="megatron")
    dropout             count dropout masks (kernels="megatron"); None: where the family was trained with dropout.
                        The torch profile is without dropout
    layers              numbers of the layers that the rank holds (a pipeline stage); None: all
    embedding, head     whether it holds the embedding; the last norm, the head and the loss

    The torch profile equals what PyTorch's saved-tensor hooks count, byte for byte, on the CPU. On CUDA, LayerNorm
    keeps its two statistics in fp32 and fused attention a few bytes of generator state; where a sliding window needs
    a mask, another kernel runs, which pads it. Not counted: the logits in the model's format, which live as long as
    the caller holds them; temporaries; gradients.
    Raises `LLMHWError` for a family without an op-by-op profile.

    >>> from llmhw import model
    >>> spec = model("llama-3-8b")
    >>> [round(activations(spec, seq_len=4096, recompute=r).total / 2**30, 2) for r in ("none", "selective", "full")]
    [26.6, 26.59, 3.08]
    """
    check_choice("recompute", recompute, RECOMPUTE)
    check_choice("kernels", kernels, KERNELS)
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    case = _Case(
        batch=batch,
        seq_len=seq_len,
        e=PRECISIONS[precision].compute,
        attention=attention,
        tp=tp,
        sequence_parallel=sequence_parallel,
        cp=cp,
        expert_tp=expert_tp,
        imbalance=imbalance,
        dropout=dropout,
    )
    held = list(range(spec.num_layers) if layers is None else layers)
    if any(not 0 <= i < spec.num_layers for i in held):
        raise LLMHWError(f"layers={held} must lie between 0 and {spec.num_layers - 1}")
    if recompute == "block" and not 0 < recompute_layers <= len(held):
        raise LLMHWError(
            f"recompute_layers={recompute_layers} must be between 1 and the {len(held)} layers when recompute='block'"
        )
    counted: dict[int, int] = {}
    modes: dict[int, tuple[Layer, str]] = {}
    for place, number in enumerate(held):
        mode = recompute if recompute != "block" else "full" if place < recompute_layers else "none"
        key = id(spec.layers[number]) * 2 + (mode == "full")
        modes[key] = spec.layers[number], mode
        counted[key] = counted.get(key, 0) + 1
    profile = _megatron if kernels == "megatron" else _torch
    parts = profile(
        spec,
        case,
        [(layer, mode, counted[key]) for key, (layer, mode) in modes.items()],
        embedding=embedding,
        head=head,
        loss=loss,
    )
    return Estimate(
        f"activations of {spec.name}, recompute {recompute}, {kernels} kernels, batch {batch}, {seq_len} tokens",
        "bytes",
        tuple(Part(name, tuple(terms)) for name, terms in parts.items()),
    )
