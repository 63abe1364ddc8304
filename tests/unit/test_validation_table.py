"""Tables of measurements: files that are not what they should be, and cells that cannot be used."""

from __future__ import annotations

import json
from csv import DictWriter
from pathlib import Path
from typing import Any

import pytest

from llmhw.units import LLMHWError
from llmhw.validation import KINDS, validate
from llmhw.validation.table import Row, read_table_of


def saved(folder: Path, content: str | bytes, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "with BOM"])
def test_reads_what_spreadsheets_save(tmp_path: Path, newline: str, start: str) -> None:
    text = newline.join(["id, note ,n,,", 'A,"one, ""two""",3,,', "", ",,,,", "B,short", ",no id,5"])
    table = read_table_of(saved(tmp_path, start + text))
    assert table.columns == ("id", "note", "n")
    assert [dict(row) for row in table.rows] == [
        {"id": "A", "note": 'one, "two"', "n": "3"},
        {"id": "B", "note": "short", "n": ""},
        {"id": "", "note": "no id", "n": "5"},
    ]
    assert [row.name for row in table.rows] == ["A", "B", "line 6"]


def test_a_cell_may_hold_lines(tmp_path: Path) -> None:
    table = read_table_of(saved(tmp_path, 'id,note\n,"one\ntwo"\n,x\n'))
    assert table.rows[0]["note"] == "one\ntwo"
    assert [row.name for row in table.rows] == ["line 2", "line 4"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "rows.csv is empty; its first line must name the columns"),
        (b"\n \n,,\n", "rows.csv is empty"),
        (b"\xef\xbb\xbf", "rows.csv is empty"),
        ("id,n\nA,1\n".encode("utf-16"), "rows.csv is UTF-16 text; save it as CSV in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "rows.csv is not a text file; save it as CSV in UTF-8"),
        (b"id,name\nA,caf\xe9\n", "rows.csv is not UTF-8: byte 0xe9 in line 2; save it as CSV in UTF-8"),
        (b'id,n\nA,1\nB,"open\n', "rows.csv, line 3 is not CSV"),
        (b"id,n,id\nA,1,2\n", "rows.csv has the column 'id' twice; rename or remove one"),
        (b"id,n\n" + b"x" * 200_000, "rows.csv, line 2 is not CSV (field larger than field limit"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(LLMHWError) as error:
        read_table_of(saved(tmp_path, content))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(LLMHWError, match=r"missing\.csv does not exist; give the path of a CSV file"):
        read_table_of(tmp_path / "missing.csv")
    with pytest.raises(LLMHWError, match="is a folder; give the path of a CSV file"):
        read_table_of(str(tmp_path))
    with pytest.raises(LLMHWError, match="cannot be read"):
        read_table_of(saved(tmp_path, "id\n") / "inside")
    with pytest.raises(LLMHWError, match="null byte"):
        read_table_of("a\0b")


def test_cells_beyond_the_last_column_are_a_flaw_of_the_row(tmp_path: Path) -> None:
    table = read_table_of(saved(tmp_path, "id,n\nA,1,234\nB,1,\n"))
    expected = "line 2 has 3 cells for 2 columns, '234' among them; put quotes around cells that hold a comma"
    assert [row.flaw for row in table.rows] == [expected, ""]
    with pytest.raises(LLMHWError, match="line 2 has 3 cells"):
        table.rows[0].check(["n"])


def test_rows_in_memory() -> None:
    given: list[dict[str, Any]] = [{"id": 7, "n": 1.5, "ok": True}, {"n": None}, {"n": float("nan"), "more": 1}]
    table = read_table_of(given)
    assert table.columns == ("id", "n", "ok", "more")
    assert [dict(row) for row in table.rows] == [
        {"id": "7", "n": "1.5", "ok": "true"},
        {"n": ""},
        {"n": "", "more": "1"},
    ]
    assert [row.name for row in table.rows] == ["7", "row 2", "row 3"]
    with pytest.raises(LLMHWError, match=r"row 1 is str 'id', not a mapping .* frame.to_dict\('records'\)"):
        read_table_of(["id", "n"])  # type: ignore[list-item]


def test_an_id_that_comes_twice_bears_its_line(tmp_path: Path) -> None:
    table = read_table_of(saved(tmp_path, "id\nA\nB\nA\n"))
    assert [row.name for row in table.rows] == ["A (line 2)", "B", "A (line 4)"]


def test_missing_columns(tmp_path: Path) -> None:
    table = read_table_of(saved(tmp_path, "id,num_gpus,device\nA,8,h100\n"))
    with pytest.raises(LLMHWError) as error:
        table.require(["id", "n_gpus"])
    assert str(error.value) == (
        f"column 'n_gpus' (did you mean num_gpus?) is missing in {tmp_path / 'rows.csv'}; "
        "its columns are id, num_gpus, device"
    )
    with pytest.raises(LLMHWError, match=r"columns 'n_gpus' \(did you mean num_gpus\?\), 'xyz' are missing in"):
        table.require(["n_gpus", "xyz"])
    for separator in (";", "\t"):
        other = read_table_of(saved(tmp_path, f"id{separator}n\nA{separator}1\n"))
        with pytest.raises(LLMHWError, match="does not separate its columns by commas"):
            other.require(["n"])


def test_cells() -> None:
    row = Row({"id": "R1", "n": "8.0", "x": "2.5", "yes": "True", "gpu": "h100", "word": "eight", "none": ""})
    assert row["a column that is not there"] == ""
    assert (row.count("n"), row.count("none"), row.count("none", 4)) == (8, 1, 4)
    assert (row.number("x"), row.positive("x"), row.positive("none", 1.5)) == (2.5, 2.5, 1.5)
    assert (row.flag("yes"), row.flag("none")) == (True, None)
    assert row.device().name == "H100 SXM5 80GB"
    assert row.with_cells(n="9").count("n") == 9
    assert (row.source, Row({"source": "X"}).source) == ("(no source)", "X")


@pytest.mark.parametrize("value", ["eight", "nan", "inf", "1e400", "1_000", "1,000", "8 GB", ""])
def test_what_is_no_number(value: str) -> None:
    row = Row({"id": "R1", "n": value})
    for read in (row.number, row.positive):
        with pytest.raises(LLMHWError) as error:
            read("n")
        assert str(error.value).startswith(f"R1: n={value!r} must be a number")
        assert str(error.value).endswith("without unit and thousands separators")
    with pytest.raises(LLMHWError, match=r"R1: n=.* must be a whole number of at least 1"):
        row.count("n", None)


def test_cells_out_of_range() -> None:
    row = Row({"n": "-1", "x": "2.5", "big": "1e12", "gpu": "H100x", "flag": "perhaps"}, "line 9")
    for column in ("n", "x"):
        with pytest.raises(LLMHWError, match=rf"line 9: {column}='.*' must be a whole number of at least 0"):
            row.count(column, least=0)
    with pytest.raises(LLMHWError, match="line 9: n='-1' must be a number above 0"):
        row.positive("n")
    with pytest.raises(LLMHWError, match="line 9: big='1e12' must be at most 1,000,000,000"):
        row.count("big")
    with pytest.raises(LLMHWError, match="line 9: flag='perhaps' must be true or false"):
        row.flag("flag")
    with pytest.raises(LLMHWError, match=r"accelerator='H100x' is not known; did you mean .*H100"):
        row.device()
    with pytest.raises(LLMHWError, match="line 9: gpu='' must be the name of an accelerator"):
        row.with_cells(gpu="").device()


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"value": ""}, "R1: value='' must be a number above 0"),
        ({"value": "-3"}, "R1: value='-3' must be a number above 0"),
        ({"value": "0"}, "R1: value='0' must be a number above 0"),
        ({"value": "fast"}, "R1: value='fast' must be a number above 0"),
        ({"value": "", "other": "x"}, "R1: other='x' must be a number above 0"),
        ({"value": "1", "duplicate_of": "R0"}, "a repeat of row R0, which counts already"),
        ({"value": "1", "source_opened": "False"}, "source_opened=false: nobody has read the source of this value"),
        ({"value": "1", "evidence": "analytic"}, "evidence='analytic': nobody measured this value"),
    ],
)
def test_rows_that_do_not_count(cells: dict[str, str], reason: str) -> None:
    with pytest.raises(LLMHWError) as error:
        Row({"id": "R1"} | cells).check(["value", "other"])
    assert str(error.value).startswith(reason)


