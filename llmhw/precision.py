"""Number formats: what one weight really costs, and which tensors of a model are stored in which format.

"4-bit" is never 4 bits: groups of weights share scales and zero points, and some tensors stay in 16 bit.
The facts are one row a format in `catalog/number_formats.csv`; this module reads them and counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from typing import Any

from llmhw.checks import check_made, check_prose, check_text, checked, whole
from llmhw.formula import Term, formula, term
from llmhw.model import COMPONENTS, ModelSpec, Tensor, model_of
from llmhw.units import ceil_div, check_number, unknown_name

# -- formulas ---------------------------------------------------------------------------------


@formula(source="definition of a grouped number format", unit="bits")
def grouped_bits_per_weight(
    *,
    bits: Any,
    group: Any,
    scale_bits: Any,
    zero_bits: Any = 0,
    outer_group: Any = 1,
    outer_scale_bits: Any = 0,
) -> Any:
    """Bits that one weight costs when a group of weights shares a scale.

    bits              of the weight itself
    group             weights that share a scale
    scale_bits        of that scale (for GGUF: of everything a block holds beside its weights)
    zero_bits         of the group's zero point, 0 for a symmetric format
    outer_group       groups that share a second scale, where scales are themselves quantized
    outer_scale_bits  of that second scale

    Counts full groups. Scales by row or by matrix are in `stored_bits`.

    >>> grouped_bits_per_weight(bits=4, group=128, scale_bits=16, zero_bits=4)
    4.15625
    """
    return bits + (scale_bits + zero_bits) / group + outer_scale_bits / (group * outer_group)


@formula(source="definition", unit="bytes")
def stored_weight_bytes(*, elements: Any, bits_per_weight: Any) -> Any:
    """Bytes of weights stored in one number format.

    elements         number of weights
    bits_per_weight  what one costs, scales and zero points included

    >>> stored_weight_bytes(elements=7e9, bits_per_weight=4.15625) / 1e9
    3.63671875
    """
    return elements * bits_per_weight / 8


@formula(source="IEEE 754-2019, section 3.3; OCP OFP8 v1.0; OCP Microscaling (MX) v1.0, section 5.3", unit="count")
def largest_exponent(*, exponent_bits: Any, reserved: Any = 1) -> Any:
    """The largest power of two of a floating-point format's numbers.

    reserved  1 where the largest exponent means infinity and NaN, as IEEE 754 has it; 0 in formats of 8 bits and fewer

    >>> largest_exponent(exponent_bits=8), largest_exponent(exponent_bits=4, reserved=0)
    (127.0, 8.0)
    """
    return 2.0 ** (exponent_bits - 1) - reserved


@formula(
    source="IEEE 754-2019, section 3.3; OCP OFP8 v1.0, table 1; OCP Microscaling (MX) v1.0, section 5.3",
    unit="times its scale",
)
def largest_float(*, exponent: Any, mantissa_bits: Any, codes_reserved: Any = 0) -> Any:
    """The largest finite value of a floating-point format.

    exponent        see `largest_exponent`
    codes_reserved  1 where the largest code of all means NaN, as in E4M3

    >>> largest_float(exponent=127, mantissa_bits=7), largest_float(exponent=8, mantissa_bits=3, codes_reserved=1)
    (3.3895313892515355e+38, 448.0)
    """
    return (2 - (1 + codes_reserved) / 2.0**mantissa_bits) * 2.0**exponent


@formula(source="IEEE 754-2019: unit in the last place", unit="fraction")
def float_step(*, mantissa_bits: Any) -> Any:
    """Distance from 1 to the next larger number, which is the relative distance of all neighbours at most.

    >>> float_step(mantissa_bits=7)
    0.0078125
    """
    return 1 / 2.0**mantissa_bits


# -- the formats ------------------------------------------------------------------------------


@formula(source="definition", unit="bits")
def mean_bits_per_weight(*, weight_bytes: Any, weights: Any) -> Any:
    """Bits of a weight, over all tensors of a model.

    weight_bytes   of all of them, as they are stored
    weights        of all of them, count

    >>> mean_bits_per_weight(weight_bytes=5e9, weights=8e9)
    5.0
    """
    return weight_bytes * 8 / weights


def _check_bits(argument: str, value: Any) -> Any:
    checked_value = check_number(argument, value, most=1024, above=True)
    return int(checked_value) if checked_value.is_integer() else checked_value  # bytes of whole bits stay exact


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """One way to store numbers. Get one with `number_format(name)`.

    name              as this library spells it
    bits              of one element, scales left out
    kind              float, integer, block (hardware block scaling) or gguf
    value_bits        what the bits of one element are, in order: sign, exponent and mantissa of a float, sign and
                      digits of an integer, the index of a table; () where a block's bits are not one value's
    reserved          of a float: "exponent" where the largest one is infinity and NaN, "code" where one code is NaN
    group             elements that share a scale; 0 for none
    layout            "" for groups along a row, "tile" for group x group squares, "flat" for the flattened matrix
    scale_bits        of the scale of a group
    zero_bits         of its zero point
    outer_group       groups that share a second scale, and
    outer_scale_bits  its bits (NF4 with double quantization)
    row_bits          further bits for each output row of a matrix (int8: its scale)
    column_bits       further bits for each input of a matrix (GPTQ: its group index)
    tensor_bits       further bits for each matrix (NVFP4: its fp32 scale)
    compute           the format in which tensor cores multiply such weights; weight-only formats are
                      unpacked to 16 bit first
    rule              which tensors are stored so: "all" of them; "matrices" of attention, MLP and experts;
                      "experts" (all matrices where a model has none); "mlx", all matrices whose rows are whole
                      groups, embedding, head and router too; "gguf", llama.cpp's rules
    like              format of the catalog whose kernels read it, where it is not in an engine's list itself
    base              gguf: the type of most tensors
    overrides         gguf: for each kind of tensor, "condition:type" pairs, the first that holds
    source, note      where the facts come from, and what a reader should know
    """

    name: str
    bits: float
    kind: str
    compute: str
    rule: str
    source: str
    like: str = ""
    value_bits: tuple[tuple[str, int], ...] = ()
    reserved: str = ""
    group: int = 0
    layout: str = ""
    scale_bits: int = 0
    zero_bits: int = 0
    outer_group: int = 0
    outer_scale_bits: int = 0
    row_bits: int = 0
    column_bits: int = 0
    tensor_bits: int = 0
    base: str = ""
    overrides: tuple[tuple[str, str], ...] = ()
    aliases: tuple[str, ...] = ()
    locator: str = ""
    status: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        sizes = ("group", "scale_bits", "zero_bits", "outer_group", "outer_scale_bits")
        texts = ("rule", "like", "reserved", "compute", "layout", "base", "source", "locator", "status", "note")
        totals = dict.fromkeys((*sizes, "row_bits", "column_bits", "tensor_bits"), whole(0, 2**40))
        check_made(self, **totals, **dict.fromkeys(texts, check_prose), bits=_check_bits)

    @property
    def bits_per_weight(self) -> float:
        """Bits that one element of a large matrix costs, the scales of its groups included.

        Left out: scales by row or by matrix, far below 0.01 bit for the matrices of a language model. For a
        GGUF mix it is that of most tensors; the whole file's average is `model_bits_per_weight`.

        >>> number_format("nf4-dq").bits_per_weight
        4.126953125
        """
        if not self.group:
            return self.bits
        per_scale = self.group**2 if self.layout == "tile" else self.group
        bits: float = grouped_bits_per_weight(
            bits=self.bits,
            group=per_scale,
            scale_bits=self.scale_bits,
            zero_bits=self.zero_bits,
            outer_group=self.outer_group or 1,
            outer_scale_bits=self.outer_scale_bits,
        )
        return bits

    def float_terms(self) -> tuple[Term, Term] | None:
        """The largest value and the step at 1 of a float, with their formulas; None of what is no float.

        >>> [t.value for t in number_format("fp16").float_terms()]
        [65504.0, 0.0009765625]
        """
        parts = dict(self.value_bits)
        if "exponent" not in parts:
            return None
        reserved = int(self.reserved == "exponent")
        power = term(largest_exponent, "exponent", exponent_bits=parts["exponent"], reserved=reserved)
        sizes: dict[str, Any] = {"mantissa_bits": parts["mantissa"], "codes_reserved": int(self.reserved == "code")}
        largest = term(largest_float, "largest value", exponent=power.value, **sizes)
        return largest, term(float_step, "step at 1", mantissa_bits=parts["mantissa"])

    @checked(rows=whole(1), columns=whole(1), matrices=whole(1))
    def stored_bits(self, rows: int, columns: int, matrices: int = 1) -> int:
        """Bits of equal matrices in this format, to the bit: elements, scales, zero points, group indices.

        rows, columns  of one matrix; groups lie along the columns (the inputs of a linear layer)
        matrices       how many there are, as in a stack of experts

        A last group that is not full costs as much as a full one.

        >>> number_format("int4-gptq").stored_bits(4096, 4096) / 4096**2
        4.1640625
        """
        return int(self.matrix_bits(rows, columns, matrices))

    def matrix_bits(self, rows: Any, columns: Any, matrices: Any = 1) -> Any:
        """The same, unchecked: also of arrays of sizes, as a search of layouts has them."""
        elements = rows * columns
        groups = self._groups(rows, columns)
        outer = ceil_div(groups, self.outer_group) if self.outer_group else 0
        each = (
            elements * self.bits
            + groups * (self.scale_bits + self.zero_bits)
            + outer * self.outer_scale_bits
            + rows * self.row_bits
            + columns * self.column_bits
            + self.tensor_bits
        )
        if self.kind == "gguf" and self.group:  # a block is stored whole
            each = groups * (self.group * self.bits + self.scale_bits)
        return matrices * each

    def _groups(self, rows: Any, columns: Any) -> Any:
        if not self.group:
            return 0
        if self.layout == "flat":
            return ceil_div(rows * columns, self.group)
        if self.layout == "tile":
            return ceil_div(rows, self.group) * ceil_div(columns, self.group)
        return rows * ceil_div(columns, self.group)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the bits per weight among them."""
        shown = ("name", "kind", "bits", "bits_per_weight", "group", "scale_bits", "zero_bits", "compute", "rule")
        return {name: getattr(self, name) for name in (*shown, "source", "status", "note")}


