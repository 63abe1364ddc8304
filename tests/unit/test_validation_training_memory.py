"""Predictions beside published measurements of training memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import llmhw
from llmhw.activations import layer_activations
from llmhw.catalog import read_calibration, read_measurements
from llmhw.units import GIB, LLMHWError
from llmhw.validation import (
    Validation,
    bucket_bytes,
    fit_constants,
    frozen_layer_activations,
    percentile,
    validate,
    zero1_step_gradient_bytes,
)

ROWS = read_measurements("training_memory")


@pytest.fixture(scope="module")
def found() -> Validation:
    return validate(None, "training-memory")


def test_every_row_is_predicted_or_skipped_with_a_reason(found: Validation) -> None:
    ids = [r.id for r in found.rows] + [i for i, _, _ in found.skipped]
    assert sorted(ids) == sorted(row["id"] for row in ROWS)
    assert len(set(ids)) == len(ids)
    assert all(len(reason) > 20 for _, _, reason in found.skipped)
    # a skipped row is a rare thing: what is not predicted must not be what is hard to predict
    assert len(found.rows) >= 0.8 * len(ROWS)


def test_the_bar(found: Validation) -> None:
    assert found.median_abs_error <= 0.04
    assert found.p90_abs_error <= 0.12
    assert abs(found.bias) <= 0.02


def test_one_vote_a_configuration(found: Validation) -> None:
    assert sum(len(g.ids) for g in found.groups) == len(found.rows)
    assert len({(g.source, g.configuration) for g in found.groups}) == len(found.groups) < len(found.rows)
    # SimuMax measured each layout with 4, 8 and 32 micro-batches
    first = next(g for g in found.groups if "TM0025" in g.ids)
    assert first.ids == ("TM0025", "TM0033", "TM0041")
    assert first.measured == 66.55 * GIB


def test_meters(found: Validation) -> None:
    meters = {r.source.split()[0]: r.meter for r in found.rows}
    assert meters == {
        "SimuMax": "allocated",
        "torchtitan": "reserved",
        "Megatron-Bridge": "allocated",
        "LitGPT": "allocated",
        "BigScience": "device",
    }
    constants = read_calibration("training_memory")
    for r in found.rows:
        expected = r.parts["tensors"] * (1 if r.meter == "allocated" else constants["reserved_over_allocated"])
        expected += constants["context_bytes"] if r.meter == "device" else 0
        assert r.predicted == expected


def test_constants_hold_without_a_source(found: Validation) -> None:
    """The share fitted to one source predicts the other: 2022's DeepSpeed and 2024's FSDP2 agree on it."""
    shares = {source: fit_constants(found.rows, without=source) for source in ("torchtitan", "BLOOM")}
    assert shares["torchtitan"][0] == pytest.approx(shares["BLOOM"][0], abs=0.02)
    assert shares["BLOOM"][1] is None
    constants = {"reserved_over_allocated": shares["BLOOM"][0], "context_bytes": 1573 * 2**20}
    rows = [row for row in ROWS if "BLOOM" in row["source"]]
    alone = validate(rows, "training-memory", calibration=constants)
    assert alone.median_abs_error <= 0.06
    assert alone.p90_abs_error <= 0.12


def test_the_calibration_is_the_fit(found: Validation) -> None:
    constants = read_calibration("training_memory")
    share, context = fit_constants(found.rows)
    assert constants["reserved_over_allocated"] == share
    assert constants["context_bytes"] == pytest.approx(context, rel=1e-6)
    assert constants["date"]
    assert constants["data"]
    left = constants["residuals"]["all"]
    assert left["configurations"] == len(found.groups)
    assert left["median_abs_error"] == pytest.approx(found.median_abs_error, abs=0.0006)
    assert left["p90_abs_error"] == pytest.approx(found.p90_abs_error, abs=0.0006)


def test_no_row_bears_a_constant_of_its_own() -> None:
    path = Path(llmhw.__file__).parent / "catalog" / "calibration.json"
    numbers = json.loads(path.read_text())["training_memory"]
    assert {name for name, value in numbers.items() if isinstance(value, (int, float))} == {
        "reserved_over_allocated",
        "context_bytes",
    }


def test_tables(found: Validation) -> None:
    table = found.table()
    sources, rest = table[: len(found.by_source())], table[len(found.by_source()) :]
    assert [line[0] for line in rest] == [*(f"all: {meter}" for meter in found.by_meter()), "all"]
    assert [int(line[1]) + int(line[2]) for line in sources] == [
        sum(row["source"] == line[0] for row in ROWS) for line in sources
    ]
    assert str(found).count("\n") == len(table) + 2  # the title, the verdict and the names of the columns
    assert found.to_dict()["groups"] == len(found.groups)
    assert found.by_source()["LitGPT resource tables"].median_abs_error < 0.05


def test_less_is_kept_of_a_frozen_layer() -> None:
    spec = llmhw.model("llama-2-7b")
    whole = sum(p.value for p in layer_activations(spec, 0, seq_len=512))
    frozen = sum(frozen_layer_activations(spec, 0, batch=1, seq_len=512).values())
    quantized = sum(frozen_layer_activations(spec, 0, batch=1, seq_len=512, saves_inputs=True).values())
    assert frozen < quantized < whole


def test_formulas() -> None:
    assert zero1_step_gradient_bytes(elements=4, shards=2) == 12
    assert bucket_bytes() == 1e9
    assert percentile([3, 1], 90) == pytest.approx(2.8)
    with pytest.raises(LLMHWError, match="no percentile"):
        percentile([], 50)


def test_errors() -> None:
    with pytest.raises(LLMHWError, match="training_memory"):
        read_measurements("training_memroy")
    with pytest.raises(LLMHWError, match="training_memory"):
        read_calibration("training_memroy")
    odd = validate([dict(ROWS[0], program="a blog")], "training-memory")
    assert odd.rows == ()
    assert "program='a blog' must be one of megatron, fsdp2" in odd.skipped[0][2]
    assert odd.table()[0][4] == "-"
