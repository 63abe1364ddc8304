"""What `llmhw.measure` returns, and what it says when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from llmhw.model import ModelSpec
from llmhw.units import LLMHWError

torch = pytest.importorskip("torch", reason="needs the extra torch")
pytest.importorskip("transformers", reason="needs the extra torch")

from llmhw.measure import (  # noqa: E402
    Measurement,
    Row,
    measure,
    measure_flops,
    measure_memory,
    measure_optimizer,
    measure_params,
)

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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure("parms", TINY), "what='parms' is not known; did you mean params?"),
        (lambda: measure("flops", TINY, batches=2), "option='batches' is not one of measure_flops; it takes batch"),
        (lambda: measure_flops(TINY, batch=-1), "batch=-1 must be a whole number of at least 1"),
        (lambda: measure_memory(TINY, batch=-1), "batch=-1 must be a whole number of at least 1"),
        (lambda: measure_memory(TINY, seq_len=0), "seq_len=0 must be a whole number of at least 1"),
        (lambda: measure_memory(TINY, optimizer="adam"), "optimizer='adam' is not known; did you mean adamw?"),
        (lambda: measure_memory(TINY, precision="fp8"), "precision='fp8' is not known; use one of fp32, bf16"),
        (lambda: measure_memory(TINY, recompute="selective"), "recompute='selective' is not known; use one of none"),
        (lambda: measure_memory(TINY, device_memory="rtx 4900"), "rtx 4900"),
        (
            lambda: measure_memory("gemma-2-2b", seq_len=8, attention="flash"),
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
