"""llama.cpp and what is built on it: the cells of its cache, its compute buffers, what lies on devices and in the host.

Everything is allocated when it starts, for n_ctx cells. Sources: ggml-org/llama.cpp, src/llama-kv-cache.cpp,
src/llama-kv-cache-iswa.cpp, src/llama-memory-recurrent.cpp, src/llama-model.cpp (`load_tensors`), ggml/src/ggml-alloc.c
and ggml/src/ggml-backend.cpp, and start-up logs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from llmhw.formula import Estimate, Term, formula, term
from llmhw.job import ServingJob
from llmhw.memory import kv_cache_bytes, latent_cache_bytes, linear_state_bytes, weights
from llmhw.model import Attention, Layer, ModelSpec, Tensor
from llmhw.precision import number_format
from llmhw.units import ceil_div, maximum, minimum

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
    source="ggml's graph allocator: scores of all heads and their mask in fp32, and four hidden states", unit="bytes"
)
def attention_buffer_bytes(*, batch: Any, cells: Any, heads: Any, hidden: Any, mask: Any = 4) -> Any:
    """What a layer's attention needs of the compute buffer.

    cells   that a token may see: those of a slot
    heads   query heads whose scores are held; 0 where attention is fused
    mask    bytes of the mask for each token and cell: 4; 6 where attention is fused (fp32, and its copy in fp16)

    Logs of Llama 3 8B at 8,192 cells and of Llama 2 7B at 4,096 have 560 and 296 MiB.

    >>> attention_buffer_bytes(batch=512, cells=8192, heads=32, hidden=4096) / 2**20
    560.0
    >>> attention_buffer_bytes(batch=512, cells=4096, heads=32, hidden=4096) / 2**20
    296.0
    """
    return batch * (cells * (heads * 4 + mask) + 4 * hidden * 4)


@formula(source="ggml's graph allocator: outputs of a token's experts and what they are made of, fp32", unit="bytes")
def expert_buffer_bytes(*, batch: Any, used: Any, feed_forward: Any, hidden: Any, copied: Any = 0) -> Any:
    """What a layer's experts need of the compute buffer.

    used     experts of a token
    copied   bytes of a stack of experts, where these lie in host memory and are computed on the device

    >>> expert_buffer_bytes(batch=512, used=8, feed_forward=768, hidden=2048) / 2**20
    52.0
    """
    return batch * (used * (feed_forward + hidden) + 2 * hidden) * 4 + copied


@formula(source="ggml-backend.cpp: embeddings of a micro-batch and the mask of its attention, fp32", unit="bytes")
def staging_buffer_bytes(*, batch: Any, hidden: Any, cells: Any) -> Any:
    """What is written in host memory for the devices to read: the log's CUDA_Host compute buffer.

    >>> staging_buffer_bytes(batch=512, hidden=6144, cells=32768) / 2**20  # a log of GLM-4 32B: 76.01 MiB
    76.0
    """
    return batch * (hidden + cells) * 4


# -- the cache --------------------------------------------------------------------------------

# Cells come in steps of 256, since kernels of attention read whole tiles.
STEP = 256


def cell_count(tokens: int) -> int:
    """Cells of a slot for so many tokens."""
    return -(-tokens // STEP) * STEP


def span(spec: ModelSpec, attention: Attention) -> int | None:
    """The window or chunk that llama.cpp and MLX honour: only in models that have layers without one, too.

    Where every layer has the window (Mistral 7B v0.1, Phi-3 mini), their graphs attend to everything and keep it.
    """
    kinds = [layer.attention for layer, _ in spec.layer_kinds if layer.attention]
    return attention.span if any(a.span is None for a in kinds) else None


def cache_terms(
    spec: ModelSpec,
    *,
    tokens: int,
    slots: int = 1,
    micro_batch: int = 512,
    keys: str = "fp16",
    values: str = "",
    full: bool = False,
    layers: Iterable[int] | None = None,
    ranks: int = 1,
) -> list[Term]:
    """The cache of some layers: cells for `tokens` in each slot, a state of each.

    keys, values   formats of the two; "": values as keys
    full           layers with a window keep all cells (--swa-full, versions before May 2025)
    ranks          devices that share it; with rows split over devices the first has it all

    Keys and values of every cell; the latent alone of multi-head latent attention; recurrent states in fp32.
    """
    cells = cell_count(tokens)
    bits = [number_format(name).bits_per_weight for name in (keys, values or keys)]
    found: list[Term] = []
    for layer, count in spec.layer_kinds if layers is None else spec.kinds_of(list(layers)):
        a, linear = layer.attention, layer.linear_attention
        if a and a.causal and not a.shared:
            window = None if full else span(spec, a)
            kept = cells if window is None else window_cells(cells=cells, window=window, micro_batch=micro_batch)
            sizes: dict[str, Any] = {"batch": slots, "tokens": kept}
            if a.latent:
                one = term(latent_cache_bytes, "latents", count, **sizes, latent=a.latent, bits_per_element=bits[0])
                found.append(one)
            else:
                heads = sizes | {"kv_heads": ceil_div(a.kv_heads, ranks)}
                key = {"head_dim": a.head_dim, "v_head_dim": 0, "bits_per_element": bits[0]}
                value = {"head_dim": 0, "v_head_dim": a.v_head_dim, "bits_per_element": bits[1]}
                label = "" if window is None else " within the window"
                found.append(term(kv_cache_bytes, f"keys{label}", count, **heads, **key))
                found.append(term(kv_cache_bytes, f"values{label}", count, **heads, **value))
        if linear:
            state = term(linear_state_bytes, "states", count, batch=slots, **linear.kept(1), bits_per_element=32)
            found.append(state)
    return found


# -- where the weights lie --------------------------------------------------------------------


def layers_on(job: ServingJob, stage: int) -> range:
    """Numbers of the layers on a device: the last ones of -ngl, dealt evenly; the head counts as a layer, the last."""
    total = job.model.num_layers + 1
    held = total if job.gpu_layers is None else min(job.gpu_layers, total)
    first = total - held
    bounds = [first + -(-held * i // job.pp) for i in (stage, stage + 1)]
    return range(bounds[0], min(bounds[1], total - 1)) if held else range(0)


def _head_on_device(job: ServingJob) -> bool:
    return job.gpu_layers is None or job.gpu_layers > 0


def _head(spec: ModelSpec) -> list[Tensor]:
    """The final norm and the head; a tied one is loaded once more."""
    before = [t for t in spec.tensors if t.component == "embedding" or t.part == "embedding_norm"]
    behind = [t for t in spec.tensors if t not in before]
    return behind + [t for t in before if spec.tied and t.part == "tokens"]


def _expert_tensors(layer: Layer) -> list[Tensor]:
    return [t for t in layer.tensors if t.component == "experts" and t.experts > 1]


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
        held += [(t, 1) for t in _head(job.model)]
    return held


def host_tensors(job: ServingJob) -> list[tuple[Tensor, int]]:
    """Tensors in host memory: the embedding, layers that are on no device, and experts that --n-cpu-moe leaves there."""
    spec = job.model
    held = [(t, 1) for t in spec.tensors if t.component == "embedding" or t.part == "embedding_norm"]
    first = layers_on(job, 0).start if _head_on_device(job) else spec.num_layers
    for layer, count in spec.kinds_of(range(first)) if first else ():
        held += [(t, count) for t in layer.tensors]
    moved = range(first, min(job.cpu_moe, spec.num_layers))
    for layer, count in spec.kinds_of(moved) if moved else ():
        held += [(t, count) for t in _expert_tensors(layer)]
    return held if _head_on_device(job) else held + [(t, 1) for t in _head(spec) if not spec.tied]


def _stored(job: ServingJob, tensors: list[tuple[Tensor, int]]) -> float:
    return float(weights(job.model, job.weights, tensors=tensors).total) if tensors else 0.0


# -- buffers ----------------------------------------------------------------------------------


def fused(job: ServingJob) -> bool:
    """Whether attention is fused: -fa auto is on wherever there is a kernel."""
    return job.flash_attention is not False


def micro_batch(job: ServingJob) -> int:
    """n_ubatch, at most n_batch."""
    return min(job.max_batched_tokens, job.n_batch or job.max_batched_tokens)


def compute_terms(job: ServingJob, stage: int, tokens: int) -> list[Term]:
    """The compute buffer of a device for cells of so many tokens a slot: the largest of what it needs in turn.

    Experts in host memory are computed on the device where a micro-batch gives each of them 32 tokens or more; then a
    stack of them is copied.
    """
    spec, batch = job.model, micro_batch(job)
    cells, hidden = cell_count(tokens), spec.hidden
    sizes: dict[str, Any] = {"batch": batch, "hidden": hidden}
    heads = 0 if fused(job) else max((a.heads for a in _attentions(spec)), default=0)
    mask = 6 if fused(job) else 4
    found = [term(attention_buffer_bytes, "attention", cells=cells, heads=heads, mask=mask, **sizes)]
    experts = [t for layer, _ in spec.layer_kinds for t in _expert_tensors(layer) if t.part == "down"]
    if experts:
        largest = max(experts, key=lambda t: t.numel)
        copied = 0.0
        if job.cpu_moe and batch * largest.used >= 32 * largest.experts:
            copied = _stored(job, [(largest, 1)])
        one = {"used": largest.used, "feed_forward": largest.into, "copied": copied}
        found.append(term(expert_buffer_bytes, "experts", **sizes, **one))
    if stage == job.pp - 1:
        copied = 0.0 if _head_on_device(job) else _stored(job, [(t, 1) for t in _head(spec) if t.matmul or spec.tied])
        found.append(term(compute_buffer_bytes, "logits", vocab=spec.head_shape[0], copied=copied, **sizes))
    return [max(found, key=lambda t: float(t.value))]


def _attentions(spec: ModelSpec) -> list[Attention]:
    return [layer.attention for layer, _ in spec.layer_kinds if layer.attention]


def host_memory(job: ServingJob, tokens: int) -> Estimate:
    """What the host must hold: weights that are on no device, their layers' cache, and what devices read from it."""
    spec = job.model
    held = [t for part in weights(spec, job.weights, tensors=host_tensors(job)) for t in part.terms]
    first = layers_on(job, 0).start if _head_on_device(job) else spec.num_layers
    parts: dict[str, list[Term]] = {"weights": held}
    if first:
        parts["KV cache"] = cache_terms(spec, layers=range(first), **cache_options(job, tokens))
    sizes: dict[str, Any] = {"batch": micro_batch(job), "hidden": spec.hidden, "cells": cell_count(tokens)}
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
        "full": job.swa_full,
    }


def read_per_token(job: ServingJob) -> tuple[float, float]:
    """Bytes of weights that one token reads from a device's memory and from the host's, over all devices.

    Of experts, those that a token uses.
    """

    def active(tensors: Iterable[tuple[Tensor, int]]) -> list[tuple[Tensor, Any]]:
        return [(t, n * t.active / t.numel) for t, n in tensors if t.matmul]

    device = [pair for i in range(job.pp) for pair in device_tensors(job, i)]
    return _stored(job, active(device)), _stored(job, active(host_tensors(job)))


__all__ = ["cache_options", "cache_terms", "compute_terms", "device_tensors", "host_memory", "read_per_token"]
