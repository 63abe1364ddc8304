"""Peak memory of training beside published measurements, with the meter that was read.

Each source of `catalog/measurements/training_memory.csv` has a function that reads its rows as the source means them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil
from statistics import median
from typing import Any

from llmhw.activations import layer_activations
from llmhw.block import saved_bytes
from llmhw.catalog import read_calibration, read_measurements
from llmhw.formula import term
from llmhw.hardware import Accelerator, Cluster, accelerator
from llmhw.job import Parallelism, TrainingJob
from llmhw.margin import known_error, visible_bytes
from llmhw.memory import LORA_TARGETS, OPTIMIZERS, state_bytes, weights
from llmhw.model import ModelSpec
from llmhw.trainers import trainer
from llmhw.training import StepMemory, bucket_bytes, memory, zero1_step_gradient_bytes
from llmhw.units import GIB, LLMHWError
from llmhw.validation.statistics import Prediction, groups
from llmhw.validation.table import Row
from llmhw.validation.training_jobs import trainer_of


def predict(row: Row, *, calibration: Mapping[str, Any] | None = None) -> Prediction:
    """Peak bytes of one device for one row, with the meter that was read.

    calibration   `reserved_over_allocated` and `context_bytes`; default: those of `catalog/calibration.json`
    """
    constants = read_calibration("training_memory") if calibration is None else calibration
    if row["program"] and row["program"] not in _PROGRAMS:
        raise row.error("program", f"one of {', '.join(_PROGRAMS)}, or empty: software says what ran")
    held = 0.0
    if row["program"]:
        tensors = _PROGRAMS[row["program"]](row)
    else:
        tensors, held = _step(row)
    meter = _meter(row)
    parts = {"tensors": tensors, "held": held if row.flag("varied") else 0.0}
    predicted = _shown(parts, meter, constants)
    measured = row.positive("peak_mem_gib") * row.positive("unit_bytes", GIB)
    measured /= row.count("n_gpus", None) if row["mem_scope"] == "sum" else 1
    meter += ", something assumed" if row["assumed"] or _open(row) else ""
    return Prediction(predicted=predicted, measured=measured, unit="bytes", meter=meter, parts=parts)


def _open(row: Row) -> bool:
    """Whether a row does not say how its devices share the model, or how many sequences they take at a time."""
    layout = ("tp", "pp", "cp", "ep", "zero_stage", "dp")
    shared = row.count("n_gpus") == 1 or any(row[name] for name in layout)
    return not (shared and (row["micro_batch"] or row["global_batch"]))


def _shown(parts: Mapping[str, float], meter: str, constants: Mapping[str, Any]) -> float:
    """What a meter shows of so many bytes of tensors."""
    tensors, held = parts["tensors"], parts["held"]
    if meter == "allocated":
        return tensors
    if held:
        return held + (tensors - held) * float(constants["reserved_of_varied_lengths"])
    context = float(constants["context_bytes"]) if meter == "device" else 0.0
    return tensors * float(constants["reserved_over_allocated"]) + context


def fit(rows: Iterable[Row]) -> dict[str, Any]:
    """The constants of `fit_constants` for these rows; those that no row tells stay as they are."""
    done = []
    for row in rows:
        try:
            done.append(replace(predict(row), id=row.name, source=row.source, configuration=configuration(row)))
        except LLMHWError:
            continue
    known = read_calibration("training_memory")
    return {name: known[name] if value is None else value for name, value in fit_constants(done).items()}


def fit_constants(rows: Iterable[Prediction], *, without: str = "") -> dict[str, float | None]:
    """The constants that leave the smallest mean of |predicted / measured - 1|.

    without   a source to leave out, by a part of its name

    Each configuration has one vote. Shares are tried in steps of 0.01 and 0.1, the context in steps of 0.1 GiB. A
    constant is None where no row is left to fit it to: the context without readings of nvidia-smi, and what batches of
    varied lengths leave without such. Rows in which something is assumed tell only of these lengths.
    """
    named = [r for r in rows if not (without and without in r.source)]
    used = [r for r in named if r.meter in ("reserved", "device")]
    if not used:
        raise LLMHWError("no row read as reserved memory or by nvidia-smi was predicted; the constants need one")
    device = any(r.meter == "device" for r in used)

    def left(votes: list[tuple[list[Prediction], float]], **constants: float) -> float:
        shown = [(median(_shown(r.parts, r.meter.partition(",")[0], constants) for r in v), m) for v, m in votes]
        return sum(abs(predicted / measured - 1) for predicted, measured in shown) / len(shown)

    votes = _votes(used)
    pairs = [(1 + percent / 100, tenth * GIB / 10) for percent in range(21) for tenth in range(61 if device else 1)]
    share, context = min(pairs, key=lambda p: left(votes, reserved_over_allocated=p[0], context_bytes=p[1]))
    varied = _votes(r for r in named if r.parts["held"] and r.meter.startswith("reserved"))
    lengths = [1 + tenth / 10 for tenth in range(51)]
    times = min(lengths, key=lambda n: left(varied, reserved_of_varied_lengths=n)) if varied else None
    return {
        "reserved_over_allocated": share,
        "context_bytes": context if device else None,
        "reserved_of_varied_lengths": times,
    }


def _votes(rows: Iterable[Prediction]) -> list[tuple[list[Prediction], float]]:
    """The rows of each configuration, one of each prediction, and what was measured."""
    named = {r.id: r for r in rows}
    found = []
    for group in groups(named.values()):
        same = {tuple(named[i].parts.items()): named[i] for i in group.ids}
        found.append((list(same.values()), group.measured))
    return found


# -- verdicts ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a run that failed for memory, or the longest sequence that fits, is predicted so.

    evidence   oom: the run is predicted not to fit. capacity: the longest sequence that is predicted to fit is the
               source's within the known error of memory: what it needs is, to its card
    needed     bytes on a device that are predicted
    offered    bytes that a device gives to a program
    """

    id: str
    source: str
    evidence: str
    needed: float
    offered: float

    @property
    def right(self) -> bool:
        """Whether the prediction is borne out."""
        if self.evidence == "oom":
            return self.needed > self.offered
        return abs(self.needed / self.offered - 1) <= known_error("training")


