"""Activations: what the forward pass must keep for the backward pass, op by op.

Two profiles. `kernels="torch"` is what plain PyTorch and transformers keep: we walk through the operations of a
block in the order in which transformers runs them and note what each one saves, every tensor once. Tests hold the
result against PyTorch's own saved-tensor hooks, byte for byte. `kernels="megatron"` are the published formulas for
Megatron-LM's fused kernels (Korthikanti et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from llmhw.formula import Estimate, Part, Term, formula, term
from llmhw.memory import PRECISIONS
from llmhw.model import Attention, Layer, ModelSpec
from llmhw.units import LLMHWError, check_choice, check_count, unknown_name

RECOMPUTE = ("none", "selective", "full", "block")
ATTENTION = ("flash", "eager")
KERNELS = ("torch", "megatron")


# -- formulas ---------------------------------------------------------------------------------


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
    """

    batch: int
    seq_len: int
    e: int
    flash: bool
    selective: bool = False
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


def _rotate(t: _Tape, s: _Style, a: Attention, q: _Tensor, k: _Tensor) -> tuple[_Tensor, _Tensor]:
    """Rotary embedding: x cos + rotate_half(x) sin. The tables are saved once for all layers."""
    if not s.rotary:
        return q, k
    for table in _rotary_tables(t, s, a):
        # some families repeat the tables' entries anew in every layer
        t.keep("rotary", table.label, replace(table, shared=False) if s.rotary_own else table)
    if s.query_scale:
        t.keep("rotary", "scale of each position", _Tensor("", 1, t.e, 1, t.seq_len))
    return t.new(a.heads * a.head_dim), t.new(a.kv_heads * a.head_dim)


def _rotary_tables(t: _Tape, s: _Style, a: Attention) -> list[_Tensor]:
    width = int(a.head_dim * s.rotary)
    which = f" of {a.kind} layers" if s.rotary_by_kind else ""
    return [t.table(f"{name} table{which}", width, 4 if s.rotary_fp32 else t.e) for name in ("cos", "sin")]


def _core(t: _Tape, s: _Style, a: Attention, q: _Tensor, k: _Tensor, v: _Tensor) -> _Tensor:
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
        t.keep(part, "queries", _batched(t, a, q))
        t.keep(part, "keys", _batched(t, a, _repeat(t, a, k)))
        scores = t.new(a.heads, keys=t.seq_len)
        if s.softcap:
            t.keep(part, "tanh of the capped scores", t.like(scores))
        softmax = t.like(scores, 4 if s.softmax_fp32 else t.e)
        probabilities = t.cast(softmax, t.e)
        if softmax is not probabilities:
            t.keep(part, "probabilities in fp32", softmax)
        t.keep(part, "probabilities", probabilities)
        t.keep(part, "values", _batched(t, a, _repeat(t, a, v)))

    if not t.selective:
        run()
        return copies[-1]
    inputs = [q, k, v, *_masks(t, a), *([_positions(t, s)] if s.positions == "attention" else [])]
    with t.recomputed(part, "inputs of the recomputed core", *inputs):
        run()
    return out


def _batched(t: _Tape, a: Attention, x: _Tensor) -> _Tensor:
    """What a batched matrix product saves: a copy, or a view where the strides allow one."""
    return x if t.batch == 1 or a.heads == 1 else t.new(a.heads * a.head_dim)


def _repeat(t: _Tape, a: Attention, x: _Tensor) -> _Tensor:
    """transformers' repeat_kv: a copy of keys or values for every query head; a single KV head is only viewed."""
    return x if a.heads == a.kv_heads or a.kv_heads == 1 else t.new(a.heads * a.head_dim)


def _masks(t: _Tape, a: Attention) -> list[_Tensor]:
    """The mask that the model makes once and hands to its layers; SDPA needs one for a window only."""
    if not t.flash:
        name = "causal mask" if a.window is None else "window mask"
        return [t.table(name, 1, t.e, batch=t.batch, keys=t.seq_len)]
    if a.window is not None and t.seq_len >= a.window:
        return [t.table("window mask", 1, 1, keys=t.seq_len)]
    return []


def _positions(t: _Tape, s: _Style) -> _Tensor:
    return t.table("position ids", 1, 8, batch=t.batch if s.learned == "sequence" else 1)


