"""Hybrids of softmax and linear attention."""

from __future__ import annotations

from dataclasses import replace

from llmhw.families.builder import Body, Builder, attention_of, each, outer_of
from llmhw.families.config import Config
from llmhw.families.decoder import TWO_NORMS, qwen_sparse, routed
from llmhw.families.family import Family, Style, family
from llmhw.model import Attention, Layer, LinearAttention
from llmhw.units import LLMHWError

_CHUNKS = "linear attention runs in chunks in transformers; the prediction is its recurrent form"
_QWEN = Style(norm="rms-plus-1", rotary_cat=True, norm_topk=True, state="gated-deltanet", gated=True)
_QWEN_35 = replace(_QWEN, rotary_batch=True)
_LINEAR = {
    "rotary": 0.25,
    "arithmetic": _CHUNKS,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "head_dim": 256,
}


def _qwen3_next(c: Config) -> Body:
    """Qwen3-Next and Qwen3.5: three layers of Gated DeltaNet to one of gated softmax attention."""
    key_heads, value_heads = c.count("linear_num_key_heads"), c.count("linear_num_value_heads")
    key_dim, value_dim = c.count("linear_key_head_dim"), c.count("linear_value_head_dim")
    kernel = c.count("linear_conv_kernel_dim")
    channels = 2 * key_heads * key_dim + value_heads * value_dim
    inner = value_heads * value_dim
    state = LinearAttention("gated-deltanet", value_heads, key_dim, value_dim, channels, kernel)
    every = c.count("full_attention_interval", default=4)
    types = c.layer_types(lambda i: "linear_attention" if (i + 1) % every else "full_attention")
    is_moe, experts = c.get("num_experts") is not None, routed(c, inner="moe_intermediate_size", shared=True)

    def make(kind: str, sparse: bool) -> Layer:
        b = Builder()
        a: Attention | None = None
        if kind == "linear_attention":
            b.plain("linear_attn.dt_bias", "heads", (value_heads,))
            b.plain("linear_attn.A_log", "heads", (value_heads,))
            b.plain("linear_attn.conv1d.weight", "conv", (channels, 1, kernel))
            if c.model_type == "qwen3_next":
                b.linear("linear_attn.in_proj_qkvz", "in_proj", channels + inner, c.hidden)
                b.linear("linear_attn.in_proj_ba", "in_proj", 2 * value_heads, c.hidden)
            else:
                b.linear("linear_attn.in_proj_qkv", "in_proj", channels, c.hidden)
                b.linear("linear_attn.in_proj_z", "in_proj", inner, c.hidden)
                b.linear("linear_attn.in_proj_b", "in_proj", value_heads, c.hidden)
                b.linear("linear_attn.in_proj_a", "in_proj", value_heads, c.hidden)
            b.norm("linear_attn.norm", value_dim, "inner_norm")
            b.linear("linear_attn.out_proj", "o", c.hidden, inner)
        else:
            a = attention_of(c)
            bias = c.flag("attention_bias")
            b.qkvo("self_attn", c.hidden, a, bias=bias, out_bias=bias, gated=True)
            b.norm("self_attn.q_norm", a.head_dim, "q_norm")
            b.norm("self_attn.k_norm", a.head_dim, "k_norm")
        experts(b, sparse)
        b.norms(TWO_NORMS, c.hidden)
        return b.layer(a, None if a else state)

    layers = each(make, types, qwen_sparse(c) if is_moe else [False] * c.layers)
    return Body(layers, outer_of(c, "model.embed_tokens", "model.norm"), c.get("intermediate_size", default=0))


_NEMOTRON_LETTERS = {"M": "linear_attention", "*": "full_attention", "E": "moe", "-": "mlp"}
_NEMOTRON_NAMES = {"mamba": "linear_attention", "attention": "full_attention"}


