"""The `llmhw` command: formats answers, computes nothing. Needs click and rich (extra `cli`)."""

from __future__ import annotations

import sys

try:
    import click
    from click.shell_completion import CompletionItem
except ImportError:  # one line, not a traceback: the package itself works without them
    sys.exit("llmhw: the command needs click and rich; install them with: pip install 'llmhw[cli]'")

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from importlib import import_module
from typing import Any, TypeVar

import llmhw
from llmhw.cost import RunOptions
from llmhw.job import Parallelism, ServingJob, TrainingJob, data_parallel
from llmhw.memory import OPTIMIZERS, PRECISIONS
from llmhw.units import format_quantity, parse_count

F = TypeVar("F", bound=Callable[..., Any])


# -- printing ---------------------------------------------------------------------------------


def _json_text(value: Any) -> str:
    import json

    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _json(value: Any) -> None:
    click.echo(_json_text(value), nl=False)


def _csv_text(*rows: Mapping[str, Any]) -> str:
    import csv
    import io

    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([rows[0].keys(), *(row.values() for row in rows)])
    return out.getvalue()


def _check_form(as_json: bool, as_csv: bool, output: str | None, part: str | None = None) -> None:
    if part is not None and as_csv:
        raise llmhw.LLMHWError(f"explain={part!r} prints formulas, which are no row of a table; leave --csv out")
    if as_json and as_csv:
        raise llmhw.LLMHWError("--json and --csv are two forms of one answer; leave one out")
    if output is not None and not (as_json or as_csv):
        raise llmhw.LLMHWError(f"output={output!r} needs a form; add --csv or --json")


def _text(text: str, output: str | None) -> None:
    """To a file, or to the terminal."""
    if output is None:
        return click.echo(text, nl=False)
    from llmhw.files import write_whole

    write_whole(output, lambda: text)


def _explained(answer: Any, part: str, as_json: bool, output: str | None = None) -> None:
    """What --explain asks of an answer."""
    text = answer.explain(part)
    _text(_json_text({"part": part, "explanation": text}) if as_json else f"{text}\n", output)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    numbers = set(right)
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # a pipe has no width: give it enough for whole lines, so that grep and awk see one row a line
    Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False).print(table)


def _estimate(estimate: llmhw.Estimate) -> None:
    _table(estimate.title, ("part", "size", "share"), estimate.rows(), right=("size", "share"))


# -- arguments --------------------------------------------------------------------------------


class _Names(click.ParamType[str]):
    """A text whose shell completion offers the names of a catalog."""

    def __init__(self, name: str, names: Callable[[], Iterable[str]]) -> None:
        self.name = name
        self.names = names

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if self.name == "model" and ("/" in incomplete or "." in incomplete[:2]):
            return [CompletionItem(incomplete, type="file")]
        start = incomplete.lower()
        return [CompletionItem(name) for name in self.names() if name.lower().startswith(start)]


# What `llmhw explain` explains of a model, beside single formulas.
TOPICS = ("weights", "kv-cache", "forward-flops", "training-states", "lora")


class _Choices(_Names):
    """A name of few, shown in the help with all the others."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self.names())}]"


class _Count(click.ParamType[float]):
    """A number above 0 such as 15e12 or 15T."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return parse_count(param.name or "" if param else "", str(value))


_MODEL = _Names("model", llmhw.models)
_GPU = _Names("gpu", lambda: [a.name for a in llmhw.accelerators()])
_FORMAT = _Names("format", llmhw.number_formats)
_MODE = _Choices("mode", lambda: import_module("llmhw.simulation").MODES)
_SOFTWARE = _Choices("software", lambda: import_module("llmhw.step_time").softwares())
_KIND = _Choices("kind", lambda: import_module("llmhw.validation").KINDS)
_FORMULA = _Names("formula", lambda: [*TOPICS, *llmhw.formulas()])

_model_argument = click.argument("model", type=_MODEL, metavar="NAME|config.json")
_json_option = click.option("--json", "as_json", is_flag=True, help="Plain numbers in base units, under stable keys.")
_explain_option = click.option(
    "--explain", "part", metavar="PART", help="Only a part, such as weights, with its formulas and numbers."
)
_seq_len = click.option("--seq-len", type=int, help="Tokens of each sequence.  [default: 4096, or the model's limit]")
_batch = click.option("--batch", type=int, default=1, show_default=True, help="Sequences at a time.")
_kv_format = click.option("--kv", "kv_format", type=_FORMAT, default="bf16", show_default=True, help="Cache format.")


