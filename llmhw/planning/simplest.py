"""The simplest kind of layout that trains a job well: three questions, each answered by the library.

The search ranks every layout and gives no reason. These questions give reasons, and the search says what they miss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from llmhw.checks import check_object
from llmhw.hardware import Cluster
from llmhw.job import TrainingJob
from llmhw.messages import group_bandwidth, hiding_tokens
from llmhw.search import search

# Kind of layout -> what holds `llmhw.search` to it.
KINDS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "data parallel": {"tp": 1, "pp": 1, "cp": 1, "sharding": ((0, 1), (1, 1))},
    "FSDP": {"tp": 1, "pp": 1, "cp": 1},
    "FSDP, sequences cut by tp or cp": {"pp": 1},
    "a pipeline beside tp": {},
})  # fmt: skip


@dataclass(frozen=True)
class Simplest:
    """An answer to "which layout", with what it rests on.

    kind     one of `KINDS`
    tokens   of a step on each device
    needed   tokens from which on a device multiplies for longer than its weights are gathered
    """

    kind: str
    tokens: float
    needed: float

    @property
    def how(self) -> dict[str, Any]:
        """What holds `llmhw.search` to this kind."""
        return dict(KINDS[self.kind])


def gathered_tokens(cluster: Cluster, *, whole: float = 1, active: float = 1, local_ranks: int | None = None) -> float:
    """Tokens of a device from which on the gathering of weights over a cluster hides behind their products, at peak.

    whole, active   parameters that are gathered, and those that a token uses
    local_ranks     ranks of the group in one node; default: all devices of the node

    >>> from llmhw import instance
    >>> cluster = instance("Standard_ND96isr_H100_v5").cluster(nodes=2)
    >>> round(gathered_tokens(cluster)), round(gathered_tokens(cluster, local_ranks=1))
    (2474, 19788)
    """
    inside = cluster.link_for(cluster.devices_per_node).bytes_per_second
    rate = inside
    if cluster.devices > cluster.devices_per_node:
        rate = group_bandwidth(
            local_ranks=local_ranks or cluster.devices_per_node,
            inside_bytes_per_second=inside,
            between_bytes_per_second=cluster.link_for(cluster.devices).bytes_per_second,
        )
    return float(
        hiding_tokens(
            bytes_per_param=2 * whole / active,  # bf16
            flops_per_param=2,
            flops_per_second=cluster.peak("bf16") / cluster.devices,
            bandwidth_bytes_per_second=rate,
        )
    )


def simplest(job: TrainingJob) -> Simplest:
    """The simplest kind of layout for a job: its own layout is not looked at.

    1. Do all states of a copy fit on one device? Data parallel.
    2. Has each device fewer tokens a step than hide the gathering of weights? A pipeline, which gathers once a step.
    3. Does FSDP fit with a whole sequence on each device? FSDP. If not, tensor or context parallel beside it.

    >>> from llmhw import Cluster, Parallelism, model
    >>> job = TrainingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 8), global_batch=64, seq_len=8192,
    ...                   parallelism=Parallelism(dp=8))
    >>> simplest(job).kind
    'FSDP'
    """
    check_object("job", job, "TrainingJob")
    spec = job.model.parameters
    tokens = job.batch * job.seq_len / job.cluster.devices
    needed = gathered_tokens(job.cluster, whole=spec.total, active=spec.active)
    whole = {**KINDS["data parallel"], "sharding": ((0, 1),)}
    if search(job, best=1, **whole).best:
        kind = "data parallel"
    elif tokens < needed:
        kind = "a pipeline beside tp"
    else:
        fits = bool(search(job, best=1, **KINDS["FSDP"]).best)
        kind = "FSDP" if fits else "FSDP, sequences cut by tp or cp"
    return Simplest(kind, tokens, needed)
