"""How far a predicted step time may be off: by what is known of the kind of job that it is.

Errors on sources that no constants were fitted to say how wide 80 % of them lie, for a plain job and for everything
that makes one harder to predict. What is independent adds up as variances do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmhw.catalog import read_calibration
from llmhw.checks import checked
from llmhw.job import TrainingJob
from llmhw.language import said
from llmhw.model import ModelSpec
from llmhw.rates import BITS, TrainingConstants, family_of, interval_of, spec_kind

# What of a job nothing was fitted to -> the words for it.
NEW = {
    "family": "hardware not measured", "trainer": "software not measured", "layout": "kind of layout not measured",
    "model": "kind of model not measured",
}  # fmt: skip
# What a source left open -> the words for it.
UNSTATED = {"layout": "layout searched", "recompute": "recompute not stated"}
# Seconds below which a step is short: the host, latencies and the log's own grain are a larger share of it.
_SHORT = 0.5


def _experts(spec: ModelSpec) -> bool:
    return any(t.experts > 1 for layer, _ in spec.layer_kinds for t in layer.tensors)


@checked
def class_of(job: TrainingJob, calibration: Mapping[str, Any] | None = None) -> str:
    """Which measured errors speak for a job: dense or experts; other on devices that few rows were measured on."""
    families = (calibration or read_calibration(TrainingConstants.calibration))["families"]
    family = job.cluster.accelerator.family(families)
    if family == "other" or families[family].get("class") == "other":
        return "other"
    return "experts" if _experts(job.model) else "dense"


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


def flags_of(
    job: TrainingJob, seconds: float, calibration: Mapping[str, Any], unstated: Iterable[str] = ()
) -> tuple[str, ...]:
    """What makes a job's step harder to predict than that of a dense model on hardware that many have measured.

    seconds    of the step
    unstated   what a source left open and was taken as usual, see `UNSTATED`

    >>> from llmhw import Cluster, model
    >>> from llmhw.catalog import read_calibration
    >>> job = TrainingJob(model=model("mixtral-8x7b"), cluster=Cluster("rtx 4090", 8), seq_len=8192, compute="fp8")
    >>> flags_of(job, 0.1, read_calibration("training_time"))[:4]
    ('other hardware', 'mixture', '8 or 4 bit', 'step below 0.5 s')
    """
    own = {
        "other hardware": class_of(job, calibration) == "other",
        "mixture": _experts(job.model),
        "8 or 4 bit": BITS[job.compute_format] < 16,
        "eager kernels": job.trainer.elementwise == "eager",
        "step below 0.5 s": seconds < _SHORT,
        "fine-tuning": job.frozen,
        "states in host memory": job.parallelism.offload != "none",
    }
    own |= {words: what in unstated for what, words in UNSTATED.items()}
    fitted = calibration.get("fitted", {})
    for what, found in kinds_of(job, calibration).items():
        own[NEW[what]] = found not in fitted.get(what, (found,))
    own[NEW["family"]] = own[NEW["family"]] and not job.cluster.accelerator.reached
    return tuple(flag for flag, holds in own.items() if holds)


def step_interval(job: TrainingJob, flags: Iterable[str], calibration: Mapping[str, Any]) -> tuple[float, float] | None:
    """Least and most of measured over predicted time of 80 % of measurements; None where too few are near to a job.

    flags   those of `flags_of`
    """
    return interval_of(calibration, class_of(job, calibration), flags)


def interval_words(flags: Iterable[str], spread: tuple[float, float] | None) -> str:
    """What makes an interval as wide as it is, in words.

    >>> interval_words(["mixture", "layout searched"], (0.8, 1.24))
    'mixture, layout searched: plus or minus 22 %'
    >>> interval_words([], None)
    'dense model: no interval, too few measurements are near to it'
    """
    what = ", ".join(said(flag) for flag in flags) or said("dense model")
    if spread is None:
        return said("{what}: no interval, too few measurements are near to it", what=what)
    return said("{what}: plus or minus {percent:.0f} %", what=what, percent=50 * (spread[1] - spread[0]))
