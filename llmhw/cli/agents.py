"""For programs: what --json prints, and the tools of an agent."""

from __future__ import annotations

from typing import Any

import click

from llmhw.cli.command import Command, common_options
from llmhw.cli.output import LISTED, Listing, Text
from llmhw.formula import Report


def _schema(options: dict[str, Any]) -> Report:
    from llmhw import schema

    if options["command"]:
        found = schema.schema(" ".join(options["command"]))
        return Text(schema.text(found), found)
    rows = [{"command": name, "title": found["title"], "id": found["$id"]} for name, found in schema.every().items()]
    cells = [(row["command"], row["id"]) for row in rows]
    notes = ["llmhw schema COMMAND prints one, as JSON Schema 2020-12"]
    return Listing(f"{len(rows)} schemas of --json", ("command", "$id"), cells, rows, right=2, notes=notes)


SCHEMA = Command(
    "schema",
    _schema,
    [click.Argument(["command"], nargs=-1, metavar="[COMMAND]")],
    help="The JSON Schema of what a command prints with --json; without COMMAND, those there are.",
    shown=LISTED,
    examples=("llmhw schema serve", "llmhw schema"),
)


def _serve_tools() -> None:
    from llmhw.mcp import run

    run()


MCP = click.Command(
    "mcp",
    callback=_serve_tools,
    params=common_options(),
    help="Offer questions and facts as tools of the Model Context Protocol, over standard input and output. Needs the "
    "extra `mcp`.\n\n"
    "A client starts it by itself: its command is `llmhw`, its argument `mcp`. Nothing is asked of the network, and no "
    "file is written.",
)

COMMANDS: dict[str, click.Command] = {command.name: command for command in (SCHEMA, MCP) if command.name}
