"""The published schemas: valid themselves, and what every command prints with --json is as they say."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator, ValidationError

from llmhw import LLMHWError, schema
from llmhw.cli import COMMANDS
from tests.unit.command import refused, run
from tests.unit.lines import Asked, lines

SCHEMAS = schema.every()
LOG = Path(__file__).parent / "logs" / "sglang.log"
EXAMPLES = [
    (name, line)
    for name in schema.described()
    for line in __import__(f"llmhw.cli.{COMMANDS[name][0]}", fromlist=["COMMANDS"]).COMMANDS[name].examples
    if "--emit" not in line  # which prints the file of a program
]


def check(name: str, printed: str) -> Any:
    """What was printed, if it is as the schema of the command says."""
    found = json.loads(printed)
    Draft202012Validator(SCHEMAS[name]).validate(found)
    return found


def test_every_command_prints_json_and_has_a_schema() -> None:
    assert set(SCHEMAS) == set(schema.described())
    # those that print no answer
    assert set(COMMANDS) - set(SCHEMAS) == {"completion", "schema", "mcp"}


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas(name: str) -> None:
    found = SCHEMAS[name]
    Draft202012Validator.check_schema(found)
    assert found["$id"] == f"https://llmhw.github.io/llmhw/schemas/{name.replace(' ', '-')}.json"
    for label, one in found["$defs"].items():
        if one.get("type") == "object" and label != "asked":
            assert one["additionalProperties"] is False, label
            assert set(one["required"]) <= set(one["properties"]), label
    assert json.loads(run("schema", *name.split()).stdout) == found


@pytest.mark.parametrize(("name", "line"), EXAMPLES)
def test_examples(name: str, line: str) -> None:
    if name == "measure":
        pytest.importorskip("torch", reason="needs the extra torch")
    args = shlex.split(line.replace("server.log", str(LOG)))[1:]
    done = run(*args, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    check(name, done.stdout)


@pytest.mark.parametrize("name", ["train", "serve", "memory"])
def test_any_line(name: str, tmp_path: Path) -> None:
    checked = 0

    @settings(
        max_examples=6,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(asked=lines(name, wrong=False, form=False))
    def any_line(asked: Asked) -> None:
        nonlocal checked
        for file, content in asked.files.items():
            (tmp_path / file).write_text(content, encoding="utf-8", errors="surrogatepass")
        line = [word.replace("{dir}", str(tmp_path)) for word in asked.line if word not in ("--curve", "--csv")]
        done = run(*line, "--json")
        if done.returncode == 0:
            check(name, done.stdout)
            checked += 1

    any_line()
    assert checked


def test_explanations() -> None:
    line = "train llama-3-8b --gpu h100 --gpus 8 --zero 3 --explain MFU".split()
    assert check("train", run(*line, "--json").stdout)["part"] == "MFU"


def test_a_schema_refuses_what_is_not_as_it_says() -> None:
    found = json.loads(run("fit", "gpt2", "--gpu", "l4", "--json").stdout)
    validator = Draft202012Validator(SCHEMAS["fit"])
    assert validator.is_valid(found)
    for broken in (
        {**found, "more": 1},
        {name: value for name, value in found.items() if name != "device"},
        {**found, "batch": "1"},
        [],
        [found],
    ):
        with pytest.raises(ValidationError):
            validator.validate(broken or {})


def test_keys_say_what_they_mean() -> None:
    """From the options, the docstrings, and the units at the end of names: no key with a unit is without it."""
    properties = SCHEMAS["train"]["$defs"]["TrainingEstimate"]["properties"]
    assert properties["tp"]["description"] == "Tensor-parallel ranks."
    assert properties["mfu"]["description"].startswith("Model FLOPs")
    for found in SCHEMAS.values():
        for label, one in found["$defs"].items():
            for key, inner in one.get("properties", {}).items():
                if key.endswith(("_bytes", "_seconds")):
                    assert inner["description"], (label, key)


def test_names() -> None:
    assert "command='trian' is not known; did you mean train" in refused("schema", "trian")
    assert "plan train" in run("schema", "-q").stdout + run("schema").stdout
    with pytest.raises(LLMHWError, match="command='x' is not known"):
        schema.schema("x")


def test_a_schema_is_made_of_answers() -> None:
    """Keys that come and go are not required, names of things are no fields, and what was null may be more."""
    shape = schema.Shape()
    for value in ({"a": 1, "b": None, "parts": {"layer norm": 1}}, {"a": 2.5, "b": "x", "c": [1], "parts": {}}):
        shape.add(value)
    found = shape.to_schema({"a": "A number."}, closed=True)
    assert found["required"] == ["a", "b", "parts"]
    assert found["properties"]["a"] == {"description": "A number.", "type": "number"}
    assert found["properties"]["b"] == {"type": ["null", "string"]}
    assert found["properties"]["c"] == {"type": "array", "items": {"type": "number"}}
    assert found["properties"]["parts"] == {"type": "object", "additionalProperties": {"type": "number"}}
    made = schema.made("formats")
    assert made == SCHEMAS["formats"]
