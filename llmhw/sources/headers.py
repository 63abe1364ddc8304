"""What a checkpoint holds, by the headers of its safetensors files: 8 bytes and a JSON object at their start."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmhw.files import opened, parse_json, read_json
from llmhw.units import LLMHWError, shown

_MOST_BYTES = 64 * 10**6
_MOST_FILES = 5000
INDEX = "model.safetensors.index.json"
# Bits of an element, by what safetensors calls its type.
_BITS = {
    **dict.fromkeys("BOOL U8 I8 F8_E4M3 F8_E5M2 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ".split(), 8),
    **dict.fromkeys("I16 U16 F16 BF16".split(), 16),
    **dict.fromkeys("I32 U32 F32".split(), 32),
    **dict.fromkeys("I64 U64 F64 C64".split(), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


@dataclass(frozen=True)
class Stored:
    """One tensor of a file.

    kind       its type, as safetensors calls it
    elements   how many numbers
    bytes      what they take in the file
    """

    kind: str
    elements: int
    bytes: int


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint, by name, and where that was read.

    files     how many files hold them
    total     bytes by the index, where it says so
    missing   files that the index names and that are not there; then `tensors` lacks theirs, and `names` is complete
    names     all tensors that the index names, or that the headers hold
    """

    tensors: Mapping[str, Stored]
    names: frozenset[str]
    files: int
    total: int | None = None
    missing: tuple[str, ...] = ()


def checkpoint_at(path: str) -> Checkpoint:
    """The checkpoint in a folder, or of the folder of a file: by the headers of its files, else by its index alone.

    Raises `LLMHWError` for what is no safetensors file, and where there is none.
    """
    from os import listdir
    from os.path import dirname, isdir, isfile, join

    folder = path if isdir(path) else dirname(path) or "."
    what = f"model={shown(path, 300)}"
    names: dict[str, str] = {}
    total = None
    if isfile(index := join(folder, INDEX)):
        names, total = _index(index)
        files = sorted(set(names.values()))
    elif path.lower().endswith(".safetensors"):
        files = [path.replace("\\", "/").rpartition("/")[2]]
    else:
        try:
            files = sorted(name for name in listdir(folder) if name.endswith(".safetensors"))
        except OSError as error:
            raise LLMHWError(f"{what} cannot be read ({error.strerror}); give the folder of a checkpoint") from None
    if not files:
        raise LLMHWError(f"{what} has no safetensors files beside it; give the folder of a checkpoint")
    if len(files) > _MOST_FILES:
        raise LLMHWError(f"{what} has {len(files):,} safetensors files; at most {_MOST_FILES:,} are read")
    tensors: dict[str, Stored] = {}
    missing = tuple(name for name in files if not isfile(join(folder, name)))
    for name in files:
        if name not in missing:
            tensors |= _header(join(folder, name))
    return Checkpoint(tensors, frozenset(names or tensors), len(files), total, missing)


def _index(path: str) -> tuple[dict[str, str], int | None]:
    """The file of each tensor, and the bytes of all, by an index."""
    data = read_json(path, _MOST_BYTES, argument="index", way_out="download it again")
    names, metadata = data.get("weight_map"), data.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, Mapping) else None
    plain = isinstance(names, Mapping) and all(
        isinstance(file, str) and file.endswith(".safetensors") and "/" not in file and "\0" not in file
        for file in names.values()
    )
    if not plain or not names:
        raise LLMHWError(f"index={shown(path, 300)} has no weight_map from tensors to files; download it again")
    return dict(names), int(total) if isinstance(total, (int, float)) and 0 <= total < 2**60 else None


def _header(path: str) -> dict[str, Stored]:
    """The tensors of one file."""
    what, way_out = f"file={shown(path, 300)}", "download it again"
    try:
        with opened(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if length > min(size - 8, _MOST_BYTES):
                raise LLMHWError(
                    f"{what} is no whole safetensors file: its header would have {length:,} bytes; {way_out}"
                )
            text = file.read(length).decode("utf-8")
    except UnicodeDecodeError:
        raise LLMHWError(f"{what} is no safetensors file: its header is not text in UTF-8; {way_out}") from None
    except OSError as error:
        raise LLMHWError(f"{what} cannot be read ({error.strerror or error}); {way_out}") from None
    data = parse_json(text, what, 6, way_out=way_out)
    return dict(_entries(data, what, size - 8 - length))


def _entries(data: Mapping[str, Any], what: str, room: int) -> Iterator[tuple[str, Stored]]:
    for name, entry in data.items():
        if name == "__metadata__":
            continue
        entry = entry if isinstance(entry, Mapping) else {}
        kind: Any = entry.get("dtype")
        shape: Any = entry.get("shape")
        ends: Any = entry.get("data_offsets")
        if not isinstance(kind, str) or not _wholes(shape) or not _wholes(ends) or len(ends) != 2:
            raise LLMHWError(
                f"{what} is no safetensors file: its tensor {shown(name, 60)} has no dtype, shape or place"
            )
        if kind not in _BITS:
            raise LLMHWError(f"{what} has the tensor {shown(name, 60)} of the unknown type {shown(kind, 30)}")
        elements = 1
        for size in shape:
            elements *= size
        taken = ends[1] - ends[0]
        if taken * 8 != elements * _BITS[kind] or not 0 <= ends[0] <= ends[1] <= room:
            raise LLMHWError(
                f"{what} is cut short or broken: its tensor {shown(name, 60)} lies outside of it; download it again"
            )
        yield name, Stored(kind, elements, taken)


def _wholes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**48 for size in value)
