"""How long messages take: alpha and beta of every collective over a network of two levels.

Inside a node (the scale-up domain: NVLink, Infinity Fabric, TPU ICI) and between nodes (InfiniBand, EFA, RoCE). A
collective that leaves the node uses the adapters of all its ranks in a node at once ("rails").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmhw.formula import formula
from llmhw.units import minimum


@formula(source="alpha-beta model (Hockney 1994)", unit="seconds")
def message_seconds(
    *, wire_bytes: Any, bandwidth_bytes_per_second: Any, hops: Any = 1, latency_seconds: Any = 0
) -> Any:
    """Time of a message or of a collective: its bytes at the link's bandwidth, and a latency for each hop in turn.

    wire_bytes   bytes that one rank sends: see `all_reduce_wire_bytes` and its kin
    hops         steps that wait for each other: n - 1 of a ring's reduce-scatter or all-gather

    >>> message_seconds(wire_bytes=1e9, bandwidth_bytes_per_second=50e9, hops=7, latency_seconds=1e-5)
    0.02007
    """
    return wire_bytes / bandwidth_bytes_per_second + hops * latency_seconds


@formula(source="NCCL: rings cross each node boundary once, over the adapters of all their ranks there", unit="bytes/s")
def group_bandwidth(*, local_ranks: Any, inside_bytes_per_second: Any, between_bytes_per_second: Any) -> Any:
    """Bus bandwidth of a ring that spans nodes: the slower of the links inside and of the adapters between.

    local_ranks                 ranks of the group in one node
    between_bytes_per_second    of one device's adapter

    >>> group_bandwidth(local_ranks=8, inside_bytes_per_second=360e9, between_bytes_per_second=50e9) / 1e9
    360.0
    """
    return minimum(inside_bytes_per_second, local_ranks * between_bytes_per_second)


@formula(source="expectation over independent picks: each misses a node with probability 1 - 1 / nodes", unit="count")
def nodes_reached(*, nodes: Any, picks: Any) -> Any:
    """Nodes that a token's experts lie in, on average, when they are spread evenly.

    picks   experts of a token

    >>> round(nodes_reached(nodes=4, picks=8), 2)
    3.6
    """
    return nodes * (1 - (1 - 1 / nodes) ** picks)


@dataclass(frozen=True, slots=True)
class Network:
    """The network as one device sees it, with what collectives reach on it.

    per_node          devices of a scale-up domain
    inside, between   bytes per second and direction, per device
    inside_latency, between_latency   seconds of a hop
    switch_reduces    bus bandwidth (as nccl-tests counts it) of an all-reduce in a node whose switch adds up (NVLS);
                      0 if it does not
    """

    per_node: int
    inside: float
    between: float
    inside_latency: float
    between_latency: float
    switch_reduces: float = 0.0

    def local(self, ranks: int, stride: int) -> int:
        """Ranks of a group in one node; its neighbours are `stride` devices apart."""
        return max(1, min(ranks, self.per_node // stride))

    def ring_seconds(self, wire_bytes: float, ranks: int, stride: int = 1, *, rounds: int = 1) -> float:
        """A reduce-scatter or an all-gather (rounds=1), or an all-reduce (rounds=2), of so many bytes on the wire."""
        if ranks == 1 or not wire_bytes:
            return 0.0
        here = self.local(ranks, stride)
        if here == ranks:
            hops, rate = rounds * (ranks - 1), self.inside
            if rounds == 2 and self.switch_reduces:
                hops, rate = 2, self.switch_reduces  # one message up and one down
            return float(
                message_seconds(
                    wire_bytes=wire_bytes,
                    bandwidth_bytes_per_second=rate,
                    hops=hops,
                    latency_seconds=self.inside_latency,
                )
            )
        nodes = -(-ranks // here)
        rate = group_bandwidth(
            local_ranks=here, inside_bytes_per_second=self.inside, between_bytes_per_second=self.between
        )
        # hops inside nodes run while others cross between them: the slowest chain is one ring over all nodes
        wait = rounds * ((nodes - 1) * self.between_latency + (here - 1) * self.inside_latency)
        return float(wire_bytes / rate + wait)

    def all_to_all_seconds(self, size: float, ranks: int, stride: int = 1, *, picks: int = 1) -> float:
        """Every rank hands in `size` bytes, an equal part for each rank; both networks work at once.

        picks   copies of one row among them: a row crosses to a node once, however many experts it has there (DeepEP)
        """
        if ranks == 1 or not size:
            return 0.0
        here = self.local(ranks, stride)
        inside = size * (here - 1) / here / self.inside + (here > 1) * self.inside_latency
        if here == ranks:
            return float(inside)
        nodes = ranks / here
        crossing = size / picks * nodes_reached(nodes=nodes, picks=picks) * (nodes - 1) / nodes
        return float(max(inside, crossing / self.between + self.between_latency))

    def send_seconds(self, size: float, stride: int) -> float:
        """Point to point, to a device `stride` away."""
        if stride < self.per_node:
            return float(size / self.inside + self.inside_latency)
        return float(size / self.between + self.between_latency)
