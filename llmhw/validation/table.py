"""Tables of measurements: a CSV file, or rows in memory, read so that every complaint names its row and column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from os import PathLike
from typing import Any

from llmhw.catalog import model_names, read_model
from llmhw.files import parse_json
from llmhw.hardware import Accelerator, accelerator
from llmhw.model import ModelSpec, model
from llmhw.precision import number_format
from llmhw.units import LLMHWError, finite, nearest, shown, unknown_name
from llmhw.validation.columns import FLAGS, NUMBER

Source = str | PathLike[str] | Iterable[Mapping[str, Any]]

# Columns that say the shape of a dense model.
SIZES = ("n_layers", "d_model", "n_heads", "d_ff", "vocab")

# Bytes of a file of measurements, at most: some five million rows.
MOST_BYTES = 2 * 10**9

# What the column `evidence` calls a row that nobody measured.
_NOT_MEASURED = ("analytic", "estimate", "oom")


class Row(dict[str, str]):
    """The cells of one row as text. A column that the table lacks reads as an empty cell.

    name     the row's id, or its line in the file if it has none; an id that comes twice bears its line too
    flaw     why the row cannot be read, "" if it can
    called   what the file calls a column that it has under another name
    """

    called: Mapping[str, str] = {}

    def __init__(self, cells: Mapping[str, Any], name: str = "", flaw: str = "") -> None:
        super().__init__({column: _text(value) for column, value in cells.items()})
        self.name = name or _label(self["id"])
        self.flaw = flaw

    @classmethod
    def of_text(cls, cells: Iterable[tuple[str, str]], name: str, flaw: str = "") -> Row:
        """A row of cells that are text already, without blanks around."""
        row = cls.__new__(cls)
        dict.__init__(row, cells)
        row.name, row.flaw = name, flaw
        return row

    def __missing__(self, column: str) -> str:
        return ""

    @property
    def source(self) -> str:
        """Who published the measurement, as the table says it."""
        named = self["source"] or "(no source)"
        return _label(named, 200)

    def with_cells(self, **cells: str) -> Row:
        """The row with other values in these cells."""
        row = Row({**self, **cells}, self.name, self.flaw)
        row.called = self.called
        return row

    def error(self, column: str, expected: str) -> LLMHWError:
        """The error for a cell that cannot be used: row, column, value and what is expected."""
        name = self.called.get(column, column)
        return LLMHWError(f"{self.name or 'row'}: {name}={shown(self[column])} must be {expected}")

    def number(self, column: str, default: float | None = None) -> float:
        """A finite number; `default` if the cell is empty, an error if there is none."""
        if not self[column] and default is not None:
            return default
        value = finite(self[column])
        if value is None:
            raise self.error(column, NUMBER.replace(" above 0", ""))
        return value

    def positive(self, column: str, default: float | None = None) -> float:
        """A finite number above 0; `default` if the cell is empty, an error if there is none."""
        if not self[column] and default is not None:
            return default
        value = finite(self[column])
        if value is None or value <= 0:
            raise self.error(column, NUMBER)
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
        value = FLAGS.get(self[column].casefold())
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
        for name, value in changes.items():
            known = getattr(found, name, None) if name in Accelerator.__dataclass_fields__ else None
            number = isinstance(known, (int, float)) and not isinstance(value, bool)
            usual = isinstance(value, (int, float)) and 0 < value < 1e30 if number else isinstance(value, str)
            if not (isinstance(known, (int, float, str)) and usual):
                raise self.error(
                    "device_changes", "a JSON object of fields of an accelerator: names, and numbers above 0"
                )
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
    try:
        return parse_json(row[column] or "{}", column)
    except LLMHWError:
        raise row.error(column, "a JSON object, each key once") from None


@cache
def _has_experts(name: str) -> bool:
    try:
        counted = model(name).parameters
    except LLMHWError:
        return False
    return counted.active != counted.text


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
    """Rows with the name of what they were read from, for messages.

    rows   read from the file anew each time they are gone through
    """

    name: str
    columns: tuple[str, ...]
    rows: Collection[Row]

    def require(self, columns: Iterable[str]) -> None:
        """Raise `LLMHWError` if a column is missing: it names the column, the file and the columns that are there."""
        missing = [column for column in columns if column not in self.columns]
        if not missing:
            return
        hints = {c: nearest(c, [other for other in self.columns if other], 2) for c in missing}
        named = ", ".join(
            repr(c) + (f" (did you mean {' or '.join(_label(h) for h in hints[c])}?)" if hints[c] else "")
            for c in missing
        )
        verb = "columns {} are" if len(missing) > 1 else "column {} is"
        there = ", ".join(_label(column) for column in self.columns[:40]) + (", ..." if len(self.columns) > 40 else "")
        text = f"{verb.format(named)} missing in {self.name}; its columns are {there}"
        if len(self.columns) == 1 and (";" in self.columns[0] or "\t" in self.columns[0]):
            text = f"{self.name} does not separate its columns by commas; save it as comma-separated CSV"
        raise LLMHWError(text)

    def renamed(self, names: Mapping[str, str]) -> Table:
        """The same with other names for some columns."""
        if not names:
            return self
        columns = tuple(names.get(column, column) for column in self.columns)
        if isinstance(self.rows, _Lines):
            return Table(self.name, columns, _Lines(self.rows.path, columns, self.rows.lines, self.rows.twice, names))
        called = {new: old for old, new in names.items()}
        rows = []
        for row in self.rows:
            rows.append(Row.of_text([(names.get(c, c), value) for c, value in row.items()], row.name, row.flaw))
            rows[-1].called = called
        return Table(self.name, columns, tuple(rows))


def read_table_of(source: Source, name: str = "the given rows") -> Table:
    """The table behind `source`, as `table_of` gives it, with all its rows in memory."""
    found = table_of(source, name)
    return replace(found, rows=tuple(found.rows))


def table_of(source: Source, name: str = "the given rows") -> Table:
    """The table behind `source`: the path of a CSV file in UTF-8, or rows as mappings from column to value.

    name   what messages call rows in memory

    Rows whose cells are all empty are left out, cells missing at the end of a row are empty, and a row with cells
    beyond the last column has a flaw.
    """
    if isinstance(source, (str, PathLike)):
        return _open_csv(source)
    try:
        rows = iter(source)
    except TypeError:
        raise LLMHWError(f"source={shown(source)} must be the path of a CSV file, or rows as dicts") from None
    given = []
    for number, cells in enumerate(rows, start=1):
        if not isinstance(cells, Mapping):
            raise LLMHWError(
                f"row {number} is {type(cells).__name__} {str(cells)[:40]!r}, not a mapping from column to value; "
                "give the path of a CSV file, or rows as dicts (of a pandas frame: frame.to_dict('records'))"
            )
        given.append((f"row {number}", cells))
    columns = tuple(dict.fromkeys(str(column) for _, cells in given for column in cells))
    times = Counter(_text(cells.get("id")) for _, cells in given)
    return Table(name, columns, tuple(_named(place, cells, times) for place, cells in given))


def _named(place: str, cells: Mapping[str, Any], times: Mapping[str, int]) -> Row:
    """A row with a name: the one it has, else its id, the place if there is none, both if the id comes twice."""
    if isinstance(cells, Row) and cells.name:
        return cells
    i = _text(cells.get("id"))
    return Row(cells, place if not i else f"{_label(i)} ({place})" if times[i] > 1 else _label(i))


@dataclass(frozen=True, slots=True)
class _Lines(Collection[Row]):
    """The rows of a CSV file that was found to be one, read as they are asked for.

    lines   how many rows there are
    twice   ids that come more than once
    names   of the file -> of the column that it stands for
    """

    path: Any
    columns: tuple[str, ...]
    lines: int
    twice: frozenset[str]
    names: Mapping[str, str]

    def __len__(self) -> int:
        return self.lines

    def __contains__(self, row: object) -> bool:
        return any(row is other for other in self)

    def __iter__(self) -> Iterator[Row]:
        columns, twice, width = self.columns, self.twice, len(self.columns)
        called = {new: old for old, new in self.names.items()}
        at = columns.index("id") if "id" in columns else width
        for line, values in _csv_lines(self.path):
            cells = list(map(str.strip, values))
            flaw = ""
            if len(cells) > width:
                beyond = next((value for value in cells[width:] if value), "")
                if beyond:
                    flaw = (
                        f"line {line} has {len(cells)} cells for {width} columns, {shown(beyond)} among them; "
                        "put quotes around cells that hold a comma"
                    )
            elif len(cells) < width:
                cells += [""] * (width - len(cells))
            i = cells[at] if at < width else ""
            name = f"line {line}" if not i else f"{_label(i)} (line {line})" if i in twice else _label(i)
            row = Row.of_text(zip(columns, cells, strict=False), name, flaw)
            if called:
                row.called = called
            yield row


def _open_csv(source: str | PathLike[str]) -> Table:
    """The table in a CSV file, which is read once before: for its columns, its ids, and what is wrong with it."""
    from pathlib import Path

    path = Path(source)
    _check_text(path)
    columns: tuple[str, ...] = ()
    once: set[str] = set()
    twice: set[str] = set()
    lines = at = 0
    for _, values in _csv_lines(path, head=True):
        if not columns:
            columns = tuple(map(str.strip, values))
            while not columns[-1]:  # spreadsheets leave empty columns at the end
                columns = columns[:-1]
            _check_columns(str(path), columns)
            at = columns.index("id") if "id" in columns else len(columns)
            continue
        lines += 1
        i = values[at].strip() if at < min(len(values), len(columns)) else ""
        if i:
            (twice if i in once else once).add(i)
    return Table(str(path), columns, _Lines(path, columns, lines, frozenset(twice), {}))


def _csv_lines(path: Any, *, head: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The line at which it begins, and the cells, of every row that has any.

    head   the columns' names too, first
    """
    from csv import Error, reader

    line, first = 1, True
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = reader(file, strict=True)
            for values in lines:
                if any(map(str.strip, values)):
                    if head or not first:
                        yield line, values
                    first = False
                line = lines.line_num + 1
    except Error as error:
        raise LLMHWError(
            f"{path}, line {line} is not CSV ({error}); close its quotes, and double those inside"
        ) from None
    if first:
        raise LLMHWError(f"{path} is empty; its first line must name the columns")


