"""Time of one pass of an inference engine: prompts, decoded tokens, or both in one batch.

The operations are those of training's forward pass. Weights are read in the format they are stored in, the cache is
read by every decoded token, and tensor-parallel ranks wait for each other twice a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from llmhw.catalog import read_calibration
from llmhw.communication import activation_message_bytes, all_reduce_wire_bytes
from llmhw.flops import causal_pairs
from llmhw.formula import formula
from llmhw.hardware import Accelerator, Cluster, links
from llmhw.job import Parallelism
from llmhw.model import Attention, Layer, ModelSpec
from llmhw.network import message_seconds
from llmhw.operations import Matmul, Work, layer_work
from llmhw.precision import NumberFormat, number_format
from llmhw.roofline import TILES, matmul_bytes, power_share, tiled_flops
from llmhw.units import LLMHWError, check_choice, maximum


@formula(source="each token misses an expert with probability 1 - used / experts, independently", unit="count")
def experts_touched(*, experts: Any, used: Any, tokens: Any) -> Any:
    """Experts whose weights a batch reads, on average, if the router spreads tokens evenly.

    >>> round(experts_touched(experts=8, used=2, tokens=4), 2)
    5.47
    """
    return experts * (1 - (1 - used / experts) ** tokens)


@formula(source="keys and values of every token before it, once a step and layer", unit="bytes")
def cache_read_bytes(
    *, batch: Any, context: Any, kv_heads: Any, head_dim: Any, v_head_dim: Any, bytes_per_element: Any
) -> Any:
    """What attention reads of one layer's cache to decode one token of each sequence.

    >>> cache_read_bytes(batch=1, context=8192, kv_heads=8, head_dim=128, v_head_dim=128, bytes_per_element=2)
    33554432
    """
    return batch * context * kv_heads * (head_dim + v_head_dim) * bytes_per_element


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingConstants:
    """What the model of an engine's time cannot derive; `calibration.json` has the values under `serving_time`.

    matmul, matmul8, matmul4   share of the dense peak that large products reach in 16, 8 and 4 bit
    weight_only       share of the 16-bit rate that kernels reach which expand 4- or 8-bit weights first
    attention         share of the 16-bit peak that attention over a prompt reaches
    attention8        how much faster attention over a prompt is where the cache is in 8 bit
    per_joule         FLOP in 16 bit that a joule of board power pays for
    bandwidth         share of the memory bandwidth at which weights are read
    per_unit          bytes per second that one multiprocessor's loads in flight can fetch (Little's law)
    cache             share of the memory bandwidth at which attention reads the cache
    fill              inner length that a tile loses while its pipeline fills
    passes            elementwise traffic over that of fused kernels
    gap               seconds from the end of one kernel to the full speed of the next
    launch            seconds that the host takes to launch a kernel; a pass takes at least all of them
    expand            kernels more for each product whose weights are expanded by kernels of their own
    host              seconds a step in which the device waits for the host: scheduling, sampling
    each              seconds of that for each sequence
    inside            share of the link's bandwidth that an all-reduce reaches
    meet              seconds of an all-reduce of nothing
    skew              time that the slowest of several ranks takes more than all on average, as a share
    running           sequences that run on average, over those that the cache has room for
    """

    matmul: float
    matmul8: float
    matmul4: float
    weight_only: float
    attention: float
    attention8: float = 1.0
    per_joule: float = 1e15
    bandwidth: float = 0.85
    per_unit: float = 1e12
    cache: float = 0.7
    fill: float = 128.0
    passes: float = 1.0
    gap: float = 2e-6
    launch: float = 0.0
    expand: float = 0.0
    host: float = 5e-4
    each: float = 0.0
    inside: float = 0.7
    meet: float = 1e-5
    skew: float = 0.0
    running: float = 0.85


def serving_family(device: Accelerator, calibration: Mapping[str, Any] | None = None) -> str:
    """The family of devices whose constants hold for this one; `other` where none was fitted."""
    return device.family((calibration or read_calibration("serving_time"))["families"])


def serving_constants(
    device: Accelerator, engine: str, calibration: Mapping[str, Any] | None = None
) -> ServingConstants:
    """The constants of a device and an engine: what is common to all, then the family's, then the engine's."""
    known = calibration or read_calibration("serving_time")
    check_choice("engine", engine, known["engines"])
    names = {f.name for f in fields(ServingConstants)}
    chosen: dict[str, float] = {}
    for group in (known["common"], known["families"][serving_family(device, known)], known["engines"][engine]):
        chosen |= {name: value for name, value in group.items() if name in names}
    # a kernel's own share of what its family reaches
    for name, value in known["engines"][engine].items():
        if name.endswith("_share"):
            chosen[name.removesuffix("_share")] *= value
    return ServingConstants(**chosen)


BOUND = ServingConstants(
    matmul=1.0,
    matmul8=1.0,
    matmul4=1.0,
    weight_only=1.0,
    attention=1.0,
    attention8=2.0,
    bandwidth=1.0,
    cache=1.0,
    fill=0.0,
    passes=0.0,
    gap=0.0,
    launch=0.0,
    host=0.0,
    inside=1.0,
    meet=0.0,
    running=1.0,
)

# Formats that the tensor cores multiply as they are stored; all others are expanded to 16 bit first.
_NATIVE = {
    "fp8": ("fp8", "matmul8"),
    "mxfp8": ("fp8", "matmul8"),
    "nvfp4": ("fp4", "matmul4"),
    "mxfp4": ("fp4", "matmul4"),
}
_WIDE = ("fp16", "bf16", "fp32")


@dataclass(frozen=True)
class Engine:
    """One model on one group of devices, ready to be timed.

    spec, cluster    what runs, and where; `cluster` holds the devices of one copy of the model
    tp, pp           tensor-parallel ranks, and stages that run one after another (llama.cpp's layer split is pp)
    attention_dp     each rank attends to its own sequences, experts are spread (`tp` is then the ranks in all)
    weights, kv      number formats of weights and cache
    constants        what kernels and links reach
    all_reduce       two-shot, one-shot, nvls or auto: see `llmhw.job.ServingJob`
    """

    spec: ModelSpec
    cluster: Cluster
    constants: ServingConstants
    tp: int = 1
    pp: int = 1
    attention_dp: bool = False
    weights: str = "bf16"
    kv: str = "bf16"
    all_reduce: str = "two-shot"

    @property
    def device(self) -> Accelerator:
        return self.cluster.accelerator

    @property
    def _format(self) -> NumberFormat:
        return _number_format(self.weights)

    @property
    def _bandwidth(self) -> float:
        """Bytes per second at which weights are read."""
        reached = self.device.memory_bandwidth_bytes_per_second * self.constants.bandwidth
        units = self.device.multiprocessors
        return min(reached, units * self.constants.per_unit) if units else reached

    def _rates(self) -> tuple[float, float, float]:
        """FLOP/s of products in the weights' format and in 16 bit, and of attention."""
        c, device = self.constants, self.device
        half = "bf16" if "bf16" in device.peaks else "fp16"
        peak = device.fp16_accumulate_peak or device.peak(half)
        power = power_share(
            watts=device.tdp_watts or float("inf"), flops_per_joule=c.per_joule, flops_per_second=peak * c.matmul
        )
        wide = peak * c.matmul * power
        if self.weights in _WIDE:
            products = wide
        elif self.weights in _NATIVE and _NATIVE[self.weights][0] in device.peaks:
            fmt, share = _NATIVE[self.weights]
            products = device.peak(fmt) * getattr(c, share) * power
        else:
            products = wide * c.weight_only
        faster = c.attention8 if self.kv == "fp8" and "fp8" in device.peaks else 1.0
        return products, wide, peak * c.attention * power * faster

    def seconds(
        self,
        *,
        prompts: int = 0,
        prompt_tokens: float = 0,
        past: float = 0,
        decoding: float = 0,
        context: float = 0,
        logits: float | None = None,
    ) -> float:
        """Time of one pass over the model.

        prompts, prompt_tokens   sequences whose prompts are read, and new tokens of each
        past                     tokens of each that are cached already (a later chunk, or a shared prefix)
        decoding, context        sequences that get one more token, and tokens that each has cached
        logits                   rows that pass through the head; default: one for each sequence
        """
        tokens = prompts * prompt_tokens + decoding
        if not tokens:
            return 0.0
        c = self.constants
        products, wide, attending = self._rates()
        element = _number_format(self.kv).bits_per_weight / 8
        total = 0.0
        launches = 4.0
        narrow = self.weights not in _WIDE
        own = self.tp if self.attention_dp else 1  # ranks that share the sequences out
        for layer, count in self.spec.layer_kinds:
            work = _work(self.spec, layer, self.tp, self.attention_dp, tokens)
            layer_seconds = sum(self._matmul(m, products, wide, tokens, layer) for m in work.matmuls)
            layer_seconds += work.forward_bytes * c.passes / self._bandwidth
            layer_seconds += (work.kernels - len(work.matmuls)) * c.gap
            a = layer.attention
            if a is not None:
                layer_seconds += self._prompts(a, prompts / own, prompt_tokens, past, attending)
                layer_seconds += self._cached(a, decoding / own, context, element, attending)
            if layer.linear_attention is not None:
                layer_seconds += work.state_flops / (0.1 * wide)
            if self.tp > 1:
                layer_seconds *= 1 + c.skew
                layer_seconds += self._meetings(tokens)
            total += count * layer_seconds
            launches += count * (work.kernels + narrow * c.expand * len(work.matmuls))
        vocab, width = self.spec.head_shape
        rows = prompts + decoding if logits is None else logits
        head = Matmul("head", rows, -(-vocab // self.tp), width)
        total += self._matmul(head, wide, wide, rows, None)
        sends = (self.pp - 1) * c.meet
        return max(total, launches * c.launch) + sends + c.host + (prompts + decoding) * c.each

    def prompt_seconds(self, tokens: float, *, chunk: int, prompts: int = 1) -> float:
        """A prompt read in chunks; stages that run one after another work on several chunks at once."""
        done, total, count, longest = 0.0, 0.0, 0, 0.0
        while done < tokens:
            new = min(float(chunk), tokens - done)
            one = self.seconds(prompts=prompts, prompt_tokens=new, past=done)
            total, longest, count, done = total + one, max(longest, one), count + 1, done + new
        if self.pp == 1:
            return total
        # each stage does its share of every chunk; the last chunk leaves after passing all stages
        return total / self.pp + (self.pp - 1) / self.pp * longest

    def _matmul(self, m: Matmul, products: float, wide: float, tokens: float, layer: Layer | None) -> float:
        """The best tile or none, or reading the weights if that takes longer."""
        c, device = self.constants, self.device
        quantized = layer is not None and m.name != "gate"
        rate = products if quantized else wide
        bits = self._format.bits_per_weight if quantized else 16.0
        groups = float(m.groups)
        if m.groups > 1 and layer is not None:
            stack = next(t for t in layer.tensors if t.experts > 1)
            groups *= experts_touched(experts=stack.experts, used=stack.used, tokens=tokens) / stack.experts
            rows = m.m * m.groups / max(groups, 1e-9)
        else:
            rows = m.m
        if device.multiprocessors:
            least = min(
                tiled_flops(
                    m=rows, n=m.n, k=m.k, groups=groups, tile_m=tm, tile_n=tn, fill=c.fill, units=device.multiprocessors
                )
                / share
                for tm, tn, share in _TILES
            )
        else:
            least = 2.0 * groups * max(rows, 16) * m.n * (m.k + c.fill)
        # few rows: no tiles, the ordinary cores multiply while weights stream past
        ordinary = device.peaks.get("fp32", 0.0) * (c.weight_only if bits < 16 else 1.0)
        vector = 2.0 * groups * rows * m.n * m.k / ordinary if ordinary else float("inf")
        moved = matmul_bytes(m=rows, n=m.n, k=m.k, groups=groups, b_bytes=bits / 8)
        return float(maximum(min(least / rate, vector), moved / self._bandwidth)) + c.gap

    def _prompts(self, a: Attention, prompts: float, tokens: float, past: float, rate: float) -> float:
        if not prompts or not tokens:
            return 0.0
        pairs = causal_pairs(seq_len=int(tokens), past=int(past), window=a.window or a.chunk or int(past + tokens))
        flops = 2.0 * prompts * a.heads * pairs * (a.head_dim + a.v_head_dim) / (1 if self.attention_dp else self.tp)
        return float(flops / rate) + self.constants.gap

    def _cached(self, a: Attention, sequences: float, context: float, element: float, rate: float) -> float:
        if not sequences or not context:
            return 0.0
        c, device = self.constants, self.device
        ranks = 1 if self.attention_dp else self.tp
        seen = min(context, a.window or a.chunk or context)
        if a.latent:
            moved = sequences * seen * a.latent * element  # whole on every rank
            flops = 2.0 * sequences * a.heads / ranks * seen * (2 * a.latent)
        else:
            moved = cache_read_bytes(
                batch=sequences,
                context=seen,
                kv_heads=max(1.0, a.kv_heads / ranks),
                head_dim=a.head_dim,
                v_head_dim=a.v_head_dim,
                bytes_per_element=element,
            )
            flops = 0.0
        return float(max(moved / (device.memory_bandwidth_bytes_per_second * c.cache), flops / rate)) + c.gap

    def _meetings(self, tokens: float) -> float:
        """Two all-reduces; with attention shared out by sequence, an all-to-all to the experts and back."""
        c = self.constants
        size = activation_message_bytes(batch=1, tokens=tokens, width=self.spec.hidden, bytes_per_element=2)
        link = self.cluster.link_for(self.tp)
        # `meet` is the latency of two exchanges, or of the way to the switch and back
        ways = {
            "two-shot": (all_reduce_wire_bytes(size=size, ranks=self.tp), c.meet),
            "one-shot": ((self.tp - 1) * size, c.meet / 2),
        }
        if _switch_adds_up(link.name):
            ways["nvls"] = (size, c.meet)
        wanted = ways.values() if self.all_reduce == "auto" else (ways[self.all_reduce],)
        rate = link.bytes_per_second * c.inside
        return float(
            2
            * min(
                message_seconds(wire_bytes=wire, bandwidth_bytes_per_second=rate, latency_seconds=latency)
                for wire, latency in wanted
            )
        )


@lru_cache(maxsize=64)
def _switch_adds_up(name: str) -> bool:
    return any(found.name == f"{name} + NVLS SHARP" for found in links())


# Small tiles too: a decoded batch has few rows.
_TILES = (*TILES, (64, 128, 0.9), (32, 128, 0.85), (16, 128, 0.8))


@lru_cache(maxsize=256)
def _number_format(name: str) -> NumberFormat:
    return number_format(name)


@lru_cache(maxsize=4096)
def _work(spec: ModelSpec, layer: Layer, tp: int, attention_dp: bool, tokens: float) -> Work:
    experts = max((t.experts for t in layer.tensors), default=1)
    ranks = 1 if attention_dp else tp
    parallelism = Parallelism(
        dp=tp if attention_dp else 1,
        tp=ranks,
        ep=tp if experts > 1 and experts % tp == 0 else 1,
        sequence_parallel=ranks > 1,
    )
    mine = max(1, round(tokens / tp)) if attention_dp else max(1, round(tokens))
    return layer_work(spec, layer, parallelism, micro_batch=1, seq_len=mine)


def engine_of(
    spec: ModelSpec,
    cluster: Cluster,
    *,
    engine: str,
    tp: int = 1,
    pp: int = 1,
    attention_dp: bool = False,
    weights: str = "bf16",
    kv: str = "bf16",
    all_reduce: str = "two-shot",
    calibration: Mapping[str, Any] | None = None,
) -> Engine:
    """An `Engine` with the constants of its device and software."""
    if all_reduce == "nvls" and not _switch_adds_up(cluster.link_for(tp).name):
        raise LLMHWError(
            f"all_reduce='nvls': no switch of {cluster.accelerator.name} adds up; use two-shot, one-shot or auto"
        )
    if tp * pp != cluster.devices:
        raise LLMHWError(f"tp x pp = {tp} x {pp} is not the {cluster.devices} devices of the cluster")
    constants = serving_constants(cluster.accelerator, engine, calibration)
    return Engine(spec, cluster, constants, tp, pp, attention_dp, weights, kv, all_reduce)


def bound(engine: Engine) -> Engine:
    """The same engine at every datasheet's peak, with nothing lost: no measurement is faster."""
    return replace(engine, constants=BOUND)


def request_seconds(engine: Engine, *, batch: float, prompt: float, answer: float) -> float:
    """A batch of equal requests that start together: all prompts, then one token of each at a time.

    Time is affine in what is cached, so that the middle of the answer stands for all of it.
    """
    first = engine.seconds(prompts=int(batch), prompt_tokens=prompt)
    return first + answer * engine.seconds(decoding=batch, context=prompt + answer / 2)


def offline_tokens_per_second(
    engine: Engine, *, room: float, prompt: float, answer: float, requests: float | None = None
) -> float:
    """Output tokens per second of an engine that always has requests to admit, with in-flight batching.

    room       sequences that the cache and the engine's limit have room for
    requests   how many there are in all: equal ones end in waves, and the last wave is a smaller one; default: no end

    Each token costs its share of a decoding pass, and of its prompt's. Prompts are read some 8,192 tokens at a time.
    """
    running = max(1.0, room * engine.constants.running)
    together = max(1, int(8192 // prompt))
    reading = engine.prompt_seconds(prompt, chunk=8192, prompts=together) / together
    context = prompt + answer / 2
    if requests is None:
        return 1 / (engine.seconds(decoding=running, context=context) / running + reading / answer)
    waves, rest = divmod(requests, min(running, requests))
    decoding = waves * engine.seconds(decoding=min(running, requests), context=context)
    decoding += engine.seconds(decoding=rest, context=context)
    return requests * answer / (requests * reading + answer * decoding)


def class_of(metric: str) -> str:
    """Which measured errors speak for a prediction: throughput of batches, single-stream decode, or prompts."""
    if metric.startswith("decode"):
        return "decode"
    return "prefill" if metric.startswith(("prefill", "ttft")) else "throughput"
