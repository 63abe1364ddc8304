"""Dense decoders in the manner of Llama."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llmhw.families.builder import Body, Builder, attention_of, outer_of
from llmhw.families.config import Config
from llmhw.families.decoder import (
    FOUR_NORMS,
    GLM_NORMS,
    ONE_NORM,
    POST_NORMS,
    TWO_NORMS,
    _qwen_windows,
    all_full,
    all_sliding,
    decoder,
    every_nth,
    mtp_of,
    plain,
    rotary_layers,
    window_of,
)
from llmhw.families.family import Family, Style, family
from llmhw.model import Attention
from llmhw.units import LLMHWError


def _llama(c: Config) -> Body:
    return decoder(c, all_full(c), mlp_bias=c.flag("mlp_bias"))


def _internlm3(c: Config) -> Body:
    """InternLM 3, with the names that its own code has for the biases of Llama."""
    bias = bool(c.get("mlp_bias", "bias", default=False))
    qkv = bool(c.get("attention_bias", "qkv_bias", default=False))
    return decoder(c, all_full(c), bias=qkv, out_bias=bias, mlp_bias=bias)


def _mistral(c: Config) -> Body:
    return decoder(c, all_sliding(c), bias=False)


def _ministral(c: Config) -> Body:
    return decoder(c, c.layer_types(lambda i: all_sliding(c)[i]), bias=False)


def _voxtral(c: Config) -> Body:
    """Mistral whose feed-forward part is scaled by how late the words may be."""

    def delays(b: Builder, a: Attention) -> None:
        b.linear("ada_rms_norm.linear1", "latent", 32, c.hidden)
        b.linear("ada_rms_norm.linear2", "latent", c.hidden, 32)

    return decoder(c, all_sliding(c), bias=False, extra=delays)


def _cwm(c: Config) -> Body:
    window = c.get("sliding_window")
    types = c.layer_types(lambda i: "sliding_attention" if i % 4 and window else "full_attention")
    return decoder(c, types, bias=False, mlp_bias=c.flag("mlp_bias"))


def _granite_swa(c: Config) -> Body:
    def sinks(b: Builder, a: Attention) -> None:
        b.plain("self_attn.sinks", "heads", (a.heads,))

    types = c.layer_types(lambda i: "sliding_attention" if i % 4 else "full_attention")
    return decoder(c, types, mlp_bias=c.flag("mlp_bias"), extra=sinks)


def _hyperclovax(c: Config) -> Body:
    more = {"post_norm1": "norm", "post_norm2": "norm_out"} if c.flag("use_post_norm") else {}
    return decoder(c, all_full(c), norms=TWO_NORMS | more, mlp_bias=c.flag("mlp_bias"))


def _helium(c: Config) -> Body:
    """Llama whose heads together are as wide as the hidden states."""
    if c.heads * c.head_dim != c.hidden:
        raise LLMHWError(f"heads={c.heads} of head_dim={c.head_dim} must be hidden_size={c.hidden} wide in this family")
    return decoder(c, all_full(c), out_bias=False, mlp_bias=c.flag("mlp_bias"))


def _arcee(c: Config) -> Body:
    mlp = plain(c, "mlp.up_proj", "mlp.down_proj", c.flag("mlp_bias"))
    return decoder(c, all_full(c), norm_bias=c.model_type == "jais2", feed_forward=mlp)


def _cosmos(c: Config) -> Body:
    return decoder(c, all_full(c), feed_forward=plain(c, "mlp.fc1", "mlp.fc2", c.flag("mlp_bias")))


def _apertus(c: Config) -> Body:
    def mlp(b: Builder, _: int) -> None:
        b.plain_mlp("mlp.up_proj", "mlp.down_proj", c.hidden, c.intermediate)
        if c.get("hidden_act") == "xielu":  # an activation function with two numbers that are learned
            b.plain("mlp.act_fn.alpha_p", "latent", (1,))
            b.plain("mlp.act_fn.alpha_n", "latent", (1,))

    norms = {"attention_layernorm": "norm_in", "feedforward_layernorm": "norm"}
    return decoder(c, all_full(c), qk_norm="head", norms=norms, feed_forward=mlp)


def _nanochat(c: Config) -> Body:
    """Norms without weights."""
    mlp = plain(c, "mlp.fc1", "mlp.fc2", False)
    return decoder(c, all_full(c), norms={}, norm=None, feed_forward=mlp)


def _bitnet(c: Config) -> Body:
    """Norms before the last matrix of both parts."""

    def mlp(b: Builder, _: int) -> None:
        b.gated_mlp("mlp", c.hidden, c.intermediate)
        b.norm("mlp.ffn_sub_norm", c.intermediate, "inner_norm")

    def inner(b: Builder, a: Attention) -> None:
        b.norm("self_attn.attn_sub_norm", c.hidden, "inner_norm")

    return decoder(c, all_full(c), extra=inner, feed_forward=mlp)


def _hunyuan(c: Config) -> Body:
    def norms(b: Builder, a: Attention) -> None:
        b.norm("self_attn.query_layernorm", a.head_dim, "q_norm")
        b.norm("self_attn.key_layernorm", a.head_dim, "k_norm")

    return decoder(c, all_full(c), extra=norms)


def _molmo2(c: Config) -> Body:
    """Rows for the tokens of images behind those of the vocabulary, which are never predicted."""
    bias = bool(c.get("attention_bias", "qkv_bias", default=False))
    qk_norm = "head" if c.get("qk_norm_type") == "qwen3" else "hidden"
    body = decoder(c, all_full(c), bias=bias, out_bias=False, qk_norm=qk_norm)
    rows = c.vocab + c.count("additional_vocab_size", least=0)
    return replace(body, outer=outer_of(c, "model.embed_tokens", "model.norm", rows=rows))


def _muse_glimmer(c: Config) -> Body:
    """A gate on attention's output, and norms before and behind both parts."""

    def gate(b: Builder, a: Attention) -> None:
        b.linear("self_attn.gate_proj", "g", a.heads * a.head_dim, c.hidden)

    last = c.layers - 1
    types = c.layer_types(lambda i: "sliding_attention" if (last - i) % 4 else "full_attention")
    return decoder(c, types, norms=FOUR_NORMS, extra=gate)


