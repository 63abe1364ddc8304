"""Speed of inference beside published measurements: prompts, decoded tokens, requests, and whole offline runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import cache
from math import ceil, gcd, inf, log
from typing import Any

from llmhw.catalog import read_calibration, read_measurements, read_table
from llmhw.engine import Engine, engine_of
from llmhw.hardware import Accelerator, Cluster, usual_network
from llmhw.job import ServingJob
from llmhw.model import ModelSpec
from llmhw.precision import checkpoint_name
from llmhw.rates import BOUND, ServingConstants, family_of, interval_of, on_device, spec_kind
from llmhw.service import layout_kind
from llmhw.serving import ServingMemory, memory_of
from llmhw.units import LLMHWError, maximum, minimum, shown, where
from llmhw.validation.columns import COLUMNS
from llmhw.validation.statistics import Prediction, scaled, source_family
from llmhw.validation.table import Row, split_quant, table_of

# Columns without which no row can be predicted
REQUIRED = ("model_name", "quant", "gpu", "n_gpus", "engine", "metric", "value")

# Tensor-parallel sizes that an offline run is tried with, where the source does not state one.
_LAYOUTS = (1, 2, 4, 8)


# Tokens of prompts that an engine reads in a pass; vLLM before 0.8 as many as its longest request, at least 2,048.
_PASS = {"vllm-v0": 4096, "deepspeed-mii": 2048}
_USUAL_PASS = 8192
# Engines whose stages wait for each other after each token of a batch.
_STATIC = ("fastertransformer",)
# Ranks above which nobody splits heads: attention is shared out then, whatever a table leaves out.
_MOST_RANKS = 16


def _reading(engine: Engine, prompt: float, chunk: int, prompts: float = 1) -> Any:
    """Seconds of work for each of so many prompts, where passes of `chunk` tokens follow each other."""
    together = max(1, min(int(chunk // prompt), ceil(prompts)))
    return engine.prompt_seconds(prompt, chunk=chunk, prompts=together) / together


def _in_flight(engine: Engine, prompt: float, chunk: int, prompts: float = 1) -> Any:
    """The same where all stages always have a pass to work on."""
    return _reading(replace(engine, pp=1), prompt, chunk, prompts) / engine.pp + engine.constants.sends * (
        engine.pp > 1
    )


def _token_seconds(engine: Engine, running: Any, context: float, static: bool = False) -> Any:
    """Seconds in which each of so many sequences gets a token: stages work at once, on groups of them.

    static   all groups wait for the last one before the next token
    """
    if engine.pp == 1 or engine.same:  # a batch that is one sequence in many copies is not cut into groups
        return engine.seconds(decoding=running, context=context)
    groups = minimum(engine.pp, maximum(1.0, running // 1))
    one = engine.seconds(decoding=running / groups, context=context)
    return one * (engine.pp + groups - 1) / engine.pp if static else one


def _request_seconds(
    engine: Engine, *, batch: float, prompt: float, answer: float, chunk: int = 0, static: bool = False
) -> Any:
    """A batch of equal requests that start together: all prompts, then one token of each at a time.

    Time is affine in what is cached, so that the middle of the answer stands for all of it; the last pass over the
    prompts gives the first token.

    chunk    tokens of prompts that are read at a time; 0: all of them
    static   see `_token_seconds`
    """
    if chunk:
        first = batch * _reading(engine, prompt, chunk, batch)
    else:
        first = engine.seconds(prompts=int(batch), prompt_tokens=prompt)
        if engine.pp > 1:
            groups = min(engine.pp, int(batch))
            first = engine.seconds(prompts=batch / groups, prompt_tokens=prompt) * (engine.pp + groups - 1) / engine.pp
    return first + (answer - 1) * _token_seconds(engine, batch, prompt + answer / 2, static)


def _offline_tokens_per_second(
    engine: Engine, *, room: float, prompt: float, answer: float, requests: float | None = None, chunk: int
) -> Any:
    """Output tokens per second of an engine that always has requests to admit, with in-flight batching.

    room       sequences that the cache and the engine's limit have room for
    requests   how many there are in all: equal ones end in waves, and the last wave is a smaller one; default: no end
    chunk      tokens of prompts that are read at a time

    Each token costs its share of a decoding pass, and of its prompt's.
    """
    running = maximum(1.0, room * engine.constants.running)
    reading = _in_flight(engine, prompt, chunk, room)
    context = prompt + answer / 2
    if requests is None:
        return 1 / (_token_seconds(engine, running, context) / running + reading / answer)
    running = minimum(running, requests)
    waves = requests // running
    rest = requests - waves * running
    decoding = waves * _token_seconds(engine, running, context)
    decoding = decoding + where(rest > 0, _token_seconds(engine, maximum(rest, 1.0), context), 0.0)
    return requests * answer / (requests * reading + answer * decoding)


def _in_turn(engine: Engine, *, running: float, prompt: float, answer: float) -> tuple[Any, Any]:
    """Seconds to the first token, and from one to the next, where each client sends a request after the other.

    Prompts of the others are read between two tokens, and wait for each other as in a queue with one server whose
    prompts take equally long.
    """
    reading = engine.prompt_seconds(prompt, chunk=_USUAL_PASS)
    load: dict[str, Any] = {"decoding": running, "context": prompt + answer / 2}
    step = engine.seconds(**load)
    work = engine.beside_seconds(prompt, chunk=_USUAL_PASS, prompts=max(1.0, running / answer), **load)
    busy = running * work / (running * work + answer * step)
    others = (running - 1) / running
    waiting = others * busy * work / 2 / maximum(1 - busy, 1 / running)
    return reading + waiting + others * step / 2, step + (running - 1) * work / answer


def _apart(row: Row, calibration: Mapping[str, Any] | None, prompt: float, answer: float) -> tuple[Any, Any]:
    """Requests a second, and seconds between two tokens, where devices of their own read the prompts.

    As many requests are there at a time as the row says; prompts wait where reading them takes longest.
    """
    clients, devices = row.count("batch_or_concurrency", None), row.count("prefill_gpus", None)
    readers, copies = row.count("prefill_workers"), row.count("decode_workers")
    rest = row.count("n_gpus", None) - devices
    if rest < 1 or devices % readers or rest % copies:
        raise LLMHWError(
            f"prefill_gpus={devices} of n_gpus={devices + rest} do not leave whole copies: {readers} that read prompts "
            f"and {copies} that decode"
        )
    shared = row["prefill_attention_dp"] or "false"
    first = _engine(row.with_cells(attention_dp=shared), calibration, tp=devices // readers, count=devices // readers)
    engine = _engine(row, calibration, tp=rest // copies, count=rest // copies)
    together = max(1, int(_USUAL_PASS // prompt)) * (first.tp if first.attention_dp else 1)
    fastest = readers * together / first.prompt_seconds(prompt, chunk=_USUAL_PASS, prompts=together)
    reading = first.prompt_seconds(prompt, chunk=_USUAL_PASS)
    decoding: Any = float(clients)
    for _ in range(4):  # each token takes little longer with more sequences, so that this settles
        each = engine.seconds(decoding=maximum(1.0, decoding / copies), context=prompt + answer / 2)
        rate = minimum(fastest, clients / (reading + answer * each))
        decoding = rate * answer * each
    return rate, each


def _class_of(metric: str) -> str:
    """Which measured errors speak for a prediction: throughput of batches, single-stream decode, or prompts."""
    if metric.startswith("decode"):
        return "decode"
    return "prefill" if metric.startswith(("prefill", "ttft")) else "throughput"


# Limits hold for 99 of 100 requests, and what is predicted is a mean: the time between tokens at the 99th percentile
# over its mean, with which 110 rows of MLPerf v5.1's Server and Interactive are as far off as its Offline rows of the
# same devices (ratio 1.05 and 1.2 in the median).
_TAIL = 1.6


@cache
def _scenario(model: str, scenario: str) -> Mapping[str, str] | None:
    """What MLPerf's rules say of a benchmark: lengths and limits on latency."""
    rows = read_table("mlperf")
    return next((row for row in rows if (row["model"], row["scenario"]) == (model, scenario.casefold())), None)


