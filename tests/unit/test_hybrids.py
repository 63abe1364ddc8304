"""Layers with a state, alone and beside attention: what published checkpoints hold, and what everyone counts."""

from __future__ import annotations

import math
from typing import Any

import pytest

import llmhw
from llmhw import LLMHWError
from llmhw.activations import activations, layer_activations
from llmhw.flops import forward_flops
from llmhw.hardware import Cluster
from llmhw.job import Parallelism, ServingJob, TrainingJob
from llmhw.memory import kv_cache, kv_cache_bytes_per_token
from llmhw.model import Layer, ModelSpec

KIMI_K3: dict[str, Any] = {
    "model_type": "kimi_k3",
    "text_config": {
        "model_type": "kimi_linear", "attn_res_block_size": 12, "first_k_dense_replace": 1, "hidden_size": 7168,
        "intermediate_size": 33792, "kv_lora_rank": 512, "latent_moe_use_norm": True, "mla_use_output_gate": True,
        "linear_attn_config": {
            "full_attn_layers": [*range(4, 93, 4), 93], "head_dim": 128, "num_heads": 96, "short_conv_kernel_size": 4,
            "kda_layers": [i for i in range(1, 93) if i % 4], "use_full_rank_gate": True,
        },
        "moe_intermediate_size": 3072, "num_attention_heads": 96, "num_experts": 896, "num_experts_per_token": 16,
        "num_hidden_layers": 93, "num_key_value_heads": 96, "num_shared_experts": 2, "q_lora_rank": 1536,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "routed_expert_hidden_size": 3584, "v_head_dim": 128,
        "vocab_size": 163840, "max_position_embeddings": 1048576,
    },
}  # fmt: skip

FALCON_H1: dict[str, Any] = {  # Falcon-H1-0.5B
    "model_type": "falcon_h1", "hidden_size": 1024, "num_hidden_layers": 36, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 2048, "mamba_d_ssm": 1536, "mamba_n_heads": 24,
    "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_d_conv": 4, "vocab_size": 32784,
    "tie_word_embeddings": False, "max_position_embeddings": 16384,
}  # fmt: skip

ZAMBA2: dict[str, Any] = {
    "model_type": "zamba2", "hidden_size": 2560, "num_hidden_layers": 54, "num_mem_blocks": 1, "vocab_size": 32000,
    "n_mamba_heads": 80, "adapter_rank": 128, "num_attention_heads": 32,
}  # fmt: skip


def weights_of(layer: Layer) -> dict[str, int]:
    return {t.name: t.numel for t in layer.tensors}


# -- published checkpoints --------------------------------------------------------------------


def test_kimi_k3_is_as_large_as_its_index_says() -> None:
    """A KDA layer by the bytes of its shard, in bf16 but for four tensors and the router's bias, and an expert's."""
    spec = ModelSpec.from_config(KIMI_K3)
    held = weights_of(spec.layers[1])
    in_fp32 = ("conv1d.weight", "A_log", "dt_bias", "o_norm.weight")
    beside = {name: n * (4 if name.endswith(in_fp32) else 2) for name, n in held.items() if ".experts." not in name}
    assert sum(beside.values()) + 896 * 4 == 1_267_744_256
    assert sum(n for name, n in held.items() if ".experts." in name) == 896 * 33_030_144
    assert spec.attention_summary == {"kda": 69, "mla": 24}
    assert 2.75e12 < spec.parameters.total < 2.85e12  # stated: 2.8 T


