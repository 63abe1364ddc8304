"""Every link, anchor and image of the built site resolves inside it, and no page loads anything from elsewhere."""

from __future__ import annotations

import posixpath
import re
import zipfile
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from book.address import setting, setup_cell
from tests.book.conftest import ROOT, parsed

pytestmark = pytest.mark.xdist_group("site")

REPOSITORY, BOOK, VERSION = setting()
LOADED = dict.fromkeys(("img", "script", "iframe", "source", "video", "audio", "embed"), "src")
# Links of the head that name another page and load nothing.
NAMING = {"canonical", "next", "prev", "search", "index", "author", "license", "alternate"}


@cache
def anchors(path: Path) -> frozenset[str]:
    return frozenset(str(tag[key]) for key in ("id", "name") for tag in parsed(path).find_all(attrs={key: True}))


def built_pages(html: Path) -> list[Path]:
    found = [path for path in sorted(html.rglob("*.html")) if "_static" not in path.parts]
    assert found
    return found


def broken(page: Path, html: Path, target: str) -> str | None:
    """Why a link within the site leads nowhere, or None."""
    parts = urlsplit(target)
    path = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
    if not path.is_relative_to(html.resolve()) and path != page:
        return "leads out of the site"
    if path.is_dir():
        path /= "index.html"
    if not path.is_file():
        return "no such file"
    if parts.fragment and path.suffix == ".html" and unquote(parts.fragment) not in anchors(path):
        return "no such anchor"
    return None


def test_internal_links_and_images_resolve(html: Path) -> None:
    problems = []
    for page in built_pages(html):
        for tag in parsed(page).find_all(True):
            target = tag.get("href") if tag.name in {"a", "link"} else tag.get(LOADED.get(tag.name, ""))
            if not target or target == "#" or urlsplit(target).scheme or target.startswith("//"):
                continue
            if reason := broken(page, html, target):
                problems.append(f"{page.relative_to(html)}: {target}: {reason}")
    assert not problems, "\n".join(problems)


def test_nothing_is_loaded_from_elsewhere(html: Path) -> None:
    problems = []
    for page in built_pages(html):
        for tag in parsed(page).find_all([*LOADED, "link"]):
            if tag.name == "link" and NAMING & set(tag.get("rel", [])):
                continue
            target = tag.get("href") if tag.name == "link" else tag.get(LOADED[tag.name])
            if target and (target.startswith("//") or urlsplit(target).scheme in {"http", "https"}):
                problems.append(f"{page.relative_to(html)}: {target}")
    for sheet in html.rglob("*.css"):
        loaded = re.findall(r"url\(['\"]?(?:https?:)?//[^)]*\)", sheet.read_text(encoding="utf-8"))
        problems += [f"{sheet.relative_to(html)}: {found}" for found in loaded]
    assert not problems, "\n".join(problems)


def test_links_into_the_repository_name_files_that_exist(html: Path) -> None:
    notebooks = set()
    for page in built_pages(html):
        for tag in parsed(page).find_all("a", href=True):
            target = str(tag["href"]).replace("https://colab.research.google.com/github/", "https://github.com/")
            match = re.match(rf"{REPOSITORY}/(?:blob|tree|edit|raw)/main/([^#?]*)", target)
            if match:
                assert (ROOT / match[1]).exists(), target
            if match and "colab.research.google.com" in str(tag["href"]):
                notebooks.add(page.stem)
    assert notebooks == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}


def test_notebook_pages_can_be_downloaded(html: Path) -> None:
    for page in sorted((html / "notebooks").glob("*.html")):
        offered = [str(tag["href"]) for tag in parsed(page).select("a.btn-download-source-button")]
        assert any(target.endswith(f"{page.stem}.ipynb") for target in offered), page.name


def test_chapters_link_to_pages_of_this_book(html: Path) -> None:
    """A chapter is read in Colab and on GitHub too, so its links name the whole address; in the book they are near."""
    named = re.compile(rf"\({re.escape(BOOK)}/((?:book|notebooks)/[^)]*)\)")
    for page in built_pages(html):
        assert not parsed(page).select(f".bd-article a[href^='{BOOK}/']"), page
    problems, linked = [], 0
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for target in named.findall(path.read_text(encoding="utf-8")):
            linked += 1
            if reason := broken(html / "index.html", html, target):
                problems.append(f"{path.name}: {target}: {reason}")
            if "#calculator-" in target:  # in the page stands the calculator itself; its id is found above
                continue
            near = {str(tag["href"]) for tag in parsed(html / f"notebooks/{path.stem}.html").select("a[href]")}
            assert posixpath.relpath(target, "notebooks") in near, f"{path.name}: {target}"
    assert not problems, "\n".join(problems)
    assert linked > 100


def test_every_address_is_the_one_setting() -> None:
    """pyproject.toml has the project's addresses; `python book/address.py` moves it elsewhere."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert config["repository"]["url"] == REPOSITORY
    assert config["html"]["baseurl"] == f"{BOOK}/"
    assert Path(urlsplit(setup_cell().split('"')[1]).path).name == f"llmhw-{VERSION}-py3-none-any.whl"


def test_the_book_serves_the_wheel_that_its_notebooks_fall_back_to(html: Path) -> None:
    address = re.search(r'wheel = "([^"]+)"', setup_cell())
    assert address
    wheel = html / address[1].removeprefix(f"{BOOK}/")
    assert "llmhw/catalog/accelerators.csv" in zipfile.ZipFile(wheel).namelist()


def test_every_reference_can_be_opened() -> None:
    entries = re.split(r"(?m)^(?=@)", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"))[1:]
    assert len(entries) > 50
    assert not [entry.splitlines()[0] for entry in entries if not re.search(r"\b(doi|url) = \{", entry)]
