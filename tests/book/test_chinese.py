"""The Chinese edition: catalogues in step, translations that keep what they must, two trees of one shape."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup, Tag

from book.chinese import catalogues, checks
from book.chinese.texts import Text, blocks, pages, texts, translated
from tests.book.conftest import ROOT, english, parsed

SITE = pytest.mark.xdist_group("site")
HAN = re.compile(r"[\u3400-\u9fff]")


# -- catalogues -------------------------------------------------------------------------------


@pytest.mark.parametrize("source", catalogues.sources())
def test_catalogue_is_in_step_with_its_page(source: str) -> None:
    """Texts, their order and where they stand; the commit may be an older one."""

    def without_commit(text: str) -> str:
        return re.sub(r"X-Source-Commit: \w*", "", text)

    found = catalogues.po_path(source).read_text(encoding="utf-8")
    assert without_commit(found) == without_commit(catalogues.merged(source)), "run: make gettext"


def test_no_catalogue_is_left_of_a_page_that_is_gone() -> None:
    found = set((ROOT / catalogues.LOCALE).rglob("*.po"))
    assert found == {catalogues.po_path(source) for source in catalogues.sources()}


def test_translations_keep_what_they_must_keep() -> None:
    assert not checks.all_faults()


def test_every_text_would_pass_for_its_own_translation() -> None:
    """And can be found again where it was put in, so that nothing of a page is lost."""
    for page in pages():
        assert not [one for one in texts(page) if checks.faults(one.text, one.text)], page
        if page.endswith(".md"):
            source = (ROOT / page).read_text(encoding="utf-8")
            found = blocks(source)
            again = translated(source, {block.text: f"{block.text} 中" for block in found})
            assert [block.text for block in blocks(again)] == [f"{block.text} 中" for block in found]


@pytest.mark.parametrize(
    ("english", "chinese", "fault"),
    [
        ("`fit` says 24 GiB.", "`fit` 的答案是 24 GiB。", ""),
        ("`fit` says 24 GiB.", "`plan` 的答案是 24 GiB。", "code"),
        ("$N$ is 1.42 billion.", "$N$ 为 14.2 亿。", ""),
        ("$N$ is 1.42 billion.", "$N$ 为 14.2 万。", "numbers"),
        ("$N$ is 1.42 billion.", "$M$ 为 14.2 亿。", "code and formulas"),
        ("In April 2025", "2025 年 4 月", ""),
        ("4,096 tokens", "4096 个 token", ""),
        ("4,096 tokens", "4086 个 token", "numbers"),
        ("See [it](a.md#b).", "见[此处](a.md#b)。", ""),
        ("See [it](a.md#b).", "见[此处](a.md)。", "links"),
        ("A {term}`KV cache`.", "一份{term}`键值缓存 <KV cache>`。", ""),
        ("A {term}`KV cache`.", "一份{term}`键值缓存`。", "roles"),
        ("**Takeaway.** Ask.", "**要点。** 要问。", ""),
        ("**Takeaway.** Ask.", "**要点。**要问。", "bold"),  # CommonMark sees no end of the bold text here
        ("{count} claims", "{count} 条", ""),
        ("{count} claims", "条", "placeholders"),
        ("No list", "1. 不是列表", "begins"),
        ("One line", "一\n行", "one line"),
        ('The article: <span lang="zh-Hans">7B 卡</span>, "a 7B card"', "文章：7B 卡", ""),
    ],
)
def test_what_a_translation_must_keep(english: str, chinese: str, fault: str) -> None:
    found = checks.faults(english, chinese)
    assert fault in " ".join(found) if fault else not found


def test_a_changed_text_is_fuzzy_and_one_that_is_gone_is_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(catalogues, "ROOT", tmp_path)
    said = ["The bytes of a weight.", "The bytes of a token in the cache.", "Gone at once."]
    monkeypatch.setattr(catalogues, "texts", lambda page: [Text(text, "paragraph", page) for text in said])

    def update() -> dict[str, str]:
        path = catalogues.po_path("book/page.md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(catalogues.merged("book/page.md"), encoding="utf-8")
        return catalogues.words("book/page.md")

    assert update() == {}
    path = catalogues.po_path("book/page.md")
    chinese = iter(("甲", "乙", "丙"))
    path.write_text(re.sub(r'(msgid "\w.*\n)msgstr ""', lambda m: f'{m[1]}msgstr "{next(chinese)}"', path.read_text()))
    assert update() == dict(zip(said, "甲乙丙", strict=True))
    said[1:] = ["The bytes of one token in the cache."]
    assert update() == {said[0]: "甲"}
    assert "#, fuzzy" in path.read_text()
    assert "丙" not in path.read_text()


# -- trees ------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """What links lead to, without what docutils only numbers."""
    return {str(tag["id"]) for tag in parsed(path).select("[id]") if not re.fullmatch(r"id\d+", str(tag["id"]))}


@SITE
def test_both_trees_have_the_same_pages_and_anchors(html: Path) -> None:
    made = {folder: [path.relative_to(folder) for path in english(folder)] for folder in (html, html / "zh")}
    assert made[html] == made[html / "zh"]
    for name in made[html]:
        if name.stem != "genindex":  # its letters are those of a language
            one, other = (anchors(folder / name) for folder in made)
            assert one == other, name


@SITE
def test_pages_say_their_language_and_lead_to_the_other_one(html: Path) -> None:
    for folder, mine, other, back in ((html, "en", "zh-Hans", "zh/"), (html / "zh", "zh-Hans", "en", "../")):
        for path in english(folder):
            page, name = parsed(path), path.relative_to(folder)
            assert page.html
            assert page.html["lang"] == mine, name
            if str(name) == "index.html":
                continue
            link = page.select_one(".bd-header-article a.other-language")
            assert link
            assert (link["lang"], link["hreflang"]) == (other, other)
            assert (path.parent / str(link["href"])).resolve() == (folder / back / name).resolve(), name
            alternates = {tag["hreflang"]: str(tag["href"]) for tag in page.select("link[rel=alternate]")}
            assert alternates["en"].endswith(f"llmhw/{name}")
            assert alternates["zh-Hans"].endswith(f"llmhw/zh/{name}")


@SITE
def test_what_is_english_in_the_chinese_tree_says_so(html: Path) -> None:
    for path in english(html / "zh"):
        page = parsed(path)
        for tag in page.select("article.bd-article :is(p, h1, h2, h3, dt, figcaption)"):
            if tag.find_parent(class_="calculator"):
                continue
            text = " ".join(tag.get_text().split())
            if re.search(r"[a-z]{2} [a-z]{2,} [a-z]{2}", text) and not HAN.search(text):
                assert tag.find_parent(attrs={"lang": "en"}) or tag.get("lang") == "en", f"{path.name}: {text}"


@SITE
def test_the_chinese_tree_brings_its_font(html: Path) -> None:
    """Every page names the style sheet; its parts are there, and have every sign that the pages show."""
    folder = html / "zh" / "_static" / "noto-sans-sc"
    style = (folder / "index.css").read_text(encoding="utf-8")
    covered = set[int]()
    for part, signs in re.findall(r"url\(\./(files/[^)]+)\)[^}]*unicode-range: ([^;]+);", style):
        assert (folder / part).is_file()
        for first, last in re.findall(r"U\+([0-9a-f]+)(?:-([0-9a-f]+))?", signs):
            covered |= set(range(int(first, 16), int(last or first, 16) + 1))
    for path in english(html / "zh"):
        page = parsed(path)
        if path.name != "index.html" or path.parent.name == "book":
            assert page.select("link[href$='noto-sans-sc/index.css'], link[href*='noto-sans-sc/index.css?']"), path.name
        assert {ord(sign) for sign in HAN.findall(page.get_text())} <= covered, path.name


@SITE
def test_what_both_trees_have_alike_is_there_once(html: Path) -> None:
    for name in ("mathjax", "vendor", "styles/pydata-sphinx-theme.css", "page.js"):
        assert (html / "_static" / name).exists(), name
        assert not (html / "zh" / "_static" / name).exists() or not any((html / "zh/_static" / name).rglob("*.*")), name
    assert not (html / "zh" / "live").exists()


@SITE
def test_notebooks_of_the_chinese_tree_are_chinese_and_have_the_same_code(html: Path) -> None:
    import nbformat

    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        original = nbformat.read(path, 4).cells
        chinese = nbformat.read(html / "zh" / "_sources" / "notebooks" / path.name, 4).cells
        code = [[cell.source for cell in cells if cell.cell_type == "code"] for cells in (original, chinese)]
        assert code[0] == code[1], path.name
        assert len(original) == len(chinese)
        text = "\n".join(cell.source for cell in chinese if cell.cell_type == "markdown")
        assert catalogues.counts(f"notebooks/{path.name}")[0] == 0 or HAN.search(text)
        assert not re.search(r"llmhw\.github\.io/llmhw/(?:book|notebooks)/", text), "a link out of the Chinese tree"


def first(page: BeautifulSoup, selector: str) -> Tag:
    found = page.select_one(selector)
    assert found
    return found


@SITE
def test_claims_are_judged_in_chinese(html: Path) -> None:
    page = parsed(html / "zh" / "book" / "claims.html")
    assert len(page.select(".claim")) == len(parsed(html / "book" / "claims.html").select(".claim"))
    for claim in page.select(".claim"):
        assert HAN.search(first(claim, ".claim-verdict").get_text()), claim["id"]
