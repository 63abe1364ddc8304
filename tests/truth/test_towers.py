"""Wrappers with their towers, by name and shape, against transformers on the meta device."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

from llmhw.families.wrappers import WRAPPERS
from llmhw.model import ModelSpec
from tests.truth.families import published
from tests.truth.wrappers import kwargs

CLASSES = {
    **modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    **modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
}
EXAMPLES = 10


def on_meta(wrapper: str, config: Any) -> torch.nn.Module:
    with torch.device("meta"):
        model: torch.nn.Module = getattr(transformers, CLASSES[wrapper])._from_config(
            config, attn_implementation="eager"
        )
    return model


def reread(wrapper: str, written: dict[str, Any]) -> Any:
    """transformers' config object of a saved config."""
    return CONFIG_MAPPING[wrapper].from_dict(_floats(written))


def _floats(value: Any) -> Any:
    """What transformers writes for infinity as the number."""
    if isinstance(value, dict):
        return float(value["__float__"]) if "__float__" in value else {k: _floats(v) for k, v in value.items()}
    return [_floats(entry) for entry in value] if isinstance(value, list) else value


def starred(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


def assert_same(spec: ModelSpec, reference: torch.nn.Module) -> None:
    """Every tensor of the towers is there by name and shape, and what else is there is the text model."""
    theirs = Counter((starred(n), tuple(p.shape)) for n, p in reference.named_parameters())
    ours: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for tensor, count in spec.tower_tensors():
        ours[starred(tensor.name), tensor.shape] += count
    assert not ours - theirs, (ours - theirs, theirs - ours)
    rest: Counter[tuple[int, ...]] = Counter()
    for (_, shape), count in (theirs - ours).items():
        rest[shape] += count
    text = Counter()
    for tensor, count in spec.all_tensors():
        text[tensor.shape] += count
    assert rest == text, {k: v for k, v in (theirs - ours).items() if k[1] in rest - text}
    assert spec.parameters.total == sum(p.numel() for p in reference.parameters())


@pytest.mark.parametrize("wrapper", sorted(WRAPPERS))
def test_random_configs(wrapper: str) -> None:
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        config = CONFIG_MAPPING[wrapper](**kwargs(data.draw, wrapper))
        written = published(config) if data.draw(st.booleans()) else config.to_dict()
        assert_same(ModelSpec.from_config(written), on_meta(wrapper, reread(wrapper, written)))

    check()
