"""GGUF files of llama.cpp: metadata and the list of tensors, never the tensors themselves.

The container is walked here, within bounds that the file's size sets: a header may say anything, and the reader of the
package `gguf` would follow it, and makes an array of every word of the vocabulary. The sizes of all types of tensors
and the names of the mixes are `gguf_types.csv` of the catalog, which a test holds to that package. The config that
comes out has a `quantization_config`:

    quant_method   "gguf"
    file_type      the mix as `llama-quantize` calls it, such as "Q4_K_M"; else the type that most bytes have
    tensor_bytes   bytes of all tensors, exactly
    file_bytes     bytes of the file, or of all its parts: the tensors, metadata, alignment
    elements       parameters in the tensors that are the model's: without tables of rotary frequencies, scales and
                   multi-token prediction
    choices        further numbers that some families count and others do not: biases of the router's choice
    types          type of ggml -> its elements and bytes, the sums over all tensors
    groups         the same by component: [component, type, elements, bytes]; components are those of `llmhw.model`, or
                   mtp
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from llmhw.catalog import read_table
from llmhw.checks import check_text
from llmhw.units import LLMHWError, ceil_div, shown

Config = dict[str, Any]

_ALIGNMENT = 32
# Far beyond any model, and little enough to be walked in a second or two.
_MOST_KEYS, _MOST_TENSORS, _MOST_ITEMS, _MOST_PARTS = 10**4, 10**6, 10**7, 10**3
_MOST_NAME, _MOST_TEXT, _MOST_LIST = 2**16, 2**16, 4096
_STRING, _ARRAY = 8, 9
# GGUF's numbers: how `struct` writes each.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class _BrokenError(Exception):
    """What is wrong with a file."""


class _ShortError(Exception):
    """The header is longer than the bytes that are here."""


@dataclass(frozen=True)
class Held:
    """One tensor of a file.

    shape      sizes as GGUF has them, the inputs of a matrix first
    kind       its type, as ggml calls it
    elements   how many numbers
    bytes      what they take
    """

    shape: tuple[int, ...]
    kind: str
    elements: int
    bytes: int

    @property
    def rows(self) -> int:
        """Outputs of a matrix."""
        return self.shape[1] if len(self.shape) > 1 else 1


@dataclass(frozen=True)
class File:
    """A GGUF file, or all parts of one: its metadata, its tensors and its bytes."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, Held]
    bytes: int

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.bytes for tensor in self.tensors.values())


# -- the container ----------------------------------------------------------------------------


class _Cursor:
    """A place in a file; whatever would go beyond its end is refused before it is read.

    data   the file, or its first bytes
    size   of the whole file
    """

    def __init__(self, data: Any, size: int) -> None:
        self.data, self.size, self.at, self.order = data, size, 0, "<"
        self.here = len(data)

    def need(self, count: int) -> None:
        if count > self.size - self.at:
            raise _BrokenError("it ends in the middle of its header")
        if count > self.here - self.at:
            raise _ShortError

    def number(self, code: str) -> Any:
        length = struct.calcsize(self.order + code)
        self.need(length)
        (value,) = struct.unpack_from(self.order + code, self.data, self.at)
        self.at += length
        return value

    def count(self, what: str, each: int, most: int) -> int:
        """A number of things that take at least `each` bytes."""
        found: int = self.number("Q")
        if found > most or found * each > self.size - self.at:
            raise _BrokenError(f"its header says that it has {found:,} {what}, more than it can hold")
        return found

    def text(self, most: int) -> str:
        length = self.count("letters in a text", 1, self.size)
        self.need(length)
        start, self.at = self.at, self.at + length
        try:
            return str(
                bytes(self.data[start : start + min(length, most)]), "utf-8", "strict" if length <= most else "ignore"
            )
        except UnicodeDecodeError:
            raise _BrokenError("a name in its header is not text in UTF-8") from None

    def skip_texts(self, count: int) -> None:
        """Move behind so many texts, as a vocabulary has them by the hundred thousand."""
        number, at, end = struct.Struct(self.order + "Q").unpack_from, self.at, min(self.size, self.here)
        for _ in range(count):
            if at + 8 > end:
                break
            at += 8 + number(self.data, at)[0]
        else:
            if at <= self.size:
                self.at = at
                return
        if at + 8 > self.size:
            raise _BrokenError("it ends in the middle of its header")
        raise _ShortError


