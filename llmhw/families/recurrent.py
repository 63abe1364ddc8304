"""State-space models, convolutions and other recurrences, alone and beside softmax attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmhw.families.builder import Body, Builder, attention_of, each, outer_of
from llmhw.families.config import Config
from llmhw.families.decoder import ONE_NORM, TWO_NORMS, routed
from llmhw.families.family import Family, family
from llmhw.model import Attention, Layer, LinearAttention
from llmhw.units import LLMHWError, ceil_div, shown

CHUNKS = "linear attention runs in chunks in transformers; the prediction is its recurrent form"
_PADDED = "transformers' convolution computes its padding, too; the prediction is that of the tokens"
SCAN = "transformers adds to the state and lets it decay element by element, which torch does not count"

# Spellings of the kinds of layers, as transformers maps them: older configs have those on the left.
_KINDS = {
    "mamba": "linear_attention",
    "attention": "full_attention",
    "recurrent": "linear_attention",
    "indexed_attention": "full_attention",
    "qwen_sparse_attention": "full_attention",
}


def conv(b: Builder, name: str, channels: int, kernel: int, *, bias: bool = False) -> None:
    """A depthwise causal convolution."""
    b.plain(f"{name}.weight", "conv", (channels, 1, kernel))
    if bias:
        b.plain(f"{name}.bias", "conv", (channels,))


def kinds_of(c: Config, otherwise: Callable[[int], str], *known: str) -> list[str]:
    """The kind of every layer, from the config's list if it has one; `known` are those of the family."""
    listed = c.get("layers_block_type", "layer_types")
    types = [otherwise(i) for i in range(c.layers)] if listed is None else c.listed("layer_types", listed)
    types = [_KINDS.get(kind, kind) for kind in types]
    for kind in types:
        if kind not in known:
            raise LLMHWError(f"config key layer_types has {shown(kind)}; {c.model_type} knows {', '.join(known)}")
    return types


def _auto(c: Config, key: str, otherwise: int) -> int:
    """A size that may be left to its rule, as "auto"."""
    return otherwise if c.get(key, default="auto") == "auto" else c.count(key)


def divided(c: Config, inner: int, key: str) -> int:
    """Size of each of the heads that `key` counts."""
    if inner % c.count(key):
        raise LLMHWError(f"config key {key}={c.count(key)} does not divide the {inner} channels of Mamba")
    return inner // c.count(key)


# -- mixers -----------------------------------------------------------------------------------


def mamba2(
    b: Builder,
    prefix: str,
    hidden: int,
    *,
    heads: int,
    head_dim: int,
    state: int,
    groups: int,
    kernel: int,
    conv_bias: bool,
    bias: bool = False,
    out_bias: bool | None = None,
    norm: bool = True,
) -> LinearAttention:
    """Mamba-2 (Dao and Gu 2024): a state of state x head_dim for each head."""
    inner = heads * head_dim
    channels = inner + 2 * groups * state
    for name in ("dt_bias", "A_log", "D"):
        b.plain(f"{prefix}.{name}", "heads", (heads,))
    conv(b, f"{prefix}.conv1d", channels, kernel, bias=conv_bias)
    b.linear(f"{prefix}.in_proj", "in_proj", inner + channels + heads, hidden, bias=bias)
    if norm:
        b.norm(f"{prefix}.norm", inner, "inner_norm")
    b.linear(f"{prefix}.out_proj", "o", hidden, inner, bias=bias if out_bias is None else out_bias)
    return LinearAttention("mamba-2", heads, state, head_dim, channels, kernel)


def mamba1(
    b: Builder, prefix: str, hidden: int, *, inner: int, state: int, rank: int, kernel: int, conv_bias: bool, bias: bool
) -> LinearAttention:
    """Mamba (Gu and Dao 2023): a state of so many numbers for each channel."""
    b.plain(f"{prefix}.A_log", "heads", (inner, state))
    b.plain(f"{prefix}.D", "heads", (inner,))
    conv(b, f"{prefix}.conv1d", inner, kernel, bias=conv_bias)
    b.linear(f"{prefix}.in_proj", "in_proj", 2 * inner, hidden, bias=bias)
    b.linear(f"{prefix}.x_proj", "x_proj", rank + 2 * state, inner)
    b.linear(f"{prefix}.dt_proj", "in_proj", inner, rank, bias=True)
    b.linear(f"{prefix}.out_proj", "o", hidden, inner, bias=bias)
    return LinearAttention("mamba", inner, state, 1, inner, kernel)


