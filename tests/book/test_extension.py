"""The local Sphinx extension: plain docstrings in, clean reStructuredText out."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from tests.book.conftest import ROOT


def loaded(name: str) -> ModuleType:
    """A module of the extension, which finds its neighbours as Sphinx lets it."""
    if str(ROOT / "book" / "_ext") not in sys.path:
        sys.path.append(str(ROOT / "book" / "_ext"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / "_ext" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def extension() -> ModuleType:
    return loaded("llmhw_pages")


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


def test_a_figure_in_the_page_keeps_the_digits_of_its_labels() -> None:
    shown = loaded("llmhw_figures").inline('<svg width="10pt" height="5pt"><text x="1.23456">0.996</text></svg>', "alt")
    assert '<text x="1.23">0.996</text>' in shown
