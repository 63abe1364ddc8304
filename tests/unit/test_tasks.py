"""What people ask, as README's table has it: each answered by the one command that stands there, and checked."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

import llmhw
from llmhw.catalog import read_model
from tests.unit.command import run

README = Path(__file__).parents[2] / "README.md"

# The question of a row -> what its commands must say, one list for each command.
SAYS: dict[str, list[list[str]]] = {
    "what to rent for a training run, how to lay it out, what it costs": [
        [r"^Take 64 x H100 SXM5 80GB \(8 x AWS p5", r"time 1\.\d+ days .*", r"cost \$1\d,\d+", r"^energy [\d,]+ kWh"]
    ],
    "the same on 16,000 cards": [
        [r"^Take 16,000 x H100", r"time [78]\d\.\d days", r"MFU", r" 4\d\.\d %", r"failures \d+", r"peak power \d+,"]
    ],
    "the cheapest card for a fine-tune by tomorrow": [
        [r"^Take \d+ x .*time \d+\.\d h \(.* h to .* h\), cost \$\d\d\.", r"Why: least cost of", r"refused: "]
    ],
    "whether QLoRA with 8k tokens fits my card": [[r"^Take 1 x RTX 4090", r"QLoRA in nf4"]],
    "ZeRO-3 on eight cards of 40 GB": [
        [r"^Fits: 20\.\d of 39\.5 GiB", r"time +\d+\.\d h +[\d.]+ h to [\d.]+ h", r"cost +\$\d+", r"a device-hour, "]
    ],
    "what serves 500 users at 30 tokens/s": [
        [r"^Take \d+ x H200 .*an hour \$[\d,]+, a million \$", r"tokens/s a user [34]\d\.\d", r"fp8-block"]
    ],
    "the cheapest place to serve a model": [
        [r"^Take .*a million \$0\.\d+ \(", r"assumed --slo-tpot", r"assumed --quality", r"Why: next, "]
    ],
    "a 70B on two cards of my own": [
        [r"^Fits barely: ", r"1[4-9]\.\d tokens/s for each of 1", r"longest context +one sequence of [12]\d,\d+ tok"]
    ],
    "the cheapest card to buy for 20 tokens/s": [
        [r"^Take 1 x RTX 3090.*to buy \$1,499", r"RTX 3090 takes .*Q4_K_M", r"refused: RTX 3060 12GB: does not fit"]
    ],
    "what runs on my machine": [[r"\d+ of \d+ models run", r"qwen3-32b +32\.8 B +int4-awq, vllm +1\d,\d+ +[34]\d"]],
    "two different cards together": [
        [r"^Fits", r"RTX 3090 +\d\d ", r"RTX 4090 +\d\d ", r"1\d\.\d tokens/s for each of 1"]
    ],
    "four cards side by side": [
        [
            r"^Fastest for one user: ",
            r"cheapest a token: B200",
            r"a million tokens +\$",
            r"joules a token",
            r"80 % interval",
        ]
    ],
    "tensor or pipeline parallel": [[r"^Take 4 x L40S", r"tp 4"]],
    "the longest context": [[r"inference, bf16 +yes .* 131,072 "]],
    "tokens/s on a laptop": [[r"^Fits: ", r"in MXFP4_MOE", r"llama\.cpp", r"[3-9]\d\.\d tokens/s for each of 1"]],
    "rent or buy": [[r"^Rent: owning \$\d+", r"break-even", r"^electricity", r"owning pays from +\d\d\.\d %"]],
    "what micro-batch does to MFU": [[r"Fastest: --micro-batch 4", r"1 .* 39\.\d %", r"4 .* 41\.\d %"]],
    "whether a draft model pays": [[r"speculative decoding +[\d.]+ tokens/s a user with the draft, [\d.]+ .* without"]],
    "20 LoRA adapters at once": [[r"LoRA adapters +20 of rank 16: 1\.\d+ GiB"]],
    "why it ran out of memory": [
        [r"^Does not fit: short by 28", r"activations +26\.\d GiB +55", r"Try: .*--loss chunked: 19\.6"]
    ],
    "the same of a file that I have": [[r"^Fits", r"zero=3"]],
    "what to type": [
        [r"^exec vllm serve meta-llama/Meta-Llama-3-70B", r"--tensor-parallel-size 4", r"--kv-cache-dtype fp8"],
        [r"^base_model: meta-llama/Meta-Llama-3-8B", r"^adapter: q?lora", r"^gradient_accumulation_steps: \d+"],
    ],
    "where a number comes from": [[r"utilization\(", r"\[.*\]"]],
    "a model of my own": [[r"8\.19 B parameters"]],
    "whether my own measurements agree": [[r"1 of 1 row predicted"]],
    "a spreadsheet, a picture": [[r"^$"], [r"^Fits: "]],
}

# Files that people have, by the names that the table gives them.
MINE = (
    "model,gpu,num_gpus,framework,dtype,isl,osl,max_concurrency,metric,value\n"
    "llama-3-8b,H100,1,TensorRT-LLM,bf16,1000,500,32,output_tokens_per_s_total,3000\n"
)
ACCELERATE = """\
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
deepspeed_config:
  gradient_accumulation_steps: 1
  zero_stage: 3
