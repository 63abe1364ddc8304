"""The calculators of the built book in a real browser: Python runs in the page, and answers as it does here."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import re
import shutil
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from llmhw.live import CALCULATORS
from llmhw.units import LLMHWError
from tests.book.conftest import ROOT
from tests.book.test_browser import AXE, BARRIERS, Quiet, browser, watched
from tests.live import numbers, random_settings

__all__ = ["browser"]  # a fixture

pytestmark = pytest.mark.xdist_group("site")

PATIENCE = 60_000  # milliseconds, on a busy machine
HEAVY = (".wasm", ".zip", ".whl", ".asm.mjs")


@dataclass
class Site:
    """The built book on a server that writes down what it sends."""

    folder: Path
    address: str = ""
    sent: list[tuple[str, int]] = field(default_factory=list)

    def heavy(self) -> list[str]:
        """Big files that were sent, not only asked for."""
        return [path for path, status in self.sent if status == 200 and path.split("?")[0].endswith(HEAVY)]


@pytest.fixture(scope="module")
def site(html: Path) -> Iterator[Site]:
    found = Site(html)

    class Written(Quiet):
        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            found.sent.append((self.path, int(code)))

    handler = functools.partial(Written, directory=str(html))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        found.address = f"http://127.0.0.1:{server.server_port}"
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def reader(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A reader's browser, which keeps on its disk what it fetched; it knows the server by another name, too."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    path = os.environ.get("CHROMIUM") or next(found for name in names if (found := shutil.which(name)))
    args = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
            "--host-resolver-rules=MAP book.test 127.0.0.1"]  # fmt: skip
    allowed = ["clipboard-read", "clipboard-write"]
    folder = tmp_path_factory.mktemp("reader")
    with browser.browser_type.launch_persistent_context(
        folder, executable_path=path, args=args, permissions=allowed
    ) as context:
        yield context


@pytest.fixture
def opened(reader: Any, site: Site) -> Iterator[Any]:
    """Opens a page of the book, which must then be quiet and ask no other host for anything."""
    problems: list[str] = []
    pages: list[Any] = []

    def go(name: str = "book/calculator", more: str = "") -> Any:
        page = watched(reader.new_page(), site.address, problems)
        pages.append(page)
        page.set_default_timeout(PATIENCE)
        page.goto(f"{site.address}/{name}.html{more}")
        return page

    yield go
    for page in pages:
        page.close()
    assert not problems, "\n".join(problems)


def sheet(page: Any, name: str) -> Any:
    return page.locator(f"#calculator-{name}")


def state(page: Any, what: str) -> Any:
    """Wait until the start has come so far; what it told of it."""
    script = "what => JSON.parse(document.documentElement.dataset.live ?? '{}')[what]"
    page.wait_for_function(f"what => ({script})(what) !== undefined", arg=what)
    return page.evaluate(script, what)


def verdict(name: str, settings: dict[str, Any]) -> str:
    return CALCULATORS[name].answer(settings).verdict


def wait_for(page: Any, name: str, text: str) -> None:
    script = "([at, text]) => document.querySelector(`#calculator-${at} .verdict`).textContent === text"
    page.wait_for_function(script, arg=[name, text])


# -- the page before the first touch ------------------------------------------------------------


def test_the_first_answer_stands_in_the_page_and_is_light(html: Path) -> None:
    scripts = sum((html / "_static" / name).stat().st_size for name in ("live.js", "live.css"))
    shown = set()
    for path in html.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert ('class="calculator"' in text) == ("live.js" in text), path.name
        if 'class="calculator"' not in text:
            continue
        sheets = BeautifulSoup(text, "html.parser").select(".calculator")
        for one in sheets:
            shown.add(one["data-calculator"])
            assert one.select_one(".answer .verdict").get_text()
        assert sum(len(str(one).encode()) for one in sheets) + scripts < 60_000, path.name
    assert shown == set(CALCULATORS)


def test_the_runtime_is_small(html: Path) -> None:
    files = [path for path in (html / "live").rglob("*") if path.is_file()]
    files += (html / "_static").glob("*.whl")
    size = sum(path.stat().st_size for path in files)
    assert size < 16e6
    pages = [
        *(html / name for name in ("book/calculator.html", "zh/book/calculator.html")),
        *html.glob("live/*/en.json"),
    ]
    assert len(pages) == 3
    for page in pages:
        assert f"{size / 1e6:.0f} MB" in page.read_text(encoding="utf-8"), page.name
    assert len(list(html.rglob("*.whl"))) == 1
    assert {path.name for path in files} >= {"LICENSE-pyodide", "LICENSE-python"}


def test_nothing_is_fetched_before_the_first_touch(opened: Any, site: Site) -> None:
    site.sent.clear()
    opened().wait_for_load_state("networkidle")
    assert not [path for path, _ in site.sent if "/live/" in path]


# -- starting -----------------------------------------------------------------------------------


def test_the_second_visit_fetches_nothing_again_and_begins_where_the_first_ended(
    opened: Any, site: Site, record_property: Any
) -> None:
    clock = "() => performance.now()"
    for visit in ("cold", "warm"):
        site.sent.clear()
        page = opened()
        begun = page.evaluate(clock)
        choose(page, "fit", "device", "h200 sxm5")
        wait_for(page, "fit", verdict("fit", {"device": "H200 SXM5"}))
        record_property(f"{visit}_seconds", (page.evaluate(clock) - begun) / 1000)
        assert state(page, "ready") is (visit == "warm")
        if visit == "cold":
            assert len(site.heavy()) == 4
            assert state(page, "kept") is True
        else:
            assert site.heavy() == []


def choose(page: Any, name: str, control: str, letters: str) -> None:
    """Find a name with the keyboard, as a reader does."""
    box = sheet(page, name).locator(f"[name={control}]")
    box.focus()
    page.wait_for_function("at => at.role === 'combobox' || at.getAttribute('role') === 'combobox'",
                           arg=box.element_handle())  # fmt: skip
    box.fill("")
    box.press_sequentially(letters)
    box.press("ArrowDown")
    assert box.get_attribute("aria-expanded") == "true"
    taken = page.locator(f"#{box.get_attribute('aria-activedescendant')}").get_attribute("data-name")
    box.press("Enter")
    assert box.input_value() == taken
    assert box.get_attribute("aria-expanded") == "false"


def test_without_storage_python_starts_as_at_first(reader: Any, site: Site) -> None:
    """To another machine without https there is neither storage for pages nor a clipboard."""
    page = reader.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{site.address.replace('127.0.0.1', 'book.test')}/book/calculator-training.html")
    assert page.evaluate("() => typeof caches") == "undefined"
    sheet(page, "cost").locator("[name=currency]").select_option("EUR")
    wait_for(page, "cost", verdict("cost", {"currency": "EUR"}))
    sheet(page, "cost").get_by_role("button", name="Copy link").click()
    sheet(page, "cost").get_by_role("button", name="Copied").wait_for()
    page.close()


def test_a_page_opened_as_a_file_says_how_to_serve_it(reader: Any, html: Path) -> None:
    page = reader.new_page()
    page.goto((html / "book" / "calculator.html").as_uri())
    note = sheet(page, "fit").locator(".served")
    assert not note.is_visible()
    sheet(page, "fit").locator("select").first.focus()
    assert note.is_visible()
    assert "http.server" in note.inner_text()
    page.close()


# -- answers ------------------------------------------------------------------------------------

ASK = """
import json, sys
sys.path.insert(0, "/tests")
from live import numbers, random_settings
from llmhw.live import CALCULATORS
from llmhw.units import LLMHWError

