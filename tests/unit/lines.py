"""Command lines as people and their scripts write them: right ones that go deep, and the same with something wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any, NamedTuple

import click
from hypothesis import strategies as st

import llmhw
from llmhw.catalog import read_calibration
from llmhw.cli import cli
from llmhw.cli.options import TOPICS, Option
from llmhw.validation import KINDS, template


class Asked(NamedTuple):
    """A command line, and the files that it reads; `{dir}` in both is the folder that they lie in."""

    line: list[str]
    files: dict[str, str]


# -- right ones -------------------------------------------------------------------------------

# Options that go together; a word is drawn from those between bars, and ~ is a space in it.
_CLUSTER = [
    "--devices-per-node 4|8",
    "--link nvlink~4|450|25.5",
    "--network InfiniBand~NDR~4x|50|12.5",
]
_TRAINING = [
    "--zero 0|1|2|3",
    "--zero 3 --replicas 1|2",
    "--micro-batch 1|2|4|8",
    "-b 1,2,4",
    "--global-batch 64|256|1024",
    "--seq-len 128|1000|2048|8k|131072",
    "--recompute none|selective|per-op|full",
    "--recompute none,selective,full",
    "--recompute block --recompute-layers 0|1|3|20",
    "--precision fp32|fp32-bf16|bf16-mixed|bf16-mixed-fp32-grads|bf16",
    "--compute bf16|fp16|fp8|fp8-block|mxfp8|tf32|fp32|nvfp4",
    "--optimizer adamw|adamw-fp32|adamw-bf16|adamw-8bit|adafactor|sgd|sgd-momentum|lion|muon",
    "--frozen",
    "--offload none|optimizer|all",
    "--attention flash|eager",
    "--kernels torch|megatron",
    "--kernels megatron --dropout|--no-dropout",
    "--expert-imbalance 1|1.5|8",
    "--cp-kind ring|all-gather",
]
_RUN = [
    "--tokens 1|1e6|15T|20B|1e15",
    "--price 0.01|2.5|1000",
    "--provider AWS|Lambda|RunPod~Community",
    "--region us-east-1|global",
    "--spot",
    "--mtbf 1|1000|50000|1e9|inf",
    "--restart 0|1|600|86400",
    "--checkpoint-interval 1|600|1e6",
    "--checkpoint-blocking 0|0.1|1",
    "--storage 0.01|10|1000",
    "--power-fraction 0.01|0.5|1",
    "--host-watts 0|100|1000",
    "--pue 1|1.2|3",
    "--grid World|France|us-va|CHN",
    "--hardware-share 0|0.5|1 --repair-hours 0|24|1e5",
    "--currency EUR|cny|USD",
    "--prices {prices}",
    "--prices {prices} --reserved",
]
_SERVING = [
    "--engine vllm|tensorrt-llm|sglang|transformers|litgpt",
    "--engine llama.cpp --weights q4_k_m|q8_0|bf16",
    "--weights bf16|fp8|int4-gptq|int8|nf4|mxfp4|nvfp4|fp32",
    "-w bf16,fp8,int4-gptq",
    "--kv bf16|fp8|fp16|int8",
    "--page-size 1|16|64|1000",
    "--utilization 0.1|0.5|0.9|1",
    "--max-sequences 1|8|256|4096",
    "--max-batched-tokens 512|8192|65536",
    "--max-model-len 1|512|8k|128k",
    "--prefix-tokens 0|1|500|8192",
    "--lora-adapters 1|8|100",
    "--lora-adapters 2 --lora-rank 1|64",
    "--split tensor|layers",
    "--all-reduce two-shot|one-shot|nvls|auto",
    "--slo-ttft 0.001|0.2|5",
    "--slo-tpot 0.001|0.03|1",
]
_SERVE = [
    "--input-tokens 1|100|1000|30000 --output-tokens 1|50|1000",
    "--concurrency 1|7|64|1000|100000",
    "-c 1,8,64",
    "--rate 0.001|1|8|1000|1e9",
    "--draft gpt2|llama-3.2-1b|smollm2-135m|qwen3-0.6b",
    "--draft llama-3.2-1b --draft-tokens 1|3|20 --acceptance 0|0.5|1",
    "--price 0.01|2.5|1000",
    "--provider AWS|Lambda|RunPod~Community",
    "--spot",
    "--grid World|France|Virginia",
    "--currency EUR|JPY",
    "--prices {prices}",
    "--curve --csv",
]
_SIMULATE = [
    "--mode continuous --chunked-prefill",
    "--mode static|dynamic|continuous",
    "--mode dynamic --max-delay 0|0.1|100",
    "--mode disaggregated --prefill-workers 1|2|4",
    "--input-tokens 1|100|uniform:1:500|exponential:300|lognormal:100:1|lognormal:100:1:1:999|csv:{lengths}",
    "--output-tokens 1|30|uniform:1:50|exponential:20|lognormal:20:0.5|csv:{lengths}",
    "--seed 0|1|12345678901234567890",
]
_OWNING = [
    "--gpus 1|8|16|20000",
    "--months 1|18|36|60|600 --utilization 0.001|0.6|1",
    "--utilization 0.3,0.6,1",
    "--purchase-price 1|30000|1e9",
    "--server-factor 1|1.5|100 --network-factor 1|1.2|100",
    "--life-months 1|36|600",
    "--electricity 0|0.1|100 --pue 1|1.2|100",
    "--hosting 0|200 --staff 0|100 --upkeep 0|0.1|10 --interest 0|0.08|1",
    "--power-fraction 0.01|1 --idle-fraction 0|1 --host-watts 0|374|1e6",
    "--price 0.01|2.5|1000",
    "--provider AWS|Lambda|RunPod~Community",
    "--device-hours 1|1e6 --tokens-per-second 0.1|5000 --users 1|1e6",
    "--currency EUR|cny|USD",
    "--prices {prices}",
]
_ONE = ["--batch 1|4|64|1000", "--seq-len 1|128|8k|131072", "--weights bf16|fp8|int4-gptq|q4_k_m", "--kv bf16|fp8"]
MODELS = (
    "llama-3-8b gpt2 llama-3-70b mixtral-8x7b deepseek-v3 deepseek-v2-lite gemma-3-27b qwen3-next-80b-a3b gpt-oss-120b "
    "qwen3-30b-a3b llama-4-scout nemotron-3-nano-30b-a3b deepseek-v3.2 kimi-k2 smollm2-135m tinyllama-1.1b falcon-7b "
    "phi-3.5-moe t5 LLAMA-3-8B {config}"
)
_GPUS = "h100|h200|b200|A100~80GB~SXM4|RTX~4090|MI300X|TPU~v5e|M4~Max|V100~SXM2~32GB|L4|GB200~NVL72|Gaudi~3"
_CALIBRATION = "--calibration {calibration}"

_LIMITS = [
    "--deadline 0.01|1|30|1000",
    "--budget 1|1000|1e6",
    "--budget-per-hour 0.1|10|1e4",
    "--purchase 1000|1e6",
    "--most-devices 1|8|1000",
    "--headroom 0|0.1|0.9",
    "--peak-kw 1|100",
    "--by cost|time|devices|energy",
    "--best 1|3|50",
    "--tp 1|2|2,4",
    "--zero 0|1,3|3",
    "--offload none|optimizer|all",
    "--recompute none|full",
    "--optimizer adamw|adamw-8bit|muon",
    "--seq-len 128|2k",
    "--global-batch 1|64|100",
    "--tokens 1|1e9|15T",
]
_TUNED = [
    "--method full|lora|qlora|dpo|lora,dpo|full,lora|sft,dpo|grpo",
    "--frozen --base nf4|int8",
    "--rank 1|8|1000000",
    "--examples 1|1000|1e9 --epochs 1|3|0",
]

_DEMANDED = [
    "--users 1|64|1000000|0",
    "--rate 0.1|5|1000|1e-9",
    "--slo-ttft 0.2|2|600|0",
    "--slo-tpot 0.001|0.03|0.2|33",
    "--quality lossless|high|usable|any",
    "--context 2k|32k|1",
    "--input-tokens 1|1000|100k",
    "--output-tokens 1|500|4k",
    "--percentile 90|99|50",
    "--budget-per-hour 0.1|20|1e4",
    "--budget-per-month 100|1e6",
    "--purchase 500|50000",
    "--most-devices 1|8|64",
    "--headroom 0|0.1|0.9",
    "--by cost|latency|devices|speed",
    "--best 1|3|50",
    "--tp 1|2|2,4",
    "--pp 1,2",
    "-w fp8|bf16|int4-awq|q4_k_m",
    "--kv fp8|bf16",
    "--engine vllm|sglang|llama.cpp|tensorrt-llm",
    "--price 0.5|20",
    "--provider AWS|x",
]

_PHRASES: dict[str, list[str]] = {
    "plan train": [*_LIMITS, *_RUN],
    "plan finetune": [*_LIMITS, *_RUN, *_TUNED],
    "plan serve": _DEMANDED,
    "which": [
        *_DEMANDED[4:8],
        "--budget 100|2500|1e5",
        "--budget-per-hour 0.1|5",
        "--tokens-per-second 1|20|1000",
        "--gpu 3090+4090|2x3090+4090|h100|x",
        "--gpus 1|2|64",
        "--engine vllm|llama.cpp|x",
        "--link 16|PCIe~4.0~x16",
        "-w q4_k_m|fp8|int4-awq",
        "--best 1|50",
        "--most-devices 1|8",
    ],
    "compare": [*_DEMANDED[2:8], "--gpus 1|8|3", "--train", "-w fp8|bf16", "--engine vllm|sglang|x", "--price 2"],
    "fit": [*_ONE, "-w bf16,fp8,q4_k_m", "-b 1,8", "--rank 1|16|256", "--utilization 0.1|0.9|1", "--gpus 1|2|3|8"],
    "memory": [*_CLUSTER, *_TRAINING],
    "train": [
        *_CLUSTER,
        *_TRAINING,
        *_RUN,
        "--software torchtitan|torchtune|megatron-lm|composer|nanotron",
        _CALIBRATION,
    ],
    "serve": [*_CLUSTER, *_SERVING, *_SERVE, _CALIBRATION],
    "simulate": [*_CLUSTER, *_SERVING, *_SIMULATE, _CALIBRATION],
    "model": [*_ONE, "--causal"],
    "prices": [
        "--provider AWS|lambda|x",
        "--region us-east-1|global",
        "--kind spot|on_demand|purchase|reserved",
        "--max 0.5|3|1e6",
        "--currency EUR|cny",
        "--prices {prices}",
    ],
    "cost": _OWNING,
    "sweep": [
        "--gpus 1|2|1,3|0|x",
        "--set tp=1,2|weights=bf16|seq_len=0|max_model_len=100|x=3|tp|=1|utilization=0.5,x|tp=1,tp=2",
        "--workers 1|0|x",
        "--resume",
    ],
    "explain": [*_ONE, "--optimizer adamw|muon", "--precision bf16|fp32"],
    "measure": [
        "--toy",
        "--threads 1|0|x",
        "--ranks 1|0|x",
        "--kind decode|x",
        "--device cpu|x",
        "--batch 0|-1|x",
        "--seq-len 0|-5|1.5",
        "--optimizer x|lbfgs",
        "--gpu x|h10",
    ],
    "validate": ["--worst 0|1|3|1000", "--columns", "--template", _CALIBRATION, "--fit {dir}/fitted.json"],
}
_PARTS = {
    "memory": "weights|activations|total|x",
    "train": "step|cost|MFU|price|energy|memory|optimizer|weights|tokens/s~in~all",
    "serve": "first~token|next~token|all~users|total|memory|cost|one~user|x",
    "model": "weights|KV~cache|parameters|total",
    "cost": "total|lost~value|interest|electricity|break-even|rent|x",
}


def _word(draw: Any, word: str) -> str:
    return str(draw(st.sampled_from(word.split("|")))).replace("~", " ")


def _base(draw: Any, name: str) -> list[str]:
    """What the command cannot do without, in a layout that adds up."""
    if name in ("models", "gpus", "links", "formats", "prices", "trainers"):
        return [_word(draw, w) for w in draw(st.sampled_from([[], ["h100|gpt2|nvlink|q4|x"]]))]
    if name == "completion":
        return [_word(draw, "bash|zsh|fish")]
    if name == "schema":
        return _word(draw, "serve|gpus|plan~train|x").split()
    if name == "sweep":
        question = _word(draw, "fit|room|room|serve|serve|memory|train|x")
        models = _word(draw, "gpt2|gpt2|llama-3-8b,gpt2|qwen3-8b|t5|{config}|,")
        return [question, "--models", models, "--gpu", _word(draw, "h100|h100,a10|RTX~4090|MI300X|x")]
    if name == "cost":
        asked = [[], [], ["gpt2"], ["llama-3-8b", "--weights", "fp8"], ["{config}"], ["t5", "--output-tokens", "9"]]
        return [*draw(st.sampled_from(asked)), "--gpu", _word(draw, f"{_GPUS}|h100|h100|h100,h200|B200|RTX~5090|L40S")]
    model = draw(st.sampled_from(MODELS.split()))
    if name == "measure":
        return [
            _word(draw, "params|flops|activations|memory|optimizer|step"),
            draw(st.sampled_from(["x", "t5", "{config}"])),
        ]
    if name == "explain":
        topic = draw(st.sampled_from([*TOPICS, *llmhw.formulas()]))
        return [topic, model] if topic in TOPICS else [topic, *_numbers(draw, topic)]
    if name == "validate":
        return ["{table}", "--kind"]  # the kind follows from the table
    if name == "model":
        return [model]
    if name == "which":
        return [draw(st.sampled_from(["llama-3-8b", "qwen3-32b", "gpt-oss-20b", "smollm2-135m", "t5"]))]
    if name == "compare":
        model = draw(st.sampled_from(["llama-3-8b", "qwen3-32b", "gpt-oss-20b", "smollm2-135m", "t5", "no.log"]))
        return [model, "--gpu", _word(draw, _GPUS), "--gpu", "h100"]
    if name.startswith("plan "):  # of many devices and large mixtures every layout takes its time
        model = draw(st.sampled_from(["llama-3-8b", "gpt2", "gpt-oss-20b", "smollm2-135m", "{config}", "t5"]))
        where = _word(draw, "--gpu|--gpu|--gpu|--instance")
        machine = _word(draw, "p5.48xlarge|g5.xlarge|x" if where == "--instance" else _GPUS)
        line = [model, where, machine, "--gpus", _word(draw, "1|8|8,16|3|64")]
        return line if name == "plan serve" else [*line, "--cp", "1", "--micro-batch", "1"]
    gpu = _word(draw, _GPUS if draw(st.integers(0, 9)) else "h100,h200|h200,b200|b200,mi300x,l4|h100,x|h100,h100|all")
    line = [model, "--gpu", gpu]
    if name == "fit":
        return line
    line += _layout(draw, model, training=name in ("memory", "train"))
    if draw(st.booleans()):
        line += ["--network", "50"]
    if name == "simulate":
        load = _word(draw, "--rate~1|--rate~0.2,20|--rate~1000|--concurrency~1|--concurrency~40|--trace~{trace}")
        line += load.split()
        line += [] if "trace" in load else ["--requests", _word(draw, "1|2|30|200")]
    return line


@cache
def _cuts(model: str) -> dict[str, list[int]]:
    """By how many ranks an axis cuts this model: mostly by what divides it."""
    few = [1, 1, 1, 2, 4, 8]
    if "{" in model or model == "t5":
        return {"tp": few, "pp": few, "ep": [1, 2]}
    spec = llmhw.model(model)
    stages = [n for n in (2, 3, 4, 6, 8) if spec.num_layers % n == 0]
    moe = any(t.experts > 1 for layer in spec.layers for t in layer.tensors)
    return {"tp": few, "pp": [1, 1, 1, *(stages or [8])], "ep": [1, 2, 8] if moe else []}


def _layout(draw: Any, model: str, *, training: bool) -> list[str]:
    """Devices and how they are split, in numbers that multiply up."""
    cuts = _cuts(model)
    sizes = {axis: draw(st.sampled_from(cuts[axis])) for axis in ("tp", "pp")}
    if training:
        sizes["cp"] = draw(st.sampled_from([1, 1, 1, 2, 4]))
    elif cuts["ep"]:
        sizes["attention-dp"] = draw(st.sampled_from([1, 1, 2, 8]))
    gpus = draw(st.sampled_from([1, 1, 2, 8, 16]))
    for size in sizes.values():
        gpus *= size
    line = ["--gpus", str(gpus)]
    line += [text for axis, size in sizes.items() if size > 1 for text in (f"--{axis}", str(size))]
    if cuts["ep"] and draw(st.booleans()):
        line += ["--ep", str(draw(st.sampled_from(cuts["ep"])))]
    if training and sizes["pp"] > 1:
        line += draw(st.sampled_from([[], [], ["--vpp", "2"], ["--uneven"], ["--schedule", "zero-bubble"]]))
    if training and cuts["ep"]:
        line += ["--kernels", "megatron", "--recompute", draw(st.sampled_from(["none", "full", "selective"]))]
    return line


def _numbers(draw: Any, topic: str) -> list[str]:
    import inspect

    names = list(inspect.signature(llmhw.formulas()[topic].function).parameters)
    return [
        f"{name}={draw(st.sampled_from(['1', '2', '0', '7B', '4096', '0.5', '1e9', '1e300', '-1']))}" for name in names
    ]


def _phrases(draw: Any, name: str) -> list[str]:
    known = _PHRASES.get(name, [])
    chosen = draw(st.lists(st.sampled_from(known), max_size=5, unique=True)) if known else []
    return [_word(draw, word) for phrase in chosen for word in phrase.split()]


def _form(draw: Any, line: list[str], files: dict[str, str]) -> list[str]:
    """How the answer is given."""
    name, many = line[0], any("," in word for word in line)
    if name == "completion":
        return []
    forms = [[], [], ["--json"], ["--csv"], ["-q"]]
    forms += [["--output", f"{{dir}}/out.{ending}"] for ending in ("json", "csv", "md", "html", "txt", "xlsx")]
    forms += [["--output", f"{{dir}}/{file}", f"--{form}"] for file in files for form in ("csv", "json")]
    if name in ("memory", "train", "serve", "simulate", "validate", "cost") and not many:
        forms += [["--plot", "{dir}/plot.svg"]]
    if name in _PARTS and not many:
        forms += [["--explain", part.replace("~", " ")] for part in _PARTS[name].split("|")]
    return list(draw(st.sampled_from(forms)))


# -- files ------------------------------------------------------------------------------------

ODD = (None, True, -1, 0, 1, 1.5, 7, 1e308, 1e-320, 10**30, "x", "", "1", [], {}, [1], {"a": 1}, ["full_attention"])


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a tree of JSON."""
    found = [path] if path else []
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree[:3]) if isinstance(tree, list) else ()
    for key, value in entries:
        found += places(value, (*path, key))
    return found


