"""The simulated engine: against queueing theory, against itself step by step, and its KV blocks under random load."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmhw.queueing import StepModel
from llmhw.simulation import (
    SLO,
    Closed,
    Empirical,
    Engine,
    Exponential,
    LogNormal,
    OutOfBlocksError,
    PageTable,
    Poisson,
    Quantiles,
    Recorded,
    Request,
    SimulationResult,
    Uniform,
    measure_empty,
    simulate,
)
from llmhw.units import LLMHWError

# Times are sums of powers of two, so that adding them in any order gives the same number.
EXACT = StepModel(2**-7, prefill_token_seconds=2**-16, sequence_seconds=2**-17, cached_token_seconds=2**-22)
MODES: dict[str, dict[str, Any]] = {
    "static": {"mode": "static"},
    "static, early return": {"mode": "static", "early_return": True},
    "dynamic": {"mode": "dynamic", "max_delay_seconds": 0.5, "preferred_sizes": (4, 8)},
    "continuous": {},
    "chunked": {"chunked_prefill": True, "max_batched_tokens": 256},
    "shared prefix": {"shared_prefix_tokens": 100},
    "disaggregated": {"mode": "disaggregated", "transfer_seconds": 2**-6, "prefill_workers": 2},
}
POISSON = Poisson(
    rate=8,
    input_tokens=LogNormal(300, 0.7, least=128, most=2000),
    output_tokens=LogNormal(170, 0.6, most=1500),
    requests=400,
    seed=3,
)
USERS = Closed(40, Uniform(128, 900), Exponential(100), requests=400, think_seconds=0.25)


def engine(**changes: Any) -> Engine:
    return Engine(**({"step": EXACT, "max_sequences": 64, "kv_blocks": 500, "max_batched_tokens": 2048} | changes))


def mean(found: SimulationResult, name: str) -> float:
    value = getattr(found, name).mean
    assert isinstance(value, float)
    return value


# -- against theory ---------------------------------------------------------------------------


def one_server(lengths: Any, rate: float) -> SimulationResult:
    """A server for one request at a time, whose prompt takes 10 us a token."""
    model = StepModel(0, prefill_token_seconds=1e-5)
    load = Poisson(rate, input_tokens=lengths, output_tokens=1, requests=40_000, seed=5)
    return simulate(Engine(model, mode="static", max_sequences=1, block_tokens=2**17), load)


@pytest.mark.parametrize("rho", [0.3, 0.7])
def test_exponential_service_is_m_m_1(rho: float) -> None:
    found = one_server(Exponential(100_000), rho)
    wait = rho / (1 - rho)  # Erlang 1909
    assert mean(found, "wait") == pytest.approx(wait, rel=0.06)
    assert found.utilization == pytest.approx(rho, rel=0.02)
    # the time in the system is exponential: its median is ln 2 of its mean
    assert found.latency.p50 == pytest.approx(math.log(2) / (1 - rho), rel=0.05)
    assert found.latency.p99 == pytest.approx(math.log(100) / (1 - rho), rel=0.12)


@pytest.mark.parametrize("rho", [0.3, 0.8])
def test_constant_service_is_m_d_1(rho: float) -> None:
    found = one_server(100_000, rho)
    wait = rho / (1 - rho) / 2  # Pollaczek 1930, Khinchine 1932: without variance half of M/M/1
    assert mean(found, "wait") == pytest.approx(wait, rel=0.05)
    assert mean(found, "latency") == pytest.approx(wait + 1, rel=0.04)


def test_one_server_is_lindleys_recursion() -> None:
    """The wait of a request is that of the one before, plus its service, less the time between the two."""
    load = Poisson(0.9, Exponential(100_000), 1, requests=3000, seed=4)
    model = StepModel(0, prefill_token_seconds=1e-5)
    one = Engine(model, mode="static", max_sequences=1, block_tokens=2**20)
    wait, waits, before = 0.0, [], None
    for request in load:
        if before is not None:
            wait = max(0.0, wait + before.input_tokens * 1e-5 - (request.arrival_seconds - before.arrival_seconds))
        waits.append(wait)
        before = request
    found = simulate(one, load, trace_requests=3000).requests_trace
    assert [r.admitted_seconds - r.arrival_seconds for r in found] == pytest.approx(waits, abs=1e-8)
    assert max(waits) > 10


@pytest.mark.parametrize("rate", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("mode", ["dynamic", "continuous"])
def test_a_batch_of_all_that_wait_is_batch_service(rate: float, mode: str) -> None:
    """One step serves whoever is there, for a constant time.

    The server is idle only after a batch during which nobody came. Who comes while it is busy, a share
    s / (s + exp(-rate s) / rate) of the time, waits half a service on average (renewal cycles; PASTA, Wolff 1982).
    """
    load = Poisson(rate, input_tokens=1, output_tokens=1, requests=20_000, seed=1)
    found = simulate(Engine(StepModel(1.0), mode=mode, max_sequences=1000), load)
    wait = 1 / (1 + math.exp(-rate) / rate) / 2
    assert mean(found, "wait") == pytest.approx(wait, rel=0.02)


def test_a_static_batch_waits_until_it_is_full() -> None:
    load = Poisson(4, input_tokens=1, output_tokens=1, requests=27_000, seed=1)
    found = simulate(Engine(StepModel(1e-6), mode="static", max_sequences=9), load)
    assert mean(found, "wait") == pytest.approx((9 - 1) / (2 * 4), rel=0.02)


@pytest.mark.parametrize("lengths", [100, Exponential(100), LogNormal(60, 1)], ids=str)
def test_continuous_batching_without_a_base_is_processor_sharing(lengths: Any) -> None:
    """Mean latency depends on the mean length alone (Sakata, Noguchi and Oizumi 1971)."""
    mean_tokens = statistics.fmean(r.output_tokens - 1 for r in Poisson(1, 1, lengths, requests=12_000, seed=2))
    rate = 0.6 / (mean_tokens * 0.01)
    found = simulate(
        Engine(StepModel(0, sequence_seconds=0.01), max_sequences=10**6),
        Poisson(rate, input_tokens=1, output_tokens=lengths, requests=12_000, seed=2),
    )
    shared = mean_tokens * 0.01 / (1 - 0.6)
    assert mean(found, "latency") == pytest.approx(shared, rel=0.1)


def test_an_overloaded_engine_serves_its_saturation_rate() -> None:
    model = StepModel(0.01, prefill_token_seconds=1e-5, sequence_seconds=1e-4, cached_token_seconds=1e-7)
    found = simulate(Engine(model, max_sequences=32), Closed(200, input_tokens=400, output_tokens=200, requests=6000))
    # prompts of answers that end together share a step, so that a little more than one a step is served
    # a request takes the step of its prompt, and its part of 199 decode steps with half of the answers cached
    step = model(0, 0, 32, round(32 * (400 + 198 / 2)))
    most = 1 / (model(400, 0, 0, 0) + 199 * step / 32)
    assert found.requests_per_second == pytest.approx(most, rel=0.2)
    alone = Engine(model, max_sequences=32, max_batched_tokens=400)
    served = simulate(alone, Closed(200, 400, Uniform(2, 398), requests=6000)).requests_per_second
    assert served == pytest.approx(most, rel=0.06)


@pytest.mark.parametrize("load", [POISSON, USERS], ids=["poisson", "users"])
@pytest.mark.parametrize("mode", MODES)
def test_littles_law_holds_exactly(mode: str, load: Any) -> None:
    found = simulate(engine(**MODES[mode]), load)
    rate = found.requests_per_second
    assert found.mean_in_system == pytest.approx(rate * mean(found, "latency"), rel=1e-12)
    assert found.mean_waiting == pytest.approx(rate * mean(found, "wait"), rel=1e-12)


@pytest.mark.parametrize("mode", ["static", "dynamic", "continuous", "chunked"])
def test_sequences_in_the_batch_step_by_step_are_those_of_littles_law(mode: str) -> None:
    """One side adds up steps, the other answers: neither is derived from the other."""
    found = simulate(engine(**MODES[mode], kv_blocks=50_000), POISSON)
    assert not found.preemptions
    assert found.mean_batch * found.utilization == pytest.approx(found.mean_in_system - found.mean_waiting, rel=1e-9)


# -- against itself ---------------------------------------------------------------------------


@pytest.mark.parametrize("load", [POISSON, USERS], ids=["poisson", "users"])
@pytest.mark.parametrize("mode", MODES)
def test_many_steps_at_once_are_the_same_as_one_by_one(mode: str, load: Any) -> None:
    """A function gives no closed form, so every step is taken; all statistics are equal, not close."""
    at_once = simulate(engine(**MODES[mode]), load)
    one_by_one = simulate(engine(**MODES[mode], step=lambda a, b, c, d: EXACT(a, b, c, d)), load)
    assert at_once.to_dict() == one_by_one.to_dict()
    assert at_once.requests == 400
    assert at_once.output_tokens > 0


def plain_continuous(machine: Engine, load: list[Request]) -> dict[int, tuple[float, float, float, int]]:
    """Continuous batching written a second time, for reading: every step looks at every sequence."""

    def held(sequence: dict[str, Any]) -> int:
        return -(-sequence["cached"] // machine.block_tokens)

    assert machine.kv_blocks is not None
    queue = [
        {"number": i, "request": r, "made": 0, "cached": 0, "preempted": 0, "first": None, "admitted": None}
        for i, r in enumerate(load)
    ]
    running: list[dict[str, Any]] = []
    again: list[dict[str, Any]] = []
    done: dict[int, tuple[float, float, float, int]] = {}
    now = 0.0
    while queue or running or again:
        prompts: list[dict[str, Any]] = []
        left = machine.max_batched_tokens
        while len(running) < machine.max_sequences and (again or (queue and queue[0]["request"][0] <= now)):
            head = (again or queue)[0]
            tokens = head["request"].input_tokens + head["made"]
            free = machine.kv_blocks - sum(map(held, running))
            spare = int(machine.watermark * machine.kv_blocks) if running else 0
            if (prompts and tokens > left) or -(-tokens // machine.block_tokens) > free - spare:
                break
            running.append((again or queue).pop(0))
            head["cached"] = tokens
            head["admitted"] = now if head["admitted"] is None else head["admitted"]
            prompts.append(head)
            left -= tokens
        if prompts:
            now += machine.step(sum(s["cached"] for s in prompts), 0, 0, 0)
        elif running:
            while sum(-(-(s["cached"] + 1) // machine.block_tokens) for s in running) > machine.kv_blocks:
                youngest = running.pop()
                youngest["cached"], youngest["preempted"] = 0, youngest["preempted"] + 1
                again.insert(0, youngest)
            now += machine.step(0, 0, len(running), sum(s["cached"] for s in running))
            for sequence in running:
                sequence["cached"] += 1
        else:
            now = queue[0]["request"].arrival_seconds
        for sequence in prompts or list(running):
            sequence["made"] += 1
            sequence["first"] = now if sequence["first"] is None else sequence["first"]
            if sequence["made"] == sequence["request"].output_tokens:
                running.remove(sequence)
                done[sequence["number"]] = (sequence["admitted"], sequence["first"], now, sequence["preempted"])
    return done


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=25),
    blocks=st.integers(0, 30),
    block_tokens=st.sampled_from([1, 3, 8]),
    sequences=st.integers(1, 10),
    batched=st.sampled_from([1, 30, 1000]),
    watermark=st.sampled_from([0.0, 0.01, 0.2]),
)
def test_continuous_batching_is_what_the_plain_version_does(
    requests: list[tuple[int, int, int]],
    blocks: int,
    block_tokens: int,
    sequences: int,
    batched: int,
    watermark: float,
) -> None:
    load = [Request(at / 128, inputs, outputs) for at, inputs, outputs in sorted(requests)]
    longest = max(-(-(r.input_tokens + r.output_tokens - 1) // block_tokens) for r in load)
    machine = Engine(
        EXACT,
        max_sequences=sequences,
        max_batched_tokens=batched,
        kv_blocks=longest + blocks,
        block_tokens=block_tokens,
        watermark=watermark,
    )
    found = simulate(machine, load, trace_requests=len(load))
    assert {
        r.number: (r.admitted_seconds, r.first_token_seconds, r.finish_seconds, r.preemptions)
        for r in found.requests_trace
    } == plain_continuous(machine, load)


@pytest.mark.parametrize("mode", MODES)
def test_a_seed_fixes_everything(mode: str) -> None:
    def run(seed: int) -> dict[str, Any]:
        return simulate(engine(**MODES[mode]), Poisson(8, Uniform(128, 500), 50, requests=200, seed=seed)).to_dict()

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_draws_are_pinned() -> None:
    """The same on every platform: the generator is Python's own, seeded by text."""
    first = list(Poisson(2, Uniform(1, 1000), LogNormal(200, 1), requests=3, seed=7))
    assert [r.input_tokens for r in first] == [682, 433, 936]
    assert [r.output_tokens for r in first] == [195, 315, 192]
    assert [r.arrival_seconds for r in first] == pytest.approx(
        [0.26538904395387, 0.478112966839395, 0.832855051716438], rel=1e-12
    )


