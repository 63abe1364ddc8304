"""Engines that serve: where each runs, what it reads, what it takes unless told otherwise.

The facts are one row an engine in `catalog/engines.csv`, with sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from llmhw.checks import check_text
from llmhw.hardware import Accelerator
from llmhw.model import ModelSpec
from llmhw.precision import CHECKPOINT, NumberFormat, checkpoint_name, format_label, formats_in, number_format
from llmhw.units import LLMHWError, unknown_name


@dataclass(frozen=True, slots=True)
class ServingEngine:
    """One engine. Get it with `serving_engine(name)`.

    vendors              of the devices that it runs on, less the architectures `without`
    weights, kv          names of formats that it reads; "gguf" stands for all of these. The cache may be in 16 bit, too
    weight_only          formats that it expands on architectures, or devices of vendors, that do not multiply them
    default_weights      what it takes where no format is asked for; "": the checkpoint's own, else 16 bit
    split                how it deals a model to devices: tensor or layers
    utilization          share of a device that it sets aside; 1: it allocates what it needs
    max_sequences, max_batched_tokens   at a time, in a forward pass; 0: as many as are asked for, and the whole prompt
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

    @property
    def paged(self) -> bool:
        """Whether it shares a pool of pages out; else each sequence has a block for the longest one."""
        return self.utilization < 1

    @property
    def cells(self) -> bool:
        """Whether it is llama.cpp or built on it: cells for every slot are allocated when it starts."""
        return self.weights[0] == "gguf"

    def runs_on(self, device: Accelerator) -> bool:
        """Whether there is a build for the device; one of unknown vendor is taken for such."""
        return (not device.vendor or device.vendor in self.vendors) and not device.architecture.startswith(
            self.without or ("-",)
        )

    def reads(self, fmt: NumberFormat) -> bool:
        """Whether it reads weights in this format."""
        return fmt.name in self.weights or fmt.like in self.weights or (fmt.kind == "gguf" and "gguf" in self.weights)

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
        values |= {"utilization": float(row["utilization"]), "refuses_longer": row["refuses_longer"] == "yes"}
        found[row["name"]] = ServingEngine(**values)
    return found


def engine_names() -> tuple[str, ...]:
    """The engines, in the order of the catalog.

    >>> engine_names()
    ('vllm', 'tensorrt-llm', 'sglang', 'transformers', 'llama.cpp', 'litgpt')
    """
    return tuple(_engines())


def serving_engine(name: str) -> ServingEngine:
    """The engine of that name or alias; case does not matter.

    >>> serving_engine("vLLM").name, serving_engine("llama.cpp").max_batched_tokens
    ('vllm', 512)
    """
    word = check_text("engine", name).casefold()
    for one in _engines().values():
        if word in (one.name, *one.aliases):
            return one
    raise unknown_name("engine", name, _engines())


def default_engine(device: Accelerator, fmt: NumberFormat) -> ServingEngine:
    """What serves where nobody says: vllm where it runs and the weights are no GGUF file, else llama.cpp."""
    first, second = serving_engine("vllm"), serving_engine("llama.cpp")
    return first if first.runs_on(device) and fmt.kind != "gguf" else second


def default_weights(engine: ServingEngine, device: Accelerator, spec: ModelSpec) -> str:
    """The format of weights where nobody says: the checkpoint's own, what the engine takes, else 16 bit.

    A checkpoint in fp32 is loaded in 16 bit by all engines but transformers.

    >>> from llmhw import accelerator, model
    >>> default_weights(serving_engine("vllm"), accelerator("h100"), model("gpt-oss-20b"))
    'mxfp4'
    """
    own = checkpoint_name(spec) if spec.checkpoint.quantized else ""
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