_TENSOR_KINDS = (
    "token_embd", "output", "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_up", "ffn_down",
)  # fmt: skip


def _read(row: dict[str, str]) -> NumberFormat:
    values: dict[str, Any]
    known = {f.name: f.type for f in fields(NumberFormat) if f.name in row}
    values = {name: int(row[name] or 0) if kind == "int" else row[name] for name, kind in known.items()}
    values["bits"] = float(row["bits"]) if "." in row["bits"] else int(row["bits"])
    parts = (part.partition(":") for part in row["value_bits"].split(";") if part)
    values["value_bits"] = tuple((name, int(bits)) for name, _, bits in parts)
    values["overrides"] = tuple((kind, row[kind]) for kind in _TENSOR_KINDS if row[kind])
    values["aliases"] = tuple(alias for alias in row["aliases"].split(";") if alias)
    return NumberFormat(**values)


@cache
def _formats() -> dict[str, NumberFormat]:
    from llmhw.catalog import read_table

    return {row["name"]: _read(row) for row in read_table("number_formats")}


def _key(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in "-_. ").removeprefix("torch")


@cache
def _by_key() -> dict[str, NumberFormat]:
    found = {_key(name): entry for name, entry in _formats().items()}
    for entry in _formats().values():
        for alias in entry.aliases:
            found.setdefault(_key(alias), entry)
    return found


