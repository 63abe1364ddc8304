"""Mixtures of experts in the manner of Llama."""

from __future__ import annotations

from dataclasses import replace

from llmhw.families.builder import Body, Builder, each, outer_of
from llmhw.families.config import Config
from llmhw.families.decoder import (
    TWO_NORMS,
    all_full,
    all_sliding,
    decoder,
    every_nth,
    mtp_of,
    qwen_sparse,
    rotary_layers,
    routed,
    shared_experts,
)
from llmhw.families.family import Family, Style, family
from llmhw.model import Attention, Layer
from llmhw.units import LLMHWError

_EVERY_EXPERT = "transformers multiplies every expert with every token, not only the routed ones"
_LLAMA4 = {
    "intermediate_size_mlp": 16384,
    "interleave_moe_layer_step": 1,
    "no_rope_layer_interval": 4,
    "attention_chunk_size": 8192,
    "num_experts_per_tok": 1,
    "num_local_experts": 16,
    "head_dim": 128,
}


def _mixtral(c: Config) -> Body:
    return decoder(c, all_sliding(c), bias=False, feed_forward=routed(c))


def _qwen2_moe(c: Config) -> Body:
    on, first = c.flag("use_sliding_window"), c.count("max_window_layers")
    types = c.layer_types(lambda i: "sliding_attention" if on and (i + 1) % 2 and i < first else "full_attention")
    experts = routed(c, inner="moe_intermediate_size", shared=True)
    return decoder(c, types, bias=c.flag("qkv_bias"), out_bias=False, feed_forward=experts, sparse=qwen_sparse(c))


def _qwen3_moe(c: Config) -> Body:
    types = all_sliding(c) if c.flag("use_sliding_window") else all_full(c)
    experts = routed(c, inner="moe_intermediate_size")
    return decoder(c, types, qk_norm="head", feed_forward=experts, sparse=qwen_sparse(c))


def _gpt_oss(c: Config) -> Body:
    def sinks(b: Builder, a: Attention) -> None:
        b.plain("self_attn.sinks", "heads", (a.heads,))

    experts = routed(c, router="router", bias=True, swapped=True)
    return decoder(c, every_nth(c, 2), feed_forward=experts, extra=sinks)


def _llama4(c: Config) -> Body:
    step = c.count("interleave_moe_layer_step")
    listed = c.get("moe_layers")
    moe = set(range(step - 1, c.layers, step) if listed is None else listed)
    rope = rotary_layers(c)

    def feed_forward(b: Builder, sparse: int) -> None:
        if not sparse:
            return b.gated_mlp("feed_forward", c.hidden, c.count("intermediate_size_mlp"))
        b.moe("feed_forward", c, inner=c.intermediate, router="router", swapped=True)
        b.gated_mlp("feed_forward.shared_expert", c.hidden, c.intermediate, shared=True)

    types = c.layer_types(lambda i: "chunked_attention" if rope[i] else "full_attention")
    return decoder(c, types, feed_forward=feed_forward, sparse=[i in moe for i in range(c.layers)])


def _glm4_moe(c: Config) -> Body:
    first = c.count("first_k_dense_replace", least=0)
    body = decoder(
        c,
        all_full(c),
        out_bias=False,
        qk_norm="head" if c.flag("use_qk_norm") else "",
        feed_forward=lambda b, sparse: shared_experts(b, c, sparse),
        sparse=[i >= first for i in range(c.layers)],
    )
    return replace(body, mtp=mtp_of(c, body.layers[-1]))


