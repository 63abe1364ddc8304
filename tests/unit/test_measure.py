"""What `llmhw.measure` returns, and what it says when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from llmhw.measure import (
    Measurement,
    Row,
    measure,
    measure_flops,
    measure_memory,
    measure_optimizer,
    measure_params,
)
from llmhw.model import ModelSpec, model
from llmhw.units import LLMHWError

TINY: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {**TINY, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}


def test_without_torch_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; import llmhw.measure"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last == "llmhw.units.LLMHWError: llmhw.measure needs PyTorch; install it with: pip install 'llmhw[torch]'"
    assert "During handling" not in done.stderr


def test_a_measurement_is_a_table() -> None:
    rows = (Row("weights", 1000, 1000), Row("other", 0, 0), Row("unknown", 24))
    found = Measurement("states", "bytes", Row("all", 2000, 1000), rows, ("a note",))
    assert (found.measured, found.predicted, found.ratio) == (2000, 1000, 0.5)
    assert [row.ratio for row in rows] == [1.0, 1.0, None]
    assert found["unknown"].predicted is None
    assert str(found).splitlines()[-1] == "a note"
    assert "a note" in found._repr_html_()
    written = json.loads(json.dumps(found.to_dict()))
    assert written["ratio"] == 0.5
    assert written["parts"]["weights"] == {"measured": 1000, "predicted": 1000, "ratio": 1.0}
    assert found.to_frame().loc["all", "measured"] == 2000
    with pytest.raises(LLMHWError, match=r"row='weight' is not known; did you mean weights"):
        found["weight"]


@pytest.mark.parametrize("what", ["params", "flops", "memory", "optimizer"])
@pytest.mark.parametrize("given", ["name", "dict", "spec", "path", "module"])
def test_every_way_to_name_a_model(what: str, given: str, tmp_path: Any) -> None:
    spec = ModelSpec.from_config(TINY)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY))
    if given == "module":
        from transformers import LlamaConfig, LlamaForCausalLM

        options = {key: value for key, value in TINY.items() if key != "model_type"}
        given_model: Any = LlamaForCausalLM(LlamaConfig(**options))
        before = {name: p.clone() for name, p in given_model.named_parameters()}
    else:
        given_model = {"name": "gpt2", "dict": TINY, "spec": spec, "path": str(path)}[given]
    found = measure(what, given_model)
    assert found.ratio == pytest.approx(1, abs=0.02 if what == "memory" else 0)
    if given == "module":  # a caller's model comes back as it was
        assert all(torch.equal(p, before[name]) for name, p in given_model.named_parameters())
        assert all(p.grad is None for p in given_model.parameters())


def test_a_catalog_spec_is_measured_too() -> None:
    assert measure_params(model("gpt2")).total == Row("parameters", 124439808, 124439808)


@pytest.mark.parametrize("name", ["kimi-k2", "qwen3-vl-8b", "gemma-3-4b"])
def test_models_that_transformers_has_under_another_name(name: str) -> None:
    assert measure_params(name).ratio == 1
    assert measure_flops(name, seq_len=8).ratio == 1


def test_other_arithmetic_is_said() -> None:
    found = measure_flops("llama-4-scout", seq_len=8)
    assert found.notes == ("transformers multiplies every expert with every token, not only the routed ones",)


def test_any_module() -> None:
    """Without a config there is nothing to predict, but all can be measured."""
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    inputs = torch.zeros(3, 8)
    assert measure_params(net).total == Row("parameters", 8 * 16 + 16 + 16 * 4 + 4)
    assert measure_flops(net, inputs=(inputs,))["forward"].measured == 2 * 3 * (8 * 16 + 16 * 4)
    states = measure_optimizer(net)
    assert states.measured == 4 * 4 * 212 + 4 * 4
    found = measure_memory(net, inputs=inputs, loss=lambda out: out.square().mean())
    assert found.predicted is None
    assert found["optimizer step"].measured >= 5 * 4 * 212
    with pytest.raises(LLMHWError, match="inputs=None: say what to call Sequential with"):
        measure_memory(net)


def test_experts_on_fake_tensors() -> None:
    assert measure_params(EXPERTS).ratio == 1
    assert measure_flops(EXPERTS, seq_len=16).ratio == 1
    assert measure_memory(EXPERTS, seq_len=16).ratio == pytest.approx(1, abs=0.02)
    with pytest.raises(LLMHWError, match="has experts, and torch's grouped matrix product takes bf16 only"):
        measure_memory(EXPERTS, seq_len=16, precision="fp32")


def test_too_large_for_the_device() -> None:
    """The prediction and the answer of the fake tensors, and why nothing ran."""
    found = measure_memory("llama-3-70b", seq_len=64, device_memory="rtx4090", run="real")
    assert found.ratio == pytest.approx(1, abs=0.02)
    assert any(note.startswith("does not fit in 24.0 GiB of rtx4090: ") for note in found.notes)
    assert any(note.startswith("not run for real: the step needs 657 GiB, and ") for note in found.notes)
    assert not any("allocator" in row.name for row in found.parts)


def test_a_real_run() -> None:
    found = measure_memory(TINY, seq_len=32, precision="fp32", run="real", device_memory=2**30)
    assert abs(found["peak of the allocator, run on cpu"].measured - found.measured) <= 128
    assert "fits in 1.00 GiB" in found.notes[1]


def test_families_without_an_op_by_op_profile() -> None:
    found = measure_memory("gpt-oss-20b", seq_len=16, attention="eager")
    assert found.measured > 0
    assert found.predicted is not None or found.notes[-1].startswith("no prediction: ")


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "sgd-momentum", "adafactor", "muon"])
def test_optimizers(optimizer: str) -> None:
    assert measure_optimizer(TINY, optimizer=optimizer).ratio == 1
    assert measure_optimizer("llama-3-8b", optimizer=optimizer, precision="bf16").ratio == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure("parms", TINY), "what='parms' is not known; did you mean params?"),
        (lambda: measure("flops", TINY, batches=2), "option='batches' is not one of measure_flops; it takes batch"),
        (lambda: measure_flops(TINY, batch=-1), "batch=-1 must be a whole number of at least 1"),
        (lambda: measure_memory(TINY, batch=-1), "batch=-1 must be a whole number of at least 1"),
        (lambda: measure_memory(TINY, seq_len=0), "seq_len=0 must be a whole number of at least 1"),
        (lambda: measure_memory(TINY, optimizer="adam"), "optimizer='adam' is not known; did you mean adamw?"),
        (lambda: measure_memory(TINY, precision="fp8"), "precision='fp8' is not known; did you mean fp32?"),
        (lambda: measure_memory(TINY, recompute="selective"), "recompute='selective' is not known; use one of none"),
        (lambda: measure_memory(TINY, device_memory="rtx 4900"), "rtx 4900"),
        (
            lambda: measure_memory("gemma-2-2b", seq_len=8),
            "transformers does not run model_type='gemma2' with it; use 'eager'",
        ),
        (lambda: measure_memory("gpt2", seq_len=2048), "seq_len=2048 is more than the 1024 positions that gpt2 has"),
        (lambda: measure_optimizer(TINY, optimizer="adamx"), "optimizer='adamx' is not known; did you mean adamw"),
        (lambda: measure_optimizer(TINY, optimizer="adamw-8bit"), "optimizer='adamw-8bit' is not in torch.optim"),
        (lambda: measure_optimizer(EXPERTS, optimizer="muon"), "is a stack of experts; use adamw"),
        (lambda: measure_params("llama-3-8bb"), "model='llama-3-8bb' is not known; did you mean llama-3-8b"),
        (lambda: measure_params("no/config.json"), "config='no/config.json' does not exist"),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(LLMHWError) as error:
        call()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
