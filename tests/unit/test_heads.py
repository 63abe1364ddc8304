"""`architectures` says what a model is: embedders, reward models, classifiers and drafts are no language models."""

from __future__ import annotations

from typing import Any

import pytest

import llmhw
from llmhw.job import ServingJob
from llmhw.model import ModelSpec
from llmhw.units import LLMHWError

SIZES: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 256,
    "max_position_embeddings": 4096,
}
# transformers' LlamaModel of these sizes: embedding, blocks and last norm
BODY = 256 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160 + 2 * 64) + 64


def _spec(architecture: str, **more: Any) -> ModelSpec:
    return ModelSpec.from_config({**SIZES, "architectures": [architecture], **more}, name="tiny")


@pytest.mark.parametrize(
    ("architecture", "more", "makes", "head"),
    [
        ("LlamaForCausalLM", {}, "tokens", 64 * 256),
        ("LlamaModel", {}, "embeddings", 0),
        ("LlamaModel", {"tie_word_embeddings": True}, "embeddings", 0),
        ("LlamaBidirectionalModel", {}, "embeddings", 0),
        ("LlamaForSequenceClassification", {}, "scores", 2 * 64),
        ("LlamaForSequenceClassification", {"id2label": {"0": "a", "1": "b", "2": "c"}}, "scores", 3 * 64),
        ("LlamaForTokenClassification", {"num_labels": 5}, "scores", 5 * 64 + 5),
        ("LlamaForQuestionAnswering", {}, "spans of the text", 2 * 64 + 2),
        ("LlamaForRewardModel", {}, "rewards", 64 * 64 + 64 + 64 + 1),
    ],
)
def test_heads(architecture: str, more: dict[str, Any], makes: str, head: int) -> None:
    spec = _spec(architecture, **more)
    assert spec.makes == makes
    assert spec.parameters.total == BODY + head
    assert spec.parameters.by_component["head"] == head
    assert not spec.tied


def test_a_head_as_transformers_has_it() -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra torch")
    import torch

    config = transformers.LlamaConfig(**{k: v for k, v in SIZES.items() if k != "model_type"}, num_labels=7)
    for kind in ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"):
        with torch.device("meta"):
            reference = getattr(transformers, f"Llama{kind}")(config)
        found = _spec(f"Llama{kind}", num_labels=7)
        assert found.parameters.total == sum(p.numel() for p in reference.parameters())


def test_no_engine_generates_with_them() -> None:
    job = ServingJob(model=_spec("LlamaModel"), cluster="h100")
    with pytest.raises(LLMHWError, match="model='tiny' makes embeddings, not tokens: how fast is not modelled"):
        llmhw.serve(job, input_tokens=10, output_tokens=10)


# Published configs of SpecForge's drafts: what differs from SIZES
EAGLE_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 1,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "draft_vocab_size": 32000,
}


def test_eagle() -> None:
    """The draft of Llama 3 8B: the sum of its module's weights, without the embedding, which is the target's."""
    spec = _spec("LlamaForCausalLMEagle3", **EAGLE_8B)
    assert spec.makes == "draft tokens"
    assert spec.parameters.total == 424_689_664
    assert spec.head_shape == (32000, 4096)
    plain, drafted = (
        llmhw.serve(
            ServingJob(model="llama-3-8b", cluster="h100"), input_tokens=1000, output_tokens=100, concurrency=1, **more
        ).point.tokens_per_second
        for more in ({}, {"draft": spec})
    )
    assert drafted > 1.4 * plain


def test_drafts_of_whole_blocks() -> None:
    dflash = {"target_layer_ids": [1, 9, 17, 25, 33], "mask_token_id": 1}
    spec = _spec("DFlashDraftModel", model_type="qwen3", dflash_config=dflash)
    blocks = 2 * (4 * 64 * 8 * 128 - 2 * 64 * 4 * 128 + 2 * 128 + 3 * 64 * 160 + 2 * 64)
    assert spec.parameters.total == blocks + 5 * 64 * 64 + 2 * 64
    with pytest.raises(LLMHWError, match="makes blocks of draft tokens: only drafts that make tokens one by one"):
        llmhw.serve(ServingJob(model="llama-3-8b", cluster="h100"), input_tokens=9, output_tokens=9, draft=spec)


@pytest.mark.parametrize("name", ["LlamaEagleForCausalLM", "Eagle3Speculator", "Qwen3NextMTP", "MedusaModel"])
def test_other_drafts_are_refused_by_name(name: str) -> None:
    with pytest.raises(LLMHWError, match=rf"architectures=\['{name}'\] is a draft model, not the language model"):
        _spec(name)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"architectures": "LlamaForCausalLM"}, "config key architectures='LlamaForCausalLM' must be a list of names"),
        ({"architectures": [3]}, r"config key architectures=\[3\] must be a list of names"),
        (
            {"architectures": ["LlamaForCausalLMEagle3"]},
            "config key num_hidden_layers=2 must be 1: a LlamaForCausalLMEagle3 has one block",
        ),
        ({"architectures": ["DFlashDraftModel"], "dflash_config": 3}, "config key dflash_config=3 must be an object"),
        (
            {"architectures": ["DominoDraftModel"], "dflash_config": {"projector_type": "domino", "emb_dim": "x"}},
            "config key emb_dim='x' must be a whole number",
        ),
        ({"num_labels": "3"}, "config key num_labels='3' must be a whole number"),
        ({"medusa_num_heads": 4}, "is of Medusa's heads, which stand on another model; give that model"),
    ],
)
def test_bad_values(more: dict[str, Any], message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        ModelSpec.from_config({**SIZES, **more}, name="tiny")
