"""Files of a checkpoint beside the prediction from its config; `tests/truth` holds those that transformers saves."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import llmhw
from llmhw.sources.headers import checkpoint_at
from llmhw.stored import check
from llmhw.units import LLMHWError
from tests.unit.command import answer, refused, run

CONFIG: dict[str, Any] = {
    "model_type": "mixtral",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 50,
    "dtype": "float16",
}


def tensors(layers: int = 2) -> dict[str, Any]:
    """Those of Mixtral, as it is published: each expert for itself."""
    sizes = {"model.embed_tokens.weight": (50, 32), "model.norm.weight": (32,), "lm_head.weight": (50, 32)}
    for i in range(layers):
        sizes |= {
            f"model.layers.{i}.{name}.weight": size
            for name, size in {
                "self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32),
                "self_attn.o_proj": (32, 32), "block_sparse_moe.gate": (4, 32), "input_layernorm": (32,),
                "post_attention_layernorm": (32,),
                **{f"block_sparse_moe.experts.{e}.{w}": (32, 48) if w == "w2" else (48, 32)
                   for e in range(4) for w in ("w1", "w2", "w3")},
            }.items()
        }  # fmt: skip
    return {name: np.zeros(size, np.float16) for name, size in sizes.items()}


def checkpoint(folder: Path, held: dict[str, Any] | None = None, *, parts: int = 1, **config: Any) -> Path:
    """A folder with a config and its files; several have an index."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config), encoding="utf-8")
    held = tensors() if held is None else held
    if parts == 1:
        save_file(held, folder / "model.safetensors")
        return folder
    names = {name: f"model-{i % parts + 1:05d}-of-{parts:05d}.safetensors" for i, name in enumerate(held)}
    for file in set(names.values()):
        save_file({name: held[name] for name in held if names[name] == file}, folder / file)
    total = sum(tensor.nbytes for tensor in held.values())
    index = {"metadata": {"total_size": total}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


@pytest.mark.parametrize("parts", [1, 3])
def test_a_checkpoint_that_is_as_predicted(tmp_path: Path, parts: int) -> None:
    folder = checkpoint(tmp_path / "mine", parts=parts)
    spec, held = llmhw.model(folder), tensors()
    for path in (folder, folder / "config.json", sorted(folder.glob("*.safetensors"))[-1]):
        found = check(str(path))
        assert found.equal
        assert found.bytes == (sum(t.nbytes for t in held.values()),) * 2
        assert found.tensors == (len(held),) * 2
        assert found.by_type == {"F16": (len(held), spec.parameters.total, found.bytes[1])}
    done = run("model", str(folder), "--check")
    assert done.returncode == 0
    assert f"equal: {len(held)} tensors and {found.bytes[1]:,} bytes, as predicted" in done.stdout
    assert answer("model", str(folder), "--check")["equal"] is True


def test_a_difference_is_told_by_component(tmp_path: Path) -> None:
    held = tensors()
    del held["model.layers.1.self_attn.q_proj.weight"]
    held["model.norm.weight"] = np.zeros(40, np.float16)
    folder = checkpoint(tmp_path / "mine", held)
    found = check(str(folder))
    assert not found.equal
    assert found.elements is not None
    assert [name for name, (mine, theirs) in found.elements.items() if mine != theirs] == ["attention", "norms"]
    assert found.elements["attention"] == (2 * 3072, 2 * 3072 - 1024)
    done = run("model", str(folder), "--check")
    assert done.returncode == 1
    assert "not equal: attention, norms, tensors, bytes differ from what the config predicts" in done.stdout
    assert "-1,024" in done.stdout


def test_another_format_is_a_difference_in_bytes_alone(tmp_path: Path) -> None:
    held = {name: tensor.astype(np.float32) for name, tensor in tensors().items()}
    found = check(str(checkpoint(tmp_path / "mine", held)))
    assert found.verdict == "not equal: bytes differs from what the config predicts"
    assert check(str(checkpoint(tmp_path / "other", held, dtype="float32"))).equal


def test_what_lies_beside_the_model_is_listed(tmp_path: Path) -> None:
    more = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32),
        "model.visual.blocks.30.mlp.weight": np.zeros((3, 5), np.float16),
        "model.layers.2.self_attn.q_proj.weight": np.zeros((32, 32), np.float16),
        "mtp.fc.weight": np.zeros((2, 2), np.float16),
    }
    found = check(str(checkpoint(tmp_path / "mine", tensors() | more)))
    assert found.equal
    assert found.beside == {
        "buffers": (4, 16),
        "vision and audio parts": (15, 30),
        "multi-token prediction": (1028, 2056),
    }
    tied = check(str(checkpoint(tmp_path / "tied", tie_word_embeddings=True)))
    assert tied.equal
    assert tied.beside == {"a copy of the tied embeddings": (1600, 3200)}


