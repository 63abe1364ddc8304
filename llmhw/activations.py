"""Activations: what the forward pass must keep for the backward pass, op by op.

Two profiles. `kernels="torch"` is what plain PyTorch and transformers keep: we walk through the operations of a
block in the order in which transformers runs them and note what each one saves, every tensor once. Tests hold the
result against PyTorch's own saved-tensor hooks, byte for byte. `kernels="megatron"` are the published formulas for
Megatron-LM's fused kernels (Korthikanti et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from llmhw.formula import Estimate, Part, Term, formula, term
from llmhw.memory import PRECISIONS, checkpointed_activation_bytes, transformer_layer_activation_bytes
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
    """One storage: rows of `width` elements, or score matrices if `keys` is set. A view is the same object."""

    label: str
    width: int
    bytes: int
    batch: int
    seq_len: int
    keys: int = 0
    grad: bool = True
    shared: bool = False

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
        return x if x.bytes == size else replace(x, bytes=size, shared=False, label="")

    def like(self, x: _Tensor, size: int | None = None) -> _Tensor:
        """The fresh result of an operation that saves nothing (a sum, a product with a number)."""
        return replace(x, bytes=size or x.bytes, shared=False, label="")

    def linear(self, part: str, label: str, x: _Tensor, width: int) -> _Tensor:
        """x W: saves its input (and the weight, which is no activation)."""
        self.keep(part, label, x)
        return replace(x, width=width, bytes=self.e, label="")

    def mul(self, part: str, labels: tuple[str, str], a: _Tensor, b: _Tensor) -> _Tensor:
        """a b: each side needs the other for its gradient."""
        if b.grad:
            self.keep(part, labels[0], a)
        if a.grad:
            self.keep(part, labels[1], b)
        return self.like(a, max(a.bytes, b.bytes))


# -- norms ------------------------------------------------------------------------------------


def _norm(t: _Tape, kind: str, x: _Tensor, part: str = "norms", vectors: int = 1) -> _Tensor:
    """A normalization layer, as transformers computes it.

    kind      rms          Llama's: in fp32, back to the model's format, times the weight
              rms-late     OLMo 2's: times the weight in fp32, then back
              rms-plus-1   Gemma's: times (1 + weight) in fp32, then back
              layer        PyTorch's LayerNorm
              layer-fp32   OLMo's LayerNorm in fp32, without weights
              cohere       Cohere's LayerNorm, written out in fp32
    vectors   vectors that are normalized in one row: 1, or the heads when each head is
    """
    if kind in ("layer", "layer-fp32"):
        x = t.cast(x, 4) if kind == "layer-fp32" else x
        t.keep(part, "input of LayerNorm", x)
        t.keep(part, "mean", replace(x, width=vectors, label=""))
        t.keep(part, "1 / standard deviation", replace(x, width=vectors, label=""))
        return t.like(x, t.e)
    x = t.cast(x, 4)
    scale = replace(x, width=vectors, label="")
    if kind == "cohere":
        centred = t.like(x)
        t.keep(part, "centred input in fp32", centred)
        x = centred
    t.keep(part, "input in fp32", x)
    t.keep(part, "1 / root mean square", scale)
    normed = t.like(x)
    if kind == "rms":
        normed = t.cast(normed, t.e)
        t.keep(part, "normalized, before the weight", normed)
        return t.like(normed, t.e)
    t.keep(part, "normalized, before the weight", normed)
    if kind != "rms-late":
        weight = "1 + weight in fp32" if kind == "rms-plus-1" else "weight in fp32"
        if kind == "rms-plus-1" or t.e != 4:
            t.keep(part, weight, _Tensor("", x.width // vectors, 4, 1, 1))
    return t.like(normed, t.e)


# -- activation functions ---------------------------------------------------------------------


def _activate(t: _Tape, kind: str, x: _Tensor, part: str = "activation function") -> _Tensor:
    """An activation function.

    silu, gelu   one kernel that saves its input (gelu: exact, or gelu_pytorch_tanh)
    gelu_new     written out in Python: x, tanh, and the two factors
    relu         saves its result
    relu2        ReLU, then its square
    """
    if kind in ("silu", "gelu"):
        t.keep(part, f"input of {kind}", x)
        return t.like(x)
    if kind == "gelu_new":
        t.keep(part, "input of gelu", x)
        t.keep(part, "tanh", t.like(x))
        return t.mul(part, ("half the input", "1 + tanh"), t.like(x), t.like(x))
    if kind == "relu":
        y = t.like(x)
        t.keep(part, "result of relu", y)
        return y
    if kind == "relu2":
        y = t.like(x)
        t.keep(part, "result of relu", y)
        return t.like(y)
    raise LLMHWError(f"hidden_act={kind!r} is not known to the torch profile; use kernels='megatron'")


# -- attention --------------------------------------------------------------------------------


def _rotate(t: _Tape, s: _Style, q: _Tensor, k: _Tensor) -> tuple[_Tensor, _Tensor]:
    """Rotary embedding: x cos + rotate_half(x) sin. The tables are saved once for all layers."""
    if not s.rotary:
        return q, k
    size = 4 if s.rotary_fp32 else t.e
    for name in ("cos", "sin"):
        table = t.table(f"{name} table", s.rotary, size)
        if s.rotary_own:
            # the family repeats the tables' entries anew in every layer
            table = replace(table, shared=False, label="")
        t.keep("rotary", f"{name} table", table)
    return t.like(q, t.e), t.like(k, t.e)


def _core(t: _Tape, s: _Style, a: Attention, q: _Tensor, k: _Tensor, v: _Tensor) -> _Tensor:
    """Scores, softmax and the product with the values."""
    part = "attention"
    windowed = a.window is not None and t.seq_len >= a.window
    mask = _mask(t, a, windowed)
    out = t.new(a.heads * a.v_head_dim)

    def run() -> None:
        groups = a.heads // a.kv_heads
        if t.flash:
            keys, values = k, v
            if windowed:
                # a mask rules the kernel's own grouping out: keys and values are copied for every query head
                keys, values = _repeat(t, a, k), _repeat(t, a, v)
                t.keep(part, "mask, in the model's format", t.new(1, keys=t.seq_len))
            t.keep(part, "queries", q)
            t.keep(part, "keys", keys)
            t.keep(part, "values", values)
            t.keep(part, "log of the softmax sums", t.new(a.heads, 4))
            t.keep(part, "output of the attention core", out)
            return
        keys, values = (_repeat(t, a, k), _repeat(t, a, v)) if groups > 1 else (k, v)
        t.keep(part, "queries", _batched(t, a, q))
        t.keep(part, "keys", _batched(t, a, keys))
        scores = t.new(a.heads, keys=t.seq_len)
        if s.softcap:
            t.keep(part, "tanh of the capped scores", t.like(scores))
        softmax = t.like(scores, 4)
        t.keep(part, "probabilities in fp32", softmax)
        t.keep(part, "probabilities", t.cast(softmax, t.e))
        t.keep(part, "values", _batched(t, a, values))

    if not t.selective:
        run()
        return out
    inputs = [q, k, v, *([mask] if mask else []), *([_positions(t)] if s.positions_in_attention else [])]
    with t.recomputed(part, "inputs of the recomputed core", *inputs):
        run()
    return out


def _batched(t: _Tape, a: Attention, x: _Tensor) -> _Tensor:
    """What a batched matrix product saves: a view where the strides allow one, else a copy."""
    wide = x.width // (a.heads * a.head_dim) > 1
    return t.new(a.heads * a.head_dim) if wide and t.batch > 1 and a.heads > 1 else x


def _repeat(t: _Tape, a: Attention, x: _Tensor) -> _Tensor:
    """transformers' repeat_kv: a copy of keys or values for every query head; one KV head is only viewed."""
    if a.heads == a.kv_heads or (a.kv_heads == 1 and (t.flash or t.batch == 1)):
        return x
    return t.new(a.heads * a.head_dim)


