"""Facts of the table of families against transformers' own code and configs."""

from __future__ import annotations

import inspect
import re
from importlib import import_module

import pytest
import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from llmhw.families import FAMILIES
from llmhw.model import DROPOUT_RATES, ModelSpec
from tests.truth.families import config_of, known_types, on_meta, our_shapes, published, sized, their_shapes


def module_of(model_type: str) -> str:
    """The source of transformers' implementation, without towers for pictures."""
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    module = getattr(transformers, name).__module__ if name else CONFIG_MAPPING[model_type].__module__
    source = inspect.getsource(import_module(module.replace("configuration", "modeling")))
    return re.sub(r"^class \w*Vision.*?(?=^class |\Z)", "", source, flags=re.S | re.M)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_rotary(model_type: str) -> None:
    """A family has a rotary embedding if its attention turns queries and keys, and not only copies how one would."""
    assert bool(FAMILIES[model_type].rotary) == bool(re.search(r"= apply_rotary\w*\(", module_of(model_type)))


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_dropout(model_type: str) -> None:
    config = CONFIG_MAPPING[model_type]()
    assert FAMILIES[model_type].dropout == any((getattr(config, key, 0) or 0) > 0 for key in DROPOUT_RATES)


@pytest.mark.parametrize(("model_type", "key"), [pair for pair in known_types() if pair[0] != pair[1]])
def test_synonyms(model_type: str, key: str) -> None:
    """A spelling with a class of its own is built as the family it is counted to."""
    for variant in (0, 1):
        config = config_of(model_type, sized(key, variant))
        assert our_shapes(ModelSpec.from_config(published(config))) == their_shapes(on_meta(config))


# Switches of some families, which the classes of others do not know.
SWITCHES = "attention_bias mlp_bias use_bias qkv_bias use_qkv_bias use_qk_norm qk_layernorm lm_head_bias norm_bias"


@pytest.mark.parametrize("model_type", sorted(FAMILIES.keys() & CONFIG_MAPPING.keys()))
def test_switches_of_other_families(model_type: str) -> None:
    """What transformers does not read makes no tensors."""
    known = CONFIG_MAPPING[model_type]
    names = {*getattr(known, "__dataclass_fields__", {}), *known.attribute_map}
    others = {name: True for name in SWITCHES.split() if name not in names}
    config = config_of(model_type, sized(model_type, 0) | others)
    assert our_shapes(ModelSpec.from_config(published(config) | others)) == their_shapes(on_meta(config))
