"""The order in which pipeline stages run their micro-batches, and when they wait.

An action is written "F2.0": forward of model chunk 2 with micro-batch 0. B is a whole backward pass; I and W are its
two halves, the gradient of the input and that of the weights, which zero-bubble schedules run apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

from llmhw.checks import check_items, check_object, checked
from llmhw.formula import formula
from llmhw.job import SCHEDULES
from llmhw.units import LLMHWError, check_choice, check_count, maximum, minimum, shown, where

Actions = tuple[tuple[str, ...], ...]

# Forward passes of an order that is written out action by action; what memory and time need of one is counted without.
MOST_ACTIONS = 3 * 10**5


@formula(
    source="Narayanan et al. 2021, section 2.2, of unequal stages; Zero Bubble (Qi et al. 2023), table 1: ZB-H1",
    unit="seconds",
)
def bubble_seconds(*, forward: Any, backward: Any, chunks: Any = 1, zero_bubble: Any = 0) -> Any:
    """Time in which a stage waits in one step: for one micro-batch's pass over a chunk of every other stage.

    forward, backward   seconds of one micro-batch on all other stages together
    chunks              model chunks on each stage (vpp)
    zero_bubble         1: the gradients of weights, half of a backward pass, fill the wait for those of inputs

    Holds for at least as many micro-batches as stages (zero bubble: twice as many), in whole rounds of stages if
    chunks > 1. Equal stages wait (stages - 1) / (chunks x micro-batches) of the time that they work.

    >>> bubble_seconds(forward=7.0, backward=14.0), bubble_seconds(forward=7.0, backward=14.0, zero_bubble=1)
    (21.0, 7.0)
    """
    return (forward + backward * (1 - zero_bubble)) / chunks


@formula(source="1F1B, interleaved (Narayanan et al. 2021) and ZB-H1 (Qi et al. 2023), counted out", unit="count")
def chunks_in_flight(
    *, stages: Any, stage: Any, chunks: Any = 1, micro_batches: Any, per_hop: Any = 1, waits: Any = 0
) -> Any:
    """Most chunks whose activations a stage holds at once.

    stage      from 0
    chunks     on each stage (vpp)
    per_hop    forward passes that a stage runs ahead for each stage behind it: 2 where chunks are interleaved
    waits      1 under ZB-H1: the gradients of weights wait, and what they need with them, for as many steps as there
               are stages before this one

    >>> [chunks_in_flight(stages=4, stage=i, micro_batches=8) for i in range(4)]
    [4, 3, 2, 1]
    """
    total = chunks * micro_batches
    together = where(chunks > 1, micro_batches // maximum(1, micro_batches // stages), 1)
    warmup = minimum(total, (chunks - 1) * together + per_hop * (stages - 1 - stage))
    return minimum(total, warmup + 1 + waits * stage)


def stages_in_flight(schedule: str, pp: Any, vpp: Any, micro_batches: Any, stage: Any) -> Any:
    """Micro-batches whose activations a stage holds at its fullest, in stages' worth of layers.

    >>> stages_in_flight("interleaved", 4, 2, 8, 0)
    5.5
    """
    if schedule == "gpipe":
        return micro_batches
    found = chunks_in_flight(
        stages=pp,
        stage=stage,
        chunks=vpp,
        micro_batches=micro_batches,
        per_hop=2 if schedule == "interleaved" else 1,
        waits=1 if schedule == "zero-bubble" else 0,
    )
    return found / vpp


@checked
def pipeline_actions(schedule: str, pp: int, vpp: int = 1, micro_batches: int | None = None) -> Actions:
    """What each stage runs, in order.

    schedule        gpipe, 1f1b, interleaved or zero-bubble (ZB-H1, and interleaved with vpp > 1)
    pp, vpp         stages, and model chunks on each; chunk c lies on stage c mod pp
    micro_batches   default: as many as stages

    >>> pipeline_actions("1f1b", 2, micro_batches=3)[0]
    ('F0.0', 'F0.1', 'B0.0', 'F0.2', 'B0.1', 'B0.2')
    """
    check_choice("schedule", schedule, SCHEDULES)
    pp, vpp = check_count("pp", pp), check_count("vpp", vpp)
    count = pp if micro_batches is None else check_count("micro_batches", micro_batches)
    if pp * vpp * count > MOST_ACTIONS:
        raise LLMHWError(
            f"pp x vpp x micro_batches = {pp} x {vpp} x {count} is too long an order to write down; use at most "
            f"{MOST_ACTIONS:,}"
        )
    if schedule == "gpipe":
        return tuple(
            (*(f"F{stage}.{m}" for m in range(count)), *(f"B{stage}.{m}" for m in range(count))) for stage in range(pp)
        )
    rounds = max(1, count // pp)
    if vpp > 1 and count % rounds:
        raise LLMHWError(f"micro_batches={count} does not make whole rounds of pp={pp}; use a multiple of {pp}")
    together = count // rounds if vpp > 1 else 1  # micro-batches of a chunk that run one after another
    return tuple(_one_forward_one_backward(schedule, pp, vpp, count, together, stage) for stage in range(pp))


def _one_forward_one_backward(
    schedule: str, pp: int, vpp: int, count: int, together: int, stage: int
) -> tuple[str, ...]:
    total, zero = vpp * count, schedule == "zero-bubble"
    per_hop = 2 if schedule == "interleaved" else 1
    warmup = min(total, (vpp - 1) * together + per_hop * (pp - 1 - stage))
    done: dict[str, int] = {}
    order: list[str] = []

    def run(kind: str, step: int) -> None:
        local = step // together % vpp
        chunk = (local if kind == "F" else vpp - 1 - local) * pp + stage
        name = f"{kind}{chunk}"
        order.append(f"{name}.{done.setdefault(name, 0)}")
        done[name] += 1

    backward = "I" if zero else "B"
    weights = 0
    for step in range(warmup):
        run("F", step)
    for step in range(total):
        if warmup + step < total:
            run("F", warmup + step)
        run(backward, step)
        # ZB-H1: the first weight gradients wait for as many micro-batches as there are stages before this one
        if zero and step >= stage:
            run("W", weights)
            weights += 1
    while zero and weights < total:
        run("W", weights)
        weights += 1
    return tuple(order)


@dataclass(frozen=True, slots=True)
class Slot:
    """One action on the clock of its stage, from `start` to `end`."""

    action: str
    start: int
    end: int


def _check_actions(argument: str, value: Any) -> Actions:
    orders = tuple(check_items(f"{argument}[{i}]", order) for i, order in enumerate(check_items(argument, value)))
    for action in (action for order in orders for action in order):
        if not isinstance(action, str) or not re.fullmatch(r"[FBIW][0-9]{1,9}\.[0-9]{1,9}", action):
            raise LLMHWError(f"{argument} holds {shown(action)}, which is no action such as 'F0.1'")
    return orders


def _check_slots(argument: str, value: Any) -> tuple[tuple[Slot, ...], ...]:
    def slot(name: str, entry: Any) -> Slot:
        return cast(Slot, check_object(name, entry, "Slot"))

    return tuple(check_items(f"{argument}[{i}]", stage, slot) for i, stage in enumerate(check_items(argument, value)))


@checked(actions=_check_actions)
def time_slots(actions: Actions) -> tuple[tuple[Slot, ...], ...]:
    """Put the actions on a clock: each starts when its stage is free and what it needs is there; sends take no time.

    A backward pass of a chunk takes two slots, all else one. Raises `LLMHWError` if the order can never run.
    """
    ends: dict[str, int] = {}
    last = max((int(a[1:].split(".")[0]) for order in actions for a in order), default=0)
    made: list[list[Slot]] = [[] for _ in actions]
    left = sum(len(order) for order in actions)
    while left:
        waiting = left
        for order, slots in zip(actions, made, strict=True):
            while len(slots) < len(order):
                action = order[len(slots)]
                before = needed(action, last)
                ready = ends.get(before) if before else 0
                if ready is None:
                    break
                start = max(ready, slots[-1].end if slots else 0)
                slots.append(Slot(action, start, start + (2 if action[0] == "B" else 1)))
                ends[action] = slots[-1].end
                left -= 1
        if left == waiting:
            stuck = next(
                order[len(slots)] for order, slots in zip(actions, made, strict=True) if len(slots) < len(order)
            )
            raise LLMHWError(f"actions: {stuck} waits for something that never comes")
    return tuple(tuple(slots) for slots in made)


def needed(action: str, last: int) -> str:
    """The action that another one waits for, beside those before it on its own stage; "" where there is none.

    last   number of the last chunk of all stages

    >>> needed("F0.1", last=3), needed("F2.1", last=3), needed("B3.1", last=3), needed("B2.1", last=3)
    ('', 'F1.1', 'F3.1', 'B3.1')
    """
    kind, (chunk, number) = action[0], action[1:].split(".")
    here = int(chunk)
    if kind == "F":
        return "" if here == 0 else f"F{here - 1}.{number}"
    if kind == "W":
        return f"I{chunk}.{number}"
    return f"F{chunk}.{number}" if here == last else f"{kind}{here + 1}.{number}"


@checked(slots=_check_slots)
def idle_slots(slots: tuple[tuple[Slot, ...], ...]) -> tuple[int, ...]:
    """Slots in which each stage waits, from the start of the step until the last stage is done.

    >>> idle_slots(time_slots(pipeline_actions("1f1b", 4, micro_batches=8)))
    (9, 9, 9, 9)
    """
    end = max((slot.end for stage in slots for slot in stage), default=0)
    return tuple(end - sum(slot.end - slot.start for slot in stage) for stage in slots)


@checked(actions=_check_actions)
def micro_batches_in_flight(actions: Actions) -> tuple[int, ...]:
    """Most forward passes of a chunk whose backward pass is still to come, on each stage.

    Halved backward passes free the activations with the second half, the weights' gradient.

    >>> micro_batches_in_flight(pipeline_actions("1f1b", 4, micro_batches=8))
    (4, 3, 2, 1)
    """
    peaks = []
    for order in actions:
        held = peak = 0
        for action in order:
            held += {"F": 1, "B": -1, "I": 0, "W": -1}[action[0]]
            peak = max(peak, held)
        peaks.append(peak)
    return tuple(peaks)
