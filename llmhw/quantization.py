"""Methods of quantization: every published form of `quantization_config`, read into one `llmhw.checkpoint.Checkpoint`.

In a `config.json`; MLX calls it `quantization`, ModelOpt writes `hf_quant_config.json` beside it. A method is one
reader in `READERS`. What a file leaves open is what its software does then.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmhw.checkpoint import Checkpoint, Modules, compiled, plain_name
from llmhw.checks import check_text
from llmhw.model import ModelSpec
from llmhw.precision import NumberFormat, number_format, number_formats
from llmhw.units import MOST_LETTERS, LLMHWError, shown, unknown_name

# -- keys of a quantization_config ------------------------------------------------------------

_KEY = "quantization_config"
_WAY_OUT = "give weights, such as weights='bf16', to leave the checkpoint's format aside"


def _wrong(key: str, value: Any, rule: str) -> LLMHWError:
    return LLMHWError(f"config key {key}={shown(value)} {rule}; {_WAY_OUT}")


@dataclass(frozen=True, slots=True)
class Keys:
    """The entries of an object in a config, each checked as it is read; null stands for the default."""

    data: Mapping[str, Any]
    path: str = _KEY

    def key(self, name: str) -> str:
        return f"{self.path}.{name}"

    def whole(self, *names: str, default: int | None = None, least: int = 1, most: int = 2**20) -> int:
        """The first of these that has a value; a whole number may be written 4.0."""
        for name in names:
            value = self.data.get(name)
            if value is None:
                continue
            if type(value) is float and value.is_integer():
                value = int(value)
            if type(value) is not int or not (least <= value <= most):
                raise _wrong(self.key(name), value, f"must be a whole number from {least} to {most:,}")
            return value
        if default is None:
            raise _wrong(self.key(names[0]), None, "is missing")
        return default

    def number(self, name: str, default: float, *, most: float = 64) -> float:
        value = self.data.get(name)
        if value is None:
            return default
        if type(value) not in (int, float) or not 0 < value <= most:
            raise _wrong(self.key(name), value, f"must be a number above 0 and at most {most:g}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.data.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise _wrong(self.key(name), value, "must be true or false")
        return value

    def text(self, *names: str, default: str = "") -> str:
        for name in names:
            value = self.data.get(name)
            if value is None:
                continue
            if not isinstance(value, str) or len(value) > MOST_LETTERS or not value.isprintable():
                raise _wrong(self.key(name), value, "must be a name")
            return value
        return default

    def object(self, name: str) -> Keys:
        """An object; an empty one where there is none."""
        value = self.data.get(name)
        if value is None:
            return Keys({}, self.key(name))
        if not isinstance(value, Mapping):
            raise _wrong(self.key(name), value, "must be an object")
        return Keys(value, self.key(name))

    def objects(self, name: str) -> Iterator[tuple[str, Keys]]:
        """The entries of an object, each an object."""
        found = self.object(name)
        for entry in found.data:
            if not isinstance(entry, str):
                raise _wrong(found.path, entry, "must have texts as keys")
            yield entry, found.object(entry)

    def modules(self, *names: str, style: str) -> Modules:
        """A list of modules under any of these names, or one of them as a text."""
        found: list[str] = []
        for name in names:
            value = self.data.get(name)
            if value is None:
                continue
            if isinstance(value, str):
                value = [value]
            if not isinstance(value, (list, tuple)):
                raise _wrong(self.key(name), value, "must be a list of names of modules")
            checked = _modules(value, style, self.key(name))
            found += list(checked.names) + [f"re:{pattern}" for pattern in checked.patterns]
        names_, patterns = [n for n in found if not n.startswith("re:")], [n[3:] for n in found if n.startswith("re:")]
        return Modules(frozenset(names_), tuple(patterns))

    def missing(self, name: str, rule: str) -> LLMHWError:
        return _wrong(self.key(name), self.data.get(name), rule)


# -- lists of modules -------------------------------------------------------------------------

_LITERAL = re.compile(r"[\w.\-]+\*?")


def _pattern(entry: str, style: str) -> str:
    """One entry of a list as a regular expression for a whole name; "" if it names a module.

    style   how the entry is meant: "module" (a name, or re: and an expression that a name begins with, as in
            compressed-tensors), "glob" (ModelOpt, Quark), "convert" (transformers: an expression that a name begins
            with, or how it ends), "regex" (GPTQModel)
    """
    if style == "module" and not entry.startswith("re:"):
        return ""
    if entry.startswith("re:"):
        return f"(?:{entry[3:]}).*"
    if style == "regex":
        return f"(?:{entry}).*"
    if _LITERAL.fullmatch(entry) and not re.search(r"[1-9]\*$", entry):  # layers.1* is layers 1, 10, 11, ...
        return ""
    if style == "convert":
        pattern = rf"(?:{entry})(?:(?<=\.)|(?=\.|$)).*"
        try:
            compiled(pattern)
        except (re.error, OverflowError, RecursionError):
            return fnmatch.translate(entry)
        return pattern
    return fnmatch.translate(entry)


def _modules(entries: Iterable[str], style: str, key: str) -> Modules:
    """Entries of a list, under that key, as `Modules`."""
    names, patterns = set(), []
    for entry in entries:
        if not isinstance(entry, str) or len(entry) > 10 * MOST_LETTERS:
            raise _wrong(key, entry, "must be a list of names of modules")
        pattern = _pattern(entry, style)
        if pattern:
            try:
                compiled(pattern)
            except (re.error, OverflowError, RecursionError):
                raise _wrong(key, entry, "is no regular expression") from None
            patterns.append(pattern)
        else:
            names.add(plain_name(entry.rstrip("*").rstrip(".")))
    return Modules(frozenset(names - {""}), tuple(patterns))


# -- a whole config --------------------------------------------------------------------------


def checkpoint_of(spec: ModelSpec) -> Checkpoint:
    """The checkpoint that a model's config describes.

    Raises `LLMHWError` for a method that is not known and for a key that makes no sense; both name the way out.
    """
    config = spec.config
    wide = number_format({"float32": "fp32", "float16": "fp16"}.get(spec.dtype, "bf16"))
    for key in (_KEY, "compression_config", "hf_quant_config", "quantization"):
        value = config.get(key)
        if value is None or value in ({}, "", False):
            continue
        if isinstance(value, str):
            return _worded(key, value, wide, spec)
        if not isinstance(value, Mapping):
            raise _wrong(key, value, "must be an object, or the name of a number format")
        return _read(Keys(value, key), wide, spec)
    return Checkpoint(wide=wide)


def _worded(key: str, value: str, wide: NumberFormat, spec: ModelSpec) -> Checkpoint:
    """A number format's name in place of an object: stored by the rules of that format."""
    average = re.fullmatch(r"(exl[23])-(\d{1,2}(?:\.\d+)?)bpw", value)
    if average:
        q = Keys({"quant_method": average[1], "bits": float(average[2])}, key)
        return replace(_exllama(q, spec), method=average[1], wide=wide)
    if value == "gguf":
        note = "the name does not say which GGUF file: Q4_K_M is taken, as llama.cpp does"
        return Checkpoint(method="gguf", wide=wide, whole=number_format("Q4_K_M"), note=note)
    try:
        fmt = number_format(check_text(f"config key {key}", value))
    except LLMHWError as error:
        raise LLMHWError(
            f"config key {key}={shown(value)} must be an object, or a number format; {_WAY_OUT}"
        ) from error
    return Checkpoint(method="" if fmt.bits >= 16 else fmt.name, wide=fmt if fmt.bits >= 16 else wide, whole=fmt)


