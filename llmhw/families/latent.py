"""Multi-head latent attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from llmhw.families.builder import Body, Builder, each, outer_of
from llmhw.families.config import Config
from llmhw.families.decoder import TWO_NORMS, FeedForward, mtp_of, rotary_layers, shared_experts, sparse_layers
from llmhw.families.family import Family, Style, family
from llmhw.families.mixtures import plain_deepseek
from llmhw.model import Attention, Layer, LinearAttention, Tensor
from llmhw.units import LLMHWError, shown

Extra = Callable[[Builder, Attention], None]


def attention_of(c: Config, index: str = "") -> Attention:
    """Latent attention by a config's keys; `index`: full with an indexer, shared with the choice of one before it."""
    nope, rope = c.count("qk_nope_head_dim"), c.count("qk_rope_head_dim", least=0)
    a = Attention(
        c.heads, c.heads, nope + rope, c.count("v_head_dim"), latent=c.count("kv_lora_rank") + rope
    )  # fmt: skip
    if index:
        a = replace(a, index_topk=c.count("index_topk"))
    if index == "full":
        a = replace(a, index_dim=c.count("index_head_dim"), index_heads=c.count("index_n_heads"))
    return a


def queries(b: Builder, c: Config, a: Attention, bias: bool) -> None:
    """Queries, out of a compression where the config has one."""
    rank = c.get("q_lora_rank")
    if rank:
        b.linear("self_attn.q_a_proj", "q_a", rank, c.hidden, bias=bias)
        b.norm("self_attn.q_a_layernorm", rank, "inner_norm")
        b.linear("self_attn.q_b_proj", "q_b", a.heads * a.head_dim, rank)
    else:
        b.linear("self_attn.q_proj", "q", a.heads * a.head_dim, c.hidden)


def values(b: Builder, c: Config, a: Attention, bias: bool) -> None:
    """The latent that is cached, keys and values out of it, and the output projection."""
    rank, nope = c.count("kv_lora_rank"), c.count("qk_nope_head_dim")
    b.linear("self_attn.kv_a_proj_with_mqa", "kv_a", a.latent, c.hidden, bias=bias)
    b.norm("self_attn.kv_a_layernorm", rank, "inner_norm")
    b.linear("self_attn.kv_b_proj", "kv_b", a.heads * (nope + a.v_head_dim), rank)
    b.linear("self_attn.o_proj", "o", c.hidden, a.heads * a.v_head_dim, bias=bias)


def indexer(b: Builder, c: Config, a: Attention, into: int) -> None:
    """What chooses the keys that a query sees; `into`: width of what its own queries are made of."""
    b.linear("self_attn.indexer.wq_b", "indexer", a.index_heads * a.index_dim, into)
    b.linear("self_attn.indexer.wk", "indexer", a.index_dim, c.hidden)
    b.norm("self_attn.indexer.k_norm", a.index_dim, "inner_norm", bias=True)
    b.linear("self_attn.indexer.weights_proj", "indexer", a.index_heads, c.hidden)


def indexers(c: Config, otherwise: Callable[[int], str] | None = None) -> list[str]:
    """For each layer whether it has an indexer, or shares the choice of the last one before it: full or shared."""
    found = c.get("indexer_types")
    if found is None:
        found = c.get("index_topk_pattern")
        if found is not None:
            found = [{"F": "full", "S": "shared"}.get(letter, letter) for letter in found]
    if found is None:
        step, offset = max(c.get("index_topk_freq", default=1), 1), c.get("index_skip_topk_offset", default=2)
        otherwise = otherwise or (lambda i: "shared" if max(i - offset + 1, 0) % step else "full")
        found = [otherwise(i) for i in range(c.layers)]
    found = c.listed("indexer_types", found)
    for kind in found:
        if kind not in ("full", "shared"):
            raise LLMHWError(f"config key indexer_types has {shown(kind)}; known are full and shared")
    if found[0] != "full":
        raise LLMHWError(
            "config key indexer_types must begin with full: the first layer has no other's choice to share"
        )
    return found


