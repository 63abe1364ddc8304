"""Seconds until a calculator of the built book answers, cold and warm, and milliseconds of each further change.

    python benchmarks/live.py [--settings 50]

Needs the built book (`make book`) and the machine's Chromium; serves the book on this machine only.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import shutil
import statistics
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from llmhw.formula import grid  # noqa: E402  from this tree
from llmhw.live import CALCULATORS  # noqa: E402
from tests.live import random_settings  # noqa: E402

# From the first touch of a form to the answer to another setting.
FIRST = """() => new Promise(done => {
  const sheet = document.querySelector("#calculator-fit"), field = sheet.querySelector("select");
  const before = sheet.querySelector(".answer").innerHTML, begun = performance.now();
  new MutationObserver(() => {
    if (sheet.querySelector(".answer").innerHTML !== before) done((performance.now() - begun) / 1000);
  }).observe(sheet.querySelector(".answer"), { childList: true, subtree: true });
  field.focus();
  field.selectedIndex = (field.selectedIndex + 1) % field.options.length;
  field.dispatchEvent(new Event("input", { bubbles: true }));
})"""

# Each setting through the worker as the page asks it: milliseconds.
EACH = """async ([calculator, all]) => {
  const site = await (await fetch("/live/live.json")).json();
  const at = path => new URL(path, `${location.origin}/live/`).href;
  const { Desk } = await import(at(`${site.page}/desk.mjs`));
  const where = { runtime: at(`${site.python}/`), wheel: at(site.wheel), key: site.key, names: [] };
  window.desk ??= new Desk(where, () => {});
  await desk.ask("x", { calculator, settings: {} });
  const found = [];
  for (const settings of all) {
    const begun = performance.now();
    await desk.ask("x", { calculator, settings });
    found.push(performance.now() - begun);
  }
  return found;
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def starts(context: Any, address: str) -> list[float]:
    """Seconds of the first visit and of two more."""
    found = []
    for _ in range(3):
        page = context.new_page()
        page.goto(f"{address}/book/calculator.html")
        found.append(page.evaluate(FIRST))
        page.wait_for_timeout(8000)  # in quiet moments the first page keeps Python for the next
        page.close()
    return found


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=int, default=50)
    wanted = parser.parse_args().settings
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    handler = functools.partial(Quiet, directory=str(ROOT / "_build" / "html"))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        args = ["--no-sandbox", "--disable-gpu"]
        context = playwright.chromium.launch_persistent_context(folder, executable_path=chromium, args=args)
        cold, *warm = starts(context, address)
        print(f"first answer: cold {cold:.2f} s, warm {min(warm):.2f} s\n")
        page = context.new_page()
        page.goto(f"{address}/book/how-to-read.html")
        rows = []
        for name, calculator in CALCULATORS.items():
            settings = [random_settings(calculator, seed) for seed in range(wanted)]
            took = sorted(page.evaluate(EACH, [name, settings]))
            found = {"median": statistics.median(took), "95 %": took[int(0.95 * len(took))], "most": took[-1]}
            rows.append({"calculator": name, **{f"{key}, ms": round(value, 1) for key, value in found.items()}})
        print(grid(rows))
        context.close()
        server.shutdown()


if __name__ == "__main__":
    main()
