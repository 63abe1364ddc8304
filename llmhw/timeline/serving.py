"""The passes of an engine: those of its steady state, and those of a simulation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

from llmhw.checks import check_object
from llmhw.timeline.trace import Level, Span, Timeline, in_turn
from llmhw.units import LLMHWError

if TYPE_CHECKING:
    from llmhw.service import ServingEstimate, SimulatedService

# Requests of a simulation that are drawn, and the steps until they are answered.
DRAWN = 1000


def serve(answer: ServingEstimate) -> Timeline:
    """A cycle of a service at its load, in which as many requests end as are at work; and the way of one of them.

    Rows: the engine, or of one that has replicas for prompts each of those, and one request. Passes of the cycle are
    alike, and prompts lie evenly between them; runs of passes are one span.

    Raises `LLMHWError` where nothing runs.

    >>> import llmhw
    >>> job = llmhw.ServingJob(model=llmhw.model("llama-3-8b"), cluster=llmhw.Cluster("h100", 1))
    >>> answer = llmhw.serve(job, input_tokens=1000, output_tokens=101, concurrency=8)
    >>> found = serve(answer)
    >>> found.rows, round(sum(found.sums(0).values()) / found.seconds, 9)
    (('engine', 'one request'), 1.0)
    """
    check_object("answer", answer, "ServingEstimate")
    if not answer.fits:
        raise LLMHWError(f"timeline of {answer.job.model.name}: {answer.verdict}")
    service, n = answer.service, answer.service.wanted or answer.point.concurrency
    n = min(n, answer.capacity)
    made = service.answers(n, "terms")
    (first,) = made.terms["first token"]
    given = dict(first.inputs)
    cycle = dict(first.because[-1].inputs) | {"cycle": float(given["cycle"])}
    together, _ = service.batches(n)
    parts = {name: float(seconds) for name, seconds in service.decoding(together, "parts").parts.items() if seconds}
    ttft, tpot, _ = (float(value) for value in made.parts.values())
    if service.workers:
        rows, spans = _apart(cycle, parts)
        own = {"wait": 0.0, "prompt": float(cycle["prompt_seconds"]), "transfer": float(cycle["transfer_seconds"])}
    else:
        rows, spans = ["engine"], [*_together(cycle, parts)]
        own = {"wait": 0.0, "prompt": float(given["latency_seconds"])}
    own["wait"] = max(0.0, ttft - sum(own.values()))
    own["decoding"] = (answer.output_tokens - 1) * tpot
    spans += in_turn(len(rows), {name: seconds for name, seconds in own.items() if seconds}, 0.0)
    held = {"decoding": float(together)}
    return Timeline(
        title=answer.title,
        rows=(*rows, "one request"),
        spans=tuple(spans),
        levels=(Level("sequences", 0.0, held), Level("sequences", cycle["cycle"], held)),
        seconds=cycle["cycle"],
        notes=(f"{n:,} requests at work; one of the groups that batch on their own is drawn",),
    )


def _passes(row: int, start: float, count: float, parts: Mapping[str, float]) -> Span:
    """A run of equal passes of one part each of a token to every sequence."""
    seconds = {name: value * count for name, value in parts.items()}
    return Span(row, f"{count:,.4g} passes", start, sum(seconds.values()), "decoding", seconds, {"passes": count})


def _together(cycle: Mapping[str, Any], parts: Mapping[str, float]) -> Iterator[Span]:
    """Prompts and passes of an engine that does both."""
    sequences, passes, at = float(cycle["sequences"]), cycle["output_tokens"] - 1, 0.0
    done = 0
    for i in range(ceil(sequences)):
        part = min(1.0, sequences - i)
        seconds = float(cycle["prompt_seconds"]) * part
        yield Span(0, f"prompt {i}", at, seconds, "prompt")
        at += seconds
        until = round(passes * (i + part) / sequences)
        if until > done:
            made = _passes(0, at, until - done, parts)
            yield made
            at, done = made.end, until


def _apart(cycle: Mapping[str, Any], parts: Mapping[str, float]) -> tuple[list[str], list[Span]]:
    """Rows and spans of replicas that decode, and of those for prompts."""
    sequences, workers, whole = float(cycle["sequences"]), int(cycle["workers"]), float(cycle["cycle"])
    rows = ["replica that decodes", *(f"replica for prompts {i}" for i in range(workers))]
    every, spans = ceil(sequences), list[Span]()
    for i in range(every):
        spans.append(_passes(0, whole * i / every, whole / every / sum(parts.values()), parts))
    busy = sequences * float(cycle["work_seconds"]) / workers
    prompts = max(1, ceil(sequences / workers))
    for row in range(1, 1 + workers):
        for i in range(prompts):
            start = whole * i / prompts
            idle = max(0.0, whole - busy) / prompts
            spans += in_turn(row, {"prompt": busy / prompts} | ({"idle": idle} if idle else {}), start)
    return rows, spans


def simulate(answer: SimulatedService) -> Timeline:
    """The steps of a simulated engine, and the requests in its batch: a row for each place in it.

    Drawn is what the simulation traced; steps that are alike and in a row are one span. Prompts that replicas of their
    own compute are not among the steps.

    >>> import llmhw
    >>> from llmhw.service import simulate_service
    >>> job = llmhw.ServingJob(model=llmhw.model("llama-3-8b"), cluster=llmhw.Cluster("h100", 1))
    >>> answer = simulate_service(job, rate=4, requests=50, traced=50)
    >>> found = simulate(answer)
    >>> busy = sum(seconds for name, seconds in found.sums(0).items() if name != "idle")
    >>> round(busy / (answer.result.utilization * answer.result.seconds), 9)
    1.0
    """
    check_object("answer", answer, "SimulatedService")
    result = answer.result
    if not result.requests_trace:
        raise LLMHWError("timeline: no request was traced; ask llmhw.service.simulate_service for traced=1000")
    begin = min(request.arrival_seconds for request in result.requests_trace)
    steps = [step for step in result.steps_trace if step.end_seconds > begin]
    spans, levels, at = list[Span](), list[Level](), 0.0
    for step in steps:
        start, end = step.start_seconds - begin, step.end_seconds - begin
        if start > at:
            spans.append(Span(0, "idle", at, start - at, "idle"))
        kind = "prompts" if not step.decode_sequences else "decoding" if not step.prefill_tokens else "both"
        facts = {"steps": step.steps, "prompt tokens": step.prefill_tokens, "sequences": step.decode_sequences}
        spans.append(Span(0, f"{step.steps:,} x {kind}", start, end - start, kind, facts=facts))
        levels.append(Level("KV blocks", start, {"held": step.kv_blocks}))
        levels.append(Level("batch", start, {"sequences": step.decode_sequences}))
        at = end
    places = 1 + max((slot for r in result.requests_trace for slot, _, _ in r.spans), default=-1)
    for r in result.requests_trace:
        told: dict[str, Any] = {"wait": r.admitted_seconds - r.arrival_seconds}
        told |= {"first token": r.first_token_seconds - r.arrival_seconds, "preemptions": r.preemptions}
        told |= {"prompt tokens": r.input_tokens, "tokens": r.output_tokens}
        for slot, since, until in r.spans:
            spans.append(Span(1 + slot, f"request {r.number}", since - begin, until - since, "request", facts=told))
    levels += _waiting(result.requests_trace, begin)
    some = f"the first {len(result.requests_trace):,} of {result.requests:,} requests"
    return Timeline(
        title=answer.title.replace("\n", "; "),
        rows=("engine", *(f"place {i} of the batch" for i in range(places))),
        spans=tuple(spans),
        levels=tuple(levels),
        seconds=max([at, *(r.finish_seconds - begin for r in result.requests_trace)]),
        notes=(some,) if len(result.requests_trace) < result.requests else (),
    )


def _waiting(requests: Any, begin: float) -> list[Level]:
    """How many requests wait to be admitted, from moment to moment."""
    changes = [(r.arrival_seconds, 1) for r in requests] + [(r.admitted_seconds, -1) for r in requests]
    found, waiting = [], 0
    for at, change in sorted(changes, key=lambda one: (one[0], -one[1])):
        waiting += change
        found.append(Level("queue", at - begin, {"requests": waiting}))
    return found
