"""Run notebooks in place: their cells, and the folded answers to their exercises, in one kernel.

An answer stands in `<details>` of a Markdown cell, so that it is folded in Colab, in JupyterLab, on GitHub and in the
book: prose, a fenced block of Python, and a fenced block of text with what that prints. A run writes the outputs of the
cells and the text blocks; nothing else changes, so that a difference shows outputs only.

    python book/run.py notebooks/01_matching_table.ipynb ...
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import nbformat

KEPT = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
_FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
_ANSWER = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n*^```text\n(?P<shown>.*?)^```\n)?", re.DOTALL | re.MULTILINE)


def answers(text: str) -> list[re.Match[str]]:
    """The blocks of Python, with what they print, inside the folded parts of a Markdown cell."""
    folded = [part.span() for part in _FOLDED.finditer(text)]
    return [found for found in _ANSWER.finditer(text) if any(a <= found.start() < b for a, b in folded)]


def with_answers(notebook: Any) -> Any:
    """A copy of a notebook in which every answer is also a code cell that prints what its text block says."""
    cells: list[Any] = []
    for index, cell in enumerate(notebook.cells):
        cells.append(cell)
        for found in answers(cell.source) if cell.cell_type == "markdown" else ():
            shown = [nbformat.v4.new_output("stream", name="stdout", text=found["shown"])] if found["shown"] else []
            # nbval takes outputs of a cell without a count for a mistake
            cells.append(
                nbformat.v4.new_code_cell(
                    found["code"].rstrip("\n"), outputs=shown, metadata={"answer_in": index}, execution_count=1
                )
            )
    return nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)


def printed(cell: Any) -> str:
    """What an answer printed. Raises `ValueError` if it showed anything but text."""
    other = [out.output_type for out in cell.outputs if out.get("name") != "stdout"]
    if other:
        raise ValueError(f"an answer may only print, not show {', '.join(other)}:\n{cell.source}")
    return "".join(out.text for out in cell.outputs)


def fill(text: str, shown: list[str]) -> str:
    """The Markdown cell with these texts behind its blocks of Python."""
    for found, new in reversed(list(zip(answers(text), shown, strict=True))):
        block = f"```python\n{found['code']}```\n"
        if new:
            block += f"\n```text\n{new.rstrip()}\n```\n"
        text = text[: found.start()] + block + text[found.end() :]
    return text


def run(path: Path) -> None:
    """Execute a notebook from top to bottom and write it back."""
    from nbclient import NotebookClient
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    notebook = nbformat.read(path, as_version=4)
    whole = with_answers(notebook)
    folder = {"metadata": {"path": str(path.parent)}}
    NotebookClient(whole, timeout=300, kernel_name="python3", record_timing=False, resources=folder).execute()
    # How a kernel cuts its prints into messages depends on the clock; joined, the same run gives the same file.
    whole, _ = CoalesceStreamsPreprocessor().preprocess(whole, {})
    shown: dict[int, list[str]] = {}
    cells: list[Any] = []
    for cell in whole.cells:
        if "answer_in" in cell.metadata:
            shown.setdefault(cell.metadata["answer_in"], []).append(printed(cell))
        else:
            cells.append(cell)
    for index, texts in shown.items():
        cells[index].source = fill(cells[index].source, texts)
    count = 0
    for cell in cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    notebook.cells, notebook.metadata = cells, {**KEPT, "language_info": {"name": "python"}}
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def main(paths: list[str]) -> None:
    for name in paths:
        print(name, flush=True)
        run(Path(name))


if __name__ == "__main__":
    main(sys.argv[1:])