def changed(draw: Any, tree: Any) -> Any:
    """A tree of JSON with something else at some place, or as it is."""
    made = deepcopy(tree)
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        if not (where := places(made)):
            return made
        *path, last = draw(st.sampled_from(where))
        inner = made
        for key in path:
            inner = inner[key]
        how = draw(st.integers(0, 5))
        if how == 0 and isinstance(inner, dict):
            del inner[last]
        elif how <= 2 and isinstance(inner[last], (int, float)):
            inner[last] = inner[last] * draw(st.sampled_from([2, 3, 0.5, 10, -1, 1000, 10**6]))
        else:
            inner[last] = draw(st.sampled_from(ODD))
    return made


@cache
def _constants(subject: str) -> Any:
    known = json.loads(json.dumps(read_calibration(subject), default=dict))
    return {k: v for k, v in known.items() if k not in ("data", "residuals", "left_out", "prior", "method")}


@cache
def _table(kind: str) -> list[list[str]]:
    return [line.split(",") for line in template(kind).splitlines()]


_TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "eos_token_id": [1, 2],
    "tie_word_embeddings": False,
}


def _config(draw: Any, name: str) -> str:
    if name == "measure":  # which builds it
        return json.dumps(changed(draw, _TINY))
    chosen = draw(
        st.sampled_from([*MODELS.split()[:16], "bloom-560m", "opt-350m", "mpt-7b", "glm-4.5-air", "gemma-2-2b"])
    )
    return json.dumps(changed(draw, json.loads(json.dumps(llmhw.model(chosen).config, default=dict))))


