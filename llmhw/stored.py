"""A checkpoint on disk beside what its config predicts: tensors, elements and bytes, component by component."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmhw.formula import Report, Table
from llmhw.language import said
from llmhw.model import COMPONENTS, TOWERS, ModelSpec, model
from llmhw.precision import number_format, weight_groups
from llmhw.sources.headers import Checkpoint, Stored, checkpoint_at
from llmhw.units import LLMHWError, check_choice, format_quantity, shown

# What a file may hold beside the model, by the tensor's name; it is listed, and is no difference.
_BESIDE = (
    (
        "vision and audio parts",
        r"^([a-zA-Z_]\w*\.)*(visual|vision_\w+|vision|multi_modal_projector|mm_projector|audio_\w+|image_\w+)\.",
    ),
    ("multi-token prediction", r"(^|\.)mtp(\.|_)|(^|\.)nextn\."),
    (
        "buffers",
        r"inv_freq$|(^|\.)rotary\w*\.\w+$|masked_bias$|(^|\.)attn\.bias$|e_score_correction_bias$"
        r"|(^|\.)(position|token_type)_ids$|expert_bias$|layer_scalar$|(^|\.)gate\.bias$"
        r"|balancing_biases$|(^|\.)act_fn\.(beta|eps)$"
        r"|(^|\.)((query|key|diagonal)_decay|slope_rate|tid2eid|layer_multipliers|ngram_heads_(offsets|vocab_sizes))$",
    ),
)
# The component of a tensor that has another name than in transformers.
_NAMES = (
    ("attention", r"norm\.W_(down|up)\."),
    ("router", r"(^|\.)hc_\w+$|(e_score_correction|expert)_bias$"),
    ("norms", r"norm|(^|\.)ln_|(^|\.)norm_\d"),
    ("head", r"lm_head|embed_out|(^|\.)unembed\.|^(output|head)\."),
    ("experts", r"\.experts\.|block_sparse_moe\.(in|out)put_linear"),
    ("router", r"router|\.gate\.(weight|bias)$|shared_expert_gate"),
    ("embedding", r"embed|wte|wpe"),
    ("attention", r"attn|attention|mixer|conv"),
    ("mlp", r"mlp|ffn|fc\d|feed_forward|block_sparse|shared"),
)
# Where files hold names like these, and none of the model's own tensor: in how many tensors they hold that one.
_PARTS = (
    (r"(^|\.)k_conv1d\.weight$", r"attn\.conv1d\.weight$", 3),
    (r"(^|\.)(att_proj|w?qkv(_proj)?)\.weight$", r"(^|\.)[kv]_proj\.", 0),
    (r"(^|\.)(ff_proj|gate_up_proj)\.weight$", r"(^|\.)mlp\.up_proj\.", 0),
    (r"(^|\.)new_embedding$", r"(^|\.)embed_tokens\.weight$", 2),
)
# Numbers that nobody trains.
_WHOLE = ("BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64")


@dataclass(frozen=True, repr=False)
class Comparison(Report):
    """What a checkpoint holds beside what its config predicts.

    spec         the model
    found        the checkpoint's tensors
    elements     component -> elements predicted, elements found; None where only an index is there
    bytes        bytes predicted, bytes found, of what is in the model
    tensors      tensors predicted, tensors found, of what is in the model
    beside       what the files hold beside the model -> elements, bytes
    """

    spec: ModelSpec
    found: Checkpoint
    elements: Mapping[str, tuple[int, int]] | None
    bytes: tuple[int, int]
    tensors: tuple[int, int]
    beside: Mapping[str, tuple[int, int]]

    @property
    def equal(self) -> bool:
        """Whether all of them agree."""
        alike = all(mine == theirs for mine, theirs in (self.elements or {}).values())
        return alike and self.bytes[0] == self.bytes[1] and self.tensors[0] == self.tensors[1]

    @property
    def verdict(self) -> str:
        if self.equal:
            by_index = "" if self.elements else said(", by the index; its files are not there")
            text = "equal: {tensors:,} tensors and {bytes:,} bytes, as predicted"
            return said(text, tensors=self.tensors[1], bytes=self.bytes[1]) + by_index
        apart = [name for name, (mine, theirs) in (self.elements or {}).items() if mine != theirs]
        apart += [name for name in ("tensors", "bytes") if len(set(getattr(self, name))) > 1]
        text = "not equal: {parts} differs from what the config predicts"
        if len(apart) > 1:
            text = "not equal: {parts} differ from what the config predicts"
        return said(text, parts=", ".join(map(said, apart)))

    @property
    def by_type(self) -> dict[str, tuple[int, int, int]]:
        """Tensors, elements and bytes of each type in the files."""
        found: dict[str, tuple[int, int, int]] = {}
        for tensor in self.found.tensors.values():
            count, elements, held = found.get(tensor.kind, (0, 0, 0))
            found[tensor.kind] = count + 1, elements + tensor.elements, held + tensor.bytes
        return found

    index = "what"

    def records(self) -> list[dict[str, Any]]:
        """What is predicted and found, elements by component first."""
        rows = [*(self.elements or {}).items(), ("tensors", self.tensors), ("bytes", self.bytes)]
        return [{"what": name, "predicted": a, "found": b, "difference": b - a} for name, (a, b) in rows if a or b]

    def tables(self) -> list[Table]:
        cells = [
            (r["what"], f"{r['predicted']:,}", f"{r['found']:,}", f"{r['difference']:+,}" if r["difference"] else "0")
            for r in self.records()
        ]
        columns = ("elements", "predicted", "found", "difference")
        found = [Table(f"{self.spec.name}: its files beside its config", columns, cells)]
        if self.by_type:
            kinds = [(kind, *(f"{n:,}" for n in counts)) for kind, counts in sorted(self.by_type.items())]
            found.append(Table("in the files", ("type", "tensors", "elements", "bytes"), kinds))
        return found

    def warnings(self) -> list[str]:
        notes = [f"beside the model: {name}, {n:,} elements in {b:,} bytes" for name, (n, b) in self.beside.items()]
        if self.found.missing and self.found.tensors:
            notes.append(f"files that are not there: {', '.join(self.found.missing[:3])}")
        return notes

    def explain(self, part: str | None = None) -> str:
        raise LLMHWError(f"explain={part!r} is for predictions; check=True counts what lies on the disk, leave one out")

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.spec.name,
            "equal": self.equal,
            "files": self.found.files,
            "missing": list(self.found.missing),
            "elements": {k: {"predicted": a, "found": b} for k, (a, b) in (self.elements or {}).items()},
            "tensors": {"predicted": self.tensors[0], "found": self.tensors[1]},
            "bytes": {"predicted": self.bytes[0], "found": self.bytes[1]},
            "types": {k: dict(zip(("tensors", "elements", "bytes"), v, strict=True)) for k, v in self.by_type.items()},
            "beside": {k: {"elements": n, "bytes": b} for k, (n, b) in self.beside.items()},
        }


def check(path: str) -> Comparison:
    """Hold the files of a checkpoint against the prediction from its config.

    path   its folder, or a file in it: config.json, or one of safetensors

    Headers are read, never weights; where the files are missing, their index. Quantized checkpoints are refused: their
    tensors are packed.
    """
    from os.path import exists

    if path == "-" or not exists(path):
        raise LLMHWError(f"model={shown(path)} is no folder or file here; check=True compares a checkpoint on disk")
    spec = model(path)
    if spec.quantization == "gguf":
        raise LLMHWError(f"model={shown(path)} is a GGUF file, which is read by its tensors; check=True adds nothing")
    if spec.quantization:
        raise LLMHWError(
            f"model={shown(path)} is quantized ({spec.quantization}); check=True compares checkpoints whose "
            "tensors are not packed"
        )
    found = checkpoint_at(path)
    own, beside = _sorted(spec, found)
    groups = weight_groups(spec, _format(spec))
    predicted = sum(round(group.bytes) for group in groups)
    counted = _tensors(spec, own)
    if found.missing and not found.tensors:
        if found.total is None:
            raise LLMHWError(f"model={shown(path)} has an index without total_size, and none of its files is there")
        return Comparison(spec, found, None, (predicted, found.total), (counted, len(own)), {})
    if found.missing:
        raise LLMHWError(
            f"model={shown(path)} lacks {len(found.missing)} of its {found.files} files, such as {found.missing[0]}; "
            "download them"
        )
    # towers are listed beside the text model
    elements = {name: [n, 0] for name, n in spec.parameters.by_component.items() if name not in TOWERS}
    for name in own:
        elements[component_of(spec, name)][1] += found.tensors[name].elements
    held = sum(found.tensors[name].bytes for name in own)
    pairs = {name: (a, b) for name, (a, b) in elements.items()}
    return Comparison(spec, found, pairs, (predicted, held), (counted, len(own)), beside)


def _format(spec: ModelSpec) -> str:
    return number_format(check_choice("dtype", spec.dtype, ("bfloat16", "float16", "float32", "float64"))).name


def _tensors(spec: ModelSpec, own: list[str]) -> int:
    """How many tensors the model has in files with these names: experts and convolutions each for itself, or joined.

    own   names of the model's tensors in the files
    """
    from re import search

    def held(pattern: str) -> bool:
        return any(search(pattern, name) for name in own)

    experts = held(r"\.experts\.\d+\.")
    other = [(ours, parts) for theirs, ours, parts in _PARTS if held(theirs) and not held(ours)]
    total = 0
    for tensor, count in spec.all_tensors():
        parts = next((parts for ours, parts in other if search(ours, tensor.name)), 1)
        if experts and tensor.component == "experts":
            parts = tensor.experts * (2 if tensor.part == "gate_up" else 1)
        total += count * parts
    return total


def _sorted(spec: ModelSpec, found: Checkpoint) -> tuple[list[str], dict[str, tuple[int, int]]]:
    """The names of the model's own tensors; and what lies beside them, by kind: elements and bytes."""
    from re import search

    own, beside = [], dict[str, tuple[int, int]]()
    counted = tuple(f".{tensor.name}" for tensor, _ in spec.all_tensors())
    for name in sorted(found.names):
        matches = ((kind, search(pattern, name)) for kind, pattern in _BESIDE)
        kind, ending = next(((kind, match[0]) for kind, match in matches if match), ("", ""))
        tensor = found.tensors.get(name, Stored("", 0, 0))
        if kind == "buffers" and any(known.endswith(ending) for known in counted):
            kind = ""  # what others have as a buffer is trained here
        elif tensor.kind in _WHOLE:
            kind = kind or "buffers"
        number = search(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d{1,6})\.", name)
        if number and int(number[1]) >= spec.num_layers:
            kind = kind or "multi-token prediction"
        if spec.tied and search(r"(^|\.)(lm_head|embed_out|unembed)\.weight$|^head\.weight$", name):
            kind = "a copy of the tied embeddings"
        if not kind:
            own.append(name)
            continue
        elements, held = beside.get(kind, (0, 0))
        beside[kind] = elements + tensor.elements, held + tensor.bytes
    return own, beside


