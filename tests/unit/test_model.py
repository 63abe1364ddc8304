"""Reading configs: published counts, and every way a config can be wrong."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import llmhw
from llmhw import catalog
from llmhw.catalog import model_index, read_model, read_table
from llmhw.families.config import KEYS
from llmhw.model import COMPONENTS, ModelSpec
from llmhw.units import LLMHWError
from llmhw.validation.facts import quantity
from llmhw.validation.table import Row

INDEX = [row for row in catalog.model_index() if not row["refused"]]


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
    """The published total adds prediction layers or scales to the model."""
    assert 0 < llmhw.model(row["name"]).parameters.total <= int(float(row["parameters_published"]))


@pytest.mark.parametrize("name", llmhw.models())
def test_components_add_up(name: str) -> None:
    p = llmhw.model(name).parameters
    assert tuple(p.by_component) == COMPONENTS
    assert sum(p.by_component.values()) == p.total
    assert 0 < p.active <= p.text == p.total - p.by_component["vision"] - p.by_component["audio"]
    assert (p.active == p.text) == (p.by_component["experts"] == 0)


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
        ('{"model_type": "llama"}', "of model_type='llama' has no vocab_size, no hidden_size and no num_hidden_layers"),
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
        ({"model_type": "internlm2", "vocab_size": None}, "has no vocab_size"),
        ({"tie_word_embeddings": "yes"}, "config key tie_word_embeddings='yes' must be true or false"),
    ],
)
def test_sizes_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        llmhw.ModelSpec.from_config(LLAMA | change)


def test_sizes_of_the_class() -> None:
    """What a published file leaves out because the class has it, as llava-1.5 does, is taken from there, and said."""
    text = {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096}
    spec = llmhw.ModelSpec.from_config(text)
    assert (spec.hidden, spec.num_layers, spec.heads, spec.kv_heads, spec.intermediate) == (4096, 32, 32, 32, 11008)
    assert spec.parameters.total == 6_738_939_904  # of the 7,063,427,072 of llava-1.5-7b, without its tower
    assert set(spec.assumed) == {"hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"}
    assert llmhw.ModelSpec.from_config(LLAMA | {"max_position_embeddings": 8}).assumed == {}
    assert llmhw.ModelSpec.from_config(LLAMA).max_seq_len == 2048


def test_null_is_no_grouped_heads() -> None:
    """The class of Mistral has 8 KV heads where a config says nothing, and as many as heads where it says null."""
    mistral = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"} | {"model_type": "mistral"}
    assert llmhw.ModelSpec.from_config(mistral).kv_heads == 8
    assert llmhw.ModelSpec.from_config(mistral | {"num_attention_heads": 4, "num_key_value_heads": None}).kv_heads == 4


def test_patterns_of_letters() -> None:
    config = LLAMA | {"model_type": "exaone4", "num_hidden_layers": 5, "sliding_window": 64}
    spec = llmhw.ModelSpec.from_config(config | {"sliding_window_pattern": "LLG"})
    windows = [layer.attention and layer.attention.window for layer in spec.layers]
    assert windows == [64, 64, None, 64, 64]
    listed = {"sliding_window_pattern": "LLLG", "layer_types": ["full_attention"] * 5}
    assert llmhw.ModelSpec.from_config(config | listed).attention_summary == {"full": 5}
    with pytest.raises(LLMHWError, match="must be a whole number, or letters L and G, such as LLLG"):
        llmhw.ModelSpec.from_config(config | {"sliding_window_pattern": "LXG"})


def test_bloom_as_it_was_published() -> None:
    config = {"model_type": "bloom", "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16, "vocab_size": 250880}
    spec = llmhw.ModelSpec.from_config(config | {"seq_length": 2048, "n_inner": None})
    assert spec.parameters.total == 559_214_592
    assert spec.max_seq_len == 2048


@pytest.mark.parametrize("name", ["mimo-7b", "exaone-4.5-33b"])
def test_checkpoints_with_multi_token_prediction(name: str) -> None:
    """What the Hub counts in the checkpoint is the model with the block that drafts its next tokens."""
    row = next(row for row in model_index() if row["name"] == name)
    counts = llmhw.model(name).parameters
    assert counts.total + counts.mtp == int(row["parameters_published"])


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
    spec = llmhw.model("gemma-3-27b")
    assert [(t.kind, t.tokens, t.width) for t in spec.towers] == [("vision", 256, 5376)]
    assert llmhw.model("llama-3-8b").towers == llmhw.model("llama-3-8b").left_out == spec.left_out == ()


def test_attention_kinds() -> None:
    assert llmhw.model("gemma-3-27b").attention_summary == {"sliding": 52, "full": 10}
    assert llmhw.model("deepseek-v3").attention_summary == {"mla": 61}
    assert llmhw.model("qwen3-next-80b-a3b").attention_summary == {"gated-deltanet": 36, "full": 12}


def test_a_model_as_numbers() -> None:
    spec = llmhw.model("mixtral-8x7b")
    assert spec.to_dict()["parameters"]["total"] == spec.parameters.total
    assert spec.to_frame()["parameters"].sum() == spec.parameters.total


# -- what a config may hold -------------------------------------------------------------------

KINDS_OF_WRONG: tuple[Any, ...] = (
    "2048", [2048], {"a": 1}, math.nan, math.inf, -math.inf, -1, 1.5, True, 10**300, 10**19, "", "\ud800", "\x1b[31m",
    [None], [[1]], [[["global"], 10**9]], 5, b"x", object(),
)  # fmt: skip


def published(name: str) -> dict[str, Any]:
    return deepcopy(dict(read_model(name)[1]))


READ = (
    "llama-3-8b gpt-neo-125m deepseek-v3.2 gpt-oss-20b qwen3-30b-a3b nemotron-h-56b falcon-7b opt-350m gemma-2-2b "
    "llama-4-scout mimo-v2-flash smollm3-3b qwen3-next-80b-a3b phi-3-mini mpt-7b bloom-560m gpt-j-6b starcoder"
).split()


@pytest.mark.parametrize("name", READ)
def test_no_value_of_a_config_breaks_its_reading(name: str) -> None:
    """Every key that is read with every wrong value: an answer that prints, or one line that names the key."""
    config = published(name)
    text = config.get("text_config", config)
    for key in [*text, *KEYS]:
        kept = text.get(key)
        for value in KINDS_OF_WRONG:
            text[key] = value
            message = ""
            try:
                spec = ModelSpec.from_config(config)
                assert 0 < spec.parameters.total <= 10**16
                assert str(spec).isprintable()
                assert 0 <= spec.rotary < math.inf
                json.dumps(spec.to_dict(), allow_nan=False)
                assert 0 <= llmhw.kv_cache(spec, seq_len=16).total < math.inf
                assert 0 < llmhw.forward_flops(spec, seq_len=16, causal=True).total < math.inf
            except LLMHWError as error:
                message = str(error)
            assert message.isprintable()
            assert len(message) < 500
        if kept is None:
            text.pop(key)
        else:
            text[key] = kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"max_position_embeddings": "2048"},
            "config key max_position_embeddings='2048' must be a whole number from 1 to",
        ),
        (
            {"max_position_embeddings": math.nan},
            "config key max_position_embeddings=nan must be a whole number from 1 to",
        ),
        ({"rope_scaling": {"partial_rotary_factor": "x"}}, "config key rope_scaling.partial_rotary_factor='x' must be"),
        ({"hidden_size": 10**300}, "config key hidden_size=1000000"),
        (
            {"num_hidden_layers": 10**9},
            "config key num_hidden_layers=1000000000 must be a whole number from 1 to 1,000",
        ),
        ({"vocab_size": 10**300}, "config key vocab_size=1000"),
        ({"_name_or_path": "\ud800"}, r"config key _name_or_path='\ud800' must be a name without control characters"),
        ({"_name_or_path": "\x1b[31mred"}, r"config key _name_or_path='\x1b[31mred' must be a name without control"),
        ({"_name_or_path": 5}, "config key _name_or_path=5 must be a name"),
        ({3: 1}, "config key 3 must be a text"),
        (
            {"hidden_size": 10**7, "vocab_size": 10**9},
            "parameters, more than 1e+16; look for a size with too many digits",
        ),
        ({"model_type": 3}, "config key model_type=3 must be a name"),
        ({"text_config": 3, "model_type": "lama"}, "model_type='lama' is not supported"),
    ],
)
def test_a_wrong_value_is_named(change: dict[Any, Any], message: str) -> None:
    with pytest.raises(LLMHWError) as raised:
        ModelSpec.from_config({**published("llama-3-8b"), "head_dim": 128, **change})
    assert message in str(raised.value)


def test_lists_have_an_entry_for_each_layer() -> None:
    config = published("qwen3-30b-a3b") | {"mlp_only_layers": 5}
    with pytest.raises(LLMHWError, match="config key mlp_only_layers=5 must be a list of whole numbers"):
        ModelSpec.from_config(config)
    config = published("smollm3-3b") | {"no_rope_layers": [1]}
    with pytest.raises(LLMHWError, match="config key no_rope_layers must list one entry for each"):
        ModelSpec.from_config(config)


# -- where a model is looked for --------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "mine", "my model.txt"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_config_may_be_in_any_file(tmp_path: Path, name: str, mark: str) -> None:
    path = tmp_path / name
    path.write_text(mark + json.dumps(published("gpt2")), encoding="utf-8")
    for wanted in (path, str(path)):
        assert llmhw.model(wanted).parameters == llmhw.model("gpt2").parameters
    if name == "config.json":
        assert llmhw.model(tmp_path).name == tmp_path.name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "model='' is an empty path; give a name as `llmhw models` lists them, or the path of a config.json"),
        (" ", "model=' ' is an empty path"),
        ("a" * 301, "is not known; run `llmhw models` for the list"),
        ("a" * 301 + ".json", "cannot be read (File name too long)"),
        ("/" + "a" * 301, "cannot be read (File name too long)"),
        ("\ud800", r"model='\ud800' is not known"),
        ("\x1b[31m", r"model='\x1b[31m' is not known"),
        ("a\0b", "holds a zero byte"),
        ("/dev/zero", "cannot be read (it is no regular file)"),
        ("/dev/null", "cannot be read (it is no regular file)"),
        ("no/config.json", "config='no/config.json' does not exist; give the path of a config.json"),
        (3, "model=3 is no path; give a name as `llmhw models` lists them"),
        (None, "model=None is no path"),
        (["gpt2"], "model=['gpt2'] is no path"),
        (b"gpt2", "model=b'gpt2' is no path"),
    ],
)
def test_what_is_no_model(name: Any, message: str) -> None:
    with pytest.raises(LLMHWError) as raised:
        llmhw.model(name)
    assert message in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500
