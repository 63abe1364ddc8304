"""Columns of tables: what they mean, other names that are read, cells that cannot be used, and tables to fill."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llmhw.units import LLMHWError
from llmhw.validation import KINDS, columns, template, validate
from llmhw.validation.columns import COLUMNS, OF_KIND, other_names, plain_name
from llmhw.validation.kinds import Predictor
from llmhw.validation.serving_memory import each_value
from llmhw.validation.table import Row
from tests.unit.stated import published

EXAMPLES = {kind: next(csv.DictReader(io.StringIO(template(kind)))) for kind in KINDS}


def reason(kind: str, **cells: str) -> str:
    """Why the example row of a kind is skipped with these cells; "" if it is predicted."""
    found = validate([EXAMPLES[kind] | cells], kind)
    return found.skipped[0][2] if found.skipped else ""


# -- the list ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_list_has_every_column_of_a_kind(kind: str) -> None:
    entry = KINDS[kind]
    assert set(entry.required) | set(entry.measured) <= set(OF_KIND[kind])
    assert set(OF_KIND[kind]) <= set(COLUMNS)
    assert set(COLUMNS) == {name for names in OF_KIND.values() for name in names}


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_read_no_other_column(kind: str) -> None:
    """Rows that differ in the listed columns only by what was measured are predicted once."""
    entry, read = KINDS[kind], set()

    class Watched(Row):
        def __getitem__(self, column: str) -> str:
            read.add(column)
            return super().__getitem__(column) if column in self else ""

        def with_cells(self, **cells: str) -> Watched:
            return Watched({**self, **cells}, self.name, self.flaw)

    for cells in list(entry.catalog())[::5]:
        row = Watched(cells)
        for one in each_value(row, entry.measured) if entry.each else [row]:
            try:
                entry.predict(one)
                entry.configuration(one)
            except LLMHWError:
                continue
    # the sizes of a model may stand in any table, but logs have their own words for them
    assert read - set(OF_KIND[kind]) <= {"n_layers", "d_model", "n_heads", "n_kv_heads", "d_ff", "vocab"} | {
        "gpu", "device", "device_changes", "seq_len"
    }, kind  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_no_name_means_two_columns_of_a_kind(kind: str) -> None:
    names = [(other, name) for name in OF_KIND[kind] for other in (name, *COLUMNS[name].names)]
    own = set(OF_KIND[kind])
    for (one, first), (other, second) in pairwise(sorted(names)):
        # a column of its own stands for another where the table does without that
        assert one != other or first == second or one in own, (one, first, second)
    assert all(plain_name(other) == other for other, _ in names)


@pytest.mark.parametrize("kind", KINDS)
def test_the_catalog_s_columns_have_their_own_names(kind: str) -> None:
    """But those of sizes, which are called as their sources call them."""
    sizes = {"gpu_mem_gb", "n_layer", "n_head", "n_head_kv", "n_vocab"}
    assert other_names(kind, next(iter(KINDS[kind].catalog()))).keys() <= sizes


# -- tables to fill, and help -----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_is_a_table_that_is_predicted(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(template(kind), encoding="utf-8")
    found = validate(path, kind)
    assert found.predicted >= 1
    assert found.skipped == ()
    assert found.unread == ()
    by_name = {row.id: row for row in published(kind).rows}
    for row in found.rows:
        assert (row.predicted, row.measured) == (by_name[row.id].predicted, by_name[row.id].measured)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_to_be_needed_is(kind: str) -> None:
    table = columns(kind)
    assert len({len(row) for row in table.rows} | {len(table.columns)}) == 1
    needed = {row[0]: row[2] for row in table.rows}
    assert set(needed.values()) <= {"yes", "no", "one of these"}
    for name in (name for name, answer in needed.items() if answer == "yes"):
        with pytest.raises(LLMHWError, match=rf"column '{name}' .*is missing|columns .*'{name}'.* are missing"):
            validate([{c: v for c, v in EXAMPLES[kind].items() if c not in (name, *COLUMNS[name].names)}], kind)
    # the rest may be missing: there is a reason then, or a prediction
    few = {c: v for c, v in EXAMPLES[kind].items() if needed[c] != "no"}
    found = validate([few], kind)
    assert found.rows or found.skipped


def test_unknown_kinds_have_no_template() -> None:
    for ask in (template, columns):
        with pytest.raises(LLMHWError, match="kind='servin' is not known; did you mean serving"):
            ask("servin")
        with pytest.raises(LLMHWError, match="kind=3 is not known"):
            ask(3)  # type: ignore[arg-type]


# -- other names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "serving",
            {"model_name": "model_id", "quant": "quantization", "n_gpus": "num_gpus", "tp": "tensor_parallel_size"},
        ),
        ("serving", {"isl": "Input Tokens", "osl": "output-tokens", "batch_or_concurrency": "max_concurrency"}),
        ("serving", {"engine": "backend", "gpu": "gpu_info", "isl": "n_prompt", "osl": "n_gen"}),
        ("training-throughput", {"n_gpus": "world_size", "global_batch": "gbs", "micro_batch": "micro_batch_size"}),
        ("training-throughput", {"measured_value": "value", "zero_stage": "zero", "seq_len": "seq_length"}),
        ("kv-capacity", {"gpu_memory_utilization": "utilization", "max_num_seqs": "max_sequences"}),
        ("llama-cpp-memory", {"kv_type_k": "type_k", "n_ctx": "ctx_size", "flash_attn": "fa"}),
    ],
)
def test_other_names_are_read(kind: str, names: dict[str, str], tmp_path: Path) -> None:
    plain = {c: v for c, v in EXAMPLES[kind].items() if v}
    renamed = {names.get(c, c): v for c, v in plain.items()}
    path = tmp_path / "renamed.csv"
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(renamed))
        writer.writeheader()
        writer.writerow(renamed)
    wanted = [(r.predicted, r.measured, r.configuration) for r in validate([plain], kind).rows]
    for source in (path, [renamed]):
        found = validate(source, kind)
        assert [(r.predicted, r.measured, r.configuration) for r in found.rows] == wanted
        assert found.unread == ()


def test_a_wrong_cell_is_named_as_the_file_names_it() -> None:
    cells = EXAMPLES["training-throughput"] | {"num_gpus": "eight"}
    del cells["n_gpus"]
    found = validate([cells], "training-throughput")
    assert "num_gpus='eight' must be a whole number of at least 1" in found.skipped[0][2]


def test_two_names_of_one_column_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("model,quant,num_gpus,gpus,gpu,engine,metric,value\n", encoding="utf-8")
    with pytest.raises(LLMHWError, match=r"rows\.csv: columns 'num_gpus' and 'gpus' both mean n_gpus; leave one out"):
        validate(path, "serving")


def test_columns_that_are_not_read_are_told() -> None:
    found = validate([EXAMPLES["serving"] | {"n_gpu": "8", "power": "700"}], "serving")
    assert found.unread == ("n_gpu", "power")
    assert found.warnings()[0] == "Not read, as no column of this kind is called so: 'n_gpu', 'power'."
    assert published("serving").unread == ()


# -- cells ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["abc", "-5", "1.5", "NaN", "=cmd|'/c'!A0", "4", "inf", "\u0661", "0x1", "1e0", "--"])
def test_a_stage_that_is_none_is_not_taken_as_empty(text: str) -> None:
    assert "zero_stage=" in reason("training-throughput", zero_stage=text)
    assert "must be one of 0, 1, 2, 3, fsdp" in reason("training-throughput", zero_stage=text)


@pytest.mark.parametrize("text", ["", "0", "1.0", "3", "FSDP", " fsdp "])
def test_stages_that_are_read(text: str) -> None:
    assert reason("training-throughput", zero_stage=text) == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", ["abc", "-5", "1.5e400", "NaN", "=1+1", "\u0661\u0662", "1_000", "1,000", "8 GPUs", "\x1b[31m8"]
)
def test_no_checked_cell_is_read_as_empty(kind: str, text: str) -> None:
    for name in OF_KIND[kind]:
        if COLUMNS[name].kind != "text":
            found = reason(kind, **{name: text})
            assert f"{name}=" in found, (name, found)
            assert "must be" in found
            assert "\x1b" not in found
            assert "\n" not in found


@pytest.mark.parametrize("column", ["measured_value", "n_gpus", "seq_len"])
def test_digits_of_other_scripts_are_no_number(column: str) -> None:
    assert "must be a" in reason("training-throughput", **{column: "\u0661\u0662"})


def test_truth_is_told_in_few_words() -> None:
    for text in ("true", "TRUE", "Yes", "1"):
        assert reason("training-throughput", sequence_parallel=text) == ""
    assert "dropout='perhaps' must be true or false" in reason("training-throughput", dropout="perhaps")


def test_a_long_cell_or_name_is_cut_in_messages_only() -> None:
    found = validate([EXAMPLES["serving"] | {"id": "x" * 9000, "n_gpus": "y" * 9000, "source": "z" * 9000}], "serving")
    name, source, text = found.skipped[0]
    assert len(name) < 100
    assert len(source) < 300
    assert len(text) < 300
    odd = validate([EXAMPLES["serving"] | {"id": "\x1b[31mred", "source": "a\nb"}], "serving").rows[0]
    assert odd.id.isprintable()
    assert odd.source.isprintable()


@pytest.mark.parametrize(
    "text",
    ['{"memory_bytes": "much"}', '{"memory_bytes": -1}', '{"memory_bytes": 1e300}', '{"name": 3}', '{"peaks": {}}',
     "[]", '{"name": "a", "name": "b"}', "{", '{"memory_bytes": true}', "[" * 5000],
)  # fmt: skip
def test_changes_of_a_device_are_checked(text: str) -> None:
    assert "device_changes=" in reason("training-throughput", device_changes=text)
    assert "must be a JSON object" in reason("training-throughput", device_changes=text)


def test_reasons_are_whole_and_counted_together() -> None:
    rows: list[dict[str, Any]] = [EXAMPLES["serving"] | {"id": f"R{i}", "metric": "speed"} for i in range(7)]
    found = validate(rows, "serving")
    (text, count), = found.reasons()  # fmt: skip
    assert count == 7
    assert text.startswith("metric='speed' must be one of decode_tok_per_s, ")
    for choice in COLUMNS["metric"].choices:
        assert choice in text
    assert "..." not in text
    assert found.sections()[-1].rows == [("7", text)]


# -- predicted once ---------------------------------------------------------------------------


def test_equal_rows_are_predicted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    entry = KINDS["serving"]

    def counted(row: Row, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return entry.predict(row, **options)

    monkeypatch.setitem(KINDS, "serving", replace(entry, predict=counted))
    rows = [EXAMPLES["serving"] | {"id": str(i), "source": f"S{i}", "value": str(100 + i)} for i in range(50)]
    rows += [
        EXAMPLES["serving"] | {"id": "bad", "n_gpus": "eight"},
        EXAMPLES["serving"] | {"id": "bad 2", "n_gpus": "eight"},
    ]
    found = validate(rows, "serving")
    assert calls == 1
    assert [row.measured for row in found.rows] == [100.0 + i for i in range(50)]
    assert [row.id for row in found.rows] == [str(i) for i in range(50)]
    assert found.skipped[0][2].startswith("bad: n_gpus='eight'")
    assert found.skipped[1][2].startswith("bad 2: n_gpus='eight'")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_what_is_predicted(kind: str) -> None:
    entry, predict = KINDS[kind], Predictor(kind)
    whole = [Row(cells) for cells in list(entry.catalog())[::9]]
    rows = [one for row in whole for one in each_value(row, entry.measured)] if entry.each else whole
    for row in rows:
        try:
            row.check(entry.measured)
            wanted = entry.predict(row)
        except LLMHWError:
            with pytest.raises(LLMHWError):
                predict(row)
            continue
        for _ in range(2):
            found = predict(row)
            assert (found.predicted, found.low, found.high) == (wanted.predicted, wanted.low, wanted.high)
            assert found.measured == pytest.approx(wanted.measured, rel=1e-15)