def test_llama_nemotron_is_as_large_as_its_index_says() -> None:
    """Super 49B v1: 99,734,290,432 bytes in bf16. Its blocks, counted; their order makes no difference."""
    whole = {"attention": {"n_heads_in_group": 8}, "ffn": {"ffn_mult": 5.25}}
    counts = {1.3125: 10, 1.0: 8, 2.625: 6, 0.5: 6, 3.28125: 1}
    narrow = [{"attention": {"no_op": True}, "ffn": {"ffn_mult": m}} for m, n in counts.items() for _ in range(n)]
    config = {"model_type": "nemotron-nas", "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64}
    spec = ModelSpec.from_config({**config, "vocab_size": 128256, "block_configs": [whole] * 49 + narrow})
    assert 2 * spec.parameters.total == 99_734_290_432
    assert spec.attention_summary == {"full": 49, "none": 31}
    assert kv_cache_bytes_per_token(spec) == 49 * 2 * 8 * 128 * 2
    for bad, words in (
        ({"attention": {"sparsify": [1]}, "ffn": {}}, "block_configs.attention.sparsify"),
        ({"attention": {}}, "each entry must have an attention and an ffn"),
        ({"attention": {"n_heads_in_group": 7}, "ffn": {"ffn_mult": 1.0}}, "n_heads_in_group=7 does not divide"),
        ({"attention": {"no_op": 1}, "ffn": {"ffn_mult": 1.0}}, "no_op=1 must be true or false"),
    ):
        with pytest.raises(LLMHWError, match=words):
            ModelSpec.from_config({**config, "vocab_size": 128256, "block_configs": [bad] * 80})


def test_multi_token_prediction() -> None:
    """Qwen3.6-35B-A3B's checkpoint has 19 tensors of it; Nemotron 3's module is two blocks, three norms, a matrix."""
    qwen = llmhw.model("qwen3.5-35b-a3b")
    assert len(qwen.mtp_tensors) == 19
    assert qwen.parameters.mtp > 0
    config = {**llmhw.model("nemotron-3-super-120b-a12b").config}
    module = {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E"}
    super_120b = ModelSpec.from_config({**config, **module})
    attends = next(layer for layer in super_120b.layers if layer.attention)
    routes = next(layer for layer in super_120b.layers if any(t.component == "experts" for t in layer.tensors))
    expected = attends.params + routes.params + (3 + 2 * 4096) * 4096
    assert super_120b.parameters.mtp == expected
    listed = {"num_nextn_predict_layers": 2, "mtp_layers_block_type": ["attention", "moe"]}
    assert ModelSpec.from_config({**config, **listed}).parameters.mtp == 2 * expected


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (
            # LFM2-1.2B as published: older spellings, and a feed-forward size before its adjustment
            {
                "model_type": "lfm2", "block_ff_dim": 12288, "block_auto_adjust_ff_dim": True, "conv_L_cache": 3,
                "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256, "full_attn_idxs": [2, 5, 8, 10, 12, 14],
                "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
                "tie_embedding": True, "vocab_size": 65536,
            },
            1_170_340_608,
        ),
        (FALCON_H1, 521_411_104),
        (
            # mamba-130m-hf
            {"model_type": "mamba", "hidden_size": 768, "num_hidden_layers": 24, "vocab_size": 50280},
            129_135_360,
        ),
        (
            # RWKV-7 2.9B, by the formula and the sizes of Peng et al. 2025 (arXiv 2503.14456), appendix
            {
                "model_type": "rwkv7", "hidden_size": 2560, "num_hidden_layers": 32, "intermediate_size": 10240,
                "head_dim": 64, "decay_low_rank_dim": 96, "a_low_rank_dim": 96, "v_low_rank_dim": 64,
                "gate_low_rank_dim": 320, "vocab_size": 65536,
            },
            2 * 2560 * 65536 + 4 * 2560 + 32 * 2560 * (12 * 2560 + 2 * (96 + 96 + 64 + 320) + 19) - 2560 * (2 * 64 + 1),
        ),
    ],
    ids=["lfm2-1.2b", "falcon-h1-0.5b", "mamba-130m", "rwkv7-2.9b"],
)  # fmt: skip
def test_published_totals(config: dict[str, Any], total: int) -> None:
    assert ModelSpec.from_config(config).parameters.total == total


def test_ring_linear() -> None:
    """Ring-mini-linear-2.0: 16.4 B parameters, 1.6 B of them active, 957 M without embedding and head, as stated."""
    spec = ModelSpec.from_config(
        {
            "model_type": "bailing_moe_linear", "hidden_size": 2048, "intermediate_size": 5120, "num_hidden_layers": 20,
            "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 157184, "head_dim": 128,
        }
    )  # fmt: skip
    assert round(spec.parameters.total / 1e9, 1) == 16.4
    assert round((spec.parameters.active - 2 * 157184 * 2048) / 1e6) == 957
    assert spec.attention_summary == {"lightning": 16, "full": 4}


# -- counted everywhere -----------------------------------------------------------------------


def test_attention_and_a_state_in_one_layer() -> None:
    spec = ModelSpec.from_config(FALCON_H1)
    assert spec.attention_summary == {"full + mamba-2": 36}
    cache = {part.name: part.value for part in kv_cache(spec, seq_len=1000)}
    assert cache["full"] == 36 * 1000 * 2 * 2 * 64 * 2
    assert cache["state"] == 36 * (24 * 128 * 64 * 4 + (1536 + 2 * 128) * 4 * 2)
    labels = {term.label for part in forward_flops(spec, seq_len=10) for term in part.terms}
    assert {"full attention", "mamba-2", "convolution"} <= labels
    parts = {part.name for part in activations(spec, seq_len=64, kernels="megatron")}
    assert {"attention", "qkv", "state"} <= parts


