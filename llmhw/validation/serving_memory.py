"""Memory of inference beside published measurements: peaks of generation, vLLM's cache, llama.cpp's buffers.

A row of the last two tables holds several measured values. `each_value` makes one row of each, and its column
`quantity` says which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from llmhw.catalog import read_calibration
from llmhw.formula import formula
from llmhw.hardware import Cluster, accelerator
from llmhw.job import ServingJob
from llmhw.memory import kv_cache, kv_cache_bytes, latent_cache_bytes, state_bytes, weights
from llmhw.model import ModelSpec, model
from llmhw.precision import model_bits_per_weight, number_format, stored_weight_bytes, weight_bytes
from llmhw.serving import generation_memory, growing_cache_bytes, prompt_workspace, serving_memory
from llmhw.units import GIB, MIB, LLMHWError, maximum
from llmhw.validation.statistics import Prediction
from llmhw.validation.table import Row

FORMATS = {
    "bf16": "bf16",
    "fp16": "fp16",
    "fp8": "fp8",
    "gptq-int4": "int4-gptq",
    "gptq-int8": "gptq-8bit",
    "awq-int4": "int4-awq",
    "int8-w8a8": "int8",
    "bnb-int8": "int8-llm",
    "bnb-nf4-dq": "nf4-dq",
    "bnb-nf4": "nf4",
}
# First Qwen models have the shapes of Qwen1.5; the chat models named here have those of their base.
_BASES = {
    "vicuna-7b-v1.5": "llama-2-7b",
    "mpt-7b-8k-chat": "mpt-7b",
    "meta-llama-3-8b": "llama-3-8b",
    "llama-3.1-swallow-8b-instruct-v0.1": "llama-3.1-8b",
    "qwen2.5-math-1.5b": "qwen2.5-1.5b",
}
_TAIL = re.compile(r"(-(chat|instruct|gptq-int4|gptq-int8|awq|fp8|quantized\.w8a8))+$")


@cache
def spec_of(name: str) -> ModelSpec:
    """The model of a row's name: its base where the name is that of a chat model or of a quantized copy.

    >>> spec_of("Qwen1.5-7B-Chat-AWQ").name
    'qwen1.5-7b'
    """
    plain = name.lower().partition(" (")[0]
    plain = _BASES.get(plain, plain)
    plain = re.sub(r"^qwen-(?=\d)", "qwen1.5-", _TAIL.sub("", plain))
    return model(plain)


def _format(row: Row) -> str:
    for name, known in FORMATS.items():
        if row["quant"].startswith(name):
            return known
    raise row.error("quant", f"one of {', '.join(FORMATS)}")


# -- peaks of generation ----------------------------------------------------------------------

INFERENCE_CONSTANTS = ("reserved_over_allocated", "reserved_beside_bytes", "workspace_bytes")


def predict_inference(row: Row, *, calibration: Mapping[str, Any] | None = None) -> Prediction:
    """Peak bytes of one call of `generate`, over all devices, with the meter that was read."""
    constants = read_calibration("serving_memory") if calibration is None else calibration
    if row["mem_kind"] == "minimum-requirement":
        raise LLMHWError("a requirement that was rounded to whole GB without a length, not a measurement")
    predictor = next((found for key, found in _INFERENCE.items() if key in row["engine"]), None)
    if predictor is None:
        raise row.error("engine", f"named with one of {', '.join(_INFERENCE)}")
    meter, parts = predictor(row, constants)
    measured = row.positive("peak_mem_gb") * GIB
    return Prediction(predicted=sum(parts.values()), measured=measured, unit="bytes", meter=meter, parts=parts)


def _shape(row: Row) -> dict[str, int]:
    return {
        "batch": row.count("batch", most=10**6),
        "tokens": row.count("isl", 0, least=0),
        "devices": row.count("n_gpus", most=10**4),
    }


def _autoawq(row: Row, constants: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """Fused layers with eager attention. The cache has room for the answer, and the prompt fills it."""
    spec, chosen, shape = spec_of(row["model_name"]), _format(row), _shape(row)
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
    separate = [(t, n) for t, n in spec.all_tensors() if t.part in ("q", "k", "v")]
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
    """transformers: the cache grows with the sequence; before 4.45 the head is applied to the whole prompt."""
    version = _version(row["engine"])
    if row["mem_kind"] == "allocated" or version >= (4, 45):
        return _allocated(row, constants, version)
    return _reserved(row, constants)


def _version(engine: str) -> tuple[int, int]:
    found = re.search(r"transformers (\d+)\.(\d+)", engine)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _allocated(row: Row, constants: Mapping[str, Any], version: tuple[int, int]) -> tuple[str, dict[str, float]]:
    spec, chosen, shape = spec_of(row["model_name"]), _format(row), _shape(row)
    # the Qwen3 rows hold no activations of the prompt at any length: they were read when the answer was done
    at_end = row["mem_kind"] != "allocated"
    found = generation_memory(
        spec,
        number_format=chosen,
        kv_format=row["kv_dtype"] or "bf16",
        batch=shape["batch"],
        prompt_tokens=shape["tokens"],
        new_tokens=row.count("osl", 0, least=0),
        devices=shape["devices"],
        prompt_logits=version < (4, 45),
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


# Qwen's first code keeps a mask of 8192 x 8192 truth values in every layer, and its logits in 16 bit.
_MASKED = "v0, Aug 2023"


@formula(source="Qwen's first modeling_qwen.py: register_buffer of a lower triangle of truth values", unit="bytes")
def mask_buffer_bytes(*, layers: Any, length: Any) -> Any:
    """Causal masks that every layer of the first Qwen keeps.

    >>> mask_buffer_bytes(layers=32, length=8192) / 2**30
    2.0
    """
    return layers * length**2


def _reserved(row: Row, constants: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """Readings of unknown kind that hold what PyTorch reserves: old and new cache, and what the prompt left."""
    spec, chosen, shape = spec_of(row["model_name"]), _format(row), _shape(row)
    first = _MASKED in row["model_name"]
    workspace = prompt_workspace(
        spec, tokens=shape["tokens"], batch=shape["batch"], devices=shape["devices"], prompt_logits=not first
    )
    cached = _cached(row, spec, shape)
    beside = {"share": constants["reserved_over_allocated"], "beside": constants["reserved_beside_bytes"]}
    parts = {
        "weights": weight_bytes(spec, chosen),
        "beside": float(growing_cache_bytes(cache=cached, temporaries=float(workspace.value), **beside)),
    }
    if first:
        parts["masks"] = float(mask_buffer_bytes(layers=spec.num_layers, length=8192))
    return "reserved", parts


_INFERENCE: dict[str, Callable[[Row, Mapping[str, Any]], tuple[str, dict[str, float]]]] = {
    "autoawq": _autoawq,
    "transformers": _transformers,
}


def inference_configuration(row: Row) -> tuple[str, ...]:
    """What was run: rows in which it is the same are one group."""
    device = "" if "autoawq" in row["engine"] else row["engine"]
    return (
        spec_of(row["model_name"]).name,
        _MASKED if _MASKED in row["model_name"] else "",
        _format(row),
        device,
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
    "beside_bytes",
    "communication_bytes",
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
    if "model_name" in row["inferred_fields"] or "MODEL NOT NAMED" in row["model_name"]:
        raise LLMHWError("the log does not name the model")
    spec, chosen, quantity = spec_of(row["model_name"]), _format(row), _quantity(row, CAPACITY_MEASURED)
    if (row["id"], quantity.partition("_")[0]) in _UNSTATED:
        raise LLMHWError(_UNSTATED[row["id"], quantity.partition("_")[0]])
    tp, pp = row.count("tp", most=10**4), row.count("pp", most=10**4)
    if quantity.startswith("model_load"):
        visible = 0.0
    else:
        visible = _visible_bytes(row, calibration)
    longest = row.count("max_model_len", spec.max_seq_len or 4096)
    job = ServingJob(
        model=spec,
        cluster=Cluster("H100 SXM5 80GB", tp * pp),
        tp=tp,
        pp=pp,
        weights=chosen,
        utilization=row.positive("gpu_memory_utilization", 0.9),
        page_size=row.count("block_size", 16),
        max_model_len=longest,
        max_sequences=_stated(row, "max_num_seqs", 256),
        max_batched_tokens=_stated(row, "max_num_batched_tokens", _batched_tokens(row, longest)),
    )
    if _COUNTS_CONTEXT.search(row["vllm_version"]):
        constants = dict(read_calibration("serving_memory") if calibration is None else calibration)
        calibration = {**constants, "beside_bytes": constants["beside_bytes"] + constants["context_bytes"]}
    found = serving_memory(job, visible_bytes=visible, calibration=calibration)
    if quantity == "kv_cache_tokens":
        return Prediction(predicted=found.kv_tokens, measured=row.positive(quantity), unit="tokens", meter="tokens")
    meter = "cache" if quantity.startswith("kv") else "weights"
    predicted = found.kv_bytes if meter == "cache" else max(float(stage["weights"]) for stage in found.stages)
    return Prediction(predicted=predicted, measured=row.positive(quantity) * GIB, unit="bytes", meter=meter)


# Profilers of these versions take the CUDA context off the cache too; later ones start to count when it is there.
_COUNTS_CONTEXT = re.compile(r"^0\.6\.[45]|^0\.7\S* \(V1\)")

# What decides a value and is not in the log.
_UNSTATED = {
    ("vc011", "kv"): "max_num_seqs is not shown: a profile of 9.37 GiB is that of 2,048 sequences, not of vLLM's 256",
    ("vc032", "model"): "Meta's FP8 files leave attention and the outer layers in 16 bit, which no format here does",
}


def _stated(row: Row, name: str, default: int) -> int:
    """An argument of the engine: from its column, else from the notes, else its default."""
    found = re.search(rf"{name} (\d+)", row["notes"])
    return row.count(name, int(found[1]) if found else default)


def _batched_tokens(row: Row, longest: int) -> int:
    """vLLM's default: a whole sequence, unless prompts are cut into chunks (V1, or more than 32,768 tokens)."""
    if "V1" in row["vllm_version"]:
        return 8192
    return 2048 if longest > 32768 else max(longest, 2048)