def _value(cursor: _Cursor, kind: int) -> Any:
    """A value; of a list that is long, or of texts, its length."""
    if kind == _STRING:
        return cursor.text(_MOST_TEXT)
    if kind in _NUMBERS:
        return cursor.number(_NUMBERS[kind])
    if kind != _ARRAY:
        raise _BrokenError(f"its header has a value of the unknown type {kind}")
    of = cursor.number("I")
    if of == _STRING:
        count = cursor.count("texts in a list", 8, _MOST_ITEMS)
        cursor.skip_texts(count)
        return count
    if of not in _NUMBERS:
        raise _BrokenError(f"its header has a list of the unknown type {of}")
    each = struct.calcsize(cursor.order + _NUMBERS[of])
    count = cursor.count("numbers in a list", each, cursor.size)
    if count <= _MOST_LIST:
        cursor.need(count * each)
    start, cursor.at = cursor.at, cursor.at + count * each
    if count > _MOST_LIST:
        return count
    return list(struct.unpack_from(f"{cursor.order}{count}{_NUMBERS[of]}", cursor.data, start))


def _tensor(cursor: _Cursor) -> tuple[str, Held, int]:
    """One entry of the list of tensors: its name, what it is, and where its bytes begin among the data."""
    name = cursor.text(_MOST_NAME)
    dimensions = cursor.number("I")
    if not 1 <= dimensions <= 4:
        raise _BrokenError(f"its tensor {shown(name, 60)} has {dimensions} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))
    kind, begin, sizes = cursor.number("I"), cursor.number("Q"), _sizes()
    if kind not in sizes:
        raise _BrokenError(
            f"its tensor {shown(name, 60)} has the type {kind}, which is not in the catalog's gguf_types.csv"
        )
    called, block, each = sizes[kind]
    elements = 1
    for size in shape:
        elements *= size
    if not 0 < elements < 2**60 or shape[0] % block:
        raise _BrokenError(f"its tensor {shown(name, 60)} cannot have the shape {shown(list(shape))} in {called}")
    return name, Held(shape, called, elements, elements // block * each), begin


def _part(data: Any, size: int) -> File:
    """The header of one file of so many bytes, of which `data` are the first; `_ShortError` where more are needed."""
    cursor = _Cursor(data, size)
    cursor.need(24)
    if data[:4] != b"GGUF":
        raise _BrokenError("it does not begin with GGUF")
    cursor.at = 4
    version = cursor.number("I")
    if version & 0xFFFF == 0:  # written on a machine of the other byte order
        cursor.order, cursor.at = ">", 4
        version = cursor.number("I")
    if version not in (2, 3):
        raise _BrokenError(f"it is of version {version}; 2 and 3 are read")
    tensors = cursor.count("tensors", 24, _MOST_TENSORS)
    keys = cursor.count("keys", 13, _MOST_KEYS)
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = cursor.text(_MOST_NAME)
        if key in metadata:
            raise _BrokenError(f"its header has the key {shown(key, 60)} twice")
        metadata[key] = _value(cursor, cursor.number("I"))
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise _BrokenError(f"its general.alignment={shown(alignment)} is no power of two")
    held: dict[str, Held] = {}
    last = 0
    for _ in range(tensors):
        name, tensor, begin = _tensor(cursor)
        if name in held:
            raise _BrokenError(f"it has the tensor {shown(name, 60)} twice")
        held[name] = tensor
        last = max(last, begin + tensor.bytes)
    start = ceil_div(cursor.at, alignment) * alignment if tensors else cursor.at
    if start + last > size:
        raise _BrokenError(f"it ends before its tensors do: {start + last:,} bytes by its header, {size:,} are there")
    return File(metadata, held, size)


def _read_part(path: str, argument: str) -> File:
    import mmap

    from llmhw.files import opened

    what = f"{argument}={shown(path, 300)}"
    try:
        with opened(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _part(data, len(data))
    except _BrokenError as error:
        raise _no_gguf(what, error) from None
    except FileNotFoundError:
        raise LLMHWError(f"{what} does not exist; give the path of a GGUF file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LLMHWError(f"{what} cannot be read ({reason}); give the path of a GGUF file") from None


def _no_gguf(what: str, error: _BrokenError) -> LLMHWError:
    return LLMHWError(f"{what} is no whole GGUF file: {error}; download it again, or give the config.json of the model")


def only(names: Iterable[str], what: str) -> str:
    """The one model among these files, by its first part; several raise `LLMHWError`."""
    names = list(names)
    first = [name for name in names if (_split(name) or ("", 1, 1))[1] == 1] or names[:1]
    if len(first) > 1:
        raise LLMHWError(f"{what} holds {len(first)} GGUF files; give the path of one, such as {first[0]}")
    return first[0]


def _split(path: str) -> tuple[str, int, int] | None:
    """The name before "-00001-of-00003.gguf", which part it is, and of how many."""
    from re import IGNORECASE, fullmatch

    found = fullmatch(r"(?s)(.*)-(\d{5})-of-(\d{5})\.gguf", path, IGNORECASE)
    return (found[1], int(found[2]), int(found[3])) if found else None


def read_file(path: str, argument: str) -> File:
    """A GGUF file; of one in parts, as llama.cpp splits them, all parts that lie beside it.

    argument   what an error calls the path
    """
    split = _split(path)
    parts = [path]
    if split and 1 < split[2] <= _MOST_PARTS:
        ending = path[-5:]
        parts = [f"{split[0]}-{i:05d}-of-{split[2]:05d}{ending}" for i in range(1, split[2] + 1)]
    files = [_read_part(part, argument) for part in parts]
    metadata, tensors = files[0].metadata, dict(files[0].tensors)
    for file in files[1:]:
        twice = tensors.keys() & file.tensors.keys()
        if twice:
            raise LLMHWError(f"{argument}={shown(path, 300)} has the tensor {shown(min(twice))} in two of its parts")
        tensors |= file.tensors
    if (said := _parts_of(metadata)) > len(parts):
        raise LLMHWError(
            f"{argument}={shown(path, 300)} is one of {said} parts; keep their names, which end with "
            f"-00001-of-{said:05d}.gguf"
        )
    return File(metadata, tensors, sum(file.bytes for file in files))


def _parts_of(metadata: Mapping[str, Any]) -> int:
    found = metadata.get("split.count", 0)
    return found if type(found) is int else 0


@cache
def _sizes() -> dict[int, tuple[str, int, int]]:
    """Every type of tensor: its name, how many numbers a block of it has, and how many bytes."""
    rows = (row for row in read_table("gguf_types") if row["kind"] == "tensor")
    return {int(row["number"]): (row["name"], int(row["elements"]), int(row["bytes"])) for row in rows}


@cache
def _mixes() -> dict[int, str]:
    """How `llama-quantize` calls what it makes."""
    return {int(row["number"]): row["name"] for row in read_table("gguf_types") if row["kind"] == "mix"}


# -- the model in it --------------------------------------------------------------------------

# Of the tensors that are no parameters in transformers: by the end of the name.
_TABLES = tuple(
    """rope_freqs.weight rope_factors_long.weight rope_factors_short.weight attn_rot_embd.weight
    .scale .input_scale layer_output_scale.weight""".split()
)


_ACTIVATIONS = ("xielu.alpha_p", "xielu.alpha_n")


def read(path: str, argument: str) -> tuple[str, Config]:
    """The name and the config of the model in a GGUF file."""
    return _model_in(read_file(path, argument), path, f"{argument}={shown(path, 300)}")


def read_head(data: Any, size: int, name: str) -> tuple[str, Config] | None:
    """The name and the config of the model in a GGUF file whose first bytes are here; None if its header is longer.

    data   bytes, or what is like them
    size   of the whole file
    name   of the file

    >>> read_head(b"GGUF", 10**9, "model.gguf") is None
    True
    """
    what = f"gguf={shown(name, 300)}"
    try:
        file = _part(memoryview(data), max(size, len(data)))
    except _ShortError:
        return None
    except _BrokenError as error:
        raise _no_gguf(what, error) from None
    if (parts := _parts_of(file.metadata)) > 1:
        raise LLMHWError(f"{what} is one of {parts} parts; give the model's config.json")
    return _model_in(file, name, what)


def _model_in(file: File, path: str, what: str) -> tuple[str, Config]:
    from pathlib import Path

    from llmhw.sources.gguf_config import config_from

    kind, architecture = file.metadata.get("general.type", "model"), file.metadata.get("general.architecture")
    if kind != "model" or architecture == "clip" or not isinstance(architecture, str):
        held = {"adapter": "a LoRA adapter", "imatrix": "an importance matrix"}.get(kind, "a vision or audio tower")
        held = held if isinstance(architecture, str) else "no model"
        raise LLMHWError(f"{what} holds {held}; give the GGUF file of the language model")
    check_text("general.architecture", architecture)
    if not file.tensors:
        raise LLMHWError(f"{what} holds metadata, such as a vocabulary, but no tensors; give the file of the model")
    config = config_from(file, what)
    config["quantization_config"] = _stored(file, int(config["num_hidden_layers"]))
    stem = Path(path).stem
    return (_split(path) or (stem,))[0].rpartition("/")[2] or stem, config


def _stored(file: File, layers: int) -> Config:
    """What is stored how, as a `quantization_config`; see the head of this module."""
    groups: dict[tuple[str, str], list[int]] = {}
    # a family's activation has parameters that are written into the metadata
    elements = sum(len(found) for key in _ACTIVATIONS if isinstance(found := file.metadata.get(key), list))
    choices = 0
    types: dict[str, list[int]] = {}
    for name, tensor in file.tensors.items():
        component = component_of(name, layers)
        group = groups.setdefault((component, tensor.kind), [0, 0])
        for counts in (group, types.setdefault(tensor.kind, [0, 0])):
            counts[0] += tensor.elements
            counts[1] += tensor.bytes
        if ".exp_probs_b" in name and component != "mtp":
            choices += tensor.elements
        elif component != "mtp" and not name.endswith(_TABLES):
            elements += tensor.elements
    return {
        "quant_method": "gguf",
        "file_type": _mix(file),
        "tensor_bytes": file.tensor_bytes,
        "file_bytes": file.bytes,
        "elements": elements,
        "choices": choices,
        "types": types,
        "groups": [[*key, *counts] for key, counts in groups.items()],
    }


def _mix(file: File) -> str:
    number = file.metadata.get("general.file_type")
    if type(number) is int and number in _mixes():
        return _mixes()[number]
    total: dict[str, int] = {}
    for tensor in file.tensors.values():
        total[tensor.kind] = total.get(tensor.kind, 0) + tensor.bytes
    return max(total, key=lambda kind: total[kind])


def block_of(name: str) -> tuple[int, str] | None:
    """The number of a tensor's block, and its name there; None for one outside the blocks."""
    start, _, rest = name.partition(".")
    number, _, inner = rest.partition(".")
    return (int(number), inner) if start == "blk" and number.isdecimal() and len(number) < 6 else None


def component_of(name: str, layers: int) -> str:
    """The component that a tensor of a GGUF file belongs to.

    layers   transformer blocks; what lies behind them is multi-token prediction

    >>> component_of("blk.3.ffn_down_exps.weight", 32), component_of("output.weight", 32)
    ('experts', 'head')
    """
    block = block_of(name)
    if block and block[0] >= layers:
        return "mtp"
    stem = (block[1] if block else name).partition(".")[0]
    if stem in ("token_embd", "position_embd", "per_layer_token_embd"):
        return "embedding"
    if stem == "output":
        return "head"
    if stem.startswith(("ffn_gate_inp", "exp_probs")):
        return "router"
    if stem.endswith(("_norm", "_norm_2")) or "_norm." in name:
        return "norms"
    if stem.endswith("_exps") or (stem in ("ffn_up", "ffn_down", "ffn_gate") and name.split(".")[-2].isdecimal()):
        return "experts"
    return "mlp" if stem.startswith("ffn_") else "attention"
