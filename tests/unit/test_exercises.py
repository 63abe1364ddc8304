"""Every exercise of the book: printed as it is checked, its answer right, its slips told apart, nothing given away.

In all about 10 s, most of it the library computing what is asked.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

import llmhw
from llmhw.exercises import KINDS, Exercise, all_of, chapters, check, exercise, variant
from llmhw.exercises.judging import common_slips, slips

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
HEAD = re.compile(r"^\*\*([0-9]+[a-z]?\.[0-9]+)\*\* (★{1,3}) \*([a-z ]+)\.\*", re.MULTILINE)
CHECKED = re.compile(r"exercises\.check\(\"([^\"]+)\"")

# A chapter's exercises share a worker: what costs seconds is computed once in a process.
every = pytest.mark.parametrize(
    "entry",
    [pytest.param(e, marks=pytest.mark.xdist_group(f"exercises-{e.id.split('.')[0]}"), id=e.id) for e in all_of()],
)


def chapter_of(path: Path) -> str:
    return re.sub("^0(?=.)", "", path.stem.partition("_")[0])


def printed(path: Path) -> list[tuple[str, int, str]]:
    """Id, level and kind of the exercises of a notebook."""
    prose = (cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    return [(id, len(stars), kind) for source in prose for id, stars, kind in HEAD.findall(source)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_its_exercises_as_they_are_checked(path: Path) -> None:
    told = printed(path)
    assert told == [(e.id, e.level, e.kind) for e in all_of(chapter_of(path))]
    code = (cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    assert [id for source in code for id in CHECKED.findall(source)] == [id for id, _, _ in told]


def test_every_chapter_of_exercises_has_its_notebook() -> None:
    assert set(chapters()) <= {chapter_of(path) for path in NOTEBOOKS}
    assert len({entry.id for entry in all_of()}) == len(all_of())


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for entry in value.values() for n in numbers(entry)]
    if isinstance(value, (list, tuple)):
        return [n for entry in value for n in numbers(entry)]
    return [float(value)] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


@every
def test_the_answer_is_right(entry: Exercise) -> None:
    verdict = entry.judge(entry.answer(**entry.values()))
    assert verdict, verdict
    assert all(map(math.isfinite, numbers(entry.answer(**entry.values()))))


@every
def test_what_is_wanted_is_said(entry: Exercise) -> None:
    verdict = entry.judge()
    assert verdict.right is None
    assert ": give " in repr(verdict)


@every
def test_each_slip_is_told_by_its_name(entry: Exercise) -> None:
    given = entry.values()
    right = entry.answer(**given)
    own = [(name, wrong) for name, wrong in slips(entry, right, given) if name in entry.slips]
    assert len(own) == len(entry.slips)
    for name, wrong in own:
        verdict = entry.judge(wrong)
        assert verdict.right is False, f"{name}: within the tolerance of the answer"
        assert f"Likely slip: {name}." in repr(verdict), verdict


def given_away(entry: Exercise, text: str) -> bool:
    """Whether a text holds the answer: one of its numbers of two figures or more, or the right choice alone."""
    right = entry.answer(**entry.values())
    if isinstance(right, str):
        others = [choice for choice in entry.choices if choice != right and choice in text]
        return right in text and not others
    told = [float(n.replace(",", "")) for n in re.findall(r"[0-9][0-9,]*\.?[0-9]*", text)]
    large = [n for n in numbers(right) if not (n.is_integer() and abs(n) < 10)]
    return any(math.isclose(n, abs(answer), rel_tol=0.004) for n in told for answer in large)


@every
def test_no_message_gives_the_answer(entry: Exercise) -> None:
    right = entry.answer(**entry.values())
    if entry.accept:
        return
    tried: list[Any] = [None, "x", float("nan"), True, [], {}, object(), 0, -1, 1e99]
    if numbers(right):
        tried += [0.3 * numbers(right)[0], 1e5 * numbers(right)[0]]
        tried += [numbers(right)[0] * factor for _, factor in common_slips(entry.unit)]
    texts = [repr(verdict) for value in tried if not (verdict := entry.judge(value))]
    for text in [*texts, *entry.hints, *entry.slips]:
        bare = re.sub(r" at 0x[0-9a-f]+", "", text)  # an address may hold any digits
        assert not given_away(entry, bare.replace(entry.id, "").replace(f"in {entry.unit}", "")), text


@every
def test_variants_work_and_differ(entry: Exercise) -> None:
    assert entry.variant().text
    if not entry.given:
        return
    set_so = [entry.variant(seed) for seed in range(10)]
    others = math.prod(map(len, entry.given.values())) - 1
    assert len({repr(v) for v in set_so}) >= min(10, others), "neighbors copy from each other"
    for seed, v in enumerate(set_so):
        answer = entry.answer(**v.given)
        assert all(map(math.isfinite, numbers(answer)))
        assert entry.judge(answer, seed=seed), f"seed {seed}: {v}"


# -- the judge itself, on an exercise made here -----------------------------------------------

SIMPLE = Exercise("99.1", "compute", 1, "?", lambda: 40.0, unit="GiB", hints=("one", "two"), devices=8)
EXACT = Exercise("99.2", "compute", 1, "?", lambda: 133, tolerance=0)
PLAIN = Exercise("99.3", "by hand", 1, "?", lambda: "tensor parallel", choices=("tensor parallel", "pipeline"))
SEVERAL = Exercise("99.4", "design", 1, "?", lambda: {"tp": 8, "dp": 2.5})
LISTED = Exercise("99.5", "design", 1, "?", lambda: [1.0, 2.0, 3.0])
WHETHER = Exercise("99.6", "find the mistake", 1, "?", lambda: True)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (40.5, "right"),
        (42.95, "off by 7 %. Likely slip: GB in place of GiB"),
        (5, "of one device, and of all is asked"),
        (80, "off by a factor of 2"),
        (40 * 1024, "off by a factor of 1,024. Likely slip: 1024 in place of 1000"),
        (40 * 2**30, "too large, by 9 orders of magnitude"),
        (41.5, "too large, but close: by less than 10 %"),
        (60, "too large, by less than a factor of 2"),
        (15, "too small, by a factor between 2 and 10"),
        (-40, "wrong, of the wrong sign or 0"),
        ("40 GiB", "'40 GiB' is a text; give one number, in GiB"),
        (float("nan"), "nan is not a finite number"),
        (10**400, "is not a finite number"),
        (True, "True is not a number"),
        ([40.0] * 10**6, "1,000,000 values in one list"),
        (len, "is a function; call it"),
        (40 + 0j, "is not a number"),
    ],
)
def test_a_number_is_judged(answer: Any, said: str) -> None:
    assert said in repr(SIMPLE.judge(answer))


def test_other_kinds_of_answers_are_judged() -> None:
    assert EXACT.judge(133)
    assert "(it must be exact)" in repr(EXACT.judge(134))
    assert PLAIN.judge("Tensor-parallel")
    assert repr(PLAIN.judge("pipeline")) == "99.3: wrong."
    assert "not among the choices" in repr(PLAIN.judge("data"))
    assert SEVERAL.judge({"tp": 8, "dp": 2.5, "more": 1})
    assert "wrong: tp (1 of 2 are right)" in repr(SEVERAL.judge({"tp": 4, "dp": 2.5}))
    assert "'dp' is missing" in repr(SEVERAL.judge({"tp": 8}))
    assert LISTED.judge((1, 2, 3))
    assert "wrong: 2 of 3 are right" in repr(LISTED.judge([1, 2, 4]))
    assert "a list of 2; give a list of 3" in repr(LISTED.judge([1, 2]))
    assert WHETHER.judge(True)
    assert repr(WHETHER.judge(False)) == "99.6: wrong."
    assert "is neither true nor false" in repr(WHETHER.judge(1))


def test_numbers_of_other_packages_are_numbers() -> None:
    import numpy
    import torch

    for forty in (numpy.float32(40), numpy.int64(40), numpy.array(40.0), numpy.array([40.0])[0], torch.tensor(40.0)):
        assert SIMPLE.judge(forty)
    assert LISTED.judge(numpy.array([1.0, 2.0, 3.0]))
    assert "values in one list" in repr(SIMPLE.judge(numpy.zeros((3, 3))))


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError

    def __float__(self) -> float:
        raise RuntimeError


def test_what_breaks_when_it_is_looked_at_is_no_traceback() -> None:
    for entry in (SIMPLE, PLAIN, SEVERAL, LISTED, WHETHER):
        assert entry.judge(Broken()).right is None


def test_a_students_function_may_raise() -> None:
    entry = Exercise(
        "99.7", "design", 2, "?", lambda: abs, form="a function", accept=lambda f: "" if f(-1) == 1 else "no"
    )
    assert entry.judge(abs)
    assert "not yet: your function raised ZeroDivisionError" in repr(entry.judge(lambda n: n / 0))
    assert "5 cannot be judged; give a function" in repr(entry.judge(5))


def test_each_wrong_answer_gets_the_next_hint() -> None:
    assert [SIMPLE.judge(1, wrong=n).hint for n in range(3)] == ["one", "two", "two"]
    assert SIMPLE.judge("1").hint == "", "an answer of the wrong form costs no hint"


def test_unknown_ids_are_told_what_is_near() -> None:
    for wrong, said in (
        ("6.99", "id='6.99' is not in chapter 6; use 6.1 to 6."),
        ("77.1", "id='77.1' is not"),
        (6.1, "id=6.1 is not an exercise; it is a chapter and a number as text"),
        ("", "id='' is not an exercise"),
    ):
        with pytest.raises(llmhw.LLMHWError, match=re.escape(said)):
            check(wrong)  # type: ignore[arg-type]
    with pytest.raises(llmhw.LLMHWError, match="chapter='66' has no exercises; use one of"):
        all_of("66")


def test_an_exercise_that_is_written_wrong_is_refused() -> None:
    for wrong, said in (
        ({"id": "six"}, "must be a chapter and a number"),
        ({"kind": "guess"}, "kind='guess' is not known"),
        ({"level": 4}, "level=4"),
        ({"ask": "{tokens}"}, "which given lacks"),
        ({"accept": lambda _: ""}, "needs form"),
    ):
        whole: dict[str, Any] = {"id": "9.1", "kind": "derive", "level": 1, "ask": "?", "answer": lambda: 1}
        with pytest.raises(llmhw.LLMHWError, match=said):
            Exercise(**whole | wrong)


def test_a_seed_may_be_a_name_and_says_the_same_each_time() -> None:
    entry = exercise("6.1")
    assert variant("6.1", "Ada").text == variant("6.1", "Ada").text
    assert check("6.1", entry.answer(**entry.values("Ada")), seed="Ada")
    with pytest.raises(llmhw.LLMHWError, match="seed=-1"):
        variant("6.1", -1)


@pytest.mark.parametrize("chapter", chapters())
def test_a_chapter_has_exercises_of_each_kind_and_level(chapter: str) -> None:
    kinds = {entry.kind for entry in all_of(chapter)}
    assert 6 <= len(all_of(chapter)) <= 8
    assert kinds >= {"compute", "by hand", "find the mistake", "measure"}
    assert kinds & {"derive", "design"}
    assert {entry.level for entry in all_of(chapter)} >= {1, 2}


def test_the_book_has_ninety_exercises_of_six_kinds() -> None:
    assert set(chapters()) == {chapter_of(path) for path in NOTEBOOKS}
    assert len(all_of()) >= 90
    assert {entry.kind for entry in all_of()} == set(KINDS)
    assert {entry.level for entry in all_of()} == {1, 2, 3}
