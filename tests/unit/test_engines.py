"""Engines: where they run, what they read, what follows where nobody asks."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest

from llmhw.catalog import read_calibration, read_table
from llmhw.engines import engine_names, serving_engine
from llmhw.hardware import Cluster, accelerators
from llmhw.job import Assumed, ServingJob
from llmhw.model import model
from llmhw.precision import number_format
from llmhw.service import lender
from llmhw.serving import serving_memory
from llmhw.units import GIB, LLMHWError


def job(name: str = "llama-3-8b", device: str = "h100", devices: int = 1, **more: Any) -> ServingJob:
    return ServingJob(model=model(name), cluster=Cluster(device, devices), **more)


def test_the_table_names_what_exists() -> None:
    vendors = {a.vendor for a in accelerators()}
    for row in read_table("engines"):
        engine = serving_engine(row["name"])
        assert set(engine.vendors) <= vendors
        assert engine.source
        for name in (*engine.weights, *engine.kv, *(entry.partition(":")[0] for entry in engine.weight_only)):
            assert name in ("gguf", "exl2", "exl3") or number_format(name).name == name
        assert lender(engine).constants in read_calibration("serving_time")["engines"]
    assert engine_names()[0] == "vllm"


@pytest.mark.parametrize(
    ("name", "device", "engine"),
    [
        ("Llama-3.1-8B-Instruct-exl2-4.0bpw", "rtx 3090", "exllamav2"),
        ("Llama-3.1-8B-Instruct-exl3-4.0bpw", "rtx 4090", "exllamav3"),
        ("mlx-community/Llama-3.1-8B-Instruct-4bit", "m4 max 128gb", "mlx"),
    ],
)
def test_files_that_one_engine_reads_are_served_by_it(name: str, device: str, engine: str) -> None:
    made = ServingJob(model=model(name), cluster=Cluster(device, 1))
    held = serving_memory(made).stages[0]["weights"]
    assert made.engine == engine
    # 4 bits and scales, a head of 6 to 6.3; ExLlama reads rows of the embedding in host memory, MLX packs it
    assert held / GIB == pytest.approx({"exllamav2": 3.64, "exllamav3": 3.62, "mlx": 4.21}[engine], rel=0.01)


@pytest.mark.parametrize("name", ["vLLM", "VLLM", "SGLang", "TensorRT-LLM", "trt-llm", "Llama.cpp", "HF", "LitGPT"])
def test_names_ignore_case(name: str) -> None:
    assert job(engine=name, weights="fp16" if "lama" in name else "bf16").engine in engine_names()


@pytest.mark.parametrize(
    ("asked", "engine", "weights"),
    [
        ({}, "vllm", "bf16"),
        ({"weights": "q4_k_m"}, "llama.cpp", "Q4_K_M"),
        ({"device": "m4 max 128gb"}, "llama.cpp", "Q4_K_M"),
        ({"engine": "llama.cpp"}, "llama.cpp", "Q4_K_M"),
        ({"device": "v100 sxm2 32gb"}, "vllm", "fp16"),
        ({"name": "gpt-oss-20b"}, "vllm", "mxfp4"),
        ({"name": "gpt-oss-20b", "device": "m4 max 128gb"}, "llama.cpp", "MXFP4_MOE"),
        ({"name": "deepseek-v3", "device": "h200"}, "vllm", "fp8-block"),
        ({"name": "deepseek-v3", "engine": "litgpt"}, "litgpt", "bf16"),
        ({"device": "tpu v5e"}, "vllm", "bf16"),
    ],
)
def test_engine_and_weights_follow_what_exists(asked: dict[str, Any], engine: str, weights: str) -> None:
    found = job(**asked)
    assert (found.engine, found.weights) == (engine, weights)


def test_what_the_engine_takes_unless_told_otherwise() -> None:
    ours, theirs = job(), job(engine="llama.cpp")
    assert (ours.utilization, ours.max_sequences, ours.max_batched_tokens, ours.split) == (0.92, 1024, 8192, "tensor")
    assert (theirs.utilization, theirs.max_sequences, theirs.max_batched_tokens, theirs.split) == (1, 1, 512, "layers")
    assert job(engine="transformers").utilization == 1
    # a batch is no smaller than its sequences: vLLM takes fewer where nobody asks
    assert job(max_batched_tokens=512).max_sequences == 512


@pytest.mark.parametrize(
    ("engine", "device", "devices", "taken"),
    [
        ("vllm", "h100", 1, (0.92, 1024, 8192)),
        ("vllm", "a100 80gb sxm4", 1, (0.92, 256, 2048)),
        ("vllm", "rtx 3090", 1, (0.92, 256, 2048)),
        ("vllm:0.9.2", "mi300x", 1, (0.9, 1024, 8192)),
        ("vllm:v0.7.2", "rtx 3090", 1, (0.9, 256, 8192)),
        ("vLLM:0.5.4", "h100", 1, (0.9, 256, 8192)),
        ("sglang:0.4.6", "h100", 4, (0.85, 2048, 8192)),
        ("sglang", "h100", 4, (0.824, 2048, 8192)),
        ("sglang", "b200", 8, (0.852, 2048, 16384)),
        ("tensorrt-llm", "h100", 1, (0.9, 2048, 8192)),
        ("tgi:2.4.0", "h100", 1, (0.95, 128, 8192)),
    ],
)
def test_defaults_follow_version_and_device(
    engine: str, device: str, devices: int, taken: tuple[float, int, int]
) -> None:
    found = job(device=device, devices=devices, engine=engine, tp=devices)
    assert (found.utilization, found.max_sequences, found.max_batched_tokens) == taken


def test_versions_are_numbers() -> None:
    assert str(job(engine="VLLM:v0.9.2").engine) == "vllm:0.9.2"
    assert serving_engine("vllm:0.9.2").name == "vllm"
    with pytest.raises(LLMHWError, match="engine='vllm:new': the version must be numbers with dots between, as in"):
        serving_engine("vllm:new")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"device": "m4 max 128gb", "engine": "vllm"}, "engine='vllm' does not run on M4 Max 128GB; use engine='tran"),
        ({"device": "mi300x", "engine": "tensorrt-llm"}, "engine='tensorrt-llm' does not run on MI300X; use"),
        ({"device": "v100 sxm2 32gb", "engine": "sglang"}, "engine='sglang' does not run on V100 SXM2 32GB; use"),
        ({"engine": "tensorrt-llm", "weights": "q4_k_m"}, "weights='Q4_K_M' is not read by tensorrt-llm, which reads"),
        ({"engine": "llama.cpp", "weights": "int4-gptq"}, "weights='int4-gptq' is not read by llama.cpp, which reads"),
        ({"device": "v100 sxm2 32gb", "weights": "bf16"}, "weights='bf16': V100 SXM2 32GB does not multiply bf16, and"),
        ({"device": "v100 sxm2 32gb", "weights": "fp8"}, "weights='fp8': V100 SXM2 32GB does not multiply fp8, and"),
        (
            {"device": "a100 80gb sxm4", "weights": "fp8", "engine": "tensorrt-llm"},
            "weights='fp8': A100 80GB SXM4 does not multiply fp8, and tensorrt-llm does not expand it there; use",
        ),
        ({"engine": "litgpt", "kv": "fp8"}, "kv='fp8' is not a cache of litgpt; use bf16, fp16"),
        ({"kv": "q8_0"}, "kv='Q8_0' is not a cache of vllm; use bf16, fp16, fp8"),
    ],
)
def test_pairs_that_do_not_exist_are_refused(asked: dict[str, Any], text: str) -> None:
    with pytest.raises(LLMHWError) as error:
        job(**asked)
    assert str(error.value).startswith(text)


@pytest.mark.parametrize("weights", ["fp8", "nvfp4", "mxfp4"])
def test_what_is_expanded_is_said(weights: str) -> None:
    from llmhw.serving import serving_memory

    found = serving_memory(job(device="a100 80gb sxm4", weights=weights)).warnings()
    text = f"weights={weights!r}: A100 80GB SXM4 does not multiply them; vllm expands them to 16 bit"
    assert text in found
    assert not any("expands" in w for w in serving_memory(job(device="b200", weights=weights)).warnings())


def test_a_change_asks_for_the_rest_again() -> None:
    first = job()
    assert isinstance(first.engine, Assumed)
    changed = replace(first, weights="q4_k_m")
    assert (changed.engine, changed.max_sequences, changed.utilization) == ("llama.cpp", 1, 1.0)
    # what was asked is kept, even where it is what had followed
    assert replace(job(max_sequences=256), engine="llama.cpp", weights="q4_k_m").max_sequences == 256
    settled = first.assuming(max_model_len=100)
    assert (settled.context_limit, settled.was_asked("max_model_len")) == (100, False)
    assert replace(settled, kv="fp8").context_limit == 8192
    for same in (pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
        assert same.engine == "vllm"
        assert not same.was_asked("engine")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"page_size": 0}, "page_size=0 must be a whole number of at least 1"),
        ({"max_model_len": 0}, "max_model_len=0 must be a whole number of at least 1"),
        ({"max_sequences": 10**7}, "max_sequences=10000000 must be at most 1,000,000"),
        ({"max_model_len": 10**10}, "max_model_len=10000000000 must be at most 1,000,000,000"),
        ({"max_batched_tokens": 10**10}, "max_batched_tokens=10000000000 must be at most"),
        ({"lora_rank": 8}, "lora_rank=8 has no effect without adapters; give lora_adapters=1"),
        ({"lora_adapters": 1, "lora_rank": 5000}, "lora_rank=5000 must be at most hidden=4096"),
        ({"tp": 10**30}, f"tp={10**30} must be a whole number of at least 1 and at most"),
        ({"prefix_tokens": None}, "prefix_tokens=None must be given; its default is 0"),
        ({"utilization": "x"}, "utilization='x' must be above 0 and at most 1"),
        ({"kv_offload": []}, "kv_offload=[] must be a share"),
        ({"weight_offload": float("nan")}, "weight_offload=nan must be a share"),
    ],
)
def test_numbers_have_bounds_and_an_effect(asked: dict[str, Any], text: str) -> None:
    with pytest.raises(LLMHWError) as error:
        job(**asked)
    assert str(error.value).startswith(text)
