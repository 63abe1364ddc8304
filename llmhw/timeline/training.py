"""The step of a training job, pass by pass, and what its ranks hold meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llmhw.catalog import read_calibration
from llmhw.checks import check_object
from llmhw.job import TrainingJob
from llmhw.messages import pipeline_messages
from llmhw.rates import training_constants
from llmhw.schedule import Actions, needed, pipeline_actions
from llmhw.sharding import Stage, stages_of
from llmhw.step_time import PARTS, StepTime, StepTimer
from llmhw.timeline.trace import Level, Span, Timeline, in_turn
from llmhw.training import ALIVE, LAYER, LOSS, REDUCED, ROLLOUT, UPDATED, StepMemory, step_of
from llmhw.units import LLMHWError

if TYPE_CHECKING:
    from llmhw.formula import Ledger
    from llmhw.training import JobMemory, TrainingEstimate

# Passes of one step that are drawn: a file of so many has some 50 MB, which browsers still open.
MOST_PASSES = 40_000
# A share of the step that is no part of it but a rounding error.
ROUNDING = 1e-13
BUBBLE = "pipeline bubble"
# What an action does in turn, with the seconds of each by part.
Pieces = list[tuple[str, dict[str, float]]]
Times = dict[str, tuple[float, float]]


def train(answer: TrainingEstimate | JobMemory) -> Timeline:
    """The step of a training job: a row for each pipeline rank, and meters of its memory.

    A row is one rank of a stage; those that tensor, context and data parallelism make of it do the same. Passes follow
    the schedule, each as long as its stage is predicted to take, chunks of a stage alike; what comes behind them, on
    all rows, is that of the slowest stage. Hidden vectors are under way for as long as makes the whole step the
    predicted one. What is hidden behind passes, sends or gradient reduction, is not drawn.

    Raises `LLMHWError` where the time of a step is not known, and where it has too many passes to draw.

    >>> import llmhw
    >>> from llmhw.job import Parallelism
    >>> job = llmhw.TrainingJob(model=llmhw.model("llama-3-8b"), cluster=llmhw.Cluster("h100", 2),
    ...                         parallelism=Parallelism(pp=2), global_batch=8, seq_len=4096)
    >>> found = train(llmhw.train(job))
    >>> found.rows, round(found.sums(0)["pipeline bubble"] / found.seconds, 2)
    (('pipeline rank 0', 'pipeline rank 1'), 0.2)
    """
    check_object("answer", answer, "TrainingEstimate", "JobMemory")
    job, calibration = answer.job, getattr(answer, "calibration", None)
    time = getattr(answer, "time", None) or step_of(job, calibration=calibration)
    return _Step(job, time, calibration).timeline()


def memory(answer: JobMemory) -> Timeline:
    """The same of a job whose memory was asked for."""
    return train(answer)


class _Step:
    """A step, drawn: see `train`."""

    def __init__(self, job: TrainingJob, time: StepTime, calibration: Mapping[str, Any] | None) -> None:
        self.job, self.time, self.p = job, time, job.parallelism
        passes = 2 * self.p.pp * self.p.vpp * job.micro_batches
        if passes > MOST_PASSES:
            each = job.micro_batch * self.p.dp
            fewer = max(1, job.batch * MOST_PASSES // passes // each) * each
            raise LLMHWError(
                f"timeline of {passes:,} passes is more than a browser opens; with global_batch={fewer} it looks alike"
            )
        known = calibration or read_calibration("training_time")
        self.constants = training_constants(job.cluster.accelerator, job.trainer, known, job.cluster.inter_link)
        self.timer = StepTimer(job, job.layout, self.constants)
        self.stages = stages_of(job, every=True)
        self.orders: Actions = pipeline_actions(self.p.pipeline_schedule, self.p.pp, self.p.vpp, job.micro_batches)
        self.last = self.p.pp * self.p.vpp - 1
        clocks = {stage.index: self.timer.stage(stage) for stage in stages_of(job)}
        self.pieces: list[dict[str, Pieces]] = []
        for row, stage in enumerate(self.stages):
            clock = clocks[stage.index]
            own = self._pieces(stage, clock.forward, clock.backward)
            actions = {action.partition(".")[0] for action in self.orders[row]}
            self.pieces.append({action: self._at(action, own[action[0]]) for action in actions})
        self.slowest = next(i for i, stage in enumerate(self.stages) if stage.index == time.slowest)

    # what an action takes

    def _pieces(self, stage: Stage, forward: Ledger, backward: Ledger) -> dict[str, Pieces]:
        """What each kind of action of a stage does in turn: put together what arrives, compute, send."""
        sends = self._sends(stage)
        ahead, behind = (
            {name: float(clock.parts[name]) / self.p.vpp for name in PARTS if clock.parts.get(name)}
            for clock in (forward, backward)
        )
        half = {name: seconds / 2 for name, seconds in behind.items()}
        made: dict[str, Pieces] = {"F": [("forward", ahead)], "B": [("backward", behind)]}
        made |= {"I": [("backward, inputs", half)], "W": [("backward, weights", half)]}
        for kind, phase in (("F", "forward"), ("B", "backward"), ("I", "backward")):
            made[kind] = [("recv", sends["all-gather", phase]), *made[kind], ("send", sends["send", phase])]
        return made

    def _sends(self, stage: Stage) -> dict[tuple[str, str], dict[str, float]]:
        """Seconds of one message that nothing hides, by its kind and phase."""
        found: dict[tuple[str, str], dict[str, float]] = {
            (kind, phase): {} for kind in ("send", "all-gather") for phase in ("forward", "backward")
        }
        if self.p.pp > 1:
            for message in pipeline_messages(self.job, self.timer.passing, first=stage.first, last=stage.last):
                ledger = self.timer.ledger()
                self.timer.send(ledger, "pipeline sends", message, self.constants.pp_exposed)
                if seconds := float(ledger.total):
                    found[message.kind, message.phase] = {"pipeline sends": seconds / float(message.calls)}
        return found

    def _at(self, action: str, pieces: Pieces) -> Pieces:
        """The pieces of an action of one chunk: at the pipeline's ends nothing arrives, or is sent on."""
        first, end = (0, self.last) if action[0] == "F" else (self.last, 0)
        chunk = int(action[1:])
        nothing = {"recv"} if chunk == first else set[str]()
        nothing |= {"send"} if chunk == end else set()
        return [(name, parts) for name, parts in pieces if parts and name not in nothing]

    @cached_property
    def _lengths(self) -> list[dict[str, float]]:
        return [
            {action: sum(sum(parts.values()) for _, parts in pieces) for action, pieces in row.items()}
            for row in self.pieces
        ]

    # when

    def _run(self, way: float) -> tuple[Times, float, int]:
        """When actions start and end if a message is under way for so long; the end, and how many messages set it.

        An action starts when its rank is free and what it needs is there.
        """
        done: dict[str, tuple[float, int]] = {}
        found: Times = {}
        free, at = [(0.0, 0)] * len(self.orders), [0] * len(self.orders)
        left = sum(map(len, self.orders))
        while left:
            for row, order in enumerate(self.orders):
                while at[row] < len(order):
                    action = order[at[row]]
                    before = needed(action, self.last)
                    if before and before not in done:
                        break
                    there = done.get(before, (0.0, 0))
                    name = action.partition(".")[0]
                    if before and before[1:].partition(".")[0] != name[1:]:
                        there = there[0] + way, there[1] + 1
                    start, messages = max(there, free[row])
                    free[row] = done[action] = start + self._lengths[row][name], messages
                    found[action] = start, free[row][0]
                    at[row] += 1
                    left -= 1
        return found, *max(free)

    def _placed(self, seconds: float) -> tuple[Times, float]:
        """The actions, to end when the estimate has them end, and the scale at which they are drawn.

        The estimate's way through all stages is shared out among the messages. An order that takes longer than the
        closed form even so is drawn smaller.
        """
        way = 0.0
        found, end, messages = self._run(way)
        # the end is convex in the way, and made of straight pieces: a few of Newton's steps find the one that is meant
        for _ in range(20):
            if not messages or abs(end - seconds) <= ROUNDING * seconds or (end > seconds and not way):
                break
            way = max(0.0, way + (seconds - end) / messages)
            found, end, messages = self._run(way)
        scale = min(1.0, seconds / end)
        return {action: (start * scale, stop * scale) for action, (start, stop) in found.items()}, scale

    # rows

    def timeline(self) -> Timeline:
        """All of it."""
        parts, total = self.time.parts, self.time.total
        before = {name: parts[name] for name in ("rollout", "reference model") if parts.get(name)}
        lead = sum(before.values())
        passes = self._passes(self.slowest)
        end = lead + sum(passes.values()) + parts[BUBBLE]
        placed, scale = self._placed(end - lead)
        placed = {action: (lead + start, lead + stop) for action, (start, stop) in placed.items()}
        drawn = {**before, **passes, BUBBLE: parts[BUBBLE]}
        behind = {name: left for name in parts if (left := parts[name] - drawn.get(name, 0.0)) > ROUNDING * total}
        rows = [
            [*in_turn(row, before, 0.0), *self._row(row, placed, lead, end, scale), *in_turn(row, behind, end)]
            for row in range(self.p.pp)
        ]
        updates = next((span.start for span in rows[0] if span.name == "optimizer"), end)
        levels = [level for row in range(self.p.pp) for level in self._levels(row, placed, lead, end, updates, total)]
        return Timeline(
            title=f"step of {self.job.model.name} on {self.job.cluster}",
            rows=tuple(f"pipeline rank {row}" for row in range(self.p.pp)),
            spans=tuple(span for spans in rows for span in spans),
            levels=tuple(levels),
            seconds=total,
            notes=self._notes(scale),
        )

    def _passes(self, row: int) -> dict[str, float]:
        """Seconds of all passes of a rank by part."""
        found: dict[str, float] = {}
        for action, times in Counter(action.partition(".")[0] for action in self.orders[row]).items():
            for _, parts in self.pieces[row][action]:
                for name, seconds in parts.items():
                    found[name] = found.get(name, 0.0) + times * seconds
        return found

    def _row(self, row: int, placed: Times, start: float, end: float, scale: float) -> Iterator[Span]:
        """The passes of a rank, and where it waits between them."""
        for action in self.orders[row]:
            name, _, number = action.partition(".")
            begun, stopped = placed[action]
            if begun - start > ROUNDING * end:
                what = f"wait for {needed(action, self.last)}"
                yield Span(row, what, start, begun - start, BUBBLE)
            start = begun
            facts = {"micro-batch": int(number), "chunk": int(name[1:])}
            for what, parts in self.pieces[row][name]:
                seconds = {part: value * scale for part, value in parts.items()}
                yield Span(row, f"{what} {number}", start, sum(seconds.values()), what, seconds, facts)
                start += sum(seconds.values())
            start = stopped
        if end - start > ROUNDING * end:
            yield Span(row, "wait for the other ranks", start, end - start, BUBBLE)

    def _notes(self, scale: float) -> tuple[str, ...]:
        p = self.p
        alike = f"each row stands for {p.dp * p.tp * p.cp:,} devices, which do the same" * (p.dp * p.tp * p.cp > 1)
        slow = f"what stands behind the passes is that of the slowest rank, {self.slowest}" * (p.pp > 1)
        small = f"written out, the order takes {1 / scale - 1:.2%} longer than the closed form: it is drawn smaller"
        return tuple(note for note in (alike, slow, small * (scale < 1 - 1e-9)) if note)

    # memory

    @cached_property
    def _held(self) -> StepMemory:
        return StepMemory(self.job, self.job.layout)

    def _levels(
        self, row: int, placed: Times, lead: float, end: float, updates: float, total: float
    ) -> Iterator[Level]:
        """What a rank holds: the moments of `llmhw.training.StepMemory`, with as many activations as are alive."""
        stage, held = self.stages[row], self._held
        moments = held.moments(stage, row)
        states = set(held.states(stage).parts)
        most = float(held.copies(row)) * self.p.vpp
        loss, layer = (moments.get(name, moments.get(ALIVE)) for name in (LOSS, LAYER))

        def level(at: float, moment: Any, alive: float, *, resting: bool = False) -> Level:
            kinds = {"states": 0.0, "activations": 0.0, "others": 0.0}
            for part, value in moment.parts.items():
                kind = "states" if part in states else "activations" if part == "activations" else "others"
                share = alive / most if kind == "activations" else 0.0 if resting and kind == "others" else 1.0
                kinds[kind] += float(value) * share
            return Level(f"memory of rank {row}, bytes", at, kinds)

        if ROLLOUT in moments:
            yield level(0.0, moments[ROLLOUT], 0)
        yield level(lead if ROLLOUT in moments else 0.0, loss, 0, resting=True)
        alive = 0
        for action in self.orders[row]:
            start, stop = placed[action]
            if action[0] == "F":
                alive += 1
                yield level(stop, loss, alive)
            else:
                yield level(start, layer, alive)
                alive -= action[0] in "BW"
                yield level(stop, layer, alive, resting=True)
        yield level(end, moments.get(REDUCED, layer), 0, resting=REDUCED not in moments)
        if UPDATED in moments:
            yield level(updates, moments[UPDATED], 0)
        yield level(total, loss, 0, resting=True)
