"""Model specifications, read from a Hugging Face `config.json`.

A `ModelSpec` lists every weight tensor of the text model, by the name and shape it has in transformers.
Parameters, FLOPs, cache bytes, optimizer bytes and LoRA sizes are all sums over that one list.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from operator import truediv
from typing import TYPE_CHECKING, Any

from llmhw.checks import check_flag, check_made, check_prose, check_text, found_by_name, whole
from llmhw.files import check_path
from llmhw.formula import Report, Table
from llmhw.frozen import FrozenDict, frozen
from llmhw.language import said
from llmhw.units import MOST_LETTERS, LLMHWError, ceil_div, format_quantity, plain_fields, shown

if TYPE_CHECKING:
    from os import PathLike

    from llmhw.checkpoint import Checkpoint
    from llmhw.families import Family
    from llmhw.precision import NumberFormat

TOWERS = ("vision", "audio")
COMPONENTS = ("embedding", "attention", "mlp", "experts", "router", "norms", "head", *TOWERS)
SPLITS = ("column", "row", "vocab", "experts", "whole")

# What a tensor is in its block, with its component and how tensor parallelism cuts it. After Megatron-LM (Shoeybi et
# al. 2019), section 3: the first matrix of a pair by columns (its outputs), the second by rows (its inputs), so that
# one all-reduce closes the pair; attention by heads. Whole is what is small or read by every head. Stacks of experts
# have the parts of a feed-forward network, but the component experts and the split experts.
PARTS: Mapping[str, tuple[str, str]] = {
    part: (component, split)
    for parts, component, split in (
        ("q k v qkv g", "attention", "column"),  # g: a gate on attention's output
        ("q_a kv_a indexer", "attention", "whole"),  # low-rank compressions of MLA, sparse attention's indexer
        ("q_b kv_b", "attention", "column"),  # ... and out of the compression
        ("in_proj conv heads", "attention", "column"),  # linear attention; a number for each head (sinks, decay)
        ("mix adapter_a", "attention", "whole"),  # between the parts of a layer, and into an adapter
        ("adapter_b", "mlp", "column"),
        ("x_proj", "attention", "row"),  # of Mamba: every channel gives its part of the time step, B and C
        ("o", "attention", "row"),  # closes attention, and what stands in its place
        ("gate up gate_up", "mlp", "column"),  # a plain feed-forward part has up, but no gate
        ("down", "mlp", "row"),
        ("latent mtp", "mlp", "whole"),  # into and out of the width of latent experts; multi-token prediction
        ("router streams", "router", "whole"),  # streams: hyper-connections, which mix streams of hidden states
        ("norm_in norm norm_out", "norms", "whole"),  # before attention, between, and behind the feed-forward part
        ("q_norm k_norm inner_norm embedding_norm", "norms", "whole"),
        ("tokens", "embedding", "vocab"),
        ("positions project_in", "embedding", "whole"),
        ("project_out", "head", "whole"),
        ("head", "head", "vocab"),
        ("vision", "vision", "whole"),  # encoders of images and sound, and what projects into the text model
        ("audio", "audio", "whole"),
    )
    for part in parts.split()
}


# Keys of the dropout behind a block's two parts, as the families' configs spell it.
DROPOUT_RATES = ("resid_pdrop", "hidden_dropout", "hidden_dropout_prob", "resid_dropout", "residual_dropout", "dropout")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One weight tensor, named and shaped as in transformers.

    name       parameter name, relative to its layer ("self_attn.q_proj.weight") or to the model
    shape      sizes; a stack of experts has the number of experts first
    component  one of `COMPONENTS`
    matmul     True if activations are multiplied by it (False: norms, biases, looked-up embeddings)
    experts    experts stacked in it, 1 for an ordinary tensor
    used       how many of those experts one token passes through; 0: only other layers, which borrow it, use
               it; of experts, only tokens that are no text do
    part       what it is in its block: one of `PARTS`
    split      how tensor (or expert) parallelism cuts it:
               column    by the outputs of a linear layer, by heads in attention; its bias too
               row       by the inputs; its bias stays whole on every rank
               vocab     embedding table and output head, by vocabulary
               experts   stacks of experts: by expert over ep, and inside an expert over expert_tp
               whole     a full copy on every rank
    swapped    True for a matrix stored as (inputs, outputs): GPT-2's, and the experts of some families
    shared     True if it belongs to a shared expert, which every token passes through
    """

    name: str
    shape: tuple[int, ...]
    component: str
    matmul: bool = False
    experts: int = 1
    used: int = 1
    part: str = ""
    split: str = "whole"
    swapped: bool = False
    shared: bool = False

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def cut(self, shape: tuple[Any, ...], *, experts: Any = None, used: Any = None) -> Tensor:
        """The same of other sizes, and of so many experts where that is given."""
        # not replace(): every answer cuts a model's tensors
        return Tensor(
            self.name,
            shape,
            self.component,
            self.matmul,
            self.experts if experts is None else experts,
            self.used if used is None else used,
            self.part,
            self.split,
            self.swapped,
            self.shared,
        )

    @property
    def active(self) -> int:
        """Elements one token uses, in this layer or in one that borrows it."""
        return self.numel // self.experts * (self.used if self.experts > 1 else 1)

    @property
    def module(self) -> str:
        """Last part of the module's name, as LoRA target lists write it ("q_proj")."""
        stem = self.name.removesuffix(".weight").removesuffix(".bias")
        return stem.rsplit(".", 1)[-1]

    @property
    def is_linear(self) -> bool:
        """A linear layer, or a stack of experts: what quantizers pack, but not the blocks of a diagonal (RG-LRU)."""
        return self.matmul and (len(self.shape) == 2 or self.component == "experts")

    @property
    def is_block_matrix(self) -> bool:
        """A matrix of the blocks, which Muon is applied to: no embedding, head, norm or bias."""
        return self.matmul and self.component in ("attention", "mlp", "experts", "router")

    @property
    def out(self) -> int:
        """Outputs of a matrix, whichever way round it is stored; of a stack, those of one expert."""
        return self.shape[-1 if self.swapped else -2]

    @property
    def into(self) -> int:
        """Its inputs."""
        return self.shape[-2 if self.swapped else -1]


