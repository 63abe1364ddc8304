"""Engines that serve: where each runs, what it reads, what it takes unless told otherwise.

The facts are one row an engine in `catalog/engines.csv`, and what a version or a device changes of its defaults one row
in `catalog/engine_defaults.csv`, with sources.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from llmhw.checks import check_text
from llmhw.formula import formula
from llmhw.hardware import Accelerator
from llmhw.model import ModelSpec
from llmhw.precision import CHECKPOINT, NumberFormat, checkpoint_name, format_label, formats_in, number_format
from llmhw.units import GIB, LLMHWError, maximum, unknown_name, where


@dataclass(frozen=True, slots=True)
class ServingEngine:
    """One engine. Get it with `serving_engine(name)`; `on` has the defaults that it has on a device.

    vendors              of the devices that it runs on, less the architectures `without`
    weights, kv          names of formats that it reads; "gguf", "exl2" and "exl3" stand for all of these. The cache may
                         be in 16 bit, too
    weight_only          formats that it expands on architectures, or devices of vendors, that do not multiply them
    default_weights      what it takes where no format is asked for; "": the checkpoint's own, else 16 bit
    split                how it deals a model to devices: tensor or layers
    utilization          share of a device that it sets aside; 1: it allocates what it needs; 0: it follows the device
    share_of             of what that is a share: the device, what is free at the start, or the rest beside the model
    max_sequences, max_batched_tokens   at a time, in a forward pass; 0: as many as are asked for, and the whole prompt
    whole_up_to          longest sequence whose prompts are not cut: a batch then has room for one; 0: all are cut
    graphs               CUDA graphs: outside of its share, inside, or inside as an extrapolation that is larger than
                         they are; "": it makes none
    sampler              how its profile draws a token for every sequence: sorted, or fused without a sort; "": no
    graph_batch          sequences of the largest graph; 0: not known
    counts_context       whether its profile takes the CUDA context off the cache
    pools                whether layers of several kinds share a pool of pages, and how its log counts tokens: split,
                         blocks over groups, or whole, requests x their length; "": each layer has its own
    state_pages          pages of a recurrent state that a sequence holds, for each group of such layers
    prompt_logits        whether its warm-up makes the logits of a whole prompt
    expert_tiles         multiples that it fills the inner and the hidden size of an MXFP4 expert up to
    refuses_states       whether it refuses more sequences than there are pages for recurrent states
    context              tokens of a sequence where nobody says; 0: the model's longest, or what fits
    flash                whether attention is fused where nobody says
    windows              layers whose cache is cut to their window: "all" that have one; "mixed": in models that have
                         layers without one, too; "none"
    latent               what is cached of latent attention: "one" latent, as keys and in part as values ("both"), or
                         keys and values of all "heads"
    streams              whether a token attends to the cells of its slot alone; else to those of all
    head_first           whether the head is the first of the layers that -ngl moves to a device; else the last
    staged               hidden states in the buffer that devices read from host memory
    sharing              slots that share the cells of one, where nobody says how many there are
    page_size            tokens of a page of its cache; 1 with `paged` False: one block a sequence
    refuses_longer       whether it does not start where a sequence of the longest length does not fit
    constants            of `calibration.json`, its own or those of the engine that it `borrows` from
    measured_as          how measurements begin its name
    """

    name: str
    aliases: tuple[str, ...]
    vendors: tuple[str, ...]
    without: tuple[str, ...]
    weights: tuple[str, ...]
    weight_only: tuple[str, ...]
    kv: tuple[str, ...]
    default_weights: str
    split: str
    utilization: float
    max_sequences: int
    max_batched_tokens: int
    page_size: int
    refuses_longer: bool
    constants: str
    borrows: str
    measured_as: str
    source: str
    note: str
    version: str = ""
    share_of: str = "device"
    whole_up_to: int = 0
    graphs: str = ""
    sampler: str = ""
    graph_batch: int = 0
    counts_context: bool = False
    pools: str = ""
    state_pages: int = 0
    prompt_logits: bool = False
    expert_tiles: tuple[int, int] = (1, 1)
    refuses_states: bool = False
    context: int = 0
    flash: bool = True
    windows: str = "all"
    latent: str = "one"
    sharing: int = 1
    streams: bool = False
    staged: int = 1
    head_first: bool = False

    def on(self, device: Accelerator, ranks: int = 1) -> ServingEngine:
        """The engine with the defaults that it has on a device, where a model is cut over so many ranks.

        >>> from llmhw import accelerator
        >>> [serving_engine("vllm").on(accelerator(name)).max_sequences for name in ("h100", "rtx 3090")]
        [1024, 256]
        >>> serving_engine("sglang").on(accelerator("h100"), 4).utilization
        0.824
        """
        return _on(self.name, self.version, device.name, device.architecture, device.memory_bytes, ranks)

    @property
    def paged(self) -> bool:
        """Whether it shares a pool of pages out; else each sequence has a block for the longest one."""
        return self.utilization < 1

    @property
    def cells(self) -> bool:
        """Whether it is llama.cpp or built on it: cells for every slot are allocated when it starts."""
        return self.weights[0] == "gguf"

    @property
    def rows_in_host(self) -> bool:
        """Whether rows of the token embedding are read in host memory."""
        return self.cells or self.name.startswith("exllama")

    def runs_on(self, device: Accelerator) -> bool:
        """Whether there is a build for the device; one of unknown vendor is taken for such."""
        return (not device.vendor or device.vendor in self.vendors) and not device.architecture.startswith(
            self.without or ("-",)
        )

    def reads(self, fmt: NumberFormat) -> bool:
        """Whether it reads weights in this format."""
        method = "gguf" if fmt.kind == "gguf" else fmt.name.partition("-")[0]  # exl2-4.65bit
        return not {fmt.name, fmt.like, method}.isdisjoint(self.weights)

    def caches(self, name: str) -> bool:
        """Whether it keeps the cache in this format."""
        return name in ("bf16", "fp16", *self.kv)

    def expands(self, device: Accelerator, fmt: NumberFormat) -> bool | None:
        """Whether weights are expanded to 16 bit since the device does not multiply them; None: it cannot run them."""
        if fmt.kind == "gguf" or self.weights[0] == "gguf":  # GGUF's kernels run everywhere
            return False
        if fmt.bits >= 16:
            return False if fmt.compute in device.peaks else None
        if fmt.compute in device.peaks or fmt.compute in ("fp16", "bf16"):
            return False
        place = (device.vendor, device.architecture.split(" ")[0].split("+")[0])
        for entry in self.weight_only:
            name, _, words = entry.partition(":")
            if name in (fmt.name, fmt.like) and set(words.split("+")) & set(place):
                return True
        return None


@cache
def _engines() -> dict[str, ServingEngine]:
    from llmhw.catalog import read_table

    def names(cell: str) -> tuple[str, ...]:
        return tuple(cell.split(";")) if cell else ()

    lists = ("aliases", "vendors", "without", "weights", "weight_only", "kv")
    counts = ("max_sequences", "max_batched_tokens", "page_size")
    found = {}
    for row in read_table("engines"):
        values: dict[str, Any] = dict(row)
        values |= {name: names(row[name]) for name in lists} | {name: int(row[name] or 0) for name in counts}
        values |= {"utilization": float(row["utilization"] or 0), "refuses_longer": row["refuses_longer"] == "yes"}
        found[row["name"]] = ServingEngine(**values)
    return found


@formula(source="SGLang: ServerArgs._handle_gpu_memory_settings", unit="share of the device")
def static_share(*, memory: Any, chunk: Any, graph_batch: Any, ranks: Any) -> Any:
    """SGLang's share for weights and cache (mem_fraction_static), where nobody says it.

    memory        of the device, GiB
    chunk         tokens of a part of a prompt, in units of 1,024: 1.5 GiB each
    graph_batch   sequences of the largest CUDA graph: 2 MiB each
    ranks         that a model is cut over

    >>> round(static_share(memory=24564 / 1024, chunk=2, graph_batch=24, ranks=1), 3)
    0.847
    """
    kept = 0.5 + 1.5 * maximum(chunk, 2) + graph_batch / 512 + ranks / 8
    return 1 - maximum(kept, where(memory > 60, 10, 0)) / memory


@cache
def _defaults(engine: str) -> tuple[dict[str, str], ...]:
    from llmhw.catalog import read_table

    return tuple(row for row in read_table("engine_defaults") if row["engine"] == engine)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


@lru_cache(maxsize=1024)
def _on(name: str, version: str, device: str, architecture: str, memory: int, ranks: int) -> ServingEngine:
    """The rows of the table that hold, one over the other; without a version, the newest."""
    engine, newest = _engines()[name], not version
    values: dict[str, Any] = {"version": version}
    for row in _defaults(name):
        holds = newest or _numbers(row["since"]) <= _numbers(version)
        holds &= memory >= float(row["least_gib"] or 0) * GIB and ranks >= int(row["least_ranks"] or 0)
        holds &= not row["only"] or architecture.startswith(tuple(row["only"].split(";")))
        if holds and not (row["other_than"] and row["other_than"] in device):
            values |= {field: row[field] for field in _KINDS if row[field]}
    found = {field: _KINDS[field](value) if field in _KINDS else value for field, value in values.items()}
    engine = replace(engine, **found)
    if engine.utilization or not memory:
        return engine
    sizes: dict[str, Any] = {
        "chunk": engine.max_batched_tokens / 1024,
        "graph_batch": engine.graph_batch,
        "ranks": ranks,
    }
    return replace(engine, utilization=round(static_share(memory=memory / GIB, **sizes), 3))


_KINDS: dict[str, Any] = {
    "share_of": str,
    "utilization": lambda text: 0.0 if text == "computed" else float(text),
    **dict.fromkeys(
        (
            "max_sequences",
            "max_batched_tokens",
            "whole_up_to",
            "graph_batch",
            "state_pages",
            "context",
            "sharing",
            "staged",
        ),
        int,
    ),
    **dict.fromkeys(("graphs", "sampler", "pools", "windows", "latent", "constants"), str),
    "expert_tiles": lambda text: tuple(map(int, text.split("x"))),
    **dict.fromkeys(
        ("counts_context", "refuses_states", "prompt_logits", "flash", "streams", "head_first"),
        lambda text: text == "yes",
    ),
}


def engine_names() -> tuple[str, ...]:
    """The engines, in the order of the catalog.

    >>> engine_names()[:4]
    ('vllm', 'tensorrt-llm', 'tensorrt-llm-pytorch', 'sglang')
    """
    return tuple(_engines())


def serving_engine(name: str) -> ServingEngine:
    """The engine of that name or alias, of its newest version or of one that is named; case does not matter.

    name   as in vllm or vllm:0.9.2

    Its defaults are those of a small device; `ServingEngine.on` has those of a device.

    >>> serving_engine("vLLM").name, serving_engine("llama.cpp").max_batched_tokens
    ('vllm', 512)
    >>> serving_engine("vllm:0.9.2").utilization, serving_engine("vllm").utilization
    (0.9, 0.92)
    """
    return _named(name if type(name) is str and name in _engines() else check_text("engine", name))


@lru_cache(maxsize=1024)
def _named(name: str) -> ServingEngine:
    word, colon, version = name.casefold().partition(":")
    if colon and not re.fullmatch(r"[bv]?\d+(\.\d+)*([.+-]?\w+)*", version):
        raise LLMHWError(f"engine={name!r}: the version must be numbers with dots between, as in {word}:0.9.2")
    for one in _engines().values():
        if word in (one.name, *one.aliases):
            return _on(one.name, version.removeprefix("v"), "", "", 0, 1)
    raise unknown_name("engine", name, _engines())


def default_engine(device: Accelerator, fmt: NumberFormat) -> ServingEngine:
    """What serves where nobody says: vllm where it runs and the weights are no GGUF file, else llama.cpp.

    Files of MLX and of ExLlama are read by these alone.
    """
    first, second = serving_engine("vllm"), serving_engine("llama.cpp")
    if not (first.reads(fmt) or second.reads(fmt)):
        for name in ("mlx", "exllamav2", "exllamav3"):
            if serving_engine(name).runs_on(device) and serving_engine(name).reads(fmt):
                return serving_engine(name)
    return first if first.runs_on(device) and fmt.kind != "gguf" else second


def default_weights(engine: ServingEngine, device: Accelerator, spec: ModelSpec) -> str:
    """The format of weights where nobody says: the checkpoint's own, what the engine takes, else 16 bit.

    A checkpoint in fp32 is loaded in 16 bit by all engines but transformers.

    >>> from llmhw import accelerator, model
    >>> default_weights(serving_engine("vllm"), accelerator("h100"), model("gpt-oss-20b"))
    'mxfp4'
    """
    own = checkpoint_name(spec) if spec.checkpoint.quantized else ""
    if engine.cells and own == "mxfp4":  # GGUF files keep the experts as they are, and the rest in 8 bit
        own = "MXFP4_MOE"
    wide = spec.checkpoint.wide.name
    if wide == "fp32" and engine.name != "transformers":
        wide = "bf16"
    for name in (own, engine.default_weights, wide, "bf16", "fp16", "fp32"):
        if name and all(runs(engine, device, fmt) for fmt in formats_in(spec, name)):
            return name
    return "bf16"


def runs(engine: ServingEngine, device: Accelerator, fmt: NumberFormat) -> bool:
    """Whether an engine reads weights in this format and multiplies or expands them on the device."""
    return engine.reads(fmt) and engine.expands(device, fmt) is not None


def default_cache(engine: ServingEngine, device: Accelerator, spec: ModelSpec, weights: str) -> str:
    """The format of the cache where nobody says: the one that the checkpoint has scales for, else 16 bit.

    weights   what the engine loads; in another format than the checkpoint's, the scales are not there
    """
    half = "bf16" if "bf16" in device.peaks else "fp16"
    if weights not in _own(spec):
        return half
    return spec.checkpoint.kv if spec.checkpoint.kv and engine.caches(spec.checkpoint.kv) else half


@lru_cache(maxsize=64)
def _own(spec: ModelSpec) -> tuple[str, ...]:
    """The names of the checkpoint's own format; none where its method is not known."""
    try:
        return (CHECKPOINT, checkpoint_name(spec))
    except LLMHWError:
        return ()


