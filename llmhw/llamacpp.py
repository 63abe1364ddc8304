"""llama.cpp and what is built on it: the cells of its cache, its compute buffers, what lies on devices and in the host.

Everything is allocated when it starts, for n_ctx cells. Sources: ggml-org/llama.cpp, src/llama-kv-cache.cpp,
src/llama-kv-cache-iswa.cpp, src/llama-memory-recurrent.cpp, src/llama-model.cpp (`load_tensors`), ggml/src/ggml-alloc.c
and ggml/src/ggml-backend.cpp, and start-up logs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmhw.formula import Estimate, Term, formula, term
from llmhw.job import ServingJob
from llmhw.memory import kept_by, kv_cache_bytes, latent_cache_bytes, linear_state_bytes, weights
from llmhw.model import Attention, Layer, ModelSpec, Tensor
from llmhw.precision import number_format
from llmhw.units import ceil_div, minimum

# -- formulas ---------------------------------------------------------------------------------


@formula(source="llama-kv-cache-iswa.cpp: the window and a micro-batch, in steps of 256 cells", unit="count")
def window_cells(*, cells: Any, window: Any, micro_batch: Any, step: Any = 256) -> Any:
    """Cells of a layer with a sliding window, for one slot.

    cells        of a layer without one: n_ctx
    micro_batch  n_ubatch: its tokens are written before the oldest are let go

    >>> window_cells(cells=32768, window=1024, micro_batch=512)
    1536
    """
    return minimum(cells, ceil_div(window + micro_batch, step) * step)


@formula(
    source="ggml's graph allocator: fp32 logits of a micro-batch beside the last hidden states, and the head where it "
    "comes from host memory",
    unit="bytes",
)
def compute_buffer_bytes(*, batch: Any, vocab: Any, hidden: Any, states: Any = 1, copied: Any = 0) -> Any:
    """llama.cpp's compute buffer on the device that has the head, where attention is fused.

    batch    tokens of a micro-batch (n_ubatch)
    states   hidden states beside the logits: 1; in ik_llama.cpp 2
    copied   bytes of the head, where it lies in host memory

    A log of gpt-oss-20b has 398.38 MiB.

    >>> compute_buffer_bytes(batch=512, vocab=201088, hidden=2880) / 2**20
    398.375
    """
    return batch * (vocab + states * hidden) * 4 + copied


@formula(
    source="ggml's graph allocator: scores of all heads and their mask, queries and three hidden states, fp32",
    unit="bytes",
)
def attention_buffer_bytes(*, batch: Any, cells: Any, heads: Any, queries: Any, hidden: Any, mask: Any = 4) -> Any:
    """What a layer's attention needs of the compute buffer.

    cells     that a token may see: those of a slot
    heads     query heads whose scores are held; 0 where attention is fused
    queries   elements of a token's queries, and of its keys and values where these are made of latents
    mask      bytes of the mask for each token and cell: 4; 6 where attention is fused (fp32, and its copy in fp16)

    Logs of Llama 3 8B at 8,192 cells and of Llama 2 7B at 4,096 have 560 and 296 MiB.

    >>> attention_buffer_bytes(batch=512, cells=8192, heads=32, queries=4096, hidden=4096) / 2**20
    560.0
    >>> attention_buffer_bytes(batch=512, cells=4096, heads=32, queries=4096, hidden=4096) / 2**20
    296.0
    """
    return batch * (cells * (heads * 4 + mask) + (queries + 3 * hidden) * 4)


@formula(source="ggml's graph allocator: queries of multi-head latent attention, turned to latents, fp32", unit="bytes")
def latent_buffer_bytes(
    *, batch: Any, heads: Any, head_dim: Any, latent: Any, rank: Any, hidden: Any, cells: Any = 0, mask: Any = 0
) -> Any:
    """What a layer of multi-head latent attention needs of the compute buffer, where it works on latents.

    head_dim       of a query as it comes from its matrix
    latent, rank   elements cached for a token, and those of them without the rotary key
    cells, mask    where attention is not fused, whose scores are held, and bytes of the mask for each; else 0

    Queries, the same in latents, both with their rotary part, latents that come out, two hidden states. A log of
    DeepSeek R1 has 476 MiB.

    >>> sizes = {"heads": 128, "head_dim": 192, "latent": 576, "rank": 512, "hidden": 7168}
    >>> latent_buffer_bytes(batch=512, **sizes) / 2**20
    476.0
    """
    return batch * (heads * (head_dim + rank + latent + rank + cells) + 2 * hidden) * 4 + batch * cells * mask


@formula(source="ggml's graph allocator: outputs of a token's experts and what they are made of, fp32", unit="bytes")
def expert_buffer_bytes(*, batch: Any, used: Any, feed_forward: Any, hidden: Any, copied: Any = 0) -> Any:
    """What a layer's experts need of the compute buffer.

    used     experts of a token
    copied   bytes of a stack of experts, where these lie in host memory and are computed on the device

    >>> expert_buffer_bytes(batch=512, used=8, feed_forward=768, hidden=2048) / 2**20
    48.0
    """
    return batch * (used * (feed_forward + hidden) + hidden) * 4 + copied


@formula(source="ggml-backend.cpp: embeddings of a micro-batch and the mask of its attention, fp32", unit="bytes")
def staging_buffer_bytes(*, batch: Any, hidden: Any, cells: Any, copies: Any = 1) -> Any:
    """What is written in host memory for the devices to read: the log's CUDA_Host compute buffer.

    hidden   elements of a token: one hidden state, two in versions of 2026; all its experts' where the host has them
    copies   of the mask: 4 where several devices work as a pipeline (all layers on devices, split by layer)

    >>> staging_buffer_bytes(batch=512, hidden=6144, cells=32768) / 2**20  # a log of GLM-4 32B: 76.01 MiB
    76.0
    """
    return batch * (hidden + copies * cells) * 4


# -- the cache --------------------------------------------------------------------------------

# Cells come in steps of 256, since kernels of attention read whole tiles.
STEP = 256


def cell_count(tokens: int) -> int:
    """Cells of a slot for so many tokens."""
    return -(-tokens // STEP) * STEP


def cache_terms(
    spec: ModelSpec,
    *,
    tokens: int,
    slots: int = 1,
    micro_batch: int = 512,
    keys: str = "fp16",
    values: str = "",
    second: bool = False,
    sharing: int = 1,
    layers: Iterable[int] | None = None,
) -> list[Term]:
    """The cache of some layers: cells for `tokens` in each slot, a state of each.

    spec           as the engine keeps it: `llmhw.memory.kept_by`
    keys, values   formats of the two; "": values as keys
    second         of multi-head latent attention the latent without its rotary key is cached again, as values
    sharing        sequences that share the cells of a slot (--kv-unified): each has a window and a state of its own

    Keys and values of every cell, or latents; recurrent states in fp32. Rows that are split over devices (--split-mode
    row) leave the cache whole on the first.
    """
    cells = cell_count(tokens)
    bits = [number_format(name).bits_per_weight for name in (keys, values or keys)]
    found: list[Term] = []
    for layer, count in spec.layer_kinds if layers is None else spec.kinds_of(list(layers)):
        a, linear = layer.attention, layer.linear_attention
        if a and a.causal and not a.shared:
            window, kept = a.span, cells
            if window is not None:
                kept = window_cells(cells=cells, window=window * sharing, micro_batch=micro_batch)
            sizes: dict[str, Any] = {"batch": slots, "tokens": kept}
            if a.latent:
                one = term(latent_cache_bytes, "latents", count, **sizes, latent=a.latent, bits_per_element=bits[0])
                found.append(one)
                if second:
                    low_rank: dict[str, Any] = {"latent": latent_rank(a), "bits_per_element": bits[1]}
                    found.append(term(latent_cache_bytes, "latents as values", count, **sizes, **low_rank))
            else:
                heads = sizes | {"kv_heads": a.kv_heads}
                key: dict[str, Any] = {"head_dim": a.head_dim, "v_head_dim": 0, "bits_per_element": bits[0]}
                value: dict[str, Any] = {"head_dim": 0, "v_head_dim": a.v_head_dim, "bits_per_element": bits[1]}
                label = "" if window is None else " within the window"
                found.append(term(kv_cache_bytes, f"keys{label}", count, **heads, **key))
                found.append(term(kv_cache_bytes, f"values{label}", count, **heads, **value))
        if linear:
            # a convolution's inputs without the token at hand
            sizes = linear.kept(1) | {"kernel": max(0, linear.conv_kernel - 1), "bits_per_element": 32}
            sizes["batch"] = slots * sharing
            found.append(term(linear_state_bytes, "states", count, **sizes))
    return found


# -- where the weights lie --------------------------------------------------------------------


def layers_on(job: ServingJob, stage: int) -> range:
    """Numbers of the layers on a device: the last ones of -ngl, dealt evenly; the head counts as a layer."""
    total = job.model.num_layers + 1
    held = total if job.gpu_layers is None else min(job.gpu_layers, total)
    first = total - held - (held < total and not job.software.head_first)
    bounds = [first + -(-held * i // job.pp) for i in (stage, stage + 1)]
    return range(max(0, bounds[0]), min(bounds[1], total - 1)) if held else range(0)


def _head_on_device(job: ServingJob) -> bool:
    if job.gpu_layers is None or job.gpu_layers > job.model.num_layers:
        return True
    return job.software.head_first and job.gpu_layers > 0


def _first(job: ServingJob) -> int:
    """How many layers lie in host memory, the first ones."""
    return job.model.num_layers if job.gpu_layers == 0 else layers_on(job, 0).start


def head_tensors(spec: ModelSpec) -> list[tuple[Tensor, int]]:
    """The final norm and the head; a tied one is loaded once more."""
    before = [t for t in spec.tensors if t.component == "embedding" or t.part == "embedding_norm"]
    behind = [t for t in spec.tensors if t not in before]
    return [(t, 1) for t in behind + [t for t in before if spec.tied and t.part == "tokens"]]


def _expert_tensors(layer: Layer) -> list[Tensor]:
    return [t for t in layer.tensors if t.component == "experts" and t.experts > 1]


def expert_stacks(spec: ModelSpec) -> list[Tensor]:
    """The matrices that lead out of the experts, each a stack."""
    return [t for layer, _ in spec.layer_kinds for t in _expert_tensors(layer) if t.part == "down"]


def _kept_in_host(job: ServingJob, number: int) -> bool:
    """Whether the experts of a layer stay in host memory: --n-cpu-moe takes them from the first layers."""
    return number < job.cpu_moe


def device_tensors(job: ServingJob, stage: int) -> list[tuple[Tensor, int]]:
    """Tensors on a device, whole: those of its layers, less experts that stay in host memory, and behind them the head.

    The token embedding is read by row and stays in host memory.
    """
    held: list[tuple[Tensor, int]] = []
    for wanted in (False, True):
        numbers = [i for i in layers_on(job, stage) if _kept_in_host(job, i) is wanted]
        for layer, count in job.model.kinds_of(numbers) if numbers else ():
            away = _expert_tensors(layer) if wanted else []
            held += [(t, count) for t in layer.tensors if t not in away]
    if stage == job.pp - 1 and _head_on_device(job):
        held += head_tensors(job.model)
    return held


def host_tensors(job: ServingJob) -> list[tuple[Tensor, int]]:
    """Tensors in host memory: the embedding, layers on no device, and experts that --n-cpu-moe leaves there."""
    spec = job.model
    held = [(t, 1) for t in spec.tensors if t.component == "embedding" or t.part == "embedding_norm"]
    first = _first(job)
    for layer, count in spec.kinds_of(range(first)) if first else ():
        held += [(t, count) for t in layer.tensors]
    moved = range(first, min(job.cpu_moe, spec.num_layers))
    for layer, count in spec.kinds_of(moved) if moved else ():
        held += [(t, count) for t in _expert_tensors(layer)]
    return held if _head_on_device(job) or spec.tied else held + head_tensors(spec)


def _stored(job: ServingJob, tensors: list[tuple[Tensor, int]]) -> float:
    return float(weights(job.model, job.weights, tensors=tensors).total) if tensors else 0.0


# -- buffers ----------------------------------------------------------------------------------


def fused(job: ServingJob) -> bool:
    """Whether attention is fused: -fa auto is on wherever there is a kernel; a quantized cache of values needs it."""
    if job.flash_attention is None:
        return job.software.flash or number_format(job.kv_v or job.kv).bits < 16
    return job.flash_attention


def kept(job: ServingJob) -> ModelSpec:
    """The model with the cache that this version keeps."""
    return kept_by(job.model, "none" if job.swa_full else job.software.windows, job.software.latent)


def micro_batch(job: ServingJob) -> int:
    """n_ubatch, at most n_batch."""
    return min(job.max_batched_tokens, job.n_batch or job.max_batched_tokens)


def _seen(job: ServingJob, tokens: int) -> int:
    """Cells that a token attends to, its own or not: what does not count is masked."""
    return cell_count(tokens) * (1 if job.software.streams else job.max_sequences)


def compute_terms(job: ServingJob, stage: int, tokens: int) -> list[Term]:
    """The compute buffer of a device for cells of so many tokens a slot: the largest of what it needs in turn.

    Experts in host memory are computed on the device where a micro-batch gives each of them 32 tokens or more; then a
    stack of them is copied.
    """
    spec, batch = job.model, micro_batch(job)
    cells, hidden = _seen(job, tokens), spec.hidden
    sizes: dict[str, Any] = {"batch": batch, "hidden": hidden}
    found = [
        attention_term(layer.attention, cells, fused(job), sizes, _queries(layer))
        for layer, _ in kept(job).layer_kinds
        if layer.attention
    ]
    experts = expert_stacks(spec)
    if experts:
        largest = max(experts, key=lambda t: t.numel)
        copied = 0.0
        if job.cpu_moe and batch * largest.used >= 32 * largest.experts:
            copied = _stored(job, [(largest, 1)])
        one: dict[str, Any] = {"used": largest.used, "feed_forward": largest.into, "copied": copied}
        found.append(term(expert_buffer_bytes, "experts", **sizes, **one))
    if stage == job.pp - 1 or not found:
        copied = 0.0 if _head_on_device(job) else _stored(job, head_tensors(spec))
        found.append(term(compute_buffer_bytes, "logits", vocab=spec.head_shape[0], copied=copied, **sizes))
    return [max(found, key=lambda t: float(t.value))]


def _queries(layer: Layer) -> int:
    """Elements of a token's queries as they come from their matrix, with a gate where they have one."""
    return sum(t.out for t in layer.tensors if t.part == "q" and t.matmul)