def method_in(config: Mapping[str, Any]) -> str:
    """The name of the method of quantization in a config, as it stands there; "" for none.

    >>> method_in({"quantization_config": {"quant_method": "awq", "bits": 4}})
    'awq'
    """
    for key in (_KEY, "compression_config", "hf_quant_config", "quantization"):
        value = config.get(key)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, Mapping) and value:
            return _method(Keys(value, key), strict=False)
    return ""


def _method(q: Keys, *, strict: bool = True) -> str:
    """The method that an object describes, by its name or by its keys."""
    data = q.data
    name = data.get("quant_method")
    if isinstance(name, str) and name:
        return name
    if name is not None and strict:
        raise _wrong(q.key("quant_method"), name, "must be a name")
    if "quant_algo" in data or isinstance(data.get("quantization"), Mapping):
        return "modelopt"
    if "config_groups" in data:
        return "compressed-tensors"
    if data.get("load_in_4bit") or data.get("load_in_8bit"):
        return "bitsandbytes"
    if "bits" in data and not {"desc_act", "sym", "damp_percent", "zero_point"} & set(data):
        return "mlx"  # which writes the same object under both keys
    if {"w_bit", "zero_point"} & set(data):
        return "awq"
    return "gptq" if "bits" in data else ""


def _read(q: Keys, wide: NumberFormat, spec: ModelSpec) -> Checkpoint:
    method = _method(q)
    if isinstance(q.data.get("quantization"), Mapping) and method.startswith("modelopt"):
        q = q.object("quantization")
    if not method and q.path == "quantization":  # a key of that name may mean anything
        return Checkpoint(wide=wide)
    reader = READERS.get(_word(method))
    if reader is None:
        hint = unknown_name("quant_method", method, READERS) if method else None
        raise LLMHWError(
            f"config key {q.key('quant_method')}={shown(method or None)} is not known"
            f"{str(hint).partition('is not known')[2].partition('; see')[0] if hint else ''}; {_WAY_OUT}"
        )
    made = reader(q, spec)
    return replace(made, method=method, wide=wide, kv=made.kv or _cache(q))


def _word(method: str) -> str:
    return method.casefold().removeprefix("intel/").replace("_", "-")


_CACHES = {"FP8": "fp8", "INT8": "int8", "NVFP4": "nvfp4", "FP8_E4M3": "fp8", "FP8_E5M2": "fp8", "AUTO": "", "NONE": ""}


def _cache(q: Keys) -> str:
    """The format of the cache that a checkpoint has scales for."""
    for name in ("kv_cache_scheme", "kv_cache_quant_algo"):
        value = q.data.get(name)
        if value in (None, "", {}):
            continue
        if isinstance(value, str) and value.upper() in _CACHES:
            return _CACHES[value.upper()]
        if isinstance(value, Mapping):
            scheme = q.object(name)
            bits, kind = scheme.whole("num_bits", default=8), scheme.text("type", default="float")
            return {8: "fp8" if kind == "float" else "int8", 4: "nvfp4"}.get(bits, "")
        raise _wrong(q.key(name), value, f"must be an object, or one of {', '.join(_CACHES)}")
    return ""


# -- formats that the catalog has no row for --------------------------------------------------

_NUMBERS = """bits group layout scale_bits zero_bits outer_group outer_scale_bits row_bits column_bits tensor_bits
    compute""".split()


def _made(like: str, name: str, **changes: Any) -> NumberFormat:
    """A format of the catalog with other numbers, under that name; the catalog's own where it has it."""
    base = number_format(like)
    made = replace(base, **changes)
    for known in (base.name, name):
        if known in number_formats():
            other = number_format(known)
            if all(getattr(other, one) == getattr(made, one) for one in _NUMBERS):
                return other
    return replace(made, name=name, like=base.like or base.name, aliases=(), rule="matrices", note="", value_bits=())


