"""What the sources of the measurement tables say in words, as columns: one rule here, one fact a row there.

`python benchmarks/measurement_facts.py` reads what each row of `llmhw/catalog/measurements/` states (its source, notes,
names of models, devices and engines) and writes the columns of `FACTS` behind it. It never reads those columns, so that
running it again changes nothing. An empty fact is one that the row's own columns say, or that nobody said.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import llmhw.catalog
from llmhw import LLMHWError, accelerator
from llmhw.catalog import model_names, read_model
from llmhw.names import find_model
from llmhw.validation.serving import software_of
from llmhw.validation.statistics import source_family
from llmhw.validation.table import Row, find_called, split_quant

FOLDER = Path(llmhw.catalog.__file__).parent / "measurements"

# Columns of facts by table, in the order in which they are written. What each means stands in the catalog's README.
FACTS: dict[str, tuple[str, ...]] = {
    "training_throughput": tuple(
        "not_predicted cluster model config mtp device device_changes network adapter_gb_per_s ranks_per_device "
        "gpus_per_node fsdp software compiled tp_overlap grad_overlap cuda_graph dispatcher a2a_overlap "
        "attention_kernel packed kernels recipe compute recompute_mode recompute_modules optimizer "
        "optimizer_in_backward offload interleaving cp_kind adapters_only rank targets base loss dropout "
        "counts_recompute counts_causal".split()
    ),
    "training_memory": tuple(
        "not_predicted fitted assumed varied program software model config device recipe compute recompute_mode "
        "recompute_modules compiled outer_layers adapter weights trained_params unit_bytes base loss optimizer_states "
        "rank targets adapter_dropout offload checkpoint_offload meter".split()
    ),
    "inference_throughput": tuple(
        "not_predicted cluster model config device software backends weights kv_dtype attention_dp mean_isl mean_osl "
        "requests past n_ubatch flash_attn prefill_gpus prefill_workers prefill_attention_dp decode_workers "
        "assumed".split()
    ),
    "inference_memory": tuple(
        "not_predicted program model device weights meter prompt_logits fused_layers read_at mask_tokens "
        "n_ubatch flash_attn".split()
    ),
    "vllm_capacity": tuple(
        "not_predicted kv_unstated weights_unstated model weights device visible_gib card_gib max_num_seqs "
        "max_num_batched_tokens".split()
    ),
    "llamacpp_memory": ("model", "weights"),
}

Facts = dict[str, str]

# Sources that measured one cluster or one program, by the start of their names: all of them are left out together.
TOGETHER = (
    ("Narayanan", "Korthikanti", "Megatron-LM README"),
    ("torchtitan",),
    ("BigScience",),
    ("geerlingguy",),
)


def cluster_of(row: Row) -> str:
    """The sources that a row's source is left out with; empty for its own family alone."""
    family = source_family(row.source)
    return next((", ".join(names) for names in TOGETHER if family.startswith(names)), "")


def as_json(changes: Mapping[str, object]) -> str:
    return json.dumps(changes) if changes else ""


# -- devices ----------------------------------------------------------------------------------

_USUAL = {
    "A100-SXM4-80GB": "A100 80GB SXM4",
    "A100-SXM4-40GB": "A100 40GB SXM4",
    "A100-80GB": "A100 80GB SXM4",
    "A100 SXM 80GB": "A100 80GB SXM4",
    "A100 PCIe 80GB": "A100 80GB PCIe",
    "H100-SXM-80GB": "H100 SXM5 80GB",
    "H100-80GB": "H100 SXM5 80GB",
    "H100-96GB-HBM2e-500W": "H100 SXM5 80GB",
    "GB200": "GB200 NVL72",
    "GB300": "GB300 NVL72",
}
# torchtitan's H100: 96 GB of HBM2e, 2.4 TB/s, 500 W
_CAPPED = {
    "name": "H100 96GB HBM2e 500W",
    "memory_bandwidth_bytes_per_second": 2.4e12,
    "memory_bytes": 96 * 10**9,
    "tdp_watts": 500.0,
}


def device_of(text: str) -> str:
    """The catalog's name of a device that a source names; empty where the catalog has none."""
    name = text.replace("NVIDIA", "").replace("AMD Instinct", "").strip()
    name = re.sub(r"Blackwell GPU \((.*)\)", r"\1", name)
    short = re.match(r"MI3\d\dX|B200|B300|GB200|GB300|H200-NVL|H200-SXM", name)
    name = _USUAL.get(name, short.group(0).replace("-", " ") if short else name)
    name = _USUAL.get(name, name)
    try:
        return accelerator(f"RTX {name}" if re.match(r"\d{4}\b(?! XT)", name) else name).name if name else ""
    except LLMHWError:
        return ""


# Devices of speeds whose memory, or card, is not stated in so many words: the usual ones.
_ASSUMED = {
    "A100": "A100 80GB SXM4",
    # Argonne's: four in a node, as its Polaris has
    "A100 (memory size not stated in repo)": "A100 40GB SXM4",
    "RTX 2080 Ti": "RTX 2080 Ti 11GB",
    "Radeon 8060S": "Ryzen AI Max+ 395 128GB",
    "Framework Mainboard": "Ryzen AI Max+ 395 128GB",
    "M1 Ultra": "M1 Ultra 48-core 64GB",
    "M1 Max Mac Studio": "M1 Max 32-core 64GB",
    "M4 Mac mini": "M4 32GB",
    "Mac Studio": "M3 Ultra 512GB",
    "Dell Pro Max with GB10": "GB10 128GB",
    "AMD Ryzen AI Max+ 395": "Ryzen AI Max+ 395 128GB",
    "RTX 3060": "RTX 3060 12GB",
    "RTX A2000": "RTX A2000 12GB",
}


def served_device(text: str) -> str:
    """The same of a device with its host or a remark around it: a card stands in brackets behind its host."""
    outside, _, inside = text.removeprefix("Virtualized ").partition(" (")
    card = re.match(r"(?:Nvidia|AMD|Intel) (?!Spark)([^)]*)", inside)
    name = card[1].removesuffix(" ECO") if card else outside
    return device_of(_ASSUMED.get(text) or _ASSUMED.get(name, name))


# Network adapters of a device, in GB/s, where the source does not state them: those of the usual machine.
_ADAPTERS = {
    "Ampere": 25.0,
    "Blackwell Ultra": 100.0,
    "NeuronCore-v2": 6.25,
    "TPU v5e": 3.125,
    "TPU v5p": 6.25,
    "TPU v6e": 12.5,  # jax-ml/scaling-book: egress of a chip's share of its host
}
_USUAL_ADAPTER = 50.0
_OF_A_NODE = re.compile(r"(?:\b(\d+) ?x ?(?:[A-Za-z]+ ?)?)?(\d+) ?(G[bB])(?:/s)?(?: per (node|GPU))?")


