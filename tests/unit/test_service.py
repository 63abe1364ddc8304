"""What a service comes to: against bounds, against itself, and against the simulator."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import llmhw
from llmhw.catalog import read_calibration
from llmhw.service import (
    EngineSteps,
    ServingEstimate,
    bandwidth_bound_tokens_per_second,
    cached_tokens,
    dollars_per_million_tokens,
    engine_for,
    independent_groups,
    serve,
    shared_tokens,
    simulate_service,
    simulation_engine,
    step_model,
    tokens_per_verification,
)
from llmhw.simulation import Closed, LogNormal, Poisson, SimulationResult, Uniform, simulate

IN, OUT = 1000, 400


def job(
    name: str = "llama-3-8b", gpu: str = "h100", gpus: int = 1, inter_link: Any = None, **changes: Any
) -> llmhw.ServingJob:
    cluster = llmhw.Cluster(gpu, gpus, inter_link=inter_link)
    return llmhw.ServingJob(model=llmhw.model(name), cluster=cluster, **changes)


SHORT: dict[str, Any] = {"max_model_len": 8192, "max_sequences": 256}
JOBS = {
    "dense": job(max_sequences=256),
    "dense, 8 devices": job("llama-3.1-70b", gpus=8, tp=8, weights="fp8", kv="fp8", **SHORT),
    "replicas": job("llama-3.1-70b", gpus=8, tp=4, weights="fp8", **SHORT),
    "pipeline": job("llama-3.1-70b", gpus=8, tp=4, pp=2, weights="fp8", **SHORT),
    "experts": job("mixtral-8x7b", gpus=2, tp=2, **SHORT),
    "many experts": job("qwen3-30b-a3b", **SHORT),
    "latent attention": job("deepseek-v3", "h200", 8, tp=8, weights="fp8", **SHORT),
    "windows": job("gemma-2-9b", "a100 80gb sxm", **SHORT),
    "weights in 4 bit": job(gpu="rtx 4090", weights="int4-gptq"),
    "layer split": job(gpu="rtx 4090", gpus=2, pp=2, split="layers", engine="llama.cpp", max_sequences=16),
}


def load(name: str, **more: Any) -> ServingEstimate:
    return serve(JOBS[name], input_tokens=IN, output_tokens=OUT, **more)


def mean(found: SimulationResult, name: str) -> float:
    value = getattr(found, name).mean
    assert isinstance(value, float)
    return value


# -- the curve --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", JOBS)
def test_more_at_work_is_more_in_all_and_less_for_each(name: str) -> None:
    curve = load(name).curve
    assert curve[0].concurrency == 1
    assert len(curve) > 3
    # the last point is no power of two, and may not fill the tiles of the matrix products
    for few, many in itertools.pairwise(curve[:-1]):
        assert many.tokens_per_second > few.tokens_per_second
    assert curve[-1].tokens_per_second > 0.93 * curve[-2].tokens_per_second
    for few, many in itertools.pairwise(curve):
        assert many.tpot_seconds >= few.tpot_seconds * (1 - 1e-9)
        assert many.ttft_seconds >= few.ttft_seconds * (1 - 1e-9)
        # never more than in proportion
        ratio = many.concurrency / few.concurrency
        assert many.tokens_per_second <= ratio * few.tokens_per_second * (1 + 1e-9)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(
        ["llama-3-8b", "mistral-7b", "mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v2-lite", "gemma-2-9b"]
    ),
    gpu=st.sampled_from(["h100", "a100 80gb sxm", "rtx 4090", "l40s", "h200", "b200", "mi300x"]),
    gpus=st.sampled_from([1, 2, 4]),
    weights=st.sampled_from([None, "bf16", "fp8", "int8", "int4-gptq", "q4_k_m", "mxfp4"]),
    kv=st.sampled_from(["bf16", "fp8"]),
    engine=st.sampled_from(["vllm", "tensorrt-llm", "sglang", "transformers", "llama.cpp"]),
    concurrency=st.integers(1, 512),
    tokens=st.tuples(st.integers(1, 4000), st.integers(1, 2000)),
)
def test_no_prediction_is_above_the_peaks(
    name: str,
    gpu: str,
    gpus: int,
    weights: str,
    kv: str,
    engine: str,
    concurrency: int,
    tokens: tuple[int, int],
) -> None:
    spec = llmhw.model(name)
    cluster = llmhw.Cluster(gpu, gpus)
    options: dict[str, Any] = {"tp": gpus, "weights": weights, "kv": kv, "engine": engine, "max_sequences": 512}
    lengths = dict(zip(("input_tokens", "output_tokens"), tokens, strict=True))
    try:
        asked = llmhw.ServingJob(model=spec, cluster=cluster, max_model_len=6000, **options)
    except llmhw.LLMHWError as error:
        assert str(error).startswith(("engine=", "weights=", "kv="))  # noqa: PT017
        assume(False)
        return
    found = serve(asked, concurrency=concurrency, **lengths)
    if not found.fits:
        assert "Does not" in found.verdict
        assume(False)
    asked = found.job
    point = found.point
    bound = bandwidth_bound_tokens_per_second(asked, concurrency=point.concurrency, **lengths)
    assert 0 < point.tokens_per_second <= bound * (1 + 1e-9)

    # the same without the engine: products of active weights, and at batch 1 their bytes
    device = llmhw.accelerator(gpu)
    active = spec.parameters.active - spec.parameters.by_component["embedding"]
    passed = point.tokens_per_second * (tokens[0] + tokens[1] - 1) / tokens[1]
    assert passed * 2 * active * 0.98 <= gpus * max(device.peaks.values())
    bits = llmhw.number_format(asked.weights).bits_per_weight
    one = serve(asked, concurrency=1, **lengths).point
    least = active * bits / 8 / (gpus * device.memory_bandwidth_bytes_per_second)
    assert one.tpot_seconds > 0.98 * least
    assert one.tokens_per_second_per_user == pytest.approx(1 / one.tpot_seconds)


# -- load -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense", "replicas", "pipeline", "many experts"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_rate_and_concurrency_are_two_ways_to_say_one_load(name: str, share: float) -> None:
    """Little's law: requests at work = rate x the time of one."""
    capacity = load(name).capacity
    at_work = load(name, concurrency=max(JOBS[name].replicas * JOBS[name].pp, round(share * capacity)))
    again = load(name, rate=at_work.requests_per_second * (1 - 1e-9))
    # as few as will do, where a batch that fills its tiles does as much as one a little larger
    assert 0.94 * at_work.point.concurrency - 1 <= again.point.concurrency <= at_work.point.concurrency + 1
    assert again.requests_per_second == pytest.approx(at_work.requests_per_second)
    point = at_work.point
    # its own prompt, and all tokens after the first
    alone = load(name, concurrency=1).point.ttft_seconds
    spent = alone + point.tpot_seconds * (OUT - 1)
    assert at_work.requests_per_second * spent == pytest.approx(point.concurrency, rel=0.01)


