"""Published facts of models: parameter counts, sizes of files, bits per weight, KV-cache bytes per token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from llmhw.memory import kv_cache_bytes_per_token
from llmhw.model import ModelSpec
from llmhw.precision import model_bits_per_weight, number_format, weight_bytes
from llmhw.units import GB, GIB, KB, KIB, MB, MIB, TB, TIB, LLMHWError, unknown_name
from llmhw.validation.statistics import Prediction
from llmhw.validation.table import Row

# One of each unit in base units, by what it measures.
SIZES = {"bytes": 1, "B": 1, "KB": KB, "MB": MB, "GB": GB, "TB": TB, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
COUNTS = {"params": 1, "M": 10**6, "B": 10**9, "T": 10**12}
BITS = {"bits": 1}

# GGML v3 files of June 2023, older than today's rules. As their card describes each: no wider output matrix for the
# formats of before the K-quants, no wider tensors for q4_K_S. The card's words for q2_K (Q4_K for attention.wv and
# feed_forward.w2) give 5.26 GB; its 5.51 GB needs Q4_K for attention.wo as well.
_RULES_OF_2023 = {
    "q2_K": {"output": "Q6_K", "attn_v": "Q4_K", "attn_output": "Q4_K", "ffn_down": "Q4_K"},
    "q3_K_M": {"output": "Q6_K", "attn_v": "Q4_K", "attn_output": "Q4_K", "ffn_down": "Q4_K"},
    "q4_0": {"output": "Q4_0"},
    "q4_1": {"output": "Q4_1"},
    "q4_K_S": {"output": "Q6_K"},
    "q5_0": {"output": "Q5_0"},
}


@dataclass(frozen=True, slots=True)
class Fact:
    """How a fact is predicted.

    value     the predicted value in base units
    units     the units that its table may give it in
    meant     the unit that the source means, whatever it writes; "" for the one it writes
    """

    value: Callable[[Row, ModelSpec], float]
    units: Mapping[str, int]
    meant: str = ""


def _size(row: Row, spec: ModelSpec) -> float:
    return weight_bytes(spec, row.number_format()) + _rotary_buffers(row, spec)


def _size_in_16_bit(row: Row, spec: ModelSpec) -> float:
    return weight_bytes(spec, row.number_format("bf16"))


def _ggml_size(row: Row, spec: ModelSpec) -> float:
    chosen = number_format(row.number_format())
    overrides = _RULES_OF_2023.get(row["quant"])
    return weight_bytes(spec, replace(chosen, overrides=tuple(overrides.items())) if overrides else chosen)


def _rotary_buffers(row: Row, spec: ModelSpec) -> float:
    # early Llama 2 checkpoints also stored the rotary frequencies of each layer, in fp32
    return spec.num_layers * spec.head_dim // 2 * 4 if row.flag("rotary_buffers") else 0


def _bits(row: Row, spec: ModelSpec) -> float:
    return model_bits_per_weight(spec, number_format(row.number_format()))


def _with_prediction_layers(row: Row, spec: ModelSpec) -> float:
    # on the Hub they bring copies of the embedding and of the head
    p = spec.parameters
    return p.total + p.mtp + (p.by_component["embedding"] + p.by_component["head"] if p.mtp else 0)


def _first_layer(row: Row, spec: ModelSpec) -> float:
    return sum(t.numel for t in spec.layers[0].tensors)


def _cache(row: Row, spec: ModelSpec) -> float:
    return kv_cache_bytes_per_token(spec, row["quant"] or "bf16")


def _total(row: Row, spec: ModelSpec) -> float:
    return spec.parameters.total


def _active(row: Row, spec: ModelSpec) -> float:
    return spec.parameters.active


def _embedding(row: Row, spec: ModelSpec) -> float:
    return spec.parameters.by_component["embedding"]


# By name without "_published".
FACTS: dict[str, Fact] = {
    "params_total": Fact(_total, COUNTS),
    "params_active": Fact(_active, COUNTS),
    "params_hf_incl_mtp": Fact(_with_prediction_layers, COUNTS),
    "embedding_params": Fact(_embedding, COUNTS),
    "layer_params": Fact(_first_layer, COUNTS),
    "gguf_bits_per_weight": Fact(_bits, BITS),
    "gguf_file_size": Fact(_size, SIZES),
    "ggml_file_size": Fact(_ggml_size, SIZES),
    "weights_file_size": Fact(_size, SIZES),
    "safetensors_total_size": Fact(_size, SIZES),
    # they are written in MB and GB, but only binary units agree with the parameters: 1,235,814,400 x 2 / 2^20 = 2,357
    "mobile_pte_file_size_bf16": Fact(_size_in_16_bit, SIZES, "MiB"),
    "weights_bf16_checkpoint_size": Fact(_size_in_16_bit, SIZES, "GiB"),
    "checkpoint_size_fp16": Fact(_size_in_16_bit, SIZES, "GiB"),
    "kv_cache_bytes_per_token": Fact(_cache, SIZES),
}

_NOT_PREDICTED = {
    "full_checkpoint_size": "what beside the weights is in the checkpoint, and in which unit, is not stated exactly",
    "mobile_rss_bf16": "memory of a process on a phone, not the size of a file",
    "mobile_rss_spinquant": "memory of a process on a phone, not the size of a file",
    "mobile_pte_file_size_spinquant": "a mix of formats by layer that the source does not list",
    "mobile_pte_file_size_qlora": "a mix of formats by layer that the source does not list",
}


def predict(row: Row) -> Prediction:
    """The fact of one row in base units, beside what is published.

    A row whose column `use` says why it is ignored is not predicted, nor is a fact that is not in `FACTS`.
    """
    if row["use"] not in ("", "truth"):
        raise LLMHWError(row["use"])
    fact = _fact(row)
    measured = row.positive("value") * unit(row)
    shown = "bits" if fact.units is BITS else "count" if fact.units is COUNTS else "file_bytes"
    return Prediction(predicted=quantity(row), measured=measured, unit=shown)


def quantity(row: Row) -> float:
    """The predicted value of the row's fact in base units: bytes, parameters or bits.

    >>> quantity(Row({"model_name": "llama-3-8b", "fact": "gguf_file_size", "quant": "Q4_K_M"})) / 1e9
    4.91...
    """
    return float(_fact(row).value(row, row.spec()))


def unit(row: Row) -> int:
    """One of the unit that the row's value is in, in base units."""
    fact = _fact(row)
    if row["unit"] not in fact.units:
        raise row.error("unit", f"one of {', '.join(fact.units)}")
    return fact.units[fact.meant or row["unit"]]


def configuration(row: Row) -> tuple[str, ...]:
    """What was published: the model, the fact and the number format."""
    return (row.spec().name, row["fact"].removesuffix("_published"), row["quant"])


def _fact(row: Row) -> Fact:
    name = row["fact"].removesuffix("_published")
    if name in _NOT_PREDICTED:
        raise LLMHWError(f"fact={row['fact']!r}: {_NOT_PREDICTED[name]}")
    if name not in FACTS:
        raise unknown_name("fact", row["fact"], FACTS)
    return FACTS[name]
