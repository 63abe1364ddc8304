"""Whatever a config.json holds, it is a model of which every question has an answer, or one line; in time.

Every config of the catalog whose model_type or quantization no other has, and drafts, with one to three keys changed:
to another kind of value, to a size that no model has, to another model's value, out of place, or taken away.
With LLMHW_FUZZ_EXAMPLES=20000 so many configs are tried.
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

import llmhw
from llmhw.catalog import model_index, read_model
from llmhw.families import ENCODERS, FAMILIES, REMOTE
from llmhw.families.config import KEYS
from llmhw.families.heads import DRAFTS
from llmhw.families.wrappers import WRAPPERS
from llmhw.model import ModelSpec
from llmhw.units import LLMHWError
from tests.unit.test_stored import CONFIG

EXAMPLES = int(os.environ.get("LLMHW_FUZZ_EXAMPLES", "0")) or 240
SECONDS = 20.0  # of this process, to see a hang and no slowness
PARTS = 16  # the configs are tried in so many tests

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 1000, 4097, 10**6, 2**31, 10**19, -(2**70), 1e308, -0.5, 0.5, 1.5,
    float("nan"), float("inf"), "", "x", "8", "auto", "\x1b[31m", "\0", "\ud800", "a" * 5000, [], [1], [0, 10**9],
    [None], [[]], ["x"] * 50, [1, "x"], {}, {"a": 1}, {"0": {"hidden_size": 3}}, {"": None}, [{}],
)  # fmt: skip
ARCHITECTURES = [
    *DRAFTS,
    *(f"{name}{end}" for name in ("Qwen3", "Llama", "Bert", "X") for end in (
        "ForCausalLM", "Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
        "ForRewardModel", "ForMaskedLM", "LMHeadModel", "ForConditionalGeneration", "Eagle3Speculator",
    )),
]  # fmt: skip
TYPES = [*FAMILIES, *ENCODERS, *REMOTE, *WRAPPERS]
QUANTIZED: list[dict[str, Any]] = [
    {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False},
    {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "modules_to_not_convert": ["lm_head"]},
    {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
    {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "llm_int8_skip_modules": None},
    {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
    {"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["lm_head"], "kv_cache_quant_algo": "FP8"},
    {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["re:.*head"], "kv_cache_scheme": None,
     "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 32}}}},
    {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}},
    {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
    {"quant_method": "exl3", "bits": 4.0, "head_bits": 6, "tensor_storage": {}},
    {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}, "exclude": ["lm_head"]},
    {"bits": 4, "group_size": 64, "mode": "affine", "model.layers.0.mlp": {"bits": 8}},
]  # fmt: skip


@cache
def bases() -> list[dict[str, Any]]:
    """A config of every type and form that the catalog has, one quantized config, and the smallest one."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in model_index():
        if not row["refused"]:
            _, config = read_model(row["name"])
            stored = config.get("quantization_config") or {}
            found.setdefault((row["model_type"], str(stored.get("quant_method"))), config)
    return [*found.values(), CONFIG]


