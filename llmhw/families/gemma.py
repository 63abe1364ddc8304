"""Gemma 3n and 4: layers that read an earlier layer's cache, inputs of their own for each layer, wide global heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmhw.families.builder import Body, Builder, attention_of, each, outer_of
from llmhw.families.config import Config
from llmhw.families.decoder import FOUR_NORMS, window_of
from llmhw.families.family import Family, family
from llmhw.model import Attention, Layer
from llmhw.units import LLMHWError, shown


def _types(c: Config, every: int) -> list[str]:
    return c.layer_types(lambda i: "sliding_attention" if (i + 1) % every else "full_attention")


def _shared_from(c: Config, types: list[str]) -> int:
    """The first layer that keeps no keys and values of its own: it reads those of the last one of its kind before."""
    shared = c.count("num_kv_shared_layers", default=0, least=0)
    first = c.layers - shared
    if shared == c.layers and c.get("backbone_hidden_size"):
        return 0  # a draft reads the caches of its target
    if shared and (first < 1 or set(types[first:]) - set(types[:first])):
        raise LLMHWError(
            f"config key num_kv_shared_layers={shared} leaves no layer of each kind that caches for the others; "
            f"there are {c.layers} layers"
        )
    return first


def _per_layer_inputs(c: Config, outer: Builder) -> int:
    """A second embedding with a row for each layer, added to a projection of the first; its width, 0 without."""
    width = c.count("hidden_size_per_layer_input", least=0)
    if width:
        rows = c.count("vocab_size_per_layer_input")
        outer.plain("model.embed_tokens_per_layer.weight", "tokens", (rows, c.layers * width))
        outer.linear("model.per_layer_model_projection", "project_in", c.layers * width, c.hidden)
        outer.norm("model.per_layer_projection_norm", width)
    return width


def _gate_inputs(b: Builder, hidden: int, width: int) -> None:
    if width:
        b.linear("per_layer_input_gate", "latent", width, hidden)
        b.linear("per_layer_projection", "latent", hidden, width)
        b.norm("post_per_layer_input_norm", hidden)


def _attention(b: Builder, c: Config, a: Attention, *, same: bool = False) -> None:
    """Projections and norms of each head; a layer that shares has the queries'. `same`: values are the keys."""
    bias, rows = c.flag("attention_bias"), a.kv_heads * a.head_dim
    b.linear("self_attn.q_proj", "q", a.heads * a.head_dim, c.hidden, bias=bias)
    b.norm("self_attn.q_norm", a.head_dim, "q_norm")
    if not a.shared:
        b.norm("self_attn.k_norm", a.head_dim, "k_norm")
        b.linear("self_attn.k_proj", "k", rows, c.hidden, bias=bias)
        if not same:
            b.linear("self_attn.v_proj", "v", rows, c.hidden, bias=bias)
    b.linear("self_attn.o_proj", "o", c.hidden, a.heads * a.head_dim, bias=bias)


# -- Gemma 4 ----------------------------------------------------------------------------------


def _overrides(c: Config, types: list[str]) -> list[tuple[int, int]]:
    """(head size, KV heads) of each layer: as `per_layer_config` has them, or the keys for global layers."""
    listed = c.get("per_layer_config")
    if listed is not None and not isinstance(listed, Mapping):
        raise LLMHWError(f"config key per_layer_config={shown(listed)} must be an object")
    same = c.flag("attention_k_eq_v") or c.model_type != "gemma4_text"
    wide = {
        "head_dim": c.count("global_head_dim", default=512),
        "num_key_value_heads": (c.get("num_global_key_value_heads") if same else None) or c.kv_heads,
    }
    found = []
    for i, kind in enumerate(types):
        given: Any = wide if kind == "full_attention" else {}
        if listed is not None:
            given = listed.get(str(i), listed.get(f"{i:0{len(str(c.layers - 1))}d}", {}))
            if not isinstance(given, Mapping):
                raise LLMHWError(f"config key per_layer_config.{i}={shown(given)} must be an object")
        own = Config(given, {}, c.model_type)
        found.append((own.count("head_dim", default=c.head_dim), own.count("num_key_value_heads", default=c.kv_heads)))
    return found


def _experts(b: Builder, c: Config) -> None:
    """Beside the dense part: a router with scales of its own, experts, and a norm before and behind each."""
    b.plain("router.scale", "norm", (c.hidden,))
    b.plain("router.per_expert_scale", "norm", (c.count("num_experts"),))
    b.linear("router.proj", "router", c.count("num_experts"), c.hidden)
    inner, used = c.count("moe_intermediate_size"), c.count("top_k_experts")
    if used > c.count("num_experts"):
        raise LLMHWError(f"config key top_k_experts={used} is more than the {c.count('num_experts')} experts there are")
    sizes = {"gate_up": (2 * inner, c.hidden), "down": (c.hidden, inner)}
    b.experts("experts", c.count("num_experts"), used, sizes, bias=False, swapped=False)
    for name in ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2"):
        b.norm(name, c.hidden)


