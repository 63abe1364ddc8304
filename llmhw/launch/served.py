"""Files that start engines, read into the options of a `ServingJob`.

Command lines stand by themselves, in scripts, in commands of docker, and in files of Compose, Kubernetes, SkyPilot and
Slurm (`llmhw.launch.wraps`). What is not said stays the program's default; what is no part of a job is noted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmhw.launch import FORMS, Launched
from llmhw.launch.serving import DTYPES, GGUF_TAGS, LORA_MODULES, SGLANG_DRAFTS
from llmhw.launch.shell import Script, items, mapping, read_script, whole
from llmhw.model import ModelSpec, model
from llmhw.names import find_model, split_format
from llmhw.precision import CHECKPOINT, checkpoint_name, number_format, weight_bytes
from llmhw.units import GIB, LLMHWError, shown

_WAY_OUT = "give the command or the file that starts it"
_GIVEN = re.compile(r"\$\{\w+:\?give the (\S+) checkpoint of ([^\s}]+)\}")
_HEAD = re.compile(r"\$\{\w+:\?give the (\w+) head of ")
_IMAGES = {"vllm": r"vllm-openai|/vllm:", "sglang": r"/sglang:", "llama.cpp": r"llama\.cpp:(?:server|full)"}
_MODULES = {"vllm.entrypoints.openai.api_server": "vllm", "sglang.launch_server": "sglang"}
_SWITCH = re.compile(
    r"--?(?:enable|disable|no|trust|use|skip|async|headless|jinja|metrics|mlock|cont-batching)(?:-|_|$)"
)


@dataclass
class Said:
    """What a command line says.

    form      of the program
    words     its arguments
    script    that it stands in
    facts     what a scheduler or a container gives: gpus, devices_per_node, version
    """

    form: str
    words: Sequence[str]
    script: Script
    facts: dict[str, Any] = field(default_factory=dict)


# -- finding ----------------------------------------------------------------------------------


def found(text: str) -> str | None:
    """The form of a program that serves which a text starts, or of what is around one; None where there is none.

    >>> found("vllm serve meta-llama/Llama-3.1-8B"), found("FROM llama3.2"), found("[training]")
    ('vllm', 'ollama', None)
    """
    from llmhw.launch.wraps import kind_of, opened

    around = kind_of(text)
    if around in FORMS:
        return around
    said = found_program(opened(text)[0])
    return said.form if said else _file_kind(text)


def _file_kind(text: str) -> str | None:
    """The form of a text that is a file of a program, not a script."""
    if re.search(r"(?im)^\s*FROM\s+\S+\s*$", text) and not re.search(r"(?m)^\s*(RUN|ENTRYPOINT|CMD|COPY)\b", text):
        return "ollama"
    if re.search(r'(?m)^\s*(backend|platform)\s*:\s*"', text):
        return "triton"
    if text.lstrip().startswith("{") and re.search(r'"model"\s*:', text) and "tensor_parallel_size" in text:
        return "triton"
    return None


def found_program(script: Script) -> Said | None:
    """The first program that serves among the commands of a script."""
    for words in script.commands:
        for i, word in enumerate(words):
            if word in ("-c", "-lc", "-ec") and i + 1 < len(words) and " " in words[i + 1]:
                inner = read_script(words[i + 1])
                inner.variables = {**script.variables, **inner.variables}
                if (said := found_program(inner)) is not None:
                    return said
        if (said := _started(words, script)) is not None:
            said.facts |= _container(words)
            return said
    return None


def _started(words: list[str], script: Script) -> Said | None:
    for i, word in enumerate(words):
        base, rest = word.rsplit("/", 1)[-1], words[i + 1 :]
        if base in ("vllm", "sglang") and rest[:1] == ["serve"]:
            return Said(base, rest[1:], script)
        if word == "-m" and rest and rest[0] in _MODULES:
            return Said(_MODULES[rest[0]], rest[1:], script)
        if base == "trtllm-serve":
            return Said("trtllm-serve", rest[1:] if rest[:1] == ["serve"] else rest, script)
        if base in ("llama-server", "llama-server.exe"):
            return Said("llama.cpp", rest, script)
        if base in ("tritonserver", "launch_triton_server.py"):
            return Said("triton", rest, script)
        if base == "ollama" and rest[:1] in (["serve"], ["create"], ["run"]):
            return Said("ollama", rest, script)
    for i, word in enumerate(words):  # an image whose entrypoint the program is
        for form, pattern in _IMAGES.items():
            if form != "sglang" and re.search(pattern, word):
                return Said(form, words[i + 1 :], script)
    return None


def _container(words: Sequence[str]) -> dict[str, Any]:
    """Devices and version that a command of docker gives, and environment into its script."""
    facts: dict[str, Any] = {}
    for i, word in enumerate(words):
        flag, equals, value = word.partition("=")
        value = value if equals else words[i + 1] if i + 1 < len(words) else ""
        if flag == "--gpus":
            devices = value.strip("\"'").removeprefix("device=").strip("\"'")
            if devices.isdigit():
                facts["gpus"] = int(devices)
            elif "device=" in value:
                facts["gpus"] = len(devices.split(","))
        elif tag := re.search(r"(?:vllm-openai|/sglang|/vllm):v?(\d+\.\d+(?:\.\d+)*)", word):
            facts["version"] = tag[1]
    return facts


def environment(words: Sequence[str]) -> dict[str, str]:
    """Variables that a command of docker sets."""
    pairs = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("-e", "--env")]
    pairs += [word.partition("=")[2] for word in words if word.startswith("--env=")]
    return dict(pair.partition("=")[::2] for pair in pairs)


# -- arguments --------------------------------------------------------------------------------


Kind = Callable[[str], Any]
# flag -> what it is called here, and how its value is read; None for a switch.
_VLLM: dict[str, tuple[str, Kind | None]] = {
    "--model": ("model", str),
    "--tensor-parallel-size": ("tp", int),
    "-tp": ("tp", int),
    "--pipeline-parallel-size": ("pp", int),
    "-pp": ("pp", int),
    "--data-parallel-size": ("dp", int),
    "-dp": ("dp", int),
    "--enable-expert-parallel": ("experts", None),
    "-ep": ("experts", None),
    "--gpu-memory-utilization": ("utilization", float),
    "--max-num-seqs": ("max_sequences", int),
    "--max-num-batched-tokens": ("max_batched_tokens", int),
    "--max-model-len": ("max_model_len", str),
    "--kv-cache-dtype": ("kv", str),
    "--quantization": ("quantization", str),
    "-q": ("quantization", str),
    "--dtype": ("dtype", str),
    "--block-size": ("page_size", int),
    "--cpu-offload-gb": ("offload", float),
    "--enable-lora": ("lora", None),
    "--max-loras": ("lora_adapters", int),
    "--max-lora-rank": ("lora_rank", int),
    "--speculative-config": ("speculative", json.loads),
    "--spec-method": ("spec_method", str),
    "--spec-model": ("spec_model", str),
    "--spec-tokens": ("draft_tokens", int),
    "--tokenizer": ("tokenizer", str),
}
_SGLANG: dict[str, tuple[str, Kind | None]] = {
    "--model-path": ("model", str),
    "--model": ("model", str),
    "--tp-size": ("ranks", int),
    "--tensor-parallel-size": ("ranks", int),
    "--tp": ("ranks", int),
    "--pp-size": ("pp", int),
    "--pipeline-parallel-size": ("pp", int),
    "--pp": ("pp", int),
    "--dp-size": ("dp", int),
    "--data-parallel-size": ("dp", int),
    "--dp": ("dp", int),
    "--attn-dp-size": ("attention_dp", int),
    "--attention-data-parallel-size": ("attention_dp", int),
    "--enable-dp-attention": ("dp_attention", None),
    "--ep-size": ("ep", int),
    "--expert-parallel-size": ("ep", int),
    "--ep": ("ep", int),
    "--mem-fraction-static": ("utilization", float),
    "--max-running-requests": ("max_sequences", int),
    "--chunked-prefill-size": ("max_batched_tokens", int),
    "--context-length": ("max_model_len", str),
    "--kv-cache-dtype": ("kv", str),
    "--quantization": ("quantization", str),
    "--dtype": ("dtype", str),
    "--page-size": ("page_size", int),
    "--cpu-offload-gb": ("offload", float),
    "--enable-lora": ("lora", None),
    "--max-loras-per-batch": ("lora_adapters", int),
    "--max-lora-rank": ("lora_rank", int),
    "--speculative-algorithm": ("spec_method", str),
    "--speculative-draft-model-path": ("spec_model", str),
    "--speculative-num-steps": ("draft_tokens", int),
}
_TRTLLM: dict[str, tuple[str, Kind | None]] = {
    "--tp-size": ("ranks", int),
    "--tensor-parallel-size": ("ranks", int),
    "--pp-size": ("pp", int),
    "--pipeline-parallel-size": ("pp", int),
    "--ep-size": ("ep", int),
    "--moe-expert-parallel-size": ("ep", int),
    "--max-batch-size": ("max_sequences", int),
    "--max-num-tokens": ("max_batched_tokens", int),
    "--max-seq-len": ("max_model_len", str),
    "--kv-cache-free-gpu-memory-fraction": ("utilization", float),
    "--free-gpu-memory-fraction": ("utilization", float),
    "--backend": ("backend", str),
    "--config": ("config", str),
    "--extra-llm-api-options": ("config", str),
}
_LLAMACPP: dict[str, tuple[str, Kind | None]] = {
    **dict.fromkeys(("-m", "--model"), ("model", str)),
    **dict.fromkeys(("-hf", "-hfr", "--hf-repo"), ("model", str)),
    **dict.fromkeys(("-hff", "--hf-file"), ("file", str)),
    **dict.fromkeys(("-ngl", "--gpu-layers", "--n-gpu-layers"), ("gpu_layers", str)),
    **dict.fromkeys(("-c", "--ctx-size"), ("n_ctx", int)),
    **dict.fromkeys(("-np", "--parallel"), ("max_sequences", int)),
    **dict.fromkeys(("-b", "--batch-size"), ("n_batch", int)),
    **dict.fromkeys(("-ub", "--ubatch-size"), ("max_batched_tokens", int)),
    **dict.fromkeys(("-fa", "--flash-attn"), ("flash", str)),
    **dict.fromkeys(("-ctk", "--cache-type-k"), ("kv", str)),
    **dict.fromkeys(("-ctv", "--cache-type-v"), ("kv_v", str)),
    "--swa-full": ("swa_full", None),
    **dict.fromkeys(("-ncmoe", "--n-cpu-moe"), ("cpu_moe", int)),
    **dict.fromkeys(("-cmoe", "--cpu-moe"), ("all_moe", None)),
    **dict.fromkeys(("-sm", "--split-mode"), ("split_mode", str)),
    **dict.fromkeys(("-ts", "--tensor-split"), ("tensor_split", str)),
    "--lora": ("adapters", str),
    **dict.fromkeys(("-md", "--model-draft", "-hfd", "-hfrd", "--hf-repo-draft"), ("spec_model", str)),
    **dict.fromkeys(("--spec-draft-n-max", "--draft", "--draft-n", "--draft-max"), ("draft_tokens", int)),
}
# Arguments that are no part of a job and are worth no word.
_SILENT = frozenset(
    """--host --port --served-model-name --api-key --download-dir --trust-remote-code --tokenizer --log-level --alias
    -a --nnodes --node-rank --master-addr --master-port --dist-init-addr --headless --data-parallel-address
    --data-parallel-rpc-port --data-parallel-size-local --data-parallel-start-rank --load-format
    --speculative-eagle-topk --speculative-num-draft-tokens --distributed-executor-backend --jinja --metrics
    --threads -t --model-repository --model-repo --world-size --lora-target-modules""".split()
)


def _arguments(said: Said, known: Mapping[str, tuple[str, Kind | None]]) -> tuple[dict[str, Any], list[str]]:
    """Values by what they are called here, and flags that are not used."""
    values: dict[str, Any] = {}
    unused: list[str] = []
    dashed = said.form in ("vllm", "trtllm-serve")  # both write _ and - alike
    ahead, at = list(said.words), 0
    while at < len(ahead):
        word = ahead[at]
        at += 1
        if not re.match(r"-{1,2}[A-Za-z]", word):
            values.setdefault("model", word)
            continue
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-") if dashed else flag
        name, kind = known.get(flag, (flag, str))
        follows = at < len(ahead) and not re.match(r"-{1,2}[A-Za-z]", ahead[at])
        if flag in known and kind is None:
            values[name] = True
            continue
        if not equals and follows and not (flag not in known and _SWITCH.match(flag) and flag not in _SILENT):
            value, at = ahead[at], at + 1
            more = []
            while flag.endswith("-modules") and at < len(ahead) and not ahead[at].startswith("-"):
                more.append(ahead[at])
                at += 1
            value = " ".join([value, *more])
        if flag == "--lora-target-modules":
            values["modules"] = value.split()
        if flag not in known:
            unused += [] if flag in _SILENT else [flag]
            continue
        assert kind is not None
        if kind is not str and re.search(r"[$`]", value) and kind is not json.loads:
            unused.append(flag)  # what only running it would tell
            continue
        values[name] = _value(flag, value, kind)
    return values, unused


def _value(flag: str, value: Any, kind: Kind) -> Any:
    """The value of a flag."""
    if kind is int:
        return whole(flag, value)
    try:
        found = kind(value)
    except (ValueError, TypeError):
        raise LLMHWError(f"from: {flag} {shown(value, 60)} is not what it takes") from None
    return mapping(flag, found) if kind is json.loads else found


# -- what they mean ---------------------------------------------------------------------------

_QUANTIZATION = {
    **dict.fromkeys(("fp8", "fp8_per_tensor", "w8a8_fp8", "modelopt_fp8", "modelopt", "fbgemm_fp8"), "fp8"),
    "fp8_per_block": "fp8-block",
    "mxfp8": "mxfp8",
    **dict.fromkeys(("mxfp4", "gpt_oss_mxfp4"), "mxfp4"),
    **dict.fromkeys(("modelopt_fp4", "nvfp4", "petit_nvfp4"), "nvfp4"),
    **dict.fromkeys(("awq", "awq_marlin", "auto_awq"), "int4-awq"),
    **dict.fromkeys(("gptq", "gptq_marlin", "auto_gptq"), "int4-gptq"),
    "bitsandbytes": "nf4",
    "w8a8_int8": "int8",
}
_CACHES = {"float16": "fp16", "bfloat16": "bf16", "bf16": "bf16", "f16": "fp16", "f32": "fp32", "int8": "int8"}
_HEADS = {"draft_model": "", "STANDALONE": "", "Draft_Target": "", "NEXTN": "mtp"}


def _spec(name: str | None) -> ModelSpec | None:
    """The catalog's model of that name, if there is one."""
    resolved = find_model(name) if name else None
    return model(resolved.name) if resolved else None