def _mask(t: _Tape, a: Attention, windowed: bool) -> _Tensor | None:
    """The mask that the model makes once and hands to its layers; SDPA needs none without a window."""
    if t.flash:
        return t.table("window mask", 1, 1, keys=t.seq_len) if windowed else None
    return t.table("window mask" if windowed else "causal mask", 1, t.e, batch=t.batch, keys=t.seq_len)


def _positions(t: _Tape) -> _Tensor:
    return t.table("position ids", 1, 8)


# -- blocks -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Style:
    """How transformers computes a family's blocks; a table of these is all that tells the families apart.

    block        pre: norm, attention, sum, norm, feed-forward, sum (Llama)
                 sandwich: a norm before and after each (Gemma 2)
                 post: norms behind (OLMo 2)
                 parallel: attention and feed-forward of the same input (GPT-NeoX); parallel-one: of one norm (Phi)
    norm         see `_norm`
    qkv          separate, or fused: one matrix, whose result lives on while a view of it is saved
    gate_up      the gate and up projections are one matrix
    activation   see `_activate`
    rotary       width of the rotary tables; 0 for learned positions
    rotary_fp32  the tables stay in fp32
    rotary_own   every layer repeats the tables' entries anew
    softcap      tanh on the attention scores
    sdpa         transformers runs the family with PyTorch's SDPA
    positions_in_attention   position ids reach the attention function, which a recomputed core then keeps
    """

    block: str = "pre"
    norm: str = "rms"
    qkv: str = "separate"
    activation: str = "silu"
    rotary: int = 0
    rotary_fp32: bool = False
    rotary_own: bool = False
    rotary_share: float = 1.0
    softcap: bool = False
    head_softcap: bool = False
    sdpa: bool = True
    positions_in_attention: bool = True
    positions_in_layer: bool = True
    learned_positions: bool = False


