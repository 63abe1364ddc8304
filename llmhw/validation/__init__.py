"""Predictions beside published measurements: a table in, errors with one vote a configuration out.

Every row is either predicted or skipped with a reason. Each kind of table is one entry of `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import Any

from llmhw.catalog import check_calibration, read_calibration, read_measurements, read_table
from llmhw.units import LLMHWError, unknown_name
from llmhw.validation import facts, serving, serving_memory, training_memory, training_throughput
from llmhw.validation.constants import read_constants, write_constants
from llmhw.validation.statistics import Group, Prediction, Validation, groups, percentile, source_family
from llmhw.validation.table import Row, Source, Table, read_table_of
from llmhw.validation.training_memory import (
    bucket_bytes,
    fit_constants,
    frozen_layer_activations,
    zero1_step_gradient_bytes,
)

__all__ = [
    "KINDS",
    "Group",
    "Kind",
    "Prediction",
    "Row",
    "Validation",
    "bucket_bytes",
    "fit",
    "fit_constants",
    "frozen_layer_activations",
    "percentile",
    "read_constants",
    "source_family",
    "validate",
    "validate_training_memory",
    "write_constants",
    "zero1_step_gradient_bytes",
]


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
    fit             constants fitted to rows, as `calibration` takes them; None where there is nothing to fit
    constants       names of numbers that `calibration` must hold
    subject         its constants of time in `calibration.json`
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
    subject: str = ""
    each: bool = False


KINDS: dict[str, Kind] = {
    "training-throughput": Kind(
        title="throughput of training",
        required=training_throughput.REQUIRED,
        measured=("measured_value",),
        predict=training_throughput.predict,
        configuration=training_throughput.configuration,
        catalog=partial(read_measurements, "training_throughput"),
        fit=training_throughput.fit,
        subject="training_time",
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
        fit=serving.fit,
        subject="serving_time",
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
    calibration   other constants than those of `catalog/calibration.json`: what `fit` gives

    A row is skipped with a reason if a cell cannot be read, if it repeats another, if nobody opened its source, or if
    the library does not predict what it says. A missing column or a file that is not CSV raises `LLMHWError`.

    >>> found = validate(None, "training-memory")
    >>> len(found.rows) + len(found.skipped)
    190
    """
    chosen, table = _open(source, kind)
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


def fit(source: Source | None, kind: str) -> dict[str, Any]:
    """The constants that suit the rows of a table best, as `validate` takes them.

    source, kind   as in `validate`

    Rows that are repeats, were not opened or cannot be read do not count. Raises `LLMHWError` for a kind without
    constants.

    >>> fit(None, "training-memory")["reserved_over_allocated"]
    1.05
    """
    chosen, table = _open(source, kind)
    if chosen.fit is None:
        fitting = ", ".join(name for name, other in KINDS.items() if other.fit)
        raise LLMHWError(f"kind={kind!r} has no constants to fit; these have: {fitting}")
    usable = []
    for row in table.rows:
        try:
            row.check(chosen.measured)
        except LLMHWError:
            continue
        usable.append(row)
    return chosen.fit(usable)


def validate_training_memory(
    rows: Iterable[Mapping[str, Any]] | None = None,
    *,
    reserved_over_allocated: float | None = None,
    context_bytes: float | None = None,
) -> Validation:
    """Predict every published peak-memory row with the meter that was read.

    rows   rows of `llmhw.catalog.read_measurements("training_memory")`; default: all
    reserved_over_allocated, context_bytes   other constants than those of `catalog/calibration.json`

    >>> validate_training_memory().median_abs_error < 0.04
    True
    """
    constants = dict(read_calibration("training_memory"))
    given = {"reserved_over_allocated": reserved_over_allocated, "context_bytes": context_bytes}
    constants |= {name: value for name, value in given.items() if value is not None}
    return validate(rows, "training-memory", calibration=constants)


def _open(source: Source | None, kind: str) -> tuple[Kind, Table]:
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
    if chosen.fit is None:
        raise LLMHWError(f"kind={kind!r} has no constants; leave calibration out")
    if chosen.subject:
        check_calibration(chosen.subject, kind, calibration)
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