def _mimo_v2_flash(c: Config) -> Body:
    """MiMo-V2-Flash: keys longer than values, and more KV heads in the sliding layers than in the others."""
    listed = c.listed("mlp_layer_types", c.get("mlp_layer_types", default=["dense"] + ["sparse"] * (c.layers - 1)))
    types = c.layer_types(lambda i: "full_attention" if i == 0 or not (i + 1) % 6 else "sliding_attention")
    bias, v_dim, experts = c.flag("attention_bias"), c.count("v_head_dim"), routed(c, inner="moe_intermediate_size")

    def make(kind: str, sparse: bool) -> Layer:
        b = Builder()
        sliding = kind == "sliding_attention"
        # published as the tokens before the query; the query itself is one more
        before = c.data.get("sliding_window_size")
        window = (before + 1 if before else c.count("sliding_window")) if sliding else None
        # transformers doubles the KV heads of sliding layers: there is no key for it in the config
        kv = c.kv_heads * 2 if sliding else c.kv_heads
        if c.heads % kv:
            raise LLMHWError(f"kv_heads={kv} of the sliding layers does not divide heads={c.heads}")
        a = Attention(c.heads, kv, c.head_dim, v_dim, window=window)
        if sliding:
            b.plain("self_attn.sinks", "heads", (a.heads,))
        b.qkvo("self_attn", c.hidden, a, bias=bias)
        experts(b, sparse)
        b.norms(TWO_NORMS, c.hidden)
        return b.layer(a)

    layers = each(make, types, (listed[i] == "sparse" for i in range(c.layers)))
    return Body(layers, outer_of(c, "model.embed_tokens", "model.norm"), c.intermediate)


def _minimax_m2(c: Config) -> Body:
    return decoder(c, all_full(c), bias=False, qk_norm="hidden", feed_forward=routed(c))


def _olmoe(c: Config) -> Body:
    return decoder(c, all_full(c), qk_norm="hidden", feed_forward=routed(c))


def _granitemoe(c: Config) -> Body:
    return decoder(c, all_full(c), feed_forward=routed(c, "block_sparse_moe", router="router"))


def _phimoe(c: Config) -> Body:
    body = decoder(c, all_sliding(c), norm_bias=True, feed_forward=routed(c, router="router"))
    return replace(body, head_bias=c.flag("lm_head_bias"))


# fmt: off
TABLE: dict[str, Family] = {
    "llama4_text": family(_llama4, "Llama 4", synonyms=("llama4",), arithmetic=_EVERY_EXPERT, **_LLAMA4),
    "mixtral": family(_mixtral, "Mixtral", style=Style(router="softmax", norm_topk=True), num_key_value_heads=8,
        num_experts_per_tok=2, num_local_experts=8),
    "qwen2_moe": family(_qwen2_moe, "Qwen 2 MoE", style=Style(), max_window_layers=28, sliding_window=4096,
        qkv_bias=True),
    "qwen3_moe": family(_qwen3_moe, "Qwen 3 MoE", synonyms=("qwen3_vl_moe_text",), style=Style(),
        num_key_value_heads=4, sliding_window=4096),
    "phimoe": family(_phimoe, "Phi 3.5 MoE", num_key_value_heads=8),
    "gpt_oss": family(_gpt_oss, "gpt-oss", style=Style(rotary_once=True, norm="rms-late", sdpa=False,
        softmax_fp32=False, sinks=True, router="chosen", clamped=True), head_dim=64, attention_bias=True,
        sliding_window=128),
    "glm4_moe": family(_glm4_moe, "GLM-4.5", style=Style(rotary_cat=True, router="sigmoid", norm_topk=True),
        rotary=0.5, first_k_dense_replace=1, n_shared_experts=1),
    "minimax_m2": family(_minimax_m2, "MiniMax M2", style=Style(router="sigmoid-late", norm_topk=True,
        rotary_cat=True), num_key_value_heads=8, head_dim=128),
    "olmoe": family(_olmoe, "OLMoE", style=Style()),
    "granitemoe": family(_granitemoe, "Granite MoE", style=Style(router="chosen-fp32")),
    "mimo_v2_flash": family(_mimo_v2_flash, "MiMo V2 Flash", num_key_value_heads=4, head_dim=192, v_head_dim=128,
        sliding_window=129),
}
# fmt: on
