"""Checkpoints: in which number format the published files of a model hold each of its tensors.

`llmhw.quantization` reads a config into one `Checkpoint`: what is kept in 16 bit, what has a format of its own, and the
format of the rest. Names of modules are matched whichever way a file spells them.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

from llmhw.model import ModelSpec, Tensor
from llmhw.precision import NumberFormat, stored_bits, weight_bytes

# -- names of modules -------------------------------------------------------------------------

# What stands before the layers in one file or another; the names that stacks of layers, and parts of them, go by.
_SHELLS = {"model", "language_model", "transformer", "text_model", "backbone", "decoder", "base_model", "gpt_neox"}
_STACKS = {"h", "layers", "blocks", "layer", "block"}
_SPELLED = {
    "self_attn": ("attn", "attention", "self_attention"),
    "mlp": ("ffn", "block_sparse_moe", "feed_forward", "moe"),
    "lm_head": ("head", "output", "embed_out"),
    "embed_tokens": ("embed", "wte", "tok_embeddings", "word_embeddings", "embeddings", "embed_in"),
}
_EXPERT = {"gate_up_proj": ("gate_proj", "up_proj", "w1", "w3"), "down_proj": ("w2",)}
_PREFIXES = ("", "model.", "model.language_model.", "language_model.model.", "language_model.", "backbone.")


def plain_name(name: str) -> str:
    """A module's name without what stands before its layers.

    >>> plain_name("model.language_model.layers.0.mlp"), plain_name("transformer.h.3.attn")
    ('layers.0.mlp', 'layers.3.attn')
    """
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _SHELLS:
        parts.pop(0)
    if len(parts) > 1 and parts[0] in _STACKS:
        parts[0] = "layers"
    return ".".join(parts)


@lru_cache(maxsize=4096)
def _spellings(name: str) -> tuple[str, ...]:
    """The names that the module of a tensor has in one file or another; of a stack of experts, those of the first."""
    parts = plain_name(name.removesuffix(".weight").removesuffix(".bias")).split(".")
    found = [parts]
    if "experts" in parts[:-1]:
        at = parts.index("experts") + 1
        last = parts[-1]
        if not parts[at].isdecimal():
            found += [[*parts[:at], "0", *parts[at:-1], one] for one in (last, *_EXPERT.get(last, ()))]
    for word, others in _SPELLED.items():
        if word in parts:
            at = parts.index(word)
            found += [[*one[:at], other, *one[at + 1 :]] for one in list(found) for other in others]
    return tuple(dict.fromkeys(".".join(one) for one in found))


@lru_cache(maxsize=4096)
def _within(name: str) -> frozenset[str]:
    """The module and those that it is in, each by every part of its path: what a list may call it."""
    found = set()
    for spelled in _spellings(name):
        parts = spelled.split(".")
        found |= {".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)}
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Modules:
    """Modules as a file lists them.

    names      of modules, or of what they are in
    patterns   regular expressions that a whole name fits
    """

    names: frozenset[str] = frozenset()
    patterns: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.names or self.patterns)

    def hold(self, name: str, number: int | None) -> bool:
        """Whether they hold the module of a tensor of layer `number`, or of one outside the layers."""
        path = name if number is None else f"layers.{number}.{name}"
        if self.names and not self.names.isdisjoint(_within(path)):
            return True
        if not self.patterns:
            return False
        tried = [prefix + one for one in _spellings(path) for prefix in _PREFIXES]
        return any(compiled(pattern).fullmatch(one) for pattern in self.patterns for one in tried)


@lru_cache(maxsize=4096)
def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression, without Python's warnings of what it may come to mean."""
    from warnings import catch_warnings, simplefilter

    with catch_warnings():
        simplefilter("ignore")
        return re.compile(pattern)


