"""Training jobs. Memory: invariants, published memory, errors; equality with PyTorch is in tests/truth. Then estimates:
a step, its memory and the run in one answer; how the step is timed is in test_step_time.py."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmhw
from llmhw.catalog import read_calibration
from llmhw.job import MODULES, Parallelism, TrainingJob, data_parallel
from llmhw.schedule import micro_batches_in_flight, pipeline_actions
from llmhw.step_time import PARTS, time_step
from llmhw.training import JobMemory, TrainingEstimate, changed, memory, train
from llmhw.units import GIB, LLMHWError, format_quantity

LLAMA = llmhw.model("llama-3-8b")


def job(
    model: str = "llama-3-8b", gpu: str = "h100", layout: dict[str, Any] | None = None, **options: Any
) -> TrainingJob:
    parallelism = Parallelism(**(layout or {}))
    cluster = llmhw.Cluster(gpu, parallelism.devices)
    return TrainingJob(model=llmhw.model(model), cluster=cluster, parallelism=parallelism, **options)


def test_one_device_equals_the_single_device_answer() -> None:
    found = memory(job(seq_len=2048))
    states = llmhw.training_states(LLAMA)
    for part in states:
        assert found.stages[0][part.name] == part.value


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.sampled_from([1, 2, 4]),
    dp=st.sampled_from([1, 2, 8]),
    zero=st.sampled_from([0, 1, 2, 3]),
    recompute=st.sampled_from(["none", "selective", "full"]),
    kernels=st.sampled_from(["torch", "megatron"]),
)
def test_more_sharding_never_holds_more(tp: int, pp: int, dp: int, zero: int, recompute: str, kernels: str) -> None:
    def largest(**layout: Any) -> float:
        options: dict[str, Any] = {"recompute": recompute, "kernels": kernels, "global_batch": 32, "seq_len": 1024}
        return memory(job(layout=layout, **options)).allocated_bytes

    now = largest(tp=tp, pp=pp, dp=dp, zero=zero)
    if tp < 8:
        assert largest(tp=2 * tp, pp=pp, dp=dp, zero=zero) <= now
    if zero < 2:
        assert largest(tp=tp, pp=pp, dp=dp, zero=zero + 1) <= now
    if zero:
        assert largest(tp=tp, pp=pp, dp=2 * dp, zero=zero) <= now


def test_stages_share_the_model() -> None:
    whole = llmhw.training_states(LLAMA)
    found = memory(job(layout={"pp": 4, "tp": 2}, global_batch=8, kernels="megatron"))
    assert len(found.stages) == 4
    # the norms are whole on both tp ranks
    doubled = 2 * LLAMA.parameters.by_component["norms"]
    assert 2 * sum(stage["weights"] for stage in found.stages) == whole["weights"] + doubled


def test_first_stage_holds_most_micro_batches() -> None:
    found = memory(job(layout={"pp": 4}, global_batch=16, kernels="megatron"))
    activations = [stage["activations"] for stage in found.stages]
    assert activations == sorted(activations, reverse=True)
    assert activations[0] == 4 * activations[-1]
    gpipe = memory(job(layout={"pp": 4, "schedule": "gpipe"}, global_batch=16, kernels="megatron"))
    assert gpipe.stages[0]["activations"] == 4 * activations[0]


def test_interleaving_costs_what_korthikanti_says() -> None:
    """Section 4.2.3: the first stage keeps 1 + (p - 1) / (p m) times as many layers under interleaving."""
    p, m = 8, 4
    chunks = micro_batches_in_flight(pipeline_actions("interleaved", p, m, 64))[0]
    assert chunks / (p * m) == pytest.approx(1 + (p - 1) / (p * m))


def test_published_megatron_memory() -> None:
    """Truncated Llama-3-70B and DeepSeek-V2 on B200, Megatron-LM, peak allocated GiB (SimuMax 1.2, real runs)."""
    from llmhw.catalog import read_model

    def error(name: str, layers: int, measured: float, seq_len: int = 4096, **layout: int) -> float:
        config = {**read_model(name)[1], "num_hidden_layers": layers}
        parallelism = Parallelism(zero=1, **layout, sequence_parallel=layout.get("tp", 1) > 1)
        found = memory(
            TrainingJob(
                model=llmhw.ModelSpec.from_config(config),
                cluster=llmhw.Cluster("b200", 8),
                parallelism=parallelism,
                global_batch=4 * parallelism.dp,
                seq_len=seq_len,
                precision="bf16-mixed-fp32-grads",
                kernels="megatron",
            )
        )
        return found.allocated_bytes / GIB / measured - 1

    errors = [
        error("llama-3-70b", 12, 66.55, pp=2, dp=4),
        error("llama-3-70b", 12, 60.69, tp=2, dp=4),
        error("llama-3-70b", 12, 39.14, tp=4, dp=2),
        error("llama-3-70b", 12, 28.34, tp=8),
        error("deepseek-v2", 4, 45.56, dp=8, ep=8),
        error("deepseek-v2", 4, 44.66, dp=4, pp=2, ep=4),
        error("llama-3-70b", 12, 104.49, seq_len=32768, cp=8),
        error("llama-3-70b", 12, 148.0, seq_len=131072, cp=8),
    ]
    # nothing is fitted: a tensor that is missing or counted twice shows as more than this
    assert max(map(abs, errors)) < 0.035
    assert sorted(map(abs, errors))[len(errors) // 2] < 0.015


def test_offload_moves_states_to_the_host() -> None:
    here = memory(job(layout={"dp": 2, "zero": 1}))
    away = memory(job(layout={"dp": 2, "zero": 1, "offload": "optimizer"}))
    assert "master copy" not in {part.name for part in away.stages[0]}
    assert away.allocated_bytes < here.allocated_bytes


@pytest.mark.parametrize(
    ("kernels", "seq_len", "apart"), [("megatron", 8192, 0), ("torch", 8192, 2), ("torch", 256, 0)]
)
def test_each_meter_shows_what_it_counts(kernels: str, seq_len: int, apart: int) -> None:
    """Tensors; blocks of the allocator with what it keeps apart; and what lies beside them on the device.

    PyTorch makes the gradients of a single micro-batch as the activations go, and cannot put them where those were:
    2 bytes a weight lie apart, unless the optimizer's step is the fullest moment, or the device is full.
    """
    found, known = memory(job(gpu="B300", seq_len=seq_len, kernels=kernels)), read_calibration("training_memory")
    tensors = sum(part.value for part in found.stages[0])
    assert found.allocated_bytes == tensors
    gradients = 2 * LLAMA.parameters.total if apart else 0
    assert found.unreused[0] >= gradients  # and what a layer's backward pass needs beside the loss
    blocks = (tensors + found.unreused[0]) * known["reserved_over_allocated"]
    assert found.reserved_bytes == pytest.approx(blocks)
    beside = read_calibration("serving_memory")["context_bytes"]  # no NCCL on one device
    assert found.device_bytes == pytest.approx(blocks + beside)
    many = memory(job(seq_len=seq_len, kernels=kernels, layout={"dp": 8}))
    assert many.device_bytes - many.reserved_bytes == pytest.approx(known["context_bytes"])


def changes(step: str) -> dict[str, Any]:
    """What a line of advice changes."""
    pairs = (one.partition("=") for one in step.partition(": ")[0].split(", "))
    return {name: ast.literal_eval(value) for name, _, value in pairs}


ADVISED = (
    job("llama-3-70b", layout={"dp": 8, "tp": 8}),
    job("llama-3-70b", layout={"dp": 8, "zero": 3}, recompute="full"),
    job(gpu="RTX 4090"),
    job(gpu="RTX 4090", micro_batch=8),
    job("mistral-7b", "A100 40GB SXM4", layout={"dp": 8, "zero": 3}),
    job(layout={"dp": 8, "zero": 3}, seq_len=32768),
    job("mixtral-8x7b", layout={"dp": 8, "zero": 3, "ep": 8}, kernels="megatron"),
    job(frozen=True, seq_len=65536),
    job(layout={"pp": 8, "schedule": "gpipe"}, global_batch=512),
    job("llama-3.1-405b", layout={"dp": 128, "tp": 8, "pp": 16, "uneven": True}, seq_len=8192),
)


@pytest.mark.parametrize("asked", ADVISED, ids=lambda j: f"{j.model.name}-{j.cluster.devices}")
def test_advice_was_tried_on_the_job(asked: TrainingJob) -> None:
    """Each line changes something that can be changed; put into the job, it fits with the bytes that are said."""
    found = memory(asked)
    assert not found.fits
    assert found.next_steps()
    assert found.way_out.endswith(found.next_steps()[0])
    for step in found.next_steps():
        asks = changes(step)
        assert asks
        for name, value in asks.items():
            now = getattr(asked, name, getattr(asked.parallelism, name, asked.cluster.devices))
            assert value != now, step
        if "zero" in asks and "devices" not in asks:
            assert asked.parallelism.shards > 1, step
        made = changed(asked, asks)
        assert made is not None
        then = memory(made)
        assert then.fits
        assert not then.fits_barely
        assert step.endswith(format_quantity(then.device_bytes, "bytes"))


def test_the_states_are_split_before_anything_is_computed_again() -> None:
    assert next(iter(changes(memory(ADVISED[0]).next_steps()[0]))) == "zero"
    alone = memory(job(gpu="RTX 4090")).next_steps()
    # on one device, nothing helps but another job or the host's memory
    assert all({"offload", "frozen", "devices"} & set(changes(step)) for step in alone)
    assert changes(memory(job(layout={"pp": 8, "schedule": "gpipe"}, global_batch=512)).next_steps()[0]) == {
        "schedule": "1f1b"
    }


def test_the_fewest_devices_are_the_fewest() -> None:
    asked = job("llama-3-70b", layout={"dp": 8, "zero": 3}, recompute="full")
    step = memory(asked).next_steps()[-1]
    devices = changes(step)["devices"]
    less = changed(asked, {"devices": devices // 2, "zero": 3})
    assert less is not None
    assert memory(less).fits_barely or not memory(less).fits


def test_three_verdicts_of_memory() -> None:
    """Fits, fits within the error of published peaks, does not fit; the text never says one and the numbers another."""
    error = read_calibration("training_memory")["residuals"]["all"]["p90_abs_error"]
    seen = set()
    for tokens in range(1024, 8193, 256):
        found = memory(job(layout={"dp": 8, "zero": 3}, seq_len=tokens, micro_batch=2))
        room = found.capacity_bytes / found.device_bytes
        word = "Does not fit" if room < 1 else "Fits barely" if room < 1 + error else "Fits:"
        seen.add(word)
        assert found.verdict.startswith(word)
        assert found.to_dict()["verdict"] == found.verdict
        assert found.to_row()["fits"] == found.fits == (word != "Does not fit")
        assert "\n" not in found.verdict
        assert (f"{100 * error:.1f} %" in found.verdict) == (word == "Fits barely")
    assert len(seen) == 3


def test_a_batch_fills_the_pipeline() -> None:
    """Stages wait for at most an eighth of their work; without stages a batch is one micro-batch a rank."""
    for pp, vpp, dp in ((1, 1, 4), (2, 1, 1), (8, 1, 2), (8, 2, 2), (16, 2, 1), (4, 8, 1)):
        asked = job(layout={"pp": pp, "vpp": vpp, "dp": dp}, seq_len=512, micro_batch=2)
        assert asked.batch == asked.micro_batches * 2 * dp
        assert asked.micro_batches % pp == 0
        if pp == 1:
            assert asked.micro_batches == 1
            continue
        assert (pp - 1) / (vpp * asked.micro_batches) <= 1 / 8
        fewer = asked.micro_batches - pp
        assert fewer * vpp < 8 * pp
        assert f"global batch {asked.batch:,} = {asked.micro_batches} micro-batches" in memory(asked).title
        assert any(f"global_batch={asked.batch} is assumed" in line for line in memory(asked).warnings())
        # memory is that of a full pipeline
        given = replace(asked, global_batch=4 * asked.batch)
        assert memory(given).device_bytes == memory(asked).device_bytes
        assert not memory(given).warnings()
    assert "= 1 micro-batch," in memory(job(seq_len=512)).title


def test_every_name_that_is_printed_is_explained() -> None:
    found = estimate(layout={"dp": 2, "tp": 2, "pp": 2, "zero": 1}, recompute="full", run={"tokens": 1e12, "price": 2})
    for table in found.tables():
        for row in table.rows:
            assert found.explain(row[0])
    held = found.memory
    for table in held.tables():
        for row in table.rows:
            assert held.explain(row[0])
    for row in found.run.rows():
        assert found.run.explain(row[0])
    assert "utilization(flops=" in found.explain("MFU")
    assert "training_speed(tokens=" in found.explain("tokens/s in all")
    assert "shown_bytes(" in found.explain("memory")
    with pytest.raises(LLMHWError, match="part='matrx' is not known"):
        found.explain("matrx")


def test_a_part_of_another_stage_is_explained() -> None:
    held = memory(job(layout={"pp": 4}, seq_len=512))
    names = {part.name for stage in held.stages for part in stage}
    assert all(held.explain(name) for name in names)


def test_shares_and_what_is_not_there() -> None:
    held = memory(job(layout={"dp": 8, "zero": 3}, seq_len=8192))
    table = held.tables()[0]
    assert table.columns[-1] == "share"
    assert table.rows[-1][-1] == "100.0 %"
    assert ("no gradients" in " ".join(held.footer())) == ("gradients" not in {p.name for p in held.stages[0]})
    assert "no gradients" in " ".join(held.footer())
    assert memory(job(layout={"pp": 2}, seq_len=512)).tables()[0].columns[-1] == "share of stage 1"


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ({}, {"recompute_layers": 4}, "recompute_layers=4 has no effect here: it belongs with recompute='block'"),
        ({}, {"expert_imbalance": 1.5}, "expert_imbalance=1.5 must be at most the experts of a layer of llama-3-8b, 1"),
        ({"tp": 2, "expert_tp": 2}, {}, "expert_tp=2 has no effect here: it belongs with a model with experts"),
        ({"cp_kind": "all-gather"}, {}, "cp_kind='all-gather' has no effect here: it belongs with cp of at least 2"),
        ({"schedule": "gpipe"}, {}, "schedule='gpipe' has no effect here: it belongs with pp of at least 2"),
        ({"uneven": True}, {}, "uneven=True has no effect here: it belongs with pp of at least 2"),
        ({}, {"adapter_layers": 4}, "adapter_layers=4 has no effect here: it belongs with adapters, frozen=True"),
        ({}, {"checkpoint_offload": True}, "checkpoint_offload=True has no effect here: it belongs with recompute="),
        ({}, {"host_memory": 5e11}, "host_memory=500000000000.0 has no effect here: it belongs with something that is"),
        ({}, {"completion": 64}, "completion=64 has no effect here: it belongs with method='grpo'"),
        ({}, {"reference": True}, "reference=True has no effect here: it belongs with method='dpo' or 'grpo'"),
        (
            {},
            {"optimizer_in_backward": True, "global_batch": 2},
            "optimizer_in_backward=True keeps no gradients, and 2 micro-batches a step add them up; use global_batch=1",
        ),
        ({}, {"frozen": True, "adapter_layers": 33}, "adapter_layers=33 must be at most layers=32"),
        ({}, {"method": "grpo", "completion": 4096}, "completion=4096 must be less than seq_len=4096"),
        ({}, {"method": "grpo", "rollout_share": 1.0}, "rollout_share=1.0 must be a share from 0 to below 1"),
        ({}, {"method": "grpo", "rollout_share": 0.3, "rollout_gpus": 2}, "give one of them"),
        ({}, {"global_batch": 0}, "global_batch=0 must be a whole number of at least 1"),
        ({}, {"micro_batch": 10**12}, "micro_batch=1000000000000 must be at most 1,000,000,000"),
        (
            {},
            {"seq_len": 10**30},
            "seq_len=1000000000000000000000000000000 must be a whole number of at least 1 and at most",
        ),
    ],
)
def test_nothing_is_ignored_in_silence(layout: dict[str, Any], options: dict[str, Any], message: str) -> None:
    for answer in (memory, train):
        with pytest.raises(LLMHWError, match=message):
            answer(job(layout=layout, **options))


TUNED: tuple[tuple[dict[str, Any], dict[str, Any], str, float], ...] = (
    # what is on already, what is changed, the part (or meter) that shows it, and its GiB
    ({"seq_len": 128}, {"optimizer_in_backward": True}, "gradients", 0.9785),  # of the embedding, or of the head
    (
        {"recompute": "full", "frozen": True},
        {"checkpoint_offload": True},
        "activations",
        0.0332,
    ),  # one layer's input, and tables
    ({"recompute": "full"}, {"checkpoint_offload": True}, "host", 1.0),
    ({}, {"optimizer": "paged-adamw-8bit"}, "host", 15.2),
    ({"frozen": True}, {"adapters": "bf16"}, "adapters", 0.0781),  # 42 million at rank 16
    ({"frozen": True}, {"adapter_layers": 16}, "adapters", 0.0781),
    ({"frozen": True}, {"targets": "q_proj,v_proj"}, "adapters", 0.0254),
    ({"method": "dpo"}, {"recompute": "full"}, "reference model", 14.96),
    ({"method": "dpo"}, {"reference": False}, "logits and loss", 3.914),  # of both answers, 4 bytes a logit
    ({"method": "grpo", "frozen": True}, {"completion": 1024}, "logits and loss", 0.4893),  # of the answer alone
    ({"method": "grpo", "frozen": True}, {"precision": "fp32-bf16"}, "logits and loss", 3.914),  # 16 bytes a logit
    ({"method": "grpo"}, {"rollout_share": 0.3}, "rollout engine", 24.0),
)


@pytest.mark.parametrize(("before", "change", "part", "gib"), TUNED)
def test_fine_tuning(before: dict[str, Any], change: dict[str, Any], part: str, gib: float) -> None:
    """What an option of fine-tuning holds."""
    found = memory(job(**{"precision": "bf16", "seq_len": 4096} | before | change))
    meters = {"host": found.host_bytes, "rollout engine": found.device_bytes - found.reserved_bytes}
    size = meters[part] if part in meters else found.stages[0][part]
    assert size / GIB == pytest.approx(gib, rel=0.02)


def test_answers_are_written_before_they_are_trained_on() -> None:
    """By an engine beside the model, by one on other devices, or by the model itself, which is slower."""
    asked: dict[str, Any] = {"method": "grpo", "precision": "bf16", "recompute": "full", "completion": 1024}
    seconds = [
        estimate("qwen3-1.7b", layout={"dp": 8, "zero": 3}, micro_batch=4, **asked, **more).time.parts["rollout"]
        for more in ({"rollout_share": 0.3}, {"rollout_gpus": 2}, {})
    ]
    assert min(seconds) == seconds[0] > 0  # two devices are fewer than eight
    both = estimate("qwen3-1.7b", layout={"dp": 8}, method="dpo", precision="bf16", recompute="full")
    alone = estimate("qwen3-1.7b", layout={"dp": 8}, method="dpo", reference=False, precision="bf16", recompute="full")
    assert both.tokens_per_step == 2 * both.job.batch * both.job.seq_len
    assert both.time.parts["reference model"] > alone.time.parts["reference model"] == 0


def test_a_host_that_is_too_small() -> None:
    asked: dict[str, Any] = {"precision": "bf16", "recompute": "full", "seq_len": 1024}
    layout = {"dp": 8, "zero": 3, "offload": "all"}
    found = memory(job("llama-3-70b", "RTX 4090", layout=layout, host_memory="500GB", **asked))
    assert "Does not fit: the host of a node must hold 526 GiB, and has 466 GiB" in found.verdict
    assert "short by 60.0 GiB on the host" in found.way_out
    assert memory(job("llama-3-70b", "RTX 4090", layout=layout, host_memory="1TB", **asked)).fits


def test_imbalance_is_at_most_the_experts() -> None:
    layout = {"dp": 8, "ep": 8}
    assert memory(job("mixtral-8x7b", layout=layout, expert_imbalance=8.0, kernels="megatron")).device_bytes > 0
    with pytest.raises(LLMHWError, match="expert_imbalance=9 must be at most the experts of a layer of mixtral"):
        job("mixtral-8x7b", layout=layout, expert_imbalance=9.0)


def test_many_micro_batches_take_no_longer() -> None:
    """Nothing walks over them, which would take minutes."""
    asked = job(layout={"pp": 8, "schedule": "gpipe"}, global_batch=80_000_000)
    assert not memory(asked).fits
    assert memory(asked).next_steps()[0].startswith("schedule='1f1b'")
    assert train(asked).mfu > 0
    with pytest.raises(LLMHWError, match="is too long an order to write down; use at most 300,000"):
        pipeline_actions("gpipe", 8, micro_batches=80_000_000)


def test_memory_as_numbers() -> None:
    found = memory(job(layout={"pp": 2}, global_batch=2))
    assert isinstance(found, JobMemory)
    assert list(found.to_frame().columns) == [0, 1]
    assert found.to_dict()["stages"][0]["total"] == found.stages[0].total
    assert "micro_batches_in_flight" not in found.explain("weights")
    assert "saved_bytes" in found.explain("activations", stage=1)


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ({"tp": 3}, {}, "tp=3 does not divide heads=32; use one of 1, 2, 4, 8, 16, 32"),
        ({"pp": 5}, {}, "pp x vpp=5 does not divide layers=32"),
        ({"dp": 2}, {"global_batch": 3}, "micro_batch x dp = 1 x 2 does not divide global_batch=3"),
        ({"ep": 2, "dp": 2}, {}, "ep=2 spreads experts, and llama-3-8b has none"),
        ({"cp": 3}, {"seq_len": 4096}, "cp=3 cuts a sequence into 6 parts"),
        ({"pp": 2, "vpp": 2}, {"global_batch": 3}, "multiples of pp=2"),
        ({}, {"recompute": "some"}, "recompute='some' is not known"),
        ({}, {"recompute": "block"}, "recompute_layers=0 must be between 1 and the 32 layers"),
    ],
)
def test_impossible_layouts_name_the_rule(layout: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        job(layout=layout, **options)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"tp": 0}, "tp=0 must be a whole number of at least 1"),
        ({"zero": 4}, "zero=4 is not a stage"),
        ({"vpp": 2}, "vpp=2 splits pipeline stages, and pp=1 has none"),
        ({"schedule": "interleaved", "pp": 2}, "needs vpp of at least 2"),
        ({"sequence_parallel": True}, "splits over the tp ranks, and tp=1"),
        ({"replicas": 2, "dp": 2}, "replicas=2 is HSDP"),
        ({"replicas": 3, "dp": 2}, "replicas=3 does not divide dp=2"),
        ({"ep": 3, "dp": 2}, "ep x expert_tp = 3 x 1 does not divide dp x cp x tp = 2"),
        ({"schedule": "fifo"}, "schedule='fifo' is not known"),
    ],
)
def test_impossible_parallelism(layout: dict[str, Any], message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        Parallelism(**layout)


def test_cluster_and_layout_must_agree() -> None:
    with pytest.raises(LLMHWError, match="= 4 is not the cluster's 8 devices"):
        TrainingJob(model=LLAMA, cluster=llmhw.Cluster("h100", 8), parallelism=Parallelism(dp=4))
    with pytest.raises(LLMHWError, match="tp x pp x cp = 3 x 1 x 1 = 3 does not divide devices=8"):
        data_parallel(devices=8, tp=3)


def test_tensor_parallel_over_all_devices_leaves_zero_nothing() -> None:
    with_zero = memory(job(layout={"tp": 8, "zero": 3}))
    without = memory(job(layout={"tp": 8}))
    assert with_zero.stages[0]["weights"] == without.stages[0]["weights"]
    assert with_zero.allocated_bytes == without.allocated_bytes


# -- the whole estimate -----------------------------------------------------------------------

ON_64 = {"dp": 2, "tp": 4, "pp": 8, "zero": 1, "sequence_parallel": True}


def estimate(model: str = "llama-3-70b", run: dict[str, Any] | None = None, **options: Any) -> TrainingEstimate:
    asked = Parallelism(**(options.pop("layout", ON_64)))
    network = llmhw.Link("given", "scale-out", 50e9)
    cluster = llmhw.Cluster(options.pop("gpu", "h100"), asked.devices, inter_link=network)
    sizes = {"seq_len": 4096, "global_batch": 64} | options
    return train(TrainingJob(model=llmhw.model(model), cluster=cluster, parallelism=asked, **sizes), **(run or {}))


def test_rates_are_the_step_s() -> None:
    found = estimate()
    assert found.step_seconds == time_step(found.job).total == sum(found.time.parts.values())
    assert found.tokens_per_second * found.step_seconds == pytest.approx(64 * 4096)
    assert found.tokens_per_second == pytest.approx(64 * found.tokens_per_second_per_device)
    low, high = found.step_seconds_interval
    assert low < found.step_seconds < high
    flops = llmhw.training_flops(found.job.model, batch=64, seq_len=4096).total
    assert found.mfu == pytest.approx(flops / found.step_seconds / 64 / found.job.cluster.accelerator.peak("bf16"))
    assert found.memory.allocated_bytes == memory(found.job).allocated_bytes


@pytest.mark.parametrize(("recompute", "shares"), [("none", 1), ("selective", 1), ("full", 4 / 3)])
def test_hfu_counts_what_is_recomputed(recompute: str, shares: float) -> None:
    """Fused attention recomputes its scores in any case; full recompute is a third more, the head left out."""
    found = estimate(recompute=recompute)
    assert found.hfu / found.mfu == pytest.approx(shares, rel=0.02)


def test_hfu_of_a_block_is_its_share_of_full() -> None:
    full, half = estimate(recompute="full"), estimate(recompute="block", recompute_layers=5)
    assert (half.hfu / half.mfu - 1) / (full.hfu / full.mfu - 1) == pytest.approx(1 / 2)


def test_frozen_weights_cost_a_backward_pass_of_half() -> None:
    flops = [found.mfu * found.step_seconds for found in (estimate(), estimate(frozen=True))]
    assert flops[1] / flops[0] == pytest.approx(2 / 3)


def test_the_run_is_made_of_steps() -> None:
    given = {"tokens": 1e12, "price": 2.0, "mtbf_device_hours": float("inf")}
    found = estimate(run=given)
    assert found.run.steps == -(-(10**12) // (64 * 4096))
    assert found.run.days_without_failures == pytest.approx(found.run.steps * found.step_seconds / 86400)
    assert found.run.dollars == pytest.approx(2 * found.run.device_hours)
    assert found.run.days_high is not None
    assert found.run.days_high / found.run.days == pytest.approx(found.step_seconds_interval[1] / found.step_seconds)
    # without --tokens, 20 a parameter
    assert estimate().run.tokens == 20 * found.job.model.parameters.total


def test_constants_of_ones_own() -> None:
    known = read_calibration("training_time")
    slower = {**known, "common": {**known["common"], "bandwidth": known["common"]["bandwidth"] / 2}}
    found, worse = estimate(), estimate(run={"calibration": slower})
    assert worse.time.parts["elementwise"] > 1.5 * found.time.parts["elementwise"]
    assert worse.bounds["elementwise"][1] == worse.time.parts["elementwise"]
    for wrong in ({}, read_calibration("training_memory")):
        with pytest.raises(
            LLMHWError, match="calibration has no common, links, families, switches, interval, so it is not"
        ):
            estimate(run={"calibration": wrong})


def test_software_is_that_of_the_kernels_unless_it_is_named() -> None:
    assert estimate().job.software == "torchtitan"
    assert estimate(kernels="megatron").job.software == "megatron-bridge"
    eager, compiled = estimate(software="torchtune"), estimate(software="torchtitan")
    assert eager.step_seconds > compiled.step_seconds


def test_an_estimate_as_numbers() -> None:
    found = estimate(run={"tokens": 1e12})
    plain = found.to_dict()
    asked = {"dp", "tp", "pp", "vpp", "cp", "ep", "expert_tp", "zero", "replicas", "schedule", "sequence_parallel"}
    asked |= {"micro_batch", "global_batch", "seq_len", "precision", "optimizer", "compute", "recompute", "kernels"}
    assert set(plain) - asked == {
        *("verdict", "fits", "warnings", "next_steps"),
        *("model", "device", "devices", "software", "step_seconds", "step_seconds_interval", "step_parts"),
        "step_seconds_interval_is_of",
        *("tokens_per_step", "tokens_per_second", "tokens_per_second_per_device", "mfu", "hfu", "memory", "run"),
    }
    assert sum(plain["memory"]["parts"].values()) == pytest.approx(plain["memory"]["total"])
    assert sum(part["estimate"] for part in plain["step_parts"].values()) == pytest.approx(found.step_seconds)
    row = found.to_row()
    assert sum(row[f"seconds_{name.replace(' ', '_').replace('-', '_')}"] for name in PARTS) == found.step_seconds
    assert not any(isinstance(value, (dict, list, tuple)) for value in row.values())
    assert row["dollars"] == found.run.dollars
    assert (row["price_region"], row["price_date"]) == (found.run.price.region, found.run.price.date)
    assert found.to_frame()["estimate"].sum() == pytest.approx(found.step_seconds)


def test_what_has_no_price_or_power_says_so() -> None:
    found = estimate("llama-3-8b", gpu="tpu v5e", layout={"dp": 8, "zero": 3}, run={"kind": "spot"})
    row = found.to_row()
    assert row["energy_kwh"] is None
    assert "is not published" in str(found)


def test_a_job_that_does_not_fit_is_an_answer() -> None:
    found = estimate(layout={"dp": 8})
    assert not found.memory.fits
    assert "it does not fit: short by" in str(found)
    assert found.step_seconds > 0


def test_no_cost_before_the_verdict() -> None:
    """Of a job that does not fit, what it would cost comes after that, under its heading; numbers say it first too."""
    found = estimate(layout={"dp": 8, "tp": 8})
    assert found.verdict == found.memory.verdict
    assert "$" not in found.verdict
    names = [line[0] for line in found.summary()]
    assert names[:3] == ["memory", "if it fitted", "step"]
    assert found.explain("if it fitted") == found.verdict
    row = found.to_row()
    asked = list(row)[: list(row).index("fits")]
    assert asked[:3] == ["model", "device", "devices"]
    assert asked[-1] == "software"
    assert not any(name.endswith(("seconds", "dollars", "bytes")) for name in asked)
    assert row["fits"] is False
    steps = found.next_steps()
    assert [step.partition(":")[0] for step in steps] == [step.partition(":")[0] for step in found.memory.next_steps()]
    made = changed(found.job, changes(steps[0]))
    assert made is not None
    assert steps[0].endswith(f"step {format_quantity(time_step(made).total, 'seconds')}")
    good = estimate(layout={"dp": 8, "tp": 8, "zero": 3}, recompute="full")
    assert good.verdict.startswith("Fits: ")
    assert ", MFU " in good.verdict
    assert "if it fitted" not in str(good)


def test_a_bubble_is_said_and_its_remedy_tried() -> None:
    layout = {"dp": 4, "tp": 8, "pp": 16, "uneven": True}
    options: dict[str, Any] = {"seq_len": 8192, "recompute": "full"}
    found = estimate("llama-3.1-405b", layout=layout | {"zero": 1}, global_batch=4, **options)
    assert found.mfu < 0.1
    assert any("MFU is " in line and "% of the step is pipeline bubble" in line for line in found.warnings())
    if found.memory.fits:
        better = changed(found.job, changes(found.next_steps()[0]))
        assert better is not None
        assert better.global_batch == 128 * 4
        assert f"MFU {format_quantity(train(better).mfu, 'fraction')} in place of" in found.next_steps()[0]
    filled = estimate("llama-3.1-405b", layout=layout, global_batch=None, **options)
    assert filled.mfu > 0.3
    assert not any("of the step is" in line for line in filled.warnings())


def test_a_value_and_its_interval_have_one_unit() -> None:
    for seq_len in (512, 2048, 8192):
        found = estimate(layout={"dp": 8, "zero": 3}, seq_len=seq_len, recompute="full", run={"tokens": 4e8})
        for name, value, origin in found.summary():
            if name in ("step", "time"):
                low, high = origin.split(" to ")
                assert value.split()[-1] == low.split()[-1] == high.split()[-1]
        for _, *times, _ in found.rows():
            assert len({text.split()[-1] for text in times}) == 1


def test_adapters_have_a_run_of_their_own() -> None:
    found = estimate(frozen=True, recompute="full")
    assert found.run.tokens == 1e8
    assert found.run.checkpoint_seconds == 0
    assert any(line.startswith("assumed tokens=1") for line in found.run.footer())
    assert estimate(recompute="full").run.defaults[0].value == 20 * llmhw.model("llama-3-70b").parameters.total


def test_an_imbalance_below_one_is_no_imbalance() -> None:
    for wrong in (0.9, 0, -1, float("nan"), float("inf")):
        with pytest.raises(LLMHWError, match=r"expert_imbalance=.* must be a number of at least 1"):
            job(expert_imbalance=wrong)


def test_a_run_that_never_finishes_has_no_days_in_any_form() -> None:
    found = estimate(recompute="full", run={"mtbf_device_hours": 1e-2, "price": 2})
    told, row = found.to_dict()["run"], found.to_row()
    for name in ("days", "days_low", "days_high", "device_hours", "dollars", "dollars_high", "energy_kwh"):
        assert told[name] is row[name] is None, name
    assert "Never finishes" in found.verdict
    assert "Never finishes" not in estimate(recompute="full").verdict


def test_modules_that_run_again() -> None:
    """By Megatron-Core's names: less is kept, a forward pass is timed once more, and wrong names are told."""
    layout = {"dp": 8, "ep": 8}
    plain = job("deepseek-v2-lite", kernels="megatron", layout=layout)
    held = {name: memory(replace(plain, recompute_modules=name)) for name in MODULES}
    bare, seconds = memory(plain), time_step(plain).parts.get("recompute", 0.0)
    for name, found in held.items():
        assert found.allocated_bytes <= bare.allocated_bytes, name
        assert time_step(found.job).parts["recompute"] > seconds == 0, name
    kept = {name: float(found.stages[0]["activations"]) for name, found in held.items()}
    assert kept["moe"] < kept["moe_act"] < float(bare.stages[0]["activations"])
    # queries of 192 and keys and values of 192 and 128 for each of 16 heads, in 27 layers
    up = 27 * plain.seq_len * 16 * (192 + 192 + 128) * 2
    assert float(bare.stages[0]["activations"]) - kept["mla_up_proj"] == pytest.approx(up, rel=0.01)
    assert replace(plain, recompute_modules="moe_act layernorm").recompute_modules == "layernorm,moe_act"
    with pytest.raises(LLMHWError, match="recompute_modules='moe_at' is not known; did you mean moe_act"):
        replace(plain, recompute_modules="moe_at")
    with pytest.raises(LLMHWError, match="recompute_modules='mlp' has no effect here"):
        memory(job(recompute_modules="mlp"))


def test_a_stage_that_is_dealt_no_layer_holds_nothing() -> None:
    """Stages dealt by cost, beside a head that costs as much as many layers: `optimizer_in_backward` looks at all."""
    layout = Parallelism(dp=2, tp=2, pp=16, sequence_parallel=True, by_cost=True)
    job = TrainingJob(model=llmhw.model("internvl3-1b"), cluster=llmhw.Cluster("RTX 2060 Laptop", 64), micro_batch=16,
                      parallelism=layout, optimizer_in_backward=True, global_batch=32)  # fmt: skip
    held = [float(stage.total) for stage in memory(job).stages]
    assert held[14] == 0 < held[15]
