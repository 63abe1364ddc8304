"""The book's two languages: pages that know each other, and what the Chinese tree needs of its extensions.

The Chinese tree is built from sources that `book/chinese` writes into `_build/zh`, with the same names as the English
ones. It lies in `zh/` of the site.
"""

from __future__ import annotations

import importlib
import posixpath
import re
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.search import languages
from sphinx.search.en import SearchEnglish
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import llmhw

logger = logging.getLogger(__name__)

HAN = re.compile(r"[\u2e80-\u303f\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef]")
# Browsers and screen readers choose glyphs and voices by these.
ENGLISH, CHINESE = "en", "zh-Hans"
FOLDER = "zh"


def is_chinese(config: Config) -> bool:
    """Whether this is the build of the Chinese tree."""
    return bool(str(config.language).startswith("zh"))


def english_base(config: Config) -> str:
    """The address of the English tree, in which the Chinese one lies."""
    return str(config.html_baseurl).removesuffix(f"{FOLDER}/")


def edition(config: Config, folder: Path) -> Any:
    """`book.chinese.catalogues` of the project whose tree, English or Chinese, lies in the folder."""
    root = str(folder.parents[1] if is_chinese(config) else folder)
    if root not in sys.path:
        sys.path.insert(0, root)
    return importlib.import_module("book.chinese.catalogues")


@cache
def _words(catalogues: Any) -> dict[str, str]:
    return {**catalogues.words("interface"), **catalogues.words("book/claims.md")}


def speaker(app: Any) -> Callable[[str], str]:
    """What turns words of an extension into those of the tree: `say("Unit")`. Takes an app or its environment."""
    if not is_chinese(app.config):
        return str
    words = _words(edition(app.config, Path(app.srcdir)))
    return lambda english: words.get(english, english)


# -- anchors ----------------------------------------------------------------------------------


