"""How an engine forms batches: at every step over a paged KV cache, or whole."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from math import ceil, inf, sqrt

from llmhw.queueing import StepModel
from llmhw.simulation.cache import PageTable
from llmhw.simulation.engine import Engine, checked_seconds, decode_steps
from llmhw.simulation.record import Run, Sequence
from llmhw.simulation.sources import Open

UNLIMITED = 10**18


class Continuous:
    """In-flight batching over a paged KV cache."""

    def __init__(self, engine: Engine, source: Open, run: Run) -> None:
        self.engine, self.source, self.run_ = engine, source, run
        self.affine = engine.step if isinstance(engine.step, StepModel) else None
        blocks = UNLIMITED if engine.kv_blocks is None else engine.kv_blocks
        self.table = PageTable(blocks, engine.block_tokens)
        self.reserve = 0 if engine.kv_blocks is None else int(engine.watermark * blocks)
        # of a shared prefix only the whole blocks are shared
        self.prefix = engine.shared_prefix_tokens // engine.block_tokens * engine.block_tokens
        if self.prefix:
            self.table.add("prefix", self.prefix)
        self.running: dict[int, Sequence] = {}  # in the order of admission
        self.again: deque[Sequence] = deque()  # preempted
        self.prefilling: list[Sequence] = []  # admitted, prompt not computed to its end
        self.blocked = False  # what is next in the queue must wait for an answer to be complete
        # decoding sequences, all together
        self.now = 0.0
        self.k = 0  # decode steps so far
        self.decoding = 0
        self.context = 0  # tokens that they hold in the cache
        self.buckets: list[dict[int, None]] = [{} for _ in range(engine.block_tokens)]
        self.heap: list[tuple[int, int, Sequence]] = []  # by the step after which they end
        self.serial = 0

    def run(self) -> None:
        plan = self._plan_chunks if self.engine.chunked_prefill else self._plan_prompts
        source, run = self.source, self.run_
        while True:
            chunks = plan()
            if chunks:
                self._mixed(chunks)
            elif self.decoding:
                self._decode()
            else:
                at = source.next_time(self.now)
                if at == inf:
                    break
                self.now = max(self.now, at)
            run.now = self.now
        if self.prefix:
            self.table.release("prefix")
        assert not self.table.used, "blocks were left behind"

    # -- admission

    def _admit(self, most_tokens: int, spare: int) -> Sequence | None:
        """The next in the queue, if it is there and fits; its blocks are taken.

        most_tokens   of its prompt
        spare         blocks to leave free
        """
        if len(self.running) >= self.engine.max_sequences:
            self.blocked = True
            return None
        preempted = bool(self.again)
        head = self.again[0] if preempted else self.source.arrived(self.now)
        if head is None:
            return None
        tokens = head.inputs + head.generated
        prefix = self.prefix
        if head.cached:  # computed elsewhere
            tokens = head.cached
        elif tokens - prefix > most_tokens:
            return None
        table = self.table
        need = -(-(tokens - prefix) // table.block_tokens)
        free = table.free
        if need > free - spare or (self.running and need > free - spare - self.reserve):
            self.blocked = True
            return None
        if preempted:
            self.again.popleft()
        else:
            self.source.pop()
            if head.admitted < 0:
                self.run_.begins(head)
                head.admitted = self.now
        if prefix:
            table.add(head.number, tokens, "prefix", prefix)
        else:
            table.add(head.number, tokens)
        self.running[head.number] = head
        if self.run_.tracing:
            self.run_.enters(head, self.now)
        return head

    def _plan_prompts(self) -> list[tuple[Sequence, int]]:
        """Prompts for a step of their own, all of each."""
        self.blocked = False
        chunks: list[tuple[Sequence, int]] = []
        left = self.engine.max_batched_tokens
        # the first prompt may be longer than a step's tokens
        while (sequence := self._admit(left if chunks else UNLIMITED, 0)) is not None:
            if sequence.cached:
                self._join(sequence)
                continue
            tokens = sequence.inputs + sequence.generated - self.prefix
            sequence.cached = self.prefix
            chunks.append((sequence, tokens))
            left -= tokens
        return chunks

    def _plan_chunks(self) -> list[tuple[Sequence, int]]:
        """Pieces of prompts to compute beside the sequences that decode."""
        self.blocked = False
        admits = not self._make_room(1) if self.decoding else True
        left = self.engine.max_batched_tokens - self.decoding
        chunks: list[tuple[Sequence, int]] = []
        for sequence in self.prefilling:
            tokens = min(left, sequence.inputs + sequence.generated - sequence.cached)
            if tokens <= 0:
                break
            chunks.append((sequence, tokens))
            left -= tokens
        while admits and left > 0:
            spare = len(self.buckets[self.k % self.engine.block_tokens])
            admitted = self._admit(UNLIMITED, spare)
            if admitted is None:
                break
            admitted.cached = self.prefix
            self.prefilling.append(admitted)
            tokens = min(left, admitted.inputs + admitted.generated - self.prefix)
            chunks.append((admitted, tokens))
            left -= tokens
        return chunks

    # -- steps

    def _mixed(self, chunks: list[tuple[Sequence, int]]) -> None:
        """A step that computes prompts and, with chunked prefill, lets the others decode one token."""
        prefill = context = 0
        for sequence, tokens in chunks:
            prefill += tokens
            context += sequence.cached
        chunked = self.engine.chunked_prefill
        decoding = self.decoding if chunked else 0
        held = self.context if chunked else 0
        model = self.affine
        if model is not None:
            seconds = (
                model.base_seconds
                + model.prefill_token_seconds * prefill
                + model.sequence_seconds * decoding
                + model.cached_token_seconds * (context + held)
            )
        else:
            seconds = checked_seconds(self.engine.step, prefill, context, decoding, held)
        if decoding:
            table = self.table
            table.grow(self.buckets[self.k % table.block_tokens])
        self._passes(seconds, 1, prefill, decoding)
        self.run_.block_seconds += self.table.used * seconds
        if decoding:
            self.k += 1
            self.context += decoding
            self._finish()
        for sequence, tokens in chunks:
            sequence.cached += tokens
            if sequence.cached == sequence.inputs + sequence.generated:
                if sequence.first < 0:
                    sequence.first = self.now
                sequence.generated += 1
                self._join(sequence)
        if chunked:
            self.prefilling = [s for s in self.prefilling if not s.serial and s.number in self.running]

    def _passes(self, seconds: float, steps: int, prefill: int, decoding: int) -> None:
        """Time goes on."""
        run = self.run_
        running = len(self.running)
        used = self.table.used
        if running > run.largest_batch:
            run.largest_batch = running
        if used > run.largest_blocks:
            run.largest_blocks = used
        run.busy += seconds
        run.sequence_seconds += running * seconds
        run.steps += steps
        if run.tracing:
            run.trace_step(self.now, self.now + seconds, steps, prefill, decoding, used)
        self.now += seconds

    def _join(self, sequence: Sequence) -> None:
        """A sequence whose prompt is in the cache starts to decode, or ends."""
        left = sequence.outputs - sequence.generated
        if not left:
            self._complete(sequence)
            return
        held = sequence.inputs + sequence.generated - 1
        self.serial += 1
        sequence.serial = self.serial
        sequence.finish = self.k + left
        sequence.cached = 0
        sequence.bucket = (self.k - held) % self.engine.block_tokens
        self.buckets[sequence.bucket][sequence.number] = None
        self.decoding += 1
        self.context += held
        heappush(self.heap, (sequence.finish, self.serial, sequence))

    def _decode(self) -> None:
        """As many decode steps as bring nothing new: until one ends, may be admitted, or blocks run out."""
        heap, table, k = self.heap, self.table, self.k
        while heap[0][2].serial != heap[0][1]:
            heappop(heap)
        n = heap[0][0] - k
        block_tokens = table.block_tokens
        batch = self.decoding
        if batch * (n // block_tokens + 1) > table.free:
            n = self._steps_with_blocks(n)
            if not n:
                self._make_room(1)
                n, batch = 1, self.decoding
                if not batch:
                    return
        each, slope, alike = decode_steps(self.engine.step, batch, self.context)
        if n > alike:
            n = int(alike)
        seconds = n * each + slope * (n * (n - 1) / 2)
        if n > 1 and not self.blocked:
            now = self.now
            coming = self.source.next_time(now)
            if now + seconds >= coming:
                n = _steps_until(coming, now, each, slope, n)
                seconds = n * each + slope * (n * (n - 1) / 2)
        buckets = self.buckets
        block_seconds = table.used * seconds
        if n <= block_tokens:
            for j in range(n):
                bucket = buckets[(k + j) % block_tokens]
                if bucket:
                    grown = table.grow(bucket)
                    block_seconds += grown * (seconds - j * each - slope * (j * (j - 1) / 2))
        else:
            for phase, bucket in enumerate(buckets):
                if bucket:
                    for j in range((phase - k) % block_tokens, n, block_tokens):
                        grown = table.grow(bucket)
                        block_seconds += grown * (seconds - j * each - slope * (j * (j - 1) / 2))
        self._passes(seconds, n, 0, batch)
        self.run_.block_seconds += block_seconds
        self.k = k + n
        self.context += batch * n
        self._finish()

    def _steps_with_blocks(self, most: int) -> int:
        """Decode steps that the free blocks allow, up to `most`."""
        free, block_tokens = self.table.free, self.engine.block_tokens
        rounds = min(free // self.decoding, most // block_tokens)
        steps, free = rounds * block_tokens, free - rounds * self.decoding
        while steps < most:
            free -= len(self.buckets[(self.k + steps) % block_tokens])
            if free < 0:
                break
            steps += 1
        return steps

    def _make_room(self, steps: int) -> bool:
        """Preempt the youngest until that many decode steps have their blocks; whether one was."""
        preempted = False
        while self.decoding and self._steps_with_blocks(steps) < steps:
            _, sequence = self.running.popitem()
            self._preempt(sequence)
            preempted = True
        return preempted

    def _preempt(self, sequence: Sequence) -> None:
        if sequence.serial:
            sequence.generated = sequence.outputs - (sequence.finish - self.k)
            self._leave(sequence)
            self.run_.recomputed += sequence.inputs + sequence.generated - self.prefix
        else:
            self.prefilling.remove(sequence)
            self.run_.recomputed += sequence.cached - self.prefix
        sequence.cached = 0
        sequence.preemptions += 1
        self.run_.preemptions += 1
        self.table.release(sequence.number)
        self.again.appendleft(sequence)
        if self.run_.tracing:
            self.run_.leaves(sequence, self.now)

    def _leave(self, sequence: Sequence) -> None:
        """No longer among those that decode; `generated` is what it is by now."""
        sequence.serial = 0
        del self.buckets[sequence.bucket][sequence.number]
        self.decoding -= 1
        self.context -= sequence.inputs + sequence.generated - 1

    def _finish(self) -> None:
        """Those whose last token has just come."""
        heap, k = self.heap, self.k
        while heap and heap[0][0] <= k:
            _, serial, sequence = heappop(heap)
            if sequence.serial == serial:
                sequence.generated = sequence.outputs
                self._leave(sequence)
                self._complete(sequence)

    def _complete(self, sequence: Sequence) -> None:
        del self.running[sequence.number]
        self.table.release(sequence.number)
        self.run_.ends(sequence, self.now)
        self.source.completed(self.now)


def _steps_until(coming: float, now: float, each: float, slope: float, most: int) -> int:
    """The fewest steps after which it is `coming` or later, from 1 to `most`; step j takes each + slope x j seconds."""
    gap = coming - now
    first = each - slope / 2
    bottom = first + sqrt(first * first + 2 * slope * max(gap, 0.0))
    n = min(most, max(1, ceil(2 * gap / bottom))) if bottom > 0 else most
    while n < most and now + (n * each + slope * (n * (n - 1) / 2)) < coming:
        n += 1
    while n > 1 and now + ((n - 1) * each + slope * ((n - 1) * (n - 2) / 2)) >= coming:
        n -= 1
    return n


class Batches:
    """Whole batches, one after the other: static, and dynamic at the level of requests."""

    def __init__(self, engine: Engine, source: Open, run: Run) -> None:
        self.engine, self.source, self.run_ = engine, source, run
        blocks = UNLIMITED if engine.kv_blocks is None else engine.kv_blocks
        self.table = PageTable(blocks, engine.block_tokens)
        self.waiting: deque[Sequence] = deque()  # taken from the source, in no batch yet
        self.now = 0.0

    def run(self) -> None:
        form = self._static if self.engine.mode == "static" else self._dynamic
        while (start := form()) is not None:
            size = self._fitting()
            if self.engine.preferred_sizes and self.engine.mode == "dynamic":
                size = max((p for p in self.engine.preferred_sizes if p <= size), default=size)
            self._serve([self.waiting.popleft() for _ in range(size)], start)
            self.run_.now = self.now
        assert not self.table.used, "blocks were left behind"

    def _pull(self, by: float = inf) -> bool:
        """Take the next request if it comes by then."""
        head = self.source.peek()
        if head is None or head.arrival > by:
            return False
        self.source.pop()
        self.run_.begins(head)
        self.waiting.append(head)
        return True

    def _static(self) -> float | None:
        """Wait until the batch is full, or nobody comes any more; when it starts, None at the end."""
        inputs = outputs = 0
        for size in range(1, self.engine.max_sequences + 1):
            if len(self.waiting) < size and not self._pull():
                break
            last = self.waiting[size - 1]
            inputs, outputs = max(inputs, last.inputs), max(outputs, last.outputs)
            if not self._fits(size, inputs, outputs):
                break
        return max(self.now, self.waiting[-1].arrival) if self.waiting else None

    def _dynamic(self) -> float | None:
        """Wait for a preferred size, or until the oldest has waited long enough."""
        if not self.waiting and not self._pull():
            return None
        enough = (self.engine.preferred_sizes or (self.engine.max_sequences,))[0]
        deadline = max(self.now, self.waiting[0].arrival + self.engine.max_delay_seconds)
        while len(self.waiting) < enough and self._pull(deadline):
            pass
        start = deadline if len(self.waiting) < enough else max(self.now, self.waiting[enough - 1].arrival)
        while len(self.waiting) < self.engine.max_sequences and self._pull(start):
            pass
        return start

    def _fitting(self) -> int:
        """Of those that wait, how many fit as one batch: each reserves what the longest of them needs."""
        inputs = outputs = 0
        for size, sequence in enumerate(self.waiting):
            inputs, outputs = max(inputs, sequence.inputs), max(outputs, sequence.outputs)
            if not self._fits(size + 1, inputs, outputs):
                return size
        return len(self.waiting)

    def _fits(self, batch: int, inputs: int, outputs: int) -> bool:
        blocks = -(-(inputs + outputs - 1) // self.engine.block_tokens)
        return self.engine.kv_blocks is None or batch * blocks <= self.engine.kv_blocks

    def _serve(self, batch: list[Sequence], start: float) -> None:
        engine, run = self.engine, self.run_
        prompt = sum(sequence.inputs for sequence in batch)
        longest = max(sequence.outputs for sequence in batch)
        room = max(sequence.inputs for sequence in batch) + longest - 1
        for sequence in batch:
            self.table.add(sequence.number, room)
            sequence.admitted = start
            if run.tracing:
                run.enters(sequence, start)
        first = start + checked_seconds(engine.step, prompt, 0, 0, 0)
        wanted = {sequence.outputs - 1 for sequence in batch} if engine.early_return else {longest - 1}
        after = self._decode_seconds(len(batch), prompt, wanted)
        end = first + after[longest - 1]
        run.busy += end - start
        run.sequence_seconds += len(batch) * (end - start)
        run.block_seconds += self.table.used * (end - start)
        run.largest_blocks = max(run.largest_blocks, self.table.used)
        run.largest_batch = max(run.largest_batch, len(batch))
        run.steps += longest
        if run.tracing:
            run.trace_step(start, first, 1, prompt, 0, self.table.used)
            if longest > 1:
                run.trace_step(first, end, longest - 1, 0, len(batch), self.table.used)
        for sequence in sorted(batch, key=lambda s: s.outputs) if engine.early_return else batch:
            sequence.first = first
            finish = first + after[sequence.outputs - 1] if engine.early_return else end
            self.table.release(sequence.number)
            run.ends(sequence, finish)
            self.source.completed(finish)
        self.now = end

    def _decode_seconds(self, batch: int, context: int, wanted: set[int]) -> dict[int, float]:
        """Seconds of that many decode steps; members that are done go on in their places."""
        found, seconds, done = {}, 0.0, 0
        for n in sorted(wanted):
            while done < n:
                each, slope, alike = decode_steps(self.engine.step, batch, context + done * batch)
                steps = int(min(n - done, alike))
                seconds += steps * each + slope * (steps * (steps - 1) / 2)
                done += steps
            found[n] = seconds
        return found