def _default_seq_len(spec: llmhw.ModelSpec, seq_len: int | None) -> int:
    return min(4096, spec.max_seq_len or 4096) if seq_len is None else seq_len


def _check_some(found: list[Any], pattern: str, what: str, command: str) -> None:
    if not found:
        raise llmhw.LLMHWError(f"pattern={pattern!r} matches no {what}; run `llmhw {command}` for all of them")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(llmhw.__version__, prog_name="llmhw")
def cli() -> None:
    """Which hardware a language model needs, what it will do there, and what it will cost.

    NAME is a model of the catalog (`llmhw models`), or the path of a Hugging Face config.json.
    """


@cli.command()
@click.argument("pattern", default="")
@_json_option
def models(pattern: str, as_json: bool) -> None:
    """List the models of the catalog whose name or family contains PATTERN."""
    wanted = pattern.lower()
    specs = [llmhw.model(name) for name in llmhw.models()]
    specs = [s for s in specs if wanted in s.name or wanted in s.model_type]
    _check_some(specs, pattern, "model", "models")
    if as_json:
        return _json([spec.to_dict() for spec in specs])
    rows = [
        (
            s.name,
            s.model_type,
            format_quantity(s.parameters.total, "count"),
            format_quantity(s.parameters.active, "count"),
            str(s.num_layers),
            format_quantity(llmhw.kv_cache_bytes_per_token(s), "bytes"),
        )
        for s in specs
    ]
    columns = ("name", "family", "parameters", "active", "layers", "KV per token")
    _table(f"{len(rows)} models", columns, rows, right=columns[2:])


@cli.command()
@click.argument("pattern", default="")
@_json_option
def gpus(pattern: str, as_json: bool) -> None:
    """List the accelerators whose name or vendor contains PATTERN."""
    wanted = pattern.lower()
    found = [a for a in llmhw.accelerators() if wanted in a.name.lower() or wanted in a.vendor.lower()]
    _check_some(found, pattern, "accelerator", "gpus")
    if as_json:
        return _json([a.to_dict() for a in found])
    rows = [
        (
            a.name,
            str(a.year),
            format_quantity(a.memory_bytes, "bytes"),
            format_quantity(a.memory_bandwidth_bytes_per_second, "bytes/s"),
            *(format_quantity(a.peaks[f], "FLOP/s") if f in a.peaks else "-" for f in ("bf16", "fp8")),
            format_quantity(a.link_bytes_per_second, "bytes/s") if a.link_bytes_per_second else "-",
        )
        for a in found
    ]
    columns = ("name", "year", "memory", "bandwidth", "dense bf16", "dense fp8", "link, one way")
    _table(f"{len(rows)} accelerators", columns, rows, right=columns[1:])


