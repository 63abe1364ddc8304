"""The peak memory of a whole training step: predicted, on fake tensors, and by the allocator of a real run."""

from __future__ import annotations

from typing import Any

import pytest

from llmhw import model
from llmhw.measure import measure_memory
from tests.truth.families import config_of, published

# Published sizes, one a family: name, attention
PUBLISHED = (
    ("gpt2", "flash"),
    ("pythia-410m", "flash"),
    ("opt-1.3b", "flash"),
    ("llama-3.2-1b", "flash"),
    ("qwen2.5-0.5b", "flash"),
    ("qwen3-0.6b", "flash"),
    ("gemma-3-1b", "flash"),
    ("phi-3-mini", "flash"),
)
# Large ones
LARGE = (
    ("llama-3-8b", "flash", "none"),
    ("gemma-2-2b", "eager", "full"),  # transformers runs Gemma 2 with eager attention only
)
RECOMPUTE = ("none", "full")

# Small models, run for real too
SMALL = ("gpt2", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma3_text", "olmo2", "granite", "phi3")
ROOM = 0.02


def small(model_type: str) -> dict[str, Any]:
    """A config of three layers; the vocabulary is as much wider than the layers as in published models."""
    ids = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 2000}
    if model_type == "gpt2":
        sizes = {"n_embd": 128, "n_head": 4, "n_layer": 3, "n_positions": 128}
    else:
        sizes = {"hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 3, "max_position_embeddings": 128}
        if model_type == "opt":
            sizes |= {"ffn_dim": 512, "word_embed_proj_dim": 128}
        else:
            sizes |= {"intermediate_size": 384}
        if model_type not in ("opt", "gpt_neox"):
            sizes |= {"num_key_value_heads": 2}
    return published(config_of(model_type, sizes | ids))


def assert_close(measured: Any, *phases: str) -> None:
    """The peak, and the peak of these phases."""
    assert abs(measured.ratio - 1) <= ROOM, str(measured)
    for phase in phases:
        assert abs(measured[phase].ratio - 1) <= ROOM, str(measured)


PHASES = ("at rest", "forward", "backward", "optimizer step")


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize(("name", "attention"), PUBLISHED)
def test_published_sizes(name: str, attention: str, recompute: str) -> None:
    """Sequences enough that activations count: the peak lies in the backward pass, or in the optimizer's step."""
    measured = measure_memory(name, batch=8, seq_len=1024, recompute=recompute, attention=attention)
    assert_close(measured, *PHASES)


@pytest.mark.parametrize(("name", "attention", "recompute"), LARGE)
def test_large_sizes(name: str, attention: str, recompute: str) -> None:
    measured = measure_memory(name, batch=4, seq_len=2048, recompute=recompute, attention=attention)
    assert_close(measured, *PHASES)


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("model_type", SMALL)
def test_small_sizes(model_type: str, recompute: str) -> None:
    """In fp32 the step is also run on the CPU: its allocator peaks where the fake tensors do, mostly to the byte."""
    config = small(model_type)
    measured = measure_memory(config, batch=2, seq_len=128, precision="fp32", recompute=recompute, run="real")
    assert_close(measured, "at rest", "backward", "optimizer step")
    real = measured["peak of the allocator, run on cpu"].measured
    assert abs(measured.measured / real - 1) <= 0.002
    if recompute == "none":
        assert abs(measured.measured - real) <= 128
    measured = measure_memory(config, batch=1, seq_len=24, precision="bf16", recompute=recompute)
    assert_close(measured, *PHASES)


@pytest.mark.parametrize("optimizer", ["sgd", "adafactor"])
def test_other_optimizers(optimizer: str) -> None:
    """With little to compute, the sum of a tied embedding's gradients is the peak."""
    measured = measure_memory("llama-3.2-1b", seq_len=512, optimizer=optimizer, recompute="full")
    assert_close(measured, *PHASES)


def of_eight_layers(name: str) -> dict[str, Any]:
    """A published model whose layers are all alike, with a quarter of them."""
    return {**model(name).config, "num_hidden_layers": 8}


def test_experts() -> None:
    assert_close(measure_memory(of_eight_layers("mixtral-8x7b"), seq_len=2048, recompute="full"), *PHASES)


def test_eager_attention_of_long_sequences() -> None:
    """The score matrices hold the peak."""
    config = of_eight_layers("llama-2-7b")
    measured = measure_memory(config, batch=4, seq_len=4096, recompute="full", attention="eager")
    assert_close(measured, "backward", "optimizer step")
    assert "backward" in measured.notes[0]