STYLES: Mapping[str, _Style] = {
    "llama": _Style(),
}


def _shape(layer: Layer, *names: str) -> tuple[int, ...] | None:
    for tensor in layer.tensors:
        if tensor.name in names:
            return tensor.shape
    return None


def _attention(t: _Tape, s: _Style, layer: Layer, x: _Tensor) -> _Tensor:
    a = layer.attention
    assert a is not None
    q_width, k_width, v_width = a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.v_head_dim
    if s.qkv == "fused":
        q = k = v = t.linear("qkv", "input of the qkv projection", x, q_width + k_width + v_width)
    else:
        label = "input of the q, k and v projections"
        q, k, v = (t.linear("qkv", label, x, width) for width in (q_width, k_width, v_width))
    q, k = _rotate(t, s, q, k)
    out = _core(t, s, a, q, k, v)
    return t.linear("output projection", "input of the output projection", out, x.width)


def _mlp(t: _Tape, s: _Style, layer: Layer, x: _Tensor) -> _Tensor:
    gate = _shape(layer, "mlp.gate_proj.weight")
    assert gate is not None
    g = t.linear("mlp", "input of the gate and up projections", x, gate[0])
    activated = _activate(t, s.activation, g)
    up = t.linear("mlp", "input of the gate and up projections", x, gate[0])
    product = t.mul("mlp", ("activated gate", "up"), activated, up)
    return t.linear("mlp", "input of the down projection", product, x.width)


def _block(t: _Tape, s: _Style, layer: Layer, x: _Tensor) -> _Tensor:
    h = _attention(t, s, layer, _norm(t, s.norm, x))
    x = t.like(x)
    h = _mlp(t, s, layer, _norm(t, s.norm, x))
    return t.like(x)


# -- estimates --------------------------------------------------------------------------------


def _style(spec: ModelSpec) -> _Style:
    if spec.model_type not in STYLES:
        raise LLMHWError(
            f"model_type={spec.model_type!r} has no op-by-op profile; use kernels='megatron' for the published "
            f"formulas, or one of {', '.join(sorted(STYLES))}"
        )
    style = STYLES[spec.model_type]
    return replace(style, rotary=spec.head_dim)


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
    inputs = [x]
    if style.rotary:
        size = 4 if style.rotary_fp32 else t.e
        inputs += [t.table(f"{name} table", style.rotary, size) for name in ("cos", "sin")]
    mask = _mask(t, a, a.window is not None and t.seq_len >= a.window)
    if mask:
        inputs.append(mask)
    if style.positions_in_layer:
        inputs.append(_positions(t))
    with t.recomputed("layer inputs", "input of a recomputed layer", *inputs):
        pass


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
    ids = outer.new(1, 8)
    outer.keep("embedding", "token ids", ids)
    add(_parts(outer.kept))
    for layer, count in spec.layer_kinds:
        t = _tape(style, spec, batch, seq_len, e, attention, recompute)
        t.tables = tables
        _run_layer(spec, style, layer, t, recompute)
        shared |= {tensor: where for tensor, where in t.kept.items() if tensor.shared}
        add(_parts({tensor: where for tensor, where in t.kept.items() if not tensor.shared}, count))
    add(_parts(shared))
    end = _tape(style, spec, batch, seq_len, e, attention, "none")
    x = _norm(end, style.norm, end.new(spec.hidden), "final norm")
    logits = end.linear("head", "input of the head", x, spec.vocab_size)
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
