"""What a public function's arguments must be, checked once where they come in.

`@checked` reads the function's annotations: `int` is a whole number of at least 1, or of at least 0 where that is the
default; `float` a finite number of at least 0, `bool` a flag, `str` a name, a class an object of it or the name of one;
`Any` is left alone, as what may be an array. Bounds that differ are given beside it. `check_made` does the same for the
fields of a dataclass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from typing import Any, TypeVar, cast, overload

from llmhw.units import MOST_LETTERS, MOST_WHOLE, LLMHWError, check_count, check_number, shown

F = TypeVar("F", bound=Callable[..., Any])
Check = Callable[[str, Any], Any]

MOST_ITEMS = 10**7


# -- one value --------------------------------------------------------------------------------


def check_flag(argument: str, value: Any) -> bool:
    """`value` if it is True or False, else a clear error.

    >>> check_flag("causal", 1)
    Traceback (most recent call last):
    llmhw.units.LLMHWError: causal=1 must be True or False
    """
    if not isinstance(value, bool):
        raise LLMHWError(f"{argument}={shown(value)} must be True or False")
    return value


def check_text(argument: str, value: Any, *, empty: bool = False) -> str:
    """`value` if it is a text that a name can be: not empty, not long, of characters that print.

    empty   whether it may be empty

    >>> check_text("model", "")
    Traceback (most recent call last):
    llmhw.units.LLMHWError: model='' must be a name of 1 to 300 letters
    """
    if not isinstance(value, str) or len(value) > MOST_LETTERS or not (empty or value.strip()):
        raise LLMHWError(f"{argument}={shown(value)} must be a name of {0 if empty else 1} to {MOST_LETTERS} letters")
    if not value.isprintable():
        raise LLMHWError(f"{argument}={shown(value)} must be a name without control characters")
    return value


def check_prose(argument: str, value: Any) -> str:
    """`value` if it is a text, which may be empty or long, as a note is."""
    if not isinstance(value, str):
        raise LLMHWError(f"{argument}={shown(value)} must be a text")
    return value


def check_mapping(argument: str, value: Any) -> Mapping[Any, Any]:
    """`value` if it is a mapping, as a dict is."""
    if not isinstance(value, Mapping):
        raise LLMHWError(f"{argument}={shown(value)} must be a dict")
    return value


def check_items(argument: str, value: Any, check: Check | None = None, *, empty: bool = True) -> tuple[Any, ...]:
    """The items of a sequence as a tuple, each checked; a text, bytes or a mapping is no sequence of items.

    >>> check_items("layers", "01")
    Traceback (most recent call last):
    llmhw.units.LLMHWError: layers='01' must be a sequence, such as a list
    """
    from itertools import islice

    if isinstance(value, (str, bytes, bytearray, Mapping)) or not isinstance(value, Iterable):
        raise LLMHWError(f"{argument}={shown(value)} must be a sequence, such as a list")
    try:
        items = tuple(islice(value, MOST_ITEMS))
    except TypeError:  # an array without dimensions says that it can be iterated over
        raise LLMHWError(f"{argument}={shown(value)} must be a sequence, such as a list") from None
    if not (items or empty):
        raise LLMHWError(f"{argument}={shown(value)} must hold at least one item")
    return tuple(check(f"{argument}[{i}]", item) for i, item in enumerate(items)) if check else items


def check_callable(argument: str, value: Any) -> Any:
    """`value` if it can be called."""
    if not callable(value):
        raise LLMHWError(f"{argument}={shown(value)} must be a function")
    return value


def check_object(argument: str, value: Any, *names: str) -> Any:
    """`value` if it is an object of a class of one of these names, which need not be loaded for that.

    >>> check_object("job", "llama-3-8b", "TrainingJob")
    Traceback (most recent call last):
    llmhw.units.LLMHWError: job='llama-3-8b' must be a TrainingJob; make one with it
    """
    if not any(made.__name__ in names for made in type(value).__mro__):
        kinds = " or a ".join(names)
        raise LLMHWError(f"{argument}={shown(value)} must be a {kinds}; make one with it")
    return value


# -- a whole function -------------------------------------------------------------------------

_KINDS: dict[str, Check | None] = {
    "int": check_count,
    "float": check_number,
    "bool": check_flag,
    "str": check_text,
}
_SEQUENCES = ("Iterable", "Sequence", "list", "tuple", "Collection", "Actions", "Held", "Layers")
# Open on purpose: what takes them says itself what they may be.
_OPEN = ("Any", "object", "Path", "PathLike", "Source", "Lengths", "Arrivals", "ArrayLike")


# Class -> what finds an object of it by name, and lets an object pass; the rooms that have the names enter themselves.
_FINDERS: dict[str, Check] = {}


def found_by_name(kind: str, find: Check) -> None:
    """Let `@checked` take names where an object of this class is asked for."""
    _FINDERS[kind] = find


def _parts(annotation: str) -> list[str]:
    """The members of a union: `int | Mapping[str, int | None]` has two."""
    depth, parts = 0, [""]
    for letter in annotation:
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def check_of(annotation: str) -> Check | None:
    """The check that an annotation asks for; None for no check."""
    parts = _parts(annotation)
    optional = "None" in parts
    parts = [part for part in parts if part != "None"]
    names = [part.partition("[")[0].rpartition(".")[2] for part in parts]
    check: Check | None
    finder = next((_FINDERS[name] for name in names if name in _FINDERS), None)
    if finder:
        check = finder
    elif len(parts) != 1 and set(names) != {"int", "float"}:
        # a name or an object, an item or many: what takes either says itself what it takes
        return None
    else:
        check = _check_of_one(names[-1], parts[-1].partition("[")[2].rpartition("]")[0])
    return _or_none(check) if optional and check else check


def _or_none(check: Check) -> Check:
    return lambda argument, value: None if value is None else check(argument, value)


def _check_of_one(name: str, inside: str) -> Check | None:
    """That of one class; `inside` are the brackets behind it."""
    if name in _KINDS:
        return _KINDS[name]
    if name in _OPEN or (name[:1].islower() and name not in (*_SEQUENCES, "dict")):
        return None
    if name in _SEQUENCES:
        item = inside.removesuffix(", ...") if inside.endswith(", ...") or name != "tuple" else ""
        return partial(check_items, check=_KINDS.get(item))
    if name in ("Mapping", "dict"):
        return check_mapping
    if name == "Callable":
        return check_callable
    if len(name) == 1:  # a type variable
        return None
    # most objects are of that very class
    return lambda argument, value: value if type(value).__name__ == name else check_object(argument, value, name)


def whole(least: int = 0, most: int = MOST_WHOLE) -> Check:
    """The check of a whole number within these bounds."""
    return partial(check_count, least=least, most=most)


def number(least: float = 0.0, **bounds: Any) -> Check:
    """The check of a number within these bounds, as `llmhw.units.check_number` has them."""
    return partial(check_number, least=least, **bounds)


def share(*, above: bool = False) -> Check:
    """The check of a part of a whole; `above`: 0 is none."""
    return partial(check_number, most=1.0, above=above)


def _checks(annotations: Mapping[str, str], bounds: Mapping[str, Check | None]) -> dict[str, Check]:
    found = {}
    for name, annotation in annotations.items():
        check = bounds[name] if name in bounds else check_of(annotation)
        if check:
            given = name in bounds and "None" in _parts(annotation)
            found[name] = _or_none(check) if given else check
    return found


@overload
def checked(function: F, /) -> F: ...
@overload
def checked(**bounds: Check | None) -> Callable[[F], F]: ...
def checked(function: Any = None, /, **bounds: Check | None) -> Any:
    """Check a function's arguments by their annotations before it runs.

    bounds   for arguments that need another check than their annotation says; None: no check

    >>> @checked
    ... def double(n: int) -> int:
    ...     return 2 * n
    >>> double("x")
    Traceback (most recent call last):
    llmhw.units.LLMHWError: n='x' must be a whole number of at least 1
    """
    if function is None:
        return partial(_checked, bounds)
    return _checked(bounds, function)


def _lenient(function: Any) -> dict[str, Check | None]:
    """Whole numbers whose default is 0 may be 0, and texts whose default is empty may be empty."""
    code, last = function.__code__, function.__defaults__ or ()
    placed = code.co_varnames[code.co_argcount - len(last) : code.co_argcount]
    defaults = dict(zip(placed, last, strict=True)) | (function.__kwdefaults__ or {})
    empty = {name: partial(check_text, empty=True) for name, value in defaults.items() if value == ""}
    zero = [name for name, value in defaults.items() if type(value) is int and value == 0]
    return empty | {name: whole(0) for name in zero if function.__annotations__.get(name) == "int"}


def _checked(bounds: Mapping[str, Check | None], function: F) -> F:
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    named: dict[str, Check] = {}
    placed: list[tuple[int, str, Check]] = []

    def prepare() -> None:  # at the first call, so that an import does not wait for it
        annotations = {name: str(function.__annotations__[name]) for name in names if name in function.__annotations__}
        named.update(_checks(annotations, _lenient(function) | dict(bounds)))
        placed.extend((i, name, named[name]) for i, name in enumerate(names[: code.co_argcount]) if name in named)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not named:
            prepare()
        if args:
            values = list(args)
            for i, name, check in placed:
                if i < len(args):
                    values[i] = check(name, values[i])
            args = tuple(values)
        for name in kwargs:
            if name in named:
                kwargs[name] = named[name](name, kwargs[name])
        return function(*args, **kwargs)

    return cast(F, call)


_MADE: dict[type, dict[str, Check]] = {}


def check_made(thing: Any, **bounds: Check | None) -> None:
    """Check the fields of a dataclass by their annotations; `bounds`, the same for all of a class, as in `checked`."""
    checks = _MADE.get(type(thing))
    if checks is None:
        from dataclasses import fields

        annotations = {entry.name: str(entry.type) for entry in fields(thing)}
        checks = _MADE[type(thing)] = _checks(annotations, bounds)
    for name, check in checks.items():
        object.__setattr__(thing, name, check(name, getattr(thing, name)))
