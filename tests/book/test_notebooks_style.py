"""What every notebook keeps to. That its outputs are true is shown in `test_standalone.py`."""

from __future__ import annotations

import ast
import csv
import re
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest

from book.address import setup_cell
from tests.book.conftest import NOTEBOOKS, ROOT, pages

MOST_LINES = 15

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str = "code") -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def digits(number: float) -> str:
    """The significant digits: the same for 989e12, 989 and 0.989."""
    mantissa = f"{number:.15g}".split("e")[0]
    return mantissa.replace(".", "").replace("-", "").strip("0")


def words(text: str) -> str:
    return f" {' '.join(re.findall(r'[a-z0-9.]+', text.lower()))} "


@cache
def hardware_figures() -> set[str]:
    """Significant digits of the peaks, bandwidths and prices of devices that chapters name, if three or more.

    80 proves nothing, and of several hundred devices one or other has almost every number.
    """
    told = words(
        " ".join(cell.source for path in NOTEBOOKS for kind in ("code", "markdown") for cell in cells(path, kind))
    )
    found = set()
    for name in ("accelerators.csv", "purchase_prices.csv"):
        with (ROOT / "llmhw" / "catalog" / name).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                names = (row.get("accelerator") or row["name"], *(row.get("aliases") or "").split(";"))
                if any(words(each) in told for each in names if each):
                    columns = [c for c in row if re.search(r"_tflops$|_per_second$|^dollars$", c)]
                    found |= {digits(float(row[column])) for column in columns if row[column]}
    return {text for text in found if len(text) >= 3}


def test_there_are_notebooks_and_all_are_in_the_contents() -> None:
    named = {name.removeprefix("notebooks/") for name in pages() if name.startswith("notebooks/")}
    assert named == {path.stem for path in NOTEBOOKS}
    assert named


@every_notebook
def test_is_valid(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=4))


@every_notebook
def test_opens_with_its_title_then_the_shared_cell(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    assert cells(path)[0].source.strip() == setup_cell(), "run: python book/address.py"


@every_notebook
def test_was_executed_from_top_to_bottom(path: Path) -> None:
    counts = [cell.execution_count for cell in cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    for cell in cells(path):
        allowed = "raises-exception" in cell.metadata.get("tags", [])
        assert allowed or not [out for out in cell.outputs if out.output_type == "error"], cell.source
        assert not [out for out in cell.outputs if out.get("name") == "stderr"], cell.source


@every_notebook
def test_code_cells_are_short(path: Path) -> None:
    long = [cell.source for cell in cells(path) if len(cell.source.splitlines()) > MOST_LINES]
    assert not long, "\n---\n".join(long)


@every_notebook
def test_no_cell_skips_the_comparison(path: Path) -> None:
    skipped = ("NBVAL_SKIP", "NBVAL_IGNORE_OUTPUT", "nbval-skip", "nbval-ignore-output")
    for cell in cells(path):
        assert not [mark for mark in skipped if mark in cell.source or mark in cell.metadata.get("tags", [])]


@every_notebook
def test_hardware_figures_come_from_the_catalog(path: Path) -> None:
    figures = hardware_figures()
    for cell in cells(path):
        code = "\n".join(line for line in cell.source.splitlines() if not line.lstrip().startswith(("%", "!")))
        if code == cell.source:
            numbers = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
            powers = [n for n in numbers if isinstance(n, int | float) and not isinstance(n, bool) and n > 0]
            literal = [n for n in powers if digits(n) in figures and not (isinstance(n, int) and n & (n - 1) == 0)]
            assert not literal, f"{literal} in:\n{cell.source}"


@every_notebook
def test_figures_can_be_read_by_everyone(path: Path) -> None:
    for cell in cells(path):
        if any("image/png" in out.get("data", {}) or "image/svg+xml" in out.get("data", {}) for out in cell.outputs):
            shown = cell.metadata.get("mystnb", {})
            assert shown.get("image", {}).get("alt", "").strip(), f"no alt text:\n{cell.source}"
            assert shown.get("figure", {}).get("caption", "").strip(), f"no caption:\n{cell.source}"
            # A semicolon would not silence the figure's text under nbval, and the comparison would fail.
            assert cell.source.rstrip().endswith("plt.show()"), cell.source


@every_notebook
def test_pictures_in_the_prose_have_alt_text(path: Path) -> None:
    for cell in cells(path, "markdown"):
        assert not re.search(r"!\[\s*\]\(", cell.source), cell.source
        assert "<img" not in cell.source or re.search(r"<img[^>]*\balt=\"[^\"]+\"", cell.source), cell.source


@every_notebook
def test_prose_is_plain_commonmark(path: Path) -> None:
    """Colab and GitHub show MyST directives and roles as raw text."""
    for cell in cells(path, "markdown"):
        assert not re.search(r"^(```|:::+)\{", cell.source, re.MULTILINE), cell.source
        assert not re.search(r"\{[a-z]+\}`", cell.source), cell.source


@every_notebook
def test_metadata_is_what_make_notebooks_writes(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata.get("language_info", {})) <= {"name"}
    assert not [cell for cell in notebook.cells if "execution" in cell.metadata]
