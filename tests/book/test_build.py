"""The book builds on a clean tree, with every warning an error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

import llmhw
from llmhw.formula import formulas
from tests.book.conftest import Build, english, pages, parsed

pytestmark = pytest.mark.xdist_group("site")


def read(html: Path, page: str) -> BeautifulSoup:
    return parsed(html / f"{page}.html")


def test_no_warning(build: Build) -> None:
    said = [line for line in build.log.splitlines() if re.search("WARNING|ERROR|Error", line)]
    assert build.returncode == 0, "\n".join(said) or build.log[-6000:]


def test_every_page_of_the_contents_is_built_and_no_other(html: Path) -> None:
    made = {str(path.relative_to(html).with_suffix("")) for path in english(html)}
    assert made - {"index", "genindex", "search", "py-modindex"} == set(pages())


def test_nothing_is_executed_by_the_build(build: Build) -> None:
    assert "Executing notebook" not in build.log


def test_the_formula_index_has_every_formula(html: Path) -> None:
    page = read(html, "book/formulas")
    shown = {section.find(re.compile("^h")).code.text for section in page.select("section.formula")}
    assert shown >= {name for name, entry in formulas().items() if entry.module.startswith("llmhw.")}
    assert len(shown) >= 20


def test_the_api_page_has_every_public_name(html: Path) -> None:
    page = read(html, "book/api")
    shown = {tag["id"] for tag in page.select("dt.sig[id]")}
    for name in llmhw.__all__:
        if not name.startswith("__"):
            assert any(entry == f"llmhw.{name}" or entry.startswith(f"llmhw.{name}.") for entry in shown), name


def test_each_glossary_term_has_its_chinese_one(html: Path) -> None:
    terms = read(html, "book/glossary").select("dl.glossary > dt")
    names = [term.get_text().strip().removesuffix("#").strip() for term in terms]
    english, chinese = names[::2], names[1::2]
    assert len(english) >= 60
    assert len(set(names)) == len(names)
    assert all(re.search(r"[\u4e00-\u9fff]", name) for name in chinese)
    assert not [name for name in english if re.search(r"[\u4e00-\u9fff]", name)]


def test_search_finds_the_words_of_the_book(html: Path) -> None:
    index = (html / "searchindex.js").read_text(encoding="utf-8")
    assert all(word in index for word in ("gradient", "optim", "bandwidth"))


def test_options_keep_their_hyphens(html: Path) -> None:
    """A dash in place of the hyphens of an option makes a false command of it."""
    for page in pages():
        assert not re.search(r"(?:^|[\s(\"“])[–—][a-z]+[-a-z]*[ =]\S", read(html, page).get_text()), page
    claims = read(html, "book/claims").get_text()
    assert "--model meta-llama/Llama-3-70b" in claims
    assert "--quantization awq" in claims


HAN = re.compile(r"[\u2e80-\u303f\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef]")


def test_chinese_text_says_so_and_has_a_font(html: Path) -> None:
    style = (html / "_static" / "han.css").read_text(encoding="utf-8")
    spans = re.findall(r"U\+([0-9A-F]+)(?:-([0-9A-F]+))?", style)
    font = {chr(code) for a, b in spans for code in range(int(a, 16), int(b or a, 16) + 1)}
    for path in english(html):
        page = parsed(path)
        for text in page.find_all(string=HAN):
            assert text.find_parent(attrs={"lang": "zh-Hans"}), f"{path.name}: {text}"
            assert set(HAN.findall(text)) <= font, f"{path.name}: run book/font.py for {text}"


def test_figures_stand_in_the_page_with_their_words(html: Path) -> None:
    """In the colours of the theme, and described; nothing of them may be named twice in a page."""
    shown = 0
    for path in (html / "notebooks").glob("*.html"):
        page = parsed(path)
        for figure in page.select(".drawn > svg"):
            shown += 1
            assert figure["role"] == "img"
            assert len(figure["aria-label"]) > 40
            assert not re.search(r"#767676", str(figure)), "an ink that does not change with the theme"
        names = [tag["id"] for tag in page.select("[id]") if tag.find_parent("svg") is None]
        assert len(names) == len(set(names)), path.name
        assert not page.select(".cell_output img[src$='.svg']"), path.name
        assert path.stat().st_size < 500_000, f"{path.name} is heavy"
    assert shown >= 25
