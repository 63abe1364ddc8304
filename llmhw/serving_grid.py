"""Serving layouts of many kinds of devices and all formats at once: the formulas of one job, evaluated on arrays.

Axes: devices, layouts (tp and pp), formats of the weights, formats of the cache. What an engine does in whole steps
(how it cuts prompts, whether it splits by layers) is the same in all of a grid; `grids` parts jobs by that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from llmhw.engine import Engine, Facts, Formats, facts_of, formats_of
from llmhw.engines import runs
from llmhw.job import ServingJob
from llmhw.model import ModelSpec, Tensor
from llmhw.precision import component_formats, formats_in, number_format, weight_groups
from llmhw.rates import ServingConstants
from llmhw.service import Service, engine_for, instance_of
from llmhw.serving import ServingMemory, dealt_layers, filled, parts_beside, stage_tensors

# -- memory -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Room:
    """Bytes on devices of a layout: arrays over (formats of weights, formats of the cache, stages).

    held            beside the cache
    first, second   one sequence's cache, and a further one's
    longest         the cache of one sequence as long as the context that was asked for
    """

    held: Any
    first: Any
    second: Any
    longest: Any


class Rooms:
    """The rooms of all layouts of a job: jobs that differ in nothing but speed share one.

    tokens    of a sequence
    context   of the longest one that must fit
    """

    def __init__(self, weights: Sequence[str], kv: Sequence[str], tokens: int, context: int) -> None:
        self.formats, self.kv, self.tokens, self.context = weights, kv, tokens, context
        self._bytes: dict[Any, Any] = {}
        self._stored: dict[Any, Any] = {}
        self._cached: dict[Any, Any] = {}
        self._rooms: dict[Any, Room] = {}

    def of(self, job: ServingJob) -> Room:
        """The room of a job."""
        layout = (job.tp, job.pp, job.ep, job.attention_dp)
        engine, cluster = job.software, job.cluster
        link = cluster.intra_link and (cluster.intra_link.name, cluster.intra_link.bytes_per_second)
        sizes = (job.max_batched_tokens, job.max_sequences, job.page_tokens, job.context_limit)
        own = tuple(getattr(engine, name) for name in _OF_MEMORY)
        key = (layout, own, sizes, cluster.accelerator.vendor, link if job.devices > 1 else None)
        if key not in self._rooms:
            self._rooms[key] = self._made(job, (layout, engine.rows_in_host, engine.expert_tiles))
        return self._rooms[key]

    def _made(self, job: ServingJob, key: Any) -> Room:
        stages = _unlike(job)
        if key not in self._stored:
            self._stored[key] = np.stack([self._weights(job, i) for i in stages], axis=-1) * (1 - job.weight_offload)
        rest = np.array([sum(float(part.value) for part in parts_beside(job, i)) for i in stages])
        return Room((self._stored[key] + rest)[:, None], *self._caches(job, stages))

    def _caches(self, job: ServingJob, stages: Sequence[int]) -> tuple[Any, Any, Any]:
        """Of one sequence, of a further one and of the longest, in every format of the cache and stage."""
        engine = job.software
        sizes = (job.page_tokens, job.context_limit, job.max_batched_tokens if engine.pools else 0)
        key = (job.tp, job.pp, engine.name, engine.pools, engine.windows, engine.latent, sizes)
        if key not in self._cached:
            found = []
            for name in self.kv:
                kept = ServingMemory(replace(job, kv=name), ())
                one = [kept.cache_bytes(self.tokens, i) for i in stages]
                two = [kept.cache_bytes(self.tokens, i, sequences=2) for i in stages]
                more = self.context > self.tokens
                found.append((one, two, [kept.cache_bytes(self.context, i) for i in stages] if more else one))
            first, second, longest = (np.array(of)[None] for of in zip(*found, strict=True))
            self._cached[key] = first, second - first, longest
        found_caches: tuple[Any, Any, Any] = self._cached[key]
        return found_caches

    def _weights(self, job: ServingJob, stage: int) -> Any:
        """Bytes of the weights of a rank in every format: the sum over its tensors."""
        tiles = job.software.expert_tiles
        return sum(count * self._of_tensor(job.model, tensor, tiles) for tensor, count in stage_tensors(job, stage))

    def _of_tensor(self, spec: ModelSpec, tensor: Tensor, tiles: tuple[int, int]) -> Any:
        if (tensor, tiles) not in self._bytes:
            found = []
            for name in self.formats:
                padded = tiles != (1, 1) and any(fmt.name == "mxfp4" for fmt in formats_in(spec, name))
                one = [(filled(tensor, *tiles) if padded else tensor, 1)]
                found.append(sum(group.bytes for group in weight_groups(spec, name, one)))
            self._bytes[tensor, tiles] = np.array(found)
        return self._bytes[tensor, tiles]


# Facts of an engine that what it holds beside weights and cache depends on.
_OF_MEMORY = (
    "name", "version", "share_of", "graphs", "sampler", "counts_context", "pools", "state_pages", "prompt_logits",
    "windows", "latent", "expert_tiles", "flash", "streams", "staged", "sharing", "head_first",
)  # fmt: skip


def _unlike(job: ServingJob) -> list[int]:
    """Numbers of the stages; of those with the same layers and ends one stands for all."""
    if job.software.cells:  # which deals layers in its own way
        return list(range(job.pp))
    number = job.model.kind_numbers
    alike: dict[Any, int] = {}
    for stage, layers in enumerate(dealt_layers(job.model.num_layers, job.pp)):
        held = tuple(sorted(Counter(number[i] for i in layers).items()))
        alike.setdefault((held, stage == 0, stage == job.pp - 1), stage)
    return list(alike.values())


# -- speed ------------------------------------------------------------------------------------

# What `llmhw.engine.Formats` says of weights; the rest is of the cache.
_OF_WEIGHTS = ("products", "weight_bytes", "narrow", "ordinary", "sent_bytes", "least_rows")
_OF_CACHE = ("attending", "cache_bytes", "widened")


@dataclass(frozen=True, eq=False)
class ServingGrid:
    """Layouts of several kinds of devices in all formats; arrays have the axes of the module.

    jobs      by device and layout, in any format; None where a layout is not valid there
    weights, kv   formats
    rooms     of all jobs
    engines   the engine of each device, of its first job
    """

    jobs: Sequence[Sequence[ServingJob | None]]
    weights: Sequence[str]
    kv: Sequence[str]
    rooms: Rooms
    engines: Sequence[Engine]

    @cached_property
    def any_job(self) -> ServingJob:
        """A job that stands for all where they are alike."""
        return next(job for row in self.jobs for job in row if job is not None)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Lengths of the axes."""
        return len(self.jobs), len(self.jobs[0]), len(self.weights), len(self.kv)

    def each(self, value: Any) -> Any:
        """A number of each job along the first two axes; 0 where there is none."""
        return np.array([[0 if job is None else value(job) for job in row] for row in self.jobs])[:, :, None, None]

    @cached_property
    def _held(self) -> list[list[tuple[Any, ...] | None]]:
        """Of each job: bytes beside the cache, left for it, of a first, a further and the longest sequence."""

        def made(job: ServingJob | None) -> tuple[Any, ...] | None:
            if job is None:
                return None
            room = self.rooms.of(job)
            left = ServingMemory(job, ()).room_beside(room.held)
            return room.held, left, room.first, room.second, room.longest

        return [[made(job) for job in row] for row in self.jobs]

    def _of_memory(self, value: Any) -> Any:
        """A number of each job's memory, in each format; 0 where there is no job."""
        found = np.zeros(self.shape)
        for d, row in enumerate(self._held):
            for i, held in enumerate(row):
                if held is not None:
                    found[d, i] = value(self.jobs[d][i], *held)
        return found

    @cached_property
    def capacity(self) -> Any:
        """Sequences of one instance that run at once; 0 where the job does not fit, or the engine does not run it."""

        def fitting(job: ServingJob, _: Any, left: Any, first: Any, second: Any, longest: Any) -> Any:
            # one, and each further one costs a second's cache
            more = np.where(second > 0, np.floor((left - first) / np.where(second > 0, second, 1)) + 1, 2**31)
            room = np.where(left >= np.maximum(first, longest), more, 0).min(axis=-1)
            return np.minimum(np.maximum(room, 0), job.max_sequences) * job.attention_dp

        return self._of_memory(fitting) * self.able

    @cached_property
    def able(self) -> Any:
        """Whether the engine reads each format and multiplies it on each device."""
        spec, found = self.any_job.model, []
        for row in self.jobs:
            job = next((job for job in row if job is not None), None)
            found.append([job is not None and all(runs(job.software, job.cluster.accelerator, f)
                          for f in formats_in(spec, name)) for name in self.weights])  # fmt: skip
        return np.array(found)[:, None, :, None]

    def held(self, sequences: Any = 1) -> Any:
        """Bytes on the fullest device with so many sequences of an instance."""
        many = np.broadcast_to(sequences, self.shape)
        found = np.zeros(self.shape)
        for d, row in enumerate(self._held):
            for i, one in enumerate(row):
                if one is not None:
                    held, _, first, second, _ = one
                    each = np.ceil(many[d, i] / self.jobs[d][i].attention_dp)[..., None]  # type: ignore[union-attr]
                    found[d, i] = (held + first + np.maximum(each - 1, 0) * second).max(axis=-1)
        return found

    @cached_property
    def short(self) -> Any:
        """Bytes by which one sequence is too large for the fullest device; below 0 where it fits."""
        return self._of_memory(lambda _, __, left, first, ___, longest: (np.maximum(first, longest) - left).max(-1))

    def service(self, prompt: int, answer: int, replicas: Any = 1) -> Service:
        """What times requests of these lengths: `answers` takes numbers of them, and gives arrays."""
        return Service(self.any_job, self.engine, prompt, answer, replicas=replicas)

    @cached_property
    def engine(self) -> Engine:
        """The engine of all devices and layouts with all formats at once."""
        spec, engines = self.any_job.model, self.engines
        most = [{(-1, ""): formats_in(spec, name)[0]} for name in self.weights]
        stored = [component_formats(spec, name) | main for name, main in zip(self.weights, most, strict=True)]
        half = number_format("bf16")
        made: dict[Any, Formats] = {}

        def of(device: int, weights: Any, kv: str) -> Formats:
            key = (device, weights, kv)
            if key not in made:
                made[key] = formats_of(engines[device].device, engines[device].constants, weights, kv)
            return made[key]

        def over(rows: list[list[Formats]], name: str, *shape: int) -> Any:
            values = [getattr(one, name) for row in rows for one in row]
            return None if None in values else np.array(values, dtype=float).reshape(len(rows), *shape)

        numbers = range(len(engines))
        columns = [[of(d, half, kv) for kv in self.kv] for d in numbers]
        cached = {name: over(columns, name, 1, 1, -1) for name in _OF_CACHE}
        many = {}
        for key in stored[0]:
            rows = [[of(d, found[key], "bf16") for found in stored] for d in numbers]
            many[key] = Formats(**{name: over(rows, name, 1, -1, 1) for name in _OF_WEIGHTS}, **cached)
        axis = (1, -1, 1, 1)
        layouts = [next(row[i] for row in self.jobs if row[i] is not None) for i in range(self.shape[1])]
        return replace(
            engines[0],
            constants=ServingConstants(**_stacked([one.constants for one in engines])),
            tp=np.array([one.tp * one.attention_dp for one in layouts if one]).reshape(axis),
            pp=np.array([one.pp for one in layouts if one]).reshape(axis),
            many=many,
            places=self._facts(),
        )

    def _facts(self) -> Facts:
        """Of all devices; a layout that does not fill its nodes has the same part of each."""
        found = _stacked([facts_of(one.cluster, one.constants) for one in self.engines])
        # without a link there are layouts of one rank only, and nothing times no number would be none
        found["inside"] = np.where(np.isnan(found["inside"]), np.inf, found["inside"])
        return Facts(**found | {"node": self.each(lambda job: instance_of(job).devices_per_node)})

    def at(self, place: Sequence[int]) -> ServingJob:
        """The job with the formats at one place of the arrays."""
        d, i, w, k = map(int, place)
        job = self.jobs[d][i]
        assert job is not None
        return replace(job, weights=self.weights[w], kv=self.kv[k])


