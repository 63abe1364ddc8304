"""Sentences that would be false: of chapters, papers and things that are not there."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from llmhw.catalog import read_table
from tests.book.conftest import NOTEBOOKS, ROOT

PAGES = [*sorted((ROOT / "book").glob("*.md")), ROOT / "README.md"]
NUMBERS = {path.stem.split("_")[0].removeprefix("0"): path for path in NOTEBOOKS}


def prose_of(path: Path) -> str:
    """A page, or the Markdown cells of a notebook."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def all_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


every_page = pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=lambda path: path.stem)


@every_page
def test_nothing_is_quoted_from_memory(path: Path) -> None:
    assert not re.search(r"quoted from memory|from memory here|not reopened", prose_of(path).replace("\n", " "))


@every_page
def test_chapters_that_are_named_exist(path: Path) -> None:
    named = set(re.findall(r"[Cc]hapters? (\d+b?)", prose_of(path)))
    named |= set(re.findall(r"[Cc]hapters? \d+b? and (\d+b?)", prose_of(path)))
    assert named <= NUMBERS.keys()


@every_page
def test_what_a_chapter_is_cited_for_stands_in_it(path: Path) -> None:
    for line in prose_of(path).splitlines():
        for number in re.findall(r"\(chapter (\d+b?)\)", line):
            names = [name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)`", line)]
            missing = [name for name in names if name not in all_of(NUMBERS[number])]
            assert not missing, f"{missing} in chapter {number}: {line}"


@every_page
def test_authors_are_in_the_references_with_one_year(path: Path) -> None:
    bibliography = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"author = \{(\S+?),.*?year = \{(\d{4})\}", bibliography, re.DOTALL)
    text = re.sub(r"\s+", " ", prose_of(path))
    cited = set(re.findall(r"([A-Z][\w-]+) et al\.,? \(?(\d{4})", text))
    assert not cited - set(entries)


@pytest.mark.parametrize(
    "word", ["Qi, Penghui", "Muon", "Lion", "ZeRO-Offload", "BLOOM", "TorchTitan", "SimuMax", "Kwon", "Orca"]
)
def test_what_the_chapters_lean_on_is_in_the_references(word: str) -> None:
    assert word in (ROOT / "book" / "references.bib").read_text(encoding="utf-8")


def test_the_fifty_tokens_are_judged_by_one_figure() -> None:
    claim = next(row for row in read_table("claims") if row["number"] == "22")
    texts = {"claim": claim["truth"] + claim["reason"], **{n: prose_of(NUMBERS[n]) for n in ("3", "10")}}
    for where, text in texts.items():
        assert re.search(r"\b190\b", text), f"the bound of one user in {where}"
        assert re.search(r"\b229\b", text), f"the factor at 1,000 tokens in and out in {where}"
        assert not re.search(r"\b(189|191|193) tokens|factor of (about 300|more than 200)", text), where


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_takeaways_have_a_number(path: Path) -> None:
    takeaways = re.findall(r"(?m)^> \*\*Takeaway\.\*\*(?:.*\n?)(?:^>.*\n?)*", prose_of(path))
    assert takeaways
    assert not [text for text in takeaways if not re.search(r"\d", text)]


@pytest.mark.parametrize("number", NUMBERS)
def test_chapters_are_written_for_readers(number: str) -> None:
    """Takeaways of at most 30 words, code of at most 88 columns, their number in the title, links that lead there."""
    path = NUMBERS[number]
    prose = prose_of(path)
    assert prose.startswith(f"# {number}. ")
    takeaways = re.findall(r"(?m)^> \*\*Takeaway\.\*\*(?:.*\n?)(?:^>.*\n?)*", prose)
    assert not [text for text in takeaways if len(re.sub(r"[>*$]|Takeaway\.", " ", text).split()) > 30]
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert not [line for source in code[1:] for line in source.splitlines() if len(line) > 88]
    targets = re.findall(r"https://llmhw\.github\.io/llmhw/(\S+?)\.html", prose)
    assert targets
    found = {"book": ".md", "notebooks": ".ipynb"}
    assert not [each for each in targets if not (ROOT / f"{each}{found[each.split('/')[0]]}").is_file()]


def test_the_welcome_names_every_command_that_answers() -> None:
    welcome = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    for command in ("model", "fit", "memory", "train", "serve", "simulate", "validate"):
        assert f"`llmhw {command}`" in welcome


def test_the_glossary_has_the_terms_of_the_field() -> None:
    glossary = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    for english, chinese in {"router": "路由(门控网络)", "MTBF": "平均故障间隔时间", "straggler": "掉队者"}.items():
        assert f"\n{english}\n{chinese}\n" in glossary


def test_readers_outside_the_book_are_told_what_is_folded() -> None:
    text = prose_of(ROOT / "book" / "how-to-read.md")
    assert re.search(
        r"folded everywhere: in the book, in Colab, in JupyterLab and on GitHub", re.sub(r"\s+", " ", text)
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_speak_english(path: Path) -> None:
    assert not re.search(r"\b[Bb]egin of\b|\bwith the most [a-z]+ can\b", all_of(path))