def blocks(
    c: Config,
    index: list[str] | None = None,
    *,
    first: int = 0,
    extra: Extra | None = None,
    feed_forward: FeedForward | None = None,
    norms: Mapping[str, str] = TWO_NORMS,
) -> Body:
    """DeepSeek's blocks of latent attention.

    index          see `indexers`; None: no layer has one
    first          dense layers before those with experts, where a config does not say
    extra          adds what else an attention has
    feed_forward   None: DeepSeek's
    """
    bias = c.flag("attention_bias")

    def make(chosen: str, sparse: bool) -> Layer:
        b, a = Builder(), attention_of(c, chosen)
        queries(b, c, a, bias)
        values(b, c, a, bias)
        if a.index_dim:
            indexer(b, c, a, c.count("q_lora_rank"))
        if extra:
            extra(b, a)
        if feed_forward:
            feed_forward(b, sparse)
        else:
            shared_experts(b, c, sparse)
        b.norms(norms, c.hidden)
        return b.layer(a)

    layers = each(make, index or [""] * c.layers, sparse_layers(c, first))
    ahead = mtp_of(c, make("full" if index else "", True)) if c.get("num_nextn_predict_layers") else ()
    return Body(layers, outer_of(c, "model.embed_tokens", "model.norm"), c.intermediate, mtp=ahead)


def _deepseek_v2(c: Config) -> Body:
    """DeepSeek V2; its small vision models have plain attention in the same blocks."""
    if not c.flag("use_mla", default=True):
        first = c.data.get("first_k_dense_replace")
        return plain_deepseek(c.changed(first_k_dense_replace=1 if first is None else first))
    bias = c.flag("mlp_bias")
    return blocks(c, feed_forward=lambda b, sparse: shared_experts(b, c, sparse, bias=bias))


def _deepseek_v3(c: Config) -> Body:
    return blocks(c)


def _deepseek_v32(c: Config) -> Body:
    return blocks(c, ["full"] * c.layers)


def _glm_moe_dsa(c: Config) -> Body:
    return blocks(c, indexers(c))


def _glm4_moe_lite(c: Config) -> Body:
    return blocks(c, first=1)


