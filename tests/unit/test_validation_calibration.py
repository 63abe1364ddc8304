"""What `--fit` writes speaks for its own rows: constants, errors, interval, date; never the catalog's."""

from __future__ import annotations

import csv
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from llmhw import Cluster, TrainingJob, model, train
from llmhw.catalog import read_calibration, read_measurements
from llmhw.job import ServingJob
from llmhw.service import serve
from llmhw.validation import calibration, fit, validate
from llmhw.validation.timed import LEAST

ROWS = [row for row in read_measurements("training_throughput") if row["software"] == "megatron-deepspeed"][::8]
SERVING = read_measurements("inference_throughput")
ABOUT = ("date", "data", "residuals", "left_out", "interval", "method")

# What they share takes long: one worker makes it.
pytestmark = pytest.mark.xdist_group("calibration")


@pytest.fixture(scope="module")
def mine() -> dict[str, Any]:
    """A cluster that is slower than the source's."""
    slower = [row | {"measured_value": str(0.7 * float(row["measured_value"])), "duplicate_of": ""} for row in ROWS]
    with pytest.MonkeyPatch.context() as patch:  # the catalog's may be of today
        patch.setattr("llmhw.validation.timed.date", Millennium)
        return calibration(slower, "training-throughput")


class Millennium(date):
    @classmethod
    def today(cls) -> Millennium:
        return cls(2000, 1, 1)


def test_a_fit_speaks_of_its_own_rows(mine: dict[str, Any]) -> None:
    theirs = read_calibration("training_time")
    for name in ABOUT:
        assert mine[name] != theirs[name], name
    assert mine["date"] == "2000-01-01"
    found = validate(ROWS, "training-throughput", calibration=mine)
    assert mine["data"].startswith(f"{len(found.groups)} configurations")
    assert set(mine["residuals"]) == {"dense"}
    assert mine["residuals"]["dense"]["groups"] == len(found.groups)
    assert set(mine["left_out"]["sources"]) == {row["cluster"] for row in ROWS}
    json.dumps(mine, allow_nan=False)


def test_the_interval_is_that_of_configurations_left_out(mine: dict[str, Any]) -> None:
    """One source: each fifth of its configurations is judged by a fit to the others."""
    assert mine["left_out"]["dense"]["groups"] >= LEAST
    low, high = mine["interval"]["dense"]
    assert low <= 1 <= high
    assert "single configurations" in mine["method"]
    assert "no_interval" not in mine
    # the constants follow the slower cluster, and so the interval is not as wide as the difference
    assert high < 1.25
    found = validate(ROWS, "training-throughput", calibration=mine)
    assert found.coverage80 is not None
    assert found.bias == pytest.approx(-0.3, abs=0.07)


def test_sources_are_left_out_together() -> None:
    rows = [row for row in SERVING if row["model_name"] in ("llama2-7b", "llama2-13b") and not row["duplicate_of"]]
    found = calibration(rows[::3], "serving")
    assert len(found["left_out"]["sources"]) > 1
    assert set(found["interval"]) == {"throughput"}
    assert "all of one source, one family, one engine, one layout, one model at a time" in found["method"]
    assert {"sources", "family", "engine", "layout", "model"} < set(found["left_out"])
    for meter, errors in found["left_out"].items():
        assert "groups" not in errors or (meter in found["interval"]) == (errors["groups"] >= LEAST)


@pytest.mark.parametrize(("kind", "table"), [("training-memory", "training_memory"), ("kv-capacity", "vllm_capacity")])
def test_constants_of_memory_bring_their_own_errors(kind: str, table: str) -> None:
    rows = read_measurements(table)[::6]
    found = calibration(rows, kind)
    groups = validate(rows, kind, calibration=found).groups
    assert sum(part["groups"] for part in found["residuals"].values()) == len(groups)
    assert found["date"] == date.today().isoformat()
    assert "interval" not in found


# -- no interval ------------------------------------------------------------------------------


def test_few_rows_have_no_interval() -> None:
    few = calibration(ROWS[:3], "training-throughput")
    assert few["interval"] == {}
    assert few["no_interval"] == f"fewer than {LEAST} configurations were left out of a fit: dense"
    job = TrainingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 1), seq_len=1024)
    found = train(job, calibration=few, tokens=10**9, price=2)
    assert found.step_seconds_interval is None
    assert found.to_dict()["step_seconds_interval"] is None
    assert found.to_row()["step_seconds_high"] is None
    assert found.run.days_low is None
    assert "the calibration has none" in str(found)
    predicted = validate(ROWS[:3], "training-throughput", calibration=few)
    assert predicted.coverage80 is None
    assert {row.low for row in predicted.rows} == {None}


def test_constants_alone_have_no_interval() -> None:
    constants = fit([row for row in SERVING if row["software"] == "litgpt"], "serving")
    assert constants["interval"] == {}
    assert not set(ABOUT) - {"interval"} & set(constants)
    job = ServingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 1))
    found = serve(job, input_tokens=100, output_tokens=100, calibration=constants)
    assert found.tokens_per_second_interval is None
    assert found.to_dict()["tokens_per_second_interval"] is None
    assert "the calibration has no interval" in str(found)


def test_the_command_prints_the_file_s_own_interval(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from llmhw.cli import cli

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    table, file = tmp_path / "rows.csv", tmp_path / "mine.json"
    with table.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS[:3])
    run("validate", str(table), "--kind", "training-throughput", "--fit", str(file))
    written = json.loads(file.read_text(encoding="utf-8"))
    assert (written["interval"], written["date"]) == ({}, date.today().isoformat())
    asked = ("train", "llama-3-8b", "--gpu", "h100", "--gpus", "1", "--seq-len", "1024", "--calibration", str(file))
    assert "the calibration has none" in run(*asked)
    file.write_text(json.dumps(written | {"interval": {"dense": [0.5, 3.0]}, "distance": {}}), encoding="utf-8")
    step = json.loads(run(*asked, "--json"))
    assert step["step_seconds_interval"] == [pytest.approx(f * step["step_seconds"]) for f in (0.5, 3.0)]
