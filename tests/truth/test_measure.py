"""What `llmhw.measure` finds in PyTorch is what the library predicts, for models of every kind."""

from __future__ import annotations

from typing import Any

import pytest

from llmhw.measure import Row, measure_flops, measure_memory, measure_optimizer, measure_params
from llmhw.model import model
from llmhw.units import LLMHWError
from tests.unit.test_measure import EXPERTS, TINY


# four of Kimi's 61 equal layers, one dense and three with experts
@pytest.mark.parametrize("given", [{**model("kimi-k2").config, "num_hidden_layers": 4}, "qwen3-vl-8b", "gemma-3-4b"])
def test_models_that_transformers_has_under_another_name(given: Any) -> None:
    assert measure_params(given).ratio == 1
    assert measure_flops(given, seq_len=8).ratio == 1


def test_other_arithmetic_is_said() -> None:
    four = {**model("llama-4-scout").config, "num_hidden_layers": 4}  # of 48, which are all alike in this
    found = measure_flops(four, seq_len=8)
    assert found.notes == ("transformers multiplies every expert with every token, not only the routed ones",)


def test_experts_on_fake_tensors() -> None:
    assert measure_params(EXPERTS).ratio == 1
    assert measure_flops(EXPERTS, seq_len=16).ratio == 1
    assert measure_memory(EXPERTS, seq_len=16).ratio == pytest.approx(1, abs=0.02)
    with pytest.raises(LLMHWError, match="has experts, and torch's grouped matrix product takes bf16 only"):
        measure_memory(EXPERTS, seq_len=16, precision="fp32")


def test_too_large_for_the_device() -> None:
    """The prediction and the answer of the fake tensors, and why nothing ran."""
    wide = {**model("llama-3-70b").config, "num_hidden_layers": 8, "intermediate_size": 10 * 28672}
    found = measure_memory(wide, seq_len=64, device_memory="rtx4090", run="real")
    assert found.ratio == pytest.approx(1, abs=0.02)
    assert any(note.startswith("does not fit in 24.0 GiB of rtx4090: ") for note in found.notes)
    assert any(note.startswith("not run for real: the step needs 556 GiB, and ") for note in found.notes)
    assert not any("allocator" in row.name for row in found.parts)


def test_a_real_run() -> None:
    found = measure_memory(TINY, seq_len=32, precision="fp32", run="real", device_memory=2**30)
    assert abs(found["peak of the allocator, run on cpu"].measured - found.measured) <= 128
    assert "fits in 1.00 GiB" in found.notes[1]


def test_families_without_an_op_by_op_profile() -> None:
    found = measure_memory("gpt-oss-20b", seq_len=16, attention="eager")
    assert found.measured > 0
    assert found.predicted is not None or found.notes[-1].startswith("no prediction: ")


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "sgd-momentum", "adafactor", "muon"])
def test_optimizers(optimizer: str) -> None:
    assert measure_optimizer(TINY, optimizer=optimizer).ratio == 1
    assert measure_optimizer("llama-3-8b", optimizer=optimizer, precision="bf16").ratio == 1


def test_a_catalog_spec_is_measured_too() -> None:
    assert measure_params(model("gpt2")).total == Row("parameters", 124439808, 124439808)
