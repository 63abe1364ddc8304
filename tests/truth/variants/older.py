"""Older decoders."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.truth.variants.common import BOOLS, bias, maybe, old, sizes, window


def _gpt_neo(draw: st.DrawFn) -> dict[str, Any]:
    like, pattern = old(draw), draw(st.lists(st.sampled_from(["global", "local"]), min_size=1, max_size=3))
    times = draw(st.integers(1, 2))
    return {
        "hidden_size": like["n_embd"],
        "num_heads": like["n_head"],
        "num_layers": times * len(pattern),
        "attention_types": [[pattern, times]],
        "vocab_size": like["vocab_size"],
        "max_position_embeddings": like["n_positions"],
        **maybe(draw, window_size=st.integers(2, 20), intermediate_size=st.integers(8, 90)),
    }


def _bloom(draw: st.DrawFn) -> dict[str, Any]:
    like = old(draw)
    return {"hidden_size": like["n_embd"], **{key: like[key] for key in ("n_head", "n_layer", "vocab_size")}}


def _mpt(draw: st.DrawFn) -> dict[str, Any]:
    like = old(draw)
    # transformers wants a power of two here for its ALiBi slopes
    heads = draw(st.sampled_from([2, 4, 8]))
    return {
        "d_model": heads * 16,
        "n_heads": heads,
        "n_layers": like["n_layer"],
        "vocab_size": like["vocab_size"],
    }


def _opt(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw)
    config["ffn_dim"] = config.pop("intermediate_size")
    del config["num_key_value_heads"]
    config |= {"max_position_embeddings": draw(st.integers(16, 64))}
    config |= maybe(draw, enable_bias=BOOLS, do_layer_norm_before=BOOLS, layer_norm_elementwise_affine=BOOLS)
    config["word_embed_proj_dim"] = draw(st.sampled_from([config["hidden_size"], 24]))
    return config


def _falcon(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw)
    config["num_kv_heads"] = config.pop("num_key_value_heads")
    del config["intermediate_size"]
    config |= maybe(draw, multi_query=BOOLS, parallel_attn=BOOLS, bias=BOOLS, new_decoder_architecture=BOOLS)
    config |= maybe(draw, ffn_hidden_size=st.integers(8, 90), num_ln_in_parallel_attn=st.sampled_from([1, 2]))
    if not config.get("new_decoder_architecture"):  # transformers cannot run other values here
        config["num_kv_heads"] = config["num_attention_heads"]
        if config.get("parallel_attn", True):
            config["num_ln_in_parallel_attn"] = 1
    return config


def _gpt_neox(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | bias(draw)
    del config["num_key_value_heads"]
    return config


def _xglm(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw)
    names = {"hidden_size": "d_model", "num_hidden_layers": "num_layers", "intermediate_size": "ffn_dim"}
    names |= {"num_attention_heads": "attention_heads", "vocab_size": "vocab_size"}
    return {new: config[name] for name, new in names.items()}


def _japanese(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | {"intermediate_multiple_size": draw(st.integers(1, 4))}
    del config["num_key_value_heads"], config["intermediate_size"]
    return config


def _biogpt(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | {"max_position_embeddings": draw(st.integers(16, 64)), "pad_token_id": 1}
    del config["num_key_value_heads"]
    return config


def _ctrl(draw: st.DrawFn) -> dict[str, Any]:
    return {**old(draw), "dff": 8 * draw(st.integers(1, 12))}


VARIANTS = {
    # its heads lie in four parts, as it was trained
    "codegen": lambda d: old(d) | {"rotary_dim": 4, "n_head": 4, "n_embd": d(st.sampled_from([32, 64]))},
    "openai-gpt": lambda d: {k: v for k, v in old(d).items() if k != "n_inner"},
    "ctrl": _ctrl,
    "xglm": _xglm,
    "biogpt": _biogpt,
    "gpt_neox_japanese": _japanese,
    "gpt2": old,
    "gpt_bigcode": lambda d: old(d) | maybe(d, multi_query=BOOLS),
    "gptj": lambda d: old(d) | {"rotary_dim": 4},
    "gpt_neo": _gpt_neo,
    "bloom": _bloom,
    "mpt": _mpt,
    "opt": _opt,
    "falcon": _falcon,
    "gpt_neox": _gpt_neox,
    "phi": lambda d: sizes(d) | maybe(d, qk_layernorm=BOOLS),
    "phi3": lambda d: sizes(d) | window(d),
}
