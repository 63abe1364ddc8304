"""What to buy or rent to serve a model: the cheapest places that are quick enough, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmhw.cost import RunOptions
from llmhw.formula import Table
from llmhw.hardware import Cluster, old_price, prices
from llmhw.job import ServingJob
from llmhw.language import said
from llmhw.live.base import PATIENCE, Answer, Calculator, Control, Figure, Settings
from llmhw.live.charts import bars
from llmhw.live.jobs import AUTO
from llmhw.live.load import LENGTHS, dollars, lengths_of
from llmhw.live.models import Chosen, chosen
from llmhw.live.typed import Code, call, command
from llmhw.planning.demand import Demand
from llmhw.planning.result import Choice, Limits, Plan
from llmhw.planning.result import Figure as Number
from llmhw.planning.small import RANKS, plan_small
from llmhw.units import format_quantity, format_range

_BEST = 3
_WEIGHTS = (
    (AUTO, "fp8, or as its files are"), ("bf16", "bf16"), ("fp8", "fp8"), ("int8", "int8 (W8A8)"),
    ("int4-awq", "int4, AWQ"), ("int4-gptq", "int4, GPTQ"), ("nvfp4", "NVFP4"),
)  # fmt: skip
_CACHES = (("bf16", "bf16"), ("fp8", "fp8"))
_WAYS = {"rent": "rent", "buy": "buy"}


def _sellers() -> tuple[tuple[str, str], ...]:
    names = sorted({price.provider for price in prices(kind="on_demand")})
    return ((AUTO, "anyone"), *((name, name) for name in names))


def _formats(settings: Settings, model: Chosen) -> dict[str, Any]:
    own = "checkpoint" if model.spec.checkpoint.quantized else "fp8"
    return {"weights": own if settings["weights"] == AUTO else settings["weights"], "kv": settings["kv"]}


def _told(number: Number) -> str:
    if number.unit == "count":
        return f"{number.value:,.0f}"
    value, *ends = format_range([v for v in (number.value, number.low, number.high) if v is not None], number.unit)
    return said("{value} (80 %: {low} to {high})", value=value, low=ends[0], high=ends[1]) if ends else value


def _plain(number: Number | None) -> str:
    return "-" if number is None else format_quantity(number.value, number.unit)


def _figures(best: Choice, figure: str) -> tuple[list[Figure], list[str]]:
    """The figures of a choice, and their names."""
    names = {
        figure: "price to buy" if figure == "purchase" else "an hour",
        "tokens_per_second_per_user": "tokens/s a user",
        "ttft": "first token",
        "tokens_per_second": "tokens/s in all",
        "dollars_per_million": "a million output tokens",
    }
    parts = {"tokens_per_second_per_user": "next token", "ttft": "first token", "tokens_per_second": "all users"}
    if figure == "dollars_per_hour":
        parts["dollars_per_million"] = "a million tokens"

    def explained(name: str) -> Callable[[], str] | None:
        def told() -> str:
            if name == figure:
                each = best.figures[figure].value / best.where.devices
                return f"{best.where.devices:,} x {dollars(each)} = {dollars(best.figures[figure].value)}"
            found = best.estimate
            return str(found.explain(parts[name]) if found.fits else found.verdict)

        return told if name in parts or name == figure else None

    known = [name for name in names if name in best.figures]
    made = [Figure(said(names[n]), _told(best.figures[n]), best.figures[n].value, explained(n)) for n in known]
    return made, known


def _table(plan: Plan, figure: str) -> Table:
    heads = (said("place"), said("price"), said("tokens/s a user"), said("first token"), said("layout"))
    rows = [
        (c.place, *(_plain(c.figures.get(n)) for n in (figure, "tokens_per_second_per_user", "ttft")), c.layout)
        for c in plan.choices
    ]
    return Table(said("The cheapest places"), heads, rows)


def _notes(plan: Plan, settings: Settings) -> list[str]:
    """Why, at what price, and what was not looked at."""
    found = [*plan.why, *plan.changes]
    price = plan.choices[0].where.price if plan.choices else None
    if price is not None and settings["way"] == "rent":
        found.append(said("Price: {price}", price=str(price)))
        found += [f"{old}" for old in [old_price(price)] if old]
    if not plan.choices:
        found += [f"{one.place}: {one.why}" for one in plan.refused[:4]]
    ranks = ", ".join(map(str, RANKS))
    found.append(said("A small search: vLLM, one format, {ranks} devices of a node for each copy, {count} places. "
                      "llmhw plan serve tries all layouts and formats, llmhw which other engines.",
                      ranks=ranks, count=plan.counts["places"]))  # fmt: skip
    return [*found, *(note for note in plan.notes if not note.startswith("assumed"))]


def _buy(settings: Settings) -> Answer:
    model, bought = chosen(settings), settings["way"] == "buy"
    figure = "purchase" if bought else "dollars_per_hour"
    formats = _formats(settings, model)
    job = ServingJob(model=model.spec, cluster=Cluster("h100"), **formats)
    level = {"users": settings["users"], "slo_ttft": settings["first"], "slo_tpot": 1 / settings["speed"]}
    asked: dict[str, Any] = {**lengths_of(settings, model), **level}
    limit: dict[str, Any] = {"purchase": settings["budget"] or 1e15} if bought else {}
    if settings["budget"] and not bought:
        limit["budget_per_hour"] = settings["budget"]
    seller = None if bought or settings["seller"] == AUTO else settings["seller"]
    plan = plan_small(
        job, demand=Demand(**asked), limits=Limits(**limit), run=RunOptions(provider=seller), best=_BEST,
        patience=PATIENCE.get(),
    )  # fmt: skip
    given = {"demand": Code(call("Demand", **asked)), "limits": Code(call("Limits", **limit))}
    if seller:
        given["run"] = Code(call("RunOptions", provider=seller))
    made = call("llmhw.ServingJob", model=model.python, cluster=Code("llmhw.Cluster('h100')"), **formats)
    text = (
        "import llmhw\nfrom llmhw.cost import RunOptions\nfrom llmhw.planning import Demand, Limits\n"
        f"from llmhw.planning.small import plan_small\njob = {made}\n"
        f"plan = {call('plan_small', Code('job'), **given, best=_BEST)}\n"
    )
    options = {**formats, **asked, "tp": ",".join(map(str, RANKS)), "pp": 1, "ep": 1, "attention_dp": 1}
    options |= {**limit, "provider": seller, "best": _BEST}
    line = command("plan", "serve", model.word, options=options)
    if not plan.choices and not plan.complete:
        looking = said("Still looking; {count} places are in question.", count=plan.counts["places"])
        return Answer(looking, (), text + "plan.verdict", line, more=True)
    if not plan.choices:
        return Answer(said("Nothing does: {reason}", reason=plan.verdict), (), text + "plan.verdict", line, good=False,
                      notes=_notes(plan, settings))  # fmt: skip
    best = plan.best
    figures, names = _figures(best, figure)
    speed = best.figures["tokens_per_second_per_user"]
    verdict = said("Buy {place}: {price}, {speed} for each user" if bought else
                   "Rent {place}: {price} an hour, {speed} for each user",
                   place=best.place, price=dollars(best.figures[figure].value), speed=_told(speed))  # fmt: skip
    rows = {c.place: {"price": c.figures[figure].value} for c in plan.choices}
    caption = (
        said("What the cheapest places cost to buy.") if bought else said("What the cheapest places cost an hour.")
    )
    room = (said("your budget"), float(settings["budget"])) if settings["budget"] else None
    return Answer(
        verdict=verdict,
        good=True if plan.holds(best) == "yes" else None,
        figures=figures,
        pictures=[bars(rows, dollars, caption, room=room, names=said)],
        tables=[_table(plan, figure)],
        notes=_notes(plan, settings),
        python=text + ", ".join(f"plan.best.figures['{name}'].value" for name in names),
        command=line,
        more=not plan.complete,
    )


PLAN = Calculator(
    name="plan",
    title="What should I buy or rent?",
    controls=[
        Control("model", "model", "llama-3-70b", "Model"),
        Control("way", "choice", "rent", "To", choices=tuple(_WAYS.items())),
        Control("users", "number", 20, "Users at the same time", least=1, most=5000, logarithmic=True),
        Control("speed", "number", 20, "Speed for each", least=1, most=200, logarithmic=True, unit="tokens/s"),
        Control("budget", "number", 0, "Budget", least=0, most=1000000, whole=False, unit="$",
                help="An hour, or to buy; 0: no limit"),
        Control("weights", "choice", AUTO, "Format of the weights", choices=_WEIGHTS),
        *LENGTHS,
        Control("first", "number", 2.0, "First token within", least=0.1, most=60, step=0.1, whole=False,
                logarithmic=True, unit="s", more=True),
        Control("kv", "choice", "bf16", "Format of the KV cache", choices=_CACHES, more=True),
        Control("seller", "choice", AUTO, "Rented from", choices=_sellers(), when={"way": ("rent",)}, more=True),
    ],
    function=_buy,
)  # fmt: skip
