"""FLOPs: conventions, published values and errors. Equality with torch's counter is in tests/truth."""

from __future__ import annotations

import pytest

import llmhw
from llmhw import flops
from llmhw.units import LLMHWError


def test_megatron_equation_reproduces_the_paper() -> None:
    """Narayanan et al. 2021, Table 1: 1T parameters, 3072 GPUs, 163 TFLOP/s each, and its iteration time."""
    per_iteration = flops.training_flops_megatron(batch=3072, seq_len=2048, layers=128, hidden=25600, vocab=51200)
    seconds = per_iteration / (3072 * 163e12)
    assert seconds == pytest.approx(102, rel=0.01)


@pytest.mark.parametrize("name", ["gpt3-175b", "megatron-gpt-1t", "gpt2-xl"])
def test_megatron_equation_equals_our_count(name: str) -> None:
    """For a plain GPT the published equation and the sum over matmuls are the same number."""
    spec = llmhw.model(name)
    ours = llmhw.training_flops(spec, batch=4, seq_len=1024).total
    assert llmhw.convention_flops(spec, "megatron-model", batch=4, seq_len=1024).total == pytest.approx(ours, rel=1e-9)


def test_six_n_lies_below_the_exact_count_at_long_context() -> None:
    spec = llmhw.model("llama-3-8b")
    for seq_len in (2048, 131072):
        exact = llmhw.training_flops(spec, seq_len=seq_len).total
        six = llmhw.convention_flops(spec, "6n", seq_len=seq_len).total
        palm = llmhw.convention_flops(spec, "palm", seq_len=seq_len).total
        assert six < exact * 1.1
        assert palm / exact == pytest.approx(
            1 + spec.parameters.by_component["embedding"] * 6 * seq_len / exact, rel=0.001
        )


@pytest.mark.parametrize("name", llmhw.models())
def test_causal_needs_less(name: str) -> None:
    spec = llmhw.model(name)
    full = llmhw.forward_flops(spec, batch=2, seq_len=4096)
    causal = llmhw.forward_flops(spec, batch=2, seq_len=4096, causal=True)
    last = llmhw.forward_flops(spec, batch=2, seq_len=4096, logits="last")
    if any(layer.attention and layer.attention.causal for layer in spec.layers):
        assert causal.total < full.total
    if spec.makes == "tokens":
        assert last.total < full.total
        assert last["head"] * 4096 == full["head"]
    assert llmhw.forward_flops(spec, batch=4, seq_len=4096).total == 2 * full.total


def test_recompute_counts_the_blocks_again() -> None:
    spec = llmhw.model("llama-3-8b")
    none, selective, full = (llmhw.training_flops(spec, seq_len=4096, recompute=r) for r in flops.RECOMPUTE)
    forward = llmhw.forward_flops(spec, seq_len=4096)
    assert none.total == 3 * forward.total
    assert selective["recompute"] == forward["attention_core"]
    assert full["recompute"] == forward.total - forward["head"]


def test_decode_is_about_two_flops_a_parameter() -> None:
    spec = llmhw.model("llama-3-70b")
    step = llmhw.forward_flops(spec, seq_len=1, past=10).total
    weights = spec.parameters.total - spec.parameters.by_component["embedding"]
    assert step / (2 * weights) == pytest.approx(1, abs=0.001)


def test_utilization_of_published_runs() -> None:
    """PaLM 540B: 46.2 % MFU at 238.3 K tokens/s on 6,144 TPU v4 (275 TFLOP/s), table 3 of the paper."""
    per_token = flops.training_flops_palm(params=540.35e9, tokens=1, layers=118, heads=48, head_dim=256, seq_len=2048)
    mfu = flops.utilization(
        flops=238.3e3 * per_token,
        seconds=1,
        devices=6144,
        peak_flops_per_second=llmhw.accelerator("tpu v4").peak("bf16"),
    )
    assert mfu == pytest.approx(0.462, abs=0.002)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: llmhw.forward_flops(s, seq_len=-4), "seq_len=-4 must be a whole number"),
        (lambda s: llmhw.forward_flops(s, seq_len=4, past=-1), "past=-1 must be a whole number of at least 0"),
        (
            lambda s: llmhw.forward_flops(s, seq_len=4, logits="first"),
            "logits='first' is not known; did you mean last|use one of",
        ),
        (lambda s: llmhw.training_flops(s, seq_len=4, recompute="all"), "recompute='all' is not known"),
        (lambda s: llmhw.convention_flops(s, "8n", seq_len=4), "convention='8n' is not known"),
        (lambda s: llmhw.convention_flops(s, "megatron", seq_len=4), "is defined for GPT with a 4h MLP"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        call(llmhw.model("llama-3-8b"))  # type: ignore[operator]
