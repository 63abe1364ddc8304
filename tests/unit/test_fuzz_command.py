"""Whatever is typed, the command answers in numbers or refuses in one line; never a traceback, a hang or nonsense.

`make fuzz` tries many more: LLMHW_FUZZ_EXAMPLES is their number.
"""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmhw.cli import COMMANDS, cli
from llmhw.cli.options import Choices, Names, Option
from tests.unit.command import run

EXAMPLES = int(os.environ.get("LLMHW_FUZZ_EXAMPLES", "150"))
LONGEST_SECONDS = 2.0 if EXAMPLES > 150 else 10.0  # a busy machine is no hang

MODELS = [
    "llama-3-8b",
    "llama-3-70b",
    "gpt2",
    "mixtral-8x7b",
    "deepseek-v3",
    "gemma-3-27b",
    "qwen3-next-80b-a3b",
    "t5",
    "",
]
GPUS = [
    "h100",
    "h200",
    "rtx 4090",
    "A100 80GB SXM4",
    "mi300x",
    "M4 Max",
    "V100 SXM2 32GB",
    "a100",
    "tpu v5e",
    "h10",
    "all",
]
NUMBERS = (
    "0 1 2 3 4 8 16 64 1000 4096 131072 -1 1.5 1e3 16k 15T 1e9 1e18 1e30 1e308 1e309 1e-320 -0.5 0.5 0.9 nan inf -inf"
)
NUMBERS += f" x 0x10 1_000 {10**30} {'9' * 400} \u0661\u0662 1,2 2,x , true None =cmd |  ' \" \\"
WORDS = "none full bf16 fp8 int4-gptq q4_k_m mxfp4 nf4 vllm llama.cpp adamw uniform:1:5 lognormal:1e308:5 exponential:0"
WORDS += " csv:no.csv NVLink 50 eastus AWS \x1b[31m \ud800 " + "a" * 400
ANY = [*NUMBERS.split(" "), *WORDS.split(" ")]
# What would read this process's own input, or write where the tests run.
SKIPPED = {"output", "plot", "fitted", "help", "debug"}


def params(name: str) -> list[click.Parameter]:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return [p for p in found.params if p.name not in SKIPPED]


def value(param: click.Parameter) -> st.SearchStrategy[str]:
    known: list[str] = []
    if param.name in ("model", "draft"):
        known = MODELS
    elif param.name in ("gpu", "device_memory"):
        known = GPUS
    elif isinstance(param.type, (Choices, Names)):
        known = list(param.type.names())[:40]
    elif isinstance(param.type, click.Choice):
        known = [str(choice) for choice in param.type.choices]
    # a right value most of the time, so that more than one option gets a say
    right = st.sampled_from(known or ["1", "2", "4", "8", "0.5", "100", "1000"])
    return st.one_of(right, right, right, st.sampled_from(ANY), st.text(max_size=5))


@st.composite
def lines(draw: Any, name: str) -> list[str]:
    line = [name]
    for param in params(name):
        if isinstance(param, click.Argument):
            times = 1 if param.nargs == 1 else draw(st.integers(0, 2))
            line += [draw(value(param)) for _ in range(times)]
        elif param.required or draw(st.integers(0, 11)) == 0:
            assert isinstance(param, Option)
            flag = draw(st.sampled_from([*param.opts, *param.secondary_opts]))
            line += [flag] if param.is_flag else [flag, draw(value(param))]
    return line


NONSENSE = re.compile(r"(?<![\w.'\"/=-])-?\$?(nan|inf|infinity)(?![\w'\"/])", re.IGNORECASE)


def check(line: list[str]) -> None:
    began = time.monotonic()
    done = run(*line)
    took = time.monotonic() - began
    assert done.returncode in (0, 1, 2), done.stderr
    assert len(done.stderr.splitlines()) == (done.returncode == 2), done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert took < LONGEST_SECONDS, f"{took:.1f} s"
    if done.returncode == 0:
        assert not NONSENSE.search(done.stdout), NONSENSE.search(done.stdout)
        if "--json" in line or "-j" in line:
            json.loads(done.stdout, parse_constant=lambda text: pytest.fail(text))
    else:
        assert done.stdout == "" or done.returncode == 1


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("measure", "completion", "validate")])
def test_any_line(name: str) -> None:
    share = max(5, EXAMPLES // 10)

    @settings(
        max_examples=share,
        deadline=None,
        derandomize=EXAMPLES == 150,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(line=lines(name))
    def any_line(line: list[str]) -> None:
        check(line)

    any_line()
