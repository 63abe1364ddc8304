"""Drawings of serving: what a token leaves in the cache, what an engine does with a card, passes, batches, costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import llmhw
from llmhw.drawings.canvas import BLUE, GREEN, GREY, ORANGE, Canvas, drawing
from llmhw.units import GIB, KIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from llmhw.serving import ServingMemory


@drawing
def kv_of_a_layer(models: Sequence[str] = ("llama-2-7b", "llama-3.1-8b", "deepseek-v3")) -> Figure:
    """What one token leaves in one layer: a key (K) and a value (V) a KV head, or one latent vector; three models."""
    paper = Canvas(36, 12.4)
    wide = 36 / len(models)
    for i, name in enumerate(models):
        spec, x = llmhw.model(name), i * wide + 0.6
        token, attention = llmhw.kv_cache_bytes_per_token(spec), spec.layers[0].attention
        latent = attention.latent if attention else None
        paper.text(x, 0.9, name, at="left", bold=True)
        if latent:
            paper.text(x, 2.2, "one latent vector of", at="left", size=8.5)
            paper.text(x, 3.2, f"{latent} for all {spec.heads} heads", at="left", size=8.5)
            # as wide as the bytes are heads of 128 numbers
            paper.box(x, 4.2, 1.2 * token / spec.num_layers / 256, 0.65, colour=GREEN)
        else:
            paper.text(x, 2.2, f"{spec.kv_heads} KV heads for", at="left", size=8.5)
            paper.text(x, 3.2, f"{spec.heads} query heads", at="left", size=8.5)
            rows = -(-spec.kv_heads // 8)
            for y, colour in ((4.2, BLUE), (4.4 + 0.75 * rows, ORANGE)):
                for head in range(spec.kv_heads):
                    paper.box(x + 1.2 * (head % 8), y + 0.75 * (head // 8), 1.1, 0.65, colour=colour)
        each = token / spec.num_layers / KIB
        paper.text(x, 11.0, f"{each:.3g} KiB x {spec.num_layers} layers", at="left", size=8.5)
        paper.text(x, 12.0, f"= {token / KIB:.0f} KiB a token", at="left", size=8.5, bold=True)
    paper.legend({"K, a head": BLUE, "V, a head": ORANGE}, wide + 0.6, 8.4, step=6.6)
    return paper.figure


@drawing
def card_at_start(held: ServingMemory | None = None) -> Figure:
    """The memory of a card when an engine has started: what is left to others, weights, the trial run, the cache."""
    if held is None:
        from llmhw.job import ServingJob
        from llmhw.serving import serving_memory

        held = serving_memory(ServingJob(model=llmhw.model("llama-3.1-8b"), cluster=llmhw.Cluster("H100")))
    parts = held.stages[0]
    shown = {
        "weights": (parts["weights"], BLUE),
        "trial of a full batch": (parts.total - parts["weights"], ORANGE),
        "KV cache, the rest": (held.kv_bytes, GREEN),
        "left to others": (held.capacity_bytes - held.budget_bytes, GREY),
    }
    paper, x = Canvas(36, 9.6), 0.5
    scale = 35 / held.capacity_bytes
    paper.text(0.5, 0.9, f"{held.job.cluster.accelerator.name}, {held.job.model.name}", at="left", bold=True)
    for size, colour in shown.values():
        paper.box(x, 2.2, size * scale, 2.6, colour=colour)
        x += size * scale
    share = held.budget_bytes * scale
    paper.bracket(0.5, 0.5 + share, 5.2, f"the engine's share, {held.budget_bytes / GIB:.1f} GiB", above=False)
    for i, (name, (size, colour)) in enumerate(shown.items()):
        left, y = 0.5 + 18 * (i % 2), 7.6 + 1.3 * (i // 2)
        paper.legend({f"{name}: {size / GIB:.1f} GiB": colour}, left, y)
    return paper.figure
