"""Shards add up to the model, whatever the layout."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmhw
from llmhw import model, training_states
from llmhw.catalog import model_names
from llmhw.families import Builder
from llmhw.job import Parallelism, TrainingJob
from llmhw.memory import OPTIMIZERS, PRECISIONS
from llmhw.model import PARTS, SPLITS, ModelSpec, Tensor
from llmhw.sharding import (
    place_of,
    places,
    rank_parameter_bytes,
    rank_states,
    rank_tensors,
    shard_tensors,
    stage_layers,
    stages_of,
)
from llmhw.step_time import time_step
from llmhw.units import LLMHWError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 88,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 8,
    "vocab_size": 131,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "tied": LLAMA | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    "one-kv-head": LLAMA | {"num_key_value_heads": 1},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 8, "n_head": 8, "n_positions": 32, "vocab_size": 131},
    "bigcode": {"model_type": "gpt_bigcode", "n_embd": 64, "n_layer": 8, "n_head": 8, "vocab_size": 131},
    "mixtral": LLAMA | {"model_type": "mixtral", "num_local_experts": 8},
    "gpt-oss": LLAMA | {"model_type": "gpt_oss", "num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 8},
    "deepseek": LLAMA
    | {
        "model_type": "deepseek_v3",
        "num_key_value_heads": 8,
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "first_k_dense_replace": 3,
    },
}
SPECS = {name: ModelSpec.from_config(config) for name, config in CONFIGS.items()}


@st.composite
def layouts(draw: st.DrawFn, **fixed: Any) -> Parallelism:
    """Any layout that eight layers, eight heads and eight experts allow."""
    size = st.sampled_from([1, 2, 4])
    tp, cp, dp, pp = draw(size), draw(st.sampled_from([1, 2])), draw(st.integers(1, 5)), draw(size)
    vpp = draw(st.sampled_from([1, 2])) if pp > 1 else 1
    inside = dp * cp * tp
    fitting = [(e, t) for e in (1, 2, 4, 8) for t in (1, 2) if inside % (e * t) == 0]
    ep, expert_tp = draw(st.sampled_from(fitting))
    zero = draw(st.integers(0, 3))
    replicas = draw(st.sampled_from([r for r in range(1, dp + 1) if dp % r == 0])) if zero == 3 else 1
    options = {"dp": dp, "tp": tp, "pp": pp, "cp": cp, "vpp": vpp, "ep": ep, "expert_tp": expert_tp, "zero": zero}
    return Parallelism(**{**options, "replicas": replicas, **fixed})


def elements(tensors: tuple[tuple[Tensor, int], ...]) -> int:
    return sum(count * t.numel for t, count in tensors)


def copies(spec: ModelSpec, p: Parallelism, tensor: Tensor, kv_heads: int) -> float:
    """On how many ranks of a stage the same element lies, by the layout alone."""
    split = tensor.split
    if split == "experts":
        inside = p.dp * p.cp * p.tp // p.ep
        return inside if (tensor.part == "down" and not tensor.matmul) else inside / p.expert_tp
    if split in ("whole",):
        return p.dp * p.cp * p.tp
    if split == "column" and tensor.part in ("k", "v"):
        return p.dp * p.cp * max(1, p.tp // kv_heads)
    return p.dp * p.cp


@pytest.mark.parametrize("name", sorted(set(SPECS) - {"bigcode"}))
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_ranks_add_up_to_the_model(name: str, data: st.DataObject) -> None:
    spec = SPECS[name]
    p = data.draw(layouts(zero=0, replicas=1))
    held: Counter[str] = Counter()
    for place in places(p):
        tensors = rank_tensors(
            spec, p, pp_rank=place.pp, tp_rank=place.tp, ep_rank=place.ep, expert_tp_rank=place.expert_tp
        )
        for tensor, count in tensors:
            held[tensor.name] += count * tensor.numel
    expected: Counter[str] = Counter()
    for tensor, count in spec.all_tensors():
        ends = 2 if spec.tied and p.pp > 1 and tensor.split == "vocab" else 1
        expected[tensor.name] += int(ends * count * tensor.numel * copies(spec, p, tensor, spec.kv_heads))
    assert held == expected


@pytest.mark.parametrize("name", sorted(SPECS))
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_zero_shards_add_up_to_what_a_rank_held(name: str, data: st.DataObject) -> None:
    """Over the ranks that share them, the shards of ZeRO are the tensors once for each replica."""
    spec = SPECS[name]
    p = data.draw(layouts())
    plain = Parallelism(dp=p.dp, tp=p.tp, pp=p.pp, cp=p.cp, vpp=p.vpp, ep=p.ep, expert_tp=p.expert_tp)
    for what, least in (("weights", 3), ("gradients", 2), ("optimizer", 1)):
        dense, experts = 0, 0
        whole_dense, whole_experts = 0, 0
        for place in places(p):
            for tensor, count in shard_tensors(spec, p, place, what):
                if tensor.component == "experts":
                    experts += count * tensor.numel
                else:
                    dense += count * tensor.numel
            for tensor, count in shard_tensors(spec, plain, place.rank, what):
                if tensor.component == "experts":
                    whole_experts += count * tensor.numel
                else:
                    whole_dense += count * tensor.numel
        on = p.zero >= least
        assert dense * (p.shards if on else 1) == whole_dense
        assert experts * (p.expert_shards if on else 1) == whole_experts


def fullest(spec: ModelSpec, p: Parallelism) -> float:
    """Bytes of the rank that holds most."""
    return max(float(rank_states(spec, p, place).total) for place in places(p))


@pytest.mark.parametrize("name", sorted(SPECS))
def test_memory_never_rises_when_sharding_grows(name: str) -> None:
    spec = SPECS[name]
    ladders = [
        [Parallelism(dp=4, zero=z) for z in range(4)],
        *[[Parallelism(dp=n, zero=z) for n in range(1, 9)] for z in range(4)],
        [Parallelism(dp=8, zero=3, replicas=r) for r in (8, 4, 2, 1)],
        [Parallelism(tp=n) for n in (1, 2, 4, 8)],
        [Parallelism(pp=n) for n in (1, 2, 4, 8)],
        [Parallelism(dp=8, ep=n) for n in (1, 2, 4, 8)],
        [Parallelism(dp=8, expert_tp=n) for n in (1, 2, 4, 8)],
        [Parallelism(cp=n, zero=3) for n in (1, 2, 4, 8)],
    ]
    for ladder in ladders:
        sizes = [fullest(spec, p) for p in ladder]
        assert sizes == sorted(sizes, reverse=True), ladder


@pytest.mark.parametrize("name", sorted(SPECS))
def test_one_device_is_the_single_device_answer(name: str) -> None:
    spec = SPECS[name]
    for optimizer in OPTIMIZERS:
        for precision in PRECISIONS:
            alone = training_states(spec, optimizer=optimizer, precision=precision)
            for zero in range(4):
                states = rank_states(spec, Parallelism(zero=zero), optimizer=optimizer, precision=precision)
                assert {p.name: p.value for p in states} == {p.name: p.value for p in alone}


@pytest.mark.parametrize("name", sorted(SPECS))
@pytest.mark.parametrize("zero", [1, 2])
def test_a_flat_buffer_is_one_parameter(name: str, zero: int) -> None:
    """Tensors laid end to end, the experts' apart, have one step counter, and their 8-bit blocks begin anew once."""
    spec, sizes = SPECS[name], Counter[bool]()
    for t, count in spec.all_tensors():
        sizes[t.component == "experts"] += count * t.numel
    slices = [-(-size // 3) for size in sizes.values()]
    eight = rank_states(spec, Parallelism(dp=3, zero=zero), optimizer="adamw-8bit")
    assert eight["variance"] == sum(n + 4 * -(-n // 256) for n in slices)
    for optimizer in ("adamw", "adamw-8bit"):
        found = rank_states(spec, Parallelism(dp=3, zero=zero), optimizer=optimizer)
        assert found["step counters"] == 4 * len(slices)


@pytest.mark.parametrize("name", model_names())
def test_every_catalog_tensor_has_a_role(name: str) -> None:
    spec = model(name)
    roles = Counter[str]()
    for tensor, count in spec.all_tensors():
        assert tensor.part in PARTS
        roles[tensor.split] += count * tensor.numel
    assert set(roles) <= set(SPLITS)
    # what every rank copies is small beside what is cut
    assert roles["whole"] < 0.06 * spec.parameters.total


def test_shapes_by_role() -> None:
    p = Parallelism(tp=4)

    def shapes(name: str, rank: int = 1) -> dict[str, tuple[int, ...]]:
        return {t.name: t.shape for t, _ in rank_tensors(SPECS[name], p, tp_rank=rank)}

    llama = shapes("llama")
    assert llama["self_attn.q_proj.weight"] == (16, 64)
    assert llama["self_attn.k_proj.weight"] == (8, 64)
    assert llama["self_attn.o_proj.weight"] == (64, 16)
    assert llama["mlp.down_proj.weight"] == (64, 22)
    assert llama["input_layernorm.weight"] == (64,)
    assert [shapes("llama", r)["lm_head.weight"][0] for r in range(4)] == [33, 33, 33, 32]
    assert shapes("one-kv-head")["self_attn.k_proj.weight"] == (8, 64)  # the one head is on every rank
    gpt2 = shapes("gpt2")
    assert gpt2["attn.c_attn.weight"] == (64, 48)
    assert gpt2["attn.c_proj.weight"] == (16, 64)
    assert gpt2["attn.c_proj.bias"] == (64,)
    assert gpt2["transformer.wpe.weight"] == (32, 64)
    assert shapes("bigcode")["attn.c_attn.weight"] == (16 + 2 * 8, 64)  # its quarter of the queries, the shared head
    deepseek = shapes("deepseek")
    assert deepseek["self_attn.q_b_proj.weight"] == (2 * 12, 24)
    assert deepseek["self_attn.kv_a_proj_with_mqa.weight"] == (20, 64)
    spread = Parallelism(dp=8, ep=4, expert_tp=2)
    experts = {t.name: t.shape for t, _ in rank_tensors(SPECS["gpt-oss"], spread)}
    assert experts["mlp.experts.gate_up_proj"] == (2, 64, 88)
    assert experts["mlp.experts.down_proj"] == (2, 44, 64)
    assert experts["mlp.experts.gate_up_proj_bias"] == (2, 88)
    assert experts["mlp.experts.down_proj_bias"] == (2, 64)


def test_fully_shard_cuts_the_first_dimension_rounded_up() -> None:
    p = Parallelism(dp=4, zero=3)
    rows = [
        next(t.shape[0] for t, _ in shard_tensors(SPECS["llama"], p, r, "weights") if t.module == "lm_head")
        for r in range(4)
    ]
    assert rows == [33, 33, 33, 32]
    small = Parallelism(dp=5, zero=3)
    rows = [math.prod(next(t.shape for t, _ in shard_tensors(SPECS["mixtral"], small, r) if t.experts)) for r in (0, 4)]
    assert rows[0] > rows[1]


def test_stages() -> None:
    spec = SPECS["tied"]
    assert stage_layers(spec, Parallelism(pp=2, vpp=2), 0) == ((0, 1), (4, 5))
    p = Parallelism(pp=4)
    names = [{t.name for t, _ in rank_tensors(spec, p, pp_rank=r)} for r in range(4)]
    assert "model.embed_tokens.weight" in names[0]
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= names[3]
    assert not {"model.embed_tokens.weight", "model.norm.weight"} & names[1]
    with pytest.raises(LLMHWError, match="pp_rank=4 is not one of the 4 stages"):
        rank_tensors(spec, p, pp_rank=4)
    with pytest.raises(LLMHWError, match="pp x vpp=3 does not divide layers=8"):
        stage_layers(spec, Parallelism(pp=3), 0)


def test_places() -> None:
    p = Parallelism(dp=4, tp=2, cp=2, pp=2, ep=4, expert_tp=2, zero=3, replicas=2)
    place = place_of(p, 21)
    assert (place.pp, place.dp, place.cp, place.tp) == (1, 1, 0, 1)
    assert (place.ep, place.expert_tp) == (2, 1)
    assert (place.replica, place.shard) == (0, 2)
    with pytest.raises(LLMHWError, match="rank=32 is not one of the 32 ranks 0 to 31"):
        place_of(p, 32)


def test_bytes() -> None:
    spec = SPECS["llama"]
    p = Parallelism(dp=2, zero=2)
    total = spec.parameters.total
    assert rank_parameter_bytes(spec, p, 1) == 2 * total
    assert rank_states(spec, p, 0, optimizer="sgd", precision="fp32")["gradients"] == 4 * -(-total // 2)
    steps = sum(count for _, count in shard_tensors(spec, p, 0))
    states = rank_states(spec, p, 0, optimizer="adamw", precision="bf16-mixed")
    away = states["weights"] + states["gradients"]
    assert states.total - away == 12 * -(-total // 2) + 4 * steps


def test_an_unknown_role_is_an_error() -> None:
    with pytest.raises(LLMHWError, match=r"part='up_gate' is not known.*gate_up"):
        Builder().linear("mystery", "up_gate", 2, 2)


def test_stages_by_cost_time_the_head_too() -> None:
    """nanotron's last stage holds fewer layers than the others, and takes no longer than they do."""
    spec, cluster = llmhw.model("llama-3-8b"), llmhw.Cluster("h100", 8)
    asked = TrainingJob(model=spec, cluster=cluster, parallelism=Parallelism(pp=8), software="nanotron")
    assert asked.parallelism.by_cost
    sizes = [sum(stage.kinds.values()) for stage in stages_of(asked, every=True)]
    assert sizes == [5, 4, 4, 5, 4, 4, 4, 2]
    found = time_step(asked).stages
    assert found[-1] < max(found)
    with pytest.raises(LLMHWError, match="by_cost=True has no effect"):
        TrainingJob(model=spec, cluster=cluster, parallelism=Parallelism(dp=8, by_cost=True)).check_effects()


@pytest.mark.parametrize("vpp", [1, 2, 4])
def test_layers_of_multi_token_prediction_are_dealt_as_layers(vpp: int) -> None:
    """DeepSeek-V3 on 16 stages, as Megatron-Bridge deals it: four layers a stage, one on the last."""
    spec = llmhw.model("deepseek-v3")
    p = Parallelism(pp=16, vpp=vpp, uneven=True)
    held = [[len(chunk) for chunk in stage_layers(spec, p, rank, mtp=True)] for rank in range(16)]
    assert sum(map(sum, held)) == 61
    assert [sum(stage) for stage in held] == [*[4] * 15, 1] or (vpp > 1 and min(map(min, held)) >= 0)
    plain = [sum(map(len, stage_layers(spec, p, rank))) for rank in range(16)]
    assert sum(held[-1]) <= plain[-1]
