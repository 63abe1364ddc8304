"""Mixtures of experts in the manner of Llama."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmhw.families.builder import Body, Builder, attention_of, each, outer_of
from llmhw.families.config import Config
from llmhw.families.decoder import (
    GLM_NORMS,
    ONE_NORM,
    POST_NORMS,
    TWO_NORMS,
    all_full,
    all_sliding,
    decoder,
    every_nth,
    head_norms,
    mtp_modules,
    mtp_of,
    qwen_sparse,
    rotary_layers,
    routed,
    shared_experts,
    sparse_layers,
    window_of,
    windows_above,
)
from llmhw.families.family import Family, Style, family
from llmhw.model import Attention, Layer
from llmhw.units import LLMHWError, shown

_EVERY_EXPERT = "transformers multiplies every expert with every token, not only the routed ones"
_LLAMA4 = {
    "intermediate_size_mlp": 16384,
    "interleave_moe_layer_step": 1,
    "no_rope_layer_interval": 4,
    "attention_chunk_size": 8192,
    "num_experts_per_tok": 1,
    "num_local_experts": 16,
    "head_dim": 128,
}


def _mixtral(c: Config) -> Body:
    return decoder(c, all_sliding(c), bias=False, feed_forward=routed(c))


def _qwen2_moe(c: Config) -> Body:
    on, first = c.flag("use_sliding_window"), c.count("max_window_layers")
    types = c.layer_types(lambda i: "sliding_attention" if on and (i + 1) % 2 and i < first else "full_attention")
    experts = routed(c, inner="moe_intermediate_size", shared=True)
    return decoder(c, types, bias=c.flag("qkv_bias"), out_bias=False, feed_forward=experts, sparse=qwen_sparse(c))


def _qwen3_moe(c: Config) -> Body:
    types = all_sliding(c) if c.flag("use_sliding_window") else all_full(c)
    experts = routed(c, inner="moe_intermediate_size")
    return decoder(c, types, qk_norm="head", feed_forward=experts, sparse=qwen_sparse(c))


def sinks(b: Builder, a: Attention) -> None:
    """A learned score for each head that takes part in the softmax."""
    b.plain("self_attn.sinks", "heads", (a.heads,))


def _gpt_oss(c: Config) -> Body:
    experts = routed(c, router="router", bias=True, swapped=True)
    return decoder(c, every_nth(c, 2), feed_forward=experts, extra=sinks)


def _llama4(c: Config) -> Body:
    step = c.count("interleave_moe_layer_step")
    listed = c.get("moe_layers")
    moe = set(range(step - 1, c.layers, step) if listed is None else listed)
    rope = rotary_layers(c)

    def feed_forward(b: Builder, sparse: int) -> None:
        if not sparse:
            return b.gated_mlp("feed_forward", c.hidden, c.count("intermediate_size_mlp"))
        b.moe("feed_forward", c, inner=c.intermediate, router="router", swapped=True)
        b.gated_mlp("feed_forward.shared_expert", c.hidden, c.intermediate, shared=True)

    types = c.layer_types(lambda i: "chunked_attention" if rope[i] else "full_attention")
    return decoder(c, types, feed_forward=feed_forward, sparse=[i in moe for i in range(c.layers)])


def _shared(
    c: Config, types: list[str] | None = None, first: int = 0, *, mlp: Mapping[str, Any] | None = None, **facts: Any
) -> Body:
    """A decoder with DeepSeek's feed-forward: options of `shared_experts`, and those of `decoder`."""
    body = decoder(
        c,
        types or all_full(c),
        feed_forward=lambda b, sparse: shared_experts(b, c, sparse, **(mlp or {})),
        sparse=sparse_layers(c, first),
        **facts,
    )
    return replace(body, mtp=mtp_of(c, body.layers[-1]))


def _dense_blocks(c: Config, types: list[str], mlp_bias: bool = False, **facts: Any) -> list[Layer]:
    """Blocks without experts, for multi-token prediction; facts as of `decoder`."""

    def feed_forward(b: Builder, _: int) -> None:
        b.gated_mlp("mlp", c.hidden, c.intermediate, bias=mlp_bias)

    return decoder(c, types, feed_forward=feed_forward, sparse=[False] * len(types), **facts).layers


