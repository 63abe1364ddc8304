"""Facts of the table of families against transformers' own code and configs."""

from __future__ import annotations

import inspect
import re
from importlib import import_module

import pytest
from transformers import CONFIG_MAPPING

from llmhw.families import FAMILIES
from llmhw.model import DROPOUT_RATES


def module_of(model_type: str) -> str:
    """The source of transformers' implementation, without towers for pictures."""
    package = CONFIG_MAPPING[model_type].__module__.rpartition(".")
    source = inspect.getsource(import_module(f"{package[0]}.{package[2].replace('configuration', 'modeling')}"))
    return re.sub(r"^class \w*Vision.*?(?=^class |\Z)", "", source, flags=re.S | re.M)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_rotary(model_type: str) -> None:
    """A family has a rotary embedding if its attention turns queries and keys, and not only copies how one would."""
    assert bool(FAMILIES[model_type].rotary) == bool(re.search(r"= apply_rotary\w*\(", module_of(model_type)))


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_dropout(model_type: str) -> None:
    config = CONFIG_MAPPING[model_type]()
    assert FAMILIES[model_type].dropout == any((getattr(config, key, 0) or 0) > 0 for key in DROPOUT_RATES)
