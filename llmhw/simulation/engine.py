"""What is simulated: an engine, and what its requests should keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import inf

from llmhw.simulation.load import LATEST, Request
from llmhw.units import LLMHWError, ceil_div, check_choice, check_count, check_number, shown

StepSeconds = Callable[[int, int, int, int], float]

MODES = ("static", "dynamic", "continuous", "disaggregated")


@dataclass(frozen=True, slots=True)
class SLO:
    """What a request must keep to count as good.

    ttft_seconds   time to the first token, at most
    tpot_seconds   mean time between the tokens after it, at most; a request of one token keeps any
    """

    ttft_seconds: float = inf
    tpot_seconds: float = inf

    def __post_init__(self) -> None:
        for name in ("ttft_seconds", "tpot_seconds"):
            value = getattr(self, name)
            if not (isinstance(value, float) and value == inf):
                check_number(name, value)


@dataclass(frozen=True, slots=True)
class Engine:
    """An inference engine: how long its steps take, how it forms batches, what its KV cache holds.

    step                 a `StepModel`, or a function of (tokens of prompts that are computed, tokens in the cache that
                         these attend to, sequences that decode, tokens in the cache of those) that gives seconds
    mode                 static          a batch is filled, run until its longest member ends, then the next
                         dynamic         a batch is run whole once `preferred_sizes` allow or `max_delay_seconds` are
                                         over (Triton's dynamic batcher)
                         continuous      requests join and leave at every step; the cache is paged (vLLM)
                         disaggregated   prefill and decode on machines of their own; decode is continuous
    max_sequences        in a batch
    max_batched_tokens   tokens of prompts in one step (with chunked prefill: and of sequences that decode). A longer
                         prompt has a step of its own, or chunks. Static and dynamic batches compute theirs in one step
    kv_blocks            blocks of the KV cache; None: no limit. Of the decode machine, if it is disaggregated
    block_tokens         tokens of a block
    max_context          longest prompt and answer together; None: no limit
    chunked_prefill      continuous: prompts are computed in pieces beside the sequences that decode; else prompts
                         come first, and decoding waits
    watermark            continuous: share of the blocks that admission leaves free
    shared_prefix_tokens continuous: system prompt that all prompts begin with; its whole blocks are there once and
                         computed already
    max_delay_seconds    dynamic: longest that the oldest request waits for others; default 0
    preferred_sizes      dynamic: sizes at which a batch is run at once; default: max_sequences
    early_return         static, dynamic: an answer is complete with its own last token, not with that of its batch
    prefill_step         disaggregated: steps of a prefill machine; default: `step`
    prefill_workers      disaggregated: prefill machines
    transfer_seconds     disaggregated: to move a prompt's cache, and `transfer_token_seconds` for each token;
                         transfers do not wait for each other; the first token comes behind it

    Continuous batching admits in the order of arrival. When blocks run out, the youngest sequence gives all of its own
    back and goes to the head of the queue; its prompt and what it generated are computed again. A prompt gets all
    its blocks on admission, also if it is computed in chunks. In static and dynamic batches each member reserves the
    cache of the longest prompt and the longest answer. Prefill machines keep what waits for the decode machine,
    without limit; a sequence that this one preempts, it computes again itself.
    """

    step: StepSeconds
    mode: str = "continuous"
    max_sequences: int = 256
    max_batched_tokens: int = 8192
    kv_blocks: int | None = None
    block_tokens: int = 16
    max_context: int | None = None
    chunked_prefill: bool = False
    watermark: float = 0.01
    shared_prefix_tokens: int = 0
    max_delay_seconds: float = 0.0
    preferred_sizes: tuple[int, ...] = ()
    early_return: bool = False
    prefill_step: StepSeconds | None = None
    prefill_workers: int = 1
    transfer_seconds: float = 0.0
    transfer_token_seconds: float = 0.0

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        for name in ("step", "prefill_step"):
            if not callable(getattr(self, name)) and (name == "step" or self.prefill_step is not None):
                raise LLMHWError(f"{name}={getattr(self, name)!r} must be a StepModel or a function of four numbers")
        check_count("max_sequences", self.max_sequences)
        check_count("max_batched_tokens", self.max_batched_tokens)
        check_count("block_tokens", self.block_tokens)
        check_count("prefill_workers", self.prefill_workers)
        check_count("shared_prefix_tokens", self.shared_prefix_tokens, 0)
        for name in ("kv_blocks", "max_context"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        for name in ("max_delay_seconds", "transfer_seconds", "transfer_token_seconds", "watermark"):
            check_number(name, getattr(self, name))
        if self.watermark >= 1:
            raise LLMHWError(f"watermark={self.watermark!r} must be below 1, such as 0.01")
        sizes = tuple(sorted(check_count("preferred_sizes", size) for size in self.preferred_sizes))
        object.__setattr__(self, "preferred_sizes", sizes)
        if sizes and sizes[-1] > self.max_sequences:
            raise LLMHWError(f"preferred_sizes={sizes} must be at most max_sequences={self.max_sequences}")
        if self.chunked_prefill and self.max_batched_tokens < self.max_sequences:
            raise LLMHWError(
                f"max_batched_tokens={self.max_batched_tokens} must be at least max_sequences={self.max_sequences}: "
                "with chunked prefill the tokens of sequences that decode count too"
            )
        prefix = self.shared_prefix_tokens // self.block_tokens
        if self.kv_blocks is not None and prefix >= self.kv_blocks:
            raise LLMHWError(
                f"shared_prefix_tokens={self.shared_prefix_tokens} fills all kv_blocks={self.kv_blocks}; give more"
            )
        self._check_options()

    def _check_options(self) -> None:
        """Options of another mode would be ignored in silence."""
        batch, paged = ("static", "dynamic"), ("continuous", "disaggregated")
        owners = {
            "chunked_prefill": ("continuous",),
            "shared_prefix_tokens": ("continuous",),
            "max_delay_seconds": ("dynamic",),
            "preferred_sizes": ("dynamic",),
            "early_return": batch,
            "watermark": paged,
            "prefill_step": ("disaggregated",),
            "prefill_workers": ("disaggregated",),
            "transfer_seconds": ("disaggregated",),
            "transfer_token_seconds": ("disaggregated",),
        }
        for f in fields(self):
            modes = owners.get(f.name)
            if modes is not None and self.mode not in modes and getattr(self, f.name) != f.default:
                raise LLMHWError(
                    f"{f.name}={getattr(self, f.name)!r} belongs to mode {' and '.join(modes)}, not to {self.mode}; "
                    "leave it out"
                )

    def check_request(self, request: Request, number: int) -> None:
        """Raise `LLMHWError` for a request that can never be served."""
        arrival, inputs, outputs, name = request
        place = name or f"request {number + 1}"
        if not (type(inputs) is int and inputs >= 1 and type(outputs) is int and outputs >= 1):
            check_count(f"{place}: input_tokens", inputs)
            check_count(f"{place}: output_tokens", outputs)
            raise LLMHWError(f"{place}: input_tokens={inputs!r} and output_tokens={outputs!r} must be int")
        if not 0 <= arrival <= LATEST:
            raise LLMHWError(
                f"{place}: arrival_seconds={shown(arrival)} must be a number of at least 0 and at most {LATEST:g}"
            )
        if self.max_context is not None and inputs + outputs > self.max_context:
            raise LLMHWError(
                f"{place}: input_tokens={inputs} and output_tokens={outputs} must be at most "
                f"max_context={self.max_context} together, which is max_model_len of a job; leave the request out, cut "
                "the lengths or allow a longer context"
            )
        if self.kv_blocks is not None and -(-(inputs + outputs - 1) // self.block_tokens) > self.kv_blocks:
            raise LLMHWError(
                f"{place}: input_tokens={inputs} and output_tokens={outputs} need "
                f"{ceil_div(inputs + outputs - 1, self.block_tokens)} blocks of {self.block_tokens} tokens, more than "
                f"kv_blocks={self.kv_blocks}; leave the request out or give more blocks"
            )
        if self.shared_prefix_tokens and inputs <= self.shared_prefix_tokens:
            raise LLMHWError(
                f"{place}: input_tokens={inputs} must be more than shared_prefix_tokens={self.shared_prefix_tokens}, "
                "which it begins with"
            )


def checked_seconds(step: StepSeconds, prefill: int, prefill_context: int, sequences: int, context: int) -> float:
    seconds = step(prefill, prefill_context, sequences, context)
    if not 0 <= seconds < inf:
        raise LLMHWError(
            f"step({prefill}, {prefill_context}, {sequences}, {context})={seconds!r} must be seconds of at least 0"
        )
    return seconds


def decode_steps(step: StepSeconds, sequences: int, context: int) -> tuple[float, float, float]:
    """Of decode steps in a row: seconds of the first, what each later one takes more, for how many that holds.

    A step model that has `decode_steps` says so itself; of any other function one step is known.
    """
    known = getattr(step, "decode_steps", None)
    if known is None:
        return checked_seconds(step, 0, 0, sequences, context), 0.0, 1
    each, slope, alike = known(sequences, context)
    if not (0 <= each < inf and 0 <= slope < inf):
        return checked_seconds(step, 0, 0, sequences, context), 0.0, 1
    return each, slope, alike
