"""The local Sphinx extension: plain docstrings in, clean reStructuredText out."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from tests.book.conftest import ROOT


@pytest.fixture(scope="module")
def extension() -> ModuleType:
    spec = importlib.util.spec_from_file_location("llmhw_pages", ROOT / "book" / "_ext" / "llmhw_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
