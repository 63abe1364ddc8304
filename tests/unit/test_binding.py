"""When sending binds: the division of rates beside the timer of whole steps, which knows far more."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from itertools import pairwise

import pytest

import llmhw
from llmhw import Cluster, LLMHWError, Parallelism, TrainingJob
from llmhw.binding import ALONE, IN_A_NODE, RAILS, binding
from llmhw.messages import collectives
from llmhw.timeline import streams

NDR = "InfiniBand NDR 4x"
PLACES = {IN_A_NODE: (8, 8), RAILS: (64, 8), ALONE: (64, 1)}


def job_of(zero: int, place: str, tokens: int = 64, **options: int) -> TrainingJob:
    """Llama-3-8B under data parallelism alone."""
    ranks, per_node = PLACES[place]
    return TrainingJob(
        model=llmhw.model("llama-3-8b"), cluster=Cluster("h100", ranks, per_node, inter_link=NDR),
        parallelism=Parallelism(dp=ranks, zero=zero), seq_len=64, micro_batch=tokens // 64,
        global_batch=tokens // 64 * ranks, software="torchtitan", **options,
    )  # fmt: skip


def waits(zero: int, place: str, tokens: int) -> float:
    parts = llmhw.train(job_of(zero, place, tokens)).time.parts
    return parts["weight gathering"] + parts["gradient reduction"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("zero", [0, 3])
def test_whole_steps_stop_waiting_near_the_rule(zero: int, place: str) -> None:
    rule = next(each for each in binding("llama-3-8b", "h100", NDR) if each.place == place)
    left = 1.01 * waits(zero, place, 2**17)
    found = 64 * bisect_left(range(2**11), True, 1, key=lambda n: waits(zero, place, 64 * n) <= left)
    assert 0.5 < found / (rule.ddp_tokens if zero == 0 else rule.fsdp_tokens) < 2


def test_the_bytes_of_the_rule_are_those_of_a_step() -> None:
    """4 bytes a parameter under DDP, 6 under FSDP, in rings of 64: as the list of all messages has them."""
    parameters = llmhw.model("llama-3-8b").parameters.total
    for zero, sent in ((0, 4), (3, 6)):
        found = collectives(job_of(zero, RAILS)).wire_bytes * 64 / 63 / parameters
        # embedding and head are gathered once under FSDP, and not again
        assert found == pytest.approx(sent, rel=1e-9 if zero == 0 else 0.05)


def test_a_mixture_wants_more_tokens_by_what_a_token_does_not_use() -> None:
    spec = llmhw.model("qwen3-30b-a3b")
    dense, sparse = (binding(name, "h100", NDR)[0] for name in ("llama-3-8b", "qwen3-30b-a3b"))
    ratio = spec.parameters.total / spec.parameters.active
    assert sparse.fsdp_tokens / dense.fsdp_tokens == pytest.approx(ratio)


def test_a_device_without_a_network_is_refused() -> None:
    with pytest.raises(LLMHWError, match=r"^device=RTX 4090 has no network of its own"):
        binding("llama-3-8b", "rtx 4090")


# -- streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize("hidden", [True, False])
def test_what_each_layer_needs_is_there_before_it_starts(zero: int, hidden: bool) -> None:
    line = streams(job_of(zero, RAILS, 2048), 4, hidden=hidden)
    for row in (0, 1):
        mine = sorted((s for s in line.spans if s.row == row), key=lambda span: span.start)
        assert all(a.end <= b.start + 1e-12 for a, b in pairwise(mine))
    at = {span.name: span for span in line.spans}
    for i in range(1, 5):
        assert at[f"reduce {i}"].start >= at[f"backward {i}"].end
        if zero == 3:
            assert at[f"gather {i}"].end <= at[f"forward {i}"].start
            assert at[f"forward {i}"].end <= at[f"gather {i} again"].start
            assert at[f"gather {i} again"].end <= at[f"backward {i}"].start


@pytest.mark.parametrize("zero", [0, 3])
def test_hiding_saves_messages_and_never_more_than_all(zero: int) -> None:
    job = job_of(zero, RAILS, 4096)
    apart, beside = streams(job, hidden=False), streams(job)
    assert apart.sums(0) == beside.sums(0)
    assert sum(apart.sums(0).values()) + sum(apart.sums(1).values()) == pytest.approx(apart.seconds)
    assert sum(beside.sums(0).values()) < beside.seconds < apart.seconds


def test_streams_send_what_the_step_does() -> None:
    """All layers, one after the other: the seconds of messages of a step whose network never hides them."""
    job = job_of(3, RAILS, 2048)
    alone = replace(job, gather_prefetch=False)
    layers = sum(streams(job, len(job.model.layers), hidden=False).sums(1).values())
    ends = llmhw.train(alone).time.parts["weight gathering"]
    assert layers > ends  # the timer still hides what the backward pass can


def test_streams_refuse_other_layouts() -> None:
    job = replace(job_of(3, RAILS), parallelism=Parallelism(dp=8, tp=8), global_batch=8)
    with pytest.raises(LLMHWError, match=r"^parallelism must be data-parallel alone"):
        streams(job)
    with pytest.raises(LLMHWError, match=r"^layers=33 exceeds the 32 layers of llama-3-8b"):
        streams(job_of(0, RAILS), 33)
