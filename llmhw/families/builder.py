"""What readers of configs make: the tensors of layers, layer by layer, and those outside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmhw.families.config import Config
from llmhw.model import PARTS, Attention, Layer, LinearAttention, Tensor
from llmhw.units import LLMHWError, check_choice


class Builder:
    """Collects the tensors of one layer, each with its part; see `llmhw.model.PARTS`."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    def plain(self, name: str, part: str, shape: tuple[int, ...], **facts: bool) -> None:
        """A parameter, unless `facts` (of `Tensor`) say otherwise one that no matrix multiplication uses."""
        component, split = PARTS[check_choice("part", part, PARTS)]
        if split == "row" and not facts.get("matmul"):
            split = "whole"  # a bias: of a product that is cut by its inputs, every rank holds the whole one
        self.tensors.append(Tensor(name, shape, component, part=part, split=split, **facts))

    def linear(self, name: str, part: str, out: int, into: int, *, bias: bool = False, **facts: bool) -> None:
        """nn.Linear, weight (out, into); `swapped` for GPT-2's Conv1D, weight (into, out); `shared` as in `Tensor`."""
        shape = (into, out) if facts.get("swapped") else (out, into)
        self.plain(f"{name}.weight", part, shape, matmul=True, **facts)
        if bias:
            self.plain(f"{name}.bias", part, (out,), shared=facts.get("shared", False))

    def norm(self, name: str, size: int, part: str = "norm", *, bias: bool = False) -> None:
        self.plain(f"{name}.weight", part, (size,))
        if bias:
            self.plain(f"{name}.bias", part, (size,))

    def norms(self, names: Mapping[str, str], size: int, *, bias: bool = False) -> None:
        """Several, each with its part."""
        for name, part in names.items():
            self.norm(name, size, part, bias=bias)

    def experts(
        self, prefix: str, count: int, used: int, sizes: Mapping[str, tuple[int, int]], *, bias: bool, swapped: bool
    ) -> None:
        """Stacked expert matrices, as transformers 5 holds them; `sizes` are outputs and inputs of one expert."""
        if used > count:
            raise LLMHWError(f"config key num_experts_per_tok={used} is more than the {count} experts there are")
        stack = Tensor("", (), "experts", True, count, used, split="experts")
        for part, size in sizes.items():
            shape = (count, *(size[::-1] if swapped else size))
            self.tensors.append(replace(stack, name=f"{prefix}.{part}_proj", shape=shape, part=part, swapped=swapped))
        for part, (out, _) in sizes.items() if bias else ():
            name = f"{prefix}.{part}_proj_bias"
            self.tensors.append(replace(stack, name=name, shape=(count, out), matmul=False, part=part))

    def gated_mlp(self, prefix: str, hidden: int, inner: int, **options: bool) -> None:
        """SwiGLU and its kin: gate, up, down; `options` as in `linear`."""
        self.linear(f"{prefix}.gate_proj", "gate", inner, hidden, **options)
        self.plain_mlp(f"{prefix}.up_proj", f"{prefix}.down_proj", hidden, inner, **options)

    def fused_mlp(self, prefix: str, hidden: int, inner: int, **options: bool) -> None:
        """Gate and up in one matrix, and down; `options` as in `linear`."""
        self.linear(f"{prefix}.gate_up_proj", "gate_up", 2 * inner, hidden, **options)
        self.linear(f"{prefix}.down_proj", "down", hidden, inner, **options)

    def plain_mlp(self, up: str, down: str, hidden: int, inner: int, **options: bool) -> None:
        """Two matrices; `options` as in `linear`."""
        self.linear(up, "up", inner, hidden, **options)
        self.linear(down, "down", hidden, inner, **options)

    def moe(
        self,
        prefix: str,
        c: Config,
        *,
        inner: int,
        router: str = "gate",
        corrected: str = "",
        bias: bool = False,
        swapped: bool = False,
        width: int | None = None,
    ) -> None:
        """Router and gated experts, fused as (experts, 2 x inner, width) and (experts, width, inner).

        width       of latent experts; None: the hidden size
        corrected   name of a number for each expert that evens their load, where it is a parameter
        """
        count = c.count("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
        used = c.count(
            "num_experts_per_tok", "experts_per_token", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k"
        )
        self.linear(f"{prefix}.{router}", "router", count, c.hidden, bias=bias)
        if corrected:
            self.plain(f"{prefix}.{corrected}", "router", (count,))
        width = width or c.hidden
        sizes = {"gate_up": (2 * inner, width), "down": (width, inner)}
        self.experts(f"{prefix}.experts", count, used, sizes, bias=bias, swapped=swapped)

    def qkvo(
        self,
        prefix: str,
        hidden: int,
        a: Attention,
        *,
        bias: bool = False,
        out_bias: bool = False,
        out_name: str = "o_proj",
        gated: bool = False,
    ) -> None:
        """Separate query, key, value and output projections."""
        q = a.heads * a.head_dim
        self.linear(f"{prefix}.q_proj", "q", 2 * q if gated else q, hidden, bias=bias)
        self.linear(f"{prefix}.k_proj", "k", a.kv_heads * a.head_dim, hidden, bias=bias)
        self.linear(f"{prefix}.v_proj", "v", a.kv_heads * a.v_head_dim, hidden, bias=bias)
        self.linear(f"{prefix}.{out_name}", "o", hidden, a.heads * a.v_head_dim, bias=out_bias)

    def layer(self, attention: Attention | None = None, linear: LinearAttention | None = None) -> Layer:
        return Layer(tuple(self.tensors), attention, linear)


@dataclass(frozen=True)
class Body:
    """What a reader returns: the blocks, and the tensors outside them; `makes` if its head is among them.

    head   name of the output head
    ties   False: the head is apart from the embedding, whatever the config says
    tied   True: the head of a draft is its embedding
    """

    layers: list[Layer]
    outer: Builder
    intermediate: int
    mtp: tuple[Tensor, ...] = ()
    head_bias: bool = False
    makes: str = ""
    head_in: int | None = None
    head: str = "lm_head"
    ties: bool = True
    tied: bool = False


def attention_of(c: Config, window: int | None = None, chunk: int | None = None) -> Attention:
    heads, kv_heads = c.heads, c.kv_heads
    if heads % kv_heads:
        raise LLMHWError(
            f"kv_heads={kv_heads} does not divide heads={heads}; see num_key_value_heads and num_attention_heads"
        )
    return Attention(heads, kv_heads, c.head_dim, c.head_dim, window, chunk)


def each(make: Callable[..., Layer], *kinds: Iterable[Any]) -> list[Layer]:
    """A layer for each of these kinds; equal ones are one object, so that sums go over the distinct ones."""
    keys = list(zip(*kinds, strict=True))
    made = {key: make(*key) for key in dict.fromkeys(keys)}
    return [made[key] for key in keys]


def outer_of(
    c: Config,
    embed: str,
    norm: str | None,
    *,
    norm_bias: bool = False,
    width: int | None = None,
    rows: int | None = None,
    positions: tuple[str, int] | None = None,
) -> Builder:
    """The embedding, the learned positions and the last norm; `positions`: name and rows."""
    b = Builder()
    b.plain(f"{embed}.weight", "tokens", (rows or c.vocab, width or c.hidden))
    if positions:
        b.plain(f"{positions[0]}.weight", "positions", (positions[1], c.hidden))
    if norm:
        b.norm(norm, c.hidden, bias=norm_bias)
    return b
