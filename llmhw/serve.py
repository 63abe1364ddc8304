"""What a service comes to: first token, tokens per user and in all, requests under limits, dollars a million tokens.

Closed forms of an engine that always has enough requests; `llmhw.simulation` plays arrivals and queues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmhw.catalog import read_calibration
from llmhw.cost import price_of
from llmhw.formula import formula
from llmhw.hardware import Cluster, Price
from llmhw.job import ServingJob
from llmhw.model import ModelSpec
from llmhw.queueing import StepModel
from llmhw.serving import ServingMemory, serving_memory
from llmhw.serving_time import BOUND, Engine, engine_of
from llmhw.units import LLMHWError, check_count, format_quantity, html_table

# Engines without constants of their own borrow those of the nearest one that was measured.
ENGINE_CONSTANTS = {
    "vllm": "tensorrt-llm-2025",
    "sglang": "tensorrt-llm-2025",
    "tensorrt-llm": "tensorrt-llm-2025",
    "llama.cpp": "llama-cpp",
    "litgpt": "litgpt",
    "transformers": "litgpt",
}


@formula(source="Leviathan, Kalman and Matias 2023, equation 1", unit="tokens")
def tokens_per_verification(*, acceptance: Any, drafted: Any) -> Any:
    """Tokens that one pass of speculative decoding yields on average.

    acceptance   chance that a drafted token is accepted
    drafted      tokens that the draft model proposes before each pass

    >>> round(tokens_per_verification(acceptance=0.8, drafted=4), 2)
    3.36
    """
    return (1 - acceptance ** (drafted + 1)) / (1 - acceptance)


@formula(source="a machine's price over what it makes", unit="dollars")
def dollars_per_million_tokens(*, dollars_per_hour: Any, tokens_per_second: Any) -> Any:
    """Cost of a million output tokens at full load.

    >>> dollars_per_million_tokens(dollars_per_hour=36, tokens_per_second=10_000)
    1.0
    """
    return dollars_per_hour / (tokens_per_second * 3600) * 1e6


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the throughput-latency curve: so many requests at work, on the whole cluster.

    concurrency               requests in the engine
    ttft_seconds              from a request's admission to its first token
    tpot_seconds              between two tokens of one user, prompts of others counted in
    tokens_per_second         output tokens of all users
    """

    concurrency: int
    ttft_seconds: float
    tpot_seconds: float
    tokens_per_second: float

    @property
    def tokens_per_second_per_user(self) -> float:
        """What one user sees."""
        return 1 / self.tpot_seconds


