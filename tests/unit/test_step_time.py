"""Time of a step: its parts, its bounds, its messages, and what must never happen when a job changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmhw.communication import collectives

import llmhw
from llmhw.job import Parallelism, TrainingJob
from llmhw.step_time import (
    IDEAL,
    PARTS,
    Constants,
    StepTime,
    cautious,
    class_of,
    constants_of,
    default_software,
    family_of,
    softwares,
    straggler_share,
    time_bounds,
    time_step,
)
from llmhw.units import LLMHWError

COMPUTED = ("matrix products", "attention", "elementwise")
INSIDE, BETWEEN = 450e9, 50e9  # NVLink 4 and InfiniBand NDR, as the catalog has them


def job(model: str = "llama-3-8b", gpu: str = "h100", network: float = BETWEEN, **options: Any) -> TrainingJob:
    """A job whose layout is given by names of `Parallelism`; all else goes to `TrainingJob`."""
    layout = {name: options.pop(name) for name in Parallelism.__dataclass_fields__ if name in options}
    parallelism = Parallelism(**layout)
    between = llmhw.Link("given", "scale-out", network)
    cluster = llmhw.Cluster(gpu, parallelism.devices, inter_link=between)
    return TrainingJob(model=llmhw.model(model), cluster=cluster, parallelism=parallelism, **options)


def under(constants: Constants) -> dict[str, Any]:
    """A calibration in which these constants hold for every device and software."""
    names = Constants.__dataclass_fields__
    return {
        "common": {name: getattr(constants, name) for name in names},
        "families": {"other": {"attention": constants.attention}},
        "software": {name: {} for name in softwares()},
        "interval": {"other": [1.0, 1.0]},
    }


def timed(what: TrainingJob, constants: Constants) -> StepTime:
    return time_step(what, calibration=under(constants))


def computed(found: StepTime) -> float:
    return sum(found.parts[name] for name in COMPUTED)


# -- what adds up -----------------------------------------------------------------------------

LAYOUTS: list[dict[str, Any]] = [
    {},
    {"dp": 8, "zero": 3, "recompute": "full"},
    {"dp": 16, "zero": 3, "compute": "fp8"},
    {
        "dp": 2,
        "tp": 4,
        "pp": 4,
        "vpp": 2,
        "zero": 1,
        "sequence_parallel": True,
        "global_batch": 32,
        "kernels": "megatron",
    },
    {"dp": 2, "tp": 8, "cp": 2, "seq_len": 32768, "sequence_parallel": True},
    {"cp": 4, "cp_kind": "all-gather", "seq_len": 65536, "recompute": "selective"},
    {"model": "mixtral-8x7b", "dp": 16, "ep": 8, "zero": 1, "kernels": "megatron", "expert_imbalance": 1.2},
    {"model": "deepseek-v3", "dp": 32, "ep": 32, "pp": 4, "uneven": True, "global_batch": 256, "zero": 1},
    {"model": "gpt2", "gpu": "A100 80GB SXM", "attention": "eager", "recompute": "selective"},
    {"pp": 4, "schedule": "zero-bubble", "global_batch": 16, "frozen": True},
]


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_parts_add_up_and_bounds_hold(options: dict[str, Any]) -> None:
    asked = job(**options)
    found = time_step(asked)
    assert tuple(found.parts) == PARTS
    assert all(seconds >= 0 for seconds in found.parts.values())
    assert found.total == pytest.approx(sum(found.parts.values()))
    assert len(found.stages) == asked.parallelism.pp
    assert found.interval[0] < found.total < found.interval[1]
    for name, (least, estimate, most) in time_bounds(asked).items():
        assert least <= estimate <= most
        assert estimate == found.parts[name]


def test_the_interval_is_that_of_what_was_measured() -> None:
    dense, experts, other = job(), job("mixtral-8x7b"), job(gpu="rtx 4090")
    assert [class_of(j) for j in (dense, experts, other)] == ["dense", "experts", "other"]
    spreads = [time_step(j).spread for j in (dense, experts, other)]
    assert [high - low for low, high in spreads] == sorted(high - low for low, high in spreads)


def test_families() -> None:
    names = ("A100 80GB SXM", "h100", "h200", "b200", "gb200", "rtx 4090", "mi300x")
    found = [family_of(llmhw.accelerator(name)) for name in names]
    assert found == ["ampere", "hopper", "hopper", "blackwell", "blackwell", "other", "other"]


# -- bounds -----------------------------------------------------------------------------------

layouts = st.fixed_dictionaries(
    {
        "dp": st.sampled_from([1, 2, 8]),
        "tp": st.sampled_from([1, 2, 4, 8]),
        "pp": st.sampled_from([1, 2, 4]),
        "cp": st.sampled_from([1, 2]),
        "zero": st.sampled_from([0, 1, 3]),
        "recompute": st.sampled_from(["none", "selective", "full"]),
        "kernels": st.sampled_from(["torch", "megatron"]),
        "compute": st.sampled_from(["bf16", "fp8"]),
        "seq_len": st.sampled_from([1024, 8192]),
        "model": st.sampled_from(["llama-3-8b", "llama-3-70b", "mixtral-8x7b"]),
    }
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(options=layouts)
def test_no_estimate_is_faster_than_the_hardware_or_slower_than_cautious(options: dict[str, Any]) -> None:
    """`time_bounds` keeps each part within its bounds; here the bounds themselves are compared, part by part."""
    asked = job(**options, global_batch=32)
    own = constants_of(asked.cluster.accelerator, default_software(asked))
    # a compiler fuses more passes than `operations` counts
    ideal = replace(IDEAL, passes=min(1.0, own.passes))
    least, found, most = timed(asked, ideal), time_step(asked), timed(asked, cautious(own))
    for name in (*COMPUTED, "recompute", "tensor-parallel", "pipeline sends", "optimizer", "stragglers"):
        assert least.parts[name] <= found.parts[name] * (1 + 1e-12)
        assert found.parts[name] <= most.parts[name] * (1 + 1e-12)
    # of what overlaps, only the sum is in order: slower computing hides more
    assert least.total <= found.total <= most.total


@settings(max_examples=60, deadline=None, derandomize=True)
@given(options=layouts)
def test_nothing_beats_the_peak(options: dict[str, Any]) -> None:
    """Forward once, backward twice, under the causal mask, shared by all devices at their dense peak."""
    asked = job(**options, global_batch=32)
    flops = 3 * llmhw.forward_flops(asked.model, batch=32, seq_len=asked.seq_len, causal=True).total
    at_peak = flops / (asked.cluster.devices * asked.cluster.accelerator.peak(asked.compute_format))
    assert at_peak < timed(asked, IDEAL).total
    assert at_peak < time_step(asked).total
    # and the parts that compute are enough for it, whatever is sent
    assert at_peak < computed(timed(asked, IDEAL))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(options=layouts, axis=st.sampled_from(["dp", "tp", "pp"]))
def test_more_devices_never_compute_longer(options: dict[str, Any], axis: str) -> None:
    """At a fixed global batch, on each device; what they send is another matter."""
    more = options | {axis: 2 * options[axis]}
    if more["tp"] > 8:
        return
    before, after = (time_step(job(**size, global_batch=64)) for size in (options, more))
    assert computed(after) <= computed(before) * (1 + 1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(options=layouts)
def test_a_faster_network_never_slows(options: dict[str, Any]) -> None:
    slow, fast = (time_step(job(**options, global_batch=32, network=rate)) for rate in (BETWEEN, 2 * BETWEEN))
    assert fast.total <= slow.total * (1 + 1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(options=layouts)
def test_a_longer_batch_is_proportional(options: dict[str, Any]) -> None:
    """Everything that a micro-batch does is done as often as there are micro-batches."""
    one, two = (time_step(job(**options, global_batch=size)) for size in (32, 64))
    for name in (*COMPUTED, "recompute", "tensor-parallel", "context-parallel", "weight gathering", "pipeline sends"):
        assert two.parts[name] == pytest.approx(2 * one.parts[name])
    for name in ("pipeline bubble", "gradient reduction", "optimizer", "fixed"):
        assert two.parts[name] == one.parts[name]


# -- messages: the same bytes as in `llmhw.communication` -------------------------------------

# All that is sent is waited for, at the full rate of the links and without latency; computing takes no time.
TALK = replace(
    IDEAL, attention=1e12, tp_exposed=1.0, ep_exposed=1.0, pp_exposed=1.0, dp_exposed=1.0, gather_exposed=1.0
)


def sent(asked: TrainingJob, belongs: Callable[[Any], bool], *, pp_rank: int = 0) -> float:
    return sum(c.wire_bytes for c in collectives(asked, pp_rank=pp_rank) if belongs(c))


# What closes attention and MLP. The embedding, the head and the loss send too, which a step is not charged for.
IN_LAYERS = (
    "outputs of attention and MLP",
    "gradients of their inputs",
    "inputs of attention and MLP",
    "gradients of their outputs",
)


@pytest.mark.parametrize(
    "options",
    [
        {"tp": 2},
        {"tp": 8},
        {"tp": 4, "dp": 2, "micro_batch": 2, "global_batch": 8},
        {"tp": 8, "sequence_parallel": True},
        {"tp": 8, "precision": "fp32"},
        {"tp": 2, "cp": 2, "sequence_parallel": True},
        {"tp": 5, "model": "gpt2-xl", "seq_len": 1024},
        {"tp": 4, "model": "deepseek-v3"},
    ],
    ids=str,
)
def test_tensor_parallel_bytes(options: dict[str, Any]) -> None:
    asked = job(**options, kernels="megatron")
    bytes_ = timed(asked, TALK).parts["tensor-parallel"] * INSIDE
    assert bytes_ == pytest.approx(sent(asked, lambda c: c.axis == "tp" and c.what in IN_LAYERS))


def test_recomputed_layers_send_again() -> None:
    asked = job(tp=8, recompute="full", kernels="megatron")
    what = (*IN_LAYERS, "outputs once more, recomputed")
    bytes_ = timed(asked, TALK).parts["tensor-parallel"] * INSIDE
    assert bytes_ == pytest.approx(sent(asked, lambda c: c.axis == "tp" and c.what in what))


@pytest.mark.parametrize(
    "options",
    [
        {"dp": 8},
        {"dp": 8, "zero": 1},
        {"dp": 8, "zero": 1, "precision": "bf16-mixed-fp32-grads"},
        {"dp": 8, "zero": 1, "precision": "fp32"},
        {"dp": 4, "tp": 2, "zero": 1},
        {"dp": 2, "cp": 2, "tp": 2, "zero": 1},
        {"dp": 8, "ep": 4, "zero": 1, "model": "mixtral-8x7b"},
        {"dp": 8, "ep": 8, "zero": 1, "model": "mixtral-8x7b"},
    ],
    ids=str,
)
def test_data_parallel_bytes(options: dict[str, Any]) -> None:
    """Gradients summed, and with ZeRO-1 the new weights gathered; flat buffers may be padded by some elements."""
    asked = job(**options, kernels="megatron")
    bytes_ = timed(asked, TALK).parts["gradient reduction"] * INSIDE
    assert bytes_ == pytest.approx(sent(asked, lambda c: c.axis in ("dp", "expert_dp")), rel=1e-7)


def test_data_parallel_bytes_between_nodes() -> None:
    """Behind tp=8 each ring has one adapter a node."""
    asked = job(dp=4, tp=8, zero=1, kernels="megatron")
    bytes_ = timed(asked, TALK).parts["gradient reduction"] * BETWEEN
    assert bytes_ == pytest.approx(sent(asked, lambda c: c.axis == "dp"), rel=1e-7)


@pytest.mark.parametrize("options", [{"dp": 8}, {"dp": 8, "global_batch": 32}, {"dp": 8, "precision": "fp32"}], ids=str)
def test_fully_sharded_bytes(options: dict[str, Any]) -> None:
    """Each block is gathered twice and reduced once a micro-batch; a step is not charged for what lies outside."""
    asked = job(**options, zero=3)
    bytes_ = timed(asked, TALK).parts["weight gathering"] * INSIDE
    assert bytes_ == pytest.approx(sent(asked, lambda c: c.axis == "fsdp" and "a block" in c.what), rel=1e-7)


@pytest.mark.parametrize(
    "options", [{"dp": 8, "replicas": 2}, {"dp": 8, "replicas": 8}, {"dp": 4, "tp": 2, "replicas": 2}]
)
def test_copies_of_a_sharded_model_add_up_their_gradients(options: dict[str, Any]) -> None:
    asked = job(**options, zero=3)
    bytes_ = timed(asked, TALK).parts["weight gathering"] * INSIDE
    what = ("weights of a block", "weights of a block, again", "gradients of weights of a block")
    gathered = sent(asked, lambda c: c.axis == "fsdp" and c.what in what)
    # the copies also add up what lies outside the blocks, which a step is not charged for
    shards = sent(asked, lambda c: c.axis == "replica" and c.calls == 32)
    assert bytes_ == pytest.approx(gathered + shards, rel=1e-3)


def test_copies_in_nodes_of_their_own_by_hand() -> None:
    """Two nodes: inside, 7/8 of the weights twice and of the gradients once; between, a shard there and back."""
    asked = job(dp=16, zero=3, replicas=2)
    blocks = sum(layer.params for layer in asked.model.layers)
    inside, between = 3 * 7 / 8 * 2 * blocks / INSIDE, 2 * blocks / 8 / BETWEEN
    assert timed(asked, TALK).parts["weight gathering"] == pytest.approx(inside + between)


@pytest.mark.parametrize(
    "options",
    [
        {"pp": 4},
        {"pp": 4, "vpp": 2},
        {"pp": 4, "tp": 2, "sequence_parallel": True, "kernels": "megatron"},
        {"pp": 4, "cp": 2},
    ],
    ids=str,
)
def test_pipeline_bytes(options: dict[str, Any]) -> None:
    """A stage in the middle sends forward and backward for each micro-batch and chunk."""
    asked = job(**options, global_batch=8)
    bytes_ = timed(asked, TALK).parts["pipeline sends"] * INSIDE
    assert bytes_ == pytest.approx(sent(asked, lambda c: c.axis == "pp", pp_rank=1))


def test_gathered_context_bytes() -> None:
    """Keys and values gathered forward and backward, their gradients summed in fp32."""
    asked = job(cp=4, cp_kind="all-gather", seq_len=32768)
    bytes_ = timed(asked, TALK).parts["context-parallel"] * INSIDE
    assert bytes_ == pytest.approx(sent(asked, lambda c: c.axis == "cp"))


@pytest.mark.parametrize(
    "options", [{"dp": 8, "ep": 8}, {"dp": 8, "ep": 4}, {"dp": 8, "ep": 8, "recompute": "full"}], ids=str
)
def test_expert_parallel_bytes(options: dict[str, Any]) -> None:
    """Rows to the experts and back, forward and backward; the counts that go ahead of them are left out."""
    asked = job("deepseek-v2-lite", **options, kernels="megatron")
    bytes_ = timed(asked, TALK).parts["expert-parallel"] * INSIDE
    assert bytes_ == pytest.approx(sent(asked, lambda c: c.axis == "ep" and "counted" not in c.what))


# -- what a change of the job does ------------------------------------------------------------


def test_frozen_weights_are_faster() -> None:
    """No gradients of weights: a third of the matrix products is saved, and the optimizer."""
    trained, frozen = (timed(job(dp=8, frozen=f), IDEAL).parts for f in (False, True))
    assert frozen["matrix products"] / trained["matrix products"] == pytest.approx(2 / 3, rel=0.02)
    assert frozen["gradient reduction"] == frozen["optimizer"] == 0
    for options in LAYOUTS:
        asked = job(**options)
        if not asked.frozen:
            assert time_step(replace(asked, frozen=True)).total < time_step(asked).total


@pytest.mark.parametrize("kernels", ["torch", "megatron"])
def test_recompute_is_slower(kernels: str) -> None:
    def total(recompute: str, **options: Any) -> float:
        return time_step(job(recompute=recompute, kernels=kernels, seq_len=8192, **options)).total

    assert total("none") == total("selective") < total("per-op") < total("full")
    assert total("none") < total("block", recompute_layers=16) < total("block", recompute_layers=24) < total("full")
    assert total("none", attention="eager") < total("selective", attention="eager")


def test_full_recompute_is_one_more_forward_pass() -> None:
    """Of the layers, not of the head: a third of forward and backward."""
    found = timed(job(recompute="full", seq_len=8192), replace(IDEAL, bandwidth=1e9)).parts
    spec = llmhw.model("llama-3-8b")
    forward = llmhw.forward_flops(spec, seq_len=8192, causal=True)
    layers = forward.total - forward["head"]
    again = layers / llmhw.accelerator("h100").peak("bf16")
    assert found["recompute"] == pytest.approx(again, rel=0.05)


def test_context_is_sent_while_attention_computes() -> None:
    """Long sequences hide the ring behind attention's quadratic work; short ones do not."""
    long, short = (timed(job(cp=8, seq_len=n), IDEAL).parts["context-parallel"] for n in (131072, 4096))
    assert long == 0 < short


