"""The capstone's checks: what a purchase that is defended with numbers must not lack.

A case is a dict. Its numbers are checked against each other and against its memo; whether they are true is the reader's
to show, and the rubric of the course says how it is judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

from llmhw.units import shown

ORIGINS = ("measured", "told", "assumed")
MOST_WORDS = 400  # of the memo: a page

# Keys of a case, and what each holds.
KEYS = {
    "question": "one sentence that ends with a question mark",
    "inputs": "name -> (number, where it is from: 'measured ...', 'told by ...' or 'assumed ...')",
    "memory": "(bytes that are needed on a device, bytes that it has)",
    "speed": "limit -> (the worse end of the interval, the most that is allowed)",
    "options": "name -> dollars, or (dollars, least, most); at least three, one of them to rent or not to buy",
    "budget": "dollars over all months",
    "chosen": "a name of the options",
    "utilization": "share of its highest rate that the busiest hour takes, below 1",
    "turns": "input -> the value at which another option would be chosen; at least three",
    "risks": "what could be wrong -> a test that can be made before the money is spent; at least three",
    "memo": f"the page, at most {MOST_WORDS} words; its first sentence is the recommendation",
}


class Criterion(NamedTuple):
    """A line of the rubric: what is judged, its points, what half of them and what all of them take."""

    name: str
    points: int
    half: str
    whole: str


RUBRIC = (
    Criterion(
        "the question", 10, "some numbers are missing, or assumed without a word",
        "each number has its origin: measured, told by somebody, or an assumption that is named",
    ),
    Criterion(
        "memory", 15, "weights and cache are right, in one unit",
        "part by part, GB and GiB kept apart, checked against one measurement",
    ),
    Criterion(
        "speed", 15, "one number each, from the library", "with the limit that binds, why it does, and the interval"
    ),
    Criterion(
        "options", 10, "three cards are compared", "also another size, format or renting; what was not tried is said"
    ),
    Criterion(
        "cost", 15, "purchase or rent", "power, people, idle hours, the break-even; prices with source and date"
    ),
    Criterion(
        "sensitivity", 15, "one input is varied", "the three that matter most, each with the value at which it turns"
    ),
    Criterion(
        "memo", 10, "recommendation and numbers are there",
        "its first sentence is the recommendation; somebody without this course can act on it",
    ),
    Criterion("what could be wrong", 5, "limits are listed", "the largest has a test before the money is spent"),
    Criterion("it runs", 5, "with help", "alone, on another machine, and check_case finds nothing"),
)  # fmt: skip


@dataclass(frozen=True)
class Review:
    """What a case lacks; it prints as a list, and is true if nothing is lacking."""

    lacking: tuple[str, ...]
    checks: int

    def __bool__(self) -> bool:
        return not self.lacking

    def __repr__(self) -> str:
        if not self.lacking:
            return f"nothing found in {self.checks} checks; now let somebody attack it"
        head = f"{len(self.lacking)} of {self.checks} checks found something:"
        return "\n".join([head, *(f"- {line}" for line in self.lacking)])

    def _repr_html_(self) -> str:
        head, *lines = repr(self).splitlines()
        listed = "".join(f"<li>{escape(line[2:])}</li>" for line in lines)
        return f"<p>{escape(head)}</p>" + (f"<ul>{listed}</ul>" if listed else "")


def check_case(case: Mapping[str, Any]) -> Review:
    """Look for what a case lacks; a missing or strange entry is told, never raised.

    case   keys and what they hold: `KEYS`

    >>> check_case({"question": "Which machine?", "memo": "Buy."})
    9 of 11 checks found something:
    - inputs is missing: name -> (number, where it is from: 'measured ...', 'told by ...' or 'assumed ...')
    - memory is missing: (bytes that are needed on a device, bytes that it has)
    - speed is missing: limit -> (the worse end of the interval, the most that is allowed)
    - options is missing: name -> dollars, or (dollars, least, most); at least three, one of them to rent or not to buy
    - budget is missing: dollars over all months
    - chosen is missing: a name of the options
    - utilization is missing: share of its highest rate that the busiest hour takes, below 1
    - turns is missing: input -> the value at which another option would be chosen; at least three
    - risks is missing: what could be wrong -> a test that can be made before the money is spent; at least three
    """
    if not isinstance(case, Mapping):
        raise TypeError("a case is a dict")
    found = []
    for name, holds in KEYS.items():
        if case.get(name) in (None, "", {}, ()):
            found.append(f"{name} is missing: {holds}")
            continue
        try:
            found += list(_CHECKS[name](case[name], case))
        except (TypeError, ValueError, KeyError, AttributeError):
            found.append(f"{name}={shown(case[name], most=60)} is not {holds}")
    return Review(tuple(found), len(KEYS))


def _question(text: Any, _: Mapping[str, Any]) -> Iterator[str]:
    if not text.strip().endswith("?"):
        yield "question: it ends without a question mark"


def _inputs(inputs: Any, _: Mapping[str, Any]) -> Iterator[str]:
    for name, (value, origin) in inputs.items():
        float(value)
        if not origin.lower().startswith(ORIGINS):
            yield f"inputs: {name} has no origin; begin it with {', '.join(ORIGINS)}"


def _memory(pair: Any, _: Mapping[str, Any]) -> Iterator[str]:
    needed, held = map(float, pair)
    if needed > held:
        yield f"memory: {needed / 2**30:.1f} GiB do not fit in {held / 2**30:.1f} GiB"


def _speed(limits: Any, _: Mapping[str, Any]) -> Iterator[str]:
    for name, (worse, most) in limits.items():
        if float(worse) > float(most):
            yield f"speed: {name} is not kept at the worse end of the interval"


def _options(options: Any, _: Mapping[str, Any]) -> Iterator[str]:
    if len([_dollars(told) for told in options.values()]) < 3:
        yield "options: fewer than three"
    if not any(re.search(r"\brent|\bnot\b", name.lower()) for name in options):
        yield "options: none is to rent, and none is not to buy"


def _dollars(told: Any) -> float:
    """What an option costs, told with or without its range."""
    return float(told[0] if isinstance(told, (tuple, list)) else told)


def _budget(budget: Any, case: Mapping[str, Any]) -> Iterator[str]:
    cost = dict(case.get("options") or {}).get(case.get("chosen"))
    if cost is not None and _dollars(cost) > float(budget):
        yield "budget: the chosen option costs more"


def _chosen(name: Any, case: Mapping[str, Any]) -> Iterator[str]:
    options = dict(case.get("options") or {})
    if options and name not in options:
        yield f"chosen: {shown(name)} is not among the options"


def _utilization(share: Any, _: Mapping[str, Any]) -> Iterator[str]:
    if not 0 < float(share) < 0.9:
        yield "utilization: above 90 % of the highest rate, queues have no end"


def _turns(turns: Any, case: Mapping[str, Any]) -> Iterator[str]:
    if len([float(value) for value in turns.values()]) < 3:
        yield "turns: fewer than three"


def _risks(risks: Any, _: Mapping[str, Any]) -> Iterator[str]:
    if len(risks) < 3:
        yield "risks: fewer than three"
    for name, test in risks.items():
        if len(test.split()) < 3:
            yield f"risks: {shown(name)} has no test"


def _memo(memo: Any, case: Mapping[str, Any]) -> Iterator[str]:
    words = len(memo.split())
    if words > MOST_WORDS:
        yield f"memo: {words:,} words are more than a page of {MOST_WORDS}"
    chosen = case.get("chosen")
    if chosen and not _named(str(chosen), re.split(r"[.!?](?:\s|$)", memo.strip(), maxsplit=1)[0]):
        yield "memo: its first sentence does not name what is chosen"
    known = list(_numbers(case))
    for text in re.findall(r"(?<![\w.])[0-9][0-9,]*(?:\.[0-9]+)?(?![\w])", memo):
        value = float(text.replace(",", ""))
        if value >= 10 and not any(_rounds(value, text, number) for number in known):
            yield f"memo: {text} is none of the case's numbers"


def _named(name: str, sentence: str) -> bool:
    """Whether each word of an option that has a digit or a capital letter is in the sentence."""
    words = [word for word in name.split() if re.search(r"[0-9A-Z]", word)] or name.split()
    return all(word.lower() in sentence.lower() for word in words)


def _numbers(value: Any) -> Iterator[float]:
    """All numbers of a case, also in thousands, in percent, as GiB, and those inside its texts."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if key != "memo":
                yield from _numbers(key)
                yield from _numbers(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _numbers(entry)
    elif isinstance(value, str):
        yield from (float(n.replace(",", "")) for n in re.findall(r"[0-9][0-9,]*(?:\.[0-9]+)?", value))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from (value, value / 1e3, value * 1e3, value / 1e6, value * 100, value / 2**30)


def _rounds(told: float, text: str, number: float) -> bool:
    """Whether a number, written with as many figures, is what is told."""
    decimals = len(text.partition(".")[2])
    figures = len(text.replace(",", "").replace(".", "").rstrip("0")) or 1
    return abs(told - number) <= 0.5 * 10**-decimals + 1e-9 or (
        number != 0 and abs(float(f"{number:.{max(figures, 2)}g}") / told - 1) < 1e-9
    )


_CHECKS: dict[str, Callable[[Any, Mapping[str, Any]], Iterator[str]]] = {
    "question": _question,
    "inputs": _inputs,
    "memory": _memory,
    "speed": _speed,
    "options": _options,
    "budget": _budget,
    "chosen": _chosen,
    "utilization": _utilization,
    "turns": _turns,
    "risks": _risks,
    "memo": _memo,
}
