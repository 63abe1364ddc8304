"""Older decoders: GPT-2 and its time, Phi."""

from __future__ import annotations

from llmhw.families.builder import Body, Builder, attention_of, each, outer_of
from llmhw.families.config import Config
from llmhw.families.family import Family, Style, family
from llmhw.model import Attention, Layer
from llmhw.units import LLMHWError


def _gpt2(c: Config) -> Body:
    """GPT-2 and GPT-BigCode (StarCoder 1, SantaCoder), which shares one key-value head."""
    conv1d = c.model_type == "gpt2"
    inner = c.count("n_inner", default=4 * c.hidden)
    kv = 1 if c.model_type == "gpt_bigcode" and c.flag("multi_query") else c.heads
    a = Attention(c.heads, kv, c.head_dim, c.head_dim)
    b = Builder()
    b.norm("ln_1", c.hidden, "norm_in", bias=True)
    b.linear("attn.c_attn", "qkv", c.hidden + 2 * kv * a.head_dim, c.hidden, bias=True, swapped=conv1d)
    b.linear("attn.c_proj", "o", c.hidden, c.hidden, bias=True, swapped=conv1d)
    b.norm("ln_2", c.hidden, bias=True)
    b.plain_mlp("mlp.c_fc", "mlp.c_proj", c.hidden, inner, bias=True, swapped=conv1d)
    positions = ("transformer.wpe", c.count("n_positions", "max_position_embeddings"))
    outer = outer_of(c, "transformer.wte", "transformer.ln_f", norm_bias=True, positions=positions)
    return Body([b.layer(a)] * c.layers, outer, inner)


def _gpt_neo(c: Config) -> Body:
    inner = c.count("intermediate_size", default=4 * c.hidden)
    kinds = [kind for pattern, times in c.get("attention_types") for kind in list(pattern) * times]
    if len(kinds) != c.layers:
        raise LLMHWError(f"config key attention_types describes {len(kinds)} layers, num_layers={c.layers}")

    def make(kind: str) -> Layer:
        window = c.count("window_size") if kind == "local" else None
        # the local layers mask far tokens, but implementations keep them in the cache
        a = Attention(c.heads, c.heads, c.head_dim, c.head_dim, window=window, evicts=False)
        b = Builder()
        b.norm("ln_1", c.hidden, "norm_in", bias=True)
        b.qkvo("attn.attention", c.hidden, a, out_bias=True, out_name="out_proj")
        b.norm("ln_2", c.hidden, bias=True)
        b.plain_mlp("mlp.c_fc", "mlp.c_proj", c.hidden, inner, bias=True)
        return b.layer(a)

    positions = ("transformer.wpe", c.count("max_position_embeddings"))
    outer = outer_of(c, "transformer.wte", "transformer.ln_f", norm_bias=True, positions=positions)
    return Body(each(make, kinds), outer, inner)


def _gptj(c: Config) -> Body:
    inner = c.count("n_inner", default=4 * c.hidden)
    a = attention_of(c)
    b = Builder()
    b.norm("ln_1", c.hidden, "norm_in", bias=True)
    b.qkvo("attn", c.hidden, a, out_name="out_proj")
    b.plain_mlp("mlp.fc_in", "mlp.fc_out", c.hidden, inner, bias=True)
    outer = outer_of(c, "transformer.wte", "transformer.ln_f", norm_bias=True)
    return Body([b.layer(a)] * c.layers, outer, inner, head_bias=True)


def _codegen(c: Config) -> Body:
    inner = c.count("n_inner", default=4 * c.hidden)
    a = attention_of(c)
    b = Builder()
    b.norm("ln_1", c.hidden, "norm_in", bias=True)
    b.linear("attn.qkv_proj", "qkv", 3 * c.hidden, c.hidden)
    b.linear("attn.out_proj", "o", c.hidden, c.hidden)
    b.plain_mlp("mlp.fc_in", "mlp.fc_out", c.hidden, inner, bias=True)
    outer = outer_of(c, "transformer.wte", "transformer.ln_f", norm_bias=True)
    return Body([b.layer(a)] * c.layers, outer, inner, head_bias=True)


