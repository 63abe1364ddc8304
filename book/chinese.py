"""The Chinese edition: what the pages of the book say, as catalogues, and the pages with the translations put in.

    python -m book.chinese gettext           # bring book/locale/zh_CN in step with the pages
    python -m book.chinese check             # what is wrong with the translations

A catalogue is a gettext file of one page: English, Chinese, and a word on what the text is (heading, takeaway, ...).
A text is what stands between two marks of Markdown: a paragraph, an item, a cell of a table, a heading. Its lines are
joined, so that breaking them elsewhere changes no catalogue. Code, formulas on lines of their own, outputs and what has
no words, such as names of cards, are no texts.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import yaml
from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po, write_po
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

ROOT = Path(__file__).parents[1]
LOCALE = Path("book/locale/zh_CN")

# Directives whose bodies are Markdown, and those that hold no words of the page.
WORDED = {"admonition", "button-ref", "dropdown", "figure", "important", "list-table", "note", "tip", "warning"}
WORDLESS = {"bibliography", "calculator", "claims-audit", "llmhw-api", "llmhw-formulas"}


class Block(NamedTuple):
    """A text of a page, where it stands (line and column, from 0; the end is the first sign behind it), its kind."""

    first: int
    start: int
    last: int
    end: int
    text: str
    kind: str


class Text(NamedTuple):
    """A text of a source and where it is: the number of the notebook's cell or of the table's row, if there is one."""

    text: str
    kind: str
    file: str
    place: int | None = None  # from 1


@cache
def parser() -> MarkdownIt:
    """The parser that the book is built with."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return create_md_parser(
        MdParserConfig(enable_extensions=set(config["parse"]["myst_enable_extensions"])), RendererHTML
    )


# -- texts of a page --------------------------------------------------------------------------


def worded(text: str) -> bool:
    """Whether a text has English words that a translator can do something with."""
    said = "".join(
        child.content
        for token in parser().parseInline(text)
        for child in token.children or ()
        if child.type in ("text", "softbreak")
    )
    return re.search(r"[a-z]{2}", said) is not None


def one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines())


def span(lines: list[str], first: int, last: int, content: str, kind: str) -> Block:
    """The text whose lines these are, behind the marks of its first line."""
    last = max(last, first + 1)  # a term's range is empty
    while last > first + 1 and not lines[last - 1].strip(" >"):
        last -= 1
    start = lines[first].rindex(content.split("\n")[0].strip())
    return Block(first, start, last - 1, len(lines[last - 1].rstrip()), one_line(content), kind)


def blocks(source: str) -> list[Block]:
    """The texts of Markdown, in its order."""
    lines = source.splitlines()
    return [block for block in _blocks(source, lines) if worded(block.text)]


def _blocks(source: str, lines: list[str]) -> Iterator[Block]:
    open_: list[str] = []  # what the token stands in
    answer, row, column = False, -1, 0
    for token in parser().parse(source):
        if token.nesting:
            open_.append(token.type) if token.nesting > 0 else open_.pop()
        elif token.type == "html_block":
            answer = "<details" in token.content or (answer and "</details" not in token.content)
            yield from summaries(token, lines)
        elif token.type == "inline" and token.map and token.content.strip():
            first, last = token.map
            if {"td_open", "th_open"} & set(open_):
                raw = token.content.replace("|", r"\|")
                column = lines[first].index(raw, column if first == row else 0)
                yield Block(first, column, first, column + len(raw), token.content, "cell")
                row, column = first, column + len(raw)
            else:
                yield span(lines, first, last, token.content, kind_of(open_, token.content, answer))
        elif token.type in ("fence", "colon_fence") and token.info.startswith("{"):
            yield from directive(token, lines)


def kind_of(open_: list[str], content: str, answer: bool) -> str:
    if "heading_open" in open_:
        return "heading"
    if "blockquote_open" in open_:
        return "takeaway" if content.startswith("**Takeaway") else "quotation"
    if "dt_open" in open_ or "dd_open" in open_:
        return "term" if "dt_open" in open_ else "definition"
    if answer:
        return "answer"
    return "item" if "list_item_open" in open_ else "paragraph"


def summaries(token: Token, lines: list[str]) -> Iterator[Block]:
    """What is shown of a folded part."""
    assert token.map
    for number in range(*token.map):
        for found in re.finditer(r"<summary>(.*?)</summary>", lines[number]):
            yield Block(number, found.start(1), number, found.end(1), found[1], "summary")


def directive(token: Token, lines: list[str]) -> Iterator[Block]:
    """The texts of a directive's body."""
    assert token.map
    name = token.info[1:].split("}")[0]
    first, last = token.map[0] + 1, token.map[1] - 1
    while first < last and lines[first].startswith(":"):
        first += 1
    body = lines[first:last]
    if name == "glossary":
        found = definitions(body)
    elif name == "llmhw-filter":
        found = [Block(i, 0, i, line.index(":"), line.split(":")[0], "button") for i, line in enumerate(body)]
    elif name in WORDED:
        found = blocks("\n".join(body))
    elif name in WORDLESS:
        found = []
    else:
        raise ValueError(f"directive {name!r}: book/chinese.py must say whether it has words of the page")
    for block in found:
        yield block._replace(first=block.first + first, last=block.last + first)


