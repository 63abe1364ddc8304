"""Pages of the KV cache filling as sequences grow, and the same cache with a reservation for each sequence."""

from __future__ import annotations

from typing import Any

from llmhw.formula import Term, term
from llmhw.language import said
from llmhw.live import charts
from llmhw.live.base import Answer, Calculator, Control, Figure, Picture, Settings
from llmhw.live.choices import MODEL
from llmhw.live.models import chosen
from llmhw.live.picture import Drawing
from llmhw.live.typed import Code, call, command
from llmhw.memory import kv_cache
from llmhw.serving import pages_held
from llmhw.simulation import FilledCache, filled_cache
from llmhw.units import format_quantity

_NAMES = "ABCDEF"
_ACROSS = 16
_CELL = charts.WIDTH / _ACROSS

Cells = list[tuple[str, float]]  # whose a page is, and its share that holds tokens


def _paged(held: FilledCache) -> Cells:
    table, cells = held.table, [("", 0.0)] * held.table.blocks
    for name in table:
        for i, page in enumerate(table.blocks_of(name)):
            cells[page] = (str(name), min(1.0, table.tokens_of(name) / table.block_tokens - i))
    return cells


def _reserved(held: FilledCache) -> Cells:
    table, cells = held.table, Cells()
    for name in held.reserved:
        filled = table.tokens_of(name) / table.block_tokens
        cells += [(name, min(1.0, max(0.0, filled - i))) for i in range(held.longest_pages)]
    return cells + [("", 0.0)] * (table.blocks - len(cells))


def _grid(drawing: Drawing, top: float, title: str, cells: Cells, names: str) -> None:
    """Pages in rows of sixteen: an outline each, the tokens in it in its sequence's colour, and a letter."""
    drawing.text(0, top + 14, title, bold=True)
    filled: dict[str, list[tuple[float, float, float, float]]] = {}
    outlines, letters = [], []
    for i, (name, share) in enumerate(cells):
        x, y = i % _ACROSS * _CELL, top + 20 + i // _ACROSS * _CELL
        outlines.append((x, y + 1, _CELL - 1.4, _CELL - 3))
        if name:
            letters.append((x + _CELL / 2 - 1, y + _CELL / 2 + 3, name))
            if share:
                filled.setdefault(name, []).append((x, y + 1, share * (_CELL - 2), _CELL - 3))
    drawing.boxes(outlines, None, fill=0.12)
    for name, places in filled.items():
        drawing.boxes(places, names.index(name))
    drawing.letters(letters)


