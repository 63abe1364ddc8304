"""Steps of an engine in closed form: known values, limits, and wrong arguments."""

from __future__ import annotations

import math

import pytest

from llmhw.queueing import StepModel
from llmhw.units import LLMHWError


def test_a_step_model_is_its_formula() -> None:
    model = StepModel(0.005, prefill_token_seconds=1e-5, sequence_seconds=1e-4, cached_token_seconds=1e-8)
    assert model(100, 1000, 8, 4000) == pytest.approx(0.005 + 100e-5 + 8e-4 + 5000e-8)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", True, None])
def test_wrong_step_models_are_named(value: object) -> None:
    with pytest.raises(LLMHWError, match=r"base_seconds=.* must be a number of at least 0"):
        StepModel(value)  # type: ignore[arg-type]
    with pytest.raises(LLMHWError, match=r"cached_token_seconds=.* must be a number of at least 0"):
        StepModel(1, cached_token_seconds=value)  # type: ignore[arg-type]