def _visible_bytes(row: Row, calibration: Mapping[str, Any] | None) -> float:
    """Memory that CUDA shows: the log's total, else the card's, or its class's, less what the driver keeps."""
    if row["total_gpu_memory_gib"]:
        return row.positive("total_gpu_memory_gib") * GIB
    constants = read_calibration("serving_memory") if calibration is None else calibration
    name = row["gpu"]
    nominal = re.search(r"(\d+(?:\.\d+)?) ?(GB|GiB)", name)
    try:
        device = accelerator(name.removesuffix("GB").rstrip("0123456789").rstrip("-") if nominal else name)
        return device.memory_bytes - (constants["driver_bytes"] if device.vendor == "NVIDIA" else 0.0)
    except LLMHWError:
        if not nominal:
            raise row.error("gpu", "the name of an accelerator, or a class such as '24GB card'") from None
    # "24GB" is 24 GiB of a driver's total; "95.6 GiB" is what CUDA shows
    size = float(nominal[1]) * GIB
    return size if nominal[2] == "GiB" else size - constants["driver_bytes"]


def capacity_configuration(row: Row) -> tuple[str, ...]:
    """What was started: rows in which it is the same are one group."""
    names = ("gpu", "tp", "pp", "gpu_memory_utilization", "max_model_len", "vllm_version", "notes")
    chosen = _quantity(row, CAPACITY_MEASURED)
    if chosen.startswith("model_load"):
        return (spec_of(row["model_name"]).name, _format(row), row["tp"], row["pp"], chosen)
    return (spec_of(row["model_name"]).name, _format(row), *(row[name] for name in names), chosen)


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
_DEEPSEEK = {"128": "deepseek-v3", "64": "kimi-k2", "16": "deepseek-v2-lite"}
_LLAMAS = {"40": "llama-2-13b", "32": "llama-3.1-8b"}
_MIX = re.compile(r"^(\w+?)(?: - (Small|Medium|Large))?$")


