"""Whether an answer is right, and if not, which mistake would give it. Nothing here tells the answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmhw.units import LLMHWError, shown

if TYPE_CHECKING:
    from llmhw.exercises.base import Exercise

# A mistake is recognised when the answer is within this of what it gives, or within the exercise's tolerance if less.
_NEAR = 0.005
_MOST_ENTRIES = 1000

_BINARY = {"KiB": (2**10, "kB", 1e3), "MiB": (2**20, "MB", 1e6), "GiB": (2**30, "GB", 1e9), "TiB": (2**40, "TB", 1e12)}
_DECIMAL = {decimal: (size, binary, of) for binary, (of, decimal, size) in _BINARY.items()}
_TIMES = {"s": 1, "seconds": 1, "minutes": 60, "h": 3600, "hours": 3600, "days": 86400, "years": 365.25 * 86400}
_POWERS = {1000: "3", 10**6: "6", 10**9: "9", 10**12: "12"}


def wanted(exercise: Exercise, given: Mapping[str, Any]) -> str:
    """What an answer must be, in words: "one number, in GiB"."""
    return exercise.form or _form(exercise, exercise.answer(**given))


def _form(exercise: Exercise, right: Any) -> str:
    unit = f", in {exercise.unit}" if exercise.unit else ""
    if isinstance(right, bool):
        return "True or False"
    if isinstance(right, str):
        return f"one of {', '.join(map(repr, exercise.choices))}" if exercise.choices else "a text"
    if isinstance(right, Mapping):
        return f"a dict with the keys {', '.join(map(repr, right))}{unit}"
    if isinstance(right, (list, tuple)):
        return f"a list of {len(right)}{unit}"
    return f"one {'whole ' if exercise.tolerance == 0 else ''}number{unit}"


class FormError(Exception):
    """An answer that is not of the form that is wanted; its text says so."""


def judged(exercise: Exercise, answer: Any, given: Mapping[str, Any]) -> str:
    """What is wrong with an answer, one line; "" if it is right. Raises `FormError`."""
    if exercise.accept:
        return _accepted(exercise, answer, given)
    right = exercise.answer(**given)
    try:
        answer = _plain(answer)
        strange = _strange(answer, right)
        same = not strange and _same(answer, right, exercise.tolerance)
    except Exception:  # an object whose own methods fail
        strange = f"{shown(answer)} cannot be judged"
    if strange:
        raise FormError(f"{strange}; give {wanted(exercise, given)}")
    if same:
        return ""
    for slip, wrong in slips(exercise, right, given):
        if _same(answer, wrong, min(_NEAR, exercise.tolerance or _NEAR)):
            return f"{_off(answer, right)}. Likely slip: {slip}"
    return _apart(answer, right, exercise)


def _accepted(exercise: Exercise, answer: Any, given: Mapping[str, Any]) -> str:
    assert exercise.accept is not None
    try:
        said = exercise.accept(answer, **given)
    except LLMHWError as error:  # it says what is wrong and the way out
        said = str(error)
    except Exception as error:
        if callable(answer) and not isinstance(answer, type):
            return f"not yet: your function raised {type(error).__name__}: {shown(str(error))}"
        raise FormError(f"{shown(answer)} cannot be judged; give {exercise.form}") from None
    return f"not yet: {said}" if said else ""


def slips(exercise: Exercise, right: Any, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Mistakes and what they give: the exercise's own, then the common ones, which are factors of a number."""
    for name, wrong in exercise.slips.items():
        if callable(wrong):
            yield name, _plain(wrong(**given))
        elif isinstance(wrong, str):
            yield name, wrong
        else:
            yield name, _scaled(right, wrong)
    if _number(right) and right:
        devices = exercise.devices(**given) if callable(exercise.devices) else exercise.devices
        for name, factor in common_slips(exercise.unit, devices):
            yield name, right * factor


