"""Speed of published training runs: every row predicted or skipped with a reason, and how well."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import inf
from statistics import mean
from typing import Any

import pytest

from llmhw.catalog import read_calibration, read_measurements
from llmhw.units import LLMHWError
from llmhw.validation import Validation, fit, validate
from llmhw.validation.regression import Priors, priors, robust_fit
from llmhw.validation.table import Row
from llmhw.validation.training_jobs import cluster_of, compute_format, described, trainer_of
from llmhw.validation.training_throughput import job_of
from tests.unit.stated import README, check_readme, published

ROWS = read_measurements("training_throughput")
ONE = next(row for row in ROWS if row["id"] == "TT0420")  # Llama 3 70B on 64 H100

# What they share takes long: one worker makes it.
pytestmark = pytest.mark.xdist_group("throughput")


@pytest.fixture(scope="module")
def found() -> Validation:
    return published("training-throughput")


def table(*changes: dict[str, str]) -> list[dict[str, str]]:
    return [dict(ONE) | change for change in changes]


def reason(**change: str) -> str:
    result = validate(table(change), "training-throughput")
    assert not result.rows
    return result.skipped[0][2]


# -- how well ---------------------------------------------------------------------------------


def test_every_row_is_predicted_or_skipped_with_a_reason(found: Validation) -> None:
    """A repeat is no row: of the others 97 % are predicted."""
    assert len(found.rows) + len(found.skipped) + len(found.repeats) == len(ROWS)
    assert len(found.rows) >= 0.97 * (len(ROWS) - len(found.repeats))
    assert all(why for _, _, why in found.skipped)


def test_errors_are_those_that_the_calibration_states(found: Validation) -> None:
    stated = read_calibration("training_time")["residuals"]
    parts = found.by_meter()
    assert set(parts) == set(stated)
    for kind, part in parts.items():
        errors = [abs(group.error) for group in part.groups]
        assert len(errors) == stated[kind]["groups"]
        assert mean(errors) == pytest.approx(stated[kind]["mean_abs_error"], abs=2e-3), kind


def test_readme_states_the_errors(found: Validation) -> None:
    lines = {
        "dense": "training, dense models on A100 to GB300",
        "experts": "training, mixtures of experts",
        "other": "training, AMD, TPU, Trainium, desktop cards",
    }
    check_readme(found, "training_time", lines)
    known, text = read_calibration("training_time"), README.read_text(encoding="utf-8")
    assert f"{len(found.rows):,} of {len(ROWS) - len(found.repeats):,} rows of training are predicted" in text
    left_out = known["left_out"]
    told = {
        "a source": left_out,
        "a family of devices": left_out["family"],
        "a trainer": left_out["trainer"],
        "a kind of layout": left_out["layout"],
        "a kind of model": left_out["model"],
        "everything: priors alone": known["unfitted"],
    }
    for name, by_meter in told.items():
        errors = [by_meter[meter] for meter in lines]
        row = [f"{100 * e['median_abs_error']:.1f} %, {100 * e['p90_abs_error']:.0f} %" for e in errors]
        assert f"| {name} | {' | '.join(row)} |" in text, name


@pytest.mark.parametrize(
    ("source", "most"),
    [("Korthikanti et al. 2022 Table 5", 0.035), ("Narayanan et al. 2021 (Megatron-LM SC21) Table 1", 0.05)],
)
def test_mean_error_of_well_described_tables(found: Validation, source: str, most: float) -> None:
    part = found.by_source()[source]
    assert not part.skipped
    assert mean(abs(group.error) for group in part.groups) <= most


def test_llama_3_on_thousands_of_devices(found: Validation) -> None:
    part = found.by_source()["Llama 3 Herd of Models Table 4"]
    assert len(part.groups) == 3
    assert all(abs(group.error) < 0.07 for group in part.groups)


def test_intervals_hold_for_four_of_five_rows_of_each_class(found: Validation) -> None:
    """They are made for sources that are left out of the fit: a little more of the rows that were fitted lie inside."""
    for low, high in read_calibration("training_time")["interval"].values():
        assert low < 1 < high
    parts = found.by_meter()
    assert set(parts) == {"dense", "experts", "other"}
    for name, part in parts.items():
        assert part.coverage80 is not None
        assert 0.75 < part.coverage80 < 0.95, name


# -- what a row says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"n_gpus": "eight"}, "TT0420: n_gpus='eight' must be a whole number of at least 1"),
        ({"gpu": "H1000", "device": ""}, "accelerator='H1000' is not known"),
        ({"gpu": "", "device": ""}, "gpu='' must be the name of an accelerator"),
        ({"dp": "4"}, "tp x pp x cp x dp = 32 x 4 = 128 is not n_gpus=64; mend one of them"),
        ({"global_batch": "1"}, "global_batch=1 is less than micro_batch x dp = 1 x 2"),
        ({"tp": "3"}, "does not divide n_gpus=64"),
        ({"measured_value": "-1"}, "measured_value='-1' must be a number above 0"),
        ({"measured_kind": "speed"}, "measured_kind='speed' must be one of step_time_s"),
        ({"precision": "fp7", "compute": ""}, "compute='fp7'"),
        (
            {"recompute": "some", "recompute_mode": ""},
            "recompute='some' must be one of none, selective, ",
        ),
        ({"d_model": "", "model_name": "Nobody-7B", "model": ""}, "d_model not stated, and model_name='Nobody-7B' is"),
        ({"not_predicted": "states in host memory"}, "states in host memory"),
        ({"device_changes": '{"watts": 1}'}, "TT0420: device_changes='{\"watts\": 1}' must be a JSON object of fields"),
        ({"config": "[1]"}, "TT0420: config='[1]' must be a JSON object"),
        ({"device": "A100 80GB SXM4"}, "format='fp8' has no dense rate on A100 80GB SXM4"),
    ],
)
def test_a_row_that_cannot_be_predicted_says_why(change: dict[str, str], text: str) -> None:
    assert text in reason(**change)


def test_the_rest_is_answered_beside_a_bad_row() -> None:
    result = validate(table({}, {"n_gpus": "eight", "id": "bad"}), "training-throughput")
    assert [row.id for row in result.rows] == ["TT0420"]
    assert [name for name, _, _ in result.skipped] == ["bad"]


def test_a_missing_column_is_named() -> None:
    rows = [{k: v for k, v in ONE.items() if k != "seq_len"}]
    with pytest.raises(LLMHWError, match="seq_len"):
        validate(rows, "training-throughput")


def test_a_table_without_formats_is_of_16_bit() -> None:
    """What `llmhw validate` asks of a table does not include them."""
    bare = {"model_name", "gpu", "n_gpus", "seq_len", "global_batch", "tp", "pp", "measured_kind", "measured_value"}
    found = validate([{name: ONE[name] for name in bare}], "training-throughput")
    assert not found.skipped
    assert job_of(Row({name: ONE[name] for name in bare})).compute_format == "bf16"


def test_the_measures_of_one_run_agree() -> None:
    rows = table({}, {"measured_kind": "step_time_s", "measured_value": str(256 * 8192 / 64 / 1664)})
    speed, time = validate(rows, "training-throughput").rows
    assert speed.predicted / speed.measured == pytest.approx(time.measured / time.predicted)


def test_the_model_of_a_row() -> None:
    sizes = {"n_layers": "16", "d_model": "4096", "n_heads": "32", "d_ff": "14336", "vocab": "32000"}
    for cells, kind, layers in (
        ({}, "llama", 16),
        ({"d_ff": "16384"}, "gpt2", 16),
        ({"gated": "false"}, "nemotron", 16),
        ({"attention": "window", "window": "1024"}, "mistral", 16),
        ({"attention": "mamba2"}, "mamba2", 16),
        ({"n_experts": "64", "n_experts_used": "6", "expert_inner": "1024", "d_ff": ""}, "qwen3_moe", 16),
        ({"n_experts": "64", "n_experts_used": "6", "shared_inner": "2048", "first_dense": "1"}, "qwen2_moe", 16),
        ({"n_experts": "64", "n_experts_used": "6", "expert_inner": "1024", "attention": "mla"}, "deepseek_v3", 16),
        ({"model_name": "mistral-7b"}, "mistral", 16),  # these are its sizes
        ({"model_name": "mistral-7b", "vocab": ""}, "mistral", 16),
        ({"model_name": "Mixtral 8x7B"}, "mixtral", 16),
        ({"model": "mistralai/Mistral-7B-v0.1 (copy)", "n_layers": ""}, "", 0),
        ({"model": "mistral-7b", "n_layers": ""}, "mistral", 32),
        ({"model": "mistral-7b", "config": '{"num_hidden_layers": 3}', "n_layers": ""}, "mistral", 3),
    ):
        row = Row(sizes | {"model_name": "mine"} | cells)
        if kind:
            spec = row.spec()
            assert (spec.model_type, spec.num_layers) == (kind, layers), cells
        else:
            with pytest.raises(LLMHWError, match="is not known"):
                row.spec()


def test_what_a_source_leaves_open_is_the_fastest_that_fits() -> None:
    row = Row(dict(ONE) | {"micro_batch": "", "vpp": "", "interleaving": ""})
    job = job_of(row)
    assert job.parallelism.vpp > 1
    assert described(row).searched == ()


@pytest.mark.parametrize(
    ("change", "layout"),
    [
        ({"pp": "", "tp": ""}, {}),
        # who states the one has none of the other, unless it must
        ({"pp": "", "tp": "8", "recompute_mode": "full"}, {"tp": 8, "pp": 1}),
        ({"pp": "", "tp": "", "kernels": "torch", "zero_stage": "3", "recompute_mode": "full"}, {"tp": 1, "pp": 1}),
        ({"pp": "", "tp": "", "n_gpus": "8", "model": "llama-3.2-1b", "n_layers": ""}, {"tp": 1, "pp": 1}),
    ],
)
def test_a_layout_that_is_not_stated_is_the_usual_one(change: dict[str, str], layout: dict[str, int]) -> None:
    ran = described(Row(dict(ONE) | {"n_params": "", "vpp": "", "dp": ""} | change))
    p = ran.job.parallelism
    assert bool(ran.searched) == (p.zero < 3)  # FSDP that nothing is said beside of has nothing beside it
    assert p.tp <= 8  # inside a node
    assert p.devices == ran.job.cluster.devices
    assert {name: getattr(p, name) for name in layout} == layout


@pytest.mark.parametrize(
    ("cells", "name"),
    [
        ({"software": "NeMo 25.04"}, "megatron-bridge"),
        ({"software": "torchtitan"}, "torchtitan"),
        ({"software": "in-house", "zero_stage": "fsdp"}, "eager"),
        ({"software": "in-house", "zero_stage": "fsdp", "compiled": "true"}, "compiled"),
        ({"software": "in-house", "tp": "8"}, "megatron-lm"),
        ({}, "megatron-bridge"),
    ],
)
def test_software_that_is_not_known_is_a_class_of_its_own(cells: dict[str, str], name: str) -> None:
    assert trainer_of(Row(cells)) == name


@pytest.mark.parametrize(
    ("text", "name", "rate"),
    [
        ("", "adapter", 50e9),
        ("EFA 400 Gb/s", "EFA", 50e9),
        ("RoCE 4x100 Gb/s per node", "RoCE", 6.25e9),
        ("InfiniBand 8x200 Gb/s", "InfiniBand", 25e9),
        ("IB 25 GB/s", "InfiniBand", 25e9),
    ],
)
def test_networks_of_rows(text: str, name: str, rate: float) -> None:
    link = cluster_of(Row({"gpu": "h100", "n_gpus": "64", "network": text})).inter_link
    assert link is not None
    assert (link.name, link.bytes_per_second) == (name, rate)


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        ({"precision": "FP8-CS"}, "fp8"),
        ({"precision": "fp8_mx"}, "mxfp8"),
        ({"precision": "fp8", "fp8_recipe": "block"}, "fp8-block"),
        ({"precision": "mxfp8", "gpu": "h100"}, "fp8-block"),
        ({"precision": "bf16-mixed"}, "bf16"),
    ],
)
def test_formats_of_rows(cells: dict[str, str], found: str) -> None:
    row = Row({"gpu": "b200"} | cells)
    assert compute_format(row, row.device(usual=True)) == found


# -- constants --------------------------------------------------------------------------------


def test_constants_stay_within_what_they_mean() -> None:
    known = read_calibration("training_time")
    for name, prior in known["prior"].items():
        value: Any = known
        for key in name.split("."):
            value = value[key]
        assert prior["source"], name
        # nothing was dragged more than four standard deviations from what was known before
        assert abs(_log(value / prior["value"])) <= 4 * prior["spread"], name
    for family in known["families"].values():
        assert all(0 < family[k] < 1.2 for k in ("matmul", "matmul8", "attention", "inside"))


def _log(x: float) -> float:
    from math import log

    return log(x)


def test_a_fit_to_a_slower_cluster_slows_it_down() -> None:
    def rows() -> Iterator[dict[str, str]]:
        for row in ROWS:
            if row["source"].endswith("26.04") and "llama3-70b" in row["model_name"]:
                yield row | {"measured_value": str(0.8 * float(row["measured_value"])), "duplicate_of": ""}

    slower = fit(list(rows()), "training-throughput")
    before = validate(list(rows()), "training-throughput")
    after = validate(list(rows()), "training-throughput", calibration=slower)
    assert before.median_abs_error
    assert after.median_abs_error
    assert after.median_abs_error < before.median_abs_error / 2
    # what these rows say nothing about stays
    before_ampere, after_ampere = (c["families"]["ampere"] for c in (read_calibration("training_time"), slower))
    assert after_ampere["matmul"] == pytest.approx(before_ampere["matmul"], rel=1e-3)


def test_nothing_to_fit_is_an_error() -> None:
    with pytest.raises(LLMHWError, match="no row that can be predicted"):
        fit(table({"tp": ""}), "training-throughput")


def test_outliers_do_not_pull_a_robust_fit_far() -> None:
    data = [1.0] * 9 + [3.0]

    numpy = pytest.importorskip("numpy")
    found = robust_fit(
        lambda c: numpy.log(c[0] / numpy.array(data)), lambda c, r: numpy.ones((10, 1)), [1.5], [5.0], rounds=10
    )
    assert found[0] == pytest.approx(1.0, abs=0.03)


def test_a_prior_holds_where_nothing_is_measured() -> None:
    numpy = pytest.importorskip("numpy")
    found = robust_fit(lambda c: numpy.zeros(3), lambda c, r: numpy.zeros((3, 1)), [0.7], [0.1])
    assert found == pytest.approx([0.7])


def test_a_held_constant_moves_only_where_known_values_are_the_start() -> None:
    """An own fit may move it; the catalog's leaves it where its measurement has it."""
    prior = {"value": 0.8, "spread": 1.0, "source": "measured", "most": 1.0}
    known = {"link": {"share": 0.7}, "prior": {"link.share": prior | {"held": True}}}
    assert priors(known, False) == Priors(["link.share"], [0.7], [1.0], [1.0])
    assert priors(known, True) == Priors([], [], [], [])


def test_a_fit_stays_within_what_is_possible() -> None:
    """Rows that ask for a share of 1.3: it stays at 1, and what else would explain them moves instead."""
    numpy = pytest.importorskip("numpy")
    ones = numpy.ones((4, 2))
    found = robust_fit(
        lambda c: numpy.log(c[0] * c[1] / 1.3 * ones[:, 0]), lambda c, r: ones, [0.9, 1.0], [0.5, 0.5], [1.0, inf]
    )
    assert found == [1.0, pytest.approx(1.3, abs=0.01)]


def test_shares_of_training_are_bounded() -> None:
    shares = r"matmul\d?|grouped|attention|flash\d|bandwidth|between|inside|through_host|unaligned|contention"
    shares += r"|\w+_(exposed|share)"
    for name, prior in read_calibration("training_time")["prior"].items():
        assert (prior.get("most") == 1) == bool(re.fullmatch(shares, name.rpartition(".")[2])), name
        assert prior["source"], name