def test_rows_that_count() -> None:
    for cells in ({"value": "1"}, {"other": "2"}, {"value": "1", "source_opened": "excerpt", "evidence": "measured"}):
        Row(cells).check(["value", "other"])


# -- any model, any device --------------------------------------------------------------------

# DeepSeek-like widths of head, a Mixtral's experts: nothing of these sizes is in the catalog.
OWN = {"n_layers": "4", "d_model": "1024", "n_heads": "16", "n_kv_heads": "4", "d_ff": "2816", "vocab": "32000"}


def parameters(layers: int, hidden: int, heads: int, kv: int, head: int, inner: int, vocab: int, experts: int) -> int:
    """Of a Llama or Mixtral, counted by hand: matrices of attention, of the feed-forward part, norms, two tables."""
    attention = hidden * head * (2 * heads + 2 * kv)
    forward = 3 * hidden * inner * max(1, experts) + hidden * experts
    return layers * (attention + forward + 2 * hidden) + hidden + 2 * vocab * hidden


def test_sizes_describe_a_llama_or_a_mixtral() -> None:
    plain = Row({"model_name": "own", **OWN}).spec()
    assert plain.model_type == "llama"
    assert plain.parameters.total == parameters(4, 1024, 16, 4, 64, 2816, 32000, 0)
    wide = Row({"model_name": "own", **OWN, "head_dim": "128", "tied": "true"}).spec()
    assert wide.parameters.total == parameters(4, 1024, 16, 4, 128, 2816, 32000, 0) - 32000 * 1024
    mixed = Row({"model_name": "own", **OWN, "n_experts": "8", "n_experts_used": "2"}).spec()
    assert (mixed.model_type, mixed.parameters.total) == ("mixtral", parameters(4, 1024, 16, 4, 64, 2816, 32000, 8))
    assert mixed.parameters.total - mixed.parameters.active == 4 * 6 * 3 * 1024 * 2816
    with pytest.raises(LLMHWError, match="n_experts_used='' must be a whole number"):
        Row({"model_name": "own", **OWN, "n_experts": "8"}).spec()