def _short_conv(b: Builder, prefix: str, c: Config) -> LinearAttention:
    """LFM2's gated short convolution."""
    kernel, bias = c.count("conv_L_cache"), c.flag("conv_bias")
    conv(b, f"{prefix}.conv", c.hidden, kernel, bias=bias)
    b.linear(f"{prefix}.in_proj", "in_proj", 3 * c.hidden, c.hidden, bias=bias)
    b.linear(f"{prefix}.out_proj", "o", c.hidden, c.hidden, bias=bias)
    return LinearAttention("short convolution", conv_channels=c.hidden, conv_kernel=kernel)


# -- Mamba alone ------------------------------------------------------------------------------


def rank_of(c: Config, key: str) -> int:
    return _auto(c, key, ceil_div(c.hidden, 16))


def _mamba(c: Config) -> Body:
    """Mamba and Falcon Mamba: layers of Mamba and nothing else."""
    b = Builder()
    b.norm("norm", c.hidden, "norm_in")
    inner = c.count("expand") * c.hidden
    sizes: dict[str, Any] = {"inner": inner, "state": c.count("state_size"), "rank": rank_of(c, "time_step_rank")}
    facts: dict[str, Any] = {"conv_bias": c.flag("use_conv_bias"), "bias": c.flag("use_bias")}
    linear = mamba1(b, "mixer", c.hidden, **sizes, kernel=c.count("conv_kernel"), **facts)
    return Body([b.layer(linear=linear)] * c.layers, outer_of(c, "backbone.embeddings", "backbone.norm_f"), inner)


def _mamba2(c: Config) -> Body:
    b = Builder()
    b.norm("norm", c.hidden, "norm_in")
    heads, head_dim, expand = c.count("num_heads"), c.count("head_dim"), c.count("expand")
    if heads * head_dim != expand * c.hidden:
        raise LLMHWError(
            f"config keys num_heads={heads} times head_dim={head_dim} must be expand={expand} times hidden_size"
        )
    linear = mamba2(
        b, "mixer", c.hidden, heads=heads, head_dim=head_dim, state=c.count("state_size"), groups=c.count("n_groups"),
        kernel=c.count("conv_kernel"), conv_bias=c.flag("use_conv_bias"), bias=c.flag("use_bias"),
    )  # fmt: skip
    outer = outer_of(c, "backbone.embeddings", "backbone.norm_f")
    return Body([b.layer(linear=linear)] * c.layers, outer, expand * c.hidden)


# -- Mamba and attention ----------------------------------------------------------------------


def _mamba2_of(b: Builder, c: Config, **facts: Any) -> LinearAttention:
    """Mamba-2 by the keys that Bamba, Granite 4 and Falcon-H1 share."""
    inner = c.get("mamba_d_ssm") or c.count("mamba_expand") * c.hidden
    head_dim = _auto(c, "mamba_d_head", divided(c, inner, "mamba_n_heads"))
    heads = c.count("mamba_n_heads")
    if heads * head_dim != inner:
        raise LLMHWError(f"config keys mamba_n_heads={heads} times mamba_d_head={head_dim} must be {inner} channels")
    return mamba2(
        b, "mamba", c.hidden, heads=heads, head_dim=head_dim, state=c.count("mamba_d_state"),
        groups=c.count("mamba_n_groups"), kernel=c.count("mamba_d_conv"), conv_bias=c.flag("mamba_conv_bias"),
        bias=c.flag("mamba_proj_bias"), **facts,
    )  # fmt: skip


_PRE_FF = {**ONE_NORM, "pre_ff_layernorm": "norm"}


