"""What one rank holds after a training step, and how often it spoke to others."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.distributed.tensor.debug import CommDebugMode

from llmhw.measure.modules import quiet


class Held(NamedTuple):
    """Bytes of weights, gradients and optimizer states on this rank, and the collectives that a step called."""

    bytes: int
    collectives: int


def held_after_step(model: Any, tokens: torch.Tensor) -> Held:
    """Run forward, backward and AdamW once, and add up what this rank holds.

    model    a language model of transformers, plain or sharded by `fully_shard`; it keeps the step's gradients
    tokens   token ids, (batch, seq_len), on the model's device

    Of a sharded tensor counts the rank's own shard. Activations, gone by then, and buffers are not counted.
    """
    optimizer = torch.optim.AdamW(model.parameters())
    with quiet(), CommDebugMode() as watched:
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        optimizer.step()
    tensors = [t for p in model.parameters() for t in (p, p.grad, *optimizer.state[p].values())]
    local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    return Held(sum(t.nbytes for t in local), watched.get_total_counts())
