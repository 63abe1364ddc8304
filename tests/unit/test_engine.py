"""Time of one pass of an inference engine, without the fitted constants: at every peak, or for differences."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from random import Random
from statistics import fmean
from typing import Any

import numpy as np
import pytest

import llmhw
from llmhw.catalog import read_measurements
from llmhw.engine import PARTS, Engine, Formats, bound, engine_of, experts_touched, formats_of, unit_cycles
from llmhw.messages import all_reduce_wire_bytes
from llmhw.precision import NumberFormat, component_formats, number_format
from llmhw.rates import BOUND, serving_constants
from llmhw.service import engine_for, serve
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


def part(engine: Engine, name: str, **load: Any) -> float:
    return float(engine.timed(**load, detail="parts").parts.get(name, 0.0))


@pytest.mark.parametrize("name", ["llama-3-8b", "gpt2", "gemma-2-9b", "deepseek-v3", "mistral-7b"])
def test_decoding_reads_the_whole_cache(name: str) -> None:
    engine = peak(name)
    context = min(6000, engine.spec.max_seq_len or 6000)
    read = part(engine, "attention over the cache", decoding=3, context=context)
    held = llmhw.kv_cache(engine.spec, batch=3, seq_len=context).total
    assert read * engine.device.memory_bandwidth_bytes_per_second == pytest.approx(held)


@pytest.mark.parametrize("kv", ["bf16", "fp8"])
def test_linear_attention_reads_its_state_and_writes_it_back(kv: str) -> None:
    engine = peak("qwen3-next-80b-a3b", kv=kv)
    read = part(engine, "attention over the cache", decoding=3, context=6000)
    held = llmhw.kv_cache(engine.spec, batch=3, seq_len=6000, kv_format=kv)
    moved = held.total + held["state"]
    assert read * engine.device.memory_bandwidth_bytes_per_second == pytest.approx(moved)


def test_sparse_attention_reads_what_its_indexer_chose() -> None:
    """DeepSeek-V3.2 differs from V3 in this only: 2,048 latents, and the indexer's key of every token."""
    dense, sparse = peak("deepseek-v3"), peak("deepseek-v3.2")
    load = {"decoding": 1, "context": 131072}
    moved = [part(e, "attention over the cache", **load) * 3.35e12 for e in (dense, sparse)]
    assert moved[0] == pytest.approx(61 * 131072 * 576 * 2)
    assert moved[1] == pytest.approx(61 * (2048 * 576 + 131072 * 128) * 2)
    # where nothing is left out, it has the indexer on top
    short = [part(e, "attention over the cache", decoding=1, context=2048) * 3.35e12 for e in (dense, sparse)]
    assert short[1] - short[0] == pytest.approx(61 * 2048 * 128 * 2)


def test_a_chunk_is_half_full_on_average() -> None:
    """Llama 4: three layers in four see their own chunk of 8,192; every fourth sees all."""
    engine = peak("llama-4-scout")
    a = engine.spec.layers[0].attention
    assert a is not None
    one = a.kv_heads * 2 * a.head_dim * 2
    for context, chunk in ((8000, 8000), (100_000, 4096)):
        read = part(engine, "attention over the cache", decoding=1, context=context) * 3.35e12
        assert read == pytest.approx((36 * chunk + 12 * context) * one)


@pytest.mark.parametrize("past", [0, 3000])
@pytest.mark.parametrize(
    "name",
    [
        *("llama-3-8b", "gemma-2-9b", "mistral-7b", "gpt-oss-120b", "deepseek-v3", "deepseek-v3.2", "llama-4-scout"),
        *("qwen3-next-80b-a3b", "falcon-40b"),
    ],
)
def test_attention_over_a_prompt_is_that_of_the_model_s_flops(name: str, past: int) -> None:
    engine = peak(name)
    for tokens in (1500, 20_000):
        seconds = part(engine, "attention over prompts", prompts=2, prompt_tokens=tokens, past=past)
        told = llmhw.forward_flops(engine.spec, batch=2, seq_len=tokens, past=past, causal=True)["attention_core"]
        assert seconds * engine.device.peak("bf16") == pytest.approx(told)


