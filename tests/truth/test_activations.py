"""Predicted activations against what autograd really keeps, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.testing._internal.distributed.fake_pg import FakeStore

from llmhw import families
from llmhw.activations import activations, layer_activations
from llmhw.measure.activations import measure_activations
from llmhw.measure.modules import build
from llmhw.model import ModelSpec, model
from llmhw.units import LLMHWError
from tests.truth.families import config_of, published, sized

STYLES = {key: family.style for key, family in families.FAMILIES.items() if family.style}
FAMILIES = sorted(STYLES)
RECOMPUTE = ("none", "selective", "full")
# Two sizes: the second has one sequence, where some copies are views, and fp32, where casts are no copies.
SIZES = (("bf16", 2, 8), ("fp32", 1, 16))


def attentions(model_type: str) -> list[str]:
    return ["flash", "eager"] if STYLES[model_type].sdpa else ["eager"]


def modes(model_type: str) -> list[str]:
    """Old attention code that transformers' registry does not reach cannot be recomputed by itself."""
    return [r for r in RECOMPUTE if r != "selective" or STYLES[model_type].registry]


def pair(model_type: str, options: dict[str, Any], precision: str, attention: str) -> tuple[ModelSpec, Any]:
    """Our description of a config, and transformers' model of it."""
    config = config_of(model_type, options)
    return ModelSpec.from_config(published(config)), build(config, precision=precision, attention=attention)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_bytes_equal_what_autograd_keeps(model_type: str) -> None:
    for variant, (precision, batch, seq_len) in enumerate(SIZES):
        options = sized(model_type, variant)
        options.pop("layer_norm_elementwise_affine", None)  # a config without norm weights does not say where they are
        for attention in attentions(model_type):
            spec, module = pair(model_type, options, precision, attention)
            softmax = [layer.attention for layer in spec.layers if layer.attention]
            if attention == "flash" and any(a.head_dim != a.v_head_dim for a in softmax):
                continue  # the CPU has no fused kernel for values of another length
            for recompute in modes(model_type):
                if recompute == "selective" and not softmax:
                    continue  # a hybrid whose few layers are all linear here
                measured = measure_activations(module, batch=batch, seq_len=seq_len, recompute=recompute)
                predicted = activations(
                    spec, batch=batch, seq_len=seq_len, precision=precision, attention=attention, recompute=recompute
                )
                assert predicted.total == measured.total, f"{attention}, {recompute}, {precision}"


def test_readme_states_the_cases() -> None:
    """Every family with an op-by-op profile, in two sizes, with each attention and each recompute that it can run."""
    cases = sum(len(SIZES) * len(attentions(f)) * len(modes(f)) for f in FAMILIES)
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"(saved-tensor hooks), {len(FAMILIES)} families | {cases} |" in text


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2", "gpt_neox", "olmo2", "phi3", "mixtral", "opt"])
def test_every_layer_keeps_its_share(model_type: str) -> None:
    """Not only the total: the last layer's modules keep what one layer is predicted to."""
    options = sized(model_type, 0) | {"n_layer" if model_type == "gpt2" else "num_hidden_layers": 7}
    options.pop("layer_norm_elementwise_affine", None)
    spec, module = pair(model_type, options, "bf16", "flash")
    measured = measure_activations(module, batch=2, seq_len=8)
    last = sum(size for name, size in measured.by_module().items() if ".6" in name)
    assert layer_activations(spec, -1, batch=2, seq_len=8).total == last


@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize("ranks", [2, 4])
def test_tensor_parallel(ranks: int, sequence_parallel: bool) -> None:
    """One rank of PyTorch's own tensor parallel; its collectives are stubs, its tensors are not."""
    options = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 48}
    spec, module = pair("llama", options | {"intermediate_size": 112}, "bf16", "flash")
    ids = torch.zeros((2, 8), dtype=torch.long)
    inputs = {"input_ids": ids, "position_ids": torch.arange(8)[None], "use_cache": False}
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        spread(module, ranks, sequence_parallel)
        for recompute in RECOMPUTE:
            measured = measure_activations(module, recompute=recompute, inputs=inputs)
            layout: dict[str, Any] = {"tp": ranks, "sequence_parallel": sequence_parallel}
            predicted = activations(spec, batch=2, seq_len=8, recompute=recompute, loss=False, **layout)
            assert predicted.total == measured.total, recompute
    finally:
        dist.destroy_process_group()


def spread(module: Any, ranks: int, sequence_parallel: bool) -> None:
    """Tensor parallel as PyTorch's tutorial applies it to a Llama, the head split over the vocabulary."""
    mesh = init_device_mesh("cpu", (ranks,))
    rows = Shard(1) if sequence_parallel else Replicate()
    norm = SequenceParallel(use_local_output=True)
    plan: dict[str, Any] = {f"self_attn.{name}_proj": ColwiseParallel() for name in "qkv"}
    plan |= {f"mlp.{name}_proj": ColwiseParallel() for name in ("gate", "up")}
    plan |= {name: RowwiseParallel(output_layouts=rows) for name in ("self_attn.o_proj", "mlp.down_proj")}
    head = ColwiseParallel(input_layouts=rows, output_layouts=Shard(-1), use_local_output=False)
    outer: dict[str, Any] = {"lm_head": head}
    if sequence_parallel:
        keyword = {"hidden_states": Shard(1)}, {"hidden_states": Replicate()}
        plan |= {"input_layernorm": norm, "post_attention_layernorm": norm}
        plan["self_attn"] = PrepareModuleInput(
            input_kwarg_layouts=keyword[0], desired_input_kwarg_layouts=keyword[1], use_local_output=True
        )
        plan["mlp"] = PrepareModuleInput(
            input_layouts=Shard(1), desired_input_layouts=Replicate(), use_local_output=True
        )
        outer["model.norm"] = norm
        outer["model.embed_tokens"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1))
    for layer in module.model.layers:
        parallelize_module(layer, mesh, plan)
    parallelize_module(module, mesh, outer)


