"""Throughput of training beside published measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from llmhw import step_interval
from llmhw.flops import convention_flops, training_flops
from llmhw.hardware import Cluster, Link
from llmhw.job import Parallelism, TrainingJob
from llmhw.names import split_format
from llmhw.rates import training_constants
from llmhw.step_interval import class_of
from llmhw.step_time import StepTimer, time_layouts, time_step
from llmhw.training import memory
from llmhw.units import GB, LLMHWError
from llmhw.validation.statistics import Prediction, scaled, source_family
from llmhw.validation.table import Row, without_remark

# Columns without which no row can be predicted
REQUIRED = ("model_name", "gpu", "n_gpus", "seq_len", "global_batch", "measured_kind", "measured_value")

# GB per second and direction of a device's network adapter where nobody states it: 400 Gb/s.
_USUAL_ADAPTER = 50.0


def _cluster(row: Row) -> Cluster:
    device, count = row.device(), row.count("n_gpus", None)
    domain = device.scale_up_devices
    per_node = domain if domain > 2 else 8
    if count > per_node:
        # jobs fill racks of 72 in eights
        per_node = next(n for n in (per_node, 64, 32, 16, 8, 4, 2, 1) if n <= per_node and count % n == 0)
    between = Link("adapter", "scale-out", row.positive("adapter_gb_per_s", _USUAL_ADAPTER) * GB)
    return Cluster(device, count, per_node, inter_link=between)


def _kernels(row: Row) -> str:
    return row["kernels"] or ("torch" if row["zero_stage"].lower() in ("3", "fsdp") else "megatron")


# What a run switched otherwise than its software does, by column; see `llmhw.trainers`.
_FLAGS = ("compiled", "tp_overlap", "grad_overlap", "a2a_overlap")
_WORDS = ("software", "cuda_graph", "dispatcher", "grad_reduce")


def _switched(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {name: row.flag(name) for name in _FLAGS} | {name: row[name] or None for name in _WORDS}
    return found | {"packed": row.count("packed", 0, least=0) or None}


def job_of(row: Row, *, calibration: Mapping[str, Any] | None = None) -> TrainingJob:
    """What a row ran. Raises `LLMHWError` with the reason where it does not say enough.

    What the source leaves open is taken as the fastest that fits: micro-batch, and chunks of a pipeline stage. Layers
    whose recompute is "as needed" are recomputed only where the job would not fit.
    """
    cluster = _cluster(row)
    for name in ("tp", "pp"):
        if not row[name]:
            raise LLMHWError(f"{name} not stated, so the layout is not known")
    candidates = list(_candidates(row, cluster))
    chosen = candidates[0]
    if len(candidates) > 1:
        candidates.sort(key=lambda job: time_step(job, calibration=calibration).total)
        chosen = next((job for job in candidates if memory(job).fits), candidates[0])
    return chosen if _recompute(row) != "as needed" or memory(chosen).fits else replace(chosen, recompute="full")


_RECOMPUTE = ("none", "selective", "per-op", "block", "full", "as needed")


def _recompute(row: Row) -> str:
    found = row["recompute_mode"] or row["recompute"].replace("unknown", "") or "as needed"
    if found not in _RECOMPUTE:
        raise row.error("recompute", "none, selective, full or unknown")
    return found


def _compute(precision: str) -> str:
    """The format of a cell such as "fp8 (most submissions)" or "fp8-cs"; the cell itself where it is none."""
    left, stated = split_format(without_remark(precision))
    return precision if left or not stated else stated


def _candidates(row: Row, cluster: Cluster) -> Iterator[TrainingJob]:
    """Jobs of every micro-batch and number of chunks that the row leaves open."""
    spec = row.spec()
    sizes = {name: row.count(name) for name in ("tp", "pp", "cp", "ep")}
    inside, pp = sizes["tp"] * sizes["pp"] * sizes["cp"], sizes["pp"]
    if cluster.devices % inside:
        raise LLMHWError(f"tp x pp x cp = {inside} does not divide n_gpus={cluster.devices}")
    dp = cluster.devices // inside
    stage, kernels, recompute = row["zero_stage"].lower(), _kernels(row), _recompute(row)
    recipe = "fp32-bf16" if kernels == "torch" else "bf16-mixed-fp32-grads"
    batch, switched = row.count("global_batch", None), _switched(row)
    stated = row["vpp"] or pp == 1
    closed = stated or row["interleaving"] == "none"
    chunks = [row.count("vpp") if pp > 1 else 1] if closed else range(1, -(-(spec.num_layers + 2) // pp) + 1)
    problem: LLMHWError | None = None
    made = 0
    for micro in [row.count("micro_batch")] if row["micro_batch"] else [1, 2, 4, 8, 16]:
        # the last accumulation of a step may be a smaller one
        steps = max(1, round(batch / (micro * dp)))
        for vpp in chunks:
            try:
                yield TrainingJob(
                    model=spec,
                    cluster=cluster,
                    parallelism=Parallelism(
                        dp=dp,
                        tp=sizes["tp"],
                        pp=pp,
                        cp=sizes["cp"],
                        ep=sizes["ep"],
                        vpp=vpp,
                        zero=3 if stage == "fsdp" else int(stage) if stage in ("0", "1", "2", "3") else 1,
                        sequence_parallel=sizes["tp"] > 1 and row["sequence_parallel"] != "false",
                        uneven=pp > 1,
                        cp_kind=row["cp_kind"] or "ring" if sizes["cp"] > 1 else "ring",
                    ),
                    micro_batch=micro,
                    global_batch=steps * micro * dp,
                    seq_len=row.count("seq_len", None),
                    precision=row["recipe"] or recipe,
                    compute=row["compute"] or _compute(row["precision"]) or None,
                    recompute="none" if recompute == "as needed" else recompute,
                    recompute_layers=spec.num_layers // 2 // pp if recompute == "block" else 0,
                    attention="eager" if row["flash_attention"] == "false" else "flash",
                    kernels=kernels,
                    frozen=bool(row.flag("adapters_only")),
                    dropout=bool(row.flag("dropout")),
                    **switched,
                )
                made += 1
            except LLMHWError as error:
                problem = error
                if stated and vpp > 1:
                    # the schedule asks for whole rounds; what the source ran is taken as one chunk a stage
                    chunks = [1]
    if not made:
        raise problem or LLMHWError("no layout fits these sizes")


# -- predictions ------------------------------------------------------------------------------

_KINDS = ("step_time_s", "tokens_per_s_per_gpu", "tflops_per_gpu", "mfu", "hfu")


def _flops(row: Row, job: TrainingJob, hardware: bool) -> float:
    """FLOPs of a step as the source counts them."""
    if job.model.model_type == "gpt2":
        kind = "megatron" if hardware else "megatron-model"
        return float(convention_flops(job.model, kind, batch=job.batch, seq_len=job.seq_len).total)
    recompute = "full" if hardware and job.recompute == "full" else "none"
    return float(training_flops(job.model, batch=job.batch, seq_len=job.seq_len, recompute=recompute).total)


def predict(row: Row, *, calibration: Mapping[str, Any] | None = None) -> Prediction:
    """The speed of one row, in the measure that its source used. Raises `LLMHWError` with the reason if it cannot be.

    Rates count recomputed FLOPs where the column `counts_recompute` says so, else model FLOPs.
    """
    kind = row["measured_kind"]
    if kind not in _KINDS:
        raise row.error("measured_kind", f"one of {', '.join(_KINDS)}")
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
        return seconds * row.count("global_batch", None) / job.batch, "seconds"
    if kind == "tokens_per_s_per_gpu":
        return job.batch * job.seq_len / seconds / devices, "tokens/s"
    hardware = kind == "hfu" or (job.recompute == "full" and bool(row.flag("counts_recompute")))
    rate = _flops(row, job, hardware) / seconds / devices
    if kind == "tflops_per_gpu":
        return rate, "FLOP/s"
    return rate / job.cluster.accelerator.peak(job.compute_format.removesuffix("-block")), "MFU"


# -- constants --------------------------------------------------------------------------------


def noted(row: Row, calibration: Mapping[str, Any]) -> Any:
    """What is predicted for a row with numbers on a tape in place of constants, for the job that the catalog's make."""
    job = job_of(row)
    constants = training_constants(job.cluster.accelerator, job.trainer, calibration)
    seconds = time_layouts(StepTimer(job, job.layout, constants, detail="totals"))[1].total
    return _in_measure(row, job, seconds)[0]


