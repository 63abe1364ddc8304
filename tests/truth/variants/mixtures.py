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


def _sparse(draw: st.DrawFn, config: dict[str, Any]) -> dict[str, Any]:
    return config | maybe(draw, mlp_layer_types=kinds(config, "dense", "sparse"))


def _windows(draw: st.DrawFn, config: dict[str, Any]) -> dict[str, Any]:
    return config | window(draw) | maybe(draw, layer_types=kinds(config, "full_attention", "sliding_attention"))


def _shared(draw: st.DrawFn, key: str, shared: str = "n_shared_experts", **more: Any) -> dict[str, Any]:
    """DeepSeek's experts, beside shared ones."""
    return sizes(draw) | experts(draw, key) | {shared: draw(st.integers(1, 3))} | maybe(draw, **more)


def _ernie_moe(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | experts(draw, "moe_num_experts")
    config["moe_k"] = config.pop("num_experts_per_tok")
    return config | maybe(
        draw,
        use_bias=BOOLS,
        moe_num_shared_experts=st.integers(1, 3),
        moe_layer_start_index=st.integers(0, 3),
        moe_layer_end_index=st.integers(0, 4),
        moe_layer_interval=st.integers(1, 2),
    )


def _minimax_m3(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | {"head_dim": 16, "rotary_dim": 8} | _local(draw)
    config = _sparse(draw, config) | {
        "index_n_heads": config["num_key_value_heads"],
        "index_head_dim": 16,
        "index_block_size": draw(st.integers(2, 4)),
        "index_topk_blocks": draw(st.integers(1, 3)),
        "dense_intermediate_size": 8 * draw(st.integers(1, 6)),
        "shared_intermediate_size": 8 * draw(st.integers(1, 6)),
    }
    return config | maybe(draw, layer_types=kinds(config, "full_attention", "minimax_m3_sparse"))


def _step(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | head_dim(draw) | bias(draw, mlp_bias=BOOLS) | experts(draw, "n_routed_experts")
    config |= {
        "pad_token_id": 0,
        "share_expert_dim": 8 * draw(st.integers(1, 6)),
        "sliding_window": draw(st.integers(2, 40)),
    }
    config |= {"layer_types": draw(kinds(config, "full_attention", "sliding_attention"))}
    heads = config["num_attention_heads"]
    return _sparse(draw, config) | maybe(draw, num_sliding_attention_heads=st.sampled_from([heads, 2 * heads]))


def _hunyuan(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | head_dim(draw) | bias(draw) | experts(draw, "num_experts")
    config["moe_topk"] = config.pop("num_experts_per_tok")
    if draw(BOOLS):
        config["moe_topk"] = [config["moe_topk"]] * config["num_hidden_layers"]
    del config["moe_intermediate_size"]
    return config


def _aria(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | bias(draw, mlp_bias=BOOLS) | experts(draw, "moe_num_experts")
    config["moe_topk"] = config.pop("num_experts_per_tok")
    del config["moe_intermediate_size"]
    return config | maybe(draw, moe_num_shared_experts=st.integers(1, 3))


def _cohere_moe(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | head_dim(draw) | bias(draw, num_shared_experts=st.integers(0, 2)) | window(draw)
    config |= experts(draw, "num_experts") | {"prefix_dense_intermediate_size": 8 * draw(st.integers(1, 6))}
    del config["moe_intermediate_size"]
    more = {"first_k_dense_replace": st.integers(0, config["num_hidden_layers"])}
    return config | maybe(draw, prefix_dense_sliding_window_pattern=st.integers(1, 3), **more)


def _laguna(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | head_dim(draw) | bias(draw, gating=st.sampled_from([True, "per-head", "per-element"]))
    config |= experts(draw, "num_experts") | {"shared_expert_intermediate_size": 8 * draw(st.integers(1, 6))}
    heads = st.sampled_from([config["num_attention_heads"], 2 * config["num_attention_heads"]])
    size = config["num_hidden_layers"]
    config |= maybe(draw, num_attention_heads_per_layer=st.lists(heads, min_size=size, max_size=size))
    return _windows(draw, _sparse(draw, config))


def _granite(draw: st.DrawFn) -> dict[str, Any]:
    return sizes(draw) | bias(draw, shared_intermediate_size=st.sampled_from([0, 16, 24])) | _local(draw)


def _deepseek_ocr(draw: st.DrawFn) -> dict[str, Any]:
    config = _shared(draw, "n_routed_experts", mlp_bias=BOOLS) | bias(draw)
    return config | {"mlp_layer_types": draw(kinds(config, "dense", "sparse"))}


def _ernie_vl(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | experts(draw, "moe_num_experts")
    config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    half = config["head_dim"] // 2
    section = [half // 2 - 1, half // 2 - 1, 2]
    config |= {
        "moe_k": config.pop("num_experts_per_tok"),
        "moe_intermediate_size": [config["moe_intermediate_size"], 8 * draw(st.integers(1, 6))],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section},
    }
    return _sparse(draw, config | maybe(draw, use_bias=BOOLS, moe_num_shared_experts=st.integers(1, 3)))


def _muse(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | head_dim(draw) | bias(draw) | experts(draw, "num_local_experts")
    config |= {"pad_token_id": 0, "moe_hidden_size": 8 * draw(st.integers(1, 6))}
    return _windows(draw, _sparse(draw, config))


def _glm4v_moe(draw: st.DrawFn) -> dict[str, Any]:
    config = _shared(draw, "n_routed_experts", first_k_dense_replace=st.integers(0, 3), attention_bias=BOOLS)
    turned = config["hidden_size"] // config["num_attention_heads"] // 4
    section = [turned - turned // 2, turned // 2, 0]
    return config | {
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": section,
        }
    }  # fmt: skip


def _flint(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | head_dim(draw) | bias(draw) | experts(draw, "num_experts") | _qwen_dense(draw)
    return _windows(draw, config | {"shared_expert_intermediate_size": 8 * draw(st.integers(1, 6))})


def _kolibri1(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | head_dim(draw) | experts(draw, "num_experts") | window(draw)
    config |= {"shared_expert_intermediate_size": 8 * draw(st.integers(1, 6))}
    return config | maybe(draw, layer_types=kinds(config, "full_attention", "sliding_attention"))


VARIANTS = {
    "kolibri1": _kolibri1,
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
    "ernie4_5_moe": _ernie_moe,
    "minimax_m3_vl_text": _minimax_m3,
    "step3p5": _step,
    "hunyuan_v1_moe": _hunyuan,
    "hy_v3": lambda d: _sparse(d, _shared(d, "num_experts", "num_shared_experts", mlp_bias=BOOLS) | head_dim(d)),
    "dots1": lambda d: _windows(d, _shared(d, "n_routed_experts", first_k_dense_replace=st.integers(0, 3))),
    "glm4v_moe_text": _glm4v_moe,
    "solar_open": lambda d: _shared(d, "n_routed_experts") | head_dim(d) | bias(d),
    "exaone_moe": lambda d: _sparse(d, _windows(d, _shared(d, "num_experts", "num_shared_experts"))),
    "granitemoeshared": _granite,
    "granitemoe_swa": lambda d: _windows(d, _granite(d)),
    "afmoe": lambda d: _windows(
        d,
        _shared(d, "num_experts", "num_shared_experts", num_dense_layers=st.integers(0, 3)) | head_dim(d) | bias(d),
    ),
    "aria_text": _aria,
    "cohere2_moe": _cohere_moe,
    "deepseek_ocr2_text": _deepseek_ocr,
    "ernie4_5_vl_moe_text": _ernie_vl,
    "muse_spark_text": _muse,
    "flex_olmo": lambda d: sizes(d) | bias(d) | experts(d, "num_experts", "intermediate_size"),
    "flint": _flint,
    "laguna": _laguna,
    "mellum": lambda d: _sparse(d, _windows(d, sizes(d) | head_dim(d) | bias(d) | experts(d, "num_experts"))),
}
