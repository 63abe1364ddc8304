"""The formula registry, and estimates that can explain themselves.

A formula is a pure, keyword-only function of numbers. `@formula` records its unit and source; a `Term`
is one formula with numbers put in; a `Part` is a named sum of terms; an `Estimate` is the parts and
their total.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from llmhw.units import LLMHWError, format_quantity, html_table, unknown_name

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Formula:
    """What the registry knows of one formula."""

    name: str
    function: Callable[..., Any]
    source: str
    unit: str

    @property
    def module(self) -> str:
        return self.function.__module__

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    @property
    def body(self) -> list[ast.stmt]:
        """The statements of the function, docstring left out."""
        import inspect
        import textwrap

        tree = ast.parse(textwrap.dedent(inspect.getsource(self.function)))
        function = tree.body[0]
        assert isinstance(function, ast.FunctionDef)
        return function.body[1:]

    @property
    def expression(self) -> str:
        """The code of the formula, as text.

        >>> from llmhw.formula import FORMULAS
        >>> FORMULAS["linear_params"].expression
        'in_features * out_features + bias * out_features'
        """
        return "\n".join(_text(statement) for statement in self.body)

    def with_numbers(self, inputs: dict[str, Any]) -> str:
        """The same code with this case's numbers in place of the names."""
        return "\n".join(_text(_Substitute(inputs).visit(statement)) for statement in self.body)


FORMULAS: dict[str, Formula] = {}


def formula(*, source: str, unit: str) -> Callable[[F], F]:
    """Register a formula: where it comes from, and the unit of what it returns."""

    def register(function: F) -> F:
        name = function.__name__
        if name in FORMULAS and FORMULAS[name].module != function.__module__:
            raise LLMHWError(f"formula={name!r} is already defined in {FORMULAS[name].module}; give it another name")
        FORMULAS[name] = Formula(name, function, source, unit)
        return function

    return register


class _Substitute(ast.NodeTransformer):
    def __init__(self, inputs: dict[str, Any]) -> None:
        self.inputs = inputs

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.inputs and isinstance(node.ctx, ast.Load):
            return ast.copy_location(ast.Constant(self.inputs[node.id]), node)
        return node


def _text(node: ast.AST) -> str:
    return ast.unparse(node).removeprefix("return ")


@dataclass(frozen=True, slots=True)
class Term:
    """`times` x one formula with its inputs put in."""

    label: str
    formula: str
    inputs: tuple[tuple[str, Any], ...]
    times: float
    value: Any
    because: tuple[Term, ...] = ()

    def scaled(self, times: Any) -> Term:
        """The same so many times."""
        return replace(self, times=self.times * times, value=self.value * times)

    def explain(self) -> str:
        entry = FORMULAS[self.formula]
        times = "" if self.times == 1 else f"{_number(self.times)} x "
        lines = [
            f"{self.label}: {times}{self.formula}({', '.join(f'{k}={_number(v)}' for k, v in self.inputs)})",
            *(f"    {line}" for line in entry.expression.splitlines()),
        ]
        numbers = [f"    {line}" for line in entry.with_numbers(dict(self.inputs)).splitlines()]
        numbers[-1] += f" = {_number(self.value / self.times if self.times else self.value)}"
        lines += numbers
        if self.times != 1:
            lines.append(f"    times {_number(self.times)} = {_number(self.value)}")
        lines.append(f"    = {format_quantity(float(self.value), entry.unit)}   [{entry.source}]")
        for under in self.because:
            lines += [f"    | {line}" for line in under.explain().splitlines()]
        return "\n".join(lines)


