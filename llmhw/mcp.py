"""Questions and facts as tools of the Model Context Protocol, on the official SDK (extra `mcp`).

A tool is a command: its arguments are the command's options, under their long names, with the same types, choices,
defaults and help; its answer is the command's text, and what --json prints as structured content. Nothing is asked of
the network, and no file is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from llmhw import LLMHWError, __version__
from llmhw.cli.command import HOW, Command
from llmhw.cli.options import Choices, Count, Model, Option, Real, Whole
from llmhw.units import shown, unknown_name

if TYPE_CHECKING:
    import click
    from mcp import types
    from mcp.server.lowlevel import Server

# Commands that are tools; of those of two words all that begin so.
OFFERED = (*"plan which compare fit memory train serve cost model models gpus prices explain".split(),)
INSTRUCTIONS = (
    "Which hardware a language model needs, what it will do there, and what it will cost. Numbers are predictions with "
    "80 % intervals, from formulas that `explain` shows. Structured answers are in base units: bytes, seconds, FLOP, "
    "dollars. Names of models and accelerators are lenient; a wrong one is answered with those that are near. Where an "
    "argument takes a list, each value is a combination of its own."
)


# -- tools ------------------------------------------------------------------------------------


@cache
def commands() -> dict[str, Command]:
    """The commands that are offered, by the names of their tools.

    >>> "plan_train" in commands(), "train" in commands()
    (True, True)
    """
    from llmhw.cli import COMMANDS

    found = {}
    for name, (place, *_) in COMMANDS.items():
        if name.split()[0] in OFFERED:
            command = import_module(f"llmhw.cli.{place}").COMMANDS[name]
            if isinstance(command, Command):
                found[name.replace(" ", "_")] = command
    return found


def arguments(command: Command) -> dict[str, click.Parameter]:
    """What a tool takes, by name: all of its command's parameters but those of printing, files and the network."""
    found = {}
    for param in command.params:
        # --explain and --emit are answers of their own
        wanted = param.expose_value and param.name not in (set(HOW) - {"part", "emit"} | {"here"})
        if wanted and "FILE" not in str(param.metavar or ""):
            longest = max(param.opts, key=len)
            found[longest.lstrip("-").replace("-", "_")] = param
    return found


def input_schema(command: Command) -> dict[str, Any]:
    """JSON Schema of a tool's arguments."""
    taken = arguments(command)
    needed = [name for name, param in taken.items() if param.required or isinstance(param, Model)]
    return {
        "type": "object",
        "properties": {name: _property(param) for name, param in taken.items()},
        "required": needed,
        "additionalProperties": False,
    }


