"""Units, printing and argument checks: the one place where a number becomes text.

Inside the library everything is in base units: bytes, FLOP, seconds, dollars.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from functools import reduce
from numbers import Integral, Real
from typing import Any

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12


class LLMHWError(ValueError):
    """A wrong argument: the text names it, its value, the rule and the way out."""


# -- arithmetic that works on an int, a float or a NumPy array alike -------------------------


_PLAIN = frozenset((int, float, bool))


def _is_array(*values: Any) -> bool:
    for value in values:  # noqa: SIM110 - a generator takes twice as long, and an answer asks this some hundred times
        if type(value) not in _PLAIN and getattr(value, "ndim", False):
            return True
    return False


def _numpy(name: str, *values: Any) -> Any:
    import numpy  # here, so that plain numbers never wait for it

    return getattr(numpy, name)(*values)


def maximum(a: Any, b: Any) -> Any:
    """The larger of two numbers, element by element for arrays.

    >>> maximum(2, 3)
    3
    """
    # most are plain; an answer asks this some hundred times
    if not (type(a) in _PLAIN and type(b) in _PLAIN) and _is_array(a, b):
        return _numpy("maximum", a, b)
    return a if a >= b else b


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two numbers, element by element for arrays.

    >>> minimum(2, 3)
    2
    """
    if not (type(a) in _PLAIN and type(b) in _PLAIN) and _is_array(a, b):
        return _numpy("minimum", a, b)
    return a if a <= b else b


def smallest(values: Sequence[Any]) -> Any:
    """The smallest of several numbers, element by element for arrays.

    >>> smallest([3, 1, 2])
    1
    """
    return reduce(minimum, values) if _is_array(*values) else min(values)


def exp(x: Any) -> Any:
    """e to the power x."""
    return _numpy("exp", x) if _is_array(x) else math.exp(x)


def expm1(x: Any) -> Any:
    """e to the power x, less 1, exact near 0."""
    return _numpy("expm1", x) if _is_array(x) else math.expm1(x)


def log(x: Any) -> Any:
    """The natural logarithm."""
    return _numpy("log", x) if _is_array(x) else math.log(x)


