"""Time of one training step: operations on the roofline, messages on the network, and the schedule that joins them.

Operations are those of `llmhw.block`, messages those that `llmhw.messages.collectives` lists, rates those of
`llmhw.rates`. One job is timed from plain numbers, many layouts of a job at once from arrays: the same code, see
`llmhw.job.Layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from llmhw.block import VOCABULARY_MULTIPLE, Core, Matmul, Op, Pass, State, block, first_block, last_block
from llmhw.catalog import read_calibration
from llmhw.checks import checked
from llmhw.formula import Estimate, Ledger, formula
from llmhw.frozen import FrozenDict
from llmhw.hardware import Cluster
from llmhw.host import host_of, host_read_seconds
from llmhw.job import Layout, TrainingJob, keeps_scaled
from llmhw.memory import lora_tensors, optimizer_named, precision_named
from llmhw.messages import (
    INPUTS_ONCE_MORE,
    Collective,
    Network,
    end_messages,
    flat_messages,
    in_buckets,
    layer_messages,
    norm_messages,
    pipeline_messages,
    sharded_messages,
    tied_messages,
)
from llmhw.model import Layer, Tensor
from llmhw.precision import formats_in
from llmhw.rates import (
    BITS,
    CAST_BYTES,
    IDEAL,
    OPERAND_BYTES,
    ROW_MULTIPLE,
    TrainingConstants,
    cautious,
    compute_seconds,
    exposed_seconds,
    matmul_seconds,
    stream_seconds,
    training_constants,
    training_rates,
    waiting_seconds,
)
from llmhw.schedule import bubble_seconds
from llmhw.sharding import Stage, StageTensors, mtp_layers, stages_of
from llmhw.step_interval import flags_of, interval_words, step_interval
from llmhw.units import any_of, ceil_div, log, maximum, minimum, share, where

PARTS = (
    "matrix products",
    "attention",
    "elementwise",
    "recompute",
    "reference model",
    "waiting for the host",
    "tensor-parallel",
    "context-parallel",
    "expert-parallel",
    "weight gathering",
    "pipeline sends",
    "pipeline bubble",
    "gradient reduction",
    "optimizer",
    "host memory",
    "stragglers",
    "fixed",
)


@checked
def network(cluster: Cluster, constants: TrainingConstants) -> Network:
    """A cluster's network, with what collectives reach on it. A link that is needed and not known raises."""
    c = constants
    per_node = min(cluster.devices_per_node, cluster.devices)
    # a level that no message uses limits none
    inside = cluster.link_for(per_node).bytes_per_second if per_node > 1 else float("inf")
    between = cluster.link_for(cluster.devices).bytes_per_second if cluster.devices > per_node else float("inf")
    return Network(
        per_node=per_node,
        inside=inside * c.inside * (c.through_host if cluster.through_host else 1.0),
        between=between * c.between,
        inside_latency=c.inside_latency,
        between_latency=c.between_latency,
        topology=cluster.intra_link.topology if cluster.intra_link else "",
        meshed=max(2, cluster.accelerator.scale_up_devices),
    )


# -- formulas ---------------------------------------------------------------------------------


@formula(
    source="the largest of n normal deviates is about sqrt(2 ln n) standard deviations above the mean", unit="fraction"
)
def straggler_share(*, nodes: Any, jitter: Any) -> Any:
    """Time that the slowest of many nodes adds to a step that all wait for, as a share of it.

    >>> round(straggler_share(nodes=1000, jitter=0.005), 4)
    0.0186
    """
    return jitter * (2 * log(maximum(nodes, 1))) ** 0.5


@formula(source="share of the slowest node's wait in the time of all others", unit="seconds")
def straggler_seconds(*, seconds: Any, nodes: Any, jitter: Any) -> Any:
    """Time that the slowest node adds to a step of so many seconds.

    >>> round(straggler_seconds(seconds=10, nodes=1000, jitter=0.005), 3)
    0.186
    """
    return seconds * straggler_share(nodes=nodes, jitter=jitter)


@formula(source="a gap behind every kernel", unit="seconds")
def gap_seconds(*, kernels: Any, gap: Any) -> Any:
    """Time between kernels.

    >>> gap_seconds(kernels=10, gap=3e-6)
    3e-05
    """
    return kernels * gap


@formula(source="what the update reads and writes once each; the gradients' norm before it", unit="bytes")
def update_bytes(*, elements: Any, gradients: Any, weights: Any, master: Any, states: Any) -> Any:
    """Memory traffic of an optimizer's step over the elements that a rank owns.

    gradients   bytes of a gradient: read for their norm, and for the update
    weights     bytes of a weight: written, and read too where there is no master copy
    master      bytes of the master copy, read and written; 0: there is none
    states      bytes of all states of an element, read and written

    >>> update_bytes(elements=1, gradients=2, weights=2, master=4, states=8)
    30
    """
    return elements * (2 * gradients + weights + where(master > 0, 2 * master, weights) + 2 * states)