def _property(param: click.Parameter) -> dict[str, Any]:
    item: dict[str, Any] = {"type": "string"}
    if isinstance(param.type, Whole):
        item = {"type": ["integer", "string"] if not isinstance(param.type, Count) else ["number", "string"]}
    elif isinstance(param.type, Real):
        item = {"type": "number"}
    elif isinstance(param.type, Choices):
        item = {"enum": list(param.type.names())}
    elif getattr(param, "is_flag", False):
        item = {"type": "boolean"}
    many = getattr(param, "many", False) or getattr(param, "listed", False)
    if param.nargs == -1:
        item = {"type": "array", "items": item}
    elif many:
        item = {"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]}
    text = (getattr(param, "help", "") or _HELP.get(param.name or "", "")).partition("  [")[0]
    usual = getattr(param, "usual", None)
    if getattr(param, "is_flag", False) and not isinstance(usual, bool):
        usual = None  # a flag that stands for a value, such as --spot
    return item | ({"description": text} if text else {}) | ({"default": usual} if usual not in (None, False) else {})


# Arguments without a flag have no help of their own.
_HELP = {
    "model": "Names of models, such as llama-3-8b, ids of the Hugging Face Hub in the local cache, or paths.",
    "pattern": "What the rows are to match.",
    "topic": "A formula, or a topic of a model: weights, kv-cache, forward-flops, training-states, lora.",
    "arguments": "One model, or the formula's numbers as key=value, such as tokens=4096.",
}


def output_schema(command: Command) -> dict[str, Any]:
    """The keys of a tool's answer; `llmhw schema` has all of it.

    Many answers are a list under `combinations`, rows of a table one under `rows`; `explain` gives a text under
    `explanation`, `emit` one under `file`.
    """
    from llmhw.schema import schema

    found: dict[str, Any] = {}
    try:
        known = schema(str(command.name))["$defs"]
    except LLMHWError:
        known = {}
    for one in known.values():
        for key, inner in one.get("properties", {}).items():
            found.setdefault(key, {name: inner[name] for name in ("description", "type") if name in inner})
    listed = {"type": "array", "items": {"type": "object"}}
    return {
        "type": "object",
        "properties": found | {"combinations": listed, "rows": listed, "file": {"type": "string"}},
    }


# -- a call -----------------------------------------------------------------------------------


def line(command: Command, given: Mapping[str, Any]) -> list[str]:
    """The arguments of the command that say what a tool was given.

    >>> line(commands()["fit"], {"model": "gpt2", "gpu": ["h100", "l4"], "batch": 4})
    ['--gpu=h100', '--gpu=l4', '--batch=4', '--', 'gpt2']
    """
    taken, options, behind = arguments(command), list[str](), dict[str, list[str]]()
    for name, value in given.items():
        if name not in taken:
            raise unknown_name("argument", name, taken)
        values = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        for one in values:
            if not isinstance(one, (str, int, float)):
                raise LLMHWError(f"{name}={shown(one)} must be a text, a number, true or false, or a list of these")
            if one == "-":
                raise LLMHWError(f"{name}='-' is standard input, which a tool does not have; give a name or a path")
        param = taken[name]
        if isinstance(param, Option):
            options += [word for one in values for word in _flag(param, one)]
        elif values:
            words = [str(one) for one in values]
            behind[name] = [",".join(words)] if isinstance(param, Model) else words
    # what has no flag stands in the order of the command, whatever that of the call
    return [*options, "--", *(word for name in taken for word in behind.get(name, ()))]


def _flag(param: Option, value: Any) -> Iterator[str]:
    flag = max(param.opts, key=len)
    if not param.is_flag:
        yield f"{flag}={value}"
    elif not isinstance(value, bool):
        raise LLMHWError(f"{flag.lstrip('-')}={shown(value)} must be true or false")
    elif value or param.secondary_opts:
        yield flag if value else param.secondary_opts[0]


def call(tool: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The answer of a tool: as text, and as structured content.

    Raises `LLMHWError` for a tool or arguments that are not right.

    >>> text, found = call("fit", {"model": "gpt2", "gpu": "l4"})
    >>> found["device"], text.splitlines()[0][:4]
    ('L4', 'gpt2')
    """
    from click import ClickException

    from llmhw.cli.output import Listing, Sweep, flags_of, json_value, text

    if tool not in commands():
        raise unknown_name("tool", tool, commands())
    command = commands()[tool]
    asked, own = dict(given), {}
    for name, param in arguments(command).items():
        if param.name in HOW and asked.get(name) is not None:
            own[name] = str(asked.pop(name))
    if len(own) > 1:
        raise LLMHWError(f"{' and '.join(own)} are two answers; ask for one of them")
    if form := own.get("emit"):
        from llmhw.cli.launching import check_emit

        check_emit(form)

    def give(answer: Any) -> tuple[str, dict[str, Any]]:
        if own and isinstance(answer, Sweep):
            raise LLMHWError(f"{next(iter(own))} is for one answer; give one value of each argument")
        if (part := own.get("explain")) is not None:
            told = answer.explain(part)
            return f"{told}\n", {"part": part, "explanation": told}
        if form is not None and command.emits is not None:
            told = command.emits(answer, form)
            return told, {"form": form, "file": told}
        found = json_value(answer)
        name = "combinations" if isinstance(answer, Sweep) else "rows" if isinstance(answer, Listing) else ""
        return text(answer, flags_of(command)), {name: found} if name else found

    try:
        return command.found(line(command, asked | ({"emit": form} if form else {})), give)
    except ClickException as error:
        raise LLMHWError(error.format_message()) from None


# -- the server -------------------------------------------------------------------------------


def server() -> Server[Any]:
    """The server, whose tools are the commands."""
    try:
        import anyio
        from anyio.to_thread import run_sync
        from mcp import types
        from mcp.server.lowlevel import Server
    except ImportError:
        raise LLMHWError("llmhw mcp needs the SDK of the protocol; install it with: pip install 'llmhw[mcp]'") from None
    one_at_a_time = anyio.CapacityLimiter(1)

    async def listed(context: Any, params: Any) -> types.ListToolsResult:
        reads = types.ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=name,
                    description=str(command.help),
                    input_schema=input_schema(command),
                    output_schema=output_schema(command),
                    annotations=reads,
                )
                for name, command in commands().items()
            ]
        )

    async def called(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        def answered() -> types.CallToolResult:
            try:
                told, found = call(params.name, params.arguments or {})
            except LLMHWError as error:
                told = " ".join(str(error).split())
                return types.CallToolResult(content=[types.TextContent(type="text", text=told)], is_error=True)
            return types.CallToolResult(content=[types.TextContent(type="text", text=told)], structured_content=found)

        return await run_sync(answered, limiter=one_at_a_time)

    return Server("llmhw", version=__version__, instructions=INSTRUCTIONS, on_list_tools=listed, on_call_tool=called)


def run() -> None:
    """Serve over standard input and output until the client leaves."""
    made = server()
    import anyio
    from mcp.server.stdio import stdio_server

    async def serve() -> None:
        async with stdio_server() as (reads, writes):
            await made.run(reads, writes, made.create_initialization_options())

    anyio.run(serve)
