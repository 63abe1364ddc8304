"""Cut the font of the book's Chinese text to the characters that the book uses, so that they show on any machine.

    python book/font.py noto-sans-sc-chinese-simplified-400-normal.woff2

The file comes from the npm package `@fontsource/noto-sans-sc` (SIL Open Font License). Needs fonttools and brotli.
Writes `book/_static/han.woff2` and `han.css`, which are committed; run it again where `tests/book/test_build.py` finds
a character that they lack.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STATIC = ROOT / "book" / "_static"
HAN = re.compile(r"[\u2e80-\u303f\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef]")

CSS = """/* Chinese text: fonts of the reader's machine, then this one. Noto Sans SC, SIL Open Font License 1.1. */
@font-face {{
  font-family: "llmhw Han";
  src: url("han.woff2") format("woff2");
  font-display: swap;
  unicode-range: {ranges};
}}

:lang(zh-Hans) {{
  font-family: var(--pst-font-family-base), "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "llmhw Han";
}}
"""


def used() -> list[str]:
    """The Chinese characters of the English pages, of the notebooks and of the catalog."""
    files = [*ROOT.glob("book/*.*"), *ROOT.glob("book/_ext/*.py"), *ROOT.glob("notebooks/*.ipynb"), ROOT / "README.md"]
    # Pages in Chinese have a font of their own, whole and in parts: see llmhw_languages.
    files += [path for path in ROOT.glob("llmhw/**/*.csv") if path.name != "chinese.csv"]
    return sorted({sign for file in files for sign in HAN.findall(file.read_text(encoding="utf-8"))})


def ranges(signs: list[str]) -> str:
    """The characters as a unicode-range of CSS."""
    spans: list[list[int]] = []
    for code in sorted(map(ord, signs)):
        if spans and code == spans[-1][1] + 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return ", ".join(f"U+{a:X}" if a == b else f"U+{a:X}-{b:X}" for a, b in spans)


def main(source: str) -> None:
    from fontTools import subset

    signs = used()
    options = subset.Options(flavor="woff2", layout_features=[], hinting=False, notdef_outline=True)
    font = subset.load_font(source, options)
    cutter = subset.Subsetter(options)
    cutter.populate(text="".join(signs))
    cutter.subset(font)
    kept = [sign for sign in signs if ord(sign) in font.getBestCmap()]
    subset.save_font(font, STATIC / "han.woff2", options)
    (STATIC / "han.css").write_text(CSS.format(ranges=ranges(kept)), encoding="utf-8")
    print(f"{len(kept)} of {len(signs)} characters; not in the font: {''.join(sorted(set(signs) - set(kept)))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
