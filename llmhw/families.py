"""Architectures: how each turns its `config.json` into tensors, and what else is a fact of the family.

A new one is one reader and one entry of `FAMILIES`. Names, shapes and defaults are those of the transformers
implementation, which the truth tests build on the meta device and compare tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from llmhw.checks import check_prose, check_text
from llmhw.frozen import frozen
from llmhw.model import DROPOUT_RATES, PARTS, Attention, Layer, LinearAttention, ModelSpec, Tensor
from llmhw.units import LLMHWError, check_choice, nearest, shown

# -- what a config may hold -------------------------------------------------------------------

Check = Callable[[str, Any], Any]


def _whole(argument: str, value: Any, *, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise LLMHWError(f"{argument}={shown(value)} must be a whole number from {least} to {most:,}")


def _number(argument: str, value: Any, *, most: float) -> None:
    if type(value) not in (int, float) or not 0 <= value <= most:
        raise LLMHWError(f"{argument}={shown(value)} must be a number from 0 to {most:g}")


def _flag(argument: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise LLMHWError(f"{argument}={shown(value)} must be true or false")


def _object(argument: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise LLMHWError(f"{argument}={shown(value)} must be an object")


def _list(argument: str, value: Any, *, kind: type) -> None:
    if not isinstance(value, (list, tuple)) or any(type(entry) is not kind for entry in value):
        raise LLMHWError(f"{argument}={shown(value)} must be a list of {'names' if kind is str else 'whole numbers'}")


def _patterns(argument: str, value: Any) -> None:
    """GPT-Neo's: lists of names, each with how often it is repeated."""
    pairs = isinstance(value, (list, tuple)) and all(isinstance(e, (list, tuple)) and len(e) == 2 for e in value)
    if not pairs:
        raise LLMHWError(f"{argument}={shown(value)} must be a list of pairs: names, and how often they are repeated")
    for names, times in value:
        _list(argument, names, kind=str)
        _whole(argument, times, least=1, most=10**3)


# What each key that is read must hold. Bounds are far beyond any model; they keep sizes sums that mean something, and
# layers so few that every question is answered at once. null stands for a family's default. What a key's value means
# for the others (that heads are divided, that a list has an entry for each layer) is checked where it is read.
_WIDTH, _COUNT = (1, 10**7), (1, 10**5)
_KEYS: dict[str, Check] = {
    **{
        key: partial(_whole, least=least, most=most)
        for (least, most), keys in {
            _WIDTH: """hidden_size n_embd d_model head_dim intermediate_size n_inner ffn_dim ffn_hidden_size v_head_dim
                intermediate_size_mlp moe_intermediate_size moe_latent_size moe_shared_expert_intermediate_size
                qk_nope_head_dim qk_rope_head_dim kv_lora_rank q_lora_rank index_head_dim linear_key_head_dim
                linear_value_head_dim linear_conv_kernel_dim mamba_head_dim ssm_state_size conv_kernel mamba_d_conv
                word_embed_proj_dim rotary_dim expansion_ratio""",
            _COUNT: """num_attention_heads n_head num_heads n_heads num_key_value_heads num_kv_heads num_experts
                num_local_experts n_routed_experts num_experts_per_tok experts_per_token index_n_heads
                linear_num_key_heads linear_num_value_heads mamba_num_heads n_groups mamba_n_groups
                sliding_window_pattern _sliding_window_pattern no_rope_layer_interval full_attention_interval
                decoder_sparse_step interleave_moe_layer_step num_ln_in_parallel_attn""",
            (1, 10**3): "num_hidden_layers n_layer num_layers n_layers",
            (1, 10**9): "vocab_size",
            (1, 10**12): """max_position_embeddings n_positions max_seq_len seq_length attention_chunk_size window_size
                index_topk""",
            # 0 is none
            (0, 10**12): "sliding_window sliding_window_size",
            (0, 10**7): "shared_expert_intermediate_size",
            (0, 10**5): "first_k_dense_replace max_window_layers n_shared_experts",
            (0, 100): "num_nextn_predict_layers num_mtp_layers",
        }.items()
        for key in keys.split()
    },
    **dict.fromkeys(
        """tie_word_embeddings attention_bias mlp_bias use_sliding_window use_bias use_qk_norm qk_layernorm multi_query
        bias enable_bias do_layer_norm_before _remove_final_layer_norm layer_norm_elementwise_affine parallel_attn
        new_decoder_architecture lm_head_bias attention_out_bias qkv_bias use_qkv_bias use_parallel_residual
        use_conv_bias norm_topk_prob alibi""".split(),
        _flag,
    ),
    **dict.fromkeys("partial_rotary_factor rotary_pct".split(), partial(_number, most=1)),
    **dict.fromkeys(DROPOUT_RATES, partial(_number, most=1)),
    **dict.fromkeys("attn_logit_softcapping final_logit_softcapping".split(), partial(_number, most=1e9)),
    **dict.fromkeys(
        "model_type dtype torch_dtype hidden_act hidden_activation activation_function".split(), check_text
    ),
    "hybrid_override_pattern": check_prose,
    "quantization_config": _object,
    "rope_parameters": _object,
    "rope_scaling": _object,
    "layer_types": partial(_list, kind=str),
    "layers_block_type": partial(_list, kind=str),
    "mlp_layer_types": partial(_list, kind=str),
    "mlp_only_layers": partial(_list, kind=int),
    "moe_layers": partial(_list, kind=int),
    "no_rope_layers": partial(_list, kind=int),
    "attention_types": _patterns,
}
# No model is near it: 10,000 times the largest.
_MOST_PARAMETERS = 10**16


def _check_keys(data: Mapping[str, Any]) -> None:
    """Raise `LLMHWError` for the first key whose value is not of its kind or out of bounds."""
    for key, value in data.items():
        check = _KEYS.get(key)
        if check and value is not None:
            check(f"config key {key}", value)
    for key in ("rope_parameters", "rope_scaling"):
        factor = (data.get(key) or {}).get("partial_rotary_factor")
        if factor is not None:
            _number(f"config key {key}.partial_rotary_factor", factor, most=1)
    method = (data.get("quantization_config") or {}).get("quant_method")
    if method is not None:
        check_text("config key quantization_config.quant_method", method)


