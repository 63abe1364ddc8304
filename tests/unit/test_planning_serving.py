"""Plans of serving: arrays beside single predictions, the service level, everyday questions by one command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llmhw
from llmhw.job import ServingJob
from llmhw.planning.demand import Demand
from llmhw.planning.mixed import best_mixed, equal_parts, mixed
from llmhw.planning.result import Limits, Plan
from llmhw.planning.serving import plan_serving
from llmhw.planning.which import cheapest, runnable, side_by_side
from llmhw.search import search
from tests.unit.command import run


def asked(model: str, **fields: Any) -> ServingJob:
    return ServingJob(model=model, cluster="h100", **fields)


@pytest.fixture(scope="module")
def open_plan() -> Plan:
    """The question without a load, over everything for rent, in all formats."""
    return plan_serving(asked("llama-3-70b"), demand=Demand(quality="any"))


# -- arrays beside single predictions ---------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "engine"),
    [("llama-3-70b", "tensorrt-llm"), ("mixtral-8x7b", "sglang"), ("gemma-3-27b", "vllm"), ("mamba-2.8b", "vllm")],
)
def test_what_the_arrays_have_is_the_single_prediction(model: str, engine: str) -> None:
    """Every figure of layouts on devices of all kinds at once is that of `serve`, to 1e-9."""
    places: list[Any] = [(name, 4) for name in ("h100", "A100 80GB SXM4", "b200", "RTX 4090", "L4")]
    places += [("mi300x", 4)] if engine != "tensorrt-llm" else []
    load = {"input_tokens": 1000, "output_tokens": 500}
    found = search(
        asked(model, engine=engine, max_model_len=2048), places, **load, best=1000, ep=(1, 4), attention_dp=1
    )
    kinds: dict[Any, Any] = {}
    for one in found.best:
        kinds.setdefault((one.job.cluster.accelerator.name, one.job.tp, one.job.ep > 1), one)
    assert len({name for name, *_ in kinds}) >= 2
    for one in list(kinds.values())[:: max(1, len(kinds) // 6)]:
        single = llmhw.serve(one.job, **load)
        assert one.first_token == pytest.approx(single.point.ttft_seconds, rel=1e-9)
        assert one.next_token == pytest.approx(single.point.tpot_seconds, rel=1e-9)
        assert 1 / one.seconds == pytest.approx(single.point.tokens_per_second, rel=1e-9)


def test_a_fp8_cache_on_a_device_without_such_numbers_is_widened_in_the_arrays_too() -> None:
    load = {"input_tokens": 2000, "output_tokens": 500, "concurrency": 32}
    found = search(asked("llama-3-8b"), [("A100 80GB SXM4", 1), ("h100", 1)], **load, kv=("fp8",), best=50)
    for one in found.best[::7]:
        assert one.next_token == pytest.approx(llmhw.serve(one.job, **load).point.tpot_seconds, rel=1e-9)


def test_the_open_question(open_plan: Plan) -> None:
    """Every choice keeps the level over its interval, is its own estimate, and no format or device was left out."""
    assert len(open_plan.choices) == 5
    for choice in open_plan.choices:
        point = choice.estimate.point
        assert choice.figures["tpot"].value == pytest.approx(point.tpot_seconds, rel=1e-9)
        assert choice.figures["dollars_per_million"].value == pytest.approx(
            choice.estimate.dollars_per_million_tokens, rel=1e-9
        )
        assert choice.figures["tpot"].most <= 0.05
        assert choice.figures["ttft"].most <= 2
    costs = [c.figures["dollars_per_million"].value for c in open_plan.choices]
    assert costs == sorted(costs)
    told = {r.place for r in open_plan.refused} | {c.job.cluster.accelerator.name for c in open_plan.front}
    assert told, "what was refused is said"
    assert open_plan.counts["tried"] > 10_000
    assert any("slo_tpot=0.05" in note for note in open_plan.notes)


def test_one_more_user_of_an_instance_misses_the_level(open_plan: Plan) -> None:
    best = open_plan.best
    job, users = best.job, best.estimate.point.concurrency // best.job.replicas
    one = replace(job, cluster=llmhw.Cluster(job.cluster.accelerator, job.devices))
    for n, holds in ((users, True), (users + 1, False)):
        made = llmhw.serve(one, input_tokens=1000, output_tokens=500, concurrency=n)
        assert made.interval is not None
        if made.point.concurrency == n:  # else memory is what limits
            longer = made.interval[1]
            assert (max(made.point.tpot_seconds / 0.05, made.point.ttft_seconds / 2) * longer <= 1) is holds


def test_replicas_for_users_and_for_a_rate() -> None:
    """As few instances as keep the level: with one less, users of an instance see it missed."""
    level = {"slo_ttft": 1.0, "slo_tpot": 0.03}
    best = plan_serving(asked("llama-3-8b"), ["l40s"], demand=Demand(users=400, **level), by="devices", best=1).best
    job = best.job
    assert best.figures["tpot"].most <= 0.03
    assert job.replicas > 1
    cluster = llmhw.Cluster(job.cluster.accelerator, job.cluster.devices - job.devices, job.devices)
    less = llmhw.serve(replace(job, cluster=cluster), input_tokens=1000, output_tokens=500, concurrency=400)
    longer = (less.interval or (1, 1))[1]
    assert less.saturated or less.point.tpot_seconds * longer > 0.03 or less.point.ttft_seconds * longer > 1.0
    rate = plan_serving(asked("llama-3-8b"), ["l40s"], demand=Demand(rate=15.0, **level), best=1).best
    assert not rate.estimate.saturated
    assert rate.figures["tpot"].most <= 0.03
    assert rate.estimate.curve[-1].tokens_per_second / longer > 15.0 * 500


def test_quality() -> None:
    """Fewer bits are taken only where they are acceptable, and then make it cheaper."""
    bits, costs = {}, {}
    for quality in ("lossless", "high", "usable"):
        best = plan_serving(asked("llama-3-70b"), ["h100"], demand=Demand(quality=quality), best=1).best
        bits[quality] = llmhw.number_format(str(best.job.weights)).bits
        costs[quality] = best.figures["dollars_per_million"].value
    assert bits["lossless"] == 16
    assert bits["high"] >= 8
    assert bits["usable"] >= 4
    assert costs["lossless"] > costs["high"] >= costs["usable"]
    own = plan_serving(asked("gpt-oss-120b"), ["h100"], demand=Demand(quality="lossless")).best
    assert own.job.weights == "mxfp4"  # the checkpoint's own format loses nothing


def test_a_percentile_asks_for_more_than_the_mean() -> None:
    demand = Demand(rate=12.0, slo_ttft=0.4, slo_tpot=0.03)
    mean = plan_serving(asked("llama-3-8b"), ["l40s"], demand=demand, best=1).best
    most = plan_serving(asked("llama-3-8b"), ["l40s"], demand=replace(demand, percentile=99.0), best=1).best
    assert most.figures["devices"].value >= mean.figures["devices"].value
    assert "of requests at random keep the limits" in most.note


def test_nothing_holds() -> None:
    """What is short by how much, and the smallest change; with it, something holds."""
    none = plan_serving(asked("llama-3-70b"), ["h100"], demand=Demand(users=100, slo_tpot=0.001))
    assert none.verdict.startswith("Does not work within slo_tpot=0.001")
    wanted = none.changes[0].split(":")[0]
    assert wanted.startswith("slo_tpot=")
    again = plan_serving(
        asked("llama-3-70b"), ["h100"], demand=Demand(users=100, slo_tpot=float(wanted.partition("=")[2]))
    )
    assert again.choices
    small = plan_serving(asked("llama-3.1-405b"), ["l4"], demand=Demand(users=1), counts=(1,))
    assert "short by" in small.refused[0].why
    dear = plan_serving(asked("llama-3-70b"), ["h100"], demand=Demand(users=100), limits=Limits(budget_per_hour=1.0))
    assert dear.changes[0].startswith("budget_per_hour=")


# -- recommended layouts ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "device", "devices", "tp"),
    [("llama-3.1-8b", "h100", 1, 1), ("llama-3.1-70b", "h100", 4, 4), ("llama-3.1-405b", "h100", 8, 8)],
)
def test_what_vendors_recommend_is_among_the_first(model: str, device: str, devices: int, tp: int) -> None:
    """vLLM's and NVIDIA's recipes (fp8 on H100: 8B on one, 70B on up to four, 405B on eight) are in the first three."""
    plan = plan_serving(asked(model, weights="fp8"), [(device, devices)] if devices > 1 else [device],
                        demand=Demand(slo_ttft=4, slo_tpot=0.1), by="speed", best=3, pp=1)  # fmt: skip
    assert tp in [c.job.tp * c.job.replicas if c.job.tp == 1 else c.job.tp for c in plan.choices]


# -- which ------------------------------------------------------------------------------------


def test_unequal_cards_that_are_equal_are_the_single_prediction() -> None:
    """Two equal cards are llama.cpp's layer split, as `serve` has it."""
    for model, cards, fmt in (("llama-3.1-70b", 2, "Q4_K_M"), ("qwen3-32b", 4, "Q8_0")):
        found = mixed(llmhw.model(model), ["RTX 3090"] * cards, weights_format=fmt)
        job = ServingJob(model=model, cluster=("RTX 3090", cards), engine="llama.cpp", weights=fmt, max_model_len=4096)
        single = llmhw.serve(job, input_tokens=1000, output_tokens=500, concurrency=1)
        assert found.tpot == pytest.approx(single.point.tpot_seconds, rel=0.01)
        assert found.first_token == pytest.approx(single.point.ttft_seconds, rel=0.05)
        assert found.fits == single.fits


