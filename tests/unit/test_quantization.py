"""Published forms of quantization: what each says of a model's tensors, and what it weighs."""

from __future__ import annotations

import copy
import json
import random
import statistics
from dataclasses import replace
from typing import Any

import pytest

import llmhw
from llmhw.catalog import read_table
from llmhw.checkpoint import checkpoint_bytes
from llmhw.job import ServingJob
from llmhw.model import ModelSpec
from llmhw.precision import (
    checkpoint_formats,
    checkpoint_name,
    component_formats,
    format_label,
    weight_bytes,
    weight_groups,
)
from llmhw.units import LLMHWError

TINY = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 1000, "tie_word_embeddings": False,
    "max_position_embeddings": 128,
}  # fmt: skip


def read(quantization: Any, key: str = "quantization_config", **changes: Any) -> ModelSpec:
    return ModelSpec.from_config({**TINY, key: quantization, **changes}, name="tiny")


def job_of(spec: ModelSpec, device: str = "H100 SXM5 80GB", count: int = 1, **asked: Any) -> ServingJob:
    return ServingJob(model=spec, cluster=llmhw.Cluster(device, count), **asked)


def scheme(bits: int, kind: str, layout: str, activations: bool = False, **weights: Any) -> dict[str, Any]:
    """A config of compressed-tensors with one group."""
    group: dict[str, Any] = {"targets": ["Linear"], "weights": {"num_bits": bits, "type": kind, **weights}}
    group |= {"input_activations": {"num_bits": bits, "type": kind}} if activations else {}
    found = {"quant_method": "compressed-tensors", "format": layout, "ignore": ["lm_head"]}
    return found | {"config_groups": {"group_0": group}}


# -- forms ------------------------------------------------------------------------------------

