"""Messages over a network of two levels, against numbers worked out by hand."""

from __future__ import annotations

import pytest
from llmhw.communication import all_gather_wire_bytes, all_reduce_wire_bytes, reduce_scatter_wire_bytes
from llmhw.network import Network, group_bandwidth, message_seconds, nodes_reached

# Eight devices a node, 400 GB/s and 3 us inside, 50 GB/s and 10 us between.
NET = Network(per_node=8, inside=400e9, between=50e9, inside_latency=3e-6, between_latency=10e-6)


def test_a_ring_inside_a_node() -> None:
    """An all-reduce of 1 GB over 8: 2 x 7/8 GB at 400 GB/s, and 14 hops of 3 us."""
    wire = all_reduce_wire_bytes(size=1e9, ranks=8)
    assert NET.ring_seconds(wire, 8, rounds=2) == pytest.approx(1.75e9 / 400e9 + 14 * 3e-6)
    assert NET.ring_seconds(wire, 8, rounds=2) == pytest.approx(4.417e-3)


def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather() -> None:
    for ranks, stride in ((8, 1), (4, 2), (32, 1), (4, 8)):
        first = NET.ring_seconds(reduce_scatter_wire_bytes(size=1e9, ranks=ranks), ranks, stride)
        second = NET.ring_seconds(all_gather_wire_bytes(size=1e9 / ranks, ranks=ranks), ranks, stride)
        both = NET.ring_seconds(all_reduce_wire_bytes(size=1e9, ranks=ranks), ranks, stride, rounds=2)
        assert both == pytest.approx(first + second)


def test_a_ring_between_nodes_uses_all_adapters_of_its_ranks() -> None:
    """32 ranks, 8 a node: 8 x 50 GB/s cross a boundary, as much as the ring has inside; 3 and 7 hops wait."""
    wire = all_gather_wire_bytes(size=1e9 / 32, ranks=32)
    assert NET.ring_seconds(wire, 32) == pytest.approx(31 / 32 * 1e9 / 400e9 + 3 * 10e-6 + 7 * 3e-6)


def test_one_rank_a_node_has_one_adapter() -> None:
    """Data-parallel ranks behind tp=8 are 8 devices apart: each ring has one adapter."""
    wire = reduce_scatter_wire_bytes(size=1e9, ranks=4)
    assert NET.ring_seconds(wire, 4, 8) == pytest.approx(0.75e9 / 50e9 + 3 * 10e-6)
    assert NET.ring_seconds(wire, 4, 1) == pytest.approx(0.75e9 / 400e9 + 3 * 3e-6)
    # tp=4 leaves two of its ranks in each node
    assert NET.ring_seconds(wire, 4, 4) == pytest.approx(0.75e9 / 100e9 + 10e-6 + 3e-6)


def test_a_switch_that_adds_up() -> None:
    """NVLS: nccl-tests' bus bandwidth counts the 1.75 GB of a ring, so 480 beats the links; two hops, not 14."""
    net = Network(
        per_node=8, inside=400e9, between=50e9, inside_latency=3e-6, between_latency=1e-5, switch_reduces=480e9
    )
    wire = all_reduce_wire_bytes(size=1e9, ranks=8)
    assert net.ring_seconds(wire, 8, rounds=2) == pytest.approx(1.75e9 / 480e9 + 2 * 3e-6)
    # it has no part in a reduce-scatter
    assert net.ring_seconds(wire, 8) == NET.ring_seconds(wire, 8)


def test_an_all_to_all_inside_a_node() -> None:
    """Every rank keeps its own eighth."""
    assert NET.all_to_all_seconds(8e8, 8) == pytest.approx(7e8 / 400e9 + 3e-6)


def test_an_all_to_all_between_nodes_is_limited_by_the_adapter() -> None:
    """32 ranks in 4 nodes: three quarters of the rows leave, each over its own 50 GB/s."""
    assert NET.all_to_all_seconds(1e9, 32) == pytest.approx(0.75e9 / 50e9 + 10e-6)


def test_a_row_crosses_to_a_node_once() -> None:
    """Eight picks over four nodes reach 4 (1 - (3/4)^8) = 3.6 of them: 3.6 / 8 of the rows, and 3/4 of those leave."""
    reached = 4 * (1 - 0.75**8)
    assert nodes_reached(nodes=4, picks=8) == pytest.approx(reached)
    assert NET.all_to_all_seconds(8e9, 32, picks=8) == pytest.approx(1e9 * reached * 0.75 / 50e9 + 10e-6)


def test_sends() -> None:
    assert NET.send_seconds(1e9, 7) == pytest.approx(1e9 / 400e9 + 3e-6)
    assert NET.send_seconds(1e9, 8) == pytest.approx(1e9 / 50e9 + 10e-6)


def test_nothing_to_send_takes_no_time() -> None:
    assert NET.ring_seconds(1e9, 1) == NET.ring_seconds(0, 8) == 0
    assert NET.all_to_all_seconds(1e9, 1) == NET.all_to_all_seconds(0, 8) == 0


def test_formulas_take_arrays() -> None:
    import numpy as np

    ranks = np.array([1, 4, 16])
    rates = group_bandwidth(local_ranks=ranks, inside_bytes_per_second=400e9, between_bytes_per_second=50e9)
    assert rates.tolist() == [50e9, 200e9, 400e9]
    times = message_seconds(wire_bytes=1e9, bandwidth_bytes_per_second=rates, hops=ranks, latency_seconds=1e-5)
    assert times.tolist() == pytest.approx([1 / 50 + 1e-5, 1 / 200 + 4e-5, 1 / 400 + 16e-5])
