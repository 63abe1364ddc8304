"""Operations of a layer on one rank: their FLOPs are those of `llmhw.flops`, cut by the layout."""

from __future__ import annotations

import pytest
from llmhw.operations import head_work, layer_work, pass_bytes

import llmhw
from llmhw.job import Parallelism
from llmhw.model import ModelSpec


def matrix_flops(spec: ModelSpec, layout: Parallelism, *, seq_len: int = 2048, micro_batch: int = 1) -> float:
    """Layers and head of one micro-batch on one rank of a single stage."""
    layers = sum(
        count * layer_work(spec, layer, layout, micro_batch=micro_batch, seq_len=seq_len).flops
        for layer, count in spec.layer_kinds
    )
    return layers + head_work(spec, layout, micro_batch=micro_batch, seq_len=seq_len).flops


# What no step is charged for: the short convolutions before linear attention, the indexer of sparse attention, and the
# projections that OPT-350M has between its narrow embedding and its layers. At most 1.3 % of a forward pass.
NOT_TIMED = ("convolution", "sparse-attention indexer", "model.decoder.project_in", "model.decoder.project_out")


@pytest.mark.parametrize("name", llmhw.models())
def test_one_device_does_the_flops_of_the_model(name: str) -> None:
    spec = llmhw.model(name)
    forward = llmhw.forward_flops(spec, seq_len=2048, causal=True)
    left_out = sum(t.value for part in forward for t in part.terms if t.label.startswith(NOT_TIMED))
    assert matrix_flops(spec, Parallelism()) == forward.total - left_out
    assert left_out / forward.total < 0.015
    if name.startswith(("llama", "mixtral", "deepseek-v3-", "gpt2")):
        assert left_out == 0


def test_what_is_left_out_of_linear_attention_is_its_convolution() -> None:
    spec = llmhw.model("qwen3-next-80b-a3b")
    forward = llmhw.forward_flops(spec, seq_len=2048, causal=True)
    assert 0 < 1 - matrix_flops(spec, Parallelism()) / forward.total < 0.0005


