"""Timelines: rows that add up to the estimate, memory that peaks where it should, files that Perfetto reads whole."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import llmhw
from llmhw import Cluster, LLMHWError, ServingJob, TrainingJob, timeline
from llmhw.job import Parallelism
from llmhw.service import simulate_service
from tests.unit.command import run

EXACT = 1e-9


def trained(spec: str = "llama-3-70b", batch: int = 16, **options: Any) -> Any:
    """A step on 64 devices; options of the layout and of the job."""
    layout = {name: options.pop(name) for name in ("tp", "pp", "vpp", "zero", "schedule") if name in options}
    dp = 64 // layout.get("tp", 1) // layout.get("pp", 1)
    job = TrainingJob(
        model=llmhw.model(spec),
        cluster=Cluster("h100", 64, inter_link="infiniband ndr"),
        parallelism=Parallelism(dp=dp, **layout),
        global_batch=batch * dp,
        seq_len=4096,
        **options,
    )
    return llmhw.train(job)


STEPS = (
    {"zero": 3, "recompute": "full", "batch": 1},
    {"zero": 3, "tp": 8, "batch": 4},
    {"tp": 8, "pp": 4, "zero": 1, "kernels": "megatron"},
    {"tp": 8, "pp": 4, "schedule": "gpipe"},
    {"tp": 4, "pp": 4, "vpp": 4, "schedule": "interleaved", "kernels": "megatron", "recompute": "full"},
    {"tp": 4, "pp": 8, "schedule": "zero-bubble", "batch": 16, "kernels": "megatron"},
    {"tp": 4, "pp": 8, "batch": 2},
    {"spec": "qwen3-8b", "zero": 3, "batch": 1, "method": "grpo", "rollout_share": 0.3},
    {"spec": "qwen3-8b", "zero": 3, "batch": 2, "method": "dpo"},
)


@pytest.mark.parametrize("options", STEPS, ids=str)
def test_rows_of_a_step(options: dict[str, Any]) -> None:
    answer = trained(**options)
    found = timeline.train(answer)
    step = answer.step_seconds
    assert found.seconds == step
    assert len(found.rows) == answer.job.parallelism.pp
    for row in range(len(found.rows)):
        spans = sorted((span for span in found.spans if span.row == row), key=lambda span: span.start)
        assert sum(span.seconds for span in spans) == pytest.approx(step, rel=EXACT)
        assert spans[0].start == 0
        for one, after in pairwise(spans):
            assert after.start == pytest.approx(one.end, abs=EXACT * step)
    # each part of the estimate, the bubble too, on the rank that sets the pace
    paces = [
        all(found.sums(row).get(name, 0) == pytest.approx(s, abs=EXACT * step) for name, s in answer.time.parts.items())
        for row in range(len(found.rows))
    ]
    assert any(paces)


@pytest.mark.parametrize("options", STEPS, ids=str)
def test_memory_of_a_step(options: dict[str, Any]) -> None:
    answer = trained(**options)
    found = timeline.train(answer)
    for row, stage in enumerate(answer.memory.stages):
        levels = [level for level in found.levels if level.name == f"memory of rank {row}, bytes"]
        assert max(sum(level.values.values()) for level in levels) == pytest.approx(float(stage.total), rel=EXACT)
        # all activations go, and what the next step begins with is what this one began with
        assert levels[-1].values["activations"] == 0
        assert [level.at for level in levels] == sorted(level.at for level in levels)


def test_causes_come_first() -> None:
    """No stage computes on what the one before it has not sent."""
    found = timeline.train(trained(tp=4, pp=4, vpp=2, schedule="interleaved"))
    ends: dict[tuple[str, int, int], float] = {}
    starts: dict[tuple[str, int, int], float] = {}
    for span in found.spans:
        if "chunk" in span.facts:
            key = (span.kind, span.facts["chunk"], span.facts["micro-batch"])
            starts[key], ends[key] = span.start, span.end
    last = max(chunk for _, chunk, _ in starts)
    checked = 0
    for (kind, chunk, number), start in starts.items():
        if kind in ("forward", "backward"):
            before = chunk - 1 if kind == "forward" else chunk + 1
            if 0 <= before <= last:
                assert start >= ends[kind, before, number] - 1e-12
                checked += 1
    assert checked == 2 * last * 16
    assert all(starts["backward", last, n] >= ends["forward", last, n] - 1e-12 for n in range(16))


def test_too_long_an_order_is_drawn_smaller() -> None:
    """Zero bubble's closed form holds for twice as many micro-batches as stages; with fewer, the order takes longer."""
    found = timeline.train(trained(tp=4, pp=4, schedule="zero-bubble", batch=2))
    assert any("drawn smaller" in note for note in found.notes)
    for row in range(4):
        assert sum(found.sums(row).values()) == pytest.approx(found.seconds, rel=EXACT)


def test_too_many_passes() -> None:
    with pytest.raises(LLMHWError, match=r"timeline of 80,000 passes is more than a browser opens; with global_batch="):
        timeline.train(trained(tp=8, pp=8, batch=5000))


