"""What an exercise is.

The exercises of chapter 6 are `EXERCISES` in `llmhw/exercises/c06.py`, those of chapter 7b in `c07b.py`: a tuple of
`Exercise`. The notebook prints id, level and kind in the same words, and a test holds both together. An entry, whole:

>>> import llmhw
>>> EXERCISES = (
...     Exercise(
...         "99.1", "compute", 2,
...         "What does the KV cache of {model} take for {batch} sequences of {seq_len:,} tokens in BF16?",
...         unit="GiB",
...         given={"model": ("llama-3-8b", "llama-3-70b"), "batch": (16, 8, 64), "seq_len": (8192, 4096, 32768)},
...         answer=lambda model, batch, seq_len:
...             llmhw.kv_cache(llmhw.model(model), seq_len=seq_len, batch=batch).total / 2**30,
...         slips={
...             "K without V": 1 / 2,
...             "one sequence, not the batch": lambda model, batch, seq_len:
...                 llmhw.kv_cache(llmhw.model(model), seq_len=seq_len).total / 2**30,
...         },
...         hints=("K and V, for each layer, each KV head, each dimension of a head, each token.",),
...     ),
... )
>>> EXERCISES[0].judge()
99.1 (★★ compute): give one number, in GiB.
>>> EXERCISES[0].judge(16)
99.1: right.
>>> EXERCISES[0].judge(8)
99.1: off by a factor of 2. Likely slip: K without V.
Hint: K and V, for each layer, each KV head, each dimension of a head, each token.
>>> EXERCISES[0].judge(16 * 2**30 / 1e9)
99.1: off by 7 %. Likely slip: GB in place of GiB: 0.931 GiB each.
Hint: K and V, for each layer, each KV head, each dimension of a head, each token.
>>> EXERCISES[0].judge("16 GiB")
99.1: '16 GiB' is a text; give one number, in GiB.

What has many right answers is judged by `accept`, which returns "" or what is wrong; `answer` is then one of them:

>>> def on_eight(layout: llmhw.Parallelism) -> str:
...     return "" if layout.devices == 8 else f"it takes {layout.devices} cards"
>>> design = Exercise("99.2", "design", 3, "Lay it out on 8 cards.", form="a llmhw.Parallelism", accept=on_eight,
...                   answer=lambda: llmhw.Parallelism(tp=8))
>>> design.judge(llmhw.Parallelism(dp=8)), design.judge(llmhw.Parallelism(dp=4)), design.judge("tp=8")
(99.2: right., 99.2: not yet: it takes 4 cards., 99.2: 'tp=8' cannot be judged; give a llmhw.Parallelism.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import prod
from random import Random
from string import Formatter
from typing import Any
from zlib import crc32

from llmhw.exercises.judging import FormError, judged, wanted
from llmhw.frozen import FrozenDict
from llmhw.units import LLMHWError, check_choice, check_count, shown

KINDS = ("compute", "by hand", "find the mistake", "derive", "design", "measure")
ID = re.compile(r"(?P<number>[0-9]{1,2})(?P<part>[a-z]?)\.[0-9]{1,2}")

_MOST = 4096  # combinations of what is given that seeds choose from


@dataclass(frozen=True)
class Verdict:
    """What is said of an answer. It prints as one line or two, and is true if the answer is right.

    id      of the exercise
    right   whether the answer is right; None if there is none, or none of the form that is wanted
    said    the judgement, one line
    hint    what to think of next, or ""
    """

    id: str
    right: bool | None
    said: str
    hint: str = ""

    def __bool__(self) -> bool:
        return bool(self.right)

    def __repr__(self) -> str:
        return f"{self.id}{self.said}" + (f"\nHint: {self.hint}" if self.hint else "")


@dataclass(frozen=True)
class Variant:
    """An exercise with its numbers put in; it prints as the text that is asked.

    given   name -> value
    """

    id: str
    kind: str
    level: int
    text: str
    given: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"{self.id} {'★' * self.level} {self.kind}. {self.text}"


@dataclass(frozen=True, repr=False)
class Exercise:
    """One exercise of the book: see the module for a whole one.

    id          "6.3", "7b.2": as the notebook prints it; a paper for a class has a name of its own, "exam.3"
    kind        one of `KINDS`
    level       1 to 3: ★ to ★★★
    ask         what is asked; {name}, {name:,} and {name.field} stand for what is given
    answer      callable over what is given: a number, True or False, a text, or a list or dict of these
    unit        of the number
    given       name -> the values it may have, the book's first; seeds choose among all combinations
    slips       a likely mistake -> what it gives: a factor, a callable over what is given, or a wrong choice as text.
                Common ones by unit need no entry: see `llmhw.exercises.judging`
    hints       told one after another, one a wrong answer; they do not hold the answer
    tolerance   relative, of numbers; 0 for a whole number that must be exact
    choices     the texts that an answer may be, where it is one of a few
    devices     number of devices, or a callable over what is given: "of one and not of all" is then a slip
    accept      callable over the answer and what is given: "" or what is wrong with it. Then `answer` gives one that
                is accepted; an answer for which it raises is told so
    form        what is wanted, in words: needed with `accept`, else made from the answer
    """

    id: str
    kind: str
    level: int
    ask: str
    answer: Callable[..., Any]
    unit: str = ""
    given: Mapping[str, tuple[Any, ...]] = field(default_factory=FrozenDict)
    slips: Mapping[str, Callable[..., Any] | float | str] = field(default_factory=FrozenDict)
    hints: tuple[str, ...] = ()
    tolerance: float = 0.02
    choices: tuple[str, ...] = ()
    devices: int | Callable[..., float] = 0
    accept: Callable[..., str] | None = None
    form: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-z]+\.[0-9]{1,2}", self.id):
            raise LLMHWError(f"id={shown(self.id)} must be a chapter and a number, such as '6.3' or '7b.2'")
        check_choice("kind", self.kind, KINDS)
        check_count("level", self.level, most=3)
        names = {re.split(r"[.\[]", name)[0] for _, name, _, _ in Formatter().parse(self.ask) if name is not None}
        if names - set(self.given):
            raise LLMHWError(f"{self.id}: the text asks for {sorted(names - set(self.given))}, which given lacks")
        if self.accept and not self.form:
            raise LLMHWError(f"{self.id}: an exercise with accept needs form, the words for what is wanted")

    @property
    def chapter(self) -> str:
        return self.id.partition(".")[0]

    def values(self, seed: int | str | None = None) -> dict[str, Any]:
        """What is given: the book's values, or those of a seed. Neighboring whole seeds differ while there are others.

        >>> e = Exercise("1.1", "compute", 1, "{a}", answer=lambda a: a, given={"a": (1, 2, 3)})
        >>> e.values(), sorted(e.values(seed)["a"] for seed in (0, 1))
        ({'a': 1}, [2, 3])
        """
        if seed is None or not self.given:
            return {name: options[0] for name, options in self.given.items()}
        if isinstance(seed, str):
            seed = crc32(seed.encode())
        seed = check_count("seed", seed, least=0)
        if prod(map(len, self.given.values())) > _MOST:
            dice = Random(f"{self.id} {seed}")
            return {name: dice.choice(options) for name, options in self.given.items()}
        _, *others = product(*self.given.values())
        Random(self.id).shuffle(others)
        return dict(zip(self.given, others[seed % len(others)], strict=True)) if others else self.values()

    def variant(self, seed: int | str | None = None) -> Variant:
        """The exercise with the numbers of a seed."""
        given = self.values(seed)
        return Variant(self.id, self.kind, self.level, self.ask.format(**given), given)

    def judge(self, answer: Any = None, *, seed: int | str | None = None, wrong: int = 0) -> Verdict:
        """What is to be said of an answer; of None, what is wanted.

        wrong   wrong answers before this one: which hint is told
        """
        given = self.values(seed)
        if answer is None or answer is ...:
            return Verdict(self.id, None, f" ({'★' * self.level} {self.kind}): give {wanted(self, given)}.")
        try:
            said = judged(self, answer, given)
        except FormError as error:
            return Verdict(self.id, None, f": {error}.")
        if not said:
            return Verdict(self.id, True, ": right.")
        hint = self.hints[min(wrong, len(self.hints) - 1)] if self.hints else ""
        return Verdict(self.id, False, f": {said}.", hint)

    def __repr__(self) -> str:
        return repr(self.variant())
