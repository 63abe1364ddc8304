"""Hybrids of softmax attention with lightning attention or Mamba, in blocks unlike Llama's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from llmhw.families.builder import Body, Builder, attention_of, each, outer_of
from llmhw.families.config import Config
from llmhw.families.decoder import TWO_NORMS, mtp_of, routed
from llmhw.families.family import Family, family
from llmhw.families.recurrent import CHUNKS, SCAN, conv, divided, kinds_of, mamba2, rank_of
from llmhw.model import Attention, Layer, LinearAttention, Tensor
from llmhw.units import LLMHWError, shown

# -- lightning attention ----------------------------------------------------------------------


def _minimax(c: Config) -> Body:
    """MiniMax Text-01 and M1: lightning attention, every so many layers softmax attention; experts everywhere."""
    if c.get("shared_intermediate_size"):
        raise LLMHWError(
            f"config key shared_intermediate_size={c.get('shared_intermediate_size')} of {c.model_type} is not covered"
        )
    listed = c.get("attn_type_list")
    if listed is not None:
        listed = c.listed("attn_type_list", listed)
        if set(listed) - {0, 1}:
            raise LLMHWError("config key attn_type_list must be made of 0, lightning attention, and 1, full attention")

    def otherwise(i: int) -> str:
        return "full_attention" if (listed[i] if listed else (i + 1) % 2) else "linear_attention"

    types, experts = kinds_of(c, otherwise, "linear_attention", "full_attention"), routed(c)

    def make(kind: str) -> Layer:
        b, a, linear = Builder(), attention_of(c), None
        if kind == "full_attention":
            b.qkvo("self_attn", c.hidden, a)
        else:
            inner = a.heads * a.head_dim
            b.norm("self_attn.norm", inner, "inner_norm")
            b.linear("self_attn.qkv_proj", "in_proj", 3 * inner, c.hidden)
            b.linear("self_attn.output_gate", "in_proj", inner, c.hidden)
            b.linear("self_attn.out_proj", "o", c.hidden, inner)
            linear = LinearAttention("lightning", a.heads, a.head_dim, a.head_dim, fp32=False)
        experts(b, True)
        b.norms(TWO_NORMS, c.hidden)
        return b.layer(None if linear else a, linear)

    return Body(each(make, types), outer_of(c, "model.embed_tokens", "model.norm"), c.intermediate)


def _ring_linear(c: Config) -> Body:
    """Ring linear 2: lightning attention, but softmax attention at each group's end and behind the last whole group."""
    group, norms, bias = c.count("layer_group_size"), c.flag("use_qk_norm"), c.flag("use_bias")
    whole, first = c.layers // group * group, c.count("first_k_dense_replace", least=0)
    inner, width = c.count("moe_intermediate_size"), c.count("moe_shared_expert_intermediate_size", default=0, least=0)

    def make(full: bool, sparse: bool) -> Layer:
        b, a, linear = Builder(), attention_of(c), None
        wide, kv = a.heads * a.head_dim, (a.kv_heads if full else a.heads) * a.head_dim
        b.linear("attention.query_key_value", "qkv" if full else "in_proj", wide + 2 * kv, c.hidden, bias=bias)
        b.linear("attention.dense", "o", c.hidden, wide, bias=bias)
        if norms:
            b.norm("attention.query_layernorm", a.head_dim, "q_norm")
            b.norm("attention.key_layernorm", a.head_dim, "k_norm")
        if not full:
            b.linear("attention.g_proj", "in_proj", wide, c.hidden)
            b.norm("attention.g_norm", wide, "inner_norm")
            linear = LinearAttention("lightning", a.heads, a.head_dim, a.head_dim)
        if sparse:
            b.moe("mlp", c, inner=inner)
            shared = (width or inner) * c.count("num_shared_experts", least=0)
            if shared:
                b.gated_mlp("mlp.shared_experts", c.hidden, shared, shared=True)
        else:
            b.gated_mlp("mlp", c.hidden, c.intermediate)
        b.norms(TWO_NORMS, c.hidden)
        return b.layer(None if linear else a, linear)

    full = [(i + 1) % group == 0 or i >= whole for i in range(c.layers)]
    layers = each(make, full, [i >= first for i in range(c.layers)])
    mtp = mtp_of(c, make(True, True))
    return Body(layers, outer_of(c, "model.word_embeddings", "model.norm"), c.intermediate, mtp=mtp)


