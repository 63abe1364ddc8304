"""An engine that works in steps, in closed form: the time of a step, and how many requests are there."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf
from typing import Any

from llmhw.formula import formula
from llmhw.units import check_number


@formula(source="Little 1961", unit="count")
def littles_law(*, arrivals_per_second: Any, seconds: Any) -> Any:
    """Mean number of requests in any part of a system: the rate of arrivals times the mean time spent there.

    >>> littles_law(arrivals_per_second=4, seconds=2.5)
    10.0
    """
    return arrivals_per_second * seconds


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


@formula(source="where a step takes twice what the first sequence alone does", unit="sequences")
def knee_sequences(*, base_seconds: Any, each_seconds: Any) -> Any:
    """Sequences at which half of the most throughput is reached, and a user is half as fast as alone.

    base_seconds   of a step, paid once however many sequences share it
    each_seconds   that a sequence adds to a step

    >>> knee_sequences(base_seconds=0.016, each_seconds=0.000125)
    128.0
    """
    return base_seconds / each_seconds


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

    def decode_steps(self, sequences: int, context: int) -> tuple[float, float, float]:
        """Of decode steps in a row: seconds of the first, what each later one takes more, for how many that holds.

        >>> StepModel(0.005, cached_token_seconds=1e-8).decode_steps(10, 10_000)
        (0.0051, 1e-07, inf)
        """
        cached = self.cached_token_seconds
        # plain sums: a simulation asks this for each of its events
        return self.base_seconds + self.sequence_seconds * sequences + cached * context, cached * sequences, inf

    def each_seconds(self, context: float, *, input_tokens: float = 0, output_tokens: float = 1) -> float:
        """What a sequence adds to a step; with its share of a prompt, if its tokens are given.

        >>> StepModel(0.016, 1e-4, 2e-5, 1e-8).each_seconds(2000, input_tokens=1000, output_tokens=500)
        0.00024
        """
        own = self.sequence_seconds + self.cached_token_seconds * context
        return own + self.prefill_token_seconds * input_tokens / output_tokens

    def knee(self, context: float, *, input_tokens: float = 0, output_tokens: float = 1) -> float:
        """Sequences at which half of the most throughput is reached.

        >>> round(StepModel(0.016, 1e-4, 2e-5, 1e-8).knee(2000))
        400
        """
        each = self.each_seconds(context, input_tokens=input_tokens, output_tokens=output_tokens)
        return float(knee_sequences(base_seconds=self.base_seconds, each_seconds=each))
