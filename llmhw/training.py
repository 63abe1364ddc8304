"""Training jobs: what every rank holds, how long a step takes, and what the whole run comes to."""

from __future__ import annotations

from bisect import bisect_left
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache, partial, reduce
from itertools import combinations
from typing import Any

from llmhw.activations import activations, by_op, layer_activations, shared_activations
from llmhw.block import Block, block, first_block, last_block, layer_input, saved_bytes
from llmhw.catalog import check_calibration, read_calibration
from llmhw.checks import checked
from llmhw.cost import Default, TrainingRun, training_run
from llmhw.flops import forward_flops, training_flops, utilization
from llmhw.formula import Estimate, Ledger, Part, Report, StageReport, Table, Term, explained, formula, term
from llmhw.frozen import FrozenDict
from llmhw.hardware import Cluster, usual_network
from llmhw.job import (
    Assumed,
    Layout,
    ServingJob,
    TrainingJob,
    data_parallel,
    filling_micro_batches,
    keeps_scaled,
    offloads,
    saves_attention,
)
from llmhw.language import said
from llmhw.margin import barely, fit_words, known_error, visible_bytes
from llmhw.memory import (
    PRECISIONS,
    kv_cache,
    lora_modules,
    lora_tensors,
    lora_terms,
    optimizer_named,
    optimizer_parts,
    precision_named,
    state_bytes,
    told_towers,
    training_states,
    weights,
    whole_towers,
)
from llmhw.messages import gathered_width
from llmhw.model import Layer
from llmhw.peak import StepPeak, peak_of
from llmhw.precision import formats_in
from llmhw.rates import BITS, OPERAND_BYTES, TrainingConstants, family_of
from llmhw.schedule import stages_in_flight
from llmhw.sharding import Stage, StageTensors, local_tensor, mtp_layers, stages_of, state_terms, uncut_rows
from llmhw.step_interval import class_of
from llmhw.step_time import PARTS, StepTime, time_bounds, time_step
from llmhw.units import (
    LLMHWError,
    any_of,
    ceil_div,
    each,
    format_quantity,
    format_range,
    maximum,
    minimum,
    share,
    where,
)


def _constant(name: str) -> float:
    """A share or size that no formula gives; `calibration.json` says what it was fitted to, and what it leaves over.

    reserved_over_allocated   PyTorch's caching allocator hands out blocks of whole sizes and keeps what it reserved
    context_bytes             CUDA context with its kernels, and NCCL's channels and buffers, beside the allocator
    """
    return float(read_calibration("training_memory")[name])


@formula(source="PyTorch's cross entropy: two fp32 gradients beside the log-probabilities it saved", unit="bytes")
def loss_temporary_bytes(*, batch: Any, seq_len: Any, vocab: Any, tp: Any = 1, cp: Any = 1) -> Any:
    """What the plain loss needs when its backward pass begins, beside what it saved; fused losses need none of it.

    >>> loss_temporary_bytes(batch=1, seq_len=8192, vocab=128256) / 2**30
    7.828125
    """
    return batch * seq_len * vocab * (4 + 4) / tp / cp


@formula(
    source="transformers until 4.48, ForCausalLMLoss: logits.float(), then logits[..., :-1, :].contiguous()",
    unit="bytes",
)
def copied_logits_bytes(*, batch: Any, seq_len: Any, vocab: Any, tp: Any = 1, cp: Any = 1) -> Any:
    """What is alive beside the log-probabilities where logits are copied to shift them: in 16 bit, and twice in fp32.

    >>> copied_logits_bytes(batch=1, seq_len=8192, vocab=128256) / 2**30
    9.78515625
    """
    return batch * seq_len * vocab * (2 + 4 + 4) / tp / cp


@formula(source="Unsloth's and Liger's cross entropy: the gradient is written over the 16-bit logits", unit="bytes")
def fused_loss_bytes(*, batch: Any, seq_len: Any, vocab: Any, tp: Any = 1, cp: Any = 1) -> Any:
    """All that a fused loss needs and saves.

    >>> fused_loss_bytes(batch=1, seq_len=8192, vocab=128256) / 2**30
    1.957...
    """
    return batch * seq_len * vocab * 2 / tp / cp


@formula(
    source="Liger-Kernel's fused linear cross entropy: a chunk's logits have as many elements as all hidden states",
    unit="bytes",
)
def chunked_loss_bytes(*, batch: Any, seq_len: Any, hidden: Any, head: Any = 0, cp: Any = 1) -> Any:
    """A chunk's logits in 16 bit and in fp32, the gradient of the hidden states, and that of the head.

    head   elements of the output head, where it is trained

    >>> chunked_loss_bytes(batch=1, seq_len=8192, hidden=4096) / 2**20
    256.0
    """
    return batch * seq_len * hidden * (2 + 4 + 2) / cp + head * 2


@formula(
    source="Megatron-LM without gradient-accumulation fusion: a weight's gradient, made in 16 bit, then added",
    unit="bytes",
)
def unfused_gradient_bytes(*, vocab: Any, hidden: Any, tp: Any = 1) -> Any:
    """The output head's gradient before it is added to the fp32 buffer: the backward pass begins with it.

    >>> unfused_gradient_bytes(vocab=128256, hidden=8192, tp=8) / 2**20
    250.5
    """
    return 2 * vocab * hidden / tp


@formula(
    source="FSDP2: the block in use and the one prefetched are whole, in 16 bit; so is a block's gradient", unit="bytes"
)
def fsdp_buffer_bytes(
    *, block_elements: Any, outer_elements: Any, gathered: Any = 2, bytes_per_element: Any = 2
) -> Any:
    """Whole weights and gradients that a fully sharded model holds beside its shards.

    block_elements    elements of the largest block on this rank, after tp
    outer_elements    elements of the embedding and the head: the root group, gathered for the whole step
    gathered          blocks whole at once: 2 with prefetch; 1 less where no gradient of a block is made

    One block's gradient is counted with them, before it is reduced and cut.

    >>> fsdp_buffer_bytes(block_elements=218112000, outer_elements=1050939392) / 2**30
    3.17...
    """
    return (block_elements * (gathered + 1) + outer_elements) * bytes_per_element


@formula(
    source="TRL's selective_log_softmax: in fp32 the logits and three gradients of their size, in 16 bit two of them",
    unit="bytes",
)
def label_log_probs_bytes(*, batch: Any, seq_len: Any, vocab: Any, element: Any, tp: Any = 1, cp: Any = 1) -> Any:
    """What log-probabilities of given tokens need where the backward pass begins (DPO, GRPO), the saved part with it.

    seq_len   tokens whose log-probabilities are asked for
    element   bytes of a logit: 4 in fp32 or under autocast, else 2

    >>> label_log_probs_bytes(batch=4, seq_len=1024, vocab=151936, element=4) / 2**30
    9.2734375
    """
    return batch * seq_len * vocab * where(element == 4, 16, 4) / tp / cp


@formula(
    source="DeepSpeed's defaults under ZeRO-3: stage3_max_live_parameters=1e9, reduce_bucket_size=5e8", unit="bytes"
)
def live_weights_bytes(*, elements: Any, largest: Any, live: Any = 1e9, bucket: Any = 5e8, width: Any = 2) -> Any:
    """Weights that DeepSpeed has gathered, and a gradient that no bucket holds, with the copy of it that is sent.

    elements   of the model on this rank, after tp
    largest    of its largest trained tensor; 0 where adapters alone are trained
    live       gathered at a time at most: what is prefetched (stage3_prefetch_bucket_size) and what is never cut
               (stage3_param_persistence_threshold) are among them
    bucket     elements of the largest gradient that is sent together with others

    >>> live_weights_bytes(elements=8.03e9, largest=525336576) / 1e9
    4.101346304
    """
    return (minimum(elements, live) + where(largest > bucket, 2 * largest, 0)) * width


@formula(source="FSDP2 in a pipeline (torchtitan): gathered once a step, reduced once behind it", unit="bytes")
def whole_step_bytes(*, elements: Any, weight_bytes: Any, gradient_bytes: Any) -> Any:
    """Whole weights and gradients that a pipeline stage holds beside its shards from its first micro-batch to its last.

    elements   that the rank holds after tp and ep

    >>> whole_step_bytes(elements=1000, weight_bytes=2, gradient_bytes=4)
    6000
    """
    return elements * (weight_bytes + gradient_bytes)


@formula(source="PyTorch's caching allocator keeps whole blocks: see calibration.json", unit="bytes")
def allocator_bytes(*, tensors: Any, apart: Any = 0, ratio: Any) -> Any:
    """What PyTorch's allocator has reserved.

    tensors   bytes of tensors at the fullest moment
    apart     bytes of tensors that are not there then, and do not fit the blocks of those that are
    ratio     blocks over tensors

    >>> allocator_bytes(tensors=100, ratio=1.05)
    105.0
    """
    return (tensors + apart) * ratio


@formula(source="measured: see calibration.json", unit="bytes")
def shown_bytes(*, reserved: Any, context: Any) -> Any:
    """What nvidia-smi shows.

    context   CUDA context with its kernels, and NCCL's channels and buffers

    >>> shown_bytes(reserved=100, context=3)
    103
    """
    return reserved + context


@formula(
    source="DeepSpeed stage_1_and_2.py: a 16-bit flat copy of the rank's gradients, then an fp32 one", unit="bytes"
)
def zero1_step_gradient_bytes(*, elements: Any, shards: Any, bytes_per_element: Any = 2 + 4) -> Any:
    """What DeepSpeed's ZeRO makes of its part of the gradients before it calls the optimizer.

    elements            parameters of the rank, before ZeRO
    shards              data-parallel ranks
    bytes_per_element   of InternEvo 2 more [inferred from its 16 readings: a 16-bit copy of the new weights]

    Both are single large blocks. They come when the activations have gone, but do not fit the small blocks that
    those leave in PyTorch's cache: they count for the reserved meter.

    >>> zero1_step_gradient_bytes(elements=3e9, shards=4)
    4500000000.0
    """
    return elements * bytes_per_element / shards


@formula(source="DeepSpeed's default reduce_bucket_size and allgather_bucket_size: 5e8 elements", unit="bytes")
def bucket_bytes(*, elements: Any = 500_000_000, bytes_per_element: Any = 2) -> Any:
    """A buffer that DeepSpeed collects gradients in before it reduces them, or weights when it gathers them.

    >>> bucket_bytes() / 1e9
    1.0
    """
    return elements * bytes_per_element


