"""Encoders: every tensor, and the FLOPs, against transformers on the meta device and on fake tensors."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING
from transformers.initialization import no_init_weights

from llmhw import forward_flops, kv_cache
from llmhw.families import ENCODERS
from llmhw.model import ModelSpec
from tests.truth.families import published

TASKS = {
    "Model": "AutoModel",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
}


@st.composite
def configs(draw: st.DrawFn, model_type: str) -> Any:
    heads = draw(st.sampled_from([2, 4]))
    sizes = {
        "hidden_size": heads * draw(st.sampled_from([8, 16])),
        "num_attention_heads": heads,
        "num_hidden_layers": draw(st.integers(1, 4)),
        "intermediate_size": 8 * draw(st.integers(1, 8)),
        "vocab_size": draw(st.integers(20, 200)),
        "max_position_embeddings": draw(st.integers(16, 64)),
        "num_labels": draw(st.integers(2, 5)),
        "pad_token_id": 0,
    }
    if model_type == "distilbert":
        names = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
        sizes = {names.get(k, k): v for k, v in sizes.items()} | {"hidden_dim": sizes["intermediate_size"]}
        del sizes["intermediate_size"]
    if model_type == "electra":
        sizes["embedding_size"] = draw(st.sampled_from([8, 16, 32]))
    if model_type == "nomic_bert":
        sizes["head_dim"] = sizes["hidden_size"] // heads
    if model_type == "modernbert":
        sizes |= {key: draw(st.booleans()) for key in ("attention_bias", "norm_bias", "mlp_bias", "classifier_bias")}
    return CONFIG_MAPPING[model_type](**sizes)


def pair(config: Any, task: str) -> tuple[ModelSpec, torch.nn.Module]:
    with torch.device("meta"):
        reference = getattr(transformers, TASKS[task]).from_config(config)
    written = published(config) | {"architectures": [type(reference).__name__]}
    return ModelSpec.from_config(written), reference


def their(module: torch.nn.Module) -> Counter[tuple[int, ...]]:
    return Counter(tuple(p.shape) for p in module.parameters())


def our(spec: ModelSpec) -> Counter[tuple[int, ...]]:
    return Counter(t.shape for t, count in spec.all_tensors() for _ in range(count))


SPELLINGS = sorted(name for key, family in ENCODERS.items() for name in (key, *family.synonyms))


@pytest.mark.parametrize("model_type", SPELLINGS)
def test_random_configs(model_type: str) -> None:
    @settings(max_examples=20, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        config = data.draw(configs(model_type))
        task = data.draw(
            st.sampled_from([t for t in TASKS if (model_type, t) != ("nomic_bert", "ForQuestionAnswering")])
        )
        if task == "ForQuestionAnswering":
            config.num_labels = 2
        spec, reference = pair(config, task)
        assert our(spec) == their(reference), task
        assert spec.parameters.total == sum(p.numel() for p in reference.parameters())

    check()


@pytest.mark.parametrize("model_type", sorted(ENCODERS))
def test_names(model_type: str) -> None:
    """Of the blocks, by name."""
    spec, reference = pair(CONFIG_MAPPING[model_type](), "Model")
    inside = {}
    for name, parameter in reference.named_parameters():
        found = re.match(r"(?:encoder\.|transformer\.)?layers?\.(\d+\..*)", name)
        if found:
            inside[found[1]] = tuple(parameter.shape)
    assert {f"{i}.{t.name}": t.shape for i, layer in enumerate(spec.layers) for t in layer.tensors} == inside


@pytest.mark.parametrize("model_type", sorted(ENCODERS))
def test_flops_and_no_cache(model_type: str) -> None:
    config = CONFIG_MAPPING[model_type](num_hidden_layers=2)
    spec, _ = pair(config, "ForMaskedLM")
    with torch._subclasses.FakeTensorMode(), no_init_weights():
        model = transformers.AutoModelForMaskedLM.from_config(config, attn_implementation="eager")
        with FlopCounterMode(display=False) as counter:
            model(input_ids=torch.zeros((2, 16), dtype=torch.long), attention_mask=torch.ones((2, 16)))
    assert forward_flops(spec, batch=2, seq_len=16).total == counter.get_total_flops()
    assert kv_cache(spec, seq_len=512).total == 0