def kinds_of(row: Row, calibration: Mapping[str, Any]) -> dict[str, str]:
    """What a row is of: everything that a fit may never have seen."""
    source = row["cluster"] or source_family(row.source)
    return {"source": source, **step_interval.kinds_of(job_of(row), calibration)}


def unstated(row: Row) -> tuple[str, ...]:
    """What the source leaves open of what decides the time, and is taken as usual: see `step_interval.UNSTATED`."""
    layout = not row["tp"] or not row["pp"]
    return tuple(name for name, open_ in (("layout", layout), ("recompute", _recompute(row) == "as needed")) if open_)


def flags_of(row: Row, calibration: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes a row harder to predict."""
    job = job_of(row)
    return step_interval.flags_of(job, time_step(job).total, calibration, unstated(row))


_KEY = (
    "model_name n_layers d_model n_heads vocab seq_len gpu n_gpus tp pp vpp cp ep micro_batch global_batch precision "
    "recompute flash_attention sequence_parallel zero_stage measured_kind"
).split()


def configuration(row: Row) -> tuple[str, ...]:
    """What was run: rows in which it is the same are one group, as releases measure one configuration again."""
    return (*(row[name] for name in _KEY), *(row[name] for name in (*_FLAGS, *_WORDS, "packed", "compute")))
