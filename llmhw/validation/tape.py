"""Arithmetic written down once and done again for other numbers, with all its slopes: what makes a fit fast.

A formula that is given a `Number` in place of a float works as it does with arrays, and each of its operations is
noted. All rows of a table are noted on one tape; operations of one depth are then done together, by NumPy, and one way
back gives the slope of every row by every constant. Needs NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy

_Array = numpy.ndarray
# Operation -> what it does, and its slopes by each operand. Comparisons and rounding have none.
_DONE: dict[str, tuple[Callable[..., Any], Callable[..., tuple[Any, ...]] | None]] = {
    "add": (numpy.add, lambda a, b, r: (1.0, 1.0)),
    "subtract": (numpy.subtract, lambda a, b, r: (1.0, -1.0)),
    "multiply": (numpy.multiply, lambda a, b, r: (b, a)),
    "divide": (numpy.divide, lambda a, b, r: (1 / b, -r / b)),
    "power": (numpy.power, lambda a, b, r: (b * r / a, r * numpy.log(numpy.maximum(a, 1e-300)))),
    "maximum": (numpy.maximum, lambda a, b, r: (a >= b, a < b)),
    "minimum": (numpy.minimum, lambda a, b, r: (a <= b, a > b)),
    "where": (lambda a, b, c: numpy.where(a != 0, b, c), lambda a, b, c, r: (0.0, a != 0, a == 0)),
    "remainder": (numpy.remainder, lambda a, b, r: (1.0, 0.0)),
    "log": (numpy.log, lambda a, r: (1 / a,)),
    **{
        name: (getattr(numpy, name), None)
        for name in "floor_divide ceil floor less less_equal greater greater_equal equal not_equal".split()
    },
}


class Number:
    """A number on a tape. It takes part in arithmetic as an array does; nothing may branch on it."""

    __slots__ = ("at", "tape")
    ndim = 1

    def __init__(self, tape: Tape, at: int) -> None:
        self.tape, self.at = tape, at

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **_: Any) -> Number:
        return self.tape.note("divide" if ufunc is numpy.true_divide else ufunc.__name__, *inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is numpy.where and type(args[0]) is not Number:
            return args[1] if args[0] else args[2]
        return self.tape.note(function.__name__, *args)

    def __bool__(self) -> bool:
        raise TypeError("what is on a tape must not decide what is done next: use where, minimum or maximum")

    def any(self) -> bool:
        """Whether it is not 0: taken so, since what is fitted is above 0."""
        return True

    def all(self) -> bool:
        """Whether nothing but this can be: never taken so, since other values may change it."""
        return False

    def __neg__(self) -> Number:
        return self.tape.note("subtract", 0.0, self)

    __hash__ = object.__hash__


def _operators() -> None:
    names = {
        "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "power",
        "floordiv": "floor_divide", "mod": "remainder",
    }  # fmt: skip
    compared = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}
    compared |= {"eq": "equal", "ne": "not_equal"}

    def made(name: str, swapped: bool) -> Callable[[Number, Any], Number]:
        if swapped:
            return lambda self, other: self.tape.note(name, other, self)
        return lambda self, other: self.tape.note(name, self, other)

    for short, name in (names | compared).items():
        setattr(Number, f"__{short}__", made(name, False))
    for short, name in names.items():
        setattr(Number, f"__r{short}__", made(name, True))


_operators()


class Tape:
    """What was done to numbers, in the order in which it was done.

    >>> tape = Tape()
    >>> x = tape.leaf("x", row=0)
    >>> run = tape.replay([numpy.maximum(3 * x, 5.0) + x], ["x"])
    >>> run([2.0])[0].tolist(), [slopes.tolist() for slopes in run([2.0], slopes=True)]
    ([8.0], [[8.0], [[4.0]]])
    """

    def __init__(self) -> None:
        self._ops: list[str] = []
        self._operands: list[tuple[int, ...]] = []
        self._depths: list[int] = []
        self._plain: dict[float, int] = {}
        self._leaves: list[tuple[int, str, int]] = []

    def _new(self, op: str, operands: tuple[int, ...], depth: int) -> int:
        self._ops.append(op)
        self._operands.append(operands)
        self._depths.append(depth)
        return len(self._ops) - 1

    def leaf(self, name: str, row: int) -> Number:
        """A constant as one row has it."""
        at = self._new("leaf", (), 0)
        self._leaves.append((at, name, row))
        return Number(self, at)

    def note(self, op: str, *inputs: Any) -> Number:
        """An operation."""
        if op not in _DONE:
            raise TypeError(f"{op} is not noted on tapes")
        operands, depth = [], 0
        for value in inputs:
            if type(value) is Number:
                at = value.at
                depth = max(depth, self._depths[at])
            else:
                plain = float(value)
                found = self._plain.get(plain)
                at = self._plain[plain] = self._new("plain", (), 0) if found is None else found
            operands.append(at)
        return Number(self, self._new(op, tuple(operands), depth + 1))

    def replay(self, results: Sequence[Number], names: Sequence[str]) -> Replay:
        """All that is noted, ready to be done for other values of the leaves of these names."""
        return Replay(self, results, names)


class Replay:
    """`replay(values)`: the results; with `slopes`, the slope of each by each value of its row, too."""

    def __init__(self, tape: Tape, results: Sequence[Number], names: Sequence[str]) -> None:
        kinds = {op: i for i, op in enumerate(dict.fromkeys(tape._ops))}
        depths, ops = numpy.array(tape._depths), numpy.array([kinds[op] for op in tape._ops])
        order = numpy.lexsort((ops, depths))
        place = numpy.empty(len(order), dtype=numpy.int64)
        place[order] = numpy.arange(len(order))
        keys = depths[order] * len(kinds) + ops[order]
        starts = [0, *(numpy.flatnonzero(numpy.diff(keys)) + 1).tolist(), len(order)]
        self._groups: list[tuple[slice, str, list[_Array]]] = []
        for first, last in pairwise(starts):
            op = tape._ops[order[first]]
            if op in _DONE:
                operands = numpy.array([tape._operands[i] for i in order[first:last]])
                self._groups.append((slice(first, last), op, [place[column] for column in operands.T]))
        self._fresh = numpy.ones(len(order))
        for value, at in tape._plain.items():
            self._fresh[place[at]] = value
        known = {name: i for i, name in enumerate(names)}
        leaves = [(place[at], known[name], row) for at, name, row in tape._leaves if name in known]
        columns = numpy.array(leaves, dtype=numpy.int64).reshape(-1, 3).T
        self._leaves, self._names, self._rows = columns
        self._results = place[[one.at for one in results]]
        self._shape = (len(results), len(names))

    def __call__(self, values: Sequence[float], slopes: bool = False) -> tuple[_Array, ...]:
        v = self._fresh
        v[self._leaves] = numpy.asarray(values, dtype=float)[self._names]
        with numpy.errstate(all="ignore"):
            for where, op, operands in self._groups:
                v[where] = _DONE[op][0](*(v[i] for i in operands))
            results = v[self._results].copy()
            if not slopes:
                return (results,)
            back = numpy.zeros_like(v)
            back[self._results] = 1.0
            for where, op, operands in reversed(self._groups):
                by = _DONE[op][1]
                if by is None:
                    continue
                mine = back[where]
                for i, slope in zip(operands, by(*(v[i] for i in operands), v[where]), strict=True):
                    numpy.add.at(back, i, numpy.where(mine == 0, 0.0, mine * slope))
        found = numpy.zeros(self._shape)
        numpy.add.at(found, (self._rows, self._names), back[self._leaves])
        return results, found