def _mixer(b: Builder, c: Config, kind: str) -> tuple[Attention | None, LinearAttention | None]:
    """What mixes the tokens of a layer: attention or Mamba-2."""
    if kind != "full_attention":
        return None, _mamba2_of(b, c)
    a, bias = attention_of(c), c.flag("attention_bias")
    b.qkvo("self_attn", c.hidden, a, bias=bias, out_bias=bias)
    return a, None


def _bamba(c: Config) -> Body:
    chosen = c.get("attn_layer_indices", default=())
    types = kinds_of(c, lambda i: "full_attention" if i in chosen else "linear_attention", *_KINDS.values())

    def make(kind: str) -> Layer:
        b = Builder()
        a, linear = _mixer(b, c, kind)
        b.gated_mlp("feed_forward", c.hidden, c.intermediate, bias=c.flag("mlp_bias"))
        b.norms(_PRE_FF, c.hidden)
        return b.layer(a, linear)

    return Body(each(make, types), outer_of(c, "model.embed_tokens", "model.final_layernorm"), c.intermediate)


def _falcon_h1(c: Config) -> Body:
    """Attention and Mamba-2 side by side in every layer."""
    b, a, bias = Builder(), attention_of(c), c.flag("attention_bias")
    linear = _mamba2_of(b, c, out_bias=c.flag("projectors_bias"), norm=c.flag("mamba_rms_norm"))
    b.qkvo("self_attn", c.hidden, a, bias=bias, out_bias=bias)
    b.gated_mlp("feed_forward", c.hidden, c.intermediate, bias=c.flag("mlp_bias"))
    b.norms(_PRE_FF, c.hidden)
    outer = outer_of(c, "model.embed_tokens", "model.final_layernorm")
    return Body([b.layer(a, linear)] * c.layers, outer, c.intermediate)


def _granitemoehybrid(c: Config) -> Body:
    """Granite 4: Mamba-2 or attention, then a shared MLP beside experts, if there are any."""
    types = kinds_of(c, lambda _: "linear_attention", *_KINDS.values())
    inner = c.count("shared_intermediate_size")
    experts = routed(c, "block_sparse_moe", router="router") if c.count("num_local_experts", least=0) else None

    def make(kind: str) -> Layer:
        b = Builder()
        a, linear = _mixer(b, c, kind)
        if experts:
            experts(b, True)
        b.linear("shared_mlp.input_linear", "gate_up", 2 * inner, c.hidden, shared=experts is not None)
        b.linear("shared_mlp.output_linear", "down", c.hidden, inner, shared=experts is not None)
        b.norms(TWO_NORMS, c.hidden)
        return b.layer(a, linear)

    return Body(each(make, types), outer_of(c, "model.embed_tokens", "model.norm"), inner)


def _every(c: Config, what: str) -> list[bool]:
    """Jamba's rule: one layer of each period."""
    period, offset = c.count(f"{what}_layer_period"), c.count(f"{what}_layer_offset", least=0)
    if offset >= period:
        raise LLMHWError(f"config key {what}_layer_offset={offset} must be less than {what}_layer_period={period}")
    return [i % period == offset for i in range(c.layers)]


def _jamba(c: Config) -> Body:
    sizes: dict[str, Any] = {"inner": c.count("mamba_expand") * c.hidden, "state": c.count("mamba_d_state")}
    rank, kernel, many = rank_of(c, "mamba_dt_rank"), c.count("mamba_d_conv"), c.count("num_experts") > 1
    facts: dict[str, Any] = {"conv_bias": c.flag("mamba_conv_bias"), "bias": c.flag("mamba_proj_bias")}

    def make(attends: bool, sparse: bool) -> Layer:
        b, a, linear = Builder(), None, None
        if attends:
            a = attention_of(c)
            b.qkvo("self_attn", c.hidden, a)
        else:
            linear = mamba1(b, "mamba", c.hidden, **sizes, rank=rank, kernel=kernel, **facts)
            for name, size in (("dt", rank), ("b", sizes["state"]), ("c", sizes["state"])):
                b.norm(f"mamba.{name}_layernorm", size, "inner_norm")
        if sparse and many:
            b.moe("feed_forward", c, inner=c.intermediate, router="router")
        else:
            b.gated_mlp("feed_forward", c.hidden, c.intermediate)
        b.norms(_PRE_FF, c.hidden)
        return b.layer(a, linear)

    layers = each(make, _every(c, "attn"), _every(c, "expert"))
    return Body(layers, outer_of(c, "model.embed_tokens", "model.final_layernorm"), c.intermediate)


