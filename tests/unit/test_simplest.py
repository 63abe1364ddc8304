"""The three questions lead to a kind of layout that the search, which knows all of them, hardly beats."""

from __future__ import annotations

from typing import Any

import pytest

import llmhw
from llmhw.planning.simplest import gathered_tokens, simplest


def job(spec: str, cards: int, batch: int, seq_len: int, **layout: Any) -> llmhw.TrainingJob:
    split = {"dp": cards // (layout.get("tp", 1) * layout.get("pp", 1)), **layout}
    cluster = llmhw.Cluster("h100", cards, inter_link="infiniband ndr" if cards > 8 else None)
    return llmhw.TrainingJob(
        model=spec, cluster=cluster, parallelism=llmhw.Parallelism(**split), global_batch=batch, seq_len=seq_len,
        precision="bf16-mixed-fp32-grads", software="torchtitan",
    )  # fmt: skip


CASES = {
    "data parallel": job("llama-3.2-1b", 8, 256, 8192),
    "FSDP": job("llama-3-70b", 512, 2048, 8192),
    "FSDP, sequences cut by tp or cp": job("llama-3-8b", 64, 32, 131072, tp=8),
    "a pipeline beside tp": job("llama-3.1-405b", 16384, 2048, 8192, tp=8, pp=16, vpp=8, uneven=True),
}


@pytest.mark.parametrize("kind", CASES)
def test_no_other_layout_is_a_fifth_faster(kind: str) -> None:
    asked = CASES[kind]
    answer = simplest(asked)
    assert answer.kind == kind
    (best,), (own,) = llmhw.search(asked, best=1).best, llmhw.search(asked, best=1, **answer.how).best
    assert own.seconds < 1.2 * best.seconds


def test_a_pipeline_is_advised_where_it_pays() -> None:
    asked = CASES["a pipeline beside tp"]
    (best,), (flat,) = llmhw.search(asked, best=1).best, llmhw.search(asked, best=1, pp=1).best
    assert flat.seconds > 1.2 * best.seconds


def test_one_adapter_needs_eight_times_the_tokens_of_eight() -> None:
    cluster = llmhw.Cluster("h100", 16, inter_link="infiniband ndr")
    assert gathered_tokens(cluster, local_ranks=1) == pytest.approx(8 * gathered_tokens(cluster))
    assert gathered_tokens(llmhw.Cluster("h100", 8)) < gathered_tokens(cluster)


def test_a_mixture_gathers_more_than_it_multiplies() -> None:
    cluster = llmhw.Cluster("h100", 16, inter_link="infiniband ndr")
    assert gathered_tokens(cluster, whole=671, active=37) == pytest.approx(671 / 37 * gathered_tokens(cluster))


def test_weights_hide_from_that_many_tokens_on() -> None:
    """At datasheet rates many tokens leave only the gathers that nothing precedes, and few leave more."""
    waits = {}
    for tokens in (1024, 4096, 8192):
        parts = llmhw.training.train(job("llama-3-8b", 64, 64, tokens, zero=3)).bounds
        waits[tokens] = parts["weight gathering"][0]
    assert waits[8192] == pytest.approx(waits[4096], rel=0.01)
    assert waits[1024] > 3 * waits[4096]
