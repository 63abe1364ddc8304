"""Nothing asks the network: every command, a search and a measurement run where no socket may be used."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from llmhw.cli import COMMANDS

# A hook cannot be taken off again: it goes into a process of its own, which prints what it saw.
HOOK = """
import json, sys

EVENTS = ("socket.", "http.", "urllib.", "ftplib.", "smtplib.")
HARMLESS = ("socket.__new__",)  # a pair of sockets of one process needs no network
seen = []

def hook(event, arguments):
    if event.startswith(EVENTS) and event not in HARMLESS:
        seen.append(event)
        raise PermissionError(f"{event}: no network here")

sys.addaudithook(hook)
"""
LINES = {
    "fit": ["llama-3-8b", "--gpu", "h100"],
    "memory": ["llama-3-8b", "--gpu", "h100", "--gpus", "8", "--zero", "3"],
    "train": ["llama-3-8b", "--gpu", "h100", "--gpus", "8", "--zero", "3", "--recompute", "full"],
    "serve": ["llama-3-8b", "--gpu", "h100", "--json"],
    "plan train": ["llama-3-8b", "--gpu", "h100", "--gpus", "8"],
    "plan finetune": ["llama-3-8b", "--gpu", "RTX 4090", "--gpus", "1"],
    "plan serve": ["llama-3-8b", "--gpu", "h100"],
    "sweep": ["room", "--models", "gpt2", "--gpu", "h100"],
    "simulate": ["llama-3-8b", "--gpu", "h100", "--rate", "4", "--requests", "20"],
    "cost": ["--gpu", "h100"],
    "model": ["llama-3-8b", "--csv"],
    "models": ["gpt2"],
    "gpus": ["h100"],
    "links": [],
    "compare": ["llama-3-8b", "--gpu", "h100", "--gpu", "l4"],
    "which": ["llama-3-8b", "--budget", "2500"],
    "log": [str(Path(__file__).parent / "logs" / "sglang.log"), "--gpu", "RTX 3090"],
    "formats": [],
    "prices": ["h100"],
    "trainers": [],
    "explain": ["kv-cache", "llama-3-8b"],
    "measure": ["params", "gpt2"],
    "validate": ["--kind", "facts"],
    "completion": ["bash"],
    "schema": ["serve"],
}


def seen(code: str) -> list[str]:
    """The events of the network while this code runs."""
    done = subprocess.run(
        [sys.executable, "-c", f"{HOOK}\n{code}\nprint(json.dumps(seen))"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


# Names that a hub or a server would know are refused here.
ELSEWHERE = [
    ["model", "org/Nothing"],
    ["model", "https://huggingface.co/org/Nothing/resolve/main/config.json"],
    ["measure", "params", "org/Nothing"],
    ["validate", "https://example.org/table.csv", "--kind", "serving"],
    ["fit", "gpt2", "--gpu", "https://example.org/gpu"],
]


def test_no_command() -> None:
    assert set(LINES) == set(COMMANDS) - {"mcp"}
    lines = [([*name.split(), *line], 0) for name, line in LINES.items() if name != "measure"]
    lines += [(line, 2) for line in ELSEWHERE]
    code = f"""
from llmhw.cli import main
for line, code in {lines!r}:
    sys.argv = ["llmhw", *line]
    try:
        main()
    except SystemExit as done:
        assert done.code == code, (line, done.code)
"""
    assert seen(code) == []


def test_no_tool() -> None:
    code = """
from llmhw import LLMHWError, mcp
mcp.call("fit", {"model": "llama-3-8b", "gpu": "h100"})
try:
    mcp.call("model", {"model": "org/Nothing"})
except LLMHWError:
    pass
"""
    assert seen(code) == []


def test_no_search() -> None:
    code = """
import llmhw
job = llmhw.ServingJob(model="gpt2", cluster=("h100", 1))
llmhw.search(job, clusters=["h100"], input_tokens=100, output_tokens=20, best=2)
"""
    assert seen(code) == []


@pytest.mark.skipif(not (find_spec("torch") and find_spec("transformers")), reason="needs the extra torch")
def test_no_measurement() -> None:
    code = """
from llmhw.measure import measure
measure("params", "gpt2")
"""
    assert seen(code) == []


@pytest.mark.parametrize(
    "code",
    ["import socket; socket.getaddrinfo('localhost', 1)", "import socket; socket.socket().connect(('127.0.0.1', 9))"],
)
def test_the_hook_sees_them(code: str) -> None:
    assert seen(f"try:\n    {code}\nexcept PermissionError:\n    pass") != []
