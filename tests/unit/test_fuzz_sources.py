"""Whatever lies in a file, it is a model or one line: never a traceback, a hang or a large allocation.

With LLMHW_FUZZ_EXAMPLES=20000 so many files of each kind are tried.
"""

from __future__ import annotations

import io
import json
import os
import random
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import llmhw
from llmhw.sources.headers import checkpoint_at
from llmhw.units import LLMHWError
from tests.unit.gguf_files import family, llama, write
from tests.unit.test_sources_native import LITGPT, MEGATRON, NEMO, PARAMS, SCRIPT
from tests.unit.test_stored import CONFIG

EXAMPLES = int(os.environ.get("LLMHW_FUZZ_EXAMPLES", "0")) or 150
SECONDS = 20.0  # of this process, to see a hang and no slowness
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 10**19, -(2**70), 1e308, float("nan"), float("inf"), 0.5, "", "x",
    "8", "\x1b[31m", "\0", "\ud800", "a" * 5000, [], [1], [None], [[]], ["x"] * 50, {}, {"a": 1}, {"num_experts": "x"},
)  # fmt: skip


def answers(path: str | Path) -> bool:
    """Whether it is a model; if not, it is refused in one line."""
    before = time.process_time()
    try:
        spec = llmhw.model(path)
        assert 0 < spec.parameters.total <= 10**16
        assert str(spec).isprintable()
        known = True
    except LLMHWError as error:
        text, known = str(error), False
        assert text.isprintable(), text
        assert len(text) < 900, text
    assert time.process_time() - before < SECONDS
    return known


def mutated(data: bytes, rng: random.Random, head: int) -> bytes:
    """Bytes of a file whose head is changed in a few places."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(min(head, len(found)) or 1)
        kind = rng.randrange(7)
        if kind == 0:
            found[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            found[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1, len(data), 10**7)))
        elif kind == 2:
            found[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 8, 9, 12, 255, 2**31, 2**32 - 1)))
        elif kind == 3:
            del found[at:]
        elif kind == 4:
            del found[at : at + rng.randrange(1, 40)]
        elif kind == 5:
            found[at:at] = found[at : at + rng.randrange(1, 200)]
        else:
            found[at:at] = rng.randbytes(rng.randrange(1, 20))
    return bytes(found)


def test_headers_of_gguf_files(tmp_path: Path) -> None:
    rng = random.Random(1)
    bases = [write(tmp_path / "llama.gguf", *llama("Q4_K", layers=1))]
    bases += [
        family(tmp_path / f"{name}.gguf", name) for name in ("deepseek_v3", "nemotron_h", "qwen3_next", "gemma4_text")
    ]
    wholes = [path.read_bytes() for path in bases]
    path, known = tmp_path / "mutated.gguf", 0
    for _ in range(max(EXAMPLES, 300)):
        data = rng.choice(wholes)
        path.write_bytes(mutated(data, rng, 2500))
        known += answers(path)
    assert known, "some changes leave a model"


def test_values_of_gguf_metadata(tmp_path: Path) -> None:
    rng = random.Random(2)
    metadata, tensors = llama(layers=1, **{"llama.nextn_predict_layers": 0, "llama.expert_count": 0})
    plain = [value for value in VALUES if isinstance(value, (bool, str)) or (type(value) is int and 0 <= value < 2**32)]
    for _ in range(EXAMPLES // 3):
        key = rng.choice(list(metadata))
        if key != "general.architecture":
            value = rng.choice([*plain, [1, 2], [0.5]])
            value = value.encode("ascii", "ignore").decode() if isinstance(value, str) else value
            answers(write(tmp_path / "model.gguf", {**metadata, key: value}, tensors))


@pytest.mark.parametrize("name", ["mistral-7b", "mixtral-8x22b", "llama-3-8b", "deepseek-v3.2", "config"])
def test_values_of_configs(tmp_path: Path, name: str) -> None:
    rng = random.Random(name)
    base = CONFIG if name == "config" else PARAMS[name]
    others = [key for data in PARAMS.values() for key in data]
    path = tmp_path / "params.json"
    for _ in range(EXAMPLES):
        data = json.loads(json.dumps(base))
        for _ in range(rng.choice((1, 1, 2, 3))):
            inner = data.get("moe") if isinstance(data.get("moe"), dict) and rng.random() < 0.3 else data
            key = rng.choice([*inner, rng.choice(others), "x"])
            if rng.random() < 0.3:
                inner.pop(key, None)
            else:
                inner[key] = rng.choice(VALUES)
        path.write_text(json.dumps(data), encoding="utf-8")
        answers(path)


TEXTS = [*(f"pretrain {line}" for line in MEGATRON.values()), SCRIPT, NEMO, LITGPT, json.dumps(CONFIG), "a: &x [*x]\n"]


def test_texts_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    words = [
        "--num-layers",
        "$X",
        "${Y:-3}",
        "{",
        "[",
        "]",
        ":",
        "- ",
        "\n",
        "\\\n",
        "'",
        '"',
        "\0",
        "é",
        "9" * 40,
        "-1",
    ]
    for _ in range(EXAMPLES * 2):
        text = rng.choice(TEXTS)
        for _ in range(rng.choice((1, 2, 6))):
            at = rng.randrange(len(text) + 1)
            end = at + rng.choice((0, 0, 1, 8, 60))
            text = text[:at] + rng.choice([*words, text[at : at + 30]]) + text[end:]
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode("utf-8", "surrogatepass"))))
        answers("-")


def test_headers_of_safetensors(tmp_path: Path) -> None:
    rng = random.Random(4)
    text = json.dumps({"__metadata__": {"format": "pt"}, "x": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}})
    data = struct.pack("<Q", len(text)) + text.encode() + bytes(8)
    path = tmp_path / "model.safetensors"
    for _ in range(EXAMPLES):
        path.write_bytes(mutated(data, rng, len(data)))
        told = ""
        try:
            checkpoint_at(str(path))
        except LLMHWError as error:
            told = str(error)
        assert told.isprintable()
        assert len(told) < 900


@pytest.mark.parametrize("depth", [10, 1000, 200_000])
@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_deep_nests(tmp_path: Path, depth: int, pair: str) -> None:
    opening = pair[0] if pair == "[]" else '{"a":'
    for name in ("a.json", "a.yaml", "a.sh", "a"):
        path = tmp_path / name
        path.write_text(f'{{"num_layers": 2, "hidden_size": {opening * depth}', encoding="utf-8")
        assert not answers(path)
