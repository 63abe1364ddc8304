"""Key-value cache bytes against the cache tensors that transformers really fills."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, StaticCache

from llmhw.memory import kv_cache
from llmhw.model import ModelSpec
from tests.truth.cases import CACHE_DTYPES, CACHED
from tests.truth.families import config_of, published, sized

BATCH, SEQ_LEN = 2, 14


def cache_tensors(cache: Any) -> list[torch.Tensor]:
    """Every tensor with a batch dimension that the cache's layers hold."""
    found = []
    for layer in cache.layers:
        for value in vars(layer).values():
            nested = value.values() if isinstance(value, dict) else [value]
            found += [t for t in nested if isinstance(t, torch.Tensor) and t.ndim > 2]
    return found


@pytest.mark.parametrize("kv_format", CACHE_DTYPES)
@pytest.mark.parametrize("model_type", CACHED)
def test_cache_bytes(model_type: str, kv_format: str) -> None:
    dtype = torch.float32 if kv_format == "fp32" else torch.bfloat16
    config = config_of(model_type, sized(model_type, 1))
    config._experts_implementation = "eager"
    # windows shorter than the sequence, so that they matter
    if getattr(config, "sliding_window", None):
        config.sliding_window = 5
    if getattr(config, "attention_chunk_size", None):
        config.attention_chunk_size = 6
    spec = ModelSpec.from_config(published(config))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype)
    limited = any(layer.attention and layer.attention.span for layer in spec.layers)
    # The dynamic cache of a sliding layer drops the oldest token before the next one comes (window - 1);
    # the static cache allocates what a running model needs, window. We predict the latter.
    cache = StaticCache(config=config, max_cache_len=SEQ_LEN) if limited else None
    ids = torch.randint(3, spec.vocab_size, (BATCH, SEQ_LEN))
    with torch.no_grad():
        cache = model(input_ids=ids, past_key_values=cache, use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for t in cache_tensors(cache))
    predicted = kv_cache(spec, batch=BATCH, seq_len=SEQ_LEN, kv_format=kv_format)
    assert predicted.total == held