def definitions(body: list[str]) -> list[Block]:
    """The definitions of a glossary, which are indented under their terms; each term has its Chinese already."""
    found: list[Block] = []
    for number, line in enumerate(body):
        if not line.startswith("  "):
            continue
        if found and found[-1].last == number - 1:
            one = found.pop()
            found.append(one._replace(last=number, end=len(line), text=f"{one.text} {line.strip()}"))
        else:
            found.append(Block(number, 2, number, len(line), line.strip(), "definition"))
    return found


def translated(source: str, words: dict[str, str]) -> str:
    """Markdown with its texts in Chinese where there is Chinese for them."""
    lines = source.splitlines()
    for block in reversed(blocks(source)):
        new = words.get(block.text)
        if new is None:
            continue
        new = new.replace("|", r"\|") if block.kind == "cell" else new
        lines[block.first : block.last + 1] = [lines[block.first][: block.start] + new + lines[block.last][block.end :]]
    return "\n".join(lines) + ("\n" if source.endswith("\n") else "")


# -- texts of a source ------------------------------------------------------------------------


def pages() -> list[str]:
    """The sources of the book's pages, in its order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    return [next(f"{name}{end}" for end in (".md", ".ipynb") if (ROOT / f"{name}{end}").is_file()) for name in names]


def texts(page: str) -> list[Text]:
    """All that a page says in words, in its order."""
    path = ROOT / page
    if path.suffix == ".ipynb":
        return [one for index, cell in enumerate(nbformat.read(path, 4).cells) for one in cell_texts(page, index, cell)]
    found = [Text(block.text, block.kind, page) for block in blocks(path.read_text(encoding="utf-8"))]
    return [*found, *claims_texts()] if page == "book/claims.md" else found


def cell_texts(page: str, index: int, cell: Any) -> Iterator[Text]:
    if cell.cell_type == "markdown":
        yield from (Text(block.text, block.kind, page, index + 1) for block in blocks(cell.source))
    for part, key, kind in (("figure", "caption", "caption"), ("image", "alt", "alt")):
        if said := cell.metadata.get("mystnb", {}).get(part, {}).get(key):
            yield Text(one_line(said), kind, page, index + 1)


def claims_texts() -> Iterator[Text]:
    """What the page of claims takes from the catalog; the article's own words are Chinese."""
    from llmhw.catalog import read_table

    file = "llmhw/catalog/claims.csv"
    for row in read_table("claims"):
        for field in ("section", "truth", "reason", "source", "correction"):
            if re.search(r"[a-z]{2}", row[field]):
                yield Text(row[field], field, file, int(row["number"]))


# -- catalogues -------------------------------------------------------------------------------

HEADER = """# Chinese (zh_CN) of {page}. `make gettext` keeps it in step with the page.
msgid ""
msgstr ""
"Language: zh_CN\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=UTF-8\\n"
"Content-Transfer-Encoding: 8bit\\n"
"X-Source: {page}\\n"
"X-Source-Commit: {commit}\\n"

"""


def po_path(page: str) -> Path:
    return ROOT / LOCALE / Path(page).with_suffix(".po")


def template(page: str) -> Catalog:
    """A page's catalogue without translations."""
    catalog = Catalog(locale="zh_CN")
    for one in texts(page):
        catalog.add(one.text, locations=[(one.file, one.place)], auto_comments=[one.kind])  # type: ignore[list-item]
    return catalog


def read(page: str) -> Catalog:
    path = po_path(page)
    if not path.is_file():
        return Catalog(locale="zh_CN")
    with path.open("rb") as file:
        return read_po(file, locale="zh_CN", abort_invalid=True)


def recorded_commit(page: str) -> str:
    """The commit of the page that its translations were last held against."""
    path = po_path(page)
    found = re.search(r"X-Source-Commit: (\w+)", path.read_text(encoding="utf-8")) if path.is_file() else None
    return found[1] if found else ""


def last_commit(page: str) -> str:
    """The last commit that touched a page; empty without git or its history."""
    command = ["git", "log", "-1", "--format=%h", "--abbrev=12", "--", page]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def messages(catalog: Catalog) -> list[Message]:
    return [message for message in catalog if message.id]


def merged(page: str) -> str:
    """The text of a page's catalogue, in step with the page.

    Translations of texts that are still there are kept. A text that was changed keeps its old translation as fuzzy,
    which the book does not use. A text that is gone is dropped. The commit is a new one where nothing is fuzzy: then
    every translation is one of a text of this commit.
    """
    catalog = read(page)
    catalog.update(template(page), update_creation_date=False)
    for message in messages(catalog):
        message.flags &= {"fuzzy"}  # roles of MyST are no placeholders of Python
    fuzzy = any(message.fuzzy for message in messages(catalog))
    commit = (fuzzy and recorded_commit(page)) or last_commit(page) or recorded_commit(page)
    out = BytesIO()
    write_po(out, catalog, width=0, omit_header=True, ignore_obsolete=True)
    return HEADER.format(page=page, commit=commit) + out.getvalue().decode()


