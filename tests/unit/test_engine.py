"""Time of one pass of an inference engine, without the fitted constants: at every peak, or for differences."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random
from statistics import fmean
from typing import Any

import pytest

import llmhw
from llmhw.engine import BOUND, PARTS, Engine, bound, engine_of, experts_touched
from llmhw.messages import all_reduce_wire_bytes
from llmhw.service import serve
from llmhw.units import LLMHWError


def peak(name: str, gpu: str = "h100", devices: int = 1, **options: Any) -> Engine:
    """An engine that reaches every datasheet's number and waits for nothing."""
    return Engine(llmhw.model(name), llmhw.Cluster(gpu, devices), BOUND, **options)


@pytest.mark.parametrize(("experts", "used", "tokens"), [(8, 2, 1), (8, 2, 4), (64, 6, 10), (256, 8, 32), (128, 8, 40)])
def test_experts_touched_is_what_a_router_draws(experts: int, used: int, tokens: int) -> None:
    random = Random(7)

    def drawn() -> int:
        return len({e for _ in range(tokens) for e in random.sample(range(experts), used)})

    told = experts_touched(experts=experts, used=used, tokens=tokens)
    assert fmean(drawn() for _ in range(3000)) == pytest.approx(told, rel=0.01)
    assert used <= told <= min(experts, used * tokens) + 1e-9


@pytest.mark.parametrize("name", ["llama-3-8b", "llama-3-70b", "gpt2"])
def test_cache_read_is_the_whole_cache(name: str) -> None:
    spec = llmhw.model(name)
    context = min(1000, spec.max_seq_len or 1000)
    read = 0.0
    for layer, count in spec.layer_kinds:
        assert layer.attention is not None
        a = layer.attention
        shape = {"kv_heads": a.kv_heads, "head_dim": a.head_dim, "v_head_dim": a.v_head_dim}
        read += count * cache_read_bytes(batch=3, context=context, bytes_per_element=2, **shape)
    assert read == llmhw.kv_cache(spec, batch=3, seq_len=context).total


def reading(engine: Engine, sequences: int, low: int = 500, high: int = 700) -> float:
    """Seconds a step for the cache between two lengths."""
    return engine.seconds(decoding=sequences, context=high) - engine.seconds(decoding=sequences, context=low)


@pytest.mark.parametrize("kv", ["bf16", "fp8"])
def test_a_longer_context_takes_the_time_to_read_it(kv: str) -> None:
    engine = peak("llama-3-70b", devices=4, tp=4, kv=kv)
    moved = llmhw.kv_cache_bytes_per_token(engine.spec, kv) * 200 * 8 / 4
    assert reading(engine, 8) == pytest.approx(moved / engine.device.memory_bandwidth_bytes_per_second)


def test_kv_heads_are_never_cut_below_one() -> None:
    """llama-3-8b has 8: on 16 ranks each still reads a whole one."""
    eight, sixteen = (peak("llama-3-8b", "gb200", n, tp=n) for n in (8, 16))
    assert reading(sixteen, 4) == pytest.approx(reading(eight, 4))


def test_a_latent_cache_is_read_whole_on_every_rank() -> None:
    one, eight = peak("deepseek-v2-lite"), peak("deepseek-v2-lite", devices=8, tp=8)
    moved = llmhw.kv_cache_bytes_per_token(one.spec) * 200
    assert reading(one, 1) == pytest.approx(moved / one.device.memory_bandwidth_bytes_per_second)
    assert reading(eight, 1) == pytest.approx(reading(one, 1))


def test_attention_data_parallel_reads_each_sequence_once() -> None:
    tensor = peak("deepseek-v2-lite", devices=8, tp=8)
    shared_out = replace(tensor, attention_dp=True)
    assert reading(shared_out, 64) == pytest.approx(reading(tensor, 64) / 8)


def test_a_window_ends_what_is_read() -> None:
    engine = peak("mistral-7b")
    window = engine.spec.layers[0].attention
    assert window is not None
    if window.window is None:
        pytest.skip("no window in this config")
    assert reading(engine, 4, window.window, 2 * window.window) == 0
    assert reading(engine, 4, 100, 200) > 0


