"""The book as EPUB 3: one file a chapter, formulas as MathML, drawings as SVG files in the colours of paper."""

from __future__ import annotations

import io
import re
import zipfile
from html import escape
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from bs4 import BeautifulSoup
from bs4.element import Tag

from book.paper.pages import Book, Chapter, PaperError, anchor, code_colours, static
from book.paper.pdf import title_page
from book.paper.press import document, opened

HERE = Path(__file__).parent
INK = "#222222"
COVER = (1200, 1800)
COVER_CSS = """
body { background: #f4f7fa; border-top: 60px solid #0b4f8a; box-sizing: border-box; height: 100vh; }
.title-page { height: 1740px; padding: 0 110px; } .title-page .logo { padding-top: 260px; } .logo svg { height: 150px; }
.book-title { font-size: 112px; margin: 90px 0 60px; } .subtitle { font-size: 44px; max-width: none; }
.authors { font-size: 40px; margin-top: 90px; } .imprint { bottom: 110px; font-size: 28px; left: 110px; }
"""

PAGE = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops"
 lang="{language}" xml:lang="{language}">
<head><title>{title}</title><link rel="stylesheet" href="book.css"/></head>
<body>{body}</body>
</html>
"""

PACKAGE = """<?xml version="1.0" encoding="utf-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id" xml:lang="{language}">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:identifier id="id">urn:uuid:{uuid}</dc:identifier>
<dc:title>{title}</dc:title>
<dc:language>{language}</dc:language>
<dc:creator>{authors}</dc:creator>
<dc:publisher>{authors}</dc:publisher>
<dc:description>{subtitle}</dc:description>
<dc:source>{address}/</dc:source>
<dc:rights>{rights}</dc:rights>
<dc:date>{date:%Y-%m-%d}</dc:date>
<meta property="dcterms:modified">{date:%Y-%m-%dT%H:%M:%SZ}</meta>
<meta property="schema:accessMode">textual</meta>
<meta property="schema:accessMode">visual</meta>
<meta property="schema:accessModeSufficient">textual</meta>
<meta property="schema:accessibilityFeature">alternativeText</meta>
<meta property="schema:accessibilityFeature">MathML</meta>
<meta property="schema:accessibilityFeature">tableOfContents</meta>
<meta property="schema:accessibilityHazard">none</meta>
</metadata>
<manifest>
{manifest}
</manifest>
<spine>
{spine}
</spine>
</package>
"""

CONTAINER = """<?xml version="1.0" encoding="utf-8"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="book/package.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>
"""

# The formulas of the book as MathML, in order; what MathJax cannot set is an error.
TO_MATHML = """
async formulas => {
  await MathJax.startup.promise;
  return formulas.map(({ tex, display }) => MathJax.tex2mml(tex, { display }));
}
"""


def bound(book: Book) -> bytes:
    """The EPUB: the same sources give the same bytes, but for the cover, which is drawn by the machine's Chromium."""
    formulas = [tag for each in book.chapters for tag in each.article.select(".math")]
    asked = [{"tex": tex(tag), "display": tag.name == "div"} for tag in formulas]
    css = (HERE / "paper.css").read_text(encoding="utf-8") + COVER_CSS
    cover = document(book, title=escape(book.title), body=title_page(book), css=css)
    with opened({"/cover.html": cover}, book.html, width=COVER[0], height=COVER[1]) as page:
        written = page.evaluate(TO_MATHML, asked)
        picture = page.screenshot(type="png")
    for tag, mathml in zip(formulas, written, strict=True):
        to_mathml(tag, mathml)
    files: dict[str, str | bytes] = {
        "cover.xhtml": text(book, book.title, f'<img src="cover.png" alt="{escape(book.title)}"/>'),
        "title.xhtml": text(book, book.title, title_page(book)),
        "contents.xhtml": contents(book),
    }
    for each in book.chapters:
        files[f"{each.slug}.xhtml"] = text(book, each.title, chapter(book, each))
    for index, svg in enumerate(book.drawings):
        files[drawing_name(index)] = drawing(svg)
    files["cover.png"] = picture
    files["book.css"] = "\n".join([han(book), code_colours(book.html), (HERE / "epub.css").read_text(encoding="utf-8")])
    files["han.woff2"] = static(book.html, "han.woff2").read_bytes()
    return zipped(book, files)


def tex(tag: Tag) -> str:
    """The TeX of a formula, without the brackets around it."""
    found = re.fullmatch(r"\\[(\[](.*)\\[)\]]", tag.get_text().strip(), re.DOTALL)
    if found is None:
        raise PaperError(
            f"formula={tag.get_text()[:60]!r} does not stand in brackets of TeX; mend it in the book's sources"
        )
    return found[1].strip()


def to_mathml(tag: Tag, mathml: str) -> None:
    """Put MathML in place of TeX, which becomes its alternative text."""
    said = tex(tag)
    if "<merror" in mathml:
        raise PaperError(f"formula={said!r} is no TeX that MathJax can set; mend it in the book's sources")
    clean = re.sub(r' (?:data-[\w-]+|class)="[^"]*"|\n *', "", mathml)
    math = BeautifulSoup(clean, "html.parser").math
    math["alttext"] = " ".join(said.split())
    tag.clear()
    tag.append(math)