@dataclass(frozen=True, slots=True)
class Attention:
    """What one layer's softmax attention computes and caches.

    heads, kv_heads          query heads; heads that keys and values have
    head_dim, v_head_dim     length of a query/key vector and of a value vector, per head
    window                   a query sees at most this many latest tokens (None: all)
    chunk                    tokens see only their own chunk of this length (Llama 4; None: all)
    latent                   elements cached per token in place of keys and values: MLA, and keys that are values, too
                             (0: keys and values)
    index_dim                elements of the sparse-attention indexer's key, cached per token (0: none)
    index_heads, index_topk  the indexer's query heads, and how many tokens it selects for a query
    index_block              tokens whose keys, each of them cached, it averages into one when it scores
    evicts                   True if engines keep only the window in the cache
    shared                   True: it reads the keys and values that an earlier layer cached, and caches none
    causal                   False: every token sees all others, and nothing is cached (encoders)
    compression              tokens behind one further entry of the cache: beside its window, a query sees the past in
                             such entries (DeepSeek V4; 0: none)
    index_pool               tokens behind one key of the indexer
    waiting                  elements kept of each token whose entry is not made yet, and of the last one whose is
    """

    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int | None = None
    chunk: int | None = None
    latent: int = 0
    index_dim: int = 0
    index_heads: int = 0
    index_topk: int = 0
    index_block: int = 1
    evicts: bool = True
    shared: bool = False
    causal: bool = True
    compression: int = 0
    index_pool: int = 1
    waiting: tuple[int, int] = (0, 0)

    @property
    def kind(self) -> str:
        """full, sliding, chunked, mla or compressed."""
        if self.compression:
            return "compressed"
        if self.latent and not self.window:
            return "mla"
        return "sliding" if self.window else "chunked" if self.chunk else "full"

    @property
    def span(self) -> int | None:
        """Most tokens the cache keeps for this layer; None for no limit."""
        return (self.window or self.chunk) if self.evicts else None


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """What one layer keeps of the whole past in a fixed size: linear attention, a state-space model, a convolution.

    heads                 heads, each with a state of key_dim x value_dim in fp32; 0 without one
    key_dim, value_dim    sizes of that state
    products              multiply-adds of a token with every element of the state: 2 to add to it and to query it,
                          3 with the delta rule, which reads it first
    conv_channels, conv_kernel   the short causal convolution before it
    conv_kept             inputs of every channel that are kept for it; None: as many as the kernel is long
    wide, narrow          further elements that a sequence keeps, in fp32 and in the format of the cache
    fp32                  False: the state is kept in the format of the cache, too
    """

    kind: str
    heads: int = 0
    key_dim: int = 1
    value_dim: int = 1
    conv_channels: int = 0
    conv_kernel: int = 0
    products: int = 2
    conv_kept: int | None = None
    wide: int = 0
    narrow: int = 0
    fp32: bool = True

    def kept(self, ranks: Any = 1, *, whole: bool = True) -> dict[str, Any]:
        """Inputs of `llmhw.memory.linear_state_bytes` for one of the ranks that share the heads out.

        whole   heads are not divided further than they can be
        """
        part = ceil_div if whole else truediv
        heads = part(self.heads, ranks)
        narrow = part(self.narrow, ranks) + (0 if self.fp32 else heads * self.key_dim * self.value_dim)
        kernel = self.conv_kernel if self.conv_kept is None else self.conv_kept
        found: dict[str, Any] = {"heads": heads if self.fp32 else 0, "key_dim": self.key_dim}
        found |= {"value_dim": self.value_dim, "channels": part(self.conv_channels, ranks), "kernel": kernel}
        if self.wide or self.narrow or not self.fp32:
            found |= {"wide": part(self.wide, ranks), "narrow": narrow}
        return found


