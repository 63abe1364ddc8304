"""Multi-head latent attention."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import strategies as st

from tests.truth.variants.common import BOOLS, experts, kinds, maybe, sizes

INDEXED = ("deepseek_v32", "glm_moe_dsa", "axk2", "hy_v4", "mistral_large4_text", "dots3_note_text", "glm5_next_text")
DENSE = ("youtu", "minicpm3")


def mla(draw: st.DrawFn, model_type: str) -> dict[str, Any]:
    config = sizes(draw, multiple=2)
    config["num_key_value_heads"] = config["num_attention_heads"]
    config |= {
        "kv_lora_rank": draw(st.sampled_from([8, 24])),
        "qk_rope_head_dim": draw(st.sampled_from([4, 8])),
        "qk_nope_head_dim": draw(st.sampled_from([4, 12])),
        "v_head_dim": draw(st.sampled_from([4, 16])),
        "attention_bias": draw(BOOLS),
        "q_lora_rank": draw(st.sampled_from([8, 16] if model_type in (*INDEXED, "axk1") else [None, 8, 16])),
    }
    if model_type in DENSE:
        return config | maybe(draw, mlp_bias=BOOLS)
    config |= {
        **experts(draw, "n_routed_experts"),
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": draw(st.integers(1, 3)),
        **maybe(draw, mlp_bias=BOOLS, first_k_dense_replace=st.integers(0, 3)),
    }
    if model_type not in ("deepseek_v2", "deepseek_v3", "mistral4"):
        config |= maybe(draw, mlp_layer_types=kinds(config, "dense", "sparse"))
    if model_type == "deepseek_v2":
        config["tie_word_embeddings"] = False
    if model_type in INDEXED:
        config |= {
            "index_head_dim": 16,
            "index_n_heads": draw(st.integers(1, 4)),
            "index_topk": draw(st.integers(2, 32)),
        }
    return config


def _shared_indexers(draw: st.DrawFn, model_type: str) -> dict[str, Any]:
    """Layers that use the choice of an indexer before them."""
    config = mla(draw, model_type)
    rest = draw(kinds(config, "full", "shared"))[1:]
    return config | maybe(draw, indexer_types=st.just(["full", *rest]))


def _large4(draw: st.DrawFn) -> dict[str, Any]:
    config = _shared_indexers(draw, "mistral_large4_text")
    size = config["num_hidden_layers"]
    del config["q_lora_rank"]
    return config | maybe(draw, no_rope_layers=st.lists(st.integers(0, 1), min_size=size, max_size=size))


def _dots3(draw: st.DrawFn) -> dict[str, Any]:
    config = mla(draw, "dots3_note_text") | {"sliding_window": draw(st.integers(2, 40))}
    config |= {f"swa_{key}": config[key] for key in ("num_attention_heads", "num_key_value_heads", "qk_nope_head_dim")}
    config |= {"swa_head_dim": config["swa_qk_nope_head_dim"] + 4, "swa_kv_lora_rank": 16, "swa_q_lora_rank": 8}
    config |= {"shared_experts_intermediate_size": 8 * draw(st.integers(1, 6))}
    config["head_dim"] = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    return config | maybe(draw, layer_types=kinds(config, "indexed_attention", "sliding_attention"))


def _glm5_next(draw: st.DrawFn) -> dict[str, Any]:
    config = _shared_indexers(draw, "glm5_next_text") | {
        "pad_token_id": 0,
        "qk_rope_head_dim": 0,
        "hc_mult": draw(st.integers(2, 4)),
        "index_kpool": draw(st.sampled_from([1, 2, 4])),
        "linear_num_heads": draw(st.sampled_from([1, 2, 4])),
        "linear_head_dim": draw(st.sampled_from([8, 16])),
    }
    config["index_topk"] = 4 * config["index_topk"]
    return config | maybe(draw, layer_types=kinds(config, "linear_attention", "indexed_attention"))


def _longcat(draw: st.DrawFn) -> dict[str, Any]:
    config = mla(draw, "axk1")
    for key in ("num_hidden_layers", "intermediate_size", "n_shared_experts", "first_k_dense_replace", "n_group"):
        config.pop(key, None)
    config["head_dim"] = config["qk_rope_head_dim"]
    config["expert_ffn_hidden_size"] = config.pop("moe_intermediate_size")
    # transformers fails with one expert a token, and allocates rows for experts that do nothing; no checkpoint has any
    config["moe_topk"] = max(2, config.pop("num_experts_per_tok"))
    return config | {"num_layers": draw(st.integers(1, 3)), "ffn_hidden_size": 24, "zero_expert_num": 0}


def _deepseek_v4(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | experts(draw, "n_routed_experts")
    del config["intermediate_size"]
    groups = draw(st.sampled_from([1, 2]))
    config |= {
        "num_key_value_heads": 1,
        "head_dim": 16,
        "q_lora_rank": draw(st.sampled_from([8, 16])),
        "n_shared_experts": 1,
        "o_groups": groups,
        "o_lora_rank": draw(st.sampled_from([4, 8])),
        "sliding_window": draw(st.integers(20, 40)),
        "index_head_dim": 16,
        "index_n_heads": draw(st.integers(1, 3)),
        "index_topk": draw(st.integers(1, 4)),
        "hc_mult": draw(st.integers(2, 4)),
        "compress_rates": {
            "compressed_sparse_attention": draw(st.integers(2, 5)),
            "heavily_compressed_attention": draw(st.integers(6, 16)),
        },
        "num_nextn_predict_layers": 0,
    }
    names = ("sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention")
    return config | maybe(draw, layer_types=kinds(config, *names))


_PLAIN = "deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite mistral4 youtu minicpm3 axk1"
VARIANTS = {
    **{name: partial(mla, model_type=name) for name in _PLAIN.split()},
    "glm_moe_dsa": partial(_shared_indexers, model_type="glm_moe_dsa"),
    "axk2": lambda d: mla(d, "axk2") | {"gated_norm_rank": d(st.sampled_from([4, 8]))},
    "hy_v4": lambda d: _shared_indexers(d, "hy_v4") | {"hc_mult": d(st.integers(2, 4))},
    "mistral_large4_text": _large4,
    "dots3_note_text": _dots3,
    "longcat_flash": _longcat,
    "glm5_next_text": _glm5_next,
    "deepseek_v4": _deepseek_v4,
}
