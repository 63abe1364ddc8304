"""What chapter 13 reads from the published speeds: rules of thumb, priors, and questions that differ in a layout."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmhw.catalog import read_calibration
from llmhw.validation import percentile
from llmhw.validation.cases import baseline_mfu, by_family, moved_constants, prior_constants, summary, value_of


def case(family: str, mfu: float, device: str = "h100") -> Any:
    return SimpleNamespace(family=family, mfu=mfu, hfu=2 * mfu, device=device)


FOUND = [case("a", 0.4), case("a", 0.5), case("a", 0.4), case("b", 0.2), case("c", 0.3, "own")]


def test_one_mfu_is_the_best_that_one_number_can_be() -> None:
    numbers, errors = baseline_mfu(FOUND, lambda c: c.device)
    assert numbers == 2
    # 0.4 for the first four; of the device that one source has, its own
    assert sorted(errors) == pytest.approx([0, 0, 0, 0.2, 1.0])
    every = [percentile([abs(one / c.mfu - 1) for c in FOUND[:4]], 50) for one in (0.2, 0.25, 0.3, 0.35, 0.45, 0.5)]
    assert percentile([0, 0.2, 0, 1.0], 50) <= min(every)


def test_left_out_it_has_nothing_to_say_of_what_one_source_measured() -> None:
    _, errors = baseline_mfu(FOUND, lambda c: c.device, leave_out=True)
    # 0.2 for the rows of a, 0.4 for that of b
    assert sorted(errors) == pytest.approx([0.5, 0.5, 0.6, 1.0])
    assert baseline_mfu(FOUND, lambda c: c.device, what="hfu")[1] == pytest.approx(
        baseline_mfu(FOUND, lambda c: c.device)[1]
    )


def test_families_and_summaries() -> None:
    assert list(by_family(FOUND)) == ["a", "b", "c"]
    assert summary([-0.1, 0.3, 0.2]) == {"n": 3, "median": 0.2, "p90": pytest.approx(0.28)}


def test_priors_leave_the_catalog_as_it_is() -> None:
    known, priors = read_calibration("training_time"), prior_constants()
    for name, prior in known["prior"].items():
        assert value_of(priors, name) == prior["value"]
    assert any(value_of(known, name) != prior["value"] for name, prior in known["prior"].items())
    assert set(moved_constants()) == {name for name, prior in known["prior"].items() if "held" not in prior}
