"""Throughput of training beside published measurements."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache
from math import log
from statistics import median
from typing import Any

from llmhw.catalog import model_names, read_calibration, read_model
from llmhw.flops import convention_flops, training_flops
from llmhw.hardware import Accelerator, Cluster, Link, accelerator
from llmhw.job import Parallelism, TrainingJob
from llmhw.model import ModelSpec
from llmhw.rates import TrainingConstants, family_of
from llmhw.step_time import class_of, time_step
from llmhw.training import memory
from llmhw.units import GB, LLMHWError
from llmhw.validation.regression import fit_calibration
from llmhw.validation.statistics import Prediction, source_family
from llmhw.validation.table import Row

# Columns without which no row can be predicted
REQUIRED = ("model_name", "gpu", "n_gpus", "seq_len", "global_batch", "measured_kind", "measured_value")

# -- models -----------------------------------------------------------------------------------

# Names of mixtures of experts, which no table's columns describe; dense models are built from their columns.
_EXPERTS = {
    "deepseek-v3": "deepseek-v3",
    "deepseek-v2": "deepseek-v2",
    "deepseek": "deepseek-v3",
    "mixtral": "mixtral-8x7b",
    "qwen3-30b-a3b": "qwen3-30b-a3b",
    "qwen3-235b-a22b": "qwen3-235b-a22b",
}


@cache
def _resized(base: str, layers: int, dense: int | None) -> ModelSpec:
    config = dict(read_model(base)[1])
    if layers:
        config["num_hidden_layers"] = layers
    if dense is not None and "first_k_dense_replace" in config:
        config["first_k_dense_replace"] = dense
    return ModelSpec.from_config(config, name=base)


@cache
def _dense(layers: int, hidden: int, heads: int, kv_heads: int, inner: int, vocab: int, seq_len: int) -> ModelSpec:
    """A GPT where the feed-forward part is 4 x hidden wide and every head has its own keys, else a Llama."""
    if inner == 4 * hidden and kv_heads == heads:
        return ModelSpec.from_config(
            {
                "model_type": "gpt2",
                "n_embd": hidden,
                "n_layer": layers,
                "n_head": heads,
                "n_inner": inner,
                "vocab_size": vocab,
                "n_positions": seq_len,
            },
            name="gpt",
        )
    return ModelSpec.from_config(
        {
            "model_type": "llama",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": inner,
            "vocab_size": vocab,
            "tie_word_embeddings": False,
        },
        name="llama",
    )


def _spec(row: Row) -> ModelSpec:
    name = row["model_name"].lower()
    layers = row.count("n_layers", 0, least=0)
    for part, base in _EXPERTS.items():
        if part in name:
            # SimuMax cuts DeepSeek models down to one dense layer and the rest of experts
            return _resized(base, layers, 1 if "truncated" in name else None)
    columns = ("n_layers", "d_model", "n_heads", "d_ff", "vocab")
    missing = [column for column in columns if not row[column]]
    if missing:
        short = re.sub(r"\s+(sft|lora|qlora|full|\(.*\))$", "", name)
        if short in model_names():
            return _resized(short, layers, None)
        raise LLMHWError(f"{', '.join(missing)} not stated, and model_name={row['model_name']!r} is not in the catalog")
    hidden, heads = row.count("d_model"), row.count("n_heads")
    kv_heads = row.count("n_kv_heads", heads)
    if hidden % heads and "BLOOM" in row["source"]:
        heads = kv_heads = 64  # "all NHEADS=64 (above too)": 96 does not divide 14336
    return _dense(
        layers,
        hidden,
        heads,
        kv_heads,
        row.count("d_ff"),
        row.count("vocab"),
        row.count("seq_len"),
    )


# -- clusters ---------------------------------------------------------------------------------

# Network adapters of a device, in GB/s, where the source does not state them: those of the usual machine.
_ADAPTERS = {"Ampere": 25.0, "Blackwell Ultra": 100.0}
_USUAL_ADAPTER = 50.0
_GIGABITS = re.compile(r"(\d+)\s*(?:x\s*)?(?:[A-Za-z]+\s*)?(\d*)\s*Gb/s\s*per\s*(node|GPU)", re.IGNORECASE)


def _device(row: Row) -> Accelerator:
    text = row["gpu"]
    if not text:
        return row.device()
    if "HBM2e-500W" in text:
        # torchtitan's H100: 96 GB of HBM2e, 2.4 TB/s, 500 W
        return replace(
            accelerator("H100 SXM5 80GB"),
            name="H100 96GB HBM2e 500W",
            memory_bandwidth_bytes_per_second=2400 * GB,
            memory_bytes=96 * 10**9,
            tdp_watts=500.0,
        )
    name = re.sub(r"Blackwell GPU \((.*)\)", r"\1", text.replace("NVIDIA", "").replace("AMD Instinct", "")).strip()
    usual = {"A100-80GB": "A100 80GB SXM4", "H100-SXM-80GB": "H100 SXM5 80GB"}
    name = usual.get(name, name)
    short = re.match(r"MI3\d\dX|B200|B300|GB200|GB300|H200-NVL|H200-SXM", name)
    return accelerator(short.group(0).replace("-", " ") if short else name)


def _adapter(row: Row, device: Accelerator) -> float:
    """Bytes per second and direction of one device's network adapter."""
    text = row["interconnect"]
    found = _GIGABITS.search(text)
    if "4xOmniPath" in text:
        return 400 / 8 / 8 * GB
    if found:
        return float(found[2] or found[1]) / 8 / (8 if found[3].lower() == "node" else 1) * GB
    for part, rate in _ADAPTERS.items():
        if part in device.architecture:
            return rate * GB
    return _USUAL_ADAPTER * GB


