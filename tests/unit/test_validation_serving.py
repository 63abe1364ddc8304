"""Published speed of inference: every row predicted or skipped with a reason, how well, and none above the bound."""

from __future__ import annotations

from typing import Any

import pytest

from llmhw.catalog import read_calibration, read_measurements
from llmhw.hardware import accelerator
from llmhw.rates import serving_constants
from llmhw.units import LLMHWError
from llmhw.validation import Validation, fit, validate
from llmhw.validation.serving import above_bound, assumed, software_of
from llmhw.validation.table import Row
from tests.unit.stated import README, check_readme, published

ROWS = read_measurements("inference_throughput")
ONE = next(row for row in ROWS if row["source"].startswith("TensorRT-LLM 0.17") and row["tp"] == "8")

# What they share takes long: one worker makes it.
pytestmark = pytest.mark.xdist_group("serving")


@pytest.fixture(scope="module")
def found() -> Validation:
    return published("serving")


def reason(**change: str) -> str:
    result = validate([dict(ONE) | change], "serving")
    assert not result.rows
    return result.skipped[0][2]


def test_every_row_is_predicted_or_skipped_with_a_reason(found: Validation) -> None:
    assert len(found.rows) + len(found.skipped) + len(found.repeats) == len(ROWS)
    assert len(found.rows) >= 3420
    assert all(why for _, _, why in found.skipped)
    assert len(found.reasons()) < 40


def test_errors_are_those_that_the_calibration_states(found: Validation) -> None:
    for kind, stated in read_calibration("serving_time")["residuals"].items():
        # MLPerf's scenarios with limits are judged, not fitted
        limited = {row["id"] for row in ROWS if row["batch_or_concurrency"] in ("Server", "Interactive")}
        fitted = [g for g in found.groups if g.meter == kind and not limited.intersection(g.ids)]
        sizes = [abs(group.error) for group in fitted]
        assert len(sizes) == stated["groups"]
        assert sum(sizes) / len(sizes) == pytest.approx(stated["mean_abs_error"], abs=2e-3), kind


@pytest.mark.parametrize(
    ("kind", "median", "p90"), [("throughput", 0.11, 0.38), ("decode", 0.08, 0.30), ("prefill", 0.20, 0.75)]
)
def test_errors_of_each_class(found: Validation, kind: str, median: float, p90: float) -> None:
    part = found.by_meter()[kind]
    assert part.median_abs_error is not None
    assert part.p90_abs_error is not None
    assert part.median_abs_error <= median
    assert part.p90_abs_error <= p90


def test_intervals_are_those_of_left_out_sources(found: Validation) -> None:
    assert found.coverage80 is not None
    assert found.coverage80 > 0.8
    for low, high in read_calibration("serving_time")["interval"].values():
        assert low < 1 < high


def test_readme_states_the_errors(found: Validation) -> None:
    lines = {
        "throughput": "inference, throughput of batches",
        "decode": "inference, decoding of one stream",
        "prefill": "inference, prompts",
    }
    check_readme(found, "serving_time", lines)
    known, text = read_calibration("serving_time"), README.read_text(encoding="utf-8")
    assert f"{len(ROWS):,} rows of " in text
    assert f"{len(found.rows):,} predicted" in text
    left_out = known["left_out"]
    told = {
        "a source": left_out,
        "a family of devices": left_out["family"],
        "an engine": left_out["engine"],
        "a kind of layout": left_out["layout"],
        "a kind of model": left_out["model"],
        "everything: priors alone": known["unfitted"],
    }
    for name, by_meter in told.items():
        row = []
        for meter in lines:
            middle, high = (100 * by_meter[meter][of] for of in ("median_abs_error", "p90_abs_error"))
            row.append(f"{middle:.{0 if meter == 'prefill' else 1}f} %, {high:.0f} %")
        assert f"| {name} | {' | '.join(row)} |" in text, name


def test_measurements_above_the_bound_are_known() -> None:
    found = above_bound()
    # answers that ended early are counted whole, and prompts may have been cached
    faster = {row["id"]: factor for row, factor in found if not {"ending", "caching"} & assumed(row)}
    # prompts waited for a group that only reads them, so that fewer requests decoded than were there
    assert faster.pop("SP1402") == pytest.approx(1.07, abs=0.02)
    # the batch did not fit into what is assumed to be left beside the weights, and was predicted in waves
    assert set(faster) == {"SP0779", "SP0787", "SP1155"}


def test_constants_of_another_kind_are_an_error() -> None:
    for kind, other in (("serving", "training_time"), ("training-throughput", "serving_time")):
        with pytest.raises(LLMHWError, match=rf"not one of .* time; give what `llmhw validate --kind {kind} --fit`"):
            validate(None, kind, calibration=read_calibration(other))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"n_gpus": "eight"}, "n_gpus='eight' must be a whole number"),
        ({"gpu": "H1000", "device": ""}, "accelerator='H1000' is not known"),
        ({"tp": "", "pp": "", "n_gpus": "16"}, "tp not stated, so the layout is not known"),
        ({"quant": "fp7", "weights": ""}, "number_format='fp7' is not known"),
        ({"engine": "mine", "software": ""}, "engine='mine' is not known"),
        ({"metric": "speed"}, "metric='speed' must be one of decode_tok_per_s"),
        ({"value": "-1"}, "value='-1' must be a number above 0"),
        ({"isl": ""}, "isl or osl not stated"),
        ({"model_name": "nobody-7b", "model": ""}, "model='nobody-7b' is not known"),
        ({"tp": "3"}, "is not the 8 devices"),
    ],
)
def test_a_row_that_cannot_be_predicted_says_why(change: dict[str, str], text: str) -> None:
    assert text in reason(**change)


