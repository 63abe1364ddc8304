"""Number formats against torch, against transformers' quantized layers, and against published file sizes."""

from __future__ import annotations

import re
from collections import Counter
from statistics import median

import pytest
import torch
from transformers.integrations.finegrained_fp8 import FP8Linear
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from llmhw import model
from llmhw.catalog import read_table
from llmhw.families import FAMILIES
from llmhw.model import ModelSpec
from llmhw.precision import model_bits_per_weight, number_format, weight_bytes, weight_groups
from llmhw.validation import Row, facts
from tests.truth.families import config_of, on_meta, sized

GGUF_FACTS = ("gguf_file_size", "gguf_bits_per_weight")

# -- torch ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2,
        torch.float8_e5m2fnuz,
    ],
    ids=str,
)
def test_bits_of_torch_floats(dtype: torch.dtype) -> None:
    assert number_format(str(dtype)).bits == torch.finfo(dtype).bits == 8 * dtype.itemsize


def test_bits_of_torch_integers_and_packed_types() -> None:
    assert number_format("int8").bits == torch.iinfo(torch.int8).bits
    # two 4-bit floats in one byte
    assert 2 * number_format(str(torch.float4_e2m1fn_x2)).bits == 8 * torch.float4_e2m1fn_x2.itemsize
    # the scale of the MX formats is one E8M0 number, that of NVFP4 one E4M3 number
    assert number_format("mxfp4").scale_bits == torch.finfo(torch.float8_e8m0fnu).bits
    assert number_format("nvfp4").scale_bits == torch.finfo(torch.float8_e4m3fn).bits


# -- transformers -----------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(256, 512), (200, 300), (1536, 7168)])
def test_block_fp8_is_as_large_as_transformers_layer(rows: int, columns: int) -> None:
    with torch.device("meta"):
        layer = FP8Linear(columns, rows, block_size=(128, 128))
    theirs = sum(p.numel() * p.element_size() for p in layer.parameters())
    assert number_format("fp8-block").stored_bits(rows, columns) == 8 * theirs


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_quantized_matrices_are_the_ones_transformers_quantizes(model_type: str) -> None:
    """Every linear layer but the head, as its quantizers choose them; the router is our exception, see below."""
    config = config_of(model_type, sized(model_type, 0))
    reference = on_meta(config)
    # a block that layers share is tied, which transformers' rule for the head takes for another name of the head
    kept = {name for name in get_keys_to_not_convert(reference) if "shared_transf" not in name}
    linear = {
        id(module.weight): name
        for name, module in reversed(list(reference.named_modules()))
        if isinstance(module, (torch.nn.Linear, Conv1D)) and name not in kept
    }
    theirs = Counter(re.sub(r"^.*?\.\d+\.", "", name) for name in linear.values())
    spec = ModelSpec.from_config(config.to_dict())
    held = [*(tensor for layer in spec.layers for tensor in layer.tensors), *spec.tensors]
    packed = [tensor for tensor in held if tensor.is_linear and tensor.component in ("attention", "mlp")]
    ours = Counter(tensor.name.removesuffix(".weight") for tensor in packed)
    # AWQ, GPTQ and the fp8 checkpoints keep routers in 16 bit; bitsandbytes would pack those that are nn.Linear
    routers = {
        *("feed_forward.router", "mlp.router", "mlp.shared_expert_gate", "mlp.router.gate", "mlp.router.classifier"),
        "router.proj",
        "model.per_layer_model_projection",  # of the embedding's width, and counted with it
        *("model.decoder.project_in", "model.decoder.project_out"),  # they stand beside the embedding of OPT
        *(name for name in theirs if "altup" in name or name.startswith("mlp.gate.")),  # these choose among streams
    }
    theirs = Counter({name: count for name, count in theirs.items() if name not in routers})
    # norms without weights: the last module is a linear layer, which is kept
    if model_type in ("olmo", "nanochat"):
        theirs["mlp.down_proj" if model_type == "olmo" else "mlp.fc2"] += 1
    assert ours == theirs
    quantized = sum(g.elements for g in weight_groups(spec, "int4-awq") if g.stored_as == "int4-awq")
    experts = sum(t.numel for layer in spec.layers for t in layer.tensors if t.component == "experts" and t.matmul)
    assert quantized == sum(tensor.numel for tensor in packed) + experts


