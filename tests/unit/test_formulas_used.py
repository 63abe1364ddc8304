"""Every registered formula is part of an answer: a formula that only explains itself is a second truth."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import llmhw

PACKAGE = Path(llmhw.__file__).parent
# Formulas that no answer uses, and what they are for.
WITHOUT_ANSWER: dict[str, str] = {}


def _statements() -> Iterator[ast.stmt]:
    """Top-level statements of the package, imports left out; measuring and drawing are no answers."""
    for path in PACKAGE.rglob("*.py"):
        if "measure" not in path.parts and path.name != "plot.py":
            for statement in ast.parse(path.read_text(encoding="utf-8")).body:
                if not isinstance(statement, (ast.Import, ast.ImportFrom)):
                    yield statement


def _used() -> set[str]:
    """Names that are read where they are neither defined nor an argument."""
    found: set[str] = set()
    for statement in _statements():
        nodes = list(ast.walk(statement))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        found |= names - {node.arg for node in nodes if isinstance(node, ast.arg)} - {getattr(statement, "name", None)}
    return found


def test_every_formula_is_part_of_an_answer() -> None:
    unused = set(llmhw.formulas()) - _used()
    assert sorted(unused) == sorted(WITHOUT_ANSWER), "use it in an answer, delete it, or say above what it is for"
