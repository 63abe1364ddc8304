"""Reading configs: published counts, and every way a config can be wrong."""

from __future__ import annotations

import json
from csv import DictReader
from pathlib import Path
from typing import Any

import pytest

import llmhw
from llmhw import catalog
from llmhw.catalog import read_model, read_table
from llmhw.model import COMPONENTS
from llmhw.units import LLMHWError
from llmhw.validation.facts import quantity
from llmhw.validation.table import Row

INDEX = list(DictReader((Path(catalog.__file__).parent / "models" / "INDEX.csv").read_text("utf-8").splitlines()))


def test_enough_models() -> None:
    assert len(llmhw.models()) >= 60


@pytest.mark.parametrize("row", [r for r in INDEX if r["published_kind"] == "exact"], ids=lambda r: r["name"])
def test_published_counts_that_are_exact(row: dict[str, str]) -> None:
    assert llmhw.model(row["name"]).parameters.total == int(row["parameters_published"])


@pytest.mark.parametrize("row", [r for r in INDEX if r["published_kind"] == "rounded"], ids=lambda r: r["name"])
def test_published_counts_that_are_rounded(row: dict[str, str]) -> None:
    """Cards print two or three figures, and some leave out the embedding."""
    total = llmhw.model(row["name"]).parameters.total
    assert total == pytest.approx(float(row["parameters_published"]), rel=0.03)


@pytest.mark.parametrize("row", [r for r in INDEX if r["published_kind"] == "more_parts"], ids=lambda r: r["name"])
def test_published_counts_with_more_parts(row: dict[str, str]) -> None:
    """The published total adds a vision tower, prediction layers or scales to the text model."""
    assert 0 < llmhw.model(row["name"]).parameters.total <= int(float(row["parameters_published"]))


@pytest.mark.parametrize("name", llmhw.models())
def test_components_add_up(name: str) -> None:
    p = llmhw.model(name).parameters
    assert tuple(p.by_component) == COMPONENTS
    assert sum(p.by_component.values()) == p.total
    assert 0 < p.active <= p.total
    assert (p.active == p.total) == (p.by_component["experts"] == 0)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("deepseek-v3", 37), ("deepseek-v2", 21), ("qwen3-235b-a22b", 22), ("mixtral-8x7b", 13), ("kimi-k2", 32)],
)
def test_published_active_parameters(name: str, billions: float) -> None:
    """The published figures are rounded to whole billions, and some leave the embedding table out."""
    p = llmhw.model(name).parameters
    assert p.active - p.by_component["embedding"] <= (billions + 0.5) * 1e9
    assert p.active >= (billions - 0.5) * 1e9


def test_openai_counts_active_without_the_input_embedding() -> None:
    p = llmhw.model("gpt-oss-120b").parameters
    assert (p.active - p.by_component["embedding"]) / 1e9 == pytest.approx(5.13, abs=0.005)


def test_deepseek_v3_prediction_layer() -> None:
    """685 B on the Hub = 671 B + one layer + its own copies of embedding and head."""
    p = llmhw.model("deepseek-v3").parameters
    assert (p.total + p.mtp + p.by_component["embedding"] + p.by_component["head"]) / 1e9 == pytest.approx(685, abs=0.6)


def test_published_facts() -> None:
    """Sizes of safetensors files, to the byte, and published cache sizes."""
    exact = ("safetensors_total_size", "kv_cache_bytes_per_token", "embedding_params", "layer_params")
    rows = [row for row in read_table("model_facts") if row["use"] == "truth" and row["fact"].startswith(exact)]
    assert len(rows) >= 8
    for row in rows:
        assert quantity(Row(row)) == float(row["value"])


# -- names and files --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Llama 3 70B", "LLAMA-3-70B", "meta-llama/Meta-Llama-3-70B", "llama_3_70b"])
def test_forgiving_names(name: str) -> None:
    assert llmhw.model(name).name == "llama-3-70b"


def test_misspelt_name() -> None:
    with pytest.raises(LLMHWError, match=r"model='lama-3-70b' is not known; did you mean llama-3-70b"):
        llmhw.model("lama-3-70b")


def test_from_path_folder_and_dict(tmp_path: Path) -> None:
    _, config = read_model("gpt2")
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    total = llmhw.model("gpt2").parameters.total
    assert llmhw.model(folder).parameters.total == total
    assert llmhw.model(str(folder / "config.json")).name == "my-model"
    assert llmhw.ModelSpec.from_config(folder / "config.json", name="x").name == "x"
    assert llmhw.ModelSpec.from_config(config).parameters.total == total


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist; give the path of a config.json"),
        ("{", "is not JSON"),
        ("[1, 2]", "holds a JSON list, not an object"),
        ("{}", "has no model_type"),
        (
            '{"model_type": "lama"}',
            "model_type='lama' is not supported, and is not approximated; the nearest are llama",
        ),
        ('{"model_type": "llama"}', "config of model_type='llama' has no num_hidden_layers"),
        ('{"model_type": 3}', "has no model_type"),
    ],
)
def test_bad_files(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(LLMHWError, match=message):
        llmhw.model(path)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LLMHWError, match="is not text in UTF-8"):
        llmhw.model(path)


LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "vocab_size": 100,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 3}, "kv_heads=3 does not divide heads=8"),
        (
            {"num_attention_heads": 7, "num_key_value_heads": 7},
            "heads=7 does not divide hidden_size=64, and the config gives no head_dim",
        ),
        ({"hidden_size": 0}, "config key hidden_size=0 must be a whole number from 1 to 10,000,000"),
        ({"hidden_size": "64"}, "config key hidden_size='64' must be a whole number"),
        ({"num_hidden_layers": -2}, "config key num_hidden_layers=-2"),
        ({"vocab_size": None}, "has no vocab_size"),
        ({"tie_word_embeddings": "yes"}, "config key tie_word_embeddings='yes' must be true or false"),
    ],
)
def test_sizes_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        llmhw.ModelSpec.from_config(LLAMA | change)


def test_layer_types_must_cover_every_layer() -> None:
    config = LLAMA | {"model_type": "gemma2", "head_dim": 8, "layer_types": ["full_attention"]}
    with pytest.raises(LLMHWError, match="layer_types must list one entry for each of num_hidden_layers=2"):
        llmhw.ModelSpec.from_config(config)
    with pytest.raises(LLMHWError, match="knows full, sliding and chunked attention"):
        llmhw.ModelSpec.from_config(config | {"layer_types": ["full_attention", "mamba"]})


def test_more_experts_used_than_there_are() -> None:
    config = LLAMA | {"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3}
    with pytest.raises(LLMHWError, match="num_experts_per_tok=3 is more than the 2 experts"):
        llmhw.ModelSpec.from_config(config)


# -- what is said of a model ------------------------------------------------------------------


def test_vision_towers_are_named() -> None:
    assert llmhw.model("gemma-3-27b").left_out == ("vision",)
    assert llmhw.model("llama-3-8b").left_out == ()


def test_attention_kinds() -> None:
    assert llmhw.model("gemma-3-27b").attention_summary == {"sliding": 52, "full": 10}
    assert llmhw.model("deepseek-v3").attention_summary == {"mla": 61}
    assert llmhw.model("qwen3-next-80b-a3b").attention_summary == {"gated-deltanet": 36, "full": 12}


def test_a_model_as_numbers() -> None:
    spec = llmhw.model("mixtral-8x7b")
    assert spec.to_dict()["parameters"]["total"] == spec.parameters.total
    assert spec.to_frame()["parameters"].sum() == spec.parameters.total