def _picture(held: FilledCache, names: str) -> Picture:
    rows = -(-held.table.blocks // _ACROSS)
    tall = 26 + rows * _CELL
    drawing = Drawing(charts.WIDTH, 2 * tall + 8)
    _grid(drawing, 0, said("In pages: {n} sequences", n=len(held.table)), _paged(held), names)
    told = said("Reserved: {n} sequences", n=len(held.reserved))
    _grid(drawing, tall + 4, told, _reserved(held), names)
    table = held.table
    each = ", ".join(f"{name}: {' '.join(map(str, table.blocks_of(name)))}" for name in table)
    words = said("Pages of each sequence, in the order of its tokens: {each}", each=each)
    caption = said("A square is a page of {n} tokens. Coloured: tokens. The letter: whose it is.", n=table.block_tokens)
    return Picture(drawing.svg(words), caption, words)


def _verdict(held: FilledCache) -> str:
    if not held.table.used:
        return said("No sequence finds pages for its prompt.")
    pages = said("{used} of {all} pages held, {empty} of them empty", used=held.table.used, all=held.table.blocks,
                 empty=format_quantity(held.unused.value, "fraction"))  # fmt: skip
    if not held.reserved:
        return pages
    return said("{pages}; with reservations {empty} would be", pages=pages,
                empty=format_quantity(held.unused_reserved.value, "fraction"))  # fmt: skip


def _figures(held: FilledCache) -> list[Figure]:
    table, most = held.table, held.most_reserved

    def pages() -> str:
        size = table.block_tokens
        terms = (term(pages_held, str(name), tokens=table.tokens_of(name), page_size=size) for name in table)
        return "\n".join(t.explain() for t in terms)

    def share(label: str, wasted: Term) -> Figure:
        return Figure(label, format_quantity(wasted.value, "fraction"), wasted.value, wasted.explain)

    figures = [Figure(said("sequences with reservations"), f"{most.value}", most.value, most.explain)]
    if table.used:
        figures = [
            Figure(said("pages held"), f"{table.used}", table.used, pages),
            share(said("of these empty"), held.unused),
            *figures,
        ]
    return [*figures, share(said("of the reservations empty"), held.unused_reserved)] if held.reserved else figures


def _pages(settings: Settings) -> Answer:
    own, names = chosen(settings), _NAMES[: settings["sequences"]]
    # longer and shorter prompts around the mean, the same for everybody
    prompts = {name: max(1, round(settings["prompt"] * (4 + (5 * i) % 7) / 7)) for i, name in enumerate(names)}
    page_tokens, longest = int(settings["page"]), settings["longest"]
    asked = {"pages": settings["room"] // page_tokens, "page_tokens": page_tokens, "longest_tokens": longest}
    held = filled_cache(prompts, settings["written"], **asked)
    page = kv_cache(own.spec, seq_len=asked["page_tokens"])
    figures = [
        *_figures(held),
        Figure(said("bytes of a page"), format_quantity(float(page.total), "bytes"), float(page.total), page.explain),
    ]
    notes = [said("Prompts: {prompts} tokens", prompts=", ".join(f"{name} {n}" for name, n in prompts.items()))]
    if held.waiting:
        notes.append(said("No page is left for {names}: they wait, or are preempted.", names=", ".join(held.waiting)))
    return Answer(
        verdict=_verdict(held),
        good=not held.waiting,
        figures=figures,
        python=_python(own.python, held, prompts, settings["written"], asked),
        command=_command(own.word, held, asked["page_tokens"]),
        pictures=[_picture(held, names)],
        notes=notes,
    )


def _python(model: Code, held: FilledCache, prompts: dict[str, int], written: int, asked: dict[str, Any]) -> str:
    made = call("filled_cache", prompts, written, **asked)
    values = ["held.table.used", "held.unused.value"] if held.table.used else []
    values += ["held.most_reserved.value"]
    values += ["held.unused_reserved.value"] if held.reserved else []
    page = call("llmhw.kv_cache", model, seq_len=asked["page_tokens"])
    lines = "".join(f"    {value},\n" for value in (*values, f"float({page}.total)"))
    return f"import llmhw\nfrom llmhw.simulation import filled_cache\n\nheld = {made}\n(\n{lines})"


def _command(word: str, held: FilledCache, page: int) -> str:
    terms = [held.unused] if held.table.used else []
    terms += [held.most_reserved, *([held.unused_reserved] if held.reserved else [])]
    explained = [command("explain", t.formula, *(f"{k}={v}" for k, v in t.inputs), options={}) for t in terms]
    return "\n".join((*explained, command("model", word, options={"seq_len": page})))


def _number(name: str, default: int, label: str, most: int, **more: Any) -> Control:
    return Control(name=name, kind="number", default=default, label=label, least=1, most=most, **more)


PAGES = Calculator(
    name="pages",
    title="How do pages of the KV cache fill?",
    controls=[
        Control(name="written", kind="number", default=40, label="Tokens that each has written", least=0, most=512),
        _number("sequences", 4, "Sequences", len(_NAMES)),
        _number("prompt", 100, "Tokens of a prompt, on average", 1000, logarithmic=True),
        Control(name="page", kind="choice", default="16", label="Tokens of a page",
                choices=[(str(n), str(n)) for n in (8, 16, 32, 64, 128)]),
        _number("longest", 256, "Longest sequence that is allowed", 4096, logarithmic=True, more=True, unit="tokens"),
        Control(name="room", kind="number", default=768, label="Room of the cache", least=128, most=1024, step=128,
                unit="tokens", more=True),
        Control(**{**vars(MODEL), "more": True}),
    ],
    function=_pages,
)  # fmt: skip