def _openai_gpt(c: Config) -> Body:
    """GPT-1: norms behind the sums, and none behind the last block."""
    a = attention_of(c)
    b = Builder()
    b.linear("attn.c_attn", "qkv", 3 * c.hidden, c.hidden, bias=True, swapped=True)
    b.linear("attn.c_proj", "o", c.hidden, c.hidden, bias=True, swapped=True)
    b.norm("ln_1", c.hidden, bias=True)
    b.plain_mlp("mlp.c_fc", "mlp.c_proj", c.hidden, 4 * c.hidden, bias=True, swapped=True)
    b.norm("ln_2", c.hidden, "norm_out", bias=True)
    positions = ("transformer.positions_embed", c.count("n_positions", "max_position_embeddings"))
    outer = outer_of(c, "transformer.tokens_embed", None, positions=positions)
    return Body([b.layer(a)] * c.layers, outer, 4 * c.hidden)


def _ctrl(c: Config) -> Body:
    inner = c.count("dff")
    a = attention_of(c)
    b = Builder()
    for name, part in (("Wq", "q"), ("Wk", "k"), ("Wv", "v"), ("dense", "o")):
        b.linear(f"multi_head_attention.{name}", part, c.hidden, c.hidden, bias=True)
    b.plain_mlp("ffn.0", "ffn.2", c.hidden, inner, bias=True)
    b.norms({"layernorm1": "norm_in", "layernorm2": "norm"}, c.hidden, bias=True)
    outer = outer_of(c, "transformer.w", "transformer.layernorm", norm_bias=True)
    return Body([b.layer(a)] * c.layers, outer, inner, head_bias=True)


def _xglm(c: Config) -> Body:
    """XGLM, whose positions are computed, and BioGPT, whose are learned."""
    learned = c.model_type == "biogpt"
    inner = c.intermediate if learned else c.count("ffn_dim")
    a = attention_of(c)
    b = Builder()
    b.norm("self_attn_layer_norm", c.hidden, "norm_in", bias=True)
    b.qkvo("self_attn", c.hidden, a, bias=True, out_bias=True, out_name="out_proj")
    b.norm("final_layer_norm", c.hidden, bias=True)
    b.plain_mlp("fc1", "fc2", c.hidden, inner, bias=True)
    stem = "biogpt" if learned else "model"
    rows = (f"{stem}.embed_positions", c.count("max_position_embeddings") + 2) if learned else None  # two of padding
    outer = outer_of(c, f"{stem}.embed_tokens", f"{stem}.layer_norm", norm_bias=True, positions=rows)
    return Body([b.layer(a)] * c.layers, outer, inner, head="output_projection" if learned else "lm_head")


def _gpt_neox_japanese(c: Config) -> Body:
    """One bias only, of the last block's attention."""
    inner = c.count("intermediate_multiple_size") * c.hidden
    a = attention_of(c)

    def make(last: bool) -> Layer:
        b = Builder()
        b.norm("input_layernorm", c.hidden, "norm_in", bias=True)
        b.norm("post_attention_layernorm", c.hidden, bias=True)
        b.linear("attention.query_key_value", "qkv", 3 * c.hidden, c.hidden)
        b.linear("attention.dense", "o", c.hidden, c.hidden)
        if last:
            b.plain("attention.dense_bias", "o", (c.hidden,))
        b.plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", c.hidden, inner)
        return b.layer(a)

    layers = each(make, (i == c.layers - 1 for i in range(c.layers)))
    outer = outer_of(c, "gpt_neox_japanese.embed_in", "gpt_neox_japanese.final_layer_norm", norm_bias=True)
    return Body(layers, outer, inner, head="embed_out")


def _gpt_neox(c: Config) -> Body:
    bias = c.flag("attention_bias")
    a = attention_of(c)
    b = Builder()
    b.norm("input_layernorm", c.hidden, "norm_in", bias=True)
    b.norm("post_attention_layernorm", c.hidden, bias=True)
    b.linear("attention.query_key_value", "qkv", 3 * c.hidden, c.hidden, bias=bias)
    b.linear("attention.dense", "o", c.hidden, c.hidden, bias=bias)
    b.plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", c.hidden, c.intermediate, bias=True)
    outer = outer_of(c, "gpt_neox.embed_in", "gpt_neox.final_layer_norm", norm_bias=True)
    return Body([b.layer(a)] * c.layers, outer, c.intermediate)