def ceil_div(a: Any, b: Any) -> Any:
    """a / b rounded up; exact on integers of any size.

    >>> ceil_div(7, 2)
    4
    """
    if getattr(a, "dtype", None) == "float64":  # numpy divides floats without a remainder ten times as fast
        return _numpy("ceil", a / b)
    return -(-a // b)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """`yes` where the condition holds, else `no`; element by element for arrays.

    >>> where(3 > 2, "more", "less")
    'more'
    """
    if _is_array(condition, yes, no):
        return _numpy("where", condition, yes, no)
    return yes if condition else no


def any_of(flags: Any) -> bool:
    """Whether a flag holds, or any of an array's.

    >>> any_of(0), any_of(2)
    (False, True)
    """
    return bool(flags.any()) if hasattr(flags, "any") else bool(flags)


def share(total: Any, ranks: Any) -> Any:
    """One rank's part: a whole number where it divides, else a fraction.

    >>> share(32, 8), share(5, 2)
    (4, 2.5)
    """
    if _is_array(total, ranks):
        return total / ranks
    return total // ranks if total % ranks == 0 else total / ranks


def each(function: Callable[..., float], *numbers: Any) -> Any:
    """A function of whole numbers, element by element for arrays: for what is no arithmetic.

    >>> each(lambda a, b: a + b, 1, 2)
    3
    """
    if not _is_array(*numbers):
        return function(*numbers)
    import numpy

    return numpy.vectorize(lambda *one: function(*map(int, one)), otypes=[float])(*numbers)


# -- printing ---------------------------------------------------------------------------------

_DECIMAL = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY = ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
_COUNT = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
_TIME = ((86400.0, "days"), (3600.0, "h"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
# What stands before an amount of money, how many of it are a dollar, and the rate in words: `currencies.in_currency`.
PRINTED_CURRENCY: ContextVar[tuple[str, float, str]] = ContextVar("printed_currency", default=("$", 1.0, ""))
# Unit -> the steps it is written in, largest first; what is smaller than the last of them, and how that is called.
_STEPS: dict[str, tuple[Sequence[tuple[float, str]], float, str]] = {
    "bytes": (_BINARY, 1, "B"),
    "bytes/s": ((), GB, "GB/s"),
    "file_bytes": ((), GB, "GB"),
    "FLOP/s": ((), 1e12, "TFLOP/s"),
    "FLOP": ([(size, f"{prefix}FLOP") for size, prefix in _DECIMAL], 1, "FLOP"),
    "count": (_COUNT, 1, ""),
    "seconds": (_TIME, 1e-9, "ns"),
    "kg": (((1e3, "t"),), 1, "kg"),
}


_WORDS = ("days", "tokens")  # units that are words


def _significant(value: float, digits: int = 3) -> str:
    """At least `digits` significant figures, never scientific below 1e15, whole numbers kept whole."""
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 9)}f}"


def format_quantity(value: float | None, unit: str) -> str:
    """A number and its unit, as a person reads it.

    unit    bytes (held in memory: binary prefixes), file_bytes (decimal), bytes/s (decimal),
            FLOP, FLOP/s, FLOP/byte, count, seconds, dollars, bits, fraction (printed as a percentage);
            anything else is printed behind the number.

    >>> format_quantity(2 * 2**30, "bytes"), format_quantity(3.35e12, "bytes/s")
    ('2.00 GiB', '3,350 GB/s')
    >>> format_quantity(70553706496, "count"), format_quantity(989.4e12, "FLOP/s")
    ('70.6 B', '989 TFLOP/s')
    """
    if value is None:
        return _said("unknown")
    if unit == "dollars":
        sign, rate, _ = PRINTED_CURRENCY.get()
        amount = value * rate
        return f"{sign}{amount:,.2f}" if abs(amount) < 1000 else f"{sign}{amount:,.0f}"
    if unit == "fraction":
        return f"{100 * value:.1f} %"
    steps, least, bare = _STEPS.get(unit, ((), 1, unit))
    size, suffix = next((step for step in steps if abs(value) >= step[0]), (least, bare))
    return f"{_significant(value / size)} {_said(suffix) if suffix in _WORDS else suffix}".rstrip()


def _said(word: str) -> str:
    """The unit that is a word in the reader's language, which stands above this room."""
    from llmhw.language import said

    return said(word)


def format_range(values: Sequence[float], unit: str) -> list[str]:
    """Quantities that belong together, as text in one unit: that of the first which is not 0.

    >>> format_range((3816, 3523, 4608), "seconds")
    ['1.06 h', '0.979 h', '1.28 h']
    """
    steps, _, _ = _STEPS.get(unit, ((), 1, unit))
    first = next((abs(value) for value in values if value), 0.0)
    size, suffix = next((step for step in steps if first >= step[0]), (0.0, ""))
    if not size:
        return [format_quantity(value, unit) for value in values]
    small, suffix = 0.0005, _said(suffix) if suffix in _WORDS else suffix  # what three decimals do not show
    return [
        f"<0.001 {suffix}" if 0 < value / size < small else f"{_significant(value / size)} {suffix}" for value in values
    ]


def html_table(caption: str, columns: Sequence[str], rows: Iterable[Iterable[str]], *, right: int = 1) -> str:
    """A table for notebooks; columns from number `right` on are aligned to the right.

    >>> html_table("sizes", ["part", "GiB"], [["weights", "2.0"]])[:38]
    '<table><caption>sizes</caption><thead>'
    """
    from html import escape
    from itertools import count

    def line(cells: Iterable[str], tag: str) -> str:
        styles = (" style='text-align:right'" if i >= right else "" for i in count())
        return (
            f"<tr>{''.join(f'<{tag}{s}>{escape(cell)}</{tag}>' for cell, s in zip(cells, styles, strict=False))}</tr>"
        )

    head = f"<thead>{line(columns, 'th')}</thead>" if columns else ""
    body = "".join(line(row, "td") for row in rows)
    return f"<table><caption>{escape(caption)}</caption>{head}<tbody>{body}</tbody></table>"


def text_table(
    rows: Iterable[Sequence[str]], *, right: int = 1, prose: bool = False, width: int | None = None
) -> list[str]:
    """Lines of a table for the terminal; columns from number `right` on are aligned to the right.

    prose   the last column is prose, and aligned to the left all the same
    width   of the terminal: names of columns, then the widest column, are wrapped where a line would be longer

    >>> text_table([("part", "GiB"), ("weights", "2.0")])
    ['part     GiB', 'weights  2.0']
    >>> text_table([("fits", "no, it is far too large")], right=2, width=18)
    ['fits  no, it is', '      far too', '      large']
    >>> text_table([("gpu", "tokens a second"), ("h100", "1,234,567")], width=16)
    ['gpu    tokens a', '         second', 'h100  1,234,567']
    """
    lines = list(rows)
    if not lines:
        return []
    cells = [[[cell] for cell in line] for line in lines]
    numbers = range(right, len(lines[0]) - prose)
    if width:
        _wrap(cells, numbers, width)
    widths = _widths(cells)
    found = []
    for line in cells:
        for k in range(max(map(len, line))):
            texts = [cell[k] if k < len(cell) else "" for cell in line]
            padded = (
                f"{' ' * (w - columns(c))}{c}" if i in numbers else f"{c}{' ' * (w - columns(c))}"
                for i, (c, w) in enumerate(zip(texts, widths, strict=True))
            )
            found.append("  ".join(padded).rstrip())
    return found


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: a Chinese character takes two.

    >>> columns("weights"), columns("权重"), columns("KV 缓存")
    (7, 4, 7)
    """
    if text.isascii():
        return len(text)
    from unicodedata import east_asian_width

    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def _pieces(text: str) -> list[str]:
    """What a line may be broken between: words, and each Chinese character with the punctuation that clings to it."""
    from re import findall

    opening, closing = "（《“‘【", "，。；：！？、）》”’】"
    wide = "\u2e80-\ua4cf\uf900-\ufaff\uff00-\uff60"
    return findall(rf"\s+|[{opening}]*(?:[{wide}“”‘’]|[^\s{wide}“”‘’]+)[{closing}]*", text)


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, none wider than that where it can be; Chinese is broken between any two characters.

    >>> wrapped("no, it is far too large", 9)
    ['no, it is', 'far too', 'large']
    >>> wrapped("放不下：还差 3 GiB。", 8)
    ['放不下：', '还差 3', 'GiB。']
    """
    from textwrap import wrap

    if columns(text) == len(text):
        return wrap(text, width)
    lines = [""]
    for piece in _pieces(text):
        if lines[-1] and columns(lines[-1] + piece.rstrip()) > width:
            lines[-1] = lines[-1].rstrip()
            lines.append("")
        lines[-1] += piece.lstrip() if not lines[-1] else piece
    return [line.rstrip() for line in lines if line.strip()]


def _widths(cells: Iterable[Sequence[Sequence[str]]]) -> list[int]:
    """Of each column; a cell is its lines."""
    return [max(columns(text) for cell in column for text in cell) for column in zip(*cells, strict=True)]


def _wrap(cells: list[list[list[str]]], numbers: range, width: int) -> None:
    """Make the lines of a table fit: names of columns of numbers first, then the widest of the others."""
    least = 8  # a column is not wrapped to less

    def over() -> int:
        return sum(_widths(cells)) + 2 * (len(cells[0]) - 1) - width

    if over() > 0:
        below = _widths(cells[1:] or cells)
        for i in numbers:
            words = max(map(columns, _pieces(cells[0][i][0])), default=0)
            cells[0][i] = wrapped(cells[0][i][0], max(below[i], words, 1)) or [""]
    left = [i for i in range(len(cells[0])) if i not in numbers] or [0]
    while left and (more := over()) > 0:
        widths = _widths(cells)
        wide = left.pop(left.index(max(left, key=lambda i: widths[i])))
        words = max(map(columns, _pieces(cells[0][wide][0])), default=0)
        for line in cells:
            line[wide] = wrapped(line[wide][0], max(least, words, widths[wide] - more)) or [""]


def plain(value: Any) -> Any:
    """A value as JSON has it: what has a `to_dict` as that, other dataclasses by field, infinite and nan as None.

    >>> plain((1, {"a": (2.5, float("inf"))}))
    [1, {'a': [2.5, None]}]
    """
    from dataclasses import is_dataclass

    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value):
        return plain_fields(value)
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain_fields(thing: Any, *left_out: str) -> dict[str, Any]:
    """The fields of a dataclass as plain values, by name."""
    from dataclasses import fields

    return {field.name: plain(getattr(thing, field.name)) for field in fields(thing) if field.name not in left_out}


