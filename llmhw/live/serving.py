"""What a service comes to: speed for all and for each user over the load, its limits, the pages of its cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from llmhw import Cluster, ServingJob
from llmhw.language import said
from llmhw.live import charts
from llmhw.live.base import Answer, Calculator, Control, Figure, Picture, Settings
from llmhw.live.choices import CACHES, COUNTS, MODEL, WEIGHTS
from llmhw.live.models import Chosen, chosen, device_of
from llmhw.live.typed import Code, call, command
from llmhw.planning.served import served_layout
from llmhw.service import ServingEstimate, serve
from llmhw.units import format_quantity

_AXES = ("tp", "pp", "ep", "attention_dp")
_seconds = partial(format_quantity, unit="seconds")


def speed(value: float) -> str:
    """Tokens a second as text."""
    return f"{format_quantity(value, '')} tok/s"


def _load(settings: Settings) -> dict[str, Any]:
    return {
        "input_tokens": settings["input"],
        "output_tokens": settings["output"],
        "concurrency": settings["users"],
        "slo_ttft": settings["ttft"] / 1000,
        "slo_tpot": settings["tpot"] / 1000,
    }


@dataclass(frozen=True)
class Asked:
    """A served question: what it is about, and its answer.

    load   as `llmhw.serve` takes it
    """

    own: Chosen
    job: ServingJob
    load: Mapping[str, Any]
    found: ServingEstimate

    @classmethod
    def of(cls, settings: Settings, load: Mapping[str, Any]) -> Asked:
        """The settings of a form, in the layout that is the fastest at that load."""
        own, cluster = chosen(settings), Cluster(device_of(settings), int(settings["devices"]))
        kv = {"kv": settings["kv"]} if settings.get("kv") else {}
        job = ServingJob(model=own.spec, cluster=cluster, weights=settings["format"], **kv)
        job = served_layout(job, **load)
        return cls(own, job, load, serve(job, **load))

    def python(self, *values: str) -> str:
        """Lines that give these attributes of the answer."""
        device = self.job.cluster.accelerator.name
        cluster = Code(call("Cluster", device, self.job.cluster.devices))
        made = call("ServingJob", model=self.own.python, cluster=cluster, **_fields(self.job))
        lines = "".join(f"    found.{value},\n" for value in values)
        last = f"(\n{lines})" if self.found.fits else "found.fits"
        given = call("llmhw.serve", Code("job"), **self.load)
        return f"import llmhw\nfrom llmhw import Cluster, ServingJob\n\njob = {made}\nfound = {given}\n{last}"

    @property
    def command(self) -> str:
        """The line of the command."""
        cluster = self.job.cluster
        options = {"gpu": cluster.accelerator.name, "gpus": cluster.devices, **_fields(self.job), **self.load}
        return command("serve", self.own.word, options=options)


def _fields(job: ServingJob) -> dict[str, Any]:
    """The fields of the job that are typed: what was asked for, and the layout that was chosen."""
    sizes = {name: int(getattr(job, name)) for name in _AXES if job.was_asked(name) and getattr(job, name) > 1}
    if job.was_asked("tp"):
        sizes = {"tp": int(job.tp), **sizes}
    return {"weights": str(job.weights), "kv": str(job.kv) if job.was_asked("kv") else None, **sizes}


def _kept(found: ServingEstimate) -> bool:
    """Whether the point keeps both limits."""
    return found.within_slo is not None and found.point.concurrency <= found.within_slo.concurrency


def everybody(found: ServingEstimate) -> str:
    """Tokens a second of all users, with the interval."""
    told = speed(found.point.tokens_per_second)
    if not (found.interval and (ends := found.tokens_per_second_interval)):
        return told
    low, high = (format_quantity(end, "") for end in ends)
    return said("{speed} (80 %: {low} to {high})", speed=told, low=low, high=high)


def _verdict(found: ServingEstimate) -> str:
    point = found.point
    if not found.fits:
        return found.verdict  # by how much, in the library's words
    given = {"all": everybody(found), "each": speed(point.tokens_per_second_per_user)}
    given |= {"n": f"{point.concurrency:,}", "first": _seconds(point.ttft_seconds)}
    if found.saturated:
        return said("Only {n} fit at a time: {all} for all, {each} for each, the first token after {first}", **given)
    if _kept(found):
        return said("Within the limits: {all} for all {n}, {each} for each, the first token after {first}", **given)
    return said("Beyond the limits: {all} for all {n}, {each} for each, the first token after {first}", **given)


def _figures(found: ServingEstimate) -> list[Figure]:
    point, best = found.point, found.within_slo
    each = f"{speed(point.tokens_per_second_per_user)} ({_seconds(point.tpot_seconds)})"
    figures = [
        Figure(said("all users"), everybody(found), point.tokens_per_second, partial(found.explain, "all users")),
        Figure(said("first token"), _seconds(point.ttft_seconds), point.ttft_seconds,
               partial(found.explain, "first token")),
        Figure(said("one user"), each, point.tpot_seconds, partial(found.explain, "next token")),
        Figure(said("fit at once"), f"{found.capacity:,}", found.capacity, partial(found.explain, "KV cache")),
    ]  # fmt: skip
    if best:
        told = said("{n} at work, {speed}", n=f"{best.concurrency:,}", speed=speed(best.tokens_per_second))
        at_best = partial(_explain_at, found, best.concurrency)
        figures.append(Figure(said("within the limits"), told, best.concurrency, at_best))
    if found.price is not None and (cost := found.dollars_per_million_tokens):
        paid = partial(found.explain, "a million tokens")
        figures.append(Figure(said("a million tokens"), format_quantity(cost, "dollars"), cost, paid))
    return figures


def _explain_at(found: ServingEstimate, concurrency: int) -> str:
    """The times at the busiest load that keeps the limits."""
    return "\n\n".join(estimate.explain() for estimate in found.service.passes(concurrency)[:2])


def _curve(found: ServingEstimate) -> Picture:
    """Speed of all over the time between two tokens of one, with the box of the limits and the point."""
    points = sorted({(p.concurrency, p) for p in (*found.curve, found.point)}, key=lambda entry: entry[0])
    line = [(1e3 * p.tpot_seconds, p.tokens_per_second) for _, p in points]
    point, best = found.point, found.within_slo
    return charts.curve(
        {said("tok/s of all users"): line},
        said("The curve goes from one request to all that fit; the box holds the loads within the limits."),
        said("ms between two tokens of a user"),
        said("tok/s of all users"),
        mark=(1e3 * point.tpot_seconds, point.tokens_per_second, said("{n} at work", n=f"{point.concurrency:,}")),
        box=(1e3 * best.tpot_seconds, said("within the limits")) if best else None,
        told=lambda value: f"{value:.3g}",
        said_up=lambda value: f"{value:,.0f}",
    )


def _pages(found: ServingEstimate) -> list[Picture]:
    """How full the cache is, in pages."""
    if (pages := found.pages) is None:
        return []
    used, every = pages
    rows = {said("pages of the cache"): {said("held"): float(used), said("free"): float(max(0, every - used))}}
    caption = said("Pages of the KV cache of one copy of the model, {tokens} tokens each", tokens=found.job.page_tokens)
    return [charts.bars(rows, lambda value: f"{value:,.0f}", caption)]


def notes(found: ServingEstimate) -> list[str]:
    """The layout, the price, and what was assumed."""
    job, told = found.job, list[str]()
    if job.cluster.devices > 1:
        sizes = ", ".join(
            f"{name}={int(getattr(job, name))}" for name in _AXES if name == "tp" or getattr(job, name) > 1
        )
        told.append(said("Layout: {sizes}; copies of the model: {n}", sizes=sizes, n=job.replicas))
    if found.fits and found.price is None:
        told.append(said("No price: {why}", why=found.no_price))
    elif found.fits:
        told.append(said("Price: {price}", price=found.price))
    if found.fits and found.slo != (None, None) and not found.within_slo:
        told.append(said("Even a single request does not keep the limits."))
    return [*told, *found.warnings()]


def _serving(settings: Settings) -> Answer:
    asked = Asked.of(settings, _load(settings))
    found = asked.found
    values = ["point.tokens_per_second", "point.ttft_seconds", "point.tpot_seconds", "capacity"]
    values += ["within_slo.concurrency"] if found.within_slo else []
    values += ["dollars_per_million_tokens"] if found.price is not None else []
    return Answer(
        verdict=_verdict(found),
        good=found.fits and _kept(found),
        figures=_figures(found) if found.fits else [],
        python=asked.python(*values),
        command=asked.command,
        pictures=[_curve(found), *_pages(found)] if found.fits else [],
        notes=notes(found),
    )


SERVING = Calculator(
    name="serving",
    title="How fast does it serve?",
    controls=[
        MODEL,
        Control(name="device", kind="device", default="H100 SXM5 80GB", label="Device"),
        Control(name="devices", kind="choice", default="1", label="How many", choices=COUNTS),
        Control(name="format", kind="choice", default="bf16", label="Format of the weights", choices=WEIGHTS),
        Control(name="users", kind="number", default=32, label="Requests at a time", least=1, most=4096,
                logarithmic=True),
        Control(name="tpot", kind="number", default=50, label="Most time between tokens", least=1, most=1000,
                logarithmic=True, unit="ms"),
        Control(name="ttft", kind="number", default=1000, label="Most time to the first token", least=10, most=60000,
                logarithmic=True, unit="ms", more=True),
        Control(name="input", kind="number", default=1000, label="Tokens of a prompt", least=1, most=100_000,
                logarithmic=True, more=True),
        Control(name="output", kind="number", default=500, label="Tokens of an answer", least=1, most=20_000,
                logarithmic=True, more=True),
        Control(name="kv", kind="choice", default="", label="Format of the KV cache", choices=CACHES, more=True),
    ],
    function=_serving,
)  # fmt: skip
