"""What the tests of the calculators share: random settings, all that an answer says as JSON, and what a reader copies.

Only the library is imported: a page loads this module, too, and is compared with this Python.
"""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Iterator
from typing import Any

import llmhw
from llmhw.live import CALCULATORS, Answer, Calculator, Control
from llmhw.live.base import rounded
from llmhw.units import LLMHWError


def _number(control: Control, rng: random.Random) -> float:
    """A number of a slider: one in six is an end of it; ratios are as likely as each other where its steps are."""
    if rng.random() < 1 / 6:
        return rng.choice([control.least, control.most])
    if control.logarithmic and control.least > 0:
        value = math.exp(rng.uniform(math.log(control.least), math.log(control.most)))
    else:
        value = rng.uniform(control.least, control.most)
    if control.whole:
        return min(max(round(value), math.ceil(control.least)), math.floor(control.most))
    return min(max(float(f"{value:.3g}"), control.least), control.most)


def _value(control: Control, rng: random.Random) -> Any:
    if control.kind == "number":
        return _number(control, rng)
    if control.kind == "switch":
        return rng.random() < 0.5
    if control.kind == "choice":
        return rng.choice([key for key, _ in control.choices])
    return rng.choice(llmhw.models() if control.kind == "model" else [device.name for device in llmhw.accelerators()])


def random_settings(calculator: Calculator, seed: int) -> dict[str, Any]:
    """Settings that the page can ask for: about half of the controls are moved, the others are as they are at first."""
    rng = random.Random(f"{calculator.name} {seed}")
    return {control.name: _value(control, rng) for control in calculator.controls if rng.random() < 0.5}


def numbers(answer: Answer) -> dict[str, Any]:
    """All that an answer says, as JSON has it: two Pythons agree if and only if these are equal."""
    return {
        "verdict": answer.verdict,
        "good": answer.good,
        "figures": [[figure.label, figure.text, repr(figure.value)] for figure in answer.figures],
        "tables": [[t.title, list(t.columns), [list(row) for row in t.rows]] for t in answer.tables],
        "pictures": [[picture.svg, picture.caption, picture.words] for picture in answer.pictures],
        "notes": list(answer.notes),
        "python": answer.python,
        "command": answer.command,
    }


def answers(name: str, most: int, tries: int = 60) -> Iterator[tuple[dict[str, Any], Answer]]:
    """Answers to random settings; those that the library refuses are left out."""
    found = 0
    for seed in range(tries):
        settings = random_settings(CALCULATORS[name], seed)
        try:
            made = CALCULATORS[name].answer(settings)
        except LLMHWError:
            continue
        if made.figures:
            yield settings, made
            found += 1
        if found == most:
            return
    assert found >= 5, "too few settings have an answer"


def run_python(text: str) -> list[float]:
    """What the last line gives, as a list."""
    tree, space = ast.parse(text), dict[str, Any]()
    last = tree.body.pop()
    assert isinstance(last, ast.Expr)
    exec(compile(tree, "copied", "exec"), space)
    found = eval(compile(ast.Expression(last.value), "copied", "eval"), space)
    return [rounded(float(value)) for value in (found if isinstance(found, tuple) else (found,))]


def leaves(value: Any) -> Iterator[float]:
    if isinstance(value, (dict, list)):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from leaves(inside)
    elif isinstance(value, (int, float)):
        yield rounded(float(value))
