"""Calculators in the book: their first answer stands in the page, and Python lies beside it for all others.

`{calculator} NAME` shows a calculator of `llmhw.live`; so does a paragraph of a notebook that is only a link to
`...#calculator-NAME`, which is a plain link wherever else the notebook is read. What the reader's browser fetches at
the first touch lies in `live/`, once for all languages; folders there are called by what is in them:

    live.json       where the others are
    page-HASH/      the page's scripts of book/live, and the names that the pickers search
    python-HASH/    Pyodide's core and Python's standard library, from node_modules
"""

from __future__ import annotations

import json
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import llmhw
from llmhw.language import in_language, said
from llmhw.live import CALCULATORS, calculator_html
from llmhw.units import LLMHWError, format_quantity

logger = logging.getLogger(__name__)

# Of Pyodide: what starts Python with its standard library. Its list of packages is cut: none is fetched.
RUNTIME = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip")
LICENSES = ("LICENSE-pyodide", "LICENSE-python")


class calculator(nodes.General, nodes.Element):  # type: ignore[misc]  # noqa: N801  docutils names its nodes so
    """The place of a calculator: `calculator`, its name; `settings`, its first ones."""


class CalculatorDirective(SphinxDirective):
    """`{calculator} name`; the option `settings` is JSON: what is at first other than as the calculator has it."""

    required_arguments = 1
    option_spec = {"settings": directives.unchanged}  # noqa: RUF012  docutils' way

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in CALCULATORS:
            raise self.error(f"there is no calculator {name!r}; there are {', '.join(CALCULATORS)}")
        return [calculator(calculator=name, settings=json.loads(self.options.get("settings", "{}")))]


def from_links(_app: Sphinx, doctree: nodes.document) -> None:
    """A paragraph that is only a link to a calculator becomes the calculator."""
    for paragraph in list(doctree.findall(nodes.paragraph)):
        if len(paragraph) == 1 and isinstance(paragraph[0], nodes.reference):
            found = re.search(r"#calculator-(\w+)$", paragraph[0].get("refuri", ""))
            if found and found[1] in CALCULATORS:
                paragraph.replace_self(calculator("", paragraph.deepcopy(), calculator=found[1], settings={}))


def language_of(app: Sphinx) -> str:
    return "zh" if str(app.config.language or "").startswith("zh") else "en"


def show(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """The calculators of a page as HTML; on paper and in other readers, the link that stood there."""
    for place in list(doctree.findall(calculator)):
        if app.builder.name not in ("html", "dirhtml"):
            place.replace_self(place.children)
            continue
        try:
            with in_language(language_of(app)):
                text = calculator_html(CALCULATORS[place["calculator"]], place["settings"])
        except LLMHWError as error:
            logger.warning("the calculator %s has no first answer: %s", place["calculator"], error, location=page)
            text = ""
        place.replace_self(nodes.raw("", text, format="html", classes=["live"]))


def scripts(app: Sphinx, _page: str, _template: str, _context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Script and style, only where a calculator is."""
    if doctree is not None and any("live" in node["classes"] for node in doctree.findall(nodes.raw)):
        app.add_js_file("live.js", loading_method="defer", **{"data-live": app.config.llmhw_live})
        app.add_css_file("live.css")


def words() -> dict[str, str]:
    """What the page's scripts say, in the reader's language."""
    return {
        "first": said("Loading Python, once: about 15 MB ..."),
        "start": said("Starting Python ..."),
        "again": said("Starting Python ..."),
        "broken": said("The calculator did not start; this answer is the first one."),
        "copied": said("Copied"),
        "found": said("{count} names"),
        "long": said("The link has all but the config: it is too long for a link."),
    }


def names() -> dict[str, list[tuple[str, str]]]:
    """Models and devices of the catalog, each with what tells it from the others."""
    return {
        "model": [(name, f"{llmhw.model(name).parameters.total / 1e9:.3g}B") for name in llmhw.models()],
        "device": [
            (device.name, format_quantity(device.memory_bytes, "bytes") if device.memory_bytes else "")
            for device in llmhw.accelerators()
        ],
    }


def digest(files: list[Path]) -> str:
    """Ten letters that other content would not have."""
    total = sha256()
    for file in files:
        total.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    return total.hexdigest()[:10]


def hashed(folder: Path) -> str:
    """The folder, called by what is in it."""
    name = f"{folder.name}-{digest(sorted(folder.iterdir()))}"
    shutil.rmtree(folder.with_name(name), ignore_errors=True)
    folder.rename(folder.with_name(name))
    return name


def copy_live(app: Sphinx, error: Exception | None) -> None:
    """Write `live/`, unless another tree of the site has it."""
    if error or app.builder.name != "html" or app.config.llmhw_live.startswith(".."):
        return
    root, out = Path(app.confdir), Path(app.outdir) / app.config.llmhw_live
    pyodide, combobox = root / "node_modules" / "pyodide", root / "node_modules" / "@github" / "combobox-nav"
    wheel = next((Path(app.outdir) / "_static").glob("llmhw-*.whl"), None)
    if not (pyodide.is_dir() and combobox.is_dir() and wheel):
        logger.warning("no calculator will answer: node_modules/pyodide is missing, or the wheel; run: make setup")
        return
    shutil.rmtree(out, ignore_errors=True)
    python, page = out / "python", out / "page"
    python.mkdir(parents=True)
    page.mkdir()
    for name in RUNTIME:
        shutil.copyfile(pyodide / name, python / name)
    lock = json.loads((pyodide / "pyodide-lock.json").read_text(encoding="utf-8"))
    (python / "pyodide-lock.json").write_text(json.dumps({**lock, "packages": {}}), encoding="utf-8")
    for source in sorted((root / "book" / "live").iterdir()):
        shutil.copyfile(source, (python if source.name in LICENSES else page) / source.name)
    shutil.copyfile(combobox / "dist" / "index.js", page / "combobox.mjs")
    shutil.copyfile(combobox / "LICENSE", page / "LICENSE-combobox")
    for language in ("en", "zh"):
        with in_language(language):
            told = json.dumps({"words": words(), **names()}, ensure_ascii=False, separators=(",", ":"))
        (page / f"{language}.json").write_text(told, encoding="utf-8")
    memory = [*sorted(python.iterdir()), wheel, page / "python.mjs", page / "worker.mjs"]
    site = {
        "key": digest(memory),
        "wheel": f"../_static/{wheel.name}?{digest([wheel])}",
        "names": list(CALCULATORS),
        "python": hashed(python),
        "page": hashed(page),
    }
    (out / "live.json").write_text(json.dumps(site), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("llmhw_live", "live/", "html")  # from the root of this tree; "../live/": another tree's
    app.add_node(calculator)
    app.add_directive("calculator", CalculatorDirective)
    app.connect("doctree-read", from_links)
    app.connect("doctree-resolved", show)
    app.connect("html-page-context", scripts)
    app.connect("build-finished", copy_live, priority=700)  # after the wheel
    return {"parallel_read_safe": True, "parallel_write_safe": True}
