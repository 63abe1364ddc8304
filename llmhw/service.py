"""What a service comes to: first token, tokens per user and in all, requests under limits, dollars a million tokens.

Closed forms of an engine that always has enough requests; `llmhw.simulation` plays arrivals and queues, on the engine
that `simulation_engine` makes of a job.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from math import ceil, gcd, inf
from statistics import fmean
from typing import TYPE_CHECKING, Any

from llmhw.beside import by_part, host_words, laden
from llmhw.catalog import check_calibration, read_calibration, read_measurements
from llmhw.checks import checked, whole
from llmhw.cost import HOST, POWER, PUE, device_power_watts, price_of
from llmhw.engine import PARTS, Engine, bound, engine_of
from llmhw.engines import ServingEngine, default_weights, engine_names, serving_engine
from llmhw.formula import Estimate, Ledger, Part, Report, Table, explained, flat, formula, term
from llmhw.grids import Grid, emitted_kg
from llmhw.grids import grid as grid_of
from llmhw.hardware import Accelerator, Cluster, Price, accelerator
from llmhw.job import ServingJob
from llmhw.language import said
from llmhw.memory import kv_cache, kv_cache_bytes_per_token
from llmhw.model import ModelSpec
from llmhw.pictures import Pictures, pictures_of
from llmhw.precision import formats_in, number_format
from llmhw.queueing import StepModel
from llmhw.rates import ServingConstants, family_of, interval_of, on_device, spec_kind
from llmhw.serving import (
    ServingMemory,
    assumptions,
    memory_of,
    paged_tokens,
    pages_held,
    serving_memory,
    settled,
    variants,
)
from llmhw.speculation import Draft, draft_format, draft_of, tokens_per_verification
from llmhw.units import (
    MOST_WHOLE,
    LLMHWError,
    check_count,
    check_number,
    format_quantity,
    maximum,
    minimum,
    plain_fields,
    shown,
    where,
)

if TYPE_CHECKING:
    from llmhw import simulation


@formula(source="steady state: while one request comes and goes, so does every other", unit="seconds")
def cycle_seconds(*, prompt_seconds: Any, decode_seconds: Any, sequences: Any, output_tokens: Any) -> Any:
    """Time in which an engine finishes as many requests as it has at work.

    prompt_seconds   that a prompt holds up the others; it gives the first token
    decode_seconds   of a pass that gives each sequence one more
    sequences        at work together

    >>> cycle_seconds(prompt_seconds=0.05, decode_seconds=0.01, sequences=20, output_tokens=101)
    2.0
    """
    return sequences * prompt_seconds + (output_tokens - 1) * decode_seconds


@formula(
    source="PASTA (Wolff 1982): the pass that is under way is half over, and a long one is met more often",
    unit="seconds",
)
def first_token_seconds(
    *, latency_seconds: Any, prompt_seconds: Any, decode_seconds: Any, sequences: Any, cycle: Any
) -> Any:
    """Time from a request's arrival to its first token (TTFT), where there is a place for it.

    latency_seconds   of its own prompt
    cycle             see `cycle_seconds`, as for the others; who is alone waits for nobody

    >>> first_token_seconds(latency_seconds=0.05, prompt_seconds=0.05, decode_seconds=0.01, sequences=20, cycle=2.0)
    0.06425
    """
    prompts = sequences * prompt_seconds / cycle
    under_way = prompts * prompt_seconds + (1 - prompts) * decode_seconds
    return latency_seconds + under_way / 2 * (1 - 1 / sequences)


@formula(source="a decoding pass each, and the prompts of all others once an answer", unit="seconds")
def next_token_seconds(*, prompt_seconds: Any, decode_seconds: Any, sequences: Any, output_tokens: Any) -> Any:
    """Mean time between two tokens of a user (TPOT); arguments as in `cycle_seconds`.

    >>> round(next_token_seconds(prompt_seconds=0.05, decode_seconds=0.01, sequences=21, output_tokens=101), 3)
    0.02
    """
    passes = output_tokens - 1
    return decode_seconds + where(passes > 0, (sequences - 1) * prompt_seconds / maximum(passes, 1), 0)


@formula(
    source="DistServe (Zhong et al. 2024), Splitwise (Patel et al. 2024): prompts and answers on devices of their own",
    unit="seconds",
)
def disaggregated_cycle_seconds(
    *,
    prompt_seconds: Any,
    work_seconds: Any,
    transfer_seconds: Any,
    decode_seconds: Any,
    sequences: Any,
    output_tokens: Any,
    workers: Any,
) -> Any:
    """Time in which as many requests end as there are: one's way through, or all prompts on the workers, if longer.

    prompt_seconds     of one prompt on one of the `workers`
    work_seconds       the same for each of as many as a pass takes
    transfer_seconds   of its cache to the device that decodes
    sequences          in all, also those whose prompts wait

    >>> given = {"prompt_seconds": 0.1, "work_seconds": 0.1, "transfer_seconds": 0.1, "decode_seconds": 0.01}
    >>> given |= {"output_tokens": 101}
    >>> [disaggregated_cycle_seconds(**given, sequences=n, workers=1) for n in (10, 20)]
    [1.2, 2.0]
    """
    alone = prompt_seconds + transfer_seconds + (output_tokens - 1) * decode_seconds
    return maximum(alone, sequences * work_seconds / workers)


@formula(source="what a cycle leaves for the prompt, its wait and the way of its cache", unit="seconds")
def disaggregated_first_token_seconds(*, cycle: Any, decode_seconds: Any, output_tokens: Any) -> Any:
    """Time to the first token where prompts have devices of their own; see `disaggregated_cycle_seconds`.

    >>> disaggregated_first_token_seconds(cycle=2.0, decode_seconds=0.01, output_tokens=101)
    1.0
    """
    return cycle - (output_tokens - 1) * decode_seconds


@formula(source="bytes over the link between two replicas", unit="seconds")
def cache_transfer_seconds(*, tokens: Any, token_bytes: Any, link_bytes_per_second: Any) -> Any:
    """Time in which a prompt's cache moves to the replica that decodes; nothing of it is hidden.

    link_bytes_per_second   of all devices of a replica, each of which sends its part

    >>> cache_transfer_seconds(tokens=1000, token_bytes=131072, link_bytes_per_second=50e9)
    0.00262144
    """
    return tokens * token_bytes / link_bytes_per_second


@formula(source="a decoding pass", unit="seconds")
def undisturbed_token_seconds(*, decode_seconds: Any) -> Any:
    """Time between two tokens of a user where no prompt comes between.

    >>> undisturbed_token_seconds(decode_seconds=0.01)
    0.01
    """
    return decode_seconds


@formula(source="Little 1961: requests end as often as those at work take turns", unit="tokens/s")
def served_tokens_per_second(*, requests: Any, output_tokens: Any, cycle: Any) -> Any:
    """Output tokens per second of all users.

    requests   at work on the whole cluster
    cycle      see `cycle_seconds`

    >>> served_tokens_per_second(requests=20, output_tokens=101, cycle=2.0)
    1010.0
    """
    return requests * output_tokens / cycle


@formula(source="a machine's price over what it makes", unit="dollars")
def dollars_per_million_tokens(*, dollars_per_hour: Any, tokens_per_second: Any) -> Any:
    """Cost of a million output tokens at full load.

    >>> dollars_per_million_tokens(dollars_per_hour=36, tokens_per_second=10_000)
    1.0
    """
    return dollars_per_hour / (tokens_per_second * 3600) * 1e6


@formula(source="definition", unit="kWh")
def kwh_per_million_tokens(*, watts: Any, tokens_per_second: Any) -> Any:
    """Electrical energy of a million output tokens.

    watts   of the building, for all devices

    >>> kwh_per_million_tokens(watts=9000, tokens_per_second=2500)
    1.0
    """
    return watts / 1000 / (tokens_per_second * 3600) * 1e6


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the throughput-latency curve: so many requests at work, on the whole cluster.

    concurrency               requests in the engine
    ttft_seconds              from a request's arrival to its first token, if there is a place for it
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

    def to_dict(self) -> dict[str, float]:
        """Plain numbers: seconds, tokens."""
        return plain_fields(self) | {"tokens_per_second_per_user": self.tokens_per_second_per_user}


# Share of the scheduler's time that comes with every drafted token, too: inputs are prepared and a token is drawn, no
# request is scheduled. EAGLE on Llama 3.1 8B with 2, 4 and 7 drafted tokens on an H100 (vLLM #16937): 0.95 ms for each,
# of which its weights take 0.57 ms.
_DRAFTS_AGAIN = 0.3


# Parts of a pass in which the device waits for the host.
_OF_HOST = {"waiting for the host", "scheduling"}


def _drafting(one: Ledger) -> Ledger:
    """A pass of a draft, which the scheduler does not come between."""
    rest = set(one.parts) - {"scheduling"}
    return one.without({"scheduling"}).merge(one.without(rest), _DRAFTS_AGAIN)


# What a job comes to that does not fit.
NOTHING = Point(0, inf, inf, 0.0)


@dataclass(frozen=True, repr=False)
class ServingEstimate(Report):
    """A service: its memory, its speed at a load, its curve, its cost. One that does not fit has no curve and no speed.

    job             what serves, with what was assumed
    input_tokens, output_tokens   of each request
    point           the load that was asked for; default: all that fit, or the busiest that keeps the limits
    curve           from one request to all that fit; () where none does
    price           of a device-hour, or None: `no_price` says why
    saturated       whether the rate or concurrency that was asked for is more than the service can take
    slo             limits on first token and next token that were asked for, in seconds
    interval        least and most of measured over predicted time, of 80 % of measurements, wider where constants are
                    borrowed; None where the calibration has none for such a load
    rate            requests that arrive in a second, if that is how the load was said
    asked           how the load was said: concurrency, rate, limits, or "" for all that fit
    within_slo      the busiest load that keeps both limits; None if none does, or no limit was given
    service         the engine behind the curve
    chosen          how the layout was chosen, where a plan did
    grid            where its electricity is made, if that was asked for
    """

    job: ServingJob
    input_tokens: int
    output_tokens: int
    memory: ServingMemory
    point: Point
    curve: tuple[Point, ...]
    price: Price | None
    saturated: bool
    slo: tuple[float | None, float | None]
    interval: tuple[float, float] | None
    rate: float | None
    no_price: str
    asked: str
    within_slo: Point | None
    service: Service = field(compare=False)
    grid: Grid | None = None
    chosen: str = ""

    @property
    def tokens(self) -> int:
        """Of a request, in and out."""
        return self.input_tokens + self.output_tokens

    @property
    def fits(self) -> bool:
        """Whether at least one request runs."""
        return bool(self.curve)

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of a decoding pass at the point's load, by part (see `llmhw.engine.PARTS`)."""
        if not self.fits:
            return dict.fromkeys(PARTS, 0.0)
        together, _ = self.service.batches(self.point.concurrency)
        found = self.service.decoding(together, "parts").parts
        return {name: float(found.get(name, 0.0)) for name in PARTS}

    def explain(self, part: str | None = None) -> str:
        """The formulas behind one part (or all) at the point's load.

        part   of time: first token, next token, all users, or a part of a decoding pass and of a prompt's; of memory:
               weights, KV cache, ...; or any name of the tables
        """
        held = self.memory
        memory = [held.shown()[held.worst]]
        if not self.fits:
            return explained(None if part in (None, *_MEMORY_ROWS) else part, memory=memory)
        time = self.service.passes(self.point.concurrency)
        if self.price is not None and part in (None, *_PRICE_ROWS):
            hourly = self.price.dollars_per_device_hour * self.job.cluster.devices
            given: dict[str, Any] = {"dollars_per_hour": hourly, "tokens_per_second": self.point.tokens_per_second}
            paid = Part("a million tokens", (term(dollars_per_million_tokens, "output tokens", **given),))
            made = Estimate("Cost", "dollars", (paid,))
            if part is not None:
                return explained("a million tokens", cost=[made])
            time = [*time, made]
        if part in _MEMORY_ROWS:
            return explained(None, memory=memory)
        return explained(_ROWS.get(part or "", part), time=time, memory=memory)

    @property
    def pages(self) -> tuple[int, int] | None:
        """Pages of the cache of one group of ranks: those that the point's requests hold, each in the middle of its
        answer, and all; None where the engine has no pages, or nothing fits.
        """
        held = self.memory
        if not (self.fits and self.job.software.paged) or not held.kv_bytes:
            return None
        tokens, pool = min(ceil(self.service.context), self.job.context_limit), held.pools[held.worst]
        each = pool.blocks(tokens) if pool else pages_held(tokens=tokens, page_size=self.job.page_tokens)
        return int(self._in_a_group() * each), held.blocks

    @property
    def capacity(self) -> int:
        """Requests of this length that fit at once, on the whole cluster."""
        return self.curve[-1].concurrency if self.curve else 0

    @property
    def requests_per_second(self) -> float:
        """Requests that are finished at the point's load."""
        return self.point.tokens_per_second / self.output_tokens

    @property
    def tokens_per_second_interval(self) -> tuple[float, float] | None:
        """Between which 80 % of measured throughputs lie, by sources left out of the fit; None if that is not known."""
        if self.interval is None or not self.fits:
            return None
        low, high = self.interval
        if self.rate is None or self.saturated:
            return self.point.tokens_per_second / high, self.point.tokens_per_second / low
        # all that is asked for is served, unless the service is so much slower that it cannot
        asked = self.point.tokens_per_second
        return min(asked, self.curve[-1].tokens_per_second / high), asked

    @property
    def dollars_per_million_tokens(self) -> float | None:
        """For output tokens at the point's load; None without a price, or without tokens."""
        return self.dollars_at(self.point)

    def dollars_at(self, point: Point) -> float | None:
        """The same at another point of the curve."""
        if self.price is None or not point.tokens_per_second:
            return None
        hourly = self.price.dollars_per_device_hour * self.job.cluster.devices
        return float(dollars_per_million_tokens(dollars_per_hour=hourly, tokens_per_second=point.tokens_per_second))

    @property
    def watts(self) -> float | None:
        """Electrical power of all devices with their hosts and the building's cooling; None where it is not published.

        Devices draw the share of their board power that they draw while training, which decoding hardly ever reaches.
        """
        device = self.job.cluster.accelerator
        if device.tdp_watts is None:
            return None
        drawn = {"tdp_watts": device.tdp_watts, "power_fraction": POWER.value, "host_watts": HOST.value}
        return float(device_power_watts(**drawn) * self.job.cluster.devices * PUE.value)

    @property
    def kwh_per_million_tokens(self) -> float | None:
        """Energy of a million output tokens at the point's load; None without tokens, or where power is not known."""
        speed = self.point.tokens_per_second
        if self.watts is None or not speed:
            return None
        return float(kwh_per_million_tokens(watts=self.watts, tokens_per_second=speed))

    @property
    def co2_kg_per_million_tokens(self) -> float | None:
        """What the grid emits for them; None unless a grid was asked for."""
        energy = self.kwh_per_million_tokens
        if self.grid is None or energy is None:
            return None
        return float(emitted_kg(energy_kwh=energy, kg_per_kwh=self.grid.kg_co2_per_kwh))

    def _power(self) -> dict[str, float | None]:
        names = ("watts", "kwh_per_million_tokens", "co2_kg_per_million_tokens")
        return {name: getattr(self, name) for name in names}

    @property
    def title(self) -> str:
        """The service in one line."""
        guess, workers = self.service.guess, self.service.workers
        apart = said(", {workers} replicas for prompts to one that decodes", workers=workers) if workers else ""
        drafted = (
            apart + said(", draft {model} of {tokens} tokens", model=guess.spec.name, tokens=guess.tokens)
            if guess
            else apart
        )
        return said(
            "{title}{drafted}: {input_tokens:,} tokens in, {output_tokens:,} out",
            title=self.memory.title,
            drafted=drafted,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
        )

    @property
    def setting(self) -> str:
        """The devices and the network between them."""
        return str(self.job.cluster)

    # -- what it comes to, in words

    @property
    def verdict(self) -> str:
        """Whether it runs; then tokens per second of all users and of one, with the interval."""
        held, point = self.memory, self.point
        if not self.fits:
            return self._refusal()
        words = held.fit_words(min(self.tokens, self.job.context_limit), self._in_a_group())
        each = said(
            "{speed} for each of {users:,}", speed=_speed(point.tokens_per_second_per_user), users=point.concurrency
        )
        sure = self._sure(said("80 %: {low} to {high}"))
        return said(
            "{fits}; {speed} for all users{sure}, {each}.",
            fits=words,
            speed=_speed(point.tokens_per_second),
            sure=sure,
            each=each,
        )

    def _refusal(self) -> str:
        held, job, draft = self.memory, self.job, self.service.guess
        if draft is not None and _fitting(job, self.tokens)[1]:
            taken = format_quantity(_draft_bytes(job, draft), "bytes")
            has = format_quantity(memory_of(job).kv_bytes, "bytes")
            return said(
                "Does not fit beside the draft {model}: its weights take {taken} of each device, and "
                "{has} are left for them and both caches; without it, the job fits.",
                model=draft.spec.name,
                taken=taken,
                has=has,
            )
        if held.longest and held.longest >= self.tokens and not held.fits:
            return held.verdict
        return said(
            "Does not fit: one request of {tokens:,} tokens is {shortage}.",
            tokens=self.tokens,
            shortage=held.shortage(self.tokens),
        )

    def _in_a_group(self) -> int:
        """Requests of the point in each group of tp x pp ranks."""
        return max(1, -(-self.point.concurrency // (self.job.replicas * self.job.attention_dp)))

    def _sure(self, interval: str) -> str:
        """The interval in brackets, or why there is none."""
        if self.interval is None:
            return f" ({said('the calibration has no interval')})"
        low, high = self.tokens_per_second_interval or (0.0, 0.0)
        if not low < high:
            return f" ({said('as many as are asked for')})"
        return f" ({interval.format(low=_number(low), high=_number(high))})"

    def warnings(self) -> list[str]:
        """What was assumed, and whose constants the speed is computed with."""
        found = [*([self.chosen] if self.chosen else []), *assumptions(self.memory)]
        if not self.fits:
            return found
        if self.asked == "limits":
            best = self.within_slo
            found.insert(
                0,
                said("concurrency={number} assumed: the busiest load that keeps the limits", number=best.concurrency)
                if best
                else said("concurrency=1 assumed: even a single request does not keep the limits"),
            )
        elif not self.asked:
            found.insert(0, said("concurrency={number} assumed: as many as run at once", number=self.point.concurrency))
        if (guess := self.service.guess) is not None and guess.note:
            found.append(guess.note)
        found += host_words(self.job)
        origin, new = provenance(self.job, self.service.calibration)
        found += origin
        if new and self.interval:
            found.append(said("the interval is wider for that: see `distance` in the calibration"))
        return found

    def next_steps(self) -> list[str]:
        """Changes that were tried on this job and load: those with most tokens per second first, or losing least."""
        found = []
        for text, other in variants(self.job, self.memory):
            try:
                made = self._again(other)
            except LLMHWError:
                continue
            if made.fits and made.point.tokens_per_second > 1.02 * self.point.tokens_per_second:
                words = said(
                    "{speed}, longest context {longest:,} tokens",
                    speed=_speed(made.point.tokens_per_second),
                    longest=made.memory.longest,
                )
                found.append((made.point.tokens_per_second, f"{text}: {words}"))
        return [text for _, text in (sorted(found, reverse=True) if self.fits else found)]

    def _again(self, job: ServingJob) -> ServingEstimate:
        """Another job at the same load, with the same constants."""
        service = self.service
        load: dict[str, Any] = {}
        if self.rate is not None:
            load = {"rate": self.rate}
        elif self.asked == "concurrency":
            load = {"concurrency": self.concurrency}
        draft: dict[str, Any] = {}
        if (guess := service.guess) is not None:
            draft = {"draft": guess.spec if guess.method == "model" else guess.method, "draft_tokens": guess.tokens}
            draft["acceptance"] = guess.acceptance
        if service.workers:
            draft["prefill_workers"] = service.workers
        prompt = self.input_tokens
        if (seen := service.pictures) is not None:
            prompt -= seen.count * seen.tokens
            draft |= {"images": seen.count, "image_size": f"{seen.width}x{seen.height}"}
        ttft, tpot = self.slo
        return serve(
            job, input_tokens=prompt, output_tokens=self.output_tokens, slo_ttft=ttft, slo_tpot=tpot,
            calibration=service.calibration, **load, **draft,
        )  # fmt: skip

    @property
    def concurrency(self) -> int:
        """Requests that were asked to be at work, or that are."""
        return self.service.wanted or self.point.concurrency

    # -- numbers

    def identity(self) -> dict[str, Any]:
        """What tells this answer from others in a table."""
        draft = self.service.draft
        return self.memory.identity() | {
            "draft": draft.spec.name if draft else None,
            "lora_adapters": self.job.lora_adapters,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
        }

    def to_row(self) -> dict[str, Any]:
        """One row at the load: what was asked, then what it comes to."""
        low, high = self.tokens_per_second_interval or (None, None)
        return (
            self.identity()
            | self.point.to_dict()
            | {
                "tokens_per_second_low": low,
                "tokens_per_second_high": high,
                "requests_per_second": self.requests_per_second,
                "dollars_per_million_tokens": self.dollars_per_million_tokens,
                **self._power(),
                "capacity": self.capacity,
                "saturated": self.saturated,
                "fits": self.fits,
                "longest": self.memory.longest,
                "verdict": self.verdict,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: seconds, tokens, dollars."""
        best = self.within_slo
        return {
            **self.identity(),
            **self.point.to_dict(),
            "verdict": self.verdict,
            "fits": self.fits,
            "longest": self.memory.longest,
            "capacity": self.capacity,
            "rate": self.rate,
            "saturated": self.saturated,
            "tokens_per_second_interval": self.tokens_per_second_interval and list(self.tokens_per_second_interval),
            "requests_per_second": self.requests_per_second,
            "concurrency_within_slo": best.concurrency if best else None,
            "requests_per_second_within_slo": best.tokens_per_second / self.output_tokens if best else None,
            "dollars_per_million_tokens": self.dollars_per_million_tokens,
            **self._power(),
            "price": self.price.to_dict() if self.price else None,
            "no_price": self.no_price or None,
            "warnings": self.warnings(),
            "curve": self.records(),
            "memory": self.memory.to_dict(),
        }

    def records(self) -> list[dict[str, Any]]:
        """The points of the curve as plain numbers, each with what tells this answer from others."""
        return [self.identity() | p.to_dict() | {"dollars_per_million_tokens": self.dollars_at(p)} for p in self.curve]

    index = "concurrency"

    def rows(self) -> list[tuple[str, ...]]:
        """The curve as text: requests at work, first token, tokens/s of a user and of all, dollars a million."""
        return [
            (
                f"{p.concurrency:,}",
                format_quantity(p.ttft_seconds, "seconds"),
                format_quantity(p.tpot_seconds, "seconds"),
                f"{each:,.1f}" if (each := p.tokens_per_second_per_user) >= 10 else _number(each),
                _number(p.tokens_per_second),
                format_quantity(self.dollars_at(p), "dollars") if self.price else "-",
            )
            for p in self.curve
        ]

    def _held(self) -> str:
        """Weights and cache of a device of the fullest stage, and what the cache has room for."""
        held = self.memory
        per_device = sum(float(part.value) for part in held.stages[held.worst] if part.name == "weights")
        size = said("{size} of weights", size=format_quantity(per_device, "bytes"))
        for part in held.stages[held.worst]:
            if part.name.endswith(" tower"):
                size += said(
                    " and {size} of {part}", size=format_quantity(float(part.value), "bytes"), part=said(part.name)
                )
        if not held.kv_bytes:
            return said("{weights} on each device, and no room for a KV cache", weights=size)
        text = said(
            "{weights} and {cache} of KV cache on each device",
            weights=size,
            cache=format_quantity(held.kv_bytes, "bytes"),
        )
        return said("{held}: {room}", held=text, room=room) if (room := held.log_words()) else text

    def _memory_rows(self) -> list[tuple[str, str]]:
        held, job = self.memory, self.job
        found = [("memory", self._held())]
        if job.lora_adapters:
            adapters = sum(float(part.value) for part in held.stages[held.worst] if part.name == "LoRA adapters")
            size = format_quantity(adapters, "bytes")
            found.append(
                (
                    "LoRA adapters",
                    said(
                        "{number} of rank {rank}: {size} on each device",
                        number=job.lora_adapters,
                        rank=job.lora_rank,
                        size=size,
                    ),
                )
            )
        found.append(("longest context", held.longest_words()))
        if self.fits:
            many = held.sequences(min(self.tokens, job.context_limit)) * job.replicas
            taken = job.max_sequences * job.attention_dp * job.replicas
            limit = (
                said("; max_sequences={max_sequences} takes {taken:,}", max_sequences=job.max_sequences, taken=taken)
                if taken < many
                else ""
            )
            text = (
                "{number:,} sequence of {tokens:,} tokens{limit}"
                if many == 1
                else "{number:,} sequences of {tokens:,} tokens{limit}"
            )
            found.append(("at once", said(text, number=many, tokens=self.tokens, limit=limit)))
        return found

    def _speed_rows(self) -> list[tuple[str, str]]:
        point, alone = self.point, self.curve[0]
        allowed = self.job.max_sequences * self.job.attention_dp * self.job.replicas
        limit = "max_sequences allows" if self.capacity == allowed else "fit"
        text = (
            "{number:,} request at work of {most:,} that {limit}"
            if point.concurrency == 1
            else "{number:,} requests at work of {most:,} that {limit}"
        )
        load = said(text, number=point.concurrency, most=self.capacity, limit=said(limit))
        found = [("load", load + (said("; more arrive than it can take") if self.saturated else ""))]
        if self.service.pictures is not None:
            spent = self.service.prompt(self.service.engine, "parts").parts.get("encoders", 0.0)
            found.append(
                (
                    "pictures",
                    said(
                        "{pictures}; {time} for all",
                        pictures=self.service.pictures,
                        time=format_quantity(spent, "seconds"),
                    ),
                )
            )
        found.append(("first token", format_quantity(point.ttft_seconds, "seconds")))
        following = format_quantity(point.tpot_seconds, "seconds")
        found.append(
            (
                "one user",
                said("{speed} ({time} a token)", speed=_speed(point.tokens_per_second_per_user), time=following),
            )
        )
        if self.asked in ("", "limits") and alone.concurrency < point.concurrency:
            found.append(("one user alone", _speed(alone.tokens_per_second_per_user)))
        if self.service.draft is not None:
            plain = replace(self.service, draft=None, guess=None).at(point.concurrency)
            found.append(
                (
                    "speculative decoding",
                    said(
                        "{fast} a user with the draft, {plain} without",
                        fast=_speed(point.tokens_per_second_per_user),
                        plain=_speed(plain.tokens_per_second_per_user),
                    ),
                )
            )
        if self.service.workers:
            found.append(("replicas for prompts", self._prompts_apart()))
        found.append(
            ("all users", f"{_speed(point.tokens_per_second)}{self._sure(said('80 % interval {low} to {high}'))}")
        )
        found.append(("requests", said("{number} a second", number=_number(self.requests_per_second))))
        return found

    def _prompts_apart(self) -> str:
        """How many replicas compute prompts, how busy they are, and what limits."""
        service, job = self.service, self.job
        pools = job.replicas // (1 + service.workers)
        busy = self.requests_per_second / pools * service.prompt_seconds / service.workers
        limit = said("prompts limit" if busy > 0.999 else "decoding limits")
        many = pools * service.workers
        return said(
            "{number:,} of {all:,}, {share} busy: {limit}",
            number=many,
            all=job.replicas,
            share=format_quantity(min(busy, 1.0), "fraction"),
            limit=limit,
        )

    def summary(self) -> list[tuple[str, str]]:
        """What it comes to, as text."""
        found = self._memory_rows()
        if not self.fits:
            return found
        found += self._speed_rows()
        if self.slo != (None, None):
            text = said("not kept, even by a single request")
            if best := self.within_slo:
                speed = _number(best.tokens_per_second / self.output_tokens)
                text = said("{speed} requests/s with {number:,} at work", speed=speed, number=best.concurrency)
            found.append(("within the limits", text))
        cost = self.dollars_per_million_tokens
        text = (
            self.no_price
            if cost is None
            else said("{cost} at {price}", cost=format_quantity(cost, "dollars"), price=self.price)
        )
        found.append(("a million tokens", text))
        if self.grid is not None:
            found += self._power_rows(self.grid)
        return found

    def _power_rows(self, grid: Grid) -> list[tuple[str, str]]:
        if self.watts is None:
            return [("power", said("that of {device} is not published", device=self.job.cluster.accelerator.name))]
        kw, energy = self.watts / 1000, format_quantity(self.kwh_per_million_tokens, "kWh")
        shares = said(
            "board power x {share:g}, host {watts:g} W a device, PUE {pue:g}",
            share=POWER.value,
            watts=HOST.value,
            pue=PUE.value,
        )
        return [
            ("power", said("{power} at the meter ({shares})", power=format_quantity(kw, "kW"), shares=shares)),
            ("energy", said("{amount} a million tokens", amount=energy)),
            (
                "CO2",
                said(
                    "{amount} a million tokens, at {grid}",
                    amount=format_quantity(self.co2_kg_per_million_tokens, "kg"),
                    grid=grid,
                ),
            ),
        ]

    def tables(self) -> list[Table]:
        found = [Table(self.title, ("", ""), self.summary(), prose=True)]
        return [*found, Table("", COLUMNS, self.rows(), right=0)] if self.fits else found

    def __str__(self) -> str:
        summary, *curve = self.tables()
        lines = [summary.title, self.verdict, *(f"{name}: {value}" for name, value in summary.rows)]
        return "\n".join([*lines, *(line for table in curve for line in table.lines()), *self.below()])


def _number(value: float) -> str:
    """At least three figures."""
    return format_quantity(value, "")


def _speed(tokens_per_second: float) -> str:
    return format_quantity(tokens_per_second, "tokens/s")


# Names of the tables, and the parts that are behind them.
_ROWS = {
    "one user": "next token",
    "one user alone": "next token",
    "speculative decoding": "next token",
    "replicas for prompts": "first token",
    "pictures": "encoders",
    "tokens/s a user": "next token",
    "tokens/s": "all users",
    "requests": "all users",
    "load": "all users",
    "at work": "all users",
    "within the limits": "all users",
}
_MEMORY_ROWS = ("memory", "longest context", "at once")
_PRICE_ROWS = ("a million tokens", "a million")
COLUMNS = ("at work", "first token", "next token", "tokens/s a user", "tokens/s", "a million")


# Bytes per second of links that are timed: a modem's, and a thousand times those of today.
_SLOWEST, _FASTEST = 1e3, 1e15


def layout_kind(tp: int, pp: int, attention_dp: bool, devices: int) -> str:
    """Layouts whose speed has the same limits: one device, tensors or layers split in a node, attention shared, nodes.

    >>> layout_kind(8, 1, False, 8)
    'tensors'
    """
    if tp * pp > 8 or (devices > 8 and tp > 8):
        return "nodes"
    if tp * pp == 1:
        return "one device"
    return "attention shared" if attention_dp else "layers" if pp > 1 else "tensors"


def lender(engine: ServingEngine) -> ServingEngine:
    """The engine whose constants time this one: itself, or the one that it borrows from.

    >>> lender(serving_engine("ollama")).constants
    'llama-cpp'
    """
    return serving_engine(engine.borrows) if engine.borrows else engine


def _kind(device: Accelerator) -> str:
    """Devices that are timed alike: a family of constants, or an architecture that has none."""
    family = family_of(ServingConstants, device)
    return device.architecture if family == "other" else family


def _alike(name: str) -> str:
    """A format that takes as long: all floats of 16 bit are bf16."""
    return "bf16" if name in ("fp16", "F16") else name


def _of(engine: ServingEngine) -> str:
    return f"{engine.name}'" if engine.name.endswith("s") else f"{engine.name}'s"


@cache
def measured() -> frozenset[tuple[str, str, str]]:
    """Engine, kind of device and weight format of every measured speed that constants were fitted to.

    >>> ("llama.cpp", "ada", "Q4_K_M") in measured()
    True
    """
    names = {serving_engine(name).measured_as.casefold(): name for name in engine_names()}
    rows = {
        (row["engine"].casefold(), row["device"] or row["gpu"], row["weights"] or row["quant"])
        for row in read_measurements("inference_throughput")
        if not row["not_predicted"]
    }
    found = set()
    for software, device, fmt in rows:
        engine = next((name for start, name in names.items() if software.startswith(start)), None)
        try:
            if engine:
                found.add((engine, _kind(accelerator(device)), _alike(number_format(fmt).name)))
        except LLMHWError:
            continue
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class _Origin:
    """Whose constants time a job: the lender, the kind of device, and what the measurements must have of each."""

    source: ServingEngine
    kind: str
    what: Mapping[str, str]
    new: frozenset[str]


def _origin(job: ServingJob, known: Mapping[str, Any]) -> _Origin:
    engine, device = job.software, job.cluster.accelerator
    source, kind = lender(engine), _kind(device)
    what = {
        "engine": on_device(source.constants, device, known["engines"]),
        "family": kind,
        "layout": layout_kind(job.tp * job.attention_dp, job.pp, job.attention_dp > 1, job.devices),
        "model": spec_kind(job.model),
    }
    fitted = known.get("fitted", {})
    new = {name for name, value in what.items() if value not in fitted.get(name, (value,))}
    new -= {"family"} if device.reached else set()
    return _Origin(source, kind, what, frozenset(new | ({"engine"} if source is not engine else set())))


def time_interval(
    job: ServingJob, concurrency: int, calibration: Mapping[str, Any] | None = None
) -> tuple[float, float] | None:
    """Least and most of measured over predicted time of 80 % of measurements of such a job at such a load.

    >>> from llmhw import model
    >>> low, high = time_interval(ServingJob(model=model("llama-3-8b"), cluster=Cluster("h100")), 64)
    >>> low < 1 < high
    True
    """
    known = calibration or read_calibration("serving_time")
    meter = "decode" if concurrency == 1 else "throughput"
    return interval_of(known, meter, _origin(job, known).new)


def provenance(job: ServingJob, calibration: Mapping[str, Any] | None = None) -> tuple[list[str], set[str]]:
    """Where the constants of a speed come from, in words, and what of the question no constants were fitted to.

    Of the latter: engine, family (of devices), layout, model, as in `distance` of `calibration.json`.
    """
    made = _origin(job, calibration or read_calibration("serving_time"))
    engine, source, kind, what, new = job.software, made.source, made.kind, made.what, set(made.new)
    constants, found = what["engine"], list[str]()
    if source is not engine:
        found.append(
            said(
                "{engine} speed is computed with {lender} constants: it has none of its own",
                engine=_of(engine),
                lender=_of(source),
            )
        )
    elif "engine" in new:
        found.append(said("not fitted on this engine: no run of {engine} is in the measurements", engine=constants))
    if "family" in new:
        found.append(
            said(
                "not fitted on this family: no run on {kind} is in the measurements, constants of others are used",
                kind=kind,
            )
        )
    elif job.cluster.accelerator.reached:
        found.append(
            said("rates measured on this {device}, not those of its kind", device=job.cluster.accelerator.name)
        )
    elif "engine" not in new:
        formats = {fmt for name, at, fmt in measured() if name == source.name and at == kind}
        stored = formats_in(job.model, job.weights)[0]
        if not formats:
            found.append(
                said(
                    "no run of {engine} on {kind} is in the measurements: those of other engines are used",
                    engine=source.name,
                    kind=kind,
                )
            )
        elif _alike(stored.like or stored.name) not in formats:
            found.append(
                said(
                    "no run with weights={weights!r} on {kind} is in the measurements of {engine}",
                    weights=stored.name,
                    kind=kind,
                    engine=source.name,
                )
            )
    if "layout" in new:
        found.append(
            said("not fitted on this layout: no run with {layout} is in the measurements", layout=said(what["layout"]))
        )
    if "model" in new:
        found.append(
            said(
                "not fitted on this kind of model: no run of one with {kind} is in the measurements",
                kind=said(what["model"]),
            )
        )
    return found, new


def _check_makes(spec: ModelSpec) -> None:
    if spec.makes != "tokens":
        raise LLMHWError(
            f"model={spec.name!r} makes {spec.makes}, not tokens: how fast is not modelled; llmhw.serving_memory and "
            "llmhw.fit say what it takes"
        )


@checked
def engine_for(job: ServingJob, *, calibration: Mapping[str, Any] | None = None) -> Engine:
    """The `Engine` of one instance of a job, with the constants of its device and software."""
    cluster = job.cluster
    _check_makes(job.model)
    if calibration is not None:
        check_calibration("serving_time", "serving", calibration)
    for link in (cluster.intra_link, cluster.inter_link):
        if link is not None and not _SLOWEST <= link.bytes_per_second <= _FASTEST:
            raise LLMHWError(
                f"bytes_per_second={link.bytes_per_second!r} of link {link.name} must be from {_SLOWEST:g} to "
                f"{_FASTEST:g}"
            )
    made = engine_of(
        job.model,
        instance_of(job),
        engine=lender(job.software).constants,
        ep=job.ep,
        tp=job.tp * job.attention_dp,
        pp=job.pp,
        attention_dp=job.attention_dp > 1,
        weights=job.weights,
        kv=job.kv,
        all_reduce=job.all_reduce,
        calibration=calibration,
    )
    return laden(made, job)


def instance_of(job: ServingJob) -> Cluster:
    """The devices of one instance: one that does not fill its nodes has the same part of each."""
    cluster, node = job.cluster, job.cluster.devices_per_node
    per_node = node if job.devices <= node else gcd(job.devices, node)
    return Cluster(cluster.accelerator, job.devices, per_node, cluster.intra_link, cluster.inter_link)


@dataclass(frozen=True)
class Service:
    """One job's engine at a load: the same loop for every point of the curve.

    draft, guess   the engine that drafts, and how well
    replicas   of many layouts, an array, in place of the job's; `engine` is that of all of them then
    workers    replicas for prompts, for each that decodes; 0: every replica does both
    pictures   of each prompt, whose tokens are among `input_tokens`
    calibration   behind the engine, if it is not the catalog's
    wanted     requests at work that were asked for
    """

    job: ServingJob
    engine: Engine
    input_tokens: int
    output_tokens: int
    draft: Engine | None = None
    guess: Draft | None = None
    replicas: Any = None
    calibration: Mapping[str, Any] | None = field(default=None, compare=False)
    wanted: int | None = None
    workers: int = 0
    pictures: Pictures | None = None

    @property
    def context(self) -> float:
        """Tokens of a sequence, in the middle of its answer."""
        return self.input_tokens + self.output_tokens / 2

    def decoding(self, running: float, detail: str = "totals") -> Ledger:
        """A decoded token of each of so many sequences."""
        load: dict[str, Any] = {"decoding": running, "context": self.context}
        if self.draft is None or self.guess is None:
            return self.engine.timed(**load, detail=detail)
        one = self.engine.timed(**load, detail=by_part(detail))
        drafted = self.guess.tokens
        verify = self.engine.timed(
            prompts=max(1, round(running)),
            prompt_tokens=drafted + 1,
            past=self.context,
            logits=running * (drafted + 1),
            drafted=True,
            detail=one.detail,
        )
        # all tokens of a sequence attend to one reading of its cache, while their products run
        prompts, cached = "attention over prompts", "attention over the cache"
        slower = one if one.parts.get(cached, 0.0) > verify.parts.get(prompts, 0.0) else verify
        made = float(tokens_per_verification(acceptance=self.guess.acceptance, drafted=drafted))
        found = Ledger(detail).merge(verify.without({prompts, cached, *_OF_HOST}), 1 / made)
        found.merge(slower.without({*verify.parts, *one.parts} - {prompts, cached}), 1 / made)
        # it is launched as a decoding pass is, from a graph, and not as a prompt
        found.merge(one.without({*one.parts} - _OF_HOST), 1 / made)
        again = _drafting(self.draft.timed(**load, detail=by_part(detail)))
        return found.merge(again, drafted / made, part="draft")

    def prompt(self, engine: Engine, detail: str = "totals") -> Ledger:
        """One prompt, less the prefix that is shared, until its first token."""
        shared = cached_tokens(self.job, self.input_tokens)
        tokens, how = self.input_tokens - shared, {"chunk": self.job.max_batched_tokens, "past": shared}
        found = engine.prompt(tokens, **how, detail=detail)
        if self.draft is not None:
            # it reads the prompt, too
            found.merge(_drafting(self.draft.prompt(tokens, **how, detail=by_part(detail))), part="draft")
        if self.pictures is not None:
            self.pictures.add(found, self.engine)
        return found

    @cached_property
    def _latency(self) -> Any:
        """Seconds of one prompt until its first token."""
        return self.prompt(self.engine).total

    def _work(self, together: Any) -> Any:
        """Seconds that a prompt adds to the passes of all stages: those that end in one pass are followed in one."""
        past = cached_tokens(self.job, self.input_tokens)
        new, chunk = self.input_tokens - past, self.job.max_batched_tokens
        engine = replace(self.engine, pp=1)
        most = max(1, chunk // new) * (engine.tp if engine.attention_dp else 1)
        many = minimum(maximum(1.0, together / self.output_tokens), most)
        how: dict[str, Any] = {"chunk": chunk, "past": past, "prompts": many}
        alone = engine.prompt_seconds(new, **how) / many
        if self.output_tokens == 1:
            return alone
        beside = engine.beside_seconds(new, **how, decoding=maximum(1.0, together - many), context=self.context)
        return where(together > many, beside, alone)

    @property
    def prompt_seconds(self) -> float:
        """Of one prompt, until its first token."""
        return float(self._latency)

    def batches(self, concurrency: Any) -> tuple[Any, Any]:
        """Sequences of a batch, and batches that the stages of an instance work on at once."""
        together, ways = self._groups(concurrency)
        return (self._decoding_together(together), ways) if self.workers else (together, ways)

    def _groups(self, concurrency: Any) -> tuple[Any, Any]:
        """Requests of a group that batches on its own, with those whose prompts are elsewhere, and groups at once."""
        replicas = self.job.replicas // (1 + self.workers) if self.replicas is None else self.replicas
        each = maximum(1.0, concurrency / replicas)
        ways = maximum(1, minimum(_ways(self.job, self.engine.pp), each // 1))
        return each / ways, ways

    def _decoding_together(self, requests: float) -> float:
        """Of the requests of a group, those that decode at a time: for as long as a cycle lasts, by bisection."""
        low, high = 0.0, requests
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            pass_seconds = float(self.decoding(middle).total)
            cycle = disaggregated_cycle_seconds(**self._apart(requests), decode_seconds=pass_seconds)
            decode = (self.output_tokens - 1) * pass_seconds
            low, high = (middle, high) if requests * decode > middle * cycle else (low, middle)
        return high

    def _apart(self, requests: float, behind: Ledger | None = None) -> dict[str, Any]:
        """What goes into the cycle of a group whose prompts are computed elsewhere."""
        sizes = {"tokens": self.input_tokens, **_transfer(self.job)}
        transfer = (behind or Ledger()).add("", "the cache moves", cache_transfer_seconds, **sizes)
        past = cached_tokens(self.job, self.input_tokens)
        new, chunk = self.input_tokens - past, self.job.max_batched_tokens
        many = max(1, min(chunk // new, int(requests)))
        return {
            "prompt_seconds": self._latency,
            "work_seconds": self.engine.prompt_seconds(new, chunk=chunk, past=past, prompts=many) / many,
            "transfer_seconds": transfer if self.output_tokens > 1 else 0.0,
            "sequences": requests,
            "output_tokens": self.output_tokens,
            "workers": self.workers,
        }

    def answers(self, concurrency: Any, detail: str = "terms") -> Ledger:
        """First token, next token and tokens per second, with the formulas behind them.

        In steady state every request's prompt passes while the others decode.
        """
        if self.workers:
            return self._answers_apart(concurrency, detail)
        together, ways = self.batches(concurrency)
        latency, work = self._latency, self._work(together)
        given: dict[str, Any] = {
            "prompt_seconds": minimum(latency * ways, work),  # it holds up the batch that it shares a stage with
            "decode_seconds": self.decoding(together).total,
            "sequences": together,
        }
        tokens, found, behind = self.output_tokens, Ledger(detail), Ledger(detail)
        cycle = behind.add("", "the cycle", cycle_seconds, **given, output_tokens=tokens)
        first = {"latency_seconds": latency, "cycle": cycle, "because": behind}
        found.add("first token", "half a pass, then the prompt", first_token_seconds, **given, **first)
        found.add("next token", "decoding, beside prompts", next_token_seconds, **given, output_tokens=tokens)
        every = {"requests": concurrency, "output_tokens": tokens, "cycle": cycle, "because": behind}
        found.add("all users", "requests that take turns", served_tokens_per_second, **every)
        return found

    def _answers_apart(self, concurrency: Any, detail: str) -> Ledger:
        """The same where prompts have replicas of their own."""
        requests, _ = self._groups(concurrency)
        tokens, found, behind = self.output_tokens, Ledger(detail), Ledger(detail)
        decode = {"decode_seconds": self.decoding(self._decoding_together(requests)).total}
        cycle = behind.add("", "the cycle", disaggregated_cycle_seconds, **self._apart(requests, behind), **decode)
        first = {"cycle": cycle, **decode, "output_tokens": tokens, "because": behind}
        found.add("first token", "waiting, the prompt, the transfer", disaggregated_first_token_seconds, **first)
        found.add("next token", "decoding alone", undisturbed_token_seconds, **decode)
        every = {"requests": concurrency, "output_tokens": tokens, "cycle": cycle, "because": behind}
        found.add("all users", "requests that take turns", served_tokens_per_second, **every)
        return found

    def at(self, concurrency: int) -> Point:
        """The point of the curve with so many requests at work."""
        first, following, every = self.answers(concurrency, "parts").parts.values()
        return Point(concurrency, float(first), float(following), float(every))

    def passes(self, concurrency: int) -> list[Estimate]:
        """The answers at a load and the two passes that they are made of, with their formulas."""
        together, _ = self.batches(concurrency)
        answers = self.answers(concurrency)
        load = f"{concurrency:,} requests at work"
        decoding = f"A token of each of {together:,.4g} sequences that have {self.context:,.0f} tokens"
        prompt = f"A prompt of {self.input_tokens:,} tokens"
        return [
            answers.estimate(f"Time with {load}", "seconds", ("first token", "next token")),
            answers.estimate(f"Speed with {load}", "tokens/s", ("all users",)),
            self.decoding(together, "terms").estimate(decoding, "seconds", PARTS),
            self.prompt(self.engine, "terms").estimate(prompt, "seconds", PARTS),
        ]


def _ways(job: ServingJob, stages: Any) -> Any:
    """Groups of sequences that stages work on at once; a split by layers works on one."""
    return stages if job.split == "tensor" else 1


# Halvings by which the batch of a group is found: to a thousandth of its requests.
_HALVINGS = 10


def _transfer(job: ServingJob) -> dict[str, float]:
    """Bytes of a token's cache, and of the link to another replica: each rank sends to the one in its place."""
    link = job.cluster.link_for(min(job.devices + 1, job.cluster.devices)).bytes_per_second * job.devices
    return {"token_bytes": float(kv_cache_bytes_per_token(job.model, job.kv)), "link_bytes_per_second": link}


@checked
def shared_tokens(job: ServingJob) -> int:
    """Tokens of the shared prefix that are never computed again: its whole pages.

    >>> from llmhw import model
    >>> shared_tokens(ServingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 1), prefix_tokens=100))
    96
    """
    return job.prefix_tokens // job.page_tokens * job.page_tokens if job.software.paged else 0


@checked
def cached_tokens(job: ServingJob, input_tokens: int) -> int:
    """Tokens of a prompt that are found in the cache: the shared prefix, and of the rest what earlier requests left.

    At least one is computed, for the first token of the answer.

    >>> from llmhw import model
    >>> job = ServingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 1), prefix_tokens=100, prefix_hit=0.5)
    >>> cached_tokens(job, 1000)
    544
    """
    shared, page = shared_tokens(job), job.page_tokens
    found = shared + int(job.prefix_hit * (input_tokens - shared)) // page * page
    return max(shared, min(found, input_tokens - 1))


# what a load says twice, and rates and limits, is checked by its own words
@checked(rate=None, slo_ttft=None, slo_tpot=None, acceptance=None, draft=None, draft_tokens=None, images=whole(0))
def serve(
    job: ServingJob,
    *,
    input_tokens: int,
    output_tokens: int,
    concurrency: int | None = None,
    rate: float | None = None,
    slo_ttft: float | None = None,
    slo_tpot: float | None = None,
    draft: ModelSpec | str | None = None,
    draft_tokens: int | None = None,
    acceptance: float | None = None,
    prefill_workers: int | None = None,
    images: int = 0,
    image_size: str | None = None,
    price: float | Price | None = None,
    provider: str | None = None,
    region: str | None = None,
    kind: str = "on_demand",
    prices: Any = None,
    grid: str | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> ServingEstimate:
    """What fits, how fast each user is served, what all get together, and what a million tokens cost.

    input_tokens, output_tokens   of each request
    concurrency        requests at work at a time; default: all that fit, or the most that keep the limits
    rate               requests that arrive in a second, instead of concurrency
    slo_ttft, slo_tpot limits in seconds on the first token and between tokens
    draft              what proposes `draft_tokens` before each pass (speculative decoding), each accepted with chance
                       `acceptance`: a smaller model, a head ("eagle3", "eagle"), or the model's own layers ("mtp");
                       defaults: `llmhw.speculation.METHODS`
    prefill_workers    replicas that only compute prompts, for each that decodes, whose cache then moves over the link;
                       default: every replica does both
    images, image_size pictures in each prompt beside its input_tokens, and their size in pixels (default "1024x1024")
    price, provider, region, kind, prices   as in `llmhw.cost.RunOptions`
    grid               where the electricity is made: shows power, energy and CO2 too
    calibration        other constants than those of `calibration.json` under `serving_time`

    A job that does not fit is an answer without speed: see `ServingEstimate.fits` and `verdict`. Requests are of equal
    length in steady state; random arrivals make queues, which `llmhw.simulation` plays.

    >>> from llmhw import Cluster, model
    >>> job = ServingJob(model=model("llama-3.1-70b"), cluster=Cluster("h100", 8), tp=8, weights="fp8", kv="fp8")
    >>> found = serve(job, input_tokens=1000, output_tokens=1000)
    >>> found.point.tokens_per_second > 20 * found.curve[0].tokens_per_second
    True
    """
    pictures = pictures_of(job.model, images, image_size)
    more = pictures.count * pictures.tokens if pictures else 0
    prompt, answer = check_lengths(job, check_count("input_tokens", input_tokens) + more, output_tokens)
    asked, wanted = _check_load(concurrency, rate)
    _check_limits(slo_ttft, slo_tpot)
    guess = draft_of(job.model, draft, draft_tokens, acceptance)
    known = calibration or read_calibration("serving_time")
    engine_for(job, calibration=known)
    job = settled(job, prompt=prompt, answer=answer, concurrency=asked)
    workers = 0 if prefill_workers is None else check_count("prefill_workers", prefill_workers)
    together = replicas_together(job, workers)
    held, room = _fitting(job, prompt + answer, guess)
    room = room // job.replicas * (job.replicas // together)
    engine = engine_for(job, calibration=known)
    guesser = None if guess is None else replace(engine, spec=guess.spec, weights=_draft_weights(job, guess))
    service = Service(job, engine, prompt, answer, guesser, guess, calibration=calibration, wanted=asked)
    service = replace(service, workers=workers, pictures=pictures)
    curve = tuple(service.at(n) for n in sorted({*(2**i for i in range(room.bit_length())), room})) if room else ()
    slo = (slo_ttft, slo_tpot)
    best = _busiest(service, slo, curve)
    point, saturated, said = _loaded(service, curve, asked, wanted, slo, best)
    paid, unpaid = price_of(job.cluster.accelerator, job.cluster.devices, price, provider, region, kind, prices)
    return ServingEstimate(
        job, prompt, answer, held, point, curve, paid, saturated, slo,
        time_interval(job, point.concurrency, known), wanted, unpaid, said, best, service,
        grid_of(grid) if grid is not None else None,
    )  # fmt: skip


@checked
def at_load(job: ServingJob, *, input_tokens: int, output_tokens: int, concurrency: int) -> Point:
    """What `serve` says of one load, without the rest of the curve: for who compares many jobs.

    concurrency   requests at work at a time, or as many as fit if these are fewer; where none fits it is 0

    >>> from llmhw import model
    >>> job, load = ServingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 1)), {"concurrency": 32}
    >>> load |= {"input_tokens": 1000, "output_tokens": 500}
    >>> at_load(job, **load) == serve(job, **load).point
    True
    """
    prompt, answer = check_lengths(job, input_tokens, output_tokens)
    # an engine that allocates as many sequences as it is told is another engine at another load
    open_end = not (job.software.max_sequences or job.was_asked("max_sequences"))
    service, room = _at_work(job, prompt, answer, concurrency if open_end else None)
    return service.at(min(concurrency, room)) if room else NOTHING


@lru_cache(maxsize=32)
def _at_work(job: ServingJob, prompt: int, answer: int, concurrency: int | None) -> tuple[Service, int]:
    """The engine of a job for requests of these lengths, and how many of them fit."""
    job = settled(job, prompt=prompt, answer=answer, concurrency=concurrency)
    return Service(job, engine_for(job), prompt, answer), _fitting(job, prompt + answer)[1]


def _check_load(concurrency: int | None, rate: float | None) -> tuple[int | None, float | None]:
    if concurrency is not None and rate is not None:
        raise LLMHWError(f"concurrency={concurrency} and rate={rate} are two ways to say the load; give one")
    asked = None if concurrency is None else check_count("concurrency", concurrency)
    if asked is not None and asked > _MOST_TOKENS:
        raise LLMHWError(f"concurrency={concurrency} must be at most {_MOST_TOKENS:,}")
    if rate is None:
        return asked, None
    wanted = check_number("rate", rate, above=True)
    if not _LEAST_RATE <= wanted <= _MOST_RATE:
        raise LLMHWError(f"rate={rate!r} must be from {_LEAST_RATE:g} to {_MOST_RATE:g} requests a second")
    return asked, wanted


def _check_limits(slo_ttft: float | None, slo_tpot: float | None) -> None:
    """Limits are in seconds: who gives milliseconds is told so."""
    for name, limit in (("slo_ttft", slo_ttft), ("slo_tpot", slo_tpot)):
        if limit is not None and check_number(name, limit, above=True) > _MOST_SECONDS[name]:
            raise LLMHWError(
                f"{name}={limit!r} must be at most {_MOST_SECONDS[name]}: it is in seconds; {limit:g} ms are "
                f"{name}={limit / 1e3:g}"
            )


_MOST_TOKENS = 10**9
_LEAST_RATE, _MOST_RATE = 1e-9, 1e9
_MOST_SECONDS = {"slo_ttft": 600, "slo_tpot": 10}


@checked
def check_lengths(job: ServingJob, input_tokens: int, output_tokens: int) -> tuple[int, int]:
    """Tokens of a request, in and out, if the job takes it."""
    _check_makes(job.model)
    prompt, answer = check_count("input_tokens", input_tokens), check_count("output_tokens", output_tokens)
    limit = job.context_limit if job.was_asked("max_model_len") else job.model.max_seq_len or 0
    if prompt + answer > limit:
        text = f"input_tokens + output_tokens = {prompt + answer} is longer than max_model_len={limit}"
        if not job.was_asked("max_model_len"):
            text += f", the limit of {job.model.name}"
        way = f"use fewer, or max_model_len={prompt + answer}"
        beyond = prompt + answer > (job.model.max_seq_len or prompt + answer)
        raise LLMHWError(f"{text}; {way}{', which needs rope scaling' if beyond else ''}")
    if prompt <= job.prefix_tokens:
        raise LLMHWError(
            f"input_tokens={prompt} must be more than prefix_tokens={job.prefix_tokens}, which all prompts begin with"
        )
    return prompt, answer


def _fitting(job: ServingJob, tokens: int, draft: Draft | None = None) -> tuple[ServingMemory, int]:
    """The memory of a job, and how many sequences of so many tokens all its instances run at once; 0 if it does not."""
    held = memory_of(job)
    if draft is not None:
        # the draft's weights come off the cache, and every token is cached by both models
        held = memory_of(job, max(0.0, held.budget_bytes - _draft_bytes(job, draft)) / job.utilization)
    if tokens > job.context_limit or (job.software.refuses_longer and not held.fits):
        return held, 0
    fitting = held.sequences(tokens)
    if draft is not None:
        both = (job.model, draft.spec)
        own, other = (float(kv_cache(spec, seq_len=tokens, kv_format=job.kv).total) for spec in both)
        fitting = int(fitting * own / (own + other)) if own else fitting
    return held, min(fitting, job.max_sequences * job.attention_dp) * job.replicas


def _draft_bytes(job: ServingJob, draft: Draft) -> float:
    """Weights of a draft on a device: a model's are split as the job's are, a head is on the last stage."""
    ranks = job.tp * job.pp if draft.method == "model" else job.tp * job.attention_dp
    return draft.bytes(_draft_weights(job, draft)) / ranks


def _draft_weights(job: ServingJob, draft: Draft) -> str:
    """The format of a draft: what was asked for the job, else its own checkpoint's; a head's own."""
    default = default_weights(job.software, job.cluster.accelerator, draft.spec) if draft.method == "model" else ""
    return draft_format(draft.method, job.weights, default, job.was_asked("weights"))


def _room(job: ServingJob, tokens: int) -> tuple[ServingMemory, int]:
    """The same for the simulator, which needs a job that runs."""
    held, room = _fitting(settled(job), tokens)
    if not room:
        why = held.shortage(tokens) if held.fits or not held.longest else held.way_out
        raise LLMHWError(f"{held.title} does not hold one request of {tokens} tokens: {why}")
    return held, room


def _busiest(service: Service, slo: tuple[float | None, float | None], curve: Sequence[Point]) -> Point | None:
    """The most requests at work that keep both limits, by bisection: more at work are slower for each."""
    if slo == (None, None):
        return None
    ttft, tpot = (inf if limit is None else limit for limit in slo)

    def late(point: Point) -> bool:
        return point.ttft_seconds > ttft or point.tpot_seconds > tpot

    kept = bisect_left(curve, True, key=late)
    if kept in (0, len(curve)):
        return curve[-1] if kept else None
    between = range(curve[kept - 1].concurrency + 1, curve[kept].concurrency)
    more = bisect_left(between, True, key=lambda n: late(service.at(n)))
    return service.at(between[more - 1]) if more else curve[kept - 1]


def _loaded(
    service: Service,
    curve: tuple[Point, ...],
    asked: int | None,
    rate: float | None,
    slo: tuple[float | None, float | None],
    best: Point | None,
) -> tuple[Point, bool, str]:
    """The point of the load that was asked for, whether that is too much, and how it was said."""
    said = "concurrency" if asked is not None else "rate" if rate is not None else "limits" if any(slo) else ""
    if not curve:
        return NOTHING, False, said
    room = curve[-1].concurrency
    if rate is not None:
        return *_at_rate(service, rate, room), said
    if said == "limits":
        return best or curve[0], False, said
    load = room if asked is None else asked
    return service.at(min(load, room)), load > room, said


def _at_rate(service: Service, rate: float, room: int) -> tuple[Point, bool]:
    """The fewest requests at work with which as many end as arrive (Little's law), by bisection."""
    answer, full = service.output_tokens, service.at(room)
    if full.tokens_per_second < rate * answer:
        return full, True
    least = 1 + bisect_left(range(1, room), rate * answer, key=lambda n: service.at(n).tokens_per_second)
    # no more is generated than is asked for
    return replace(service.at(least), tokens_per_second=rate * answer), False


@checked
def step_model(engine: Engine, *, context: float, running: int = 64, prompt_tokens: int = 1024) -> StepModel:
    """An engine's passes as an affine function, for the simulator: what a pass, a token and a cached token cost.

    context          tokens that a sequence has cached, typically
    running          sequences: decoding is met exactly with one and with so many, and nearly between
    prompt_tokens    of a typical prompt, whose pass alone is met exactly
    """
    many = max(1, running)
    alone, busy, longer = (
        float(engine.seconds(decoding=n, context=tokens))
        for n, tokens in ((1, context), (many, context), (many, 2 * context))
    )
    cached = max(0.0, (longer - busy) / (many * context)) if context else 0.0
    sequence = max(0.0, (busy - alone) / (many - 1) - cached * context) if many > 1 else 0.0
    base = max(0.0, alone - sequence - cached * context)
    prompt = (float(engine.seconds(prompts=1, prompt_tokens=prompt_tokens)) - base) / prompt_tokens
    return StepModel(base, max(prompt, 0.0), sequence, cached)


class EngineSteps:
    """The time of an engine's steps for the simulator, from tables that fill as they are needed.

    engine          what is timed
    prompt_tokens   of a typical prompt: how many prompts a step's tokens are
    chunk           most tokens of a pass; more are several passes

    Decoding is exact in the number of sequences, which `step_model` is not (the experts that a batch reads are no
    affine function of it), and linear between contexts that are powers of two. What a prompt attends to before it is
    linear in both lengths.

    >>> from llmhw import model
    >>> engine = engine_for(ServingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 1)))
    >>> steps = EngineSteps(engine, prompt_tokens=1000)
    >>> steps(0, 0, 8, 8 * 1024) == engine.seconds(decoding=8, context=1024)
    True
    """

    def __init__(self, engine: Engine, *, prompt_tokens: int, chunk: int = 8192) -> None:
        self.engine = engine
        self.prompt_tokens = check_count("prompt_tokens", prompt_tokens)
        self.chunk = check_count("chunk", chunk)
        self._entry = cache(lambda sequences, context: float(engine.seconds(decoding=sequences, context=context)))
        self._prompt = cache(self._passes)

    @cached_property
    def _past_pair_seconds(self) -> float:
        """One token of a prompt attending to one before it."""
        first, past = (float(self.engine.seconds(prompts=1, prompt_tokens=1024, past=n)) for n in (0, 4096))
        return max(0.0, past - first) / (1024 * 4096)

    def __call__(
        self, prefill_tokens: int, prefill_context: int, decode_sequences: int, decode_context: int, /
    ) -> float:
        """Seconds of one step; the contexts count the tokens that are in the cache before it."""
        if not prefill_tokens:
            return self._decode(decode_sequences, decode_context) if decode_sequences else 0.0
        seconds, waiting = self._prompt(prefill_tokens + decode_sequences)
        if decode_sequences:
            # while the host launches kernels, the device reads the cache
            reading = self._decode(decode_sequences, decode_context) - self._entry(decode_sequences, 0)
            seconds += max(0.0, reading - waiting)
        if prefill_context:
            together = max(1, round(prefill_tokens / self.prompt_tokens))
            seconds += self._past_pair_seconds * prefill_tokens * prefill_context / together
        return seconds

    def _decode(self, sequences: int, context: int) -> float:
        return self.decode_steps(sequences, context)[0]

    def decode_steps(self, sequences: int, context: int) -> tuple[float, float, int]:
        """Of decode steps in a row: seconds of the first, what each later one takes more, for how many that holds."""
        each = context / sequences
        power = 1 << max(0, int(each).bit_length() - 1)
        low = self._entry(sequences, power)
        slope = (self._entry(sequences, 2 * power) - low) / power
        return low + slope * (each - power), slope, max(1, ceil(2 * power - each))

    def _passes(self, tokens: int) -> tuple[float, float]:
        """Seconds of passes over so many tokens of prompts, and of these, what the device waits for the host."""
        prompts = max(1, round(tokens / self.prompt_tokens))
        if tokens <= self.chunk:
            found = self.engine.timed(prompts=prompts, prompt_tokens=tokens / prompts, detail="parts")
            waiting = float(found.parts.get("waiting for the host", 0.0))
            return float(self.engine.seconds(prompts=prompts, prompt_tokens=tokens / prompts)), waiting
        if prompts == 1:
            return float(self.engine.prompt_seconds(tokens, chunk=self.chunk)), 0.0
        whole, rest = divmod(tokens, self.chunk)
        (all_whole, waiting), (last, more) = self._prompt(self.chunk), self._prompt(rest) if rest else (0.0, 0.0)
        return whole * all_whole + last, whole * waiting + more


@checked
def independent_groups(job: ServingJob, *, prefill_workers: int = 0) -> int:
    """Groups of sequences that form their batches on their own: as many as pipeline stages, in every replica.

    prefill_workers   replicas that only compute prompts, for each replica that decodes (mode disaggregated)

    >>> from llmhw import model
    >>> independent_groups(ServingJob(model=model("llama-3-70b"), cluster=Cluster("h100", 8), tp=2, pp=2))
    4
    """
    job = settled(job)
    together = replicas_together(job, check_count("prefill_workers", prefill_workers, 0))
    return int(job.replicas // together * _ways(job, job.pp))


def replicas_together(job: ServingJob, prefill_workers: int) -> int:
    """Replicas that a request passes through: those for prompts, and the one that decodes."""
    together = 1 + prefill_workers
    if job.replicas % together:
        raise LLMHWError(
            f"prefill_workers={prefill_workers}, and one replica that decodes, need a multiple of {together} replicas; "
            f"{job.cluster.devices} devices hold {job.replicas} of {job.devices}"
        )
    return together


@checked
def simulation_engine(
    job: ServingJob,
    *,
    input_tokens: int,
    output_tokens: int,
    calibration: Mapping[str, Any] | None = None,
    **options: Any,
) -> simulation.Engine:
    """The engine that `llmhw.simulation.simulate` runs: one of the `independent_groups` of a job.

    input_tokens, output_tokens   typical lengths: for how many a step's tokens are, and how many the cache holds
    options                       of `llmhw.simulation.Engine`: mode, chunked_prefill, prefill_workers, ...

    Give it its share of the requests: the rate of all over `independent_groups(job)`. Blocks, sequences and the longest
    request are those of the job. With mode disaggregated, prefill machines are replicas too, and a prompt's cache moves
    over the cluster's link unless `transfer_token_seconds` is given.

    >>> from llmhw import model
    >>> job = ServingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 2))
    >>> found = simulation_engine(job, input_tokens=500, output_tokens=200)
    >>> found.mode, found.max_sequences, found.block_tokens, independent_groups(job)
    ('continuous', 1024, 16, 2)
    """
    from llmhw.simulation import Engine as Simulated

    prompt, answer = check_count("input_tokens", input_tokens), check_count("output_tokens", output_tokens)
    length = min(prompt + answer, job.context_limit)
    held, room = _room(job, length)
    job = held.job
    ways = _ways(job, job.pp)
    shared = shared_tokens(job) if options.get("mode", "continuous") == "continuous" else 0
    if shared >= prompt:
        raise LLMHWError(
            f"input_tokens={prompt} must be more than prefix_tokens={job.prefix_tokens}, which all prompts begin with"
        )
    running = max(1, room // (job.replicas * ways))
    step = EngineSteps(
        engine_for(job, calibration=calibration), prompt_tokens=prompt - shared, chunk=job.max_batched_tokens
    )
    tokens = held.to_dict()["kv_tokens"]
    if job.prefix_hit:
        raise LLMHWError(
            f"prefix_hit={job.prefix_hit:g}: the simulator knows a prefix that all requests share; use prefix_tokens"
        )
    given: dict[str, Any] = {
        "max_sequences": max(1, job.max_sequences * job.attention_dp // ways),
        "max_batched_tokens": job.max_batched_tokens * job.attention_dp,
        "max_context": job.context_limit,
        "block_tokens": job.page_tokens,
    }
    if not job.software.paged or tokens is None:
        # each sequence has its own block for the longest one, or a state of one size
        given["max_sequences"] = running
    else:
        # layers with a window hold less than kv_tokens counts
        fitting = held.sequences(length) // job.attention_dp * paged_tokens(tokens=length, page_size=job.page_tokens)
        most = tokens if shared else max(tokens, fitting)
        given["kv_blocks"] = max(1, most * job.attention_dp // job.page_tokens // ways)
    if shared:
        given["shared_prefix_tokens"] = shared
    if options.get("mode", "continuous") == "continuous":
        # as engines do, and the closed form has it
        cut = job.software.paged and given["max_batched_tokens"] >= given["max_sequences"]
        given["chunked_prefill"] = cut
    if options.get("mode") == "disaggregated" and job.replicas > 1:
        given["transfer_token_seconds"] = cache_transfer_seconds(tokens=1, **_transfer(job))
    return Simulated(step, **(given | options))


@dataclass(frozen=True, repr=False)
class SimulatedService(Report):
    """What the simulation of a job found.

    groups        that batch on their own and share the requests out; one of them was simulated
    rate          requests that arrive in a second, for all groups together; None with `concurrency`
    result        of the group that was simulated
    concurrency   users of all groups who wait for their answers; None with `rate` or `trace`
    trace         the file that was replayed
    input_tokens, output_tokens   of a request, on average
    """

    job: ServingJob
    engine: simulation.Engine
    groups: int
    rate: float | None
    result: simulation.SimulationResult
    concurrency: int | None = None
    trace: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def title(self) -> str:
        """What was simulated, in a few lines."""
        job = self.job
        lines = [f"{serving_memory(job).title}\n{job.cluster}"]
        if self.groups > 1:
            share = (
                said("{some:,} of the {all:,} users", some=self.concurrency // self.groups, all=self.concurrency)
                if self.concurrency is not None
                else said(
                    "{some:,.4g} of the {all:,.4g} requests a second",
                    some=(self.rate or 0.0) / self.groups,
                    all=self.rate or 0.0,
                )
            )
            lines.append(
                said("One of {groups} equal groups was simulated, with {share}", groups=self.groups, share=share)
            )
        return "\n".join([*lines, self.result.title])

    @property
    def verdict(self) -> str:
        """Whether the service keeps up with what comes, and the times that requests see."""
        return self.result.told(self.groups, self.concurrency)

    def warnings(self) -> list[str]:
        """What was assumed, whose constants the speed is computed with, and what must be known to trust the numbers."""
        return [
            *assumptions(serving_memory(self.job)),
            *host_words(self.job),
            *provenance(self.job)[0],
            *self.result.warnings(),
        ]

    @property
    def output_tokens_per_second(self) -> float:
        """Of all groups."""
        return self.result.output_tokens_per_second * self.groups

    def rows(self) -> list[tuple[str, str, str]]:
        """Quantity, value and what belongs to it, as text."""
        rows = self.result.rows()
        if self.groups > 1:
            text = format_quantity(self.output_tokens_per_second, "a second")
            rows.append(("output tokens, all groups", text, said("{groups} groups", groups=self.groups)))
        return rows

    def identity(self) -> dict[str, Any]:
        """What tells this answer from others in a table: the job, how batches are formed, and the load."""
        return serving_memory(self.job).identity() | {
            "mode": self.engine.mode,
            "rate": self.rate,
            "concurrency": self.concurrency,
            "trace": self.trace,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
        }

    def to_row(self) -> dict[str, Any]:
        """One row: the same without what is said in words."""
        return dict(flat({name: value for name, value in self.to_dict().items() if name != "warnings"}))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers: the job, the load of all groups, and the result of one."""
        return {
            **self.identity(),
            "verdict": self.verdict,
            "groups": self.groups,
            "rate_simulated": None if self.rate is None else self.rate / self.groups,
            "warnings": self.warnings(),
            "output_tokens_per_second_of_all": self.output_tokens_per_second,
            "max_sequences": self.engine.max_sequences,
            "kv_blocks": self.engine.kv_blocks,
            "block_tokens": self.engine.block_tokens,
            "simulated": self.result.to_dict(),
        }

    def tables(self) -> list[Table]:
        return [Table(self.title, ("quantity", "value", "percentiles or detail"), self.rows())]

    def __str__(self) -> str:
        rows = ("  ".join(row).rstrip() for row in self.rows())
        return "\n".join([self.title, self.verdict, *rows, *self.below()])


@checked(rate=None, speed=None, seed=whole(-MOST_WHOLE))
def simulate_service(
    job: ServingJob,
    *,
    rate: float | None = None,
    concurrency: int | None = None,
    trace: str | None = None,
    requests: int | None = None,
    speed: float | None = None,
    input_tokens: simulation.load.Lengths | None = None,
    output_tokens: simulation.load.Lengths | None = None,
    seed: int | None = None,
    slo_ttft: float | None = None,
    slo_tpot: float | None = None,
    prefill_workers: int | None = None,
    calibration: Mapping[str, Any] | None = None,
    progress: Callable[[int, int | None], object] | None = None,
    traced: int = 0,
    **options: Any,
) -> SimulatedService:
    """Play requests through a job's engine; replicas are alike and share them out, so that one is simulated.

    Give one of `rate`, `concurrency` and `trace`.

    rate            requests that arrive in a second, at random (Poisson)
    concurrency     users, each of whom sends a request when the last one is answered
    trace, speed    a CSV file to replay, and how many times as fast; default: 1. See `llmhw.simulation.Recorded`
    requests        to simulate; default: 1000 and, of users, at least 20 each, or all of `trace`
    input_tokens, output_tokens   lengths, but not of a trace: whole numbers, or distributions of `llmhw.simulation`;
                    default: 1000 and 500
    seed            of what is drawn at random; default: 0
    slo_ttft, slo_tpot   limits in seconds on the first token and between tokens
    prefill_workers   with mode disaggregated: replicas for prompts, for each that decodes; default: 1
    progress        called as progress(requests answered, requests in all), some ten times a second
    traced          how many requests `llmhw.timeline.simulate` is to draw: the first ones, with their steps
    options         of `llmhw.simulation.Engine`: mode, chunked_prefill, max_delay_seconds, ...

    What has no effect is refused.

    >>> from llmhw import model
    >>> job = ServingJob(model=model("llama-3-8b"), cluster=Cluster("h100", 2))
    >>> found = simulate_service(job, rate=4, requests=100, input_tokens=500, output_tokens=100)
    >>> found.groups, found.result.requests, found.result.complete
    (2, 100, True)
    """
    from llmhw.simulation import SLO, simulate

    drawn: dict[str, Any] = {"input_tokens": input_tokens, "output_tokens": output_tokens, "seed": seed}
    _check_asked(rate, concurrency, trace, speed, drawn)
    _check_limits(slo_ttft, slo_tpot)
    workers = 0
    if options.get("mode") == "disaggregated":
        workers = options["prefill_workers"] = check_count(
            "prefill_workers", 1 if prefill_workers is None else prefill_workers
        )
    elif prefill_workers is not None:
        raise LLMHWError(f"prefill_workers={shown(prefill_workers)} belongs to mode disaggregated; leave it out")
    groups = independent_groups(job, prefill_workers=workers)
    if trace is not None:
        load = _replayed(trace, requests, 1.0 if speed is None else speed, groups)
    else:
        load = _drawn(rate, concurrency, requests, groups, **drawn)
    engine = simulation_engine(
        job, input_tokens=load.input_tokens, output_tokens=load.output_tokens, calibration=calibration, **options
    )
    given = {"ttft_seconds": slo_ttft, "tpot_seconds": slo_tpot}
    limits = {name: value for name, value in given.items() if value is not None}
    slo = SLO(**limits) if limits else None
    asked: dict[str, Any] = {"progress": progress, "total": load.total, "trace_requests": traced}
    found = simulate(engine, load.share(engine), slo=slo, **asked)
    job = settled(job, prompt=load.input_tokens, answer=load.output_tokens)
    return SimulatedService(
        job, engine, groups, load.rate, found, concurrency, trace, load.input_tokens, load.output_tokens
    )


def _check_asked(
    rate: float | None, concurrency: int | None, trace: str | None, speed: float | None, drawn: Mapping[str, Any]
) -> None:
    """One load, and nothing that has no effect on it."""
    if sum(given is not None for given in (rate, concurrency, trace)) != 1:
        raise LLMHWError(
            f"rate={shown(rate)}, concurrency={shown(concurrency)} and trace={shown(trace)}: give one of the three, "
            "which says when requests come"
        )
    if trace is None:
        if speed is not None:
            raise LLMHWError(f"speed={shown(speed)} belongs to trace; leave it out")
        fixed = all(value is None or isinstance(value, (int, float)) for value in drawn.values())
        if drawn["seed"] is not None and concurrency is not None and fixed:
            raise LLMHWError(
                f"seed={shown(drawn['seed'])} has no effect: with concurrency and fixed lengths nothing is drawn; "
                "leave it out"
            )
        return
    for name, value in drawn.items():
        if value is not None:
            raise LLMHWError(f"{name}={shown(value)} has no effect: trace has its own requests; leave it out")


@dataclass(frozen=True, slots=True)
class _Load:
    """What comes to all groups: typical lengths, the rate, and the requests of one; `total` of them."""

    input_tokens: int
    output_tokens: int
    rate: float | None
    requests: Iterable[simulation.Request] | simulation.Closed
    total: int
    every: int = 1

    def share(self, engine: simulation.Engine) -> Iterable[simulation.Request] | simulation.Closed:
        """The requests of one group."""
        from llmhw.simulation import Closed

        if self.every == 1 or isinstance(self.requests, Closed):
            return self.requests
        return self._every(self.requests, engine)

    def _every(self, requests: Iterable[simulation.Request], engine: simulation.Engine) -> Iterator[simulation.Request]:
        """Every n-th request; all are checked."""
        for number, request in enumerate(requests):
            if number % self.every == 0:
                yield request
            else:
                engine.check_request(request, number)


def _drawn(
    rate: float | None,
    concurrency: int | None,
    requests: int | None,
    groups: int,
    *,
    input_tokens: simulation.load.Lengths | None,
    output_tokens: simulation.load.Lengths | None,
    seed: int | None,
) -> _Load:
    from llmhw.simulation import Closed, Poisson
    from llmhw.simulation.load import MOST_USERS, check_requests, drawer

    prompt = 1000 if input_tokens is None else input_tokens
    answer = 500 if output_tokens is None else output_tokens
    number = 0 if seed is None else seed
    users = 0
    if concurrency is not None:
        users, left = divmod(check_requests("concurrency", concurrency, 1, MOST_USERS), groups)
        if left:
            near = [n for n in (users * groups, (users + 1) * groups) if n]
            raise LLMHWError(
                f"concurrency={concurrency} is not shared out evenly by {groups} groups of sequences that batch on "
                f"their own; use {' or '.join(map(str, near))}"
            )
    count = check_requests("requests", max(1000, 20 * users) if requests is None else requests, 1)
    coming: Poisson | Closed
    if users:
        coming, wanted = Closed(users, prompt, answer, requests=count, seed=number), None
    else:
        wanted = check_number("rate", rate, above=True)
        coming = Poisson(wanted / groups, prompt, answer, requests=count, seed=number)
    draws = drawer("input_tokens", prompt, number), drawer("output_tokens", answer, number)
    inputs, outputs = (round(fmean(draw() for _ in range(1000))) for draw in draws)
    return _Load(inputs, outputs, wanted, coming, count)


def _replayed(trace: str, requests: int | None, speed: float, groups: int) -> _Load:
    from llmhw.simulation import Recorded
    from llmhw.simulation.load import check_requests

    most = None if requests is None else check_requests("requests", requests, 1)
    recorded = Recorded(trace, speed, most)
    # read once before: for its lengths, and so that a wrong line is found before anything is simulated
    inputs = outputs = number = 0
    first = last = 0.0
    for number, request in enumerate(recorded, 1):
        inputs, outputs, last = inputs + request.input_tokens, outputs + request.output_tokens, request.arrival_seconds
        first = last if number == 1 else first
    if not number:
        raise LLMHWError(f"trace={shown(trace)} has no requests; give at least one row")
    if most is not None and number < most:
        raise LLMHWError(f"requests={most} is more than the {number:,} of {trace}; leave it out for all of them")
    spread = last - first
    rate = (number - 1) / spread if spread else 0.0
    return _Load(round(inputs / number), round(outputs / number), rate, recorded, -(-number // groups), groups)


@checked
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
    job = settled(job, prompt=input_tokens, answer=output_tokens, concurrency=concurrency)
    service = Service(job, bound(engine_for(job)), input_tokens, output_tokens)
    return service.at(check_count("concurrency", concurrency)).tokens_per_second
