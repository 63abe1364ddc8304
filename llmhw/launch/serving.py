"""What starts an engine that serves: one writer for each program, from a `ServingJob` to a script.

A setting stands there where the job asks for it, or where the program's own would not start; the rest is the program's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from llmhw.hardware import Cluster
from llmhw.job import ServingJob, limits_of
from llmhw.launch import FORMS, Asked, Form, Written, cannot_say, commented, heading, hub_id
from llmhw.launch.shell import Raw, listed, written_file
from llmhw.model import model_of
from llmhw.names import find_model, split_format
from llmhw.precision import CHECKPOINT, checkpoint_name, number_format, weight_bytes
from llmhw.serving import ServingMemory, serving_memory, settled
from llmhw.speculation import HEADS
from llmhw.units import GIB, LLMHWError, ceil_div, format_quantity

Rows = list[tuple[str, str, str]]

# Engines that a form starts; the first where nobody asks for one.
ENGINES = {
    "vllm": ("vllm",),
    "sglang": ("sglang",),
    "trtllm-serve": ("tensorrt-llm-pytorch", "tensorrt-llm"),
    "llama.cpp": ("llama.cpp",),
    "ollama": ("ollama",),
    "triton": ("vllm", "tensorrt-llm-pytorch"),
}
_LAYOUT = frozenset({"tp", "pp", "ep", "attention_dp", "weights"})
# Ranks that an adapter may have in vLLM (`vllm.config.lora.MaxLoRARanks`); 320 and 512 are newer.
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Modules of adapters by llmhw's word for them, as engines that take modules name these.
LORA_MODULES = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
# What a 16-bit checkpoint is called in options and in the tags of GGUF files.
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
GGUF_TAGS = {"bf16": "BF16", "fp16": "F16", "fp32": "F32", "mxfp4": "MXFP4"}
CACHE_TYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
# SGLang's words for the methods of speculative decoding.
SGLANG_DRAFTS = {"eagle": "EAGLE", "eagle3": "EAGLE3", "mtp": "NEXTN", "model": "STANDALONE"}


@dataclass(frozen=True)
class Served:
    """A job with its layout settled, and what stands in a script because of it.

    job     the job, for the engine of the form
    held    its memory
    model   what the program is given, as a word of the shell
    head    lines that stand before the command
    """

    job: ServingJob
    held: ServingMemory
    model: str
    head: tuple[str, ...]

    @property
    def per_node(self) -> int:
        """Devices of a node."""
        return min(self.job.cluster.devices_per_node, self.job.cluster.devices)

    @property
    def nodes(self) -> int:
        """Nodes of one instance."""
        return int(ceil_div(self.job.devices, self.per_node))

    @property
    def copies(self) -> int:
        """Instances on a node; 1 where an instance takes several."""
        return max(1, self.per_node // self.job.devices)

    @property
    def weights_each(self) -> str:
        """Weights of a device, in words."""
        parts = [part for stage in self.held.stages for part in stage.parts if part.name == "weights"]
        return format_quantity(max((float(part.value) for part in parts), default=0.0), "bytes")


def since(job: ServingJob, *version: int) -> bool:
    """Whether the job's engine is of that version or newer; one without a version is the newest.

    >>> from llmhw import ServingJob
    >>> [since(ServingJob(model="llama-3-8b", cluster="h100", engine=e), 0, 24) for e in ("vllm", "vllm:0.9.2")]
    [True, False]
    """
    asked = job.engine.partition(":")[2]
    return not asked or tuple(map(int, re.findall(r"\d+", asked)[:3])) >= version


def instance_of(job: ServingJob) -> ServingJob:
    """One instance of the engine alone, on as many devices as it takes."""
    if job.replicas == 1:
        return job
    old = job.cluster
    per_node = min(old.devices_per_node, job.devices)
    links = {"intra_link": old.intra_link, "inter_link": old.inter_link if job.devices > per_node else None}
    return replace(job, cluster=Cluster(old.accelerator, job.devices, per_node, **links))


def for_engine(job: ServingJob, form: str, engines: Sequence[str]) -> ServingJob:
    """The job with one of these engines, and with its layout settled."""
    if job.engine.partition(":")[0] not in engines:
        if job.was_asked("engine"):
            raise cannot_say(form, f"engine={job.engine!r}: it starts {' or '.join(engines)}")
        job = replace(job, engine=engines[0])
    job = settled(job)
    longest = serving_memory(job).longest
    if not job.was_asked("max_model_len") and 0 < longest < job.context_limit:
        job = job.assuming(max_model_len=longest)  # what the engine takes by itself would not fit
    return job


def _served(asked: Asked, form: Form, made: Sequence[str] = ()) -> Served:
    """The job of a form, and the model's word. `made`: formats that the engine makes of 16-bit weights as it loads."""
    job = for_engine(asked.job, form.name, ENGINES[form.name])
    model, head = asked.model_id, []
    if not (held_by(job, model) or (job.weights in made and checkpoint_name(job.model) in DTYPES)):
        head += [
            f"# Weights in {job.weights} are a checkpoint of their own: MODEL=OWNER/NAME bash {form.file}",
            f'MODEL="${{MODEL:?give the {job.weights} checkpoint of {model}}}"',
        ]
        model = "$MODEL"
    return Served(job, serving_memory(job), model, tuple(head))