def _gemma4(c: Config) -> Body:
    types = _types(c, 6)
    types[-1] = "full_attention"  # whatever the config says
    first, sizes = _shared_from(c, types), _overrides(c, types)
    outer = outer_of(c, "model.embed_tokens", "model.norm")
    width = _per_layer_inputs(c, outer)
    double, moe, same = c.flag("use_double_wide_mlp"), c.flag("enable_moe_block"), c.flag("attention_k_eq_v")

    def make(kind: str, size: tuple[int, int], shared: bool) -> Layer:
        head_dim, kv = size
        if c.heads % kv:
            raise LLMHWError(f"kv_heads={kv} does not divide heads={c.heads}; see num_global_key_value_heads")
        a = Attention(c.heads, kv, head_dim, head_dim, window_of(c, kind)[0], shared=shared)
        b = Builder()
        _attention(b, c, a, same=same and kind == "full_attention")
        b.gated_mlp("mlp", c.hidden, c.intermediate * (2 if double and shared else 1))
        b.norms(FOUR_NORMS, c.hidden)
        if moe:
            _experts(b, c)
        _gate_inputs(b, c.hidden, width)
        return b.layer(a)

    layers = each(make, types, sizes, (i >= first for i in range(c.layers)))
    return Body(layers, outer, c.intermediate)


# -- Gemma 3n ---------------------------------------------------------------------------------


def _gemma3n(c: Config) -> Body:
    """AltUp's parallel streams, low-rank residuals (LAuReL), and a width of the feed-forward part for each layer."""
    types = _types(c, 5)
    first = _shared_from(c, types)
    given = c.get("intermediate_size")
    inner = c.listed("intermediate_size", given) if isinstance(given, (list, tuple)) else [given] * c.layers
    streams, rank = c.count("altup_num_inputs"), c.count("laurel_rank")
    outer = outer_of(c, "model.embed_tokens", "model.norm")
    width = _per_layer_inputs(c, outer)
    for name in ("altup_projections", "altup_unembed_projections"):
        for i in range(streams - 1):
            outer.linear(f"model.{name}.{i}", "project_in", c.hidden, c.hidden)

    def make(kind: str, size: int, shared: bool) -> Layer:
        a = replace(attention_of(c, window_of(c, kind)[0]), shared=shared)
        b = Builder()
        _attention(b, c, a)
        b.gated_mlp("mlp", c.hidden, size)
        b.norms(FOUR_NORMS, c.hidden)
        b.plain("altup.correct_output_scale", "norm", (c.hidden,))
        b.linear("altup.correction_coefs", "router", streams, streams)
        b.linear("altup.prediction_coefs", "router", streams**2, streams)
        b.linear("altup.modality_router", "router", streams, c.hidden)
        b.norm("altup.router_norm", c.hidden)
        b.linear("laurel.linear_left", "latent", rank, c.hidden)
        b.linear("laurel.linear_right", "latent", c.hidden, rank)
        b.norm("laurel.post_laurel_norm", c.hidden)
        _gate_inputs(b, c.hidden, width)
        return b.layer(a)

    layers = each(make, types, inner, (i >= first for i in range(c.layers)))
    return Body(layers, outer, max(inner))


_ALTUP = "the sums over AltUp's streams, by weights that are made for each token, are not counted"
_GEMMA4: dict[str, Any] = {
    "vocab_size": 262144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "sliding_window": 512,
    "vocab_size_per_layer_input": 262144,
    "tie_word_embeddings": True,
}

# fmt: off
TABLE: dict[str, Family] = {
    "gemma3n_text": family(_gemma3n, "Gemma 3n", synonyms=("gemma3n",), arithmetic=_ALTUP, vocab_size=262400,
        hidden_size=2048, intermediate_size=16384, num_hidden_layers=35, num_attention_heads=8, num_key_value_heads=2,
        head_dim=256,
        max_position_embeddings=32768, sliding_window=512, vocab_size_per_layer_input=262144,
        hidden_size_per_layer_input=256, num_kv_shared_layers=15, altup_num_inputs=4, laurel_rank=64,
        tie_word_embeddings=True),
    "gemma4_text": family(_gemma4, "Gemma 4", synonyms=("gemma4",), hidden_size_per_layer_input=256, **_GEMMA4),
    "gemma4_unified_text": family(_gemma4, "Gemma 4 Unified", synonyms=("gemma4_unified",),
        hidden_size_per_layer_input=0, **_GEMMA4),
}
# fmt: on
