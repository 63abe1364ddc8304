"""Steps of an engine in closed form: known values, limits, and wrong arguments."""

from __future__ import annotations

import math

import pytest

from llmhw.queueing import StepModel
from llmhw.units import LLMHWError


def test_a_step_model_is_its_formula() -> None:
    model = StepModel(0.005, prefill_token_seconds=1e-5, sequence_seconds=1e-4, cached_token_seconds=1e-8)
    assert model(100, 1000, 8, 4000) == pytest.approx(0.005 + 100e-5 + 8e-4 + 5000e-8)
    assert model.tokens_per_second(8, 500) == pytest.approx(8 / model(0, 0, 8, 4000))
    assert StepModel(0).tokens_per_second(8) == math.inf


def test_throughput_grows_with_the_batch_and_saturates() -> None:
    model = StepModel(0.005, sequence_seconds=1e-4)
    rates = [model.tokens_per_second(batch) for batch in (1, 2, 8, 64, 4096)]
    assert rates == sorted(rates)
    assert rates[-1] < 1 / 1e-4


def test_saturation_is_the_time_a_request_takes_of_the_engine() -> None:
    model = StepModel(0.01, prefill_token_seconds=1e-5)
    assert model.saturation_per_second(50, 1000, 101) == pytest.approx(1 / (0.01 + 0.01 + 100 * 0.01 / 50))
    assert model.saturation_per_second(50, 1000, 1) == pytest.approx(1 / 0.02)
    assert StepModel(0).saturation_per_second(50, 1000, 100) == math.inf
    assert StepModel(0, prefill_token_seconds=1e-3).saturation_per_second(5, 10, 100) == pytest.approx(100)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", True, None])
def test_wrong_step_models_are_named(value: object) -> None:
    with pytest.raises(LLMHWError, match=r"base_seconds=.* must be a number of at least 0"):
        StepModel(value)  # type: ignore[arg-type]
    with pytest.raises(LLMHWError, match=r"cached_token_seconds=.* must be a number of at least 0"):
        StepModel(1, cached_token_seconds=value)  # type: ignore[arg-type]


def test_wrong_batches_are_named() -> None:
    with pytest.raises(LLMHWError, match="batch=0 must be a whole number of at least 1"):
        StepModel(1).tokens_per_second(0)
    with pytest.raises(LLMHWError, match="output_tokens=0 must be a number of at least 1"):
        StepModel(1).saturation_per_second(1, 1, 0)
