"""The formula registry, and estimates that can explain themselves.

A formula is a pure, keyword-only function of numbers. `@formula` records its unit and source; a `Term`
is one formula with numbers put in; a `Part` is a named sum of terms; an `Estimate` is the parts and
their total. A `Report` is what prints as a table.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from llmhw.frozen import FrozenDict
from llmhw.language import LANGUAGE, said
from llmhw.units import (
    MOST,
    LLMHWError,
    check_number,
    format_quantity,
    html_table,
    nearest,
    plain_fields,
    shown,
    text_table,
    unknown_name,
)

F = TypeVar("F", bound=Callable[..., Any])


# -- reports ----------------------------------------------------------------------------------


class Table(NamedTuple):
    """One table of a report, its cells as text.

    right   columns from this one on are aligned to the right
    prose   text aligns the last column to the left all the same
    head    the columns' names in text: None as in a notebook, () none
    aside   what a notebook adds to the title
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: int = 1
    prose: bool = False
    head: Sequence[str] | None = None
    aside: str = ""

    def spoken(self) -> Table:
        """The table in the reader's language: names of columns, and cells that are words, such as parts of memory."""
        if LANGUAGE.get() == "en":
            return self
        head = None if self.head is None else [said(name) for name in self.head]
        rows = [[said(cell) for cell in row] for row in self.rows]
        columns = [said(name) for name in self.columns]
        return self._replace(title=said(self.title), columns=columns, rows=rows, head=head, aside=said(self.aside))

    def lines(self, width: int | None = None) -> list[str]:
        """The title and the aligned rows.

        width   of the screen: the widest column of prose is wrapped to it
        """
        told = self.spoken()
        head = told.columns if told.head is None else told.head
        rows = [head, *told.rows] if head else told.rows
        return [told.title, *text_table(rows, right=self.right, prose=self.prose, width=width)]

    def html(self) -> str:
        told = self.spoken()
        return html_table(told.title + told.aside, told.columns, told.rows, right=self.right)


