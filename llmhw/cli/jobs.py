"""The questions: what fits, how fast a job trains, how a service serves."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import click
from click.core import ParameterSource

import llmhw
from llmhw.cli.command import Command
from llmhw.cli.launching import emit_options, emitted, filled, from_option, take_engine, take_trainer
from llmhw.cli.options import (
    COUNT,
    DEVICE_FACTS,
    ENGINE,
    FORMAT,
    FORMATS,
    LENGTH,
    LENGTHS,
    LOAD,
    MODE,
    MODEL,
    REAL,
    WHOLE,
    Option,
    cluster_options,
    device_options,
    field_options,
    model_argument,
    named,
    option,
    seq_len,
    taken,
)
from llmhw.cli.output import Shown
from llmhw.cli.terminal import Progress
from llmhw.cost import RunOptions
from llmhw.fit import USES
from llmhw.formula import Report
from llmhw.job import Parallelism, ServingJob, TrainingJob, data_parallel
from llmhw.language import said

_PRICE = ("price", "provider", "region", "kind", "prices", "grid")


def _calibration() -> Option:
    text = "Constants that `llmhw validate --fit` wrote."
    return option("--calibration", metavar="FILE.json", group=ENGINE, help=text)


def _constants(path: str | None) -> Any:
    """What --calibration names; None where it is not given."""
    if path is None:
        return None
    from llmhw.validation import read_constants

    return read_constants(path)


def default_seq_len(spec: llmhw.ModelSpec, tokens: int | None) -> int:
    """--seq-len, or as many tokens as are usual for the model."""
    return min(4096, spec.max_seq_len or 4096) if tokens is None else tokens


def network_link(argument: str, text: str | None, kind: str) -> llmhw.Link | None:
    """A link by its name, or by GB/s."""
    if text is None:
        return None
    try:
        rate = float(text)
    except ValueError:
        try:
            return (_of_machine(text) if kind == "scale-out" else None) or llmhw.link(text)
        except llmhw.LLMHWError as error:
            raise llmhw.LLMHWError(str(error).replace("link=", f"{argument}=", 1)) from None
    if not 1e-3 <= rate <= 1e6:
        raise llmhw.LLMHWError(f"{argument}={text!r} must be a link's name, or a number of GB/s from 0.001 to 1e6")
    return llmhw.Link(f"{rate:g} GB/s", kind, rate * 1e9, status="given")


def _of_machine(text: str) -> llmhw.Link | None:
    """The network of a machine for rent, as in "AWS p5.48xlarge network"; None where it is no such name."""
    provider, _, machine = text.strip().removesuffix("network").strip().partition(" ")
    with suppress(llmhw.LLMHWError):
        return llmhw.instance(machine, provider).cluster().inter_link if machine else None
    return None


def device_of_options(options: dict[str, Any]) -> llmhw.Accelerator:
    """What `device_options` describe, taken out of the options."""
    from llmhw.hardware import given

    gpu, memory, bandwidth, tflops = (options.pop(name) for name in ("gpu", *DEVICE_FACTS))
    if gpu is None:
        return given(memory=memory, bandwidth=bandwidth, tflops=tflops)
    # a device that was read from this machine is one already
    device = given(gpu, memory=memory) if isinstance(gpu, llmhw.Accelerator) else llmhw.accelerator(gpu, memory)
    return given(device, bandwidth=bandwidth, tflops=tflops)


def _cluster(options: dict[str, Any]) -> llmhw.Cluster:
    """What `cluster_options` describe, taken out of the options."""
    from llmhw.hardware import usual_network

    gpu = device_of_options(options)
    gpus, per_node = (options.pop(name) for name in ("gpus", "devices_per_node"))
    inside = network_link("intra_link", options.pop("intra_link"), "scale-up")
    text = options.pop("inter_link")
    between = usual_network(gpu) if text is None else network_link("inter_link", text, "scale-out")
    made = llmhw.Cluster(gpu, gpus, per_node, intra_link=inside, inter_link=between)
    # among many combinations, some may well have nothing to send
    if not click.get_current_context().meta.get("many"):
        if text is not None and made.nodes == 1:
            raise llmhw.LLMHWError(f"inter_link={text!r} has no effect: {made.devices} devices are in one node")
        if inside is not None and made.devices == 1:
            raise llmhw.LLMHWError(f"intra_link={inside.name!r} has no effect on one device")
    return made


# -- training ---------------------------------------------------------------------------------


def _training_job(options: dict[str, Any]) -> tuple[TrainingJob, str]:
    """The job that options describe, and how its layout was chosen where they leave that open.

    The data-parallel size is what tp, pp and cp leave of the devices. Without a file and any option of the layout all
    devices are data-parallel ranks; where the job does not fit so, the layout is planned.
    """
    given = options.get("path_or_text") is not None or bool(_given(f.name for f in fields(Parallelism)))
    filled(options, "training")
    take_trainer(options, "torchtitan")
    named = options.pop("model")
    spec = named if isinstance(named, llmhw.ModelSpec) else llmhw.model(named)
    options["seq_len"] = default_seq_len(spec, options["seq_len"])
    layout = taken(Parallelism, options)
    ranks = data_parallel(devices=options["gpus"], tp=layout["tp"], pp=layout["pp"], cp=layout["cp"])
    cluster = _cluster(options)
    parallelism = Parallelism(dp=ranks, **layout)
    asked = {"model": spec, **taken(TrainingJob, options)}
    if cluster.devices == 1 or given:
        return TrainingJob(cluster=cluster, parallelism=parallelism, **asked), ""
    try:
        plain = TrainingJob(cluster=cluster, parallelism=parallelism, **asked)
    except llmhw.LLMHWError:  # a batch that all devices cannot share may well be shared by fewer ranks
        alone = llmhw.Cluster(cluster.accelerator)
        plain = TrainingJob(cluster=alone, parallelism=Parallelism(), **asked)
        planned = _planned(plain, cluster)
        if not planned[1]:
            return TrainingJob(cluster=cluster, parallelism=parallelism, **asked), ""
        return planned
    if llmhw.training_memory(plain).fits:
        return plain, ""
    return _planned(plain, cluster)


def _given(names: Iterable[str]) -> list[str]:
    """Which of these options were typed."""
    context = click.get_current_context()
    return [name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]


def _planned(job: TrainingJob, cluster: llmhw.Cluster) -> tuple[TrainingJob, str]:
    """The job in the layout that a search finds for it on its devices, and what that is; the job as it is if none."""
    from llmhw.planning.training import asked_layout, planned_layout

    fixed = {name: getattr(job, name) for name in _given(("micro_batch", "recompute"))}
    try:
        found, assumed = planned_layout(job, cluster, **fixed)
    except llmhw.LLMHWError:  # a network that is not known, a format that the device lacks: the answer says so
        return job, ""
    if found is None:
        return job, ""
    text = "layout planned: {layout}: the fastest that fits, as plain data parallelism does not"
    told = said(text, layout=asked_layout(found))
    return found, f"{told}; {assumed}" if assumed else told


def _memory(options: dict[str, Any]) -> Report:
    job, planned = _training_job(options)
    return replace(llmhw.training_memory(job), planned=planned)


def _train(options: dict[str, Any]) -> Report:
    run = taken(RunOptions, options)
    job, planned = _training_job(options)
    constants, tokens = (options.pop(name) for name in ("calibration", "tokens"))
    if job.cluster.nodes > 1 and job.cluster.inter_link is None:
        raise llmhw.LLMHWError(
            f"network between nodes of {job.cluster.accelerator.name} is not known: no machine for rent says what it "
            "has; give --network, as in --network 'InfiniBand NDR 4x'"
        )
    return replace(llmhw.train(job, tokens=tokens, calibration=_constants(constants), **run), planned=planned)


_TRAINING = [*cluster_options(), *field_options(Parallelism), *field_options(TrainingJob)]
_HELD = (
    ("fits", "fits", ""),
    ("allocated_bytes", "allocated", "bytes"),
    ("device_bytes", "on the device", "bytes"),
    ("capacity_bytes", "it has", "bytes"),
)

MEMORY = Command(
    "memory",
    _memory,
    [model_argument(required=False), from_option(), *_TRAINING, *emit_options("training")],
    help="Memory of every pipeline stage of a training job, part by part.\n\n"
    "The data-parallel size is what tp, pp and cp leave of --gpus.",
    shown=Shown(_HELD, (("least", "device_bytes", min),)),
    examples=(
        "llmhw memory llama-3-8b --gpu h100 --gpus 8 --zero 3 --recompute full",
        "llmhw memory llama-3-70b --gpu h100 --gpus 64 --tp 8 --pp 2,4 --zero 1",
        "llmhw memory llama-3-8b --gpu 'RTX 4090' --frozen --base nf4-dq --targets q_proj,v_proj",
        "llmhw memory qwen3-8b --gpu h100 --gpus 8 --zero 3 --method grpo --rollout-share 0.3",
        "llmhw memory llama-3-8b --gpu h100 --explain weights",
        "llmhw memory llama-3-8b --gpu h100 --gpus 8 --zero 3 --recompute full --emit axolotl",
    ),
    explain=True,
    emits=lambda answer, form: emitted(answer.job, form, answer.verdict),
    draw=lambda plot, answer: plot.memory(answer),
    timed=lambda timeline, answer: timeline.memory(answer),
)

TRAIN = Command(
    "train",
    _train,
    [
        model_argument(required=False),
        from_option(),
        *_TRAINING,
        *emit_options("training"),
        _calibration(),
        Option(named("tokens"), type=COUNT, group="Question", help="Of the run: 15e12, 15T; default: 20 a parameter."),
        *field_options(RunOptions),
    ],
    help="Time of a training step and of the whole run: speed, memory, days, dollars, energy.\n\n"
    "The data-parallel size is what tp, pp and cp leave of --gpus.",
    shown=Shown(
        (
            ("fits", "fits", ""),
            ("memory_device_bytes", "memory", "bytes"),
            ("step_seconds", "step", "seconds"),
            ("tokens_per_second", "tokens/s", "number"),
            ("mfu", "MFU", "fraction"),
            ("days", "days", "days"),
            ("dollars", "cost", "dollars"),
        ),
        (("fastest", "tokens_per_second", max), ("cheapest", "dollars", min)),
    ),
    examples=(
        "llmhw train llama-3-8b --gpu h100 --gpus 8 --zero 3 --recompute full --tokens 15B",
        "llmhw train llama-3-8b --gpu h100 --gpus 8 --zero 3 --recompute full --micro-batch 1,2,4",
        "llmhw train llama-3-8b --gpu h100 --gpus 8 --zero 3 --recompute full --explain MFU",
        "llmhw train llama-3-8b --gpu h100 --gpus 8 --zero 3 --recompute full --tokens 15B --emit torchrun",
    ),
    explain=True,
    emits=lambda answer, form: emitted(answer.job, form, answer.verdict, tokens=answer.run.tokens),
    draw=lambda plot, answer: plot.train(answer),
    timed=lambda timeline, answer: timeline.train(answer),
)


# -- one device -------------------------------------------------------------------------------


def _fit(options: dict[str, Any]) -> Report:
    spec = llmhw.model(options.pop("model"))
    options["seq_len"] = default_seq_len(spec, options["seq_len"])
    formats = options.pop("weights")
    options["kv_format"], options["devices"] = options.pop("kv"), options.pop("gpus")
    options["uses"] = options["uses"] or None
    return llmhw.fit(spec, device_of_options(options), formats=formats or None, **options)


FIT = Command(
    "fit",
    _fit,
    [
        model_argument(),
        *device_options(),
        Option(named("gpus"), group="Devices", type=WHOLE, usual=1, help="Devices that the model is split over."),
        option("--utilization", group="Devices", type=REAL, help="Share that an engine takes; default: its own."),
        Option(named("batch"), group=LENGTH, type=WHOLE, usual=1, help="Sequences at a time."),
        seq_len(),
        Option(
            [*named("weights"), "--formats"],
            group=FORMATS,
            type=FORMAT,
            listed=True,
            metavar="NAMES",
            help="Weight formats to try for inference, separated by commas.",
        ),
        Option(named("kv"), group=FORMATS, type=FORMAT, help="Cache format; default: the engine's."),
        option("--engine", metavar="NAME[:VERSION]", help="What serves; default: as `llmhw serve` has it."),
        option(
            "--use", "uses", metavar="NAMES", type=click.Choice(USES), listed=True, help="What to try; default: all."
        ),
        *field_options(TrainingJob, ("rank", "targets", "software", "loss")),
    ],
    help="What fits on one device, or split over a few: inference by format, full training, LoRA, QLoRA.",
    shown=Shown(
        (
            ("use", "use", ""),
            ("needed_bytes", "needs", "bytes"),
            ("usable_bytes", "offers", "bytes"),
            ("fits", "fits", ""),
            ("max_seq_len", "longest", "number"),
        ),
        (("least", "needed_bytes", min), ("smallest", "usable_bytes", min)),
        rows=lambda found: found.records(),
        each="use",
    ),
    examples=(
        'llmhw fit llama-3-8b --gpu "RTX 4090"',
        "llmhw fit llama-3-8b --gpu h100 --batch 1,4,16 --weights bf16,fp8",
    ),
)


# -- serving ----------------------------------------------------------------------------------


def _serving_job(options: dict[str, Any]) -> ServingJob:
    """The job that options describe, which are taken out of `options`."""
    filled(options, "serving")
    take_engine(options)
    named = options.pop("model")
    spec = named if isinstance(named, llmhw.ModelSpec) else llmhw.model(named)
    return ServingJob(model=spec, cluster=_cluster(options), **taken(ServingJob, options))


def _serve(options: dict[str, Any]) -> Report:
    from llmhw.planning.serving import planned_layout

    job, chosen = _serving_job(options), ""
    if job.cluster.devices > 1 and options["prefill_workers"] is None and options["draft"] is None:
        load = ("input_tokens", "output_tokens", "concurrency", "slo_ttft", "slo_tpot")
        job, chosen = planned_layout(job, **{name: options[name] for name in load})
    found = llmhw.serve(job, calibration=_constants(options.pop("calibration")), **options)
    return replace(found, chosen=chosen)


def _limits() -> list[Option]:
    return [
        option("--slo-ttft", group=LOAD, type=REAL, help="Most seconds until the first token."),
        option("--slo-tpot", group=LOAD, type=REAL, help="Most seconds between two tokens, such as 0.033."),
    ]


def _emitted(answer: Any, form: str) -> str:
    """A served job in a form, with the draft that it was asked with."""
    from llmhw.launch import hub_id
    from llmhw.speculation import HEADS

    guess = answer.service.guess
    drafts = {"draft": guess.method if guess.method in HEADS else hub_id(guess.spec)} if guess else {}
    return emitted(answer.job, form, answer.verdict, **drafts, draft_tokens=guess.tokens if guess else None)


SERVE = Command(
    "serve",
    _serve,
    [
        model_argument(required=False),
        from_option(),
        *cluster_options(),
        *field_options(ServingJob),
        option("--input-tokens", group=LENGTH, type=WHOLE, usual=1000, help="Of each prompt."),
        option("--output-tokens", group=LENGTH, type=WHOLE, usual=500, help="Of each answer."),
        option("--images", group=LENGTH, type=WHOLE, usual=0, help="Pictures in each prompt, beside its tokens."),
        option("--image-size", group=LENGTH, metavar="WxH", help="Of a picture, in pixels; default: 1024x1024."),
        Option(named("concurrency"), group=LOAD, type=WHOLE, help="Requests at work at a time; default: all that fit."),
        Option(named("rate"), group=LOAD, type=REAL, help="Requests that arrive in a second, instead."),
        *_limits(),
        option(
            "--draft",
            group=ENGINE,
            type=MODEL,
            metavar="MODEL|eagle3|eagle|mtp",
            help="What proposes tokens: a smaller model, a head, or the model's own layers for it.",
        ),
        option("--draft-tokens", group=ENGINE, type=WHOLE, help="Proposed before each pass; default: the method's."),
        option("--acceptance", group=ENGINE, type=REAL, help="Chance that one is accepted; default: the method's."),
        option(
            "--prefill-workers", group=ENGINE, type=WHOLE, help="Replicas for prompts alone, for each that decodes."
        ),
        *field_options(RunOptions, _PRICE),
        _calibration(),
        *emit_options("serving"),
        option("--curve", group="Answer", is_flag=True, help="With --csv: a row for each load."),
    ],
    help="What fits, first token, tokens/s of a user and of all, requests under limits, dollars a million tokens.\n\n"
    "The replicas are what tp, pp and attention-dp leave of --gpus; without these the layout with most tokens/s is "
    "taken. Requests are equal and in steady state; `llmhw "
    "simulate` plays random arrivals and queues.",
    shown=Shown(
        (
            ("fits", "fits", ""),
            ("longest", "longest context", "number"),
            ("concurrency", "at work", "number"),
            ("ttft_seconds", "first token", "seconds"),
            ("tokens_per_second_per_user", "tokens/s a user", "number"),
            ("tokens_per_second", "tokens/s", "number"),
            ("dollars_per_million_tokens", "a million", "dollars"),
        ),
        (("fastest", "tokens_per_second", max), ("cheapest", "dollars_per_million_tokens", min)),
    ),
    examples=(
        "llmhw serve llama-3-70b --gpu h100 --gpus 4 --tp 4 --concurrency 32",
        "llmhw serve llama-3-8b --gpu h100,h200 --weights bf16,fp8 --concurrency 64",
        "llmhw serve llama-3-8b --gpu h100 --rate 8 --slo-ttft 0.5 --slo-tpot 0.03",
        "llmhw serve llama-3-70b --gpu h100 --gpus 4 --tp 4 --weights fp8 --emit kubernetes:vllm",
    ),
    explain=True,
    emits=_emitted,
    draw=lambda plot, answer: plot.serve(answer),
    timed=lambda timeline, answer: timeline.serve(answer),
    curve=lambda found: found.records(),
)


def _simulate(options: dict[str, Any]) -> Report:
    from llmhw.service import simulate_service

    if str(options["trace"]).lower().endswith(".json"):
        raise llmhw.LLMHWError(
            f"trace={options['trace']!r} is no table of requests, FILE.csv, that are played; --timeline FILE.json "
            "writes what the engine does"
        )
    job = _serving_job(options)
    options["calibration"] = _constants(options["calibration"])
    if options["chunked_prefill"] is None:
        del options["chunked_prefill"]
    if click.get_current_context().meta.get("timeline"):
        from llmhw.timeline.serving import DRAWN

        options["traced"] = DRAWN
    with Progress("requests") as step:
        return simulate_service(job, progress=step, **options)


SIMULATE = Command(
    "simulate",
    _simulate,
    [
        model_argument(),
        *cluster_options(),
        *field_options(ServingJob),
        option("--mode", group=ENGINE, type=MODE, usual="continuous", help="How batches are formed."),
        option(
            "--chunked-prefill/--no-chunked-prefill",
            group=ENGINE,
            is_flag=True,
            default=None,
            help="Prompts in pieces, beside sequences that decode; default: as the engine does.",
        ),
        option(
            "--max-delay", "max_delay_seconds", group=ENGINE, type=REAL, usual=0.0, help="Seconds, in mode dynamic."
        ),
        option(
            "--prefill-workers",
            group=ENGINE,
            type=WHOLE,
            help="Replicas for prompts, for each that decodes, in mode disaggregated.",
        ),
        Option(named("rate"), group=LOAD, type=REAL, help="Requests that arrive in a second, at random."),
        Option(named("concurrency"), group=LOAD, type=WHOLE, help="Users that ask again when answered, instead."),
        option("--requests", group=LOAD, type=WHOLE, help="To simulate; default: 1000, or all of --trace."),
        option(
            "--trace",
            group=LOAD,
            metavar="FILE.csv",
            help="Requests as recorded: arrival or gap, input and output tokens.",
        ),
        option("--speed", group=LOAD, type=REAL, help="2 plays --trace twice as fast; default: 1."),
        option("--input-tokens", group=LENGTH, type=LENGTHS, help="Of prompts, see above; default: 1000."),
        option("--output-tokens", group=LENGTH, type=LENGTHS, help="Of answers, see above; default: 500."),
        option("--seed", group=LOAD, type=WHOLE, help="Of the random numbers; default: 0."),
        *_limits(),
        _calibration(),
    ],
    help="Play requests through an engine: queues, batches, the KV cache, percentiles of latency, goodput.\n\n"
    "Replicas share the requests out evenly and are alike: one is simulated. LENGTHS are a whole number, "
    "uniform:LOW:HIGH, exponential:MEAN, lognormal:MEDIAN:SIGMA[:LEAST:MOST], or csv:FILE with a column named like the "
    "option, as in input_tokens. Ctrl-C ends it early and prints what there is; nothing is then written to --output.",
    shown=Shown(
        (
            ("simulated_requests", "requests", "number"),
            ("simulated_ttft_p50", "first token, p50", "seconds"),
            ("simulated_ttft_p99", "p99", "seconds"),
            ("simulated_tpot_p50", "next token, p50", "seconds"),
            ("output_tokens_per_second_of_all", "tokens/s", "number"),
        ),
        (("quickest", "simulated_ttft_p99", min), ("most", "output_tokens_per_second_of_all", max)),
    ),
    examples=(
        "llmhw simulate llama-3-8b --gpu h100 --rate 4 --requests 200",
        "llmhw simulate llama-3-8b --gpu h100 --rate 2,8 --requests 200 --output-tokens exponential:200",
    ),
    draw=lambda plot, answer: plot.simulate(answer),
    timed=lambda timeline, answer: timeline.simulate(answer),
    interrupted=lambda found: "" if found.result.complete else found.result.note,
)


# -- a log ------------------------------------------------------------------------------------


def _compare(options: dict[str, Any]) -> Report:
    from llmhw import logs

    log = logs.read(options.pop("log"))
    if options["gpu"] is None and not options["gpu_memory"]:
        options["gpu"] = logs.device_of(log)
    elif options["gpu"] is None:
        options["gpu"] = log.device or None
    device = device_of_options(options)
    spec = options.pop("model")
    usual = {f.name: f.default for f in fields(ServingJob)}
    asked = {name: value for name, value in taken(ServingJob, options).items() if value != usual[name]}
    return logs.compare(log, spec=spec, device=device, **asked)


LOG = Command(
    "log",
    _compare,
    [
        click.Argument(["log"], metavar="LOG"),
        option("--model", group="Question", type=MODEL, metavar="MODEL", help="Where the log has another name for it."),
        *device_options(),
        *field_options(ServingJob),
    ],
    help="A start-up log of vLLM, SGLang or llama.cpp beside what was to be expected: weights, KV cache, tokens, "
    "buffers.\n\n"
    "LOG is a file, or - for standard input. What it says of model, device and options is taken from it; options here "
    "stand in for what it does not say, or says wrongly.",
    shown=Shown(
        (
            ("weights_measured", "weights", "bytes"),
            ("weights_predicted", "predicted", "bytes"),
            ("KV_cache_measured", "KV cache", "bytes"),
            ("KV_cache_predicted", "predicted", "bytes"),
        ),
        rows=lambda found: [found.held.identity() | row for row in found.records()],
    ),
    examples=('llmhw log server.log --gpu "RTX 3090"',),
)

COMMANDS = {command.name: command for command in (FIT, MEMORY, TRAIN, SERVE, SIMULATE, LOG)}
