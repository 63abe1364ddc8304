"""Configs that several tests write."""

from __future__ import annotations

from typing import Any


def sizes(model_type: str, hidden: int, inner: int, heads: int, layers: int, vocab: int, **more: Any) -> dict[str, Any]:
    """A config of these sizes under the keys that most families use."""
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "vocab_size": vocab,
        **more,
    }


TINY = sizes("llama", 64, 128, 4, 2, 100)