# -- Nemotron-H -------------------------------------------------------------------------------

_NEMOTRON_LETTERS = {"M": "linear_attention", "*": "full_attention", "E": "moe", "-": "mlp"}


def _nemotron_kinds(c: Config, pattern_key: str, *list_keys: str) -> list[str]:
    """Kinds of blocks, from a list or from a pattern of letters."""
    types = c.get(*list_keys, default=[])
    if not types:
        pattern = c.get(pattern_key, default="")
        if not pattern or set(pattern) - set(_NEMOTRON_LETTERS):
            raise LLMHWError(
                f"config key {pattern_key}={shown(pattern)} must be made of {', '.join(_NEMOTRON_LETTERS)}"
            )
        types = [_NEMOTRON_LETTERS[letter] for letter in pattern]
    known = {"mamba": "linear_attention", "attention": "full_attention"}
    types = [known.get(kind, kind) for kind in types]
    for kind in types:
        if kind not in _NEMOTRON_LETTERS.values():
            raise LLMHWError(
                f"config key {list_keys[0]} has {shown(kind)}; known are {', '.join(_NEMOTRON_LETTERS.values())}"
            )
    return types


def _nemotron_block(c: Config, kind: str) -> Layer:
    """A block of one mixer."""

    def plain_mlp(b: Builder, prefix: str, size: int, *, shared: bool = False) -> None:
        names = f"{prefix}.up_proj", f"{prefix}.down_proj"
        b.plain_mlp(*names, c.hidden, size, bias=c.flag("mlp_bias"), shared=shared)

    b = Builder()
    b.norm("norm", c.hidden, "norm_in")
    if kind == "linear_attention":
        linear = mamba2(
            b, "mixer", c.hidden, heads=c.count("mamba_num_heads"), head_dim=c.count("mamba_head_dim"),
            state=c.count("ssm_state_size"), groups=c.count("n_groups", "mamba_n_groups"),
            kernel=c.count("conv_kernel", "mamba_d_conv"), conv_bias=c.flag("use_conv_bias"), bias=c.flag("use_bias"),
        )  # fmt: skip
        return b.layer(linear=linear)
    if kind == "full_attention":
        a = attention_of(c)
        b.qkvo("mixer", c.hidden, a)
        return b.layer(a)
    if kind == "mlp":
        plain_mlp(b, "mixer", c.intermediate)
        return b.layer()
    count, used = c.count("n_routed_experts"), c.count("num_experts_per_tok")
    width, size = c.count("moe_latent_size", default=c.hidden), c.count("moe_intermediate_size")
    sizes = {"up": (size, width), "down": (width, size)}
    b.experts("mixer.experts", count, used, sizes, bias=False, swapped=False)
    b.linear("mixer.gate", "router", count, c.hidden)
    plain_mlp(b, "mixer.shared_experts", c.count("moe_shared_expert_intermediate_size"), shared=True)
    if width != c.hidden:
        b.linear("mixer.fc1_latent_proj", "latent", width, c.hidden, bias=c.flag("mlp_bias"))
        b.linear("mixer.fc2_latent_proj", "latent", c.hidden, width, bias=c.flag("mlp_bias"))
    return b.layer()


def _nemotron_h(c: Config) -> Body:
    """Nemotron-H and Nemotron 3: blocks of one mixer each - Mamba-2, softmax attention, MLP or experts."""
    types = _nemotron_kinds(c, "hybrid_override_pattern", "layers_block_type", "layer_types")
    layers = each(lambda kind: _nemotron_block(c, kind), types)
    outer = outer_of(c, "model.embeddings", "model.norm_f")
    return Body(layers, outer, c.intermediate, mtp=_nemotron_mtp(c), ties=False)


def _nemotron_mtp(c: Config) -> tuple[Tensor, ...]:
    """Modules of several blocks each; before them two norms and a projection, behind them a norm."""
    count: int = c.get("num_nextn_predict_layers", default=0)
    if not count:
        return ()
    kinds = _nemotron_kinds(c, "mtp_hybrid_override_pattern", "mtp_layers_block_type")
    b = Builder()
    b.norms(dict.fromkeys(("enorm", "hnorm", "final_layernorm"), "norm"), c.hidden)
    b.linear("eh_proj", "mtp", c.hidden, 2 * c.hidden)
    return (*b.tensors, *(t for kind in kinds for t in _nemotron_block(c, kind).tensors)) * count