def test_unequal_cards() -> None:
    """Layers go by memory, the slower card takes longer for as many, and a third card is slower than two."""
    spec = llmhw.model("llama-3.1-70b")
    two = best_mixed(spec, ["RTX 3090", "RTX 4090"])
    assert two.fits
    assert two.job.weights == "Q4_K_M"  # Q5_K_M is 50 GB
    assert two.seconds[0] / len(two.shares[0].layers) > two.seconds[1] / len(two.shares[1].layers) * 0.98
    small = mixed(spec, ["RTX 3060 12GB", "RTX 4090", "RTX 4090"], weights_format="Q4_K_M")
    layers = [len(share.layers) for share in small.shares]
    assert sum(layers) == 80
    assert layers[0] < layers[1] / 1.7
    slow = mixed(spec, ["RTX 3090", "RTX 4090"], weights_format="Q4_K_M", link=llmhw.link("PCIe 3.0 x16"))
    assert slow.tpot > mixed(spec, ["RTX 3090", "RTX 4090"], weights_format="Q4_K_M").tpot
    assert equal_parts(["RTX 4090", "RTX 3060 12GB"]).name == "RTX 3060 12GB"


def test_the_cheapest_card() -> None:
    """Each format that a card is said to take runs there, and the first is the cheapest of those that hold."""
    found = cheapest("qwen3-32b", tokens_per_second=20, limits=Limits(purchase=2500))
    prices = [c.figures["purchase"].value for c in found.choices]
    assert prices == sorted(prices)
    assert prices[-1] <= 2500
    first = found.best
    assert first.figures["tokens_per_second_per_user"].least >= 20
    name = first.job.cluster.accelerator.name
    formats = next(line for line in found.why if line.startswith(name)).partition(" takes ")[2].split(", ")
    for fmt in formats:
        job = ServingJob(model="qwen3-32b", cluster=name, weights=fmt, max_model_len=1500)
        made = llmhw.serve(job, input_tokens=1000, output_tokens=500, concurrency=1)
        assert made.fits
        assert made.point.tokens_per_second_per_user > 20
    nothing = cheapest("qwen3-32b", tokens_per_second=20, limits=Limits(purchase=500))
    assert not nothing.choices
    assert any(change.startswith("purchase=") for change in nothing.changes)