def test_arrivals_stay_when_lengths_change() -> None:
    a = Poisson(2, Uniform(1, 1000), 10, requests=50, seed=7)
    b = Poisson(2, 17, Exponential(30), requests=50, seed=7)
    assert [r.arrival_seconds for r in a] == [r.arrival_seconds for r in b]


def test_poisson_ends_by_count_or_by_time() -> None:
    assert len(list(Poisson(10, 1, 1, requests=7))) == 7
    timed = list(Poisson(100, 1, 1, seconds=20))
    assert len(timed) == pytest.approx(2000, rel=0.1)
    assert timed[-1].arrival_seconds <= 20
    assert len(list(Poisson(100, 1, 1, requests=7, seconds=20))) == 7


# -- what happens, by hand --------------------------------------------------------------------


def times(found: SimulationResult) -> dict[int, tuple[float, float, float]]:
    return {r.number: (r.admitted_seconds, r.first_token_seconds, r.finish_seconds) for r in found.requests_trace}


TWO = [Request(0, 10, 3), Request(0.5, 10, 5)]


def test_static_waits_for_the_longest_member() -> None:
    step = StepModel(1.0)
    found = simulate(Engine(step, mode="static", max_sequences=2), TWO, trace_requests=2)
    assert times(found) == {0: (0.5, 1.5, 5.5), 1: (0.5, 1.5, 5.5)}
    found = simulate(Engine(step, mode="static", max_sequences=2, early_return=True), TWO, trace_requests=2)
    assert times(found) == {0: (0.5, 1.5, 3.5), 1: (0.5, 1.5, 5.5)}
    assert found.utilization == 5 / 5.5
    one = simulate(Engine(step, mode="static", max_sequences=1), TWO, trace_requests=2)
    assert times(one) == {0: (0, 1, 3), 1: (3, 4, 8)}


