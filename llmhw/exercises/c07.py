"""Exercises of chapter 7, networks and layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

import llmhw
from llmhw.exercises.base import Exercise
from llmhw.messages import all_reduce_wire_bytes, group_bandwidth, message_seconds, nodes_reached
from llmhw.training import train
from llmhw.units import GIB, LLMHWError

_H100, _A100, _P4D = "Standard_ND96isr_H100_v5", "Standard_ND96amsr_A100_v4", "p4d.24xlarge"
_MACHINES = {_H100: "Azure ND H100 v5", _A100: "Azure NDm A100 v4", _P4D: "AWS p4d"}


def _rates(machine: str) -> tuple[float, float, int]:
    """Bytes per second inside a node and of one adapter, and devices of a node."""
    cluster = llmhw.instance(machine).cluster(nodes=2)
    node = cluster.devices_per_node
    return cluster.link_for(node).bytes_per_second, cluster.link_for(2 * node).bytes_per_second, node


def _ring(machine: str, local: int, nodes: int = 2) -> float:
    """GB/s of a ring over nodes."""
    inside, between, _ = _rates(machine)
    return float(
        group_bandwidth(local_ranks=local, inside_bytes_per_second=inside, between_bytes_per_second=between) / 1e9
    )


def _all_reduce_ms(local: int, nodes: int, gib: float, rate: float | None = None) -> float:
    wire = all_reduce_wire_bytes(size=gib * GIB, ranks=local * nodes)
    return 1e3 * float(message_seconds(wire_bytes=wire, bandwidth_bytes_per_second=rate or 1e9 * _ring(_H100, local)))


def _hidden_from(name: str, machine: str, *, inside: bool = False, grouped: bool = True) -> float:
    """Tokens of a rank from which on ring attention hides, at peak."""
    spec, (node, adapter, _) = llmhw.model(name), _rates(machine)
    share = spec.kv_heads / spec.heads if grouped else 1.0
    return 2 * share * llmhw.instance(machine).accelerator.peak("bf16") / (node if inside else adapter)


# -- design -----------------------------------------------------------------------------------

_SEQ_LEN, _MOST = 8192, 1.15


@cache
def _asked(cards: int) -> llmhw.TrainingJob:
    return llmhw.TrainingJob(
        model=llmhw.model("llama-3-70b"),
        cluster=llmhw.instance(_H100).cluster(nodes=cards // 8),
        parallelism=llmhw.Parallelism(dp=cards),
        global_batch=4 * cards,
        seq_len=_SEQ_LEN,
        precision="bf16-mixed-fp32-grads",
        kernels="megatron",
        software="torchtitan",
    )


@cache
def _best(cards: int) -> float:
    return float(llmhw.search(_asked(cards), best=1).best[0].seconds)


def _lays_out(answer: llmhw.Parallelism, cards: int) -> str:
    """What is wrong with a layout, or ""."""
    if answer.devices != cards:
        return f"it takes {answer.devices:,} cards, not {cards:,}"
    found, refused = [], ""
    for recompute in ("none", "full"):
        try:
            found.append(train(replace(_asked(cards), parallelism=answer, recompute=recompute)))
        except LLMHWError as error:
            refused = str(error)
    if refused:
        return refused
    fitting = [each for each in found if each.memory.fits]
    if not fitting:
        return f"it needs {min(each.memory.device_bytes for each in found) / GIB:.0f} GiB a card, even with recompute"
    ratio = min(each.step_seconds for each in fitting) / _best(cards)
    return "" if ratio <= _MOST else f"it fits, and takes {ratio:.2f} times as long as the best"


_MEASURED: Mapping[str, Any] = MappingProxyType({"least": 2**9, "most": 2**26})


def _plausible(answer: float) -> str:
    least, most = _MEASURED["least"], _MEASURED["most"]
    if answer < least:
        return "a smaller message takes no longer than an empty one: is the rate in bytes/s?"
    if answer > most:
        return "that is more than any machine needs: divide the time of one large message, not of many"
    return ""


EXERCISES = (
    Exercise(
        "7.1",
        "by hand",
        1,
        "On {machine} a group has {local} ranks in each of {nodes} nodes. From the datasheets, what bandwidth does its "
        "ring get, for each rank and direction?",
        unit="GB/s",
        given={"machine": tuple(_MACHINES), "local": (2, 4), "nodes": (4, 2, 8, 16)},
        answer=_ring,
        slips={
            "one adapter, where each rank in the node brings its own": lambda machine, local, nodes: _ring(machine, 1),
            "all adapters of the node, where only the group's ranks pull": lambda machine, local, nodes: _ring(
                machine, _rates(machine)[2]
            ),
            "the links inside the node: the ring leaves it": lambda machine, local, nodes: _rates(machine)[0] / 1e9,
        },
        hints=(
            "Which adapters does this group use where it leaves a node? Draw one node.",
            "`llmhw.instance(name).cluster(nodes=2).inter_link` is the adapter of one device.",
        ),
    ),
    Exercise(
        "7.2",
        "compute",
        2,
        "A group with {local} ranks in each of {nodes} nodes of Azure's ND H100 v5 all-reduces a tensor of {gib} "
        "GiB in a "
        "ring. How many milliseconds do its bytes take at datasheet rates, without latency?",
        unit="ms",
        given={"local": (8, 2, 4), "nodes": (2, 4, 16), "gib": (2, 1, 10)},
        answer=_all_reduce_ms,
        slips={
            "only one of the two rounds: a reduce-scatter, then an all-gather": 1 / 2,
            "the tensor once, where a ring sends nearly twice of it": lambda local, nodes, gib: (
                gib * GIB / _ring(_H100, local) / 1e6
            ),
            "GB in place of GiB": 1e9 / GIB,
            "one direction counted as half of the bandwidth": 2,
        },
        hints=("First the bytes that one rank sends, then the bandwidth of its ring.",),
    ),
    Exercise(
        "7.3",
        "derive",
        2,
        "From how many tokens a rank on does ring attention of {name} hide on {machine}, if each rank of the ring "
        "sits in a "
        "node of its own? Take the peak of bf16, and let the causal mask leave half of the pairs.",
        unit="tokens",
        given={"name": ("llama-3-70b", "qwen2.5-7b", "llama-2-7b", "qwen2.5-32b"), "machine": tuple(_MACHINES)},
        answer=_hidden_from,
        slips={
            "half is missing: the mask leaves half of the pairs, and both K and V travel": 1 / 2,
            "K and V of all query heads: grouped-query attention has fewer": lambda name, machine: _hidden_from(
                name, machine, grouped=False
            ),
            "the links inside a node": lambda name, machine: _hidden_from(name, machine, inside=True),
        },
        hints=(
            "Write down the FLOPs of one step of the ring and the bytes that travel meanwhile, both for T tokens a "
            "rank.",
            "The work grows as T times T, the message as T: what is left of T when both times are equal?",
        ),
    ),
    Exercise(
        "7.4",
        "find the mistake",
        2,
        "A colleague writes: each token picks {picks} experts, and they lie in {nodes} nodes, so it is sent to "
        "min({picks}, {nodes}) nodes. How many are reached on average, if picks are even and independent and there "
        "is no "
        "limit?",
        unit="nodes",
        given={"nodes": (16, 8, 4, 12), "picks": (8, 6, 4)},
        answer=lambda nodes, picks: float(nodes_reached(nodes=nodes, picks=picks)),
        slips={
            "no two picks in one node": lambda nodes, picks: min(nodes, picks),
            "the chance of each node, not their number": lambda nodes, picks: float(
                nodes_reached(nodes=nodes, picks=picks) / nodes
            ),
        },
        hints=(
            "What is the chance that one given node is missed by all picks?",
            "Throw it: `numpy.random.default_rng(0).integers(nodes, size=(10_000, picks))`, and count what is "
            "different.",
        ),
        tolerance=0.01,
    ),
    Exercise(
        "7.5",
        "design",
        3,
        "Lay Llama 3 70B out on {cards:,} H100 of Azure, 4 sequences of 8,192 tokens a card and step, so that it "
        "fits and a "
        "step takes at most 1.15 times as long as under the best of all layouts.",
        form="a llmhw.Parallelism",
        given={"cards": (512, 256, 1024)},
        accept=_lays_out,
        answer=lambda cards: llmhw.Parallelism(tp=4, pp=4, dp=cards // 16, zero=1, sequence_parallel=True),
        hints=(
            "Start with what the decision tree says, and see in `llmhw.train` which part of the step is longest.",
            "FSDP alone must recompute everything. What spares memory for activations at little cost?",
        ),
    ),
    Exercise(
        "7.6",
        "measure",
        2,
        "Measure on your machine, between two ends of a socket: the latency of a message of one byte, and the "
        "bandwidth of one "
        "of 64 MiB. How many bytes take as long as the latency?",
        form="one number, in bytes",
        accept=_plausible,
        answer=lambda: 2**16,
        hints=("Take the fastest of many tries: everything else that runs on the machine only adds time.",),
    ),
)