def test_a_fit_moves_what_the_rows_speak_of_and_nothing_else() -> None:
    """An engine made 40 % slower: the fit must follow, and leave other devices alone."""
    rows: list[dict[str, Any]] = []
    for row in ROWS:
        if row["source"].startswith("FasterTransformer") and row["metric"] == "request_latency_ms" and len(rows) < 60:
            rows.append(dict(row) | {"value": str(float(row["value"]) * 1.4)})
    after = fit(rows, "serving")
    before = read_calibration("serving_time")
    assert after["families"]["hopper"] == before["families"]["hopper"]
    assert after["engines"]["llama-cpp"] == before["engines"]["llama-cpp"]
    worse = validate(rows, "serving").median_abs_error
    better = validate(rows, "serving", calibration=after).median_abs_error
    assert worse is not None
    assert better is not None
    assert better < worse / 2


def test_constants_stay_within_what_they_mean() -> None:
    known = read_calibration("serving_time")
    for device in ("A100 80GB SXM4", "H100 SXM5 80GB", "B200", "RTX 4090"):
        for engine in known["engines"]:
            found = serving_constants(accelerator(device), engine)
            for name in ("matmul", "matmul8", "matmul4", "weight_only", "bandwidth", "cache", "inside", "running"):
                assert 0 < getattr(found, name) <= 1, (device, engine, name)
            assert 0 < found.attention <= 1, (device, engine)
            # vLLM 0.5 on Intel launches every kernel from Python, which its rows cannot tell from the loop: 31 ms
            assert 0 <= found.host < (0.04 if engine == "vllm-v0-xpu" else 0.03)
            assert found.meet < 1e-3


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Intel 265K Custom PC (Nvidia RTX 2080 Ti)", "RTX 2080 Ti 11GB"),
        ("Ryzen 9 7950X (Nvidia 4080)", "RTX 4080"),
        ("Pi 5 - 8GB (AMD RX 6700 XT) 12GB", "RX 6700 XT"),
        ("M1 Ultra (48 GPU Core) 64GB", "M1 Ultra 48-core 64GB"),
        ("M4 Mac mini (10 core - 32GB)", "M4 10-core 32GB"),
        ("A100 (memory not stated)", "A100 80GB SXM4"),
        ("Virtualized NVIDIA H200-SXM-141GB", "H200 SXM5 141GB"),
        ("Radeon 8060S (Ryzen AI Max+ 395, Framework)", "Ryzen AI Max+ 395 128GB"),
    ],
)
def test_devices_as_tables_of_speed_write_them(text: str, name: str) -> None:
    assert Row({"gpu": text}).device(usual=True).name == name


@pytest.mark.parametrize(
    ("engine", "year", "name"),
    [
        ("vLLM rocm/vllm rocm6.4.1_vllm_0.9.1_20250715", "2025", "vllm-v1"),
        ("vLLM", "2024", "vllm-v0"),
        ("TensorRT-LLM (nvcr.io/nvidia/tensorrt-llm/release:1.1.0rc2.post2)", "2025", "tensorrt-llm-pytorch"),
        ("Dynamo + TensorRT-LLM (nvcr.io/nvidia/ai-dynamo/tensorrtllm-runtime:0.8.1)", "2026", "tensorrt-llm-pytorch"),
        ("TensorRT-LLM 0.11.0 (per requirements.txt)", "2024", "tensorrt-llm-2025"),
        ("TensorRT 10.11, CUDA 12.9", "2025", "tensorrt-llm-2025"),
        ("SGLang + MoRI (lmsysorg/sglang-rocm:v0.5.12)", "2026", "sglang"),
        ("Ollama or llama.cpp (not stated per row)", "2025", "llama-cpp"),
        ("somebody's", "2025", ""),
    ],
)
def test_engines_by_generation(engine: str, year: str, name: str) -> None:
    assert software_of(engine, year) == name


def test_limits_on_latency_cost_throughput() -> None:
    row = next(row for row in ROWS if row["source"].startswith("MLPerf") and row["batch_or_concurrency"] == "Offline")
    words = ("Offline", "Server", "Interactive")
    found = validate([dict(row) | {"id": word, "batch_or_concurrency": word} for word in words], "serving").rows
    assert [one.id for one in sorted(found, key=lambda one: -one.predicted)] == list(words)


def test_devices_that_only_read_prompts() -> None:
    """As many requests as before, on more devices: the first token no longer holds up the next."""
    row = next(dict(row) for row in ROWS if row["prefill_gpus"] and row["metric"] == "median_tpot_s")
    alone = row | {"n_gpus": row["prefill_gpus"], "tp": "", "prefill_gpus": "", "metric": "median_tpot_s"}
    apart, together = validate([row | {"id": "a"}, alone | {"id": "b"}], "serving").rows
    assert apart.predicted < together.predicted
    for change in ({"n_gpus": row["prefill_gpus"]}, {"decode_workers": "7"}):
        assert "do not leave whole copies" in validate([row | change], "serving").skipped[0][2]
