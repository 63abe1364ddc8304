"""Hybrids of softmax attention and the delta rule."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.truth.variants.common import BOOLS, bias, experts, head_dim, kinds, maybe, sizes


def linear(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(st.sampled_from([1, 2, 4]))
    return {
        "linear_num_key_heads": keys,
        "linear_num_value_heads": keys * draw(st.sampled_from([1, 2])),
        "linear_key_head_dim": draw(st.sampled_from([4, 8])),
        "linear_value_head_dim": draw(st.sampled_from([4, 8])),
        "linear_conv_kernel_dim": draw(st.integers(2, 4)),
        "head_dim": draw(st.sampled_from([8, 16, 32])),  # a quarter is turned, in pairs
    }


def _qwen(draw: st.DrawFn, moe: bool) -> dict[str, Any]:
    config = sizes(draw) | linear(draw) | bias(draw)
    if draw(BOOLS):
        config["num_hidden_layers"] = 4  # the rule's first layer of attention: a cache's length is told by one
    else:
        listed = draw(kinds(config, "linear_attention", "full_attention"))
        config["num_hidden_layers"] = len(listed) + 1
        config["layer_types"] = ["linear_attention", *listed[1:], "full_attention"]
    if moe:
        config |= experts(draw, "num_experts") | {"shared_expert_intermediate_size": 8 * draw(st.integers(1, 6))}
    return config


def _olmo(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | bias(draw)
    config |= {"num_hidden_layers": draw(st.integers(2, 5)), "linear_conv_kernel_dim": draw(st.integers(2, 4))}
    own = linear(draw) if draw(BOOLS) else {}
    own.pop("head_dim", None)
    return config | own


def _latent(draw: st.DrawFn) -> dict[str, Any]:
    """Latent attention and DeepSeek's experts."""
    config = sizes(draw) | experts(draw, "num_local_experts")
    config["num_key_value_heads"] = config["num_attention_heads"]
    sizes_of = {key: draw(st.sampled_from([4, 8])) for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")}
    config |= {"kv_lora_rank": draw(st.sampled_from([8, 16])), "n_group": 1, "topk_group": 1, **sizes_of}
    return config | maybe(draw, n_shared_experts=st.integers(1, 2), attention_bias=BOOLS)


def _kimi(draw: st.DrawFn) -> dict[str, Any]:
    config = _latent(draw) | {"linear_head_dim": draw(st.sampled_from([4, 8])), "linear_num_heads": 2}
    config |= {"linear_conv_kernel_dim": draw(st.integers(2, 4)), "q_lora_rank": draw(st.sampled_from([None, 8]))}
    config |= maybe(draw, first_k_dense_replace=st.integers(0, 3))
    listed = draw(kinds(config, "linear_attention", "full_attention"))
    config["layer_types"] = ["linear_attention", *listed[1:], "full_attention"]
    return config | {"num_hidden_layers": len(listed) + 1}


def _bailing(draw: st.DrawFn) -> dict[str, Any]:
    config = _latent(draw) | head_dim(draw)
    config |= {"layer_group_size": draw(st.integers(2, 3)), "short_conv_kernel_size": draw(st.integers(2, 4))}
    config["num_hidden_layers"] = 3
    return config | maybe(draw, first_k_dense_replace=st.integers(0, 3))


def _qwen4(draw: st.DrawFn) -> dict[str, Any]:
    config = _qwen(draw, moe=True) | {"hc_count": draw(st.integers(2, 3)), "hc_lowrank": draw(st.sampled_from([4, 8]))}
    config |= {"indexer_n_heads": draw(st.integers(1, 4)), "indexer_kv_heads": 1, "indexer_head_dim": 32}
    config |= {"indexer_compress_ratio": 2, "indexer_budget": 4}
    own = {"ple_embed_dim": 16, "heads_per_ngram": 2, "make_ngram_vocab_size_divisible_by": 8}
    own |= {"ngram_vocab_size_base": draw(st.integers(3, 90)), "split_ngram_parts": 1, "ple_layer_ids": [1]}
    own |= maybe(draw, ple_conv_kernel_size=st.integers(2, 4), ngram_size=st.sampled_from([2, 3]))
    return config | own


VARIANTS = {
    "qwen4_exp_text": _qwen4,
    "qwen3_next": lambda d: _qwen(d, moe=True),
    "qwen3_5_text": lambda d: _qwen(d, moe=False),
    "qwen3_5_moe_text": lambda d: _qwen(d, moe=True),
    "olmo_hybrid": _olmo,
    "kimi_linear": _kimi,
    "bailing_hybrid": _bailing,
}
