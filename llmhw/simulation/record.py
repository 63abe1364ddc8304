"""What a run knows of its requests, and what it counts."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from time import monotonic
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


class Drift(NamedTuple):
    """How latency changed while requests came.

    per_second   seconds of latency that each second of arrivals adds: 1 means that half of what comes is answered
    latency      of the later requests, mean
    wait_before, wait   in the queue, of the earlier and the later ones, mean
    """

    per_second: float
    latency: float
    wait_before: float
    wait: float


class Run:
    """Counts and times of one simulation; where it is, should it be interrupted.

    progress   told of the requests answered, some ten times a second, and of `total`
    """

    def __init__(
        self,
        slo: SLO | None,
        trace_requests: int,
        trace_seconds: tuple[float, float] | None,
        progress: Callable[[int, int | None], object] | None = None,
        total: int | None = None,
    ) -> None:
        self.now = 0.0
        self.start: float | None = None
        self.latest = 0.0  # arrival of the last one that began
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
        # requests whose numbers have as many binary digits: how many, and sums of arrivals, latencies, waits
        self.windows: list[list[float]] = [[0.0] * 4 for _ in range(64)]
        self.progress, self.total = progress, total
        self.tell_at = inf if progress is None else 0.0
        self.told = 0.0

    def begins(self, sequence: Sequence) -> None:
        """A request that is taken from its source."""
        self.begun += 1
        self.latest = sequence.arrival
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
        window = self.windows[sequence.number.bit_length()]
        window[0] += 1
        window[1] += arrival
        window[2] += now - arrival
        window[3] += sequence.admitted - arrival
        self.inputs += sequence.inputs
        self.outputs += outputs
        if now > self.last:
            self.last = now
        self.ended += 1
        if self.tracing:
            self._trace(sequence, now)
        if self.ended >= self.tell_at:
            self._tell()

    def _tell(self) -> None:
        assert self.progress is not None
        self.tell_at = self.ended + 64
        if monotonic() - self.told > 0.1:
            self.told = monotonic()
            self.progress(self.ended, self.total)

    def drift(self) -> Drift | None:
        """How latency went from the third quarter of the requests, about, to the last; None if there are too few."""
        windows = [list(window) for window in self.windows if window[0]]
        if len(windows) > 1 and windows[-1][0] < windows[-2][0]:
            last = windows.pop()
            windows[-1] = [a + b for a, b in zip(windows[-1], last, strict=True)]
        if len(windows) < 2 or windows[-1][0] < 16:
            return None
        (n, arrivals, latencies, waits), (m, later, long, longer) = windows[-2:]
        between = later / m - arrivals / n
        if between <= 0:
            return None
        change = long / m - latencies / n
        return Drift(change / between, long / m, waits / n, longer / m)

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
