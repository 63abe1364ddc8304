"""Inkling: short convolutions beside attention, and scores that know the distance."""

from __future__ import annotations

from collections.abc import Mapping

from llmhw.families.builder import Body, Builder, attention_of, each, outer_of
from llmhw.families.config import Config
from llmhw.families.decoder import TWO_NORMS, head_norms, sparse_layers
from llmhw.families.family import Family, family
from llmhw.model import Attention, Layer, LinearAttention
from llmhw.units import LLMHWError, shown


def _types(c: Config) -> list[str]:
    """Every sixth layer sees everything."""
    local = c.get("local_layer_ids")
    sliding = set(local) if local is not None else {i for i in range(c.layers) if (i + 1) % 6}
    types = c.layer_types(lambda i: "hybrid_sliding" if i in sliding else "hybrid")
    for kind in types:
        if kind not in ("hybrid", "hybrid_sliding"):
            raise LLMHWError(f"config key layer_types has {shown(kind)}; known are hybrid and hybrid_sliding")
    return types


def _attention(b: Builder, c: Config, kind: str) -> Attention:
    """Heads of a kind of layer, and what scores the distance."""
    a = attention_of(c)
    if kind == "hybrid_sliding":
        heads, kv, dim = (c.count(f"swa_{key}") for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        if heads % kv:
            raise LLMHWError(f"config key swa_num_key_value_heads={kv} does not divide swa_num_attention_heads={heads}")
        a = Attention(heads, kv, dim, dim, c.count("sliding_window_size", "sliding_window"))
    rank = c.count("d_rel")
    b.qkvo("self_attn", c.hidden, a)
    b.linear("self_attn.r_proj", "in_proj", a.heads * rank, c.hidden)
    b.plain("self_attn.rel_logits_proj.proj", "mix", (rank, a.window or c.count("rel_extent")))
    return a


def _kernel(c: Config) -> int:
    return c.count("conv_kernel_size", "sconv_kernel_size")


def _state(b: Builder, c: Config, widths: Mapping[str, int], others: int = 0) -> LinearAttention:
    """Short convolutions of these widths, whose last inputs are kept in fp32; `others`: channels of further ones."""
    for name, width in widths.items():
        b.plain(f"{name}.conv1d.weight", "conv", (width, 1, _kernel(c)))
    channels = sum(widths.values()) + others
    return LinearAttention(
        "convolution", conv_channels=channels, conv_kernel=_kernel(c), conv_kept=0, wide=channels * _kernel(c)
    )


def _inkling(c: Config) -> Body:
    inner, dense = c.count("moe_intermediate_size"), c.get("intermediate_size", default=0)
    if c.get("dense_intermediate_size") is not None:  # in published files the experts have the plain name
        inner, dense = dense, c.count("dense_intermediate_size")
    first = c.count("first_k_dense_replace", "dense_mlp_idx", default=0, least=0)

    def make(kind: str, sparse: bool) -> Layer:
        b = Builder()
        a = _attention(b, c, kind)
        head_norms(b, a)
        cached = a.kv_heads * a.head_dim
        widths = {"self_attn.k_sconv": cached, "self_attn.v_sconv": cached, "attn_sconv": c.hidden}
        state = _state(b, c, widths | {"mlp_sconv": c.hidden})
        if sparse:
            _inkling_experts(b, c, inner)
        else:
            b.gated_mlp("mlp", c.hidden, dense)
            b.plain("mlp.global_scale", "mix", (1,))
        b.norms(TWO_NORMS, c.hidden)
        return b.layer(a, state)

    outer = outer_of(c, "model.embed_tokens", "model.norm")
    outer.norm("model.embed_tokens.embed_norm", c.hidden, "embedding_norm")
    return Body(each(make, _types(c), sparse_layers(c, first)), outer, dense)


def _inkling_experts(b: Builder, c: Config, inner: int) -> None:
    """Experts, and shared ones beside them that the router weighs, too."""
    count, used, shared = (
        c.count("n_routed_experts"),
        c.count("num_experts_per_tok"),
        c.get("n_shared_experts", default=0),
    )
    if used > count:
        raise LLMHWError(f"config key num_experts_per_tok={used} is more than the {count} experts there are")
    weighed = count + (shared if c.flag("shared_expert_sink", default=True) else 0)
    b.linear("mlp.gate", "router", weighed, c.hidden)
    b.plain("mlp.gate.global_scale", "router", (1,))
    sizes = {"gate_up": (2 * inner, c.hidden), "down": (c.hidden, inner)}
    b.experts("mlp.experts", count, used, sizes, bias=False, swapped=False)
    if shared:
        sizes = {"gate": (inner, c.hidden), "up": (inner, c.hidden), "down": (c.hidden, inner)}
        b.experts("mlp.shared_experts", shared, shared, sizes, bias=False, swapped=False)


def _inkling2(c: Config) -> Body:
    """Inkling 2: layers choose among the sums of earlier blocks; convolutions of full layers depend on the token."""
    inner, kernel = c.count("moe_intermediate_size", "intermediate_size"), _kernel(c)

    def make(kind: str, first: bool) -> Layer:
        b, sliding = Builder(), kind == "hybrid_sliding"
        b.plain("mlp_input.query", "mix", (c.hidden,))
        if not first:
            b.plain("attention_input.query", "mix", (c.hidden,) if sliding else (3, c.hidden))
        a = _attention(b, c, kind)
        cached = a.kv_heads * a.head_dim
        b.linear("self_attn.gate_proj", "g", a.heads * a.head_dim, c.hidden)
        b.linear("self_attn.sink_proj", "g", a.heads, c.hidden)
        b.plain("self_attn.q_l2_clip.scale", "heads", (a.heads, a.head_dim))
        b.plain("self_attn.rel_l2_clip.scale", "heads", (a.heads, c.count("d_rel")))
        widths = {"self_attn.k_sconv": cached, "self_attn.v_sconv": cached} if sliding else {}
        sums = {"post_attention_convolution": c.hidden, "post_mlp_convolution": c.hidden}
        state = _state(b, c, widths | sums, 0 if sliding else 2 * cached)
        for name in () if sliding else ("k", "v"):
            b.plain(f"self_attn.{name}_sconv.static_weight", "conv", (kernel, cached))
            b.linear(f"self_attn.{name}_sconv.weight_proj", "in_proj", a.kv_heads * kernel, c.hidden)
        b.moe("mlp", c, inner=inner)
        for name in ("",) if sliding else ("q_", "k_", "v_"):
            b.norm(f"{name}input_layernorm", c.hidden, "norm_in")
        b.norm("post_attention_layernorm", c.hidden)
        return b.layer(a, state)

    outer = outer_of(c, "model.embed_tokens", "model.norm")
    outer.norm("model.embed_tokens.embed_norm", c.hidden, "embedding_norm")
    outer.plain("model.final_input.query", "mix", (c.hidden,))
    return Body(each(make, _types(c), (i == 0 for i in range(c.layers))), outer, inner)


_SHORT = "transformers pads short convolutions, and looks scores of the distance up for all pairs"
_SWA = {"arithmetic": _SHORT, "rotary": 0, "num_key_value_heads": 8, "head_dim": 128, "swa_head_dim": 128,
        "d_rel": 16, "rel_extent": 1024, "conv_kernel_size": 4}  # fmt: skip

# fmt: off
TABLE: dict[str, Family] = {
    "inkling_text": family(_inkling, "Inkling", swa_num_attention_heads=64, swa_num_key_value_heads=16,
        sliding_window_size=512, moe_intermediate_size=3072, n_routed_experts=256, num_experts_per_tok=6,
        n_shared_experts=2, **_SWA),
    "inkling2_text": family(_inkling2, "Inkling 2", swa_num_attention_heads=48, swa_num_key_value_heads=8,
        sliding_window_size=1024, moe_intermediate_size=2304, n_routed_experts=384, num_experts_per_tok=8, **_SWA),
}
# fmt: on