def _grouped(
    like: str, stem: str, bits: int, group: int, *, scale: int = 16, zero: int = 0, **more: Any
) -> NumberFormat:
    """Integers with a scale a group along a row; group -1: one a row."""
    if group == -1:
        numbers: dict[str, Any] = {"group": 0, "scale_bits": 0, "zero_bits": 0, "row_bits": scale + zero}
        return _made(like, f"{stem}-row", bits=bits, **numbers, **more)
    name = stem if group == 128 else f"{stem}-g{group}"
    return _made(like, name, bits=bits, group=group, scale_bits=scale, zero_bits=zero, **more)


def _group(q: Keys, *names: str, default: int = 128) -> int:
    """A group's size; -1 (or 0, as some write it) for a whole row."""
    return q.whole(*(names or ("group_size", "q_group_size")), default=default, least=-1) or -1


def _bits(q: Keys, *names: str, default: int | None = None) -> int:
    return q.whole(*(names or ("bits", "w_bit", "nbits")), default=default, most=16)


def gptq_format(bits: int, group: int, *, zeros: bool = True, index: bool = True) -> NumberFormat:
    """GPTQ's layout: packed weights, an fp16 scale and a packed zero point a group, an int32 group index an input.

    >>> gptq_format(4, 128).name, gptq_format(8, -1).name, gptq_format(2, 64).bits_per_weight
    ('int4-gptq', 'gptq-8bit-row', 2.28125)
    """
    stem = "int4-gptq" if bits == 4 else f"gptq-{bits}bit"
    like = stem if bits in (3, 4, 8) else "int4-gptq"
    if not index:
        stem = f"int{bits}-auto-round"
    return _grouped(like, stem, bits, group, zero=bits if zeros else 0, column_bits=32 if index else 0)


def awq_format(bits: int, group: int) -> NumberFormat:
    """AWQ's layout: packed weights, an fp16 scale and a packed zero point a group.

    >>> awq_format(4, 128).name
    'int4-awq'
    """
    return _grouped("int4-awq", f"int{bits}-awq", bits, group, zero=bits)


def packed_format(bits: int, group: int, *, zeros: bool = False, index: bool = False) -> NumberFormat:
    """Weight-only integers of compressed-tensors and others: a 16-bit scale a group, zero points if asymmetric.

    >>> packed_format(4, 128).bits_per_weight, packed_format(4, 32).name
    (4.125, 'int4-w4a16-g32')
    """
    like = "gptq-8bit" if bits == 8 else "int4-awq"
    stem = f"int{bits}-w{bits}a16" + ("-zeros" if zeros else "") + ("-act" if index else "")
    return _grouped(like, stem, bits, group, zero=bits if zeros else 0, column_bits=32 if index else 0)


def mlx_format(bits: int, group: int, mode: str = "affine") -> NumberFormat:
    """MLX's layouts: affine has a 16-bit scale and bias a group; mxfp4, mxfp8 and nvfp4 are those of the MX and NVIDIA.

    >>> mlx_format(4, 64).name, mlx_format(4, 64).bits_per_weight
    ('mlx-4bit', 4.5)
    """
    if mode != "affine":
        base = number_format(mode)
        numbers: dict[str, Any] = {"tensor_bits": 0, "compute": "bf16", "rule": "mlx"}
        return replace(base, name=f"mlx-{mode}", like="mlx-4bit", aliases=(), **numbers)
    name = f"mlx-{bits}bit" + ("" if group == 64 else f"-g{group}")
    return replace(_made("mlx-4bit", name, bits=bits, group=group), rule="mlx")


def weight_only(fmt: NumberFormat) -> NumberFormat:
    """The same bytes, multiplied in 16 bit."""
    return _made(fmt.name, f"{fmt.name}-weight-only", compute="bf16") if fmt.compute in ("fp8", "fp4", "int8") else fmt


def _block(q: Keys, name: str) -> NumberFormat:
    """fp8 with a scale a block of weights; without a block, one a matrix."""
    value = q.data.get(name)
    if value is None:
        return number_format("fp8")
    sizes = value if isinstance(value, (list, tuple)) else [value, value]
    if len(sizes) != 2 or any(type(n) is not int or not 1 <= n <= 2**16 for n in sizes):
        raise _wrong(q.key(name), value, "must be two whole numbers from 1 to 65,536")
    rows, columns = sizes
    if rows == 1:
        return _made("fp8-block", f"fp8-g{columns}", group=columns, layout="")
    if rows != columns:
        raise _wrong(q.key(name), value, "must be a square block, or one of a single row")
    return _made("fp8-block", f"fp8-block-{rows}", group=rows)


# -- readers, one a method --------------------------------------------------------------------
#
# What each keeps where the file says nothing follows its software: GPTQ, AWQ and the fp8 and fp4 checkpoints keep
# embedding, head and router (transformers' quantizers, AutoGPTQ, AutoAWQ, NVIDIA ModelOpt); MLX quantizes every linear
# layer and embedding; ExLlama gives the head bits of its own.


def _plan(spec: ModelSpec, **found: Any) -> Checkpoint:
    return Checkpoint(wide=number_format("bf16"), **found)


_SKIPPED = ("modules_to_not_convert", "ignored_layers", "skip_modules", "llm_int8_skip_modules", "ignore", "exclude")


