"""Kinds of measurements, and `validate`: a table in, errors with one vote a configuration out.

Every row is either predicted or skipped with a reason. Each kind of table is one entry of `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from operator import itemgetter
from os import PathLike
from time import monotonic
from typing import Any

from llmhw.catalog import check_calibration, read_measurements, read_table
from llmhw.units import LLMHWError, unknown_name
from llmhw.validation import facts, serving, serving_memory, training_memory, training_throughput
from llmhw.validation.columns import COLUMNS, OF_KIND, other_names
from llmhw.validation.statistics import Prediction, Validation, groups
from llmhw.validation.table import Row, Source, Table, one_line, table_of

Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Timed:
    """How constants of time are fitted to rows of a kind.

    subject   of `calibration.json`
    noise     standard deviation of log(predicted / measured) that no constants explain
    noted     `noted(row, calibration)`: what is predicted with numbers on a tape (`llmhw.validation.tape`) in place of
              constants
    kinds     `kinds(row, calibration)`: what a row is of, by what a question may differ in from all that was fitted:
              the source, then what is left out of a fit in turn
    alike     a source's n rows of one device and model have n^(1 - alike) votes
    flags     `flags(row, calibration)`: what makes a row harder to predict, where an interval is made of that
    """

    subject: str
    noise: float
    noted: Callable[[Row, Mapping[str, Any]], Any]
    kinds: Callable[[Row, Mapping[str, Any]], dict[str, str]]
    alike: float = 0.5
    flags: Callable[[Row, Mapping[str, Any]], tuple[str, ...]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of measurement: how its table is read and predicted.

    title           what is measured, for people
    required        columns without which nothing can be predicted; all others may be missing
    measured        columns of measured values: at least one is not empty, each is a number above 0
    predict         `predict(row, calibration=None)` gives a `Prediction` without id, source and configuration, or
                    raises `LLMHWError` with the reason why this row is not predicted
    configuration   what was run: rows in which it is the same are one group
    catalog         the rows of the catalog's own table
    fit             constants fitted to rows, as `calibration` takes them; None where there is none of its own
    constants       names of numbers that `calibration` must hold
    timed           how its constants of time are fitted; None where it has none
    each            each measured value of a row is predicted by itself: see `serving_memory.each_value`
    """

    title: str
    required: tuple[str, ...]
    measured: tuple[str, ...]
    predict: Callable[..., Prediction]
    configuration: Callable[[Row], tuple[str, ...]]
    catalog: Callable[[], Iterable[Mapping[str, Any]]]
    fit: Callable[[list[Row]], dict[str, Any]] | None = None
    constants: tuple[str, ...] = ()
    timed: Timed | None = None
    each: bool = False

    @property
    def fits(self) -> bool:
        """Whether there is anything to fit."""
        return self.fit is not None or self.timed is not None


KINDS: dict[str, Kind] = {
    "training-throughput": Kind(
        title="throughput of training",
        required=training_throughput.REQUIRED,
        measured=("measured_value",),
        predict=training_throughput.predict,
        configuration=training_throughput.configuration,
        catalog=partial(read_measurements, "training_throughput"),
        # of 0.05 to 0.3, and of 0.5 to 1 votes fewer, those with which sources that are left out are predicted best
        timed=Timed(
            "training_time",
            0.1,
            training_throughput.noted,
            training_throughput.kinds_of,
            alike=1.0,
            flags=training_throughput.flags_of,
        ),
    ),
    "training-memory": Kind(
        title="peak memory of training",
        required=("model_name", "n_gpus", "seq_len", "peak_mem_gib", "mem_kind"),
        measured=("peak_mem_gib",),
        predict=training_memory.predict,
        configuration=training_memory.configuration,
        catalog=partial(read_measurements, "training_memory"),
        fit=training_memory.fit,
        constants=("reserved_over_allocated", "context_bytes", "reserved_of_varied_lengths"),
    ),
    "serving": Kind(
        title="speed of inference",
        required=serving.REQUIRED,
        measured=("value",),
        predict=serving.predict,
        configuration=serving.configuration,
        catalog=partial(read_measurements, "inference_throughput"),
        # of 0.08, 0.25 and 0.5, the noise with which sources that are left out are predicted best
        timed=Timed("serving_time", 0.25, serving.noted, serving.kinds_of),
    ),
    "inference-memory": Kind(
        title="peak memory of inference",
        required=("model_name", "quant", "batch", "isl", "osl", "peak_mem_gb", "mem_kind"),
        measured=("peak_mem_gb",),
        predict=serving_memory.predict_inference,
        configuration=serving_memory.inference_configuration,
        catalog=partial(read_measurements, "inference_memory"),
        fit=serving_memory.fit_inference,
        constants=serving_memory.INFERENCE_CONSTANTS,
    ),
    "kv-capacity": Kind(
        title="room for the KV cache in vLLM",
        required=("model_name", "quant", "gpu", "tp"),
        measured=serving_memory.CAPACITY_MEASURED,
        predict=serving_memory.predict_capacity,
        configuration=serving_memory.capacity_configuration,
        catalog=partial(read_measurements, "vllm_capacity"),
        fit=serving_memory.fit_capacity,
        constants=serving_memory.CAPACITY_CONSTANTS,
        each=True,
    ),
    "llama-cpp-memory": Kind(
        title="buffers of llama.cpp",
        required=("model_name", "arch", "quant", "bpw", "n_ctx", "n_ubatch"),
        measured=serving_memory.LLAMA_CPP_MEASURED,
        predict=serving_memory.predict_llama_cpp,
        configuration=serving_memory.llama_cpp_configuration,
        catalog=partial(read_measurements, "llamacpp_memory"),
        each=True,
    ),
    "facts": Kind(
        title="published facts of models",
        required=("model_name", "fact", "value", "unit"),
        measured=("value",),
        predict=facts.predict,
        configuration=facts.configuration,
        catalog=partial(read_table, "model_facts"),
    ),
}


