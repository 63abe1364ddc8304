"""Memory of inference beside published measurements: peaks of generation, vLLM's cache, llama.cpp's buffers.

A row of the last two tables holds several measured values. `each_value` makes one row of each, and its column
`quantity` says which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from llmhw import llamacpp
from llmhw.catalog import read_calibration
from llmhw.formula import formula
from llmhw.hardware import Accelerator, Cluster, accelerator
from llmhw.job import ServingJob
from llmhw.memory import kept_by, kv_cache, state_bytes, weights, whole_towers
from llmhw.model import ModelSpec
from llmhw.precision import model_bits_per_weight, number_format, stored_weight_bytes, weight_bytes
from llmhw.serving import (
    generation_memory,
    growing_cache_bytes,
    prompt_workspace,
    serving_memory,
)
from llmhw.units import GIB, MIB, LLMHWError, where
from llmhw.validation.statistics import Prediction
from llmhw.validation.table import Row

# -- peaks of generation ----------------------------------------------------------------------

INFERENCE_CONSTANTS = ("reserved_over_allocated", "reserved_beside_bytes", "workspace_bytes")


def predict_inference(row: Row, *, calibration: Mapping[str, Any] | None = None) -> Prediction:
    """Peak bytes of one call of `generate`, over all devices, with the meter that was read."""
    constants = read_calibration("serving_memory") if calibration is None else calibration
    program = _program(row)
    if program not in _INFERENCE:
        raise row.error("program", f"one of {', '.join(_INFERENCE)}")
    meter, parts = _INFERENCE[program](row, constants)
    unit = row.positive("unit_bytes", MIB if row["mem_unit_in_source"] == "MiB" else GIB)
    measured = row.positive("peak_mem_gb") * unit * (row.count("n_gpus") if row["mem_scope"] == "device" else 1)
    return Prediction(predicted=sum(parts.values()), measured=measured, unit="bytes", meter=meter, parts=parts)


def _program(row: Row) -> str:
    """Whose memory it is: `program`, or what begins the engine's name."""
    word = row["engine"].casefold()
    return row["program"] or next((name for name in _INFERENCE if word.startswith(name)), "")