def _dense(c: Config) -> Body:
    """Latent attention with a plain gated MLP."""
    bias = c.flag("mlp_bias") and c.model_type == "minicpm3"
    if c.get("v_head_dim") is None:
        c = c.changed(v_head_dim=c.hidden // c.heads)
    return blocks(c, feed_forward=lambda b, _: b.gated_mlp("mlp", c.hidden, c.intermediate, bias=bias))


def _axk1(c: Config) -> Body:
    def feed_forward(b: Builder, sparse: int) -> None:
        shared_experts(b, c, sparse)
        if sparse:
            b.norm("mlp.post_mlp_layernorm", c.hidden, "norm_out")

    return blocks(c, first=1, feed_forward=feed_forward)


def _axk2(c: Config) -> Body:
    """A.X K2: queries and attention's gate in one matrix, and norms with a gate of low rank."""
    bias, narrow = c.flag("attention_bias"), c.count("gated_norm_rank")
    rank = c.count("q_lora_rank")

    def gated(b: Builder, name: str, part: str) -> None:
        b.norm(f"{name}.norm", c.hidden, part)
        b.linear(f"{name}.mlp.fc1", "mix", narrow, c.hidden)
        b.linear(f"{name}.mlp.fc2", "mix", c.hidden, narrow)

    def make(sparse: bool) -> Layer:
        b, a = Builder(), attention_of(c, "full")
        b.linear("self_attn.q_a_proj", "q_a", rank, c.hidden, bias=bias)
        b.norm("self_attn.q_a_layernorm", rank, "inner_norm")
        b.linear("self_attn.q_gate_proj", "q_b", a.heads * (a.head_dim + a.v_head_dim), 2 * rank)
        values(b, c, a, bias)
        indexer(b, c, a, rank)
        shared_experts(b, c, sparse)
        gated(b, "input_layernorm", "norm_in")
        if sparse:
            gated(b, "post_attention_layernorm", "norm")
        else:
            b.norm("post_attention_layernorm", c.hidden)
        return b.layer(a)

    layers = each(make, sparse_layers(c, 1))
    return Body(layers, outer_of(c, "model.embed_tokens", "model.norm"), c.intermediate)


def streams(b: Builder, name: str, c: Config, outputs: int, scales: int, prefix: str = "") -> None:
    """A hyper-connection: how many streams of hidden states are mixed into one, and back."""
    b.plain(f"{name}.{prefix}fn", "streams", (outputs, c.count("hc_mult") * c.hidden), matmul=True)
    b.plain(f"{name}.{prefix}base", "streams", (outputs,))
    b.plain(f"{name}.{prefix}scale", "streams", (scales,))


def _hy_v4(c: Config) -> Body:
    """Hunyuan 4: shared indexers, a gate, sinks, and hyper-connections."""
    count = c.count("hc_mult")

    def extra(b: Builder, a: Attention) -> None:
        b.plain("self_attn.sinks", "heads", (a.heads,))
        b.linear("self_attn.gate_proj", "g", a.heads * a.v_head_dim, c.hidden)
        streams(b, "attn_hc", c, 2 * count, 2)
        streams(b, "ffn_hc", c, 2 * count, 2)

    kinds = indexers(c, lambda i: "full" if i == 0 or (i - 1) % 4 == 0 else "shared")
    body = blocks(c, kinds, first=1, extra=extra)
    streams(body.outer, "model.hc_head", c, count, 1, "hc_")
    return body


# sizes of the sliding layers of dots3, where a config does not say
_SLIDING = {"num_attention_heads": 64, "q_lora_rank": 1024, "kv_lora_rank": 1024, "head_dim": 256,
            "qk_nope_head_dim": 192, "v_head_dim": 128}  # fmt: skip


def _dots3_note(c: Config) -> Body:
    """dots3: layers with an indexer, and sliding layers with sizes of their own; a gate for each head."""
    indexed = c.flag("use_dsa", default=True)
    others = {key: c.count(f"swa_{key}", default=size) for key, size in _SLIDING.items()}
    rope = others.pop("head_dim") - others["qk_nope_head_dim"]
    others["qk_rope_head_dim"] = c.count("swa_qk_rope_head_dim", default=rope, least=0)
    types = c.layer_types(lambda i: "indexed_attention" if i < 2 or i % 4 == 1 else "sliding_attention")
    if c.get("per_layer_config") is None:
        own = [c.changed(**others) if kind == "sliding_attention" else c for kind in types]
    else:
        own = [c.of_layer(i) for i in range(c.layers)]
    sizes = [tuple(sorted((key, o.get(key)) for key in others)) for o in own]
    shared = c.count("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size")

    def make(kind: str, sizes: tuple[tuple[str, int], ...], sparse: bool) -> Layer:
        b, own, bias = Builder(), c.changed(**dict(sizes)), c.flag("attention_bias")
        sliding = kind == "sliding_attention"
        a = attention_of(own, "" if sliding or (kind == "full_attention" and not indexed) else "full")
        a = replace(a, window=c.count("sliding_window", "sliding_window_size")) if sliding else a
        queries(b, own, a, bias)
        values(b, own, a, bias)
        b.norm("self_attn.k_rope_only_layernorm", own.count("qk_rope_head_dim"), "inner_norm")
        b.linear("self_attn.g_proj", "g", a.heads, c.hidden)
        if a.index_dim:
            indexer(b, own, a, own.count("q_lora_rank"))
        shared_experts(b, c, sparse, shared=shared * c.get("n_shared_experts", default=1))
        b.norms(TWO_NORMS, c.hidden)
        return b.layer(a)

    layers = each(make, types, sizes, sparse_layers(c, 1))
    return Body(layers, outer_of(c, "model.embed_tokens", "model.norm"), c.intermediate)


def _mistral_large4(c: Config) -> Body:
    """Mistral Large 4: shared indexers, layers without rotary embedding, no compression of queries."""
    sources = c.get("kv_source_layers")
    if sources is not None and list(sources) != list(range(c.layers)):
        raise LLMHWError("config key kv_source_layers: layers that read another's cache are not covered in this family")
    rope, nope = c.count("qk_rope_head_dim"), c.count("qk_nope_head_dim")
    bias = c.flag("attention_bias")

    def scaling(b: Builder, name: str, heads: int, part: str) -> None:
        b.plain(f"{name}.softmax_scaling.scale", part, (heads,))
        b.plain(f"{name}.softmax_scaling.bias", part, (heads,))

    def make(index: str, turned: int, sparse: bool) -> Layer:
        own = c if turned else c.changed(qk_nope_head_dim=nope + rope, qk_rope_head_dim=0)
        b, a = Builder(), attention_of(own, index)
        queries(b, own.changed(q_lora_rank=None), a, bias)
        values(b, own, a, bias)
        scaling(b, "self_attn", a.heads, "heads")
        if a.index_dim:
            indexer(b, own, a, c.hidden)
            b.norm("self_attn.indexer.q_input_norm", c.hidden, "inner_norm", bias=True)
            scaling(b, "self_attn.indexer", a.index_heads, "indexer")
        shared_experts(b, c, sparse)
        b.norms(TWO_NORMS, c.hidden)
        return b.layer(a)

    layers = each(make, indexers(c), rotary_layers(c), sparse_layers(c, 1))
    return Body(layers, outer_of(c, "model.embed_tokens", "model.norm"), c.intermediate)


def _longcat(c: Config) -> Body:
    """LongCat-Flash: two blocks of attention and MLP to one mixture of experts, some of which do nothing."""
    hidden, inner = c.hidden, c.count("ffn_hidden_size")
    count, none = c.count("n_routed_experts"), c.get("zero_expert_num", default=0)
    used = c.count("moe_topk", "num_experts_per_tok")
    if used > count:
        raise LLMHWError(f"config key moe_topk={used} is more than the {count} experts there are")
    bias = c.flag("attention_bias")

    def make(number: int) -> Layer:
        b, a = Builder(), attention_of(c)
        queries(b, c, a, bias)
        values(b, c, a, bias)
        b.gated_mlp("mlps", hidden, inner)
        b.norms({"input_layernorm": "norm_in", "post_attention_layernorm": "norm"}, hidden)
        parts = [replace(t, name=_numbered(t.name, number)) for t in b.tensors]
        if not number:
            b = Builder()
            b.linear("mlp.router.classifier", "router", count + none, hidden, bias=c.flag("router_bias"))
            size = c.count("expert_ffn_hidden_size", "moe_intermediate_size")
            sizes = {"gate_up": (2 * size, hidden), "down": (hidden, size)}
            # transformers allocates rows for those that do nothing, too; checkpoints have none. Of the experts that a
            # token is sent to, this share does something, where the router is even
            busy = max(1, round(used * count / (count + none)))
            b.experts("mlp.experts", count, busy, sizes, bias=False, swapped=False)
            parts += b.tensors
        return Layer(tuple(parts), a)

    layers = each(make, [number for _ in range(c.layers) for number in (0, 1)])
    outer = outer_of(c, "model.embed_tokens", "model.norm")
    return Body(layers, outer, inner, mtp=mtp_of(c, make(1)))  # a half without experts


def _numbered(name: str, number: int) -> str:
    """The name with the number of its half of the layer behind the first part."""
    module, rest = name.split(".", 1)
    return f"{module}.{number}.{rest}"


_RATES = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128}