@pytest.mark.parametrize(
    "name", ["llama-3-8b", "llama-3-70b", "mixtral-8x7b", "deepseek-v3", "gpt-oss-20b", "gpt3-175b"]
)
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_parallel_ranks_share_the_flops(name: str, tp: int) -> None:
    """With sequence parallelism nothing is computed twice; the vocabulary is padded to a multiple of tp."""
    spec = llmhw.model(name)
    layout = Parallelism(tp=tp, sequence_parallel=True)
    vocab, width = spec.head_shape
    padding = 2 * 2048 * width * (-(-vocab // tp) - vocab / tp)
    assert matrix_flops(spec, layout) == pytest.approx(matrix_flops(spec, Parallelism()) / tp + padding, rel=1e-12)


def test_without_sequence_parallelism_every_rank_routes_and_compresses() -> None:
    """The router and the down-projections of latent attention are whole on every rank."""
    dense, experts = llmhw.model("llama-3-8b"), llmhw.model("deepseek-v3")
    one, four = Parallelism(), Parallelism(tp=4)
    assert matrix_flops(dense, four) == pytest.approx(matrix_flops(dense, one) / 4)
    assert matrix_flops(experts, four) > 1.05 * matrix_flops(experts, one) / 4


def test_expert_parallel_ranks_share_the_experts() -> None:
    """Each rank has an eighth of the experts, and eight times the tokens for each of them."""
    spec = llmhw.model("mixtral-8x7b")
    apart, together = (
        {m.name: m for m in layer_work(spec, spec.layers[0], p, micro_batch=1, seq_len=4096).matmuls}
        for p in (Parallelism(dp=8, ep=8), Parallelism(dp=8))
    )
    for name in ("expert gate_up_proj", "expert down_proj"):
        assert (apart[name].groups, together[name].groups) == (1, 8)
        assert apart[name].m == 8 * together[name].m == 8 * 4096 * 2 / 8
        assert apart[name].flops == together[name].flops


def test_imbalance_loads_the_busiest_rank() -> None:
    spec = llmhw.model("mixtral-8x7b")
    even, busy = (
        layer_work(spec, spec.layers[0], Parallelism(), micro_batch=1, seq_len=4096, imbalance=x) for x in (1.0, 1.5)
    )
    for before, after in zip(even.matmuls, busy.matmuls, strict=True):
        assert after.flops == before.flops * (1.5 if before.name.startswith("expert") else 1)


def test_context_parallel_ranks_share_tokens_and_pairs() -> None:
    spec = llmhw.model("llama-3-8b")
    assert matrix_flops(spec, Parallelism(cp=4)) == pytest.approx(matrix_flops(spec, Parallelism()) / 4)


def test_fused_products_are_fewer_and_the_same() -> None:
    spec = llmhw.model("llama-3-8b")
    fused, apart = (
        layer_work(spec, spec.layers[0], Parallelism(), micro_batch=1, seq_len=4096, fused=fused)
        for fused in (True, False)
    )
    assert [m.name for m in fused.matmuls] == ["qkv", "o_proj", "mlp gate_up", "mlp down_proj"]
    assert len(apart.matmuls) == 7
    assert fused.flops == apart.flops
    assert fused.kernels < apart.kernels


def test_unfused_attention_moves_its_scores() -> None:
    spec = llmhw.model("gpt2")
    flash, eager = (
        layer_work(spec, spec.layers[0], Parallelism(), micro_batch=2, seq_len=1024, attention=kind)
        for kind in ("flash", "eager")
    )
    # one read and one write of a 16-bit score by the softmax: two sequences, twelve heads
    assert eager.forward_bytes - flash.forward_bytes == 2 * 12 * 1024 * 1024 * 4


def test_traffic_of_a_llama_layer_by_hand() -> None:
    """16-bit vectors: two norms (1 read, 1 write), two sums (2 reads, 1 write), SwiGLU (2 reads, 1 write), rotary."""
    spec = llmhw.model("llama-3-8b")
    work = layer_work(spec, spec.layers[0], Parallelism(), micro_batch=1, seq_len=1024)
    per_token = 2 * 2 * 4096 + 2 * 3 * 4096 + 3 * 14336 + 2 * (32 + 8) * 128
    assert work.forward_bytes == 1024 * per_token * 2
    assert work.forward_bytes == pass_bytes(tokens=1024, width=per_token, passes=1)


def test_learned_positions_turn_nothing() -> None:
    """GPT-Neo is GPT-2 with windows in every second layer: a layer without one does the same."""
    sizes = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 96, "max_position_embeddings": 64}
    neo = ModelSpec.from_config(
        {**sizes, "model_type": "gpt_neo", "attention_types": [[["global"], 2]], "intermediate_size": 256}
    )
    gpt = ModelSpec.from_config(
        {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 96, "n_positions": 64}
    )
    ours, theirs = (layer_work(s, s.layers[0], Parallelism(), micro_batch=1, seq_len=64) for s in (neo, gpt))
    assert (ours.forward_bytes, ours.backward_bytes) == (theirs.forward_bytes, theirs.backward_bytes)
    assert ours.kernels == theirs.kernels


@pytest.mark.parametrize("name", ["gpt-oss-20b", "llama-4-scout", "mixtral-8x7b"])
def test_a_single_expert_on_a_rank_is_no_other_matrix(name: str) -> None:
    """Whichever way round the stack is stored."""
    spec = llmhw.model(name)
    layer = next(x for x in spec.layers if any(t.component == "experts" for t in x.tensors))
    count = next(t.experts for t in layer.tensors if t.component == "experts")
    shapes = [
        {
            (m.name, m.n, m.k)
            for m in layer_work(spec, layer, layout, micro_batch=1, seq_len=512).matmuls
            if "expert" in m.name
        }
        for layout in (Parallelism(), Parallelism(dp=count, ep=count))
    ]
    assert shapes[0] == shapes[1]
