"""Printing, checks and the arithmetic that works on numbers and arrays alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmhw import units
from llmhw.units import GIB, LLMHWError, format_quantity


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "bytes", "0 B"),
        (1023, "bytes", "1,023 B"),
        (2 * GIB, "bytes", "2.00 GiB"),
        (80 * GIB, "bytes", "80.0 GiB"),
        (140e9, "file_bytes", "140 GB"),
        (3.35e12, "bytes/s", "3,350 GB/s"),
        (989.4e12, "FLOP/s", "989 TFLOP/s"),
        (6.3e24, "FLOP", "6,300,000 EFLOP"),
        (1.5e12, "FLOP", "1.50 TFLOP"),
        (671e9, "count", "671 B"),
        (0.0201, "seconds", "20.1 ms"),
        (3e-10, "seconds", "0.300 ns"),
        (86400 * 3, "seconds", "3.00 days"),
        (12.345, "dollars", "$12.35"),
        (1234567, "dollars", "$1,234,567"),
        (0.397, "fraction", "39.7 %"),
        (295.34, "FLOP/byte", "295 FLOP/byte"),
        (None, "bytes", "unknown"),
    ],
)
def test_format(value: float | None, unit: str, text: str) -> None:
    assert format_quantity(value, unit) == text


def test_numbers_and_arrays_take_the_same_path() -> None:
    array = np.array([1, 5, 9])
    assert units.maximum(2, 3.5) == 3.5
    assert units.maximum(array, 4).tolist() == [4, 5, 9]
    assert units.minimum(array, 4).tolist() == [1, 4, 4]
    assert units.ceil_div(array, 4).tolist() == [1, 2, 3]
    assert units.ceil_div(10**30 + 1, 10) == 10**29 + 1
    assert units.where(array > 4, 1, 0).tolist() == [0, 1, 1]
    assert units.minimum(np.float64(2.0), 3) == 2.0


def test_an_array_is_told_by_what_every_numpy_has() -> None:
    class Old(np.ndarray):  # NumPy 1's arrays have no `__array_namespace__`
        @property
        def __array_namespace__(self) -> None:
            raise AttributeError

    array = np.array([1, 5, 9]).view(Old)
    assert not hasattr(array, "__array_namespace__")
    assert units.maximum(array, 4).tolist() == [4, 5, 9]
    assert units.where(array > 4, array, 0).tolist() == [0, 5, 9]


@pytest.mark.parametrize("value", [-1, 0, 1.5, "3", True, None, float("nan")])
def test_counts_refuse_what_is_not_a_count(value: object) -> None:
    with pytest.raises(LLMHWError, match=r"batch=.* must be a whole number of at least 1"):
        units.check_count("batch", value)


def test_counts_take_whole_floats() -> None:
    assert units.check_count("batch", 4.0) == 4


@pytest.mark.parametrize(
    ("text", "value"),
    [("15e12", 15e12), ("15T", 15e12), (" 2.3 t ", 2.3e12), ("300B", 300e9), ("7m", 7e6), ("4K", 4e3), ("1_000", 1e3)],
)
def test_counts_as_people_write_them(text: str, value: float) -> None:
    assert units.parse_count("tokens", text) == value


@pytest.mark.parametrize(
    "text", ["", "T", "-1", "-5B", "0", "many", "1e", "1 5", "15TB", "nan", "inf", "1e999999", "1,5"]
)
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(LLMHWError) as raised:
        units.parse_count("tokens", text)
    assert str(raised.value) == f"tokens={text!r} must be a number above 0, such as 15e12 or 15T"


def test_choices_suggest_the_nearest() -> None:
    with pytest.raises(LLMHWError, match=r"recompute='ful' is not known; did you mean full\?"):
        units.check_choice("recompute", "ful", ("none", "selective", "full"))


def test_divisors_are_listed() -> None:
    with pytest.raises(LLMHWError, match="tp=3 does not divide heads=32; use one of 1, 2, 4, 8, 16, 32"):
        units.check_divides("tp", 3, "heads", 32)
    units.check_divides("tp", 8, "heads", 32)


def test_divisors_of_a_large_number_are_found_soon() -> None:
    """A walk to the number would never end."""
    with pytest.raises(LLMHWError, match=r"tp=3 does not divide heads=1000000007; use one of 1, 1000000007$"):
        units.check_divides("tp", 3, "heads", 1_000_000_007)
    with pytest.raises(LLMHWError, match=r"use one of 1, 2, 4, 5, 8, 10, 16, 20, 25, 32, \.\.\., 1000000000000000000$"):
        units.check_divides("devices_per_node", 3, "devices", 10**18)
    with pytest.raises(LLMHWError, match=r"use one of 1, \.\.\., 999999999999999989$"):
        units.check_divides("pp", 2, "layers", 999_999_999_999_999_989)  # a prime


@pytest.mark.parametrize("n", [1, 2, 12, 36, 97, 5040, 99_999])
def test_divisors_are_all_there(n: int) -> None:
    assert units._divisors(n) == ([k for k in range(1, n + 1) if n % k == 0], True)


@pytest.mark.parametrize(
    ("text", "value"),
    [("7B", 7 * 10**9), ("80GiB", 80 * 2**30), ("80 gb", 8 * 10**10), ("1.5e12", 15 * 10**11), ("0.5", 0.5),
     (".5k", 500), ("0", 0), ("1_000", 1000), ("2.3T", 23 * 10**11), ("12345678901234567890", 12345678901234567890)],
)  # fmt: skip
def test_numbers_as_people_write_them(text: str, value: float) -> None:
    found = units.parse_number("weights", text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text", ["", "B", "-1", "nan", "inf", "1e999", "1e-40", "١٢", "1,5", "0x10", "1e", "1 2", "1QB", "--3", "9" * 5000]
)
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(LLMHWError, match=r"^weights='.*must be a number"):
        units.parse_number("weights", text)


def test_digits_of_other_scripts_are_no_numbers() -> None:
    assert units.finite("١٢") is None
    assert units.finite("１２") is None
    with pytest.raises(LLMHWError):
        units.parse_count("tokens", "١٢")


@pytest.mark.parametrize("value", [10**19, 10**30, 10**5000, 1e300, float("inf")], ids=units.shown)
def test_no_count_is_beyond_what_an_array_holds(value: float) -> None:
    with pytest.raises(LLMHWError, match=r"^batch=.* must be a whole number of at least 1"):
        units.check_count("batch", value)


@pytest.mark.parametrize(
    "value",
    [10**31, 1e308, 10**5000, float("inf"), float("nan"), "1", True, None, 1j, [1], np.zeros(2)],
    ids=units.shown,
)
def test_no_number_is_beyond_all_bounds(value: object) -> None:
    with pytest.raises(LLMHWError, match=r"^rate=.* must be a number of at least 0"):
        units.check_number("rate", value)


def test_no_number_is_next_to_nothing() -> None:
    with pytest.raises(LLMHWError, match=r"^rate=1e-320 is too close to 0; give 0 or more than 1e-30$"):
        units.check_number("rate", 1e-320)
    assert units.check_number("rate", 0) == 0


@pytest.mark.parametrize(
    "value", ["a\nb", "\x1b[31m", "\ud800", 10**5000, [[1] * 1000], np.zeros((3, 3)), "x" * 9999], ids=units.shown
)
def test_a_value_is_shown_on_one_short_line(value: object) -> None:
    text = units.shown(value)
    assert text.isprintable()
    assert len(text) <= 80


@pytest.mark.parametrize("value", [["full"], {}, None, np.zeros(2), 3, b"full"])
def test_a_choice_is_a_text(value: Any) -> None:
    with pytest.raises(LLMHWError, match=r"^recompute=.* is not known; use one of none, full$"):
        units.check_choice("recompute", value, ("none", "full"))


@pytest.mark.parametrize("exponent", range(10))
@pytest.mark.parametrize("digits", ["1", "2.5", "15"])
@pytest.mark.parametrize("form", ["{}e{}", "{}E{}", "{}e+{}", " {}e0{} "])
def test_a_count_with_an_exponent_of_one_digit(digits: str, exponent: int, form: str) -> None:
    text = form.format(digits, exponent)
    assert units.parse_count("tokens", text) == float(text)


@pytest.mark.parametrize("text", ["15TB", "15 GiB", "15 kb", "e9", "1e", "1ee9", "B"])
def test_bytes_are_no_count(text: str) -> None:
    with pytest.raises(LLMHWError, match=r"tokens='.*' must be a number above 0"):
        units.parse_count("tokens", text)