def test_one_request_takes_its_prompt_and_a_pass_for_each_token() -> None:
    found = load("dense", concurrency=1)
    engine = engine_for(JOBS["dense"])
    prompt = engine.seconds(prompts=1, prompt_tokens=IN)
    decode = engine.seconds(decoding=1, context=IN + OUT / 2)
    assert found.point.ttft_seconds == pytest.approx(prompt)
    assert found.point.tpot_seconds == pytest.approx(decode)
    assert found.point.tokens_per_second == pytest.approx(OUT / (prompt + (OUT - 1) * decode))


def test_answers_of_one_token_are_all_prompt() -> None:
    found = serve(JOBS["dense"], input_tokens=IN, output_tokens=1, concurrency=8)
    engine, most = engine_for(JOBS["dense"]), min(8, found.job.max_batched_tokens // IN)
    together = engine.seconds(prompts=most, prompt_tokens=IN)
    assert found.requests_per_second == pytest.approx(most / together)
    assert 1 / engine.seconds(prompts=1, prompt_tokens=IN) < most / together


def test_a_service_that_is_offered_too_much_is_saturated() -> None:
    full = load("dense")
    most = full.requests_per_second
    assert not load("dense", rate=0.99 * most).saturated
    above = load("dense", rate=1.01 * most)
    assert above.saturated
    assert above.point == full.point
    assert "more arrive than it can take" in str(above)
    assert load("dense", concurrency=full.capacity + 1).saturated
    assert not load("dense", concurrency=full.capacity).saturated


def test_no_more_is_generated_than_is_asked_for() -> None:
    found = load("dense", rate=0.01, price=3.6)
    assert found.point.tokens_per_second == pytest.approx(0.01 * OUT)
    assert found.requests_per_second == pytest.approx(0.01)
    # the machine is paid for while it waits
    assert found.dollars_per_million_tokens == pytest.approx(3.6 / (0.01 * OUT * 3600) * 1e6)
    assert found.tokens_per_second_interval == (pytest.approx(4.0), pytest.approx(4.0))


def test_the_interval_holds_the_estimate() -> None:
    for more in ({}, {"concurrency": 1}, {"rate": 1.0}, {"rate": 1e6}):
        found = load("dense", **more)
        low, high = found.tokens_per_second_interval
        assert 0 < low <= found.point.tokens_per_second <= high


def test_limits() -> None:
    free = load("dense")
    middle = free.curve[4]
    found = load("dense", slo_tpot=middle.tpot_seconds * 1.0001)
    assert found.within_slo is not None
    assert found.within_slo.concurrency == middle.concurrency
    assert found.to_dict()["requests_per_second_within_slo"] == pytest.approx(middle.tokens_per_second / OUT)
    first = load("dense", slo_ttft=free.curve[2].ttft_seconds * 1.0001, slo_tpot=1.0)
    assert first.within_slo is not None
    assert first.within_slo.concurrency == free.curve[2].concurrency
    never = load("dense", slo_ttft=1e-6)
    assert never.within_slo is None
    assert never.to_dict()["requests_per_second_within_slo"] is None
    assert "not kept, even by a single request" in str(never)
    assert free.within_slo is None


def test_price() -> None:
    found = load("replicas", price=2.5)
    cost = found.dollars_per_million_tokens
    assert cost == pytest.approx(8 * 2.5 / 3600 / found.point.tokens_per_second * 1e6)
    assert load("replicas", price=5).dollars_per_million_tokens == pytest.approx(2 * cost)
    listed = load("dense").price
    assert listed is not None
    assert listed in llmhw.prices("h100")
    assert dollars_per_million_tokens(dollars_per_hour=3.6, tokens_per_second=1000) == pytest.approx(1.0)
    # a device without a price has everything but that
    unpriced = serve(job(gpu="rtx 3080 ti", weights="int4-gptq"), input_tokens=100, output_tokens=100)
    assert unpriced.price is None
    assert unpriced.dollars_per_million_tokens is None
    assert unpriced.no_price == "no on_demand price of RTX 3080 Ti is known: the catalog has none; give price="
    assert dict(unpriced.summary())["a million tokens"] == unpriced.no_price
    with pytest.raises(llmhw.LLMHWError, match="calibration has no engines, so it is not one of serving time"):
        load("dense", calibration=read_calibration("training_time"))
    assert {row[-1] for row in unpriced.rows()} == {"-"}


def test_replicas_share_the_load_out() -> None:
    one, two = (
        serve(job("llama-3.1-70b", gpus=n, tp=4, weights="fp8", **SHORT), input_tokens=IN, output_tokens=OUT)
        for n in (4, 8)
    )
    assert two.capacity == 2 * one.capacity
    assert two.point.tokens_per_second == pytest.approx(2 * one.point.tokens_per_second)
    assert two.point.tpot_seconds == pytest.approx(one.point.tpot_seconds)


def test_a_shared_prefix_saves_its_prompt() -> None:
    plain, shared = (
        serve(job(prefix_tokens=n), input_tokens=IN, output_tokens=OUT, concurrency=1).point for n in (0, 800)
    )
    assert shared_tokens(job(prefix_tokens=800)) == 800
    assert shared_tokens(job(prefix_tokens=801)) == 800
    assert shared.ttft_seconds < plain.ttft_seconds
    assert shared.tpot_seconds == pytest.approx(plain.tpot_seconds)


@pytest.mark.parametrize("hit", [0.0, 0.3, 0.9, 0.999])
def test_what_is_found_in_the_cache_is_not_computed(hit: float) -> None:
    sizes: dict[str, Any] = {"input_tokens": IN, "output_tokens": OUT, "concurrency": 4}
    plain, found = (serve(job(prefix_hit=share), **sizes) for share in (0.0, hit))
    if not hit:
        assert found.point == plain.point
        return
    assert found.point.ttft_seconds < plain.point.ttft_seconds
    assert found.point.tokens_per_second > plain.point.tokens_per_second
    assert found.capacity == plain.capacity  # what others left takes room, too
    assert cached_tokens(found.job, IN) == min(int(hit * IN) // 16 * 16, IN - 1)


@pytest.mark.parametrize(
    ("gpus", "workers", "concurrency", "tokens", "limit"),
    [
        (2, 1, 16, (1000, 500), "decoding limits"),
        (2, 1, 64, (4000, 100), "prompts limit"),
        (4, 3, 64, (4000, 100), "prompts limit"),
        (4, 1, 128, (1000, 100), "prompts limit"),
    ],
)
def test_prompts_apart_as_the_simulator_has_them(
    gpus: int, workers: int, concurrency: int, tokens: tuple[int, int], limit: str
) -> None:
    lengths = dict(zip(("input_tokens", "output_tokens"), tokens, strict=True))
    how: dict[str, Any] = {"concurrency": concurrency, "prefill_workers": workers, **lengths}
    asked_for = job(gpus=gpus)
    found = serve(asked_for, **how)
    played = simulate_service(asked_for, mode="disaggregated", **how)
    assert found.point.tokens_per_second == pytest.approx(played.output_tokens_per_second, rel=0.08)
    assert found.point.tpot_seconds == pytest.approx(mean(played.result, "tpot"), rel=0.05)
    assert found.point.tokens_per_second <= bandwidth_bound_tokens_per_second(
        asked_for, **{name: how[name] for name in ("concurrency", *lengths)}
    )
    text = dict(found.summary())["replicas for prompts"]
    assert text.endswith(limit)
    assert "the cache moves: cache_transfer_seconds(" in found.explain("first token")


def test_a_request_apart_takes_its_prompt_and_the_way_of_its_cache() -> None:
    two = job(gpus=2)
    found = serve(two, input_tokens=IN, output_tokens=OUT, concurrency=1, prefill_workers=1)
    alone = serve(two, input_tokens=IN, output_tokens=OUT, concurrency=1)
    assert found.point.ttft_seconds - alone.point.ttft_seconds == pytest.approx(131072 * IN / 450e9)
    assert found.point.tpot_seconds == pytest.approx(alone.point.tpot_seconds, rel=1e-3)


def test_answer_as_numbers() -> None:
    found = load("replicas", rate=2.0, slo_tpot=0.05, price=2.0)
    values = json.loads(json.dumps(found.to_dict()))
    assert values["rate"] == 2.0
    assert [p["concurrency"] for p in values["curve"]] == [p.concurrency for p in found.curve]
    assert values["curve"][-1]["dollars_per_million_tokens"] == pytest.approx(
        16 / 3600 / found.curve[-1].tokens_per_second * 1e6
    )
    frame = found.to_frame()
    assert list(frame.index) == [p.concurrency for p in found.curve]
    assert "80 % interval" in str(load("replicas", concurrency=8))


# -- formats, drafts --------------------------------------------------------------------------


def test_weights_in_4_bit_decode_faster_by_less_than_their_bytes() -> None:
    spec = llmhw.model("llama-3-8b")
    for gpu in ("h100", "rtx 4090", "a100 80gb sxm"):
        wide, narrow = (
            serve(job(gpu=gpu, weights=w), input_tokens=100, output_tokens=100, concurrency=1).point
            for w in ("bf16", "int4-gptq")
        )
        ratio = wide.tpot_seconds / narrow.tpot_seconds
        assert 1 < ratio < llmhw.weights(spec, "bf16").total / llmhw.weights(spec, "int4-gptq").total


def test_fp8_multiplies_faster_only_where_the_device_can() -> None:
    def prompt(gpu: str, weights: str) -> float:
        return serve(
            job(gpu=gpu, weights=weights), input_tokens=6000, output_tokens=10, concurrency=1
        ).point.ttft_seconds

    assert prompt("h100", "fp8") < 0.9 * prompt("h100", "bf16")
    assert prompt("a100 80gb sxm", "fp8") > 0.99 * prompt("a100 80gb sxm", "bf16")
    assert prompt("h100", "int4-gptq") > 0.99 * prompt("h100", "bf16")


def test_a_draft() -> None:
    big = job("llama-3.1-70b", gpus=8, tp=8, **SHORT)
    small = llmhw.model("llama-3.2-1b")

    def decoded(concurrency: int, **more: Any) -> float:
        found = serve(big, input_tokens=500, output_tokens=500, concurrency=concurrency, **more)
        return found.point.tokens_per_second_per_user

    for concurrency in (1, 16, 128):
        assert decoded(concurrency, draft=small, acceptance=0.0) < decoded(concurrency)
    assert decoded(1, draft=small, acceptance=0.8) > 1.1 * decoded(1)
    assert decoded(1, draft=small, acceptance=0.9) > decoded(1, draft=small, acceptance=0.6)
    # the gain shrinks as verification becomes work
    gain = [decoded(n, draft=small, acceptance=0.8) / decoded(n) for n in (1, 256)]
    assert gain[1] < gain[0]
    assert tokens_per_verification(acceptance=0.0, drafted=4) == 1
    assert tokens_per_verification(acceptance=0.999999, drafted=4) == pytest.approx(5, rel=1e-4)


def test_a_draft_takes_memory() -> None:
    plain = load("dense")
    with_draft = load("dense", draft=llmhw.model("llama-3.2-1b"))
    assert with_draft.memory.kv_bytes == pytest.approx(
        plain.memory.kv_bytes - llmhw.weights(llmhw.model("llama-3.2-1b")).total, rel=1e-6
    )
    tight = job("llama-3-8b", "rtx 4090")
    two = (serve(tight, input_tokens=2000, output_tokens=500, draft=d) for d in (None, llmhw.model("llama-3.2-1b")))
    alone, both = (found.capacity for found in two)
    assert both < alone / 1.25


# -- wrong arguments --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prefill_workers": 1}, "prefill_workers=1, and one replica that decodes, need a multiple of 2 replicas"),
        ({"prefill_workers": 0}, "prefill_workers=0 must be a whole number of at least 1"),
        ({"input_tokens": 0}, "input_tokens=0 must be a whole number of at least 1"),
        ({"output_tokens": 1.5}, "output_tokens=1.5 must be a whole number"),
        ({"concurrency": 0}, "concurrency=0 must be a whole number of at least 1"),
        ({"concurrency": 3, "rate": 2}, "concurrency=3 and rate=2 are two ways to say the load; give one"),
        ({"rate": -1}, "rate=-1 must be a number above 0"),
        ({"rate": float("nan")}, "rate=nan must be a number above 0"),
        ({"slo_ttft": 0}, "slo_ttft=0 must be a number above 0"),
        ({"slo_tpot": -1}, "slo_tpot=-1 must be a number above 0"),
        ({"draft": llmhw.model("gpt2"), "acceptance": 1}, "acceptance=1 must be at least 0 and below 1"),
        ({"draft": llmhw.model("gpt2"), "acceptance": "x"}, "acceptance='x' must be at least 0 and below 1"),
        ({"draft": llmhw.model("gpt2"), "draft_tokens": 10**6}, "draft_tokens=1000000 must be at most 1000"),
        ({"draft_tokens": -1}, "draft_tokens=-1 must be a whole number of at least 1"),
        ({"draft_tokens": 3}, "draft_tokens=3 has no effect without a draft; give draft, or leave draft_tokens out"),
        ({"acceptance": 0.7}, "acceptance=0.7 has no effect without a draft; give draft, or leave acceptance out"),
        ({"slo_tpot": 33}, "slo_tpot=33 must be at most 10: it is in seconds; 33 ms are slo_tpot=0.033"),
        ({"slo_ttft": 700}, "slo_ttft=700 must be at most 600: it is in seconds; 700 ms are slo_ttft=0.7"),
        ({"rate": 1e-320}, "rate=1e-320 is too close to 0"),
        ({"rate": 1e300}, "rate=1e+300 must be a number above 0 and at most"),
        ({"concurrency": 10**12}, "concurrency=1000000000000 must be at most 1,000,000,000"),
        ({"draft": llmhw.model("gpt2"), "draft_tokens": 0}, "draft_tokens=0 must be a whole number of at least 1"),
        (
            {"input_tokens": 8000},
            "input_tokens + output_tokens = 8400 is longer than max_model_len=8192, the limit of llama-3-8b; use "
            "fewer, or max_model_len=8400, which needs rope scaling",
        ),
        ({"price": -2}, "price=-2 must be a number above 0"),
        ({"region": "mars"}, "region='mars' has no price of H100 SXM5 80GB"),
        ({"kind": "gift"}, "kind='gift' is not known"),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(llmhw.LLMHWError) as found:
        serve(JOBS["dense"], **({"input_tokens": IN, "output_tokens": OUT} | arguments))
    assert message in str(found.value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            job("llama-3-70b", gpus=16, tp=16, inter_link=llmhw.Link("slow", "scale-out", 1.0)),
            "bytes_per_second=1.0 of link slow must be from 1000 to 1e+15",
        ),
        (job(prefix_tokens=1000), "input_tokens=1000 must be more than prefix_tokens=1000"),
        (job(gpu="m4 max 128gb", kv_offload=0.5), "M4 Max"),
        (job("llama-3.1-405b", gpus=16, tp=16, **SHORT), "inter_link of 16 x H100 SXM5 80GB is not known"),
    ],
)
def test_jobs_that_cannot_be_timed(asked: llmhw.ServingJob, message: str) -> None:
    with pytest.raises(llmhw.LLMHWError) as found:
        serve(asked, input_tokens=IN, output_tokens=OUT)
    assert message in str(found.value)