def test_the_indexer_is_whole_on_every_rank() -> None:
    """Its choice holds for all heads, so that every rank scores all tokens."""
    one, eight = peak("deepseek-v3.2"), peak("deepseek-v3.2", devices=8, tp=8)
    load = {"prompts": 1, "prompt_tokens": 20_000}
    causal = 20_000 * 20_001 // 2
    scores = 61 * 2 * 64 * causal * 128 / one.device.peak("bf16")
    whole, cut = (part(e, "attention over prompts", **load) for e in (one, eight))
    assert cut == pytest.approx(scores + (whole - scores) / 8)


def test_pairs_of_a_long_prompt_of_llama_4() -> None:
    """Eight chunks of 8,192: 268 million pairs. A window of that length would leave 503 million."""
    engine = peak("llama-4-scout")
    found = engine.timed(prompts=1, prompt_tokens=65536, detail="terms").terms["attention over prompts"]
    a = engine.spec.layers[0].attention
    assert a is not None
    each = 2 * a.heads * (a.head_dim + a.v_head_dim)
    pairs = {t.label: (dict(t.inputs)["flops"] / each, t.times) for t in found}
    assert pairs == {"chunked": (268_468_224, 36), "full": (65536 * 65537 / 2, 12)}


@pytest.mark.parametrize("name", ["mixtral-8x7b", "llama-4-scout"])
def test_a_single_expert_on_a_rank_is_one_of_many(name: str) -> None:
    """A token of batch 1 meets its own experts only, and an expert's rank is idle most of the time."""
    experts = next(t.experts for layer, _ in peak(name).spec.layer_kinds for t in layer.tensors if t.experts > 1)
    times = []
    for ranks in (1, experts):
        engine = peak(name, "gb200", ranks, tp=ranks)
        terms = engine.timed(decoding=1, detail="terms").terms["matrix products"]
        times.append(sum(t.value for t in terms if t.label.startswith("expert ")))
    assert times[1] == pytest.approx(times[0] / experts)


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v3", "gpt-oss-120b", "llama-4-scout"])
def test_routers_and_the_head_stay_in_16_bit(name: str) -> None:
    engine = peak(name, weights="fp8")
    routers = {t.module for layer, _ in engine.spec.layer_kinds for t in layer.tensors if t.component == "router"}
    wide: dict[bool, set[str]] = {True: set(), False: set()}
    for t in engine.timed(decoding=4, context=100, detail="terms").terms["matrix products"]:
        given = dict(t.inputs)
        fast = given["flops_per_second"] == engine.device.peak("fp8")
        assert given["b_bytes"] == (1 if fast else 2)
        wide[not fast].add(t.label)
    assert len(routers) == 1
    assert wide[True] == routers | {"head"}
    assert wide[False]


LOADS: list[dict[str, Any]] = [
    {"decoding": 16, "context": 3000.0},
    {"prompts": 1, "prompt_tokens": 3000},
    {"prompts": 2, "prompt_tokens": 500, "decoding": 4, "context": 100},
]


@pytest.mark.parametrize("name", ["llama-3-8b", "mixtral-8x7b", "deepseek-v3.2", "qwen3-next-80b-a3b", "llama-4-scout"])
def test_many_layouts_and_formats_at_once(name: str) -> None:
    spec, cluster = llmhw.model(name), llmhw.Cluster("h100", 8)
    constants = serving_constants(cluster.accelerator, "tensorrt-llm-2025")
    names, ranks = ("bf16", "fp8", "int4-gptq"), (1, 2, 4, 8)

    def column(stored: list[NumberFormat]) -> Formats:
        each = [formats_of(cluster.accelerator, constants, fmt, "bf16") for fmt in stored]
        return Formats(**{f.name: np.array([[getattr(found, f.name)] for found in each]) for f in fields(Formats)})

    rows = [component_formats(spec, name) | {(-1, ""): number_format(name)} for name in names]
    many = {key: column([row[key] for row in rows]) for key in rows[0]}
    whole = Engine(spec, cluster, constants, tp=np.array(ranks), many=many)
    for load in LOADS:
        alone = [[Engine(spec, cluster, constants, tp=n, weights=w).seconds(**load) for n in ranks] for w in names]
        assert whole.seconds(**load).tolist() == alone


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("name", ["llama-3-70b", "deepseek-v3.2", "qwen3-next-80b-a3b"])
def test_a_pass_is_the_sum_of_its_formulas(name: str, load: dict[str, Any]) -> None:
    engine = engine_of(llmhw.model(name), llmhw.Cluster("h200", 8), engine="tensorrt-llm-2025", tp=8)
    found = engine.timed(**load, detail="terms")
    assert set(found.parts) <= set(PARTS)
    for part_, terms in found.terms.items():
        assert sum(t.value for t in terms) == pytest.approx(found.parts[part_])
        assert engine.explain(part_, **load).startswith(f"{part_} = ")
    assert found.total == pytest.approx(engine.seconds(**load))


