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
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nAudioEncoder

from llmhw.families.audio import ENCODERS
from llmhw.families.towers import Part, TowerBuilder
from llmhw.families.wrappers import REFUSED, WRAPPERS
from llmhw.model import ModelSpec
from llmhw.units import LLMHWError
from tests.truth.cases import EXAMPLES
from tests.truth.families import published
from tests.truth.wrappers import kwargs

CLASSES = {
    **modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    **modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
}
# Random configs of each wrapper; the long run is LLMHW_TRUTH_EXAMPLES=160.
EACH = max(EXAMPLES // 4, 1)
# Their vision encoder is one of the timm library, whose sizes no config holds.
TIMM = {"fast_vlm", "gemma3n", "perception_lm"}


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


@pytest.mark.parametrize("wrapper", sorted(WRAPPERS.keys() - TIMM))
def test_random_configs(wrapper: str) -> None:
    @settings(
        max_examples=EACH, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        config = CONFIG_MAPPING[wrapper](**kwargs(data.draw, wrapper))
        written = published(config) if data.draw(st.booleans()) else config.to_dict()
        assert_same(ModelSpec.from_config(written), on_meta(wrapper, reread(wrapper, written)))

    check()


def test_enough() -> None:
    """Of transformers' wrappers, those that are compared here; the Omni models are their thinkers."""
    held = {*WRAPPERS, "mistral4", "qwen2_5_omni", "qwen3_omni_moe"} - TIMM
    assert len(held & CLASSES.keys()) >= 95
    assert CLASSES.keys() == {*held, *TIMM, *REFUSED}


@pytest.mark.parametrize("wrapper", sorted(REFUSED))
def test_refused_by_name(wrapper: str) -> None:
    with pytest.raises(LLMHWError, match="is not supported: it"):
        ModelSpec.from_config(CONFIG_MAPPING[wrapper]().to_dict())


def test_what_speaks_is_left_out() -> None:
    """Of the Omni models the thinker is read, as engines serve it."""
    thinker = CONFIG_MAPPING["qwen2_5_omni_thinker"]().to_dict()
    omni = {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"], "thinker_config": thinker}
    spec = ModelSpec.from_config(omni | {"talker_config": {"a": 1}})
    assert spec.towers == ModelSpec.from_config(thinker).towers
    assert spec.left_out == ("talker",)
    assert spec.makes == "tokens"


def test_ties_as_the_file_was_written() -> None:
    """transformers 5 goes by the wrapper's flag, transformers 4 went by the text model's."""
    written = CONFIG_MAPPING["qwen3_vl_moe"]().to_dict() | {"tie_word_embeddings": False}
    written["text_config"]["tie_word_embeddings"] = True
    assert not ModelSpec.from_config(written).tied
    assert ModelSpec.from_config(written | {"transformers_version": "4.57.0"}).tied
    del written["transformers_version"]
    assert not ModelSpec.from_config(written).tied


def test_encoders_of_sound_that_no_wrapper_builds_here() -> None:
    config = CONFIG_MAPPING["gemma3n_audio"](hidden_size=32, conf_num_hidden_layers=2, conf_num_attention_heads=4)
    with torch.device("meta"):
        model = Gemma3nAudioEncoder(config)
    builder, encoder = TowerBuilder("audio"), ENCODERS["gemma3n_audio"]
    encoder.read(builder, Part(config.to_dict(), encoder.defaults, "audio_config"))
    theirs = Counter((starred(n), tuple(p.shape)) for n, p in model.named_parameters())
    ours: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for tensor, count in builder.tensors:
        ours[starred(tensor.name), tensor.shape] += count
    assert ours == theirs
