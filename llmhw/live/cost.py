"""What devices cost: to own or to rent them, to train a model on them, to serve one with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import inf
from typing import Any

from llmhw.cost import Default
from llmhw.currencies import in_currency
from llmhw.formula import term
from llmhw.language import said
from llmhw.live.base import Answer, Calculator, Control, Figure, Picture, Settings
from llmhw.live.charts import bars, curve
from llmhw.live.jobs import COUNTS, PRICE, cluster_of, job_call, job_command
from llmhw.live.load import LENGTHS, WEIGHTS, dollars, not_fitting, price_by_load, service_of
from llmhw.live.models import chosen, device_of
from llmhw.live.typed import Code, call, command
from llmhw.ownership import Ownership, owned_device_hour_dollars, rent_or_buy
from llmhw.planning.cuts import fewest_cuts
from llmhw.service import kwh_per_million_tokens
from llmhw.training import train
from llmhw.units import format_quantity

# Those that sellers and readers have most; the command takes all of the catalog.
_CURRENCIES = ("USD", "EUR", "CNY", "GBP", "JPY", "INR")


_OFFERS = 5  # providers in the table, the cheapest; the command lists all


def assumed(defaults: Iterable[Default]) -> str:
    """What was assumed, in a line; the command says where each is from."""
    told = (f"{one.argument}={one.value if isinstance(one.value, str) else f'{one.value:,g}'}" for one in defaults)
    return said("Assumed, with sources as the command prints them: {values}.", values=", ".join(told))


def _paid(settings: Settings, *names: str) -> dict[str, Any]:
    """What was given of these numbers; 0 is what is not."""
    return {name: settings[name] for name in names if settings[name]}


# -- rent or buy ------------------------------------------------------------------------------


def _over_time(found: Ownership) -> Picture | None:
    """What owning and renting have cost, month by month."""
    if found.chosen is None:
        return None
    rent, running = found.chosen.dollars / found.months, found.running_a_month
    ends = (0.0, found.months)
    lines = {
        said("owning"): [(m, found.purchase + running * m) for m in ends],
        said("renting"): [(m, rent * m) for m in ends],
    }
    caption = said("What has been paid after so many months; what the machines are then sold for is not taken off.")
    months = found.chosen.break_even_months
    mark = (months, rent * months, said("{months} months", months=f"{months:.1f}")) if months <= found.months else None
    return curve(lines, caption, said("months"), said("paid"), mark=mark, logarithmic=False, said_up=dollars)


def _row(found: Ownership, name: str) -> str:
    """A row of the summary: what it is, and how it came about."""
    return next(f"{row[0]} = {row[1]}: {row[2]}" for row in found.summary() if row[0] == name)


def _each(found: Ownership, paid: float) -> Callable[[], str]:
    """What an hour that is used comes to."""
    sizes: dict[str, Any] = {"devices": found.devices, "months": found.months, "utilization": found.utilization}
    return term(owned_device_hour_dollars, said("a device-hour used"), dollars=paid, **sizes).explain


def _own(settings: Settings) -> Answer:
    c, _ = cluster_of(device_of(settings), int(settings["count"]), joined=False)
    asked = {"months": settings["months"], "utilization": settings["utilization"] / 100}
    asked |= _paid(settings, "price", "electricity", "purchase_price")
    found = rent_or_buy(c, **asked)
    figures = [
        Figure(said("owning"), dollars(found.dollars), found.dollars, lambda: found.explain("total")),
        Figure(said("price of the machines"), dollars(found.purchase), found.purchase, lambda: _row(found, "purchase")),
        Figure(
            said("a device-hour owned"),
            dollars(found.dollars_per_device_hour),
            found.dollars_per_device_hour,
            _each(found, found.dollars),
        ),
    ]
    python = "found.dollars, found.purchase, found.dollars_per_device_hour"
    if found.chosen is not None and found.rented_device_hour is not None:
        months = found.chosen.break_even_months
        figures += [
            Figure(said("renting"), dollars(found.chosen.dollars), found.chosen.dollars, lambda: found.explain("rent")),
            Figure(
                said("a device-hour rented"),
                dollars(found.rented_device_hour),
                found.rented_device_hour,
                _each(found, found.chosen.dollars),
            ),
        ]
        python += ", found.chosen.dollars, found.rented_device_hour"
        if months < inf:
            told = said("{months} months", months=f"{months:.1f}")
            figures.append(Figure(said("owning has paid after"), told, months, lambda: found.explain("break-even")))
            python += ", found.chosen.break_even_months"
    parts = {part.name: float(part.value) for part in found.owned}
    rows = {said("owning"): parts}
    if found.chosen is not None:
        rows[said("renting")] = {"rent": found.chosen.dollars}
    whole, drawn = bars(rows, dollars, said("What owning and renting come to."), names=said), _over_time(found)
    notes = [*found.warnings(), assumed(found.defaults)]
    if found.chosen is not None:
        notes.insert(0, said("Price: {price}", price=str(found.chosen.price)))
    return Answer(
        verdict=found.verdict,
        figures=figures,
        pictures=[whole, *([drawn] if drawn else [])],
        tables=[table._replace(rows=table.rows[:_OFFERS]) for table in found.tables()[2:]],
        notes=notes,
        python="import llmhw\nfrom llmhw.ownership import rent_or_buy\n"
        f"found = {call('rent_or_buy', Code(call('llmhw.Cluster', c.accelerator.name, c.devices)), **asked)}\n{python}",
        command=command("cost", options={"gpu": c.accelerator.name, "gpus": c.devices, **asked, **_coin(settings)}),
    )


def _coin(settings: Settings) -> dict[str, Any]:
    """The command's --currency; it is that of amounts that are given, too, which here are dollars."""
    given = _paid(settings, "price", "electricity", "purchase_price")
    return {} if given or settings["currency"] == "USD" else {"currency": settings["currency"]}