def _cache(text: str) -> str | None:
    """The cache's format by the word of an engine; None for auto."""
    if text.startswith(("fp8", "float8")):
        return "fp8"
    if text in _CACHES or text == "auto":
        return _CACHES.get(text)
    return _number_format(re.sub(r"_per_token_head$|_ds_mla$", "", text))


def _number_format(text: str) -> str:
    """The cache's format by its name."""
    try:
        return number_format(text).name
    except LLMHWError:
        raise LLMHWError(f"from: {shown(text, 60)} is no format of a cache") from None


def _weights(values: Mapping[str, Any], name: str | None) -> str | None:
    """The weight format: what the name states, else what is made at loading; None where it is the checkpoint's own."""
    if given := _GIVEN.search(str(values.get("model", ""))):
        return given[1]
    stated = split_format(name)[1] if name else ""
    if stated:
        try:
            return number_format(stated).name
        except LLMHWError:
            pass
    spec = _spec(name)
    own = checkpoint_name(spec) if spec else "bf16"
    asked = _QUANTIZATION.get(str(values.get("quantization", "")))
    if asked:
        return asked if own in DTYPES else None
    found = {word: fmt for fmt, word in DTYPES.items()} | {"half": "fp16", "float": "fp32"}
    return found.get(str(values.get("dtype", "")))