def test_what_nobody_trains_is_no_difference_and_what_is_not_known_is_one(tmp_path: Path) -> None:
    buffers = {
        "model.layers.0.mlp.gate.tid2eid": np.zeros(6, np.int64),
        "model.layers.0.some.count": np.zeros(3, np.int32),
        "model.rotary_emb.alpha": np.zeros(2, np.float32),
        "model.layers.1.block_sparse_moe.gate.bias": np.zeros(4, np.float16),
    }
    found = check(str(checkpoint(tmp_path / "buffers", tensors() | buffers)))
    assert found.equal
    assert found.beside == {"buffers": (15, 76)}
    for name in ("model.layers.0.self_attn.q_proj.bias", "model.layers.0.mlp.vision_gate.weight", "model.scale"):
        found = check(str(checkpoint(tmp_path / name, tensors() | {name: np.zeros(8, np.float16)})))
        assert not found.equal
        assert found.beside == {}


def test_an_index_without_its_files(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "mine", parts=3)
    one, *others = sorted(folder.glob("*.safetensors"))
    one.unlink()
    with pytest.raises(LLMHWError, match=r"lacks 1 of its 3 files, such as model-00001-of-00003.safetensors; download"):
        check(str(folder))
    for path in others:
        path.unlink()
    found = check(str(folder))
    assert found.equal
    assert found.elements is None
    assert "by the index; its files are not there" in run("model", str(folder), "--check").stdout
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"metadata": {}}), encoding="utf-8")
    with pytest.raises(LLMHWError, match="has an index without total_size, and none of its files is there"):
        check(str(folder))


@pytest.mark.parametrize("name", ["llama-3-8b", "-", "no/where"])
def test_only_what_lies_on_the_disk(name: str) -> None:
    assert "is no folder or file here; --check compares a checkpoint on disk" in refused("model", name, "--check")


def test_quantized_checkpoints_and_folders_without_files(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "mine", quantization_config={"quant_method": "awq", "bits": 4})
    assert "is quantized (awq); --check compares checkpoints whose tensors are not packed" in refused(
        "model", str(folder), "--check"
    )
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    assert "has no safetensors files beside it; give the folder of a checkpoint" in refused(
        "model", str(tmp_path), "--check"
    )


# -- broken files -----------------------------------------------------------------------------


def header(data: Any, length: int | None = None, body: int = 64) -> bytes:
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(body)


def entry(**change: Any) -> dict[str, Any]:
    return {"x": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8], **change}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no whole safetensors file"),
        (b"\x01\0\0", "is no whole safetensors file"),
        (header({}, 2**63), "is no whole safetensors file: its header would have 9,223,372,036,854,775,808 bytes"),
        (header({}, 10**9), "is no whole safetensors file"),
        (header(b"\xff\xfe"), "its header is not text in UTF-8"),
        (header(b"[1]"), "holds a JSON list, not an object"),
        (header(b"{"), "is not JSON"),
        (header(b'{"a":' + b"[" * 5000), "more than 6 deep"),
        (header({"x": 3}), "its tensor 'x' has no dtype, shape or place"),
        (header(entry(shape=[-1])), "its tensor 'x' has no dtype, shape or place"),
        (header(entry(shape=[10**30])), "has the integer"),
        (header(entry(data_offsets=[0])), "its tensor 'x' has no dtype, shape or place"),
        (header(entry(dtype="F17")), "has the tensor 'x' of the unknown type 'F17'"),
        (header(entry(data_offsets=[0, 9])), "is cut short or broken: its tensor 'x' lies outside of it"),
        (header(entry(data_offsets=[60, 68])), "is cut short or broken: its tensor 'x' lies outside of it"),
        (header(entry(data_offsets=[8, 0])), "is cut short or broken: its tensor 'x' lies outside of it"),
    ],
)
def test_files_that_are_no_safetensors(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(LLMHWError) as raised:
        checkpoint_at(str(tmp_path))
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"weight_map": 3},
        {"weight_map": {}},
        {"weight_map": {"x": "../secret.safetensors"}},
        {"weight_map": {"x": 1}},
    ],
)
def test_an_index_that_is_none(tmp_path: Path, index: Any) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(LLMHWError, match="has no weight_map from tensors to files; download it again"):
        checkpoint_at(str(tmp_path))


def test_weights_are_not_read(tmp_path: Path) -> None:
    """A file of 100 MB, of which only the header is on the disk."""
    path = tmp_path / "model.safetensors"
    size = 10**8
    path.write_bytes(header({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}, body=0))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)
    found = checkpoint_at(str(tmp_path))
    assert found.tensors["x"].bytes == size
