"""Groups with one vote, errors, coverage, and what is printed of them."""

from __future__ import annotations

import json

import pytest

from llmhw.units import LLMHWError
from llmhw.validation.statistics import COLUMNS, Prediction, Validation, groups, percentile, source_family


def row(name: str, predicted: float, measured: float = 100, source: str = "Lab", **more: object) -> Prediction:
    options = {"configuration": (name[0],), "unit": "tokens/s"} | more
    return Prediction(id=name, source=source, predicted=predicted, measured=measured, **options)  # type: ignore[arg-type]


def validation(*rows: Prediction, skipped: tuple[tuple[str, str, str], ...] = ()) -> Validation:
    return Validation(rows, skipped, tuple(groups(rows)), "training-throughput", "throughput of training")


@pytest.mark.parametrize(
    ("source", "family"),
    [
        ("NVIDIA NeMo Megatron-Bridge performance summary 26.04", "NVIDIA NeMo Megatron-Bridge performance summary"),
        ("NVIDIA NeMo Megatron-Bridge performance summary 26.06.01", "NVIDIA NeMo Megatron-Bridge performance summary"),
        ("MLPerf Training v4.0", "MLPerf Training"),
        ("MLPerf Training v5", "MLPerf Training"),
        ("vLLM benchmarks, release 0.6.3.post1", "vLLM benchmarks"),
        ("SGLang version v0.4-rc2", "SGLang"),
        ("LMDeploy (v0.5)", "LMDeploy"),
        ("Megatron-LM README (weak scaling) v0.9", "Megatron-LM README (weak scaling)"),
        # what ends in a number that is no release
        ("Narayanan et al. 2021 (Megatron-LM SC21) Table 1", None),
        ("LLaMA (Touvron 2023) Sec 2.4", None),
        ("Korthikanti et al. 2022 Figure 1.2", None),
        ("Korthikanti et al. 2022, Fig. 1.2", None),
        ("PaLM (Chowdhery 2022)", None),
        ("SimuMax v1.2 B200 real runs", None),
        ("v4.1", None),
        ("26.04", None),
        ("", None),
    ],
)
def test_source_families(source: str, family: str | None) -> None:
    assert source_family(source) == (source if family is None else family)


def test_a_configuration_has_one_vote() -> None:
    found = validation(row("a1", 90), row("a2", 100), row("a3", 140, 200), row("b1", 120))
    assert [(g.ids, g.predicted, g.measured) for g in found.groups] == [
        (("a1", "a2", "a3"), 100, 100),
        (("b1",), 120, 100),
    ]
    assert found.median_abs_error == pytest.approx(0.1)
    assert found.bias == pytest.approx(0.1)
    assert found.p90_abs_error == pytest.approx(0.18)
    assert found.largest == pytest.approx(0.2)


def test_units_and_meters_are_not_mixed() -> None:
    found = validation(row("a1", 90), row("a2", 3, 4, unit="seconds"), row("a3", 90, meter="other"))
    assert len(found.groups) == 3


def test_releases_share_a_vote_in_all_but_not_by_source() -> None:
    found = validation(row("a1", 90, source="Suite v1.0"), row("a2", 110, source="Suite v1.1"))
    assert [g.ids for g in found.groups] == [("a1", "a2")]
    assert {name: len(part.groups) for name, part in found.by_source().items()} == {"Suite v1.0": 1, "Suite v1.1": 1}
    written = found.to_dict()
    assert written["groups"] == 1
    assert written["by_source"]["Suite v1.1"]["bias"] == pytest.approx(0.1)


def test_coverage_counts_groups_with_an_interval() -> None:
    inside, outside = {"low": 80, "high": 120}, {"low": 101, "high": 130}
    found = validation(row("a1", 100, **inside), row("b1", 110, **outside), row("c1", 110))
    assert found.coverage80 == 0.5
    # the medians of the rows make the interval of a group
    found = validation(row("a1", 100, **inside), row("a2", 100, **outside), row("a3", 100, low=90, high=99))
    assert (found.groups[0].low, found.groups[0].high) == (90, 120)
    assert found.coverage80 == 1
    assert validation(row("a1", 100)).coverage80 is None


def test_the_keys_of_to_dict() -> None:
    found = validation(row("a1", 90), row("b1", 150), skipped=(("x", "Blog", "no"),))
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (written["kind"], written["rows"], written["skipped"], written["groups"]) == ("training-throughput", 2, 1, 2)
    numbers = {"rows", "skipped", "repeats", "groups", "median_abs_error", "p90_abs_error", "bias", "coverage80"}
    assert set(written) == numbers | {"kind", "verdict", "complete", "by_source", "by_meter", "worst", "skipped_rows"}
    assert set(written["by_source"]) == {"Lab", "Blog"}
    assert all(set(part) == numbers for part in written["by_source"].values())
    assert written["skipped_rows"] == [{"id": "x", "source": "Blog", "reason": "no"}]
    worst = written["worst"][0]
    assert (worst["ids"], worst["source"], worst["configuration"]) == (["b1"], "Lab", ["b"])
    assert (worst["predicted"], worst["measured"], worst["error"], worst["unit"]) == (150, 100, 0.5, "tokens/s")
    assert len(found.to_dict(worst=1)["worst"]) == 1


def test_nothing_predicted_is_none_not_nan() -> None:
    found = validation(skipped=(("x", "Blog", "no"),))
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (written["rows"], written["skipped"], written["groups"], written["worst"]) == (0, 1, 0, [])
    for part in (written, written["by_source"]["Blog"]):
        assert [part[k] for k in ("median_abs_error", "p90_abs_error", "bias", "coverage80")] == [None] * 4
    assert found.largest is None
    assert found.table()[-1] == ("all", "0", "1", "0", "-", "-", "-", "-", "-")


def test_what_is_printed() -> None:
    skipped = (("x", "Blog", "no"), ("y", "Blog", "why not"), ("z", "Blog", "no"))
    found = validation(row("a1", 90, low=80, high=110), row("b1", 150), skipped=skipped)
    errors, worst, reasons = found.sections(worst=1)
    assert errors[0] == "throughput of training: |predicted / measured - 1|, one vote a configuration"
    assert errors[1] == COLUMNS
    assert errors[2] == [
        ("Lab", "2", "0", "2", "30.0 %", "46.0 %", "+20.0 %", "100.0 %", "+50.0 %"),
        ("Blog", "0", "3", "0", "-", "-", "-", "-", "-"),
        ("all", "2", "3", "2", "30.0 %", "46.0 %", "+20.0 %", "100.0 %", "+50.0 %"),
    ]
    assert worst[0] == "the 1 largest errors"
    assert worst[2] == [("+50.0 %", "150 tokens/s", "100 tokens/s", "b1", "Lab")]
    assert reasons[2] == [("2", "no"), ("1", "why not")]
    assert [part.title for part in validation(row("a1", 90)).sections(worst=0)] == [errors[0]]
    title, verdict, *text, note = str(found).splitlines()
    assert (title, verdict) == (errors[0], found.verdict)
    assert len({len(line) for line in text}) == 1
    assert note.startswith("Note: 2 configurations only")
    assert text[0].split()[:4] == ["source", "rows", "skipped", "groups"]


def test_many_ids_are_cut() -> None:
    found = validation(*(row(f"a{i}", 90) for i in range(7)))
    assert found.sections()[1][2][0][3] == "a0, a1, a2, a3 and 3 more"


def test_percentile() -> None:
    assert percentile([3, 1], 90) == pytest.approx(2.8)
    with pytest.raises(LLMHWError, match="no percentile"):
        percentile([], 50)