def _v4_types(c: Config) -> tuple[list[str], dict[str, int]]:
    """Kinds of layers, and how many tokens an entry of each stands for; by the published spelling or transformers'."""
    rates = {**_RATES, **c.get("compress_rates", default={})}
    rates |= {
        kind: c.count(old)
        for kind, old in zip(_RATES, ("compress_rate_csa", "compress_rate_hca"), strict=True)
        if c.get(old) is not None
    }
    kinds = {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}
    ratios = c.get("compress_ratios")
    if ratios is not None and c.get("layer_types") is None:
        for ratio in ratios:
            if ratio not in kinds:
                raise LLMHWError(f"config key compress_ratios has {ratio}; known are 0, 4 and 128")
        # goes on with the modules for multi-token prediction
        c = c.changed(layer_types=[kinds[ratio] for ratio in ratios][: c.layers])
    types = c.layer_types(lambda i: list(_RATES)[0 if i % 2 and i > 1 else 1])
    for kind in types:
        if kind not in kinds.values():
            raise LLMHWError(f"config key layer_types has {shown(kind)}; known are {', '.join(kinds.values())}")
    return types, rates


def _v4_attention(c: Config, kind: str, rate: int) -> Attention:
    """Keys that are values, too, of one head: a window, and the past in compressed entries."""
    wide, dim = c.head_dim, c.count("index_head_dim")
    a = Attention(c.heads, 1, wide, wide, c.count("sliding_window"), latent=wide)
    if kind == "heavily_compressed_attention":  # of each token a value and its weight wait
        return replace(a, compression=rate, waiting=(2 * wide, 0))
    if kind == "compressed_sparse_attention":  # entries overlap: two of them; so does what the indexer sees
        a = replace(a, compression=rate, waiting=(4 * (wide + dim), 2 * rate * (wide + dim)))
        a = replace(a, index_dim=dim, index_pool=rate)
        return replace(a, index_heads=c.count("index_n_heads"), index_topk=c.count("index_topk"))
    return a