def _check_columns(name: str, columns: tuple[str, ...]) -> None:
    twice = [column for column, times in Counter(columns).items() if times > 1 and column]
    if twice:
        raise LLMHWError(f"{name} has the column {shown(twice[0])} twice; rename or remove one")


def _check_text(path: Any) -> None:
    """Raise `LLMHWError` unless this is a file of text in UTF-8, and not too large a one."""
    from codecs import getincrementaldecoder
    from os.path import isdir, isfile

    if isdir(path):
        raise LLMHWError(f"{path} is a folder; give the path of a CSV file")
    line = size = 0
    decoder = getincrementaldecoder("utf-8")()
    try:
        if path.exists() and not isfile(path):
            raise LLMHWError(f"{path} is no regular file, which is read more than once; give the path of a CSV file")
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                if not size and chunk[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise LLMHWError(f"{path} is UTF-16 text; save it as CSV in UTF-8")
                if b"\0" in chunk:
                    raise LLMHWError(f"{path} is not a text file; save it as CSV in UTF-8")
                held, _ = decoder.getstate()
                whole = held + chunk
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError as error:
                    line += whole.count(b"\n", 0, error.start) + 1
                    byte = whole[error.start]
                    raise LLMHWError(
                        f"{path} is not UTF-8: byte {byte:#04x} in line {line}; save it as CSV in UTF-8"
                    ) from None
                line += chunk.count(b"\n")
                size += len(chunk)
                if size > MOST_BYTES:
                    raise LLMHWError(f"{path} has more than {MOST_BYTES:,} bytes; split it into several files")
        if decoder.getstate()[0]:
            raise LLMHWError(f"{path} is not UTF-8: its last character is cut; save it as CSV in UTF-8")
    except FileNotFoundError:
        raise LLMHWError(f"{path} does not exist; give the path of a CSV file") from None
    except LLMHWError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or error
        raise LLMHWError(f"{_label(str(path), 200)} cannot be read ({reason}); give the path of a CSV file") from None


def _label(text: str, most: int = 60) -> str:
    """An id, a source or a column's name in a message: on one line, not long, without control characters."""
    return text if len(text) <= most and text.isprintable() else shown(text, most)


def one_line(text: str, most: int = 2000) -> str:
    """A reason, which a cell may be, without breaks and control characters."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _text(value: Any) -> str:
    """A cell as text: None and nan are empty, truth values in lower case."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value).strip()
