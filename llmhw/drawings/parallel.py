"""Drawings of how devices share a model: collectives, shards, streams, matrices, pipelines, a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llmhw.drawings.canvas import BLUE, GREEN, GREY, LIGHT, ORANGE, PINK, Canvas, drawing
from llmhw.hardware import Cluster, accelerator, link
from llmhw.job import Parallelism, TrainingJob
from llmhw.messages import activation_message_bytes, all_gather_wire_bytes, all_reduce_wire_bytes
from llmhw.messages import collectives as collectives_of
from llmhw.model import ModelSpec, model_of
from llmhw.schedule import Slot, idle_slots, pipeline_actions, time_slots
from llmhw.sharding import rank_states
from llmhw.timeline import Timeline, streams
from llmhw.units import GIB, format_quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = (BLUE, ORANGE, GREEN, PINK)
_SMALL = 8.0


# -- messages ---------------------------------------------------------------------------------


@drawing
def collectives(ranks: int = 4) -> Figure:
    """Four collectives, what each rank has before and after: a row a rank, a colour a part of the tensor."""
    colours = [_COLOURS[i % 4] for i in range(ranks)]
    whole = [colours] * ranks
    own = [[colours[i] if i == j else "" for j in range(ranks)] for i in range(ranks)]
    turned = [[colours[i]] * ranks for i in range(ranks)]
    kinds = {
        "reduce-scatter": ("an addend each", whole, "a part of the sum", own),
        "all-gather": ("a part each", own, "the whole", whole),
        "all-reduce": ("an addend each", whole, "the whole sum", whole),
        "all-to-all": ("a part for each", whole, "its part of each", turned),
    }
    size, wide = 1.2, 1.2 * ranks
    block, high = 2 * wide + 7.4, wide + 4.6
    paper = Canvas(2 * block - 0.4, 2 * high + 1.2)
    for i, (name, (first, before, last, after)) in enumerate(kinds.items()):
        x, y = 0.9 + i % 2 * block, 0.4 + i // 2 * high
        paper.text(x + wide + 1.4, y + 0.4, name, bold=True)
        paper.cells(x, y + 1.4, size, before)
        paper.arrow((x + wide + 0.5, y + 1.4 + wide / 2), (x + wide + 2.5, y + 1.4 + wide / 2))
        paper.cells(x + wide + 3, y + 1.4, size, after)
        paper.text(x + wide / 2, y + wide + 2.2, first, size=_SMALL)
        paper.text(x + wide * 1.5 + 3, y + wide + 2.2, last, size=_SMALL)
    paper.text(paper.width / 2, paper.height - 0.8, "a row: one rank; a colour: one part of the tensor", size=_SMALL)
    return paper.figure


@drawing
def ring(ranks: int = 4) -> Figure:
    """A reduce-scatter in a ring: in each of n - 1 steps every rank passes a part on; numbers count its addends."""
    parts = [[1] * ranks for _ in range(ranks)]
    size, wide = 1.4, 1.4 * ranks
    step = wide + (36.0 - 2.4 - ranks * wide) / max(1, ranks - 1)
    paper = Canvas(37, wide + 4.4)
    for number in range(ranks):
        x = 2.2 + number * step
        sent = {rank: (rank - number) % ranks for rank in range(ranks)} if number < ranks - 1 else {}
        for rank, row in enumerate(parts):
            for part, addends in enumerate(row):
                here = sent.get(rank) == part or (number == ranks - 1 and addends == ranks)
                paper.box(
                    x + part * size, 1.8 + rank * size, size - 0.1, size - 0.1, str(addends), _COLOURS[part % 4],
                    fill=0.55 if here else 0.12, size=_SMALL,
                )  # fmt: skip
        title = f"step {number + 1}" if number < ranks - 1 else "done"
        paper.text(x + wide / 2, 0.8, title, bold=True)
        if sent:
            right, low, top = x + wide + 0.1, 1.8 + (ranks - 0.55) * size, 1.8 + 0.45 * size
            for rank in range(ranks - 1):
                paper.arrow((right, top + rank * size), (right, top + (rank + 1) * size), bend=-0.3)
            paper.line((right, low), (right + 1, low), (right + 1, top))
            paper.arrow((right + 1, top), (right, top))
        parts = _passed(parts, sent)
    for rank in range(ranks):
        paper.text(0.9, 1.8 + (rank + 0.45) * size, str(rank), size=_SMALL)
    text = "a row: one rank; dark: sent next, or in the end complete; a number: addends in the part"
    paper.text(paper.width / 2, paper.height - 0.9, text, size=_SMALL)
    return paper.figure


def _passed(parts: Sequence[Sequence[int]], sent: Mapping[int, int]) -> list[list[int]]:
    """What ranks have after each has added what its neighbour sent."""
    after = [list(row) for row in parts]
    for rank, part in sent.items():
        after[(rank + 1) % len(after)][part] += parts[rank][part]
    return after


# -- data parallelism -------------------------------------------------------------------------


@drawing
def zero_shards(spec: str | ModelSpec = "llama-3-8b", ranks: int = 4) -> Figure:
    """What each rank keeps of weights, gradients and optimizer states under ZeRO 0 to 3, and its GiB."""
    chosen = model_of(spec)
    kinds = (("weights", BLUE, 2.0), ("gradients", ORANGE, 2.0), ("optimizer", GREEN, 12.0))
    high, wide = 0.62, 1.5
    block = wide * ranks + 2.9
    paper = Canvas(4 * block - 0.4, 16 * high + 6.2)
    for zero in range(4):
        x = 1.2 + zero * block
        held = rank_states(chosen, Parallelism(dp=ranks, zero=zero))
        title = ("DDP", "ZeRO-1", "ZeRO-2", "FSDP")[zero]
        paper.text(x + wide * ranks / 2, 0.9, title, bold=True)
        for rank in range(ranks):
            y = 2.0
            for i, (_, colour, share) in enumerate(kinds):
                left, tall = x + rank * wide, share * high
                split = zero >= (3, 2, 1)[i]
                part = tall / ranks if split else tall
                paper.box(left, y, wide - 0.2, tall, colour=GREY, fill=0.0)
                paper.box(left, y + (rank * part if split else 0), wide - 0.2, part, colour=colour, fill=0.5)
                y += tall
        paper.text(x + wide * ranks / 2, 16 * high + 3.0, f"{held.total / GIB:.1f} GiB a rank", size=8.5)
    names = {f"{name}, {share:g}N": colour for name, colour, share in kinds}
    paper.legend(names, 3.0, paper.height - 1.2, step=11)
    return paper.figure


_STREAMS = {"forward": BLUE, "backward": ORANGE, "gather": GREEN, "reduce": PINK}


def streams_job(zero: int = 3, tokens: int = 2048, ranks: int = 64) -> TrainingJob:
    """The job of the drawings of streams: Llama-3-8B on nodes of 8 H100, one sequence on each rank."""
    return TrainingJob(
        model=model_of("llama-3-8b"),
        cluster=Cluster(accelerator("h100"), ranks, inter_link=link("infiniband ndr")),
        parallelism=Parallelism(dp=ranks, zero=zero),
        seq_len=tokens,
        global_batch=ranks,
        software="torchtitan",
    )


@drawing
def overlap(tokens: int = 2048, layers: int = 4, ranks: int = 64) -> Figure:
    """Computing and messages of four layers: one after the other, per bucket, and gathered ahead; with milliseconds."""
    ddp, fsdp = (streams_job(zero, tokens, ranks) for zero in (0, 3))
    shown = {
        "DDP, all gradients behind the backward pass": streams(ddp, layers, hidden=False),
        "DDP, gradients bucket by bucket": streams(ddp, layers),
        "FSDP, each layer gathered when its turn comes": streams(fsdp, layers, hidden=False),
        "FSDP, gathered one layer ahead": streams(fsdp, layers),
    }
    longest = max(line.seconds for line in shown.values())
    paper, left = Canvas(37, 5.6 * len(shown) + 1.8), 5.4
    scale = (paper.width - left - 0.6) / longest
    for i, (title, line) in enumerate(shown.items()):
        top = 0.3 + 5.6 * i
        paper.text(left, top + 0.7, f"{title}: {1e3 * line.seconds:.1f} ms", at="left", bold=True)
        for row, name in enumerate(("computing", "messages")):
            paper.text(left - 0.4, top + 2.2 + 1.6 * row, name, at="right", size=_SMALL)
        _spans(paper, line, left, scale, [(top + 1.5, 1.4), (top + 3.1, 1.4)])
    paper.legend(_STREAMS, left, paper.height - 0.9, step=7.5)
    return paper.figure


def _spans(paper: Canvas, line: Timeline, left: float, scale: float, rows: Sequence[tuple[float, float]]) -> None:
    for span in line.spans:
        y, tall = rows[span.row]
        x, wide = left + span.start * scale, span.seconds * scale
        layer = str(span.facts["layer"])
        text = layer if wide > 0.7 else ""
        paper.box(x, y, wide - 0.05, tall, text, _STREAMS[span.kind], fill=0.45, size=_SMALL)


@drawing
def fsdp_life(tokens: int = 2048, layers: int = 4, ranks: int = 64) -> Figure:
    """A row a layer: when its weights are gathered, used, dropped and gathered again, and its gradients scattered."""
    line = streams(streams_job(3, tokens, ranks), layers)
    left, tall = 4.6, 1.5
    paper = Canvas(37, layers * (tall + 0.6) + 5.0)
    scale = (paper.width - left - 0.6) / line.seconds
    for layer in range(1, layers + 1):
        y = 1.9 + (layer - 1) * (tall + 0.6)
        paper.text(left - 0.4, y + tall / 2, f"layer {layer}", at="right", size=8.5)
        paper.line((left, y + tall), (paper.width - 0.6, y + tall), colour=GREY, width=0.5)
        mine = [span for span in line.spans if span.facts["layer"] == layer]
        for gather, used in zip(mine[0:4:2], mine[1:4:2], strict=True):
            start, end = left + gather.start * scale, left + used.end * scale
            paper.box(start, y - 0.2, end - start, tall + 0.2, colour=GREY, fill=0.2, dashed=True)
        for span in mine:
            x, wide = left + span.start * scale, span.seconds * scale
            paper.box(x, y, wide - 0.05, tall, colour=_STREAMS[span.kind], fill=0.5)
    paper.text(left, 0.8, "time; in the grey frames the whole layer is in memory", at="left", size=8.5)
    names = {"gather": GREEN, "forward": BLUE, "backward": ORANGE, "scatter gradients": PINK}
    paper.legend(names, left, paper.height - 1.1, step=7.4)
    return paper.figure


# -- tensor parallelism -----------------------------------------------------------------------


@drawing
def tensor_parallel_mlp(spec: str | ModelSpec = "llama-3-70b", tokens: int = 4096, tp: int = 2) -> Figure:
    """An MLP cut by columns, then by rows: what each rank multiplies, with shapes, and the sum that ends it."""
    chosen = model_of(spec)
    h, s = chosen.hidden, tokens
    part = next(t.into for t in chosen.layers[0].tensors if t.component == "mlp" and t.split == "row") // tp
    shapes = (
        ("X", s, h, GREY), ("A", h, part, BLUE), ("Z", s, part, ORANGE), ("B", part, h, BLUE), ("Y", s, h, GREEN),
    )  # fmt: skip
    unit = 5.4 / max(h, part, s)
    paper = Canvas(37, 2 * 9 + 3.6)
    for rank in range(2):
        y, x = 1.6 + rank * 9, 2.6
        paper.text(0.3, y + 2.8, f"rank {rank}", at="left", size=8.5, turned=True)
        for i, (name, rows, columns, colour) in enumerate(shapes):
            wide, tall = columns * unit, rows * unit
            label = name if name == "X" else f"{name}{rank + 1}"
            paper.box(x, y + 2.8 - tall / 2, wide, tall, label, colour, fill=0.3, bold=True)
            paper.text(x + wide / 2, y + 6.8, f"{rows:,}\n× {columns:,}", size=_SMALL)
            x += wide
            if i < len(shapes) - 1:
                paper.text(x + 0.85, y + 2.8, ("·", "→", "·", "→")[i], size=11)
            x += 1.7
    paper.arrow((x - 1.3, 4.4), (x - 1.3, 13.4), both=True)
    paper.text(x - 0.8, 8.9, "all-reduce\nY1 + Y2", at="left", size=8.5)
    top = f"{chosen.name}: A by columns, B by rows, in {tp} parts"
    paper.text(2.6, 0.7, top, at="left", bold=True)
    below = "Z = φ(X A): φ works on each number, so no message is needed before B"
    paper.text(2.6, paper.height - 0.9, below, at="left", size=_SMALL)
    return paper.figure


@drawing
def sequence_parallel(spec: str | ModelSpec = "llama-3-70b", tokens: int = 4096, tp: int = 8) -> Figure:
    """A layer under TP and under TP with SP: where messages lie, and the bytes that a rank sends in each."""
    chosen = model_of(spec)
    size = activation_message_bytes(batch=1, tokens=tokens, width=chosen.hidden, bytes_per_element=2)
    both = format_quantity(all_reduce_wire_bytes(size=size, ranks=tp), "bytes")
    half = format_quantity(all_gather_wire_bytes(size=size / tp, ranks=tp), "bytes")
    heads, part = chosen.heads // tp, tokens // tp
    whole, own = f"norm: {tokens:,} tokens", f"norm: {part:,} tokens"
    gather, scatter = (f"all-gather, {half}", GREEN), (f"reduce-scatter, {half}", PINK)
    reduce = (f"all-reduce, {both}", ORANGE)
    inside = [(f"attention: {heads} heads", BLUE), (f"MLP: 1/{tp} of f", BLUE)]
    columns = {
        f"TP, tp={tp}": [(whole, GREY), inside[0], reduce, (whole, GREY), inside[1], reduce],
        "TP with SP": [(own, LIGHT), gather, inside[0], scatter, (own, LIGHT), gather, inside[1], scatter],
    }
    paper = Canvas(36, 25.2)
    for i, (title, blocks) in enumerate(columns.items()):
        x = 0.8 + 18 * i
        paper.text(x + 8, 0.9, title, bold=True)
        step = 23.6 / len(blocks)
        for j, (text, colour) in enumerate(blocks):
            message = colour in (GREEN, PINK, ORANGE)
            y, inset = 2.0 + j * step, 0.0 if message else 2.0
            tall = 1.5 if message else 2.0
            paper.box(x + inset, y, 16 - 2 * inset, tall, text, colour, fill=0.35, size=8.5)
            if j < len(blocks) - 1:
                paper.arrow((x + 8, y + tall), (x + 8, y + step))
    return paper.figure


# -- pipelines --------------------------------------------------------------------------------

_ORDERS = {"gpipe": 1, "1f1b": 1, "interleaved": 2, "zero-bubble": 1}  # chunks of a stage
_TITLES = {"gpipe": "GPipe", "1f1b": "1F1B", "interleaved": "interleaved 1F1B", "zero-bubble": "zero bubble"}
_ACTIONS = {"F": BLUE, "B": ORANGE, "I": ORANGE, "W": GREEN}


def _tiles(paper: Canvas, places: Sequence[tuple[float, float, float, float]], colour: str) -> None:
    """Many boxes of a colour as one shape: a file of a tenth."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners = [((x, y), (x + wide, y), (x + wide, y + tall), (x, y + tall)) for x, y, wide, tall in places]
    shape = Path.make_compound_path(*(Path([*four, four[0]], closed=True) for four in corners))
    paper.axes.add_patch(PathPatch(shape, facecolor=(colour, 0.45), edgecolor=colour, linewidth=1.0))


