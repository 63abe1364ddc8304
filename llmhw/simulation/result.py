"""What a simulation found, as fields, text and tables."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from llmhw.formula import Report, Table
from llmhw.language import said
from llmhw.simulation.engine import SLO
from llmhw.simulation.record import RequestTrace, StepTrace
from llmhw.simulation.statistics import Spread
from llmhw.units import format_quantity, plain_fields


@dataclass(frozen=True, slots=True, repr=False)
class SimulationResult(Report):
    """What a simulation found.

    mode                       of the engine
    requests                   that were answered; `unanswered`: in flight when it was interrupted
    seconds                    from the first arrival to the last answer
    arrivals_per_second        that came; None where users wait for their answers
    keeps_up                   whether requests are answered as fast as they come: False if the latency of later ones
                               grows on and on, None if the run is too short to tell, or users wait for their answers
    requests_per_second, output_tokens_per_second   over `seconds`
    input_tokens, output_tokens   of the requests answered
    ttft, tpot, latency, wait  seconds to the first token, between the tokens after it, to the last one, and from
                               arrival to admission, each as a `Spread`
    relative_error             of the percentiles: 0 up to 10,000 requests; means and the largest are exact
    slo, good, goodput, goodput_per_second   the objective, the requests that keep it, their share, and how many a
                               second; None without one
    mean_in_system, mean_waiting   requests, by Little's law: exact, as all of a complete run come and go in `seconds`
    mean_batch, largest_batch  sequences in the batch, over the time in which there is one
    utilization                share of `seconds` in which the engine is busy; with prefill machines, of the decode
                               machine, and `prefill_utilization` of the others
    kv_occupancy, kv_peak      share of the KV blocks that are held, mean over `seconds` and largest; None without limit
    steps                      of the engine
    preemptions, recomputed_tokens   sequences that had to give their blocks back, and tokens computed again for it
    complete, note             False if it was interrupted, and where
    requests_trace, steps_trace   what was asked to be traced
    """

    mode: str
    requests: int
    unanswered: int
    seconds: float
    arrivals_per_second: float | None
    keeps_up: bool | None
    requests_per_second: float
    output_tokens_per_second: float
    input_tokens: int
    output_tokens: int
    ttft: Spread
    tpot: Spread
    latency: Spread
    wait: Spread
    relative_error: float
    slo: SLO | None
    good: int | None
    goodput: float | None
    goodput_per_second: float | None
    mean_in_system: float
    mean_waiting: float
    mean_batch: float
    largest_batch: int
    utilization: float
    prefill_utilization: float | None
    kv_occupancy: float | None
    kv_peak: float | None
    steps: int
    preemptions: int
    recomputed_tokens: int
    complete: bool = True
    note: str = ""
    requests_trace: tuple[RequestTrace, ...] = ()
    steps_trace: tuple[StepTrace, ...] = ()

    @property
    def title(self) -> str:
        """One line that says what was simulated."""
        partial = f" ({said(self.note)})" if self.note else ""
        mode = said(f"{self.mode} batching")
        if not self.requests:
            return said("{mode}: no request was answered", mode=mode) + partial
        time = format_quantity(self.seconds, "seconds")
        return said("{mode}: {requests:,} requests in {time}", mode=mode, requests=self.requests, time=time) + partial

    @property
    def verdict(self) -> str:
        """Whether the engine keeps up with what comes, and the times that requests see."""
        return self.told()

    def told(self, groups: int = 1, users: int | None = None) -> str:
        """The verdict, in numbers of so many equal engines, or of so many users who wait for their answers."""
        if not self.requests:
            note = f": {said(self.note)}" if self.note else ""
            return said("No request was answered{note}.", note=note)
        speed = format_quantity(self.output_tokens_per_second * groups, "tokens/s")
        text = "first token {first}, {next} a token, {speed} for all"
        times = said(text, first=_times(self.ttft), next=_times(self.tpot), speed=speed)
        if self.goodput is not None:
            share = format_quantity(self.goodput, "fraction")
            times = said("{share} of requests within the limits; {times}", share=share, times=times)
        rate = format_quantity((self.arrivals_per_second or 0.0) * groups, "requests/s")
        answered = format_quantity(self.requests_per_second * groups, "requests/s")
        if self.note:
            note = said(self.note)
            return said("{note}: {times}.", note=f"{note[:1].upper()}{note[1:]}", times=times)
        if self.keeps_up is False:
            text = "Does not keep up with {rate}: the queue grows, {answered} are answered; {times}."
            return said(text, rate=rate, answered=answered, times=times)
        if self.keeps_up:
            return said("Keeps up with {rate}: {times}.", rate=rate, times=times)
        if users is not None:
            text = "{number:,} user at a time: {times}." if users == 1 else "{number:,} users at a time: {times}."
            return said(text, number=users, times=times)
        text = "{number:,} request: {times}." if self.requests == 1 else "{number:,} requests: {times}."
        return said(text, number=self.requests, times=times)

    def warnings(self) -> list[str]:
        """What must be known to trust the numbers."""
        found = []
        if self.requests and self.keeps_up is None and self.arrivals_per_second is not None and not self.note:
            found.append(said("So short a run does not tell whether the engine keeps up: give more requests."))
        if self.relative_error:
            share = format_quantity(self.relative_error, "fraction")
            found.append(said("Percentiles are exact to {share}.", share=share))
        return found

    def to_dict(self) -> dict[str, Any]:
        """All fields but the traces as plain values; an objective that is not set is None."""
        return plain_fields(self, "requests_trace", "steps_trace")

    def rows(self) -> list[tuple[str, str, str]]:
        """Quantity, value and what belongs to it, as text."""
        if not self.requests:
            return [("requests", "0", self.note or "no request came")]

        def times(name: str, spread: Spread) -> tuple[str, str, str]:
            rest = ", ".join(
                f"{q} {format_quantity(getattr(spread, q), 'seconds')}" for q in ("p50", "p90", "p95", "p99")
            )
            if not spread.count:
                return name, "none", "all answers have one token"
            return name, format_quantity(spread.mean, "seconds"), rest

        rows = [
            ("requests", f"{self.requests:,}", _a_second(self.requests_per_second)),
            ("output tokens", f"{self.output_tokens:,}", _a_second(self.output_tokens_per_second)),
            times("time to first token", self.ttft),
            times("time per token", self.tpot),
            times("latency", self.latency),
            times("wait in the queue", self.wait),
            (
                "batch",
                f"{self.mean_batch:.1f}",
                said(
                    "largest {largest:,}; {mean:.1f} requests in the system",
                    largest=self.largest_batch,
                    mean=self.mean_in_system,
                ),
            ),
            ("utilization", format_quantity(self.utilization, "fraction"), said("{steps:,} steps", steps=self.steps)),
        ]
        if self.prefill_utilization is not None:
            rows.append(("prefill utilization", format_quantity(self.prefill_utilization, "fraction"), ""))
        if self.kv_occupancy is not None and self.kv_peak is not None:
            peak = format_quantity(self.kv_peak, "fraction")
            rows.append(
                ("KV blocks held", format_quantity(self.kv_occupancy, "fraction"), said("at most {share}", share=peak))
            )
        if self.preemptions:
            again = said("{tokens:,} tokens computed again", tokens=self.recomputed_tokens)
            rows.append(("preemptions", f"{self.preemptions:,}", again))
        if self.slo is not None and self.goodput is not None:
            limits = [
                said("{figure} at most {time}", figure=said(name), time=format_quantity(limit, "seconds"))
                for name, limit in (("first token", self.slo.ttft_seconds), ("token", self.slo.tpot_seconds))
                if limit < inf
            ]
            met = "" if self.good else said("; no request keeps it")
            rate = _a_second(self.goodput_per_second)
            rows.append(
                ("goodput", format_quantity(self.goodput, "fraction"), ", ".join([rate, *limits]) + met),
            )
        return rows

    def tables(self) -> list[Table]:
        return [Table(self.title, ("quantity", "value", "percentiles or detail"), self.rows(), prose=True, head=())]


def _a_second(number: float | None) -> str:
    return said("{number} a second", number=format_quantity(number, ""))


def _times(spread: Spread) -> str:
    """The median and the 99th percentile."""
    if not spread.count:
        return said("none")
    return f"{format_quantity(spread.p50, 'seconds')} (p99 {format_quantity(spread.p99, 'seconds')})"
