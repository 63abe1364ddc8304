"""GGUF files for tests, written by the package gguf.

`gguf_models.json` holds, for each family, a small random model of transformers as llama.cpp's own converter wrote it:
the config, how many parameters transformers' model has, and the file's metadata and list of tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quant_shape_to_byte_shape

MODELS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "gguf_models.json").read_text(encoding="utf-8"))


def write(
    path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, list[Any]], *, words: int = 5, split: int = 0
) -> Path:
    """A file with this metadata, these tensors ([type, size, ...], inputs first) and a vocabulary of some words.

    split   most tensors of a part; 0 for one file
    """
    architecture = metadata.get("general.architecture", "llama")
    writer = GGUFWriter(path, architecture, split_max_tensors=split)
    writer.add_token_list([f"word {i}" for i in range(words)])
    for key, value in metadata.items():
        if key == "general.architecture":
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, (kind, *shape) in tensors.items():
        raw = GGMLQuantizationType[kind]
        data = np.zeros(quant_shape_to_byte_shape(tuple(shape[::-1]), raw), np.uint8)
        writer.add_tensor(name, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def family(path: Path, name: str, **options: Any) -> Path:
    """The file of a family's model."""
    return write(path, MODELS[name]["metadata"], MODELS[name]["tensors"], **options)


def llama(
    kind: str = "F16", hidden: int = 256, layers: int = 2, heads: int = 2, **more: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and tensors of a small Llama whose matrices are of one type; `heads` are those of keys and values."""
    short = hidden // 4 * heads
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": layers,
        "llama.context_length": 512,
        "llama.embedding_length": hidden,
        "llama.feed_forward_length": 2 * hidden,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": heads,
        **more,
    }
    tensors: dict[str, list[Any]] = {"token_embd.weight": [kind, hidden, 64], "output_norm.weight": ["F32", hidden]}
    for i in range(layers):
        for inner, size in {
            "attn_q": [hidden, hidden], "attn_k": [hidden, short], "attn_v": [hidden, short],
            "attn_output": [hidden, hidden], "ffn_gate": [hidden, 2 * hidden], "ffn_up": [hidden, 2 * hidden],
            "ffn_down": [2 * hidden, hidden], "attn_norm": [hidden], "ffn_norm": [hidden],
        }.items():  # fmt: skip
            tensors[f"blk.{i}.{inner}.weight"] = [kind if len(size) > 1 else "F32", *size]
    return metadata, tensors
