"""Configs in other words than transformers': each is the catalog's model of the same weights, to the last parameter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import llmhw
from llmhw.catalog import read_model
from llmhw.units import LLMHWError
from tests.unit.command import run


def read(folder: Path, data: dict[str, Any] | str, name: str = "params.json") -> llmhw.ModelSpec:
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return llmhw.model(path)


def assert_same(found: llmhw.ModelSpec, name: str, *, window: bool = True) -> None:
    """Whether it is the catalog's model of that name."""
    known = llmhw.model(name)
    assert found.parameters.by_component == known.parameters.by_component
    assert (found.parameters.active, found.tied) == (known.parameters.active, known.tied)
    assert llmhw.forward_flops(found, seq_len=64).total == llmhw.forward_flops(known, seq_len=64).total
    if window:
        assert llmhw.kv_cache(found, seq_len=9000).total == llmhw.kv_cache(known, seq_len=9000).total


# -- params.json ------------------------------------------------------------------------------

# Of Mistral's and Meta's own releases, but for keys that say nothing about tensors.
PARAMS: dict[str, dict[str, Any]] = {
    "mistral-7b": {
        "dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
        "norm_eps": 1e-05, "sliding_window": 4096, "vocab_size": 32000,
    },
    "mistral-7b-v0.3": {
        "dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
        "norm_eps": 1e-05, "vocab_size": 32768, "rope_theta": 1000000.0,
    },
    "mixtral-8x7b": {
        "dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
        "norm_eps": 1e-05, "vocab_size": 32000, "moe": {"num_experts_per_tok": 2, "num_experts": 8},
    },
    "mixtral-8x22b": {
        "dim": 6144, "n_layers": 56, "head_dim": 128, "hidden_dim": 16384, "n_heads": 48, "n_kv_heads": 8,
        "rope_theta": 1000000, "norm_eps": 1e-05, "vocab_size": 32000,
        "moe": {"num_experts_per_tok": 2, "num_experts": 8},
    },
    "mistral-nemo-12b": {
        "dim": 5120, "n_layers": 40, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
        "rope_theta": 1000000.0, "norm_eps": 1e-05, "vocab_size": 131072, "max_seq_len": 128000,
    },
    "codestral-22b": {
        "dim": 6144, "n_layers": 56, "head_dim": 128, "hidden_dim": 16384, "n_heads": 48, "n_kv_heads": 8,
        "rope_theta": 1000000.0, "norm_eps": 1e-05, "vocab_size": 32768,
    },
    "mistral-small-24b": {
        "dim": 5120, "n_layers": 40, "head_dim": 128, "hidden_dim": 32768, "n_heads": 32, "n_kv_heads": 8,
        "rope_theta": 100000000.0, "norm_eps": 1e-05, "vocab_size": 131072, "max_seq_len": 32768,
        "vision_encoder": {"hidden_size": 1024, "num_hidden_layers": 24},
    },
    "llama-7b": {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "vocab_size": 32000},
    "llama-13b": {"dim": 5120, "multiple_of": 256, "n_heads": 40, "n_layers": 40, "vocab_size": 32000},
    "llama-65b": {"dim": 8192, "multiple_of": 256, "n_heads": 64, "n_layers": 80, "vocab_size": 32000},
    "llama-2-70b": {
        "dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8, "n_layers": 80,
        "norm_eps": 1e-05, "vocab_size": 32000,
    },
    "llama-3-8b": {
        "dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 1024,
        "ffn_dim_multiplier": 1.3, "norm_eps": 1e-05, "rope_theta": 500000.0,
    },
    "llama-3-70b": {
        "dim": 8192, "n_layers": 80, "n_heads": 64, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 4096,
        "ffn_dim_multiplier": 1.3, "norm_eps": 1e-05, "rope_theta": 500000.0,
    },
    "llama-3.1-405b": {
        "dim": 16384, "n_layers": 126, "n_heads": 128, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 4096,
        "ffn_dim_multiplier": 1.2, "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": True,
    },
    "llama-3.2-1b": {
        "dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 256,
        "ffn_dim_multiplier": 1.5, "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": True,
    },
    "llama-3.2-3b": {
        "dim": 3072, "n_layers": 28, "n_heads": 24, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 256,
        "ffn_dim_multiplier": 1.0, "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": True,
    },
    # DeepSeek-V3's repository, inference/configs
    "deepseek-v2-lite": {
        "vocab_size": 102400, "dim": 2048, "inter_dim": 10944, "moe_inter_dim": 1408, "n_layers": 27,
        "n_dense_layers": 1, "n_heads": 16, "n_routed_experts": 64, "n_shared_experts": 2, "n_activated_experts": 6,
        "route_scale": 1.0, "q_lora_rank": 0, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "mscale": 0.707,
    },
    "deepseek-v2": {
        "vocab_size": 102400, "dim": 5120, "inter_dim": 12288, "moe_inter_dim": 1536, "n_layers": 60,
        "n_dense_layers": 1, "n_heads": 128, "n_routed_experts": 160, "n_shared_experts": 2,
        "n_activated_experts": 6, "n_expert_groups": 8, "n_limited_groups": 3, "route_scale": 16.0,
        "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    },
    "deepseek-v3": {
        "vocab_size": 129280, "dim": 7168, "inter_dim": 18432, "moe_inter_dim": 2048, "n_layers": 61,
        "n_dense_layers": 3, "n_heads": 128, "n_routed_experts": 256, "n_shared_experts": 1,
        "n_activated_experts": 8, "n_expert_groups": 8, "n_limited_groups": 4, "route_scale": 2.5,
        "score_func": "sigmoid", "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "dtype": "fp8",
    },
    "deepseek-v3.2": {
        "vocab_size": 129280, "dim": 7168, "inter_dim": 18432, "moe_inter_dim": 2048, "n_layers": 61,
        "n_dense_layers": 3, "n_heads": 128, "n_routed_experts": 256, "n_shared_experts": 1,
        "n_activated_experts": 8, "n_expert_groups": 8, "n_limited_groups": 4, "route_scale": 2.5,
        "score_func": "sigmoid", "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "dtype": "fp8", "scale_fmt": "ue8m0", "index_n_heads": 64,
        "index_head_dim": 128, "index_topk": 2048,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMS)
def test_params_are_the_models_of_the_catalog(tmp_path: Path, name: str) -> None:
    assert_same(read(tmp_path, PARAMS[name]), name)


def test_mistral_large_3(tmp_path: Path) -> None:
    """Its model card of 12/2025: a language model of 673 B parameters, 39 B of them active without the embedding."""
    params = {
        "dim": 7168, "n_layers": 61, "head_dim": 128, "hidden_dim": 16384, "n_heads": 128, "n_kv_heads": 128,
        "rope_theta": 10000.0, "norm_eps": 1e-06, "vocab_size": 131072, "tied_embeddings": False,
        "max_position_embeddings": 294912, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "quantization": {"qformat_weight": "fp8_e4m3"},
        "llama_4_scaling": {"original_max_position_embeddings": 8192, "beta": 0.1},
        "moe": {
            "num_experts": 128, "num_experts_per_tok": 4, "first_k_dense_replace": 3, "expert_hidden_dim": 4096,
            "num_shared_experts": 1, "num_expert_groups": 1, "num_expert_groups_per_tok": 1, "routed_scale": 1.0,
            "route_every_n": 1,
        },
        "yarn": {"original_max_position_embeddings": 8192, "factor": 36, "apply_scale": False, "beta": 32, "alpha": 1},
        "vision_encoder": {"hidden_size": 1664},
    }  # fmt: skip
    spec = read(tmp_path, params)
    assert (spec.model_type, spec.quantization, spec.attention_summary) == ("deepseek_v3", "fp8", {"mla": 61})
    assert spec.parameters.total == pytest.approx(673e9, rel=0.005)
    assert spec.parameters.active - spec.parameters.by_component["embedding"] == pytest.approx(39e9, rel=0.005)


def test_a_vision_encoder_is_named_as_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, PARAMS["mistral-small-24b"]).left_out == ("vision",)


def test_fp8_is_in_the_config(tmp_path: Path) -> None:
    params = PARAMS["mistral-7b-v0.3"]
    assert read(tmp_path, params | {"quantization": {"qformat_weight": "fp8_e4m3"}}).quantization == "fp8"
    packed = {"quant_method": "compressed_tensors", "config_groups": {}}
    assert read(tmp_path, params | {"quantization": packed}).quantization == "compressed-tensors"
    assert read(tmp_path, PARAMS["deepseek-v3"]).config["quantization_config"]["weight_block_size"] == [128, 128]


def test_windows_in_a_list_repeat_over_the_layers(tmp_path: Path) -> None:
    params = PARAMS["mistral-7b"] | {"n_layers": 8}
    spec = read(tmp_path, params | {"sliding_window": [4096]})
    assert spec.attention_summary == {"sliding": 8}
    with pytest.raises(LLMHWError, match=r"must be a list of one size and null that n_layers=8 repeats"):
        read(tmp_path, params | {"sliding_window": [1024, 4096]})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "llama-7b",
            {"vocab_size": -1},
            "its vocab_size is -1, which leaves it to the tokenizer; write",
        ),
        (
            "llama-7b",
            {"moe_args": {"num_experts": 16}},
            "has the experts of moe_args, which is not covered",
        ),
        ("llama-7b", {"vision_chunk_size": 448}, "has the vision of vision_chunk_size"),
        ("llama-7b", {"mlp_structure": "2_projection"}, "has the key 'mlp_structure', which is not covered"),
        ("llama-7b", {"n_heads": "32"}, "its key n_heads is '32', no whole number of at least 1"),
        ("llama-7b", {"ffn_dim_multiplier": []}, r"its key ffn_dim_multiplier is \[\], no number above 0"),
        ("mistral-7b", {"dim": None}, "its key dim is missing"),
        ("mistral-7b", {"frog": 1}, "has the key 'frog', which is not covered"),
        ("mistral-7b", {"model_type": "mamba"}, "is of model_type='mamba', which is not covered"),
        ("mistral-7b", {"quantization": {"x": 1}}, "its key quantization is {'x': 1}, which is not covered"),
        ("mistral-7b", {"quantization": "fp8"}, "its key quantization is 'fp8', no object"),
        ("mixtral-8x7b", {"moe": {"num_experts": 8, "frog": 1}}, "moe has the key 'frog'"),
        ("mixtral-8x7b", {"moe": 8}, "its key moe is 8, no object"),
        ("deepseek-v3", {"frog": 1}, "has the key 'frog', which is not covered"),
        ("deepseek-v3", {"kv_lora_rank": None}, "its key kv_lora_rank is missing"),
    ],
)
def test_what_params_do_not_say_is_asked_for(tmp_path: Path, name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(LLMHWError, match=message) as raised:
        read(tmp_path, PARAMS[name] | change)
    assert len(str(raised.value).splitlines()) == 1


def test_a_dim_alone_says_no_network(tmp_path: Path) -> None:
    with pytest.raises(LLMHWError, match="has dim, but neither hidden_dim nor multiple_of"):
        read(tmp_path, {"dim": 64, "n_layers": 2})


# -- litgpt -----------------------------------------------------------------------------------

LITGPT = """\
name: pythia-160m
hf_config:
  org: EleutherAI
  name: pythia-160m
block_size: 2048
n_layer: 12
n_embd: 768
n_head: 12
n_query_groups: 12
head_size: 64
vocab_size: 50254
padded_vocab_size: 50304
intermediate_size: 3072
norm_class_name: LayerNorm
mlp_class_name: GptNeoxMLP
"""


def test_a_config_of_litgpt_is_the_model_that_it_names(tmp_path: Path) -> None:
    assert read(tmp_path, LITGPT, "model_config.yaml") == llmhw.model("pythia-160m")
    assert llmhw.model(tmp_path) == llmhw.model("pythia-160m")
    with pytest.raises(LLMHWError, match="says n_layer=13, but pythia-160m has 12"):
        read(tmp_path, LITGPT.replace("n_layer: 12", "n_layer: 13"), "model_config.yaml")
    with pytest.raises(LLMHWError, match=r"is litgpt's, which does not say whether embeddings are tied, and of 'frog'"):
        read(tmp_path, LITGPT.replace("pythia-160m", "frog"), "model_config.yaml")


# -- Megatron ---------------------------------------------------------------------------------

_LLAMA = (
    "--swiglu --normalization RMSNorm --disable-bias-linear --untie-embeddings-and-output-weights "
    "--use-rotary-position-embeddings --no-masked-softmax-fusion "
)
# As published scripts have them: Megatron-LM's examples, Pai-Megatron-Patch, the papers of GPT-3 and Nemotron-4.
MEGATRON = {
    "llama-2-7b": _LLAMA + "--num-layers 32 --hidden-size 4096 --ffn-hidden-size 11008 --num-attention-heads 32 "
    "--max-position-embeddings 4096 --vocab-size 32000 --make-vocab-size-divisible-by 1",
    "llama-3-8b": _LLAMA + "--num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 "
    "--group-query-attention --num-query-groups 8 --seq-length 8192 --padded-vocab-size=128256",
    "mixtral-8x7b": _LLAMA + "--num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 "
    "--group-query-attention --num-query-groups 8 --num-experts 8 --moe-router-topk 2 --vocab-size 32000",
    "qwen2.5-7b": _LLAMA + "--num-layers 28 --hidden-size 3584 --ffn-hidden-size 18944 --num-attention-heads 28 "
    "--group-query-attention --num-query-groups 4 --add-qkv-bias --padded-vocab-size 152064",
    "qwen3-8b": _LLAMA + "--num-layers 36 --hidden-size 4096 --ffn-hidden-size 12288 --num-attention-heads 32 "
    "--group-query-attention --num-query-groups 8 --kv-channels 128 --qk-layernorm --padded-vocab-size 151936",
    "qwen3-30b-a3b": _LLAMA + "--num-layers 48 --hidden-size 2048 --ffn-hidden-size 6144 --num-attention-heads 32 "
    "--group-query-attention --num-query-groups 4 --kv-channels 128 --qk-layernorm --padded-vocab-size 151936 "
    "--num-experts 128 --moe-router-topk 8 --moe-ffn-hidden-size 768",
    "deepseek-v3": _LLAMA + "--num-layers 61 --hidden-size 7168 --ffn-hidden-size 18432 --num-attention-heads 128 "
    "--multi-latent-attention --q-lora-rank 1536 --kv-lora-rank 512 --qk-head-dim 128 --qk-pos-emb-head-dim 64 "
    "--v-head-dim 128 --qk-layernorm --num-experts 256 --moe-layer-freq ([0]*3+[1]*58) --moe-ffn-hidden-size 2048 "
    "--moe-shared-expert-intermediate-size 2048 --moe-router-topk 8 --moe-router-enable-expert-bias "
    "--mtp-num-layers 1 --padded-vocab-size 129280",
    "gpt3-175b": "--num-layers 96 --hidden-size 12288 --num-attention-heads 96 --seq-length 2048 "
    "--max-position-embeddings 2048 --vocab-size 50257 --tensor-model-parallel-size 8",
    "pythia-2.8b": "--num-layers 32 --hidden-size 2560 --num-attention-heads 32 --position-embedding-type rope "
    "--rotary-percent 0.25 --untie-embeddings-and-output-weights --padded-vocab-size 50304",
}


@pytest.mark.parametrize("name", MEGATRON)
def test_arguments_are_the_models_of_the_catalog(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, f"torchrun --nproc-per-node 8 pretrain_gpt.py {MEGATRON[name]} --bf16 --lr 3e-4\n", "run.sh")
    assert_same(found, name)
    assert found.parameters.mtp == llmhw.model(name).parameters.mtp


def test_nemotron_4_340b(tmp_path: Path) -> None:
    """Table 1 of its report (arXiv:2406.11704): 331.6 B parameters beside 9.4 B of embeddings, in and out."""
    spec = read(
        tmp_path,
        "--num-layers 96 --hidden-size 18432 --ffn-hidden-size 73728 --num-attention-heads 96 --group-query-attention "
        "--num-query-groups 8 --squared-relu --normalization LayerNorm1P --disable-bias-linear --rotary-percent 0.5 "
        "--position-embedding-type rope --untie-embeddings-and-output-weights --padded-vocab-size 256000",
        "run.sh",
    )
    counts = spec.parameters.by_component
    assert counts["embedding"] + counts["head"] == pytest.approx(9.4e9, rel=0.005)
    assert spec.parameters.total - counts["embedding"] - counts["head"] == pytest.approx(331.6e9, rel=0.0005)


SCRIPT = """\
#!/bin/bash
# --num-layers 99 is a remark
export NUM_LAYERS=32
HIDDEN=4096; FFN="14336"
HEADS=${HEADS:-32}
MODEL_ARGS=(
    --num-layers $NUM_LAYERS
    --hidden-size ${HIDDEN} \\
    --ffn-hidden-size "$FFN"
    --num-attention-heads ${HEADS:-32}
    --group-query-attention --num-query-groups 8
    --swiglu --normalization RMSNorm --disable-bias-linear
    --untie-embeddings-and-output-weights --position-embedding-type rope
    --padded-vocab-size 128256
)
torchrun pretrain_gpt.py ${MODEL_ARGS[@]} --save $CHECKPOINTS
"""


def test_variables_of_a_script_are_put_in(tmp_path: Path) -> None:
    assert_same(read(tmp_path, SCRIPT, "run.sh"), "llama-3-8b")
    with pytest.raises(LLMHWError, match=r"--num-layers is the variable 'NUM_LAYERS', which is set to 32 and to 64"):
        read(tmp_path, SCRIPT.replace("HIDDEN=4096", "NUM_LAYERS=64\nHIDDEN=4096"), "run.sh")
    with pytest.raises(LLMHWError, match=r"--hidden-size is the variable 'HIDDEN', which is not set there"):
        read(tmp_path, SCRIPT.replace("HIDDEN=4096;", ""), "run.sh")


NEMO = """\
trainer:
  num_nodes: 4
model:
  mcore_gpt: true
  num_layers: 32
  hidden_size: 4096
  ffn_hidden_size: 14336
  num_attention_heads: 32
  num_query_groups: 8
  encoder_seq_length: 8192
  max_position_embeddings: 8192
  normalization: rmsnorm
  activation: fast-swiglu
  bias: false
  share_embeddings_and_output_weights: false
  position_embedding_type: rope
  rotary_percentage: 1.0
  make_vocab_size_divisible_by: 128
  vocab_size: 128256
"""
BRIDGE = {
    "num_layers": 32, "hidden_size": 4096, "ffn_hidden_size": 14336, "num_attention_heads": 32, "num_query_groups": 8,
    "kv_channels": 128, "normalization": "RMSNorm", "gated_linear_unit": True, "activation_func": "silu",
    "add_bias_linear": False, "add_qkv_bias": False, "share_embeddings_and_output_weights": False,
    "position_embedding_type": "rope", "seq_length": 8192, "vocab_size": 128256, "num_moe_experts": None,
}  # fmt: skip


def test_the_words_of_nemo_and_megatron_bridge(tmp_path: Path) -> None:
    assert_same(read(tmp_path, NEMO, "model.yaml"), "llama-3-8b")
    assert_same(read(tmp_path, BRIDGE, "model.json"), "llama-3-8b")
    flags = "MODEL_ARGS:\n" + "".join(f"  --{k.replace('_', '-')}: {json.dumps(v)}\n" for k, v in BRIDGE.items())
    assert_same(read(tmp_path, flags, "args.yml"), "llama-3-8b")


def test_the_vocabulary_is_padded_as_megatron_does(tmp_path: Path) -> None:
    base = "--num-layers 2 --hidden-size 64 --num-attention-heads 4 --max-position-embeddings 64 --vocab-size 50257"
    assert read(tmp_path, base, "a.sh").vocab_size == 50304
    assert read(tmp_path, f"{base} --tensor-model-parallel-size 8", "a.sh").vocab_size == 51200
    assert read(tmp_path, f"{base} --make-vocab-size-divisible-by 1", "a.sh").vocab_size == 50257
    null = base.replace("50257", "131072") + " --tokenizer-type NullTokenizer"
    assert read(tmp_path, null, "a.sh").vocab_size == 131200


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--num-layers 2 --hidden-size 64 --num-attention-heads 4 --num-query-groups 2 --vocab-size 9",
            "--num-query-groups counts only with --group-query-attention; add it, or leave it out",
        ),
        ("--hidden-size 64", "does not say --num-attention-heads, which is needed; add it"),
        (
            "--num-layers 2 --hidden-size 64 --num-attention-heads 4",
            "leaves the vocabulary to its tokenizer; add --padded-vocab-size, or --vocab-size",
        ),
        (
            "--num-layers 2 --hidden-size 64 --num-attention-heads 7 --vocab-size 100",
            "--num-attention-heads 7 does not divide --hidden-size 64; add --kv-channels",
        ),
        (
            "--num-layers two --hidden-size 64 --num-attention-heads 4 --vocab-size 9",
            "--num-layers 'two' must be a whole",
        ),
        (
            _LLAMA + "--hidden-size 64 --num-attention-heads 4 --vocab-size 9",
            "does not say --num-layers, which is needed",
        ),
        (
            "--num-layers 2 --hidden-size 64 --num-attention-heads 4 --vocab-size 9 --position-embedding-type relative",
            "--position-embedding-type 'relative' is not covered",
        ),
        (
            "--num-layers 2 --hidden-size 64 --num-attention-heads 4 --vocab-size 9 --normalization RMSNorm",
            "--normalization 'RMSNorm' with gelu and learned positions is no family that is covered",
        ),
        (
            "--num-layers 2 --hidden-size 64 --num-attention-heads 4 --vocab-size 9 --hybrid-override-pattern M*",
            "--hybrid-override-pattern makes a model that is not covered in this form",
        ),
        (
            _LLAMA + "--num-layers 2 --hidden-size 64 --num-attention-heads 4 --vocab-size 9 --num-experts 4 "
            "--moe-shared-expert-intermediate-size 64",
            "shared experts are covered with --multi-latent-attention, or with --moe-shared-expert-gate",
        ),
        (
            _LLAMA + "--num-layers 2 --hidden-size 64 --num-attention-heads 4 --vocab-size 9 --num-experts 4 "
            "--moe-layer-freq frog",
            "--moe-layer-freq 'frog' must be a whole number, or a list of 0 and 1",
        ),
    ],
)
def test_what_is_unclear_is_asked_for_by_its_argument(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(LLMHWError) as raised:
        read(tmp_path, line, "run.sh")
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_the_command_takes_a_script(tmp_path: Path) -> None:
    path = tmp_path / "run.sh"
    path.write_text(SCRIPT, encoding="utf-8")
    done = run("memory", str(path), "--gpu", "h100", "--gpus", "8", "--zero", "3")
    assert done.returncode == 0, done.stderr
    assert read_model("llama-3-8b")[1]["num_hidden_layers"] == 32
