"""Every valid layout of a job over devices and counts, ranked: the formulas of one job, evaluated on arrays of many.

Structure (stages, schedules) is enumerated in Python; numbers lie on axes that broadcast against each other, so that
what knows only some of them is evaluated once. The scalar answer is the zero-dimensional case of the same code.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property, partial
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np

from llmhw.checks import check_flag, check_items, check_object
from llmhw.cost import price_of
from llmhw.formula import Ledger, Report, Table
from llmhw.hardware import Accelerator, Cluster, PriceList, cluster_of
from llmhw.job import (
    BATCH_RULES,
    JOB_RULES,
    LAYOUT_RULES,
    OFFLOAD,
    RECOMPUTE,
    SCHEDULES,
    TENSOR_RULES,
    Layout,
    Parallelism,
    Rule,
    ServingJob,
    TrainingJob,
    limits_of,
    saves_attention,
)
from llmhw.language import said
from llmhw.margin import visible_bytes
from llmhw.memory import optimizer_named, precision_named
from llmhw.model import Tensor
from llmhw.precision import CHECKPOINT, checkpoint_name, formats_in, number_format, number_formats
from llmhw.rates import training_constants
from llmhw.service import check_lengths, engine_for
from llmhw.serving_grid import Rooms, ServingGrid, grids
from llmhw.sharding import Stage, StageTensors, chunk_size, is_split, stages_of, state_terms, uncut_rows
from llmhw.step_time import StepTimer, time_layouts
from llmhw.training import ALIVE, BRIEF, StepMemory, engine_bytes, on_device, stay_apart
from llmhw.units import LLMHWError, check_choice, check_count, check_number, format_quantity, shown, where

# Axes of the arrays, outermost first: what fewer formulas know stands further out.
AXES = ("recompute", "sharding", "micro_batch", "sequence_parallel", "expert_tp", "ep", "cp", "tp")
_CHOICES = {"recompute": RECOMPUTE[:-1], "schedule": SCHEDULES, "offload": OFFLOAD}
SHARDING = ((0, 1), (1, 1), (2, 1), (3, 1))


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is tried; a name that is not given takes every value that can be valid.

    Where layers cannot be dealt evenly over any of the stages, chunks are powers of two.
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
    recompute: Sequence[str] = ("none", "full")
    schedule: Sequence[str] = ("1f1b",)
    uneven: Sequence[bool] = (False, True)
    offload: Sequence[str] = ("none",)

    @classmethod
    def of(cls, job: TrainingJob, counts: Sequence[int], given: dict[str, Any]) -> Space:
        """The space of a job on these numbers of devices; `given` names are fixed to these values."""
        known = {f.name for f in fields(cls)}
        for name in given:
            if name not in known:
                raise LLMHWError(f"{name}={given[name]!r} is no axis of the search; use {', '.join(sorted(known))}")
        chosen = {name: _values(name, value) for name, value in given.items()}
        for name, values in chosen.items():
            for value in values:
                if name in _CHOICES:
                    check_choice(name, value, _CHOICES[name])
                elif name == "sharding":
                    zero, replicas = _pair(name, value)
                    Parallelism(dp=replicas, zero=zero, replicas=replicas)
                elif name in ("sequence_parallel", "uneven"):
                    check_flag(name, value)
                else:
                    check_count(name, value, most=_MOST_DEVICES)
        spec, layers = job.model, job.model.num_layers
        experts = limits_of(spec, job.cluster).experts
        divisors = sorted({d for n in counts for d in range(1, n + 1) if n % d == 0})
        node = job.cluster.devices_per_node
        chosen.setdefault("tp", tuple(d for d in divisors if spec.heads % d == 0))
        chosen.setdefault("pp", tuple(d for d in divisors if d <= layers + 2))
        chosen.setdefault("cp", tuple(d for d in divisors if d == 1 or (job.seq_len % (2 * d) == 0 and d <= 64)))
        chunks = range(1, layers // 2 + 1)
        odd = all(layers % p and (layers + 2) % p for p in chosen["pp"] if p > 1)  # see `_Grid.structures`
        chosen.setdefault("vpp", tuple(v for v in chunks if v & (v - 1) == 0) if odd else tuple(chunks))
        chosen.setdefault("ep", tuple(d for d in range(1, experts + 1) if experts % d == 0 and d in divisors))
        chosen.setdefault("expert_tp", tuple(d for d in divisors if d <= node) if experts > 1 else (1,))
        if saves_attention(job):
            chosen.setdefault("recompute", ("none", "selective", "full"))
        return cls(**chosen)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(len(getattr(self, name)) for name in AXES)


def _values(name: str, value: Any) -> tuple[Any, ...]:
    """The values to try on one axis: those of a sequence, or a single one."""
    values = (value,) if isinstance(value, (int, float, str)) else check_items(name, value, empty=False)
    if len(values) > _MOST_VALUES:
        raise LLMHWError(f"{name} has {len(values):,} values to try; give at most {_MOST_VALUES:,}")
    return values


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    items = check_items(name, value)
    if len(items) != 2:
        raise LLMHWError(f"{name}={shown(value)} must be pairs of a ZeRO stage and replicas, as in (3, 2)")
    return items[0], items[1]


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
    sums: dict[Any, Any]

    def states(self, stage: Stage) -> Any:
        """All that stays on the device in one sum, but what the moments of a step tell apart."""
        if stage.index not in self._states:
            plain = optimizer_named(self.job.optimizer).scheme == "plain"
            parts = self._adapters if self.job.frozen else self._sums if plain else self._real
            beside = {name: sum(t.value for t in terms) for name, terms in self.towers(stage).items()}
            beside = {name: held for name, held in beside.items() if name not in self.away}
            made = [
                {**dict(parts(stage, zero, replicas)), **beside, **self._reference(stage, zero, replicas)}
                for zero, replicas in self.sharding
            ]
            apart = ("gradients", "variance") if self.job.kernels == "torch" else ()
            found = self._states[stage.index] = Ledger()
            rest = [sum(v for name, v in one.items() if name not in apart) for one in made]
            found.parts = {"held": _stacked(rest, "sharding")}
            for name in apart:
                if any(name in one for one in made):
                    found.parts[name] = _stacked([one[name] for one in made], "sharding")
        return self._states[stage.index]

    def _reference(self, stage: Stage, zero: int, replicas: int) -> dict[str, Any]:
        """The model as it was, where it is held too (DPO)."""
        if not self.job.has_reference or "reference model" in self.away:
            return {}
        terms = self.frozen(stage, replace(self.x, zero=zero, replicas=replicas))
        return {"reference model": sum(t.value for t in terms)}

    def _adapters(self, stage: Stage, zero: int, replicas: int) -> Iterator[tuple[str, Any]]:
        """The same where only adapters are trained."""
        for name, terms in self.adapted(stage, replace(self.x, zero=zero, replicas=replicas)).items():
            if name not in self.away:
                yield name, sum(t.value for t in terms)

    def _real(self, stage: Stage, zero: int, replicas: int) -> Iterator[tuple[str, Any]]:
        """Parts of the states under one way of sharding, tensor by tensor."""
        x, job = replace(self.x, zero=zero, replicas=replicas), self.job
        names = {"optimizer": job.optimizer, "precision": job.precision}
        for name, terms in state_terms(self.tensors.held(stage), x, uncut=self._uncut(stage, x), **names).items():
            if name not in self.away:
                yield name, sum(t.value for t in terms)

    def _sums(self, stage: Stage, zero: int, replicas: int) -> Iterator[tuple[str, Any]]:
        """The same where states are multiples of the elements: these are summed first."""
        x, tensors, job = replace(self.x, zero=zero, replicas=replicas), self.shards[replicas], self.job
        for name, size in _of_an_element(job.optimizer, job.precision).items():
            if name in self.away:
                continue
            what = name if name in ("weights", "gradients") else "optimizer"
            owned = self._owned(stage, tensors, x, what, name == "step counters")
            yield name, owned * size + self._more(stage, x, name)

    def _more(self, stage: Stage, x: Layout, name: str) -> Any:
        uncut = self._uncut(stage, x) if name == "gradients" else None
        return 0 if uncut is None else uncut * precision_named(self.job.precision).gradients

    def _uncut(self, stage: Stage, x: Layout) -> Any:
        return uncut_rows(self.spec, x) if stage.first and self.job.kernels == "torch" and x.zero < 3 else None

    def _owned(self, stage: Stage, tensors: StageTensors, x: Layout, what: str, counted: bool) -> Any:
        """Elements (or how many tensors) of weights, gradients or the optimizer's states that a rank has of a stage."""
        split = is_split(x.zero, what)
        key = (stage.index, "shards" if split and x.zero == 3 else "flat" if split else "whole", x.replicas, counted)
        if key not in self.sums:
            total: Any = 0
            for experts, ranks in ((False, x.shards), (True, x.expert_shards)):
                count, elements = tensors.elements(stage, experts)
                if counted:
                    total = total + (where(ranks == 1, count, min(count, 1)) if key[1] == "flat" else count)
                elif key[1] == "shards":
                    total = total + sum(n * tensors.shard(which, experts) for which, n in stage.parts)
                elif count:
                    total = total + (chunk_size(size=elements, parts=ranks, index=0) if split else elements)
            self.sums[key] = total
        return self.sums[key]

    def activations(self, stage: Stage, number: int, moment: str = ALIVE) -> Any:
        made = [
            memory.activations(stage.computed(mode == "full"), number, moment) for mode, memory in self.modes.items()
        ]
        found = copy(made[0])
        brief = [sum(ledger.parts.get(name, 0.0) for name in BRIEF) for ledger in made]
        rest = [ledger.total - less for ledger, less in zip(made, brief, strict=True)]
        found.parts = {name: _stacked(v, "recompute") for name, v in (("activations", rest), (BRIEF[0], brief))}
        return found