# -- what a checkpoint holds ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """In which number format a model's files hold each of its tensors. Get it with `ModelSpec.checkpoint`.

    method      of the quantization, as the file calls it; "" for none
    wide        format of what is not quantized: norms, biases, and what is kept
    kept        modules that are kept in it
    named       modules that have a format of their own (None: kept), the first that holds one counts
    layers      format of the matrices of attention, MLP and experts that no list names; None: they are kept
    experts     that of stacks of experts, where it is another
    embedding, router, head   those of these matrices; None: kept, as nearly all methods do
    whole       the format of a file whose rules are those of a format of the catalog, in place of all these
    file_bytes  of a GGUF file's tensors, where they were counted, in place of all these; `types`: of each type of ggml
    kv          format of the cache that the checkpoint has scales for; "": none
    note        what had to be assumed; "" for nothing
    """

    method: str = ""
    wide: NumberFormat
    kept: Modules = field(default_factory=Modules)
    named: tuple[tuple[Modules, NumberFormat | None], ...] = ()
    layers: NumberFormat | None = None
    experts: NumberFormat | None = None
    embedding: NumberFormat | None = None
    router: NumberFormat | None = None
    head: NumberFormat | None = None
    whole: NumberFormat | None = None
    file_bytes: int = 0
    types: tuple[tuple[str, int], ...] = ()
    kv: str = ""
    note: str = ""

    @property
    def quantized(self) -> bool:
        """Whether it has fewer than 16 bits anywhere."""
        return bool(self.method)

    def format_of(self, tensor: Tensor, number: int | None) -> NumberFormat:
        """The format of a tensor of layer `number`, or of one outside the layers."""
        table = tensor.component == "embedding" and tensor.part == "tokens"
        if not (tensor.is_linear or table) or self.kept.hold(tensor.name, number):
            return self.wide
        for modules, fmt in self.named:
            if modules.hold(tensor.name, number):
                return fmt or self.wide
        usual = {"embedding": self.embedding, "router": self.router, "head": self.head}
        chosen = usual.get(tensor.component, self.layers)
        if tensor.component == "experts" and self.experts:
            chosen = self.experts
        if chosen is None or (chosen.rule == "mlx" and tensor.into % (chosen.group or 1)):
            return self.wide
        return chosen


def stored_tensors(spec: ModelSpec) -> tuple[tuple[int, NumberFormat, Tensor, int], ...]:
    """Every tensor with the format that its checkpoint holds it in: kind of its layer, format, tensor, how many.

    The kind is the number in `ModelSpec.layer_kinds`; -1: outside the layers. Layers of a kind may differ in format.
    """
    checkpoint = spec.checkpoint
    alike = not (checkpoint.kept or checkpoint.named)
    found: Counter[tuple[int, tuple[NumberFormat, ...]]] = Counter()
    seen: dict[int, tuple[NumberFormat, ...]] = {}
    for number, kind in enumerate(spec.kind_numbers):
        if not (alike and kind in seen):
            seen[kind] = tuple(checkpoint.format_of(t, number) for t in spec.layers[number].tensors)
        found[kind, seen[kind]] += 1
    layers = [
        (kind, fmt, tensor, times)
        for (kind, formats), times in found.items()
        for fmt, tensor in zip(formats, spec.layer_kinds[kind][0].tensors, strict=True)
    ]
    return (*layers, *((-1, checkpoint.format_of(t, None), t, 1) for t in spec.tensors))


def checkpoint_bytes(spec: ModelSpec) -> float:
    """Bytes of all tensors in the checkpoint's files, those of multi-token prediction among them.

    DeepSeek's prediction layer brings copies of the embedding and of the head. Ignored: what `weight_groups` ignores,
    and vision and audio towers.

    >>> from llmhw.model import model
    >>> round(checkpoint_bytes(model("deepseek-v3")) / 1e9, 1)
    688.5
    """
    checkpoint, total = spec.checkpoint, weight_bytes(spec, "checkpoint")
    if checkpoint.whole or checkpoint.file_bytes or not spec.mtp_tensors:
        return total
    bits = sum(stored_bits(checkpoint.format_of(t, spec.num_layers), t) for t in spec.mtp_tensors)
    if any(t.name.startswith("shared_head") for t in spec.mtp_tensors):
        copies = [t for t in spec.tensors if t.part in ("tokens", "head")]
        bits += sum(stored_bits(checkpoint.format_of(t, None), t) for t in copies)
    return total + bits / 8