def _gptq(q: Keys, spec: ModelSpec) -> Checkpoint:
    bits, group = _bits(q, default=4), _group(q)
    marlin = q.text("checkpoint_format", "quant_format").startswith("marlin") or q.flag("is_marlin_format")

    def made(bits: int, group: int) -> NumberFormat:
        return packed_format(bits, group) if marlin else gptq_format(bits, group)

    named: list[tuple[Modules, NumberFormat | None]] = []
    for pattern, override in q.objects("dynamic"):
        modules = _modules([pattern.lstrip("+-:")], "regex", q.key("dynamic"))
        changed = made(_bits(override, default=bits), _group(override, default=group))
        named.append((modules, None if pattern.startswith("-") else changed))
    fmt = made(bits, group)
    only = q.data.get("modules_in_block_to_quantize")
    if only:
        if not isinstance(only, (list, tuple)):
            raise q.missing("modules_in_block_to_quantize", "must be a list of names of modules")
        flat = [name for entry in only for name in (entry if isinstance(entry, (list, tuple)) else [entry])]
        named.append((_modules(flat, "module", q.key("modules_in_block_to_quantize")), fmt))
    head = fmt if q.flag("lm_head") else None
    kept = q.modules(*_SKIPPED, style="convert")
    return _plan(spec, kept=kept, named=tuple(named), layers=None if only else fmt, head=head)


def _awq(q: Keys, spec: ModelSpec) -> Checkpoint:
    fmt = awq_format(_bits(q, default=4), _group(q))
    return _plan(spec, kept=q.modules(*_SKIPPED, style="convert"), layers=fmt)


def _fp8(q: Keys, spec: ModelSpec) -> Checkpoint:
    """DeepSeek's blocks, or a scale a matrix; its experts may be in fp4, and ModelOpt may have made some over."""
    skipped = q.modules("modules_to_not_convert", "ignored_layers", style="convert")
    fp4 = number_format("mxfp4") if spec.config.get("expert_dtype") == "fp4" else None
    return _plan(spec, kept=skipped, layers=_block(q, "weight_block_size"), experts=fp4, named=_quantized_layers(q))


def _fbgemm(q: Keys, spec: ModelSpec) -> Checkpoint:
    return _plan(
        spec, kept=q.modules(*_SKIPPED, style="convert"), layers=_made("fp8-channel", "fp8-fbgemm", row_bits=32)
    )


def _kept(fmt: str) -> Callable[[Keys, ModelSpec], Checkpoint]:
    """A method with one format: of all matrices of the layers but the modules that it lists."""

    def read(q: Keys, spec: ModelSpec) -> Checkpoint:
        return _plan(spec, kept=q.modules(*_SKIPPED, style="convert"), layers=number_format(fmt))

    return read


def _mxfp4(q: Keys, spec: ModelSpec) -> Checkpoint:
    """gpt-oss: the experts of a model that has some."""
    fmt, kept = number_format("mxfp4"), q.modules(*_SKIPPED, style="convert")
    has_experts = any(t.component == "experts" for t, _ in spec.all_tensors())
    return _plan(spec, kept=kept, experts=fmt, layers=None if has_experts else fmt)


def _bitsandbytes(q: Keys, spec: ModelSpec) -> Checkpoint:
    kept = q.modules(*_SKIPPED, style="convert")
    if q.flag("load_in_8bit") or q.flag("_load_in_8bit"):
        return _plan(spec, kept=kept, layers=number_format("int8-llm"))
    double = q.flag("bnb_4bit_use_double_quant")
    kind = q.text("bnb_4bit_quant_type", default="fp4")
    if kind not in ("nf4", "fp4"):
        raise _wrong(q.key("bnb_4bit_quant_type"), kind, "must be nf4 or fp4")
    fmt = number_format("nf4-dq" if double else "nf4")
    return _plan(spec, kept=kept, layers=fmt)


# compressed-tensors: schemes that a group may name in place of an object.
_SCHEMES = {
    "FP8": {"num_bits": 8, "type": "float", "strategy": "tensor"},
    "FP8_DYNAMIC": {"num_bits": 8, "type": "float", "strategy": "channel"},
    "FP8_BLOCK": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]},
    "NVFP4": {"num_bits": 4, "type": "float", "group_size": 16},
    "NVFP4A16": {"num_bits": 4, "type": "float", "group_size": 16},
    "MXFP4": {"num_bits": 4, "type": "float", "group_size": 32},
    "MXFP4A16": {"num_bits": 4, "type": "float", "group_size": 32},
    "MXFP8": {"num_bits": 8, "type": "float", "group_size": 32},
    "W8A8": {"num_bits": 8, "type": "int", "strategy": "channel"},
    "INT8": {"num_bits": 8, "type": "int", "strategy": "channel"},
    "W8A16": {"num_bits": 8, "type": "int", "strategy": "channel"},
    "W4A8": {"num_bits": 4, "type": "int", "group_size": 128},
    "W4A16": {"num_bits": 4, "type": "int", "group_size": 128},
    "W4A16_ASYM": {"num_bits": 4, "type": "int", "group_size": 128, "symmetric": False},
}