def test_tensor_parallel_ranks_meet_twice_a_layer() -> None:
    """Only the link differs: what is left is the bytes of an all-reduce."""
    spec, tokens = llmhw.model("llama-3-70b"), 64
    fast, slow = (Engine(spec, llmhw.Cluster("h100", 8, 8, link), BOUND, tp=8) for link in ("NVLink 4", "PCIe 5.0 x16"))
    more = slow.seconds(decoding=tokens, context=100) - fast.seconds(decoding=tokens, context=100)
    wire = all_reduce_wire_bytes(size=tokens * spec.hidden * 2, ranks=8)
    rates = [e.cluster.link_for(8).bytes_per_second for e in (slow, fast)]
    assert more == pytest.approx(2 * spec.num_layers * wire * (1 / rates[0] - 1 / rates[1]))
    late = replace(fast, constants=replace(BOUND, meet=1e-5))
    assert late.seconds(decoding=1) - fast.seconds(decoding=1) == pytest.approx(2 * spec.num_layers * 1e-5)


def test_more_tensor_parallel_ranks_decode_faster_but_not_in_proportion() -> None:
    """With an all-reduce of nothing in 15 us, as custom kernels on NVLink take."""
    constants = replace(BOUND, bandwidth=0.8, gap=2e-6, host=1e-3, meet=1.5e-5)
    spec = llmhw.model("llama-3-70b")
    times = [
        Engine(spec, llmhw.Cluster("h200", n), constants, tp=n, weights="fp8").seconds(decoding=8, context=1000)
        for n in (1, 2, 4, 8)
    ]
    for few, many in pairwise(times):
        assert few / 2 < many < few


def test_stages_take_turns_on_a_token_and_share_a_prompt() -> None:
    one = peak("llama-3-70b", "h200")
    four = replace(one, cluster=llmhw.Cluster("h200", 4), pp=4)
    assert four.seconds(decoding=1, context=100) == pytest.approx(one.seconds(decoding=1, context=100))
    late = replace(BOUND, meet=1e-3)
    between = replace(four, constants=late).seconds(decoding=1) - replace(one, constants=late).seconds(decoding=1)
    assert between == pytest.approx(3e-3)
    # one chunk passes all stages; of many, each stage works on one at a time
    assert four.prompt_seconds(4000, chunk=4000) == pytest.approx(one.prompt_seconds(4000, chunk=4000))
    whole, chunked = one.prompt_seconds(32_000, chunk=500), four.prompt_seconds(32_000, chunk=500)
    assert whole / 4 < chunked < 1.1 * whole / 4


def test_a_layer_split_gives_room_but_no_speed() -> None:
    """llama.cpp: the devices take turns at every token."""
    spec = llmhw.model("llama-3-8b")

    def service(gpus: int, **layout: Any) -> Any:
        cluster = llmhw.Cluster("rtx 4090", gpus)
        job = llmhw.ServingJob(
            model=spec, cluster=cluster, weights="q4_k_m", engine="llama.cpp", max_model_len=2048, **layout
        )
        return serve(job, input_tokens=500, output_tokens=200, concurrency=8)

    one, split = service(1), service(2, pp=2, split="layers")
    assert split.capacity > one.capacity
    assert split.point.tpot_seconds >= one.point.tpot_seconds
    assert split.curve[0].tokens_per_second <= one.curve[0].tokens_per_second
    # a pipeline that works on two groups at once is faster than one that does not
    assert service(2, pp=2).point.tokens_per_second > split.point.tokens_per_second


@pytest.mark.parametrize("name", ["llama-3-8b", "qwen3-30b-a3b"])
def test_a_pass_reads_the_weights_once(name: str) -> None:
    """At batch 1 and every peak, a token takes its active weights' bytes over the bandwidth."""
    engine = peak(name)
    p = engine.spec.parameters
    active = p.active - p.by_component["embedding"]
    told = 2 * active / engine.device.memory_bandwidth_bytes_per_second
    assert engine.seconds(decoding=1) == pytest.approx(told, rel=0.05)


