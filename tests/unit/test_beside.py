"""Adapters, and weights or a cache in host memory: nothing where there is none, never less than the bytes take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import llmhw
from llmhw.beside import COPIED_FROM, Laden, host_words
from llmhw.engine import Engine
from llmhw.host import host_of
from llmhw.memory import lora_tensors
from llmhw.service import engine_for, serve

NAMES = ("llama-3-8b", "qwen3-30b-a3b", "deepseek-v2-lite", "qwen3.5-27b")


def job(model: str = "llama-3-8b", gpu: str = "h100", gpus: int = 1, **more: Any) -> llmhw.ServingJob:
    return llmhw.ServingJob(model=llmhw.model(model), cluster=llmhw.Cluster(gpu, gpus), **more)


def laden(asked: llmhw.ServingJob, **changes: Any) -> Laden:
    """The engine of a job with everything at nothing but these."""
    plain = {name: getattr(engine_for(asked), name) for name in Engine.__dataclass_fields__}
    return Laden(**plain, **{"host": host_of(asked.cluster.accelerator), "rank": 16} | changes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("computes", [False, True])
def test_nothing_beside_is_a_plain_engine(name: str, computes: bool) -> None:
    asked = job(name, max_model_len=4096)
    for load in ({"decoding": 3, "context": 500}, {"prompts": 1, "prompt_tokens": 700}):
        plain = engine_for(asked)
        assert not isinstance(plain, Laden)
        assert laden(asked, computes=computes).seconds(**load) == pytest.approx(plain.seconds(**load))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gpus", [1, 2])
def test_weights_in_host_memory_come_over_the_link(name: str, gpus: int) -> None:
    asked = job(name, gpus=gpus, tp=gpus, max_model_len=4096, weights="bf16")
    engine, many = engine_for(asked), 4096  # of so many tokens, all experts are touched
    held = sum(t.numel * n for t, n in engine.spec.all_tensors() if t.is_linear)
    spans = [
        engine_for(replace(asked, weight_offload=share)).seconds(decoding=many, context=1) for share in (0, 0.3, 1)
    ]
    assert spans[0] < spans[1] < spans[2]
    assert spans[2] >= 2 * held / gpus / 63e9  # PCIe 5.0 x16
    slow = engine_for(replace(asked, weight_offload=1, host="20GB/s")).seconds(decoding=many, context=1)
    assert slow >= 2 * held / 20e9  # all devices share the host's memory


@pytest.mark.parametrize("name", NAMES[:2])
def test_the_processor_computes_few_tokens_and_the_device_many(name: str) -> None:
    asked = job(name, "rtx 4090", engine="llama.cpp", weights="Q4_K_M", max_model_len=4096)
    half = asked.model.num_layers // 2
    away = replace(asked, gpu_layers=half + 1, host="80GB/s")  # the head counts as a layer
    engine, plain = engine_for(away), engine_for(asked)
    parts = engine.timed(decoding=1, context=100, detail="parts").parts
    assert parts["host memory"] > 0.4 * parts["matrix products"] * 1008 / 80
    active = sum(t.active * n for t, n in plain.spec.all_tensors() if t.component not in ("embedding", "head"))
    assert parts["host memory"] > active / 2 * plain.formats.weight_bytes / 80e9
    copied = engine.seconds(prompts=1, prompt_tokens=COPIED_FROM) - plain.seconds(prompts=1, prompt_tokens=COPIED_FROM)
    held = sum(t.numel * n for t, n in plain.spec.all_tensors() if t.is_linear) * plain.formats.weight_bytes
    assert 0 < copied < 1.05 * held / 2 / host_of("rtx 4090").link_bytes_per_second
    everything = engine_for(replace(away, gpu_layers=0)).seconds(decoding=1, context=100)
    assert everything > engine.seconds(decoding=1, context=100) > plain.seconds(decoding=1, context=100)


def test_experts_alone_in_host_memory() -> None:
    asked = job("qwen3-30b-a3b", "rtx 4090", engine="llama.cpp", weights="Q4_K_M", max_model_len=4096)

    def decoded(**more: Any) -> float:
        return float(engine_for(replace(asked, **more)).seconds(decoding=1, context=4000))

    assert decoded(cpu_moe=24) < decoded(cpu_moe=48) < decoded(gpu_layers=1)  # attention stays on the device


# llama.cpp on an RTX 2080 beside a Core i9-10900X, Q4_K_M, one short request: tokens/s as measured (AlexsJones/llmfit
# #755, #774, #778). The bandwidth of that host's memory is #755's. Nothing is fitted to them: all are
@pytest.mark.parametrize(
    ("model", "placed", "measured"),
    [
        ("gemma-2-9b", {"gpu_layers": 36}, 23.7),
        ("qwen2.5-14b", {"gpu_layers": 42}, 20.8),
        ("gemma-3-12b", {"gpu_layers": 44}, 26.1),
        ("qwen3-14b", {"gpu_layers": 32}, 16.9),
        ("phi-4", {"gpu_layers": 32}, 16.7),
        ("qwen3-30b-a3b", {"cpu_moe": 36}, 36.7),
        ("deepseek-v2-lite", {"cpu_moe": 16}, 49.6),
    ],
)
def test_partly_on_the_processor_as_measured(model: str, placed: dict[str, int], measured: float) -> None:
    asked = job(model, "rtx 2080", engine="llama.cpp", weights="Q4_K_M", max_model_len=4096, host="102GB/s", **placed)
    found = 1 / engine_for(asked).seconds(decoding=1, context=300)
    assert 0.7 < found / measured < 1.6


def test_a_cache_in_host_memory() -> None:
    asked = job(max_model_len=8192)
    spans = [engine_for(replace(asked, kv_offload=share)).seconds(decoding=8, context=4000) for share in (0, 0.25, 0.5)]
    one = 0.25 * 8 * float(llmhw.kv_cache(asked.model, seq_len=4000).total) / host_of("h100").link_bytes_per_second
    assert spans[1] - spans[0] == pytest.approx(one) == spans[2] - spans[1]


@pytest.mark.parametrize("name", NAMES[:3])
def test_adapters_cost_more_the_more_are_used(name: str) -> None:
    def decoded(**more: Any) -> float:
        asked = job(name, max_model_len=4096, **more)
        return float(engine_for(asked).seconds(decoding=64, context=500))

    few, many = decoded(lora_adapters=1), decoded(lora_adapters=64)
    assert decoded() < few < many < decoded(lora_adapters=64, lora_rank=64)
    assert decoded(lora_adapters=1, lora_targets="attention") < few or name == "qwen3-30b-a3b"
    held = sum(t.numel * n for t, n in lora_tensors(llmhw.model(name), rank=16)) * 2
    assert many - few > 30 * held / 3.35e12  # 64 requests use some 40 of 64 adapters


def test_the_host_is_told() -> None:
    found = serve(job("llama-3-70b", weight_offload=0.6, max_model_len=4096), input_tokens=100, output_tokens=50)
    assert found.fits
    note = next(text for text in found.warnings() if "host" in text)
    assert note == (
        "host='EPYC 9654' assumed; the host's memory gives 461 GB/s, the link to each device 55.4 GB/s; "
        "devices read it in every pass"
    )
    assert host_words(job(kv_offload=0.1, host="20 GB/s"))[0].startswith("the host's memory gives 20.0 GB/s")
    assert "host_read_seconds" in found.explain("host memory")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"host": "EPYC 9654"}, "host='EPYC 9654' has no effect without anything there"),
        ({"host": "h100", "kv_offload": 0.5}, "host='h100' is no processor of a host"),
        (
            {"engine": "llama.cpp", "weights": "q4_k_m", "weight_offload": 0.5},
            "weight_offload=0.5: llama.cpp deals whole layers, or their experts; use gpu_layers or cpu_moe",
        ),
        ({"host": "fastGB/s", "kv_offload": 0.5}, "host='fastGB' must be"),
        ({"lora_targets": "mlp"}, "lora_targets='mlp' has no effect without adapters"),
        ({"lora_targets": "router", "lora_adapters": 1}, "lora_targets='router'"),
    ],
)
def test_errors_name_the_argument(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(llmhw.LLMHWError) as found:
        job(**fields)
    assert message in str(found.value)
