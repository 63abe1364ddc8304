"""Exercises of chapter 6, many devices."""

from math import ceil

from llmhw.exercises.base import Exercise
from llmhw.schedule import bubble_seconds


def _micro_batches(stages: int, share: float, chunks: int = 1) -> int:
    """The fewest micro-batches whose bubble is at most that share of the step."""
    # A micro-batch takes 1 + 2 on each stage, and all stages are alike.
    bubble: float = bubble_seconds(forward=stages - 1, backward=2 * (stages - 1), chunks=chunks)
    return ceil(bubble / 3 * (1 - share) / share - 1e-9)


EXERCISES = (
    Exercise(
        "6.1",
        "compute",
        1,
        "You have {stages} pipeline stages and want the bubble to take at most {share:.0%} of the step. How many "
        "micro-batches do you need with 1F1B?",
        unit="micro-batches",
        given={"stages": (8, 4, 6, 12, 16), "share": (0.05, 0.1, 0.2)},
        answer=_micro_batches,
        slips={
            "a share of the useful time, where one of the step is asked": lambda stages, share: ceil(
                (stages - 1) / share - 1e-9
            ),
            "p slots of bubble; the first micro-batch is not idle on its own stage": lambda stages, share: (
                _micro_batches(stages + 1, share)
            ),
        },
        hints=(
            "Draw 3 stages and 4 micro-batches: how many slots does the last stage wait?",
            "The step is m + p - 1 slots long, and p - 1 of them are the bubble.",
        ),
        tolerance=0,
    ),
)
