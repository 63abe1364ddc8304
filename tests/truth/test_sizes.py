"""Sizes that a config leaves out against the defaults of transformers' configuration classes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from llmhw.families import defaults_of
from llmhw.families.config import KEYS
from llmhw.families.sizes import COLUMNS
from tests.truth.families import known_types

# Spellings that a reader takes for one another.
ALIKE = (
    ("hidden_size", "n_embd", "n_embed", "d_model", "dim"),
    ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    ("num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads"),
    ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
    ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    ("num_experts_per_tok", "experts_per_token", "moe_topk", "moe_top_k", "moe_k"),
)
# What says how a computation goes, not how large it is, and what a class has but the checkpoints have not.
NO_SIZES = {"rotary_dim", "num_nextn_predict_layers", "num_mtp_layers", "type_vocab_size"}


def stated(model_type: str) -> dict[str, Any]:
    """The class's own defaults of keys that are sizes."""
    fields = getattr(CONFIG_MAPPING[model_type], "__dataclass_fields__", {})
    # of multi-head latent attention the sizes of a head are others
    others = {"head_dim"} if "kv_lora_rank" in fields else set()
    sizes = {}
    for key, check in KEYS.items():
        if (
            key not in fields
            or key in NO_SIZES | others
            or not isinstance(check, partial)
            or "least" not in check.keywords
        ):
            continue
        value = fields[key].default
        if type(value) is int or (value is None and key in ("num_key_value_heads", "head_dim")):
            sizes[key] = value
    if "tie_word_embeddings" in fields:
        sizes["tie_word_embeddings"] = fields["tie_word_embeddings"].default
    return sizes


def ours(known: dict[str, Any], key: str) -> Any:
    keys = next((group for group in ALIKE if key in group), (key,))
    return next((known[name] for name in (key, *keys) if known.get(name) is not None), None)


@pytest.mark.parametrize(("model_type", "key"), known_types())
def test_sizes_are_the_classes_own(model_type: str, key: str) -> None:
    known = defaults_of(model_type)
    theirs = stated(model_type)
    missing = {name: value for name, value in theirs.items() if (ours(known, name) or 0) != (value or 0)}
    assert not missing, row(model_type, missing)


def row(model_type: str, missing: dict[str, Any]) -> str:
    """The row of `llmhw.families.sizes` that would give these."""
    names = {
        name: next((group[0] for group in ALIKE if group[0] in COLUMNS and name in group), name) for name in missing
    }
    sizes = {names[name]: "-" if value is None else str(value).lower() for name, value in missing.items()}
    first = [sizes.pop(name, ".") for name in COLUMNS]
    return " ".join([model_type, *first, *(f"{name}={value}" for name, value in sizes.items())])