mixed_precision: bf16
num_machines: 1
num_processes: 8
"""


def asked() -> dict[str, list[str]]:
    """README's table: the commands of every question."""
    text = README.read_text(encoding="utf-8")
    table = text.partition("## What people ask")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", table, re.MULTILINE)
    return {question: re.findall(r"`llmhw (.*?)`", cell) for question, cell in rows if "`llmhw" in cell}


def test_every_question_of_readme_is_tried() -> None:
    assert list(asked()) == list(SAYS)
    assert len(SAYS) >= 25


@pytest.mark.parametrize("question", SAYS)
def test_a_question(question: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text(json.dumps(read_model("qwen3-8b")[1]), encoding="utf-8")
    Path("mine.csv").write_text(MINE, encoding="utf-8")
    Path("accelerate.yaml").write_text(ACCELERATE, encoding="utf-8")
    for line, texts in zip(asked()[question], SAYS[question], strict=True):
        done = run(*shlex.split(line))
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        for text in texts:
            assert re.search(text, done.stdout, re.MULTILINE), f"{text}\n{done.stdout}"


def test_a_model_of_one_s_own(tmp_path: Path) -> None:
    path = tmp_path / "a config, of mine"
    path.write_text("\ufeff" + json.dumps(read_model("qwen3-8b")[1]), encoding="utf-8")
    assert "8.19 B parameters" in run("model", str(path)).stdout


def test_a_spreadsheet_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["fit", "llama-3-8b", "--gpu", "h100,h200"]
    assert run(*asked, "--output", "fit.csv").returncode == 0
    assert run(*asked, "--output", "fit.xlsx").returncode == 0
    rows = list(csv.DictReader((tmp_path / "fit.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["device"] for row in rows} == {"H100 SXM5 80GB", "H200 SXM5 141GB"}
    assert {"model", "use", "fits", "needed_bytes", "llmhw_version", "catalog_date"} <= set(rows[0])
    done = run("memory", "llama-3-8b", "--gpu", "h100", "--gpus", "8", "--zero", "3", "--plot", "memory.svg", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Fits: ")
    assert "<svg" in (tmp_path / "memory.svg").read_text(encoding="utf-8")


def test_a_benchmark_of_one_s_own_and_constants_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    head = run("validate", "--kind", "serving", "--template").stdout.splitlines()[0].split(",")
    assert {"model_name", "gpu"} <= set(head)
    meant = run("validate", "--kind", "serving", "--columns").stdout
    assert re.search(r"model_name .* model", meant)
    found = llmhw.serve(
        llmhw.ServingJob(model="llama-3-8b", cluster="h100", engine="tensorrt-llm"),
        input_tokens=1000,
        output_tokens=500,
        concurrency=32,
    )
    measured = found.point.tokens_per_second * 1.05
    Path("mine.csv").write_text(
        "model,gpu,num_gpus,framework,dtype,isl,osl,max_concurrency,metric,value\n"
        f"llama-3-8b,H100,1,TensorRT-LLM,bf16,1000,500,32,output_tokens_per_s_total,{measured}\n"
        "no-model,H100,1,TensorRT-LLM,bf16,9,9,1,output_tokens_per_s_total,5\n",
        encoding="utf-8",
    )
    done = run("validate", "mine.csv", "--kind", "serving")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 rows predicted" in done.stdout
    assert "model='no-model' is not known" in done.stdout
