"""Facts of rows are columns: what the committed script makes of sources, and that the tables hold just that."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

import llmhw.validation
from benchmarks.measurement_facts import (
    FACTS,
    FOLDER,
    adapter_of,
    base_of,
    device_of,
    engine,
    inference_memory,
    software,
    training_memory,
    training_throughput,
    with_facts,
)
from llmhw.catalog import read_measurements
from llmhw.trainers import trainer_names
from llmhw.validation.table import Row


@pytest.mark.parametrize("table", FACTS)
def test_the_tables_hold_what_the_script_writes(table: str) -> None:
    """Also where every fact is scrambled before: the script reads none of them."""
    text = (FOLDER / f"{table}.csv").read_text(encoding="utf-8")
    columns, *rows = csv.reader(io.StringIO(text, newline=""))
    stale, bare = io.StringIO(newline=""), io.StringIO(newline="")
    for values in [columns, *rows]:
        pairs = list(zip(columns, values, strict=True))
        scrambled = [cell if values is columns or name not in FACTS[table] else f"stale {name}" for name, cell in pairs]
        csv.writer(stale, lineterminator="\n").writerow(scrambled)
        csv.writer(bare, lineterminator="\n").writerow([cell for name, cell in pairs if name not in FACTS[table]])
    for before in (text, stale.getvalue(), bare.getvalue()):
        assert with_facts(table, before) == text


@pytest.mark.parametrize("table", FACTS)
def test_every_fact_is_used_and_explained(table: str) -> None:
    rows = read_measurements(table)
    for column in FACTS[table]:
        assert any(row[column] for row in rows), column
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert [column for column in FACTS[table] if f"`{column}`" not in readme] == []


def test_no_code_of_the_library_reads_facts_out_of_words() -> None:
    """Cells of words are names of rows or of models as they stand, never searched for parts of them."""
    used = set()
    for path in Path(llmhw.validation.__file__).parent.glob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            found = re.search(r"""\b(?:row|self|cells|r|one)\[["'](source|notes|model_name)["']\].*""", line)
            if found:
                used.add((path.name, found[0]))
    assert used == {
        ("table.py", 'self["source"] or "(no source)"'),
        ("table.py", 'self["model_name"])'),
        ("table.py", 'self["model_name"])) or self._is_named()'),
        ("table.py", 'self["model_name"], stated)'),
        ("table.py", 'self["model_name"])'),
        ("table.py", "self['model_name'])} was taken for; mend one of them\""),
        ("table.py", "self['model_name']!r} is not in the catalog\""),
    }


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"source": "MosaicML llm-foundry MPT training benchmarks"}, "composer"),
        ({"source": "torchtitan docs", "notes": "FSDP2+compile"}, "torchtitan"),
        ({"source": "BigScience BLOOM", "year": "2022"}, "megatron-deepspeed"),
        ({"source": "Narayanan et al. 2021", "year": "2021"}, "megatron-lm:2021"),
        ({"source": "Narayanan et al. 2021", "year": "2021", "zero_stage": "3"}, "deepspeed:2021"),
        ({"source": "Korthikanti et al. 2022", "year": "2022"}, "megatron-lm:2022"),
        ({"source": "NVIDIA NeMo 24.07", "year": "2024"}, "nemo:1"),
        ({"source": "NVIDIA Megatron-Bridge 26.06", "year": "2026"}, "megatron-bridge"),
        ({"source": "somebody", "notes": "overlap OFF"}, "megatron-lm"),
        ({"source": "Llama 3 Herd of Models", "year": "2024", "zero_stage": "fsdp"}, "torchtitan"),
    ],
)
def test_software_is_what_the_source_says(change: dict[str, str], name: str) -> None:
    assert software(Row({"year": "2025", "notes": "", "zero_stage": "1"} | change))["software"] == name
    assert name in trainer_names()


