"""The `llmhw` command: formats answers, computes nothing. Needs click and rich (extra `cli`)."""

from __future__ import annotations

import sys

try:
    import click
    from click.shell_completion import CompletionItem
except ImportError:  # one line, not a traceback: the package itself works without them
    sys.exit("llmhw: the command needs click and rich; install them with: pip install 'llmhw[cli]'")

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import llmhw
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


def _check_form(as_json: bool, as_csv: bool, output: str | None) -> None:
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


def _kinds() -> list[str]:
    from llmhw.validation import KINDS

    return list(KINDS)


def _softwares() -> list[str]:
    from llmhw.step_time import softwares

    return list(softwares())


def _modes() -> Iterable[str]:
    from llmhw.simulation import MODES

    return MODES


def _of_job(name: str) -> Callable[[], Iterable[str]]:
    """One of the lists of choices in `llmhw.job`, read when it is needed."""

    def choices() -> Iterable[str]:
        from llmhw import job

        found: tuple[str, ...] = getattr(job, name)
        return found

    return choices


class _Count(click.ParamType[float]):
    """A number above 0 such as 15e12 or 15T."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return parse_count(param.name or "" if param else "", str(value))


_MODEL = _Names("model", llmhw.models)
_GPU = _Names("gpu", lambda: [a.name for a in llmhw.accelerators()])
_FORMAT = _Names("format", llmhw.number_formats)
_FORMULA = _Names("formula", lambda: [*TOPICS, *llmhw.formulas()])

_model_argument = click.argument("model", type=_MODEL, metavar="NAME|config.json")
_json_option = click.option("--json", "as_json", is_flag=True, help="Plain numbers in base units, under stable keys.")
_seq_len = click.option("--seq-len", type=int, help="Tokens of each sequence.  [default: 4096, or the model's limit]")
_batch = click.option("--batch", type=int, default=1, show_default=True, help="Sequences at a time.")
_kv_format = click.option("--kv", "kv_format", type=_FORMAT, default="bf16", show_default=True, help="Cache format.")


def _default_seq_len(spec: llmhw.ModelSpec, seq_len: int | None) -> int:
    return min(4096, spec.max_seq_len or 4096) if seq_len is None else seq_len


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
    if not specs:
        raise llmhw.LLMHWError(f"pattern={pattern!r} matches no model; run `llmhw models` for all of them")
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
    if not found:
        raise llmhw.LLMHWError(f"pattern={pattern!r} matches no accelerator; run `llmhw gpus` for all of them")
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
    title = f"{table.model} on {table.device}, batch {table.batch}, {table.seq_len:,} tokens"
    _table(
        title, ("use", "needs", "offered", "fits", "longest"), table.text_rows(), right=("needs", "offered", "longest")
    )
    click.echo("Inference: weights and bf16 cache. Training: states, and activations under full recompute.")
    click.echo("`longest` is the longest sequence that fits at this batch, at most the model's limit.")


# A training job: what it runs on, how it is laid out, how it computes. Each is an argument of `llmhw.Cluster`,
# `llmhw.Parallelism` or `llmhw.TrainingJob`.
_JOB_OPTIONS = (
    click.option("--gpu", type=_GPU, required=True, help="Accelerator: see `llmhw gpus`."),
    click.option("--gpus", type=int, default=1, show_default=True, help="Devices in all."),
    click.option("--devices-per-node", type=int, help="Devices of the fast network.  [default: as the device has it]"),
    click.option("--tp", type=int, default=1, show_default=True, help="Tensor-parallel ranks."),
    click.option("--pp", type=int, default=1, show_default=True, help="Pipeline stages."),
    click.option("--vpp", type=int, default=1, show_default=True, help="Model chunks on each stage."),
    click.option("--cp", type=int, default=1, show_default=True, help="Context-parallel ranks."),
    click.option("--cp-kind", type=_Choices("cp_kind", _of_job("CP_KINDS")), default="ring", show_default=True),
    click.option("--ep", type=int, default=1, show_default=True, help="Expert-parallel ranks."),
    click.option("--expert-tp", type=int, default=1, show_default=True, help="Tensor-parallel ranks of an expert."),
    click.option("--expert-imbalance", type=float, default=1.0, show_default=True, help="Busiest expert rank / mean."),
    click.option("--zero", type=int, default=0, show_default=True, help="ZeRO stage; 3 is FSDP."),
    click.option("--replicas", type=int, default=1, show_default=True, help="Copies of a sharded model (HSDP)."),
    click.option("--sequence-parallel", is_flag=True, help="Split norms and residuals over the tp ranks too."),
    click.option("--schedule", default="1f1b", show_default=True, help="gpipe, 1f1b, interleaved or zero-bubble."),
    click.option("--uneven", is_flag=True, help="Embedding and head count as layers where stages share them out."),
    click.option("--offload", default="none", show_default=True, help="In host memory: none, optimizer or all."),
    click.option("--micro-batch", type=int, default=1, show_default=True, help="Sequences at a time on one rank."),
    click.option("--global-batch", type=int, default=0, help="Sequences of a step.  [default: micro-batch x dp]"),
    _seq_len,
    click.option("--recompute", default="none", show_default=True, help="none, selective, per-op, full or block."),
    click.option("--recompute-layers", type=int, default=0, help="Layers of each stage, with --recompute block."),
    click.option("--precision", type=click.Choice(list(PRECISIONS)), default="bf16-mixed", show_default=True),
    click.option(
        "--compute", type=_Choices("compute", _of_job("COMPUTE")), help="Format of matrix products.  [default: bf16]"
    ),
    click.option("--optimizer", type=click.Choice(list(OPTIMIZERS)), default="adamw", show_default=True),
    click.option("--frozen", is_flag=True, help="Only adapters are trained (LoRA)."),
    click.option("--attention", default="flash", show_default=True, help="flash or eager."),
    click.option("--kernels", default="torch", show_default=True, help="torch or megatron."),
)


def _job_options(command: F) -> F:
    """Add the options of a training job."""
    for option in reversed(_JOB_OPTIONS):
        command = option(command)
    return command


_ON_CLUSTER = ("gpu", "gpus", "devices_per_node")
_IN_LAYOUT = (
    *("tp", "pp", "vpp", "cp", "cp_kind", "ep", "expert_tp"),
    *("zero", "replicas", "sequence_parallel", "schedule", "uneven", "offload"),
)


def _job(model: str, options: dict[str, Any], network: llmhw.Link | None = None) -> llmhw.TrainingJob:
    """The job that `_JOB_OPTIONS` describe. The data-parallel size is what tp, pp and cp leave of the devices."""
    from llmhw.job import Parallelism, TrainingJob, data_parallel

    spec = llmhw.model(model)
    gpu, gpus, per_node = (options.pop(name) for name in _ON_CLUSTER)
    layout = {name: options.pop(name) for name in _IN_LAYOUT}
    ranks = data_parallel(devices=gpus, tp=layout["tp"], pp=layout["pp"], cp=layout["cp"])
    cluster = llmhw.Cluster(gpu, gpus, per_node, inter_link=network)
    options["seq_len"] = _default_seq_len(spec, options["seq_len"])
    options["compute"] = options["compute"] or ""
    return TrainingJob(model=spec, cluster=cluster, parallelism=Parallelism(dp=ranks, **layout), **options)


@cli.command()
@_model_argument
@_job_options
@_json_option
def memory(model: str, as_json: bool, **options: Any) -> None:
    """Memory of every pipeline stage of a training job, part by part.

    The data-parallel size is what tp, pp and cp leave of --gpus.
    """
    found = llmhw.training_memory(_job(model, options))
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


_PRICE_OPTIONS = (
    click.option("--price", type=float, help="Dollars per device-hour.  [default: the newest of the catalog]"),
    click.option("--provider", help="The newest price of this provider."),
    click.option("--region", help="The newest price in this region."),
    click.option("--spot", is_flag=True, help="Spot prices, not those on demand."),
)

_RUN_OPTIONS = (
    click.option("--tokens", type=_Count(), help="Of the run: 15e12, 15T, 300B.  [default: 20 a parameter]"),
    *_PRICE_OPTIONS,
    click.option("--mtbf", "mtbf_device_hours", type=float, help="Device-hours between failures; inf for none."),
    click.option("--restart", "restart_seconds", type=float, help="Seconds from a failure until training goes on."),
    click.option("--checkpoint-interval", "checkpoint_interval_seconds", type=float, help="Seconds between two."),
    click.option("--checkpoint-blocking", type=float, default=1.0, help="Share of a write that holds training up."),
    click.option("--storage", type=float, help="GB/s into storage, of all devices together."),
    click.option("--power-fraction", type=float, help="Share of the board power that is drawn."),
    click.option("--host-watts", type=float, help="Power of the host, for one device."),
    click.option("--pue", type=float, help="Energy of the building over that of the machines."),
)


_OF_RUN = (
    *("tokens", "price", "provider", "region", "mtbf_device_hours", "restart_seconds", "checkpoint_interval_seconds"),
    *("checkpoint_blocking", "power_fraction", "host_watts", "pue"),
)


def _run_options(command: F) -> F:
    """Add the options of a whole run: see `llmhw.cost.training_run`."""
    for option in reversed(_RUN_OPTIONS):
        command = option(command)
    return command


_network_option = click.option(
    "--network", metavar="NAME|GB/s", help="Between nodes, of each device.  [default: the best for rent]"
)
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
@_job_options
@_network_option
@click.option("--software", type=_Choices("software", _softwares), help="What runs it.  [default: by --kernels]")
@_calibration_option
@_run_options
@_json_option
@click.option("--csv", "as_csv", is_flag=True, help="One header line and one row, in base units.")
@_output_option
def train(
    model: str,
    network: str | None,
    software: str | None,
    calibration: str | None,
    spot: bool,
    storage: float | None,
    as_json: bool,
    as_csv: bool,
    output: str | None,
    **options: Any,
) -> None:
    """Time of a training step and of the whole run: speed, memory, days, dollars, energy.

    The data-parallel size is what tp, pp and cp leave of --gpus.
    """
    _check_form(as_json, as_csv, output)
    run = {name: options.pop(name) for name in _OF_RUN}
    job = _job(model, options, _network(network, options["gpu"]))
    if job.cluster.nodes > 1 and job.cluster.inter_link is None:
        raise llmhw.LLMHWError(
            f"network between nodes of {job.cluster.accelerator.name} is not known: no machine for rent says what it "
            "has; give --network, as in --network 'InfiniBand NDR 4x'"
        )
    found = llmhw.train(
        job,
        software=software,
        calibration=_constants(calibration),
        kind="spot" if spot else "on_demand",
        storage_bytes_per_second=None if storage is None else storage * 1e9,
        **run,
    )
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


# A serving job: what serves, in which formats, on what. Each is an argument of `llmhw.Cluster` or `llmhw.ServingJob`.
_SERVING_OPTIONS = (
    click.option("--gpu", type=_GPU, required=True, help="Accelerator: see `llmhw gpus`."),
    click.option("--gpus", type=int, default=1, show_default=True, help="Devices in all: one or more replicas."),
    click.option("--devices-per-node", type=int, help="Devices of the fast network.  [default: as the device has it]"),
    _network_option,
    click.option("--tp", type=int, default=1, show_default=True, help="Tensor-parallel ranks."),
    click.option("--pp", type=int, default=1, show_default=True, help="Pipeline stages."),
    click.option("--ep", type=int, default=1, show_default=True, help="Expert-parallel ranks."),
    click.option("--attention-dp", type=int, default=1, show_default=True, help="Groups of tp ranks, sharing experts."),
    click.option("--split", type=_Choices("split", _of_job("SPLITS")), default="tensor", show_default=True),
    click.option(
        "--all-reduce",
        type=_Choices("all_reduce", _of_job("ALL_REDUCES")),
        default="two-shot",
        show_default=True,
        help="How tp ranks add up.",
    ),
    click.option("--engine", type=_Choices("engine", _of_job("ENGINES")), default="vllm", show_default=True),
    click.option("--weights", type=_FORMAT, default="bf16", show_default=True, help="Weight format."),
    click.option("--kv", type=_FORMAT, default="bf16", show_default=True, help="Cache format."),
    click.option("--page-size", type=int, default=0, help="Tokens of a page of the cache.  [default: the engine's]"),
    click.option("--utilization", type=float, default=0.9, show_default=True, help="Share of the memory to take."),
    click.option("--max-sequences", type=int, default=256, show_default=True, help="That run at a time."),
    click.option("--max-batched-tokens", type=int, default=8192, show_default=True, help="Of one forward pass."),
    click.option("--max-model-len", type=int, default=0, help="Longest prompt and answer.  [default: the model's]"),
    click.option("--prefix-tokens", type=int, default=0, help="That all prompts begin with, cached once."),
    click.option("--lora-adapters", type=int, default=0, help="On the device beside the model."),
    click.option("--lora-rank", type=int, default=16, show_default=True, help="Of each adapter."),
)


def _serving_options(command: F) -> F:
    """Add the options of a serving job."""
    for option in reversed(_SERVING_OPTIONS):
        command = option(command)
    return command


def _price_options(command: F) -> F:
    """Add the options of a price."""
    for option in reversed(_PRICE_OPTIONS):
        command = option(command)
    return command


_OF_SERVING_JOB = (
    *("tp", "pp", "ep", "attention_dp", "split", "engine", "weights", "kv", "page_size", "utilization"),
    *("max_sequences", "max_batched_tokens", "max_model_len", "prefix_tokens", "lora_adapters", "lora_rank"),
    "all_reduce",
)


def _serving_job(model: str, options: dict[str, Any]) -> llmhw.ServingJob:
    """The job that `_SERVING_OPTIONS` describe, which are taken out of `options`."""
    gpu, gpus, per_node, network = (options.pop(name) for name in (*_ON_CLUSTER, "network"))
    given = {name: options.pop(name) for name in _OF_SERVING_JOB}
    cluster = llmhw.Cluster(gpu, gpus, per_node, inter_link=_network(network, gpu))
    return llmhw.ServingJob(model=llmhw.model(model), cluster=cluster, **given)


@cli.command()
@_model_argument
@_serving_options
@click.option("--input-tokens", type=int, default=1000, show_default=True, help="Of each prompt.")
@click.option("--output-tokens", type=int, default=500, show_default=True, help="Of each answer.")
@click.option("--concurrency", type=int, help="Requests at work at a time.  [default: all that fit]")
@click.option("--rate", type=float, help="Requests that arrive in a second, instead of --concurrency.")
@click.option("--slo-ttft", type=float, help="Most seconds until the first token.")
@click.option("--slo-tpot", type=float, help="Most seconds between two tokens.")
@click.option("--draft", type=_MODEL, metavar="NAME|config.json", help="A smaller model that proposes tokens.")
@click.option("--draft-tokens", type=int, default=4, show_default=True, help="Proposed before each pass.")
@click.option("--acceptance", type=float, default=0.7, show_default=True, help="Chance that a proposal is accepted.")
@_price_options
@_calibration_option
@_json_option
@click.option("--csv", "as_csv", is_flag=True, help="The curve: a header line and a row for each load, in base units.")
@_output_option
def serve(
    model: str,
    spot: bool,
    draft: str | None,
    calibration: str | None,
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

    _check_form(as_json, as_csv, output)
    job = _serving_job(model, options)
    guesser = None if draft is None else llmhw.model(draft)
    kind = "spot" if spot else "on_demand"
    found = estimate(job, draft=guesser, kind=kind, calibration=_constants(calibration), **options)
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
@_serving_options
@click.option(
    "--mode",
    type=_Choices("mode", _modes),
    default="continuous",
    show_default=True,
    help="How batches are formed.",
)
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
@click.option("--kind", type=_Choices("kind", _kinds), required=True, help="What the table holds.")
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
    for title, columns, rows in found.sections(worst=worst):
        _table(title, columns, rows, right=[column for column in columns if column not in words])
    if fitted:
        click.echo(f"The constants were fitted to these rows and written to {fitted}: other rows will fit worse.")


@cli.command()
@click.argument("pattern", default="")
@_json_option
def formats(pattern: str, as_json: bool) -> None:
    """List the number formats whose name contains PATTERN, with what a weight really costs."""
    found = [llmhw.number_format(name) for name in llmhw.number_formats() if pattern.lower() in name.lower()]
    if not found:
        raise llmhw.LLMHWError(f"pattern={pattern!r} matches no format; run `llmhw formats` for all of them")
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