def _stacked(rows: Sequence[Any]) -> dict[str, Any]:
    """The fields of several objects along the first axis; a number where all are equal, or None."""
    found = {}
    for f in fields(rows[0]):
        values = [getattr(row, f.name) for row in rows]
        same = all(value == values[0] for value in values)
        found[f.name] = values[0] if same else np.array(values, dtype=float).reshape(-1, 1, 1, 1)
    return found


def grids(
    jobs: Sequence[Sequence[ServingJob | None]], weights: Sequence[str], kv: Sequence[str], rooms: Rooms
) -> Iterator[tuple[list[int], list[int], ServingGrid]]:
    """Jobs by device and layout (attention_dp and ep are the same in all), parted into grids of what runs alike.

    Of each grid the numbers of its devices and of its layouts; a device is there once for each link of its clusters.
    """
    parts: dict[Any, dict[Any, list[ServingJob | None]]] = {}
    for d, row in enumerate(jobs):
        for i, job in enumerate(row):
            if job is None:
                continue
            device, link = job.cluster.accelerator, job.cluster.intra_link
            sums = None if job.all_reduce == "two-shot" else link and link.name
            steps = (job.engine, job.max_batched_tokens, job.page_tokens, job.split, sums)
            key = (steps, device.multiprocessors is None, "fp32" in device.peaks)
            parts.setdefault(key, {}).setdefault((d, link), [None] * len(row))[i] = job
    for part in parts.values():
        used = [i for i in range(len(jobs[0])) if any(row[i] is not None for row in part.values())]
        rows = [[row[i] for i in used] for row in part.values()]
        engines = [engine_for(next(job for job in row if job is not None)) for row in rows]
        yield [d for d, _ in part], used, ServingGrid(rows, weights, kv, rooms, engines)
