"""Dense decoders in the manner of Llama."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.truth.variants.common import BOOLS, bias, head_dim, maybe, sizes, window


def _qwen_window(draw: st.DrawFn) -> dict[str, Any]:
    return window(draw, use_sliding_window=BOOLS, max_window_layers=st.integers(0, 4))


def _nemotron(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw)
    config |= {"head_dim": config["hidden_size"] // config["num_attention_heads"]}
    return config | bias(draw, mlp_bias=BOOLS)


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
    "stablelm": lambda d: sizes(d) | maybe(d, use_qkv_bias=BOOLS, use_parallel_residual=BOOLS),
    "starcoder2": lambda d: sizes(d) | maybe(d, use_bias=BOOLS) | window(d),
    "nemotron": _nemotron,
}