def _nemotron_h(c: Config) -> Body:
    """Nemotron-H and Nemotron 3: blocks of one mixer each - Mamba-2, softmax attention, MLP or experts."""
    types = c.get("layers_block_type", "layer_types", default=[])
    if not types:
        pattern = c.get("hybrid_override_pattern", default="")
        if not pattern or set(pattern) - set(_NEMOTRON_LETTERS):
            raise LLMHWError(
                f"config key hybrid_override_pattern={pattern!r} must be made of {', '.join(_NEMOTRON_LETTERS)}"
            )
        types = [_NEMOTRON_LETTERS[letter] for letter in pattern]
    types = [_NEMOTRON_NAMES.get(kind, kind) for kind in types]
    heads, head_dim = c.count("mamba_num_heads"), c.count("mamba_head_dim")
    state, groups = c.count("ssm_state_size"), c.count("n_groups", "mamba_n_groups")
    kernel = c.count("conv_kernel", "mamba_d_conv")
    inner = heads * head_dim
    channels = inner + 2 * groups * state
    mamba = LinearAttention("mamba-2", heads, state, head_dim, channels, kernel)

    def plain_mlp(b: Builder, prefix: str, size: int, *, shared: bool = False) -> None:
        names = f"{prefix}.up_proj", f"{prefix}.down_proj"
        b.plain_mlp(*names, c.hidden, size, bias=c.flag("mlp_bias"), shared=shared)

    def make(kind: str) -> Layer:
        b = Builder()
        b.norm("norm", c.hidden, "norm_in")
        if kind == "linear_attention":
            for name in ("dt_bias", "A_log", "D"):
                b.plain(f"mixer.{name}", "heads", (heads,))
            b.plain("mixer.conv1d.weight", "conv", (channels, 1, kernel))
            if c.flag("use_conv_bias"):
                b.plain("mixer.conv1d.bias", "conv", (channels,))
            b.linear("mixer.in_proj", "in_proj", inner + channels + heads, c.hidden, bias=c.flag("use_bias"))
            b.norm("mixer.norm", inner, "inner_norm")
            b.linear("mixer.out_proj", "o", c.hidden, inner, bias=c.flag("use_bias"))
            return b.layer(linear=mamba)
        if kind == "full_attention":
            a = attention_of(c)
            b.qkvo("mixer", c.hidden, a)
            return b.layer(a)
        if kind == "mlp":
            plain_mlp(b, "mixer", c.intermediate)
        elif kind == "moe":
            count, used = c.count("n_routed_experts"), c.count("num_experts_per_tok")
            width, size = c.count("moe_latent_size", default=c.hidden), c.count("moe_intermediate_size")
            sizes = {"up": (size, width), "down": (width, size)}
            b.experts("mixer.experts", count, used, sizes, bias=False, swapped=False)
            b.linear("mixer.gate", "router", count, c.hidden)
            plain_mlp(b, "mixer.shared_experts", c.count("moe_shared_expert_intermediate_size"), shared=True)
            if width != c.hidden:
                b.linear("mixer.fc1_latent_proj", "latent", width, c.hidden, bias=c.flag("mlp_bias"))
                b.linear("mixer.fc2_latent_proj", "latent", c.hidden, width, bias=c.flag("mlp_bias"))
        else:
            raise LLMHWError(f"config key layers_block_type has {kind!r}; known are {', '.join(set(types) - {kind})}")
        return b.layer()

    return Body(each(make, types), outer_of(c, "model.embeddings", "model.norm_f"), c.intermediate)


# fmt: off
TABLE: dict[str, Family] = {
    "qwen3_next": family(_qwen3_next, "Qwen 3 Next", style=_QWEN, num_key_value_heads=2, **_LINEAR),
    "qwen3_5_text": family(_qwen3_next, "Qwen 3.5", style=_QWEN_35, synonyms=("qwen3_5",),
        num_key_value_heads=4, **_LINEAR),
    "qwen3_5_moe_text": family(_qwen3_next, "Qwen 3.5 MoE", style=_QWEN_35, synonyms=("qwen3_5_moe",),
        num_key_value_heads=2,
        **_LINEAR),
    "nemotron_h": family(_nemotron_h, "Nemotron-H and Nemotron 3", rotary=0, arithmetic=_CHUNKS,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, mamba_num_heads=128, mamba_head_dim=64,
        ssm_state_size=128, n_groups=8, conv_kernel=4, use_conv_bias=True, intermediate_size=21504, n_routed_experts=8,
        num_experts_per_tok=2, moe_intermediate_size=7688, moe_shared_expert_intermediate_size=7688),
}
# fmt: on