@dataclass(frozen=True, repr=False)
class JobMemory(StageReport):
    """Memory of every pipeline stage of a job; stages are what differs between ranks.

    stages        an `Estimate` of the tensors of one rank of each stage at its fullest moment, by part
    away          bytes of each stage's rank that lie in host memory
    unreused      bytes of each stage that PyTorch's allocator keeps apart beside them: gradients come when
                  activations go, but do not fit the blocks that those leave behind
    given_back    bytes of these that it does without where the device is full
    planned       how the layout was chosen, where nobody gave it
    """

    job: TrainingJob
    stages: tuple[Estimate, ...]
    unreused: tuple[float, ...]
    given_back: tuple[float, ...]
    away: tuple[float, ...]
    planned: str = ""

    @property
    def title(self) -> str:
        """The job in one line."""
        return self.titled("memory of {model} on {devices:,} x {device}: {asked}")

    def titled(self, words: str) -> str:
        """The model, the devices, and what is asked of them, put into these words."""
        job, p = self.job, self.job.parallelism
        sizes = ("dp", "tp", "pp", "vpp", "cp", "ep")
        layout = "".join(f"{name}={getattr(p, name)}, " for name in sizes if getattr(p, name) > 1)
        each = "global batch {batch:,} = 1 micro-batch{of_a_rank}"
        several = "global batch {batch:,} = {number:,} micro-batches{of_a_rank}"
        batch = said(
            each if job.micro_batches == 1 else several,
            batch=job.batch,
            number=job.micro_batches,
            of_a_rank=said(" a rank") if p.dp > 1 else "",
        )
        asked = said(
            "zero={zero}, micro-batch {sequences} x {tokens} tokens, {batch}, recompute {recompute}",
            zero=p.zero,
            sequences=job.micro_batch,
            tokens=job.seq_len,
            batch=batch,
            recompute=job.recompute,
        )
        device = job.cluster.accelerator.name
        return said(words, model=job.model.name, devices=job.cluster.devices, device=device, asked=layout + asked)

    @property
    def verdict(self) -> str:
        """Whether it fits, and what a device holds of what it has."""
        return said("{told}.", told=self._fits)

    @property
    def _fits(self) -> str:
        if self.device_bytes <= self.capacity_bytes and not self.fits_host:
            room, held = format_range((float(self.job.host_memory or 0), self.host_bytes), "bytes")
            return said("Does not fit: the host of a node must hold {held}, and has {room}", held=held, room=room)
        return fit_words(self.device_bytes, self.capacity_bytes, known_error("training"))

    def warnings(self) -> list[str]:
        """What must be known to trust the answer."""
        planned = [self.planned] if self.planned else []
        return planned + _assumed(self.job) + self._accumulating() + _cannot_run(self.job)

    def _accumulating(self) -> list[str]:
        """That a step of several micro-batches is judged otherwise, if it is: its gradients meet the activations."""
        job = self.job
        more = None if job.micro_batches > 1 else changed(job, {"global_batch": 2 * job.batch})
        if not self.fits or more is None or _well(more):
            return []
        needs = device_bytes(more)
        if needs <= self.capacity_bytes and self.fits_barely:
            return []
        how = said("fits barely" if needs <= self.capacity_bytes else "does not fit")
        size = format_quantity(needs, "bytes")
        return [
            said(
                "with gradient accumulation, as in global_batch={batch}, it {how}: {size}, as gradients stay",
                batch=more.batch,
                how=how,
                size=size,
            )
        ]

    def next_steps(self) -> list[str]:
        """Changes that make the job fit, tried on it, in the order of what they lose; [] where it fits well."""
        return [f"{step.text}: {format_quantity(step.memory.device_bytes, 'bytes')}" for step in self.tried]

    @cached_property
    def tried(self) -> tuple[Step, ...]:
        """The changes behind `next_steps`."""
        return () if self.fits and not self.fits_barely else tuple(steps_that_fit(self.job))

    @property
    def peak(self) -> StepPeak:
        """The exact profile of a job on one device, moment by moment; `LLMHWError` where there is none.

        The stages here add up the largest parts of two moments: they are never below it, and with fused attention
        at most 6 % above, exact without recompute.
        """
        return peak_of(self.job)

    @property
    def worst(self) -> int:
        """Number of the stage that holds most."""
        return max(range(len(self.stages)), key=lambda i: float(self.stages[i].total))

    @property
    def allocated_bytes(self) -> float:
        """What `torch.cuda.max_memory_allocated` shows on the worst stage."""
        return float(self.stages[self.worst].total)

    @property
    def reserved_bytes(self) -> float:
        """What `torch.cuda.max_memory_reserved` shows: blocks of the caching allocator."""
        return float(self._meters[0].value)

    @property
    def device_bytes(self) -> float:
        """What nvidia-smi shows: reserved memory, the CUDA context and NCCL's buffers, and an engine beside them."""
        return float(self._meters[1].value) + engine_bytes(self.job)

    @cached_property
    def _meters(self) -> tuple[Term, Term]:
        """Reserved bytes, and those on the device, of the stage that needs most of them."""
        return _metered(*max(self._held, key=sum), self.job.cluster.devices)

    @property
    def stage_device_bytes(self) -> tuple[float, ...]:
        """The same of each stage."""
        meters = (_metered(*held, self.job.cluster.devices)[1] for held in self._held)
        return tuple(float(shown.value) + engine_bytes(self.job) for shown in meters)

    @property
    def _held(self) -> list[tuple[float, float]]:
        held = zip((float(stage.total) for stage in self.stages), self.unreused, self.given_back, strict=True)
        return [(total, _kept(self.job, total, (apart - may_go, may_go))) for total, apart, may_go in held]

    @property
    def capacity_bytes(self) -> float:
        """Memory of one device that a program gets: see `llmhw.margin.visible_bytes`."""
        return visible_bytes(self.job.cluster.accelerator)

    @property
    def host_bytes(self) -> float:
        """What the host of one node must hold, with `offload`: the parts of all its ranks that are not on a device."""
        c = self.job.cluster
        return sum(self.away) / len(self.away) * min(c.devices, c.devices_per_node)

    @property
    def fits(self) -> bool:
        """Whether the worst stage fits the device, by the nvidia-smi meter, and what is offloaded the host."""
        return self.device_bytes <= self.capacity_bytes and self.fits_host

    @property
    def fits_host(self) -> bool:
        """Whether the host of a node has room for what is offloaded to it, as far as its memory is known."""
        return self.job.host_memory is None or self.host_bytes <= self.job.host_memory

    @property
    def fits_barely(self) -> bool:
        """Whether it fits by less than the known error: see `llmhw.margin`."""
        return barely(self.device_bytes, self.capacity_bytes, known_error("training"))

    @property
    def way_out(self) -> str:
        """By how much it falls short, and the change that fits and loses least; "" if it fits."""
        if self.fits:
            return ""
        here, there = self.device_bytes - self.capacity_bytes, self.host_bytes - (self.job.host_memory or 0)
        size = format_quantity(here if here > 0 else there, "bytes")
        short = said("short by {short}" if here > 0 else "short by {short} on the host", short=size)
        steps = self.next_steps()
        return f"{short}; {steps[0] if steps else said('no more devices of this kind would do')}"

    def explain(self, part: str | None = None, stage: int | None = None) -> str:
        """The formulas behind one part (or all) of a stage, or behind a meter; default: the worst stage that has it."""
        if part in ("reserved", "nvidia-smi"):
            return "\n".join(t.explain() for t in self._meters[: 1 if part == "reserved" else 2])
        if part == "device":
            return f"device = {format_quantity(self.capacity_bytes, 'bytes')}: what its driver offers to a program"
        if part == "rollout engine":
            share = format_quantity(self.job.rollout_share, "fraction")
            return f"{part} = {format_quantity(engine_bytes(self.job), 'bytes')}: {share} of the device"
        if part == "host has":
            return f"{part} {format_quantity(float(self.job.host_memory or 0), 'bytes')}, as given"
        if part == "host":
            return f"host = {format_quantity(self.host_bytes, 'bytes')}: what offload puts there, all ranks of a node"
        if stage is None:
            having = [i for i, held in enumerate(self.stages) if part in {p.name for p in held}]
            stage = self.worst if self.worst in having or not having else having[0]
        if part in ("total", "allocated"):
            total = format_quantity(float(self.stages[stage].total), "bytes")
            return f"{part} = {total}, the sum of\n\n{self.stages[stage].explain()}"
        return self.stages[stage].explain(part)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers in bytes."""
        return {
            "model": self.job.model.name,
            "device": self.job.cluster.accelerator.name,
            "devices": self.job.cluster.devices,
            **_asked(self.job),
            "verdict": self.verdict,
            "fits": self.fits,
            "fits_barely": self.fits_barely,
            "worst_stage": self.worst,
            "allocated_bytes": self.allocated_bytes,
            "reserved_bytes": self.reserved_bytes,
            "device_bytes": self.device_bytes,
            "capacity_bytes": self.capacity_bytes,
            "host_bytes": self.host_bytes,
            "way_out": self.way_out,
            "warnings": self.warnings(),
            "next_steps": self.next_steps(),
            "stages": [stage.to_dict() | {"stage": i} for i, stage in enumerate(self.stages)],
        }

    def to_row(self) -> dict[str, Any]:
        """One flat row: what was asked, whether it fits, then bytes; the parts are those of the worst stage."""
        told = ("verdict", "way_out", "warnings", "next_steps", "stages")
        row = {name: value for name, value in self.to_dict().items() if name not in told}
        parts = {part.name: float(part.value) for part in self.stages[self.worst]}
        return row | {f"{name.replace(' ', '_')}_bytes": value for name, value in parts.items()}

    def meters(self) -> list[tuple[str, str]]:
        """What the worst device shows on each meter, and what it has, as text."""
        held = {
            "allocated": self.allocated_bytes,
            "reserved": self.reserved_bytes,
            **({"rollout engine": engine_bytes(self.job)} if self.job.rollout_share else {}),
            "nvidia-smi": self.device_bytes,
            "device": self.capacity_bytes,
            **({"host": self.host_bytes} if self.host_bytes else {}),
            **({"host has": self.job.host_memory} if self.job.host_memory else {}),
        }
        return [(name, format_quantity(value, "bytes")) for name, value in held.items()]

    def tables(self) -> list[Table]:
        table, worst = self.stage_table(self.title), self.stages[self.worst]
        parts = {part.name: float(part.value) / float(worst.total) for part in worst} | {"total": 1.0}
        column = "share" if len(self.stages) == 1 else said("share of stage {number}", number=self.worst)
        rows = [(*row, format_quantity(parts.get(row[0], 0.0), "fraction")) for row in table.rows]
        return [
            table._replace(columns=(*table.columns, column), rows=rows),
            Table("", ("meter", "bytes"), self.meters(), head=()),
        ]

    def footer(self) -> list[str]:
        """The moment that is shown, and what is not there at it."""
        worst = self.stages[self.worst]
        found = (
            [said("The fullest moment of stage {number}: {moment}.", number=self.worst, moment=said(worst.note))]
            if worst.note
            else []
        )
        if self.job.kernels == "torch" and not self.job.frozen and "gradients" not in {p.name for p in worst}:
            kept = self.unreused[self.worst]
            apart = (
                said("; {size} of them lie apart in what is reserved", size=format_quantity(kept, "bytes"))
                if kept
                else ""
            )
            if self.job.parallelism.offload != "all":
                found.append(
                    said(
                        "There are no gradients at it: the backward pass makes them as activations go{apart}.",
                        apart=apart,
                    )
                )
        return found


def _assumed(job: TrainingJob) -> list[str]:
    """What was chosen for the job: attention, the formulas of its activations, a batch that fills the pipeline."""
    width = precision_named(job.precision).weights
    found = told_towers(job.model, width, "frozen, whole on every rank of the first stage")
    if isinstance(job.attention, Assumed) and job.attention != "flash":
        found.append(
            said(
                "attention={attention!r} is assumed: transformers has no fused attention of this family",
                attention=job.attention,
            )
        )
    if job.kernels == "torch" and not by_op(job.model):
        found.append(
            said(
                "activations are those of fused kernels, by the published formulas: how transformers "
                "computes {family} op by op is not in the catalog, and may keep more",
                family=job.model.family.name,
            )
        )
    return found + _assumed_batch(job)


def _assumed_batch(job: TrainingJob) -> list[str]:
    p = job.parallelism
    if job.global_batch is not None or p.pp == 1:
        return []
    rule = f"8 x pp{' / vpp' if p.vpp > 1 else ''}"
    return [
        said(
            "global_batch={batch} is assumed: {rule} = {number} micro-batches keep the bubble small",
            batch=job.batch,
            rule=rule,
            number=job.micro_batches,
        )
    ]


def _cannot_run(job: TrainingJob) -> list[str]:
    """That the device does not multiply the job's format, if so: it has room for what it cannot train."""
    try:
        job.cluster.accelerator.peak(job.peak_format)
    except LLMHWError as error:
        return [said("this device cannot run it: {error}", error=error)]
    return []


