"""What the book needs beyond Jupyter Book: the formula index, the API page, and a site that asks no other host."""

from __future__ import annotations

import html
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from docutils import nodes
from docutils.statemachine import StringList
from llmhw_languages import CHINESE, ENGLISH, is_chinese, speaker
from llmhw_tex import Unwritten, formula_tex
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import llmhw
from llmhw.formula import Formula, formulas

logger = logging.getLogger(__name__)

# -- docstrings -------------------------------------------------------------------------------
# The library's docstrings are plain text: a sentence, a block of "name  meaning" lines, prose, an example.


def blocks(docstring: str) -> list[list[str]]:
    """The docstring's paragraphs, each a list of lines, common indentation removed."""
    lines = inspect.cleandoc(docstring).splitlines()
    return [list(group) for blank, group in groupby(lines, key=lambda line: not line.strip()) if not blank]


def fields(block: list[str]) -> list[tuple[str, str]]:
    """The (name, meaning) pairs of a block of "name  meaning" lines; empty if it is not such a block."""
    pairs: list[tuple[str, str]] = []
    for line in block:
        match = re.match(r"(\w+(?:, \w+)*) {2,}(\S.*)$", line)
        if match:
            pairs.append((match[1], match[2]))
        elif pairs and line.startswith("  "):
            name, meaning = pairs[-1]
            pairs[-1] = (name, f"{meaning} {line.strip()}")
        else:
            return []
    return pairs


def is_example(block: list[str]) -> bool:
    """Whether the block is a session at Python's prompt."""
    return block[0].lstrip().startswith(">>> ")


def text_nodes(text: str) -> Iterator[nodes.Node]:
    """Prose with `code` in backticks."""
    for index, piece in enumerate(re.split(r"`+([^`]+)`+", text)):
        if piece:
            yield nodes.literal(piece, piece) if index % 2 else nodes.Text(piece)


def escape(text: str) -> str:
    """The same, as reStructuredText in which nothing else has a meaning."""
    pieces = re.split(r"`+([^`]+)`+", text)
    for index, piece in enumerate(pieces):
        # An escaped space ends a literal where a letter follows it.
        pieces[index] = f"\\ ``{piece.strip()}``\\ " if index % 2 else re.sub(r"([\\*_|`])", r"\\\1", piece)
    return "".join(pieces)


def to_rst(docstring: str) -> list[str]:
    """A plain docstring as reStructuredText."""
    lines: list[str] = []
    for block in blocks(docstring):
        if is_example(block):
            lines += [".. code-block:: pycon", "", *(f"   {line}" for line in block)]
        elif pairs := fields(block):
            for name, meaning in pairs:
                lines += [f"``{name}``", f"   {escape(meaning)}"]
        elif block[0].startswith(" "):
            literal = inspect.cleandoc("\n".join(block)).splitlines()
            lines += [".. code-block:: text", "", *(f"   {line}" for line in literal)]
        elif block[0].startswith("- "):
            for line in block:
                lines.append(("- " if line.startswith("- ") else "  ") + escape(line.removeprefix("- ").strip()))
        else:
            lines += [escape(line.strip()) for line in block]
        lines.append("")
    return lines


