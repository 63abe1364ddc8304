"""What a simulation found, as fields, text and tables."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from llmhw.formula import Report, Table
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
        if not self.requests:
            return f"{self.mode} batching: no request was answered" + (f" ({self.note})" if self.note else "")
        partial = f" ({self.note})" if self.note else ""
        seconds = format_quantity(self.seconds, "seconds")
        return f"{self.mode} batching: {self.requests:,} requests in {seconds}{partial}"

    @property
    def verdict(self) -> str:
        """Whether the engine keeps up with what comes, and the times that requests see."""
        return self.told()

    def told(self, groups: int = 1, users: int | None = None) -> str:
        """The verdict, in numbers of so many equal engines, or of so many users who wait for their answers."""
        if not self.requests:
            return f"No request was answered{f': {self.note}' if self.note else ''}."
        speed = format_quantity(self.output_tokens_per_second * groups, "tokens/s")
        times = f"first token {_times(self.ttft)}, {_times(self.tpot)} a token, {speed} for all"
        if self.goodput is not None:
            times = f"{format_quantity(self.goodput, 'fraction')} of requests within the limits; {times}"
        rate = format_quantity((self.arrivals_per_second or 0.0) * groups, "requests/s")
        answered = format_quantity(self.requests_per_second * groups, "requests/s")
        if self.note:
            return f"{self.note[:1].upper()}{self.note[1:]}: {times}."
        if self.keeps_up is False:
            return f"Does not keep up with {rate}: the queue grows, {answered} are answered; {times}."
        if self.keeps_up:
            return f"Keeps up with {rate}: {times}."
        if users is not None:
            return f"{users:,} {'user' if users == 1 else 'users'} at a time: {times}."
        return f"{self.requests:,} {'request' if self.requests == 1 else 'requests'}: {times}."

    def warnings(self) -> list[str]:
        """What must be known to trust the numbers."""
        found = []
        if self.requests and self.keeps_up is None and self.arrivals_per_second is not None and not self.note:
            found.append("So short a run does not tell whether the engine keeps up: give more requests.")
        if self.relative_error:
            found.append(f"Percentiles are exact to {format_quantity(self.relative_error, 'fraction')}.")
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
            ("requests", f"{self.requests:,}", format_quantity(self.requests_per_second, "a second")),
            (
                "output tokens",
                f"{self.output_tokens:,}",
                f"{format_quantity(self.output_tokens_per_second, 'a second')}",
            ),
            times("time to first token", self.ttft),
            times("time per token", self.tpot),
            times("latency", self.latency),
            times("wait in the queue", self.wait),
            (
                "batch",
                f"{self.mean_batch:.1f}",
                f"largest {self.largest_batch:,}; {self.mean_in_system:.1f} requests in the system",
            ),
            ("utilization", format_quantity(self.utilization, "fraction"), f"{self.steps:,} steps"),
        ]
        if self.prefill_utilization is not None:
            rows.append(("prefill utilization", format_quantity(self.prefill_utilization, "fraction"), ""))
        if self.kv_occupancy is not None and self.kv_peak is not None:
            peak = format_quantity(self.kv_peak, "fraction")
            rows.append(("KV blocks held", format_quantity(self.kv_occupancy, "fraction"), f"at most {peak}"))
        if self.preemptions:
            again = f"{self.recomputed_tokens:,} tokens computed again"
            rows.append(("preemptions", f"{self.preemptions:,}", again))
        if self.slo is not None and self.goodput is not None:
            limits = [
                f"{name} at most {format_quantity(limit, 'seconds')}"
                for name, limit in (("first token", self.slo.ttft_seconds), ("token", self.slo.tpot_seconds))
                if limit < inf
            ]
            met = "" if self.good else "; no request keeps it"
            rate = format_quantity(self.goodput_per_second, "a second")
            rows.append(
                ("goodput", format_quantity(self.goodput, "fraction"), ", ".join([rate, *limits]) + met),
            )
        return rows

    def tables(self) -> list[Table]:
        return [Table(self.title, ("quantity", "value", "percentiles or detail"), self.rows(), prose=True, head=())]


def _times(spread: Spread) -> str:
    """The median and the 99th percentile."""
    if not spread.count:
        return "none"
    return f"{format_quantity(spread.p50, 'seconds')} (p99 {format_quantity(spread.p99, 'seconds')})"