# -- published sizes --------------------------------------------------------------------------


def predicted(row: dict[str, str]) -> float:
    """The library's prediction in the unit of the row."""
    return facts.quantity(Row(row)) / facts.unit(Row(row))


def rounding(value: str) -> float:
    """Half a unit of the last digit that the source prints, as a fraction of the value."""
    digits = len(value.partition(".")[2])
    return 0.5 * 10**-digits / float(value)


def rows_of(*names: str) -> list[dict[str, str]]:
    return [row for row in read_table("model_facts") if row["fact"] in names]


def test_gguf_files() -> None:
    """Every published GGUF size and bits-per-weight figure in the catalog, printed row by row."""
    errors = {}
    print(f"\n{'model':<14} {'file':<15} {'published':>10} {'predicted':>10} unit     error")
    for row in rows_of(*GGUF_FACTS):
        guess = predicted(row)
        error = guess / float(row["value"]) - 1
        note = "" if row["use"] == "truth" else row["use"]
        name = f"{row['model']:<14} {row['quant']:<15}"
        print(f"{name} {row['value']:>10} {guess:>10.4f} {row['unit']:<5} {error:>8.3%}  {note}")
        if row["use"] == "truth":
            errors[row["id"]] = abs(error)
            # a file is larger than its tensors by the tokenizer and the header: below 11 MiB here
            header = {"bits": 0.0, "GB": 11 * 2**20 / 1e9, "GiB": 11 / 1024}[row["unit"]]
            half_digit = rounding(row["value"]) * float(row["value"])
            assert -half_digit <= float(row["value"]) - guess <= half_digit + header, row["id"]
    print(f"{len(errors)} rows: median error {median(errors.values()):.3%}, largest {max(errors.values()):.3%}")
    assert len(errors) >= 70
    assert median(errors.values()) < 0.0003
    assert max(errors.values()) < 0.003  # 4.9 GB, published with two digits


def test_bits_per_weight_of_every_mix_are_exact() -> None:
    """The table of llama.cpp's README gives four decimals for Llama-3.1-8B: all of them are met."""
    rows = rows_of("gguf_bits_per_weight")
    assert len(rows) >= 23
    for row in rows:
        assert round(predicted(row), 4) == float(row["value"]), row["quant"]


def test_ggml_files_of_2023_by_the_rules_of_2023() -> None:
    rows = rows_of("ggml_file_size")
    assert len(rows) == 9
    print()
    for row in rows:
        error = predicted(row) / float(row["value"]) - 1
        today = weight_bytes(model(row["model"]), row["quant"]) / 1e9 / float(row["value"]) - 1
        print(f"{row['quant']:<8} {row['value']:>6} GB  {error:>8.3%}  by today's rules: {today:>8.2%}")
        assert abs(error) <= rounding(row["value"]) + 1e-4


def test_llama_cpp_readme_estimates_its_larger_files() -> None:
    """Its 70B and 405B rows are not files: the fp32 size it gives for 70B is less than four bytes a parameter."""
    (fp32,) = (row for row in rows_of("weights_file_size") if row["model"] == "llama-3.1-70b")
    assert float(fp32["value"]) * 1e9 < 4 * model("llama-3.1-70b").parameters.total
    for row in rows_of("gguf_file_size"):
        if row["model"] in ("llama-3.1-70b", "llama-3.1-405b"):
            assert -0.03 < predicted(row) / float(row["value"]) - 1 < 0


def test_safetensors_totals_to_the_byte() -> None:
    rows = [row for row in rows_of("safetensors_total_size") if row["use"] == "truth"]
    assert len(rows) >= 5
    for row in rows:
        assert predicted(row) == float(row["value"]), row["model_name"]


GPTQ_CARD = "table of files in the card tridungduong16/Llama-2-13B-GPTQ-Orca@fd5b5b96"

