"""The numbers of a chapter's prose, and whether the chapter itself shows them.

A number of the prose is held if an output of its own section, rounded as the prose prints it, gives it, or if a code
cell has exactly it as an input: any number of the section's cells, sizes from 100 on of every cell. The title and the
summary may speak of all sections. What none of these shows stands in `numbers.toml`, each phrase with its reason.
"""

from __future__ import annotations

import ast
import operator
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

from book.run import with_answers

ALLOWED = Path(__file__).with_name("numbers.toml")

# Words of an opening section and of a summary, which draw on the whole chapter
WHOLE = ("", "mended", "settled")

SCALES = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:e[+-]?\d+)?"
_WORDS = "|".join(name for name in SCALES if len(name) > 1)
# In prose a number that letters touch is part of a name: H100, bf16, ZeRO-2, 405B, 4-bit.
_OF_PROSE = re.compile(
    rf"(?<![\w.,])(?<![A-Za-z]-)(?P<digits>{_DIGITS})(?!,\d|\.\d)"
    rf"(?:\s*(?P<after>%|percent\b)|x?\s+(?P<scale>{_WORDS})\b|x?(?!\w|-bit| bits?\b))"
)
_OF_OUTPUT = re.compile(rf"(?<![\w.])(?P<digits>{_DIGITS})(?:\s*(?P<after>%)|\s*(?P<scale>{_WORDS}|[KMBT])\b|)")
# Before a round number these words say that the zeros at its end are no digits.
_HEDGE = re.compile(
    r"(?:\b(?:about|some|nearly|almost|roughly|around|over|than|to|near|of|beyond|between|by|or|from|least|most|under) "
    r"|≈ ?|\()[$−+~]*$"
)
_JOINT = re.compile(r"(?: to | and | or |, | of |-|–)[−+]?")


@dataclass(frozen=True)
class Number:
    """A number as printed: its digits, the scale word or percent sign behind it, and whether it is said to be rough."""

    digits: str
    after: str = ""
    rough: bool = False

    @property
    def value(self) -> float:
        return float(self.digits.replace(",", ""))

    @property
    def step(self) -> float:
        """The place of its last digit: 0.01 for 1.05, 1 for 16,384, 100 for "about 300"."""
        mantissa, _, power = self.digits.replace(",", "").partition("e")
        whole, _, decimals = mantissa.partition(".")
        zeros = len(whole) - len(whole.rstrip("0")) if self.rough and not decimals and float(whole) else 0
        return float(10.0 ** (int(power or 0) - len(decimals) + zeros))

    @property
    def readings(self) -> set[tuple[float, float]]:
        """Value and step, as printed and with the scale: 15.6 trillion and 1.56e13, 5 % and 0.05."""
        unit = 0.01 if self.after == "%" else SCALES.get(self.after, 1.0)
        return {(self.value * u, self.step * u) for u in (1.0, unit)}

    def rounds(self, shown: Number) -> bool:
        """Whether this is `shown` with as many digits or fewer. A bare 5 is no 5 %; 0.05 is."""
        ours, theirs = self.readings, shown.readings
        if self.after == "%" and shown.after != "%":
            ours = {(self.value / 100, self.step / 100)}
        if shown.after == "%" and self.after != "%":
            theirs = {(shown.value / 100, shown.step / 100)}
        near = 1 + 1e-9
        return any(
            finest <= step * near and abs(other - value) <= step / 2 * near
            for value, step in ours
            for other, finest in theirs
        )


def _after(match: re.Match[str]) -> str:
    return "%" if match["after"] else match["scale"] or ""


@dataclass(frozen=True)
class Claim:
    """A number of the prose, with the words around it and the cell where it stands."""

    number: Number
    words: str
    cell: str


# -- prose ------------------------------------------------------------------------------------