FORMS: list[tuple[Any, str, float]] = [  # what a config says, the format of most matrices, bits of one weight there
    ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True}, "int4-gptq", 4.15625),
    ({"quant_method": "gptq", "bits": 8, "group_size": 32}, "gptq-8bit-g32", 8.75),
    ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "int4-gptq-row", 4),
    ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True}, "int4-awq-g64", 4.3125),
    ({"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}, "fp8-block", 8 + 32 / 128**2),
    ({"quant_method": "fp8", "weight_block_size": None, "activation_scheme": "static"}, "fp8", 8),
    ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "fp8-fbgemm", 8),
    (scheme(8, "float", "float-quantized", True, strategy="channel"), "fp8-channel", 8),
    (scheme(8, "float", "float-quantized", True, strategy="tensor"), "fp8", 8),
    (scheme(8, "int", "int-quantized", True, strategy="channel"), "int8-channel", 8),
    (scheme(4, "int", "pack-quantized", group_size=128, symmetric=True), "int4-w4a16", 4.125),
    (scheme(4, "int", "pack-quantized", group_size=32, symmetric=False), "int4-w4a16-zeros-g32", 4.625),
    (scheme(4, "float", "nvfp4-pack-quantized", True, group_size=16), "nvfp4", 4.5),
    (scheme(4, "float", "nvfp4-pack-quantized", group_size=16), "nvfp4-weight-only", 4.5),
    (scheme(4, "float", "mxfp4-pack-quantized", True, group_size=32), "mxfp4", 4.25),
    ({"quant_method": "compressed-tensors", "config_groups": {"W4A16": ["Linear"]}}, "int4-w4a16", 4.125),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}, "nvfp4", 4.5),
    ({"quant_algo": "FP8", "kv_cache_scheme": "FP8", "producer": {"name": "modelopt"}}, "fp8", 8),
    ({"producer": {}, "quantization": {"quant_algo": "W4A8_AWQ", "group_size": 128}}, "int4-modelopt-awq", 4.125),
    ({"quant_method": "mxfp4"}, "mxfp4", 4.25),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4", 4.5),
    ({"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, "nf4-dq", 4.126953125),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8-llm", 8),
    ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "int8-w8a16-row", 8),
    (
        {
            "quant_method": "torchao",
            "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 64}}},
        },
        "int4-torchao-g64",
        4.5,
    ),
    (
        {
            "quant_method": "torchao",
            "quant_type": {
                "default": {
                    "_type": "Float8DynamicActivationFloat8WeightConfig",
                    "_data": {"granularity": [{"_type": "PerRow"}]},
                }
            },
        },
        "fp8-channel",
        8,
    ),
    (
        {
            "quant_method": "quark",
            "global_quant_config": {"weight": {"dtype": "fp4", "qscheme": "per_group", "group_size": 32}},
            "exclude": ["lm_head"],
        },
        "mxfp4",
        4.25,
    ),
    (
        {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
        "hqq-4bit",
        4.5,
    ),
    ({"quant_method": "exl2", "bits": 4.25, "head_bits": 6}, "exl2-4.25bit", 4.25),
    ({"quant_method": "exl3", "bits": 3.0, "head_bits": 6}, "exl3-3bit", 3),
    ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True}, "int4-auto-round", 4.15625),
    ({"quant_method": "intel/auto-round", "bits": 4, "packing_format": "auto_round:auto_awq"}, "int4-awq", 4.15625),
    ({"quant_method": "eetq", "weights": "int8"}, "int8-w8a16-row", 8),
    ({"quant_method": "quanto", "weights": "int4"}, "int4-awq", 4.15625),
    ({"quant_method": "higgs", "bits": 4, "group_size": 256}, "higgs-4bit-g256", 4.0625),
    ({"quant_method": "fp_quant", "forward_dtype": "mxfp4"}, "mxfp4", 4.25),
    ({"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}, "bitnet-2bit-row", 2),
    ({"quant_method": "aqlm", "in_group_size": 8, "num_codebooks": 1, "nbits_per_codebook": 16}, "aqlm-2bit", 2),
    ("fp8", "fp8", 8),
    ("awq", "int4-awq", 4.15625),
]


@pytest.mark.parametrize(("quantization", "name", "bits"), FORMS, ids=lambda value: str(value)[:40])
def test_a_form_is_read(quantization: Any, name: str, bits: float) -> None:
    spec = read(quantization)
    fmt = component_formats(spec, "checkpoint")[0, "mlp"]
    assert (fmt.name, fmt.bits_per_weight) == (name, bits)
    groups = {(group.component, group.stored_as) for group in weight_groups(spec, "checkpoint")}
    assert {("attention", name), ("mlp", name), ("embedding", "bf16"), ("norms", "bf16")} <= groups


MLX = [({"group_size": 64, "bits": 4}, "mlx-4bit"), ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, "mlx-mxfp4")]


@pytest.mark.parametrize(("quantization", "name"), MLX)
@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_mlx_quantizes_embedding_and_head_too(quantization: Any, name: str, key: str) -> None:
    found = {(g.component, g.stored_as) for g in weight_groups(read(quantization, key), "checkpoint")}
    wanted = [(part, name) for part in ("embedding", "attention", "mlp", "head")]
    assert found == {*wanted, ("norms", "bf16")}
    one = {**quantization, "model.embed_tokens": False, "lm_head": {"group_size": 64, "bits": 8}}
    found = {(g.component, g.stored_as) for g in weight_groups(read(one, key), "checkpoint")}
    assert {("embedding", "bf16"), ("head", "mlx-8bit"), ("mlp", name)} <= found


