"""Pools for prompts and for answers: as few as keep the limits, as the simulator plays them, beside one for both."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from llmhw import Cluster, LLMHWError, ServingJob, model
from llmhw.pools import Pools, pools, prompt_wait_seconds, prompts_per_second
from llmhw.service import serve, simulate_service
from tests.unit.command import answer, refused, run

LOAD: dict[str, Any] = {
    "rate": 10,
    "input_tokens": 1000,
    "output_tokens": 200,
    "slo_ttft": 0.3,
    "slo_tpot": 0.02,
}


def found(spec: str = "llama-3.1-8b", device: str = "A100 80GB SXM4", **changes: Any) -> Pools:
    job = {name: changes.pop(name) for name in ("weights", "kv") if name in changes}
    return pools(ServingJob(model=model(spec), cluster=Cluster(device, 8), **job), **LOAD | changes)


def test_as_the_simulator_plays_it() -> None:
    made = found(tp=[1], pp=[1])
    prompts, decode = made.apart
    assert (prompts.replicas, decode.replicas) == (1, 1)
    job = replace(decode.job, cluster=Cluster(decode.job.cluster.accelerator, 2))
    played = simulate_service(
        job, rate=10, requests=3000, input_tokens=1000, output_tokens=200, mode="disaggregated", prefill_workers=1
    ).result
    # the simulator computes several prompts in one pass, so that they wait for less
    assert prompts.ttft_seconds == pytest.approx(played.ttft.mean, rel=0.2)
    assert decode.tpot_seconds == pytest.approx(played.tpot.mean, rel=0.02)
    assert decode.together == pytest.approx(played.mean_batch, rel=0.02)


def test_no_replica_too_many() -> None:
    made = found(rate=200, tp=[1], pp=[1])
    prompts, decode = made.apart
    assert prompts.ttft_seconds <= 0.3
    assert decode.tpot_seconds <= 0.02
    # one prompt replica fewer, and they wait for too long; or there are more of them than it takes at all
    for pool in made.pools:
        assert pool.busy <= 1 < pool.busy * pool.replicas / (pool.replicas - 1)
    # Little's law
    assert decode.together * decode.replicas == pytest.approx(200 * 199 * decode.tpot_seconds, rel=1e-5)


def test_one_pool_is_as_serve_has_it() -> None:
    made = found(rate=50, tp=[2], pp=[1])
    both = made.together
    assert both is not None
    cluster = Cluster("A100 80GB SXM4", 2)
    job = ServingJob(model=model("llama-3.1-8b"), cluster=cluster, tp=2)
    sizes: dict[str, Any] = {"input_tokens": 1000, "output_tokens": 200}
    best = serve(job, **sizes, slo_ttft=0.3, slo_tpot=0.02).within_slo
    assert best is not None
    assert both.replicas == -(-50 // (best.tokens_per_second / 200))
    point = serve(job, **sizes, rate=50 / both.replicas).point
    assert (both.ttft_seconds, both.tpot_seconds) == (point.ttft_seconds, point.tpot_seconds)


def test_which_pays() -> None:
    """Long prompts and a tight limit between tokens want pools apart (DistServe, table 1 and figure 8)."""
    made = found("llama-3.1-70b", "h100", rate=40, input_tokens=4000, slo_ttft=1, slo_tpot=0.03, weights="fp8")
    assert made.apart_pays
    assert made.together is not None
    assert made.devices < made.together.devices
    assert made.verdict.startswith("Apart: ")
    # with lax limits, one pool can use all of its time for both
    lax = found(rate=2, slo_ttft=5, slo_tpot=0.2)
    assert not lax.apart_pays
    assert lax.verdict.startswith("Together: 1 x tp=1 for both: 1 devices")


def test_limits_and_loads_order_the_devices() -> None:
    def devices(**changes: Any) -> int:
        return found(tp=[1, 2], pp=[1], **changes).devices or 10**9

    assert devices(slo_ttft=0.2) >= devices() >= devices(slo_ttft=1)
    assert devices(slo_tpot=0.015) >= devices() >= devices(slo_tpot=0.05)
    assert devices(rate=40) > devices(rate=10)
    made = found()
    for name, count in (("apart", made.devices), ("together", made.together and made.together.devices)):
        low, high = made.devices_interval[name]
        assert low <= count <= high


def test_another_device_for_prompts() -> None:
    job = ServingJob(model=model("llama-3.1-8b"), cluster=Cluster("A100 80GB SXM4", 8))
    made = pools(job, prompts_on=Cluster("h100", 8), **LOAD)
    assert [pool.job.cluster.accelerator.name for pool in made.apart] == ["H100 SXM5 80GB", "A100 80GB SXM4"]
    assert made.dollars_per_hour(*made.apart) == pytest.approx(
        sum(made.dollars_per_hour(pool) or 0.0 for pool in made.apart)
    )
    # between two kinds of nodes the network is the way, and not NVLink
    assert made.transfer_seconds > found(tp=[1], pp=[1]).transfer_seconds


def test_nothing_keeps_the_limits() -> None:
    slow = found(slo_tpot=0.001)
    assert (slow.apart, slow.together) == ((), None)
    assert slow.verdict.startswith("Neither way: one sequence alone gets a token every ")
    late = found(slo_ttft=0.01)
    assert late.verdict.startswith("Neither way: a prompt alone takes ")
    assert json.loads(json.dumps(late.to_dict()))["pools"] == []
    with pytest.raises(LLMHWError, match=r"no replica of llama-3.1-405b fits up to 4 nodes of 8 x RTX 4090"):
        pools(ServingJob(model=model("llama-3.1-405b"), cluster=Cluster("rtx 4090", 8)), **LOAD)
    for name in ("rate", "slo_ttft", "slo_tpot"):
        with pytest.raises(LLMHWError, match=f"{name}=0 must be"):
            found(**{name: 0})
    with pytest.raises(LLMHWError, match="output_tokens=1 must be"):
        found(output_tokens=1)


def test_the_queue_and_its_inverse() -> None:
    for work in (0.01, 0.3):
        for wait in (1e-3, 0.5, 100.0):
            rate = prompts_per_second(wait_seconds=wait, work_seconds=work)
            assert rate * work < 1
            assert prompt_wait_seconds(rate=rate, work_seconds=work) == pytest.approx(wait)


def test_text_and_numbers_agree() -> None:
    made = found()
    told = made.to_dict()
    assert told["devices_apart"] == sum(pool["devices"] for pool in told["pools"][:2])
    assert str(made).splitlines()[1] == made.verdict == told["verdict"]
    assert [row[4] for row in made.tables()[0].rows] == [f"{pool['devices']:,}" for pool in told["pools"]]
    assert list(made.to_frame().index) == ["prompts", "decode", "both"]


def test_the_command() -> None:
    line = "plan serve llama-3.1-8b --gpu h100 --rate 20 --slo-ttft 0.5 --slo-tpot 0.02 --pools".split()
    told = answer(*line)
    assert told["devices_apart"] == sum(pool["devices"] for pool in told["pools"] if pool["pool"] != "both")
    assert run(*line, "-q").stdout.strip() == told["verdict"].replace("tp=", "--tp ").replace("pp=", "--pp ")
    for more, words in (
        (["--gpu", "l4"], "give one --gpu"),
        (["--gpus", "8"], "leave --gpus and other limits out"),
        (["--percentile", "99"], "has no effect on --pools"),
        (["--emit", "vllm"], "--pools are two"),
    ):
        assert words in refused(*line, *more)
    assert "--pools needs --rate, --slo-ttft and --slo-tpot" in refused(*line[:5], "--pools")
