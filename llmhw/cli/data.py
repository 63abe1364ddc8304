"""Proof: predictions beside PyTorch and beside tables of measurements; and the shell's completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from llmhw.cli.command import Command, common_options
from llmhw.cli.options import ENGINE, FORMATS, GPU, KIND, LENGTH, WHOLE, Option, model_argument, named, option
from llmhw.cli.output import Listing, Shown
from llmhw.cli.terminal import Progress, say
from llmhw.formula import Report, Table
from llmhw.units import LLMHWError, check_count

# -- measure ----------------------------------------------------------------------------------

_WHAT = ("params", "flops", "activations", "memory", "optimizer", "step", "device")


def _measure(options: dict[str, Any]) -> Report:
    from llmhw.measure import measure as take

    given = {name: value for name, value in options.items() if value not in (None, False)}
    what, fitted = given.pop("what"), given.pop("fitted", None)
    if what == "device":
        return _device(given, fitted)
    if fitted:
        raise LLMHWError("--fit writes what `llmhw measure device` found; leave it out")
    if "model" not in given:
        raise LLMHWError(f"the model is missing, as in: llmhw measure {what} gpt2")
    if what == "step" and "device_memory" in given:
        given["machine"] = given.pop("device_memory")
    with Progress("steps") as step:
        more = {"progress": step} if what == "step" else {}
        found: Report = take(what, given.pop("model"), **given, **more)
    return found


class _StoppedError(Exception):
    """A measurement that Ctrl-C ended: nothing of it is written."""


def _device(given: dict[str, Any], fitted: str | None) -> Report:
    """This machine, measured; and its file."""
    from json import dumps

    from llmhw.files import write_whole
    from llmhw.measure import DeviceMeasurement, measure_device

    known = ("device", "threads", "ranks", "toy")
    for name in given:
        if name not in known:
            raise LLMHWError(f"{name}={given[name]!r} has no effect on `measure device`; it takes {', '.join(known)}")
    made: list[DeviceMeasurement] = []

    def text() -> str:
        with Progress("figures") as step:
            made.append(measure_device(**given, progress=step))
        if made[0].note:
            raise _StoppedError
        return dumps(made[0].to_dict(), indent=1, ensure_ascii=False) + "\n"

    try:
        if fitted:
            write_whole(fitted, text)
        else:
            text()
    except _StoppedError:
        pass
    return made[0]


def _records(answer: Any) -> list[dict[str, Any]]:
    """A row for each rate or step; of another quantity the whole."""
    several = getattr(answer, "rates", None) or getattr(answer, "steps", None)
    return list(answer.records()) if several else [answer.to_row()]


MEASURE = Command(
    "measure",
    _measure,
    [
        click.Argument(["what"], type=click.Choice(_WHAT)),
        model_argument(required=False),
        Option(named("batch"), group=LENGTH, type=WHOLE, help="Sequences at a time; default: 1."),
        Option(named("seq_len"), group=LENGTH, type=WHOLE, help="Tokens of each sequence; default: 128."),
        option("--optimizer", group=FORMATS, help="adamw, sgd, sgd-momentum, adafactor or muon; default: adamw."),
        option("--precision", group=FORMATS, help="fp32, bf16, ...; default: as the measurement has it."),
        option("--recompute", group=ENGINE, help="none, selective or full; default: none."),
        option("--attention", group=ENGINE, help="flash or eager; default: flash where transformers has it."),
        option(
            "--gpu",
            "device_memory",
            type=GPU,
            group="Devices",
            help="With memory: does it fit this accelerator? With step: whose file predicts it.",
        ),
        option(
            "--device",
            group="Devices",
            type=click.Choice(["auto", "cpu", "cuda"]),
            help="With device and step: where; default: auto.",
        ),
        option("--threads", group="Devices", type=WHOLE, help="With device and step: PyTorch's on a CPU; 1: CPU time."),
        option("--ranks", group="Devices", type=WHOLE, help="With device: collectives between so many processes, too."),
        option("--toy", group="Devices", is_flag=True, help="With device and step: tiny sizes, to see that it runs."),
        option(
            "--kind",
            group=ENGINE,
            type=click.Choice(["training", "prefill", "decode"]),
            help="With step: of which kind; default: all three.",
        ),
        option(
            "--fit",
            "fitted",
            group=ENGINE,
            metavar="FILE.json",
            help="With device: write what it found, for --gpu FILE.json of every command.",
        ),
    ],
    help="Take a quantity from PyTorch, beside the prediction. Needs the extra `torch`.\n\n"
    "Large models are measured without allocating them, on fake tensors. `device` measures this machine: products, "
    "memory, attention, latency, messages; --fit writes a file that every command takes as --gpu FILE.json. `step` "
    "runs a model's steps beside what that file predicts.",
    examples=("llmhw measure params gpt2", "llmhw measure device --toy --device cpu --threads 1"),
    shown=Shown(
        (("measured", "measured", "number"), ("predicted", "predicted", "number"), ("ratio", "ratio", "number")),
        rows=_records,
    ),
    interrupted=lambda answer: getattr(answer, "note", ""),
    keeps=True,
)


# -- validate ---------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Validated(Report):
    """The errors of a table, with its worst rows, and where the constants went that were fitted to it."""

    found: Any
    worst: int
    fitted: str | None

    @property
    def verdict(self) -> str:
        return str(self.found.verdict)

    def tables(self) -> list[Table]:
        words = ("source", "reason", "ids")
        return [
            t._replace(
                right=next((i for i, c in enumerate(t.columns) if c not in words), 0), prose=t.columns[-1] in words
            )
            for t in self.found.sections(worst=self.worst)
        ]

    def warnings(self) -> list[str]:
        fitted = f"the constants were fitted to these rows and written to {self.fitted}: other rows will fit worse"
        return [*self.found.warnings(), *([fitted] if self.fitted else [])]

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = self.found.to_dict(worst=self.worst)
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Each source's errors, and all."""
        return [{"kind": self.found.kind, **row} for row in self.found.records()]