def held_by(job: ServingJob, model_id: str) -> bool:
    """Whether a checkpoint of that name is in the job's weight format."""
    stated = split_format(model_id)[1]
    if stated:
        try:
            found = number_format(stated)
        except LLMHWError:
            found = None
        return found is not None and found.name == number_format(job.weights).name
    own = checkpoint_name(job.model)
    return job.weights in (CHECKPOINT, own) or (own in DTYPES and job.weights in DTYPES)


def is_gguf(job: ServingJob) -> bool:
    """Whether the weights are a GGUF file."""
    return job.weights != CHECKPOINT and number_format(job.weights).kind == "gguf"


def _head(asked: Asked, form: Form, at: Served, *more: str) -> list[str]:
    """The beginning of a script: what it is, what is predicted of it, and the model where its name is not known."""
    job = at.job
    sizes = [f"{name}={getattr(job, name)}" for name in ("tp", "pp", "ep", "attention_dp") if getattr(job, name) > 1]
    copies = f"; {job.replicas} instances of it" if job.replicas > 1 else ""
    lines = [
        f"Layout: {', '.join(sizes) or 'one device'}{copies}. Weights {job.weights}: {at.weights_each} a device; "
        f"cache {job.kv}.",
        f"Room for {at.held.at_once():,} x {job.context_limit:,} tokens in the cache of an instance.",
        *more,
    ]
    if not at.held.fits:
        lines[1] = at.held.verdict
    return ["#!/usr/bin/env bash", *heading(asked, form, *lines), "set -euo pipefail", "", *at.head]


def _layout_rows(at: Served, names: dict[str, str]) -> Rows:
    """Rows of ranks and stages."""
    reasons = {"tp": f"ranks, each with {at.weights_each} of weights", "pp": "stages"}
    found = [(flag, getattr(at.job, name), reasons[name]) for name, flag in names.items()]
    return [(flag, str(size), why) for flag, size, why in found if size > 1]


def _asked_rows(job: ServingJob, names: dict[str, str]) -> Rows:
    """Rows of whole numbers and shares that were asked for."""
    return [
        (flag, f"{getattr(job, name):g}" if name == "utilization" else str(int(getattr(job, name))), _WHY[name])
        for name, flag in names.items()
        if job.was_asked(name)
    ]


_WHY = {
    "utilization": "share of the memory",
    "max_sequences": "sequences at a time, at most",
    "max_batched_tokens": "tokens of one pass, at most",
    "page_size": "tokens of a page of the cache",
    "n_batch": "tokens of a batch, which limits its parts",
}


def _length_rows(at: Served, flag: str) -> Rows:
    """The longest sequence, where it was asked for or where the model's own does not fit."""
    job = at.job
    if job.was_asked("max_model_len"):
        return [(flag, str(int(job.context_limit)), "tokens of prompt and answer")]
    if job.max_model_len and job.max_model_len < (job.model.max_seq_len or 0):
        return [(flag, str(int(job.max_model_len)), f"the longest that fits; the model's own {job.model.max_seq_len}")]
    return []


def _cache(job: ServingJob, form: str, words: dict[str, str]) -> list[str]:
    """The word of a form for the cache's format; none where it is the program's own."""
    unasked: dict[str, Any] = {"kv": None}
    if job.kv in ("bf16", "fp16") and job.kv == replace(job, **unasked).kv:
        return []
    if job.kv not in words:
        raise cannot_say(form, f"kv={job.kv!r}")
    return [words[job.kv]]


def _array(rows: Rows) -> list[str]:
    """The array of arguments; nothing where there are none."""
    return listed("args", rows) if rows else []


def _all(rows: Rows) -> str:
    return '"${args[@]}"' if rows else ""


def _visible(job: ServingJob) -> str:
    """The variable that picks devices."""
    return "HIP_VISIBLE_DEVICES" if job.cluster.accelerator.vendor == "AMD" else "CUDA_VISIBLE_DEVICES"


def _started(command: str, at: Served, port: int, flag: str = "--port") -> list[str]:
    """The end of a script: the command, once, or for each instance of a node on devices and a port of its own."""
    each = at.job.devices
    if at.copies == 1:
        return [f"exec {command}"]
    return [
        f"copies={at.copies}  # instances on a node, each on a port of its own from {port} on",
        "for ((i = 0; i < copies; i++)); do",
        f'  {_visible(at.job)}=$(seq -s, "$((i * {each}))" "$((i * {each} + {each - 1}))") \\',
        f'    {command} {flag} "$(({port} + i))" &',
        "done",
        "wait -n  # one that ends takes the others along",
    ]


def _nodes_refused(at: Served, form: str) -> None:
    if at.nodes > 1:
        raise cannot_say(form, f"an instance on {at.nodes} nodes")


def _experts(at: Served, form: str, *, any_number: bool = False) -> bool:
    """Whether experts are spread over ranks; an engine that spreads them over all ranks or none refuses others."""
    job = at.job
    ranks = job.tp * job.attention_dp
    if job.ep not in (1, ranks) and not any_number:
        raise cannot_say(form, f"ep={job.ep}: experts are on all {ranks} ranks, or cut over them (ep=1)")
    return job.ep > 1