def _vaultgemma(c: Config) -> Body:
    norms = {**ONE_NORM, "pre_feedforward_layernorm": "norm"}
    return decoder(c, every_nth(c, 2), norms=norms)


def _diffllama(c: Config) -> Body:
    """Differential attention: a second softmax is taken off the first, each over both halves of the values."""

    def lambdas(b: Builder, a: Attention) -> None:
        for name in ("q1", "k1", "q2", "k2"):
            b.plain(f"self_attn.lambda_{name}", "mix", (a.head_dim,))

    if c.kv_heads % 2:
        raise LLMHWError(f"config key num_key_value_heads={c.kv_heads} must be even: values are halved by heads")
    body = decoder(c, all_full(c), extra=lambdas)
    # the scores are multiplied with both halves in turn, so that heads compute twice and cache once
    twice = replace(body.layers[0], attention=replace(attention_of(c), heads=2 * c.heads))
    return replace(body, layers=[twice] * c.layers)


def _doge(c: Config) -> Body:
    """Attention whose mask is made of the values, and residuals with a weight for each element."""
    if c.flag("is_moe"):
        raise LLMHWError("config key is_moe=true of model_type='doge' is not covered: experts of a single neuron")
    bias = c.flag("attention_bias")

    def more(b: Builder, a: Attention) -> None:
        b.plain("self_attn.A", "mix", (a.kv_heads,))
        b.linear("self_attn.dt_proj", "mix", a.kv_heads, a.kv_heads * a.head_dim, bias=bias)
        b.plain("input_residual", "mix", (c.hidden,))
        b.plain("post_attention_residual", "mix", (c.hidden,))

    return decoder(c, all_full(c), qk_norm="head", extra=more, mlp_bias=c.flag("mlp_bias"))


