"""The welcome page shows what the book computes, and names every chapter."""

from __future__ import annotations

import re

import nbformat

from tests.book.conftest import NOTEBOOKS, ROOT

WELCOME = (ROOT / "book" / "index.md").read_text(encoding="utf-8")


def table(head: str) -> list[list[str]]:
    """The cells of the table whose head begins so."""
    lines = WELCOME[WELCOME.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_is_that_of_chapter_1() -> None:
    cells = nbformat.read(ROOT / "notebooks" / "01_matching_table.ipynb", as_version=4).cells
    (cell,) = [cell for cell in cells if cell.id == "verdicts-table"]
    lines = cell.outputs[0]["data"]["text/plain"].splitlines()[2:]
    assert table("| | the table says") == [re.split(r"\s{2,}", line.strip()) for line in lines]


def test_every_chapter_is_on_the_map() -> None:
    mapped = {row[0]: row[1] for row in table("| | chapter")}
    for path in NOTEBOOKS:
        number = path.stem.split("_")[0].removeprefix("0")
        title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].removeprefix(f"# {number}. ")
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", mapped[number])
        assert title.startswith(shown), f"{title} is called {shown}"