# -- train ------------------------------------------------------------------------------------


def _train(settings: Settings) -> Answer:
    model = chosen(settings)
    c, network = cluster_of(device_of(settings), int(settings["count"]))
    job = fewest_cuts(model.spec, c, layout={"zero": 3}, recompute="full")
    asked: dict[str, Any] = {"tokens": round(settings["tokens"] * 1e9)} | _paid(settings, "price")
    found = train(job, **asked)
    run = found.run

    def figure(label: str, name: str, text: str, part: str) -> Figure:
        return Figure(said(label), text, float(getattr(run, name)), lambda: run.explain(part))

    told = {name: (value, between) for name, value, between in run.rows()}
    figures = [
        figure("days", "days", f"{run.days:,.3g}", "time"),
        figure("device-hours", "device_hours", told["device-hours"][0], "device-hours"),
    ]
    names = ["days", "device_hours"]
    if run.dollars is not None:
        figures.append(figure("cost", "dollars", dollars(run.dollars), "cost"))
        names.append("dollars")
    if run.energy_kwh is not None:
        figures += [
            figure("energy", "energy_kwh", told["energy"][0], "energy"),
            figure("CO2", "co2_kg", told["CO2"][0], "CO2"),
        ]
        names += ["energy_kwh", "co2_kg"]
    figures.append(figure("goodput", "goodput", told["goodput"][0], "goodput"))
    names.append("goodput")
    verdict = run.verdict if found.memory.fits else found.verdict
    line = job_command("train", job, model, network, **asked, **_coin(settings))
    p = job.parallelism
    return Answer(
        verdict=verdict,
        good=None if found.memory.fits else False,
        figures=figures,
        notes=[
            said(
                "Layout: tp={tp}, pp={pp}, dp={dp}, FSDP, full recompute; llmhw plan train finds the cheapest.",
                tp=p.tp,
                pp=p.pp,
                dp=p.dp,
            ),
            *([said("Price: {price}", price=str(run.price))] if run.price else []),
            *run.warnings(),
            assumed(run.defaults),
        ],
        python=f"{job_call(job, model, network)}run = {call('llmhw.train', Code('job'), **asked)}.run\n"
        + ", ".join(f"run.{name}" for name in names),
        command=line,
    )


# -- serve ------------------------------------------------------------------------------------


