"""Throughput of training beside published measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmhw import step_interval
from llmhw.flops import convention_flops, training_flops
from llmhw.job import TrainingJob
from llmhw.rates import training_constants
from llmhw.step_interval import class_of
from llmhw.step_time import StepTimer, time_layouts, time_step
from llmhw.validation.statistics import Prediction, scaled, source_family
from llmhw.validation.table import Row
from llmhw.validation.training_jobs import FLAGS, WORDS, described, recompute_of

# Columns without which no row can be predicted
REQUIRED = ("model_name", "gpu", "n_gpus", "seq_len", "global_batch", "measured_kind", "measured_value")


def job_of(row: Row, *, calibration: Mapping[str, Any] | None = None) -> TrainingJob:
    """What a row ran: see `llmhw.validation.training_jobs.described`."""
    return described(row, calibration=calibration).job


def searched(row: Row) -> tuple[str, ...]:
    """Sizes of the layout that a row does not state, and that were searched."""
    return described(row).searched


# -- predictions ------------------------------------------------------------------------------

_KINDS = ("step_time_s", "tokens_per_s_per_gpu", "tflops_per_gpu", "mfu", "hfu")


def _flops(row: Row, job: TrainingJob, hardware: bool) -> float:
    """FLOPs of a step as the source counts them."""
    if job.model.model_type == "gpt2":
        kind = "megatron" if hardware else "megatron-model"
        return float(convention_flops(job.model, kind, batch=job.batch, seq_len=job.seq_len).total)
    recompute = "full" if hardware and job.recompute == "full" else "none"
    sizes: dict[str, Any] = {"batch": job.batch, "seq_len": job.seq_len, "causal": bool(row.flag("counts_causal"))}
    return float(training_flops(job.model, recompute=recompute, **sizes).total)


def predict(row: Row, *, calibration: Mapping[str, Any] | None = None) -> Prediction:
    """The speed of one row, in the measure that its source used. Raises `LLMHWError` with the reason if it cannot be.

    Rates count recomputed FLOPs where the column `counts_recompute` says so, else model FLOPs.
    """
    kind = row["measured_kind"]
    if kind not in _KINDS:
        raise row.error("measured_kind", f"one of {', '.join(_KINDS)}")
    if kind == "step_time_s":
        row.count("global_batch", None)  # a step takes as long as its batch is large
    measured = row.positive("measured_value", None) * (1e12 if kind == "tflops_per_gpu" else 1)
    job = job_of(row, calibration=calibration)
    found = time_step(job, calibration=calibration, unstated=unstated(row))
    predicted, unit = _in_measure(row, job, found.total)
    low, high = scaled(predicted, found.spread, unit)
    return Prediction(
        predicted=predicted,
        measured=measured,
        unit=unit,
        meter=class_of(job, calibration),
        low=low,
        high=high,
        parts=found.parts,
    )


def _in_measure(row: Row, job: TrainingJob, seconds: Any) -> tuple[Any, str]:
    """A step of so many seconds in the measure of the row's source, and the unit of that."""
    kind, devices = row["measured_kind"], job.cluster.devices
    if kind == "step_time_s":
        # the batch of the source, where micro-batches do not divide it
        return seconds * row.count("global_batch", job.batch) / job.batch, "seconds"
    if kind == "tokens_per_s_per_gpu":
        return job.batch * job.seq_len / seconds / devices, "tokens/s"
    hardware = kind == "hfu" or (job.recompute == "full" and bool(row.flag("counts_recompute")))
    rate = _flops(row, job, hardware) / seconds / devices
    if kind == "tflops_per_gpu":
        return rate, "FLOP/s"
    return rate / job.cluster.accelerator.peak(job.peak_format), "MFU"


# -- constants --------------------------------------------------------------------------------


def noted(row: Row, calibration: Mapping[str, Any]) -> Any:
    """What is predicted for a row with numbers on a tape in place of constants, for the job that the catalog's make."""
    job = job_of(row)
    constants = training_constants(job.cluster.accelerator, job.trainer, calibration, job.cluster.inter_link)
    seconds = time_layouts(StepTimer(job, job.layout, constants, detail="totals"))[1].total
    return _in_measure(row, job, seconds)[0]


def kinds_of(row: Row, calibration: Mapping[str, Any]) -> dict[str, str]:
    """What a row is of: everything that a fit may never have seen."""
    source = row["cluster"] or source_family(row.source)
    return {"source": source, **step_interval.kinds_of(job_of(row), calibration)}


def unstated(row: Row) -> tuple[str, ...]:
    """What the source leaves open of what decides the time, and is taken as usual: see `step_interval.UNSTATED`."""
    open_ = {"layout": bool(described(row).searched), "recompute": recompute_of(row) == "as needed"}
    return tuple(name for name, holds in open_.items() if holds)


def flags_of(row: Row, calibration: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes a row harder to predict."""
    job = job_of(row)
    return step_interval.flags_of(job, time_step(job).total, calibration, unstated(row))


_KEY = (
    "model_name n_layers d_model n_heads vocab seq_len gpu n_gpus tp pp vpp cp ep micro_batch global_batch precision "
    "recompute flash_attention sequence_parallel zero_stage measured_kind"
).split()


# What of the recipe makes another run of the same layout.
_RECIPE = (
    *("software", *FLAGS, *WORDS),
    *"packed compute fp8_recipe recompute_modules recompute_mode offload loss optimizer".split(),
    *"rank base adapters_only fsdp dp expert_tp".split(),
)


def configuration(row: Row) -> tuple[str, ...]:
    """What was run: rows in which it is the same are one group, as releases measure one configuration again."""
    return (*(row[name] for name in _KEY), *(row[name] for name in _RECIPE))