def _one_group(job: ServingJob, form: str) -> None:
    if job.attention_dp > 1 or job.ep > 1:
        raise cannot_say(form, f"ep={job.ep}, attention_dp={job.attention_dp}: it spreads no experts")


def _drafts(asked: Asked) -> tuple[str, str]:
    """The method of speculative decoding and the draft's model; $DRAFT where that is to be given, "" for none."""
    draft = asked.draft or ""
    word = draft.strip().lower().replace("-", "").replace("_", "")
    if word == "mtp":
        return "mtp", ""
    if word in HEADS:
        return word, "$DRAFT"
    if draft and find_model(draft) and "/" not in draft:
        draft = hub_id(model_of(draft, "draft"))
    return ("model", draft) if draft else ("", "")


def offloaded_gib(job: ServingJob, share: float) -> float:
    """GiB of a device's weights that lie in host memory, of a share of them all."""
    return share * weight_bytes(job.model, job.weights) / (job.tp * job.pp) / GIB


# -- vLLM -------------------------------------------------------------------------------------

_VLLM_SAID = _LAYOUT | frozenset(
    """kv page_size utilization max_sequences max_batched_tokens max_model_len lora_adapters lora_rank lora_targets
    weight_offload""".split()
)


def vllm_makes(job: ServingJob) -> dict[str, str]:
    """Weight formats that vLLM makes of a 16-bit checkpoint as it loads, and what --quantization calls them.

    Names of their own since the online frontend (pull 38138, April 2026); `fp8` alone no longer does it (pull 53585).
    """
    named = since(job, 0, 21)
    made = {"fp8": "fp8_per_tensor" if named else "fp8", "nf4": "bitsandbytes"}
    return made | ({"fp8-block": "fp8_per_block", "mxfp8": "mxfp8"} if named else {})


def vllm_arguments(asked: Asked, at: Served) -> Rows:
    """Arguments of vLLM's engine that say the job, without what names nodes."""
    job, rows = at.job, _layout_rows(at, {"tp": "--tensor-parallel-size", "pp": "--pipeline-parallel-size"})
    experts = _experts(at, "vllm")
    if job.attention_dp > 1:
        rows.append(("--data-parallel-size", str(job.attention_dp), "groups with requests of their own"))
    if experts:
        rows.append(("--enable-expert-parallel", "", f"whole experts on {job.ep} ranks"))
    made = vllm_makes(job)
    if job.weights in made and not held_by(job, asked.model_id):
        rows.append(("--quantization", made[job.weights], f"made of the 16-bit weights: {at.weights_each} a device"))
        if job.weights == "nf4" and not since(job, 0, 10):
            rows.append(("--load-format", "bitsandbytes", ""))
    elif is_gguf(job):
        rows.append(("--tokenizer", asked.model_id, "that of a GGUF file is slow to convert"))
    elif job.weights in DTYPES and job.weights != checkpoint_name(job.model):
        rows.append(("--dtype", DTYPES[job.weights], f"the checkpoint is in {checkpoint_name(job.model)}"))
    words = {"fp8": "fp8", "nvfp4": "nvfp4"} | ({"fp16": "float16", "bf16": "bfloat16"} if since(job, 0, 12) else {})
    rows += [("--kv-cache-dtype", word, "format of the cache") for word in _cache(job, "vllm", words)]
    names = {"page_size": "--block-size", "utilization": "--gpu-memory-utilization"}
    names |= {"max_sequences": "--max-num-seqs", "max_batched_tokens": "--max-num-batched-tokens"}
    rows += [*_length_rows(at, "--max-model-len"), *_asked_rows(job, names)]
    if job.weight_offload:
        if job.attention_dp > 1:
            raise cannot_say("vllm", f"weight_offload={job.weight_offload:g} with attention_dp={job.attention_dp}")
        size = f"{offloaded_gib(job, job.weight_offload):.2f}"
        rows.append(("--cpu-offload-gb", size, "GiB of a device's weights in host memory"))
    if job.lora_adapters:
        rank = next((r for r in LORA_RANKS if r >= job.lora_rank), None)
        if rank is None:
            raise cannot_say("vllm", f"lora_rank={job.lora_rank}: the most is {LORA_RANKS[-1]}")
        rows += [
            ("--enable-lora", "", ""),
            ("--max-loras", str(int(job.lora_adapters)), "adapters on the device"),
            ("--max-lora-rank", str(rank), f"the least that holds rank {job.lora_rank}"),
        ]
        if job.lora_targets != "all-linear":
            rows.append(("--lora-target-modules", Raw(" ".join(LORA_MODULES[job.lora_targets])), ""))
    if job.prefix_hit and not since(job, 0, 8):
        rows.append(("--enable-prefix-caching", "", f"{job.prefix_hit:.0%} of a prompt is found in the cache"))
    return rows


def vllm_speculation(asked: Asked) -> dict[str, Any]:
    """vLLM's speculative config; empty without a draft."""
    method, draft = _drafts(asked)
    if not method:
        return {}
    names = {"model": {"method": "draft_model", "model": draft}, "mtp": {"method": "mtp"}}
    return {**names.get(method, {"method": method, "model": draft}), "num_speculative_tokens": asked.draft_tokens}