def plain_docstring(_app: Sphinx, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = to_rst("\n".join(lines))


# -- formula index ----------------------------------------------------------------------------


def all_formulas() -> dict[str, list[Formula]]:
    """Every registered formula by module, in the order of the source."""
    by_module: dict[str, list[Formula]] = {}
    for entry in formulas().values():
        by_module.setdefault(entry.module, []).append(entry)
    return dict(sorted(by_module.items()))


class Chapter(NamedTuple):
    """A notebook: its page, its number, and all that its cells say."""

    page: str
    number: str
    words: str


@cache
def chapter_words(root: Path) -> tuple[Chapter, ...]:
    found = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        words = "\n".join("".join(cell["source"]) for cell in cells)
        number = path.stem.split("_")[0]
        found.append(Chapter(f"notebooks/{path.stem}", number.lstrip("0") or "0", words))
    return tuple(found)


def formula_id(name: str) -> str:
    return str(nodes.make_id(f"formula-{name}"))


class FormulaIndex(SphinxDirective):
    """`{llmhw-formulas}`: a section for each formula of the registry."""

    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        self.say = speaker(self.env)
        for module, entries in all_formulas().items():
            summary = (importlib.import_module(module).__doc__ or "").strip().splitlines()[0]
            section = nodes.section(ids=[nodes.make_id(f"module-{module}")])
            section += nodes.title("", "", nodes.literal(module, module))
            section += nodes.paragraph("", "", *text_nodes(summary))
            section += [self.section(entry) for entry in entries]
            found.append(section)
        return found

    def section(self, entry: Formula) -> nodes.section:
        section = nodes.section(ids=[formula_id(entry.name)], classes=["formula"])
        section += nodes.title("", "", nodes.literal(entry.name, entry.name))
        section += nodes.paragraph("", "", *text_nodes(entry.summary))
        with suppress(Unwritten):
            written = formula_tex(entry.name, entry.expression)
            section += nodes.math_block(written, written, nowrap=False, number=None, label=None)
        facts = nodes.field_list()
        say = self.say
        for name, value in ((say("Unit"), entry.unit), (say("Source"), entry.source)):
            facts += nodes.field(
                "", nodes.field_name(name, name), nodes.field_body("", nodes.paragraph("", "", *text_nodes(value)))
            )
        if chapters := [*self.chapters(entry.name)]:
            body = nodes.field_body("", nodes.paragraph("", "", *chapters))
            facts += nodes.field("", nodes.field_name("", say("In chapter")), body)
        section += facts
        folded = say("In Python: inputs and an example")
        section += nodes.raw("", f"<details><summary>{folded}</summary>", format="html")
        section += nodes.literal_block(entry.expression, entry.expression, language="python")
        for block in blocks(entry.function.__doc__ or ""):
            if is_example(block):
                text = "\n".join(block)
                section += nodes.literal_block(text, text, language="pycon")
            elif pairs := fields(block):
                inputs = nodes.definition_list(classes=["inputs"])
                for name, meaning in pairs:
                    inputs += nodes.definition_list_item(
                        "",
                        nodes.term("", "", nodes.literal(name, name)),
                        nodes.definition("", nodes.paragraph("", "", *text_nodes(meaning))),
                    )
                section += inputs
        section += nodes.raw("", "</details>", format="html")
        return section

    def chapters(self, name: str) -> Iterator[nodes.Node]:
        """Links to the chapters that use a formula, by their numbers."""
        found = [each for each in chapter_words(Path(self.env.srcdir)) if re.search(rf"\b{name}\b", each.words)]
        for index, each in enumerate(found):
            if index:
                yield nodes.Text(", ")
            link = addnodes.pending_xref(
                "", nodes.inline("", each.number), refdomain="std", reftype="doc", refdoc=self.env.docname,
                reftarget=f"/{each.page}", refexplicit=True, refwarn=True,
            )  # fmt: skip
            yield link


# -- API --------------------------------------------------------------------------------------


# Modules that are imported by their own names, whose public names the page shows, too.
BESIDE = ("llmhw.engines", "llmhw.plot")


def public_objects() -> dict[str, list[tuple[str, Any]]]:
    """The public names of the library by the module that defines them, and those of the modules beside it."""
    found: dict[str, list[tuple[str, Any]]] = {}
    importlib.import_module("llmhw.search")  # a function and a module: here the module, whatever was imported first
    modules = [importlib.import_module(name) for name in BESIDE]
    for name in llmhw.__all__:
        thing = getattr(llmhw, name)
        if isinstance(thing, ModuleType):
            modules.append(thing)
        elif not name.startswith("__"):
            found.setdefault(getattr(thing, "__module__", "llmhw"), []).append((f"llmhw.{name}", thing))
    for module in modules:
        for name in getattr(module, "__all__", vars(module)):
            value = vars(module).get(name)
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__:
                found.setdefault(module.__name__, []).append((f"{module.__name__}.{name}", value))
    return found


def autodoc(path: str, thing: Any) -> list[str]:
    if inspect.isclass(thing):
        return [f".. autoclass:: {path}", "   :members:"]
    if callable(thing):
        return [f".. autofunction:: {path}"]
    return [f".. autodata:: {path}", "   :no-value:"]


class Api(SphinxDirective):
    """`{llmhw-api}`: the public names, with their docstrings, one section a module."""

    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for module, things in public_objects().items():
            lines = [line for path, thing in things for line in [*autodoc(path, thing), ""]]
            section = nodes.section(ids=[nodes.make_id(f"api-{module}")])
            section += nodes.title("", "", nodes.literal(module, module))
            summary = (importlib.import_module(module).__doc__ or "").strip().splitlines()
            section += nodes.paragraph("", "", *text_nodes(summary[0] if summary else ""))
            self.state.nested_parse(StringList(["```{eval-rst}", *lines, "```"], source=module), 0, section)
            found.append(section)
        return found


# -- filters ----------------------------------------------------------------------------------


class Filter(SphinxDirective):
    """`{llmhw-filter} CSS selector`: a field that shows only what has its words; each line of the body is a button.

    A line is `name: class`. Without scripts nothing is there, and all is shown.
    """

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        buttons = "".join(
            f'<button type="button" data-class="{sign.strip()}" aria-pressed="false">{name.strip()}</button>'
            for name, _, sign in (line.partition(":") for line in self.content)
        )
        say = speaker(self.env)
        label, count = say("Show what has the words"), html.escape(say("{count} of {all}"))
        field = f'<label>{label} <input type="search" autocomplete="off"></label>'
        told = f'<span role="status" data-says="{count}"></span>'
        text = f'<form class="filter" hidden data-of="{html.escape(self.arguments[0])}">{field} {buttons} {told}</form>'
        return [nodes.raw("", text, format="html")]


# -- scripts ----------------------------------------------------------------------------------


def fewer_scripts(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """Each script once, and none of thebe, which Jupyter Book adds to every page and this book does not use.

    Sphinx 7 writes an inline script twice if an extension adds it late; the second `const` is then an error.
    """
    kept: dict[tuple[str, str], Any] = {}
    for script in context["script_files"]:
        name, body = script.filename or "", script.attributes.get("body") or ""
        if "thebe" not in name + body:
            kept.setdefault((str(name), body), script)
    context["script_files"] = list(kept.values())


def icons_from_fonts(app: Sphinx, error: Exception | None) -> None:
    """The theme brings its icons twice: as fonts, and as 1.5 MB of script that draws the same. The fonts do."""
    if error or app.builder.format != "html":
        return
    (Path(app.outdir) / "_static" / "scripts" / "fontawesome.js").unlink(missing_ok=True)
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        without = re.sub(r"\s*<(?:script|link)[^>]*/fontawesome\.js[^>]*>(?:</script>)?", "", text)
        if without != text:
            page.write_text(without, encoding="utf-8")


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy the pinned MathJax from node_modules into the site."""
    if error or app.builder.format != "html":
        return
    source = Path(app.confdir) / "node_modules" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    if not source.is_dir():
        logger.warning("node_modules/mathjax is missing, so no formula will show; run: make setup")
        return
    fonts = Path("output/chtml/fonts/woff-v2")
    shutil.copytree(source / "es5" / fonts, target / fonts, dirs_exist_ok=True)
    shutil.copy(source / "es5" / "tex-chtml.js", target)
    shutil.copy(source / "LICENSE", target)


START = """<!DOCTYPE html>
<html lang="{lang}">
<head>
<meta charset="utf-8">
<title>{title}</title>
<link rel="icon" href="data:,">
<meta http-equiv="refresh" content="0; url={page}.html">
</head>
<body><a href="{page}.html">{title}</a></body>
</html>
"""


def start_page(app: Sphinx, error: Exception | None) -> None:
    """The site's address leads to the welcome page; unlike the tool's own, it sends no browser looking for an icon."""
    if not error and app.builder.format == "html":
        lang = CHINESE if is_chinese(app.config) else ENGLISH
        text = START.format(lang=lang, title=app.config.html_title, page=app.config.root_doc)
        (Path(app.outdir) / "index.html").write_text(text, encoding="utf-8")


def serve_wheel(app: Sphinx, error: Exception | None) -> None:
    """The library's wheel, for notebooks that find their release on no index: the same tree gives the same file."""
    if not error and app.builder.format == "html" and not is_chinese(app.config):
        target = Path(app.outdir) / "_static"
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
        done = subprocess.run(command, cwd=app.confdir, capture_output=True, text=True, check=False)
        if done.returncode:
            logger.warning("the wheel was not built: %s", done.stderr.strip())


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("llmhw-formulas", FormulaIndex)
    app.add_directive("llmhw-api", Api)
    app.add_directive("llmhw-filter", Filter)
    app.add_js_file("page.js", loading_method="defer")
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("html-page-context", fewer_scripts, priority=900)  # after all that add scripts
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", serve_wheel)
    app.connect("build-finished", icons_from_fonts)
    app.connect("build-finished", start_page, priority=900)  # after the tool's own
    return {"parallel_read_safe": True, "parallel_write_safe": True}