def _cluster(row: Row) -> Cluster:
    device, count = _device(row), row.count("n_gpus", None)
    domain = device.scale_up_devices
    per_node = domain if domain > 2 else 8
    if count > per_node:
        # jobs fill racks of 72 in eights
        per_node = next(n for n in (per_node, 64, 32, 16, 8, 4, 2, 1) if n <= per_node and count % n == 0)
    between = Link("adapter", "scale-out", _adapter(row, device))
    return Cluster(device, count, per_node, inter_link=between)


# -- software ---------------------------------------------------------------------------------


def _release(row: Row) -> float:
    """Year and month of a container, such as 26.06; the middle of the year where the source names none."""
    found = re.search(r"\b(2\d\.\d\d)(?:\.\d\d)?$", row["source"].strip())
    if found:
        return float(found[1])
    return row.number("year", 2025) - 2000 + 0.065


def software(row: Row) -> str:
    """Which software ran, by what the source says of it: a name of `calibration.json`."""
    text = f"{row['source']} {row['notes']}".lower()
    year = row.number("year", 2025)
    sharded = row["zero_stage"].lower() in ("3", "fsdp")
    if "foundry" in text or "mosaic" in text:
        return "fsdp-2023"
    nvidia = any(word in text for word in ("nvidia", "nemo", "megatron", "mlperf"))
    if any(word in text for word in ("torchtitan", "torchtune", "fsdp2")) or (sharded and year > 2022 and not nvidia):
        if "async" in row["notes"].lower():
            return "torch-async-tp"
        return "torch-compile" if "compile" in text else "torch"
    if "bloom" in text:
        return "megatron-deepspeed"
    if year <= 2022:
        return "deepspeed-zero3" if sharded else "megatron-2021" if year < 2022 else "megatron-2022"
    if "overlap off" in text:
        return "megatron-no-overlap"
    if "token-drop" in text and "dropless" not in text:
        return "megatron-token-drop"
    release = _release(row)
    return "megatron-2024" if release < 25 else "megatron-2025" if release < 26.05 else "megatron-2026"


# -- jobs -------------------------------------------------------------------------------------