def _calibration(draw: Any, name: str) -> str:
    subjects = {"train": "training_time", "validate": "training_time"}
    return json.dumps(changed(draw, _constants(subjects.get(name, "serving_time"))))


def _trace(draw: Any, name: str) -> str:
    number = st.sampled_from(["0", "0.5", "1", "3", "100", "0.001", "1e9", "-1", "x", ""])
    right = st.sampled_from(["0", "0.5", "1", "3", "100"])
    cells = draw(st.sampled_from([right, right, number]))
    head = draw(st.sampled_from(["arrival_seconds", "gap_seconds"])) + ",input_tokens,output_tokens"
    times = [draw(cells) for _ in range(draw(st.integers(0, 6)))]
    times = sorted(times, key=float) if cells is right and "arrival" in head else times
    count = st.sampled_from(["1", "5", "400", "20"])
    return "\n".join([head, *(f"{time},{draw(count)},{draw(count)}" for time in times), ""])


def _lengths(draw: Any, name: str) -> str:
    cell = st.sampled_from(["1", "5", "400", "20", "20", "0", "x", "1e9"])
    return "input_tokens,output_tokens\n" + "".join(
        f"{draw(cell)},{draw(cell)}\n" for _ in range(draw(st.integers(0, 4)))
    )


def _prices(draw: Any, name: str) -> str:
    right = [["h100", "8", "on_demand", "20", "2026-11-01"], ["mi300x", "1", "spot", "1.5", "2024-05"]]
    right += [["h200", "8", "reserved", "25.5", "2026"], ["RTX 4090", "", "", "0.3", "2026-11-01"]]
    rows = [list(draw(st.sampled_from(right))) for _ in range(draw(st.integers(0, 4)))]
    for row in rows:
        if draw(st.integers(0, 3)) == 0:
            row[draw(st.integers(0, 4))] = draw(st.sampled_from([*ANY, "x", "-1", "2026-13", ""]))
    head = "accelerator,devices,kind,dollars_per_hour,date\n"
    return head + "".join(",".join(cell.replace(",", ";") for cell in row) + "\n" for row in rows)


