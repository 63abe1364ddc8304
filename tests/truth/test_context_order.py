"""Which chunks of a sequence context-parallel ranks hold, beside PyTorch's own load balancer."""

from __future__ import annotations

import pytest

from llmhw.sharding import context_chunks, context_pairs

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_zigzag_is_pytorchs_head_and_tail(ranks: int) -> None:
    from torch.distributed.tensor.experimental._context_parallel._load_balancer import _HeadTailLoadBalancer

    order = _HeadTailLoadBalancer(2 * ranks, ranks, "cpu")._generate_indices()[0].tolist()
    assert order == [chunk for rank in range(ranks) for chunk in context_chunks(rank, ranks)]


@pytest.mark.parametrize("zigzag", [False, True])
def test_pairs_are_those_of_a_causal_mask(zigzag: bool) -> None:
    """Tokens that a query may see, by rank; the diagonal is half a chunk and a row."""
    ranks, size = 4, 64
    seen = torch.ones(2 * ranks * size, 2 * ranks * size).tril().sum(1).reshape(2 * ranks, size).sum(1)
    counted = [float(sum(seen[chunk] for chunk in context_chunks(rank, ranks, zigzag=zigzag))) for rank in range(ranks)]
    assert counted == pytest.approx([pairs * size**2 + size for pairs in context_pairs(ranks, zigzag=zigzag)])