def served(**options: Any) -> Any:
    job = ServingJob(model=llmhw.model("llama-3-8b"), cluster=Cluster("h100", 4), **options.pop("job", {}))
    return llmhw.serve(job, input_tokens=1000, output_tokens=options.pop("output_tokens", 200), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 40},
        {"concurrency": 1},
        {"rate": 8},
        {"concurrency": 64, "job": {"tp": 2}},
        {"concurrency": 64, "job": {"tp": 2, "pp": 2}},
        {"concurrency": 60, "prefill_workers": 1},
        {"concurrency": 400, "prefill_workers": 3},
        {"output_tokens": 1},
    ],
    ids=str,
)
def test_rows_of_a_service(options: dict[str, Any]) -> None:
    answer = served(**options)
    found = timeline.serve(answer)
    for row, name in enumerate(found.rows[:-1]):
        assert sum(found.sums(row).values()) == pytest.approx(found.seconds, rel=EXACT), name
    way = found.sums(len(found.rows) - 1)
    point = answer.point
    whole = point.ttft_seconds + (answer.output_tokens - 1) * point.tpot_seconds
    assert sum(way.values()) == pytest.approx(whole, rel=EXACT)
    # in a cycle, every request at work is answered: Little's law
    if answer.rate is None:
        made = point.concurrency * answer.output_tokens / found.seconds
        assert made == pytest.approx(point.tokens_per_second, rel=EXACT)


def test_nothing_runs() -> None:
    job = ServingJob(model=llmhw.model("llama-3-70b"), cluster=Cluster("rtx 4090", 1))
    with pytest.raises(LLMHWError, match="timeline of llama-3-70b: Does not fit"):
        timeline.serve(llmhw.serve(job, input_tokens=100, output_tokens=100))


@pytest.mark.parametrize("options", [{}, {"mode": "static"}, {"chunked_prefill": False}], ids=str)
def test_rows_of_a_simulation(options: dict[str, Any]) -> None:
    job = ServingJob(model=llmhw.model("llama-3-8b"), cluster=Cluster("h100", 1))
    answer = simulate_service(job, rate=6, requests=80, traced=80, **options)
    found, result = timeline.simulate(answer), answer.result
    busy = {name: seconds for name, seconds in found.sums(0).items() if name != "idle"}
    assert sum(busy.values()) == pytest.approx(result.utilization * result.seconds, rel=EXACT)
    drawn = [span for span in found.spans if span.row == 0]
    assert sum(int(span.facts["steps"]) for span in drawn if span.kind != "idle") == result.steps
    requests = [span for span in found.spans if span.kind == "request"]
    assert sum(span.facts["tokens"] for span in {s.name: s for s in requests}.values()) == result.output_tokens
    queue = [level.values["requests"] for level in found.levels if level.name == "queue"]
    assert min(queue) == queue[-1] == 0


def test_an_untraced_simulation() -> None:
    job = ServingJob(model=llmhw.model("llama-3-8b"), cluster=Cluster("h100", 1))
    with pytest.raises(LLMHWError, match=r"ask llmhw\.service.simulate_service for traced=1000"):
        timeline.simulate(simulate_service(job, rate=6, requests=5))


# -- the file ---------------------------------------------------------------------------------


def nested(events: list[dict[str, Any]]) -> int:
    """Slices that Perfetto's importer would put on its stacks, in whole nanoseconds; it drops one that ends outside."""
    kept = 0
    for row in {event["tid"] for event in events}:
        stack: list[int] = []
        slices = [(int(e["ts"] * 1000), int(e["dur"] * 1000)) for e in events if e["tid"] == row]
        for start, long in sorted(slices, key=lambda one: one[0]):  # stable, as the importer's sort is
            while stack and stack[-1] <= start:
                stack.pop()
            assert not stack or start + long <= stack[-1], (row, start, long, stack)
            stack.append(start + long)
            kept += 1
    return kept


LINES = (
    "train llama-3-70b --gpu h100 --gpus 64 --tp 8 --pp 4 --vpp 2 --schedule interleaved --zero 1 --global-batch 32",
    "memory llama-3-8b --gpu h100 --gpus 8 --zero 3 --recompute full --global-batch 32",
    "serve llama-3-8b --gpu h100 --concurrency 32",
    "simulate llama-3-8b --gpu h100 --rate 4 --requests 50",
)


@pytest.mark.parametrize("line", LINES)
def test_file(line: str, tmp_path: Path) -> None:
    """The Trace Event Format: see "Trace Event Format" (Google, 2016), sections "JSON Object Format" and "Phases"."""
    file = tmp_path / "step.json"
    assert run(*line.split(), "--quiet", "--timeline", str(file)).returncode == 0
    found = json.loads(file.read_text())
    events = found["traceEvents"]
    assert found["displayTimeUnit"] in ("ms", "ns")
    assert {event["ph"] for event in events} == {"X", "C", "M"}
    for event in events:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name", "thread_sort_index")
            continue
        assert 0 <= event["ts"] <= found["otherData"]["seconds"] * 1e6 * (1 + EXACT)
        if event["ph"] == "X":
            assert event["dur"] >= 0
            assert isinstance(event["cat"], str)
            assert isinstance(event["tid"], int)
        else:
            assert event["args"]
            assert all(isinstance(value, (int, float)) for value in event["args"].values())
    slices = [event for event in events if event["ph"] == "X"]
    assert nested(slices) == len(slices)
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    assert {event["tid"] for event in slices} == named


def test_the_command_refuses(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("kept")
    train = "train llama-3-8b --gpu h100 --gpus 8 --zero 3".split()
    for args, words in (
        ([*train, "--timeline", "step.csv"], "--timeline step.csv must end in .json"),
        ([*train, "--trace", "step.json", "--micro-batch", "1,2"], "--timeline is for one answer; give one value of"),
        ([*train, "--trace", str(old), "--output", str(old)], "are one file; give two"),
        ([*train, "--global-batch", "8000000", "--trace", str(old)], "passes is more than a browser opens"),
        ([*"serve llama-3-70b --gpu h100 --trace".split(), str(old)], "Does not fit"),
        ([*"simulate llama-3-8b --gpu h100 --trace".split(), str(old)], "--timeline FILE.json writes what"),
    ):
        done = run(*args)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    assert old.read_text() == "kept"
