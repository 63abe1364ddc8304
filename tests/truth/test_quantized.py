"""Bytes of Neural Compressor, bitsandbytes and torchao, and what peft trains: all as predicted."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

pytest.importorskip("neural_compressor", reason="needs the extra quantize")
from llmhw import model, weights
from llmhw.measure import quantized, small
from llmhw.measure.modules import spec_of
from llmhw.memory import lora_modules, lora_states, lora_tensors
from llmhw.precision import number_format

FAMILIES = ("llama-3.2-1b", "qwen2.5-0.5b", "mistral-7b", "gemma-2-2b", "phi-3-mini")


@cache
def tiny() -> Any:
    return small.trained(1)


def predicted(name: str) -> float:
    shapes = [tuple(module.weight.shape) for module in quantized.linears(tiny()).values()]
    return sum(number_format(name).stored_bits(*shape) for shape in shapes) / 8


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("targets", ["all-linear", "attention", "mlp"])
@pytest.mark.parametrize("name", FAMILIES)
def test_peft_trains_as_many(name: str, targets: str) -> None:
    config = {k: v for k, v in model(name).config.items() if k != "layer_types"} | {"num_hidden_layers": 2}
    spec = spec_of(config)
    added = lora_tensors(spec, rank=8, targets=targets)
    trained, averages = quantized.trained_by_peft(config, lora_modules(spec, targets), 8)
    assert sum(count * t.numel for t, count in added) == trained
    held = {part.name: part.value for part in lora_states(spec, rank=8, targets=targets).parts}
    assert held["momentum"] + held["variance"] == averages


@pytest.mark.parametrize(("group", "fmt"), [(128, "int4-gptq"), (32, "int4-gptq-g32")])
def test_gptq_in_memory_and_on_disk(group: int, fmt: str) -> None:
    import neural_compressor.torch.quantization as nc

    config = nc.GPTQConfig(bits=4, group_size=group, use_sym=False, act_order=True)
    made = quantized.calibrated(tiny(), config, small.text().rows(8))
    assert quantized.held_bytes(made) == predicted(fmt)
    assert quantized.file_bytes(made) == weights(spec_of(small.config()), fmt).total


@pytest.mark.parametrize(("double", "fmt"), [(False, "nf4"), (True, "nf4-dq")])
def test_nf4(double: bool, fmt: str) -> None:
    from transformers import BitsAndBytesConfig

    asked = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double)
    assert quantized.held_bytes(quantized.loaded(tiny(), asked)) == predicted(fmt)


def test_int8() -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    made = copy.deepcopy(tiny())
    quantize_(made, Int8WeightOnlyConfig(), quantized.in_layers)
    assert quantized.held_bytes(made) == predicted("int8")


@pytest.mark.parametrize("fmt", ["mxfp8", "mxfp4", "nvfp4"])
def test_block_formats(fmt: str) -> None:
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    held = 0
    for module in quantized.linears(tiny()).values():
        matrix = module.weight.detach()
        if fmt == "nvfp4":
            made = NVFP4Tensor.to_nvfp4(matrix, per_tensor_scale=per_tensor_amax_to_scale(matrix.abs().max()))
            held += made.per_tensor_scale.nbytes
        else:
            element = {"mxfp8": torch.float8_e4m3fn, "mxfp4": torch.float4_e2m1fn_x2}[fmt]
            made = MXTensor.to_mx(matrix, element, 32)
        held += made.qdata.nbytes + made.scale.nbytes
    assert held == predicted(fmt)