def _mlperf(row: Row, calibration: Mapping[str, Any]) -> Any:
    """Tokens a second with the fastest layout: all requests at once, or as many as the scenario's limits allow."""
    spec, scenario = row.spec(), row["batch_or_concurrency"]
    rules = _scenario(spec.name, scenario) or {}
    if not rules and not (row["mean_isl"] and row["mean_osl"] and scenario.casefold() == "offline"):
        raise LLMHWError(
            f"the lengths of the data set, or the limits, of {spec.name} in scenario={shown(scenario)} are not known; "
            "give isl and osl, and batch_or_concurrency as a number"
        )
    prompt = row.count("mean_isl", int(rules.get("mean_isl", 0)))
    answer = row.count("mean_osl", int(rules.get("mean_osl", 0)))
    limits = [float(rules.get(name) or inf) for name in ("ttft_seconds", "tpot_seconds")]
    count, best, found = row.count("n_gpus", None), 0.0, False
    for tp in _LAYOUTS:
        if count % tp:
            continue
        engine = _engine(row, calibration, tp=tp, count=tp)
        room = _room(row, engine, prompt + answer / 2)
        if room > 1:
            speed = _within(engine, *limits, room=room, prompt=prompt, answer=answer)
            best, found = maximum(best, count / tp * speed), True
    if not found:
        raise LLMHWError(f"the weights do not fit on up to 8 of {count} devices, or its limits allow no request")
    return best