def _measured(draw: Any, kind: str) -> str:
    head, *rows = _table(kind)
    rows = [list(draw(st.sampled_from(rows))) for _ in range(draw(st.integers(0, 3)))]
    for row in rows:
        for _ in range(draw(st.integers(0, 2))):
            row[draw(st.integers(2, len(row) - 1))] = draw(st.sampled_from([*ANY, "8", "2", "h100", "gpt2", "fp8", ""]))
    return "".join(",".join(cell.replace(",", ";") for cell in row) + "\n" for row in (head, *rows))


_FILES: dict[str, Callable[[Any, str], str]] = {
    "config": _config,
    "calibration": _calibration,
    "trace": _trace,
    "lengths": _lengths,
    "prices": _prices,
}
_ENDING = {"trace": "csv", "lengths": "csv", "table": "csv", "prices": "csv"}


# -- wrong ones -------------------------------------------------------------------------------

_NUMBERS = (
    "0 1 2 3 4 8 16 64 1000 4096 131072 -1 1.5 1e3 16k 15T 1e9 1e18 1e30 1e308 1e309 1e-320 -0.5 0.5 0.9 nan inf -inf"
)
_NUMBERS += f" x 0x10 1_000 {10**30} {'9' * 400} \u0661\u0662 1,2 2,x , true None =cmd |  ' \" \\ -0 +1 1e-9 1.0"
_WORDS = (
    "none full bf16 fp8 int4-gptq q4_k_m mxfp4 nf4 vllm llama.cpp adamw uniform:1:5 lognormal:1e308:5 exponential:0"
)
_WORDS += " csv:no.csv NVLink 50 eastus AWS {dir} {dir}/none /dev/null \x1b[31m \ud800 " + "a" * 400
ANY = [*_NUMBERS.split(" "), *_WORDS.split(" ")]
# What would write where the tests run.
_SKIPPED = {"output", "plot", "fitted", "help", "debug", "hub"}  # the last one asks the network