@dataclass(frozen=True, slots=True)
class Layer:
    """One block: its attention, its state or both, and its tensors.

    borrowed   tensors of another layer that this one computes with, too (Zamba's shared blocks)
    """

    tensors: tuple[Tensor, ...]
    attention: Attention | None = None
    linear_attention: LinearAttention | None = None
    borrowed: tuple[Tensor, ...] = ()

    @property
    def params(self) -> int:
        return sum(t.numel for t in self.tensors)

    @property
    def used(self) -> tuple[Tensor, ...]:
        """The tensors that a token passes through here, wherever they are held."""
        return tuple(t for t in (*self.tensors, *self.borrowed) if t.used)

    @property
    def sums(self) -> int:
        """Its parts that a sum over the tensor-parallel ranks closes: attention or a state, and the feed-forward."""
        return len({t.part for t in self.used if t.matmul and t.part in ("o", "down")})


@dataclass(frozen=True, slots=True)
class Tower:
    """An encoder of images or sound beside the text model, with what projects its outputs into it.

    kind       one of `TOWERS`
    tensors    each with how many layers hold it; `*` in a name stands for the layer's number
    width      elements of what it hands to the text model for one token: its hidden size, and those that go to further
               layers
    tokens     tokens of the prompt that one picture, tile or clip of full size stands for, where the config says so
    """

    kind: str
    tensors: tuple[tuple[Tensor, int], ...]
    width: int
    tokens: int | None = None

    @property
    def params(self) -> int:
        return sum(t.numel * count for t, count in self.tensors)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameter counts of a model.

    total           all weights, with those of vision and audio towers; tied embeddings counted once
    active          weights one token of text uses: those of the text model less the experts it is not routed to (the
                    embedding table counts)
    by_component    the same total split into embedding, attention, mlp, experts, router, norms, head, vision, audio
    mtp             further weights of multi-token-prediction layers in the checkpoint, not in total
    """

    total: int
    active: int
    by_component: Mapping[str, int]
    mtp: int = 0

    @property
    def towers(self) -> int:
        """Of the total, those of the towers."""
        return sum(self.by_component[kind] for kind in TOWERS)

    @property
    def text(self) -> int:
        """Of the total, those of the text model."""
        return self.total - self.towers

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return plain_fields(self)


@dataclass(frozen=True, eq=False, repr=False)
class ModelSpec(Report):
    """The architecture of one language model.

    Make one with `ModelSpec.from_config(path_or_dict)` or `llmhw.model(name)`.

    >>> spec = ModelSpec.from_config({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12,
    ...                               "n_positions": 1024, "vocab_size": 50257})
    >>> spec.parameters.total
    124439808
    """

    name: str
    model_type: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab_size: int
    max_seq_len: int | None
    tied: bool
    dtype: str
    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...]
    mtp_tensors: tuple[Tensor, ...] = ()
    towers: tuple[Tower, ...] = ()
    left_out: tuple[str, ...] = ()
    makes: str = "tokens"
    assumed: Mapping[str, int] = field(default_factory=FrozenDict)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_made(self, dtype=check_prose, intermediate=whole(0), max_seq_len=whole(1))
        for entry, kind in (("layers", Layer), ("tensors", Tensor), ("mtp_tensors", Tensor), ("towers", Tower)):
            for thing in getattr(self, entry):
                if type(thing) is not kind:
                    raise LLMHWError(f"{entry} holds {shown(thing)}, which is no {kind.__name__}")
        object.__setattr__(self, "config", frozen(dict(self.config)))

    def _facts(self) -> tuple[Any, ...]:
        return tuple(getattr(self, entry.name) for entry in fields(self))

    def __eq__(self, other: object) -> bool:
        """Whether all fields are equal: two that were read from one config are."""
        if self is other:
            return True
        return self._facts() == other._facts() if isinstance(other, ModelSpec) else NotImplemented

    def __hash__(self) -> int:
        # not of all tensors: this is asked in loops
        return hash((self.name, self.model_type, self.hidden, self.heads, self.vocab_size, len(self.layers)))

    @classmethod
    def from_config(cls, config: str | PathLike[str] | Mapping[str, Any], name: str | None = None) -> ModelSpec:
        """Read a Hugging Face `config.json`.

        config   path of the file, or its content as a dict
        name     what to call the model; default: the file's folder, or `_name_or_path`

        Layers and tensors are those of the text model; vision and audio towers are in `.towers`, and named in
        `.left_out` where transformers does not define them. Raises `LLMHWError` for a file that cannot be read,
        JSON that is not a model's config, an unknown `model_type`, a missing key, or sizes that do not fit.
        """
        from os import PathLike

        from llmhw.families import read

        if isinstance(config, (str, PathLike)):
            from llmhw.sources.local import read as read_source

            found, data = read_source(check_path("config", config, "give the path of a config.json"), "config")
            name = found if name is None else name
        elif isinstance(config, Mapping):
            data = dict(config)
            name = _name_in(data) if name is None else name
        else:
            raise LLMHWError(f"config={shown(config)} must be the path of a config.json, or its content as a dict")
        return _checked(read(data, check_text("name", name)))

    @cached_property
    def family(self) -> Family:
        """What the library knows about its architecture."""
        from llmhw.families import family_of, key_of

        return family_of(key_of(self.model_type))

    @property
    def quantization(self) -> str:
        """Method by which its checkpoint is quantized, as its config calls it; "" for none."""
        from llmhw.quantization import method_in

        return method_in(self.config)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """In which number format its files hold each tensor; a method that is not known raises `LLMHWError`.

        >>> model("gpt-oss-120b").checkpoint.experts.name
        'mxfp4'
        """
        from llmhw.quantization import checkpoint_of

        return checkpoint_of(self)

    @cached_property
    def stored(self) -> tuple[tuple[int, NumberFormat, Tensor, int], ...]:
        """Every tensor as its files hold it: kind of its layer (-1: outside), format, tensor, and how many."""
        from llmhw.checkpoint import stored_tensors

        return stored_tensors(self)

    def in_format(self, number_format: str) -> ModelSpec:
        """The same model with a checkpoint in that number format, such as a name ending in AWQ stands for.

        >>> model("llama-3-8b").in_format("awq").checkpoint.whole.name
        'int4-awq'
        """
        return replace(self, config={**self.config, "quantization_config": number_format})

    @property
    def defaults(self) -> Mapping[str, Any]:
        """What its architecture has for keys that a config leaves out."""
        from llmhw.families import defaults_of

        return defaults_of(self.model_type)

    @cached_property
    def rotary(self) -> float:
        """Share of a query's and key's elements that the rotary embedding turns; 0 without one."""
        config, known = self.config, self.family.rotary
        if not known or config.get("alibi") is True:  # Falcon's first models have biases of the scores in its place
            return 0
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        shares = (rope.get("partial_rotary_factor"), config.get("partial_rotary_factor"), config.get("rotary_pct"))
        latent = self.defaults.get("qk_rope_head_dim")
        turned = config.get("qk_rope_head_dim") or config.get("rotary_dim") or latent or 0
        return next((share for share in (*shares, turned / self.head_dim) if share), known)

    @property
    def dropout(self) -> bool:
        """True if it was trained with dropout behind attention and feed-forward part, by its config or its family."""
        rates = (self.config.get(key) for key in DROPOUT_RATES)
        return next((rate > 0 for rate in rates if isinstance(rate, (int, float))), self.family.dropout)

    # -- sums over the tensors ----------------------------------------------------------------

    @cached_property
    def layer_kinds(self) -> tuple[tuple[Layer, int], ...]:
        """The distinct layers, each with how often it occurs."""
        return self.kinds_of(range(len(self.layers)))

    @cached_property
    def kind_numbers(self) -> tuple[int, ...]:
        """For every layer, which of the `layer_kinds` it is."""
        numbers = {id(layer): i for i, (layer, _) in enumerate(self.layer_kinds)}
        return tuple(numbers[id(layer)] for layer in self.layers)

    def kinds_of(self, numbers: Iterable[int]) -> tuple[tuple[Layer, int], ...]:
        """The distinct ones of these layers, such as those of a pipeline stage, each with how often it occurs."""
        counts: dict[int, tuple[Layer, int]] = {}
        for i in numbers:
            layer = self.layers[i]
            counts[id(layer)] = layer, counts.get(id(layer), (layer, 0))[1] + 1
        return tuple(counts.values())

    def all_tensors(self) -> Iterator[tuple[Tensor, int]]:
        """Every distinct tensor of the text model and how many layers hold it, layers first."""
        for layer, count in self.layer_kinds:
            for tensor in layer.tensors:
                yield tensor, count
        for tensor in self.tensors:
            yield tensor, 1

    def tower_tensors(self) -> Iterator[tuple[Tensor, int]]:
        """Every distinct tensor of the towers and how many of their layers hold it."""
        for tower in self.towers:
            yield from tower.tensors

    @cached_property
    def parameters(self) -> Parameters:
        """Parameter counts: `.total`, `.active`, `.by_component`, `.mtp`."""
        by_component = dict.fromkeys(COMPONENTS, 0)
        total = active = 0
        for tensor, count in self.all_tensors():
            by_component[tensor.component] += count * tensor.numel
            total += count * tensor.numel
            active += count * tensor.active
        for tower in self.towers:
            by_component[tower.kind] += tower.params
            total += tower.params
        return Parameters(total, active, FrozenDict(by_component), sum(t.numel for t in self.mtp_tensors))

    @cached_property
    def num_layers(self) -> int:
        """Transformer blocks."""
        return len(self.layers)

    @cached_property
    def head_shape(self) -> tuple[int, int]:
        """Outputs and inputs of the head (the embedding table where they are tied); (0, hidden) without one."""
        part = "tokens" if self.tied else "head"
        heads = (t for t in self.tensors if t.part == part and len(t.shape) == 2)
        return next(((t.out, t.into) for t in heads), (0, self.hidden))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers under stable keys."""
        sizes = ("num_layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab_size", "max_seq_len")
        return {
            **{name: getattr(self, name) for name in ("name", "model_type", *sizes)},
            "tied_embeddings": self.tied,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "attention": self.attention_summary,
            "towers": {t.kind: {"parameters": t.params, "tokens": t.tokens} for t in self.towers},
            "left_out": list(self.left_out),
            "makes": self.makes,
            "assumed": dict(self.assumed),
            "parameters": self.parameters.to_dict(),
        }

    def records(self) -> list[dict[str, Any]]:
        """Parameters and share by component."""
        p = self.parameters
        return [
            {"component": name, "parameters": value, "share": value / p.total}
            for name, value in p.by_component.items()
            if value
        ]

    index = "component"

    @property
    def attention_summary(self) -> dict[str, int]:
        """How many layers have which kind of attention."""
        counts: dict[str, int] = {}
        for layer, count in self.layer_kinds:
            kinds = [mixer.kind for mixer in (layer.attention, layer.linear_attention) if mixer]
            kind = " + ".join(kinds) or "none"
            counts[kind] = counts.get(kind, 0) + count
        return counts

    def __str__(self) -> str:
        p = self.parameters
        parts = [
            said(", {params} of them {kind}", params=format_quantity(t.params, "count"), kind=said(t.kind))
            for t in self.towers
        ]
        parts += [] if p.active == p.text else [said(", {params} active", params=format_quantity(p.active, "count"))]
        return said(
            "{name} ({type}): {params} parameters{parts}, {layers} layers, hidden {hidden}, {heads} heads, "
            "{kv_heads} KV heads, vocabulary {vocabulary}",
            name=self.name,
            type=self.model_type,
            params=format_quantity(p.total, "count"),
            parts="".join(parts),
            layers=self.num_layers,
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            vocabulary=self.vocab_size,
        )

    def __repr__(self) -> str:
        return f"<ModelSpec {self}>"

    def tables(self) -> list[Table]:
        counts = [*self.records(), {"component": "total", "parameters": self.parameters.total, "share": 1.0}]
        rows = [(r["component"], f"{r['parameters']:,}", format_quantity(r["share"], "fraction")) for r in counts]
        return [Table(str(self), ("component", "parameters", "share"), rows)]


