"""An engine that works in steps, in closed form: the time of a step, what a batch makes, and where it saturates."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from llmhw.formula import formula
from llmhw.units import check_count, check_number


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


@formula(source="definition: a step gives each sequence one token", unit="tokens/s")
def decode_tokens_per_second(*, batch: Any, step_seconds: Any) -> Any:
    """Output tokens a second while a batch of that many sequences decodes.

    >>> decode_tokens_per_second(batch=64, step_seconds=0.008)
    8000.0
    """
    return batch / step_seconds


@formula(source="time that one request takes of an engine that is never idle", unit="requests/s")
def saturation_per_second(*, prefill_seconds: Any, decode_steps: Any, step_seconds: Any, batch: Any) -> Any:
    """Requests a second that an engine can bear; offered more, its queue grows without end.

    prefill_seconds   of one request's prompt, its share of a step's base included; 0 if others do it
    decode_steps      output tokens less the first, which the prefill gives
    step_seconds      a decode step at this batch
    batch             sequences that decode together

    >>> saturation_per_second(prefill_seconds=0.02, decode_steps=200, step_seconds=0.0096, batch=64)
    20.0
    """
    return 1 / (prefill_seconds + decode_steps * step_seconds / batch)


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
        for name in ("base_seconds", "prefill_token_seconds", "sequence_seconds", "cached_token_seconds"):
            object.__setattr__(self, name, check_number(name, getattr(self, name)))

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

    def tokens_per_second(self, batch: int, context: float = 0.0) -> float:
        """Output tokens a second at a batch whose sequences hold `context` tokens each, on average.

        >>> StepModel(0.008).tokens_per_second(64)
        8000.0
        """
        count = check_count("batch", batch)
        seconds = affine_step_seconds(
            base_seconds=self.base_seconds,
            sequence_seconds=self.sequence_seconds,
            cached_token_seconds=self.cached_token_seconds,
            sequences=count,
            cached_tokens=count * check_number("context", context),
        )
        return float(decode_tokens_per_second(batch=count, step_seconds=seconds)) if seconds else inf

    def saturation_per_second(self, batch: int, input_tokens: float, output_tokens: float) -> float:
        """Requests a second that continuous batching bears at that batch, each prompt in a step of its own.

        input_tokens, output_tokens   of every request

        >>> round(StepModel(0.0064, prefill_token_seconds=1e-5).saturation_per_second(64, 360, 201), 1)
        33.3
        """
        count = check_count("batch", batch)
        inputs, outputs = check_number("input_tokens", input_tokens), check_number("output_tokens", output_tokens, 1)
        seconds = affine_step_seconds(
            base_seconds=self.base_seconds,
            sequence_seconds=self.sequence_seconds,
            cached_token_seconds=self.cached_token_seconds,
            sequences=count,
            cached_tokens=count * (inputs + max(outputs - 2, 0) / 2),
        )
        prefill = self.base_seconds + self.prefill_token_seconds * inputs
        if not prefill and not (outputs > 1 and seconds):
            return inf
        return float(
            saturation_per_second(prefill_seconds=prefill, decode_steps=outputs - 1, step_seconds=seconds, batch=count)
        )