def _network(job: TrainingJob) -> str:
    """What must be said too of devices in several nodes that nobody rents."""
    c = job.cluster
    known = c.nodes == 1 or c.inter_link is not None or usual_network(c.accelerator) is not None
    return "" if known else ", inter_link='InfiniBand NDR 4x'"


def _asked(job: TrainingJob) -> dict[str, Any]:
    """What tells one job from another: its layout, formats, batch and lengths."""
    layout = ("dp", "tp", "pp", "vpp", "cp", "ep", "expert_tp", "zero", "replicas", "schedule", "sequence_parallel")
    asked = ("micro_batch", "global_batch", "seq_len", "precision", "optimizer", "compute", "recompute", "kernels")
    return {
        **{name: getattr(job.parallelism, name) for name in layout},
        **{name: getattr(job, name) for name in asked},
        "schedule": job.parallelism.pipeline_schedule,
        "global_batch": job.batch,
        "compute": job.compute_format,
    }


def _context(devices: Any) -> Any:
    """CUDA context; of several devices with NCCL's channels and buffers, as it was fitted."""
    alone = float(read_calibration("serving_memory")["context_bytes"])
    return where(devices > 1, _constant("context_bytes"), alone)


def _metered(tensors: Any, apart: Any, devices: int) -> tuple[Term, Term]:
    """What PyTorch reserves, and what nvidia-smi shows."""
    ratio = _constant("reserved_over_allocated")
    reserved = term(allocator_bytes, "reserved", tensors=tensors, apart=apart, ratio=ratio)
    return reserved, term(shown_bytes, "nvidia-smi", reserved=reserved.value, context=_context(devices))


def on_device(held: Any, devices: Any) -> Any:
    """What nvidia-smi shows where tensors and blocks apart from them take so many bytes, on one of so many devices."""
    reserved = allocator_bytes(tensors=held, ratio=_constant("reserved_over_allocated"))
    return shown_bytes(reserved=reserved, context=_context(devices))


def stay_apart(tensors: Any, apart: tuple[Any, Any], devices: Any, capacity: Any) -> Any:
    """Bytes of blocks apart from the tensors that PyTorch keeps.

    apart   those that it cannot give back where a device is full, and those that it can: see `StepMemory.unreused`
    """
    stay, may_go = apart
    # a billionth less than there is, so that no rounding makes more of it
    room = (capacity * (1 - 1e-9) - _context(devices)) / _constant("reserved_over_allocated") - tensors - stay
    return stay + maximum(0.0, minimum(may_go, room))


@checked
def memory(job: TrainingJob) -> JobMemory:
    """What the ranks of a job hold at their fullest, stage by stage and part by part.

    Counts weights, gradients, optimizer states, activations of all micro-batches in flight, logits, and whole
    blocks under ZeRO-3. Parts that lie in host memory (`offload`) are left out. The torch profile counts
    activations op by op, as autograd keeps them, split evenly over tp and cp; the Megatron profile counts the
    published formulas for its fused kernels.

    >>> from llmhw import Cluster, model
    >>> from llmhw.job import Parallelism
    >>> job = TrainingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 8), parallelism=Parallelism(dp=8, zero=3),
    ...                   seq_len=4096, recompute="full")
    >>> memory(job).fits
    True
    """
    job.check_effects()
    stages, apart, away = _stages(OnAnyDevice(job))
    return JobMemory(job, stages, tuple(map(sum, apart)), tuple(may_go for _, may_go in apart), away)


class OnAnyDevice:
    """A job as a key that is the same whatever its devices are: they decide what there is room for, not what is held.

    A table of one model on all devices asks for the same jobs again and again.
    """

    __slots__ = ("asked", "job")

    def __init__(self, job: TrainingJob) -> None:
        self.job = job
        values = [getattr(job, name) for name in job.__slots__ if name != "cluster"]
        # a name that was asked for equals the same one assumed, but `fuses` tells them apart
        self.asked = tuple((value, isinstance(value, Assumed)) for value in values)

    def __hash__(self) -> int:
        return hash(self.asked)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OnAnyDevice) and self.asked == other.asked


@lru_cache(maxsize=16)
def _stages(key: OnAnyDevice) -> tuple[tuple[Estimate, ...], tuple[tuple[float, float], ...], tuple[float, ...]]:
    """`JobMemory.stages`, `JobMemory.unreused` and `JobMemory.away`."""
    job, stages, unreused, away = key.job, [], [], []
    held = StepMemory(job, job.layout, detail="terms")
    for number, stage in enumerate(stages_of(job, every=True)):
        moments = held.moments(stage, number)
        name, fullest = max(moments.items(), key=lambda item: float(item[1].total))
        parts = tuple(Part(n, tuple(t), held.note(n, number)) for n, t in fullest.terms.items() if t)
        stages.append(Estimate(f"stage {number} of {job.model.name}", "bytes", parts, name))
        unreused.append(_floats(held.unreused(moments, stage)))
        there = sum(float(v) for n, v in held.states(stage).parts.items() if n in held.away)
        away.append(there + held.waiting(stage, number))
    return tuple(stages), tuple(unreused), tuple(away)


@lru_cache(maxsize=4096)
def _totals(key: OnAnyDevice) -> tuple[tuple[dict[str, float], tuple[float, float]], ...]:
    """The same as numbers, of the distinct stages alone: parts at the fullest moment, and bytes apart from them."""
    job, totals = key.job, []
    held = StepMemory(job, job.layout)
    for stage in stages_of(job):
        moments = held.moments(stage, stage.index)
        fullest = max(moments.values(), key=lambda found: float(found.total))
        totals.append((fullest.parts, _floats(held.unreused(moments, stage))))
    return tuple(totals)


def device_bytes(job: TrainingJob, *, least: bool = False) -> float:
    """`JobMemory.device_bytes` without formulas.

    least   of the blocks apart from the tensors only those that PyTorch cannot give back where a device is full
    """
    totals = ((sum(parts.values()), apart) for parts, apart in _totals(OnAnyDevice(job)))
    kept = (tensors + (apart[0] if least else _kept(job, tensors, apart)) for tensors, apart in totals)
    return float(on_device(max(kept), job.cluster.devices)) + engine_bytes(job)


