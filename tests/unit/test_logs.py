"""`llmhw compare`: real lines of start-up logs, taken apart and predicted."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from llmhw.cli import jobs
from llmhw.hardware import accelerator
from llmhw.logs import GIB, MIB, compare, device_of, read, read_log
from llmhw.units import LLMHWError
from tests.unit.command import answer, refused, run

LOGS = Path(__file__).parent / "logs"

# Log, device where it does not name it; settings and quantities that it states; ratios that the prediction keeps to.
CASES: dict[str, tuple[str, dict[str, str], dict[str, float], dict[str, float]]] = {
    "vllm-0.4.1": (
        "RTX 3090",
        {"version": "0.4.1", "model": "Meta-Llama-3-8B-Instruct", "longest": "8192", "utilization": "0.9"},
        {"weights": 14.9595 * GIB, "blocks": 2358},
        {"weights": 0.01, "tokens": 0.11},
    ),
    "vllm-0.8.3-tp16": (
        "RTX 3090",
        {"tp": "16", "quantization": "moe_wna16", "utilization": "0.99"},
        {"visible": 23.58 * GIB, "weights": 21.21 * GIB, "activations": 0.37 * GIB, "KV cache": 1.57 * GIB},
        {"weights": 0.01},
    ),
    "vllm-0.10.2": (
        "h100",
        {"version": "0.10.2", "batched": "16384.", "longest": "4096"},
        {"tokens": 451744, "sequences": 110.29, "CUDA graphs": 0.67 * GIB, "outside the allocator": 0.07 * GIB},
        {"weights": 0.01, "tokens": 0.05, "KV cache": 0.05, "sequences": 0.05},
    ),
    "sglang": (
        "RTX 3090",
        {"model": "Qwen/Qwen3-14B", "tp": "4", "utilization": "0.8", "longest": "40960", "sequences_limit": "3730"},
        {"tokens": 298447, "KV cache": 2 * 5.69 * GIB, "weights": 7.08 * GIB},
        {"weights": 0.03, "tokens": 0.03, "KV cache": 0.03},
    ),
    "ollama": (
        "",
        {"name": "DeepSeek R1 Distill Llama 8B", "context": "8192", "kv": "f16", "fused": "0", "layers": "33"},
        {"weights": 4.58 * GIB, "KV cache": 1024 * MIB},
        {
            "weights": 0.003,
            "KV cache": 1e-9,
            "CUDA0 weights": 0.003,
            "CUDA0 compute buffer": 0.01,
            "host weights": 0.003,
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_log_is_read_and_predicted(name: str) -> None:
    device, settings, measured, ratios = CASES[name]
    log = read(LOGS / f"{name}.log")
    assert {key: log.settings.get(key) for key in settings} == settings
    assert {key: log.measured.get(key) for key in measured} == pytest.approx(measured)
    found = compare(log, device=device or None)
    for quantity, within in ratios.items():
        assert found.rows[quantity].ratio == pytest.approx(1, abs=within), quantity
    given = ["--gpu", device] if device else []
    assert answer("compare", str(LOGS / f"{name}.log"), *given)["rows"] == found.records()


def test_a_model_without_a_name_is_made_of_its_metadata() -> None:
    text = (LOGS / "ollama.log").read_text(encoding="utf-8")
    unknown = text.replace("DeepSeek R1 Distill Llama 8B", "Mine").replace("DeepSeek-R1-Distill-Llama", "mine")
    known, found = compare(text), compare(unknown, device="RTX 3090")
    assert found.held.job.model.name == "Mine"
    assert found.rows["weights"] == known.rows["weights"]
    # the sizes that llama.cpp made of the metadata do as well
    sizes = {"n_layer": 32, "n_embd": 4096, "n_head": 32, "n_head_kv": 8, "n_ff": 14336, "n_vocab": 128256}
    lines = [line for line in unknown.splitlines() if "- kv" not in line]
    lines += [f"print_info: {key:<16} = {value}" for key, value in (sizes | {"n_ctx_train": 131072}).items()]
    assert compare("\n".join(lines), device="RTX 3090").rows["weights"] == known.rows["weights"]


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("INFO worker.py:243] total_gpu_memory     79.22GiB", "visible", 79.22 * GIB),
        ("worker.py:243] PyTorch activation peak memory       1.26GiB", "activations", 1.26 * GIB),
        ("worker.py:243] available_kv_cache_memory    53.29GiB", "KV cache", 53.29 * GIB),
        ("executor_base.py:95] # CUDA blocks: 6001, # CPU blocks: 1638", "blocks", 6001),
        ("GPU KV cache size: 460,496 tokens, Maximum concurrency for 131,072 tokens per request:", "tokens", 460496),
        ("gpu_worker.py:608] CUDA graph pool memory: 0.32 GiB (actual), 0.1 GiB", "CUDA graphs", 0.32 * GIB),
        ("ValueError: ... larger than the available KV cache memory (4.25 GiB). Based on", "KV cache", 4.25 * GIB),
        ("total_gpu_memory=23.64GiB non_torch_memory=0.11GiB kv_cache_size=3.5GiB", "KV cache", 3.5 * GIB),
        ("the maximum number of tokens that can be stored in KV cache (3664). Try", "tokens", 3664),
        ("KV Cache is allocated. dtype: torch.bfloat16, #tokens: 383872, KV size: 19.36 GB", "KV cache", 19.36 * GIB),
        ("Mamba Cache is allocated. max_mamba_cache_size: 9, conv_state size: 4.88GB, ssm_state size: 0.02GB ",
         "state", 4.9 * GIB),
        ("llm_load_print_meta: model size       = 5.17 GiB (16.01 BPW) ", "weights", 5.17 * GIB),
        ("llama_kv_cache: size = 416.00 MiB ( 32768 cells, 13 layers, 1/1 seqs), K (f16)", "KV cache", 416 * MIB),
    ],
)  # fmt: skip
def test_wordings(line: str, name: str, value: float) -> None:
    assert read_log(f"\x1b[32mINFO\x1b[0m {line}").measured[name] == pytest.approx(value)


def test_the_names_of_mixes() -> None:
    said = {
        "Q4_K - Medium (guessed)": "Q4_K_M",
        "MXFP4 MoE": "MXFP4_MOE",
        "IQ4_XS - 4.25 bpw": "IQ4_XS",
        "all F32": "fp32",
    }
    for text, name in said.items():
        made = f"general.name = Llama 3 8B\nprint_info: file type   = {text}\nprint_info: file size = 9 GiB (8 BPW)"
        spec = "gpt-oss-20b" if name == "MXFP4_MOE" else None
        assert compare(made, spec=spec, device="h100").held.job.weights == name


def test_all_ranks_and_the_last_start_count() -> None:
    start = "Initializing a V1 LLM engine (v0.11.0) with config: model='x'\n"
    lines = "Model loading took {0} GiB\nAvailable KV cache memory: {1} GiB\n"
    text = start + lines.format(1, 50) + start + lines.format(7, 20) + lines.format(8, 19)
    assert read_log(text).measured == {"weights": 8 * GIB, "KV cache": 19 * GIB}


def test_a_device_of_several_sizes_is_told_by_what_the_log_saw() -> None:
    line = "Device 0: NVIDIA GeForce RTX 3060, compute capability 8.6, VMM: yes{}\nfile size = 9 MiB"
    assert device_of(read_log(line.format(", VRAM: 12287 MiB"))).name == "RTX 3060 12GB"
    seen = "model='x'\nload_config device_name=NVIDIA_H20.json\nFree memory on device (95.0/139.8 GiB)\n# GPU blocks: 9"
    assert device_of(read_log(seen)).name == "H20 141GB"
    with pytest.raises(LLMHWError, match="has 8 GB or 12 GB of memory"):
        device_of(read_log(line.format("")))


def test_a_refusal_is_told() -> None:
    said = (
        "ValueError: To serve at least one request with the model's max seq len (131072), (16.00 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (4.25 GiB). Based on the available memory"
    )
    text = f"model='meta-llama/Llama-3.1-8B-Instruct', max_seq_len=131072\nModel loading took 14.99 GiB\n{said}"
    found = compare(text, device="RTX 3090")
    assert found.verdict.startswith(
        "The engine did not start; so does the prediction: Does not start: max_model_len=131072"
    )
    assert found.warnings()[0].startswith("the log says: To serve at least one request")


def test_too_many_sequences_for_the_blocks_of_state() -> None:
    """vllm-project/recipes pull 551: Qwen3.6 27B in FP8 on an H100."""
    text = (
        "python3 -m vllm.entrypoints.openai.api_server --model Qwen/Qwen3.6-27B-FP8 --gpu-memory-utilization 0.95\n"
        "Initializing a V1 LLM engine (v0.19.0) with config: model='Qwen/Qwen3.6-27B-FP8', max_seq_len=262144\n"
        "ValueError: max_num_seqs (1024) exceeds available Mamba cache blocks (856). Each decode sequence requires one"
    )
    found = compare(text, device="h100")
    assert found.verdict.startswith(
        "The engine did not start; so does the prediction: Does not start: max_sequences=1024"
    )
    assert found.rows["blocks of state"].ratio == pytest.approx(1, abs=0.05)


def test_logs_that_are_none(tmp_path: Path) -> None:
    def error(data: bytes | str, *options: str) -> str:
        path = tmp_path / "it.log"
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return refused("compare", str(path), *options)

    for nothing in (b"", b"\x00\xff" * 99, "INFO: nothing here\n" * 9, "=" * 10**6):
        assert "no line that vLLM, SGLang or llama.cpp writes" in error(nothing, "--gpu", "h100")
    assert "the log calls it '/model'" in error("model='/model'\nModel loading took 3 GiB", "--gpu", "h100")
    assert "the log does not name its device; give --gpu" in error("model='gpt2'\nModel loading took 3 GiB")
    assert "does not exist" in refused("compare", str(tmp_path / "none.log"))
    with pytest.raises(LLMHWError, match="must be a text"):
        compare(5)  # type: ignore[arg-type]
    # what PowerShell writes is read, and a long line does not take long
    (tmp_path / "wide.log").write_text((LOGS / "sglang.log").read_text(encoding="utf-8"), encoding="utf-16")
    assert run("compare", str(tmp_path / "wide.log"), "--gpu", "RTX 3090").returncode == 0
    many = "K (" * 300_000 + "\n" + "Graph capturing finished in " * 30_000
    assert not read_log(many + "\nModel loading took 3 GiB").refused


def test_options_stand_in_for_what_the_log_does_not_say() -> None:
    path = str(LOGS / "vllm-0.10.2.log")
    found = answer("compare", path, "--gpu", "h100", "--model", "mistral-7b", "--max-sequences", "8")
    assert found["model"] == "mistral-7b"
    held = compare(read(path), spec="mistral-7b", device=accelerator("h100"), max_sequences=8)
    assert found["rows"] == held.records()
    assert jobs.LOG.name == "log"
    assert answer("log", path, "--gpu", "h100", "--model", "mistral-7b", "--max-sequences", "8") == found


def test_shown() -> None:
    found: Any = compare(read(LOGS / "vllm-0.10.2.log"), device="h100")
    assert found.verdict == "The prediction agrees with the log, within its known error."
    text = str(found)
    assert "log of vllm 0.10.2: serving llava-v1.6-mistral-7b" in text
    assert found.to_row()["tokens_measured"] == 451744
    off = compare(read(LOGS / "vllm-0.10.2.log"), device="h100", utilization=0.5)
    assert off.verdict.startswith("The prediction differs from the log: ")
    assert any("than predicted" in line for line in off.warnings())


def test_broken_lines_are_errors_at_most() -> None:
    """Lines lost, doubled, and numbers that are none: an answer, or a clear refusal."""
    draw = random.Random("logs")
    texts = [path.read_text(encoding="utf-8").splitlines() for path in sorted(LOGS.iterdir())]
    answered = 0
    for _ in range(150):
        lines = list(draw.choice(texts))
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(len(lines))
            if draw.random() < 0.5:
                lines[at] = draw.choice(draw.choice(texts))
            elif numbers := list(re.finditer(r"\d[\d.,]*", lines[at])):
                number, bad = draw.choice(numbers), draw.choice(("0", "-1", "1e9", "9" * 20, "nan", "1.2.3", ""))
                lines[at] = lines[at][: number.start()] + bad + lines[at][number.end() :]
        try:
            found = compare("\n".join(lines), device="RTX 3090", spec=draw.choice((None, "llama-3-8b")))
            answered += bool(str(found) and found.to_dict())
        except LLMHWError:
            continue
    assert answered > 50