# Share of the host memory's bandwidth at which its processor updates: ZeRO-Offload (Ren et al. 2021), table 4: 10 B
# weights in 2.57 s, 28 bytes each, on two Xeon 8168 with 256 GB/s.
HOST_UPDATE = 0.43
# Traffic of PyTorch's AdamW in kernels for each of its operations (foreach) over that of one fused kernel: 20 reads and
# writes of an element of weight, gradient, states and temporaries, in place of 7 (torch/optim/adamw.py).
UNFUSED = 20 / 7


@formula(source="Muon (Jordan et al. 2024): five Newton-Schulz steps on each matrix, three products each", unit="FLOP")
def orthogonalization_flops(*, long: Any, short: Any, matrices: Any = 1, steps: Any = 5) -> Any:
    """FLOPs of making Muon's update of a matrix orthogonal.

    long, short   the larger and the smaller size of the matrix: X X^T, its square, and the product with X

    >>> orthogonalization_flops(long=4096, short=4096) / 4096**3
    30.0
    """
    return matrices * steps * 2 * (2 * short**2 * long + short**3)


# -- what comes out ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one optimizer step of the slowest stage, by part; the parts add up to the total.

    parts    seconds by name, see `PARTS`
    stages   seconds that each pipeline stage computes for one micro-batch
    spread   factors of the total that bound the interval; None where the calibration has none for such a job
    slowest  number of the stage
    flags    what makes the interval wider than that of a dense model on hardware that many have measured
    reason   how the numbers came about, made when it is asked for
    """

    parts: dict[str, float]
    stages: tuple[float, ...]
    spread: tuple[float, float] | None = (1.0, 1.0)
    slowest: int = 0
    flags: tuple[str, ...] = ()
    reason: Callable[[], Estimate] | None = field(default=None, repr=False, compare=False)

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return sum(self.parts.values())

    @property
    def interval(self) -> tuple[float, float] | None:
        """Seconds between which 80 % of measured steps of sources that were left out of the fit lie; None: unknown."""
        return self.spread and (self.total * self.spread[0], self.total * self.spread[1])

    @property
    def interval_words(self) -> str:
        """What makes the interval as wide as it is, as in "mixture, layout searched: plus or minus 22 %"."""
        return interval_words(self.flags, self.spread)

    @property
    def estimate(self) -> Estimate:
        """The parts with the formulas behind them."""
        assert self.reason is not None
        return self.reason()

    def explain(self, part: str | None = None) -> str:
        """The formulas behind one part (or all) with this job's numbers put in.

        >>> from llmhw import Cluster, model
        >>> job = TrainingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 1), seq_len=4096)
        >>> print(time_step(job).explain("stragglers").splitlines()[0])
        stragglers = 0 ns
        """
        return self.estimate.explain(part)


@dataclass(slots=True)
class _Clock:
    """Seconds of one micro-batch on one rank, forward and backward apart."""

    forward: Ledger
    backward: Ledger

    @property
    def total(self) -> Any:
        return self.forward.total + self.backward.total


# -- the timer --------------------------------------------------------------------------------


class StepTimer:
    """Times layouts of one job under one set of constants.

    job      what does not change between layouts
    layout   one layout, or arrays of many
    detail   of the ledgers: totals, parts, or terms
    cluster  whose network it is; default: the job's

    What knows neither stages nor ZeRO (`layer`) is evaluated once for all of them.
    """

    def __init__(
        self,
        job: TrainingJob,
        layout: Layout,
        constants: TrainingConstants,
        *,
        detail: str = "parts",
        cluster: Cluster | None = None,
    ) -> None:
        self.job, self.x, self.c, self.detail = job, layout, constants, detail
        self.spec, self.device = job.model, job.cluster.accelerator
        self.compute = job.compute_format
        # what is not multiplied in the job's narrower format: 16 bit, or 32 where nothing is cast
        self.half = self.compute if BITS[self.compute] > 16 else self.device.half_format
        self.rates = training_rates(self.device, constants, self.compute)
        self.network = network(cluster or job.cluster, constants)
        self.recipe = precision_named(job.precision)
        self.eager = job.kernels == "torch" and job.trainer.elementwise == "eager"
        self.layers: dict[tuple[int, bool], _Clock] = {}
        self.alike: dict[tuple[Any, ...], tuple[Any, _Clock]] = {}
        self.adapted, self.expanded = frozenset[str](), 0.0
        if job.frozen:
            added = lora_tensors(job.model, rank=job.rank, targets=job.targets)
            self.adapted = frozenset(t.name.removesuffix(".lora_A.weight") for t, _ in added[::2])
            bits = formats_in(job.model, job.base)[0].bits_per_weight if job.base else 16
            # weights in fewer bits than products are done in are expanded before each (bitsandbytes, GPTQ)
            self.expanded = bits / 8 if bits < BITS[self.compute] else 0.0
        self.tensors = StageTensors(job.model, layout, job.parallelism.pp, job.mtp)

    def ledger(self) -> Ledger:
        return Ledger(self.detail)

    @property
    def passing(self) -> Layout:
        """The layout with the sequences that pass through the model at a time: of DPO's pairs both."""
        times = self.job.sequences // self.job.micro_batch
        return self.x if times == 1 else replace(self.x, micro_batch=times * self.x.micro_batch)

    # operations

    def products(self, m: Matmul, fmt: str, ahead: Ledger, behind: Ledger) -> Any:
        """Forward, and backward: the gradients of inputs and of weights; returns the time forward.

        Of products of one job that are alike, such as those of gate and up, the first is timed, unless each is to be
        explained, or sizes are arrays.
        """
        if self.detail != "parts":
            return self._products(m, fmt, ahead, behind)
        key = (fmt, m.m, m.n, m.k, m.groups, m.split, m.adapter, m.part == "router")
        if key not in self.alike:
            own = _Clock(self.ledger(), self.ledger())
            self.alike[key] = self._products(m, fmt, own.forward, own.backward), own
        seconds, clock = self.alike[key]
        ahead.merge(clock.forward)
        behind.merge(clock.backward)
        return seconds

    def _products(self, m: Matmul, fmt: str, ahead: Ledger, behind: Ledger) -> Any:
        fmt = self.half if m.part == "router" or m.adapter else fmt
        r, c, name = self.rates, self.c, "matrix products"
        given = r.product(fmt, m, a_bytes=OPERAND_BYTES[fmt], b_bytes=OPERAND_BYTES[fmt])
        if m.adapter:  # so thin that memory binds it, whatever its tiles
            given["units"] = None
        # rows are read along k, and the matrix, which lies as (n x k)
        seconds = ahead.add(name, m.name, matmul_seconds, **given, a_row=m.k, b_row=m.k)
        turned = given | {"n": m.k, "k": m.n}
        behind.add(name, f"{m.name}, gradient of its input", matmul_seconds, **turned)
        if m.adapter or not self.job.frozen:
            # added to what is there, which is read first; rows are padded to what a matrix instruction takes (TE)
            rows = ROW_MULTIPLE[fmt] * ceil_div(m.m, ROW_MULTIPLE[fmt])
            turned = given | {"m": m.n, "n": m.k, "k": rows, "out_bytes": 2.0 * self.recipe.gradients}
            turned |= {"a_row": m.n, "b_row": m.k}
            behind.add(name, f"{m.name}, gradient of its weights", matmul_seconds, **turned)
        if self.expanded and m.split != "vocab" and m.part != "router" and not m.adapter:
            moved = m.weights * (self.expanded + OPERAND_BYTES[self.half])
            given = {"memory_bytes": moved, "bandwidth_bytes_per_second": r.bandwidth_bytes_per_second}
            for ledger in (ahead, behind):
                more = ledger.add(name, f"weights of {m.name} expanded", stream_seconds, **given)
                seconds = seconds + more if ledger is ahead else seconds
        if BITS[fmt] < 16:
            casts = [(ahead, m.groups * m.m * m.k), (behind, m.groups * m.m * m.n)]
            if self.job.kernels == "torch":  # Transformer Engine rounds weights once a step
                casts += [(ahead, m.weights / 2), (behind, m.weights / 2)]
            for ledger, elements in casts:
                given = {"memory_bytes": elements * CAST_BYTES[fmt] * c.cast}
                given["bandwidth_bytes_per_second"] = r.bandwidth_bytes_per_second
                more = ledger.add(name, f"scaling and rounding for {m.name}", stream_seconds, **given)
                seconds = seconds + more if ledger is ahead else seconds
        return seconds

    def mixing(self, op: Core | State, ahead: Ledger, behind: Ledger) -> Any:
        """Attention's core, fused or as two batched products, or linear attention's state; returns both times."""
        r, name = self.rates, "attention"
        if isinstance(op, State):
            given = {"flops": op.flops + op.more, "flops_per_second": r.state_flops_per_second}
            return (
                ahead.add(name, op.name, compute_seconds, **given),
                # the states are computed once more
                behind.add(name, op.name, compute_seconds, 3, **given),
            )
        if self.job.attention == "eager" and op.v_head_dim:
            forward = backward = 0.0
            shape: dict[str, Any] = {"m": op.queries, "groups": maximum(1, op.batch * op.heads)}
            for what, sizes in (
                ("scores", {"n": op.keys, "k": op.head_dim}),
                ("weighted values", {"n": op.v_head_dim, "k": op.keys}),
            ):
                given = r.product(self.half, _EMPTY, **shape, **sizes)
                forward += ahead.add(name, what, matmul_seconds, **given)
                backward += behind.add(name, what, matmul_seconds, 2, **given)
            return forward, backward
        sides = ((ahead, False), (behind, True))
        made = []
        for ledger, back in sides:
            function, given = r.core(op, backward=back)
            made.append(ledger.add(name, op.name, function, **given))
        return tuple(made)

    def passes(self, op: Pass, ahead: Ledger, behind: Ledger) -> Any:
        """Elementwise traffic; returns the time forward."""
        c, made = self.c, []
        for ledger, moved in ((ahead, op.forward_bytes), (behind, op.backward_bytes)):
            given = {"memory_bytes": moved, "bandwidth_bytes_per_second": self.rates.bandwidth_bytes_per_second}
            wide = self.recipe.compute / 2 if op.element == 2 else 1.0  # counted in 16 bit
            times = (c.routed if op.routed else c.passes) * (op.alone if self.eager else 1.0) * wide
            made.append(ledger.add("elementwise", op.name, stream_seconds, times, **given))
        return made[0]

    # one layer

    def layer(self, kind: int, again: bool) -> _Clock:
        """One layer for one micro-batch; `again`: its forward pass is run a second time."""
        if (kind, again) not in self.layers:
            self.layers[kind, again] = self._layer(self.spec.layer_kinds[kind][0], again)
        return self.layers[kind, again]

    def _layer(self, layer: Layer, again: bool) -> _Clock:
        job, c = self.job, self.c
        work = block(
            self.spec,
            layer,
            self.passing,
            seq_len=job.seq_len,
            attention=job.attention,
            fused=job.kernels == "megatron",
            dropout=job.dropout_masks,
            imbalance=job.expert_imbalance,
            ring=job.parallelism.cp_kind == "ring",
            packed=job.packed,
            rank=job.rank,
            adapted=self.adapted,
        )
        products, core, scores, light, behind = (self.ledger() for _ in range(5))
        turned, once_more, nothing = self.ledger(), self.ledger(), self.ledger()
        cores = [0.0, 0.0]
        named = frozenset(job.recompute_modules.split(",")) if job.by_module and not again else frozenset()
        for op in work.ops:
            if named and named & set(op.again):
                self._forward(op, once_more, nothing)
            if isinstance(op, Matmul):
                self.products(op, self.compute, products, turned)
            elif isinstance(op, Pass):
                self.passes(op, scores if op.name == "softmax" else light, behind)
            elif isinstance(op, (Core, State)):
                cores = [a + b for a, b in zip(cores, self.mixing(op, core, behind), strict=True)]
        matmuls, kernels = work.matmuls, work.kernels
        gaps = {"kernels": kernels - len(matmuls), "gap": self.rates.gap_seconds}
        for ledger in (light, behind):
            ledger.add("elementwise", "gaps between kernels", gap_seconds, **gaps)
        behind.merge(turned)
        self._accumulate(layer, matmuls, behind)
        self._recompute(again, products, core, scores, light, behind)
        behind.merge(once_more, part="recompute")
        ahead = self.ledger().merge(products).merge(core).merge(scores).merge(light)
        if again and job.checkpoint_offload:
            # its input waits in host memory, and goes and comes beside the next layer
            size = share(share(self.x.micro_batch * job.seq_len, self.x.cp), self.x.spread) * self.spec.hidden
            for ledger in (ahead, behind):
                self.moved(ledger, "input of a recomputed layer", size * self.recipe.compute, ledger.total)
        self._messages(layer, again, turned.total, cores, ahead, behind)
        # operands are scaled and rounded by kernels of their own, and their scales kept; experts multiplied one by one
        casts = 2 * len(matmuls) if BITS[self.compute] < 16 else 0
        each = sum(m.groups - 1 for m in matmuls if m.part == "experts") * _EXPERT_LAUNCH
        launches = kernels + (c.launches - 1) * work.plain + casts + (each if job.kernels == "megatron" else 0)
        sync = c.sync if any(m.part == "experts" for m in matmuls) else 0.0
        for ledger, launched in ((ahead, 1), (behind, 3 if again else 2)):
            given = {"kernels": launched * launches, "host_seconds": c.host, "sync_seconds": sync}
            ledger.add("waiting for the host", "launches", waiting_seconds, **given, busy_seconds=ledger.total)
        return _Clock(ahead, behind)

    def _forward(self, op: Op, ahead: Ledger, nothing: Ledger) -> None:
        """An operation that a recomputed module runs once more."""
        if isinstance(op, Matmul):
            self.products(op, self.compute, ahead, nothing)
        elif isinstance(op, Pass):
            self.passes(op, ahead, nothing)
        elif isinstance(op, (Core, State)):
            self.mixing(op, ahead, nothing)

    def _accumulate(self, layer: Layer, matmuls: Iterable[Matmul], behind: Ledger) -> None:
        """Gradients added up by kernels of their own: for every tensor widened, added, cleared."""
        if any_of(self.c.accumulate):
            moved = self.c.accumulate * sum(m.weights for m in matmuls if m.adapter or not self.job.frozen)
            given = {"memory_bytes": moved, "bandwidth_bytes_per_second": self.rates.bandwidth_bytes_per_second}
            behind.add("elementwise", "gradients added up", stream_seconds, **given)
            kernels = {"kernels": 3 * len(layer.tensors), "gap": self.rates.gap_seconds}
            behind.add("elementwise", "gaps between their kernels", gap_seconds, **kernels)

    def _recompute(
        self, again: bool, products: Ledger, core: Ledger, scores: Ledger, light: Ledger, behind: Ledger
    ) -> None:
        """What the backward pass computes a second time.

        Flash attention's backward pass recomputes its scores in any case, and is counted so. Per-op keeps the results
        of attention and of every second product: see `llmhw.job.keeps_scaled`.
        """
        mode = "full" if again else self.job.recompute
        shares: tuple[tuple[Ledger, float], ...]
        if mode == "full":
            shares = ((products, 1.0), (core, 1.0), (scores, 1.0), (light, 1.0))
        elif mode == "selective" and self.job.attention == "eager":
            shares = ((core, 1.0), (scores, 1.0))
        elif mode == "per-op":
            every = BITS[self.compute] < 16 and not keeps_scaled(self.job)
            shares = ((products, 1.0 if every else 0.5), (scores, 1.0), (light, 1.0))
        else:
            return
        for ledger, share_ in shares:
            behind.merge(ledger, share_, part="recompute")

    # messages

    def send(self, ledger: Ledger, part: str, c: Collective, exposed: Any = 1.0) -> Any:
        """Add the time of all calls of a message, or of the share of it that nothing hides; returns all of it."""
        calls = where(c.ranks > 1, c.calls, 0)
        if c.kind == "recv" or not any_of(calls):
            return 0.0
        function, given = self.network.timing(c, self.x)
        return ledger.add(part, f"{c.what}: {c.kind} over {c.axis}", function, calls * exposed, **given)

    def overlapped(
        self, ledger: Ledger, part: str, what: str, messages: Iterable[tuple[Collective, int]], busy: Any, exposed: Any
    ) -> None:
        """Add what messages cost, each so many times, that run beside computing of `busy` seconds."""
        talk = self.ledger()
        for c, times in messages:
            self.send(talk, part, c, times)
        given = {"message_seconds": talk.total, "busy_seconds": busy}
        ledger.add(part, what, exposed_seconds, **given, exposed=exposed, contention=self.c.contention, because=talk)

    def _messages(
        self, layer: Layer, again: bool, products: Any, core: list[Any], ahead: Ledger, behind: Ledger
    ) -> None:
        """Messages of a layer; `products`, `core`: seconds of its backward products, and of its core in both passes."""
        c, ring = self.c, self.job.parallelism.cp_kind == "ring"
        passed: dict[str, list[tuple[Collective, int]]] = {"forward": [], "backward": []}
        for message in layer_messages(self.job, self.passing, layer, again=again):
            ledger = ahead if message.phase == "forward" else behind
            if message.what == INPUTS_ONCE_MORE and self.job.kernels == "megatron":
                # they come while the gradients of the inputs are computed (Korthikanti et al. 2022, section 4.2.2)
                self.overlapped(ledger, "tensor-parallel", message.what, [(message, 1)], products / 2, 0.0)
            elif message.axis == "tp":
                self.send(ledger, "tensor-parallel", message, c.tp_exposed)
            elif message.axis == "cp":
                passed[message.phase].append((message, 1))
            else:
                busiest = self.job.expert_imbalance if "counted" not in message.what else 1.0
                self.send(ledger, "expert-parallel", message, c.ep_exposed * busiest)
        if passed["forward"]:
            # a ring is hidden by attention; gathered keys come before it begins, their gradients are summed behind it
            for ledger, phase, busy in ((ahead, "forward", core[0]), (behind, "backward", core[1])):
                busy, exposed = (busy, 0.0) if ring else (0.0, 1.0)
                self.overlapped(ledger, "context-parallel", "keys and values", passed[phase], busy, exposed)

    # outside the layers

    @cached_property
    def ends(self) -> tuple[_Clock, _Clock]:
        """What the first and the last stage do outside the layers, for one micro-batch."""
        job, made = self.job, []
        first = first_block(self.spec, self.passing, seq_len=job.seq_len)
        multiple = VOCABULARY_MULTIPLE if job.kernels == "megatron" else 1
        last = last_block(self.spec, self.passing, seq_len=job.seq_len, loss=job.loss, multiple=multiple)
        for work, place in ((first, {"first": True, "last": False}), (last, {"first": False, "last": True})):
            clock = _Clock(self.ledger(), self.ledger())
            for op in work.ops:
                if isinstance(op, Matmul):
                    self.products(op, self.half, clock.forward, clock.backward)
                elif isinstance(op, Pass):
                    self.passes(op, clock.forward, clock.backward)
            for c in end_messages(job, self.passing, **place):
                ledger = clock.forward if c.phase == "forward" else clock.backward
                self.send(ledger, "tensor-parallel", c, self.c.tp_exposed)
            made.append(clock)
        return made[0], self._predicted(made[1]) if job.mtp else made[1]

    def _predicted(self, last: _Clock) -> _Clock:
        """The last stage's end with multi-token prediction: for each of its layers one like the last, and the head.

        Two norms and a product of twice the width come before a layer (DeepSeek-V3, section 2.2).
        """
        rows = share(self.passing.micro_batch * self.job.seq_len, self.x.cp)
        clock = _Clock(self.ledger().merge(last.forward), self.ledger().merge(last.backward))
        one = self.layer(len(self.spec.layer_kinds) - 1, self.job.recompute == "full")
        for t in self.spec.mtp_tensors:
            if t.matmul and t.part == "mtp":
                into = Matmul(name=t.module, part="head", m=share(rows, self.x.spread), n=t.out, k=t.into)
                self.products(into, self.half, clock.forward, clock.backward)
        count = mtp_layers(self.spec)
        clock.forward.merge(last.forward, count).merge(one.forward, count)
        clock.backward.merge(last.backward, count).merge(one.backward, count)
        return clock

    # the step

    def stage(self, stage: Stage) -> _Clock:
        """One micro-batch on a stage: its layers and its ends."""
        clock = _Clock(self.ledger(), self.ledger())
        for (kind, again), count in stage.layers.items():
            one = self.layer(kind, again)
            if self._gathers:
                one = self._gathered(kind, one)
            clock.forward.merge(one.forward, count)
            clock.backward.merge(one.backward, count)
        for there, end in zip((stage.first, stage.last), self.ends, strict=True):
            if there:
                clock.forward.merge(end.forward)
                clock.backward.merge(end.backward)
        if self._gathers:
            # the root group comes before everything, and its gradients are reduced behind everything
            for c in self._shard_messages(stage.ends, "outside the blocks"):
                self.send(clock.forward if c.phase == "forward" else clock.backward, "weight gathering", c)
        return clock

    @property
    def _gathers(self) -> bool:
        """Whether ZeRO-3 gathers weights for every micro-batch: under a pipeline they stay whole for the step."""
        return self.job.parallelism.pp == 1 and any_of(self.x.zero == 3)

    def _shard_messages(self, held: Iterable[int | str], what: str = "a block") -> list[Collective]:
        """FSDP's messages for a kind of layer, or for the ends: experts lie on other ranks than the rest."""
        made: list[Collective] = []
        for kind in ("", "expert "):
            elements = sum(self.tensors.shard(which, bool(kind)) for which in held)
            if any_of(elements):
                made += sharded_messages(self.job, self.x, elements, kind, what)
        return made

    def _gathered(self, kind: int, clock: _Clock) -> _Clock:
        """A layer's weights are gathered ahead of it and its gradients reduced behind it, meanwhile."""
        messages = self._shard_messages([kind])
        made = _Clock(self.ledger().merge(clock.forward), self.ledger().merge(clock.backward))
        for ledger, phase in ((made.forward, "forward"), (made.backward, "backward")):
            mine = [(c, 1) for c in messages if c.phase == phase]
            what = "gathered beside a block" if phase == "forward" else "gathered and reduced beside a block"
            self.overlapped(ledger, "weight gathering", what, mine, ledger.total, self.c.gather_exposed)
        return made

    def step(self, stage: Stage, clock: _Clock, others: tuple[Any, Any]) -> Ledger:
        """The whole step if this stage is the slowest.

        clock    of one micro-batch on it
        others   seconds forward and backward of one micro-batch on all other stages together
        """
        job, p, x, c = self.job, self.job.parallelism, self.x, self.c
        found = self.ledger()
        found.merge(clock.forward, x.micro_batches).merge(clock.backward, x.micro_batches)
        if job.has_reference or (job.method == "dpo" and job.reference is not False):
            # what the reference would have answered: another copy, or the model with its adapters switched off
            found.merge(clock.forward, x.micro_batches, part="reference model")
        if p.pp > 1:
            zero_bubble = p.pipeline_schedule == "zero-bubble"
            given = {"forward": others[0], "backward": others[1], "chunks": x.vpp, "zero_bubble": int(zero_bubble)}
            found.add("pipeline bubble", "other stages", bubble_seconds, **given)
            sends = list(pipeline_messages(job, self.passing, first=stage.first, last=stage.last))
            for message in sends:
                self.send(found, "pipeline sends", message, c.pp_exposed)
            # a micro-batch passes all stages on its way there and back
            way = replace(sends[0], calls=2 * (p.pp - 1), what="the way through all stages")
            self.send(found, "pipeline bubble", way)
        self._reduce(stage, clock, found)
        if p.offload != "none":
            self._from_host(stage, clock, found)
        if not job.frozen:
            self._update(stage, found)
        nodes = ceil_div(x.devices, self.network.per_node)
        given = {"seconds": found.total, "nodes": nodes, "jitter": c.jitter}
        found.add("stragglers", "the slowest node", straggler_seconds, **given)
        if any_of(c.step):
            found.add("fixed", "outside the passes", compute_seconds, flops=c.step, flops_per_second=1)
        return found

    def _reduce(self, stage: Stage, clock: _Clock, found: Ledger) -> None:
        """Gradients over the data-parallel ranks and their new weights; and what is summed behind the backward pass.

        A backward pass hides what it reduces: that of the last micro-batch, and each of ZeRO-2's scatters that of its
        own. Where chunks are interleaved, one is done with its last micro-batch while those of all stages still pass
        the chunks before it. New weights are gathered beside the next forward pass where the trainer does so, which
        only Megatron's kernels know outside ZeRO-3.
        """
        job, x, sent = self.job, self.x, list[tuple[Collective, int]]()
        for chunk, count in stage.chunks:
            for kind in ("", "expert "):
                tensors, elements = self.tensors.elements(chunk, bool(kind))
                if tensors:
                    sent += [(in_buckets(job, c), count) for c in flat_messages(job, x, elements, kind)]
        if job.parallelism.pp > 1 and any_of(x.zero == 3):
            for which, n in stage.kinds.items():
                sent += [(c, n) for c in self._shard_messages([which])]
            sent += [(c, 1) for c in self._shard_messages(stage.ends, "outside the blocks")]
        ahead = job.trainer.gather_prefetch * where(x.zero == 3, 1, int(job.kernels == "megatron"))
        reduced = [(c, n) for c, n in sent if c.phase == "backward"]
        gathered = [(c, n) for c, n in sent if c.phase != "backward"]
        name, share_ = "gradient reduction", self.c.dp_exposed
        passing = maximum(1, minimum(x.pp, x.micro_batches) * (x.vpp - 1) / x.vpp)
        busy = clock.backward.total * where(x.zero == 2, x.micro_batches, passing)
        self.overlapped(found, name, "gradients", reduced, busy, share_)
        exposed = maximum(share_, 1 - ahead)
        self.overlapped(found, name, "new weights", gathered, clock.forward.total * passing, exposed)
        for c in norm_messages(job, x, self.tensors.held(stage, component="norms")):
            self.send(found, "gradient reduction", c, self.c.tp_exposed)
        if stage.ends:
            for c in tied_messages(job, x):
                self.send(found, "gradient reduction", c)

    def _update(self, stage: Stage, found: Ledger) -> None:
        """The optimizer's step over what the rank owns."""
        x, recipe, chosen = self.x, self.recipe, optimizer_named(self.job.optimizer)
        bandwidth = {"bandwidth_bytes_per_second": self.rates.bandwidth_bytes_per_second}
        sizes: dict[str, Any] = {
            "gradients": recipe.gradients, "weights": recipe.weights, "master": recipe.master
        }  # fmt: skip
        for name, experts, shards in (("dense", False, x.shards), ("experts", True, x.expert_shards)):
            count, whole = self.tensors.elements(stage, experts)
            if not count:
                continue
            each, spread = chosen.uniform(recipe.state), where(x.zero > 0, shards, 1)
            groups = {each or 0.0: whole}
            if each is None:
                mine = [(t, n) for t, n in self.tensors.held(stage) if (t.component == "experts") == experts]
                groups = chosen.widths(mine, recipe.state)
                if chosen.scheme == "muon":
                    flops = sum(_orthogonalization(t, n) for t, n in mine if t.is_block_matrix) / spread
                    rate = self.rates.flops_per_second[self.half]
                    what = f"Newton-Schulz, {name}"
                    found.add("optimizer", what, compute_seconds, flops=flops, flops_per_second=rate)
            for states, elements in groups.items():
                own = elements / spread
                moved = update_bytes(elements=own, states=states, **sizes)
                if self.job.parallelism.offload != "none":
                    # the host's processor updates, and the new weights go back to the device
                    rate = HOST_UPDATE * self.host["host_bytes_per_second"] / self.host["devices"]
                    given = {"memory_bytes": moved, "bandwidth_bytes_per_second": rate}
                    found.add("host memory", f"update by the host, {name}", stream_seconds, **given)
                    if self.job.parallelism.offload == "optimizer":
                        self.moved(found, f"new weights, {name}", own * recipe.weights)
                    continue
                times = UNFUSED if self._unfused and states else 1.0
                found.add("optimizer", f"update, {name}", stream_seconds, times, memory_bytes=moved, **bandwidth)
                if chosen.paged:  # what the device has no room for comes and goes
                    self.moved(found, f"paged states, {name}", 2 * own * states)

    # what lies on the host

    @cached_property
    def host(self) -> dict[str, Any]:
        """Rates of host memory: a device's link, and the memory that the devices of a host share; at most eight do."""
        found = host_of(self.device)
        return {
            "link_bytes_per_second": found.link_bytes_per_second,
            "host_bytes_per_second": found.cpu.memory_bandwidth_bytes_per_second,
            "devices": minimum(self.x.devices, min(self.network.per_node, 8)),
        }

    @property
    def _unfused(self) -> bool:
        """Whether the optimizer's operations are kernels of their own: PyTorch's default, where nothing compiles it."""
        return (
            self.eager and self.job.optimizer.startswith("adamw") and not self.job.optimizer.endswith(("bit", "fused"))
        )

    def moved(self, ledger: Ledger, what: str, moved: Any, busy: Any = 0.0, times: Any = 1) -> None:
        """Add what comes from or goes to host memory while the device computes for `busy` seconds."""
        talk = self.ledger()
        talk.add("host memory", what, host_read_seconds, times, memory_bytes=moved, **self.host)
        given = {"message_seconds": talk.total, "busy_seconds": busy}
        ledger.add("host memory", what, exposed_seconds, **given, because=talk)

    def _from_host(self, stage: Stage, clock: _Clock, found: Ledger) -> None:
        """Gradients go to the host beside the backward pass; weights that lie there come for every pass."""
        job, x, recipe = self.job, self.x, self.recipe
        everything = job.parallelism.offload == "all"
        for name, experts, shards in (("dense", False, x.shards), ("experts", True, x.expert_shards)):
            count, whole = self.tensors.elements(stage, experts)
            if not count:
                continue
            if everything:
                own = whole / where(x.zero == 3, shards, 1) * recipe.weights
                times = x.micro_batches
                self.moved(found, f"weights for the forward pass, {name}", own, clock.forward.total * times, times)
                self.moved(found, f"weights for the backward pass, {name}", own, clock.backward.total * times, times)
            if not job.frozen:
                # summed on the device, but where they lie on the host: there, after each micro-batch
                times = x.micro_batches if everything else 1
                own = whole / where(x.zero > 0, shards, 1) * recipe.gradients
                self.moved(found, f"gradients, {name}", own, clock.backward.total * times, times)


