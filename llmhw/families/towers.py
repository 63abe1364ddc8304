"""What the readers of vision and audio encoders share: their tensors, their configs, their blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmhw.families.config import Config, _flag, _list, _number, _object, _whole
from llmhw.model import PARTS, Tensor, Tower
from llmhw.units import LLMHWError, check_choice


class Part(Config):
    """Config of an encoder, or of a wrapper; a value is checked where it is read."""

    encoder = ""  # the key of `ENCODERS` that it is read by

    def named(self, key: str) -> str:
        return f"config key {self.model_type}.{key}"

    def count(self, *keys: str, default: int | None = None, least: int = 1, most: int = 10**7) -> int:
        value = self.get(*keys, default=default)
        if value is None:
            raise LLMHWError(f"{self.named(keys[0])} is missing; is it a complete config.json?")
        _whole(self.named(keys[0]), value, least=least, most=most)
        return int(value)

    def blocks(self, *keys: str) -> int:
        """How many layers; as few as keep every answer quick."""
        return self.count(*keys, least=0, most=10**3)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key, default=default)
        _flag(self.named(key), value)
        return bool(value)

    def number(self, key: str, most: float = 1e4) -> float:
        value = self.get(key)
        _number(self.named(key), value, most=most)
        return float(value)

    def text(self, key: str, default: str = "") -> str:
        value = self.get(key, default=default)
        if not isinstance(value, str):
            raise LLMHWError(f"{self.named(key)} must be a text")
        return value

    def listed_in(self, key: str, kind: type = int) -> tuple[Any, ...]:
        """A list of whole numbers, or of names."""
        value = self.get(key, default=())
        _list(self.named(key), value, kind=kind)
        if len(value) > 10**3:
            raise LLMHWError(f"{self.named(key)} must have at most 1,000 entries")
        return tuple(value)

    def pair(self, key: str) -> tuple[int, int]:
        """A height and a width, which may be given as one number."""
        value = self.get(key)
        if not isinstance(value, (list, tuple)):
            value = (value, value)
        for entry in value:
            _whole(self.named(key), entry, least=1, most=10**5)
        if len(value) != 2:
            raise LLMHWError(f"{self.named(key)} must be a whole number, or two of them")
        return value[0], value[1]

    def sub(self, key: str, defaults: Mapping[str, Any], aliases: Mapping[str, str] | None = None) -> Part:
        """The config under a key, with an encoder's defaults and other names of its keys."""
        found = self.get(key, default={})
        _object(self.named(key), found)
        return Part(renamed(found, aliases or {}), defaults, key)

    def own(self, *keys: str) -> str:
        """Of several names of a size, the one that this encoder has a default for."""
        return next((key for key in keys if key in self.defaults), keys[0])

    @property
    def width(self) -> int:
        return self.count(self.own("embed_dim", "hidden_size", "d_model", "hidden_dim"))

    @property
    def depth(self) -> int:
        return self.blocks(
            self.own("num_hidden_layers", "depth", "encoder_layers", "num_layers", "num_blocks", "n_layers")
        )

    @property
    def inner(self) -> int:
        return self.count(self.own("intermediate_size", "encoder_ffn_dim"))

    @property
    def channels(self) -> int:
        return self.count(self.own("num_channels", "in_channels"), default=3)

    @property
    def heads(self) -> int:
        return self.count(
            self.own("num_attention_heads", "num_heads", "attention_heads", "encoder_attention_heads"), most=10**5
        )

    @property
    def head_dim(self) -> int:
        return self.count("head_dim", default=self.width // self.heads)

    @property
    def features(self) -> int:
        """How many layers' outputs a projector is given; one, or as many as a list names."""
        layers = self.get("vision_feature_layer")
        return len(self.listed_in("vision_feature_layer")) if isinstance(layers, (list, tuple)) else 1

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of an image, down and across."""
        (height, width), (down, across) = self.pair("image_size"), self.pair("patch_size")
        if not (height // down and width // across):
            raise LLMHWError(f"{self.named('patch_size')} is more than image_size")
        return height // down, width // across

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]


class TowerBuilder:
    """Collects the tensors of a tower, each with how many layers hold it."""

    def __init__(self, kind: str, prefix: str = "", times: int = 1, into: TowerBuilder | None = None) -> None:
        self.kind = check_choice("kind", kind, PARTS)
        self.prefix = prefix
        self.times = times
        self.tensors: list[tuple[Tensor, int]] = into.tensors if into else []
        self.tokens: int | None = None
        self.streams = 1  # layers of the text model that are given vectors of their own

    def at(self, name: str, times: int = 1) -> TowerBuilder:
        """A builder for what lies under this name, which so many layers hold."""
        return TowerBuilder(self.kind, f"{self.prefix}{name}." if name else self.prefix, self.times * times, self)

    def plain(self, name: str, *shape: int, matmul: bool = False) -> None:
        component, split = PARTS[self.kind]
        if self.times:
            made = Tensor(self.prefix + name, shape, component, part=self.kind, split=split, matmul=matmul)
            self.tensors.append((made, self.times))

    def conv(self, name: str, out: int, into: int, *kernel: int, bias: bool = True) -> None:
        """A convolution, or without a kernel nn.Linear."""
        self.plain(f"{name}.weight", out, into, *kernel, matmul=True)
        if bias:
            self.plain(f"{name}.bias", out)

    linear = conv

    def table(self, name: str, rows: int, size: int) -> None:
        """nn.Embedding."""
        self.plain(f"{name}.weight", rows, size)

    def norm(self, name: str, size: int, bias: bool = True) -> None:
        self.plain(f"{name}.weight", size)
        if bias:
            self.plain(f"{name}.bias", size)

    def rms(self, name: str, size: int) -> None:
        self.norm(name, size, bias=False)

    def chain(self, *layers: tuple[str, int], into: int, bias: bool = True) -> None:
        """Linear layers one behind the other: names and outputs."""
        for name, out in layers:
            self.linear(name, out, into, bias=bias)
            into = out

    def gated(self, hidden: int, inner: int, *, bias: bool = False, out: int | None = None) -> None:
        """gate_proj, up_proj, down_proj."""
        self.linear("gate_proj", inner, hidden, bias=bias)
        self.linear("up_proj", inner, hidden, bias=bias)
        self.linear("down_proj", out or hidden, inner, bias=bias)

    def made(self, hidden: int) -> Tower:
        """The tower, beside a text model of this hidden size."""
        return Tower(self.kind, tuple(self.tensors), hidden * self.streams, self.tokens)


@dataclass(frozen=True)
class Names:
    """What an encoder calls the parts of a block, and which of them have biases.

    qkv     queries, keys and values; one name: in one matrix
    mlp     two matrices; three: gated; the last may have a bias of its own (down_bias)
    qk_norm normalizes queries and keys; empty: nothing does
    """

    attn: str = "self_attn"
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    out: str = "out_proj"
    mlp: tuple[str, ...] = ("mlp.fc1", "mlp.fc2")
    norms: tuple[str, ...] = ("layer_norm1", "layer_norm2")
    norm_bias: bool = True
    qkv_bias: bool = True
    key_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    down_bias: bool = False
    qk_norm: tuple[str, ...] = ()


VIT = Names()
GATED = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def attend(
    b: TowerBuilder, hidden: int, names: Names = VIT, *, width: int = 0, kv: int = 0, values: int = 0, head: int = 0
) -> None:
    """Attention's projections.

    width, kv, values   sizes of queries, of keys and of values, where they differ from `hidden`, from each other
    head                size of its norms
    """
    width = width or hidden
    kv = kv or width
    a = b.at(names.attn)
    if len(names.qkv) == 1:
        a.linear(names.qkv[0], width + 2 * kv, hidden, bias=names.qkv_bias)
    else:
        for name, out in zip(names.qkv, (width, kv, values or kv), strict=True):
            a.linear(name, out, hidden, bias=names.qkv_bias and (names.key_bias or name != names.qkv[1]))
    a.linear(names.out, hidden, width, bias=names.out_bias)
    for name in names.qk_norm:
        a.rms(name, head)


def block(b: TowerBuilder, hidden: int, inner: int, names: Names = VIT, **sizes: int) -> None:
    """A transformer block; `sizes` as in `attend`."""
    attend(b, hidden, names, **sizes)
    *first, last = names.mlp
    for name in first:
        b.linear(name, inner, hidden, bias=names.mlp_bias)
    b.linear(last, hidden, inner, bias=names.mlp_bias or names.down_bias)
    for name in names.norms:
        b.norm(name, hidden, bias=names.norm_bias)


Read = Callable[[TowerBuilder, Part], None]


@dataclass(frozen=True)
class Encoder:
    """An encoder of images or sound.

    read       makes its tensors
    defaults   what transformers applies for keys left out
    aliases    other names of keys, in older files, and the key
    """

    read: Read
    defaults: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)


def encoder(read: Read, aliases: Mapping[str, str] | None = None, /, **defaults: Any) -> Encoder:
    return Encoder(read, defaults, aliases or {})


def renamed(data: Mapping[str, Any], aliases: Mapping[str, str]) -> Mapping[str, Any]:
    """The same with the names that keys have today; those that are there already win."""
    old = {new: data[name] for name, new in aliases.items() if data.get(name) is not None}
    return {**old, **{name: value for name, value in data.items() if value is not None or name not in old}}
