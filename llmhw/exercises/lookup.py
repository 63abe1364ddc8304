"""Finding an exercise; a chapter's are loaded when one of them is first asked for."""

from __future__ import annotations

from functools import cache
from typing import Any

from llmhw.exercises.base import ID, Exercise, Variant, Verdict
from llmhw.units import LLMHWError, nearest, shown, unknown_name

# Wrong answers so far in this process, by exercise: each further one gets the next hint.
_WRONG: dict[str, int] = {}


@cache
def chapters() -> tuple[str, ...]:
    """The chapters that have exercises here, in the book's order: "1", ..., "7", "7b", ...

    >>> "6" in chapters()
    True
    """
    from pkgutil import iter_modules
    from re import fullmatch

    import llmhw.exercises

    found = (fullmatch("c([0-9]{2})([a-z]?)", module.name) for module in iter_modules(llmhw.exercises.__path__))
    return tuple(f"{int(m[1])}{m[2]}" for m in sorted(filter(None, found), key=lambda m: m[0]))


@cache
def _of(chapter: str) -> tuple[Exercise, ...]:
    from importlib import import_module

    number = chapter.rstrip("abcdefghijklmnopqrstuvwxyz")
    module = import_module(f"llmhw.exercises.c{int(number):02d}{chapter[len(number) :]}")
    return tuple(module.EXERCISES)


def all_of(chapter: str | int | None = None) -> tuple[Exercise, ...]:
    """The exercises of a chapter, such as "6" or "7b"; of None, of the whole book.

    >>> all_of(6)[0].id
    '6.1'
    """
    if chapter is None:
        return tuple(entry for name in chapters() for entry in _of(name))
    name = str(chapter).lstrip("0") or "0"
    if name not in chapters():
        raise LLMHWError(f"chapter={shown(chapter)} has no exercises; use one of {', '.join(chapters())}")
    return _of(name)


def exercise(id: str) -> Exercise:
    """The exercise of that id; of an unknown one, `LLMHWError` with those that are near.

    >>> exercise("6.1").kind
    'compute'
    """
    found = ID.fullmatch(id.strip()) if isinstance(id, str) else None
    chapter = f"{int(found['number'])}{found['part']}" if found else ""
    near = _of(chapter) if chapter in chapters() else ()
    for entry in near:
        if entry.id == id.strip():
            return entry
    if near:
        raise LLMHWError(f"id={shown(id)} is not in chapter {chapter}; use {near[0].id} to {near[-1].id}")
    known = [entry.id for entry in all_of()]
    if isinstance(id, str) and nearest(id, known):
        raise unknown_name("id", id, known)
    raise LLMHWError(f"id={shown(id)} is not an exercise; it is a chapter and a number as text, such as {known[0]!r}")


def check(id: str, answer: Any = None, *, seed: int | str | None = None) -> Verdict:
    """Say whether an answer is right, which slip it looks like, or how far it is off; never what is right.

    id       of the exercise, as the book prints it
    answer   in the unit that is asked; None: say what is wanted
    seed     the exercise has the numbers of `variant(id, seed)`

    >>> check("6.1")
    6.1 (★ compute): give one whole number, in micro-batches.
    """
    entry = exercise(id)
    key = f"{entry.id} {seed}"
    verdict = entry.judge(answer, seed=seed, wrong=_WRONG.get(key, 0))
    if verdict.right is False:
        _WRONG[key] = _WRONG.get(key, 0) + 1
    return verdict


def variant(id: str, seed: int | str) -> Variant:
    """An exercise with the numbers of a seed, such as a student's number or name; it prints as its text.

    >>> variant("6.1", 7).given == variant("6.1", 7).given
    True
    """
    return exercise(id).variant(seed)
