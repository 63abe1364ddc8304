"""Real steps under every kind of parallelism, by PyTorch's own wrappers: every byte and every call as predicted."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from llmhw.measure.distributed import DistributedMeasurement, layout_of, main, make_case, measure_layouts
from llmhw.measure.launch import run_cases
from llmhw.schedule import bubble_seconds
from llmhw.units import LLMHWError

SCHEDULES = ("gpipe", "1f1b", "interleaved", "zero-bubble")
TIED = {"tie_word_embeddings": True, "num_key_value_heads": 2}
LARGER = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 1000}  # 9.6 MB of gradients
FEW: list[dict[str, Any]] = [
    {"scheme": "ddp", "ranks": 1},
    *({"scheme": scheme, "ranks": 2} for scheme in ("ddp", "fsdp", "hsdp", "tp", "sp", "cp", "ep")),
    *({"scheme": "pp", "ranks": 2, "schedule": schedule} for schedule in SCHEDULES),
    {"scheme": "cp", "ranks": 2, "cp_kind": "all-gather"},
    {"scheme": "ddp", "ranks": 2, "config": LARGER},  # DDP's own buckets: a first one of 1 MiB or more, then the rest
    # buckets smaller than the model; a tied table, whose gradient comes last
    {"scheme": "ddp", "ranks": 2, "bucket_cap_mb": 0.02},
    {"scheme": "ddp", "ranks": 2, "bucket_cap_mb": 0.02, "config": TIED},
    {"scheme": "fsdp", "ranks": 2, "config": TIED, "micro_batches": 3},
    # recompute sends again what the second forward pass needs
    *({"scheme": scheme, "ranks": 2, "recompute": "full"} for scheme in ("fsdp", "tp", "sp", "cp", "ep", "pp")),
]
MORE: list[dict[str, Any]] = [
    *({"scheme": scheme, "ranks": 4} for scheme in ("ddp", "fsdp", "hsdp", "tp", "sp", "cp", "ep", "3d")),
    *({"scheme": "pp", "ranks": 4, "schedule": schedule} for schedule in SCHEDULES),
    {"scheme": "cp", "ranks": 4, "cp_kind": "all-gather"},
    {"scheme": "ep", "ranks": 4, "ep": 2, "zero": 3},
    {"scheme": "cp", "ranks": 4, "cp": 2, "dp": 2},
    {"scheme": "cp", "ranks": 4, "cp": 2, "dp": 2, "zero": 3, "replicas": 2},
    {"scheme": "fsdp", "ranks": 4, "dp": 2, "tp": 2, "sequence_parallel": True},
    {"scheme": "ddp", "ranks": 4, "dp": 2, "pp": 2},
    {"scheme": "fsdp", "ranks": 4, "dp": 2, "pp": 2, "schedule": "gpipe"},
    {"scheme": "fsdp", "ranks": 4, "dp": 2, "pp": 2, "vpp": 2, "schedule": "interleaved"},
    {"scheme": "fsdp", "ranks": 4, "dp": 2, "pp": 2, "micro_batches": 8, "recompute": "full"},
    {"scheme": "3d", "ranks": 4, "schedule": "zero-bubble", "sequence_parallel": True},
    {"scheme": "3d", "ranks": 8},
    {"scheme": "3d", "ranks": 8, "sequence_parallel": True},
    {"scheme": "hsdp", "ranks": 8, "dp": 4, "replicas": 2, "pp": 2},
    {"scheme": "ep", "ranks": 8, "dp": 4, "ep": 2, "pp": 2, "zero": 3},
]


def name(case: dict[str, Any]) -> str:
    config = case.get("config", {})
    kind = ["tied"] if config is TIED else ["larger"] if config is LARGER else []
    return "-".join([*(str(value) for key, value in case.items() if key != "config"), *kind])


@pytest.fixture(scope="module")
def few() -> dict[str, DistributedMeasurement]:
    return {name(case): found for case, found in zip(FEW, measure_layouts(FEW, device="cpu"), strict=True)}


@pytest.fixture(scope="module")
def more() -> dict[str, DistributedMeasurement]:
    return {name(case): found for case, found in zip(MORE, measure_layouts(MORE, device="cpu"), strict=True)}


def check(found: DistributedMeasurement) -> None:
    assert [str(row) for row in found.rows if not row.equal] == []
    assert found.actions == found.predicted_actions
    p = found.job.parallelism
    assert {row.rank for row in found.rows} == set(range(p.devices))
    if p.pp > 1:
        others = {"forward": p.pp - 1, "backward": 2 * (p.pp - 1), "chunks": p.vpp}
        wait = bubble_seconds(**others, zero_bubble=p.pipeline_schedule == "zero-bubble")
        assert found.idle == (p.vpp * wait,) * p.pp  # slots of a chunk


@pytest.mark.xdist_group("distributed-few")
@pytest.mark.parametrize("case", FEW, ids=name)
def test_two_ranks(case: dict[str, Any], few: dict[str, DistributedMeasurement]) -> None:
    check(few[name(case)])


@pytest.mark.xdist_group("distributed-more")
@pytest.mark.parametrize("case", MORE, ids=name)
def test_four_ranks(case: dict[str, Any], more: dict[str, DistributedMeasurement]) -> None:
    check(more[name(case)])


@pytest.mark.xdist_group("distributed-more")
def test_every_scheme_takes_the_same_step(more: dict[str, DistributedMeasurement]) -> None:
    """The loss after two steps is that of one process with the same batch: what was split was put together again."""
    alike = [m for case, m in zip(MORE, more.values(), strict=True) if m.job.model.model_type == "llama"]
    batches = sorted({(m.job.batch, m.job.model.num_layers) for m in alike})
    alone = measure_layouts(
        [
            {"scheme": "ddp", "ranks": 1, "micro_batches": batch, "config": {"num_hidden_layers": layers}}
            for batch, layers in batches
        ],
        device="cpu",
    )
    losses = {key: m.loss for key, m in zip(batches, alone, strict=True)}
    for m in alike:
        assert m.loss == pytest.approx(losses[m.job.batch, m.job.model.num_layers], rel=1e-5), m.title


@pytest.mark.xdist_group("distributed-few")
def test_the_first_bucket_is_small(few: dict[str, DistributedMeasurement]) -> None:
    found = few["ddp-2-larger"]
    sizes = [int(row.what.split()[2].replace(",", "")) for row in found.rows if row.what.startswith("all-reduce")]
    assert len(set(sizes)) == 2
    assert 2**20 <= min(sizes) < 2 * 2**20


@pytest.mark.xdist_group("distributed-few")
def test_report(few: dict[str, DistributedMeasurement], capsys: pytest.CaptureFixture[str]) -> None:
    found = few["pp-2-1f1b"]
    text = str(found)
    assert text.splitlines()[0] == "pp on 2 ranks (pp=2, 1f1b): 4 micro-batches of 1 x 16"
    assert "stage 0: F0.0 F0.1 B0.0 F0.2 B0.1 F0.3 B0.2 B0.3; 3 idle slots" in text
    assert "send of 2,048 B over ranks 0 1, calls" in text
    assert found.to_dict()["equal"] is True
    assert found.to_frame()["equal"].all()
    assert "<td>yes</td>" in found._repr_html_().replace(" style='text-align:right'", "")
    starts = [start for _, _, start, _ in found.events]
    assert min(starts) == 0
    assert all(end > start for _, _, start, end in found.events)
    assert main(["--scheme", "ddp", "--ranks", "1", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["equal"] is True


@pytest.mark.xdist_group("distributed-few")
def test_torchrun() -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "llmhw.measure.distributed", "--scheme", "fsdp", "--device", "cpu"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, check=True)
    assert "reduce-scatter of 35,072 B over ranks 0 1, calls" in done.stdout
    assert " no\n" not in done.stdout


def left_over() -> list[str]:
    """Ranks and their helpers that are still there; those of other tests, which run beside this one, are too."""
    listed = subprocess.run(["ps", "-eo", "ppid,pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if "llmhw.measure.launch" in line]


def of_us(lines: list[str], parent: int) -> list[str]:
    """Those below one process."""
    found = {str(parent)}
    for line in lines:  # parents have the smaller numbers, so they come first
        if line.split()[0] in found:
            found.add(line.split()[1])
    return [line for line in lines if line.split()[0] in found]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"fail_rank": 1}, r"rank 1 of 3 failed: RuntimeError: stopped on request"),
        ({"hang_rank": 0}, r"rank 0, 1, 2 of 3 did not finish within 4 seconds; all were ended"),
    ],
)
def test_a_failing_rank_is_named_and_all_are_ended(wrong: dict[str, int], text: str) -> None:
    _, case = make_case("ddp", 3)
    with pytest.raises(LLMHWError, match=text):
        run_cases([dataclasses.replace(case, **wrong)], device="cpu", timeout=20 if "fail_rank" in wrong else 4)
    assert of_us(left_over(), os.getpid()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_orphans(number: signal.Signals) -> None:
    """Ctrl-C, or the end of the caller by force: helper and ranks are gone soon after."""
    code = (
        "import dataclasses\n"
        "from llmhw.measure.distributed import make_case\n"
        "from llmhw.measure.launch import run_cases\n"
        "_, case = make_case('ddp', 2)\n"
        "run_cases([dataclasses.replace(case, hang_rank=1)], device='cpu', timeout=60)\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        started = wait_until(lambda: len(of_us(left_over(), caller.pid)) >= 3, 60)
        ours = [line.split()[1] for line in of_us(left_over(), caller.pid)]
        assert started, "the ranks did not start"
    finally:
        caller.send_signal(number)
        caller.wait(30)
    assert wait_until(lambda: not [line for line in left_over() if line.split()[1] in ours], 15)


def wait_until(true: Any, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scheme": "dp", "ranks": 2}, "scheme='dp' is not known"),
        ({"scheme": "pp", "ranks": 1}, "scheme='pp' needs at least 2 ranks, not 1"),
        ({"scheme": "3d", "ranks": 6}, "needs ranks in multiples of 4, not 6"),
        ({"scheme": "hsdp", "ranks": 3}, "scheme='hsdp' needs an even number of ranks, not 3"),
        ({"scheme": "tp", "ranks": 3}, "tp=3 does not divide heads=4"),
        ({"scheme": "fsdp", "ranks": 4, "dp": 2}, "has 2 ranks, and ranks=4"),
        ({"scheme": "ddp", "ranks": 2, "zero": 1}, "zero=1 is DeepSpeed's"),
        ({"scheme": "ddp", "ranks": 4, "dp": 2, "tp": 2}, "use zero=3"),
        ({"scheme": "ddp", "ranks": 4, "dp": 2, "pp": 2, "schedule": "gpipe"}, "DDP fails under gpipe"),
        ({"scheme": "tp", "ranks": 4, "config": {"num_key_value_heads": 2}}, "tp=4 must divide kv_heads=2"),
        ({"scheme": "tp", "ranks": 2, "config": TIED}, "tied embeddings are measured with tp=1 and pp=1"),
    ],
)
def test_impossible_cases_name_the_rule(options: dict[str, Any], text: str) -> None:
    with pytest.raises(LLMHWError) as error:
        make_case(**options)
    assert text in str(error.value)


def test_layouts() -> None:
    assert (layout_of("3d", 8).dp, layout_of("3d", 8).tp, layout_of("3d", 8).pp) == (2, 2, 2)
    assert layout_of("pp", 4, "interleaved").vpp == 2
    with pytest.raises(LLMHWError, match="cp is measured with PyTorch's ring attention over its CPU kernel"):
        measure_layouts([{"scheme": "cp", "ranks": 2}], device="cuda")
    with pytest.raises(LLMHWError, match="device='tpu' is not known"):
        measure_layouts([{"scheme": "ddp", "ranks": 2}], device="tpu")
