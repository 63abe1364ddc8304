"""Pages of a cache that layers of several kinds share, as vLLM's block pool has them since its version 1.

Layers of one kind are dealt to groups of equal size, and every group takes its pages from one pool: a page of the pool
is a page of each layer of one group. A page is as large as the largest kind needs it: that of attention grows until it
holds a recurrent state. So the tokens of cache are not the room over the bytes of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, inf
from typing import Any

from llmhw.formula import formula
from llmhw.memory import kv_cache_bytes, latent_cache_bytes, linear_state_bytes
from llmhw.model import Attention, Layer, LinearAttention, ModelSpec
from llmhw.precision import number_format
from llmhw.units import ceil_div, maximum, minimum


@formula(source="vLLM: MambaSpec, HybridAttentionMambaModelConfig: pages of equal bytes", unit="count")
def state_page_tokens(*, state: Any, token: Any, page_size: Any) -> Any:
    """Tokens of a page of attention that is at least as large as a recurrent state.

    state       bytes of one layer's state
    token       bytes of a token's keys and values in one layer

    Qwen3.5 27B: a log of vLLM has 784 tokens in 16 bit and 1,568 in 8 bit.

    >>> [state_page_tokens(state=3207168, token=token, page_size=16) for token in (4096, 2048)]
    [784, 1568]
    """
    return maximum(page_size, ceil_div(ceil_div(state, token), page_size) * page_size)


@formula(source="vLLM: SlidingWindowSpec.max_memory_usage_bytes", unit="count")
def window_pages(*, window: Any, batched: Any, tokens: Any, page_size: Any) -> Any:
    """Pages that a sequence holds of a layer with a window: the window, the tokens in flight, and one that is begun.

    >>> window_pages(window=128, batched=8192, tokens=131072, page_size=16)
    521
    """
    return ceil_div(minimum(window - 1 + batched, tokens), page_size) + 1


@dataclass(frozen=True, slots=True)
class Group:
    """Layers of one kind that take their pages together.

    count        groups of this kind
    page_tokens  tokens of a page; 0: a page holds a state
    window       most tokens that are kept; None: all
    """

    count: int
    page_tokens: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """What a sequence takes of a pool of pages.

    layers       of a group: a block of the pool is a page of each
    page_bytes   of one layer
    state_pages  pages that a sequence holds of a group with a state
    batched      tokens in flight
    """

    groups: tuple[Group, ...]
    layers: int
    page_bytes: float
    state_pages: int
    batched: int

    @property
    def block_bytes(self) -> float:
        """Bytes of one block on one device."""
        return self.layers * self.page_bytes

    @property
    def has_states(self) -> bool:
        """Whether some layers keep a state of fixed size."""
        return any(not group.page_tokens for group in self.groups)

    def blocks(self, tokens: int, shared: int = 0) -> int:
        """Blocks of a sequence of so many tokens, less those of a prefix that others hold, too."""
        found = 0
        for group in self.groups:
            if not group.page_tokens:
                each = self.state_pages
            elif group.window:
                sizes = {"batched": self.batched, "tokens": tokens, "page_size": group.page_tokens}
                each = window_pages(window=group.window, **sizes)
            else:
                each = ceil_div(tokens, group.page_tokens) - shared // group.page_tokens
            found += group.count * each
        return found

    def held(self, left_bytes: float) -> int:
        """Blocks of the pool in what is left of a device."""
        return max(0, int(left_bytes // self.block_bytes))

    def split_tokens(self, blocks: int) -> int:
        """Tokens as vLLM printed them until 2026: blocks divided by groups, times the smallest page."""
        pages = [group.page_tokens for group in self.groups if group.page_tokens]
        return blocks // sum(group.count for group in self.groups) * min(pages)


def _span(attention: Attention) -> float:
    return attention.span or inf


def _token_bytes(a: Attention, bits: float, tp: int) -> float:
    if a.latent:
        return float(latent_cache_bytes(batch=1, tokens=1, latent=a.latent, bits_per_element=bits))
    heads = {"kv_heads": ceil_div(a.kv_heads, tp), "head_dim": a.head_dim, "v_head_dim": a.v_head_dim}
    return float(kv_cache_bytes(batch=1, tokens=1, bits_per_element=bits, **heads))


def _state_bytes(state: LinearAttention, tp: int) -> float:
    sizes = state.kept(tp)
    if state.conv_kept is None:
        # the convolution's input of the token itself need not be kept
        sizes["kernel"] = max(0, sizes["kernel"] - 1)
    return float(linear_state_bytes(batch=1, bits_per_element=16, **sizes))


@lru_cache(maxsize=256)
def pool(
    layers: Sequence[tuple[Layer, int]], *, kv: str, tp: int, page_size: int, batched: int, state_pages: int
) -> Pool | None:
    """The pool of a device that holds these layers; None where one kind of attention is all there is.

    layers        distinct layers and how often each occurs
    kv            format of the cache; a state is in the model's own
    page_size     tokens of a page where no state makes it larger
    state_pages   pages of a state that a sequence holds: more than one where states are kept for shared prefixes

    >>> from llmhw import model
    >>> found = pool(model("qwen3.5-27b").layer_kinds, kv="fp8", tp=2, page_size=16, batched=8192, state_pages=2)
    >>> [group.page_tokens for group in found.groups], found.layers, found.blocks(131072)
    ([1568, 0], 16, 90)
    """
    bits = number_format(kv).bits_per_weight
    spans: dict[float, int] = {}
    sizes: dict[float, float] = {}
    states, state = 0, 0.0
    for layer, count in layers:
        a, linear = layer.attention, layer.linear_attention
        if a and a.causal and not a.shared:
            if a.compression or a.index_dim:
                return None
            spans[_span(a)] = spans.get(_span(a), 0) + count
            sizes[_span(a)] = max(sizes.get(_span(a), 0.0), _token_bytes(a, bits, tp))
        if linear:
            states, state = states + count, max(state, _state_bytes(linear, tp))
    if not spans or len(spans) + bool(states) < 2:
        return None
    counts = [*spans.values(), *([states] if states else [])]
    # groups are as large as the smallest kind; a little smaller than the largest, that is filled up instead
    each = max(counts) if max(counts) < 1.25 * min(counts) else min(counts)
    page_bytes = page_size * max(sizes.values())
    if states:
        token = min(sizes.values())
        page_bytes = max(page_bytes, token * state_page_tokens(state=state, token=token, page_size=page_size))
    groups = [
        Group(ceil(count / each), int(page_bytes // sizes[span]), None if span == inf else int(span))
        for span, count in spans.items()
    ]
    if states:
        groups.append(Group(ceil(states / each), 0))
    return Pool(tuple(groups), each, page_bytes, state_pages, batched)


def pool_of(spec: ModelSpec, numbers: range | None = None, **sizes: Any) -> Pool | None:
    """The pool of a model's layers, or of those with these numbers; the rest as in `pool`."""
    return pool(spec.layer_kinds if numbers is None else spec.kinds_of(numbers), **sizes)
