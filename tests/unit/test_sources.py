"""Folders, files and standard input that a model may be read from, and what is refused by what it is."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llmhw
from llmhw.units import LLMHWError
from tests.unit.command import refused, run
from tests.unit.configs import TINY

PARAMS: dict[str, Any] = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "vocab_size": 100}
MEGATRON = (
    "torchrun pretrain_gpt.py --num-layers 2 --hidden-size 64 --ffn-hidden-size 128 --num-attention-heads 4 --swiglu "
    "--normalization RMSNorm --disable-bias-linear --untie-embeddings-and-output-weights "
    "--position-embedding-type rope --padded-vocab-size 100"
)
TOTAL = llmhw.ModelSpec.from_config(TINY).parameters.total


def put(folder: Path, **files: Any) -> Path:
    """Files of JSON in a folder, by their names without the ending."""
    folder.mkdir(exist_ok=True, parents=True)
    for name, data in files.items():
        (folder / f"{name.replace('__', '.')}.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


# -- folders and files ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "CONFIG.JSON", "mine.jsonc", "mine", "my model.txt"])
def test_a_config_in_any_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(TINY), encoding="utf-8")
    assert llmhw.model(path).parameters.total == llmhw.model(str(path)).parameters.total == TOTAL


def test_a_folder_is_read_by_what_it_holds(tmp_path: Path) -> None:
    assert llmhw.model(put(tmp_path / "hf", config=TINY)).name == "hf"
    assert llmhw.model(put(tmp_path / "native", params=PARAMS)).name == "native"
    both = put(tmp_path / "both", config=TINY, params=PARAMS | {"n_layers": 3})
    assert llmhw.model(both).num_layers == 2
    with pytest.raises(LLMHWError, match=r"is a folder without a config.json \(it is empty\); give the path of a"):
        llmhw.model(put(tmp_path / "empty"))
    with pytest.raises(LLMHWError, match=r"without a config.json \(it holds a.json, b.json, c.json, ...\)"):
        llmhw.model(put(tmp_path / "others", a={}, b={}, c={}, d={}))


def test_a_name_is_asked_before_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "gpt2", config=TINY)
    assert llmhw.model("gpt2").model_type == "gpt2"
    assert llmhw.model("./gpt2").model_type == "llama"


@pytest.mark.parametrize("config", [TINY, TINY | {"quantization_config": None}])
def test_what_hf_quant_config_says_is_part_of_the_config(tmp_path: Path, config: dict[str, Any]) -> None:
    said = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    folder = put(tmp_path, config=config, hf_quant_config=said)
    for path in (folder, folder / "config.json"):
        spec = llmhw.model(path)
        assert spec.quantization == "modelopt"
        assert spec.config["quantization_config"]["quantization"]["quant_algo"] == "FP8"
    own = put(tmp_path, config=TINY | {"quantization_config": {"quant_method": "fp8"}})
    assert llmhw.model(own).quantization == "fp8"


def test_a_safetensors_file_is_the_model_of_the_config_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(LLMHWError, match=r"holds weights, and no config.json lies beside it; give the path"):
        llmhw.model(path)
    put(tmp_path, config=TINY)
    assert llmhw.model(path).parameters.total == TOTAL


OTHERS = {
    "tokenizer_config.json": ({"tokenizer_class": "LlamaTokenizer"}, "a tokenizer's configuration"),
    "tokenizer.json": ({"version": "1.0", "added_tokens": [], "model": {}}, "a tokenizer"),
    "special_tokens_map.json": ({"bos_token": "<s>"}, "a tokenizer's list of special tokens"),
    "model.safetensors.index.json": ({"metadata": {}, "weight_map": {}}, "the index of a checkpoint's files"),
    "generation_config.json": (
        {"_from_model_config": True, "transformers_version": "5.0.0"},
        "a configuration of sampling",
    ),
    "preprocessor_config.json": ({"image_processor_type": "X"}, "the configuration of an image processor"),
    "hf_quant_config.json": ({"producer": {}, "quantization": {}}, "a note on how a checkpoint was quantized"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_of_a_checkpoint_are_refused_by_what_they_are(tmp_path: Path, name: str) -> None:
    data, what = OTHERS[name]
    path = tmp_path / name
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(LLMHWError, match=f"is {what}, no model's config; give the path of the model's config.json"):
        llmhw.model(path)
    put(tmp_path, config=TINY)
    assert f"is {what}, no model's config; give {tmp_path / 'config.json'}, which lies beside it" in refused(
        "model", str(path)
    )
    if name in ("special_tokens_map.json",):
        return
    other = tmp_path / "renamed.json"
    other.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(LLMHWError, match=f"is {what}, no model's config"):
        llmhw.model(other)


def test_an_adapter_names_its_base_model(tmp_path: Path) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.1-8B"}
    folder = put(tmp_path, adapter_config=adapter)
    for path in (folder, folder / "adapter_config.json"):
        with pytest.raises(LLMHWError, match=r"is a LoRA adapter of 'meta-llama/Llama-3.1-8B'; give that model"):
            llmhw.model(path)
    put(tmp_path, adapter_config={"peft_type": "LORA"})
    with pytest.raises(LLMHWError, match="is a LoRA adapter, no model's config; give the model that it adapts"):
        llmhw.model(folder)


@pytest.mark.parametrize(
    ("name", "head"), [("pytorch_model.bin", b"PK\x03\x04"), ("old.pt", b"\x80\x02}"), ("x", b"PK\x03\x04")]
)
def test_pickled_weights(tmp_path: Path, name: str, head: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(head + bytes(100))
    with pytest.raises(LLMHWError, match="holds weights in PyTorch's own form, which is not read"):
        llmhw.model(path)


# -- standard input ---------------------------------------------------------------------------


@pytest.mark.parametrize("text", [json.dumps(TINY), json.dumps(PARAMS), MEGATRON])
def test_standard_input_takes_all_that_a_file_may_hold(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    spec = llmhw.model("-")
    assert (spec.name, spec.parameters.total) == ("model", TOTAL)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_a_pipe_into_the_command(name: str) -> None:
    command = [sys.executable, "-m", "llmhw", "model", name, "--json"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, input=json.dumps(PARAMS), capture_output=True, text=True, check=True, cwd=root)
    assert json.loads(done.stdout)["parameters"]["total"] == TOTAL


def test_a_pipe_is_read_once_for_many_answers() -> None:
    for name in ("-", "/dev/stdin"):
        command = [sys.executable, "-m", "llmhw", "model", name, "--weights", "bf16,fp8", "--csv"]
        root = Path(__file__).parents[2]
        done = subprocess.run(command, input=MEGATRON, capture_output=True, text=True, check=True, cwd=root)
        assert len(done.stdout.splitlines()) == 3


def test_an_empty_name_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(put(tmp_path, config=TINY))
    assert "model='' is an empty path; give a name as `llmhw models` lists them" in refused("model", "")


# -- what cannot be read ----------------------------------------------------------------------


def test_a_fifo_does_not_wait(tmp_path: Path) -> None:
    for name in ("pipe.json", "pipe.gguf", "pipe.safetensors", "pipe"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(LLMHWError, match=r"it is no regular file|no config.json lies beside it"):
            llmhw.model(tmp_path / name)


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    """100 MB, most of them nothing on the disk: refused at once, whatever they are called."""
    for name, head in (("big.json", b'{"model_type": "llama", "a": "'), ("big.gguf", b"GGUF\x03\0\0\0"), ("big", b"{")):
        path = tmp_path / name
        with path.open("wb") as file:
            file.write(head)
            file.truncate(10**8)
        line = refused("model", str(path))
        assert "has more than 16,000,000 bytes" in line or "no whole GGUF file" in line or "holds no" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "has objects or lists within each other more than 40 deep"),
        ("a: " + "[" * 50_000, "is YAML that is too deep"),
        ("a: 1\n" + "- " * 40_000, "is not YAML|cannot be read"),
        ("a: &a [1]\n" + "".join(f"b{i}: [*a, *a]\n" for i in range(11)), "has more than 20 aliases"),
        ("num_layers: 2\n" * 10_000, "letters of YAML; at most 100,000 are read"),
        ('{"model_type": "llama", "hidden_size": "\\u0000"}', "config key hidden_size="),
        ("\0\0\0\0", "is not JSON"),
        ("", "is not JSON"),
        ("num_layers: 2\nhidden_size: [1", "is YAML|is not YAML"),
    ],
)
def test_texts_that_are_no_config(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LLMHWError, match=message) as raised:
        llmhw.model(path)
    assert str(raised.value).isprintable()


def test_no_plain_yaml_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "args.yaml"
    path.write_text("num_layers: 2", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(LLMHWError, match=r"is YAML, which needs PyYAML; pip install 'llmhw\[yaml\]'"):
        llmhw.model(path)


def test_every_command_takes_them(tmp_path: Path) -> None:
    path = str(put(tmp_path, params=PARAMS | {"max_seq_len": 4096}) / "params.json")
    for line in (["fit", path, "--gpu", "h100"], ["memory", path, "--gpu", "h100"], ["train", path, "--gpu", "h100"]):
        assert run(*line).returncode == 0, line
    assert run("serve", path, "--gpu", "h100").returncode == 0
    assert run("explain", "kv-cache", path).returncode == 0