def validate(
    source: Source | None,
    kind: str,
    *,
    calibration: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Predict every row of a table of measurements, or say why not.

    source        the path of a CSV file, rows as mappings from column to value, or None for the catalog's own table
    kind          one of `KINDS`; `columns(kind)` says what its columns mean, and `template(kind)` is a table to fill
    calibration   other constants than those of `catalog/calibration.json`: what `fit` and `calibration` give
    progress      called as progress(rows done, rows in all), at most some ten times a second, and at the end

    A row is skipped with a reason if a cell cannot be read, if nobody opened its source, or if the library does not
    predict what it says; one that repeats another is no row. A missing column or a file that is not CSV raises
    `LLMHWError`. Rows that differ only in what was measured are predicted once. Interrupted (Ctrl-C), it returns what
    it has, with `complete=False` and where it was in `note`.

    >>> found = validate(None, "llama-cpp-memory")
    >>> len(found.rows), len(found.skipped)
    (231, 5)
    """
    chosen, table = open_table(source, kind)
    predict = Predictor(kind, None if calibration is None else _checked(kind, calibration))
    done: list[Prediction] = []
    skipped: list[tuple[str, str, str]] = []
    repeats: list[tuple[str, str, str]] = []
    note = ""
    total = len(table.rows)
    try:
        for row in counted(chosen, table.rows, progress):
            if row["duplicate_of"] and not row.flaw:
                repeats.append((row.name, row.source, row["duplicate_of"]))
                continue
            try:
                done.append(predict(row))
            except LLMHWError as reason:
                skipped.append((row.name, row.source, one_line(str(reason))))
    except KeyboardInterrupt:
        note = f"interrupted after {len(done) + len(skipped) + len(repeats):,} values of {total:,} rows"
    known = OF_KIND.get(kind, table.columns) if source is not None else table.columns
    unread = tuple(column for column in table.columns if column and column not in known)
    return Validation(
        tuple(done), tuple(skipped), tuple(groups(done)), kind, chosen.title, unread, note, tuple(repeats)
    )


def counted(chosen: Kind, rows: Collection[Row], progress: Progress | None = None) -> Iterator[Row]:
    """The rows, each as many times as it has measured values; `progress` is told of them now and then."""
    told = monotonic()
    for done, row in enumerate(rows):
        if progress is not None and monotonic() - told > 0.1:
            told = monotonic()
            progress(done, len(rows))
        if chosen.each:
            yield from serving_memory.each_value(row, chosen.measured)
        else:
            yield row
    if progress is not None:
        progress(len(rows), len(rows))


class Predictor:
    """Predicts rows of a kind; those that differ only in what was measured, or in their id and source, once.

    kind          one of `KINDS`
    calibration   what `predict` of the kind takes, checked
    """

    # predictions that are kept
    _MOST = 50_000

    def __init__(self, kind: str, calibration: Mapping[str, Any] | None = None) -> None:
        self.kind = KINDS[kind]
        self._options = {} if calibration is None else {"calibration": calibration}
        books = ("id", "source", "duplicate_of", "source_opened", "evidence", "not_predicted", "cluster")
        self._columns = tuple(column for column in OF_KIND.get(kind, ()) if column not in books)
        self._cells = itemgetter(*self._columns) if self._columns else None
        self._known: dict[tuple[str, ...], Prediction | str] = {}
        self._clean: dict[tuple[str, str], tuple[str, str]] = {}

    def __call__(self, row: Row) -> Prediction:
        """What is predicted for a row, or `LLMHWError` with the reason why nothing is."""
        row.check(self.kind.measured)
        if self._cells is None:
            found, value = self._fresh(row), 1.0
        else:
            column = self._measured(row)
            value = row.positive(column)
            # one of its unit is predicted, so that any number of them is known
            at = self._columns.index(column)
            cells = self._cells(row)
            key = (*cells[:at], "1", *cells[at + 1 :])
            kept = self._known.get(key)
            if kept is None:
                if len(self._known) >= self._MOST:
                    self._known.clear()
                kept = self._known[key] = self._first(row, key)
            if isinstance(kept, str):
                raise LLMHWError(kept.replace(_NAME, row.name or "row"))
            found = kept
        made = Prediction(
            predicted=found.predicted,
            measured=found.measured * value,
            unit=found.unit,
            meter=found.meter,
            low=found.low,
            high=found.high,
            parts=found.parts,
            id=row.name,
            source=row.source,
            configuration=found.configuration,
        )
        _check_finite(made)
        return made

    def _measured(self, row: Row) -> str:
        """The column whose value is compared."""
        columns = self.kind.measured
        if row["quantity"] in columns:
            return row["quantity"]
        return next((column for column in columns if row[column]), columns[0])

    def _first(self, row: Row, cells: tuple[str, ...]) -> Prediction | str:
        """The prediction for these cells, or why there is none."""
        clean: list[tuple[str, str]] = []
        for column, text in zip(self._columns, cells, strict=True):
            known = self._clean.get((column, text))
            if known is None:
                cleaned = COLUMNS[column].clean(text)
                known = self._clean[column, text] = cleaned, COLUMNS[column].flaw(cleaned)
            if known[1]:
                return f"{row.error(column, known[1])}".replace(row.name or "row", _NAME, 1)
            clean.append((column, known[0]))
        alone = Row.of_text([cell for cell in clean if cell[1]], _NAME).of_table(row.called, row.folder)
        try:
            return self._fresh(alone)
        except LLMHWError as reason:
            return str(reason)

    def _fresh(self, row: Row) -> Prediction:
        found = self.kind.predict(row, **self._options)
        return replace(found, configuration=self.kind.configuration(row))


# Stands for the name of the row in reasons that are kept; no row is called so, as no file of text holds it.
_NAME = "\0"


def open_table(source: Source | None, kind: str) -> tuple[Kind, Table]:
    """The kind of that name, and the table behind `source`. An unknown kind, or no such table, raises `LLMHWError`."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    chosen = KINDS[kind]
    if source is None:
        table = table_of(chosen.catalog(), "the catalog's table")
    else:
        table = table_of(source)
    try:
        table = table.renamed(other_names(kind, table.columns))
    except LLMHWError as error:
        raise LLMHWError(f"{table.name}: {error}") from None
    # no rows in memory have no columns, and nothing is missing
    if table.columns:
        wanted = () if chosen.each else chosen.measured
        table.require([*chosen.required, *(column for column in wanted if column not in chosen.required)])
    return chosen, table


def input_files(source: Source | None) -> tuple[str, ...]:
    """The files that `source` names: what is read, and never written onto."""
    return (str(source),) if isinstance(source, (str, PathLike)) else ()


def _checked(kind: str, calibration: Mapping[str, Any]) -> Mapping[str, Any]:
    chosen = KINDS[kind]
    if not chosen.fits:
        raise LLMHWError(f"kind={kind!r} has no constants; leave calibration out")
    if chosen.timed:
        check_calibration(chosen.timed.subject, kind, calibration)
    for name in chosen.constants:
        value = calibration.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value) or value < 0:
            raise LLMHWError(
                f"calibration: {name}={value!r} must be a number of at least 0; "
                f"a calibration of {kind} holds {', '.join(chosen.constants)}"
            )
    return calibration


def _check_finite(found: Prediction) -> None:
    interval = [value for value in (found.low, found.high) if value is not None]
    if not all(isfinite(value) for value in (found.predicted, *interval)):
        raise LLMHWError(
            f"predicted={found.predicted!r} is not a number: the row is outside of what the formulas cover"
        )
    if not (isfinite(found.measured) and found.measured > 0 and isfinite(found.error)):
        raise LLMHWError(f"measured={found.measured!r} is out of the range of numbers above 0 that can be compared")