def _draft(values: Mapping[str, Any]) -> dict[str, Any]:
    """The draft and its tokens, as `llmhw.serve` takes them."""
    config = values.get("speculative") or {}
    method = str(config.get("method") or values.get("spec_method") or "")
    place = str(config.get("model") or values.get("spec_model") or "")
    tokens = config.get("num_speculative_tokens") or values.get("draft_tokens")
    if not method and not place:
        return {}
    words = {word: name for name, word in SGLANG_DRAFTS.items()}
    method = _HEADS.get(method, words.get(method, method.lower()))
    if head := _HEAD.search(place):
        method = head[1]
    elif method.endswith("mtp"):
        method = "mtp"
    found = {"draft": method if method in ("mtp", "eagle", "eagle3") else place}
    if not found["draft"] or "$" in found["draft"]:
        return {}
    return found | ({"draft_tokens": whole("draft tokens", tokens)} if tokens else {})


def _launched(said: Said, values: dict[str, Any], unused: Sequence[str], engine: str) -> Launched:
    """What is common to engines that deal tensors: names of a job's fields, devices, formats."""
    raw = str(values.pop("model", "") or values.pop("file", "") or "")
    values["model"] = raw
    name: str | None = raw
    if given := _GIVEN.search(raw):
        name = given[2]
    elif "$" in raw or not raw:
        name = None
    notes = [f"not used: {', '.join(dict.fromkeys(unused))}"] if unused else []
    options: dict[str, Any] = {"engine": engine}
    if version := said.facts.get("version"):
        options["engine"] = f"{engine}:{version}"
    plain = "tp pp ep attention_dp utilization max_sequences max_batched_tokens page_size lora_rank n_batch cpu_moe"
    options |= {key: values[key] for key in plain.split() if values.get(key) not in (None, 0)}
    weights = _weights(values, name)
    options |= {"weights": weights} if weights else {}
    length = str(values.get("max_model_len", ""))
    if re.fullmatch(r"\d+(\.\d+)?[kKmM]?", length) and whole("max_model_len", length) > 0:
        options["max_model_len"] = whole("max_model_len", length)
    if cache := _cache(str(values["kv"])) if "kv" in values else None:
        options["kv"] = cache
    if values.get("lora"):
        options["lora_adapters"] = values.get("lora_adapters", 1)
        targets = {modules: target for target, modules in LORA_MODULES.items()}
        if target := targets.get(tuple(values.get("modules", ()))):
            options["lora_targets"] = target
    else:
        options.pop("lora_rank", None)
    if values.get("offload"):
        notes += _offloaded(options, values["offload"], name)
    devices = options.get("tp", 1) * options.get("pp", 1) * options.get("attention_dp", 1)
    copies = said.script.variables.get("copies", "1")
    gpus = devices * values.get("replicas", 1) * (int(copies) if copies.isdigit() else 1)
    given_gpus = said.facts.get("gpus", 0)
    options["gpus"] = given_gpus if given_gpus >= gpus and given_gpus % devices == 0 else gpus
    if "devices_per_node" in said.facts:
        options["devices_per_node"] = said.facts["devices_per_node"]
    return Launched(form=said.form, model=name, options=options | _draft(values), notes=tuple(notes))