def test_dynamic_waits_for_a_size_or_a_delay() -> None:
    def run(**options: Any) -> dict[int, tuple[float, float, float]]:
        dynamic = Engine(StepModel(1.0), mode="dynamic", max_sequences=4, **options)
        return times(simulate(dynamic, TWO, trace_requests=2))

    assert run() == {0: (0, 1, 3), 1: (3, 4, 8)}
    assert run(max_delay_seconds=0.25) == {0: (0.25, 1.25, 3.25), 1: (3.25, 4.25, 8.25)}
    assert run(max_delay_seconds=0.75) == {0: (0.75, 1.75, 5.75), 1: (0.75, 1.75, 5.75)}
    assert run(max_delay_seconds=9, preferred_sizes=(2,)) == {0: (0.5, 1.5, 5.5), 1: (0.5, 1.5, 5.5)}


def test_dynamic_takes_the_largest_preferred_size() -> None:
    burst = [Request(0, 1, 1)] * 7
    dynamic = Engine(StepModel(1.0), mode="dynamic", max_sequences=8, preferred_sizes=(2, 4), max_delay_seconds=10)
    found = simulate(dynamic, burst, trace_requests=7)
    assert sorted(t[0] for t in times(found).values()) == [0, 0, 0, 0, 1, 1, 10]