def _persimmon(c: Config) -> Body:
    """GPT-NeoX's matrices with biases, and norms of each head with biases."""
    a = attention_of(c)
    b = Builder()
    b.linear("self_attn.query_key_value", "qkv", 3 * c.hidden, c.hidden, bias=True)
    b.linear("self_attn.dense", "o", c.hidden, c.hidden, bias=True)
    if c.flag("qk_layernorm"):
        b.norm("self_attn.q_layernorm", a.head_dim, "q_norm", bias=True)
        b.norm("self_attn.k_layernorm", a.head_dim, "k_norm", bias=True)
    b.plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", c.hidden, c.intermediate, bias=True)
    b.norms(TWO_NORMS, c.hidden, bias=True)
    outer = outer_of(c, "model.embed_tokens", "model.final_layernorm", norm_bias=True)
    return Body([b.layer(a)] * c.layers, outer, c.intermediate)


def _qwen2(c: Config) -> Body:
    body = decoder(c, _qwen_windows(c), bias=True, out_bias=False)
    return replace(body, mtp=mtp_of(c, body.layers[-1]))  # MiMo's


def _qwen3(c: Config) -> Body:
    return decoder(c, _qwen_windows(c), qk_norm="head")


def _gemma(c: Config) -> Body:
    return decoder(c, all_full(c))


def _gemma2(c: Config) -> Body:
    return decoder(c, every_nth(c, 2), norms=FOUR_NORMS)


def _gemma3(c: Config) -> Body:
    both = c.flag("use_bidirectional_attention")  # EmbeddingGemma: tokens see later ones, too

    def attention(kind: str) -> Attention:
        return replace(attention_of(c, *window_of(c, kind)), causal=not both)

    return decoder(c, every_nth(c, 6), norms=FOUR_NORMS, qk_norm="head", attention=attention)


def _glm(c: Config) -> Body:
    return _glm_with(c, TWO_NORMS, c.flag("attention_bias"))


def _glm4(c: Config) -> Body:
    return _glm_with(c, GLM_NORMS, c.flag("attention_bias"))


def _glm4v(c: Config) -> Body:
    return _glm_with(c, GLM_NORMS, c.model_type == "glm4v_text")


def _glm_with(c: Config, norms: Mapping[str, str], bias: bool) -> Body:
    def mlp(b: Builder, _: int) -> None:
        b.fused_mlp("mlp", c.hidden, c.intermediate)

    return decoder(c, all_full(c), bias=bias, out_bias=False, norms=norms, feed_forward=mlp)


def _olmo(c: Config) -> Body:
    return decoder(c, all_full(c), norms={}, norm=None)


def _olmo2(c: Config) -> Body:
    types = every_nth(c, 4) if c.model_type == "olmo3" else all_full(c)
    return decoder(c, types, qk_norm="hidden", norms=POST_NORMS)


def _cohere(c: Config) -> Body:
    def norms(b: Builder, a: Attention) -> None:
        if c.flag("use_qk_norm"):
            b.plain("self_attn.q_norm.weight", "q_norm", (a.heads, a.head_dim))
            b.plain("self_attn.k_norm.weight", "k_norm", (a.kv_heads, a.head_dim))

    return decoder(c, all_full(c), norms=ONE_NORM, extra=norms)


def _cohere2(c: Config) -> Body:
    return decoder(c, every_nth(c, 4), norms=ONE_NORM)


def _cohere_compass(c: Config) -> Body:
    return decoder(c, c.layer_types(lambda i: "full_attention"), norms=ONE_NORM)


def _exaone4(c: Config) -> Body:
    types = every_nth(c, 4) if c.get("sliding_window") else c.layer_types(lambda i: "full_attention")
    body = decoder(c, types, bias=False, qk_norm="head", norms=POST_NORMS)
    return replace(body, mtp=mtp_of(c, body.layers[-1]))


def _seed_oss(c: Config) -> Body:
    return decoder(c, all_full(c), out_bias=c.flag("attention_out_bias"), mlp_bias=c.flag("mlp_bias"))


def _ernie(c: Config) -> Body:
    bias = c.flag("use_bias")
    return decoder(c, all_full(c), bias=bias, mlp_bias=bias)


