"""The formulas that are used most, on one page: from the built pages of formulas and notation."""

from __future__ import annotations

from html import escape
from pathlib import Path

from bs4.element import Tag

from book.paper.pages import Book, PaperError, text_of
from book.paper.pdf import SHRINK, dated, page_count
from book.paper.press import document, opened

HERE = Path(__file__).parent
PAGES = ("book/notation", "book/formulas")

# By question; a chapter stands behind a formula whose name no chapter writes.
CHOSEN = {
    "Memory": (
        "stored_weight_bytes 2", "grouped_bits_per_weight 2", "state_bytes", "kv_cache_bytes", "score_matrix_bytes",
        "lora_params 8",
    ),
    "Compute": (
        "matmul_flops", "training_flops_6n", "attention_core_flops", "stream_seconds", "compute_seconds 3",
        "utilization",
    ),
    "Many devices": (
        "all_reduce_wire_bytes", "reduce_scatter_wire_bytes", "all_gather_wire_bytes", "activation_message_bytes 6",
        "message_seconds 6", "bubble_seconds",
    ),
    "Serving": (
        "paged_tokens 9", "served_tokens_per_second 10", "tokens_per_verification", "littles_law",
        "prompt_wait_seconds 10b",
    ),
    "A run and its price": (
        "job_mtbf_seconds", "wall_seconds", "run_device_hours", "run_dollars", "run_energy_kwh",
        "dollars_per_million_tokens",
    ),
}  # fmt: skip

RULES = (
    "On the right: unit · chapters. All quantities are in base units: bytes, FLOP, seconds, dollars. "
    "1 GiB = 2<sup>30</sup> bytes = 1.074 GB. A multiply-add is two FLOPs. Peaks are dense. "
    "Bandwidth is per direction. A batch counts sequences."
)


def printed(book: Book) -> bytes:
    """The sheet as PDF. `book` has at least the pages of PAGES. Raises `PaperError` if it does not fit one page."""
    pages = {each.name: each.article for each in book.chapters}
    body = f"""<header><h1>{book.word("sheet")}</h1>
<p>{escape(book.title)} · llmhw {escape(book.version)}, {book.date:%Y-%m-%d} ·
<a href="{book.address}/">{book.address}</a></p></header>
<main>{"".join(group(pages["book/formulas"], head, names) for head, names in CHOSEN.items())}
{symbols(pages["book/notation"])}</main><footer>{RULES}</footer>"""
    css = (HERE / "sheet.css").read_text(encoding="utf-8")
    text = document(book, title=book.word("sheet"), body=body, css=css)
    with opened({"/sheet.html": text}, book.html, width=703) as page:
        page.evaluate(SHRINK)
        pdf: bytes = page.pdf(prefer_css_page_size=True, print_background=True, tagged=True)
    if (count := page_count(pdf)) != 1:
        raise PaperError(
            f"formulas={sum(map(len, CHOSEN.values()))} fill {count} pages; take some out of book/paper/sheet.py"
        )
    return dated(pdf, book)


def group(formulas: Tag, head: str, names: tuple[str, ...]) -> str:
    return f"<section><h2>{head}</h2>{''.join(row(formulas, *name.split()) for name in names)}</section>"


def row(formulas: Tag, name: str, chapter: str = "") -> str:
    """A formula: what it gives, itself, its unit and its chapters."""
    section = next((one for one in formulas.select("section.formula") if one.h3.get_text() == name), None)
    if section is None or section.select_one("div.math") is None:
        raise PaperError(
            f"formula={name!r} is no formula of the formula index that TeX says; take it out of book/paper/sheet.py"
        )
    facts = section.select("dl.field-list > dd")
    unit = text_of(facts[0])
    where = text_of(facts[2]) if len(facts) > 2 else chapter
    what = text_of(section.p).rstrip(".")
    return f"""<div class="row"><p>{escape(what)}</p><p class="unit">{escape(unit)} · {escape(where)}</p>
{section.select_one("div.math")}</div>"""


def symbols(notation: Tag) -> str:
    """The first table of the notation: symbol, meaning, unit."""
    rows = []
    for line in notation.table.select("tbody tr"):
        cells = line.find_all("td")
        rows.append("<tr>" + "".join(f"<td>{cells[i].decode_contents()}</td>" for i in (0, 2, 3)) + "</tr>")
    return f'<section class="symbols"><h2>{text_of(notation.h2)}</h2><table>{"".join(rows)}</table></section>'
