"""Time of one pass of an inference engine: prompts, decoded tokens, or both in one batch.

The operations are those of `llmhw.block`, as in training's forward pass. Weights are read in the format they are stored
in, the cache is read by every decoded token, and tensor-parallel ranks wait for each other twice a layer. Where
attention is shared out by sequence and experts by rank, tokens go to their experts and back instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from llmhw.block import Block, Matmul, block, pass_bytes
from llmhw.checks import checked
from llmhw.flops import attended_pairs, attention_core_flops, indexed_pairs
from llmhw.formula import Ledger, formula
from llmhw.hardware import Accelerator, Cluster, links
from llmhw.job import Layout
from llmhw.memory import kv_cache_bytes, latent_cache_bytes, linear_state_bytes
from llmhw.messages import (
    activation_message_bytes,
    all_reduce_wire_bytes,
    all_to_all_seconds,
    expert_message_bytes,
    group_bandwidth,
    message_seconds,
    nodes_reached,
)
from llmhw.model import Attention, Layer, LinearAttention, ModelSpec
from llmhw.precision import NumberFormat, component_formats, formats_in, number_format
from llmhw.rates import (
    BOUND,
    ServingConstants,
    attention_seconds,
    compute_seconds,
    matmul_seconds,
    powered_peak,
    serving_constants,
    stream_seconds,
    waiting_seconds,
)
from llmhw.step_time import gap_seconds
from llmhw.units import LLMHWError, any_of, ceil_div, check_count, maximum, minimum, where

PARTS = (
    "matrix products",
    "elementwise",
    "attention over prompts",
    "attention over the cache",
    "adapters",
    "host memory",
    "draft",
    "encoders",
    "all-reduces",
    "all-to-alls",
    "slowest rank",
    "waiting for the host",
    "sends between stages",
    "scheduling",
)


_CHUNKS = 16  # of a prompt that are timed one by one
# Routing of experts in an engine: one kernel chooses and counts, one gathers, one adds up with the weights; the others
# prepare the grouped products [inferred from the operations in vLLM's and TensorRT-LLM's fused layers].
_ROUTING_KERNELS, _ROUTING_PASSES = 12, 2


@formula(source="each token misses an expert with probability 1 - used / experts, independently", unit="count")
def experts_touched(*, experts: Any, used: Any, tokens: Any) -> Any:
    """Experts whose weights a batch reads, on average, if the router spreads tokens evenly.

    >>> round(experts_touched(experts=8, used=2, tokens=4), 2)
    5.47
    """
    return experts * (1 - (1 - used / experts) ** tokens)


@formula(source="the cache is read once for every decoded token, while the products with it run", unit="seconds")
def cache_seconds(
    *, memory_bytes: Any, bandwidth_bytes_per_second: Any, flops: Any, flops_per_second: Any, gap_seconds: Any = 0
) -> Any:
    """Time in which one layer's attention decodes one token of each sequence.

    >>> cache_seconds(memory_bytes=3e9, bandwidth_bytes_per_second=3e12, flops=0, flops_per_second=1)
    0.001
    """
    return maximum(memory_bytes / bandwidth_bytes_per_second, flops / flops_per_second) + gap_seconds


@formula(source="the slowest of several ranks holds up all", unit="seconds")
def skew_seconds(*, seconds: Any, skew: Any) -> Any:
    """Time that ranks wait for the slowest.

    >>> skew_seconds(seconds=2.0, skew=0.05)
    0.1
    """
    return seconds * skew


@formula(source="measured: see calibration.json", unit="seconds")
def scheduling_seconds(*, step_seconds: Any, sequences: Any, each_seconds: Any, hidden_seconds: Any = 0) -> Any:
    """Time of a step in which the device waits for the engine: scheduling, sampling.

    hidden_seconds   of the device, where the engine's loop for the next step runs beside it; else 0

    >>> scheduling_seconds(step_seconds=0.001, sequences=100, each_seconds=1e-5)
    0.002
    """
    return maximum(0.0, step_seconds + sequences * each_seconds - hidden_seconds)


# Formats that the tensor cores multiply as they are stored; all others are expanded to 16 bit first.
_NATIVE = {
    **dict.fromkeys(("fp8", "fp8-block", "mxfp8"), ("fp8", "matmul8")),
    **dict.fromkeys(("nvfp4", "mxfp4"), ("fp4", "matmul4")),
    "int8": ("int8", "matmul8"),
}
_WIDE = ("fp16", "bf16", "fp32")


# Rows of Hopper's matrix instruction (wgmma): libraries that put a token in each row do 64 of them, whatever there is.
_WARPGROUP_ROWS = 64


@dataclass(frozen=True, slots=True)
class Formats:
    """What the formats of weights and cache come to on a device; numbers, or arrays of many formats.

    products, attending   FLOP/s of products with quantized matrices, and of attention over prompts
    weight_bytes, cache_bytes   of an element
    sent_bytes           of an element that goes to an expert
    narrow                1 where weights have fewer bits than 16
    ordinary              FLOP/s of the ordinary cores, which multiply a few rows; None: not known
    least_rows            that a product costs, as its smallest tile has so many
    widened               1 where an 8-bit float of the cache is made a 16-bit one by many instructions: the device has
                          none for it
    """

    products: Any
    attending: Any
    weight_bytes: Any
    cache_bytes: Any
    narrow: Any
    ordinary: Any
    sent_bytes: Any = 2.0
    least_rows: Any = 1
    widened: Any = 0


@checked
def formats_of(device: Accelerator, c: ServingConstants, weights: NumberFormat | str, kv: str) -> Formats:
    """The formats of one engine on a device."""
    weights = number_format(weights)
    bits, peak = weights.bits_per_weight, _peak(device)
    wide = powered_peak(device, c, peak) * c.matmul
    fmt, share = _NATIVE.get(weights.like or weights.name, ("", ""))
    least, ordinary = 1, device.peaks.get("fp32")
    if weights.name == "fp32" and ordinary:
        products = minimum(wide, ordinary * c.matmul)
    elif weights.name in _WIDE:
        products = wide
    elif fmt in device.peaks and weights.compute == fmt:
        products = device.peak(fmt) * getattr(c, share) * wide / (peak * c.matmul)
    else:
        products = wide * c.weight_only
    if ordinary and bits < 16:
        ordinary *= c.weight_only
    if c.tiled and device.architecture.startswith("Hopper") and (weights.name in _WIDE or weights.compute == fmt):
        least = _WARPGROUP_ROWS
    faster = c.attention8 if kv == "fp8" and "fp8" in device.peaks else 1.0
    return Formats(
        products=products,
        attending=wide / c.matmul * c.attention * faster,
        weight_bytes=bits / 8,
        cache_bytes=number_format(kv).bits_per_weight / 8,
        narrow=int(weights.name not in _WIDE),
        sent_bytes=1.0 if fmt == "fp8" else 2.0,
        ordinary=ordinary,
        least_rows=least,
        widened=int(kv.startswith("fp8") and "fp8" not in device.peaks and unit_cycles(device) > 0),
    )


def memory_rate(device: Accelerator) -> float:
    """Bytes per second of the memory; where ECC is on as sold and has no bits of its own, it takes a sixteenth.

    >>> from llmhw import accelerator
    >>> memory_rate(accelerator("l40s")) / accelerator("l40s").memory_bandwidth_bytes_per_second
    0.9375
    """
    checks = device.memory_type.startswith("GDDR") and device.form.startswith("PCIe") and _checked(device.name)
    return device.memory_bandwidth_bytes_per_second * (15 / 16 if checks else 1)


@dataclass(frozen=True, slots=True)
class Facts:
    """What an engine knows of its devices and their links; numbers, or arrays of many kinds of devices.

    memory_rate       bytes/s of the memory: `memory_rate`
    cycles            of all multiprocessors in a second: `unit_cycles`; 0: not known
    units             multiprocessors; None: not known
    peak, wide        dense 16-bit FLOP/s; what is reached of them in large products
    node              devices of the fast network
    inside, between   bytes/s of the links in a node and between nodes; NaN: not known
    """

    memory_rate: Any
    cycles: Any
    units: Any
    peak: Any
    wide: Any
    node: Any
    inside: Any
    between: Any


def facts_of(cluster: Cluster, c: ServingConstants) -> Facts:
    """The facts of the devices of a cluster, with the constants of an engine there."""
    device, peak = cluster.accelerator, _peak(cluster.accelerator)
    inside, between = (
        link.bytes_per_second if link else float("nan") for link in (cluster.intra_link, cluster.inter_link)
    )
    return Facts(
        memory_rate=memory_rate(device),
        cycles=unit_cycles(device),
        units=device.multiprocessors,
        peak=peak,
        wide=powered_peak(device, c, peak) * c.matmul,
        node=cluster.devices_per_node,
        inside=inside,
        between=between,
    )


# Multiprocessors of these architectures do 64 multiply-adds of 32 bits in a cycle, those of other GPUs 128; what is no
# GPU has other units.
_HALF_WIDE = ("Pascal GP100", "Volta", "Turing", "Ampere GA100", "CDNA1", "CDNA2")
_NO_GPU = ("CPU", "Da Vinci")


def unit_cycles(device: Accelerator) -> float:
    """Cycles of all multiprocessors in a second, of the clock that the peak in fp32 is stated for; 0: not known.

    >>> from llmhw import accelerator
    >>> round(unit_cycles(accelerator("a100 40gb sxm4")) / 108 / 1e9, 2)
    1.41
    """
    if not device.multiprocessors or device.architecture.startswith(_NO_GPU):
        return 0.0
    lanes = 64 if device.architecture.startswith(_HALF_WIDE) else 128
    return device.peaks.get("fp32", 0.0) / (2 * lanes)


def _checked(name: str) -> bool:
    """Whether a card with GDDR memory is one for servers, which is sold with ECC on."""
    return name.split(" ")[0] in "A10 A10G A10M A16 A2 A40 L2 L20 L4 L40 L40G L40S T4 T4G".split()


def _peak(device: Accelerator) -> float:
    """Dense 16-bit peak, of the accumulation that inference uses."""
    return device.fp16_accumulate_peak or device.peak(device.half_format)


def seen_tokens(a: Attention, context: Any) -> Any:
    """Tokens of the cache that attention reads for the next token of a sequence that has `context` of them.

    A chunk is half full on average; an indexer reads its own keys of all tokens and chooses among them.

    >>> seen_tokens(Attention(8, 8, 64, 64, window=1024), 5000), seen_tokens(Attention(8, 8, 64, 64, chunk=1024), 5000)
    (1024, 512.0)
    """
    if a.chunk:
        return where(context < a.chunk, context, a.chunk / 2)
    if a.compression:
        entries = context / a.compression
        return minimum(context, a.window or context) + minimum(entries, a.index_topk or entries)
    return minimum(context, a.window or a.index_topk or context)


@dataclass(frozen=True)
class Engine:
    """One model on one group of devices, ready to be timed.

    spec, cluster    what runs, and where; `cluster` holds the devices of one copy of the model
    tp, pp           tensor-parallel ranks, and stages that run one after another (llama.cpp's layer split is pp)
    attention_dp     each rank attends to its own sequences, experts are spread (`tp` is then the ranks in all)
    ep               ranks that experts are spread over; with attention_dp, tokens go to them by all-to-all
    weights, kv      number formats of weights and cache; weights "checkpoint": as the model's files have them
    constants        what kernels and links reach
    all_reduce       two-shot, one-shot, nvls or auto: see `llmhw.job.ServingJob`
    same             all sequences are one, as where a benchmark fills a batch with one prompt: the same experts
    many             numbers of many formats in place of `weights` and `kv`, as in `stored`, and of what is most under
                     (-1, ""); tp and pp may be arrays then
    places           numbers of many kinds of devices in place of those of `cluster`; `constants` are arrays then
    """

    spec: ModelSpec
    cluster: Cluster
    constants: ServingConstants
    tp: Any = 1
    pp: Any = 1
    attention_dp: bool = False
    ep: Any = 1
    weights: str = "bf16"
    kv: str = "bf16"
    all_reduce: str = "two-shot"
    same: bool = False
    many: Mapping[tuple[int, str], Formats] | None = None
    places: Facts | None = None

    @property
    def device(self) -> Accelerator:
        return self.cluster.accelerator

    @cached_property
    def formats(self) -> Formats:
        """What the formats come to, of weights that of most of them."""
        if self.many:
            return self.many[-1, ""]
        return formats_of(self.device, self.constants, formats_in(self.spec, self.weights)[0], self.kv)

    @cached_property
    def stored(self) -> Mapping[tuple[int, str], Formats]:
        """The same of each component's matrices, by number of the layer kind; -1: outside the layers."""
        found = component_formats(self.spec, self.weights)
        made = {fmt: formats_of(self.device, self.constants, fmt, self.kv) for fmt in found.values()}
        return self.many or {key: made[fmt] for key, fmt in found.items()}

    @cached_property
    def facts(self) -> Facts:
        """What is known of the devices and their links."""
        return self.places or facts_of(self.cluster, self.constants)

    @cached_property
    def bandwidth(self) -> Any:
        """Bytes per second at which weights are read."""
        reached, cycles = self.facts.memory_rate * self.constants.bandwidth, self.facts.cycles
        fetched = cycles * self.constants.per_unit
        return where(cycles > 0, minimum(reached, fetched), reached)

    @property
    def wide(self) -> Any:
        """FLOP/s of products in 16 bit."""
        return self.facts.wide

    @property
    def ranks(self) -> Any:
        """Ranks that split the heads of a sequence."""
        return 1 if self.attention_dp else self.tp

    def seconds(self, **load: Any) -> Any:
        """Time of one pass over the model: see `timed`."""
        return self.timed(**load).total

    def explain(self, part: str | None = None, **load: Any) -> str:
        """The formulas behind one part of a pass (or all), with the numbers put in; `load` as in `timed`."""
        title = f"a pass of {self.spec.name} on {self.cluster}"
        return self.timed(**load, detail="terms").estimate(title, "seconds", PARTS).explain(part)

    def timed(
        self,
        *,
        prompts: int = 0,
        prompt_tokens: float = 0,
        past: float = 0,
        decoding: Any = 0,
        context: float = 0,
        logits: Any = None,
        drafted: bool = False,
        detail: str = "totals",
    ) -> Ledger:
        """Time of one pass over the model, by part.

        prompts, prompt_tokens   sequences whose prompts are read, and new tokens of each
        past                     tokens of each that are cached already (a later chunk, or a shared prefix)
        decoding, context        sequences that get one more token, and tokens that each has cached
        logits                   rows that pass through the head; default: one for each sequence
        drafted                  the new tokens are drafts of sequences at work, which do not arrive and replay a graph
        detail                   totals, parts or terms
        """
        tokens, c, total = prompts * prompt_tokens + decoding, self.constants, Ledger(detail)
        if not any_of(tokens):
            return total
        launches: Any = 4.0  # [inferred] embedding, final norm, head and sampling
        several = where(self.tp > 1, 1, 0)
        plain = isinstance(self.tp, int) and isinstance(tokens, (int, float))
        block_of: Callable[..., Block] = _block if plain else _block.__wrapped__  # arrays have no hash
        for kind, (layer, count) in enumerate(self.spec.layer_kinds):
            work = block_of(self.spec, layer, self.tp, self.attention_dp, tokens)
            kernels = sum(_ROUTING_KERNELS if op.name == "routing" else op.kernels for op in work.ops)
            one = Ledger(detail)
            for m in work.matmuls:
                met = maximum(1, prompts * prompt_tokens) if self.same else tokens
                self._product(one, m, met, self.stored[kind, m.part])
            for op in work.passes:
                passes = c.passes * (_ROUTING_PASSES / op.ahead if op.name == "routing" else 1)
                moved = {"memory_bytes": op.forward_bytes * passes, "bandwidth_bytes_per_second": self.bandwidth}
                one.add("elementwise", op.name, stream_seconds, **moved)
            gaps = {"kernels": kernels - len(work.matmuls), "gap": c.gap}
            one.add("elementwise", "gaps between kernels", gap_seconds, **gaps)
            own = self.tp if self.attention_dp else 1  # ranks that share the sequences out
            if layer.attention is not None:
                self._prompts(one, layer.attention, prompts / own, prompt_tokens, past)
                self._cached(one, layer.attention, decoding / own, context)
            if layer.linear_attention is not None:
                self._states(one, layer.linear_attention, work, decoding / tokens, decoding / own)
            if any_of(several):
                one.add("slowest rank", "ranks meet", skew_seconds, several, seconds=one.total, skew=c.skew)
                if not self.attention_dp:
                    self._meetings(one, tokens, layer.sums * several)
                elif any_of(self.ep > 1):
                    self._exchanges(one, work, tokens, several, prompts > 0)
                elif any(m.part in ("mlp", "experts") for m in work.matmuls):
                    # attention is whole on each rank; its tokens are gathered, and the sums scattered
                    self._meetings(one, tokens, several, gathered=self.formats.sent_bytes)
            total.merge(one, count)
            launched = work.kernels if any_of(prompts) else kernels  # a graph's small kernels cost little
            launches = launches + count * (launched + self.formats.narrow * c.expand * len(work.matmuls))
        vocab, width = self.spec.head_shape
        rows = prompts + decoding if logits is None else logits
        head = Matmul(name="head", part="head", m=rows, n=ceil_div(vocab, self.tp), k=width)
        self._product(total, head, rows, self.stored[-1, "head"])
        # decoding replays a graph of launches; passes over prompts differ too much for that
        arriving = 0 if drafted else prompts
        launch = maximum(c.launch, c.eager) if any_of(arriving) else c.launch
        waits = {"kernels": launches, "host_seconds": launch, "busy_seconds": total.total}
        total.add("waiting for the host", "launches", waiting_seconds, **waits)
        total.add("sends between stages", "stages", gap_seconds, kernels=self.pp - 1, gap=c.sends)
        step = {"step_seconds": c.host + arriving * c.arrive, "sequences": prompts + decoding, "each_seconds": c.each}
        total.add("scheduling", "the engine", scheduling_seconds, **step, hidden_seconds=total.total * c.overlap)
        return total

    def prompt(self, tokens: float, *, chunk: int, prompts: int = 1, past: float = 0, detail: str = "totals") -> Ledger:
        """Time of prompts of so many new tokens, read in chunks; stages work on several chunks at once.

        past   tokens of each that are cached already

        Of more than `_CHUNKS` equal chunks, neighbours take the time of the one in their middle.
        """
        found, longest, done = Ledger(detail), Ledger(detail), 0.0
        alike = max(1, int(tokens // chunk) // _CHUNKS)
        while done < tokens:
            new = min(float(chunk), tokens - done)
            many = alike if done + alike * chunk <= tokens else 1
            middle = past + done + (many - 1) / 2 * chunk
            one = self.timed(prompts=prompts, prompt_tokens=new, past=middle, detail=detail)
            found.merge(one, many / self.pp)
            if detail == "totals":
                longest.parts[""] = maximum(longest.total, one.total)
            elif one.total > longest.total:
                longest = one
            done += new if many == 1 else many * chunk
        # each stage does its share of every chunk; the last chunk leaves after passing all stages
        return found.merge(longest, (self.pp - 1) / self.pp) if any_of(self.pp > 1) else found

    def beside_seconds(
        self, tokens: float, *, chunk: int, past: float = 0, prompts: Any = 1, decoding: Any, context: float
    ) -> Any:
        """What each of so many prompts adds to passes in which others decode: weights are read and launched once.

        decoding, context   as in `timed`

        A prompt longer than a chunk takes passes of its own, of which the middle one stands for all.
        """
        passes = max(1.0, tokens / chunk)
        load: dict[str, Any] = {"decoding": decoding, "context": context}
        middle = past + (tokens - tokens / passes) / 2
        mixed = self.seconds(prompts=prompts, prompt_tokens=tokens / passes, past=middle, **load)
        return passes * (mixed - self.seconds(**load)) / prompts

    def prompt_seconds(self, tokens: float, **how: Any) -> Any:
        """The total of `prompt`."""
        return self.prompt(tokens, **how).total

    def _product(self, ledger: Ledger, m: Matmul, tokens: Any, f: Formats) -> None:
        """The best tile or none, or reading the weights if that takes longer."""
        c, rows, groups, rate, behind = self.constants, m.m, m.groups, f.products, Ledger(ledger.detail)
        if m.experts > 1:
            # a batch reads the experts that it touches, and these share its rows
            given = {"experts": m.experts, "used": m.used, "tokens": tokens}
            groups = groups * behind.add("", "experts of all ranks", experts_touched, **given) / m.experts
            rows = rows * m.groups / maximum(groups, 1e-9)
            rows = rows * where(self.tp > 1, 1 + c.uneven, 1)
            rate = rate * c.grouped
        ledger.add(
            "matrix products",
            m.name,
            matmul_seconds,
            m=maximum(rows, f.least_rows),
            n=m.n,
            k=m.k,
            groups=groups,
            flops_per_second=rate,
            vector_flops_per_second=f.ordinary,
            bandwidth_bytes_per_second=self.bandwidth,
            units=self.facts.units,
            fill=c.fill,
            b_bytes=f.weight_bytes * where(rows > 1, c.packed, 1.0),
            gap_seconds=c.gap,
            because=behind,
        )

    def _prompts(self, ledger: Ledger, a: Attention, prompts: Any, tokens: float, past: float) -> None:
        """Attention of new tokens among themselves and to those before them; an indexer's scores first."""
        if not tokens or not any_of(prompts):
            return
        c, lengths = self.constants, {"seq_len": int(tokens), "past": int(past)}
        cores = [(a.kind, a.heads / self.ranks, attended_pairs(a, **lengths), a.head_dim, a.v_head_dim)]
        if a.index_heads:
            every = indexed_pairs(a, **lengths)
            cores.append(("indexer", a.index_heads, every, a.index_dim, 0))
        for name, heads, pairs, head_dim, v_head_dim in cores:
            behind = Ledger(ledger.detail)
            sizes = {"heads": heads, "pairs": pairs, "head_dim": head_dim, "v_head_dim": v_head_dim}
            flops = behind.add("", "scores and weighted values", attention_core_flops, batch=prompts, **sizes)
            given = {"flops_per_second": self.formats.attending, "gap_seconds": self.constants.gap}
            ledger.add("attention over prompts", name, attention_seconds, flops=flops, **given, because=behind)
            if not any_of(c.scores):
                continue
            behind = Ledger(ledger.detail)
            moved = {"tokens": prompts * heads, "width": pairs, "passes": c.scores, "bytes_per_element": 1}
            scores = behind.add("", "reads and writes of scores", pass_bytes, **moved)
            given = {"memory_bytes": scores, "bandwidth_bytes_per_second": self.bandwidth}
            ledger.add("attention over prompts", f"scores of {name}", stream_seconds, **given, because=behind)

    def _cached(self, ledger: Ledger, a: Attention, sequences: Any, context: float) -> None:
        """Attention of decoded tokens to what is cached; an indexer reads its own keys first."""
        if not context or not any_of(sequences):
            return
        seen = seen_tokens(a, context)
        every = {"batch": sequences, "bits_per_element": 8 * self.formats.cache_bytes}
        if a.latent:  # whole on every rank
            cached = {"function": latent_cache_bytes, "tokens": seen, "latent": a.latent}
            scores = {"heads": a.heads / self.ranks, "pairs": seen, "head_dim": a.latent, "v_head_dim": a.latent}
            self._read(ledger, "latents", every | cached, scores)
        else:
            sizes = {"kv_heads": maximum(1.0, a.kv_heads / self.ranks), "head_dim": a.head_dim}
            cached = {"function": kv_cache_bytes, "tokens": seen, "v_head_dim": a.v_head_dim, **sizes}
            self._read(ledger, "keys and values", every | cached, queries=a.heads // a.kv_heads)
        if a.index_dim:
            keys = context / (a.index_pool * a.index_block)
            cached = {"function": latent_cache_bytes, "tokens": context / a.index_pool, "latent": a.index_dim}
            scores = {"heads": a.index_heads, "pairs": keys, "head_dim": a.index_dim, "v_head_dim": 0}
            self._read(ledger, "keys of the indexer", every | cached, scores)

    def _states(self, ledger: Ledger, linear: LinearAttention, work: Block, share: Any, sequences: Any) -> None:
        """Linear attention: its arithmetic; a decoded token reads the whole state and writes it back.

        share   of the tokens that are decoded
        """
        name, rate = f"state of {linear.kind}", self.facts.peak * self.constants.state
        if any_of(share < 1):
            flops = (1 - share) * work.state_flops
            ledger.add("attention over prompts", name, compute_seconds, flops=flops, flops_per_second=rate)
        if any_of(share):
            cached = {
                "function": linear_state_bytes,
                "times": 2,
                "batch": sequences,
                **linear.kept(self.ranks, whole=False),
                "bits_per_element": 8 * self.formats.cache_bytes,
            }
            self._read(ledger, name, cached, flops=share * work.state_flops, rate=rate)

    def _read(
        self,
        ledger: Ledger,
        name: str,
        cached: Any,
        scores: Any = None,
        flops: Any = 0.0,
        rate: Any = None,
        queries: Any = 1,
    ) -> None:
        """What decoding reads of the cache while it multiplies: inputs of the formulas of both."""
        c, f, behind = self.constants, self.facts, Ledger(ledger.detail)
        moved = behind.add("", "bytes of the cache", **cached)
        slower: Any = 1
        if queries > 1 and any_of(c.reread) and f.units is not None:
            # every query head fetches the keys and values of its group: once from memory, then from the L2 cache
            fetched = c.level2 * f.units / f.memory_rate
            slower = where(c.reread, maximum(1.0, queries * c.cache / fetched), 1.0)
        reached = f.memory_rate * c.cache / slower
        if any_of(self.formats.widened):
            reached = where(self.formats.widened, minimum(reached, f.cycles * c.widen), reached)
        if scores:
            flops = behind.add("", "scores and weighted values", attention_core_flops, batch=cached["batch"], **scores)
        given = {
            "memory_bytes": moved,
            "bandwidth_bytes_per_second": reached,
            "flops": flops,
            "flops_per_second": self.formats.attending if rate is None else rate,
            "gap_seconds": c.gap,
        }
        ledger.add("attention over the cache", name, cache_seconds, **given, because=behind)

    def _meetings(self, ledger: Ledger, tokens: Any, times: Any, gathered: Any = None) -> None:
        """All-reduces; or, where attention is shared out, gathering tokens and scattering sums.

        gathered   bytes of an element that is gathered; None: all-reduces
        """
        tp = self.tp
        size = activation_message_bytes(batch=1, tokens=tokens, width=self.spec.hidden, bytes_per_element=2)
        rate, latency, adds_up = self._link
        # `meet` is the latency of two exchanges, or of the way to the switch and back
        ways = {
            "two-shot": (all_reduce_wire_bytes(size=size, ranks=tp), latency),
            "one-shot": ((tp - 1) * size, latency / 2),
            **({"nvls": (size, latency)} if adds_up else {}),
        }
        given = {"bandwidth_bytes_per_second": rate}
        chosen = list(ways.values() if self.all_reduce == "auto" else [ways[self.all_reduce]])
        name, label = "all-reduces", self.all_reduce
        if gathered is not None:
            chosen, label = [(ways["two-shot"][0] * (gathered / 2 + 1) / 2, latency)], "gather and scatter"
        wire, latency = chosen[0]
        for other in chosen[1:]:
            mine = message_seconds(wire_bytes=wire, latency_seconds=latency, **given)
            its = message_seconds(wire_bytes=other[0], latency_seconds=other[1], **given)
            wire, latency = where(its < mine, other[0], wire), where(its < mine, other[1], latency)
        sizes = {"wire_bytes": wire, "latency_seconds": latency}
        ledger.add(name, label, message_seconds, times, **sizes, **given)

    def _exchanges(self, ledger: Ledger, work: Block, tokens: Any, several: Any, prompts: Any) -> None:
        """All-to-alls of a layer of experts: every rank's tokens to the ranks of their experts, and back in 16 bit.

        A token goes to a rank once, however many of its experts are there. While tokens are decoded each copy is sent
        directly; a prompt's tokens cross to a node once, and are dealt out inside it (DeepEP, DeepSeek 2025).
        """
        used = max((m.used for m in work.matmuls if m.experts > 1), default=0)
        if not used:
            return
        c, ranks, f = self.constants, self.tp, self.facts
        _ = self._link  # raises where the network between nodes is needed and not known
        inside, between = f.inside * c.inside, f.between * c.between
        reached = nodes_reached(nodes=self.ep, picks=used) * ranks / self.ep
        given = {
            "ranks": ranks,
            "local_ranks": minimum(ranks, f.node),
            "copies": where(prompts, reached, 1),
            "inside_bytes_per_second": inside,
            "between_bytes_per_second": between,
            "inside_latency": c.meet / 2,  # `meet` is that of two exchanges
            "between_latency": c.between_meet / 2,
        }
        for name, element in (("to the experts", self.formats.sent_bytes), ("back", 2.0)):
            behind = Ledger(ledger.detail)
            sizes = {"tokens": tokens / ranks, "used": reached, "width": self.spec.hidden}
            size = behind.add("", "what a rank hands in", expert_message_bytes, **sizes, bytes_per_element=element)
            ledger.add("all-to-alls", name, all_to_all_seconds, several, size=size, **given, because=behind)

    @cached_property
    def _link(self) -> tuple[Any, Any, bool]:
        """Bytes per second of a ring of the tp ranks, seconds of an all-reduce, and whether their switch adds up.

        A ring that spans nodes leaves each over the adapters of all its ranks there.
        """
        c, f, link = self.constants, self.facts, self.cluster.intra_link
        if isinstance(self.tp, int):
            self.cluster.link_for(self.tp)  # raises where a network is needed and not known
        near = self.tp <= f.node
        far = {"inside_bytes_per_second": f.inside * c.inside, "between_bytes_per_second": f.between * c.between}
        rate = where(near, f.inside * c.inside, group_bandwidth(local_ranks=minimum(self.tp, f.node), **far))
        alone = near if isinstance(self.tp, int) else bool(near.all())
        adds_up = alone and link is not None and _switch_adds_up(link.name)
        return rate, c.meet + where(near, 0.0, c.between_meet), adds_up


@lru_cache(maxsize=64)
def _switch_adds_up(name: str) -> bool:
    return any(found.name == f"{name} + NVLS SHARP" for found in links())


@lru_cache(maxsize=4096)
def _block(spec: ModelSpec, layer: Layer, tp: Any, attention_dp: bool, tokens: Any) -> Block:
    experts = max((t.experts for t in layer.tensors), default=1)
    ranks = 1 if attention_dp else tp
    layout = Layout(
        dp=tp if attention_dp else 1,
        tp=ranks,
        ep=where(experts >= tp, tp, 1) if experts > 1 else 1,
        sequence_parallel=ranks > 1,
    )
    mine = tokens / tp if attention_dp else tokens
    return block(spec, layer, layout, seq_len=maximum(1, mine), training=False)


@checked
def engine_of(
    spec: ModelSpec, cluster: Cluster, *, engine: str, calibration: Mapping[str, Any] | None = None, **layout: Any
) -> Engine:
    """An `Engine` with the constants of its device and software; `layout`: its other fields."""
    for name in ("tp", "pp"):
        check_count(name, layout.get(name, 1))
    link = cluster.intra_link
    constants = serving_constants(cluster.accelerator, engine, calibration, link)
    made = Engine(spec, cluster, constants, **layout)
    if made.all_reduce == "nvls" and not made._link[2]:
        raise LLMHWError(
            f"all_reduce='nvls': no switch of {cluster.accelerator.name} adds up; use two-shot, one-shot or auto"
        )
    if made.tp * made.pp != cluster.devices:
        raise LLMHWError(f"tp x pp = {made.tp} x {made.pp} is not the {cluster.devices} devices of the cluster")
    return made


@checked
def bound(engine: Engine) -> Engine:
    """The same engine at every datasheet's peak, with nothing lost: no measurement is faster."""
    return replace(engine, constants=BOUND)