def _opt(c: Config) -> Body:
    bias, affine = c.flag("enable_bias"), c.flag("layer_norm_elementwise_affine")
    inner, width = c.count("ffn_dim"), c.count("word_embed_proj_dim", default=c.hidden)
    a = attention_of(c)
    b = Builder()
    b.qkvo("self_attn", c.hidden, a, bias=bias, out_bias=bias, out_name="out_proj")
    b.plain_mlp("fc1", "fc2", c.hidden, inner, bias=bias)
    positions = ("model.decoder.embed_positions", c.count("max_position_embeddings") + 2)  # two rows of padding
    outer = outer_of(c, "model.decoder.embed_tokens", None, width=width, positions=positions)
    if width != c.hidden:
        outer.linear("model.decoder.project_in", "project_in", c.hidden, width)
        outer.linear("model.decoder.project_out", "project_out", width, c.hidden)
    if affine:
        b.norm("self_attn_layer_norm", c.hidden, "norm_in", bias=True)
        b.norm("final_layer_norm", c.hidden, bias=True)
        if c.flag("do_layer_norm_before") and not c.flag("_remove_final_layer_norm"):
            outer.norm("model.decoder.final_layer_norm", c.hidden, bias=True)
    return Body([b.layer(a)] * c.layers, outer, inner, head_in=width)


def _bloom(c: Config) -> Body:
    a = attention_of(c)
    b = Builder()
    b.norm("input_layernorm", c.hidden, "norm_in", bias=True)
    b.linear("self_attention.query_key_value", "qkv", 3 * c.hidden, c.hidden, bias=True)
    b.linear("self_attention.dense", "o", c.hidden, c.hidden, bias=True)
    b.norm("post_attention_layernorm", c.hidden, bias=True)
    b.plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", c.hidden, 4 * c.hidden, bias=True)
    outer = outer_of(c, "transformer.word_embeddings", None)
    outer.norm("transformer.word_embeddings_layernorm", c.hidden, "embedding_norm", bias=True)
    outer.norm("transformer.ln_f", c.hidden, bias=True)
    return Body([b.layer(a)] * c.layers, outer, 4 * c.hidden)


def _falcon(c: Config) -> Body:
    new, multi_query, parallel = c.flag("new_decoder_architecture"), c.flag("multi_query"), c.flag("parallel_attn")
    bias = c.flag("bias")
    inner = c.count("ffn_hidden_size", default=4 * c.hidden)
    kv = c.count("num_kv_heads", default=c.heads) if new else 1 if multi_query else c.heads
    if c.heads % kv:
        raise LLMHWError(
            f"kv_heads={kv} does not divide heads={c.heads}; config keys num_kv_heads and num_attention_heads"
        )
    a = Attention(c.heads, kv, c.head_dim, c.head_dim)
    b = Builder()
    b.linear("self_attention.query_key_value", "qkv", (c.heads + 2 * kv) * a.head_dim, c.hidden, bias=bias)
    b.linear("self_attention.dense", "o", c.hidden, c.hidden, bias=bias)
    b.plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", c.hidden, inner, bias=bias)
    pair = c.get("num_ln_in_parallel_attn", default=2 if new else 1) == 2
    if not parallel:
        norms = {"post_attention_layernorm": "norm", "input_layernorm": "norm_in"}
    else:
        norms = {"ln_attn": "norm_in", "ln_mlp": "norm"} if pair else {"input_layernorm": "norm_in"}
    b.norms(norms, c.hidden, bias=True)
    outer = outer_of(c, "transformer.word_embeddings", "transformer.ln_f", norm_bias=True)
    return Body([b.layer(a)] * c.layers, outer, inner)


def _mpt(c: Config) -> Body:
    if c.count("expansion_ratio") != 4:
        raise LLMHWError(
            f"config key expansion_ratio={c.get('expansion_ratio')} of MPT must be 4, as transformers builds it"
        )
    inner = 4 * c.hidden
    a = attention_of(c)
    b = Builder()
    b.norm("norm_1", c.hidden, "norm_in")
    b.linear("attn.Wqkv", "qkv", 3 * c.hidden, c.hidden)
    b.linear("attn.out_proj", "o", c.hidden, c.hidden)
    b.norm("norm_2", c.hidden)
    b.plain_mlp("ffn.up_proj", "ffn.down_proj", c.hidden, inner, bias=False)
    return Body([b.layer(a)] * c.layers, outer_of(c, "transformer.wte", "transformer.norm_f"), inner)