def test_the_bubble_by_hand() -> None:
    """1F1B waits (pp - 1) / micro-batches of a stage's work; chunks divide it, zero bubble keeps a third."""

    def bubble(**options: Any) -> float:
        """Over the work of the three other stages, with sends that take no time."""
        found = timed(job("llama-3-70b", pp=4, global_batch=16, **options), replace(IDEAL, inside=1e12))
        return found.parts["pipeline bubble"] / (sum(found.stages) - max(found.stages))

    assert bubble() == pytest.approx(1)
    assert bubble(vpp=4) == pytest.approx(1 / 4)
    assert bubble(schedule="zero-bubble") == pytest.approx(1 / 3)


def test_8_bit_products_are_faster_and_scaling_costs() -> None:
    half, eight = (timed(job(compute=fmt), IDEAL).parts["matrix products"] for fmt in ("bf16", "fp8"))
    assert 0.5 < eight / half < 0.65  # the head stays in 16 bit
    with_scaling = timed(job(compute="fp8"), replace(IDEAL, cast=3.0)).parts["matrix products"]
    assert with_scaling > eight


def test_stragglers() -> None:
    assert straggler_share(nodes=1, jitter=0.01) == 0
    # the expected largest of 100 normal deviates is 2.51; sqrt(2 ln 100) is 3.03, which is above it
    assert straggler_share(nodes=100, jitter=1.0) == pytest.approx(3.035, abs=0.001)
    found = time_step(job(dp=64)).parts
    others = sum(seconds for name, seconds in found.items() if name not in ("stragglers", "fixed"))
    own = constants_of(llmhw.accelerator("h100"), "torch-compile")
    assert found["stragglers"] == pytest.approx(straggler_share(nodes=8, jitter=own.jitter) * others)


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "software", "message"),
    [
        ({}, "megatron-2027", "software='megatron-2027' is not known; did you mean megatron-2026, "),
        (
            {"gpu": "A100 80GB SXM", "compute": "fp8"},
            None,
            "format='fp8' has no dense rate on A100 80GB SXM4; it has fp64, fp64_tensor, fp32, tf32, fp16, bf16, int8",
        ),
        ({"gpu": "V100 SXM2 32GB"}, None, "format='bf16' has no dense rate on V100 SXM2 32GB; it has "),
    ],
)
def test_errors(options: dict[str, Any], software: str | None, message: str) -> None:
    with pytest.raises(LLMHWError) as raised:
        time_step(job(**options), software)
    assert str(raised.value).startswith(message)


def test_a_network_that_is_needed_and_not_given() -> None:
    spec = llmhw.model("llama-3-8b")
    asked = TrainingJob(model=spec, cluster=llmhw.Cluster("h100", 16), parallelism=Parallelism(dp=16))
    with pytest.raises(LLMHWError) as raised:
        time_step(asked)
    message = "inter_link of 16 x H100 SXM5 80GB is not known; give it, as in inter_link='InfiniBand NDR 4x'"
    assert str(raised.value) == message


def test_every_software_times_a_step() -> None:
    times = {name: time_step(job(dp=8, zero=1), name).total for name in softwares()}
    assert min(times.values()) > 0
    assert max(times.values()) < 4 * min(times.values())