def _smollm3(c: Config) -> Body:
    rope = rotary_layers(c)
    on = c.flag("use_sliding_window") and c.get("sliding_window")
    types = c.layer_types(lambda i: "sliding_attention" if on and not rope[i] else "full_attention")
    return decoder(c, types, mlp_bias=c.flag("mlp_bias"))


def _stablelm(c: Config) -> Body:
    def each_head(b: Builder, a: Attention) -> None:
        for name, heads in (("q", a.heads), ("k", a.kv_heads)) if c.flag("qk_layernorm") else ():
            for i in range(heads):
                b.norm(f"self_attn.{name}_layernorm.norms.{i}", a.head_dim, f"{name}_norm")

    norms = ONE_NORM if c.flag("use_parallel_residual") else TWO_NORMS
    bias = c.flag("use_qkv_bias")
    return decoder(c, all_full(c), bias=bias, out_bias=False, norms=norms, norm_bias=True, extra=each_head)


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
    "internlm3": family(_internlm3, "InternLM 3", style=Style(), num_key_value_heads=2, head_dim=128),
    "iquestcoder": family(_llama, "IQuest Coder", style=Style(), num_key_value_heads=8, head_dim=128),
    "emu3_text_model": family(_llama, "Emu3", num_key_value_heads=8),
    "helium": family(_helium, "Helium", head_dim=128),
    "hyperclovax": family(_hyperclovax, "HyperCLOVA X", use_post_norm=True),
    "cwm": family(_cwm, "Code World Model", style=Style(), num_key_value_heads=8, head_dim=128, sliding_window=8192),
    "arcee": family(_arcee, "Arcee AFM", style=Style(activation="relu2")),
    "jais2": family(_arcee, "Jais 2", style=Style(norm="layer", activation="relu2"), attention_bias=True,
        mlp_bias=True),
    "cosmos3_edge_text": family(_cosmos, "Cosmos 3 Edge", num_key_value_heads=8, head_dim=128),
    "apertus": family(_apertus, "Apertus", hidden_act="xielu"),
    "bitnet": family(_bitnet, "BitNet", num_key_value_heads=5),
    "nanochat": family(_nanochat, "nanochat"),
    "hunyuan_v1_dense": family(_hunyuan, "Hunyuan", style=Style()),
    "hunyuan_vl_text": family(_hunyuan, "Hunyuan OCR", tie_word_embeddings=True),
    "molmo2_text": family(_molmo2, "Molmo 2", num_key_value_heads=8, head_dim=128,
        qk_norm_type="qwen3", additional_vocab_size=128),
    "muse_glimmer_text": family(_muse_glimmer, "Muse Glimmer", num_key_value_heads=2, head_dim=128,
        sliding_window=2048),
    "diffllama": family(_diffllama, "DiffLlama"),
    "doge": family(_doge, "Doge"),
    "persimmon": family(_persimmon, "Persimmon", rotary=0.5, qk_layernorm=True),
    "mistral": family(_mistral, "Mistral", style=Style(), num_key_value_heads=8, sliding_window=4096),
    "ministral3": family(_mistral, "Mistral 3", style=Style(query_scale=True), num_key_value_heads=8, head_dim=128),
    "ministral": family(_ministral, "Ministral", style=Style(), num_key_value_heads=8, sliding_window=4096),
    "voxtral_realtime_text": family(_voxtral, "Voxtral Realtime", num_key_value_heads=8, sliding_window=4096,
        arithmetic="the scale for a delay is made once for all tokens"),
    "qwen2": family(_qwen2, "Qwen 2 and 2.5", synonyms=("mimo", "qwen2_vl_text", "qwen2_5_vl_text",
        "qwen2_5_omni_text"), style=Style(), gguf="70b", max_window_layers=28,
        sliding_window=4096),
    "qwen3": family(_qwen3, "Qwen 3", synonyms=("qwen3_vl_text",), style=Style(), head_dim=128, max_window_layers=28,
        sliding_window=4096),
    "gemma": family(_gemma, "Gemma", style=Style(norm="rms-plus-1", activation="gelu_pytorch_tanh"), head_dim=256,
        tie_word_embeddings=True),
    "gemma2": family(_gemma2, "Gemma 2", style=Style(block="sandwich", norm="rms-plus-1",
        activation="gelu_pytorch_tanh", softcap=True, logit_softcap=True, sdpa=False), head_dim=256,
        sliding_window=4096, tie_word_embeddings=True),
    "gemma3_text": family(_gemma3, "Gemma 3", synonyms=("gemma3",), style=Style(block="sandwich", norm="rms-plus-1",
        activation="gelu_pytorch_tanh", rotary_by_kind=True), vocab_size=262208, num_attention_heads=8,
        num_key_value_heads=4, head_dim=256, sliding_window=4096, tie_word_embeddings=True),
    "vaultgemma": family(_vaultgemma, "VaultGemma", style=Style(norm="rms-plus-1", activation="gelu_pytorch_tanh",
        softcap=True, logit_softcap=True, sdpa=False), num_key_value_heads=4, head_dim=256, sliding_window=4096,
        tie_word_embeddings=True),
    "glm": family(_glm, "GLM-4", style=Style(rotary_own=True, rotary_cat=True), rotary=0.5, head_dim=128,
        attention_bias=True),
    "glm4": family(_glm4, "GLM-4-0414", style=Style(block="sandwich", rotary_own=True, rotary_cat=True), rotary=0.5,
        head_dim=128, attention_bias=True),
    "glm4v_text": family(_glm4v, "GLM-4.1V", num_key_value_heads=2),
    "glm_ocr_text": family(_glm4v, "GLM-OCR", num_key_value_heads=8),
    "olmo": family(_olmo, "OLMo", style=Style(norm="layer-fp32", rotary_fp32=True)),
    "olmo2": family(_olmo2, "OLMo 2", style=Style(block="post", norm="rms-late", rotary_fp32=True)),
    "olmo3": family(_olmo2, "OLMo 3", style=Style(block="post", norm="rms-late", rotary_fp32=True,
        rotary_by_kind=True), sliding_window=4096),
    "granite": family(_llama, "Granite", synonyms=("granite4_vision_text", "granite_docling_text"), style=Style()),
    "granite_swa": family(_granite_swa, "Granite SWA", sliding_window=128, tie_word_embeddings=True),
    "cohere": family(_cohere, "Cohere Command R", style=Style(block="parallel", norm="cohere"),
        tie_word_embeddings=True),
    "cohere2": family(_cohere2, "Cohere Command R7B and A", style=Style(block="parallel", norm="cohere"),
        sliding_window=4096, tie_word_embeddings=True),
    "cohere_compass_text": family(_cohere_compass, "Cohere Compass", sliding_window=4096, tie_word_embeddings=True),
    "exaone4": family(_exaone4, "EXAONE 4", synonyms=("exaone4_5_text",), style=Style(block="post"),
        sliding_window=4096),
    "seed_oss": family(_seed_oss, "Seed-OSS", style=Style(), dropout=True, head_dim=128, attention_bias=True),
    "ernie4_5": family(_ernie, "ERNIE 4.5", synonyms=("paddleocr_vl_text",), style=Style(rotary_fp32=True,
        rotary_own=True), head_dim=128, tie_word_embeddings=True),
    "smollm3": family(_smollm3, "SmolLM3", style=Style(), num_key_value_heads=4, no_rope_layer_interval=4,
        tie_word_embeddings=True),
    "stablelm": family(_stablelm, "StableLM", style=Style(norm="layer", rotary_cat=True), rotary=0.25),
    "starcoder2": family(_starcoder2, "StarCoder 2", style=Style(norm="layer", activation="gelu_pytorch_tanh"),
        num_key_value_heads=2, use_bias=True, tie_word_embeddings=True),
    "nemotron": family(_nemotron, "Nemotron 4 and Minitron", style=Style(norm="layer-plus-1", activation="relu2",
        rotary_cat=True), rotary=0.5),
}
# fmt: on
