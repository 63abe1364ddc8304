"""What a translation must keep: code, formulas, targets of links, roles, tags, bold, and every number by its value."""

from __future__ import annotations

import re
import sys
from collections import Counter
from decimal import Decimal
from typing import Any

from book.chinese.catalogues import messages, read, sources, words
from book.chinese.texts import CLAIMS, parser

_MONTHS = "January February March April May June July August September October November December".split()
_MONTH = re.compile(rf"\b({'|'.join(_MONTHS)})(?= \d)")
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALES |= {"万亿": 12, "亿": 8, "千万": 7, "百万": 6, "万": 4, "千": 3}
_NUMBER = re.compile(rf"(\d[\d,]*(?:\.\d+)?)(?:\s*({'|'.join(_SCALES)}))?")


def numbers(text: str) -> Counter[Decimal]:
    """The numbers of a text by value: 14.2 亿 is 1.42 billion, 4,096 is 4096, and a month is a number."""
    text = _MONTH.sub(lambda month: f"{_MONTHS.index(month[1]) + 1}", text)
    found = ((n.replace(",", ""), _SCALES.get(scale, 0)) for n, scale in _NUMBER.findall(text))
    return Counter(Decimal(n).scaleb(power).normalize() for n, power in found)


def scaled(text: str, before: Counter[Decimal], after: Counter[Decimal]) -> Counter[Decimal]:
    """The numbers before, with those scaled whose scale stands at another one: "1.2 or 4 billion" is 12 亿或 40 亿."""
    before = before.copy()
    for power in sorted({_SCALES[scale] for _, scale in _NUMBER.findall(text) if scale}):
        for number, count in (before - after).items():
            moved = min(count, (after - before)[number.scaleb(power).normalize()])
            before[number] -= moved
            before[number.scaleb(power).normalize()] += moved
    return +before


def kept(text: str) -> dict[str, Counter[Any]]:
    """What must be the same in the text and its translation, by its name."""
    found: dict[str, Counter[Any]] = {}
    said = ""
    for token in (child for inline in parser().parseInline(text) for child in inline.children or ()):
        if token.type in ("code_inline", "math_inline", "math_single", "math_inline_double"):
            found.setdefault("code and formulas", Counter())[token.content] += 1
        elif token.type in ("link_open", "image"):
            found.setdefault("targets of links", Counter())[token.attrs.get("href") or token.attrs.get("src")] += 1
        elif token.type == "myst_role":
            target = re.search(r"<([^>]*)>$", token.content)
            name = (token.meta["name"], target[1] if target else token.content)
            found.setdefault("roles", Counter())[name] += 1
        elif token.type in ("strong_open", "em_open"):
            found.setdefault("bold and italics", Counter())[token.type] += 1
        elif token.type == "html_inline" and not re.fullmatch(r"<span lang=[^>]*>|</span>", token.content):
            found.setdefault("tags", Counter())[token.content] += 1
        else:
            said += token.content if token.type == "text" else " "
    found["placeholders"] = Counter(re.findall(r"\{\w*\}", said))
    found["numbers"] = numbers(said)
    return found


def faults(text: str, new: str) -> list[str]:
    """What is wrong with a translation; empty if nothing is."""
    if "\n" in new or (new != new.strip() and text == text.strip()):
        return ["it must be one line without blanks around it"]
    shape, was = ([t.type for t in parser().parse(one)] for one in (new, text))
    if shape != was and shape != ["paragraph_open", "inline", "paragraph_close"]:
        return ["it begins with a sign that Markdown takes for a mark"]
    before, after = kept(text), kept(new)
    if "lang=" in text:  # the article's words and their translation are one in Chinese, with their numbers
        for one in (before, after):
            one["numbers"] = Counter(set(one["numbers"]))
    before["numbers"] = scaled(text, before["numbers"], after["numbers"])
    return [
        f"{name} differ: {list((a - b).elements())} missing, {list((b - a).elements())} too many"
        for name in sorted({*before, *after})
        if (a := before.get(name, Counter())) != (b := after.get(name, Counter()))
    ]


def all_faults() -> list[str]:
    """What is wrong with the translations that the book uses."""
    found = []
    for source in sources():
        alts = {message.id for message in messages(read(source)) if "alt" in message.auto_comments}
        for text, new in words(source).items():
            # What a figure says, and what the page of claims takes from the catalog, is no Markdown: a dollar is one.
            plain = source == CLAIMS or text in alts
            pair = [one.replace("$", r"\$") for one in (text, new)] if plain else [text, new]
            found += [f"{source}: {text!r}: {why}" for why in faults(*pair)]
    return found


def check() -> None:
    found = all_faults()
    print("\n".join(found) or "Every translation keeps what it must keep.")
    sys.exit(bool(found))
