"""Which one: the cheapest card for a model, the models for a machine, unequal cards, devices side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from os.path import isdir, isfile
from typing import Any

import click

import llmhw
from llmhw.cli.command import Command
from llmhw.cli.jobs import LOG, network_link
from llmhw.cli.options import (
    DEVICES,
    GPU,
    LINK,
    LOAD,
    MODEL,
    REAL,
    WHOLE,
    Option,
    field_options,
    named,
    option,
    taken,
)
from llmhw.cli.output import Shown
from llmhw.cli.plans import offers_of
from llmhw.cli.terminal import Progress
from llmhw.cost import RunOptions
from llmhw.formula import Report
from llmhw.hardware import accelerator_of
from llmhw.job import ServingJob
from llmhw.planning.demand import Demand
from llmhw.planning.result import Limits
from llmhw.units import check_count

_PRICE = ("price", "provider", "region", "kind", "prices")
# Of a job, what people choose; the layout is found.
_JOB = ("weights", "kv", "utilization", "max_sequences", "max_batched_tokens")


def _gpus(text: str, **settings: Any) -> Option:
    return Option(named("gpu"), group=DEVICES, type=GPU, listed=True, help=text, **settings)


# -- which ------------------------------------------------------------------------------------


def machine_of(names: Sequence[str], number: int | None) -> list[llmhw.Accelerator]:
    """The cards of one machine: "3090+4090", "2x3090+4090", or a name and how many."""
    cards: list[llmhw.Accelerator] = []
    for name in names:
        for part in re.split(r"\s*\+\s*", name) if "+" in name else [name]:
            found = re.fullmatch(r"(\d{1,3})\s*[x*]\s*(.+)", part)
            many, what = (int(found[1]), found[2]) if found else (1, part)
            if not 1 <= many <= 64:
                raise llmhw.LLMHWError(f"gpu={part!r}: a machine has 1 to 64 cards")
            cards += [accelerator_of(what)] * many
    if number is not None:
        check_count("gpus", number, most=1000)
        if len(set(cards)) > 1:
            raise llmhw.LLMHWError(f"gpus={number} has no effect: gpu={'+'.join(names)!r} says how many of each")
        cards = cards[:1] * number
    return cards


def _here(options: dict[str, Any]) -> list[llmhw.Accelerator]:
    """The cards of this machine."""
    from llmhw.here import devices_here

    if options["gpu"]:
        raise llmhw.LLMHWError(f"here=True reads the devices of this machine: leave gpu={options['gpu'][0]!r} out")
    device, count = devices_here()
    return [accelerator_of(device)] * count


def _which(options: dict[str, Any]) -> Report:
    here = options.pop("here")
    number = options.pop("gpus")
    if number is not None and (here or options["model"] is not None):
        way = "--here counts them" if here else f"of a model's cards, it is --most-devices {number}"
        raise llmhw.LLMHWError(f"gpus={number} has no effect: {way}")
    cards = _here(options) if here else machine_of(options["gpu"], number)
    link = network_link("intra_link", options.pop("intra_link"), "scale-up")
    if options["model"] is None:
        return _models(options, cards, link)
    if len(set(cards)) > 1 and not any(options[name] for name in ("budget", "budget_per_hour")):
        return _unequal(options, cards, link)
    return _card(options, cards if here else [], link)


def _no_effect(options: dict[str, Any], names: Sequence[str], why: str) -> None:
    for name in names:
        if options.get(name) not in (None, (), False):
            raise llmhw.LLMHWError(f"{name}={options[name]!r} has no effect {why}: leave it out")


def _models(options: dict[str, Any], cards: list[llmhw.Accelerator], link: Any) -> Report:
    """The models of the catalog that run on a machine."""
    from llmhw.planning.mixed import equal_parts
    from llmhw.planning.which import runnable

    if not cards:
        raise llmhw.LLMHWError(
            "the model is missing, or the machine: llmhw which MODEL --budget 2500, or --here, or --gpu"
        )
    _no_effect(options, ("budget", "budget_per_hour", "price", "provider", "region", "prices"), "without a model")
    one = equal_parts(cards)
    cluster = llmhw.Cluster(one, len(cards), len(cards), intra_link=link if len(cards) > 1 else None)
    return runnable(
        cluster,
        context=4096 if options["context"] is None else options["context"],
        tokens_per_second=10.0 if options["tokens_per_second"] is None else options["tokens_per_second"],
        quality=options["quality"] or "usable",
        engine=options["engine"],
        best=20 if options["best"] is None else options["best"],
    )


def _unequal(options: dict[str, Any], cards: list[llmhw.Accelerator], link: Any) -> Report:
    """One model on unequal cards of one machine."""
    from llmhw.planning.mixed import best_mixed

    _no_effect(options, ("price", "provider", "region", "prices", "best"), "on cards that are there")
    return best_mixed(
        llmhw.model(options["model"]),
        cards,
        engine=options["engine"],
        weights_format=options["weights"],
        kv=options["kv"],
        quality=options["quality"] or "usable",
        input_tokens=options["input_tokens"],
        output_tokens=options["output_tokens"],
        context=4096 if options["context"] is None else options["context"],
        sequences=1 if options["users"] is None else options["users"],
        link=link,
        tokens_per_second=options["tokens_per_second"],
    )


def _card(options: dict[str, Any], own: list[llmhw.Accelerator], link: Any) -> Report:
    """The cheapest card for a model."""
    from llmhw.planning.places import Offer
    from llmhw.planning.which import ENGINES, cheapest

    spec = llmhw.model(options["model"])
    run = RunOptions(**taken(RunOptions, options))
    limits = Limits(
        purchase=options["budget"], budget_per_hour=options["budget_per_hour"], most_devices=options["most_devices"]
    )
    names = ("input_tokens", "output_tokens", "users", "context", "quality", "slo_ttft")
    demand = Demand(**{"users": 1} | {name: options[name] for name in names if options[name] is not None})
    offers: Any = None
    if options["gpu"] or own:
        devices = own[:1] or [accelerator_of(name) for name in options["gpu"]]
        offers = []
        for device in devices:
            cluster = llmhw.Cluster(device, 1, intra_link=link)
            from llmhw.planning.places import offers as offered

            found = offered(device, run, cluster if link else None)[0]
            offers += found or [Offer(device, None, own=cluster)]
    job = {name: options[name] for name in _JOB if options[name] is not None}
    return cheapest(
        spec,
        demand=demand,
        tokens_per_second=options["tokens_per_second"],
        limits=limits,
        run=run,
        engines=(options["engine"],) if options["engine"] else ENGINES,
        offers=offers,
        best=5 if options["best"] is None else options["best"],
        **job,
    )


def _single(found: Sequence[Option]) -> list[Option]:
    """Options of one value: an answer has many rows already."""
    for one in found:
        one.many, one.multiple = False, one.listed
        if one.usual is not None and not one.is_flag:
            one.default = one.usual
    return list(found)


_OF_DEVICES: dict[str, Any] = {"group": DEVICES}
_A_LINK: dict[str, Any] = _OF_DEVICES | {"metavar": "NAME|GB/s"}
_ENGINE = option("--engine", metavar="NAME", many=False, help="What serves; default: vllm, and llama.cpp for GGUF.")

WHICH = Command(
    "which",
    _which,
    [
        click.Argument(["model"], metavar="[MODEL]", required=False, default=None, type=MODEL),
        option("--budget", group="Question", many=False, type=REAL, help="Most dollars to buy the card."),
        option(
            "--budget-per-hour", "budget_per_hour", group="Question", many=False, type=REAL,
            help="Most dollars an hour to rent it.",
        ),
        option(
            "--tokens-per-second", "tokens_per_second", group="Question", many=False, type=REAL,
            help="That each user gets at least; default: 20, of many models 10.",
        ),
        option("--here", group="Question", is_flag=True, help="The machine that this runs on."),
        _gpus("Cards to consider; of a machine 3090+4090, 2x3090+4090."),
        option("--gpus", group=DEVICES, many=False, type=WHOLE, help="Cards of the machine, all alike."),
        option("--link", "intra_link", many=False, type=LINK, help="Between them.", **_A_LINK),
        option(
            "--most-devices", "most_devices", group=DEVICES, many=False, type=WHOLE,
            help="Cards together; default: one, or as few as do.",
        ),
        *_single(field_options(Demand, ("input_tokens", "output_tokens", "users", "context", "quality", "slo_ttft"))),
        _ENGINE,
        *_single(field_options(ServingJob, _JOB)),
        option("--best", group="Answer", many=False, type=WHOLE, help="How many are shown."),
        *_single(field_options(RunOptions, _PRICE)),
    ],
    help="Which card for MODEL, the cheapest to buy or to rent, and the formats that it takes; without MODEL, which "
    "models run on a machine; with unequal cards, how a model lies on them.\n\n"
    "One user, weights of at least 4 bits, unless it is said otherwise.",
    shown=Shown(rows=lambda found: found.records() or [found.to_row()]),
    examples=(
        "llmhw which qwen3-32b --budget 2500 --tokens-per-second 20",
        "llmhw which llama-3.1-8b --budget-per-hour 0.5",
        "llmhw which --gpu 'RTX 4090'",
        "llmhw which llama-3.1-70b --gpu 3090+4090",
    ),
)  # fmt: skip


# -- compare ----------------------------------------------------------------------------------


def is_log(args: Sequence[str]) -> bool:
    """Whether the first argument that is no option is a start-up log: a file that is no model, or standard input."""
    for i, text in enumerate(args):
        if text.startswith("-") and text != "-":
            continue
        if i and args[i - 1].startswith("--") and "=" not in args[i - 1]:
            continue  # the value of an option
        folder = isdir(text) or text.endswith((".json", ".gguf", ".yaml", ".yml"))
        return text == "-" or text.endswith((".log", ".txt", ".out")) or (isfile(text) and not folder)
    return False


class CompareOrLog(Command):
    """`llmhw compare`, which hands a start-up log to `llmhw log`."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        if is_log(args):
            return LOG.make_context(info_name, args, parent=parent, **extra)
        return super().make_context(info_name, args, parent=parent, **extra)