def number_formats() -> tuple[str, ...]:
    """The names of all number formats, in the order of the catalog.

    >>> number_formats()[:5]
    ('fp64', 'fp32', 'tf32', 'fp16', 'bf16')
    """
    return tuple(_formats())


def number_format(name: str | NumberFormat) -> NumberFormat:
    """The number format of that name.

    name   one of `number_formats()` or an alias ("float16", "awq", "torch.bfloat16"); case, dashes, dots and
           underscores do not matter; a `NumberFormat` is returned as it is

    A misspelt name raises `LLMHWError` and suggests the nearest ones.

    >>> number_format("Q4_K_M").compute, number_format("int4-gptq").bits_per_weight
    ('int8', 4.15625)
    >>> number_format("int4-gtpq")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    llmhw.units.LLMHWError: number_format='int4-gtpq' is not known; did you mean int4-gptq, ...?
    """
    if isinstance(name, NumberFormat):
        return name
    if type(name) is str and name in _formats():  # as the catalog spells it
        return _formats()[name]
    # torch's dtypes are no texts, and their names are formats
    text = str(name) if type(name).__module__ == "torch" else check_text("number_format", name)
    entry = _by_key().get(_key(text))
    if entry is None:
        from llmhw.names import split_format

        left, stated = split_format(text)  # as the names of checkpoints write it: "FP8-dynamic", "GPTQ-Int4"
        # an importance matrix or Unsloth's choice of types leaves the format's name
        entry = _formats().get(stated) if left in ("", "i1", "ud", "imatrix") else None
    if entry is None:
        raise unknown_name("number_format", name, number_formats(), "see `llmhw.number_formats()` for the list")
    return entry