KEPT: list[tuple[dict[str, Any], str]] = [  # attention of layer 0 is kept, in each method's words
    ({"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["model.layers.0.self_attn"]}, "int4-awq"),
    ({"quant_method": "gptq", "bits": 4, "dynamic": {r"-:.*\.0\.self_attn.*": {}}}, "int4-gptq"),
    ({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.self_attn"]}, "fp8"),
    (scheme(4, "int", "pack-quantized", group_size=128) | {"ignore": [r"re:.*layers\.0\.self_attn.*"]}, "int4-w4a16"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["model.layers.0.self_attn*"]}, "nvfp4"),
    ({"quant_algo": "FP8", "exclude_modules": ["*.layers.0.self_attn.*"]}, "fp8"),
    ({"load_in_8bit": True, "llm_int8_skip_modules": ["layers.0.self_attn"]}, "int8-llm"),
]


@pytest.mark.parametrize(("quantization", "name"), KEPT, ids=lambda value: str(value)[:30])
def test_modules_that_a_file_keeps_are_kept(quantization: dict[str, Any], name: str) -> None:
    spec = read(quantization)
    held = {(g.component, g.stored_as): g.elements for g in weight_groups(spec, "checkpoint")}
    assert held["attention", name] == held["attention", "bf16"] == spec.parameters.by_component["attention"] / 2
    assert ("mlp", "bf16") not in held


def test_a_star_behind_a_number_stands_for_more_digits() -> None:
    excluded = {"quant_algo": "FP8", "exclude_modules": ["model.layers.1*", "model.layers.0.mlp*"]}
    spec = read(excluded, num_hidden_layers=12)
    held = {(g.component, g.stored_as): g.elements for g in weight_groups(spec, "checkpoint")}
    assert held["attention", "bf16"] * 12 == 3 * spec.parameters.by_component["attention"]  # layers 1, 10 and 11
    assert held["mlp", "bf16"] * 12 == 4 * spec.parameters.by_component["mlp"]


def test_modules_have_formats_of_their_own() -> None:
    mixed = {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {
            **{f"model.layers.{i}.self_attn.{m}_proj": {"quant_algo": "FP8"} for i in range(2) for m in "qkvo"},
            **{f"model.layers.{i}.mlp": {"quant_algo": "NVFP4", "group_size": 16} for i in range(2)},
        },
    }
    spec = read(mixed)
    assert {(g.component, g.stored_as) for g in weight_groups(spec, "checkpoint")} >= {
        ("attention", "fp8"),
        ("mlp", "nvfp4"),
        ("head", "bf16"),
    }
    assert [fmt.name for fmt in checkpoint_formats(spec)] == ["nvfp4", "fp8"]
    assert format_label(spec, "checkpoint") == "checkpoint (nvfp4 + fp8)"
    spec = read({"quant_method": "gptq", "bits": 4, "dynamic": {r"+:.*down_proj": {"bits": 8, "group_size": 64}}})
    down, rest = 2 * 512 * 1024, 2 * 2 * 512 * 1024
    assert [(g.stored_as, g.elements) for g in weight_groups(spec, "checkpoint") if g.component == "mlp"] == [
        ("int4-gptq", rest),
        ("gptq-8bit-g64", down),
    ]


def test_a_stack_of_experts_is_found_by_the_names_of_its_experts() -> None:
    spec = llmhw.model("minimax-m2.7-nvfp4")  # its file says model.layers.0.block_sparse_moe.gate and self_attn*
    assert component_formats(spec, "checkpoint")[0, "experts"].name == "nvfp4"
    assert component_formats(spec, "checkpoint")[0, "attention"].name == "bf16"
    listed = {"model.layers.0.mlp.experts.0.gate_proj": {"quant_algo": "NVFP4"}}
    moe = {**TINY, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
    moe |= {"head_dim": 64, "quantization_config": {"quant_algo": "MIXED_PRECISION", "quantized_layers": listed}}
    held = weight_groups(ModelSpec.from_config(moe), "checkpoint")
    assert {g.stored_as: g.elements for g in held if g.component == "experts"}["nvfp4"] == 4 * 2 * 256 * 512


@pytest.mark.parametrize(
    ("scheme", "kv"),
    [
        ({"kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": False}}, "fp8"),
        ({"kv_cache_scheme": "FP8"}, "fp8"),
        ({"kv_cache_quant_algo": "FP8"}, "fp8"),
        ({"kv_cache_quant_algo": "NVFP4"}, "nvfp4"),
        ({"kv_cache_scheme": None}, ""),
    ],
)
def test_the_format_of_the_cache(scheme: dict[str, Any], kv: str) -> None:
    spec = read({"quant_method": "modelopt", "quant_algo": "FP8", **scheme})
    assert spec.checkpoint.kv == kv
    job = job_of(spec)
    assert job.kv == (kv if kv == "fp8" else "bf16")
    assert job_of(spec, weights="bf16").kv == "bf16"  # the scales are not used then


# -- what weighs what -------------------------------------------------------------------------

# Bytes of the tensors of a Llama of TINY's sizes in bf16 after `ModelCompressor.compress_model` of compressed-tensors
# 0.20.1, head kept; shapes of weights, 16 bytes a matrix, are among them.
COMPRESSED = [
    (scheme(8, "float", "float-quantized", True, strategy="tensor"), 6_771_768),
    (scheme(8, "float", "float-quantized", True, strategy="block", block_structure=[128, 128]), 6_772_288),
    (scheme(8, "int", "int-quantized", True, strategy="channel"), 6_788_096),
    (scheme(4, "int", "pack-quantized", strategy="group", group_size=128, symmetric=True), 4_486_368),
    (scheme(4, "int", "pack-quantized", strategy="group", group_size=32, symmetric=False), 4_781_280),
    (scheme(4, "int", "pack-quantized", strategy="channel", symmetric=True), 4_429_024),
    (scheme(8, "int", "pack-quantized", strategy="group", group_size=128, symmetric=True), 6_845_664),
    (scheme(4, "float", "nvfp4-pack-quantized", True, strategy="tensor_group", group_size=16), 4_707_440),
    (scheme(4, "float", "mxfp4-pack-quantized", strategy="group", group_size=32), 4_559_872),
]


@pytest.mark.parametrize(("quantization", "theirs"), COMPRESSED, ids=lambda value: str(value)[-60:])
def test_bytes_are_those_of_compressed_tensors(quantization: dict[str, Any], theirs: int) -> None:
    assert abs(theirs - weight_bytes(read(quantization), "checkpoint")) <= 14 * 48


def published(row: dict[str, str]) -> tuple[float, float]:
    """Predicted and published bytes of a checkpoint, towers and copies of a tied embedding that files hold included."""
    spec = llmhw.model(row["model"])
    if row["quantization"]:
        found = json.loads(row["quantization"])
        config = {k: v for k, v in spec.config.items() if "quantization" not in k}
        spec = replace(spec, config={**config, "quantization_config": found})
    half = replace(spec, dtype="float16") if spec.dtype == "float32" else spec
    copies = 2 * spec.parameters.by_component["embedding"] if row["copies"] == "head" else 0
    beside = copies + 2 * spec.parameters.towers
    return checkpoint_bytes(half) + beside, 1e9 * sum(map(float, row["shards_gb"].split()))


def test_published_checkpoints() -> None:
    """Every published size of a quantized checkpoint in the catalog, printed row by row."""
    errors: dict[str, float] = {}
    methods = set()
    for row in read_table("checkpoint_sizes"):
        mine, theirs = published(row)
        note = "" if row["use"] == "truth" else row["use"]
        print(f"{row['checkpoint']:<60} {theirs / 1e9:>8.3f} {mine / 1e9:>8.3f} GB {mine / theirs - 1:>8.3%}  {note}")
        if row["use"] == "truth":
            errors[row["checkpoint"]] = abs(mine / theirs - 1)
            methods.add(json.loads(row["quantization"] or "{}").get("quant_method", "mlx or in the config"))
    print(
        f"{len(errors)} checkpoints: median {statistics.median(errors.values()):.3%}, {max(errors.values()):.3%} most"
    )
    assert len(errors) >= 55
    assert len(methods) >= 11
    assert max(errors.values()) < 0.005
    assert statistics.median(errors.values()) < 0.001


def test_a_gguf_file_is_what_its_tensors_are() -> None:
    types = {"Q4_K": [6_000_000, 3_375_000], "F32": [3_072, 12_288]}
    spec = read({"quant_method": "gguf", "tensor_bytes": 3_387_289, "types": types})
    assert round(weight_bytes(spec, "checkpoint")) == 3_387_289
    assert format_label(spec, "checkpoint") == "checkpoint (Q4_K)"
    job = job_of(spec, "RTX 4090")
    assert (job.engine, job.weights) == ("llama.cpp", "checkpoint")


# -- the checkpoint's format by default -------------------------------------------------------


@pytest.mark.parametrize(("name", "stored"), [("gpt-oss-120b", "mxfp4"), ("deepseek-v3", "fp8-block")])
def test_a_catalog_format_goes_by_its_name(name: str, stored: str) -> None:
    spec = llmhw.model(name)
    assert checkpoint_name(spec) == stored
    assert job_of(spec, "H200 SXM5 141GB").weights == stored
    assert llmhw.weights(spec).total == llmhw.weights(spec, stored).total < llmhw.weights(spec, "bf16").total / 1.9


def test_fit_has_a_row_for_the_checkpoint() -> None:
    table = llmhw.fit(llmhw.model("gpt-oss-20b"), "RTX 4090")
    assert table["inference, checkpoint"].use == "inference, checkpoint (mxfp4)"
    assert table["inference, checkpoint"].fits
    assert not table["inference, bf16"].fits
    assert "inference, nvfp4" in [row.use for row in llmhw.fit(llmhw.model("llama-3-8b"), "B200 SXM 180GB")]


def test_16_bit_of_a_quantized_checkpoint_is_said() -> None:
    from llmhw.serving import assumptions, serving_memory

    told = assumptions(serving_memory(job_of(llmhw.model("gpt-oss-20b"), weights="bf16")))
    assert any("its checkpoint is quantized (mxfp4); this is the model dequantized" in line for line in told)
    told = assumptions(serving_memory(job_of(llmhw.model("deepseek-v3"), "V100 SXM2 32GB", 8)))
    assert any("its checkpoint is in fp8-block, which vllm does not run on" in line for line in told)


@pytest.mark.parametrize(("dtype", "stored", "served"), [("float32", 4, "bf16"), ("float16", 2, "fp16")])
def test_dtype_is_the_format_of_what_is_not_quantized(dtype: str, stored: int, served: str) -> None:
    spec = ModelSpec.from_config({**TINY, "torch_dtype": dtype})
    assert llmhw.weights(spec).total == stored * spec.parameters.total
    assert job_of(spec).weights == served
    assert job_of(spec, engine="transformers").weights == f"fp{8 * stored}"


def test_products_are_timed_in_the_format_of_their_matrices() -> None:
    from llmhw.service import engine_for

    engine = engine_for(job_of(llmhw.model("gpt-oss-20b"), "B200 SXM 180GB"))
    assert engine.stored[0, "attention"].weight_bytes == engine.stored[-1, "head"].weight_bytes == 2
    assert engine.stored[0, "experts"].weight_bytes == 4.25 / 8
    assert engine.stored[0, "experts"].products > 2 * engine.stored[0, "attention"].products


def test_a_search_takes_the_checkpoint() -> None:
    from llmhw.search import search

    spec = llmhw.model("kimi-k2.5")
    job = job_of(spec, "H200 SXM5 141GB", 8)
    found = search(job, input_tokens=1000, output_tokens=100, tp=8, pp=1, ep=1, attention_dp=1)
    assert {str(one.job.weights) for one in found.best} == {"checkpoint"}


def test_every_checkpoint_of_the_catalog_is_read() -> None:
    """Published files: what is not quantized in them is far smaller than what is, and nothing had to be assumed."""
    seen = set()
    for name in llmhw.models():
        spec = llmhw.model(name)
        if not spec.quantization:
            assert all(fmt.bits >= 16 for fmt in checkpoint_formats(spec))
            continue
        seen.add(spec.quantization)
        bits = 8 * weight_bytes(spec, "checkpoint") / spec.parameters.text
        assert checkpoint_formats(spec)[0].bits < bits < 9.5, name
        assert not spec.checkpoint.note, name
    assert seen >= {"fp8", "mxfp4", "modelopt", "compressed-tensors"}


def test_a_name_that_states_a_format_is_a_checkpoint_in_it() -> None:
    spec = llmhw.model("TheBloke/Llama-2-7B-AWQ")
    assert (spec.name, spec.quantization, checkpoint_name(spec)) == ("llama-2-7b", "int4-awq", "int4-awq")
    assert llmhw.model("llama-2-7b").in_format("exl2-4.0bpw").checkpoint.layers.bits == 4  # type: ignore[union-attr]


# -- what makes no sense ----------------------------------------------------------------------

WRONG: list[tuple[Any, str]] = [
    ({"quant_method": "foo"}, "config key quantization_config.quant_method='foo' is not known"),
    ({"quant_method": 3}, "config key quantization_config.quant_method=3 must be a name"),
    ({"activation_scheme": "dynamic"}, "config key quantization_config.quant_method=None is not known"),
    ("foo", "config key quantization_config='foo' must be an object, or a number format"),
    (7, "config key quantization_config=7 must be an object"),
    ({"quant_method": "gptq", "bits": "4"}, "config key quantization_config.bits='4' must be a whole number"),
    ({"quant_method": "gptq", "bits": 4, "group_size": -2}, "config key quantization_config.group_size=-2"),
    ({"quant_method": "awq", "modules_to_not_convert": 3}, "quantization_config.modules_to_not_convert=3 must be a"),
    ({"quant_method": "fp8", "weight_block_size": [128]}, "quantization_config.weight_block_size=[128] must be two"),
    (scheme(4, "int", "x", group_size=4) | {"ignore": ["re:("]}, "quantization_config.ignore='re:(' is no regular"),
    (scheme(4, "rational", "x"), "quantization_config.config_groups.group_0.weights.type='rational' must be int or"),
    ({"quant_algo": "FP3"}, "config key quantization_config.quant_algo='FP3' is not known; known are FP8,"),
    ({"quant_algo": "MIXED_PRECISION"}, "config key quantization_config.quantized_layers=None must be an object"),
    ({"quant_algo": "FP8", "kv_cache_quant_algo": "FP3"}, "quantization_config.kv_cache_quant_algo='FP3' must be"),
    ({"quant_method": "torchao", "quant_type": "int9"}, "config key quantization_config.quant_type='int9' is no"),
]


@pytest.mark.parametrize(("quantization", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_what_makes_no_sense_is_named_with_a_way_out(quantization: Any, message: str) -> None:
    spec = read(quantization)
    with pytest.raises(LLMHWError) as error:
        llmhw.weights(spec)
    assert message in str(error.value)
    assert str(error.value).endswith("give weights, such as weights='bf16', to leave the checkpoint's format aside")
    assert llmhw.weights(spec, "bf16").total == 2 * spec.parameters.total  # which works
    assert job_of(spec, weights="fp8").weights == "fp8"


VALUES: list[Any] = [
    None, 0, -1, 1, 4, 4.5, float("nan"), True, "", "x", "re:(", "*.x", [], [1], ["re:["], {}, {"a": 1}, {"a": {}},
    10**30, "a" * 5000, "\x00", [0, 0], "NVFP4", {1: 2}, b"x",
]  # fmt: skip


def changed(chance: random.Random, thing: Any) -> Any:
    """The same with one value put in somewhere."""
    if isinstance(thing, dict) and thing and chance.random() < 0.8:
        key = chance.choice(list(thing))
        return {**thing, key: changed(chance, thing[key])}
    if isinstance(thing, list) and thing and chance.random() < 0.5:
        at = chance.randrange(len(thing))
        return [*thing[:at], changed(chance, thing[at]), *thing[at + 1 :]]
    return chance.choice(VALUES)


def test_mutated_configs_are_read_or_refused_in_one_line() -> None:
    chance = random.Random(11)
    seeds = [form for form, _, _ in FORMS] + [form for form, _ in KEPT] + [form for form, _ in MLX]
    refused = []
    for _ in range(500):
        quantization = changed(chance, copy.deepcopy(chance.choice(seeds)))
        try:
            spec = read(quantization, chance.choice(["quantization_config", "quantization", "hf_quant_config"]))
            assert weight_bytes(spec, "checkpoint") > 0
            spec.to_dict()
        except LLMHWError as error:
            refused.append(str(error))
    assert [told for told in refused if "\n" in told or "config key" not in told] == []
    assert 100 < len(refused) < 450
