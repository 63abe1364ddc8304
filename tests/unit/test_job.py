"""A job keeps what was asked, and answers for the rest again after every change."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace

import pytest

from llmhw.cost import RunOptions, training_run
from llmhw.hardware import Cluster
from llmhw.job import Parallelism, ServingJob, TrainingJob
from llmhw.model import model
from llmhw.step_time import time_step
from llmhw.training import memory, train
from llmhw.units import LLMHWError


def training(name: str = "gpt2", **options: object) -> TrainingJob:
    return TrainingJob(model=model(name), cluster=Cluster("h100", 1), **options)  # type: ignore[arg-type]


def serving(**options: object) -> ServingJob:
    return ServingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 1), **options)  # type: ignore[arg-type]


def test_a_format_follows_the_precision() -> None:
    changed = replace(training(), precision="fp32")
    assert (training().compute_format, changed.compute_format) == ("bf16", "fp32")
    assert train(changed).to_row()["compute"] == "fp32"
    # what was asked is kept, even where it is what had followed
    assert replace(training(), compute="bf16", precision="fp32").compute_format == "bf16"
    assert replace(training(compute="bf16"), precision="fp32").compute_format == "bf16"


def test_a_schedule_follows_the_chunks() -> None:
    layout = Parallelism(pp=2, vpp=2)
    assert (layout.schedule, layout.pipeline_schedule) == ("1f1b", "interleaved")
    assert replace(layout, vpp=1) == Parallelism(pp=2)
    assert replace(layout, vpp=1).pipeline_schedule == "1f1b"
    assert replace(layout, schedule="zero-bubble").pipeline_schedule == "zero-bubble"


def test_a_batch_follows_the_micro_batch_and_the_ranks() -> None:
    eight = TrainingJob(model=model("gpt2"), cluster=Cluster("h100", 8), parallelism=Parallelism(dp=8), micro_batch=2)
    assert (eight.batch, eight.micro_batches) == (16, 1)
    assert replace(eight, micro_batch=3).batch == 24
    assert replace(eight, parallelism=Parallelism(dp=4, tp=2), model=model("llama-3-8b")).batch == 8
    assert train(replace(eight, seq_len=1024), tokens=1e9).to_row()["global_batch"] == 16
    assert replace(eight, global_batch=48).micro_batches == 3


def test_pages_follow_the_engine_and_lengths_the_model() -> None:
    changed = replace(serving(), engine="llama.cpp")
    assert (serving().page_tokens, changed.page_tokens) == (16, 1)
    assert replace(serving(page_size=32), engine="sglang").page_tokens == 32
    assert replace(serving(), model=model("llama-3.1-8b")).context_limit == 131072
    assert replace(serving(max_model_len=4096), model=model("llama-3.1-8b")).context_limit == 4096


@pytest.mark.parametrize(
    ("name", "kernels", "trained"),
    [("gpt2", "megatron", True), ("llama-3.2-1b", "megatron", False), ("gpt2", "torch", False)],
)
def test_dropout_is_the_same_in_memory_and_time(name: str, kernels: str, trained: bool) -> None:
    asked = training(name, kernels=kernels, seq_len=1024)
    assert asked.dropout_masks is trained
    given = replace(asked, dropout=trained)
    assert time_step(asked).total == time_step(given).total
    assert memory(asked).allocated_bytes == memory(given).allocated_bytes
    assert replace(asked, kernels="megatron").dropout_masks is (name == "gpt2")
    if trained:
        without = replace(asked, dropout=False)
        assert time_step(without).parts["elementwise"] < time_step(asked).parts["elementwise"]
        assert memory(without).allocated_bytes < memory(asked).allocated_bytes


@pytest.mark.parametrize("made", [Parallelism, TrainingJob, ServingJob, RunOptions])
def test_the_docstring_lists_the_fields(made: type) -> None:
    lines = inspect.getdoc(made).splitlines()  # type: ignore[union-attr]
    first = [line.split("  ")[0] for line in lines]
    for f in fields(made):
        assert (f.name in first) is bool(f.metadata), f.name
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_batch": 0}, "global_batch=0 must be a whole number of at least 1"),
        ({"compute": ""}, "compute='' is not known; use one of fp32, tf32"),
        ({"micro_batch": None}, "micro_batch=None must be given; its default is 1"),
        ({"frozen": 1e30}, r"frozen=1e\+30 must be True or False"),
        ({"optimizer": 8}, "optimizer=8 must be a name"),
        ({"micro_batch": 1.5}, "micro_batch=1.5 must be a whole number"),
        ({"recompute_layers": -1}, "recompute_layers=-1 must be a whole number of at least 0"),
        ({"expert_imbalance": float("inf")}, "expert_imbalance=inf must be a number of at least 1"),
    ],
)
def test_a_field_is_checked_by_itself(options: dict[str, object], message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        training(**options)
    assert training(micro_batch=2.0).micro_batch == 2


def test_a_run_takes_options_or_their_names() -> None:
    asked = RunOptions(price=2.0, pue=1.1)
    sizes = {"step_seconds": 1, "tokens_per_step": 1e6, "tokens": 1e9, "flops_per_token": 1e9, "checkpoint_bytes": 1e9}
    found = training_run(asked, cluster=Cluster("h100", 8), pue=1.3, **sizes)  # type: ignore[arg-type]
    assert found == training_run(price=2.0, pue=1.3, cluster=Cluster("h100", 8), **sizes)  # type: ignore[arg-type]
    assert {"pue", "power_fraction"} & {d.argument for d in found.defaults} == {"power_fraction"}
