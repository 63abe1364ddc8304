"""The command `llmhw`, run in this process: its output and its exit code."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner

from llmhw.cli import main


@dataclass(frozen=True)
class Done:
    """What the command left behind."""

    returncode: Any
    stdout: str
    stderr: str


def run(*arguments: str, **environment: str) -> Done:
    """Run the command; the environment gets what is given."""
    with pytest.MonkeyPatch.context() as patch, CliRunner().isolation(env=environment) as (out, err, _):
        patch.setattr(sys, "argv", ["llmhw", *arguments])
        with pytest.raises(SystemExit) as done:
            main()
    return Done(done.value.code, out.getvalue().decode(), err.getvalue().decode())


def answer(*arguments: str) -> Any:
    """What the command prints with --json."""
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(*arguments: str) -> str:
    """The one line on stderr with which the command refuses its arguments."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("llmhw: ")
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def assert_same(found: Any, told: Any) -> None:
    """Whether --json printed what the library says, and the versions that said it."""
    versions = found.pop("versions")
    assert set(versions) == {"llmhw_version", "catalog_date"}
    assert found == json.loads(json.dumps(told))
