"""Speed of inference beside published measurements: prompts, decoded tokens, requests, and whole offline runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import cache, partial
from typing import Any

from llmhw.catalog import read_calibration
from llmhw.engine import Engine, engine_of
from llmhw.engines import engine_names, serving_engine
from llmhw.hardware import Cluster
from llmhw.memory import kv_cache_bytes_per_token
from llmhw.model import ModelSpec
from llmhw.precision import weight_bytes
from llmhw.rates import BOUND, ServingConstants, family_of
from llmhw.service import lender
from llmhw.units import GIB, LLMHWError, maximum, minimum
from llmhw.validation.columns import COLUMNS
from llmhw.validation.statistics import Prediction, scaled
from llmhw.validation.table import Row

# Columns without which no row can be predicted
REQUIRED = ("model_name", "quant", "gpu", "n_gpus", "engine", "metric", "value")

# Tensor-parallel sizes that an offline run is tried with, where the source does not state one.
_LAYOUTS = (1, 2, 4, 8)


def _request_seconds(engine: Engine, *, batch: float, prompt: float, answer: float) -> Any:
    """A batch of equal requests that start together: all prompts, then one token of each at a time.

    Time is affine in what is cached, so that the middle of the answer stands for all of it.
    """
    first = engine.seconds(prompts=int(batch), prompt_tokens=prompt)
    return first + answer * engine.seconds(decoding=batch, context=prompt + answer / 2)


def _offline_tokens_per_second(
    engine: Engine, *, room: float, prompt: float, answer: float, requests: float | None = None
) -> Any:
    """Output tokens per second of an engine that always has requests to admit, with in-flight batching.

    room       sequences that the cache and the engine's limit have room for
    requests   how many there are in all: equal ones end in waves, and the last wave is a smaller one; default: no end

    Each token costs its share of a decoding pass, and of its prompt's. Prompts are read some 8,192 tokens at a time.
    """
    running = maximum(1.0, room * engine.constants.running)
    together = max(1, int(8192 // prompt))
    reading = engine.prompt_seconds(prompt, chunk=8192, prompts=together) / together
    context = prompt + answer / 2
    if requests is None:
        return 1 / (engine.seconds(decoding=running, context=context) / running + reading / answer)
    running = minimum(running, requests)
    waves = requests // running
    decoding = waves * engine.seconds(decoding=running, context=context)
    decoding += engine.seconds(decoding=requests - waves * running, context=context)
    return requests * answer / (requests * reading + answer * decoding)


def _class_of(metric: str) -> str:
    """Which measured errors speak for a prediction: throughput of batches, single-stream decode, or prompts."""
    if metric.startswith("decode"):
        return "decode"
    return "prefill" if metric.startswith(("prefill", "ttft")) else "throughput"


def _offline(row: Row, calibration: Mapping[str, Any]) -> Any:
    """All requests are there from the start, and the layout is the fastest (MLPerf's offline scenario)."""
    prompt, answer = row.count("mean_isl", None), row.count("mean_osl", None)
    count, best, found = row.count("n_gpus", None), 0.0, False
    for tp in _LAYOUTS:
        if count % tp:
            continue
        engine = _engine(row, calibration, tp=tp, count=tp)
        room = _room(engine, prompt + answer / 2)
        if room > 1:
            speed = _offline_tokens_per_second(engine, room=room, prompt=prompt, answer=answer)
            best = maximum(best, count / tp * speed)
            found = True
    if not found:
        raise LLMHWError(f"the weights do not fit on up to 8 of {count} devices")
    return best


def _constants_of(name: str) -> str:
    """The constants of the engine that a table calls so, which may be with a version; the name itself if none is."""
    word = name.casefold()
    for engine in map(serving_engine, engine_names()):
        if word.startswith((engine.name, engine.measured_as.casefold(), *engine.aliases)):
            return lender(engine).constants
    return next((known for known in read_calibration("serving_time")["engines"] if word.startswith(known)), name)


def _engine(row: Row, calibration: Mapping[str, Any] | None, *, tp: int = 0, count: int = 0) -> Engine:
    if not (tp or row["tp"]) and row.count("n_gpus", default=0) == 1:
        tp = 1  # there is nothing to lay out
    if not (tp or row["tp"]):
        raise LLMHWError("tp not stated, so the layout is not known")
    ranks = tp or row.count("tp")
    return engine_of(
        row.spec(),
        Cluster(row.device(), count or row.count("n_gpus", None), 8),
        engine=row["software"] or _constants_of(row["engine"]),
        tp=ranks,
        pp=row.count("pp"),
        attention_dp=ranks > 1 and bool(row.flag("attention_dp")),
        weights=row.number_format(),
        kv=row["kv_dtype"] or "bf16",
        calibration=calibration,
    )


# What an engine keeps beside weights and cache on each device: context, workspace, graphs. Assumed, not fitted.
_BESIDE = 2.5 * GIB
_CACHE_SHARE = 0.95  # of what is left; TensorRT-LLM's benchmarks give the cache that much
_MOST_SEQUENCES = 2048  # TensorRT-LLM's default max_batch_size


@cache
def _sizes(spec: ModelSpec, stored: str, cached: str) -> tuple[float, float]:
    """Bytes of the weights, and of a token in the cache."""
    return weight_bytes(spec, stored), float(kv_cache_bytes_per_token(spec, cached))


def _room(engine: Engine, tokens: float) -> float:
    """Sequences of so many cached tokens that fit beside the weights."""
    cluster = engine.cluster
    held, token = _sizes(engine.spec, engine.weights, engine.kv)
    free = cluster.memory_bytes - held - _BESIDE * cluster.devices
    copies = 1.0 if engine.attention_dp else max(1.0, engine.tp / engine.spec.kv_heads)
    each = token * copies * tokens
    most = _MOST_SEQUENCES * (engine.tp if engine.attention_dp else 1)
    return max(1.0, min(most, _CACHE_SHARE * free / each))


# Metrics that are another one in another unit, or what of its spread is told.
_OTHER_METRICS = {
    **{
        f"{of}_tpot_{unit}": ("tpot_ms", factor)
        for of in ("mean", "median")
        for unit, factor in (("ms", 1), ("s", 1e3))
    },
    "batch_latency_ms": ("request_latency_ms", 1),
    "batch_latency_s": ("request_latency_ms", 1e3),
    "request_latency_s": ("request_latency_ms", 1e3),
}
# Tokens of answers, or of prompts and answers, in a second.
_RATES = tuple(f"{of}_tokens_per_s_{over}" for of in ("output", "in_plus_out") for over in ("total", "per_gpu"))


def predict(row: Row, *, calibration: Mapping[str, Any] | None = None) -> Prediction:
    """The speed of one row, in the measure that its source used. Raises `LLMHWError` with the reason if it cannot."""
    known = calibration or read_calibration("serving_time")
    metric, value = row["metric"], row.positive("value", None)
    metric, factor = _OTHER_METRICS.get(metric, (metric, 1.0))
    value *= factor
    if metric == "tokens_per_s_total" and row["mean_isl"]:
        return _prediction(_offline(row, known), value, metric, False, known)
    engine = _engine(row, known)
    prompt, answer = row.count("isl", 0, least=0), row.count("osl", 0, least=0)
    batch = row.count("batch_or_concurrency", None) if row["batch_or_concurrency"].isdigit() else 0
    seconds = True
    if metric == "decode_tok_per_s":
        made = answer or 128
        predicted, value, seconds = 1 / engine.seconds(decoding=1, context=prompt + made / 2), value, False
    elif metric == "decode_ms_per_token":
        predicted, value = engine.seconds(decoding=1, context=prompt + answer / 2), value * 1e-3
    elif metric == "tpot_ms":
        predicted, value = engine.seconds(decoding=max(1, batch), context=prompt + answer / 2), value * 1e-3
    elif metric == "prefill_tok_per_s":
        predicted, seconds = prompt / engine.prompt_seconds(prompt, chunk=512), False
    elif metric == "ttft_ms":
        predicted, value = engine.seconds(prompts=max(1, batch), prompt_tokens=prompt), value * 1e-3
    elif metric == "request_latency_ms":
        predicted, value = _request_seconds(engine, batch=batch, prompt=prompt, answer=answer), value * 1e-3
    elif metric in _RATES:
        if not prompt or not answer:
            raise LLMHWError("isl or osl not stated: the lengths of prompts and answers are not known")
        seconds = False
        if batch:
            predicted = batch * answer / _request_seconds(engine, batch=batch, prompt=prompt, answer=answer)
        else:
            # TensorRT-LLM admits a request only if the cache has room for its last token
            room = _room(engine, prompt + answer)
            requests = row.count("requests", 0) or None
            predicted = _offline_tokens_per_second(engine, room=room, prompt=prompt, answer=answer, requests=requests)
        predicted *= (prompt + answer) / answer if metric.startswith("in_plus_out") else 1
        predicted /= row.count("n_gpus") if metric.endswith("per_gpu") else 1
    else:
        raise row.error("metric", f"one of {', '.join(COLUMNS['metric'].choices)}")
    return _prediction(predicted, value, metric, seconds, known)


def _prediction(
    predicted: Any, measured: float, metric: str, seconds: bool, calibration: Mapping[str, Any]
) -> Prediction:
    unit, meter = "seconds" if seconds else "tokens/s", _class_of(metric)
    low, high = scaled(predicted, calibration["interval"].get(meter), unit)
    return Prediction(predicted=predicted, measured=measured, unit=unit, meter=meter, low=low, high=high)


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
    return (*(row[name] for name in _KEY), row["software"] or row["engine"])


def again(row: Row, calibration: Mapping[str, Any]) -> Callable[..., Prediction]:
    """`predict` of this row under other constants."""
    return partial(predict, row)


def groups_of(row: Row, calibration: Mapping[str, Any]) -> tuple[str, ...]:
    """The groups of constants that time this row."""
    family = family_of(ServingConstants, row.device(), calibration)
    return "common", f"families.{family}", f"engines.{row['software'] or row['engine']}"