def said(name, seed):
    try:
        return numbers(CALCULATORS[name].answer(random_settings(CALCULATORS[name], seed)))
    except LLMHWError as error:
        return str(error)
"""
SETTINGS = 200


@pytest.fixture(scope="module")
def python(reader: Any, site: Site) -> Iterator[Any]:
    """The Python of the page, started by the page's own script."""
    page = reader.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{site.address}/book/how-to-read.html")
    page.evaluate(
        """async ([code, ask]) => {
          const site = await (await fetch("/live/live.json")).json();
          const at = path => new URL(path, `${location.origin}/live/`).href;
          const { start } = await import(at(`${site.page}/python.mjs`));
          const given = { runtime: at(`${site.python}/`), wheel: at(site.wheel), key: site.key };
          ({ python: window.python } = await start(given));
          python.FS.mkdirTree("/tests");
          python.FS.writeFile("/tests/live.py", code);
          python.runPython(ask);
        }""",
        [(ROOT / "tests" / "live.py").read_text(encoding="utf-8"), ASK],
    )
    yield page
    page.close()


@pytest.mark.parametrize("name", CALCULATORS)
def test_the_browser_answers_as_this_python(python: Any, name: str) -> None:
    asked = f"json.dumps([said({name!r}, seed) for seed in range({SETTINGS})])"
    there = json.loads(python.evaluate("text => python.runPython(text)", asked))
    different = [seed for seed in range(SETTINGS) if json.loads(json.dumps(here(name, seed))) != there[seed]]
    assert not different, f"{random_settings(CALCULATORS[name], different[0])}: {there[different[0]]}"
    assert len({json.dumps(one) for one in there}) > SETTINGS / 4, "the settings make a difference"