_lookup = number_format  # the functions below have a parameter of that name

# In place of a format's name: as the files of the model have it, see `llmhw.checkpoint`.
CHECKPOINT = "checkpoint"


def _of_checkpoint(name: Any) -> bool:
    return isinstance(name, str) and name == CHECKPOINT


def format_label(spec: ModelSpec, name: str) -> str:
    """The format of weights for a reader: of a checkpoint, what it holds most of, down to a hundredth of its bytes.

    >>> from llmhw import model
    >>> format_label(model("kimi-k2.5"), "checkpoint"), format_label(model("llama-3-8b"), "fp8")
    ('checkpoint (int4-w4a16-g32)', 'fp8')
    """
    if name != CHECKPOINT:
        return name
    return f"{name} ({' + '.join(fmt.name for fmt in checkpoint_formats(spec))})"


# of the model alone, and asked for by every job of it
@lru_cache(maxsize=64)
def checkpoint_formats(spec: ModelSpec) -> tuple[NumberFormat, ...]:
    """The formats that a checkpoint's quantized weights are in, by bytes; where there are none, its 16- or 32-bit one.

    Those with less than a hundredth of the bytes are left out.
    """
    checkpoint = spec.checkpoint
    if checkpoint.whole:
        return (checkpoint.whole,)
    if checkpoint.file_bytes:
        return (_file_format(spec),)
    held: dict[NumberFormat, float] = {}
    for _, fmt, tensor, times in spec.stored:
        held[fmt] = held.get(fmt, 0) + times * stored_bits(fmt, tensor)
    least = sum(held.values()) / 100
    order = sorted(held, key=lambda fmt: -held[fmt])
    return tuple(fmt for fmt in order if fmt.bits < 16 and held[fmt] > least) or (checkpoint.wide,)


@lru_cache(maxsize=64)
def checkpoint_name(spec: ModelSpec) -> str:
    """The format of the catalog that the checkpoint is in, tensor by tensor; "checkpoint" where there is no such one.

    >>> from llmhw import model
    >>> checkpoint_name(model("gpt-oss-20b")), checkpoint_name(model("kimi-k2.5")), checkpoint_name(model("llama-3-8b"))
    ('mxfp4', 'checkpoint', 'bf16')
    """
    found = checkpoint_formats(spec)
    name = found[0].name
    if len(found) > 1 or spec.checkpoint.file_bytes or name not in _formats():
        return CHECKPOINT
    alike = spec.checkpoint.whole or weight_groups(spec, CHECKPOINT) == weight_groups(spec, name)
    return name if alike else CHECKPOINT


def formats_in(spec: ModelSpec, name: str | NumberFormat) -> tuple[NumberFormat, ...]:
    """The format of that name, or those of the model's checkpoint, the one with most bytes first."""
    return checkpoint_formats(spec) if _of_checkpoint(name) else (number_format(name),)


def component_formats(spec: ModelSpec, name: str) -> dict[tuple[int, str], NumberFormat]:
    """The format that most of each component's matrices are in, by number of the layer kind; -1: outside the layers.

    A product is timed by it. In a GGUF mix it is the mix with the bits that the component has on average.

    >>> from llmhw import model
    >>> found = component_formats(model("gpt-oss-20b"), "checkpoint")
    >>> found[0, "experts"].name, found[0, "attention"].name, found[-1, "head"].name
    ('mxfp4', 'bf16', 'bf16')
    """
    chosen = spec.checkpoint.whole if name == CHECKPOINT else _lookup(name)
    if chosen is not None and chosen.rule == "gguf":
        return _gguf_components(spec, chosen)
    most: dict[tuple[int, str], dict[NumberFormat, int]] = {}
    for kind, fmt, tensor, times in _stored(spec, name):
        component = "head" if spec.tied and tensor.part == "tokens" else tensor.component
        if tensor.matmul or component == "head":
            found = most.setdefault((kind, component), {})
            found[fmt] = found.get(fmt, 0) + times * tensor.numel
    return {key: max(found, key=lambda fmt: found[fmt]) for key, found in most.items()}


