"""Tables of measurements: a CSV file, or rows in memory, read so that every complaint names its row and column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from os import PathLike
from typing import Any

from llmhw.catalog import model_names, read_model
from llmhw.hardware import Accelerator, accelerator
from llmhw.model import ModelSpec, model
from llmhw.precision import number_format
from llmhw.units import LLMHWError, finite, nearest, unknown_name

Source = str | PathLike[str] | Iterable[Mapping[str, Any]]

# Columns that say the shape of a dense model.
SIZES = ("n_layers", "d_model", "n_heads", "d_ff", "vocab")

# What the column `evidence` calls a row that nobody measured.
_NOT_MEASURED = ("analytic", "estimate", "oom")


class Row(dict[str, str]):
    """The cells of one row as text. A column that the table lacks reads as an empty cell.

    name   the row's id, or its line in the file if it has none; an id that comes twice bears its line too
    flaw   why the row cannot be read, "" if it can
    """

    def __init__(self, cells: Mapping[str, Any], name: str = "", flaw: str = "") -> None:
        super().__init__({column: _text(value) for column, value in cells.items()})
        self.name = name or self["id"]
        self.flaw = flaw

    def __missing__(self, column: str) -> str:
        return ""

    @property
    def source(self) -> str:
        """Who published the measurement, as the table says it."""
        return self["source"] or "(no source)"

    def with_cells(self, **cells: str) -> Row:
        """The row with other values in these cells."""
        return Row({**self, **cells}, self.name, self.flaw)

    def error(self, column: str, expected: str) -> LLMHWError:
        """The error for a cell that cannot be used: row, column, value and what is expected."""
        return LLMHWError(f"{self.name or 'row'}: {column}={self[column]!r} must be {expected}")

    def number(self, column: str, default: float | None = None) -> float:
        """A finite number; `default` if the cell is empty, an error if there is none."""
        if not self[column] and default is not None:
            return default
        value = finite(self[column])
        if value is None:
            raise self.error(column, "a number, without unit and thousands separators")
        return value

    def positive(self, column: str, default: float | None = None) -> float:
        """A finite number above 0; `default` if the cell is empty, an error if there is none."""
        if not self[column] and default is not None:
            return default
        value = finite(self[column])
        if value is None or value <= 0:
            raise self.error(column, "a number above 0, without unit and thousands separators")
        return value

    def count(self, column: str, default: int | None = 1, *, least: int = 1, most: int = 10**9) -> int:
        """A whole number from `least` to `most`; `default` if the cell is empty, an error if that is None.

        >>> Row({"n_gpus": "eight"}, "TT0001").count("n_gpus")
        Traceback (most recent call last):
        llmhw.units.LLMHWError: TT0001: n_gpus='eight' must be a whole number of at least 1
        """
        if not self[column] and default is not None:
            return default
        value = finite(self[column])
        if value is None or not value.is_integer() or value < least:
            raise self.error(column, f"a whole number of at least {least}")
        if value > most:
            raise self.error(column, f"at most {most:,}")
        return int(value)

    def flag(self, column: str) -> bool | None:
        """true or false; None if the cell is empty."""
        if not self[column]:
            return None
        value = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}.get(
            self[column].casefold()
        )
        if value is None:
            raise self.error(column, "true or false")
        return value

    def device(self) -> Accelerator:
        """The accelerator named by `device`, else by `gpu`, with other values for what `device_changes` names (JSON).

        An unknown one raises `LLMHWError` with the nearest known names.
        """
        if not (self["device"] or self["gpu"]):
            raise self.error("gpu", "the name of an accelerator; run `llmhw gpus` for the list")
        found = accelerator(self["device"] or self["gpu"])
        changes = _json(self, "device_changes")
        if not set(changes) <= set(Accelerator.__dataclass_fields__):
            raise self.error("device_changes", "a JSON object of fields of an accelerator")
        return replace(found, **changes) if changes else found

    def number_format(self, default: str = "") -> str:
        """The library's name of the format of the weights: of `weights`, else of `quant`, else `default`."""
        name = self["weights"] or self["quant"] or default
        if not name:
            raise self.error("quant", "the number format of the file; run `llmhw formats` for the list")
        return number_format(name).name

    def spec(self) -> ModelSpec:
        """The model of the row: what its columns say first of these.

        config       with `model_type`: a whole config.json
        model        a name of the catalog or the path of a config.json; `n_layers` and the keys of `config` (JSON)
                     stand in place of the catalog's own
        sizes        n_layers, d_model, n_heads, d_ff and vocab of a dense model: see `sized_model`
        model_name   as `model`, without a remark in brackets and, at need, its owner; before the sizes, if it has
                     experts, which no sizes describe
        """
        changes = _json(self, "config")
        if "model_type" in changes:
            return _changed("", self["config"], 0)
        missing = [column for column in SIZES if not self[column]]
        if not (missing or self["model"] or _has_experts(self["model_name"])):
            heads = self.count("n_heads")
            return sized_model(
                layers=self.count("n_layers", most=10_000),
                hidden=self.count("d_model"),
                heads=heads,
                kv_heads=self.count("n_kv_heads", heads),
                inner=self.count("d_ff"),
                vocab=self.count("vocab"),
                positions=self.count("seq_len", 2048),
                config=self["config"],
            )
        name = self["model"] or self["model_name"].partition(" (")[0]
        if not name:
            raise self.error("model_name", "the name of a model; run `llmhw models` for the list")
        layers = self.count("n_layers", 0, least=0, most=10_000)
        try:
            return _changed(name, self["config"], layers)
        except LLMHWError:
            bare = name.rpartition("/")[2].casefold()
            if bare not in model_names():
                if len(missing) < len(SIZES) and not self["model"]:
                    raise LLMHWError(
                        f"{', '.join(missing)} not stated, and model_name={self['model_name']!r} is not in the catalog"
                    ) from None
                raise
        return _changed(bare, self["config"], layers)

    def check(self, measured: Iterable[str]) -> None:
        """Raise `LLMHWError` with the reason why this row cannot be compared, if there is one.

        measured   columns of measured values: at least one is not empty, and none is anything but a number above 0
        """
        if self.flaw:
            raise LLMHWError(self.flaw)
        if self["duplicate_of"]:
            raise LLMHWError(f"a repeat of row {self['duplicate_of']}, which counts already")
        if self["source_opened"].casefold() == "false":
            raise LLMHWError("source_opened=false: nobody has read the source of this value")
        if self["evidence"] in _NOT_MEASURED:
            raise LLMHWError(f"evidence={self['evidence']!r}: nobody measured this value")
        if self["not_predicted"]:
            raise LLMHWError(self["not_predicted"])
        columns = list(measured)
        for column in [c for c in columns if self[c]] or columns[:1]:
            self.positive(column)