# -- Zamba: one block of attention that several layers share ------------------------------------


def _zamba_mamba(b: Builder, prefix: str, c: Config) -> LinearAttention:
    """Mamba in heads, each with its own projections of the time step, B and C."""
    inner, state = c.count("mamba_expand") * c.hidden, c.count("mamba_d_state")
    rank, heads, bias = rank_of(c, "mamba_dt_rank"), c.count("n_mamba_heads"), c.flag("mamba_proj_bias")
    head_dim, kernel = divided(c, inner, "n_mamba_heads"), c.count("mamba_d_conv")
    b.plain(f"{prefix}.x_proj_weight", "in_proj", (heads, rank + 2 * state, head_dim), matmul=True)
    b.plain(f"{prefix}.dt_proj_weight", "in_proj", (heads, head_dim, rank), matmul=True)
    b.plain(f"{prefix}.dt_proj_bias", "heads", (heads, head_dim))
    b.plain(f"{prefix}.A_log", "heads", (heads, head_dim, state))
    b.plain(f"{prefix}.D", "heads", (heads, head_dim))
    conv(b, f"{prefix}.conv1d", inner, kernel, bias=c.flag("mamba_conv_bias"))
    b.linear(f"{prefix}.in_proj", "in_proj", 2 * inner, c.hidden, bias=bias)
    b.linear(f"{prefix}.out_proj", "o", c.hidden, inner, bias=bias)
    return LinearAttention("mamba", inner, state, 1, inner, kernel)


def _zamba2_mamba(b: Builder, prefix: str, c: Config) -> LinearAttention:
    inner = c.count("mamba_expand") * c.hidden
    return mamba2(
        b, prefix, c.hidden, heads=c.count("n_mamba_heads"), head_dim=divided(c, inner, "n_mamba_heads"),
        state=c.count("mamba_d_state"), groups=c.count("mamba_ngroups"), kernel=c.count("mamba_d_conv"),
        conv_bias=True, bias=c.flag("add_bias_linear"),
    )  # fmt: skip


def _zamba_block(c: Config, uses: Iterable[int]) -> tuple[Attention, tuple[Tensor, ...]]:
    """A shared block, which sees the embedding beside its input.

    uses   which of the hybrid layers run it: each has its own low-rank adapters, held by the block
    """
    new, prefix, wide = c.model_type == "zamba2", "shared_transf", 2 * c.hidden
    inner = c.count("intermediate_size", default=4 * c.hidden)
    size = c.count("attention_head_dim", default=_of(wide, c.heads))
    a, b = Attention(c.heads, c.kv_heads, size, size), Builder()
    if new:
        prefix, bias, rank = "shared_transformer", c.flag("add_bias_linear"), c.count("adapter_rank")
        b.linear(f"{prefix}.feed_forward.gate_up_proj", "gate_up", 2 * inner, c.hidden, bias=bias)
        b.linear(f"{prefix}.feed_forward.down_proj", "down", c.hidden, inner, bias=bias)
        for use in uses:
            for part, width, out in (
                ("q", wide, wide),
                ("k", wide, wide),
                ("v", wide, wide),
                ("", c.hidden, 2 * inner),
            ):
                if part and not c.flag("use_shared_attention_adapter"):
                    continue
                name = f"self_attn.linear_{part}_adapter_list" if part else "feed_forward.gate_up_proj_adapter_list"
                b.linear(f"{prefix}.{name}.{use}.0", "adapter_a" if part else "latent", rank, width)
                b.linear(f"{prefix}.{name}.{use}.1", "q_b" if part else "adapter_b", out, rank)
    else:
        b.gated_mlp(f"{prefix}.feed_forward", c.hidden, inner)
    for name, heads in (("q", a.heads), ("k", a.kv_heads), ("v", a.kv_heads)):
        b.linear(f"{prefix}.self_attn.{name}_proj", name, heads * size, wide)
    b.linear(f"{prefix}.self_attn.o_proj", "o", c.hidden, c.heads * size)
    b.norm(f"{prefix}.input_layernorm", wide, "norm_in")
    b.norm(f"{prefix}.pre_ff_layernorm", c.hidden)
    return a, tuple(b.tensors)