@cache
def _gguf_components(spec: ModelSpec, mix: NumberFormat) -> dict[tuple[int, str], NumberFormat]:
    held: dict[tuple[int, str], list[float]] = {}
    for at, fmt, part in _gguf_layers(spec, mix):
        component = "head" if part.kind == "output" or (spec.tied and part.kind == "token_embd") else part.component
        found = held.setdefault((spec.kind_numbers[at] if at >= 0 else -1, component), [0.0, 0.0])
        elements = part.matrices * part.rows * part.columns
        found[0] += elements
        found[1] += elements * fmt.bits_per_weight
    return {
        key: NumberFormat(mix.name, bits / elements, "gguf", mix.compute, "all", source=mix.source)
        for key, (elements, bits) in held.items()
    }


def _stored(spec: ModelSpec, name: str) -> Iterator[tuple[int, NumberFormat, Tensor, int]]:
    """Every distinct tensor: number of its layer kind, format, and how many there are."""
    chosen = _lookup(name) if name != CHECKPOINT else spec.checkpoint.whole
    if name == CHECKPOINT and spec.checkpoint.file_bytes:
        chosen = _file_format(spec)
    if chosen is None:
        yield from spec.stored
        return
    kinds = [(i, times, layer.tensors) for i, (layer, times) in enumerate(spec.layer_kinds)]
    for kind, times, tensors in (*kinds, (-1, 1, spec.tensors)):
        for tensor in tensors:
            if chosen.rule == "gguf":
                fmt = chosen if tensor.component in _QUANTIZED_COMPONENTS else _sixteen_bit(spec)
            else:
                fmt = _simple_format(spec, chosen, tensor)
            yield kind, fmt, tensor, times


def _file_format(spec: ModelSpec) -> NumberFormat:
    """What the weights of a GGUF file are in on average, by the name of the type with most bytes."""
    held, name = spec.checkpoint, spec.checkpoint.types[0][0] if spec.checkpoint.types else "gguf"
    bits = 8 * held.file_bytes / spec.parameters.text
    compute = {"F16": "fp16", "BF16": "bf16", "F32": "fp32"}.get(name, "int8")
    return NumberFormat(name, bits, "gguf", compute, "all", source="the file's own count of its tensors")


# -- a model's tensors in a format ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WeightGroup:
    """The weights of one component that are stored in one format.

    component        one of `llmhw.model.COMPONENTS`
    stored_as        name of the number format
    elements         how many weights; a rank's share of a GGUF mix need not be whole
    bits_per_weight  what one costs on average, every scale, zero point and index counted
    """

    component: str
    stored_as: str
    elements: float
    bits_per_weight: float

    @property
    def bytes(self) -> float:
        """Bytes of the group."""
        total: float = stored_weight_bytes(elements=self.elements, bits_per_weight=self.bits_per_weight)
        return total


@dataclass(frozen=True, slots=True)
class _Matrices:
    """Equal matrices of one tensor: what is stored, whatever the format."""

    component: str
    kind: str
    rows: int
    columns: int
    matrices: int = 1


