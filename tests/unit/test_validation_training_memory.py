"""Predictions beside published measurements of training memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import llmhw
from llmhw.activations import layer_activations
from llmhw.catalog import read_calibration, read_measurements
from llmhw.training import bucket_bytes, zero1_step_gradient_bytes
from llmhw.units import GIB, LLMHWError
from llmhw.validation import Row, Validation, error_summary, fit_constants, groups, percentile, validate, verdicts
from llmhw.validation.training_memory import frozen_layer_activations, training_job
from tests.unit.stated import published

ROWS = read_measurements("training_memory")


@pytest.fixture(scope="module")
def found() -> Validation:
    return published("training-memory")


def test_every_row_is_predicted_or_skipped_with_a_reason(found: Validation) -> None:
    ids = [r.id for r in found.rows] + [i for i, _, _ in found.skipped]
    assert sorted(ids) == sorted(row["id"] for row in ROWS)
    assert len(set(ids)) == len(ids)
    assert all(len(reason) > 20 for _, _, reason in found.skipped)
    # a skipped row is a rare thing: what is not predicted must not be what is hard to predict
    measured = [row for row in ROWS if row["evidence"] not in ("oom", "capacity")]
    assert len(found.rows) >= 0.9 * len(measured)


def test_the_bar(found: Validation) -> None:
    """Over every row with a stated layout; batches whose lengths are not stated are predicted, and judged apart."""
    stated = error_summary([g.error for g in found.groups if "assumed" not in g.meter])
    assert stated["groups"] >= 300
    assert stated["median_abs_error"] <= 0.04
    assert stated["p90_abs_error"] <= 0.11
    assert abs(stated["bias"]) <= 0.02
    # lengths of samples are assumed: the source that does not state them is no smooth function of them
    assert {row["assumed"] for row in ROWS} == {"", "lengths", "lengths, micro-batch", "model"}


def test_verdicts() -> None:
    """Runs that failed for memory are predicted to fail."""
    failed = [v.right for v in verdicts() if v.evidence == "oom"]
    assert len(failed) >= 60
    assert sum(failed) >= 0.95 * len(failed)
    (one,) = verdicts([dict(ROWS[0], evidence="oom", peak_mem_gib="")])
    assert not one.right


def test_one_vote_a_configuration(found: Validation) -> None:
    assert sum(len(g.ids) for g in found.groups) == len(found.rows)
    assert len({(g.source, g.configuration) for g in found.groups}) == len(found.groups) < len(found.rows)
    # SimuMax measured each layout with 4, 8 and 32 micro-batches
    first = next(g for g in found.groups if "TM0025" in g.ids)
    assert first.ids == ("TM0025", "TM0033", "TM0041")
    assert first.measured == 66.55 * GIB


def test_meters(found: Validation) -> None:
    meters = {r.source.split()[0]: r.meter.partition(",")[0] for r in found.rows}
    assert {source for source, meter in meters.items() if meter == "device"} == {"BigScience", "InternEvo"}
    assert {source for source, meter in meters.items() if meter == "reserved"} >= {"torchtitan", "ms-swift"}
    constants = read_calibration("training_memory")
    for r in found.rows:
        if r.parts["held"]:
            expected = r.parts["held"]
            expected += (r.parts["tensors"] - r.parts["held"]) * constants["reserved_of_varied_lengths"]
        else:
            expected = r.parts["tensors"] * (1 if "allocated" in r.meter else constants["reserved_over_allocated"])
            expected += constants["context_bytes"] if r.meter == "device" else 0
        assert r.predicted == expected


def test_constants_hold_without_a_source(found: Validation) -> None:
    """The share fitted to some sources predicts others: 2022's DeepSpeed and 2024's FSDP2 agree on it."""
    shares = [fit_constants(found.rows, without=source) for source in ("torchtitan", "BLOOM", "InternEvo")]
    share = [one["reserved_over_allocated"] for one in shares]
    assert max(share) - min(share) < 0.035
    rows = [row for row in ROWS if "BLOOM" in row["source"]]
    alone = validate(rows, "training-memory", calibration=shares[1])
    assert alone.median_abs_error <= 0.06
    assert alone.p90_abs_error <= 0.12
    nobody = fit_constants([row for row in found.rows if row.meter == "reserved"])
    assert nobody["context_bytes"] is None
    assert nobody["reserved_of_varied_lengths"] is None


def test_the_calibration_is_the_fit(found: Validation) -> None:
    constants = read_calibration("training_memory")
    for name, value in fit_constants(found.rows).items():
        assert constants[name] == pytest.approx(value, rel=1e-6)
    assert constants["date"]
    assert constants["data"]
    stated = [row for row in found.rows if "assumed" not in row.meter]
    left, errors = constants["residuals"]["all"], error_summary([g.error for g in groups(stated)])
    assert left["configurations"] == errors["groups"]
    for name in ("median_abs_error", "p90_abs_error"):
        assert left[name] == pytest.approx(errors[name], abs=0.0006)


def test_no_row_bears_a_constant_of_its_own() -> None:
    path = Path(llmhw.__file__).parent / "catalog" / "calibration.json"
    numbers = json.loads(path.read_text())["training_memory"]
    assert {name for name, value in numbers.items() if isinstance(value, (int, float))} == {
        "reserved_over_allocated",
        "context_bytes",
        "reserved_of_varied_lengths",
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
    assert "program='a blog' must be one of megatron-deepspeed" in odd.skipped[0][2]
    assert odd.table()[0][4] == "-"


def test_rows_that_say_no_more_than_their_source() -> None:
    """Software, formats and what is recomputed follow from the layout and the method where no column says them."""
    own = "id source model_name seq_len gpu n_gpus tp pp cp ep dp zero_stage micro_batch global_batch precision".split()
    own += "recompute method optimizer n_layers d_model n_heads n_kv_heads d_ff vocab peak_mem_gib mem_kind".split()
    rows = [row for row in ROWS if "SimuMax" in row["source"] or "fms" in row["source"]][::3]
    found = validate([{name: row[name] for name in own} for row in rows], "training-memory")
    by = found.by_source()
    assert by["SimuMax v1.2 B200 real runs"].p90_abs_error <= 0.03
    assert all(part.median_abs_error <= 0.2 for part in by.values())
    lora = {"model_name": "llama-3-8b", "method": "qlora", "n_gpus": "1", "seq_len": "512", "recompute": "full"}
    job = training_job(Row(lora))
    assert (job.software, job.base, job.frozen, job.dropout) == ("fsdp", "nf4", True, True)
    assert training_job(Row({**lora, "software": "unsloth"})).loss == "fused"
    assert training_job(Row({**lora, "method": "full", "optimizer": "AdamW 8-bit"})).optimizer == "adamw-8bit"
    assert training_job(Row({**lora, "method": "full", "n_gpus": "8", "zero_stage": "2"})).software == "deepspeed"
    assert training_job(Row({**lora, "method": "pretrain", "tp": "2", "n_gpus": "8"})).kernels == "megatron"