def verdicts(rows: Iterable[Mapping[str, Any]] | None = None) -> tuple[Verdict, ...]:
    """Rows of evidence oom or capacity, judged; those that cannot be predicted are left out.

    rows   of a table of training memory; None: the catalog's own
    """
    found = []
    for cells in read_measurements("training_memory") if rows is None else rows:
        row = Row(cells)
        if row["evidence"] not in ("oom", "capacity") or row["not_predicted"]:
            continue
        try:
            job = training_job(row)
            needed = memory(job).device_bytes
        except LLMHWError:
            continue
        offered = visible_bytes(job.cluster.accelerator)
        found.append(Verdict(row.name, row.source, row["evidence"], needed, offered))
    return tuple(found)


def _device(row: Row) -> Accelerator:
    """The device of a row; with `gpu_mem_gb`, one of that memory where it names none or another."""
    stated = row.number("gpu_mem_gb", 0.0)
    try:
        found = row.device(usual=True)
    except LLMHWError:
        # what a device holds does not depend on it, but for the room that there is
        found = accelerator("H100")
        return replace(found, memory_bytes=int(stated * GIB)) if stated else found
    if row["evidence"] == "capacity" and stated:
        return replace(found, memory_bytes=int(stated * GIB))
    return found


# -- reading rows -----------------------------------------------------------------------------

# What makes a configuration. The number of micro-batches is left out: beyond the pipeline's depth it changes nothing.
_KEY = (
    "model_name n_layers d_model n_heads vocab seq_len n_gpus tp pp vpp cp ep dp zero_stage micro_batch precision "
    "recompute recompute_modules flash_attention sequence_parallel method optimizer loss base"
).split()


def configuration(row: Row) -> tuple[str, ...]:
    """What was run: rows in which it is the same are one group."""
    # compiled and eager programs are two configurations
    return (*(row[name] for name in _KEY), row["compiled"])