def test_an_instance_over_two_nodes_uses_the_network_between_them() -> None:
    spec = llmhw.model("llama-3.1-405b")

    def speed(network: str) -> float:
        cluster = llmhw.Cluster("h100", 16, inter_link=network)
        spread = llmhw.ServingJob(model=spec, cluster=cluster, tp=16, **SHORT)
        return serve(spread, input_tokens=IN, output_tokens=OUT, concurrency=32).point.tpot_seconds

    assert speed("infiniband hdr") > speed("infiniband ndr")


# -- answers in words -------------------------------------------------------------------------


def asked(name: str, gpu: str, gpus: int = 1, *, tokens: tuple[int, int] = (1000, 500), **more: Any) -> ServingEstimate:
    load = {
        k: more.pop(k) for k in ("concurrency", "rate", "slo_ttft", "slo_tpot", "draft", "draft_tokens") if k in more
    }
    return serve(job(name, gpu, gpus, **more), input_tokens=tokens[0], output_tokens=tokens[1], **load)


def test_home_users_get_an_answer_at_once() -> None:
    one = asked("llama-3.1-8b", "rtx 3090", engine="llama.cpp", weights="q4_k_m")
    assert one.fits
    assert (one.capacity, one.job.max_batched_tokens, one.job.max_model_len) == (1, 512, 131_072)
    assert one.memory.longest == 131_072
    two = asked("llama-3.1-70b", "rtx 3090", 2, engine="llama.cpp", weights="q4_k_m")
    assert (two.job.pp, two.job.tp, two.job.split, two.job.replicas) == (2, 1, "layers", 1)
    assert "pp=2 assumed: its layers go to all devices; replicas: 1" in two.warnings()
    assert 14 < two.point.tokens_per_second_per_user < 20
    assert 16_000 < two.memory.longest < 23_000
    plain = asked("llama-3.1-70b", "rtx 3090", 2, weights="int4-awq")
    assert (plain.job.engine, plain.job.tp, plain.job.max_model_len) == ("vllm", 2, 10_000)
    assert "max_model_len=10000 assumed: the model's 131,072 do not fit; vllm needs it said" in plain.warnings()
    # the speed of one user at the load, and alone
    rows = dict(plain.summary())
    assert rows["one user"].startswith(f"{plain.point.tokens_per_second_per_user:.1f} tokens/s")
    assert rows["one user alone"] == f"{plain.curve[0].tokens_per_second_per_user:.1f} tokens/s"


