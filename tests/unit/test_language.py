"""Chinese: every sentence and label has it, tables are aligned, and what programs read stays in English."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import Formatter

import pytest

import llmhw
from llmhw.catalog import read_table
from llmhw.hardware import links, prices, purchase_prices
from llmhw.language import in_language, of_locale, said
from llmhw.live import CALCULATORS, Calculator
from llmhw.units import columns, text_table, wrapped
from tests.unit.command import run

ROOT = Path(llmhw.__file__).parent
CHINESE = {row["english"]: row["chinese"] for row in read_table("chinese")}

# What people ask, and words that no language of theirs translates: names, units, formats, terms of the field.
QUESTIONS = """
fit llama-3-8b --gpu "RTX 4090"
fit llama-3-70b --gpu h100
memory llama-3-8b --gpu h100 --gpus 8 --zero 3 --recompute full
memory llama-3-70b --gpu h100 --gpus 16 --tp 8 --pp 2
memory llama-3-8b --gpu "RTX 4090" --frozen --base nf4-dq --recompute full
train llama-3-8b --gpu h100 --gpus 64 --tp 8 --pp 2 --tokens 100B
train llama-3-8b --gpu "RTX 4090" --frozen --base nf4-dq --recompute full
serve llama-3-70b --gpu h100 --gpus 8
serve llama-3-8b --gpu "RTX 4090" --weights Q4_K_M --engine llama.cpp
serve llama-3-70b --gpu "RTX 4090"
serve llama-3-8b --gpu h100 --slo-ttft 0.5 --slo-tpot 0.02 --grid China
serve llama-3-8b,qwen3-8b --gpu h100
plan serve qwen3-32b --users 100 --gpu h100
plan train llama-3-8b --tokens 10B --gpu h100 --gpus 8
plan finetune qwen2.5-7b --gpu "RTX 4090" --gpus 1
which qwen3-32b --budget 20000 --currency CNY
which llama-3-70b --gpu "rtx 4090+rtx 3090"
compare llama-3-8b --gpu "RTX 4090" --gpu h100
cost --gpu h100 --gpus 8 --months 18 --utilization 0.6
model deepseek-v3
models deepseek
gpus h100
gpus nvidia
prices 4090
prices --kind purchase
links nvlink
simulate llama-3-8b --gpu h100 --rate 5 --requests 100
"""
NAMES = """
AdamW LoRA QLoRA MLP MFU HFU KV CPU GPU FLOPs CUDA PUE USD CNY ECB euro foreign exchange reference rates
GiB MiB KiB TiB GB/s TFLOP/s TFLOP GFLOP FLOP kWh kW tokens/s us ms json best auto distance in_nodes
vllm llama.cpp nvidia-smi torchtitan MegaScale Llama MLPerf Inference BLOOM GPUs Morrison Newkirk Jupiter ZeRO FSDP
bf16 fp16 fp32 fp8 int8 int4 gptq awq nf4 mxfp4 nvfp4 checkpoint block GGUF
RunPod Secure Community Vast.ai Hyperstack DataCrunch Crusoe Lambda Nebius CoreWeave Azure AWS GCP OCI
NVIDIA Pascal Turing Ampere Ada Blackwell Volta Maxwell Hopper Rubin Quadro TITAN Jetson NVLink NVLS SHARP PCIe
RTX GTX PRO SUPER Laptop Workstation Server SXM NVL none full link network AWS
""".split()


def _sentences() -> Iterator[tuple[str, str]]:
    """Each text that the library passes to `said`, and where: literals, and names that are given literals beside."""

    def literals(node: ast.expr) -> list[str]:
        if isinstance(node, ast.IfExp):
            return literals(node.body) + literals(node.orelse)
        return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []

    def named(body: Iterable[ast.AST]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for node in body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found.setdefault(node.targets[0].id, []).extend(literals(node.value))
        return found

    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text())
        everywhere = named(tree.body)
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            known = everywhere | named(ast.walk(function))
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "said" and node.args:
                    first = node.args[0]
                    texts = known.get(first.id, []) if isinstance(first, ast.Name) else literals(first)
                    yield from ((text, f"{path.parent.name}/{path.name}:{node.lineno}") for text in texts if text)


def _fields(text: str) -> list[tuple[str | None, str | None, str | None]]:
    return sorted({(name, spec, how) for _, name, spec, how in Formatter().parse(text) if name}, key=str)


def test_every_sentence_has_its_chinese_with_the_same_values() -> None:
    found = dict(_sentences())
    assert len(found) > 300
    assert not {where: text for text, where in found.items() if text not in CHINESE}
    assert not {english: chinese for english, chinese in CHINESE.items() if _fields(english) != _fields(chinese)}


@pytest.mark.parametrize("calculator", CALCULATORS.values(), ids=CALCULATORS)
def test_every_label_of_a_calculator_has_its_chinese(calculator: Calculator) -> None:
    texts = [calculator.title, *(text for one in calculator.controls for text in (one.label, one.help))]
    assert not {*filter(None, texts)} - {*CHINESE}


def test_no_chinese_is_left_over_of_a_sentence_that_is_gone() -> None:
    known = {node.value for path in ROOT.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}  # fmt: skip
    known |= {fact for p in (*prices(), *purchase_prices(), *links()) for fact in (p.kind, getattr(p, "region", ""))}
    known |= {price.kind.replace("_", " ") for price in prices()}
    known |= {row["name"] for row in read_table("grids")}
    known |= {"vision tower", "audio tower", "updated weights"}
    moved = [f"weights of {part}" for part in ("a block", "outside the blocks")]  # names of messages
    known |= {
        f"{before}{what}{again}" for what in moved for before in ("", "gradients of ") for again in ("", ", again")
    }
    known |= {f"{mode} batching" for mode in ("static", "dynamic", "continuous", "disaggregated")}
    pages = " ".join(
        path.read_text() for path in (ROOT.parent / "book").rglob("*") if path.suffix in (".js", ".mjs", ".py")
    )
    assert not [english for english in CHINESE if english not in known and english not in pages]


def test_chinese_is_chinese() -> None:
    """Each row has a Chinese letter, or is a mark or a name that both languages write alike."""
    alike = [english for english, chinese in CHINESE.items() if not re.search("[一-鿿。，：]", chinese)]
    assert set(alike) <= {"mlp", "CPUs", "LoRA", "QLoRA", "tokens/s", "the {old}", "{size} of {part}"}


@pytest.mark.parametrize("question", QUESTIONS.strip().splitlines())
def test_what_is_printed_in_chinese_has_no_english_left(question: str) -> None:
    done = run(*shlex.split(question), "--lang", "zh")
    assert done.returncode == 0, done.stderr
    names = {word.lower() for word in NAMES}
    left = set()
    for line in done.stdout.splitlines():
        if re.match(r"假设 --|单独查看|  \S", line):  # sources, a command, names of devices
            continue
        line = re.sub(r"--[a-z-]+( '[^']*'| [^\s，：]+)?", "", line)
        for word in re.findall(r"(?<![\w.=-])[a-z]{3,}(?![\w.=/-]*[\d=_/])", line):
            left |= {word} - names
    typed = set(re.findall(r"[a-z]{3,}", question))
    assert not left - typed, sorted(left)


def test_programs_get_english() -> None:
    serve = ("serve", "llama-3-8b", "--gpu", "h100", "--concurrency", "4")
    for form in (("--json",), ("--csv",)):
        assert run(*serve, *form, "--lang", "zh").stdout == run(*serve, *form).stdout
        assert run(*serve, *form, LANG="zh_CN.UTF-8").stdout == run(*serve, *form).stdout
    english = run(*serve).stdout
    assert "放得下" in run("--lang", "zh", *serve).stdout
    assert run(*serve).stdout == english  # nothing of the language is kept for the next line


def test_the_locale_says_the_language_unless_the_option_does() -> None:
    fit = ("fit", "gpt2", "--gpu", "h100", "--quiet")
    assert run(*fit, LC_ALL="zh_CN.UTF-8").stdout.startswith("放得下")
    assert run(*fit, "--lang", "en", LC_ALL="zh_CN.UTF-8").stdout.startswith("Fits")
    assert run("--lang", "zh-CN", *fit).stdout.startswith("放得下")
    chinese = [{"LANG": "zh_CN.UTF-8"}, {"LC_MESSAGES": "zh_TW"}, {"LANG": "en_US", "LANGUAGE": "zh:en"}]
    assert {of_locale(one) for one in chinese} == {"zh"}
    english = [{}, {"LANG": "zh_CN", "LC_ALL": "C.UTF-8"}, {"LC_ALL": "en_US", "LANG": "zh_CN"}, {"LANGUAGE": "en:zh"}]
    assert {of_locale(one) for one in english} == {"en"}


def test_columns_are_aligned_where_a_terminal_shows_them() -> None:
    lines = text_table([("部分", "GiB"), ("权重 (bf16)", "16.0"), ("KV", "1.25"), ("激活值", "0.5")])
    assert {columns(line) for line in lines} == {columns("权重 (bf16)  16.0")}
    assert [line[-4:] for line in lines[1:3]] == ["16.0", "1.25"]
    told = "假设 --utilization 0.92：vllm（最新版）在这种设备上的默认值。"
    for width in range(12, 60):
        broken = wrapped(told, width)
        assert "".join(broken).replace(" ", "") == told.replace(" ", "")
        assert all(columns(line) <= max(width, columns("--utilization")) for line in broken)
        assert not any(line[0] in "，。：；）" for line in broken)


def test_a_notebook_shows_chinese_inside_the_block_alone() -> None:
    table = llmhw.fit(llmhw.model("gpt2"), "h100")
    with in_language("zh"):
        page, text = table._repr_html_(), str(table)
        assert said("no such sentence: {number}", number=3) == "no such sentence: 3"
    assert "<th>用途</th>" in page
    assert "放得下：推理" in page
    assert text.splitlines()[1].startswith("放得下：")
    assert "<th>use</th>" in table._repr_html_()
    assert list(table.to_dict()) == list(llmhw.fit(llmhw.model("gpt2"), "h100").to_dict())