@pytest.mark.parametrize(
    ("change", "column", "value"),
    [
        ({"notes": "mlp+core_attn recompute"}, "recompute_modules", "mlp,core_attn"),
        ({"notes": "selective recompute of layernorm and the whole moe module"}, "recompute_modules", "layernorm,moe"),
        ({"notes": "CPU offload with fused optimizer"}, "offload", "all"),
        ({"notes": "cpu_offload false"}, "offload", ""),
        ({"notes": "PagedAdamW8bit, optimizer_in_bwd"}, "optimizer", "paged-adamw-8bit"),
        ({"provenance": "memory"}, "not_predicted", "written down from memory, not read"),
        ({"source": "torchtitan docs"}, "recipe", "fp32-bf16"),
        ({"source": "torchtitan docs", "pp": "4"}, "kernels", "torch"),
        ({"zero_stage": "fsdp", "pp": "4"}, "kernels", "megatron"),
        ({"recompute": "unknown", "model_name": "mixtral-8x7b"}, "recompute_mode", "as needed"),
        ({"recompute": "unknown", "model_name": "mixtral-8x7b", "gpu": "GB200"}, "recompute_mode", "none"),
        ({"recompute": "full"}, "recompute_mode", "full"),
        ({"precision": "mxfp8"}, "compute", "fp8-block"),
        ({"precision": "mxfp8", "gpu": "GB200"}, "compute", "mxfp8"),
        ({"model_name": "llama2-70b lora"}, "adapters_only", "true"),
        ({"source": "Llama 3 Herd of Models"}, "cp_kind", "all-gather"),
        ({"source": "torchtitan docs"}, "cluster", "torchtitan"),
        ({"gpu": "H100-96GB-HBM2e-500W"}, "device", "H100 SXM5 80GB"),
    ],
)
def test_facts_of_training(change: dict[str, str], column: str, value: str) -> None:
    row = {"source": "NVIDIA NeMo 24.07", "year": "2024", "gpu": "H100-SXM5-80GB", "zero_stage": "1"}
    found = training_throughput(Row(row | change)).get(column, "")
    assert found.startswith(value) if value else found == ""


def test_facts_of_training_memory() -> None:
    row = {"source": "LitGPT", "method": "qlora", "model_name": "Llama 2 7 B", "notes": "trainable params 4,194,304"}
    found = training_memory(Row(row))
    assert {name: found[name] for name in ("program", "model", "adapter", "weights", "trained_params")} == {
        "program": "litgpt",
        "model": "llama-2-7b",
        "adapter": "lora",
        "weights": "nf4",
        "trained_params": "4194304",
    }


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NVIDIA Blackwell GPU (GB200)", "GB200 NVL72"),
        ("AMD Instinct MI325X 256GB HBM3E DLC", "MI325X"),
        ("A100-SXM4-40GB", "A100 40GB SXM4"),
        ("4090 24GB", "RTX 4090"),
        ("somebody's card", ""),
        ("", ""),
    ],
)
def test_devices(text: str, name: str) -> None:
    assert device_of(text) == name


@pytest.mark.parametrize(
    ("text", "device", "rate"),
    [
        ("1600 Gb/s per node RoCE", "A100 80GB SXM4", 25.0),
        ("200 Gb/s per GPU", "H100 SXM5 80GB", 25.0),
        ("NVLink3 + 4xOmniPath 100Gb/s per node", "A100 80GB SXM4", 6.25),
        ("", "A100 80GB SXM4", 25.0),
        ("", "GB300 NVL72", 100.0),
        ("", "H100 SXM5 80GB", 50.0),
    ],
)
def test_adapters(text: str, device: str, rate: float) -> None:
    assert adapter_of(text, device) == rate


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("FasterTransformer", "fastertransformer"),
        ("llama.cpp (May 2024), layer split", "llama-cpp"),
        ("TensorRT-LLM 0.9.0", "tensorrt-llm-2023"),
        ("TensorRT-LLM 0.17", "tensorrt-llm-2025"),
        ("TensorRT 10.11, CUDA 12.9", "tensorrt-llm-2025"),
        ("mine", ""),
    ],
)
def test_engines(text: str, name: str) -> None:
    assert engine(Row({"engine": text})) == name


@pytest.mark.parametrize(
    ("cells", "facts"),
    [
        ({"engine": "transformers 4.44.0", "mem_kind": "allocated"}, ("allocated", "true", "")),
        ({"engine": "transformers 4.45.0", "mem_kind": "allocated"}, ("allocated", "", "")),
        ({"engine": "transformers 4.51.3", "mem_kind": "unknown"}, ("allocated", "", "end")),
        ({"engine": "transformers (torch2.1.2)", "mem_kind": "unknown"}, ("reserved", "true", "")),
        ({"engine": "autoawq fused", "mem_kind": "allocated"}, ("allocated", "", "")),
    ],
)
def test_versions_of_transformers(cells: dict[str, str], facts: tuple[str, ...]) -> None:
    found = inference_memory(Row({"quant": "bf16", "model_name": "Qwen3-0.6B"} | cells))
    assert tuple(found[name] for name in ("meter", "prompt_logits", "read_at")) == facts


def test_names_of_models() -> None:
    assert base_of("Qwen-7B (v0, Aug 2023)") == "qwen1.5-7b"
    assert base_of("Llama-3.1-70B-Instruct-quantized.w8a8") == "llama-3.1-70b"
    assert base_of("Qwen1.5-7B-Chat-AWQ") == "qwen1.5-7b"
    assert base_of("nobody-7b") == ""