@pytest.mark.parametrize("layers", [1, 2])
def test_block_recompute(layers: int) -> None:
    options = sized("llama", 0) | {"num_hidden_layers": 3}
    spec, module = pair("llama", options, "bf16", "flash")
    case: dict[str, Any] = {"batch": 2, "seq_len": 8, "recompute": "block", "recompute_layers": layers}
    assert activations(spec, **case).total == measure_activations(module, **case).total


def test_without_the_loss() -> None:
    spec, module = pair("gemma2", sized("gemma2", 0), "bf16", "eager")
    predicted = activations(spec, batch=2, seq_len=8, attention="eager", loss=False)
    assert predicted.total == measure_activations(module, batch=2, seq_len=8, loss=False).total


def test_an_8b_model_without_its_memory() -> None:
    """Fake tensors have shapes and no storage: the published size is measured on any machine."""
    spec = model("llama-3-8b")
    measured = measure_activations("llama-3-8b", seq_len=2048)
    assert activations(spec, seq_len=2048).total == measured.total == measured.predicted
    assert measured.ratio == 1
    assert measured.rows()[-1] == ("activations", "13.3 GiB", "13.3 GiB", "1.0000")


@pytest.mark.parametrize("name", ["gpt-neox-20b", "phi-4-mini", "qwen3-30b-a3b", "olmo-2-7b"])
def test_published_configs(name: str) -> None:
    """Configs that depart from their family's defaults: another GELU, a part of the rotary embedding, a sum to one."""
    assert measure_activations(name, seq_len=16).ratio == 1


def test_measuring_changes_nothing() -> None:
    _, module = pair("llama", sized("llama", 1), "fp32", "flash")
    first = measure_activations(module, batch=2, seq_len=8)
    for recompute in ("full", "selective"):
        assert measure_activations(module, batch=2, seq_len=8, recompute=recompute).total < first.total
    assert measure_activations(module, batch=2, seq_len=8) == first
    assert module.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recompute_gives_the_same_gradients(recompute: str) -> None:
    """What we call recompute is a training step that works, with the gradients it should have."""
    _, module = pair("llama", sized("llama", 1), "fp32", "flash")
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    grads = []
    for mode in ("none", recompute):
        module.zero_grad()
        measure_activations(module, batch=2, seq_len=8, recompute=mode, backward=True)
        grads.append([p.grad.clone() for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_what_cannot_be_measured_says_so() -> None:
    _, module = pair("bloom", sized("bloom", 0), "bf16", "eager")
    with pytest.raises(LLMHWError, match="the attention of BloomForCausalLM cannot be run again by itself; use 'full'"):
        measure_activations(module, batch=2, seq_len=8, recompute="selective")
    with pytest.raises(LLMHWError, match="transformers does not run model_type='gemma2' with it; use 'eager'"):
        measure_activations("gemma-2-2b", seq_len=8, attention="flash")
    net = torch.nn.Linear(2, 2)
    with pytest.raises(LLMHWError, match="inputs=None: say what to call Linear with"):
        measure_activations(net)
    with pytest.raises(LLMHWError, match="recompute='full' switches transformers' models only"):
        measure_activations(net, inputs=(torch.zeros(1, 2),), recompute="full")
    with pytest.raises(LLMHWError, match="model='lama' is not known"):
        measure_activations("lama", seq_len=8)


def test_any_module() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    measured = measure_activations(net, inputs=(torch.zeros(3, 4),))
    # the input of the first layer, and what ReLU makes: its own result and the last layer's input at once
    assert measured.by_module() == {"0": 3 * 4 * 4, "1": 3 * 8 * 4}
    assert measured.by_op() == {"linear": 48, "relu": 96}
    assert measured.outputs == 3 * 2 * 4
    assert measured.predicted is None
    assert measured.ratio is None
    assert measured.rows()[-1] == ("activations", "144 B", "", "")


@pytest.mark.parametrize("model_type", ["qwen3_next", "qwen3_5_text"])
@pytest.mark.parametrize(("batch", "seq_len"), [(1, 70), (2, 130), (2, 64)])
def test_chunks_of_the_delta_rule(model_type: str, batch: int, seq_len: int) -> None:
    """One chunk, several, and one that is not full."""
    options = sized(model_type, 0) | {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
    spec, module = pair(model_type, options, "bf16", "flash")
    for recompute in ("none", "full"):
        case: dict[str, Any] = {"batch": batch, "seq_len": seq_len, "recompute": recompute}
        assert activations(spec, **case).total == measure_activations(module, **case).total, recompute
