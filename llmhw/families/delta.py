"""Hybrids of softmax attention and the delta rule: Gated DeltaNet, Kimi Delta Attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isqrt

from llmhw.families.builder import Body, Builder, attention_of, each, outer_of
from llmhw.families.config import Config, check_keys
from llmhw.families.decoder import POST_NORMS, TWO_NORMS, mtp_of, qwen_sparse, routed
from llmhw.families.family import Family, Style, family
from llmhw.families.latent import queries, values
from llmhw.families.recurrent import CHUNKS, conv, kinds_of
from llmhw.model import Attention, Layer, LinearAttention, Tensor
from llmhw.units import LLMHWError, ceil_div

_QWEN = Style(norm="rms-plus-1", rotary_cat=True, norm_topk=True, state="gated-deltanet", gated=True)
_QWEN_35 = replace(_QWEN, rotary_batch=True)
_LINEAR = {
    "rotary": 0.25,
    "arithmetic": CHUNKS,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "head_dim": 256,
    "max_position_embeddings": 32768,
}


# -- Gated DeltaNet ---------------------------------------------------------------------------


def _delta(c: Config) -> LinearAttention:
    """The state of Gated DeltaNet, by the keys that its families share."""
    key_heads, value_heads = c.count("linear_num_key_heads"), c.count("linear_num_value_heads")
    key_dim, value_dim = c.count("linear_key_head_dim"), c.count("linear_value_head_dim")
    channels = 2 * key_heads * key_dim + value_heads * value_dim
    kernel = c.count("linear_conv_kernel_dim")
    return LinearAttention("gated-deltanet", value_heads, key_dim, value_dim, channels, kernel, products=3)


def _qwen_delta(b: Builder, c: Config) -> LinearAttention:
    """Qwen's names; Qwen3-Next has two fused projections."""
    linear = _delta(c)
    inner, channels = linear.heads * linear.value_dim, linear.conv_channels
    b.plain("linear_attn.dt_bias", "heads", (linear.heads,))
    b.plain("linear_attn.A_log", "heads", (linear.heads,))
    conv(b, "linear_attn.conv1d", channels, linear.conv_kernel)
    if c.model_type == "qwen3_next":
        b.linear("linear_attn.in_proj_qkvz", "in_proj", channels + inner, c.hidden)
        b.linear("linear_attn.in_proj_ba", "in_proj", 2 * linear.heads, c.hidden)
    else:
        b.linear("linear_attn.in_proj_qkv", "in_proj", channels, c.hidden)
        b.linear("linear_attn.in_proj_z", "in_proj", inner, c.hidden)
        b.linear("linear_attn.in_proj_b", "in_proj", linear.heads, c.hidden)
        b.linear("linear_attn.in_proj_a", "in_proj", linear.heads, c.hidden)
    b.norm("linear_attn.norm", linear.value_dim, "inner_norm")
    b.linear("linear_attn.out_proj", "o", c.hidden, inner)
    return linear


def _gated_attention(b: Builder, c: Config) -> Attention:
    """Softmax attention whose output is gated, with norms of queries and keys."""
    a, bias = attention_of(c), c.flag("attention_bias")
    b.qkvo("self_attn", c.hidden, a, bias=bias, out_bias=bias, gated=True)
    b.norm("self_attn.q_norm", a.head_dim, "q_norm")
    b.norm("self_attn.k_norm", a.head_dim, "k_norm")
    return a


