"""Queues in closed form: known values, limits, and how they hang together."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmhw import queueing
from llmhw.queueing import StepModel
from llmhw.units import LLMHWError


@pytest.mark.parametrize("load", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_one_server_is_pollaczek_khinchine(load: float) -> None:
    """M/M/1 and M/D/1 are its two ends: half the wait without variance."""
    service = 0.2
    given = {"arrivals_per_second": load / service, "service_seconds": service}
    exponential = queueing.mg1_wait_seconds(**given, service_variance=service**2)
    assert exponential == pytest.approx(load * service / (1 - load)), "Erlang's M/M/1"
    assert queueing.mg1_wait_seconds(**given) == pytest.approx(exponential / 2)
    assert queueing.processor_sharing_seconds(**given) == pytest.approx(exponential + service)
    number = queueing.littles_law(arrivals_per_second=given["arrivals_per_second"], seconds=exponential + service)
    assert number == pytest.approx(load / (1 - load))


@pytest.mark.parametrize("load", [1.0, 1.5, 100])
def test_an_overloaded_queue_waits_for_ever(load: float) -> None:
    given = {"arrivals_per_second": load, "service_seconds": 1.0}
    assert queueing.mg1_wait_seconds(**given) == math.inf
    assert queueing.mg1_wait_seconds(**given, service_variance=1) == math.inf
    assert queueing.processor_sharing_seconds(**given) == math.inf
    assert queueing.batch_service_wait_seconds(**given) <= 0.5, "batches of any size bear any load"


def test_arrays_cross_the_limit() -> None:
    waits = queueing.mg1_wait_seconds(arrivals_per_second=np.array([0.5, 1.0, 2.0]), service_seconds=1.0)
    assert waits.tolist() == [0.5, math.inf, math.inf]
    knees = queueing.knee_batch(weight_read_seconds=1.0, compute_seconds=np.array([0.5, 0.1]), cache_read_seconds=0.25)
    assert knees.tolist() == [4.0, math.inf]


def test_a_batch_of_one_is_full_at_once() -> None:
    assert queueing.batch_fill_seconds(arrivals_per_second=7, batch=1) == 0


def test_batch_service_at_its_ends() -> None:
    """A rare request waits for a service that is under way with probability rate x s, and then half of it."""
    rare = queueing.batch_service_wait_seconds(arrivals_per_second=1e-6, service_seconds=1.0)
    assert rare == pytest.approx(1e-6 / 2, rel=1e-5)
    assert queueing.batch_service_wait_seconds(arrivals_per_second=1e3, service_seconds=1.0) == pytest.approx(0.5)


def test_at_the_knee_reading_takes_as_long_as_computing() -> None:
    batch = queueing.knee_batch(weight_read_seconds=0.005, compute_seconds=2.5e-5, cache_read_seconds=1e-5)
    assert 0.005 + batch * 1e-5 == pytest.approx(batch * 2.5e-5)


def test_a_step_model_is_its_formula() -> None:
    model = StepModel(0.005, prefill_token_seconds=1e-5, sequence_seconds=1e-4, cached_token_seconds=1e-8)
    assert model(100, 1000, 8, 4000) == pytest.approx(0.005 + 100e-5 + 8e-4 + 5000e-8)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "1", True, None])
def test_wrong_step_models_are_named(value: object) -> None:
    with pytest.raises(LLMHWError, match=r"base_seconds=.* must be a number of at least 0"):
        StepModel(value)  # type: ignore[arg-type]
    with pytest.raises(LLMHWError, match=r"cached_token_seconds=.* must be a number of at least 0"):
        StepModel(1, cached_token_seconds=value)  # type: ignore[arg-type]
