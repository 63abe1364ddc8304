"""`llmhw serve` and `llmhw simulate`, as a person runs them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import llmhw
from llmhw.catalog import read_calibration
from llmhw.service import simulate_service
from llmhw.simulation import LogNormal, Uniform
from tests.unit.command import answer, assert_same, refused, run

ON_8 = ["llama-3.1-70b", "--gpu", "h100", "--gpus", "8", "--tp", "4", "--weights", "fp8", "--kv", "fp8"]
ON_8 += ["--max-model-len", "16384"]
ONE = ["llama-3-8b", "--gpu", "h100"]


def on_8() -> llmhw.ServingJob:
    spec, cluster = llmhw.model("llama-3.1-70b"), llmhw.Cluster("h100", 8)
    return llmhw.ServingJob(model=spec, cluster=cluster, tp=4, weights="fp8", kv="fp8", max_model_len=16384)


def test_constants_of_one_s_own(tmp_path: Path) -> None:
    """A file as `validate --fit` writes it, of an H100 that reads its memory half as fast."""
    constants = read_calibration("serving_time")
    hopper = constants["families"]["hopper"]
    families = constants["families"] | {"hopper": hopper | {"bandwidth": hopper["bandwidth"] / 2}}
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(constants | {"families": families}), encoding="utf-8")
    before, after = (answer("serve", *ONE, "--concurrency", "1", *more) for more in ([], ["--calibration", str(file)]))
    assert 1.5 < after["tpot_seconds"] / before["tpot_seconds"] < 2
    played = ["simulate", *ONE, "--rate", "0.1", "--requests", "20", "--calibration", str(file)]
    assert answer(*played)["simulated"]["tpot"]["mean"] == pytest.approx(after["tpot_seconds"], rel=0.05)


# -- serve ------------------------------------------------------------------------------------


def test_serve_json_is_the_library_s_answer() -> None:
    options = [
        "--input-tokens",
        "800",
        "--output-tokens",
        "200",
        "--rate",
        "3",
        "--slo-ttft",
        "1",
        "--slo-tpot",
        "0.05",
    ]
    found = answer("serve", *ON_8, *options, "--price", "2.5")
    told = llmhw.serve(
        on_8(), input_tokens=800, output_tokens=200, rate=3, slo_ttft=1, slo_tpot=0.05, price=2.5
    ).to_dict()
    assert_same(found, told)
    keys = {"ttft_seconds", "tpot_seconds", "tokens_per_second", "tokens_per_second_interval", "requests_per_second"}
    assert keys | {"requests_per_second_within_slo", "dollars_per_million_tokens", "curve", "memory"} <= set(found)
    assert found["memory"]["kv_tokens"] > 0
    assert [p["concurrency"] for p in found["curve"]][:3] == [1, 2, 4]


def test_serve_takes_a_draft_and_a_spot_price() -> None:
    plain, drafted = (
        answer("serve", *ON_8, "--concurrency", "1", "--spot", *more)
        for more in ([], ["--draft", "llama-3.2-1b", "--draft-tokens", "3", "--acceptance", "0.0"])
    )
    assert plain["price"]["kind"] == "spot"
    assert drafted["tokens_per_second"] < plain["tokens_per_second"]
    assert drafted["capacity"] <= plain["capacity"]


def test_serve_text() -> None:
    done = run("serve", *ON_8, "--concurrency", "16", "--slo-tpot", "0.2", "--price", "2.5")
    assert done.returncode == 0, done.stderr
    first, _, curve = done.stdout.partition("tokens/s a user")
    for text in (
        "2 replicas",
        "of weights and",
        "of KV cache",
        "first token",
        "80 % interval",
        "tokens/s",
        "requests",
    ):
        assert text in first
    for text in ("16 requests at work of", "within the limits", "a million tokens", "$2.50 a device-hour"):
        assert text in first
    rows = [line.split() for line in curve.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows[:3]] == ["1", "2", "4"]
    assert all(row[-1].startswith("$") for row in rows)


def test_serve_of_an_experts_model_and_of_a_split_by_layers() -> None:
    options = ["--gpu", "h200", "--gpus", "8", "--tp", "4", "--attention-dp", "2", "--ep", "8", "--weights", "fp8"]
    found = answer("serve", "deepseek-v2", *options, "--max-model-len", "8192")
    assert found["memory"]["replicas"] == 1
    split = ["--gpus", "2", "--pp", "2", "--split", "layers", "--engine", "llama.cpp", "--weights", "q4_k_m"]
    found = answer("serve", "llama-3-8b", "--gpu", "rtx 4090", *split, "--max-sequences", "4")
    assert found["capacity"] == 4


def test_serve_csv_is_the_curve(tmp_path: Path) -> None:
    options = ["serve", *ON_8, "--price", "2.5", "--curve"]
    done = run(*options, "--csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    told = llmhw.serve(on_8(), input_tokens=1000, output_tokens=500, price=2.5)
    assert [int(row["concurrency"]) for row in rows] == [p.concurrency for p in told.curve]
    assert {row["model"] for row in rows} == {"llama-3.1-70b"}
    assert float(rows[-1]["tokens_per_second"]) == told.curve[-1].tokens_per_second
    assert float(rows[-1]["dollars_per_million_tokens"]) == told.dollars_per_million_tokens
    path = tmp_path / "curve.csv"
    written = run(*options, "--csv", "--output", str(path))
    assert (written.returncode, written.stdout) == (0, "")
    assert path.read_text(encoding="utf-8") == done.stdout


# -- simulate ---------------------------------------------------------------------------------


def test_simulate_json_is_the_library_s_answer() -> None:
    options = ["--rate", "4", "--requests", "200", "--seed", "3", "--slo-ttft", "1", "--slo-tpot", "0.05"]
    lengths = ["--input-tokens", "lognormal:600:0.5:10:3000", "--output-tokens", "uniform:50:250"]
    found = answer("simulate", *ON_8, *options, *lengths)
    told = simulate_service(
        on_8(),
        rate=4,
        requests=200,
        seed=3,
        slo_ttft=1,
        slo_tpot=0.05,
        input_tokens=LogNormal(600, 0.5, 10, 3000),
        output_tokens=Uniform(50, 250),
    )
    assert_same(found, told.to_dict())
    assert (found["groups"], found["rate_simulated"]) == (2, 2.0)
    assert found["simulated"]["requests"] == 200
    assert found["simulated"]["goodput"] is not None


def test_simulate_text_says_what_was_simulated() -> None:
    done = run("simulate", *ON_8, "--rate", "4", "--requests", "100", "--slo-tpot", "1")
    assert done.returncode == 0, done.stderr
    for text in (
        "One of 2 equal groups was simulated, with 2 of the 4 requests a second",
        "continuous batching: 100 requests",
        "time to first token",
        "p99",
        "KV blocks held",
        "goodput",
        "output tokens, all groups",
    ):
        assert text in done.stdout


@pytest.mark.parametrize(
    "more",
    [
        ["--mode", "static", "--max-sequences", "8"],
        ["--mode", "dynamic", "--max-delay", "0.1"],
        ["--chunked-prefill", "--max-batched-tokens", "512"],
        ["--gpus", "4", "--mode", "disaggregated", "--prefill-workers", "1"],
        ["--prefix-tokens", "500", "--output-tokens", "exponential:80"],
    ],
)
def test_simulate_modes(more: list[str]) -> None:
    found = answer("simulate", *ONE, "--rate", "2", "--requests", "40", *more)
    assert found["simulated"]["requests"] == 40
    assert found["simulated"]["complete"] is True
    if "--mode" in more:
        assert found["simulated"]["mode"] == more[more.index("--mode") + 1]


TRACE = "arrival_seconds,input_tokens,output_tokens\n0,100,20\n0.5,300,30\n\n1,200,40\n1.5,200,50\n"


def test_simulate_plays_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE, encoding="utf-8")
    found = answer("simulate", *ONE, "--trace", str(path))
    assert found["rate"] == pytest.approx(2)
    assert (found["simulated"]["requests"], found["simulated"]["input_tokens"]) == (4, 800)
    assert answer("simulate", *ONE, "--trace", str(path), "--speed", "2")["rate"] == pytest.approx(4)
    assert answer("simulate", *ONE, "--trace", str(path), "--requests", "2")["simulated"]["output_tokens"] == 50
    # two replicas take turns
    shared = answer("simulate", *ONE, "--gpus", "2", "--trace", str(path))
    assert (shared["simulated"]["requests"], shared["simulated"]["output_tokens"]) == (2, 60)
    drawn = answer("simulate", *ONE, "--rate", "1", "--requests", "50", "--output-tokens", f"csv:{path}")
    assert 50 * 20 < drawn["simulated"]["output_tokens"] < 50 * 50


def test_simulate_csv(tmp_path: Path) -> None:
    options = ["simulate", *ONE, "--rate", "2", "--requests", "40", "--csv"]
    done = run(*options)
    assert done.returncode == 0, done.stderr
    row, *more = csv.DictReader(done.stdout.splitlines())
    assert more == []
    assert (row["model"], row["simulated_requests"]) == ("llama-3-8b", "40")
    assert float(row["simulated_ttft_p50"]) <= float(row["simulated_ttft_p99"])
    path = tmp_path / "row.csv"
    written = run(*options, "--output", str(path))
    assert (written.returncode, written.stdout) == (0, "")
    assert path.read_text(encoding="utf-8") == done.stdout


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("written", [False, True])
def test_simulate_interrupted(tmp_path: Path, written: bool) -> None:
    path = tmp_path / "found.json"
    options = ["simulate", *ONE, "--rate", "8", "--requests", "100000000", "--json"]
    options += ["--output", str(path)] if written else []
    # the line on stderr says that the simulation is about to begin
    code = (
        "import sys, llmhw.simulation as s\n"
        "play = s.simulate\n"
        "def told(*a, **k):\n"
        "    print('begins', file=sys.stderr, flush=True)\n"
        "    return play(*a, **k)\n"
        "s.simulate = told\n"
        "from llmhw.cli import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "begins\n"
        time.sleep(0.7)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    if written:
        assert out == ""
        assert list(tmp_path.iterdir()) == []
    else:
        found = json.loads(out)
        assert found["simulated"]["complete"] is False
        assert found["simulated"]["requests"] > 0


# -- wrong arguments --------------------------------------------------------------------------

FILES = {
    "gap.csv": "gap_seconds,input_tokens,output_tokens\n0,100,20\n-1,100,20\n",
    "column.csv": "gap_seconds,input_tokens\n0,100\n",
    "order.csv": "arrival_seconds,input_tokens,output_tokens\n5,100,20\n4,100,20\n",
    "long.csv": "gap_seconds,input_tokens,output_tokens\n0,100,20\n1,9000,30\n",
    "word.csv": "gap_seconds,input_tokens,output_tokens\n0,many,20\n",
    "empty.csv": "gap_seconds,input_tokens,output_tokens\n",
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "llama-3-8b"], "--gpu is missing"),
        (["serve", "llama-3-8b", "--gpu", "h10"], "--gpu h10 is not known"),
        (["serve", *ONE, "--engine", "vlm"], "--engine vlm is not known; did you mean vllm"),
        (["serve", *ONE, "--weights", "int4-gpt"], "int4-gpt"),
        (["serve", *ONE, "--gpus", "3", "--tp", "3"], "--tp 3 does not divide heads=32"),
        (["serve", *ONE, "--gpus", "3", "--tp", "2"], "does not divide the cluster's 3 devices"),
        (["serve", *ONE, "--ep", "2"], "--ep 2"),
        (
            ["simulate", "llama-3.1-70b", "--gpu", "h100", "--rate", "1"],
            "does not hold one request of 1500 tokens: sho",
        ),
        (["serve", *ONE, "--acceptance", "0.5"], "--acceptance 0.5 has no effect without a draft"),
        (["serve", *ONE, "--rate", "2", "--concurrency", "3"], "are two ways to say the load; give one"),
        (["serve", *ONE, "--input-tokens", "9000"], "is longer than --max-model-len 8192"),
        (["serve", *ONE, "--draft", "gpt2", "--acceptance", "2"], "--acceptance 2.0 must be at least 0 and below 1"),
        (["serve", *ONE, "--draft", "llama-3.2-1"], "llama-3.2-1"),
        (["serve", *ONE, "--price", "2", "--region", "eastus"], "leave provider and region out"),
        (["serve", *ONE, "--json", "--csv"], "--json and --csv are two forms of one answer; leave one out"),
        (["serve", *ONE, "--output", "row.foo"], "--output row.foo needs a form"),
        (["serve", *ONE, "--csv", "--output", "no/row.csv"], "its folder does not exist"),
        (["simulate", *ONE], "--rate None, --concurrency None and --trace None: give one of the three"),
        (["simulate", *ONE, "--rate", "1", "--trace", "gap.csv"], "give one of the three"),
        (["simulate", *ONE, "--trace", "gap.csv"], "gap.csv, line 3: gap_seconds='-1' must be a number of at least 0"),
        (
            ["simulate", *ONE, "--trace", "column.csv"],
            "column 'output_tokens' (did you mean --input-tokens?) is missing",
        ),
        (["simulate", *ONE, "--trace", "order.csv"], "order.csv, line 3: arrival_seconds='4' must not be before"),
        (
            ["simulate", *ONE, "--trace", "long.csv"],
            "long.csv, line 3: --input-tokens 9000 and --output-tokens 30 must be",
        ),
        (["simulate", *ONE, "--gpus", "2", "--trace", "long.csv"], "long.csv, line 3: --input-tokens 9000"),
        (["simulate", *ONE, "--trace", "word.csv"], "word.csv, line 2: --input-tokens many must be a number"),
        (["simulate", *ONE, "--trace", "empty.csv"], "--trace empty.csv has no requests"),
        (["simulate", *ONE, "--trace", "none.csv"], "none.csv does not exist; give the path of a CSV file"),
        (["simulate", *ONE, "--rate", "1", "--mode", "batch"], "--mode batch is not known"),
        (["simulate", *ONE, "--rate", "1", "--mode", "static", "--chunked-prefill"], "belongs to mode continuous"),
        (["simulate", *ONE, "--rate", "1", "--mode", "disaggregated"], "need a multiple of 2 replicas"),
        (
            ["simulate", *ONE, "--rate", "1", "--input-tokens", "normal:5"],
            "--input-tokens normal:5 must be a whole num",
        ),
        (["simulate", *ONE, "--rate", "1", "--output-tokens", "uniform:9:5"], "high=5"),
        (["simulate", *ONE, "--rate", "1", "--input-tokens", "csv:word.csv"], "word.csv, line 2: --input-tokens many"),
        (["simulate", *ONE, "--rate", "1", "--json", "--output", "no/a.json"], "its folder does not exist"),
    ],
)
def test_errors_are_one_line_and_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    if "--trace" in arguments and "--rate" not in arguments:
        arguments = [*arguments, "--json", "--output", "found.json"]
    assert message in refused(*arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_options_complete() -> None:
    done = run(_LLMHW_COMPLETE="bash_complete", COMP_WORDS="llmhw serve gpt2 --engine v", COMP_CWORD="4")
    assert "plain,vllm" in done.stdout
    done = run(_LLMHW_COMPLETE="bash_complete", COMP_WORDS="llmhw simulate gpt2 --mode c", COMP_CWORD="4")
    assert "plain,continuous" in done.stdout
    assert "[static|dynamic|continuous|disaggregated]" in run("simulate", "--help").stdout