def here(name: str, seed: int) -> Any:
    try:
        return numbers(CALCULATORS[name].answer(random_settings(CALCULATORS[name], seed)))
    except LLMHWError as error:
        return str(error)


# -- what a reader does -------------------------------------------------------------------------


def test_the_keyboard_is_enough(opened: Any) -> None:
    page = opened()
    choose(page, "fit", "model", "qwen2.5-7")
    named = sheet(page, "fit").locator("[name=model]").input_value()
    wait_for(page, "fit", verdict("fit", {"model": named}))
    button = sheet(page, "fit").locator("button.explain").first
    button.focus()
    page.keyboard.press("Enter")
    told = sheet(page, "fit").locator(".explanation").first
    told.wait_for()
    figures = CALCULATORS["fit"].answer({"model": named}).figures
    (explain,) = [one.explain for one in figures if one.label == button.get_attribute("data-figure")]
    assert explain is not None
    assert told.inner_text().split() == explain().split()
    assert button.get_attribute("aria-expanded") == "true"
    page.keyboard.press("Enter")
    told.wait_for(state="detached")
    # What is in focus and what is unfolded stays so when the answer changes.
    page.keyboard.press("Enter")
    told.wait_for()
    sheet(page, "fit").locator("details:has(.same) summary").click()
    button.focus()
    choose_without_focus = "at => { at.value = 'H200 SXM5'; at.dispatchEvent(new Event('picked', { bubbles: true })); }"
    sheet(page, "fit").locator("[name=device]").evaluate(choose_without_focus)
    wait_for(page, "fit", verdict("fit", {"model": named, "device": "H200 SXM5"}))
    told.wait_for()
    assert button.evaluate("one => one === document.activeElement")
    assert sheet(page, "fit").locator(".same").first.is_visible()


def test_a_link_says_the_settings(opened: Any) -> None:
    page = opened()
    settings = {"device": "H200 SXM5", "model": "llama-3-70b"}
    for name, value in settings.items():
        choose(page, "fit", name, value)
    wait_for(page, "fit", verdict("fit", settings))
    sheet(page, "fit").get_by_role("button", name="Copy link").click()
    sheet(page, "fit").get_by_role("button", name="Copied").wait_for()
    link = page.evaluate("() => navigator.clipboard.readText()")
    assert link == page.url
    again = opened(more=link[link.index("#") :])
    wait_for(again, "fit", verdict("fit", settings))
    assert sheet(again, "fit").locator("[name=model]").input_value() == "llama-3-70b"
    sheet(again, "fit").get_by_role("button", name="As at first").click()
    wait_for(again, "fit", verdict("fit", {}))


def test_what_is_copied_is_what_is_shown(opened: Any) -> None:
    page = opened()
    sheet(page, "fit").locator("details:has(.same) summary").click()
    sheet(page, "fit").get_by_role("button", name="Copy: Python").click()
    sheet(page, "fit").get_by_role("button", name="Copy: Python").get_by_text("Copied").wait_for()
    assert page.evaluate("() => navigator.clipboard.readText()") == CALCULATORS["fit"].answer({}).python


def test_a_slider_and_its_field_say_the_same(opened: Any) -> None:
    page = opened()
    (control,) = [one for one in CALCULATORS["serving"].controls if one.logarithmic][:1]
    box = sheet(page, "serving").locator(f".control:has([name={control.name}])")
    slider, number = box.locator("[type=range]"), box.locator("[type=number]")
    for place, value in ((0, control.least), (1000, control.most)):
        slider.evaluate("(at, v) => { at.value = v; at.dispatchEvent(new Event('input', { bubbles: true })) }", place)
        page.wait_for_function("([at, v]) => Number(at.value) === v", arg=[number.element_handle(), value])
    number.fill(f"{control.default:g}")
    wait_for(page, "serving", verdict("serving", {}))
    assert 0 < float(slider.input_value()) < 1000


CONFIG = ROOT / "llmhw" / "catalog" / "models"