@drawing
def pipeline_orders(
    orders: Mapping[str, tuple[tuple[Slot, ...], ...]] | None = None, stages: int = 4, micro_batches: int = 8
) -> Figure:
    """Four orders of a pipeline on one clock, with brackets for where the last stage waits.

    orders   name -> slots of each stage, as recorded; default: as predicted, of so many stages and micro-batches
    """
    found = orders or {
        name: time_slots(pipeline_actions(name, stages, chunks, micro_batches)) for name, chunks in _ORDERS.items()
    }
    count = len(next(iter(found.values())))
    high = count * 1.3 + 4.5
    paper, left = Canvas(37, len(found) * high + 1.6), 2.4
    ends = {name: max(s.end for row in slots for s in row) / _ORDERS.get(name, 1) for name, slots in found.items()}
    scale = (paper.width - left - 0.6) / max(ends.values())
    for i, (name, slots) in enumerate(found.items()):
        top, chunks = 0.2 + i * high, _ORDERS.get(name, 1)
        idle, length = idle_slots(slots)[-1] / chunks, max(s.end for row in slots for s in row) / chunks
        title = f"{_TITLES.get(name, name)}: waits {idle:g} of {length:g} slots, {idle / length:.0%}"
        paper.text(left, top + 0.8, title, at="left", bold=True)
        bars: dict[str, list[tuple[float, float, float, float]]] = {}
        for stage, row in enumerate(slots):
            y = top + 1.7 + 1.3 * stage
            paper.text(left - 0.9, y + 0.6, str(stage), size=_SMALL)
            for slot in row:
                x, wide = left + slot.start / chunks * scale, (slot.end - slot.start) / chunks * scale
                bars.setdefault(_ACTIONS[slot.action[0]], []).append((x, y, wide - 0.06, 1.15))
                if name in ("gpipe", "1f1b") and stage in (0, count - 1):
                    paper.text(x + wide / 2, y + 0.6, slot.action.partition(".")[2], size=_SMALL)
        for colour, places in bars.items():
            _tiles(paper, places, colour)
        last = slots[-1]
        under, end = top + 1.7 + 1.3 * count + 0.5, left + ends[name] * scale
        first, over = last[0].start / chunks, length - last[-1].end / chunks
        paper.bracket(left, left + first * scale, under, f"bubble: {first:g}", above=False)
        if over:
            paper.bracket(end - over * scale, end, under, f"bubble: {over:g}", above=False)
    paper.legend({"forward": BLUE, "backward": ORANGE, "gradients of weights": GREEN}, left, paper.height - 0.9)
    return paper.figure