@cli.command()
@_model_argument
@_batch
@_seq_len
@_kv_format
@click.option("--weights", "number_format", type=_FORMAT, default="bf16", show_default=True, help="Weight format.")
@click.option("--causal", is_flag=True, help="Count only the pairs under the causal mask, as flash kernels do.")
@_json_option
def model(
    model: str, batch: int, seq_len: int | None, kv_format: str, number_format: str, causal: bool, as_json: bool
) -> None:
    """Parameters, weights, cache and FLOPs of one model."""
    spec = llmhw.model(model)
    tokens = _default_seq_len(spec, seq_len)
    held = llmhw.weights(spec, number_format)
    cache = llmhw.kv_cache(spec, batch=batch, seq_len=tokens, kv_format=kv_format)
    forward = llmhw.forward_flops(spec, batch=batch, seq_len=tokens, causal=causal)
    backward = llmhw.backward_flops(spec, batch=batch, seq_len=tokens, causal=causal)
    count = batch * tokens
    if as_json:
        return _json(
            spec.to_dict()
            | {
                "batch": batch,
                "seq_len": tokens,
                "weight_format": number_format,
                "weight_bytes": held.total,
                "kv_format": kv_format,
                "kv_cache_bytes_per_token": llmhw.kv_cache_bytes_per_token(spec, kv_format),
                "kv_cache_bytes": cache.total,
                "flops": {
                    "causal": causal,
                    "forward_per_token": forward.total / count,
                    "backward_per_token": backward.total / count,
                    "forward": forward.total,
                    "backward": backward.total,
                    "forward_by_component": forward.to_dict()["parts"],
                },
            }
        )
    p = spec.parameters
    by_component = [
        (name, f"{value:,}", format_quantity(value / p.total, "fraction"))
        for name, value in [*p.by_component.items(), ("total", p.total), ("active per token", p.active)]
        if value
    ]
    if p.mtp:
        by_component.append(("multi-token prediction, beside the total", f"{p.mtp:,}", ""))
    _table(str(spec), ("component", "parameters", "share"), by_component, right=("parameters", "share"))
    if spec.left_out:
        click.echo(f"Not counted: {', '.join(spec.left_out)} part of this multimodal model.\n")
    _estimate(held)
    per_token = format_quantity(llmhw.kv_cache_bytes_per_token(spec, kv_format), "bytes")
    click.echo(
        f"KV cache in {kv_format}: {per_token} per token, {format_quantity(cache.total, 'bytes')} for ", nl=False
    )
    click.echo(f"{batch} x {tokens:,} tokens.\n")
    _estimate(forward)
    click.echo(f"Per token: {format_quantity(forward.total / count, 'FLOP')} forward, ", nl=False)
    click.echo(f"{format_quantity(backward.total / count, 'FLOP')} backward ({forward.note}).")


@cli.command()
@_model_argument
@click.option("--gpu", type=_GPU, required=True, help="Accelerator: see `llmhw gpus`.")
@_batch
@_seq_len
@click.option("--formats", default="", help="Weight formats to try, separated by commas.")
@click.option("--rank", type=int, default=16, show_default=True, help="Rank of LoRA adapters.")
@click.option("--utilization", type=float, default=0.9, show_default=True, help="Share of the memory to plan with.")
@_json_option
def fit(
    model: str,
    gpu: str,
    batch: int,
    seq_len: int | None,
    formats: str,
    rank: int,
    utilization: float,
    as_json: bool,
) -> None:
    """What fits on one device: inference by format, full training, LoRA, QLoRA."""
    from llmhw.fit import INFERENCE_FORMATS

    spec = llmhw.model(model)
    chosen = [name.strip() for name in formats.split(",") if name.strip()] or INFERENCE_FORMATS
    table = llmhw.fit(
        spec,
        gpu,
        batch=batch,
        seq_len=_default_seq_len(spec, seq_len),
        formats=chosen,
        rank=rank,
        utilization=utilization,
    )
    if as_json:
        return _json(table.to_dict())
    columns = ("use", "needs", "offered", "fits", "longest")
    _table(table.title, columns, table.text_rows(), right=("needs", "offered", "longest"))
    click.echo("Inference: weights and bf16 cache. Training: the fullest moment of a step under full recompute.")
    if table.left_out:
        click.echo(f"No training: {table.left_out}.")
    click.echo("`longest` is the longest sequence that fits at this batch, at most the model's limit.")


# -- the options of a job ---------------------------------------------------------------------
# They are made from the fields of `llmhw.Parallelism`, `TrainingJob`, `ServingJob` and `llmhw.cost.RunOptions`.

# What the command takes otherwise than the field: it depends on the model, or has another unit.
_OWN: dict[str, Any] = {
    "seq_len": _seq_len,
    "kind": click.option("--spot", "kind", flag_value="spot", default="on_demand", help="Spot prices, not on demand."),
    "storage_bytes_per_second": click.option(
        "--storage",
        "storage_bytes_per_second",
        type=float,
        callback=lambda _, __, gb: None if gb is None else gb * 1e9,
        help="GB/s into storage, from all devices together.",
    ),
}
# Fields without an option: dp follows from --gpus, and how long reading from the host's memory takes is not known.
_NONE = ("dp", "weight_offload", "kv_offload")
_TYPES: dict[str, click.ParamType[Any]] = {
    "precision": click.Choice(list(PRECISIONS)),
    "optimizer": click.Choice(list(OPTIMIZERS)),
    "weights": _FORMAT,
    "kv": _FORMAT,
}