def _of(wide: int, heads: int) -> int:
    if wide % heads:
        raise LLMHWError(f"heads={heads} does not divide twice the hidden_size, {wide}")
    return wide // heads


def _for_use(tensors: tuple[Tensor, ...], use: int) -> tuple[Tensor, ...]:
    """The tensors of a shared block; of its adapters only those of this use are computed with."""

    def used(t: Tensor) -> int:
        return int("_adapter_list." not in t.name or f"_adapter_list.{use}." in t.name)

    return tuple(replace(t, used=used(t)) for t in tensors)


def _zamba(c: Config) -> Body:
    """Zamba and Zamba2: Mamba everywhere, and in hybrid layers before it a block that all of them share, in turn."""
    new = c.model_type == "zamba2"
    types = kinds_of(c, _zamba2_kind if new else _zamba_kind(c), "linear_attention", "hybrid")
    mixer, count = (_zamba2_mamba, c.count("num_mem_blocks")) if new else (_zamba_mamba, 1)
    hybrids = [i for i, kind in enumerate(types) if kind == "hybrid"]
    count = min(count, len(hybrids)) if hybrids else 1
    blocks = [_zamba_block(c, range(n, len(hybrids), count)) for n in range(count)]

    def make(kind: str, use: int) -> Layer:
        b = Builder()
        prefix = "mamba_decoder." if kind == "hybrid" else ""
        linear = mixer(b, f"{prefix}mamba", c)
        b.norm(f"{prefix}input_layernorm", c.hidden, "norm_in" if kind != "hybrid" else "norm")
        if kind != "hybrid":
            return b.layer(linear=linear)
        b.linear("linear", "mix", c.hidden, c.hidden)
        a, shared = blocks[use % count]
        shared = _for_use(shared, use)
        if use < count:
            b.tensors += shared
            return b.layer(a, linear)
        return replace(b.layer(a, linear), borrowed=tuple(t for t in shared if t.used))

    uses = [hybrids.index(i) if kind == "hybrid" else 0 for i, kind in enumerate(types)]
    inner = c.count("intermediate_size", default=4 * c.hidden)
    return Body(each(make, types, uses), outer_of(c, "model.embed_tokens", "model.final_layernorm"), inner)


def _zamba_kind(c: Config) -> Callable[[int], str]:
    period, offset = c.count("attn_layer_period"), c.count("attn_layer_offset", least=0)
    return lambda i: "hybrid" if i == 2 or (i > 2 and (i - 3) % period == offset) else "linear_attention"


def _zamba2_kind(i: int) -> str:
    return "hybrid" if i in (6, 12, 18, 24, 30, 36, 42, 47, 51) else "linear_attention"


# -- ZAYA -------------------------------------------------------------------------------------