def _glm4_moe(c: Config) -> Body:
    return _shared(c, out_bias=False, qk_norm="head" if c.flag("use_qk_norm") else "")


def _glm4v_moe(c: Config) -> Body:
    return _shared(c, out_bias=False)


def _solar_open(c: Config) -> Body:
    """Every layer has experts, whatever keys of GLM's are left in a config."""
    return _shared(c.changed(first_k_dense_replace=0), out_bias=False)


def plain_deepseek(c: Config) -> Body:
    """The language models of DeepSeek's small vision models and OCR: DeepSeek V2 with plain attention."""
    return _shared(c, first=1, mlp={"bias": c.flag("mlp_bias")})


def bailing_moe(c: Config) -> Body:
    """Ling and Ring 1 and 2, and LLaDA 2: fused queries, keys and values; names of the code on the Hub."""
    bias, norms = c.flag("use_bias"), c.flag("use_qk_norm")
    size = c.count("moe_shared_expert_intermediate_size", default=c.count("moe_intermediate_size"))
    shared = size * c.get("num_shared_experts", "n_shared_experts", default=0)

    def make(sparse: bool) -> Layer:
        b, a = Builder(), attention_of(c)
        wide = (a.heads + 2 * a.kv_heads) * a.head_dim
        b.linear("attention.query_key_value", "qkv", wide, c.hidden, bias=bias or c.flag("use_qkv_bias"))
        if norms:
            b.norm("attention.query_layernorm", a.head_dim, "q_norm")
            b.norm("attention.key_layernorm", a.head_dim, "k_norm")
        b.linear("attention.dense", "o", c.hidden, a.heads * a.head_dim, bias=bias)
        shared_experts(b, c, sparse, shared=shared)
        b.norms(TWO_NORMS, c.hidden)
        return b.layer(a)

    layers = each(make, sparse_layers(c))
    outer = outer_of(c, "model.word_embeddings", "model.norm")
    return Body(layers, outer, c.intermediate, mtp=mtp_of(c, make(True)))


def _dots1(c: Config) -> Body:
    return _shared(c, windows_above(c), qk_norm="head")


def _exaone_moe(c: Config) -> Body:
    types = every_nth(c, 4) if c.get("sliding_window") else c.layer_types(lambda i: "full_attention")
    facts: dict[str, Any] = {"bias": False, "qk_norm": "head"}
    blocks = _dense_blocks(c, ["full_attention"] * c.get("num_nextn_predict_layers", default=0), **facts)
    return replace(_shared(c, types, 1, **facts), mtp=mtp_modules(c, blocks))


def _hy_v3(c: Config) -> Body:
    return _shared(c, first=1, qk_norm="head", mlp={"bias": c.flag("mlp_bias")})


def _afmoe(c: Config) -> Body:
    """Arcee's Trinity: a gate on attention's output, four norms."""

    def gate(b: Builder, a: Attention) -> None:
        b.linear("self_attn.gate_proj", "g", a.heads * a.head_dim, c.hidden)

    n = c.count("global_attn_every_n_layers")
    norms = {**TWO_NORMS, "pre_mlp_layernorm": "norm", "post_mlp_layernorm": "norm_out"}
    return _shared(
        c, c.layer_types(lambda i: "sliding_attention" if (i + 1) % n else "full_attention"),
        qk_norm="head", norms=norms, extra=gate, mlp={"router": "router.gate", "corrected": "expert_bias"},
    )  # fmt: skip