def test_what_does_not_start_is_not_timed() -> None:
    found = asked("qwen3.5-27b", "RTX PRO 6000 Blackwell Workstation", weights="fp8")
    blocks = found.memory.blocks
    assert not found.fits
    assert found.verdict.startswith(f"Does not start: max_sequences=1024 is more than the {blocks} blocks")
    assert found.next_steps()[0].startswith(f"max_sequences={blocks}: ")
    given = asked("qwen3.5-27b", "RTX PRO 6000 Blackwell Workstation", weights="fp8", max_sequences=blocks)
    assert given.fits


def test_a_given_layout_stays() -> None:
    found = asked("llama-3.1-70b", "h100", 8, tp=8)
    assert (found.job.tp, found.job.was_asked("tp")) == (8, True)
    assert not any("tp=" in text for text in found.warnings())
    assert asked("llama-3-8b", "h100", 4).job.replicas == 4


def test_what_does_not_fit_is_an_answer_without_speed() -> None:
    found = asked("llama-3.1-70b", "h100", weights="bf16", max_sequences=256)
    assert not found.fits
    assert found.verdict.startswith("Does not fit: one request of 1,500 tokens is short by 6")
    assert (found.capacity, found.point.tokens_per_second, found.curve, found.rows()) == (0, 0.0, (), [])
    row = found.to_row()
    assert (row["fits"], row["tokens_per_second"], row["ttft_seconds"]) == (False, 0.0, None)
    assert list(row)[:4] == ["model", "device", "devices", "engine"]
    json.dumps([row, found.to_dict(), found.records()], allow_nan=False)
    assert "Does not fit" in str(found)
    assert "stored_weight_bytes" in found.explain("weights")
    # every step was tried: it fits
    steps = found.next_steps()
    assert any(step.startswith("devices=2, tp=2: ") for step in steps)
    assert any(step.startswith("device='B200 SXM 180GB': ") for step in steps)
    assert any(step.startswith("weights='fp8': ") for step in steps)
    tried = asked("llama-3.1-70b", "h100", weights="fp8", max_sequences=256).point.tokens_per_second
    assert any(step.startswith(f"weights='fp8': {tried:,.0f} tokens/s") for step in steps)