# -- short convolutions -----------------------------------------------------------------------


def _lfm2_inner(c: Config) -> int:
    """Size of the feed-forward part: two thirds of the stated one, rounded up, where that is asked for."""
    inner = c.count("block_ff_dim", "intermediate_size")
    if not c.flag("block_auto_adjust_ff_dim"):
        return inner
    inner, times, step = 2 * inner // 3, c.get("block_ffn_dim_multiplier"), c.count("block_multiple_of")
    return inner if times is None else ceil_div(int(times * inner), step) * step


def _swiglu(b: Builder, inner: int, hidden: int) -> None:
    """The three matrices in Meta's names."""
    b.linear("feed_forward.w1", "gate", inner, hidden)
    b.linear("feed_forward.w3", "up", inner, hidden)
    b.linear("feed_forward.w2", "down", hidden, inner)


def _lfm2(c: Config) -> Body:
    """LFM2, dense and with experts, and LFM3: gated short convolutions, and attention in some layers."""
    third, sparse = c.model_type == "lfm3", c.model_type == "lfm2_moe"
    inner = _lfm2_inner(c) if c.model_type == "lfm2" else c.intermediate
    first = c.count("num_dense_layers", least=0) if sparse else c.layers
    listed = c.get("full_attn_idxs", default=range(c.layers))
    otherwise = _lfm3_kind if third else lambda i: "full_attention" if i in listed else "conv"
    types = kinds_of(c, otherwise, "conv", "full_attention", "sliding_attention")
    out_name, norm = ("o_proj", "norm") if third else ("out_proj", "layernorm")
    norms = {"operator_norm": "norm_in", "ffn_norm": "norm"}
    if third and c.flag("use_sandwich_norm"):
        norms |= {"post_operator_norm": "norm", "post_ffn_norm": "norm_out"}
    bias = third and c.flag("attention_bias")

    def make(kind: str, dense: bool) -> Layer:
        b, a, linear = Builder(), None, None
        if kind == "conv":
            linear = _short_conv(b, "conv", c)
        else:
            a = attention_of(c, c.count("sliding_window") if kind == "sliding_attention" else None)
            b.qkvo("self_attn", c.hidden, a, bias=bias, out_bias=bias, out_name=out_name)
            b.norm(f"self_attn.q_{norm}", a.head_dim, "q_norm")
            b.norm(f"self_attn.k_{norm}", a.head_dim, "k_norm")
            if third and c.flag("use_attention_gate"):
                b.linear("self_attn.g_proj", "in_proj", a.heads, c.hidden)
        if dense:
            _swiglu(b, inner, c.hidden)
        else:
            b.moe("feed_forward", c, inner=c.count("moe_intermediate_size"))
        b.norms(norms, c.hidden)
        return b.layer(a, linear)

    layers = each(make, types, (i < first for i in range(c.layers)))
    return Body(layers, outer_of(c, "model.embed_tokens", "model.embedding_norm"), inner)


def _lfm3_kind(i: int) -> str:
    return {2: "full_attention", 0: "sliding_attention"}.get(i % 4, "conv") if i else "conv"


# -- Griffin, RWKV, xLSTM ---------------------------------------------------------------------


