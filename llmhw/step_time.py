"""Time of one training step: operations on the roofline, messages on the network, and the schedule that joins them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmhw.catalog import read_calibration
from llmhw.communication import (
    activation_message_bytes,
    all_gather_wire_bytes,
    all_reduce_wire_bytes,
    context_message_bytes,
    expert_message_bytes,
    reduce_scatter_wire_bytes,
)
from llmhw.formula import formula
from llmhw.hardware import Accelerator
from llmhw.job import TrainingJob
from llmhw.memory import precision_named
from llmhw.model import Layer
from llmhw.network import Network
from llmhw.operations import Core, Work, head_work, layer_work
from llmhw.roofline import OPERAND_BYTES, Rates, matmul_seconds, power_share
from llmhw.sharding import rank_tensors, stage_layers
from llmhw.units import check_choice, log, maximum


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What the model of time cannot derive. `calibration.json` has the values, their data and what they leave over.

    matmul, matmul8, matmul4   share of the dense peak that large products sustain in 16, 8 and 4 bit
    attention                  share of the 16-bit peak that fused attention reaches in the forward pass: the family's
                               for the kernel that the software has (flash1, flash2, or the newest)
    per_joule                  FLOP in 16 bit that a joule of board power pays for, where power is the limit
    pace                       time of all kernels over what the shares above give: software of that time
    host                       seconds that the host takes to launch a kernel
    blocking                   seconds a kernel, where the host waits for each before it launches the next
    gather_exposed             share of the weight gathering of ZeRO-3 that nothing hides
    accumulate                 bytes that a kernel of its own moves to add up a weight's gradient after each micro-batch
    sync                       seconds that a layer of experts waits for the host in each pass
    state                      share of the 16-bit peak that linear attention's kernels reach
    bandwidth                  share of the memory bandwidth that streaming kernels reach
    fill, ramp, gap            see `llmhw.roofline.Rates`; gap in seconds
    passes                     elementwise traffic over that of fused kernels
    cast                       passes over every operand of an 8- or 4-bit product, to scale and round it
    inside, between            share of the links' bandwidth that collectives reach, in a node and between nodes
    inside_latency, between_latency   seconds of a hop
    contention                 time that hidden communication takes from what hides it, as a share of the shorter one
    tp_exposed, ep_exposed, pp_exposed, dp_exposed   share of that communication that nothing hides
    jitter                     standard deviation of a node's step time, over the step time
    step                       seconds of a step outside forward and backward passes and the optimizer
    """

    matmul: float
    matmul8: float
    matmul4: float
    attention: float
    per_joule: float = 1e15
    pace: float = 1.0
    host: float = 0.0
    blocking: float = 0.0
    gather_exposed: float = 0.0
    accumulate: float = 0.0
    sync: float = 0.0
    state: float = 0.1
    bandwidth: float = 0.85
    fill: float = 128.0
    ramp: float = 350.0
    unaligned: float = 0.08
    gap: float = 3e-6
    passes: float = 1.0
    cast: float = 3.0
    inside: float = 0.8
    between: float = 0.85
    inside_latency: float = 3e-6
    between_latency: float = 10e-6
    contention: float = 0.1
    tp_exposed: float = 1.0
    ep_exposed: float = 1.0
    pp_exposed: float = 1.0
    dp_exposed: float = 1.0
    jitter: float = 0.005
    step: float = 0.0


IDEAL = Constants(
    matmul=1.0,
    matmul8=1.0,
    matmul4=1.0,
    attention=1.0,
    state=1.0,
    bandwidth=1.0,
    fill=0.0,
    ramp=0.0,
    unaligned=1.0,
    gap=0.0,
    passes=1.0,
    cast=0.0,
    inside=1.0,
    between=1.0,
    inside_latency=0.0,
    between_latency=0.0,
    contention=0.0,
    tp_exposed=0.0,
    ep_exposed=0.0,
    pp_exposed=0.0,
    dp_exposed=0.0,
    jitter=0.0,
)

# Rate of fused attention's backward pass over that of its forward pass, on A100 and H100 alike: FlashAttention-2 (Dao
# 2023), figures 4 to 6, and FlashAttention-3 (Shah et al. 2024), figures 5 and 6.
BACKWARD_ATTENTION = 0.8

