"""What is asked of a simulation: bounds, arguments without effect, users who wait, and what is told of it."""

from __future__ import annotations

import json
import math
import os
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

import llmhw
from llmhw.queueing import StepModel
from llmhw.service import EngineSteps, engine_for, simulate_service, simulation_engine
from llmhw.simulation import (
    Closed,
    Empirical,
    Engine,
    Exponential,
    LogNormal,
    Poisson,
    Recorded,
    Request,
    Uniform,
    input_files,
    simulate,
)
from llmhw.units import LLMHWError

HEAD = "arrival_seconds,input_tokens,output_tokens\n"


def job(gpus: int = 1, **more: Any) -> llmhw.ServingJob:
    made = {"model": llmhw.model("llama-3-8b"), "cluster": llmhw.Cluster("h100", gpus), "max_model_len": 8192}
    return llmhw.ServingJob(**(made | more))


def refused(**arguments: Any) -> str:
    with pytest.raises(LLMHWError) as error:
        simulate_service(arguments.pop("job", job()), **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# -- bounds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(5, 1), "low=5 must be at most high=1; exchange the two"),
        (lambda: Uniform(1, 10**10), "high=10000000000 must be a whole number of at most 1,000,000,000"),
        (lambda: LogNormal(1e308, 5), r"median=1e\+308 must be a number above 0 and at most 1e\+09"),
        (lambda: LogNormal(100, 1e308), r"sigma=1e\+308 must be a number of at least 0 and at most 10"),
        (lambda: LogNormal(100, 1, most=10**30), r"most=1000.* must be a whole number of at most 1,000,000,000"),
        (lambda: Exponential(1e300), r"mean=1e\+300 must be a number above 0 and at most 1e\+09"),
        (lambda: Empirical((1, 10**12)), "values=1000000000000 must be a whole number of at most 1,000,000,000"),
        (lambda: Empirical("12"), "values='12' must be lengths"),  # type: ignore[arg-type]
        (lambda: Empirical(3), "values=3 must be lengths"),  # type: ignore[arg-type]
        (lambda: Poisson(1, 1, 1, requests=10**30), r"requests=1000.* must be a whole number of at most 100,000,000"),
        (lambda: Closed(1, 1, 1, requests=10**9), "requests=1000000000 must be a whole number of at most 100,000,000"),
        (lambda: Closed(10**30, 1, 1, requests=1), r"concurrency=1000.* must be a whole number of at most 1,000,000"),
        (lambda: Recorded("x", most=10**30), r"most=1000.* must be a whole number of at most 100,000,000"),
        (lambda: Poisson(1e-320, 1, 1, requests=5), "rate=1e-320 is too close to 0"),
        (lambda: Poisson(1e-12, 1, 1, requests=5), r"come for longer than 5e\+09 seconds; give a higher rate"),
        (lambda: Poisson(1e9, 1, 1, seconds=1e9), r"is more than 100,000,000 requests; give fewer"),
        (lambda: Poisson(1e300, 1, 1, requests=5), r"rate=1e\+300 must be a number above 0 and at most 1e\+12"),
        (lambda: Poisson(1, 10**10, 1, requests=5), "input_tokens=10000000000 must be a whole number of at most"),
    ],
)
def test_loads_have_bounds(make: Any, message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        make()


def test_lengths_stay_in_bounds() -> None:
    random = Random(1)
    for lengths in (LogNormal(1e9, 10), LogNormal(1e-20, 10), Exponential(1e9), Exponential(1e-20)):
        drawn = [lengths.draw(random) for _ in range(2000)]
        assert all(isinstance(length, int) and length >= 1 for length in drawn)
    assert max(LogNormal(100, 10, most=500).draw(random) for _ in range(200)) == 500


@pytest.mark.parametrize("arrival", [1e308, 2e10, math.inf, math.nan, -1])
def test_arrivals_out_of_time(arrival: float, tmp_path: Path) -> None:
    engine = Engine(StepModel(0.01))
    with pytest.raises(LLMHWError, match=r"arrival_seconds=.* must be a number of at least 0 and at most 1e\+10"):
        simulate(engine, [Request(arrival, 5, 5)])
    path = tmp_path / "late.csv"
    path.write_text(f"{HEAD}0,5,5\n1e308,5,5\n", encoding="utf-8")
    assert "arrival_seconds=1e+308 must be" in refused(trace=str(path))


@pytest.mark.parametrize("speed", [1e-25, 1e25])
def test_a_speed_keeps_times_finite(speed: float, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"{HEAD}1,50,5\n2,50,5\n3,50,5\n", encoding="utf-8")
    if speed < 1:
        assert "arrival_seconds=" in refused(trace=str(path), speed=speed)
    else:
        json.dumps(simulate_service(job(), trace=str(path), speed=speed).to_dict(), allow_nan=False)


def test_lengths_beyond_the_model_say_which_argument() -> None:
    text = refused(rate=1, input_tokens=9000)
    assert "input_tokens=9000 and output_tokens=500 must be at most max_context=8192 together" in text
    assert "which is max_model_len of a job" in text


# -- arguments without effect -----------------------------------------------------------------


def trace_of(folder: Path, rows: str = "0,50,5\n1,60,6\n", head: str = HEAD) -> str:
    path = folder / "trace.csv"
    path.write_text(head + rows, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "given",
    [
        {"seed": 3},
        {"seed": 0},
        {"input_tokens": 1000},
        {"output_tokens": Uniform(1, 3)},
        {"input_tokens": 5, "output_tokens": 5, "seed": 3},
    ],
)
def test_what_a_trace_leaves_without_effect_is_refused(given: dict[str, Any], tmp_path: Path) -> None:
    text = refused(trace=trace_of(tmp_path), **given)
    assert "has no effect: trace has its own requests; leave it out" in text
    assert text.split("=")[0] in given


def test_other_arguments_without_effect() -> None:
    assert "give one of the three" in refused()
    assert "give one of the three" in refused(rate=1, concurrency=1)
    assert "speed=1.0 belongs to trace" in refused(rate=1, speed=1.0)
    assert "seed=3 has no effect: with concurrency and fixed lengths nothing is drawn" in refused(concurrency=1, seed=3)
    assert simulate_service(job(), concurrency=1, seed=3, requests=5, output_tokens=Uniform(1, 3)).result.requests == 5
    assert "prefill_workers=1 belongs to mode disaggregated" in refused(rate=1, prefill_workers=1)
    assert "max_delay_seconds=2 belongs to mode dynamic" in refused(rate=1, max_delay_seconds=2)


def test_a_trace_says_once_when_requests_come(tmp_path: Path) -> None:
    text = refused(trace=trace_of(tmp_path, "0,0,5,5\n", "arrival_seconds,gap_seconds,input_tokens,output_tokens\n"))
    assert "has the columns 'arrival_seconds' and 'gap_seconds', which both say when; remove one" in text


def test_more_requests_than_a_trace_has(tmp_path: Path) -> None:
    path = trace_of(tmp_path)
    assert simulate_service(job(), trace=path, requests=1).result.requests == 1
    assert "requests=3 is more than the 2 of" in refused(trace=path, requests=3)
    assert "requests=0 must be a whole number of at least 1" in refused(trace=path, requests=0)


def test_input_files_are_known(tmp_path: Path) -> None:
    path = trace_of(tmp_path)
    lengths = Empirical.from_csv(path, "output_tokens")
    assert input_files(path, lengths, 5, None, Uniform(1, 2), Recorded(path)) == (path, path, path)
    assert Empirical((5, 6)) == lengths


# -- users who wait ---------------------------------------------------------------------------


def test_users_wait_for_their_answers() -> None:
    one = simulate_service(job(), concurrency=1, requests=20, input_tokens=500, output_tokens=100)
    engine = one.engine
    alone = simulate(engine, [Request(0.0, 500, 100)])
    assert one.result.seconds == pytest.approx(20 * alone.seconds)
    assert (one.rate, one.concurrency, one.result.mean_batch) == (None, 1, pytest.approx(1))
    many = simulate_service(job(), concurrency=32, input_tokens=500, output_tokens=100).result
    assert many.largest_batch == 32
    assert many.requests == 1000
    assert many.mean_in_system == pytest.approx(32, rel=0.05)


def test_users_are_shared_out() -> None:
    four = simulate_service(job(4, tp=1), concurrency=32, requests=64, output_tokens=20)
    one = simulate_service(job(1, tp=1), concurrency=8, requests=64, output_tokens=20)
    assert four.groups == 4
    assert four.output_tokens_per_second == pytest.approx(4 * one.output_tokens_per_second)
    assert "with 8 of the 32 users" in four.title
    text = refused(job=job(4, tp=1), concurrency=30)
    assert "concurrency=30 is not shared out evenly by 4 groups" in text
    assert "use 28 or 32" in text
    assert "use 4" in refused(job=job(4, tp=1), concurrency=1)


def test_users_have_twenty_requests_each() -> None:
    assert simulate_service(job(), concurrency=100, input_tokens=10, output_tokens=2).result.requests == 2000


# -- what is told -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "requests", "keeps_up", "start"),
    [
        (1, 1000, True, "Keeps up with"),
        (8, 3000, True, "Keeps up with"),
        (16, 3000, False, "Does not keep up with"),
        (100, 1000, False, "Does not keep up with"),
        (20, 60, None, "60 requests: "),
        (1, 1, None, "1 request: "),
    ],
)
def test_whether_it_keeps_up(rate: float, requests: int, keeps_up: bool | None, start: str) -> None:
    """An H100 answers some 11.7 such requests a second."""
    found = simulate_service(job(engine="vllm"), rate=rate, requests=requests)
    assert found.result.keeps_up is keeps_up
    assert found.verdict.startswith(start), found.verdict
    assert "\n" not in found.verdict
    short = [text for text in found.warnings() if "does not tell whether the engine keeps up" in text]
    assert bool(short) == (keeps_up is None and requests > 1)
    if keeps_up is False:
        assert "the queue grows" in found.verdict
        assert found.result.requests_per_second < 0.9 * rate