def _compare(options: dict[str, Any]) -> Report:
    from llmhw.planning.which import side_by_side

    spec, number = llmhw.model(options.pop("model")), options.pop("gpus")
    run, demand = RunOptions(**taken(RunOptions, options)), Demand(**taken(Demand, options))
    train, names = options.pop("train"), options.pop("gpu")
    if len(names) < 2:
        raise llmhw.LLMHWError("compare takes two devices or more: llmhw compare llama-3-70b --gpu h100 --gpu h200")
    links = {name: options.pop(name) for name in ("devices_per_node", "intra_link", "inter_link")}
    devices = [accelerator_of(name) for name in names]
    offers = None
    if any(links.values()):
        offers = {d.name: offers_of({"gpu": [d.name], "instance": (), **links}, run) for d in devices}
    job = {name: value for name, value in taken(ServingJob, options).items() if value is not None}
    with Progress("devices") as step:
        return side_by_side(
            spec, devices, devices_each=number, demand=demand, run=run, offers=offers, train=train, progress=step, **job
        )


COMPARE = CompareOrLog(
    "compare",
    _compare,
    [
        click.Argument(["model"], metavar="MODEL|LOG", type=MODEL),
        _gpus("Devices to compare, two or more."),
        option("--gpus", group=DEVICES, many=False, type=WHOLE, help="Of each; default: as few as do."),
        option("--devices-per-node", "devices_per_node", many=False, type=WHOLE, help="Of one's own.", **_OF_DEVICES),
        option("--link", "intra_link", many=False, type=LINK, help="Inside a node.", **_A_LINK),
        option("--network", "inter_link", many=False, type=LINK, help="Between nodes.", **_A_LINK),
        *_single(field_options(Demand, {f.name for f in fields(Demand)} - {"users", "rate", "percentile"})),
        option("--train", group=LOAD, is_flag=True, help="Training too, on eight of each or on --gpus."),
        *_single(field_options(ServingJob, (*_JOB, "engine"))),
        *_single(field_options(RunOptions, _PRICE)),
    ],
    help="Devices side by side for MODEL: speed, memory, dollars, power, of a token and of a user, with intervals.\n\n"
    "Each has the layout that `llmhw plan serve` finds for it. A start-up log of vLLM, SGLang or llama.cpp in place of "
    "MODEL is laid beside the prediction: see `llmhw log`.",
    shown=Shown(rows=lambda found: found.records()),
    examples=(
        "llmhw compare llama-3-70b --gpu h100 --gpu h200 --gpu b200 --gpu mi300x",
        "llmhw compare llama-3-8b --gpu l4 --gpu l40s --slo-tpot 0.03 --train",
    ),
)  # fmt: skip

COMMANDS = {"which": WHICH, "compare": COMPARE}