def _cca(b: Builder, c: Config, a: Attention) -> LinearAttention:
    """Compressed convolutional attention: queries and keys of the last tokens mixed, half of the values delayed."""
    keys, bias, name = a.kv_heads * a.head_dim, c.flag("attention_bias"), "self_attn.qkv_proj"
    channels, first, second = a.heads * a.head_dim + keys, c.count("cca_time0"), c.count("cca_time1")
    b.linear("self_attn.o_proj", "o", c.hidden, a.heads * a.head_dim, bias=bias)
    b.linear(f"{name}.q_proj", "in_proj", a.heads * a.head_dim, c.hidden, bias=bias)
    b.linear(f"{name}.k_proj", "in_proj", keys, c.hidden, bias=bias)
    for half in ("current", "delayed"):
        b.linear(f"{name}.v_proj_{half}", "in_proj", keys // 2, c.hidden, bias=bias)
    for kind, inputs, kernel in (("depthwise", 1, first), ("grouped", a.head_dim, second)):
        b.plain(f"{name}.conv_qk_{kind}.weight", "conv", (channels, inputs, kernel))
        b.plain(f"{name}.conv_qk_{kind}.bias", "conv", (channels,))
    b.plain("self_attn.qk_norm.temp", "heads", (a.kv_heads,))
    return LinearAttention("cca", conv_channels=channels, conv_kernel=first + second - 2, narrow=keys // 2)


def _zaya(c: Config) -> Body:
    types = kinds_of(c, lambda _: "hybrid", "hybrid", "hybrid_sliding")
    width, count, inner = c.count("router_hidden_size"), c.count("num_experts"), c.count("moe_intermediate_size")
    if c.count("num_experts_per_tok") != 1:
        raise LLMHWError(f"config key num_experts_per_tok={c.count('num_experts_per_tok')} of zaya must be 1")

    def make(kind: str, first: bool) -> Layer:
        b, a = Builder(), attention_of(c, c.count("sliding_window") if kind == "hybrid_sliding" else None)
        linear = _cca(b, c, a)
        if not first:
            b.plain("mlp.gate.router_states_scale", "router", (width,))
        b.linear("mlp.gate.down_proj", "router", width, c.hidden, bias=True)
        b.norm("mlp.gate.router_mlp.norm", width, "inner_norm")
        for name in ("fc1", "fc2"):
            b.linear(f"mlp.gate.router_mlp.{name}", "router", width, width, bias=True)
        b.linear("mlp.gate.router_mlp.out_proj", "router", count + 1, width)  # one more, that does nothing
        sizes = {"gate_up": (2 * inner, c.hidden), "down": (c.hidden, inner)}
        b.experts("mlp.experts", count, 1, sizes, bias=False, swapped=False)
        b.norms(TWO_NORMS, c.hidden)
        for where in ("attention", "mlp"):
            for what in ("hidden_states", "residual"):
                for kind_of in ("scale", "bias"):
                    b.plain(f"post_{where}_residual_scale.{what}_{kind_of}", "norm", (c.hidden,))
        return b.layer(a, linear)

    outer = outer_of(c, "model.embed_tokens", "model.norm")
    for name in ("scale", "bias"):
        outer.plain(f"model.input_hidden_states_{name}", "embedding_norm", (c.hidden,))
    layers = each(make, types, [i == 0 for i in range(c.layers)])
    return Body(layers, outer, inner, head_bias=c.flag("lm_head_bias"))


# fmt: off
TABLE: dict[str, Family] = {
    "zaya": family(_zaya, "ZAYA", rotary=0.5, num_attention_heads=8, num_key_value_heads=2, head_dim=128, cca_time0=2,
        cca_time1=2, moe_intermediate_size=2048, num_experts=16, num_experts_per_tok=1, router_hidden_size=256,
        max_position_embeddings=131072, tie_word_embeddings=True,
        arithmetic="transformers' first convolution computes the padding of the second, too"),
    "minimax": family(_minimax, "MiniMax Text-01 and M1", synonyms=("minimax_text_01", "minimax_m1"),
        arithmetic=CHUNKS, num_attention_heads=32, num_key_value_heads=8, intermediate_size=14336,
        num_experts_per_tok=2, num_local_experts=8, max_position_embeddings=131072),
    "nemotron_h": family(_nemotron_h, "Nemotron-H and Nemotron 3", rotary=0, arithmetic=CHUNKS,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, mamba_num_heads=128, mamba_head_dim=64,
        ssm_state_size=128, n_groups=8, conv_kernel=4, use_conv_bias=True, intermediate_size=21504, n_routed_experts=8,
        num_experts_per_tok=2, moe_intermediate_size=7688, moe_shared_expert_intermediate_size=7688,
        mtp_layers_block_type=("full_attention", "moe")),
    "zamba": family(_zamba, "Zamba", rotary=0, arithmetic=SCAN, num_attention_heads=16, num_key_value_heads=16,
        intermediate_size=14848, n_mamba_heads=2, attn_layer_period=6, attn_layer_offset=4, mamba_d_state=16,
        mamba_d_conv=4, mamba_expand=2, mamba_conv_bias=True, max_position_embeddings=4096, tie_word_embeddings=True),
    "zamba2": family(_zamba, "Zamba 2", arithmetic=CHUNKS, num_attention_heads=32, n_mamba_heads=8, mamba_ngroups=1,
        mamba_d_state=64, mamba_d_conv=4, mamba_expand=2, num_mem_blocks=1, adapter_rank=128,
        max_position_embeddings=4096, tie_word_embeddings=True),
}

# Their code lies on the Hub.
REMOTE: dict[str, Family] = {
    "bailing_moe_linear": family(_ring_linear, "Ring linear 2", rotary=0.5, layer_group_size=5, use_qk_norm=True,
        first_k_dense_replace=1, num_experts=256, num_experts_per_tok=8, num_shared_experts=1,
        moe_intermediate_size=512),
}
# fmt: on
