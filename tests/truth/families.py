"""Small random configs of every supported family, and transformers' own models built from them."""

from __future__ import annotations

import json
import re
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from llmhw.model import ModelSpec

BOOLS = st.booleans()


def _sizes(draw: st.DrawFn, *, multiple: int = 1) -> dict[str, Any]:
    heads = draw(st.sampled_from([2, 4, 6, 8]))
    head_dim = draw(st.sampled_from([8, 16]))
    return {
        "hidden_size": heads * head_dim * draw(st.sampled_from([1, multiple])),
        "num_attention_heads": heads,
        "num_hidden_layers": draw(st.integers(1, 5)),
        "vocab_size": draw(st.integers(17, 300)),
        "intermediate_size": 8 * draw(st.integers(1, 12)),
        "num_key_value_heads": draw(st.sampled_from([k for k in (1, 2, 3, 4, 6, 8) if heads % k == 0])),
        "tie_word_embeddings": draw(BOOLS),
        # token ids must lie inside the small vocabulary
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _head_dim(draw: st.DrawFn) -> dict[str, Any]:
    """A head size that is not hidden / heads."""
    return {"head_dim": draw(st.sampled_from([4, 8, 32]))}


def _maybe(draw: st.DrawFn, **options: Any) -> dict[str, Any]:
    """Each option left to its default, or drawn."""
    return {key: draw(strategy) for key, strategy in options.items() if draw(BOOLS)}


def _experts(draw: st.DrawFn, count_key: str, inner_key: str = "moe_intermediate_size") -> dict[str, Any]:
    count = draw(st.sampled_from([2, 4, 8]))
    return {
        count_key: count,
        "num_experts_per_tok": draw(st.integers(1, count)),
        inner_key: 8 * draw(st.integers(1, 6)),
    }


def _old(draw: st.DrawFn) -> dict[str, Any]:
    sizes = _sizes(draw)
    return {
        "n_embd": sizes["hidden_size"],
        "n_head": sizes["num_attention_heads"],
        "n_layer": sizes["num_hidden_layers"],
        "n_positions": draw(st.integers(16, 64)),
        "vocab_size": sizes["vocab_size"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        **_maybe(draw, n_inner=st.integers(8, 90)),
    }


def _window(draw: st.DrawFn, **more: Any) -> dict[str, Any]:
    return _maybe(draw, sliding_window=st.integers(2, 40), **more)


def _linear(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(st.sampled_from([1, 2, 4]))
    return {
        "linear_num_key_heads": keys,
        "linear_num_value_heads": keys * draw(st.sampled_from([1, 2])),
        "linear_key_head_dim": draw(st.sampled_from([4, 8])),
        "linear_value_head_dim": draw(st.sampled_from([4, 8])),
        "linear_conv_kernel_dim": draw(st.integers(2, 4)),
        **_head_dim(draw),
    }


def _mla(draw: st.DrawFn, model_type: str) -> dict[str, Any]:
    sizes = _sizes(draw, multiple=2)
    sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    config = {
        **sizes,
        **_experts(draw, "n_routed_experts"),
        "kv_lora_rank": draw(st.sampled_from([8, 24])),
        "qk_rope_head_dim": draw(st.sampled_from([4, 8])),
        "qk_nope_head_dim": draw(st.sampled_from([4, 12])),
        "v_head_dim": draw(st.sampled_from([4, 16])),
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": draw(st.integers(0, 3)),
        "n_shared_experts": draw(st.integers(1, 3)),
        "attention_bias": draw(BOOLS),
    }
    config["q_lora_rank"] = draw(
        st.sampled_from([8, 16] if model_type in ("deepseek_v32", "glm_moe_dsa") else [None, 8, 16])
    )
    if model_type == "deepseek_v2":
        config["tie_word_embeddings"] = False
    if model_type in ("deepseek_v32", "glm_moe_dsa"):
        config |= {
            "index_head_dim": 16,
            "index_n_heads": draw(st.integers(1, 4)),
            "index_topk": draw(st.integers(2, 32)),
        }
        kinds = st.lists(
            st.sampled_from(["dense", "sparse"]),
            min_size=sizes["num_hidden_layers"],
            max_size=sizes["num_hidden_layers"],
        )
        config["mlp_layer_types"] = draw(kinds)
    return config


@st.composite
def kwargs(draw: st.DrawFn, model_type: str) -> dict[str, Any]:
    """Keyword arguments of a random small config of this family."""
    if model_type in ("gpt2", "gpt_bigcode", "gptj"):
        config = _old(draw)
        if model_type == "gpt_bigcode":
            config |= _maybe(draw, multi_query=BOOLS)
        if model_type == "gptj":
            config["rotary_dim"] = 4
        return config
    if model_type == "gpt_neo":
        old, pattern = _old(draw), draw(st.lists(st.sampled_from(["global", "local"]), min_size=1, max_size=3))
        times = draw(st.integers(1, 2))
        return {
            "hidden_size": old["n_embd"],
            "num_heads": old["n_head"],
            "num_layers": times * len(pattern),
            "attention_types": [[pattern, times]],
            "vocab_size": old["vocab_size"],
            "max_position_embeddings": old["n_positions"],
            **_maybe(draw, window_size=st.integers(2, 20), intermediate_size=st.integers(8, 90)),
        }
    if model_type == "bloom":
        old = _old(draw)
        return {
            "hidden_size": old["n_embd"],
            "n_head": old["n_head"],
            "n_layer": old["n_layer"],
            "vocab_size": old["vocab_size"],
        }
    if model_type == "mpt":
        old = _old(draw)
        # transformers wants a power of two here for its ALiBi slopes
        heads = draw(st.sampled_from([2, 4, 8]))
        return {
            "d_model": heads * 16,
            "n_heads": heads,
            "n_layers": old["n_layer"],
            "vocab_size": old["vocab_size"],
        }
    if model_type == "nemotron_h":
        sizes = _sizes(draw)
        del sizes["num_hidden_layers"]
        sizes["tie_word_embeddings"] = False  # transformers does not tie this family's head, whatever the config says
        kinds = st.sampled_from(["linear_attention", "full_attention", "moe", "mlp"])
        groups = draw(st.sampled_from([1, 2]))
        return {
            **sizes,
            **_head_dim(draw),
            **_experts(draw, "n_routed_experts"),
            # at least one attention layer: transformers cannot tell a cache's length without
            "layers_block_type": [*draw(st.lists(kinds, max_size=4)), "full_attention"],
            "moe_shared_expert_intermediate_size": 8 * draw(st.integers(1, 6)),
            "mamba_num_heads": groups * draw(st.integers(1, 3)),
            "mamba_head_dim": draw(st.sampled_from([4, 8])),
            "ssm_state_size": draw(st.sampled_from([4, 8])),
            "n_groups": groups,
            "conv_kernel": draw(st.integers(2, 4)),
            **_maybe(draw, use_conv_bias=BOOLS, use_bias=BOOLS, mlp_bias=BOOLS, moe_latent_size=st.just(24)),
        }
    if model_type in ("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa"):
        return _mla(draw, model_type)

    config = _sizes(draw)
    bias = _maybe(draw, attention_bias=BOOLS)
    if model_type == "llama":
        config |= bias | _maybe(draw, mlp_bias=BOOLS) | (_head_dim(draw) if draw(BOOLS) else {})
    elif model_type in ("mistral", "ministral3"):
        config |= _window(draw) | _head_dim(draw)
    elif model_type == "mixtral":
        config |= _window(draw) | _experts(draw, "num_local_experts", "intermediate_size")
    elif model_type == "qwen2":
        config |= _window(draw, use_sliding_window=BOOLS, max_window_layers=st.integers(0, 4))
    elif model_type == "qwen2_moe":
        config |= _experts(draw, "num_experts") | _window(draw, use_sliding_window=BOOLS, qkv_bias=BOOLS)
        config |= {"shared_expert_intermediate_size": 8 * draw(st.integers(1, 6))}
        config |= _maybe(draw, decoder_sparse_step=st.integers(1, 3), mlp_only_layers=st.just([0]))
    elif model_type == "qwen3":
        config |= _head_dim(draw) | bias | _window(draw, use_sliding_window=BOOLS, max_window_layers=st.integers(0, 4))
    elif model_type == "qwen3_moe":
        config |= _head_dim(draw) | bias | _experts(draw, "num_experts")
        config |= _maybe(draw, decoder_sparse_step=st.integers(1, 3), mlp_only_layers=st.just([0]))
    elif model_type in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"):
        config |= _linear(draw) | bias
        kinds = st.lists(
            st.sampled_from(["linear_attention", "full_attention"]),
            min_size=config["num_hidden_layers"],
            max_size=config["num_hidden_layers"],
        )
        config |= _maybe(draw, layer_types=kinds)
        if model_type != "qwen3_5_text":
            config |= _experts(draw, "num_experts")
            config |= {"shared_expert_intermediate_size": 8 * draw(st.integers(1, 6))}
    elif model_type in ("gemma", "gemma2", "gemma3_text"):
        config |= _head_dim(draw) | bias
        if model_type != "gemma":
            config |= _window(draw)
    elif model_type == "phi":
        config |= _maybe(draw, qk_layernorm=BOOLS)
    elif model_type == "phi3":
        config |= _window(draw)
    elif model_type == "phimoe":
        config |= bias | _experts(draw, "num_local_experts", "intermediate_size") | _maybe(draw, lm_head_bias=BOOLS)
        config["num_experts_per_tok"] = 2  # its router picks two experts, whatever the config says
    elif model_type == "gpt_neox":
        del config["num_key_value_heads"]
        config |= bias
    elif model_type == "opt":
        config["ffn_dim"] = config.pop("intermediate_size")
        del config["num_key_value_heads"]
        config |= {"max_position_embeddings": draw(st.integers(16, 64))}
        config |= _maybe(draw, enable_bias=BOOLS, do_layer_norm_before=BOOLS, layer_norm_elementwise_affine=BOOLS)
        config["word_embed_proj_dim"] = draw(st.sampled_from([config["hidden_size"], 24]))
    elif model_type == "falcon":
        config["num_kv_heads"] = config.pop("num_key_value_heads")
        del config["intermediate_size"]
        config |= _maybe(draw, multi_query=BOOLS, parallel_attn=BOOLS, bias=BOOLS, new_decoder_architecture=BOOLS)
        config |= _maybe(draw, ffn_hidden_size=st.integers(8, 90), num_ln_in_parallel_attn=st.sampled_from([1, 2]))
        if not config.get("new_decoder_architecture"):
            config["num_kv_heads"] = config["num_attention_heads"]  # transformers cannot run other values here
    elif model_type == "gpt_oss":
        config |= _head_dim(draw) | _experts(draw, "num_local_experts", "intermediate_size") | _window(draw)
    elif model_type in ("glm", "glm4"):
        config |= _head_dim(draw) | bias
    elif model_type == "glm4_moe":
        config |= _head_dim(draw) | bias | _experts(draw, "n_routed_experts")
        config |= _maybe(
            draw, use_qk_norm=BOOLS, first_k_dense_replace=st.integers(0, 3), n_shared_experts=st.integers(1, 3)
        )
    elif model_type == "llama4_text":
        config |= _head_dim(draw) | bias | _experts(draw, "num_local_experts", "intermediate_size")
        config |= {"intermediate_size_mlp": 8 * draw(st.integers(1, 6))}
        config |= _maybe(draw, interleave_moe_layer_step=st.integers(1, 3), attention_chunk_size=st.integers(2, 40))
    elif model_type == "minimax_m2":
        config |= _head_dim(draw) | _experts(draw, "num_local_experts", "intermediate_size")
    elif model_type == "mimo_v2_flash":
        config |= _head_dim(draw) | bias | _experts(draw, "n_routed_experts") | _window(draw)
        config["num_attention_heads"] = 8
        config["num_key_value_heads"] = draw(st.sampled_from([1, 2, 4]))
        config["v_head_dim"] = draw(st.sampled_from([4, 8]))
        kinds = st.sampled_from(["full_attention", "sliding_attention"])
        size = config["num_hidden_layers"]
        config |= _maybe(draw, layer_types=st.lists(kinds, min_size=size, max_size=size))
    elif model_type in ("olmo", "olmo2", "granite"):
        config |= bias
        if model_type == "granite":
            config |= _maybe(draw, mlp_bias=BOOLS)
    elif model_type in ("olmo3", "exaone4"):
        config |= _window(draw)
        if model_type == "olmo3":
            config |= bias
    elif model_type == "olmoe":
        config |= bias | _experts(draw, "num_experts", "intermediate_size")
    elif model_type == "granitemoe":
        config |= bias | _experts(draw, "num_local_experts", "intermediate_size")
    elif model_type == "cohere":
        config |= bias | _maybe(draw, use_qk_norm=BOOLS)
    elif model_type == "cohere2":
        config |= bias | _window(draw)
    elif model_type == "seed_oss":
        config |= _head_dim(draw) | bias | _maybe(draw, attention_out_bias=BOOLS, mlp_bias=BOOLS)
    elif model_type == "ernie4_5":
        config |= _head_dim(draw) | _maybe(draw, use_bias=BOOLS)
    elif model_type == "smollm3":
        config |= bias | _maybe(draw, mlp_bias=BOOLS) | _window(draw, use_sliding_window=BOOLS)
    elif model_type == "stablelm":
        config |= _maybe(draw, use_qkv_bias=BOOLS, use_parallel_residual=BOOLS)
    elif model_type == "starcoder2":
        config |= _maybe(draw, use_bias=BOOLS) | _window(draw)
    elif model_type == "nemotron":
        config |= {"head_dim": config["hidden_size"] // config["num_attention_heads"]}
        config |= bias | _maybe(draw, mlp_bias=BOOLS)
    else:
        raise AssertionError(f"no random configs for {model_type}")
    return config


def config_of(model_type: str, options: dict[str, Any]) -> Any:
    """transformers' own config object."""
    return CONFIG_MAPPING[model_type](**options)


def published(config: Any) -> dict[str, Any]:
    """The config as `save_pretrained` writes it, through JSON."""
    written: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    return written


def on_meta(config: Any) -> torch.nn.Module:
    """transformers' causal language model of this config, without storage."""
    with torch.device("meta"):
        model: torch.nn.Module = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return model


def their_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Parameter names, those of a layer relative to it, and shapes."""
    shapes = {}
    for name, parameter in model.named_parameters():
        inside = re.match(r".*?\.(?:layers|h|blocks)\.(\d+\..*)", name)
        shapes[inside[1] if inside else name] = tuple(parameter.shape)
    return shapes


def our_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The same of a `ModelSpec`."""
    shapes = {f"{i}.{t.name}": t.shape for i, layer in enumerate(spec.layers) for t in layer.tensors}
    return shapes | {t.name: t.shape for t in spec.tensors}


def sized(model_type: str, variant: int) -> dict[str, Any]:
    """One fixed small config of a family, two variants; drawn from the same strategies, so nothing is special."""
    from hypothesis import HealthCheck, Phase, find, settings

    seen: list[dict[str, Any]] = []

    def take(options: dict[str, Any]) -> bool:
        seen.append(options)
        return len(seen) > 6 + 5 * variant

    quick = settings(database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    find(kwargs(model_type), take, settings=quick)
    return seen[-1]
