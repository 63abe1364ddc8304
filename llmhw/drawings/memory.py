"""Drawings of memory: what a layer keeps, tiles of flash attention, recompute, accumulation, the life of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import llmhw
from llmhw.activations import activations, layer_activations
from llmhw.drawings.canvas import BLUE, GREEN, GREY, LIGHT, ORANGE, PINK, Canvas, drawing
from llmhw.memory import state_bytes
from llmhw.peak import PARTS, step_moments
from llmhw.units import GIB, LLMHWError
from llmhw.units import format_quantity as show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmhw.formula import Term


@drawing
def kept_and_used() -> Figure:
    """Why a product keeps its input: the backward pass needs it again."""
    paper = Canvas(36, 10.4)
    paper.text(0.4, 2.4, "forward", at="left", bold=True)
    paper.text(0.4, 6.6, "backward", at="left", bold=True)
    for x, text in ((8, "x"), (27, "y = x W")):
        paper.text(x, 2.4, text, size=11)
    paper.box(14.6, 1.2, 6, 2.4, "× W", ORANGE, round=True)
    paper.arrow((9.2, 2.4), (14.4, 2.4))
    paper.arrow((20.8, 2.4), (24.2, 2.4))
    paper.text(27, 6.6, "∂ℓ/∂y", size=11)
    paper.box(14.6, 5.4, 6, 2.4, "xᵀ ∂ℓ/∂y", ORANGE, round=True)
    paper.arrow((24.8, 6.6), (20.8, 6.6))
    paper.box(6.7, 5.6, 2.6, 2.0, "x", BLUE, fill=0.45)
    paper.arrow((8, 3.2), (8, 5.4), dashed=True)
    paper.arrow((9.5, 6.6), (14.4, 6.6))
    paper.text(8, 8.5, "kept until now", size=8.5)
    paper.text(17.6, 8.5, "∂ℓ/∂W, the gradient of the weights", size=8.5, at="left")
    paper.arrow((17.2, 7.9), (17.2, 9.2))
    return paper.figure


# Operations of a Llama layer in order, with the labels of what they keep, and a colour.
_OPERATIONS = (
    ("norm 1", ("input in fp32", "1 / root mean square", "normalized, before the weight"), GREY),
    ("q, k, v projections", ("input of the q, k and v projections",), BLUE),
    ("fused attention", ("queries", "keys", "values", "output of the attention core",
                         "logarithms of the softmax sums"), BLUE),
    ("output projection", (), BLUE),
    ("+ residual", (), GREY),
    ("norm 2", ("input in fp32", "1 / root mean square", "normalized, before the weight"), GREY),
    ("gate, up projections", ("input of the gate and up projections",), ORANGE),
    ("SiLU", ("input of silu",), ORANGE),
    ("SiLU(gate) × up", ("activated gate", "up"), ORANGE),
    ("down projection", ("input of the down projection",), ORANGE),
    ("+ residual", (), GREY),
)  # fmt: skip
_SHORT = {
    "input in fp32": "fp32", "normalized, before the weight": "norm.", "queries": "q", "keys": "",
    "values": "", "output of the attention core": "out", "input of silu": "gate", "activated gate": "SiLU(gate)",
    "input of the down projection": "product", "input of the q, k and v projections": "in",
    "input of the gate and up projections": "in",
}  # fmt: skip


def kept_rows(model: str, seq_len: int) -> list[tuple[str, str, list[Term]]]:
    """The operations of a layer: name, colour, and the terms that each keeps; every term once."""
    waiting = [term for part in layer_activations(llmhw.model(model), 0, seq_len=seq_len) for term in part.terms]
    rows = []
    for name, labels, colour in _OPERATIONS:
        terms = []
        for label in labels:
            found = next((term for term in waiting if term.label == label), None)
            if found is None:
                raise LLMHWError(f"model={model!r} keeps no {label!r}; the drawing knows layers as Llama has them")
            waiting.remove(found)
            terms.append(found)
        rows.append((name, colour, terms))
    if waiting:
        raise LLMHWError(f"model={model!r} keeps {waiting[0].label!r}, which the drawing does not know")
    return rows


@drawing
def kept_layer(model: str = "llama-3-8b", seq_len: int = 4096) -> Figure:
    """One layer from top to bottom, and beside each operation what it keeps, its width to scale."""
    rows = kept_rows(model, seq_len)
    widest = max(sum(t.value for t in terms) for _, _, terms in rows)
    start, wide, step = 13.4, 17.6, 1.9
    paper = Canvas(36, 5.6 + step * len(rows))
    paper.text(6.2, 0.8, "operation", bold=True)
    paper.text(start, 0.8, "kept for each token, to scale", bold=True, at="left")
    for i, (name, colour, terms) in enumerate(rows):
        y = 1.7 + step * i
        paper.box(0.6, y, 11.2, 1.4, name, colour, round=True, fill=0.18)
        if i:
            paper.arrow((6.2, y - step + 1.4), (6.2, y), width=0.8)
        x = start
        for term in terms:
            size = term.value / widest * wide
            text = _SHORT.get(term.label, "")
            paper.box(x, y, size, 1.4, text if size > 0.62 * len(text) else "", colour, fill=0.45, size=8.5)
            x += size
        total = sum(t.value for t in terms) / seq_len / 2**10
        paper.text(x + 0.4, y + 0.7, f"{total:.0f} KiB" if total else "nothing", at="left", size=8.5)
    whole = sum(t.value for _, _, terms in rows for t in terms) / seq_len
    bottom = 2.2 + step * len(rows)
    paper.legend({"attention": BLUE, "feed-forward part": ORANGE, "norms, sums": GREY}, 0.6, bottom + 0.4)
    paper.text(0.6, bottom + 2.2, f"in all {whole / 2**10:.0f} KiB a token, {model} in bf16; thin ones: k and v",
               at="left", size=8.5)  # fmt: skip
    return paper.figure


@drawing
def flash_tiles(model: str = "llama-3-8b", seq_len: int = 4096) -> Figure:
    """Scores of one head: written whole, or made tile by tile and dropped."""
    spec = llmhw.model(model)
    kinds = {kind: layer_activations(spec, 0, seq_len=seq_len, attention=kind) for kind in ("eager", "flash")}
    terms = {kind: [t for part in found for t in part.terms] for kind, found in kinds.items()}
    eager = sum(t.value for t in terms["eager"] if t.formula == "score_matrix_bytes")
    row = next(t for t in terms["flash"] if "softmax" in t.label)
    paper = Canvas(36, 19.6)
    for left, title in ((3.2, "eager"), (21.6, "flash")):
        paper.text(left + 5.5, 0.8, title, bold=True)
        paper.box(left, 2.2, 11, 0.9, "keys, values" if title == "eager" else "", PINK, fill=0.3, size=8.5)
        paper.box(left - 1.3, 3.5, 0.9, 11, "", BLUE, fill=0.3)
        paper.text(left - 2.2, 9, "queries", turned=True, size=8.5)
    paper.box(3.2, 3.5, 11, 11, "", ORANGE, fill=0.45)
    paper.text(8.7, 8.4, f"{seq_len:,} × {seq_len:,}", bold=True)
    paper.text(8.7, 10.0, "scores, written and kept", size=8.5)
    side, at = 11 / 4, (2, 1)  # tiles; the column and the row that is being made
    for i in range(4):
        for j in range(4):
            now, done = (i, j) == at, j < at[1] or (j == at[1] and i < at[0])
            paper.box(21.6 + i * side, 3.5 + j * side, side, side, "now" if now else "", ORANGE if now else GREY,
                      fill=0.6 if now else 0.12 if done else 0.0, dashed=not now)  # fmt: skip
    paper.box(21.6 + at[0] * side, 2.2, side, 0.9, "", PINK, fill=0.7)
    paper.box(20.3, 3.5 + at[1] * side, 0.9, side, "", BLUE, fill=0.7)
    paper.box(33.2, 3.5, 0.7, 11, "", GREEN, fill=0.45)
    paper.text(34.8, 9, "max and sum of a row", turned=True, size=8.5)
    paper.text(8.7, 15.6, f"kept: {show(eager, 'bytes')} a layer", bold=True)
    paper.text(27.4, 15.6, f"kept: {show(float(row.value), 'bytes')} a layer", bold=True)
    paper.text(8.7, 17.0, f"{spec.heads} heads, 6 bytes a score", size=8.5)
    paper.text(27.4, 17.0, "one fp32 number a row and head", size=8.5)
    paper.text(18, 18.7, "a tile lives in the chip's own memory; only q, k, v and the output go to HBM", size=8.5)
    return paper.figure


@drawing
def recomputed(model: str = "llama-3-8b", seq_len: int = 4096, at: int = 20) -> Figure:
    """What lies in memory when the backward pass comes to a layer, heights to scale: all kept, or inputs alone.

    at   the layer whose backward pass runs
    """
    spec = llmhw.model(model)
    layer = layer_activations(spec, 0, seq_len=seq_len).total
    inputs = activations(spec, seq_len=seq_len, recompute="full")["layer inputs"] / spec.num_layers
    high, start, each = 5.2, 2.0, 32 / spec.num_layers
    paper = Canvas(36, 19.2)
    for top, title, full in ((2.2, "nothing is recomputed", False), (10.8, "full recompute", True)):
        paper.text(start, top - 1.3, title, bold=True, at="left")
        for i in range(spec.num_layers):
            x = start + i * each
            if i > at:
                paper.box(x, top, 0.82 * each, high, "", GREY, fill=0.0, dashed=True)
                continue
            now = i == at
            share = 1.0 if now or not full else inputs / layer
            colour = ORANGE if now and full else BLUE
            paper.box(x, top + high * (1 - share), 0.82 * each, high * share, "", colour, fill=0.6)
        held = (at + 1) * inputs + layer if full else (at + 1) * layer
        paper.text(start + 32, top - 1.3, f"{held / GIB:.1f} GiB now", at="right")
        paper.text(start, top + high + 0.9, "layer 0", size=8.5, at="left")
        paper.text(start + (at + 0.5) * each, top + high + 0.9, f"backward pass of layer {at}", size=8.5)
    paper.legend({"kept": BLUE, "computed again": ORANGE, "dashed: dropped": GREY}, start, 18.3)
    return paper.figure


@drawing
def accumulation(model: str = "llama-2-7b", batch: int = 32, steps: int = 8, seq_len: int = 4096) -> Figure:
    """Memory over one step, heights to scale: a whole batch at once, or in micro-batches whose gradients are summed."""
    spec = llmhw.model(model)
    states = llmhw.training_states(spec)
    gradients = states["gradients"]
    rest = states.total - gradients
    whole, part = (activations(spec, batch=b, seq_len=seq_len).total for b in (batch, batch // steps))
    paper = Canvas(36, 18.4)
    bottom, scale = 14.4, 12.6 / (rest + whole)

    def teeth(left: float, wide: float, number: int, high: float) -> None:
        each, floor = wide / number, bottom - rest * scale
        paper.box(left, floor, wide, rest * scale, "", GREY, fill=0.35)
        for i in range(number):
            x, lies = left + i * each, gradients * scale
            base, after = floor - (lies if i else 0), floor - lies
            tooth = [(x, base), (x + each / 3, base - high * scale), (x + each, after)]
            paper.axes.fill(*zip(*tooth, (x + each, floor), (x, floor), strict=True), color=BLUE, alpha=0.4, lw=0)
            paper.line(*tooth, colour=BLUE)
            # gradients come in the first backward pass, and from then on they stay
            begins = [(x, floor), (x, base)] if i else [(x + each / 3, floor)]
            summed = [*begins, (x + each, after), (x + each, floor)]
            paper.axes.fill(*zip(*summed, strict=True), color=ORANGE, lw=0)

    teeth(2.5, 13, 1, whole)
    teeth(20, 14.5, steps, part)
    paper.text(9, 15.4, f"{batch} sequences at once", bold=True)
    paper.text(27.2, 15.4, f"{steps} × {batch // steps} sequences", bold=True)
    paper.text(15.7, 3.0, f"{whole / GIB:.0f} GiB of activations", at="left")
    paper.text(27.2, bottom - (rest + gradients + part) * scale - 1.0, f"{part / GIB:.0f} GiB each time")
    paper.text(9, bottom - rest * scale / 2, f"{rest / GIB:.0f} GiB", size=8.5)
    paper.text(27.2, bottom - rest * scale / 2, f"{rest / GIB:.0f} GiB", size=8.5)
    paper.legend(
        {"weights, optimizer": GREY, f"gradients {gradients / GIB:.1f}": ORANGE, "activations": BLUE}, 2.5, 17.3
    )
    return paper.figure


_LIFE = dict(zip(PARTS, (GREY, ORANGE, LIGHT, BLUE, PINK, GREEN), strict=True))
_ORDER = ("weights", "optimizer states", "gradients", "activations", "logits and loss", "temporaries")


class _Moment(NamedTuple):
    """A place on the time axis of a step, and the bytes of each part there."""

    at: float
    held: dict[str, float]


def _life(moments: Sequence[Any], recompute: str) -> tuple[list[_Moment], dict[str, float]]:
    """Moments placed in time, and when each phase ends: forward takes 1, backward 2, or 3 with recompute."""
    long = 3.0 if recompute == "full" else 2.0
    first = {name: moments[0][name] if name in ("weights", "optimizer states") else 0.0 for name in PARTS}
    placed = [_Moment(0.0, first)]
    inside = [m for m in moments if m.phase == "backward" and " of layer " in m.moment]
    layers = sorted({int(m.moment.rpartition(" ")[2]) for m in inside}, reverse=True)
    before = {name: first[name] for name in PARTS} | {"activations": moments[0]["activations"]}
    placed.append(_Moment(0.96, before))
    for m in moments:
        held = {name: float(m[name]) for name in PARTS}
        if m.phase == "forward":
            placed.append(_Moment(1.0, held))
        elif m.phase == "optimizer":
            rest = held | {"temporaries": 0.0}
            placed += [_Moment(1 + long + 0.02, rest), _Moment(1 + long + 0.1, held), _Moment(1 + long + 0.3, held)]
            placed += [_Moment(1 + long + 0.32, rest), _Moment(1 + long + 0.4, first), _Moment(1 + long + 0.55, first)]
        elif m in inside:
            layer = int(m.moment.rpartition(" ")[2])
            same = [o for o in inside if int(o.moment.rpartition(" ")[2]) == layer]
            whole = max(layers) + 1
            at = 1.08 + (long - 0.12) * (whole - 1 - layer + (same.index(m) + 0.5) / len(same)) / whole
            placed.append(_Moment(at, held))
        else:
            placed.append(
                _Moment({"start of the backward pass": 1.03, "final norm": 1.06}.get(m.moment, long + 0.99), held)
            )
    ends = {"forward": 1.0, "backward": 1 + long, "update": 1 + long + 0.55}
    return placed, ends


@drawing
def step_life(
    model: str = "llama-3.2-1b", batch: int = 1, seq_len: int = 2048, recompute: str = "none", device: str = ""
) -> Figure:
    """Memory over one training step in plain PyTorch: what is alive from the forward pass to the update.

    The highest moments are those of `llmhw.peak`; between them what is alive is drawn as changing evenly.
    device   whose memory is drawn as a line; "" for none
    """
    found = step_moments(llmhw.model(model), batch=batch, seq_len=seq_len, recompute=recompute)
    moments, ends = _life(found, recompute)
    peaks = {phase: max((m for m in found if m.phase == phase), key=lambda m: float(m.total)) for phase in
             ("forward", "backward", "optimizer")}  # fmt: skip
    limit = llmhw.accelerator(device).memory_bytes if device else 0
    top = max(limit, *(float(m.total) for m in found))
    left, wide, bottom, high = 2.6, 32.4, 16.2, 12.2
    paper = Canvas(36, 22.4)
    xs = [left + wide * m.at / ends["update"] for m in moments]
    below = [0.0] * len(moments)
    for name in _ORDER:
        above = [low + m.held[name] for low, m in zip(below, moments, strict=True)]
        edges = ([bottom - high * v / top for v in line] for line in (below, above))
        paper.axes.fill_between(xs, *edges, color=_LIFE[name], alpha=0.55, linewidth=0)
        below = above
    paper.line((left, bottom), (left + wide, bottom))
    start = 0.0
    for name, end in ends.items():
        a, b = (left + wide * t / ends["update"] for t in (start, end))
        paper.bracket(a + 0.1, b - 0.1, bottom + 0.7, name, above=False)
        start = end
    for phase, at, side in (
        ("forward", 1.0, "right"),
        ("backward", 1.35, "left"),
        ("optimizer", ends["update"], "right"),
    ):
        x = left + wide * at / ends["update"]
        y = bottom - high * float(peaks[phase].total) / top - 0.8
        text = f"{phase} {peaks[phase].total / GIB:.1f}" if phase != "optimizer" else f"{peaks[phase].total / GIB:.1f}"
        paper.text(x, y, text, at=side, size=8.5, bold=peaks[phase].total == max(p.total for p in peaks.values()))
    if limit:
        y = bottom - high * limit / top
        paper.line((left, y), (left + wide, y), dashed=True)
        paper.text(left + wide, y - 0.8, f"{device}: {limit / GIB:.1f} GiB", at="right", size=8.5)
    paper.text(1.2, bottom - high / 2, "GiB alive", turned=True, size=8.5)
    paper.text(18, 0.8, f"{model}, {batch} × {seq_len:,} tokens, all in bf16, recompute {recompute}", bold=True)
    names = list(_ORDER)
    paper.legend({n: _LIFE[n] for n in names[:3]}, 2.6, 19.6, step=11)
    paper.legend({n: _LIFE[n] for n in names[3:]}, 2.6, 21.2, step=11)
    return paper.figure


@drawing
def ladder(
    rungs: Mapping[str, Any] | None = None,
    *,
    known: Sequence[str] | None = None,
    capacity: float = 0.0,
    name: str = "a card",
) -> Figure:
    """Rungs of bytes beside the memory of a card; those that are not known yet are left open.

    rungs      name -> bytes
    known      which of them are drawn; None: the first three
    capacity   bytes of the card, whose name is `name`
    """
    rungs = rungs or {"at once": 800 * GIB, "accumulate": 126 * GIB, "8-bit": 40 * GIB, "LoRA": 15 * GIB}
    known, capacity = list(rungs)[:3] if known is None else known, capacity or 48 * GIB
    start, wide, most = 11.4, 15.6, 3 * capacity
    paper = Canvas(36, 3.6 + 1.9 * len(rungs))
    for i, (rung, size) in enumerate(rungs.items()):
        y = 2.2 + 1.9 * i
        paper.text(10.8, y + 0.65, rung, at="right")
        if rung not in known:
            paper.box(start, y, wide, 1.3, "?", GREY, fill=0.0, dashed=True)
            continue
        fits, cut = size <= capacity, size > most
        paper.box(start, y, wide * min(1.0, size / most), 1.3, "", GREEN if fits else ORANGE, fill=0.4)
        if cut:
            paper.text(start + wide - 1.0, y + 0.65, "»", bold=True, size=12)
        text = f"{size / GIB:.0f} GiB" if size >= 100 * GIB else f"{size / GIB:.1f} GiB"
        paper.text(start + wide + 0.6, y + 0.65, f"{text}" + (" fits" if fits else ""), at="left", bold=fits)
    line = start + wide * capacity / most
    paper.line((line, 1.8), (line, 2.4 + 1.9 * len(rungs)), dashed=True)
    paper.text(line, 1.0, f"{name}: {capacity / GIB:.0f} GiB", size=8.5)
    paper.text(0.4, 2.9 + 1.9 * len(rungs), "»: cut, longer than drawn", at="left", size=8.5)
    return paper.figure


@drawing
def state_shards(model: str = "llama-2-7b", device: str = "RTX A6000", ranks: Sequence[int] = (1, 2, 3, 4)) -> Figure:
    """What one card holds of 16 bytes a parameter when they are cut into shards, heights to scale."""
    spec, card = llmhw.model(model), llmhw.accelerator(device)
    params, high, bottom = spec.parameters.total, 11.0, 13.0
    whole = state_bytes(elements=params, bytes_per_element=16)
    paper = Canvas(36, 17.4)
    for i, n in enumerate(ranks):
        x, share = 1.5 + 8.8 * i, state_bytes(elements=params, bytes_per_element=16, shards=n) / whole
        colour = GREEN if whole * share <= card.memory_bytes else ORANGE
        for rank in range(n):
            wide = 7.4 / n
            paper.box(x + rank * wide, bottom - high * share, 0.86 * wide, high * share, "", colour, fill=0.45)
        paper.text(x + 3.5, bottom + 1.0, f"{n} card{'s' * (n > 1)}", bold=True)
        paper.text(x + 3.5, bottom - high * share - 0.8, f"{whole * share / GIB:.1f} GiB each")
    y = bottom - high * card.memory_bytes / whole
    paper.line((0.5, y), (35.5, y), dashed=True)
    said = f"dashed: {card.name}, {card.memory_bytes / GIB:.0f} GiB; a column is a card, 16 bytes a parameter"
    paper.text(0.5, 15.6, said, at="left", size=8.5)
    return paper.figure
