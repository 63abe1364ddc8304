"""Weights, gradients and optimizer states against the tensors that a real step leaves behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmhw.families import FAMILIES
from llmhw.memory import lora_tensors, training_states
from llmhw.model import ModelSpec
from tests.truth.cases import MASTER_FAMILIES, OPTIMIZER_PRECISIONS, OPTIMIZERS, STACKED_EXPERTS
from tests.truth.families import causal, config_of, published, sized


def bytes_of(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def build(model_type: str, dtype: torch.dtype) -> tuple[torch.nn.Module, ModelSpec]:
    config = config_of(model_type, sized(model_type, 0))
    model = causal(config, dtype=dtype).to(dtype)  # a router that some classes hold in fp32 all the same
    return model, ModelSpec.from_config(published(config))


def step(model: torch.nn.Module, name: str) -> list[torch.optim.Optimizer]:
    """One optimizer step, on gradients of ones: the states do not depend on their values."""
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    parameters = list(model.parameters())
    if name == "adamw":
        chosen: list[torch.optim.Optimizer] = [torch.optim.AdamW(parameters)]
    elif name == "sgd":
        chosen = [torch.optim.SGD(parameters)]
    elif name == "sgd-momentum":
        chosen = [torch.optim.SGD(parameters, momentum=0.9)]
    elif name == "adafactor":
        chosen = [torch.optim.Adafactor(parameters)]
    else:
        ends = {id(e.weight) for e in (model.get_input_embeddings(), model.get_output_embeddings()) if e is not None}
        blocks = [p for n, p in model.named_parameters() if is_block_matrix(n, p) and id(p) not in ends]
        ids = {id(p) for p in blocks}
        rest = [p for p in parameters if id(p) not in ids]
        chosen = [torch.optim.Muon(blocks), torch.optim.AdamW(rest)]
    for optimizer in chosen:
        optimizer.step()
    return chosen


def is_block_matrix(name: str, parameter: torch.Tensor) -> bool:
    outside = ("embed", "wpe", "per_layer_model", "model.altup", "project_in", "project_out", "norm", "ln_", "A_log")
    name = name.replace("ada_rms_norm", "delay")  # two matrices
    return parameter.ndim == 2 and not any(word in name for word in outside)


def states_of(chosen: list[torch.optim.Optimizer]) -> dict[str, int]:
    held: dict[str, int] = {}
    for optimizer in chosen:
        for state in optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    held[key] = held.get(key, 0) + bytes_of([value])
    return held


@pytest.mark.parametrize("precision", OPTIMIZER_PRECISIONS)
@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_states(model_type: str, precision: str) -> None:
    """A step of each optimizer on one model, whose building takes longer than they all."""
    model, spec = build(model_type, torch.float32 if precision == "fp32" else torch.bfloat16)
    for name in OPTIMIZERS:
        if name == "muon" and model_type in STACKED_EXPERTS:
            continue
        predicted = training_states(spec, optimizer=name, precision=precision)
        held = states_of(step(model, name))
        assert predicted["weights"] == bytes_of(model.parameters()), name
        assert predicted["gradients"] == bytes_of(p.grad for p in model.parameters()), name
        assert predicted.total == bytes_of(model.parameters()) * 2 + sum(held.values()), name
        if name == "adamw":
            assert predicted["momentum"] == held["exp_avg"]
            assert predicted["variance"] == held["exp_avg_sq"]
            assert predicted["step counters"] == held["step"]


@pytest.mark.parametrize("model_type", MASTER_FAMILIES)
def test_mixed_precision_master(model_type: str) -> None:
    """bf16 weights and gradients, and an AdamW that updates an fp32 master copy."""
    model, spec = build(model_type, torch.bfloat16)
    master = [p.detach().float().requires_grad_() for p in model.parameters()]
    for p, copy in zip(model.parameters(), master, strict=True):
        p.grad = torch.ones_like(p)
        copy.grad = p.grad.float()
    optimizer = torch.optim.AdamW(master)
    optimizer.step()
    held = bytes_of(model.parameters()) * 2 + bytes_of(master) + sum(states_of([optimizer]).values())
    assert training_states(spec, precision="bf16-mixed").total == held


@pytest.mark.parametrize("targets", ["all-linear", "attention", "mlp"])
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "gpt_neox", "mixtral"])
def test_lora_sizes(model_type: str, targets: str) -> None:
    """Adapters are two factors beside each chosen nn.Linear of transformers' model."""
    model, spec = build(model_type, torch.float32)
    rank = 3
    expected = 0
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or "lm_head" in name:
            continue
        component = "attention" if "att" in name else "mlp"
        if targets in ("all-linear", component):
            expected += rank * (module.in_features + module.out_features)
    if expected == 0:
        pytest.skip("the experts of this model are one stacked tensor, not nn.Linear")
    assert sum(n * t.numel for t, n in lora_tensors(spec, rank=rank, targets=targets)) == expected
