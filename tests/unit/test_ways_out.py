"""What is said where nothing holds: each way out is typed as it stands, and holds what it says."""

from __future__ import annotations

import re
from functools import cache
from shlex import split

import pytest

from tests.unit.command import Done, run

# Questions without an answer, of every command that says what to try.
QUESTIONS = """
plan train gpt2 --gpu "RTX 3090" --gpus 1 --tokens 100B --deadline 5
plan finetune llama-3-70b --examples 10000 --budget 1 --gpu h100 --gpus 8
plan finetune llama-3.1-8b --gpu l4 --gpus 1 --method qlora --seq-len 32768 --examples 100
plan finetune llama-3-8b --gpu l4 --gpus 1 --method full --examples 1000
plan finetune gpt-oss-20b --gpu h100 --gpus 1 --cp 1 --micro-batch 1 --recompute none
plan serve llama-3-8b --slo-tpot 0.0001 --gpu h100,l4
plan serve llama-3-70b --users 10000 --budget-per-hour 10 --gpu h100
plan serve llama-3-70b --users 10 --gpu l4 --most-devices 4
plan serve llama-3-70b --users 10 --purchase 1000 --gpu "RTX 4090"
plan serve llama-3.1-405b --gpu l40s --users 5 --budget-per-hour 20
which llama-3-8b --budget 100
train llama-3-8b --gpu "RTX 4090"
train llama-3-70b --gpu h100 --gpus 8 --zero 0
memory llama-3-8b --gpu "RTX 4090"
serve llama-3-70b --gpu h100
serve llama-3-70b --gpu "RTX 3090" --gpus 2 --tp 2
serve llama-3.1-8b --gpu "RTX 3090" --engine llama.cpp --weights bf16 --max-model-len 131072
""".strip().splitlines()
_REFUSED = re.compile(r"^(Does not|Nothing|Not\b)", re.MULTILINE)


@cache
def asked(line: str) -> Done:
    return run(*split(line))


def tries(text: str) -> list[str]:
    """The options of each `Try:`, up to the colon behind them."""
    found = []
    for told in re.findall(r"^Try: (.*)$", text, re.MULTILINE):
        words = told.split(": ")[0]
        found.append(words.replace(", --", " --"))
    return found


def instead(line: str, flags: str) -> list[str]:
    """The line with these options in the place of its own."""
    kept, new = [], split(flags)
    skipped = False
    for word in split(line):
        if word.startswith("--"):
            skipped = word in new
        if not skipped:
            kept.append(word)
    return [*kept, *new]


@pytest.mark.parametrize("line", QUESTIONS)
def test_each_way_out_holds(line: str) -> None:
    done = asked(line)
    assert done.returncode == 0, done.stderr
    assert _REFUSED.search(done.stdout), done.stdout
    ways = tries(done.stdout)
    assert ways, done.stdout
    for flags in ways:
        assert flags.startswith("--"), flags
        found = run(*instead(line, flags), "--quiet")
        assert found.returncode == 0, (flags, found.stderr)
        assert not _REFUSED.search(found.stdout), (flags, found.stdout)


@pytest.mark.parametrize("line", [q for q in QUESTIONS if q.startswith(("plan", "which"))])
def test_the_nearest_is_said_in_the_units_of_the_limit(line: str) -> None:
    verdict = asked(line).stdout.splitlines()[1]
    assert "nearest: " in verdict
    assert re.search(r"short by|most |least |alone are|too slow", verdict), verdict
    assert not re.search(r"\b[a-z]+_[a-z_]+=", verdict), verdict