def weight_groups(
    spec: ModelSpec | str, number_format: str | NumberFormat, tensors: Iterable[tuple[Tensor, int]] | None = None
) -> list[WeightGroup]:
    """All weights of a text model, grouped by component and by the format they are stored in.

    spec           a `ModelSpec`, or the name of a model
    number_format  name of a format or a `NumberFormat`, or "checkpoint": as the model's files have it
    tensors        a rank's part of the tensors, each with how many there are; default: the whole model. Of a GGUF mix,
                   whose types depend on the layer, the rank gets its share of every component; of a checkpoint that
                   treats layers differently, the average of its layers

    Quantized formats leave embeddings, output head, norms, biases and the router of experts in 16 bit, as GPTQ,
    AWQ, bitsandbytes and the fp8 and fp4 checkpoints do. MXFP4 packs only the experts of a model that has some.
    GGUF files follow llama.cpp: a mix of types over the layers, norms, biases and router in fp32, and another
    type for the embedding table and for the output. Tied embeddings count once.

    Ignored: file headers, tokenizer, code tables (NF4, about 1 kB a matrix), alignment, multi-token-prediction
    layers. Raises `LLMHWError` for an unknown format.

    >>> from llmhw import model
    >>> for group in weight_groups(model("llama-3-8b"), "int4-awq"):
    ...     print(group.component, group.stored_as, round(group.bytes / 1e6))
    embedding bf16 1051
    attention int4-awq 697
    mlp int4-awq 2929
    norms bf16 1
    head bf16 1051
    """
    spec = model_of(spec)
    if _of_checkpoint(number_format):
        if not spec.checkpoint.whole:
            return _checkpoint_groups(spec, None if tensors is None else list(tensors))
        number_format = spec.checkpoint.whole
    chosen = _lookup(number_format)
    if tensors is None:
        return list(_weight_groups(spec, chosen))
    held = list(tensors)
    if chosen.rule != "gguf":
        return _grouped(_simple_types(spec, chosen, held))
    part = {name: sum(n * t.numel for t, n in held if t.component == name) for name in COMPONENTS}
    return [
        replace(group, elements=group.elements * part[group.component] / spec.parameters.by_component[group.component])
        for group in _weight_groups(spec, chosen)
    ]


def weight_bytes(spec: ModelSpec | str, number_format: str | NumberFormat) -> float:
    """Bytes of all weights of a text model in a format: the sum over `weight_groups`.

    >>> from llmhw import model
    >>> round(weight_bytes(model("llama-3-70b"), "int4-gptq") / 1e9, 1)
    39.8
    """
    return sum(group.bytes for group in weight_groups(spec, number_format))


def model_bits_per_weight(spec: ModelSpec | str, number_format: str | NumberFormat) -> float:
    """Bits per weight over the whole text model, the tensors that stay in 16 or 32 bit included.

    >>> from llmhw import model
    >>> round(model_bits_per_weight(model("llama-3.1-8b"), "Q4_K_M"), 4)
    4.8944
    """
    spec = model_of(spec)
    held = weight_bytes(spec, number_format)
    return float(mean_bits_per_weight(weight_bytes=held, weights=spec.parameters.text))


@lru_cache(maxsize=64)
def _weight_groups(spec: ModelSpec, chosen: NumberFormat) -> tuple[WeightGroup, ...]:
    gguf = chosen.rule == "gguf"
    types = ((fmt, part, 1) for _, fmt, part in _gguf_layers(spec, chosen)) if gguf else ()
    return tuple(_grouped(types if gguf else _simple_types(spec, chosen, spec.all_tensors())))


def _grouped(assigned: Iterable[tuple[NumberFormat, _Matrices, float]]) -> list[WeightGroup]:
    elements: dict[tuple[str, str], float] = {}
    bits: dict[tuple[str, str], float] = {}
    for stored, part, times in assigned:
        key = (part.component, stored.name)
        elements[key] = elements.get(key, 0) + times * part.matrices * part.rows * part.columns
        bits[key] = bits.get(key, 0) + times * stored.matrix_bits(part.rows, part.columns, part.matrices)

    def most(value: Any) -> Any:  # of many layouts at once, as `search` counts them
        return value.max() if hasattr(value, "max") else value

    order = sorted(elements, key=lambda key: (COMPONENTS.index(key[0]), -most(elements[key])))
    return [WeightGroup(*key, elements[key], bits[key] / elements[key]) for key in order]