def test_verdicts_have_the_numbers_of_all_groups() -> None:
    found = simulate_service(job(2, tp=1, engine="vllm"), rate=8, requests=1000, slo_ttft=0.06, slo_tpot=0.05)
    speed = llmhw.units.format_quantity(2 * found.result.output_tokens_per_second, "tokens/s")
    assert speed in found.verdict
    share = llmhw.units.format_quantity(found.result.goodput, "fraction")
    assert f"{share} of requests within the limits; first token " in found.verdict
    users = simulate_service(job(2, tp=1), concurrency=8, requests=50)
    assert users.verdict.startswith("8 users at a time: first token ")
    assert users.result.keeps_up is None
    assert not [text for text in users.warnings() if "keeps up" in text]


def test_limits_in_milliseconds_are_told() -> None:
    with pytest.raises(LLMHWError, match=r"it is in seconds; 33 ms are slo_tpot=0\.033"):
        simulate_service(job(1, tp=1), rate=1, requests=5, slo_tpot=33)


def test_a_row_begins_with_what_was_asked(tmp_path: Path) -> None:
    first = ["model", "device", "devices"]
    for load in ({"rate": 2}, {"concurrency": 2}, {"trace": trace_of(tmp_path)}):
        found = simulate_service(job(), **load, **({} if "trace" in load else {"requests": 30}))  # type: ignore[arg-type]
        row, told = found.to_row(), found.to_dict()
        assert list(row)[:3] == first
        assert set(load) <= set(list(row)[:18])
        assert row["verdict"] == told["verdict"] == found.verdict
        assert row["simulated_ttft_p99"] == told["simulated"]["ttft"]["p99"]
        json.dumps(told, allow_nan=False)
        assert all(not isinstance(value, (dict, list)) for value in row.values())
        for name, value in load.items():
            assert row[name] == value


