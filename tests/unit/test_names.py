"""Names as people type them: what is peeled, what never is, and which share of downloads is found by its id."""

from __future__ import annotations

from csv import DictReader
from pathlib import Path

import pytest

import llmhw
from llmhw.catalog import model_index, read_model
from llmhw.names import Entry, Names, Resolved, check_format, find_model, key, split_format, unknown_model
from llmhw.units import LLMHWError, nearest

HUB = list(DictReader((Path(__file__).parent / "hub_downloads.csv").read_text("utf-8").splitlines()))

# What is no causal language model: encoders, encoder-decoders, audio.
NOT_DECODERS = set(
    """bert nomic_bert xlm-roberta roberta distilbert mpnet modernbert deberta-v2 albert electra xlnet bart t5 t5gemma
    jina_clip clip siglip wav2vec2-bert mimi encodec dac molformer vision-encoder-decoder relik-reader magi
    moss-audio-tokenizer internvl_vision bidirectional_pplx_qwen3 llama_bidirec""".split()
)


@pytest.mark.parametrize(
    ("typed", "name", "number_format"),
    [
        # Ollama
        ("llama3.1:8b", "llama-3.1-8b", ""),
        ("llama3.1:8b-instruct-q4_K_M", "llama-3.1-8b", "Q4_K_M"),
        ("qwen3:30b-a3b", "qwen3-30b-a3b", ""),
        ("qwen3:30b", "qwen3-30b-a3b", ""),
        ("deepseek-r1:70b", "deepseek-r1-distill-llama-70b", ""),
        # repackagings
        ("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", "llama-3.2-1b", "nf4"),
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "qwen3-8b", "nf4"),
        ("unsloth/Qwen3-8B-GGUF", "qwen3-8b", "gguf"),
        ("unsloth/Qwen3-4B-GGUF:UD-Q4_K_XL", "qwen3-4b", "Q4_K_XL"),
        ("bartowski/Qwen_Qwen3-8B-GGUF", "qwen3-8b", "gguf"),
        ("hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q8_0", "llama-3.2-3b", "Q8_0"),
        ("TheBloke/Llama-2-7B-Chat-GPTQ", "llama-2-7b", "int4-gptq"),
        ("TheBloke/Mistral-7B-Instruct-v0.2-AWQ", "mistral-7b-v0.2", "int4-awq"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", "qwen2.5-7b-instruct", "gptq-8bit"),
        ("Qwen2.5-7B-Instruct-GPTQ-Int4-g64", "qwen2.5-7b-instruct", "int4-gptq-g64"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", "llama-3.1-8b", "int8"),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "llama-3.3-70b", "fp8"),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "llama-3.3-70b", "nvfp4"),
        ("nvidia/Qwen3-30B-A3B-NVFP4", "qwen3-30b-a3b", "nvfp4"),
        ("lmstudio-community/gpt-oss-20b-MXFP4-GGUF", "gpt-oss-20b", "mxfp4"),
        ("mlx-community/Qwen3-8B-bf16", "qwen3-8b", "bf16"),
        ("ibnzterrell/Meta-Llama-3.3-70B-Instruct-AWQ-INT4", "llama-3.3-70b", "int4-awq"),
        ("turboderp/Llama-3.1-8B-Instruct-4.0bpw-exl2", "llama-3.1-8b", "exl2-4.0bpw"),
        # names of files, of which none is there
        ("Meta-Llama-3-8B-Instruct-Q4_K_M.gguf", "llama-3-8b", "Q4_K_M"),
        ("llama-2-7b-chat.Q4_K_M.gguf", "llama-2-7b", "Q4_K_M"),
        ("Qwen3-32B-Q6_K-00001-of-00002.gguf", "qwen3-32b", "Q6_K"),
        # owners, dates, roles, old ids
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b", ""),
        ("https://huggingface.co/Qwen/Qwen3-8B", "qwen3-8b", ""),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek-v3", ""),
        ("Qwen/Qwen3-4B-Thinking-2507-FP8", "qwen3-4b-instruct-2507", "fp8"),
        ("llama-3-1-8b-instruct", "llama-3.1-8b", ""),
        # an entry that has the format in its name stands for itself
        ("Qwen/Qwen3-32B-FP8", "qwen3-32b-fp8", ""),
    ],
)
def test_what_people_type(typed: str, name: str, number_format: str) -> None:
    found = find_model(typed)
    assert found is not None
    assert (found.name, found.format) == (name, number_format)
    assert read_model(typed)[0] == name
    if number_format and number_format not in ("gguf", "Q4_K_XL", "exl2-4.0bpw"):
        assert llmhw.number_format(number_format).name == number_format


@pytest.mark.parametrize(
    "typed",
    [
        "Qwen3-8B-VL",
        "Qwen3-Reward-8B",
        "EAGLE-LLaMA3-Instruct-8B",
        "Qwen3-8B-Draft",
        "Llama-3.1-8B-Math",
        "DeepSeek-R1-Distill-Qwen3-8B",
        "Qwen3-8B-MTP",
        "llama-3.7-8b",
        "Mistral-7B-v0.9",
        "gemma-34b",
        "qwen3-9b",
        "Q4_K_M",
        "instruct",
        "org/",
        "./qwen3-8b",
        "models/sub/qwen3-8b",
        "/qwen3-8b",
        "qwen3-8b/",
    ],
)
def test_what_makes_another_model_or_a_path_is_never_peeled(typed: str) -> None:
    assert find_model(typed) is None


def test_the_answer_says_what_was_peeled() -> None:
    assert find_model("qwen3-8b") == Resolved("qwen3-8b")
    assert find_model("Qwen/Qwen3-8B") == Resolved("qwen3-8b")
    assert find_model("acme/Qwen3-8B-Instruct-2507-AWQ") == Resolved(
        "qwen3-8b", "int4-awq", ("acme", "Instruct", "2507")
    )


def test_the_least_peeling_wins_and_several_are_listed() -> None:
    known = Names(
        [
            Entry("solo", ("org/solo",), ("t", "1")),
            Entry("solo-0301", (), ("t", "2")),
            Entry("twin-instruct", (), ("t", "3")),
            Entry("twin-0301", (), ("t", "4")),
            Entry("kin", (), ("t", "5")),
            Entry("kin-instruct-0301", (), ("t", "5")),
        ]
    )
    assert known.find("solo") == Resolved("solo")
    assert known.find("Solo-0301-Instruct") == Resolved("solo-0301", "", ("Instruct",))
    assert known.find("kin-thinking-0412") == Resolved("kin", "", ("thinking", "0412"))
    for typed in ("twin", "solo-0412"):  # a date that nobody knows: of which shape is it?
        with pytest.raises(LLMHWError, match=r"is ambiguous; use one of (twin-instruct, twin-0301|solo, solo-0301)$"):
            known.find(typed)
    with pytest.raises(LLMHWError, match=r"states the formats int4-awq and fp8; leave one out"):
        known.find("solo-AWQ-FP8")


def test_a_format_that_is_asked_for_must_be_the_one_of_the_name() -> None:
    check_format("weights", "awq", "Qwen3-8B-AWQ", "int4-awq")
    check_format("weights", "fp8", "Qwen3-8B", "")
    check_format("weights", "Q4_K_M", "Qwen3-8B-GGUF", "gguf")
    check_format("weights", "int4-awq", "Qwen3-8B-4bit", "mlx-4bit")
    with pytest.raises(LLMHWError, match=r"weights='bf16' is not the gguf that model='Qwen3-8B-GGUF' states"):
        check_format("weights", "bf16", "Qwen3-8B-GGUF", "gguf")
    with pytest.raises(LLMHWError, match=r"weights='fp8' is not the int4-awq that model='Qwen3-8B-AWQ' states"):
        check_format("weights", "fp8", "Qwen3-8B-AWQ", "int4-awq")


@pytest.mark.parametrize("name", ["fp8", "bf16", "int4-gptq", "gptq-8bit", "int4-awq-g64", "nf4", "nvfp4", "Q5_K_S"])
def test_a_format_behind_a_name_is_read_as_it_is_written(name: str) -> None:
    assert split_format(f"qwen3-8b-{name}") == ("qwen3-8b", name)


def test_spellings() -> None:
    assert key("Llama 3.1_8B") == key("llama-3.1-8b") == key("LLAMA3.1:8b")
    assert len({key("qwen2.5-7b"), key("qwen2-5.7b"), key("qwen-25-7b")}) == 3


def test_what_lies_on_the_disk_is_meant_where_the_name_is_not_the_catalogs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen3-8B-AWQ").mkdir()
    (tmp_path / "qwen3-8b").mkdir()
    with pytest.raises(KeyError):
        read_model("Qwen3-8B-AWQ")
    assert read_model("qwen3-8b")[0] == "qwen3-8b"


@pytest.mark.parametrize("typed", ["lfm9", "dense", "xarcee", "zzz"])
def test_nothing_is_suggested_for_what_is_like_nothing(typed: str) -> None:
    assert "run `llmhw models` for the list" in str(unknown_model("model", typed))


def test_suggestions_are_of_the_family_first_and_of_what_is_left() -> None:
    assert "did you mean qwen3-8b" in str(unknown_model("model", "acme/Qwen9-8B-Instruct-GGUF"))
    assert nearest("lfm2", ["olmo2", "glm", "llama"]) == []
    assert nearest("fti", ["fit", "flops"]) == ["fit"]
    assert nearest("mixtrl", ["mistral-7b", "mixtral-8x7b"])[0] == "mixtral-8x7b"


def test_shares_of_the_hubs_downloads_that_are_found_by_id() -> None:
    refused = {row["name"] for row in model_index() if row["refused"]}
    asked = {"all": 0, "decoders": 0}
    found, read = dict(asked), dict(asked)
    for row in HUB:
        try:
            meant = find_model(row["id"])
        except LLMHWError:
            meant = None
        for group in ("all", "decoders") if row["architecture"] not in NOT_DECODERS else ("all",):
            count = int(row["downloads_a_month"])
            asked[group] += count
            found[group] += count * (meant is not None)
            read[group] += count * (meant is not None and meant.name not in refused)
    assert found["decoders"] / asked["decoders"] > 0.95
    assert found["all"] / asked["all"] > 0.935
    assert read["decoders"] / asked["decoders"] > 0.95


def test_models_of_a_refused_architecture_are_refused_by_its_name() -> None:
    for row in model_index():
        if row["refused"]:
            with pytest.raises(LLMHWError) as error:
                llmhw.model(row["name"])
            assert row["refused"] in str(error.value), row["name"]