def test_a_pasted_config_is_the_model_and_goes_with_the_link(opened: Any) -> None:
    text = next(CONFIG.rglob("*.json")).read_text(encoding="utf-8")
    page = opened()
    sheet(page, "fit").locator(".own summary").click()
    sheet(page, "fit").locator(".own textarea").fill(text)
    expected = verdict("fit", {"config": text})
    wait_for(page, "fit", expected)
    page.wait_for_function("() => location.hash.includes('fit.config=')")
    packed = re.search(r"fit\.config=([\w-]+)", page.url)
    assert packed
    raw = base64.urlsafe_b64decode(packed[1] + "=" * (-len(packed[1]) % 4))
    assert zlib.decompress(raw, -15).decode() == text
    again = opened(more=page.url[page.url.index("#") :])
    wait_for(again, "fit", expected)


def test_a_gguf_file_is_read_as_far_as_its_header(opened: Any, tmp_path: Path) -> None:
    from llmhw.live import header
    from tests.unit.gguf_files import MODELS, family

    path = family(tmp_path / "own.gguf", next(iter(MODELS)), words=300_000)  # a header longer than what is read first
    data = path.read_bytes()
    expected = verdict("fit", {"config": header(data, len(data), path.name)["config"]})
    page = opened()
    sheet(page, "fit").locator(".own summary").click()
    sheet(page, "fit").locator("[type=file]").set_input_files(path)
    wait_for(page, "fit", expected)


SCRIPT = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
HOSTILE = {
    "scripts in names": json.dumps({"architectures": [SCRIPT], "model_type": SCRIPT, "_name_or_path": SCRIPT}),
    "scripts in a good config": json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "_name_or_path": SCRIPT, "vocab_size": 32000,
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "torch_dtype": SCRIPT}),
    "no JSON": SCRIPT,
    "ten megabytes": '{"a": "' + "x" * 10**7 + '"}',
    "deep": "[" * 10**5 + "]" * 10**5,
    "deep and good": '{"a":' * 10**5 + "1" + "}" * 10**5,
    "numbers beyond all measure": json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
                                              "hidden_size": 10**300, "num_hidden_layers": -1}),
}  # fmt: skip


def test_hostile_input_gets_the_librarys_error_and_runs_nothing(opened: Any, site: Site) -> None:
    page = opened()
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    choose(page, "fit", "device", "h200 sxm5")
    wait_for(page, "fit", verdict("fit", {"device": "H200 SXM5"}))
    sheet(page, "fit").locator(".own summary").click()
    site.sent.clear()
    for what, text in HOSTILE.items():
        try:
            expected = verdict("fit", {"device": "H200 SXM5", "config": text})
        except LLMHWError as error:
            expected = str(error)
        script = "(at, text) => { at.value = text; at.dispatchEvent(new Event('input', { bubbles: true })); }"
        sheet(page, "fit").locator(".own textarea").evaluate(script, text)
        wait_for(page, "fit", expected)
        assert not page.locator(".answer :is(img, script)").count(), what
    for setting in (SCRIPT, "../../etc/passwd", "x" * 10_000):
        link = opened(more=f"#fit.model={setting}&fit.device={setting}")
        link.wait_for_selector("#calculator-fit .verdict.error")
        assert not link.locator(".answer :is(img, script)").count()
        assert link.evaluate("() => window.hacked") is None
    assert page.evaluate("() => window.hacked") is None
    assert not [path for path, _ in site.sent if "/x" in path or "passwd" in path]


# -- for everybody ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["book/calculator", "book/calculator-training", "book/index"])
def test_live_answers_have_no_barrier(opened: Any, name: str) -> None:
    page = opened(name)
    first = page.locator(".calculator").first
    for one in page.locator(".calculator").all():
        one.locator("select").first.evaluate("at => at.dispatchEvent(new Event('input', { bubbles: true }))")
    state(page, "ready")
    page.wait_for_function("() => !document.querySelector('.answer[aria-busy]')")
    for details in page.locator(".calculator details").all():
        details.evaluate("at => { at.open = true }")
    first.locator("button.explain").first.click()
    first.locator(".explanation").first.wait_for()
    page.evaluate("() => scrollTo(0, 0)")  # where the theme's button to the top is not half shown
    page.wait_for_function("() => getComputedStyle(document.querySelector('#pst-back-to-top')).display === 'none'")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    problems = []
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
        for width in (375, 1440):
            page.set_viewport_size({"width": width, "height": 800})
            page.evaluate("() => window.dispatchEvent(new Event('resize'))")
            problems += [f"{scheme}, {width} px: {one}" for one in page.evaluate(BARRIERS, False)]
    assert not problems, "\n".join(problems)