@dataclass(frozen=True, repr=False)
class ServingEstimate:
    """A service: its memory, its speed at a load, its curve, its cost.

    job             what serves
    input_tokens, output_tokens   of each request
    point           the load that was asked for
    curve           from one request to all that fit
    saturated       whether the rate that was asked for is more than the service can take
    """

    job: ServingJob
    input_tokens: int
    output_tokens: int
    memory: ServingMemory
    point: Point
    curve: tuple[Point, ...]
    price: Price | None
    saturated: bool = False
    slo: tuple[float | None, float | None] = (None, None)
    interval: tuple[float, float] = (1.0, 1.0)

    @property
    def capacity(self) -> int:
        """Requests of this length that fit at once, on the whole cluster."""
        return self.curve[-1].concurrency

    @property
    def requests_per_second(self) -> float:
        """Requests that are finished at the point's load."""
        return self.point.tokens_per_second / self.output_tokens

    @property
    def tokens_per_second_interval(self) -> tuple[float, float]:
        """Between which 80 % of measured throughputs lie, by sources left out of the fit."""
        low, high = self.interval
        return self.point.tokens_per_second / high, self.point.tokens_per_second / low

    @property
    def dollars_per_million_tokens(self) -> float | None:
        """For output tokens at the point's load; None without a price."""
        if self.price is None:
            return None
        hourly = self.price.dollars_per_device_hour * self.job.cluster.devices
        return float(
            dollars_per_million_tokens(dollars_per_hour=hourly, tokens_per_second=self.point.tokens_per_second)
        )

    @cached_property
    def within_slo(self) -> Point | None:
        """The busiest point that keeps both limits; None if none does, or no limit was given."""
        ttft, tpot = self.slo
        if ttft is None and tpot is None:
            return None
        kept = [
            p
            for p in self.curve
            if (ttft is None or p.ttft_seconds <= ttft) and (tpot is None or p.tpot_seconds <= tpot)
        ]
        return max(kept, key=lambda p: p.tokens_per_second) if kept else None

    @property
    def title(self) -> str:
        """The service in one line."""
        return f"{self.memory.title}: {self.input_tokens:,} tokens in, {self.output_tokens:,} out"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: seconds, tokens, dollars."""
        best = self.within_slo
        return {
            "model": self.job.model.name,
            "device": self.job.cluster.accelerator.name,
            "devices": self.job.cluster.devices,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "concurrency": self.point.concurrency,
            "capacity": self.capacity,
            "saturated": self.saturated,
            "ttft_seconds": self.point.ttft_seconds,
            "tpot_seconds": self.point.tpot_seconds,
            "tokens_per_second": self.point.tokens_per_second,
            "tokens_per_second_interval": list(self.tokens_per_second_interval),
            "tokens_per_second_per_user": self.point.tokens_per_second_per_user,
            "requests_per_second": self.requests_per_second,
            "requests_per_second_within_slo": best.tokens_per_second / self.output_tokens if best else None,
            "dollars_per_million_tokens": self.dollars_per_million_tokens,
            "price": self.price.to_dict() if self.price else None,
            "curve": [
                {
                    "concurrency": p.concurrency,
                    "ttft_seconds": p.ttft_seconds,
                    "tpot_seconds": p.tpot_seconds,
                    "tokens_per_second": p.tokens_per_second,
                    "tokens_per_second_per_user": p.tokens_per_second_per_user,
                }
                for p in self.curve
            ],
            "memory": self.memory.to_dict(),
        }

    def to_frame(self) -> Any:
        """A pandas DataFrame of the curve; needs pandas."""
        import pandas

        return pandas.DataFrame(self.to_dict()["curve"]).set_index("concurrency")

    def rows(self) -> list[tuple[str, ...]]:
        """The curve as text: requests at work, first token, tokens/s of a user and of all, dollars a million."""
        hourly = self.price.dollars_per_device_hour * self.job.cluster.devices if self.price else None
        return [
            (
                f"{p.concurrency:,}",
                format_quantity(p.ttft_seconds, "seconds"),
                format_quantity(p.tpot_seconds, "seconds"),
                f"{p.tokens_per_second_per_user:,.1f}",
                f"{p.tokens_per_second:,.0f}",
                "-"
                if hourly is None
                else format_quantity(
                    float(dollars_per_million_tokens(dollars_per_hour=hourly, tokens_per_second=p.tokens_per_second)),
                    "dollars",
                ),
            )
            for p in self.curve
        ]

    def summary(self) -> list[tuple[str, str]]:
        """What it comes to, as text."""
        low, high = self.tokens_per_second_interval
        cost = self.dollars_per_million_tokens
        found = [
            ("memory", self.memory.summary()),
            (
                "load",
                f"{self.point.concurrency:,} requests at work of {self.capacity:,} that fit"
                + ("; more arrive than it can take" if self.saturated else ""),
            ),
            ("first token", format_quantity(self.point.ttft_seconds, "seconds")),
            (
                "one user",
                f"{self.point.tokens_per_second_per_user:,.1f} tokens/s "
                f"({format_quantity(self.point.tpot_seconds, 'seconds')} a token)",
            ),
            ("all users", f"{self.point.tokens_per_second:,.0f} tokens/s (80 % interval {low:,.0f} to {high:,.0f})"),
            ("requests", f"{self.requests_per_second:,.2f} a second"),
        ]
        if self.slo != (None, None):
            best = self.within_slo
            text = (
                f"{best.tokens_per_second / self.output_tokens:,.2f} requests/s with {best.concurrency:,} at work"
                if best
                else "not kept, even by a single request"
            )
            found.append(("within the limits", text))
        if cost is not None:
            found.append(("a million tokens", f"{format_quantity(cost, 'dollars')} at {self.price}"))
        return found

    def __str__(self) -> str:
        rows = [COLUMNS, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
        lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([self.title, *(f"{k}: {v}" for k, v in self.summary()), "", *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self.title, ("", ""), self.summary()) + html_table("", COLUMNS, self.rows(), right=0)


COLUMNS = ("at work", "first token", "next token", "tokens/s a user", "tokens/s", "a million")


def engine_for(job: ServingJob, *, calibration: Mapping[str, Any] | None = None) -> Engine:
    """The `Engine` of one instance of a job, with the constants of its device and software."""
    cluster = job.cluster
    devices = job.tp * job.pp * job.attention_dp
    one = Cluster(cluster.accelerator, devices, max(devices, cluster.devices_per_node), cluster.intra_link)
    return engine_of(
        job.model,
        one,
        engine=ENGINE_CONSTANTS[job.engine],
        tp=job.tp * job.attention_dp,
        pp=job.pp,
        attention_dp=job.attention_dp > 1,
        weights=job.weights,
        kv=job.kv,
        calibration=calibration,
    )


@dataclass(frozen=True)
class _Service:
    """One job's engine at a load: the same loop for every point of the curve."""

    job: ServingJob
    engine: Engine
    input_tokens: int
    output_tokens: int
    draft: Engine | None = None
    drafted: int = 0
    acceptance: float = 0.0

    def decode_seconds(self, running: float) -> float:
        """Time of a decoded token of each of so many sequences."""
        context = self.input_tokens + self.output_tokens / 2
        if self.draft is None:
            return self.engine.seconds(decoding=running, context=context)
        verify = self.engine.seconds(
            prompts=max(1, round(running)),
            prompt_tokens=self.drafted + 1,
            past=context,
            logits=running * (self.drafted + 1),
        )
        # a verifying pass reads the cache once, as a decoding one does
        verify = max(verify, self.engine.seconds(decoding=running, context=context))
        guess = self.drafted * self.draft.seconds(decoding=running, context=context)
        made = tokens_per_verification(acceptance=self.acceptance, drafted=self.drafted)
        return float((verify + guess) / made)

    def at(self, concurrency: int) -> Point:
        """In steady state every request's prompt passes while the others decode."""
        replicas = self.job.replicas
        each = max(1.0, concurrency / replicas)
        # stages of a tensor pipeline work on different sequences at once; a layer split works on one
        ways = self.job.pp if self.job.split == "tensor" else 1
        ways = max(1, min(ways, int(each)))
        prompt = self.engine.prompt_seconds(self.input_tokens, chunk=self.job.max_batched_tokens)
        decode = self.decode_seconds(each / ways)
        cycle = self.output_tokens * decode + each * prompt / ways
        tpot = cycle / self.output_tokens
        return Point(concurrency, prompt + decode / 2, tpot, concurrency / cycle * self.output_tokens)


