"""Speed of inference beside published measurements: prompts, decoded tokens, requests, and whole offline runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from functools import cache
from math import log
from statistics import median
from typing import Any

from llmhw.catalog import read_calibration
from llmhw.hardware import Accelerator, Cluster, accelerator
from llmhw.memory import kv_cache_bytes_per_token, weights
from llmhw.model import ModelSpec, model
from llmhw.engine import Engine, class_of, engine_of, offline_tokens_per_second, request_seconds
from llmhw.rates import BOUND, ServingConstants, family_of
from llmhw.units import GIB, LLMHWError
from llmhw.validation.regression import fit_calibration
from llmhw.validation.statistics import Prediction, source_family
from llmhw.validation.table import Row
from llmhw.validation.training_memory import stablelm_alpha_3b

# Columns without which no row can be predicted
REQUIRED = ("model_name", "quant", "gpu", "n_gpus", "engine", "metric", "value")

_GPTS = {
    "gpt 175b": (96, 12288, 96),
    "gpt-neox-style gpt 20b": (44, 6144, 48),
    "gpt 6.7b": (32, 4096, 32),
    "gpt 350m": (24, 1024, 16),
    "test-13b (gpt 13b)": (40, 5120, 40),
}
_NAMES = {
    "llama3-8b": "llama-3-8b",
    "llama3-70b": "llama-3-70b",
    "llama2-7b": "llama-2-7b",
    "llama2-13b": "llama-2-13b",
    "llama2-70b": "llama-2-70b",
    "llama3.1-8b": "llama-3.1-8b",
    "llama3.1-70b": "llama-3.1-70b",
    "llama3.3-70b": "llama-3.1-70b",
    "llama3.1-405b": "llama-3.1-405b",
    # without a sliding window: the version that TensorRT-LLM's tables of 2024 and 2025 name
    "mistral-7b": "mistral-7b-v0.3",
}
# Weights and cache of each quantization that the tables name.
_FORMATS = {
    "fp16": ("fp16", "fp16"),
    "bf16": ("bf16", "bf16"),
    "f16": ("fp16", "fp16"),
    "fp8": ("fp8", "fp8"),
    "fp4": ("nvfp4", "fp8"),
    "q4_k_m": ("q4_k_m", "fp16"),
    "bnb.nf4": ("nf4", "bf16"),
    "bnb.nf4-dq": ("nf4-dq", "bf16"),
}


@cache
def _spec(name: str) -> ModelSpec:
    plain = name.lower()
    if plain in _GPTS:
        layers, hidden, heads = _GPTS[plain]
        sizes = {"n_embd": hidden, "n_layer": layers, "n_head": heads, "n_positions": 2048, "vocab_size": 51200}
        return ModelSpec.from_config({"model_type": "gpt2", **sizes}, name=plain)
    if plain == "stablelm-alpha-3b":
        return stablelm_alpha_3b()
    return model(_NAMES.get(plain, plain))


def _device(row: Row) -> Accelerator:
    name = row["gpu"].replace("NVIDIA", "").replace("AMD Instinct", "").strip()
    if not name:
        return row.device()
    if "," in name:
        raise LLMHWError("two kinds of devices in one system")
    usual = {
        "A100-SXM4-80GB": "A100 80GB SXM4",
        "A100-SXM4-40GB": "A100 40GB SXM4",
        "A100 SXM 80GB": "A100 80GB SXM4",
        "A100 PCIe 80GB": "A100 80GB PCIe",
        "H100-SXM-80GB": "H100 SXM5 80GB",
        "GB200": "GB200 NVL72",
        "GB300": "GB300 NVL72",
    }
    short = re.match(r"MI3\d\dX|B200|H200-SXM", name)
    name = usual.get(name, short.group(0).replace("-", " ") if short else name)
    return accelerator(f"RTX {name}" if re.match(r"\d{4}\b", name) else name)


def engine_name(row: Row) -> str:
    """Which engine ran, in which generation: a name of `calibration.json`."""
    text = row["engine"].lower()
    for part, name in (("fastertransformer", "fastertransformer"), ("lmdeploy", "lmdeploy"), ("litgpt", "litgpt")):
        if part in text:
            return name
    if "llama.cpp" in text:
        return "llama-cpp"
    found = re.search(r"tensorrt-llm (\d+)\.(\d+)", text)
    if found:
        return "tensorrt-llm-2023" if (int(found[1]), int(found[2])) < (0, 15) else "tensorrt-llm-2025"
    if any(part in text for part in ("tensorrt", "vllm", "mango")):
        return "tensorrt-llm-2025"
    raise LLMHWError(f"engine={row['engine']!r} has no constants")


# Mean tokens of prompts and answers of MLPerf's data sets. Answers: 294.45, 684.68 and 3,880 tokens a sample in its
# reference implementations; prompts as commonly quoted for OpenOrca, the long-context mix and the reasoning mix.
_MLPERF = {"llama2-70b": (294, 294), "llama3.1-405b": (9428, 685), "deepseek-r1": (800, 3880)}


def _offline(row: Row, calibration: Mapping[str, Any]) -> float:
    """MLPerf's offline scenario: all requests are there from the start, and the layout is the fastest."""
    if row["batch_or_concurrency"] != "Offline":
        raise LLMHWError("a scenario with limits on latency: throughput depends on the arrivals")
    if row["model_name"] not in _MLPERF:
        raise LLMHWError(f"model_name={row['model_name']!r}: the lengths of its data set are not known")
    prompt, answer = _MLPERF[row["model_name"]]
    count, best = row.count("n_gpus", None), 0.0
    for tp in (1, 2, 4, 8):
        if count % tp:
            continue
        engine = _engine(row, calibration, tp=tp, count=tp)
        room = _room(engine, prompt + answer / 2)
        if room > 1:
            speed = offline_tokens_per_second(engine, room=room, prompt=prompt, answer=answer)
            best = max(best, count / tp * speed)
    if not best:
        raise LLMHWError(f"the weights do not fit on up to 8 of {count} devices")
    return best


