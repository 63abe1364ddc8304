"""The book on paper: a few chapters through the code that prints all of them. Takes about 20 s.

PDF is read here as the text that it is: Chromium writes its objects one by one and compresses pages and fonts only.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from urllib.parse import urljoin
from xml.etree import ElementTree

import pytest
from bs4 import BeautifulSoup

from book.paper import epub, pdf, sheet
from book.paper.__main__ import make
from book.paper.pages import Book, PaperError, read
from book.paper.press import chromium
from llmhw.units import LLMHWError

pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.xdist_group("site")

PAGES = ("book/index", "book/calculator", "notebooks/02_memory_at_rest", "book/notation")
XHTML = "{http://www.w3.org/1999/xhtml}"


@pytest.fixture(scope="module")
def press() -> None:
    try:
        chromium()
    except PaperError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


def site(html: Path, name: str) -> BeautifulSoup:
    page = BeautifulSoup((html / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    article = page.select_one("article.bd-article")
    assert article is not None
    return BeautifulSoup(str(article), "html.parser")


@pytest.fixture(scope="module")
def book(html: Path) -> Book:
    return read(html, PAGES)


@pytest.fixture(scope="module")
def printed(html: Path, press: None) -> bytes:
    return pdf.printed(read(html, PAGES))


@pytest.fixture(scope="module")
def archive(html: Path, press: None) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(epub.bound(read(html, PAGES))))


def test_answers_stand_at_the_end_of_their_chapter(html: Path, book: Book) -> None:
    for each in book.chapters:
        folded = [one for one in site(html, each.name).select("details") if not one.find_parent(class_="calculator")]
        answers = each.article.select("section.answer-of")
        assert len(answers) == len(folded)
        assert not each.article.select("details, form, button, input, script")
        links = {str(link["href"])[1:] for link in each.article.select("a[href^='#']")}
        for answer, source in zip(answers, folded, strict=True):
            assert answer.h3 is not None
            number = answer.h3.get_text()
            assert f"page-{each.slug}.exercise-{number}" in links
            assert f"page-{each.slug}.answer-{number}" in links
            assert source.p is not None
            assert source.p.get_text()[:40] in answer.get_text()


def test_a_calculator_shows_its_first_answer_and_where_it_lives(html: Path) -> None:
    living = site(html, "book/calculator").select(".calculator")
    shown = read(html, ("book/calculator",)).chapters[0].article.select(".calculator")
    assert len(shown) == len(living) > 0
    for paper, live in zip(shown, living, strict=True):
        verdict, link = live.select_one(".verdict"), paper.select_one(".live a")
        assert verdict is not None
        assert verdict.get_text() in paper.get_text()
        assert link is not None
        assert str(link["href"]).endswith(f"book/calculator.html#{live['id']}")


def test_a_link_that_leads_nowhere_is_refused(html: Path, tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    shutil.copytree(html / "_static", tmp_path / "_static", ignore=lambda _, names: set(names) - {"pygments.css"})
    text = (html / "book/index.html").read_text(encoding="utf-8")
    (tmp_path / "book/index.html").write_text(text.replace("</article>", '<a href="#gone">x</a></article>'), "utf-8")
    with pytest.raises(PaperError, match=r"book/index: a link leads to page-index\.gone, which is nowhere"):
        read(tmp_path, ("book/index",))


def test_what_is_missing_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LLMHWError, match=r"has no book/index\.html; build the book first: make book"):
        make("pdf", tmp_path, tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(LLMHWError, match="none is on this machine; install it, or name one with CHROMIUM=path"):
        chromium()


def test_the_pdf_has_bookmarks_links_and_figures(printed: bytes, book: Book) -> None:
    objects = re.findall(rb"\n\d+ 0 obj\n(.*?)\nendobj", printed, re.DOTALL)
    named = next(body for body in objects if b"/page-index [" in body)
    places = {name.decode() for name in re.findall(rb"/(\S+) \[\d+ 0 R /XYZ", named)}
    links = {
        name.decode() for body in objects for name in re.findall(rb"/Subtype /Link.*/Dest /(\S+)", body, re.DOTALL)
    }
    assert links <= places
    wanted = {str(link["href"])[1:] for each in book.chapters for link in each.article.select("a[href^='#']")}
    assert {re.sub(r"#2E", ".", name) for name in links} >= wanted
    bookmarks = sum(body.startswith(b"<</Title") and b"/Parent" in body for body in objects)
    heads = sum(len(each.article.select("h1, h2, h3, h4, h5, h6")) for each in book.chapters)
    assert bookmarks == heads + 1  # and the contents
    figures = [body for body in objects if b"/S /Figure" in body and b"/Alt " in body]
    assert len(figures) == len(book.drawings) + 1  # and the sign on the title page
    assert f"/CreationDate (D:{book.date:%Y%m%d%H%M%S}".encode() in printed
    assert not re.findall(rb"/BaseFont /(?!\w+\+)", printed), "a font that is not embedded"


def test_the_contents_name_the_right_pages(printed: bytes, book: Book, tmp_path: Path) -> None:
    if not shutil.which("pdftotext"):
        pytest.skip("no pdftotext on this machine; install poppler-utils")
    (tmp_path / "book.pdf").write_bytes(printed)
    told = subprocess.run(["pdftotext", "-layout", "book.pdf", "-"], cwd=tmp_path, capture_output=True, check=True)
    sheets = told.stdout.decode().split("\f")
    for title in (title for each in book.chapters for title in [each.title, *(name for _, name in each.sections)]):
        line = re.search(rf"^ *{re.escape(title)} {{2,}}(\d+)$", sheets[1] + sheets[2], re.MULTILINE)
        assert line, title
        assert title in sheets[int(line[1]) - 1], title


def test_the_epub_is_whole(archive: zipfile.ZipFile, book: Book) -> None:
    first = archive.infolist()[0]
    assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
    assert archive.read("mimetype") == b"application/epub+zip"
    package = ElementTree.fromstring(archive.read("book/package.opf"))
    listed = {f"book/{item.get('href')}" for item in package.iter("{http://www.idpf.org/2007/opf}item")}
    assert listed == {name for name in archive.namelist() if name.startswith("book/")} - {"book/package.opf"}
    trees = {name: ElementTree.fromstring(archive.read(name)) for name in listed if name.endswith((".xhtml", ".svg"))}
    names = {name: {tag.get("id") for tag in tree.iter()} for name, tree in trees.items()}
    pictures = []
    for name, tree in trees.items():
        for link in tree.iter(f"{XHTML}a"):
            where, _, place = urljoin(name, link.get("href", "")).partition("#")
            assert "://" in where or (where in listed and (not place or place in names[where])), link.attrib
        for image in tree.iter(f"{XHTML}img"):
            pictures.append(urljoin(name, image.get("src", "")))
            assert pictures[-1] in listed
            assert image.get("alt")
    assert len(set(pictures)) == len(book.drawings) + 1  # and the cover
    formulas = sum(len(each.article.select(".math")) for each in book.chapters)
    assert sum(1 for tree in trees.values() for _ in tree.iter("{http://www.w3.org/1998/Math/MathML}math")) == formulas
    for name in listed:
        if name.endswith(".svg"):
            assert not re.search(rb"var\(|currentColor|<script", archive.read(name)), name


def test_a_validator_finds_nothing_in_the_epub(archive: zipfile.ZipFile, tmp_path: Path) -> None:
    jar = Path("/usr/share/java/epubcheck.jar")
    if not (shutil.which("java") and jar.is_file()):
        pytest.skip("no epubcheck on this machine; on Debian: apt install epubcheck")
    assert archive.fp is not None
    archive.fp.seek(0)
    (tmp_path / "book.epub").write_bytes(archive.fp.read())
    command = ["java", "-jar", jar, "--failonwarnings", tmp_path / "book.epub"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def test_the_sheet_is_one_page_for_a4_and_letter(html: Path, press: None) -> None:
    made = sheet.printed(read(html, sheet.PAGES))
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", made)
    assert len(boxes) == 1
    assert float(boxes[0][0]) <= 595.3  # A4 is so wide
    assert float(boxes[0][1]) <= 792  # and Letter so high, in points
