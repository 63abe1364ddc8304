"""An inference engine, simulated request by request: how batching, the KV cache and the load make latency.

The time of a step comes from elsewhere: a `StepModel`, or any function of what the step does. Time advances from event
to event. While a batch only decodes, all its sequences advance together, over many steps at once where the step model
is affine, with the same result as step by step. Only requests in flight are held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmhw.checks import checked, whole
from llmhw.queueing import StepModel, littles_law
from llmhw.simulation.batching import Batches, Continuous
from llmhw.simulation.cache import (
    Emptiness,
    FilledCache,
    OutOfBlocksError,
    PageTable,
    empty_page_share,
    filled_cache,
    measure_empty,
)
from llmhw.simulation.engine import MODES, SLO, Engine, StepSeconds
from llmhw.simulation.load import (
    Closed,
    Distribution,
    Empirical,
    Exponential,
    Lengths,
    LogNormal,
    Poisson,
    Recorded,
    Request,
    Uniform,
    input_files,
)
from llmhw.simulation.record import RequestTrace, Run, StepTrace
from llmhw.simulation.result import SimulationResult
from llmhw.simulation.sources import Open, Prefilled, Users
from llmhw.simulation.statistics import Quantiles, Spread
from llmhw.units import LLMHWError, check_count, check_number, format_quantity, shown

__all__ = [
    "MODES",
    "SLO",
    "Closed",
    "Distribution",
    "Empirical",
    "Emptiness",
    "Engine",
    "Exponential",
    "FilledCache",
    "Lengths",
    "LogNormal",
    "OutOfBlocksError",
    "PageTable",
    "Poisson",
    "Quantiles",
    "Recorded",
    "Request",
    "RequestTrace",
    "SimulationResult",
    "Spread",
    "StepModel",
    "StepSeconds",
    "StepTrace",
    "Uniform",
    "empty_page_share",
    "filled_cache",
    "input_files",
    "measure_empty",
    "simulate",
]


@checked(trace_seconds=None, total=whole(0))
def simulate(
    engine: Engine,
    requests: Poisson | Closed | Recorded | Iterable[Request],
    *,
    slo: SLO | None = None,
    trace_requests: int = 0,
    trace_seconds: tuple[float, float] | None = None,
    progress: Callable[[int, int | None], object] | None = None,
    total: int | None = None,
) -> SimulationResult:
    """Run requests through an engine and tell how long they took.

    requests         a load, or any iterable of `Request` in the order of arrival, which is read as it is needed
    slo              what a request must keep to be good
    trace_requests   the first so many are traced, with the steps until they are answered
    trace_seconds    (from, to): requests and steps in this time are traced
    progress         called as progress(requests answered, requests in all), some ten times a second, and at the end
    total            of these, where `requests` does not say it; None: not known

    Interrupted (Ctrl-C), it returns what it has, with `complete=False` and where it was in `note`.

    >>> engine = Engine(StepModel(0.008, prefill_token_seconds=1e-5, cached_token_seconds=4e-8), max_sequences=64)
    >>> found = simulate(engine, Poisson(rate=10, input_tokens=500, output_tokens=200, requests=500, seed=1))
    >>> found.requests, round(found.tpot.mean, 3), found.preemptions
    (500, 0.01, 0)
    """
    check_count("trace_requests", trace_requests, 0)
    if trace_seconds is not None:
        try:
            low, high = trace_seconds
        except (TypeError, ValueError):
            raise LLMHWError(f"trace_seconds={shown(trace_seconds)} must be two numbers, (from, to)") from None
        check_number("trace_seconds[1]", high, check_number("trace_seconds[0]", low))
    if total is None and isinstance(requests, (Poisson, Closed)):
        total = requests.requests
    run = Run(slo, trace_requests, trace_seconds, progress, total)
    source = Users(engine, requests) if isinstance(requests, Closed) else Open(engine, requests)
    machine: Continuous | Batches
    if engine.mode in ("static", "dynamic"):
        machine = Batches(engine, source, run)
    else:
        pooled = engine.mode == "disaggregated"
        machine = Continuous(engine, Prefilled(engine, source, run) if pooled else source, run)
    note = ""
    try:
        machine.run()
    except KeyboardInterrupt:
        flight = run.begun - run.ended
        at = format_quantity(max(run.now, run.last), "seconds")
        note = f"interrupted at {at} of simulated time, {run.ended:,} requests answered, {flight:,} in flight"
    if progress is not None:
        progress(run.ended, run.ended if total is None and not note else total)
    return _result(engine, run, note, isinstance(requests, Closed))


def _keeps_up(run: Run) -> bool | None:
    """Whether the engine answers what comes as fast as it comes; None if the run does not tell."""
    drift = run.drift()
    if drift is None:
        return None
    # so short a run shows how the batch fills, and no more
    short = run.latest - (run.start or 0.0) < 3 * drift.latency
    queued = drift.wait > 1.3 * drift.wait_before and drift.wait > 0.1 * drift.latency
    if drift.per_second > (0.015 if queued else 0.05):
        return False if queued or not short else None
    return None if short else True


def _result(engine: Engine, run: Run, note: str, closed: bool) -> SimulationResult:
    seconds = max(run.last, run.now if note else 0.0) - (run.start or 0.0) if run.begun else 0.0

    def over(amount: float) -> float:
        return amount / seconds if seconds > 0 else 0.0

    coming = run.latest - (run.start or 0.0)
    limited = engine.kv_blocks
    rated = run.slo is not None
    good = run.good if rated else None
    return SimulationResult(
        mode=engine.mode,
        requests=run.ended,
        unanswered=run.begun - run.ended,
        seconds=seconds,
        arrivals_per_second=None if closed or run.begun < 2 or coming <= 0 else (run.begun - 1) / coming,
        keeps_up=None if closed or note else _keeps_up(run),
        requests_per_second=over(run.ended),
        output_tokens_per_second=over(run.outputs),
        input_tokens=run.inputs,
        output_tokens=run.outputs,
        ttft=Spread.of(run.ttft),
        tpot=Spread.of(run.tpot),
        latency=Spread.of(run.latency),
        wait=Spread.of(run.wait),
        relative_error=0.0 if run.latency.is_exact else run.latency.relative_error,
        slo=run.slo,
        good=good,
        goodput=run.good / run.ended if rated and run.ended else None,
        goodput_per_second=over(run.good) if rated else None,
        mean_in_system=littles_law(arrivals_per_second=over(run.ended), seconds=run.latency.mean or 0.0),
        mean_waiting=littles_law(arrivals_per_second=over(run.ended), seconds=run.wait.mean or 0.0),
        mean_batch=run.sequence_seconds / run.busy if run.busy else 0.0,
        largest_batch=run.largest_batch,
        utilization=over(run.busy),
        prefill_utilization=over(run.prefill_busy) / engine.prefill_workers if engine.mode == "disaggregated" else None,
        kv_occupancy=None if limited is None else over(run.block_seconds) / limited,
        kv_peak=None if limited is None else run.largest_blocks / limited,
        steps=run.steps,
        preemptions=run.preemptions,
        recomputed_tokens=run.recomputed,
        complete=not note,
        note=note,
        requests_trace=tuple(run.requests),
        steps_trace=tuple(run.step_rows),
    )
