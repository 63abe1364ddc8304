"""Every built page in a real browser: quiet, complete, legible on a phone and in the dark.

Playwright drives the Chromium of the machine through its debugging protocol; it downloads no browser. One browser
serves all pages, which are served on loopback only.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.book.conftest import ROOT, english, pages

sync_api = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.xdist_group("site")

WIDTHS = (375, 1440)
SCHEMES = ("light", "dark")
ALL_PAGES = [*pages(), "index", "genindex", "search"]
# Of the Chinese tree, which has the same pages: one of each kind.
CHINESE = ["zh/book/index", "zh/book/claims", "zh/book/glossary", "zh/notebooks/01_matching_table", "zh/search"]

# Parts of the page beyond its right edge that no scrolling box of their own holds, so nobody can read them.
OUT_OF_REACH = """
() => [...document.querySelectorAll(".bd-article-container *")].filter(element => {
  const box = element.getBoundingClientRect();
  if (box.width === 0 || box.height === 0 || box.right <= innerWidth + 1) return false;
  if (element.closest("mjx-assistive-mml, .visually-hidden, svg")) return false;
  for (let up = element; !up.matches(".bd-article-container"); up = up.parentElement) {
    if (["auto", "scroll"].includes(getComputedStyle(up).overflowX)) {
      return up.getBoundingClientRect().right > innerWidth + 1;
    }
  }
  return true;
}).slice(0, 5).map(element => `${element.tagName} ${element.className}: ${element.textContent.slice(0, 60)}`)
"""

# Formulas that MathJax did not turn into anything, or only into a complaint.
BAD_MATH = """
async () => {
  const formulas = [...document.querySelectorAll(".bd-article-container .math")];
  if (formulas.length === 0) return [];
  if (!window.MathJax?.startup) return ["MathJax is not there"];
  await MathJax.startup.promise;
  const failed = one => !one.querySelector("mjx-container") || one.querySelector("mjx-merror, [data-mjx-error]");
  return formulas.filter(failed).map(one => one.textContent.slice(0, 80));
}
"""

# Words of the page, without code and without what MathJax made.
PROSE = """
() => {
  const copy = document.querySelector(".bd-article-container")?.cloneNode(true);
  copy?.querySelectorAll("pre, code, mjx-container, script, style").forEach(one => one.remove());
  return copy?.textContent ?? "";
}
"""


# What a checker of accessibility finds that matters, and where; of what changes with colours and width, or of all.
BARRIERS = """
async again => {
  const only = again ? { runOnly: ["color-contrast", "scrollable-region-focusable"] } : {};
  const found = await axe.run(document, { resultTypes: ["violations"], ...only });
  return found.violations.filter(rule => ["serious", "critical"].includes(rule.impact)).flatMap(rule =>
    rule.nodes.slice(0, 3).map(one => `${rule.id}: ${one.html.slice(0, 150)}`));
}
"""
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(html: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(html))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    path = os.environ.get("CHROMIUM") or next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        reason = "no Chromium on this machine; install it, or name it with CHROMIUM=path"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    # Chromium's sandbox does not start as root, which is what a container's user is.
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=quiet)
        yield browser
        browser.close()


@pytest.mark.parametrize("name", [*ALL_PAGES, *CHINESE])
def test_page(browser: Any, address: str, name: str) -> None:
    """One load: the page changes its width, and from light to dark with the reader's system."""
    problems: list[str] = []
    with browser.new_context(color_scheme="light", viewport={"width": WIDTHS[0], "height": 800}) as context:
        page = watched(context.new_page(), address, problems)
        page.goto(f"{address}/{name}.html", wait_until="load")
        page.wait_for_selector(".bd-article-container", state="attached")
        problems += [f"formula not rendered: {text}" for text in page.evaluate(BAD_MATH)]
        # Pictures load when they are scrolled to; ask for all of them now.
        page.evaluate("() => document.querySelectorAll('img').forEach(one => one.loading = 'eager')")
        page.wait_for_load_state("networkidle")
        page.evaluate(AXE.read_text(encoding="utf-8"))
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
            for width in (
                WIDTHS if scheme == SCHEMES[0] else WIDTHS[::-1]
            ):  # accessibility at the last one: wide, narrow
                page.set_viewport_size({"width": width, "height": 800})
                wide = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
                if wide > 0:
                    problems.append(f"{scheme}, {width} px: scrolls sideways by {wide} px")
                problems += [f"{scheme}, {width} px: out of reach: {text}" for text in page.evaluate(OUT_OF_REACH)]
            problems += [f"{scheme}: {barrier}" for barrier in page.evaluate(BARRIERS, scheme != SCHEMES[0])]
        for picture in page.query_selector_all("img"):
            source = picture.get_attribute("src")
            if not (picture.get_attribute("alt") or "").strip():
                problems.append(f"no alt text: {source}")
            if not picture.evaluate("one => one.complete && one.naturalWidth > 0"):
                problems.append(f"picture not shown: {source}")
        raw = re.findall(r"\\[a-z]{3,}\S*", page.evaluate(PROSE))
        problems += [f"raw TeX in the prose: {text}" for text in raw]
        problems += [f"a link that is none: {text}" for text in re.findall(r"\]\([a-z]+:\S*", page.evaluate(PROSE))]
    assert not problems, "\n".join(dict.fromkeys(problems))


