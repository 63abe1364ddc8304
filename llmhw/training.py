"""Training jobs: what every rank holds, how long a step takes, and what the whole run comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from llmhw.activations import activations, layer_activations, shared_activations
from llmhw.block import Block, block, first_block, last_block, layer_input, saved_bytes
from llmhw.catalog import check_calibration, read_calibration
from llmhw.checks import checked
from llmhw.cost import TrainingRun, training_run
from llmhw.flops import forward_flops, training_flops, utilization
from llmhw.formula import Estimate, Ledger, Part, Report, StageReport, Table, Term, explained, formula, term
from llmhw.job import Layout, TrainingJob
from llmhw.memory import PRECISIONS, optimizer_named, precision_named, training_states
from llmhw.messages import gathered_width
from llmhw.model import Layer
from llmhw.peak import StepPeak, peak_of
from llmhw.rates import OPERAND_BYTES
from llmhw.schedule import stages_in_flight
from llmhw.sharding import Stage, StageTensors, stages_of, state_terms, uncut_rows
from llmhw.step_time import PARTS, StepTime, default_software, time_bounds, time_step
from llmhw.units import LLMHWError, any_of, ceil_div, each, format_quantity, maximum, share, where


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
    gathered          blocks whole at once: 2 with prefetch

    One block's gradient is counted with them, before it is reduced and cut.

    >>> fsdp_buffer_bytes(block_elements=218112000, outer_elements=1050939392) / 2**30
    3.17...
    """
    return (block_elements * (gathered + 1) + outer_elements) * bytes_per_element


@formula(source="FSDP2 in a pipeline (torchtitan): gathered once a step, reduced once behind it", unit="bytes")
def whole_step_bytes(*, elements: Any, weight_bytes: Any, gradient_bytes: Any) -> Any:
    """Whole weights and gradients that a pipeline stage holds beside its shards from its first micro-batch to its last.

    elements   that the rank holds after tp and ep

    >>> whole_step_bytes(elements=1000, weight_bytes=2, gradient_bytes=4)
    6000
    """
    return elements * (weight_bytes + gradient_bytes)


@dataclass(frozen=True, slots=True, repr=False)
class JobMemory(StageReport):
    """Memory of every pipeline stage of a job; stages are what differs between ranks.

    stages        an `Estimate` of the tensors of one rank of each stage at its fullest moment, by part
    unreused      bytes of each stage that PyTorch's allocator keeps apart beside them: gradients come when
                  activations go, but do not fit the blocks that those leave behind
    """

    job: TrainingJob
    stages: tuple[Estimate, ...]
    unreused: tuple[float, ...]

    @property
    def title(self) -> str:
        """The job in one line."""
        job, p = self.job, self.job.parallelism
        sizes = ("dp", "tp", "pp", "vpp", "cp", "ep")
        layout = "".join(f"{name}={getattr(p, name)}, " for name in sizes if getattr(p, name) > 1)
        return (
            f"memory of {job.model.name} on {job.cluster.devices} x {job.cluster.accelerator.name}: {layout}"
            f"zero={p.zero}, micro-batch {job.micro_batch} x {job.seq_len} tokens, recompute {job.recompute}"
        )

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
        return self._held * _constant("reserved_over_allocated")

    @property
    def _held(self) -> float:
        return max(float(s.total) + apart for s, apart in zip(self.stages, self.unreused, strict=True))

    @property
    def device_bytes(self) -> float:
        """What nvidia-smi shows: reserved memory, the CUDA context and NCCL's buffers."""
        return float(on_device(self._held))

    @property
    def capacity_bytes(self) -> float:
        """Memory of one device."""
        return self.job.cluster.accelerator.memory_bytes

    @property
    def fits(self) -> bool:
        """Whether the worst stage fits the device, by the nvidia-smi meter."""
        return self.device_bytes <= self.capacity_bytes

    @property
    def way_out(self) -> str:
        """By how much it falls short and what would help most; "" if it fits."""
        if self.fits:
            return ""
        short = self.device_bytes - self.capacity_bytes
        parts = sorted(self.stages[self.worst].parts, key=lambda part: -float(part.value))
        return f"short by {format_quantity(short, 'bytes')}; {_REMEDY.get(parts[0].name, 'use more devices')}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers in bytes."""
        return {
            "model": self.job.model.name,
            "device": self.job.cluster.accelerator.name,
            "devices": self.job.cluster.devices,
            "worst_stage": self.worst,
            "allocated_bytes": self.allocated_bytes,
            "reserved_bytes": self.reserved_bytes,
            "device_bytes": self.device_bytes,
            "capacity_bytes": self.capacity_bytes,
            "fits": self.fits,
            "way_out": self.way_out,
            "stages": [stage.to_dict() | {"stage": i} for i, stage in enumerate(self.stages)],
        }

    def tables(self) -> list[Table]:
        return [self.stage_table(self.title)]


