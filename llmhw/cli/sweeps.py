"""Sweeps: one question of many models on many devices, into a table or a file."""

from __future__ import annotations

from typing import Any

import click

from llmhw.cli.command import Command
from llmhw.cli.options import GPU, MODEL, MONEY, WHOLE, Choices, PriceFile, named, option
from llmhw.cli.output import Shown
from llmhw.cli.terminal import Progress, say
from llmhw.formula import Report
from llmhw.sweep import QUESTIONS, Swept, sweep
from llmhw.units import LLMHWError, shown

_FILES = (".csv", ".parquet")
_WHOSE = ("price", "provider", "kind", "prices")


def _value(text: str) -> Any:
    """A number, yes or no, or a name."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.casefold(), text)


def _set(context: click.Context, _: click.Parameter, given: tuple[str, ...]) -> dict[str, list[Any]]:
    """Names with their values: a part without a name is one more value of the name before."""
    found: dict[str, list[Any]] = {}
    name = ""
    for text in given:
        before, equals, value = text.rpartition("=")
        if equals:
            name = before.strip().replace("-", "_")
            if name in found:
                raise LLMHWError(f"set={shown(text)} gives {name} a second time; give all its values at once")
            found[name] = []
        if not (name.isidentifier() and value.strip()):
            raise LLMHWError(f"set={shown(text)} must be an option and its values, as in --set weights=bf16,fp8")
        found[name].append(_value(value.strip()))
    return found


def _ask(options: dict[str, Any], output: str | None = None) -> Swept:
    asked = dict(options["set"])
    for name in _WHOSE:
        if options[name]:
            if name in asked:
                raise LLMHWError(f"{name}={shown(options[name][0])} is given in set too; leave one out")
            asked[name] = [_value(one) if name == "price" else one for one in options[name]]
    if "gpus" in asked or "gpu" in asked:
        raise LLMHWError("set takes options of the question; devices and their number are --gpu and --gpus")
    if options["resume"] and output is None:
        raise LLMHWError("resume=True goes on with a file; add --output FILE.csv or FILE.parquet")
    counts = options["gpus"] or (() if options["question"].startswith("plan-") else (1,))
    if counts:
        asked = {"gpus": counts, **asked}
    with Progress("pairs") as step:
        return sweep(
            options["question"],
            "all" if options["models"] == ("all",) else options["models"],
            options["gpu"],
            workers=options["workers"],
            output=output,
            resume=options["resume"],
            progress=step,
            **asked,
        )


class _Sweep(Command):
    """Rows that go to a .csv or .parquet file lie there as they come."""

    def _run(self, **options: Any) -> None:
        file = options["output"]
        if file is None or not file.lower().endswith(_FILES) or options["as_json"]:
            return super()._run(**options)
        self._expand(options)
        found = _ask(options, file)
        say("".join(f"{line}\n" for line in (found.verdict, *(() if options["quiet"] else found.warnings()))))
        if not found.complete:
            say(f"llmhw: {_interrupted(found)}\n", err=True)
        click.get_current_context().exit(0 if found.complete else 130)


def _interrupted(found: Report) -> str:
    assert isinstance(found, Swept)
    if found.complete:
        return ""
    told = f"interrupted after {found.pairs:,} of {found.total:,} pairs"
    return f"{told}, which are in {found.path}; --resume goes on with it" if found.path else told


SWEEP = _Sweep(
    "sweep",
    _ask,
    [
        click.Argument(["question"], type=Choices("question", lambda: tuple(QUESTIONS)), metavar="QUESTION"),
        option(
            "--models",
            group="Question",
            type=MODEL,
            listed=True,
            required=True,
            metavar="MODEL,...|all",
            help="Models, separated by commas, or `all` of the catalog.",
        ),
        option("-g", "--gpu", group="Devices", type=GPU, listed=True, required=True, help="Devices, or `all`."),
        option(*named("gpus"), group="Devices", type=WHOLE, listed=True, help="Numbers of devices.  [1; plans: tried]"),
        option("--price", group=MONEY, type=click.STRING, listed=True, help="$ an hour, or `all`: of each machine."),
        option("--provider", group=MONEY, listed=True, metavar="NAME,...", help="Only their prices, each by itself."),
        option("--kind", group=MONEY, listed=True, metavar="NAME,...", help="Of prices: on_demand, spot, reserved."),
        option("--prices", group=MONEY, type=PriceFile(), listed=True, help="Files with prices of your own."),
        option(
            "--set",
            group="Question",
            type=click.STRING,
            listed=True,
            metavar="NAME=VALUE,...",
            callback=_set,
            help="An option of the question, as the library calls it, with all values to try. May be given many times.",
        ),
        option("--workers", group="Answer", type=WHOLE, many=False, default=1, help="Processes that compute.  [1]"),
        option("--resume", group="Answer", is_flag=True, help="Go on with what an interrupted sweep has left."),
    ],
    help="One question of many models on many devices: a row for each pair, and its reason where it is refused.\n\n"
    "QUESTION is fit, room (an engine's memory alone), serve, memory, train, or a plan: the best on each device. "
    "With --output FILE.csv or FILE.parquet rows lie in "
    "FILE.part.csv as they come: Ctrl-C leaves them there, and --resume goes on.",
    shown=Shown(rows=lambda found: found.records()),
    examples=(
        "llmhw sweep room --models llama-3-8b,qwen3-8b --gpu h100,a10 --gpus 1,2",
        "llmhw sweep serve --models llama-3-8b --gpu h100,h200 --set weights=bf16,fp8 --set concurrency=64",
        "llmhw sweep plan-serve --models llama-3-8b,qwen3-8b --gpu h100,l4 --kind on_demand,spot",
    ),
    interrupted=_interrupted,
)

COMMANDS = {SWEEP.name: SWEEP}