class Report:
    """An answer that prints as tables; a dataclass that is one gives `tables()`.

    What else it may give: `verdict`, `warnings()` and `next_steps()`; `footer()`, lines below the text; `to_dict()`
    where its fields are not all; `records()`, the numbers that `to_frame()` shows, and `index`, which of their keys it
    is indexed by.
    """

    __slots__ = ()

    @property
    def verdict(self) -> str:
        """The answer in one line: whether it holds, the main number, its interval."""
        return ""

    def warnings(self) -> Sequence[str]:
        """What must be known to trust the answer: what was assumed or borrowed."""
        return ()

    def next_steps(self) -> Sequence[str]:
        """Changes that were tried on this very question, best first, each with the figure that it gives."""
        return ()

    def tables(self) -> list[Table]:
        raise NotImplementedError

    def footer(self) -> Iterable[str]:
        return ()

    @property
    def index(self) -> str:
        return ""

    def records(self) -> Sequence[Mapping[Any, Any]]:
        return [self.to_row()]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers in base units."""
        return plain_fields(self)

    def to_row(self) -> dict[str, Any]:
        """`to_dict` without levels, as a row of a table: stage_parts_weights and so on."""
        return dict(flat(self.to_dict()))

    def to_frame(self) -> Any:
        """A pandas DataFrame in base units; needs pandas."""
        import pandas

        frame = pandas.DataFrame(list(self.records()))
        return frame.set_index(self.index) if self.index else frame

    @property
    def setting(self) -> str:
        """Where and with what, in one line."""
        return ""

    def below(self) -> list[str]:
        """What stands below the numbers: what to know, and what to do next."""
        notes = [said("Note: {text}", text=line) for line in self.warnings()]
        return [*self.footer(), *notes, *(said("Try: {text}", text=line) for line in self.next_steps())]

    def __str__(self) -> str:
        first, *others = self.tables()
        title, *rows = first.lines()
        verdict = [line for line in (self.verdict, self.setting) if line]
        more = (line for table in others for line in table.lines())
        return "\n".join([title, *verdict, *rows, *more, *self.below()])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from html import escape

        verdict = f"<p><strong>{escape(self.verdict)}</strong></p>" if self.verdict else ""
        notes = "".join(f"<p>{escape(line)}</p>" for line in [*self.below()][len([*self.footer()]) :])
        return f"{verdict}{''.join(table.html() for table in self.tables())}{notes}"


@dataclass(frozen=True, repr=False)
class Grid(Report):
    """Rows of a notebook as one table: text where outputs are compared, HTML where they are read."""

    table: Table

    def tables(self) -> list[Table]:
        return [self.table]

    def __str__(self) -> str:
        return "\n".join(line for line in self.table.lines() if line)


def grid(
    rows: Iterable[Mapping[str, Any]], forms: Mapping[str, str] | None = None, *, title: str = "", left: int = 1
) -> Grid:
    """A table with a line for each of the rows, whose keys name the columns.

    rows    mappings with the same keys; a text stands as it is, a whole number with commas
    forms   column -> format of its other numbers; default: three figures
    left    columns that are aligned to the left

    >>> grid([{"batch": 1024, "ms": 15.52, "tokens/s": 64.4}], {"ms": ".1f"}, left=0)
    batch    ms  tokens/s
    1,024  15.5      64.4
    """
    listed, forms = list(rows), forms or {}
    names = list(listed[0]) if listed else []

    def text(name: str, value: Any) -> str:
        if isinstance(value, str):
            return value
        return format(value, forms.get(name, ",d" if isinstance(value, int) else ",.3g"))

    return Grid(Table(title, names, [[text(name, row[name]) for name in names] for row in listed], right=left))


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of a tree by one name each: {"a": {"b": 1}} has a_b."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}_")
        else:
            yield prefix + name, value


# -- formulas ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Formula:
    """What the registry knows of one formula.

    most   the largest value of inputs that have one, such as a share; all are finite and at least 0
    """

    name: str
    function: Callable[..., Any]
    source: str
    unit: str
    most: Mapping[str, float] = field(default_factory=FrozenDict)

    @property
    def module(self) -> str:
        return self.function.__module__

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.doc.partition("\n")[0]

    @property
    def doc(self) -> str:
        """The docstring; from the source where Python was told to leave it out (-OO)."""
        import inspect

        return inspect.getdoc(self.function) or ast.get_docstring(self._source) or ""

    @property
    def body(self) -> list[ast.stmt]:
        """The statements of the function, docstring left out."""
        return self._source.body[1:]

    @property
    def _source(self) -> ast.FunctionDef:
        import inspect
        import textwrap

        tree = ast.parse(textwrap.dedent(inspect.getsource(self.function)))
        return next(node for node in tree.body if isinstance(node, ast.FunctionDef))

    def checked(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs if they are numbers that the formula is meant for, else a clear error."""
        import inspect

        try:
            inspect.signature(self.function).bind(**numbers)
        except TypeError as error:
            wanted = ", ".join(inspect.signature(self.function).parameters)
            raise LLMHWError(f"formula={self.name!r}: {error}; its arguments are {wanted}") from None
        for name, value in numbers.items():
            check_number(name, value, most=self.most.get(name, MOST))
        return dict(numbers)

    @property
    def expression(self) -> str:
        """The code of the formula, as text.

        >>> from llmhw.formula import formulas
        >>> formulas()["matmul_flops"].expression
        '2 * tokens * weights'
        """
        return "\n".join(_text(statement) for statement in self.body)

    def with_numbers(self, inputs: dict[str, Any]) -> str:
        """The same code with this case's numbers in place of the names."""
        return "\n".join(_text(_Substitute(inputs).visit(statement)) for statement in self.body)


FORMULAS: dict[str, Formula] = {}


def formula(*, source: str, unit: str, **most: float) -> Callable[[F], F]:
    """Register a formula: where it comes from, the unit of what it returns, and the most that an input may be."""

    def register(function: F) -> F:
        name = function.__name__
        if name in FORMULAS and FORMULAS[name].module != function.__module__:
            raise LLMHWError(f"formula={name!r} is already defined in {FORMULAS[name].module}; give it another name")
        FORMULAS[name] = Formula(name, function, source, unit, FrozenDict(most))
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
    """`times` x one formula with its inputs put in.

    label   what it is, for people
    key     what it is, for code that treats terms of one kind alike; unless given, the formula's name
    because   what the inputs came from
    """

    label: str
    formula: str
    inputs: tuple[tuple[str, Any], ...]
    times: float
    value: Any
    key: str = ""
    because: tuple[Term, ...] = ()

    def scaled(self, times: Any) -> Term:
        """The same so many times."""
        if type(times) is int and times == 1:
            return self
        # not replace(): terms are made by the hundred thousand
        own = (self.label, self.formula, self.inputs)
        return Term(*own, self.times * times, self.value * times, self.key, self.because)

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


