"""Every symbol of a chapter's mathematics stands in the tables of book/notation.md, with one meaning a chapter."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import nbformat
import pytest

from tests.book.conftest import NOTEBOOKS, ROOT

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

_MATH = re.compile(r"\$\$(.+?)\$\$|\$(?! )([^$]+?)(?<! )\$(?![\d\w])", re.DOTALL)
_GREEK = "alpha beta gamma delta epsilon kappa lambda mu sigma rho tau theta eta varphi phi Delta ell".split()
_SYMBOL = re.compile(r"(\\[a-zA-Z]+|[A-Za-z])(_(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\text\{[^{}]*\}|\\\w+|\w))?")


def plain(symbol: str) -> str:
    """One way to write a symbol: N_\\text{act} is N_{\\text{act}}."""
    return re.sub(r"_(\\text\{[^{}]*\}|\w)$", r"_{\1}", symbol.strip())


def symbols(text: str) -> set[str]:
    """The symbols of all formulas of a Markdown text; words in a formula and letters of code are none."""
    found: set[str] = set()
    for match in _MATH.finditer(re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)):
        math = re.sub(r"_\{?\\text\{([^{}]*)\}\}?", r"_{@\1@}", match[1] or match[2])
        math = re.sub(r"\\(?:text|mathrm|operatorname|begin|end)\{[^{}]*\}(?:_\{[^{}]*\})?", " ", math)
        math = re.sub(r"(?<=\})_\{@[^@]*@\}", " ", math)  # what a brace says of a part
        if re.search(r"(?<![\\@a-z])[a-z]{3,}", re.sub(r"@[^@]*@", "", math)):
            continue  # two prices of a sentence, and the words between them
        for one in _SYMBOL.finditer(math):
            if not one[1].startswith("\\") or one[1][1:] in _GREEK:
                found.add(plain(re.sub(r"@([^@]*)@", r"\\text{\1}", one[0])))
    return found


@cache
def tables() -> tuple[set[str], dict[str, set[str]]]:
    """Symbols of all chapters, and chapter -> symbols that it has for itself."""
    text = (ROOT / "book" / "notation.md").read_text(encoding="utf-8")
    everywhere: set[str] = set()
    own: dict[str, set[str]] = {}
    for row in re.findall(r"^\| (\$.+?) \|$", text, re.MULTILINE):
        signs, second, *_ = row.split(" | ")
        named = {plain(sign) for sign in re.findall(r"\$([^$]+)\$", signs)}
        if "`" in second:
            everywhere |= named
        for chapter in second.split(", ") if "`" not in second else ():
            assert not named & own.setdefault(chapter, set()), f"{named} has two meanings in chapter {chapter}"
            own[chapter] |= named
    return everywhere, own


def number(path: Path) -> str:
    return path.stem.split("_")[0].lstrip("0") or "0"


def used(path: Path) -> set[str]:
    cells = nbformat.read(path, as_version=4).cells
    return set().union(*(symbols(cell.source) for cell in cells if cell.cell_type == "markdown"))


@every_notebook
def test_symbols_are_those_of_the_notation(path: Path) -> None:
    everywhere, own = tables()
    missing = used(path) - everywhere - own.get(number(path), set())
    assert not missing, f"not in book/notation.md for chapter {number(path)}: {sorted(missing)}"


def test_no_symbol_of_one_chapter_is_idle() -> None:
    _, own = tables()
    uses = {number(path): used(path) for path in NOTEBOOKS}
    idle = [(chapter, sorted(signs - uses[chapter])) for chapter, signs in own.items() if signs - uses[chapter]]
    assert not idle


def test_symbols_are_read() -> None:
    assert symbols(r"$2N_\text{act}$ and $$\frac{\beta}{a_{kv}\,W_{\text{net}}}$$, not `$x$`") == {
        r"N_{\text{act}}", r"\beta", r"a_{kv}", r"W_{\text{net}}",
    }  # fmt: skip
    assert symbols("from $2.69 an hour to $3.10 an hour, $x$ of it") == {"x"}
