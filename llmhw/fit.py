"""What fits on one device: inference by format, full training, LoRA and QLoRA."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from llmhw.checks import checked
from llmhw.formula import Estimate, Report, Table
from llmhw.hardware import Accelerator, Cluster, accelerator, accelerators
from llmhw.memory import kv_cache, lora_states, weights
from llmhw.model import ModelSpec
from llmhw.units import LLMHWError, check_count, format_quantity

if TYPE_CHECKING:
    from llmhw.job import TrainingJob

INFERENCE_FORMATS = ("bf16", "fp8", "int8", "int4-gptq", "q4_k_m")

# vLLM plans with this share of a device by default; the rest is for the framework's context, workspaces and
# fragmentation, which this table does not count.
UTILIZATION = 0.9


@dataclass(frozen=True, slots=True)
class Fit:
    """One use of a model on one device.

    use            what is done, in words
    estimate       the bytes needed, part by part
    memory_bytes   the device's memory
    utilization    share of it that may be planned with
    vendor         who makes the device; a way out names a device of the same vendor
    max_seq_len    longest sequences that fit at this batch, at most the model's own limit; 0 if not one token does
    """

    use: str
    estimate: Estimate
    memory_bytes: float
    utilization: float
    vendor: str
    max_seq_len: int

    @property
    def needed_bytes(self) -> float:
        """Sum of the parts."""
        return float(self.estimate.total)

    @property
    def usable_bytes(self) -> float:
        """What the device offers."""
        return self.memory_bytes * self.utilization

    @property
    def fits(self) -> bool:
        """Whether the need is within the offer."""
        return self.needed_bytes <= self.usable_bytes

    @property
    def way_out(self) -> str:
        """By how much it falls short and what would make it fit; "" if it fits."""
        if self.fits:
            return ""
        short = f"short by {format_quantity(self.needed_bytes - self.usable_bytes, 'bytes')}"
        if self.max_seq_len:
            return f"{short}; fits up to {self.max_seq_len:,} tokens"
        rivals = [a for a in accelerators() if a.vendor == self.vendor]
        enough = [a for a in rivals if a.memory_bytes * self.utilization >= self.needed_bytes]
        if not enough:
            return f"{short}; needs several devices"
        return f"{short}; fits on {min(enough, key=lambda a: (a.memory_bytes, a.name)).name}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers in base units."""
        names = ("use", "fits", "needed_bytes", "usable_bytes", "max_seq_len", "way_out")
        return {name: getattr(self, name) for name in names} | {"parts": self.estimate.to_dict()["parts"]}


@dataclass(frozen=True, slots=True, repr=False)
class FitTable(Report):
    """The answer of `fit`: a row for each use. Iterate over it, or take `.to_frame()`.

    left_out   why there are no rows of training; "" if there are
    """

    model: str
    device: str
    batch: int
    seq_len: int
    rows: tuple[Fit, ...]
    left_out: str = ""

    @property
    def title(self) -> str:
        """What was asked, in one line."""
        return f"{self.model} on {self.device}, batch {self.batch}, {self.seq_len} tokens"

    def __iter__(self) -> Any:
        return iter(self.rows)

    def __getitem__(self, use: str) -> Fit:
        found = {row.use: row for row in self.rows}
        if use in found:
            return found[use]
        why = "".join(f"; {line}" for line in self.footer())
        raise LLMHWError(f"use={use!r} is not in this table; use one of {', '.join(found)}{why}")

    def text_rows(self) -> list[tuple[str, str, str, str, str]]:
        """Use, need, offer, verdict and longest sequence as text."""
        return [
            (
                row.use,
                format_quantity(row.needed_bytes, "bytes"),
                format_quantity(row.usable_bytes, "bytes"),
                "yes" if row.fits else f"no: {row.way_out}",
                f"{row.max_seq_len:,}" if row.max_seq_len else "-",
            )
            for row in self.rows
        ]

    def records(self) -> list[dict[str, Any]]:
        """Needs and offers in bytes, by use."""
        names = ("use", "needed_bytes", "usable_bytes", "fits", "max_seq_len")
        return [{name: getattr(row, name) for name in names} for row in self.rows]

    index = "use"

    def tables(self) -> list[Table]:
        columns = ("use", "needs", "offers", "fits", "longest")
        return [Table(self.title, (*columns[:-1], "longest sequence"), self.text_rows(), right=5, head=columns)]

    def footer(self) -> list[str]:
        return [f"no training: {self.left_out}"] if self.left_out else []


def _longest(estimate_at: Callable[[int], Estimate], usable: float, limit: int) -> int:
    """The longest sequence whose estimate is within `usable`, by bisection; 0 if there is none."""
    return bisect_left(range(1, limit + 1), True, key=lambda tokens: float(estimate_at(tokens).total) > usable)


def _join(title: str, *estimates: Estimate) -> Estimate:
    """Several estimates as one, their parts side by side."""
    return Estimate(title, "bytes", tuple(part for estimate in estimates for part in estimate.parts))


