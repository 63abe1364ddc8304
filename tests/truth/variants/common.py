"""What the random configs share."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

BOOLS = st.booleans()


def sizes(draw: st.DrawFn, *, multiple: int = 1) -> dict[str, Any]:
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


def head_dim(draw: st.DrawFn) -> dict[str, Any]:
    """A head size that is not hidden / heads."""
    return {"head_dim": draw(st.sampled_from([4, 8, 32]))}


def maybe(draw: st.DrawFn, **options: Any) -> dict[str, Any]:
    """Each option left to its default, or drawn."""
    return {key: draw(strategy) for key, strategy in options.items() if draw(BOOLS)}


def bias(draw: st.DrawFn, **more: Any) -> dict[str, Any]:
    """Biases of the attention's projections, and more flags."""
    return maybe(draw, attention_bias=BOOLS, **more)


def kinds(config: dict[str, Any], *names: str) -> st.SearchStrategy[list[str]]:
    """A list of these names, one for each layer of the config."""
    size = config["num_hidden_layers"]
    return st.lists(st.sampled_from(names), min_size=size, max_size=size)


def experts(draw: st.DrawFn, count_key: str, inner_key: str = "moe_intermediate_size") -> dict[str, Any]:
    count = draw(st.sampled_from([2, 4, 8]))
    return {
        count_key: count,
        "num_experts_per_tok": draw(st.integers(1, count)),
        inner_key: 8 * draw(st.integers(1, 6)),
    }


def old(draw: st.DrawFn) -> dict[str, Any]:
    common = sizes(draw)
    return {
        "n_embd": common["hidden_size"],
        "n_head": common["num_attention_heads"],
        "n_layer": common["num_hidden_layers"],
        "n_positions": draw(st.integers(16, 64)),
        "vocab_size": common["vocab_size"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        **maybe(draw, n_inner=st.integers(8, 90)),
    }


def window(draw: st.DrawFn, **more: Any) -> dict[str, Any]:
    return maybe(draw, sliding_window=st.integers(2, 40), **more)
