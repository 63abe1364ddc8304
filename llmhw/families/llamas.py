"""Dense decoders in the manner of Llama."""

from __future__ import annotations

from llmhw.families.builder import Body, Builder
from llmhw.families.config import Config
from llmhw.families.decoder import (
    FOUR_NORMS,
    ONE_NORM,
    POST_NORMS,
    TWO_NORMS,
    _qwen_windows,
    all_full,
    all_sliding,
    decoder,
    every_nth,
    plain,
    rotary_layers,
)
from llmhw.families.family import Family, Style, family
from llmhw.model import Attention
from llmhw.units import LLMHWError


def _llama(c: Config) -> Body:
    return decoder(c, all_full(c))


def _mistral(c: Config) -> Body:
    return decoder(c, all_sliding(c), bias=False)


def _qwen2(c: Config) -> Body:
    return decoder(c, _qwen_windows(c), bias=True, out_bias=False)


def _qwen3(c: Config) -> Body:
    return decoder(c, _qwen_windows(c), qk_norm="head")


def _gemma2(c: Config) -> Body:
    return decoder(c, every_nth(c, 2), norms=FOUR_NORMS)


def _gemma3(c: Config) -> Body:
    return decoder(c, every_nth(c, 6), norms=FOUR_NORMS, qk_norm="head")


def _glm(c: Config) -> Body:
    norms = TWO_NORMS
    if c.model_type == "glm4":
        norms = {**norms, "post_self_attn_layernorm": "norm", "post_mlp_layernorm": "norm_out"}
    return decoder(
        c,
        all_full(c),
        out_bias=False,
        norms=norms,
        feed_forward=lambda b, _: b.fused_mlp("mlp", c.hidden, c.intermediate),
    )


def _olmo(c: Config) -> Body:
    return decoder(c, all_full(c), norms={}, norm=None)


def _olmo2(c: Config) -> Body:
    types = every_nth(c, 4) if c.model_type == "olmo3" else all_full(c)
    return decoder(c, types, qk_norm="hidden", norms=POST_NORMS)


def _cohere(c: Config) -> Body:
    def head_norms(b: Builder, a: Attention) -> None:
        if c.flag("use_qk_norm"):
            b.plain("self_attn.q_norm.weight", "q_norm", (a.heads, a.head_dim))
            b.plain("self_attn.k_norm.weight", "k_norm", (a.kv_heads, a.head_dim))

    types = every_nth(c, 4) if c.model_type == "cohere2" else all_full(c)
    return decoder(c, types, norms=ONE_NORM, extra=head_norms)


def _exaone4(c: Config) -> Body:
    types = every_nth(c, 4) if c.get("sliding_window") else c.layer_types(lambda i: "full_attention")
    return decoder(c, types, bias=False, qk_norm="head", norms=POST_NORMS)


def _seed_oss(c: Config) -> Body:
    return decoder(c, all_full(c), out_bias=c.flag("attention_out_bias"))


def _ernie(c: Config) -> Body:
    bias = c.flag("use_bias")
    return decoder(
        c, all_full(c), bias=bias, feed_forward=lambda b, _: b.gated_mlp("mlp", c.hidden, c.intermediate, bias=bias)
    )


def _smollm3(c: Config) -> Body:
    rope = rotary_layers(c)
    on = c.flag("use_sliding_window") and c.get("sliding_window")
    types = c.layer_types(lambda i: "sliding_attention" if on and not rope[i] else "full_attention")
    return decoder(c, types)


def _stablelm(c: Config) -> Body:
    if c.flag("qk_layernorm"):
        raise LLMHWError("config key qk_layernorm=true of model_type='stablelm' is not covered; set it to false")
    parallel = c.flag("use_parallel_residual")
    norms = ONE_NORM if parallel else TWO_NORMS
    return decoder(c, all_full(c), bias=c.flag("use_qkv_bias"), out_bias=False, norms=norms, norm_bias=True)


def _starcoder2(c: Config) -> Body:
    bias = c.flag("use_bias")
    mlp = plain(c, "mlp.c_fc", "mlp.c_proj", bias)
    return decoder(c, all_sliding(c), bias=bias, norm_bias=True, feed_forward=mlp)