def adapter_of(interconnect: str, device: str) -> float:
    """GB per second and direction of one device's network adapter; several of one kind are those of a node of eight."""
    text = re.sub(r"xOmniPath (\d+)", r"x\1 ", interconnect).replace("HDR200", "200Gb")
    found = _OF_A_NODE.search(text)
    if found:
        rate = float(found[1] or 1) * float(found[2]) / (1 if found[3] == "GB" else 8)
        return rate / (8 if found[1] or found[4] == "node" else 1)
    if "TCPX" in interconnect:
        return 12.5  # GCP's a3-highgpu-8g: 4 x 200 Gb/s
    architecture = accelerator(device).architecture if device else ""
    return next((rate for part, rate in _ADAPTERS.items() if part in architecture), _USUAL_ADAPTER)


# -- training: speed --------------------------------------------------------------------------

# Names of mixtures of experts, which no table's columns describe; dense models are built from their columns.
_EXPERTS = {
    "deepseek-v3": "deepseek-v3",
    "deepseek-v2": "deepseek-v2",
    "deepseek": "deepseek-v3",
    "mixtral": "mixtral-8x7b",
    "qwen3-30b-a3b": "qwen3-30b-a3b",
    "qwen3-235b-a22b": "qwen3-235b-a22b",
}
_SIZES = ("n_layers", "d_model", "n_heads", "d_ff", "vocab")


# What stands for models that a source names by their kind alone; torchao's test model has TinyLlama's sizes.
_USUAL_MODELS = {"llama-like 7b": "llama-2-7b", "llama-like 70b": "llama-2-70b", "llama2-1b": "tinyllama-1.1b"}


