"""Gemma 3n and 4."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.truth.variants.common import BOOLS, bias, experts, head_dim, maybe, sizes


def _types(draw: st.DrawFn, config: dict[str, Any]) -> dict[str, Any]:
    """Kinds of layers of which each that shares has one before it; the last sees everything."""
    layers = config["num_hidden_layers"] = draw(st.integers(2, 6))
    kinds = [draw(st.sampled_from(["full_attention", "sliding_attention"])) for _ in range(layers)]
    kinds[:2], kinds[-1] = ["sliding_attention", "full_attention"], "full_attention"
    return {
        "layer_types": kinds,
        "num_kv_shared_layers": draw(st.integers(0, max(0, layers - 2))),
        "sliding_window": draw(st.integers(2, 40)),
        "hidden_size_per_layer_input": draw(st.sampled_from([4, 8])),
        "vocab_size_per_layer_input": config["vocab_size"],
    }


def _gemma3n(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | head_dim(draw) | bias(draw)
    config |= _types(draw, config) | {"altup_num_inputs": draw(st.integers(2, 4)), "laurel_rank": 8}
    layers = config["num_hidden_layers"]
    config["activation_sparsity_pattern"] = [0.0] * layers
    if draw(BOOLS):
        config["intermediate_size"] = [8 * draw(st.integers(1, 6)) for _ in range(layers)]
    return config


def _gemma4(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | head_dim(draw) | bias(draw)
    config |= _types(draw, config) | {"global_head_dim": draw(st.sampled_from([16, 32]))}
    # without inputs for each layer transformers 5.23 cannot make the logits of the last token: models of the catalog
    # have none
    config |= maybe(draw, use_double_wide_mlp=BOOLS)
    if draw(BOOLS):
        config |= {"attention_k_eq_v": True, "num_global_key_value_heads": 1}
    if draw(BOOLS):
        moe = experts(draw, "num_experts")
        config |= {"enable_moe_block": True, "top_k_experts": moe.pop("num_experts_per_tok"), **moe}
    return config


def _unified(draw: st.DrawFn) -> dict[str, Any]:
    config = _gemma4(draw) | {"num_kv_shared_layers": 0}
    for key in list(config):
        if key.startswith(("hidden_size_per", "vocab_size_per", "use_double", "attention_k", "num_kv_shared")):
            del config[key]
    return {k: v for k, v in config.items() if "expert" not in k and "moe" not in k}


VARIANTS = {"gemma3n_text": _gemma3n, "gemma4_text": _gemma4, "gemma4_unified_text": _unified}
