"""Your functions beside the library's, on configs of real models."""

import ast
import inspect
import math

import pytest
import sizing

import llmhw
from llmhw.flops import training_flops_6n
from llmhw.memory import training_states

MODELS = ("llama-2-7b", "llama-2-70b", "llama-3-8b", "llama-3.2-1b", "mistral-7b-v0.3")
CARDS = ("h100", "h200", "l40s", "mi300x")


def close(found, right):
    return isinstance(found, (int, float)) and math.isclose(found, right, rel_tol=1e-6)


@pytest.fixture(params=MODELS)
def spec(request):
    return llmhw.model(request.param)


@pytest.fixture(params=CARDS)
def card(request):
    return llmhw.accelerator(request.param)


def test_llmhw_is_not_imported():
    tree = ast.parse(inspect.getsource(sizing))
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    names += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert not [name for name in names if name.startswith(("llmhw", "importlib"))]
    assert sizing.training_days(1e9, 1e9, 1, 1e12, 1) > 0, "and there is something to grade"


@pytest.mark.points("parameters", 25)
def test_parameters(spec):
    assert sizing.parameters(dict(spec.config)) == spec.parameters.total


@pytest.mark.points("kv_cache_bytes", 15)
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (32, 4096)])
def test_kv_cache_bytes(spec, batch, tokens):
    right = llmhw.kv_cache(spec, batch=batch, seq_len=tokens).total
    assert close(sizing.kv_cache_bytes(dict(spec.config), batch, tokens), right)
    assert close(sizing.kv_cache_bytes(dict(spec.config), batch, tokens, 1), right / 2)


@pytest.mark.points("state_bytes", 15)
def test_state_bytes(spec):
    count = spec.parameters.total
    states = training_states(spec)
    parts = {part.name: float(part.value) for part in states}
    weights, gradients = parts["weights"], parts["gradients"]
    optimizer = parts["master copy"] + parts["momentum"] + parts["variance"]
    for zero, right in enumerate(
        (
            weights + gradients + optimizer,
            weights + gradients + optimizer / 8,
            weights + (gradients + optimizer) / 8,
            (weights + gradients + optimizer) / 8,
        )
    ):
        assert close(sizing.state_bytes(count, zero, 8), right)


@pytest.mark.points("training_days", 10)
def test_training_days(spec, card):
    count, peak = spec.parameters.total, card.peak("bf16")
    right = training_flops_6n(params=count, tokens=2e12) / (512 * 0.4 * peak) / 86400
    assert close(sizing.training_days(count, 2e12, 512, peak, 0.4), right)


@pytest.mark.points("tokens_per_second_of_one_user", 10)
def test_tokens_per_second_of_one_user(spec, card):
    bandwidth, count = card.memory_bandwidth_bytes_per_second, spec.parameters.total
    for bits, form in ((16, "bf16"), (32, "fp32")):
        right = bandwidth / llmhw.weights(spec, form).total
        assert close(sizing.tokens_per_second_of_one_user(count, bandwidth, bits), right)


@pytest.mark.points("most_sequences", 15)
@pytest.mark.parametrize("tokens", [1, 16, 17, 8000])
def test_most_sequences(spec, card, tokens):
    free = 0.9 * card.memory_bytes - llmhw.weights(spec, "bf16").total
    right = max(0, free // llmhw.kv_cache(spec, seq_len=math.ceil(tokens / 16) * 16).total)
    assert sizing.most_sequences(dict(spec.config), card.memory_bytes, tokens) == right


@pytest.mark.points("dollars_per_million_tokens", 10)
def test_dollars_per_million_tokens():
    for price, cards, rate in ((2.0, 8, 5000.0), (1.5, 1, 40.0)):
        hours = 1e6 / rate / 3600
        assert close(sizing.dollars_per_million_tokens(price, cards, rate), hours * cards * price)
