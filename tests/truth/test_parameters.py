"""Every tensor of every family, by name and shape, against transformers on the meta device."""

from __future__ import annotations

import re

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from llmhw import model
from llmhw.catalog import read_model
from llmhw.families import FAMILIES, latent, llamas, mixtures, older
from llmhw.model import ModelSpec
from tests.truth.cases import EXAMPLES, SHAPES, text_of
from tests.truth.families import config_of, kwargs, on_meta, our_shapes, published, their_shapes

# How the tensor names of transformers sort into our components
COMPONENT = (
    ("router", r"_hc\.|hc_head"),  # hyper-connections
    ("norms", r"norm|(^|\.)ln_|(^|\.)norm_\d|scale$"),
    ("head", r"lm_head|project_out"),
    ("embedding", r"embed|wte|wpe|project_in|per_layer_model_projection|altup_projections"),
    ("experts", r"\.experts\."),
    ("router", r"router|altup|(mlp|mixer)\.gate\.weight|shared_expert_gate"),
    ("attention", r"attn|attention|mixer\.(([qkvo]|in|out)_proj|dt_bias|A_log|D|conv1d)"),
    ("mlp", r"mlp|per_layer|laurel|ffn|fc\d|feed_forward|block_sparse|mixer"),
)


# Families whose names of modules it knows.
SORTED = {*llamas.TABLE, *mixtures.TABLE, *latent.TABLE, *older.TABLE} - {"ernie4_5_vl_moe_text"}


def component_of(name: str) -> str:
    return next(component for component, pattern in COMPONENT if re.search(pattern, name))


def assert_same(spec: ModelSpec, reference: torch.nn.Module) -> None:
    theirs = their_shapes(reference)
    assert our_shapes(spec) == theirs
    assert spec.parameters.text == sum(p.numel() for p in reference.parameters())


def assert_sorted(spec: ModelSpec, reference: torch.nn.Module) -> None:
    by_component = dict.fromkeys(spec.parameters.by_component, 0)
    for name, parameter in reference.named_parameters():
        by_component[component_of(name)] += parameter.numel()
    towers = {tower.kind: tower.params for tower in spec.towers}
    assert spec.parameters.by_component == by_component | towers


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_random_configs(model_type: str) -> None:
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        config = config_of(model_type, data.draw(kwargs(model_type)))
        written = published(config) if data.draw(st.booleans()) else config.to_dict()
        assert_same(ModelSpec.from_config(written), on_meta(config))

    check()


@pytest.mark.parametrize("name", SHAPES)
def test_catalog(name: str) -> None:
    """Every catalog model, at its full size."""
    _, written = read_model(name)
    text = text_of(written)
    text = {**text, "tie_word_embeddings": text.get("tie_word_embeddings", written.get("tie_word_embeddings"))}
    if text["tie_word_embeddings"] is None:
        del text["tie_word_embeddings"]
    # quantization only changes how weights are stored, and needs packages that are not here; rotary embeddings and
    # activation functions have no weights, and not every class knows every one
    without = ("quantization_config", "model_type", "auto_map", "rope_scaling", "rope_parameters", "hidden_act")
    options = {k: v for k, v in text.items() if k not in without and k[0] != "_"}
    kind = text["model_type"]
    if options.get("use_mla") is False:  # transformers has DeepSeek V2 with plain attention under another name
        layers, first = options["num_hidden_layers"], options.get("first_k_dense_replace", 1)
        kind = "deepseek_ocr2_text"
        options["mlp_layer_types"] = ["dense" if i < first else "sparse" for i in range(layers)]
    config = CONFIG_MAPPING[kind](**options)
    if model(name).makes == "embeddings":  # an encoder or an embedder, which has no head
        architecture = written["architectures"][0]
        with torch.device("meta"):
            bare = getattr(transformers, architecture)(config)
        assert model(name).parameters.total == sum(p.numel() for p in bare.parameters())
        return
    reference = on_meta(config)
    assert_same(model(name), reference)
    if text["model_type"] in SORTED:
        assert_sorted(model(name), reference)
