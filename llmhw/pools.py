"""Prompts and answers on devices of their own: how many a load takes of each, and whether that pays.

A prompt is computed at once and fills the device; an answer comes token by token and reads the weights for each. Apart,
each pool has the layout that suits it, and no prompt comes between two tokens; but caches move over the network, and a
pool that is not full cannot help the other (DistServe, Splitwise).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, gcd
from typing import Any

from llmhw.checks import checked
from llmhw.cost import price_of
from llmhw.formula import Report, Table, formula
from llmhw.hardware import Cluster, Price, usual_network
from llmhw.job import ServingJob
from llmhw.memory import kv_cache_bytes_per_token
from llmhw.queueing import littles_law
from llmhw.service import Point, cache_transfer_seconds, cached_tokens, serve
from llmhw.units import LLMHWError, check_count, check_number, format_quantity, format_range


@formula(
    source="DistServe (Zhong et al. 2024), equation 1: prompts of equal length come at random (M/D/1)", unit="seconds"
)
def prompt_wait_seconds(*, rate: Any, work_seconds: Any) -> Any:
    """Mean time that a prompt waits for those before it on its replica; for less than all of its time.

    rate           prompts that come to the replica in a second
    work_seconds   in which it can begin the next one

    >>> prompt_wait_seconds(rate=4, work_seconds=0.125)
    0.0625
    """
    return rate * work_seconds**2 / (2 * (1 - rate * work_seconds))


@formula(source="DistServe (Zhong et al. 2024), equation 1, solved for the rate", unit="1/s")
def prompts_per_second(*, wait_seconds: Any, work_seconds: Any) -> Any:
    """Prompts that may come to a replica in a second, so that each waits for so long on average.

    >>> prompts_per_second(wait_seconds=0.0625, work_seconds=0.125)
    4.0
    """
    return 2 * wait_seconds / (work_seconds * (work_seconds + 2 * wait_seconds))


@dataclass(frozen=True)
class Pool:
    """Replicas that are alike.

    name       what they do: prompts, decode, or both
    job        one of them
    replicas   how many
    busy       the load as a share of what they could take within the limits
    together   prompts or sequences that a replica works on at once
    ttft_seconds, tpot_seconds   what they add to the first token and to each next one, on average; None: nothing
    """

    name: str
    job: ServingJob
    replicas: int
    busy: float
    together: float
    ttft_seconds: float | None = None
    tpot_seconds: float | None = None

    @property
    def devices(self) -> int:
        """Of all replicas."""
        return self.replicas * self.job.devices

    @property
    def layout(self) -> str:
        """Of one replica."""
        return ", ".join(f"{name}={size}" for name, size in self._sizes().items() if size > 1) or "tp=1"

    def _sizes(self) -> dict[str, int]:
        return {name: getattr(self.job, name) for name in ("tp", "pp", "attention_dp", "ep")}

    def __str__(self) -> str:
        return f"{self.replicas:,} x {self.layout}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        names = ("replicas", "devices", "busy", "together", "ttft_seconds", "tpot_seconds")
        job = {"device": self.job.cluster.accelerator.name, **self._sizes(), "weights": self.job.weights}
        return {"pool": self.name, **job, "kv": self.job.kv} | {name: getattr(self, name) for name in names}


@dataclass(frozen=True, repr=False)
class Pools(Report):
    """What a load takes within limits, with prompts and answers on devices of their own, and all on the same.

    rate, input_tokens, output_tokens   requests in a second, and their lengths
    slo_ttft, slo_tpot   limits in seconds
    apart              a pool for prompts and one that decodes; () where no layout keeps the limits so
    together           one that does both; None where no layout keeps them so
    transfer_seconds   in which a prompt's cache moves from one pool to the other; it delays the first token
    devices_interval   that both ways take, apart and together, were all times at the ends of their 80 %
                       interval; () where it is not known
    why                what is not kept, where there is no pool
    prices             of a device-hour, by name of the device
    """

    rate: float
    input_tokens: int
    output_tokens: int
    slo_ttft: float
    slo_tpot: float
    apart: tuple[Pool, ...]
    together: Pool | None
    transfer_seconds: float
    devices_interval: Mapping[str, tuple[int | None, ...]]
    why: Mapping[str, str]
    prices: Mapping[str, Price]
    model: str

    @property
    def pools(self) -> tuple[Pool, ...]:
        """All that were found."""
        return (*self.apart, *([self.together] if self.together else []))

    @property
    def devices(self) -> int | None:
        """Of both pools apart."""
        return sum(pool.devices for pool in self.apart) or None

    @property
    def ratio(self) -> str:
        """Replicas for prompts to those that decode, in the smallest whole numbers."""
        counts = [pool.replicas for pool in self.apart]
        return ":".join(str(count // gcd(*counts)) for count in counts)

    def dollars_per_hour(self, *pools: Pool) -> float | None:
        """Of the devices of these pools, if all their prices are known."""
        names = [pool.job.cluster.accelerator.name for pool in pools]
        if not pools or not set(names) <= set(self.prices):
            return None
        rates = (self.prices[name].dollars_per_device_hour for name in names)
        return sum(pool.devices * rate for pool, rate in zip(pools, rates, strict=True))

    @property
    def apart_pays(self) -> bool:
        """Whether two pools are cheaper than one; where prices are not known, whether they take fewer devices."""
        if not self.apart or not self.together:
            return bool(self.apart)
        apart, one = self.dollars_per_hour(*self.apart), self.dollars_per_hour(self.together)
        if apart is None or one is None:
            return (self.devices or 0) < self.together.devices
        return apart < one

    @property
    def title(self) -> str:
        """The load in one line."""
        first, following = (format_quantity(limit, "seconds") for limit in (self.slo_ttft, self.slo_tpot))
        return (
            f"{self.model}: {self.rate:g} requests/s, {self.input_tokens:,} tokens in, {self.output_tokens:,} out; "
            f"first token within {first}, each next one within {following}"
        )

    @property
    def verdict(self) -> str:
        """Which is cheaper, and the ratio."""
        one = f"{self.together} for both: {self.together.devices:,} devices" if self.together else ""
        if not self.apart:
            return f"Together: {one}. Apart: {self.why['apart']}." if one else f"Neither way: {self.why['apart']}."
        prompts, decode = self.apart
        two = f"{prompts} for prompts and {decode} that decode, {self.ratio}: {self.devices:,} devices"
        if not one:
            return f"Apart: {two}. Together: {self.why['together']}."
        return f"Apart: {two}; together {one}." if self.apart_pays else f"Together: {one}; apart {two}."

    def warnings(self) -> list[str]:
        """What the numbers leave out."""
        return [
            "requests come at random, equally long, spread evenly; `llmhw simulate --mode disaggregated` plays others"
        ]

    def footer(self) -> list[str]:
        """The way of the cache, and what the interval of times means for the devices."""
        found = []
        if self.apart:
            found.append(f"A prompt's cache moves in {format_quantity(self.transfer_seconds, 'seconds')}.")
        for name, ends in self.devices_interval.items():
            if ends and ends[0] is not None:
                most = f"to {ends[1]:,}" if ends[1] else "and more: no number of them keeps the limits at its upper end"
                found.append(f"Devices {name} over the 80 % interval of times: {ends[0]:,} {most}.")
        return found

    def tables(self) -> list[Table]:
        columns = ("pool", "device", "layout", "replicas", "devices", "first token", "next token", "busy", "an hour")

        def told(value: float | None, unit: str) -> str:
            return "-" if value is None else format_quantity(value, unit)

        rows = [
            (
                pool.name,
                pool.job.cluster.accelerator.name,
                pool.layout,
                f"{pool.replicas:,}",
                f"{pool.devices:,}",
                told(pool.ttft_seconds, "seconds"),
                told(pool.tpot_seconds, "seconds"),
                told(pool.busy, "fraction"),
                told(self.dollars_per_hour(pool), "dollars"),
            )
            for pool in self.pools
        ]
        return [Table(self.title, columns, rows, right=3)]

    def records(self) -> list[dict[str, Any]]:
        """The pools as plain numbers."""
        return [pool.to_dict() | {"dollars_per_hour": self.dollars_per_hour(pool)} for pool in self.pools]

    index = "pool"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        asked = ("model", "rate", "input_tokens", "output_tokens", "slo_ttft", "slo_tpot")
        return {name: getattr(self, name) for name in asked} | {
            "verdict": self.verdict,
            "apart_pays": self.apart_pays,
            "ratio": self.ratio or None,
            "pools": self.records(),
            "devices_apart": self.devices,
            "devices_together": self.together.devices if self.together else None,
            "devices_interval": {name: list(ends) for name, ends in self.devices_interval.items()},
            "dollars_per_hour_apart": self.dollars_per_hour(*self.apart),
            "dollars_per_hour_together": self.dollars_per_hour(*([self.together] if self.together else [])),
            "transfer_seconds": self.transfer_seconds,
            "why": dict(self.why),
            "warnings": self.warnings(),
        }


# what a load says is checked by its own words
@checked(rate=None, slo_ttft=None, slo_tpot=None, tp=None, pp=None, prompts_on=None)
def pools(
    job: ServingJob,
    *,
    rate: float,
    input_tokens: int,
    output_tokens: int,
    slo_ttft: float,
    slo_tpot: float,
    tp: Sequence[int] = (),
    pp: Sequence[int] = (),
    prompts_on: Cluster | None = None,
    price: float | Price | None = None,
    provider: str | None = None,
    region: str | None = None,
    kind: str = "on_demand",
    calibration: Mapping[str, Any] | None = None,
) -> Pools:
    """The cheapest pools for prompts and for answers that take a load within limits, and the cheapest that does both.

    job               what serves, and on which kind of device, node and network; how many is what is looked for
    rate              requests that come in a second
    slo_ttft, slo_tpot   limits in seconds on the mean first token and on the time between tokens
    tp, pp            layouts of a replica to try; default: powers of two up to a node, and up to four nodes
    prompts_on        the kind of device and network for prompts, if another
    price, provider, region, kind   as in `llmhw.cost.training_run`

    A prompt waits for those before it as in an M/D/1 queue, is computed alone, and its cache moves over the network,
    all of that before the first token. Sequences that decode are as many as Little's law says. One pool for both is as
    `llmhw.serve` has it.

    >>> from llmhw import model
    >>> job = ServingJob(model=model("llama-3.1-70b"), cluster=Cluster("h100", 8), weights="fp8", kv="fp8")
    >>> found = pools(job, rate=40, input_tokens=4000, output_tokens=200, slo_ttft=1, slo_tpot=0.03)
    >>> [pool.name for pool in found.pools], found.ratio.count(":")
    (['prompts', 'decode', 'both'], 1)
    """
    where = job.cluster if prompts_on is None else prompts_on
    prices: dict[str, Price] = {}
    for c in (job.cluster, where):
        paid, _ = price_of(c.accelerator, c.devices_per_node, price, provider, region, kind)
        prices |= {c.accelerator.name: paid} if paid else {}
    known = [prices.get(c.accelerator.name) for c in (where, job.cluster)]
    load = _Load(
        check_number("rate", rate, above=True),
        check_count("input_tokens", input_tokens),
        check_count("output_tokens", output_tokens, 2),
        check_number("slo_ttft", slo_ttft, above=True),
        check_number("slo_tpot", slo_tpot, above=True),
        calibration,
        job.cluster.devices_per_node,
        (known[0].dollars_per_device_hour, known[1].dollars_per_device_hour) if known[0] and known[1] else (1.0, 1.0),
    )
    decoding = list(_layouts(job, job.cluster, load, tp, pp))
    prompting = decoding if where == job.cluster else list(_layouts(job, where, load, tp, pp))
    if not decoding or not prompting:
        c = job.cluster if not decoding else where
        raise LLMHWError(
            f"no replica of {job.model.name} fits up to {_NODES} nodes of {c.devices_per_node} x {c.accelerator.name}; "
            "use another device, or weights of fewer bits"
        )
    two, transfer, why_not = _apart(prompting, decoding, load)
    one, why = _together(decoding, load)
    slower = [load.slower(times) for times in decoding[0].interval or ()]
    both = [_together(decoding, at)[0] for at in slower]
    return Pools(
        rate, input_tokens, output_tokens, slo_ttft, slo_tpot, two, one, transfer,
        {
            "apart": tuple(sum(pool.devices for pool in _apart(prompting, decoding, at)[0]) or None for at in slower),
            "together": tuple(pool.devices if pool else None for pool in both),
        },
        {"apart": why_not, "together": why}, prices, job.model.name,
    )  # fmt: skip


# Nodes that a replica may span.
_NODES = 4


@dataclass(frozen=True)
class _Load:
    """What comes, and within what.

    node    devices of the fast network
    costs   of a device for prompts, and of one that decodes
    """

    rate: float
    input_tokens: int
    output_tokens: int
    slo_ttft: float
    slo_tpot: float
    calibration: Mapping[str, Any] | None
    node: int
    costs: tuple[float, float]

    def slower(self, times: float) -> _Load:
        """The same if everything took so many times as long: limits and gaps are shorter in comparison."""
        ttft, tpot = self.slo_ttft / times, self.slo_tpot / times
        return replace(self, rate=self.rate * times, slo_ttft=ttft, slo_tpot=tpot)


class _Replica:
    """One replica of a layout, and what it can take."""

    def __init__(self, job: ServingJob, load: _Load) -> None:
        sizes: dict[str, Any] = {"input_tokens": load.input_tokens, "output_tokens": load.output_tokens}
        found = serve(job, **sizes, concurrency=1, calibration=load.calibration)
        self.job, self.service, self.room = found.job, found.service, found.capacity
        self.interval = found.interval
        self._passes: dict[float, float] = {}
        self._points: dict[int, Point] = {}

    @property
    def ways(self) -> int:
        """Batches that its stages work on at once."""
        return self.job.pp if self.job.split == "tensor" else 1

    @cached_property
    def prompt_seconds(self) -> float:
        """Of one prompt."""
        return self.service.prompt_seconds

    @cached_property
    def work_seconds(self) -> float:
        """Until the next prompt can begin: the first stage is free before the last one is done."""
        past, chunk = cached_tokens(self.job, self.service.input_tokens), self.job.max_batched_tokens
        engine = replace(self.service.engine, pp=1)
        new = self.service.input_tokens - past
        return min(self.prompt_seconds, float(engine.prompt_seconds(new, chunk=chunk, past=past)) / self.ways)

    def pass_seconds(self, sequences: float) -> float:
        """A token of each of so many sequences."""
        if sequences not in self._passes:
            batch = max(1.0, sequences / self.ways)
            self._passes[sequences] = float(self.service.decoding(batch).total)
        return self._passes[sequences]

    def prompts(self, seconds: float) -> float:
        """Prompts it takes in a second, so that the first token is there after so many seconds on average."""
        wait = seconds - self.prompt_seconds
        return float(prompts_per_second(wait_seconds=wait, work_seconds=self.work_seconds)) if wait > 0 else 0.0

    def sequences(self, seconds: float) -> int:
        """The most sequences that all get a token within so many seconds."""
        return bisect_left(range(1, self.room + 1), True, key=lambda n: self.pass_seconds(n) > seconds)

    def answers(self, sequences: float, output_tokens: int) -> float:
        """Requests that end in a second."""
        return sequences / ((output_tokens - 1) * self.pass_seconds(sequences))

    def both(self, requests: int) -> Point:
        """So many requests at work, whose prompts it computes too."""
        if requests not in self._points:
            self._points[requests] = self.service.at(requests)
        return self._points[requests]

    def busiest(self, load: _Load) -> Point | None:
        """With the most requests at work that keep both limits, if it does both."""

        def late(n: int) -> bool:
            point = self.both(n)
            return point.ttft_seconds > load.slo_ttft or point.tpot_seconds > load.slo_tpot

        most = bisect_left(range(1, self.room + 1), True, key=late)
        return self.both(most) if most else None

    def at_work(self, rate: float, output_tokens: int, most: float) -> float:
        """Sequences that decode at a time if so many requests come in a second (Little's law), by bisection."""
        low, high = 0.0, most
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            wanted = littles_law(arrivals_per_second=rate, seconds=(output_tokens - 1) * self.pass_seconds(middle))
            low, high = (middle, high) if wanted > middle else (low, middle)
        return high


# Halvings by which a number of sequences is found: to a millionth.
_HALVINGS = 20


def _layouts(
    job: ServingJob, cluster: Cluster, load: _Load, tp: Sequence[int], pp: Sequence[int]
) -> Iterator[_Replica]:
    """Replicas that hold at least one request; a layout that a rule forbids is none."""
    node = cluster.devices_per_node
    doubled = [2**i for i in range(20)]
    for tensor in tp or [n for n in doubled if n <= node]:
        for stages in pp or [n for n in doubled if n * tensor <= _NODES * node]:
            count = check_count("tp", tensor) * check_count("pp", stages) * job.attention_dp
            between = cluster.inter_link or usual_network(cluster.accelerator)
            c = Cluster(cluster.accelerator, count, min(count, node), cluster.intra_link, between)
            try:
                found = _Replica(replace(job, cluster=c, tp=tensor, pp=stages), load)
            except LLMHWError:
                continue
            if found.room:
                yield found


def _transfer_seconds(prompting: _Replica, decoding: _Replica, load: _Load, devices: int) -> float:
    """The way of a prompt's cache between replicas of so many devices in all; each rank sends a part."""
    ends, links = (prompting.job.cluster, decoding.job.cluster), []
    near = ends[0].accelerator == ends[1].accelerator and devices <= load.node
    for c in ends:
        if (link := c.intra_link if near else c.inter_link) is None:
            raise LLMHWError(
                f"inter_link of {c.accelerator.name} is not known, and caches move over it; give it, as in "
                "inter_link='InfiniBand NDR 4x'"
            )
        links.append(link.bytes_per_second * c.devices)
    size = float(kv_cache_bytes_per_token(decoding.job.model, decoding.job.kv))
    given = {"tokens": load.input_tokens, "token_bytes": size, "link_bytes_per_second": min(links)}
    return float(cache_transfer_seconds(**given))


def _apart(
    prompting: Sequence[_Replica], decoding: Sequence[_Replica], load: _Load
) -> tuple[tuple[Pool, ...], float, str]:
    """The two cheapest pools, seconds between them, and what no layout keeps."""
    able = {r: n for r in decoding if (n := r.sequences(load.slo_tpot))}
    if not able:
        least = min(r.pass_seconds(1) for r in decoding)
        limits = format_range((least, load.slo_tpot), "seconds")
        return (), 0.0, f"one sequence alone gets a token every {limits[0]}, not {limits[1]}"
    found: list[tuple[float, float, float, _Replica, int, _Replica, int]] = []
    for decode, most in able.items():
        many = ceil(load.rate / decode.answers(most, load.output_tokens))
        for prompt in prompting:
            used = many * decode.job.devices
            transfer = _transfer_seconds(prompt, decode, load, used + prompt.job.devices)
            if takes := prompt.prompts(load.slo_ttft - transfer):
                count = ceil(load.rate / takes)
                transfer = _transfer_seconds(prompt, decode, load, used + count * prompt.job.devices)
                if takes := prompt.prompts(load.slo_ttft - transfer):
                    count = ceil(load.rate / takes)
                    cost = count * prompt.job.devices * load.costs[0] + used * load.costs[1]
                    found.append((cost, prompt.prompt_seconds, transfer, prompt, count, decode, many))
    if not found:
        least = min(r.prompt_seconds for r in prompting)
        limits = format_range((least, load.slo_ttft), "seconds")
        return (), 0.0, f"a prompt alone takes {limits[0]}, and its cache has to move, within {limits[1]}"
    _, _, transfer, prompt, count, decode, many = min(found, key=lambda one: one[:2])
    each = load.rate / count
    wait = float(prompt_wait_seconds(rate=each, work_seconds=prompt.work_seconds))
    at_work = decode.at_work(load.rate / many, load.output_tokens, able[decode])
    takes, answers = prompt.prompts(load.slo_ttft - transfer), decode.answers(able[decode], load.output_tokens)
    first = wait + prompt.prompt_seconds + transfer
    return (
        (
            Pool("prompts", prompt.job, count, each / takes, each * (wait + prompt.prompt_seconds), ttft_seconds=first),
            Pool(
                "decode",
                decode.job,
                many,
                load.rate / many / answers,
                at_work,
                tpot_seconds=decode.pass_seconds(at_work),
            ),
        ),
        transfer,
        "",
    )


def _together(replicas: Sequence[_Replica], load: _Load) -> tuple[Pool | None, str]:
    """The pool of the fewest devices that does both, or what none keeps."""
    able = {r: most.tokens_per_second / load.output_tokens for r in replicas if (most := r.busiest(load))}
    if not able:
        return None, "no layout keeps both limits, even with a single request"
    best = min(able, key=lambda r: (ceil(load.rate / able[r]) * r.job.devices, -able[r]))
    count = ceil(load.rate / able[best])
    each = load.rate / count
    wanted = each * load.output_tokens
    point = best.both(1 + bisect_left(range(1, best.room), wanted, key=lambda n: best.both(n).tokens_per_second))
    return (
        Pool("both", best.job, count, each / able[best], point.concurrency, point.ttft_seconds, point.tpot_seconds),
        "",
    )
