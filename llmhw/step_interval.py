"""How far a predicted step time may be off: by what is known of the kind of job that it is.

Errors of sources that no constants were fitted to say how wide 80 % of them lie, for a plain job and for everything
that makes one harder to predict; what is independent of each other adds up as variances do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmhw.checks import checked
from llmhw.job import TrainingJob
from llmhw.rates import TrainingConstants, family_of, interval_of, spec_kind


@checked
def class_of(job: TrainingJob, calibration: Mapping[str, Any] | None = None) -> str:
    """Which measured errors speak for a job: dense or experts; other on devices whose family was hardly measured."""
    if family_of(TrainingConstants, job.cluster.accelerator, calibration) == "other":
        return "other"
    return "experts" if any(t.experts > 1 for layer, _ in job.model.layer_kinds for t in layer.tensors) else "dense"


def layout_kind(job: TrainingJob) -> str:
    """Layouts whose speed has the same limits: the sizes above 1 by name; data alone is whole or sharded.

    >>> from llmhw import Cluster, Parallelism, model
    >>> layout_kind(TrainingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 8), seq_len=8192,
    ...                         parallelism=Parallelism(dp=2, tp=4)))
    'tp'
    """
    p = job.parallelism
    split = [name for name in ("tp", "pp", "cp", "ep") if getattr(p, name) > 1]
    if p.zero == 3:
        split.append("sharded")
    return " + ".join(split) or ("data" if p.dp > 1 else "one device")


def kinds_of(job: TrainingJob, calibration: Mapping[str, Any]) -> dict[str, str]:
    """What a job is of, by what it may differ in from everything that was fitted."""
    device = job.cluster.accelerator
    family = family_of(TrainingConstants, device, calibration)
    return {
        "family": device.architecture if family == "other" else family,
        "trainer": job.trainer.name,
        "layout": layout_kind(job),
        "model": spec_kind(job.model),
    }


def step_interval(job: TrainingJob, calibration: Mapping[str, Any]) -> tuple[float, float] | None:
    """Least and most of measured over predicted time of 80 % of measurements; None where too few are near to a job."""
    fitted = calibration.get("fitted", {})
    new = [name for name, found in kinds_of(job, calibration).items() if found not in fitted.get(name, (found,))]
    return interval_of(calibration, class_of(job, calibration), new)