def _laguna(c: Config) -> Body:
    """Poolside's Laguna: query heads by layer, a gate for each head or each element."""
    heads = c.get("num_attention_heads_per_layer") or [c.heads] * c.layers
    per_head = c.get("gating") in (True, "per-head")

    def make(kind: str, count: int, sparse: bool) -> Layer:
        b = Builder()
        a = replace(attention_of(c, *window_of(c, kind)), heads=count)
        if count % a.kv_heads:
            raise LLMHWError(f"config key num_attention_heads_per_layer has {count}, no multiple of {a.kv_heads}")
        bias = c.flag("attention_bias")
        b.qkvo("self_attn", c.hidden, a, bias=bias, out_bias=bias)
        head_norms(b, a)
        b.linear("self_attn.g_proj", "g", count if per_head else count * a.head_dim, c.hidden)
        shared = c.count("shared_expert_intermediate_size")
        shared_experts(b, c, sparse, shared=shared, corrected="gate.e_score_correction_bias")
        b.norms(TWO_NORMS, c.hidden)
        return b.layer(a)

    types = c.layer_types(lambda _: "full_attention")
    layers = each(make, types, c.listed("num_attention_heads_per_layer", heads), sparse_layers(c, 1))
    return Body(layers, outer_of(c, "model.embed_tokens", "model.norm"), c.intermediate)


def _step3p5(c: Config) -> Body:
    """Step 3.5 and 3.7: more query heads in the sliding layers, and a gate for each head."""
    other = c.get("attention_other_setting", default={})
    sliding = c.get("num_sliding_attention_heads") or other.get("num_attention_heads") or c.heads

    def attention(kind: str) -> Attention:
        a = attention_of(c, *window_of(c, kind))
        return replace(a, heads=sliding) if a.window else a

    def extra(b: Builder, a: Attention) -> None:
        head_norms(b, a)
        b.linear("self_attn.g_proj", "g", a.heads, c.hidden)

    bias, shared = c.flag("mlp_bias"), c.count("share_expert_dim", "share_expert_dims")
    options: dict[str, Any] = {"attention": attention, "extra": extra}
    listed, count = c.get("layer_types", default=()), c.get("num_nextn_predict_layers", "num_mtp_layers", default=0)
    if count and len(listed) == c.layers + count:  # published lists go on with the modules behind the last layer
        c, types = c.changed(layer_types=listed[: c.layers]), listed[c.layers :]
    else:
        types = c.get("mtp_layer_types", default=["full_attention"] * count)
    sparse = c.get("moe_layers_enum")
    if sparse is not None and c.get("mlp_layer_types") is None:
        chosen = {int(i) for i in (sparse.split(",") if isinstance(sparse, str) else sparse)}
        c = c.changed(mlp_layer_types=["sparse" if i in chosen else "dense" for i in range(c.layers)])
    body = _shared(c, c.layer_types(lambda _: "full_attention"), 3, mlp={"shared": shared, "bias": bias}, **options)
    if not count:
        return body
    return replace(body, mtp=mtp_modules(c, _dense_blocks(c, types, bias, **options)))


def _ernie_moe(c: Config) -> Body:
    bias = c.flag("use_bias")
    step, start = c.count("moe_layer_interval"), c.count("moe_layer_start_index", least=0)
    end = c.count("moe_layer_end_index", least=-1)
    last = c.layers - 1 if end == -1 else end

    def feed_forward(b: Builder, sparse: int) -> None:
        shared_experts(b, c, sparse, bias=bias)
        if sparse:
            name = "mlp.gate.moe_statics.e_score_correction_bias"
            b.plain(name, "router", (1, c.count("moe_num_experts", "num_experts")))

    body = decoder(
        c,
        all_full(c),
        bias=bias,
        feed_forward=feed_forward,
        sparse=[start <= i <= last and (i + 1) % step == 0 for i in range(c.layers)],
    )
    b = Builder()
    b.norms({"mtp_emb_norm": "norm", "mtp_hidden_norm": "norm"}, c.hidden)
    b.linear("mtp_linear_proj", "mtp", c.hidden, 2 * c.hidden)
    blocks = _dense_blocks(c, ["full_attention"] * c.get("num_nextn_predict_layers", default=0), bias, bias=bias)
    return replace(body, head_bias=bias, mtp=tuple(t for block in blocks for t in (*block.tensors, *b.tensors)))