def _json(row: Row, column: str) -> dict[str, Any]:
    from json import loads

    try:
        found = loads(row[column] or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise row.error(column, "a JSON object")
    return found


@cache
def _has_experts(name: str) -> bool:
    try:
        counted = model(name).parameters
    except LLMHWError:
        return False
    return counted.active != counted.total


@cache
def _changed(name: str, config: str, layers: int) -> ModelSpec:
    """A model of the catalog, or of a file, with other values in its config; or, without a name, of that config."""
    from json import loads

    changes: dict[str, Any] = loads(config or "{}") | ({"num_hidden_layers": layers} if layers else {})
    if not changes:
        return model(name)
    try:
        short, known = read_model(name) if name else ("model", {})
    except KeyError:
        raise unknown_name("model", name, model_names(), "run `llmhw models` for the list") from None
    return ModelSpec.from_config({**known, **changes}, name=short)


@cache
def sized_model(
    *, layers: int, hidden: int, heads: int, kv_heads: int, inner: int, vocab: int, positions: int, config: str = ""
) -> ModelSpec:
    """A GPT where the feed-forward part is 4 x hidden wide and every head has its own keys, else a Llama.

    positions   longest sequence, which a GPT has embeddings for
    config      keys of its config with other values, as JSON

    >>> sized_model(layers=24, hidden=2304, heads=24, kv_heads=24, inner=9216, vocab=51200, positions=2048).model_type
    'gpt2'
    """
    from json import loads

    known: dict[str, Any]
    if inner == 4 * hidden and kv_heads == heads:
        known = {
            "model_type": "gpt2",
            "n_embd": hidden,
            "n_layer": layers,
            "n_head": heads,
            "n_inner": inner,
            "n_positions": positions,
        }
    else:
        known = {
            "model_type": "llama",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": inner,
            "tie_word_embeddings": False,
        }
    known |= {"vocab_size": vocab} | loads(config or "{}")
    return ModelSpec.from_config(known, name=known["model_type"])


@dataclass(frozen=True, slots=True)
class Table:
    """Rows with the name of what they were read from, for messages."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def require(self, columns: Iterable[str]) -> None:
        """Raise `LLMHWError` if a column is missing: it names the column, the file and the columns that are there."""
        missing = [column for column in columns if column not in self.columns]
        if not missing:
            return
        hints = {c: nearest(c, [other for other in self.columns if other], 2) for c in missing}
        named = ", ".join(repr(c) + (f" (did you mean {' or '.join(hints[c])}?)" if hints[c] else "") for c in missing)
        verb = "columns {} are" if len(missing) > 1 else "column {} is"
        there = ", ".join(self.columns)
        text = f"{verb.format(named)} missing in {self.name}; its columns are {there}"
        if len(self.columns) == 1 and (";" in there or "\t" in there):
            text = f"{self.name} does not separate its columns by commas; save it as comma-separated CSV"
        raise LLMHWError(text)


def read_table_of(source: Source, name: str = "the given rows") -> Table:
    """The table behind `source`: the path of a CSV file in UTF-8, or rows as mappings from column to value.

    name   what messages call rows in memory

    Rows whose cells are all empty are left out, cells missing at the end of a row are empty, and a row with cells
    beyond the last column has a flaw.
    """
    if isinstance(source, (str, PathLike)):
        return _read_csv(source)
    given = []
    for number, cells in enumerate(source, start=1):
        if not isinstance(cells, Mapping):
            raise LLMHWError(
                f"row {number} is {type(cells).__name__} {str(cells)[:40]!r}, not a mapping from column to value; "
                "give the path of a CSV file, or rows as dicts (of a pandas frame: frame.to_dict('records'))"
            )
        given.append((f"row {number}", cells, ""))
    columns = tuple(dict.fromkeys(str(column) for _, cells, _ in given for column in cells))
    return Table(name, columns, _named(given))


def _named(given: list[tuple[str, Mapping[str, Any], str]]) -> tuple[Row, ...]:
    """Rows with names: the id, the place if there is none, both if the id comes twice."""
    ids = [_text(cells.get("id")) for _, cells, _ in given]
    times = Counter(ids)
    return tuple(
        Row(cells, place if not i else f"{i} ({place})" if times[i] > 1 else i, flaw)
        for i, (place, cells, flaw) in zip(ids, given, strict=True)
    )


def _read_csv(source: str | PathLike[str]) -> Table:
    from csv import Error, reader
    from io import StringIO
    from pathlib import Path

    path = Path(source)
    name = str(path)
    lines = reader(StringIO(_read_text(path), newline=""), strict=True)
    columns: tuple[str, ...] = ()
    given: list[tuple[str, Mapping[str, Any], str]] = []
    line = 1
    try:
        for values in lines:
            cells = [value.strip() for value in values]
            if any(cells) and not columns:
                # spreadsheets leave empty columns at the end
                while not cells[-1]:
                    cells.pop()
                columns = tuple(cells)
            elif any(cells):
                beyond = [value for value in cells[len(columns) :] if value]
                flaw = ""
                if beyond:
                    flaw = (
                        f"line {line} has {len(cells)} cells for {len(columns)} columns, {beyond[0]!r} among them; "
                        "put quotes around cells that hold a comma"
                    )
                row = dict.fromkeys(columns, "") | dict(zip(columns, cells, strict=False))
                given.append((f"line {line}", row, flaw))
            line = lines.line_num + 1
    except Error as error:
        raise LLMHWError(
            f"{name}, line {line} is not CSV ({error}); close its quotes, and double those inside"
        ) from None
    if not columns:
        raise LLMHWError(f"{name} is empty; its first line must name the columns")
    twice = [column for column, times in Counter(columns).items() if times > 1 and column]
    if twice:
        raise LLMHWError(f"{name} has the column {twice[0]!r} twice; rename or remove one")
    return Table(name, columns, _named(given))


def _read_text(path: Any) -> str:
    from os.path import isdir

    if isdir(path):
        raise LLMHWError(f"{path} is a folder; give the path of a CSV file")
    try:
        data: bytes = path.read_bytes()
    except FileNotFoundError:
        raise LLMHWError(f"{path} does not exist; give the path of a CSV file") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or error
        raise LLMHWError(f"{path} cannot be read ({reason}); give the path of a CSV file") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise LLMHWError(f"{path} is UTF-16 text; save it as CSV in UTF-8")
    if b"\0" in data:
        raise LLMHWError(f"{path} is not a text file; save it as CSV in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LLMHWError(
            f"{path} is not UTF-8: byte {data[error.start]:#04x} in line {line}; save it as CSV in UTF-8"
        ) from None


def _text(value: Any) -> str:
    """A cell as text: None and nan are empty, truth values in lower case."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value).strip()