def _orthogonalization(t: Tensor, count: Any) -> Any:
    rows, columns = t.shape[-2], t.shape[-1]
    long, short = maximum(rows, columns), -maximum(-rows, -columns)
    return orthogonalization_flops(long=long, short=short, matrices=count * (t.numel // (rows * columns)))


def _all(flags: Any) -> bool:
    return bool(flags.all()) if hasattr(flags, "all") else bool(flags)


# Launching one product more of a group of them, in C++, over launching an operation of PyTorch [inferred].
_EXPERT_LAUNCH = 0.2
_EMPTY = Matmul(name="", part="", m=0, n=0, k=0)


def time_layouts(timer: StepTimer) -> tuple[Any, Ledger, tuple[Any, ...]]:
    """The slowest stage's number, the whole step, and what each stage computes for one micro-batch.

    Of arrays every distinct stage is followed to the end, and each layout takes its own slowest one.
    """
    stages = stages_of(timer.job)
    clocks = [timer.stage(s) for s in stages]
    times = [(clock.forward.total, clock.backward.total) for clock in clocks]
    sums = [sum(s.count * t[side] for s, t in zip(stages, times, strict=True)) for side in (0, 1)]
    totals = [ahead + behind for ahead, behind in times]
    rest = [(sums[0] - ahead, sums[1] - behind) for ahead, behind in times]
    longest = totals[0]
    for total in totals[1:]:
        longest = maximum(longest, total)
    found, slowest = None, 0
    for i, total in enumerate(totals):
        here = total == longest
        if not any_of(here) or (found is not None and timer.detail != "totals"):
            continue
        one = timer.step(stages[i], clocks[i], rest[i])
        if found is None:
            found, slowest = one, i
        else:
            found.parts[""] = where(here, one.total, found.total)
        if timer.detail == "totals" and _all(here):
            break
    assert found is not None
    return stages[slowest].index, found, tuple(totals)


@checked
def time_step(
    job: TrainingJob, *, calibration: Mapping[str, Any] | None = None, unstated: Iterable[str] = ()
) -> StepTime:
    """Seconds of one optimizer step.

    calibration   other constants than those of `calibration.json`
    unstated      what a source left open, so that the interval is wider: see `llmhw.step_interval.UNSTATED`

    >>> from llmhw import Cluster, model
    >>> from llmhw.job import Parallelism
    >>> job = TrainingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 8), parallelism=Parallelism(dp=8, zero=3),
    ...                   seq_len=8192)
    >>> found = time_step(job)
    >>> found.interval[0] < found.total < found.interval[1]
    True
    """
    known = calibration or read_calibration("training_time")
    constants = training_constants(job.cluster.accelerator, job.trainer, known, job.cluster.inter_link)
    found = _timed(job, constants)
    flags = flags_of(job, found.total, known, unstated)
    return replace(found, flags=flags, spread=step_interval(job, flags, known))


def _timed(job: TrainingJob, constants: TrainingConstants) -> StepTime:
    def reason() -> Estimate:
        found = time_layouts(StepTimer(job, job.layout, constants, detail="terms"))[1]
        return found.estimate(f"step of {job.model.name} on {job.cluster}", "seconds", PARTS)

    slowest, found, totals = time_layouts(StepTimer(job, job.layout, constants))
    parts = FrozenDict({name: float(found.parts.get(name, 0.0)) for name in PARTS})
    kinds = {s.index: float(total) for s, total in zip(stages_of(job), totals, strict=True)}
    each = tuple(kinds[s] for s in (stage.index for stage in stages_of(job, every=True)))
    return StepTime(parts, each, slowest=slowest, reason=reason)


@checked
def time_bounds(
    job: TrainingJob, *, calibration: Mapping[str, Any] | None = None
) -> dict[str, tuple[float, float, float]]:
    """For each part of a step: the least it can take, the estimate, and the most it should take, in seconds.

    The least is every operation at its datasheet's peak, every message at the full rate of its link, and all that can
    be hidden hidden; the most is under `cautious` constants.
    """
    constants = training_constants(job.cluster.accelerator, job.trainer, calibration, job.cluster.inter_link)
    found = _timed(job, constants).parts
    # a compiler may fuse more passes than are counted
    least = _timed(
        job, replace(IDEAL, passes=min(IDEAL.passes, constants.passes), routed=min(IDEAL.routed, constants.routed))
    ).parts
    most = _timed(job, cautious(constants)).parts
    # waiting for the host shrinks where kernels take longer
    return {p: (min(least[p], s), s, max(most[p], s)) for p, s in found.items()}
