"""Throughput over the load: what each user has, what all have together, the datasheets' limit, and the knee."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

from llmhw.engine import bound
from llmhw.language import said
from llmhw.live import charts
from llmhw.live.base import Answer, Calculator, Control, Figure, Picture, Settings
from llmhw.live.choices import COUNTS, DEVICE, MODEL, WEIGHTS
from llmhw.live.serving import Asked, everybody, notes, speed
from llmhw.queueing import knee_sequences
from llmhw.service import Service, ServingEstimate, step_model
from llmhw.units import format_quantity


def _knee(service: Service) -> tuple[float, str]:
    """Requests at which half of the most throughput is reached, and what makes it."""
    step = step_model(service.engine, context=service.context, running=256, prompt_tokens=service.input_tokens)
    lengths = {"input_tokens": service.input_tokens, "output_tokens": service.output_tokens}
    each = step.each_seconds(service.context, **lengths)
    knee = float(knee_sequences(base_seconds=step.base_seconds, each_seconds=each))
    once, more = (format_quantity(seconds, "seconds") for seconds in (step.base_seconds, each))
    return knee, said("The knee: {once} paid once a step, over {each} that each request adds", once=once, each=more)


@lru_cache(maxsize=8)
def _limits(service: Service, loads: tuple[int, ...]) -> list[tuple[float, float]]:
    """What no engine exceeds at these loads; the same whatever load was asked for."""
    most = replace(service, engine=bound(service.engine))
    return [(float(n), most.at(n).tokens_per_second) for n in loads]


def _picture(found: ServingEstimate) -> Picture:
    points = sorted({p.concurrency: p for p in (*found.curve, found.point)}.items())
    # the limit bends little: a third of the loads draws it
    every, loads = replace(found.service, wanted=None), [p.concurrency for p in found.curve]
    lines = {
        said("predicted"): [(float(n), p.tokens_per_second) for n, p in points],
        said("no engine exceeds"): _limits(every, tuple(sorted({*loads[::3], loads[-1]}))),
    }
    point = found.point
    return charts.curve(
        lines,
        said("Tokens per second of all users over the load; the limit is that of the datasheets' peaks."),
        said("requests at work"),
        said("tok/s of all users"),
        mark=(point.concurrency, point.tokens_per_second, said("{n} at work", n=f"{point.concurrency:,}")),
        told=lambda value: f"{value:,.0f}",
        said_up=lambda value: f"{value:,.0f}",
    )


def _curve(settings: Settings) -> Answer:
    load = {"input_tokens": settings["input"], "output_tokens": settings["output"], "concurrency": settings["users"]}
    asked = Asked.of(settings, load)
    found = asked.found
    if not found.fits:
        return Answer(found.verdict, [], asked.python(), asked.command, good=False, notes=notes(found))
    point, alone, full = found.point, found.curve[0], found.curve[-1]
    knee, how = _knee(found.service)
    given = {"n": f"{point.concurrency:,}", "all": everybody(found)}
    given |= {"each": speed(point.tokens_per_second_per_user), "knee": f"{knee:,.0f}"}

    def explained(concurrency: int) -> str:
        return "\n\n".join(estimate.explain() for estimate in found.service.passes(concurrency)[:2])

    def figure(label: str, value: float, text: str, concurrency: int) -> Figure:
        return Figure(label, text, value, partial(explained, concurrency))

    together = said("all of {n} together", n=f"{full.concurrency:,}")
    next_token = f"{speed(point.tokens_per_second_per_user)} ({format_quantity(point.tpot_seconds, 'seconds')})"
    return Answer(
        verdict=said("{n} at work: {all} for all, {each} for each; the knee is at {knee} for each copy", **given),
        figures=[
            figure(said("all users"), point.tokens_per_second, everybody(found), point.concurrency),
            figure(said("one user"), point.tpot_seconds, next_token, point.concurrency),
            figure(said("one user alone"), alone.tokens_per_second, speed(alone.tokens_per_second), 1),
            figure(together, full.tokens_per_second, speed(full.tokens_per_second), full.concurrency),
        ],
        python=asked.python(
            "point.tokens_per_second", "point.tpot_seconds", "curve[0].tokens_per_second", "curve[-1].tokens_per_second"
        ),
        command=asked.command,
        pictures=[_picture(found)],
        notes=[how, *notes(found)],
    )


CURVE = Calculator(
    name="curve",
    title="How many tokens per second, and for whom?",
    controls=[
        Control(name="users", kind="number", default=64, label="Requests at a time", least=1, most=4096,
                logarithmic=True),
        Control(**{**vars(MODEL), "default": "llama-3-70b"}),
        Control(**{**vars(DEVICE), "default": "H100 SXM5 80GB"}),
        Control(name="devices", kind="choice", default="8", label="How many", choices=COUNTS),
        Control(name="format", kind="choice", default="bf16", label="Format of the weights", choices=WEIGHTS),
        Control(name="input", kind="number", default=1000, label="Tokens of a prompt", least=1, most=100_000,
                logarithmic=True, more=True),
        Control(name="output", kind="number", default=500, label="Tokens of an answer", least=1, most=20_000,
                logarithmic=True, more=True),
    ],
    function=_curve,
)  # fmt: skip
