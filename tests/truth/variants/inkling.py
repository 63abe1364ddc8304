"""Inkling."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.truth.variants.common import experts, head_dim, kinds, maybe, sizes


def _inkling(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | head_dim(draw) | experts(draw, "n_routed_experts")
    config |= {
        "tie_word_embeddings": False,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": draw(st.sampled_from([1, 2, 4])),
        "swa_head_dim": draw(st.sampled_from([4, 8])),
        "sliding_window_size": draw(st.integers(2, 40)),
        "d_rel": draw(st.integers(2, 4)),
        "rel_extent": draw(st.integers(20, 40)),
        **maybe(draw, conv_kernel_size=st.integers(2, 4)),
    }
    return config | maybe(draw, layer_types=kinds(config, "hybrid", "hybrid_sliding"))


def _first(draw: st.DrawFn) -> dict[str, Any]:
    config = _inkling(draw) | {"n_shared_experts": draw(st.integers(1, 3))}
    return config | maybe(draw, mlp_layer_types=kinds(config, "dense", "sparse"))


def _second(draw: st.DrawFn) -> dict[str, Any]:
    config = _inkling(draw)
    del config["intermediate_size"]
    return config | {"unpadded_vocab_size": config["vocab_size"]}


VARIANTS = {"inkling_text": _first, "inkling2_text": _second}
