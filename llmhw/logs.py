"""A start-up log of vLLM, SGLang or llama.cpp: what it says was asked, what it measured, and what was to be expected.

`read_log` takes the lines apart, `compare` asks `llmhw.serving_memory` the same question and lays the two side by side.
What a log does not say is assumed and listed, as everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import Any, NamedTuple

from llmhw import llamacpp
from llmhw.catalog import read_calibration
from llmhw.checks import check_prose, checked
from llmhw.formula import Report, Table
from llmhw.hardware import Accelerator, Cluster, accelerator, fitting
from llmhw.job import ServingJob, limits_of
from llmhw.margin import known_error
from llmhw.model import ModelSpec, model
from llmhw.names import find_model
from llmhw.precision import number_format
from llmhw.serving import ServingMemory, serving_memory
from llmhw.units import LLMHWError, finite, format_quantity, format_range, shown

GIB, MIB = 2**30, 2**20

# Far beyond a start-up log; a line of arguments has some ten thousand letters.
MOST_BYTES = 64 * 10**6
_MOST_LETTERS = 32_768


# -- what engines write -----------------------------------------------------------------------


class Line(NamedTuple):
    """A kind of line.

    name      of the quantity or the setting
    pattern   with the value in its first group; several groups are added up
    unit      bytes of what is printed; 1: a count; 0: a text
    ranks     what counts of the values of all ranks
    """

    name: str
    pattern: re.Pattern[str]
    unit: float
    ranks: Callable[[list[float]], float]


def _lines(unit: float, ranks: Any, *patterns: tuple[str, str]) -> list[Line]:
    return [Line(name, re.compile(pattern), unit, ranks) for name, pattern in patterns]


_N, _NUMBER = r"(-?\d[\d,]*(?:\.\d+)?)", r"['\"]?(\d[\d.]*)"
_TEXT = r"['\"]?([^'\",\s)}\]]+)"


def _arguments(value: str, **names: str) -> list[Line]:
    """Arguments in any of their forms: key=value, 'key': value, --key value."""
    forms = {name: (rf"(?:--|['\"\s(,{{]|^)(?:{key})['\"]?\s*[=:]\s*{value}", rf"--(?:{key})\s+{value}")
             for name, key in names.items()}  # fmt: skip
    return _lines(0, max, *((name, form) for name, both in forms.items() for form in both))


# One list an engine, the surest wording of a quantity first: versions word it differently.
_KNOWN: dict[str, list[Line]] = {
    "vllm": [
        *_lines(
            GIB, max,
            ("weights", rf"(?:Model loading|Loading model weights) took {_N} Gi?B"),
            ("weights", rf"model weights take\s+{_N}\s*GiB"),
            ("weights", rf"Actual usage is {_N} GiB for weight"),
            ("activations", rf"PyTorch activation peak memory(?: takes)?\s+{_N}\s*GiB"),
            ("activations", rf"GiB for weight, {_N} GiB for peak activation"),
            ("outside the allocator", rf"non_torch_memory(?: takes)?[=\s]+{_N}\s*GiB"),
            ("outside the allocator", rf"{_N} GiB for non-torch memory"),
            ("CUDA graphs", rf"Graph capturing finished in [^\n]*?took {_N} GiB"),
            ("CUDA graphs", rf"CUDA graph pool memory: {_N} GiB"),
            ("CUDA graphs", rf"Estimated CUDA graph memory: {_N} GiB"),
            ("one sequence", rf"\({_N} GiB KV cache is needed"),
            ("visible", rf"total_gpu_memory(?:\s*\(|[=:\s]+){_N}\s*GiB"),
            ("visible", rf"Free memory on device \([\d.]+/{_N} GiB\)"),
            ("visible", rf"total capacity of {_N} GiB"),
        ),
        *_lines(
            GIB, min,
            ("KV cache", rf"Available KV cache memory: {_N} GiB"),
            ("KV cache", rf"reserved for KV Cache is {_N}\s*GiB"),
            ("KV cache", rf"(?:available_kv_cache_memory|kv_cache_size)[=\s]+{_N}\s*GiB"),
            ("KV cache", rf"larger than the available KV cache memory \({_N} GiB"),
        ),
        *_lines(
            1, min,
            ("tokens", rf"GPU KV cache size: {_N} tokens"),
            ("tokens", rf"tokens that can be stored in KV cache \({_N}\)"),
            ("blocks", rf"# (?:GPU|CUDA|cuda) blocks: {_N}"),
            ("blocks of state", rf"exceeds available Mamba cache blocks \({_N}\)"),
            ("sequences", rf"Maximum concurrency for [\d,]+ tokens per request: {_N}x"),
        ),
        *_lines(
            0, max,
            ("version", r"LLM engine \(v([^)]+)\)"),
            ("version", r"vLLM API server version (\S+)"),
            ("version", r"version\s+(\d+\.\d+\.\S+)"),
            ("model", r"with config: model='([^']+)'"),
            ("model", r"'model(?:_tag)?': '([^']+)'"),
            ("model", r"(?:--model[= ]|vllm serve )\s*['\"]?([^\s'\"-][^\s'\"]*)"),
            ("model", r"\bmodel=['\"]([^'\"]+)"),
            ("model", r"█\s+model\s+(\S+)"),
            ("longest", r"\bmax_seq_len=(\d+)"),
            ("longest", r"model's max seq len \((\d+)\)"),
            ("longest", r"Maximum concurrency for ([\d,]+) tokens"),
            ("utilization", r"gpu_memory_utilization \(([\d.]+)\)"),
            ("utilization", r"The current --gpu-memory-utilization=([\d.]+)"),
            ("utilization", r"Desired GPU memory utilization is \(([\d.]+)"),
            ("sequences_limit", r"max_num_seqs \((\d+)\) exceeds"),
            ("page", r"Setting attention block size to (\d+) tokens"),
            ("drafts", r"(?:speculative_config|'speculative_config':)[=\s]+(SpeculativeConfig|\{)"),
        ),
        *_arguments(
            _TEXT,
            quantization="quantization",
            dtype="dtype",
            kv="kv[-_]cache[-_]dtype",
            eager="enforce[-_]eager",
            experts_spread="enable[-_]expert[-_]parallel",
        ),
        *_arguments(
            _NUMBER,
            tp="tensor[-_]parallel[-_]size|tp",
            pp="pipeline[-_]parallel[-_]size|pp",
            longest="max[-_]model[-_]len",
            utilization="gpu[-_]memory[-_]utilization",
            sequences_limit="max[-_]num[-_]seqs",
            batched="max[-_]num[-_]batched[-_]tokens",
            page="block[-_]size",
        ),
    ],
    "sglang": [
        *_lines(
            GIB, max,
            ("weights", rf"Load weight end\.[^\n]*?mem usage={_N} GB"),
            ("CUDA graphs", rf"Capture \w+ graph end\.[^\n]*?mem usage={_N} GB"),
            ("state", rf"Mamba Cache is allocated\.[^\n]*?conv_state size: {_N}\s*GB, ssm_state size: {_N}\s*GB"),
        ),
        *_lines(
            GIB, min,
            ("KV cache", rf"KV Cache is allocated\.[^\n]*?K size: {_N} GB, V size: {_N} GB"),
            ("KV cache", rf"KV Cache is allocated\.[^\n]*?KV size: {_N} GB"),
            ("free", rf"Load weight begin\. avail mem={_N} GB"),
        ),
        *_lines(
            1, min,
            ("tokens", rf"KV Cache is allocated\.[^\n]*?#tokens: {_N}"),
            ("tokens", rf"max_total_num_tokens={_N}"),
        ),
        *_lines(
            0, max,
            ("longest", r"max_running_requests=\d+[^\n]*?context_len=(\d+)"),
            ("sequences_limit", r"max_total_num_tokens=[^\n]*?max_running_requests=(\d+)"),
        ),
        *_arguments(
            _TEXT,
            model="model[-_]path|model",
            spread="enable[-_]dp[-_]attention",
            quantization="quantization",
            dtype="dtype",
            kv="kv[-_]cache[-_]dtype",
            drafts="speculative[-_]algorithm",
        ),
        *_arguments(
            _NUMBER,
            tp="tp[-_]size|tp|tensor[-_]parallel[-_]size",
            pp="pp[-_]size|pp|pipeline[-_]parallel[-_]size",
            ep="ep[-_]size|ep|expert[-_]parallel[-_]size",
            data_ranks="dp[-_]size|dp|data[-_]parallel[-_]size",
            utilization="mem[-_]fraction[-_]static",
            longest="context[-_]length",
            batched="chunked[-_]prefill[-_]size",
            sequences_limit="max[-_]running[-_]requests",
            page="page[-_]size",
        ),
    ],
    "llama.cpp": [
        *_lines(
            GIB, max,
            ("weights", rf"(?:file size|model size)\s*= {_N} GiB"),
        ),
        *_lines(
            MIB, max,
            ("weights", rf"(?:file size|model size)\s*= {_N} MiB"),
            ("KV cache", rf"KV self size\s*=\s*{_N} MiB"),
            ("visible", rf"Device \d+: [^\n]*?VRAM: {_N} MiB"),
            ("free", rf"using device \w+ \([^\n]*?- {_N} MiB free"),
        ),
        *_lines(
            MIB, sum,
            ("KV cache", rf"\bllama_kv_cache\w*:\s+size =\s*{_N} MiB"),
            ("state", rf"\bllama_memory_recurrent:\s+size =\s*{_N} MiB"),
        ),
        *_lines(
            0, max,
            ("version", r"\bbuild: (\d+ \(\w+\))"),
            ("version", r"\bversion: (\d+ \(\w+\))"),
            ("name", r"general\.name\s*(?:str\s*)?= (.+)"),
            ("path", r"loaded meta data with [^\n]*? from (\S.*?)(?: \(version|$)"),
            ("file_type", r"(?:file type|model ftype)\s*= (.+)"),
            ("bits", r"\(([\d.]+) BPW\)"),
            ("parameters", r"model params\s*= ([\d.]+ [KMBT])"),
            ("context", r"\bn_ctx\s*= (\d+)"),
            ("micro_batch", r"\bn_ubatch\s*= (\d+)"),
            ("batch", r"\bn_batch\s*= (\d+)"),
            ("slots", r"\bn_seq_max\s*= (\d+)"),
            ("shared", r"\bkv_unified\s*= (\w+)"),
            ("fused", r"Flash Attention was auto, set to (\w+)"),
            ("fused", r"\bflash_attn\s*= (\w+)"),
            ("full_windows", r"using (full)-size SWA cache"),
            ("cache_kind", r"\b(llama_kv_cache\w*):"),
            ("kv", r"\bK \((\w+)\):"),
            ("kv_values", r"\bV \((\w+)\):"),
            ("layers", r"offloaded (\d+)/\d+ layers to GPU"),
            ("all_layers", r"offloaded \d+/(\d+) layers to GPU"),
        ),
    ],
}  # fmt: skip

# The name of what allocates the cache, in the order of its names -> the build that had it first.
_CACHE_KINDS = {"llama_kv_cache_init": "b4000", "llama_kv_cache_unified": "b5430", "llama_kv_cache": "b6330"}
# Experts that stay in host memory: -ot, --n-cpu-moe.
_MOVED = re.compile(r"blk\.(\d+)\.ffn_\w+_exps\S*[^\n]{0,80}overr?id\w* to (?:CPU|\w+_Host)")
# Buffers that llama.cpp allocates: on which device, and for what.
_BUFFER = re.compile(rf"([A-Za-z_]+\d*)\s+(model |KV |RS |compute |output )?buffer size\s*=\s*{_N} MiB")
_BUFFERS = {"": "weights", "model": "weights", "KV": "KV cache", "RS": "KV cache", "compute": "compute buffer"}
_HOST = ("CPU", "CUDA_Host", "ROCm_Host", "Vulkan_Host", "SYCL_Host", "Host")
# Metadata of a GGUF file, as llama.cpp prints it.
_KEY = re.compile(r"- kv\s+\d+:\s+(\S+)\s+([a-z]+\d*)(?:\[\S*?)?\s+= (.*)")
_SIZE = re.compile(r"(?:print_info|llm_load_print_meta|print_meta): (\w+)\s*= (\[[\d, ]+\]|\S+)")
_SIZES = {
    "n_ctx_train": "context_length", "n_embd": "embedding_length", "n_layer": "block_count",
    "n_ff": "feed_forward_length", "n_head": "attention.head_count", "n_head_kv": "attention.head_count_kv",
    "n_embd_head_k": "attention.key_length", "n_embd_head_v": "attention.value_length",
    "n_rot": "rope.dimension_count", "n_expert": "expert_count", "n_expert_used": "expert_used_count",
    "n_vocab": "vocab_size", "n_swa": "attention.sliding_window", "n_ff_exp": "expert_feed_forward_length",
}  # fmt: skip

_DEVICE = tuple(
    re.compile(pattern)
    for pattern in (
        r"Device \d+: ([^,\n]+), compute capability",
        r"using device \w+ \(([^)]+)\)",
        r"device_name=([\w.-]+?)(?:,|\.json)",
        r"GPU \d+: ([^\n(]+)",
        r"\|\s+\d+\s+((?:NVIDIA|AMD|Tesla) [^|]*?)\s+(?:On|Off)\s",
    )
)
_START = re.compile(r"Initializing an? (?:V\d )?LLM engine|server_args=ServerArgs\(|loaded meta data with")
_REFUSED = re.compile(
    r"(To serve at least one request with the model[^\n]*|The model's max seq len \(\d+\) is larger[^\n]*|"
    r"No available memory for the cache blocks[^\n]*|max_num_seqs \(\d+\) exceeds [^\n]*|"
    r"Not enough memory[^\n]*|CUDA out of memory[^\n]*|cudaMalloc failed: out of memory|"
    r"unable to allocate \w+ buffer|failed to allocate [^\n]*buffer[^\n]*)"
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class EngineLog:
    """What a log says.

    engine     vllm, sglang or llama.cpp
    settings   what was asked, as it is written there, by the names of this module
    measured   bytes on the fullest device; counts of tokens and blocks; requests of the longest length at once
    buffers    llama.cpp: bytes by device and purpose
    metadata   llama.cpp: of the GGUF file
    device     as the log calls it; "" where it does not
    refused    why the engine did not start, in its words; "" if it did
    """

    engine: str
    settings: Mapping[str, str]
    measured: Mapping[str, float]
    buffers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""
    refused: str = ""

    def count(self, name: str) -> int | None:
        """A setting that is a whole number above 0."""
        text = self.settings.get(name, "").replace(",", "").rstrip(".")
        return int(text) if text.isdecimal() and len(text) < 12 and int(text) else None

    def on(self, name: str) -> bool:
        """Whether a switch is on."""
        return self.settings.get(name, "").lower() in ("true", "1", "enabled")


def read_log(text: str) -> EngineLog:
    """What a start-up log says: of the last start, where it holds several.

    Raises `LLMHWError` where no line is known.

    >>> found = read_log("INFO 01-14 model_runner.py:1099] Loading model weights took 7.9692 GB")
    >>> found.engine, round(found.measured["weights"] / 2**30, 4)
    ('vllm', 7.9692)
    """
    lines = [_COLOURS.sub("", line[:_MOST_LETTERS]) for line in check_prose("log", text).splitlines()]
    start = max((i for i, line in enumerate(lines) if _START.search(line)), default=0)
    found = {engine: _read(known, lines, start) for engine, known in _KNOWN.items()}
    engine = max(found, key=lambda name: (len(found[name][1]), len(found[name][0])))
    settings, measured = found[engine]
    if engine == "llama.cpp" and (moved := {block for (block,) in _matches(_MOVED, lines)}):
        settings["cpu_moe"] = str(len(moved))
    buffers = _buffers(lines[start:]) if engine == "llama.cpp" else {}
    metadata = _metadata(lines) if engine == "llama.cpp" else {}
    if not measured and not buffers:
        raise LLMHWError(
            "log: no line that vLLM, SGLang or llama.cpp writes when it starts, such as 'GPU KV cache size: ...', "
            "'KV Cache is allocated. ...' or 'load_tensors: ... buffer size = ...'; give the log from its first line on"
        )
    refused = next((match[1] for line in reversed(lines[start:]) if (match := _REFUSED.search(line))), "")
    return EngineLog(engine, settings, measured, buffers, metadata, _device_in(lines), refused[:300].strip())


def _read(known: list[Line], lines: list[str], start: int) -> tuple[dict[str, str], dict[str, float]]:
    """Settings, of the whole log, and what was measured, from a start on."""
    settings: dict[str, str] = {}
    measured: dict[str, float] = {}
    for line in known:
        if line.name in (measured if line.unit else settings):
            continue
        values = _matches(line.pattern, lines[start:] if line.unit else lines)
        if line.unit:
            numbers = [line.unit * sum(float(n.replace(",", "")) for n in groups) for groups in values]
            if numbers:
                measured[line.name] = line.ranks(numbers)
        elif said := [groups[0].strip() for groups in values if groups[0] not in ("None", "auto", "null")]:
            settings[line.name] = said[-1][:300]
    return settings, measured


def _matches(pattern: re.Pattern[str], lines: Iterable[str]) -> Iterator[tuple[str, ...]]:
    return (match.groups() for line in lines for match in pattern.finditer(line))


def _device_in(lines: Iterable[str]) -> str:
    for line in lines:
        for pattern in _DEVICE:
            if match := pattern.search(line):
                return match[1].strip()[:80]
    return ""


def _buffers(lines: Iterable[str]) -> dict[str, dict[str, float]]:
    """Bytes by device and purpose: what is allocated for one purpose in several buffers is added up."""
    found: dict[str, dict[str, float]] = {}
    for device, purpose, size in _matches(_BUFFER, lines):
        name = _BUFFERS.get((purpose or "").strip())
        if name:
            place = "host" if device.startswith(_HOST) else device
            held = found.setdefault(place, {})
            # a graph is reserved more than once: the largest counts
            before, more = held.get(name, 0.0), float(size.replace(",", "")) * MIB
            held[name] = max(before, more) if name == "compute buffer" else before + more
    return found


def _metadata(lines: list[str]) -> dict[str, Any]:
    """The GGUF file's own metadata; where that was not printed, the sizes that llama.cpp made of it."""
    found: dict[str, Any] = {}
    for key, kind, value in _matches(_KEY, lines):
        if kind == "arr":
            items = value.strip("[] ").split(", ")
            found[key] = [int(one) for one in items] if all(one.isdecimal() for one in items) else None
        else:
            found[key] = int(value) if kind[0] in "ui" and value.isdecimal() else value.strip()
    sizes = {match[1]: match[2] for line in lines for match in _SIZE.finditer(line)}
    arch = found.setdefault("general.architecture", sizes.get("arch", ""))
    for name, key in _SIZES.items():
        number = finite(sizes.get(name, "").partition(",")[0].strip("[]"))
        if number:
            found.setdefault(f"{arch}.{key}", int(number))
    return {key: value for key, value in found.items() if value is not None}