def _offloaded(options: dict[str, Any], gib: float, name: str | None) -> list[str]:
    """Put the share of the weights in host memory among the options; why not, where it is not known."""
    spec = _spec(name)
    if spec is None:
        return [f"{gib:g} GiB in host memory are not used: the model's size is not known"]
    total = weight_bytes(spec, options.get("weights", CHECKPOINT)) / (options.get("tp", 1) * options.get("pp", 1))
    options["weight_offload"] = round(min(1.0, gib * GIB / total), 4)
    return []


def _said(text: str, form: str) -> Said:
    """The command of a form in a text, and the facts around it."""
    from llmhw.launch.wraps import opened

    script, facts = opened(text)
    said = found_program(script)
    if said is None or said.form != form:
        raise LLMHWError(f"from: no command of {form} is in it; {_WAY_OUT}")
    for words in script.commands:
        script.variables |= environment(words)
    said.facts = {**facts, **said.facts}
    return said


def _has_experts(name: str | None) -> bool:
    spec = _spec(name)
    return spec is not None and any(t.experts > 1 for layer, _ in spec.layer_kinds for t in layer.tensors)


# -- engines ----------------------------------------------------------------------------------


def read_vllm(text: str) -> Launched:
    """A command of vLLM."""
    said = _said(text, "vllm")
    values, unused = _arguments(said, _VLLM)
    return _vllm(said, values, unused)


