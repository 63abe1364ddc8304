"""Mappings and lists that refuse to be changed: facts that one process shares."""

from __future__ import annotations

from typing import Any, NoReturn

from llmhw.units import LLMHWError


def _refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
    raise LLMHWError("a fact of the catalog cannot be changed; change a copy of it, as copy.deepcopy makes one")


class FrozenDict(dict[Any, Any]):
    """A dict that cannot be changed. Equal to a plain one; a copy, shallow or deep, is a plain one.

    >>> FrozenDict(a=1) == {"a": 1}, FrozenDict(a=1) | {"b": 2}
    (True, {'a': 1, 'b': 2})
    """

    __slots__ = ()
    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset((name, _hashed(value)) for name, value in self.items()))

    def __copy__(self) -> dict[Any, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return {name: _copied(value, memo) for name, value in self.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


class FrozenList(list[Any]):
    """A list that cannot be changed; see `FrozenDict`."""

    __slots__ = ()
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(_hashed(value) for value in self))

    def __copy__(self) -> list[Any]:
        return list(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return [_copied(value, memo) for value in self]

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenList, (list(self),)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    from copy import deepcopy

    return deepcopy(value, memo)


def _hashed(value: Any) -> int:
    return hash(frozen(value))


def frozen(value: Any) -> Any:
    """The value with every dict and list in it frozen.

    >>> frozen({"a": [1]})["a"].append(2)
    Traceback (most recent call last):
    llmhw.units.LLMHWError: a fact of the catalog cannot be changed; change a copy of it, as copy.deepcopy makes one
    """
    if type(value) in (FrozenDict, FrozenList):
        return value
    if isinstance(value, dict):
        return FrozenDict({name: frozen(entry) for name, entry in value.items()})
    if isinstance(value, list):
        return FrozenList(frozen(entry) for entry in value)
    if type(value) is tuple:
        return tuple(frozen(entry) for entry in value)
    return value