def _wrong(draw: Any, name: str, line: list[str]) -> list[str]:
    """The line with one thing changed."""
    line = list(line)
    how = draw(st.integers(0, 6))
    # without its table, `validate` reads the catalog's, which takes its time
    at = draw(st.integers(2 if name == "validate" else 1, len(line)))
    writes = line[at - 1 : at] in (["--output"], ["-o"], ["--plot"], ["--fit"])
    if how <= 2 and at < len(line) and not writes:
        line[at] = draw(st.one_of(st.sampled_from(ANY), st.text(max_size=5)))
    elif how == 3 and at < len(line) and not writes:
        line[at] += draw(st.sampled_from([",1", ",x", ",", ",8,16", " "]))
    elif how == 4 and line[at : at + 1] not in (["--output"], ["-o"], ["--plot"], ["--fit"]):
        del line[at : at + draw(st.integers(1, 2))]
    elif how == 5:
        line += line[at : at + 2]
    else:
        param = draw(st.sampled_from(params(name)))
        if isinstance(param, Option):
            flag = draw(st.sampled_from([*param.opts, *param.secondary_opts]))
            line += [flag] if param.is_flag else [flag, draw(st.sampled_from(ANY))]
    return line


@cache
def params(name: str) -> list[click.Parameter]:
    """The parameters of a command that may be given anything."""
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return [p for p in found.params if p.name not in _SKIPPED]


@st.composite
def lines(draw: Any, name: str, wrong: bool = True, form: bool = True) -> Asked:
    """A line of a command, as often right as not."""
    line = [*name.split(), *_base(draw, name), *_phrases(draw, name)]
    files: dict[str, str] = {}
    if name == "validate":
        kind = draw(st.sampled_from(list(KINDS)))
        line.insert(line.index("--kind") + 1, kind)
        files["table.csv"] = _measured(draw, kind)
    for file, make in _FILES.items():
        if any(f"{{{file}}}" in word for word in line):
            files[f"{file}.{_ENDING.get(file, 'json')}"] = make(draw, name)
    line += _form(draw, line, files) if form else []
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2])) if wrong else 0):
        line = _wrong(draw, name, line)
    for file in files:
        line = [word.replace(f"{{{file.partition('.')[0]}}}", f"{{dir}}/{file}") for word in line]
    return Asked(line, files)
