"""The fewest cuts of a model with which a training job fits: a rule of thumb on plain numbers, no search."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Any

from llmhw.hardware import Cluster
from llmhw.job import Parallelism, TrainingJob, data_parallel, limits_of
from llmhw.margin import known_error, visible_bytes
from llmhw.memory import training_states
from llmhw.model import ModelSpec
from llmhw.planning.usual import usual_batch
from llmhw.training import device_bytes
from llmhw.units import LLMHWError, ceil_div


def fewest_cuts(
    spec: ModelSpec,
    cluster: Cluster,
    *,
    tp: int | None = None,
    pp: int | None = None,
    layout: Mapping[str, Any] | None = None,
    **asked: Any,
) -> TrainingJob:
    """The job with the fewest pipeline stages, then the fewest tensor-parallel ranks, with which it fits well.

    tp, pp   where they are given they stay
    layout   other fields of `llmhw.Parallelism`; data parallelism takes the devices that are left, experts as many
             ranks of a node as share them evenly
    asked    other fields of `llmhw.TrainingJob`; a batch that is not given is `usual_batch`, in whole micro-batches

    Powers of two are tried, tp within a node, as its messages are the largest; layers that stages cannot share evenly
    are dealt by cost. Where nothing fits well it is the layout that holds least. `llmhw.search` finds the fastest.
    Raises `LLMHWError` where no layout is valid.

    >>> from llmhw import model
    >>> made = fewest_cuts(model("llama-3-70b"), Cluster("h100", 64, inter_link="infiniband ndr")).parallelism
    >>> made.tp, made.pp, made.dp
    (8, 4, 2)
    """
    kept = dict(layout or {})
    room, n = visible_bytes(cluster.accelerator), cluster.devices
    tps = [tp] if tp else [2**i for i in range(min(n, cluster.devices_per_node).bit_length())]
    first = 1 if kept.get("vpp", 1) > 1 else 0  # chunks need stages
    pps = [pp] if pp else [2**i for i in range(first, min(n, spec.num_layers, _MOST_STAGES).bit_length())]
    error, wrong = known_error("training"), list[LLMHWError]()
    best: tuple[bool, float, TrainingJob] | None = None

    def tried(stages: int, ranks: int) -> tuple[bool, float, TrainingJob] | None:
        """Whether it is far from fitting, what it holds, and the job; None where a rule forbids it."""
        try:
            made = _cut(spec, cluster, {"tp": ranks, "pp": stages, **kept}, asked)
        except LLMHWError as refused:
            wrong.append(refused)
            return None
        held = _least_bytes(made)  # what is far from fitting is not worked out further
        return (True, held, made) if held > room else (False, device_bytes(made), made)

    for stages in pps:
        most = next(filter(None, (tried(stages, ranks) for ranks in reversed(tps))), None)
        if most is None:
            continue
        if most[1] * (1 + error) <= room:  # more ranks hold less: fewer may do, too
            fewer = (tried(stages, ranks) for ranks in tps if ranks < most[2].parallelism.tp)
            return next((one[2] for one in fewer if one and one[1] * (1 + error) <= room), most[2])
        best = most if best is None else min(best, most, key=lambda one: one[:2])
    if best is None:
        raise wrong[0] if wrong else LLMHWError(f"devices={n} leave no layout; give tp and pp")
    return best[2]


_MOST_STAGES = 64


def _cut(spec: ModelSpec, cluster: Cluster, sizes: Mapping[str, Any], asked: Mapping[str, Any]) -> TrainingJob:
    """The job in one layout."""
    numbers = {name: int(sizes.get(name, 1)) for name in ("tp", "pp", "cp")}
    dp = data_parallel(devices=cluster.devices, **numbers)
    more: dict[str, Any] = {"dp": dp, "sequence_parallel": numbers["tp"] > 1}
    experts = limits_of(spec, cluster).experts
    if experts > 1 and "ep" not in sizes:
        more["ep"] = gcd(experts, min(cluster.devices_per_node, dp * numbers["tp"] * numbers["cp"]))
    given = dict(asked)
    if given.get("global_batch") is None:
        one = TrainingJob(model=spec, cluster=Cluster(cluster.accelerator), **{**given, "micro_batch": 1})
        rounds = numbers["pp"] if sizes.get("vpp", 1) > 1 else 1
        unit = dp * int(given.get("micro_batch", 1)) * rounds
        given["global_batch"] = ceil_div(int(usual_batch(one).value), unit) * unit
    layers, stages = spec.num_layers, numbers["pp"] * int(sizes.get("vpp", 1))
    if layers % stages and (layers + 2) % stages == 0:
        more["uneven"] = True
    elif layers % stages and int(sizes.get("vpp", 1)) == 1:
        more["by_cost"] = True
    layout = Parallelism(**{**more, **sizes})
    made = TrainingJob(model=spec, cluster=cluster, parallelism=layout, **given)
    made.check_effects()
    return made


def _least_bytes(job: TrainingJob) -> float:
    """What a rank holds at least: its even part of weights and optimizer; what cannot fit is then not worked out."""
    p = job.parallelism
    if job.frozen or p.offload != "none":
        return 0.0
    held = training_states(job.model, optimizer=job.optimizer, precision=job.precision)
    weights = float(held["weights"])
    cut = float(held.total) - float(held["gradients"]) - weights
    ranks = p.tp * p.pp * p.ep  # experts may be cut by ep once more; dense weights are not: less is held by none
    return weights / (ranks * (p.dp if p.zero == 3 else 1)) + cut / (ranks * (p.shards if p.zero else 1))
