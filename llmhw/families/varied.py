"""Decoders like Llama whose layers differ from each other, as a search has left them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmhw.families.builder import Body, Builder, attention_of, each, outer_of
from llmhw.families.config import Config, check_keys
from llmhw.families.family import Family, family
from llmhw.model import Attention, Layer
from llmhw.units import LLMHWError, ceil_div, shown

_REFUSED = ("sparsify", "num_sink_tokens", "unshifted_sink", "use_prefill_window_in_sink_attention", "mamba", "moe")


def _part(block: Any, name: str) -> Mapping[str, Any]:
    """What a block's attention or feed-forward part is, with its values checked."""
    found = block.get(name) if isinstance(block, Mapping) else None
    if not isinstance(found, Mapping):
        raise LLMHWError(f"config key block_configs has {shown(block)}; each entry must have an attention and an ffn")
    for key in _REFUSED:
        if found.get(key):
            raise LLMHWError(f"config key block_configs.{name}.{key}={shown(found[key])} is not covered")
    check_keys(found)
    return found


def _kept(part: Mapping[str, Any], name: str) -> str:
    """whole; linear: one matrix in its place; or none."""
    flags = {key: part.get(key) or False for key in ("no_op", "replace_with_linear")}
    for key, value in flags.items():
        if not isinstance(value, bool):
            raise LLMHWError(f"config key block_configs.{name}.{key}={shown(value)} must be true or false")
    return "none" if flags["no_op"] else "linear" if flags["replace_with_linear"] else "whole"


def _attention(b: Builder, c: Config, part: Mapping[str, Any]) -> Attention | None:
    kept = _kept(part, "attention")
    if kept == "none":
        return None
    b.norm("input_layernorm", c.hidden, "norm_in")
    if kept == "linear":
        b.linear("self_attn.linear_attn", "mix", c.hidden, c.hidden)
        return None
    group = part.get("n_heads_in_group") or 1
    if c.heads % group:
        raise LLMHWError(f"config key block_configs.attention.n_heads_in_group={group} does not divide heads={c.heads}")
    own = Config({**c.data, "num_key_value_heads": c.heads // group}, c.defaults, c.model_type)
    a, bias = attention_of(own, window=part.get("window_length")), c.flag("attention_bias")
    b.qkvo("self_attn", c.hidden, a, bias=bias, out_bias=bias)
    return a


def _inner(c: Config, part: Mapping[str, Any]) -> int:
    """Size of the feed-forward part: stated, or a multiple of two thirds of the hidden size, rounded up."""
    times = part.get("ffn_mult")
    if part.get("intermediate_size") or times is None:
        return Config(part, {"intermediate_size": c.get("intermediate_size")}, c.model_type).intermediate
    return int(ceil_div(int(2 * times * c.hidden / 3), 256) * 256)


def _decilm(c: Config) -> Body:
    """Nemotron Super 49B, Nano 51B and Ultra 253B: parts of Llama's blocks are narrower, one matrix, or missing."""
    listed = c.get("block_configs")
    if not isinstance(listed, (list, tuple)):
        raise LLMHWError("config of model_type='nemotron-nas' has no list block_configs; is it a complete config.json?")
    widths: list[int] = []

    def make(block: str) -> Layer:
        entry = json.loads(block)
        b, ffn = Builder(), _part(entry, "ffn")
        a = _attention(b, c, _part(entry, "attention"))
        kept = _kept(ffn, "ffn")
        if kept != "none":
            b.norm("post_attention_layernorm", c.hidden)
        if kept == "linear":
            b.linear("mlp.linear_mlp", "latent", c.hidden, c.hidden)
        elif kept == "whole":
            widths.append(_inner(c, ffn))
            b.gated_mlp("mlp", c.hidden, widths[-1], bias=c.flag("mlp_bias"))
        return b.layer(a)

    blocks = [json.dumps(entry, sort_keys=True) for entry in c.listed("block_configs", listed)]
    layers = each(make, blocks)
    return Body(layers, outer_of(c, "model.embed_tokens", "model.norm"), max(widths, default=0))


TABLE: dict[str, Family] = {
    "nemotron-nas": family(_decilm, "Llama Nemotron"),
}