def test_an_engine_that_does_not_start_says_why() -> None:
    found = asked("llama-3.1-8b", "rtx 3090", max_model_len=131_072)
    longest = found.memory.longest
    assert found.verdict == (
        f"Does not start: max_model_len=131072 needs more than there is; one sequence of {longest:,} tokens fits."
    )
    assert any(step.startswith(f"max_model_len={longest}: ") for step in found.next_steps())
    # others reserve pages as requests come
    assert asked("llama-3.1-8b", "rtx 3090", max_model_len=131_072, engine="sglang").fits


def test_fits_barely() -> None:
    tight = asked("llama-3.1-70b", "rtx 3090", 2, weights="int4-awq", utilization=0.87)
    assert tight.verdict.startswith("Fits barely: ")
    roomy = asked("llama-3-8b", "h100", concurrency=4)
    low, high = roomy.tokens_per_second_interval or (0.0, 0.0)
    assert roomy.verdict.startswith("Fits: ")
    assert f"tokens/s for all users (80 %: {low:,.0f} to {high:,.0f})" in roomy.verdict


def test_the_longest_context_is_right_for_windows() -> None:
    found = asked("gemma-3-27b", "A100 80GB SXM4", tokens=(130_000, 1000), kv="fp8")
    rows = dict(found.summary())
    assert rows["longest context"] == "one sequence of 131,072 tokens"
    assert rows["at once"] == "3 sequences of 131,000 tokens"
    assert "maximum concurrency 3.55 x 131,072 tokens" in rows["memory"]
    assert "tokens" in dict(asked("llama-3-8b", "h100").summary())["memory"]


