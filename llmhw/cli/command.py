"""What all commands share: help in groups, hints for what is not known, one answer or many, every form of output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import combinations as pairs
from typing import Any, TypeVar

import click

from llmhw.cli import output as out
from llmhw.cli.options import (
    ANSWER,
    DEVICE_FACTS,
    GROUPS,
    MONEY,
    Model,
    Option,
    combinations,
    currency_option,
    hub_option,
    meant,
    option,
)
from llmhw.cli.terminal import LANG, Progress, folded, language, no_color, say, width
from llmhw.formula import Report
from llmhw.language import in_language
from llmhw.units import LLMHWError

T = TypeVar("T")

# More is a mistake, or a question for `llmhw.search`.
MOST_COMBINATIONS = 10_000


def answer_options(*, explain: bool, plot: bool, timeline: Sequence[str] = ()) -> list[click.Parameter]:
    """How an answer is given.

    timeline   flags of the option that draws one
    """
    settings: dict[str, Any] = {"group": ANSWER, "many": False}
    found = [
        option(
            "-j", "--json", "as_json", is_flag=True, help="Plain numbers in base units, under stable keys.", **settings
        ),
        option("--csv", "as_csv", is_flag=True, help="Rows in base units, with what identifies them.", **settings),
        Option(
            ["-o", "--output", "output"],
            metavar="FILE",
            help="Write a file, whole or not at all; its ending says the form: .json .csv .xlsx .md .html .txt.",
            **settings,
        ),
        option("-q", "--quiet", "quiet", is_flag=True, help="The verdict alone.", **settings),
    ]
    if explain:
        text = "A part or figure of the answer with its formulas and numbers; any name that is printed."
        found.append(option("-e", "--explain", "part", metavar="NAME", help=text, **settings))
    if plot:
        text = "Draw it into a file: .svg, .png or .pdf. Needs the extra `plot`."
        found.append(option("--plot", "plot", metavar="FILE", help=text, **settings))
    if timeline:
        text = "What happens when, as a Chrome trace, which Perfetto opens."
        found.append(option(*timeline, "timeline", metavar="FILE.json", help=text, **settings))
    return [*found, *common_options()]


# Options that say how an answer is given, and not what is asked.
HOW = ("as_json", "as_csv", "output", "quiet", "part", "plot", "timeline", "curve", "emit")


def common_options() -> list[click.Parameter]:
    """What every command takes, and the command without one."""
    silent: dict[str, Any] = {"group": ANSWER, "many": False, "expose_value": False}
    return [
        option("--no-color", is_flag=True, help="No colours; NO_COLOR does the same.", callback=no_color, **silent),
        option("--debug", is_flag=True, help="Where something breaks inside, the traceback.", **silent),
        Option(["--lang"], metavar="en|zh", help=LANG, callback=language, is_eager=True, **silent),
    ]


class Command(click.Command):
    """A command of `llmhw`.

    ask        from single options to an answer
    shown      how many answers stand side by side
    examples   lines of the help that run as they are
    draw       from a module with functions that draw, and an answer, to a figure
    timed      from `llmhw.timeline` and an answer to a timeline
    emits      from an answer and the form of a program to the file that starts it
    code       the exit code of an answer
    curve      the rows that --curve asks for
    interrupted   what to say of an answer that Ctrl-C ended early; "" otherwise. It is printed
    keeps      whether such an answer is written to a file, too
    """

    def __init__(
        self,
        name: str,
        ask: Callable[..., Report],
        params: Sequence[click.Parameter],
        *,
        shown: out.Shown | None = None,
        examples: Iterable[str] = (),
        explain: bool = False,
        draw: Callable[[Any, Any], Any] | None = None,
        timed: Callable[[Any, Any], Any] | None = None,
        emits: Callable[[Any, str], str] | None = None,
        code: Callable[[Any], int] = lambda answer: 0,
        curve: Callable[[Any], Any] | None = None,
        interrupted: Callable[[Any], str] = lambda answer: "",
        keeps: bool = False,
        help: str = "",
    ) -> None:
        hub = [hub_option()] if any(isinstance(param, Model) for param in params) else []
        money = [currency_option()] if any(getattr(param, "group", "") == MONEY for param in params) else []
        # a command that reads recorded requests has --trace for them
        taken = any("--trace" in param.opts for param in params)
        flags = () if timed is None else ("--timeline",) if taken else ("--timeline", "--trace")
        every = [*params, *money, *hub, *answer_options(explain=explain, plot=draw is not None, timeline=flags)]
        super().__init__(name, params=every, help=help, callback=self._run)
        self.ask, self.shown, self.examples, self.draw = ask, shown or out.Shown(), list(examples), draw
        self.timed, self.emits = timed, emits
        self.exit_code, self.curve, self.interrupted, self.keeps = code, curve, interrupted, keeps

    # help

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(context):
            if isinstance(param, click.Option) and (record := param.get_help_record(context)):
                groups.setdefault(getattr(param, "group", ANSWER), []).append(record)
        for name in sorted(groups, key=lambda name: GROUPS.index(name) if name in GROUPS else 0):
            with formatter.section(name):
                formatter.write_dl(groups[name])
        if any(getattr(param, "many", False) for param in self.params):
            formatter.write_paragraph()
            formatter.write_text(
                "In brackets: the default. Most options take many values, as in --tp 2,4,8: one table, a row for each "
                "combination."
            )

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")

    # arguments

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        if {"--spot", "--reserved"} <= set(given):
            raise click.UsageError("--spot and --reserved are two kinds of price; leave one out", context)
        try:
            rest = super().parse_args(context, args)
            self._check_device(context)
            return rest
        except LLMHWError as error:
            raise LLMHWError(out.in_flags(str(error), out.flags_of(self))) from None
        except click.NoSuchOption as error:
            known = [flag for param in self.params for flag in (*param.opts, *param.secondary_opts) if flag[:2] == "--"]
            flag = error.option_name
            raise click.UsageError(f"{flag} is no option of {self.name}; {meant(flag, known)}", context) from None
        except click.MissingParameter as error:
            raise click.UsageError(f"{_missing(error.param)}: {self.examples[0]}", context) from None
        except click.UsageError as error:
            raise click.UsageError(_quoting(given, error.format_message()), context) from None

    def _check_device(self, context: click.Context) -> None:
        """A device has a name, or all its facts are given."""
        given = context.params
        if context.resilient_parsing or "log" in given:  # a shell asks what could stand there; a log may name it
            return
        if "path_or_text" in given and not given["path_or_text"] and not given["model"]:
            raise click.MissingParameter(ctx=context, param=next(p for p in self.params if p.name == "model"))
        if "gpu_memory" in given and not given["gpu"] and not any(given[name] for name in DEVICE_FACTS):
            raise click.MissingParameter(ctx=context, param=next(p for p in self.params if p.name == "gpu"))

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except LLMHWError as error:
            raise LLMHWError(out.in_flags(str(error), out.flags_of(self))) from None

    # answers

    def found(self, args: Sequence[str], give: Callable[[Report], T]) -> T:
        """What `give` makes of the answer to these arguments, for programs: options of printing and files do nothing.

        Raises `LLMHWError` or `click.UsageError`.
        """
        with in_language("en"), self.make_context(f"llmhw {self.name}", list(args)) as context:
            options = {name: value for name, value in context.params.items() if name not in HOW}
            varied, flags = self._expand(options), out.flags_of(self)
            try:
                return give(self._answer(options, varied, flags))
            except LLMHWError as error:
                raise LLMHWError(out.in_flags(str(error), flags)) from None

    def _run(self, **options: Any) -> None:
        form, emit = self._form(options), options.pop("emit", None)
        file, quiet = options.pop("output"), options.pop("quiet")
        part, drawn = options.pop("part", None), {name: options.pop(name, None) for name in ("plot", "timeline")}
        click.get_current_context().meta["timeline"] = drawn["timeline"] is not None
        shown = self._shown(form, quiet, options.pop("curve", False))
        flags, varied = out.flags_of(self), self._expand(options)
        own = [f"--{name}" for name, path in drawn.items() if path is not None] + ["--explain"] * (part is not None)
        own += ["--emit"] * (emit is not None)
        if varied and (own or not shown.columns):
            raise LLMHWError(
                f"{own[0] if own else self.name} is for one answer; give one value of "
                + ", ".join(max(flags[name].opts, key=len) if name in flags else name for name in varied)
            )
        if part is not None and form not in ("json", "txt"):
            raise LLMHWError(f"explain={part!r} prints formulas, which are no row of a table; leave {form} out")
        inputs = _paths(options)
        _check_outputs({"output": file, **drawn}, inputs)
        ends: list[tuple[str, int]] = []

        def made() -> str | bytes:
            answer = self._answer(options, varied, flags)
            ends.append(
                ("", 0) if isinstance(answer, out.Sweep) else (self.interrupted(answer), self.exit_code(answer))
            )
            if ends[0][0] and file not in (None, "-") and not self.keeps:
                raise click.Abort
            if part is not None:
                told = answer.explain(part)  # type: ignore[attr-defined]
                return out.json_text({"part": part, "explanation": told}) if form == "json" else f"{told}\n"
            if drawn["plot"] is not None:
                self._plot(answer, drawn["plot"], inputs)
            if drawn["timeline"] is not None:
                self._draw_timeline(answer, drawn["timeline"], inputs)
            if emit is not None and self.emits is not None:
                return self.emits(answer, emit)
            if form == "txt":
                return out.text(answer, flags, quiet=quiet, color=file is None and _colored())
            return out.written(answer, form, shown, flags)

        with in_language("en") if form in out.FOR_PROGRAMS else nullcontext():
            _deliver(made, file, inputs)
        note, code = ends[0]
        for told in filter(None, (note, _stale(options))):
            say(f"llmhw: {told}\n", err=True)
        click.get_current_context().exit(130 if note else code)

    def _form(self, options: dict[str, Any]) -> str:
        """The form of the answer; with --emit it is a text, whatever the file's name ends in."""
        as_json, as_csv = options.pop("as_json"), options.pop("as_csv")
        if options.get("emit") is None:
            return out.form_of(options["output"], as_json, as_csv)
        from llmhw.cli.launching import check_emit

        check_emit(options["emit"])
        told = {"--json": as_json, "--csv": as_csv, "--quiet": options["quiet"], "--explain": options.get("part")}
        for flag, value in told.items():
            if value:
                raise LLMHWError(f"--emit prints the file of a program; leave {flag} out")
        return "txt"

    def _shown(self, form: str, quiet: bool, curve: bool) -> out.Shown:
        """How answers are shown, once what has no effect is refused."""
        if quiet and form != "txt":
            raise LLMHWError(f"--quiet prints the verdict alone, which is no {form}; leave one out")
        if not (curve and self.curve):
            return self.shown
        if form not in ("csv", "xlsx"):
            raise LLMHWError("--curve asks for rows; add --csv, or --output FILE.csv")
        return replace(self.shown, rows=self.curve)

    def _expand(self, options: dict[str, Any]) -> list[str]:
        """Put the defaults, and all devices, in their places; the options that have several values."""
        number, varied = 1, []
        if "gpu" in options and any(gpu.lower() in ("all", "auto") for gpu in options["gpu"]):
            _find_devices(options)
        for param in self.params:
            name = param.name or ""
            if not getattr(param, "many", False):
                continue
            options[name] = options[name] or (getattr(param, "usual", None),)
            number *= len(options[name])
            varied += [name] if len(options[name]) > 1 else []
        if number > MOST_COMBINATIONS:
            raise LLMHWError(f"{number:,} combinations are more than {MOST_COMBINATIONS:,}; use llmhw.search for those")
        return varied

    def _answer(self, options: dict[str, Any], varied: list[str], flags: Any) -> Report:
        many = [param.name for param in self.params if getattr(param, "many", False) and param.name]
        click.get_current_context().meta["many"] = bool(varied)
        if not varied:
            return self.ask({**options, **{name: options[name][0] for name in many}})
        answers: list[Report | LLMHWError] = []
        asked, notes = [], []
        priced = all(options.get(name) == (None,) for name in ("price", "provider", "region"))
        if priced and {"gpu", "gpus"} & set(varied):
            provider = _one_provider(options)
            options = {**options, "provider": (provider,)}
            same = f"all prices are of provider='{provider}', which has every one of these devices"
            notes.append(
                same if provider else "no provider has all of these devices: each price is the cheapest of its own"
            )
        every = list(combinations(options, many))
        with Progress(self.name or "") as step:
            for i, one in enumerate(every):
                told = {n: getattr(one[n], "name", one[n]) for n in varied}
                asked.append({max(flags[n].opts, key=len)[2:] if n in flags else n: v for n, v in told.items()})
                try:
                    answers.append(self.ask(dict(one)))
                except LLMHWError as error:
                    answers.append(error)
                step(i + 1, len(every))
        if all(isinstance(answer, LLMHWError) for answer in answers):
            raise answers[0]  # type: ignore[misc]
        return out.Sweep(asked, answers, self.shown, flags, tuple(notes))

    def _plot(self, answer: Report, path: str, inputs: list[str]) -> None:
        from llmhw import plot

        assert self.draw is not None
        plot.style()
        plot.write(self.draw(plot, answer), path, inputs=inputs)

    def _draw_timeline(self, answer: Report, path: str, inputs: list[str]) -> None:
        from llmhw import timeline

        assert self.timed is not None
        timeline.write(self.timed(timeline, answer), path, inputs=inputs)