def serve(
    job: ServingJob,
    *,
    input_tokens: int,
    output_tokens: int,
    concurrency: int | None = None,
    rate: float | None = None,
    slo_ttft: float | None = None,
    slo_tpot: float | None = None,
    draft: ModelSpec | None = None,
    draft_tokens: int = 4,
    acceptance: float = 0.7,
    price: float | Price | None = None,
    provider: str | None = None,
    region: str | None = None,
    kind: str = "on_demand",
    calibration: Mapping[str, Any] | None = None,
) -> ServingEstimate:
    """What fits, how fast each user is served, what all get together, and what a million tokens cost.

    input_tokens, output_tokens   of each request
    concurrency        requests at work at a time; default: all that fit
    rate               requests that arrive in a second, instead of concurrency
    slo_ttft, slo_tpot limits in seconds on the first token and between tokens
    draft              a smaller model that proposes `draft_tokens` before each pass; each is accepted with chance
                       `acceptance` (speculative decoding)
    price, provider, region, kind   as in `llmhw.cost.training_run`
    calibration        other constants than those of `calibration.json` under `serving_time`

    Requests of equal length in steady state; random arrivals make queues, which `llmhw.simulation` plays.

    >>> from llmhw import Cluster, model
    >>> job = ServingJob(model=model("llama-3.1-70b"), cluster=Cluster("h100", 8), tp=8, weights="fp8", kv="fp8")
    >>> found = serve(job, input_tokens=1000, output_tokens=1000)
    >>> found.point.tokens_per_second > 20 * found.curve[0].tokens_per_second
    True
    """
    prompt, answer = check_count("input_tokens", input_tokens), check_count("output_tokens", output_tokens)
    if concurrency is not None and rate is not None:
        raise LLMHWError(f"concurrency={concurrency} and rate={rate} are two ways to say the load; give one")
    if not 0 <= acceptance < 1:
        raise LLMHWError(f"acceptance={acceptance!r} must be at least 0 and below 1")
    held = serving_memory(job)
    room = held.sequences(prompt + answer) * job.replicas if prompt + answer <= job.max_model_len else 0
    if prompt + answer > job.max_model_len:
        raise LLMHWError(
            f"input_tokens + output_tokens = {prompt + answer} is longer than max_model_len={job.max_model_len}"
        )
    if not room:
        raise LLMHWError(f"{held.title} does not hold one request of {prompt + answer} tokens: {held.way_out}")
    room = min(room, job.max_sequences * job.attention_dp * job.replicas)
    known = calibration or read_calibration("serving_time")
    engine = engine_for(job, calibration=known)
    guessing = None
    if draft is not None:
        guessing = Engine(
            draft, engine.cluster, engine.constants, engine.tp, engine.pp, engine.attention_dp, job.weights, job.kv
        )
    service = _Service(job, engine, prompt, answer, guessing, draft_tokens if draft else 0, acceptance)
    steps = sorted({1, room, *(2**i for i in range(room.bit_length()) if 2**i < room)})
    curve = tuple(service.at(n) for n in steps)
    saturated = False
    if rate is not None:
        point, saturated = _at_rate(service, rate, room)
    else:
        asked = room if concurrency is None else check_count("concurrency", concurrency)
        saturated = asked > room
        point = service.at(min(asked, room))
    paid = price_of(job.cluster.accelerator, job.cluster.devices, price, provider, region, kind, {})
    low, high = known["interval"]["decode" if point.concurrency == 1 else "throughput"]
    limits = (slo_ttft, slo_tpot)
    return ServingEstimate(job, prompt, answer, held, point, curve, paid, saturated, limits, (low, high))


