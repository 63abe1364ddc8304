"""Time of a step: its parts, its bounds, its messages, and what must never happen when a job changes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmhw
from llmhw import Cluster, step_interval
from llmhw.block import block
from llmhw.catalog import read_calibration
from llmhw.hardware import usual_network
from llmhw.job import ATTENTION, CP_KINDS, KERNELS, RECOMPUTE, Parallelism, TrainingJob
from llmhw.memory import PRECISIONS
from llmhw.messages import INPUTS_ONCE_MORE, Collective, collectives, nodes_reached
from llmhw.model import ModelSpec
from llmhw.rates import IDEAL, TrainingConstants, cautious, family_of, training_constants
from llmhw.sharding import Stage, stages_of
from llmhw.step_interval import class_of
from llmhw.step_time import (
    PARTS,
    StepTime,
    StepTimer,
    network,
    straggler_share,
    time_bounds,
    time_layouts,
    time_step,
)
from llmhw.trainers import trainer, trainer_names
from llmhw.training import StepMemory
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


def under(constants: TrainingConstants) -> dict[str, Any]:
    """A calibration in which these constants hold for every device and software."""
    names = TrainingConstants.__dataclass_fields__
    return {
        "common": {name: getattr(constants, name) for name in names},
        "families": {"other": {"attention": constants.attention}},
        "switches": {},
        "interval": {"other": [1.0, 1.0]},
    }


def timed(what: TrainingJob, constants: TrainingConstants) -> StepTime:
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
def test_a_step_is_the_sum_of_its_formulas(options: dict[str, Any]) -> None:
    """The explanation is worked out apart from the answer, and so is the bare total that a search asks for."""
    asked = job(**options)
    found = time_step(asked)
    assert tuple(found.parts) == PARTS
    for part in found.estimate:
        assert part.value == pytest.approx(found.parts[part.name], rel=1e-12, abs=1e-18)
    own = training_constants(asked.cluster.accelerator, asked.trainer)
    assert time_layouts(StepTimer(asked, asked.layout, own, detail="totals"))[1].total == pytest.approx(found.total)
    assert len(found.stages) == asked.parallelism.pp
    assert found.stages[found.slowest] == max(found.stages)
    assert found.interval is not None
    assert found.interval[0] < found.total < found.interval[1]


def test_the_interval_is_that_of_what_was_measured() -> None:
    known = read_calibration("training_time")
    dense, experts, other = job(), job("mixtral-8x7b"), job(gpu="rtx 4090")
    assert [class_of(j) for j in (dense, experts, other)] == ["dense", "experts", "other"]
    widths = [high - low for low, high in (known["interval"][class_of(j)] for j in (dense, experts, other))]
    assert widths == sorted(widths)


def test_what_is_harder_to_predict_has_a_wider_interval_and_says_why() -> None:
    plain, searched = time_step(job()), time_step(job(), unstated=["layout"])
    assert plain.total == searched.total
    assert plain.spread is not None
    assert searched.spread is not None
    assert plain.spread[1] < searched.spread[1]
    assert set(searched.flags) - set(plain.flags) == {"layout searched"}
    assert searched.interval_words.startswith(f"{', '.join(searched.flags)}: plus or minus ")
    unknown = step_interval.step_interval(job(), searched.flags, {"families": {}, "interval": {}})
    assert unknown is None


def test_families() -> None:
    expected = {
        "A100 80GB SXM": "ampere", "h100": "hopper", "h200": "hopper", "H20 96GB": "h20", "b200": "blackwell",
        "gb200": "blackwell", "rtx 3090": "ampere-graphics", "rtx 4090": "ada", "L40S": "ada", "L4": "ada-70w",
        "RTX PRO 6000 Blackwell Server": "blackwell-graphics", "mi250x": "cdna2", "mi300x": "cdna3", "mi355x": "cdna4",
        "tpu v5e": "tpu", "tpu v6e": "tpu-v6e", "gaudi 2": "gaudi2", "trainium1": "trainium", "M4 Max 128GB": "other",
    }  # fmt: skip
    found = {name: family_of(TrainingConstants, llmhw.accelerator(name)) for name in expected}
    assert found == expected


@pytest.mark.parametrize("count", [1, 8])
def test_every_device_of_the_catalog_trains(count: int) -> None:
    """Or the error says which link is not known, and how to give it."""
    spec, errors = llmhw.model("qwen2.5-0.5b"), {}
    for device in llmhw.accelerators():
        cluster = Cluster(device, count, inter_link=usual_network(device))
        job = TrainingJob(model=spec, cluster=cluster, parallelism=Parallelism(dp=count, zero=3), seq_len=1024)
        try:
            assert time_step(job).total > 0
        except LLMHWError as error:
            errors[device] = str(error)
    assert all(re.search(r"int(ra|er)_link of 8 x .* is not known; give it, as in", text) for text in errors.values())
    assert not errors or (count == 8 and not any(a.form == "PCIe" for a in errors if a.vendor == "NVIDIA"))


def test_what_passes_through_the_hosts_memory_is_slower() -> None:
    """GeForce cards have no peer access; a bridge between two of them is not affected."""
    constants = training_constants(llmhw.accelerator("rtx 4090"), trainer("torchtitan"))
    through, direct, bridged = (
        network(Cluster(*one), constants).inside for one in (("rtx 4090", 8), ("l40s", 8), ("rtx 3090", 2))
    )
    assert through == pytest.approx(constants.through_host * direct)
    assert bridged == pytest.approx(56.25e9 * constants.inside)


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
    own = training_constants(asked.cluster.accelerator, asked.trainer)
    # a compiler fuses more passes than `llmhw.block` counts
    ideal = replace(IDEAL, passes=min(1.0, own.passes))
    least, found, most = timed(asked, ideal), time_step(asked), timed(asked, cautious(own))
    bounds = time_bounds(asked)
    for name in (*COMPUTED, "recompute", "tensor-parallel", "pipeline sends", "optimizer", "stragglers"):
        assert least.parts[name] <= found.parts[name] * (1 + 1e-12)
        assert found.parts[name] <= most.parts[name] * (1 + 1e-12)
        assert bounds[name] == pytest.approx((least.parts[name], found.parts[name], most.parts[name]), rel=1e-12)
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


# -- messages: the same bytes as in `collectives` ---------------------------------------------

# All that is sent is waited for, at the full rate of the links and without latency; computing takes no time.
TALK = replace(
    IDEAL,
    **dict.fromkeys(("matmul", "matmul8", "matmul4", "attention", "state", "bandwidth"), 1e18),
    **dict.fromkeys(("tp_exposed", "ep_exposed", "pp_exposed", "dp_exposed", "gather_exposed"), 1.0),
    per_joule=1e60,
)
SENT = (
    "tensor-parallel",
    "context-parallel",
    "expert-parallel",
    "weight gathering",
    "pipeline sends",
    "gradient reduction",
)


def part_of(c: Collective, pp: int) -> str:
    """Which part of a step a collective is charged to."""
    if c.axis == "pp" or c.what.endswith("put together"):
        return "pipeline sends"
    if c.axis == "tp" and c.phase != "step":
        return "tensor-parallel"
    if c.axis == "cp":
        return "context-parallel"
    if c.axis in ("ep", "expert_tp"):
        return "expert-parallel"
    gathered = c.axis.endswith(("fsdp", "replica")) and pp == 1  # in a pipeline weights stay whole for the step
    return "weight gathering" if gathered else "gradient reduction"


def listed(asked: TrainingJob, stage: int) -> dict[str, float]:
    """Bytes that the first rank of a stage puts on the wire, by the part of a step that they belong to."""
    found = dict.fromkeys(SENT, 0.0)
    for c in collectives(asked, pp_rank=stage):
        found[part_of(c, asked.parallelism.pp)] += c.wire_bytes
    return found


def charged(asked: TrainingJob) -> Iterator[tuple[Stage, dict[str, float]]]:
    """Bytes that a step of each distinct stage is charged for; what others send on a micro-batch's way is not among."""
    timer = StepTimer(asked, asked.layout, TALK)
    for stage in stages_of(asked):
        parts = timer.step(stage, timer.stage(stage), (0.0, 0.0)).parts
        yield stage, {name: parts.get(name, 0.0) * INSIDE for name in SENT}


LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 8,
    "vocab_size": 131,
}
DENSE = (
    ModelSpec.from_config(LLAMA),
    ModelSpec.from_config(LLAMA | {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    ModelSpec.from_config(
        {"model_type": "gpt2", "n_embd": 64, "n_layer": 8, "n_head": 8, "n_positions": 64, "vocab_size": 131}
    ),
)
EXPERTS = (
    ModelSpec.from_config(
        LLAMA
        | {"model_type": "qwen2_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
        | {"shared_expert_intermediate_size": 40}
    ),
    ModelSpec.from_config(
        LLAMA
        | {"model_type": "deepseek_v3", "num_key_value_heads": 8, "kv_lora_rank": 16, "q_lora_rank": 24}
        | {"qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8, "moe_intermediate_size": 20}
        | {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "first_k_dense_replace": 3}
    ),
)


def drawn(r: Random) -> TrainingJob:
    """A job of a small model with any layout that it allows, in one node."""
    spec = r.choice(DENSE + EXPERTS)
    dp, tp, cp, pp = r.choice([1, 2, 3, 4, 5]), r.choice([1, 2, 4]), r.choice([1, 1, 2, 4]), r.choice([1, 1, 2, 4, 5])
    fitting = [(e, t) for e in (1, 2, 4, 8) for t in (1, 2) if dp * tp * cp % (e * t) == 0]
    ep, expert_tp = r.choice(fitting) if spec in EXPERTS else (1, 1)
    vpp, zero, micro_batch = r.choice([1, 2]) if pp > 1 else 1, r.choice([0, 1, 2, 3, 3]), r.choice([1, 2])
    recompute = r.choice(RECOMPUTE)
    parallelism = Parallelism(
        dp=dp,
        tp=tp,
        cp=cp,
        pp=pp,
        vpp=vpp,
        ep=ep,
        expert_tp=expert_tp,
        zero=zero,
        replicas=r.choice([n for n in range(1, dp + 1) if dp % n == 0]) if zero == 3 else 1,
        sequence_parallel=tp > 1 and r.random() < 0.5,
        cp_kind=r.choice(CP_KINDS),
        schedule=r.choice(["1f1b", "zero-bubble", *([] if vpp > 1 else ["gpipe"])]),
        uneven=pp == 5,  # some chunks then hold an end alone
    )
    devices = parallelism.devices
    return TrainingJob(
        model=spec,
        cluster=llmhw.Cluster("h100", devices, devices_per_node=devices, intra_link="NVLink 4"),
        parallelism=parallelism,
        micro_batch=micro_batch,
        global_batch=micro_batch * dp * pp * r.choice([1, 2]),
        seq_len=32,
        recompute=recompute,
        recompute_layers=1 if recompute == "block" else 0,
        precision=r.choice(list(PRECISIONS)),
        compute=r.choice([None, None, "fp8", "fp8-block"]),
        optimizer=r.choice(["adamw", "sgd", "muon"]),
        attention=r.choice(ATTENTION),
        kernels=r.choice(KERNELS),
        frozen=r.random() < 0.1,
    )


def test_a_step_is_timed_from_the_bytes_that_are_listed() -> None:
    """Every distinct stage of many layouts, part by part; LLMHW_STEP_SAMPLES=2000 for more."""
    r, seen = Random(20250901), Counter[str]()
    for _ in range(int(os.environ.get("LLMHW_STEP_SAMPLES", "800"))):
        asked = drawn(r)
        x = asked.layout
        # a flat buffer is padded to its ranks; experts have one of their own, though their ranks are those of the rest
        alike = asked.model in EXPERTS and x.zero in (1, 2) and x.tp * x.ep * x.expert_tp == 1
        padding = 4 * x.shards * (x.micro_batches + 1) * x.vpp if alike else 0
        for stage, found in charged(asked):
            told = listed(asked, stage.index)
            wrong = [(n, found[n], told[n]) for n in SENT if abs(found[n] - told[n]) > max(padding, 1e-12 * told[n])]
            assert not wrong, (asked.model.name, asked.parallelism, stage)
            seen.update(name for name, size in told.items() if size)
    assert set(seen) == set(SENT)
    assert min(seen.values()) > 80


@pytest.mark.parametrize(
    "options",
    [
        {"tp": 8},
        {"tp": 8, "precision": "fp32-bf16", "dp": 2, "zero": 3},
        {"tp": 5, "model": "gpt2-xl", "seq_len": 1024},
        {"tp": 4, "dp": 2, "micro_batch": 2, "global_batch": 8, "sequence_parallel": True, "kernels": "megatron"},
        {"tp": 8, "recompute": "full", "kernels": "megatron"},
        {"dp": 8, "zero": 2, "global_batch": 32, "precision": "bf16-mixed-fp32-grads"},
        {"dp": 8, "zero": 3, "replicas": 2, "compute": "fp8"},
        {"dp": 4, "pp": 2, "zero": 3, "global_batch": 16},
        {"pp": 4, "tp": 2, "kernels": "megatron", "global_batch": 8},
        {"pp": 4, "vpp": 2, "tp": 2, "sequence_parallel": True, "global_batch": 8},
        {"cp": 8, "seq_len": 65536},
        {"cp": 4, "tp": 2, "cp_kind": "all-gather", "seq_len": 32768, "recompute": "selective"},
        {"model": "mixtral-8x7b", "dp": 16, "ep": 8, "expert_tp": 2, "zero": 1, "kernels": "megatron"},
        {"model": "deepseek-v2-lite", "dp": 8, "ep": 8, "recompute": "full", "kernels": "megatron"},
    ],
    ids=str,
)
def test_the_slowest_stage_is_charged_for_the_bytes_that_are_listed(options: dict[str, Any]) -> None:
    """The same of published models, and of the whole answer."""
    asked = job(**options)
    asked = replace(asked, cluster=replace(asked.cluster, devices_per_node=asked.cluster.devices))
    found = timed(asked, TALK)
    bytes_ = {name: found.parts[name] * INSIDE for name in SENT}
    assert bytes_ == pytest.approx(listed(asked, found.slowest), rel=1e-7)


def test_gradients_of_a_ring_are_charged_in_fp32() -> None:
    """14 shifts of 32 MiB a layer, and 8 of 64 MiB: 30 GiB in 32 layers."""
    found = timed(job(cp=8, seq_len=65536), TALK).parts["context-parallel"]
    assert found * INSIDE == pytest.approx(32 * (14 * 2**25 + 8 * 2**26))


def test_data_parallel_bytes_between_nodes() -> None:
    """Behind tp=8 each ring has one adapter a node."""
    asked = job(dp=4, tp=8, zero=1, kernels="megatron")
    bytes_ = timed(asked, TALK).parts["gradient reduction"] * BETWEEN
    assert bytes_ == pytest.approx(listed(asked, 0)["gradient reduction"], rel=1e-7)


def test_copies_in_nodes_of_their_own_by_hand() -> None:
    """Two nodes: inside, 7/8 of the weights twice (what lies outside the blocks: once) and of the gradients once;
    between, a shard there and back."""
    asked = job(dp=16, zero=3, replicas=2)
    blocks = sum(layer.params for layer in asked.model.layers)
    outside = asked.model.parameters.total - blocks
    inside = 7 / 8 * 2 * (3 * blocks + 2 * outside) / INSIDE
    between = 2 * (blocks + outside) / 8 / BETWEEN
    assert timed(asked, TALK).parts["weight gathering"] == pytest.approx(inside + between, rel=1e-7)


def test_the_parts_of_experts_spread_their_ranks_over_two_nodes() -> None:
    """ep=8 with expert_tp=2 lies on every second of 16 ranks: half of the rows leave the node, over one adapter."""
    asked = job("mixtral-8x7b", dp=16, ep=8, expert_tp=2, zero=1, kernels="megatron")
    rows, layers = 4096 * 4096 * 2, 32
    crossing = 4 * 2 * rows * 0.5 / BETWEEN  # there and back, forward and backward
    counts = 8 * 8 * 0.5 / BETWEEN
    parts = 2 * 2 * (2 * rows) / INSIDE  # gathered for both parts of an expert and summed: (n - 1) of n = 2
    assert timed(asked, TALK).parts["expert-parallel"] == pytest.approx(layers * (crossing + counts + parts), rel=1e-6)


@pytest.mark.parametrize("zero", [1, 2])
def test_a_scatter_is_hidden_by_its_own_backward_pass(zero: int) -> None:
    """ZeRO-2's scatters, one a micro-batch, each behind that micro-batch's; ZeRO-1 has one, behind the last."""
    options: dict[str, Any] = {"dp": 16, "zero": zero, "software": "deepspeed", "network": 2e9, "seq_len": 1024}
    hidden = replace(IDEAL, contention=0.0)
    one, four = (timed(job(**options, global_batch=16 * n), hidden).parts["gradient reduction"] for n in (1, 4))
    # new weights are gathered once a step, behind no backward pass
    gathered = timed(job(**options, global_batch=16), replace(hidden, matmul=1e-6)).parts["gradient reduction"]
    assert one > gathered > 0
    assert four - gathered == pytest.approx((4 if zero == 2 else 1) * (one - gathered))


def test_dispatchers_send_a_row_as_often_as_they_say() -> None:
    """32 ranks in 4 nodes, 8 of 256 experts: all 8 copies, one for each node that they reach, or all tokens to all."""
    options: dict[str, Any] = {"model": "deepseek-v3", "dp": 32, "ep": 32, "zero": 1, "kernels": "megatron"}
    found = {
        name: timed(job(**options, dispatcher=name), TALK).parts["expert-parallel"]
        for name in ("alltoall", "deepep", "allgather")
    }
    reached = nodes_reached(nodes=32, picks=8)
    assert found["deepep"] / found["alltoall"] == pytest.approx(nodes_reached(nodes=4, picks=reached) / 8, rel=1e-3)
    # 31 others' tokens, at the rate of 8 adapters and no faster than the links inside a node
    assert found["allgather"] / found["alltoall"] == pytest.approx(
        31 / min(8, INSIDE / BETWEEN) / (8 * 3 / 4), rel=1e-3
    )


def test_gradients_are_reduced_in_the_format_that_the_software_says() -> None:
    options: dict[str, Any] = {"dp": 16, "kernels": "megatron", "precision": "bf16-mixed-fp32-grads"}
    wide, narrow = (
        timed(job(**options, grad_reduce=fmt), TALK).parts["gradient reduction"] for fmt in ("fp32", "bf16")
    )
    assert wide == pytest.approx(2 * narrow)


def test_megatron_gathers_inputs_once_more_while_it_computes() -> None:
    """Korthikanti et al. 2022, section 4.2.2: beside the gradients of the inputs, which take longer."""
    asked = job(tp=8, sequence_parallel=True, kernels="megatron", seq_len=8192)
    waits = replace(IDEAL, tp_exposed=1.0)
    told = sum(c.wire_bytes for c in collectives(asked) if part_of(c, 1) == "tensor-parallel")
    hidden = sum(c.wire_bytes for c in collectives(asked) if c.what == INPUTS_ONCE_MORE)
    assert timed(asked, waits).parts["tensor-parallel"] * INSIDE == pytest.approx(told - hidden)
    # unless the links are slower than the products: then what is left of it
    slow = timed(asked, replace(waits, inside=0.05)).parts["tensor-parallel"] * 0.05 * INSIDE
    assert told - hidden < slow < told


# -- what a change of the job does ------------------------------------------------------------


def test_frozen_weights_are_faster() -> None:
    """No gradients of weights: a third of the matrix products is saved, less the adapters' own, and the optimizer."""
    trained, frozen = (timed(job(dp=8, frozen=f), IDEAL).parts for f in (False, True))
    assert 2 / 3 < frozen["matrix products"] / trained["matrix products"] < 0.8
    assert frozen["gradient reduction"] == frozen["optimizer"] == 0
    for options in LAYOUTS:
        asked = job(**options)
        if not asked.frozen:
            # of attention alone: passes of adapters beside every matrix cost what is saved, where tp cuts only these
            assert time_step(replace(asked, frozen=True, targets="attention")).total < time_step(asked).total


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
    """1F1B waits for a micro-batch on the other stages; chunks divide it, zero bubble keeps the forward passes."""
    silent = replace(IDEAL, inside=1e12)  # sends take no time

    def bubble(**options: Any) -> tuple[float, float]:
        """Over the work of the three other stages, and over their forward passes."""
        asked = job("llama-3-70b", pp=4, global_batch=16, **options)
        found, timer = timed(asked, silent), StepTimer(asked, asked.layout, silent)
        stages = stages_of(asked, every=True)
        forward = [timer.stage(stage).forward.total for stage in stages]
        waits = found.parts["pipeline bubble"]
        return waits / (sum(found.stages) - max(found.stages)), waits / (sum(forward) - forward[found.slowest])

    assert bubble()[0] == pytest.approx(1)
    assert bubble(vpp=4)[0] == pytest.approx(1 / 4)
    for options, share in (({}, 1 / 3), ({"recompute": "full"}, 1 / 4)):  # forward once, backward as two or as three
        over_all, over_forward = bubble(schedule="zero-bubble", **options)
        assert over_forward == pytest.approx(1)
        assert over_all == pytest.approx(share, rel=0.02)


def test_a_micro_batch_waits_for_every_send_on_its_way() -> None:
    """There and back over three borders, whatever the stage itself sends."""
    asked = job(pp=4, global_batch=8, kernels="megatron")
    found = timed(asked, TALK)
    hidden = 4096 * 4096 * 2
    assert found.parts["pipeline bubble"] * INSIDE == pytest.approx(2 * 3 * hidden)
    # the first and the last stage send one way only, those between both
    for stage, bytes_ in charged(asked):
        assert bytes_["pipeline sends"] == pytest.approx((1 if stage.ends else 2) * 8 * hidden)


# Bytes that an update reads and writes for an element of bf16-mixed: the gradient twice, for its norm too, the weight
# once, the fp32 copy twice, and twice each of the states.
BESIDE_STATES = 2 * 2 + 2 + 2 * 4


@pytest.mark.parametrize(
    ("optimizer", "states"),
    [
        ("adamw", 8.0),
        ("adamw-fp32", 8.0),
        ("adamw-bf16", 4.0),
        ("adamw-8bit", 2 * (1 + 4 / 256)),  # a scale of 4 bytes for 256 elements
        ("lion", 4.0),
        ("sgd-momentum", 4.0),
        ("sgd", 0.0),
    ],
)
def test_an_update_moves_what_its_optimizer_keeps(optimizer: str, states: float) -> None:
    asked = job(optimizer=optimizer)
    moved = timed(asked, IDEAL).parts["optimizer"] * asked.cluster.accelerator.memory_bandwidth_bytes_per_second
    assert moved == pytest.approx(asked.model.parameters.total * (BESIDE_STATES + 2 * states))


def test_a_row_and_a_column_are_no_traffic_and_muon_multiplies() -> None:
    device, spec = llmhw.accelerator("h100"), llmhw.model("llama-3-8b")
    bandwidth, total = device.memory_bandwidth_bytes_per_second, spec.parameters.total
    times = {name: timed(job(optimizer=name), IDEAL).parts["optimizer"] for name in ("adafactor", "muon", "sgd")}
    vectors = spec.parameters.by_component["norms"]
    assert (times["adafactor"] - times["sgd"]) * bandwidth == pytest.approx(2 * 4 * vectors, rel=1e-6)
    # five steps of X X^T, its square and their product with X, for matrices of long x short (Jordan et al. 2024)
    blocks = [t for layer in spec.layers for t in layer.tensors if len(t.shape) == 2]
    flops = sum(5 * 2 * (2 * min(t.shape) ** 2 * max(t.shape) + min(t.shape) ** 3) for t in blocks)
    matrices = sum(t.numel for t in blocks)
    moved = total * BESIDE_STATES + matrices * 2 * 4 + (total - matrices) * 2 * 8
    assert times["muon"] == pytest.approx(moved / bandwidth + flops / device.peak("bf16"))


def test_zero_shares_out_the_update() -> None:
    def update(**layout: Any) -> float:
        return timed(job(dp=8, **layout), IDEAL).parts["optimizer"]

    for zero in (1, 2, 3):
        assert update(zero=zero) == pytest.approx(update() / 8)


def test_routers_and_the_head_stay_in_16_bit_and_small_products_do_not() -> None:
    asked = job("mixtral-8x7b", compute="fp8", dp=8)
    spec = asked.model
    walked = block(spec, spec.layers[0], asked.layout, seq_len=4096, fused=False).matmuls
    wide = {m.name for m in walked if m.part == "router"} | {"head"}
    terms = [t for t in time_step(asked).estimate.part("matrix products").terms if t.formula == "matmul_seconds"]
    widths = {t.label.split(",")[0]: dict(t.inputs)["a_bytes"] for t in terms}
    assert widths == {name: 2 if name in wide else 1 for name in {m.name for m in walked} | {"head"}}
    assert len(wide) == 2
    # keys of Llama-3-8B over 8 ranks: 128 outputs, fewer than many a router has
    narrow = time_step(job(compute="fp8", tp=8)).estimate.part("matrix products").terms
    keys = [dict(t.inputs) for t in narrow if t.label == "k_proj"]
    assert [(k["n"], k["a_bytes"]) for k in keys] == [(128, 1)]


def test_8_bit_products_are_faster_and_scaling_costs() -> None:
    half, eight = (timed(job(compute=fmt), IDEAL).parts["matrix products"] for fmt in ("bf16", "fp8"))
    assert 0.5 < eight / half < 0.65  # the head stays in 16 bit
    with_scaling = timed(job(compute="fp8"), replace(IDEAL, cast=3.0)).parts["matrix products"]
    assert with_scaling > eight


@pytest.mark.parametrize(("precision", "width"), [("bf16-mixed", 2), ("bf16-mixed-fp32-grads", 4), ("fp32-bf16", 4)])
def test_gradients_of_weights_are_added_to_what_is_there(precision: str, width: int) -> None:
    """Their product reads what it adds to, and writes it; the other two write in 16 bit."""
    terms = time_step(job(precision=precision)).estimate.part("matrix products").terms
    written = {t.label.partition(", ")[2]: dict(t.inputs)["out_bytes"] for t in terms}
    assert written == {"": 2, "gradient of its input": 2, "gradient of its weights": 2 * width}


def test_stragglers() -> None:
    assert straggler_share(nodes=1, jitter=0.01) == 0
    # the expected largest of 100 normal deviates is 2.51; sqrt(2 ln 100) is 3.03, which is above it
    assert straggler_share(nodes=100, jitter=1.0) == pytest.approx(3.035, abs=0.001)
    found = time_step(job(dp=64)).parts
    others = sum(seconds for name, seconds in found.items() if name not in ("stragglers", "fixed"))
    own = training_constants(llmhw.accelerator("h100"), trainer("torchtitan"))
    assert found["stragglers"] == pytest.approx(straggler_share(nodes=8, jitter=own.jitter) * others)


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"software": "megatron-lm:2027"}, "software='megatron-lm:2027' is not known; did you mean megatron-lm:2021, "),
        (
            {"gpu": "A100 80GB SXM", "compute": "fp8"},
            "format='fp8' has no dense rate on A100 80GB SXM4; it has fp64, fp64_tensor, fp32, tf32, fp16, bf16, int8",
        ),
        ({"gpu": "V100 SXM2 32GB", "compute": "bf16"}, "format='bf16' has no dense rate on V100 SXM2 32GB; it has "),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LLMHWError) as raised:
        time_step(job(**options))
    assert str(raised.value).startswith(message)


def test_a_network_that_is_needed_and_not_given() -> None:
    spec = llmhw.model("llama-3-8b")
    asked = TrainingJob(model=spec, cluster=llmhw.Cluster("h100", 16), parallelism=Parallelism(dp=16))
    with pytest.raises(LLMHWError) as raised:
        time_step(asked)
    message = "inter_link of 16 x H100 SXM5 80GB is not known; give it, as in inter_link='InfiniBand NDR 4x'"
    assert str(raised.value) == message


def test_every_software_times_a_step() -> None:
    times = {name: time_step(job(dp=8, zero=1, software=name)).total for name in trainer_names()}
    assert min(times.values()) > 0
    assert max(times.values()) < 4 * min(times.values())


# -- products and attention -------------------------------------------------------------------


def timer_of(asked: TrainingJob) -> StepTimer:
    constants = training_constants(asked.cluster.accelerator, asked.trainer)
    return StepTimer(asked, asked.layout, constants, detail="terms")


def terms(asked: TrainingJob, name: str, layer: int = -1) -> float:
    """Seconds of what has these words in its name, in a layer's two passes."""
    timer = timer_of(asked)
    clock = timer.layer(range(len(asked.model.layer_kinds))[layer], False)
    return sum(
        float(t.value)
        for side in (clock.forward, clock.backward)
        for part in side.estimate("layer", "seconds", PARTS)
        for t in part.terms
        if name in t.label
    )


def names(asked: TrainingJob) -> set[str]:
    """What a layer's backward pass does."""
    found = timer_of(asked).layer(0, False).backward.estimate("layer", "seconds", PARTS)
    return {t.label for part in found for t in part.terms}


@pytest.mark.parametrize("compute", ["bf16", "fp8"])
def test_rows_of_experts_are_padded_before_their_gradients(compute: str) -> None:
    """614.4 rows an expert (DeepSeek-V2, ep=4) are no reason for tensor cores to stand aside: they are 616, or 624."""
    sizes: dict[str, Any] = {"model": "deepseek-v2", "kernels": "megatron", "compute": compute, "dp": 4, "ep": 4}
    plain, even = (terms(job(**sizes, seq_len=n), "expert gate_up_proj, gradient of its weights") for n in (4096, 4160))
    assert 4096 * 6 / 160 * 4 == 614.4
    assert 4160 * 6 / 160 * 4 == 624
    assert plain == pytest.approx(even, rel=0.02)


def test_megatron_pads_its_vocabulary() -> None:
    """50,257 rows of GPT-2's output are 50,304 and take tensor cores; plain PyTorch does not pad."""
    torch, megatron = (
        float(timer_of(job("gpt2", kernels=kernels, seq_len=1024)).ends[1].backward.total)
        for kernels in ("torch", "megatron")
    )
    assert megatron < 0.5 * torch


def test_short_heads_and_short_documents() -> None:
    """Heads of 64 have as many exponentials as those of 128 for half of the products; documents end attention."""
    asked = job(seq_len=8192)
    rates = timer_of(asked).rates
    core = block(asked.model, asked.model.layers[0], asked.layout, seq_len=8192).cores[0]
    assert rates.core(replace(core, head_dim=64, v_head_dim=64))[1]["head"] == pytest.approx(0.75, abs=0.01)
    assert rates.core(replace(core, head_dim=256, v_head_dim=256))[1]["head"] == 1
    # five products backward for two forward; DeepSeek's keys are longer than its values
    assert rates.core(core, backward=True)[1]["flops"] == pytest.approx(2.5 * core.flops)
    latent = replace(core, head_dim=192, v_head_dim=128)
    assert rates.core(latent, backward=True)[1]["flops"] == pytest.approx(2.6 * latent.flops)
    whole, half, short = (terms(job(seq_len=8192, packed=n), "attention") for n in (None, 4096, 512))
    assert whole == half  # lengths spread: documents of 4,096 on average attend as equal ones of 8,192
    assert short < 0.4 * whole


def test_a_ring_attends_in_parts() -> None:
    """To the keys of one rank after the other: shorter kernels, and their results are added up."""
    ring, gathered = (job(cp=8, cp_kind=kind, seq_len=65536) for kind in ("ring", "all-gather"))
    assert terms(ring, "full attention") > 1.03 * terms(gathered, "full attention")
    assert terms(ring, "attention added up") > 0 == terms(gathered, "attention added up")


def test_adapters_are_multiplied_beside_frozen_matrices() -> None:
    """Two small products more forward and four backward, and none for the gradients of the model's own weights."""
    asked = job(frozen=True, rank=16, dp=1)
    work = block(asked.model, asked.model.layers[0], asked.layout, seq_len=4096, fused=False)
    beside = block(
        asked.model, asked.model.layers[0], asked.layout, seq_len=4096, fused=False, rank=16,
        adapted=timer_of(asked).adapted,
    )  # fmt: skip
    factors = [m for m in beside.matmuls if m.adapter]
    assert len(factors) == 2 * len(work.matmuls)
    assert (
        beside.flops - work.flops
        == sum(m.flops for m in factors)
        == 2 * 4096 * 16 * (2 * 4096 + 2 * (4096 + 1024) + 2 * 4096 + 3 * (4096 + 14336))
    )
    assert terms(asked, "adapter of q_proj, up, gradient of its weights") > 0
    assert {t for t in names(asked) if t.endswith("gradient of its weights") and "adapter" not in t} == set()


def test_weights_in_four_bit_are_expanded_in_every_pass() -> None:
    """Half a byte read and two written for each of 218 million weights of a layer, forward and backward."""
    plain, four = (job(frozen=True, base=base, dp=1) for base in (None, "nf4-dq"))
    assert terms(plain, "expanded") == 0
    rate = timer_of(four).rates.bandwidth_bytes_per_second
    weights = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    assert terms(four, "expanded") == pytest.approx(2 * weights * 2.516 / rate, rel=0.01)


def test_formats_differ_in_what_their_operands_cost() -> None:
    """One scale a row: operands are read more often than with one a tensor, and the product is slower."""
    tensor, row, block_, plain = (
        job(compute=fmt, kernels="megatron", gpu="h100") for fmt in ("fp8", "fp8-row", "fp8-block", "bf16")
    )
    name = "scaling and rounding for mlp gate_up"
    assert terms(row, name) == pytest.approx(2 * terms(tensor, name))
    assert terms(tensor, name) < terms(block_, name) < 1.1 * terms(tensor, name)
    assert terms(plain, name) == 0
    rates = [timer_of(one).rates.flops_per_second[one.compute_format] for one in (row, tensor, plain)]
    assert rates[0] == pytest.approx(0.8 * rates[1])
    assert row.peak_format == "fp8"


def test_scaled_products_all_run_again() -> None:
    """torchtitan's per-op checkpointing runs half the products again in 16 bit, all in 8 bit; and gathers again."""
    asked = job(recompute="per-op", tp=2, sequence_parallel=True, software="torchtune")
    half, all_ = (replace(asked, compute=fmt) for fmt in ("bf16", "fp8"))
    none = [replace(one, recompute="none") for one in (half, all_)]
    products = [
        (time_step(one).parts["recompute"], time_step(bare).parts["matrix products"])
        for one, bare in zip((half, all_), none, strict=True)
    ]
    assert products[1][0] / products[1][1] > 1.5 * products[0][0] / products[0][1]
    assert time_step(half).parts["tensor-parallel"] > time_step(none[0]).parts["tensor-parallel"]
    kept = [sum(t.value for t in StepMemory(one, one.layout).kept(0, "per-op")) for one in (half, all_)]
    assert kept[1] < 0.7 * kept[0]
    # a compiler runs no product again that it need not
    compiled = [replace(one, software="torchtitan") for one in (half, all_)]
    kept = [sum(t.value for t in StepMemory(one, one.layout).kept(0, "per-op")) for one in compiled]
    assert kept[0] == kept[1]


def test_dpo_passes_both_answers_and_the_reference() -> None:
    plain, dpo = (time_step(job(method=method, dp=8, zero=3, micro_batch=2)) for method in ("sft", "dpo"))
    assert dpo.parts["matrix products"] == pytest.approx(2 * plain.parts["matrix products"], rel=0.05)
    assert plain.parts["reference model"] == 0
    assert 0.3 * dpo.parts["matrix products"] < dpo.parts["reference model"] < 0.5 * dpo.total


def test_the_host_launches_every_kernel() -> None:
    """A short layer waits for the host: longer in eager PyTorch and with casts, not at all in a graph of the step."""
    eager, compiled = (job("llama-3.2-1b", seq_len=512, software=name) for name in ("torchtune", "torchtitan"))
    launched = [time_step(one).parts["waiting for the host"] for one in (eager, compiled)]
    assert launched[0] > 1.5 * launched[1] > 0
    plain, casts, graph = (
        time_step(job("llama-3.2-1b", seq_len=512, kernels="megatron", **more)).parts["waiting for the host"]
        for more in ({}, {"compute": "fp8"}, {"cuda_graph": "full"})
    )
    assert casts > plain > 10 * graph


# -- the optimizer, and what lies on the host -------------------------------------------------


def test_eager_optimizers_read_more_than_fused_ones() -> None:
    """torchtune's AdamW is PyTorch's, torchtitan's fused; states of 8 bit move less, in one kernel of their own."""
    eager, fused, eight = (
        time_step(job(dp=8, zero=3, **more)).parts["optimizer"]
        for more in (
            {"software": "torchtune"},
            {"software": "torchtitan"},
            {"software": "torchtune", "optimizer": "adamw-8bit"},
        )
    )
    assert eager == pytest.approx(20 / 7 * fused)
    assert eight < fused


def test_what_lies_on_the_host_comes_over_its_link_and_is_updated_there() -> None:
    """8 B weights, an eighth a device: 30 bytes each at 43 % of a Genoa's 461 GB/s for eight; then back."""
    sizes: dict[str, Any] = {"dp": 8, "zero": 3, "precision": "bf16-mixed"}
    none, states, all_ = (time_step(job(**sizes, offload=where)).parts for where in ("none", "optimizer", "all"))
    assert none["host memory"] == states["optimizer"] == all_["optimizer"] == 0 < none["optimizer"]
    params, host = llmhw.model("llama-3-8b").parameters.total, timer_of(job(**sizes)).host
    rate = 0.43 * host["host_bytes_per_second"] / 8
    back = 2 * params / 8 / min(host["link_bytes_per_second"], host["host_bytes_per_second"] / 8)
    assert states["host memory"] == pytest.approx(params / 8 * 30 / rate + back, rel=0.05)  # gradients go meanwhile
    assert all_["host memory"] > 0.999 * params / 8 * 30 / rate  # weights come beside the passes, as far as these take
    # a card of its own reads all weights for every micro-batch, and short passes hide little of it
    alone: dict[str, Any] = {"gpu": "rtx 4090", "seq_len": 256, "offload": "all"}
    few, many = (time_step(job(**alone, global_batch=n)).parts["host memory"] for n in (1, 8))
    assert many - few > 7 * 2 * params * 2 / 25e9 * 0.8
    lower = time_bounds(job(**sizes, offload="all"))["host memory"]
    assert lower[0] <= lower[1] <= lower[2]


def test_eager_norms_pass_over_their_rows_many_times() -> None:
    """RMSNorm in eager PyTorch is eight kernels or so, LayerNorm one; compiled or fused, both are one."""
    for name, times in (("llama-3-8b", 8.0), ("gpt2", 1.0)):
        eager, compiled = (job(name, software=which, seq_len=1024) for which in ("torchtune", "torchtitan"))
        passes = [timer_of(one).c.passes for one in (eager, compiled)]
        norm = "input_layernorm" if name.startswith("llama") else "ln_1"
        found = terms(eager, norm) / passes[0] / (terms(compiled, norm) / passes[1])
        assert found == pytest.approx(times)


def test_multi_token_prediction_is_a_layer_and_a_head_more() -> None:
    """DeepSeek-V3's: 11.6 billion weights on the last stage, with a layer and the head in time."""
    sizes: dict[str, Any] = {"model": "deepseek-v3", "dp": 32, "ep": 32, "pp": 4, "uneven": True, "global_batch": 256}
    plain, mtp = (job(**sizes, zero=1, kernels="megatron", mtp=on) for on in (False, True))
    spec = plain.model
    held = [sum(t.numel for t in StepMemory(one, one.layout).tensors.of("last")) for one in (plain, mtp)]
    assert held[1] - held[0] == sum(t.numel / (32 if t.component == "experts" else 1) for t in spec.mtp_tensors)
    times = [timer_of(one) for one in (plain, mtp)]
    last = times[1].layer(len(spec.layer_kinds) - 1, False)
    more = float(times[1].ends[1].forward.total - times[0].ends[1].forward.total)
    assert (
        float(last.forward.total + times[0].ends[1].forward.total)
        < more
        < 1.1 * float(last.forward.total + times[0].ends[1].forward.total)
    )
    assert time_step(mtp).total > time_step(plain).total
    with pytest.raises(LLMHWError, match="mtp=True has no effect"):
        job("llama-3-8b", mtp=True).check_effects()