@pytest.mark.parametrize(
    ("name", "part_", "load", "label", "formula"),
    [
        ("mixtral-8x7b", "matrix products", 0, "expert down_proj", "experts_touched"),
        ("deepseek-v3.2", "attention over prompts", 1, "indexer", "attention_core_flops"),
        ("deepseek-v3.2", "attention over the cache", 0, "latents", "latent_cache_bytes"),
        ("llama-3-8b", "attention over the cache", 0, "keys and values", "kv_cache_bytes"),
        ("qwen3-next-80b-a3b", "attention over the cache", 0, "state of gated-deltanet", "linear_state_bytes"),
    ],
)
def test_what_goes_into_a_formula_is_explained_too(name: str, part_: str, load: int, label: str, formula: str) -> None:
    terms = peak(name).timed(**LOADS[load], detail="terms").terms[part_]
    told = next(t for t in terms if t.label == label)
    below = next(t for t in told.because if t.formula == formula)
    given = dict(told.inputs)
    into = {"experts_touched": "groups", "attention_core_flops": "flops"}.get(formula, "memory_bytes")
    assert given[into] == pytest.approx(below.value)


def test_tokens_between_whole_ones_are_not_rounded() -> None:
    engine = replace(peak("llama-3-8b", devices=8, tp=8, attention_dp=True), constants=replace(BOUND, passes=1.0))
    low, middle, high = (part(engine, "elementwise", decoding=n) for n in (100, 100.5, 101))
    assert middle == pytest.approx((low + high) / 2)
    assert high > low


def reading(engine: Engine, sequences: int, low: int = 500, high: int = 700) -> float:
    """Seconds a step for the cache between two lengths."""
    return float(engine.seconds(decoding=sequences, context=high) - engine.seconds(decoding=sequences, context=low))


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
    late = replace(BOUND, sends=1e-3)
    between = replace(four, constants=late).seconds(decoding=1) - replace(one, constants=late).seconds(decoding=1)
    assert between == pytest.approx(3e-3)
    # one chunk passes all stages; of many, each stage works on one at a time
    assert four.prompt_seconds(4000, chunk=4000) == pytest.approx(one.prompt_seconds(4000, chunk=4000))
    whole, chunked = one.prompt_seconds(32_000, chunk=500), four.prompt_seconds(32_000, chunk=500)
    assert whole / 4 < chunked < 1.1 * whole / 4


def test_chunks_of_a_prompt_add_up() -> None:
    engine = peak("llama-3-8b")
    chunks = [(4000, 500), (4000, 4500), (1000, 8500)]
    told = sum(engine.seconds(prompts=2, prompt_tokens=new, past=past) for new, past in chunks)
    found = engine.prompt(9000, chunk=4000, prompts=2, past=500, detail="terms")
    assert found.total == pytest.approx(told)
    assert sum(t.value for terms in found.terms.values() for t in terms) == pytest.approx(told)


def test_a_layer_split_gives_room_but_no_speed() -> None:
    """llama.cpp: the devices take turns at every token."""
    spec = llmhw.model("llama-3-8b")

    def service(gpus: int, sequences: int, **layout: Any) -> Any:
        cluster = llmhw.Cluster("rtx 4090", gpus)
        job = llmhw.ServingJob(
            model=spec,
            cluster=cluster,
            weights="q4_k_m",
            engine="llama.cpp",
            max_model_len=2048,
            max_sequences=sequences,
            **layout,
        )
        return serve(job, input_tokens=500, output_tokens=200, concurrency=8)

    one, split = service(1, 64), service(2, 128, pp=2, split="layers")
    assert (one.capacity, service(1, 128).capacity, split.capacity) == (64, 0, 128)
    assert split.point.tpot_seconds >= one.point.tpot_seconds
    assert split.curve[0].tokens_per_second <= one.curve[0].tokens_per_second
    # a pipeline that works on two groups at once is faster than one that does not
    assert service(2, 128, pp=2, split="tensor").point.tokens_per_second > split.point.tokens_per_second


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
    return float(engine.seconds(decoding=sequences, context=1000))


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