_NO_CLAIMS = (
    r"```.*?```",  # commands
    r"`[^`]*`",
    r"<[^>]*>",
    r"\]\([^)]*\)|https?://\S+|arXiv:[\d.]+",
    r"\"[^\"]*\"|“[^”]*”",  # what others say
    r"\b(?:[Cc]hapter|[Ss]ection|[Tt]able|[Ff]igure|[Ff]ig\.|[Ee]xercise|[Qq]uestion)s? \d+(?:\.\d+)*"
    r"(?:(?:, | and | to )\d+(?:\.\d+)*)*",
    r"(?m)^\*\*\d+b?\.\d*(?:\*\*)?",  # an exercise
    r"(?m)^\d+\. ",  # a list
    r"\b\d+(?:\.\d+){2,}\b|\b\d{4}-\d\d-\d\d\b",
    r"(?<=\d) to 1\b",  # a ratio
    r"(?<![\w,.])(?:19|20)\d\d(?![\w,.]?\d)(?! (?:tokens|cards|nodes))",  # a year
)
_QUOTED_COLUMN = ("the article", "claim")


def _without_quotations(source: str) -> str:
    """The source without blocks that quote, and without the column of a table that says what the article says."""
    kept, table = [], ""
    for block in re.split(r"\n\s*\n", source):
        if block.startswith(">") and "**Takeaway" not in block:
            continue
        lines = block.splitlines()
        if lines and lines[0].startswith("|"):
            table = lines[0].strip("| ").split("|")[0].strip()
            if table in _QUOTED_COLUMN:
                lines = [line.strip().strip("|").partition("|")[2] for line in lines]
        kept.append("\n".join(line.removeprefix("> ") for line in lines))
    return "\n\n".join(kept)


def _formula(match: re.Match[str]) -> str:
    """The numbers of a formula that are results: no factor, no exponent, no index."""
    text = re.sub(r"([\d.]+)\s*\\times\s*10\^\{(\d+)\}", r"\1e\2", match[0].replace("{,}", ","))
    text = re.sub(r"\\(?:text|underbrace)\{[^{}]*\}|[_^](?:\{[^{}]*\}|\w)|\\[a-zA-Z]+|\\.", " ", text)
    return " " + " ".join(n for n in re.findall(r"[\d,.]*\d(?:e\d+)?", text) if len(n.strip(",.")) > 2) + " "


def claims_in(source: str, cell: str = "", names: tuple[str, ...] = ()) -> list[Claim]:
    """Every number that the prose claims. `names` are words before a number that belongs to their name: RTX 4090."""
    text = _without_quotations(source)
    for pattern in _NO_CLAIMS:
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", _formula, text, flags=re.DOTALL)
    text = re.sub(rf"\b(?:{'|'.join(map(re.escape, names))})[ -]\d[\d.]*\w*", " ", text) if names else text
    text = re.sub(r"\s+", " ", text)
    found: list[Claim] = []
    joined: list[bool] = []  # whether a number goes on the one before: 20 to 26, or 60, 80, 95
    last = -1
    for match in _OF_PROSE.finditer(text):
        before, words = text[: match.start()], text[max(0, match.start() - 40) : match.end() + 30]
        number = Number(match["digits"], _after(match), bool(_HEDGE.search(before)))
        joined.append(last >= 0 and bool(_JOINT.fullmatch(text[last : match.start()])))
        found.append(Claim(number, words, cell))
        last = match.end()
    for i in range(len(found) - 1, 0, -1):  # in 20 to 26 % both are percentages
        if joined[i] and found[i].number.after and not found[i - 1].number.after:
            found[i - 1] = replace(found[i - 1], number=replace(found[i - 1].number, after=found[i].number.after))
    return found


@dataclass
class Section:
    """A part of a notebook: its prose by cell, captions and alt texts too, and its code cells. An exercise is one."""

    title: str
    prose: list[tuple[str, str]] = field(default_factory=list)
    code: list[Any] = field(default_factory=list)

    @property
    def speaks_of_all(self) -> bool:
        return not self.title or any(word in self.title for word in WHOLE if word)


_OPENS = re.compile(r"(?m)^(?=## |\*\*\d+b?\.)")