_REMEDY = {
    "activations": "recompute more (recompute='selective' or 'full'), or use a smaller micro_batch",
    "weights": "split the weights: more tp or pp, or zero=3",
    "gradients": "split the gradients: more tp or pp, or zero=2",
    "master copy": "split the optimizer's states: zero=1, or more tp or pp",
    "momentum": "split the optimizer's states: zero=1, or more tp or pp",
    "variance": "split the optimizer's states: zero=1, or more tp or pp",
    "logits and loss": "split the vocabulary with more tp, or use a smaller micro_batch",
}


def on_device(held: Any) -> Any:
    """What nvidia-smi shows where tensors and blocks apart from them take so many bytes."""
    return held * _constant("reserved_over_allocated") + _constant("context_bytes")


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
    held = StepMemory(job, job.layout, detail="terms")
    stages, unreused = [], []
    for number, stage in enumerate(stages_of(job, every=True)):
        moments = held.moments(stage, number)
        name, fullest = max(moments.items(), key=lambda item: float(item[1].total))
        parts = tuple(Part(n, tuple(t), held.note(n, number)) for n, t in fullest.terms.items() if t)
        stages.append(Estimate(f"stage {number} of {job.model.name}", "bytes", parts, name))
        unreused.append(float(held.unreused(moments, stage)))
    return JobMemory(job, tuple(stages), tuple(unreused))