def vllm(asked: Asked) -> Written:
    """`vllm serve`; over several nodes with its own launcher, or with Ray before 0.12."""
    form = FORMS["vllm"]
    at = _served(asked, form, tuple(vllm_makes(asked.job)))
    job, model = at.job, at.model
    rows = vllm_arguments(asked, at)
    many = (
        at.copies > 1 and limits_of(job.model, job.cluster).experts == 1 and job.attention_dp == 1 and since(job, 0, 9)
    )
    if many:
        rows.append(("--data-parallel-size", str(at.copies), "instances of a node behind one address"))
    if is_gguf(job) and since(job, 0, 24):
        model = f"{model}:{job.weights}" if not re.search(r":\w+$|\.gguf$", model) else model
    if config := vllm_speculation(asked):
        said = json.dumps(config)
        quoted = Raw('"' + said.replace('"', '\\"') + '"') if "$DRAFT" in said else said
        rows.append(("--speculative-config", quoted, "drafts"))
    lines = [*_head(asked, form, at, *_one_of(at)), *_drafted(asked), *_vllm_nodes(at)]
    call = f"vllm serve {_quoted(model)} {_all(rows)}".rstrip()
    if at.nodes > 1:
        end = [f'exec {call} "${{nodes[@]}}"']
    else:
        end = [f"exec {call}"] if many else _started(call, at, 8000)
    plugins = ["vllm-gguf-plugin"] if is_gguf(job) and since(job, 0, 24) else []
    plugins += ["vllm-bnb-plugin"] if job.weights.startswith(("nf4", "int8-llm")) and since(job, 0, 28) else []
    text = "\n".join([*lines, *_array(rows), *end, ""])
    return _made(text, job, "vllm", _VLLM_SAID, plugins)


def _vllm_nodes(at: Served) -> list[str]:
    """What tells vLLM of several nodes; the script runs on each."""
    if at.nodes == 1:
        return []
    job, each = at.job, at.job.attention_dp * at.per_node // at.job.devices
    first = [f"# On each of {at.nodes} nodes: NODE_RANK is its number, MASTER_ADDR the first one's address."]
    if job.attention_dp > 1 and each >= 1:
        return [
            *first,
            "nodes=(",
            f"  --data-parallel-size-local {each}  # groups on a node",
            '  --data-parallel-address "${MASTER_ADDR:?}" --data-parallel-rpc-port "${MASTER_PORT:-13345}"',
            ")",
            'if [ "${NODE_RANK:?}" -gt 0 ]; then  # the first one answers',
            f'  nodes+=(--headless --data-parallel-start-rank "$((NODE_RANK * {each}))")',
            "fi",
        ]
    if since(job, 0, 12):
        return [
            *first,
            "nodes=(",
            f'  --nnodes {at.nodes} --node-rank "${{NODE_RANK:?}}"',
            '  --master-addr "${MASTER_ADDR:?}" --master-port "${MASTER_PORT:-29501}"',
            ")",
            'if [ "$NODE_RANK" -gt 0 ]; then nodes+=(--headless); fi  # the first one answers',
        ]
    return [
        *first,
        'if [ "${NODE_RANK:?}" -gt 0 ]; then exec ray start --address "${MASTER_ADDR:?}:6379" --block; fi',
        "ray start --head --port 6379",
        f'until [ "$(ray list nodes --format json | grep -c ALIVE)" -ge {at.nodes} ]; do sleep 5; done',
        "nodes=(--distributed-executor-backend ray)",
    ]


def _quoted(model: str) -> str:
    return f'"{model}"' if "$" in model else model


def _drafted(asked: Asked) -> list[str]:
    """The line that asks for a draft's checkpoint, where its name is not known."""
    method, draft = _drafts(asked)
    return [f'DRAFT="${{DRAFT:?give the {method} head of {asked.model_id}}}"'] if draft == "$DRAFT" else []


def _one_of(at: Served) -> list[str]:
    """A comment where there are more instances than the script starts."""
    job = at.job
    if at.nodes > 1 and job.replicas > 1:
        return [f"This starts one of {job.replicas} instances; run it for each on {at.nodes} nodes of its own."]
    nodes = job.cluster.nodes
    if at.nodes == 1 and nodes > 1:
        return [f"Run it on each of {nodes} nodes, and share requests out over these."]
    return []


def _made(text: str, job: ServingJob, form: str, said: frozenset[str], plugins: Sequence[str] = ()) -> Written:
    """What a writer returns, with the container and packages of the form."""
    from llmhw.launch.programs import program

    found = program(form, job)
    return Written(
        text=text,
        said=said,
        command="bash serve.sh",
        packages=(*((found.package,) if found and found.package else ()), *plugins),
        image=found.image if found else "",
    )


# -- SGLang -----------------------------------------------------------------------------------

_SGLANG_MAKES = {"fp8": "fp8", "mxfp8": "mxfp8", "nf4": "bitsandbytes"}
# Formats of checkpoints that SGLang wants to be told.
_SGLANG_TOLD = {"int8": "w8a8_int8", "nvfp4": "modelopt_fp4", "nf4": "bitsandbytes", "nf4-dq": "bitsandbytes"}