def _qwen3_next(c: Config) -> Body:
    """Qwen3-Next and Qwen3.5: three layers of Gated DeltaNet to one of gated softmax attention."""
    every = c.count("full_attention_interval", default=4)
    types = kinds_of(
        c, lambda i: "linear_attention" if (i + 1) % every else "full_attention", "linear_attention", "full_attention"
    )
    is_moe, experts = c.get("num_experts") is not None, routed(c, inner="moe_intermediate_size", shared=True)

    def make(kind: str, sparse: bool) -> Layer:
        b, a, linear = Builder(), None, None
        if kind == "linear_attention":
            linear = _qwen_delta(b, c)
        else:
            a = _gated_attention(b, c)
        experts(b, sparse)
        b.norms(TWO_NORMS, c.hidden)
        return b.layer(a, linear)

    layers = each(make, types, qwen_sparse(c) if is_moe else [False] * c.layers)
    outer = outer_of(c, "model.embed_tokens", "model.norm")
    return Body(layers, outer, c.get("intermediate_size", default=0), mtp=_qwen_mtp(c, make, is_moe))


def _qwen_mtp(c: Config, make: Callable[[str, bool], Layer], is_moe: bool) -> tuple[Tensor, ...]:
    """Full attention whatever the last layer has; one projection, two norms before and one behind for all of them."""
    count: int = c.get("mtp_num_hidden_layers", default=0)
    b = Builder()
    b.norms(dict.fromkeys(("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"), "norm"), c.hidden)
    b.linear("fc", "mtp", c.hidden, 2 * c.hidden)
    return (*b.tensors, *make("full_attention", is_moe).tensors * count) if count else ()


# -- Qwen 4 Exp -------------------------------------------------------------------------------


def _residual(b: Builder, c: Config, name: str, norm: str) -> None:
    """A hyper-connection: several residual streams mixed into the input of a part, and its output spread over them."""
    wide, rank = c.count("hc_count") * c.hidden, c.count("hc_lowrank")
    b.norm(f"{name}.hc_norm", wide, norm)
    b.linear(f"{name}.input_mix_weight_down", "mix", rank, wide)
    b.linear(f"{name}.input_mix_weight_up", "mix", wide, rank)


def _nth_primes(start: int, count: int) -> list[int]:
    """The first primes from a number on."""
    found: list[int] = []
    while len(found) < count:
        if start > 1 and all(start % d for d in range(2, isqrt(start) + 1)):
            found.append(start)
        start += 1
    return found


