"""What is asked: a training or a serving job, and how it is laid out over devices.

A field keeps what was asked, so that `dataclasses.replace` changes one thing and asks for the rest again. Where the
answer follows from other fields, a property has it: `pipeline_schedule`, `batch`, `compute_format`, `dropout_masks`,
`page_tokens`, `context_limit`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from llmhw.hardware import Cluster
from llmhw.model import ModelSpec
from llmhw.precision import number_format
from llmhw.units import LLMHWError, check_choice, check_count, check_divides, maximum, where

SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero-bubble")
RECOMPUTE = ("none", "selective", "per-op", "full", "block")
ATTENTION = ("flash", "eager")
KERNELS = ("torch", "megatron")
CP_KINDS = ("ring", "all-gather")
OFFLOAD = ("none", "optimizer", "all")
# Tokens of a page of the KV cache, as each engine has it by default; the others keep one block a sequence.
PAGE_SIZES = {"vllm": 16, "tensorrt-llm": 32, "sglang": 1}
ENGINES = (*PAGE_SIZES, "transformers", "llama.cpp", "litgpt")
SPLITS = ("tensor", "layers")
ALL_REDUCES = ("two-shot", "one-shot", "nvls", "auto")
COMPUTE = ("fp32", "tf32", "fp16", "bf16", "fp8", "fp8-block", "mxfp8", "nvfp4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The numbers of a layout, unchecked: each is plain, or an array of many layouts that broadcasts against the others.

    Names are those of `Parallelism`; micro_batch is in sequences, micro_batches are those of a rank in one step.
    """

    dp: Any = 1
    tp: Any = 1
    pp: Any = 1
    cp: Any = 1
    ep: Any = 1
    expert_tp: Any = 1
    vpp: Any = 1
    zero: Any = 0
    replicas: Any = 1
    sequence_parallel: Any = False
    micro_batch: Any = 1
    micro_batches: Any = 1

    @property
    def spread(self) -> Any:
        """Ranks that norms and residuals are split over: tp with sequence parallelism, else 1."""
        return where(self.sequence_parallel, self.tp, 1)

    @property
    def inside(self) -> Any:
        """Ranks of a pipeline stage."""
        return self.dp * self.cp * self.tp

    @property
    def devices(self) -> Any:
        """Ranks in all."""
        return self.inside * self.pp

    @property
    def shards(self) -> Any:
        """Ranks that share the dense states under ZeRO: dp x cp, less the replicas."""
        return self.dp * self.cp // self.replicas

    @property
    def expert_shards(self) -> Any:
        """Ranks that hold the same experts, and share their states under ZeRO."""
        return maximum(1, self.inside // (self.ep * self.expert_tp) // self.replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How a job is split over devices.

    dp                  data-parallel ranks; with ZeRO or FSDP they share the states
    tp, pp, cp          tensor-, pipeline- and context-parallel ranks
    ep                  expert-parallel ranks, taken out of the dp x cp x tp ranks of a stage
    expert_tp           tensor-parallel ranks inside one expert
    vpp                 virtual stages: model chunks that each pipeline rank holds
    schedule            gpipe, 1f1b (interleaved where vpp > 1), interleaved or zero-bubble
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
    def pipeline_schedule(self) -> str:
        """The schedule that runs: 1f1b is interleaved where a rank holds several chunks."""
        return "interleaved" if self.schedule == "1f1b" and self.vpp > 1 else self.schedule

    @property
    def devices(self) -> int:
        """Ranks in all."""
        return self.dp * self.tp * self.pp * self.cp

    @property
    def shards(self) -> int:
        """Ranks that share the dense states under ZeRO: dp x cp, less the replicas."""
        return int(self.layout().shards)

    @property
    def expert_shards(self) -> int:
        """Ranks that hold the same experts, and share their states under ZeRO."""
        return int(self.layout().expert_shards)

    def layout(self, micro_batch: int = 1, micro_batches: int = 1) -> Layout:
        """The numbers alone, with those of the batch."""
        shared = (f.name for f in fields(Layout) if not f.name.startswith("micro"))
        numbers = {name: getattr(self, name) for name in shared}
        return Layout(**numbers, micro_batch=micro_batch, micro_batches=micro_batches)


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


def trained_with_dropout(spec: ModelSpec) -> bool:
    """Whether a model's family was: the first GPTs and their contemporaries were, later ones are not."""
    return spec.model_type in ("gpt2", "gpt_neo", "gptj", "gpt_bigcode", "bloom", "opt")


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
    dropout        apply dropout; default: with Megatron's kernels, where the family was trained with it
    expert_imbalance   tokens of the busiest expert rank over the mean

    Raises `LLMHWError` for a layout that cannot run; one that does not fit in memory is an answer, not an error.
    """

    model: ModelSpec
    cluster: Cluster
    parallelism: Parallelism = Parallelism()
    micro_batch: int = 1
    global_batch: int | None = None
    seq_len: int = 4096
    precision: str = "bf16-mixed"
    optimizer: str = "adamw"
    compute: str | None = None
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
        check_choice("compute", self.compute_format, COMPUTE)
        check_count("global_batch", self.batch)
        if not 1 <= self.expert_imbalance < float("inf"):
            raise LLMHWError(f"expert_imbalance={self.expert_imbalance!r} must be a number of at least 1")
        if p.devices != self.cluster.devices:
            raise LLMHWError(
                f"dp x tp x pp x cp = {p.dp} x {p.tp} x {p.pp} x {p.cp} = {p.devices} is not the cluster's "
                f"{self.cluster.devices} devices"
            )
        if self.batch % (self.micro_batch * p.dp):
            raise LLMHWError(
                f"micro_batch x dp = {self.micro_batch} x {p.dp} does not divide global_batch={self.batch}; "
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
    def batch(self) -> int:
        """Sequences of one optimizer step, over all ranks."""
        return self.global_batch or self.micro_batch * self.parallelism.dp

    @property
    def micro_batches(self) -> int:
        """Micro-batches that each data-parallel rank runs in a step."""
        return self.batch // (self.micro_batch * self.parallelism.dp)

    @property
    def compute_format(self) -> str:
        """Number format that matrix products are done in."""
        return self.compute or ("fp32" if self.precision == "fp32" else "bf16")

    @property
    def dropout_masks(self) -> bool:
        """Whether dropout is applied: as asked, or with Megatron's kernels as the family was trained."""
        if self.dropout is None:
            return self.kernels == "megatron" and trained_with_dropout(self.model)
        return self.dropout

    def recomputes(self, number: int) -> bool:
        """Whether the forward pass of layer `number` of a stage is run a second time, as a whole."""
        return self.recompute == "full" or (self.recompute == "block" and number < self.recompute_layers)

    @property
    def layout(self) -> Layout:
        """The numbers of the layout, those of the batch among them."""
        return self.parallelism.layout(self.micro_batch, self.micro_batches)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingJob:
    """A serving job: what is served, on what, in which formats, and what one instance of the engine may take.

    model, cluster
    tp, pp              tensor- and pipeline-parallel ranks
    attention_dp        data-parallel attention: groups of tp ranks that share the experts, each with its own sequences
    ep                  expert-parallel ranks, out of the tp x attention_dp of a stage; the rest of these cut experts
    weights, kv         number formats of the weights and of the KV cache: see `llmhw.number_formats()`
    page_size           tokens of a page (PagedAttention's block); default: the engine's
    engine              vllm, tensorrt-llm, sglang, transformers, llama.cpp or litgpt
    utilization         share of a device's memory that the engine may take (vLLM's gpu_memory_utilization)
    max_sequences       sequences that run at a time, on each group of tp x pp ranks
    max_batched_tokens  most tokens of one forward pass, on each group of tp x pp ranks
    max_model_len       longest sequence, prompt and answer; default: the model's own limit
    prefix_tokens       tokens at the start that all sequences share, cached once
    lora_adapters       adapters that lie on the device beside the model, each with lora_rank
    weight_offload, kv_offload   share of the weights, and of the KV cache, that lies in host memory
    split               tensor; or layers: the pp ranks take turns and never work at once (llama.cpp's layer split,
                        device_map="auto" of transformers)
    all_reduce          how tp ranks add up: two-shot (each adds up its part, then all gather), one-shot (each reads
                        everything: one exchange, more bytes), nvls (the switch adds up), or auto, the fastest

    One instance takes tp x pp x attention_dp devices; the cluster holds one or more (`replicas`). Raises `LLMHWError`
    for a layout that cannot run; one that does not fit in memory is an answer, not an error.

    >>> from llmhw import model
    >>> job = ServingJob(model=model("llama-3-70b"), cluster=Cluster("h100", 8), tp=4, weights="fp8")
    >>> job.replicas, job.page_tokens, job.context_limit
    (2, 16, 8192)
    """

    model: ModelSpec
    cluster: Cluster
    tp: int = 1
    pp: int = 1
    ep: int = 1
    attention_dp: int = 1
    weights: str = "bf16"
    kv: str = "bf16"
    page_size: int | None = None
    engine: str = "vllm"
    utilization: float = 0.9
    max_sequences: int = 256
    max_batched_tokens: int = 8192
    max_model_len: int | None = None
    prefix_tokens: int = 0
    lora_adapters: int = 0
    lora_rank: int = 16
    weight_offload: float = 0.0
    kv_offload: float = 0.0
    split: str = "tensor"
    all_reduce: str = "two-shot"

    def __post_init__(self) -> None:
        spec = self.model
        for name in ("tp", "pp", "ep", "attention_dp", "max_sequences", "max_batched_tokens", "lora_rank"):
            object.__setattr__(self, name, check_count(name, getattr(self, name)))
        for name in ("prefix_tokens", "lora_adapters"):
            object.__setattr__(self, name, check_count(name, getattr(self, name), least=0))
        check_choice("engine", self.engine, ENGINES)
        check_choice("split", self.split, SPLITS)
        check_choice("all_reduce", self.all_reduce, ALL_REDUCES)
        for name in ("weights", "kv"):
            object.__setattr__(self, name, number_format(getattr(self, name)).name)
        if not 0 < self.utilization <= 1:
            raise LLMHWError(f"utilization={self.utilization!r} must be above 0 and at most 1; vLLM's default is 0.9")
        if not 0 <= self.weight_offload <= 1:
            raise LLMHWError(f"weight_offload={self.weight_offload!r} must be a share from 0 to 1")
        if not 0 <= self.kv_offload < 1:
            raise LLMHWError(f"kv_offload={self.kv_offload!r} must be a share of at least 0 and below 1")
        self._check_lengths()
        self._check_layout()
        check_divides("tp", self.tp, "heads", spec.heads)
        if spec.kv_heads % self.tp and self.tp % spec.kv_heads:
            raise LLMHWError(
                f"tp={self.tp} neither divides kv_heads={spec.kv_heads} nor is a multiple of it, so KV heads can be "
                "neither split nor copied evenly"
            )
        if self.pp > spec.num_layers:
            raise LLMHWError(f"pp={self.pp} is more than layers={spec.num_layers}; every stage needs a layer")

    def _check_lengths(self) -> None:
        """Lengths of sequences and of pages."""
        if not (self.max_model_len or self.model.max_seq_len):
            raise LLMHWError(f"{self.model.name} states no longest sequence; give max_model_len")
        check_count("max_model_len", self.context_limit)
        if self.prefix_tokens >= self.context_limit:
            raise LLMHWError(
                f"prefix_tokens={self.prefix_tokens} must be less than max_model_len={self.context_limit}, "
                "which it is a part of"
            )
        check_count("page_size", self.page_tokens)
        if self.page_tokens > 1 and self.engine not in PAGE_SIZES:
            raise LLMHWError(
                f"page_size={self.page_size}: {self.engine} keeps the cache of a sequence in one block; use 1, or an "
                f"engine with pages: {', '.join(PAGE_SIZES)}"
            )

    def _check_layout(self) -> None:
        """Ranks, experts and node boundaries."""
        spec, devices = self.model, self.devices
        if self.cluster.devices % devices:
            raise LLMHWError(
                f"tp x pp x attention_dp = {self.tp} x {self.pp} x {self.attention_dp} = {devices} does not divide the "
                f"cluster's {self.cluster.devices} devices"
            )
        if self.split == "layers" and self.tp > 1:
            raise LLMHWError(f"split='layers' deals whole layers to pp ranks, and tp={self.tp} cuts them; use tp=1")
        experts = max((t.experts for layer, _ in spec.layer_kinds for t in layer.tensors), default=1)
        if experts == 1:
            for name in ("ep", "attention_dp"):
                if getattr(self, name) > 1:
                    raise LLMHWError(
                        f"{name}={getattr(self, name)} spreads experts, and {spec.name} has none; use {name}=1 and, "
                        "for more instances, a cluster with more devices"
                    )
        check_divides("ep", self.ep, "experts", experts)
        if self.tp * self.attention_dp % self.ep:
            raise LLMHWError(
                f"ep={self.ep} does not divide tp x attention_dp = {self.tp} x {self.attention_dp} = "
                f"{self.tp * self.attention_dp}, the ranks of a stage that experts are spread over"
            )
        node = self.cluster.devices_per_node
        if (self.tp > node and self.tp % node) or (self.tp < node and node % self.tp and devices > node):
            raise LLMHWError(
                f"tp={self.tp} does not fit node boundaries: neither it nor devices_per_node={node} divides the other"
            )

    @property
    def context_limit(self) -> int:
        """Longest sequence, prompt and answer: as asked, or the model's own limit."""
        return self.max_model_len or self.model.max_seq_len or 0

    @property
    def page_tokens(self) -> int:
        """Tokens of a page of the KV cache: as asked, or the engine's."""
        return self.page_size or PAGE_SIZES.get(self.engine, 1)

    @property
    def devices(self) -> int:
        """Devices of one instance of the engine."""
        return self.tp * self.pp * self.attention_dp

    @property
    def replicas(self) -> int:
        """Instances of the engine on the cluster."""
        return self.cluster.devices // self.devices

    @property
    def parallelism(self) -> Parallelism:
        """The same layout as training writes it: attention_dp is dp, and experts are cut by what ep leaves."""
        return Parallelism(
            dp=self.attention_dp,
            tp=self.tp,
            pp=self.pp,
            ep=self.ep,
            expert_tp=self.tp * self.attention_dp // self.ep,
        )