class Config:
    """A config's keys with the family's defaults; a missing or ill-typed key is a clear error."""

    def __init__(self, data: Mapping[str, Any], defaults: Mapping[str, Any], model_type: str) -> None:
        self.data = data
        self.defaults = defaults
        self.model_type = model_type

    def get(self, *keys: str, default: Any = None) -> Any:
        """The first of these keys that has a value, else the family's default, else `default`.

        null stands for the default, but for keys where it means "none": no window, no low-rank queries.
        """
        if keys[0] in ("sliding_window", "q_lora_rank") and keys[0] in self.data:
            return self.data[keys[0]]
        for source in (self.data, self.defaults):
            for key in keys:
                if source.get(key) is not None:
                    return source[key]
        return default

    def flag(self, key: str, default: bool = False) -> bool:
        return bool(self.get(key, default=default))

    def count(self, *keys: str, default: int | None = None, least: int = 1) -> int:
        value = self.get(*keys, default=default)
        if value is None:
            raise LLMHWError(
                f"config of model_type={self.model_type!r} has no {' or '.join(keys)}; is it a complete config.json?"
            )
        if value < least:  # 0 stands for none in some families, and is none of this one's
            raise LLMHWError(f"config key {keys[0]}={value!r} must be a whole number of at least {least}")
        return int(value)

    @property
    def hidden(self) -> int:
        return self.count("hidden_size", "n_embd", "d_model")

    @property
    def layers(self) -> int:
        return self.count("num_hidden_layers", "n_layer", "num_layers", "n_layers")

    @property
    def heads(self) -> int:
        return self.count("num_attention_heads", "n_head", "num_heads", "n_heads")

    @property
    def kv_heads(self) -> int:
        return self.count("num_key_value_heads", default=self.heads)

    @property
    def head_dim(self) -> int:
        if self.get("head_dim") is None and self.hidden % self.heads:
            raise LLMHWError(
                f"heads={self.heads} does not divide hidden_size={self.hidden}, and the config gives no head_dim"
            )
        return self.count("head_dim", default=self.hidden // self.heads)

    @property
    def intermediate(self) -> int:
        return self.count("intermediate_size")

    @property
    def vocab(self) -> int:
        return self.count("vocab_size")

    def layer_types(self, otherwise: Callable[[int], str]) -> list[str]:
        """The attention kind of every layer: from the config's list if it has one."""
        types = self.get("layer_types")
        if types is None:
            return [otherwise(i) for i in range(self.layers)]
        return self.listed("layer_types", types)

    def listed(self, key: str, found: Any) -> list[Any]:
        """A list with one entry for each layer."""
        if len(found) != self.layers:
            raise LLMHWError(f"config key {key} must list one entry for each of num_hidden_layers={self.layers}")
        return list(found)


class Builder:
    """Collects the tensors of one layer, each with its part; see `llmhw.model.PARTS`."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    def plain(self, name: str, part: str, shape: tuple[int, ...], **facts: bool) -> None:
        """A parameter, unless `facts` (of `Tensor`) say otherwise one that no matrix multiplication uses."""
        component, split = PARTS[check_choice("part", part, PARTS)]
        if split == "row" and not facts.get("matmul"):
            split = "whole"  # a bias: of a product that is cut by its inputs, every rank holds the whole one
        self.tensors.append(Tensor(name, shape, component, part=part, split=split, **facts))

    def linear(self, name: str, part: str, out: int, into: int, *, bias: bool = False, **facts: bool) -> None:
        """nn.Linear, weight (out, into); `swapped` for GPT-2's Conv1D, weight (into, out); `shared` as in `Tensor`."""
        shape = (into, out) if facts.get("swapped") else (out, into)
        self.plain(f"{name}.weight", part, shape, matmul=True, **facts)
        if bias:
            self.plain(f"{name}.bias", part, (out,), shared=facts.get("shared", False))

    def norm(self, name: str, size: int, part: str = "norm", *, bias: bool = False) -> None:
        self.plain(f"{name}.weight", part, (size,))
        if bias:
            self.plain(f"{name}.bias", part, (size,))

    def norms(self, names: Mapping[str, str], size: int, *, bias: bool = False) -> None:
        """Several, each with its part."""
        for name, part in names.items():
            self.norm(name, size, part, bias=bias)

    def experts(
        self, prefix: str, count: int, used: int, sizes: Mapping[str, tuple[int, int]], *, bias: bool, swapped: bool
    ) -> None:
        """Stacked expert matrices, as transformers 5 holds them; `sizes` are outputs and inputs of one expert."""
        stack = Tensor("", (), "experts", True, count, used, split="experts")
        for part, size in sizes.items():
            shape = (count, *(size[::-1] if swapped else size))
            self.tensors.append(replace(stack, name=f"{prefix}.{part}_proj", shape=shape, part=part, swapped=swapped))
        for part, (out, _) in sizes.items() if bias else ():
            name = f"{prefix}.{part}_proj_bias"
            self.tensors.append(replace(stack, name=name, shape=(count, out), matmul=False, part=part))

    def gated_mlp(self, prefix: str, hidden: int, inner: int, **options: bool) -> None:
        """SwiGLU and its kin: gate, up, down; `options` as in `linear`."""
        self.linear(f"{prefix}.gate_proj", "gate", inner, hidden, **options)
        self.plain_mlp(f"{prefix}.up_proj", f"{prefix}.down_proj", hidden, inner, **options)

    def fused_mlp(self, hidden: int, inner: int) -> None:
        """Gate and up in one matrix, and down."""
        self.linear("mlp.gate_up_proj", "gate_up", 2 * inner, hidden)
        self.linear("mlp.down_proj", "down", hidden, inner)

    def plain_mlp(self, up: str, down: str, hidden: int, inner: int, **options: bool) -> None:
        """Two matrices; `options` as in `linear`."""
        self.linear(up, "up", inner, hidden, **options)
        self.linear(down, "down", hidden, inner, **options)

    def moe(
        self, prefix: str, c: Config, *, inner: int, router: str = "gate", bias: bool = False, swapped: bool = False
    ) -> None:
        """Router and gated experts, fused as (experts, 2 x inner, hidden) and (experts, hidden, inner)."""
        count = c.count("num_experts", "num_local_experts", "n_routed_experts")
        used = c.count("num_experts_per_tok", "experts_per_token")
        if used > count:
            raise LLMHWError(f"config key num_experts_per_tok={used} is more than the {count} experts there are")
        self.linear(f"{prefix}.{router}", "router", count, c.hidden, bias=bias)
        sizes = {"gate_up": (2 * inner, c.hidden), "down": (c.hidden, inner)}
        self.experts(f"{prefix}.experts", count, used, sizes, bias=bias, swapped=swapped)

    def qkvo(
        self,
        prefix: str,
        hidden: int,
        a: Attention,
        *,
        bias: bool = False,
        out_bias: bool = False,
        out_name: str = "o_proj",
        gated: bool = False,
    ) -> None:
        """Separate query, key, value and output projections."""
        q = a.heads * a.head_dim
        self.linear(f"{prefix}.q_proj", "q", 2 * q if gated else q, hidden, bias=bias)
        self.linear(f"{prefix}.k_proj", "k", a.kv_heads * a.head_dim, hidden, bias=bias)
        self.linear(f"{prefix}.v_proj", "v", a.kv_heads * a.v_head_dim, hidden, bias=bias)
        self.linear(f"{prefix}.{out_name}", "o", hidden, a.heads * a.v_head_dim, bias=out_bias)

    def layer(self, attention: Attention | None = None, linear: LinearAttention | None = None) -> Layer:
        return Layer(tuple(self.tensors), attention, linear)


@dataclass(frozen=True)
class Body:
    """What a reader returns: the blocks, and the tensors outside them."""

    layers: list[Layer]
    outer: Builder
    intermediate: int
    mtp: tuple[Tensor, ...] = ()
    head_bias: bool = False
    head_in: int | None = None


def _attention(c: Config, window: int | None = None, chunk: int | None = None) -> Attention:
    heads, kv_heads = c.heads, c.kv_heads
    if heads % kv_heads:
        raise LLMHWError(
            f"kv_heads={kv_heads} does not divide heads={heads}; see num_key_value_heads and num_attention_heads"
        )
    return Attention(heads, kv_heads, c.head_dim, c.head_dim, window, chunk)


def _each(make: Callable[..., Layer], *kinds: Iterable[Any]) -> list[Layer]:
    """A layer for each of these kinds; equal ones are one object, so that sums go over the distinct ones."""
    keys = list(zip(*kinds, strict=True))
    made = {key: make(*key) for key in dict.fromkeys(keys)}
    return [made[key] for key in keys]


def _outer(
    c: Config,
    embed: str,
    norm: str | None,
    *,
    norm_bias: bool = False,
    width: int | None = None,
    positions: tuple[str, int] | None = None,
) -> Builder:
    """The embedding, the learned positions and the last norm; `positions`: name and rows."""
    b = Builder()
    b.plain(f"{embed}.weight", "tokens", (c.vocab, width or c.hidden))
    if positions:
        b.plain(f"{positions[0]}.weight", "positions", (positions[1], c.hidden))
    if norm:
        b.norm(norm, c.hidden, bias=norm_bias)
    return b


# -- decoders in the manner of Llama ----------------------------------------------------------


FeedForward = Callable[[Builder, int], None]  # adds a layer's feed-forward part; is told whether it has experts


def _window_of(c: Config, kind: str) -> tuple[int | None, int | None]:
    """(window, chunk) of a layer of this kind."""
    if kind in ("full_attention", "full"):
        return None, None
    if kind == "sliding_attention":
        return c.count("sliding_window"), None
    if kind == "chunked_attention":
        return None, c.count("attention_chunk_size")
    raise LLMHWError(f"config key layer_types has {kind!r}; this family knows full, sliding and chunked attention")


_ONE_NORM = {"input_layernorm": "norm_in"}
_TWO_NORMS = {**_ONE_NORM, "post_attention_layernorm": "norm"}
_POST_NORMS = {"post_attention_layernorm": "norm", "post_feedforward_layernorm": "norm_out"}
_FOUR_NORMS = {**_TWO_NORMS, "pre_feedforward_layernorm": "norm", "post_feedforward_layernorm": "norm_out"}


def _decoder(
    c: Config,
    types: list[str],
    *,
    bias: bool | None = None,
    out_bias: bool | None = None,
    qk_norm: str = "",
    norms: Mapping[str, str] = _TWO_NORMS,
    norm_bias: bool = False,
    norm: str | None = "model.norm",
    feed_forward: FeedForward | None = None,
    sparse: Iterable[bool] | None = None,
    extra: Callable[[Builder, Attention], None] | None = None,
) -> Body:
    """Llama and everything built like it; the arguments are where the relatives differ.

    bias       of the attention's projections; None: what the config says
    out_bias   of the output projection; None: as the others of attention
    sparse     for each layer, whether it has experts; None: all of them, in a family that has some
    """

    qkv_bias = c.flag("attention_bias") if bias is None else bias

    def make(kind: str, is_sparse: bool) -> Layer:
        b = Builder()
        a = _attention(c, *_window_of(c, kind))
        b.qkvo("self_attn", c.hidden, a, bias=qkv_bias, out_bias=qkv_bias if out_bias is None else out_bias)
        if qk_norm:
            for name, heads in (("q_norm", a.heads), ("k_norm", a.kv_heads)):
                b.norm(f"self_attn.{name}", a.head_dim * (heads if qk_norm == "hidden" else 1), name)
        if extra:
            extra(b, a)
        if feed_forward:
            feed_forward(b, is_sparse)
        else:
            b.gated_mlp("mlp", c.hidden, c.intermediate, bias=c.flag("mlp_bias"))
        b.norms(norms, c.hidden, bias=norm_bias)
        return b.layer(a)

    layers = _each(make, types, [True] * c.layers if sparse is None else sparse)
    outer = _outer(c, "model.embed_tokens", norm, norm_bias=norm_bias)
    return Body(layers, outer, c.get("intermediate_size", default=0))


def _full(c: Config) -> list[str]:
    return ["full_attention"] * c.layers


def _all_sliding(c: Config) -> list[str]:
    """Mistral's rule: one window for every layer, if there is one."""
    return ["sliding_attention" if c.get("sliding_window") else "full_attention"] * c.layers


def _qwen_windows(c: Config) -> list[str]:
    """Qwen's rule: windows only when switched on, from layer max_window_layers upward."""
    on = c.flag("use_sliding_window") and c.get("sliding_window")
    first = c.get("max_window_layers")
    return c.layer_types(lambda i: "sliding_attention" if on and i >= first else "full_attention")


def _every(c: Config, default: int) -> list[str]:
    """Every n-th layer sees everything, the others a window."""
    n = c.count("sliding_window_pattern", "_sliding_window_pattern", default=default)
    return c.layer_types(lambda i: "sliding_attention" if (i + 1) % n else "full_attention")


def _rotary_layers(c: Config) -> list[int]:
    """For each layer, whether it has a rotary embedding."""
    interval = c.count("no_rope_layer_interval")
    listed = c.get("no_rope_layers")
    return c.listed("no_rope_layers", listed) if listed else [int((i + 1) % interval != 0) for i in range(c.layers)]


def _experts(
    c: Config, prefix: str = "mlp", *, inner: str = "intermediate_size", shared: bool = False, **options: Any
) -> FeedForward:
    """Routed experts, and a gated MLP where a layer has none.

    inner     config key of an expert's size
    shared    Qwen's: beside them an expert that is always on, and its gate
    options   as in `Builder.moe`
    """

    def feed_forward(b: Builder, sparse: int) -> None:
        if not sparse:
            return b.gated_mlp("mlp", c.hidden, c.intermediate)
        b.moe(prefix, c, inner=c.count(inner), **options)
        if shared:
            b.gated_mlp("mlp.shared_expert", c.hidden, c.count("shared_expert_intermediate_size"), shared=True)
            b.linear("mlp.shared_expert_gate", "router", 1, c.hidden, shared=True)

    return feed_forward


def _plain(c: Config, up: str, down: str, bias: bool) -> FeedForward:
    """Two matrices."""
    return lambda b, _: b.plain_mlp(up, down, c.hidden, c.intermediate, bias=bias)


def _llama(c: Config) -> Body:
    return _decoder(c, _full(c))


def _mistral(c: Config) -> Body:
    return _decoder(c, _all_sliding(c), bias=False)


def _mixtral(c: Config) -> Body:
    return _decoder(c, _all_sliding(c), bias=False, feed_forward=_experts(c))


def _qwen2(c: Config) -> Body:
    return _decoder(c, _qwen_windows(c), bias=True, out_bias=False)


def _qwen_sparse(c: Config) -> list[bool]:
    """For each layer, whether it has experts."""
    step = c.count("decoder_sparse_step", default=1)
    dense = c.get("mlp_only_layers", default=())
    return [i not in dense and (i + 1) % step == 0 for i in range(c.layers)]


def _qwen2_moe(c: Config) -> Body:
    on, first = c.flag("use_sliding_window"), c.count("max_window_layers")
    types = c.layer_types(lambda i: "sliding_attention" if on and (i + 1) % 2 and i < first else "full_attention")
    experts = _experts(c, inner="moe_intermediate_size", shared=True)
    return _decoder(c, types, bias=c.flag("qkv_bias"), out_bias=False, feed_forward=experts, sparse=_qwen_sparse(c))


def _qwen3(c: Config) -> Body:
    return _decoder(c, _qwen_windows(c), qk_norm="head")


def _qwen3_moe(c: Config) -> Body:
    types = _all_sliding(c) if c.flag("use_sliding_window") else _full(c)
    experts = _experts(c, inner="moe_intermediate_size")
    return _decoder(c, types, qk_norm="head", feed_forward=experts, sparse=_qwen_sparse(c))


def _gemma2(c: Config) -> Body:
    return _decoder(c, _every(c, 2), norms=_FOUR_NORMS)


def _gemma3(c: Config) -> Body:
    return _decoder(c, _every(c, 6), norms=_FOUR_NORMS, qk_norm="head")


def _gpt_oss(c: Config) -> Body:
    def sinks(b: Builder, a: Attention) -> None:
        b.plain("self_attn.sinks", "heads", (a.heads,))

    experts = _experts(c, router="router", bias=True, swapped=True)
    return _decoder(c, _every(c, 2), feed_forward=experts, extra=sinks)


def _llama4(c: Config) -> Body:
    step = c.count("interleave_moe_layer_step")
    listed = c.get("moe_layers")
    moe = set(range(step - 1, c.layers, step) if listed is None else listed)
    rope = _rotary_layers(c)

    def feed_forward(b: Builder, sparse: int) -> None:
        if not sparse:
            return b.gated_mlp("feed_forward", c.hidden, c.count("intermediate_size_mlp"))
        b.moe("feed_forward", c, inner=c.intermediate, router="router", swapped=True)
        b.gated_mlp("feed_forward.shared_expert", c.hidden, c.intermediate, shared=True)

    types = c.layer_types(lambda i: "chunked_attention" if rope[i] else "full_attention")
    return _decoder(c, types, feed_forward=feed_forward, sparse=[i in moe for i in range(c.layers)])


def _glm(c: Config) -> Body:
    norms = _TWO_NORMS
    if c.model_type == "glm4":
        norms = {**norms, "post_self_attn_layernorm": "norm", "post_mlp_layernorm": "norm_out"}
    return _decoder(
        c, _full(c), out_bias=False, norms=norms, feed_forward=lambda b, _: b.fused_mlp(c.hidden, c.intermediate)
    )


def _shared_experts(b: Builder, c: Config, sparse: int) -> None:
    """DeepSeek's feed-forward: dense first layers, then routed experts beside always-on shared ones."""
    if not sparse:
        return b.gated_mlp("mlp", c.hidden, c.intermediate, bias=c.flag("mlp_bias"))
    inner = c.count("moe_intermediate_size")
    b.moe("mlp", c, inner=inner)
    shared = c.get("n_shared_experts", default=0)
    if shared:
        b.gated_mlp("mlp.shared_experts", c.hidden, inner * shared, shared=True)


def _mtp(c: Config, last: Layer) -> tuple[Tensor, ...]:
    """Multi-token-prediction modules: a block, two norms, a 2h-to-h projection and a last norm each."""
    count: int = c.get("num_nextn_predict_layers", "num_mtp_layers", default=0)
    b = Builder()
    b.norm("enorm", c.hidden)
    b.norm("hnorm", c.hidden)
    b.linear("eh_proj", "mtp", c.hidden, 2 * c.hidden)
    b.norm("shared_head.norm", c.hidden)
    return (*last.tensors, *b.tensors) * count


def _glm4_moe(c: Config) -> Body:
    first = c.count("first_k_dense_replace", least=0)
    body = _decoder(
        c,
        _full(c),
        out_bias=False,
        qk_norm="head" if c.flag("use_qk_norm") else "",
        feed_forward=lambda b, sparse: _shared_experts(b, c, sparse),
        sparse=[i >= first for i in range(c.layers)],
    )
    return replace(body, mtp=_mtp(c, body.layers[-1]))


def _mimo_v2_flash(c: Config) -> Body:
    """MiMo-V2-Flash: keys longer than values, and more KV heads in the sliding layers than in the others."""
    listed = c.listed("mlp_layer_types", c.get("mlp_layer_types", default=["dense"] + ["sparse"] * (c.layers - 1)))
    types = c.layer_types(lambda i: "full_attention" if i == 0 or not (i + 1) % 6 else "sliding_attention")
    bias, v_dim, experts = c.flag("attention_bias"), c.count("v_head_dim"), _experts(c, inner="moe_intermediate_size")

    def make(kind: str, sparse: bool) -> Layer:
        b = Builder()
        sliding = kind == "sliding_attention"
        # published as the tokens before the query; the query itself is one more
        before = c.data.get("sliding_window_size")
        window = (before + 1 if before else c.count("sliding_window")) if sliding else None
        # transformers doubles the KV heads of sliding layers: there is no key for it in the config
        kv = c.kv_heads * 2 if sliding else c.kv_heads
        if c.heads % kv:
            raise LLMHWError(f"kv_heads={kv} of the sliding layers does not divide heads={c.heads}")
        a = Attention(c.heads, kv, c.head_dim, v_dim, window=window)
        if sliding:
            b.plain("self_attn.sinks", "heads", (a.heads,))
        b.qkvo("self_attn", c.hidden, a, bias=bias)
        experts(b, sparse)
        b.norms(_TWO_NORMS, c.hidden)
        return b.layer(a)

    layers = _each(make, types, (listed[i] == "sparse" for i in range(c.layers)))
    return Body(layers, _outer(c, "model.embed_tokens", "model.norm"), c.intermediate)


def _minimax_m2(c: Config) -> Body:
    return _decoder(c, _full(c), bias=False, qk_norm="hidden", feed_forward=_experts(c))


def _olmo(c: Config) -> Body:
    return _decoder(c, _full(c), norms={}, norm=None)


def _olmo2(c: Config) -> Body:
    types = _every(c, 4) if c.model_type == "olmo3" else _full(c)
    return _decoder(c, types, qk_norm="hidden", norms=_POST_NORMS)


def _olmoe(c: Config) -> Body:
    return _decoder(c, _full(c), qk_norm="hidden", feed_forward=_experts(c))


def _granitemoe(c: Config) -> Body:
    return _decoder(c, _full(c), feed_forward=_experts(c, "block_sparse_moe", router="router"))


def _cohere(c: Config) -> Body:
    def head_norms(b: Builder, a: Attention) -> None:
        if c.flag("use_qk_norm"):
            b.plain("self_attn.q_norm.weight", "q_norm", (a.heads, a.head_dim))
            b.plain("self_attn.k_norm.weight", "k_norm", (a.kv_heads, a.head_dim))

    types = _every(c, 4) if c.model_type == "cohere2" else _full(c)
    return _decoder(c, types, norms=_ONE_NORM, extra=head_norms)


def _exaone4(c: Config) -> Body:
    types = _every(c, 4) if c.get("sliding_window") else c.layer_types(lambda i: "full_attention")
    return _decoder(c, types, bias=False, qk_norm="head", norms=_POST_NORMS)


def _seed_oss(c: Config) -> Body:
    return _decoder(c, _full(c), out_bias=c.flag("attention_out_bias"))


def _ernie(c: Config) -> Body:
    bias = c.flag("use_bias")
    return _decoder(
        c, _full(c), bias=bias, feed_forward=lambda b, _: b.gated_mlp("mlp", c.hidden, c.intermediate, bias=bias)
    )


def _smollm3(c: Config) -> Body:
    rope = _rotary_layers(c)
    on = c.flag("use_sliding_window") and c.get("sliding_window")
    types = c.layer_types(lambda i: "sliding_attention" if on and not rope[i] else "full_attention")
    return _decoder(c, types)


def _phimoe(c: Config) -> Body:
    body = _decoder(c, _all_sliding(c), norm_bias=True, feed_forward=_experts(c, router="router"))
    return replace(body, head_bias=c.flag("lm_head_bias"))


def _stablelm(c: Config) -> Body:
    if c.flag("qk_layernorm"):
        raise LLMHWError("config key qk_layernorm=true of model_type='stablelm' is not covered; set it to false")
    parallel = c.flag("use_parallel_residual")
    norms = _ONE_NORM if parallel else _TWO_NORMS
    return _decoder(c, _full(c), bias=c.flag("use_qkv_bias"), out_bias=False, norms=norms, norm_bias=True)


def _starcoder2(c: Config) -> Body:
    bias = c.flag("use_bias")
    mlp = _plain(c, "mlp.c_fc", "mlp.c_proj", bias)
    return _decoder(c, _all_sliding(c), bias=bias, norm_bias=True, feed_forward=mlp)


def _nemotron(c: Config) -> Body:
    mlp = _plain(c, "mlp.up_proj", "mlp.down_proj", c.flag("mlp_bias"))
    return _decoder(c, _full(c), norm_bias=True, feed_forward=mlp)


# -- multi-head latent attention --------------------------------------------------------------


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
        _shared_experts(b, c, is_sparse)
        b.norms(_TWO_NORMS, c.hidden)
        return b.layer(a)

    layers = _each(make, sparse)
    return Body(layers, _outer(c, "model.embed_tokens", "model.norm"), c.intermediate, mtp=_mtp(c, layers[-1]))


# -- hybrids of softmax and linear attention --------------------------------------------------


def _qwen3_next(c: Config) -> Body:
    """Qwen3-Next and Qwen3.5: three layers of Gated DeltaNet to one of gated softmax attention."""
    key_heads, value_heads = c.count("linear_num_key_heads"), c.count("linear_num_value_heads")
    key_dim, value_dim = c.count("linear_key_head_dim"), c.count("linear_value_head_dim")
    kernel = c.count("linear_conv_kernel_dim")
    channels = 2 * key_heads * key_dim + value_heads * value_dim
    inner = value_heads * value_dim
    state = LinearAttention("gated-deltanet", value_heads, key_dim, value_dim, channels, kernel)
    every = c.count("full_attention_interval", default=4)
    types = c.layer_types(lambda i: "linear_attention" if (i + 1) % every else "full_attention")
    is_moe, experts = c.get("num_experts") is not None, _experts(c, inner="moe_intermediate_size", shared=True)

    def make(kind: str, sparse: bool) -> Layer:
        b = Builder()
        a: Attention | None = None
        if kind == "linear_attention":
            b.plain("linear_attn.dt_bias", "heads", (value_heads,))
            b.plain("linear_attn.A_log", "heads", (value_heads,))
            b.plain("linear_attn.conv1d.weight", "conv", (channels, 1, kernel))
            if c.model_type == "qwen3_next":
                b.linear("linear_attn.in_proj_qkvz", "in_proj", channels + inner, c.hidden)
                b.linear("linear_attn.in_proj_ba", "in_proj", 2 * value_heads, c.hidden)
            else:
                b.linear("linear_attn.in_proj_qkv", "in_proj", channels, c.hidden)
                b.linear("linear_attn.in_proj_z", "in_proj", inner, c.hidden)
                b.linear("linear_attn.in_proj_b", "in_proj", value_heads, c.hidden)
                b.linear("linear_attn.in_proj_a", "in_proj", value_heads, c.hidden)
            b.norm("linear_attn.norm", value_dim, "inner_norm")
            b.linear("linear_attn.out_proj", "o", c.hidden, inner)
        else:
            a = _attention(c)
            bias = c.flag("attention_bias")
            b.qkvo("self_attn", c.hidden, a, bias=bias, out_bias=bias, gated=True)
            b.norm("self_attn.q_norm", a.head_dim, "q_norm")
            b.norm("self_attn.k_norm", a.head_dim, "k_norm")
        experts(b, sparse)
        b.norms(_TWO_NORMS, c.hidden)
        return b.layer(a, None if a else state)

    layers = _each(make, types, _qwen_sparse(c) if is_moe else [False] * c.layers)
    return Body(layers, _outer(c, "model.embed_tokens", "model.norm"), c.get("intermediate_size", default=0))


_NEMOTRON_LETTERS = {"M": "linear_attention", "*": "full_attention", "E": "moe", "-": "mlp"}
_NEMOTRON_NAMES = {"mamba": "linear_attention", "attention": "full_attention"}


def _nemotron_h(c: Config) -> Body:
    """Nemotron-H and Nemotron 3: blocks of one mixer each - Mamba-2, softmax attention, MLP or experts."""
    types = c.get("layers_block_type", "layer_types", default=[])
    if not types:
        pattern = c.get("hybrid_override_pattern", default="")
        if not pattern or set(pattern) - set(_NEMOTRON_LETTERS):
            raise LLMHWError(
                f"config key hybrid_override_pattern={pattern!r} must be made of {', '.join(_NEMOTRON_LETTERS)}"
            )
        types = [_NEMOTRON_LETTERS[letter] for letter in pattern]
    types = [_NEMOTRON_NAMES.get(kind, kind) for kind in types]
    heads, head_dim = c.count("mamba_num_heads"), c.count("mamba_head_dim")
    state, groups = c.count("ssm_state_size"), c.count("n_groups", "mamba_n_groups")
    kernel = c.count("conv_kernel", "mamba_d_conv")
    inner = heads * head_dim
    channels = inner + 2 * groups * state
    mamba = LinearAttention("mamba-2", heads, state, head_dim, channels, kernel)

    def plain_mlp(b: Builder, prefix: str, size: int, *, shared: bool = False) -> None:
        names = f"{prefix}.up_proj", f"{prefix}.down_proj"
        b.plain_mlp(*names, c.hidden, size, bias=c.flag("mlp_bias"), shared=shared)

    def make(kind: str) -> Layer:
        b = Builder()
        b.norm("norm", c.hidden, "norm_in")
        if kind == "linear_attention":
            for name in ("dt_bias", "A_log", "D"):
                b.plain(f"mixer.{name}", "heads", (heads,))
            b.plain("mixer.conv1d.weight", "conv", (channels, 1, kernel))
            if c.flag("use_conv_bias"):
                b.plain("mixer.conv1d.bias", "conv", (channels,))
            b.linear("mixer.in_proj", "in_proj", inner + channels + heads, c.hidden, bias=c.flag("use_bias"))
            b.norm("mixer.norm", inner, "inner_norm")
            b.linear("mixer.out_proj", "o", c.hidden, inner, bias=c.flag("use_bias"))
            return b.layer(linear=mamba)
        if kind == "full_attention":
            a = _attention(c)
            b.qkvo("mixer", c.hidden, a)
            return b.layer(a)
        if kind == "mlp":
            plain_mlp(b, "mixer", c.intermediate)
        elif kind == "moe":
            count, used = c.count("n_routed_experts"), c.count("num_experts_per_tok")
            width, size = c.count("moe_latent_size", default=c.hidden), c.count("moe_intermediate_size")
            sizes = {"up": (size, width), "down": (width, size)}
            b.experts("mixer.experts", count, used, sizes, bias=False, swapped=False)
            b.linear("mixer.gate", "router", count, c.hidden)
            plain_mlp(b, "mixer.shared_experts", c.count("moe_shared_expert_intermediate_size"), shared=True)
            if width != c.hidden:
                b.linear("mixer.fc1_latent_proj", "latent", width, c.hidden, bias=c.flag("mlp_bias"))
                b.linear("mixer.fc2_latent_proj", "latent", c.hidden, width, bias=c.flag("mlp_bias"))
        else:
            raise LLMHWError(f"config key layers_block_type has {kind!r}; known are {', '.join(set(types) - {kind})}")
        return b.layer()

    return Body(_each(make, types), _outer(c, "model.embeddings", "model.norm_f"), c.intermediate)


# -- older decoders ---------------------------------------------------------------------------


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
    outer = _outer(c, "transformer.wte", "transformer.ln_f", norm_bias=True, positions=positions)
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
    outer = _outer(c, "transformer.wte", "transformer.ln_f", norm_bias=True, positions=positions)
    return Body(_each(make, kinds), outer, inner)


def _gptj(c: Config) -> Body:
    inner = c.count("n_inner", default=4 * c.hidden)
    a = _attention(c)
    b = Builder()
    b.norm("ln_1", c.hidden, "norm_in", bias=True)
    b.qkvo("attn", c.hidden, a, out_name="out_proj")
    b.plain_mlp("mlp.fc_in", "mlp.fc_out", c.hidden, inner, bias=True)
    outer = _outer(c, "transformer.wte", "transformer.ln_f", norm_bias=True)
    return Body([b.layer(a)] * c.layers, outer, inner, head_bias=True)


def _gpt_neox(c: Config) -> Body:
    bias = c.flag("attention_bias")
    a = _attention(c)
    b = Builder()
    b.norm("input_layernorm", c.hidden, "norm_in", bias=True)
    b.norm("post_attention_layernorm", c.hidden, bias=True)
    b.linear("attention.query_key_value", "qkv", 3 * c.hidden, c.hidden, bias=bias)
    b.linear("attention.dense", "o", c.hidden, c.hidden, bias=bias)
    b.plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", c.hidden, c.intermediate, bias=True)
    outer = _outer(c, "gpt_neox.embed_in", "gpt_neox.final_layer_norm", norm_bias=True)
    return Body([b.layer(a)] * c.layers, outer, c.intermediate)


def _opt(c: Config) -> Body:
    bias, affine = c.flag("enable_bias"), c.flag("layer_norm_elementwise_affine")
    inner, width = c.count("ffn_dim"), c.count("word_embed_proj_dim", default=c.hidden)
    a = _attention(c)
    b = Builder()
    b.qkvo("self_attn", c.hidden, a, bias=bias, out_bias=bias, out_name="out_proj")
    b.plain_mlp("fc1", "fc2", c.hidden, inner, bias=bias)
    positions = ("model.decoder.embed_positions", c.count("max_position_embeddings") + 2)  # two rows of padding
    outer = _outer(c, "model.decoder.embed_tokens", None, width=width, positions=positions)
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
    a = _attention(c)
    b = Builder()
    b.norm("input_layernorm", c.hidden, "norm_in", bias=True)
    b.linear("self_attention.query_key_value", "qkv", 3 * c.hidden, c.hidden, bias=True)
    b.linear("self_attention.dense", "o", c.hidden, c.hidden, bias=True)
    b.norm("post_attention_layernorm", c.hidden, bias=True)
    b.plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", c.hidden, 4 * c.hidden, bias=True)
    outer = _outer(c, "transformer.word_embeddings", None)
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
    outer = _outer(c, "transformer.word_embeddings", "transformer.ln_f", norm_bias=True)
    return Body([b.layer(a)] * c.layers, outer, inner)


def _mpt(c: Config) -> Body:
    if c.count("expansion_ratio") != 4:
        raise LLMHWError(
            f"config key expansion_ratio={c.get('expansion_ratio')} of MPT must be 4, as transformers builds it"
        )
    inner = 4 * c.hidden
    a = _attention(c)
    b = Builder()
    b.norm("norm_1", c.hidden, "norm_in")
    b.linear("attn.Wqkv", "qkv", 3 * c.hidden, c.hidden)
    b.linear("attn.out_proj", "o", c.hidden, c.hidden)
    b.norm("norm_2", c.hidden)
    b.plain_mlp("ffn.up_proj", "ffn.down_proj", c.hidden, inner, bias=False)
    return Body([b.layer(a)] * c.layers, _outer(c, "transformer.wte", "transformer.norm_f"), inner)


def _phi(c: Config) -> Body:
    a = _attention(c)
    b = Builder()
    b.qkvo("self_attn", c.hidden, a, bias=True, out_bias=True, out_name="dense")
    if c.flag("qk_layernorm"):
        b.norm("self_attn.q_layernorm", c.hidden // c.heads, "q_norm", bias=True)
        b.norm("self_attn.k_layernorm", c.hidden // c.heads, "k_norm", bias=True)
    b.plain_mlp("mlp.fc1", "mlp.fc2", c.hidden, c.intermediate, bias=True)
    b.norm("input_layernorm", c.hidden, "norm_in", bias=True)
    outer = _outer(c, "model.embed_tokens", "model.final_layernorm", norm_bias=True)
    return Body([b.layer(a)] * c.layers, outer, c.intermediate, head_bias=True)


def _phi3(c: Config) -> Body:
    a = _attention(c, window=c.get("sliding_window"))
    b = Builder()
    b.linear("self_attn.o_proj", "o", c.hidden, a.heads * a.head_dim)
    b.linear("self_attn.qkv_proj", "qkv", (a.heads + 2 * a.kv_heads) * a.head_dim, c.hidden)
    b.fused_mlp(c.hidden, c.intermediate)
    b.norm("input_layernorm", c.hidden, "norm_in")
    b.norm("post_attention_layernorm", c.hidden)
    return Body([b.layer(a)] * c.layers, _outer(c, "model.embed_tokens", "model.norm"), c.intermediate)


# -- how transformers computes a block ---------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """How transformers computes a family's blocks; what is not here is read from the tensors.

    block        pre: norm, attention, sum, norm, feed-forward, sum (Llama)
                 sandwich: a norm before and after each (Gemma 2)
                 post: norms behind (OLMo 2)
                 behind: norms behind the sums (the first OPT models)
                 parallel: attention and feed-forward of the same input (GPT-NeoX)
    norm         see `llmhw.activations`
    activation   default of hidden_act
    rotary       share of the head size that the rotary embedding turns, as `ModelSpec.rotary` has it for a model
    rotary_once  the tables hold every angle once, not for both halves of what is turned (gpt-oss)
    rotary_fp32  the tables stay in fp32
    rotary_own   every layer repeats the tables' entries anew
    rotary_by_kind   sliding layers have tables of their own
    rotary_cat   turned and plain parts of the queries are joined, also where the plain part is empty
    query_scale  queries are multiplied by a number for each position (Llama 4, Ministral 3)
    softcap      tanh on the attention scores
    logit_softcap   tanh on the logits
    softmax_fp32 eager attention takes the softmax in fp32
    sdpa         transformers runs the family with PyTorch's SDPA
    router       softmax over all experts (weights stay in fp32: Mixtral), softmax-cast (weights in the model's format),
                 sigmoid (in fp32), or of the chosen experts only: chosen, chosen-fp32
    clamped      experts clamp gate and up (gpt-oss)
    sinks        a learned score beside the others takes part in the softmax (gpt-oss)
    registry     attention goes through transformers' registry of functions, where its core can be recomputed
    alibi        positions are biases of the scores, one row for each head (BLOOM); layers are handed no position ids
    upcast       queries and keys are multiplied in fp32 (GPT-Neo)
    norm_topk    the chosen experts' weights are divided by their sum
    learned      rows of learned positions that the embedding looks up: one for the batch, or one a sequence
    """

    block: str = "pre"
    norm: str = "rms"
    activation: str = "silu"
    rotary: float = 1
    rotary_once: bool = False
    rotary_fp32: bool = False
    rotary_own: bool = False
    rotary_by_kind: bool = False
    rotary_cat: bool = False
    query_scale: bool = False
    softcap: bool = False
    logit_softcap: bool = False
    softmax_fp32: bool = True
    sdpa: bool = True
    learned: str = ""
    router: str = "softmax-cast"
    norm_topk: bool = False
    clamped: bool = False
    sinks: bool = False
    upcast: bool = False
    registry: bool = True
    alibi: bool = False


# -- the table --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """All that the library knows about an architecture.

    read         makes the tensors from a config
    name         what people call it
    defaults     what transformers applies for keys that a config leaves out
    synonyms     other spellings of the same text architecture; multimodal wrappers hold theirs in `text_config`
    style        how transformers computes its blocks, op by op; None: only kernels="megatron" covers it
    rotary       share of the head size that the rotary embedding turns, where a config does not say; 0 without one
    dropout      trained with dropout behind attention and feed-forward part, where a config does not say
    gguf         what llama.cpp's rules know it by: falcon; 70b with 80 layers; 70b-gqa with 80 layers and grouped heads
    arithmetic   what transformers multiplies otherwise than the model is meant to run; empty if nothing
    """

    read: Callable[[Config], Body]
    name: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    synonyms: tuple[str, ...] = ()
    style: Style | None = None
    rotary: float = 1
    dropout: bool = False
    gguf: str = ""
    arithmetic: str = ""


def _family(read: Callable[[Config], Body], name: str, **facts: Any) -> Family:
    """A `Family`; facts that are no fields of it are defaults of config keys."""
    own = {f.name: facts.pop(f.name) for f in fields(Family) if f.name in facts}
    return Family(read, name, frozen(facts), **own)


_EVERY_EXPERT = "transformers multiplies every expert with every token, not only the routed ones"
_MASKED = "transformers masks a full attention; the pairs that the indexer selects have no reference there"
_CHUNKS = "linear attention runs in chunks in transformers; the prediction is its recurrent form"

_MLA_V2 = {"first_k_dense_replace": 0, "n_shared_experts": 2, "q_lora_rank": 1536}
_MLA_V3 = {"first_k_dense_replace": 3, "n_shared_experts": 1, "q_lora_rank": 1536, "n_routed_experts": 256}
_LINEAR = {
    "rotary": 0.25,
    "arithmetic": _CHUNKS,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "head_dim": 256,
}
_LLAMA4 = {
    "intermediate_size_mlp": 16384,
    "interleave_moe_layer_step": 1,
    "no_rope_layer_interval": 4,
    "attention_chunk_size": 8192,
    "num_experts_per_tok": 1,
    "num_local_experts": 16,
    "head_dim": 128,
}

# fmt: off
FAMILIES: dict[str, Family] = {
    "llama": _family(_llama, "Llama 1 to 3", style=Style(), gguf="70b-gqa"),
    "llama4_text": _family(_llama4, "Llama 4", synonyms=("llama4",), arithmetic=_EVERY_EXPERT, **_LLAMA4),
    "mistral": _family(_mistral, "Mistral", style=Style(), num_key_value_heads=8, sliding_window=4096),
    "ministral3": _family(_mistral, "Mistral 3", style=Style(query_scale=True), num_key_value_heads=8, head_dim=128),
    "mixtral": _family(_mixtral, "Mixtral", style=Style(router="softmax", norm_topk=True), num_key_value_heads=8,
        num_experts_per_tok=2, num_local_experts=8),
    "qwen2": _family(_qwen2, "Qwen 2 and 2.5", synonyms=("mimo",), style=Style(), gguf="70b", max_window_layers=28,
        sliding_window=4096),
    "qwen2_moe": _family(_qwen2_moe, "Qwen 2 MoE", style=Style(), max_window_layers=28, sliding_window=4096,
        qkv_bias=True),
    "qwen3": _family(_qwen3, "Qwen 3", synonyms=("qwen3_vl_text",), style=Style(), head_dim=128, max_window_layers=28,
        sliding_window=4096),
    "qwen3_moe": _family(_qwen3_moe, "Qwen 3 MoE", synonyms=("qwen3_vl_moe_text",), style=Style(),
        num_key_value_heads=4, sliding_window=4096),
    "qwen3_next": _family(_qwen3_next, "Qwen 3 Next", num_key_value_heads=2, **_LINEAR),
    "qwen3_5_text": _family(_qwen3_next, "Qwen 3.5", synonyms=("qwen3_5",), num_key_value_heads=4, **_LINEAR),
    "qwen3_5_moe_text": _family(_qwen3_next, "Qwen 3.5 MoE", synonyms=("qwen3_5_moe",), num_key_value_heads=2,
        **_LINEAR),
    "gemma": _family(_llama, "Gemma", style=Style(norm="rms-plus-1", activation="gelu_pytorch_tanh"), head_dim=256,
        tie_word_embeddings=True),
    "gemma2": _family(_gemma2, "Gemma 2", style=Style(block="sandwich", norm="rms-plus-1",
        activation="gelu_pytorch_tanh", softcap=True, logit_softcap=True, sdpa=False), head_dim=256,
        sliding_window=4096, tie_word_embeddings=True),
    "gemma3_text": _family(_gemma3, "Gemma 3", synonyms=("gemma3",), style=Style(block="sandwich", norm="rms-plus-1",
        activation="gelu_pytorch_tanh", rotary_by_kind=True), vocab_size=262208, num_attention_heads=8,
        num_key_value_heads=4, head_dim=256, sliding_window=4096, tie_word_embeddings=True),
    "phi": _family(_phi, "Phi 1 and 2", style=Style(block="parallel", norm="layer", activation="gelu_new",
        rotary_cat=True), rotary=0.5),
    "phi3": _family(_phi3, "Phi 3 and 4", style=Style(rotary_cat=True)),
    "phimoe": _family(_phimoe, "Phi 3.5 MoE", num_key_value_heads=8),
    "gpt2": _family(_gpt2, "GPT-2", style=Style(norm="layer", activation="gelu_new", softmax_fp32=False,
        learned="batch"), rotary=0, dropout=True, n_positions=1024, tie_word_embeddings=True),
    "gpt_bigcode": _family(_gpt2, "GPT-BigCode", style=Style(norm="layer", activation="gelu_pytorch_tanh",
        learned="batch"), rotary=0, dropout=True, n_positions=1024, multi_query=True, tie_word_embeddings=True),
    "gpt_neo": _family(_gpt_neo, "GPT-Neo", style=Style(norm="layer", activation="gelu_new", sdpa=False, upcast=True,
        learned="batch", registry=False), rotary=0, attention_types=[[["global", "local"], 12]], window_size=256,
        max_position_embeddings=2048, tie_word_embeddings=True),
    "gptj": _family(_gptj, "GPT-J", rotary=0.25),
    "gpt_neox": _family(_gpt_neox, "GPT-NeoX and Pythia", style=Style(block="parallel", norm="layer", activation="gelu",
        rotary_cat=True), rotary=0.25, attention_bias=True),
    "opt": _family(_opt, "OPT", style=Style(norm="layer", activation="relu", learned="sequence"), rotary=0,
        dropout=True, max_position_embeddings=2048, enable_bias=True, layer_norm_elementwise_affine=True,
        do_layer_norm_before=True, tie_word_embeddings=True),
    "bloom": _family(_bloom, "BLOOM", style=Style(norm="layer", activation="gelu", sdpa=False, registry=False,
        alibi=True), rotary=0, tie_word_embeddings=True),
    "falcon": _family(_falcon, "Falcon", gguf="falcon", multi_query=True, parallel_attn=True, tie_word_embeddings=True),
    "mpt": _family(_mpt, "MPT", rotary=0, expansion_ratio=4, tie_word_embeddings=True),
    "deepseek_v2": _family(_mla, "DeepSeek V2", **_MLA_V2),
    "deepseek_v3": _family(_mla, "DeepSeek V3 and R1, Kimi K2", synonyms=("kimi_k2",), **_MLA_V3),
    "deepseek_v32": _family(_mla, "DeepSeek V3.2", arithmetic=_MASKED, index_topk=2048, index_head_dim=128,
        index_n_heads=64, **_MLA_V3),
    "gpt_oss": _family(_gpt_oss, "gpt-oss", style=Style(rotary_once=True, norm="rms-late", sdpa=False,
        softmax_fp32=False, sinks=True, router="chosen", clamped=True), head_dim=64, attention_bias=True,
        sliding_window=128),
    "glm": _family(_glm, "GLM-4", style=Style(rotary_own=True, rotary_cat=True), rotary=0.5, head_dim=128,
        attention_bias=True),
    "glm4": _family(_glm, "GLM-4-0414", style=Style(block="sandwich", rotary_own=True, rotary_cat=True), rotary=0.5,
        head_dim=128, attention_bias=True),
    "glm4_moe": _family(_glm4_moe, "GLM-4.5", style=Style(rotary_cat=True, router="sigmoid", norm_topk=True),
        rotary=0.5, first_k_dense_replace=1, n_shared_experts=1),
    "glm_moe_dsa": _family(_mla, "GLM-5", arithmetic=_MASKED, index_topk=2048, index_head_dim=128, index_n_heads=32,
        **{**_MLA_V3, "q_lora_rank": 2048}),
    "minimax_m2": _family(_minimax_m2, "MiniMax M2", num_key_value_heads=8, head_dim=128),
    "olmo": _family(_olmo, "OLMo", style=Style(norm="layer-fp32", rotary_fp32=True)),
    "olmo2": _family(_olmo2, "OLMo 2", style=Style(block="post", norm="rms-late", rotary_fp32=True)),
    "olmo3": _family(_olmo2, "OLMo 3", style=Style(block="post", norm="rms-late", rotary_fp32=True,
        rotary_by_kind=True), sliding_window=4096),
    "olmoe": _family(_olmoe, "OLMoE", style=Style()),
    "granite": _family(_llama, "Granite", style=Style()),
    "granitemoe": _family(_granitemoe, "Granite MoE", style=Style(router="chosen-fp32")),
    "cohere": _family(_cohere, "Cohere Command R", style=Style(block="parallel", norm="cohere"),
        tie_word_embeddings=True),
    "cohere2": _family(_cohere, "Cohere Command R7B and A", style=Style(block="parallel", norm="cohere"),
        sliding_window=4096, tie_word_embeddings=True),
    "exaone4": _family(_exaone4, "EXAONE 4", style=Style(block="post"), sliding_window=4096),
    "seed_oss": _family(_seed_oss, "Seed-OSS", style=Style(), dropout=True, head_dim=128, attention_bias=True),
    "ernie4_5": _family(_ernie, "ERNIE 4.5", style=Style(rotary_fp32=True, rotary_own=True), head_dim=128,
        tie_word_embeddings=True),
    "smollm3": _family(_smollm3, "SmolLM3", style=Style(), num_key_value_heads=4, no_rope_layer_interval=4,
        tie_word_embeddings=True),
    "stablelm": _family(_stablelm, "StableLM", style=Style(norm="layer", rotary_cat=True), rotary=0.25),
    "starcoder2": _family(_starcoder2, "StarCoder 2", style=Style(norm="layer", activation="gelu_pytorch_tanh"),
        num_key_value_heads=2, use_bias=True, tie_word_embeddings=True),
    "mimo_v2_flash": _family(_mimo_v2_flash, "MiMo V2 Flash", num_key_value_heads=4, head_dim=192, v_head_dim=128,
        sliding_window=129),
    "nemotron_h": _family(_nemotron_h, "Nemotron-H and Nemotron 3", rotary=0, arithmetic=_CHUNKS,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, mamba_num_heads=128, mamba_head_dim=64,
        ssm_state_size=128, n_groups=8, conv_kernel=4, use_conv_bias=True, intermediate_size=21504, n_routed_experts=8,
        num_experts_per_tok=2, moe_intermediate_size=7688, moe_shared_expert_intermediate_size=7688),
    "nemotron": _family(_nemotron, "Nemotron 4 and Minitron", style=Style(norm="layer-plus-1", activation="relu2",
        rotary_cat=True), rotary=0.5),
}
# fmt: on

_ELSEWHERE = ("vision_config", "audio_config")


def key_of(model_type: str) -> str:
    """The key of a family in `FAMILIES`, by any of its spellings.

    >>> key_of("kimi_k2")
    'deepseek_v3'
    """
    keys = {name: key for key, family in FAMILIES.items() for name in (key, *family.synonyms)}
    if model_type in keys:
        return keys[model_type]
    close = nearest(model_type, keys)
    hint = f"; the nearest are {', '.join(close)}" if close else ""
    raise LLMHWError(f"model_type={shown(model_type)} is not supported, and is not approximated{hint}")


def read(data: Mapping[str, Any], name: str) -> ModelSpec:
    """A config as a `ModelSpec`; see `ModelSpec.from_config`."""
    for key in data:
        if not isinstance(key, str):
            raise LLMHWError(f"config key {shown(key)} must be a text")
    text = data.get("text_config")
    model_type = data.get("model_type")
    if isinstance(text, Mapping):
        model_type = text.get("model_type", model_type)
        data = {
            **{k: data[k] for k in ("quantization_config", "dtype", "torch_dtype", "tie_word_embeddings") if k in data},
            **text,
            **{k: True for k in _ELSEWHERE if k in data},
        }
    if not isinstance(model_type, str) or not model_type:
        raise LLMHWError(
            f"config={shown(name)} has no model_type, so it is not a model's config.json; give one of the Hub"
        )
    key = key_of(model_type)
    family = FAMILIES[key]
    _check_keys(data)
    c = Config(data, family.defaults, key)
    body = family.read(c)
    tied = c.flag("tie_word_embeddings")
    if not tied:
        body.outer.linear("lm_head", "head", c.vocab, body.head_in or c.hidden)
    if body.head_bias:
        body.outer.plain("lm_head.bias", "head", (c.vocab,))
    quantization = data.get("quantization_config") or {}
    sizes = next((layer.attention for layer in body.layers if layer.attention), c)
    made = ModelSpec(
        name=name,
        model_type=model_type,
        hidden=c.hidden,
        heads=c.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        intermediate=body.intermediate,
        vocab_size=c.vocab,
        max_seq_len=c.get("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
        tied=tied,
        dtype=str(c.get("dtype", "torch_dtype", default="bfloat16")).removeprefix("torch."),
        quantization=str(quantization.get("quant_method", "")),
        layers=tuple(body.layers),
        tensors=tuple(body.outer.tensors),
        mtp_tensors=body.mtp,
        left_out=tuple(k.removesuffix("_config") for k in _ELSEWHERE if data.get(k)),
        config=data,
    )
    if not 0 < made.parameters.total <= _MOST_PARAMETERS:
        raise LLMHWError(
            f"config={shown(name)} describes {made.parameters.total:,} parameters, more than {_MOST_PARAMETERS:.0e}; "
            "look for a size with too many digits"
        )
    return made