_COMPUTE = {
    "bf16": "bf16",
    "fp16": "fp16",
    "fp8": "fp8",
    "fp8-cs": "fp8",
    "mxfp8": "mxfp8",
    "fp8-mx": "mxfp8",
    "nvfp4": "nvfp4",
    "fp32": "fp32",
    "tf32": "tf32",
}


def _compute(row: Row, device: Accelerator) -> str:
    """The number format of matrix products; Hopper scales blocks in software, Blackwell in its multipliers."""
    word = row["precision"].lower().split(" ")[0].split("/")[0] or "bf16"
    if word not in _COMPUTE:
        raise row.error("precision", f"one of {', '.join(_COMPUTE)}")
    found = _COMPUTE[word]
    return "fp8-block" if found == "mxfp8" and "Hopper" in device.architecture else found


def _recompute(row: Row, torch: bool) -> str:
    text = row["notes"].lower()
    if "recompute" in text and "mlp" in text:
        raise LLMHWError("recomputes the feed-forward part, which `recompute` does not offer")
    if "selective op" in text or "per-op" in text:
        return "per-op"
    if "selective layer" in text:
        return "block"
    stated = row["recompute"]
    if stated in ("", "unknown"):
        # recipes of torchtune recompute layers; NVIDIA's keep everything, or send it to the host meanwhile
        return "full" if torch else "none"
    if stated not in ("none", "selective", "full"):
        raise row.error("recompute", "none, selective, full or unknown")
    return stated


def job_of(row: Row, *, calibration: Mapping[str, Any] | None = None) -> TrainingJob:
    """What a row ran. Raises `LLMHWError` with the reason where it does not say enough.

    What the source leaves open is taken as the fastest that fits: micro-batch, and chunks of a pipeline stage.
    """
    text = row["notes"].lower()
    if row["notes"].startswith("*") or ("offload" in text and "cpu_offload false" not in text) or "paged" in text:
        raise LLMHWError("states in host memory, whose transfers are not timed")
    if row["provenance"] == "memory":
        raise LLMHWError("written down from memory, not read")
    cluster = _cluster(row)
    for name in ("tp", "pp"):
        if not row[name]:
            raise LLMHWError(f"{name} not stated, so the layout is not known")
    candidates = list(_candidates(row, cluster))
    if len(candidates) == 1:
        return _with_recompute(row, candidates[0])
    candidates.sort(key=lambda job: time_step(job, software(row), calibration=calibration).total)
    fitting = (job for job in candidates if memory(job).fits)
    return _with_recompute(row, next(fitting, candidates[0]))


def _with_recompute(row: Row, job: TrainingJob) -> TrainingJob:
    """Where the source does not say what is recomputed: nothing, but for mixtures of experts that would not fit.

    NVIDIA chooses the layouts of dense models so that nothing is. Beside a Grace processor activations go to its memory
    meanwhile.
    """
    stated = row["recompute"] not in ("", "unknown") or job.recompute != "none" or job.frozen
    experts = job.model.parameters.active != job.model.parameters.total
    if stated or not experts or job.cluster.accelerator.name.startswith("GB"):
        return job
    return job if memory(job).fits else replace(job, recompute="full")