def _within(engine: Engine, ttft: float, tpot: float, *, room: float, prompt: float, answer: float) -> Any:
    """Output tokens a second of the busiest engine whose requests, which arrive at random, keep to these limits.

    Prompts are read between the tokens of all others. They wait for each other as in a queue with one server and
    equal services, whose tail falls by e every `service x busy / 2 (1 - busy)`.
    """
    if ttft == tpot == inf:
        return _offline_tokens_per_second(engine, room=room, prompt=prompt, answer=answer, chunk=_USUAL_PASS)
    reading = engine.prompt_seconds(prompt, chunk=8192)
    together = max(1, int(8192 // prompt))
    shared = engine.prompt_seconds(prompt, chunk=8192, prompts=together) / together
    low, high = 0.0, max(1.0, room * engine.constants.running)
    for _ in range(12):
        running = (low + high) / 2
        step = engine.seconds(decoding=max(1.0, running), context=prompt + answer / 2)
        each = step + running * shared / answer
        busy = running * shared / (answer * each)
        late = reading + step + log(100) * reading * busy / 2 / (1 - busy)
        low, high = (running, high) if each * _TAIL <= tpot and late <= ttft else (low, running)
    if not low:
        return 0.0
    step = engine.seconds(decoding=max(1.0, low), context=prompt + answer / 2)
    return float(low / (step + low * shared / answer))


# Engines by the word that names them, each with its generations: the version and the year from which it is another.
_GENERATIONS: dict[str, tuple[tuple[tuple[int, int], int, str], ...]] = {
    "fastertransformer": (((0, 0), 0, "fastertransformer"),),
    "lmdeploy": (((0, 0), 0, "lmdeploy"),),
    "litgpt": (((0, 0), 0, "litgpt"),),
    "deepspeed": (((0, 0), 0, "deepspeed-mii"),),
    "exllama": (((0, 0), 0, "exllama"),),
    "mlx": (((0, 0), 0, "mlx"),),
    **dict.fromkeys(("llama.cpp", "ollama", "lm studio", "koboldcpp"), (((0, 0), 0, "llama-cpp"),)),
    "sglang": (((0, 0), 0, "sglang"),),
    "tensorrt-llm": (
        ((0, 0), 0, "tensorrt-llm-2023"),
        ((0, 10), 2024, "tensorrt-llm-2025"),
        ((1, 0), 2025, "tensorrt-llm-pytorch"),
    ),
    "tensorrt": (((0, 0), 0, "tensorrt-llm-2025"),),  # MLPerf's name of it
    **dict.fromkeys(("vllm", "mango"), (((0, 0), 0, "vllm-v0"), ((0, 8), 2025, "vllm-v1"))),
    "tgi": (((0, 0), 0, "tgi"),),
    "transformers": (((0, 0), 0, "transformers"),),
}
# Whose constants time an engine that has none of its own in `calibration.json`.
_BORROWED = {"tgi": "tensorrt-llm-2025"}


@cache
def software_of(engine: str, year: str = "") -> str:
    """Which engine ran, in which generation, by its name with or without a version; "" for one that is not known.

    year   of the measurement, for an engine without a version; none: the newest

    >>> software_of("vLLM 0.6.1 (ROCm)"), software_of("vllm", "2024"), software_of("Dynamo + SGLang v0.5")
    ('vllm-v0', 'vllm-v0', 'sglang')
    """
    text = engine.casefold().replace("tensorrt_llm", "tensorrt-llm").replace("trt-llm", "tensorrt-llm")
    for word, generations in _GENERATIONS.items():
        if word not in text:
            continue
        if word == "tensorrt-llm" and "pytorch" in text:
            return generations[-1][2]
        found = re.search(rf"(?:{re.escape(word)}[ _:v-]{{0,3}}|release:)(\d+)\.(\d+)", text)
        version = (int(found[1]), int(found[2])) if found else None
        now = float(year) if year.isdigit() else inf
        since = [name for first, since, name in generations if (version >= first if version else now >= since)]
        return since[-1]
    return ""


def _constants_of(row: Row, engines: Mapping[str, Any]) -> str:
    """The name in `engines` of the constants that time a row: its own, borrowed, or the engine's name."""
    name = row["software"] or software_of(row["engine"], row["year"]) or row["engine"]
    name = f"{name}-{row['backends']}" if f"{name}-{row['backends']}" in engines else name
    return name if name in engines else _BORROWED.get(name, name)


def _formats(row: Row, spec: ModelSpec, device: Accelerator) -> tuple[str, str]:
    """Formats of weights and cache: as stated, else the usual file of llama.cpp, or what the checkpoint is in."""
    files = _constants_of(row, {}) == "llama-cpp"
    weights = row.number_format("Q4_K_M" if files else checkpoint_name(spec))
    if weights == "nvfp4" and device.vendor == "AMD" and "nv" not in row["quant"].casefold():
        weights = "mxfp4"
    if not row["weights"] and weights == "fp8" and spec.checkpoint.method and checkpoint_name(spec) == "fp8-block":
        weights = "fp8-block"
    if files and (weights == "mxfp4" or (not row["weights"] + row["quant"] and spec.checkpoint.method == "mxfp4")):
        weights = "MXFP4_MOE"
    return weights, row["kv_dtype"] or split_quant(row["quant"])[1] or "bf16"


def assumed(row: Row) -> frozenset[str]:
    """What a row does not state, and is taken as usual: its own word for it, and what its empty cells say."""
    own = set(row["assumed"].split())
    offline = row["metric"] == "tokens_per_s_total"
    if not row["tp"] and not row["prefill_gpus"] and row["n_gpus"] not in ("", "1"):
        own.add("tp")
    if not (row["isl"] or row["mean_isl"] or offline):
        own.add("lengths")
    if not (row["weights"] or row["quant"]):
        own.add("weights")
    return frozenset(own)


def _layout(row: Row) -> tuple[int, int]:
    """Tensor-parallel ranks and pipeline stages: as stated, or the engine's usual way to use all devices.

    llama.cpp deals layers to its devices, all others split tensors inside a node.
    """
    devices, tp, pp = row.count("n_gpus", None), row.count("tp", 0), row.count("pp", 0)
    layers = _constants_of(row, {}) == "llama-cpp"
    if not tp:
        tp = 1 if layers else devices // pp if pp else devices
        if tp > 8:
            raise LLMHWError("tp not stated, so the layout is not known")
    if row["ep"] and tp * max(1, pp) * row.count("ep") == devices:
        tp *= row.count("ep")  # ranks of experts beside those of tensors: attention is split over all
    return tp, pp or (max(1, devices // tp) if layers else 1)


def _cluster(device: Accelerator, count: int) -> Cluster:
    """So many devices in usual nodes, with the usual network between them, or 400 Gb/s each where none is known."""
    usual = max(8, device.scale_up_devices)
    nodes = gcd(count, usual) if count > usual else usual
    between = usual_network(device) or "InfiniBand NDR 4x" if count > nodes else None
    return Cluster(device, count, nodes, inter_link=between)


def _engine(row: Row, calibration: Mapping[str, Any] | None, *, tp: int = 0, count: int = 0) -> Engine:
    """The engine of a row; `tp`, `count`: other ranks and devices than the row's, of one stage."""
    ranks, stages = (tp, 1) if tp else _layout(row)
    shared = ranks > 1 and bool(row.flag("attention_dp"))
    known = calibration or read_calibration("serving_time")
    spec, device = row.spec(), row.device(usual=True)
    weights, kv = _formats(row, spec, device)
    return engine_of(
        spec,
        _cluster(device, count or row.count("n_gpus", None)),
        engine=_constants_of(row, known["engines"]),
        tp=ranks,
        pp=stages,
        attention_dp=shared,
        # groups that only read prompts, or only decode, send tokens to experts by all-to-all
        ep=ranks if shared and row["prefill_gpus"] else 1,
        weights=weights,
        kv=kv,
        calibration=calibration,
    )


# Engines whose memory plan holds for a software of the measurements; the others allocate what they are asked for.
_PLANNED = {
    "vllm-v0": "vllm:0.6",
    "vllm-v1": "vllm",
    "sglang": "sglang",
    "tensorrt-llm-2023": "tensorrt-llm",
    "tensorrt-llm-2025": "tensorrt-llm",
    "tensorrt-llm-pytorch": "tensorrt-llm-pytorch",
    "tgi": "tgi",
}
_MOST_SEQUENCES = 2048  # TensorRT-LLM's default max_batch_size


@cache
def _planned(spec: ModelSpec, cluster: Cluster, software: str, **job: Any) -> ServingMemory:
    """What the software plans for that model on those devices; at the longest, as a request needs it."""
    return memory_of(ServingJob(model=spec, cluster=cluster, engine=_PLANNED[software], **job))


def _room(row: Row, engine: Engine, tokens: float) -> float:
    """Sequences of so many cached tokens that fit beside the weights, and that a scheduler takes."""
    ranks = {"tp": 1, "attention_dp": engine.tp, "ep": engine.ep} if engine.attention_dp else {"tp": engine.tp}
    software = row["software"] or software_of(row["engine"], row["year"])
    most = _MOST_SEQUENCES * (engine.tp if engine.attention_dp else 1)
    if software not in _PLANNED:
        return most
    limit = max(int(tokens), engine.spec.max_seq_len or 0)
    ranks |= {"pp": engine.pp, "max_model_len": limit}
    held = _planned(engine.spec, engine.cluster, software, weights=engine.weights, kv=engine.kv, **ranks)
    return max(1.0, min(most, held.sequences(int(tokens))))


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
    **{
        f"{of}_ttft_{unit}": ("ttft_ms", factor)
        for of in ("mean", "median")
        for unit, factor in (("ms", 1), ("s", 1e3))
    },
}
# Tokens of answers, or of prompts and answers, in a second.
_RATES = tuple(f"{of}_tokens_per_s_{over}" for of in ("output", "in_plus_out") for over in ("total", "per_gpu"))


def predict(row: Row, *, calibration: Mapping[str, Any] | None = None) -> Prediction:
    """The speed of one row, in the measure that its source used. Raises `LLMHWError` with the reason if it cannot."""
    known = calibration or read_calibration("serving_time")
    predicted, measured, metric, seconds = _speed(row, known)
    unit, meter = "seconds" if seconds else "tokens/s", _class_of(metric)
    fitted = known.get("fitted", {})
    new = [name for name, found in kinds_of(row, known).items() if found not in fitted.get(name, (found,))]
    low, high = scaled(predicted, interval_of(known, meter, new), unit)
    return Prediction(predicted=predicted, measured=measured, unit=unit, meter=meter, low=low, high=high)


def _speed(row: Row, known: Mapping[str, Any]) -> tuple[Any, float, str, bool]:
    """What is predicted and what was measured, of which metric, and whether it is seconds or tokens a second."""
    metric, value = row["metric"], row.positive("value", None)
    metric, factor = _OTHER_METRICS.get(metric, (metric, 1.0))
    value *= factor
    if metric == "tokens_per_s_total":
        return _mlperf(row, known), value, metric, False
    prompt = row.count("mean_isl", row.count("isl", 0, least=0), least=0)
    answer = row.count("mean_osl", row.count("osl", 0, least=0), least=0)
    batch = row.count("batch_or_concurrency", None) if row["batch_or_concurrency"].isdigit() else 0
    requests = row.count("requests", 0)
    seconds = not metric.endswith(("tok_per_s", *_RATES))
    value *= 1e-3 if seconds else 1
    if metric in _RATES and not (prompt and answer):
        raise LLMHWError("isl or osl not stated: the lengths of prompts and answers are not known")
    if row["prefill_gpus"]:
        rate, each = _apart(row, known, prompt, answer)
        if metric == "tpot_ms":
            return each, value, metric, seconds
        if metric not in _RATES:
            raise LLMHWError(f"metric={row['metric']!r} is not predicted where devices of their own read prompts")
        return _counted(row, rate * answer, prompt, answer), value, metric, seconds
    engine = _engine(row, known)
    past, chunk = row.count("past", 0, least=0), row.count("n_ubatch", 0)
    name = row["software"] or software_of(row["engine"], row["year"])
    if name.startswith("tensorrt-llm") and batch and not requests:
        engine = replace(engine, same=True)  # its benchmarks of a batch give every sequence the same tokens
    run: dict[str, Any] = {"prompt": prompt, "answer": answer}
    static = name in _STATIC
    usual = chunk or (0 if static else _PASS.get(name, _USUAL_PASS))
    if metric == "decode_tok_per_s":
        predicted = 1 / engine.seconds(decoding=1, context=prompt + (answer or 128) / 2)
    elif metric == "decode_ms_per_token":
        predicted = engine.seconds(decoding=1, context=prompt + answer / 2)
    elif metric == "prefill_tok_per_s":
        predicted = prompt / engine.prompt_seconds(prompt, chunk=chunk or 512, past=past)
    elif metric in ("tpot_ms", "ttft_ms") and requests > batch > 0:
        first, each = _in_turn(engine, running=batch, prompt=prompt, answer=answer)
        predicted = each if metric == "tpot_ms" else first
    elif metric == "tpot_ms":
        predicted = _token_seconds(engine, max(1, batch), prompt + answer / 2, static)
    elif metric == "ttft_ms":
        predicted = _request_seconds(engine, batch=max(1, batch), prompt=prompt, answer=1, chunk=usual)
    elif metric == "request_latency_ms":
        predicted = _request_seconds(engine, batch=batch, **run, chunk=usual, static=static)
    elif metric in _RATES:
        if batch and batch <= _room(row, engine, prompt + answer):
            predicted = batch * answer / _request_seconds(engine, batch=batch, **run, chunk=usual, static=static)
        else:
            # TensorRT-LLM admits a request only if the cache has room for its last token
            room = _room(row, engine, prompt + answer)
            many = requests or batch or None
            predicted = _offline_tokens_per_second(engine, room=room, **run, requests=many, chunk=usual)
        predicted = _counted(row, predicted, prompt, answer)
    else:
        raise row.error("metric", f"one of {', '.join(COLUMNS['metric'].choices)}")
    return predicted, value, metric, seconds


def _counted(row: Row, answers: Any, prompt: float, answer: float) -> Any:
    """Tokens of answers a second, as the row's metric counts them."""
    answers *= (prompt + answer) / answer if row["metric"].startswith("in_plus_out") else 1
    return answers / (row.count("n_gpus") if row["metric"].endswith("per_gpu") else 1)


def above_bound(rows: Iterable[Row] | None = None) -> list[tuple[Row, float]]:
    """Rows that are faster than every datasheet's peak allows with nothing lost, and by which factor.

    rows   of a table of measurements; default: the catalog's

    Either the row or what is assumed of it must be wrong.
    """
    known = read_calibration("serving_time")
    families = {name: {"architectures": f.get("architectures", ())} for name, f in known["families"].items()}
    bare: dict[str, Any] = {group: {name: {} for name in known[group]} for group in ("links", "engines")}
    limit = {**known, **bare, "common": asdict(BOUND), "families": families}
    found = []
    for row in table_of(read_measurements("inference_throughput")).rows if rows is None else rows:
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


_KEY = (
    "model_name quant gpu n_gpus tp pp ep batch_or_concurrency isl osl metric kv_dtype backends past n_ubatch "
    "flash_attn prefill_gpus prefill_workers decode_workers attention_dp"
).split()


def configuration(row: Row) -> tuple[str, ...]:
    """What was run: rows in which it is the same are one group."""
    return (*(row[name] for name in _KEY), row["software"] or row["engine"])


def noted(row: Row, calibration: Mapping[str, Any]) -> Any:
    """What is predicted for a row with numbers on a tape in place of constants.

    Raises `LLMHWError` for MLPerf's scenarios with limits, which a search answers: they are judged, not fitted.
    """
    if row["metric"] == "tokens_per_s_total" and row["batch_or_concurrency"].casefold() != "offline":
        raise LLMHWError("a scenario with limits on latency is not fitted")
    return _speed(row, calibration)[0]


def kinds_of(row: Row, calibration: Mapping[str, Any]) -> dict[str, str]:
    """What a row is of: everything that a fit may never have seen."""
    spec = row.spec()
    device = row.device(usual=True)
    family = family_of(ServingConstants, device, calibration)
    return {
        "source": row["cluster"] or source_family(row.source),
        "family": device.architecture if family == "other" else family,
        "engine": on_device(_constants_of(row, calibration["engines"]), device, calibration["engines"]),
        "layout": _layout_kind(row),
        "model": spec_kind(spec),
        "assumed": "yes" if assumed(row) else "",
    }


def _layout_kind(row: Row) -> str:
    try:
        tp, pp = (2, 1) if row["prefill_gpus"] or (row["mean_isl"] and not row["tp"]) else _layout(row)
    except LLMHWError:
        tp, pp = 2, 1
    return layout_kind(tp, pp, row.flag("attention_dp") or False, row.count("n_gpus"))