def test_a_large_batch_reads_all_experts() -> None:
    engine = peak("qwen3-30b-a3b", "h200")
    p = engine.spec.parameters
    told = 2 * (p.total - p.by_component["embedding"]) / engine.device.memory_bandwidth_bytes_per_second
    assert engine.seconds(decoding=100) == pytest.approx(told, rel=0.1)


def test_a_long_prompt_is_bound_by_arithmetic() -> None:
    engine = peak("llama-3-8b")
    tokens = 4096
    causal = llmhw.forward_flops(engine.spec, seq_len=tokens, causal=True)
    # of the head only the last token's row
    head = 2 * (tokens - 1) * engine.spec.vocab_size * engine.spec.hidden
    told = (causal.total - head) / engine.device.peak("bf16")
    # tiles that are not filled, and tiles below the best one's rate
    assert told < engine.seconds(prompts=1, prompt_tokens=tokens) < 1.25 * told


def test_constants_make_it_slower_never_faster() -> None:
    spec = llmhw.model("llama-3-8b")
    real = engine_of(spec, llmhw.Cluster("a100 80gb sxm", 1), engine="tensorrt-llm-2023")
    for work in (
        {"decoding": 1, "context": 500},
        {"decoding": 200, "context": 500},
        {"prompts": 1, "prompt_tokens": 2000},
    ):
        assert real.seconds(**work) > bound(real).seconds(**work)
    assert real.seconds() == 0


def test_layouts_that_do_not_fill_the_cluster_are_refused() -> None:
    with pytest.raises(LLMHWError, match="tp x pp = 2 x 1 is not the 4 devices"):
        engine_of(llmhw.model("llama-3-8b"), llmhw.Cluster("h100", 4), engine="litgpt", tp=2)


def decoding(all_reduce: str, sequences: int, gpu: str = "h100") -> float:
    engine = Engine(
        llmhw.model("llama-3-70b"),
        llmhw.Cluster(gpu, 8),
        replace(BOUND, meet=2e-5),
        tp=8,
        all_reduce=all_reduce,
    )
    return engine.seconds(decoding=sequences, context=1000)


def test_ways_to_add_up_trade_exchanges_for_bytes() -> None:
    """80 layers with two each: one exchange of 10 us is saved, for 7 messages in place of 2 x 7 / 8."""
    size, rate = 8192 * 2, 450e9
    saved = decoding("two-shot", 1) - decoding("one-shot", 1)
    assert saved == pytest.approx(160 * (1e-5 - (7 - 1.75) * size / rate), rel=1e-6)
    switch = decoding("two-shot", 512) - decoding("nvls", 512)
    assert switch == pytest.approx(160 * 0.75 * 512 * size / rate, rel=1e-6)
    assert decoding("one-shot", 512) > decoding("two-shot", 512)
    for sequences in (1, 16, 512):
        each = [decoding(way, sequences) for way in ("two-shot", "one-shot", "nvls")]
        assert decoding("auto", sequences) == min(each)


def test_the_bound_multiplies_8_bit_attention_at_its_own_peak() -> None:
    wide, narrow = (
        peak("llama-3-70b", devices=8, tp=8, kv=kv).seconds(prompts=1, prompt_tokens=64_000) for kv in ("bf16", "fp8")
    )
    assert narrow < wide


def test_a_switch_that_does_not_add_up_is_an_error() -> None:
    spec, cluster = llmhw.model("llama-3-70b"), llmhw.Cluster("a100 80gb sxm4", 8)
    with pytest.raises(LLMHWError, match="all_reduce='nvls': no switch of A100 80GB SXM4 adds up; use two-shot"):
        engine_of(spec, cluster, engine="tensorrt-llm-2025", tp=8, all_reduce="nvls")
    with pytest.raises(LLMHWError, match="all_reduce='ring'"):
        llmhw.ServingJob(model=spec, cluster=cluster, tp=8, all_reduce="ring")
    assert engine_of(spec, cluster, engine="tensorrt-llm-2025", tp=8, all_reduce="auto").seconds(decoding=1) > 0