# -- blocks -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Style:
    """How transformers computes a family's blocks; what is not here is read from the tensors.

    block        pre: norm, attention, sum, norm, feed-forward, sum (Llama)
                 sandwich: a norm before and after each (Gemma 2)
                 post: norms behind (OLMo 2)
                 behind: norms behind the sums (the first OPT models)
                 parallel: attention and feed-forward of the same input (GPT-NeoX)
    norm         see `_norm`
    activation   default of hidden_act
    rotary       share of the head size that the rotary embedding turns; 0 for learned positions
    rotary_fp32  the tables stay in fp32
    rotary_own   every layer repeats the tables' entries anew
    rotary_by_kind   sliding layers have tables of their own
    rotary_cat   turned and plain parts of the queries are joined, also where the plain part is empty
    query_scale  queries are multiplied by a number for each position (Llama 4, Ministral 3)
    softcap      tanh on the attention scores
    logit_softcap   tanh on the logits
    softmax_fp32 eager attention takes the softmax in fp32
    sdpa         transformers runs the family with PyTorch's SDPA
    positions    how far position ids are handed down, where a recomputed part keeps them: attention, layer or none
    router       weights in fp32 (Mixtral) or cast to the model's format
    norm_topk    the chosen experts' weights are divided by their sum
    learned      rows of learned positions that the embedding looks up: one for the batch, or one a sequence
    """

    block: str = "pre"
    norm: str = "rms"
    activation: str = "silu"
    rotary: float = 1
    rotary_fp32: bool = False
    rotary_own: bool = False
    rotary_by_kind: bool = False
    rotary_cat: bool = False
    query_scale: bool = False
    softcap: bool = False
    logit_softcap: bool = False
    softmax_fp32: bool = True
    sdpa: bool = True
    positions: str = "attention"
    learned: str = ""
    router: str = ""
    norm_topk: bool = False


STYLES: Mapping[str, _Style] = {
    "cohere": _Style(block="parallel", norm="cohere"),
    "cohere2": _Style(block="parallel", norm="cohere"),
    "exaone4": _Style(block="post"),
    "ernie4_5": _Style(rotary_fp32=True, rotary_own=True),
    "gemma": _Style(norm="rms-plus-1", activation="gelu_pytorch_tanh"),
    "gemma2": _Style(
        block="sandwich",
        norm="rms-plus-1",
        activation="gelu_pytorch_tanh",
        softcap=True,
        logit_softcap=True,
        sdpa=False,
    ),
    "gemma3_text": _Style(block="sandwich", norm="rms-plus-1", activation="gelu_pytorch_tanh", rotary_by_kind=True),
    "glm": _Style(rotary=0.5, rotary_own=True, rotary_cat=True),
    "glm4": _Style(block="sandwich", rotary=0.5, rotary_own=True, rotary_cat=True),
    "gpt2": _Style(norm="layer", activation="gelu_new", rotary=0, softmax_fp32=False, learned="batch"),
    "gpt_neox": _Style(block="parallel", norm="layer", activation="gelu", rotary=0.25, rotary_cat=True),
    "granite": _Style(),
    "llama": _Style(),
    "ministral3": _Style(query_scale=True),
    "mistral": _Style(),
    "mixtral": _Style(router="fp32", norm_topk=True),
    "nemotron": _Style(norm="layer-plus-1", activation="relu2", rotary=0.5, rotary_cat=True),
    "olmo": _Style(norm="layer-fp32", rotary_fp32=True),
    "olmo2": _Style(block="post", norm="rms-late", rotary_fp32=True),
    "olmo3": _Style(block="post", norm="rms-late", rotary_fp32=True, rotary_by_kind=True),
    "opt": _Style(norm="layer", activation="relu", rotary=0, learned="sequence"),
    "phi": _Style(block="parallel", norm="layer", activation="gelu_new", rotary=0.5, rotary_cat=True),
    "phi3": _Style(rotary_cat=True),
    "qwen2": _Style(),
    "qwen3": _Style(),
    "qwen3_moe": _Style(),
    "seed_oss": _Style(),
    "smollm3": _Style(),
    "stablelm": _Style(norm="layer", rotary=0.25, rotary_cat=True),
    "starcoder2": _Style(norm="layer", activation="gelu_pytorch_tanh"),
}


def _shape(layer: Layer, *ends: str) -> tuple[int, ...] | None:
    """Shape of the layer's first tensor whose name has one of these endings."""
    for tensor in layer.tensors:
        if tensor.name.endswith(ends):
            return tensor.shape
    return None


def _attention(t: _Tape, s: _Style, layer: Layer, x: _Tensor) -> _Tensor:
    a = layer.attention
    assert a is not None
    widths = (a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.v_head_dim)
    if _shape(layer, "qkv_proj.weight", "c_attn.weight", "query_key_value.weight"):
        # queries, keys and values are views of one result, which lives as long as one of them
        q = k = v = t.linear("qkv", "input of the qkv projection", x, sum(widths))
    else:
        q, k, v = (t.linear("qkv", "input of the q, k and v projections", x, width) for width in widths)
    for name, width in (("q", a.heads), ("k", a.kv_heads)):
        weight = _shape(layer, f"self_attn.{name}_norm.weight", f"self_attn.{name}_layernorm.weight")
        if weight:
            vectors, elements = (width if weight[-1] == a.head_dim else 1), math.prod(weight)
            normed = _norm(t, s.norm, q if name == "q" else k, "qk norms", vectors, elements)
            q, k = (normed, k) if name == "q" else (q, normed)
    q, k = _rotate(t, s, a, q, k)
    out = _core(t, s, a, q, k, v)
    return t.linear("output projection", "input of the output projection", out, x.width)