def _nemotron(c: Config) -> Body:
    mlp = plain(c, "mlp.up_proj", "mlp.down_proj", c.flag("mlp_bias"))
    return decoder(c, all_full(c), norm_bias=True, feed_forward=mlp)


# fmt: off
TABLE: dict[str, Family] = {
    "llama": family(_llama, "Llama 1 to 3", style=Style(), gguf="70b-gqa"),
    "mistral": family(_mistral, "Mistral", style=Style(), num_key_value_heads=8, sliding_window=4096),
    "ministral3": family(_mistral, "Mistral 3", style=Style(query_scale=True), num_key_value_heads=8, head_dim=128),
    "qwen2": family(_qwen2, "Qwen 2 and 2.5", synonyms=("mimo",), style=Style(), gguf="70b", max_window_layers=28,
        sliding_window=4096),
    "qwen3": family(_qwen3, "Qwen 3", synonyms=("qwen3_vl_text",), style=Style(), head_dim=128, max_window_layers=28,
        sliding_window=4096),
    "gemma": family(_llama, "Gemma", style=Style(norm="rms-plus-1", activation="gelu_pytorch_tanh"), head_dim=256,
        tie_word_embeddings=True),
    "gemma2": family(_gemma2, "Gemma 2", style=Style(block="sandwich", norm="rms-plus-1",
        activation="gelu_pytorch_tanh", softcap=True, logit_softcap=True, sdpa=False), head_dim=256,
        sliding_window=4096, tie_word_embeddings=True),
    "gemma3_text": family(_gemma3, "Gemma 3", synonyms=("gemma3",), style=Style(block="sandwich", norm="rms-plus-1",
        activation="gelu_pytorch_tanh", rotary_by_kind=True), vocab_size=262208, num_attention_heads=8,
        num_key_value_heads=4, head_dim=256, sliding_window=4096, tie_word_embeddings=True),
    "glm": family(_glm, "GLM-4", style=Style(rotary_own=True, rotary_cat=True), rotary=0.5, head_dim=128,
        attention_bias=True),
    "glm4": family(_glm, "GLM-4-0414", style=Style(block="sandwich", rotary_own=True, rotary_cat=True), rotary=0.5,
        head_dim=128, attention_bias=True),
    "olmo": family(_olmo, "OLMo", style=Style(norm="layer-fp32", rotary_fp32=True)),
    "olmo2": family(_olmo2, "OLMo 2", style=Style(block="post", norm="rms-late", rotary_fp32=True)),
    "olmo3": family(_olmo2, "OLMo 3", style=Style(block="post", norm="rms-late", rotary_fp32=True,
        rotary_by_kind=True), sliding_window=4096),
    "granite": family(_llama, "Granite", style=Style()),
    "cohere": family(_cohere, "Cohere Command R", style=Style(block="parallel", norm="cohere"),
        tie_word_embeddings=True),
    "cohere2": family(_cohere, "Cohere Command R7B and A", style=Style(block="parallel", norm="cohere"),
        sliding_window=4096, tie_word_embeddings=True),
    "exaone4": family(_exaone4, "EXAONE 4", style=Style(block="post"), sliding_window=4096),
    "seed_oss": family(_seed_oss, "Seed-OSS", style=Style(), dropout=True, head_dim=128, attention_bias=True),
    "ernie4_5": family(_ernie, "ERNIE 4.5", style=Style(rotary_fp32=True, rotary_own=True), head_dim=128,
        tie_word_embeddings=True),
    "smollm3": family(_smollm3, "SmolLM3", style=Style(), num_key_value_heads=4, no_rope_layer_interval=4,
        tie_word_embeddings=True),
    "stablelm": family(_stablelm, "StableLM", style=Style(norm="layer", rotary_cat=True), rotary=0.25),
    "starcoder2": family(_starcoder2, "StarCoder 2", style=Style(norm="layer", activation="gelu_pytorch_tanh"),
        num_key_value_heads=2, use_bias=True, tie_word_embeddings=True),
    "nemotron": family(_nemotron, "Nemotron 4 and Minitron", style=Style(norm="layer-plus-1", activation="relu2",
        rotary_cat=True), rotary=0.5),
}
# fmt: on