def _recurrent_gemma(c: Config) -> Body:
    """Griffin: two layers of RG-LRU to one of sliding attention."""
    pattern = c.get("block_types")
    if not pattern or set(pattern) - {"recurrent", "attention"}:
        raise LLMHWError(f"config key block_types={shown(pattern)} must be made of 'recurrent' and 'attention'")
    width, kernel, heads = c.count("lru_width", default=c.hidden), c.count("conv1d_width"), c.heads
    inner, block = c.intermediate // 2, width // heads
    a = attention_of(c, window=c.count("attention_window_size"))

    def make(kind: str) -> Layer:
        b, name = Builder(), "temporal_block"
        b.norms({"temporal_pre_norm": "norm_in", "channel_pre_norm": "norm"}, c.hidden)
        b.gated_mlp("mlp_block", c.hidden, inner, bias=True)
        if kind == "attention":
            b.qkvo(name, c.hidden, a, bias=c.flag("attention_bias"), out_bias=True)
            return b.layer(a)
        b.linear(f"{name}.linear_y", "in_proj", width, c.hidden, bias=True)
        b.linear(f"{name}.linear_x", "in_proj", width, c.hidden, bias=True)
        b.linear(f"{name}.linear_out", "o", c.hidden, width, bias=True)
        conv(b, f"{name}.conv_1d", width, kernel, bias=True)
        b.plain(f"{name}.rg_lru.recurrent_param", "heads", (width,))
        for gate in ("input_gate", "recurrent_gate"):  # block-diagonal
            b.plain(f"{name}.rg_lru.{gate}_weight", "in_proj", (heads, block, block), matmul=True)
            b.plain(f"{name}.rg_lru.{gate}_bias", "heads", (heads, block))
        # a number for each channel: nothing is multiplied with another's
        return b.layer(linear=LinearAttention("rg-lru", width, 1, 1, width, kernel, 0, kernel - 1))

    types = [pattern[i % len(pattern)] for i in range(c.layers)]
    return Body(each(make, types), outer_of(c, "model.embed_tokens", "model.final_norm"), inner)


def _rwkv(c: Config) -> Body:
    """RWKV 4: of every channel a weighted sum of the past and its weights, and the last inputs of both parts."""
    width = c.count("attention_hidden_size", default=c.hidden)
    inner = c.count("intermediate_size", default=4 * c.hidden)
    if width != c.hidden:
        raise LLMHWError(f"config key attention_hidden_size={width} must be hidden_size={c.hidden}")
    linear = LinearAttention("rwkv", width, products=0, wide=2 * width, narrow=2 * c.hidden)

    def make(first: bool) -> Layer:
        b = Builder()
        b.norms({**({"pre_ln": "norm"} if first else {}), "ln1": "norm_in", "ln2": "norm"}, c.hidden, bias=True)
        for name in ("decay", "first"):
            b.plain(f"attention.time_{name}", "heads", (width,))
        for name in ("key", "value", "receptance"):
            b.plain(f"attention.time_mix_{name}", "mix", (1, 1, c.hidden))
            b.linear(f"attention.{name}", "in_proj", width, c.hidden)
        b.linear("attention.output", "o", c.hidden, width)
        for name in ("key", "receptance"):
            b.plain(f"feed_forward.time_mix_{name}", "latent", (1, 1, c.hidden))
        b.linear("feed_forward.key", "up", inner, c.hidden)
        b.linear("feed_forward.receptance", "latent", c.hidden, c.hidden)
        b.linear("feed_forward.value", "down", c.hidden, inner)
        return b.layer(linear=linear)

    outer = outer_of(c, "rwkv.embeddings", "rwkv.ln_out", norm_bias=True)
    return Body(each(make, [i == 0 for i in range(c.layers)]), outer, inner, head="head")


