"""Plans: what to rent or buy for a job, how it lies there, what it costs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import fields, replace
from itertools import product
from typing import Any

import llmhw
from llmhw.cli import jobs
from llmhw.cli.command import Command
from llmhw.cli.jobs import default_seq_len, network_link
from llmhw.cli.launching import emit_option, emit_options, emitted, filled, take_trainer
from llmhw.cli.options import (
    COUNT,
    DEVICES,
    GPU,
    LINK,
    WHOLE,
    Choices,
    Option,
    field_options,
    model_argument,
    named,
    option,
    taken,
)
from llmhw.cli.output import Shown, flags_of
from llmhw.cli.terminal import Progress
from llmhw.cost import RunOptions
from llmhw.formula import Report
from llmhw.hardware import accelerator_of
from llmhw.job import Assumed, Parallelism, ServingJob, TrainingJob
from llmhw.language import said
from llmhw.planning.demand import Demand
from llmhw.planning.result import Limits, Plan
from llmhw.units import check_choice, check_count

# Axes of the layout, which a plan tries unless they are given; the rest of a layout is of the job.
_AXES = ("tp", "pp", "vpp", "cp", "ep", "expert_tp", "schedule", "offload", "micro_batch", "recompute")
_PAIRS, _FLAGS = ("zero", "replicas"), ("sequence_parallel", "uneven")
_NOT_TRIED = ("cp_kind", "by_cost", "recompute_layers", "recompute_modules")
_TUNING = tuple(
    "frozen rank targets adapters adapter_layers base method reference completion group rollout_share "
    "rollout_gpus".split()
)
_BY = ("cost", "time", "devices", "energy")
_METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"frozen": True},
    "qlora": {"frozen": True, "base": "nf4-dq"},
    "sft": {"method": "sft"},
    "dpo": {"method": "dpo"},
    "grpo": {"method": "grpo"},
}
_WEIGHTS, _AIMS = ("full", "lora", "qlora"), ("sft", "dpo", "grpo")


def _listed(found: Iterable[Option]) -> list[Option]:
    """Options of axes: their values are tried in one plan."""
    for one in found:
        if not one.is_flag:
            one.many, one.listed, one.multiple, one.usual = False, True, True, None
            one.help = f"{(one.help or '').partition('  [')[0]} Default: tried."
    return list(found)


def _place_options() -> list[Option]:
    """Where a job may run."""
    return [
        Option(named("gpu"), group=DEVICES, type=GPU, listed=True, help="Devices to consider; default: all for rent."),
        Option(named("gpus"), group=DEVICES, type=WHOLE, listed=True, help="Numbers to try; default: those sensible."),
        option("--instance", group=DEVICES, listed=True, metavar="NAME", help="Machines to consider, as p5.48xlarge."),
        option(
            "--devices-per-node",
            "devices_per_node",
            group=DEVICES,
            many=False,
            type=WHOLE,
            help="Of your own machines.",
        ),
        option(
            "--link", "intra_link", group=DEVICES, many=False, type=LINK, metavar="NAME|GB/s", help="Inside a node."
        ),
        option(
            "--network",
            "inter_link",
            group=DEVICES,
            many=False,
            type=LINK,
            metavar="NAME|GB/s",
            help="Between nodes, of each device; default: that of the machine for rent.",
        ),
    ]


_FIRST = "What counts most."


def _plan_options() -> list[Option]:
    return [
        *field_options(Limits),
        option("--by", group="Question", type=Choices("by", _BY.__iter__), usual="cost", help=_FIRST),
        option("--best", group="Answer", many=False, type=WHOLE, usual=5, help="How many choices are shown."),
    ]


def _job_options(without: Iterable[str] = ()) -> list[Option]:
    axes = [*field_options(Parallelism, (*_AXES, *_PAIRS, *_FLAGS)), *field_options(TrainingJob, _AXES)]
    left = {f.name for f in fields(TrainingJob)} - {*_AXES, *_NOT_TRIED, *without}
    spread = option("--workers", group="Answer", type=WHOLE, many=False, usual=1, help="Processes that search.")
    return [*_listed(axes), *field_options(TrainingJob, left), spread]


def _space(options: dict[str, Any]) -> dict[str, Any]:
    """The axes that were given, taken out of the options."""
    space = {name: given for name in _AXES if (given := options.pop(name))}
    pairs = [options.pop(name) for name in _PAIRS]
    if any(pairs):
        stages, copies = pairs[0] or (0, 1, 2, 3), pairs[1] or (1,)
        space["sharding"] = tuple(product(stages, copies))
    return space | {name: (True,) for name in _FLAGS if options.pop(name)}


def offers_of(options: dict[str, Any], run: RunOptions) -> Any:
    """Ways to have the devices that were asked for; None: all that have a price."""
    from llmhw.planning import places

    names, machines = options.pop("gpu"), options.pop("instance")
    if len(names) == len(llmhw.accelerators()):  # --gpu all: those with a price
        names = ()
    own = {name: options.pop(name) for name in ("devices_per_node", "intra_link", "inter_link")}
    links = {
        name: network_link(name, own[name], kind)
        for name, kind in (("intra_link", "scale-up"), ("inter_link", "scale-out"))
    }
    if machines:
        if names or any(own.values()):
            given = "gpu" if names else next(name for name in own if own[name])
            raise llmhw.LLMHWError(f"instance={machines[0]!r} says which devices and networks: leave {given} out")
        return [places.rented(name, run) for name in machines]
    mine = any(value is not None for value in own.values())
    if not names and not mine:
        return places.rentable(run)
    found = []
    for device in [accelerator_of(one) for one in names] or places.priced(
        run.prices, quoted=bool(run.provider or run.region)
    ):
        like = llmhw.Cluster(device, 1, own["devices_per_node"], **links) if mine else None
        found += places.offers(device, run, like)[0]
    return found


def _planned(options: dict[str, Any], ways: list[TrainingJob], *, tuning: bool, tokens: float | None) -> Plan:
    from llmhw.planning.training import plan_training

    limits = Limits(**taken(Limits, options))
    run = RunOptions(**taken(RunOptions, options))
    space, counts = _space(options), options.pop("gpus")
    offers = offers_of(options, run)
    if options.pop("form") == "torchtitan" and "sharding" not in space:
        space["sharding"] = ((3, 1),)  # it has no other
    with Progress("plans") as step, _pool(options.pop("workers")) as executor:
        found = plan_training(
            ways,
            executor=executor,
            offers=offers,
            counts=counts,
            limits=limits,
            run=run,
            tokens=tokens,
            tuning=tuning,
            progress=step,
            by=options.pop("by"),
            best=options.pop("best"),
            **space,
        )
    return _alone(replace(found, changes=_in_examples(found.changes, options)), options["name"], run)


def _pool(workers: int) -> Any:
    """So many processes for the search; for one none."""
    if check_count("workers", workers, most=1024) == 1:
        return nullcontext()
    from concurrent.futures import ProcessPoolExecutor

    return ProcessPoolExecutor(workers)


def _job(options: dict[str, Any], **changes: Any) -> TrainingJob:
    spec = options["spec"]
    own = {f.name: options[f.name] for f in fields(TrainingJob) if f.name in options and f.name not in _AXES}
    return TrainingJob(model=spec, cluster=llmhw.Cluster("h100"), **(own | changes))


def _train(options: dict[str, Any]) -> Report:
    filled(options, "training")
    options["form"] = take_trainer(options, "torchtitan")
    options["name"] = options.pop("model")
    options["spec"] = llmhw.model(options["name"])
    options["seq_len"] = default_seq_len(options["spec"], options["seq_len"])
    return _planned(options, [_job(options)], tuning=False, tokens=options.pop("tokens"))


def _finetune(options: dict[str, Any]) -> Report:
    filled(options, "training")
    options["form"] = take_trainer(options, "axolotl")
    options["name"] = options.pop("model")
    options["spec"] = llmhw.model(options["name"])
    options["seq_len"] = default_seq_len(options["spec"], options["seq_len"])
    ways = _ways(options)
    jobs = [_job(options, **way) for way in ways]
    plan = _planned(options, jobs, tuning=True, tokens=_tokens(options))
    if not isinstance(plan, Plan):
        return plan
    words = (("frozen=True, base='nf4-dq'", "method='qlora'"), ("frozen=True", "method='lora'"))
    changes = list(plan.changes)
    for was, word in words:
        changes = [text.replace(was, word) if text.startswith(was) else text for text in changes]
    return replace(plan, changes=tuple(changes))


def _ways(options: dict[str, Any]) -> list[dict[str, Any]]:
    """What --method says, with --frozen and --base: ways to fine-tune, the first that fits is taken."""
    named = [check_choice("method", name, _METHODS) for name in options.pop("method") or ()]
    weights, aims = ([name for name in named if name in of] for of in (_WEIGHTS, _AIMS))
    if len(aims) > 1:
        raise llmhw.LLMHWError(f"method={','.join(aims)!r} are different jobs; give one of {', '.join(_AIMS)}")
    aim = {"method": aims[0]} if aims else {}
    if options["frozen"] or options["base"]:
        if "full" in weights:
            raise llmhw.LLMHWError("method='full' trains all weights, which frozen=True and base do not: leave one out")
        frozen = aim | {"frozen": True}
        return [frozen] if _asked(options, "loss") else [frozen, frozen | {"loss": "chunked"}]
    adapted = [name for name in ("rank", "targets", "adapters", "adapter_layers") if _asked(options, name)]
    usual = ("lora", "qlora") if adapted else _WEIGHTS
    found = []
    for name in weights or usual:
        way = dict(_METHODS[name])
        if name == "full" and adapted:
            raise llmhw.LLMHWError(f"method='full' has no adapters: leave {adapted[0]} out")
        found.append(aim | way)
    # the last resort costs nothing but a library: logits that are never there all at once
    return found if _asked(options, "loss") else [*found, found[-1] | {"loss": "chunked"}]


def _asked(options: dict[str, Any], name: str) -> bool:
    return bool(options[name] != TrainingJob.__dataclass_fields__[name].default)


def _tokens(options: dict[str, Any]) -> float | None:
    """Tokens of the run, from the size of the data."""
    tokens, examples, epochs = (options.pop(name) for name in ("tokens", "examples", "epochs"))
    if examples is None:
        if tokens is None and epochs is not None:
            raise llmhw.LLMHWError(f"epochs={epochs} has no effect without examples or tokens; give examples")
        return None if tokens is None else float(tokens) * (epochs or 1)
    if tokens is not None:
        raise llmhw.LLMHWError(f"examples={examples} and tokens={tokens} both say how much data there is: give one")
    options["each"] = (epochs or 1) * int(options["seq_len"])
    check_count("examples", examples)
    return float(examples) * float(options["each"])


def _in_examples(changes: Iterable[str], options: dict[str, Any]) -> tuple[str, ...]:
    """Changes of the data as they were asked for: in examples, where these were."""
    each = options.get("each")
    made = []
    for line in changes:
        tokens = re.match(r"tokens=([^,:]*)", line)
        made.append(f"examples={int(float(tokens[1]) / each)}{line[tokens.end() :]}" if each and tokens else line)
    return tuple(made)


def _interrupted(found: Plan) -> str:
    return "" if found.complete else "interrupted: the best of what was tried until then"


def _alone(found: Plan, model: str, run: RunOptions) -> Plan:
    """The plan with the line that asks for its best choice alone: the same figures, part by part."""
    if not found.choices:
        return found
    from shlex import join

    best, place = found.best, found.best.where
    job, c = best.job, place.cluster
    device = c.accelerator.source if c.accelerator.reached else c.accelerator.name
    words = ["llmhw", "train", model, "--gpu", device, "--gpus", str(c.devices)]
    plain = llmhw.Cluster(c.accelerator, c.devices, c.devices_per_node)
    if c.devices_per_node != llmhw.Cluster(c.accelerator).devices_per_node and c.devices > 1:
        words += ["--devices-per-node", str(c.devices_per_node)]
    if c.intra_link is not None and c.devices > 1 and c.intra_link != plain.intra_link:
        words += ["--link", c.intra_link.name]
    if c.nodes > 1 and c.inter_link is not None:
        words += ["--network", c.inter_link.name.removesuffix(" GB/s")]
    asked = {**_changed(job.parallelism, ("dp", "by_cost")), **_changed(job, ()), **_changed(run, _PAID)}
    asked |= {"seq_len": job.seq_len, "global_batch": job.batch, "tokens": best.estimate.run.tokens}
    asked |= {} if place.price is None else {"price": place.price.dollars_per_device_hour}
    known = flags_of(jobs.TRAIN)
    for name, value in asked.items():
        flag = known[name]
        off = value is False and flag.secondary_opts
        words.append(flag.secondary_opts[0] if off else max(flag.opts, key=len))
        if not flag.is_flag:
            told = value / getattr(flag, "per", 1) if isinstance(value, float) else value
            words.append(f"{told:.12g}" if isinstance(told, float) else str(told))
    return replace(found, about=(*found.about, said("alone: {command}", command=join(words))))


_PAID = ("price", "provider", "region", "kind", "prices")


def _changed(asked: Any, without: Iterable[str]) -> dict[str, Any]:
    """Fields of a job, or of a run, that are not at their defaults."""
    every = {f.name: (getattr(asked, f.name), f.default) for f in fields(asked) if f.metadata and f.name not in without}
    return {n: value for n, (value, usual) in every.items() if value != usual and not isinstance(value, Assumed)}


def _emitted(found: Plan, form: str) -> str:
    """The file or command of the best choice."""
    best = found.best
    return emitted(best.job, form, found.verdict, tokens=best.estimate.run.tokens)


_SHOWN = Shown(
    (
        ("place", "take", ""),
        ("days", "days", "days"),
        ("dollars", "cost", "dollars"),
        ("headroom", "free", "fraction"),
        ("mfu", "MFU", "fraction"),
        ("layout", "layout", ""),
    ),
    (("fastest", "days", min), ("cheapest", "dollars", min)),
    rows=lambda found: found.records(),
)

TRAIN = Command(
    "plan train",
    _train,
    [
        model_argument(),
        *_place_options(),
        *_job_options(_TUNING),
        Option(named("tokens"), type=COUNT, group="Question", help="Of the run: 15e12, 15T; default: 20 a parameter."),
        *_plan_options(),
        *field_options(RunOptions),
        *emit_options("training"),
    ],
    help="What to rent or buy to train a model: machines and how many, the layout, days, dollars, energy.\n\n"
    "All that is left open is tried: devices, numbers, layouts. What is assumed is said.",
    shown=_SHOWN,
    emits=_emitted,
    interrupted=_interrupted,
    keeps=True,
    examples=(
        "llmhw plan train llama-3-8b --gpu h100,b200 --deadline 30",
        "llmhw plan train llama-3.1-405b --gpu h100 --gpus 16384",
        "llmhw plan train llama-3-8b --instance p5.48xlarge --budget 50000 --tokens 100B",
    ),
)

FINETUNE = Command(
    "plan finetune",
    _finetune,
    [
        model_argument(),
        *_place_options(),
        option(
            "--method",
            group="Question",
            listed=True,
            type=Choices("method", _METHODS.__iter__),
            help="Weights, and what on. Default: the first that fits of full, lora, qlora; on answers (sft).",
        ),
        option("--examples", group="Question", many=False, type=WHOLE, help="Of the data, each of --seq-len tokens."),
        option("--epochs", group="Question", many=False, type=WHOLE, help="Times over the data; default: 1."),
        Option(named("tokens"), type=COUNT, group="Question", help="Of the data, instead; default: 100 M."),
        *_job_options(("method",)),
        *_plan_options(),
        *field_options(RunOptions),
        *emit_options("training"),
    ],
    help="What to rent or buy to fine-tune a model: all weights, LoRA or QLoRA, on answers, pairs (DPO) or GRPO.\n\n"
    "All that is left open is tried: devices, numbers, layouts. What is assumed is said.",
    shown=_SHOWN,
    emits=_emitted,
    interrupted=_interrupted,
    keeps=True,
    examples=(
        "llmhw plan finetune llama-3-8b --gpu 'RTX 4090' --examples 50000 --epochs 3 --seq-len 1024",
        "llmhw plan finetune llama-3-70b --gpu h100 --method lora --deadline 2",
    ),
)

# -- serving ----------------------------------------------------------------------------------

_AXES_OF_SERVING = ("tp", "pp", "ep", "attention_dp")
_LIMITS_OF_SERVING = ("budget_per_hour", "budget_per_month", "purchase", "most_devices", "headroom")
_PRICE = ("price", "provider", "region", "kind", "prices")
_BY_OF_SERVING = ("cost", "latency", "devices", "speed")


def _serve(options: dict[str, Any]) -> Report:
    from llmhw.planning.serving import plan_serving

    spec = llmhw.model(options.pop("model"))
    limits, run = Limits(**taken(Limits, options)), RunOptions(**taken(RunOptions, options))
    demand, counts = Demand(**taken(Demand, options)), options.pop("gpus")
    space = {name: given for name in _AXES_OF_SERVING if (given := options.pop(name))}
    named = bool(options["gpu"] or options["instance"])
    offers = None if limits.purchase is not None and not named else offers_of(options, run)
    options = {name: value for name, value in options.items() if name not in ("gpu", "instance", *_OWN_LINKS)}
    best, by, apart = options.pop("best"), options.pop("by"), options.pop("pools")
    first = offers[0].device if offers else llmhw.accelerator("h100")
    job = ServingJob(model=spec, cluster=llmhw.Cluster(first), **taken(ServingJob, options))
    if apart:
        if counts or limits.bounds():
            raise llmhw.LLMHWError("--pools finds the fewest devices itself: leave --gpus and other limits out")
        return _pools(job, demand, offers or [], space)
    with Progress("plans") as step:
        return plan_serving(
            job, demand=demand, limits=limits, run=run, best=best, by=by, counts=counts, offers=offers, progress=step,
            **space,
        )  # fmt: skip


def _pools(job: ServingJob, demand: Demand, offers: list[Any], space: dict[str, Any]) -> Report:
    """Prompts and answers on devices of their own, of the one kind that was asked for."""
    from dataclasses import replace

    from llmhw.pools import pools

    devices = dict.fromkeys(offer.device.name for offer in offers)
    if len(devices) != 1:
        raise llmhw.LLMHWError("--pools plans devices of one kind: give one --gpu, as in --gpu h100")
    for name in ("users", "percentile", "context", "quality"):
        if (value := getattr(demand, name)) is not None:
            raise llmhw.LLMHWError(
                f"{name}={value!r} has no effect on --pools, which are planned for --rate; leave it out"
            )
    if demand.rate is None or demand.slo_ttft is None or demand.slo_tpot is None:
        raise llmhw.LLMHWError("--pools needs --rate, --slo-ttft and --slo-tpot: they say how many of each it takes")
    for name in ("ep", "attention_dp"):
        values = space.pop(name, (1,))
        if len(values) > 1:
            raise llmhw.LLMHWError(f"--pools takes one value of {name}; {values} are several")
        job = replace(job, **{name: values[0]})
    offer = min(offers, key=lambda one: one.price.dollars_per_device_hour if one.price else float("inf"))
    place = offer.place(offer.counts(1, 64)[-1])
    names = ("rate", "input_tokens", "output_tokens", "slo_ttft", "slo_tpot")
    return pools(
        replace(job, cluster=place.cluster),
        price=place.price,
        **{name: getattr(demand, name) for name in names},
        **space,
    )


_OWN_LINKS = ("devices_per_node", "intra_link", "inter_link")


def _emitted_service(found: Any, form: str) -> str:
    if not isinstance(found, Plan):
        raise llmhw.LLMHWError(f"emit={form!r} writes one engine, and --pools are two; leave one out")
    return emitted(found.best.job, form, found.verdict)


_OF_JOB = {f.name for f in fields(ServingJob)} - {*_AXES_OF_SERVING, "max_model_len", "split"}

SERVE = Command(
    "plan serve",
    _serve,
    [
        model_argument(),
        *_place_options(),
        *_listed(field_options(ServingJob, _AXES_OF_SERVING)),
        *field_options(Demand),
        *field_options(Limits, _LIMITS_OF_SERVING),
        *field_options(ServingJob, _OF_JOB),
        option("--by", group="Question", type=Choices("by", _BY_OF_SERVING.__iter__), usual="cost", help=_FIRST),
        option(
            "--pools",
            group="Question",
            is_flag=True,
            help="Prompts and answers on devices of their own, with their ratio.",
        ),
        option("--best", group="Answer", many=False, type=WHOLE, usual=5, help="How many choices are shown."),
        *field_options(RunOptions, _PRICE),
        emit_option("serving"),
    ],
    help="What to rent or buy to serve a model: devices, layout, formats, replicas for a load and a service level.\n\n"
    "All that is left open is tried, and the level is kept over the whole 80 % interval where anything does. Without a "
    "load: what a million tokens cost. What is assumed is said.",
    shown=Shown(
        (
            ("place", "take", ""),
            ("dollars_per_hour", "an hour", "dollars"),
            ("dollars_per_million", "a million", "dollars"),
            ("ttft", "first token", "seconds"),
            ("tokens_per_second_per_user", "tokens/s a user", "number"),
            ("devices", "devices", "number"),
            ("layout", "layout", ""),
        ),
        (("cheapest", "dollars_per_hour", min), ("quickest", "tpot", min)),
        rows=lambda found: found.records(),
    ),
    examples=(
        "llmhw plan serve llama-3-70b",
        "llmhw plan serve llama-3-70b --users 500 --slo-tpot 0.033 --gpu h100,h200,mi300x",
        "llmhw plan serve llama-3-8b --rate 20 --slo-ttft 0.5 --slo-tpot 0.03 --quality usable --emit vllm",
        "llmhw plan serve llama-3.1-70b --gpu h100 -w fp8 --rate 9 --slo-ttft 1 --slo-tpot 0.03 --pools",
    ),
    emits=_emitted_service,
)

COMMANDS = {"plan train": TRAIN, "plan finetune": FINETUNE, "plan serve": SERVE}