def _mlp(t: _Tape, s: _Style, layer: Layer, x: _Tensor) -> _Tensor:
    """The feed-forward part: gated, plain, or experts; which one, the tensors say."""
    if _shape(layer, "experts.gate_up_proj"):
        return _experts(t, s, layer, x)
    gate, both = _shape(layer, "mlp.gate_proj.weight"), _shape(layer, "mlp.gate_up_proj.weight")
    if gate:
        g = t.linear("mlp", "input of the gate and up projections", x, gate[0])
        activated = _activate(t, s.activation, g)
        up = t.linear("mlp", "input of the gate and up projections", x, gate[0])
    elif both:
        g = up = t.linear("mlp", "input of the gate and up projection", x, both[0])
        g.halved = True
        activated = _activate(t, s.activation, g)
    else:
        inner = next(n.numel // x.width for n in layer.tensors if n.component == "mlp" and n.matmul)
        h = t.linear("mlp", "input of the first projection", x, inner)
        return t.linear("mlp", "input of the second projection", _activate(t, s.activation, h), x.width)
    product = t.mul("mlp", ("activated gate", "up"), activated, up)
    product.width = activated.width
    return t.linear("mlp", "input of the down projection", product, x.width)


def _experts(t: _Tape, s: _Style, layer: Layer, x: _Tensor) -> _Tensor:
    """Routed experts, as transformers runs them with grouped matrix products: no token is dropped."""
    experts = next(n for n in layer.tensors if n.name.endswith("experts.gate_up_proj"))
    count, used, inner = experts.experts, experts.used, experts.shape[1] // 2
    part = "routing"
    logits = t.linear(part, "input of the router", x, count)
    t.keep(part, "routing probabilities in fp32", t.cast(logits, 4) if logits.bytes != 4 else t.like(logits))
    t.keep(part, "chosen experts", t.new(used, 8))
    weights = t.new(used, 4)
    if s.norm_topk:
        t.keep(part, "sum of the chosen probabilities", t.new(1, 4))
        t.keep(part, "weights of the chosen experts", weights)
    if s.router != "fp32":
        weights = t.cast(weights, t.e)
    for label in ("token of each row", "order of the rows", "order back"):
        t.keep(part, label, t.new(used, 8))
    t.keep(part, "end of each expert's rows", _Tensor("", count, 4, 1, 1))
    rows = t.new(x.width * used)
    both = t.linear("experts", "rows of the experts", rows, 2 * inner * used)
    both.halved = True
    activated = _activate(t, s.activation, both, "experts")
    product = t.mul("experts", ("activated gate", "gate and up"), activated, both)
    product.width = activated.width
    out = t.linear("experts", "input of the down projection", product, x.width * used)
    t.keep("experts", "weight of each row", t.like(weights))
    t.keep("experts", "output of the experts", out)
    return t.like(x)


def _block(t: _Tape, s: _Style, layer: Layer, x: _Tensor) -> None:
    """One block; sums save nothing, so only what feeds them is followed."""
    if s.block == "parallel":
        h = _norm(t, s.norm, x)
        _attention(t, s, layer, h)
        two = _shape(layer, "post_attention_layernorm.weight")
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


# -- estimates --------------------------------------------------------------------------------


def _style(spec: ModelSpec) -> _Style:
    """The family's style, with what this model's own config changes about it."""
    if spec.model_type not in STYLES:
        raise LLMHWError(
            f"model_type={spec.model_type!r} has no op-by-op profile; use kernels='megatron' for the published "
            f"formulas, or a model of one of {', '.join(sorted(STYLES))}"
        )
    style = STYLES[spec.model_type]
    config: Mapping[str, Any] = getattr(spec, "config", None) or {}
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    changes: dict[str, Any] = {}
    for key in ("hidden_activation", "hidden_act", "activation_function"):
        if config.get(key):
            changes["activation"] = config[key]
            break
    for share in (rope.get("partial_rotary_factor"), config.get("partial_rotary_factor"), config.get("rotary_pct")):
        if share and style.rotary:
            changes["rotary"] = share
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


def _run_layer(spec: ModelSpec, style: _Style, layer: Layer, t: _Tape, recompute: str) -> None:
    """One layer on a tape that has seen none of its tensors; what all layers share stays on the tape."""
    x = t.new(spec.hidden)
    if recompute != "full":
        _block(t, style, layer, x)
        return
    a = layer.attention
    assert a is not None
    tables = [*_masks(t, a), *(_rotary_tables(t, style, a) if style.rotary else [])]
    if style.positions != "none":
        tables.append(_positions(t, style))
    t.keep("layer inputs", "input of a recomputed layer", x, *tables)


def layer_activations(
    spec: ModelSpec,
    layer: int | Layer,
    *,
    batch: int = 1,
    seq_len: int,
    dtype_bytes: int = 2,
    attention: str = "flash",
    recompute: str = "none",
) -> Estimate:
    """Activations that one block keeps in plain PyTorch and transformers, op by op.

    layer          a layer of the spec, or its number
    dtype_bytes    bytes of an element of the model's number format: 2, or 4 for fp32
    attention      flash (PyTorch's SDPA) or eager
    recompute      none, selective (the attention core) or full (the whole block)

    Tables that all layers share (rotary embedding, masks) are not in here; `activations` counts them once.
    """
    style = _style(spec)
    block = spec.layers[layer] if isinstance(layer, int) else layer
    t = _tape(style, spec, batch, seq_len, dtype_bytes, attention, recompute)
    _run_layer(spec, style, block, t, recompute)
    own = {tensor: where for tensor, where in t.kept.items() if not tensor.shared}
    return Estimate(
        f"activations of one layer of {spec.name}, batch {batch}, {seq_len} tokens",
        "bytes",
        tuple(Part(name, tuple(terms)) for name, terms in _parts(own).items()),
    )


def _tape(style: _Style, spec: ModelSpec, batch: int, seq_len: int, e: int, attention: str, recompute: str) -> _Tape:
    batch, seq_len = check_count("batch", batch), check_count("seq_len", seq_len)
    check_choice("attention", attention, ATTENTION)
    check_choice("recompute", recompute, RECOMPUTE)
    if attention == "flash" and not style.sdpa:
        raise LLMHWError(
            f"attention='flash': transformers does not run model_type={spec.model_type!r} with SDPA; use 'eager'"
        )
    return _Tape(batch, seq_len, e, attention == "flash", selective=recompute == "selective")


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
) -> Estimate:
    """Activations of a whole model on one device, part by part."""
    style = _style(spec)
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    e = PRECISIONS[precision].weights
    parts: dict[str, list[Term]] = {}
    tables: dict[str, _Tensor] = {}
    shared: dict[_Tensor, tuple[str, str]] = {}

    def add(more: Mapping[str, list[Term]]) -> None:
        for name, terms in more.items():
            parts.setdefault(name, []).extend(terms)

    outer = _tape(style, spec, batch, seq_len, e, attention, "none")
    outer.tables = tables
    ids = outer.new(1, 8)
    width = spec.head_shape[1]
    outer.keep("embedding", "token ids", ids)
    if style.learned == "batch":
        shared[_positions(outer, style)] = ("embedding", "position ids")
    elif style.learned:
        outer.keep("embedding", "position ids, with their offset", outer.new(1, 8))
    if width != spec.hidden:
        outer.linear("embedding", "input of the projection in", outer.new(width), spec.hidden)
    add(_parts(outer.kept))
    for layer, count in spec.layer_kinds:
        t = _tape(style, spec, batch, seq_len, e, attention, recompute)
        t.tables = tables
        _run_layer(spec, style, layer, t, recompute)
        shared = {tensor: where for tensor, where in t.kept.items() if tensor.shared} | shared
        add(_parts({tensor: where for tensor, where in t.kept.items() if not tensor.shared}, count))
    add(_parts(shared))
    end = _tape(style, spec, batch, seq_len, e, attention, "none")
    x = end.new(spec.hidden)
    if style.block != "behind":
        x = _norm(end, style.norm, x, "final norm")
    if width != spec.hidden:
        x = end.linear("head", "input of the projection out", x, width)
    logits = end.linear("head", "input of the head", x, spec.vocab_size)
    if style.logit_softcap:
        end.keep("head", "tanh of the capped logits", end.like(logits))
        logits = end.like(logits)
    if loss:
        logits = end.cast(logits, 4)
        end.keep("loss", "log-probabilities in fp32", end.like(logits))
        # shifted by one; the slice of a single padded sequence is contiguous and stays a view of it
        end.keep("loss", "labels", end.new(1, 8, rows=end.seq_len + (end.batch == 1)))
        end.keep("loss", "weight of all labels", _Tensor("", 1, 4, 1, 1))
    add(_parts(end.kept))
    return Estimate(
        f"activations of {spec.name}, recompute {recompute}, batch {batch}, {seq_len} tokens",
        "bytes",
        tuple(Part(name, tuple(terms)) for name, terms in parts.items()),
    )
