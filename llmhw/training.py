"""Training jobs: what every rank holds, part by part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmhw.activations import activations, layer_activations
from llmhw.formula import Estimate, Part, Term, formula, term
from llmhw.job import TrainingJob
from llmhw.memory import (
    PRECISIONS,
    checkpointed_activation_bytes,
    chunks_in_flight,
    megatron_expert_bytes,
    megatron_layer_bytes,
    micro_batches_in_flight,
)
from llmhw.model import Layer
from llmhw.sharding import Place, outer_tensors, places, rank_states, stage_layers
from llmhw.units import ceil_div, format_quantity, html_table

# Shares and sizes that no formula gives. `benchmarks/published_memory.py` prints what they leave unexplained.
# PyTorch's caching allocator hands out blocks of whole sizes and keeps what it once reserved.
RESERVED_OVER_ALLOCATED = 1.06
# CUDA context with its kernels, and NCCL's channels and buffers, beside PyTorch's allocator.
CONTEXT_BYTES = 2 * 2**30


@formula(
    source="16-bit logits cut by vocabulary, their fp32 copy, and its gradient unless the loss is fused", unit="bytes"
)
def sharded_logits_bytes(
    *, batch: Any, seq_len: Any, vocab: Any, tp: Any = 1, cp: Any = 1, bytes_per_logit: Any
) -> Any:
    """Logits of one micro-batch while the loss is computed, on one rank.

    bytes_per_logit   4 for Megatron-LM's fused loss (the fp32 softmax, overwritten by its gradient),
                      10 for the plain loss: 16-bit logits, fp32 copy, fp32 gradient

    >>> sharded_logits_bytes(batch=1, seq_len=4096, vocab=128256, tp=8, bytes_per_logit=4) / 2**20
    250.5
    """
    return batch * seq_len * vocab * bytes_per_logit / tp / cp


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

    stages   an `Estimate` of the tensors of one rank of each stage, by part
    """

    job: TrainingJob
    stages: tuple[Estimate, ...]

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
        return self.allocated_bytes * RESERVED_OVER_ALLOCATED

    @property
    def device_bytes(self) -> float:
        """What nvidia-smi shows: reserved memory, the CUDA context and NCCL's buffers."""
        return self.reserved_bytes + CONTEXT_BYTES

    @property
    def fits(self) -> bool:
        """Whether the worst stage fits the device, by the nvidia-smi meter."""
        return self.device_bytes <= self.job.cluster.accelerator.memory_bytes

    @property
    def way_out(self) -> str:
        """By how much it falls short and what would help most; "" if it fits."""
        if self.fits:
            return ""
        short = self.device_bytes - self.job.cluster.accelerator.memory_bytes
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
            "capacity_bytes": self.job.cluster.accelerator.memory_bytes,
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
        rows = [head, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join([_title(self.job), *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(_title(self.job), ("part", *(f"stage {i}" for i in range(len(self.stages)))), self.rows())


_REMEDY = {
    "activations": "recompute more (recompute='selective' or 'full'), or use a smaller micro_batch",
    "weights": "split the weights: more tp or pp, or zero=3",
    "gradients": "split the gradients: more tp or pp, or zero=2",
    "master copy": "split the optimizer's states: zero=1, or more tp or pp",
    "momentum": "split the optimizer's states: zero=1, or more tp or pp",
    "variance": "split the optimizer's states: zero=1, or more tp or pp",
    "logits": "split the vocabulary with more tp, or use a smaller micro_batch",
}


def _title(job: TrainingJob) -> str:
    p = job.parallelism
    layout = ", ".join(
        f"{name}={getattr(p, name)}" for name in ("dp", "tp", "pp", "vpp", "cp", "ep") if getattr(p, name) > 1
    )
    extra = f"{layout}, " if layout else ""
    return (
        f"memory of {job.model.name} on {job.cluster.devices} x {job.cluster.accelerator.name}: {extra}zero={p.zero}, "
        f"micro-batch {job.micro_batch} x {job.seq_len} tokens, recompute {job.recompute}"
    )


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
    first: dict[int, Place] = {}
    for place in places(job.parallelism):
        first.setdefault(place.pp, place)
    return JobMemory(job, tuple(_stage(job, first[stage]) for stage in sorted(first)))


def _stage(job: TrainingJob, place: Place) -> Estimate:
    p, spec = job.parallelism, job.model
    states = rank_states(spec, p, place, optimizer=job.optimizer, precision=job.precision)
    away = {"none": (), "optimizer": ("master copy", "momentum", "variance", "step counters")}.get(
        p.offload, tuple(part.name for part in states)
    )
    parts = [part for part in states if part.name not in away]
    parts += _activations(job, place)
    if place.pp == p.pp - 1:
        logit_bytes = 4 if job.kernels == "megatron" else 10
        parts.append(
            Part(
                "logits",
                (
                    term(
                        sharded_logits_bytes,
                        "logits and loss",
                        batch=job.micro_batch,
                        seq_len=job.seq_len,
                        vocab=spec.vocab_size,
                        tp=p.tp,
                        cp=p.cp,
                        bytes_per_logit=logit_bytes,
                    ),
                ),
            )
        )
    if p.zero == 3 and p.shards > 1:
        parts.append(_whole_blocks(job, place))
    title = f"stage {place.pp} of {spec.name}"
    return Estimate(title, "bytes", tuple(parts))


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
    p, spec = job.parallelism, job.model
    layers = [spec.layers[i] for chunk in stage_layers(spec, p, place.pp) for i in chunk]
    if p.vpp > 1:
        flying = term(chunks_in_flight, "", micro_batches=job.micro_batches, pp=p.pp, vpp=p.vpp, stage=place.pp)
        copies = flying.value / p.vpp
    elif p.schedule == "gpipe":
        copies = job.micro_batches
    elif p.schedule == "zero-bubble":
        copies = min(job.micro_batches, p.pp)
    else:
        copies = micro_batches_in_flight(micro_batches=job.micro_batches, pp=p.pp, stage=place.pp)
    recomputed = {"full": len(layers), "block": job.recompute_layers}.get(job.recompute, 0)
    kept: list[Term] = []
    working: list[Term] = []
    for number, layer in enumerate(layers):
        if number < recomputed:
            kept.append(_input(job, copies))
            if not working:
                working = _layer(job, layer, 1)
        else:
            kept += _layer(job, layer, copies)
    parts = [Part("activations", tuple(_merged(kept)), f"{copies:g} micro-batches in flight")]
    if working:
        parts.append(Part("layer being recomputed", tuple(working)))
    if job.kernels == "torch" and place.pp in (0, p.pp - 1):
        ends = activations(
            spec,
            batch=job.micro_batch,
            seq_len=job.seq_len,
            precision="bf16" if PRECISIONS[job.precision].compute == 2 else "fp32",
            attention=job.attention,
            recompute="full",
            loss=False,
        )
        named = tuple(part for part in ends if part.name not in ("layer inputs",))
        terms = tuple(_scaled(t, 1 / (p.tp * p.cp)) for part in named for t in part.terms)
        parts.append(Part("embedding, final norm and tables", terms))
    return parts


def _merged(terms: list[Term]) -> list[Term]:
    """Equal terms of several layers as one."""
    merged: dict[tuple[str, str, tuple[tuple[str, Any], ...]], Term] = {}
    for t in terms:
        key = (t.label, t.formula, t.inputs)
        old = merged.get(key)
        merged[key] = Term(t.label, t.formula, t.inputs, t.times + old.times, t.value + old.value) if old else t
    return list(merged.values())


def _scaled(t: Term, by: float) -> Term:
    return Term(t.label, t.formula, t.inputs, t.times * by, t.value * by)


def _input(job: TrainingJob, copies: float) -> Term:
    """A recomputed layer keeps its input alone."""
    p = job.parallelism
    shards = p.cp * (p.tp if p.sequence_parallel else 1)
    made = term(
        checkpointed_activation_bytes,
        "input of a recomputed layer",
        copies,
        batch=job.micro_batch,
        seq_len=job.seq_len,
        hidden=job.model.hidden,
        layers=1,
    )
    return _scaled(made, 1 / shards)


def _layer(job: TrainingJob, layer: Layer, copies: float) -> list[Term]:
    """Activations of one layer on one rank, for so many micro-batches."""
    p, spec = job.parallelism, job.model
    if job.kernels == "torch":
        whole = layer_activations(
            spec,
            layer,
            batch=job.micro_batch,
            seq_len=job.seq_len,
            dtype_bytes=PRECISIONS[job.precision].compute,
            attention=job.attention,
            recompute="selective" if job.recompute == "selective" else "none",
        )
        # norms and residuals are whole on every tp rank unless the sequence is split too
        return [
            _scaled(t, copies / p.cp / (1 if part.name in _BY_SEQUENCE and not p.sequence_parallel else p.tp))
            for part in whole
            for t in part.terms
        ]
    a = layer.attention
    score = 0
    if a and job.attention == "eager" and job.recompute != "selective":
        score = 5 * a.heads * job.seq_len**2 * job.micro_batch
    dense = {t.module: t for t in layer.tensors if t.component == "mlp" and t.matmul}
    inner = sum(t.numel // spec.hidden for t in dense.values())
    gated = 1 if any(name in dense for name in ("gate_proj", "gate_up_proj")) else 0
    made = [
        term(
            megatron_layer_bytes,
            "dense part of a layer",
            copies,
            batch=job.micro_batch,
            seq_len=job.seq_len,
            hidden=spec.hidden,
            query_width=a.heads * a.head_dim if a else 0,
            kv_width=max(a.kv_heads, p.tp) * a.head_dim if a else 0,
            intermediate=inner // (3 if gated else 2) if dense else 0,
            gated=gated,
            dropout=int(job.dropout),
            score_bytes=score,
            tp=p.tp,
            sequence_shards=p.tp if p.sequence_parallel else 1,
            cp=p.cp,
        )
    ]
    experts = [t for t in layer.tensors if t.component == "experts" and t.matmul]
    if experts:
        down = next(t for t in experts if "down" in t.name)
        inner = down.numel // down.experts // spec.hidden
        made.append(
            term(
                megatron_expert_bytes,
                "routed experts of a layer",
                copies,
                tokens=job.micro_batch * job.seq_len // (p.cp * p.tp if p.sequence_parallel else p.cp),
                used=down.used,
                hidden=spec.hidden,
                expert_intermediate=inner,
                gated=int(any("gate" in t.name for t in experts)),
                expert_tp=p.expert_tp,
                imbalance=job.expert_imbalance,
            )
        )
    return made


_BY_SEQUENCE = ("norms", "residual", "embedding")
