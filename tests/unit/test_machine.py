"""A machine's file names a device, with what was measured on it over what was fitted to others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import llmhw
from llmhw.machine import FORMAT, machine_of
from llmhw.rates import serving_constants, training_constants
from llmhw.trainers import trainer

MINE = {"name": "mine", "memory_mib": 24576, "memory_bandwidth_gb_per_second": 20, "fp32_tflops": 0.1}
CONSTANTS = {
    "training_time": {"matmul": 0.9, "bandwidth": 0.7},
    "training_time eager": {"passes": 3.0},
    "serving_time": {"attention": 0.2},
    "serving_time transformers": {"gap": 2e-5, "packed": 1.5},
}
FILE = {"format": FORMAT, "machine": {}, "device": {**MINE, "bf16_tflops": 0.2}, "constants": CONSTANTS, "rates": []}


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "here.json"
    file.write_text(json.dumps(FILE), encoding="utf-8")
    return str(file)


def test_what_was_measured_stands_over_what_was_fitted(path: str) -> None:
    here = llmhw.accelerator(path)
    assert (here.name, here.status, here.source) == ("mine", "measured", path)
    eager, compiled = (training_constants(here, trainer(name)) for name in ("eager", "compiled"))
    assert (eager.matmul, eager.bandwidth, eager.passes) == (0.9, 0.7, 3.0)
    assert compiled.matmul == 0.9
    assert compiled.passes == training_constants(llmhw.accelerator("h100"), trainer("compiled")).passes
    plain = serving_constants(here, "transformers")
    assert (plain.attention, plain.gap, plain.packed) == (0.2, 2e-5, 1.5)
    assert serving_constants(here, "vllm-v1").packed == 1.0


def test_a_measured_card_keeps_its_facts() -> None:
    here = machine_of(FILE | {"device": {"like": "h100"}})
    known = llmhw.accelerator("h100")
    assert (here.peaks, here.memory_bytes, here.prices) == (known.peaks, known.memory_bytes, known.prices)
    layout = {"cluster": llmhw.Cluster(here, 1), "model": "gpt2", "seq_len": 1024, "software": "eager"}
    mine, theirs = (llmhw.train(llmhw.TrainingJob(**layout | {"cluster": llmhw.Cluster(d, 1)})) for d in (here, known))
    assert mine.step_seconds != theirs.step_seconds


def test_every_command_takes_it(path: str) -> None:
    here = llmhw.accelerator(path)
    job = llmhw.TrainingJob(model="gpt2", cluster=llmhw.Cluster(here, 1), seq_len=256, precision="fp32")
    found = llmhw.train(job)
    # 6 FLOP a parameter and token, at what was measured: no step is faster
    assert found.step_seconds > 6 * 124e6 * 256 / (0.1e12 * 0.9) * 0.9
    assert not any("few or no training runs" in line for line in found.warnings())
    service = llmhw.ServingJob(model="gpt2", cluster=llmhw.Cluster(here, 1), engine="transformers", weights="fp32")
    one = llmhw.serve(service, input_tokens=64, output_tokens=8, concurrency=1)
    # weights are read for every token, by products of one row
    assert one.to_row()["tokens_per_second_per_user"] < 20e9 / (124e6 * 4)
    assert llmhw.fit("gpt2", path, seq_len=128)


def test_fp32_is_not_multiplied_at_the_rate_of_16_bit(path: str) -> None:
    """An A100 multiplies fp32, without TF32, at a sixteenth of bf16's rate."""
    job = {"model": "gpt2", "cluster": llmhw.Cluster("A100 80GB SXM", 1), "seq_len": 1024, "micro_batch": 8}
    parts = [
        llmhw.train(llmhw.TrainingJob(**job, precision=p, global_batch=8)).time.parts for p in ("fp32", "bf16-mixed")
    ]
    assert parts[0]["matrix products"] > 10 * parts[1]["matrix products"]
    assert parts[0]["elementwise"] > 1.3 * parts[1]["elementwise"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "llmhw machine 0"}, "format='llmhw machine 0' is not"),
        ({"constants": {"memory": {}}}, "constants='memory' must begin with training_time or serving_time"),
        ({"constants": {"training_time": {"matmul": 7}}}, "matmul=7 must be"),
        ({"constants": {"training_time": {"speed": 1}}}, "'speed' is not known"),
        ({"device": {"name": "x"}}, "machine device has no memory_mib"),
        ({"device": None}, "machine device=None must be a dict"),
    ],
)
def test_a_wrong_file_is_told(changes: dict[str, object], message: str) -> None:
    with pytest.raises(llmhw.LLMHWError) as raised:
        machine_of(FILE | changes)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
