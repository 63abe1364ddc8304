"""What devices cost: the list of prices, and renting beside owning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

import llmhw
from llmhw.cli.command import Command
from llmhw.cli.jobs import device_of_options
from llmhw.cli.options import (
    FORMAT,
    FORMATS,
    LENGTH,
    MONEY,
    REAL,
    WHOLE,
    Choices,
    Option,
    device_options,
    field_options,
    model_argument,
    named,
    option,
    taken,
)
from llmhw.cli.output import LISTED, Listing, Shown, counted
from llmhw.formula import Report
from llmhw.hardware import Cluster, PriceList, old_price, prices, purchase_prices, quoted_in, usual_network
from llmhw.language import said
from llmhw.ownership import OwnershipOptions, rent_or_buy
from llmhw.service import ServingEstimate
from llmhw.units import PRINTED_CURRENCY, LLMHWError, format_quantity

# -- the list ---------------------------------------------------------------------------------

REFRESH = "refresh"


def _prices(options: dict[str, Any]) -> Listing:
    """Rent and purchase in one table."""
    pattern = options["pattern"].lower()
    listed: PriceList | None = options["prices"]
    notes: list[str] = []
    if pattern == REFRESH:
        listed, notes = _refreshed(options)
        pattern = ""
    rows = _rows_of_prices(options, pattern, listed)
    if not rows and listed is None:  # a card that is sold in China alone, say
        rows = _rows_of_prices(options, pattern, listed, quoted=True)
    if not rows:
        raise LLMHWError(f"pattern={options['pattern']!r} matches no price; run `llmhw prices` for all of them")
    rows.sort(key=lambda r: (r["kind"] == "purchase", r["device"], r["dollars"]))
    cells = [
        (
            r["device"],
            r["kind"].replace("_", " "),
            f"{r.get('provider', said(r['price_kind']))} {r.get('instance', '')}".strip(),
            r["region"] or "-",
            r["date"] + (said(" (old)") if r["old"] else ""),
            format_quantity(r["dollars"], "dollars").removeprefix(PRINTED_CURRENCY.get()[0]),
        )
        for r in rows
    ]
    notes = [said("rent is that of one device for an hour, purchase that of one device"), *notes]
    if any(r["old"] for r in rows):
        notes.append(said("old: more than a year older than the newest price of the catalog"))
    for code, rate in sorted({quote for r in rows if (quote := quoted_in(r["note"]))}):
        if code != PRINTED_CURRENCY.get()[0].strip():
            text = "prices quoted in {currency} are converted at {rate}; --currency {currency} shows them as quoted"
            notes.append(said(text, currency=code, rate=rate))
    columns = ("device", "kind", "from", "region", "date", PRINTED_CURRENCY.get()[0].strip().replace("$", "dollars"))
    return Listing(counted(len(cells), "price", "prices"), columns, cells, rows, right=5, notes=notes)


def _rows_of_prices(
    options: dict[str, Any], pattern: str, listed: PriceList | None, quoted: bool = False
) -> list[dict[str, Any]]:
    """The prices that the options leave, as rows; of each machine, region and kind the newest."""
    kind, region, provider = options["kind"], options["region"], options["provider"]
    found: dict[tuple[str, ...], Any] = {}
    if kind != "purchase":
        for p in prices(provider=provider, region=region, kind=kind, listed=listed, quoted=quoted):
            found.setdefault((p.accelerator, p.kind, p.provider, p.instance, p.region), p)
    if kind in (None, "purchase") and provider is None and (listed is None or listed.purchase):
        for q in purchase_prices(region=region, listed=listed, quoted=quoted):
            found[q.accelerator, "purchase", q.kind, q.region, q.date] = q
    rows = []
    for (device, sort, *_), p in found.items():
        dollars = p.dollars if sort == "purchase" else p.dollars_per_device_hour
        if pattern in device.lower() and (options["most"] is None or dollars <= options["most"]):
            rows.append({"device": device, "dollars": dollars, "kind": sort, **p.to_dict(), "price_kind": p.kind})
            rows[-1] |= {"kind": sort, "old": old_price(p) if sort != "purchase" else ""}
    return rows


def _refreshed(options: dict[str, Any]) -> tuple[PriceList, list[str]]:
    """What gpuhunt has today, and what is to be known of it."""
    from datetime import date

    from llmhw.price_files import refreshed

    if options["prices"]:
        raise LLMHWError(f"prices={options['prices'].name!r} has no effect on `llmhw prices {REFRESH}`; leave it out")
    listed, unknown, silent = refreshed(date.today())
    notes = [f"of gpuhunt, {len(listed.rent):,} offers; --output FILE.csv keeps them for --prices FILE.csv"]
    if unknown:
        most = ", ".join(name for name, _ in unknown.most_common(5))
        notes.append(f"{sum(unknown.values()):,} offers of devices that the catalog does not have: {most}")
    return listed, notes + ([f"without an answer: {', '.join(silent)}"] if silent else [])


PRICES = Command(
    "prices",
    _prices,
    [
        click.Argument(["pattern"], default="", metavar="[PATTERN|refresh]"),
        option("--provider", group=MONEY, many=False, help="Of this provider alone."),
        option("--region", group=MONEY, many=False, help="In this region alone."),
        option(
            "--kind",
            group=MONEY,
            many=False,
            type=Choices("kind", lambda: ("on_demand", "spot", "reserved", "purchase")),
            help="Of this kind alone.",
        ),
        option("--max", "most", group=MONEY, many=False, type=REAL, help="At most so many dollars."),
        *field_options(OwnershipOptions, ("prices",)),
    ],
    help="What a device costs to rent or to buy, by provider, region and date: the newest of each.\n\n"
    "`llmhw prices refresh` asks gpuhunt's catalogs in the network for today's offers (extra `prices`); --output "
    "FILE.csv keeps them.",
    shown=LISTED,
    examples=("llmhw prices h100", "llmhw prices --kind purchase --max 2500"),
)


# -- rent or buy ------------------------------------------------------------------------------


def _cost(options: dict[str, Any]) -> Report:
    made = OwnershipOptions(**taken(OwnershipOptions, options))
    cluster = Cluster(device_of_options(options), options["gpus"], options["devices_per_node"])
    sizes = {name: options[name] for name in ("input_tokens", "output_tokens")}
    if options["model"] is None:
        for name in ("weights", *sizes):
            if options[name] != _OF_A_SERVICE[name]:
                raise LLMHWError(f"{name}={options[name]!r} has no effect without a model: llmhw cost llama-3-70b ...")
        return rent_or_buy(cluster, made)
    for name in ("tokens_per_second", "users"):
        if getattr(made, name) is not None:
            raise LLMHWError(f"{name}={getattr(made, name):g} follows from the model: leave one out")
    served = _served(options["model"], cluster, options["weights"], sizes)
    point = served.point
    found = rent_or_buy(cluster, made, tokens_per_second=point.tokens_per_second, users=point.concurrency)
    speed = format_quantity(point.tokens_per_second, "tokens/s")
    return replace(
        found,
        serving=said(
            "{service}: {speed} for all of {users:,} users, all that fit",
            service=served.memory.title,
            speed=speed,
            users=point.concurrency,
        ),
    )


_OF_A_SERVICE = {"weights": None, "input_tokens": 1000, "output_tokens": 500}


def _served(name: str, cluster: Cluster, weights: str | None, sizes: dict[str, Any]) -> ServingEstimate:
    """A model on these devices, in the layout that makes the most tokens of all users."""
    fmt: dict[str, Any] = {} if weights is None else {"weights": weights}
    job = llmhw.ServingJob(model=llmhw.model(name), cluster=_joined(cluster), **fmt)
    best = llmhw.search(job, best=1, weights=[job.weights], kv=[job.kv], **sizes).best
    if not best:
        raise LLMHWError(
            f"gpus={cluster.devices} x {cluster.accelerator.name} do not hold {name} in {job.weights}; "
            "give more of them, or other weights"
        )
    served = llmhw.serve(best[0].job, **sizes)
    if served.fits:
        return served
    # The model's longest text has no room there; the requests have.
    return llmhw.serve(replace(best[0].job, max_model_len=sum(sizes.values())), **sizes)


def _joined(cluster: Cluster) -> Cluster:
    """With the network that a machine for rent has, between nodes."""
    network = usual_network(cluster.accelerator) if cluster.nodes > 1 else None
    return Cluster(cluster.accelerator, cluster.devices, cluster.devices_per_node, cluster.intra_link, network)


COST = Command(
    "cost",
    _cost,
    [
        model_argument(required=False),
        *device_options(),
        Option(named("gpus"), group="Devices", type=WHOLE, usual=1, help="Devices in all; --gpu auto: all there are."),
        option(
            "--devices-per-node", "devices_per_node", group="Devices", type=WHOLE, help="Of a server; default: its."
        ),
        Option(named("weights"), group=FORMATS, type=FORMAT, help="Of MODEL; default: as `llmhw serve` has it."),
        option("--input-tokens", group=LENGTH, type=WHOLE, usual=1000, help="Of each prompt to MODEL."),
        option("--output-tokens", group=LENGTH, type=WHOLE, usual=500, help="Of each answer."),
        *field_options(OwnershipOptions),
    ],
    help="Rent or buy: what devices cost to own over some months, what their rent would be, when owning has paid.\n\n"
    "Rented hours are paid when they are needed (--utilization), owned ones always. Owning counts the price less what "
    "the machines are sold for; the break-even counts no sale. With MODEL: what a million of its tokens and each "
    "of its users cost, in the layout that makes most of them.",
    shown=Shown(
        (
            ("purchase", "purchase", "dollars"),
            ("owned_dollars", "owning", "dollars"),
            ("rented_dollars", "renting", "dollars"),
            ("owned_dollars_per_device_hour", "a device-hour owned", "dollars"),
            ("rented_dollars_per_device_hour", "rented", "dollars"),
            ("break_even_months", "break-even, months", "number"),
            ("million_tokens_owned", "a million tokens owned", "dollars"),
            ("million_tokens_rented", "rented", "dollars"),
        ),
        (("cheapest", "owned_dollars", min),),
    ),
    examples=(
        "llmhw cost --gpu h100 --gpus 8 --months 18 --utilization 0.6",
        "llmhw cost --gpu h100 --gpus 8 --months 36 --utilization 0.3,0.6,0.9",
        "llmhw cost llama-3-70b --gpu h100 --gpus 8 --weights fp8 --currency EUR",
    ),
    explain=True,
    draw=lambda plot, answer: plot.cost(answer),
)

COMMANDS = {command.name: command for command in (PRICES, COST)}
