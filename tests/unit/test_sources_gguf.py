"""GGUF files: the model in them is the one they were made from, and their bytes are counted to the last one.

The files are written by the package gguf, and are what llama.cpp's converter made of models of transformers.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf as gguf_package
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader

import llmhw
from llmhw.catalog import read_table
from llmhw.families import FAMILIES
from llmhw.sources import gguf
from llmhw.units import LLMHWError
from tests.unit.command import answer, refused, run
from tests.unit.gguf_files import MODELS, family, llama, write

FAMILY = {kind for key, entry in FAMILIES.items() for kind in (key, *entry.synonyms)}
# What a file does not say, and the config does: converters of llama.cpp drop the window.
NO_WINDOW = ("mistral", "mixtral", "starcoder2", "qwen2_moe")


def stored(spec: llmhw.ModelSpec) -> dict[str, Any]:
    found: dict[str, Any] = spec.config["quantization_config"]
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_model_in_a_file_is_the_one_it_was_made_of(tmp_path: Path, name: str) -> None:
    path = family(tmp_path / f"{name}.gguf", name)
    of_transformers = MODELS[name]
    known = of_transformers["config"]["model_type"] in FAMILY
    try:
        spec = llmhw.model(path)
    except LLMHWError:
        assert not known
        return
    assert spec.name == name
    assert spec.parameters.total == of_transformers["parameters"]
    if not known:  # a family that another one is the same as
        return
    own = llmhw.ModelSpec.from_config(of_transformers["config"])
    assert spec.parameters.by_component == own.parameters.by_component
    assert (spec.num_layers, spec.hidden, spec.heads, spec.vocab_size) == (
        own.num_layers,
        own.hidden,
        own.heads,
        own.vocab_size,
    )
    assert llmhw.forward_flops(spec, seq_len=16).total == llmhw.forward_flops(own, seq_len=16).total
    if name not in NO_WINDOW:
        assert llmhw.kv_cache(spec, seq_len=100).total == llmhw.kv_cache(own, seq_len=100).total


@pytest.mark.parametrize(
    "kind", [kind.name for kind in GGMLQuantizationType if kind.name[0] != "I" or kind.name[1] == "Q"]
)
def test_bytes_are_those_of_the_file(tmp_path: Path, kind: str) -> None:
    """Against what the reader of the package says of the same file."""
    path = write(tmp_path / "model.gguf", *llama(kind))
    reader = GGUFReader(path)
    found = stored(llmhw.model(path))
    assert found["tensor_bytes"] == sum(tensor.n_bytes for tensor in reader.tensors)
    assert found["file_bytes"] == path.stat().st_size
    by_type: dict[str, list[int]] = {}
    for tensor in reader.tensors:
        counts = by_type.setdefault(tensor.tensor_type.name, [0, 0])
        counts[0] += tensor.n_elements
        counts[1] += tensor.n_bytes
    mine: dict[str, list[int]] = {}
    for _, of, elements, held in found["groups"]:
        counts = mine.setdefault(of, [0, 0])
        counts[0] += elements
        counts[1] += held
    assert mine == by_type
    assert {of: list(counts) for of, counts in found["types"].items()} == by_type


def test_what_the_header_says_is_what_the_package_reads(tmp_path: Path) -> None:
    more = {"llama.rope.freq_base": 5e5, "general.name": "a name", "llama.list": [1, 2, 3], "llama.yes": True}
    path = write(tmp_path / "model.gguf", *llama("Q4_K", **more), words=1000)
    reader, file = GGUFReader(path), gguf.read_file(str(path), "model")
    theirs = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert theirs.pop("tokenizer.ggml.tokens") == [f"word {i}" for i in range(1000)]
    assert {key: value for key, value in file.metadata.items() if key != "tokenizer.ggml.tokens"} == theirs
    assert file.metadata["tokenizer.ggml.tokens"] == 1000, "of a vocabulary only its size is kept"
    assert {name: (t.kind, list(t.shape), t.elements, t.bytes) for name, t in file.tensors.items()} == {
        t.name: (t.tensor_type.name, t.shape.tolist(), t.n_elements, t.n_bytes) for t in reader.tensors
    }


def test_components_are_those_of_the_model(tmp_path: Path) -> None:
    for name in ("llama", "qwen3_moe", "gpt2", "deepseek_v3", "qwen3_next", "gpt_oss"):
        spec = llmhw.model(family(tmp_path / f"{name}.gguf", name))
        by_component = dict.fromkeys(spec.parameters.by_component, 0)
        for component, _, elements, _ in stored(spec)["groups"]:
            by_component[component] += elements
        by_component["router"] -= stored(spec)["choices"]
        assert by_component == spec.parameters.by_component, name


def test_parts_of_a_split_file_are_one_model(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", *llama("Q8_0"), split=7)
    parts = sorted(tmp_path.iterdir())
    assert len(parts) > 2
    assert parts[0].name == f"model-00001-of-{len(parts):05d}.gguf"
    whole = tmp_path / "whole"
    whole.mkdir()
    one = llmhw.model(write(whole / "model.gguf", *llama("Q8_0")))
    for part in (parts[0], parts[-1]):
        spec = llmhw.model(part)
        assert (spec.name, spec.parameters) == ("model", one.parameters)
        assert stored(spec)["tensor_bytes"] == stored(one)["tensor_bytes"]
        assert stored(spec)["file_bytes"] == sum(path.stat().st_size for path in parts)
    parts[1].unlink()
    with pytest.raises(LLMHWError, match=r"-00002-of-0000\d.gguf' does not exist"):
        llmhw.model(parts[0])
    parts[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(LLMHWError, match=r"is one of \d parts; keep their names"):
        llmhw.model(tmp_path / "renamed.gguf")


def test_a_folder_with_one_model(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", *llama(), split=9)
    (tmp_path / "mmproj-model.gguf").write_bytes(b"GGUF")
    assert llmhw.model(tmp_path).model_type == "llama"
    write(tmp_path / "other.gguf", *llama())
    with pytest.raises(LLMHWError, match=r"holds 2 GGUF files; give the path of one, such as model-00001-of-"):
        llmhw.model(tmp_path)


def test_the_command_prints_the_bytes_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", *llama("Q6_K", **{"general.file_type": 18}))
    found = stored(llmhw.model(path))
    done = run("model", str(path))
    assert done.returncode == 0, done.stderr
    assert f"the file has {path.stat().st_size:,} bytes" in done.stdout
    assert f"{found['tensor_bytes']:,} of tensors in Q6_K" in done.stdout
    assert "is a GGUF file, which is read by its tensors; --check adds nothing" in refused(
        "model", str(path), "--check"
    )
    for line in (["fit", str(path), "--gpu", "h100"], ["memory", str(path), "--gpu", "h100"]):
        assert run(*line).returncode == 0
    assert answer("serve", str(path), "--gpu", "h100", "--input-tokens", "100", "--output-tokens", "50")


@pytest.mark.parametrize(
    ("architecture", "model_type"),
    [
        ("baichuan", "baichuan"), ("internlm2", "internlm2"), ("exaone", "exaone"), ("minicpm", "minicpm"),
        ("xverse", "xverse"), ("orion", "orion"), ("granite", "granite"), ("mistral3", "ministral3"),
        ("seed_oss", "seed_oss"), ("ernie4_5", "ernie4_5"), ("smollm3", "smollm3"),
    ],
)  # fmt: skip
def test_relatives_of_llama(tmp_path: Path, architecture: str, model_type: str) -> None:
    """Those of its tensors, under another architecture's name; Orion's norms have biases."""
    metadata, tensors = llama(heads=4)
    metadata = {key.replace("llama.", f"{architecture}."): value for key, value in metadata.items()}
    if architecture == "orion":
        norms = {name.replace("weight", "bias"): size for name, size in tensors.items() if "norm" in name}
        tensors = tensors | norms
    spec = llmhw.model(write(tmp_path / "model.gguf", metadata | {"general.architecture": architecture}, tensors))
    assert spec.model_type == model_type
    assert spec.parameters.total == stored(spec)["elements"]


def test_experts_of_their_own(tmp_path: Path) -> None:
    """Files of 2023 hold each expert's matrices for themselves."""
    metadata, tensors = llama("F16", layers=1, **{"llama.expert_count": 4, "llama.expert_used_count": 2})
    for part in ("gate", "up", "down"):
        one = tensors.pop(f"blk.0.ffn_{part}.weight")
        tensors |= {f"blk.0.ffn_{part}.{i}.weight": one for i in range(4)}
    tensors["blk.0.ffn_gate_inp.weight"] = ["F32", 256, 4]
    spec = llmhw.model(write(tmp_path / "model.gguf", metadata, tensors))
    assert (spec.model_type, spec.parameters.by_component["experts"]) == ("mixtral", 4 * 3 * 256 * 512)
    assert spec.parameters.active < spec.parameters.total