def _vllm(said: Said, values: dict[str, Any], unused: Sequence[str]) -> Launched:
    dp, tp = values.pop("dp", 1), values.get("tp", 1)
    raw = str(values.get("model", ""))
    given = _GIVEN.search(raw)
    if values.get("experts") or _has_experts(given[2] if given else raw):
        values["attention_dp"] = dp
        values["ep"] = tp * dp if values.get("experts") else 1
    else:
        values["replicas"] = dp
    if raw.startswith("${") and values.get("tokenizer") and not given:
        values["model"] = values["tokenizer"]
    return _launched(said, values, unused, "vllm")


def read_sglang(text: str) -> Launched:
    """A command of SGLang."""
    said = _said(text, "sglang")
    values, unused = _arguments(said, _SGLANG)
    dp = values.pop("dp", 1)
    if values.pop("dp_attention", False) and "attention_dp" not in values:
        values["attention_dp"], dp = dp, 1
    groups = values.get("attention_dp", 1)
    values |= {"tp": values.pop("ranks", 1) // groups, "replicas": dp}
    for name in ("max_sequences", "max_batched_tokens"):
        if name in values:
            values[name] = values[name] // groups
    return _launched(said, values, unused, "sglang")


def read_trtllm_serve(text: str) -> Launched:
    """A command of trtllm-serve, and the file of options that the same script writes."""
    said = _said(text, "trtllm-serve")
    values, unused = _arguments(said, _TRTLLM)
    config = values.pop("config", None)
    if config is not None:
        inner = said.script.files.get(config)
        if inner is None:
            unused.append(f"{config}, a file of its own")
        else:
            values |= _llm_api(_yaml(_expanded(inner, said.script)))
    return _trtllm(said, values, unused)


def _trtllm(said: Said, values: dict[str, Any], unused: Sequence[str]) -> Launched:
    ranks = values.pop("ranks", 1)
    if values.pop("attention", False):
        values["attention_dp"], values["tp"] = ranks, 1
    else:
        values["tp"] = ranks
    engine = "tensorrt-llm" if values.pop("backend", "") in ("tensorrt", "trt") else "tensorrt-llm-pytorch"
    return _launched(said, values, unused, engine)


def _llm_api(data: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of TensorRT-LLM's LLM API by what they are called here."""
    names = {"model": "model", "tensor_parallel_size": "ranks", "pipeline_parallel_size": "pp"}
    names |= {
        "moe_expert_parallel_size": "ep",
        "max_batch_size": "max_sequences",
        "max_num_tokens": "max_batched_tokens",
    }
    names |= {
        "max_seq_len": "max_model_len",
        "backend": "backend",
        "enable_attention_dp": "attention",
        "dtype": "dtype",
    }
    words = ("model", "backend", "enable_attention_dp", "dtype")
    found = {n: data[key] if key in words else whole(key, data[key]) for key, n in names.items() if data.get(key)}
    inner = ("kv_cache_config", "lora_config", "speculative_config")
    cache, lora, drafts = (mapping(key, data.get(key)) for key in inner)
    kinds: tuple[tuple[str, str, Kind], ...] = (("dtype", "kv", str), ("tokens_per_block", "page_size", int))
    for key, name, kind in (*kinds, ("free_gpu_memory_fraction", "utilization", float)):
        found |= {name: _value(key, cache[key], kind)} if cache.get(key) else {}
    if lora:
        modules = {"attn_q": "attention", "mlp_h_to_4h": "mlp"}
        targets = items("lora_target_modules", lora.get("lora_target_modules")) or [""]
        found |= {"lora": True, "lora_adapters": whole("max_loras", lora.get("max_loras", 1))}
        found |= {"lora_rank": whole("max_lora_rank", lora.get("max_lora_rank", 16))}
        found["modules"] = list(LORA_MODULES.get(modules.get(str(targets[0]), ""), ()))
    if drafts:
        method = str(drafts.get("decoding_type", ""))
        found["spec_method"] = {"Eagle": "eagle3"}.get(method, method)
        found["spec_model"] = drafts.get("speculative_model") or drafts.get("speculative_model_dir") or ""
        found["draft_tokens"] = drafts.get("num_nextn_predict_layers") or drafts.get("max_draft_len")
    return found


def _expanded(text: str, script: Script) -> str:
    """A file that a script writes, with the script's variables in their places."""
    return re.sub(r"\$(\w+)", lambda found: script.variables.get(found[1], found[0]), text)


def _yaml(text: str) -> dict[str, Any]:
    from llmhw.launch.wraps import documents

    data = documents(text)
    if len(data) != 1 or not isinstance(data[0], dict):
        raise LLMHWError("from: the options are no YAML of names and values")
    return data[0]


def read_llamacpp(text: str) -> Launched:
    """A command of llama-server, with its settings in the environment."""
    said = _said(text, "llama.cpp")
    values, unused = _arguments(said, _LLAMACPP)
    settings = {"CTX_SIZE": "n_ctx", "N_PARALLEL": "max_sequences", "HF_REPO": "model", "MODEL": "model"}
    settings |= {"N_GPU_LAYERS": "gpu_layers", "BATCH": "n_batch", "UBATCH": "max_batched_tokens"}
    settings |= {"CACHE_TYPE_K": "kv", "CACHE_TYPE_V": "kv_v", "FLASH_ATTN": "flash", "N_CPU_MOE": "cpu_moe"}
    for name, key in settings.items():
        if (value := said.script.variables.get(f"LLAMA_ARG_{name}")) is not None:
            number = key in ("n_ctx", "max_sequences", "n_batch", "max_batched_tokens", "cpu_moe")
            values.setdefault(key, whole(f"LLAMA_ARG_{name}", value) if number else value)
    if "file" in values:
        values["model"] = values["file"]
    return _cells(said, values, unused, "llama.cpp")


def _cells(said: Said, values: dict[str, Any], unused: Sequence[str], engine: str) -> Launched:
    """What llama.cpp and Ollama have in common: layers on devices, cells of slots."""
    name = str(values.get("model", "")).removesuffix(".gguf")
    given = _GIVEN.search(name)
    spec = _spec(given[2] if given else name)
    devices = len(str(values.pop("tensor_split")).split(",")) if "tensor_split" in values else 1
    if devices == 1 and "copies" not in said.script.variables:
        devices = len(_visible(said.script)) or 1
    values["tp" if values.pop("split_mode", "layer") in ("row", "tensor") else "pp"] = devices
    cells, slots = values.pop("n_ctx", 0), values.get("max_sequences", 1)
    if cells and slots > 0:
        values["max_model_len"] = str(cells // slots)
    layers = str(values.pop("gpu_layers", "all"))
    every = spec.num_layers + 1 if spec else 99
    more: dict[str, Any] = {}
    if layers.isdigit() and int(layers) < every:
        more["gpu_layers"] = int(layers)
    if (flash := values.pop("flash", None)) in ("on", "1", "true", "off", "0", "false", ""):
        more["flash_attention"] = flash not in ("off", "0", "false")
    if values.pop("swa_full", False):
        more["swa_full"] = True
    if values.pop("all_moe", False) and spec:
        more["cpu_moe"] = spec.num_layers
    adapters = values.pop("adapters", None)
    if adapters:
        of = re.search(r"paths of (\d+) adapters of rank (\d+)", adapters)
        values |= {"lora": True, "lora_adapters": int(of[1]) if of else len(adapters.split(","))}
        values |= {"lora_rank": int(of[2])} if of else {}
    for key in ("kv", "kv_v"):
        if key in values:
            cached = _CACHES.get(str(values[key])) or _number_format(str(values[key]))
            more |= {key: cached} if key == "kv" or cached != more.get("kv", "fp16") else {}
            values.pop(key)
    if values.get("spec_model"):
        values["spec_model"] = re.sub(r":\w+$", "", values["spec_model"])
    made = _launched(said, values, unused, engine)
    tags = {word: fmt for fmt, word in GGUF_TAGS.items()}
    tag = re.search(r":(\w+)$", str(values.get("model", "")))
    tag = tag if tag and (tag[1].upper() in tags or split_format(tag[1])[1]) else None
    if tag and tag[1].upper() in tags:
        more["weights"] = tags[tag[1].upper()]
    model_name = re.sub(r":\w+$", "", made.model) if made.model and tag else made.model
    return Launched(form=made.form, model=model_name, options={**made.options, **more}, notes=made.notes)


def _visible(script: Script) -> list[str]:
    """Devices that the environment shows."""
    shown_here = script.variables.get("CUDA_VISIBLE_DEVICES") or script.variables.get("HIP_VISIBLE_DEVICES") or ""
    return shown_here.split(",") if re.fullmatch(r"\d+(,\d+)*", shown_here) else []


def read_ollama(text: str) -> Launched:
    """A Modelfile, by itself or in a script with the server's settings."""
    from llmhw.launch.wraps import opened

    script, facts = opened(text)
    files = [inner for name, inner in script.files.items() if "modelfile" in name.lower()]
    for words in script.commands:
        script.variables |= environment(words)
    values: dict[str, Any] = {}
    names = {"num_ctx": "length", "num_gpu": "gpu_layers", "num_batch": "max_batched_tokens"}
    for line in (files[0] if files else text).splitlines():
        head, _, rest = line.strip().partition(" ")
        if head.upper() == "FROM":
            values["model"] = _expanded(rest.strip(), script).removeprefix("hf.co/").removeprefix("huggingface.co/")
        elif head.upper() == "PARAMETER" and (words_of := rest.split()) and words_of[0].lower() in names:
            values[names[words_of[0].lower()]] = whole(words_of[0], " ".join(words_of[1:]))
        elif head.upper() == "ADAPTER":
            values["adapters"] = ",".join(filter(None, (values.get("adapters"), rest.strip())))
    if "model" not in values:
        raise LLMHWError(f"from: a Modelfile needs a line FROM; {_WAY_OUT}")
    settings = {"NUM_PARALLEL": "max_sequences", "CONTEXT_LENGTH": "length", "KV_CACHE_TYPE": "kv"}
    for name, key in (settings | {"FLASH_ATTENTION": "flash"}).items():
        if (value := script.variables.get(f"OLLAMA_{name}")) is not None:
            values.setdefault(key, value if key in ("kv", "flash") else whole(f"OLLAMA_{name}", value))
    length = values.pop("length", 0)
    if length:
        values["n_ctx"] = length * values.get("max_sequences", 1)
    return _cells(Said("ollama", (), script, facts), values, (), "ollama")


def read_triton(text: str) -> Launched:
    """A model repository, as a script that writes it; or its config.pbtxt, model.json or model.yaml."""
    from llmhw.launch.wraps import opened

    script, facts = opened(text)
    files = list(script.files.items()) or [("", text)]
    said = Said("triton", (), script, facts)
    for _, inner in files:
        if inner.lstrip().startswith("{"):
            return _vllm(said, _engine_arguments(_json(_expanded(inner, script))), ())
    for name, inner in files:
        if name.endswith((".yaml", ".yml")) or (not name and re.search(r"(?m)^tensor_parallel_size:", inner)):
            return _trtllm(said, _llm_api(_yaml(_expanded(inner, script))), ())
    return _pbtxt(said, files[0][1])


def _json(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise LLMHWError(f"from: the engine's arguments are no JSON: {error}") from None
    if not isinstance(data, dict):
        raise LLMHWError("from: the engine's arguments are no JSON of names and values")
    return data


def _engine_arguments(data: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of vLLM's engine by what they are called here."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        name, kind = _VLLM.get("--" + key.replace("_", "-"), ("", None))
        if key == "lora_target_modules":
            found["modules"] = items(key, value)
        elif name:
            plain = kind is None or kind is json.loads
            found[name] = (mapping(key, value) if kind else value) if plain else _value(key, str(value), kind or str)
    return found


def _pbtxt(said: Said, text: str) -> Launched:
    """config.pbtxt of the backend of TensorRT-LLM's C++ runtime."""
    parameters = dict(re.findall(r'key:\s*"([^"]+)"\s*value:\s*\{\s*string_value:\s*"([^"]*)"', text))
    backend = re.search(r'(?m)^\s*backend\s*:\s*"([^"]+)"', text)
    if backend is None or backend[1] not in ("tensorrtllm", "python", "vllm"):
        raise LLMHWError("from: its backend is none of vllm, tensorrtllm; give the config of that model")
    values: dict[str, Any] = {"model": parameters.get("gpt_model_path", ""), "backend": "tensorrt"}
    if size := re.search(r"(?m)^\s*max_batch_size\s*:\s*(\d+)", text):
        values["max_sequences"] = int(size[1])
    if share := parameters.get("kv_cache_free_gpu_mem_fraction"):
        values["utilization"] = float(share)
    return _trtllm(said, values, ())
