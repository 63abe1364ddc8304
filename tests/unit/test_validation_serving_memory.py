"""Memory of inference beside published measurements: bars by meter, each source left out, reasons for skipped rows."""

from __future__ import annotations

from typing import Any

import pytest

from llmhw import serving as serving_memory
from llmhw.catalog import read_calibration, read_measurements
from llmhw.margin import known_error
from llmhw.units import GIB, LLMHWError
from llmhw.validation import KINDS, Validation, fit, percentile, validate
from llmhw.validation import serving_memory as validation
from llmhw.validation.serving_memory import (
    each_value,
    mask_buffer_bytes,
    predict_capacity,
    predict_inference,
    predict_llama_cpp,
)
from llmhw.validation.table import Row
from tests.unit.stated import published

TABLES = {
    "inference-memory": "inference_memory",
    "kv-capacity": "vllm_capacity",
    "llama-cpp-memory": "llamacpp_memory",
}


def errors(found: Validation, *meters: str) -> tuple[float, float]:
    values = [abs(group.error) for group in found.groups if group.meter in meters]
    return percentile(values, 50), percentile(values, 90)


# -- bars -------------------------------------------------------------------------------------


def test_allocated_memory_of_inference() -> None:
    found = published("inference-memory")
    median, p90 = errors(found, "allocated")
    assert median < 0.01
    assert p90 < 0.04
    median, p90 = errors(found, "reserved")
    assert median < 0.04
    assert p90 < 0.10
    median, p90 = errors(found, "whole device")
    assert median < 0.04
    assert p90 < 0.10
    assert len(found.rows) == 453


def test_capacity_of_vllm() -> None:
    found = published("kv-capacity")
    assert errors(found, "tokens") < (0.02, 0.12)  # the bar is 0.04 and 0.15
    assert errors(found, "tokens")[1] < 0.12
    assert errors(found, "cache")[1] < 0.10
    assert errors(found, "weights")[1] < 0.01


def test_the_margin_of_a_verdict_is_what_logs_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """How far the predicted room is from the log's, as a share of the engine's budget: nine of ten logs keep to it."""
    held: list[Any] = []

    def kept(*args: Any, **kwargs: Any) -> Any:
        held.append(serving_memory.serving_memory(*args, **kwargs))
        return held[-1]

    monkeypatch.setattr(validation, "serving_memory", kept)
    shares: dict[str, float] = {}
    for row in read_measurements("vllm_capacity"):
        for one in each_value(Row(row), ("kv_cache_tokens", "kv_cache_gib_per_gpu")):
            try:
                found = predict_capacity(one)
            except LLMHWError:
                continue
            if found.meter in ("tokens", "cache"):
                room = held[-1].kv_bytes * (found.predicted - found.measured) / found.predicted
                shares.setdefault(row["id"], abs(room) / held[-1].budget_bytes)
    stated = read_calibration("serving_memory")["residuals"]["kv-capacity, share of the budget"]
    assert percentile(shares.values(), 90) == pytest.approx(stated["p90_abs_error"], abs=0.02)
    assert stated["p90_abs_error"] == known_error("paged")
    assert stated["configurations"] <= len(shares)


def test_buffers_of_llama_cpp() -> None:
    found = published("llama-cpp-memory")
    assert max(errors(found, "cache")) < 0.002
    assert errors(found, "weights") < (0.001, 0.003)
    assert errors(found, "weights")[1] < 0.003
    # versions of a fork half a year apart, of whose logs none says which; what they share is exact
    assert errors(found, "compute")[0] < 0.02
    plain = [g for g in found.groups if g.meter == "compute" and "gpu" in g.configuration[1]]
    plain = [g for g in plain if not g.configuration[0].startswith(("deepseek", "kimi"))]
    assert max(abs(group.error) for group in plain) < 0.041
    assert len(found.rows) == 231


@pytest.mark.parametrize("source", ["Qwen1.5", "github:QwenLM/Qwen"])
def test_a_source_judged_with_constants_fitted_without_it(source: str) -> None:
    def belongs(row: dict[str, str]) -> bool:
        return row["source"] == source if ":" in source else row["model_name"].startswith(source)

    rows = read_measurements("inference_memory")
    mine = [row for row in rows if belongs(row)]
    constants = fit([row for row in rows if not belongs(row)], "inference-memory")
    median, p90 = errors(validate(mine, "inference-memory", calibration=constants), "reserved")
    assert median < 0.04
    assert p90 < 0.15


