"""Serving jobs and their memory: what is refused, what the ranks add up to, and what fits."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from llmhw.hardware import Cluster, accelerator
from llmhw.job import ServingJob
from llmhw.llamacpp import host_memory
from llmhw.memory import kv_cache, kv_cache_bytes_per_token, lora_tensors, weights
from llmhw.model import model
from llmhw.precision import weight_bytes
from llmhw.serving import (
    ServingMemory,
    dealt_layers,
    generation_memory,
    paged_tokens,
    prompt_workspace,
    serving_memory,
    settled,
    stage_tensors,
)
from llmhw.units import GIB, LLMHWError


def job(name: str = "llama-3-8b", devices: int = 1, device: str = "h100", **more: Any) -> ServingJob:
    return ServingJob(model=model(name), cluster=Cluster(device, devices), **more)


# -- what is asked ----------------------------------------------------------------------------


def test_defaults_follow_the_engine_and_the_model() -> None:
    asked = job()
    assert (asked.page_tokens, asked.context_limit, asked.devices, asked.replicas) == (16, 8192, 1, 1)
    assert job(engine="tensorrt-llm").page_tokens == 32
    assert job(engine="sglang").page_tokens == 1
    assert job(engine="llama.cpp", weights="q4_k_m").weights == "Q4_K_M"
    assert job(devices=8, tp=4).replicas == 2


def test_the_layout_as_training_writes_it() -> None:
    p = job("deepseek-v3", 16, tp=2, attention_dp=8, ep=8, weights="fp8").parallelism
    assert (p.dp, p.tp, p.ep, p.expert_tp, p.devices) == (8, 2, 8, 2, 16)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"tp": 3, "devices": 3}, "tp=3 does not divide heads=32; use one of 1, 2, 4, 8, 16, 32"),
        ({"tp": 4, "devices": 6}, "tp x pp x attention_dp = 4 x 1 x 1 = 4 does not divide the cluster's 6 devices"),
        ({"utilization": 0}, "utilization=0 must be above 0 and at most 1; vLLM's default is 0.92"),
        ({"utilization": 1.5}, "utilization=1.5 must be above 0 and at most 1; vLLM's default is 0.92"),
        ({"weight_offload": -0.1}, "weight_offload=-0.1 must be a share from 0 to 1"),
        ({"kv_offload": 1}, "kv_offload=1 must be a share of at least 0 and below 1"),
        ({"engine": "vlm"}, "engine='vlm' is not known; did you mean vllm"),
        ({"weights": "int4-gtpq"}, "weights='int4-gtpq' is not known; did you mean int4-gptq"),
        ({"max_sequences": 0}, "max_sequences=0 must be a whole number of at least 1"),
        ({"lora_adapters": -1}, "lora_adapters=-1 must be a whole number of at least 0"),
        (
            {"prefix_tokens": 8192},
            "prefix_tokens=8192 must be less than max_model_len=8192, which it is a part of",
        ),
        (
            {"page_size": 16, "engine": "litgpt"},
            "page_size=16: litgpt keeps the cache of a sequence in one block; use 1, or an engine with pages: "
            "vllm, tensorrt-llm, tensorrt-llm-pytorch, sglang, tgi",
        ),
        (
            {"split": "layers", "tp": 2, "devices": 2},
            "split='layers' deals whole layers to pp ranks, and tp=2 cuts them; use tp=1",
        ),
        ({"ep": 2, "tp": 2, "devices": 2}, "ep=2 spreads experts, and llama-3-8b has none; use ep=1"),
        (
            {"attention_dp": 2, "devices": 2},
            "attention_dp=2 spreads experts, and llama-3-8b has none; use attention_dp=1 and, for more instances, a "
            "cluster with more devices",
        ),
        ({"pp": 40, "devices": 40}, "pp=40 is more than layers=32; every stage needs a layer"),
    ],
)
def test_what_cannot_run_is_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(LLMHWError) as error:
        job(**arguments)
    assert str(error.value).startswith(text)


def test_experts_must_divide() -> None:
    with pytest.raises(LLMHWError) as error:
        job("mixtral-8x7b", 8, tp=8, ep=3)
    assert str(error.value) == "ep=3 does not divide experts=8; use one of 1, 2, 4, 8"
    with pytest.raises(LLMHWError) as error:
        job("mixtral-8x7b", 2, tp=2, ep=4)
    assert str(error.value) == (
        "ep=4 does not divide tp x attention_dp = 2 x 1 = 2, the ranks of a stage that experts are spread over"
    )


def test_tp_beyond_kv_heads_must_copy_them_evenly() -> None:
    with pytest.raises(LLMHWError, match="tp=6 neither divides kv_heads=4 nor is a multiple of it"):
        ServingJob(model=replace(model("llama-3-8b"), heads=24, kv_heads=4), cluster=Cluster("h100", 6), tp=6)


# -- what the ranks hold ----------------------------------------------------------------------


def test_dealt_layers() -> None:
    assert dealt_layers(32, 2) == (range(16), range(16, 32))
    assert [len(stage) for stage in dealt_layers(61, 8)] == [7, 7, 8, 8, 8, 8, 8, 7]
    assert [i for stage in dealt_layers(61, 8) for i in stage] == list(range(61))


@pytest.mark.parametrize("name", ["llama-3-8b", "qwen2.5-7b", "gpt2", "falcon-40b", "gemma-2-9b"])
@pytest.mark.parametrize("number_format", ["bf16", "fp8", "q4_k_m"])
def test_one_device_holds_the_whole_model(name: str, number_format: str) -> None:
    found = serving_memory(job(name, weights=number_format, max_model_len=1024))
    whole = weight_bytes(model(name), number_format)
    if number_format == "q4_k_m":  # llama.cpp reads rows of the embedding in host memory
        whole -= host_memory(found.job, 1024)["weights"] * (not model(name).tied)
        assert found.stages[0]["weights"] == pytest.approx(whole, rel=1e-2)
        return
    assert found.stages[0]["weights"] == pytest.approx(whole, rel=1e-12)


def test_ranks_of_a_stage_add_up() -> None:
    """Only norms are on every rank; matrices are cut."""
    whole, cut = serving_memory(job()), serving_memory(job(devices=8, tp=8))
    norms = weights(model("llama-3-8b"))["norms"]
    assert 8 * cut.stages[0]["weights"] - 7 * norms == whole.stages[0]["weights"]


def test_stages_add_up() -> None:
    found = serving_memory(job("llama-3-70b", 3, pp=3))
    assert sum(s["weights"] for s in found.stages) == weight_bytes(model("llama-3-70b"), "bf16")
    assert [s.parts[1].name for s in found.stages] == ["activations", "activations", "logits"]


@pytest.mark.parametrize(("ep", "expert_tp"), [(1, 8), (8, 1), (4, 2)])
def test_experts_are_spread_whatever_the_mix(ep: int, expert_tp: int) -> None:
    asked = job("mixtral-8x7b", 8, tp=8, ep=ep)
    assert asked.parallelism.expert_tp == expert_tp
    held = sum(n * t.numel for t, n in stage_tensors(asked, 0) if t.component == "experts")
    assert held * 8 == model("mixtral-8x7b").parameters.by_component["experts"]


def test_attention_dp_copies_attention_and_spreads_experts() -> None:
    dp = stage_tensors(job("deepseek-v3", 8, attention_dp=8, ep=8, weights="fp8"), 0)
    tp = stage_tensors(job("deepseek-v3", 8, tp=8, ep=8, weights="fp8"), 0)

    def size(tensors: Any, component: str) -> int:
        return sum(n * t.numel for t, n in tensors if t.component == component)

    assert size(dp, "experts") == size(tp, "experts")
    assert (
        size(dp, "attention") == model("deepseek-v3").parameters.by_component["attention"] > 4 * size(tp, "attention")
    )


@pytest.mark.parametrize(("tp", "share"), [(1, 1), (4, 1 / 4), (8, 1 / 8), (16, 1 / 8), (32, 1 / 8)])
def test_kv_heads_are_copied_beyond_their_number(tp: int, share: float) -> None:
    spec = model("llama-3-8b")  # 8 KV heads
    whole = kv_cache(spec, seq_len=4096).total
    assert kv_cache(spec, seq_len=4096, tp=tp).total == whole * share


def test_latent_cache_is_on_every_rank() -> None:
    spec = model("deepseek-v3")
    assert kv_cache(spec, seq_len=4096, tp=8).total == kv_cache(spec, seq_len=4096).total


def test_cache_of_some_layers() -> None:
    spec = model("gemma-2-9b")
    parts = [kv_cache(spec, seq_len=8192, layers=stage).total for stage in dealt_layers(spec.num_layers, 4)]
    assert sum(parts) == kv_cache(spec, seq_len=8192).total


def test_adapters() -> None:
    one = serving_memory(job(lora_adapters=4, lora_rank=16))
    added = sum(n * t.numel for t, n in lora_tensors(model("llama-3-8b"), rank=16))
    assert one.stages[0]["LoRA adapters"] == 4 * 2 * added
    cut = serving_memory(job(devices=2, tp=2, lora_adapters=4, lora_rank=16))
    assert one.stages[0]["LoRA adapters"] / 2 < cut.stages[0]["LoRA adapters"] < one.stages[0]["LoRA adapters"]


def test_offload() -> None:
    kept, moved = serving_memory(job()), serving_memory(job(weight_offload=0.25, kv_offload=0.5))
    assert moved.stages[0]["weights"] == 0.75 * kept.stages[0]["weights"]
    freed = 0.25 * kept.stages[0]["weights"]
    assert moved.kv_tokens == pytest.approx(
        2 * (kept.kv_bytes + freed) / kv_cache_bytes_per_token(kept.job.model), abs=32
    )


# -- what fits --------------------------------------------------------------------------------


def test_parts_and_cache_fill_the_budget() -> None:
    found = serving_memory(job())
    assert found.kv_bytes + found.stages[0].total == pytest.approx(found.budget_bytes)
    assert found.kv_tokens % 16 == 0
    assert found.kv_tokens == pytest.approx(found.kv_bytes / kv_cache_bytes_per_token(model("llama-3-8b")), abs=16)
    assert found.budget_bytes < 0.92 * accelerator("h100").memory_bytes


@pytest.mark.parametrize("name", ["llama-3-8b", "gemma-2-9b", "qwen3-next-80b-a3b", "deepseek-v2-lite"])
def test_one_sequence_more_does_not_fit(name: str) -> None:
    found = serving_memory(job(name, 4, pp=2, weights="fp8", max_model_len=8192))
    for length in (1, 100, 8192):
        count = found.sequences(length)
        assert all(found.cache_bytes(length, i, sequences=count) <= left for i, left in enumerate(found.left_bytes))
        assert any(found.cache_bytes(length, i, sequences=count + 1) > left for i, left in enumerate(found.left_bytes))


def test_a_shared_prefix_is_cached_once() -> None:
    alone, shared = serving_memory(job()), serving_memory(job(prefix_tokens=4000))
    token = kv_cache_bytes_per_token(model("llama-3-8b"))
    assert shared.cache_bytes(4096, sequences=10) == (10 * 96 + 4000) * token
    assert shared.sequences(4096) > 20 * alone.sequences(4096)


def test_engines_without_pages_reserve_the_longest_sequence() -> None:
    paged, whole = serving_memory(job()), serving_memory(job(engine="transformers"))
    assert whole.cache_bytes(10) == whole.cache_bytes(8192) == paged.cache_bytes(8192)
    assert whole.sequences(10) == whole.sequences(8192) < paged.sequences(10)


def test_pages() -> None:
    token = kv_cache_bytes_per_token(model("llama-3-8b"))
    assert serving_memory(job()).cache_bytes(17) == 32 * token
    assert serving_memory(job(page_size=1)).cache_bytes(17) == 17 * token
    lengths = range(2**12, 2**12 + 64)
    empty = sum(paged_tokens(tokens=n, page_size=64) - n for n in lengths)
    assert empty / len(lengths) == (64 - 1) / 2


def test_the_budget_is_a_share_of_what_cuda_shows() -> None:
    """A log of vLLM on an A10: 22.07 GiB x 0.90. AMD's driver keeps nothing of what it reports."""
    assert serving_memory(job(device="A10", utilization=0.9)).budget_bytes / GIB == pytest.approx(22.07 * 0.9, rel=2e-3)
    amd = accelerator("MI300X")
    assert serving_memory(job(device=amd.name, utilization=0.9)).budget_bytes == 0.9 * amd.memory_bytes


