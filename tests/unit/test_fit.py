"""What fits on one device, and that it is the answer of `training_memory` and within the bound of `llmhw.peak`."""

from __future__ import annotations

from typing import Any

import pytest

import llmhw
from llmhw.fit import checkpointed_activations
from llmhw.job import Parallelism, TrainingJob
from llmhw.training import memory, train
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
    seq_len = min(seq_len, spec.max_seq_len or seq_len)
    options: dict[str, Any] = {"micro_batch": batch, "seq_len": seq_len, "recompute": "full"}

    table = llmhw.fit(spec, "h200", batch=batch, seq_len=seq_len, formats=(), rank=8)
    adapters: dict[str, Any] = {"precision": "bf16", "frozen": True, "rank": 8}
    recipes: dict[str, dict[str, Any]] = {
        "full training, AdamW mixed precision": {},
        "full training, 8-bit AdamW in bf16": {"optimizer": "adamw-8bit", "precision": "bf16"},
        "LoRA, rank 8": adapters,
        "QLoRA, rank 8": adapters | {"base": "nf4-dq"},
    }
    for use, recipe in recipes.items():
        found = memory(TrainingJob(model=spec, cluster=llmhw.Cluster("h200", 1), **options, **recipe))
        row, (stage,) = table[use], found.stages
        assert {part.name: part.value for part in row.estimate} == {part.name: part.value for part in stage}
        assert (row.needed_bytes, row.usable_bytes, row.fits_barely) == (
            found.device_bytes, found.capacity_bytes, found.fits_barely
        )  # fmt: skip
        if "LoRA" in use:
            states = llmhw.lora_states(spec, rank=8, base_format=recipe.get("base", "bf16"))
            held = {part.name: part.value for part in stage}
            kept = held["weights"] + sum(held[name] for name in ("adapters", "momentum", "variance", "step counters"))
            assert kept == pytest.approx(states.total - states["gradients"], rel=1e-9)


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
    """At the loss: each layer's input, and the loss with its two gradients."""
    found = checkpointed_activations(SPEC, device="h100", batch=2, seq_len=512)
    tokens, h = 2 * 512, SPEC.hidden
    assert found["activations"] >= 2 * tokens * h * SPEC.num_layers
    assert found["logits and loss"] == pytest.approx(tokens * SPEC.vocab_size * 12, rel=1e-4)


def test_hybrids_are_trained_too() -> None:
    table = llmhw.fit(llmhw.model("qwen3-next-80b-a3b"), "h100", formats=["int4-gptq"])
    assert next(row.use for row in table) == "inference, int4-gptq"
    assert "LoRA, rank 16" in [row.use for row in table]


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


@pytest.mark.parametrize("use", ["inference, int4-gptq", "QLoRA, rank 16"])
def test_longest_and_most_are_the_largest(use: str) -> None:
    """One token more, or one sequence more, no longer fits; neither is above the model's limit."""
    spec = llmhw.model("llama-3.1-70b")

    def at(batch: int, seq_len: int) -> llmhw.fit.Fit:
        return llmhw.fit(spec, "H100 SXM5 80GB", formats=["int4-gptq"], batch=batch, seq_len=seq_len)[use]

    row = at(4, 1024)
    assert 1024 < row.max_seq_len < 131072
    assert at(4, row.max_seq_len).fits
    assert not at(4, row.max_seq_len + 1).fits
    assert row.max_sequences >= 4
    assert at(row.max_sequences, 1024).fits
    assert not at(row.max_sequences + 1, 1024).fits
    short = llmhw.fit(llmhw.model("llama-3-8b"), "h100", formats=["bf16"])["inference, bf16"]
    assert short.max_seq_len == 8192


MACHINES = (("h100", 1), ("RTX 4090", 1), ("A100 40GB SXM4", 2), ("mi300x", 1), ("RTX 3090", 2))


@pytest.mark.parametrize(("gpu", "devices"), MACHINES)
@pytest.mark.parametrize("name", ["llama-3.2-1b", "llama-3.1-8b", "gemma-3-27b", "mixtral-8x7b"])
def test_fit_memory_train_and_serve_agree(name: str, gpu: str, devices: int) -> None:
    """The same question has one answer, whoever is asked: its verdict and its bytes."""
    spec, batch, seq_len = llmhw.model(name), 3, 4000
    table = llmhw.fit(
        spec, gpu, devices=devices, batch=batch, seq_len=seq_len, kv_format="fp8", formats=["bf16", "fp8"]
    )
    cluster = llmhw.Cluster(gpu, devices)
    recipes = {"full training, AdamW mixed precision": ("adamw", "bf16-mixed")}
    recipes["full training, 8-bit AdamW in bf16"] = ("adamw-8bit", "bf16")
    for use, (optimizer, precision) in recipes.items():
        job = TrainingJob(
            model=spec,
            cluster=cluster,
            parallelism=Parallelism(tp=devices),
            micro_batch=batch,
            seq_len=seq_len,
            recompute="full",
            optimizer=optimizer,
            precision=precision,
        )
        held, row = memory(job), table[use]
        assert (row.fits, row.needed_bytes, row.usable_bytes) == (held.fits, held.device_bytes, held.capacity_bytes)
        assert row.fits_barely == held.fits_barely
        assert train(job).to_dict()["fits"] == row.fits
    for weights in ("bf16", "fp8"):
        served = llmhw.ServingJob(
            model=spec, cluster=cluster, tp=devices, weights=weights, kv="fp8", max_model_len=seq_len
        )
        plan, row = llmhw.serving_memory(served), table[f"inference, {weights}"]
        assert row.fits == (plan.sequences(seq_len) >= batch)
        assert row.usable_bytes == plan.budget_bytes
        beside = float(plan.stages[plan.worst].total)
        assert row.needed_bytes == pytest.approx(beside + plan.cache_bytes(seq_len, sequences=batch))
        assert row.estimate.total == pytest.approx(row.needed_bytes)
        assert row.max_sequences == plan.sequences(seq_len)