ALIVE, REDUCED, UPDATED = "all activations are alive", "all gradients are there", "the optimizer's step"


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
        self.tensors = StageTensors(job.model, layout, job.parallelism.pp)
        self._kept: dict[Any, list[Term]] = {}
        self._ends: dict[str, dict[str, list[Term]]] = {}
        self.away = self._lies_elsewhere()

    def _lies_elsewhere(self) -> set[str]:
        """Parts of the states that are not on the device."""
        states = {"master copy", "momentum", "variance", "step counters"}
        every = states | {"weights", "gradients"}
        away = {"none": set[str](), "optimizer": states, "all": every}[self.job.parallelism.offload]
        # adapters are some hundredths of a percent of the weights, and their states as little
        return away | (states | {"gradients"}) if self.job.frozen else away

    # states

    def states(self, stage: Stage) -> Ledger:
        """Weights, gradients and optimizer states of a stage."""
        if stage.index not in self._states:
            job, found = self.job, Ledger(self.detail)
            whole = stage.first and job.kernels == "torch" and self.x.zero < 3
            uncut = uncut_rows(self.spec, self.x) if whole else None
            held, names = self.tensors.held(stage), {"optimizer": job.optimizer, "precision": job.precision}
            for name, terms in state_terms(held, self.x, uncut=uncut, **names).items():
                found.put(name, terms)
            self._states[stage.index] = found
        return self._states[stage.index]

    # activations

    def kept(self, kind: int, mode: str) -> list[Term]:
        """What a layer keeps of one micro-batch; `mode`: none, selective, per-op or full."""
        if (kind, mode) not in self._kept:
            self._kept[kind, mode] = self._layer(self.spec.layer_kinds[kind][0], mode)
        return self._kept[kind, mode]

    def _layer(self, layer: Layer, mode: str) -> list[Term]:
        job, x = self.job, self.x
        if mode == "per-op":
            return _per_op(job, x, layer)
        if job.kernels == "megatron":
            if mode == "full":
                return [layer_input(self.spec, x, seq_len=job.seq_len).term(x.micro_batch)]
            found = self._block(layer, fused=True)
            # Transformer Engine's 8- and 4-bit layers keep their inputs as they multiply them, not in 16 bit
            stored = min(1.0, OPERAND_BYTES[job.compute_format] / 2)
            return _flat(found.kept(x.micro_batch, selective=mode == "selective", stored=stored))
        return self._by_tape(lambda **at: layer_activations(self.spec, layer, recompute=mode, **at))

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

    def _by_tape(self, kept: Callable[..., Estimate]) -> list[Term]:
        """Terms of PyTorch's op-by-op profile; of arrays of layouts, its totals."""
        job, x = self.job, self.x

        def at(tp: int, cp: int, split: bool, batch: int) -> Estimate:
            sizes = {"batch": batch, "tp": tp, "cp": cp, "sequence_parallel": bool(split)}
            return kept(seq_len=job.seq_len, attention=job.attention, precision=job.precision, **sizes)

        numbers = (x.tp, x.cp, x.sequence_parallel, x.micro_batch)
        if self.detail == "terms":
            return [t for part in at(*numbers) for t in part.terms]
        return [Term("op by op", "", (), 1, each(lambda *one: float(at(*one).total), *numbers))]

    def shared(self, layers: Iterable[tuple[int, str]]) -> list[Term]:
        """Tables that all layers of these kinds and modes share, in one micro-batch (the torch profile)."""
        if self.job.kernels == "megatron":
            return []
        kinds = tuple(sorted(layers))
        key = ("shared", *kinds)
        if key not in self._kept:
            self._kept[key] = self._by_tape(lambda **at: shared_activations(self.spec, kinds, **at))
        return self._kept[key]

    def end(self, which: str) -> dict[str, list[Term]]:
        """What the embedding, or the head and the loss, keep of one micro-batch, by part."""
        if which not in self._ends:
            first, job, x = which == "first", self.job, self.x
            if job.kernels == "megatron":
                make = first_block if first else last_block
                dropout = {"dropout": job.dropout_masks} if first else {}
                self._ends[which] = make(self.spec, x, seq_len=job.seq_len, **dropout).kept(x.micro_batch)
            else:
                ends: dict[str, Any] = {"layers": (), "embedding": first, "head": not first}
                loss = [] if first else self._by_tape(lambda **at: _only(activations(self.spec, **ends, **at), "loss"))
                rest = self._by_tape(lambda **at: activations(self.spec, **ends, loss=False, **at))
                self._ends[which] = {"ends": rest, "loss": loss}
        return self._ends[which]

    def copies(self, number: int) -> Any:
        """Micro-batches whose activations a stage holds at its fullest, in stages' worth of layers."""
        p, x = self.job.parallelism, self.x
        return stages_in_flight(p.pipeline_schedule, p.pp, x.vpp, x.micro_batches, number)

    def activations(self, stage: Stage, number: int) -> Ledger:
        """Activations of a stage: its layers' for every micro-batch in flight, its ends' for one."""
        job, found, copies = self.job, Ledger(self.detail), self.copies(number)
        mode = {"full": "none", "block": "none"}.get(job.recompute, job.recompute)
        layers = {(kind, "full" if again else mode): count for (kind, again), count in stage.layers.items()}
        for (kind, how), count in layers.items():
            found.put("activations", self.kept(kind, how), copies * count)
        if mode != "per-op":
            found.put("activations", self.shared(layers), copies)
        if job.recompute in ("per-op", "full", "block") and stage.kinds:
            largest = max(stage.kinds, key=lambda kind: self.spec.layer_kinds[kind][0].params)
            found.put("layer being recomputed", self.kept(largest, "none"))
        for end in stage.ends:
            for part, terms in self.end(end).items():
                found.put("logits and loss" if part == "loss" else "embedding and final norm", terms)
        if stage.last:
            found.put("logits and loss", [self._loss()])
        return found

    def _loss(self) -> Term:
        sizes: dict[str, Any] = {"vocab": self.spec.vocab_size, "tp": self.x.tp}
        if self.job.kernels == "megatron":
            return term(unfused_gradient_bytes, "gradient of the head", hidden=self.spec.hidden, **sizes)
        sizes |= {"batch": self.x.micro_batch, "seq_len": self.job.seq_len, "cp": self.x.cp}
        return term(loss_temporary_bytes, "gradients of the loss, in fp32", **sizes)

    def note(self, part: str, number: int) -> str:
        """What is said of a part beside its terms."""
        return f"{self.copies(number):g} micro-batches in flight" if part == "activations" else ""

    # the step

    def gathered(self, stage: Stage) -> Ledger:
        """Whole blocks that ZeRO-3 gathers beside the shards; in a pipeline all of them, and whole gradients."""
        found, x, p = Ledger(self.detail), self.x, self.job.parallelism
        on = where((x.zero == 3) & (x.shards > 1), 1, 0)
        if not any_of(on):
            return found
        if p.pp > 1:
            recipe = precision_named(self.job.precision)
            elements = sum(self.tensors.elements(stage, experts)[1] for experts in (False, True))
            given = {"elements": elements, "gradient_bytes": 0 if self.job.frozen else recipe.gradients}
            made = term(whole_step_bytes, "whole for the step", on, weight_bytes=gathered_width(self.job), **given)
            return found.put("gathered weights", [made])
        outer = sum(t.numel for end in stage.ends for t in self.tensors.outer(end))
        made = term(
            fsdp_buffer_bytes,
            "gathered blocks and a gradient",
            on,
            block_elements=ceil_div(max(self.spec.layer_kinds[kind][0].params for kind in stage.kinds), x.tp * x.ep),
            outer_elements=ceil_div(outer, x.tp),
            bytes_per_element=2,
        )
        return found.put("gathered weights", [made])

    def moments(self, stage: Stage, number: int) -> dict[str, Ledger]:
        """What a stage holds at each moment that may be the fullest."""
        job, states = self.job, self.states(stage)
        held, gathered = states.without(self.away), self.gathered(stage)
        alive = Ledger(self.detail).merge(held)
        if job.kernels == "megatron":  # Megatron-LM keeps its gradient buffers
            return {ALIVE: alive.merge(self.activations(stage, number)).merge(gathered)}
        # zero_grad() drops the gradients, so that the first micro-batch's forward pass meets none
        first = where(self.x.micro_batches == 1, 1, 0)
        if self.detail == "parts":
            alive.parts["gradients"] = alive.parts.get("gradients", 0.0) * (1 - first)
        elif first:
            alive = alive.without({"gradients"})
        alive.merge(self.activations(stage, number)).merge(gathered)
        moments = {ALIVE: alive, REDUCED: Ledger(self.detail).merge(held).merge(gathered)}
        chosen, name = optimizer_named(job.optimizer), "optimizer's temporaries"
        if "variance" in chosen.states and chosen.scheme == "plain" and "variance" not in self.away:
            # torch.optim.AdamW takes the square roots of all variances at once (foreach); fused ones need nothing
            updated = moments[UPDATED] = Ledger(self.detail).merge(held)
            updated.parts[name] = states.parts["variance"]
            roots = (replace(t, label="square roots of the variance") for t in states.terms.get("variance", ()))
            updated.terms[name] = list(roots)
        return moments

    def unreused(self, moments: Mapping[str, Ledger], stage: Stage) -> Any:
        """Bytes that the allocator keeps apart from the fullest moment: gradients come when activations go."""
        if self.job.kernels == "megatron" or "gradients" in self.away:
            return 0.0
        fullest = moments[ALIVE].total
        others = (found.total for name, found in moments.items() if name != ALIVE)
        most = fullest
        for other in others:
            most = maximum(most, other)
        apart = self.states(stage).parts["gradients"]
        return where((self.x.micro_batches == 1) & (fullest >= most), apart, 0.0)