def _llama_cpp_spec(row: Row) -> ModelSpec:
    arch = row["arch"]
    if arch == "deepseek2" and row["n_head"] in _DEEPSEEK:
        return model(_DEEPSEEK[row["n_head"]])
    if arch == "llama" and row["n_layer"] in _LLAMAS:
        return model(_LLAMAS[row["n_layer"]])
    if arch == "qwen3":
        return spec_of(row["model_name"])
    raise LLMHWError(f"arch={arch!r}: {row['model_name']} is not a model of the catalog")


def predict_llama_cpp(row: Row) -> Prediction:
    """Size of the weights, of the KV cache or of the compute buffer that llama.cpp logs when it loads a model."""
    quantity = _quantity(row, LLAMA_CPP_MEASURED)
    spec = _llama_cpp_spec(row)
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
    found = _MIX.match(row["quant"])
    name = found[1] + (f"_{found[2][0]}" if found[2] else "") if found else ""
    try:
        bits = model_bits_per_weight(spec, number_format(name))
    except LLMHWError:
        bits = 0.0
    if abs(bits / printed - 1) < 0.01:
        return weight_bytes(spec, name)
    return float(stored_weight_bytes(elements=spec.parameters.total, bits_per_weight=printed))


def _llama_cpp_cache(row: Row, spec: ModelSpec) -> float:
    """Keys and values in two formats; with mla_attn the latent, and for its first kind the transposed values too."""
    tokens, attention = row.count("n_ctx", None), spec.layers[0].attention
    assert attention is not None
    bits = {side: number_format(row[f"kv_type_{side}"] or row["kv_type_k"]).bits_per_weight for side in ("k", "v")}
    if attention.latent and not row["kv_type_v"]:
        latent = latent_cache_bytes(batch=1, tokens=tokens, latent=attention.latent, bits_per_element=bits["k"])
        if row["mla_attn"] == "1":
            low_rank = attention.latent - spec.layers[0].attention.head_dim + attention.v_head_dim  # type: ignore[union-attr]
            latent += latent_cache_bytes(batch=1, tokens=tokens, latent=low_rank, bits_per_element=bits["v"])
        return float(spec.num_layers * latent)
    sizes = {"batch": 1, "tokens": tokens, "kv_heads": attention.heads if attention.latent else attention.kv_heads}
    keys = kv_cache_bytes(head_dim=attention.head_dim, v_head_dim=0, bits_per_element=bits["k"], **sizes)
    values = kv_cache_bytes(head_dim=0, v_head_dim=attention.v_head_dim, bits_per_element=bits["v"], **sizes)
    return float(spec.num_layers * (keys + values))


