"""The built site as the chapters of a book: answers at the end, nothing to click, and every link within the book."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urljoin

from bs4 import BeautifulSoup
from bs4.element import NavigableString, Tag

from book.address import ROOT, setting
from llmhw.units import LLMHWError

WORDS = {
    "en": {
        "answer": "Answer", "answers": "Answers", "contents": "Contents", "live": "Set it yourself: ",
        "page": "page", "sheet": "Formula sheet", "sources": "sources of",
        "subtitle": "Which hardware does this language model need, what will it do there, and what will it cost?",
        "version": "Version",
    },
    "zh": {
        "answer": "答案", "answers": "答案", "contents": "目录", "live": "自己动手：", "page": "页",
        "sheet": "公式速查表", "sources": "源文件日期", "version": "版本",
        "subtitle": "这个语言模型需要什么硬件，在其上表现如何，成本多少？",
    },
}  # fmt: skip

# What only a screen can do.
DEAD = "script, noscript, style, form, button, input, [hidden], a.headerlink, .toctree-wrapper, .sd-btn"
DEAD += ", .calculator > :not(h2, h3, h4, .answer)"
LONG = 16  # lines of code that a page may end in
_EXERCISE = re.compile(r"\d+\w?\.\d+")
_SVG = re.compile(r"<svg\b.*?</svg>", re.DOTALL)


class PaperError(LLMHWError):
    """Something that a book is made from is not there."""


@dataclass(frozen=True)
class Chapter:
    """A page of the site.

    name       its path without suffix; `slug`, its last part, names it within the book
    part       the heading under which the contents have it, "" for the first page
    title      its h1 as text
    article    its content; a drawing stands there as `<img data-drawing="its place in Book.drawings">`
    """

    name: str
    part: str
    title: str
    article: Tag

    @property
    def slug(self) -> str:
        return self.name.rsplit("/", 1)[-1]

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Anchor and title of its sections."""
        heads = (section.find("h2", recursive=False) for section in self.article.find_all("section"))
        return [(head.parent["id"], text_of(head)) for head in heads if head is not None]


@dataclass(frozen=True)
class Book:
    """The whole: what the title page says, the chapters, and their drawings as SVG text."""

    title: str
    language: str
    authors: str
    licence: str
    version: str
    commit: str
    date: datetime
    address: str
    html: Path
    chapters: list[Chapter]
    drawings: list[str]

    @property
    def tag(self) -> str:
        """The language as documents say it."""
        return "zh-Hans" if self.language == "zh" else self.language

    def word(self, name: str) -> str:
        return WORDS[self.language][name]


def text_of(tag: Tag) -> str:
    """Its words in one line; of TeX, without the brackets around it."""
    return " ".join(re.sub(r"\\[()]", "", tag.get_text()).split())