def _per_op(job: TrainingJob, x: Layout, layer: Layer) -> list[Term]:
    """What torchtitan's selective checkpointing keeps of a layer: its input, and the outputs it does not run again.

    Its policy keeps the results of fused attention and of the first, third, fifth ... matrix product.
    """
    spec, a = job.model, layer.attention
    if a is None or any(t.component == "experts" for t in layer.tensors):
        raise LLMHWError(f"recompute='per-op' covers dense layers with attention; {spec.name} has others: use 'full'")
    found = block(spec, layer, x, seq_len=job.seq_len, fused=False)
    widths = [("input of the layer", share(spec.hidden, x.spread))]
    widths.append(("result of attention", share(a.heads * a.v_head_dim, x.tp)))
    for m in found.matmuls[::2]:
        widths.append((f"result of {m.name.split()[-1]}", share(m.n, x.spread) if m.split == "row" else m.n))
    sizes = {"batch": x.micro_batch, "seq_len": job.seq_len // x.cp}
    element = PRECISIONS[job.precision].compute
    return [term(saved_bytes, name, width=width, bytes_per_element=element, **sizes) for name, width in widths]


def _flat(parts: Mapping[str, list[Term]]) -> list[Term]:
    return [t for terms in parts.values() for t in terms]


def _only(found: Estimate, part: str) -> Estimate:
    return replace(found, parts=tuple(p for p in found if p.name == part))


# -- the whole estimate -----------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class TrainingEstimate(Report):
    """A training job: its step, its memory, and the run it belongs to.

    job, software   what was asked, and what runs it
    time            seconds of the step by part, with the interval
    run             tokens, days, device-hours, dollars, energy and goodput: see `llmhw.cost.TrainingRun`
    """

    job: TrainingJob
    software: str
    time: StepTime
    run: TrainingRun
    calibration: Mapping[str, Any] | None = field(default=None, compare=False)

    @cached_property
    def memory(self) -> JobMemory:
        """Memory of every pipeline stage; computed when it is first asked for."""
        return memory(self.job)

    def explain(self, part: str | None = None) -> str:
        """The formulas behind one part (or all) of the step's time, or of the fullest stage's memory."""
        held = self.memory
        return explained(part, time=[self.time.estimate], memory=[held.shown()[held.worst]])

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
        return self.job.batch * self.job.seq_len

    @property
    def tokens_per_second_per_device(self) -> float:
        """Tokens of the global batch, over seconds and devices."""
        return self.tokens_per_second / self.job.cluster.devices

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the global batch, over seconds."""
        return self.tokens_per_step / self.step_seconds

    @property
    def mfu(self) -> float:
        """Model FLOPs (all query-key pairs, nothing recomputed) over the dense peak of the format that is used."""
        return self._utilization(_step_flops(self.job)[0])

    @property
    def hfu(self) -> float:
        """The same with recomputed FLOPs."""
        return self._utilization(sum(_step_flops(self.job)))

    def _utilization(self, flops: float) -> float:
        device = self.job.cluster.accelerator
        return float(
            utilization(
                flops=flops,
                seconds=self.step_seconds,
                devices=self.job.cluster.devices,
                peak_flops_per_second=device.peak(self.job.compute_format.removesuffix("-block")),
            )
        )

    @cached_property
    def bounds(self) -> dict[str, tuple[float, float, float]]:
        """For each part of the step: least, estimate and most seconds. See `llmhw.step_time.time_bounds`."""
        return time_bounds(self.job, self.software, calibration=self.calibration)

    @property
    def title(self) -> str:
        """The job in one line."""
        return self.memory.title.replace("memory of ", "training of ", 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: seconds, bytes, shares."""
        held = self.memory
        return {
            "model": self.job.model.name,
            "device": self.job.cluster.accelerator.name,
            "devices": self.job.cluster.devices,
            "software": self.software,
            "step_seconds": self.step_seconds,
            "step_seconds_interval": self.step_seconds_interval and list(self.step_seconds_interval),
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
                *(format_quantity(seconds, "seconds") for seconds in bounds),  # type: ignore[misc]
                format_quantity(bounds[1] / self.step_seconds, "fraction"),
            )
            for name, bounds in [*shown.items(), ("total", sums)]
        ]

    def to_row(self) -> dict[str, Any]:
        """One flat row for a table of many jobs: what was asked, then what comes out, in base units."""
        job, p, run, held = self.job, self.job.parallelism, self.run, self.memory
        low, high = self.step_seconds_interval or (None, None)
        price = run.price
        layout = ("dp", "tp", "pp", "vpp", "cp", "ep", "expert_tp", "zero", "replicas", "schedule", "sequence_parallel")
        asked = ("micro_batch", "global_batch", "seq_len", "precision", "optimizer", "compute", "recompute", "kernels")
        return {
            "model": job.model.name,
            "device": job.cluster.accelerator.name,
            "devices": job.cluster.devices,
            **{name: getattr(p, name) for name in layout},
            **{name: getattr(job, name) for name in asked},
            "schedule": p.pipeline_schedule,
            "global_batch": job.batch,
            "compute": job.compute_format,
            "software": self.software,
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
            "fits": held.fits,
            "tokens": run.tokens,
            "days": run.days,
            "days_low": run.days_low,
            "days_high": run.days_high,
            "device_hours": run.device_hours,
            "goodput": run.goodput,
            "dollars": run.dollars,
            "dollars_low": run.dollars_low,
            "dollars_high": run.dollars_high,
            "dollars_per_device_hour": price and price.dollars_per_device_hour,
            "price_provider": price and price.provider,
            "price_region": price and price.region,
            "price_date": price and price.date,
            "energy_kwh": run.energy_kwh,
            **{f"seconds_{name.replace(' ', '_').replace('-', '_')}": self.time.parts[name] for name in PARTS},
        }

    def summary(self) -> list[tuple[str, str, str]]:
        """What a purchase order asks: quantity, value, and its 80 % interval or how it came about, as text."""
        ends = [format_quantity(seconds, "seconds") for seconds in self.step_seconds_interval or ()]
        held, run = self.memory, {name: (value, note) for name, value, note in self.run.rows()}
        room = f"of {format_quantity(held.capacity_bytes, 'bytes')}"
        return [
            ("step", format_quantity(self.step_seconds, "seconds"), " to ".join(ends) or "the calibration has none"),
            ("tokens/s a device", f"{self.tokens_per_second_per_device:,.0f}", ""),
            ("tokens/s in all", f"{self.tokens_per_second:,.0f}", ""),
            ("MFU", format_quantity(self.mfu, "fraction"), f"HFU {format_quantity(self.hfu, 'fraction')}"),
            (
                "memory",
                format_quantity(held.device_bytes, "bytes"),
                f"{room}: it fits" if held.fits else f"{room}: it does not fit: {held.way_out}",
            ),
            *((name, *run[name]) for name in ("time", "device-hours", "cost", "price", "energy")),
        ]

    def tables(self) -> list[Table]:
        names = ("least", "estimate", "most", "share")
        return [
            Table(self.title, ("quantity", "value", "range or origin"), self.summary(), prose=True, head=()),
            Table("", ("part of the step", *names), self.rows(), head=("part", *names)),
        ]