@cache
def _of_an_element(optimizer: str, precision: str) -> dict[str, float]:
    """Bytes of each part of the states of a tensor of one element."""
    one = [(Tensor("one element", (1,), "attention"), 1)]
    terms = state_terms(one, Layout(), optimizer=optimizer, precision=precision)
    return {name: sum(t.value for t in found) for name, found in terms.items()}


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

    def __init__(
        self, job: TrainingJob, clusters: Sequence[Cluster], space: Space, price: float | PriceList | None
    ) -> None:
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
        self.shape = (len(clusters), *space.shape)
        self.beside = engine_bytes(replace(job, cluster=_single(largest), parallelism=Parallelism(), micro_batch=1))
        self.capacity = visible_bytes(largest.accelerator)
        self.places = [_place(cluster, price) for cluster in clusters]
        constants = training_constants(largest.accelerator, job.trainer, link=largest.inter_link)
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
            self.job,
            cluster=one,
            parallelism=layout,
            micro_batch=1,
            global_batch=shape.pp,
            recompute=recompute,
            recompute_layers=0,
        )

    def found(self, shape: _Shape, x: Layout, seconds: Any, held: Any, flat: int) -> Found:
        """The layout at one place of the flat arrays."""
        at = np.unravel_index(int(flat), self.shape)
        time = float(seconds[at])
        paid = self.places[at[0]][1] * time / 3600
        return Found(partial(self.at, shape, x, at), time, float(held[at]), paid if paid < np.inf else None)

    def at(self, shape: _Shape, x: Layout, at: Any) -> TrainingJob:
        """The job with the layout at one place of the arrays."""

        def number(name: str) -> int:
            return int(np.broadcast_to(getattr(x, name), self.shape)[at])

        names = ("dp", "tp", "cp", "ep", "expert_tp", "zero", "replicas")
        numbers: dict[str, Any] = {name: number(name) for name in names}
        layout = Parallelism(
            **numbers,
            pp=shape.pp, vpp=shape.vpp, uneven=shape.uneven, offload=shape.offload,
            sequence_parallel=bool(number("sequence_parallel")),
            # what has no effect in this layout is left at its default
            schedule=shape.schedule if shape.pp > 1 else "1f1b",
            cp_kind=self.job.parallelism.cp_kind if number("cp") > 1 else "ring",
        )  # fmt: skip
        made = replace(
            self.job,
            cluster=self.clusters[at[0]],
            parallelism=layout,
            micro_batch=number("micro_batch"),
            global_batch=self.job.batch,
            recompute=self.space.recompute[int(at[1])],
        )
        return made.effective()

    def structures(self, refused: Counter[str]) -> Iterator[_Shape]:
        """Every way to deal the layers out; embedding and head count as layers where that makes it even.

        Where nothing does, as with 61 layers on 16 stages, some chunks have a layer more than others.
        """
        space, layers, n = self.space, self.job.model.num_layers, int(np.prod(self.shape))
        for pp in space.pp:
            odd = bool(layers % pp and (layers + 2) % pp)  # no number of chunks is even on these stages
            for vpp in space.vpp if pp > 1 else (1,):
                chunks = pp * vpp
                uneven = layers % chunks != 0
                refuse = uneven and (True not in space.uneven or (not odd and (layers + 2) % chunks))
                if pp > 1 and self.job.method != "sft":
                    refused["method belongs with pp=1"] += n
                    continue
                if chunks > layers + 2 or refuse:
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
        total, kept, part = int(np.prod(self.shape)), np.ones([1] * len(self.shape), dtype=bool), 1.0
        for rule in (_FILLED, *LAYOUT_RULES, *TENSOR_RULES, *BATCH_RULES, *JOB_RULES):
            limits = (self.limits, self.devices) if rule is _FILLED else self.limits
            kept = kept & rule.holds(x, limits)
            before, part = part, kept.mean()
            if part < before:
                refused[rule.name] += round((before - part) * total)
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
        memory.sums = {}
        memory.modes = {mode: self._at(found, job, x, mode) for mode, found in self.memories.items()}
        held = None
        for stage in _fullest(stages_of(job)):
            moments = memory.moments(stage, stage.index)
            most = None
            for ledger in moments.values():
                most = ledger.total if most is None else np.maximum(most, ledger.total)
            most = most + stay_apart(most, memory.unreused(moments, stage), x.devices, self.capacity - self.beside)
            held = most if held is None else np.maximum(held, most)
        held = on_device(held, x.devices) + self.beside
        return np.broadcast_to(seconds, self.shape), np.broadcast_to(held, self.shape)

    def _at(self, memory: StepMemory, job: TrainingJob, x: Layout, mode: str) -> StepMemory:
        made = copy(memory)
        made.job, made.x = job if mode == job.recompute else replace(job, recompute=mode), x
        return made