def term(function: Callable[..., Any], label: str = "", times: float = 1, *, key: str = "", **inputs: Any) -> Term:
    """Put numbers into a registered formula and keep the trace; label and key are those of `Term`."""
    name = function.__name__
    if name not in FORMULAS:
        raise LLMHWError(f"function={name!r} is not a registered formula; decorate it with @formula")
    shown = inputs | {k: v for k, v in (function.__kwdefaults__ or {}).items() if k not in inputs}
    return Term(label or name, name, tuple(shown.items()), times, times * function(**inputs), key or name)


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
class Estimate(Report):
    """Named parts that add up to a total, in one base unit.

    Index it by part (`estimate["weights"]`), read `.total`, ask `.explain("weights")`,
    or take `.to_dict()` and `.to_frame()` elsewhere.
    """

    title: str
    unit: str
    parts: tuple[Part, ...]
    note: str = ""

    @classmethod
    def of(cls, title: str, unit: str, parts: Mapping[str, Iterable[Term]], note: str = "") -> Estimate:
        """One of these parts, each with its terms."""
        return cls(title, unit, tuple(Part(name, tuple(terms)) for name, terms in parts.items()), note)

    def grouped(self, groups: Mapping[str, Iterable[str]]) -> Estimate:
        """The same with parts put together: name -> the parts that it holds. A part of no group stays as it is.

        >>> from llmhw import model, training_states
        >>> states = training_states(model("gpt2"))
        >>> [part.name for part in states.grouped({"optimizer": ("master copy", "momentum", "variance")})]
        ['weights', 'gradients', 'optimizer', 'step counters']
        """
        group_of = {part: name for name, parts in groups.items() for part in parts}
        found: dict[str, tuple[Term, ...]] = {}
        for part in self.parts:
            name = group_of.get(part.name, part.name)
            found[name] = (*found.get(name, ()), *part.terms)
        return replace(self, parts=tuple(Part(name, terms) for name, terms in found.items()))

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
            note = [f"({part.note})"] if part.note else []
            blocks.append("\n".join([head, *note, *(t.explain() for t in part.terms)]))
        return "\n\n".join(blocks)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers in base units: title, unit, parts, total."""
        return {
            "title": self.title,
            "unit": self.unit,
            "parts": {part.name: part.value for part in self.parts},
            "total": self.total,
        }

    def records(self) -> list[dict[str, Any]]:
        """Part, value and share; the last entry is the total."""
        total = self.total
        values = [*((part.name, part.value) for part in self.parts), ("total", total)]
        return [{"part": name, self.unit: value, "share": value / total if total else 0.0} for name, value in values]

    index = "part"

    def rows(self) -> list[tuple[str, str, str]]:
        """The same as text."""
        return [
            (r["part"], format_quantity(float(r[self.unit]), self.unit), format_quantity(r["share"], "fraction"))
            for r in self.records()
        ]

    def tables(self) -> list[Table]:
        return [Table(self.title, ("part", "size", "share"), self.rows(), head=())]

    def __str__(self) -> str:
        # not super(): a dataclass with slots is made anew, and super() would look for the class it replaced
        *lines, total = Report.__str__(self).splitlines()
        return "\n".join([*lines, "-" * len(total), total])


def explained(part: str | None, **kinds: Sequence[Estimate]) -> str:
    """The formulas behind one part (or all), by whichever estimates have it.

    kinds   estimates by kind, such as time=[...], memory=[...]; for a misspelt part, `LLMHWError` lists those of all
    """
    asked = [e for estimates in kinds.values() for e in estimates if part is None or part in {p.name for p in e}]
    if asked:
        told = [e for e in asked if part is None or e.part(part).terms] or asked[:1]
        return "\n\n".join(f"{e.title}\n\n{e.explain(part)}" for e in told)
    names = {kind: dict.fromkeys(p.name for e in estimates for p in e) for kind, estimates in kinds.items()}
    known = "; ".join(f"of {kind}: {', '.join(parts)}" for kind, parts in names.items())
    raise LLMHWError(f"part={part!r} is not known; parts are, {known}")


class StageReport(Report):
    """A report with an estimate for each pipeline stage: a row for each part, a column for each stage."""

    __slots__ = ()
    stages: tuple[Estimate, ...]

    @property
    def worst(self) -> int:
        """Number of the stage that decides."""
        raise NotImplementedError

    def shown(self) -> Sequence[Estimate]:
        """The stages as they are printed and explained."""
        return self.stages

    def last(self) -> tuple[str, Iterable[float]]:
        """Name and values of the last row."""
        return "total", (float(stage.total) for stage in self.stages)

    def explain(self, part: str | None = None, stage: int | None = None) -> str:
        """The formulas behind one part (or all) of a stage; default: the worst one."""
        return self.shown()[self.worst if stage is None else stage].explain(part)

    def records(self) -> list[dict[Any, Any]]:
        """Bytes of each part, by number of the stage."""
        held = [{part.name: float(part.value) for part in stage} for stage in self.shown()]
        names = dict.fromkeys(name for stage in held for name in stage)
        return [{"part": name, **{i: stage.get(name, 0.0) for i, stage in enumerate(held)}} for name in names]

    index = "part"

    def to_frame(self) -> Any:
        """A pandas DataFrame in bytes: a row for each part, a column for each stage; needs pandas."""
        frame = super().to_frame().set_axis(range(len(self.stages)), axis="columns")
        return frame.rename_axis("stage", axis="columns")

    def rows(self) -> list[tuple[str, ...]]:
        """Part names and sizes as text, one column a stage, and the last row."""
        table = [(name, *sizes) for name, *sizes in (record.values() for record in self.records())]
        name, values = self.last()
        return [(name, *(format_quantity(v, "bytes") for v in sizes)) for name, *sizes in [*table, (name, *values)]]

    def stage_table(self, title: str, aside: str = "") -> Table:
        """The table of `rows`."""
        return Table(
            title,
            ("part", *(said("stage {number}", number=i) for i in range(len(self.stages)))),
            self.rows(),
            aside=aside,
        )


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
        value, parts = times * function(**inputs), self.parts
        key = "" if self.detail == "totals" else part
        parts[key] = parts[key] + value if key in parts else value
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
        parts = self.parts
        for name, value in other.parts.items():
            key = part if part is not None and self.detail != "totals" else name
            parts[key] = parts[key] + times * value if key in parts else times * value
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
        values = self.parts.values()
        return sum(values) if len(values) != 1 else next(iter(values))

    def estimate(self, title: str, unit: str, order: Iterable[str]) -> Estimate:
        """The parts with their terms, in this order; equal terms are one."""
        parts = []
        for name in order:
            made: dict[Any, Term] = {}
            for t in self.terms.get(name, ()):
                key = (t.label, t.formula, t.inputs, t.because)
                same = made.get(key)
                made[key] = replace(t, times=same.times + t.times, value=same.value + t.value) if same else t
            parts.append(Part(name, tuple(made.values())))
        return Estimate(title, unit, tuple(parts))


def formulas() -> dict[str, Formula]:
    """Every formula of the library by name; modules that were not needed so far are loaded for it.

    >>> formulas()["matmul_flops"].unit
    'FLOP'
    """
    from importlib import import_module
    from pkgutil import iter_modules

    package = import_module(__name__.rpartition(".")[0])
    faces = ("cli", "mcp", "schema", "__main__", "plot", "launch", "live", "exercises", "measure")
    for module in iter_modules(package.__path__):
        if module.name not in faces:
            import_module(f"{package.__name__}.{module.name}")
    return dict(FORMULAS)


def explain(name: str, **numbers: Any) -> str:
    """What a formula computes: its code, unit, source and description; with numbers, its value too.

    name      a formula: see `formulas()`
    numbers   its arguments

    >>> print(explain("matmul_flops", tokens=1, weights=4096 * 11008).splitlines()[0])
    matmul_flops: matmul_flops(tokens=1, weights=45088768)
    """
    entry = formula_named(name)
    if not numbers:
        lines = [f"{entry.name} [{entry.unit}]", *(f"    {line}" for line in entry.expression.splitlines())]
        return "\n".join([*lines, f"source: {entry.source}", "", entry.doc])
    given = entry.checked(numbers)
    put_in = ", ".join(f"{key}={_number(value)}" for key, value in given.items())
    try:
        made = term(entry.function, **given)
        value = made.value
        sound = not isinstance(value, complex) and 0 <= value < float("inf")
    except (ArithmeticError, TypeError, ValueError) as error:
        raise LLMHWError(f"{entry.name}({put_in}) has no value ({error}); give numbers that go together") from None
    if not sound:
        raise LLMHWError(
            f"{entry.name}({put_in}) would be {_number(value)} {entry.unit}; give numbers that go together"
        )
    return made.explain()


def formula_named(name: str) -> Formula:
    """The formula of that name; a misspelt one raises `LLMHWError` with those that are near."""
    known = FORMULAS if isinstance(name, str) and name in FORMULAS else formulas()
    if isinstance(name, str) and name in known:
        return known[name]
    word = re.sub(r"[^a-z0-9]+", "_", name[:100].lower()) if isinstance(name, str) else ""
    near = [found for found in known if word and word in found][:4] or nearest(word, known)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise LLMHWError(f"formula={shown(name)} is not known; {hint}`llmhw explain` lists all {len(known)}")