def test_the_other_byte_order(tmp_path: Path) -> None:
    from gguf import GGUFEndian, GGUFWriter

    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "llama", endianess=GGUFEndian.BIG)
    metadata, tensors = llama("F32")
    import numpy as np

    for key, value in metadata.items():
        if key != "general.architecture":
            writer.add_uint32(key, value)
    for name, (_, *shape) in tensors.items():
        writer.add_tensor(name, np.zeros(shape[::-1], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert llmhw.model(path).parameters == llmhw.model(write(tmp_path / "little.gguf", metadata, tensors)).parameters


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.type": "adapter"}, "holds a LoRA adapter; give the GGUF file of the language model"),
        ({"general.architecture": "clip"}, "holds a vision or audio tower"),
        ({"general.architecture": "frog"}, "model_type='frog' is not supported"),
        ({"llama.block_count": 3}, r"parameters, but the file's tensors hold [\d,]+: this variant is not covered"),
        ({"llama.embedding_length": "x"}, "its metadata key llama.embedding_length is 'x', which is no such size"),
        ({"llama.block_count": 10**6}, "says that it has 1,000,000 blocks"),
        ({"general.alignment": 48}, r"its general.alignment=48 is no power of two"),
    ],
)
def test_models_that_are_not_read(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    metadata, tensors = llama()
    metadata = {
        key.replace("llama.", f"{change.get('general.architecture', 'llama')}."): v for key, v in metadata.items()
    }
    with pytest.raises(LLMHWError, match=message) as raised:
        llmhw.model(write(tmp_path / "model.gguf", metadata | change, tensors))
    assert len(str(raised.value).splitlines()) == 1


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    metadata, tensors = llama()
    del metadata["llama.attention.head_count"]
    path = write(tmp_path / "model.gguf", metadata, tensors)
    assert "its metadata key llama.attention.head_count is missing; give the model's config.json" in refused(
        "model", str(path)
    )


def test_only_a_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(LLMHWError, match="holds metadata, such as a vocabulary, but no tensors"):
        llmhw.model(write(tmp_path / "vocab.gguf", llama()[0], {}))


def broken(data: bytes) -> dict[str, bytes]:
    """Files that are not what they say, each by another lie."""
    huge = struct.pack("<Q", 2**63)
    return {
        "cut in the header": data[:60],
        "cut in the tensors": data[:-2000],
        "more tensors": data[:8] + huge + data[16:],
        "more keys": data[:16] + huge + data[24:],
        "a long key": data[:24] + huge + data[32:],
        "version 1": data[:4] + struct.pack("<I", 1) + data[8:],
        "version 9": data[:4] + struct.pack("<I", 9) + data[8:],
        "magic": b"GGML" + data[4:],
        "nothing": b"",
        "zeros": b"GGUF" + bytes(5000),
    }


@pytest.mark.parametrize("lie", broken(b""))
def test_what_is_no_gguf_file(tmp_path: Path, lie: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(broken(write(path, *llama()).read_bytes())[lie])
    with pytest.raises(LLMHWError, match=r"is no whole GGUF file: .*; download it again|cannot be read|no model"):
        llmhw.model(path)


def test_places_that_hold_none(tmp_path: Path) -> None:
    (tmp_path / "folder.gguf").mkdir()
    for name, message in (
        ("no.gguf", "does not exist"),
        ("folder.gguf", "is a folder without a config.json"),
    ):
        with pytest.raises(LLMHWError, match=message):
            llmhw.model(tmp_path / name)


def test_the_catalog_has_the_types_of_the_package() -> None:
    """The package needs NumPy, which a browser has not got; the tables of llama.cpp are its own."""
    rows = read_table("gguf_types")
    tensors = {
        int(r["number"]): (r["name"], int(r["elements"]), int(r["bytes"])) for r in rows if r["kind"] == "tensor"
    }
    assert tensors == {kind.value: (kind.name, *GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType}
    mixes = {int(r["number"]): r["name"] for r in rows if r["kind"] == "mix"}
    assert mixes == {
        kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf_package.LlamaFileType
    }
    assert len(tensors) + len(mixes) == len(rows)


def test_the_first_bytes_of_a_file_are_enough(tmp_path: Path) -> None:
    """A page reads the head alone: every shorter one asks for more, and none is taken for broken."""
    path = write(tmp_path / "model.gguf", *llama("Q4_K", **{"general.file_type": 15}), words=300)
    data, whole = path.read_bytes(), llmhw.model(path)
    size = len(data)
    found = {n: gguf.read_head(data[:n], size, "folder/model.gguf") for n in range(0, size, 97)}
    needed = next(n for n, model in found.items() if model)
    assert needed < size / 10
    for n, model in found.items():
        assert model == (("model", whole.config) if n >= needed else None)
    message = r"gguf='x.gguf' is no whole GGUF file: .*; download it again|holds no model"
    for wrong in broken(data).values():
        with pytest.raises(LLMHWError, match=message):
            gguf.read_head(wrong, len(wrong), "x.gguf")


def test_one_part_of_several_is_no_model(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", *llama("Q8_0"), split=7)
    first = min(tmp_path.iterdir())
    with pytest.raises(LLMHWError, match=r"is one of \d parts; give the model's config.json"):
        gguf.read_head(first.read_bytes(), first.stat().st_size, first.name)