def _fullest(stages: Sequence[Stage]) -> list[Stage]:
    """The stages that may hold most: not those that hold no more of anything than one before them."""

    def within(one: Stage, other: Stage) -> bool:
        less = all(n <= other.kinds.get(kind, 0) for kind, n in one.kinds.items())
        return less and set(one.ends) <= set(other.ends) and one.index > other.index

    return [stage for stage in stages if not any(within(stage, other) for other in stages)]


_ANY = "PCIe 4.0 x16"  # a structure has no network; the grid's timer has
_FILLED = Rule(
    "tp x pp x cp divides devices", lambda x, m: m[1] % (x.tp * x.cp * x.pp) == 0, lambda x, m: ""
)  # fmt: skip


def _place(cluster: Cluster, price: float | PriceList | None) -> tuple[int, float, Cluster]:
    """Devices of a cluster, dollars that they cost an hour, infinite where no price is known, and the cluster."""
    one, listed = (None, price) if isinstance(price, PriceList) else (price, None)
    paid, _ = price_of(cluster.accelerator, cluster.devices, one, None, None, "on_demand", listed)
    return cluster.devices, paid.dollars_per_device_hour * cluster.devices if paid else np.inf, cluster


def _single(cluster: Cluster) -> Cluster:
    return Cluster(cluster.accelerator, 1)