def _meter(row: Row) -> str:
    kind = row["meter"] or row["mem_kind"]
    if kind == "device":
        return kind
    return "device" if "nvidia-smi" in kind else "reserved" if "reserved" in kind else "allocated"


# A slip of the pen must not start work on a billion stages.
_RANKS = 100_000


def _layout(row: Row, **more: Any) -> Parallelism:
    sizes = {name: row.count(name, most=_RANKS) for name in ("tp", "pp", "vpp", "cp", "ep")}
    inside = sizes["tp"] * sizes["pp"] * sizes["cp"]
    sizes["dp"] = row.count("dp", max(1, row.count("n_gpus") // inside), most=_RANKS)
    sequence = row["sequence_parallel"] == "true" and sizes["tp"] > 1
    return Parallelism(**{**sizes, "sequence_parallel": sequence, **more})


def _job(row: Row, layout: Parallelism, **more: Any) -> TrainingJob:
    return TrainingJob(
        model=row.spec(),
        cluster=Cluster(row.device(), layout.devices),
        parallelism=layout,
        micro_batch=row.count("micro_batch"),
        seq_len=row.count("seq_len", None),
        precision=row["recipe"],
        compute=row["compute"] or None,
        **{"global_batch": row.count("global_batch"), "recompute": row["recompute_mode"] or row["recompute"], **more},
    )


# -- any trainer ------------------------------------------------------------------------------


def training_job(row: Row) -> TrainingJob:
    """The job of a row: what its columns say, and what its software usually does where they say nothing.

    Software that is not said is Megatron-LM where a model is split, DeepSpeed or PyTorch's FSDP where states are, else
    transformers' Trainer where a model is tuned and PyTorch alone where it is pre-trained. Where it is not said, layers
    run again, and the loss of what is tuned comes in chunks, if the job would not fit without.
    """
    stage = row["zero_stage"] or "0"
    method = row["method"].casefold()
    spec, frozen = row.spec(), "lora" in method or "adapter" in method or bool(row.flag("adapters_only"))
    layout = _layout(row, zero=3 if stage == "fsdp" else int(stage), offload=_offload(row, frozen))
    software = _software(row, layout)
    if layout.tp > 1 and not row["sequence_parallel"] and software in ("torchtitan", "megatron-lm", "megatron-bridge"):
        layout = replace(layout, sequence_parallel=True)
    kernels = row["kernels"] or trainer(software).kernels
    more: dict[str, Any] = {"kernels": kernels, "software": software, "loss": row["loss"] or None}
    mode = (row["recompute_mode"] or row["recompute"]).replace("unknown", "") or "as needed"
    if mode == "selective" and kernels == "torch":
        mode = "per-op" if layout.zero == 3 else "none"
    if frozen:
        dropout = row.flag("adapter_dropout")
        peft = trainer(software).sharding == "fsdp1" and software != "litgpt"
        more |= {"frozen": True, "rank": row.count("rank", 16), "dropout": peft if dropout is None else dropout}
        more |= {"targets": _modules(spec, row["targets"] or "all-linear"), "base": _base(row)}
    else:
        more["optimizer"] = _optimizer(row)
    if row["flash_attention"] == "false":
        more["attention"] = "eager"
    if row["recompute_modules"]:
        more["recompute_modules"] = row["recompute_modules"]
    more |= {name: True for name in ("checkpoint_offload", "optimizer_in_backward") if row.flag(name)}
    micro = row.count("micro_batch", max(1, row.count("global_batch") // layout.dp) if layout.pp == 1 else 1)
    job = TrainingJob(
        model=_dealt(spec, layout),
        cluster=Cluster(_device(row), layout.devices),
        parallelism=layout,
        micro_batch=micro,
        global_batch=row.count("global_batch", micro * layout.dp),
        # "at any length" fails with few tokens, too
        seq_len=row.count("seq_len", 128 if row["evidence"] == "oom" else None),
        precision=row["recipe"] or _recipe(software, layout, frozen),
        compute=row["compute"] or None,
        compiled=row.flag("compiled"),
        recompute="none" if mode == "as needed" else mode,
        **more,
    )
    if row["evidence"] in ("oom", "capacity"):
        return job
    # what ran did fit: what is not said is done as far as that needs it
    if mode == "as needed" and not memory(job).fits:
        job = replace(job, recompute="full", recompute_modules="")
    if not row["loss"] and _tuned(row) and not memory(job).fits:
        job = replace(job, loss="chunked")
    return job


def _software(row: Row, layout: Parallelism) -> str:
    """The trainer's name; where nobody says it, the usual one: see `training_job`."""
    if row["software"]:
        return trainer_of(row)
    split = layout.tp * layout.pp * layout.cp * layout.ep > 1 or "distributed optimizer" in row["optimizer"].casefold()
    if split and row["zero_stage"] != "fsdp":
        return "megatron-lm"
    if layout.zero and row["zero_stage"] != "fsdp":
        return "deepspeed"
    return "fsdp" if _tuned(row) else "torchtitan" if layout.zero == 3 else "eager"


def _tuned(row: Row) -> bool:
    return row["method"].casefold() not in ("", "pretrain", "pretraining", "pre-training")


def _base(row: Row) -> str | None:
    """Format of the frozen weights: of `base`, of the model's name, or of what is said of 4 or 8 bits."""
    if row["base"]:
        return row["base"]
    text = f"{row['precision']} {row['method']}".casefold()
    bits = next(
        (bits for bits in ("4", "8") if f"int{bits}" in text or f"{bits}-bit" in text or f"nf{bits}" in text), ""
    )
    if row.named_format:
        return row.named_format
    if "gptq" in text:
        return "int8-gptq" if bits == "8" else "int4-gptq"
    return {"4": "nf4", "8": "llm-int8"}.get(bits, "nf4" if "qlora" in text else None)


def _offload(row: Row, frozen: bool) -> str:
    """What lies in host memory, as `offload` or the optimizer's name says ("AdamW on CPU")."""
    words = row["optimizer"].casefold()
    return row["offload"] or ("optimizer" if not frozen and ("offload" in words or "cpu" in words) else "none")


def _dealt(spec: ModelSpec, layout: Parallelism) -> ModelSpec:
    """With layers more, where stages cannot share them evenly: the fullest stage then holds what it does in the row."""
    more = -spec.num_layers % (layout.pp * layout.vpp)
    return replace(spec, layers=(*spec.layers, *spec.layers[-more:])) if more else spec


def _modules(spec: ModelSpec, targets: str) -> str:
    """Targets that this model has: lists of several families' names, and "qkv" for what reads queries, keys, values."""
    if targets in LORA_TARGETS:
        return targets
    linear = {t.module: t.part for layer, _ in spec.layer_kinds for t in layer.tensors if t.matmul}
    if targets == "qkv":
        return ",".join(name for name, part in linear.items() if part in ("q", "k", "v", "qkv"))
    return targets


def _optimizer(row: Row) -> str:
    """The library's name of the optimizer that a cell means: AdamW where it is none of the others."""
    text = row["optimizer"].casefold()
    if row["optimizer_states"] or text in OPTIMIZERS:
        return row["optimizer_states"] or text
    if "adafactor" in text or "muon" in text or "lion" in text:
        return next(name for name in ("adafactor", "muon", "lion") if name in text)
    if "8" in text and "bit" in text:
        return "adamw-8bit"
    return "adamw-fused" if "fused" in text else "adamw"


def _recipe(software: str, layout: Parallelism, frozen: bool) -> str:
    """What weights, gradients and states are usually kept in.

    Adapters lie beside weights in 16 bit, and transformers on one card trains what it has loaded, in 16 bit; FSDP keeps
    fp32 weights; all others a 16-bit copy.
    """
    found = trainer(software)
    if found.kernels == "megatron":
        return "bf16-mixed-fp32-grads"
    if frozen or software == "torchtune" or (found.sharding.startswith("fsdp") and layout.zero < 3):
        return "bf16"
    return "bf16-mixed" if found.sharding in ("deepspeed", "internevo") else "fp32-bf16"


# Parts of a stage that are there from step to step.
_HELD = ("weights", "adapters", "gradients", "master copy", "momentum", "variance", "step counters")


def _step(row: Row) -> tuple[float, float]:
    """Bytes of tensors, with what lies apart where blocks are read; and those of them that a step does not touch."""
    found = memory(training_job(row))
    if _meter(row) == "allocated":
        return found.allocated_bytes, 0.0
    stages = zip(found.stages, found.unreused, strict=True)
    return max((float(s.total) + apart, sum(float(p.value) for p in s if p.name in _HELD)) for s, apart in stages)


# -- Megatron-DeepSpeed -----------------------------------------------------------------------


def _deepspeed(row: Row) -> float:
    """Stages of two evenly dealt models stand for an uneven one: its ends may hold a layer less than the others."""
    layers = row.count("n_layers", None, most=10_000)
    pp = row.count("pp", most=layers)
    counted = row["outer_layers"] == "counted"
    middle = ceil((layers + 2 if counted else layers) / pp)
    ends = middle - 1 if counted else middle
    highest = 0.0
    for count, stages in ((ends, {0, pp - 1}), (middle, set(range(1, pp - 1)))):
        if stages:
            highest = max(highest, _deepspeed_stages(row.with_cells(n_layers=str(count * pp)), stages))
    return highest


def _deepspeed_stages(row: Row, stages: set[int]) -> float:
    layout = _layout(row, zero=row.count("zero_stage", least=0))
    micro = row.count("micro_batch")
    batch = micro * layout.dp * 4 * layout.pp
    job = _job(row, layout, kernels="megatron", recompute="full", attention="eager", global_batch=batch)
    spec, fp32_gradients = job.model, job.precision == "bf16-mixed-fp32-grads"
    found = memory(job)
    totals = []
    for stage in stages:
        held = found.stages[stage]
        elements = held["weights"] / 2
        hidden: dict[str, Any] = {"batch": micro, "seq_len": job.seq_len, "width": spec.hidden, "bytes_per_element": 2}
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


def frozen_layer_activations(
    spec: ModelSpec, layer: int, *, batch: int, seq_len: int, saves_inputs: bool = False
) -> dict[str, float]:
    """Bytes by part that a layer keeps for the backward pass when its own weights are frozen, as in LoRA.

    saves_inputs   linear layers keep their inputs all the same, as bitsandbytes' 4-bit ones do

    The adapters are left out. Linear layers save their inputs, and an RMSNorm what it scales, only to compute the
    gradients of their weights.

    >>> from llmhw import model
    >>> sum(frozen_layer_activations(model("llama-2-7b"), 0, batch=1, seq_len=1024).values()) / 2**20
    128.6...
    """
    kept = layer_activations(spec, layer, batch=batch, seq_len=seq_len)
    dropped = ("normalized",) if saves_inputs else ("normalized", "linear input")
    return {part.name: sum(float(t.value) for t in part.terms if t.key not in dropped) for part in kept}


def _litgpt(row: Row) -> float:
    """Everything in bf16, attention with PyTorch's SDPA, head and loss in chunks of 128 tokens."""
    spec, method, number_format = row.spec(), row["adapter"], row["weights"]
    batch, seq_len = row.count("micro_batch"), row.count("seq_len", None)
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
    parts = frozen_layer_activations(spec, 0, batch=batch, seq_len=seq_len, saves_inputs=quantized)
    # values are a view of the fused result, which stays whole; then queries, keys, the softmax's sums, the output
    parts["attention"] = rows(qkv) + rows(query) + rows(qkv - query - value) + rows(attention.heads, 4) + rows(query)
    layer = sum(parts.values())
    trained = row.positive("trained_params")
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


_PROGRAMS: dict[str, Callable[[Row], float]] = {
    "megatron-deepspeed": _deepspeed,
    "litgpt": _litgpt,
}
