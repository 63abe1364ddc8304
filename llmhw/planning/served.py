"""The layout in which a few devices serve a model, by trying each: what the search finds, without NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from llmhw.job import ServingJob, limits_of
from llmhw.service import Point, at_load
from llmhw.units import LLMHWError


def _layouts(devices: int, experts: int, stages: bool) -> Iterator[dict[str, int]]:
    """Tensor-parallel sizes, whose rest are replicas, and experts over all devices; or pipelines of such groups."""
    sizes = [n for n in range(1, devices + 1) if devices % n == 0]
    if not stages:
        yield from ({"tp": tp} for tp in sizes)
        if experts > 1 and experts % devices == 0:
            yield {"tp": 1, "ep": devices, "attention_dp": devices}
        return
    yield from ({"tp": tp, "pp": pp} for pp in sizes[1:] for tp in sizes if devices % (tp * pp) == 0)


def served_layout(
    job: ServingJob,
    *,
    input_tokens: int,
    output_tokens: int,
    concurrency: int,
    slo_ttft: float | None = None,
    slo_tpot: float | None = None,
) -> ServingJob:
    """The job in the layout with most tokens a second at a load, of those that keep the limits, if any does.

    Tried are those that `planned_layout` searches: tensor parallelism and replicas, experts over all devices, and a
    pipeline where nothing else fits. A layout that was asked for, an engine that deals layers to all devices, and a job
    that fits in no layout stay as they are.

    >>> from llmhw import Cluster, model
    >>> job = ServingJob(model=model("llama-3-70b"), cluster=Cluster("h100", 4))
    >>> served_layout(job, input_tokens=1000, output_tokens=500, concurrency=8).tp
    4
    """
    n = job.cluster.devices
    asked = any(job.was_asked(name) for name in ("tp", "pp")) or job.ep > 1 or job.attention_dp > 1
    if asked or n == 1 or not job.software.paged or job.split == "layers":
        return job
    load: dict[str, Any] = {"input_tokens": input_tokens, "output_tokens": output_tokens, "concurrency": concurrency}

    def rank(point: Point) -> tuple[bool, float]:
        late = [limit is not None and seconds > limit for limit, seconds in
                ((slo_ttft, point.ttft_seconds), (slo_tpot, point.tpot_seconds))]  # fmt: skip
        return not any(late), point.tokens_per_second

    experts = limits_of(job.model, job.cluster).experts
    for stages in (False, True):
        found: list[tuple[tuple[bool, float], ServingJob]] = []
        for layout in _layouts(n, experts, stages):
            try:
                tried = replace(job, **layout)  # type: ignore[arg-type]
                point = at_load(tried, **load)
            except LLMHWError:  # heads that do not divide, a network that is not known
                continue
            if point.concurrency:
                found.append((rank(point), tried))
        if found:
            return max(found, key=lambda entry: entry[0])[1]
    return job
