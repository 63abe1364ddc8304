"""What the pages of the book say: the texts of Markdown, of notebooks and of the claims, as a translator gets them.

A text is what stands between two marks of Markdown: a paragraph, an item, a cell of a table, a heading. Its lines are
joined, so that breaking them elsewhere changes nothing. Code, formulas on lines of their own, outputs and what has no
words, such as names of cards, are no texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import yaml
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

ROOT = Path(__file__).parents[2]
INTERFACE = "interface"
CLAIMS = "book/claims.md"

# Directives whose bodies are Markdown, and those that hold no words of the page.
WORDED = {"admonition", "button-ref", "dropdown", "figure", "important", "list-table", "note", "tip", "warning"}
WORDLESS = {"bibliography", "calculator", "claims-audit"}
WORDLESS |= {"llmhw-api", "llmhw-downloads", "llmhw-formulas", "llmhw-translation"}


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
    return create_md_parser(
        MdParserConfig(enable_extensions=set(config()["parse"]["myst_enable_extensions"])), RendererHTML
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


def headings(page: str) -> list[str]:
    """The headings of a page, without marks. The page is named with its suffix or without."""
    path = next(ROOT / name for name in pages() if page in (name, name.rpartition(".")[0]))
    if path.suffix == ".ipynb":
        parts = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
    else:
        parts = [path.read_text(encoding="utf-8")]
    found = []
    for tokens in map(parser().parse, parts):
        for token, inside in pairwise(tokens):
            if token.type == "heading_open":
                found.append("".join(child.content for child in inside.children or ()))
    return found


# -- texts of a source ------------------------------------------------------------------------


@cache
def config() -> Any:
    """The settings of the book."""
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


@cache
def contents() -> Any:
    """The book's table of contents."""
    return yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))


def pages() -> list[str]:
    """The sources of the book's pages, in its order."""
    toc = contents()
    names = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    return [next(f"{name}{end}" for end in (".md", ".ipynb") if (ROOT / f"{name}{end}").is_file()) for name in names]


def texts(source: str) -> list[Text]:
    """All that a page, or the "interface" of all pages, says in words, in its order."""
    if source == INTERFACE:
        return [*interface_texts()]
    path = ROOT / source
    if path.suffix == ".ipynb":
        cells = enumerate(nbformat.read(path, 4).cells, start=1)
        return [one for number, cell in cells for one in cell_texts(source, number, cell)]
    found = [Text(block.text, block.kind, source) for block in blocks(path.read_text(encoding="utf-8"))]
    return [*found, *claims_texts()] if source == CLAIMS else found


def captions(cell: Any) -> Iterator[tuple[dict[str, str], str]]:
    """The places of a cell's metadata that hold words: a part of it, and the key in that."""
    for part, key in (("figure", "caption"), ("image", "alt")):
        found = cell.metadata.get("mystnb", {}).get(part, {})
        if key in found:
            yield found, key


def cell_texts(page: str, number: int, cell: Any) -> Iterator[Text]:
    if cell.cell_type == "markdown":
        yield from (Text(block.text, block.kind, page, number) for block in blocks(cell.source))
    yield from (Text(one_line(part[key]), key, page, number) for part, key in captions(cell))


def claims_texts() -> Iterator[Text]:
    """What the page of claims takes from the catalog and computes; the article's own words are Chinese."""
    from book.claims import CHECKS, claims, without_numbers

    file = "llmhw/catalog/claims.csv"
    for claim in claims():
        for field in ("section", "truth", "reason", "source", "correction"):
            if re.search(r"[a-z]{2}", said := getattr(claim, field)):
                yield Text(said, field, file, claim.number)
        if claim.number in CHECKS:
            found = CHECKS[claim.number]()
            for case in (*found.cases, *([found.earlier] if found.earlier else [])):
                for said in (case.words, case.shown):
                    if re.search(r"[a-z]{2}", said):
                        yield Text(without_numbers(said)[0], "computed", "book/claims.py", claim.number)


def interface_texts() -> Iterator[Text]:
    """What stands on all pages or is made by our own extensions: `say("...")` in their code."""
    for key, said in (("title", config()["title"]), ("author", config()["author"])):
        yield Text(said, key, "_config.yml")
    yield Text(config()["html"]["extra_footer"], "footer", "_config.yml")
    yield from (Text(part["caption"], "caption", "_toc.yml") for part in contents()["parts"])
    for path in sorted((ROOT / "book" / "_ext").glob("*.py")):
        for found in re.finditer(r'\bsay\(\s*"((?:[^"\\]|\\.)+)"', path.read_text(encoding="utf-8")):
            yield Text(found[1], "label", f"book/_ext/{path.name}")