def sglang(asked: Asked) -> Written:
    """`python3 -m sglang.launch_server`."""
    form = FORMS["sglang"]
    at = _served(asked, form, tuple(_SGLANG_MAKES))
    job = at.job
    ranks = job.tp * job.attention_dp
    rows: Rows = [("--tp-size", str(ranks), f"ranks, each with {at.weights_each} of weights")] if ranks > 1 else []
    rows += _layout_rows(at, {"pp": "--pp-size"})
    # 0.5.20 and 0.5.21 brought --attn-dp-size; --dp-size with --enable-dp-attention goes after 2026.
    if job.attention_dp > 1:
        groups = (str(job.attention_dp), "groups with requests of their own, out of the ranks")
        new = since(job, 0, 5, 21)
        rows += [("--attn-dp-size" if new else "--dp-size", *groups)]
        rows += [] if new else [("--enable-dp-attention", "", "")]
    if at.copies > 1:
        if job.attention_dp > 1 and not since(job, 0, 5, 21):
            raise cannot_say("sglang", f"{at.copies} instances of attention_dp={job.attention_dp} on a node")
        rows.append(("--dp-size", str(at.copies), "instances of a node behind one address"))
    if _experts(at, "sglang"):
        rows.append(("--ep-size", str(job.ep), "ranks with whole experts"))
    rows += _sglang_formats(asked, at)
    names = {"page_size": "--page-size", "utilization": "--mem-fraction-static"}
    rows += [*_length_rows(at, "--context-length"), *_asked_rows(job, names)]
    for name, flag in (("max_sequences", "--max-running-requests"), ("max_batched_tokens", "--chunked-prefill-size")):
        if job.was_asked(name):  # SGLang divides both by the groups
            rows.append((flag, str(getattr(job, name) * job.attention_dp), _WHY[name]))
    if job.weight_offload:
        size = ceil(offloaded_gib(job, job.weight_offload))
        rows.append(("--cpu-offload-gb", str(size), "whole GiB of a device's weights in host memory"))
    if job.lora_adapters:
        modules = LORA_MODULES.get(job.lora_targets, ("all",))
        rows += [
            ("--enable-lora", "", ""),
            ("--max-loras-per-batch", str(int(job.lora_adapters)), "adapters on the device"),
            ("--max-lora-rank", str(int(job.lora_rank)), ""),
            ("--lora-target-modules", Raw(" ".join(modules)), ""),
        ]
    method, draft = _drafts(asked)
    if method:
        rows.append(("--speculative-algorithm", SGLANG_DRAFTS[method], "drafts"))
        rows += [("--speculative-draft-model-path", draft, "")] if draft else []
        rows += [
            ("--speculative-num-steps", str(asked.draft_tokens), "tokens before each pass"),
            ("--speculative-eagle-topk", "1", ""),
            ("--speculative-num-draft-tokens", str((asked.draft_tokens or 0) + 1), ""),
        ]
    rows.append(("--host", "0.0.0.0", "answers other machines, too"))
    if at.nodes > 1:
        rows += [
            ("--nnodes", str(at.nodes), "run this on each; NODE_RANK is its number, MASTER_ADDR the first's address"),
            ("--node-rank", "${NODE_RANK:?}", ""),
            ("--dist-init-addr", "${MASTER_ADDR:?}:${MASTER_PORT:-5000}", ""),
        ]
    lines = [*_head(asked, form, at, *_one_of(at)), *_drafted(asked), *_array(rows)]
    lines.append(f"exec python3 -m sglang.launch_server --model-path {_quoted(at.model)} {_all(rows)}")
    return _made("\n".join([*lines, ""]), job, "sglang", _VLLM_SAID)


def _sglang_formats(asked: Asked, at: Served) -> Rows:
    job, rows = at.job, []
    if is_gguf(job):
        rows += [("--load-format", "gguf", ""), ("--quantization", "gguf", f"a file of {job.weights}")]
    elif job.weights in _SGLANG_MAKES and not held_by(job, asked.model_id):
        rows.append(("--quantization", _SGLANG_MAKES[job.weights], "made of the 16-bit weights"))
    elif job.weights in _SGLANG_TOLD:
        rows.append(("--quantization", _SGLANG_TOLD[job.weights], "as the checkpoint is"))
    elif job.weights in DTYPES and job.weights != checkpoint_name(job.model):
        rows.append(("--dtype", DTYPES[job.weights], f"the checkpoint is in {checkpoint_name(job.model)}"))
    if ("--quantization", "bitsandbytes") in [row[:2] for row in rows]:
        rows.append(("--load-format", "bitsandbytes", ""))
    words = {"fp8": "fp8_e4m3", "nvfp4": "nvfp4", "bf16": "bf16"}
    rows += [("--kv-cache-dtype", word, "format of the cache") for word in _cache(job, "sglang", words)]
    return rows


# -- TensorRT-LLM -----------------------------------------------------------------------------

_TRTLLM_SAID = _VLLM_SAID - {"weight_offload"}