def _matrices(tensor: Tensor, kind: str = "") -> _Matrices:
    """The tensor as matrices with the inputs of the layer along the columns; a vector is one row."""
    shape = tensor.shape
    if len(shape) == 1:
        return _Matrices(tensor.component, kind, 1, shape[0])
    return _Matrices(tensor.component, kind, tensor.out, tensor.into, tensor.numel // (tensor.out * tensor.into))


def stored_bits(fmt: NumberFormat, tensor: Tensor) -> int:
    """Bits of a tensor in a format, whichever way round it is stored."""
    part = _matrices(tensor)
    return fmt.stored_bits(part.rows, part.columns, part.matrices)


_QUANTIZED_COMPONENTS = ("attention", "mlp", "experts")


def _sixteen_bit(spec: ModelSpec) -> NumberFormat:
    return number_format("fp16" if spec.dtype == "float16" else "bf16")


def _simple_format(spec: ModelSpec, chosen: NumberFormat, tensor: Tensor) -> NumberFormat:
    """The format of one tensor where `chosen` is the model's."""
    packed = chosen.rule == "all" or (tensor.is_linear and tensor.component in _QUANTIZED_COMPONENTS)
    if chosen.rule == "mlx":
        packed = (tensor.is_linear or tensor.part == "tokens") and not tensor.into % chosen.group
    elif chosen.rule == "experts" and spec.parameters.by_component["experts"]:
        packed = tensor.matmul and tensor.component == "experts"
    return chosen if packed else _sixteen_bit(spec)


def _simple_types(
    spec: ModelSpec, chosen: NumberFormat, tensors: Iterable[tuple[Tensor, int]]
) -> Iterator[tuple[NumberFormat, _Matrices, int]]:
    for tensor, times in tensors:
        yield _simple_format(spec, chosen, tensor), _matrices(tensor), times


def _checkpoint_groups(spec: ModelSpec, tensors: list[tuple[Tensor, int]] | None) -> list[WeightGroup]:
    """Weights as the checkpoint has them; a rank's, by the formats that tensors of that name have in all layers."""
    if spec.checkpoint.file_bytes:
        fmt, held = _file_format(spec), dict.fromkeys(COMPONENTS, 0)
        for tensor, times in spec.all_tensors() if tensors is None else tensors:
            held[tensor.component] += times * tensor.numel
        return [WeightGroup(name, fmt.name, n, fmt.bits) for name, n in held.items() if n]
    if tensors is None:
        return list(_whole_checkpoint(spec))
    shares: dict[tuple[str, str], dict[NumberFormat, int]] = {}
    for _, fmt, tensor, times in spec.stored:
        found = shares.setdefault((tensor.name, tensor.component), {})
        found[fmt] = found.get(fmt, 0) + times
    return _grouped(
        (fmt, _matrices(tensor), times * part / sum(found.values()))
        for tensor, times in tensors
        for found in (shares[tensor.name, tensor.component],)
        for fmt, part in found.items()
    )


@lru_cache(maxsize=64)
def _whole_checkpoint(spec: ModelSpec) -> tuple[WeightGroup, ...]:
    return tuple(_grouped((fmt, _matrices(tensor), times) for _, fmt, tensor, times in spec.stored))


# -- GGUF: llama.cpp chooses a type for every tensor ------------------------------------------
#
# The rules by which nearly all files on the Hub were made. Since 2026 `llama-quantize` treats a fused attn_qkv and
# MLA's attn_kv_b by the rule for attn_v: for Q4_K_M and Q5_K_M of such models a difference of up to 2 %.

# What a tensor is to llama.cpp, by its part. The rules treat the gate of an MLP and its up projection alike.
_GGUF_KINDS = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "qkv": "attn_qkv",
    "kv_b": "attn_kv_b",
    "o": "attn_output",
    **dict.fromkeys(("gate", "up", "gate_up"), "ffn_up"),
    "down": "ffn_down",
    "head": "output",
    "tokens": "token_embd",
}

# A row that is not a whole number of blocks falls back to a type with blocks of 32, and from there to F16.
_FALLBACK = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_K", "Q3_K"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
# Mixes of about 2 bits and below know no special case for 70B and 8 experts, and count ffn_down tensors, not layers.
_SMALLEST = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")


def _more_bits(i: int, n: int) -> bool:
    """llama.cpp's `use_more_bits`: the first and last eighth of the layers, and every third between."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


@dataclass(frozen=True, slots=True)
class _Traits:
    """What llama.cpp's rules ask of a model."""

    gqa4: bool
    experts: int
    falcon: bool
    seventy: bool

    def holds(self, condition: str, i: int, n: int) -> bool:
        """Whether a condition of the catalog holds for the i-th of n tensors; "+" joins conditions."""
        known = {
            "gqa4": self.gqa4,
            "experts4": self.experts >= 4,
            "experts8": self.experts == 8,
            "falcon": self.falcon,
            "more": _more_bits(i, n),
            "eighth": i < n // 8,
            "sixteenth": i < n // 16,
            "middle": n // 8 <= i < 7 * n // 8,
            "first2": i < 2,
            "first4": i < 4,
        }
        return all(known[word] for word in condition.split("+"))

    def choose(self, rules: str, base: str, i: int, n: int) -> str:
        """The type that "condition:type condition:type type" gives; `base` if nothing holds."""
        for rule in rules.split():
            condition, _, name = rule.rpartition(":")
            if not condition or self.holds(condition, i, n):
                return name
        return base


