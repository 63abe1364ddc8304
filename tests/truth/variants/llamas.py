"""Dense decoders in the manner of Llama."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.truth.variants.common import BOOLS, bias, head_dim, kinds, maybe, sizes, window


def _qwen_window(draw: st.DrawFn) -> dict[str, Any]:
    return window(draw, use_sliding_window=BOOLS, max_window_layers=st.integers(0, 4))


def _nemotron(draw: st.DrawFn) -> dict[str, Any]:
    return _exact(sizes(draw)) | bias(draw, mlp_bias=BOOLS)


def _internlm3(draw: st.DrawFn) -> dict[str, Any]:
    same = draw(BOOLS)  # transformers refuses others
    return sizes(draw) | head_dim(draw) | {"attention_bias": same, "mlp_bias": same}


def _exact(config: dict[str, Any]) -> dict[str, Any]:
    """Heads that together are as wide as the hidden states."""
    return config | {"head_dim": config["hidden_size"] // config["num_attention_heads"]}


def _compass(draw: st.DrawFn) -> dict[str, Any]:
    config = _kinds(draw, sizes(draw) | bias(draw) | window(draw))
    rope = {"rope_type": "default", "rope_theta": 1e4}
    return config | {"rope_parameters": dict.fromkeys(set(config.get("layer_types", ["full_attention"])), rope)}


def _no_groups(config: dict[str, Any]) -> dict[str, Any]:
    """A head of keys and values for each of queries."""
    del config["num_key_value_heads"]
    return config


def _kinds(draw: st.DrawFn, config: dict[str, Any]) -> dict[str, Any]:
    """Layers with a window and without, in any order."""
    return config | maybe(draw, layer_types=kinds(config, "full_attention", "sliding_attention"))


def _sections(config: dict[str, Any]) -> dict[str, Any]:
    """Rotary angles of time, height and width."""
    half = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"]) // 2
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}
    return config | {"rope_parameters": rope}


def _molmo2(draw: st.DrawFn) -> dict[str, Any]:
    more = maybe(draw, qk_norm_type=st.sampled_from(["qwen3", "olmo"]), additional_vocab_size=st.integers(0, 20))
    return sizes(draw) | head_dim(draw) | bias(draw) | more


VARIANTS = {
    "llama": lambda d: sizes(d) | bias(d, mlp_bias=BOOLS) | (head_dim(d) if d(BOOLS) else {}),
    "mistral": lambda d: sizes(d) | window(d) | head_dim(d),
    "ministral3": lambda d: sizes(d) | window(d) | head_dim(d),
    "qwen2": lambda d: sizes(d) | _qwen_window(d),
    "qwen3": lambda d: sizes(d) | head_dim(d) | bias(d) | _qwen_window(d),
    "gemma": lambda d: sizes(d) | head_dim(d) | bias(d),
    "gemma2": lambda d: sizes(d) | head_dim(d) | bias(d) | window(d),
    "gemma3_text": lambda d: sizes(d) | head_dim(d) | bias(d) | window(d),
    "glm": lambda d: sizes(d) | head_dim(d) | bias(d),
    "glm4": lambda d: sizes(d) | head_dim(d) | bias(d),
    "olmo": lambda d: sizes(d) | bias(d),
    "olmo2": lambda d: sizes(d) | bias(d),
    "olmo3": lambda d: sizes(d) | window(d) | bias(d),
    "exaone4": lambda d: sizes(d) | window(d),
    "granite": lambda d: sizes(d) | bias(d, mlp_bias=BOOLS),
    "cohere": lambda d: sizes(d) | bias(d, use_qk_norm=BOOLS),
    "cohere2": lambda d: sizes(d) | bias(d) | window(d),
    "seed_oss": lambda d: sizes(d) | head_dim(d) | bias(d, attention_out_bias=BOOLS, mlp_bias=BOOLS),
    "ernie4_5": lambda d: sizes(d) | head_dim(d) | maybe(d, use_bias=BOOLS),
    "smollm3": lambda d: sizes(d) | bias(d, mlp_bias=BOOLS) | window(d, use_sliding_window=BOOLS),
    "stablelm": lambda d: sizes(d) | maybe(d, use_qkv_bias=BOOLS, use_parallel_residual=BOOLS, qk_layernorm=BOOLS),
    "starcoder2": lambda d: sizes(d) | maybe(d, use_bias=BOOLS) | window(d),
    "nemotron": _nemotron,
    "internlm3": _internlm3,
    "iquestcoder": lambda d: sizes(d) | head_dim(d) | bias(d, mlp_bias=BOOLS),
    "emu3_text_model": lambda d: sizes(d) | bias(d, mlp_bias=BOOLS) | {"pad_token_id": 0},
    "helium": lambda d: _exact(sizes(d)) | bias(d, mlp_bias=BOOLS),
    "hyperclovax": lambda d: sizes(d) | bias(d, mlp_bias=BOOLS, use_post_norm=BOOLS),
    "cwm": lambda d: sizes(d) | head_dim(d) | window(d, mlp_bias=BOOLS),
    "arcee": lambda d: sizes(d) | head_dim(d) | bias(d, mlp_bias=BOOLS),
    "jais2": lambda d: sizes(d) | head_dim(d) | bias(d, mlp_bias=BOOLS),
    "cosmos3_edge_text": lambda d: _sections(sizes(d) | head_dim(d) | bias(d, mlp_bias=BOOLS)),
    "apertus": lambda d: sizes(d) | bias(d, hidden_act=st.sampled_from(["silu"])),
    "bitnet": lambda d: sizes(d) | bias(d),
    "nanochat": lambda d: sizes(d) | bias(d),
    "hunyuan_v1_dense": lambda d: sizes(d) | head_dim(d) | bias(d),
    "hunyuan_vl_text": lambda d: _sections(sizes(d) | head_dim(d) | bias(d)),
    "molmo2_text": _molmo2,
    "muse_glimmer_text": lambda d: _kinds(d, sizes(d) | head_dim(d) | bias(d) | window(d)),
    "diffllama": lambda d: (
        sizes(d) | head_dim(d) | bias(d) | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    ),
    "doge": lambda d: sizes(d) | bias(d, mlp_bias=BOOLS),
    "persimmon": lambda d: _no_groups(sizes(d)) | maybe(d, qk_layernorm=BOOLS),
    "ministral": lambda d: _kinds(d, sizes(d) | window(d) | head_dim(d)),
    "voxtral_realtime_text": lambda d: sizes(d) | window(d) | head_dim(d),
    "vaultgemma": lambda d: sizes(d) | head_dim(d) | bias(d) | window(d),
    "glm4v_text": lambda d: _sections(sizes(d)),
    "glm_ocr_text": lambda d: _sections(sizes(d)),
    "granite_swa": lambda d: _kinds(d, sizes(d) | bias(d, mlp_bias=BOOLS) | window(d)),
    "cohere_compass_text": _compass,
}
