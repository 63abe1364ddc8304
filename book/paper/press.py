"""The Chromium of the machine as a press. It sees only what it is given, and the files of the project: no network."""

from __future__ import annotations

import mimetypes
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from book.address import ROOT
from book.paper.pages import Book, PaperError, static

FONTS = ("noto-serif", "noto-sans", "noto-sans-mono")
HAN = ("han.css", "noto-sans-sc/index.css")  # the site's Chinese fonts
PLACE = "http://book.invalid"

HEAD = """<!DOCTYPE html>
<html lang="{language}"><head><meta charset="utf-8"><title>{title}</title>{styles}
<script>
MathJax = {{
  startup: {{ typeset: false }},
  options: {{ enableMenu: false, enableAssistiveMml: false }},
  chtml: {{ fontURL: "/node_modules/mathjax/es5/output/chtml/fonts/woff-v2" }},
}};
</script>
<script src="/node_modules/mathjax/es5/tex-mml-chtml.js"></script>
</head><body>{body}</body></html>
"""

READY = """
async () => {
  await MathJax.startup.promise;
  await MathJax.typesetPromise([...document.querySelectorAll(".math")]);
  await document.fonts.ready;
  return [...document.querySelectorAll("mjx-merror")].map(one => one.textContent);
}
"""


def chromium() -> str:
    """The browser's path; `CHROMIUM` names another one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    path = os.environ.get("CHROMIUM") or next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        raise PaperError(
            "chromium=None: the book is printed by Chromium, and none is on this machine; "
            "install it, or name one with CHROMIUM=path"
        )
    return path


def document(book: Book, *, title: str, body: str, css: str) -> str:
    """A page of HTML with the fonts of paper and with MathJax."""
    fonts = [f"/node_modules/@fontsource/{name}/{weight}.css" for name in FONTS for weight in weights(name)]
    fonts += [f"/static/{name}" for name in HAN if static(book.html, name).is_file()]
    links = "".join(f'<link rel="stylesheet" href="{href}">' for href in fonts)
    return HEAD.format(language=book.tag, title=title, styles=f"{links}<style>{css}</style>", body=body)


def weights(name: str) -> tuple[str, ...]:
    return ("400", "700") if name.endswith("mono") else ("400", "400-italic", "700", "700-italic")


@contextmanager
def opened(pages: Mapping[str, str], html: Path, *, width: int, height: int = 900) -> Iterator[Any]:
    """A browser's page at the first of `pages` (path -> HTML), as print shows it, its formulas set.

    html    the folder of the site, for its fonts and styles under /static/
    width   of the window, in CSS pixels
    """
    from playwright.sync_api import Error, sync_playwright

    for name in ("mathjax", *(f"@fontsource/{font}" for font in FONTS)):
        if not (ROOT / "node_modules" / name).is_dir():
            raise PaperError(f"node_modules/{name} is missing; run: make setup")

    def answer(route: Any) -> None:
        path = unquote(urlsplit(route.request.url).path)
        folder, _, rest = path[1:].partition("/")
        file = static(html, rest) if folder == "static" else ROOT / "node_modules" / rest
        if not route.request.url.startswith(f"{PLACE}/"):
            route.abort()
        elif path in pages:
            route.fulfill(body=pages[path], content_type="text/html; charset=utf-8")
        elif folder in ("static", "node_modules") and file.is_file():
            route.fulfill(body=file.read_bytes(), content_type=mimetypes.guess_type(file)[0] or "font/woff2")
        else:
            route.abort()

    # Chromium's sandbox does not start as root, which is what a container's user is.
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=chromium(), args=quiet)
        except Error as error:
            raise PaperError(f"chromium={chromium()!r} does not start ({str(error).splitlines()[0]})") from None
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        page.set_default_timeout(600_000)
        page.route("**/*", answer)
        page.emulate_media(media="print", color_scheme="light")
        page.goto(f"{PLACE}{next(iter(pages))}", wait_until="load")
        if wrong := page.evaluate(READY):
            raise PaperError(f"formula={wrong[0]!r} is no TeX that MathJax can set; mend it in the book's sources")
        yield page
        browser.close()