def test_models_for_a_machine() -> None:
    found = runnable(llmhw.Cluster("RTX 4090"), names=["llama-3.1-8b", "qwen3-32b", "llama-3.1-70b", "gpt-oss-20b"])
    made = {one.job.model.name: one for one in found.found}
    assert set(made) == {"llama-3.1-8b", "qwen3-32b", "gpt-oss-20b"}
    assert made["gpt-oss-20b"].job.weights == "mxfp4"
    for one in found.found:
        single = llmhw.serve(one.job, input_tokens=512, output_tokens=256, concurrency=1)
        assert one.tokens_per_second.value == pytest.approx(single.point.tokens_per_second_per_user, rel=1e-9)
        assert single.memory.longest >= one.longest >= 4096


def test_devices_side_by_side() -> None:
    found = side_by_side("llama-3-70b", ["h100", "b200"], devices_each=8)
    for column in found.columns:
        assert column.choice is not None
        estimate = column.choice.estimate
        assert column.figures["watts"].value == pytest.approx(estimate.watts, rel=1e-9)
        joules = column.figures["joules_per_token"].value * estimate.point.tokens_per_second
        assert joules == pytest.approx(estimate.watts, rel=1e-6)
    assert all(column.figures["alone"].value >= column.figures["tokens_per_second_per_user"].value
               for column in found.columns)  # fmt: skip


