"""Small random configs of every supported family, and transformers' own models built from them."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from llmhw.model import ModelSpec
from tests.truth.variants import VARIANTS


@st.composite
def kwargs(draw: st.DrawFn, model_type: str) -> dict[str, Any]:
    """Keyword arguments of a random small config of this family."""
    return VARIANTS[model_type](draw)


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
    return deepcopy(_sized(model_type, variant))


@cache
def _sized(model_type: str, variant: int) -> dict[str, Any]:
    from hypothesis import HealthCheck, Phase, find, settings

    seen: list[dict[str, Any]] = []

    def take(options: dict[str, Any]) -> bool:
        seen.append(options)
        return len(seen) > 6 + 5 * variant

    quick = settings(database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    find(kwargs(model_type), take, settings=quick)
    return seen[-1]
