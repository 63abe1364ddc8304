"""What a run knows of its requests, and what it counts."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import NamedTuple

from llmhw.simulation.engine import SLO
from llmhw.simulation.statistics import Quantiles


class Sequence:
    """A request in flight."""

    __slots__ = (
        "admitted",
        "arrival",
        "bucket",
        "cached",
        "finish",
        "first",
        "generated",
        "inputs",
        "number",
        "outputs",
        "preemptions",
        "ready",
        "serial",
        "slot",
        "spans",
    )

    def __init__(self, number: int, arrival: float, inputs: int, outputs: int) -> None:
        self.number = number
        self.arrival = arrival
        self.inputs = inputs
        self.outputs = outputs
        self.generated = 0
        self.cached = 0  # tokens of the prompt that are computed, while it is computed
        self.admitted = -1.0
        self.first = -1.0
        self.ready = arrival  # when the decode machine has its cache
        self.finish = 0  # the decode step after which it ends
        self.serial = 0  # 0: does not decode
        self.bucket = 0  # decode steps at which it needs a new block, modulo the tokens of a block
        self.preemptions = 0
        self.slot = -1
        self.spans: list[tuple[int, float, float]] = []


class RequestTrace(NamedTuple):
    """What happened to one request; spans are (slot in the batch, from, to), one for each admission."""

    number: int
    arrival_seconds: float
    admitted_seconds: float
    first_token_seconds: float
    finish_seconds: float
    input_tokens: int
    output_tokens: int
    preemptions: int
    spans: tuple[tuple[int, float, float], ...]


class StepTrace(NamedTuple):
    """One step, or several equal ones in a row."""

    start_seconds: float
    end_seconds: float
    steps: int
    prefill_tokens: int
    decode_sequences: int
    kv_blocks: int


class Run:
    """Counts and times of one simulation; where it is, should it be interrupted."""

    def __init__(self, slo: SLO | None, trace_requests: int, trace_seconds: tuple[float, float] | None) -> None:
        self.now = 0.0
        self.start: float | None = None
        self.last = 0.0
        self.begun = self.ended = 0
        self.good = 0
        self.slo = slo
        self.ttft, self.tpot, self.latency, self.wait = Quantiles(), Quantiles(), Quantiles(), Quantiles()
        self.inputs = self.outputs = 0
        self.busy = self.prefill_busy = 0.0
        self.sequence_seconds = 0.0
        self.block_seconds = 0.0
        self.largest_batch = self.largest_blocks = 0
        self.steps = self.preemptions = self.recomputed = 0
        self.trace_requests, self.window = trace_requests, trace_seconds
        self.tracing = bool(trace_requests) or trace_seconds is not None
        self.open_traces = trace_requests
        self.requests: list[RequestTrace] = []
        self.step_rows: list[StepTrace] = []
        self.slots: list[int] = []
        self.next_slot = 0

    def begins(self, sequence: Sequence) -> None:
        """A request that is taken from its source."""
        self.begun += 1
        if self.start is None:
            self.start = sequence.arrival

    def ends(self, sequence: Sequence, now: float) -> None:
        """A request whose answer is complete."""
        arrival, first, outputs = sequence.arrival, sequence.first, sequence.outputs
        ttft = first - arrival
        self.ttft.add(ttft)
        self.latency.add(now - arrival)
        self.wait.add(sequence.admitted - arrival)
        tpot = 0.0
        if outputs > 1:
            tpot = (now - first) / (outputs - 1)
            self.tpot.add(tpot)
        if self.slo is not None and ttft <= self.slo.ttft_seconds and tpot <= self.slo.tpot_seconds:
            self.good += 1
        self.inputs += sequence.inputs
        self.outputs += outputs
        if now > self.last:
            self.last = now
        self.ended += 1
        if self.tracing:
            self._trace(sequence, now)

    def enters(self, sequence: Sequence, now: float) -> None:
        """A place in the batch, for drawing."""
        if self.slots:
            sequence.slot = heappop(self.slots)
        else:
            sequence.slot, self.next_slot = self.next_slot, self.next_slot + 1
        sequence.spans.append((sequence.slot, now, now))

    def leaves(self, sequence: Sequence, now: float) -> None:
        if sequence.slot >= 0:
            slot, since, _ = sequence.spans.pop()
            sequence.spans.append((slot, since, now))
            heappush(self.slots, slot)
            sequence.slot = -1

    def _trace(self, s: Sequence, now: float) -> None:
        self.leaves(s, now)
        early = s.number < self.trace_requests
        self.open_traces -= early
        inside = self.window is not None and s.arrival <= self.window[1] and now >= self.window[0]
        if early or inside:
            self.requests.append(
                RequestTrace(
                    s.number,
                    s.arrival,
                    s.admitted,
                    s.first,
                    now,
                    s.inputs,
                    s.outputs,
                    s.preemptions,
                    tuple(s.spans),
                )
            )

    def trace_step(self, start: float, end: float, steps: int, prefill: int, decode: int, blocks: int) -> None:
        inside = self.window is not None and start <= self.window[1] and end >= self.window[0]
        if self.open_traces > 0 or inside:
            self.step_rows.append(StepTrace(start, end, steps, prefill, decode, blocks))
