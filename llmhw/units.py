"""Units, printing and argument checks: the one place where a number becomes text.

Inside the library everything is in base units: bytes, FLOP, seconds, dollars.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
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
    if _is_array(a, b):
        return _numpy("maximum", a, b)
    return a if a >= b else b


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two numbers, element by element for arrays.

    >>> minimum(2, 3)
    2
    """
    if _is_array(a, b):
        return _numpy("minimum", a, b)
    return a if a <= b else b


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
# Unit -> the steps it is written in, largest first; what is smaller than the last of them, and how that is called.
_STEPS: dict[str, tuple[Sequence[tuple[float, str]], float, str]] = {
    "bytes": (_BINARY, 1, "B"),
    "bytes/s": ((), GB, "GB/s"),
    "file_bytes": ((), GB, "GB"),
    "FLOP/s": ((), 1e12, "TFLOP/s"),
    "FLOP": ([(size, f"{prefix}FLOP") for size, prefix in _DECIMAL], 1, "FLOP"),
    "count": (_COUNT, 1, ""),
    "seconds": (_TIME, 1e-9, "ns"),
}


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
        return "unknown"
    if unit == "dollars":
        return f"${value:,.2f}" if abs(value) < 1000 else f"${value:,.0f}"
    if unit == "fraction":
        return f"{100 * value:.1f} %"
    steps, least, bare = _STEPS.get(unit, ((), 1, unit))
    size, suffix = next((step for step in steps if abs(value) >= step[0]), (least, bare))
    return f"{_significant(value / size)} {suffix}".rstrip()


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
    small = 0.0005  # what three decimals do not show
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


def text_table(rows: Iterable[Sequence[str]], *, right: int = 1, prose: bool = False) -> list[str]:
    """Lines of a table for the terminal; columns from number `right` on are aligned to the right.

    prose   the last column is prose, and aligned to the left all the same

    >>> text_table([("part", "GiB"), ("weights", "2.0")])
    ['part     GiB', 'weights  2.0']
    """
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numbers = range(right, len(widths) - prose)
    return [
        "  ".join(
            c.rjust(w) if i in numbers else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def plain(value: Any) -> Any:
    """A value as JSON has it: what has a `to_dict` as that, other dataclasses by field, an infinite number as None.

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
    return None if isinstance(value, float) and value == float("inf") else value


def plain_fields(thing: Any, *left_out: str) -> dict[str, Any]:
    """The fields of a dataclass as plain values, by name."""
    from dataclasses import fields

    return {field.name: plain(getattr(thing, field.name)) for field in fields(thing) if field.name not in left_out}


# -- argument checks --------------------------------------------------------------------------


def parse_count(argument: str, text: str) -> float:
    """A number above 0 as a person writes it: with an exponent, or with K, M, B or T behind it.

    >>> parse_count("tokens", "15T"), parse_count("tokens", "1.5e12"), parse_count("tokens", "300 b")
    (15000000000000.0, 1500000000000.0, 300000000000.0)
    """
    from decimal import Decimal, InvalidOperation

    plain = text.strip().upper()
    factor = next((int(size) for size, suffix in _COUNT if plain.endswith(suffix)), 1)
    try:
        # exact: 2.3 T is 2300000000000, not a token less
        value = float(Decimal(plain[:-1] if factor > 1 else plain) * factor)
    except (InvalidOperation, OverflowError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise LLMHWError(f"{argument}={text!r} must be a number above 0, such as 15e12 or 15T")
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
    # float() also reads "1_000", "nan" and "inf"
    return value if math.isfinite(value) and "_" not in text else None


def nearest(word: str, choices: Iterable[str], most: int = 4) -> list[str]:
    """The known names that look most like `word`, best first."""
    import difflib

    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), by_lower, n=most, cutoff=0.5)
    return [by_lower[name] for name in close]


def unknown_name(argument: str, value: object, choices: Iterable[str], see: str = "") -> LLMHWError:
    """The error for a name that is not known; suggests the nearest ones."""
    names = list(choices)
    close = nearest(str(value), names)
    if close:
        hint = f"did you mean {', '.join(close)}?"
    elif len(names) <= 16:
        hint = f"use one of {', '.join(names)}"
    else:
        hint = see or f"there are {len(names)} to choose from"
    return LLMHWError(f"{argument}={value!r} is not known; {hint}")


def check_choice(argument: str, value: str, choices: Iterable[str]) -> str:
    """`value` if it is one of the choices, else a clear error.

    >>> check_choice("zero", "4", ["0", "1"])
    Traceback (most recent call last):
    llmhw.units.LLMHWError: zero='4' is not known; use one of 0, 1
    """
    names = list(choices)
    if value not in names:
        raise unknown_name(argument, value, names)
    return value


def check_count(argument: str, value: Any, least: int = 1) -> int:
    """`value` as an int of at least `least`, else a clear error.

    >>> check_count("batch", -1)
    Traceback (most recent call last):
    llmhw.units.LLMHWError: batch=-1 must be a whole number of at least 1
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, float) and value.is_integer():
        value, whole = int(value), True
    if not whole or value < least:
        raise LLMHWError(f"{argument}={value!r} must be a whole number of at least {least}")
    return int(value)


def check_number(
    argument: str, value: Any, least: float = 0.0, *, most: float = float("inf"), above: bool = False
) -> float:
    """`value` as a finite float within its bounds, else a clear error; `above`: `least` itself is not allowed.

    >>> check_number("rate", 0, above=True)
    Traceback (most recent call last):
    llmhw.units.LLMHWError: rate=0 must be a number above 0
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not least <= value <= most or value == float("inf") or (above and value == least):
        rule = f"above {least:g}" if above else f"of at least {least:g}"
        upper = f" and at most {most:g}" if most < float("inf") else ""
        raise LLMHWError(f"{argument}={value!r} must be a number {rule}{upper}")
    return float(value)


def indivisible(divisor: str, d: int, number: str, n: int) -> str:
    """What is wrong if d does not divide n, and the values that would."""
    fitting = [str(k) for k in range(1, n + 1) if n % k == 0]
    if len(fitting) > 12:
        fitting = [*fitting[:10], "...", fitting[-1]]
    return f"{divisor}={d} does not divide {number}={n}; use one of {', '.join(fitting)}"


def check_divides(divisor: str, d: int, number: str, n: int) -> None:
    """An error unless d divides n; it lists the values that would.

    >>> check_divides("tp", 3, "heads", 32)
    Traceback (most recent call last):
    llmhw.units.LLMHWError: tp=3 does not divide heads=32; use one of 1, 2, 4, 8, 16, 32
    """
    if d < 1 or n % d:
        raise LLMHWError(indivisible(divisor, d, number, n))