def trtllm_options(asked: Asked, at: Served) -> list[str]:
    """Lines of YAML of the LLM API that no flag of trtllm-serve says."""
    job, lines = at.job, []
    if job.weights in DTYPES and job.weights != checkpoint_name(job.model):
        lines.append(f"dtype: {DTYPES[job.weights]}  # the checkpoint is in {checkpoint_name(job.model)}")
    words = {"fp8": "fp8", "nvfp4": "nvfp4", "int8": "int8"}
    cache = [f"  dtype: {word}" for word in _cache(job, "trtllm-serve", words)]
    cache += [f"  tokens_per_block: {int(job.page_size)}"] if job.was_asked("page_size") and job.page_size else []
    lines += ["kv_cache_config:", *cache] if cache else []
    if job.attention_dp > 1:
        if job.tp > 1:
            raise cannot_say("trtllm-serve", f"attention_dp={job.attention_dp} with tp={job.tp}: one rank a group")
        lines.append("enable_attention_dp: true  # each rank has requests of its own")
    if job.lora_adapters:
        lines += ["lora_config:", f"  max_lora_rank: {int(job.lora_rank)}", f"  max_loras: {int(job.lora_adapters)}"]
        if job.lora_targets != "all-linear":
            modules = {"attention": "attn_q, attn_k, attn_v, attn_dense", "mlp": "mlp_h_to_4h, mlp_gate, mlp_4h_to_h"}
            lines.append(f"  lora_target_modules: [{modules[job.lora_targets]}]")
    method, draft = _drafts(asked)
    if method:
        kinds = {"eagle3": "Eagle", "mtp": "MTP", "model": "Draft_Target"}  # its Eagle is EAGLE-3 under PyTorch
        if method not in kinds:
            raise cannot_say("trtllm-serve", f"draft={asked.draft!r}")
        lines += ["speculative_config:", f"  decoding_type: {kinds[method]}"]
        lines.append(f"  {'num_nextn_predict_layers' if method == 'mtp' else 'max_draft_len'}: {asked.draft_tokens}")
        lines += [f"  speculative_model: {draft}"] if draft else []
    return lines


def trtllm_serve(asked: Asked) -> Written:
    """`trtllm-serve`, with a file of the options that have no flag."""
    form = FORMS["trtllm-serve"]
    at = _served(asked, form)
    job = at.job
    ranks = job.tp * job.attention_dp
    rows: Rows = [("--tp_size", str(ranks), f"ranks, each with {at.weights_each} of weights")] if ranks > 1 else []
    rows += _layout_rows(at, {"pp": "--pp_size"})
    _experts(at, "trtllm-serve", any_number=True)
    if job.ep > 1:
        rows.append(("--ep_size", str(job.ep), "ranks with whole experts"))
    names = {"utilization": "--kv_cache_free_gpu_memory_fraction", "max_sequences": "--max_batch_size"}
    names |= {"max_batched_tokens": "--max_num_tokens"}
    rows += [*_length_rows(at, "--max_seq_len"), *_asked_rows(job, names)]
    if not job.engine.startswith("tensorrt-llm-pytorch"):
        rows.append(("--backend", "tensorrt", "the C++ runtime"))
    rows.append(("--host", "0.0.0.0", "answers other machines, too"))
    options = trtllm_options(asked, at)
    lines = [*_head(asked, form, at, *_one_of(at)), *_drafted(asked)]
    if options:
        lines += written_file("extra_llm_api_options.yaml", "\n".join(options), expand=True)
        rows.append(("--extra_llm_api_options", "extra_llm_api_options.yaml", "what has no flag"))
    lines += _array(rows)
    call = f"trtllm-serve {_quoted(at.model)} {_all(rows)}"
    if at.nodes > 1:
        lines += [
            f"# A task of MPI for each device: srun --mpi=pmix -N {at.nodes} -n {job.devices} bash serve.sh",
            f"exec trtllm-llmapi-launch {call}",
        ]
    else:
        lines += _started(call, at, 8000)
    return _made("\n".join([*lines, ""]), job, "trtllm-serve", _TRTLLM_SAID)


# -- llama.cpp --------------------------------------------------------------------------------

_CELLS_SAID = _LAYOUT | frozenset(
    """kv kv_v max_sequences max_batched_tokens max_model_len n_ctx n_batch flash_attention swa_full gpu_layers cpu_moe
    lora_adapters lora_rank lora_targets""".split()
)


