"""Chinese text says that it is Chinese: browsers choose its font and its glyphs, screen readers its voice, by that."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from llmhw_languages import is_chinese
from sphinx.application import Sphinx

# Chinese signs, and what stands between two of them: blanks, Latin names and numbers inside a quotation.
_HAN = r"\u2e80-\u303f\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef"
_CHINESE = re.compile(rf"[{_HAN}](?:[^.\n]*[{_HAN}])?")


def mark_chinese(app: Sphinx, doctree: nodes.document, _page: str) -> None:
    if app.builder.format != "html" or is_chinese(app.config):
        return
    for text in list(doctree.findall(nodes.Text)):
        if not _CHINESE.search(text) or isinstance(text.parent, nodes.raw | nodes.literal | nodes.literal_block):
            continue
        pieces: list[nodes.Node] = []
        end = 0
        for found in _CHINESE.finditer(text):
            pieces += [
                nodes.Text(text[end : found.start()]),
                nodes.raw("", '<span lang="zh-Hans">', format="html"),
                nodes.Text(found[0]),
                nodes.raw("", "</span>", format="html"),
            ]
            end = found.end()
        text.parent.replace(text, [piece for piece in [*pieces, nodes.Text(text[end:])] if piece.astext()])


def mark_index(app: Sphinx, error: Exception | None) -> None:
    """The general index is no document; its terms are marked in the finished page."""
    path = Path(app.outdir) / "genindex.html"
    if error or not path.is_file() or is_chinese(app.config):
        return

    def marked(match: re.Match[str]) -> str:
        return _CHINESE.sub(lambda found: f'<span lang="zh-Hans">{found[0]}</span>', match[0])

    text = path.read_text(encoding="utf-8")
    head, body, rest = text.partition("<body")
    path.write_text(head + body + re.sub(r">[^<>]+<", marked, rest), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-resolved", mark_chinese)
    app.connect("build-finished", mark_index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