def _floats(pair: tuple[Any, Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


def _kept(job: TrainingJob, tensors: float, apart: tuple[float, float]) -> float:
    """Bytes of blocks apart from the tensors of a stage, as far as the job's device has room."""
    c = job.cluster
    return float(stay_apart(tensors, apart, c.devices, visible_bytes(c.accelerator) - engine_bytes(job)))


def engine_bytes(job: TrainingJob) -> float:
    """What the engine that writes answers takes of each device."""
    return job.rollout_share * job.cluster.accelerator.memory_bytes


ROLLOUT = "the answers are written"
ALIVE, REDUCED, UPDATED = "all activations are alive", "all gradients are there", "the optimizer's step"
LOSS, LAYER = "the loss", "the backward pass of the last layer"
# Parts that only a layer's backward pass needs.
BRIEF = ("temporaries", "layer being recomputed")


class StepMemory:
    """What one rank of a stage holds at the fullest moment of a step.

    job      what does not change between layouts
    layout   one layout, or arrays of many; its `zero` is plain
    detail   parts; or terms, for the formulas behind them

    What knows no stages (a kind of layer, the ends) is evaluated once for all of them.
    """

    def __init__(self, job: TrainingJob, layout: Layout, *, detail: str = "parts") -> None:
        self.job, self.x, self.detail, self.spec = job, layout, detail, job.model
        self._states: dict[int, Ledger] = {}
        self.tensors = StageTensors(job.model, layout, job.parallelism.pp, job.mtp)
        self._kept: dict[Any, list[Term]] = {}
        self._ends: dict[str, dict[str, list[Term]]] = {}
        self._chosen = optimizer_named(job.optimizer)
        self.away = self._lies_elsewhere()

    def _lies_elsewhere(self) -> set[str]:
        """Parts of the states that are not on the device."""
        states = {"master copy", "momentum", "variance", "step counters"}
        every = states | {"weights", "adapters", "gradients", "reference model"}
        every |= {f"{tower.kind} tower" for tower in self.spec.towers}
        found = {"none": set[str](), "optimizer": states, "all": every}[self.job.parallelism.offload]
        # paged states are on the device only where nothing else needs the room
        return found | set(self._chosen.states) if self._chosen.paged else found

    # states

    def states(self, stage: Stage) -> Ledger:
        """Weights, gradients and optimizer states of a stage."""
        if stage.index not in self._states:
            job, found = self.job, Ledger(self.detail)
            whole = stage.first and job.kernels == "torch" and self.x.zero < 3
            uncut = uncut_rows(self.spec, self.x) if whole else None
            held, names = self.tensors.held(stage), {"optimizer": job.optimizer, "precision": job.precision}
            made = self.adapted(stage, self.x) if job.frozen else state_terms(held, self.x, uncut=uncut, **names)
            for name, terms in made.items():
                found.put(name, terms)
            for name, terms in self.towers(stage).items():
                found.put(name, terms)
            if job.has_reference:
                found.put("reference model", self.frozen(stage, self.x))
            self._states[stage.index] = found
        return self._states[stage.index]

    def frozen(self, stage: Stage, x: Layout) -> list[Term]:
        """Weights that are not trained, in the format of the base; ZeRO-3 cuts them."""
        job, held = self.job, self.tensors.held(stage)
        if not job.frozen or job.base is None:
            return state_terms(held, x, precision=job.precision)["weights"]
        parts = weights(self.spec, job.base, tensors=held)
        found = [t.scaled(where(x.zero == 3, 1 / x.shards, 1)) for part in parts for t in part.terms]
        if self.in_fp32:
            outer = sum(t.numel for end in stage.ends for t in self.tensors.outer(end))
            found.append(term(state_bytes, "more of embedding and head", elements=outer, bytes_per_element=2))
        return found

    def adapted(self, stage: Stage, x: Layout) -> dict[str, list[Term]]:
        """Frozen weights, and adapters with all that is kept to train them, cut as ZeRO cuts what is trained."""
        job = self.job
        added = lora_tensors(self.spec, rank=job.rank, targets=job.targets)
        recipe = PRECISIONS[job.adapters or "fp32"]
        # of the last layers alone, where it is so asked: layers are taken to be alike
        layers = sum(n for which, n in stage.parts if isinstance(which, int)) / self.spec.num_layers
        layers *= job.adapted_layers / self.spec.num_layers
        cut = [(local_tensor(x, t), n) for t, n in added]
        states = optimizer_parts(cut, self._chosen, recipe.state)
        parts_of = {
            "adapters": (3, lora_terms(added, recipe.weights, tp=x.tp)),
            "gradients": (2, lora_terms(added, recipe.gradients, tp=x.tp)),
            **{name: (1, terms) for name, terms in states.items()},
        }
        found = {"weights": self.frozen(stage, x)}
        for name, (stages, terms) in parts_of.items():
            found[name] = [t.scaled(layers * where(x.zero >= stages, 1 / x.shards, 1)) for t in terms]
        return found

    @property
    def in_fp32(self) -> bool:
        """Whether what is not quantized runs in fp32, with the residual stream, as peft prepares QLoRA on one card."""
        job = self.job
        quantized = job.frozen and job.base is not None and formats_in(self.spec, job.base)[0].bits_per_weight < 16
        return quantized and job.trainer.kbit and not (job.parallelism.zero == 3 and job.parallelism.shards > 1)

    def towers(self, stage: Stage) -> dict[str, list[Term]]:
        """Towers, which are frozen and lie whole on every rank of the first stage."""
        return whole_towers(self.spec, precision_named(self.job.precision).weights) if stage.first else {}

    # activations

    @property
    def rows(self) -> Any:
        """Sequences of a micro-batch that pass through the model."""
        return self.x.micro_batch * (self.job.sequences // self.job.micro_batch)

    def kept(self, kind: int, mode: str) -> list[Term]:
        """What a layer keeps of one micro-batch; `mode`: none, selective, per-op or full."""
        if (kind, mode) not in self._kept:
            self._kept[kind, mode] = self._layer(kind, mode)
        return self._kept[kind, mode]

    def _layer(self, kind: int, mode: str) -> list[Term]:
        job, x, layer = self.job, self.x, self.spec.layer_kinds[kind][0]
        if mode == "per-op":
            return _per_op(job, x, layer)
        if job.kernels == "megatron":
            if mode == "full":
                return [layer_input(self.spec, x, seq_len=job.seq_len).term(x.micro_batch)]
            found = self._block(layer, fused=True)
            # Transformer Engine's 8- and 4-bit layers keep their inputs as they multiply them, not in 16 bit
            stored = min(1.0, OPERAND_BYTES[job.compute_format] / 2)
            return _flat(found.kept(x.micro_batch, again=job.again if job.by_module else (), stored=stored))
        kept = self._by_tape((kind, mode), lambda **at: layer_activations(self.spec, layer, recompute=mode, **at))
        return [t.scaled(2) for t in kept] if mode == "full" and self.in_fp32 else kept

    def _block(self, layer: Layer, *, fused: bool) -> Block:
        job = self.job
        return block(
            self.spec,
            layer,
            self.x,
            seq_len=job.seq_len,
            attention=job.attention,
            fused=fused,
            dropout=job.dropout_masks,
            imbalance=job.expert_imbalance,
        )

    def _by_tape(self, what: Any, kept: Callable[..., Estimate]) -> list[Term]:
        """Terms of PyTorch's op-by-op profile; of arrays of layouts, its totals. `what`: a name of what is kept."""
        job, x = self.job, self.x
        case: dict[str, Any] = {"seq_len": job.seq_len, "attention": job.attention, "precision": job.precision}
        if job.frozen:
            case |= {"adapted": lora_modules(self.spec, job.targets), "dropout": bool(job.dropout)}
            case |= {"adapters": str(job.adapters), "rank": job.rank}
        if fuses(job):
            case["fused"] = True

        def at(tp: int, cp: int, split: bool, batch: int) -> Estimate:
            return kept(batch=batch, tp=tp, cp=cp, sequence_parallel=bool(split), **case)

        numbers = (x.tp, x.cp, x.sequence_parallel, self.rows)
        if self.detail == "terms":
            return [t for part in at(*numbers) for t in part.terms]
        # searches on many devices ask for the same numbers over and over
        known = _tape_totals(self.spec, what, tuple(case.items()))

        def total(*one: int) -> float:
            if one not in known:
                known[one] = float(at(*one).total)  # type: ignore[arg-type]
            return known[one]

        return [Term("op by op", "", (), 1, each(total, *numbers))]

    def shared(self, layers: Iterable[tuple[int, str]]) -> list[Term]:
        """Tables that all layers of these kinds and modes share, in one micro-batch (the torch profile)."""
        if self.job.kernels == "megatron":
            return []
        kinds = tuple(sorted(layers))
        key = ("shared", *kinds)
        if key not in self._kept:
            self._kept[key] = self._by_tape(key, lambda **at: shared_activations(self.spec, kinds, **at))
        return self._kept[key]

    def end(self, which: str) -> dict[str, list[Term]]:
        """What the embedding, or the head and the loss, keep of one micro-batch, by part."""
        if which not in self._ends:
            first, job, x = which == "first", self.job, self.x
            if job.kernels == "megatron":
                make = first_block if first else last_block
                dropout: dict[str, Any] = {"dropout": job.dropout_masks} if first else {}
                self._ends[which] = make(self.spec, x, seq_len=job.seq_len, **dropout).kept(x.micro_batch)
            else:
                ends: dict[str, Any] = {"layers": (), "embedding": first, "head": not first}
                plain = not first and job.loss in ("plain", "copied") and job.method == "sft"
                rest = self._by_tape(which, lambda **at: activations(self.spec, **ends, loss=False, **at))
                self._ends[which] = {"ends": rest, "loss": []}
                if plain:
                    made = self._by_tape("loss", lambda **at: _only(activations(self.spec, **ends, **at), "loss"))
                    self._ends[which]["loss"] = made
        return self._ends[which]

    def copies(self, number: int) -> Any:
        """Micro-batches whose activations a stage holds at its fullest, in stages' worth of layers."""
        p, x = self.job.parallelism, self.x
        return stages_in_flight(p.pipeline_schedule, p.pp, x.vpp, x.micro_batches, number)

    def activations(self, stage: Stage, number: int, moment: str = ALIVE) -> Ledger:
        """Activations of a stage: its layers' for every micro-batch in flight, its ends' for one.

        moment   LOSS: with what the loss needs; LAYER: with what the backward pass of a layer needs; ALIVE: with both
        """
        job, found, copies = self.job, Ledger(self.detail), self.copies(number)
        mode = {"full": "none", "block": "none"}.get(job.recompute, job.recompute)
        layers = {(kind, "full" if again else mode): count for (kind, again), count in stage.layers.items()}
        # the backward pass ends at the first layer with adapters: those before it keep nothing
        reached = job.adapted_layers / self.spec.num_layers if job.frozen else 1
        for (kind, how), count in layers.items():
            # of inputs that wait in host memory one is here: that of the layer at work
            here = 1 if job.checkpoint_offload and how == "full" else copies * count * reached
            found.put("activations", self.kept(kind, how), here)
        if job.mtp and stage.last:  # layers like the last one, in one micro-batch
            how = "full" if job.recompute == "full" else mode
            found.put("activations", self.kept(len(self.spec.layer_kinds) - 1, how), mtp_layers(self.spec))
        if mode != "per-op":
            found.put("activations", self.shared(layers), copies)
        if job.recompute_modules and job.by_module and stage.kinds:
            found.put("layer being recomputed", self.made_again(stage))
        if moment != LOSS and job.recompute in ("per-op", "full", "block") and stage.kinds:
            largest = max(stage.kinds, key=lambda kind: self.spec.layer_kinds[kind][0].params)
            found.put("layer being recomputed", self.kept(largest, "none"))
        for end in stage.ends:
            if end == "last" and moment == LAYER and stage.kinds:
                continue  # the head and its norm are through
            for part, terms in self.end(end).items():
                found.put("logits and loss" if part == "loss" else "embedding and final norm", terms)
        if stage.last and moment != LAYER:
            found.put("logits and loss", [self._loss()])
        if moment == LAYER and stage.kinds:
            found.put("temporaries", self.temporaries(stage))
            found.put("temporaries", self.held_by_hooks(stage))
        return found

    def waiting(self, stage: Stage, number: int) -> float:
        """Bytes of layers' inputs that wait in host memory."""
        if not self.job.checkpoint_offload:
            return 0.0
        copies = self.copies(number)
        each = ((self.kept(kind, "full"), n) for (kind, again), n in stage.layers.items() if again)
        return float(sum(t.value * n * copies for terms, n in each for t in terms))

    def held_by_hooks(self, stage: Stage) -> list[Term]:
        """Gradients of layers' inputs that FSDP 1 holds until the backward pass ends, where weights are frozen.

        It reshards frozen weights by hooks on a layer's inputs. Where layers are recomputed in a backward pass of their
        own, these keep the inputs and so their gradients, as a run of PyTorch on the CPU shows; fms-acceleration's LoRA
        runs hold one more row a layer for it.
        """
        job, x = self.job, self.x
        if not (job.frozen and job.recompute == "full" and job.trainer.sharding == "fsdp1" and job.trainer.reentrant):
            return []
        layers = sum(stage.layers.values()) - 1
        held = layer_input(self.spec, x, seq_len=job.seq_len).term(self.rows)
        return [held.scaled(layers * where((x.zero == 3) & (x.shards > 1), 1, 0))]

    def made_again(self, stage: Stage) -> list[Term]:
        """What recomputed modules make again in the backward pass of a layer, of the kind where it is most."""
        kinds = {kind: self._block(self.spec.layer_kinds[kind][0], fused=True) for kind in stage.kinds}
        batch = self.x.micro_batch
        made = {
            kind: [one.term(batch) for op in found.ops for one in op.kept if self.job.again & set(one.again)]
            for kind, found in kinds.items()
        }
        found: list[Term] = []
        most: Any = -1.0
        for terms in made.values():
            total = sum(t.value for t in terms)
            if isinstance(total, (int, float)) and isinstance(most, float):
                found, most = (terms, float(total)) if total > most else (found, most)
            else:  # of many layouts: terms of the kind that holds less come to nothing
                more = where(total > most, 1, 0)
                found = [t.scaled(1 - more) for t in found] + [t.scaled(more) for t in terms]
                most = maximum(most, total)
        return found

    def temporaries(self, stage: Stage) -> list[Term]:
        """Gradients of rows that are alive inside the backward pass of a layer, at the product of gate and up.

        The gradient of the residual stream, and those around that product: its own, which takes the place of the
        product itself where that was kept, and those of its two sides.
        """
        job, x = self.job, self.x
        layer = self.spec.layer_kinds[max(stage.kinds, key=lambda kind: self.spec.layer_kinds[kind][0].params)][0]
        inner, gated = _inner(layer)
        width: float = inner
        if job.trainer.expert_loop and any(t.component == "experts" for t in layer.tensors):
            width = inner / next(t.experts for t in layer.tensors if t.component == "experts")
        # fused kernels write the gradients of gate and up over these; what follows them keeps its input to train it
        adapted = lora_modules(self.spec, job.targets) if job.frozen else ()
        keeps = not job.frozen or any(t.part == "down" and t.module in adapted for t in layer.tensors)
        times = (0 if fuses(job) else 2 if gated else 1) + (not keeps)
        sizes = {"batch": self.rows, "seq_len": job.seq_len // x.cp}
        element = PRECISIONS[job.precision].compute
        widths = {"gradient of the residual stream": share(self.spec.hidden, x.spread)}
        widths["gradients inside the feed-forward part"] = times * width / x.tp
        return [
            term(saved_bytes, name, width=width, bytes_per_element=element, **sizes) for name, width in widths.items()
        ]

    def _loss(self) -> Term:
        sizes: dict[str, Any] = {"vocab": self.spec.head_shape[0], "tp": self.x.tp}
        if self.job.kernels == "megatron":
            return term(unfused_gradient_bytes, "gradient of the head", hidden=self.spec.hidden, **sizes)
        sizes |= {"batch": self.rows, "seq_len": self.job.answer_tokens, "cp": self.x.cp}
        if self.job.loss == "fused":
            return term(fused_loss_bytes, "logits in 16 bit, then their gradient", **sizes)
        if self.job.loss == "chunked":
            rows, hidden = self.spec.head_shape
            head = 0 if self.job.frozen else share(rows * hidden, sizes.pop("tp"))
            made = {name: sizes[name] for name in ("batch", "seq_len", "cp")}
            return term(chunked_loss_bytes, "logits of a chunk", hidden=hidden, head=head, **made)
        if self.job.method != "sft":
            # autocast and fp32 give fp32 logits
            element = 4 if self.job.precision in ("fp32", "fp32-bf16") else 2
            return term(label_log_probs_bytes, "logits and log-probabilities of the answers", element=element, **sizes)
        if self.job.loss == "copied":
            return term(copied_logits_bytes, "logits, their fp32 copy, and that shifted by one", **sizes)
        return term(loss_temporary_bytes, "gradients of the loss, in fp32", **sizes)

    def note(self, part: str, number: int) -> str:
        """What is said of a part beside its terms."""
        return f"{self.copies(number):g} micro-batches in flight" if part == "activations" else ""

    # the step

    def gathered(self, stage: Stage) -> Ledger:
        """Whole blocks that ZeRO-3 gathers beside the shards; in a pipeline all of them, and whole gradients."""
        found, x, p = Ledger(self.detail), self.x, self.job.parallelism
        # weights that lie on the host come block by block, too
        on = 1 if p.offload == "all" else where((x.zero == 3) & (x.shards > 1), 1, 0)
        if not any_of(on):
            return found
        if p.pp > 1:
            recipe = precision_named(self.job.precision)
            elements = sum(self.tensors.elements(stage, experts)[1] for experts in (False, True))
            given = {"elements": elements, "gradient_bytes": 0 if self.job.frozen else recipe.gradients}
            made = term(whole_step_bytes, "whole for the step", on, weight_bytes=gathered_width(self.job), **given)
            return found.put("gathered weights", [made])
        outer = sum(t.numel for end in stage.ends for t in self.tensors.outer(end))
        largest = max(self.spec.layer_kinds[kind][0].params for kind in stage.kinds)
        frozen, base = self.job.frozen, self.job.base
        if self.job.trainer.sharding == "deepspeed":
            elements = sum(self.tensors.elements(stage, experts)[1] for experts in (False, True))
            trained = () if frozen else self.tensors.held(stage)
            sizes = {"elements": elements, "largest": reduce(maximum, (t.numel for t, _ in trained), 0)}
            return found.put("gathered weights", [term(live_weights_bytes, "live weights", on, **sizes)])
        # frozen blocks have no gradient, and travel as they are stored
        packed = formats_in(self.spec, base)[0].bits_per_weight / 16 if base else 1
        made = term(
            fsdp_buffer_bytes,
            "gathered blocks" if frozen else "gathered blocks and a gradient",
            on,
            block_elements=ceil_div(largest, x.tp * x.ep) * packed,
            outer_elements=ceil_div(outer, x.tp),
            gathered=(0 if self.job.trainer.sharding == "fsdp1" else 1) if frozen else 2,
            bytes_per_element=2,
        )
        return found.put("gathered weights", [made])

    def moments(self, stage: Stage, number: int) -> dict[str, Ledger]:
        """What a stage holds at each moment that may be the fullest."""
        job, states = self.job, self.states(stage)
        held, gathered = states.without(self.away), self.gathered(stage)
        if job.optimizer_in_backward and not job.frozen:
            held = held.without({"gradients"})
            held.put("gradients", [self.largest(stage, "gradient", precision_named(job.precision).gradients)])
        alive = Ledger(self.detail).merge(held)
        if job.kernels == "megatron":  # Megatron-LM keeps its gradient buffers
            return {ALIVE: alive.merge(self.activations(stage, number)).merge(gathered)}
        # zero_grad() drops the gradients, so that the first micro-batch's forward pass meets none
        first = where(self.x.micro_batches == 1, 1, 0)
        if self.detail == "parts":
            alive.parts["gradients"] = alive.parts.get("gradients", 0.0) * (1 - first)
        elif first:
            alive = alive.without({"gradients"})
        alive.merge(gathered)
        cut = (self.x.shards > 1) & (self.x.zero > 0)
        if job.trainer.sharding == "deepspeed" and any_of(cut):
            alive.put("buckets", [term(bucket_bytes, "gradients before they are reduced", where(cut, 1, 0))])
        moments = {
            moment: Ledger(self.detail).merge(alive).merge(self.activations(stage, number, moment))
            for moment in (LOSS, LAYER)
        }
        if stage.last and not job.frozen and not job.optimizer_in_backward:
            moments[LAYER].put("gradients", self.head_gradient(stage), first)
        moments[REDUCED] = Ledger(self.detail).merge(held).merge(gathered)
        chosen, name = optimizer_named(job.optimizer), "optimizer's temporaries"
        if (
            "variance" in chosen.states
            and chosen.scheme == "plain"
            and "variance" not in self.away
            and not (chosen.fused or job.trainer.sharding == "deepspeed")
        ):
            # torch.optim.AdamW takes the square roots of all variances at once (foreach); fused ones need nothing
            updated = moments[UPDATED] = Ledger(self.detail).merge(held)
            if job.optimizer_in_backward and not job.frozen:
                width = chosen.element or precision_named(job.precision).state
                updated.put(name, [self.largest(stage, "square roots of the variance", width)])
            else:
                updated.parts[name] = states.parts["variance"]
                roots = (replace(t, label="square roots of the variance") for t in states.terms.get("variance", ()))
                updated.terms[name] = list(roots)
        if made := self.zero_step(stage):
            updated = moments.setdefault(UPDATED, Ledger(self.detail).merge(held))
            updated.put("optimizer's temporaries", [made])
        if job.method == "grpo" and not (job.rollout_share or job.rollout_gpus):
            moments[ROLLOUT] = Ledger(self.detail).merge(held.without({"gradients"})).merge(self.rollout(stage))
        return moments

    def largest(self, stage: Stage, label: str, width: int) -> Term:
        """One tensor's worth of what is kept for each: that of the largest, as ZeRO cuts it."""
        x = self.x
        most = reduce(maximum, (t.numel for t, _ in self.tensors.held(stage)), 0)  # a stage may be dealt no layer
        made = term(state_bytes, f"{label} of the largest tensor", elements=most, bytes_per_element=width)
        return made.scaled(where(x.zero >= 2, 1 / x.shards, 1))

    def rollout(self, stage: Stage) -> Ledger:
        """What the trained model itself needs to write answers: whole weights, and a cache for those of a step."""
        job, x, found = self.job, self.x, Ledger(self.detail)
        elements = sum(self.tensors.elements(stage, experts)[1] for experts in (False, True))
        whole = term(state_bytes, "weights, whole", elements=elements, bytes_per_element=gathered_width(job))
        found.put("gathered weights", [whole.scaled(where((x.zero == 3) & (x.shards > 1), 1, 0))])
        stored = {4: "fp32", 2: "bf16"}[PRECISIONS[job.precision].compute]

        def cache(batch: int, tp: int) -> Estimate:
            return kv_cache(self.spec, kv_format=stored, batch=int(batch), seq_len=job.seq_len, tp=int(tp))

        numbers = (x.micro_batch * x.micro_batches, x.tp)
        if self.detail == "terms":
            return found.put("KV cache", [t for part in cache(*numbers) for t in part.terms])
        total = each(lambda *one: float(cache(*one).total), *numbers)
        return found.put("KV cache", [Term("keys and values", "", (), 1, total)])

    def zero_step(self, stage: Stage) -> Term | None:
        """What DeepSpeed's and InternEvo's ZeRO makes of the gradients in the optimizer's step."""
        sharding, width = self.job.trainer.sharding, precision_named(self.job.precision)
        if sharding not in ("deepspeed", "internevo") or self.job.frozen or not width.master or "variance" in self.away:
            return None
        elements = sum(self.tensors.elements(stage, experts)[1] for experts in (False, True))
        shards = where(self.x.zero > 0, self.x.shards, 1)
        bytes_per_element = 8 if sharding == "internevo" else 6
        sizes = {"elements": elements, "shards": shards, "bytes_per_element": bytes_per_element}
        return term(zero1_step_gradient_bytes, "gradients of the step", **sizes)

    def head_gradient(self, stage: Stage) -> list[Term]:
        """The gradient of the head and the final norm, which is there when the backward pass comes to the layers."""
        x = self.x
        elements = sum(t.numel for end in stage.ends if end == "last" for t in self.tensors.outer(end))
        width = precision_named(self.job.precision).gradients
        made = term(state_bytes, "head and final norm", elements=elements / x.tp, bytes_per_element=width)
        return [made.scaled(where(x.zero >= 2, 1 / x.shards, 1))]

    def unreused(self, moments: Mapping[str, Ledger], stage: Stage) -> tuple[Any, Any]:
        """Bytes that the allocator keeps apart from the fullest moment: those it cannot give back, and those it can.

        Blocks of the loss do not fit what a layer's backward pass needs, nor the other way round: what is reserved
        has room for both. Gradients come when activations go, and do not fit their blocks either; but on a full device
        these are given back for them.
        """
        if self.job.kernels == "megatron":
            return 0.0, 0.0
        loss, layer = moments[LOSS], moments[LAYER]
        fullest = maximum(loss.total, layer.total)
        most = fullest
        for found in moments.values():
            most = maximum(most, found.total)
        brief = sum(layer.parts.get(name, 0.0) for name in BRIEF)
        either = loss.total + brief - fullest
        kept = "gradients" in self.away or self.job.optimizer_in_backward
        gradients = 0.0 if kept else self.states(stage).parts["gradients"]
        gradients = where((self.x.micro_batches == 1) & (fullest >= most), gradients, 0.0)
        # where the optimizer's step is the fullest moment, it takes blocks that the others have left; one that makes
        # flat blocks of all gradients finds none that are large enough
        flat = self.job.trainer.sharding in ("deepspeed", "internevo")
        left = fullest + either - (self.states(stage).without(self.away).total if flat else most)
        return where(fullest >= most, either, maximum(0.0, left)), gradients


@lru_cache(maxsize=256)
def _tape_totals(spec: Any, what: Any, case: Any) -> dict[tuple[int, ...], float]:
    """What `_by_tape` has found of a part of a model, by the numbers that it depends on."""
    return {}


def fuses(job: TrainingJob) -> bool:
    """Whether norms and gated activations are one kernel each; not assumed where nobody says what trains."""
    return job.trainer.elementwise != "eager" and (job.compiled is not None or not isinstance(job.software, Assumed))


def _inner(layer: Layer) -> tuple[int, bool]:
    """Elements inside a layer's feed-forward part for a token, of the experts that it uses, and whether it is gated."""
    down = [t for t in layer.tensors if t.part == "down"]
    gated = any(t.part in ("gate", "gate_up") and t.component in ("mlp", "experts") for t in layer.tensors)
    return sum(t.into * (t.used if t.component == "experts" else 1) for t in down), gated


def _per_op(job: TrainingJob, x: Layout, layer: Layer) -> list[Term]:
    """What torchtitan's selective checkpointing keeps of a layer: its input, and the outputs it does not run again.

    Its policy keeps the results of fused attention and of the first, third, fifth ... matrix product; in eager mode of
    scaled products (8 and 4 bit) none, but what is summed over tensor-parallel ranks: see `llmhw.job.keeps_scaled`.
    """
    spec, a = job.model, layer.attention
    if a is None or any(t.component == "experts" for t in layer.tensors):
        raise LLMHWError(f"recompute='per-op' covers dense layers with attention; {spec.name} has others: use 'full'")
    found = block(spec, layer, x, seq_len=job.seq_len, fused=False)
    widths = [("input of the layer", share(spec.hidden, x.spread))]
    widths.append(("result of attention", share(a.heads * a.v_head_dim, x.tp)))
    scaled = BITS[job.compute_format] < 16 and not keeps_scaled(job)
    if scaled and any_of(x.tp > 1):
        closing = sum(m.split == "row" for m in found.matmuls)
        widths.append(("sums over the ranks", where(x.tp > 1, closing * share(spec.hidden, x.spread), 0)))
    # nobody reads the result of the last one again: a compiler sees that
    for m in () if scaled else found.matmuls[: -1 if fuses(job) else None : 2]:
        widths.append((f"result of {m.name.split()[-1]}", share(m.n, x.spread) if m.split == "row" else m.n))
    sizes = {"batch": x.micro_batch * (job.sequences // job.micro_batch), "seq_len": job.seq_len // x.cp}
    element = PRECISIONS[job.precision].compute
    return [term(saved_bytes, name, width=width, bytes_per_element=element, **sizes) for name, width in widths]


def _flat(parts: Mapping[str, list[Term]]) -> list[Term]:
    return [t for terms in parts.values() for t in terms]


def _only(found: Estimate, part: str) -> Estimate:
    return replace(found, parts=tuple(p for p in found if p.name == part))


# -- what would help --------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A change that was tried on a job.

    text     what is changed, as arguments
    changes  the same by name
    job      with the change
    memory   what it then holds
    """

    text: str
    changes: Mapping[str, Any]
    job: TrainingJob
    memory: JobMemory


def changed(job: TrainingJob, changes: Mapping[str, Any]) -> TrainingJob | None:
    """The job with other fields, its own and those of its parallelism; None where a rule forbids it.

    changes   `devices` is the cluster's; dp takes what the layout leaves of them
    """
    own = {f.name for f in fields(TrainingJob)}
    layout = {name: value for name, value in changes.items() if name not in own and name != "devices"}
    c, p = job.cluster, job.parallelism
    try:
        if changes.get("devices", c.devices) != c.devices:
            c = Cluster(c.accelerator, changes["devices"], c.devices_per_node, c.intra_link, c.inter_link)
        sizes = {name: layout.get(name, getattr(p, name)) for name in ("tp", "pp", "cp")}
        layout["dp"] = data_parallel(devices=c.devices, **sizes)
        made = replace(p, **layout)
        found = replace(job, cluster=c, parallelism=made, **{n: v for n, v in changes.items() if n in own})
        found.check_effects()
    except LLMHWError:
        return None
    return found


def _choices(job: TrainingJob) -> list[list[dict[str, Any]]]:
    """What may be changed so that a job holds less, by kind, in the order of what that loses; milder ones first."""
    p, c = job.parallelism, job.cluster
    ranks = min(c.devices_per_node, c.devices // (p.pp * p.cp))
    doubled = [2**i for i in range(1, 11)]
    recompute = ["selective"] if job.recompute == "none" and saves_attention(job) else []
    recompute += [] if job.recompute == "full" else ["full"]
    smaller = [n for n in doubled[::-1] if n < job.micro_batch] + [1]
    trained, torch = not job.frozen, job.kernels == "torch"
    waits = torch and not job.checkpoint_offload
    at_once = torch and trained and not job.optimizer_in_backward and job.micro_batches == 1
    return [
        [{"schedule": "1f1b"}] if p.schedule == "gpipe" else [],
        [{"zero": stage} for stage in (1, 2, 3) if stage > p.zero and p.shards > 1 and (trained or stage == 3)],
        [{"tp": n, "sequence_parallel": True} for n in doubled if p.tp < n <= ranks],
        [{"pp": n} for n in doubled if p.pp < n <= c.devices // (p.tp * p.cp) and p.vpp == 1],
        [{"recompute": mode, "recompute_layers": 0} for mode in recompute],
        [{"loss": "chunked"}] if torch and job.loss != "chunked" else [],
        [{"micro_batch": n} for n in smaller] if job.micro_batch > 1 else [],
        [{"recompute": "full", "recompute_layers": 0, "checkpoint_offload": True}] if waits else [],
        [{"optimizer": "adamw-8bit"}] if trained and job.optimizer == "adamw" else [],
        [{"optimizer_in_backward": True}] if at_once else [],
        [{"offload": "optimizer"}] if trained and p.offload == "none" else [],
    ]


def _last_resorts(job: TrainingJob) -> list[list[dict[str, Any]]]:
    """What changes the job itself, or its speed by far: by kind, milder ones first."""
    adapters = {"frozen": True, "optimizer": "adamw", "precision": "bf16", "optimizer_in_backward": False}
    fewer = [{"base": "nf4-dq"}] if job.base is None else []
    return [
        [{"reference": False}] if job.has_reference else [],
        [{"offload": "all"}] if job.parallelism.offload != "all" else [],
        fewer if job.frozen else [adapters, adapters | {"base": "nf4-dq"}],
        [{"seq_len": 2**i} for i in range(16, 7, -1) if 2**i < job.seq_len],
    ]


def _text(job: TrainingJob, changes: Mapping[str, Any]) -> str:
    """Changes as arguments; what stays as it is is left out."""
    return ", ".join(
        f"{name}={value!r}"
        for name, value in changes.items()
        if value != getattr(job, name, getattr(job.parallelism, name, job.cluster.devices))
    )


def _well(job: TrainingJob) -> bool:
    """Whether it fits, and not barely; and what it puts on the host fits there."""
    if device_bytes(job) * (1 + known_error("training")) > visible_bytes(job.cluster.accelerator):
        return False
    return job.host_memory is None or not offloads(job) or memory(job).fits_host


def _try(job: TrainingJob, changes: Mapping[str, Any]) -> Step | None:
    """The change, if the job then fits, and not barely."""
    made = changed(job, changes)
    return Step(_text(job, changes), changes, made, memory(made)) if made and _well(made) else None


def steps_that_fit(job: TrainingJob, most: int = 3) -> Iterator[Step]:
    """Changes with which a job fits its devices, those that lose least first; then the least devices that would do.

    One change of each kind, the mildest that fits; where hardly any does, two kinds at their furthest, then more; at
    last what changes the job itself.
    """
    kinds = _choices(job)
    found: list[Step] = []
    alone: list[dict[str, Any]] = []
    for mild in kinds:
        step = next((step for changes in mild if (step := _try(job, changes))), None)
        if step:
            found.append(step)
        elif mild:
            alone.append(mild[-1])
    enough = [set(step.changes) for step in found]
    for size in (2, 3, 4):
        for some in combinations(alone, size) if len(found) < 2 else ():
            together = dict(ChainMap(*some[::-1]))
            # what already holds one that fits is no further way
            step = None if any(one <= set(together) for one in enough) else _try(job, together)
            if step and len(found) < most:
                found.append(step)
                enough.append(set(together))
    furthest = {"recompute": "full", "recompute_layers": 0, "micro_batch": 1}
    for mild in _last_resorts(job) if len(found) < 2 else ():
        ways = [way | changes for way in ({}, furthest, furthest | {"loss": "chunked"}) for changes in mild]
        step = next((step for changes in ways if (step := _try(job, changes))), None)
        found += [step] if step else []
    yield from found[:most]
    more = least_devices(job)
    if more is not None:
        yield more


def least_devices(job: TrainingJob) -> Step | None:
    """The fewest devices, a power of two times those there are, on which the job fits under zero=3."""
    c, p = job.cluster, job.parallelism
    furthest = {"recompute": "full", "recompute_layers": 0, "micro_batch": 1}
    node = {"tp": c.devices_per_node, "sequence_parallel": True} if c.devices_per_node > p.tp else {}
    for way in ({}, furthest, node, furthest | node):
        more = [{"devices": c.devices * 2**power, "zero": 3} | way for power in range(1, 13)]
        can = [(changes, made) for changes in more if (made := changed(job, changes))]
        if can and _well(can[-1][1]):
            changes, made = can[bisect_left(can, True, hi=len(can) - 1, key=lambda one: _well(one[1]))]
            return Step(_text(job, changes), changes, made, memory(made))
    return None


# -- the whole estimate -----------------------------------------------------------------------


@formula(source="definition", unit="tokens/s")
def training_speed(*, tokens: Any, seconds: Any, devices: Any = 1) -> Any:
    """Tokens that are trained on in a second, by one device of so many.

    tokens   of the global batch

    >>> training_speed(tokens=4_000_000, seconds=10, devices=64)
    6250.0
    """
    return tokens / seconds / devices


# -- steps that do more than an update --------------------------------------------------------


@formula(source="definition: all answers of a step start together and are as long as asked", unit="seconds")
def rollout_seconds(*, prompts: Any, prompt_seconds: Any, tokens: Any, token_seconds: Any) -> Any:
    """A replica of the engine reads its prompts, one after another, then writes its answers, all at once.

    prompts         of one replica, each read once for all its answers
    token_seconds   of one more token of every answer

    >>> rollout_seconds(prompts=2, prompt_seconds=0.1, tokens=1000, token_seconds=0.01)
    10.2
    """
    return prompts * prompt_seconds + tokens * token_seconds


def _rollout(job: TrainingJob) -> Term:
    """The answers of a step, by vLLM on a share of the devices or on others, or by the trained model itself."""
    from llmhw.service import Service, engine_for

    c, spec = job.cluster, job.model
    engine = "vllm" if job.rollout_share or job.rollout_gpus else "transformers"
    devices = job.rollout_gpus or c.devices
    room = (job.rollout_share or 0.9) * c.accelerator.memory_bytes
    # the fewest ranks that hold the weights in 16 bit and leave as much again of half of the room
    ways = [n for n in (1, 2, 4, 8) if devices % n == 0 and spec.kv_heads % n == 0]
    tp = next((n for n in ways if 2 * spec.parameters.total / n < room / 2), ways[-1])
    one = Cluster(c.accelerator, tp, c.devices_per_node, c.intra_link, c.inter_link)
    answers, replicas = job.batch, devices // tp
    asked = ServingJob(model=spec, cluster=one, tp=tp, weights="bf16", engine=engine)
    service = Service(asked, engine_for(asked), max(1, job.seq_len - job.answer_tokens), job.answer_tokens)
    given = {
        "prompts": ceil_div(ceil_div(answers, job.group), replicas),
        "prompt_seconds": float(service.prompt_seconds),
        "tokens": job.answer_tokens,
        "token_seconds": float(service.decoding(ceil_div(answers, replicas)).total),
    }
    return term(rollout_seconds, f"answers written by {engine}", **given)


def step_of(job: TrainingJob, *, calibration: Mapping[str, Any] | None = None) -> StepTime:
    """`llmhw.time_step`, with the answers that GRPO writes before it updates."""
    time = time_step(job, calibration=calibration)
    if job.method != "grpo":
        return time
    made = _rollout(job)

    def reason() -> Estimate:
        return replace(time.estimate, parts=(*time.estimate.parts, Part("rollout", (made,))))

    return replace(time, parts=FrozenDict({**time.parts, "rollout": float(made.value)}), reason=reason)


# Parts of a step in which a device does arithmetic; in all others it waits or sends.
WORK = ("matrix products", "attention", "elementwise", "recompute", "reference model", "optimizer")


@dataclass(frozen=True, repr=False)
class TrainingEstimate(Report):
    """A training job: its step, its memory, and the run it belongs to.

    job     what was asked
    time            seconds of the step by part, with the interval
    run             tokens, days, device-hours, dollars, energy and goodput: see `llmhw.cost.TrainingRun`
    planned         how the layout was chosen, where nobody gave it
    """

    job: TrainingJob
    time: StepTime
    run: TrainingRun
    calibration: Mapping[str, Any] | None = field(default=None, compare=False)
    planned: str = ""

    @cached_property
    def memory(self) -> JobMemory:
        """Memory of every pipeline stage; computed when it is first asked for."""
        return memory(self.job)

    @property
    def setting(self) -> str:
        """The devices, the network between them, the software."""
        return said("{cluster}; software {software}", cluster=self.job.cluster, software=self.job.software)

    def explain(self, part: str | None = None) -> str:
        """The formulas behind one part (or all) of the step's time, of the memory, or one of the named quantities."""
        held, seconds = self.memory, partial(format_quantity, unit="seconds")
        own = {t.label: t for t in self._terms}
        if part in own:
            return own[part].explain()
        if part in ("step", "total"):
            made = [f"    {name}: {seconds(value)}" for name, value in self.time.parts.items() if value]
            return "\n".join([f"{part} = {seconds(self.step_seconds)}, the sum of", *made])
        if part in ("memory", *(name for name, _ in held.meters())):
            return held.explain("nvidia-smi" if part == "memory" else part)
        if part in self.run.names:
            return self.run.explain(part)
        if part == "if it fitted":
            return self.verdict
        stages = [stage for stage in held.shown() if part in {p.name for p in stage}][:1]
        return explained(part, time=[self.time.estimate], memory=stages or [held.shown()[held.worst]])

    @property
    def _terms(self) -> tuple[Term, ...]:
        """Speeds and utilizations, as formulas."""
        flops, again = _step_flops(self.job)
        device, devices = self.job.cluster.accelerator, self.job.cluster.devices
        sizes: dict[str, Any] = {
            "seconds": self.step_seconds,
            "devices": devices,
            "peak_flops_per_second": device.peak(self.job.peak_format),
        }
        speed: dict[str, Any] = {"tokens": self.tokens_per_step, "seconds": self.step_seconds}
        return (
            term(training_speed, "tokens/s a device", **speed, devices=devices),
            term(training_speed, "tokens/s in all", **speed),
            term(utilization, "MFU", flops=flops, **sizes),
            term(utilization, "HFU", flops=flops + again, **sizes),
        )

    @property
    def step_seconds(self) -> float:
        """Seconds of one optimizer step."""
        return self.time.total

    @property
    def step_seconds_interval(self) -> tuple[float, float] | None:
        """Seconds between which 80 % of measured steps lie, by the sources that were left out of the fit; or None."""
        return self.time.interval

    @property
    def tokens_per_step(self) -> int:
        """Tokens of the global batch."""
        return _trained_sequences(self.job) * self.job.seq_len

    @property
    def tokens_per_second_per_device(self) -> float:
        """Tokens of the global batch, over seconds and devices."""
        return float(self._terms[0].value)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the global batch, over seconds."""
        return float(self._terms[1].value)

    @property
    def mfu(self) -> float:
        """Model FLOPs (all query-key pairs, nothing recomputed) over the dense peak of the format that is used."""
        return float(self._terms[2].value)

    @property
    def hfu(self) -> float:
        """The same with recomputed FLOPs."""
        return float(self._terms[3].value)

    @property
    def verdict(self) -> str:
        """Whether it fits; and if so, the step and its 80 % interval."""
        held = self.memory
        if not held.fits:
            return held.verdict
        step, *ends = format_range((self.step_seconds, *(self.step_seconds_interval or ())), "seconds")
        between = f" ({said('80 %: {low} to {high}', low=ends[0], high=ends[1])})" if ends else ""
        endless = "" if self.run.finishes else f" {self.run.verdict}"
        mfu = format_quantity(self.mfu, "fraction")
        return said("{fits}; step {time}, MFU {mfu}.", fits=held._fits, time=step + between, mfu=mfu) + endless

    def footer(self) -> list[str]:
        """What makes the interval as wide as it is, and what was assumed for the run."""
        return [said("80 % interval of the step: {why}", why=self.time.interval_words), *self.run.footer()]

    def warnings(self) -> list[str]:
        """Assumed values, parts that eat more than half of the step, a low utilization and its cause, old prices."""
        found = ([self.planned] if self.planned else []) + _assumed(self.job)
        waits = {name: s / self.step_seconds for name, s in self.time.parts.items() if name not in WORK}
        most = max(waits, key=lambda name: waits[name])
        cause = said("{percent:.0f} % of the step is {part}", percent=100 * waits[most], part=said(most))
        if self.mfu < 0.1:
            found.append(said("MFU is {mfu}: {cause}", mfu=format_quantity(self.mfu, "fraction"), cause=cause))
        elif waits[most] > 0.5:
            found.append(cause)
        if class_of(self.job) == "other" and not self.job.cluster.accelerator.reached:
            device = self.job.cluster.accelerator
            own = family_of(TrainingConstants, device) != "other"
            whose = "published rates of its parts" if own else "those of usual devices"
            text = "few or no training runs were measured on {kind}: its constants are {whose}, with a wider interval"
            found.append(said(text, kind=device.architecture, whose=said(whose)))
        if self.step_seconds_interval is None:
            found.append(said("no measured step is near to this job: its time has no interval"))
        return found + list(self.run.warnings())

    def next_steps(self) -> list[str]:
        """Changes that were tried: those that make the job fit, with the step they give, or those that speed it up."""
        if self.memory.tried:
            tried = ((step, self._seconds(step.job)) for step in self.memory.tried)
            return [
                f"{step.text}{_network(step.job)}: {format_quantity(step.memory.device_bytes, 'bytes')}"
                + ("" if seconds is None else said(", step {time}", time=format_quantity(seconds, "seconds")))
                for step, seconds in tried
            ]
        was = format_quantity(self.mfu, "fraction")
        return [
            said("{change}: MFU {mfu} in place of {was}", change=text, mfu=format_quantity(mfu, "fraction"), was=was)
            for mfu, text in self._faster()
        ]

    def _seconds(self, job: TrainingJob) -> float | None:
        """Seconds of a step of another job; None where its network is not known, or the way to its host."""
        c = job.cluster
        if c.inter_link is None and c.nodes > 1:
            between = usual_network(c.accelerator)
            job = replace(job, cluster=Cluster(c.accelerator, c.devices, c.devices_per_node, c.intra_link, between))
        try:
            return step_of(job, calibration=self.calibration).total
        except LLMHWError:
            return None

    def _faster(self) -> list[tuple[float, str]]:
        """Changes that fit and raise a utilization by a tenth or more, where waiting eats a quarter of the step."""
        job, p = self.job, self.job.parallelism
        if sum(s for name, s in self.time.parts.items() if name not in WORK) < self.step_seconds / 4:
            return []
        fewest = max(filling_micro_batches(p), 8) * job.micro_batch * p.dp
        tries: list[dict[str, Any]] = [{"global_batch": fewest}] if job.batch < fewest else []
        if p.tp > job.cluster.devices_per_node:
            tries.append({"tp": job.cluster.devices_per_node})
        found = []
        for changes in tries:
            made = changed(job, changes)
            seconds = self._seconds(made) if made and memory(made).fits else None
            if made and seconds:
                mfu = self.mfu * (made.batch / job.batch) * (self.step_seconds / seconds)
                found += [(mfu, _text(job, changes))] if mfu > 1.1 * self.mfu else []
        return sorted(found, reverse=True)

    @cached_property
    def bounds(self) -> dict[str, tuple[float, float, float]]:
        """For each part of the step: least, estimate and most seconds. See `llmhw.step_time.time_bounds`."""
        found = time_bounds(self.job, calibration=self.calibration)
        return found | {name: (s, s, s) for name, s in self.time.parts.items() if name not in PARTS}

    @property
    def title(self) -> str:
        """The job in one line."""
        return self.memory.titled("training of {model} on {devices:,} x {device}: {asked}")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: seconds, bytes, shares."""
        held = self.memory
        return {
            "model": self.job.model.name,
            "device": self.job.cluster.accelerator.name,
            "devices": self.job.cluster.devices,
            **_asked(self.job),
            "software": self.job.software,
            "verdict": self.verdict,
            "fits": held.fits,
            "warnings": self.warnings(),
            "next_steps": self.next_steps(),
            "step_seconds": self.step_seconds,
            "step_seconds_interval": self.step_seconds_interval and list(self.step_seconds_interval),
            "step_seconds_interval_is_of": self.time.interval_words,
            "step_parts": {
                name: {"least": low, "estimate": middle, "most": high}
                for name, (low, middle, high) in self.bounds.items()
            },
            "tokens_per_step": self.tokens_per_step,
            "tokens_per_second": self.tokens_per_second,
            "tokens_per_second_per_device": self.tokens_per_second_per_device,
            "mfu": self.mfu,
            "hfu": self.hfu,
            "memory": {
                "parts": {part.name: float(part.value) for part in held.stages[held.worst]},
                "total": held.allocated_bytes,
                **held.to_dict(),
            },
            "run": self.run.to_dict(),
        }

    def records(self) -> list[dict[str, Any]]:
        """Least, estimate and most seconds of each part of the step."""
        names = ("least", "estimate", "most")
        return [
            {"part": name} | dict(zip(names, bounds, strict=True)) for name, bounds in self.bounds.items() if bounds[2]
        ]

    index = "part"

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Part of the step, least, estimate and most time, and share, as text; the last row is the total."""
        shown = {name: bounds for name, bounds in self.bounds.items() if bounds[1] or bounds[2]}
        sums = tuple(sum(bounds[i] for bounds in shown.values()) for i in range(3))
        return [
            (
                name,
                least,
                estimate,
                most,
                format_quantity(bounds[1] / self.step_seconds, "fraction"),
            )
            for name, bounds in [*shown.items(), ("total", sums)]
            for estimate, least, most in [format_range((bounds[1], bounds[0], bounds[2]), "seconds")]
        ]

    def to_row(self) -> dict[str, Any]:
        """One flat row for a table of many jobs: what was asked, then what comes out, in base units."""
        job, held, run = self.job, self.memory, self.run.to_dict()
        low, high = self.step_seconds_interval or (None, None)
        price = self.run.price
        return {
            "model": job.model.name,
            "device": job.cluster.accelerator.name,
            "devices": job.cluster.devices,
            **_asked(job),
            "software": self.job.software,
            "fits": held.fits,
            "step_seconds": self.step_seconds,
            "step_seconds_low": low,
            "step_seconds_high": high,
            "tokens_per_second": self.tokens_per_second,
            "tokens_per_second_per_device": self.tokens_per_second_per_device,
            "mfu": self.mfu,
            "hfu": self.hfu,
            "memory_allocated_bytes": held.allocated_bytes,
            "memory_device_bytes": held.device_bytes,
            "memory_capacity_bytes": held.capacity_bytes,
            **{name: run[name] for name in ("tokens", "days", "days_low", "days_high", "device_hours", "goodput")},
            **{name: run[name] for name in ("dollars", "dollars_low", "dollars_high")},
            "dollars_per_device_hour": price and price.dollars_per_device_hour,
            "price_provider": price and price.provider,
            "price_region": price and price.region,
            "price_date": price and price.date,
            **{name: run[name] for name in ("energy_kwh", "co2_kg", "peak_kw", "spare_devices")},
            **{f"seconds_{name.replace(' ', '_').replace('-', '_')}": s for name, s in self.time.parts.items()},
        }

    def summary(self) -> list[tuple[str, str, str]]:
        """What a purchase order asks: quantity, value, and its 80 % interval or how it came about, as text.

        Of a job that does not fit, time and cost are what they would be if it did.
        """
        step, *ends = format_range((self.step_seconds, *(self.step_seconds_interval or ())), "seconds")
        held, run = self.memory, {name: (value, note) for name, value, note in self.run.rows()}
        room, used = format_range((held.capacity_bytes, held.device_bytes), "bytes")
        fits = said("it fits" if not held.fits_barely else "it fits barely")
        if not held.fits:
            fits = said("it does not fit: {way_out}", way_out=held.way_out)
        told = [
            ("memory", used, said("of {room}: {fits}", room=room, fits=fits)),
            ("step", step, said(" to ").join(ends) or "the calibration has none"),
            ("tokens/s a device", format_quantity(self.tokens_per_second_per_device, ""), ""),
            ("tokens/s in all", format_quantity(self.tokens_per_second, ""), ""),
            ("MFU", format_quantity(self.mfu, "fraction"), f"HFU {format_quantity(self.hfu, 'fraction')}"),
            *((name, *run[name]) for name in ("time", "device-hours", "cost", "price", "energy", "CO2")),
            *((name, *run[name]) for name in ("goodput", "peak power", "spares") if self.job.cluster.devices > 1),
        ]
        return told if held.fits else [told[0], ("if it fitted", "", ""), *told[1:]]

    def tables(self) -> list[Table]:
        names = ("least", "estimate", "most", "share")
        return [
            Table(self.title, ("quantity", "value", "range or origin"), self.summary(), prose=True, head=()),
            Table("", ("part of the step", *names), self.rows(), head=("part", *names)),
        ]


_COMPUTE_OPTIMAL = "20 for each parameter, as Hoffmann et al. 2022 (arXiv 2203.15556) found best for their compute"
_ADAPTED = Default("tokens", 1e8, "a fine-tuning set of 100,000 examples of 1,000 tokens; give tokens= of yours")


def usual_tokens(job: TrainingJob) -> Default:
    """Tokens of a run where nobody says how many."""
    if job.frozen or job.method != "sft":
        return _ADAPTED
    return Default("tokens", 20 * job.model.parameters.text, _COMPUTE_OPTIMAL)


def _trained_sequences(job: TrainingJob) -> int:
    """Sequences of a step that pass through the model: of DPO's pairs both."""
    return job.batch * (job.sequences // job.micro_batch)


def _step_flops(job: TrainingJob) -> tuple[float, float]:
    """Model FLOPs of a step, and those that are computed again."""
    sizes: dict[str, Any] = {"batch": _trained_sequences(job), "seq_len": job.seq_len}
    made = training_flops(job.model, recompute="full", **sizes)
    again = float(made["recompute"])
    if job.recompute == "block":
        again *= job.recompute_layers * job.parallelism.pp / job.model.num_layers
    elif job.recompute == "per-op":
        core = float(forward_flops(job.model, **sizes)["attention_core"])
        again = (again - core) / 2
    elif job.recompute == "selective":
        # fused attention recomputes its scores in any case, and its backward pass is counted so
        again = float(forward_flops(job.model, **sizes)["attention_core"]) if job.attention == "eager" else 0.0
    elif job.recompute == "none":
        again = 0.0
    backward = float(made["backward"]) / (2 if job.frozen else 1)
    return float(made["forward"]) + backward, again


@checked
def train(
    job: TrainingJob,
    *,
    tokens: float | None = None,
    calibration: Mapping[str, Any] | None = None,
    **run: Any,
) -> TrainingEstimate:
    """How long a step of a job takes, what it needs, and what the whole run costs.

    tokens        of the run; default: 20 for each parameter (Hoffmann et al. 2022), or 100 million where only adapters
                  are trained; it is listed with what else was assumed
    calibration   constants of one's own cluster, as `llmhw validate --fit` writes them
    run           prices, failures and power: the arguments of `llmhw.cost.training_run`

    Time is a roofline for each operation, alpha and beta for each message, and the schedule that joins them; constants
    and interval come from published runs. A network between nodes is needed where the job spans them.

    >>> from llmhw import Cluster, model
    >>> from llmhw.job import Parallelism
    >>> layout = Parallelism(dp=2, tp=4, pp=8, vpp=5, zero=1, sequence_parallel=True)
    >>> job = TrainingJob(model=model("llama-3-70b"), cluster=Cluster("h100", 64, inter_link="infiniband ndr"),
    ...                   parallelism=layout, global_batch=256, seq_len=8192, kernels="megatron", compute="fp8",
    ...                   precision="bf16-mixed-fp32-grads")
    >>> found = train(job)
    >>> 0.85 < found.tokens_per_second_per_device / 1664 < 1.15  # what NVIDIA measured (Megatron-Bridge 26.04.01)
    True
    """
    job.check_effects()
    if calibration is not None:
        check_calibration("training_time", "training-throughput", calibration)
    time = step_of(job, calibration=calibration)
    per_step = _trained_sequences(job) * job.seq_len
    # a checkpoint holds the weights in 16 bit and the optimizer's states of all ranks, once each; adapters hardly weigh
    held = training_states(job.model, optimizer=job.optimizer, precision=job.precision)
    checkpoint = sum(float(part.value) for part in held if part.name != "gradients" and not job.frozen)
    usual = usual_tokens(job)
    whole = training_run(
        step_seconds=time.total,
        step_seconds_interval=time.interval,
        tokens_per_step=per_step,
        tokens=usual.value if tokens is None else tokens,
        flops_per_token=_step_flops(job)[0] / per_step,
        checkpoint_bytes=checkpoint,
        cluster=job.cluster,
        **run,
    )
    if tokens is None:
        whole = replace(whole, defaults=(usual, *whole.defaults))
    return TrainingEstimate(job, time, whole, calibration)