BITS = {"fp32": 32, "tf32": 32, "fp16": 16, "bf16": 16, "fp8": 8, "fp8-block": 8, "mxfp8": 8, "nvfp4": 4}


def family_of(device: Accelerator, calibration: Mapping[str, Any] | None = None) -> str:
    """The family of devices whose constants hold for this one; `other` where none was fitted."""
    return device.family((calibration or read_calibration("training_time"))["families"])


def constants_of(device: Accelerator, software: str, calibration: Mapping[str, Any] | None = None) -> Constants:
    """The constants of a device and a software: what is common to all, then the family's, then the software's.

    software      a name under `software` in `calibration.json`
    calibration   other constants, as `llmhw validate --fit` writes them
    """
    known = calibration or read_calibration("training_time")
    check_choice("software", software, known["software"])
    chosen = dict(known["common"])
    family, running = known["families"][family_of(device, known)], known["software"][software]
    names = Constants.__dataclass_fields__
    for group in (family, running):
        chosen |= {name: value for name, value in group.items() if name in names}
    chosen["attention"] = family.get(running.get("attention_kernel", "attention"), family["attention"])
    return Constants(**chosen)


def softwares() -> dict[str, str]:
    """What software there are constants for, with what is meant by each.

    >>> "torch-compile" in softwares()
    True
    """
    known = read_calibration("training_time")["software"]
    return {name: str(values.get("meaning", "")) for name, values in known.items()}


def default_software(job: TrainingJob) -> str:
    """The newest software with the job's kernels."""
    return "torch-compile" if job.kernels == "torch" else "megatron-2026"


def rates(device: Accelerator, constants: Constants, compute: str) -> Rates:
    """What operations reach on a device. A format that it does not multiply raises `LLMHWError`."""
    c = constants
    half = "bf16" if "bf16" in device.peaks else "fp16"
    share = {32: c.matmul, 16: c.matmul, 8: c.matmul8, 4: c.matmul4}
    # a card whose power does not feed its peak runs all its tensor cores slower
    peak = device.peak(half)
    power = power_share(
        watts=device.tdp_watts or float("inf"), flops_per_joule=c.per_joule, flops_per_second=peak * c.matmul
    )
    formats = dict.fromkeys((half, compute))
    return Rates(
        matmul_flops_per_second={f: device.peak(f.removesuffix("-block")) * share[BITS[f]] * power for f in formats},
        forward_flops_per_second=peak * c.attention * power,
        backward_flops_per_second=peak * c.attention * power * BACKWARD_ATTENTION,
        state_flops_per_second=peak * c.state,
        bandwidth_bytes_per_second=device.memory_bandwidth_bytes_per_second * c.bandwidth,
        units=device.multiprocessors,
        fill=c.fill,
        ramp=c.ramp,
        unaligned=c.unaligned,
        gap_seconds=c.gap + c.blocking,
    )


def network(job: TrainingJob, constants: Constants) -> Network:
    """The cluster's network, with what collectives reach on it. A link that is needed and not known raises."""
    cluster, c = job.cluster, constants
    per_node = min(cluster.devices_per_node, cluster.devices)
    # a level that no message uses limits none
    inside = cluster.link_for(per_node).bytes_per_second if per_node > 1 else float("inf")
    between = cluster.link_for(cluster.devices).bytes_per_second if cluster.devices > per_node else float("inf")
    return Network(
        per_node=per_node,
        inside=inside * c.inside,
        between=between * c.between,
        inside_latency=c.inside_latency,
        between_latency=c.between_latency,
    )


@formula(
    source="the largest of n normal deviates is about sqrt(2 ln n) standard deviations above the mean", unit="fraction"
)
def straggler_share(*, nodes: Any, jitter: Any) -> Any:
    """Time that the slowest of many nodes adds to a step that all wait for, as a share of it.

    >>> round(straggler_share(nodes=1000, jitter=0.005), 4)
    0.0186
    """
    return jitter * (2 * log(maximum(nodes, 1))) ** 0.5


