"""Number formats: lookup, bits per weight, and the counting of stored bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmhw.catalog import model_names, read_table
from llmhw.model import COMPONENTS, ModelSpec
from llmhw.model import model as catalog_model
from llmhw.precision import (
    NumberFormat,
    grouped_bits_per_weight,
    model_bits_per_weight,
    number_format,
    number_formats,
    stored_weight_bytes,
    weight_bytes,
    weight_groups,
)
from llmhw.units import LLMHWError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": 16,
    "intermediate_size": 512,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
}
MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}


def spec(**changes: Any) -> ModelSpec:
    return ModelSpec.from_config({**LLAMA, **changes})


def stored(model: ModelSpec, name: str | NumberFormat) -> dict[tuple[str, str], int]:
    return {(group.component, group.stored_as): group.elements for group in weight_groups(model, name)}


# -- lookup -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("BF16", "bf16"),
        ("bfloat16", "bf16"),
        ("torch.float16", "fp16"),
        ("half", "fp16"),
        ("e4m3", "fp8"),
        ("E5M2", "fp8"),
        ("float8_e4m3fn", "fp8"),
        ("q4_k_m", "Q4_K_M"),
        ("Q4-K-M", "Q4_K_M"),
        ("int4_gptq", "int4-gptq"),
        ("gptq", "int4-gptq"),
        ("INT4-GPTQ-G64", "int4-gptq-g64"),
        ("awq", "int4-awq"),
        ("qlora", "nf4-dq"),
        ("f16", "F16"),
        ("IQ4_XS", "IQ4_XS"),
    ],
)
def test_names_are_forgiving(written: str, name: str) -> None:
    assert number_format(written).name == name


def test_a_format_is_returned_as_it_is() -> None:
    entry = number_format("nf4")
    assert number_format(entry) is entry


@pytest.mark.parametrize(
    ("wrong", "hint"), [("nf5", "nf4"), ("Q4_K_L", "Q4_K_M"), ("mxpf4", "mxfp4"), ("bf17", "bf16")]
)
def test_a_misspelt_name_suggests_the_nearest(wrong: str, hint: str) -> None:
    with pytest.raises(LLMHWError) as error:
        number_format(wrong)
    assert f"number_format={wrong!r} is not known; did you mean" in str(error.value)
    assert hint in str(error.value)


def test_no_two_formats_share_a_spelling() -> None:
    spellings = [
        "".join(letter for letter in name.casefold() if letter not in "-_. ")
        for row in read_table("number_formats")
        for name in [row["name"], *filter(None, row["aliases"].split(";"))]
    ]
    assert sorted(spellings) == sorted(set(spellings))


def test_every_row_has_a_source_a_status_and_a_known_rule() -> None:
    for row in read_table("number_formats"):
        assert row["source"], row["name"]
        assert row["locator"], row["name"]
        assert row["status"] in ("published", "derived"), row["name"]
        assert row["rule"] in ("all", "matrices", "experts", "mlx", "gguf"), row["name"]
        assert not row["like"] or row["like"] in number_formats(), row["name"]
        assert row["kind"] in ("float", "integer", "block", "gguf"), row["name"]
        assert row["compute"] in number_formats(), row["name"]


# -- bits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("fp32", 32),
        ("tf32", 32),
        ("bf16", 16),
        ("fp8", 8),
        ("int8", 8),
        ("int4", 4),
        ("fp8-block", 8 + 32 / 128**2),
        ("int4-gptq", 4.15625),  # 16-bit scale and 4-bit zero point for 128 weights
        ("int4-gptq-g64", 4.3125),
        ("int4-gptq-g32", 4.625),
        ("int4-awq", 4.15625),
        ("gptq-8bit", 8.1875),
        ("gptq-3bit", 3.1484375),
        ("nf4", 4.5),
        ("nf4-dq", 4 + 8 / 64 + 32 / (64 * 256)),  # QLoRA, section 3: 0.127 bit for the constants, not 0.5
        ("mxfp8", 8.25),
        ("mxfp6", 6.25),
        ("mxfp4", 4.25),
        ("nvfp4", 4.5),
        ("Q8_0", 8.5),
        ("Q6_K", 6.5625),
        ("Q5_K", 5.5),
        ("Q4_K", 4.5),
        ("Q3_K", 3.4375),
        ("Q2_K", 2.625),
        ("Q4_0", 4.5),
        ("Q4_1", 5.0),
        ("Q5_0", 5.5),
        ("Q5_1", 6.0),
        ("IQ4_NL", 4.5),
        ("IQ4_XS", 4.25),
        ("IQ3_S", 3.4375),
        ("IQ3_XXS", 3.0625),
        ("IQ2_S", 2.5625),
        ("IQ2_XS", 2.3125),
        ("IQ2_XXS", 2.0625),
        ("IQ1_M", 1.75),
        ("IQ1_S", 1.5625),
        ("Q4_K_M", 4.5),  # of most of its tensors
    ],
)
def test_bits_per_weight(name: str, bits: float) -> None:
    assert number_format(name).bits_per_weight == bits


@pytest.mark.parametrize("name", number_formats())
def test_a_large_matrix_costs_its_bits_per_weight(name: str) -> None:
    entry = number_format(name)
    each = entry.stored_bits(8192, 8192) / 8192**2
    per_row_or_matrix = (entry.row_bits + entry.column_bits) / 8192 + entry.tensor_bits / 8192**2
    assert each == pytest.approx(entry.bits_per_weight + per_row_or_matrix, rel=1e-12)
    assert entry.stored_bits(64, 256, matrices=3) == 3 * entry.stored_bits(64, 256)


def test_formulas() -> None:
    assert grouped_bits_per_weight(bits=4, group=32, scale_bits=8) == 4.25
    assert stored_weight_bytes(elements=1000, bits_per_weight=4.5) == 562.5


def test_a_group_that_is_not_full_costs_a_full_scale() -> None:
    assert number_format("int4-awq").stored_bits(1, 129) == 129 * 4 + 2 * 20
    assert number_format("fp8-block").stored_bits(129, 128) == 129 * 128 * 8 + 2 * 32
    assert number_format("nf4").stored_bits(2, 96) == 192 * 4 + 3 * 32  # NF4 blocks run over the flattened matrix
    assert number_format("nf4-dq").stored_bits(1, 64) == 64 * 4 + 8 + 32


def test_scales_by_row_column_and_matrix() -> None:
    assert number_format("int8-llm").stored_bits(10, 64) == 640 * 8 + 10 * 32
    assert number_format("int4-gptq").stored_bits(10, 128) == 1280 * 4 + 10 * 20 + 128 * 32  # g_idx
    assert number_format("nvfp4").stored_bits(10, 16, matrices=4) == 4 * (160 * 4 + 10 * 8 + 32)


# -- which tensors ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", number_formats())
def test_every_weight_is_stored_once(name: str) -> None:
    for model in (spec(), spec(tie_word_embeddings=True), ModelSpec.from_config(MIXTRAL)):
        groups = weight_groups(model, name)
        assert sum(group.elements for group in groups) == model.parameters.total
        by_component = dict.fromkeys(COMPONENTS, 0)
        for group in groups:
            by_component[group.component] += group.elements
        assert by_component == dict(model.parameters.by_component)
        assert weight_bytes(model, name) == pytest.approx(sum(group.bytes for group in groups))


@pytest.mark.parametrize("name", ["fp32", "tf32", "fp16", "bf16"])
def test_plain_formats_store_everything(name: str) -> None:
    model = spec()
    assert weight_bytes(model, name) == model.parameters.total * number_format(name).bits / 8


@pytest.mark.parametrize("name", ["int4-gptq", "int4-awq", "nf4", "int8-llm", "fp8", "fp8-block", "nvfp4"])
def test_embeddings_head_norms_and_router_stay_in_16_bit(name: str) -> None:
    kept = {component for component, as_name in stored(ModelSpec.from_config(MIXTRAL), name) if as_name == "bf16"}
    assert kept == {"embedding", "router", "norms", "head"}


def test_the_rest_keeps_the_checkpoint_format() -> None:
    assert ("norms", "fp16") in stored(spec(dtype="float16"), "int4-awq")
    assert ("norms", "bf16") in stored(spec(dtype="float32"), "int4-awq")


def test_biases_stay_in_16_bit() -> None:
    groups = stored(spec(attention_bias=True), "int4-awq")
    assert groups["attention", "bf16"] == 16 * (256 + 64 + 64 + 256)


def test_mxfp4_packs_the_experts_only() -> None:
    packed = {component for component, name in stored(ModelSpec.from_config(MIXTRAL), "mxfp4") if name == "mxfp4"}
    assert packed == {"experts"}
    packed = {component for component, name in stored(spec(), "mxfp4") if name == "mxfp4"}
    assert packed == {"attention", "mlp"}  # a dense model has no experts


def test_gpt2_matrices_have_their_inputs_first() -> None:
    model = ModelSpec.from_config(
        {"model_type": "gpt2", "n_embd": 768, "n_layer": 2, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
    )
    groups = {(g.component, g.stored_as): g.bits_per_weight for g in weight_groups(model, "int8-llm")}
    rows = 768 * 3 + 768  # outputs of c_attn and c_proj, one scale each
    assert groups["attention", "int8-llm"] == pytest.approx(8 + 32 * rows / (768 * 768 * 4))


# -- GGUF -------------------------------------------------------------------------------------


def test_q4_k_m_gives_half_of_the_value_and_down_matrices_six_bits() -> None:
    groups = stored(spec(), "Q4_K_M")
    # 16 layers: 0, 1, 14, 15 and every third between; 256 x 64 values, 256 x 512 down
    assert groups["attention", "Q6_K"] == 8 * 256 * 64
    assert groups["mlp", "Q6_K"] == 8 * 256 * 512
    assert groups["norms", "fp32"] == 33 * 256
    assert groups["embedding", "Q4_K"] == groups["head", "Q6_K"] == 256_000


def test_tied_embeddings_are_stored_once_in_the_type_of_the_output() -> None:
    groups = stored(spec(tie_word_embeddings=True), "Q4_K_M")
    assert ("head", "Q6_K") not in groups
    assert groups["embedding", "Q6_K"] == 256_000


def test_eight_experts_get_eight_bit_keys_and_values() -> None:
    groups = stored(ModelSpec.from_config(MIXTRAL), "Q4_K_M")
    assert groups["attention", "Q8_0"] == 16 * 2 * 256 * 64
    assert groups["attention", "Q5_K"] == 16 * 256 * 256  # attn_output
    assert groups["router", "fp32"] == 16 * 8 * 256


def test_values_of_a_70b_get_five_bits() -> None:
    groups = stored(spec(num_hidden_layers=80), "Q3_K_S")
    assert groups["attention", "Q5_K"] == 80 * 256 * 64
    assert ("attention", "Q5_K") not in stored(spec(num_hidden_layers=80, num_key_value_heads=8), "Q3_K_S")


def test_rows_that_are_no_whole_block_fall_back() -> None:
    # 320 = 10 x 32 is no multiple of 256, 80 is none of 32 either
    groups = stored(spec(hidden_size=320, intermediate_size=512), "Q4_K_S")
    assert ("attention", "Q5_0") in groups  # what Q4_K falls back to
    assert ("head", "Q8_0") in groups
    groups = stored(spec(hidden_size=80, num_attention_heads=8), "Q4_K_S")
    assert ("attention", "F16") in groups


def test_names_of_tensor_types_mean_the_medium_mix() -> None:
    model = spec()
    assert weight_bytes(model, "Q4_K") == weight_bytes(model, "Q4_K_M")
    assert weight_bytes(model, "Q5_K") == weight_bytes(model, "Q5_K_M")
    assert weight_bytes(model, "Q3_K") == weight_bytes(model, "Q3_K_M")


def test_mixes_are_ordered_by_size() -> None:
    order = [
        "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M",
        "Q3_K_M", "Q3_K_L", "IQ4_XS", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0", "F16",
    ]  # fmt: skip
    sizes = [model_bits_per_weight(spec(), name) for name in order]
    assert sizes == sorted(sizes)


def test_a_format_of_ones_own() -> None:
    own = replace(number_format("int4-awq"), name="int4-g16", group=16)
    assert own.bits_per_weight == 5.25
    assert ("mlp", "int4-g16") in stored(spec(), own)


def test_every_rule_of_every_mix_can_be_read() -> None:
    conditions = {
        "gqa4", "experts4", "experts8", "falcon", "more", "eighth", "sixteenth", "middle", "first2", "first4",
    }  # fmt: skip
    for name in number_formats():
        for _, rules in number_format(name).overrides:
            for rule in rules.split():
                condition, _, chosen = rule.rpartition(":")
                assert set(condition.split("+")) <= conditions | {""}, name
                assert number_format(chosen).name == chosen, name


@pytest.mark.parametrize("name", ["bf16", "int4-gptq", "mxfp4", "Q4_K_M", "IQ2_XS"])
def test_every_model_of_the_catalog(name: str) -> None:
    for short in model_names():
        spec_of = catalog_model(short)
        assert sum(group.elements for group in weight_groups(spec_of, name)) == spec_of.parameters.text, short
