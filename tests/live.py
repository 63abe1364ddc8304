"""What the tests of the calculators share: random settings from their controls, and all that an answer says as JSON."""

from __future__ import annotations

import math
import random
from typing import Any

import llmhw
from llmhw.live import Answer, Calculator, Control


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