def _step_flops(job: TrainingJob) -> tuple[float, float]:
    """Model FLOPs of a step, and those that are computed again."""
    sizes: dict[str, Any] = {"batch": job.batch, "seq_len": job.seq_len}
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
    software: str | None = None,
    calibration: Mapping[str, Any] | None = None,
    **run: Any,
) -> TrainingEstimate:
    """How long a step of a job takes, what it needs, and what the whole run costs.

    tokens        of the run; default: 20 for each parameter (Hoffmann et al. 2022)
    software      what runs it, one of `llmhw.step_time.softwares()`; default: the newest with the job's kernels
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
    if calibration is not None:
        check_calibration("training_time", "training-throughput", calibration)
    running = software or default_software(job)
    time = time_step(job, running, calibration=calibration)
    parameters = job.model.parameters
    per_step = job.batch * job.seq_len
    # a checkpoint holds the weights in 16 bit and the optimizer's states of all ranks, once each
    held = training_states(job.model, optimizer=job.optimizer, precision=job.precision)
    checkpoint = sum(float(part.value) for part in held if part.name != "gradients")
    whole = training_run(
        step_seconds=time.total,
        step_seconds_interval=time.interval,
        tokens_per_step=per_step,
        tokens=20 * parameters.total if tokens is None else tokens,
        flops_per_token=_step_flops(job)[0] / per_step,
        checkpoint_bytes=checkpoint,
        cluster=job.cluster,
        **run,
    )
    return TrainingEstimate(job, running, time, whole, calibration)