@checked
def training_job(spec: ModelSpec, *, device: str | Accelerator, batch: int = 1, **asked: Any) -> TrainingJob:
    """The job of one micro-batch under full recompute on one device, as plain PyTorch and transformers run it.

    batch   sequences of the micro-batch
    asked   other fields of `TrainingJob`: seq_len, optimizer, precision, frozen

    Attention is fused where transformers has it so. Where a family has no op-by-op profile, the kernels are Megatron's.

    >>> from llmhw import model
    >>> job = training_job(model("gemma-2-2b"), device="h100")
    >>> job.kernels, job.attention
    ('torch', 'eager')
    """
    from llmhw.job import TrainingJob

    style = spec.family.style
    return TrainingJob(
        model=spec,
        cluster=Cluster(device, 1),
        micro_batch=batch,
        recompute="full",
        attention="flash" if style is None or style.sdpa else "eager",
        kernels="torch" if style else "megatron",
        **asked,
    )


@checked
def checkpointed_activations(spec: ModelSpec, *, device: str | Accelerator, batch: int = 1, seq_len: int) -> Estimate:
    """Activations of a `training_job` in 16 bit, as `llmhw.training_memory` counts them, part by part.

    Raises `LLMHWError` for a model with linear attention.

    >>> from llmhw import model
    >>> [part.name for part in checkpointed_activations(model("llama-3-8b"), device="h100", seq_len=4096)]
    ['activations', 'layer being recomputed', 'embedding and final norm', 'logits and loss']
    """
    from llmhw.training import memory

    job = training_job(spec, device=device, batch=batch, seq_len=seq_len, precision="bf16", frozen=True)
    (stage,) = memory(job).stages
    return replace(stage, title=f"activations of {spec.name}", parts=tuple(p for p in stage if p.name != "weights"))


@checked
def fit(
    spec: ModelSpec,
    device: str | Accelerator,
    *,
    batch: int = 1,
    seq_len: int = 4096,
    formats: Iterable[str] = INFERENCE_FORMATS,
    rank: int = 16,
    utilization: float = UTILIZATION,
) -> FitTable:
    """What of this model fits on one device.

    device        an `Accelerator` or its name
    batch         sequences at a time: cached together for inference, a micro-batch for training
    seq_len       tokens of each
    formats       weight formats to try for inference; the cache is in bf16
    rank          of the LoRA adapters, on all linear layers
    utilization   share of the device's memory that may be planned with

    Inference counts weights and cache. Training counts what `llmhw.training_memory` does for the job on one device,
    with full recompute, the least that training can do with: see `training_job`. LoRA counts its own states in place
    of the model's. A model whose activations no profile covers has no rows of training; `left_out` says why.

    >>> from llmhw import model
    >>> table = fit(model("llama-3-8b"), "RTX 4090")
    >>> table["inference, bf16"].fits, table["full training, AdamW mixed precision"].fits
    (True, False)
    """
    # late: `import llmhw` loads this module, and should stay quick
    from llmhw.training import memory

    gpu = accelerator(device) if isinstance(device, str) else device
    check_count("batch", batch)
    check_count("seq_len", seq_len)
    if not 0 < utilization <= 1:
        raise LLMHWError(f"utilization={utilization} must be above 0 and at most 1; vLLM's default is {UTILIZATION}")

    job = partial(training_job, spec, device=gpu, batch=batch)
    kept = partial(checkpointed_activations, spec, device=gpu, batch=batch)

    def inference(number_format: str) -> Callable[[int], Estimate]:
        held = weights(spec, number_format)
        return lambda tokens: _join("inference", held, kv_cache(spec, batch=batch, seq_len=tokens))

    def full(**recipe: Any) -> Callable[[int], Estimate]:
        return lambda tokens: memory(job(seq_len=tokens, **recipe)).stages[0]

    def adapters(base_format: str) -> Callable[[int], Estimate]:
        states = lora_states(spec, rank=rank, base_format=base_format)
        return lambda tokens: _join("training", states, kept(seq_len=tokens))

    uses = {f"inference, {name}": inference(name) for name in formats}
    left_out = ""
    try:
        kept(seq_len=1)
    except LLMHWError as error:
        left_out = str(error)
    else:
        uses |= {
            "full training, AdamW mixed precision": full(optimizer="adamw", precision="bf16-mixed"),
            "full training, 8-bit AdamW in bf16": full(optimizer="adamw-8bit", precision="bf16"),
            f"LoRA, rank {rank}": adapters("bf16"),
            f"QLoRA, rank {rank}": adapters("nf4-dq"),
        }
    usable = gpu.memory_bytes * utilization
    limit = max(spec.max_seq_len or 131072, seq_len)
    rows = tuple(
        Fit(use, estimate_at(seq_len), gpu.memory_bytes, utilization, gpu.vendor, _longest(estimate_at, usable, limit))
        for use, estimate_at in uses.items()
    )
    return FitTable(spec.name, gpu.name, batch, seq_len, rows, left_out)
