"""Gemma 4's own drafts, tensor by tensor, against transformers on the meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from llmhw.memory import kv_cache
from llmhw.model import ModelSpec
from tests.truth.families import our_shapes, published, their_shapes

TEXT: dict[str, Any] = {
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "global_head_dim": 32,
    "vocab_size": 4096,
    "layer_types": [*["sliding_attention"] * 3, "full_attention"],
}
WITHOUT = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(("kind", "more"), [("gemma4", WITHOUT), ("gemma4_unified", {})])
def test_gemma4(monkeypatch: pytest.MonkeyPatch, kind: str, more: dict[str, int], ordered: bool) -> None:
    text = CONFIG_MAPPING[f"{kind}_text"]
    # the class of transformers 5.23 takes no text model all of whose layers share, as the drafts' do
    monkeypatch.setattr(text, "kv_sharing_modes", property(lambda self: ["reuse"] * self.num_hidden_layers))
    config = CONFIG_MAPPING[f"{kind}_assistant"](
        text_config=text(**TEXT, **more), backbone_hidden_size=96, use_ordered_embeddings=ordered
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    spec = ModelSpec.from_config(published(config) | {"architectures": [type(model).__name__]})
    assert our_shapes(spec) == their_shapes(model)
    assert (spec.makes, spec.tied) == ("draft tokens", True)
    assert kv_cache(spec, seq_len=100).total == 0