def _scheme(w: Keys, activations: bool, layout: str) -> NumberFormat | None:
    """The format of a group's weights.

    activations   whether activations are quantized, too: else the weights are expanded to 16 bit
    layout        of the file, such as pack-quantized
    """
    bits, kind = w.whole("num_bits", default=8, most=16), w.text("type", default="int")
    if bits == 16 or layout == "dense":
        return None
    group = _group(w, "group_size", default=0)
    strategy = w.text("strategy") or ("group" if group > 0 else "tensor")
    if kind == "float":
        fmt = _float_scheme(w, bits, group, strategy)
        return fmt if activations else weight_only(fmt)
    if kind != "int":
        raise _wrong(w.key("type"), kind, "must be int or float")
    zeros = not w.flag("symmetric", True)
    index = str(w.data.get("actorder") or "") == "group"
    if bits == 8 and activations and strategy in ("tensor", "channel"):
        return _made(
            "int8", "int8" if strategy == "tensor" else "int8-channel", row_bits=16 if strategy == "channel" else 0
        )
    if layout.startswith("marlin-24"):  # half of the elements, and two bits for each that say where they were
        half = packed_format(bits, group)
        return _made(half.name, f"{half.name}-24", bits=bits / 2 + 1) if half.name in number_formats() else half
    return packed_format(bits, group if strategy in ("group", "tensor_group") else -1, zeros=zeros, index=index)


def _float_scheme(w: Keys, bits: int, group: int, strategy: str) -> NumberFormat:
    if bits == 4:
        return number_format("mxfp4" if group == 32 else "nvfp4")
    if bits != 8:
        raise _wrong(w.key("num_bits"), bits, "must be 4 or 8 for floats")
    if strategy == "block":
        name = "block_structure"
        return _block(w, name) if w.data.get(name) else number_format("fp8-block")
    if strategy in ("group", "tensor_group"):
        return number_format("mxfp8") if group == 32 else _made("fp8-block", f"fp8-g{group}", group=group, layout="")
    return number_format("fp8-channel" if strategy == "channel" else "fp8")


def _compressed(q: Keys, spec: ModelSpec) -> Checkpoint:
    """compressed-tensors: groups of modules, each with a scheme; `Linear` is all of them."""
    layout, kept = q.text("format"), q.modules("ignore", style="module")
    named: list[tuple[Modules, NumberFormat | None]] = []
    usual: NumberFormat | None = None
    groups = q.object("config_groups")
    for name in groups.data:
        value = groups.data[name]
        if isinstance(value, (list, tuple)) and str(name).upper() in _SCHEMES:
            data: Mapping[str, Any] = _SCHEMES[str(name).upper()]
            fmt = _scheme(Keys(data, groups.key(str(name))), not str(name).upper().endswith("A16"), layout)
            targets = value
        else:
            group = groups.object(name)
            weights = group.object("weights")
            if not weights.data:
                continue
            fmt = _scheme(weights, bool(group.data.get("input_activations")), group.text("format", default=layout))
            targets = group.data.get("targets") or ["Linear"]
        if isinstance(targets, str):
            targets = [targets]
        if not isinstance(targets, (list, tuple)):
            raise _wrong(groups.key(f"{name}.targets"), targets, "must be a list of names of modules")
        if any(target in ("Linear", "LinearBase", "FusedMoE") for target in targets):
            usual = usual or fmt
        named.append((_modules(targets, "module", groups.key(f"{name}.targets")), fmt))
    if not groups.data and not _cache(q):
        raise q.missing("config_groups", "must be an object with a group")
    sparse = _sparse(q)
    if sparse:
        named = [(modules, fmt and sparse(fmt)) for modules, fmt in named]
        usual = usual and sparse(usual)
    return _plan(spec, kept=kept, named=tuple(named), layers=usual, head=usual)


def _sparse(q: Keys) -> Callable[[NumberFormat], NumberFormat] | None:
    """2:4 sparsity as compressed-tensors stores it: half of the elements, and a bit for each that says which."""
    layout = q.object("sparsity_config").text("format")
    if layout not in ("sparse-24-bitmask", "sparse-bitmask"):
        return None
    return lambda fmt: _made(fmt.name, f"{fmt.name}-24", bits=fmt.bits / 2 + 1) if fmt.name in number_formats() else fmt


def _algorithm(q: Keys, value: Any = None) -> NumberFormat | None:
    """A `quant_algo` of ModelOpt; None: not quantized."""
    name = q.data.get("quant_algo") if value is None else value
    if name is None or name == "NO_QUANT":
        return None
    group = _group(q, "group_size", default=0)
    word = str(name).upper()
    known: dict[str, Callable[[], NumberFormat]] = {
        "FP8": lambda: number_format("fp8"),
        "FP8_PER_CHANNEL_PER_TOKEN": lambda: number_format("fp8-channel"),
        **dict.fromkeys(("FP8_PB_REAL", "FP8_BLOCK", "FP8_BLOCK_SCALES"), lambda: number_format("fp8-block")),
        "FP8_PB_WO": lambda: number_format("fp8-block"),
        **dict.fromkeys(("NVFP4", "NVFP4_SVDQUANT", "W4A8_NVFP4_FP8"), lambda: number_format("nvfp4")),
        "NVFP4_AWQ": lambda: _made("nvfp4", "nvfp4-awq", column_bits=16),
        "W4A16_NVFP4": lambda: weight_only(number_format("nvfp4")),
        "W4A16_MXFP4": lambda: weight_only(number_format("mxfp4")),
        **dict.fromkeys(("MXFP4", "W4A8_MXFP4_FP8"), lambda: number_format("mxfp4")),
        **dict.fromkeys(("MXFP8", "W8A8_MXFP8"), lambda: number_format("mxfp8")),
        **dict.fromkeys(
            ("W4A16_AWQ", "W4A8_AWQ", "INT4_AWQ"),
            lambda: _grouped("int4-awq", "int4-modelopt-awq", 4, group if group > 0 else 128, column_bits=16),
        ),
        **dict.fromkeys(("INT8", "INT8_SQ", "W8A8", "W8A8_SQ_PER_CHANNEL"), lambda: number_format("int8")),
        **dict.fromkeys(("W8A16", "INT8_WO"), lambda: packed_format(8, -1)),
        **dict.fromkeys(("W4A16", "INT4_WO"), lambda: packed_format(4, group if group > 0 else -1)),
        "W4A16_GPTQ": lambda: gptq_format(4, group if group > 0 else 128),
    }
    if word not in known:
        raise _wrong(q.key("quant_algo"), name, f"is not known; known are {', '.join(known)}, MIXED_PRECISION")
    return known[word]()


