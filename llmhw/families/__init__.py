"""Architectures: how each turns its `config.json` into tensors, and what else is a fact of the family.

A new one is one reader and one entry of a `TABLE`, in the module of its kind. Names, shapes and defaults are those of
the transformers implementation, which the truth tests build on the meta device and compare tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmhw.families import (
    delta,
    encoders,
    gemma,
    held,
    hybrids,
    inkling,
    latent,
    llamas,
    mixtures,
    older,
    recurrent,
    remote,
    varied,
)
from llmhw.families.builder import Body, Builder
from llmhw.families.config import Config, check_keys
from llmhw.families.family import Family, Style
from llmhw.families.heads import complete
from llmhw.families.sizes import sizes_of
from llmhw.families.wrappers import unwrap
from llmhw.frozen import frozen
from llmhw.model import ModelSpec
from llmhw.units import LLMHWError, nearest, shown

__all__ = ["ENCODERS", "FAMILIES", "REMOTE", "Body", "Builder", "Config", "Family", "Style", "key_of", "read"]

FAMILIES: dict[str, Family] = {
    **llamas.TABLE,
    **gemma.TABLE,
    **mixtures.TABLE,
    **latent.TABLE,
    **inkling.TABLE,
    **delta.TABLE,
    **hybrids.TABLE,
    **recurrent.TABLE,
    **older.TABLE,
}

# What no causal language model of transformers stands for.
ENCODERS: dict[str, Family] = encoders.TABLE
REMOTE: dict[str, Family] = {**remote.TABLE, **varied.TABLE, **recurrent.REMOTE, **hybrids.REMOTE, **held.TABLE}

# Known, and too unlike the others: why.
REFUSED: dict[str, str] = {**encoders.REFUSED, **mixtures.REFUSED, **recurrent.REFUSED}

# No model is near it: 10,000 times the largest.
_MOST_PARAMETERS = 10**16
_LONGEST = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", "context_length")


def key_of(model_type: str) -> str:
    """The key of a family in `FAMILIES`, by any of its spellings.

    >>> key_of("kimi_k2")
    'deepseek_v3'
    """
    tables = {**FAMILIES, **ENCODERS, **REMOTE}
    for key, family in tables.items():
        if model_type == key or model_type in family.synonyms:
            return key
    if model_type in REFUSED:
        raise LLMHWError(f"model_type={shown(model_type)} is not supported: {REFUSED[model_type]}")
    close = nearest(model_type, [name for key, family in tables.items() for name in (key, *family.synonyms)])
    hint = f"; the nearest are {', '.join(close)}" if close else ""
    raise LLMHWError(f"model_type={shown(model_type)} is not supported, and is not approximated{hint}")


def family_of(key: str) -> Family:
    """The entry of that key, in whichever table."""
    return next(table[key] for table in (FAMILIES, ENCODERS, REMOTE) if key in table)


def defaults_of(model_type: str) -> dict[str, Any]:
    """What transformers applies for keys that a config of this type leaves out."""
    key = key_of(model_type)
    return {**family_of(key).defaults, **sizes_of(key), **(sizes_of(model_type) if model_type != key else {})}


def read(data: Mapping[str, Any], name: str) -> ModelSpec:
    """A config as a `ModelSpec`; see `ModelSpec.from_config`."""
    for key in data:
        if not isinstance(key, str):
            raise LLMHWError(f"config key {shown(key)} must be a text")
    if "medusa_num_heads" in data:
        raise LLMHWError(f"config={shown(name)} is of Medusa's heads, which stand on another model; give that model")
    found = unwrap(data)
    # what stands around the text model of a draft
    around = {
        key: data[key] for key in ("backbone_hidden_size", "use_ordered_embeddings", "num_centroids") if key in data
    }
    data, model_type = {**found.text, **around}, found.model_type
    if not isinstance(model_type, str) or not model_type:
        raise LLMHWError(
            f"config={shown(name)} has no model_type, so it is not a model's config.json; give one of the Hub"
        )
    key = key_of(model_type)
    family = family_of(key)
    check_keys(data)
    c = Config(data, defaults_of(model_type), key)
    makes, body, tied = complete(c, family.read, bool(c.get("tie_embedding", "tie_word_embeddings")))
    towers, left_out = found.towers(c)
    if not towers and c.assumed.keys() >= {"vocab_size", "hidden_size", "num_hidden_layers"}:
        raise LLMHWError(
            f"config={shown(name)} of model_type={shown(model_type)} has no vocab_size, no hidden_size and no "
            "num_hidden_layers; is it a complete config.json?"
        )
    heads, kv_heads, head_dim = _heads(c, body)
    made = ModelSpec(
        name=name,
        model_type=model_type,
        hidden=c.hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=body.intermediate,
        vocab_size=c.vocab,
        max_seq_len=c.get(*_LONGEST),
        tied=tied,
        dtype=str(c.get("dtype", "torch_dtype", default="bfloat16")).removeprefix("torch."),
        layers=tuple(body.layers),
        tensors=tuple(body.outer.tensors),
        mtp_tensors=body.mtp,
        towers=towers,
        left_out=left_out,
        makes=makes,
        assumed=frozen(c.assumed),
        config=data,
    )
    if not 0 < made.parameters.total <= _MOST_PARAMETERS:
        raise LLMHWError(
            f"config={shown(name)} describes {made.parameters.total:,} parameters, more than {_MOST_PARAMETERS:.0e}; "
            "look for a size with too many digits"
        )
    return made


def _heads(c: Config, body: Body) -> tuple[int, int, int]:
    """Query heads, KV heads and their size: of the attention, or of the state in a model without."""
    a = next((layer.attention for layer in body.layers if layer.attention), None)
    if a:
        return c.heads, a.kv_heads, a.head_dim
    state = next((layer.linear_attention for layer in body.layers if layer.linear_attention), None)
    if state and state.heads:
        return state.heads, state.heads, state.value_dim
    return c.heads, c.kv_heads, c.head_dim