# -- argument checks --------------------------------------------------------------------------

# No whole number, no other number in this field is larger, or smaller and not 0: arrays hold no more either.
MOST_WHOLE, MOST, LEAST = 2**63 - 1, 1e30, 1e-30
MOST_LETTERS = 300
_PREFIXES = {"": 0, "k": 1, "m": 2, "g": 3, "b": 3, "t": 4, "p": 5}
_NUMBER = r"([0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(e[+-]?[0-9]{1,3})? ?(?:([kmgtp])(?:(i)?b)?|(b))?"


def shown(value: Any, most: int = 80) -> str:
    """A value as an error shows it: on one line, not long, without control characters.

    >>> shown("bf61"), shown(10**100, most=12)
    ("'bf61'", '100000000...')
    """
    try:
        text = repr(value)
    except Exception:  # an int of 5,000 digits, a class with a broken repr
        text = f"<{type(value).__name__}>"
    text = text.replace("\n", " ")
    if not text.isprintable():  # an object's own repr; that of a text never holds such characters
        text = ascii(text)[1:-1]
    return text if len(text) <= most else text[: most - 3] + "..."


def parse_number(argument: str, text: str, least: float = 0.0) -> float:
    """A number as a person writes it: digits, with an exponent, or with K, M, G, B, T or KiB, GB, ... behind it.

    Whole numbers are exact. Raises `LLMHWError` for anything else, and for what is below `least`.

    >>> parse_number("weights", "7B"), parse_number("memory", "80GiB"), parse_number("share", "0.5")
    (7000000000, 85899345920, 0.5)
    """
    from decimal import Decimal
    from re import fullmatch

    found = fullmatch(_NUMBER, text.strip().lower().replace("_", ""))
    if not found:
        raise LLMHWError(f"{argument}={shown(text)} must be a number, such as 4096, 1.5e12 or 15T")
    digits, exponent, prefix, binary, billions = found.groups()
    factor = (1024 if binary else 1000) ** _PREFIXES[prefix or billions or ""]
    value = Decimal(digits + (exponent or "")) * factor  # exact: 2.3 T is 2300000000000, not one less
    if not least <= value <= Decimal(MOST) or 0 < value < Decimal(LEAST):
        raise LLMHWError(f"{argument}={shown(text)} must be a number of at least {least:g} and at most {MOST:g}")
    return int(value) if value == value.to_integral_value() else float(value)


