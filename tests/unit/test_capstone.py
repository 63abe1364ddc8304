"""What a case lacks is told, whatever stands in it; what owning costs at the ends of a range."""

from __future__ import annotations

from typing import Any

import pytest

from llmhw.exercises import exercise
from llmhw.exercises.capstone import KEYS, RUBRIC, check_case
from llmhw.ownership import rent_or_buy, swings

WHOLE: dict[str, Any] = exercise("14.7").answer()


def test_a_whole_case_lacks_nothing() -> None:
    assert check_case(WHOLE)
    assert set(WHOLE) == set(KEYS)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"question": "A machine."}, "without a question mark"),
        ({"inputs": {"people": (100, "of course")}}, "people has no origin"),
        ({"memory": (90 * 2**30, 80 * 2**30)}, "90.0 GiB do not fit in 80.0 GiB"),
        ({"speed": {"ms": (60, 50)}}, "ms is not kept at the worse end"),
        ({"options": {"2 x L40S": 40_000, "1 x H100": 70_000}}, "fewer than three"),
        ({"options": {"2 x L40S": 1, "1 x H100": 2, "4 x L4": 3}}, "none is to rent"),
        ({"budget": 30_000}, "the chosen option costs more"),
        ({"chosen": "8 x B200"}, "'8 x B200' is not among the options"),
        ({"utilization": 0.97}, "queues have no end"),
        ({"turns": {"requests/s": 3}}, "turns: fewer than three"),
        ({"risks": {"a": "we hope", "b": "rent it first", "c": "ask the ward"}}, "'a' has no test"),
        ({"memo": "Something must be bought. We take 2 x L40S."}, "first sentence does not name"),
        ({"memo": "We recommend 2 x L40S, for 41,000 dollars."}, "41,000 is none of the case's numbers"),
        ({"memo": "We recommend 2 x L40S. " + 400 * "word "}, "more than a page of 400"),
    ],
)
def test_what_is_lacking_is_told(wrong: dict[str, Any], said: str) -> None:
    review = check_case(WHOLE | wrong)
    assert not review
    assert said in repr(review)


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("strange", [object(), 5, "text", ["a"], {"a": object()}, float("nan")])
def test_strange_entries_are_told_and_not_raised(name: str, strange: object) -> None:
    check_case(WHOLE | {name: strange})
    missing = {key: value for key, value in WHOLE.items() if key != name}
    assert f"{name} is missing" in repr(check_case(missing))


def test_the_rubric_has_a_hundred_points() -> None:
    assert sum(line.points for line in RUBRIC) == 100


def test_swings_are_what_owning_costs_with_that_value_given() -> None:
    found = swings(("h100", 4), months=24)  # type: ignore[arg-type]
    assert [swing.dollars for swing in found] == sorted((swing.dollars for swing in found), reverse=True)
    for swing in found:
        for value, dollars in ((swing.low, swing.dollars_low), (swing.high, swing.dollars_high)):
            given = rent_or_buy(("h100", 4), months=24, **{swing.argument: value})  # type: ignore[arg-type]
            assert given.dollars == pytest.approx(dollars)
    assert not [s for s in swings(("h100", 4), electricity=0.2) if s.argument == "electricity"]  # type: ignore[arg-type]


def test_bars_of_swings_end_at_what_owning_costs() -> None:
    pytest.importorskip("matplotlib")
    import matplotlib.pyplot as plt

    import llmhw.plot

    found, at = swings(("h100", 4)), rent_or_buy(("h100", 4)).dollars  # type: ignore[arg-type]
    figure = llmhw.plot.swings(found, at, limits={"budget": 400e3})
    bars = figure.axes[0].patches
    ends = sorted(1e3 * (bar.get_x() + bar.get_width()) for bar in bars)  # type: ignore[attr-defined]
    wide = [swing for swing in found if swing.dollars > 0.01 * at]
    assert ends == pytest.approx(sorted(d for s in wide for d in (s.dollars_low, s.dollars_high)))
    assert len(wide) < len(found), "those that move nothing are left out"
    plt.close(figure)
