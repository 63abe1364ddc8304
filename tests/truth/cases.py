"""How many cases the truth tests compare; README and book state these numbers, and a test holds them to it."""

from __future__ import annotations

import os
from typing import Any

from transformers import CONFIG_MAPPING

from llmhw.catalog import model_index, read_model
from llmhw.families import FAMILIES, inkling, key_of, latent, mixtures
from llmhw.families.wrappers import unwrap

# Random configs of each family; the long run is LLMHW_TRUTH_EXAMPLES=40.
EXAMPLES = int(os.environ.get("LLMHW_TRUTH_EXAMPLES", "12"))

# Families whose FLOPs torch cannot confirm: transformers multiplies otherwise than the model is meant to run.
FLOPS_FAMILIES = sorted(key for key, family in FAMILIES.items() if not family.arithmetic)
FLOPS_VARIANTS = (0, 1)
DECODE_FAMILIES = ("llama", "gpt2", "mixtral", "qwen2", "falcon", "gemma3_text", "gpt_oss")
# Families whose prompt transformers computes in chunks, and a token after it as the model is meant to.
RECURRENT_FAMILIES = (
    "bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear", "mamba",
    "mamba2", "minimax", "nemotron_h", "olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "zamba",
    "zamba2",
)  # fmt: skip
RECOMPUTE_FAMILIES = ("llama", "gpt2", "qwen3")
STEPS = (*DECODE_FAMILIES, *RECURRENT_FAMILIES, *RECOMPUTE_FAMILIES)

# transformers' first GPT keeps no cache.
CACHED = sorted(FAMILIES.keys() - {"openai-gpt"})
CACHE_DTYPES = ("fp32", "bf16")

OPTIMIZERS = ("adamw", "sgd", "sgd-momentum", "adafactor", "muon")
OPTIMIZER_PRECISIONS = ("fp32", "bf16")
# torch.optim.Muon takes matrices only, not the stacked experts and other stacks of transformers 5.
_WITHOUT = {"minicpm3", "youtu"}
_FURTHER = set(
    """gemma4_text nemotron_h qwen3_5_moe_text qwen3_next bailing_hybrid granitemoehybrid jamba kimi_linear lfm2_moe
    minimax qwen4_exp_text recurrent_gemma zamba zaya""".split()
)
STACKED_EXPERTS = frozenset({*mixtures.TABLE, *latent.TABLE, *inkling.TABLE} - _WITHOUT | _FURTHER)
MASTER_FAMILIES = ("llama", "gpt2", "qwen3", "gemma2", "falcon", "phi3")


def text_of(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that describes the text model, with its model_type."""
    found = unwrap(config)
    return {**found.text, "model_type": key_of(found.model_type)}


# transformers' class of Kimi Linear has not K3's latent experts, and its Chameleon wants a list of picture tokens.
_WITHOUT_CLASS = {"kimi-k3", "chameleon-7b"}


def _shapes() -> list[str]:
    found: dict[tuple[str, ...], str] = {}
    for row in model_index():
        if not row["refused"] and row["name"] not in _WITHOUT_CLASS:
            found.setdefault((row["model_type"], row["parameters_transformers"]), row["name"])
    return [name for name in found.values() if text_of(read_model(name)[1])["model_type"] in CONFIG_MAPPING]


# Models of the catalog that transformers has a class for, the first of each shape.
SHAPES = _shapes()


def counts(examples: int = 12) -> dict[str, int]:
    """Cases by quantity. A FLOPs case is one pass of one model; an optimizer case is one model's step."""
    states = len(FAMILIES) * len(OPTIMIZERS) - len(STACKED_EXPERTS)
    return {
        "parameters": examples * len(FAMILIES) + len(SHAPES),
        "FLOPs": 2 * len(FLOPS_FAMILIES) * len(FLOPS_VARIANTS) + len(STEPS),
        "KV cache": len(CACHED) * len(CACHE_DTYPES),
        "optimizer": states * len(OPTIMIZER_PRECISIONS) + len(MASTER_FAMILIES),
    }