# -- the same question ------------------------------------------------------------------------


def _model_names(log: EngineLog) -> Iterator[str]:
    """Names that a model may have, the surest first."""
    for said in (log.settings.get("model", ""), log.settings.get("path", "")):
        if cached := re.search(r"models--([^/]+?)--([^/]+)", said):
            yield f"{cached[1]}/{cached[2]}"
        yield said
        yield said.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    yield log.settings.get("name", "")
    base, size = (str(log.metadata.get(f"general.{part}", "")) for part in ("basename", "size_label"))
    yield f"{base}-{size}"


def _spec(log: EngineLog) -> ModelSpec:
    """The model by its name; where that is not known, by the metadata of its file."""
    for name in _model_names(log):
        if name and find_model(name):
            spec = model(name)
            if _same_shape(spec, log):
                return spec
    if log.metadata.get("general.architecture"):
        return _from_metadata(log)
    called = log.settings.get("model") or log.settings.get("path") or log.settings.get("name") or ""
    raise LLMHWError(f"model: the log calls it {shown(called)}, which is not known; give model=, or a config.json")


def _same_shape(spec: ModelSpec, log: EngineLog) -> bool:
    """Whether a model has the layers and the width that the file's metadata states, if it states any."""
    arch = log.metadata.get("general.architecture", "")
    stated = (log.metadata.get(f"{arch}.{key}") for key in ("block_count", "embedding_length"))
    layers, hidden = (one if isinstance(one, int) else None for one in stated)
    return (layers is None or 0 <= layers - spec.num_layers <= 1) and hidden in (None, spec.hidden)