@pytest.mark.parametrize("without", ["index", "github"])
def test_logs_judged_with_constants_fitted_without_them(without: str) -> None:
    rows = read_measurements("vllm_capacity")
    constants = fit([row for row in rows if without not in row["source"]], "kv-capacity")
    mine = [row for row in rows if without in row["source"]]
    assert errors(validate(mine, "kv-capacity", calibration=constants), "tokens")[0] < 0.07


# -- every row is predicted, or says why not --------------------------------------------------


@pytest.mark.parametrize("kind", sorted(TABLES))
def test_every_value_is_predicted_or_skipped(kind: str) -> None:
    found = published(kind)
    rows = [Row(row) for row in read_measurements(TABLES[kind])]
    values = sum(len(each_value(row, KINDS[kind].measured)) for row in rows) if KINDS[kind].each else len(rows)
    assert len(found.rows) + len(found.skipped) == values


def test_reasons() -> None:
    skipped = {i: why for kind in TABLES for i, _, why in validate(None, kind).skipped}
    assert skipped["im0850"] == "a requirement that was rounded to whole GB without a length, not a measurement"
    assert skipped["im0767"].startswith("model='Qwen-VL-Chat' is not known")
    assert skipped["vc010 kv_cache_tokens"] == "the log does not name the model"
    assert skipped["vc011 kv_cache_tokens"].startswith("max_num_seqs is not shown")
    assert skipped["vc005 kv_cache_tokens"].startswith("number_format='aqlm-2bit' is not known")
    assert skipped["vc035 kv_cache_tokens"].startswith("accelerator='unknown' is not known")
    assert "without the device" in skipped["lc055 host_compute_mib"]


def test_the_table_s_own_model_sizes_are_not_needed() -> None:
    for table in TABLES.values():
        ids = [row["id"] for row in read_measurements(table)]
        assert len(ids) == len(set(ids))


# -- single rows ------------------------------------------------------------------------------


def inference(**cells: Any) -> Row:
    base = {
        "model": "Qwen2.5-7B",
        "quant": "bf16",
        "kv_dtype": "bf16",
        "program": "transformers",
        "mem_kind": "allocated",
        "n_gpus": "1",
        "batch": "1",
        "isl": "6144",
        "osl": "2048",
        "peak_mem_gb": "15.38",
    }
    return Row({**base, **cells}, "R")


def test_logits_of_the_whole_prompt_before_4_45() -> None:
    old, new = (predict_inference(inference(prompt_logits=whole)) for whole in ("true", ""))
    logits = 6 * 6144 * 152064 - 6144 * 2 * (3 * 18944 + 2 * 3584)
    assert old.predicted - new.predicted == pytest.approx(logits, rel=1e-6)


def test_readings_of_unknown_kind() -> None:
    found = predict_inference(inference(mem_kind="unknown", meter="reserved", prompt_logits="true"))
    assert found.meter == "reserved"
    at_end = predict_inference(inference(mem_kind="unknown", meter="allocated", read_at="end"))
    assert (at_end.meter, sorted(at_end.parts)) == ("allocated", ["KV cache", "weights", "workspaces"])


def test_files_with_a_second_head() -> None:
    row = {"model": "Qwen3-0.6B", "mem_kind": "unknown", "meter": "allocated", "read_at": "end"}
    plain, fp8 = (predict_inference(inference(quant=q, **row)) for q in ("bf16", "fp8"))
    assert "head" not in plain.parts
    assert fp8.parts["head"] == 2 * 151936 * 1024
    loading = predict_inference(inference(model="Qwen2.5-0.5B", quant="int4-awq", isl="1"))
    assert loading.parts["loading"] > 0.2 * GIB


def test_autoawq_caches_the_answer_and_fuses_first() -> None:
    row = {"model": "Mistral-7B", "quant": "int4-awq", "program": "autoawq", "n_gpus": "1"}
    short = predict_inference(inference(isl="64", osl="64", **row))
    assert short.parts["cache"] == 64 * 131072
    assert short.parts["moment"] == pytest.approx(0.39 * GIB, rel=0.02)  # q, k and v of 32 layers in 4 bit
    long = predict_inference(inference(isl="2048", osl="2048", **row))
    assert long.parts["moment"] > 10 * 32 * 2048**2


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        ({"program": "mlx"}, "R: program='mlx' must be one of autoawq, transformers"),
        ({"mem_kind": "unknown"}, "R: mem_kind='unknown' must be allocated or reserved"),
        ({"quant": "int33"}, "number_format='int33' is not known"),
        ({"batch": "two"}, "R: batch='two' must be a whole number of at least 1"),
        ({"isl": "-1"}, "R: isl='-1' must be a whole number of at least 0"),
    ],
)
def test_cells_that_cannot_be_read(cells: dict[str, str], text: str) -> None:
    with pytest.raises(LLMHWError) as error:
        predict_inference(inference(**cells))
    assert str(error.value).startswith(text)