PARTS = (
    "matrix products",
    "attention",
    "elementwise",
    "recompute",
    "waiting for the host",
    "tensor-parallel",
    "context-parallel",
    "expert-parallel",
    "weight gathering",
    "pipeline sends",
    "pipeline bubble",
    "gradient reduction",
    "optimizer",
    "stragglers",
    "fixed",
)


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one optimizer step of the slowest stage, by part; the parts add up to the total.

    parts    seconds by name, see `PARTS`
    stages   seconds that each pipeline stage computes for one micro-batch
    spread   factors of the total that bound the interval; None where the calibration has none for such a job
    """

    parts: dict[str, float]
    stages: tuple[float, ...]
    spread: tuple[float, float] | None = (1.0, 1.0)

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return sum(self.parts.values())

    @property
    def interval(self) -> tuple[float, float] | None:
        """Seconds between which 80 % of measured steps of sources that were left out of the fit lie; None: unknown."""
        return self.spread and (self.total * self.spread[0], self.total * self.spread[1])


def _seconds(known: Mapping[str, float] | None = None) -> defaultdict[str, float]:
    """Seconds by part, from which a missing part is 0."""
    return defaultdict(float, known or {})


@dataclass(slots=True)
class _Clock:
    """Seconds of one micro-batch on one rank, by part, forward and backward apart."""

    forward: defaultdict[str, float]
    backward: defaultdict[str, float]

    @property
    def total(self) -> float:
        return sum(self.forward.values()) + sum(self.backward.values())


class _Timer:
    """Times one job under one set of constants."""

    def __init__(self, job: TrainingJob, constants: Constants) -> None:
        self.job, self.c = job, constants
        self.p, self.spec = job.parallelism, job.model
        self.rates = rates(job.cluster.accelerator, constants, job.compute)
        self.network = network(job, constants)
        self.half = next(f for f in self.rates.matmul_flops_per_second if f != job.compute or BITS[f] > 8)
        self.cast = constants.cast if BITS[job.compute] < 16 else 0.0
        self.recipe = precision_named(job.precision)
        self.width = self.recipe.compute
        p = self.p
        self.tokens = job.micro_batch * job.seq_len // p.cp
        self.own = self.tokens / p.tp if p.sequence_parallel else float(self.tokens)

    # -- operations ---------------------------------------------------------------------------

    def core(self, core: Core, backward: bool) -> float:
        """Attention's core: fused, or two batched products with the score matrix in memory."""
        r = self.rates
        if self.job.attention == "eager":
            times = 2 if backward else 1
            groups = max(1, round(core.batch * core.heads))
            scores = matmul_seconds(r, self.half, m=core.queries, n=core.keys, k=core.head_dim, groups=groups)
            values = matmul_seconds(r, self.half, m=core.queries, n=core.v_head_dim, k=core.keys, groups=groups)
            return times * (scores + values)
        flops = core.flops * (2.5 if backward else 1.0)
        rate = r.backward_flops_per_second if backward else r.forward_flops_per_second
        reach = core.pairs / max(core.queries, 1.0) * 2
        return flops / rate * (1 + r.ramp / reach) + r.gap_seconds

    def matmuls(self, work: Work, fmt: str) -> tuple[float, float]:
        """Forward, and backward: the gradients of inputs and of weights."""
        r, forward, backward = self.rates, 0.0, 0.0
        out = float(self.recipe.gradients)
        for x in work.matmuls:
            f = fmt if x.groups > 1 or x.n > 512 else self.half
            forward += matmul_seconds(r, f, m=x.m, n=x.n, k=x.k, groups=x.groups)
            backward += matmul_seconds(r, f, m=x.m, n=x.k, k=x.n, groups=x.groups)
            if not self.job.frozen:
                backward += matmul_seconds(r, f, m=x.n, n=x.k, k=x.m, groups=x.groups, out_bytes=out, accumulate=1)
            if self.cast and f == fmt:
                rate = r.bandwidth_bytes_per_second
                forward += 2 * x.groups * x.m * x.k * self.cast / 2 / rate
                backward += 2 * x.groups * x.m * x.n * self.cast / 2 / rate
        return forward, backward

    def layer(self, layer: Layer) -> _Clock:
        """One layer for one micro-batch."""
        job, c, r = self.job, self.c, self.rates
        work = layer_work(
            self.spec,
            layer,
            self.p,
            micro_batch=job.micro_batch,
            seq_len=job.seq_len,
            attention=job.attention,
            fused=job.kernels == "megatron",
            dropout=bool(job.dropout),
            imbalance=job.expert_imbalance,
        )
        ahead, behind = self.matmuls(work, job.compute)
        core = (self.core(work.core, False), self.core(work.core, True)) if work.core else (0.0, 0.0)
        if work.state_flops:
            state = work.state_flops / r.state_flops_per_second
            core = core[0] + state, core[1] + 2 * state
        ahead, behind, core = ahead * c.pace, behind * c.pace, (core[0] * c.pace, core[1] * c.pace)
        gaps = (work.kernels - len(work.matmuls)) * r.gap_seconds
        light = (
            work.forward_bytes * c.passes * c.pace / r.bandwidth_bytes_per_second + gaps,
            work.backward_bytes * c.passes * c.pace / r.bandwidth_bytes_per_second + gaps,
        )
        adding = c.accumulate * sum(m.weights for m in work.matmuls) / r.bandwidth_bytes_per_second
        if c.accumulate:
            # for every tensor: widened, added, cleared
            adding += 3 * len(layer.tensors) * r.gap_seconds
        forward = _seconds({"matrix products": ahead, "attention": core[0], "elementwise": light[0]})
        backward = _seconds({"matrix products": behind, "attention": core[1], "elementwise": light[1] + adding})
        backward["recompute"] = self.again(ahead, core[0], light[0], work)
        self.tensor_parallel(layer, forward, backward)
        self.context_parallel(layer, core, forward, backward)
        self.expert_parallel(layer, forward, backward)
        sync = c.sync if any(m.groups > 1 for m in work.matmuls) else 0.0
        for side, times in ((forward, 1), (backward, 3 if job.recompute == "full" else 2)):
            side["waiting for the host"] = max(0.0, times * work.kernels * c.host + sync - sum(side.values()))
        return _Clock(forward, backward)

    def again(self, products: float, core: float, light: float, work: Work) -> float:
        """What the backward pass computes a second time."""
        job = self.job
        if job.recompute == "full":
            return products + core + light
        if job.recompute == "block":
            return (products + core + light) * job.recompute_layers * self.p.pp / self.spec.num_layers
        if job.recompute == "selective":
            if job.attention == "flash":
                return 0.0  # flash attention's backward pass recomputes the scores in any case, and is counted so
            scores = self.c.passes * work.forward_bytes / self.rates.bandwidth_bytes_per_second
            return core + min(light, scores)
        if job.recompute == "per-op":
            return products / 2 + light
        return 0.0

    def ends(self) -> tuple[_Clock, _Clock]:
        """What the first and the last stage do outside the layers."""
        job, r = self.job, self.rates
        work = head_work(self.spec, self.p, micro_batch=job.micro_batch, seq_len=job.seq_len)
        ahead, behind = self.matmuls(work, self.half)
        light = [b * self.c.passes / r.bandwidth_bytes_per_second for b in (work.forward_bytes, work.backward_bytes)]
        last = _Clock(
            _seconds({"matrix products": ahead, "elementwise": light[0]}),
            _seconds({"matrix products": behind, "elementwise": light[1]}),
        )
        read = 2 * self.own * self.spec.hidden * 2 / r.bandwidth_bytes_per_second
        first = _Clock(_seconds({"elementwise": read}), _seconds({"elementwise": 2 * read}))
        return first, last

    # -- messages -----------------------------------------------------------------------------

    def tensor_parallel(
        self, layer: Layer, forward: defaultdict[str, float], backward: defaultdict[str, float]
    ) -> None:
        p = self.p
        if p.tp == 1:
            return
        pairs = 2 if any(t.component == "mlp" for t in layer.tensors) else 1
        whole = activation_message_bytes(
            batch=1, tokens=self.tokens, width=self.spec.hidden, bytes_per_element=self.width
        )
        if p.sequence_parallel:
            wire = reduce_scatter_wire_bytes(size=whole, ranks=p.tp)
            one = self.network.ring_seconds(wire, p.tp)
            ahead, behind = 2 * pairs * one, 2 * pairs * one
        else:
            wire = all_reduce_wire_bytes(size=whole, ranks=p.tp)
            one = self.network.ring_seconds(wire, p.tp, rounds=2)
            ahead, behind = pairs * one, pairs * one
        forward["tensor-parallel"] += ahead * self.c.tp_exposed
        backward["tensor-parallel"] += behind * self.c.tp_exposed
        if self.job.recompute == "full":
            backward["tensor-parallel"] += ahead * self.c.tp_exposed

    def context_parallel(
        self,
        layer: Layer,
        core: tuple[float, float],
        forward: defaultdict[str, float],
        backward: defaultdict[str, float],
    ) -> None:
        p, a = self.p, layer.attention
        if p.cp == 1 or a is None:
            return
        size = context_message_bytes(
            batch=self.job.micro_batch,
            tokens=self.job.seq_len // p.cp,
            kv_heads=max(1, a.kv_heads // p.tp),
            head_dim=a.head_dim,
            v_head_dim=a.v_head_dim,
            bytes_per_element=self.width,
        )
        if p.cp_kind == "all-gather":
            # keys and values of all ranks come before attention begins, their gradients are summed after it
            wire = all_gather_wire_bytes(size=size, ranks=p.cp)
            forward["context-parallel"] += self.network.ring_seconds(wire, p.cp, p.tp)
            # gathered again, and reduced in fp32
            backward["context-parallel"] += (1 + 4 / self.width) * self.network.ring_seconds(wire, p.cp, p.tp)
            return
        # the ring is as slow as its slowest link, which leaves the node if the group does
        far = p.tp if p.tp * p.cp <= self.network.per_node else self.network.per_node
        sends = (p.cp - 1) * self.network.send_seconds(size, far)
        for side, hidden, times in ((forward, core[0], 1), (backward, core[1], 2)):
            side["context-parallel"] += max(0.0, times * sends - hidden) + self.c.contention * min(
                times * sends, hidden
            )

    def expert_parallel(
        self, layer: Layer, forward: defaultdict[str, float], backward: defaultdict[str, float]
    ) -> None:
        p = self.p
        stack = next((t for t in layer.tensors if t.component == "experts" and t.matmul), None)
        if stack is None or p.ep * p.expert_tp == 1:
            return
        size = expert_message_bytes(
            tokens=self.own, used=stack.used, width=self.spec.hidden, bytes_per_element=self.width
        )
        one = self.network.all_to_all_seconds(size * self.job.expert_imbalance, p.ep, picks=stack.used)
        if p.expert_tp > 1:
            one += self.network.ring_seconds(all_gather_wire_bytes(size=size, ranks=p.expert_tp), p.expert_tp)
        forward["expert-parallel"] += 2 * one * self.c.ep_exposed
        backward["expert-parallel"] += 2 * one * self.c.ep_exposed * (2 if self.job.recompute == "full" else 1)

    def gathered(self, clock: _Clock, dense: float, experts: float) -> None:
        """ZeRO-3: a layer's weights are gathered ahead of it and its gradients reduced behind it, meanwhile."""
        p, c, recipe = self.p, self.c, self.recipe
        gather = reduce_ = 0.0
        for elements, ranks, step in ((dense, p.shards, p.tp), (experts, p.expert_shards, p.ep * p.expert_tp)):
            if not elements:
                continue
            # weights travel in the format that they are multiplied in
            one = min(self.width, OPERAND_BYTES[self.job.compute])
            wire = all_gather_wire_bytes(size=elements * one / ranks, ranks=ranks)
            gather += self.network.ring_seconds(wire, ranks, step)
            wire = reduce_scatter_wire_bytes(size=elements * min(4, recipe.gradients), ranks=ranks)
            reduce_ += self.network.ring_seconds(wire, ranks, step)
            # HSDP: the shards of all copies are added up
            wire = all_reduce_wire_bytes(size=elements * min(4, recipe.gradients) / ranks, ranks=p.replicas)
            reduce_ += self.network.ring_seconds(wire, p.replicas, step * ranks, rounds=2)
        for side, talk in ((clock.forward, gather), (clock.backward, gather + reduce_)):
            busy = sum(side.values())
            hidden = min(talk * (1 - c.gather_exposed), busy)
            side["weight gathering"] += talk - hidden + c.contention * hidden

    # -- the step -----------------------------------------------------------------------------

    def step(self) -> StepTime:
        job, p, c = self.job, self.p, self.c
        kinds: dict[int, tuple[Layer, _Clock]] = {}
        first, last = self.ends()
        # under a pipeline weights stay whole for the step (torchtitan's default, Llama 3 section 3.3.2)
        fsdp = p.zero == 3 and p.dp * p.cp > 1 and p.pp == 1
        stages: dict[tuple[Any, ...], _Clock] = {}
        order = []
        for stage in range(p.pp):
            numbers = [i for chunk in stage_layers(self.spec, p, stage) for i in chunk]
            held = Counter(id(self.spec.layers[i]) for i in numbers)
            key = (tuple(sorted(held.items())), stage == 0, stage == p.pp - 1)
            order.append(key)
            if key in stages:
                continue
            for i in numbers:
                layer = self.spec.layers[i]
                if id(layer) not in kinds:
                    kinds[id(layer)] = layer, self.layer(layer)
                    if fsdp:
                        dense = sum(t.numel for t in layer.tensors if t.component != "experts") / p.tp
                        experts = (layer.params - dense * p.tp) / (p.ep * p.expert_tp)
                        self.gathered(kinds[id(layer)][1], dense, experts)
            clock = _Clock(_seconds(), _seconds())
            ends = ((stage == 0, first), (stage == p.pp - 1, last))
            done = [(kinds[name][1], count) for name, count in held.items()] + [
                (end, 1) for there, end in ends if there
            ]
            for one, count in done:
                for mine, other in ((clock.forward, one.forward), (clock.backward, one.backward)):
                    for part, seconds in other.items():
                        mine[part] += count * seconds
            stages[key] = clock
        times = [stages[key].total for key in order]
        slowest = max(range(p.pp), key=times.__getitem__)
        clock, many = stages[order[slowest]], job.micro_batches
        parts = dict.fromkeys(PARTS, 0.0)
        for side in (clock.forward, clock.backward):
            for part, seconds in side.items():
                parts[part] += many * seconds
        self.pipeline(parts, times, slowest, many)
        self.tail(parts, slowest, clock)
        nodes = -(-job.cluster.devices // self.network.per_node)
        parts["stragglers"] = straggler_share(nodes=nodes, jitter=c.jitter) * sum(parts.values())
        parts["fixed"] = c.step
        return StepTime(parts, tuple(times))

    def pipeline(self, parts: dict[str, float], times: list[float], slowest: int, many: int) -> None:
        """The bubble: every other stage once, a chunk's worth; and the sends between stages."""
        job, p = self.job, self.p
        if p.pp == 1:
            return
        stride = p.dp * p.cp * p.tp
        tokens = self.tokens / (p.tp if p.sequence_parallel or job.kernels == "megatron" else 1)
        size = activation_message_bytes(batch=1, tokens=tokens, width=self.spec.hidden, bytes_per_element=self.width)
        send = self.network.send_seconds(size, stride)
        others = sum(times) - times[slowest]
        bubble = others / p.vpp
        if p.schedule == "zero-bubble":
            bubble /= 3
        parts["pipeline bubble"] = bubble + 2 * (p.pp - 1) * send
        parts["pipeline sends"] = 2 * many * p.vpp * send * self.c.pp_exposed

    def tail(self, parts: dict[str, float], stage: int, clock: _Clock) -> None:
        """Gradients over the data-parallel ranks, and the optimizer."""
        p, c, recipe, job = self.p, self.c, self.recipe, self.job
        if job.frozen:
            return
        dense = experts = 0
        for t, count in rank_tensors(self.spec, p, pp_rank=stage):
            if t.component == "experts":
                experts += count * t.numel
            else:
                dense += count * t.numel
        ranks, expert_ranks = p.dp * p.cp, max(1, p.dp * p.cp * p.tp // (p.ep * p.expert_tp))
        talk = 0.0
        groups = ((dense, ranks, p.tp), (experts, expert_ranks, p.ep * p.expert_tp))
        if p.zero < 3 or p.pp > 1:
            for elements, n, stride in groups:
                if n == 1 or not elements:
                    continue
                if p.zero == 0:
                    wire = all_reduce_wire_bytes(size=elements * recipe.gradients, ranks=n)
                    talk += self.network.ring_seconds(wire, n, stride, rounds=2)
                else:
                    wire = reduce_scatter_wire_bytes(size=elements * recipe.gradients, ranks=n)
                    # ZeRO-2 keeps no whole gradients from one micro-batch to the next
                    times = job.micro_batches if p.zero == 2 else 1
                    talk += times * self.network.ring_seconds(wire, n, stride)
                    # FSDP gathers what is computed with, ZeRO-1 and 2 what is kept
                    one = recipe.compute if p.zero == 3 else recipe.weights
                    wire = all_gather_wire_bytes(size=elements * one / n, ranks=n)
                    talk += self.network.ring_seconds(wire, n, stride)
        exposed = talk * c.dp_exposed
        # what hides it is the backward pass of the last micro-batch; each of ZeRO-2's scatters has one of its own
        busy = sum(clock.backward.values()) * (job.micro_batches if p.zero == 2 else 1)
        parts["gradient reduction"] = max(exposed, talk - busy) + c.contention * min(talk - exposed, busy)
        owned = dense / p.shards + experts / p.expert_shards if p.zero else float(dense + experts)
        # gradient, copy, two states read; copy, two states and the weights written; the gradients' norm before that
        moved = owned * (2 * recipe.gradients + 3 * 8 + 2)
        parts["optimizer"] = moved / self.rates.bandwidth_bytes_per_second


def time_step(
    job: TrainingJob, software: str | None = None, *, calibration: Mapping[str, Any] | None = None
) -> StepTime:
    """Seconds of one optimizer step.

    software      what runs it, see `constants_of`; default: the newest with the job's kernels
    calibration   other constants than those of `calibration.json`

    >>> from llmhw import Cluster, model
    >>> from llmhw.job import Parallelism
    >>> job = TrainingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 8), parallelism=Parallelism(dp=8, zero=3),
    ...                   seq_len=8192)
    >>> found = time_step(job)
    >>> found.interval[0] < found.total < found.interval[1]
    True
    """
    device = job.cluster.accelerator
    known = calibration or read_calibration("training_time")
    found = _Timer(job, constants_of(device, software or default_software(job), known)).step()
    interval = known["interval"].get(class_of(job, known))
    return replace(found, spread=interval and (float(interval[0]), float(interval[1])))


def class_of(job: TrainingJob, calibration: Mapping[str, Any] | None = None) -> str:
    """Which measured errors speak for a job: dense or experts; other on devices whose family was hardly measured."""
    if family_of(job.cluster.accelerator, calibration) == "other":
        return "other"
    return "experts" if any(t.experts > 1 for layer, _ in job.model.layer_kinds for t in layer.tensors) else "dense"


def time_bounds(
    job: TrainingJob, software: str | None = None, *, calibration: Mapping[str, Any] | None = None
) -> dict[str, tuple[float, float, float]]:
    """For each part of a step: the least it can take, the estimate, and the most it should take, in seconds.

    The least is every operation at its datasheet's peak, every message at the full rate of its link, and all that can
    be hidden hidden; the most is under `cautious` constants.
    """
    device = job.cluster.accelerator
    constants = constants_of(device, software or default_software(job), calibration)
    found = _Timer(job, constants).step().parts
    # a compiler may fuse more passes than are counted
    least = _Timer(job, replace(IDEAL, passes=min(IDEAL.passes, constants.passes))).step().parts
    most = _Timer(job, cautious(constants)).step().parts
    # waiting for the host shrinks where kernels take longer
    return {p: (min(least[p], s), s, max(most[p], s)) for p, s in found.items()}


def cautious(constants: Constants) -> Constants:
    """The same constants at the poor end of what was measured, with nothing hidden.

    Rates: the worst of the shapes that `matmul_efficiency.csv` has, and of NCCL's own tuning model, are about that much
    below the best.
    """
    c = constants
    shares = ("matmul", "matmul8", "matmul4", "attention", "bandwidth", "inside", "between", "per_joule")
    changed = {name: 0.8 * getattr(c, name) for name in shares}
    changed |= {name: 2 * getattr(c, name) for name in ("gap", "host", "jitter", "inside_latency", "between_latency")}
    exposed = ("tp_exposed", "ep_exposed", "pp_exposed", "dp_exposed", "gather_exposed")
    changed |= {name: max(1.0, getattr(c, name)) for name in exposed}
    return replace(c, **changed)