def _serve(settings: Settings) -> Answer:
    model = chosen(settings)
    found, python, options = service_of(settings, model, **_paid(settings, "price"))
    if not found.fits:
        return not_fitting(found, python, model, options)
    each, energy = found.dollars_per_million_tokens, found.kwh_per_million_tokens
    hourly = None if found.price is None else found.price.dollars_per_device_hour * found.job.cluster.devices
    figures = [
        Figure(
            said("tokens/s in all"),
            format_quantity(found.point.tokens_per_second, "tokens/s"),
            found.point.tokens_per_second,
            lambda: found.explain("all users"),
        )
    ]
    names = ["found.point.tokens_per_second"]
    if each is not None and hourly is not None:
        figures.insert(
            0, Figure(said("a million output tokens"), dollars(each), each, lambda: found.explain("a million tokens"))
        )
        names.insert(0, "found.dollars_per_million_tokens")
    if energy is not None:
        figures.append(
            Figure(
                said("energy of a million"),
                format_quantity(energy, "kWh"),
                energy,
                term(
                    kwh_per_million_tokens,
                    said("energy of a million"),
                    watts=found.watts or 0.0,
                    tokens_per_second=found.point.tokens_per_second,
                ).explain,
            )
        )
        names.append("found.kwh_per_million_tokens")
    price = found.no_price if each is None else said("{price} a million tokens", price=dollars(each))
    return Answer(
        verdict=said("{told}, with all {users} users that fit", told=price, users=f"{found.point.concurrency:,}"),
        figures=figures,
        pictures=[] if each is None else [price_by_load(found)],
        notes=[*([said("Price: {price}", price=str(found.price))] if found.price else []), *found.warnings()],
        python=python + (", ".join(names)),
        command=command("serve", model.word, options=options | _coin(settings)),
    )


_TASKS: dict[str, tuple[str, Callable[[Settings], Answer]]] = {
    "own": ("own or rent the devices", _own),
    "train": ("train a model on them", _train),
    "serve": ("serve a model with them", _serve),
}


def _cost(settings: Settings) -> Answer:
    with in_currency(settings["currency"]) as coin:
        found = _TASKS[settings["task"]][1](settings)
        figures = [f if f.explain is None else replace(f, explain=_in(coin.code, f.explain)) for f in found.figures]
        notes = found.notes if coin.code == "USD" else [*found.notes, str(coin)]
        return replace(found, figures=figures, notes=notes)


def _in(code: str, explain: Callable[[], str]) -> Callable[[], str]:
    """An explanation in a currency, whenever it is asked for."""

    def explained() -> str:
        with in_currency(code):
            return explain()

    return explained


COST = Calculator(
    name="cost",
    title="What does it cost?",
    controls=[
        Control("task", "choice", "own", "To", choices=[(name, label) for name, (label, _) in _TASKS.items()]),
        Control("device", "device", "H100 SXM5 80GB", "Device"),
        Control("count", "choice", "8", "Devices", choices=COUNTS),
        Control("model", "model", "llama-3-8b", "Model", when={"task": ("train", "serve")}),
        Control("months", "number", 36, "Months", least=1, most=60, when={"task": ("own",)}),
        Control(
            "utilization",
            "number",
            60,
            "Hours in which they are needed",
            least=1,
            most=100,
            unit="%",
            when={"task": ("own",)},
        ),
        Control(
            "tokens",
            "number",
            100,
            "Tokens of the run",
            least=0.1,
            most=30000,
            whole=False,
            logarithmic=True,
            unit="billion",
            when={"task": ("train",)},
        ),
        *(replace(one, when={"task": ("serve",)}) for one in LENGTHS),
        Control(
            "weights", "choice", WEIGHTS[0][0], "Format of the weights", choices=WEIGHTS, when={"task": ("serve",)}
        ),
        Control("currency", "choice", "USD", "Currency", choices=[(code, code) for code in _CURRENCIES]),
        PRICE,
        Control(
            "purchase_price",
            "number",
            0,
            "Price of a device",
            least=0,
            most=100000,
            step=100,
            unit="$",
            help="0: the newest of the catalog",
            when={"task": ("own",)},
            more=True,
        ),
        Control(
            "electricity",
            "number",
            0,
            "Price of electricity",
            least=0,
            most=1,
            step=0.01,
            whole=False,
            unit="$/kWh",
            help="0: as is usual",
            when={"task": ("own",)},
            more=True,
        ),
    ],
    function=_cost,
)