# -- everyday questions, one command each -----------------------------------------------------


def answer(*line: str) -> Any:
    done = run(*line, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_task_1_a_70b_on_two_cards() -> None:
    found = answer("plan", "serve", "llama-3.1-70b", "--gpu", "RTX 3090", "--gpus", "2", "--quality", "usable",
                   "--users", "1", "--slo-tpot", "0.2")  # fmt: skip
    assert "tp 2" in found["choices"][0]["layout"]
    assert 15 < found["choices"][0]["tokens_per_second_per_user"] < 40


def test_task_2_a_card_below_2500_dollars() -> None:
    found = answer("which", "qwen3-32b", "--budget", "2500", "--tokens-per-second", "20")
    names = [c["place"] for c in found["choices"]]
    assert "RTX 3090" in names[0]
    assert any("RTX 5090" in name for name in names)


def test_task_7_500_users_at_30_tokens_a_second() -> None:
    found = answer("plan", "serve", "deepseek-v3", "--gpu", "h200", "--users", "500", "--slo-tpot", "0.033",
                   "--engine", "sglang")  # fmt: skip
    best = found["choices"][0]
    assert best["tpot_high"] <= 0.033
    assert "fp8-block" in best["layout"]  # the checkpoint's own format


def test_task_8_four_devices() -> None:
    found = answer("compare", "llama-3-70b", "--gpu", "h100", "--gpu", "h200", "--gpu", "b200", "--gpu", "mi300x")
    assert [d["device"].split()[0] for d in found["devices"]] == ["H100", "H200", "B200", "MI300X"]
    assert all(d["joules_per_token"] > 0 and d["dollars_per_million"] > 0 for d in found["devices"])


def test_task_9_the_longest_context() -> None:
    found = answer("plan", "serve", "gemma-3-27b", "--gpu", "A100 80GB SXM4", "--gpus", "1", "--kv", "fp8",
                   "--context", "131072", "--users", "1")  # fmt: skip
    assert found["choices"], found["verdict"]


def test_task_12_a_mac() -> None:
    found = answer("which", "gpt-oss-20b", "--gpu", "M4 Max 128GB", "--budget", "9000")
    assert found["choices"][0]["tokens_per_second_per_user"] > 40


def test_task_13_tensors_or_stages() -> None:
    """On four L40S: four ranks of tensors, or four stages; users of tensors wait less for each token."""
    line = ("plan", "serve", "mixtral-8x7b", "--gpu", "l40s", "--gpus", "4", "--users", "8", "--by", "latency")
    tensors, stages = (answer(*line, "--tp", str(tp), "--pp", str(pp))["choices"][0] for tp, pp in ((4, 1), (1, 4)))
    assert "tp 4" in tensors["layout"]
    assert tensors["tpot"] < stages["tpot"]


def test_task_16_64_users_of_eight_h100() -> None:
    found = answer("plan", "serve", "llama-3-70b", "--gpu", "h100", "--gpus", "8", "-w", "bf16", "--users", "64",
                   "--by", "speed")  # fmt: skip
    best = found["choices"][0]
    assert best["tokens_per_second_low"] < best["tokens_per_second"] < best["tokens_per_second_high"]
    single = llmhw.serve(ServingJob(model="llama-3-70b", cluster=("h100", 8), weights="bf16", kv="bf16", tp=8),
                         input_tokens=1000, output_tokens=500, concurrency=64)  # fmt: skip
    assert best["tokens_per_second"] >= single.point.tokens_per_second * 0.999


def test_a_log_is_still_compared() -> None:
    path = str(Path(__file__).parent / "logs" / "sglang.log")
    lines = [run(word, path, "--gpu", "RTX 3090").stdout for word in ("compare", "log")]
    assert lines[0] == lines[1] != ""


def test_what_to_type() -> None:
    """The emitted command has the layout and formats of the first choice."""
    line = ("plan", "serve", "llama-3-70b", "--gpu", "h100", "--users", "64", "-w", "fp8")
    best = answer(*line)["choices"][0]["layout"]
    text = run(*line, "--emit", "vllm").stdout
    assert "vllm serve" in text
    assert ("--tensor-parallel-size" in text) == (" tp " in f" {best} ")


# -- bad inputs -------------------------------------------------------------------------------

# Option -> values that it refuses.
_REFUSED = {
    "--users": "0 -1 x 1.5 9999999999999",
    "--rate": "0 -1 x nan 1e12",
    "--slo-ttft": "0 -1 x 601",
    "--slo-tpot": "0 -1 x 33",
    "--context": "0 -1 x 10",
    "--quality": "x best",
    "--input-tokens": "0 -1 x 99999999",
    "--output-tokens": "0 -1 x 99999999",
    "--budget-per-hour": "0 -1 x",
    "--budget-per-month": "0 -1 x",
    "--purchase": "0 -1 x",
    "--most-devices": "0 -1 x",
    "--headroom": "1 -1 x",
    "--by": "x price",
    "--best": "0 -1 x",
    "--tp": "0 -1 x",
    "--pp": "0 x",
    "--gpu": "xyz h10000 RTX",
    "--gpus": "0 -1 x",
    "--weights": "x int5",
    "--kv": "x int5",
    "--engine": "x vllm:x",
    "--price": "0 -1 x",
    "--provider": "x",
    "--emit": "x",
}
_WHICH = {
    "--budget": "0 -1 x",
    "--budget-per-hour": "0 -1 x",
    "--tokens-per-second": "0 -1 x",
    "--gpu": "xyz 3090+xyz 0x3090 99x3090",
    "--gpus": "0 x",
    "--context": "0 x",
    "--quality": "x",
    "--most-devices": "0 x",
    "--engine": "x",
    "--weights": "x",
    "--best": "0 x",
    "--link": "x 0",
}
_BAD = [
    *(["plan", "serve", "llama-3-8b", *(["--gpu", "h100"] if flag != "--gpu" else []), flag, value]
      for flag, values in _REFUSED.items() for value in values.split()),
    *(["which", "llama-3-8b", *(["--gpu", "3090+4090"] if flag == "--link" else []), flag, value]
      for flag, values in _WHICH.items() for value in values.split()),
    ["plan", "serve"],
    ["plan", "serve", "llama-3-80b"],
    ["plan", "serve", "all-minilm-l6-v2"],
    ["plan", "serve", "llama-3-8b", "--users", "5", "--rate", "5"],
    ["plan", "serve", "llama-3-8b", "--percentile", "99"],
    ["plan", "serve", "llama-3-8b", "--instance", "p99.large"],
    ["plan", "serve", "llama-3-8b", "--instance", "p5.48xlarge", "--gpu", "h100"],
    ["plan", "serve", "llama-3-8b", "--region", "mars"],
    ["plan", "serve", "llama-3-8b", "--gpu", "h100", "--emit", "axolotl"],
    ["plan", "serve", "llama-3-8b", "--gpu", "h100", "--emit", "vllm", "--csv"],
    ["plan", "serve", "llama-3-8b", "--user", "5"],
    ["which"],
    ["which", "llama-3-80b"],
    ["which", "--budget", "2500"],
    ["which", "--gpu", "h100", "--budget", "2500"],
    ["which", "llama-3-8b", "--here", "--gpu", "h100"],
    ["which", "llama-3-8b", "--gpu", "3090+4090", "--gpus", "3"],
    ["compare"],
    ["compare", "llama-3-8b"],
    ["compare", "llama-3-8b", "--gpu", "h100"],
    ["compare", "llama-3-8b", "--gpu", "h100", "--gpu", "xyz"],
    ["compare", "llama-3-80b", "--gpu", "h100", "--gpu", "l4"],
    ["compare", "llama-3-8b", "--gpu", "h100", "--gpu", "l4", "--gpus", "0"],
    ["compare", "nothing.log"],
    ["log"],
    ["log", "nothing.log"],
]  # fmt: skip


def test_there_are_a_hundred_bad_lines() -> None:
    assert len(_BAD) >= 100


@pytest.mark.parametrize("line", _BAD, ids=" ".join)
def test_a_bad_line_is_refused_in_one_clear_line(line: list[str]) -> None:
    """One line, exit code 2, that names the argument or its value, in flags; nothing is printed beside it."""
    done = run(*line)
    told = done.stderr.strip()
    assert done.returncode == 2, (done.stdout[:300], told)
    assert done.stdout == ""
    assert told.startswith("llmhw: ")
    assert "\n" not in told
    assert "mistake of llmhw" not in told
    words = [word.lstrip("-") for word in line[1:]] or line
    assert any(word in told for word in [*words, *(f"--{word}" for word in words), "llmhw ", "missing"])