def test_a_config_is_a_path_from_the_table_s_folder_or_json_or_a_name(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"intermediate_size": 512, "vocab_size": 1000}
    (tmp_path / "mine.json").write_text(json.dumps(config), encoding="utf-8")
    table = tmp_path / "rows.csv"
    cells = {"model_name": "own", "fact": "params_total", "unit": "params"}
    total = Row({"config": json.dumps(config)}).spec().parameters.total
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = DictWriter(file, [*cells, "value", "config"])
        writer.writeheader()
        writer.writerow({**cells, "value": total, "config": "mine.json"})
        writer.writerow({**cells, "value": total, "config": json.dumps(config)})
        writer.writerow({**cells, "value": 8030261248, "config": "meta-llama/Meta-Llama-3-8B"})
        writer.writerow({**cells, "value": total, "config": "other.json"})
    found = validate(table, "facts")
    assert [row.error for row in found.rows] == [0, 0, 0]
    assert "other.json" in found.skipped[0][2]


@pytest.mark.parametrize(
    ("stated", "name", "fits"),
    [
        ("8030261248", "llama-3-8b", True),
        ("8.1e9", "llama-3-8b", True),
        ("8e9", "llama-3-8b", True),
        ("7e9", "llama-2-7b", True),  # 6.74 in its last digit
        ("8.3e9", "llama-3-8b", False),
        ("8191000000", "llama-3-8b", False),  # 2.0 % off
        ("684531386000", "deepseek-v3", True),  # with its prediction layers
        ("620000000", "qwen1.5-0.5b", True),  # with its tied head counted again
        ("70e9", "llama-3-8b", False),
    ],
)
def test_parameters_that_are_stated_are_held_against_the_model(stated: str, name: str, fits: bool) -> None:
    row = Row({"model_name": name, "n_params": stated})
    if fits:
        assert row.spec().name == name
    else:
        with pytest.raises(LLMHWError, match=rf"n_params={stated} is not the .* of {name}, which model_name='{name}'"):
            row.spec()


