"""Decoders that transformers has no class for: their code lies beside the checkpoint, on the Hub.

Names are those of that code. Tests hold the sums against published counts of parameters.
"""

from __future__ import annotations

from dataclasses import replace

from llmhw.families.builder import Body, Builder, attention_of, outer_of
from llmhw.families.config import Config
from llmhw.families.decoder import all_full, decoder
from llmhw.families.family import Family, family
from llmhw.families.mixtures import bailing_moe
from llmhw.model import Attention
from llmhw.units import LLMHWError


def _chatglm(c: Config) -> Body:
    """ChatGLM2, ChatGLM3 and GLM-4-9B: fused projections, grouped heads, half of each head turned."""
    head_dim = c.count("kv_channels", default=128)
    kv = c.count("multi_query_group_num") if c.flag("multi_query_attention") else c.heads
    if c.heads % kv:
        raise LLMHWError(f"kv_heads={kv} does not divide heads={c.heads}; see multi_query_group_num")
    for key in ("rmsnorm", "post_layer_norm"):
        if not c.flag(key, True):
            raise LLMHWError(
                f"config key {key}=false of model_type='chatglm' is not covered: no published model has it"
            )
    a = Attention(c.heads, kv, head_dim, head_dim)
    bias, inner = c.flag("add_bias_linear"), c.count("ffn_hidden_size")
    b = Builder()
    b.norm("input_layernorm", c.hidden, "norm_in")
    wide = (c.heads + 2 * kv) * head_dim
    b.linear("self_attention.query_key_value", "qkv", wide, c.hidden, bias=bias or c.flag("add_qkv_bias"))
    b.linear("self_attention.dense", "o", c.hidden, c.heads * head_dim, bias=bias)
    b.norm("post_attention_layernorm", c.hidden)
    b.linear("mlp.dense_h_to_4h", "gate_up", 2 * inner, c.hidden, bias=bias)
    b.linear("mlp.dense_4h_to_h", "down", c.hidden, inner, bias=bias)
    outer = outer_of(c, "transformer.embedding.word_embeddings", "transformer.encoder.final_layernorm")
    return Body([b.layer(a)] * c.layers, outer, inner)


def _internlm2(c: Config) -> Body:
    bias = c.flag("bias")
    a = attention_of(c)
    b = Builder()
    b.linear("attention.wqkv", "qkv", (a.heads + 2 * a.kv_heads) * a.head_dim, c.hidden, bias=bias)
    b.linear("attention.wo", "o", c.hidden, a.heads * a.head_dim, bias=bias)
    b.linear("feed_forward.w1", "gate", c.intermediate, c.hidden)
    b.plain_mlp("feed_forward.w3", "feed_forward.w2", c.hidden, c.intermediate)
    b.norms({"attention_norm": "norm_in", "ffn_norm": "norm"}, c.hidden)
    return Body([b.layer(a)] * c.layers, outer_of(c, "model.tok_embeddings", "model.norm"), c.intermediate)


def _baichuan(c: Config) -> Body:
    """Baichuan 1 and 2: Llama with queries, keys and values in one matrix."""
    a = attention_of(c)
    b = Builder()
    b.linear("self_attn.W_pack", "qkv", 3 * c.hidden, c.hidden)
    b.linear("self_attn.o_proj", "o", c.hidden, c.hidden)
    b.gated_mlp("mlp", c.hidden, c.intermediate)
    b.norms({"input_layernorm": "norm_in", "post_attention_layernorm": "norm"}, c.hidden)
    return Body([b.layer(a)] * c.layers, outer_of(c, "model.embed_tokens", "model.norm"), c.intermediate)


