"""The command as a person runs it: a process, its output and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llmhw
from llmhw.catalog import read_model


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", "from llmhw.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def answer(*arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_model_json_has_the_stable_keys() -> None:
    found = answer("model", "llama-3-70b")
    assert found["parameters"]["total"] == 70553706496
    assert found["parameters"]["active"] == 70553706496
    assert sum(found["parameters"]["by_component"].values()) == 70553706496
    assert found["kv_cache_bytes_per_token"] == 327680
    spec = llmhw.model("llama-3-70b")
    assert found["flops"]["forward_per_token"] == llmhw.forward_flops(spec, seq_len=4096).total / 4096
    assert found["flops"]["backward_per_token"] == 2 * found["flops"]["forward_per_token"]


def test_a_reader_s_own_config(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(read_model("qwen3-30b-a3b")[1]), encoding="utf-8")
    found = answer("model", str(path), "--seq-len", "1000", "--kv", "fp8")
    assert found["parameters"]["total"] == llmhw.model("qwen3-30b-a3b").parameters.total
    assert found["kv_cache_bytes"] == 1000 * found["kv_cache_bytes_per_token"]


def test_fit_json() -> None:
    found = answer("fit", "llama-3-8b", "--gpu", "rtx 4090", "--formats", "bf16,q4_k_m")
    rows = {row["use"]: row for row in found["rows"]}
    assert rows["inference, bf16"]["fits"]
    assert not rows["full training, AdamW mixed precision"]["fits"]
    assert sum(rows["LoRA, rank 16"]["parts"].values()) == pytest.approx(rows["LoRA, rank 16"]["needed_bytes"])


def test_lists() -> None:
    assert len(answer("models")) == len(llmhw.models())
    assert {m["model_type"] for m in answer("models", "qwen3")} >= {"qwen3", "qwen3_moe"}
    assert len(answer("gpus")) == len(llmhw.accelerators())
    assert all("H100" in a["name"] for a in answer("gpus", "h100"))
    assert len(answer("formats")) == len(llmhw.number_formats())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["model", "deepseek-v3"], ["671 B parameters, 37.6 B active", "68.6 KiB per token", "multi-token"]),
        (["model", "gemma-3-27b"], ["Not counted: vision"]),
        (["fit", "llama-3-70b", "--gpu", "H100 SXM5 80GB"], ["inference, bf16", "no: short by", "QLoRA"]),
        (["models", "gpt2"], ["gpt2-xl", "1.56 B"]),
        (["gpus", "a100"], ["A100 80GB SXM4", "312 TFLOP/s"]),
        (["formats", "gptq"], ["int4-gptq", "4.156"]),
        (["explain"], ["kv_cache_bytes", "formulas"]),
        (["explain", "kv_cache_bytes"], ["source:", "batch * tokens * kv_heads"]),
        (["explain", "matmul_flops", "tokens=1", "weights=7e9"], ["2 * 1 * 7000000000 = 14000000000"]),
        (["explain", "kv-cache", "llama-2-7b"], ["total = 2.00 GiB"]),
        (["explain", "weights", "gpt2", "--format", "int8"], ["total = "]),
        (["explain", "training-states", "gpt2"], ["momentum"]),
        (["explain", "forward-flops", "gpt2"], ["attention_core"]),
        (["explain", "lora", "gpt2"], ["adapters"]),
        (["--version"], [llmhw.__version__]),
        (["--help"], ["models", "gpus", "fit", "explain", "completion"]),
        ([], ["Usage"]),
        (["completion", "bash"], ["_LLMHW_COMPLETE"]),
        (["completion", "zsh"], ["_LLMHW_COMPLETE"]),
        (["completion", "fish"], ["_LLMHW_COMPLETE"]),
    ],
)
def test_texts(arguments: list[str], expected: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    for text in expected:
        assert text in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "missing/config.json"], "does not exist; give the path of a config.json"),
        (["model", "lama-3-70b"], "did you mean llama-3-70b"),
        (["model", "llama-3-8b", "--batch", "-1"], "batch=-1 must be a whole number of at least 1"),
        (["model", "llama-3-8b", "--seq-len", "0"], "seq_len=0 must be a whole number of at least 1"),
        (["model", "llama-3-8b", "--seq-len", "many"], "'many' is not a valid integer"),
        (["model", "llama-3-8b", "--weights", "int3"], "did you mean"),
        (["model"], "Missing argument"),
        (["fit", "llama-3-8b"], "Missing option '--gpu'"),
        (["fit", "llama-3-8b", "--gpu", "h10"], "did you mean"),
        (["fit", "llama-3-8b", "--gpu", "a100"], "A100 80GB SXM4"),
        (["fit", "llama-3-8b", "--gpu", "h100", "--rank", "0"], "rank=0 must be a whole number"),
        (["models", "nothing-like-this"], "matches no model"),
        (["gpus", "nothing-like-this"], "matches no accelerator"),
        (["formats", "nothing-like-this"], "matches no format"),
        (["explain", "kv_cache_byte"], "did you mean kv_cache_bytes"),
        (["explain", "kv_cache_bytes", "batch"], "must be key=number"),
        (["explain", "matmul_flops", "tokens=1"], "its arguments are tokens, weights"),
        (["explain", "weights"], "needs one model"),
        (["serv"], "No such command 'serv'"),
    ],
)
def test_one_clear_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("llmhw: ")
    assert message in lines[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a JSON list"),
        ('{"a": 1}', "has no model_type"),
        ('{"model_type": "mamba9"}', "model_type='mamba9' is not supported"),
        (
            '{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "vocab_size": 9,'
            ' "intermediate_size": 8, "num_attention_heads": 8, "num_key_value_heads": 3}',
            "kv_heads=3 does not divide heads=8",
        ),
    ],
)
def test_bad_config_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    done = run("model", str(path))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_completion_offers_names() -> None:
    done = run(_LLMHW_COMPLETE="bash_complete", COMP_WORDS="llmhw model qwen3-2", COMP_CWORD="2")
    assert done.stdout.splitlines() == ["plain,qwen3-235b-a22b", "plain,qwen3-235b-a22b-fp8"]
    done = run(_LLMHW_COMPLETE="bash_complete", COMP_WORDS="llmhw fit gpt2 --gpu H100", COMP_CWORD="4")
    assert "plain,H100 SXM5 80GB" in done.stdout


def test_a_closed_pipe_is_no_error() -> None:
    command = f"'{sys.executable}' -c 'from llmhw.cli import main; main()' models --json | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout == "[\n"
    assert done.stderr == ""


def test_memory_json_adds_up() -> None:
    layout = ["--gpu", "h100", "--gpus", "64", "--tp", "8", "--pp", "4", "--zero", "1", "--global-batch", "32"]
    found = answer("memory", "llama-3-70b", *layout, "--kernels", "megatron")
    assert len(found["stages"]) == 4
    worst = found["stages"][found["worst_stage"]]
    assert sum(worst["parts"].values()) == pytest.approx(worst["total"])
    assert worst["total"] == found["allocated_bytes"] < found["reserved_bytes"] < found["device_bytes"]


def test_memory_text() -> None:
    done = run("memory", "llama-3-8b", "--gpu", "rtx 4090")
    assert done.returncode == 0
    assert "It does not fit: short by" in done.stdout


def test_measure_beside_the_prediction() -> None:
    found = answer("measure", "params", "gpt2")
    assert found["ratio"] == 1
    assert found["measured"] == llmhw.model("gpt2").parameters.total


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["memory", "llama-3-8b", "--gpu", "h100", "--gpus", "8", "--tp", "3"],
            "tp x pp x cp = 3 x 1 x 1 = 3 does not",
        ),
        (["memory", "llama-3-8b", "--gpu", "h100", "--gpus", "3", "--tp", "3"], "tp=3 does not divide heads=32"),
        (["memory", "llama-3-8b", "--gpu", "h100", "--zero", "5"], "zero=5 is not a stage"),
        (["memory", "llama-3-8b", "--gpu", "h100", "--recompute", "some"], "recompute='some' is not known"),
        (["measure", "params", "gpt2", "--batch", "2"], "option='batch' is not one of measure_params"),
        (["measure", "speed", "gpt2"], "'speed' is not one of"),
    ],
)
def test_layout_errors(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert message in done.stderr


def test_without_torch_measure_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('hidden')", encoding="utf-8")
    done = run("measure", "params", "gpt2", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == "llmhw: llmhw.measure needs PyTorch; install it with: pip install 'llmhw[torch]'\n"