# -- experts ----------------------------------------------------------------------------------


def exchange(ranks: int, *, weights: str = "fp8-block", device: str = "h800", **load: Any) -> dict[str, float]:
    """Seconds of a layer's all-to-alls with attention shared out by sequence, by direction."""
    cluster = llmhw.Cluster(device, ranks, inter_link="infiniband ndr")
    spec = llmhw.model("deepseek-v3")
    layout: dict[str, Any] = {"tp": ranks, "attention_dp": True, "ep": ranks, "weights": weights}
    terms = engine_of(spec, cluster, engine="tensorrt-llm-2025", **layout).timed(**load, detail="terms").terms
    assert "all-reduces" not in terms
    layers = sum(any(t.experts > 1 for t in layer.tensors) for layer in spec.layers)
    return {
        name: sum(t.value for t in terms["all-to-alls"] if t.label == name) / layers
        for name in ("to the experts", "back")
    }


@pytest.mark.parametrize("row", read_measurements("expert_exchange"), ids=lambda row: row["ep"])
def test_all_to_alls_take_what_deepep_measured(row: dict[str, str]) -> None:
    """Between nodes; inside one node these kernels use the adapters all the same."""
    ranks = int(row["ep"])
    found = exchange(ranks, device=row["device"], decoding=int(row["tokens"]) * ranks)
    most = 0.45 if ranks == 8 else 0.21 if ranks == 16 else 0.08
    assert found["to the experts"] == pytest.approx(float(row["dispatch_us"]) / 1e6, rel=most)
    assert found["back"] == pytest.approx(float(row["combine_us"]) / 1e6, rel=most)


def test_tokens_leave_in_the_weights_format_and_come_back_in_16_bit() -> None:
    narrow, wide = (exchange(32, weights=w, decoding=4096 * 32) for w in ("fp8", "bf16"))
    assert wide["to the experts"] == pytest.approx(wide["back"])
    assert narrow["back"] == pytest.approx(wide["back"])
    assert narrow["to the experts"] == pytest.approx(narrow["back"] / 2, rel=0.01)


def test_a_prompt_crosses_to_a_node_once() -> None:
    tokens = 4096 * 32
    assert exchange(32, prompts=1, prompt_tokens=tokens)["back"] < 0.8 * exchange(32, decoding=tokens)["back"]


def test_experts_without_ep_are_gathered() -> None:
    spec, cluster = llmhw.model("deepseek-v3"), llmhw.Cluster("h200", 8)
    gathered, sent = (
        engine_of(spec, cluster, engine="tensorrt-llm-2025", tp=8, attention_dp=True, ep=ep).timed(
            decoding=512, context=1000, detail="parts"
        )
        for ep in (1, 8)
    )
    assert "all-to-alls" not in gathered.parts
    assert "all-reduces" not in sent.parts
    assert sent.parts["all-to-alls"] < gathered.parts["all-reduces"]


def test_many_small_chunks_take_what_they_take_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    job = llmhw.ServingJob(model=llmhw.model("llama-3.1-8b"), cluster=llmhw.Cluster("h100", 2), pp=2)
    engine = engine_for(job)
    grouped = engine.prompt_seconds(30_100, chunk=64, past=100)
    monkeypatch.setattr("llmhw.engine._CHUNKS", 10**9)
    assert grouped == pytest.approx(engine.prompt_seconds(30_100, chunk=64, past=100), rel=1e-3)


def test_clocks_are_those_of_graphics_processors() -> None:
    """From the peak in fp32: a wrong number of lanes is a factor of two or more."""
    known = {d.name: unit_cycles(d) / (d.multiprocessors or 1) for d in llmhw.accelerators()}
    assert {name: each for name, each in known.items() if each and not 0.6e9 < each < 3.3e9} == {}
    assert known["H100 SXM5 80GB"] == pytest.approx(1.98e9, rel=0.01)
    assert known["MI300X"] == pytest.approx(2.1e9, rel=0.01)
    assert known["EPYC 9654"] == 0