def test_a_limit_above_the_model_s_needs_rope_scaling() -> None:
    found = asked("llama-3-8b", "h100", max_model_len=100_000)
    assert "max_model_len=100000 is above the model's limit of 8,192: it needs rope scaling" in found.warnings()


@pytest.mark.parametrize(("name", "tpot"), [("deepseek-v3", 1 / 30), ("llama-3-8b", 0.02), ("mixtral-8x7b", 0.03)])
def test_limits_are_judged_at_every_load(name: str, tpot: float) -> None:
    gpu, gpus = ("h200", 8) if name == "deepseek-v3" else ("h200", 1)
    found = asked(name, gpu, gpus, tp=gpus, weights="fp8", slo_tpot=tpot)
    best = found.within_slo
    assert best is not None
    assert best == found.point
    assert best.tpot_seconds <= tpot < found.service.at(best.concurrency + 1).tpot_seconds
    assert best.concurrency & (best.concurrency - 1) != 0
    assert found.warnings()[0] == f"concurrency={best.concurrency} assumed: the busiest load that keeps the limits"
    never = asked(name, gpu, gpus, tp=gpus, weights="fp8", slo_tpot=1e-5)
    assert (never.point.concurrency, never.within_slo) == (1, None)
    assert "even a single request does not keep the limits" in never.warnings()[0]


def test_a_draft_s_gain_is_printed() -> None:
    draft = llmhw.model("llama-3.2-1b")
    found = asked("llama-3.1-70b", "h100", 8, tp=8, concurrency=1, draft=draft, draft_tokens=3)
    without = asked("llama-3.1-70b", "h100", 8, tp=8, concurrency=1).point.tokens_per_second_per_user
    text = dict(found.summary())["speculative decoding"]
    assert text.endswith(f"{without:.1f} tokens/s without")
    assert "draft llama-3.2-1b of 3 tokens" in found.title
    large = asked("llama-3.1-8b", "rtx 3090", draft=llmhw.model("llama-3.1-70b"))
    assert large.verdict.startswith("Does not fit beside the draft llama-3.1-70b: ")
    assert large.verdict.endswith("without it, the job fits.")


def test_adapters_have_a_line() -> None:
    found = asked("llama-3.1-8b", "h100", lora_adapters=20)
    assert dict(found.summary())["LoRA adapters"] == "20 of rank 16: 1.56 GiB on each device"
    assert "20 LoRA adapters of rank 16" in found.title
    assert "adapters of" in found.explain("adapters")


def test_borrowed_constants_are_disclosed_and_less_sure() -> None:
    def told(gpu: str, engine: str, **more: Any) -> tuple[str, float]:
        found = asked("llama-3-8b", gpu, engine=engine, concurrency=64, **more)
        low, high = found.tokens_per_second_interval or (1.0, 1.0)
        return "; ".join(found.warnings()), high / low

    silent, own = told("h100", "vllm", weights="fp8")
    assert "constants" not in silent
    assert "not fitted" not in silent
    text, borrowed = told("h100", "tgi", weights="fp8")
    assert "tgi's speed is computed with tensorrt-llm's constants: it has none of its own" in text
    distance = read_calibration("serving_time")["distance"]["throughput"]
    assert borrowed >= own * (1 - 1e-9)
    assert math.log(borrowed) / 2 == pytest.approx(math.hypot(math.log(own) / 2, distance["engine"]))
    text, foreign = told("gaudi 3", "transformers", weights="bf16")
    assert "not fitted on this family: no run on Gaudi3 is in the measurements, constants of others are used" in text
    assert foreign >= own * (1 - 1e-9)
    assert (
        "no run with weights='int8' on hopper is in the measurements of tensorrt-llm"
        in told("h100", "tensorrt-llm", weights="int8")[0]
    )


