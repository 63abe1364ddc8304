"""Every valid layout of a job over devices and counts, ranked: the formulas of one job, evaluated on arrays of many.

Structure (stages, schedules) is enumerated in Python; numbers lie on axes that broadcast against each other, so that what
knows only some of them is evaluated once. The scalar answer is the zero-dimensional case of the same code.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, replace
from types import ModuleType
from typing import Any

import numpy as np

from llmhw.cost import price_of
from llmhw.hardware import Cluster
from llmhw.job import (
    BATCH_RULES,
    JOB_RULES,
    LAYOUT_RULES,
    TENSOR_RULES,
    Layout,
    Limits,
    Parallelism,
    Rule,
    ServingJob,
    TrainingJob,
    limits_of,
)
from llmhw.formula import Ledger
from llmhw.memory import optimizer_named
from llmhw.model import Tensor
from llmhw.rates import TrainingConstants, constants_of
from llmhw.sharding import Stage, StageTensors, stages_of, uncut_rows, state_terms
from llmhw.step_time import StepTimer, default_software, time_layouts
from llmhw.training import StepMemory, on_device
from llmhw.units import LLMHWError, format_quantity, html_table, text_table

# Axes of the arrays, outermost first: what fewer formulas know stands further out.
AXES = ("recompute", "sharding", "micro_batch", "sequence_parallel", "expert_tp", "ep", "cp", "tp")
SHARDING = ((0, 1), (1, 1), (2, 1), (3, 1))
_PRODUCTS = tuple(2**i for i in range(21))


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is tried; a name that is not given takes every value that can be valid.

    dp follows from the devices. `recompute` and `schedule` are names, `sharding` pairs of ZeRO stage and replicas.
    """

    tp: Sequence[int] = ()
    pp: Sequence[int] = ()
    vpp: Sequence[int] = ()
    cp: Sequence[int] = ()
    ep: Sequence[int] = ()
    expert_tp: Sequence[int] = ()
    micro_batch: Sequence[int] = (1, 2, 4, 8)
    sequence_parallel: Sequence[bool] = (False, True)
    sharding: Sequence[tuple[int, int]] = SHARDING
    recompute: Sequence[str] = ("none", "selective", "full")
    schedule: Sequence[str] = ("1f1b",)
    uneven: Sequence[bool] = (False, True)
    offload: Sequence[str] = ("none",)

    @classmethod
    def of(cls, job: TrainingJob, devices: int, given: dict[str, Any]) -> Space:
        """The space of a job on so many devices; `given` names are fixed to these values."""
        known = {f.name for f in fields(cls)}
        for name in given:
            if name not in known:
                raise LLMHWError(f"{name}={given[name]!r} is no axis of the search; use {', '.join(sorted(known))}")
        chosen = {name: (value,) if isinstance(value, (int, str)) else tuple(value) for name, value in given.items()}
        spec, layers = job.model, job.model.num_layers
        experts = limits_of(spec, job.cluster).experts
        divisors = [d for d in range(1, devices + 1) if devices % d == 0]
        node = job.cluster.devices_per_node
        chosen.setdefault("tp", tuple(d for d in divisors if spec.heads % d == 0))
        chosen.setdefault("pp", tuple(d for d in divisors if d <= layers + 2))
        chosen.setdefault("cp", tuple(d for d in divisors if d == 1 or job.seq_len % (2 * d) == 0 and d <= 64))
        chosen.setdefault("vpp", tuple(range(1, layers // 2 + 1)))
        chosen.setdefault("ep", tuple(d for d in range(1, experts + 1) if experts % d == 0 and devices % d == 0))
        chosen.setdefault("expert_tp", tuple(d for d in divisors if d <= node) if experts > 1 else (1,))
        return cls(**chosen)


# -- arrays of layouts ------------------------------------------------------------------------


def _axis(name: str, values: Sequence[Any]) -> Any:
    """Values along their own axis of the arrays; devices lie before all others."""
    shape = [1] * (len(AXES) + 1)
    shape[0 if name == "devices" else 1 + AXES.index(name)] = len(values)
    return np.asarray(values).reshape(shape)


class _Timer(StepTimer):
    """Times all layouts at once, with every mode of recompute on an axis of its own."""

    modes: dict[str, StepTimer]

    def layer(self, kind: int, again: bool) -> Any:
        if (kind, again) not in self.layers:
            clocks = [timer.layer(kind, mode == "full") for mode, timer in self.modes.items()]
            made = copy(clocks[0])
            for side in ("forward", "backward"):
                ledger = self.ledger()
                ledger.parts[""] = _stacked([getattr(clock, side).total for clock in clocks], "recompute")
                setattr(made, side, ledger)
            self.layers[kind, again] = made
        return self.layers[kind, again]


class _Memory(StepMemory):
    """Memory of all layouts at once: modes of recompute and ways of sharding on axes of their own."""

    modes: dict[str, StepMemory]
    sharding: Sequence[tuple[int, int]]
    shards: dict[int, StageTensors]

    def states(self, stage: Stage) -> Any:
        """All that stays on the device in one sum, but what the moments of a step tell apart."""
        if stage.index not in self._states:
            apart = ("gradients", "variance") if self.job.kernels == "torch" else ()
            made = [self._held(stage, zero, replicas).without(self.away) for zero, replicas in self.sharding]
            found = self._states[stage.index] = copy(made[0])
            found.parts = {"held": _stacked([ledger.without(set(apart)).total for ledger in made], "sharding")}
            for name in apart:
                if any(name in ledger.parts for ledger in made):
                    found.parts[name] = _stacked([ledger.parts[name] for ledger in made], "sharding")
        return self._states[stage.index]

    def _held(self, stage: Stage, zero: int, replicas: int) -> Ledger:
        """States under one way of sharding: tensors as many and as large in all as those of the stage, in place of them.

        What a state of one tensor takes is no multiple of its elements under some optimizers: these get the real ones.
        """
        job, x, tensors = self.job, replace(self.x, zero=zero, replicas=replicas), self.shards[replicas]
        held: list[tuple[Tensor, Any]] = tensors.held(stage)
        if optimizer_named(job.optimizer).scheme == "plain":
            held = []
            for experts, name in ((False, "attention"), (True, "experts")):
                count, elements = tensors.elements(stage, experts)
                if zero == 3:
                    elements = sum(n * tensors.shard(which, experts) for which, n in stage.parts)
                if count:
                    held += [(Tensor("all together", (elements,), name), 1), (Tensor("", (0,), name), count - 1)]
            x = replace(x, zero=0) if zero == 3 else x
        whole = stage.first and job.kernels == "torch" and zero < 3
        uncut = uncut_rows(self.spec, x) if whole else None
        found, names = Ledger("parts"), {"optimizer": job.optimizer, "precision": job.precision}
        for name, terms in state_terms(held, x, uncut=uncut, **names).items():
            found.put(name, terms)
        return found

    def activations(self, stage: Stage, number: int) -> Any:
        made = [memory.activations(stage.computed(mode == "full"), number) for mode, memory in self.modes.items()]
        found = copy(made[0])
        found.parts = {"activations": _stacked([ledger.total for ledger in made], "recompute")}
        return found


def _stacked(values: Sequence[Any], axis: str) -> Any:
    """Arrays side by side along an axis on which each of them has one value."""
    arrays = [np.asarray(v, dtype=float) for v in values]
    if all(a is arrays[0] for a in arrays):
        return arrays[0]
    place = 1 + AXES.index(axis)
    full = [a.reshape((1,) * (len(AXES) + 1 - a.ndim) + a.shape) for a in arrays]
    shape = np.broadcast_shapes(*(a.shape for a in full))
    return np.concatenate([np.broadcast_to(a, shape) for a in full], axis=place)


@dataclass(frozen=True)
class _Shape:
    """One structure: what is no number."""

    pp: int
    vpp: int
    schedule: str
    uneven: bool
    offload: str


class _Grid:
    """All layouts of a job on devices of one kind, in several counts."""

    def __init__(self, job: TrainingJob, clusters: Sequence[Cluster], space: Space, software: str | None) -> None:
        self.job, self.space, self.clusters = job, space, list(clusters)
        largest = max(clusters, key=lambda c: c.devices)
        self.limits = limits_of(job.model, largest, seq_len=job.seq_len, batch=job.batch)
        self.devices = _axis("devices", [c.devices for c in clusters])
        zero, replicas = zip(*space.sharding, strict=True)
        axes = {name: getattr(space, name) for name in AXES if name not in ("recompute", "sharding")}
        self.x = Layout(
            **{name: _axis(name, values) for name, values in axes.items()},
            zero=_axis("sharding", zero),
            replicas=_axis("sharding", replicas),
        )
        self.shape = (len(clusters), len(space.recompute), len(zero), *map(len, axes.values()))
        constants = constants_of(
            TrainingConstants, largest.accelerator, software or default_software(job)
        )
        base = replace(self.template(_Shape(1, 1, "1f1b", False, "none"), "none"), cluster=_single(largest))
        self.timer = _Timer(base, self.x, constants, detail="totals", cluster=largest)
        self.timer.modes = {
            mode: StepTimer(replace(base, recompute=mode), self.x, constants, detail="totals", cluster=largest)
            for mode in space.recompute
        }
        self.memories = {mode: StepMemory(replace(base, recompute=mode), self.x) for mode in space.recompute}
        assert self.timer.ends  # made here, once for all structures
        self.tensors: dict[int, dict[int, StageTensors]] = {}

    def template(self, shape: _Shape, recompute: str) -> TrainingJob:
        """A job of this structure, on as many devices as it has stages."""
        layout = Parallelism(
            pp=shape.pp, vpp=shape.vpp, schedule=shape.schedule, uneven=shape.uneven, offload=shape.offload,
            cp_kind=self.job.parallelism.cp_kind,
        )  # fmt: skip
        one = Cluster(self.clusters[0].accelerator, shape.pp, devices_per_node=max(2, shape.pp), intra_link=_ANY)
        return replace(
            self.job, cluster=one, parallelism=layout, micro_batch=1, global_batch=shape.pp, recompute=recompute
        )

    def structures(self, refused: Counter[str]) -> Iterator[_Shape]:
        """Every way to deal the layers out; embedding and head count as layers where that makes it even."""
        space, layers, n = self.space, self.job.model.num_layers, int(np.prod(self.shape))
        for pp in space.pp:
            for vpp in space.vpp if pp > 1 else (1,):
                chunks = pp * vpp
                uneven = layers % chunks != 0
                if chunks > layers + 2 or (uneven and ((layers + 2) % chunks or True not in space.uneven)):
                    refused["pp x vpp divides layers"] += n
                    continue
                for schedule in space.schedule:
                    if not (schedule == "gpipe" and vpp > 1) and not (pp == 1 and schedule != space.schedule[0]):
                        for offload in space.offload:
                            yield _Shape(pp, vpp, schedule, uneven, offload)

    def numbers(self, shape: _Shape) -> Layout:
        """The layouts of a structure: dp and micro-batches follow from the devices and the batch."""
        dp = np.maximum(1, self.devices // (self.x.tp * self.x.cp * shape.pp))
        many = np.maximum(1, self.job.batch // (self.x.micro_batch * dp))
        return replace(self.x, pp=shape.pp, vpp=shape.vpp, dp=dp, micro_batches=many)

    def valid(self, x: Layout, refused: Counter[str]) -> Any:
        """Which layouts keep all rules; the others are counted by the first that they break."""
        total, kept = int(np.prod(self.shape)), np.ones([1] * len(self.shape), dtype=bool)
        for rule in (_FILLED, *LAYOUT_RULES, *TENSOR_RULES, *BATCH_RULES, *JOB_RULES):
            before = kept
            limits = (self.limits, self.devices) if rule is _FILLED else self.limits
            kept = kept & rule.holds(x, limits)
            lost = before.mean() - kept.mean()
            if lost:
                refused[rule.name] += round(lost * total)
        return np.broadcast_to(kept, self.shape)

    def evaluate(self, shape: _Shape, x: Layout) -> tuple[Any, Any]:
        """Seconds of a step, and bytes on a device, of every layout of a structure."""
        job = self.template(shape, "none")
        if shape.pp not in self.tensors:
            ways = {r: replace(x, zero=3, replicas=r) for _, r in self.space.sharding}
            made = {0: x, **ways}.items()
            self.tensors[shape.pp] = {r: self.timer.tensors.at(at, shape.pp) for r, at in made}
        tensors = self.tensors[shape.pp][0]
        timer = copy(self.timer)
        timer.job, timer.x, timer.tensors = job, x, tensors
        seconds = time_layouts(timer)[1].total
        memory = _Memory(job, x)
        memory.tensors, memory.sharding, memory.shards = tensors, self.space.sharding, self.tensors[shape.pp]
        memory.modes = {mode: self._at(found, job, x, mode) for mode, found in self.memories.items()}
        held = None
        for stage in stages_of(job):
            moments = memory.moments(stage, stage.index)
            most = None
            for ledger in moments.values():
                most = ledger.total if most is None else np.maximum(most, ledger.total)
            most = most + memory.unreused(moments, stage)
            held = most if held is None else np.maximum(held, most)
        return np.broadcast_to(seconds, self.shape), np.broadcast_to(on_device(held), self.shape)

    def _at(self, memory: StepMemory, job: TrainingJob, x: Layout, mode: str) -> StepMemory:
        made = copy(memory)
        made.job, made.x = replace(job, recompute=mode), x
        return made


_ANY = "PCIe 4.0 x16"
_FILLED = Rule(
    "ranks fill the devices",
    lambda x, m: m[1] % (x.tp * x.cp * x.pp) == 0,
    lambda x, m: None,
)


def _single(cluster: Cluster) -> Cluster:
    return Cluster(cluster.accelerator, 1)
