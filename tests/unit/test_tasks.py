"""What people come with, each answered by the command in at most three tries from its help; the last try is checked.

Renting against buying, and the command that launches a job, are not answered yet.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

import llmhw
from llmhw.catalog import read_model
from tests.unit.command import run

TASKS = {
    "a 70B on two 3090s": (
        ["serve llama-3.1-70b --gpu 'RTX 3090' --gpus 2 --weights q4_k_m"],
        [
            r"^Fits barely: ",
            r"1[4-9]\.\d tokens/s for each of 1",
            r"pp 2 assumed",
            r"longest context +one sequence of [12]\d,\d+ tok",
        ],
    ),
    "the card below $2,500 that gives a 32B 20 tokens/s": (
        [
            "prices --kind purchase --max 2500",
            "serve qwen3-32b --gpu 'RTX 3060 12GB,RTX 3090,RTX 4090,RTX 5090' --weights int4-awq --concurrency 1",
        ],
        [r"RTX 3060 12GB +no", r"RTX 3090 +yes .* [234]\d\.\d +[234]\d\.\d ", r"3 of 4 fit"],
    ),
    "QLoRA of an 8B at 8k on 24 GB": (
        ["fit llama-3.1-8b --gpu 'RTX 4090' --seq-len 8192 --weights nf4"],
        [r"QLoRA, rank 16: fits up to [5-8],\d+ tokens|QLoRA, rank 16 +(yes|barely)"],
    ),
    "Mistral with ZeRO-3 on eight A100 of 40 GB": (
        [
            "train mistral-7b --gpu 'A100 40GB SXM4' --gpus 8 --zero 3",
            "train mistral-7b --gpu 'A100 40GB SXM4' --gpus 8 --zero 3 --recompute full --tokens 1B",
        ],
        [
            r"^Fits: 20\.\d of 39\.5 GiB",
            r"time +\d+\.\d h +[\d.]+ h to [\d.]+ h",
            r"cost +\$\d+",
            r"price .* a device-hour, ",
        ],
    ),
    "a 1B on 300B tokens with 64 H100": (
        ["train llama-3.2-1b --gpu h100 --gpus 64 --tokens 300B"],
        [r"^Fits: ", r"time +1\.\d+ days", r"cost +\$1\d,\d+", r"between nodes: "],
    ),
    "a 405B on 16k H100": (
        [
            "train llama-3.1-405b -g h100 -n 16384 --tp 8 --pp 16 --uneven -t 15.6T -s 8192 --zero 1",
            "train llama-3.1-405b -g h100 -n 16384 --tp 8 --pp 16 --uneven -t 15.6T -s 8192 --zero 1 --recompute full",
        ],
        [
            r"^Fits: ",
            r"global batch 16,384 = 128 micro-batches",
            r"MFU +3\d\.\d %",
            r"time +\d+\.?\d* days",
            r"global-batch .* assumed",
        ],
    ),
    "DeepSeek-V3 for 500 users at 30 tokens/s": (
        [
            "serve deepseek-v3 --gpu h200 --gpus 32,64,128 --tp 1 --ep 16 --attention-dp 16 --slo-tpot 0.033",
        ],
        [r"128 +\d\d\d ", r"all prices are of --provider"],
    ),
    "four cards beside each other": (
        ["serve llama-3.1-70b --gpu h100,h200,b200,mi300x --gpus 8 --tp 8 --weights fp8 --concurrency 64"],
        [r"Fastest: --gpu b200", r"Cheapest: --gpu ", r"All 4 fit", r"all prices are of --provider"],
    ),
    "the longest context of a model with windows": (
        ["serve gemma-3-27b --gpu 'A100 80GB SXM4' --kv fp8"],
        [r"longest context +one sequence of 131,072 tokens"],
    ),
    "gpt-oss on a Mac": (
        ["serve gpt-oss-20b --gpu 'M3 Max 128GB'"],
        [r"^Fits: ", r"in MXFP4_MOE", r"llama\.cpp", r"[3-9]\d\.\d tokens/s for each of 1"],
    ),
    "Mixtral on four L40S: tensors or stages": (
        [
            "serve mixtral-8x7b --gpu L40S --gpus 4 --tp 1 --pp 4 --concurrency 1,32",
            "serve mixtral-8x7b --gpu L40S --gpus 4 --tp 4 --concurrency 1,32",
        ],
        [r"32 .* [67]\d\d "],
    ),
    "how micro-batches change MFU": (
        ["train llama-3-8b --gpu h100 --gpus 8 --zero 3 --recompute full --micro-batch 1,2,4"],
        [r"Fastest: --micro-batch 4", r"1 .* 39\.\d %", r"4 .* 41\.\d %"],
    ),
    "what a draft model gains": (
        ["serve llama-3-70b --gpu h100 --gpus 8 --tp 8 --draft llama-3.2-1b --concurrency 1"],
        [
            r"draft llama-3\.2-1b of 4 tokens",
            r"speculative decoding +[\d.]+ tokens/s a user with the draft, [\d.]+ .* without",
        ],
    ),
    "64 users of a 70B in vLLM": (
        ["serve llama-3-70b --gpu h100 --gpus 8 --tp 8 --engine vLLM --concurrency 64"],
        [r"2,\d\d\d tokens/s for all users \(80 %: 1,\d+ to \d,\d+\)", r"assumed: what vllm, its newest"],
    ),
    "why it runs out of memory": (
        ["memory llama-3-8b --gpu h100 --gpus 8 --zero 1 --micro-batch 4"],
        [
            r"^Does not fit: short by",
            r"activations +9\d\.\d GiB +6\d\.\d %",
            r"Try: .*--zero 3 --recompute full: \d+\.\d GiB",
        ],
    ),
    "twenty LoRA adapters": (
        ["serve llama-3-8b --gpu h100 --lora-adapters 20 --concurrency 64"],
        [r"LoRA adapters +20 of rank 16: 1\.\d+ GiB"],
    ),
    "where a number comes from": (
        ["train llama-3-8b --gpu h100 --gpus 8 --zero 3 --recompute full --explain MFU"],
        [r"utilization\(", r"\[.*\]"],
    ),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_task(task: str) -> None:
    import shlex

    tries, texts = TASKS[task]
    assert len(tries) <= 3
    for line in tries:
        done = run(*shlex.split(line))
        assert (done.returncode, done.stderr) == (0, "")
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