def trained_model(row: Row) -> Facts:
    """A mixture of experts, or a model whose sizes the row does not give, by its name."""
    name = row["model_name"].lower()
    usual = next((base for part, base in _USUAL_MODELS.items() if part in name), "")
    called = find_called(row["model_id"] or name) if not usual else None
    if usual or (called and (row["model_id"] or not all(row[column] for column in _SIZES))):
        return {"model": usual or called.name}
    base = next((base for part, base in _EXPERTS.items() if part in name), "")
    if base:
        # SimuMax cuts DeepSeek models down to one dense layer and the rest of experts
        cut = "truncated" in name and "first_k_dense_replace" in read_model(base)[1]
        return {"model": base, "config": as_json({"first_k_dense_replace": 1} if cut else {})}
    short = re.sub(r"\s+(sft|lora|qlora|full|\(.*\))$", "", name).replace("nemotron-340b", "nemotron-4-340b")
    if not all(row[column] for column in _SIZES) and short in model_names():
        return {"model": short}
    if "BLOOM" in row["source"] and row.count("d_model") % row.count("n_heads"):
        # "all NHEADS=64 (above too)": 96 does not divide 14336
        return {"config": as_json({"n_head": 64})}
    if "FlashAttention" in row["source"] and all(row[column] for column in _SIZES):
        # its configurations pad the vocabulary to a multiple of 8
        return {"config": as_json({"vocab_size": -(-row.count("vocab") // 8) * 8})}
    if "GLU MLP" in row["notes"]:
        head = re.search(r"head_dim (\d+)", row["notes"])
        return {"config": as_json(_gated(row, int(head[1]) if head else 0))}
    return {}


def _gated(row: Row, head_dim: int) -> dict[str, object]:
    """A Llama of the row's sizes: three matrices in the feed-forward part, heads as wide as is said."""
    sizes = {"hidden_size": "d_model", "intermediate_size": "d_ff", "num_hidden_layers": "n_layers"}
    sizes |= {"num_attention_heads": "n_heads", "num_key_value_heads": "n_kv_heads", "vocab_size": "vocab"}
    return {"model_type": "llama", "head_dim": head_dim, **{key: row.count(column) for key, column in sizes.items()}}


# Trainers by the start of a source's name, where it names one.
_TRAINERS = (
    ("MosaicML", "composer"),
    ("BigScience", "megatron-deepspeed"),
    ("torchtune", "torchtune"),
    ("torchtitan", "torchtitan"),
    ("torchao docs", "torchtitan"),
    ("torchao", "torchtune"),
    ("Megatron-Core MoE", "megatron-lm"),
    ("Google tpu-recipes", "maxtext"),
    ("MaxText README high performance configs: A3", "maxtext-gpu"),
    ("MaxText", "maxtext"),
    ("InternEvo", "internevo"),
    ("IBM fms-acceleration", "fsdp"),
    ("AWS Neuron", "neuron"),
    ("ml-engineering", "deepspeed"),
    ("EasyContext", "deepspeed"),
    ("FlashAttention", "compiled"),
    ("Colossal-AI", "colossalai"),
    ("ms-swift", "ms-swift"),
    ("Llama 3 Herd", "torchtitan"),
)


def software(row: Row) -> Facts:
    """Which trainer ran, by what the source says of it, and what the run switched otherwise."""
    notes = row["notes"].lower()
    year = row.number("year", 2025)
    sharded = row["zero_stage"].lower() in ("3", "fsdp")
    known = next((name for start, name in _TRAINERS if row["source"].startswith(start)), "")
    if "ici_fsdp" in notes or "fsdp group" in notes:
        known = known or "maxtext-gpu"
    if known == "ms-swift" and notes.startswith("megatron"):
        known = "megatron-lm"
    if known == "fsdp" and "foak" in notes:
        known = "unsloth"  # whose kernels "fused ops and kernels" are
    if known in ("torchtitan", "torchtune"):
        together = "async" in notes
        return {
            "software": known,
            "compiled": "true" if together or "compile" in notes else "false",
            "tp_overlap": "true" if together else "",
        }
    if known in ("megatron-lm",):
        return {"software": known, **_exchange(notes)}
    if known:
        return {"software": known}
    if year <= 2022:
        return {"software": "deepspeed:2021" if sharded else "megatron-lm:2021" if year < 2022 else "megatron-lm:2022"}
    if "overlap off" in notes:
        return {"software": "megatron-lm", "tp_overlap": "false", "grad_overlap": "false"}
    if "MLPerf" in row["source"] and "lora" in row["model_name"].lower() and not row["gpu"].startswith("AMD"):
        # NVIDIA's configurations since v4.1: MCORE_CUDA_GRAPH=1
        graph = "" if row["source"].endswith("v4.0") else "full"
        return {"software": "megatron-bridge", "cuda_graph": graph}
    release = _release(row)
    return {"software": "nemo:1" if release < 25 else "megatron-bridge"} | _switches(row, release)


def _exchange(notes: str) -> Facts:
    """How tokens went to their experts, in the words of Megatron's users."""
    words = {"deepep": "deepep", "hybridep": "hybridep", "dispatcher a2a": "alltoall"}
    graphs = "cuda graph" in notes
    return {
        "dispatcher": next((name for word, name in words.items() if word in notes), ""),
        "a2a_overlap": "true" if re.search(r"a2a[ _]overlap(?!=0| off)", notes) else "",
        "cuda_graph": "partial" if graphs else "",
    }


@cache
def _recipes() -> list[dict[str, str]]:
    """Settings of Megatron-Bridge's recipes of performance, by release: what its files of presets say."""
    with (Path(__file__).parent / "bridge_recipes.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _recipe(row: Row, release: float) -> dict[str, str]:
    """The recipe that a row ran: of its model, device and format, with its layout; the newest up to its release."""
    name, _, task = row["model_name"].lower().partition(" ")
    sought = {
        "model": name,
        "task": task if task in ("sft", "lora") else "pretrain",
        "gpu": row["gpu"].partition("-")[0],
        "compute": _COMPUTE.get(row["precision"].lower().partition(" ")[0].partition("/")[0], row["precision"].lower()),
    }
    fitting = [one for one in _recipes() if all(one[key] == value for key, value in sought.items())]
    fitting = [one for one in fitting if float(one["release"]) <= release + 0.005]
    layout = "n_gpus tp pp vpp cp ep micro_batch global_batch".split()

    def alike(one: dict[str, str]) -> tuple[int, str]:
        return sum((row[key] or "1") == one[key] for key in layout), one["release"]

    return max(fitting, key=alike, default={})


def _switches(row: Row, release: float) -> Facts:
    if "Bridge" not in row["source"]:
        return {}
    found = _recipe(row, release)
    return {key: found.get(key, "") for key in ("dispatcher", "a2a_overlap", "cuda_graph", "recompute_modules")}


def _release(row: Row) -> float:
    """Year and month of a container, such as 26.06; the middle of the year where the source names none."""
    found = re.search(r"\b(2\d\.\d\d)(?:\.\d\d?)?$", row["source"].strip())
    return float(found[1]) if found else row.number("year", 2025) - 2000 + 0.065


_COMPUTE = {"": "bf16", "fp8-cs": "fp8", "fp8-mx": "mxfp8"}


def compute(row: Row, device: str) -> str:
    """The number format of matrix products; Hopper scales blocks in software, Blackwell in its multipliers."""
    word = row["precision"].lower().split(" ")[0].split("/")[0]
    found = _COMPUTE.get(word, word)
    hopper = device and "Hopper" in accelerator(device).architecture
    return "fp8-block" if found == "mxfp8" and hopper else found


def recompute(row: Row, *, torch: bool, frozen: bool, experts: bool, device: str) -> str:
    text = row["notes"].lower()
    if "selective op" in text or "per-op" in text:
        return "per-op"
    if "selective layer" in text:
        return "block"
    if "minimal_with_context" in text:
        return "none"  # of MaxText: products and attention are kept
    if row["recompute"] == "custom":
        return "full"  # of MaxText: the inputs of layers are kept, some products beside the device
    if "modules 'full'" in text:
        return "full"
    if row["recompute"] not in ("", "unknown"):
        return row["recompute"]
    if torch:
        # recipes of torchtune; of others it is not known
        return "full" if "torchtune" in row["source"] or "tpu" in row["source"].lower() else "as needed"
    # NVIDIA chooses the layouts of dense models so that all is kept; beside a Grace processor activations go to its
    # memory meanwhile
    if frozen and "MLPerf" in row["source"]:
        return "as needed"
    return "as needed" if experts and not frozen and not device.startswith("GB") else "none"


# What users call Megatron-Core's modules.
_MODULES = {
    "layernorm": "layernorm|norm",
    "moe_act": "moe_act|act",
    "shared_experts": "shared_experts?",
    "moe": "whole moe module",
    "mlp": "mlp",
    "core_attn": "core_attn",
}


def _modules(row: Row) -> str:
    """The modules that the notes say to run again."""
    found = re.search(
        r"recompute modules '([^']*)'|selective recompute (?:of )?([^;]*)|([\w+]+) recompute", row["notes"]
    )
    text = next((part for part in found.groups() if part), "") if found else ""
    return ",".join(name for name, words in _MODULES.items() if re.search(rf"\b(?:{words})\b", text))


def _reason_of_training(row: Row) -> str:
    if row["provenance"] == "memory":
        return "written down from memory, not read"
    if row["notes"].startswith("WARN") or "DOUBTFUL" in row["notes"]:
        return "the source contradicts itself: see the notes"
    if row["precision"] == "int8" or (row["precision"] == "fp8" and row["gpu"].startswith("TPU v6e")):
        return "int8 training (AQT on TPUs), which quantizes both operands of every product, is not modelled"
    if row["notes"].startswith("*") and row.count("n_gpus") > 1:
        return "which states lie in host memory is not stated"
    if "torchtune" in row["source"] and row["gpu"].startswith("RTX A6000"):
        return "more than the card's peak allows: the source contradicts itself"
    return ""


def _optimizer(row: Row) -> str:
    text = row["notes"].lower()
    paged = "pagedadamw8bit" in text or "paged 8bit" in text
    return "paged-adamw-8bit" if paged else "adamw-8bit" if "8-bit" in text and "torchao low" in row["source"] else ""


# Kept in what, by trainer, where the precision of the weights is no choice of the run.
_KEPT = {"composer": "bf16-mixed", "internevo": "bf16-mixed", "deepspeed": "bf16-mixed", "ms-swift": "bf16-mixed"}
_KEPT |= {"colossalai": "bf16-mixed", "neuron": "bf16-mixed"}
_TORCH = (*_KEPT, "torchtitan", "torchtune", "fsdp", "unsloth", "compiled", "maxtext", "maxtext-gpu")


def _shards(row: Row) -> str:
    """Ranks that share the states, where copies of them are kept beside: XLA's meshes name both."""
    found = re.search(r"FSDP group = (\d+)", row["notes"])
    mesh = re.search(r"ici_FSDP=(\d+) dcn_FSDP=(\d+)", row["notes"])
    slices = row["dp"] if row["source"].startswith("MaxText README") else ""
    if found:
        return str(min(int(found[1]), row.count("n_gpus")))
    if mesh:
        return str(min(int(mesh[1]) * int(mesh[2]), row.count("n_gpus")))
    return str(row.count("n_gpus") // (int(slices) * row.count("tp"))) if slices else ""


def _network(row: Row) -> str:
    """What joins the nodes, where the source says it."""
    words = {"EFA": r"\bEFA\b", "RoCE": "RoCE", "TCPX": "TCPX", "InfiniBand": r"InfiniBand|\bIB\b|HDR|NDR"}
    return next((name for name, word in words.items() if re.search(word, row["interconnect"])), "")


def _trains_ahead(row: Row) -> bool:
    """Whether DeepSeek-V3's layer for multi-token prediction is trained: the FLOPs a token that are printed tell it.

    They are 249.6 GFLOP without that layer and its head (rows that say so), and 260 with them.
    """
    rate = re.search(r"(?:TFLOP/s/GPU|TFLOPS_per_GPU)=([\d.]+)", row["notes"])
    if "deepseek-v3" not in row["model_name"].lower() or not rate:
        return False
    speed = row.positive("measured_value")
    if row["measured_kind"] == "step_time_s":
        speed = row.count("global_batch") * row.count("seq_len") / speed / row.count("n_gpus")
    return float(rate[1]) * 1e12 / speed > 255e9


def _slice(row: Row) -> str:
    """Devices of a node where that is stated, or chips of a TPU slice."""
    nodes = re.search(r"\(\d+ nodes? x (\d+)\)", row["notes"])
    if nodes and accelerator(device_of(row["gpu"]) or "h100").scale_up_devices <= 8:
        return nodes[1]
    within = re.search(r"slice of (\d+) chips", row["interconnect"])
    slices = re.search(r"ICI; (\d+) slice", row["interconnect"])
    return within[1] if within else str(row.count("n_gpus") // int(slices[1])) if slices else ""


def _changes(row: Row) -> dict[str, object]:
    # torchao's pages measure torchtitan on its developers' machines
    if "HBM2e-500W" in row["gpu"] or (row["gpu"].startswith("H100") and "torchao docs" in row["source"]):
        return _CAPPED
    if "POWER LIMITED B200" in row["notes"]:
        return {"name": "B200 180GB 750W", "tdp_watts": 750.0}  # torchao's documentation names the limit
    return {}


def training_throughput(row: Row) -> Facts:
    text, pp = row["source"] + " " + row["notes"].lower(), row.count("pp")
    device, switched, found = device_of(row["gpu"]), software(row), trained_model(row)
    device = device or Row({"gpu": row["gpu"], "gpu_memory": row["gpu_mem_gb"]}).device(usual=True).name
    running = switched["software"]
    titan = "torchtitan" in row["source"]
    # a trainer with its own pipeline has its own kernels too
    torch = running in _TORCH and (pp == 1 or titan or running in _KEPT)
    if not torch:
        switched.pop("compiled", None)
    method = re.search(r"\b(q?lora)\b", f"{row['model_name']} {row['notes']}".lower())
    frozen = method is not None
    single = "no interleaving" in row["notes"] or "SimuMax" in row["source"]
    sizes = {**row, **found, "n_params": ""}  # which some sources count in their own way
    spec = Row(sizes).spec() if found or all(row[column] for column in _SIZES) else None
    experts = spec is not None and spec.parameters.active != spec.parameters.total
    gpt = spec is not None and spec.model_type == "gpt2"
    counted = any(name in row["source"] for name in ("Narayanan", "BLOOM"))
    counted = counted or (row["recompute"] == "full" and any(n in row["source"] for n in ("InternEvo", "Colossal")))
    tuned = "IBM fms" in row["source"]
    tasks = ("sft", "lora") if "NVIDIA" in row["source"] or "Bridge" in row["source"] else ()
    squad = any(re.search(rf"\b{task}\b", f"{row['model_name'].lower()} {text}") for task in tasks)
    base = "nf4" if "bnb nf4" in text or "peft-bnb" in text else "int4-gptq" if "autogptq" in text else ""
    if method and method[1] == "qlora":
        base = base or "nf4-dq"
    if "MLPerf" in row["source"] and row["precision"].startswith("fp8"):
        base = "fp8"  # submissions keep frozen weights in it
    return found | {
        "not_predicted": _reason_of_training(row),
        # judged before any constant may know them
        "cluster": cluster_of(row),
        "device": device,
        "device_changes": as_json(_changes(row)),
        "adapter_gb_per_s": f"{adapter_of(row['interconnect'], device):.17g}",
        "network": _network(row),
        "ranks_per_device": "2" if "counted in NeuronCores" in row["notes"] else "",
        "fsdp": _shards(row),
        "gpus_per_node": _slice(row),
        **switched,
        "attention_kernel": "cudnn" if re.search("flashattention-[34]", text) else "",
        # of SQuAD's samples, which NeMo's recipes of fine-tuning pack
        "packed": "200" if squad else "",
        "kernels": "torch" if torch else "megatron",
        # dtype: bf16 in torchtune's configurations
        "recipe": "bf16"
        if tuned or running == "torchtune"
        else _KEPT.get(running, "fp32-bf16")
        if torch
        else "bf16-mixed-fp32-grads",
        "compute": compute(row, device),
        "mtp": "1" if _trains_ahead(row) else "",
        "recompute_modules": switched.get("recompute_modules") or _modules(row),
        "recompute_mode": recompute(row, torch=torch, frozen=frozen, experts=experts, device=device),
        "optimizer": _optimizer(row),
        "optimizer_in_backward": "true" if re.search(r"in[_-]bwd", text) else "",
        "offload": "optimizer" if "cpu adamw offload" in text else "all" if "cpu offload with" in text else "",
        "interleaving": "none" if single or (titan and "interleaved" not in text) else "",
        "cp_kind": "all-gather" if "Llama 3 Herd" in row["source"] else "",  # Llama 3 (2024), section 3.3.2
        "adapters_only": "true" if frozen else "",
        "rank": _stated(row, r"LoRA r=(\d+)"),
        # recipes of Megatron have adapters at linear_qkv and linear_proj
        "targets": "attention" if frozen and (tuned or not torch) else "",
        "base": base if frozen else "",
        "loss": "chunked" if "liger" in text else "",
        "dropout": "true" if gpt and row.number("year", 2025) <= 2022 and "BLOOM" not in row["source"] else "",
        # rates of Narayanan et al. 2021 and of BLOOM count recomputed FLOPs
        "counts_recompute": "true" if counted and row["measured_kind"] == "tflops_per_gpu" else "",
        # Megatron-LM of 2025 counts half of the scores, as causal masks leave
        "counts_causal": "true" if "ModelZoo" in row["source"] or "causal attention" in text else "",
    }


# -- training: memory -------------------------------------------------------------------------

_BASES: dict[str, tuple[str, dict[str, object]]] = {
    "llama3-70b": ("llama-3-70b", {}),
    "llama3-8b": ("llama-3-8b", {}),
    "llama3-405b": ("llama-3.1-405b", {}),
    "deepseek-v2": ("deepseek-v2", {}),
    "Llama 2 7 B": ("llama-2-7b", {}),
    "Llama 2 13 B": ("llama-2-13b", {}),
}
# StableLM-Base-Alpha-3B, which only LitGPT's tables name
STABLELM = {
    "model_type": "gpt_neox",
    "hidden_size": 4096,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "intermediate_size": 16384,
    "vocab_size": 50688,
    "rotary_pct": 0.25,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
_PROGRAMS = {
    "BLOOM": "megatron-deepspeed",
    "LitGPT": "litgpt",
}


# Models whose config.json the catalog lacked: sizes as known, not read from an opened file [inferred].
_SIZED = {
    "internlm 7b": ("llama", 32, 4096, 32, 32, 11008, 103168, {"attention_bias": True}),
    "internlm 20b": ("llama", 60, 5120, 40, 40, 13824, 103168, {}),
    "chatglm3-6b": ("llama", 28, 4096, 32, 2, 13696, 65024, {}),
    "Baichuan2-7B": ("llama", 32, 4096, 32, 32, 11008, 125696, {}),
    "Baichuan2-13B": ("llama", 40, 5120, 40, 40, 13696, 125696, {}),
    "openbuddy-zephyr-7b": ("mistral", 32, 4096, 32, 8, 14336, 36608, {}),
    # [inferred] TinyLlama's sizes stand for torchao's test model
    # [inferred] LLaMA's own sizes
    "Llama-like 7B": ("llama", 32, 4096, 32, 32, 11008, 32000, {}),
    "Llama-like 70B": ("llama", 80, 8192, 64, 8, 28672, 32000, {}),
    "Llama2-1B": ("llama", 22, 2048, 32, 4, 5632, 32000, {}),
}


def _sized(name: str) -> dict[str, object]:
    found = next((sizes for part, sizes in _SIZED.items() if part.lower() in name.lower()), None)
    if found is None:
        return {}
    kind, layers, hidden, heads, kv_heads, inner, vocab, more = found
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": vocab,
        "tie_word_embeddings": False,
        **more,
    }


def _reason_of_memory(row: Row) -> str:
    source, notes = row["source"], row["notes"]
    if row["id"] == "TM0233":
        return "the source has 65 GB at micro-batch 2 and 56 GB at micro-batch 4: a slip of the pen in the source"
    if "DOUBTFUL" in notes:
        return "the source contradicts itself: see its notes"
    if "torchtune" in source and row["seq_len"]:
        return (
            "whether layers are recomputed is not stated, and decides: the same stated LoRA and full runs of Llama 3 "
            "8B take 16.2 and 18.9 GiB on one card, 30.3 and 37.4 GiB on another"
        )
    missing = {"seq_len": "the length of the sequences", "micro_batch": "the micro-batch"}
    # InternEvo's configs of that page have 2,048 tokens, and the unstated lengths of capacity rows are none
    unstated = [] if "InternEvo" in source else [words for name, words in missing.items() if not row[name]]
    if "Megatron-SWIFT" in source:
        unstated = ["the layout", *unstated]
    if "quantized_training" in source and row["recompute"] == "unknown":
        unstated.append("recompute")
    if row["evidence"] == "oom":
        unstated = [words for words in unstated if words == "the layout"]
    return f"not stated: {', '.join(unstated)}" if unstated else ""


def _loss(model: str, notes: str) -> str:
    """Of fms-acceleration: its fast kernels have none for GPTBigCode."""
    config = notes.partition(";")[0]
    if "liger" in config:
        return "chunked"
    return "fused" if "foak" in config and "bigcode" not in model else ""


def _tuned(row: Row) -> Facts:
    """Facts of the second set: mostly fine-tuning under transformers' Trainer."""
    source, notes, method = row["source"], row["notes"], row["method"]
    frozen, sharded = "lora" in method, row["zero_stage"] == "fsdp"
    facts: Facts = {}
    if "fms-acceleration" in source:
        amp = "AMP autocast flag on" in notes
        facts = {
            "software": "fms-acceleration" if "accelerated" in notes else "transformers:4",
            "recipe": "fp32-bf16" if amp and sharded and not frozen else "bf16",
            "loss": _loss(row["model_name"], notes),
            "base": ("int4-gptq" if "autogptq" in notes else "nf4-dq") if method == "qlora" else "",
            "rank": "16" if frozen else "",
            "targets": "attention" if frozen else "",
            "adapter_dropout": "true" if frozen else "",
        }
    elif "ms-swift LLM" in source:
        base = re.search(r"int([48]) \((\w+)\)", row["precision"])
        quantized = {"4gptq": "int4-gptq", "8gptq": "int8-gptq", "4bnb": "nf4-dq", "8bnb": "llm-int8"}
        facts = {
            # samples are cut at that length, and most are shorter
            "assumed": "lengths",
            "fitted": "false",
            "varied": "true",
            "software": "transformers:4",
            "recipe": "bf16",
            "base": quantized[base[1] + base[2]] if base else "",
            "rank": "8" if frozen else "",
            "targets": "qkv" if frozen else "",
            "adapter_dropout": "true" if frozen else "",
        }
    elif "InternEvo" in source:
        # [inferred] the tool is not stated; readings near the card's size are those of nvidia-smi
        facts = {"software": "internevo", "recipe": "bf16-mixed", "meter": "device"}
    elif "torchao docs" in source:
        kind = {"fp8": "fp8", "mxfp8": "mxfp8"}.get(row["precision"], "")
        facts = {"software": "torchtitan", "recipe": "fp32-bf16", "compute": kind, "compiled": "true"}
        # [inferred] from the same layout taking a third less: torchtitan of 2025 compiles the loss, too
        facts["loss"] = "fused" if "torch 2.9" in notes else ""
    elif "torchao" in source:
        states = next((f"adamw-{bits}bit" for bits in ("8", "4") if f"{bits}-bit" in row["optimizer"]), "adamw-fused")
        facts = {"software": "eager", "recipe": "bf16", "optimizer_states": states}
        # the quantized training's script divides by 1e9, torchtune by 2**30
        facts["unit_bytes"] = "1e9" if "quantized" in source else ""
        facts["assumed"] = "model" if "quantized" in source else "lengths, micro-batch"
        facts["compiled"] = "true" if "compile" in notes or row["precision"] == "int8" else ""
    elif "ml-engineering" in source:
        offload = "offload" in row["optimizer"]
        liger = "without Liger" not in notes
        facts = {
            "software": "deepspeed",
            "recipe": "bf16-mixed",
            "loss": "chunked" if liger else "plain",
            "compiled": "true" if liger else "",
            "offload": "optimizer" if offload else "",
        }
    elif "Muon" in source:
        facts = {"software": "deepspeed", "recipe": "bf16-mixed"}
        facts["optimizer_states"] = "muon" if "Muon" in row["optimizer"] else ""
    elif "Colossal" in source:
        facts = {"software": "colossalai", "recipe": "bf16-mixed"}
    elif "Unsloth" in source:
        unsloth = notes.startswith("Unsloth")
        facts = {
            "software": "unsloth" if unsloth else "transformers:4",
            "recipe": "bf16",
            "base": "nf4",
            "rank": "32",
            "targets": "all-linear",
            "optimizer_states": "adamw-8bit",
            "loss": "chunked" if unsloth else "",
            "checkpoint_offload": "true" if unsloth else "",
        }
    elif "Megatron-SWIFT" in source:
        facts = {"software": "megatron-lm" if "Megatron-LM" in notes else "deepspeed", "recipe": "bf16-mixed"}
    return facts


def training_memory(row: Row) -> Facts:
    program = next((program for part, program in _PROGRAMS.items() if part in row["source"]), "")
    base, changes = next((found for part, found in _BASES.items() if part in row["model_name"]), ("", {}))
    if row["model_name"].startswith("StableLM"):
        changes = STABLELM
    changes = _sized(row["model_name"]) or changes
    if row["id"].startswith("MN"):
        return {
            "not_predicted": _reason_of_memory(row),
            "model": base,
            "config": as_json(changes),
            "device": device_of(row["gpu"]),
            "recompute_mode": "per-op" if row["recompute"] == "selective" else row["recompute"],
            **_tuned(row),
        }
    rebalanced, titan = "Rebalancing" in row["notes"], row["source"].startswith("torchtitan")
    method, _, quantized = row["method"].partition("+bnb.")
    if method == "qlora":
        method, quantized = "lora", "nf4-dq" if "nf4-dq" in row["notes"] else "nf4"
    stated = re.search(r"trainable params ([\d,]+)", row["notes"]) if program == "litgpt" else None
    if "Megatron-Bridge" in row["source"]:
        # the released container fuses attention: selective recompute of its core changes nothing
        mode = "selective"
    else:
        mode = "per-op" if titan and row["recompute"] == "selective" else row["recompute"]
    # from "Rebalancing layers" on, the source runs DeepSpeed's BF16_Optimizer, which adds up gradients in fp32
    recipes = {"megatron-deepspeed": "bf16-mixed-fp32-grads" if rebalanced else "bf16-mixed"}
    known = {"torchtitan": "torchtitan", "SimuMax": "megatron-lm", "Megatron-Bridge": "megatron-bridge"}
    software = next((name for part, name in known.items() if row["source"].startswith(part)), "")
    # "regex partition_method='type:transformer|embed'"
    counted = rebalanced or row["id"] == "TM0270"
    return {
        "not_predicted": _reason_of_memory(row),
        "program": program,
        "model": base,
        "config": as_json(changes),
        "device": device_of(row["gpu"]),
        "software": software,
        "recipe": "fp32-bf16" if titan else recipes.get(program, "bf16-mixed-fp32-grads" if software else ""),
        "compute": "fp8" if software and row["precision"] == "fp8" else "",
        "recompute_mode": mode,
        "recompute_modules": "mlp" if "mlp recompute" in row["notes"] or "mlp+core" in row["notes"] else "",
        "compiled": ("true" if "compile" in row["notes"] else "false") if titan else "",
        "outer_layers": "counted" if program == "megatron-deepspeed" and counted else "",
        "adapter": method if program == "litgpt" else "",
        "weights": quantized if program == "litgpt" else "",
        "trained_params": stated[1].replace(",", "") if stated else "",
        # BLOOM's readings go up to 80: in GiB that would be every byte of its devices (81,920 MiB), which no process
        # gets; we read them as thousands of nvidia-smi's MiB. As GiB they would be 2.4 % larger
        "unit_bytes": str(1000 * 2**20) if "nvidia-smi" in row["mem_kind"] else "",
    }


# -- inference: speed -------------------------------------------------------------------------

_GPTS = {
    "gpt 175b": (96, 12288, 96),
    "gpt-neox-style gpt 20b": (44, 6144, 48),
    "gpt 6.7b": (32, 4096, 32),
    "gpt 350m": (24, 1024, 16),
    "test-13b (gpt 13b)": (40, 5120, 40),
}
_NAMES = {
    "llama3.3-70b": "llama-3.1-70b",
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
    "q4_0": ("q4_0", "fp16"),
    "q8_0": ("q8_0", "fp16"),
    "mxfp4": ("MXFP4_MOE", "fp16"),
    "i1-q4_k_m": ("q4_k_m", "fp16"),
    "awq-int4": ("int4-awq", "bf16"),
    "gptq-int4": ("int4-gptq", "bf16"),
    "gptq-int8": ("gptq-8bit", "bf16"),
    "q4_k_xl": ("Q4_K_XL", "fp16"),
    "ud-q4_k_xl": ("Q4_K_XL", "fp16"),
    "q8_k_xl": ("Q8_K_XL", "fp16"),
}


def served_formats(row: Row) -> tuple[str, str]:
    """Formats of weights and cache: what `quant` says of both, or the usual ones of a model and an engine."""
    quant, name = row["quant"].lower().partition(" (")[0], row["model_name"].lower()
    if split_quant(quant)[1]:
        return split_quant(quant)
    if "gpt-oss" in name and quant.startswith("f16"):
        return "F16", "fp16"
    if "gpt-oss" in name and not quant:
        return "MXFP4_MOE", "fp16"
    if "DeepSeek-R1" in row["model_name"] and "InferenceX" in row["source"]:
        narrow = "mxfp4" if row["gpu"].startswith("MI") else "nvfp4"
        return (narrow if quant == "fp4" else "fp8-block"), "fp8"
    if quant == "fp8" and "Qwen speed" in row["source"]:
        return "fp8-block", "bf16"
    if not quant:  # Ollama's usual file, or the checkpoint as published
        return ("q4_k_m", "fp16") if "geerlingguy" in row["source"] else ("bf16", "bf16")
    return _FORMATS.get(quant, ("", ""))


def served_model(row: Row) -> Facts:
    plain = row["model_name"].lower()
    if plain in _GPTS:
        layers, hidden, heads = _GPTS[plain]
        sizes = {"n_embd": hidden, "n_layer": layers, "n_head": heads, "n_positions": 2048, "vocab_size": 51200}
        return {"config": as_json({"model_type": "gpt2", **sizes})}
    if plain == "stablelm-alpha-3b":
        return {"config": as_json(STABLELM)}
    try:
        known = find_model(_NAMES.get(plain, plain.partition(" (")[0]))
    except LLMHWError:
        return {}
    return {"model": known.name} if known else {}


def engine(row: Row) -> str:
    """Which engine ran, in which generation; empty for one that is not known."""
    return software_of(row["engine"], row["year"])


def backend(row: Row) -> str:
    """What llama.cpp ran on, where the device leaves a choice; its kernels for AMD until 2025 are a generation."""
    text = row["engine"].lower()
    if "llama.cpp" not in text:
        return ""
    name = "vulkan" if "vulkan" in text else "hip" if "rocm" in text or row["gpu"].startswith("MI3") else ""
    return f"{name}-2025" if name and row["year"] <= "2025" else name


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


def _reason_of_serving(row: Row) -> str:
    batch = row["batch_or_concurrency"]
    if row["gpu"] == "A100 SXM 80GB" and row["metric"] == "prefill_tok_per_s":
        return "681 tokens/s on A100 SXM beside 7,504 on A100 PCIe in one table: the card was not itself"
    if "," in row["gpu"] and "x16" in row["gpu"]:
        return "two kinds of devices in one system"
    if row["metric"] == "ttft_ms" and batch.isdigit() and int(batch) > 1 and "queueing" in row["notes"]:
        return "requests start together and queue: this time is that of the queue"
    if "speculative decoding: mtp" in row["notes"]:
        return "speculative decoding: how many tokens are drafted, and how many are accepted, is not stated"
    if "PCIe-limited" in row["notes"]:
        return "a single-board host with one lane of PCIe, which the source says not to judge speeds by"
    return ""


def _layout(row: Row) -> Facts:
    """How prefill and decode are dealt to devices of their own."""
    found = re.search(
        r"prefill (\d+) workers TP(\d+) EP\d+ dp_attn=(\w+) on (\d+) GPUs; decode (\d+) workers TP(\d+) EP\d+ "
        r"dp_attn=(\w+) on (\d+)",
        row["notes"],
    )
    if not found:
        return {"attention_dp": "true" if "dp_attention=True" in row["notes"] else ""}
    workers, tp, shared, devices, decoders, its, apart, rest = found.groups()
    # a worker of more devices than tensor-parallel ranks deals sequences to them
    return {
        "prefill_gpus": devices,
        "prefill_workers": workers,
        "prefill_attention_dp": str(shared == "True" or int(tp) * int(workers) < int(devices)).lower(),
        "decode_workers": decoders,
        "attention_dp": str(apart == "True" or int(its) * int(decoders) < int(rest)).lower(),
    }


def _assumed(row: Row) -> str:
    """What the source does not state, and is as usual: an interval is wider then."""
    device = "not stated" in row["gpu"] or row["gpu"].startswith("H100-80GB")
    found = {
        "device": device or "ZE_FLAT" in row["notes"],
        "weights": not row["quant"],
        "kv_dtype": "InferenceX" in row["source"],
        "tp": not row["tp"] and "DISAGGREGATED" not in row["notes"] and row["n_gpus"] != "1",
        "lengths": not row["isl"] and "MLPerf" not in row["source"],
        "engine": "not stated" in row["engine"] or row["engine"] == "vLLM",
        "caching": "prefix caching may" in row["notes"] and row["metric"] == "ttft_ms",
        "ending": "EOS not disabled" in row["notes"],
    }
    return " ".join(name for name, is_so in found.items() if is_so)


def _stated(row: Row, pattern: str) -> str:
    found = re.search(pattern, row["notes"])
    return found[1] if found else ""


def _fused(row: Row) -> str:
    stated = _stated(row, r"flash[_ ]att\w+[ =](on|off|True|False)")
    return "" if not stated else str(stated in ("on", "True")).lower()


def inference_throughput(row: Row) -> Facts:
    found = served_model(row)
    parameters = Row(found).spec().parameters if found else None
    experts = parameters is not None and parameters.active != parameters.total
    shared = experts and ("attention-DP" in row["notes"] or "MLPerf" in row["source"])
    stored, cached = served_formats(row)
    prompt, answer, requests = "", "", ""
    if "perf-overview" in row["source"] and not row["batch_or_concurrency"].isdigit():
        requests = str(_REQUESTS.get((row.count("isl", 0, least=0), row.count("osl", 0, least=0)), ""))
    if "InferenceX" in row["source"]:  # lengths from 0.8 to 1.0 of what is stated; ten requests for each at a time
        prompt, answer = (str(round(0.9 * row.count(name))) for name in ("isl", "osl"))
        requests = str(10 * row.count("batch_or_concurrency"))
    return (
        found
        | {
            "not_predicted": _reason_of_serving(row),
            "cluster": cluster_of(row),
            "device": served_device(row["gpu"]),
            "software": engine(row),
            "backends": backend(row),
            "weights": stored,
            "kv_dtype": cached,
            "mean_isl": prompt,
            "mean_osl": answer,
            "requests": requests,
            # a decode row's isl is the depth already
            "past": _stated(row, r"@ d(\d+)") if row["metric"].startswith("prefill") else "",
            "n_ubatch": _stated(row, r"n_ubatch (\d+)") or _stated(row, r"n_batch=(\d+)"),
            "flash_attn": _fused(row),
            "assumed": _assumed(row),
        }
        | ({"attention_dp": "true"} if shared else _layout(row))
    )


# -- inference: memory ------------------------------------------------------------------------

_QUANTS = {
    "bf16": "bf16",
    "fp16": "fp16",
    "fp8-block": "fp8-block",
    "fp8": "fp8",
    "mxfp4": "mxfp4",
    "nvfp4": "nvfp4",
    "int4-awq": "int4-awq",
    "int4-w4a16": "int4-w4a16",
    "gptq-int4": "int4-gptq",
    "gptq-int8": "gptq-8bit",
    "awq-int4": "int4-awq",
    "int8-w8a8": "int8",
    "bnb-int8": "int8-llm",
    "bnb-nf4-dq": "nf4-dq",
    "bnb-nf4": "nf4",
}
# First Qwen models have the shapes of Qwen1.5; the chat models named here have those of their base.
_CHAT = {
    "vicuna-7b-v1.5": "llama-2-7b",
    "mpt-7b-8k-chat": "mpt-7b",
    "meta-llama-3-8b": "llama-3-8b",
    "llama-3.1-swallow-8b-instruct-v0.1": "llama-3.1-8b",
    "qwen2.5-math-1.5b": "qwen2.5-1.5b",
}
_TAIL = re.compile(r"(-(chat|instruct|gptq-int4|gptq-int8|awq|fp8|quantized\.w8a8))+$")


def base_of(name: str) -> str:
    """The catalog's model: the base where the name is that of a chat model or of a quantized copy; empty if none."""
    plain = name.lower().partition(" (")[0]
    plain = _CHAT.get(plain, plain)
    plain = re.sub(r"^qwen-(?=\d)", "qwen1.5-", _TAIL.sub("", plain))
    try:
        return read_model(plain)[0]
    except KeyError:
        return ""


def weights(quant: str) -> str:
    return next((name for start, name in _QUANTS.items() if quant.startswith(start)), "")


def inference_memory(row: Row) -> Facts:
    if "llama.cpp" in row["engine"]:
        return served_model(row) | {
            "program": "llama.cpp",
            "device": served_device(row["gpu"]),
            "weights": served_formats(row)[0],
            "n_ubatch": _stated(row, r"n_ubatch (\d+)"),
            "flash_attn": _fused(row),
        }
    found = re.search(r"transformers (\d+)\.(\d+)", row["engine"])
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    program = next((name for name in ("autoawq", "transformers") if name in row["engine"]), "")
    # transformers before 4.45 applies the head to the whole prompt
    whole = program == "transformers" and version < (4, 45)
    allocated = program == "autoawq" or row["mem_kind"] == "allocated" or version >= (4, 45)
    # Qwen's first code keeps a mask of 8192 x 8192 truth values in every layer, and its logits in 16 bit
    first = "v0, Aug 2023" in row["model_name"]
    required = row["mem_kind"] == "minimum-requirement"
    return {
        "not_predicted": "a requirement that was rounded to whole GB without a length, not a measurement"
        if required
        else "",
        "program": program,
        "model": base_of(row["model_name"]),
        "weights": weights(row["quant"]),
        "meter": "allocated" if allocated else "reserved",
        "prompt_logits": "true" if whole and not first else "",
        # its fuser looks for classes named after Aquila, and the model is made of Llama's
        "fused_layers": "false" if program == "autoawq" and "Aquila" in row["model_name"] else "",
        # the Qwen3 rows hold no activations of the prompt at any length: they were read when the answer was done
        "read_at": "end" if program == "transformers" and allocated and row["mem_kind"] != "allocated" else "",
        "mask_tokens": "8192" if first else "",
    }


def vllm_capacity(row: Row) -> Facts:
    name = row["gpu"]
    nominal = re.search(r"(\d+(?:\.\d+)?) ?(GB|GiB)", name)
    device = device_of(name.removesuffix("GB").rstrip("0123456789").rstrip("-") if nominal else name)
    if name == "A100-80GB":
        # as much memory on PCIe as on SXM; its defaults are not those of other devices of that size
        device = "A100 80GB SXM4"
    # "24GB" is 24 GiB of a driver's total; "95.6 GiB" is what CUDA shows
    card, visible = (nominal[1], nominal[2] == "GiB") if nominal and not device else ("", False)
    unnamed = "model_name" in row["inferred_fields"].split(";") or "MODEL NOT NAMED" in row["model_name"]
    stated = {}
    for column in ("max_num_seqs", "max_num_batched_tokens"):
        found = re.search(rf"{column} (\d+)", row["notes"])
        stated[column] = found[1] if found else ""
    return {
        "not_predicted": "the log does not name the model" if unnamed else "",
        "kv_unstated": "max_num_seqs is not shown: a profile of 9.37 GiB is that of 2,048 sequences, not of vLLM's 256"
        if row["id"] == "vc011"
        else "",
        "weights_unstated": "Meta's FP8 files leave attention and the outer layers in 16 bit, which no format here does"
        if row["id"] == "vc032"
        else "",
        "model": base_of(row["model_name"]),
        "weights": weights(row["quant"]),
        "device": device,
        "visible_gib": card if visible else "",
        "card_gib": "" if visible else card,
        **stated,
    }


_DEEPSEEK = {"128": "deepseek-v3", "64": "kimi-k2", "16": "deepseek-v2-lite"}
_LLAMAS = {"40": "llama-2-13b", "32": "llama-3.1-8b"}


def llamacpp_memory(row: Row) -> Facts:
    by_arch = {
        "deepseek2": _DEEPSEEK.get(row["n_head"], ""),
        "llama": _LLAMAS.get(row["n_layer"], ""),
        "qwen3": base_of(row["model_name"]),
    }
    mix = re.match(r"^(\w+?)(?: - (Small|Medium|Large))?$", row["quant"])
    return {
        "model": by_arch.get(row["arch"], ""),
        "weights": mix[1] + (f"_{mix[2][0]}" if mix[2] else "") if mix else "",
    }


READERS: dict[str, Callable[[Row], Facts]] = {
    "training_throughput": training_throughput,
    "training_memory": training_memory,
    "inference_throughput": inference_throughput,
    "inference_memory": inference_memory,
    "vllm_capacity": vllm_capacity,
    "llamacpp_memory": llamacpp_memory,
}


def with_facts(table: str, text: str) -> str:
    """The table with its columns of facts, from a table with or without them."""
    columns, *rows = csv.reader(io.StringIO(text, newline=""))
    stated = [column for column in columns if column not in FACTS[table]]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*stated, *FACTS[table]])
    for values in rows:
        row = Row({column: cell for column, cell in zip(columns, values, strict=True) if column in stated})
        facts = READERS[table](row)
        cells = dict(zip(columns, values, strict=True)) | {column: facts.get(column, "") for column in FACTS[table]}
        writer.writerow([cells[column] for column in (*stated, *FACTS[table])])
    return out.getvalue()


def main() -> None:
    for table in FACTS:
        path = FOLDER / f"{table}.csv"
        path.write_text(with_facts(table, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
