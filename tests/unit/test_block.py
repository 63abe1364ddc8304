"""Operations of a layer on one rank: their FLOPs are those of `llmhw.flops`, cut by the layout."""

from __future__ import annotations

import numpy as np
import pytest

import llmhw
from llmhw.block import State, block, first_block, last_block, pass_bytes
from llmhw.job import Layout
from llmhw.model import ModelSpec


def matrix_flops(spec: ModelSpec, layout: Layout, *, seq_len: int = 2048) -> float:
    """Layers and both ends for one micro-batch on one rank of a single stage."""
    ends = (first_block(spec, layout, seq_len=seq_len), last_block(spec, layout, seq_len=seq_len))
    layers = sum(count * block(spec, layer, layout, seq_len=seq_len).flops for layer, count in spec.layer_kinds)
    return float(layers + sum(end.flops for end in ends))


@pytest.mark.parametrize("name", llmhw.models())
def test_one_device_does_the_flops_of_the_model(name: str) -> None:
    """Indexers, convolutions and the projections of a narrow embedding among them: nothing is left out."""
    spec = llmhw.model(name)
    forward = llmhw.forward_flops(spec, seq_len=2048, causal=True)
    assert matrix_flops(spec, Layout()) == forward.total


@pytest.mark.parametrize(
    "name", ["llama-3-8b", "llama-3-70b", "mixtral-8x7b", "deepseek-v3", "gpt-oss-20b", "gpt3-175b"]
)
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_parallel_ranks_share_the_flops(name: str, tp: int) -> None:
    """With sequence parallelism nothing is computed twice; the vocabulary is padded to a multiple of tp."""
    spec = llmhw.model(name)
    layout = Layout(tp=tp, sequence_parallel=True)
    vocab, width = spec.head_shape
    padding = 2 * 2048 * width * (-(-vocab // tp) - vocab / tp)
    assert matrix_flops(spec, layout) == pytest.approx(matrix_flops(spec, Layout()) / tp + padding, rel=1e-12)


def test_without_sequence_parallelism_every_rank_routes_and_compresses() -> None:
    """The router and the down-projections of latent attention are whole on every rank."""
    dense, experts = llmhw.model("llama-3-8b"), llmhw.model("deepseek-v3")
    one, four = Layout(), Layout(tp=4)
    assert matrix_flops(dense, four) == pytest.approx(matrix_flops(dense, one) / 4)
    assert matrix_flops(experts, four) > 1.05 * matrix_flops(experts, one) / 4


def test_expert_parallel_ranks_share_the_experts() -> None:
    """Each rank has an eighth of the experts, and eight times the tokens for each of them."""
    spec = llmhw.model("mixtral-8x7b")
    apart, together = (
        {m.name: m for m in block(spec, spec.layers[0], p, seq_len=4096).matmuls}
        for p in (Layout(dp=8, ep=8), Layout(dp=8))
    )
    for name in ("expert gate_up_proj", "expert down_proj"):
        assert (apart[name].groups, together[name].groups) == (1, 8)
        assert apart[name].m == 8 * together[name].m == 8 * 4096 * 2 / 8
        assert apart[name].flops == together[name].flops


def test_imbalance_loads_the_busiest_rank() -> None:
    spec = llmhw.model("mixtral-8x7b")
    even, busy = (block(spec, spec.layers[0], Layout(), seq_len=4096, imbalance=x) for x in (1.0, 1.5))
    for before, after in zip(even.matmuls, busy.matmuls, strict=True):
        assert after.flops == before.flops * (1.5 if before.name.startswith("expert") else 1)


def test_context_parallel_ranks_share_tokens_and_pairs() -> None:
    spec = llmhw.model("llama-3-8b")
    assert matrix_flops(spec, Layout(cp=4)) == pytest.approx(matrix_flops(spec, Layout()) / 4)


def test_fused_products_are_fewer_and_the_same() -> None:
    spec = llmhw.model("llama-3-8b")
    fused, apart = (block(spec, spec.layers[0], Layout(), seq_len=4096, fused=fused) for fused in (True, False))
    assert [m.name for m in fused.matmuls] == ["qkv", "o_proj", "mlp gate_up", "mlp down_proj"]
    assert len(apart.matmuls) == 7
    assert fused.flops == apart.flops
    assert fused.kernels < apart.kernels


def test_unfused_attention_moves_its_scores() -> None:
    spec = llmhw.model("gpt2")
    flash, eager = (
        block(spec, spec.layers[0], Layout(micro_batch=2), seq_len=1024, attention=kind) for kind in ("flash", "eager")
    )
    # one read and one write of a 16-bit score by the softmax: two sequences, twelve heads
    assert eager.forward_bytes - flash.forward_bytes == 2 * 12 * 1024 * 1024 * 4


def test_traffic_of_a_llama_layer_by_hand() -> None:
    """16-bit vectors: two norms (1 read, 1 write), two sums (2 reads, 1 write), SwiGLU (2 reads, 1 write), rotary."""
    spec = llmhw.model("llama-3-8b")
    work = block(spec, spec.layers[0], Layout(), seq_len=1024)
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
    ours, theirs = (block(s, s.layers[0], Layout(), seq_len=64) for s in (neo, gpt))
    assert (ours.forward_bytes, ours.backward_bytes) == (theirs.forward_bytes, theirs.backward_bytes)
    assert ours.kernels == theirs.kernels


@pytest.mark.parametrize("name", ["gpt-oss-20b", "llama-4-scout", "mixtral-8x7b"])
def test_a_single_expert_on_a_rank_is_no_other_matrix(name: str) -> None:
    """Whichever way round the stack is stored."""
    spec = llmhw.model(name)
    layer = next(x for x in spec.layers if any(t.component == "experts" for t in x.tensors))
    count = next(t.experts for t in layer.tensors if t.component == "experts")
    shapes = [
        {(m.name, m.n, m.k) for m in block(spec, layer, layout, seq_len=512).matmuls if "expert" in m.name}
        for layout in (Layout(), Layout(dp=count, ep=count))
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["llama-3-8b", "gpt2", "mixtral-8x7b", "deepseek-v3", "qwen3-next-80b-a3b"])
def test_many_layouts_at_once_are_each_by_itself(name: str) -> None:
    spec = llmhw.model(name)
    axes: dict[str, list[int]] = {
        "tp": [1, 2, 4], "cp": [1, 2, 1], "ep": [1, 2, 4], "expert_tp": [1, 1, 2], "micro_batch": [1, 2, 3],
        "sequence_parallel": [False, True, False], "dp": [8, 8, 8],
    }  # fmt: skip
    together = Layout(**{axis: np.array(values) for axis, values in axes.items()})
    alone = [Layout(**dict(zip(axes, values, strict=True))) for values in zip(*axes.values(), strict=True)]
    for layer, _ in spec.layer_kinds:
        many, *one = (block(spec, layer, x, seq_len=256, attention="eager") for x in (together, *alone))
        for what in ("flops", "forward_bytes", "backward_bytes", "kernels"):
            found = np.broadcast_to(getattr(many, what), (3,)).tolist()
            assert found == pytest.approx([getattr(found, what) for found in one], rel=1e-12)
    ends = [last_block(spec, x, seq_len=256) for x in (together, *alone)]
    assert ends[0].flops.tolist() == [end.flops for end in ends[1:]]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("nemotron-3-nano-30b-a3b", 64 * 64 * 256),  # Mamba-2: the lower half of products of 256 tokens with values
        ("qwen3-next-80b-a3b", 32 * 5 * 128 * 64),  # the delta rule: three of keys, two of values, of 64 tokens
        ("mamba-1.4b", 4096 * 16 * 16),  # an exponential for each element of the state
    ],
)
def test_chunked_kernels_do_more_than_the_recurrent_form(name: str, more: int) -> None:
    spec = llmhw.model(name)
    layer = next(layer for layer, _ in spec.layer_kinds if layer.linear_attention)
    work = block(spec, layer, Layout(), seq_len=1024)
    state = next(op for op in work.ops if isinstance(op, State))
    assert state.more == 1024 * more
    bare = block(spec, layer, Layout(), seq_len=1024, training=False)
    # convolution, gate, norm, inputs and results: some ten passes over vectors as wide as the state's inputs
    wide = layer.linear_attention.conv_channels if layer.linear_attention else 0
    assert 4 < (work.forward_bytes - bare.forward_bytes) / (1024 * wide * 2) < 20