def test_continuous_batching_lets_requests_join_and_leave() -> None:
    found = simulate(Engine(StepModel(1.0)), TWO, trace_requests=2)
    # steps: 0-1 prompt of the first, 1-2 that of the second, 2-4 both decode, 4-6 the second goes on
    assert times(found) == {0: (0, 1, 4), 1: (1, 2, 6)}
    assert [(s.start_seconds, s.steps, s.prefill_tokens, s.decode_sequences) for s in found.steps_trace] == [
        (0, 1, 10, 0),
        (1, 1, 10, 0),
        (2, 2, 0, 2),
        (4, 2, 0, 1),
    ]
    assert found.requests_trace[0].spans == ((0, 0, 4),)


def test_chunked_prefill_computes_prompts_beside_decoding() -> None:
    chunked = Engine(StepModel(1.0), max_sequences=4, max_batched_tokens=5, chunked_prefill=True)
    found = simulate(chunked, TWO, trace_requests=2)
    # 0-2 the first prompt, 5 and 5; then it decodes, which leaves 4, 4, and 5 when it has ended: the second needs 3
    assert times(found) == {0: (0, 2, 4), 1: (2, 5, 9)}
    assert [s.prefill_tokens for s in found.steps_trace][:5] == [5, 5, 4, 4, 2]


def test_disaggregated_prefill_does_not_hold_up_decoding() -> None:
    pools = Engine(StepModel(1.0), mode="disaggregated", transfer_seconds=0.25, transfer_token_seconds=0.025)
    found = simulate(pools, TWO, trace_requests=2)
    # the first is moved by 1.5 and decodes 1.5-3.5; the second is there at 2.5 and joins at the next step
    assert times(found) == {0: (0, 1.5, 3.5), 1: (1, 2.5, 6.5)}
    assert found.prefill_utilization == 2 / 6.5
    two = simulate(Engine(StepModel(1.0), mode="disaggregated", prefill_workers=2, prefill_step=StepModel(0.25)), TWO)
    assert two.ttft.largest == 0.25
    single = simulate(Engine(StepModel(1.0), mode="disaggregated"), [Request(0, 10, 1)])
    assert (single.requests, single.latency.mean, single.utilization) == (1, 1.0, 0.0)


def test_the_youngest_is_preempted_and_computed_again() -> None:
    # blocks of one token: 4 + 4 of the prompts, and 1 each for the first decode step, fill 10
    two = [Request(0, 4, 6), Request(0, 4, 3)]
    tight = Engine(StepModel(1.0), kv_blocks=10, block_tokens=1, watermark=0)
    found = simulate(tight, two, trace_requests=2)
    # 0-1 prompts, 1-2 decode, then the second goes until the first ends at 6; 6 tokens computed again give its third
    assert times(found) == {0: (0, 1, 6), 1: (0, 1, 7)}
    assert (found.preemptions, found.recomputed_tokens, found.kv_peak) == (1, 6, 1.0)
    assert found.requests_trace[1].spans == ((1, 0, 2), (0, 6, 7))


def test_a_shared_prefix_is_held_and_computed_once() -> None:
    many = [Request(0, 40, 2)] * 8
    model = StepModel(0.5, prefill_token_seconds=0.125)
    plain = simulate(Engine(model, kv_blocks=100), many)
    shared = simulate(Engine(model, kv_blocks=100, shared_prefix_tokens=39), many)
    assert plain.kv_peak == 8 * 3 / 100
    assert shared.kv_peak == (2 + 8) / 100
    assert plain.ttft.mean == 0.5 + 8 * 40 / 8
    assert shared.ttft.mean == 0.5 + 8 * 8 / 8


def test_a_prompt_longer_than_a_step_has_one_of_its_own() -> None:
    found = simulate(Engine(StepModel(1.0), max_batched_tokens=8), [Request(0, 20, 1), Request(0, 5, 1)])
    assert found.latency.largest == 2


def test_users_wait_for_their_answers() -> None:
    found = simulate(Engine(StepModel(1.0)), Closed(1, 5, 3, requests=4, think_seconds=2))
    assert found.seconds == 4 * 3 + 3 * 2
    assert found.mean_in_system == pytest.approx(12 / 18)
    assert simulate(engine(kv_blocks=None), Closed(7, 5, 30, requests=100)).largest_batch == 7


