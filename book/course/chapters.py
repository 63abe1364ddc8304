"""The chapters, read from their notebooks as they are committed; and the notebooks without answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"

_FOLDED = re.compile(r"\n*<details>.*?</details>\n*", re.DOTALL)
_GOALS = re.compile(r"you can\b[^\n]*\n+((?:- [^\n]*\n?(?:  +[^\n]*\n?)*)+)")
_TAKEAWAY = re.compile(r"^> \*\*Takeaway\.\*\*((?:[^\n]*\n?)(?:>[^\n]*\n?)*)", re.MULTILINE)
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
EXERCISE = re.compile(r"^\*\*([0-9]+[a-z]?\.[0-9]+)\*\* (★{1,3}) \*([a-z ]+)\.\*", re.MULTILINE)


@dataclass
class Picture:
    """A figure of a chapter: its data as the notebook holds it."""

    kind: str
    data: str
    alt: str
    caption: str


@dataclass
class Section:
    """What of a section is shown on slides."""

    title: str
    takeaways: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class Chapter:
    """A notebook of the book."""

    path: Path

    @cached_property
    def notebook(self) -> Any:
        return nbformat.read(self.path, as_version=4)

    @property
    def number(self) -> str:
        """As in the title: "6", "7b"."""
        return re.sub("^0(?=.)", "", self.path.stem.partition("_")[0])

    @property
    def opening(self) -> str:
        return str(self.notebook.cells[0].source)

    @property
    def title(self) -> str:
        return self.opening.partition("\n")[0].removeprefix("# ")

    @property
    def question(self) -> str:
        found = re.search(r"\*\*(.+?)\*\*", self.opening, re.DOTALL)
        return " ".join(found[1].split()) if found else ""

    @property
    def goals(self) -> list[str]:
        """What the reader can do afterwards, as the opening lists it."""
        prose = "\n".join(cell.source for cell in self.notebook.cells[:2] if cell.cell_type == "markdown")
        found = _GOALS.search(prose)
        listed = re.split(r"^- ", found[1], flags=re.MULTILINE) if found else []
        return [" ".join(goal.split()).rstrip(";.") for goal in listed if goal.strip()]

    @property
    def exercises(self) -> list[tuple[str, str, str]]:
        """Id, stars and kind."""
        prose = "\n".join(cell.source for cell in self.notebook.cells if cell.cell_type == "markdown")
        return [(found[1], found[2], found[3]) for found in EXERCISE.finditer(prose)]

    @property
    def sections(self) -> list[Section]:
        """Those that have a takeaway or a figure."""
        found = [Section("")]
        for cell in self.notebook.cells:
            if cell.cell_type == "code":
                found[-1].pictures += _pictures(cell)
                continue
            text, at = _FOLDED.sub("\n", cell.source), 0
            for heading in [*_HEADING.finditer(text), None]:
                end = heading.start() if heading else len(text)
                found[-1].takeaways += [_one_line(t[1]) for t in _TAKEAWAY.finditer(text[at:end])]
                if heading:
                    found.append(Section(heading[1].strip()))
                    at = heading.end()
        return [section for section in found if section.takeaways or section.pictures]


def _one_line(quoted: str) -> str:
    return " ".join(quoted.replace("\n>", " ").split())


def _pictures(cell: Any) -> Iterator[Picture]:
    told = cell.metadata.get("mystnb", {})
    for output in cell.outputs:
        for kind in ("image/svg+xml", "image/png"):
            if kind in output.get("data", {}):
                data = output.data[kind]
                alt, caption = told.get("image", {}).get("alt", ""), told.get("figure", {}).get("caption", "")
                yield Picture(kind, data if isinstance(data, str) else "".join(data), alt, caption)
                break


def chapters() -> list[Chapter]:
    """All of them, in the book's order."""
    return [Chapter(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))]


# -- notebooks for a class --------------------------------------------------------------------


def folded(notebook: Any) -> list[str]:
    """The folded answers of a notebook."""
    prose = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return [found[0] for source in prose for found in _FOLDED.finditer(source)]


def student(notebook: Any) -> Any:
    """A copy without answers; the cells to start from stay."""
    made = deepcopy(notebook)
    kept, exercises = [], False
    for cell in made.cells:
        if cell.cell_type == "markdown":
            exercises = exercises or "## Exercises" in cell.source
            if "<details>" in cell.source:
                cell.source = _FOLDED.sub("\n\n", cell.source).strip()
                if not cell.source:
                    continue
        elif exercises and "hide-cell" in cell.metadata.get("tags", []):
            continue
        kept.append(cell)
    made.cells = kept
    return made


def instructor(notebook: Any) -> Any:
    """A copy with all answers unfolded."""
    made = deepcopy(notebook)
    for cell in made.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("<details>", "<details open>")
    return made


def leaks(made: Any, original: Any) -> list[str]:
    """Lines of answers that a student's notebook holds: of their code and what it prints, lines of some length."""
    shown = "\n".join(cell.source for cell in made.cells if "<details" not in cell.source)
    found = ["a folded answer"] if folded(made) or "<details" in "".join(c.source for c in made.cells) else []
    elsewhere = "\n".join(_FOLDED.sub("\n", cell.source) for cell in original.cells)
    for answer in folded(original):
        lines = [line.strip() for line in answer.splitlines() if len(line.strip()) > 25]
        found += [line for line in lines if line in shown and line not in elsewhere]
    return found


def from_markdown(text: str) -> Any:
    """A notebook whose code cells are the fenced blocks of Python of a Markdown text, behind the chapters' first."""
    set_up = next(cell.source for cell in chapters()[0].notebook.cells if cell.cell_type == "code")
    cells: list[Any] = [nbformat.v4.new_code_cell(set_up)]
    for piece in re.split(r"^(```python\n.*?^```)$", text, flags=re.DOTALL | re.MULTILINE):
        if piece.startswith("```python\n"):
            cells.append(nbformat.v4.new_code_cell(piece.removeprefix("```python\n").removesuffix("```").strip()))
        elif piece.strip():
            cells.append(nbformat.v4.new_markdown_cell(piece.strip()))
    cells[:2] = reversed(cells[:2])  # the title first
    for index, cell in enumerate(cells):
        cell.id = f"cell-{index:02d}"  # the same text gives the same file
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)