def _deliver(made: Callable[[], str | bytes], file: str | None, inputs: list[str]) -> None:
    """Print it, or write it to a file."""
    if file not in (None, "-"):
        from llmhw.files import write_whole

        return write_whole(file, made, inputs=inputs)
    found = made()
    if isinstance(found, bytes):
        raise LLMHWError("output='-' takes text; give the name of an .xlsx file")
    say(found)


def _find_devices(options: dict[str, Any]) -> None:
    """Put all devices in the place of `all`, and those of this machine, with their number, in that of `auto`."""
    from llmhw.hardware import accelerators

    if any(gpu.lower() == "all" for gpu in options["gpu"]):
        options["gpu"] = tuple(a.name for a in accelerators())
        return
    from llmhw.here import devices_here

    device, count = devices_here()
    options["gpu"] = tuple(device if gpu.lower() == "auto" else gpu for gpu in options["gpu"])
    options["gpus"] = options.get("gpus") or (count,)


def _one_provider(options: dict[str, Any]) -> str | None:
    """Whose prices make a comparison of devices fair; None where nobody has all of them."""
    from llmhw.cost import common_provider
    from llmhw.hardware import accelerator_of

    try:
        devices = [accelerator_of(name) for name in options["gpu"]]
    except LLMHWError:
        return None  # the row of that name says so
    count, kind = max(options.get("gpus", (1,))), options.get("kind", "on_demand")
    return common_provider(devices, count, kind, options.get("prices"))


