"""Hybrids of softmax and linear attention."""

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
        **head_dim(draw),
    }


def _qwen(draw: st.DrawFn, moe: bool) -> dict[str, Any]:
    config = sizes(draw) | linear(draw) | bias(draw)
    config |= maybe(draw, layer_types=kinds(config, "linear_attention", "full_attention"))
    if moe:
        config |= experts(draw, "num_experts") | {"shared_expert_intermediate_size": 8 * draw(st.integers(1, 6))}
    return config


def _nemotron(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw)
    del config["num_hidden_layers"]
    config["tie_word_embeddings"] = False  # transformers does not tie this family's head, whatever the config says
    names = st.sampled_from(["linear_attention", "full_attention", "moe", "mlp"])
    groups = draw(st.sampled_from([1, 2]))
    return {
        **config,
        **head_dim(draw),
        **experts(draw, "n_routed_experts"),
        # at least one attention layer: transformers cannot tell a cache's length without
        "layers_block_type": [*draw(st.lists(names, max_size=4)), "full_attention"],
        "moe_shared_expert_intermediate_size": 8 * draw(st.integers(1, 6)),
        "mamba_num_heads": groups * draw(st.integers(1, 3)),
        "mamba_head_dim": draw(st.sampled_from([4, 8])),
        "ssm_state_size": draw(st.sampled_from([4, 8])),
        "n_groups": groups,
        "conv_kernel": draw(st.integers(2, 4)),
        **maybe(draw, use_conv_bias=BOOLS, use_bias=BOOLS, mlp_bias=BOOLS, moe_latent_size=st.just(24)),
    }


VARIANTS = {
    "qwen3_next": lambda d: _qwen(d, moe=True),
    "qwen3_5_text": lambda d: _qwen(d, moe=False),
    "qwen3_5_moe_text": lambda d: _qwen(d, moe=True),
    "nemotron_h": _nemotron,
}
