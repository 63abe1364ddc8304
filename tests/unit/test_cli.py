"""The command as a person runs it: its output and its exit code."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest

import llmhw
from llmhw.catalog import read_measurements, read_model
from llmhw.cli import cli
from llmhw.cost import RunOptions
from llmhw.validation import KINDS
from tests.unit.command import answer, assert_same, refused, run


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "llmhw", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def test_a_process_of_its_own() -> None:
    """All others run in this process."""
    done = process("models", "gpt2-xl", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [found["name"] for found in json.loads(done.stdout)] == ["gpt2-xl"]
    done = process("model", "lama-3-70b")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("llmhw: ")
    assert len(done.stderr.splitlines()) == 1


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
    assert sum(rows["LoRA, rank 16"]["parts"].values()) < rows["LoRA, rank 16"]["needed_bytes"]


def test_lists() -> None:
    assert len(answer("models")) == len(llmhw.models())
    assert {m["model_type"] for m in answer("models", "qwen3")} >= {"qwen3", "qwen3_moe"}
    assert len(answer("gpus")) == len(llmhw.accelerators())
    assert all("H100" in a["name"] for a in answer("gpus", "h100"))
    assert len(answer("formats")) == len(llmhw.number_formats())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["model", "deepseek-v3"], ["671 B parameters, 37.6 B active", "68.6 KiB", "multi-token"]),
        (["model", "gemma-3-27b"], ["27.4 B parameters, 423 M of them vision", "with vision tower 807 MiB"]),
        (["fit", "llama-3-70b", "--gpu", "H100 SXM5 80GB"], ["inference, bf16", "no, short by", "QLoRA"]),
        (["models", "gpt2"], ["gpt2-xl", "1.56 B"]),
        (["gpus", "a100"], ["A100 80GB SXM4", "312"]),
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
        (["--help"], ["models", "gpus", "fit", "train", "explain", "validate", "completion"]),
        ([], ["What do you want to know?"]),
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
        (["model", "llama-3-8b", "--batch", "-1"], "--batch -1 must be a whole number of at least 1"),
        (["model", "llama-3-8b", "--seq-len", "0"], "--seq-len 0 must be a whole number of at least 1"),
        (["model", "llama-3-8b", "--seq-len", "many"], "--seq-len many must be a number above 0, such as 15e12 or 15T"),
        (["model", "llama-3-8b", "--weights", "int3"], "did you mean"),
        (["model"], "the model is missing, as in: llmhw model llama-3-70b"),
        (["fit", "llama-3-8b"], '--gpu is missing, as in: llmhw fit llama-3-8b --gpu "RTX 4090"'),
        (["fit", "llama-3-8b", "--gpu", "h10"], "did you mean"),
        (["fit", "llama-3-8b", "--gpu", "a100"], "A100 80GB SXM4"),
        (["fit", "llama-3-8b", "--gpu", "h100", "--rank", "0"], "--rank 0 must be a whole number"),
        (["models", "nothing-like-this"], "matches no model"),
        (["gpus", "nothing-like-this"], "matches no accelerator"),
        (["formats", "nothing-like-this"], "matches no format"),
        (["explain", "kv_cache_byte"], "did you mean kv_cache_bytes"),
        (["explain", "kv_cache_bytes", "batch"], "must be key=number"),
        (["explain", "matmul_flops", "tokens=1"], "its arguments are tokens, weights"),
        (["explain", "weights"], "needs one model"),
        (["serv"], "'serv' is no command; did you mean serve?"),
    ],
)
def test_one_clear_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    assert message in refused(*arguments)


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
    assert message in refused("model", str(path))


def test_completion_offers_names() -> None:
    done = run(_LLMHW_COMPLETE="bash_complete", COMP_WORDS="llmhw model qwen3-2", COMP_CWORD="2")
    assert done.stdout.splitlines() == [
        "plain,qwen3-235b-a22b",
        "plain,qwen3-235b-a22b-fp8",
        "plain,qwen3-235b-a22b-instruct-2507",
    ]
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
    assert "Does not fit: short by" in done.stdout


def test_measure_beside_the_prediction() -> None:
    pytest.importorskip("torch", reason="needs the extra torch")
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
        (["memory", "llama-3-8b", "--gpu", "h100", "--gpus", "3", "--tp", "3"], "--tp 3 does not divide heads=32"),
        (["memory", "llama-3-8b", "--gpu", "h100", "--zero", "5"], "--zero 5 is not a stage"),
        (["memory", "llama-3-8b", "--gpu", "h100", "--recompute", "some"], "--recompute some is not known"),
        (["measure", "params", "gpt2", "--batch", "2"], "option='batch' is not one of measure_params"),
        (["measure", "speed", "gpt2"], "'speed' is not one of"),
    ],
)
def test_layout_errors(arguments: list[str], message: str) -> None:
    if arguments[:2] == ["measure", "params"]:
        pytest.importorskip("torch", reason="needs the extra torch")
    assert message in refused(*arguments)


def test_without_torch_measure_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('hidden')", encoding="utf-8")
    done = process("measure", "params", "gpt2", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == "llmhw: llmhw.measure needs PyTorch; install it with: pip install 'llmhw[torch]'\n"


# -- validate ---------------------------------------------------------------------------------

FACTS = "id,source,model_name,fact,value,unit,quant\n"


def test_validate_json(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text(
        FACTS
        + "A,card v1.0,llama-3-8b,params_total,8.03,B,\n"
        + "B,card v1.1,llama-3-8b,params_total,8.1,B,\n"
        + "C,card v1.1,llama-3-70b,params_total,many,B,\n",
        encoding="utf-8",
    )
    found = answer("validate", str(path), "--kind", "facts")
    assert (found["kind"], found["rows"], found["skipped"], found["groups"]) == ("facts", 2, 1, 1)
    assert found["median_abs_error"] == pytest.approx(8.1 / 8.065 - 1, abs=0.001)
    assert found["skipped_rows"][0]["id"] == "C"
    assert "C: value='many' must be a number above 0" in found["skipped_rows"][0]["reason"]
    assert set(found["by_source"]) == {"card v1.0", "card v1.1"}
    assert answer("validate", str(path), "--kind", "facts", "--worst", "0")["worst"] == []


def test_validate_text() -> None:
    done = run("validate", "--kind", "facts", "--worst", "3")
    assert done.returncode == 0, done.stderr
    for text in (
        "published facts of models",
        "quoted model.safetensors",
        "the 3 largest errors",
        "skipped rows",
        "MF0403",
    ):
        assert text in done.stdout
    assert ",".join(KINDS) in "".join(run("validate", "--help").stdout.split())


def test_validate_nothing_predicted(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text(FACTS + "A,card,no-such-model,params_total,1,B,\n", encoding="utf-8")
    found = json.loads(run("validate", str(path), "--kind", "facts", "--json").stdout)
    assert (found["rows"], found["skipped"], found["bias"], found["coverage80"]) == (0, 1, None, None)
    assert "model='no-such-model' is not known" in run("validate", str(path), "--kind", "facts").stdout
    assert run("validate", str(path), "--kind", "facts").returncode == 1


def test_validate_fits_and_takes_constants(tmp_path: Path) -> None:
    rows = [row for row in read_measurements("training_memory") if "torchtitan" in row["source"]]
    table, constants = tmp_path / "rows.csv", tmp_path / "fit.json"
    with table.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    fitted = answer("validate", str(table), "--kind", "training-memory", "--fit", str(constants))
    written = json.loads(constants.read_text(encoding="utf-8"))
    assert 1 < written["reserved_over_allocated"] < 1.1
    assert answer("validate", str(table), "--kind", "training-memory", "--calibration", str(constants)) == fitted
    constants.write_text(json.dumps(written | {"reserved_over_allocated": 2}), encoding="utf-8")
    worse = answer("validate", str(table), "--kind", "training-memory", "--calibration", str(constants))
    assert worse["median_abs_error"] > 0.5
    done = run("validate", str(table), "--kind", "training-memory", "--fit", str(constants))
    assert f"the constants were fitted to these rows and written to {constants}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["facts.csv"], "--kind is missing, as in: llmhw validate"),
        (["facts.csv", "--kind", "fact"], "--kind fact is not known; did you mean facts?"),
        (["missing.csv", "--kind", "facts"], "missing.csv does not exist; give the path of a CSV file"),
        ([".", "--kind", "facts"], "is a folder; give the path of a CSV file"),
        (["", "--kind", "facts"], "is a folder"),
        (["binary.csv", "--kind", "facts"], "binary.csv is not a text file; save it as CSV in UTF-8"),
        (["empty.csv", "--kind", "facts"], "empty.csv is empty; its first line must name the columns"),
        (["other.csv", "--kind", "facts"], "column 'model_name' (did you mean modle_name?) is missing in other.csv"),
        (["facts.csv", "--kind", "facts", "--worst", "-1"], "--worst -1 must be"),
        (["facts.csv", "--kind", "facts", "--fit", "fit.json"], "--kind facts has no constants to fit"),
        (["facts.csv", "--kind", "facts", "--calibration", "good.json"], "--kind facts has no constants; leave calib"),
        (["--kind", "training-memory", "--calibration", "no.json"], "no.json does not exist; give a file that"),
        (["--kind", "training-memory", "--calibration", "empty.csv"], "empty.csv is not JSON"),
        (["--kind", "training-memory", "--calibration", "good.json"], "reserved_over_allocated=None must be a number"),
        (["--kind", "training-memory", "--fit", "no/fit.json"], "its folder does not exist; create it first"),
        (["--kind", "training-memory", "--fit", "."], "is not a file; give the path of a file to write"),
        (["--kind", "training-memory", "--fit", "a", "--calibration", "b"], "--fit and --calibration both give"),
    ],
)
def test_validate_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    files = {"facts.csv": FACTS, "binary.csv": "a\0b", "empty.csv": "", "other.csv": "modle_name,fact,value,unit\n"}
    for name, content in (files | {"good.json": "{}"}).items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert message in refused("validate", *arguments)
    assert not list(tmp_path.glob("*.tmp"))


def test_validate_completes_kinds() -> None:
    done = run(_LLMHW_COMPLETE="bash_complete", COMP_WORDS="llmhw validate --kind training-", COMP_CWORD="3")
    assert "plain,training-memory" in done.stdout


# -- train ------------------------------------------------------------------------------------

ON_64 = ["--gpu", "h100", "--gpus", "64", "--tp", "4", "--pp", "8", "--vpp", "5", "--zero", "1", "--sequence-parallel"]
ON_64 += ["--global-batch", "64", "--kernels", "megatron"]


def test_train_json_is_the_library_s_answer() -> None:
    found = answer("train", "llama-3-70b", *ON_64, "--tokens", "15T", "--network", "InfiniBand NDR", "--price", "2.5")
    layout = llmhw.Parallelism(dp=2, tp=4, pp=8, vpp=5, zero=1, sequence_parallel=True)
    cluster = llmhw.Cluster("h100", 64, inter_link="infiniband ndr")
    spec = llmhw.model("llama-3-70b")
    job = llmhw.TrainingJob(model=spec, cluster=cluster, parallelism=layout, global_batch=64, kernels="megatron")
    assert_same(found, llmhw.train(job, tokens=15e12, price=2.5).to_dict())
    keys = {"step_seconds", "step_seconds_interval", "tokens_per_second_per_device", "mfu", "hfu", "memory", "run"}
    assert keys <= set(found)
    assert found["run"]["tokens"] == 15 * 10**12
    assert found["run"]["dollars"] == pytest.approx(2.5 * found["run"]["device_hours"])


def test_train_takes_the_options_of_a_run_in_its_own_units() -> None:
    options = ["--mtbf", "4e4", "--restart", "300", "--checkpoint-interval", "1800", "--checkpoint-blocking", "0.5"]
    options += ["--storage", "2", "--power-fraction", "0.8", "--host-watts", "100", "--pue", "1.1", "--spot"]
    options += ["--grid", "us-va", "--repair-hours", "24", "--hardware-share", "0.5"]
    given = RunOptions(
        mtbf_device_hours=4e4,
        restart_seconds=300,
        checkpoint_interval_seconds=1800,
        checkpoint_blocking=0.5,
        storage_bytes_per_second=2e9,
        power_fraction=0.8,
        host_watts=100,
        pue=1.1,
        grid="Virginia",
        repair_hours=24,
        hardware_share=0.5,
        kind="spot",
    )
    run = {f.name: getattr(given, f.name) for f in fields(given)}
    job = llmhw.TrainingJob(model=llmhw.model("gpt2"), cluster=llmhw.Cluster("h100", 1), seq_len=1024)
    found = answer("train", "gpt2", "--gpu", "h100", "--tokens", "1T", *options)["run"]
    assert found == json.loads(json.dumps(llmhw.train(job, tokens=1e12, **run).run.to_dict()))
    assert (found["defaults"], found["price"]["kind"]) == ({}, "spot")


@pytest.mark.parametrize("command", ["train", "memory", "serve", "simulate"])
def test_every_field_of_a_job_is_an_option_with_a_help(command: str) -> None:
    job = [llmhw.Parallelism, llmhw.TrainingJob] if command in ("train", "memory") else [llmhw.ServingJob]
    options = {param.name: param for param in cli.get_command(click.Context(cli), command).params}
    without = {"dp", "weight_offload", "kv_offload"}
    asked = [f for made in job for f in fields(made) if f.metadata and f.name not in without]
    assert {f.name for made in job for f in fields(made) if not f.metadata} <= {"model", "cluster", "parallelism"}
    for f in asked:
        option = options[f.name]
        assert isinstance(option, click.Option)
        assert option.help
        assert f.name == "seq_len" or option.usual == f.default
    shown = " ".join(run(command, "--help").stdout.split())
    for f in asked:
        if isinstance(f.metadata["kind"], tuple):
            names = f.metadata["kind"]
            assert f"[{'|'.join(names)}]" in shown or f"One of {', '.join(names)}." in shown


def test_memory_with_and_without_dropout() -> None:
    options = ["gpt2", "--gpu", "h100", "--kernels", "megatron"]
    usual, on, off = (answer("memory", *options, *more) for more in ([], ["--dropout"], ["--no-dropout"]))
    assert usual == on
    assert off["allocated_bytes"] < on["allocated_bytes"]


def test_train_and_memory_ask_for_the_same_job() -> None:
    options = ["--gpu", "h100", "--gpus", "8", "--zero", "3", "--recompute", "full", "--compute", "fp8"]
    held = answer("memory", "mixtral-8x7b", *options)
    held.pop("versions")
    assert answer("train", "mixtral-8x7b", *options)["memory"].items() >= held.items()


def test_train_text() -> None:
    done = run("train", "llama-3-70b", *ON_64, "--tokens", "15T")
    assert done.returncode == 0, done.stderr
    assert "between nodes: AWS p5.48xlarge network" in done.stdout
    first, _, parts = done.stdout.partition("\npart ")
    for text in ("tokens/s in all", "MFU", "Fits: ", "device-hours", "$", "on_demand", "kWh"):
        assert text in first
    for text in ("least", "matrix products", "tensor-parallel", "total", "100.0 %", "assumed --mtbf"):
        assert text in parts
    done = run("train", "llama-3-70b", "--gpu", "h100", "--gpus", "8")
    assert "Does not fit: short by" in done.stdout


def test_train_csv(tmp_path: Path) -> None:
    options = ["train", "llama-3-8b", "--gpu", "h100", "--gpus", "8", "--zero", "3", "--csv"]
    done = run(*options)
    assert done.returncode == 0, done.stderr
    row, *more = csv.DictReader(done.stdout.splitlines())
    assert more == []
    assert (row["model"], row["zero"], row["fits"]) == ("llama-3-8b", "3", "True")
    seconds = sum(float(value) for name, value in row.items() if name.startswith("seconds_"))
    assert seconds == pytest.approx(float(row["step_seconds"]))
    assert row["price_date"]
    path = tmp_path / "row.csv"
    written = run(*options, "--output", str(path))
    assert (written.returncode, written.stdout) == (0, "")
    assert path.read_text(encoding="utf-8") == done.stdout


def test_train_takes_constants_and_a_network(tmp_path: Path) -> None:
    from llmhw.catalog import read_calibration

    options = ["train", "llama-3-8b", "--gpu", "h100", "--gpus", "16", "--zero", "1", "--software", "torchtune"]
    known = read_calibration("training_time")
    path = tmp_path / "own.json"
    path.write_text(json.dumps({**known, "common": {**known["common"], "bandwidth": 0.4}}), encoding="utf-8")
    before, own, slow = (answer(*options, *more) for more in ([], ["--calibration", str(path)], ["--network", "1"]))
    assert before["step_seconds"] < own["step_seconds"]
    assert before["step_seconds"] < slow["step_seconds"]
    assert before["software"] == "torchtune"


ONE = ["llama-3-8b", "--gpu", "h100"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["llama-3-8b", "--gpu", "h10"], "--gpu h10 is not known; did you mean H100 SXM5 80GB"),
        ([*ONE, "--gpus", "3", "--tp", "3"], "--tp 3 does not divide heads=32; use one of 1, 2, 4, 8, 16, 32"),
        (
            [*ONE, "--gpus", "12"],
            "--gpus 12 is not a multiple of 8, a usual node of H100 SXM5 80GB; give --devices-per-node",
        ),
        ([*ONE, "--gpus", "12", "--devices-per-node", "8"], "--devices-per-node 8 does not divide --gpus 12"),
        ([*ONE, "--region", "mars"], "--region mars has no price of H100 SXM5 80GB; the catalog has eastus, "),
        ([*ONE, "--price", "2", "--region", "eastus"], "leave provider and region out"),
        ([*ONE, "--price", "-2"], "--price -2.0 must be a number above 0"),
        (["llama-3-8b", "--gpu", "A100 80GB SXM", "--compute", "fp8"], "format='fp8' has no dense rate on A100 80GB"),
        ([*ONE, "--compute", "fp9"], "--compute fp9 is not known; did you mean fp8"),
        ([*ONE, "--software", "deepseed"], "--software deepseed is not known; did you mean deepspeed"),
        ([*ONE, "--tokens", "-5"], "--tokens -5 must be a number above 0, such as 15e12 or 15T"),
        ([*ONE, "--tokens", "1.5"], "--tokens 1.5 must be a whole number of at least 1"),
        ([*ONE, "--calibration", "no.json"], "no.json does not exist; give a file that `llmhw validate --fit` wrote"),
        ([*ONE, "--calibration", "memory.json"], "calibration has no common, links, families, switches, interval"),
        ([*ONE, "--network", "NVLnk"], "--network NVLnk is not known; did you mean NVLink"),
        ([*ONE, "--network", "-3"], "--network -3 must be a link's name, or a number of GB/s from"),
        (["llama-3-8b", "--gpu", "rtx 4090", "--gpus", "16"], "network between nodes of RTX 4090 is not known: no ma"),
        ([*ONE, "--mtbf", "-1"], "--mtbf -1.0 must be a number above 0"),
        ([*ONE, "--pue", "0.5"], "--pue 0.5 must be a number of at least 1"),
        ([*ONE, "--expert-imbalance", "0.5"], "--expert-imbalance 0.5 must be a number of at least 1"),
        ([*ONE, "--json", "--csv"], "--json and --csv are two forms of one answer; leave one out"),
        ([*ONE, "--output", "row.foo"], "--output row.foo needs a form: end it in .json"),
        ([*ONE, "--csv", "--output", "no/row.csv"], "no/row.csv cannot be written: its folder does not exist"),
    ],
)
def test_train_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    (tmp_path / "memory.json").write_text('{"reserved_over_allocated": 1.05}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert message in refused("train", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["memory.json"]


def test_train_completes_software() -> None:
    done = run(_LLMHW_COMPLETE="bash_complete", COMP_WORDS="llmhw train gpt2 --software torch", COMP_CWORD="4")
    assert "plain,torchtitan" in done.stdout
