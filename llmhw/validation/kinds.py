"""Kinds of measurements, and `validate`: a table in, errors with one vote a configuration out.

Every row is either predicted or skipped with a reason. Each kind of table is one entry of `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import Any

from llmhw.catalog import check_calibration, read_measurements, read_table
from llmhw.units import LLMHWError, unknown_name
from llmhw.validation import facts, serving, serving_memory, training_memory, training_throughput
from llmhw.validation.statistics import Prediction, Validation, groups
from llmhw.validation.table import Row, Source, Table, read_table_of


@dataclass(frozen=True, slots=True)
class Timed:
    """How constants of time are fitted to rows of a kind.

    subject   of `calibration.json`
    again     `again(row, calibration)` gives `predict` of this row for other constants: what these do not decide is
              worked out once
    groups    `groups(row, calibration)`: the groups of constants that time a row, as places of `calibration.json`
    noise     standard deviation of log(predicted / measured) that no constants explain
    """

    subject: str
    again: Callable[[Row, Mapping[str, Any]], Callable[..., Prediction]]
    groups: Callable[[Row, Mapping[str, Any]], tuple[str, ...]]
    noise: float


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
        timed=Timed("training_time", training_throughput.again, training_throughput.groups_of, 0.05),
    ),
    "training-memory": Kind(
        title="peak memory of training",
        required=("source", "model_name", "n_gpus", "peak_mem_gib", "mem_kind"),
        measured=("peak_mem_gib",),
        predict=training_memory.predict,
        configuration=training_memory.configuration,
        catalog=partial(read_measurements, "training_memory"),
        fit=training_memory.fit,
        constants=("reserved_over_allocated", "context_bytes"),
    ),
    "serving": Kind(
        title="speed of inference",
        required=serving.REQUIRED,
        measured=("value",),
        predict=serving.predict,
        configuration=serving.configuration,
        catalog=partial(read_measurements, "inference_throughput"),
        timed=Timed("serving_time", serving.again, serving.groups_of, 0.08),
    ),
    "inference-memory": Kind(
        title="peak memory of inference",
        required=("model_name", "quant", "engine", "batch", "isl", "osl", "peak_mem_gb", "mem_kind"),
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


def validate(source: Source | None, kind: str, *, calibration: Mapping[str, Any] | None = None) -> Validation:
    """Predict every row of a table of measurements, or say why not.

    source        the path of a CSV file, rows as mappings from column to value, or None for the catalog's own table
    kind          one of `KINDS`
    calibration   other constants than those of `catalog/calibration.json`: what `fit` and `calibration` give

    A row is skipped with a reason if a cell cannot be read, if it repeats another, if nobody opened its source, or if
    the library does not predict what it says. A missing column or a file that is not CSV raises `LLMHWError`.

    >>> found = validate(None, "training-memory")
    >>> len(found.rows) + len(found.skipped)
    190
    """
    chosen, table = open_table(source, kind)
    options = {} if calibration is None else {"calibration": _checked(kind, calibration)}
    done: list[Prediction] = []
    skipped: list[tuple[str, str, str]] = []
    for row in table.rows:
        try:
            row.check(chosen.measured)
            found = chosen.predict(row, **options)
            _check_finite(found)
            configuration = chosen.configuration(row)
        except LLMHWError as reason:
            skipped.append((row.name, row.source, str(reason)))
            continue
        done.append(replace(found, id=row.name, source=row.source, configuration=configuration))
    return Validation(tuple(done), tuple(skipped), tuple(groups(done)), kind, chosen.title)


def open_table(source: Source | None, kind: str) -> tuple[Kind, Table]:
    """The kind of that name, and the table behind `source`. An unknown kind, or no such table, raises `LLMHWError`."""
    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    chosen = KINDS[kind]
    if source is None:
        table = read_table_of(chosen.catalog(), "the catalog's table")
    else:
        table = read_table_of(source)
    # no rows in memory have no columns, and nothing is missing
    if table.columns:
        wanted = () if chosen.each else chosen.measured
        table.require([*chosen.required, *(column for column in wanted if column not in chosen.required)])
    if chosen.each:
        rows = [one for row in table.rows for one in serving_memory.each_value(row, chosen.measured)]
        table = replace(table, rows=tuple(rows))
    return chosen, table


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