def _rwkv7(c: Config) -> Body:
    """RWKV 7: a state for each head, of which a direction is taken out before the next key and value go in."""
    if c.get("attn") is not None or (c.get("value_dim") or c.hidden) not in (c.hidden, [c.hidden] * c.layers):
        raise LLMHWError("config keys attn and value_dim of rwkv7 are not covered; no published model has them")
    head_dim, inner = c.count("head_dim", "head_size"), c.count("intermediate_size", default=4 * c.hidden)
    if c.hidden % head_dim:
        raise LLMHWError(f"config key head_dim={head_dim} does not divide hidden_size={c.hidden}")
    heads, norm_bias = c.hidden // head_dim, c.flag("norm_bias")
    names = {"w": "decay_low_rank_dim", "a": "a_low_rank_dim", "v": "v_low_rank_dim", "g": "gate_low_rank_dim"}
    ranks = {name: c.count(key) for name, key in names.items()}
    # the state is read, changed twice and queried
    linear = LinearAttention("rwkv-7", heads, head_dim, head_dim, products=4, narrow=2 * c.hidden)

    def make(first: bool) -> Layer:
        b = Builder()
        b.norms({**({"pre_norm": "norm"} if first else {}), "attn_norm": "norm_in"}, c.hidden, bias=norm_bias)
        b.norm("ffn_norm", c.hidden, bias=norm_bias)
        for name in "rwkvag":
            b.plain(f"attn.x_{name}", "mix", (1, 1, c.hidden))
        for name in ("k_k", "k_a"):
            b.plain(f"attn.{name}", "heads", (c.hidden,))
        b.plain("attn.r_k", "heads", (heads, head_dim))
        for name in "rkv":
            b.linear(f"attn.{name}_proj", "in_proj", c.hidden, c.hidden)
        for name, rank in ranks.items():
            if name != "v" or not first:  # the first layer's values are those that the others are mixed with
                b.linear(f"attn.{name}_lora.lora.0", "q_a", rank, c.hidden)
                b.linear(f"attn.{name}_lora.lora.2", "q_b", c.hidden, rank, bias=name != "g")
        b.norm("attn.g_norm", c.hidden, "inner_norm", bias=True)
        b.linear("attn.o_proj", "o", c.hidden, c.hidden)
        b.plain("ffn.x_k", "latent", (c.hidden,))
        b.plain_mlp("ffn.key", "ffn.value", c.hidden, inner)
        return b.layer(linear=linear)

    outer = outer_of(c, "model.embeddings", "model.norm", norm_bias=norm_bias)
    return Body(each(make, [i == 0 for i in range(c.layers)]), outer, inner)