def _ernie_vl_moe(c: Config) -> Body:
    """ERNIE 4.5 VL: experts of text beside experts of pictures, which no token of text passes through."""
    bias = c.flag("use_bias")
    count = c.count("moe_num_experts", "num_experts")
    used = c.count("moe_k", "num_experts_per_tok")
    if used > count:
        raise LLMHWError(f"config key moe_k={used} is more than the {count} experts there are")
    sizes = c.get("moe_intermediate_size")
    if not isinstance(sizes, (list, tuple)) or len(sizes) != 2:
        raise LLMHWError(
            f"config key moe_intermediate_size={shown(sizes)} must be two: of experts of text and pictures"
        )
    start, end = (_first(c, key) for key in ("moe_layer_start_index", "moe_layer_end_index"))
    last = c.layers - 1 if end is None or end == -1 else end
    sparse = sparse_layers(c, 1)
    if c.get("mlp_layer_types") is None and start is not None:
        sparse = [start <= i <= last for i in range(c.layers)]

    def feed_forward(b: Builder, is_sparse: int) -> None:
        if not is_sparse:
            return b.gated_mlp("mlp", c.hidden, c.intermediate, bias=bias)
        for name, inner, each_used in (("text", sizes[0], used), ("vision", sizes[1], 0)):
            prefix = f"mlp.{name}_moe"
            b.plain(f"{prefix}.gate.weight", "router", (count, c.hidden), matmul=bool(each_used))
            b.plain(f"{prefix}.gate.moe_statics.e_score_correction_bias", "router", (1, count))
            shapes = {"gate_up": (2 * inner, c.hidden), "down": (c.hidden, inner)}
            b.experts(f"{prefix}.experts", count, each_used, shapes, bias=False, swapped=False)
        shared = sizes[0] * c.get("moe_num_shared_experts", default=0)
        if shared:
            b.gated_mlp("mlp.shared_experts", c.hidden, shared, bias=bias, shared=True)

    return decoder(c, all_full(c), bias=bias, feed_forward=feed_forward, sparse=sparse)


def _first(c: Config, key: str) -> int | None:
    """Of a number for text and one for pictures, that for text."""
    found = c.get(key)
    chosen: int | None = found[0] if isinstance(found, (list, tuple)) and found else found or None
    return chosen


def _hunyuan_moe(c: Config) -> Body:
    if c.flag("use_cla"):
        raise LLMHWError("config key use_cla=true: layers that share keys and values are not covered in this family")
    inner = c.count("moe_intermediate_size", "intermediate_size")
    shared = c.intermediate * c.count("num_shared_expert", default=1)

    def extra(b: Builder, a: Attention) -> None:
        b.norm("self_attn.query_layernorm", a.head_dim, "q_norm")
        b.norm("self_attn.key_layernorm", a.head_dim, "k_norm")

    def feed_forward(b: Builder, _: int) -> None:
        shared_experts(b, c, True, inner=inner, shared=shared, name="mlp.shared_mlp", router="gate.wg")

    return decoder(c, all_full(c), extra=extra, feed_forward=feed_forward)


def _minimax_m3(c: Config) -> Body:
    """MiniMax M3: an indexer chooses blocks of keys in some layers, for each group of heads."""
    given = c.get("sparse_attention_config", default={})
    chosen = given.get("sparse_attention_freq")
    chosen = c.listed("sparse_attention_freq", chosen) if chosen else [0] * c.layers
    kinds = ["minimax_m3_sparse" if flag else "full_attention" for flag in chosen]
    count = {
        key: given.get(old) or c.count(key)
        for key, old in (
            ("index_n_heads", "sparse_num_index_heads"),
            ("index_head_dim", "sparse_index_dim"),
            ("index_block_size", "sparse_block_size"),
            ("index_topk_blocks", "sparse_topk_blocks"),
        )
    }
    dim = count["index_head_dim"]

    def attention(kind: str) -> Attention:
        if kind != "minimax_m3_sparse":
            return attention_of(c, *window_of(c, kind))
        topk = count["index_topk_blocks"] * count["index_block_size"]
        return replace(attention_of(c), index_dim=dim, index_heads=count["index_n_heads"], index_topk=topk)

    def extra(b: Builder, a: Attention) -> None:
        head_norms(b, a)
        if a.index_dim:
            b.linear("self_attn.indexer.q_proj", "indexer", a.index_heads * dim, c.hidden)
            b.linear("self_attn.indexer.k_proj", "indexer", dim, c.hidden)
            b.norm("self_attn.indexer.q_norm", dim, "inner_norm")
            b.norm("self_attn.indexer.k_norm", dim, "inner_norm")

    def feed_forward(b: Builder, sparse: int) -> None:
        if not sparse:
            return b.fused_mlp("mlp", c.hidden, c.count("dense_intermediate_size"))
        b.moe("mlp", c, inner=c.intermediate)
        b.fused_mlp("mlp.shared_experts", c.hidden, c.count("shared_intermediate_size"), shared=True)

    types = c.layer_types(lambda i: kinds[i])
    return decoder(
        c, types, bias=False, attention=attention, extra=extra, feed_forward=feed_forward, sparse=sparse_layers(c)
    )


