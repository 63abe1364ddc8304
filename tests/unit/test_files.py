"""A file is whole, or it is what it was before."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmhw.files import write_whole
from llmhw.units import LLMHWError


def test_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "row.csv"
    write_whole(path, lambda: "a,b\n1,2\n")
    write_whole(path, lambda: "a,b\n3,4\n")
    assert path.read_bytes() == b"a,b\n3,4\n"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_there_stays_if_the_text_cannot_be_made(tmp_path: Path) -> None:
    path = tmp_path / "row.csv"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(ZeroDivisionError):
        write_whole(path, lambda: str(1 / 0))
    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_leads_to_the_file_that_is_replaced(tmp_path: Path) -> None:
    path, link = tmp_path / "row.csv", tmp_path / "link.csv"
    link.symlink_to(path)
    write_whole(link, lambda: "text")
    assert link.is_symlink()
    assert path.read_text(encoding="utf-8") == "text"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".", "is not a file; give the path of a file to write"),
        ("no/row.csv", "cannot be written: its folder does not exist; create it first"),
        ("row.csv/row.csv", "cannot be written (Not a directory); give a path in a folder you may write"),
        (300 * "a", "cannot be written (File name too long); give a path in a folder you may write"),
    ],
)
def test_paths_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "row.csv").write_text("before", encoding="utf-8")
    with pytest.raises(LLMHWError) as raised:
        write_whole(name, lambda: "text")
    assert str(raised.value) == f"{name} {message}"
    assert [path.name for path in tmp_path.iterdir()] == ["row.csv"]