def sources() -> tuple[datetime, str]:
    """Date of the sources and their commit: the same sources give the same book. Without git, the newest notebook's."""
    git = subprocess.run(["git", "log", "-1", "--format=%ct %h"], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds, _, commit = git.stdout.strip().partition(" ")
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or seconds
    newest = max(path.stat().st_mtime for path in ROOT.glob("notebooks/*.ipynb"))
    return datetime.fromtimestamp(int(epoch or newest), UTC), commit


def read(html: Path, only: tuple[str, ...] = ()) -> Book:
    """The book of a built site.

    html   its folder, the Chinese one's is `zh` in it
    only   names of pages; links to others lead to the site

    Raises `PaperError` where the site was not built, or where a link within the book leads nowhere.
    """
    start = html / "book" / "index.html"
    if not start.is_file():
        raise PaperError(f"html={str(html)!r} has no book/index.html; build the book first: make book")
    root = BeautifulSoup(start.read_text(encoding="utf-8"), "html.parser")
    language = "zh" if str(root.html["lang"]).startswith("zh") else "en"
    names = {"book/index": ""}
    for part in root.select("nav.bd-docs-nav p.caption"):
        for link in part.find_next_sibling("ul").select("a[href]"):
            names[urljoin("book/", str(link["href"])).removesuffix(".html")] = text_of(part)
    if unknown := set(only) - set(names):
        raise PaperError(f"only={sorted(unknown)[0]!r} is no page of the book; it has {', '.join(names)}")
    place = setting()
    address = place.book + ("/zh" if html.name == "zh" else "")
    drawings: list[str] = []
    plain = plain_classes(html)
    chapters = [chapter(html, name, part, drawings, plain) for name, part in names.items() if not only or name in only]
    for each in chapters:
        to_paper(each, address, language)
    join(chapters, place.book, address)
    date, commit = sources()
    licence = root.select_one(".extra_footer").decode_contents().strip()
    authors = text_of(root.select_one(".component-author")).removeprefix("By ")
    title = text_of(root.select_one("article h1")).removesuffix("#")
    return Book(title, language, authors, licence, place.version, commit, date, address, html, chapters, drawings)


def static(html: Path, name: str) -> Path:
    """A file of `_static`; what the Chinese tree has in common with the English one around it stands only there."""
    own = html / "_static" / name
    return own if own.is_file() else html.parent / "_static" / name


def code_colours(html: Path) -> str:
    """The site's rules for code in the light."""
    rules = static(html, "pygments.css").read_text(encoding="utf-8")
    return "\n".join(re.findall(r'^html\[data-theme="light"\] (\.highlight .*)$', rules, re.MULTILINE))


def plain_classes(html: Path) -> set[str]:
    """Classes of code that has the colour of all code."""
    rules = code_colours(html)
    usual = re.search(r"^\.highlight \{[^}]*[ ;]color: (#\w+)", rules, re.MULTILINE)
    same = re.findall(rf"^\.highlight \.(\w+) \{{ color: {usual[1]} \}}", rules, re.MULTILINE) if usual else []
    return {"pre", "w", *same}


def chapter(html: Path, name: str, part: str, drawings: list[str], plain: set[str]) -> Chapter:
    """A page without what only a screen can do. Its drawings are taken out: an HTML parser forgets their capitals."""
    text = (html / f"{name}.html").read_text(encoding="utf-8")
    begin = text.index('<article class="bd-article"')

    def keep(svg: re.Match[str]) -> str:
        drawings.append(svg[0])
        return f'<img data-drawing="{len(drawings) - 1}">'

    inside = _SVG.sub(keep, text[begin : text.index("</article>", begin)])
    article = BeautifulSoup(inside, "html.parser").article
    # Each span of a PDF says to a screen reader what it is: those that look like all other text need not.
    for span in article.select("span.pre, .highlight span"):
        if not set(span.get("class", [])) - plain:
            span.unwrap()
    article.smooth()
    for code in article.select("pre"):
        code["class"] = "long" if code.get_text().count("\n") > LONG else "short"
    for cited in article.select("[role^=doc-]"):
        del cited["role"]  # EPUB 3.3 has no more use for it
    settings = {one["id"]: said for one in article.select(".calculator[id]") if (said := set_to(one))}
    for dead in article.select(DEAD):
        dead.decompose()
    for one in article.select(".calculator[id]"):
        one.append(new("p", settings.get(one["id"], ""), "settings"))
    return Chapter(name, part, text_of(article.h1), article)


def set_to(calculator: Tag) -> str:
    """What the controls of a calculator say at first: label and value of those that are shown."""
    said: dict[str, tuple[str, str]] = {}
    for control in calculator.select("form .control"):
        field = control.select_one("select, input[name]")
        if field is None:
            continue
        chosen = field.select_one("option[selected]") or field.select_one("option")
        value = text_of(chosen) if chosen else str(field.get("value", "✓" if field.has_attr("checked") else "–"))
        conditions = (one.partition("=") for one in str(control.get("data-when") or "").split())
        key = str(chosen.get("value", value)) if chosen else value
        if all(said.get(name, ("", ""))[1] in values.split("|") for name, _, values in conditions):
            unit = control.select_one(".unit")
            said[str(field["name"])] = (f"{text_of(control.label)}: {value}{' ' + text_of(unit) if unit else ''}", key)
    return "; ".join(words for words, _ in said.values())


def new(name: str, text: str = "", class_: str = "", **attributes: str) -> Tag:
    tag = Tag(name=name, attrs={**({"class": class_} if class_ else {}), **attributes})
    if text:
        tag.append(NavigableString(text))
    return tag


def to_paper(page: Chapter, address: str, language: str) -> None:
    """Answers go to the end of the chapter, what is folded opens, a calculator says where it lives."""
    words = WORDS[language]
    answers = new("section", id="answers")
    answers.append(new("h2", words["answers"]))
    for folded in page.article.select("details"):
        head = folded.summary.extract()
        exercise = asked(folded)
        if exercise is None:
            folded.name = "div"
            folded["class"] = "opened"
            folded.insert(0, new("p", text_of(head), "summary"))
            continue
        number = exercise.strong.get_text()
        exercise["id"] = f"exercise-{number}"
        there = new("p", class_="to-answer")
        there.append(new("a", f"{words['answer']} {number}", href=f"#answer-{number}"))
        folded.replace_with(there)
        answer = new("section", class_="answer-of", id=f"answer-{number}")
        answer.append(new("h3"))
        answer.h3.append(new("a", number, href=f"#exercise-{number}"))
        answer.extend([*folded.contents])
        answers.append(answer)
    if answers.section:
        (page.article.section or page.article).append(answers)
    for calculator in page.article.select(".calculator[id]"):
        line = new("p", words["live"], "live")
        where = f"{address}/{page.name}.html#{calculator['id']}"
        line.append(new("a", where, "site", href=where))
        calculator.append(line)


def asked(folded: Tag) -> Tag | None:
    """The paragraph with the exercise that this answers."""
    for before in folded.find_previous_siblings("p"):
        first = before.find(True)
        if first is not None and first.name == "strong" and _EXERCISE.fullmatch(first.get_text()):
            return before
    return None


def anchor(slug: str, name: str = "") -> str:
    """An anchor of the whole book, and an identifier in XML."""
    return f"page-{slug}" + (f".{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}" if name else "")


def join(chapters: list[Chapter], site: str, address: str) -> None:
    """Make anchors unique in the book, and links to its pages links within it; all others lead to the site."""
    pages = {each.name: each for each in chapters}
    known = {anchor(each.slug) for each in chapters}
    wanted: dict[str, str] = {}
    for each in chapters:
        for tag in each.article.select("[id]"):
            tag["id"] = anchor(each.slug, str(tag["id"]))
            known.add(str(tag["id"]))
        for tag in each.article.select("[aria-labelledby], [aria-describedby], [for]"):
            for key in ("aria-labelledby", "aria-describedby", "for"):
                tag.attrs.pop(key, None)
        for link in each.article.select("a[href]"):
            url = urljoin(f"{address}/{each.name}.html", str(link["href"]))
            where, _, name = url.partition("#")
            page = where.removeprefix(address).removeprefix(site).strip("/").removesuffix(".html")
            if where.startswith(site) and page in pages and link.get("class") != "site":
                link["href"] = f"#{anchor(pages[page].slug, name)}"
                wanted[link["href"][1:]] = each.name
            else:
                link["href"] = url
    if lost := sorted(set(wanted) - known):
        raise PaperError(f"{wanted[lost[0]]}: a link leads to {lost[0]}, which is nowhere in the book; mend the link")
