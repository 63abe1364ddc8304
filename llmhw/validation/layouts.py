"""Layouts that somebody published, and where they stand among all that the search knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from llmhw.catalog import read_measurements, read_table
from llmhw.hardware import Cluster
from llmhw.job import ServingJob, TrainingJob, limits_of, saves_attention
from llmhw.units import LLMHWError, shown
from llmhw.validation.table import Row
from llmhw.validation.training_jobs import described

if TYPE_CHECKING:
    from llmhw.search import Found

# Sizes that hold a search to what a source states.
_STATED = {"tp": "tp", "pp": "pp", "vpp": "vpp", "cp": "cp", "ep": "ep", "micro_batch": "micro_batch"}
_SPLIT = ("tp", "pp", "ep", "attention_dp")


@dataclass(frozen=True, eq=False)
class PublishedLayout:
    """A layout that a paper or the pages of an engine name.

    job      with that layout; what the source leaves open is chosen as `llmhw.validation` does for measurements
    stated   sizes that the source states
    load     of serving: lengths, and users at a time if the source says how many
    per      "engine": one engine takes all devices. "device": the source advises it for most tokens a device, and the
             devices may run several engines
    why      for what reason a search ranks it low, where it does
    """

    name: str
    job: TrainingJob | ServingJob
    stated: Mapping[str, Any]
    load: Mapping[str, int]
    per: str
    why: str
    source: str
    date: str
    note: str

    def __str__(self) -> str:
        return f"{self.name} on {self.job.cluster.devices} x {self.job.cluster.accelerator.name}"


@dataclass(frozen=True)
class Standing:
    """Where a published layout stands.

    layout    what was published
    own       the fastest way to fill in what its source leaves open, as the search finds it
    fits      whether that fits in memory; else it is the one that needs least
    best      the fastest of all layouts
    faster    how many of those that fit are faster, out of `fitting`. Of serving, layouts of the kinds that engines
              document: tensor parallel inside a node and a pipeline between nodes, attention whole or cut, experts
              whole or spread over all ranks
    """

    layout: PublishedLayout
    own: Found
    fits: bool
    best: Found
    faster: int
    fitting: int

    @property
    def share(self) -> float:
        """Layouts that are faster, as a share of all that fit."""
        return self.faster / self.fitting

    @property
    def slower(self) -> float:
        """Seconds of the published layout over those of the best."""
        return float(self.own.seconds / self.best.seconds)


@cache
def published_layouts(kind: str) -> tuple[PublishedLayout, ...]:
    """The layouts of `catalog/layouts.csv`.

    kind   "training" or "serving"

    >>> published_layouts("serving")[0].job.tp
    1
    """
    makers = {"training": _training, "serving": _serving}
    if kind not in makers:
        raise LLMHWError(f"kind={shown(kind)} is not known; use training or serving")
    return tuple(makers[kind](row) for row in read_table("layouts") if row["kind"] == kind)


_OWN = ("name", "kind", "measured", "schedule", "why", "status", "date", "source", "note", "per", "weights", "kv")


def _training(cells: dict[str, str]) -> PublishedLayout:
    measured: dict[str, str] = {}
    if cells["measured"]:
        rows = read_measurements("training_throughput")
        measured = next(row for row in rows if row["id"] == cells["measured"])
    said = {name: value for name, value in cells.items() if value and name not in _OWN}
    row = Row(measured | said, cells["name"])
    job = described(row).job
    if cells["schedule"]:
        job = replace(job, parallelism=replace(job.parallelism, schedule=cells["schedule"]))
    stated: dict[str, Any] = {name: getattr(job.layout, name) for name, column in _STATED.items() if row[column]}
    stated |= {"sharding": ((job.parallelism.zero, job.parallelism.replicas),), "schedule": job.parallelism.schedule}
    stated |= {name: getattr(job.parallelism, name) for name in ("expert_tp", "sequence_parallel")}
    if row["recompute"] not in ("", "unknown"):
        stated["recompute"] = job.recompute
    return _made(cells, job, stated, {})


def _serving(cells: dict[str, str]) -> PublishedLayout:
    lengths = ("input_tokens", "output_tokens", "concurrency")
    load = {str(name): int(cells[name]) for name in lengths if cells[name]}
    asked: dict[str, Any] = {name: int(cells[name]) for name in _SPLIT if cells[name]}
    asked |= {"model": cells["model"], "engine": cells["software"], "weights": cells["weights"], "kv": cells["kv"]}
    cluster = Cluster(cells["device"], int(cells["n_gpus"]), inter_link=cells["network"] or None)
    job = ServingJob(cluster=cluster, **asked)
    return _made(cells, job, {name: getattr(job, name) for name in _SPLIT}, load)


def _made(cells: dict[str, str], job: Any, stated: dict[str, Any], load: dict[str, int]) -> PublishedLayout:
    text = {name: cells[name] for name in ("name", "why", "source", "date", "note")}
    return PublishedLayout(job=job, stated=stated, load=load, per=cells["per"], **text)


# What Megatron-LM did in 2021: every layer checkpointed, and no split norms, no ZeRO, no context parallelism yet.
OF_2021: dict[str, Any] = {"sequence_parallel": False, "cp": 1, "sharding": ((0, 1),), "recompute": "full"}


def standing(layout: PublishedLayout, **space: Any) -> Standing:
    """Search with what the source states, and again with everything open, or as `space` holds it.

    space   axes, as in `llmhw.search`; `OF_2021` are those that were known then

    >>> where = standing(published_layouts("training")[1], **OF_2021)
    >>> where.fits, where.share < 0.1
    (True, True)
    """
    return (_trained if isinstance(layout.job, TrainingJob) else _served)(layout, **space)


def filled_in(layout: PublishedLayout) -> tuple[Found, bool]:
    """The fastest way to fill in what a source of training leaves open, and whether it fits; else the smallest.

    >>> found, fits = filled_in(published_layouts("training")[0])
    >>> found.layout["tp"], found.layout["pp"], fits
    (8, 12, True)
    """
    from llmhw.search import search

    found = search(layout.job, **{**_wide(layout.job), **layout.stated}, best=1)
    own = found.best[0] if found.best else found.closest
    if own is None:
        raise LLMHWError(f"{layout} keeps no rule of the search: {', '.join(found.refused)}")
    return own, bool(found.best)


def _wide(job: Any) -> dict[str, Any]:
    """Axes that have more values than usual: the schedule and recompute of the layout itself."""
    wide: dict[str, Any] = {"schedule": tuple(dict.fromkeys(("1f1b", job.parallelism.schedule)))}
    if job.recompute == "selective" and not saves_attention(job):
        wide["recompute"] = ("none", "selective", "full")
    return wide


def _trained(layout: PublishedLayout, **space: Any) -> Standing:
    from llmhw.search import search

    own, fits = filled_in(layout)
    every = search(layout.job, **{**_wide(layout.job), **space}, best=1, than=own.seconds * (1 - 1e-9))
    return Standing(layout, own, fits, every.best[0], every.faster or 0, every.fitting)


def _served(layout: PublishedLayout, **space: Any) -> Standing:
    from llmhw.search import search

    job: Any = layout.job
    axes: dict[str, Any] = {**_documented(job, layout.per), "weights": job.weights, "kv": job.kv, **layout.load}
    found = search(job, best=10_000, **axes | space).best
    kept = [one for one in found if _is_documented(one.job, layout.per)]
    own = next(one for one in kept if all(getattr(one.job, name) == value for name, value in layout.stated.items()))
    return Standing(layout, own, True, kept[0], sum(one.seconds < own.seconds * (1 - 1e-9) for one in kept), len(kept))


def _documented(job: ServingJob, per: str) -> dict[str, Any]:
    """Values of the axes that engines' pages know.

    vLLM: "tensor parallel size to the number of GPUs in each node, pipeline parallel size to the number of nodes";
    experts are spread over all ranks or none, and attention is cut over them or copied.
    """
    n, node = job.cluster.devices, min(job.cluster.devices, job.cluster.devices_per_node)
    sizes = [d for d in range(1, n + 1) if n % d == 0] if per == "device" else sorted({1, node, n})
    several = sizes if limits_of(job.model, job.cluster).experts > 1 else [1]
    heads = [d for d in sizes if job.model.heads % d == 0]
    return {"tp": heads, "pp": sorted({1, n // node}), "ep": several, "attention_dp": several}


def _is_documented(job: ServingJob, per: str) -> bool:
    """Whether these values go together."""
    ranks = job.tp * job.attention_dp
    nodes = -(-job.devices // job.cluster.devices_per_node)
    stages = job.pp == (1 if job.attention_dp > 1 else nodes)
    alone = per == "device" or job.replicas == 1
    return alone and stages and job.ep in (1, ranks) and 1 in (job.tp, job.attention_dp)
