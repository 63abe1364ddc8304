"""The book as PDF: one long page of HTML, printed twice, the second time with the numbers of its pages put in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

from book.paper.pages import Book, Chapter, anchor, code_colours, static
from book.paper.press import document, opened

HERE = Path(__file__).parent
WIDTH = 620  # CSS pixels of a line: 164 mm, as paper.css has it

# What is wider than the page is drawn smaller, down to what can still be read; beyond that it wraps.
SHRINK = """
() => {
  for (const wide of document.querySelectorAll("table, div.math, .cell_output pre, .highlight-text pre")) {
    const table = wide.tagName === "TABLE";
    const room = (table ? wide.parentElement : wide).clientWidth, own = table ? wide.offsetWidth : wide.scrollWidth;
    if (own <= room + 1) continue;
    const factor = 0.99 * room / own;
    if (wide.tagName === "PRE" && factor < 0.85) wide.style.whiteSpace = "pre-wrap";
    else wide.style.fontSize = `${parseFloat(getComputedStyle(wide).fontSize) * Math.max(0.7, factor)}px`;
  }
}
"""
NUMBER = """
pages => {
  for (const one of document.querySelectorAll("[data-page-of]")) one.textContent = pages[one.dataset.pageOf] ?? "";
}
"""


def printed(book: Book) -> bytes:
    """The PDF: tagged, with bookmarks, and with the numbers of its pages in the contents."""
    body = "".join([title_page(book), contents(book), *(chapter(book, each) for each in book.chapters)])
    css = "\n".join([code_colours(book.html), (HERE / "paper.css").read_text(encoding="utf-8"), *running_heads(book)])
    text = document(book, title=escape(book.title), body=body, css=css)
    with opened({"/book.html": text}, book.html, width=WIDTH) as page:
        page.evaluate(SHRINK)
        numbers: dict[str, int] = {}
        for _ in range(3):
            pdf: bytes = page.pdf(prefer_css_page_size=True, print_background=True, tagged=True, outline=True)
            if numbers == (numbers := page_numbers(pdf)):
                break
            page.evaluate(NUMBER, {name: str(number) for name, number in numbers.items()})
    return dated(pdf, book)


def dated(pdf: bytes, book: Book) -> bytes:
    """The same file with the date of the sources, so that the same sources give the same one."""
    day = book.date.strftime("D:%Y%m%d%H%M%S+00'00'").encode()
    return re.sub(rb"(/(?:Creation|Mod)Date )\(D:[^)]{21}\)", lambda found: found[1] + b"(" + day + b")", pdf)


def running_heads(book: Book) -> Iterator[str]:
    """A chapter's title above its pages; a page of another name begins on a new sheet."""
    for index, each in enumerate(book.chapters):
        title = each.title.replace("\\", "\\\\").replace('"', '\\"')
        yield f'@page c{index} {{ @top-left {{ content: "{title}"; }} }}\n'
        yield f"#{anchor(each.slug)} {{ page: c{index}; }}\n"


def title_page(book: Book) -> str:
    logo = static(book.html, "logo.svg").read_text(encoding="utf-8")
    commit = f" ({book.commit})" if book.commit else ""
    address = escape(book.address)
    return f"""<section class="title-page">
<div class="logo">{logo}</div>
<p class="book-title">{escape(book.title)}</p>
<p class="subtitle">{escape(book.word("subtitle"))}</p>
<p class="authors">{escape(book.authors)}</p>
<div class="imprint">
<p>{book.word("version")} {escape(book.version)}, {book.word("sources")} {book.date:%Y-%m-%d}{commit}</p>
<p><a href="{address}/">{address}</a></p>
<p>{book.licence}</p>
</div>
</section>"""


def number(target: str) -> str:
    return f'<span class="number" data-page-of="{target}">000</span>'


def contents(book: Book) -> str:
    """Chapters and sections with their pages."""
    lines = []
    part = ""
    for each in book.chapters:
        if each.part != part:
            part = each.part
            lines.append(f'<p class="part">{escape(part)}</p>')
        entries = [(anchor(each.slug), each.title, "chapter-line")]
        entries += [(target, title, "section-line") for target, title in each.sections]
        lines += [f'<p class="{kind}"><a href="#{to}"><span>{escape(title)}</span>{number(to)}</a></p>'
                  for to, title, kind in entries]  # fmt: skip
    return f'<nav class="contents"><h1>{book.word("contents")}</h1>{"".join(lines)}</nav>'


def chapter(book: Book, each: Chapter) -> str:
    inside = re.sub(
        r'<img data-drawing="(\d+)"/>', lambda found: book.drawings[int(found[1])], each.article.decode_contents()
    )
    inside = re.sub(
        r'(<p class="to-answer"><a href="#)([^"]*)(">.*?)</a>',
        lambda found: f"{found[1]}{found[2]}{found[3]}, {book.word('page')} {number(found[2])}</a>",
        inside,
    )
    return f'<section class="chapter" id="{anchor(each.slug)}">{inside}</section>'


def objects_of(pdf: bytes) -> dict[int, bytes]:
    """The objects of a file as Chromium writes it, by number."""
    found = re.findall(rb"(?<=\n)(\d+) 0 obj\n(.*?)\nendobj", pdf, re.DOTALL)
    return {int(number): body for number, body in found}


def page_count(pdf: bytes) -> int:
    return sum(b"/Type /Page\n" in body for body in objects_of(pdf).values())


def page_numbers(pdf: bytes) -> dict[str, int]:
    """Named destination -> number of its page."""
    objects = objects_of(pdf)

    def leaves(number: int) -> Iterator[int]:
        kids = re.search(
            rb"/Type /Pages\n.*/Kids \[([^\]]*)\]|/Kids \[([^\]]*)\].*/Type /Pages\n", objects[number], re.DOTALL
        )
        if kids is None:
            yield number
            return
        for kid in re.findall(rb"(\d+) 0 R", kids[1] or kids[2]):
            yield from leaves(int(kid))

    catalog = next(body for body in objects.values() if b"/Type /Catalog" in body)
    root, named = (re.search(rb"/%s (\d+) 0 R" % key, catalog) for key in (b"Pages", b"Dests"))
    if root is None or named is None:
        return {}
    order = {page: index for index, page in enumerate(leaves(int(root[1])), start=1)}
    found = re.findall(rb"/(\S+) \[(\d+) 0 R", objects[int(named[1])])
    return {unescaped(name): order[int(page)] for name, page in found}


def unescaped(name: bytes) -> str:
    """A name of PDF: #2E is a dot."""
    return re.sub(rb"#([0-9A-Fa-f]{2})", lambda sign: bytes.fromhex(sign[1].decode()), name).decode()
