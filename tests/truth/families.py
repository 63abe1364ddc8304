"""Small random configs of every supported family, and transformers' own models built from them."""

from __future__ import annotations

import inspect
import json
import re
import sys
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from llmhw.families import FAMILIES
from llmhw.model import ModelSpec
from tests.truth.cases import STACKED_EXPERTS
from tests.truth.variants import VARIANTS


def known_types() -> list[tuple[str, str]]:
    """Every spelling of a text model that transformers has a class for, with its family."""
    names = [(name, key) for key, family in FAMILIES.items() for name in (key, *family.synonyms)]
    return [(n, k) for n, k in names if n in CONFIG_MAPPING and not CONFIG_MAPPING[n].sub_configs_defaults]


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


class WithHead(torch.nn.Module):
    """A text model that transformers has only as a part of a wrapper, with the wrapper's output head."""

    def __init__(self, config: Any, text_model: type[PreTrainedModel], options: dict[str, Any]) -> None:
        super().__init__()
        self.model = text_model._from_config(config, **options)
        dtype = next(self.model.parameters()).dtype
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False, dtype=dtype)
        self.all_tied_weights_keys = {}
        if getattr(config, "tie_word_embeddings", False):
            self.lm_head.weight = self.model.embed_tokens.weight
            self.all_tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.lm_head

    def forward(self, **inputs: Any) -> CausalLMOutputWithPast:
        if "t_cond" in _source(type(self.model.layers[0])):  # how late Voxtral's words may be
            inputs["t_cond"] = self.lm_head.weight[:1]
        out = self.model(**inputs)
        logits = self.lm_head(out.last_hidden_state)
        return CausalLMOutputWithPast(logits=logits, past_key_values=out.past_key_values)


# Python parses a whole module to find the source of one class
@cache
def _source(found: type) -> str:
    return inspect.getsource(found)


@cache
def _text_model(kind: type) -> Any:
    """The text model of this class of configs, which has no head."""
    name = kind.__module__.replace("configuration", "modeling")
    __import__(name)
    classes = [thing for thing in vars(sys.modules[name]).values() if getattr(thing, "config_class", 0) is kind]
    (text_model,) = (found for found in classes if "self.embed_tokens = " in _source(found))
    return text_model


def causal(config: Any, **options: Any) -> torch.nn.Module:
    """transformers' causal language model of a config; options as of `from_config`."""
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        made: torch.nn.Module = AutoModelForCausalLM.from_config(config, **options)
        return made
    return WithHead(config, _text_model(type(config)), options)


def on_meta(config: Any) -> torch.nn.Module:
    """transformers' causal language model of this config, without storage."""
    with torch.device("meta"):
        return causal(config, attn_implementation="eager")


def their_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Parameter names, those of a layer relative to it, and shapes."""
    shapes = {}
    for name, parameter in model.named_parameters():
        inside = re.match(r".*?\.(?:layers|h|blocks)\.(\d+\..*)", name)
        shapes[inside[1] if inside else name] = tuple(parameter.shape)
    return shapes


def our_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The same of a `ModelSpec`."""
    each = 2 if spec.model_type == "longcat_flash" else 1  # our layers are halves of its layers
    shapes = {f"{i // each}.{t.name}": t.shape for i, layer in enumerate(spec.layers) for t in layer.tensors}
    return shapes | {t.name: t.shape for t in spec.tensors}


def sized(model_type: str, variant: int) -> dict[str, Any]:
    """One fixed small config of a family, two variants; drawn from the same strategies, so nothing is special.

    A mixture of experts must have some: where the draw has none, as a model of one layer may, a later one is taken.
    """
    return deepcopy(_sized(model_type, variant))


@cache
def _sized(model_type: str, variant: int) -> dict[str, Any]:
    from hypothesis import HealthCheck, Phase, find, settings

    seen: list[dict[str, Any]] = []
    taken: list[dict[str, Any]] = []
    first = 6 + 5 * variant

    def take(options: dict[str, Any]) -> bool:
        seen.append(options)
        if len(seen) > first and (model_type not in STACKED_EXPERTS or has_experts(model_type, options)):
            taken.append(options)
        return bool(taken) and (taken[0] is seen[first] or len(taken) > variant)  # the variants shall differ

    health = list(HealthCheck)
    quick = settings(database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=health)
    find(kwargs(model_type), take, settings=settings(quick, max_examples=500))
    return taken[-1]


def has_experts(model_type: str, options: dict[str, Any]) -> bool:
    """By our own description: experts of a feed-forward part, or other stacks of matrices."""
    layers = ModelSpec.from_config(published(config_of(model_type, options))).layers
    return any(t.experts > 1 or (t.matmul and len(t.shape) > 2) for layer in layers for t in layer.tensors)