def _phi(c: Config) -> Body:
    a = attention_of(c)
    b = Builder()
    b.qkvo("self_attn", c.hidden, a, bias=True, out_bias=True, out_name="dense")
    if c.flag("qk_layernorm"):
        b.norm("self_attn.q_layernorm", c.hidden // c.heads, "q_norm", bias=True)
        b.norm("self_attn.k_layernorm", c.hidden // c.heads, "k_norm", bias=True)
    b.plain_mlp("mlp.fc1", "mlp.fc2", c.hidden, c.intermediate, bias=True)
    b.norm("input_layernorm", c.hidden, "norm_in", bias=True)
    outer = outer_of(c, "model.embed_tokens", "model.final_layernorm", norm_bias=True)
    return Body([b.layer(a)] * c.layers, outer, c.intermediate, head_bias=True)


def _phi3(c: Config) -> Body:
    a = attention_of(c, window=c.get("sliding_window"))
    b = Builder()
    b.linear("self_attn.o_proj", "o", c.hidden, a.heads * a.head_dim)
    b.linear("self_attn.qkv_proj", "qkv", (a.heads + 2 * a.kv_heads) * a.head_dim, c.hidden)
    b.fused_mlp("mlp", c.hidden, c.intermediate)
    b.norm("input_layernorm", c.hidden, "norm_in")
    b.norm("post_attention_layernorm", c.hidden)
    return Body([b.layer(a)] * c.layers, outer_of(c, "model.embed_tokens", "model.norm"), c.intermediate)


# fmt: off
TABLE: dict[str, Family] = {
    "phi": family(_phi, "Phi 1 and 2", style=Style(block="parallel", norm="layer", activation="gelu_new",
        rotary_cat=True), rotary=0.5),
    "phi3": family(_phi3, "Phi 3 and 4", style=Style(rotary_cat=True)),
    "gpt2": family(_gpt2, "GPT-2", synonyms=("gpt-sw3",), style=Style(norm="layer", activation="gelu_new",
        softmax_fp32=False,
        learned="batch"), rotary=0, dropout=True, n_positions=1024, tie_word_embeddings=True),
    "gpt_bigcode": family(_gpt2, "GPT-BigCode", style=Style(norm="layer", activation="gelu_pytorch_tanh",
        learned="batch"), rotary=0, dropout=True, n_positions=1024, multi_query=True, tie_word_embeddings=True),
    "gpt_neo": family(_gpt_neo, "GPT-Neo", style=Style(norm="layer", activation="gelu_new", sdpa=False, upcast=True,
        learned="batch", registry=False), rotary=0, attention_types=[[["global", "local"], 12]], window_size=256,
        max_position_embeddings=2048, tie_word_embeddings=True),
    "codegen": family(_codegen, "CodeGen", rotary=0.25, vocab_size=50400, n_embd=4096, n_layer=28, n_head=16,
        n_positions=2048),
    "openai-gpt": family(_openai_gpt, "GPT", rotary=0, dropout=True, vocab_size=40478, n_embd=768, n_layer=12,
        n_head=12, n_positions=512, tie_word_embeddings=True),
    "ctrl": family(_ctrl, "CTRL", rotary=0, dropout=True, vocab_size=246534, n_embd=1280, n_layer=48, n_head=16,
        dff=8192, n_positions=256, tie_word_embeddings=True),
    "xglm": family(_xglm, "XGLM", rotary=0, dropout=True, vocab_size=256008, d_model=1024, num_layers=24,
        attention_heads=16, ffn_dim=4096, max_position_embeddings=2048, tie_word_embeddings=True),
    "biogpt": family(_xglm, "BioGPT", rotary=0, dropout=True, vocab_size=42384, hidden_size=1024, num_hidden_layers=24,
        num_attention_heads=16, intermediate_size=4096, max_position_embeddings=1024, tie_word_embeddings=True),
    "gpt_neox_japanese": family(_gpt_neox_japanese, "GPT-NeoX Japanese", vocab_size=32000, hidden_size=2560,
        num_hidden_layers=32, num_attention_heads=32, intermediate_multiple_size=4, max_position_embeddings=2048,
        tie_word_embeddings=True),
    "gptj": family(_gptj, "GPT-J", rotary=0.25),
    "gpt_neox": family(_gpt_neox, "GPT-NeoX and Pythia", style=Style(block="parallel", norm="layer", activation="gelu",
        rotary_cat=True), rotary=0.25, attention_bias=True),
    "opt": family(_opt, "OPT", style=Style(norm="layer", activation="relu", learned="sequence"), rotary=0,
        dropout=True, max_position_embeddings=2048, enable_bias=True, layer_norm_elementwise_affine=True,
        do_layer_norm_before=True, tie_word_embeddings=True),
    "bloom": family(_bloom, "BLOOM", style=Style(norm="layer", activation="gelu", sdpa=False, registry=False,
        alibi=True), rotary=0, tie_word_embeddings=True),
    "falcon": family(_falcon, "Falcon", gguf="falcon", multi_query=True, parallel_attn=True, tie_word_embeddings=True),
    "mpt": family(_mpt, "MPT", rotary=0, expansion_ratio=4, tie_word_embeddings=True),
}
# fmt: on
