"""What a calculator is made of: controls, and a function from their settings to an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from llmhw.formula import Table
from llmhw.language import said
from llmhw.units import LLMHWError, check_choice, check_number, shown

Settings = Mapping[str, Any]
# How much a calculator that searches may try before it answers; a page asks again as long as there is `more`.
PATIENCE: ContextVar[float] = ContextVar("patience", default=float("inf"))


@dataclass(frozen=True)
class Control:
    """One thing that the reader sets.

    name      its key in settings and in links, a word
    kind      "model" and "device": a name of the catalog, found by search; "choice", one of `choices`;
              "number", a slider from `least` to `most` and a field; "switch", yes or no
    default   what it is at first
    label     what the page calls it, in English; the page shows it in the reader's language
    choices   value and label of each
    logarithmic   the slider's steps are ratios: for lengths, users, batch
    whole     only whole numbers
    unit      behind the number
    help      one sentence for who does not know the word
    when      shown only where another control has one of these values: {"task": ("train", "lora")}
    more      among the further settings, which are folded away at first
    """

    name: str
    kind: str
    default: Any
    label: str
    choices: Sequence[tuple[str, str]] = ()
    least: float = 0
    most: float = 1
    step: float = 1
    logarithmic: bool = False
    whole: bool = True
    unit: str = ""
    help: str = ""
    when: Mapping[str, Sequence[str]] = field(default_factory=dict)
    more: bool = False

    def read(self, value: Any) -> Any:
        """The setting as the calculator gets it, from what a form or a link says; `LLMHWError` if it cannot be."""
        if self.kind == "number":
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise LLMHWError(f"{self.name}={shown(value)} must be a number") from None
            check_number(self.name, number, self.least, most=self.most)
            if self.whole and number != int(number):
                raise LLMHWError(f"{self.name}={shown(value)} must be a whole number")
            return int(number) if self.whole else number
        if self.kind == "switch":
            if value not in (True, False, "true", "false"):
                raise LLMHWError(f"{self.name}={shown(value)} must be true or false")
            return value in (True, "true")
        if self.kind == "choice":
            return check_choice(self.name, value, [key for key, _ in self.choices])
        if not isinstance(value, str) or not value.strip():
            raise LLMHWError(f"{self.name}={shown(value)} must be a name; type a few letters and choose one")
        return value.strip()


@dataclass(frozen=True)
class Figure:
    """A number of the answer.

    label     what it is, in the reader's language
    text      the number as it is read, with its unit
    value     the number itself, in base units, `rounded`
    explain   gives the formula with the numbers put in, as `Estimate.explain` does; asked for only when the reader asks
    """

    label: str
    text: str
    value: float
    explain: Callable[[], str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", rounded(self.value))


def rounded(value: float) -> float:
    """A number as every Python has it, to twelve figures: further ones differ with the version and the machine.

    Since 3.12 `sum` makes up for what floats lose; `exp`, `log` and powers are those of the machine.

    >>> rounded(0.1 + 0.2), rounded(70553706496)
    (0.3, 70553706496)
    """
    return value if isinstance(value, int) else float(f"{value:.12g}")


@dataclass(frozen=True)
class Picture:
    """A drawing: SVG of `llmhw.live.picture`, its caption, and what it shows in words for who does not see it."""

    svg: str
    caption: str
    words: str


@dataclass(frozen=True)
class Answer:
    """What a calculator says.

    verdict   the answer in one sentence
    good      whether that is good news; None where it is neither
    figures   the main numbers, each can be explained
    python    lines that give the same numbers in Python; the last is the figures' values, in their order
    command   the line of the command that does, or ""; with --json, the values are among its numbers
    notes     what was assumed, what to try
    more      whether there is more to say: the same question, asked again, is answered further
    """

    verdict: str
    figures: Sequence[Figure]
    python: str
    command: str = ""
    good: bool | None = None
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    more: bool = False


@dataclass(frozen=True)
class Calculator:
    """A form and what answers it.

    name      its key in links
    title     the question it answers, in English
    function  settings, read and complete, to an answer
    """

    name: str
    title: str
    controls: Sequence[Control]
    function: Callable[[Settings], Answer]

    def settings(self, given: Settings) -> dict[str, Any]:
        """Complete settings: what is given, read; the rest as it is at first. `LLMHWError` names what cannot be.

        `config`, the text of the reader's own config.json, goes with any control of a model, in its place.
        """
        known = {control.name: control for control in self.controls}
        for name in given:
            if name not in known and name != "config":
                raise LLMHWError(f"{shown(name)} is no setting of {said(self.title)}; it has {', '.join(known)}")
        read = {name: one.read(given.get(name, one.default)) for name, one in known.items()}
        return {**read, "config": given["config"]} if given.get("config") is not None else read

    def answer(self, given: Settings) -> Answer:
        """The answer to settings that need not be complete."""
        return self.function(self.settings(given))
