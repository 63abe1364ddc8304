"""What readers of decoders in the manner of Llama share: the block, its kinds of layers, its experts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llmhw.families.builder import Body, Builder, attention_of, each, outer_of
from llmhw.families.config import Config
from llmhw.model import Attention, Layer, Tensor
from llmhw.units import LLMHWError, shown

FeedForward = Callable[[Builder, int], None]  # adds a layer's feed-forward part; is told whether it has experts


def window_of(c: Config, kind: str) -> tuple[int | None, int | None]:
    """(window, chunk) of a layer of this kind."""
    if kind in ("full_attention", "full"):
        return None, None
    if kind == "sliding_attention":
        return c.count("sliding_window"), None
    if kind == "chunked_attention":
        return None, c.count("attention_chunk_size")
    raise LLMHWError(f"config key layer_types has {shown(kind)}; this family knows full, sliding and chunked attention")


ONE_NORM = {"input_layernorm": "norm_in"}
TWO_NORMS = {**ONE_NORM, "post_attention_layernorm": "norm"}
POST_NORMS = {"post_attention_layernorm": "norm", "post_feedforward_layernorm": "norm_out"}
GLM_NORMS = {**TWO_NORMS, "post_self_attn_layernorm": "norm", "post_mlp_layernorm": "norm_out"}
FOUR_NORMS = {**TWO_NORMS, "pre_feedforward_layernorm": "norm", "post_feedforward_layernorm": "norm_out"}


def head_norms(b: Builder, a: Attention, together: bool = False) -> None:
    """Norms of queries and keys: of each head, or of all heads together."""
    for name, heads in (("q_norm", a.heads), ("k_norm", a.kv_heads)):
        b.norm(f"self_attn.{name}", a.head_dim * (heads if together else 1), name)


def decoder(
    c: Config,
    types: list[str],
    *,
    bias: bool | None = None,
    out_bias: bool | None = None,
    qk_norm: str = "",
    norms: Mapping[str, str] = TWO_NORMS,
    norm_bias: bool = False,
    norm: str | None = "model.norm",
    mlp_bias: bool = False,
    feed_forward: FeedForward | None = None,
    sparse: Iterable[bool] | None = None,
    extra: Callable[[Builder, Attention], None] | None = None,
    attention: Callable[[str], Attention] | None = None,
) -> Body:
    """Llama and everything built like it; the arguments are where the relatives differ.

    bias       of the attention's projections; None: what the config says
    out_bias   of the output projection; None: as the others of attention
    sparse     for each layer, whether it has experts; None: all of them, in a family that has some
    extra      adds what else an attention has
    attention  that of a kind of layer; None: heads of one number and size, and the kind's window or chunk
    """

    qkv_bias = c.flag("attention_bias") if bias is None else bias

    def make(kind: str, is_sparse: bool) -> Layer:
        b = Builder()
        a = attention(kind) if attention else attention_of(c, *window_of(c, kind))
        b.qkvo("self_attn", c.hidden, a, bias=qkv_bias, out_bias=qkv_bias if out_bias is None else out_bias)
        if qk_norm:
            head_norms(b, a, qk_norm == "hidden")
        if extra:
            extra(b, a)
        if feed_forward:
            feed_forward(b, is_sparse)
        else:
            b.gated_mlp("mlp", c.hidden, c.intermediate, bias=mlp_bias)
        b.norms(norms, c.hidden, bias=norm_bias)
        return b.layer(a)

    layers = each(make, types, [True] * c.layers if sparse is None else sparse)
    outer = outer_of(c, "model.embed_tokens", norm, norm_bias=norm_bias)
    return Body(layers, outer, c.get("intermediate_size", default=0))


def all_full(c: Config) -> list[str]:
    return ["full_attention"] * c.layers


def all_sliding(c: Config) -> list[str]:
    """Mistral's rule: one window for every layer, if there is one."""
    return ["sliding_attention" if c.get("sliding_window") else "full_attention"] * c.layers


def _qwen_windows(c: Config) -> list[str]:
    """Qwen's rule: windows only when switched on, from layer max_window_layers upward."""
    on = c.flag("use_sliding_window") and c.get("sliding_window")
    first = c.get("max_window_layers")
    return c.layer_types(lambda i: "sliding_attention" if on and i >= first else "full_attention")


def windows_above(c: Config) -> list[str]:
    """A window from layer max_window_layers upward, where there is one."""
    on, first = c.get("sliding_window"), c.get("max_window_layers")
    return c.layer_types(lambda i: "sliding_attention" if on and i >= first else "full_attention")