@pytest.mark.parametrize("mode", ["static", "dynamic", "continuous", "disaggregated"])
def test_progress_is_told_to_the_end(mode: str) -> None:
    told: list[tuple[int, int | None]] = []
    engine = Engine(StepModel(0.001), mode=mode)
    found = simulate(engine, Poisson(5, 5, 5, requests=500), progress=lambda *at: told.append(at))
    assert told[-1] == (500, 500)
    assert told == sorted(told)
    assert found.requests == 500
    told.clear()
    simulate(engine, [Request(0, 1, 1)], progress=lambda *at: told.append(at))
    assert told == [(1, None), (1, 1)] or told == [(1, 1)]


def test_an_interrupt_says_where_it_was() -> None:
    def load() -> Any:
        yield from islice(Poisson(5, 50, 50, requests=500), 100)
        raise KeyboardInterrupt

    found = simulate(Engine(StepModel(0.001)), load())
    assert found.verdict.startswith("Interrupted at ")
    assert "requests answered" in found.verdict
    assert simulate(Engine(StepModel(0.001)), []).verdict == "No request was answered."


# -- speed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [0, 1, 7, 1000, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("sequences", [1, 3, 64])
def test_steps_of_a_job_in_a_row_are_those_one_by_one(context: int, sequences: int) -> None:
    steps = EngineSteps(engine_for(job()), prompt_tokens=1000)
    held = context * sequences
    first, slope, alike = steps.decode_steps(sequences, held)
    assert alike >= 1
    for j in sorted({0, 1, alike // 2, alike - 1, alike}):
        one = steps(0, 0, sequences, held + j * sequences)
        assert first + j * slope == pytest.approx(one, rel=1e-12)


def test_many_steps_at_once_change_nothing() -> None:
    engine = simulation_engine(job(), input_tokens=1000, output_tokens=500)
    steps = engine.step

    def one_by_one(*work: int) -> float:
        return steps(*work)

    from dataclasses import replace

    load = Poisson(9, LogNormal(800, 1, most=4000), Exponential(300), requests=150, seed=4)
    load = [Request(r.arrival_seconds, r.input_tokens, min(r.output_tokens, 4000)) for r in load]  # type: ignore[assignment]
    for options in ({}, {"mode": "static"}, {"mode": "dynamic", "early_return": True}, {"kv_blocks": 600}):
        few = replace(engine, **({"chunked_prefill": False} | options))
        found, wanted = simulate(few, load), simulate(replace(few, step=one_by_one), load)
        assert found.steps == wanted.steps
        assert found.preemptions == wanted.preemptions
        for name in ("seconds", "mean_batch", "kv_occupancy", "utilization"):
            assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-9)
        assert found.latency.p99 == pytest.approx(wanted.latency.p99, rel=1e-9)
        assert found.ttft.mean == pytest.approx(wanted.ttft.mean, rel=1e-9)


def test_idle_time_and_long_answers_cost_nothing() -> None:
    """Requests that are hours apart, and answers of many tokens, are each a few events."""
    calls = 0
    engine = simulation_engine(job(), input_tokens=1000, output_tokens=4000)
    steps = engine.step
    asked = steps.decode_steps  # type: ignore[attr-defined]

    def counted(*at: int) -> Any:
        nonlocal calls
        calls += 1
        return asked(*at)

    steps.decode_steps = counted  # type: ignore[attr-defined]
    found = simulate(engine, Poisson(0.0001, 1000, 4000, requests=200))
    assert found.steps == 200 * 4000
    assert calls < 200 * 6


def test_traces_are_not_held_in_memory(tmp_path: Path) -> None:
    path = trace_of(tmp_path, "".join(f"{i / 50},20,3\n" for i in range(5000)))
    assert os.path.getsize(path) > 50_000
    import tracemalloc

    tracemalloc.start()
    simulate_service(job(), trace=path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
