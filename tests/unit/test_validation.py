"""`validate`: every row predicted or skipped with a reason, whatever is in the table."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from llmhw.catalog import read_calibration, read_measurements
from llmhw.units import LLMHWError
from llmhw.validation import KINDS, Kind, Prediction, Row, fit, validate

MEMORY = read_measurements("training_memory")


def saved(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def toy(row: Row, *, calibration: dict[str, Any] | None = None) -> Prediction:
    """Predicts speed as 10 a device, times the constant `share`."""
    row.device()
    share = (calibration or {"share": 1})["share"]
    predicted = 10 * row.count("n_gpus", None) * share
    return Prediction(predicted=predicted, measured=row.positive("value"), unit="tokens/s")


TOY = Kind(
    title="toy",
    required=("gpu", "n_gpus"),
    measured=("value",),
    predict=toy,
    configuration=lambda row: (row["gpu"], row["n_gpus"]),
    catalog=lambda: [{"id": "T1", "gpu": "h100", "n_gpus": "2", "value": "20"}],
    fit=lambda rows: {"share": sum(r.positive("value") / r.count("n_gpus") for r in rows) / len(rows) / 10},
    constants=("share",),
)


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(KINDS, "toy", TOY)
    return "toy"


def test_every_kind_is_whole() -> None:
    assert {"training-throughput", "training-memory", "facts"} <= set(KINDS)
    for name, entry in KINDS.items():
        assert entry.title
        assert entry.measured
        rows = list(entry.catalog())
        assert set(entry.required) | set(entry.measured) <= set(rows[0]), name


def test_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "id,source,gpu,n_gpus,value,duplicate_of,source_opened\n"
        "A,Lab v1,h100,2,20,,true\n"
        "B,Lab v1,h100,2,25,,true\n"
        "C,Lab v2,h100,2,40,,\n"
        "D,Lab v2,h100,eight,40,,\n"
        "E,Lab v2,h1000,2,40,,\n"
        "F,Lab v2,h100,2,,,\n"
        "G,Lab v2,h100,2,40,C,\n"
        "H,Lab v2,h100,2,40,,false\n"
        "I,Lab v2,h100,2,40,,,,too,many\n"
        ",,a100,2,-40,,\n"
        "A,Other,h100,1,10\n",
        encoding="utf-8",
    )
    found = validate(path, kind)
    assert [r.id for r in found.rows] == ["A (line 2)", "B", "C", "A (line 12)"]
    assert (found.rows[0].source, found.rows[0].configuration) == ("Lab v1", ("h100", "2"))
    reasons = {name: reason for name, _, reason in found.skipped}
    assert list(reasons) == ["D", "E", "F", "H", "I", "line 11"]
    assert found.repeats == (("G", "Lab v2", "C"),)
    assert reasons["D"] == "D: n_gpus='eight' must be a whole number of at least 1"
    assert reasons["E"].startswith("accelerator='h1000' is not known; did you mean H100")
    assert reasons["F"] == "F: value='' must be a number above 0, without unit and thousands separators"
    assert reasons["H"] == "source_opened=false: nobody has read the source of this value"
    assert reasons["I"].startswith("line 10 has 10 cells for 7 columns, 'too' among them")
    assert reasons["line 11"] == "line 11: value='-40' must be a number above 0, without unit and thousands separators"
    assert found.skipped[-1][1] == "(no source)"
    # releases of one source are one group
    assert [g.ids for g in found.groups] == [("A (line 2)", "B", "C"), ("A (line 12)",)]
    assert (found.kind, found.title) == ("toy", "toy")
    assert validate(str(path), kind).to_dict() == found.to_dict()


def test_rows_in_memory_and_the_catalog_s_table(kind: str) -> None:
    assert [r.id for r in validate(None, kind).rows] == ["T1"]
    assert [r.id for r in validate([{"gpu": "h100", "n_gpus": 2, "value": 19.5}], kind).rows] == ["row 1"]
    assert validate([], kind).to_dict()["rows"] == 0
    assert validate(({"gpu": "h100", "n_gpus": n, "value": 1} for n in (1, 2)), kind).to_dict()["rows"] == 2


def test_a_header_alone_has_no_rows(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("gpu,n_gpus,value\n", encoding="utf-8")
    written = validate(path, kind).to_dict()
    assert (written["rows"], written["skipped"], written["median_abs_error"], written["by_source"]) == (0, 0, None, {})


def test_missing_columns_are_one_error(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path / "rows.csv", [{"id": "A", "gpu": "h100", "gpus": "2", "value": "1"}])
    with pytest.raises(
        LLMHWError, match=r"column 'n_gpus' \(did you mean gpus.*\) is missing in .*rows.csv; its columns"
    ):
        validate(path, kind)
    with pytest.raises(LLMHWError, match="column 'value' is missing in the given rows; its columns are gpu, n_gpus"):
        validate([{"gpu": "h100", "n_gpus": "2"}], kind)


def test_unknown_kind() -> None:
    with pytest.raises(LLMHWError, match="kind='training-memroy' is not known; did you mean training-memory"):
        validate(None, "training-memroy")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"predicted": nan}, "predicted=nan is not a number"),
        ({"predicted": inf}, "predicted=inf is not a number"),
        ({"high": inf}, "is not a number: the row is outside of what the formulas cover"),
        ({"measured": 0.0}, "measured=0.0 is out of the range"),
        ({"measured": 5e-324}, "is out of the range of numbers above 0 that can be compared"),
    ],
)
def test_predictions_that_are_no_numbers_are_skipped(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, float], reason: str
) -> None:
    def predict(row: Row) -> Prediction:
        return replace(toy(row), **changes)  # type: ignore[arg-type]

    monkeypatch.setitem(KINDS, "toy", replace(TOY, predict=predict))
    found = validate(None, "toy")
    assert found.rows == ()
    assert reason in found.skipped[0][2]
    json.dumps(found.to_dict(), allow_nan=False)


# -- constants --------------------------------------------------------------------------------


def test_fit_and_calibration(kind: str) -> None:
    rows = [
        {"gpu": "h100", "n_gpus": "2", "value": "30"},
        {"gpu": "h100", "n_gpus": "2", "value": "x"},
        {"gpu": "h100", "n_gpus": "2", "value": "99", "duplicate_of": "row 1"},
    ]
    constants = fit(rows, kind)
    assert constants == {"share": 1.5}
    assert validate(rows, kind, calibration=constants).median_abs_error == 0


@pytest.mark.parametrize("value", [None, "1.5", nan, inf, -1, True])
def test_constants_are_checked(kind: str, value: Any) -> None:
    with pytest.raises(LLMHWError, match=r"calibration: share=.* must be a number of at least 0; a calibration of toy"):
        validate(None, kind, calibration={"share": value})


def test_kinds_without_constants() -> None:
    with pytest.raises(LLMHWError, match=r"kind='facts' has no constants to fit; these have: .*training-memory"):
        fit(None, "facts")
    with pytest.raises(LLMHWError, match="kind='facts' has no constants; leave calibration out"):
        validate(None, "facts", calibration={})


def test_constants_of_training_memory() -> None:
    rows = [row for row in MEMORY if "torchtitan" in row["source"]]
    constants = fit(rows, "training-memory")
    assert constants["reserved_over_allocated"] == pytest.approx(1.07, abs=0.02)
    # no row of these was read by nvidia-smi: the context stays
    assert constants["context_bytes"] == read_calibration("training_memory")["context_bytes"]
    with pytest.raises(LLMHWError, match="no row read as reserved memory or by nvidia-smi was predicted"):
        fit([row for row in MEMORY if "SimuMax" in row["source"]], "training-memory")


# -- bad cells --------------------------------------------------------------------------------


def few_rows() -> list[dict[str, str]]:
    """One row of each program and method that are quick to predict."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in MEMORY:
        if row["n_layers"] and int(row["n_layers"]) <= 40:
            found.setdefault((row["program"], row["method"]), row)
    return list(found.values())


@pytest.mark.parametrize("value", ["", "eight", "-1", "0", "2.5", "1e400", "nan", "1000000000"])
def test_no_cell_of_training_memory_makes_a_traceback(value: str) -> None:
    rows = few_rows()
    assert len({row["source"] for row in rows}) >= 4
    for column in MEMORY[0]:
        found = validate([row | {column: value} for row in rows], "training-memory")
        assert len(found.rows) + len(found.skipped) == len(rows)
        json.dumps(found.to_dict(), allow_nan=False)


def test_optional_columns_may_be_missing() -> None:
    needed = KINDS["training-memory"].required
    found = validate([{name: row[name] for name in needed} for row in MEMORY[::7]], "training-memory")
    assert len(found.rows) + len(found.skipped) == len(MEMORY[::7])
    assert not [reason for _, _, reason in found.skipped if "missing" in reason]
