"""Published files and transformers' own types, walked: what is accepted, and that the rest is refused with a reason."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

import llmhw
from llmhw.catalog import model_index, read_model
from llmhw.families import key_of
from llmhw.families.wrappers import REFUSED, WRAPPERS
from llmhw.model import ModelSpec
from llmhw.units import LLMHWError

PUBLISHED = [row for row in model_index() if row["status"] == "published"]


def refusals(types: Iterable[str]) -> dict[str, str]:
    """The types that no reader is there for, and what is said of each."""
    found = {}
    for kind in types:
        try:
            if kind in REFUSED or kind not in WRAPPERS:
                key_of(kind)
        except LLMHWError as error:
            found[kind] = str(error)
    return found


def test_published_files() -> None:
    """Every file that is in the catalog byte for byte is a model, with the parameters that transformers counted."""
    assert len(PUBLISHED) >= 80
    for row in PUBLISHED:
        name, config = read_model(row["name"])
        spec = ModelSpec.from_config(config, name=name)
        assert spec.parameters.total == int(row["parameters_transformers"]), name
        assert llmhw.weights(spec).total > 0, name
        assert llmhw.kv_cache(spec, seq_len=100).total >= 0, name


def test_every_model_of_the_catalog_is_read() -> None:
    assert not [row["name"] for row in model_index() if row["refused"]]


def test_types_of_transformers() -> None:
    """Of the causal language models all but encoders, encoder-decoders, sound and a handful; of the wrappers most."""
    auto = pytest.importorskip("transformers.models.auto.modeling_auto", reason="needs the extra torch")
    causal = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    pictures = {*auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, *auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES}
    for types, least in ((causal, 147), (pictures, 97)):
        refused = refusals(types)
        assert len(types) - len(refused) >= least, sorted(refused)
        for kind, said in refused.items():
            assert said.startswith(f"model_type='{kind}' is not supported"), said
            assert said.isprintable()