def test_users_fewer_than_a_static_batch_do_not_wait_for_ever() -> None:
    found = simulate(Engine(StepModel(1.0), mode="static", max_sequences=8), Closed(3, 1, 2, requests=10))
    assert (found.requests, found.largest_batch) == (10, 3)


def test_a_step_function_sees_what_the_step_does() -> None:
    seen = []

    def step(*work: int) -> float:
        seen.append(work)
        return 1.0

    simulate(Engine(step, max_batched_tokens=6, max_sequences=2, chunked_prefill=True), [Request(0, 10, 3)])
    assert seen == [(6, 0, 0, 0), (4, 6, 0, 0), (0, 0, 1, 10), (0, 0, 1, 11)]


# -- KV blocks --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_blocks_are_never_lost_nor_shared_by_accident(data: st.DataObject) -> None:
    table = PageTable(data.draw(st.integers(1, 30)), data.draw(st.sampled_from([1, 3, 16])))
    text: dict[int, list[int]] = {}  # what each sequence should read back
    memory: dict[tuple[int, int], int] = {}
    names = itertools.count()
    tokens = itertools.count()

    def write(sequence: int, start: int) -> None:
        blocks = table.blocks_of(sequence)
        for at in range(start, len(text[sequence])):
            memory[blocks[at // table.block_tokens], at % table.block_tokens] = text[sequence][at]

    for _ in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["add", "share", "fork", "append", "release"]))
        old = data.draw(st.sampled_from(sorted(text))) if text else None
        count = data.draw(st.integers(1, 40))
        before = (table.free, len(table))
        try:
            if action == "add" or old is None:
                new = next(names)
                table.add(new, count)
                text[new] = list(itertools.islice(tokens, count))
                write(new, 0)
            elif action == "share":
                new = next(names)
                shared = min(count, len(text[old]))
                table.add(new, count, old, shared)
                whole = shared // table.block_tokens * table.block_tokens
                text[new] = text[old][:whole] + list(itertools.islice(tokens, count - whole))
                write(new, whole)
            elif action == "fork":
                new = next(names)
                table.fork(old, new)
                text[new] = list(text[old])
            elif action == "append":
                start = len(text[old])
                partial = start % table.block_tokens
                origin = table.blocks_of(old)[start // table.block_tokens] if partial else -1
                table.append(old, count)
                target = table.blocks_of(old)[start // table.block_tokens]
                if partial and target != origin:  # the engine copies the block
                    for offset in range(partial):
                        memory[target, offset] = memory[origin, offset]
                text[old] += itertools.islice(tokens, count)
                write(old, start)
            else:
                table.release(old)
                del text[old]
        except OutOfBlocksError:
            assert (table.free, len(table)) == before, "nothing was changed"
        table.check()
        assert table.free + table.used == table.blocks
        for sequence, expected in text.items():
            blocks = table.blocks_of(sequence)
            assert table.tokens_of(sequence) == len(expected)
            read = [memory[blocks[i // table.block_tokens], i % table.block_tokens] for i in range(len(expected))]
            assert read == expected, "another sequence wrote into a shared block"
    for sequence in list(text):
        table.release(sequence)
    table.check()
    assert table.used == 0


requests_of = st.lists(st.tuples(st.floats(0, 2), st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(
    requests=requests_of,
    blocks=st.integers(0, 40),
    block_tokens=st.sampled_from([1, 4, 16]),
    sequences=st.integers(1, 12),
    mode=st.sampled_from(["static", "dynamic", "continuous", "chunked", "disaggregated"]),
)
def test_every_request_is_answered_once_and_all_blocks_come_back(
    requests: list[tuple[float, int, int]], blocks: int, block_tokens: int, sequences: int, mode: str
) -> None:
    load = [Request(*r) for r in sorted(requests)]
    longest = max(-(-(r.input_tokens + r.output_tokens - 1) // block_tokens) for r in load)
    options: dict[str, Any] = {"chunked_prefill": True, "max_batched_tokens": 16} if mode == "chunked" else {}
    machine = Engine(
        EXACT,
        mode="continuous" if mode == "chunked" else mode,
        max_sequences=sequences,
        kv_blocks=longest + blocks,
        block_tokens=block_tokens,
        **options,
    )
    found = simulate(machine, load, trace_requests=len(load))  # asserts itself that no block is left behind
    assert found.requests == len(load)
    assert found.unanswered == 0
    assert found.output_tokens == sum(r.output_tokens for r in load)
    assert 0 <= (found.kv_peak or 0) <= 1
    assert (found.kv_occupancy or 0) <= (found.kv_peak or 0) + 1e-9
    assert found.largest_batch <= sequences
    assert sorted(r.number for r in found.requests_trace) == list(range(len(load)))
    for r in found.requests_trace:
        assert r.arrival_seconds <= r.admitted_seconds <= r.first_token_seconds <= r.finish_seconds
        assert len(r.spans) == r.preemptions + (mode != "disaggregated" or r.output_tokens > 1)
    busy: dict[int, list[tuple[float, float]]] = {}
    for r in found.requests_trace:
        for slot, since, until in r.spans:
            busy.setdefault(slot, []).append((since, until))
    assert len(busy) <= sequences
    for spans in busy.values():
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(sorted(spans))), "a place holds one at a time"


def test_blocks_by_name() -> None:
    table = PageTable(2)
    table.add("a", 17)
    with pytest.raises(OutOfBlocksError, match="1 blocks are needed and 0 of 2 are free; release a sequence"):
        table.add("b", 1)
    with pytest.raises(LLMHWError, match="sequence='a' holds blocks already"):
        table.add("a", 1)
    with pytest.raises(LLMHWError, match="sequence='b' holds no blocks; add it first"):
        table.release("b")
    assert "a" in table
    table.release("a")
    assert "a" not in table
    assert table.free == 2


# -- statistics -------------------------------------------------------------------------------


def test_quantiles_keep_their_relative_error() -> None:
    random = Random(1)
    values = [random.lognormvariate(0, 2) for _ in range(30_000)] + [0.0] * 100
    found = Quantiles()
    found.extend(values)
    assert not found.is_exact
    values.sort()
    for q in (0.0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.9999, 1.0):
        exact = values[max(0, math.ceil(q * len(values) - 1e-9) - 1)]
        assert found.quantile(q) == pytest.approx(exact, rel=0.0101)
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.largest == values[-1]


def test_quantiles_of_few_numbers_are_some_of_them() -> None:
    found = Quantiles()
    assert found.quantile(0.5) is found.mean is found.largest is None
    found.extend([3.0, 1.0, 2.0])
    assert found.quantiles((0, 0.33, 0.5, 1)) == [1.0, 1.0, 2.0, 3.0]
    with pytest.raises(LLMHWError, match=r"q=1\.5 must be from 0 to 1"):
        found.quantile(1.5)


def test_requests_are_read_as_they_are_needed() -> None:
    """However long the queue is, only requests in flight are held, and the head of the queue."""
    steps = itertools.count()
    pulled = 0

    def load() -> Iterator[Request]:
        nonlocal pulled
        while True:
            pulled += 1
            yield Request(0.0, 10, 10)

    def step(*work: int) -> float:
        if next(steps) == 1000:
            raise KeyboardInterrupt
        return 0.01

    found = simulate(Engine(step, max_sequences=16), load())
    assert found.requests > 1000
    assert pulled - found.requests <= 17
    assert found.unanswered <= 16


# -- result -----------------------------------------------------------------------------------


def test_it_prints_and_serializes() -> None:
    found = simulate(engine(kv_blocks=300), POISSON, slo=SLO(ttft_seconds=20))
    text = str(found)
    assert "first token at most 20.0 s" in text
    assert "preemptions" in text
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["slo"] == {"ttft_seconds": 20, "tpot_seconds": None}
    assert set(plain["ttft"]) == {"count", "mean", "p50", "p90", "p95", "p99", "largest"}
    empty = simulate(engine(), [])
    assert set(plain) == set(empty.to_dict())
    assert list(plain) == list(empty.to_dict())


def test_goodput_counts_those_that_keep_both() -> None:
    load = [Request(0, 1, 5), Request(10, 1, 9), Request(20, 1, 1), Request(20.5, 1, 2)]
    one = Engine(StepModel(1.0), max_sequences=1)
    found = simulate(one, load, slo=SLO(ttft_seconds=1, tpot_seconds=1))
    assert (found.good, found.goodput) == (3, 0.75)
    assert found.goodput_per_second == pytest.approx(3 / found.seconds)
    never = simulate(one, load, slo=SLO(ttft_seconds=0.5))
    assert (never.good, never.goodput, never.goodput_per_second) == (0, 0.0, 0.0)
    assert "no request keeps it" in str(never)
    without = simulate(one, load)
    assert without.goodput is without.good is without.goodput_per_second is None


@pytest.mark.parametrize("mode", MODES)
def test_no_requests_are_an_answer(mode: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_seconds,input_tokens,output_tokens\n")
    loads: list[Any] = [[], Poisson(1, 1, 1, requests=0), Closed(3, 1, 1, requests=0), Recorded(trace)]
    for load in loads:
        found = simulate(engine(**MODES[mode]), load, slo=SLO(1))
        assert (found.requests, found.seconds, found.goodput, found.ttft.p99) == (0, 0.0, None, None)
        assert "no request" in str(found)
        assert "no request" in found._repr_html_()


def test_a_window_is_traced() -> None:
    found = simulate(engine(), POISSON, trace_seconds=(5, 6))
    assert 0 < len(found.requests_trace) < 100
    assert all(r.arrival_seconds <= 6 and r.finish_seconds >= 5 for r in found.requests_trace)
    assert found.steps_trace[0].end_seconds >= 5
    assert found.steps_trace[-1].start_seconds <= 6
    assert all(a.end_seconds <= b.start_seconds for a, b in itertools.pairwise(found.steps_trace))
    assert simulate(engine(), POISSON).requests_trace == ()


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_leaves_what_there_is(mode: str) -> None:
    def load() -> Iterator[Request]:
        yield from itertools.islice(POISSON, 200)
        raise KeyboardInterrupt

    found = simulate(engine(**MODES[mode]), load(), slo=SLO(5))
    assert not found.complete
    assert 0 < found.requests < 200
    assert found.requests + found.unanswered <= 200
    assert "interrupted at" in found.note
    assert f"{found.requests:,} requests answered" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_an_interrupt_in_a_step_too() -> None:
    calls = itertools.count()

    def step(*work: int) -> float:
        if next(calls) == 500:
            raise KeyboardInterrupt
        return 0.01

    found = simulate(engine(step=step), POISSON)
    assert not found.complete
    assert found.seconds > 0


# -- recorded loads ---------------------------------------------------------------------------


def trace(folder: Path, text: str) -> Recorded:
    path = folder / "trace.csv"
    path.write_text(text)
    return Recorded(path)


def test_a_trace_is_read_with_arrivals_or_gaps(tmp_path: Path) -> None:
    arrivals = trace(tmp_path, "id,arrival_seconds,input_tokens,output_tokens\na,1,10,20\n\nb,3,30,40.0\n")
    assert [r[:3] for r in arrivals] == [(1, 10, 20), (3, 30, 40)]
    assert [r.arrival_seconds for r in Recorded(arrivals.path, speed=2)] == [0.5, 1.5]
    assert len(list(Recorded(arrivals.path, most=1))) == 1
    gaps = trace(tmp_path, "\ufeffgap_seconds, input_tokens ,output_tokens\n1,10,20\n2,30,40\n")
    assert [r[:3] for r in gaps] == [(1, 10, 20), (3, 30, 40)]
    late = trace(tmp_path, "arrival_seconds,input_tokens,output_tokens\n1700000000,10,20\n1700000001,10,20\n")
    assert simulate(engine(), late).seconds < 10


def test_lengths_of_a_trace_make_a_distribution(tmp_path: Path) -> None:
    path = trace(tmp_path, "gap_seconds,input_tokens,output_tokens\n1,10,20\n2,30,40\n").path
    lengths = Empirical.from_csv(path, "output_tokens")
    assert lengths.values == (20, 40)
    assert {r.output_tokens for r in Poisson(1, 1, lengths, requests=50)} == {20, 40}
    with pytest.raises(LLMHWError, match=r"column 'tokens' .*is missing in .*trace\.csv; its columns are gap_seconds"):
        Empirical.from_csv(path, "tokens")


HEAD = "arrival_seconds,input_tokens,output_tokens\n"
GAPS = "gap_seconds,input_tokens,output_tokens\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GAPS + "1,5,5\n-2,5,5\n", r"trace\.csv, line 3: gap_seconds='-2' must be a number of at least 0; sort"),
        (HEAD + "2,5,5\n1,5,5\n", r"line 3: arrival_seconds='1' must not be before that of the request above, 2\.0"),
        (HEAD + "-1,5,5\n", r"line 2: arrival_seconds=-1\.0 must be a number of at least 0"),
        (HEAD + "1,5,5\n2,five,5\n", r"line 3: input_tokens='five' must be a number, without unit"),
        (HEAD + "1,5,5\n\n2,5,1_0\n", r"line 4: output_tokens='1_0' must be a number, without unit"),
        (HEAD + "nan,5,5\n", r"line 2: arrival_seconds='nan' must be a number"),
        (HEAD + "1,0,5\n", r"line 2: input_tokens='0' must be a whole number of at least 1"),
        (HEAD + "1,5,2.5\n", r"line 2: output_tokens='2\.5' must be a whole number of at least 1"),
        (HEAD + "1,5\n", r"line 2: output_tokens='' must be a number"),
        (HEAD + "1,5,5,6\n", r"line 2: 4 cells for 3 columns"),
        (HEAD + "1,5,5\n2,8000,100\n", r"line 3: input_tokens=8000 and output_tokens=100 need 507 blocks of 16 tokens"),
        (HEAD + '1,"5,5\n', r"line 2 is not CSV"),
        ("", r"trace\.csv is empty; its first line must name the columns"),
        ("arrival_seconds,inputs_tokens,output_tokens\n", r"column 'input_tokens' \(did you mean inputs_tokens\?\)"),
        ("input_tokens,output_tokens\n", r"column 'arrival_seconds' or 'gap_seconds' is missing in .*trace\.csv"),
        ("gap_seconds,gap_seconds,input_tokens,output_tokens\n", "has the column 'gap_seconds' twice"),
    ],
)
def test_bad_traces_name_line_and_rule(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        simulate(engine(), trace(tmp_path, text))


def test_traces_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(LLMHWError, match=r"none\.csv does not exist; give the path of a CSV file"):
        list(Recorded(tmp_path / "none.csv"))
    with pytest.raises(LLMHWError, match="is a folder"):
        list(Recorded(tmp_path))
    (tmp_path / "latin.csv").write_bytes(HEAD.encode() + b"1,5,5\xe9\n")
    with pytest.raises(LLMHWError, match="is not text in UTF-8"):
        list(Recorded(tmp_path / "latin.csv"))


def test_a_context_too_long_is_named() -> None:
    short = engine(max_context=100)
    with pytest.raises(
        LLMHWError, match=r"request 2: input_tokens=90 and output_tokens=20 must be at most max_context"
    ):
        simulate(short, [Request(0, 5, 5), Request(0, 90, 20)])
    with pytest.raises(LLMHWError, match=r"request 1: input_tokens=90 .* more than kv_blocks=5; leave the request out"):
        simulate(engine(kv_blocks=5), Closed(1, 90, 20, requests=1))


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([Request(1, 5, 5), Request(0, 5, 5)], "request 2: arrival_seconds=0 must not be before .*, 1; sort"),
        ([Request(math.nan, 5, 5)], "request 1: arrival_seconds=nan must be a number of at least 0"),
        ([Request(0, 0, 5)], "request 1: input_tokens=0 must be a whole number of at least 1"),
        ([Request(0, 5, -5)], "request 1: output_tokens=-5 must be a whole number of at least 1"),
        ([(0, 5)], r"request 1 is \(0, 5\); give a Request"),
        ([5], "request 1 is 5; give a Request"),
        (5, "requests=5 must be Poisson, Closed, Recorded or an iterable of Request"),
    ],
)
def test_bad_requests_are_named(requests: Any, message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        simulate(engine(), requests)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Poisson(0, 1, 1, requests=1), "rate=0 must be a number above 0; no request would ever come"),
        (lambda: Poisson(-1, 1, 1, requests=1), "rate=-1 must be a number above 0"),
        (lambda: Poisson(math.inf, 1, 1, requests=1), "rate=inf must be a number above 0"),
        (lambda: Poisson(1, 1, 1), "requests=None needs seconds= in its place"),
        (lambda: Poisson(1, 0, 1, requests=1), "input_tokens=0 must be a whole number of at least 1"),
        (lambda: Poisson(1, 1, "x", requests=1), "output_tokens='x' must be a whole number or a distribution"),  # type: ignore[arg-type]
        (lambda: Poisson(1, 1, 1, requests=1, seed=0.5), "seed=0.5 must be a whole number"),  # type: ignore[arg-type]
        (lambda: Closed(0, 1, 1, requests=1), "concurrency=0 must be a whole number of at least 1"),
        (lambda: Closed(1, 1, 1, requests=1, think_seconds=-1), "think_seconds=-1 must be a number of at least 0"),
        (lambda: Recorded("x", speed=0), "speed=0 must be a number above 0"),
        (lambda: Uniform(5, 4), "low=5 must be at most high=4; exchange the two"),
        (lambda: LogNormal(0, 1), "median=0 must be a number above 0"),
        (lambda: LogNormal(5, 1, least=5, most=4), "most=4 must be a whole number of at least 5"),
        (lambda: Exponential(-1), "mean=-1 must be a number above 0"),
        (lambda: Empirical(()), r"values=\(\) must hold at least one length"),
        (lambda: SLO(-1), "ttft_seconds=-1 must be a number of at least 0"),
        (lambda: engine(mode="continous"), "mode='continous' is not known; did you mean continuous"),
        (lambda: engine(step=5), "step=5 must be a StepModel or a function of four numbers"),
        (lambda: engine(max_sequences=0), "max_sequences=0 must be a whole number of at least 1"),
        (lambda: engine(kv_blocks=0), "kv_blocks=0 must be a whole number of at least 1"),
        (lambda: engine(watermark=1), "watermark=1 must be below 1"),
        (lambda: engine(chunked_prefill=True, max_batched_tokens=63), "max_batched_tokens=63 must be at least max_seq"),
        (lambda: engine(mode="static", chunked_prefill=True), "chunked_prefill=True belongs to mode continuous, not"),
        (lambda: engine(max_delay_seconds=1), "max_delay_seconds=1 belongs to mode dynamic, not to continuous"),
        (lambda: engine(mode="dynamic", preferred_sizes=(65,)), r"preferred_sizes=\(65,\) must be at most max_seq"),
        (lambda: engine(shared_prefix_tokens=8000), "shared_prefix_tokens=8000 fills all kv_blocks=500"),
        (lambda: simulate(engine(), [], trace_seconds=(2, 1)), r"trace_seconds\[1\]=1 must be a number of at least 2"),
        (lambda: simulate(engine(), [], trace_seconds=2), r"trace_seconds=2 must be two numbers, \(from, to\)"),  # type: ignore[arg-type]
        (lambda: simulate(engine(step=lambda *work: math.nan), POISSON), r"step\(\d+, 0, 0, 0\)=nan must be seconds"),
        (lambda: simulate(engine(shared_prefix_tokens=128), [Request(0, 128, 1)]), "must be more than shared_prefix"),
    ],
)
def test_wrong_arguments_are_named(make: Any, message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        make()


def test_blocks_for_the_longest_are_empty_by_what_is_not_used() -> None:
    found = measure_empty(1024, Uniform(100, 300), Uniform(10, 90))
    assert found.share == pytest.approx(1 - found.tokens / 1024)
    assert measure_empty(1, Uniform(100, 300), Uniform(10, 90)) == (0, found.tokens)  # the same sequences
    with pytest.raises(LLMHWError, match=r"steps=1 are too few: no sequence came; use 100 or more"):
        measure_empty(16, Uniform(1, 2), Uniform(1, 2), steps=1)