def capacity(**cells: Any) -> Row:
    base = {
        "model_name": "Llama-3.1-8B",
        "quant": "bf16",
        "gpu": "A100 40GB SXM4",
        "tp": "1",
        "vllm_version": "0.6.6 (V0)",
        "max_model_len": "8192",
        "kv_cache_tokens": "159000",
    }
    return Row({**base, **cells}, "V")


def test_memory_of_a_card() -> None:
    known = predict_capacity(capacity())
    assert known.error == pytest.approx(0, abs=0.02)
    card = predict_capacity(capacity(gpu="40GB card", card_gib="40"))
    assert card.predicted == pytest.approx(known.predicted, abs=16)
    visible = predict_capacity(capacity(gpu="39.55 GiB card", visible_gib="39.55"))
    assert visible.predicted == pytest.approx(known.predicted, abs=16)
    stated = predict_capacity(capacity(gpu="unknown", total_gpu_memory_gib="39.55"))
    assert stated.predicted == pytest.approx(known.predicted, abs=16)
    with pytest.raises(LLMHWError, match="accelerator='unknown' is not known"):
        predict_capacity(capacity(gpu="unknown"))


def test_arguments_of_the_engine() -> None:
    usual = predict_capacity(capacity()).predicted
    assert predict_capacity(capacity(max_num_seqs="4096")).predicted < usual
    assert predict_capacity(capacity(max_model_len="32768")).predicted < usual
    # prompts are cut into chunks beyond that
    assert predict_capacity(capacity(max_model_len="131072")).predicted > usual
    # and this version takes the context off
    assert predict_capacity(capacity(vllm_version="0.6.4 (V0)")).predicted < usual


def test_a_log_holds_several_values() -> None:
    row = capacity(kv_cache_gib_per_gpu="19.4", model_load_gib_per_gpu="14.99")
    found = validate([dict(row)], "kv-capacity")
    assert [r.id for r in found.rows] == [f"row 1 {name}" for name in KINDS["kv-capacity"].measured]
    assert [r.meter for r in found.rows] == ["tokens", "cache", "weights"]
    assert max(abs(r.error) for r in found.rows) < 0.02
    with pytest.raises(LLMHWError, match="quantity='kv' must be one of kv_cache_tokens, kv_cache_gib_per_gpu"):
        predict_capacity(capacity(quantity="kv"))


def llama_cpp(**cells: Any) -> Row:
    base = {
        "model_name": "Llama 3.1 8B",
        "quant": "Q4_K_M",
        "bpw": "4.89",
        "n_ctx": "8192",
        "n_ubatch": "512",
        "kv_type_k": "f16",
        "kv_type_v": "f16",
    }
    return Row({**base, **cells}, "L")


def test_keys_and_values_in_two_formats() -> None:
    both = predict_llama_cpp(llama_cpp(quantity="kv_self_mib", kv_self_mib="1024"))
    assert both.predicted == both.measured
    mixed = predict_llama_cpp(llama_cpp(quantity="kv_self_mib", kv_self_mib="1024", kv_type_k="q8_0"))
    assert mixed.predicted == both.predicted * (8.5 + 16) / 32


def test_a_mix_of_one_s_own_goes_by_its_bits() -> None:
    mix = predict_llama_cpp(llama_cpp(quantity="model_size_gib", model_size_gib="4.58"))
    assert mix.error == pytest.approx(0, abs=0.005)
    own = predict_llama_cpp(llama_cpp(quantity="model_size_gib", model_size_gib="4.67", bpw="5.0"))
    assert own.predicted == 8030261248 * 5 / 8


def test_compute_buffers() -> None:
    with pytest.raises(LLMHWError, match="without the device that reads it"):
        predict_llama_cpp(llama_cpp(quantity="host_compute_mib", host_compute_mib="300"))
    with pytest.raises(LLMHWError, match="model='Nobody 8B' is not known"):
        predict_llama_cpp(llama_cpp(model_name="Nobody 8B", quantity="kv_self_mib"))


def test_masks_of_the_first_qwen() -> None:
    assert mask_buffer_bytes(layers=1, length=3) == 9
