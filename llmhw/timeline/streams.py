"""The two streams of a rank under data parallelism, layer by layer: what it computes, and what it sends meanwhile."""

from __future__ import annotations

from collections.abc import Iterable

from llmhw.checks import checked
from llmhw.job import TrainingJob
from llmhw.messages import Collective, flat_messages, sharded_messages
from llmhw.rates import training_constants
from llmhw.step_time import StepTimer
from llmhw.timeline.trace import Span, Timeline
from llmhw.units import LLMHWError, check_count

COMPUTING, MESSAGES = 0, 1


@checked
def streams(job: TrainingJob, layers: int = 4, *, hidden: bool = True) -> Timeline:
    """One micro-batch through the first so many layers, as if the model had no others.

    layers   numbered from 1; embedding, head and optimizer are left out
    hidden   DDP reduces the gradients of a layer as soon as they are there, FSDP gathers a layer ahead; else computing
             and messages take turns

    Spans are forward, backward, gather and reduce, each with its layer among its facts. Messages go one after another,
    as on one network, and slow no computing, which real ones do a little. Raises `LLMHWError` for a job that is neither
    DDP nor FSDP alone, and for more layers than the model has.

    >>> import llmhw
    >>> layout = llmhw.Parallelism(dp=8, zero=3)
    >>> job = llmhw.TrainingJob(model=llmhw.model("llama-3-8b"), cluster=llmhw.Cluster("h100", 8), parallelism=layout)
    >>> for span in streams(job, 1).spans:
    ...     print(span.row, span.name)
    1 gather 1
    0 forward 1
    1 gather 1 again
    0 backward 1
    1 reduce 1
    """
    p, count = job.parallelism, check_count("layers", layers)
    if p.dp < 2 or p.devices != p.dp or p.zero not in (0, 3):
        raise LLMHWError("parallelism must be data-parallel alone, DDP or FSDP, as in Parallelism(dp=8, zero=3)")
    if count > len(job.model.layers):
        raise LLMHWError(f"layers={count} exceeds the {len(job.model.layers)} layers of {job.model.name}")
    made = _Streams(job, count, hidden)
    (made.sharded if p.zero == 3 else made.reduced)()
    end = max(span.end for span in made.spans)
    return Timeline(f"{count} layers of {job.model.name}", ("computing", "messages"), tuple(made.spans), (), end)


class _Streams:
    """Puts spans on the two streams."""

    def __init__(self, job: TrainingJob, layers: int, hidden: bool) -> None:
        constants = training_constants(job.cluster.accelerator, job.trainer, link=job.cluster.inter_link)
        self.timer = StepTimer(job, job.layout, constants)
        self.kinds = job.model.kind_numbers[:layers]
        self.job, self.layers, self.hidden = job, range(1, layers + 1), hidden
        self.free, self.spans = [0.0, 0.0], list[Span]()

    def put(self, row: int, kind: str, layer: int, seconds: float, after: Iterable[Span] = (), note: str = "") -> Span:
        """Something on a stream as soon as that is free, and what it needs is there."""
        ready = max(self.free) if not self.hidden else self.free[row]
        start = max([ready, *(span.end for span in after)])
        span = Span(row, f"{kind} {layer}{note}", start, seconds, kind, facts={"layer": layer})
        self.free[row] = span.end
        self.spans.append(span)
        return span

    def compute(self, layer: int, phase: str, after: Iterable[Span] = ()) -> Span:
        kind = self.kinds[layer - 1]
        clock = self.timer.layer(kind, self.job.recomputes(layer - 1))
        return self.put(COMPUTING, phase, layer, float(getattr(clock, phase).total), after)

    def seconds(self, messages: Iterable[Collective], *kinds: str) -> float:
        ledger = self.timer.ledger()
        for message in messages:
            if message.kind in kinds:
                self.timer.send(ledger, "messages", message)
        return float(ledger.total)

    def reduced(self) -> None:
        """DDP: gradients of a layer are a message."""
        for i in self.layers:
            self.compute(i, "forward")
        done = [self.compute(i, "backward") for i in reversed(self.layers)]
        for span in done:
            layer = int(span.facts["layer"])
            elements = sum(t.numel for t in self.timer.tensors.of(self.kinds[layer - 1]))
            messages = flat_messages(self.job, self.job.layout, elements)
            self.put(MESSAGES, "reduce", layer, self.seconds(messages, "all-reduce"), [span])

    def sharded(self) -> None:
        """FSDP: a layer's weights are gathered ahead of each pass, and dropped behind it."""
        turns = [*((i, "forward") for i in self.layers), *((i, "backward") for i in reversed(self.layers))]
        gathers, computed = list[Span](), list[Span]()

        def gather(turn: int) -> None:
            layer, phase = turns[turn]
            # a layer ahead, beside the one before it; but the last layer is dropped before it is gathered again
            again = turn > 0 and turns[turn - 1][0] == layer
            before = computed[-1:] if again else computed[max(0, turn - 2) : max(0, turn - 1)]
            note = " again" * (phase == "backward")
            gathers.append(self.put(MESSAGES, "gather", layer, self._sharded(layer, "all-gather"), before, note))

        for turn, (layer, phase) in enumerate(turns):
            if len(gathers) == turn:
                gather(turn)
            if self.hidden and turn + 1 < len(turns) and turns[turn + 1][0] != layer:
                gather(turn + 1)
            computed.append(self.compute(layer, phase, [gathers[turn]]))
            if phase == "backward":
                self.put(MESSAGES, "reduce", layer, self._sharded(layer, "reduce-scatter", "all-reduce"), computed[-1:])

    def _sharded(self, layer: int, *kinds: str) -> float:
        elements = self.timer.tensors.shard(self.kinds[layer - 1], False)
        messages = list(sharded_messages(self.job, self.job.layout, elements))
        return self.seconds([m for m in messages if m.phase == "backward"], *kinds)