def model(name: str | PathLike[str], hub: bool = False) -> ModelSpec:
    """The model of that name: one of the catalog, of the Hub's local cache, or of a file.

    name   short names, aliases and Hugging Face ids of the catalog, in any case; any other id of the Hub,
           "org/Name@revision" or its address, from the local Hugging Face cache; the path of a folder or of a file:
           config.json, a GGUF file, params.json, arguments of Megatron-LM; "-" reads one from standard input
    hub    download the few small files that describe an id that is not in the cache (needs the extra `hub`)

    A misspelt name raises `LLMHWError` and suggests the nearest ones.

    >>> model("llama-3-70b").parameters.total
    70553706496
    """
    text = name if isinstance(name, str) else ""
    spec = _of_catalog(text) if text.strip() and len(text) <= MOST_LETTERS and not check_flag("hub", hub) else None
    if spec is None:
        from llmhw.sources import config_of

        found, config = config_of(name, hub)
        spec = ModelSpec.from_config(config, name=found)
    return spec


def _name_in(data: Mapping[str, Any]) -> str:
    from llmhw.sources.local import name_in

    return name_in(data) or name_in(data, "model_type") or "model"


def _checked(spec: ModelSpec) -> ModelSpec:
    """The model, if it has as many parameters as the file that it was read from holds, where that is known."""
    stored = spec.config.get("quantization_config")
    if not isinstance(stored, Mapping) or stored.get("quant_method") != "gguf":
        return spec
    held, choices = stored.get("elements"), stored.get("choices", 0)
    if type(held) is not int or type(choices) is not int:
        return spec
    if spec.parameters.text not in (held, held + choices):
        raise LLMHWError(
            f"config={shown(spec.name)} describes a {spec.model_type} of {spec.parameters.text:,} parameters, but the "
            f"file's tensors hold {held:,}: this variant is not covered; give the model's config.json"
        )
    return spec


