"""Clusters and training jobs from settings, as Python and as a command."""

from __future__ import annotations

from typing import Any

from llmhw.hardware import Accelerator, Cluster, links, usual_network
from llmhw.job import TrainingJob
from llmhw.live.base import Control
from llmhw.live.models import Chosen
from llmhw.live.typed import Code, call, command
from llmhw.units import LLMHWError

AUTO = "auto"
# Devices that are had together: powers of two, a few nodes of 8, and racks of 72.
_NUMBERS = sorted({*(2**i for i in range(15)), 24, 48, 72, 96, 144, 576})
COUNTS = tuple((str(n), f"{n:,}") for n in _NUMBERS)
NETWORKS = ((AUTO, "the fastest that is rented with it"),
            *((one.name, one.name) for one in links() if one.name.startswith(("InfiniBand", "RoCE"))))  # fmt: skip

MICRO_BATCH = Control("micro_batch", "number", 1, "Micro-batch", least=1, most=64, logarithmic=True, unit="sequences")
SEQ_LEN = Control("seq_len", "number", 4096, "Sequence length", least=128, most=131072, step=128, logarithmic=True,
                  unit="tokens")  # fmt: skip
PRICE = Control("price", "number", 0, "Rent of a device-hour", least=0, most=50, step=0.05, whole=False, unit="$",
                help="0: the cheapest of the catalog", more=True)  # fmt: skip


def cluster_of(
    device: Accelerator, count: int, network: str = AUTO, *, joined: bool = True
) -> tuple[Cluster, str | None]:
    """The devices, joined by a network of the catalog; and its name where it was asked for and counts.

    joined   whether devices of several nodes must be
    """
    one = Cluster(device, count)
    if one.nodes == 1 or not joined:
        return one, None
    named = None if network == AUTO else network
    between = named or usual_network(device)
    if between is None:
        raise LLMHWError(
            f"network between nodes of {one.accelerator.name} is not known: no machine for rent says what it has; "
            "choose one among the further settings"
        )
    return Cluster(device, count, inter_link=between), named


def cluster_call(c: Cluster, named: str | None) -> Code:
    """The same in Python."""
    link: Any = named
    if named is None and c.nodes > 1 and c.inter_link is not None:
        link = Code(call("usual_network", c.accelerator.name))
    return Code(call("llmhw.Cluster", c.accelerator.name, c.devices, inter_link=link))


def changed_fields(thing: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Fields that are not as they are at first."""
    kinds = type(thing).__dataclass_fields__
    return {name: getattr(thing, name) for name in names if getattr(thing, name) != kinds[name].default}


_OF_LAYOUT = ("dp", "tp", "pp", "vpp", "cp", "ep", "zero", "sequence_parallel", "schedule", "uneven", "by_cost")
_OF_JOB = ("micro_batch", "global_batch", "seq_len", "recompute", "precision", "optimizer", "compute")


def job_call(job: TrainingJob, model: Chosen, named: str | None) -> str:
    """A training job as lines of Python that make `job`."""
    layout = Code(call("llmhw.Parallelism", **changed_fields(job.parallelism, _OF_LAYOUT)))
    asked = changed_fields(job, _OF_JOB)
    where = cluster_call(job.cluster, named)
    uses = "from llmhw.hardware import usual_network\n" if "usual_network(" in where else ""
    made = call("llmhw.TrainingJob", model=model.python, cluster=where, parallelism=layout, **asked)
    return f"import llmhw\n{uses}job = {made}\n"


def job_command(verb: str, job: TrainingJob, model: Chosen, network: str | None, **more: Any) -> str:
    """The same as a command."""
    layout = changed_fields(job.parallelism, tuple(name for name in _OF_LAYOUT if name != "dp"))
    options = {"gpu": job.cluster.accelerator.name, "gpus": job.cluster.devices, "network": network}
    options |= {"zero": job.parallelism.zero} | layout | changed_fields(job, (*_OF_JOB[:2], *_OF_JOB[3:]))
    return command(verb, model.word, options=options | {"seq_len": job.seq_len} | more)
