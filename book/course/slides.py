"""Slides of a chapter from its takeaways and figures: one HTML file that needs no network, moved by the keyboard."""

from __future__ import annotations

import re
from base64 import b64encode
from functools import cache
from html import escape
from io import BytesIO
from pathlib import Path

from markdown_it import MarkdownIt

from book.course.chapters import Chapter, Picture

_TEMPLATE = Path(__file__).parent / "texts" / "slides.html"
_MATH = re.compile(r"\$([^$\n]+)\$")
_LANG = re.compile(r"&lt;span lang=(?:&quot;|\")([A-Za-z-]+)(?:&quot;|\")&gt;(.*?)&lt;/span&gt;")


@cache
def formula(tex: str) -> str:
    """TeX as a picture with the TeX as its text; as code where Matplotlib cannot set it."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    file = BytesIO()
    try:
        plain = tex.replace(r"\tfrac", r"\frac").replace(r"\text", r"\mathrm")
        depth = math_to_image(f"${plain}$", file, prop=FontProperties(size=12), format="svg")
    except (ValueError, RuntimeError):
        return f"<code>{escape(tex)}</code>"
    found = re.search(r'width="([0-9.]+)pt" height="([0-9.]+)pt"', file.getvalue().decode())
    assert found
    place = f"height:{float(found[2]) / 12:.3f}em;vertical-align:-{depth / 12:.3f}em"
    data = b64encode(re.sub(rb"<metadata>.*?</metadata>", b"", file.getvalue(), flags=re.DOTALL)).decode()
    return f'<img class="math" alt="{escape(tex)}" style="{place}" src="data:image/svg+xml;base64,{data}">'


def html(text: str) -> str:
    """A line of Markdown with $formulas$ as HTML."""
    formulas: list[str] = []

    def aside(found: re.Match[str]) -> str:
        formulas.append(formula(found[1]))
        return f"@@{len(formulas) - 1}@@"

    made = MarkdownIt("commonmark", {"html": False}).renderInline(_MATH.sub(aside, text))
    made = _LANG.sub(r'<span lang="\1">\2</span>', made)
    return re.sub(r"@@([0-9]+)@@", lambda found: formulas[int(found[1])], made)


def figure(picture: Picture) -> str:
    """An <img>, so that the ids inside one picture do not meet those of another."""
    data = b64encode(picture.data.encode()).decode() if picture.kind == "image/svg+xml" else picture.data.strip()
    image = f'<img alt="{escape(picture.alt)}" src="data:{picture.kind};base64,{data}">'
    return f"<figure>{image}<figcaption>{html(picture.caption)}</figcaption></figure>"


def slides(chapter: Chapter) -> list[str]:
    """The slides, as HTML: the question, what one can do, each figure, each takeaway, the exercises."""
    made = [f"<h1>{html(chapter.title)}</h1><p class='question'>{html(chapter.question)}</p>"]
    if chapter.goals:
        goals = "".join(f"<li>{html(goal)}</li>" for goal in chapter.goals)
        made.append(f"<h2>Afterwards you can</h2><ul>{goals}</ul>")
    for section in chapter.sections:
        head = f"<h2>{html(section.title or chapter.title)}</h2>"
        made += [head + figure(picture) for picture in section.pictures]
        said = "".join(f"<p class='takeaway'>{html(text)}</p>" for text in section.takeaways)
        made += [head + said] if said else []
    if chapter.exercises:
        rows = "".join(
            f"<tr><td>{id}</td><td>{stars}</td><td>{kind}</td></tr>" for id, stars, kind in chapter.exercises
        )
        made.append(f"<h2>Exercises</h2><table><tbody>{rows}</tbody></table>")
    return made


def page(chapter: Chapter) -> str:
    """The whole file."""
    texts = slides(chapter)
    body = "\n".join(
        f'<section id="s{n}" aria-label="Slide {n} of {len(texts)}">{text}</section>' for n, text in enumerate(texts, 1)
    )
    template = _TEMPLATE.read_text(encoding="utf-8")
    return template.replace("{title}", escape(chapter.title)).replace("{slides}", body)