def test_every_name_of_the_tables_can_be_explained() -> None:
    draft = llmhw.model("llama-3.2-1b")
    found = asked("llama-3.1-8b", "h100", lora_adapters=2, draft=draft, slo_tpot=0.05)
    for table in found.tables():
        for name in (*(row[0] for row in table.rows if not row[0][0].isdigit()), *filter(None, table.columns)):
            assert "=" in found.explain(name), name
    for name in found.parts:
        found.explain(name)
    for name, *_ in found.memory.rows():
        assert "=" in found.memory.explain(name), name
    with pytest.raises(llmhw.LLMHWError, match="part='speed' is not known"):
        found.explain("speed")


def test_expert_parallel_serving_sends_tokens_to_their_experts() -> None:
    cluster = llmhw.Cluster("h200", 32, inter_link="infiniband ndr")
    options: dict[str, Any] = {"tp": 1, "ep": 32, "attention_dp": 32, "weights": "fp8-block", "engine": "sglang"}
    wide = llmhw.ServingJob(model=llmhw.model("deepseek-v3"), cluster=cluster, **options)
    found = serve(wide, input_tokens=1000, output_tokens=500, concurrency=512)
    assert 3_000 < found.point.tokens_per_second < 10_000
    assert found.parts["all-to-alls"] > 0 == found.parts["all-reduces"]


# -- steps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", JOBS)
def test_steps_are_those_of_the_engine(name: str) -> None:
    """Decoding within 0.1 %, prompts alone exactly, prompts beside tokens within 12 %."""
    engine = engine_for(JOBS[name])
    steps = EngineSteps(engine, prompt_tokens=IN)
    for count, context in itertools.product((1, 3, 16, 50, 256), (100, 700, 1500, 5000)):
        told = engine.seconds(decoding=count, context=context)
        assert steps(0, 0, count, count * context) == pytest.approx(told, rel=1e-3)
    for tokens in (64, 700, IN):
        assert steps(tokens, 0, 0, 0) == engine.seconds(prompts=1, prompt_tokens=tokens)
    assert steps(3 * IN, 0, 0, 0) == engine.seconds(prompts=3, prompt_tokens=IN)
    for tokens, count, context in itertools.product((256, IN), (1, 16, 200), (300, 1500)):
        told = engine.seconds(prompts=1, prompt_tokens=tokens, decoding=count, context=context)
        assert steps(tokens, 0, count, count * context) == pytest.approx(told, rel=0.12)
    for past in (500, 2000):
        told = engine.seconds(prompts=1, prompt_tokens=512, past=past)
        assert steps(512, past, 0, 0) == pytest.approx(told, rel=0.03)
    assert steps(0, 0, 0, 0) == 0


@pytest.mark.parametrize(("name", "most"), [("dense", 0.1), ("dense, 8 devices", 0.1), ("experts", 0.45)])
def test_an_affine_step_is_exact_at_its_ends_and_near_between(name: str, most: float) -> None:
    """What a batch reads of experts is not affine in its tokens: that is why `EngineSteps` is what is simulated."""
    engine = engine_for(JOBS[name])
    step = step_model(engine, context=1200, running=64, prompt_tokens=IN)
    for count in (1, 64):
        assert step(0, 0, count, count * 1200) == pytest.approx(engine.seconds(decoding=count, context=1200), rel=1e-3)
    assert step(IN, 0, 0, 0) == pytest.approx(engine.seconds(prompts=1, prompt_tokens=IN))
    for count, context in itertools.product((4, 16, 32), (600, 1200, 2400)):
        told = engine.seconds(decoding=count, context=context)
        assert step(0, 0, count, count * context) == pytest.approx(told, rel=most)


# -- the simulator ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", JOBS)
def test_a_request_alone_takes_as_long_in_the_simulator(name: str) -> None:
    one = load(name, concurrency=1).point
    engine = simulation_engine(JOBS[name], input_tokens=IN, output_tokens=OUT)
    found = simulate(engine, Poisson(1e-4, IN, OUT, requests=20))
    assert mean(found, "ttft") == pytest.approx(one.ttft_seconds, rel=0.02)
    assert mean(found, "tpot") == pytest.approx(one.tpot_seconds, rel=0.02)