def chapter(book: Book, each: Chapter) -> str:
    """A chapter's XHTML: links within the book name their file, drawings are files."""
    slugs = {anchor(one.slug): one.slug for one in book.chapters}
    for link in each.article.select("a[href^='#']"):
        target = str(link["href"])[1:]
        slug = slugs[target.partition(".")[0]]
        link["href"] = f"#{target}" if slug == each.slug else f"{slug}.xhtml#{target}"
    for image in each.article.select("img[data-drawing]"):
        index = int(str(image["data-drawing"]))
        del image["data-drawing"]
        image["src"] = drawing_name(index)
        said = re.search(r'aria-label="([^"]*)"', book.drawings[index])
        image["alt"] = BeautifulSoup(said[1] if said else "", "html.parser").get_text()
    for tag in each.article.select("[lang]"):
        tag["xml:lang"] = tag["lang"]
    inside = each.article.decode_contents(formatter="minimal")
    return f'<section epub:type="chapter" id="{anchor(each.slug)}">{inside}</section>'


def drawing_name(index: int) -> str:
    return f"drawing-{index + 1:03}.svg"


def drawing(svg: str) -> str:
    """A drawing as a file: fixed colours on white, since the page's are not known, and a size of its own."""
    body = re.sub(r"var\(--[\w-]+,\s*([^)]*)\)", r"\1", svg).replace("currentColor", INK)
    body = re.sub(r'(<[^>]*) role="img"', r"\1", body)
    box = re.search(r'viewBox="([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+)"', body)
    if box is None:
        raise PaperError("drawing: an SVG has no viewBox; mend the figure")
    wide = re.search(r"--figure-width: ?(\d+)px", body)
    width = float(wide[1]) if wide else float(box[3])
    size = f'width="{width:.0f}" height="{width * float(box[4]) / float(box[3]):.0f}"'
    body = re.sub(
        r"<svg[^>]*>",
        lambda root: re.sub(r' (?:style|width|height|fill|font-family)="[^"]*"', "", root[0]),
        body,
        count=1,
    )
    names = "" if "xmlns=" in body[: body.index(">")] else ' xmlns="http://www.w3.org/2000/svg"'
    body = body.replace("<svg", f'<svg{names} {size} fill="{INK}" font-family="sans-serif"', 1)
    first = body.index(">") + 1
    ground = f'<rect x="{box[1]}" y="{box[2]}" width="{box[3]}" height="{box[4]}" fill="#ffffff"/>'
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body[:first]}{ground}{body[first:]}'


def contents(book: Book) -> str:
    """The contents that readers show, of chapters and their sections, and where the book begins."""
    items = []
    for each in book.chapters:
        inner = "".join(f'<li><a href="{each.slug}.xhtml#{to}">{escape(title)}</a></li>' for to, title in each.sections)
        below = f"<ol>{inner}</ol>" if inner else ""
        items.append(f'<li><a href="{each.slug}.xhtml">{escape(each.title)}</a>{below}</li>')
    word = book.word("contents")
    return text(
        book,
        word,
        f"""<nav epub:type="toc" id="toc"><h1>{word}</h1><ol>{"".join(items)}</ol></nav>
<nav epub:type="landmarks" hidden="hidden"><ol><li><a epub:type="toc" href="contents.xhtml">{word}</a></li>
<li><a epub:type="bodymatter" href="{book.chapters[0].slug}.xhtml">{escape(book.title)}</a></li></ol></nav>""",
    )


def han(book: Book) -> str:
    """The font of Chinese text."""
    rule = re.search(r"@font-face \{.*?\}", static(book.html, "han.css").read_text(encoding="utf-8"), re.DOTALL)
    return rule[0] if rule else ""


def text(book: Book, title: str, body: str) -> str:
    return PAGE.format(language=book.tag, title=escape(title), body=body)


KINDS = {
    "css": "text/css",
    "png": "image/png",
    "svg": "image/svg+xml",
    "woff2": "font/woff2",
    "xhtml": "application/xhtml+xml",
}


def zipped(book: Book, files: dict[str, str | bytes]) -> bytes:
    """The archive: its type first and not compressed, every date that of the sources."""
    spine = [name for name in files if name.endswith(".xhtml")]
    manifest = []
    for name, data in files.items():
        marks = [
            mark for mark, sign in (("mathml", "<math"), ("svg", "<svg")) if isinstance(data, str) and sign in data
        ]
        marks = marks if name in spine else []
        marks += {"contents.xhtml": ["nav"], "cover.png": ["cover-image"]}.get(name, [])
        properties = f' properties="{" ".join(marks)}"' if marks else ""
        kind = KINDS[name.rpartition(".")[2]]
        manifest.append(f'<item id="{item(name)}" href="{name}" media-type="{kind}"{properties}/>')
    licence = BeautifulSoup(book.licence, "html.parser").get_text()
    package = PACKAGE.format(
        language=book.tag, uuid=uuid5(NAMESPACE_URL, book.address),
        title=escape(book.title), authors=escape(book.authors), subtitle=escape(book.word("subtitle")),
        address=escape(book.address), rights=escape(licence), date=book.date, manifest="\n".join(manifest),
        spine="\n".join(f'<itemref idref="{item(name)}"/>' for name in spine),
    )  # fmt: skip
    whole = {"mimetype": "application/epub+zip", "META-INF/container.xml": CONTAINER, "book/package.opf": package}
    whole |= {f"book/{name}": data for name, data in files.items()}
    out = io.BytesIO()
    day = max(book.date.timetuple()[:6], (1980, 1, 1, 0, 0, 0))
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in whole.items():
            entry = zipfile.ZipInfo(name, day)
            stored = name == "mimetype" or name.endswith((".png", ".woff2"))
            entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return out.getvalue()


def item(name: str) -> str:
    return f"i-{name.replace('.', '-')}"