def _granitemoe_shared(c: Config) -> Body:
    """Granite MoE with a shared expert, if it has a size; with windows and sinks in `granitemoe_swa`."""
    windows = c.model_type == "granitemoe_swa"
    experts = routed(c, "block_sparse_moe", router="router")
    shared = c.get("shared_intermediate_size", default=0)

    def feed_forward(b: Builder, sparse: int) -> None:
        experts(b, sparse)
        if shared:
            b.linear("shared_mlp.input_linear", "gate_up", 2 * shared, c.hidden, shared=True)
            b.linear("shared_mlp.output_linear", "down", c.hidden, shared, shared=True)

    types = c.layer_types(lambda i: "sliding_attention" if windows and i % 4 else "full_attention")
    return decoder(c, types, feed_forward=feed_forward, extra=sinks if windows else None)


def _aria(c: Config) -> Body:
    inner = c.intermediate
    shared, bias = inner * c.get("moe_num_shared_experts", default=0), c.flag("mlp_bias")

    def feed_forward(b: Builder, _: int) -> None:
        shared_experts(b, c, True, inner=inner, shared=shared, bias=bias, router="router", swapped=True)

    return decoder(c, all_full(c), feed_forward=feed_forward)


def _cohere2_moe(c: Config) -> Body:
    first = c.get("first_k_dense_replace", default=0)
    prefix, rest = c.count("prefix_dense_sliding_window_pattern"), c.count("sliding_window_pattern")
    types = c.layer_types(
        lambda i: (
            "sliding_attention" if ((i + 1) % prefix if i < first else (i - first + 1) % rest) else "full_attention"
        )
    )
    inner = c.intermediate
    dense = c.get("prefix_dense_intermediate_size", default=inner)

    def feed_forward(b: Builder, sparse: int) -> None:
        if not sparse:
            return b.gated_mlp("mlp", c.hidden, dense)
        shared_experts(b, c, True, inner=inner, shared=inner * c.get("num_shared_experts", default=0))

    return decoder(c, types, norms=ONE_NORM, feed_forward=feed_forward, sparse=sparse_layers(c))


def _muse_spark(c: Config) -> Body:
    """Muse Spark: latent experts, gates on attention and on the sums of the residual stream."""

    def gate(b: Builder, a: Attention) -> None:
        b.linear("self_attn.gate_proj", "g", a.heads * a.head_dim, c.hidden)
        for name in ("post_attention", "post_feedforward"):
            b.plain(f"{name}_residual_gate.gate", "mix", (c.hidden,))

    def feed_forward(b: Builder, sparse: int) -> None:
        if not sparse:
            return b.gated_mlp("mlp", c.hidden, c.intermediate)
        width = c.count("moe_hidden_size")
        b.moe("mlp", c, inner=c.count("moe_intermediate_size"), width=width)
        b.linear("mlp.pre_expert_proj", "latent", width, c.hidden)
        b.norm("mlp.pre_expert_norm", width, "inner_norm")
        b.norm("mlp.experts.post_expert_norm", width, "inner_norm")
        b.linear("mlp.post_expert_proj", "latent", c.hidden, width)

    last = c.layers - 1
    types = c.layer_types(lambda i: "sliding_attention" if (last - i) % 4 else "full_attention")
    norms = {**ONE_NORM, "pre_feedforward_layernorm": "norm", "post_feedforward_layernorm": "norm_out"}
    return decoder(c, types, norms=norms, feed_forward=feed_forward, sparse=sparse_layers(c), extra=gate)


