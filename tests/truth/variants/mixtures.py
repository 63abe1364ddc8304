"""Mixtures of experts."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.truth.variants.common import BOOLS, bias, experts, head_dim, kinds, maybe, sizes, window


def _local(draw: st.DrawFn) -> dict[str, Any]:
    """Experts as Mixtral's config has them."""
    return experts(draw, "num_local_experts", "intermediate_size")


def _qwen_dense(draw: st.DrawFn) -> dict[str, Any]:
    return maybe(draw, decoder_sparse_step=st.integers(1, 3), mlp_only_layers=st.just([0]))


def _qwen2_moe(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | experts(draw, "num_experts") | window(draw, use_sliding_window=BOOLS, qkv_bias=BOOLS)
    return config | {"shared_expert_intermediate_size": 8 * draw(st.integers(1, 6))} | _qwen_dense(draw)


def _phimoe(draw: st.DrawFn) -> dict[str, Any]:
    # its router picks two experts, whatever the config says
    return sizes(draw) | bias(draw, lm_head_bias=BOOLS) | _local(draw) | {"num_experts_per_tok": 2}


def _glm4_moe(draw: st.DrawFn) -> dict[str, Any]:
    more = maybe(draw, use_qk_norm=BOOLS, first_k_dense_replace=st.integers(0, 3), n_shared_experts=st.integers(1, 3))
    return sizes(draw) | head_dim(draw) | bias(draw) | experts(draw, "n_routed_experts") | more


def _llama4(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | head_dim(draw) | bias(draw) | _local(draw)
    config |= {"intermediate_size_mlp": 8 * draw(st.integers(1, 6))}
    return config | maybe(draw, interleave_moe_layer_step=st.integers(1, 3), attention_chunk_size=st.integers(2, 40))


def _mimo(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | head_dim(draw) | bias(draw) | experts(draw, "n_routed_experts") | window(draw)
    config["num_attention_heads"] = 8
    config["num_key_value_heads"] = draw(st.sampled_from([1, 2, 4]))
    config["v_head_dim"] = draw(st.sampled_from([4, 8]))
    return config | maybe(draw, layer_types=kinds(config, "full_attention", "sliding_attention"))


VARIANTS = {
    "mixtral": lambda d: sizes(d) | window(d) | _local(d),
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": lambda d: sizes(d) | head_dim(d) | bias(d) | experts(d, "num_experts") | _qwen_dense(d),
    "phimoe": _phimoe,
    "gpt_oss": lambda d: sizes(d) | head_dim(d) | _local(d) | window(d),
    "glm4_moe": _glm4_moe,
    "llama4_text": _llama4,
    "minimax_m2": lambda d: sizes(d) | head_dim(d) | _local(d),
    "mimo_v2_flash": _mimo,
    "olmoe": lambda d: sizes(d) | bias(d) | experts(d, "num_experts", "intermediate_size"),
    "granitemoe": lambda d: sizes(d) | bias(d) | _local(d),
}
