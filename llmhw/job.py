"""What is asked: how a training job is laid out over devices."""

from __future__ import annotations

from dataclasses import dataclass

from llmhw.hardware import Cluster
from llmhw.model import ModelSpec
from llmhw.units import LLMHWError, check_choice, check_count, check_divides

SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero-bubble")
RECOMPUTE = ("none", "selective", "per-op", "full", "block")
ATTENTION = ("flash", "eager")
KERNELS = ("torch", "megatron")
CP_KINDS = ("ring", "all-gather")
OFFLOAD = ("none", "optimizer", "all")
COMPUTE = ("fp32", "tf32", "fp16", "bf16", "fp8", "fp8-block", "mxfp8", "nvfp4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How a job is split over devices.

    dp                  data-parallel ranks; with ZeRO or FSDP they share the states
    tp, pp, cp          tensor-, pipeline- and context-parallel ranks
    ep                  expert-parallel ranks, taken out of the dp x cp x tp ranks of a stage
    expert_tp           tensor-parallel ranks inside one expert
    vpp                 virtual stages: model chunks that each pipeline rank holds
    schedule            gpipe, 1f1b, interleaved (when vpp > 1) or zero-bubble
    sequence_parallel   split norms and residuals over the tp ranks too (Korthikanti et al. 2022)
    zero                0 all replicated; 1 optimizer states split over dp (also Megatron's distributed optimizer);
                        2 gradients too; 3 weights too (FSDP and FSDP2)
    replicas            HSDP: copies of the sharded model; dp / replicas ranks share one copy
    cp_kind             ring or all-gather
    offload             what lies in host memory: none, optimizer, or all (weights, gradients and optimizer)
    uneven              deal layers that pp x vpp does not divide as evenly as possible, the embedding and the head each
                        counting as a layer (Megatron-LM's account-for-embedding and account-for-loss options)

    The number of devices is dp x tp x pp x cp.

    >>> Parallelism(tp=8, pp=2, dp=4).devices
    64
    """

    dp: int = 1
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    expert_tp: int = 1
    vpp: int = 1
    schedule: str = "1f1b"
    sequence_parallel: bool = False
    zero: int = 0
    replicas: int = 1
    cp_kind: str = "ring"
    offload: str = "none"
    uneven: bool = False

    def __post_init__(self) -> None:
        for name in ("dp", "tp", "pp", "cp", "ep", "expert_tp", "vpp", "replicas"):
            object.__setattr__(self, name, check_count(name, getattr(self, name)))
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("cp_kind", self.cp_kind, CP_KINDS)
        check_choice("offload", self.offload, OFFLOAD)
        if self.zero not in (0, 1, 2, 3):
            raise LLMHWError(f"zero={self.zero!r} is not a stage; use 0, 1, 2 or 3 (FSDP is 3)")
        check_divides("replicas", self.replicas, "dp", self.dp)
        if self.replicas > 1 and self.zero != 3:
            raise LLMHWError(f"replicas={self.replicas} is HSDP, which shards the weights: use it with zero=3")
        if self.vpp > 1 and self.pp == 1:
            raise LLMHWError(f"vpp={self.vpp} splits pipeline stages, and pp=1 has none; use vpp=1 or pp of at least 2")
        if self.vpp > 1 and self.schedule == "1f1b":
            object.__setattr__(self, "schedule", "interleaved")
        if self.schedule == "interleaved" and self.vpp == 1:
            raise LLMHWError("schedule='interleaved' needs vpp of at least 2; use 1f1b for one chunk a stage")
        if self.vpp > 1 and self.schedule == "gpipe":
            raise LLMHWError(f"vpp={self.vpp} needs schedule='interleaved' or 'zero-bubble', not 'gpipe'")
        if self.sequence_parallel and self.tp == 1:
            raise LLMHWError("sequence_parallel=True splits over the tp ranks, and tp=1; use tp of at least 2")
        inside = self.dp * self.cp * self.tp
        if inside % (self.ep * self.expert_tp):
            raise LLMHWError(
                f"ep x expert_tp = {self.ep} x {self.expert_tp} does not divide dp x cp x tp = {inside}, "
                "the ranks of a stage that experts are spread over"
            )

    @property
    def devices(self) -> int:
        """Ranks in all."""
        return self.dp * self.tp * self.pp * self.cp

    @property
    def shards(self) -> int:
        """Ranks that share the dense states under ZeRO: dp x cp, less the replicas."""
        return self.dp * self.cp // self.replicas

    @property
    def expert_shards(self) -> int:
        """Ranks that hold the same experts, and share their states under ZeRO."""
        return max(1, self.dp * self.cp * self.tp // (self.ep * self.expert_tp) // self.replicas)


def data_parallel(*, devices: int, tp: int = 1, pp: int = 1, cp: int = 1) -> int:
    """Data-parallel ranks that tensor, pipeline and context parallelism leave of so many devices.

    >>> data_parallel(devices=64, tp=8, pp=2)
    4
    """
    taken = check_count("tp", tp) * check_count("pp", pp) * check_count("cp", cp)
    if check_count("devices", devices) % taken:
        raise LLMHWError(f"tp x pp x cp = {tp} x {pp} x {cp} = {taken} does not divide devices={devices}")
    return devices // taken


def _check_stages(p: Parallelism, layers: int) -> None:
    """Every chunk of the pipeline gets something to do."""
    chunks = p.pp * p.vpp
    if p.uneven and chunks <= layers + 2:  # a chunk may hold the embedding alone, or the head
        return
    if chunks <= layers and (layers + 2) % chunks == 0 and layers % chunks:
        raise LLMHWError(
            f"pp x vpp={chunks} does not divide layers={layers}, but it does when embedding and head count as layers; "
            "use uneven=True"
        )
    check_divides("pp x vpp", chunks, "layers", layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """A training job: what is trained, on what, and how it is laid out.

    model, cluster, parallelism
    micro_batch    sequences that one data-parallel rank passes through the model at a time
    global_batch   sequences of one optimizer step, over all ranks; default: one micro-batch for each rank
    seq_len        tokens of a sequence
    precision      see `llmhw.memory.PRECISIONS`
    optimizer      see `llmhw.memory.OPTIMIZERS`
    recompute      none; selective (attention's core); per-op (torchtitan's selective checkpointing: the outputs of
                   attention and of every second matrix product are kept); full (every layer); or block
                   (`recompute_layers` of each stage)
    compute        number format that matrix products are done in: fp8 (one scale a tensor), fp8-block, mxfp8, nvfp4;
                   or fp16, bf16, tf32, fp32; default: bf16, or fp32 where `precision` is fp32
    attention      flash (fused, no score matrix) or eager
    kernels        torch (plain PyTorch and transformers, SDPA) or megatron (fused kernels, Korthikanti et al. 2022)
    frozen         only adapters are trained (LoRA): no gradients and no optimizer for the model's own weights
    dropout        count dropout masks (Megatron profile); None: where the family was trained with dropout
    expert_imbalance   tokens of the busiest expert rank over the mean

    Raises `LLMHWError` for a layout that cannot run; one that does not fit in memory is an answer, not an error.
    """

    model: ModelSpec
    cluster: Cluster
    parallelism: Parallelism = Parallelism()
    micro_batch: int = 1
    global_batch: int = 0
    seq_len: int = 4096
    precision: str = "bf16-mixed"
    optimizer: str = "adamw"
    compute: str = ""
    recompute: str = "none"
    recompute_layers: int = 0
    attention: str = "flash"
    kernels: str = "torch"
    frozen: bool = False
    dropout: bool | None = None
    expert_imbalance: float = 1.0

    def __post_init__(self) -> None:
        p, spec = self.parallelism, self.model
        check_count("micro_batch", self.micro_batch)
        check_count("seq_len", self.seq_len)
        check_choice("recompute", self.recompute, RECOMPUTE)
        check_choice("attention", self.attention, ATTENTION)
        check_choice("kernels", self.kernels, KERNELS)
        if not self.compute:
            object.__setattr__(self, "compute", "fp32" if self.precision == "fp32" else "bf16")
        check_choice("compute", self.compute, COMPUTE)
        if not self.global_batch:
            object.__setattr__(self, "global_batch", self.micro_batch * p.dp)
        check_count("global_batch", self.global_batch)
        if not 1 <= self.expert_imbalance < float("inf"):
            raise LLMHWError(f"expert_imbalance={self.expert_imbalance!r} must be a number of at least 1")
        if p.devices != self.cluster.devices:
            raise LLMHWError(
                f"dp x tp x pp x cp = {p.dp} x {p.tp} x {p.pp} x {p.cp} = {p.devices} is not the cluster's "
                f"{self.cluster.devices} devices"
            )
        if self.global_batch % (self.micro_batch * p.dp):
            raise LLMHWError(
                f"micro_batch x dp = {self.micro_batch} x {p.dp} does not divide global_batch={self.global_batch}; "
                f"use a multiple of {self.micro_batch * p.dp}"
            )
        check_divides("tp", p.tp, "heads", spec.heads)
        if spec.kv_heads % p.tp and p.tp % spec.kv_heads:
            raise LLMHWError(
                f"tp={p.tp} neither divides kv_heads={spec.kv_heads} nor is a multiple of it, so KV heads can be "
                "neither split nor copied evenly"
            )
        _check_stages(p, spec.num_layers)
        if p.cp > 1 and self.seq_len % (2 * p.cp):
            raise LLMHWError(
                f"cp={p.cp} cuts a sequence into {2 * p.cp} parts, and seq_len={self.seq_len} is no multiple"
            )
        if p.sequence_parallel and self.seq_len % p.tp:
            raise LLMHWError(f"tp={p.tp} with sequence_parallel does not divide seq_len={self.seq_len}")
        experts = max((t.experts for layer, _ in spec.layer_kinds for t in layer.tensors), default=1)
        if p.ep > 1 and experts == 1:
            raise LLMHWError(f"ep={p.ep} spreads experts, and {spec.name} has none; use ep=1")
        if p.ep > 1:
            check_divides("ep", p.ep, "experts", experts)
        if p.vpp > 1 and self.micro_batches % p.pp:
            raise LLMHWError(
                f"the interleaved schedule needs micro-batches in multiples of pp={p.pp}; there are "
                f"{self.micro_batches} = global_batch / (micro_batch x dp)"
            )
        node = self.cluster.devices_per_node
        if (p.tp > node and p.tp % node) or (p.tp < node and node % p.tp and p.devices > node):
            raise LLMHWError(
                f"tp={p.tp} does not fit node boundaries: neither it nor devices_per_node={node} divides the other"
            )
        if self.recompute == "block" and not 0 < self.recompute_layers <= spec.num_layers // p.pp:
            raise LLMHWError(
                f"recompute_layers={self.recompute_layers} must be between 1 and the {spec.num_layers // p.pp} layers "
                "of a stage when recompute='block'"
            )

    @property
    def micro_batches(self) -> int:
        """Micro-batches that each data-parallel rank runs in a step."""
        return self.global_batch // (self.micro_batch * self.parallelism.dp)
