"""Predicted activations against what autograd really keeps, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmhw.activations import STYLES, activations, layer_activations
from llmhw.measure.activations import build, measure_activations
from llmhw.model import ModelSpec, model
from llmhw.units import LLMHWError
from tests.truth.families import config_of, published, sized

FAMILIES = sorted(STYLES)
RECOMPUTE = ("none", "selective", "full")
# Two sizes: the second has one sequence, where some copies are views, and fp32, where casts are no copies.
SIZES = (("bf16", 2, 8), ("fp32", 1, 16))


def attentions(model_type: str) -> list[str]:
    return ["flash", "eager"] if STYLES[model_type].sdpa else ["eager"]


def modes(model_type: str) -> list[str]:
    """Old attention code that transformers' registry does not reach cannot be recomputed by itself."""
    return [r for r in RECOMPUTE if r != "selective" or STYLES[model_type].registry]


def pair(model_type: str, options: dict[str, Any], precision: str, attention: str) -> tuple[ModelSpec, Any]:
    """Our description of a config, and transformers' model of it."""
    config = config_of(model_type, options)
    return ModelSpec.from_config(published(config)), build(config, precision=precision, attention=attention)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_bytes_equal_what_autograd_keeps(model_type: str) -> None:
    for variant, (precision, batch, seq_len) in enumerate(SIZES):
        options = sized(model_type, variant)
        options.pop("layer_norm_elementwise_affine", None)  # a config without norm weights does not say where they are
        for attention in attentions(model_type):
            spec, module = pair(model_type, options, precision, attention)
            for recompute in modes(model_type):
                measured = measure_activations(module, batch=batch, seq_len=seq_len, recompute=recompute)
                predicted = activations(
                    spec, batch=batch, seq_len=seq_len, precision=precision, attention=attention, recompute=recompute
                )
                assert predicted.total == measured.total, f"{attention}, {recompute}, {precision}"


def test_number_of_cases() -> None:
    cases = sum(len(SIZES) * len(attentions(f)) * len(modes(f)) for f in FAMILIES)
    print(f"{cases} cases of {len(FAMILIES)} families: predicted and kept activations are equal")
    assert len(FAMILIES) >= 8


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2", "gpt_neox", "olmo2", "phi3", "mixtral", "opt"])
def test_every_layer_keeps_its_share(model_type: str) -> None:
    """Not only the total: the last layer's modules keep what one layer is predicted to."""
    options = sized(model_type, 0) | {"n_layer" if model_type == "gpt2" else "num_hidden_layers": 7}
    options.pop("layer_norm_elementwise_affine", None)
    spec, module = pair(model_type, options, "bf16", "flash")
    measured = measure_activations(module, batch=2, seq_len=8)
    last = sum(size for name, size in measured.by_module().items() if ".6" in name)
    assert layer_activations(spec, -1, batch=2, seq_len=8).total == last


@pytest.mark.parametrize("layers", [1, 2])
def test_block_recompute(layers: int) -> None:
    options = sized("llama", 0) | {"num_hidden_layers": 3}
    spec, module = pair("llama", options, "bf16", "flash")
    case: dict[str, Any] = {"batch": 2, "seq_len": 8, "recompute": "block", "recompute_layers": layers}
    assert activations(spec, **case).total == measure_activations(module, **case).total


def test_without_the_loss() -> None:
    spec, module = pair("gemma2", sized("gemma2", 0), "bf16", "eager")
    predicted = activations(spec, batch=2, seq_len=8, attention="eager", loss=False)
    assert predicted.total == measure_activations(module, batch=2, seq_len=8, loss=False).total


def test_an_8b_model_without_its_memory() -> None:
    """Fake tensors have shapes and no storage: the published size is measured on any machine."""
    spec = model("llama-3-8b")
    measured = measure_activations("llama-3-8b", seq_len=2048, fake=True)
    assert activations(spec, seq_len=2048).total == measured.total


def test_measuring_changes_nothing() -> None:
    _, module = pair("llama", sized("llama", 1), "fp32", "flash")
    first = measure_activations(module, batch=2, seq_len=8)
    for recompute in ("full", "selective"):
        assert measure_activations(module, batch=2, seq_len=8, recompute=recompute).total < first.total
    assert measure_activations(module, batch=2, seq_len=8) == first
    assert module.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recompute_gives_the_same_gradients(recompute: str) -> None:
    """What we call recompute is a training step that works, with the gradients it should have."""
    _, module = pair("llama", sized("llama", 1), "fp32", "flash")
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    grads = []
    for mode in ("none", recompute):
        module.zero_grad()
        measure_activations(module, batch=2, seq_len=8, recompute=mode, backward=True)
        grads.append([p.grad.clone() for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_what_cannot_be_measured_says_so() -> None:
    _, module = pair("bloom", sized("bloom", 0), "bf16", "eager")
    with pytest.raises(LLMHWError, match="the attention of BloomForCausalLM cannot be run again by itself; use 'full'"):
        measure_activations(module, batch=2, seq_len=8, recompute="selective")
    with pytest.raises(LLMHWError, match="transformers does not run model_type='gemma2' with it; use 'eager'"):
        measure_activations("gemma-2-2b", seq_len=8, fake=True)
    net = torch.nn.Linear(2, 2)
    with pytest.raises(LLMHWError, match="inputs=None: say what to call Linear with"):
        measure_activations(net)
    with pytest.raises(LLMHWError, match="recompute='full' switches transformers' models only"):
        measure_activations(net, inputs=(torch.zeros(1, 2),), recompute="full")
    with pytest.raises(LLMHWError, match="model='lama' is not known"):
        measure_activations("lama", seq_len=8)


def test_any_module() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    measured = measure_activations(net, inputs=(torch.zeros(3, 4),))
    # the input of the first layer, and what ReLU makes: its own result and the last layer's input at once
    assert measured.by_module() == {"0": 3 * 4 * 4, "1": 3 * 8 * 4}
    assert measured.by_op() == {"linear": 48, "relu": 96}
    assert measured.outputs == 3 * 2 * 4