def component_of(spec: ModelSpec, name: str) -> str:
    """The component of a tensor, by its name in the files of a checkpoint: as the model has it, else by its words."""
    from re import search

    inner = search(r"(?:^|\.)\d{1,6}\.(.*)", name)
    known = _components(spec)
    short = inner[1] if inner else name
    for end in (name, short):
        if end in known:
            return known[end]
    return next((component for component, pattern in _NAMES if search(pattern, name)), COMPONENTS[1])


def _components(spec: ModelSpec) -> dict[str, str]:
    found = {tensor.name: tensor.component for layer, _ in spec.layer_kinds for tensor in layer.tensors}
    outer = {tensor.name: tensor.component for tensor in spec.tensors}
    inner = {name.partition(".")[2]: component for name, component in outer.items() if name.count(".") > 1}
    return inner | outer | found


def total_line(spec: ModelSpec) -> str:
    """What a GGUF file that the model was read from holds in bytes; empty for a model from elsewhere.

    The tensors, and with metadata and alignment all of the file.
    """
    stored = spec.config.get("quantization_config")
    if not isinstance(stored, Mapping) or stored.get("quant_method") != "gguf":
        return ""
    tensors, every, mix = (stored.get(key) for key in ("tensor_bytes", "file_bytes", "file_type"))
    if type(tensors) is not int or type(every) is not int or not str(mix).isprintable():
        return ""
    return (
        f"the file has {every:,} bytes ({format_quantity(every, 'file_bytes')}): {tensors:,} of tensors in "
        f"{mix}, {every - tensors:,} of metadata and alignment"
    )