def parse_count(argument: str, text: str) -> float:
    """A number above 0 as a person writes it: with an exponent, or with K, M, B or T behind it.

    >>> parse_count("tokens", "15T"), parse_count("tokens", "1e9"), parse_count("tokens", "300 b")
    (15000000000000.0, 1000000000.0, 300000000000.0)
    """
    try:
        value = float(parse_number(argument, text))
    except LLMHWError:
        value = 0.0
    counted = not text.strip()[-2:].isalpha()  # 15 T, and not 15 TB, which is of bytes
    if not (value > 0 and counted):
        raise LLMHWError(f"{argument}={shown(text)} must be a number above 0, such as 15e12 or 15T")
    return value


def finite(text: str) -> float | None:
    """The finite number that a cell of a table holds; None if it holds none.

    >>> finite("1e3"), finite("1_000"), finite("inf"), finite("8 GPUs")
    (1000.0, None, None, None)
    """
    try:
        value = float(text)
    except ValueError:
        return None
    # float() also reads "1_000", "nan", "inf" and the digits of other scripts
    return value if math.isfinite(value) and "_" not in text and text.isascii() else None


# How much two names look alike, from 0 to 1, for one to be suggested for the other.
_ALIKE = 0.72


def nearest(word: str, choices: Iterable[str], most: int = 4) -> list[str]:
    """The known names that look most like `word`, best first; those of its family, with the same first letters, lead.

    >>> nearest("lama-3-8b", ["llama-3-8b", "llama-3-70b", "gemma-7b"]), nearest("lfm2", ["olmo2", "glm"])
    (['llama-3-8b', 'llama-3-70b'], [])
    """
    from difflib import SequenceMatcher
    from re import match

    def family(name: str) -> str:
        found = match("[a-z]+", name)
        return found.group() if found else name

    wanted = word[:100].casefold()  # a long word takes long
    matcher = SequenceMatcher(b=wanted)

    def alike(name: str) -> float:
        """How much they look alike: as wholes, or, nearly as much, the word and as many letters of the name."""
        matcher.set_seq1(name)
        whole = matcher.ratio() if matcher.real_quick_ratio() >= _ALIKE else 0.0
        if len(wanted) == len(name) > 2 and (
            sorted(wanted) == sorted(name) or sum(a != b for a, b in zip(wanted, name, strict=True)) == 1
        ):
            return max(whole, 0.85)  # two letters changed places, or one is another
        matcher.set_seq1(name[: len(wanted) + 1])
        begun = matcher.ratio() if len(wanted) > 1 and matcher.quick_ratio() >= _ALIKE else 0.0
        longer = 0.75 if len(name) > 2 and wanted.startswith(name) else 0.0
        return max(whole, 0.95 * begun, longer)

    scores = []
    for place, choice in enumerate(choices):
        name = choice.casefold()
        score = alike(name)
        if score >= _ALIKE:
            begins = next((i for i, (a, b) in enumerate(zip(wanted, name, strict=False)) if a != b), len(wanted))
            scores.append((family(name) != family(wanted), -score, -begins, place, choice))
    return list(dict.fromkeys(choice for *_, choice in sorted(scores)))[:most]


