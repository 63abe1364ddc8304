"""Peak memory of training beside published measurements, with the meter that was read.

Each source of `catalog/measurements/training_memory.csv` has a function that reads its rows as the source means them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from math import ceil
from re import search
from typing import Any

from llmhw.activations import layer_activations
from llmhw.block import saved_bytes
from llmhw.catalog import read_calibration, read_model
from llmhw.formula import Term, formula, term
from llmhw.hardware import Cluster
from llmhw.job import Parallelism, TrainingJob
from llmhw.memory import state_bytes, weights
from llmhw.model import ModelSpec, model
from llmhw.training import StepMemory, memory
from llmhw.units import GIB, LLMHWError, unknown_name
from llmhw.validation.statistics import Prediction, groups
from llmhw.validation.table import Row


@formula(
    source="DeepSpeed stage_1_and_2.py: a 16-bit flat copy of the rank's gradients, then an fp32 one", unit="bytes"
)
def zero1_step_gradient_bytes(*, elements: Any, shards: Any) -> Any:
    """What DeepSpeed's ZeRO-1 makes of its part of the gradients before it calls the optimizer.

    elements   parameters of the rank, before ZeRO
    shards     data-parallel ranks

    Both are single large blocks. They come when the activations have gone, but do not fit the small blocks that
    those leave in PyTorch's cache: they count for the reserved meter.

    >>> zero1_step_gradient_bytes(elements=3e9, shards=4)
    4500000000.0
    """
    return elements * (2 + 4) / shards


@formula(source="DeepSpeed's default reduce_bucket_size and allgather_bucket_size: 5e8 elements", unit="bytes")
def bucket_bytes(*, elements: Any = 500_000_000, bytes_per_element: Any = 2) -> Any:
    """A buffer that DeepSpeed collects gradients in before it reduces them, or weights when it gathers them.

    >>> bucket_bytes() / 1e9
    1.0
    """
    return elements * bytes_per_element


def predict(row: Row, *, calibration: Mapping[str, Any] | None = None) -> Prediction:
    """Peak bytes of one device for one row, with the meter that was read.

    calibration   `reserved_over_allocated` and `context_bytes`; default: those of `catalog/calibration.json`
    """
    constants = read_calibration("training_memory") if calibration is None else calibration
    _check_device(row)
    tensors = _predictor(row["source"])(_corrected(row))
    meter = _meter(row)
    predicted = tensors
    if meter != "allocated":
        predicted *= constants["reserved_over_allocated"]
    if meter == "device":
        predicted += constants["context_bytes"]
    measured = row.positive("peak_mem_gib") * _unit(row)
    return Prediction(predicted=predicted, measured=measured, unit="bytes", meter=meter, parts={"tensors": tensors})


def fit(rows: Iterable[Row]) -> dict[str, Any]:
    """The constants of `fit_constants` for these rows; the context stays as it is where no row tells it."""
    done = []
    for row in rows:
        try:
            done.append(replace(predict(row), id=row.name, source=row.source, configuration=configuration(row)))
        except LLMHWError:
            continue
    share, context = fit_constants(done)
    kept = read_calibration("training_memory")["context_bytes"]
    return {"reserved_over_allocated": share, "context_bytes": kept if context is None else context}


def fit_constants(rows: Iterable[Prediction], *, without: str = "") -> tuple[float, float | None]:
    """The two constants that leave the smallest mean of |predicted / measured - 1|: share and context in bytes.

    without   a source to leave out, by a part of its name

    Each configuration has one vote. The share is tried in steps of 0.01, the context in steps of 0.1 GiB. The context
    is None where no reading of nvidia-smi is left to fit it to.
    """
    used = [r for r in rows if r.meter != "allocated" and not (without and without in r.source)]
    if not used:
        raise LLMHWError("no row read as reserved memory or by nvidia-smi was predicted; the constants need one")
    steps = range(61) if any(r.meter == "device" for r in used) else range(1)
    best = (float("inf"), 1.0, 0.0)
    for percent in range(100, 121):
        for tenth in steps:
            share, context = percent / 100, tenth * GIB / 10
            tried = [replace(r, predicted=r.parts["tensors"] * share + context * (r.meter == "device")) for r in used]
            errors = [abs(g.error) for g in groups(tried)]
            best = min(best, (sum(errors) / len(errors), share, context))
    return best[1], best[2] if len(steps) > 1 else None


# -- reading rows -----------------------------------------------------------------------------

# What makes a configuration. The number of micro-batches is left out: beyond the pipeline's depth it changes nothing.
_KEY = (
    "model_name n_layers d_model n_heads vocab seq_len n_gpus tp pp vpp cp ep dp zero_stage micro_batch precision "
    "recompute flash_attention sequence_parallel method optimizer"
).split()


def configuration(row: Row) -> tuple[str, ...]:
    """What was run: rows in which it is the same are one group."""
    corrected = _corrected(row)
    # compiled and eager programs are two configurations
    return (*(corrected[name] for name in _KEY), "compiled" if "compile" in row["notes"] else "")


# The catalog knows no device of its own for these; what they hold is predicted all the same.
_DEVICES = ("H100-96GB-HBM2e-500W", "A100-80GB", "")


def _check_device(row: Row) -> None:
    if row["gpu"] not in _DEVICES:
        row.device()


def _meter(row: Row) -> str:
    kind = row["mem_kind"]
    return "device" if "nvidia-smi" in kind else "reserved" if "reserved" in kind else "allocated"


def _unit(row: Row) -> float:
    """Bytes of one unit of the column `peak_mem_gib`."""
    # BLOOM's readings go up to 80: in GiB that would be every byte of its devices (81,920 MiB), which no process gets;
    # we read them as thousands of nvidia-smi's MiB. As GiB they would be 2.4 % larger
    return 1000 * 2**20 if "nvidia-smi" in row["mem_kind"] else GIB


# Cells of the table that the source itself states otherwise, and what it says.
_CORRECTIONS: dict[str, dict[str, str]] = {
    # "20B model: TP=8, PP=1, NLAYERS=8, NHIDDEN=14400, NHEADS=32"
    "TM0194": {"n_layers": "8", "n_heads": "32"},
    "TM0197": {"n_layers": "8", "n_heads": "32"},
    # "HIDDEN=12288; NLAYERS=106; regex partition_method='type:transformer|embed'"
    "TM0270": {"n_layers": "106", "d_model": "12288", "d_ff": "49152", "notes": "embedding is a layer"},
}
_OUTLIERS = {
    "TM0233": "the source has 65 GB at micro-batch 2 and 56 GB at micro-batch 4: a slip of the pen in the source",
}


def _corrected(row: Row) -> Row:
    if "BLOOM" not in row["source"]:
        return row
    fixed = row.with_cells(**_CORRECTIONS.get(row["id"], {}))
    if fixed.count("d_model", None) % fixed.count("n_heads", None):
        return fixed.with_cells(n_heads="64")  # "all NHEADS=64 (above too)": 96 does not divide 14336
    return fixed


def _predictor(source: str) -> Callable[[Row], float]:
    for name, function in _PREDICTORS.items():
        if name in source:
            return function
    raise unknown_name("source", source, _PREDICTORS)


# A slip of the pen must not start work on a billion stages.
_RANKS = 100_000


def _layout(row: Row, **more: Any) -> Parallelism:
    sizes = {name: row.count(name, most=_RANKS) for name in ("tp", "pp", "vpp", "cp", "ep")}
    inside = sizes["tp"] * sizes["pp"] * sizes["cp"]
    sizes["dp"] = row.count("dp", max(1, row.count("n_gpus") // inside), most=_RANKS)
    sequence = row["sequence_parallel"] == "true" and sizes["tp"] > 1
    return Parallelism(**{**sizes, "sequence_parallel": sequence, **more})


def _resized(base: str, row: Row, **more: Any) -> ModelSpec:
    config = dict(read_model(base)[1]) | {"num_hidden_layers": row.count("n_layers", None, most=10_000)} | more
    return ModelSpec.from_config(config, name=row["model_name"])


# -- Megatron-LM ------------------------------------------------------------------------------

_SIMUMAX: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3-70b": ("llama-3-70b", {}),
    "llama3-8b": ("llama-3-8b", {}),
    "llama3-405b": ("llama-3.1-405b", {"num_key_value_heads": 16}),
    "deepseek-v2": ("deepseek-v2", {}),
    "deepseek": ("deepseek-v3", {"first_k_dense_replace": 1, "num_nextn_predict_layers": 0}),
    "mixtral": ("mixtral-8x7b", {}),
    "qwen3-32b": ("qwen3-32b", {}),
}


def _megatron(row: Row) -> float:
    name = row["model_name"].lower()
    base, changes = next((found for key, found in _SIMUMAX.items() if key in name), ("", {}))
    if not base:
        raise unknown_name("model_name", row["model_name"], _SIMUMAX)
    return _megatron_job(row, _resized(base, row, **changes), row["recompute"])


def _megatron_job(row: Row, spec: ModelSpec, recompute: str) -> float:
    layout = _layout(row, zero=row.count("zero_stage", least=0))
    job = TrainingJob(
        model=spec,
        cluster=Cluster("b200" if "B200" in row["gpu"] else "h100", layout.devices),
        parallelism=layout,
        micro_batch=row.count("micro_batch"),
        global_batch=row.count("global_batch"),
        seq_len=row.count("seq_len", None),
        precision="bf16-mixed-fp32-grads",
        kernels="megatron",
        compute="fp8" if row["precision"] == "fp8" else None,
        recompute=recompute,
    )
    return memory(job).allocated_bytes


def _bridge(row: Row) -> float:
    if "mlp" in row["notes"]:
        raise LLMHWError("recomputes the feed-forward part, which `recompute` does not offer")
    # the released container fuses attention: selective recompute of its core changes nothing
    return _megatron_job(row, _resized("llama-3-70b", row), "selective")


# -- torchtitan -------------------------------------------------------------------------------


def _torchtitan(row: Row) -> float:
    bases = {"llama3-8b": "llama-3-8b", "llama3-70b": "llama-3-70b", "llama3-405b": "llama-3.1-405b"}
    if row["model_name"] not in bases:
        raise unknown_name("model_name", row["model_name"], bases)
    if row.count("pp") > 1:
        raise LLMHWError("FSDP under pipeline parallelism keeps whole weights and gradients; not covered")
    layout = _layout(row, zero=3, sequence_parallel=row.count("tp") > 1)
    job = TrainingJob(
        model=_resized(bases[row["model_name"]], row),
        cluster=Cluster("h100", layout.devices),
        parallelism=layout,
        micro_batch=row.count("micro_batch"),
        global_batch=row.count("global_batch"),
        seq_len=row.count("seq_len", None),
        precision="fp32-bf16",
        recompute={"selective": "per-op"}.get(row["recompute"], row["recompute"]),
    )
    found = memory(job)
    return max(float(s.total) + apart for s, apart in zip(found.stages, found.unreused, strict=True))


# -- Megatron-DeepSpeed -----------------------------------------------------------------------


@cache
def _gpt(layers: int, hidden: int, heads: int, vocab: int) -> ModelSpec:
    return ModelSpec.from_config(
        {
            "model_type": "gpt2",
            "n_embd": hidden,
            "n_layer": layers,
            "n_head": heads,
            "n_inner": 4 * hidden,
            "vocab_size": vocab,
            "n_positions": 2048,
            "tie_word_embeddings": True,
        }
    )


def _deepspeed(row: Row) -> float:
    """Stages of two evenly dealt models stand for an uneven one: its ends may hold a layer less than the others."""
    if row["id"] in _OUTLIERS:
        raise LLMHWError(_OUTLIERS[row["id"]])
    layers = row.count("n_layers", None, most=10_000)
    pp = row.count("pp", most=layers)
    rebalanced = "Rebalancing" in row["notes"] or "embedding is a layer" in row["notes"]
    middle = ceil((layers + 2 if rebalanced else layers) / pp)
    ends = middle - 1 if rebalanced else middle
    # from "Rebalancing layers" on, the source runs DeepSpeed's BF16_Optimizer, which adds up gradients in fp32
    fp32_gradients = "Rebalancing" in row["notes"]
    highest = 0.0
    for count, stages in ((ends, {0, pp - 1}), (middle, set(range(1, pp - 1)))):
        if stages:
            highest = max(highest, _deepspeed_stages(row, count * pp, stages, fp32_gradients))
    return highest


def _deepspeed_stages(row: Row, layers: int, stages: set[int], fp32_gradients: bool) -> float:
    spec = _gpt(layers, row.count("d_model", None), row.count("n_heads", None), row.count("vocab", None))
    layout = _layout(row, zero=row.count("zero_stage", least=0))
    micro = row.count("micro_batch")
    job = TrainingJob(
        model=spec,
        cluster=Cluster("A100 80GB SXM4", layout.devices),
        parallelism=layout,
        micro_batch=micro,
        global_batch=micro * layout.dp * 4 * layout.pp,
        seq_len=row.count("seq_len", None),
        precision="bf16-mixed-fp32-grads" if fp32_gradients else "bf16-mixed",
        kernels="megatron",
        recompute="full",
        attention="eager",
    )
    found = memory(job)
    totals = []
    for stage in stages:
        held = found.stages[stage]
        elements = held["weights"] / 2
        hidden = {"batch": micro, "seq_len": job.seq_len, "width": spec.hidden, "bytes_per_element": 2}
        terms = [
            # DeepSpeed's pipeline keeps what a stage hands on until its backward pass comes
            term(saved_bytes, "results of the stage", StepMemory(job, job.layout).copies(stage), **hidden),
        ]
        embedding = spec.vocab_size * spec.hidden / layout.tp if stage in (0, layout.pp - 1) else 0
        if fp32_gradients:
            terms.append(term(state_bytes, "gradients of a micro-batch", elements=elements, bytes_per_element=2))
            largest = max(embedding, 4 * spec.hidden**2 / layout.tp)
            terms.append(term(state_bytes, "largest gradient, in fp32", elements=largest, bytes_per_element=4))
        else:
            terms.append(term(bucket_bytes, "bucket of gradients"))
            shards = layout.dp if layout.zero else 1
            terms.append(term(zero1_step_gradient_bytes, "gradients of the step", elements=elements, shards=shards))
            if stage == 0:
                # autograd makes it before it is added; on the last stage `memory` counts the head's alike
                terms.append(term(state_bytes, "the embedding's gradient", elements=embedding, bytes_per_element=2))
        if layout.dp > 1 and layout.zero:
            # PyTorch gathers into one flat block, then copies it into the list of shards that DeepSpeed hands over
            terms.append(term(bucket_bytes, "bucket of gathered weights"))
        totals.append(float(held.total) + float(sum(t.value for t in terms)))
    return max(totals)


# -- LitGPT: adapters on one device -----------------------------------------------------------

# Inputs that a linear layer saves only to compute the gradient of its weight; a frozen norm's scale is alike.
_FOR_WEIGHT_GRADIENTS = (
    "input of the q",
    "input of the output",
    "input of the gate",
    "input of the first",
    "input of the second",
    "input of the down",
    "normalized, before the weight",
)


def frozen_layer_activations(
    spec: ModelSpec, layer: int, *, batch: int, seq_len: int, saves_inputs: bool = False
) -> list[Term]:
    """What a layer keeps for the backward pass when its own weights are frozen, as in LoRA, without the adapters.

    saves_inputs   linear layers keep their inputs all the same, as bitsandbytes' 4-bit ones do

    >>> from llmhw import model
    >>> terms = frozen_layer_activations(model("llama-2-7b"), 0, batch=1, seq_len=1024)
    >>> sum(t.value for t in terms) / 2**20
    128.6...
    """
    kept = layer_activations(spec, layer, batch=batch, seq_len=seq_len)
    terms = [t for part in kept for t in part.terms]
    dropped = _FOR_WEIGHT_GRADIENTS[-1:] if saves_inputs else _FOR_WEIGHT_GRADIENTS
    return [t for t in terms if not t.label.startswith(dropped)]


@cache
def stablelm_alpha_3b() -> ModelSpec:
    """StableLM-Base-Alpha-3B, which only LitGPT's tables name."""
    return ModelSpec.from_config(
        {
            "model_type": "gpt_neox",
            "hidden_size": 4096,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "intermediate_size": 16384,
            "vocab_size": 50688,
            "rotary_pct": 0.25,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        },
        name="stablelm-alpha-3b",
    )