def gettext() -> None:
    """Bring all catalogues in step with the pages."""
    for page in pages():
        path = po_path(page)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(merged(page), encoding="utf-8")
        done, count = progress(page)
        print(f"{path.relative_to(ROOT)}: {done} of {count} texts translated")


def progress(page: str) -> tuple[int, int]:
    found = messages(read(page))
    return sum(bool(message.string) and not message.fuzzy for message in found), len(found)


def words(page: str) -> dict[str, str]:
    """The translations of a page that may be used."""
    return {str(m.id): str(m.string) for m in messages(read(page)) if m.string and not m.fuzzy}


# -- what a translation must keep -------------------------------------------------------------

_MONTHS = "January February March April May June July August September October November December".split()
_MONTH = re.compile(rf"\b({'|'.join(_MONTHS)})(?= \d)")
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALES |= {"万亿": 12, "亿": 8, "千万": 7, "百万": 6, "万": 4, "千": 3}
_NUMBER = re.compile(rf"(\d[\d,]*(?:\.\d+)?)(?:\s*({'|'.join(_SCALES)}))?")


def numbers(text: str) -> Counter[Decimal]:
    """The numbers of a text by value: 14.2 亿 is 1.42 billion, 4,096 is 4096, and a month is a number."""
    text = _MONTH.sub(lambda month: f"{_MONTHS.index(month[1]) + 1}", text)
    found = ((n.replace(",", ""), _SCALES.get(scale, 0)) for n, scale in _NUMBER.findall(text))
    return Counter(Decimal(n).scaleb(power).normalize() for n, power in found)


def scaled(text: str, before: Counter[Decimal], after: Counter[Decimal]) -> Counter[Decimal]:
    """The numbers before, with those scaled whose scale stands at another one: "1.2 or 4 billion" is 12 亿或 40 亿."""
    before = before.copy()
    for power in sorted({_SCALES[scale] for _, scale in _NUMBER.findall(text) if scale}):
        for number, count in (before - after).items():
            moved = min(count, (after - before)[number.scaleb(power).normalize()])
            before[number] -= moved
            before[number.scaleb(power).normalize()] += moved
    return +before


def kept(text: str) -> dict[str, Counter[Any]]:
    """What must be the same in the text and its translation, by its name."""
    found: dict[str, Counter[Any]] = {}
    said = ""
    for token in (child for inline in parser().parseInline(text) for child in inline.children or ()):
        if token.type in ("code_inline", "math_inline", "math_single", "math_inline_double"):
            found.setdefault("code and formulas", Counter())[token.content] += 1
        elif token.type in ("link_open", "image"):
            found.setdefault("targets of links", Counter())[token.attrs.get("href") or token.attrs.get("src")] += 1
        elif token.type == "myst_role":
            target = re.search(r"<([^>]*)>$", token.content)
            name = (token.meta["name"], target[1] if target else token.content)
            found.setdefault("roles", Counter())[name] += 1
        elif token.type in ("strong_open", "em_open"):
            found.setdefault("bold and italics", Counter())[token.type] += 1
        elif token.type == "html_inline" and not re.fullmatch(r"<span lang=[^>]*>|</span>", token.content):
            found.setdefault("tags", Counter())[token.content] += 1
        else:
            said += token.content if token.type == "text" else " "
    found["placeholders"] = Counter(re.findall(r"\{\w*\}", said))
    found["numbers"] = numbers(said)
    return found


def faults(text: str, new: str) -> list[str]:
    """What is wrong with a translation; empty if nothing is."""
    if "\n" in new or new != new.strip():
        return ["it must be one line without blanks around it"]
    shape, was = ([t.type for t in parser().parse(one)] for one in (new, text))
    if shape != was and shape != ["paragraph_open", "inline", "paragraph_close"]:
        return ["it begins with a sign that Markdown takes for a mark"]
    before, after = kept(text), kept(new)
    if "lang=" in text:  # the article's words and their translation are one in Chinese, with their numbers
        for one in (before, after):
            one["numbers"] = Counter(set(one["numbers"]))
    before["numbers"] = scaled(text, before["numbers"], after["numbers"])
    return [
        f"{name} differ: {list((a - b).elements())} missing, {list((b - a).elements())} too many"
        for name in sorted({*before, *after})
        if (a := before.get(name, Counter())) != (b := after.get(name, Counter()))
    ]


def all_faults() -> list[str]:
    return [
        f"{page}: {text!r}: {why}" for page in pages() for text, new in words(page).items() for why in faults(text, new)
    ]


def check() -> None:
    found = all_faults()
    print("\n".join(found) or "Every translation keeps what it must keep.")
    sys.exit(bool(found))


if __name__ == "__main__":
    {"gettext": gettext, "check": check}[sys.argv[1]]()
