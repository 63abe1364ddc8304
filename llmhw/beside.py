"""What a pass takes beside the model on its devices: LoRA adapters, and weights or a cache in host memory.

`Laden` is an `llmhw.engine.Engine` whose passes count these, too; without any, it takes as long as a plain one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any

from llmhw.engine import Engine, experts_touched, formats_of
from llmhw.formula import Ledger, formula
from llmhw.hardware import Accelerator, Cluster
from llmhw.host import Host, host_of, host_read_seconds
from llmhw.job import ServingJob, in_host
from llmhw.llamacpp import layers_on
from llmhw.memory import kv_cache, lora_tensors
from llmhw.model import Layer, ModelSpec
from llmhw.precision import component_formats, formats_in
from llmhw.rates import serving_constants
from llmhw.units import LLMHWError, any_of, format_quantity, maximum, share


@formula(
    source="Punica (Chen et al. 2023), S-LoRA (Sheng et al. 2023): one kernel into the rank, one out of it",
    unit="seconds",
)
def adapter_seconds(
    *,
    tokens: Any,
    adapters: Any,
    rank: Any,
    in_features: Any,
    out_features: Any,
    matrices: Any = 1,
    flops_per_second: Any,
    bandwidth_bytes_per_second: Any,
    gap_seconds: Any = 0,
) -> Any:
    """Time of the two small products that adapters add to a matrix product, in 16 bit.

    tokens, adapters   of the batch, and how many adapters these use: each of them is read once
    matrices           that share the two kernels, such as q, k and v; out_features of all together
    gap_seconds        of a kernel

    >>> sizes = {"tokens": 32, "adapters": 8, "rank": 16, "in_features": 4096, "out_features": 4096}
    >>> speed = {"flops_per_second": 8e14, "bandwidth_bytes_per_second": 3e12, "gap_seconds": 3e-6}
    >>> round(1e6 * adapter_seconds(**sizes, **speed), 1)
    7.0
    """
    elements = rank * (matrices * in_features + out_features)
    read = adapters * elements + tokens * (in_features + 2 * matrices * rank + 2 * out_features)
    work = 2 * tokens * elements
    return maximum(2 * read / bandwidth_bytes_per_second, work / flops_per_second) + 2 * gap_seconds


@formula(source="a tensor's elements, of experts those that the batch touches", unit="bytes")
def away_bytes(*, elements: Any, bytes_per_element: Any, touched: Any = 1, ranks: Any = 1) -> Any:
    """Weights in host memory that a pass needs on one device.

    touched   share of the experts that are read

    >>> away_bytes(elements=1e9, bytes_per_element=2, ranks=2)
    1000000000.0
    """
    return elements * bytes_per_element * touched / ranks


# Rows of a matrix from which llama.cpp copies it to the device and multiplies there (GGML_OP_OFFLOAD_MIN_BATCH).
COPIED_FROM = 32
# What one product computes, and its adapters' two kernels.
_TOGETHER = {"q": "q, k and v", "k": "q, k and v", "v": "q, k and v", "gate": "gate and up", "up": "gate and up"}
# Seconds in which the hidden states change sides once: a copy, and the wait for it. [inferred] cudaMemcpyAsync with a
# synchronization behind it takes 10 to 20 us in NVIDIA's samples.
_CROSSING = 2e-5
# Seconds in which the threads of a processor wait for each other behind an operation; [inferred] nothing is launched.
_BARRIER = 2e-6


def host_words(job: ServingJob) -> list[str]:
    """What is assumed of the host, if it has a part in the answer, in words."""
    if not in_host(job):
        return []
    found = host_of(job.cluster.accelerator, job.host)
    rates = (found.link_bytes_per_second, found.cpu.memory_bandwidth_bytes_per_second)
    link, memory = (format_quantity(rate, "bytes/s") for rate in rates)
    computes = job.gpu_layers is not None or job.cpu_moe
    how = "its processor computes what it holds" if computes else "devices read it in every pass"
    asked = "" if job.host is not None else f"host={found.cpu.name!r} assumed; "
    return [f"{asked}the host's memory gives {memory}, the link to each device {link}; {how}"]


@dataclass(frozen=True)
class Laden(Engine):
    """An engine whose devices hold adapters, or whose host holds a share of the weights or of the cache.

    adapters, rank, targets   LoRA: how many, of which rank, at which matrices; requests use them alike
    host                where the rest is
    weight_offload      share of the weights in host memory
    kv_offload          share of the cache there
    host_layers         the first layers, which lie there whole; all and the head, where they are more than there are
    expert_layers       the first layers whose experts alone are there, those among them
    computes            the host's processor multiplies what it holds, unless a pass has many tokens (llama.cpp); else
                        the device reads it in every pass (vLLM)
    software            constants of that processor
    """

    adapters: int = 0
    rank: int = 0
    targets: str = "all-linear"
    host: Host | None = None
    weight_offload: float = 0.0
    kv_offload: float = 0.0
    host_layers: int = 0
    expert_layers: int = 0
    computes: bool = False
    software: str = "llama-cpp"

    def timed(self, **load: Any) -> Ledger:
        """Time of one pass, by part: that of the model, "adapters", and "host memory"."""
        tokens = load.get("prompts", 0) * load.get("prompt_tokens", 0) + load.get("decoding", 0)
        if not any_of(tokens):
            return super().timed(**load)
        shared = self.computes and bool(self.host_layers or self.expert_layers)
        if shared and not isinstance(tokens, (int, float)):
            raise LLMHWError(
                f"gpu_layers, cpu_moe: {self.host_layers} and {self.expert_layers} layers in host memory; a search "
                "shares no passes with the host's processor: ask serve(job) about this one"
            )
        shared = shared and tokens < self._copied_from
        found = self._shared_out(load) if shared else super().timed(**load)
        if self.host is not None and not shared:
            self._weights_come(found, tokens)
        if self.host is not None and self.kv_offload:
            self._cache_comes(found, load)
        if self.adapters:
            self._adapted(found, tokens, load.get("prompts", 0) + load.get("decoding", 0))
        return found

    # -- adapters

    def _adapted(self, ledger: Ledger, tokens: Any, sequences: Any) -> None:
        """Of every group of matrices that one product computes, both small products."""
        behind = Ledger(ledger.detail)
        given = {"experts": self.adapters, "used": 1, "tokens": sequences}
        used = behind.add("", "adapters of the batch", experts_touched, **given)
        speed = {"flops_per_second": self.wide, "bandwidth_bytes_per_second": self.bandwidth}
        for name, (sizes, count) in self._small_products.items():
            given = {"tokens": tokens, "adapters": used, "gap_seconds": self.constants.gap}
            ledger.add("adapters", name, adapter_seconds, count, **given, **sizes, **speed, because=behind)

    @cached_property
    def _small_products(self) -> dict[str, tuple[dict[str, Any], int]]:
        """Sizes of the adapters at each product, and how many layers have it; q, k and v are one product."""
        added = lora_tensors(self.spec, rank=self.rank, targets=self.targets)
        found: dict[str, tuple[dict[str, Any], int]] = {}
        seen: set[str] = set()
        kind = 0
        for (a, count), (b, _) in zip(added[::2], added[1::2], strict=True):
            if a.name in seen:  # the next kind of layer begins
                seen, kind = set(), kind + 1
            seen.add(a.name)
            inside = share(a.shape[1], self.ranks if a.split == "row" else 1)
            outside = share(b.shape[0], self.ranks if b.split == "column" else 1)
            name = _TOGETHER.get(b.part, b.name.removesuffix(".lora_B.weight"))
            label = f"{name} of layers of kind {kind}" if kind else name
            known, _ = found.get(label, ({"matrices": 0, "out_features": 0}, 0))
            sizes = {"matrices": known["matrices"] + 1, "out_features": known["out_features"] + outside}
            found[label] = {"rank": self.rank, "in_features": inside} | sizes, count
        return found

    # -- host memory

    def _weights_come(self, ledger: Ledger, tokens: Any) -> None:
        """The device reads what it needs of the weights in host memory; the head is one of them."""
        for (kind, part, away, experts), elements in self._away.items():
            behind = Ledger(ledger.detail)
            touched: Any = 1
            if experts:
                given = {"experts": experts[0], "used": experts[1], "tokens": tokens}
                touched = behind.add("", "experts of all ranks", experts_touched, **given) / experts[0]
            sizes = {"elements": away * elements, "bytes_per_element": self.stored[kind, part].weight_bytes}
            moved = behind.add("", "weights of a device", away_bytes, **sizes, touched=touched, ranks=self.tp)
            self._come(ledger, f"{part} in host memory", moved, behind)

    def _come(self, ledger: Ledger, label: str, moved: Any, behind: Ledger) -> None:
        assert self.host is not None
        speed = {
            "link_bytes_per_second": self.host.link_bytes_per_second,
            "host_bytes_per_second": self.host.cpu.memory_bandwidth_bytes_per_second,
            "devices": self.tp,
        }
        ledger.add("host memory", label, host_read_seconds, memory_bytes=moved, **speed, because=behind)

    @cached_property
    def _away(self) -> dict[tuple[int, str, float, tuple[int, int] | None], float]:
        """Elements of every layer kind and component, with the share in host memory; of experts, how many and used."""
        sums: dict[tuple[int, str, float, tuple[int, int] | None], float] = {}
        kinds = [(k, t, n) for k, (layer, n) in enumerate(self.spec.layer_kinds) for t in layer.tensors if t.is_linear]
        heads = ("tokens", "head") if self.spec.tied else ("head",)
        layers = self.spec.num_layers
        for kind, t, count in (*kinds, *((-1, t, 1) for t in self.spec.tensors if t.part in heads)):
            routed = t.experts > 1
            first = max(self.host_layers, self.expert_layers if routed else 0)
            away = self.weight_offload or (first > layers if kind < 0 else min(1.0, first / layers))
            if away:
                key = (kind, t.component if kind >= 0 else "head", away, (t.experts, t.used) if routed else None)
                sums[key] = sums.get(key, 0) + count * t.numel
        return sums

    def _cache_comes(self, ledger: Ledger, load: dict[str, Any]) -> None:
        """Decoding reads a share of its cache from the host; a prompt writes as much, and reads what is before it."""
        tokens = round(load.get("context", 0)), round(load.get("past", 0) + load.get("prompt_tokens", 0))
        each = [_cached_bytes(self.spec, n, self.kv) if n else 0.0 for n in tokens]
        elements = load.get("decoding", 0) * each[0] + load.get("prompts", 0) * each[1]
        behind = Ledger(ledger.detail)
        ranks = {"elements": self.kv_offload * elements, "bytes_per_element": 1, "ranks": self.tp}
        self._come(ledger, "keys and values", behind.add("", "cache of a device", away_bytes, **ranks), behind)

    # -- the host's processor

    @property
    def _copied_from(self) -> float:
        """Tokens of a pass from which the device computes it all; of experts, each has a part of them."""
        routed = [t.experts / t.used for layer, _ in self.spec.layer_kinds for t in layer.tensors if t.experts > 1]
        return COPIED_FROM * (1 if self.host_layers else max(routed, default=1))

    def _shared_out(self, load: dict[str, Any]) -> Ledger:
        """A pass of few tokens: each side computes its layers or experts, and hidden states change sides between."""
        near, far, crossings = self._sides
        found = near.timed(**load)
        if far is not None:
            whole = far.timed(**load | {"detail": by_part(found.detail)})
            behind = whole.without({"scheduling", "waiting for the host"})
            found.merge(behind, part="host memory")
            found.add("host memory", "sides change", crossing_seconds, crossings, seconds=_CROSSING)
        return found

    @cached_property
    def _sides(self) -> tuple[Engine, Engine | None, int]:
        """The engine of the device, that of the processor, and how often a pass changes sides."""
        assert self.host is not None
        layers, spec = self.spec.layers, self.spec
        whole = min(self.host_layers, len(layers))
        experts = range(whole, min(len(layers), self.expert_layers))
        heads = ((), spec.tensors) if self.host_layers > len(layers) else (spec.tensors, ())
        near = [
            (layers[i], _without(layers[i], True) if i in experts else layers[i]) for i in range(whole, len(layers))
        ]
        far = [(layers[i], layers[i] if i < whole else _without(layers[i], False)) for i in (*range(whole), *experts)]
        far = [(old, new) for old, new in far if new.tensors]
        plain = {f.name: getattr(self, f.name) for f in fields(Engine)}
        device = Engine(**plain | self._part(near, heads[0], self.device, self.constants))
        if not far:
            return device, None, 0
        cpu = self.host.cpu
        c = replace(serving_constants(cpu, self.software), gap=_BARRIER)
        own = {"cluster": Cluster(cpu, 1), "constants": c, "tp": 1, "pp": 1, "attention_dp": False, "ep": 1}
        return device, Engine(**plain | own | self._part(far, heads[1], cpu, c)), 2 * len(experts) + bool(whole)

    def _part(self, layers: list[tuple[Layer, Layer]], outside: Any, device: Accelerator, c: Any) -> dict[str, Any]:
        """The model of one side, in the formats that its tensors have in the whole model."""
        new: dict[int, Layer] = {}  # one object for equal layers, as everywhere
        made = tuple(new.setdefault(id(old), layer) for old, layer in layers)
        spec = replace(self.spec, layers=made, tensors=tuple(outside), mtp_tensors=(), towers=())
        numbers = {id(new[id(layer)]): i for i, (layer, _) in enumerate(self.spec.layer_kinds) if id(layer) in new}
        found = component_formats(self.spec, self.weights)
        kinds = [(i, numbers[id(layer)]) for i, (layer, _) in enumerate(spec.layer_kinds)]
        many = {(i, part): fmt for i, number in kinds for (kind, part), fmt in found.items() if kind == number}
        many |= {key: fmt for key, fmt in found.items() if key[0] == -1}
        many[-1, ""] = formats_in(self.spec, self.weights)[0]
        many.setdefault((-1, "head"), many[-1, ""])
        return {"spec": spec, "many": {key: formats_of(device, c, fmt, self.kv) for key, fmt in many.items()}}


@formula(source="a copy of the hidden states and the wait for it", unit="seconds")
def crossing_seconds(*, seconds: Any) -> Any:
    """Time in which a pass goes from the device to the host's processor, or back.

    >>> crossing_seconds(seconds=2e-5)
    2e-05
    """
    return seconds


def by_part(detail: str) -> str:
    """The detail of a ledger some of whose parts are left out."""
    return "parts" if detail == "totals" else detail


@lru_cache(maxsize=1024)
def _cached_bytes(spec: ModelSpec, tokens: int, kv: str) -> float:
    return float(kv_cache(spec, seq_len=tokens, kv_format=kv).total)


def _without(layer: Layer, experts: bool) -> Layer:
    """A layer without its routed experts, or these alone."""
    kept = tuple(t for t in layer.tensors if (t.component != "experts") == experts)
    if experts:
        return replace(layer, tensors=kept)
    return Layer(kept)


def laden(engine: Engine, job: ServingJob) -> Engine:
    """The engine with what the job puts beside the model; the same one where that is nothing.

    >>> from llmhw import model
    >>> from llmhw.service import engine_for
    >>> job = ServingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 1), weight_offload=0.5)
    >>> away, here = engine_for(job), engine_for(replace(job, weight_offload=0))
    >>> away.seconds(decoding=1, context=100) > 15 * here.seconds(decoding=1, context=100)
    True
    """
    more: dict[str, Any] = {}
    if job.lora_adapters:
        more = {"adapters": job.lora_adapters, "rank": job.lora_rank, "targets": job.lora_targets}
    if in_host(job):
        device = job.cluster.accelerator
        if device.architecture.startswith("CPU") or not device.host_link:
            raise LLMHWError(
                f"{', '.join(f'{name}={value:g}' for name, value in in_host(job).items())}: {device.name} hangs on no "
                "host with a memory of its own; leave it out"
            )
        more |= {"host": host_of(device, job.host), "kv_offload": job.kv_offload}
        more |= {"weight_offload": job.weight_offload, "expert_layers": job.cpu_moe}
        if job.gpu_layers is not None:
            more["host_layers"] = layers_on(job, 0).start if job.gpu_layers else job.model.num_layers + 1
        more["computes"] = job.gpu_layers is not None or job.cpu_moe > 0
    return Laden(**{f.name: getattr(engine, f.name) for f in fields(Engine)}, **more) if more else engine