def _xlstm(c: Config) -> Body:
    """xLSTM 7B: matrix memories (mLSTM), each with a normalizer and the largest gate so far."""
    heads, bias = c.count("num_heads"), c.flag("use_bias")
    qk, v = int(c.hidden * c.get("qk_dim_factor")), int(c.hidden * c.get("v_dim_factor"))
    scaled, step = c.hidden * c.get("ffn_proj_factor"), c.count("ffn_round_up_to_multiple_of")
    inner = int(-(-scaled // step) * step)
    fused, b = c.get("weight_mode") == "fused", Builder()
    if qk % heads or v % heads:
        raise LLMHWError(f"config key num_heads={heads} does not divide the sizes of keys, {qk}, and of values, {v}")
    b.norms({"norm_mlstm": "norm_in", "norm_ffn": "norm"}, c.hidden, bias=bias)
    b.norm("mlstm_layer.multihead_norm", v, "inner_norm", bias=bias)
    if fused:
        b.linear("mlstm_layer.qkv_opreact", "in_proj", 2 * qk + 2 * v, c.hidden, bias=bias)
        b.linear("mlstm_layer.ifgate_preact", "in_proj", 2 * heads, c.hidden, bias=True)
        b.linear("ffn.proj_up_gate_z", "gate_up", 2 * inner, c.hidden, bias=bias)
    else:
        for name, out in (("q", qk), ("k", qk), ("v", v), ("ogate_preact", v)):
            b.linear(f"mlstm_layer.{name}", "in_proj", out, c.hidden, bias=bias)
        for name in ("igate_preact", "fgate_preact"):
            b.linear(f"mlstm_layer.{name}", "in_proj", heads, c.hidden, bias=True)
        b.linear("ffn.proj_up_gate", "gate", inner, c.hidden, bias=bias)
        b.linear("ffn.proj_up", "up", inner, c.hidden, bias=bias)
    b.linear("mlstm_layer.out_proj", "o", c.hidden, v, bias=bias)
    b.linear("ffn.proj_down", "down", c.hidden, inner, bias=bias)
    linear = LinearAttention("mlstm", heads, qk // heads, v // heads, narrow=qk + heads, fp32=False)
    outer = outer_of(c, "backbone.embeddings", "backbone.out_norm")
    return Body([b.layer(linear=linear)] * c.layers, outer, inner, ties=False)


# fmt: off
_MAMBA = {"rotary": 0, "arithmetic": SCAN, "expand": 2, "state_size": 16, "conv_kernel": 4, "use_conv_bias": True,
    "tie_word_embeddings": True}
_HYBRID = {"arithmetic": CHUNKS, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
    "mamba_n_heads": 128, "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_expand": 2,
    "mamba_conv_bias": True}
_LFM = {"num_key_value_heads": 8, "num_attention_heads": 32, "conv_L_cache": 3, "tie_word_embeddings": True,
    "max_position_embeddings": 128_000}

TABLE: dict[str, Family] = {
    "lfm2": family(_lfm2, "LFM2", block_auto_adjust_ff_dim=True, block_ffn_dim_multiplier=1.0, block_multiple_of=256,
        intermediate_size=12288, **_LFM),
    "lfm2_moe": family(_lfm2, "LFM2 MoE", num_dense_layers=2, num_experts=32, num_experts_per_tok=4,
        intermediate_size=7168, moe_intermediate_size=1792, **_LFM),
    "lfm3": family(_lfm2, "LFM3", **{**_LFM, "head_dim": 128, "num_attention_heads": 16, "num_key_value_heads": 4,
        "conv_L_cache": 7, "sliding_window": 256, "use_sandwich_norm": True, "use_attention_gate": True,
        "intermediate_size": 7680}),
    "granitemoehybrid": family(_granitemoehybrid, "Granite 4", max_position_embeddings=2048, num_local_experts=8,
        num_experts_per_tok=2, shared_intermediate_size=1024, **{**_HYBRID, "num_key_value_heads": None,
        "intermediate_size": 11008}),
    "bamba": family(_bamba, "Bamba", rotary=0.5, max_position_embeddings=262144, **_HYBRID),
    "falcon_h1": family(_falcon_h1, "Falcon-H1", max_position_embeddings=8192, mamba_d_ssm=1024, **_HYBRID),
    "jamba": family(_jamba, "Jamba", rotary=0, arithmetic=SCAN, num_attention_heads=32, num_key_value_heads=8,
        intermediate_size=14336, max_position_embeddings=262144, num_experts_per_tok=2, num_experts=16,
        expert_layer_period=2, expert_layer_offset=1, attn_layer_period=8, attn_layer_offset=4, mamba_d_state=16,
        mamba_d_conv=4, mamba_expand=2, mamba_conv_bias=True),
    "mamba": family(_mamba, "Mamba", **_MAMBA),
    "falcon_mamba": family(_mamba, "Falcon Mamba", **_MAMBA),
    "mamba2": family(_mamba2, "Mamba-2", rotary=0, arithmetic=CHUNKS, num_heads=128, head_dim=64, state_size=128,
        expand=2, conv_kernel=4, n_groups=8, use_conv_bias=True),
    "recurrent_gemma": family(_recurrent_gemma, "RecurrentGemma", rotary=0.5, num_attention_heads=10,
        intermediate_size=7680, attention_window_size=2048, conv1d_width=4,
        block_types=("recurrent", "recurrent", "attention"), tie_word_embeddings=True),
    "rwkv": family(_rwkv, "RWKV 4", rotary=0, context_length=1024),
    "xlstm": family(_xlstm, "xLSTM", rotary=0, arithmetic=CHUNKS, num_heads=8, qk_dim_factor=0.5, v_dim_factor=1.0,
        ffn_proj_factor=2.667, ffn_round_up_to_multiple_of=64, weight_mode="single"),
}

REFUSED = {
    "hrm_text": "it runs two stacks of layers in turn, several times for a token",
}

# Their code lies on the Hub.
REMOTE: dict[str, Family] = {
    "rwkv7": family(_rwkv7, "RWKV 7", rotary=0, head_dim=64, norm_bias=True),
}
# fmt: on
