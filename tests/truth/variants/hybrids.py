"""Hybrids with lightning attention or Mamba."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.truth.variants.common import BOOLS, experts, head_dim, kinds, maybe, sizes
from tests.truth.variants.recurrent import SMALL


def _nemotron(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw)
    del config["num_hidden_layers"]
    names = st.sampled_from(["linear_attention", "full_attention", "moe", "mlp"])
    groups = draw(st.sampled_from([1, 2]))
    return {
        **config,
        **head_dim(draw),
        **experts(draw, "n_routed_experts"),
        # at least one attention layer: transformers cannot tell a cache's length without
        "layers_block_type": ["linear_attention", *draw(st.lists(names, max_size=3)), "full_attention"],
        "moe_shared_expert_intermediate_size": 8 * draw(st.integers(1, 6)),
        "mamba_num_heads": groups * draw(st.integers(1, 3)),
        "mamba_head_dim": draw(st.sampled_from([4, 8])),
        "ssm_state_size": draw(st.sampled_from([4, 8])),
        "n_groups": groups,
        "conv_kernel": draw(st.integers(2, 4)),
        **maybe(draw, use_conv_bias=BOOLS, use_bias=BOOLS, mlp_bias=BOOLS, moe_latent_size=st.just(24)),
    }


def _minimax(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | head_dim(draw) | experts(draw, "num_local_experts", "intermediate_size")
    config["num_hidden_layers"] = draw(st.integers(2, 4))
    listed = kinds(config, "linear_attention", "full_attention").map(lambda kinds: ["full_attention", *kinds[1:]])
    return config | {"block_size": 8} | maybe(draw, layer_types=listed)


def _hybrids(draw: st.DrawFn, least: int) -> list[str]:
    """Kinds of layers, at least so many of them hybrid; transformers wants another kind first."""
    kinds = draw(st.lists(st.sampled_from(["linear_attention", "hybrid"]), max_size=3))
    return ["linear_attention", *kinds, *["hybrid"] * least]


def _zamba(draw: st.DrawFn) -> dict[str, Any]:
    # transformers shares the block only where it ties the head, too
    config = sizes(draw) | {"layers_block_type": _hybrids(draw, 2), "tie_word_embeddings": True}
    config["num_hidden_layers"] = len(config["layers_block_type"])
    config |= {"mamba_d_state": draw(SMALL), "mamba_d_conv": draw(st.integers(2, 4))}
    config |= {"n_mamba_heads": draw(st.sampled_from([1, 2]))}
    return config | maybe(draw, mamba_conv_bias=BOOLS, mamba_proj_bias=BOOLS, mamba_dt_rank=st.integers(1, 9))


def _zamba2(draw: st.DrawFn) -> dict[str, Any]:
    # transformers shares the block only where it ties the head, too
    config = sizes(draw) | {"layers_block_type": _hybrids(draw, 2), "tie_word_embeddings": True}
    config["num_hidden_layers"] = len(config["layers_block_type"])
    config["num_key_value_heads"] = config["num_attention_heads"]
    config |= {"mamba_d_state": draw(SMALL), "mamba_d_conv": draw(st.integers(2, 4)), "adapter_rank": draw(SMALL)}
    config |= {"n_mamba_heads": draw(st.sampled_from([2, 4])), "num_mem_blocks": draw(st.integers(1, 2))}
    more = {"mamba_ngroups": st.sampled_from([1, 2]), "use_mem_rope": BOOLS}
    return config | maybe(draw, use_shared_attention_adapter=BOOLS, add_bias_linear=BOOLS, **more)


def _zaya(draw: st.DrawFn) -> dict[str, Any]:
    config = sizes(draw) | head_dim(draw) | {"num_experts": draw(st.sampled_from([2, 4])), "num_experts_per_tok": 1}
    config |= {"moe_intermediate_size": 8 * draw(st.integers(1, 6)), "router_hidden_size": draw(SMALL)}
    config |= maybe(draw, cca_time0=st.integers(2, 3), cca_time1=st.integers(2, 3), lm_head_bias=BOOLS)
    listed = kinds(config, "hybrid", "hybrid_sliding")
    return config | {"sliding_window": draw(st.integers(2, 40))} | maybe(draw, attention_bias=BOOLS, layer_types=listed)


VARIANTS = {
    "zaya": _zaya,
    "nemotron_h": _nemotron,
    "minimax": _minimax,
    "zamba": _zamba,
    "zamba2": _zamba2,
}