def _traits(spec: ModelSpec) -> _Traits:
    experts = max((tensor.experts for tensor, _ in spec.all_tensors()), default=1)
    return _Traits(
        gqa4=spec.heads // spec.kv_heads >= 4,
        experts=experts,
        falcon=spec.family.gguf == "falcon",
        seventy=spec.num_layers == 80
        and spec.family.gguf in (("70b",) if spec.heads == spec.kv_heads else ("70b", "70b-gqa")),
    )


def _gguf_parts(tensor: Tensor) -> list[_Matrices]:
    """The tensor as a GGUF file holds it, with its kind; fused gates of experts are split in two."""
    if tensor.part == "router" or not (tensor.matmul or tensor.part == "tokens"):
        return [_matrices(tensor, "f32")]  # also norms, biases, learned positions, short convolutions
    # the fused inputs of a delta rule (Qwen3.5) are named as those of attention are
    kind = "attn_qkv" if tensor.module == "in_proj_qkv" else _GGUF_KINDS.get(tensor.part, "other")
    part = _matrices(tensor, kind)
    if tensor.component == "experts" and tensor.part == "gate_up":
        half = _Matrices(part.component, part.kind, part.rows // 2, part.columns, part.matrices)
        return [half, half]
    return [part]


def _gguf_layers(spec: ModelSpec, mix: NumberFormat) -> Iterator[tuple[int, NumberFormat, _Matrices]]:
    """Every tensor with its layer (-1: outside) and the type that `llama-quantize` gives it in this mix."""
    traits = _traits(spec)
    layers = [[part for tensor in layer.tensors for part in _gguf_parts(tensor)] for layer in spec.layers]
    outer = [part for tensor in spec.tensors for part in _gguf_parts(tensor)]
    values = sum(part.kind in ("attn_v", "attn_qkv", "attn_kv_b") for layer in layers for part in layer)
    seen = dict.fromkeys(("attn_v", "ffn_down"), 0)
    for i, layer in enumerate(layers):
        for part in layer:
            index, count = i, len(layers)
            if part.kind == "attn_v":
                index, count = seen["attn_v"], values
            elif part.kind == "ffn_down" and mix.name in _SMALLEST:
                index = seen["ffn_down"]
            if part.kind in seen:
                seen[part.kind] += 1
            yield i, _gguf_type(spec, mix, traits, part, index, count), part
    for part in outer:
        yield -1, _gguf_type(spec, mix, traits, part, 0, 1), part


def _gguf_type(
    spec: ModelSpec, mix: NumberFormat, traits: _Traits, part: _Matrices, index: int, count: int
) -> NumberFormat:
    formats = _formats()
    if part.kind == "f32":
        return formats["fp32"]
    base = formats[mix.base]
    rules = dict(mix.overrides)
    if part.component == "experts" and spec.checkpoint.method == "mxfp4" and mix.bits < 32:
        return formats["mxfp4"]  # whatever the file is called: files of 16 bit and mixes, too, leave them as published
    if part.kind == "output" or (spec.tied and part.kind == "token_embd"):
        name = "Q8_0" if base.group and (traits.falcon or part.columns % base.group) else rules["output"]
    elif part.kind == "token_embd":
        name = rules.get("token_embd", mix.base)
    else:
        name = traits.choose(rules.get(part.kind, ""), mix.base, index, count)
        if mix.name not in _SMALLEST and base.group:
            name = _bumped(traits, part.kind, name)
    if formats[name].group and part.columns % formats[name].group:
        name = _FALLBACK.get(name, "F16")
        if formats[name].group and part.columns % formats[name].group:
            name = "F16"
    return formats[name]


def _bumped(traits: _Traits, kind: str, name: str) -> str:
    """The small key and value matrices of some models get more bits than their mix says."""
    if traits.experts == 8 and kind in ("attn_k", "attn_v"):
        return "Q8_0"
    if traits.seventy and kind == "attn_v" and name in ("Q3_K", "Q4_K"):
        return "Q5_K"
    return name