def _flex_olmo(c: Config) -> Body:
    return decoder(c, all_full(c), qk_norm="hidden", norms=POST_NORMS, feed_forward=routed(c))


def _flint(c: Config) -> Body:
    last = c.layers - 1
    types = c.layer_types(lambda i: "full_attention" if i < 2 or i % 4 == 1 or i == last else "sliding_attention")

    def feed_forward(b: Builder, sparse: int) -> None:
        shared = c.count("shared_expert_intermediate_size")
        shared_experts(b, c, sparse, shared=shared, name="mlp.shared_expert")

    return decoder(c, types, qk_norm="head", feed_forward=feed_forward, sparse=qwen_sparse(c), extra=sinks)


def _mellum(c: Config) -> Body:
    types, experts = c.layer_types(lambda _: "full_attention"), routed(c, inner="moe_intermediate_size")
    return decoder(c, types, qk_norm="head", feed_forward=experts, sparse=sparse_layers(c))


def _mimo_v2_flash(c: Config) -> Body:
    """MiMo-V2: keys longer than values, and more KV heads in the sliding layers than in the others."""
    published = c.get("hybrid_layer_pattern")  # 1: sliding
    if published is not None:
        published = c.listed("hybrid_layer_pattern", published)
    types = c.layer_types(
        lambda i: "sliding_attention" if (published[i] if published else i and (i + 1) % 6) else "full_attention"
    )
    bias, experts = c.flag("attention_bias"), routed(c, inner="moe_intermediate_size")

    def attention(kind: str) -> Attention:
        if kind != "sliding_attention":
            return Attention(c.heads, c.kv_heads, c.head_dim, c.count("v_head_dim"))
        # published as the tokens before the query; the query itself is one more
        before = c.data.get("sliding_window_size")
        heads = c.count("swa_num_attention_heads", default=c.heads)
        # transformers doubles the KV heads of sliding layers: there is no key for it in its config
        kv = c.count("swa_num_key_value_heads", default=2 * c.kv_heads)
        if heads % kv:
            raise LLMHWError(f"kv_heads={kv} of the sliding layers does not divide heads={heads}")
        sizes = c.count("swa_head_dim", default=c.head_dim), c.count("swa_v_head_dim", default=c.count("v_head_dim"))
        return Attention(heads, kv, *sizes, window=before + 1 if before else c.count("sliding_window"))

    def make(kind: str, sparse: bool) -> Layer:
        b = Builder()
        a = attention(kind)
        if a.window:
            sinks(b, a)
        b.qkvo("self_attn", c.hidden, a, bias=bias)
        experts(b, sparse)
        b.norms(TWO_NORMS, c.hidden)
        return b.layer(a)

    layers = each(make, types, sparse_layers(c, 1))
    # published checkpoints hold three modules of a dense sliding block each, which their configs do not tell
    mtp = mtp_modules(c, [make("sliding_attention", False)] * 3) if published else ()
    return Body(layers, outer_of(c, "model.embed_tokens", "model.norm"), c.intermediate, mtp=mtp)


def _minimax_m2(c: Config) -> Body:
    return decoder(c, all_full(c), bias=False, qk_norm="hidden", feed_forward=routed(c))


def _olmoe(c: Config) -> Body:
    return decoder(c, all_full(c), qk_norm="hidden", feed_forward=routed(c))


def _granitemoe(c: Config) -> Body:
    return decoder(c, all_full(c), feed_forward=routed(c, "block_sparse_moe", router="router"))


def _phimoe(c: Config) -> Body:
    body = decoder(c, all_sliding(c), norm_bias=True, feed_forward=routed(c, router="router"))
    return replace(body, head_bias=c.flag("lm_head_bias"))