def _validate(options: dict[str, Any]) -> Report:
    from llmhw import validation

    file, kind, worst = options["file"], options["kind"], check_count("worst", options["worst"], 0)
    if options["columns"]:
        table = validation.columns(kind)
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        return Listing(table.title, table.columns, table.rows, rows, right=table.right)
    fitted, given = options["fitted"], options["calibration"]
    if fitted and given:
        raise LLMHWError("--fit and --calibration both give the constants; leave one out")
    with Progress("rows") as step:
        constants = None
        if fitted:
            constants = validation.write_constants(
                fitted, lambda: validation.calibration(file, kind, progress=step), inputs=validation.input_files(file)
            )
        elif given:
            constants = validation.read_constants(given)
        found = validation.validate(file, kind, calibration=constants, progress=step)
    return Validated(found, worst, fitted)


def _draw(plot: Any, answer: Report) -> Any:
    if not isinstance(answer, Validated):
        raise LLMHWError("--plot draws errors, and --columns has none; leave one out")
    return plot.validate(answer.found)


def _template(context: click.Context, _: click.Parameter, value: str | None) -> None:
    """Print a table to fill in: of the kind behind --template, else of --kind, which may be read later."""
    kind = value or context.params.get("kind")
    if value is not None and kind is None:
        context.meta["template"] = True
    elif value is not None:
        from llmhw.validation import template

        say(template(str(kind)))
        context.exit()


def _kind(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if context.meta.get("template"):
        _template(context, parameter, value)
    return value


VALIDATE = Command(
    "validate",
    _validate,
    [
        click.Argument(["file"], required=False, metavar="[FILE.csv]"),
        option(
            "--kind",
            group="Question",
            many=False,
            type=KIND,
            required=True,
            is_eager=True,
            callback=_kind,
            help="What it holds.",
        ),
        option(
            "--template",
            group="Question",
            is_flag=False,
            flag_value="",
            is_eager=True,
            expose_value=False,
            metavar="[KIND]",
            callback=_template,
            help="Print the columns of a table of that kind, with an example, to fill in.",
        ),
        option("--columns", group="Question", is_flag=True, help="What each column of that kind means."),
        option("--worst", group="Question", many=False, type=WHOLE, usual=10, help="Largest errors to list."),
        option(
            "--fit", "fitted", group=ENGINE, many=False, metavar="FILE.json", help="Fit the constants, and write them."
        ),
        option(
            "--calibration", group=ENGINE, many=False, metavar="FILE.json", help="Use the constants that --fit wrote."
        ),
    ],
    help="Compare predictions with a table of published measurements, or with your own.\n\n"
    "Without FILE.csv, the catalog's own table. Rows that measure one configuration again have one vote; every row is "
    "predicted or skipped with a reason. --fit calibrates the constants to your cluster, for `train` and `serve`.",
    examples=("llmhw validate --kind facts --worst 3", "llmhw validate --kind training-throughput --columns"),
    draw=_draw,
    shown=Shown(rows=lambda answer: answer.rows() if isinstance(answer, Validated) else answer.plain_rows),
    code=lambda answer: 0 if not isinstance(answer, Validated) or answer.found.predicted else 1,
    interrupted=lambda answer: answer.found.note if isinstance(answer, Validated) else "",
)


# -- completion -------------------------------------------------------------------------------


def _completion(shell: str) -> None:
    from click.shell_completion import get_completion_class

    from llmhw.cli import cli

    register_shells()
    found = get_completion_class(shell)
    assert found is not None
    say(found(cli, {}, "llmhw", "_LLMHW_COMPLETE").source())


def register_shells() -> None:
    """Bash puts names with spaces in as they are; this has them quoted, as zsh and fish do by themselves."""
    from click.shell_completion import BashComplete, add_completion_class

    class Quoting(BashComplete):
        name = "bash"
        source_template = BashComplete.source_template.replace(
            "COMPREPLY+=($value)", 'COMPREPLY+=("$(printf %%q "$value")")'
        )

    add_completion_class(Quoting)


COMPLETION = click.Command(
    "completion",
    callback=_completion,
    params=[click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"])), *common_options()],
    help="Print the shell code that completes commands, models and devices.\n\n\b\n"
    "bash: llmhw completion bash > ~/.local/share/bash-completion/completions/llmhw\n"
    'zsh:  llmhw completion zsh > "${fpath[1]}/_llmhw"\n'
    "fish: llmhw completion fish > ~/.config/fish/completions/llmhw.fish",
)

COMMANDS: dict[str, click.Command] = {c.name: c for c in (MEASURE, VALIDATE, COMPLETION) if c.name}