def _option(f: Field[Any]) -> Any:
    """The option of a field; a unit at the end of its name is left to the help."""
    if f.name in _OWN:
        return _OWN[f.name]
    kind, default = f.metadata["kind"], f.default
    name = "--" + f.name.removesuffix("_seconds").removesuffix("_device_hours").replace("_", "-")
    shown: dict[str, Any] = {"default": default, "show_default": True, "help": f.metadata["meaning"]}
    if kind is bool:
        name += name.replace("--", "/--no-") if default is None else ""
        return click.option(name, f.name, is_flag=True, **shown)
    if isinstance(kind, tuple):
        kind = _Choices(f.name, kind.__iter__)
    return click.option(name, f.name, type=_TYPES.get(f.name, kind), **shown)


def _options(*parts: Any) -> Callable[[F], F]:
    """Add options: single ones, and those of all fields of a dataclass."""
    made: list[Any] = []
    for part in parts:
        if isinstance(part, type):
            made += [_option(f) for f in fields(part) if f.metadata and f.name not in _NONE]
        else:
            made.append(part)

    def add(command: F) -> F:
        for option in reversed(made):
            command = option(command)
        return command

    return add


def _taken(made: type, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass, taken out of the options."""
    return {f.name: options.pop(f.name) for f in fields(made) if f.name in options}


_network_option = click.option(
    "--network", metavar="NAME|GB/s", help="Between nodes, of each device.  [default: the best for rent]"
)
_CLUSTER = (
    click.option("--gpu", type=_GPU, required=True, help="Accelerator: see `llmhw gpus`."),
    click.option("--gpus", type=int, default=1, show_default=True, help="Devices in all."),
    click.option("--devices-per-node", type=int, help="Devices of the fast network.  [default: as the device has it]"),
)


def _cluster(options: dict[str, Any], network: llmhw.Link | None) -> llmhw.Cluster:
    """What `_CLUSTER` describes, taken out of the options."""
    gpu, gpus, per_node = (options.pop(name) for name in ("gpu", "gpus", "devices_per_node"))
    return llmhw.Cluster(gpu, gpus, per_node, inter_link=network)


def _job(model: str, options: dict[str, Any], network: llmhw.Link | None = None) -> llmhw.TrainingJob:
    """The job that options describe. The data-parallel size is what tp, pp and cp leave of the devices."""
    spec = llmhw.model(model)
    options["seq_len"] = _default_seq_len(spec, options["seq_len"])
    layout = _taken(Parallelism, options)
    ranks = data_parallel(devices=options["gpus"], tp=layout["tp"], pp=layout["pp"], cp=layout["cp"])
    cluster = _cluster(options, network)
    parallelism = Parallelism(dp=ranks, **layout)
    return TrainingJob(model=spec, cluster=cluster, parallelism=parallelism, **_taken(TrainingJob, options))


@cli.command()
@_model_argument
@_options(*_CLUSTER, Parallelism, TrainingJob)
@_explain_option
@_json_option
def memory(model: str, part: str | None, as_json: bool, **options: Any) -> None:
    """Memory of every pipeline stage of a training job, part by part.

    The data-parallel size is what tp, pp and cp leave of --gpus.
    """
    found = llmhw.training_memory(_job(model, options))
    if part is not None:
        return _explained(found, part, as_json)
    if as_json:
        return _json(found.to_dict())
    columns = ("part", *(f"stage {i}" for i in range(len(found.stages))))
    _table(found.title, columns, found.rows(), right=columns[1:])
    for name, value in (
        ("allocated", found.allocated_bytes),
        ("reserved", found.reserved_bytes),
        ("nvidia-smi", found.device_bytes),
        ("device", found.capacity_bytes),
    ):
        click.echo(f"{name:<11}{format_quantity(value, 'bytes'):>10}")
    click.echo(
        f"Stage {found.worst} is the fullest. " + ("It fits." if found.fits else f"It does not fit: {found.way_out}.")
    )


def _network(text: str | None, gpu: str) -> llmhw.Link | None:
    """The link between nodes: by name, by GB/s, or the usual one of the device."""
    from llmhw.hardware import usual_network

    if text is None:
        return usual_network(gpu)
    try:
        rate = float(text)
    except ValueError:
        return llmhw.link(text)
    if not 0 < rate < float("inf"):
        raise llmhw.LLMHWError(f"network={text!r} must be a link's name, or a number of GB/s above 0")
    return llmhw.Link(f"{rate:g} GB/s", "scale-out", rate * 1e9, status="given")


_output_option = click.option("--output", metavar="FILE", help="Write --json or --csv to a file, whole or not at all.")


_calibration_option = click.option(
    "--calibration", metavar="FILE.json", help="Constants that `llmhw validate --fit` wrote."
)


def _constants(path: str | None) -> dict[str, Any] | None:
    """What --calibration names; None where it is not given."""
    if path is None:
        return None
    from llmhw.validation import read_constants

    return read_constants(path)


@cli.command()
@_model_argument
@_options(*_CLUSTER, Parallelism, TrainingJob, _network_option)
@click.option("--software", type=_SOFTWARE, help="What runs it.  [default: by --kernels]")
@_calibration_option
@click.option("--tokens", type=_Count(), help="Of the run: 15e12, 15T, 300B.  [default: 20 a parameter]")
@_options(RunOptions)
@_explain_option
@_json_option
@click.option("--csv", "as_csv", is_flag=True, help="One header line and one row, in base units.")
@_output_option
def train(
    model: str,
    network: str | None,
    software: str | None,
    calibration: str | None,
    tokens: float | None,
    part: str | None,
    as_json: bool,
    as_csv: bool,
    output: str | None,
    **options: Any,
) -> None:
    """Time of a training step and of the whole run: speed, memory, days, dollars, energy.

    The data-parallel size is what tp, pp and cp leave of --gpus.
    """
    _check_form(as_json, as_csv, output, part)
    run = _taken(RunOptions, options)
    job = _job(model, options, _network(network, options["gpu"]))
    if job.cluster.nodes > 1 and job.cluster.inter_link is None:
        raise llmhw.LLMHWError(
            f"network between nodes of {job.cluster.accelerator.name} is not known: no machine for rent says what it "
            "has; give --network, as in --network 'InfiniBand NDR 4x'"
        )
    found = llmhw.train(job, tokens=tokens, software=software, calibration=_constants(calibration), **run)
    if part is not None:
        return _explained(found, part, as_json, output)
    if as_json:
        return _text(_json_text(found.to_dict()), output)
    if as_csv:
        return _text(_csv_text(found.to_row()), output)
    click.echo(f"{found.title}\n{job.cluster}; software {found.software}\n")
    _table("", ("quantity", "value", "80 % interval or origin"), found.summary(), right=("value",))
    columns = ("part of the step", "least", "estimate", "most", "share")
    _table("", columns, found.rows(), right=columns[1:])
    for assumed in found.run.defaults:
        click.echo(f"Assumed {assumed}.")


_PRICE = [_option(f) for f in fields(RunOptions) if f.name in ("price", "provider", "region", "kind")]


def _serving_job(model: str, options: dict[str, Any]) -> llmhw.ServingJob:
    """The job that options describe, which are taken out of `options`."""
    cluster = _cluster(options, _network(options.pop("network"), options["gpu"]))
    return ServingJob(model=llmhw.model(model), cluster=cluster, **_taken(ServingJob, options))


@cli.command()
@_model_argument
@_options(*_CLUSTER, _network_option, ServingJob)
@click.option("--input-tokens", type=int, default=1000, show_default=True, help="Of each prompt.")
@click.option("--output-tokens", type=int, default=500, show_default=True, help="Of each answer.")
@click.option("--concurrency", type=int, help="Requests at work at a time.  [default: all that fit]")
@click.option("--rate", type=float, help="Requests that arrive in a second, instead of --concurrency.")
@click.option("--slo-ttft", type=float, help="Most seconds until the first token.")
@click.option("--slo-tpot", type=float, help="Most seconds between two tokens.")
@click.option("--draft", type=_MODEL, metavar="NAME|config.json", help="A smaller model that proposes tokens.")
@click.option("--draft-tokens", type=int, help="Proposed before each pass.  [default: 4]")
@click.option("--acceptance", type=float, help="Chance that a proposal is accepted.  [default: 0.7]")
@_options(*_PRICE)
@_calibration_option
@_explain_option
@_json_option
@click.option("--csv", "as_csv", is_flag=True, help="The curve: a header line and a row for each load, in base units.")
@_output_option
def serve(
    model: str,
    draft: str | None,
    calibration: str | None,
    part: str | None,
    as_json: bool,
    as_csv: bool,
    output: str | None,
    **options: Any,
) -> None:
    """What fits, first token, tokens/s of a user and of all, requests under limits, dollars a million tokens.

    The replicas are what tp, pp and attention-dp leave of --gpus. Requests are equal and in steady state; `llmhw
    simulate` plays random arrivals and queues.
    """
    from llmhw.service import COLUMNS
    from llmhw.service import serve as estimate

    _check_form(as_json, as_csv, output, part)
    job = _serving_job(model, options)
    guesser = None if draft is None else llmhw.model(draft)
    found = estimate(job, draft=guesser, calibration=_constants(calibration), **options)
    if part is not None:
        return _explained(found, part, as_json, output)
    if as_json:
        return _text(_json_text(found.to_dict()), output)
    if as_csv:
        return _text(_csv_text(*found.to_dict()["curve"]), output)
    click.echo(f"{found.title}\n{job.cluster}; replicas: {job.replicas}\n")
    _table("", ("quantity", "value"), found.summary())
    _table("", COLUMNS, found.rows(), right=COLUMNS)


class _Lengths(click.ParamType[Any]):
    """A length in tokens, or how lengths are distributed: an argument of `llmhw.simulation.Poisson`."""

    name = "lengths"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "LENGTHS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from llmhw import simulation

        kinds = {
            "uniform": simulation.Uniform,
            "exponential": simulation.Exponential,
            "lognormal": simulation.LogNormal,
        }
        kind, _, rest = str(value).partition(":")
        name = param.name if param and param.name else "lengths"
        try:
            if not rest:
                return int(kind)
            if kind == "csv":
                return simulation.Empirical.from_csv(rest, name)
            numbers = [int(x) if x.isdigit() else float(x) for x in rest.split(":")]
            return kinds[kind](*numbers)
        except llmhw.LLMHWError:
            raise
        except (KeyError, TypeError, ValueError):
            raise llmhw.LLMHWError(
                f"{name}={value!r} must be a whole number, uniform:LOW:HIGH, exponential:MEAN, "
                "lognormal:MEDIAN:SIGMA[:LEAST:MOST] or csv:FILE"
            ) from None


_LENGTHS = _Lengths()


@cli.command()
@_model_argument
@_options(*_CLUSTER, _network_option, ServingJob)
@click.option("--mode", type=_MODE, default="continuous", show_default=True, help="How batches are formed.")
@click.option("--chunked-prefill", is_flag=True, help="Prompts in pieces, beside sequences that decode.")
@click.option("--max-delay", "max_delay_seconds", type=float, default=0.0, help="Seconds, with --mode dynamic.")
@click.option("--prefill-workers", type=int, help="Replicas for prompts, for each that decodes: --mode disaggregated.")
@click.option("--rate", type=float, help="Requests that arrive in a second, at random.")
@click.option("--requests", type=int, help="To simulate.  [default: 1000, or all of --trace]")
@click.option("--trace", metavar="FILE.csv", help="Requests as recorded: arrival or gap, input and output tokens.")
@click.option("--speed", type=float, default=1.0, show_default=True, help="2 plays --trace twice as fast.")
@click.option("--input-tokens", type=_LENGTHS, default="1000", show_default=True, help="Of prompts; see below.")
@click.option("--output-tokens", type=_LENGTHS, default="500", show_default=True, help="Of answers; see below.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random numbers.")
@click.option("--slo-ttft", type=float, help="Most seconds until the first token.")
@click.option("--slo-tpot", type=float, help="Most seconds between two tokens.")
@_calibration_option
@_json_option
@click.option("--csv", "as_csv", is_flag=True, help="One header line and one row, in base units.")
@_output_option
def simulate(
    model: str, calibration: str | None, as_json: bool, as_csv: bool, output: str | None, **options: Any
) -> None:
    """Play requests through an engine: queues, batches, the KV cache, percentiles of latency, goodput.

    Replicas share the requests out evenly and are alike: one is simulated. LENGTHS are a whole number,
    uniform:LOW:HIGH, exponential:MEAN, lognormal:MEDIAN:SIGMA[:LEAST:MOST], or csv:FILE with a column named like the
    option, as in input_tokens. Ctrl-C ends it early and prints what there is; nothing is then written to --output.
    """
    from llmhw.service import simulate_service

    _check_form(as_json, as_csv, output)
    job = _serving_job(model, options)
    options["calibration"] = _constants(calibration)
    if output is not None:
        from llmhw.files import write_whole

        def answer() -> str:
            found = simulate_service(job, **options)
            if not found.result.complete:
                raise click.Abort
            return _csv_text(found.to_row()) if as_csv else _json_text(found.to_dict())

        return write_whole(output, answer)
    found = simulate_service(job, **options)
    if as_json:
        _json(found.to_dict())
    elif as_csv:
        _text(_csv_text(found.to_row()), None)
    else:
        click.echo(f"{found.title}\n")
        _table("", ("quantity", "value", "percentiles or detail"), found.rows(), right=("value",))
    if not found.result.complete:
        click.echo(f"llmhw: {found.result.note}", err=True)
        click.get_current_context().exit(130)


@cli.command()
@click.argument("what", type=click.Choice(["params", "flops", "activations", "memory", "optimizer"]))
@_model_argument
@click.option("--batch", type=int, help="Sequences at a time.  [default: 1]")
@click.option("--seq-len", type=int, help="Tokens of each sequence.  [default: 128]")
@click.option("--optimizer", help="adamw, sgd, sgd-momentum, adafactor or muon.  [default: adamw]")
@click.option("--precision", help="fp32, bf16, ...  [default: as the measurement has it]")
@click.option("--recompute", help="none, selective or full.  [default: none]")
@click.option("--attention", help="flash or eager.  [default: flash]")
@click.option("--gpu", "device_memory", type=_GPU, help="With memory: does the step fit this accelerator?")
@_json_option
def measure(what: str, model: str, as_json: bool, **options: Any) -> None:
    """Take a quantity from PyTorch, beside the prediction. Needs the extra `torch`.

    Large models are measured without allocating them, on fake tensors.
    """
    from llmhw.measure import measure as take

    found = take(what, model, **{name: value for name, value in options.items() if value is not None})
    if as_json:
        return _json(found.to_dict())
    _table(found.title, ("", "measured", "predicted", "ratio"), found.rows(), right=("measured", "predicted", "ratio"))
    for note in found.notes:
        click.echo(note)


@cli.command()
@click.argument("file", required=False, metavar="[FILE.csv]")
@click.option("--kind", type=_KIND, required=True, help="What the table holds.")
@click.option("--worst", type=click.IntRange(min=0), default=10, show_default=True, help="Largest errors to list.")
@click.option("--fit", "fitted", metavar="FILE.json", help="Fit the constants to these rows, use and write them.")
@click.option("--calibration", metavar="FILE.json", help="Use the constants that --fit wrote.")
@_json_option
def validate(
    file: str | None, kind: str, worst: int, fitted: str | None, calibration: str | None, as_json: bool
) -> None:
    """Compare predictions with a table of published measurements.

    Without FILE.csv, the catalog's own table. Rows that measure one configuration again have one vote; every row is
    predicted or skipped with a reason.
    """
    from llmhw import validation

    if fitted and calibration:
        raise llmhw.LLMHWError("--fit and --calibration both give the constants; leave one out")
    constants = None
    if fitted:
        constants = validation.write_constants(fitted, lambda: validation.calibration(file, kind))
    elif calibration:
        constants = validation.read_constants(calibration)
    found = validation.validate(file, kind, calibration=constants)
    if as_json:
        return _json(found.to_dict(worst=worst))
    words = ("source", "reason", "ids")
    for part in found.sections(worst=worst):
        _table(part.title, part.columns, part.rows, right=[column for column in part.columns if column not in words])
    if fitted:
        click.echo(f"The constants were fitted to these rows and written to {fitted}: other rows will fit worse.")


@cli.command()
@click.argument("pattern", default="")
@_json_option
def formats(pattern: str, as_json: bool) -> None:
    """List the number formats whose name contains PATTERN, with what a weight really costs."""
    found = [llmhw.number_format(name) for name in llmhw.number_formats() if pattern.lower() in name.lower()]
    _check_some(found, pattern, "format", "formats")
    if as_json:
        return _json([{"name": f.name, "bits_per_weight": f.bits_per_weight, "note": f.note} for f in found])
    rows = [(f.name, f"{f.bits_per_weight:.4g}", f.note) for f in found]
    _table(f"{len(rows)} number formats", ("name", "bits per weight", "note"), rows, right=("bits per weight",))


@cli.command()
@click.argument("topic", type=_FORMULA, default="")
@click.argument("arguments", nargs=-1, metavar="[NAME|config.json | key=value ...]")
@_batch
@_seq_len
@click.option("--format", "number_format", type=_FORMAT, default="bf16", show_default=True, help="Weights or cache.")
@click.option("--optimizer", type=click.Choice(list(OPTIMIZERS)), default="adamw", show_default=True)
@click.option("--precision", type=click.Choice(list(PRECISIONS)), default="bf16-mixed", show_default=True)
@_json_option
def explain(
    topic: str,
    arguments: tuple[str, ...],
    batch: int,
    seq_len: int | None,
    number_format: str,
    optimizer: str,
    precision: str,
    as_json: bool,
) -> None:
    """Show the formula behind a number, with the numbers put in.

    \b
    llmhw explain                                  all formulas
    llmhw explain kv_cache_bytes                   one formula
    llmhw explain matmul_flops tokens=1 weights=7e9
    llmhw explain kv-cache llama-3-70b --seq-len 8192
    llmhw explain weights|kv-cache|forward-flops|training-states|lora MODEL
    """
    if not topic:
        entries = sorted(llmhw.formulas().values(), key=lambda f: (f.module, f.name))
        if as_json:
            return _json([{"name": f.name, "unit": f.unit, "source": f.source, "code": f.expression} for f in entries])
        rows = [(f.name, f.unit, f.summary) for f in entries]
        return _table(f"{len(rows)} formulas", ("formula", "unit", "what it computes"), rows)
    if topic in TOPICS:
        if len(arguments) != 1:
            raise llmhw.LLMHWError(f"topic={topic!r} needs one model: llmhw explain {topic} llama-3-8b")
        spec = llmhw.model(arguments[0])
        tokens = _default_seq_len(spec, seq_len)
        if topic == "weights":
            estimate = llmhw.weights(spec, number_format)
        elif topic == "kv-cache":
            estimate = llmhw.kv_cache(spec, batch=batch, seq_len=tokens, kv_format=number_format)
        elif topic == "forward-flops":
            estimate = llmhw.forward_flops(spec, batch=batch, seq_len=tokens)
        elif topic == "training-states":
            estimate = llmhw.training_states(spec, optimizer=optimizer, precision=precision)
        else:
            estimate = llmhw.lora_states(spec, base_format=number_format, optimizer=optimizer)
        if as_json:
            return _json(estimate.to_dict() | {"explanation": estimate.explain()})
        click.echo(estimate.explain())
        return click.echo(f"\ntotal = {format_quantity(estimate.total, estimate.unit)}")
    text = llmhw.explain(topic, **_numbers(arguments))
    if as_json:
        return _json({"formula": topic, "explanation": text})
    click.echo(text)


def _numbers(arguments: Iterable[str]) -> dict[str, float]:
    """key=value pairs as numbers."""
    numbers: dict[str, float] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        try:
            value = float(text)
        except ValueError:
            equals = ""
            value = 0.0
        if not equals:
            raise llmhw.LLMHWError(f"argument={argument!r} must be key=number, such as tokens=4096")
        numbers[key] = int(value) if value.is_integer() else value
    return numbers


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the shell code that completes commands, models and devices.

    \b
    bash: llmhw completion bash > ~/.local/share/bash-completion/completions/llmhw
    zsh:  llmhw completion zsh > "${fpath[1]}/_llmhw"
    fish: llmhw completion fish > ~/.config/fish/completions/llmhw.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "llmhw", "_LLMHW_COMPLETE").source())


def main() -> None:
    """Run the command; a wrong argument is one line on stderr and exit code 2."""
    try:
        code = cli.main(prog_name="llmhw", standalone_mode=False)
    except llmhw.LLMHWError as error:
        click.echo(f"llmhw: {error}", err=True)
        code = 2
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 0
    except click.ClickException as error:
        click.echo(f"llmhw: {error.format_message()}", err=True)
        code = 2
    except click.Abort:
        click.echo("llmhw: interrupted", err=True)
        code = 130
    except BrokenPipeError:  # `llmhw models | head` is fine
        sys.stdout = None
        code = 0
    sys.exit(code if isinstance(code, int) else 0)