def _engine(row: Row, calibration: Mapping[str, Any] | None, *, tp: int = 0, count: int = 0) -> Engine:
    if not (tp or row["tp"]):
        raise LLMHWError("tp not stated, so the layout is not known")
    spec, device = _spec(row["model_name"]), _device(row)
    count = count or row.count("n_gpus", None)
    word = row["quant"].lower()
    if word not in _FORMATS:
        raise row.error("quant", f"one of {', '.join(_FORMATS)}")
    stored, cached = _FORMATS[word]
    experts = spec.parameters.active != spec.parameters.total
    ranks = tp or row.count("tp")
    shared = experts and ranks > 1 and ("attention-DP" in row["notes"] or "MLPerf" in row["source"])
    return engine_of(
        spec,
        Cluster(device, count, 8),
        engine=engine_name(row),
        tp=ranks,
        pp=row.count("pp"),
        attention_dp=shared,
        weights=stored,
        kv=cached,
        calibration=calibration,
    )


# How many requests TensorRT-LLM's overview of performance runs, by the lengths of prompts and answers.
_REQUESTS = {
    (128, 128): 30_000,
    (128, 2048): 3000,
    (128, 4096): 1500,
    (500, 2000): 3000,
    (1000, 1000): 3000,
    (1000, 2000): 1500,
    (2048, 128): 3000,
    (2048, 2048): 1500,
    (5000, 500): 1500,
    (20_000, 2000): 1000,
}
# What an engine keeps beside weights and cache on each device: context, workspace, graphs. Assumed, not fitted.
_BESIDE = 2.5 * GIB
_CACHE_SHARE = 0.95  # of what is left; TensorRT-LLM's benchmarks give the cache that much
_MOST_SEQUENCES = 2048  # TensorRT-LLM's default max_batch_size


@cache
def _sizes(spec: ModelSpec, stored: str, cached: str) -> tuple[float, float]:
    """Bytes of the weights, and of a token in the cache."""
    return float(weights(spec, stored).total), float(kv_cache_bytes_per_token(spec, cached))


def _room(engine: Engine, tokens: float) -> float:
    """Sequences of so many cached tokens that fit beside the weights."""
    cluster = engine.cluster
    held, token = _sizes(engine.spec, engine.weights, engine.kv)
    free = cluster.memory_bytes - held - _BESIDE * cluster.devices
    copies = 1.0 if engine.attention_dp else max(1.0, engine.tp / engine.spec.kv_heads)
    each = token * copies * tokens
    most = _MOST_SEQUENCES * (engine.tp if engine.attention_dp else 1)
    return max(1.0, min(most, _CACHE_SHARE * free / each))


