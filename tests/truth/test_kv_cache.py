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


def tensors_in(held: Any) -> list[torch.Tensor]:
    """Every tensor with a batch dimension, however deep it lies."""
    if isinstance(held, torch.Tensor):
        return [held] if held.ndim > 1 else []
    if isinstance(held, dict):
        held = list(held.values())
    return [t for one in held for t in tensors_in(one)] if isinstance(held, (list, tuple)) else []


def facts_of(layer: Any) -> dict[str, Any]:
    """What a layer of a cache holds; keys that are the values, too, count once. transformers keeps the positions of
    tokens for its indexer, engines do not."""
    found = {name: held for name, held in vars(layer).items() if "position" not in name}
    keys, values = found.get("keys"), found.get("values")
    if isinstance(keys, torch.Tensor) and keys.shape == values.shape and keys.ndim > 2 and torch.equal(keys, values):
        del found["values"]
    return found


def cache_tensors(model: torch.nn.Module, output: Any, cache: Any) -> list[torch.Tensor]:
    """What the model keeps of the sequences: in a cache with layers, a list of its own, or in its modules."""
    kept = next((output[key] for key in ("past_key_values", "cache_params", "state") if key in output), cache)
    inside = [vars(m).get(key) for m in model.modules() for key in ("conv1d_state", "recurrent_states")]
    beside = [getattr(kept, key, None) for key in ("linear_cache", "rnn_state")]
    layers = [facts_of(layer) for layer in getattr(kept, "layers", ())]
    return tensors_in([layers, beside, inside, kept if isinstance(kept, list) else None])


# Its compressed entries have no static cache; its windows are longer than the sequence here.
ONLY_DYNAMIC = "deepseek_v4"
# The first one's keys of the indexer are in fp32, turned by tables in fp32; the second does not run all in bf16.
IN_FP32 = {("dots3_note_text", "bf16"), ("inkling2_text", "bf16")}
# Of each token it keeps what the pooled keys of its indexer are made of, and makes them anew in every step.
POOLED = "glm5_next_text"
CASES = [(m, f) for m, f in product(CACHED, CACHE_DTYPES) if m != POOLED and (m, f) not in IN_FP32]


@pytest.mark.parametrize(("model_type", "kv_format"), CASES)
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
    model = causal(config, attn_implementation="eager", dtype=dtype).eval()
    limited = model_type != ONLY_DYNAMIC and any(layer.attention and layer.attention.span for layer in spec.layers)
    # The dynamic cache of a sliding layer drops the oldest token before the next one comes (window - 1);
    # the static cache allocates what a running model needs, window. We predict the latter.
    cache = StaticCache(config=config, max_cache_len=SEQ_LEN) if limited else None
    ids = torch.randint(3, spec.vocab_size, (BATCH, SEQ_LEN))
    with torch.no_grad():
        output = model(input_ids=ids, use_cache=True, **({"past_key_values": cache} if cache else {}))
    held = sum(t.numel() * t.element_size() for t in cache_tensors(model, output, cache))
    predicted = kv_cache(spec, batch=BATCH, seq_len=SEQ_LEN, kv_format=kv_format)
    assert predicted.total == held