def _kolibri1(c: Config) -> Body:
    """Kolibri: norms before and behind both parts, a window in four of five layers, an expert that is always on."""
    types = c.layer_types(lambda i: "sliding_attention" if (i + 1) % 5 else "full_attention")
    always = c.count("shared_expert_intermediate_size")

    def experts(b: Builder, sparse: int) -> None:
        shared_experts(b, c, sparse, shared=always)

    return decoder(c, types, bias=False, qk_norm="head", norms=GLM_NORMS, feed_forward=experts)


# Known, and too unlike the others: why.
REFUSED = {
    "dbrx": "its experts lie below each other in plain matrices",
    "hunyuan": "Hunyuan-Large shares keys and values between layers; hunyuan_v1_moe is read",
    "jetmoe": "its attention is a mixture of experts, too",
}

# fmt: off
TABLE: dict[str, Family] = {
    "kolibri1": family(_kolibri1, "Kolibri 1", num_key_value_heads=4, head_dim=128, sliding_window=513),
    "llama4_text": family(_llama4, "Llama 4", synonyms=("llama4",), arithmetic=_EVERY_EXPERT, **_LLAMA4),
    "mixtral": family(_mixtral, "Mixtral", style=Style(router="softmax", norm_topk=True), num_key_value_heads=8,
        num_experts_per_tok=2, num_local_experts=8),
    "qwen2_moe": family(_qwen2_moe, "Qwen 2 MoE", style=Style(), max_window_layers=28, sliding_window=4096,
        qkv_bias=True, num_experts=60, num_experts_per_tok=4, moe_intermediate_size=1408,
        shared_expert_intermediate_size=5632),
    "qwen3_moe": family(_qwen3_moe, "Qwen 3 MoE", synonyms=("qwen3_vl_moe_text", "qwen3_omni_moe_text"), style=Style(),
        num_key_value_heads=4, sliding_window=4096),
    "phimoe": family(_phimoe, "Phi 3.5 MoE", num_key_value_heads=8),
    "gpt_oss": family(_gpt_oss, "gpt-oss", style=Style(rotary_once=True, norm="rms-late", sdpa=False,
        softmax_fp32=False, sinks=True, router="chosen", clamped=True), head_dim=64, attention_bias=True,
        sliding_window=128),
    "glm4_moe": family(_glm4_moe, "GLM-4.5", style=Style(rotary_cat=True, router="sigmoid", norm_topk=True),
        rotary=0.5, first_k_dense_replace=1, n_shared_experts=1),
    "glm4v_moe_text": family(_glm4v_moe, "GLM-4.5V", rotary=0.5, attention_bias=True, first_k_dense_replace=1,
        n_shared_experts=1, n_routed_experts=128, num_experts_per_tok=8, moe_intermediate_size=1408,
        num_key_value_heads=8),
    "minimax_m2": family(_minimax_m2, "MiniMax M2", style=Style(router="sigmoid-late", norm_topk=True,
        rotary_cat=True), num_key_value_heads=8, head_dim=128),
    "olmoe": family(_olmoe, "OLMoE", style=Style()),
    "granitemoe": family(_granitemoe, "Granite MoE", style=Style(router="chosen-fp32")),
    "ernie4_5_moe": family(_ernie_moe, "ERNIE 4.5 MoE", num_key_value_heads=4, moe_num_experts=64, moe_k=6,
        moe_num_shared_experts=2, moe_layer_start_index=1, moe_layer_end_index=-1, moe_layer_interval=1,
        moe_intermediate_size=1536, tie_word_embeddings=True),
    "minimax_m3_vl_text": family(_minimax_m3, "MiniMax M3", synonyms=("minimax_m3", "minimax_m3_vl"), rotary=0.5,
        num_key_value_heads=4, head_dim=128, num_local_experts=128, num_experts_per_tok=4,
        dense_intermediate_size=12288, shared_intermediate_size=3072, rotary_dim=64, index_n_heads=4,
        index_head_dim=128, index_block_size=128, index_topk_blocks=16),
    "step3p5": family(_step3p5, "Step 3.5 and 3.7", synonyms=("step3p7",), num_key_value_heads=8, head_dim=128,
        n_routed_experts=288, num_experts_per_tok=8, moe_intermediate_size=1280, share_expert_dim=1280),
    "hunyuan_v1_moe": family(_hunyuan_moe, "Hunyuan A13B", num_experts=1, moe_topk=1),
    "hy_v3": family(_hy_v3, "Hunyuan 3", num_key_value_heads=8, head_dim=128, num_experts=192, num_experts_per_tok=8,
        num_shared_experts=1, moe_intermediate_size=1536),
    "dots1": family(_dots1, "dots.llm1", sliding_window=4096, max_window_layers=62, moe_intermediate_size=1408),
    "solar_open": family(_solar_open, "Solar Open", num_key_value_heads=8, head_dim=128, moe_intermediate_size=1280,
        n_routed_experts=128, n_shared_experts=1, num_experts_per_tok=8),
    "exaone_moe": family(_exaone_moe, "K-EXAONE", sliding_window=4096, num_experts=64, num_experts_per_tok=8,
        num_shared_experts=1, moe_intermediate_size=1024),
    "granitemoeshared": family(_granitemoe_shared, "Granite MoE with a shared expert", num_local_experts=8,
        num_experts_per_tok=2),
    "granitemoe_swa": family(_granitemoe_shared, "Granite MoE with sliding windows", sliding_window=128,
        num_local_experts=8, num_experts_per_tok=2),
    "afmoe": family(_afmoe, "Trinity", head_dim=128, num_dense_layers=1, num_experts=64, num_experts_per_tok=6,
        num_shared_experts=2, moe_intermediate_size=1408, sliding_window=1024, global_attn_every_n_layers=4),
    "aria_text": family(_aria, "Aria", moe_num_experts=8, moe_topk=2, moe_num_shared_experts=2,
        intermediate_size=4096),
    "cohere2_moe": family(_cohere2_moe, "Cohere Command MoE", head_dim=128, sliding_window=4096, num_experts=8,
        num_experts_per_tok=2, sliding_window_pattern=4, prefix_dense_sliding_window_pattern=1,
        tie_word_embeddings=True),
    "deepseek_ocr2_text": family(plain_deepseek, "DeepSeek-OCR", synonyms=("unlimited_ocr_text",), n_routed_experts=64,
        n_shared_experts=2, num_experts_per_tok=6, moe_intermediate_size=1407),
    "ernie4_5_vl_moe_text": family(_ernie_vl_moe, "ERNIE 4.5 VL", synonyms=("ernie4_5_moe_vl",), num_key_value_heads=4,
        moe_num_experts=64, moe_k=6, moe_num_shared_experts=2, moe_intermediate_size=[1536, 512],
        tie_word_embeddings=True),
    "muse_spark_text": family(_muse_spark, "Muse Spark", num_key_value_heads=16, head_dim=64, sliding_window=2048,
        num_local_experts=256, num_experts_per_tok=8, moe_intermediate_size=4096, moe_hidden_size=4096),
    "flex_olmo": family(_flex_olmo, "FlexOlmo", num_experts=7, num_experts_per_tok=5),
    "flint": family(_flint, "Flint", num_key_value_heads=4, head_dim=128, sliding_window=513, num_experts=256,
        num_experts_per_tok=6, moe_intermediate_size=512, shared_expert_intermediate_size=1024,
        mlp_only_layers=[0, 1]),
    "laguna": family(_laguna, "Laguna", rotary=0.5, num_key_value_heads=8, head_dim=128, sliding_window=512,
        num_experts=256, num_experts_per_tok=8, moe_intermediate_size=512, shared_expert_intermediate_size=512,
        gating=True),
    "mellum": family(_mellum, "Mellum", num_key_value_heads=4, head_dim=128, sliding_window=1024, num_experts=64,
        num_experts_per_tok=8, moe_intermediate_size=896),
    "mimo_v2_flash": family(_mimo_v2_flash, "MiMo V2", synonyms=("mimo_v2",), num_key_value_heads=4, head_dim=192,
        v_head_dim=128, sliding_window=129),
}
# fmt: on