def test_a_device_that_the_catalog_lacks() -> None:
    facts = {"gpu_memory": "48", "gpu_bandwidth": "1,008 GB/s".replace(",", ""), "gpu_tflops_bf16": "165.2"}
    own = Row({"gpu": "ACME Q1", **facts}).device()
    assert (own.memory_bytes, own.memory_bandwidth_bytes_per_second, own.peak("bf16")) == (48e9, 1008e9, 165.2e12)
    with pytest.raises(LLMHWError, match="accelerator='ACME Q1' is not known"):
        Row({"gpu": "ACME Q1", "gpu_memory": "48"}).device()


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        ("Pi CM5 - 16GB (Nvidia RTX 4090)", "RTX 4090"),
        ("RTX 3060 12GB (Raspberry Pi CM5 host)", "RTX 3060 12GB"),
        ("MI300X-192GB 750W", "MI300X"),
    ],
)
def test_what_a_source_wrote_around_a_device(gpu: str, name: str) -> None:
    assert Row({"gpu": gpu}).device().name == name


def test_a_device_of_another_power_or_two_of_them_are_refused() -> None:
    with pytest.raises(LLMHWError, match=r"gpu='MI300X 500W' draws 500 W, and MI300X 750 W"):
        Row({"gpu": "MI300X 500W"}).device()
    with pytest.raises(LLMHWError, match=r"names RTX 4090 and RTX 3090; leave one out"):
        Row({"gpu": "RTX 4090 (RTX 3090)"}).device()


def test_memory_picks_the_device_of_a_name() -> None:
    assert Row({"gpu": "V100 PCIe", "gpu_memory": "32"}).device().name == "V100 PCIe 32GB"


def test_the_format_in_a_name_counts_where_none_is_stated_and_must_agree() -> None:
    assert Row({"model_name": "Qwen/Qwen2.5-7B-Instruct-AWQ"}).number_format() == "int4-awq"
    assert Row({"model_name": "Qwen3-8B-AWQ", "quant": "awq (marlin)"}).number_format() == "int4-awq"
    with pytest.raises(LLMHWError, match=r"quant='fp8' is not the int4-awq that model='Qwen3-8B-AWQ' states"):
        Row({"model_name": "Qwen3-8B-AWQ", "quant": "fp8"}).number_format()


def test_whose_memory_a_peak_is() -> None:
    first = next(row for row in map(Row, KINDS["training-memory"].catalog()) if row.count("n_gpus") == 8)
    one = validate([{**first, "id": "a", "mem_scope": "one device"}], "training-memory").rows[0]
    whole = {**first, "id": "b", "mem_scope": "sum over devices", "peak_mem_gib": 8 * first.number("peak_mem_gib")}
    assert validate([whole], "training-memory").rows[0].error == pytest.approx(one.error)
    assert "must be one of device, sum" in validate([{**first, "mem_scope": "half"}], "training-memory").skipped[0][2]


def test_other_names_of_metrics_are_the_same_measure() -> None:
    cells = {"model_name": "llama-3-8b", "quant": "bf16", "gpu": "H100 SXM5 80GB", "n_gpus": 1, "engine": "vLLM"}
    cells |= {"isl": 1000, "osl": 500, "batch_or_concurrency": 8}
    rows = [
        {**cells, "metric": "output_tokens_per_s_total", "value": 500},
        {**cells, "metric": "in_plus_out_tokens_per_s_total", "value": 1500},
        {**cells, "metric": "request_latency_ms", "value": 8000},
        {**cells, "metric": "batch_latency_s", "value": 8},
        {**cells, "metric": "tpot_ms", "value": 8},
        {**cells, "metric": "mean_tpot_s", "value": 0.008},
    ]
    errors = [row.error for row in validate(rows, "serving").rows]
    assert errors[::2] == pytest.approx(errors[1::2])