class EnglishAnchors(SphinxTransform):
    """Headings in Chinese have the anchors of the English ones, so that a link leads to the same place in both."""

    default_priority = 20  # before anything refers to a section

    def apply(self, **kwargs: Any) -> None:
        if not is_chinese(self.config):
            return
        document = self.document
        sections = [section for section in document.findall(nodes.section) if "slug" in section]
        english = edition(self.config, Path(self.env.srcdir)).headings(self.env.docname)
        new_ids: dict[str, str] = {}
        slugs: dict[str, Any] = {}
        for section, heading in zip(sections, english, strict=True):
            old, new = section["ids"][0], nodes.make_id(nodes.fully_normalize_name(heading))
            new_ids[old] = new
            section["ids"][0] = new
            line, _, title = document.myst_slugs[section["slug"]]
            slugs[re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")] = (line, new, title)
        for old, new in new_ids.items():
            document.ids[new] = document.ids.pop(old)
        for name, id_ in document.nameids.items():
            document.nameids[name] = new_ids.get(id_, id_)
        document.myst_slugs = self.env.metadata[self.env.docname]["myst_slugs"] = slugs


# -- what is not Chinese in the Chinese tree --------------------------------------------------

_SAID = (nodes.paragraph, nodes.title, nodes.term, nodes.caption, nodes.rubric, nodes.field_name)


def mark_english(app: Sphinx, doctree: nodes.document, _page: str) -> None:
    """Code, and texts that have no Chinese (yet), say that they are English."""
    if not is_chinese(app.config) or app.builder.format != "html":
        return
    for node in doctree.findall():
        if isinstance(node, _SAID):
            english = bool(re.search(r"[a-z]{2}", text := node.astext())) and not HAN.search(text)
        else:
            outputs = isinstance(node, nodes.container) and "cell_output" in node["classes"]
            english = isinstance(node, nodes.literal_block) or (outputs and not any(node.findall(nodes.caption)))
        if english:
            node["classes"].append(f"language-{ENGLISH}")


# -- links ------------------------------------------------------------------------------------


def near_links(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Chapters name whole addresses, as they are read elsewhere too; within the book a link needs no network."""
    if app.builder.format != "html":
        return
    base = english_base(app.config)
    folder = posixpath.dirname(f"{FOLDER}/{page}" if is_chinese(app.config) else page)
    for link in doctree.findall(nodes.reference):
        target = str(link.get("refuri", ""))
        if target.startswith(base):
            path, _, anchor = target.removeprefix(base).partition("#")
            near = posixpath.relpath(path or "index.html", folder or ".")
            link["refuri"] = f"{near}#{anchor}" if anchor else near
            link["internal"] = True


def other_page(app: Sphinx, page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """The same page in the other language, for the button in the header and for machines."""
    up = "../" * page.count("/")
    base = english_base(app.config)
    if is_chinese(app.config):
        context["language"] = CHINESE
        context["other"] = {"name": "English", "lang": ENGLISH, "href": f"{up}../{page}.html"}
    else:
        context["other"] = {"name": "中文", "lang": CHINESE, "href": f"{up}{FOLDER}/{page}.html"}
    tags = context.get("metatags", "")
    for lang, root in ((ENGLISH, base), (CHINESE, f"{base}{FOLDER}/"), ("x-default", base)):
        tags += f'\n<link rel="alternate" hreflang="{lang}" href="{root}{page}.html">'
    context["metatags"] = tags


# -- what is translated, and what can be taken along -------------------------------------------


def row(kind: type[nodes.Element], *cells: nodes.Node) -> nodes.row:
    return nodes.row("", *(nodes.entry("", kind("", "", cell)) for cell in cells))


class Translation(SphinxDirective):
    """`{llmhw-translation}`: of each page, how many texts are translated, and against which commit."""

    def run(self) -> list[nodes.Node]:
        catalogues, say = edition(self.config, Path(self.env.srcdir)), speaker(self.env)
        counts = {page: catalogues.counts(page) for page in catalogues.pages()}
        done, every = (sum(count[i] for count in counts.values()) for i in (0, 2))
        whole = say("{done} of {all} texts are translated: {share} %.")
        names = [say("page"), say("translated"), say("texts"), say("commit"), say("state")]
        group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in names), cols=len(names))
        group += nodes.thead("", row(nodes.paragraph, *map(nodes.Text, names)))
        body = nodes.tbody()
        for page, (translated, fuzzy, texts) in counts.items():
            state = say("in step with the English page") if translated == texts else say("not begun")
            if 0 < translated < texts:
                state = say("{count} texts to do").format(count=texts - translated - fuzzy)
            if fuzzy:
                state = say("the English page has moved on: {count} texts changed").format(count=fuzzy)
            link = addnodes.pending_xref(
                "", nodes.inline(), refdomain="std", reftype="doc", refdoc=self.env.docname,
                reftarget=f"/{page.rpartition('.')[0]}", refexplicit=False, refwarn=True,
            )  # fmt: skip
            commit = catalogues.recorded_commit(page)
            cells = (link, nodes.Text(f"{translated:,}"), nodes.Text(f"{texts:,}"), nodes.literal("", commit))
            body += row(nodes.paragraph, *cells, nodes.Text(state))
        group += body
        text = whole.format(done=f"{done:,}", all=f"{every:,}", share=100 * done // every)
        return [nodes.paragraph("", "", nodes.strong("", text)), nodes.table("", group)]


class Downloads(SphinxDirective):
    """`{llmhw-downloads}`: the library's wheel, and every notebook of this tree."""

    def run(self) -> list[nodes.Node]:
        catalogues, say = edition(self.config, Path(self.env.srcdir)), speaker(self.env)
        up = "../" * (self.env.docname.count("/") + is_chinese(self.config))
        wheel = f"llmhw-{llmhw.__version__}-py3-none-any.whl"
        found = [(f"{up}_static/{wheel}", say("The wheel of this release"), wheel)]
        up = "../" * self.env.docname.count("/")
        for page in catalogues.pages():
            if page.endswith(".ipynb"):
                title = catalogues.headings(page)[0]
                title = catalogues.words(page).get(title, title) if is_chinese(self.config) else title
                found.append((f"{up}_sources/{page}", title, posixpath.basename(page)))
        if self.env.app.builder.name != "html":  # on paper nothing can be taken along
            return [nodes.bullet_list("", *(nodes.list_item("", nodes.paragraph("", each[1])) for each in found))]
        items = (f'<li><a href="{url}" download>{name}</a> (<code>{file}</code>)</li>' for url, name, file in found)
        return [nodes.raw("", f"<ul>{''.join(items)}</ul>", format="html")]


# -- search -----------------------------------------------------------------------------------


class SearchChinese(SearchEnglish):
    """Chinese is written without blanks: every two signs that stand together are a word of the index."""

    lang = "zh"
    language_name = "Chinese"
    js_splitter_code = """
function splitQuery(query) {
  return query.split(/[^\\p{L}\\p{N}_]+/u).filter(Boolean).flatMap(word =>
    word.match(/[\\u3400-\\u9fff]+|[^\\u3400-\\u9fff]+/g).flatMap(part =>
      /[\\u3400-\\u9fff]{2}/.test(part) ? [...part].slice(1).map((sign, i) => part[i] + sign) : [part]));
}
"""

    def split(self, input: str) -> list[str]:
        found: list[str] = []
        for part in re.findall(r"[\u3400-\u9fff]+|[^\W\u3400-\u9fff]+", input):
            pairs = len(part) > 1 and HAN.match(part)
            found += [part[i : i + 2] for i in range(len(part) - 1)] if pairs else [part]
        return found

    def word_filter(self, stemmed_word: str) -> bool:
        return bool(HAN.match(stemmed_word) or super().word_filter(stemmed_word))


# -- font -------------------------------------------------------------------------------------


def copy_font(app: Sphinx, error: Exception | None) -> None:
    """The font of the Chinese tree, in parts of which a browser loads those that a page needs and its machine lacks."""
    if error or app.builder.format != "html" or not is_chinese(app.config):
        return
    source = Path(app.confdir) / "node_modules" / "@fontsource-variable" / "noto-sans-sc"
    if not source.is_dir():
        logger.warning("node_modules/@fontsource-variable is missing, so Chinese may not show; run: make setup")
        return
    target = Path(app.outdir) / "_static" / "noto-sans-sc"
    shutil.copytree(source / "files", target / "files", dirs_exist_ok=True)
    for name in ("index.css", "LICENSE"):
        shutil.copy(source / name, target)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("llmhw-translation", Translation)
    app.add_directive("llmhw-downloads", Downloads)
    app.add_transform(EnglishAnchors)
    app.connect("doctree-resolved", near_links)
    app.connect("doctree-resolved", mark_english)
    app.connect("html-page-context", other_page, priority=100)  # before the theme renders its parts
    app.connect("build-finished", copy_font)
    languages["zh"] = SearchChinese
    return {"parallel_read_safe": True, "parallel_write_safe": True}