def _quantized_layers(q: Keys) -> tuple[tuple[Modules, NumberFormat | None], ...]:
    """ModelOpt's list of modules with the algorithm of each, those of one format together."""
    found: dict[NumberFormat | None, list[str]] = {}
    listed = q.object("quantized_layers")
    for name, value in listed.data.items():
        if not isinstance(name, str):
            raise _wrong(listed.path, name, "must have texts as keys")
        fmt = _algorithm(
            listed.object(name) if not isinstance(value, str) else listed, value if isinstance(value, str) else None
        )
        found.setdefault(fmt, []).append(name)
    return tuple((_modules(names, "glob", listed.path), fmt) for fmt, names in found.items())


def _mixed_by_name(q: Keys, spec: ModelSpec) -> Checkpoint:
    """A mix whose list of modules is not in the file: the format in the model's name, which is said."""
    for algorithm in ("NVFP4", "MXFP4", "MXFP8", "FP8"):
        if algorithm in spec.name.upper():
            fmt = _algorithm(q, algorithm)
            note = f"{q.key('quantized_layers')} does not list the mix: all matrices of the layers are taken as "
            return replace(_plan(spec, layers=fmt), note=f"{note}{algorithm.lower()}, as the name says")
    raise q.missing("quantized_layers", "must be an object that says which module is in which format")


def _modelopt(q: Keys, spec: ModelSpec) -> Checkpoint:
    kept = q.modules("exclude_modules", "ignore", style="glob")
    mixed = q.data.get("quant_algo") == "MIXED_PRECISION"
    if not mixed and q.data.get("quant_algo") is None and q.data.get("config_groups"):
        return _compressed(q, spec)
    if mixed and not isinstance(q.data.get("quantized_layers"), Mapping):
        return replace(_mixed_by_name(q, spec), kept=kept)
    return _plan(spec, kept=kept, named=_quantized_layers(q), layers=None if mixed else _algorithm(q))


def _torchao(q: Keys, spec: ModelSpec) -> Checkpoint:
    """A word, or the class of a config and its fields; some give modules formats of their own."""
    kept, value = q.modules(*_SKIPPED, style="convert"), q.data.get("quant_type")
    named: list[tuple[Modules, NumberFormat | None]] = []
    if isinstance(value, str):
        fmt = _torchao_format(value, q.object("quant_type_kwargs"), q.key("quant_type"))
        return _plan(spec, kept=kept, layers=fmt)
    default = q.object("quant_type")
    default = default.object("default") if "default" in default.data else default
    found = default.text("_type")
    data = default.object("_data")
    if "FqnToConfig" in found:
        name = "module_fqn_to_config" if "module_fqn_to_config" in data.data else "fqn_to_config"
        usual: NumberFormat | None = None
        for module, inner in data.objects(name):
            own = _torchao_format(inner.text("_type"), inner.object("_data"), inner.path) if inner.data else None
            if module == "_default":
                usual = own
            else:
                named.append((_modules([module], "module", data.key(name)), own))
        return _plan(spec, kept=kept, named=tuple(named), layers=usual)
    one = _torchao_format(found, data, default.key("_type"))
    both = q.flag("include_input_output_embeddings")
    return _plan(spec, kept=kept, layers=one, head=one if both else None, embedding=one if both else None)


def _torchao_format(name: str, fields: Keys, key: str) -> NumberFormat:
    word = re.sub(r"[^a-z0-9]", "", name.casefold()).removesuffix("config")
    group = _group(fields, "group_size", default=128)
    if "nvfp4" in word:
        return number_format("nvfp4")
    if "mxfp" in word or word.startswith("mx"):
        return number_format("mxfp4" if "4" in str(fields.data.get("weight_dtype", "8")) else "mxfp8")
    if "int4" in word or word.startswith("uintx") or "intxweightonly" in word:
        bits = re.search(r"int(\d)", str(fields.data.get("weight_dtype") or fields.data.get("dtype") or "int4"))
        if "tile" in str(fields.data) or "int4weightonly" in word:  # tinygemm: a scale and a zero point in bf16
            return _grouped("int4-awq", "int4-torchao", 4, group, zero=16)
        return packed_format(int(bits[1]) if bits and bits[1] != "0" else 4, group)
    if "float8" in word or word.startswith("fp8"):
        row = "row" in str(fields.data.get("granularity", "")).casefold() or not fields.data
        fmt = number_format("fp8-channel" if row else "fp8")
        return fmt if "activation" in word else weight_only(fmt)
    if "int8" in word:
        return number_format("int8") if "int8dynamicactivationint8" in word or "w8a8" in word else packed_format(8, -1)
    raise _wrong(key, name, "is no configuration of torchao that is known")


def _quark_format(w: Keys) -> NumberFormat | None:
    """A `weight` of Quark."""
    if not w.data:
        return None
    dtype, scheme = w.text("dtype").removeprefix("torch."), w.text("qscheme")
    group = _group(w, "group_size", default=0)
    if dtype.startswith(("fp8", "float8")):
        return number_format("fp8-channel" if scheme == "per_channel" else "fp8")
    if dtype in ("fp4", "mxfp4", "mx"):
        return number_format("nvfp4" if group == 16 else "mxfp4")
    if dtype in ("fp6", "fp6_e2m3", "fp6_e3m2", "mxfp6"):
        return number_format("mxfp6")
    if dtype == "int8" and scheme != "per_group":
        return number_format("int8")
    found = re.fullmatch(r"u?int(\d)", dtype)
    if found is None or found[1] == "0":
        raise _wrong(w.key("dtype"), dtype, "is no number format of Quark that is known")
    return packed_format(int(found[1]), group if group > 0 else -1, zeros=not w.flag("symmetric", True))


