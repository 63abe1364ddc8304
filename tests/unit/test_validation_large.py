"""Large tables: read as they are gone through, each configuration predicted once, told how far it is."""

from __future__ import annotations

import csv
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from llmhw.catalog import read_measurements
from llmhw.units import LLMHWError
from llmhw.validation import calibration, validate
from llmhw.validation.kinds import Predictor, open_table
from llmhw.validation.statistics import Prediction, Validation, groups

ROWS = [row for row in read_measurements("inference_throughput") if row["software"] == "litgpt"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some rows of the catalog, again and again."""
    path = tmp_path_factory.mktemp("large") / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(ROWS[0]))
        writer.writeheader()
        for i in range(20_000):
            writer.writerow(ROWS[i % len(ROWS)])
    return path


def test_rows_that_are_repeated_cost_little(large: Path) -> None:
    found = validate(large, "serving")
    once = validate(ROWS, "serving")
    assert found.predicted + len(found.skipped) == 20_000
    assert len(found.groups) == len(once.groups)
    assert found.median_abs_error == once.median_abs_error
    assert found.rows[0].id == f"{ROWS[0]['id']} (line 2)"


def test_the_file_is_not_held_in_memory(large: Path) -> None:
    size = large.stat().st_size
    _, table = open_table(large, "serving")
    tracemalloc.start()
    assert sum(1 for _ in table.rows) == len(table.rows) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 10


def test_kept_predictions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "_MOST", 3)
    rows = [ROWS[0] | {"id": str(i), "osl": str(10 + i % 8)} for i in range(40)]
    found = validate(rows, "serving")
    monkeypatch.undo()
    assert [row.predicted for row in found.rows] == [row.predicted for row in validate(rows, "serving").rows]


def test_progress_ends_with_all_rows(large: Path) -> None:
    told: list[tuple[int, int]] = []
    validate(large, "serving", progress=lambda *at: told.append(at))
    assert told[-1] == (20_000, 20_000)
    assert told == sorted(told)
    assert len(told) < 200


def test_fits_tell_how_many_are_done() -> None:
    told: list[tuple[int, int]] = []
    rows = read_measurements("training_memory")[::4]
    calibration(rows, "training-memory", progress=lambda *at: told.append(at))
    total = told[0][1]
    assert told == [(done, total) for done in range(total + 1)]
    assert total > 2


def test_an_interrupt_leaves_what_there_is() -> None:
    def stop(done: int, total: int) -> None:
        if 0 < done < total:
            raise KeyboardInterrupt

    rows = [row | {"id": str(i), "isl": str(10 + i)} for i, row in enumerate(ROWS * 40)]
    found = validate(rows, "serving", progress=stop)
    assert not found.complete
    assert 0 < found.predicted + len(found.skipped) < len(rows)
    assert f"of {len(rows):,} rows" in found.note
    assert found.verdict.startswith("Interrupted after ")
    assert found.to_dict()["complete"] is False
    assert found.groups


def test_many_sources_are_grouped_in_one_pass() -> None:
    """Each row its own source: with a pass for each, this would take minutes."""
    made = tuple(
        Prediction(predicted=1.1, measured=1.0, unit="s", id=str(i), source=f"source {i}", configuration=(str(i),))
        for i in range(20_000)
    )
    skipped = tuple((f"x{i}", f"other {i}", f"x{i}: n_gpus='{i}' must be a number") for i in range(5_000))
    found = Validation(made, skipped, tuple(groups(made)), "serving")
    told = found.to_dict()
    sections = found.sections()
    assert len(told["by_source"]) == 25_000
    assert len(sections[0].rows) < 300
    assert len(sections[-1].rows) == 41
    assert sections[-1].rows[-1] == ("4960", "4,960 more reasons: `skipped` has all")


def test_verdicts() -> None:
    made = tuple(
        Prediction(predicted=100 + i, measured=100.0, unit="s", low=90, high=105, id=str(i), configuration=(str(i),))
        for i in range(20)
    )
    skipped = (("x", "S", "no"),) * 4
    found = Validation(made, skipped, tuple(groups(made)))
    assert found.verdict == (
        "20 of 24 rows predicted: median error 9.5 %, 90th percentile 17.1 %; 100.0 % lie in their 80 % intervals"
    )
    assert (found.predicted, found.warnings()) == (20, [])
    none = Validation((), skipped[:1], ())
    assert (none.verdict, none.predicted, none.warnings()) == ("0 of 1 row predicted", 0, [])
    assert none.to_row()["rows"] == 0
    few = Validation(made[:1], (), tuple(groups(made[:1])))
    assert few.warnings() == ["1 configuration only: the percentiles of so few say little."]
    assert list(few.to_row())[:2] == ["kind", "rows"]


# -- files that are no table ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,n\nA,1\0\n", "is not a text file"),
        (b"id,n\n" + b"x" * 11_000_000 + b",1\n", "field larger than field limit"),
        (b"id,n\n" + b"1," * 2_000_000 + b"\n", None),
        (b"id,n\nA,caf\xc3", "its last character is cut"),
        (b"id,n\n" + b"A,1\n" * 300_000 + b"B,\xff\n", "is not UTF-8: byte 0xff in line 300002"),
        (b"id," * 3 + b"n\n", "has the column 'id' twice"),
    ],
    ids=["zero byte", "11 MB in a cell", "long row", "cut", "bad byte late", "twice"],
)
def test_odd_files_are_one_line(tmp_path: Path, content: bytes, message: str | None) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    if message is None:
        _, table = open_table_of(path)
        (row,) = table.rows
        assert "line 2 has 2000001 cells for 2 columns" in row.flaw
        assert len(row.flaw) < 200
        return
    with pytest.raises(LLMHWError, match=message) as error:
        open_table_of(path)
    assert len(str(error.value)) < 400


def open_table_of(path: Path) -> tuple[Path, Any]:
    from llmhw.validation.table import table_of

    return path, table_of(path)


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmhw.validation.table.MOST_BYTES", 1000)
    path = tmp_path / "rows.csv"
    path.write_text("id\n" + "A\n" * 1000, encoding="utf-8")
    with pytest.raises(LLMHWError, match="has more than 1,000 bytes; split it into several files"):
        open_table_of(path)