def _llama_cpp(row: Row, constants: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """llama.cpp: what it allocates when it starts, for cells of the prompt and the answer."""
    devices = row.count("n_gpus", most=10**4)
    build = re.search(r"\bb\d+", row["engine"])
    job = ServingJob(
        model=row.spec(),
        cluster=Cluster(row.device(usual=True) if row["gpu"] else "H100 SXM5 80GB", devices),
        engine=f"llama.cpp:{build[0]}" if build else "llama.cpp",
        weights=row.number_format(),
        kv={"f16": "fp16", "": "fp16"}.get(row["kv_dtype"].casefold(), row["kv_dtype"]),
        n_ctx=row.count("isl", 0, least=0) + row.count("osl", 0, least=0),
        max_sequences=row.count("batch", most=10**6),
        max_batched_tokens=row.count("n_ubatch", 512),
        flash_attention=row.flag("flash_attn"),
    )
    found = serving_memory(job)
    parts: dict[str, float] = {"cache": 0.0}
    for number, stage in enumerate(found.stages):
        parts["cache"] += float(found.cache_bytes(found.job.context_limit, number, sequences=found.job.max_sequences))
        for part in stage:
            parts[part.name] = parts.get(part.name, 0.0) + float(part.value)
    if "Vulkan" in row["engine"] and "GTT" in row["mem_kind"]:  # whose host buffers are in the same memory
        parts["host"] = float(llamacpp.host_memory(job, job.context_limit).total)
    return "whole device", parts


def _shape(row: Row) -> dict[str, int]:
    return {
        "batch": row.count("batch", most=10**6),
        "tokens": row.count("isl", 0, least=0),
        "devices": row.count("n_gpus", most=10**4),
    }


def _autoawq(row: Row, constants: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """Fused layers with eager attention. The cache has room for the answer, and the prompt fills it."""
    spec, chosen, shape = row.spec(), row.number_format(), _shape(row)
    room = row.count("osl", None)
    found = generation_memory(
        spec,
        number_format=chosen,
        kv_format="fp16",
        batch=shape["batch"],
        prompt_tokens=shape["tokens"],
        new_tokens=0,
        reserved_tokens=room,
        devices=shape["devices"],
        attention="eager",
    )
    # The head of a tied model is a copy in the file; q, k and v are whole beside their fusion, and that comes first
    head = _embedding_bytes(spec) if spec.model_type == "falcon" else 0.0
    fuses = row.flag("fused_layers") is not False
    separate = [(t, n) for t, n in spec.all_tensors() if t.part in ("q", "k", "v") and fuses]
    fusing = float(weights(spec, chosen, tensors=separate).total) if separate else 0.0
    cached = float(found["KV cache"])
    parts = {"weights": float(found["weights"]) + head, "cache": cached}
    parts["moment"] = max(float(found.total) - float(found["weights"]) - cached, fusing)
    return "allocated", parts | {"workspaces": constants["workspace_bytes"] * shape["devices"]}


def _embedding_bytes(spec: ModelSpec) -> float:
    """The token embedding once more, in 16 bit."""
    elements = sum(t.numel for t in spec.tensors if t.part == "tokens")
    return float(state_bytes(elements=elements, bytes_per_element=2))


def _transformers(row: Row, constants: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """transformers: the cache grows with the sequence."""
    meter = row["meter"] or row["mem_kind"]
    if meter == "unknown" and row["engine"].startswith("transformers"):
        # since 4.45 only the last token's logits are made, and published readings are of what is allocated
        found = re.search(r"transformers (\d+)\.(\d+)", row["engine"])
        recent = (int(found[1]), int(found[2])) >= (4, 45) if found else False
        meter = "allocated" if recent else "reserved"
        row = row.with_cells(prompt_logits=row["prompt_logits"] or str(not recent).lower())
    if meter not in ("allocated", "reserved"):
        raise row.error("mem_kind", "allocated or reserved")
    return (_allocated if meter == "allocated" else _reserved)(row, constants)


def _allocated(row: Row, constants: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    spec, chosen, shape = row.spec(), row.number_format(), _shape(row)
    # read when the answer was done, the prompt's activations had gone
    at_end = row["read_at"] == "end"
    found = generation_memory(
        spec,
        number_format=chosen,
        kv_format=row["kv_dtype"] or "bf16",
        batch=shape["batch"],
        prompt_tokens=shape["tokens"],
        new_tokens=row.count("osl", 0, least=0),
        devices=shape["devices"],
        prompt_logits=bool(row.flag("prompt_logits")),
    )
    parts = {part.name: float(part.value) for part in found}
    if at_end:
        parts = {"weights": parts["weights"], "KV cache": _cached(row, spec, shape)}
    if spec.tied and chosen == "fp8":
        # those files hold the head beside the embedding
        parts["head"] = _embedding_bytes(spec)
    if spec.tied and chosen == "int4-awq" and not at_end:
        # its loader makes a head before it is tied: the peak of short runs
        loading = parts["weights"] + _embedding_bytes(spec)
        parts["loading"] = max(0.0, loading - sum(parts.values()))
    return "allocated", parts | {"workspaces": constants["workspace_bytes"] * shape["devices"]}


def _cached(row: Row, spec: ModelSpec, shape: Mapping[str, int]) -> float:
    """The cache when the last token is made; 0 for a row that only loads the model."""
    length = shape["tokens"] + row.count("osl", 0, least=0)
    if not length:
        return 0.0
    kv = {"int8": "int8"}.get(row["kv_dtype"], row["kv_dtype"] or "bf16")
    return float(kv_cache(spec, batch=shape["batch"], seq_len=length, kv_format=kv).total)


@formula(source="Qwen's first modeling_qwen.py: register_buffer of a lower triangle of truth values", unit="bytes")
def mask_buffer_bytes(*, layers: Any, length: Any) -> Any:
    """Causal masks that every layer of the first Qwen keeps.

    >>> mask_buffer_bytes(layers=32, length=8192) / 2**30
    2.0
    """
    return layers * length**2


def _reserved(row: Row, constants: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """Readings of unknown kind that hold what PyTorch reserves: old and new cache, and what the prompt left."""
    spec, chosen, shape = row.spec(), row.number_format(), _shape(row)
    logits = bool(row.flag("prompt_logits"))
    workspace = prompt_workspace(
        spec, tokens=shape["tokens"], batch=shape["batch"], devices=shape["devices"], prompt_logits=logits
    )
    cached = _cached(row, spec, shape)
    beside = {"share": constants["reserved_over_allocated"], "beside": constants["reserved_beside_bytes"]}
    parts = {
        "weights": weight_bytes(spec, chosen),
        "beside": float(growing_cache_bytes(cache=cached, temporaries=float(workspace.value), **beside)),
    }
    if row["mask_tokens"]:
        parts["masks"] = float(mask_buffer_bytes(layers=spec.num_layers, length=row.count("mask_tokens", most=10**6)))
    return "reserved", parts


_INFERENCE: dict[str, Callable[[Row, Mapping[str, Any]], tuple[str, dict[str, float]]]] = {
    "autoawq": _autoawq,
    "transformers": _transformers,
    "llama.cpp": _llama_cpp,
}


def inference_configuration(row: Row) -> tuple[str, ...]:
    """What was run: rows in which it is the same are one group."""
    return (
        row.spec().name,
        row["mask_tokens"],
        row.number_format(),
        "" if row["program"] == "autoawq" else row["engine"],
        row["flash_attn"],
        *(row[name] for name in ("kv_dtype", "n_gpus", "batch", "isl", "osl")),
    )


def fit_inference(rows: Iterable[Row]) -> dict[str, Any]:
    """The constants of the reserved meter that leave the smallest mean of |predicted / measured - 1|."""
    return _fit(
        rows,
        predict_inference,
        lambda found: found.meter == "reserved",
        {
            "reserved_over_allocated": [1 + i / 100 for i in range(26)],
            "reserved_beside_bytes": [i * GIB / 10 for i in range(16)],
        },
    )


def _fit(
    rows: Iterable[Row],
    predict: Callable[..., Prediction],
    counts: Callable[[Prediction], bool],
    grid: Mapping[str, list[float]],
) -> dict[str, Any]:
    """The best values on a grid, one constant after the other, with the others as they are in the catalog."""
    usable = []
    for row in rows:
        try:
            found = predict(row)
        except LLMHWError:
            continue
        if counts(found):
            usable.append(row)
    best: dict[str, Any] = {key: value for key, value in read_calibration("serving_memory").items() if key in _NUMBERS}
    if not usable:
        return best

    def loss(constants: Mapping[str, Any]) -> float:
        return sum(abs(predict(row, calibration=constants).error) for row in usable) / len(usable)

    for _ in range(2):
        for name, values in grid.items():
            best[name] = min(values, key=lambda value: (loss({**best, name: value}), value))
    return best


# -- vLLM's start-up logs ---------------------------------------------------------------------

CAPACITY_MEASURED = ("kv_cache_tokens", "kv_cache_gib_per_gpu", "model_load_gib_per_gpu")
CAPACITY_CONSTANTS = (
    "driver_bytes",
    "sampler_bytes_per_logit",
    "fused_sampler_bytes_per_logit",
    "beside_bytes",
    "communication_bytes",
    "nvlink_communication_bytes",
    "context_bytes",
)
_NUMBERS = (*INFERENCE_CONSTANTS, *CAPACITY_CONSTANTS)


def each_value(row: Row, measured: Iterable[str]) -> list[Row]:
    """A row for each measured value of one log, its `quantity` the column; empty cells and zeros are none."""
    if row["quantity"] or row.flaw:
        return [row]
    found = []
    columns = list(measured)
    none = {column: "" for column in columns if row[column] in ("0", "0.0")}
    for column in columns:
        if row[column] and column not in none:
            one = row.with_cells(quantity=column, **none)
            one.name = f"{row.name} {column}"
            found.append(one)
    return found or [row]


def _quantity(row: Row, measured: tuple[str, ...]) -> str:
    chosen = row["quantity"] or next((column for column in measured if row[column]), "")
    if chosen not in measured:
        raise row.error("quantity", f"one of {', '.join(measured)}")
    return chosen


def predict_capacity(row: Row, *, calibration: Mapping[str, Any] | None = None) -> Prediction:
    """Tokens of KV cache, its bytes on a device, or the weights on a device, as vLLM logs them when it starts."""
    spec, chosen, quantity = row.spec(), row.number_format(), _quantity(row, CAPACITY_MEASURED)
    unstated = row["weights_unstated" if quantity.startswith("model_load") else "kv_unstated"]
    if unstated:
        raise LLMHWError(unstated)
    tp, pp = row.count("tp", most=10**4), row.count("pp", most=10**4)
    visible = 0.0 if quantity.startswith("model_load") else _visible_bytes(row, calibration)
    sizes = {"max_sequences": "max_num_seqs", "max_batched_tokens": "max_num_batched_tokens", "page_size": "block_size"}
    given: dict[str, Any] = {name: row.count(column) for name, column in sizes.items() if row[column]}
    if row["gpu_memory_utilization"]:
        given["utilization"] = row.positive("gpu_memory_utilization")
    if row["kv_dtype"].startswith("fp8"):
        given["kv"] = "fp8"
    job = ServingJob(
        model=spec,
        cluster=Cluster(_capacity_device(row, visible), tp * pp),
        tp=tp,
        pp=pp,
        engine=f"vllm:{_version(row['vllm_version'])}",
        weights=chosen,
        max_model_len=row.count("max_model_len", spec.max_seq_len or 4096),
        **given,
    )
    found = serving_memory(job, visible_bytes=visible, calibration=calibration)
    if quantity == "kv_cache_tokens":
        return Prediction(predicted=found.kv_tokens, measured=row.positive(quantity), unit="tokens", meter="tokens")
    meter = "cache" if quantity.startswith("kv") else "weights"
    loaded = ("weights", *whole_towers(spec))
    predicted = (
        found.kv_bytes
        if meter == "cache"
        else max(sum(float(part.value) for part in stage if part.name in loaded) for stage in found.stages)
    )
    return Prediction(predicted=predicted, measured=row.positive(quantity) * GIB, unit="bytes", meter=meter)


def _version(text: str) -> str:
    """The version whose plan a log follows: V1 came as a choice in 0.7 (0.7.9 here), and V0 stayed one until 0.9."""
    found = re.search(r"\d+\.\d+(\.\d+)?", text)
    # a log that does not say is taken for one of V1's
    version = found[0] if found else "0.10"
    minor = int(version.split(".")[1]) if version.startswith("0.") else 0
    if "V1" in text and minor < 8:
        return "0.7.9"
    return "0.7.3" if "V0" in text and minor >= 8 else version


def _capacity_device(row: Row, visible: float) -> Accelerator:
    """The card; where the log does not name it, one of its class with as much memory."""
    if row["device"]:
        return row.device(usual=True)
    size = visible or (row.positive("card_gib") if row["card_gib"] else 80.0) * GIB
    return replace(accelerator("H100" if size > 32 * GIB else "RTX 4090"), memory_bytes=int(size))


def _visible_bytes(row: Row, calibration: Mapping[str, Any] | None) -> float:
    """Memory that CUDA shows: as the log has it, else the card's, or its class's, less what the driver keeps."""
    for column in ("total_gpu_memory_gib", "visible_gib"):
        if row[column]:
            return row.positive(column) * GIB
    constants = read_calibration("serving_memory") if calibration is None else calibration
    if row["card_gib"]:
        return row.positive("card_gib") * GIB - float(constants["driver_bytes"])
    device = row.device(usual=True)
    return device.memory_bytes - (float(constants["driver_bytes"]) if device.vendor == "NVIDIA" else 0.0)


def capacity_configuration(row: Row) -> tuple[str, ...]:
    """What was started: rows in which it is the same are one group."""
    names = ("gpu", "tp", "pp", "gpu_memory_utilization", "max_model_len", "vllm_version", "notes")
    chosen = _quantity(row, CAPACITY_MEASURED)
    if chosen.startswith("model_load"):
        return (row.spec().name, row.number_format(), row["tp"], row["pp"], chosen)
    return (row.spec().name, row.number_format(), *(row[name] for name in names), chosen)


def fit_capacity(rows: Iterable[Row]) -> dict[str, Any]:
    """The constants of vLLM's profile that leave the smallest mean of |predicted / measured - 1|."""
    each = (one for row in rows for one in each_value(row, CAPACITY_MEASURED))
    return _fit(
        each,
        predict_capacity,
        lambda found: found.meter != "weights",
        {
            "sampler_bytes_per_logit": [float(i) for i in range(20, 61, 2)],
            "beside_bytes": [i * GIB / 20 for i in range(11)],
        },
    )


# -- llama.cpp's logs -------------------------------------------------------------------------

LLAMA_CPP_MEASURED = ("model_size_gib", "kv_self_mib", "gpu_compute_mib", "host_compute_mib")


def predict_llama_cpp(row: Row) -> Prediction:
    """Size of the weights, of the KV cache or of the compute buffer that llama.cpp logs when it loads a model."""
    quantity = _quantity(row, LLAMA_CPP_MEASURED)
    spec = row.spec()
    if quantity == "model_size_gib":
        predicted, measured, meter = _file_bytes(row, spec), row.positive(quantity) * GIB, "weights"
    elif quantity == "kv_self_mib":
        predicted, measured, meter = _llama_cpp_cache(row, spec), row.positive(quantity) * MIB, "cache"
    else:
        predicted, measured, meter = _compute(row, spec, quantity), row.positive(quantity) * MIB, "compute"
    return Prediction(predicted=predicted, measured=measured, unit="bytes", meter=meter)


def _file_bytes(row: Row, spec: ModelSpec) -> float:
    """By llama-quantize's mix where the file is one; a mix of one's own by the bits a weight that the log prints."""
    printed = row.positive("bpw")
    name = row["weights"] or row["quant"]
    try:
        bits = model_bits_per_weight(spec, number_format(name))
    except LLMHWError:
        bits = 0.0
    if abs(bits / printed - 1) < 0.004:
        return weight_bytes(spec, name)
    return float(stored_weight_bytes(elements=spec.parameters.text, bits_per_weight=printed))


def _llama_cpp_cache(row: Row, spec: ModelSpec) -> float:
    """Keys and values in two formats. ik_llama.cpp caches latents as mla_attn says: twice in its first kind."""
    latents = bool(row["kv_type_k"] and not row["kv_type_v"])
    kept = kept_by(spec, latent="one" if latents else "heads")
    found = llamacpp.cache_terms(
        kept,
        tokens=row.count("n_ctx", None),
        keys=row["kv_type_k"],
        values=row["kv_type_v"],
        second=row["mla_attn"] == "1",
    )
    return sum(float(t.value) for t in found)


def _compute(row: Row, spec: ModelSpec, quantity: str) -> float:
    """The compute buffers of all devices together, or the host's."""
    batch, cells = row.count("n_ubatch", None), row.count("n_ctx", None)
    on_device, logged = row["gpu_compute_mib"] not in ("", "0", "0.0"), row["per_device_compute_mib"]
    if not on_device and "CPU=" not in logged:
        raise LLMHWError("the host's staging buffer without the device that reads it")
    attention = _attention_buffer(row, spec, batch, cells)
    devices = max(1, logged.count("CUDA") - 1) if on_device else 1
    if quantity.startswith("host") and on_device:
        sizes: dict[str, Any] = {"batch": batch, "hidden": spec.hidden, "cells": cells}
        stacks = llamacpp.expert_stacks(spec)
        made = 0.0
        if stacks and _share_on_devices(row) < 0.5 and not _copied(row, spec, batch):
            sizes["hidden"] *= stacks[0].used
            made = _expert_buffer(row, spec, batch, False)
        elif devices > 1 and _share_on_devices(row) > 0.9:
            sizes["copies"] = 4
        staged = max(made, float(llamacpp.staging_buffer_bytes(**sizes)))
        cached = row["gpu_kv_mib"] and row.positive("gpu_kv_mib") < 0.9 * row.positive("kv_self_mib")
        return max(staged, attention) if cached else staged  # with layers that are on no device
    held = max(attention, _expert_buffer(row, spec, batch, on_device))
    copied = 0.0
    if on_device and row["gpu_model_buffer_mib"] in ("0", "0.0"):
        copied = float(weights(spec, row["weights"], tensors=llamacpp.head_tensors(spec)).total)
    head: dict[str, Any] = {"vocab": spec.vocab_size, "hidden": spec.hidden}
    last = float(llamacpp.compute_buffer_bytes(batch=batch, copied=copied, **head))
    return (devices - 1) * held + max(held, last)


# The memory of a large card, in place of buffers of weights that a log does not have.
_LARGE_CARD = 48 * GIB


def _share_on_devices(row: Row) -> float:
    """Which share of the weights is on devices: by the log's buffers, else as much as so many cards hold."""
    whole = row.positive("model_size_gib") * GIB
    if row["gpu_model_buffer_mib"]:
        return row.number("gpu_model_buffer_mib") * MIB / whole
    return min(1.0, row.count("n_gpus_listed", 0, least=0) * _LARGE_CARD / whole)


def _copied(row: Row, spec: ModelSpec, batch: int) -> bool:
    """Whether experts in host memory are computed on the GPU: by the tokens that each gets."""
    stacks = llamacpp.expert_stacks(spec)
    if re.match(r"Q\d_K_R4", row["quant"]):  # K-quants of interleaved rows, for which there are no CUDA kernels
        return False
    return bool(stacks) and _share_on_devices(row) < 0.5 and batch * stacks[0].used >= 32 * stacks[0].experts


def _expert_buffer(row: Row, spec: ModelSpec, batch: int, on_device: bool) -> float:
    """What experts make; of ik_llama.cpp with experts in host memory both stacks that lead in, copied at a time."""
    stacks = llamacpp.expert_stacks(spec)
    if not stacks:
        return 0.0
    largest = max(stacks, key=lambda t: t.numel)
    if on_device and _copied(row, spec, batch):
        named = re.search(r"- ([\d.]+) bpw", row["quant"])
        bits = float(named[1]) if named else row.positive("bpw")
        both = 2 * float(stored_weight_bytes(elements=largest.numel, bits_per_weight=bits))
        return both + batch * (3 * largest.used * largest.into + spec.hidden) * 4
    sizes: dict[str, Any] = {"used": largest.used, "feed_forward": largest.into, "hidden": spec.hidden}
    return float(llamacpp.expert_buffer_bytes(batch=batch, **sizes))


def _attention_buffer(row: Row, spec: ModelSpec, batch: int, cells: int) -> float:
    a, fused = spec.layers[0].attention, bool(row.flag("flash_attn"))
    assert a is not None
    if a.latent and row["kv_type_v"]:
        a = replace(a, latent=0, kv_heads=a.heads)
    if a.latent and fused and row["attn_max_b"] and (row["mla_attn"] == "3" or row["attn_max_b"] != "0"):
        on_device = row["gpu_compute_mib"] not in ("", "0", "0.0")
        quantized = on_device and number_format(row["kv_type_k"]).bits < 16
        return float(
            expanded_latent_bytes(
                batch=batch,
                cells=cells,
                heads=a.heads,
                head_dim=a.head_dim,
                v_head_dim=a.v_head_dim,
                hidden=spec.hidden,
                most=row.count("attn_max_b", 0, least=0) * MIB or 2**60,
                bits_per_element=16 if on_device else number_format(row["kv_type_k"]).bits_per_weight,
                rank=llamacpp.latent_rank(a) if quantized else 0,
            )
        )
    return float(llamacpp.attention_term(a, cells, fused, {"batch": batch, "hidden": spec.hidden}).value)


# Of the heads, until one is left: 2^8 heads are more than any model has.
_MOST_HALVINGS = 8


@formula(source="ik_llama.cpp: build_deepseek2, keys and values made of latents for some heads at a time", unit="bytes")
def expanded_latent_bytes(
    *,
    batch: Any,
    cells: Any,
    heads: Any,
    head_dim: Any,
    v_head_dim: Any,
    hidden: Any,
    most: Any,
    bits_per_element: Any,
    rank: Any = 0,
) -> Any:
    """What a layer of latent attention needs of ik_llama.cpp's compute buffer, where it makes keys and values again.

    most               bytes in fp32 of the keys and values of the heads at work at a time (attn_max_b)
    bits_per_element   of keys and values in the cache's format; on a GPU 16
    rank               of a latent that is quantized in the cache, and expanded to fp16 on a GPU; else 0

    Those of all other heads wait for their turn. DeepSeek R1 with 2,048 cells, all heads at a time: a log has 450.01.

    >>> sizes = {"heads": 128, "head_dim": 192, "v_head_dim": 128, "hidden": 7168, "most": 2**29}
    >>> expanded_latent_bytes(batch=512, cells=2048, bits_per_element=8.5, **sizes) / 2**20
    452.0
    """
    nope = head_dim - (head_dim - v_head_dim)
    wide = cells * heads * (nope + v_head_dim) * 4
    turns: Any = 1
    for _ in range(_MOST_HALVINGS):
        turns = where(wide / turns > most, 2 * turns, turns)
    narrow = cells * heads * bits_per_element / 8 / turns
    waiting = (turns - 1) * narrow * (head_dim + v_head_dim)
    queries = batch * (heads * (2 * head_dim + head_dim - nope) + hidden) * 4
    expanded = narrow * (nope + v_head_dim) + cells * rank * 2
    return wide / turns + waiting + expanded + queries + batch * cells * 2


_COMPUTE = "n_ctx n_ubatch flash_attn mla_attn attn_max_b kv_type_k n_gpus_listed".split()


def llama_cpp_configuration(row: Row) -> tuple[str, ...]:
    """What was loaded, as far as it decides the value."""
    chosen = _quantity(row, LLAMA_CPP_MEASURED)
    names = {
        "model_size_gib": ("quant", "bpw"),
        "kv_self_mib": ("n_ctx", "mla_attn", "kv_type_k", "kv_type_v"),
    }.get(chosen, _COMPUTE)
    return (row.spec().name, chosen, *(row[name] for name in names))