def unknown_name(argument: str, value: object, choices: Iterable[str], see: str = "") -> LLMHWError:
    """The error for a name that is not known; suggests the nearest ones."""
    names = list(choices)
    close = nearest(value, names) if isinstance(value, str) else []
    if close:
        hint = f"did you mean {', '.join(close)}?"
    elif len(names) <= 16:
        hint = f"use one of {', '.join(names)}"
    else:
        hint = see or f"there are {len(names)} to choose from"
    return LLMHWError(f"{argument}={shown(value)} is not known; {hint}")


def check_choice(argument: str, value: str, choices: Iterable[str]) -> str:
    """`value` if it is one of the choices, else a clear error.

    >>> check_choice("zero", "4", ["0", "1"])
    Traceback (most recent call last):
    llmhw.units.LLMHWError: zero='4' is not known; use one of 0, 1
    """
    names = list(choices)
    if not isinstance(value, str) or value not in names:
        raise unknown_name(argument, value, names)
    return value


def check_count(argument: str, value: Any, least: int = 1, most: int = MOST_WHOLE) -> int:
    """`value` as an int of at least `least`, else a clear error.

    >>> check_count("batch", -1)
    Traceback (most recent call last):
    llmhw.units.LLMHWError: batch=-1 must be a whole number of at least 1
    """
    if type(value) is int:  # the usual case, asked in loops
        whole = True
    else:
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if isinstance(value, float) and value.is_integer():
            value, whole = int(value), True
    if not whole or not least <= value <= most:
        upper = f" and at most {most:,}" if whole and value > most else ""
        raise LLMHWError(f"{argument}={shown(value)} must be a whole number of at least {least}{upper}")
    return int(value)


def check_number(argument: str, value: Any, least: float = 0.0, *, most: float = MOST, above: bool = False) -> float:
    """`value` as a finite float within its bounds, else a clear error; `above`: `least` itself is not allowed.

    >>> check_number("rate", 0, above=True)
    Traceback (most recent call last):
    llmhw.units.LLMHWError: rate=0 must be a number above 0
    """
    number = type(value) is float or (isinstance(value, Real) and not isinstance(value, bool))
    if not number or not least <= value <= most or (above and value == least):
        rule = f"above {least:g}" if above else f"of at least {least:g}"
        upper = f" and at most {most:g}" if most < MOST or (number and value > most) else ""
        raise LLMHWError(f"{argument}={shown(value)} must be a number {rule}{upper}")
    if 0 < abs(value) < LEAST:
        raise LLMHWError(
            f"{argument}={shown(value)} is too close to 0; give {0 if least <= 0 else least:g} or more than {LEAST:g}"
        )
    return float(value)


def _divisors(n: int) -> tuple[list[int], bool]:
    """The divisors of n from 1 up, and whether these are all; of a large n only those that are found soon."""
    most = min(math.isqrt(n), 10**5)
    small = [k for k in range(1, most + 1) if n % k == 0]
    if most < math.isqrt(n):
        return small, False
    return [*small, *(n // k for k in reversed(small) if k * k != n)], True


def indivisible(divisor: str, d: int, number: str, n: int) -> str:
    """What is wrong if d does not divide n, and the values that would."""
    found, complete = _divisors(int(n))
    fitting = [str(k) for k in found]
    if len(fitting) > 12 or not complete:
        fitting = [*fitting[:10], "...", str(n)]
    return f"{divisor}={d} does not divide {number}={n}; use one of {', '.join(fitting)}"


def check_divides(divisor: str, d: int, number: str, n: int) -> None:
    """An error unless d divides n; it lists the values that would.

    >>> check_divides("tp", 3, "heads", 32)
    Traceback (most recent call last):
    llmhw.units.LLMHWError: tp=3 does not divide heads=32; use one of 1, 2, 4, 8, 16, 32
    """
    if d < 1 or n % d:
        raise LLMHWError(indivisible(divisor, d, number, n))
