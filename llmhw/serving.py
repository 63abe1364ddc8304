"""Serving jobs: what every device holds, what is left for the KV cache, and how many sequences that is."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import Any

from llmhw import llamacpp
from llmhw.block import score_matrix_bytes
from llmhw.catalog import read_calibration
from llmhw.checks import checked, whole
from llmhw.engines import serving_engine
from llmhw.formula import Estimate, Part, StageReport, Table, Term, formula, term
from llmhw.hardware import Accelerator, Cluster, larger
from llmhw.job import TENSOR_RULES, Layout, Parallelism, ServingJob, limits_of
from llmhw.language import said
from llmhw.margin import barely, fit_words, known_error
from llmhw.memory import (
    kept_by,
    kv_cache,
    kv_cache_bytes_per_token,
    lora_tensors,
    lora_terms,
    told_towers,
    weights,
    whole_towers,
)
from llmhw.model import Layer, ModelSpec, Tensor
from llmhw.pages import Pool, pool_of
from llmhw.precision import checkpoint_name, format_label, formats_in, number_format
from llmhw.sharding import local_tensor, outer_tensors
from llmhw.units import (
    LLMHWError,
    ceil_div,
    check_choice,
    check_count,
    check_number,
    format_quantity,
    maximum,
    where,
)

# -- memory: formulas -------------------------------------------------------------------------


@formula(source="PagedAttention (Kwon et al. 2023), section 4.1: blocks of a fixed number of tokens", unit="count")
def paged_tokens(*, tokens: Any, page_size: Any) -> Any:
    """Tokens that a sequence's pages have room for: only its last page may be partly empty.

    >>> paged_tokens(tokens=1000, page_size=16)
    1008
    """
    return ceil_div(tokens, page_size) * page_size


@formula(source="PagedAttention (Kwon et al. 2023), section 4.1: blocks of a fixed number of tokens", unit="count")
def pages_held(*, tokens: Any, page_size: Any) -> Any:
    """Pages that a sequence holds: only its last one may be partly empty.

    >>> pages_held(tokens=1000, page_size=16)
    63
    """
    return ceil_div(tokens, page_size)


@formula(
    source="vLLM's start-up profiles: gate, up and their product beside the residual stream, its norm and the result",
    unit="bytes",
)
def forward_workspace_bytes(
    *, tokens: Any, feed_forward: Any, hidden: Any, residuals: Any = 3, bytes_per_element: Any = 2
) -> Any:
    """Activations that are alive at once while a batch of tokens passes through a block without autograd.

    tokens         of the batch
    feed_forward   elements a token inside the feed-forward part: 3 x its width where it is gated, else 2 x
    residuals      vectors of size hidden beside them: 3 in vLLM, 4 in transformers

    Llama 3.1 8B at 20,000 tokens: a log of vLLM 0.6.4 has 17.06 - 14.99 = 2.07 GiB.

    >>> round(forward_workspace_bytes(tokens=20000, feed_forward=3 * 14336, hidden=4096) / 2**30, 2)
    2.06
    """
    return tokens * (feed_forward + residuals * hidden) * bytes_per_element


@formula(source="16-bit hidden states, then logits, probabilities and their sorted copies in the sampler", unit="bytes")
def sampling_workspace_bytes(*, tokens: Any, hidden: Any, sequences: Any, vocab: Any, bytes_per_logit: Any) -> Any:
    """What is alive at once while the next token of every sequence is drawn.

    tokens            of the batch, whose last hidden states are still there
    bytes_per_logit   what the sampler keeps for each entry of the vocabulary, of each sequence

    >>> held = sampling_workspace_bytes(tokens=4096, hidden=1536, sequences=256, vocab=151936, bytes_per_logit=38)
    >>> round(held / 2**30, 2)
    1.39
    """
    return tokens * hidden * 2 + sequences * vocab * bytes_per_logit


@formula(source="device memory less what its driver keeps", unit="bytes")
def engine_budget_bytes(*, memory: Any, driver: Any, utilization: Any) -> Any:
    """What an engine may take of a device: a share of what CUDA shows.

    >>> round(engine_budget_bytes(memory=24 * 2**30, driver=0.45 * 2**30, utilization=0.9) / 2**30, 1)
    21.2
    """
    return (memory - driver) * utilization


@formula(source="TensorRT-LLM: free_gpu_memory_fraction; TGI: TGI_WIGGLE_ROOM", unit="bytes")
def rest_budget_bytes(*, memory: Any, driver: Any, held: Any, utilization: Any) -> Any:
    """The same where the share is of what the model leaves free.

    driver   what driver and context keep
    held     model, workspaces and what lies outside of the allocator

    >>> rest_budget_bytes(memory=80, driver=1, held=39, utilization=0.9)
    75.0
    """
    return held + (memory - driver - held) * where(memory > driver + held, utilization, 1)


@formula(source="vLLM's start-up logs: a pool that all graphs share, and what each needs of its own", unit="bytes")
def graph_pool_bytes(*, shared: Any, sizes: Any, each: Any) -> Any:
    """CUDA graphs of the batch sizes that are captured.

    shared   bytes of the pool
    sizes    batch sizes that are captured
    each     bytes of one

    Logs: 0.09 to 0.39 GiB with 3 sizes, 0.36 with 16, 0.62 with 51.

    >>> round(graph_pool_bytes(shared=0.1 * 2**30, sizes=51, each=12 * 2**20) / 2**30, 2)
    0.7
    """
    return shared + sizes * each


@formula(source="whole pages in what is left of the budget", unit="count")
def cache_tokens(*, left_bytes: Any, token_bytes: Any, page_size: Any) -> Any:
    """Tokens of KV cache that fit.

    left_bytes    budget less weights and workspaces
    token_bytes   cache of one token, all layers of the device

    >>> cache_tokens(left_bytes=10 * 2**30, token_bytes=131072, page_size=16)
    81920
    """
    return maximum(0, left_bytes) // (token_bytes * page_size) * page_size


@formula(source="a cache that grows by concatenation: the old one is there while the new one is made", unit="bytes")
def growing_cache_bytes(*, cache: Any, temporaries: Any, share: Any, beside: Any) -> Any:
    """Blocks that PyTorch reserves beside the weights while transformers generates.

    cache         keys and values of all tokens at the end
    temporaries   what the prompt needed for a moment (logits, activations), and leaves to the copies
    share         reserved over allocated
    beside        context and library workspaces

    >>> growing_cache_bytes(cache=2**30, temporaries=0, share=1, beside=0) / 2**30
    2.0
    """
    return share * (cache + maximum(cache, temporaries)) + beside


@checked
def memory_constant(name: str, calibration: Mapping[str, Any] | None = None) -> float:
    """A constant of serving memory: from `calibration`, else from `calibration.json`, which says what each is."""
    known = {key: value for key, value in read_calibration("serving_memory").items() if isinstance(value, (int, float))}
    check_choice("name", name, known)
    return check_number(name, (calibration or {}).get(name, known[name]))


# -- memory: one device -----------------------------------------------------------------------


@checked(layers=whole(1, 10**5), stages=whole(1, 10**5))
def dealt_layers(layers: int, stages: int) -> tuple[range, ...]:
    """Numbers of the layers of every pipeline stage; what does not divide goes to the stages before the last.

    >>> [len(stage) for stage in dealt_layers(61, 4)]
    [15, 15, 16, 15]
    """
    return _dealt(check_count("layers", layers), check_count("stages", stages))


@lru_cache(maxsize=64)
def _dealt(layers: int, stages: int) -> tuple[range, ...]:
    base, more = divmod(layers, stages)
    sizes = (base + (stages - 1 - more <= i < stages - 1) for i in range(stages))
    return tuple(range(start, end) for start, end in pairwise(accumulate(sizes, initial=0)))


@checked(stage=whole(0))
def stage_tensors(job: ServingJob, stage: int) -> list[tuple[Tensor, int]]:
    """Every tensor of one rank of a stage with the shape that it has there, and how many of its layers hold one."""
    if job.software.cells:
        return [(local_tensor(job.parallelism, t), n) for t, n in llamacpp.device_tensors(job, stage)]
    held = _tensors(job.model, job.parallelism, stage)
    if not job.software.rows_in_host:
        return held
    kept = job.model.tied and stage == job.pp - 1
    return [(t, n) for t, n in held if t.part != "tokens" or kept]


def _tensors(spec: ModelSpec, layout: Parallelism, stage: int) -> list[tuple[Tensor, int]]:
    before, behind = outer_tensors(spec, layout, stage)
    held = [(local_tensor(layout, t), 1) for t in (*before, *behind)]
    for layer, count in _kinds(spec, layout.pp, stage):
        held += [(local_tensor(layout, t, layer), count) for t in layer.tensors]
    return held


@lru_cache(maxsize=64)
def _weights(spec: ModelSpec, fmt: str, layout: Parallelism, stage: int, tiles: tuple[int, int] = (1, 1)) -> Estimate:
    """Weights of one rank of a stage, which are the same on every device and at every length.

    tiles   multiples that MXFP4 experts are filled up to: the inner and the hidden size
    """
    held = _tensors(spec, layout, stage)
    if any(found.name == "mxfp4" for found in formats_in(spec, fmt)):
        held = [(filled(t, *tiles), n) for t, n in held]
    return weights(spec, fmt, tensors=held)


def filled(tensor: Tensor, inner: int, hidden: int) -> Tensor:
    """A stack of experts with its sizes filled up to multiples of these; other tensors as they are."""
    if tensor.component != "experts" or not tensor.matmul or len(tensor.shape) != 3:
        return tensor
    experts, rows, columns = tensor.shape
    parts = 2 if tensor.part == "gate_up" else 1
    # (inputs, outputs) if swapped: of all matrices but down, the inputs are the hidden size
    first = tensor.swapped == (tensor.part != "down")
    wide, narrow = (rows, columns) if first else (columns, rows)
    wide = int(ceil_div(wide, hidden) * hidden)
    narrow = parts * int(ceil_div(ceil_div(narrow, parts), inner) * inner)
    return replace(tensor, shape=(experts, wide, narrow) if first else (experts, narrow, wide))


def _numbers(spec: ModelSpec, pp: int, stage: int) -> range | None:
    """Numbers of the layers of a stage; None: all."""
    return dealt_layers(spec.num_layers, pp)[stage] if pp > 1 else None


def _kinds(spec: ModelSpec, pp: int, stage: int) -> tuple[tuple[Layer, int], ...]:
    """The distinct layers of a stage, each with how often it occurs."""
    numbers = _numbers(spec, pp, stage)
    return spec.layer_kinds if numbers is None else spec.kinds_of(numbers)


def feed_forward_width(layer: Layer, hidden: int, tp: int = 1) -> float:
    """Elements a token inside the feed-forward part of a block: its active parameters over the hidden size.

    >>> from llmhw import model
    >>> feed_forward_width(model("llama-3-8b").layers[0], 4096) / 14336
    3.0
    """
    active = sum(t.active for t in layer.tensors if t.matmul and t.component in ("mlp", "experts"))
    return active / hidden / tp


@formula(source="measured: see calibration.json", unit="bytes")
def engine_overhead_bytes(*, beside: Any, communication: Any = 0) -> Any:
    """What an engine holds outside its framework's allocator.

    beside          libraries' workspaces
    communication   channels and buffers of NCCL, where there are several ranks

    >>> engine_overhead_bytes(beside=100, communication=20)
    120
    """
    return beside + communication


@formula(
    source="vLLM's encoder budget: a step's tokens, or one item that has more; profile_run holds them beside the batch",
    unit="bytes",
)
def encoder_output_bytes(*, batched: Any, item: Any, width: Any, bytes_per_element: Any = 2) -> Any:
    """Outputs of vision and audio towers that an engine keeps until the text model has read them.

    batched   tokens of the largest batch
    item      tokens of the longest picture or clip
    width     elements a token

    >>> encoder_output_bytes(batched=8192, item=16384, width=4096) / 2**20
    128.0
    """
    return maximum(batched, item) * width * bytes_per_element


# Engines that read towers only from a file of their own (--mmproj).
ONE_FILE = ("llama.cpp", "koboldcpp")


@formula(
    source="vLLM's profile_run: one picture of full size passes through its tower; attention and feed-forward are cut",
    unit="bytes",
)
def encoder_workspace_bytes(
    *, patches: Any, pixels: Any, feed_forward: Any, hidden: Any, residuals: Any = 4, bytes_per_element: Any = 2
) -> Any:
    """What is alive at once while a vision tower reads its largest picture: fp32 pixels, and the widest block.

    patches        of the picture
    pixels         numbers of one patch
    feed_forward   elements of a patch inside the feed-forward part, on one rank
    residuals      vectors of size hidden beside them

    Qwen3.5 27B on two ranks: a log of vLLM has an activation peak of 1.59 GiB.

    >>> held = encoder_workspace_bytes(patches=65536, pixels=1536, feed_forward=4304, hidden=1152)
    >>> round(held / 2**30, 2)
    1.46
    """
    return patches * (4 * pixels + (feed_forward + residuals * hidden) * bytes_per_element)


def _encoder_workspace(job: ServingJob) -> Term | None:
    """Of the towers whose largest item is known."""
    found: list[Term] = []
    for tower in job.model.towers:
        first = next((t for t, _ in tower.tensors if len(t.shape) > 3), None)
        if tower.kind != "vision" or first is None or not tower.tokens:
            continue
        hidden, pixels = first.shape[0], first.numel // first.shape[0]
        inside = [t for t, count in tower.tensors if count > 1 and len(t.shape) == 2]
        outside = [t.shape[1] for t, count in tower.tensors if count == 1 and len(t.shape) == 2]
        wide = [t.shape[0] for t in inside if t.shape[1] == hidden and t.shape[0] > hidden and "qkv" not in t.name]
        merged = max((n // hidden for n in outside if n % hidden == 0), default=1)
        table = max((t.shape[0] for t, n in tower.tensors if n == 1 and t.shape[1:] == (hidden,)), default=0)
        # a picture is no longer than a sequence may be
        patches = min(max(tower.tokens * merged, table), job.context_limit * merged)
        sizes: dict[str, Any] = {"patches": patches, "pixels": pixels, "hidden": hidden}
        sizes["feed_forward"] = (len(wide) + 1) * max(wide, default=4 * hidden) / job.tp
        found.append(term(encoder_workspace_bytes, "the largest picture", **sizes))
    return max(found, key=lambda t: float(t.value), default=None)


def _towers(job: ServingJob) -> list[Part]:
    """Weights of the towers, and their outputs where an engine sets room for them aside."""
    spec = job.model
    if job.software.name in ONE_FILE:
        return []
    parts = [Part(name, tuple(terms)) for name, terms in whole_towers(spec).items()]
    if parts and job.software.paged:
        width, item = max(t.width for t in spec.towers), max(t.tokens or 0 for t in spec.towers)
        sizes: dict[str, Any] = {"batched": job.max_batched_tokens, "item": item, "width": width}
        parts.append(Part("encoder outputs", (term(encoder_output_bytes, "of the largest batch", **sizes),)))
    return parts


_SAMPLERS = {"sorted": "sampler_bytes_per_logit", "fused": "fused_sampler_bytes_per_logit"}


def _workspace(job: ServingJob, stage: int, calibration: Mapping[str, Any] | None) -> Part:
    """Activations of the largest batch, or of the sampler where that needs more: the two never meet."""
    spec, last = job.model, stage == job.pp - 1
    sizes: dict[str, Any]
    if job.software.cells:
        return Part("compute buffer", tuple(llamacpp.compute_terms(job, stage, job.context_limit)))
    if job.software.share_of == "start":
        return Part("activations", (), "outside of the engine's share")
    picture = _encoder_workspace(job) if stage == 0 and job.software.share_of == "device" else None
    kinds = _kinds(spec, job.pp, stage)
    forward = term(
        forward_workspace_bytes,
        "the widest block",
        tokens=job.max_batched_tokens,
        feed_forward=max(feed_forward_width(layer, spec.hidden, job.tp) for layer, _ in kinds),
        hidden=spec.hidden,
    )
    sampling = term(
        sampling_workspace_bytes,
        "the sampler",
        tokens=job.max_batched_tokens,
        hidden=spec.hidden,
        sequences=job.max_sequences,
        vocab=spec.head_shape[0],
        # vLLM's profile draws a token for all sequences; others make their logits in fp32 and draw from a few
        bytes_per_logit=memory_constant(_SAMPLERS[job.software.sampler], calibration) if job.software.sampler else 4,
    )
    if job.software.prompt_logits:
        # in 16 bit: the logits and their logarithms; over ranks first a part, all parts, and all in one
        each = 4 if job.tp == 1 else 2 * (2 + 1 / job.tp)
        sizes = {"tokens": job.max_batched_tokens, "vocab": spec.head_shape[0], "bytes_per_logit": each}
        logits = term(prompt_logits_bytes, "logits of the warm-up's prompt", batch=1, **sizes)
        beside: dict[str, Any] = {"tokens": job.max_batched_tokens, "hidden": spec.hidden, "feed_forward": 0}
        return Part("logits", (logits, term(forward_workspace_bytes, "hidden states", residuals=2, **beside)))
    if picture and picture.value > max(forward.value, sampling.value if last else 0):
        return Part("activations", (picture,), "of the vision tower; those of the text model come later")
    if last and sampling.value > forward.value:
        return Part("logits", (sampling,), "they come when the activations have gone, and are larger")
    return Part("activations", (forward,), "logits come when they have gone, and are smaller" if last else "")


# Bytes per second that NVLink bridges between two cards do not reach.
_BRIDGE = 150e9


def _communication(job: ServingJob, calibration: Mapping[str, Any] | None) -> float:
    """Buffers of NCCL on one rank: more of them where NVLink joins the ranks, which it drives with many channels."""
    if job.devices == 1:
        return 0.0
    link = job.cluster.intra_link
    fast = link is not None and link.name.startswith("NVLink") and link.bytes_per_second > _BRIDGE
    return memory_constant("nvlink_communication_bytes" if fast else "communication_bytes", calibration)


def _graphs(job: ServingJob, calibration: Mapping[str, Any] | None) -> Term:
    """Of batch sizes 1, 2, 4, every eighth up to 256 and every sixteenth up to 512, at most twice the sequences."""
    most = min(512, 2 * job.max_sequences)
    sizes = 3 + min(most, 256) // 8 + max(0, most - 256) // 16
    each = memory_constant(
        "graph_extrapolated_bytes" if job.software.graphs == "extrapolated" else "graph_each_bytes", calibration
    )
    shared = memory_constant("graph_bytes", calibration)
    return term(graph_pool_bytes, "of every batch size", shared=shared, sizes=sizes, each=each)


def stage_weights(job: ServingJob, stage: int) -> Estimate:
    """The weights of one rank of a stage."""
    if job.software.rows_in_host:
        return weights(job.model, job.weights, tensors=stage_tensors(job, stage))
    return _weights(job.model, job.weights, job.parallelism, stage, job.software.expert_tiles)


def _stage(job: ServingJob, stage: int, calibration: Mapping[str, Any] | None, own: Part | None = None) -> Estimate:
    """`own`: its weights, where these are known already."""
    if own is None:
        held = stage_weights(job, stage)
        own = Part("weights", tuple(t.scaled(1 - job.weight_offload) for part in held for t in part.terms))
    parts = (own, *parts_beside(job, stage, calibration))
    return Estimate(f"stage {stage} of {job.model.name}", "bytes", parts)


def parts_beside(job: ServingJob, stage: int, calibration: Mapping[str, Any] | None = None) -> list[Part]:
    """What a device of a stage holds beside weights and cache; no format of either changes it."""
    spec = job.model
    parts = _towers(job) if stage == 0 else []
    if job.lora_adapters:
        share = len(dealt_layers(spec.num_layers, job.pp)[stage]) / spec.num_layers
        adapters = lora_terms(lora_tensors(spec, rank=job.lora_rank, targets=job.lora_targets), 2, tp=job.tp)
        parts.append(Part("LoRA adapters", tuple(t.scaled(share * job.lora_adapters) for t in adapters)))
    parts.append(_workspace(job, stage, calibration))
    engine = job.software
    outside: dict[str, Any] = {"beside": _beside(job, calibration), "communication": 0.0}
    if not engine.cells:  # llama.cpp's devices hand tensors on by plain copies
        outside["communication"] = _communication(job, calibration)
    if engine.share_of != "start":
        parts.append(Part("engine", (term(engine_overhead_bytes, "outside the allocator", **outside),)))
    if engine.graphs in ("inside", "extrapolated"):
        parts.append(Part("CUDA graphs", (_graphs(job, calibration),)))
    return parts


def _beside(job: ServingJob, calibration: Mapping[str, Any] | None) -> float:
    """What a process holds of a device outside the engine's own buffers."""
    engine, vendor = job.software, job.cluster.accelerator.vendor
    if vendor == "Apple":  # Metal has no context in it
        return 0.0
    if engine.cells:  # whose kernels need no library's workspaces
        return memory_constant("context_bytes" if vendor == "NVIDIA" else "plain_context_bytes", calibration)
    # a share that is set aside leaves room for the context; who takes the whole device has it inside
    inside = engine.paged and not engine.counts_context
    return memory_constant("beside_bytes", calibration) + (
        0.0 if inside else memory_constant("context_bytes", calibration)
    )