def every_nth(c: Config, default: int) -> list[str]:
    """Every n-th layer sees everything, the others a window; `LLLG` is a pattern of kinds, L for a window."""
    pattern = c.get("sliding_window_pattern", "_sliding_window_pattern", default=default)
    kinds = pattern if isinstance(pattern, str) else "L" * (pattern - 1) + "G"
    return c.layer_types(lambda i: "sliding_attention" if kinds[i % len(kinds)] == "L" else "full_attention")


def rotary_layers(c: Config) -> list[int]:
    """For each layer, whether it has a rotary embedding."""
    interval = c.count("no_rope_layer_interval")
    listed = c.get("no_rope_layers")
    return c.listed("no_rope_layers", listed) if listed else [int((i + 1) % interval != 0) for i in range(c.layers)]


def routed(
    c: Config, prefix: str = "mlp", *, inner: str = "intermediate_size", shared: bool = False, **options: Any
) -> FeedForward:
    """Routed experts, and a gated MLP where a layer has none.

    inner     config key of an expert's size
    shared    Qwen's: beside them an expert that is always on, and its gate
    options   as in `Builder.moe`
    """

    def feed_forward(b: Builder, sparse: int) -> None:
        if not sparse:
            return b.gated_mlp("mlp", c.hidden, c.intermediate)
        b.moe(prefix, c, inner=c.count(inner), **options)
        if shared:
            b.gated_mlp("mlp.shared_expert", c.hidden, c.count("shared_expert_intermediate_size"), shared=True)
            b.linear("mlp.shared_expert_gate", "router", 1, c.hidden, shared=True)

    return feed_forward


def plain(c: Config, up: str, down: str, bias: bool) -> FeedForward:
    """Two matrices."""
    return lambda b, _: b.plain_mlp(up, down, c.hidden, c.intermediate, bias=bias)


def qwen_sparse(c: Config) -> list[bool]:
    """For each layer, whether it has experts."""
    step = c.count("decoder_sparse_step", default=1)
    dense = c.get("mlp_only_layers", default=())
    return [i not in dense and (i + 1) % step == 0 for i in range(c.layers)]


def sparse_layers(c: Config, first: int = 0) -> list[bool]:
    """For each layer, whether it has experts: as listed, or from a layer on; `first`: where a config says neither."""
    listed = c.get("mlp_layer_types")
    if listed:
        known = ("dense", "sparse", "moe")
        for kind in listed:
            if kind not in known:
                raise LLMHWError(f"config key mlp_layer_types has {shown(kind)}; known are {', '.join(known)}")
        return [kind != "dense" for kind in c.listed("mlp_layer_types", listed)]
    every = c.get("moe_layer_freq", default=1)
    if not isinstance(every, int):
        return [bool(flag) for flag in c.listed("moe_layer_freq", every)]
    dense = c.count("first_k_dense_replace", "num_dense_layers", default=first, least=0)
    return [i >= dense and i % max(every, 1) == 0 for i in range(c.layers)]


def shared_experts(
    b: Builder,
    c: Config,
    sparse: int,
    *,
    inner: int | None = None,
    shared: int | None = None,
    name: str = "mlp.shared_experts",
    bias: bool = False,
    **options: Any,
) -> None:
    """DeepSeek's feed-forward: dense first layers, then routed experts beside always-on shared ones.

    inner     size of an expert
    shared    size of the always-on ones together, 0 without any; None: so many experts as the config says
    bias      of the dense and of the always-on part
    options   as in `Builder.moe`
    """
    if not sparse:
        return b.gated_mlp("mlp", c.hidden, c.intermediate, bias=bias)
    inner = inner or c.count("moe_intermediate_size")
    b.moe("mlp", c, inner=inner, **options)
    if shared is None:
        shared = inner * c.get("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", default=0)
    if shared:
        b.gated_mlp(name, c.hidden, shared, bias=bias, shared=True)


def mtp_modules(c: Config, blocks: Iterable[Layer]) -> tuple[Tensor, ...]:
    """Multi-token-prediction modules: of each a block, two norms, a 2h-to-h projection and a last norm."""
    b = Builder()
    b.norm("enorm", c.hidden)
    b.norm("hnorm", c.hidden)
    b.linear("eh_proj", "mtp", c.hidden, 2 * c.hidden)
    b.norm("shared_head.norm", c.hidden)
    return tuple(t for block in blocks for t in (*block.tensors, *b.tensors))


def mtp_of(c: Config, block: Layer) -> tuple[Tensor, ...]:
    """As many modules as the config says, with blocks like this one."""
    return mtp_modules(c, [block] * c.get("num_nextn_predict_layers", "num_mtp_layers", default=0))