def places(tree: Any, depth: int = 4) -> Iterator[tuple[Any, Any]]:
    """Every object or list of a tree, with every key of it."""
    keys = list(tree) if isinstance(tree, dict) else range(min(len(tree), 3)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        if depth:
            yield from places(tree[key], depth - 1)


def changed(rng: random.Random) -> dict[str, Any]:
    """A config with a few changes."""
    data = copy.deepcopy(rng.choice(bases()))
    if rng.random() < 0.15:
        data["quantization_config"] = copy.deepcopy(rng.choice(QUANTIZED))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        where = list(places(data))
        if rng.random() < 0.2 and isinstance(data.get("quantization_config"), dict):
            where = [*places(data["quantization_config"])] or where
        inner, key = rng.choice(where)
        kind = rng.random()
        if kind < 0.15:
            inner.pop(key)
        elif kind < 0.2:
            data["architectures"] = rng.choice([[rng.choice(ARCHITECTURES)], rng.choice(ARCHITECTURES), [], [None]])
        elif kind < 0.25:
            data["model_type"] = rng.choice(TYPES)
        elif kind < 0.35:  # a key that another family reads
            target = rng.choice([data, *(v for v in data.values() if isinstance(v, dict) and v)])
            target[rng.choice(list(KEYS))] = rng.choice(VALUES)
        elif kind < 0.45 and type(inner[key]) is int:
            inner[key] = rng.choice([inner[key] + 1, inner[key] * 2, inner[key] * 1000, inner[key] // 2, -inner[key]])
        elif kind < 0.5:
            inner[key] = copy.deepcopy(rng.choice(rng.choice(where)[0:1]))  # something else of the same file
        else:
            inner[key] = copy.deepcopy(rng.choice(VALUES))
    return data


def training(spec: ModelSpec) -> Any:
    cluster = llmhw.Cluster("h100", 1)
    return llmhw.training_memory(llmhw.TrainingJob(model=spec, cluster=cluster, seq_len=64))


def serving(spec: ModelSpec) -> Any:
    return llmhw.serving_memory(llmhw.ServingJob(model=spec, cluster=llmhw.Cluster("h100", 8), tp=2, max_model_len=64))


QUESTIONS: dict[str, Callable[[ModelSpec], Any]] = {
    "itself": lambda spec: [str(spec), spec.to_dict(), spec.rotary, spec.dropout, spec.quantization],
    "checkpoint": lambda spec: [str(spec.checkpoint), len(spec.stored)],
    "weights": lambda spec: llmhw.weights(spec).total,
    "in bf16": lambda spec: llmhw.weights(spec, "bf16").total,
    "in Q4_K_M": lambda spec: llmhw.weights(spec, "Q4_K_M").total,
    "cache": lambda spec: llmhw.kv_cache(spec, seq_len=100, batch=2).total,
    "a token": lambda spec: llmhw.kv_cache_bytes_per_token(spec),
    "work": lambda spec: llmhw.forward_flops(spec, seq_len=32).total,
    "adapters": lambda spec: llmhw.lora_states(spec, rank=4).total,
    "training": training,
    "serving": serving,
}


def refused(error: LLMHWError) -> str:
    text = str(error)
    assert text.isprintable(), text
    assert 10 < len(text) < 900, text
    return text


def answers(data: dict[str, Any]) -> bool:
    """Whether a config is a model; every question of it is answered, or refused in a line."""
    began = time.process_time()
    try:
        spec = ModelSpec.from_config(data, name="x")
    except LLMHWError as error:
        refused(error)
        assert time.process_time() - began < SECONDS
        return False
    assert 0 < spec.parameters.total <= 10**16
    assert 0 < spec.parameters.active <= spec.parameters.total
    assert sum(spec.parameters.by_component.values()) == spec.parameters.total
    for question, ask in QUESTIONS.items():
        began = time.process_time()
        try:
            found = ask(spec)
        except LLMHWError as error:
            refused(error)
            found = 0
        if isinstance(found, (int, float)):
            assert math.isfinite(found), question
            assert found >= 0, question
        assert time.process_time() - began < SECONDS, question
    return True


@pytest.mark.parametrize("part", range(PARTS))
def test_changed_configs(part: int) -> None:
    rng, known = random.Random(part), 0
    for number in range(max(EXAMPLES // PARTS, 1)):
        data = changed(rng)
        kept = copy.deepcopy(data)
        try:
            known += answers(data)
        except Exception as error:
            text = json.dumps(kept, default=str)
            raise AssertionError(
                f"config {number} of part {part}: {type(error).__name__} {error}: {text}"[:5000]
            ) from error
        assert repr(data) == repr(kept), "a config was written onto"
    assert known, "some changes leave a model"


def test_every_key_away() -> None:
    """Without one of its keys a config is a model all the same, or what is missing is said."""
    rng = random.Random(0)
    for base in bases():
        keys = list(base)
        for key in keys if EXAMPLES > 5000 else rng.sample(keys, 2):
            data = copy.deepcopy(base)
            del data[key]
            answers(data)