def common_slips(unit: str, devices: float = 0) -> Iterator[tuple[str, float]]:
    """Mistakes that are made everywhere, and the factor by which they miss, likeliest first.

    >>> [round(factor, 3) for name, factor in common_slips("GiB") if "GB" in name]
    [1.074]
    """
    of, _, per = unit.partition("/")
    size, other, theirs = (_BINARY | _DECIMAL).get(of, (0, "", 0))
    if size:
        yield f"{other} in place of {of}: {theirs / size:.3f} {of} each", size / theirs
    if devices and devices != 1:
        yield "of one device, and of all is asked", 1 / devices
        yield "of all devices, and of one is asked", devices
    yield from ((f"{_twice(of, bool(per))}", factor) for factor in (2, 1 / 2))
    if size or of in ("bytes", "B"):
        yield "bits in place of bytes", 8
        yield "bytes taken for bits", 1 / 8
    if of in _TIMES:
        yield from (
            (f"{name} in place of {of}", _TIMES[of] / _TIMES[name]) for name in ("s", "minutes", "hours", "days")
        )
    if unit in ("%", "fraction"):
        yield "a share is 100 times smaller than its percent", 1 / 100 if unit == "%" else 100
    for step, power in _POWERS.items():
        yield from ((f"a prefix: 10^{power} too many or too few", factor) for factor in (step, 1 / step))
    yield from (("1024 in place of 1000, or the reverse", factor) for factor in (1024, 1 / 1024))


def _twice(unit: str, rate: bool) -> str:
    """What is forgotten or counted twice where an answer is off by 2."""
    if unit in ("FLOP", "TFLOP", "PFLOP", "GFLOP"):
        return "the sparse peak is twice the dense one" if rate else "a multiplication and an addition are 2 FLOP"
    if unit in _BINARY or unit in _DECIMAL or unit in ("bytes", "B"):
        if rate:
            return "one direction of a link, or both"
        return "K and V, gradients beside weights, or 4 bytes and 2: one of a pair is left out or counted twice"
    return "something is counted twice, or once in place of twice"


# -- comparing --------------------------------------------------------------------------------


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Scalars of NumPy, PyTorch and the like as Python's, arrays as lists; all else as it is."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "tolist"):
        return value.tolist() if getattr(value, "size", 0) != 1 or getattr(value, "ndim", 0) else value.item()
    if isinstance(value, complex) or not hasattr(value, "__float__"):
        return value
    return float(value)


def _strange(answer: Any, right: Any) -> str:
    """What keeps an answer from being compared at all; "" if nothing does."""
    if isinstance(right, bool):
        return "" if isinstance(answer, bool) else f"{shown(answer)} is neither true nor false"
    if isinstance(right, str):
        return "" if isinstance(answer, str) else f"{shown(answer)} is not a text"
    if isinstance(right, Mapping):
        if not isinstance(answer, Mapping):
            return f"{shown(answer)} is not a dict"
        missing = [name for name in right if name not in answer]
        return f"{', '.join(map(repr, missing))} {'is' if len(missing) == 1 else 'are'} missing" if missing else ""
    if isinstance(right, (list, tuple)):
        if not isinstance(answer, (list, tuple)):
            return f"{shown(answer)} is not a list"
        return "" if len(answer) == len(right) else f"a list of {len(answer):,}"
    if isinstance(answer, str):
        return f"{shown(answer)} is a text"
    if isinstance(answer, (list, tuple, set, dict)):
        return f"{len(answer):,} values in one {type(answer).__name__}"
    if callable(answer):
        return f"{shown(answer)} is a function; call it"
    if not _number(answer):
        total = " (its total is one)" if hasattr(answer, "total") else ""
        return f"{shown(answer, most=40)} is not a number{total}"
    return "" if _finite(answer) else f"{shown(answer)} is not a finite number"


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


