"""A small decoder in plain PyTorch, with the tensor names and shapes of transformers' Llama and Mixtral.

It is what `llmhw.measure.distributed` trains: real modules that PyTorch's own parallel wrappers can cut, small
enough for a laptop. Every weight is drawn from a seed made of its name, so a stage, a shard or an expert has the
values that the whole model has there.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.checkpoint import checkpoint

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Exchange = Callable[..., torch.Tensor]


def _rotate(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of (batch, heads, tokens, head_dim)."""
    half = x.shape[-1] // 2
    speeds = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = positions[:, None].to(torch.float32) * speeds
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention of one rank that has all tokens."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


class Attention(nn.Module):
    """Query, key, value and output projections; `attend` is what context parallelism replaces."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden, heads, kv = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim = hidden // heads
        self.attend: Attend = causal
        self.q_proj = nn.Linear(hidden, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, kv * self.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, kv * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, hidden, bias=False)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.view(*y.shape[:2], -1, self.head_dim).transpose(1, 2)

        q, k, v = heads(self.q_proj(x)), heads(self.k_proj(x)), heads(self.v_proj(x))
        out = self.attend(_rotate(q, positions), _rotate(k, positions), v)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.Module):
    """The experts of one rank, stacked; tokens come sorted by expert."""

    def __init__(self, config: dict[str, Any], held: int) -> None:
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_up_proj = nn.Parameter(torch.empty(held, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(held, hidden, inner))

    def forward(self, x: torch.Tensor, counts: list[int]) -> torch.Tensor:
        outs = []
        for rows, up, down in zip(x.split(counts), self.gate_up_proj, self.down_proj, strict=True):
            gate, value = F.linear(rows, up).chunk(2, dim=-1)
            outs.append(F.linear(F.silu(gate) * value, down))
        return torch.cat(outs)


class MixtureOfExperts(nn.Module):
    """Top-k routing with the load forced to be equal; `exchange` is the all-to-all of expert parallelism."""

    def __init__(self, config: dict[str, Any], ep: int) -> None:
        super().__init__()
        self.count, self.used, self.ep = config["num_local_experts"], config["num_experts_per_tok"], ep
        self.exchange: Exchange | None = None
        self.gate = nn.Linear(config["hidden_size"], self.count, bias=False)
        self.experts = Experts(config, self.count // ep)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = x.shape
        x = x.flatten(0, 1)
        # token t goes to experts t k, t k + 1, ... in turn: every expert gets the same load
        slots = torch.arange(x.shape[0] * self.used, device=x.device)
        chosen = slots % self.count
        weights = self.gate(x).softmax(-1).flatten()[(slots // self.used) * self.count + chosen]
        order = chosen.argsort(stable=True)
        rows = x[order // self.used]
        counts = torch.bincount(chosen, minlength=self.count)
        if self.exchange is None:
            out = self.experts(rows, counts.tolist())
        else:
            out = self._over_ranks(rows, counts)
        back = torch.zeros_like(out)
        back[order] = out
        return (back * weights[:, None]).view(-1, self.used, x.shape[-1]).sum(1).view(shape)

    def _over_ranks(self, rows: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Send each token to the rank of its expert, and fetch what comes back."""
        assert self.exchange is not None
        held = self.count // self.ep
        theirs = self.exchange(counts, None, None).view(self.ep, held)
        sent = counts.view(self.ep, held).sum(1).tolist()
        got = theirs.sum(1).tolist()
        arrived = self.exchange(rows, got, sent)
        # they come by source rank, then by expert: put each expert's together
        pieces = [list(p.split(n)) for p, n in zip(arrived.split(got), theirs.tolist(), strict=True)]
        done = self.experts(torch.cat([piece[e] for e in range(held) for piece in pieces]), theirs.sum(0).tolist())
        by_expert = done.split([int(theirs[r, e]) for e in range(held) for r in range(self.ep)])
        ordered = torch.cat([by_expert[e * self.ep + r] for r in range(self.ep) for e in range(held)])
        return self.exchange(ordered, sent, got)


class Block(nn.Module):
    """One transformer block, pre-norm."""

    def __init__(self, config: dict[str, Any], ep: int) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MixtureOfExperts(config, ep) if config["model_type"] == "mixtral" else MLP(config)
        self.input_layernorm = nn.RMSNorm(config["hidden_size"], eps=1e-6)
        self.post_attention_layernorm = nn.RMSNorm(config["hidden_size"], eps=1e-6)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), positions)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """Embedding, blocks and final norm: those of them that this stage holds."""

    def __init__(self, config: dict[str, Any], numbers: tuple[int, ...], first: bool, last: bool, ep: int) -> None:
        super().__init__()
        if first:
            self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleDict({str(n): Block(config, ep) for n in numbers})
        if last:
            self.norm = nn.RMSNorm(config["hidden_size"], eps=1e-6)


class Decoder(nn.Module):
    """The whole model, or the part of it that one pipeline chunk holds.

    numbers       the layers it holds
    first, last   whether it takes tokens, and whether it gives logits; else hidden vectors
    ep, ep_rank   which experts it holds
    """

    def __init__(
        self,
        config: dict[str, Any],
        numbers: tuple[int, ...] | None = None,
        *,
        first: bool = True,
        last: bool = True,
        ep: int = 1,
        ep_rank: int = 0,
    ) -> None:
        super().__init__()
        numbers = tuple(range(config["num_hidden_layers"])) if numbers is None else numbers
        self.first, self.last, self.tied = first, last, bool(config.get("tie_word_embeddings"))
        self.positions: torch.Tensor | None = None
        self.recompute = False
        self.model = Trunk(config, numbers, first, last, ep)
        if last:
            self.lm_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)
            if self.tied and first:
                self.lm_head.weight = self.model.embed_tokens.weight
        with torch.no_grad():
            self._draw(ep, ep_rank)

    def _draw(self, ep: int, ep_rank: int) -> None:
        for name, parameter in self.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
                continue
            if self.tied and name == "lm_head.weight":
                name = "model.embed_tokens.weight"
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            stacked = ep if ".experts." in name else 1
            shape = (parameter.shape[0] * stacked, *parameter.shape[1:])
            drawn = 0.2 * torch.randn(shape, generator=generator)
            parameter.copy_(drawn.chunk(stacked)[ep_rank if stacked > 1 else 0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # under sequence parallelism a rank's hidden vectors are fewer than the tokens that attention sees
        positions = self.positions
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)
        if self.first:
            x = self.model.embed_tokens(x)
        for block in self.model.layers.values():
            x = checkpoint(block, x, positions, use_reentrant=False) if self.recompute else block(x, positions)
        return self.lm_head(self.model.norm(x)) if self.last else x
