"""The local Sphinx extension: plain docstrings in, clean reStructuredText out."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from tests.book.conftest import ROOT


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    return importlib.import_module("llmhw_pages")


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("6 * params * tokens", r"6\,N \cdot \text{tokens}"),
        ("a / b / (c + 1)", r"\frac{a}{b\,\left(c + 1\right)}"),
        ("ceil_div(tokens, ranks) * 2", r"\left\lceil \frac{\text{tokens}}{\text{ranks}} \right\rceil \cdot 2"),
        ("(2 * x) ** 0.5 - (y - z)", r"\sqrt{2\,x} - \left(y - z\right)"),
        ("maximum(1.0, where(x > 2, y, 1e6))",
         r"\max\left(1, \begin{cases} y & \text{if } x > 2 \\ 10^{6} & \text{else} \end{cases}\right)"),
    ],
)  # fmt: skip
def test_code_becomes_mathematics(extension: ModuleType, expression: str, shown: str) -> None:
    assert extension.formula_tex("f", expression) == rf"\begin{{aligned}} f &= {shown} \end{{aligned}}"


def test_what_no_line_says_stays_code(extension: ModuleType) -> None:
    with pytest.raises(extension.Unwritten):
        extension.formula_tex("f", "for x in y:\n    z = x\nz")


def test_a_block_of_names_becomes_a_list(extension: ModuleType) -> None:
    text = "Bytes.\n\nparams      how many, count\nshards, n   ranks they are\n            split over"
    assert extension.to_rst(text) == [
        "Bytes.",
        "",
        "``params``",
        "   how many, count",
        "``shards, n``",
        "   ranks they are split over",
        "",
    ]


def test_symbols_of_the_prose_mean_nothing_to_sphinx(extension: ModuleType) -> None:
    assert extension.to_rst("34*s*b in `bytes`s, a_b_ |x|")[0] == r"34\*s\*b in \ ``bytes``\ s, a\_b\_ \|x\|"


def test_examples_are_code(extension: ModuleType) -> None:
    assert extension.to_rst("Sum.\n\n>>> 1 + 1\n2")[2:] == [".. code-block:: pycon", "", "   >>> 1 + 1", "   2", ""]


def test_every_formula_is_found(extension: ModuleType) -> None:
    by_module = extension.all_formulas()
    assert len(by_module) >= 3
    assert all(entry.module == module for module, entries in by_module.items() for entry in entries)


def test_a_figure_in_the_page_keeps_the_digits_of_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    figures = importlib.import_module("llmhw_figures")
    shown = figures.inline('<svg width="10pt" height="5pt"><text x="1.23456">0.996</text></svg>', "alt")
    assert '<text x="1.23">0.996</text>' in shown
