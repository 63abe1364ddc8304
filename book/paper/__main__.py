"""The book on paper: `make pdf`, `make epub`, `make sheet`, or python -m book.paper pdf epub sheet.

Made from the built site, so that paper says what the site says. `--edition zh` takes the Chinese one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from book.address import ROOT
from book.paper import epub, pdf, sheet
from book.paper.pages import Book, read
from llmhw.files import write_whole
from llmhw.units import LLMHWError

# What can be made: its file, the pages that it needs (none: all), and how.
KINDS: dict[str, tuple[str, tuple[str, ...], Callable[[Book], bytes]]] = {
    "pdf": ("llmhw.pdf", (), pdf.printed),
    "epub": ("llmhw.epub", (), epub.bound),
    "sheet": ("formulas.pdf", sheet.PAGES, sheet.printed),
}


def make(kind: str, html: Path, out: Path) -> Path:
    """Write one of `KINDS` whole, or nothing, and give its path."""
    name, pages, function = KINDS[kind]
    book = read(html, pages)
    path = out / name if book.language == "en" else out / name.replace(".", f"-{book.language}.")
    write_whole(path, lambda: function(book))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m book.paper", description=__doc__)
    parser.add_argument("kinds", nargs="+", choices=KINDS, metavar="KIND", help="pdf, epub, sheet")
    parser.add_argument("--edition", choices=("en", "zh"), default="en")
    parser.add_argument("--out", type=Path, default=ROOT / "_build")
    options = parser.parse_args()
    site = ROOT / "_build" / "html"
    try:
        for kind in options.kinds:
            path = make(kind, site / "zh" if options.edition == "zh" else site, options.out)
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    except LLMHWError as error:
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