def _at_rate(service: _Service, rate: float, room: int) -> tuple[Point, bool]:
    """The load at which as many requests end as arrive: Little's law, by bisection."""
    if not rate > 0:
        raise LLMHWError(f"rate={rate!r} must be a number of requests per second above 0")
    full = service.at(room)
    if full.tokens_per_second / service.output_tokens < rate:
        return full, True
    low, high = 1, room
    while low < high:
        middle = (low + high) // 2
        if service.at(middle).tokens_per_second / service.output_tokens < rate:
            low = middle + 1
        else:
            high = middle
    return service.at(low), False


def step_model(engine: Engine, *, context: float) -> StepModel:
    """An engine's passes as an affine function, for the simulator: what a pass, a token and a cached token cost.

    Taken from passes around sequences with `context` cached tokens.
    """
    alone = engine.seconds(decoding=1, context=context)
    many = engine.seconds(decoding=65, context=context)
    longer = engine.seconds(decoding=64, context=2 * context)
    same = engine.seconds(decoding=64, context=context)
    cached = max(0.0, (longer - same) / (64 * context))
    sequence = max(0.0, (many - alone) / 64 - cached * context)
    prompt = (engine.seconds(prompts=1, prompt_tokens=2048) - engine.seconds(prompts=1, prompt_tokens=1024)) / 1024
    base = max(0.0, alone - sequence - cached * context)
    return StepModel(base, max(prompt, 1e-12), sequence, cached)


def bandwidth_bound_tokens_per_second(
    job: ServingJob, *, input_tokens: int, output_tokens: int, concurrency: int
) -> float:
    """What no engine on these devices can exceed: every datasheet's peak, with nothing lost.

    >>> from llmhw import Cluster, model
    >>> job = ServingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 1))
    >>> limit = bandwidth_bound_tokens_per_second(job, input_tokens=100, output_tokens=100, concurrency=1)
    >>> limit > serve(job, input_tokens=100, output_tokens=100, concurrency=1).point.tokens_per_second
    True
    """
    found = engine_for(job)
    limit = Engine(found.spec, found.cluster, BOUND, found.tp, found.pp, found.attention_dp, found.weights, found.kv)
    return _Service(job, limit, input_tokens, output_tokens).at(concurrency).tokens_per_second
