"""Text models that transformers has inside of wrappers only."""

from __future__ import annotations

from llmhw.families.builder import Body, Builder, attention_of, each, outer_of
from llmhw.families.config import Config
from llmhw.families.decoder import TWO_NORMS, all_full, decoder
from llmhw.families.family import Family, family
from llmhw.model import Attention, Layer
from llmhw.units import LLMHWError

# Tokens of a picture of Llama 3.2 Vision, which the layers that attend to it cache in place of the text's: 4 tiles
# of 40 x 40 patches, each with a class token.
_PICTURE = 4 * 1601


def _mllama(c: Config) -> Body:
    """Llama 3.2 Vision: some layers attend to the picture in place of the text."""
    crossing = set(c.get("cross_attention_layers", default=()))
    if not crossing <= set(range(c.layers)):
        raise LLMHWError(f"config key cross_attention_layers must be numbers of the {c.layers} layers")

    def make(crosses: bool) -> Layer:
        b = Builder()
        a = attention_of(c, _PICTURE if crosses else None)
        b.qkvo("cross_attn" if crosses else "self_attn", c.hidden, a)
        if crosses:
            b.norm("cross_attn.q_norm", a.head_dim, "q_norm")
            b.norm("cross_attn.k_norm", a.head_dim, "k_norm")
            b.plain("cross_attn_attn_gate", "norm", (1,))
            b.plain("cross_attn_mlp_gate", "norm", (1,))
        b.gated_mlp("mlp", c.hidden, c.intermediate)
        b.norms(TWO_NORMS, c.hidden)
        return b.layer(a)

    layers = each(make, [i in crossing for i in range(c.layers)])
    outer = Builder()
    outer.plain("model.embed_tokens.weight", "tokens", (c.vocab + 8, c.hidden))
    outer.norm("model.norm", c.hidden)
    return Body(layers, outer, c.intermediate)


def _kosmos(c: Config) -> Body:
    """Kosmos-2 and 2.5: a norm inside of the feed-forward part, Kosmos-2 one inside of attention, too (Magneto)."""
    inner = c.count("ffn_dim")
    newer = c.model_type == "kosmos_2_5_text_model"

    def make(_: str) -> Layer:
        b = Builder()
        a = Attention(c.heads, c.heads, c.hidden // c.heads, c.hidden // c.heads)
        b.qkvo("self_attn", c.hidden, a, bias=True, out_bias=True, out_name="out_proj")
        b.plain_mlp("ffn.fc1", "ffn.fc2", c.hidden, inner, bias=True)
        if not newer:
            b.norm("self_attn.inner_attn_ln", c.hidden, "inner_norm", bias=True)
        b.norm("ffn.ffn_layernorm", inner, bias=True)
        b.norms({"self_attn_layer_norm": "norm_in", "final_layer_norm": "norm"}, c.hidden, bias=True)
        return b.layer(a)

    outer = outer_of(c, "model.embed_tokens", "model.layer_norm", norm_bias=True)
    if newer:
        outer.plain("model.segment_emb.weight", "positions", (2, c.hidden))
    return Body(each(make, ["full"] * c.layers), outer, inner)


def _chameleon(c: Config) -> Body:
    """Llama with norms of queries and keys, each head with its own."""

    def head_norms(b: Builder, a: Attention) -> None:
        for name, heads in (("q_norm", a.heads), ("k_norm", a.kv_heads)):
            b.plain(f"self_attn.{name}.weight", name, (heads, a.head_dim))
            b.plain(f"self_attn.{name}.bias", name, (heads, a.head_dim))

    return decoder(c, all_full(c), extra=head_norms, mlp_bias=c.flag("mlp_bias"))


# fmt: off
TABLE: dict[str, Family] = {
    "mllama_text_model": family(_mllama, "Llama 3.2 Vision", num_key_value_heads=8, hidden_size=4096,
        num_hidden_layers=40, num_attention_heads=32, intermediate_size=14336, vocab_size=128256,
        max_position_embeddings=131072, cross_attention_layers=[3, 8, 13, 18, 23, 28, 33, 38]),
    "kosmos_2_text_model": family(_kosmos, "Kosmos-2", rotary=0, dropout=True, vocab_size=65037, hidden_size=2048,
        num_hidden_layers=24, ffn_dim=8192, num_attention_heads=32, max_position_embeddings=2048,
        tie_word_embeddings=True),
    "kosmos_2_5_text_model": family(_kosmos, "Kosmos-2.5", rotary=0, dropout=True, vocab_size=108481,
        hidden_size=1536, num_hidden_layers=24, ffn_dim=6144, num_attention_heads=16, max_position_embeddings=4096,
        tie_word_embeddings=True),
    "chameleon": family(_chameleon, "Chameleon", vocab_size=65536, hidden_size=4096, intermediate_size=11008,
        num_hidden_layers=32, num_attention_heads=32, max_position_embeddings=4096),
}
# fmt: on
