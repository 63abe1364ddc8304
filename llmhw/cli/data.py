"""Proof: predictions beside PyTorch and beside tables of measurements; and the shell's completion."""

from __future__ import annotations

import sys
from typing import Any

import click

from llmhw.cli.command import Command, common_options
from llmhw.cli.options import ENGINE, FORMATS, GPU, KIND, LENGTH, WHOLE, Choices, Option, model_argument, named, option
from llmhw.cli.output import Listing, Progress, Shown, say
from llmhw.formula import Report
from llmhw.units import LLMHWError

# -- measure ----------------------------------------------------------------------------------

_WHAT = ("params", "flops", "activations", "memory", "optimizer")


def _measure(options: dict[str, Any]) -> Report:
    from llmhw.measure import measure as take

    given = {name: value for name, value in options.items() if value is not None}
    return take(given.pop("what"), given.pop("model"), **given)


MEASURE = Command(
    "measure",
    _measure,
    [
        click.Argument(["what"], type=click.Choice(_WHAT)),
        model_argument(),
        Option(named("batch"), group=LENGTH, type=WHOLE, help="Sequences at a time; default: 1."),
        Option(named("seq_len"), group=LENGTH, type=WHOLE, help="Tokens of each sequence; default: 128."),
        option("--optimizer", group=FORMATS, help="adamw, sgd, sgd-momentum, adafactor or muon; default: adamw."),
        option("--precision", group=FORMATS, help="fp32, bf16, ...; default: as the measurement has it."),
        option("--recompute", group=ENGINE, help="none, selective or full; default: none."),
        option("--attention", group=ENGINE, help="flash or eager; default: flash."),
        option("--gpu", "device_memory", type=GPU, group="Devices", help="With memory: does it fit this accelerator?"),
    ],
    help="Take a quantity from PyTorch, beside the prediction. Needs the extra `torch`.\n\n"
    "Large models are measured without allocating them, on fake tensors.",
    examples=("llmhw measure params gpt2",),
    shown=Shown((("measured", "measured", "number"), ("predicted", "predicted", "number"), ("ratio", "ratio", "number"))),
    inputs=("model",),
)


# -- validate ---------------------------------------------------------------------------------


def _validate(options: dict[str, Any]) -> Report:
    from llmhw import validation

    file, kind, worst = options["file"], options["kind"], options["worst"]
    if options["columns"]:
        rows = validation.columns(kind)
        names = list(rows[0])
        cells = [[str(row[name]) for name in names] for row in rows]
        return Listing(f"columns of {kind}", names, cells, rows, right=len(names), prose=True)
    fitted, given = options["fitted"], options["calibration"]
    if fitted and given:
        raise LLMHWError("--fit and --calibration both give the constants; leave one out")
    with Progress("rows") as step:
        constants = None
        if fitted:
            constants = validation.write_constants(
                fitted, lambda: validation.calibration(file, kind, progress=step), inputs=[file] if file else []
            )
        elif given:
            constants = validation.read_constants(given)
        found = validation.validate(file, kind, calibration=constants, progress=step)
    return found.listing(worst=worst, fitted=fitted)


def _template(context: click.Context, _: click.Parameter, value: bool) -> None:
    """Print a table to fill in."""
    if value:
        from llmhw.validation import template

        say(template(context.params["kind"]))
        context.exit()


VALIDATE = Command(
    "validate",
    _validate,
    [
        click.Argument(["file"], required=False, metavar="[FILE.csv]"),
        option("--kind", group="Question", many=False, type=KIND, required=True, is_eager=True, help="What it holds."),
        option(
            "--template",
            group="Question",
            is_flag=True,
            expose_value=False,
            callback=_template,
            help="Print the columns of a table of that kind, with an example, to fill in.",
        ),
        option("--columns", group="Question", is_flag=True, help="What each column of that kind means."),
        option("--worst", group="Question", many=False, type=WHOLE, usual=10, help="Largest errors to list."),
        option("--fit", "fitted", group=ENGINE, many=False, metavar="FILE.json", help="Fit the constants, and write them."),
        option(
            "--calibration", group=ENGINE, many=False, metavar="FILE.json", help="Use the constants that --fit wrote."
        ),
    ],
    help="Compare predictions with a table of published measurements, or with your own.\n\n"
    "Without FILE.csv, the catalog's own table. Rows that measure one configuration again have one vote; every row is "
    "predicted or skipped with a reason. --fit calibrates the constants to your cluster, for `train` and `serve`.",
    examples=("llmhw validate --kind facts --worst 3", "llmhw validate --kind training-throughput --columns"),
    inputs=("file", "calibration"),
    draw=lambda plot, found: plot.validation(found),
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
            "COMPREPLY+=($value)", 'COMPREPLY+=("$(printf %q "$value")")'
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