@cache
def _litgpt_spec(name: str) -> ModelSpec:
    if name.startswith("StableLM"):
        return stablelm_alpha_3b()
    known = {"Llama 2 7 B": "llama-2-7b", "Llama 2 13 B": "llama-2-13b"}
    if name not in known:
        raise unknown_name("model_name", name, [*known, "StableLM Alpha 3B"])
    return model(known[name])


def _litgpt(row: Row) -> float:
    """Everything in bf16, attention with PyTorch's SDPA, head and loss in chunks of 128 tokens."""
    spec = _litgpt_spec(row["model_name"])
    batch, seq_len = row.count("micro_batch"), row.count("seq_len", None)
    method, _, number_format = row["method"].partition("+bnb.")
    if method == "qlora":
        method, number_format = "lora", "nf4-dq" if "nf4-dq" in row["notes"] else "nf4"
    quantized = bool(number_format)

    def rows(width: float, size: int = 2) -> float:
        return float(saved_bytes(batch=batch, seq_len=seq_len, width=width, bytes_per_element=size))

    linear = [t for t in spec.layers[0].tensors if t.matmul]
    attention = spec.layers[0].attention
    assert attention is not None
    qkv = (attention.heads + 2 * attention.kv_heads) * attention.head_dim
    query, value = attention.heads * attention.head_dim, attention.kv_heads * attention.v_head_dim
    if row["zero_stage"] == "fsdp":
        return _litgpt_fsdp(row, spec, rows)
    terms = frozen_layer_activations(spec, 0, batch=batch, seq_len=seq_len, saves_inputs=quantized)
    layer = float(sum(t.value for t in terms))
    # values are a view of the fused result, which stays whole
    layer += rows(qkv) - float(sum(t.value for t in terms if t.label == "values"))
    stated = search(r"trainable params ([\d,]+)", row["notes"])
    if not stated:
        raise row.error("notes", "what states 'trainable params' and their number")
    trained = float(stated[1].replace(",", ""))
    if method == "lora":
        # dropout's mask and its result; the adapters' results, which index_copy saves to spread them over q, k and v
        layer += rows(spec.hidden, 1) + rows(spec.hidden) + rows(query + value)
    else:
        layer += rows(query)  # attention over the prompt's ten tokens
    if method == "adapter_v2":
        # a scale behind every linear layer needs its result; trained norms need what they scale
        layer += sum(rows(t.out) for t in linear) + 2 * rows(spec.hidden)
    total = float(weights(spec, number_format or "bf16").total) + trained * (2 + 2 + 4)
    total += layer * spec.num_layers
    total += 2 * rows(spec.hidden, 4)  # embeddings' result and the last norm's input
    total += rows(spec.vocab_size) + rows(spec.vocab_size)  # logits and log-probabilities of all chunks
    if quantized:
        total += 2 * spec.vocab_size * spec.hidden  # the head, put back into bf16 for its product
    return total


def _litgpt_fsdp(row: Row, spec: ModelSpec, rows: Callable[..., float]) -> float:
    """Layers are recomputed; FSDP 1 leaves frozen blocks whole in the backward pass (pytorch/pytorch issue 95805)."""
    whole = float(weights(spec, "bf16").total)
    inside = layer_activations(spec, 0, batch=row.count("micro_batch"), seq_len=row.count("seq_len", None))
    kept = spec.num_layers * rows(spec.hidden) + 2 * rows(spec.vocab_size)
    return whole * (1 + 1 / row.count("dp")) + kept + float(inside.total)


def _torchtune(row: Row) -> float:
    if not row["seq_len"]:
        raise LLMHWError("the length of the sequences is not stated")
    raise LLMHWError(
        "whether layers are recomputed is not stated, and decides: the same stated LoRA and full runs of Llama 3 8B "
        "take 16.2 and 18.9 GiB on one card, 30.3 and 37.4 GiB on another"
    )


_PREDICTORS: dict[str, Callable[[Row], float]] = {
    "SimuMax": _megatron,
    "torchtitan": _torchtitan,
    "Megatron-Bridge": _bridge,
    "BLOOM": _deepspeed,
    "LitGPT": _litgpt,
    "torchtune": _torchtune,
}