@pytest.mark.parametrize("name", JOBS)
def test_the_simulator_saturates_where_the_closed_form_does(name: str) -> None:
    groups = independent_groups(JOBS[name])
    whole = load(name)
    engine = simulation_engine(JOBS[name], input_tokens=IN, output_tokens=OUT)
    users = whole.capacity // groups
    found = simulate(engine, Closed(users, IN, Uniform(OUT // 2, 3 * OUT // 2), requests=max(300, 6 * users)))
    assert found.output_tokens_per_second * groups == pytest.approx(whole.point.tokens_per_second, rel=0.12)
    assert found.largest_batch <= users


def test_the_simulator_beside_the_closed_form_at_half_load() -> None:
    rate = load("dense").requests_per_second / 2
    closed = load("dense", rate=rate).point
    found = simulate_service(JOBS["dense"], rate=rate, requests=3000, input_tokens=IN, output_tokens=OUT).result
    assert mean(found, "tpot") == pytest.approx(closed.tpot_seconds, rel=0.15)
    assert found.mean_in_system == pytest.approx(closed.concurrency, rel=0.25)
    # prompts queue behind each other, which the closed form leaves out
    assert closed.ttft_seconds < 1.2 * mean(found, "ttft")


def test_one_of_several_groups_is_simulated_with_its_share() -> None:
    found = simulate_service(JOBS["replicas"], rate=4, requests=600, input_tokens=IN, output_tokens=OUT)
    assert found.groups == 2
    alone = simulate_service(
        job("llama-3.1-70b", gpus=4, tp=4, weights="fp8", **SHORT),
        rate=2,
        requests=600,
        input_tokens=IN,
        output_tokens=OUT,
    )
    assert alone.groups == 1
    assert found.result.to_dict() == alone.result.to_dict()
    assert found.output_tokens_per_second == pytest.approx(2 * alone.output_tokens_per_second)
    assert "One of 2 equal groups was simulated, with 2 of the 4 requests a second" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["rate_simulated"] == 2
    row = found.to_row()
    assert row["simulated_ttft_p99"] == found.result.ttft.p99


def test_the_simulator_takes_the_same_layout() -> None:
    eight = job("llama-3.1-70b", gpus=8)
    assert independent_groups(eight) == 4
    found = simulate_service(eight, rate=1, requests=20, input_tokens=IN, output_tokens=50)
    assert (found.groups, found.engine.max_context) == (4, llmhw.serving_memory(eight).longest)


def test_blocks_and_sequences_are_those_of_the_job() -> None:
    asked = job(gpu="rtx 4090", weights="int4-gptq", max_sequences=100)
    held = llmhw.serving_memory(asked)
    engine = simulation_engine(asked, input_tokens=IN, output_tokens=OUT)
    assert engine.kv_blocks is not None
    assert engine.kv_blocks * 16 >= held.kv_tokens
    assert engine.kv_blocks * 16 == pytest.approx(held.kv_tokens, rel=0.01)
    assert (engine.max_sequences, engine.max_context, engine.block_tokens) == (100, 8192, 16)
    # two stages work on two groups, each with half of the cache
    one, two = (
        simulation_engine(job("llama-3-8b", gpus=2, max_sequences=64, **layout), input_tokens=IN, output_tokens=OUT)
        for layout in ({"tp": 2}, {"pp": 2})
    )
    assert (one.max_sequences, two.max_sequences) == (64, 32)
    assert one.kv_blocks is not None
    assert two.kv_blocks == pytest.approx(one.kv_blocks / 2, rel=0.1)
    # an engine without pages runs as many as it has room for at their longest
    whole = simulation_engine(JOBS["layer split"], input_tokens=IN, output_tokens=OUT)
    assert whole.kv_blocks is None
    assert whole.max_sequences <= llmhw.serving_memory(JOBS["layer split"]).sequences(8192)


def test_a_small_cache_preempts_in_the_simulator() -> None:
    tight = job("llama-3-8b", "rtx 4090", max_sequences=64)
    found = simulate_service(tight, rate=50, requests=200, input_tokens=500, output_tokens=1000).result
    assert found.preemptions > 0
    assert found.kv_peak is not None
    assert found.kv_peak > 0.95


def test_prompts_on_machines_of_their_own() -> None:
    four = job(gpus=4)
    found = simulate_service(four, rate=8, requests=500, mode="disaggregated", input_tokens=IN, output_tokens=OUT)
    assert found.groups == 2
    assert found.engine.transfer_token_seconds == pytest.approx(131072 / 450e9)
    mixed = simulate_service(four, rate=8, requests=500, input_tokens=IN, output_tokens=OUT)
    assert mixed.groups == 4
    # no prompt holds up a token any more
    assert mean(found.result, "tpot") < 1.2 * mean(mixed.result, "tpot")
    three = simulate_service(
        four, rate=8, requests=100, mode="disaggregated", prefill_workers=3, input_tokens=IN, output_tokens=OUT
    )
    assert (three.groups, three.engine.prefill_workers) == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "rate=None, concurrency=None and trace=None: give one of the three"),
        ({"rate": 1, "trace": "a.csv"}, "give one of the three"),
        ({"rate": 0}, "rate=0 must be a number above 0"),
        ({"rate": 1, "speed": 2}, "speed=2 belongs to trace"),
        ({"rate": 1, "requests": 0}, "requests=0 must be a whole number of at least 1"),
        ({"rate": 1, "prefill_workers": 1}, "prefill_workers=1 belongs to mode disaggregated"),
        ({"rate": 1, "mode": "disaggregated"}, "need a multiple of 2 replicas; 1 devices hold 1 of 1"),
        ({"rate": 1, "mode": "batch"}, "mode='batch' is not known"),
        ({"rate": 1, "input_tokens": 9000}, "input_tokens=9000 and output_tokens=500 must be at most max_context=8192"),
        ({"rate": 1, "input_tokens": LogNormal(7000, 1)}, "must be at most max_context=8192 together"),
    ],
)
def test_simulation_errors_name_the_argument(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(llmhw.LLMHWError) as found:
        simulate_service(JOBS["dense"], **arguments)
    assert message in str(found.value)
