"""Figures of notebooks inside the page: their letters are text, and their colours are those of the theme.

matplotlib's SVG files are put into the page itself, without what only a file needs. Ink and palette become variables of
the style sheet (`--figure-...` in llmhw.css), so that a figure is at home in light and in dark, also when the reader
switches. Other images stay files.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from hashlib import blake2s
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from llmhw.plot import INK, PALETTE

COLOURS = {INK.lower(): "currentColor"}
COLOURS |= {colour.lower(): f"var(--figure-{i},{colour})" for i, colour in enumerate(PALETTE[:6] + PALETTE[7:])}
COLOURS[PALETTE[6].lower()] = f"var(--figure-grey,{PALETTE[6]})"


def shared_styles(body: str) -> str:
    """Looks that several parts have, once; their names come from what they say, so that figures of a page agree."""
    looks = Counter(re.findall(r' style="([^"]*)"', body))
    names = {look: f"f{blake2s(look.encode(), digest_size=4).hexdigest()}" for look, n in looks.items() if n > 2}
    body = re.sub(r' style="([^"]*)"', lambda m: f' class="{names[m[1]]}"' if m[1] in names else m[0], body)
    rules = "".join(f".{name}{{{look}}}" for look, name in names.items())
    return re.sub(r"(<svg[^>]*>)", rf"\1<style>{rules}</style>", body, count=1) if rules else body


def inline(svg: str, alt: str) -> str:
    """An SVG file as an element of a page that says its alt text."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    # Names that nothing refers to would occur in every figure of a page.
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", body)
    body = re.sub(r"#[0-9a-fA-F]{6}\b", lambda match: COLOURS.get(match[0].lower(), match[0]), body)
    body = re.sub(r" transform=\"rotate\(-0 [^\"]*\"| font-family: [^;\"]*;?|(?<=style=\") +", "", body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    body = re.sub(r"font: (bold|italic|\d+) ([\d.]+px) [^;\"]*", r"font-weight: \1; font-size: \2", body)
    # A hundredth of a point is finer than any screen; a label keeps all its digits.
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(?<=\d)\.(\d\d)\d+", r".\1", tag[0]), body)
    body = re.sub(r"\s*\n\s*", " ", body)
    width, height = re.search(r'width="([\d.]+)pt"', body), re.search(r'height="([\d.]+)pt"', body)
    size = f"--figure-width: {float(width[1]) * 4 / 3:.0f}px" if width else ""
    if width and height:
        body = body.replace(width[0], "", 1).replace(height[0], "", 1)
    body = shared_styles(body)
    said = f'<svg role="img" aria-label="{html.escape(alt, quote=True)}" style="{size}"'
    return f'<div class="drawn">{body.replace("<svg", said, 1)}</div>'


def draw_inline(app: Sphinx, doctree: nodes.document, _page: str) -> None:
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        path = Path(app.srcdir) / image["uri"]
        if path.suffix == ".svg" and "jupyter_execute" in path.parts and path.is_file():
            text = inline(path.read_text(encoding="utf-8"), image.get("alt", ""))
            image.parent.replace(image, nodes.raw("", text, format="html"))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-resolved", draw_inline)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
