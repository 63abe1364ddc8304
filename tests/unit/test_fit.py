"""What fits on one device, and that it is the answer of `training_memory` and within the bound of `llmhw.peak`."""

from __future__ import annotations

from typing import Any

import pytest

import llmhw
from llmhw.fit import checkpointed_activations
from llmhw.job import Parallelism, TrainingJob
from llmhw.training import memory
from llmhw.units import LLMHWError

SPEC = llmhw.model("llama-3.2-1b")
# One of each manner: block, norm, rotary embedding, window, tied or not, experts; Gemma 2 has no fused attention.
MODELS = (
    "gpt2-xl", "pythia-410m", "opt-1.3b", "llama-3.2-1b", "qwen2.5-0.5b", "gemma-3-1b", "gemma-2-2b", "phi-3-mini",
    "olmo-2-7b", "mixtral-8x7b",
)  # fmt: skip
CASES = ((1, 256), (4, 2048))


# -- one answer -------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "seq_len"), CASES)
@pytest.mark.parametrize("name", [*MODELS, "deepseek-v3"])
def test_fit_counts_what_training_memory_counts(name: str, batch: int, seq_len: int) -> None:
    """Part by part, with the least that training can do with; the job is written out here."""
    spec = llmhw.model(name)
    options: dict[str, Any] = {"micro_batch": batch, "seq_len": seq_len, "recompute": "full"}
    options |= {"kernels": "megatron"} if name == "deepseek-v3" else {}
    options |= {"attention": "eager"} if name == "gemma-2-2b" else {}

    def parts(**recipe: Any) -> dict[str, float]:
        job = TrainingJob(model=spec, cluster=llmhw.Cluster("h200", 1), **options, **recipe)
        (stage,) = memory(job).stages
        return {part.name: part.value for part in stage}

    table = llmhw.fit(spec, "h200", batch=batch, seq_len=seq_len, formats=(), rank=8)
    full = {part.name: part.value for part in table["full training, AdamW mixed precision"].estimate}
    assert full == parts()
    full = {part.name: part.value for part in table["full training, 8-bit AdamW in bf16"].estimate}
    assert full == parts(optimizer="adamw-8bit", precision="bf16")
    frozen = parts(precision="bf16", frozen=True)
    for use, base in (("LoRA, rank 8", "bf16"), ("QLoRA, rank 8", "nf4-dq")):
        states = llmhw.lora_states(spec, rank=8, base_format=base).total
        assert table[use].needed_bytes == pytest.approx(sum(frozen.values()) - frozen["weights"] + states, rel=1e-12)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(("batch", "seq_len"), CASES)
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("name", MODELS)
def test_memory_is_within_its_bound_of_the_peak(
    name: str, recompute: str, batch: int, seq_len: int, precision: str
) -> None:
    """`llmhw.peak` follows a step moment by moment; a stage adds up the largest parts of two moments."""
    spec = llmhw.model(name)
    attention = "eager" if name == "gemma-2-2b" else "flash"
    job = TrainingJob(
        model=spec,
        cluster=llmhw.Cluster("h200", 1),
        micro_batch=batch,
        seq_len=seq_len,
        recompute=recompute,
        precision=precision,
        attention=attention,
    )
    found = memory(job)
    above = found.allocated_bytes / found.peak.total - 1
    assert -1e-6 <= above <= (0.06 if recompute == "full" else 1e-3)


def test_activations_of_one_device() -> None:
    """Each layer's input, the layer that is run again, and the loss with its two gradients."""
    found = checkpointed_activations(SPEC, device="h100", batch=2, seq_len=512)
    tokens, h = 2 * 512, SPEC.hidden
    assert found["activations"] >= 2 * tokens * h * SPEC.num_layers
    assert found["layer being recomputed"] == llmhw.activations.layer_activations(SPEC, 0, batch=2, seq_len=512).total
    assert found["logits and loss"] == pytest.approx(tokens * SPEC.vocab_size * 12, rel=1e-4)


def test_a_model_without_a_profile_has_no_training() -> None:
    table = llmhw.fit(llmhw.model("qwen3-next-80b-a3b"), "h100", formats=["int4-gptq"])
    assert [row.use for row in table] == ["inference, int4-gptq"]
    assert "no training: kernels='megatron' covers attention layers" in str(table)
    with pytest.raises(LLMHWError, match=r"is not in this table; use one of .*no training: kernels='megatron'"):
        table["LoRA, rank 16"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster": llmhw.Cluster("h100", 2), "parallelism": Parallelism(dp=2)}, "devices=2 has no exact profile"),
        ({"global_batch": 4}, "micro_batches=4 has no exact profile"),
        ({"kernels": "megatron"}, "kernels='megatron' has no exact profile, only kernels='torch'"),
        ({"frozen": True}, "frozen=True has no exact profile"),
        ({"precision": "bf16-mixed"}, "precision='bf16-mixed' is not known; did you mean bf16"),
        ({"recompute": "selective"}, "recompute='selective' is not known"),
        ({"optimizer": "lion"}, "optimizer='lion' is not known"),
    ],
)
def test_what_has_no_exact_peak(changes: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {"model": SPEC, "cluster": llmhw.Cluster("h100", 1), "seq_len": 256, "precision": "bf16"}
    with pytest.raises(LLMHWError, match=message):
        memory(TrainingJob(**(asked | changes))).peak  # noqa: B018


# -- the table --------------------------------------------------------------------------------


def test_fit_verdicts() -> None:
    table = llmhw.fit(SPEC, "RTX 4090", seq_len=8192)
    assert table["inference, bf16"].fits
    full = table["full training, AdamW mixed precision"]
    assert not full.fits
    assert full.max_seq_len == 0
    assert "short by" in full.way_out
    assert "GiB; fits on" in full.way_out
    qlora = table["QLoRA, rank 16"]
    assert qlora.max_seq_len > 0


def test_longest_sequence_is_the_longest() -> None:
    """One token more than `max_seq_len` no longer fits."""
    spec = llmhw.model("llama-3.1-70b")
    row = llmhw.fit(spec, "H100 SXM5 80GB", formats=["int4-gptq"], batch=4)["inference, int4-gptq"]
    held = llmhw.weights(spec, "int4-gptq").total
    assert held + llmhw.kv_cache(spec, batch=4, seq_len=row.max_seq_len).total <= row.usable_bytes
    assert held + llmhw.kv_cache(spec, batch=4, seq_len=row.max_seq_len + 1).total > row.usable_bytes


def test_fit_errors() -> None:
    with pytest.raises(LLMHWError, match=r"utilization=1\.2 must be above 0 and at most 1"):
        llmhw.fit(SPEC, "h100", utilization=1.2)
    with pytest.raises(LLMHWError, match="use='inference, fp5' is not in this table"):
        llmhw.fit(SPEC, "h100")["inference, fp5"]