def llamacpp(asked: Asked) -> Written:
    """`llama-server`."""
    form = FORMS["llama.cpp"]
    at = _served(asked, form)
    job = at.job
    _nodes_refused(at, "llama.cpp")
    _one_group(job, "llama.cpp")
    if job.tp > 1 and job.pp > 1:
        raise cannot_say("llama.cpp", f"tp={job.tp} with pp={job.pp}: it cuts layers, or deals them")
    layers = job.model.num_layers + 1 if job.gpu_layers is None else job.gpu_layers
    cells = int(job.context_limit) * int(job.max_sequences)
    rows: Rows = [
        (
            "--n-gpu-layers",
            str(layers),
            "all, the head too" if job.gpu_layers is None else "the last ones, the head too",
        ),
        ("--ctx-size", str(cells), f"{job.max_sequences} slots of {job.context_limit} tokens"),
        ("--parallel", str(int(job.max_sequences)), "slots"),
    ]
    if job.devices > 1:
        mode = "tensor" if job.tp > 1 else "layer"
        rows.append(("--split-mode", mode, f"over {job.devices} devices"))
        rows.append(("--tensor-split", ",".join("1" * job.devices), "alike"))
    rows += _asked_rows(job, {"n_batch": "--batch-size", "max_batched_tokens": "--ubatch-size"})
    if job.flash_attention is not None:
        new = since(job, 6330) or not re.search(r":b\d+$", job.engine)
        fused = ("--flash-attn", "on" if job.flash_attention else "off", "fused attention")
        rows += [fused] if new else [("--flash-attn", "", "")] if job.flash_attention else []
    for flag, cache in (("--cache-type-k", job.kv), ("--cache-type-v", job.kv_v or job.kv)):
        stored = CACHE_TYPES.get(cache, cache.lower())
        said = job.was_asked("kv") or stored[0] in "qi" or (flag[-1] == "v" and job.kv_v)
        rows += [(flag, stored, "format of the cache")] if said else []
    rows += [("--swa-full", "", "layers with a window keep all tokens")] if job.swa_full else []
    if job.cpu_moe:
        rows.append(("--n-cpu-moe", str(job.cpu_moe), "layers whose experts stay in host memory"))
    lines = _head(asked, form, at, *_one_of(at))
    if job.lora_adapters:
        paths = f"give the paths of {job.lora_adapters} adapters of rank {job.lora_rank}, with commas between"
        lines.append(f'LORA="${{LORA:?{paths}}}"')
        rows.append(("--lora", "$LORA", "adapters"))
    rows += _llamacpp_drafts(asked)
    rows.append(("--host", "0.0.0.0", "answers other machines, too"))
    source = "--model" if at.model.endswith(".gguf") else "--hf-repo"
    tag = GGUF_TAGS.get(job.weights, job.weights)
    model = at.model if source == "--model" or re.search(r":\w+$", at.model) else f"{at.model}:{tag}"
    lines += [*_drafted(asked), *_array(rows), 'PATH="$PATH:/app"  # where the container has it']
    lines += _started(f"llama-server {source} {_quoted(model)} {_all(rows)}", at, 8080)
    return _made("\n".join([*lines, ""]), job, "llama.cpp", _CELLS_SAID)


def _llamacpp_drafts(asked: Asked) -> Rows:
    method, draft = _drafts(asked)
    if not method:
        return []
    if method != "model":
        raise cannot_say("llama.cpp", f"draft={asked.draft!r}")
    return [
        ("--hf-repo-draft", draft, "drafts"),
        ("--spec-draft-n-max", str(asked.draft_tokens), "tokens before each pass"),
    ]


# -- Ollama -----------------------------------------------------------------------------------

_OLLAMA_SAID = _LAYOUT | frozenset(
    "kv max_sequences max_batched_tokens max_model_len n_ctx flash_attention gpu_layers".split()
)


def ollama(asked: Asked) -> Written:
    """Ollama's server with its settings, and a Modelfile that it makes a model of."""
    form = FORMS["ollama"]
    at = _served(asked, form)
    job = at.job
    _nodes_refused(at, "ollama")
    if job.replicas > 1 and (job.was_asked("tp") or job.was_asked("pp")):
        raise cannot_say("ollama", f"{job.replicas} instances; it starts one")
    _one_group(job, "ollama")
    if job.tp > 1:
        raise cannot_say("ollama", f"tp={job.tp}: it deals whole layers; use pp")
    if _drafts(asked)[0]:
        raise cannot_say("ollama", f"draft={asked.draft!r}")
    tag = GGUF_TAGS.get(job.weights, job.weights)
    repo = at.model if re.search(r":\w+$|\.gguf$", at.model) else f"{at.model}:{tag}"
    source = repo if repo.endswith(".gguf") or "/" not in repo.replace("$MODEL", "a/b") else f"hf.co/{repo}"
    parameters = [f"PARAMETER num_ctx {int(job.context_limit)}"]
    parameters += [f"PARAMETER num_gpu {job.gpu_layers}"] if job.gpu_layers is not None else []
    parameters += [f"PARAMETER num_batch {int(job.max_batched_tokens)}"] if job.was_asked("max_batched_tokens") else []
    settings: Rows = [("OLLAMA_HOST", "0.0.0.0:11434", "answers other machines, too")]
    settings.append(
        ("OLLAMA_NUM_PARALLEL", str(int(job.max_sequences)), "requests at a time, each with num_ctx tokens")
    )
    settings.append(("OLLAMA_CONTEXT_LENGTH", str(int(job.context_limit)), "tokens of a request"))
    words = {"fp16": "f16", "Q8_0": "q8_0", "Q4_0": "q4_0"}
    reason = "format of the cache; other than f16 needs flash attention"
    settings += [("OLLAMA_KV_CACHE_TYPE", word, reason) for word in _cache(job, "ollama", words)]
    if job.flash_attention is not None or job.kv not in ("bf16", "fp16"):
        settings.append(("OLLAMA_FLASH_ATTENTION", str(int(job.flash_attention is not False)), ""))
    settings.append((_visible(job), ",".join(map(str, range(job.devices))), f"takes {job.devices} of {at.per_node}"))
    if job.devices > 1:
        settings.append(("OLLAMA_SCHED_SPREAD", "1", "over all of them"))
    name = re.sub(r"[^a-z0-9.-]+", "-", f"{job.model.name}-{job.weights}".lower())
    exports = commented([(f"export {key}={value}", why) for key, value, why in settings]).splitlines()
    lines = [
        *_head(asked, form, at),
        *exports,
        *written_file("Modelfile", "\n".join([f"FROM {source}", *parameters]), expand=True),
        "ollama serve &",
        "until ollama list > /dev/null 2>&1; do sleep 1; done",
        f"ollama create {name} -f Modelfile",
        "wait",
    ]
    return _made("\n".join([*lines, ""]), job, "ollama", _OLLAMA_SAID)


