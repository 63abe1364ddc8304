"""Fitted constants in files: written whole or not at all, read with clear errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llmhw.units import LLMHWError
from llmhw.validation import input_files, read_constants, write_constants


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    constants = {"share": 1.05, "note": "\u00bc", "parts": [1, 2]}
    assert write_constants(path, lambda: constants) == constants
    assert read_constants(path) == constants
    assert os.listdir(tmp_path) == ["fit.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_is_no_json_leaves_the_old_file(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "fit.json"
    path.write_text('{"old": 1}', encoding="utf-8")
    with pytest.raises(LLMHWError, match="the fitted constants are not JSON"):
        write_constants(path, lambda: {"share": value})
    assert read_constants(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["fit.json"]


def test_a_failed_fit_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    path.write_text('{"old": 1}', encoding="utf-8")

    def fail() -> dict[str, Any]:
        raise LLMHWError("nothing to fit to")

    with pytest.raises(LLMHWError, match="nothing to fit to"):
        write_constants(path, fail)
    assert read_constants(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["fit.json"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    def never() -> dict[str, Any]:
        raise AssertionError("the place is tried before the fit")

    with pytest.raises(LLMHWError, match="its folder does not exist; create it first"):
        write_constants(tmp_path / "missing" / "fit.json", never)
    with pytest.raises(LLMHWError, match="is not a file; give the path of a file to write"):
        write_constants(tmp_path, never)
    if Path("/dev/null").exists():
        with pytest.raises(LLMHWError, match="is not a file"):
            write_constants("/dev/null", never)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(LLMHWError, match=r"cannot be written \(File name too long\)"):
        write_constants(tmp_path / ("f" * 300), dict)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("{}", encoding="utf-8")
    link.symlink_to(target)
    write_constants(link, lambda: {"share": 2})
    assert link.is_symlink()
    assert read_constants(target) == {"share": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b'{"a": ', "is not JSON"),
        (b"\xff\xfe{\0", "is not text in UTF-8"),
        (b"[1]", "holds a JSON list, not an object; give a file that `llmhw validate --fit` wrote"),
        (b"[" * 100_000, "has objects or lists within each other more than 40 deep"),
        (b'{"share": 1, "share": 2}', "has the key 'share' twice in one object"),
        (b'{"share": NaN}', "has NaN, which is no JSON"),
    ],
    ids=["empty", "cut", "no text", "list", "nested", "twice", "nan"],
)
def test_files_without_constants(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "fit.json"
    path.write_bytes(content)
    with pytest.raises(LLMHWError) as error:
        read_constants(path)
    assert message in str(error.value)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(LLMHWError, match="does not exist; give a file that `llmhw validate --fit` wrote"):
        read_constants(tmp_path / "fit.json")
    with pytest.raises(LLMHWError, match="cannot be read"):
        read_constants(tmp_path)


def never() -> dict[str, Any]:
    raise AssertionError("nothing is computed before the place is known to be free")


def test_constants_are_never_written_onto_the_rows_they_are_fitted_to(tmp_path: Path) -> None:
    """`validate m.csv --fit m.csv`, and the same file by every other name."""
    table = tmp_path / "m.csv"
    table.write_text("a,b\n", encoding="utf-8")
    (tmp_path / "link.csv").symlink_to(table)
    os.link(table, tmp_path / "hard.csv")
    (tmp_path / "folder").symlink_to(tmp_path)
    names = ["m.csv", "link.csv", "hard.csv", "folder/m.csv", "./m.csv"]
    for name in names:
        for source in (table, str(tmp_path / "link.csv")):
            with pytest.raises(LLMHWError, match="is the file that is read"):
                write_constants(tmp_path / name, never, inputs=input_files(source))
    assert table.read_text(encoding="utf-8") == "a,b\n"
    assert write_constants(tmp_path / "other.json", lambda: {"a": 1}, inputs=input_files(table)) == {"a": 1}
    assert input_files(None) == input_files([{"a": 1}]) == ()
