"""Options of the commands that plan, with what nobody means: one line, which names the option; nothing is written."""

from __future__ import annotations

from pathlib import Path
from shlex import split

import pytest

from tests.unit.command import run

BASES = {
    "plan train": "plan train gpt2 --gpu h100 --gpus 1",
    "plan finetune": "plan finetune gpt2 --gpu h100 --gpus 1",
    "plan serve": "plan serve gpt2 --gpu h100 --gpus 1",
    "which": "which llama-3-8b",
    "compare": "compare llama-3-8b --gpu h100,l4",
    "cost": "cost --gpu h100",
}
_COUNTS, _NUMBERS, _WORDS = ("0", "-1", "x"), ("-1", "x", "nan"), ("no-such",)
_LIMITS = "--deadline --budget --budget-per-hour --budget-per-month --purchase --peak-kw --headroom"
_TRAINED = {
    _LIMITS: _NUMBERS,
    "--gpus --tp --pp --micro-batch --seq-len --best --most-devices": _COUNTS,
    "--gpu --instance --software --optimizer --precision --recompute --emit --region": _WORDS,
    "--provider --grid --network": _WORDS,
    "--zero --by --currency --offload": ("7", "x"),
}
OPTIONS = {
    "plan train": _TRAINED,
    "plan finetune": _TRAINED | {"--method": ("x", "full,x"), "--examples --epochs": _COUNTS},
    "plan serve": {
        "--users --rate --slo-ttft --slo-tpot --budget-per-hour --percentile": _NUMBERS,
        "--input-tokens --output-tokens --context --most-devices --best": _COUNTS,
        "--gpu --instance --engine --weights --kv --quality --by --region --provider --emit": _WORDS,
    },
    "which": {
        "--budget --budget-per-hour --tokens-per-second": _NUMBERS,
        "--best --users --gpus": _COUNTS,
        "--gpu --weights --quality --engine": _WORDS,
    },
    "compare": {"--gpus --context": _COUNTS, "--gpu --weights --engine --quality": _WORDS, "--slo-tpot": _NUMBERS},
    "cost": {"--months --utilization --electricity --interest --price": _NUMBERS, "--grid --region": _WORDS},
}
CASES = [
    (f"{BASES[name]} {option} {value}", option)
    for name, known in OPTIONS.items()
    for options, values in known.items()
    for option in options.split()
    for value in values
]
# What goes together with nothing, and what is missing.
TOGETHER = """
plan train
plan serve no-such-model
plan train gpt2 --gpu h100 --instance p5.48xlarge
plan train gpt2 --users 3
plan serve gpt2 --deadline 3
plan serve llama-3-8b --gpu h100 --users 3 --rate 5
plan train gpt2 --gpu h100 --gpus 4,12
train gpt2 --gpu h100 --spot --reserved
plan train gpt2 --gpu h100 --gpus 1 --output no-folder/plan.json
plan train gpt2 --gpu h100 --gpus 1 --output plan.foo
plan finetune gpt2 --gpu h100 --gpus 1 --examples 10 --tokens 1M
plan finetune gpt2 --gpu h100 --gpus 1 --method full --frozen
which
which llama-3-8b --gpus 2
which llama-3-8b --gpu 3090+
which gpt2
compare llama-3-8b --gpu h100
compare gpt2 --gpu h100,l4
log no-such.log
cost
memory gpt2 --from no-such.yaml
serve --from /dev/null
train gpt2 --gpu h100 --emit vllm
serve gpt2 --gpu h100 --emit torchrun
""".strip().splitlines()


def test_there_are_two_hundred() -> None:
    assert len(CASES) + len(TOGETHER) >= 200


def one_line(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(folder)
    done = run(*split(line))
    assert (done.returncode, done.stdout) == (2, ""), (done.stdout[:200], done.stderr)
    assert done.stderr.startswith("llmhw: ")
    assert len(done.stderr.splitlines()) == 1
    assert not list(folder.iterdir())
    return done.stderr


@pytest.mark.parametrize(("line", "option"), CASES, ids=[line for line, _ in CASES])
def test_the_option_is_named(line: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = one_line(line, tmp_path, monkeypatch)
    assert option in said, said


@pytest.mark.parametrize("line", TOGETHER)
def test_what_does_not_go_together(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_line(line, tmp_path, monkeypatch)