# -- Triton -----------------------------------------------------------------------------------

_VLLM_CONFIG = """
name: "{name}"
backend: "vllm"
max_batch_size: 0  # vLLM batches by itself
model_transaction_policy { decoupled: true }  # tokens are streamed
input [
  { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true },
  { name: "sampling_parameters" data_type: TYPE_STRING dims: [ 1 ] optional: true }
]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] } ]
instance_group [ { count: {copies} kind: KIND_MODEL } ]  # vLLM takes its devices itself
"""
_SWITCHES = frozenset({"--enable-expert-parallel", "--enable-lora", "--enable-prefix-caching"})


def triton(asked: Asked) -> Written:
    """A model repository of Triton's inference server, for its backend of vLLM or of TensorRT-LLM's LLM API."""
    form = FORMS["triton"]
    if asked.job.engine.startswith("tensorrt-llm"):
        return _triton_trtllm(asked, form)
    at = _served(asked, form, tuple(vllm_makes(asked.job)))
    job = at.job
    _nodes_refused(at, "triton")
    if at.copies > 1:
        raise cannot_say("triton", f"{at.copies} instances on a node: each would take the same devices")
    values: dict[str, Any] = {"model": at.model}
    for flag, value, _ in vllm_arguments(asked, at):
        key = flag[2:].replace("-", "_")
        values[key] = True if flag in _SWITCHES else _number(value)
    if "lora_target_modules" in values:
        values["lora_target_modules"] = str(values["lora_target_modules"]).split()
    if config := vllm_speculation(asked):
        values["speculative_config"] = config
    name = re.sub(r"[^a-z0-9_]+", "_", job.model.name.lower())
    place = f"model_repository/{name}"
    config_text = _VLLM_CONFIG.strip().replace("{name}", name).replace("{copies}", "1")
    lines = [
        *_head(asked, form, at, *_one_of(at)),
        *_drafted(asked),
        f"mkdir -p {place}/1",
        *written_file(f"{place}/config.pbtxt", config_text),
        "# Arguments of vLLM's engine.",
        *written_file(f"{place}/1/model.json", json.dumps(values, indent=2), expand=True),
        "exec tritonserver --model-repository model_repository",
    ]
    return _made("\n".join([*lines, ""]), job, "triton", _VLLM_SAID)


def _triton_trtllm(asked: Asked, form: Form) -> Written:
    at = _served(asked, form)
    job = at.job
    _nodes_refused(at, "triton")
    if at.copies > 1:
        raise cannot_say("triton", f"{at.copies} instances on a node: each would take the same devices")
    ranks = job.tp * job.attention_dp
    yaml = [
        f"model: {at.model}",
        "backend: pytorch",
        f"tensor_parallel_size: {ranks}",
        f"pipeline_parallel_size: {job.pp}",
        *([f"moe_expert_parallel_size: {job.ep}"] if job.ep > 1 else []),
    ]
    names = {"max_sequences": "max_batch_size", "max_batched_tokens": "max_num_tokens"}
    yaml += [f"{key}: {value}" for key, value, _ in [*_length_rows(at, "max_seq_len"), *_asked_rows(job, names)]]
    options = trtllm_options(asked, at)
    if job.was_asked("utilization"):
        share = f"  free_gpu_memory_fraction: {job.utilization:g}"
        place = options.index("kv_cache_config:") + 1 if "kv_cache_config:" in options else 0
        options = [*options[:place], share, *options[place:]] if place else ["kv_cache_config:", share, *options]
    yaml += [*options, "triton_config:  # of Triton itself", "  max_batch_size: 0", "  decoupled: true"]
    lines = [
        *_head(asked, form, at, *_one_of(at)),
        *_drafted(asked),
        "mkdir -p model_repository",
        "cp -R /app/all_models/llmapi/. model_repository/  # the backend of TensorRT-LLM's LLM API, in the container",
        *written_file("model_repository/tensorrt_llm/1/model.yaml", "\n".join(yaml), expand=True),
        f"exec python3 /app/scripts/launch_triton_server.py --model_repo model_repository --world_size {job.devices}",
    ]
    return _made("\n".join([*lines, ""]), job, "triton", _TRTLLM_SAID)


def _number(value: str) -> Any:
    """A value of JSON out of one of a command line."""
    try:
        return json.loads(value)
    except ValueError:
        return value
