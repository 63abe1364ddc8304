"""An empty table of each kind to fill, and what its columns mean."""

from __future__ import annotations

from llmhw.formula import Table
from llmhw.units import LLMHWError, unknown_name
from llmhw.validation.columns import COLUMNS, OF_KIND
from llmhw.validation.kinds import KINDS, Kind, Predictor
from llmhw.validation.serving_memory import each_value
from llmhw.validation.table import Row

# Columns about the row itself, which few tables need.
_OWN = ("duplicate_of", "source_opened", "evidence", "not_predicted", "cluster")


def template(kind: str) -> str:
    """A CSV file to fill: the columns of a kind, and one row of the catalog as an example.

    >>> template("facts").splitlines()[0].split(",")[:7]
    ['id', 'source', 'model_name', 'fact', 'value', 'unit', 'quant']
    """
    import csv
    import io

    _check_kind(kind)
    names = [name for name in OF_KIND[kind] if name not in _OWN]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([names, [_example(kind)[name] for name in names]])
    return out.getvalue()


def columns(kind: str) -> Table:
    """What the columns of a kind mean: column, unit, whether it is needed, meaning, other names that are read.

    >>> columns("serving").rows[2][:3]
    ('model_name', '', 'yes')
    """
    chosen = _check_kind(kind)
    rows = []
    for name in OF_KIND[kind]:
        column = COLUMNS[name]
        one_of = name in chosen.measured and len(chosen.measured) > 1
        needed = "one of these" if one_of else "yes" if name in (*chosen.required, *chosen.measured) else "no"
        unit = column.unit or {"flag": "true, false", "count": "count"}.get(column.kind, "")
        listed = f": {', '.join(column.choices)}" if column.kind == "choice" else ""
        rows.append((name, unit, needed, column.meaning + listed, ", ".join(column.names)))
    heads = ("column", "unit", "needed", "meaning", "other names")
    return Table(f"columns of {kind}: {chosen.title}", heads, rows, right=len(heads))


def _check_kind(kind: str) -> Kind:
    if not isinstance(kind, str) or kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    return KINDS[kind]


def _example(kind: str) -> Row:
    """The first row of the catalog that is predicted."""
    chosen, predict = KINDS[kind], Predictor(kind)
    for cells in chosen.catalog():
        row = Row(cells)
        try:
            for one in each_value(row, chosen.measured) if chosen.each else [row]:
                predict(one)
        except LLMHWError:
            continue
        return row
    raise AssertionError(kind)
