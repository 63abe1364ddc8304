"""A file of rows that grows while they are found, and bears its own name once it is whole."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from llmhw.files import check_output
from llmhw.units import LLMHWError

ENDINGS = ("csv", "parquet")


class RowFile:
    """Rows on their way into a .csv or .parquet file.

    output   the file. Until `finish`, rows lie in FILE.part.csv beside it, which any program reads
    keys     columns that say what was asked: they come first
    resume   go on from the FILE.part.csv that is there

    Columns that come up later are empty in the rows before. Numbers are written so that they are read as the same
    ones. Raises `LLMHWError` for a path that cannot be written, or whose FILE.part.csv would be lost.
    """

    def __init__(self, output: str | os.PathLike[str], keys: Sequence[str], *, resume: bool = False) -> None:
        check_output(output)
        self.path = Path(output)
        ending = self.path.suffix.lower().removeprefix(".")
        if ending not in ENDINGS:
            raise LLMHWError(f"output={str(output)!r} needs a form for rows: end it in .csv or .parquet")
        if ending == "parquet":
            _pandas()
        self.part = str(self.path.with_name(f"{self.path.stem}.part.csv"))
        self.keys, self.columns, self.done = list(keys), list(keys), 0
        self.refused: list[str] = []
        self._file: TextIO | None = None
        there = os.path.exists(self.part)
        if there and not resume:
            raise LLMHWError(
                f"output={str(output)!r}: {self.part} is what an interrupted sweep has left; go on with it "
                "(resume=True), or remove it"
            )
        self._kept = self._read() if there else []

    def _read(self) -> list[dict[str, str]]:
        with open(self.part, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if None not in row and None not in row.values()]  # a line that was cut
        if rows and list(rows[0])[: len(self.keys)] != self.keys:
            raise self._of_another()
        return rows

    def _of_another(self) -> LLMHWError:
        return LLMHWError(
            f"output={str(self.path)!r}: {self.part} is of another sweep: its models, devices or options are others; "
            "remove it, or give another output"
        )

    def pairs(self, asked: Iterable[Mapping[str, Any]]) -> int:
        """How many of these pairs, in this order, have their rows already. The last one may be cut and is left out."""
        rows, complete, at = self._kept, 0, 0
        for pair in asked if rows else ():
            told = [_text(pair[name]) for name in self.keys]
            end = at
            while end < len(rows) and [rows[end][name] for name in self.keys] == told:
                end += 1
            if end == at:
                raise self._of_another()
            if end == len(rows):
                break
            at, complete = end, complete + 1
        self._kept, self.done = [], complete
        self.refused = [row["refused"] for row in rows[:at] if row.get("refused")]
        self._open(rows[:at])
        return complete

    def _open(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """A new file with these rows, under the columns that are known."""
        rows = list(rows)
        self.columns = list(dict.fromkeys([*self.keys, *self.columns, *(rows[0] if rows else ())]))
        if self._file:
            self._file.close()
        beside = f"{self.part}.{os.getpid()}"
        try:
            self._file = open(beside, "w", encoding="utf-8", errors="backslashreplace", newline="")  # noqa: SIM115
            csv.writer(self._file, lineterminator="\n").writerow(self.columns)
            self._put(rows)
            os.replace(beside, self.part)
        except OSError as error:
            raise self._cannot(error) from None

    def _put(self, rows: Iterable[Mapping[str, Any]]) -> None:
        assert self._file is not None
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows([_text(row.get(name)) for name in self.columns] for row in rows)
        self._file.write(out.getvalue())
        self._file.flush()

    def _cannot(self, error: OSError) -> LLMHWError:
        reason = error.strerror or str(error)
        return LLMHWError(f"{self.path} cannot be written ({reason}); give a path in a folder you may write")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Put rows behind those that are there; they are in the file when this returns."""
        new = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in self.columns]
        try:
            if new:  # few times: all rows of one question are alike
                assert self._file is not None
                self._file.close()
                self._file = None
                with open(self.part, encoding="utf-8", newline="") as file:
                    before = list(csv.DictReader(file))
                self.columns += new
                self._open(before)
            self._put(rows)
        except OSError as error:
            raise self._cannot(error) from None

    def finish(self) -> str:
        """The file under its own name, whole; what was there before stays until then."""
        assert self._file is not None
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            if self.path.suffix.lower() == ".parquet":
                beside = f"{self.part}.{os.getpid()}"
                table = _pandas().read_csv(self.part, low_memory=False, keep_default_na=False, na_values=[""])
                table.to_parquet(beside, index=False, engine="pyarrow")
                os.replace(beside, self.path)
                os.unlink(self.part)
            else:
                os.replace(self.part, self.path)
        except OSError as error:
            raise self._cannot(error) from None
        return str(self.path)

    def close(self) -> None:
        """Let go of the file; one without a row is no use to anybody."""
        if self._file is None:
            return
        empty = not self._file.closed and self._file.tell() <= len(",".join(self.columns)) + 1
        self._file.close()
        if empty:
            with suppress(OSError):
                os.unlink(self.part)


def _text(value: Any) -> str:
    """A cell: numbers as Python reads them again."""
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)


def _pandas() -> Any:
    try:
        import pandas
        import pyarrow  # noqa: F401
    except ImportError:
        raise LLMHWError(
            "output: a .parquet file needs pyarrow; install it with: pip install 'llmhw[parquet]'"
        ) from None
    return pandas