def _qwen(c: Config) -> Body:
    """The first Qwen: its config states twice the width of the feed-forward part."""
    if c.get("visual") is not None or c.get("audio") is not None:
        raise LLMHWError("config key visual of model_type='qwen' makes it a Qwen-VL, which is not covered")
    if c.intermediate % 2:
        raise LLMHWError(f"config key intermediate_size={c.intermediate} of model_type='qwen' must be even")
    head_dim, inner = c.count("kv_channels", default=128), c.intermediate // 2
    a = Attention(c.heads, c.heads, head_dim, head_dim)
    bias = not c.flag("no_bias", True)
    b = Builder()
    b.linear("attn.c_attn", "qkv", 3 * c.heads * head_dim, c.hidden, bias=True)
    b.linear("attn.c_proj", "o", c.hidden, c.heads * head_dim, bias=bias)
    b.linear("mlp.w2", "gate", inner, c.hidden, bias=bias)
    b.plain_mlp("mlp.w1", "mlp.c_proj", c.hidden, inner, bias=bias)
    b.norms({"ln_1": "norm_in", "ln_2": "norm"}, c.hidden)
    return Body([b.layer(a)] * c.layers, outer_of(c, "transformer.wte", "transformer.ln_f"), inner)


def _exaone(c: Config) -> Body:
    """EXAONE 3, 3.5 and Deep: Llama under GPT-2's names."""
    a = attention_of(c)
    b = Builder()
    b.qkvo("attn.attention", c.hidden, a, out_name="out_proj")
    b.linear("mlp.c_fc_0", "gate", c.intermediate, c.hidden)
    b.plain_mlp("mlp.c_fc_1", "mlp.c_proj", c.hidden, c.intermediate)
    b.norms({"ln_1": "norm_in", "ln_2": "norm"}, c.hidden)
    return Body([b.layer(a)] * c.layers, outer_of(c, "transformer.wte", "transformer.ln_f"), c.intermediate)


def _internlm(c: Config) -> Body:
    a = attention_of(c)
    bias = c.flag("bias")
    b = Builder()
    b.qkvo("self_attn", c.hidden, a, bias=bias, out_bias=bias)
    b.gated_mlp("mlp", c.hidden, c.intermediate)
    b.norms({"input_layernorm": "norm_in", "post_attention_layernorm": "norm"}, c.hidden)
    return Body([b.layer(a)] * c.layers, outer_of(c, "model.embed_tokens", "model.norm"), c.intermediate)


def _minicpm(c: Config) -> Body:
    """MiniCPM 1 to 4: Llama with scaled residuals; `sparse_config` chooses blocks and adds no weights."""
    if c.get("num_experts"):
        raise LLMHWError(f"config key num_experts={c.get('num_experts')} of model_type='minicpm' is not covered")
    return _internlm(c)


def _orion(c: Config) -> Body:
    a = attention_of(c)
    b = Builder()
    b.qkvo("self_attn", c.hidden, a)
    b.gated_mlp("mlp", c.hidden, c.intermediate)
    b.norms({"input_layernorm": "norm_in", "post_attention_layernorm": "norm"}, c.hidden, bias=True)
    outer = outer_of(c, "model.embed_tokens", "model.norm", norm_bias=True)
    return Body([b.layer(a)] * c.layers, outer, c.intermediate)


def _bidirectional(c: Config) -> Body:
    """NVIDIA's embedders: Llama whose tokens see later ones, too."""
    return decoder(c, all_full(c), attention=lambda kind: replace(attention_of(c), causal=False))


# fmt: off
TABLE: dict[str, Family] = {
    "chatglm": family(_chatglm, "ChatGLM 2 and 3, GLM-4-9B", rotary=0.5, kv_channels=128, seq_length=8192),
    "internlm2": family(_internlm2, "InternLM 2"),
    "internlm": family(_internlm, "InternLM", synonyms=("xverse", "aquila")),
    "baichuan": family(_baichuan, "Baichuan 1 and 2"),
    "qwen": family(_qwen, "Qwen 1", seq_length=8192),
    "exaone": family(_exaone, "EXAONE 3"),
    "bailing_moe": family(bailing_moe, "Ling, Ring and LLaDA 2", synonyms=("bailing_moe_v2", "llada2_moe"),
        num_experts=64, num_experts_per_tok=6, moe_intermediate_size=1408),
    "minicpm": family(_minicpm, "MiniCPM", tie_word_embeddings=True),
    "llama_bidirec": family(_bidirectional, "Llama Nemotron Embed"),
    "orion": family(_orion, "Orion"),
}
# fmt: on