def attention_term(a: Attention, cells: int, fused: bool, sizes: dict[str, Any], queries: int = 0) -> Term:
    """The moment of a layer's attention in the compute buffer; `queries`: elements of a token, if they have a gate."""
    if a.kind == "mla":
        given: dict[str, Any] = {"heads": a.heads, "head_dim": a.head_dim, "latent": a.latent, "rank": latent_rank(a)}
        given |= {"cells": 0, "mask": 0} if fused else {"cells": cells, "mask": 4}
        return term(latent_buffer_bytes, "attention", **given, **sizes)
    # heads of unlike keys and values are made of latents
    made = 2 * a.v_head_dim if a.head_dim != a.v_head_dim else 0
    given = {"heads": 0, "mask": 6} if fused else {"heads": a.heads, "mask": 4}
    given |= {"cells": cells, "queries": max(queries, a.heads * (a.head_dim + made))}
    return term(attention_buffer_bytes, "attention", **given, **sizes)


def latent_rank(a: Attention) -> int:
    """Elements of a latent without its rotary key."""
    return a.latent - (a.head_dim - a.v_head_dim)


def host_memory(job: ServingJob, tokens: int) -> Estimate:
    """What the host must hold: weights that are on no device, their layers' cache, and what devices read from it."""
    spec = job.model
    held = [t for part in weights(spec, job.weights, tensors=host_tensors(job)) for t in part.terms]
    first = _first(job)
    parts: dict[str, list[Term]] = {"weights": held}
    if first:
        parts["KV cache"] = cache_terms(kept(job), layers=range(first), **cache_options(job, tokens))
    hidden = job.software.staged * spec.hidden
    sizes: dict[str, Any] = {"batch": micro_batch(job), "hidden": hidden, "cells": _seen(job, tokens)}
    if job.pp > 1 and not first and not job.cpu_moe:
        sizes["copies"] = 4
    parts["compute"] = [term(staging_buffer_bytes, "embeddings and mask", **sizes)]
    return Estimate.of(f"host memory of {spec.name}", "bytes", parts)


def cache_options(job: ServingJob, tokens: int, slots: int | None = None) -> dict[str, Any]:
    """Arguments of `cache_terms` for a job."""
    return {
        "tokens": tokens,
        "slots": job.max_sequences if slots is None else slots,
        "micro_batch": micro_batch(job),
        "keys": job.kv,
        "values": job.kv_v or "",
        "second": job.software.latent == "both",
        "sharing": 1 if job.was_asked("max_sequences") else job.software.sharing,
    }


def read_per_token(job: ServingJob) -> tuple[float, float]:
    """Bytes of weights that one token reads from a device's memory and from the host's, over all devices.

    Of experts, those that a token uses.
    """

    def active(tensors: Iterable[tuple[Tensor, int]]) -> list[tuple[Tensor, Any]]:
        return [(t, n * t.active / t.numel) for t, n in tensors if t.matmul]

    device = [pair for i in range(job.pp) for pair in device_tensors(job, i)]
    return _stored(job, active(device)), _stored(job, active(host_tensors(job)))
