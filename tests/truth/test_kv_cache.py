"""Key-value cache bytes against the cache tensors that transformers really fills."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from transformers import StaticCache

from llmhw.memory import kv_cache
from llmhw.model import ModelSpec
from tests.truth.cases import CACHE_DTYPES, CACHED
from tests.truth.families import causal, config_of, published, sized

BATCH, SEQ_LEN = 2, 14


def cache_tensors(cache: Any) -> list[torch.Tensor]:
    """Every tensor with a batch dimension that the cache's layers hold; keys that are the values, too, count once."""
    found = []
    for layer in cache.layers:
        twice = layer.keys.shape == layer.values.shape and torch.equal(layer.keys, layer.values)
        for name, value in vars(layer).items():
            if twice and name == "values":
                continue
            nested = value.values() if isinstance(value, dict) else [value]
            found += [t for t in nested if isinstance(t, torch.Tensor) and t.ndim > 2]
    return found


# Its compressed entries have no static cache; its windows are longer than the sequence here.
ONLY_DYNAMIC = "deepseek_v4"
# What these hold in fp32: keys of the indexer, turned by tables in fp32; inputs of short convolutions.
IN_FP32 = {("dots3_note_text", "bf16"), ("inkling_text", "bf16")}


@pytest.mark.parametrize(("model_type", "kv_format"), [c for c in product(CACHED, CACHE_DTYPES) if c not in IN_FP32])
def test_cache_bytes(model_type: str, kv_format: str) -> None:
    dtype = torch.float32 if kv_format == "fp32" else torch.bfloat16
    config = config_of(model_type, sized(model_type, 1))
    config._experts_implementation = "eager"
    # windows shorter than the sequence, so that they matter
    if getattr(config, "sliding_window", None) and model_type != ONLY_DYNAMIC:
        config.sliding_window = 5
    if getattr(config, "attention_chunk_size", None):
        config.attention_chunk_size = 6
    spec = ModelSpec.from_config(published(config))
    model = causal(config, attn_implementation="eager", dtype=dtype)
    limited = model_type != ONLY_DYNAMIC and any(layer.attention and layer.attention.span for layer in spec.layers)
    # The dynamic cache of a sliding layer drops the oldest token before the next one comes (window - 1);
    # the static cache allocates what a running model needs, window. We predict the latter.
    cache = StaticCache(config=config, max_cache_len=SEQ_LEN) if limited else None
    ids = torch.randint(3, spec.vocab_size, (BATCH, SEQ_LEN))
    with torch.no_grad():
        cache = model(input_ids=ids, past_key_values=cache, use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for t in cache_tensors(cache))
    predicted = kv_cache(spec, batch=BATCH, seq_len=SEQ_LEN, kv_format=kv_format)
    assert predicted.total == held
