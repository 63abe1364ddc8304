"""The project's addresses and its release have one setting: `version` and `project.urls` in pyproject.toml.

    python book/address.py                                          # write the set-up cell of every notebook
    python book/address.py https://github.com/me/fork https://me.github.io/fork   # move the whole project there

The second form replaces the old addresses by new ones in every file of the project, pyproject.toml with them.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import nbformat

ROOT = Path(__file__).parents[1]

# The second line of the installation takes what the book serves, where the release is on no index.
CELL = """try:
    import llmhw
except ImportError:  # Colab: the release of this book, or the wheel served with it
    wheel = "{book}/_static/llmhw-{version}-py3-none-any.whl"
    %pip install -q "llmhw[plot]=={version}" || pip install -q "llmhw[plot] @ {{wheel}}"
    import llmhw
import llmhw.plot

llmhw.plot.style()"""


class Setting(NamedTuple):
    """Where the project is: its repository and its book, without a slash at the end, and the release."""

    repository: str
    book: str
    version: str


def setting() -> Setting:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return Setting(project["urls"]["Homepage"], project["urls"]["Book"], project["version"])


def setup_cell() -> str:
    """The first cell of every notebook."""
    return CELL.format(**setting()._asdict())


def write_cells() -> None:
    """Put the set-up cell into every notebook whose own one differs."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        if first.source != setup_cell():
            first.source = setup_cell()
            nbformat.write(notebook, path)


def move(repository: str, book: str) -> None:
    """Replace the addresses in all files of the project."""
    old = setting()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or a font
        new = text.replace(old.repository, repository.rstrip("/")).replace(old.book, book.rstrip("/"))
        if new != text:
            path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:]:
        move(*sys.argv[1:])
    write_cells()
