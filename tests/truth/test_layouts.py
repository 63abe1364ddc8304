"""Published layouts in the search: valid, no faster than the best that is found, and near the top."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmhw.catalog import read_measurements, read_table
from llmhw.job import TrainingJob
from llmhw.service import serve
from llmhw.step_time import time_step
from llmhw.training import memory
from llmhw.validation.layouts import OF_2021, PublishedLayout, filled_in, published_layouts, standing

TRAINING, SERVING = published_layouts("training"), published_layouts("serving")
# 61 layers on 16 stages without gathered weights: DeepSeek keeps activations in fp8, which is not modelled.
TOO_LARGE = {"DeepSeek-V3 on 2,048"}


@pytest.mark.parametrize("layout", TRAINING, ids=lambda one: one.name)
def test_a_published_layout_of_training_is_in_the_search(layout: PublishedLayout) -> None:
    """It keeps all rules, fits, and is found with the numbers of the single prediction."""
    found, fits = filled_in(layout)
    own: TrainingJob = found.job
    for name, value in layout.stated.items():
        if name not in ("sharding", "schedule", "recompute", "sequence_parallel"):
            assert getattr(own.layout, name) == value, name
    assert own.parallelism.devices == layout.job.cluster.devices
    assert fits == (layout.name not in TOO_LARGE)
    assert found.seconds == pytest.approx(time_step(own).total, rel=1e-9)
    assert found.device_bytes == pytest.approx(memory(own).device_bytes, rel=1e-9)


# Whole spaces, or large parts of them; `benchmarks/layouts.py` has every layout in its whole space.
PLACED: dict[str, dict[str, Any]] = {
    "175B on 384, 2021": {"sharding": ((0, 1),)},
    "175B on 1,536, 2021": OF_2021,
    "175B on 64, 2022": {},
    "1T on 512, 2022": {},
    "Llama 3 405B on 8,192": {},
    "Llama 3 405B on 16,384": {},
    "Llama 3 405B on 16,384, 128K": {},
    "DeepSeek-V3 on 2,048": {"expert_tp": 1, "cp": 1, "micro_batch": 1, "sharding": ((1, 1),), "vpp": (1, 2)},
    "Llama 3 70B on 64 H100": {},
    "Llama 3 405B on 1,024 H100": {},
    "Llama 3 405B on 256 GB200, mxfp8": {},
    "Qwen3-30B-A3B on 8 GB200": {"expert_tp": 1},
}


@pytest.mark.parametrize("name", PLACED)
def test_the_search_is_as_fast_as_what_was_published_which_is_near_the_top(name: str) -> None:
    layout = next(one for one in TRAINING if one.name == name)
    where = standing(layout, **PLACED[name])
    assert where.best.seconds <= where.own.seconds
    assert where.fitting > 50
    assert (where.share > 0.1) == bool(layout.why), where.best


@pytest.mark.parametrize("layout", SERVING, ids=lambda one: f"{one} {one.job.engine}")
def test_what_engines_recommend_is_in_the_top_three(layout: PublishedLayout) -> None:
    where = standing(layout)
    assert where.best.seconds <= where.own.seconds
    assert where.faster < 3, where.best
    assert where.slower < 1.1


@pytest.mark.parametrize("number", [1, 13, 17], ids=lambda n: str(SERVING[n]))
def test_a_recommended_layout_is_served_as_fast_as_the_search_says(number: int) -> None:
    layout = SERVING[number]
    found = standing(layout).own
    job = replace(found.job, max_model_len=layout.load["input_tokens"] + layout.load["output_tokens"])
    assert 1 / found.seconds == pytest.approx(serve(job, **layout.load).point.tokens_per_second, rel=1e-9)


def test_layouts_are_of_many_models_and_two_engines() -> None:
    assert len({one.job.model.name for one in SERVING}) >= 8
    assert set(Counter(one.job.engine for one in SERVING)) == {"vllm", "tensorrt-llm"}


def test_every_layout_has_a_source_and_a_date_and_its_measurement_is_there() -> None:
    known = {row["id"] for row in read_measurements("training_throughput")}
    for row in read_table("layouts"):
        assert row["source"]
        assert row["date"][:2] == "20"
        assert not row["measured"] or row["measured"] in known


def test_rows_of_nvidia_are_those_of_its_recipes() -> None:
    """Sizes of the rows above are the settings of NVIDIA's own scripts, which are a source of their own."""
    path = Path(__file__).parents[2] / "benchmarks" / "bridge_recipes.csv"
    with path.open(newline="", encoding="utf-8") as file:
        recipes = {
            (r["model"], r["n_gpus"], r["compute"], r["tp"], r["pp"], r["cp"], r["ep"], r["micro_batch"])
            for r in csv.DictReader(file)
            if r["task"] == "pretrain"
        }
    nvidia = [one for one in TRAINING if "Megatron-Bridge" in one.source]
    assert len(nvidia) >= 9
    for one in nvidia:
        job: Any = one.job
        x, name = job.layout, job.model.name.replace("llama-3.1-", "llama3-").replace("llama-3-", "llama3-")
        sizes = (job.cluster.devices, job.compute_format, x.tp, x.pp, x.cp, x.ep, x.micro_batch)
        assert (name, *map(str, sizes)) in recipes, one.name


def test_readme_counts_them() -> None:
    text = " ".join((Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").split())
    trained, served = (published_layouts(kind) for kind in ("training", "serving"))
    high = sum(not layout.why for layout in trained)
    assert f"all {len(trained)} of Llama 3 405B" in text
    assert f"and {high} are in the first tenth" in text
    assert f"All {len(served)} layouts that vLLM and TensorRT-LLM recommend" in text