def sections(notebook: Any) -> list[Section]:
    found = [Section("")]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for piece in filter(str.strip, _OPENS.split(cell.source)):
                if _OPENS.match(piece):
                    found.append(Section(piece.splitlines()[0]))
                found[-1].prose.append((cell.id, piece))
        elif cell.cell_type == "code":
            shown = cell.metadata.get("mystnb", {})
            found[-1].prose.append((f"{cell.id}, caption", shown.get("figure", {}).get("caption", "")))
            found[-1].prose.append((f"{cell.id}, alt", shown.get("image", {}).get("alt", "")))
            found[-1].code.append(cell)
    return found


# -- what is shown ----------------------------------------------------------------------------


def numbers_of_output(text: str) -> set[Number]:
    """The numbers of one output. Where its head says ", %", its numbers are percentages too."""
    found = {Number(m["digits"], _after(m)) for m in _OF_OUTPUT.finditer(text)}
    return found | {replace(n, after="%") for n in found if not n.after and ", %" in text}


def labels_of_picture(svg: str) -> str:
    """What is written in a picture, but for the ticks of its axes, which are round and would hold anything."""
    bare = re.sub(r'<g id="[xy]tick_\d+">.*?</text>', "", svg, flags=re.DOTALL)
    return unescape("\n".join(re.findall(r"<text[^>]*>(.*?)</text>", bare, flags=re.DOTALL)))


def outputs(cells: Iterable[Any]) -> set[Number]:
    found: set[Number] = set()
    for cell in cells:
        for out in cell.get("outputs", []):
            data = out.get("data", {})
            picture = labels_of_picture(data.get("image/svg+xml", ""))
            for text in (out.get("text", ""), data.get("text/plain", ""), data.get("text/html", ""), picture):
                found |= numbers_of_output(text)
    return found


_OPERATORS = {ast.Mult: operator.mul, ast.Pow: operator.pow, ast.Add: operator.add, ast.Sub: operator.sub}
_OPERATORS |= {ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv}


def _constant(node: ast.AST) -> float | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _constant(node.left), _constant(node.right)
        if left is not None and right is not None and right:
            return float(_OPERATORS[type(node.op)](left, right))
    return None


def inputs(cells: Iterable[Any]) -> set[float]:
    """Numbers that code cells write down: arguments, sizes, names of cards, bounds of asserts."""
    found: set[float] = set()
    for cell in cells:
        lines = cell.source.splitlines()
        nodes = list(ast.walk(ast.parse("\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in lines))))
        found |= {value for node in nodes if (value := _constant(node)) is not None}
        words = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        found |= {float(n) for word in words for n in re.findall(r"(?<!\w)\d+(?=GB)", word)}
    return found


# -- the comparison ---------------------------------------------------------------------------


@cache
def allowed() -> dict[str, Any]:
    return tomllib.loads(ALLOWED.read_text(encoding="utf-8"))


def held_claims(
    notebook: Any, phrases: Iterable[str] = (), names: tuple[str, ...] = ()
) -> Iterator[tuple[Claim, Callable[[Number], bool]]]:
    """Every claim outside the phrases, with the question whether a number is held where this claim stands."""
    notebook = with_answers(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    everywhere, sizes = outputs(code), {value for value in inputs(code) if value >= 100}
    for section in sections(notebook):
        shown = everywhere if section.speaks_of_all else outputs(section.code)
        given = inputs(code if section.speaks_of_all else section.code) | sizes

        def holds(number: Number, shown: set[Number] = shown, given: set[float] = given) -> bool:
            exact = {value for value, _ in number.readings}
            return bool(exact & given) or any(number.rounds(each) for each in shown)

        for cell, source in section.prose:
            for phrase in phrases:
                source = re.sub(r"\s+".join(map(re.escape, phrase.split())), " ", source)
            yield from ((claim, holds) for claim in claims_in(source, cell, names))


def drifting(notebook: Any, phrases: Iterable[str] = (), names: tuple[str, ...] = ()) -> list[Claim]:
    """The numbers of the prose that nothing holds. `phrases` are left out, in the words and the order of the prose."""
    return [claim for claim, holds in held_claims(notebook, phrases, names) if not holds(claim.number)]