def watched(page: Any, address: str, problems: list[str]) -> Any:
    """The page, writing down whatever goes wrong in it."""

    def asked(request: Any) -> None:
        if not request.url.startswith((f"{address}/", "data:", "blob:")):
            problems.append(f"request to another host: {request.url}")

    page.on("console", lambda said: problems.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(f"script: {error}"))
    page.on("request", asked)
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    page.on("response", lambda got: problems.append(f"{got.status}: {got.url}") if got.status >= 400 else None)
    return page


def test_every_built_page_is_opened(html: Path) -> None:
    made = {str(path.relative_to(html).with_suffix("")) for path in english(html)}
    assert made == set(ALL_PAGES)


def test_some_page_has_formulas(html: Path) -> None:
    assert 'class="math' in (html / "book/notation.html").read_text(encoding="utf-8")


def test_search_answers(browser: Any, address: str) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}/search.html?q=optimizer")
        page.wait_for_selector("#search-results ul.search li a")
        assert page.locator("#search-results ul.search li a").count() >= 2


def test_the_reader_can_switch_to_the_dark(browser: Any, address: str) -> None:
    with browser.new_context(color_scheme="light") as context:
        page = context.new_page()
        page.goto(f"{address}/book/index.html")
        button = page.locator("button.theme-switch-button:visible").first
        seen = set()
        for _ in range(3):
            button.click()
            seen.add(page.evaluate("() => document.documentElement.dataset.theme"))
        assert seen == {"light", "dark"}


@pytest.mark.parametrize(
    ("name", "items", "words", "fits"),
    [
        ("book/formulas", "section.formula", "ring seconds", "ring_seconds"),
        ("book/glossary", "dl.glossary > dd", "分页", "page"),
        ("book/claims", ".claim", "nvlink", "NVLink"),
    ],
)
def test_a_long_page_shows_what_is_asked_for(
    browser: Any, address: str, name: str, items: str, words: str, fits: str
) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}/{name}.html")
        every = page.locator(items).count()
        page.get_by_label("Show what has the words").fill(words)
        shown = page.locator(f"{items}:visible")
        assert 0 < shown.count() < every / 2
        assert fits in page.locator(".bd-article").inner_text()
        assert page.get_by_role("status").inner_text() == f"{shown.count()} of {every}"


def test_claims_can_be_asked_for_by_verdict(browser: Any, address: str) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}/book/claims.html")
        button = page.get_by_role("button", name="outdated")
        button.click()
        shown = page.locator(".claim:visible")
        assert shown.count() == page.locator(".claim.claim-outdated").count() > 0
        button.click()
        assert page.locator(".claim:visible").count() == page.locator(".claim").count()


def test_the_other_language_opens_at_the_same_place(browser: Any, address: str) -> None:
    """With the keyboard, there and back, keeping the anchor and what the address asks."""
    with browser.new_context(viewport={"width": WIDTHS[0], "height": 800}) as context:
        page = context.new_page()
        page.goto(f"{address}/book/notation.html?a=b#training-states")
        for name, lang, folder in (("中文", "zh-Hans", "zh/"), ("English", "en", "")):
            link = page.get_by_role("link", name=name, exact=True)
            assert link.is_visible()
            link.focus()
            page.keyboard.press("Enter")
            page.wait_for_url(f"{address}/{folder}book/notation.html?a=b#training-states")
            assert page.locator("html").get_attribute("lang") == lang
            assert page.locator("#training-states").count() == 1


def test_search_finds_chinese_words(browser: Any, address: str) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}/zh/search.html?q=显存带宽")
        page.wait_for_selector("#search-results li")
        assert page.locator("#search-results li a[href*='notebooks/']").count() > 0


def test_chinese_has_a_font_of_its_own(browser: Any, address: str) -> None:
    """Where the reader's machine has none, the site's parts are loaded that the page needs."""
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}/zh/book/index.html")
        page.add_style_tag(content='html { --pst-font-family-base: "Noto Sans SC Variable" !important }')
        page.wait_for_function("[...document.fonts].filter(one => one.status === 'loaded').length > 5")
        assert page.evaluate("[...document.fonts].every(one => one.status !== 'error')")