# What the catalog's table does not hold: (model, format, published, unit, source)
PUBLISHED = [
    ("gpt-oss-120b", "mxfp4", "60.8", "GiB", "gpt-oss model card, table 1, arXiv 2508.10925"),
    ("gpt-oss-20b", "mxfp4", "12.8", "GiB", "gpt-oss model card, table 1, arXiv 2508.10925"),
    ("llama-2-13b", "int4-gptq", "7.26", "GB", GPTQ_CARD),
    ("llama-2-13b", "int4-gptq-g64", "7.51", "GB", GPTQ_CARD),
    ("llama-2-13b", "int4-gptq-g32", "8.00", "GB", GPTQ_CARD),
    # loads of llama.cpp's mixes for MLA and 256 experts, as its log prints them
    ("deepseek-v3", "Q4_K_M", "376.650", "GiB", "log in ikawrakow/ik_llama.cpp@8337e4cd3 (model size)"),
    ("deepseek-v3", "Q8_0", "664.295", "GiB", "log in ikawrakow/ik_llama.cpp@8337e4cd3 (model size)"),
    ("llama-2-13b", "Q8_0", "12.881", "GiB", "log in ikawrakow/ik_llama.cpp@8337e4cd3 (model size)"),
]


@pytest.mark.parametrize(("name", "quant", "value", "unit", "source"), PUBLISHED)
def test_other_published_sizes(name: str, quant: str, value: str, unit: str, source: str) -> None:
    guess = weight_bytes(model(name), quant) / facts.SIZES[unit]
    print(
        f"\n{name} {quant}: published {value} {unit}, predicted {guess:.3f} ({guess / float(value) - 1:+.3%}; {source})"
    )
    # the GPTQ files of 2023 also hold zero biases that Llama does not have: 4.3 MB of 7.5 GB
    biases = 0.0006 if "gptq" in quant else 0.0
    assert abs(guess / float(value) - 1) <= rounding(value) + biases


def test_deepseek_v3_checkpoint() -> None:
    """688,586,727,753 bytes of files: our weights, the multi-token-prediction module, and the files' headers."""
    spec = model("deepseek-v3")
    block = number_format("fp8-block")
    module = 0.0
    for tensor in spec.mtp_tensors:
        rows, columns = (1, *tensor.shape)[-2:]
        packed = tensor.matmul and tensor.component in ("attention", "mlp", "experts") and "eh_proj" not in tensor.name
        bits = block.stored_bits(rows, columns, tensor.numel // (rows * columns)) if packed else 16 * tensor.numel
        module += bits / 8
    module += 2 * 2 * spec.vocab_size * spec.hidden  # its own copies of the embedding and the head
    assert (weight_bytes(spec, "fp8-block") + module) / 688_586_727_753 == pytest.approx(1, abs=1e-4)


# -- mistakes of other calculators ------------------------------------------------------------


def test_70b_in_4_bit_is_not_17_5_gb() -> None:
    """70 / 4 divides by the bits, as if a weight were one byte to begin with. Half a byte each is 35 GB; scales,
    zero points and the 16-bit embeddings and head make it 37 GB (Llama 2) to 40 GB (Llama 3: four times the
    vocabulary)."""
    assert weight_bytes(model("llama-2-70b"), "int4-gptq") / 1e9 == pytest.approx(36.6, abs=0.1)
    assert weight_bytes(model("llama-3-70b"), "int4-gptq") / 1e9 == pytest.approx(39.8, abs=0.1)
    assert weight_bytes(model("llama-3-70b"), "nf4-dq") / 1e9 == pytest.approx(39.5, abs=0.1)


def test_nf4_is_not_4_bit_for_the_whole_model() -> None:
    """An 8B model in NF4 takes 5.7 GB and not 4: a quarter of its weights are embeddings and head in 16 bit."""
    assert weight_bytes(model("llama-3-8b"), "nf4-dq") / 1e9 == pytest.approx(5.7, abs=0.05)
    assert model_bits_per_weight(model("llama-3-8b"), "nf4-dq") == pytest.approx(5.68, abs=0.01)