def test_ways_out_were_tried_on_devices_that_can() -> None:
    """Where a device is named, the use fits there, and `train` takes the job there."""
    spec = llmhw.model("llama-3-8b")
    for gpu in ("RTX 4090", "V100 SXM2 32GB", "M2 Ultra 192GB", "L40S"):
        for row in llmhw.fit(spec, gpu, seq_len=8192):
            named = row.way_out.partition("fits on ")[2]
            if named:
                assert llmhw.fit(spec, named, seq_len=8192)[row.use].fits, (gpu, row.use, named)
                assert row.use.startswith("inference") or "fp16" in llmhw.accelerator(named).peaks
    assert "does not" not in llmhw.fit(spec, "h100", formats=["bf16"]).verdict.partition("Does not")[0]


@pytest.mark.parametrize("gpu", ["V100 SXM2 32GB", "T4", "M3 Ultra 512GB"])
def test_training_in_the_half_that_there_is(gpu: str) -> None:
    """What multiplies no bf16 trains in fp16, as `train` has it."""
    table = llmhw.fit(llmhw.model("llama-3.2-1b"), gpu)
    assert any(row.use.startswith("LoRA") for row in table)
    job = TrainingJob(model=llmhw.model("llama-3.2-1b"), cluster=llmhw.Cluster(gpu, 1), recompute="full")
    assert job.compute_format == "fp16"
    assert not memory(job).warnings()
    assert train(job).step_seconds > 0


def test_options_of_training() -> None:
    """Software and loss are those of every row of training, targets those of adapters."""
    plain, lean = (
        llmhw.fit(llmhw.model("llama-3-8b"), "RTX 4090", seq_len=8192, formats=["bf16"], **asked)
        for asked in ({}, {"software": "unsloth", "targets": "q_proj,v_proj", "rank": 8})
    )
    assert lean["LoRA, rank 8"].needed_bytes < plain["LoRA, rank 16"].needed_bytes
    full = "full training, 8-bit AdamW in bf16"
    assert lean[full].needed_bytes < plain[full].needed_bytes


def test_a_table_speaks() -> None:
    table = llmhw.fit(SPEC, "RTX 4090", devices=2, seq_len=8192, kv_format="fp8", batch=2)
    assert table.title == "llama-3.2-1b on 2 x RTX 4090, tp=2, batch 2, 8,192 tokens, KV cache in fp8"
    assert table.verdict.startswith("Fits: inference in bf16, fp8")
    for row in table:
        assert row.use in table.explain(row.use)
        assert (row.use in " ".join(table.next_steps())) == (not row.fits)
    first = table.records()[0]
    assert list(first)[:8] == ["model", "device", "devices", "batch", "seq_len", "kv_format", "use", "fits"]
    # more devices hold less each
    one = llmhw.fit(SPEC, "RTX 4090", seq_len=8192, batch=2)
    assert all(table[use].needed_bytes < one[use].needed_bytes for use in ("LoRA, rank 16", "QLoRA, rank 16"))


def test_fit_errors() -> None:
    with pytest.raises(LLMHWError, match=r"utilization=1\.2 must be a number above 0 and at most 1"):
        llmhw.fit(SPEC, "h100", utilization=1.2)
    with pytest.raises(LLMHWError, match=r"seq_len=200000 is longer than llama-3\.2-1b was made for, 131072"):
        llmhw.fit(SPEC, "h100", seq_len=200000)
    with pytest.raises(LLMHWError, match="tp=3 does not divide heads=32"):
        llmhw.fit(SPEC, "h100", devices=3, formats=["bf16"])
    with pytest.raises(LLMHWError, match="batch=1000000 must be at most"):
        llmhw.fit(SPEC, "h100", batch=10**6)
    with pytest.raises(LLMHWError, match=r"rank=1.* must be a whole number"):
        llmhw.fit(SPEC, "h100", rank=1e308)  # type: ignore[arg-type]
    with pytest.raises(LLMHWError, match="utilization='x' must be a number"):
        llmhw.fit(SPEC, "h100", utilization="x")  # type: ignore[arg-type]
    with pytest.raises(LLMHWError, match="use='inference, fp5' is not in this table"):
        llmhw.fit(SPEC, "h100")["inference, fp5"]
