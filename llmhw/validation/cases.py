"""Published training speeds as cases: the job of each configuration, its estimate, and simpler predictors beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from math import log
from typing import Any

from llmhw.catalog import read_calibration, read_measurements
from llmhw.job import TrainingJob
from llmhw.training import TrainingEstimate, train
from llmhw.validation.kinds import validate
from llmhw.validation.statistics import Group, percentile, source_family
from llmhw.validation.table import Row
from llmhw.validation.training_throughput import flags_of, job_of


@dataclass(frozen=True)
class Case:
    """One configuration of the catalog's training speeds.

    group      measured, predicted, error, and whether the interval held
    row        of the table
    family     of sources, which are left out together
    device     accelerator and number format
    flags      what makes it hard to predict
    slow       measured over predicted time
    estimate   the library's answer
    """

    group: Group
    row: Row
    family: str
    device: str
    flags: tuple[str, ...]
    slow: float
    estimate: TrainingEstimate

    @property
    def job(self) -> TrainingJob:
        return self.estimate.job

    @property
    def kind(self) -> str:
        """dense, experts or other: whose interval it has."""
        return self.group.meter

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.group.error

    @property
    def mfu(self) -> float:
        """MFU as it was measured."""
        return self.estimate.mfu / self.slow

    @property
    def hfu(self) -> float:
        """The same with what is recomputed counted."""
        return self.estimate.hfu / self.slow

    @property
    def speed(self) -> float:
        """Tokens per second and device, as measured."""
        return self.estimate.tokens_per_second_per_device / self.slow

    @property
    def seconds(self) -> float:
        """Of a step, as measured."""
        return self.estimate.step_seconds * self.slow


@cache
def cases() -> tuple[Case, ...]:
    """Every configuration of training speed in the catalog, with its job and estimate. Takes some seconds."""
    known = read_calibration("training_time")
    rows = {row["id"]: Row(row) for row in read_measurements("training_throughput")}
    made = []
    for group in validate(None, "training-throughput").groups:
        row, ratio = rows[group.ids[0]], group.measured / group.predicted
        job = job_of(row)
        device = f"{job.cluster.accelerator.name} {job.compute_format}"
        slow = ratio if group.unit == "seconds" else 1 / ratio
        family = row["cluster"] or source_family(group.source)
        made.append(Case(group, row, family, device, flags_of(row, known), slow, train(job)))
    return tuple(made)


def by_family(found: Iterable[Case]) -> dict[str, list[Case]]:
    """Cases by family of sources, the largest first."""
    families: dict[str, list[Case]] = {}
    for case in found:
        families.setdefault(case.family, []).append(case)
    return dict(sorted(families.items(), key=lambda item: -len(item[1])))


def baseline_mfu(
    found: Iterable[Case], by: Callable[[Case], Any], *, leave_out: bool = False, what: str = "mfu"
) -> tuple[int, list[float]]:
    """How many numbers a rule of thumb needs, and its errors: one MFU for each of what `by` tells apart.

    Each is the one with the least median error over the very cases that it is judged by; `leave_out`: over those of
    other families of sources. `what`: mfu, or hfu.
    """
    pots: dict[Any, list[Case]] = {}
    for case in found:
        pots.setdefault(by(case), []).append(case)
    errors: list[float] = []
    for pot in pots.values():
        for family in {case.family for case in pot}:
            seen = [getattr(c, what) for c in pot if not leave_out or c.family != family]
            judged = [getattr(c, what) for c in pot if c.family == family]
            if seen:
                best = min(seen, key=lambda one: percentile([abs(one / mfu - 1) for mfu in seen], 50))
                errors += [abs(best / mfu - 1) for mfu in judged]
    return len(pots), errors


def summary(errors: Iterable[float]) -> dict[str, Any]:
    """Count, median and 90th percentile of sizes of errors, as a row of a table."""
    sizes = [abs(error) for error in errors]
    return {"n": len(sizes), "median": percentile(sizes, 50), "p90": percentile(sizes, 90)}


def stated(errors: Mapping[str, Any]) -> dict[str, Any]:
    """The same of errors that a calibration states, as in `left_out`."""
    return {"n": errors["groups"], "median": errors["median_abs_error"], "p90": errors["p90_abs_error"]}


def value_of(constants: Mapping[str, Any], name: str) -> float:
    """A constant by its path: families.hopper.matmul."""
    found: Any = constants
    for key in name.split("."):
        found = found[key]
    return float(found)


def prior_constants() -> dict[str, Any]:
    """The constants of training time as they were before any fit."""
    known = read_calibration("training_time")
    made: dict[str, Any] = deepcopy({**known})
    for name, prior in known["prior"].items():
        *path, last = name.split(".")
        inner = made
        for key in path:
            inner[key] = {**inner[key]}
            inner = inner[key]
        inner[last] = prior["value"]
    return made


def moved_constants() -> dict[str, float]:
    """How far each fitted constant went from its prior, in the prior's own spreads."""
    known = read_calibration("training_time")
    fitted = {name: prior for name, prior in known["prior"].items() if "held" not in prior}
    return {name: log(value_of(known, name) / p["value"]) / p["spread"] for name, p in fitted.items()}


def same_questions(found: Iterable[Case], least: int = 4) -> list[list[Case]]:
    """Cases that differ in their layout alone: one model on the same devices, measured in several layouts."""
    names = ("model_name", "n_layers", "d_model", "seq_len", "gpu", "n_gpus", "precision")
    same: dict[Any, list[Case]] = {}
    for case in found:
        same.setdefault((case.family, *(case.row[name] for name in names)), []).append(case)
    return [some for some in same.values() if len(some) >= least]


def picked(some: Iterable[Case], constants: Mapping[str, Any] | None = None) -> Case:
    """The layout that is predicted fastest."""
    return max(some, key=lambda case: train(case.job, calibration=constants).tokens_per_second_per_device)


_NOISE = re.compile(
    r" \(.*?\)|_torchtitan.md| performance summary| et al\.| llm-foundry| training benchmarks| README| benchmarks"
    r"| recipes| Framework|refs/"
)


def short(name: str) -> str:
    """A source's name as a table has room for.

    >>> short("torchtune README (2025)")
    'torchtune'
    """
    return _NOISE.sub("", name)[:30].strip(" /")
