"""Search: the numbers of the single answers, the best layout of brute force, and why the others were refused."""

from __future__ import annotations

import itertools
import os
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmhw
from llmhw.job import Parallelism, TrainingJob
from llmhw.search import Space, _Grid, search
from llmhw.step_time import time_step
from llmhw.training import memory
from llmhw.units import LLMHWError

# All 10,000 of a long run take about a minute: LLMHW_SEARCH_SAMPLES=10000
FEW = 600
SAMPLES = int(os.environ.get("LLMHW_SEARCH_SAMPLES", FEW))


def cluster(devices: int, device: str = "h100") -> llmhw.Cluster:
    return llmhw.Cluster(device, devices, inter_link="infiniband ndr")


def job(name: str, devices: int = 64, **options: Any) -> TrainingJob:
    asked = {"global_batch": 256, "seq_len": 2048, "kernels": "megatron"} | options
    return TrainingJob(model=llmhw.model(name), cluster=cluster(devices), parallelism=Parallelism(dp=devices), **asked)


# -- equal to the single answer ---------------------------------------------------------------

CASES = [
    ("llama-3-8b", {}),
    ("llama-3-8b", {"kernels": "torch"}),
    ("llama-3-70b", {"compute": "fp8", "precision": "bf16-mixed-fp32-grads"}),
    ("gpt2-xl", {"attention": "eager", "seq_len": 1024}),
    ("gpt2-xl", {"attention": "eager", "seq_len": 1024, "kernels": "torch", "dropout": False}),
    ("mixtral-8x7b", {"expert_imbalance": 1.3}),
    ("mixtral-8x7b", {"kernels": "torch", "precision": "fp32-bf16"}),
    ("deepseek-v3", {}),
    ("deepseek-v3", {"recompute_modules": "layernorm mla_up_proj moe_act"}),
    ("qwen3-30b-a3b", {"optimizer": "adamw-bf16"}),
    ("qwen3-30b-a3b", {"kernels": "torch"}),
    ("gemma-3-27b", {"kernels": "torch"}),
    ("gpt-oss-20b", {"optimizer": "muon"}),
    ("phi-3-mini", {"kernels": "torch", "optimizer": "adafactor"}),
    ("llama-4-scout", {"optimizer": "adamw-8bit"}),
    ("opt-6.7b", {"frozen": True}),
]
SPACE: dict[str, Any] = {
    "sharding": ((0, 1), (1, 1), (2, 1), (3, 1), (3, 2), (3, 4)),
    "recompute": ("none", "selective", "full"),
    "schedule": ("1f1b", "zero-bubble", "gpipe"),
    "offload": ("none", "optimizer"),
}
if SAMPLES == FEW:  # few layouts need no wide axes: PyTorch's tape runs once for each place on these
    SPACE |= {"micro_batch": (1, 4), "cp": (1, 2, 8)}


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
@pytest.mark.parametrize("cp_kind", ["ring", "all-gather"])
def test_arrays_give_the_single_answer(name: str, options: dict[str, Any], cp_kind: str) -> None:
    """Time and memory of layouts drawn from all that are valid, each computed alone."""
    asked = job(name, **options)
    asked = replace(asked, parallelism=replace(asked.parallelism, cp_kind=cp_kind))
    draw, wanted = random.Random(f"{name} {options}"), SAMPLES // (2 * len(CASES))
    with np.errstate(all="ignore"):
        space = Space.of(asked, [8, 64], SPACE)
        grid = _Grid(asked, [cluster(8), cluster(64)], space, None)
        shapes = list(grid.structures(search_counter := _counter()))
        checked = 0
        for shape in draw.sample(shapes, min(len(shapes), 12)):
            x = grid.numbers(shape)
            valid = np.argwhere(grid.valid(x, search_counter))
            if not len(valid):
                continue
            seconds, held = grid.evaluate(shape, x)
            for row in draw.sample(range(len(valid)), min(len(valid), max(1, wanted // 6))):
                at = tuple(valid[row])
                one = grid.found(shape, x, seconds, held, int(np.ravel_multi_index(at, grid.shape))).job
                assert seconds[at] == pytest.approx(time_step(one).total, rel=1e-12)
                assert held[at] == pytest.approx(memory(one).device_bytes, rel=1e-12)
                checked += 1
    assert checked >= min(wanted, 6)


def _counter() -> Any:
    from collections import Counter

    return Counter[str]()


# -- equal to brute force ---------------------------------------------------------------------

TINY: dict[str, Any] = {
    "model_type": "mixtral",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 6,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
}


@settings(max_examples=3, deadline=None, derandomize=True, database=None)
@given(
    devices=st.sampled_from([8, 16]),
    batch=st.sampled_from([16, 48, 64]),
    kernels=st.sampled_from(["torch", "megatron"]),
    held_back=st.sampled_from([1.0, 0.9985, 0.99905]),
)
def test_the_best_layout_is_that_of_brute_force(devices: int, batch: int, kernels: str, held_back: float) -> None:
    """Every combination is built as a job: those that raise are the refused ones, the fastest that fits is the best."""
    whole = llmhw.accelerator("h100")
    device = replace(whole, name="small", memory_bytes=int(whole.memory_bytes * (1 - held_back) + 3.2e9))
    place = llmhw.Cluster(device, devices, 8, inter_link="infiniband ndr", intra_link="NVLink 4")
    spec = llmhw.ModelSpec.from_config(TINY)
    asked = TrainingJob(
        model=spec, cluster=place, parallelism=Parallelism(dp=devices), global_batch=batch, seq_len=512, kernels=kernels
    )
    axes: dict[str, Any] = {
        "tp": (1, 4), "pp": (1, 2), "vpp": (1, 3), "cp": (1, 2), "ep": (1, 4), "expert_tp": (1, 2),
        "micro_batch": (1, 2), "sequence_parallel": (False, True), "sharding": ((1, 1), (3, 1), (3, 2)),
        "recompute": ("none", "full"), "uneven": (False, True),
    }  # fmt: skip
    found = search(asked, best=1, price=1.0, **axes)
    jobs = []
    for tp, pp, vpp, cp, ep, etp, mb, sp, (zero, copies), mode in itertools.product(*list(axes.values())[:10]):
        if devices % (tp * pp * cp) or (pp == 1 and vpp > 1):
            continue
        try:
            layout = Parallelism(
                dp=devices // (tp * pp * cp), tp=tp, pp=pp, vpp=vpp, cp=cp, ep=ep, expert_tp=etp, zero=zero,
                replicas=copies, sequence_parallel=sp, uneven=6 % (pp * vpp) != 0,
            )  # fmt: skip
            if layout.uneven and 8 % (pp * vpp):
                continue
            jobs.append(replace(asked, parallelism=layout, micro_batch=mb, recompute=mode))
        except LLMHWError:
            continue
    assert found.valid == len(jobs)
    assert found.tried == found.valid + sum(n for rule, n in found.refused.items() if rule not in BEFORE)
    held = [memory(one) for one in jobs]
    fitting = [(one, here.device_bytes) for one, here in zip(jobs, held, strict=True) if here.fits]
    assert found.fitting == len(fitting)
    if not fitting:
        assert not found.best
        assert found.closest is not None
        assert found.closest.device_bytes == pytest.approx(min(here.device_bytes for here in held))
        return
    times = [time_step(one).total for one, _ in fitting]
    assert found.best[0].seconds == pytest.approx(min(times), rel=1e-12)
    alone = next(time for time, (one, _) in zip(times, fitting, strict=True) if one == found.best[0].job)
    assert found.best[0].seconds == pytest.approx(alone, rel=1e-12)
    # nothing that fits is faster and smaller than what is on the front
    for time, (_, held_bytes) in zip(times, fitting, strict=True):
        here = (time * (1 + 1e-9), held_bytes * (1 + 1e-9))
        assert any(other.seconds <= here[0] and other.device_bytes <= here[1] for other in found.front)


# Not refused by a rule of a layout: structures that were never numbers, and what is valid but too large.
BEFORE = ("memory", "pp x vpp divides layers")


# -- what it returns --------------------------------------------------------------------------


def test_many_devices_and_the_front() -> None:
    asked = job("llama-3-8b", 8)
    places = [cluster(n, device) for device in ("h100", "A100 80GB SXM") for n in (8, 16, 64)]
    found = search(asked, places, best=5)
    seconds = [one.seconds for one in found.best]
    assert seconds == sorted(seconds)
    assert {one.job.cluster.accelerator.name for one in found.front} == {"H100 SXM5 80GB", "A100 80GB SXM4"}
    keys = [(one.seconds, one.devices, one.device_bytes, one.dollars) for one in found.front]
    for one, other in itertools.permutations(keys, 2):
        assert not all(a <= b for a, b in zip(one, other, strict=True))
    best = search(asked, places, best=1, price=2.0).best[0]
    assert best.dollars == pytest.approx(best.seconds / 3600 * best.devices * 2.0)
    assert llmhw.train(best.job, price=2.0).step_seconds == pytest.approx(best.seconds)


def test_what_was_refused_adds_up() -> None:
    found = search(job("llama-3-8b", 8), best=1)
    assert found.tried == found.valid + sum(n for rule, n in found.refused.items() if rule not in BEFORE)
    assert found.refused["memory"] == found.valid - found.fitting > 0
    assert f"{found.refused['memory']:,} refused: memory" in str(found)


def test_layers_that_nothing_divides_are_dealt_unevenly() -> None:
    """61 layers, 63 with embedding and head: DeepSeek-V3 ran on 16 stages."""
    found = search(job("deepseek-v3", 256), pp=(16, 32, 64), vpp=(1, 2), tp=8, ep=(2, 4, 8), best=500)
    assert {one.job.parallelism.pp for one in found.best} == {16, 32}
    assert all(one.job.parallelism.uneven for one in found.best)
    even = search(job("deepseek-v3", 256), pp=16, tp=8, ep=8, uneven=False)
    assert not even.tried


def test_how_many_are_faster_than_one() -> None:
    asked = job("llama-3-8b", 8)
    every = search(asked, best=10_000)
    seconds = [one.seconds for one in every.best]
    assert len(seconds) == every.fitting
    assert every.faster is None
    for place in (0, 7, 100):
        faster = search(asked, than=seconds[place]).faster
        assert faster == sum(one < seconds[place] for one in seconds)
    assert search(asked, than=seconds[7]).to_dict()["faster"] <= 7


def test_axes_that_are_held() -> None:
    found = search(job("llama-3-8b", 64), tp=8, pp=(1, 2), sharding=((1, 1),), recompute="full", best=50)
    assert {one.job.parallelism.tp for one in found.best} == {8}
    assert {one.job.recompute for one in found.best} == {"full"}
    assert {one.job.parallelism.zero for one in found.best} == {1}


def test_what_never_fits_says_by_how_much() -> None:
    found = search(job("llama-3.1-405b", 8), best=3)
    assert not found.best
    assert found.closest is not None
    assert "none fits; the closest is short by " in str(found)


def test_pieces_give_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays are cut so that memory stays small; what is found does not depend on how."""
    asked, places = job("mixtral-8x7b", 8), [cluster(n) for n in (8, 16, 32)]
    whole = search(asked, places, best=20)
    monkeypatch.setattr("llmhw.search._MOST_POINTS", 5_000)
    pieces = search(asked, places, best=20)
    assert [one.seconds for one in pieces.best] == [one.seconds for one in whole.best]
    assert (pieces.tried, pieces.valid, pieces.fitting) == (whole.tried, whole.valid, whole.fitting)
    assert pieces.refused == whole.refused
    assert len(pieces.front) == len(whole.front)


def test_the_name_is_a_function_and_a_module() -> None:
    import llmhw.search as room

    assert room.Space is Space
    assert llmhw.search(job("gpt2", 8, seq_len=1024), best=1).best


def test_readme_shows_what_search_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"```python\n([^`]*llmhw\.search\([^`]*)```\n\n```text\n([^`]*)```", text)
    assert ["Training" in code for code, _ in shown] == [True, False]
    for code, lines in shown:
        exec(code, {})
        printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
        assert [line for line in lines.splitlines() if line not in printed] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tpp": 8}, "tpp=8 is no axis of the search; use cp, ep"),
        ({"clusters": []}, r"clusters=\[\] is empty"),
        ({"recompute": "fill"}, "recompute='fill' is not known"),
        ({"best": 0}, "best=0 must be a whole number of at least 1"),
        ({"than": 0}, "than=0 must be a number above 0"),
        ({"schedule": "2f2b"}, "schedule='2f2b' is not known"),
        ({"tp": (0, 2)}, "tp=0 must be a whole number of at least 1"),
        ({"sharding": ((4, 1),)}, "zero=4 is not a stage"),
    ],
    ids=str,
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        search(job("llama-3-8b", 8), **options)


def test_a_network_that_is_needed_and_not_given() -> None:
    asked = job("llama-3-8b", 8)
    with pytest.raises(LLMHWError, match="inter_link of 16 x H100"):
        search(asked, [llmhw.Cluster("h100", 16)])


@pytest.mark.parametrize("layout", [{}, {"ep": 8}, {"attention_dp": 8}, {"attention_dp": 8, "ep": 8}], ids=str)
def test_experts_in_several_formats_at_once(layout: dict[str, int]) -> None:
    """Messages of experts depend on the formats, which are an axis of their own."""
    load = {"input_tokens": 1000, "output_tokens": 500, "concurrency": 64}
    asked = llmhw.ServingJob(model="mixtral-8x7b", cluster=("h100", 8))
    held = {"tp": 1 if "attention_dp" in layout else 8, "pp": 1, "ep": 1, "attention_dp": 1} | layout
    found = search(asked, weights=("bf16", "fp8"), **held, **load).best
    assert len(found) == 4
    for one in found:
        assert 1 / one.seconds == pytest.approx(llmhw.serve(one.job, **load).point.tokens_per_second, rel=1e-9)


def test_few_rows_on_hopper_cost_a_whole_tile_in_a_search_too() -> None:
    """An H20 multiplies so slowly that its tiles of 64 rows, not its memory, bind one user."""
    load = {"input_tokens": 1000, "output_tokens": 500, "concurrency": 1}
    alone = llmhw.ServingJob(model="llama-3-8b", cluster="h20 96gb")
    for one in search(alone, [("h20 96gb", 1)], **load, weights=("bf16", "fp8"), best=4).best:
        assert 1 / one.seconds == pytest.approx(llmhw.serve(one.job, **load).point.tokens_per_second)
