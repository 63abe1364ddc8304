"""Queues in closed form: how long requests wait and how many are there; and the time of an engine's steps.

What `llmhw.simulation` finds by drawing requests is known exactly in these cases; its tests hold one against the other.
A queue that is offered more than it can serve waits for ever: its formulas give infinity.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import e, inf
from typing import Any

from llmhw.formula import formula
from llmhw.units import check_number, where

# -- waiting ----------------------------------------------------------------------------------


@formula(source="Pollaczek 1930, Khinchine 1932: M/G/1, first come first served", unit="seconds")
def mg1_wait_seconds(*, arrivals_per_second: Any, service_seconds: Any, service_variance: Any = 0) -> Any:
    """Mean wait before service: Poisson arrivals, one server, service times of any distribution.

    service_variance   of the service time, seconds squared: 0 for a constant one (M/D/1, Erlang 1909), its square for
                       an exponential one (M/M/1), which makes the wait twice as long

    >>> round(mg1_wait_seconds(arrivals_per_second=4, service_seconds=0.2, service_variance=0.2**2), 3)
    0.8
    """
    load = arrivals_per_second * service_seconds
    second_moment = service_variance + service_seconds**2
    return where(load < 1, arrivals_per_second * second_moment / (2 * where(load < 1, 1 - load, 1)), inf)


@formula(source="Sakata, Noguchi and Oizumi 1971: M/G/1 with processor sharing", unit="seconds")
def processor_sharing_seconds(*, arrivals_per_second: Any, service_seconds: Any) -> Any:
    """Mean time in the system when all requests there share one server equally, whatever the service distribution.

    Continuous batching whose step takes a time for each sequence, and no base, is such a queue.

    service_seconds   mean time that a request takes alone

    >>> round(processor_sharing_seconds(arrivals_per_second=4, service_seconds=0.2), 3)
    1.0
    """
    load = arrivals_per_second * service_seconds
    return where(load < 1, service_seconds / where(load < 1, 1 - load, 1), inf)


@formula(source="a batch is full when its last member comes; Poisson arrivals", unit="seconds")
def batch_fill_seconds(*, arrivals_per_second: Any, batch: Any) -> Any:
    """Mean wait until a batch of that size is full, over its members; the wait for the server comes on top.

    >>> batch_fill_seconds(arrivals_per_second=4, batch=9)
    1.0
    """
    return (batch - 1) / (2 * arrivals_per_second)


@formula(source="renewal cycles of busy and idle times, and PASTA (Wolff 1982)", unit="seconds")
def batch_service_wait_seconds(*, arrivals_per_second: Any, service_seconds: Any) -> Any:
    """Mean wait when a server takes all that are waiting as one batch, of any size, for a constant time.

    The server is idle only after a batch during which nobody came. Who comes while it is busy, which is a share
    s / (s + exp(-rate s) / rate) of the time, waits half a service on average. It is stable at any rate.

    >>> round(batch_service_wait_seconds(arrivals_per_second=4, service_seconds=0.2), 4)
    0.064
    >>> round(batch_service_wait_seconds(arrivals_per_second=1000, service_seconds=0.2), 4)
    0.1
    """
    idle = e ** (-arrivals_per_second * service_seconds) / arrivals_per_second
    return service_seconds / (service_seconds + idle) * service_seconds / 2


@formula(source="Little 1961", unit="count")
def littles_law(*, arrivals_per_second: Any, seconds: Any) -> Any:
    """Mean number of requests in any part of a system: the rate of arrivals times the mean time spent there.

    >>> littles_law(arrivals_per_second=4, seconds=2.5)
    10.0
    """
    return arrivals_per_second * seconds


# -- an engine that works in steps ------------------------------------------------------------


@formula(source="affine in what a step does: weights are read once, the rest is paid for each token", unit="seconds")
def affine_step_seconds(
    *,
    base_seconds: Any,
    prefill_token_seconds: Any = 0,
    sequence_seconds: Any = 0,
    cached_token_seconds: Any = 0,
    prefill_tokens: Any = 0,
    sequences: Any = 0,
    cached_tokens: Any = 0,
) -> Any:
    """Time of one step of an engine.

    prefill_tokens   tokens of prompts that this step computes
    sequences        sequences that decode one token each
    cached_tokens    tokens in the KV cache that all of these attend to

    >>> round(affine_step_seconds(base_seconds=0.005, sequence_seconds=1e-5, cached_token_seconds=4e-8,
    ...                           sequences=64, cached_tokens=64_000), 6)
    0.0082
    """
    return (
        base_seconds
        + prefill_token_seconds * prefill_tokens
        + sequence_seconds * sequences
        + cached_token_seconds * cached_tokens
    )


@formula(source="Roofline (Williams 2009): time of reading = time of computing", unit="count")
def knee_batch(*, weight_read_seconds: Any, compute_seconds: Any, cache_read_seconds: Any = 0) -> Any:
    """Batch at which bandwidth and arithmetic meet: below it a larger batch is nearly free.

    weight_read_seconds   all weights once, whatever the batch
    compute_seconds       arithmetic of one sequence's token
    cache_read_seconds    KV cache of one sequence; if it takes as long as its arithmetic, no batch is large enough

    >>> round(knee_batch(weight_read_seconds=0.005, compute_seconds=2.5e-5, cache_read_seconds=0.5e-5))
    250
    """
    net = compute_seconds - cache_read_seconds
    return where(net > 0, weight_read_seconds / where(net > 0, net, 1), inf)


@dataclass(frozen=True, slots=True)
class StepModel:
    """Time of an engine's step, affine in what it does.

    base_seconds            of any step: weights read, kernels launched
    prefill_token_seconds   each token of a prompt that the step computes
    sequence_seconds        each sequence that decodes a token
    cached_token_seconds    each token of the KV cache that a decoding or prefilling sequence reads

    It is called as any step-time function is. The quadratic part of attention within a prompt is not in it.

    >>> StepModel(0.005, prefill_token_seconds=5e-5)(1000, 0, 0, 0)
    0.055
    """

    base_seconds: float
    prefill_token_seconds: float = 0.0
    sequence_seconds: float = 0.0
    cached_token_seconds: float = 0.0

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, check_number(f.name, getattr(self, f.name)))

    def __call__(
        self, prefill_tokens: int, prefill_context: int, decode_sequences: int, decode_context: int, /
    ) -> float:
        """Seconds of one step; the contexts count the tokens that are in the cache before it."""
        return float(
            affine_step_seconds(
                base_seconds=self.base_seconds,
                prefill_token_seconds=self.prefill_token_seconds,
                sequence_seconds=self.sequence_seconds,
                cached_token_seconds=self.cached_token_seconds,
                prefill_tokens=prefill_tokens,
                sequences=decode_sequences,
                cached_tokens=prefill_context + decode_context,
            )
        )
