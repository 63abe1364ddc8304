"""Problem sets and exams with the numbers of a seed, and their keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmhw.exercises import Exercise
from llmhw.exercises.judging import slips

POINTS = 5  # for each ★


def paper(title: str, problems: Sequence[Exercise], seed: int | str) -> str:
    """What the class gets."""
    lines = [f"# {title}", "", f"Numbers: {seed}. {POINTS * sum(p.level for p in problems)} points."]
    lines += ["Give each result with its unit and the way to it; a right number without a way is worth half.", ""]
    for number, problem in enumerate(problems, 1):
        set_so = problem.variant(seed)
        unit = f" (in {problem.unit})" if problem.unit else ""
        points = POINTS * problem.level
        lines += [f"**{number}.** {'★' * problem.level} *{problem.kind}*, {points} points. {set_so.text}{unit}", ""]
    return "\n".join(lines)


def told(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def key(title: str, problems: Sequence[Exercise], seed: int | str) -> str:
    """Answers of the same seed, and what the likely mistakes give."""
    lines = [
        f"# Key to: {title}",
        "",
        f"Numbers: {seed}. For the instructor alone. A mistake named here: half the points.",
        "",
    ]
    for number, problem in enumerate(problems, 1):
        given = problem.values(seed)
        right = problem.answer(**given)
        near = f"within {problem.tolerance:.0%}" if problem.tolerance else "exactly"
        lines += [f"**{number}.** {f'{told(right)} {problem.unit}'.rstrip()} ({near})", ""]
        own = ((name, wrong) for name, wrong in slips(problem, right, given) if name in problem.slips)
        lines += [f"- {told(wrong)}: {name}" for name, wrong in own]
        lines += [""]
    return "\n".join(lines)