def _stale(options: dict[str, Any]) -> str:
    """What to tell a person whose clock says that the prices are old: never an output, which no clock may change."""
    import sys
    from datetime import date

    if "prices" not in options or options.get("price") not in (None, (None,)) or not sys.stderr.isatty():
        return ""
    from llmhw.hardware import stale_on

    listed = options["prices"]
    text = stale_on(date.today(), listed.newest if listed else out.versions()["catalog_date"])
    ways = "; `llmhw prices refresh --output FILE.csv` asks for today's" if text else ""
    return "\n".join(folded([f"{text}{ways}"], width())) if text else ""


def _colored() -> bool:
    from os import environ

    return width() is not None and not environ.get("NO_COLOR") and click.get_current_context().color is not False


def _paths(options: dict[str, Any]) -> list[str]:
    """All that an option may have named as a file: what is read is never written onto."""
    from os.path import join

    every = [one for value in options.values() for one in (value if isinstance(value, tuple) else (value,))]
    paths = [path for path in (getattr(one, "path", one) for one in every) if isinstance(path, str) and path]
    return [*paths, *(join(path, name) for path in paths for name in ("config.json", "params.json"))]  # of a folder


def _check_outputs(files: Mapping[str, str | None], inputs: list[str]) -> None:
    """Each file can be written, is written once, and is not read; `files` by the option that names it."""
    from llmhw.files import check_output

    given = {name: path for name, path in files.items() if path is not None}
    for (one, path), (other, same) in pairs(given.items(), 2):
        if path == same:
            raise LLMHWError(f"{one}={path!r} and {other}={same!r} are one file; give two")
    for name, path in given.items():
        if name == "timeline":
            from llmhw.timeline import check_name

            check_name(path, inputs)
        elif path != "-":
            check_output(path, inputs)


def _missing(param: click.Parameter | None) -> str:
    if isinstance(param, click.Option):
        return f"{max(param.opts, key=len)} is missing, as in"
    return f"the {(param and param.name) or 'argument'} is missing, as in"


def _quoting(args: list[str], message: str) -> str:
    """What is wrong with the arguments; names with a space want quotes."""
    from llmhw.hardware import accelerator

    if "unexpected extra argument" not in message:
        return message
    for i, word in enumerate(args[:-2]):
        if word in ("-g", "--gpu"):
            for end in range(len(args), i + 2, -1):
                name = " ".join(args[i + 1 : end])
                if any(part.startswith("-") for part in args[i + 2 : end]):
                    continue
                try:
                    accelerator(name)
                except LLMHWError:
                    continue
                return f'a name with spaces wants quotes: --gpu "{name}"'
    return f"{message}; a name with spaces wants quotes, and the model comes first"