def _same(answer: Any, right: Any, tolerance: float) -> bool:
    """Whether two values agree; dicts by the right one's keys, texts without their case."""
    answer = _plain(answer)
    if isinstance(right, bool) or isinstance(answer, bool):
        return answer is right
    if isinstance(right, str):
        return isinstance(answer, str) and _bare(answer) == _bare(right)
    if isinstance(right, Mapping):
        return isinstance(answer, Mapping) and all(
            name in answer and _same(answer[name], value, tolerance) for name, value in right.items()
        )
    if isinstance(right, (list, tuple)):
        return (
            isinstance(answer, (list, tuple))
            and len(answer) == len(right)
            and all(_same(a, r, tolerance) for a, r in zip(answer, right, strict=True))
        )
    if not _number(answer) or not _finite(answer):
        return False
    return bool(abs(answer - right) <= tolerance * abs(right) + 1e-9 * abs(right))


def _bare(text: str) -> str:
    return " ".join(text.casefold().replace("-", " ").replace("_", " ").split()).strip(" .")


def _scaled(right: Any, factor: float) -> Any:
    if isinstance(right, Mapping):
        return {name: _scaled(value, factor) for name, value in right.items()}
    if isinstance(right, (list, tuple)):
        return [_scaled(value, factor) for value in right]
    return right * factor


# -- saying -----------------------------------------------------------------------------------


def _off(answer: Any, right: Any) -> str:
    """By how much, where a mistake is known."""
    if not (_number(answer) and _number(right)) or right == 0:
        return "not right"
    ratio = answer / right
    if ratio <= 0:
        return "not right"
    ratio = max(ratio, 1 / ratio)
    return f"off by {100 * (ratio - 1):.0f} %" if ratio < 1.5 else f"off by a factor of {_figures(ratio)}"


def _figures(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 or abs(ratio - round(ratio)) < 0.02 else f"{ratio:.1f}"


def _apart(answer: Any, right: Any, exercise: Exercise) -> str:
    """How far an answer is off, too coarsely to give the right one away."""
    if isinstance(right, Mapping):
        wrong = [str(name) for name, value in right.items() if not _same(answer[name], value, exercise.tolerance)]
        return f"wrong: {', '.join(wrong)} ({len(right) - len(wrong)} of {len(right)} are right)"
    if isinstance(right, (list, tuple)):
        agree = sum(_same(a, r, exercise.tolerance) for a, r in zip(answer, right, strict=True))
        return f"wrong: {agree} of {len(right)} are right"
    if isinstance(right, (bool, str)):
        known = {_bare(choice) for choice in exercise.choices}
        if isinstance(right, str) and known and _bare(answer) not in known:
            return f"{shown(answer)} is not among the choices; give {_form(exercise, right)}"
        return "wrong"
    if right == 0 or answer == 0 or (answer < 0) != (right < 0):
        return "wrong, of the wrong sign or 0" if right else "wrong"
    far = "too large" if abs(answer) > abs(right) else "too small"
    decades = abs(math.log10(abs(answer)) - math.log10(abs(right)))
    if decades < math.log10(1.1):
        return f"{far}, but close: by less than 10 %" + (" (it must be exact)" if exercise.tolerance == 0 else "")
    if decades < math.log10(2):
        return f"{far}, by less than a factor of 2"
    if decades < 1:
        return f"{far}, by a factor between 2 and 10"
    return f"{far}, by {round(decades)} {'order' if round(decades) == 1 else 'orders'} of magnitude"


def judge_cases(
    function: Callable[..., Any], cases: Sequence[tuple[tuple[Any, ...], Any]], tolerance: float = 1e-6
) -> str:
    """For `accept`: "" if a function that a student wrote returns what is right in each case, else where it does not.

    cases   (arguments, what is right)

    >>> judge_cases(lambda n: n * 2, [((1,), 2), ((3,), 9)])
    'for (3,) it returns another value than it should'
    """
    if not callable(function):
        raise TypeError("not a function")
    for arguments, right in cases:
        found = function(*arguments)
        if not _same(found, right, tolerance):
            return f"for {shown(arguments)} it returns {'nothing' if found is None else 'another value than it should'}"
    return ""
