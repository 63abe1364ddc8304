"""Memory: invariants, and errors. Equality with PyTorch is in tests/truth."""

from __future__ import annotations

import pytest

import llmhw
from llmhw import memory
from llmhw.units import GIB, LLMHWError

SPEC = llmhw.model("llama-3-8b")


def test_weights_split_by_component() -> None:
    w = llmhw.weights(SPEC)
    assert w.total == 2 * SPEC.parameters.total
    assert {p.name: p.value for p in w} == {k: 2 * v for k, v in SPEC.parameters.by_component.items() if v}


@pytest.mark.parametrize("name", ["llama-3-8b", "deepseek-v3", "gpt-oss-20b", "gemma-3-4b", "qwen3-next-80b-a3b"])
def test_fewer_bits_never_weigh_more(name: str) -> None:
    spec = llmhw.model(name)
    sizes = [llmhw.weights(spec, f).total for f in ("fp32", "bf16", "int8", "int4-gptq")]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", llmhw.models())
def test_cache_grows_with_batch_and_length(name: str) -> None:
    spec = llmhw.model(name)
    one = llmhw.kv_cache(spec, seq_len=1000).total
    assert llmhw.kv_cache(spec, batch=3, seq_len=1000).total == 3 * one
    assert llmhw.kv_cache(spec, seq_len=2000).total >= one
    assert llmhw.kv_cache(spec, seq_len=1000, kv_format="fp8").total <= one


def test_sliding_windows_cap_the_cache() -> None:
    spec = llmhw.model("gemma-3-27b")
    cache = llmhw.kv_cache(spec, seq_len=131072)
    assert cache["sliding"] == llmhw.kv_cache(spec, seq_len=1024)["sliding"]
    without = llmhw.kv_cache_bytes_per_token(spec) * 131072
    assert without / cache.total > 5, "ignoring the windows overstates this cache by more than five times"


def test_linear_attention_state_does_not_grow() -> None:
    spec = llmhw.model("qwen3-next-80b-a3b")
    assert llmhw.kv_cache(spec, seq_len=10)["state"] == llmhw.kv_cache(spec, seq_len=10**6)["state"]


@pytest.mark.parametrize(
    ("precision", "optimizer", "bytes_per_param"),
    [
        ("fp32", "adamw", 16),
        ("bf16-mixed", "adamw", 16),
        ("bf16-mixed-fp32-grads", "adamw", 18),
        ("bf16", "adamw", 8),
        ("bf16", "adamw-fp32", 12),
        ("bf16-mixed", "adamw-bf16", 12),
        ("bf16", "adamw-8bit", 6.03125),
        ("fp32", "sgd", 8),
        ("fp32", "sgd-momentum", 12),
        ("bf16", "lion", 6),
    ],
)
def test_bytes_per_parameter(precision: str, optimizer: str, bytes_per_param: float) -> None:
    states = llmhw.training_states(SPEC, optimizer=optimizer, precision=precision)
    assert states.total / SPEC.parameters.total == pytest.approx(bytes_per_param, rel=1e-5)


def test_rule_of_thumb_agrees_with_the_tensors() -> None:
    rule = memory.state_bytes(elements=SPEC.parameters.total, bytes_per_element=16)
    states = llmhw.training_states(SPEC)
    assert states.total - states["step counters"] == rule


def test_adafactor_and_muon_save() -> None:
    adam, muon, adafactor = (
        llmhw.training_states(SPEC, optimizer=name, precision="fp32").total for name in ("adamw", "muon", "adafactor")
    )
    assert adam > muon > adafactor
    assert adafactor / SPEC.parameters.total == pytest.approx(8, rel=0.01)


def test_lora_published_counts() -> None:
    """Trainable parameters that PEFT prints for these well-known settings."""
    for name, rank, targets, published in [
        ("llama-2-7b", 8, ["q_proj", "v_proj"], 4_194_304),
        ("llama-2-7b", 16, "all-linear", 39_976_960),
        ("llama-2-13b", 8, ["q_proj", "v_proj"], 6_553_600),
        ("llama-3-8b", 16, "all-linear", 41_943_040),
    ]:
        added = memory.lora_tensors(llmhw.model(name), rank=rank, targets=targets)
        assert sum(n * t.numel for t, n in added) == published


def test_qlora_is_smaller_than_lora() -> None:
    lora, qlora = llmhw.lora_states(SPEC), llmhw.lora_states(SPEC, base_format="nf4-dq")
    assert lora["adapters"] == qlora["adapters"]
    assert lora.total > 2 * qlora.total
    assert lora["frozen weights"] == llmhw.weights(SPEC).total


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: llmhw.kv_cache(SPEC, seq_len=0), "seq_len=0 must be a whole number of at least 1"),
        (lambda: llmhw.kv_cache(SPEC, batch=-1, seq_len=8), "batch=-1 must be a whole number"),
        (lambda: llmhw.kv_cache(SPEC, seq_len=8, kv_format="bf61"), "bf61.*did you mean bf16"),
        (lambda: llmhw.training_states(SPEC, optimizer="adam"), "optimizer='adam' is not known; did you mean adamw"),
        (lambda: llmhw.training_states(SPEC, precision="bf-16"), "precision='bf-16' is not known; did you mean bf16"),
        (lambda: llmhw.lora_states(SPEC, rank=0), "rank=0 must be a whole number"),
        (lambda: memory.lora_tensors(SPEC, rank=8, targets=["qproj"]), r"targets='qproj' is not known; did you mean"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        call()  # type: ignore[operator]


def test_kv_cache_of_a_known_model() -> None:
    assert llmhw.kv_cache(llmhw.model("llama-3-70b"), batch=16, seq_len=8192).total == 40 * GIB