@formula(
    source="ggml's graph allocator: logits of a micro-batch, or its scores, beside two hidden states", unit="bytes"
)
def compute_buffer_bytes(*, batch: Any, vocab: Any, scores: Any, hidden: Any) -> Any:
    """llama.cpp's compute buffer on one device, in fp32.

    batch    tokens of a micro-batch (n_ubatch)
    scores   query heads x cached tokens where attention is not fused, else 0

    >>> compute_buffer_bytes(batch=512, vocab=128256, scores=0, hidden=4096) / 2**20
    266.5
    """
    return batch * (maximum(vocab, scores) + 2 * hidden) * 4


def _compute(row: Row, spec: ModelSpec, quantity: str) -> float:
    if spec.layers[0].attention is None or spec.layers[0].attention.latent:
        raise LLMHWError(
            "ik_llama.cpp's compute buffer for latent attention depends on how it is cut, which is not said"
        )
    on_device = row["gpu_compute_mib"] not in ("", "0", "0.0")
    if quantity.startswith("host") and (on_device or "CPU=" not in row["per_device_compute_mib"]):
        raise LLMHWError("the host's staging buffer beside a GPU")
    if on_device and row["gpu_model_buffer_mib"] in ("", "0", "0.0"):
        raise LLMHWError("weights stay in host memory and are copied to the GPU matrix by matrix")
    fused = row.flag("flash_attn")
    scores = 0 if fused else spec.heads * row.count("n_ctx", None)
    return float(
        compute_buffer_bytes(
            batch=row.count("n_ubatch", None), vocab=spec.vocab_size, scores=scores, hidden=spec.hidden
        )
    )


def llama_cpp_configuration(row: Row) -> tuple[str, ...]:
    """What was loaded, as far as it decides the value."""
    chosen = _quantity(row, LLAMA_CPP_MEASURED)
    names = {
        "model_size_gib": ("quant", "bpw"),
        "kv_self_mib": ("n_ctx", "mla_attn", "kv_type_k", "kv_type_v"),
    }.get(chosen, ("n_ctx", "n_ubatch", "flash_attn"))
    return (_llama_cpp_spec(row).name, chosen, *(row[name] for name in names))