def test_longest() -> None:
    tight = serving_memory(job(device="RTX 4090", max_model_len=131072, max_batched_tokens=2048))
    assert 0 < tight.longest < 131072
    assert tight.cache_bytes(tight.longest) <= tight.left_bytes[0] < tight.cache_bytes(tight.longest + 16)
    assert tight.way_out == (
        f"fits up to {tight.longest:,} tokens; lower max_model_len, or use more tp or pp, or a smaller kv"
    )
    with pytest.raises(LLMHWError) as error:
        tight.cache_bytes(131073)
    assert str(error.value) == "seq_len=131073 is longer than max_model_len=131072; raise that"


def test_what_does_not_fit_is_an_answer() -> None:
    found = serving_memory(job("llama-3-70b"))
    assert (found.fits, found.longest, found.kv_tokens, found.sequences(100)) == (False, 0, 0, 0)
    assert found.way_out.startswith("short by 6")
    assert "use fewer bits for the weights, more tp or pp, or a device with more memory" in str(found)


def test_attention_dp_multiplies_sequences() -> None:
    one = serving_memory(job("deepseek-v3", 8, "B200", attention_dp=8, ep=8, weights="fp8", max_model_len=8192))
    each = int(one.left_bytes[0] // one.cache_bytes(8192))
    assert one.sequences(8192) == 8 * each


def test_the_workspace_is_the_larger_of_two() -> None:
    few = serving_memory(job(max_sequences=1, max_batched_tokens=8192))
    many = serving_memory(job(max_sequences=1024, max_batched_tokens=2048))
    assert [p.name for p in few.stages[0]] == ["weights", "activations", "engine", "CUDA graphs"]
    assert [p.name for p in many.stages[0]] == ["weights", "logits", "engine", "CUDA graphs"]


def test_mamba_has_no_tokens() -> None:
    with_state = serving_memory(job("qwen3-next-80b-a3b", 4, tp=2, pp=2, max_model_len=4096))
    assert with_state.kv_tokens > 0
    assert with_state.fits


def test_answer_as_numbers() -> None:
    found = serving_memory(job(devices=2, tp=2))
    data = found.to_dict()
    assert data["stages"][0]["parts"]["weights"] == found.stages[0]["weights"]
    assert data["kv_tokens"] == found.kv_tokens
    assert data["fits"] is True
    assert "stored_weight_bytes" in found.explain("weights")
    assert "cache_budget_bytes" in found.explain("KV cache")
    assert found.to_frame().loc["KV cache", 0] == pytest.approx(found.kv_bytes)
    assert found.device_bytes > found.budget_bytes
    assert found.capacity_bytes > found.device_bytes


def test_other_constants() -> None:
    found = serving_memory(job(), visible_bytes=79.1 * GIB, calibration={"beside_bytes": 0.0})
    assert found.budget_bytes == pytest.approx(0.92 * 79.1 * GIB)
    assert found.stages[0]["engine"] == 0
    assert isinstance(found, ServingMemory)


# -- generation without an engine -------------------------------------------------------------


def test_generation_is_the_larger_of_two_moments() -> None:
    spec = model("llama-3-8b")
    short = generation_memory(spec, prompt_tokens=1, new_tokens=2048)
    assert (short.note, short.total) == (
        "the last token",
        weight_bytes(spec, "bf16") + kv_cache(spec, seq_len=2049).total,
    )
    long = generation_memory(spec, prompt_tokens=30720, new_tokens=2048)
    assert long.note == "the prompt's widest block"
    assert long["activations"] == 30720 * 2 * (3 * 14336 + 4 * 4096)
    assert generation_memory(spec, prompt_tokens=0, new_tokens=0).total == weight_bytes(spec, "bf16")


def test_what_else_a_prompt_may_need() -> None:
    spec = model("llama-3-8b")
    logits = prompt_workspace(spec, tokens=4096, prompt_logits=True)
    assert logits.note == "the prompt's logits"
    assert logits.value == 4096 * (6 * spec.vocab_size + 2 * 2 * spec.hidden)
    eager = prompt_workspace(spec, tokens=4096, attention="eager", devices=2)
    assert eager.value == 2 * (10 * 32 * 4096**2 + 4096 * 2 * 8 * 4096)
    fixed = generation_memory(spec, prompt_tokens=64, new_tokens=64, reserved_tokens=2048)
    assert fixed["KV cache"] == kv_cache(spec, seq_len=2048).total
    with pytest.raises(LLMHWError, match="attention='fast' is not known"):
        prompt_workspace(spec, tokens=1, attention="fast")


# -- what nobody asked for --------------------------------------------------------------------


def test_the_longest_sequence_is_capped_to_what_fits_and_said() -> None:
    found = serving_memory(job("llama-3.1-8b", device="RTX 3090"))
    assert found.fits
    assert found.job.max_model_len == found.longest < 131_072
    assert f"max_model_len={found.longest} assumed: the model's 131,072 do not fit; vllm needs it said" in (
        found.warnings()
    )
    assert found.verdict.startswith("Fits barely: ")
    roomy = serving_memory(job())
    assert roomy.job.max_model_len is None
    assert not any("max_model_len" in text for text in roomy.warnings())


def test_engines_without_pages_take_the_length_of_a_request() -> None:
    for engine in ("llama.cpp", "transformers", "litgpt"):
        made = settled(job("llama-3.1-8b", engine=engine), prompt=1000, answer=500, concurrency=3)
        assert made.max_model_len == (131_072 if engine == "llama.cpp" else 1500)
        assert made.max_sequences == (1 if engine == "llama.cpp" else 3)
        assert made.max_batched_tokens == (512 if engine == "llama.cpp" else 1000)
        # without a request: what fits
        alone = serving_memory(job("llama-3.1-8b", device="RTX 3090", engine=engine))
        assert alone.fits
        assert alone.longest > 20_000


def test_llama_cpp_takes_its_buffer_and_its_context() -> None:
    found = serving_memory(job("llama-3.1-8b", device="RTX 3090", engine="llama.cpp"))
    assert found.budget_bytes == pytest.approx(23.55 * GIB, rel=1e-3)
    # fp32 and fp16 masks of all cells, queries and hidden states
    assert found.stages[0]["compute buffer"] == 512 * (6 * found.job.context_limit + 4 * 4096 * 4)
    short = serving_memory(job("llama-3.1-8b", device="RTX 3090", engine="llama.cpp", n_ctx=8192))
    assert short.stages[0]["compute buffer"] == 512 * (128_256 + 4096) * 4
    assert (short.kv_tokens, short.kv_bytes) == (8192, GIB)
    assert found.stages[0]["engine"] > serving_memory(job()).stages[0]["engine"] + 0.4 * GIB


def test_the_layout_is_that_of_the_fewest_devices_that_hold_the_model() -> None:
    def layout(name: str, gpus: int, **more: Any) -> tuple[int, int, int]:
        made = settled(job(name, gpus, **more), prompt=1000, answer=500)
        return made.tp, made.pp, made.replicas

    assert layout("llama-3-8b", 8) == (1, 1, 8)
    assert layout("llama-3.1-70b", 8) == (2, 1, 4)
    assert layout("llama-3.1-70b", 8, tp=4) == (4, 1, 2)
    assert layout("llama-3.1-70b", 8, pp=4) == (1, 4, 2)
    assert layout("llama-3.1-70b", 2, device="rtx 3090", engine="llama.cpp") == (1, 2, 1)
    # heads that do not divide are passed over, and what nothing holds takes all it may
    assert layout("qwen2.5-7b", 8, device="rtx 3060 12gb")[0] in (2, 4)
    assert layout("llama-3.1-405b", 8) == (8, 1, 1)


def test_what_is_short_is_named_and_never_nothing() -> None:
    for engine in ("vllm", "llama.cpp", "transformers"):
        more: dict[str, Any] = {} if engine == "llama.cpp" else {"weights": "bf16"}
        found = serving_memory(job("llama-3.1-405b", engine=engine, **more))
        assert not found.fits
        assert re.match(r"Does not fit: short by \d+ GiB on each device \(\d+ GiB of [\d.]+ GiB\)\.", found.verdict)
        assert found.to_row()["fits"] is False
    steps = serving_memory(job("llama-3-70b")).next_steps()
    assert any(step.startswith("devices=2, tp=2: longest context 8,192 tokens, ") for step in steps)


def test_a_row_of_a_table_begins_with_what_it_is_of() -> None:
    row = serving_memory(job(devices=2, tp=2, kv="fp8")).to_row()
    assert list(row)[:7] == ["model", "device", "devices", "engine", "weights", "kv", "tp"]
    assert (row["engine"], row["kv"], row["tp"], row["fits"]) == ("vllm", "fp8", 2, True)


def test_the_budget_explains_itself() -> None:
    text = serving_memory(job()).explain("budget")
    assert "engine_budget_bytes" in text
    assert "72.9 GiB" in text


# -- llama.cpp --------------------------------------------------------------------------------


def home(name: str = "llama-3.1-8b", **more: Any) -> ServingMemory:
    return serving_memory(job(name, device="RTX 4090", **{"engine": "llama.cpp", "weights": "q4_k_m"} | more))


def test_cells_are_shared_by_slots() -> None:
    two = home(n_ctx=32768, max_sequences=2)
    assert (two.job.max_model_len, two.kv_tokens, two.kv_bytes) == (16384, 32768, 4 * GIB)
    assert home(n_ctx=32768, kv="q8_0").kv_bytes == 4 * GIB * 8.5 / 16
    assert home(n_ctx=32768, kv="q8_0", kv_v="fp16").kv_bytes == 4 * GIB * (8.5 + 16) / 32
    # windows of 1,024 and a micro-batch, in steps of 256; before May 2025, or if asked, all cells
    windowed, full = home("gemma-3-27b", n_ctx=32768, max_sequences=1), home("gemma-3-27b", n_ctx=32768, swa_full=True)
    layer = 2 * 16 * 128 * 2
    assert windowed.kv_bytes == layer * (10 * 32768 + 52 * 1536)
    assert full.needed_bytes(32768) - windowed.needed_bytes(32768) == layer * 52 * (32768 - 1536)


def test_what_is_on_no_device_is_in_host_memory() -> None:
    all_on, half = home(n_ctx=8192), home(n_ctx=8192, gpu_layers=17)
    assert half.kv_bytes == all_on.kv_bytes / 2  # 16 layers and the head
    away = host_memory(half.job, 8192)
    assert away["KV cache"] == half.kv_bytes
    whole = weight_bytes("llama-3.1-8b", "q4_k_m")
    assert away["weights"] + half.stages[0]["weights"] == pytest.approx(whole, rel=1e-6)
    experts = home("qwen3-30b-a3b", n_ctx=8192, cpu_moe=48)
    assert experts.stages[0]["weights"] < 1.2 * GIB
    assert any(text.startswith("host memory: 16.") for text in experts.warnings())
    # without fused attention: scores of all heads
    plain = home(n_ctx=8192, flash_attention=False)
    assert plain.stages[0]["compute buffer"] == 560 * 2**20


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"engine": "vllm", "weights": "bf16", "n_ctx": 4096}, "n_ctx=4096 is no option of vllm; use engine=llama.cpp"),
        ({"n_ctx": 4096, "max_model_len": 2048}, "give one of the two"),
        ({"flash_attention": False, "kv": "q8_0"}, "quantizes cached values only with flash attention"),
    ],
)
def test_options_of_llama_cpp_are_refused_where_they_mean_nothing(more: dict[str, Any], words: str) -> None:
    with pytest.raises(LLMHWError, match=words):
        home(**more)