# -- memory: the whole estimate ---------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class ServingMemory(StageReport):
    """Memory of a serving job: what a device of every pipeline stage holds, and what that leaves for the cache.

    stages          an `Estimate` of what a device of each stage holds beside the cache, by part
    visible_bytes   what CUDA shows of a device; None: the catalog's memory, less what the driver keeps
    """

    job: ServingJob
    stages: tuple[Estimate, ...]
    calibration: Mapping[str, Any] | None = None
    visible_bytes: float | None = None

    @property
    def title(self) -> str:
        """The job in one line."""
        job = self.job
        sizes = ("tp", "pp", "ep", "attention_dp")
        layout = "".join(f", {name}={getattr(job, name)}" for name in sizes if getattr(job, name) > 1)
        adapters = (
            said(
                ", {lora_adapters} LoRA adapters of rank {lora_rank}",
                lora_adapters=job.lora_adapters,
                lora_rank=job.lora_rank,
            )
            if job.lora_adapters
            else ""
        )
        copies = said(", {replicas} replicas", replicas=job.replicas) if job.replicas > 1 else ""
        stored = format_label(job.model, str(job.weights))
        return said(
            "serving {name} in {stored}, KV cache in {kv}, on {devices:,} x {device}{layout}{copies}, "
            "{engine}{adapters}",
            name=job.model.name,
            stored=stored,
            kv=job.kv,
            devices=job.cluster.devices,
            device=job.cluster.accelerator.name,
            layout=layout,
            copies=copies,
            engine=job.engine,
            adapters=adapters,
        )

    @property
    def capacity_bytes(self) -> float:
        """Memory of one device, as its driver reports it."""
        return self.job.cluster.accelerator.memory_bytes

    @cached_property
    def budget_bytes(self) -> float:
        """What the engine may take of a device."""
        return float(self._budget(max(float(stage.total) for stage in self.stages)).value)

    def _budget(self, held: float) -> Term:
        """The same, of a device that holds so much beside the cache."""
        function, sizes = self._taken(held)
        return term(function, "what the engine may take", **sizes)

    def room_beside(self, held: Any) -> Any:
        """What is left for the cache on a device that holds so much beside it: a number or an array."""
        function, sizes = self._taken(held)
        return function(**sizes) - held

    def _taken(self, held: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
        job, share_of = self.job, self.job.software.share_of
        visible = self.visible_bytes
        sizes: dict[str, Any] = {"memory": self.capacity_bytes, "driver": self._driver, "utilization": job.utilization}
        if visible is not None:
            sizes |= {"memory": visible, "driver": 0.0}
        if share_of != "device":
            sizes["driver"] += memory_constant("context_bytes", self.calibration)
        if share_of == "start":
            sizes["driver"] += memory_constant("beside_bytes", self.calibration)
            sizes["driver"] += _communication(job, self.calibration)
        if share_of == "rest":
            return rest_budget_bytes, sizes | {"held": held}
        return engine_budget_bytes, sizes

    @cached_property
    def left_bytes(self) -> tuple[float, ...]:
        """What each stage has left for its part of the cache; below 0 where even the rest does not fit."""
        held = (float(stage.total) for stage in self.stages)
        return tuple(float(self._budget(size).value) - size for size in held)

    @cached_property
    def worst(self) -> int:
        """Number of the stage whose room for tokens runs out first."""
        return min(range(self.job.pp), key=lambda i: self.left_bytes[i] / (self._token_bytes(i) or 1))

    def _token_bytes(self, stage: int) -> float:
        """Cache of one token on a device of a stage, while it is within every window."""
        job = self.job
        if job.software.cells:
            return self._cells(llamacpp.STEP, stage, 1) / llamacpp.STEP
        numbers = _numbers(job.model, job.pp, stage)
        return kv_cache_bytes_per_token(self._kept, job.kv, tp=job.tp, layers=numbers)

    @property
    def kv_bytes(self) -> float:
        """Room for the cache on a device of the worst stage; 0 where there is none. llama.cpp allocates n_ctx."""
        left = max(0.0, self.left_bytes[self.worst])
        asked = self.cache_bytes(self.job.context_limit, sequences=self.job.max_sequences) if self._allocates else left
        return min(left, asked)

    @cached_property
    def pools(self) -> tuple[Pool | None, ...]:
        """For every stage the pool of pages that its layers share; None where each layer has its own."""
        job, engine = self.job, self.job.software
        if not engine.pools:
            return (None,) * job.pp
        sizes: dict[str, Any] = {"kv": str(job.kv), "tp": job.tp, "page_size": job.page_tokens}
        sizes |= {"batched": int(job.max_batched_tokens), "state_pages": engine.state_pages}
        return tuple(pool_of(job.model, _numbers(job.model, job.pp, i), **sizes) for i in range(job.pp))

    @property
    def blocks(self) -> int:
        """Blocks of the cache as the engine counts them: a page of every layer, or of every layer of one group."""
        pool = self.pools[self.worst]
        return pool.held(self.kv_bytes / (1 - self.job.kv_offload)) if pool else self.kv_tokens // self.job.page_tokens

    @property
    def at_once_exactly(self) -> float:
        """Sequences of max_model_len in the cache of one group of ranks: the log's maximum concurrency."""
        job, pool = self.job, self.pools[self.worst]
        if pool:
            return self.blocks / pool.blocks(job.context_limit)
        return float(self.blocks / ceil_div(job.context_limit, job.page_tokens))

    @property
    def refusal(self) -> str:
        """Why an engine does not start although a sequence of max_model_len fits; "" where it does."""
        job, pool = self.job, self.pools[self.worst]
        if not (pool and pool.has_states and job.software.refuses_states) or job.max_sequences <= self.blocks:
            return ""
        if self.longest < job.context_limit:
            return ""
        return said(
            "max_sequences={max_sequences} is more than the {blocks} blocks of the cache, and each "
            "sequence needs one for its state; use max_sequences={blocks}",
            max_sequences=job.max_sequences,
            blocks=self.blocks,
        )

    @property
    def kv_tokens(self) -> int:
        """Tokens that fit in the cache of one group of tp x pp ranks, as the engine's log has them.

        Where layers of several kinds share a pool, they depend on max_model_len; else all layers count as full
        attention. Of llama.cpp the cells, n_ctx, that it allocates. Each group of attention_dp has as much again. What
        lies in host memory (kv_offload) is counted.
        """
        pool = self.pools[self.worst]
        if pool:
            split = self.job.software.pools == "split"
            return pool.split_tokens(self.blocks) if split else int(self.at_once_exactly * self.job.context_limit)
        held = self._token_bytes(self.worst) * (1 - self.job.kv_offload)
        if not held:
            raise LLMHWError(f"{self.job.model.name} keeps a state of fixed size and no keys: ask for sequences()")
        if self._allocates and self.fits:
            tokens = self.job.context_limit
            cells = llamacpp.cell_count(tokens) if self.job.software.cells else tokens
            return self.job.max_sequences * cells
        return int(cache_tokens(left_bytes=self.kv_bytes, token_bytes=held, page_size=self.job.page_tokens))

    @property
    def _allocates(self) -> bool:
        """Whether the cache is as long as was asked, and no share of the device is set aside for it."""
        return not self.job.software.paged

    @property
    def _kept(self) -> ModelSpec:
        """The model with the cache that the engine keeps."""
        return kept_by(self.job.model, self.job.software.windows)

    def _cells(self, tokens: int, stage: int, slots: int) -> float:
        """llama.cpp's cache on a device: cells for so many tokens in each slot."""
        job = self.job
        numbers = llamacpp.layers_on(job, stage)
        terms = llamacpp.cache_terms(llamacpp.kept(job), layers=numbers, **llamacpp.cache_options(job, tokens, slots))
        return sum(float(t.value) for t in terms)

    def cache_bytes(self, seq_len: int, stage: int | None = None, *, sequences: int = 1) -> float:
        """Cache of sequences of this length on a device of a stage (default: the worst), as the engine lays it out.

        Pages are whole. An engine without pages reserves max_model_len for each. A shared prefix counts once, in
        whole pages; kv_offload is subtracted.
        """
        job, i = self.job, self.worst if stage is None else stage
        if check_count("seq_len", seq_len) > job.context_limit:
            raise LLMHWError(f"seq_len={seq_len} is longer than max_model_len={job.context_limit}; raise that")
        if job.software.cells:
            return self._cells(job.context_limit, i, sequences) * (1 - job.kv_offload)
        numbers = _numbers(job.model, job.pp, i)

        def held(tokens: int) -> float:
            if not tokens:
                return 0.0
            return float(kv_cache(self._kept, seq_len=tokens, kv_format=job.kv, tp=job.tp, layers=numbers).total)

        pool, paged = self.pools[i], job.software.paged
        if pool:
            prefix = min(job.prefix_tokens, seq_len)
            whole, own = pool.blocks(seq_len), pool.blocks(seq_len, prefix)
            return ((sequences - 1) * own + whole) * pool.block_bytes * (1 - job.kv_offload)
        room = paged_tokens(tokens=seq_len, page_size=job.page_tokens) if paged else job.context_limit
        shared = held(min(job.prefix_tokens, seq_len) // job.page_tokens * job.page_tokens) if paged else 0.0
        return (sequences * (held(room) - shared) + shared) * (1 - job.kv_offload)

    def sequences(self, seq_len: int) -> int:
        """How many sequences of this length fit at once in one instance; max_sequences is not a limit here."""
        fitting = []
        for i, left in enumerate(self.left_bytes):
            one = self.cache_bytes(seq_len, i)
            each = self.cache_bytes(seq_len, i, sequences=2) - one
            fitting.append(int((left - one) // each) + 1 if left >= one and each else 0 if each else 2**31)
        return max(0, min(fitting)) * self.job.attention_dp

    @cached_property
    def longest(self) -> int:
        """The longest single sequence that fits; 0 if not one token does.

        At most max_model_len, or the model's limit where an engine reserves what it is asked for.
        """
        job = self.job
        paged, limit = job.software.paged, job.context_limit
        if not paged and not job.was_asked("max_model_len"):
            limit = max(limit, job.model.max_seq_len or 0)

        def fits(tokens: int) -> bool:
            alone = self if paged else self._with_limit(tokens)
            slots = job.max_sequences if job.software.cells else 1
            return all(alone.cache_bytes(tokens, i, sequences=slots) <= left for i, left in enumerate(alone.left_bytes))

        if not limit or not fits(1):
            return 0
        if fits(limit):
            return limit
        return bisect_left(range(1, limit + 1), True, key=lambda tokens: not fits(tokens))

    def _with_limit(self, tokens: int) -> ServingMemory:
        """The same devices with room for other lengths."""
        tokens = max(tokens, self.job.prefix_tokens + 1)
        job = self.job.assuming(**(self.job.assumptions() | {"max_model_len": tokens}))
        if job.software.cells:  # whose compute buffer depends on them
            stages = (_stage(job, i, self.calibration, stage.parts[0]) for i, stage in enumerate(self.stages))
            return replace(self, job=job, stages=tuple(stages))
        return replace(self, job=job)

    @property
    def graphs_bytes(self) -> float:
        """CUDA graphs that are captured after the cache is made, from what the engine's share leaves."""
        outside = self.job.software.graphs == "outside"
        return float(_graphs(self.job, self.calibration).value) if outside else 0.0

    @property
    def device_bytes(self) -> float:
        """What nvidia-smi shows once the engine has started: its whole share with graphs and context, or its use."""
        if not self.job.software.paged:
            return self.needed_bytes(self.job.context_limit, self.job.max_sequences)
        full = max(self.budget_bytes, float(self.stages[self.worst].total))
        return full + self.graphs_bytes + memory_constant("context_bytes", self.calibration)

    def needed_bytes(self, tokens: int, sequences: int = 1) -> float:
        """What the fullest device needs for so many sequences of a group of tp x pp ranks, cache included."""
        each = enumerate(self.stages)
        sequences = max(sequences, self.job.max_sequences) if self.job.software.cells else sequences
        return max(float(stage.total) + self.cache_bytes(tokens, i, sequences=sequences) for i, stage in each)

    @property
    def fits(self) -> bool:
        """Whether it starts, and one sequence of max_model_len fits."""
        return self.longest >= self.job.context_limit and not self.refusal

    @property
    def way_out(self) -> str:
        """By how much it falls short and what would help; "" if it fits."""
        if self.fits:
            return ""
        if self.longest >= self.job.context_limit:
            return self.refusal
        if self.longest:
            return said(
                "fits up to {longest:,} tokens; lower max_model_len, or use more tp or pp, or a smaller kv",
                longest=self.longest,
            )
        way = "use fewer bits for the weights, more tp or pp, or a device with more memory"
        return f"{self.shortage(1)}; {way}"

    def shortage(self, tokens: int) -> str:
        """By how much one sequence of so many tokens is too large, in words."""
        held = self.job.software.paged and tokens <= self.job.context_limit
        needed = (self if held else self._with_limit(tokens)).needed_bytes(tokens)
        short, needs, has = (
            format_quantity(x, "bytes") for x in (needed - self.budget_bytes, needed, self.budget_bytes)
        )
        return said("short by {short} on each device ({needs} of {has})", short=short, needs=needs, has=has)

    @property
    def verdict(self) -> str:
        """Whether it starts, and the longest sequence."""
        job = self.job
        if not self.longest:
            return said("Does not fit: {shortage}.", shortage=self.shortage(1))
        if self.refusal:
            return said("Does not start: {refusal}.", refusal=self.refusal)
        if not self.fits:
            return said(
                "{verdict}: max_model_len={limit} needs more than there is; one sequence of {longest:,} tokens fits.",
                verdict=said("Does not start" if job.software.refuses_longer else "Does not fit"),
                limit=job.context_limit,
                longest=self.longest,
            )
        return said(
            "{fit_words}; longest context: {longest:,} tokens.",
            fit_words=self.fit_words(job.context_limit),
            longest=self.longest,
        )

    def fit_words(self, tokens: int, sequences: int = 1) -> str:
        """That so many sequences fit, and how near one of them is to the limit."""
        needs = self.needed_bytes(tokens, sequences)
        return fit_words(self.needed_bytes(tokens), self.budget_bytes, self.error, shown=needs)

    @property
    def error(self) -> float:
        """Share of a need that nine of ten measured ones are within: see `llmhw.margin`."""
        engine = self.job.software
        return known_error("paged" if engine.paged else "llama.cpp" if engine.weights[0] == "gguf" else "generate")

    @property
    def fits_barely(self) -> bool:
        """Whether one sequence of max_model_len fits by less than the known error."""
        return self.fits and barely(self.needed_bytes(self.job.context_limit), self.budget_bytes, self.error)

    def warnings(self) -> list[str]:
        """What was assumed, and what the numbers leave out."""
        return assumptions(self)

    def next_steps(self) -> list[str]:
        """Changes that were tried, with the longest context and the sequences that they give."""
        found = []
        for text, other in variants(self.job, self):
            made = serving_memory(other, calibration=self.calibration)
            if made.at_once() > self.at_once() or made.fits > self.fits:
                found.append((made.longest, f"{text}: {made._room_words()}"))
        # what makes a job fit stands in the order of what it loses
        return [text for _, text in (sorted(found, reverse=True) if self.fits else found)]

    def at_once(self) -> int:
        """Sequences of max_model_len in one instance."""
        return self.sequences(self.job.context_limit)

    def _room_words(self) -> str:
        return said(
            "longest context {longest:,} tokens, {at_once} of that length at once",
            longest=self.longest,
            at_once=_many(self.at_once()),
        )

    @property
    def windowed(self) -> bool:
        """Whether some layers cache less than every token, so that no one number of tokens fills the cache."""
        kinds = [layer.attention for layer, _ in self._kept.layer_kinds]
        return any(a is None or a.window or a.chunk for a in kinds)

    def log_words(self) -> str:
        """The cache as the engine's log counts it; "" where no one number of tokens fills it."""
        if self.windowed and not self.pools[self.worst]:
            return ""
        found = said("cache of {kv_tokens:,} tokens", kv_tokens=self.kv_tokens)
        if self.pools[self.worst] or self.job.page_tokens > 1:
            length = self.job.context_limit
            found += said(
                ", {blocks:,} blocks, maximum concurrency {at_once_exactly:.2f} x {length:,} tokens",
                blocks=self.blocks,
                at_once_exactly=self.at_once_exactly,
                length=length,
            )
        return found

    def longest_words(self) -> str:
        """The longest context in words."""
        return said("one sequence of {longest:,} tokens", longest=self.longest) if self.longest else said("none")

    def shown(self) -> list[Estimate]:
        """The stages with the budget that their caches take: what a device holds once the engine has started."""
        label, shown = "what is left of the budget", []
        for stage, left in zip(self.stages, self.left_bytes, strict=True):
            cache = term(cache_budget_bytes, label, budget=left + float(stage.total), held=float(stage.total))
            shown.append(replace(stage, parts=(*stage.parts, Part("KV cache", (cache,)))) if left > 0 else stage)
        return shown

    def last(self) -> tuple[str, list[float]]:
        """The engine's budget."""
        return "budget", [self.budget_bytes] * self.job.pp

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: bytes, tokens, sequences."""
        job = self.job
        return {
            "model": self.job.model.name,
            "device": self.job.cluster.accelerator.name,
            "devices": self.job.devices,
            "replicas": self.job.replicas,
            "worst_stage": self.worst,
            "budget_bytes": self.budget_bytes,
            "left_bytes": self.left_bytes[self.worst],
            "kv_bytes": self.kv_bytes,
            "kv_tokens": self.kv_tokens if self._token_bytes(self.worst) else None,
            "blocks": self.blocks if self._token_bytes(self.worst) else None,
            "at_once": self.at_once_exactly if self._token_bytes(self.worst) else None,
            "does_not_start": self.refusal or None,
            "sequences": self.sequences(self.job.context_limit),
            "longest": self.longest,
            "graphs_bytes": self.graphs_bytes,
            "device_bytes": self.device_bytes,
            "host_bytes": float(llamacpp.host_memory(job, job.context_limit).total) if job.software.cells else 0.0,
            "capacity_bytes": self.capacity_bytes,
            "fits": self.fits,
            "way_out": self.way_out,
            "stages": [stage.to_dict() | {"stage": i} for i, stage in enumerate(self.stages)],
        }

    def identity(self) -> dict[str, Any]:
        """What tells this job from others in a table."""
        job = self.job
        return {
            "model": job.model.name,
            "device": job.cluster.accelerator.name,
            "devices": job.cluster.devices,
            "engine": str(job.engine),
            "weights": str(job.weights),
            "kv": str(job.kv),
            **{name: int(getattr(job, name)) for name in ("tp", "pp", "ep", "attention_dp", "replicas")},
            "max_model_len": int(job.context_limit),
        }

    def to_row(self) -> dict[str, Any]:
        """One row: what the job is, then what it comes to."""
        told = self.to_dict()
        names = ("fits", "longest", "sequences", "kv_bytes", "budget_bytes", "device_bytes", "capacity_bytes")
        return self.identity() | {name: told[name] for name in names} | {"verdict": self.verdict}

    def summary(self) -> str:
        """What the cache has room for, in one line."""
        if not self.fits:
            return said("does not fit: {way_out}", way_out=self.way_out)
        length = self.job.context_limit
        room = f"; {words}" if (words := self.log_words()) else ""
        at_once = said("at once: {at_once} of {length:,} tokens", at_once=_many(self.at_once()), length=length)
        return said(
            "longest context: {longest_words}; {at_once}{room}",
            longest_words=self.longest_words(),
            at_once=at_once,
            room=room,
        )

    def explain(self, part: str | None = None, stage: int | None = None) -> str:
        """The formulas behind one part (or all) of a stage, or behind the budget; default: the worst stage."""
        if part == "budget":
            made = self._budget(max(float(stage.total) for stage in self.stages))
            return Estimate(self.title, "bytes", (Part("budget", (made,)),)).explain("budget")
        shown = self.shown()[self.worst if stage is None else stage]
        if part is not None and part not in {p.name for p in shown}:
            # a part that another stage has
            shown = next((s for s in self.shown() if part in {p.name for p in s}), shown)
        return shown.explain(part)

    @property
    def _driver(self) -> float:
        device = self.job.cluster.accelerator
        return memory_constant("driver_bytes", self.calibration) if device.vendor == "NVIDIA" else 0.0

    def tables(self) -> list[Table]:
        return [self.stage_table(self.title, f": {self.summary()}")]

    def footer(self) -> tuple[str]:
        return (self.summary(),)


def _many(sequences: int) -> str:
    return said("{number:,} sequence" if sequences == 1 else "{number:,} sequences", number=sequences)


@formula(source="what the budget leaves", unit="bytes")
def cache_budget_bytes(*, budget: Any, held: Any) -> Any:
    """Room for the KV cache on a device.

    >>> cache_budget_bytes(budget=20, held=12)
    8
    """
    return budget - held


@checked
def device_budget(device: Accelerator, utilization: float, calibration: Mapping[str, Any] | None = None) -> float:
    """Bytes that an engine may take of a device.

    >>> from llmhw import accelerator
    >>> round(device_budget(accelerator("A10"), 0.9) / 2**30, 1)  # a log of vLLM: 22.07 GiB x 0.90
    19.8
    """
    driver = memory_constant("driver_bytes", calibration) if device.vendor == "NVIDIA" else 0.0
    return float(engine_budget_bytes(memory=device.memory_bytes, driver=driver, utilization=utilization))


@checked
def serving_memory(
    job: ServingJob, *, visible_bytes: float | None = None, calibration: Mapping[str, Any] | None = None
) -> ServingMemory:
    """What the devices of a serving job hold, what is left for the KV cache, and how many sequences that is.

    visible_bytes   memory that CUDA shows of a device, where it is known: the total in an engine's log
    calibration     other constants than those of `catalog/calibration.json` under `serving_memory`

    Counts weights in their format (with what stays in 16 bit), adapters, the workspace of the largest batch, and the
    engine's overhead; the rest of the engine's share is cache, in whole pages. Heads that are fewer than tp ranks, and
    the latent of multi-head latent attention, are copied to every rank.

    >>> from llmhw import Cluster, model
    >>> job = ServingJob(model=model("llama-3-70b"), cluster=Cluster("h100", 4), tp=4)
    >>> found = serving_memory(job)
    >>> found.fits, 430_000 < found.kv_tokens < 480_000, found.sequences(8192)
    (True, True, 56)
    """
    return memory_of(settled(job, visible_bytes=visible_bytes, calibration=calibration), visible_bytes, calibration)


def memory_of(
    job: ServingJob, visible_bytes: float | None = None, calibration: Mapping[str, Any] | None = None
) -> ServingMemory:
    """The memory of a job as it stands: `serving_memory` without `settled`."""
    stages = tuple(_stage(job, i, calibration) for i in range(job.pp))
    return ServingMemory(job, stages, calibration, visible_bytes)


# -- what nobody asked for --------------------------------------------------------------------

# What llama.cpp leaves free of a device when it chooses n_ctx (--fit-target).
_SPARE = 2**30
# Tokens that a layout must hold where no request says how many.
_SOME_TOKENS = 4096


def settled(
    job: ServingJob,
    *,
    prompt: int | None = None,
    answer: int = 0,
    concurrency: int | None = None,
    visible_bytes: float | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> ServingJob:
    """The job with its layout and longest sequence chosen, where nobody asked for these.

    prompt, answer   tokens of the requests, if they are known; an engine without pages takes no more than they need
    concurrency      requests at work at a time, if that is known

    The layout is that of the fewest devices that hold one request. max_model_len is the model's limit, or what fits.

    >>> from llmhw import Cluster, model
    >>> job = settled(ServingJob(model=model("llama-3.1-8b"), cluster=Cluster("rtx 3090", 1)))
    >>> 44_000 < job.max_model_len < 45_000
    True
    """
    engine = job.software
    values: dict[str, int] = {}
    if prompt is not None and not engine.max_batched_tokens and not job.was_asked("max_batched_tokens"):
        values["max_batched_tokens"] = prompt
    if concurrency and not engine.max_sequences and not job.was_asked("max_sequences"):
        values["max_sequences"] = min(concurrency, 10**6)
    open_end = not job.was_asked("max_model_len")
    tokens = min(job.context_limit, _SOME_TOKENS if prompt is None else prompt + answer)
    least = max(tokens, job.prefix_tokens + 1)

    def tried(**more: int) -> ServingMemory:
        return memory_of(job.assuming(**values, **more), visible_bytes, calibration)

    values |= _layout(job, tokens, lambda **layout: tried(**layout, **({"max_model_len": least} if open_end else {})))
    if open_end and engine.cells:
        # what llama.cpp takes by itself; versions that take the model's longest lower it to what fits
        limit = max(least, min(engine.context or job.context_limit, job.context_limit))
        most = 0
        if not engine.context:
            budget = tried(max_model_len=limit).budget_bytes
            held = job.assuming(**values, max_model_len=limit)
            most = memory_of(held, max(0.0, budget - _SPARE) / job.utilization, calibration).longest
        values["max_model_len"] = most if least <= most < limit else limit
    elif open_end and not engine.paged and prompt is not None:
        values["max_model_len"] = least
    elif open_end:
        longest = tried().longest
        if job.prefix_tokens < longest < job.context_limit:
            values["max_model_len"] = longest
    return job.assuming(**values) if values else job


def _layout(job: ServingJob, tokens: int, memory: Any) -> dict[str, int]:
    """tp or pp of the fewest devices that hold one sequence of so many tokens; nothing where they were asked for."""
    if job.was_asked("tp") or job.was_asked("pp"):
        return {}
    most = job.cluster.devices // job.attention_dp
    axis = "pp" if job.split == "layers" else "tp"
    limits = limits_of(job.model, job.cluster)
    chosen = {"tp": 1, "pp": 1}
    for size in (n for n in range(1, most + 1) if most % n == 0):
        if job.software.cells and job.software.name != "ollama" and size < min(most, job.model.num_layers):
            continue  # llama.cpp deals its layers to all devices, Ollama to the fewest
        x = Layout(tp=size if axis == "tp" else 1, pp=size if axis == "pp" else 1, dp=job.attention_dp, ep=job.ep)
        fitting = axis == "pp" and size <= job.model.num_layers
        fitting |= (
            axis == "tp" and size <= job.cluster.devices_per_node and all(r.holds(x, limits) for r in TENSOR_RULES)
        )
        if fitting and job.attention_dp * x.tp % job.ep == 0:
            chosen = {"tp": x.tp, "pp": x.pp}
            if memory(**chosen).sequences(tokens):
                break
    return chosen


def assumptions(held: ServingMemory) -> list[str]:
    """What was assumed in a job, in words, and what its numbers leave out."""
    job, found = held.job, []
    device, engine, limit = job.cluster.accelerator, job.software, job.model.max_seq_len or 0
    if not job.was_asked("engine") and engine.name != "vllm":
        found.append(
            said(
                "engine={engine!r} assumed: it reads the weights and runs on {device}",
                engine=str(job.engine),
                device=device.name,
            )
        )
    found += _defaults_assumed(job) + _formats_assumed(job)
    if not job.was_asked("tp") and job.cluster.devices > 1:
        axis = "pp" if job.split == "layers" else "tp"
        why = "its layers go to all devices" if engine.cells else "the fewest devices that hold the model"
        found.append(
            said(
                "{layout} assumed: {why}; replicas: {replicas}",
                layout=f"{axis}={getattr(job, axis)}",
                why=said(why),
                replicas=job.replicas,
            )
        )
    if not job.was_asked("max_model_len") and job.max_model_len:
        if engine.paged:
            needs = said("; {engine} needs it said", engine=engine.name) if engine.refuses_longer else ""
            found.append(
                said(
                    "max_model_len={max_model_len} assumed: the model's {limit:,} do not fit{needs}",
                    max_model_len=job.max_model_len,
                    limit=limit,
                    needs=needs,
                )
            )
        else:
            found.append(
                said(
                    "max_model_len={max_model_len} assumed: {engine} reserves what is asked of it",
                    max_model_len=job.max_model_len,
                    engine=engine.name,
                )
            )
    elif limit and job.context_limit > limit:
        found.append(
            said(
                "max_model_len={context_limit} is above the model's limit of {limit:,}: it needs rope scaling",
                context_limit=job.context_limit,
                limit=limit,
            )
        )
    for fmt in formats_in(job.model, job.weights):
        if engine.expands(device, fmt):
            found.append(
                said(
                    "weights={weights!r}: {device} does not multiply them; {engine} expands them to 16 bit",
                    weights=fmt.name,
                    device=device.name,
                    engine=engine.name,
                )
            )
    if job.software.name in ONE_FILE and job.model.towers:
        size = sum(float(t.value) for terms in whole_towers(job.model).values() for t in terms)
        found.append(
            said("not counted: the towers' own file (--mmproj), {size} in 16 bit", size=format_quantity(size, "bytes"))
        )
    else:
        found += told_towers(job.model)
    if engine.cells and (job.cpu_moe or job.gpu_layers is not None):
        parts = llamacpp.host_memory(job, job.context_limit)
        sizes = [
            said("{size} of {part}", size=format_quantity(float(part.value), "bytes"), part=said(part.name))
            for part in parts
            if part.value
        ]
        found.append(
            said(
                "host memory: {total}, {sizes}",
                total=format_quantity(float(parts.total), "bytes"),
                sizes=", ".join(sizes),
            )
        )
    return found


def _defaults_assumed(job: ServingJob) -> list[str]:
    """The engine's own sizes, which follow its version and the device."""
    names = ("utilization", "max_sequences", "max_batched_tokens")
    values = [f"{name}={getattr(job, name)}" for name in names if not job.was_asked(name)]
    if not values or not job.software.paged:
        return []
    version = job.software.version or said("its newest version")
    return [
        said(
            "{values} assumed: what {engine}, {version}, takes on this device",
            values=", ".join(values),
            engine=job.software.name,
            version=version,
        )
    ]


def _formats_assumed(job: ServingJob) -> list[str]:
    """What was assumed of the formats of weights and cache, and how it stands to the checkpoint's own."""
    found, weights, spec = [], str(job.weights), job.model
    if job.was_asked("weights"):
        return _dequantized(job) if spec.quantization else []
    own, label = checkpoint_name(spec), format_label(spec, weights)
    if not spec.checkpoint.quantized:
        found.append(said("weights={weights!r} assumed", weights=weights))
    elif weights == own or (weights, own) == ("MXFP4_MOE", "mxfp4"):
        found.append(said("weights={label!r} assumed: the format of its checkpoint", label=label))
    else:
        theirs = " + ".join(fmt.name for fmt in formats_in(spec, "checkpoint"))
        found.append(
            said(
                "weights={weights!r} assumed: its checkpoint is in {theirs}, which {engine} does not run on {device}",
                weights=weights,
                theirs=theirs,
                engine=job.engine,
                device=job.cluster.accelerator.name,
            )
        )
    if spec.checkpoint.note:
        found.append(spec.checkpoint.note)
    if spec.checkpoint.kv and not job.was_asked("kv"):
        if job.kv == spec.checkpoint.kv:
            found.append(said("kv={kv!r} assumed: the checkpoint has scales for it", kv=str(job.kv)))
        else:
            found.append(
                said(
                    "kv={kv!r} assumed: the checkpoint has scales for {theirs}, which are not used",
                    kv=str(job.kv),
                    theirs=spec.checkpoint.kv,
                )
            )
    return found


def _dequantized(job: ServingJob) -> list[str]:
    """That 16-bit weights were asked for where the checkpoint has fewer bits."""
    weights, spec = str(job.weights), job.model
    if weights == "checkpoint" or number_format(weights).bits < 16:
        return []
    return [
        said(
            "weights={weights!r}: its checkpoint is quantized ({quantization}); this is the model dequantized",
            weights=weights,
            quantization=spec.quantization,
        )
    ]


# Formats that are tried in place of one with more bits, best first.
_NARROWER = ("fp8", "int8", "nvfp4", "int4-awq", "Q8_0", "Q6_K", "Q4_K_M", "IQ3_M", "int8-llm", "nf4")


def _narrower(job: ServingJob) -> list[str]:
    """Formats with fewer bits that the engine reads and the device multiplies: the best of each width."""
    engine, device = job.software, job.cluster.accelerator
    found: dict[float, str] = {}
    for name in _NARROWER:
        fmt = number_format(name)
        fitting = engine.reads(fmt) and engine.expands(device, fmt) is False
        if fitting and (fmt.kind == "gguf") == (engine.weights[0] == "gguf"):
            found.setdefault(fmt.bits, name)
    bits = formats_in(job.model, job.weights)[0].bits_per_weight
    return [name for name in found.values() if number_format(name).bits_per_weight < 0.9 * bits]


def variants(job: ServingJob, held: ServingMemory) -> Iterator[tuple[str, ServingJob]]:
    """Changes of a job that may help, in words; only what is not on already.

    Of a job that fits: what makes its cache larger or its batches. Of one that does not: the mildest change of each
    kind with which it does, in the order of what they lose; then more devices, and larger ones.
    """
    kept: dict[str, Any] = {"engine": str(job.engine), "tp": job.tp, "pp": job.pp}
    axis = "pp" if job.split == "layers" else "tp"
    for mild in _changes(job, held, axis):
        for change in mild:
            try:
                other = replace(job, **(kept | change))
                if not held.fits:
                    made = serving_memory(other, visible_bytes=held.visible_bytes, calibration=held.calibration)
                    if not made.fits:
                        continue
            except LLMHWError:
                continue
            yield ", ".join(f"{k}={v!r}" for k, v in change.items()), other
            if not held.fits:
                break
    if not held.fits:
        yield from _larger(job, axis, kept)


def _changes(job: ServingJob, held: ServingMemory, axis: str) -> Iterator[list[dict[str, Any]]]:
    """The same by kind, milder ones first."""
    engine, bits = job.software, number_format(job.kv).bits
    if held.fits:
        if held.sequences(min(_SOME_TOKENS, job.context_limit)) > job.max_sequences * job.attention_dp:
            yield [{"max_sequences": max(8, 2 * job.max_sequences)}]
    else:
        blocks = [held.blocks] if held.refusal else []
        yield [{"max_sequences": n} for n in (*blocks, *_halves(job.max_sequences, 1))]
        yield [{"max_batched_tokens": n} for n in _halves(job.max_batched_tokens, 512)]
        home = serving_engine("llama.cpp")
        reads = engine.paged and job.model.checkpoint.quantized and not job.was_asked("engine")
        yield [{"engine": home.name}] if reads and all(map(home.reads, formats_in(job.model, job.weights))) else []
        yield [{"max_model_len": held.longest}] if held.longest > job.prefix_tokens else []
    yield [{"kv": name} for name in engine.kv if 8 <= number_format(name).bits < bits][:1]
    if engine.cells and not held.fits:
        experts = llamacpp.expert_stacks(job.model)
        yield _moved(job, held, "cpu_moe", range(job.cpu_moe + 1, job.model.num_layers + 1)) if experts else []
        layers = job.model.num_layers if job.gpu_layers is None else job.gpu_layers - 1
        yield _moved(job, held, "gpu_layers", range(layers, -1, -1))
    if engine.paged and not held.fits:
        yield [{"utilization": share} for share in (0.95, 0.97) if share > job.utilization]
    more = 2 * getattr(job, axis)
    yield [{axis: more}] if more * job.devices // getattr(job, axis) <= job.cluster.devices else []
    for name in _narrower(job):
        yield [{"weights": name}]


def _moved(job: ServingJob, held: ServingMemory, name: str, numbers: range) -> list[dict[str, Any]]:
    """The first of these numbers of layers, of which each moves more into host memory, with which a job fits."""

    def fits(number: int) -> bool:
        return memory_of(replace(job, **{name: number}), held.visible_bytes, held.calibration).fits  # type: ignore[arg-type]

    found = bisect_left(numbers, True, key=fits)
    return [{name: numbers[found]}] if found < len(numbers) else []


def _halves(number: int, least: int) -> list[int]:
    """Half of a number, a quarter, and so on.

    >>> _halves(256, 64)
    [128, 64]
    """
    return [number >> i for i in range(1, number.bit_length()) if number >> i >= least]


def _larger(job: ServingJob, axis: str, kept: dict[str, Any]) -> Iterator[tuple[str, ServingJob]]:
    """More devices of a kind, the smallest larger device, and eight of the smallest, where each holds the job."""
    device, count = job.cluster.accelerator, job.cluster.devices
    rivals = list(larger(device))
    ways = (
        [(device, many) for many in (2, 4, 8) if many > count],
        [(one, count) for one in rivals],
        [(one, 8) for one in rivals if count < 8],
    )
    for places in ways:
        for one, many in places:
            try:
                split = {axis: many // job.attention_dp} if many > count else {}
                cluster = Cluster(one, many, inter_link=job.cluster.inter_link)
                other = replace(job, **(kept | {"cluster": cluster} | split))
                if memory_of(other).longest:
                    told = [f"device={one.name!r}"] if one is not device else []
                    told += [f"devices={many}", f"{axis}={split[axis]}"] if split else []
                    yield ", ".join(told), other
                    break
            except LLMHWError:
                continue


# -- memory: one generation without an engine -------------------------------------------------

ATTENTION = ("flash", "eager")


@formula(source="16-bit logits of a whole prompt and their fp32 copy (transformers before 4.45)", unit="bytes")
def prompt_logits_bytes(*, batch: Any, tokens: Any, vocab: Any, bytes_per_logit: Any = 6) -> Any:
    """Logits of every token of a prompt; only the last one's are used.

    >>> round(prompt_logits_bytes(batch=1, tokens=30720, vocab=151936) / 2**30, 1)
    26.1
    """
    return batch * tokens * vocab * bytes_per_logit


@checked(prompt_tokens=whole(0), new_tokens=whole(0))
def generation_memory(
    spec: ModelSpec,
    *,
    number_format: str = "bf16",
    kv_format: str = "bf16",
    batch: int = 1,
    prompt_tokens: int,
    new_tokens: int,
    reserved_tokens: int = 0,
    devices: int = 1,
    attention: str = "flash",
    prompt_logits: bool = False,
) -> Estimate:
    """Tensors at the fullest moment of one call of `generate` (transformers, LitGPT, AutoAWQ), over all devices.

    batch                       sequences, all of the same length
    prompt_tokens, new_tokens   of each
    reserved_tokens             tokens of a cache that is made before the prompt comes; 0: it grows with the sequence
    devices                     devices that the layers are dealt over, one after another: each has its own workspace
    attention                   flash, or eager: with the matrix of scores
    prompt_logits               the head is applied to the whole prompt, as transformers did before 4.45

    The moment is either the prompt's pass or the last token's.

    >>> from llmhw import model
    >>> round(generation_memory(model("qwen2.5-7b"), prompt_tokens=30720, new_tokens=2048).total / 2**30, 1)
    19.9
    """
    check_choice("attention", attention, ATTENTION)
    batch = check_count("batch", batch)
    prompt, new = check_count("prompt_tokens", prompt_tokens, 0), check_count("new_tokens", new_tokens, 0)
    held = Part("weights", tuple(t for part in weights(spec, number_format) for t in part.terms))

    def cache(tokens: int) -> list[Part]:
        room = max(tokens, reserved_tokens)
        if not room:
            return []
        found = kv_cache(spec, batch=batch, seq_len=room, kv_format=kv_format)
        return [Part("KV cache", tuple(t for part in found for t in part.terms))]

    moments = {"the last token": [held, *cache(prompt + new)]}
    workspace = prompt_workspace(
        spec, tokens=prompt, batch=batch, devices=devices, attention=attention, prompt_logits=prompt_logits
    )
    if workspace.terms:
        moments[workspace.note] = [held, *cache(prompt), workspace]
    title = said(
        "generation by {name}: batch {batch}, {prompt} + {new} tokens",
        name=spec.name,
        batch=batch,
        prompt=prompt,
        new=new,
    )
    found = (Estimate(title, "bytes", tuple(parts), name) for name, parts in moments.items())
    return max(found, key=lambda e: float(e.total))


@checked(tokens=whole(0))
def prompt_workspace(
    spec: ModelSpec,
    *,
    tokens: int,
    batch: int = 1,
    devices: int = 1,
    attention: str = "flash",
    prompt_logits: bool = False,
) -> Part:
    """What a prompt's pass holds for a moment: its feed-forward part, attention or head, whichever needs most.

    tokens   of each prompt; the other arguments are those of `generation_memory`
    """
    check_choice("attention", attention, ATTENTION)
    if not tokens:
        return Part("activations", ())
    hidden = spec.hidden
    widest = max(feed_forward_width(layer, hidden) for layer, _ in spec.layer_kinds)
    sizes: dict[str, Any] = {"tokens": batch * tokens, "hidden": hidden}
    forward = term(forward_workspace_bytes, "the widest block", devices, feed_forward=widest, residuals=4, **sizes)
    moments: dict[str, tuple[Term, ...]] = {"the prompt's widest block": (forward,)}
    if attention == "eager":
        # scores and their masked copy in 16 bit, probabilities in fp32 and in 16 bit
        scores = term(
            score_matrix_bytes,
            "scores and probabilities",
            devices,
            batch=batch,
            heads=spec.heads,
            queries=tokens,
            keys=tokens,
            bytes_per_element=2 + 2 + 4 + 2,
        )
        vectors = term(forward_workspace_bytes, "vectors beside them", devices, feed_forward=0, residuals=8, **sizes)
        moments["the prompt's attention"] = (scores, vectors)
    if prompt_logits:
        logits = term(prompt_logits_bytes, "logits of the prompt", batch=batch, tokens=tokens, vocab=spec.head_shape[0])
        last = term(forward_workspace_bytes, "hidden states", feed_forward=0, residuals=2, **sizes)
        moments["the prompt's logits"] = (logits, last)
    note, terms = max(moments.items(), key=lambda item: sum(float(t.value) for t in item[1]))
    return Part("activations", terms, note)