def _ngrams(b: Builder, c: Config, index: int) -> tuple[int, int]:
    """Embeddings of hashed n-grams, added to every stream; what a sequence keeps for them, in fp32 and narrow.

    index   which of the layers that have them it is: every head of each has a table of its own prime size
    """
    dim, size = c.count("ple_embed_dim", default=c.hidden), c.count("ngram_size", least=2)
    heads, wide = (size - 1) * c.count("heads_per_ngram"), c.count("hc_count") * c.hidden
    kernel, step = c.count("ple_conv_kernel_size"), c.count("make_ngram_vocab_size_divisible_by")
    if dim % heads:
        raise LLMHWError(f"config key ple_embed_dim={dim} must be a multiple of its {heads} heads of n-grams")
    primes = _nth_primes(c.count("ngram_vocab_size_base"), (index + 1) * heads)
    rows = ceil_div(sum(primes[index * heads :]), step) * step
    b.plain("ple.ple_embedding.ngram_embedding.weight", "tokens", (rows, dim // heads))
    b.linear("ple.key_proj", "mix", wide, dim)
    b.linear("ple.value_proj", "mix", c.hidden, dim)
    b.norms(dict.fromkeys(("ple.norm_key", "ple.norm_query", "ple.norm_conv"), "inner_norm"), wide)
    conv(b, "ple.conv1d", wide, kernel)
    return 2 * (size - 1), wide * (kernel - 1) * size  # tokens are kept as 64-bit integers


def _qwen4_exp(c: Config) -> Body:
    """Qwen4-Exp: Gated DeltaNet, and every fourth layer attention to chosen tokens, over several residual streams."""
    every = c.count("full_attention_interval", default=4)
    types = kinds_of(
        c, lambda i: "linear_attention" if (i + 1) % every else "full_attention", "linear_attention", "full_attention"
    )
    experts = routed(c, inner="moe_intermediate_size", shared=True)
    tables = sorted(set(c.get("ple_layer_ids", default=())))
    for number in tables:
        if not 1 <= number <= c.layers or types[number - 1] != "linear_attention":
            raise LLMHWError(f"config key ple_layer_ids has {number}, which is no layer of linear attention")

    def make(kind: str, table: int | None) -> Layer:
        b, a, linear = Builder(), None, None
        if kind == "linear_attention":
            linear = _qwen_delta(b, c)
            if table is not None:
                wide, narrow = _ngrams(b, c, table)
                linear = replace(linear, wide=wide, narrow=narrow)
        else:
            dim, heads = c.count("indexer_head_dim"), c.count("indexer_n_heads")
            topk, block = c.count("indexer_budget"), c.count("indexer_compress_ratio")
            a = replace(_gated_attention(b, c), index_dim=dim, index_heads=heads, index_topk=topk, index_block=block)
            b.linear("self_attn.indexer.index_qk_proj", "indexer", (heads + 1) * dim, c.hidden)
            b.norms({f"self_attn.indexer.{name}_layernorm": "inner_norm" for name in "qk"}, dim)
        experts(b, True)
        for name, norm in (("attn", "norm_in"), ("mlp", "norm")):
            _residual(b, c, f"{name}_hyper_connection", norm)
            inject = f"{name}_hyper_connection.block_inject_weight"
            b.linear(inject, "mix", c.count("hc_count"), c.count("hc_count") * c.hidden)
        return b.layer(a, linear)

    layers = each(make, types, [tables.index(i + 1) if i + 1 in tables else None for i in range(c.layers)])
    outer = outer_of(c, "model.embed_tokens", None)
    _residual(outer, c, "model.hyper_connection_mixer", "norm")
    return Body(layers, outer, 0, mtp=_qwen4_mtp(c, make))


def _qwen4_mtp(c: Config, make: Callable[[str, int | None], Layer]) -> tuple[Tensor, ...]:
    """A layer of attention, projections of the token and of the streams before it, and a mixer behind."""
    count: int = c.get("mtp_num_hidden_layers", default=0)
    b = Builder()
    b.norm("pre_fc_norm_embedding", c.hidden)
    b.norm("pre_fc_norm_hidden", c.count("hc_count") * c.hidden)
    b.linear("fc_embedding", "mtp", c.hidden, c.hidden)
    b.linear("fc_hidden", "mtp", c.hidden, c.hidden)
    _residual(b, c, "hyper_connection_mixer", "norm")
    return (*b.tensors, *make("full_attention", None).tensors * count) if count else ()


def _olmo_hybrid(c: Config) -> Body:
    """OLMo Hybrid: Gated DeltaNet with norms before, every fourth layer OLMo 3's attention with norms behind."""
    types = kinds_of(c, _olmo_kind(c.layers), "linear_attention", "full_attention")
    key_heads = c.count("linear_num_key_heads", default=c.heads)
    key_dim = c.count("linear_key_head_dim", default=int(0.75 * c.hidden / key_heads))
    rule = {
        "linear_num_key_heads": key_heads,
        "linear_num_value_heads": c.count("linear_num_value_heads", default=c.heads),
        "linear_key_head_dim": key_dim,
        "linear_value_head_dim": c.count("linear_value_head_dim", default=2 * key_dim),
    }
    linear = _delta(Config({**c.data, **rule}, c.defaults, c.model_type))
    keys, values = key_heads * key_dim, linear.heads * linear.value_dim

    def make(kind: str) -> Layer:
        b, a = Builder(), None
        if kind == "full_attention":
            a, bias = attention_of(c), c.flag("attention_bias")
            b.qkvo("self_attn", c.hidden, a, bias=bias, out_bias=bias)
            b.norm("self_attn.q_norm", a.heads * a.head_dim, "q_norm")
            b.norm("self_attn.k_norm", a.kv_heads * a.head_dim, "k_norm")
        else:
            b.plain("linear_attn.A_log", "heads", (linear.heads,))
            b.plain("linear_attn.dt_bias", "heads", (linear.heads,))
            for name, out in (("q", keys), ("k", keys), ("v", values), ("g", values)):
                b.linear(f"linear_attn.{name}_proj", "in_proj", out, c.hidden)
            for name in ("a", "b"):
                b.linear(f"linear_attn.{name}_proj", "in_proj", linear.heads, c.hidden)
            conv(b, "linear_attn.conv1d", linear.conv_channels, linear.conv_kernel)
            b.norm("linear_attn.o_norm", linear.value_dim, "inner_norm")
            b.linear("linear_attn.o_proj", "o", c.hidden, values)
        b.gated_mlp("mlp", c.hidden, c.intermediate)
        b.norms(POST_NORMS if a else TWO_NORMS, c.hidden)
        return b.layer(a, None if a else linear)

    return Body(each(make, types), outer_of(c, "model.embed_tokens", "model.norm"), c.intermediate)


def _olmo_kind(layers: int) -> Callable[[int], str]:
    return lambda i: "full_attention" if i % 4 == 3 or i == layers - 1 < 3 else "linear_attention"


# -- Kimi Delta Attention ---------------------------------------------------------------------


def _kda(
    b: Builder, c: Config, *, heads: int, head_dim: int, kernel: int, low_rank: bool, full_gate: bool
) -> LinearAttention:
    """Kimi Delta Attention (Kimi Team 2025): the delta rule with a decay for each channel.

    low_rank    the decay comes through a narrow projection
    full_gate   the output's gate does not
    """
    inner = heads * head_dim
    for name in ("q_proj", "k_proj", "v_proj"):
        b.linear(f"self_attn.{name}", "in_proj", inner, c.hidden)
    conv(b, "self_attn.conv1d", 3 * inner, kernel)
    b.plain("self_attn.forget_gate.dt_bias", "heads", (inner,))
    if low_rank:
        # K3's is as long as a kernel's tile
        shape = (ceil_div(heads, 128) * 128,) if full_gate else (1, 1, heads, 1)
        b.plain("self_attn.forget_gate.A_log", "mix", shape)
        b.linear("self_attn.forget_gate.f_a_proj", "q_a", head_dim, c.hidden)
        b.linear("self_attn.forget_gate.f_b_proj", "q_b", inner, head_dim)
    else:
        b.plain("self_attn.forget_gate.A_log", "heads", (heads,))
        b.linear("self_attn.forget_gate.f_proj", "in_proj", inner, c.hidden)
    b.linear("self_attn.b_proj", "in_proj", heads, c.hidden)
    if full_gate:
        b.linear("self_attn.g_proj", "in_proj", inner, c.hidden)
    else:
        b.linear("self_attn.g_a_proj", "q_a", head_dim, c.hidden)
        b.linear("self_attn.g_b_proj", "q_b", inner, head_dim)
    b.norm("self_attn.o_norm", head_dim, "inner_norm")
    b.linear("self_attn.o_proj", "o", c.hidden, inner)
    return LinearAttention("kda", heads, head_dim, head_dim, 3 * inner, kernel, products=3)


def _latent(b: Builder, c: Config, *, gate: int) -> Attention:
    """Latent attention beside it; `gate`: outputs of the projection that gates its output."""
    nope, rope, v_dim = c.count("qk_nope_head_dim"), c.count("qk_rope_head_dim"), c.count("v_head_dim")
    a = Attention(c.heads, c.heads, nope + rope, v_dim, latent=c.count("kv_lora_rank") + rope)
    bias = c.flag("attention_bias")
    queries(b, c, a, bias)
    values(b, c, a, bias)
    if gate:
        b.linear("self_attn.g_proj", "in_proj", gate, c.hidden)
    return a


def _sparse(c: Config) -> list[bool]:
    """For each layer, whether it has experts."""
    first = c.count("first_k_dense_replace", least=0)
    listed = c.get("mlp_layer_types")
    if listed is not None:
        return [kind == "sparse" for kind in c.listed("mlp_layer_types", listed)]
    return [i >= first for i in range(c.layers)]


def _experts(b: Builder, c: Config, sparse: bool) -> None:
    """Experts of a latent width, if one is given, and shared ones beside them."""
    if not sparse:
        return b.gated_mlp("mlp", c.hidden, c.intermediate)
    inner, width = c.count("moe_intermediate_size"), c.count("routed_expert_hidden_size", default=c.hidden)
    b.moe("mlp", c, inner=inner, width=width)
    if width != c.hidden:
        b.linear("mlp.routed_expert_down_proj", "latent", width, c.hidden)
        b.linear("mlp.routed_expert_up_proj", "latent", c.hidden, width)
        if c.flag("latent_moe_use_norm"):
            b.norm("mlp.routed_expert_norm", width, "inner_norm")
    shared = c.get("n_shared_experts", "num_shared_experts", default=0)
    if shared:
        b.gated_mlp("mlp.shared_experts", c.hidden, inner * shared, shared=True)


def _kimi_keys(c: Config) -> Config:
    """The config with what the published ones hold in `linear_attn_config` beside the other keys."""
    inner = c.get("linear_attn_config", default={})
    check_keys(
        {key: inner.get(key) for key in ("head_dim", "num_heads", "short_conv_kernel_size", "use_full_rank_gate")}
    )
    lists = {key: inner[key] for key in ("full_attn_layers", "kda_layers") if inner.get(key) is not None}
    check_keys(lists)
    names = {"head_dim": "linear_head_dim", "num_heads": "linear_num_heads"}
    names |= {"short_conv_kernel_size": "linear_conv_kernel_dim", "use_full_rank_gate": "use_full_rank_gate"}
    found = {new: inner[old] for old, new in names.items() if inner.get(old) is not None}
    if c.get("layer_types") is None and len(lists) == 2:
        kinds = dict.fromkeys(lists["full_attn_layers"], "full_attention")
        kinds |= dict.fromkeys(lists["kda_layers"], "linear_attention")
        if sorted(kinds) != list(range(1, c.layers + 1)):
            raise LLMHWError(
                f"config key linear_attn_config must name each of the layers 1 to {c.layers} in full_attn_layers or in "
                "kda_layers"
            )
        found["layer_types"] = [kinds[i + 1] for i in range(c.layers)]
    return Config({**c.data, **found}, c.defaults, c.model_type)


def _kimi(c: Config) -> Body:
    """Kimi Linear and Kimi K3: Kimi Delta Attention, and in some layers latent attention without rotary embedding."""
    c = _kimi_keys(c)
    types = kinds_of(
        c, lambda i: "full_attention" if i and i % 4 == 0 else "linear_attention", "linear_attention", "full_attention"
    )
    gate = c.heads * c.count("v_head_dim") if c.flag("mla_use_output_gate") else 0
    residuals = c.get("attn_res_block_size", default=0)

    def make(kind: str, sparse: bool) -> Layer:
        b, a, linear = Builder(), None, None
        if kind == "full_attention":
            a = _latent(b, c, gate=gate)
        else:
            linear = _kda(
                b, c, heads=c.count("linear_num_heads"), head_dim=c.count("linear_head_dim"),
                kernel=c.count("linear_conv_kernel_dim"), low_rank=True, full_gate=c.flag("use_full_rank_gate"),
            )  # fmt: skip
        _experts(b, c, sparse)
        b.norms(TWO_NORMS, c.hidden)
        for name in ("self_attention", "mlp") if residuals else ():  # attention over the sums of earlier blocks
            b.norm(f"{name}_res_norm", c.hidden, "inner_norm")
            b.linear(f"{name}_res_proj", "mix", 1, c.hidden)
        return b.layer(a, linear)

    layers, outer = each(make, types, _sparse(c)), outer_of(c, "model.embed_tokens", "model.norm")
    if residuals:
        outer.norm("model.output_attn_res_norm", c.hidden)
        outer.linear("model.output_attn_res_proj", "project_out", 1, c.hidden)
    return Body(layers, outer, c.intermediate, mtp=mtp_of(c, layers[-1]), ties=False)


def _bailing(c: Config) -> Body:
    """Ling 3: Kimi Delta Attention, every so many layers latent attention, gated by head."""
    every = c.count("layer_group_size")
    types = kinds_of(
        c, lambda i: "linear_attention" if (i + 1) % every else "full_attention", "linear_attention", "full_attention"
    )
    for key in ("q_lora_rank", "group_norm_size"):
        if c.get(key):
            raise LLMHWError(
                f"config key {key}={c.get(key)} is of Ring 2.5, whose lightning attention beside latent attention is "
                "not covered"
            )
    kernel = c.count("short_conv_kernel_size")
    # saved again, head_dim is that of the rotary part; published, that of linear attention
    head_dim = c.count("linear_head_dim", "head_dim")

    def make(kind: str, sparse: bool) -> Layer:
        b, a, linear = Builder(), None, None
        if kind == "full_attention":
            a = _latent(b, c, gate=c.heads)
        else:
            linear = _kda(b, c, heads=c.heads, head_dim=head_dim, kernel=kernel, low_rank=False, full_gate=True)
        _experts(b, c, sparse)
        b.norms(TWO_NORMS, c.hidden)
        return b.layer(a, linear)

    layers = each(make, types, _sparse(c))
    outer = outer_of(c, "model.embed_tokens", "model.norm")
    return Body(layers, outer, c.intermediate, mtp=mtp_of(c, make("full_attention", True)), ties=False)


# fmt: off
_KIMI = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128,
    "num_attention_heads": 32, "n_shared_experts": 1, "num_experts_per_tok": 8, "arithmetic": CHUNKS}

TABLE: dict[str, Family] = {
    "qwen3_next": family(_qwen3_next, "Qwen 3 Next", style=_QWEN, num_key_value_heads=2, **_LINEAR),
    "qwen3_5_text": family(_qwen3_next, "Qwen 3.5", style=_QWEN_35, synonyms=("qwen3_5",),
        num_key_value_heads=4, **_LINEAR),
    "qwen3_5_moe_text": family(_qwen3_next, "Qwen 3.5 MoE", style=_QWEN_35, synonyms=("qwen3_5_moe",),
        num_key_value_heads=2, **_LINEAR),
    "qwen4_exp_text": family(_qwen4_exp, "Qwen 4 Exp", synonyms=("qwen4_exp",), num_attention_heads=16,
        num_key_value_heads=2, moe_intermediate_size=512, shared_expert_intermediate_size=512, num_experts=512,
        num_experts_per_tok=10, hc_count=4, hc_lowrank=320, ple_conv_kernel_size=4, ngram_size=3, heads_per_ngram=8,
        ngram_vocab_size_base=20_000_000, make_ngram_vocab_size_divisible_by=128, **_LINEAR),
    "olmo_hybrid": family(_olmo_hybrid, "OLMo Hybrid", arithmetic=CHUNKS, num_attention_heads=30,
        intermediate_size=11008, linear_conv_kernel_dim=4, max_position_embeddings=65536),
    "kimi_linear": family(_kimi, "Kimi Linear and K3", synonyms=("kimi_k3",), rotary=0, moe_intermediate_size=1024,
        intermediate_size=9216, num_experts=256, linear_head_dim=128, linear_num_heads=32, linear_conv_kernel_dim=4,
        first_k_dense_replace=1, max_position_embeddings=1048576, **_KIMI),
    "bailing_hybrid": family(_bailing, "Ling 3", moe_intermediate_size=768, intermediate_size=6144, num_experts=512,
        head_dim=128, short_conv_kernel_size=4, layer_group_size=6, first_k_dense_replace=2,
        max_position_embeddings=262144, num_mtp_layers=1, **_KIMI),
}
# fmt: on