def _quark(q: Keys, spec: ModelSpec) -> Checkpoint:
    def fmt(of: Keys) -> NumberFormat | None:
        weight = of.data.get("weight")
        if isinstance(weight, (list, tuple)):  # one format after another: the last is what is stored
            weight = weight[-1] if weight else None
        return _quark_format(Keys({"weight": weight}, of.path).object("weight"))

    named = [
        (_modules([name], "glob", q.key("layer_quant_config")), fmt(found))
        for name, found in q.objects("layer_quant_config")
    ]
    usual = fmt(q.object("global_quant_config"))
    cache = [of for _, of in q.objects("kv_cache_quant_config")]
    kv = cache[0].object("output_tensors").text("dtype") if cache else ""
    plan = _plan(spec, kept=q.modules("exclude", style="glob"), named=tuple(named), layers=usual)
    return replace(plan, kv="fp8" if kv.startswith("fp8") else "int8" if kv == "int8" else "")


def _hqq(q: Keys, spec: ModelSpec) -> Checkpoint:
    """A format for all, or one a kind of module."""
    found = q.object("quant_config")

    def fmt(of: Keys) -> NumberFormat | None:
        of = of.object("weight_quant_params") if "weight_quant_params" in of.data else of
        if not of.data:
            return None
        bits, group = _bits(of, "nbits", "bits", default=4), _group(of, default=64)
        scale, zero = (8 if of.flag(f"quant_{name}") else 16 for name in ("scale", "zero"))
        stem = f"hqq-{bits}bit" + ("-z8" if zero == 8 else "") + ("-s8" if scale == 8 else "")
        stored: Any = 3.2 if bits == 3 else bits  # ten of 3 bits in an int32
        return _grouped("hqq-4bit", stem, stored, group, scale=scale, zero=zero)

    kept = q.modules(*_SKIPPED, style="convert")
    if "weight_quant_params" in found.data or "nbits" in found.data:
        return _plan(spec, kept=kept, layers=fmt(found))
    if not found.data:
        raise q.missing("quant_config", "must be an object")
    named = [(_modules([name], "module", found.path), fmt(of)) for name, of in q.objects("quant_config")]
    return _plan(spec, kept=kept, named=tuple(named))


# Bits of ExLlamaV2's head: shares of columns with more and with fewer bits, and a 4-bit scale a group of rows;
# turboderp/exllamav2:exllamav2/conversion/qparams.py (qparams_headoptions). ExLlamaV3's has whole bits.
_HEADS = {2: (2.6, 32), 3: (3.15, 32), 4: (4.3, 32), 5: (5.15, 128), 6: (6.3, 128), 8: (8, 128)}


def _exllama(q: Keys, spec: ModelSpec) -> Checkpoint:
    """ExLlama: `bits` is the average over all matrices of the layers, whatever each one has; the head has its own."""
    method = q.text("quant_method", default="exl2")
    bits, head = q.number("bits", 4.0, most=16), q.number("head_bits", 6.0, most=16)
    vectors = 16 if method == "exl3" else 0  # the signs of both sides of its rotation, in fp16

    def made(bits: float) -> NumberFormat:
        numbers: dict[str, Any] = {"group": 0, "scale_bits": 0, "zero_bits": 0, "row_bits": vectors}
        fmt = _made("int4-awq", f"{method}-{round(bits, 2):g}bit", bits=bits, column_bits=vectors, **numbers)
        return replace(fmt, like="")

    if method == "exl2" and head in _HEADS:
        average, group = _HEADS[int(head)]
        head = average + 4 / group
    return _plan(spec, layers=made(bits), head=made(head) if head < 16 else None)


def _auto_round(q: Keys, spec: ModelSpec) -> Checkpoint:
    """AutoRound: the layout of whoever it packs for, with modules that have other bits."""
    kind, packing = q.text("data_type", default="int"), q.text("packing_format", "backend")

    def fmt(of: Keys, bits: int, group: int) -> NumberFormat | None:
        bits, group = _bits(of, "bits", default=bits), _group(of, default=group)
        if bits >= 16:
            return None
        if kind.startswith(("mx", "nv")) or of.text("data_type", default=kind).startswith(("mx", "nv")):
            return number_format("nvfp4" if kind.startswith("nv") else "mxfp4" if bits == 4 else "mxfp8")
        if kind.startswith("fp8"):
            return number_format("fp8-channel" if group == -1 else "fp8")
        return awq_format(bits, group) if "awq" in packing else gptq_format(bits, group, index=False)

    bits, group = _bits(q, default=4), _group(q)
    named = [
        (_modules([n], "convert", q.key("extra_config")), fmt(of, bits, group)) for n, of in q.objects("extra_config")
    ]
    plan = _plan(spec, kept=q.modules(*_SKIPPED, style="convert"), named=tuple(named), layers=fmt(q, bits, group))
    return plan


