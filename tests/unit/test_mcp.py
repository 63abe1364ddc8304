"""The server of the Model Context Protocol, by the SDK's own client; its tools are the commands."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from llmhw import LLMHWError
from tests.unit.command import answer, run

pytest.importorskip("mcp", reason="needs the extra mcp")

from llmhw import mcp as tools


def test_over_standard_input_and_output() -> None:
    """A client starts the server, lists the tools and calls them; a wrong argument is an error of one line."""
    import anyio
    from mcp import Client, StdioServerParameters

    where = StdioServerParameters(command=sys.executable, args=["-m", "llmhw", "mcp"], cwd=Path(__file__).parents[2])

    async def talk() -> None:
        async with Client(where) as client:
            listed = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert {"model", "fit", "memory", "train", "serve", "plan_train", "explain"} <= set(listed)
            assert listed["fit"].input_schema["required"] == ["model"]
            assert listed["fit"].annotations is not None
            assert listed["fit"].annotations.read_only_hint
            given: dict[str, Any] = {"model": "llama-3-8b", "gpu": "RTX 4090"}
            found = await client.call_tool("fit", given)  # the client holds it against the tool's output schema
            assert not found.is_error
            assert found.structured_content == answer("fit", "llama-3-8b", "--gpu", "RTX 4090")
            assert found.content[0].text == run("fit", "llama-3-8b", "--gpu", "RTX 4090").stdout  # type: ignore[union-attr]
            for wrong, words in (
                ({"model": "llama-3-8x", "gpu": "h100"}, "did you mean llama-3-8b"),
                ({"gpu": "h100"}, "the model is missing"),
                ({**given, "gppu": "l4"}, "argument='gppu' is not known; did you mean gpu"),
                ({**given, "batch": 0}, "--batch 0 must be"),
                ({"model": "-", "gpu": "l4"}, "model='-' is standard input"),
            ):
                found = await client.call_tool("fit", wrong)
                assert found.is_error
                text = found.content[0].text  # type: ignore[union-attr]
                assert words in text
                assert "\n" not in text
            many = await client.call_tool("serve", {"model": "llama-3-8b", "gpu": ["h100", "h200"], "concurrency": 8})
            assert [one["asked"]["gpu"] for one in many.structured_content["combinations"]] == ["h100", "h200"]

    anyio.run(talk)


@pytest.mark.parametrize("name", tools.commands())
def test_schemas(name: str) -> None:
    command = tools.commands()[name]
    inputs = tools.input_schema(command)
    Draft202012Validator.check_schema(inputs)
    Draft202012Validator.check_schema(tools.output_schema(command))
    taken = tools.arguments(command)
    assert set(inputs["properties"]) == set(taken)
    for key, one in inputs["properties"].items():
        assert one.get("description"), key
        if "default" in one:
            assert Draft202012Validator(one).is_valid(one["default"]), key
    # nothing that writes or reads files, asks the network, or prints
    assert not {"output", "plot", "timeline", "trace", "calibration", "json", "csv", "hub", "prices"} & set(taken)


# The first of each that is quick, and one of formulas.
EXAMPLES = [
    (name, line)
    for name, command in tools.commands().items()
    for i, line in enumerate(command.examples)
    if not name.startswith(("plan_", "which", "compare", "cost")) and (not i or "--explain MFU" in line)
]


@pytest.mark.parametrize(("name", "line"), EXAMPLES)
def test_a_call_says_what_the_line_says(name: str, line: str) -> None:
    """Each example of the help, as a call: its arguments are as the schema has them, and the answer is the same."""
    command = tools.commands()[name]
    words = shlex.split(line)[1 + len(name.split("_")) :]
    given: dict[str, Any] = {}
    context = command.make_context(name, list(words))
    for key, param in tools.arguments(command).items():
        value = context.params[param.name or ""]
        if value not in (None, (), "", False) and value != getattr(param, "usual", None):
            values = value if isinstance(value, tuple) else (value,)
            listed = [f"{one:g}" if isinstance(one, float) else one for one in values]
            given[key] = listed if len(listed) > 1 or param.nargs == -1 else listed[0]
    given = {"explain" if key == "part" else key: value for key, value in given.items()}
    text, found = tools.call(name, given)
    assert text == run(*shlex.split(line)[1:]).stdout
    printed = answer(*shlex.split(line)[1:])
    assert printed in (found, found.get("combinations"), found.get("rows"))


def test_what_is_refused() -> None:
    for tool, given, words in (
        ("fits", {}, "tool='fits' is not known; did you mean fit"),
        ("train", {"model": "gpt2", "gpu": "h100", "frozen": "yes"}, "frozen='yes' must be true or false"),
        ("train", {"model": {"a": 1}, "gpu": "h100"}, "must be a text, a number, true or false, or a list of these"),
        ("train", {"model": "--hub", "gpu": "h100"}, "model='--hub' is not known"),
        ("train", {"model": "gpt2", "gpu": ["h100", "l4"], "explain": "MFU"}, "explain is for one answer"),
        ("train", {"model": "gpt2", "gpu": "h100", "explain": "MFU", "emit": "torchrun"}, "are two answers"),
        ("train", {"model": "gpt2", "gpu": "h100", "emit": "torchrum"}, "torchrun"),
        ("train", {"model": "gpt2", "gpu": "h100", "micro_batch": "x"}, "--micro-batch x must be"),
    ):
        with pytest.raises(LLMHWError) as refused:
            tools.call(tool, given)
        assert words in str(refused.value)


def test_files_of_programs() -> None:
    line = "train llama-3-8b --gpu h100 --gpus 8 --zero 3 --emit torchrun"
    given = {"model": "llama-3-8b", "gpu": "h100", "gpus": 8, "zero": 3, "emit": "torchrun"}
    text, found = tools.call("train", given)
    assert text == found["file"] == run(*line.split()).stdout
    assert "torchrun" in text


def test_flags_that_are_off() -> None:
    asked: dict[str, Any] = {"model": "gpt2", "gpu": "h100"}
    train = tools.commands()["train"]
    assert tools.line(train, {**asked, "frozen": False}) == ["--gpu=h100", "--", "gpt2"]
    assert "--no-grad-overlap" in tools.line(train, {**asked, "grad_overlap": False})
    assert tools.line(train, {**asked, "tp": None}) == ["--gpu=h100", "--", "gpt2"]