def _number(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def term(function: Callable[..., Any], label: str = "", times: float = 1, **inputs: Any) -> Term:
    """Put numbers into a registered formula and keep the trace."""
    name = function.__name__
    if name not in FORMULAS:
        raise LLMHWError(f"function={name!r} is not a registered formula; decorate it with @formula")
    shown = inputs | {k: v for k, v in (function.__kwdefaults__ or {}).items() if k not in inputs}
    return Term(label or name, name, tuple(shown.items()), times, times * function(**inputs))


@dataclass(frozen=True, slots=True)
class Part:
    """A named sum of terms."""

    name: str
    terms: tuple[Term, ...]
    note: str = ""

    @property
    def value(self) -> Any:
        return sum(t.value for t in self.terms)


@dataclass(frozen=True, slots=True, repr=False)
class Estimate:
    """Named parts that add up to a total, in one base unit.

    Index it by part (`estimate["weights"]`), read `.total`, ask `.explain("weights")`,
    or take `.to_dict()` and `.to_frame()` elsewhere.
    """

    title: str
    unit: str
    parts: tuple[Part, ...]
    note: str = ""

    @property
    def total(self) -> Any:
        """Sum of the parts, in the estimate's unit."""
        return sum(part.value for part in self.parts)

    def __getitem__(self, name: str) -> Any:
        return self.part(name).value

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)

    def part(self, name: str) -> Part:
        """The part of that name; a misspelt one raises `LLMHWError` with the nearest."""
        for part in self.parts:
            if part.name == name:
                return part
        raise unknown_name("part", name, [part.name for part in self.parts])

    def explain(self, name: str | None = None) -> str:
        """The formulas behind one part (or all), with this case's numbers, unit and source."""
        chosen = self.parts if name is None else (self.part(name),)
        blocks = []
        for part in chosen:
            head = f"{part.name} = {format_quantity(float(part.value), self.unit)}"
            blocks.append(
                "\n".join([head, *(f"({part.note})" for _ in [0] if part.note), *(t.explain() for t in part.terms)])
            )
        return "\n\n".join(blocks)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers in base units: title, unit, parts, total."""
        return {
            "title": self.title,
            "unit": self.unit,
            "parts": {part.name: part.value for part in self.parts},
            "total": self.total,
        }

    def to_frame(self) -> Any:
        """A pandas DataFrame, one row a part and a last row `total`; needs pandas."""
        import pandas

        total = self.total
        rows = [(part.name, part.value) for part in self.parts] + [("total", total)]
        return pandas.DataFrame(
            {
                self.unit: [value for _, value in rows],
                "share": [value / total if total else 0.0 for _, value in rows],
            },
            index=pandas.Index([name for name, _ in rows], name="part"),
        )

    def rows(self) -> list[tuple[str, str, str]]:
        """Part, value and share as text; the last row is the total."""
        total = self.total
        rows = [(part.name, part.value) for part in self.parts] + [("total", total)]
        return [
            (
                name,
                format_quantity(float(value), self.unit),
                format_quantity(value / total if total else 0.0, "fraction"),
            )
            for name, value in rows
        ]

    def __str__(self) -> str:
        rows = self.rows()
        first = max(len(name) for name, _, _ in rows)
        second = max(len(value) for _, value, _ in rows)
        lines = [f"{name:<{first}}  {value:>{second}}  {share:>7}" for name, value, share in rows]
        return "\n".join([self.title, *lines[:-1], "-" * len(lines[-1]), lines[-1]])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self.title, ("part", "size", "share"), self.rows())


class Ledger:
    """Numbers by part, plain or arrays, and the formulas behind them if they are asked for.

    detail   totals (one sum), parts (a sum for each part), or terms (the formulas too)
    """

    __slots__ = ("detail", "parts", "terms")

    def __init__(self, detail: str = "parts") -> None:
        self.detail = detail
        self.parts: dict[str, Any] = {}
        self.terms: dict[str, list[Term]] = {}

    def add(
        self, part: str, label: str, function: Callable[..., Any], times: Any = 1, *, because: Any = None, **inputs: Any
    ) -> Any:
        """Add `times` x a registered formula to a part, and return it.

        because   a ledger with what the inputs themselves came from
        """
        value = times * function(**inputs)
        key = "" if self.detail == "totals" else part
        self.parts[key] = self.parts.get(key, 0.0) + value
        if self.detail == "terms":
            made = term(function, label, times, **inputs)
            below = tuple(t for terms in because.terms.values() for t in terms) if because else ()
            self.terms.setdefault(part, []).append(replace(made, because=below))
        return value

    def put(self, part: str, terms: Iterable[Term], times: Any = 1) -> Ledger:
        """Add `times` x terms that are made already to a part."""
        for t in terms:
            self.parts[part] = self.parts.get(part, 0.0) + times * t.value
            if self.detail == "terms":
                self.terms.setdefault(part, []).append(t.scaled(times))
        return self

    def merge(self, other: Ledger, times: Any = 1, *, part: str | None = None) -> Ledger:
        """Add `times` x another ledger; `part`: all of it to that one."""
        for name, value in other.parts.items():
            key = part if part is not None and self.detail != "totals" else name
            self.parts[key] = self.parts.get(key, 0.0) + times * value
        for name, terms in other.terms.items():
            self.terms.setdefault(part or name, []).extend(t.scaled(times) for t in terms)
        return self

    def without(self, names: set[str]) -> Ledger:
        """The same without these parts."""
        found = Ledger(self.detail)
        found.parts = {name: value for name, value in self.parts.items() if name not in names}
        found.terms = {name: terms for name, terms in self.terms.items() if name not in names}
        return found

    @property
    def total(self) -> Any:
        """Sum of the parts."""
        return sum(self.parts.values())

    def estimate(self, title: str, unit: str, order: Iterable[str]) -> Estimate:
        """The parts with their terms, in this order."""
        return Estimate(title, unit, tuple(Part(name, tuple(self.terms.get(name, ()))) for name in order))


def formulas() -> dict[str, Formula]:
    """Every formula of the library by name; modules that were not needed so far are loaded for it.

    >>> formulas()["linear_params"].unit
    'count'
    """
    from importlib import import_module
    from pkgutil import iter_modules

    package = import_module(__name__.rpartition(".")[0])
    faces = ("cli", "__main__", "plot", "launch", "live", "exercises", "measure")
    for module in iter_modules(package.__path__):
        if module.name not in faces:
            import_module(f"{package.__name__}.{module.name}")
    return dict(FORMULAS)


def explain(name: str, **numbers: Any) -> str:
    """What a formula computes: its code, unit, source and description; with numbers, its value too.

    name      a formula: see `formulas()`
    numbers   its arguments

    >>> print(explain("linear_params", in_features=4096, out_features=11008).splitlines()[0])
    linear_params: linear_params(in_features=4096, out_features=11008, bias=0)
    """
    if name not in FORMULAS and name not in formulas():
        raise unknown_name("formula", name, FORMULAS)
    entry = FORMULAS[name]
    if numbers:
        import inspect

        try:
            inspect.signature(entry.function).bind(**numbers)
        except TypeError as error:
            wanted = ", ".join(inspect.signature(entry.function).parameters)
            raise LLMHWError(f"formula={name!r}: {error}; its arguments are {wanted}") from None
        return term(entry.function, **numbers).explain()
    import inspect

    lines = [f"{name} [{entry.unit}]", *(f"    {line}" for line in entry.expression.splitlines())]
    return "\n".join([*lines, f"source: {entry.source}", "", inspect.getdoc(entry.function) or ""])