def _mlx(q: Keys, spec: ModelSpec) -> Checkpoint:
    """MLX: every linear layer and embedding whose rows are whole groups; modules may have formats of their own."""
    bits, group, mode = _bits(q, default=4), q.whole("group_size", default=64), q.text("mode", default="affine")
    if mode not in ("affine", "mxfp4", "mxfp8", "nvfp4"):
        raise _wrong(q.key("mode"), mode, "must be affine, mxfp4, mxfp8 or nvfp4")
    named: list[tuple[Modules, NumberFormat | None]] = []
    for name, value in q.data.items():
        if isinstance(value, Mapping) and isinstance(name, str):
            of = q.object(name)
            other = of.text("mode", default="affine" if "bits" in of.data else mode)
            fmt = mlx_format(
                _bits(of, default=bits),
                of.whole("group_size", default=group),
                other if other in ("mxfp4", "mxfp8", "nvfp4") else "affine",
            )
            named.append((_modules([name], "module", q.path), fmt))
        elif value is False and isinstance(name, str):
            named.append((_modules([name], "module", q.path), None))
    fmt = mlx_format(bits, group, mode)
    everywhere: dict[str, Any] = dict.fromkeys(("layers", "embedding", "router", "head"), fmt)
    return _plan(spec, kept=q.modules("modules_to_not_convert", style="convert"), named=tuple(named), **everywhere)


def _aqlm(q: Keys, spec: ModelSpec) -> Checkpoint:
    """Codes of vectors of weights into codebooks of each matrix, and a scale a row."""
    inside, out = q.whole("in_group_size", default=8), q.whole("out_group_size", default=1)
    books, size = q.whole("num_codebooks", default=1, most=64), q.whole("nbits_per_codebook", default=16, most=16)
    bits = books * size / (inside * out)
    table = books * 2**size * inside * out * 16
    numbers: dict[str, Any] = {"group": 0, "scale_bits": 0, "zero_bits": 0, "row_bits": 16, "tensor_bits": table}
    fmt = replace(_made("int4-awq", f"aqlm-{bits:g}bit", bits=bits, **numbers), like="")
    return _plan(spec, kept=q.modules("linear_weights_not_to_quantize", *_SKIPPED, style="convert"), layers=fmt)


def _plain_bits(method: str, **usual: Any) -> Callable[[Keys, ModelSpec], Checkpoint]:
    """Methods of `bits` and a 16-bit scale a group, which no engine of the catalog reads but transformers."""

    def read(q: Keys, spec: ModelSpec) -> Checkpoint:
        bits = _bits(q, "bits", "nbits", "num_bits", default=usual.get("bits", 4))
        group = _group(q, default=usual.get("group", 64))
        fmt = replace(_grouped("int4-awq", f"{method}-{bits}bit", bits, group, zero=usual.get("zero", 0)), like="")
        return _plan(spec, kept=q.modules(*_SKIPPED, style="convert"), layers=fmt)

    return read


def _quanto(q: Keys, spec: ModelSpec) -> Checkpoint:
    name = q.text("weights", default="int8")
    known = {"int8": packed_format(8, -1), "float8": number_format("fp8-channel")}
    known |= {f"int{bits}": packed_format(bits, 128, zeros=True) for bits in (4, 2)}
    if name not in known:
        raise _wrong(q.key("weights"), name, f"must be one of {', '.join(known)}")
    return _plan(spec, kept=q.modules(*_SKIPPED, style="convert"), layers=known[name])


def _fp_quant(q: Keys, spec: ModelSpec) -> Checkpoint:
    name = q.text("forward_dtype", default="nvfp4")
    if name not in ("mxfp4", "nvfp4"):
        raise _wrong(q.key("forward_dtype"), name, "must be mxfp4 or nvfp4")
    return _plan(spec, kept=q.modules(*_SKIPPED, style="convert"), layers=number_format(name))


def _gguf(q: Keys, spec: ModelSpec) -> Checkpoint:
    """A GGUF file whose tensors were counted: bytes, and bytes of each type."""
    total = q.whole("tensor_bytes", most=2**60)
    found: dict[str, int] = {}
    types = q.object("types")
    for name in types.data:
        value = types.data[name]
        if not (isinstance(value, (list, tuple)) and len(value) == 2 and all(type(n) is int and n >= 0 for n in value)):
            raise _wrong(types.key(str(name)), value, "must be two whole numbers: elements and bytes")
        found[str(name)] = value[1]
    return _plan(spec, file_bytes=total, types=tuple(sorted(found.items(), key=lambda item: -item[1])))


READERS: dict[str, Callable[[Keys, ModelSpec], Checkpoint]] = {
    "gptq": _gptq,
    "gptq-marlin": _gptq,
    "marlin": lambda q, spec: _plan(spec, layers=packed_format(_bits(q, default=4), _group(q))),
    "awq": _awq,
    "awq-marlin": _awq,
    "fp8": _fp8,
    "deepseek-v4-fp8": _fp8,
    "fbgemm-fp8": _fbgemm,
    "mxfp4": _mxfp4,
    "mxfp8": _kept("mxfp8"),
    "nvfp4": _kept("nvfp4"),
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed,
    "modelopt": _modelopt,
    "modelopt-fp4": _modelopt,
    "modelopt-mixed": _modelopt,
    "torchao": _torchao,
    "quark": _quark,
    "hqq": _hqq,
    "exl2": _exllama,
    "exl3": _exllama,
    "auto-round": _auto_round,
    "mlx": _mlx,
    "metal": _mlx,
    "aqlm": _aqlm,
    "eetq": lambda q, spec: _plan(spec, kept=q.modules(*_SKIPPED, style="convert"), layers=packed_format(8, -1)),
    "quanto": _quanto,
    "higgs": _plain_bits("higgs", group=256),
    "sinq": _plain_bits("sinq", group=64, zero=16),
    "bitnet": _plain_bits("bitnet", bits=2, group=-1),
    "fp-quant": _fp_quant,
    "gguf": _gguf,
}