# -- what comes out ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Found:
    """One layout: the job that has it, and what it comes to.

    make           gives the job
    seconds        of a step; of serving, of an output token of all users together
    device_bytes   on the fullest device; of serving, with the cache of one sequence
    dollars        of a step, or of a million output tokens; None without a price
    first_token, next_token   seconds that a user waits, of serving
    """

    make: Callable[[], Any] = field(repr=False)
    seconds: float
    device_bytes: float
    dollars: float | None
    first_token: float | None = None
    next_token: float | None = None

    @cached_property
    def job(self) -> Any:
        """The `TrainingJob` or `ServingJob`, made when it is asked for: a search finds many."""
        return self.make()

    @property
    def devices(self) -> int:
        """Devices in all."""
        return int(self.job.cluster.devices)

    @property
    def layout(self) -> dict[str, Any]:
        """What was chosen for this layout."""
        job = self.job
        if isinstance(job, ServingJob):
            return {name: getattr(job, name) for name in ("tp", "pp", "ep", "attention_dp", "weights", "kv")}
        p = job.parallelism
        names = ("dp", "tp", "pp", "vpp", "cp", "ep", "expert_tp", "zero", "replicas", "sequence_parallel")
        chosen = {name: getattr(p, name) for name in names}
        schedule = p.pipeline_schedule if p.pp > 1 else ""
        rest = {"micro_batch": job.micro_batch, "recompute": job.recompute, "offload": p.offload}
        return chosen | {"schedule": schedule, "uneven": p.uneven} | rest

    def __str__(self) -> str:
        usual = (1, False, "", "none")
        return ", ".join(
            name.replace("_", " ") if value is True else f"{name}={value}"
            for name, value in self.layout.items()
            if value is True or name in ("zero", "micro_batch") or value not in usual
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: the layout, seconds, bytes, dollars."""
        names = ("seconds", "device_bytes", "dollars", "first_token", "next_token")
        place = {"device": self.job.cluster.accelerator.name, "devices": self.devices}
        return place | self.layout | {name: getattr(self, name) for name in names}


@dataclass(frozen=True, repr=False)
class SearchResult(Report):
    """Every layout of a job that was tried, in short.

    best      the fastest that fit, best first
    front     those that no other beats in time, devices, memory and dollars at once
    tried, valid, fitting   how many were tried, keep all rules, and fit too
    refused   layouts by the rule that they break first; "memory": valid ones that do not fit. Where pp x vpp does not
              divide the layers nothing is evaluated: these are not among the tried
    closest   the valid layout that needs least memory, where none fits
    near      for each cluster the layouts that no other on it beats in time and memory, fastest first
    short     for each cluster on which none fits the valid layout that needs least memory
    faster    how many fit and are faster than the seconds asked for as `than`
    """

    title: str
    best: tuple[Found, ...]
    front: tuple[Found, ...]
    tried: int
    valid: int
    fitting: int
    refused: dict[str, int]
    closest: Found | None = None
    near: Mapping[Cluster, tuple[Found, ...]] = field(default_factory=dict)
    short: Mapping[Cluster, Found] = field(default_factory=dict)
    faster: int | None = None

    def records(self) -> Sequence[dict[str, Any]]:
        """The best layouts, numbers in base units."""
        return [found.to_dict() for found in self.best]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        counts = {name: getattr(self, name) for name in ("tried", "valid", "fitting", "refused")}
        counts |= {} if self.faster is None else {"faster": self.faster}
        return {"title": self.title, **counts, "best": self.records(), "front": [f.to_dict() for f in self.front]}

    def tables(self) -> list[Table]:
        """The best layouts, as text."""
        rows = [
            (
                f"{found.devices} x {found.job.cluster.accelerator.name}",
                str(found),
                format_quantity(found.seconds, "seconds"),
                format_quantity(found.device_bytes, "bytes"),
                "-" if found.dollars is None else format_quantity(found.dollars, "dollars"),
            )
            for found in self.best
        ]
        return [Table(self.title, ("devices", "layout", "time", "memory", "cost"), rows, right=2)]

    def footer(self) -> list[str]:
        """How many were tried and refused, and why."""
        text = "{tried:,} tried, {valid:,} valid, {fitting:,} fit"
        lines = [said(text, tried=self.tried, valid=self.valid, fitting=self.fitting)]
        lines += [
            said("{count:,} refused: {rule}", count=count, rule=rule)
            for rule, count in sorted(self.refused.items(), key=lambda r: -r[1])
        ]
        if self.closest and not self.best:
            short = self.closest.device_bytes - visible_bytes(self.closest.job.cluster.accelerator)
            text = "none fits; the closest is short by {size}: {layout}"
            lines.append(said(text, size=format_quantity(short, "bytes"), layout=self.closest))
        return lines


@dataclass(slots=True)
class _Tally:
    """What is kept of the arrays: the best, the front, and counts."""

    best: int
    than: float | None = None
    tried: int = 0
    valid: int = 0
    fitting: int = 0
    faster: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    kept: list[tuple[Any, ...]] = field(default_factory=list)
    front: dict[tuple[int, float, Cluster], list[tuple[Any, ...]]] = field(default_factory=dict)
    least: dict[Cluster, tuple[Any, ...]] = field(default_factory=dict)

    def add(
        self, places: Sequence[tuple[int, float, Cluster]], valid: Any, fits: Any, seconds: Any, held: Any, make: Any
    ) -> None:
        """Keep what may be among the best or on the front; of arrays whose first axis are clusters.

        places   devices of each cluster, what they cost an hour, and the cluster
        make     the layout at one place of the flat arrays
        """
        self.tried += valid.size
        self.valid += int(valid.sum())
        self.fitting += int(fits.sum())
        if self.than is not None:
            self.faster += int((fits & (seconds < self.than)).sum())
        for number in range(len(valid)):
            here = np.flatnonzero(fits[number]) + number * fits[0].size
            if not here.size:
                self._short(places[number], valid[number], held[number], make, number * fits[0].size)
                continue
            order = here[np.argsort(seconds.ravel()[here], kind="stable")]
            self.kept += [(float(seconds.flat[i]), make, i) for i in order[: self.best]]
            less = order[_falls(held.ravel()[order])]
            near = self.front.setdefault(places[number], [])
            near += [(float(seconds.flat[i]), float(held.flat[i]), make, i) for i in less]
        self.kept = sorted(self.kept, key=lambda f: f[0])[: self.best]

    def _short(self, place: tuple[int, float, Cluster], valid: Any, held: Any, make: Any, first: int) -> None:
        """Keep what needs least memory of a cluster on which nothing fits yet."""
        if place not in self.front and valid.any():
            at = int(np.where(valid, held, np.inf).argmin())
            known = self.least.get(place[2], (np.inf,))
            self.least[place[2]] = min(known, (float(held.flat[at]), make, first + at), key=lambda f: f[0])

    def result(self, title: str) -> SearchResult:
        """What it comes to."""
        refused = {rule: count for rule, count in self.refused.items() if count}
        best = tuple(make(i) for _, make, i in self.kept)
        fitting = {place[2] for place in self.front}
        least = sorted(((c, f) for c, f in self.least.items() if c not in fitting), key=lambda one: one[1][0])
        short = {c: make(i) for c, (_, make, i) in least}
        closest = next(iter(short.values()), None) if not best else None
        for near in self.front.values():
            near.sort(key=lambda f: f[:2])
            near[:] = [near[i] for i in np.flatnonzero(_falls(np.array([f[1] for f in near])))]
        front = tuple(self._undominated())
        each = {place[2]: tuple(make(i) for *_, make, i in near) for place, near in self.front.items()}
        faster = None if self.than is None else self.faster
        counts = (self.tried, self.valid, self.fitting, refused, closest)
        return SearchResult(title, best, front, *counts, each, short, faster)

    def _undominated(self) -> Iterator[Found]:
        """Those that no other is at least as good as in seconds, memory, devices and dollars."""
        found = []
        for (devices, price, _), near in self.front.items():
            found += [(*one[:2], devices, one[0] * price, *one[2:]) for one in near]
        found.sort(key=lambda f: f[:4])
        kept = np.empty((len(found), 4))
        number = 0
        for *point, make, i in found:
            if not (kept[:number] <= point).all(axis=1).any():
                kept[number], number = point, number + 1
                yield make(i)


def _falls(memory: Any) -> Any:
    """Which of the layouts of one cluster, fastest first, need less memory than all faster ones."""
    return memory < np.concatenate(([np.inf], np.minimum.accumulate(memory)[:-1]))


_MOST_DEVICES, _MOST_VALUES = 10**6, 10**4
_MOST_POINTS = 2**21  # of one array: 16 MiB


def search(
    job: TrainingJob | ServingJob,
    clusters: Iterable[Cluster | str | tuple[str, int]] | Cluster | str | None = None,
    *,
    best: int = 10,
    price: float | PriceList | None = None,
    than: float | None = None,
    **how: Any,
) -> SearchResult:
    """Rank every valid layout of a job, on one cluster or on several kinds and counts of devices.

    job        what is trained, with its global batch, or what is served; its own layout and formats are replaced
    clusters   where: clusters, names of devices, or names with counts, as in ["h100", ("h200", 8)]; default: the job's
    best       how many layouts to return
    price      dollars of a device-hour, of all devices, or prices of one's own, from `llmhw.price_files.read_prices`;
               default: the newest of the catalog
    than       seconds, as of a layout that runs already: how many that fit are faster is counted (`faster`)
    how        values to try for one axis, such as `tp=(1, 2, 4, 8)`, or one to hold: see `Space` and `ServingSpace`.
               Default: every value that can be valid. Of serving,
               `input_tokens`, `output_tokens`, `concurrency`, `slo_ttft`, `slo_tpot` as in `llmhw.serve`

    Time and memory are those of `llmhw.train` and `llmhw.training_memory`, or of `llmhw.serve`: the same formulas on
    arrays. Rules are those of a job's own checks. The arrays are evaluated in pieces, so that memory stays small.

    >>> from llmhw import model
    >>> job = TrainingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 8), global_batch=64, seq_len=8192,
    ...                   parallelism=Parallelism(dp=8))
    >>> found = search(job, best=3)
    >>> found.best[0].seconds <= found.best[1].seconds, found.fitting < found.valid < found.tried
    (True, True)
    """
    check_object("job", job, "TrainingJob", "ServingJob")
    places = _clusters(job, clusters)
    if price is not None and not isinstance(price, PriceList):
        check_number("price", price, above=True)
    if than is not None:
        check_number("than", than, above=True)
    tally = _Tally(check_count("best", best, most=_MOST_VALUES), than)
    names = ", ".join(dict.fromkeys(str(c) for c in places)) if len(places) < 4 else f"{len(places)} clusters"
    with np.errstate(all="ignore"):  # layouts that break a rule may divide by zero: they are masked
        if isinstance(job, ServingJob):
            what = _search_serving(tally, job, places, price, **how)
        else:
            what = f"{job.batch} x {job.seq_len} tokens a step"
            _search_training(tally, job, places, price, **how)
    return tally.result(f"layouts of {job.model.name} on {names}, {what}")


def _clusters(job: TrainingJob | ServingJob, clusters: Any) -> list[Cluster]:
    """The clusters to search, from objects and names."""
    if clusters is None:
        found = [job.cluster]
    elif isinstance(clusters, (str, Cluster, Accelerator)):
        found = [cluster_of(clusters)]
    else:
        found = [cluster_of(one) for one in check_items("clusters", clusters)]
    if not found:
        raise LLMHWError("clusters=[] is empty; give at least one")
    if len(found) > _MOST_VALUES or max(c.devices for c in found) > _MOST_DEVICES:
        raise LLMHWError(
            f"clusters={shown(clusters)} is too much to search; give at most {_MOST_VALUES:,} clusters of at most "
            f"{_MOST_DEVICES:,} devices each"
        )
    return found


def _search_training(
    tally: _Tally,
    job: TrainingJob,
    places: list[Cluster],
    price: float | PriceList | None,
    **space: Any,
) -> None:
    for group in _alike(places):
        for grid in _grids(job, group, space, price):
            for shape in grid.structures(tally.refused):
                x = grid.numbers(shape)
                valid = grid.valid(x, tally.refused)
                seconds, held = grid.evaluate(shape, x)
                fits = valid & (held <= grid.capacity)
                make = partial(grid.found, shape, x, seconds, held)
                tally.add(grid.places, valid, fits, seconds, held, make)
    tally.refused["memory"] = tally.valid - tally.fitting


def _alike(clusters: Sequence[Cluster]) -> Iterator[list[Cluster]]:
    """Clusters that differ in nothing but their number of devices, together."""
    groups: dict[Any, list[Cluster]] = {}
    for c in clusters:
        groups.setdefault((c.accelerator.name, c.devices_per_node, c.intra_link, c.inter_link), []).append(c)
    yield from groups.values()


def _grids(
    job: TrainingJob, clusters: list[Cluster], given: dict[str, Any], price: float | PriceList | None
) -> Iterator[_Grid]:
    """Grids that are small enough to be evaluated at once."""
    space = Space.of(job, [c.devices for c in clusters], given)
    points = int(np.prod(space.shape))
    together = max(1, _MOST_POINTS // points)
    parts = max(1, -(-points // _MOST_POINTS))
    size = max(1, -(-len(space.ep) // parts))
    for first in range(0, len(clusters), together):
        for start in range(0, len(space.ep), size):
            piece = replace(space, ep=space.ep[start : start + size])
            yield _Grid(job, clusters[first : first + together], piece, price)


# -- serving ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ServingSpace:
    """What is tried for serving; a name that is not given takes every value that can be valid.

    weights, kv   number formats; default: those that the engine reads, and a cache in bf16 or fp8
    """

    tp: Sequence[int] = ()
    pp: Sequence[int] = ()
    ep: Sequence[int] = (1,)
    attention_dp: Sequence[int] = (1,)
    weights: Sequence[str] = ()
    kv: Sequence[str] = ()

    @classmethod
    def of(cls, job: ServingJob, devices: int, given: dict[str, Any]) -> ServingSpace:
        """The space of a job on at most so many devices; `given` names are fixed to these values."""
        known = {f.name for f in fields(cls)}
        for name in given:
            if name not in known:
                raise LLMHWError(f"{name}={given[name]!r} is no axis of the search; use {', '.join(sorted(known))}")
        chosen = {name: _values(name, value) for name, value in given.items()}
        for name, values in chosen.items():
            if name in ("weights", "kv"):
                chosen[name] = tuple(one if one == CHECKPOINT else number_format(one).name for one in values)
            else:
                chosen[name] = tuple(check_count(name, one, most=_MOST_DEVICES) for one in values)
        divisors = [d for d in range(1, devices + 1) if devices % d == 0]
        experts = limits_of(job.model, job.cluster).experts
        chosen.setdefault("tp", tuple(d for d in divisors if job.model.heads % d == 0))
        chosen.setdefault("pp", tuple(d for d in divisors if d <= job.model.num_layers))
        if experts > 1:
            chosen.setdefault("ep", tuple(d for d in divisors if experts % d == 0))
            chosen.setdefault("attention_dp", tuple(divisors))
        engine = job.software
        files = [f for f in number_formats() if engine.reads(number_format(f)) and number_format(f).bits <= 16]
        if not engine.default_weights:
            files = [f for f in files if number_format(f).kind != "gguf"]
        own = checkpoint_name(job.model) if "weights" not in chosen and job.model.checkpoint.quantized else ""
        if own and all(engine.reads(fmt) for fmt in formats_in(job.model, own)):
            files = [own]
        chosen.setdefault("weights", tuple(files))
        chosen.setdefault("kv", tuple(f for f in ("bf16", "fp8") if engine.caches(f)))
        return cls(**chosen)


def _search_serving(
    tally: _Tally,
    job: ServingJob,
    places: list[Cluster],
    price: float | PriceList | None,
    *,
    input_tokens: int,
    output_tokens: int,
    concurrency: int | None = None,
    slo_ttft: float | None = None,
    slo_tpot: float | None = None,
    **given: Any,
) -> str:
    """Every layout and format on every cluster; what the cache has room for at most is at work, or `concurrency`."""
    length = sum(check_lengths(job, input_tokens, output_tokens))
    job = replace(job, engine=job.engine, max_model_len=job.context_limit if job.software.paged else length)
    space = ServingSpace.of(job, max(c.devices for c in places), given)
    limits = {"first": slo_ttft, "next": slo_tpot}
    for which, limit in limits.items():
        if limit is not None:
            check_number(f"slo_{'ttft' if which == 'first' else 'tpot'}", limit, above=True)
    if concurrency is not None:
        check_count("concurrency", concurrency)
    rooms, priced = Rooms(space.weights, space.kv, length, length), [_place(c, price) for c in places]
    for attention_dp, ep in product(space.attention_dp, space.ep):
        jobs = [_serving_jobs(tally, job, space, c, attention_dp, ep) for c in places]
        for devices, _, grid in grids(jobs, space.weights, space.kv, rooms):
            found = _answers(grid, input_tokens, output_tokens, concurrency)
            _tally_serving(tally, grid, found, limits, [priced[d] for d in devices])
    return f"{input_tokens:,} tokens in, {output_tokens:,} out"


def _serving_jobs(
    tally: _Tally, job: ServingJob, space: ServingSpace, cluster: Cluster, attention_dp: int, ep: int
) -> list[ServingJob | None]:
    """The job in each layout of pp and tp, in 16 bit, as formats are axes of their own; None where a rule refuses."""
    half, many = cluster.accelerator.half_format, len(space.weights) * len(space.kv)
    found: list[ServingJob | None] = []
    for pp, tp in product(space.pp, space.tp):
        try:
            layout: dict[str, Any] = {"attention_dp": attention_dp, "ep": ep, "pp": pp, "tp": tp}
            one = replace(job, cluster=cluster, weights=half, kv=half, **layout)
            if tp * attention_dp > 1:
                cluster.link_for(tp * attention_dp)
            if not found or all(made is None for made in found):
                engine_for(one)  # raises where a fact of the device is not known
            found.append(one)
        except LLMHWError as error:
            found.append(None)
            tally.tried += many
            tally.refused[_rule(error)] += many
    return found


def _answers(grid: ServingGrid, prompt: int, answer: int, concurrency: int | None) -> dict[str, Any]:
    """Seconds of an output token of all users, of the first and of the next token of one; bytes; what fits."""
    replicas = grid.each(lambda job: job.replicas)
    capacity = grid.capacity * replicas
    load = capacity if concurrency is None else np.minimum(concurrency, capacity)
    made = grid.service(prompt, answer, np.maximum(replicas, 1)).answers(np.maximum(load, 1), "parts")
    first, following, every = made.parts.values()
    found = {"held": grid.held(), "first": first, "next": following, "seconds": 1 / every, "capacity": capacity}
    return {name: np.broadcast_to(value, grid.shape) for name, value in found.items()}


def _tally_serving(
    tally: _Tally, grid: ServingGrid, found: dict[str, Any], limits: dict[str, float | None], places: list[Any]
) -> None:
    """Count what fits and keeps the limits."""
    valid = np.broadcast_to(grid.each(lambda job: job.replicas) > 0, grid.shape)
    fits = found["capacity"] > 0
    tally.refused["memory"] += int((valid & ~fits).sum())
    for which, limit in limits.items():
        if limit is not None:
            late = fits & (found[which] > limit)
            tally.refused[f"later {which} token"] += int(late.sum())
            fits = fits & ~late
    make = partial(_found_serving, grid, found, places)
    tally.tried -= int((~valid).sum())  # those that a rule refuses are counted already
    tally.add(places, valid, fits, found["seconds"], found["held"], make)


def _found_serving(grid: ServingGrid, made: dict[str, Any], places: list[Any], flat: int) -> Found:
    """The layout and formats at one place of the flat arrays."""
    at = tuple(map(int, np.unravel_index(int(flat), grid.shape)))
    numbers = {name: float(made[name][at]) for name in ("seconds", "held", "first", "next")}
    paid = 1e6 * places[at[0]][1] * numbers["seconds"] / 3600
    dollars = paid if paid < np.inf else None
    return Found(partial(grid.at, at), numbers["seconds"], numbers["held"], dollars, numbers["first"], numbers["next"])


def _rule(error: LLMHWError) -> str:
    """What an error refuses, without its numbers."""
    return re.sub(r" ?=? ?\b\d[\d,.]*\b( x \d+)*", "", str(error).split(";")[0].split(":")[0])


class _Callable(ModuleType):
    """`llmhw.search` is the function, and also the name of this module: what is imported first must not decide."""

    def __call__(self, *args: Any, **options: Any) -> SearchResult:
        return search(*args, **options)


sys.modules[__name__].__class__ = _Callable
