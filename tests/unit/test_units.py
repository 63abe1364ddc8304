"""Printing, checks and the arithmetic that works on numbers and arrays alike."""

from __future__ import annotations

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