def _from_metadata(log: EngineLog) -> ModelSpec:
    from llmhw.sources.gguf import File
    from llmhw.sources.gguf_config import config_from

    config = config_from(File(log.metadata, {}, 0), "log")
    name = log.settings.get("name") or str(log.metadata["general.architecture"])
    specs = [ModelSpec.from_config(config | {"tie_word_embeddings": tied}, name=name) for tied in (False, True)]
    number, _, unit = log.settings.get("parameters", "").partition(" ")
    stated = (finite(number) or 0.0) * {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(unit, 1)
    best = min(specs, key=lambda spec: abs(spec.parameters.text - stated))
    if stated and abs(best.parameters.text / stated - 1) > 0.02:
        raise LLMHWError(
            f"model: the log's metadata gives {best.parameters.text:,} parameters, and the log says "
            f"{log.settings['parameters']}; give model=, a name or a config.json"
        )
    return best


_QUANTIZED = {
    "awq": "int4-awq", "awq_marlin": "int4-awq", "gptq": "int4-gptq", "gptq_marlin": "int4-gptq", "fp8": "fp8",
    "mxfp4": "mxfp4", "gpt_oss_mxfp4": "mxfp4", "modelopt": "fp8", "modelopt_fp4": "nvfp4", "bitsandbytes": "nf4",
    "w8a8_int8": "int8", "w8a8_fp8": "fp8", "moe_wna16": "int4-awq",
}  # fmt: skip


def _weights(log: EngineLog, spec: ModelSpec) -> str | None:
    """The format of the weights: by a copy's name, by the engine's method; None: the checkpoint's own."""
    if log.engine == "llama.cpp":
        return _file_type(log)
    named = next((found.format for name in _model_names(log) if name and (found := find_model(name))), "")
    method = log.settings.get("quantization", "").lower()
    own = spec.quantization.lower()
    if own and (not method or own in method or method in own):
        return None
    for name in (named, _QUANTIZED.get(method, "")):
        try:
            return number_format(name).name if name else None
        except LLMHWError:  # a producer's name, as autoround, does not say the bits
            continue
    return None


def _file_type(log: EngineLog) -> str | None:
    """llama.cpp's name of a mix as llama-quantize has it: "Q4_K - Medium" is Q4_K_M."""
    text = re.sub(r"\(guessed\)|all |, some F16|mostly ", "", log.settings.get("file_type", "")).strip()
    name, _, kind = text.partition(" - ")
    word = name.split(" ")[0].upper().replace("F32", "fp32")
    for tried in (f"{word}_{kind[:1].upper()}" if kind else name.upper().replace(" ", "_"), word):
        try:
            return number_format(tried).name
        except LLMHWError:
            continue
    return None


_CACHES = {"fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "fp8_inc": "fp8", "f16": "fp16", "f32": "fp32", "bfloat16": "bf16"}


def _asked(log: EngineLog, spec: ModelSpec) -> dict[str, Any]:
    """The arguments of a `ServingJob` that the log states."""
    kv = log.settings.get("kv", "").lower()
    version = re.match(r"\d+\.\d+(\.\d+)?", log.settings.get("version", "")) if log.engine == "vllm" else None
    found: dict[str, Any] = {
        "engine": f"{log.engine}:{version[0]}" if version else log.engine,
        "weights": _weights(log, spec),
        "kv": number_format(_CACHES.get(kv, kv)).name if kv else None,
        "tp": log.count("tp"),
        "pp": log.count("pp"),
        "max_model_len": log.count("longest"),
    }
    if log.engine == "llama.cpp":
        found |= _cells(log)
    else:
        utilization = finite(log.settings.get("utilization", ""))
        found |= {
            "utilization": utilization if utilization and 0 < utilization <= 1 else None,
            "max_sequences": log.count("sequences_limit"),
            "max_batched_tokens": log.count("batched"),
            "page_size": log.count("page"),
        }
        # groups that take different requests are instances of their own, unless they share the experts
        if log.on("spread") and (ranks := log.count("data_ranks")):
            found |= {"attention_dp": ranks, "tp": max(1, (found["tp"] or 1) // ranks)}
        found["ep"] = log.count("ep") or (found["tp"] if log.on("experts_spread") else None) or 1
        if found["ep"] > 1 and limits_of(spec, Cluster("H100 SXM5 80GB", 1)).experts == 1:
            found["ep"] = 1
    return {name: value for name, value in found.items() if value is not None}


def _cells(log: EngineLog) -> dict[str, Any]:
    """The options of llama.cpp that a log states."""
    build = re.match(r"\d+", log.settings.get("version", ""))
    kind = log.settings.get("cache_kind", "").removesuffix("_iswa")
    version = f"b{build[0]}" if build else _CACHE_KINDS.get(kind, "")
    devices = [place for place in log.buffers if place != "host"]
    layers, every = log.count("layers") or 0, log.count("all_layers")
    alone = log.settings.get("shared") == "false"
    on, values = log.settings.get("fused", "auto"), log.settings.get("kv_values", "").lower()
    return {
        "engine": f"llama.cpp:{version}" if version else "llama.cpp",
        "pp": max(1, len(devices)),
        "n_ctx": log.count("context"),
        "n_batch": log.count("batch"),
        "max_batched_tokens": log.count("micro_batch"),
        # slots share the cells but where each has a stream of its own; four do so by default
        "max_sequences": log.count("slots") if alone else None if log.count("slots") == 4 else 1,
        "flash_attention": None if on == "auto" else on in ("1", "enabled", "true"),
        "kv_v": number_format(_CACHES.get(values, values)).name
        if values and values != log.settings.get("kv", "").lower()
        else None,
        "swa_full": "full_windows" in log.settings,
        "gpu_layers": layers if every and layers < every else None,
        "cpu_moe": log.count("cpu_moe"),
    }


def device_of(log: EngineLog) -> Accelerator:
    """The device that a log names; of one that is sold in several sizes, the smallest that has what the log saw."""
    if not log.device:
        raise LLMHWError("the log does not name its device; give device='RTX 3090' or whatever it is")
    seen = log.measured.get("visible") or log.measured.get("free", 0.0)
    sizes = [one for one in fitting(log.device) if one.memory_bytes >= 0.99 * seen] if seen else []
    return min(sizes, key=lambda one: one.memory_bytes) if sizes else accelerator(log.device)


@checked(log=None)
def compare(
    log: str | EngineLog, *, spec: ModelSpec | str | None = None, device: str | Accelerator | None = None, **asked: Any
) -> LogComparison:
    """A start-up log beside the prediction of the same start.

    log      the text of the log, or what `read_log` made of it
    spec     the model; default: by the name in the log, or by the metadata of a GGUF file
    device   default: as the log names it
    asked    fields of `ServingJob` that the log does not state, or states wrongly

    Raises `LLMHWError` for a text that is no such log, and where it does not say the model or the device.

    >>> found = compare("INFO 01-30 gpu_model_runner.py:848] Loading model weights took 14.9888 GB\\n"
    ...                 "INFO 01-30 kv_cache_utils.py:395] # GPU blocks: 24000", spec="llama-3.1-8b", device="h100")
    >>> round(found.rows["weights"].ratio, 3)
    0.998
    """
    read = log if isinstance(log, EngineLog) else read_log(log)
    found = _spec(read) if spec is None else model(spec) if isinstance(spec, str) else spec
    gpu = accelerator(device) if isinstance(device, str) else device or device_of(read)
    fields = _asked(read, found) | asked
    ranks = fields.get("tp", 1) * fields.get("pp", 1) * fields.get("attention_dp", 1)
    cluster = Cluster(gpu, max(ranks, 1), devices_per_node=max(ranks, 1))
    job = ServingJob(model=found, cluster=cluster, **fields)
    held = serving_memory(job, visible_bytes=read.measured.get("visible"))
    return LogComparison(read, held)


class Compared(NamedTuple):
    """One quantity of a log beside its prediction, in base units.

    error   |predicted / measured - 1| that nine of ten published logs keep to; None where none is known
    """

    quantity: str
    measured: float
    predicted: float
    unit: str
    error: float | None

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured if self.measured else float("inf")

    @property
    def off(self) -> bool:
        """Whether the two differ by more than the known error."""
        return abs(self.ratio - 1) > (0.1 if self.error is None else self.error)


# Quantity -> the entry of `calibration.json` that says how far predictions are from logs.
_RESIDUALS = {
    "KV cache": "kv-capacity, bytes",
    "tokens": "kv-capacity, tokens",
    "sequences": "kv-capacity, tokens",
}
_LLAMA_CPP = {"weights": "weights", "cache": "cache", "buffer": "compute"}


def _known_error(engine: str, quantity: str) -> float | None:
    """The 90th percentile over published logs; one in a hundred at least, as logs round."""
    last = quantity.split(" ")[-1]
    told = f"llama-cpp-memory, {_LLAMA_CPP.get(last)}" if engine == "llama.cpp" else _RESIDUALS.get(quantity, "")
    if (engine, quantity) == ("vllm", "weights"):  # SGLang counts what loading leaves behind, too
        told = "kv-capacity, weights"
    entry = read_calibration("serving_memory")["residuals"].get(told)
    return None if entry is None else max(0.01, float(entry["p90_abs_error"]))


def _more(name: str, difference: float) -> str:
    return f"{name} {format_quantity(abs(difference), 'bytes')} {'more' if difference > 0 else 'less'}"


@dataclass(frozen=True, repr=False)
class LogComparison(Report):
    """What `compare` found.

    log    what the log says
    held   the prediction of the same start
    """

    log: EngineLog
    held: ServingMemory

    @property
    def title(self) -> str:
        """The engine, its version, the model and the devices."""
        version = self.log.settings.get("version", "")
        return f"log of {self.log.engine} {version}".rstrip() + f": {self.held.title}"

    @cached_property
    def rows(self) -> dict[str, Compared]:
        """By quantity."""
        engine = self.log.engine
        made = self._llama_cpp() if engine == "llama.cpp" else self._paged()
        # a ratio says nothing of what is 0 or below
        rows = {n: Compared(n, *of, _known_error(engine, n) if of[0] > 0 else None) for n, of in made.items()}
        if engine != "llama.cpp" and (left := made.get("KV cache", (0.0,))[0]) > 0:
            # a cache is what is left over: of a small one, the same error of the rest is a larger share
            share = known_error("paged") * self.held.budget_bytes / left
            for name in ("KV cache", "tokens", "sequences"):
                if name in rows:
                    rows[name] = rows[name]._replace(error=max(share, rows[name].error or 0.0))
        return rows

    def _part(self, *names: str) -> float:
        """The largest sum of these parts over the stages."""
        return max(sum(float(p.value) for p in stage if p.name in names) for stage in self.held.stages)

    def _paged(self) -> dict[str, tuple[float, float, str]]:
        """What vLLM and SGLang print: bytes of the fullest device, tokens, requests of the longest length."""
        log, held = self.log.measured, self.held
        towers = {p.name for stage in held.stages for p in stage if p.name.endswith(" tower")}
        left = held.left_bytes[held.worst]
        expected = {
            "weights": (self._part("weights", *towers), "bytes"),
            "activations": (self._part("activations", "logits", "encoder outputs"), "bytes"),
            "outside the allocator": (self._part("engine"), "bytes"),
            "KV cache": (left, "bytes"),
            "CUDA graphs": (held.graphs_bytes or self._part("CUDA graphs"), "bytes"),
        }
        if "tokens" in log or "blocks" in log:
            expected |= {"tokens": (float(held.kv_tokens), "tokens"), "sequences": (held.at_once_exactly, "")}
        if "blocks of state" in log:
            expected["blocks of state"] = float(held.blocks), ""
        measured = dict(log)
        if "blocks" in log and "tokens" not in log:
            measured["tokens"] = log["blocks"] * held.job.page_tokens
        return {name: (measured[name], *expected[name]) for name in expected if name in measured}

    def _llama_cpp(self) -> dict[str, tuple[float, float, str]]:
        """What llama.cpp allocates: weights and cache in all, then the buffers of each device."""
        log, held, job = self.log, self.held, self.held.job
        host = llamacpp.host_memory(job, job.context_limit)
        away = {part.name: float(part.value) for part in host}
        parts = [{part.name: float(part.value) for part in stage} for stage in held.stages]
        for i, stage in enumerate(parts):
            stage["KV cache"] = held.cache_bytes(job.context_limit, i, sequences=job.max_sequences)
        places = dict(zip((name for name in log.buffers if name != "host"), parts, strict=False))
        places |= {"host": away} if "host" in log.buffers else {}
        found = {}
        for name in ("weights", "KV cache"):
            buffers = sum(place.get(name, 0.0) for place in log.buffers.values())
            measured = max(buffers, log.measured.get(name, 0.0))  # states of hybrids stand among the buffers alone
            found[name] = measured, sum(stage[name] for stage in parts) + away.get(name, 0.0), "bytes"
        for place, expected in places.items():
            for name in ("weights", "KV cache", "compute buffer"):
                key = "compute" if (place, name) == ("host", "compute buffer") else name
                found[f"{place} {name}"] = log.buffers[place].get(name, 0.0), expected.get(key, 0.0), "bytes"
        return {name: numbers for name, numbers in found.items() if numbers[0]}

    @property
    def verdict(self) -> str:
        """Whether the prediction agrees with the log, and by how much the worst quantity is off."""
        off = [row for row in self.rows.values() if row.off and row.error is not None]
        if self.log.refused:
            fits = self.held.fits
            agreed = "the prediction says that it fits" if fits else "so does the prediction"
            return f"The engine did not start; {agreed}: {self.held.verdict}"
        if not off:
            return "The prediction agrees with the log, within its known error."
        worst = max(off, key=lambda row: abs(row.ratio - 1))
        if worst.predicted <= 0:
            return f"The prediction differs from the log: it leaves no {worst.quantity}."
        return f"The prediction differs from the log: {worst.quantity} by {100 * (worst.ratio - 1):+.1f} %."

    def warnings(self) -> list[str]:
        """What the engine said, what differs, and what was assumed where the log is silent."""
        found = [f"the log says: {self.log.refused}"] if self.log.refused else []
        for row in self.rows.values():
            if row.off and row.error is not None:
                error = format_quantity(row.error, "fraction")
                off = f"{row.quantity} differs by {100 * (row.ratio - 1):+.1f} %"
                found.append(f"{off}; nine of ten logs keep to {error}")
        if gap := self._gap():
            found.append(gap)
        held = self.rows.get("weights")
        if (bits := finite(self.log.settings.get("bits", ""))) and held and held.off:
            named = f"{self.held.job.weights} of this model {bits * held.ratio:.2f}"
            found.append(f"the file has {bits} bits a weight, {named}: it is another mix")
        if self.log.settings.get("drafts"):
            found.append("the log has speculative decoding: the weights and the cache of its drafts are not predicted")
        method = self.log.settings.get("quantization", "")
        if method and not self.held.job.was_asked("weights") and not self.held.job.model.quantization:
            found.append(f"quantization={method} does not say the format of the weights; give weights=")
        return [*found, *self.held.warnings()]

    def _gap(self) -> str:
        """What a difference of the caches is made of."""
        row = self.rows.get("KV cache")
        if row is None or not row.off or self.log.engine == "llama.cpp":
            return ""
        parts = [r for r in self.rows.values() if r.unit == "bytes" and r.quantity not in ("KV cache", "CUDA graphs")]
        made = [_more(r.quantity, r.measured - r.predicted) for r in parts]
        return f"in the log, {', '.join(made)} than predicted" if made else ""

    def records(self) -> list[dict[str, Any]]:
        """Quantity, measured, predicted, ratio and known error, in base units."""
        return [row._asdict() | {"ratio": row.ratio} for row in self.rows.values()]

    index = "quantity"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers in base units."""
        return {
            "engine": self.log.engine,
            "version": self.log.settings.get("version", ""),
            **self.held.identity(),
            "verdict": self.verdict,
            "refused": self.log.refused,
            "rows": self.records(),
            "warnings": self.warnings(),
        }

    def to_row(self) -> dict[str, Any]:
        """One flat row."""
        told = {name: value for name, value in self.to_dict().items() if name not in ("rows", "warnings")}
        for row in self.rows.values():
            key = row.quantity.replace(" ", "_")
            told |= {f"{key}_measured": row.measured, f"{key}_predicted": row.predicted}
        return told

    def text_rows(self) -> list[tuple[str, str, str, str]]:
        """The same as text."""
        found = []
        for row in self.rows.values():
            measured, predicted = format_range((row.measured, row.predicted), row.unit)
            found.append((row.quantity, measured, predicted, f"{row.ratio:.3f}" if row.measured else "-"))
        return found

    def tables(self) -> list[Table]:
        return [Table(self.title, ("quantity", "log", "predicted", "ratio"), self.text_rows())]


def read(path: str | PathLike[str]) -> EngineLog:
    """The log in a file; "-" is standard input.

    UTF-8 with whatever stands between, or UTF-16 with its mark, as PowerShell writes it.
    """
    from llmhw.files import read_text

    way_out = "give a file with the log of vLLM, SGLang or llama.cpp"
    return read_log(read_text(path, argument="log", limit=MOST_BYTES, way_out=way_out, strict=False))