# -- a cluster --------------------------------------------------------------------------------


@drawing
def three_dimensions(spec: str | ModelSpec = "llama-3-70b", tp: int = 8, pp: int = 2, dp: int = 2) -> Figure:
    """3D parallelism on a grid of nodes: TP inside, PP along a row, DP down a column; GiB that a rank sends a step."""
    chosen = model_of(spec)
    p = Parallelism(tp=tp, pp=pp, dp=dp, sequence_parallel=True)
    cluster = Cluster(accelerator("h100"), p.devices, inter_link=link("infiniband ndr"))
    job = TrainingJob(model=chosen, cluster=cluster, parallelism=p, seq_len=4096, global_batch=64)
    sent: dict[str, float] = {}
    for c in collectives_of(job):
        sent[c.axis] = sent.get(c.axis, 0.0) + c.wire_bytes / GIB
    wide, high, gap, down = 13.0, 5.6, 6.0, 4.0
    paper = Canvas(min(37.0, pp * wide + (pp - 1) * gap + 1.6), dp * high + (dp - 1) * down + 4.2)
    for row in range(dp):
        for column in range(pp):
            x, y = 0.8 + column * (wide + gap), 1.8 + row * (high + down)
            first = chosen.num_layers // pp * column
            paper.box(x, y, wide, high, colour=GREY, fill=0.1, round=True)
            text = f"layers {first} to {first + chosen.num_layers // pp - 1}"
            paper.text(x + wide / 2, y + 1.0, text, size=8.5, bold=True)
            for rank in range(tp):
                paper.box(x + 0.5 + rank * 12 / tp, y + 2.0, 12 / tp - 0.2, 1.6, str(rank), BLUE, fill=0.4, size=_SMALL)
            paper.text(x + wide / 2, y + 4.6, f"NVLink, TP: {sent['tp']:.0f} GiB", colour=BLUE, size=8.5)
            if column < pp - 1:
                mid = y + high / 2
                paper.arrow((x + wide, mid), (x + wide + gap, mid), colour=GREEN, both=True)
                paper.text(x + wide + gap / 2, mid - 1.4, f"PP:\n{sent['pp']:.1f} GiB", colour=GREEN, size=8.5)
            if row < dp - 1:
                mid = x + wide / 2
                paper.arrow((mid, y + high), (mid, y + high + down), colour=ORANGE, both=True)
                text = f"DP: {sent['dp']:.1f} GiB"
                paper.text(mid + 0.5, y + high + down / 2, text, at="left", colour=ORANGE, size=8.5)
    paper.text(paper.width / 2, 0.8, f"a frame: a node of {tp} cards; between nodes: InfiniBand", size=8.5)
    below = f"sent by a rank in a step of {job.batch} sequences, {chosen.name}"
    paper.text(paper.width / 2, paper.height - 0.9, below, size=8.5)
    return paper.figure
