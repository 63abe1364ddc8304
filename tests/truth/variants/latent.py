"""Multi-head latent attention."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import strategies as st

from tests.truth.variants.common import BOOLS, experts, kinds, sizes


def mla(draw: st.DrawFn, model_type: str) -> dict[str, Any]:
    config = sizes(draw, multiple=2)
    config["num_key_value_heads"] = config["num_attention_heads"]
    config |= {
        **experts(draw, "n_routed_experts"),
        "kv_lora_rank": draw(st.sampled_from([8, 24])),
        "qk_rope_head_dim": draw(st.sampled_from([4, 8])),
        "qk_nope_head_dim": draw(st.sampled_from([4, 12])),
        "v_head_dim": draw(st.sampled_from([4, 16])),
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": draw(st.integers(0, 3)),
        "n_shared_experts": draw(st.integers(1, 3)),
        "attention_bias": draw(BOOLS),
    }
    config["q_lora_rank"] = draw(
        st.sampled_from([8, 16] if model_type in ("deepseek_v32", "glm_moe_dsa") else [None, 8, 16])
    )
    if model_type == "deepseek_v2":
        config["tie_word_embeddings"] = False
    if model_type in ("deepseek_v32", "glm_moe_dsa"):
        config |= {
            "index_head_dim": 16,
            "index_n_heads": draw(st.integers(1, 4)),
            "index_topk": draw(st.integers(2, 32)),
        }
        config["mlp_layer_types"] = draw(kinds(config, "dense", "sparse"))
    return config


VARIANTS = {
    name: partial(mla, model_type=name) for name in ("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa")
}
