"""Where an engine takes its requests from, one by one."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from math import inf

from llmhw.simulation.engine import Engine, checked_seconds
from llmhw.simulation.load import Closed, Request, drawer
from llmhw.simulation.record import Run, Sequence
from llmhw.units import LLMHWError


class Open:
    """Requests of an iterable, taken one by one when they are needed."""

    def __init__(self, engine: Engine, requests: Iterable[Request]) -> None:
        try:
            self._requests = iter(requests)
        except TypeError:
            raise LLMHWError(
                f"requests={requests!r} must be Poisson, Closed, Recorded or an iterable of Request"
            ) from None
        self._engine = engine
        self._head: Sequence | None = None
        self._last = 0.0
        self._count = 0

    def peek(self) -> Sequence | None:
        """The next request, or None if no more come unless one is completed."""
        if self._head is None:
            request = next(self._requests, None)
            if request is not None:
                number = self._count
                try:
                    arrival, inputs, outputs = request[:3]
                    checked = request if isinstance(request, Request) else Request(arrival, inputs, outputs)
                    self._engine.check_request(checked, number)
                except LLMHWError:
                    raise
                except (TypeError, ValueError):
                    raise LLMHWError(f"request {number + 1} is {request!r}; give a Request") from None
                if arrival < self._last:
                    raise LLMHWError(
                        f"{checked.name or f'request {number + 1}'}: arrival_seconds={arrival!r} must not be before "
                        f"that of the request before it, {self._last!r}; sort the requests by arrival"
                    )
                self._last = arrival
                self._count += 1
                self._head = Sequence(number, arrival, inputs, outputs)
        return self._head

    def pop(self) -> None:
        self._head = None

    def next_time(self, now: float) -> float:
        """When something may come next; infinite if nothing will."""
        head = self._head or self.peek()
        return inf if head is None else head.arrival

    def arrived(self, now: float) -> Sequence | None:
        """The next request if it is there by now."""
        head = self._head or self.peek()
        return head if head is not None and head.arrival <= now else None

    def completed(self, now: float) -> None:
        """A request was answered."""


class Users(Open):
    """Requests of a fixed number of users, who wait for their answers."""

    def __init__(self, engine: Engine, load: Closed) -> None:
        super().__init__(engine, ())
        self._load = load
        self._times = [0.0] * min(load.concurrency, load.requests)
        self._left = load.requests - len(self._times)
        self._inputs = drawer("input_tokens", load.input_tokens, load.seed)
        self._outputs = drawer("output_tokens", load.output_tokens, load.seed)

    def peek(self) -> Sequence | None:
        if not self._times:
            return None
        if self._head is None:
            request = Request(self._times[0], self._inputs(), self._outputs())
            self._engine.check_request(request, self._count)
            self._head = Sequence(self._count, *request[:3])
            self._count += 1
        # another user may have become earlier
        self._head.arrival = self._head.ready = self._times[0]
        return self._head

    def pop(self) -> None:
        heappop(self._times)
        self._head = None

    def next_time(self, now: float) -> float:
        return self._times[0] if self._times else inf

    def arrived(self, now: float) -> Sequence | None:
        return self.peek() if self._times and self._times[0] <= now else None

    def completed(self, now: float) -> None:
        if self._left:
            self._left -= 1
            heappush(self._times, now + self._load.think_seconds)


class Prefilled(Open):
    """Requests whose prompts a pool of prefill machines has computed, each batch in order of arrival."""

    def __init__(self, engine: Engine, source: Open, run: Run) -> None:
        super().__init__(engine, ())
        self._source = source
        self._run = run
        self._step = engine.prefill_step or engine.step
        self._machines = [0.0] * engine.prefill_workers  # when each is free
        self._ready: list[tuple[float, int, Sequence]] = []

    def _start(self, now: float) -> float:
        """When the next batch can start."""
        return max(self._machines[0], self._source.next_time(now))

    def _advance(self, now: float) -> None:
        while (start := self._start(now)) <= now:
            batch: list[Sequence] = []
            tokens = 0
            while len(batch) < self._engine.max_sequences and (head := self._source.arrived(start)) is not None:
                if batch and tokens + head.inputs > self._engine.max_batched_tokens:
                    break
                self._source.pop()
                self._run.begins(head)
                batch.append(head)
                tokens += head.inputs
            seconds = checked_seconds(self._step, tokens, 0, 0, 0)
            end = start + seconds
            heappop(self._machines)
            heappush(self._machines, end)
            self._run.prefill_busy += seconds
            for sequence in batch:
                sequence.admitted, sequence.first, sequence.generated = start, end, 1
                if sequence.outputs == 1:
                    self._run.ends(sequence, end)
                    self._source.completed(end)
                    continue
                moved = self._engine.transfer_seconds + self._engine.transfer_token_seconds * sequence.inputs
                sequence.ready = sequence.first = end + moved  # the machine that decodes sends it
                sequence.cached = sequence.inputs
                heappush(self._ready, (sequence.ready, sequence.number, sequence))

    def next_time(self, now: float) -> float:
        self._advance(now)
        ready = self._ready[0][0] if self._ready else inf
        return min(ready, self._start(now))

    def arrived(self, now: float) -> Sequence | None:
        self._advance(now)
        return self._ready[0][2] if self._ready and self._ready[0][0] <= now else None

    def pop(self) -> None:
        heappop(self._ready)

    def completed(self, now: float) -> None:
        self._source.completed(now)
