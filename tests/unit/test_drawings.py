"""Every drawing keeps its labels inside, apart and large enough, and says the same twice."""

from __future__ import annotations

import importlib
import io
import pkgutil

import pytest

pytest.importorskip("matplotlib")

import matplotlib
import matplotlib.pyplot as plt

import llmhw.drawings
import llmhw.plot
from llmhw.drawings import DRAWINGS, Canvas, problems

matplotlib.use("Agg")
for _module in pkgutil.iter_modules(llmhw.drawings.__path__):
    importlib.import_module(f"llmhw.drawings.{_module.name}")


@pytest.mark.parametrize("name", sorted(DRAWINGS))
def test_labels_stay_inside_and_apart(name: str) -> None:
    figure = DRAWINGS[name]()
    try:
        assert not problems(figure)
    finally:
        plt.close(figure)


@pytest.mark.parametrize("name", sorted(DRAWINGS))
def test_the_same_drawing_is_the_same_file(name: str) -> None:
    with matplotlib.rc_context({"svg.hashsalt": "llmhw"}):
        files = []
        for _ in range(2):
            figure, file = DRAWINGS[name](), io.BytesIO()
            figure.savefig(file, format="svg", metadata={"Date": None})
            plt.close(figure)
            files.append(file.getvalue())
    assert files[0] == files[1]
    assert len(files[0]) < 120_000


def test_problems_are_found() -> None:
    paper = Canvas(20, 6)
    paper.text(19, 1, "leaves on the right")
    paper.text(5, 3, "one label")
    paper.text(6, 3.2, "another")
    paper.text(5, 5, "tiny", size=5)
    found = problems(paper.figure)
    plt.close(paper.figure)
    assert [line.split(":")[0] for line in found] == ["too small", "leaves the drawing", "touch"]


def test_a_canvas_is_no_wider_than_a_phone_shows() -> None:
    with pytest.raises(llmhw.LLMHWError, match=r"width=50 must be above 0 and at most 37"):
        Canvas(50, 5)
