"""State-space models, convolutions and other recurrences."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.truth.variants.common import BOOLS, bias, experts, head_dim, kinds, maybe, sizes

SMALL = st.sampled_from([4, 8])


def alone(draw: st.DrawFn) -> dict[str, Any]:
    """Sizes of a model without attention."""
    keys = ("hidden_size", "num_hidden_layers", "vocab_size", "tie_word_embeddings", "pad_token_id", "bos_token_id")
    common = sizes(draw)
    return {key: common[key] for key in (*keys, "eos_token_id")}


def _mamba(draw: st.DrawFn) -> dict[str, Any]:
    own = {"state_size": draw(SMALL), "conv_kernel": draw(st.integers(2, 4)), "expand": draw(st.integers(1, 3))}
    return alone(draw) | own | maybe(draw, use_bias=BOOLS, use_conv_bias=BOOLS, time_step_rank=st.integers(1, 9))


def _mamba2(draw: st.DrawFn) -> dict[str, Any]:
    config = alone(draw) | {"head_dim": 8, "state_size": draw(SMALL), "conv_kernel": draw(st.integers(2, 4))}
    config["expand"] = 2
    config["num_heads"] = config["hidden_size"] // 4
    config["n_groups"] = draw(st.sampled_from([n for n in (1, 2, 4) if config["num_heads"] % n == 0]))
    return config | maybe(draw, use_bias=BOOLS, use_conv_bias=BOOLS)


def mamba_keys(draw: st.DrawFn, config: dict[str, Any], inner: int = 0) -> dict[str, Any]:
    """Mamba-2 as Bamba's relatives spell it."""
    inner = inner or 2 * config["hidden_size"]
    heads = draw(st.sampled_from([2, 4]))
    return {
        "mamba_n_heads": heads,
        "mamba_n_groups": draw(st.sampled_from([1, 2])),
        "mamba_d_state": draw(SMALL),
        "mamba_d_conv": draw(st.integers(2, 4)),
        **maybe(draw, mamba_conv_bias=BOOLS, mamba_proj_bias=BOOLS, mamba_d_head=st.just(inner // heads)),
    }


def _bamba(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | {"num_hidden_layers": draw(st.integers(2, 5))}
    chosen = draw(st.lists(st.integers(1, config["num_hidden_layers"] - 1), unique=True, min_size=1))
    return config | mamba_keys(draw, config) | bias(draw, mlp_bias=BOOLS) | {"attn_layer_indices": chosen}


def _granite(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | bias(draw) | {"shared_intermediate_size": 8 * draw(st.integers(1, 6))}
    config |= mamba_keys(draw, config) | experts(draw, "num_local_experts", "intermediate_size")
    config["num_hidden_layers"] = draw(st.integers(2, 5))
    listed = draw(kinds(config, "linear_attention", "full_attention"))
    config["layer_types"] = ["linear_attention", *listed[2:], "full_attention"]
    return config | maybe(draw, num_local_experts=st.just(0), position_embedding_type=st.just("rope"))


def _falcon_h1(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | bias(draw, mlp_bias=BOOLS, projectors_bias=BOOLS, mamba_rms_norm=BOOLS)
    inner = draw(st.sampled_from([None, 32]))
    return config | {"mamba_d_ssm": inner} | mamba_keys(draw, config, inner or 0)


def _jamba(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | {"num_experts": draw(st.sampled_from([1, 2, 4])), "num_experts_per_tok": 1}
    config |= {"mamba_d_state": draw(SMALL), "mamba_d_conv": draw(st.integers(2, 4))}
    config |= {"attn_layer_period": draw(st.integers(1, 3)), "attn_layer_offset": 0}
    config |= {"expert_layer_period": draw(st.integers(1, 3)), "expert_layer_offset": 0}
    more = maybe(draw, mamba_conv_bias=BOOLS, mamba_proj_bias=BOOLS, mamba_dt_rank=st.integers(1, 9))
    return config | {"mamba_expand": draw(st.integers(1, 3))} | more


def _lfm2(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | {"conv_L_cache": draw(st.integers(2, 4))}
    config |= {"layer_types": [*draw(kinds(config, "conv", "full_attention"))[1:], "full_attention"]}
    config |= {"block_multiple_of": 16}
    return config | maybe(draw, conv_bias=BOOLS, block_auto_adjust_ff_dim=BOOLS, block_ffn_dim_multiplier=st.just(1.3))


def _lfm2_moe(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | experts(draw, "num_experts") | {"conv_L_cache": draw(st.integers(2, 4))}
    config |= {"layer_types": [*draw(kinds(config, "conv", "full_attention"))[1:], "full_attention"]}
    return config | maybe(draw, conv_bias=BOOLS, num_dense_layers=st.integers(0, 3))


def _lfm3(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | head_dim(draw) | bias(draw, use_sandwich_norm=BOOLS, use_attention_gate=BOOLS)
    config |= maybe(draw, conv_bias=BOOLS, sliding_window=st.integers(2, 40), conv_L_cache=st.integers(2, 4))
    listed = kinds(config, "conv", "full_attention", "sliding_attention").map(
        lambda kinds: [*kinds[1:], "full_attention"]
    )
    return config | maybe(draw, layer_types=listed)


def _recurrent_gemma(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | bias(draw) | {"attention_window_size": draw(st.integers(2, 40))}
    config |= {"conv1d_width": draw(st.integers(2, 4)), "num_hidden_layers": 3}
    return config | maybe(draw, block_types=st.just(["recurrent", "attention"]))


def _xlstm(draw: st.DrawFn) -> dict[str, Any]:
    config = alone(draw) | {"num_heads": 2, "hidden_size": 128}
    return config | maybe(draw, use_bias=BOOLS, ffn_proj_factor=st.just(1.5), weight_mode=st.just("fused"))


def _rwkv(draw: st.DrawFn) -> dict[str, Any]:
    more = maybe(draw, intermediate_size=st.integers(8, 90))
    return alone(draw) | more | {"num_hidden_layers": draw(st.integers(2, 4))}


VARIANTS = {
    "mamba": _mamba,
    "falcon_mamba": _mamba,
    "mamba2": _mamba2,
    "bamba": _bamba,
    "granitemoehybrid": _granite,
    "falcon_h1": _falcon_h1,
    "jamba": _jamba,
    "lfm2": _lfm2,
    "lfm2_moe": _lfm2_moe,
    "lfm3": _lfm3,
    "recurrent_gemma": _recurrent_gemma,
    "rwkv": _rwkv,
    "xlstm": _xlstm,
}