def predict(row: Row, *, calibration: Mapping[str, Any] | None = None) -> Prediction:
    """The speed of one row, in the measure that its source used. Raises `LLMHWError` with the reason if it cannot."""
    known = calibration or read_calibration("serving_time")
    metric, value = row["metric"], row.positive("value", None)
    if row["gpu"] == "A100 SXM 80GB" and metric == "prefill_tok_per_s":
        raise LLMHWError("681 tokens/s on A100 SXM beside 7,504 on A100 PCIe in one table: the card was not itself")
    if metric == "tokens_per_s_total" and "MLPerf" in row["source"]:
        return _prediction(_offline(row, known), value, metric, False, known)
    engine = _engine(row, known)
    prompt, answer = row.count("isl", 0, least=0), row.count("osl", 0, least=0)
    batch = row.count("batch_or_concurrency", None) if row["batch_or_concurrency"].isdigit() else 0
    seconds = True
    if metric == "decode_tok_per_s":
        made = answer or 128
        predicted, value, seconds = 1 / engine.seconds(decoding=1, context=prompt + made / 2), value, False
    elif metric == "decode_ms_per_token":
        predicted, value = engine.seconds(decoding=1, context=prompt + answer / 2), value / 1e3
    elif metric == "prefill_tok_per_s":
        predicted, seconds = prompt / engine.prompt_seconds(prompt, chunk=512), False
    elif metric == "ttft_ms":
        if batch > 1 and "queueing" in row["notes"]:
            raise LLMHWError("requests start together and queue: this time is that of the queue")
        predicted, value = engine.seconds(prompts=max(1, batch), prompt_tokens=prompt), value / 1e3
    elif metric == "request_latency_ms":
        predicted, value = request_seconds(engine, batch=batch, prompt=prompt, answer=answer), value / 1e3
    elif metric in ("output_tokens_per_s_total", "output_tokens_per_s_per_gpu"):
        if not prompt or not answer:
            raise LLMHWError("isl or osl not stated: the lengths of prompts and answers are not known")
        seconds = False
        if batch:
            predicted = batch * answer / request_seconds(engine, batch=batch, prompt=prompt, answer=answer)
        else:
            # TensorRT-LLM admits a request only if the cache has room for its last token
            room = _room(engine, prompt + answer)
            requests = _REQUESTS.get((prompt, answer)) if "perf-overview" in row["source"] else None
            predicted = offline_tokens_per_second(engine, room=room, prompt=prompt, answer=answer, requests=requests)
        predicted /= row.count("n_gpus") if metric.endswith("per_gpu") else 1
    else:
        known_metrics = "decode_tok_per_s, prefill_tok_per_s, ttft_ms, request_latency_ms or output_tokens_..."
        raise row.error("metric", known_metrics)
    return _prediction(predicted, value, metric, seconds, known)


def _prediction(
    predicted: float, measured: float, metric: str, seconds: bool, calibration: Mapping[str, Any]
) -> Prediction:
    low, high = calibration["interval"][class_of(metric)]
    if not seconds:
        low, high = 1 / high, 1 / low
    return Prediction(
        predicted=predicted,
        measured=measured,
        unit="seconds" if seconds else "tokens/s",
        meter=class_of(metric),
        low=predicted * low,
        high=predicted * high,
    )


def above_bound(rows: Iterable[Row]) -> list[tuple[Row, float]]:
    """Rows that are faster than every datasheet's peak allows with nothing lost, and by which factor.

    Either the row or what is assumed of it must be wrong.
    """
    known = read_calibration("serving_time")
    families = {name: {"architectures": f.get("architectures", ())} for name, f in known["families"].items()}
    limit = {**known, "common": asdict(BOUND), "families": families, "engines": {name: {} for name in known["engines"]}}
    found = []
    for row in rows:
        try:
            best = predict(row, calibration=limit)
        except LLMHWError:
            continue
        faster = best.measured / best.predicted
        if best.unit == "seconds":
            faster = 1 / faster
        if faster > 1:
            found.append((row, faster))
    return found


_KEY = "model_name quant gpu n_gpus tp pp ep batch_or_concurrency isl osl metric".split()


def configuration(row: Row) -> tuple[str, ...]:
    """What was run: rows in which it is the same are one group."""
    return (*(row[name] for name in _KEY), engine_name(row))


def fit(
    rows: list[Row], *, without: Collection[str] = (), calibration: Mapping[str, Any] | None = None, fresh: bool = False
) -> dict[str, Any]:
    """The constants of an engine's time that suit these rows best; see `training_throughput.fit`."""
    known = dict(calibration or read_calibration("serving_time"))
    found: dict[tuple[str, ...], list[tuple[Row, float]]] = {}
    for row in rows:
        if source_family(row.source) in without:
            continue
        try:
            made = predict(row, calibration=known)
        except LLMHWError:
            continue
        found.setdefault((source_family(row.source), *configuration(row)), []).append((row, made.measured))
    if not found:
        raise LLMHWError("rows=[] has no row that can be predicted, so nothing can be fitted")
    data = [(same[0][0], median(value for _, value in same)) for same in found.values()]

    def residual(tried: Mapping[str, Any], i: int) -> float:
        row, measured = data[i]
        return log(predict(row, calibration=tried).predicted / measured)

    def belongs(row: Row) -> Callable[[str], bool]:
        own = ("common", f"families.{family_of(ServingConstants, _device(row), known)}", f"engines.{engine_name(row)}")
        return own.__contains__

    return fit_calibration(known, residual, [belongs(row) for row, _ in data], fresh=fresh, noise=0.08)