def _candidates(row: Row, cluster: Cluster) -> Iterator[TrainingJob]:
    spec = _spec(row)
    sizes = {name: row.count(name) for name in ("tp", "pp", "cp", "ep")}
    inside = sizes["tp"] * sizes["pp"] * sizes["cp"]
    if cluster.devices % inside:
        raise LLMHWError(f"tp x pp x cp = {inside} does not divide n_gpus={cluster.devices}")
    dp = cluster.devices // inside
    running = software(row)
    # a trainer with its own pipeline has its own kernels too
    torch = running.startswith(("torch", "fsdp")) and (sizes["pp"] == 1 or "torchtitan" in row["source"])
    stage = row["zero_stage"].lower()
    zero = 3 if stage == "fsdp" else int(stage) if stage in ("0", "1", "2", "3") else 1
    year = row.number("year", 2025)
    sequence = sizes["tp"] > 1 and row["sequence_parallel"] != "false" and year >= 2022
    batch = row.count("global_batch", None)
    micro_batches = [row.count("micro_batch")] if row["micro_batch"] else [1, 2, 4, 8, 16]
    pp = sizes["pp"]
    stated = row["vpp"] or pp == 1 or "no interleaving" in row["notes"] or "SimuMax" in row["source"]
    chunks = (
        [row.count("vpp") if pp > 1 else 1]
        if stated or ("torchtitan" in row["source"] and "interleaved" not in row["notes"].lower())
        else range(1, -(-(spec.num_layers + 2) // pp) + 1)
    )
    recompute = _recompute(row, torch)
    problem = None
    made = 0
    for micro in micro_batches:
        # the last accumulation of a step may be a smaller one
        steps = max(1, round(batch / (micro * dp)))
        for vpp in chunks:
            try:
                yield TrainingJob(
                    model=spec,
                    cluster=cluster,
                    parallelism=Parallelism(
                        dp=dp,
                        tp=sizes["tp"],
                        pp=pp,
                        cp=sizes["cp"],
                        ep=sizes["ep"],
                        vpp=vpp,
                        zero=zero,
                        sequence_parallel=sequence,
                        uneven=True,
                        # Llama 3 (2024), section 3.3.2
                        cp_kind="all-gather" if "Llama 3" in row["source"] else "ring",
                    ),
                    micro_batch=micro,
                    global_batch=steps * micro * dp,
                    seq_len=row.count("seq_len", None),
                    precision="bf16-mixed"
                    if running == "fsdp-2023"
                    else "fp32-bf16"
                    if torch
                    else "bf16-mixed-fp32-grads",
                    compute=_compute(row, cluster.accelerator),
                    recompute=recompute,
                    recompute_layers=spec.num_layers // 2 // pp if recompute == "block" else 0,
                    attention="eager" if row["flash_attention"] == "false" else "flash",
                    kernels="torch" if torch else "megatron",
                    frozen="lora" in row["model_name"].lower() or "lora" in row["method"].lower(),
                    dropout=spec.model_type == "gpt2" and year <= 2022 and "BLOOM" not in row["source"],
                )
                made += 1
            except LLMHWError as error:
                problem = error
                if stated and vpp > 1:
                    # the schedule asks for whole rounds; what the source ran is taken as one chunk a stage
                    chunks = [1]
    if not made:
        raise problem or LLMHWError("no layout fits these sizes")


# -- predictions ------------------------------------------------------------------------------

_KINDS = ("step_time_s", "tokens_per_s_per_gpu", "tflops_per_gpu", "mfu", "hfu")


def _flops(row: Row, job: TrainingJob, hardware: bool) -> float:
    """FLOPs of a step as the source counts them."""
    if job.model.model_type == "gpt2":
        kind = "megatron" if hardware else "megatron-model"
        return float(convention_flops(job.model, kind, batch=job.batch, seq_len=job.seq_len).total)
    recompute = "full" if hardware and job.recompute == "full" else "none"
    return float(training_flops(job.model, batch=job.batch, seq_len=job.seq_len, recompute=recompute).total)


def predict(row: Row, *, calibration: Mapping[str, Any] | None = None, job: TrainingJob | None = None) -> Prediction:
    """The speed of one row, in the measure that its source used. Raises `LLMHWError` with the reason if it cannot be.

    Rates of Narayanan et al. 2021 and of BLOOM count recomputed FLOPs, all others model FLOPs.
    """
    kind = row["measured_kind"]
    if kind not in _KINDS:
        raise row.error("measured_kind", f"one of {', '.join(_KINDS)}")
    measured = row.positive("measured_value", None)
    job = job or job_of(row, calibration=calibration)
    found = time_step(job, software(row), calibration=calibration)
    seconds, tokens = found.total, job.batch * job.seq_len
    hardware = kind == "hfu" or (
        kind == "tflops_per_gpu" and job.recompute == "full" and any(n in row["source"] for n in ("Narayanan", "BLOOM"))
    )
    unit = {"step_time_s": "seconds", "tokens_per_s_per_gpu": "tokens/s", "tflops_per_gpu": "FLOP/s"}.get(kind, "MFU")
    if kind == "step_time_s":
        # the batch of the source, where micro-batches do not divide it
        predicted = seconds * row.count("global_batch", None) * job.seq_len / tokens
    elif kind == "tokens_per_s_per_gpu":
        predicted = tokens / seconds / job.cluster.devices
    else:
        predicted = _flops(row, job, hardware) / seconds / job.cluster.devices
        if kind == "tflops_per_gpu":
            measured *= 1e12
        else:
            predicted /= job.cluster.accelerator.peak(job.compute_format.removesuffix("-block"))
    low, high = (bound / seconds for bound in found.interval)
    if kind != "step_time_s":
        low, high = 1 / high, 1 / low
    return Prediction(
        predicted=predicted,
        measured=measured,
        unit=unit,
        meter=class_of(job, calibration),
        low=predicted * low,
        high=predicted * high,
        parts=found.parts,
    )


# -- constants --------------------------------------------------------------------------------


def fit(
    rows: list[Row], *, without: Collection[str] = (), calibration: Mapping[str, Any] | None = None, fresh: bool = False
) -> dict[str, Any]:
    """The constants of time that suit these rows best, as `predict` and `llmhw train --calibration` take them.

    without       leave out the sources of these families
    calibration   where to start from; default: those of `calibration.json`
    fresh         start from the priors, as the constants of `calibration.json` were made, not from its values

    Every constant has a prior: its value before any row was seen, and how far it may be off. A few rows of a cluster
    therefore move what they say something about, and leave the rest. One vote for each configuration.
    """
    known = dict(calibration or read_calibration("training_time"))
    found: dict[tuple[str, ...], list[tuple[Row, TrainingJob, float]]] = {}
    for row in rows:
        if source_family(row.source) in without:
            continue
        try:
            job = job_of(row, calibration=known)
            prediction = predict(row, calibration=known, job=job)
        except LLMHWError:
            continue
        seconds = time_step(job, software(row), calibration=known).total
        slow = (
            prediction.measured / prediction.predicted
            if row["measured_kind"] == "step_time_s"
            else (prediction.predicted / prediction.measured)
        )
        key = (source_family(row.source), software(row), *configuration(row))
        found.setdefault(key, []).append((row, job, seconds * slow))
    data = [(same[0][0], same[0][1], median(seconds for _, _, seconds in same)) for same in found.values()]
    if not data:
        raise LLMHWError("rows=[] has no row that can be predicted, so nothing can be fitted")

    def residual(tried: Mapping[str, Any], i: int) -> float:
        row, job, seconds = data[i]
        return log(time_step(job, software(row), calibration=tried).total / seconds)

    def belongs(row: Row, job: TrainingJob) -> Callable[[str], bool]:
        own = ("common", f"families.{family_of(TrainingConstants, job.cluster.accelerator, known)}", f"software.{software(row)}")
        return own.__contains__

    return fit_calibration(known, residual, [belongs(row, job) for row, job, _ in data], fresh=fresh)


_KEY = (
    "model_name n_layers d_model n_heads vocab seq_len gpu n_gpus tp pp vpp cp ep micro_batch global_batch precision "
    "recompute flash_attention sequence_parallel zero_stage measured_kind"
).split()


def configuration(row: Row) -> tuple[str, ...]:
    """What was run: rows in which it is the same are one group."""
    running = software(row)
    # releases of one software measure one configuration again; what is switched on in it makes another
    era = "" if running.startswith("megatron-20") else running
    return (*(row[name] for name in _KEY), era)
