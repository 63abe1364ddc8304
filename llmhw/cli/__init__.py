"""The `llmhw` command: formats answers, computes nothing. Needs click (extra `cli`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

try:
    import click
except ImportError:  # one line, not a traceback: the package itself works without it
    sys.exit("llmhw: the command needs click; install it with: pip install 'llmhw[cli]'")

from llmhw import LLMHWError, __version__
from llmhw.cli.terminal import LANG, OutputError, language, no_color, say
from llmhw.language import in_language, of_locale

ISSUES = "https://github.com/llmhw/llmhw/issues"

# Command -> the module that has it, its group in the help, and what it answers.
# One of two words stands behind its first, as in "llmhw plan train".
COMMANDS = {
    "plan train": ("plans", "Questions", "What to rent or buy to train a model, how it lies there, what it costs."),
    "plan finetune": (
        "plans",
        "Questions",
        "The same to fine-tune one: all weights, LoRA or QLoRA; answers, DPO, GRPO.",
    ),
    "plan serve": ("plans", "Questions", "What to rent or buy to serve one: users, service level, formats, layout."),
    "which": ("choices", "Questions", "The cheapest card for a model; the models that run on a machine; mixed cards."),
    "compare": ("choices", "Questions", "Devices side by side for a model; of a start-up log, what `llmhw log` says."),
    "cost": ("money", "Questions", "Rent or buy: what devices cost to own, what their rent is, when one has paid."),
    "fit": ("jobs", "Questions", "What fits on a device: inference by format, training, LoRA, QLoRA."),
    "memory": ("jobs", "Questions", "Memory of every pipeline stage of a training job, part by part."),
    "train": ("jobs", "Questions", "Time of a step and of a run: speed, memory, days, dollars, energy."),
    "serve": ("jobs", "Questions", "What fits, first token, tokens/s of a user and of all, dollars a million."),
    "simulate": ("jobs", "Questions", "Requests played through an engine: queues, batches, percentiles."),
    "sweep": ("sweeps", "Questions", "One question of many models on many devices, into a table or a file."),
    "model": ("catalog", "Facts", "Parameters, weights, KV cache and FLOPs of one model."),
    "models": ("catalog", "Facts", "The models of the catalog."),
    "gpus": ("catalog", "Facts", "Accelerators: memory, bandwidth, dense peaks."),
    "links": ("catalog", "Facts", "Links and networks."),
    "formats": ("catalog", "Facts", "Number formats, with what a weight really costs."),
    "trainers": ("catalog", "Facts", "Training software: what it overlaps, fuses and keeps."),
    "prices": ("money", "Facts", "What a device costs to rent or to buy, by provider, region and date."),
    "explain": ("catalog", "Proof", "The formula behind a number, with the numbers put in."),
    "measure": ("data", "Proof", "A quantity from PyTorch, beside the prediction."),
    "validate": ("data", "Proof", "Predictions beside a table of measurements, yours or published ones."),
    "log": ("jobs", "Proof", "Your log of vLLM, SGLang or llama.cpp, beside the prediction."),
    "schema": ("agents", "For programs", "The JSON Schema of what a command prints with --json."),
    "mcp": ("agents", "For programs", "Questions and facts as tools of the Model Context Protocol."),
    "completion": ("data", "Proof", "Shell code that completes commands, models and devices."),
}

_WELCOME = """\
What do you want to know?

  What should I rent, and what do I type?
                      llmhw plan serve llama-3-70b
  Which card is the cheapest that does?
                      llmhw which qwen3-32b --budget 2500
  Does it fit?        llmhw fit llama-3-8b --gpu "RTX 4090"
  How fast is it?     llmhw serve llama-3-70b --gpu h100 --gpus 8
  What does a training run take?
                      llmhw train llama-3-8b --gpu h100 --gpus 8 --zero 3 --recompute full