def check_engine(engine: ServingEngine, device: Accelerator, spec: ModelSpec, weights: str, kv: str) -> None:
    """Refuse an engine on a device, or formats, that it does not run; says which do."""
    for fmt in formats_in(spec, weights):
        _check_format(engine, device, fmt, format_label(spec, weights))
    if not engine.caches(kv):
        known = dict.fromkeys(("bf16", "fp16", *engine.kv))
        raise LLMHWError(f"kv={kv!r} is not a cache of {engine.name}; use {', '.join(known)}")


def _check_format(engine: ServingEngine, device: Accelerator, fmt: NumberFormat, weights: str) -> None:
    """The same for one format of the weights; `weights`: what it is called in the error."""
    if not engine.runs_on(device):
        fitting = [one.name for one in _engines().values() if one.runs_on(device)]
        way = f"use engine={' or '.join(map(repr, fitting))}" if fitting else "no engine of the catalog does"
        raise LLMHWError(f"engine={engine.name!r} does not run on {device.name}; {way}")
    if not engine.reads(fmt):
        others = [one.name for one in _engines().values() if one.runs_on(device) and one.reads(fmt)]
        way = f"; engines that do: {', '.join(others)}" if others else ""
        raise LLMHWError(f"weights={weights!r} is not read by {engine.name}, which reads {_some(engine.weights)}{way}")
    if engine.expands(device, fmt) is None:
        fitting = [n for n in engine.weights if n != "gguf" and engine.expands(device, number_format(n)) is not None]
        raise LLMHWError(
            f"weights={weights!r}: {device.name} does not multiply {fmt.compute}, and {engine.name} does not expand it "
            f"there; use {_some(fitting)}"
        )


def _some(names: tuple[str, ...] | list[str]) -> str:
    shown = [name for name in names if "-g" not in name]
    return ", ".join(shown)