def _v4_compressor(b: Builder, name: str, c: Config, a: Attention, size: int) -> None:
    """What makes entries of this size; `indexer` ones overlap, and so come in pairs."""
    width = size * (2 if a.index_dim else 1)
    b.plain(f"{name}.position_bias", "indexer", (a.compression, width))
    b.linear(f"{name}.kv_proj", "indexer", width, c.hidden)
    b.linear(f"{name}.gate_proj", "indexer", width, c.hidden)
    b.norm(f"{name}.kv_norm", size, "inner_norm")


def _deepseek_v4(c: Config) -> Body:
    """DeepSeek V4: compressed attention, output projection in groups, hyper-connections."""
    types, rates = _v4_types(c)
    rank, groups, count = c.count("q_lora_rank"), c.count("o_groups"), c.count("hc_mult")
    mixed = groups * c.count("o_lora_rank")
    if c.heads * c.head_dim % groups:
        raise LLMHWError(f"config key o_groups={groups} does not divide {c.heads} heads of {c.head_dim}")

    def make(kind: str) -> Layer:
        b, a = Builder(), _v4_attention(c, kind, rates.get(kind, 0))
        b.plain("self_attn.sinks", "heads", (a.heads,))
        b.linear("self_attn.q_a_proj", "q_a", rank, c.hidden)
        b.norm("self_attn.q_a_norm", rank, "inner_norm")
        b.linear("self_attn.q_b_proj", "q_b", a.heads * a.head_dim, rank)
        b.linear("self_attn.kv_proj", "kv_a", a.head_dim, c.hidden)
        b.norm("self_attn.kv_norm", a.head_dim, "inner_norm")
        # a matrix for each group of heads, one below the other
        b.linear("self_attn.o_a_proj", "q_b", mixed, a.heads * a.head_dim // groups)
        b.linear("self_attn.o_b_proj", "o", c.hidden, mixed)
        if a.compression:
            _v4_compressor(b, "self_attn.compressor", c, a, a.latent)
        if a.index_dim:
            name = "self_attn.compressor.indexer"
            _v4_compressor(b, name, c, a, a.index_dim)
            b.linear(f"{name}.q_b_proj", "indexer", a.index_heads * a.index_dim, rank)
            b.linear(f"{name}.scorer.weights_proj", "indexer", a.index_heads, c.hidden)
        shared_experts(b, c, True)
        b.norms(TWO_NORMS, c.hidden)
        for name in ("attn_hc", "ffn_hc"):
            streams(b, name, c, (2 + count) * count, 3)
        return b.layer(a)

    outer = outer_of(c, "model.embed_tokens", "model.norm")
    streams(outer, "model.hc_head", c, count, 1, "hc_")
    return Body(each(make, types), outer, c.count("moe_intermediate_size"), mtp=_v4_mtp(c, make))


def _v4_mtp(c: Config, make: Callable[[str], Layer]) -> tuple[Tensor, ...]:
    """Modules for multi-token prediction: a block that sees a window, two projections, norms, and a head of streams."""
    b = Builder()
    b.norms(dict.fromkeys(("enorm", "hnorm", "norm"), "norm"), c.hidden)
    b.linear("e_proj", "mtp", c.hidden, c.hidden)
    b.linear("h_proj", "mtp", c.hidden, c.hidden)
    streams(b, "hc_head", c, c.count("hc_mult"), 1, "hc_")
    count: int = c.get("num_nextn_predict_layers", default=0)
    return (*make("sliding_attention").tensors, *b.tensors) * count


def _glm5_next(c: Config) -> Body:
    """GLM-5 Next: Kimi's delta attention, latent attention with pooled keys of its indexer, hyper-connections."""
    heads, dim, kernel = c.count("linear_num_heads"), c.count("linear_head_dim"), c.count("linear_conv_kernel_dim")
    wide, pool, rank = heads * dim, c.count("index_kpool"), c.count("q_lora_rank")
    state = LinearAttention("kimi-delta", heads, dim, dim, 3 * wide, kernel, products=3)
    bias, count = c.flag("attention_bias"), c.count("hc_mult")

    def delta(b: Builder) -> None:
        for name in ("q", "k", "v"):
            b.linear(f"self_attn.{name}_proj", "in_proj", wide, c.hidden)
        b.plain("self_attn.conv1d.weight", "conv", (3 * wide, 1, kernel))
        b.plain("self_attn.forget_gate.dt_bias", "heads", (wide,))
        b.plain("self_attn.forget_gate.A_log", "heads", (heads,))
        for name in ("forget_gate.f", "g"):
            b.linear(f"self_attn.{name}_a_proj", "q_a", dim, c.hidden)
            b.linear(f"self_attn.{name}_b_proj", "in_proj", wide, dim)
        b.linear("self_attn.b_proj", "in_proj", heads, c.hidden)
        b.norm("self_attn.o_norm", dim, "inner_norm")
        b.linear("self_attn.o_proj", "o", c.hidden, wide)

    def make(kind: str, index: str, sparse: bool) -> Layer:
        b, a = Builder(), None
        if kind == "linear_attention":
            delta(b)
        else:
            a = replace(attention_of(c, index), index_pool=pool)
            queries(b, c, a, bias)
            values(b, c, a, bias)
            if a.index_dim:
                indexer(b, c, a, rank)
                b.plain("self_attn.indexer.index_kpool_compress_ape", "indexer", (pool, a.index_dim))
                b.plain("self_attn.indexer.index_kpool_compress_gate", "indexer", (a.index_dim, c.hidden))
        shared_experts(b, c, sparse)
        b.norms(TWO_NORMS, c.hidden)
        for name in ("attn_hc", "ffn_hc"):
            streams(b, name, c, (2 + count) * count, 3)
        return b.layer(a, None if a else state)

    types = c.layer_types(lambda i: "indexed_attention" if i % 4 == 3 else "linear_attention")
    layers = each(make, types, indexers(c), sparse_layers(c, 3))
    return Body(layers, outer_of(c, "model.embed_tokens", "model.norm"), c.intermediate)


_MASKED = "transformers masks a full attention; the pairs that the indexer selects have no reference there"
_IDLE = "experts that do nothing take part in the routing: how many multiply depends on the tokens"
_V4 = "transformers masks all pairs, and mixes streams of hidden states with further small products"
_V3 = Style(router="sigmoid", norm_topk=True, rotary_cat=True)
_SIZES = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
_MLA_V2 = {"first_k_dense_replace": 0, "n_shared_experts": 2, "q_lora_rank": 1536, "n_routed_experts": 64,
           "num_experts_per_tok": 6, "moe_intermediate_size": 1407, **_SIZES}  # fmt: skip
_MLA_V3 = {"first_k_dense_replace": 3, "n_shared_experts": 1, "q_lora_rank": 1536, "n_routed_experts": 256,
           "num_experts_per_tok": 8, "moe_intermediate_size": 2048, **_SIZES}  # fmt: skip
_INDEX = {"arithmetic": _MASKED, "index_topk": 2048, "index_head_dim": 128}

# fmt: off
TABLE: dict[str, Family] = {
    "deepseek_v2": family(_deepseek_v2, "DeepSeek V2", style=Style(router="softmax-fp32", rotary_complex=True,
        rotary_cat=True), **_MLA_V2),
    "deepseek_v3": family(_deepseek_v3, "DeepSeek V3 and R1, Kimi K2", style=_V3, synonyms=("kimi_k2",),
        **_MLA_V3),
    "deepseek_v32": family(_deepseek_v32, "DeepSeek V3.2", style=replace(_V3, registry=False), index_n_heads=64,
        **_INDEX, **_MLA_V3),
    "deepseek_v4": family(_deepseek_v4, "DeepSeek V4", synonyms=("deepseek_ref",), arithmetic=_V4,
        num_key_value_heads=1, head_dim=512, q_lora_rank=1024, n_routed_experts=256, n_shared_experts=1,
        num_experts_per_tok=6, moe_intermediate_size=2048, sliding_window=128, o_groups=8, o_lora_rank=1024,
        index_n_heads=64, index_head_dim=128, index_topk=512, hc_mult=4, qk_rope_head_dim=64),
    "glm_moe_dsa": family(_glm_moe_dsa, "GLM-5", index_n_heads=32, **_INDEX, **{**_MLA_V3, "q_lora_rank": 2048,
        "qk_nope_head_dim": 192, "v_head_dim": 256}),
    "glm5_next_text": family(_glm5_next, "GLM-5 Next", rotary=0, index_n_heads=32, index_kpool=16, q_lora_rank=1536,
        kv_lora_rank=512, qk_rope_head_dim=0, qk_nope_head_dim=256, v_head_dim=256, n_routed_experts=288,
        n_shared_experts=1, num_experts_per_tok=8, moe_intermediate_size=2048, linear_num_heads=64,
        linear_head_dim=128, linear_conv_kernel_dim=4, hc_mult=4, **_INDEX),
    "glm4_moe_lite": family(_glm4_moe_lite, "GLM-4.7-Flash", q_lora_rank=768, kv_lora_rank=512, qk_rope_head_dim=64,
        qk_nope_head_dim=192, v_head_dim=256, n_routed_experts=64, n_shared_experts=1, num_experts_per_tok=4,
        moe_intermediate_size=1536),
    "mistral4": family(_deepseek_v3, "Mistral Small 4", q_lora_rank=1024, kv_lora_rank=256, qk_rope_head_dim=64,
        qk_nope_head_dim=64, v_head_dim=128, n_routed_experts=128, n_shared_experts=1, num_experts_per_tok=4,
        moe_intermediate_size=2048, first_k_dense_replace=0),
    "youtu": family(_dense, "Youtu-LLM", q_lora_rank=1536, kv_lora_rank=512, qk_rope_head_dim=64,
        qk_nope_head_dim=128, v_head_dim=128, tie_word_embeddings=True),
    "minicpm3": family(_dense, "MiniCPM 3", q_lora_rank=768, kv_lora_rank=256, qk_rope_head_dim=32,
        qk_nope_head_dim=64, tie_word_embeddings=True),
    "axk1": family(_axk1, "A.X K1", q_lora_rank=1536, kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128,
        v_head_dim=128, n_routed_experts=192, n_shared_experts=1, num_experts_per_tok=8, moe_intermediate_size=2048),
    "axk2": family(_axk2, "A.X K2", index_n_heads=16, q_lora_rank=384, kv_lora_rank=128, qk_rope_head_dim=32,
        qk_nope_head_dim=64, v_head_dim=64, n_routed_experts=128, n_shared_experts=1, num_experts_per_tok=8,
        moe_intermediate_size=512, gated_norm_rank=16, **_INDEX),
    "hy_v4": family(_hy_v4, "Hunyuan 4", index_n_heads=16, q_lora_rank=1536, kv_lora_rank=512, qk_rope_head_dim=64,
        qk_nope_head_dim=192, v_head_dim=256, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8,
        moe_intermediate_size=768, hc_mult=4, **_INDEX),
    "mistral_large4_text": family(_mistral_large4, "Mistral Large 4", index_n_heads=32, kv_lora_rank=512,
        qk_rope_head_dim=64, qk_nope_head_dim=64, v_head_dim=128, n_routed_experts=128, n_shared_experts=1,
        num_experts_per_tok=4, moe_intermediate_size=6144, no_rope_layer_interval=4, **_INDEX),
    "dots3_note_text": family(_dots3_note, "dots3", index_n_heads=64, q_lora_rank=1024, kv_lora_rank=512,
        qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, n_routed_experts=256, n_shared_experts=1,
        num_experts_per_tok=8, moe_intermediate_size=1536, shared_experts_intermediate_size=1536, sliding_window=512,
        **_INDEX),
    "longcat_flash": family(_longcat, "LongCat-Flash", arithmetic=_IDLE, ffn_hidden_size=12288, q_lora_rank=1536,
        kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, moe_topk=12,
        n_routed_experts=512, zero_expert_num=256, expert_ffn_hidden_size=2048),
}
# fmt: on