`llmhw --help` lists all commands, `llmhw models` and `llmhw gpus` the names.
"""


class Commands(click.Group):
    """The commands, or those that begin with one word; each is loaded when it is asked for.

    word   the first word of them all, and a blank; "": all commands
    """

    word = ""

    @property
    def names(self) -> dict[str, str]:
        """What stands here, and its name among all commands; what has more words than one is a group of its own."""
        here = [name for name in COMMANDS if name.startswith(self.word)]
        return {name[len(self.word) :].split()[0]: name for name in reversed(here)}

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.names)[::-1]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        whole = self.names.get(name, name)
        if whole not in COMMANDS:
            return None
        if whole not in (name, self.word + name):
            return _group_of(name)
        from importlib import import_module

        found: click.Command = import_module(f"llmhw.cli.{COMMANDS[whole][0]}").COMMANDS[whole]
        return found

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(context, args)
        except click.NoSuchOption as error:
            flag = error.option_name
            where = f"llmhw {self.word}--help"
            raise click.UsageError(f"{flag} is no option here; options stand behind a command: {where}") from None

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.names:
            from llmhw.units import nearest

            close, known = nearest(args[0], self.names), self.list_commands(context)
            hint = f"did you mean {', '.join(close)}?" if close else f"use one of {', '.join(known)}"
            raise click.UsageError(f"{self.word + args[0]!r} is no command; {hint}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        here = {name: found for name, found in COMMANDS.items() if name.startswith(self.word)}
        for group in dict.fromkeys(group for _, group, _ in here.values()):
            with formatter.section(group):
                formatter.write_dl([(name, text) for name, (_, of, text) in here.items() if of == group])


_GROUPS = {"plan": "What to rent or buy for a job, how it lies there, and what it costs."}


def _group_of(word: str) -> Commands:
    """The commands whose first word this is."""

    def alone() -> None:
        context = click.get_current_context()
        if context.invoked_subcommand is None:
            say(f"{context.get_help()}\n")

    settings: dict[str, Any] = {"invoke_without_command": True, "callback": alone}
    found = Commands(word, help=_GROUPS.get(word), params=_options(), **settings)
    found.word = f"{word} "
    return found


def _options() -> list[click.Parameter]:
    """Those of the command without a command; they may stand behind one too."""
    silent: dict[str, Any] = {"is_flag": True, "expose_value": False}
    return [
        click.Option(["--no-color"], help="No colours; NO_COLOR does the same.", callback=no_color, **silent),
        click.Option(["--debug"], help="Where something breaks inside, the traceback.", **silent),
        click.Option(["--lang"], metavar="en|zh", help=LANG, callback=language, expose_value=False),
    ]


def _group() -> Commands:
    group = Commands(
        "llmhw",
        help="Which hardware a language model needs, what it will do there, and what it will cost.\n\n"
        "MODEL is a model of the catalog (`llmhw models`), an id of the Hugging Face Hub whose files are in the local "
        "cache (--hub downloads them), the path of a folder, a config.json, params.json or GGUF file, or of arguments "
        "of Megatron-LM; - is standard input.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        invoke_without_command=True,
        callback=_welcome,
        params=_options(),
    )
    return click.version_option(__version__, "-V", "--version", prog_name="llmhw")(group)


def _welcome() -> None:
    if click.get_current_context().invoked_subcommand is None:
        say(_WELCOME)


cli = _group()


def _complete() -> int | None:
    """What the shell asks for, where it does."""
    instruction = os.environ.get("_LLMHW_COMPLETE")
    if not instruction:
        return None
    from click.shell_completion import shell_complete

    from llmhw.cli.data import register_shells

    register_shells()
    return shell_complete(cli, {}, "llmhw", "_LLMHW_COMPLETE", instruction)


def _line(error: BaseException) -> str:
    """An error of the command's arguments as one line."""
    return " ".join((error.format_message() if isinstance(error, click.ClickException) else str(error)).split())


def invoke(args: Sequence[str]) -> Any:
    """Run the command with these arguments; everything that ends it early is raised."""
    with cli.make_context("llmhw", list(args)) as context:
        return cli.invoke(context)


def _run(args: list[str]) -> int:
    if sys.stdout is None:
        raise OutputError("it is closed")
    code = _complete()
    with in_language(of_locale(os.environ)):
        code = invoke(args) if code is None else code
    sys.stdout.flush()
    return code if isinstance(code, int) else 0


def _end(error: BaseException, args: list[str]) -> int:
    """The exit code of what ended the command early, after one line that says what it was."""
    if isinstance(error, BrokenPipeError):  # `llmhw models | head` is fine
        _nowhere()
        return 0
    if isinstance(error, (LLMHWError, click.ClickException)):
        told, code = _line(error), 2
    elif isinstance(error, (click.Abort, KeyboardInterrupt)):
        told, code = f"interrupted {error}".strip(), 130
    elif isinstance(error, OSError) and error.filename is None:
        _nowhere()
        told, code = f"the output cannot be written: {error.strerror or error}", 1
    else:
        from shlex import join

        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        told, code = (
            (
                f"this is a mistake of llmhw ({what}); please report it at {ISSUES} with the command: "
                f"{join(['llmhw', *args])[:500]} (--debug shows where it broke)"
            ),
            70,
        )
    told = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in told)  # of what was typed, nothing acts
    say(f"llmhw: {told}\n", err=True)
    return code


def _nowhere() -> None:
    """Let what is still buffered go nowhere when Python ends: the reader has left."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main() -> None:
    """Run the command; a wrong argument is one line on stderr and exit code 2."""
    args = sys.argv[1:]
    try:
        code = _run(args)
    except click.exceptions.Exit as done:
        code = done.exit_code
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in args and not isinstance(error, (LLMHWError, click.ClickException, click.Abort)):
            raise
        code = _end(error, args)
    sys.exit(code)
