"""Published facts of models beside the library's own counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import llmhw
from llmhw.catalog import read_table
from llmhw.units import LLMHWError
from llmhw.validation import Row, Validation, validate
from llmhw.validation.facts import FACTS, predict, quantity, unit

ROWS = read_table("model_facts")


@pytest.fixture(scope="module")
def found() -> Validation:
    return validate(None, "facts")


def test_the_bar(found: Validation) -> None:
    written = found.to_dict()
    assert written["rows"] + written["skipped"] == len(ROWS)
    assert written["rows"] >= 96
    assert written["median_abs_error"] < 0.0003
    assert written["p90_abs_error"] < 0.003
    # "37B activated": two digits
    assert found.largest is not None
    assert abs(found.largest) < 0.02
    assert {reason.partition(":")[0] for _, _, reason in found.skipped} == {"ignored"}
    assert written["coverage80"] is None


def test_every_fact_of_the_catalog_is_known_or_says_why_not() -> None:
    for row in ROWS:
        if row["use"] == "truth":
            assert predict(Row(row)).measured > 0
        else:
            with pytest.raises(LLMHWError, match="ignored: "):
                predict(Row(row))
    assert {row["fact"].removesuffix("_published") for row in ROWS if row["use"] == "truth"} == set(FACTS)


def test_a_reader_s_table_needs_no_column_model(tmp_path: Path, found: Validation) -> None:
    columns = ("id", "model_name", "fact", "value", "unit", "quant", "source", "notes", "rotary_buffers")
    bare = validate([{name: row[name] for name in columns} for row in ROWS], "facts")
    predicted = {row.id: row.predicted for row in bare.rows}
    assert all(predicted[row.id] == row.predicted for row in found.rows)
    # those of 2023 are predicted by the rules of 2023
    old = [g for g in bare.groups if "ggml_file_size" in g.configuration]
    assert len(old) == 9
    assert max(abs(g.error) for g in old) < 0.001


@pytest.mark.parametrize(
    ("cells", "predicted", "measured"),
    [
        ({"fact": "params_total", "value": "8.03", "unit": "B"}, 8030261248, 8.03e9),
        ({"fact": "params_total_published", "value": "8030261248", "unit": "params"}, 8030261248, 8030261248),
        (
            {"fact": "safetensors_total_size", "value": "14.96", "unit": "GiB", "quant": "bf16"},
            16060522496,
            16063177687,
        ),
        ({"fact": "kv_cache_bytes_per_token", "value": "128", "unit": "KiB"}, 131072, 131072),
        ({"fact": "kv_cache_bytes_per_token", "value": "64", "unit": "KiB", "quant": "fp8"}, 65536, 65536),
        ({"fact": "mobile_pte_file_size_bf16", "value": "15317", "unit": "MB"}, 16060522496, 15317 * 2**20),
    ],
)
@pytest.mark.parametrize(
    "name", ["llama-3-8b", "Llama 3 8B", "meta-llama/Meta-Llama-3-8B", "someone/llama-3-8b (copy)"]
)
def test_units_and_names(name: str, cells: dict[str, str], predicted: float, measured: float) -> None:
    row = predict(Row({"model_name": name} | cells))
    assert row.predicted == predicted
    assert row.measured == pytest.approx(measured)


def test_a_reader_s_own_config(tmp_path: Path) -> None:
    from llmhw.catalog import read_model

    path = tmp_path / "config.json"
    path.write_text(json.dumps(read_model("gpt2")[1]), encoding="utf-8")
    assert quantity(Row({"model": str(path), "fact": "params_total"})) == llmhw.model("gpt2").parameters.total


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"model_name": "lama-3-8b"}, "model='lama-3-8b' is not known; did you mean llama-3-8b"),
        ({"model_name": ""}, "F1: model_name='' must be the name of a model"),
        ({"fact": "params_totl"}, "fact='params_totl' is not known; did you mean params_total"),
        ({"fact": "mobile_rss_bf16"}, "fact='mobile_rss_bf16': memory of a process on a phone"),
        ({"unit": "GB"}, "F1: unit='GB' must be one of params, M, B, T"),
        ({"fact": "gguf_file_size", "unit": "GB"}, "F1: quant='' must be the number format of the file"),
        (
            {"fact": "gguf_file_size", "unit": "GB", "quant": "Q4_K_N"},
            "number_format='Q4_K_N' is not known; did you mean",
        ),
        ({"use": "ignored: rounded"}, "ignored: rounded"),
        ({"value": "8B"}, "F1: value='8B' must be a number above 0"),
    ],
)
def test_reasons(cells: dict[str, str], reason: str) -> None:
    good = {"id": "F1", "model_name": "llama-3-8b", "fact": "params_total", "value": "8", "unit": "B"}
    assert validate([good], "facts").to_dict()["rows"] == 1
    found = validate([good | cells], "facts")
    assert found.rows == ()
    assert found.skipped[0][2].startswith(reason)


@pytest.mark.parametrize("value", ["", "eight", "-1", "0", "1e400", "nan", "/", "missing.json", "a\0b"])
def test_no_cell_makes_a_traceback(value: str) -> None:
    some = ROWS[::9]
    for column in ROWS[0]:
        found = validate([row | {column: value} for row in some], "facts")
        assert len(found.rows) + len(found.skipped) == len(some)


def test_units_that_a_source_means() -> None:
    assert unit(Row({"fact": "checkpoint_size_fp16", "unit": "GB"})) == 2**30
    assert unit(Row({"fact": "gguf_file_size", "unit": "GB"})) == 10**9
