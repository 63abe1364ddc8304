"""Multi-head latent attention."""

from __future__ import annotations

from dataclasses import replace

from llmhw.families.builder import Body, Builder, each, outer_of
from llmhw.families.config import Config
from llmhw.families.decoder import TWO_NORMS, mtp_of, shared_experts
from llmhw.families.family import Family, Style, family
from llmhw.model import Attention, Layer

_MASKED = "transformers masks a full attention; the pairs that the indexer selects have no reference there"
_V3 = Style(router="sigmoid", norm_topk=True, rotary_cat=True)
_MLA_V2 = {"first_k_dense_replace": 0, "n_shared_experts": 2, "q_lora_rank": 1536}
_MLA_V3 = {"first_k_dense_replace": 3, "n_shared_experts": 1, "q_lora_rank": 1536, "n_routed_experts": 256}


def _mla(c: Config) -> Body:
    """DeepSeek V2, V3, V3.2 and GLM-5: low-rank queries and keys, optional sparse-attention indexer."""
    nope, rope = c.count("qk_nope_head_dim"), c.count("qk_rope_head_dim")
    v_dim, rank = c.count("v_head_dim"), c.count("kv_lora_rank")
    q_rank = c.get("q_lora_rank")
    bias = c.flag("attention_bias")
    first = c.count("first_k_dense_replace", least=0)
    listed = c.get("mlp_layer_types") and c.listed("mlp_layer_types", c.get("mlp_layer_types"))
    sparse = [listed[i] == "sparse" if listed else i >= first for i in range(c.layers)]
    indexed = c.model_type in ("deepseek_v32", "glm_moe_dsa")
    a = Attention(
        c.heads,
        c.heads,
        nope + rope,
        v_dim,
        latent=rank + rope,
        index_dim=c.count("index_head_dim") if indexed else 0,
        index_heads=c.count("index_n_heads") if indexed else 0,
        index_topk=c.count("index_topk") if indexed else 0,
    )

    def make(is_sparse: bool) -> Layer:
        b = Builder()
        if q_rank:
            b.linear("self_attn.q_a_proj", "q_a", q_rank, c.hidden, bias=bias)
            b.norm("self_attn.q_a_layernorm", q_rank, "inner_norm")
            b.linear("self_attn.q_b_proj", "q_b", a.heads * a.head_dim, q_rank)
        else:
            b.linear("self_attn.q_proj", "q", a.heads * a.head_dim, c.hidden)
        b.linear("self_attn.kv_a_proj_with_mqa", "kv_a", rank + rope, c.hidden, bias=bias)
        b.norm("self_attn.kv_a_layernorm", rank, "inner_norm")
        b.linear("self_attn.kv_b_proj", "kv_b", a.heads * (nope + v_dim), rank)
        b.linear("self_attn.o_proj", "o", c.hidden, a.heads * v_dim, bias=bias)
        if indexed:
            b.linear("self_attn.indexer.wq_b", "indexer", a.index_heads * a.index_dim, q_rank)
            b.linear("self_attn.indexer.wk", "indexer", a.index_dim, c.hidden)
            b.norm("self_attn.indexer.k_norm", a.index_dim, "inner_norm", bias=True)
            b.linear("self_attn.indexer.weights_proj", "indexer", a.index_heads, c.hidden)
        shared_experts(b, c, is_sparse)
        b.norms(TWO_NORMS, c.hidden)
        return b.layer(a)

    layers = each(make, sparse)
    return Body(layers, outer_of(c, "model.embed_tokens", "model.norm"), c.intermediate, mtp=mtp_of(c, layers[-1]))


# fmt: off
TABLE: dict[str, Family] = {
    "deepseek_v2": family(_mla, "DeepSeek V2", style=Style(router="softmax-fp32", rotary_complex=True,
        rotary_cat=True), **_MLA_V2),
    "deepseek_v3": family(_mla, "DeepSeek V3 and R1, Kimi K2", style=_V3, synonyms=("kimi_k2",),
        **_MLA_V3),
    "deepseek_v32": family(_mla, "DeepSeek V3.2", style=replace(_V3, registry=False), arithmetic=_MASKED,
        index_topk=2048, index_head_dim=128,
        index_n_heads=64, **_MLA_V3),
    "glm_moe_dsa": family(_mla, "GLM-5", arithmetic=_MASKED, index_topk=2048, index_head_dim=128, index_n_heads=32,
        **{**_MLA_V3, "q_lora_rank": 2048}),
}
# fmt: on