def test_what_a_state_keeps_for_the_backward_pass() -> None:
    """Mamba-2: the result of its one projection and what comes out, two bytes each; the delta rule more."""
    config = {"model_type": "mamba2", "hidden_size": 256, "num_heads": 8, "head_dim": 64, "state_size": 16}
    spec = ModelSpec.from_config({**config, "n_groups": 2, "num_hidden_layers": 3, "vocab_size": 100})
    kept = {part.name: part.value for part in activations(spec, seq_len=32, kernels="megatron")}
    channels, inner = 512 + 2 * 2 * 16, 512
    assert kept["state"] == 3 * 32 * 2 * ((inner + channels + 8) + inner + 256)
    assert kept["output projection"] == 3 * 32 * 2 * inner
    # 32 value heads on 16 key heads of 128: queries and keys are repeated; products of 64 tokens, decays in fp32
    spec = llmhw.model("qwen3-next-80b-a3b")
    kept = {part.name: part.value for part in layer_activations(spec, 0, seq_len=64, kernels="megatron")}
    elements = (12288 + 64) + 8192 + 32 * 64 + 2 * 32 + 32 + 2 * 32 * 128 + 4096 + 2048
    assert kept["state"] == 64 * 2 * elements


def test_a_shared_block_is_held_once_and_computed_each_time() -> None:
    spec = ModelSpec.from_config(ZAMBA2)
    hybrids = [layer for layer in spec.layers if layer.attention]
    assert len(hybrids) == 9
    assert sum(bool(layer.borrowed) for layer in hybrids) == 8
    first, later = hybrids[0], hybrids[1]
    adapters = [t for t in first.tensors if "adapter" in t.name]
    assert len(adapters) == 18
    assert sum(t.used for t in adapters) == 2
    assert sum(t.active for t in first.used if t.matmul) == sum(t.active for t in later.used if t.matmul)
    assert (
        spec.parameters.active
        == spec.parameters.total
        == sum(layer.params for layer in spec.layers) + sum(t.numel for t in spec.tensors)
    )
    with pytest.raises(LLMHWError, match="pp=2 would part layers of zamba2 from the block that they share; use pp=1"):
        ServingJob(model=spec, cluster=Cluster("h100", 2), pp=2)
    with pytest.raises(LLMHWError, match="pp=2 would part layers"):
        TrainingJob(model=spec, cluster=Cluster("h100", 2), parallelism=Parallelism(pp=2), seq_len=64)


def test_sums_over_tensor_parallel_ranks() -> None:
    """One for each of Nemotron's blocks, which have one mixer; two for Llama's."""
    assert {layer.sums for layer in llmhw.model("nemotron-3-nano-30b-a3b").layers} == {1}
    assert {layer.sums for layer in llmhw.model("llama-3-8b").layers} == {2}


def test_state_of_one_rank() -> None:
    spec = ModelSpec.from_config(FALCON_H1)
    whole, half = (sum(p.value for p in kv_cache(spec, seq_len=1, tp=tp) if p.name == "state") for tp in (1, 2))
    assert math.isclose(whole, 2 * half)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "mamba2", "num_heads": 7}, "num_heads=7 times head_dim=64 must be expand=2"),
        ({"model_type": "jamba", "attn_layer_offset": 8}, "attn_layer_offset=8 must be less than attn_layer_period=8"),
        ({"model_type": "bamba", "mamba_n_heads": 7}, "mamba_n_heads=7 does not divide the 512 channels of Mamba"),
        ({"model_type": "lfm2", "layer_types": ["conv", "rnn"]}, "layer_types has 'rnn'; lfm2 knows conv, full_"),
        ({"model_type": "recurrent_gemma", "block_types": []}, "block_types=.. must be made of 'recurrent' and"),
        ({"model_type": "bailing_hybrid", "q_lora_rank": 64}, "q_lora_rank=64 is of Ring 2.5"),
        ({"model_type": "minimax", "attn_type_list": [0, 2]}, "attn_type_list must be made of 0, lightning"),
        ({"model_type": "kimi_linear", "linear_attn_config": {"full_attn_layers": [2], "kda_layers": [2]}}, "1 to 2"),
        ({"model_type": "hrm_text"}, "'hrm_text' is not supported: it runs two stacks of layers in turn"),
        ({"model_type": "mamba", "time_step_rank": "full"}, "time_step_rank='full' must be a whole number"),
    ],
)
def test_refusals(change: dict[str, Any], words: str) -> None:
    config = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
    with pytest.raises(LLMHWError, match=words):
        ModelSpec.from_config({**config, "head_dim": 64, **change})