@lru_cache(maxsize=64)
def _of_catalog(name: str) -> ModelSpec | None:
    from llmhw.catalog import read_model
    from llmhw.names import find_model
    from llmhw.names import models as names

    if names().exactly(name) is None:  # recognized at most: then what lies here under that very name is meant
        from llmhw.sources import in_cache

        if in_cache(name):
            return None
    try:
        short, config = read_model(name)
    except KeyError:
        return None
    spec, found = ModelSpec.from_config(config, name=short), find_model(name)
    stated = found.format if found and names().exactly(name) is None else ""
    return spec.in_format(stated) if stated and not spec.quantization else spec


def model_of(spec: ModelSpec | str | PathLike[str], argument: str = "spec") -> ModelSpec:
    """A model; or the one of that name, or of that path, as `model` finds it.

    >>> model_of("llama-3-8b") == model_of(model("llama-3-8b"))
    True
    """
    from os import PathLike

    if isinstance(spec, ModelSpec):
        return spec
    if isinstance(spec, (str, PathLike)):
        return model(spec)
    raise LLMHWError(f"{argument}={shown(spec)} must be a ModelSpec, or the name of a model, such as 'llama-3-8b'")


def models() -> list[str]:
    """Short names of the models in the catalog.

    >>> "qwen3-235b-a22b" in models()
    True
    """
    from llmhw.catalog import model_names

    return model_names()


found_by_name("ModelSpec", lambda argument, value: model_of(value, argument))
