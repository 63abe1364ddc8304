"""Training jobs: what every rank holds, how long a step takes, and what the whole run comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

from llmhw.activations import activations, layer_activations, saved_bytes
from llmhw.catalog import check_calibration, read_calibration
from llmhw.cost import TrainingRun, training_run
from llmhw.flops import forward_flops, training_flops, utilization
from llmhw.formula import Estimate, Part, Term, formula, term
from llmhw.job import TrainingJob
from llmhw.memory import PRECISIONS, training_states
from llmhw.model import Layer
from llmhw.roofline import OPERAND_BYTES
from llmhw.schedule import micro_batches_in_flight, pipeline_actions
from llmhw.sharding import Place, outer_tensors, place_of, rank_states, split_of, stage_layers
from llmhw.step_time import PARTS, StepTime, default_software, time_bounds, time_step
from llmhw.units import LLMHWError, ceil_div, format_quantity, html_table, text_table


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


@dataclass(frozen=True, slots=True, repr=False)
class JobMemory:
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
        most = max(float(s.total) + apart for s, apart in zip(self.stages, self.unreused, strict=True))
        return most * _constant("reserved_over_allocated")

    @property
    def device_bytes(self) -> float:
        """What nvidia-smi shows: reserved memory, the CUDA context and NCCL's buffers."""
        return self.reserved_bytes + _constant("context_bytes")

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

    def explain(self, part: str | None = None, stage: int | None = None) -> str:
        """The formulas behind one part (or all) of a stage; default: the worst one."""
        return self.stages[self.worst if stage is None else stage].explain(part)

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

    def to_frame(self) -> Any:
        """A pandas DataFrame in bytes: a row for each part, a column for each stage; needs pandas."""
        import pandas

        columns = {i: {p.name: float(p.value) for p in stage} for i, stage in enumerate(self.stages)}
        return pandas.DataFrame(columns).fillna(0.0).rename_axis("part").rename_axis("stage", axis="columns")

    def rows(self) -> list[tuple[str, ...]]:
        """Part names and sizes as text, one column a stage; the last row is the total."""
        names = list(dict.fromkeys(part.name for stage in self.stages for part in stage))
        table = [{part.name: float(part.value) for part in stage} for stage in self.stages]
        rows = [(name, *(format_quantity(t.get(name, 0), "bytes") for t in table)) for name in names]
        return [*rows, ("total", *(format_quantity(float(s.total), "bytes") for s in self.stages))]

    def __str__(self) -> str:
        head = ("part", *(f"stage {i}" for i in range(len(self.stages))))
        lines = text_table([head, *self.rows()])
        return "\n".join([self.title, *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self.title, ("part", *(f"stage {i}" for i in range(len(self.stages)))), self.rows())


_REMEDY = {
    "activations": "recompute more (recompute='selective' or 'full'), or use a smaller micro_batch",
    "weights": "split the weights: more tp or pp, or zero=3",
    "gradients": "split the gradients: more tp or pp, or zero=2",
    "master copy": "split the optimizer's states: zero=1, or more tp or pp",
    "momentum": "split the optimizer's states: zero=1, or more tp or pp",
    "variance": "split the optimizer's states: zero=1, or more tp or pp",
    "logits and loss": "split the vocabulary with more tp, or use a smaller micro_batch",
}


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
    p = job.parallelism
    first = [place_of(p, stage * (p.devices // p.pp)) for stage in range(p.pp)]
    stages = tuple(_stage(job, place) for place in first)
    gradients = [
        rank_states(job.model, p, place, optimizer="sgd", precision=job.precision)["gradients"] for place in first
    ]
    names = [{part.name for part in stage} for stage in stages]
    unreused = (0.0 if "gradients" in n or job.frozen else float(g) for n, g in zip(names, gradients, strict=True))
    return JobMemory(job, stages, tuple(unreused))


def _stage(job: TrainingJob, place: Place) -> Estimate:
    """The fullest moment of a rank's step."""
    p, spec = job.parallelism, job.model
    states = rank_states(spec, p, place, optimizer=job.optimizer, precision=job.precision, kernels=job.kernels)
    away = {"none": (), "optimizer": ("master copy", "momentum", "variance", "step counters")}.get(
        p.offload, tuple(part.name for part in states)
    )
    if job.frozen:
        # adapters are some hundredths of a percent of the weights, and their states as little
        away = tuple(part.name for part in states if part.name != "weights" or part.name in away)
    held = tuple(part for part in states if part.name not in away)
    gathered = (_whole_blocks(job, place),) if p.zero == 3 and p.shards > 1 else ()
    moments = {"all activations are alive": (*held, *_activations(job, place), *gathered)}
    if job.kernels == "torch":
        # zero_grad() drops the gradients, so that the first micro-batch's forward pass meets none; Megatron-LM keeps
        # its buffers
        without = tuple(part for part in held if part.name != "gradients")
        if job.micro_batches == 1:
            moments["all activations are alive"] = (*without, *_activations(job, place), *gathered)
            moments["all gradients are there"] = (*held, *gathered)
        if "variance" not in away and job.optimizer in ("adamw", "adamw-fp32", "adamw-bf16"):
            # torch.optim.AdamW takes the square roots of all variances at once (foreach); fused ones need nothing
            terms = tuple(replace(t, label="square roots of the variance") for t in states.part("variance").terms)
            moments["the optimizer's step"] = (*held, Part("optimizer's temporaries", terms))
    title = f"stage {place.pp} of {spec.name}"
    return max((Estimate(title, "bytes", m, name) for name, m in moments.items()), key=lambda e: float(e.total))


def _whole_blocks(job: TrainingJob, place: Place) -> Part:
    p, spec = job.parallelism, job.model
    layers = [spec.layers[i] for chunk in stage_layers(spec, p, place.pp) for i in chunk]
    outer = [t for side in outer_tensors(spec, p, place.pp) for t in side]
    made = term(
        fsdp_buffer_bytes,
        "gathered blocks and a gradient",
        block_elements=ceil_div(max(layer.params for layer in layers), p.tp * p.ep),
        outer_elements=ceil_div(sum(t.numel for t in outer), p.tp),
        bytes_per_element=2,
    )
    return Part("gathered weights", (made,))


def _activations(job: TrainingJob, place: Place) -> list[Part]:
    """Activations of a stage: its layers' for every micro-batch in flight, its ends' for one."""
    p, spec = job.parallelism, job.model
    numbers = [i for chunk in stage_layers(spec, p, place.pp) for i in chunk]
    precision = "bf16" if PRECISIONS[job.precision].compute == 2 else "fp32"
    options: dict[str, Any] = {
        "batch": job.micro_batch,
        "seq_len": job.seq_len,
        "attention": job.attention,
        "kernels": job.kernels,
        "tp": p.tp,
        "sequence_parallel": p.sequence_parallel,
        "cp": p.cp,
        "expert_tp": p.expert_tp,
        "imbalance": job.expert_imbalance,
        "dropout": job.dropout,
    }
    whole: dict[str, Any] = options | {"precision": precision}
    copies = copies_in_flight(job, place.pp)
    if job.recompute == "per-op":
        kept = tuple(t for layer, count in spec.kinds_of(numbers) for t in _per_op(job, layer, copies * count))
    else:
        layers = activations(
            spec,
            layers=numbers,
            recompute=job.recompute,
            recompute_layers=job.recompute_layers,
            embedding=False,
            head=False,
            loss=False,
            **whole,
        )
        kept = tuple(_scaled(t, copies * _stored_share(job, t)) for part in layers for t in part.terms)
    parts = [Part("activations", kept, f"{copies:g} micro-batches in flight")]
    if job.recompute in ("per-op", "full", "block"):
        largest = max((spec.layers[i] for i in numbers), key=lambda layer: layer.params)
        one = layer_activations(spec, largest, dtype_bytes=PRECISIONS[job.precision].compute, **options)
        parts.append(Part("layer being recomputed", tuple(t for part in one for t in part.terms)))
    first, last = place.pp == 0, place.pp == p.pp - 1
    if first or last:
        ends = activations(spec, layers=(), embedding=first, head=last, loss=last, **whole)
        by_name = {part.name: part.terms for part in ends}
        loss = by_name.pop("loss", ())
        if by_name:
            parts.append(Part("embedding and final norm", tuple(t for terms in by_name.values() for t in terms)))
        if loss:
            sizes = {"vocab": spec.vocab_size, "tp": p.tp}
            if job.kernels == "torch":
                more = term(
                    loss_temporary_bytes,
                    "gradients of the loss, in fp32",
                    batch=job.micro_batch,
                    seq_len=job.seq_len,
                    cp=p.cp,
                    **sizes,
                )
            else:
                more = term(unfused_gradient_bytes, "gradient of the head", hidden=spec.hidden, **sizes)
            parts.append(Part("logits and loss", (*loss, more)))
    return parts


def _per_op(job: TrainingJob, layer: Layer, times: float) -> list[Term]:
    """What torchtitan's selective checkpointing keeps of a layer: its input, and the outputs it does not run again.

    Its policy keeps the results of fused attention and of the first, third, fifth ... matrix product.
    """
    p, spec, a = job.parallelism, job.model, layer.attention
    if a is None or any(t.component == "experts" for t in layer.tensors):
        raise LLMHWError(f"recompute='per-op' covers dense layers with attention; {spec.name} has others: use 'full'")
    spread = p.tp if p.sequence_parallel else 1
    products = [t for t in layer.tensors if t.matmul and t.component in ("attention", "mlp")]
    widths = [("input of the layer", spec.hidden / spread), ("result of attention", a.heads * a.v_head_dim / p.tp)]
    for t in products[::2]:
        out = t.shape[1] if spec.model_type == "gpt2" else t.shape[0]  # GPT-2 stores its matrices transposed
        cut = spread if split_of(t) == "row" else p.tp
        widths.append((f"result of {t.module}", out / cut))
    size = PRECISIONS[job.precision].compute
    tokens = job.seq_len // p.cp
    return [
        term(saved_bytes, name, times, batch=job.micro_batch, seq_len=tokens, width=width, bytes_per_element=size)
        for name, width in widths
    ]


def copies_in_flight(job: TrainingJob, stage: int) -> float:
    """Micro-batches whose activations a stage holds at its fullest, in stages' worth of layers."""
    p = job.parallelism
    # longer runs repeat the steady state, unless all forward passes come first
    count = job.micro_batches if p.schedule == "gpipe" else min(job.micro_batches, 4 * p.pp)
    return _in_flight(p.schedule, p.pp, p.vpp, count)[stage] / p.vpp


@cache
def _in_flight(schedule: str, pp: int, vpp: int, micro_batches: int) -> tuple[int, ...]:
    return micro_batches_in_flight(pipeline_actions(schedule, pp, vpp, micro_batches))


# Inputs of linear layers, by how their terms begin.
_LINEAR_INPUTS = (
    "input of the qkv",
    "input of the output p",
    "input of the feed",
    "input of the last p",
    "rows of the experts",
)


def _stored_share(job: TrainingJob, t: Term) -> float:
    """Transformer Engine's 8- and 4-bit layers keep their inputs as they multiply them, not in 16 bit."""
    if job.kernels == "megatron" and t.label.startswith(_LINEAR_INPUTS):
        return min(1.0, OPERAND_BYTES[job.compute] / 2)
    return 1.0


def _scaled(t: Term, by: float) -> Term:
    return Term(t.label, t.formula, t.inputs, t.times * by, t.value * by)


# -- the whole estimate -----------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class TrainingEstimate:
    """A training job: its step, its memory, and the run it belongs to.

    job, software   what was asked, and what runs it
    time            seconds of the step by part, with the interval
    run             tokens, days, device-hours, dollars, energy and goodput: see `llmhw.cost.TrainingRun`
    """

    job: TrainingJob
    software: str
    time: StepTime
    run: TrainingRun
    calibration: Mapping[str, Any] | None = None

    @cached_property
    def memory(self) -> JobMemory:
        """Memory of every pipeline stage; computed when it is first asked for."""
        return memory(self.job)

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
        return self.job.global_batch * self.job.seq_len

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
                peak_flops_per_second=device.peak(self.job.compute.removesuffix("-block")),
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

    def to_frame(self) -> Any:
        """A pandas DataFrame of the step: a row for each part, least, estimate and most seconds; needs pandas."""
        import pandas

        rows = {name: bounds for name, bounds in self.bounds.items() if bounds[2]}
        frame = pandas.DataFrame.from_dict(rows, orient="index", columns=["least", "estimate", "most"])
        return frame.rename_axis("part")

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

    def __str__(self) -> str:
        head = ("part", "least", "estimate", "most", "share")
        lines = text_table([head, *self.rows()])
        block = self.summary()
        first, second = (max(len(row[i]) for row in block) for i in (0, 1))
        short = [f"{a:<{first}}  {b:>{second}}  {c}".rstrip() for a, b, c in block]
        return "\n".join([self.title, *short, "", *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = html_table("", ("part of the step", "least", "estimate", "most", "share"), self.rows())
        return html_table(self.title, ("quantity", "value", "range or origin"), self.summary()) + parts


def _step_flops(job: TrainingJob) -> tuple[float, float]:
    """Model FLOPs of a step, and those that are computed again."""
    sizes: dict[str, Any] = {"batch": job.global_batch, "seq_len": job.seq_len}
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
    per_step = job.global_batch * job.seq_len
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
