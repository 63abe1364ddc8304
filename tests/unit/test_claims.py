"""The audit of the article's claims: the table is whole, and its verdicts are those that the checks compute."""

from __future__ import annotations

import re
from itertools import groupby

import pytest

from book.claims import CHECKS, VERDICTS, Case, Claim, Finding, claims

CLAIMS = {claim.number: claim for claim in claims()}

every_claim = pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: str(claim.number))


def test_every_claim_is_there_once_and_in_order() -> None:
    assert [claim.number for claim in claims()] == list(range(1, 73))
    sections = [name for name, _ in groupby(claims(), key=lambda claim: claim.section)]
    assert len(sections) == len(set(sections))


@every_claim
def test_a_claim_is_complete(claim: Claim) -> None:
    for field in ("section", "original", "claim", "truth", "source", "reason"):
        assert getattr(claim, field).strip(), field
    assert claim.verdict in VERDICTS


@every_claim
def test_a_source_is_one_that_a_reader_can_find(claim: Claim) -> None:
    assert not re.search(r"(^|\s)(\.\./|/)", claim.source)
    assert ".csv" not in claim.source or "catalog: " in claim.source


def test_most_verdicts_are_computed() -> None:
    assert set(CHECKS) <= set(CLAIMS)
    assert len(CHECKS) >= 45


@pytest.mark.parametrize("number", CHECKS)
def test_the_verdict_is_the_computed_one(number: int) -> None:
    finding = CHECKS[number]()
    assert finding.cases
    assert finding.verdict == CLAIMS[number].verdict, finding
    for case in finding.cases:
        assert case.words
        assert case.shown
    words = [case.words + case.shown for case in finding.cases]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("held", "earlier", "verdict"),
    [
        ([True, True], None, "correct"),
        ([True, False], None, "imprecise"),
        ([False, False], None, "wrong"),
        ([False], True, "outdated"),
        ([False], False, "wrong"),
        ([True, False], True, "imprecise"),
    ],
)
def test_a_verdict_follows_from_the_cases(held: list[bool], earlier: bool | None, verdict: str) -> None:
    cases = tuple(Case(str(index), value, "") for index, value in enumerate(held))
    assert Finding(cases, None if earlier is None else Case("", earlier, "")).verdict == verdict
