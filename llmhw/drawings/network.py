"""Drawings of a cluster: its wires, what a group of ranks gets of them, messages between nodes, where axes lie."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import cos, log2, pi, sin
from typing import TYPE_CHECKING, Any

from llmhw.drawings.canvas import BLUE, GREEN, GREY, LIGHT, ORANGE, PINK, RED, Canvas, drawing
from llmhw.hardware import Cluster, instance
from llmhw.job import Parallelism, TrainingJob
from llmhw.messages import group_bandwidth, nodes_reached
from llmhw.model import model
from llmhw.planning.simplest import KINDS, simplest
from llmhw.sharding import context_chunks, context_pairs
from llmhw.units import GB
from llmhw.validation.layouts import published_layouts as _published

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MACHINE = "Standard_ND96isr_H100_v5"
_RAILS = (BLUE, ORANGE, GREEN, PINK, LIGHT, RED, GREY, "#B8A500")
AXES = {"tp": BLUE, "cp": PINK, "pp": ORANGE, "dp": GREEN}


def _rates(cluster: Cluster) -> tuple[float, float]:
    """Bytes per second of a device inside its node, and of its adapter."""
    inside = cluster.link_for(cluster.devices_per_node)
    return inside.bytes_per_second, cluster.link_for(cluster.devices).bytes_per_second


@drawing
def two_nodes(machine: str = _MACHINE) -> Figure:
    """Two nodes of a cluster: cards on NVLink, an adapter each, a leaf switch for each rail, spines above."""
    cluster = instance(machine).cluster(nodes=2)
    count, (inside, between) = cluster.devices_per_node, _rates(cluster)
    paper = Canvas(37, 22)
    wide, step = 17.4, 16.6 / count
    leaf = [1.0 + i * 35.2 / count for i in range(count)]
    for node, left in enumerate((0.4, 19.2)):
        paper.box(left, 0.4, wide, 9.4, colour=GREY, fill=0.06)
        paper.text(left + wide / 2, 1.3, f"node {node}: {count} x {cluster.accelerator.name}", bold=True)
        paper.box(left + 0.5, 2.4, wide - 1, 1.6, f"NVLink: {inside / GB:.0f} GB/s for each card", BLUE)
        for i in range(count):
            x = left + 0.5 + i * step
            paper.line((x + step / 2 - 0.1, 4.0), (x + step / 2 - 0.1, 5.0), colour=BLUE)
            paper.box(x, 5.0, step - 0.25, 1.8, str(i), GREY, fill=0.3)
            paper.line((x + step / 2 - 0.1, 6.8), (x + step / 2 - 0.1, 7.6), colour=_RAILS[i % 8])
            paper.box(x + 0.2, 7.6, step - 0.65, 1.4, "", _RAILS[i % 8], fill=0.6)
            paper.line((x + step / 2 - 0.1, 9.0), (leaf[i] + 1.8, 13.2), colour=_RAILS[i % 8])
    for i, x in enumerate(leaf):
        paper.box(x, 13.2, 3.6, 1.6, f"leaf {i}", _RAILS[i % 8])
        paper.line((x + 1.8, 14.8), (x + 1.8, 16.4), colour=GREY)
    paper.box(1.0, 16.4, 34.9, 1.6, "spine switches join the leaves, and pods of nodes", GREY)
    paper.text(
        18.5, 19.4, f"{count} rails: together they carry {count} x {between / GB:.0f} = "
        f"{count * between / GB:.0f} GB/s, beside NVLink's {inside / GB:.0f}", bold=True,
    )  # fmt: skip
    paper.text(18.5, 20.9, "numbered: cards; coloured: adapters, those of one number on one leaf", size=8.5)
    return paper.figure


@drawing
def ranks_in_nodes(machine: str = _MACHINE, ranks: int = 8) -> Figure:
    """One group of ranks placed in ever more nodes: its ring has the adapters of as many ranks as share a node."""
    cluster = instance(machine).cluster(nodes=ranks)
    count, (inside, between) = cluster.devices_per_node, _rates(cluster)
    rows = [local for local in (8, 4, 2, 1) if local <= min(ranks, count)]
    paper = Canvas(36.5, 0.4 + 4.1 * (len(rows) + 1))
    y = 1.2
    whole = (2 * count, count)
    for group, local in [(ranks, local) for local in rows] + [whole]:
        nodes, alone = group // local, group <= local
        rate = inside if alone else group_bandwidth(
            local_ranks=local, inside_bytes_per_second=inside, between_bytes_per_second=between
        )  # fmt: skip
        where = "in one node" if alone else f"{local} in each of {nodes} nodes"
        ways = "NVLink" if alone else f"{local} adapter{'s' * (local > 1)} a node"
        paper.text(0.3, y, f"{group} ranks, {where}: {ways}, {rate / GB:.0f} GB/s", at="left", bold=True)
        for node in range(nodes):
            left = 0.3 + 4.5 * node
            paper.box(left, y + 0.8, 4.1, 1.1, colour=GREY, fill=0.06)
            for i in range(count):
                mine = i < local
                paper.box(left + 0.15 + i * 3.84 / count, y + 1.0, 0.36, 0.7, colour=BLUE if mine else GREY,
                          fill=0.7 if mine else 0.0)  # fmt: skip
                if mine and not alone:
                    x = left + 0.33 + i * 3.84 / count
                    paper.line((x, y + 1.9), (x, y + 2.5), colour=ORANGE, width=1.6)
        if not alone:
            paper.line((0.3, y + 2.5), (0.3 + 4.5 * nodes - 0.4, y + 2.5), colour=ORANGE)
        y += 4.1
    return paper.figure


@drawing
def ring_and_tree(nodes: int = 8) -> Figure:
    """An all-reduce over nodes as a ring, whose hops wait for each other, and as a tree, up and down."""
    levels = round(log2(nodes))
    paper = Canvas(37, 18)
    paper.text(8.5, 0.9, "ring", bold=True)
    places = [(8.5 + 5.6 * sin(2 * pi * i / nodes), 8.0 - 5.6 * cos(2 * pi * i / nodes)) for i in range(nodes)]
    for i, (x, y) in enumerate(places):
        ahead = places[(i + 1) % nodes]
        way = ((ahead[0] - x) / 1.0, (ahead[1] - y) / 1.0)
        length = (way[0] ** 2 + way[1] ** 2) ** 0.5
        short = 1.15 / length
        paper.arrow((x + way[0] * short, y + way[1] * short), (ahead[0] - way[0] * short, ahead[1] - way[1] * short),
                    colour=BLUE)  # fmt: skip
        paper.box(x - 0.8, y - 0.8, 1.6, 1.6, str(i), BLUE)
    hops = 2 * (nodes - 1)
    paper.text(8.5, 15.6, f"2 x ({nodes} - 1) = {hops} hops in turn,", size=8.5)
    paper.text(8.5, 16.9, f"1/{nodes} of the bytes each: full rate", size=8.5)
    paper.text(28, 0.9, "tree", bold=True)
    spread, heights = 16.0 / nodes, [13.0 - level * 3.4 for level in range(levels + 1)]
    xs = [20.8 + spread * i for i in range(nodes)]
    for level in range(levels):
        stride = 2**level
        for i in range(0, nodes, 2 * stride):
            low, high = heights[level], heights[level + 1]
            for child in (i, i + stride):
                paper.arrow((xs[child], low - 0.8), (xs[i], high + 0.8), colour=GREEN, both=True)
            paper.box(xs[i] - 0.7, high - 0.7, 1.4, 1.4, str(i), GREEN)
    for i, x in enumerate(xs):
        paper.box(x - 0.7, heights[0] - 0.7, 1.4, 1.4, str(i), GREEN)
    paper.text(28, 15.6, f"2 x {levels} levels: sums up, then down,", size=8.5)
    paper.text(28, 16.9, "all bytes on each: about half the rate", size=8.5)
    return paper.figure


@drawing
def ring_attention(ranks: int = 4) -> Figure:
    """Context parallelism: keys and values go round, queries stay; and how a causal mask is dealt out evenly."""
    colours = (BLUE, ORANGE, GREEN, PINK)
    paper = Canvas(37, 31)
    paper.text(0.4, 0.9, "queries stay, keys and values go round: what each rank multiplies", at="left", bold=True)
    for step in range(ranks):
        left = 6.4 + 7.6 * step
        paper.text(left + 2.6, 2.5, f"step {step}", size=8.5)
        for rank in range(ranks):
            y, held = 3.4 + 1.9 * rank, (rank - step) % ranks
            paper.box(left, y, 2.3, 1.5, f"Q{rank}", colours[rank % 4])
            paper.box(left + 2.5, y, 2.7, 1.5, f"KV{held}", colours[held % 4], dashed=held > rank)
        if step:
            paper.arrow((left - 2.2, 7.0), (left - 0.2, 7.0))
    for rank in range(ranks):
        paper.text(0.4, 4.15 + 1.9 * rank, f"rank {rank}", at="left")
    paper.text(0.4, 12.0, "dashed: all of it lies in the future of these queries, and is skipped", at="left", size=8.5)
    paper.text(0.4, 14.2, "who computes what of the causal mask; rows: queries, columns: keys", at="left", bold=True)
    size, chunks = 1.25, 2 * ranks
    for left, zigzag, name in ((4.2, False, "in order"), (22.8, True, "zigzag")):
        paper.text(left + size * chunks / 2, 15.8, name, bold=True)
        owner = {chunk: rank for rank in range(ranks) for chunk in context_chunks(rank, ranks, zigzag=zigzag)}
        rows = [[colours[owner[q] % 4] if k <= q else "" for k in range(chunks)] for q in range(chunks)]
        paper.cells(left, 16.8, size, rows, fill=0.5)
        for q in range(chunks):
            paper.text(left - 0.4, 17.4 + size * q, str(q), at="right", size=8.5)
        pairs = context_pairs(ranks, zigzag=zigzag)
        slow = max(pairs) * ranks / sum(pairs)
        said = ", ".join(f"{share:.0%}" for share in (p / sum(pairs) for p in pairs))
        middle = left + size * chunks / 2
        paper.text(middle, 28.2, f"ranks 0 to {ranks - 1}: {said}", size=8.5)
        paper.text(middle, 29.6, f"slowest rank: {slow:.2f} x the mean", size=8.5)
    return paper.figure


@drawing
def expert_exchange(experts: int = 8, nodes: int = 8, limit: int = 4) -> Figure:
    """All-to-all to the experts: before and after, and what one token sends to nodes under three rules."""
    colours = (BLUE, ORANGE, GREEN, PINK)
    before = [[colours[i]] * 4 for i in range(4)]
    paper = Canvas(37, 29)
    paper.text(0.4, 0.9, "all-to-all: every rank has rows for every rank", at="left", bold=True)
    for left, rows, name in ((9.0, before, "each rank's tokens"), (23.0, [list(colours)] * 4, "each rank's experts")):
        paper.cells(left, 2.0, 1.5, rows)
        paper.text(left + 3.0, 9.0, name, size=8.5)
        for rank in range(4):
            paper.text(left - 0.5, 2.7 + 1.5 * rank, f"rank {rank}", at="right", size=8.5)
    paper.arrow((15.8, 4.9), (18.9, 4.9))
    paper.text(17.4, 6.2, "and back", size=8.5)
    paper.text(0.4, 11.4, f"one token and its {experts} experts, over {nodes} nodes", at="left", bold=True)
    free, kept = [0, 0, 1, 3, 4, 4, 6, 7], [0, 0, 1, 1, 3, 3, 3, 6]
    rules = (
        ("a copy for each expert", free, len([n for n in free if n]), experts * (nodes - 1) / nodes),
        ("a copy for each node", free, len({*free} - {0}), _crossing(nodes, nodes, experts)),
        (f"at most {limit} nodes", kept, len({*kept} - {0}), _crossing(nodes, limit, experts)),
    )
    for row, (name, picks, sent, mean) in enumerate(rules):
        y = 13.4 + 5.2 * row
        paper.text(0.4, y, f"{name}: {sent} copies leave the node here, {mean:.1f} on average", at="left", size=9)
        for node in range(nodes):
            left = 0.4 + 4.55 * node
            hit = picks.count(node)
            paper.box(left, y + 0.9, 4.1, 2.2, colour=BLUE if hit else GREY, fill=0.12 if hit else 0.0)
            paper.text(left + 2.05, y + 3.8, f"node {node}", size=8.5, colour=BLUE if hit else GREY)
            for i in range(hit):
                paper.box(left + 0.3 + 1.2 * i, y + 1.4, 1.0, 1.2, colour=ORANGE, fill=0.6)
    return paper.figure


def _crossing(nodes: int, limit: int, picks: int) -> float:
    """Nodes other than its own that a token is sent to, on average."""
    return float(nodes_reached(nodes=limit, picks=picks) * (nodes - 1) / nodes)


@cache
def _examples() -> dict[str, TrainingJob]:
    """A job for each kind of layout, on nodes of eight H100."""
    sizes = {
        "1B on 8": ("llama-3.2-1b", 8, 256, 8192),
        "70B on 512": ("llama-3-70b", 512, 2048, 8192),
        "8B, 128K, on 64": ("llama-3-8b", 64, 32, 131072),
        "405B on 16,384": ("llama-3.1-405b", 16384, 2048, 8192),
    }
    jobs = {}
    for name, (spec, cards, batch, tokens) in sizes.items():
        cluster, dp = instance(_MACHINE).cluster(nodes=cards // 8), min(batch, cards)
        split = Parallelism(dp=dp // 16 if cards > batch else dp, tp=max(1, 16 * cards // dp) if cards > batch else 1)
        jobs[name] = TrainingJob(
            model=model(spec), cluster=cluster, parallelism=split, global_batch=batch, seq_len=tokens,
            precision="bf16-mixed-fp32-grads",
        )  # fmt: skip
    return jobs


@drawing
def which_layout(jobs: Mapping[str, TrainingJob] | None = None) -> Figure:
    """A decision tree to the simplest kind of layout, with jobs that go each way and their numbers.

    jobs   name -> job; default: one for each kind
    """
    found = {name: simplest(job) for name, job in (jobs or _examples()).items()}
    plain, fsdp, cut, staged = KINDS
    asks = (
        ("Do all states of a copy\nfit on one card?", plain),
        ("Fewer tokens a card and\nstep than $P/W_{net}$, by which\ngathered weights hide?", staged),
        ("Does FSDP fit, with a whole\nsequence on each card?", fsdp),
    )
    paper = Canvas(37, 22.5)
    for y, (question, kind) in zip((0.6, 6.6, 12.6), asks, strict=True):
        paper.box(0.4, y, 14.4, 4.2, question, ORANGE, round=True)
        paper.arrow((14.8, y + 2.1), (17.4, y + 2.1), "yes")
        _leaf(paper, y + 2.1, kind, found)
        below = y + 6.0 if kind != fsdp else y + 7.3
        if kind != fsdp:
            paper.arrow((7.6, y + 4.2), (7.6, below))
        paper.text(8.4, y + 5.0, "no", at="left", size=8.5)
    paper.line((7.6, 16.8), (7.6, below))
    paper.arrow((7.6, below), (17.4, below))
    _leaf(paper, below, cut, found)
    return paper.figure


def _leaf(paper: Canvas, middle: float, kind: str, found: Mapping[str, Any]) -> None:
    """A kind of layout, and the jobs that it is the simplest for."""
    mine = {name: answer for name, answer in found.items() if answer.kind == kind}
    high = 2.0 + 1.3 * len(mine)
    top = middle - high / 2
    paper.box(17.4, top, 19.2, high, colour=GREEN, round=True)
    paper.text(17.9, top + 1.0, kind, at="left", bold=True, size=8.5)
    for i, (name, answer) in enumerate(mine.items()):
        text = f"{name}: {answer.tokens:,.0f} tokens ($P/W_{{net}}$: {answer.needed:,.0f})"
        paper.text(17.9, top + 2.3 + 1.3 * i, text, at="left", size=8)


def _short(name: str) -> str:
    return name.removeprefix("Llama 3 ").replace("-A3B", "")


@drawing
def where_axes_lie() -> Figure:
    """Published layouts of training, each axis as long as its doublings, from the inside out; where a node ends."""
    layouts = _published("training")
    paper = Canvas(37, 4.6 + 1.5 * len(layouts))
    left, unit = 13.8, 1.53
    paper.legend({"tp": BLUE, "cp": PINK, "dp": GREEN, "pp": ORANGE}, left, 0.9, step=3.6)
    paper.text(left + 15, 0.9, "| a node ends", at="left", size=8.5)
    for row, layout in enumerate(layouts):
        job, y = layout.job, 2.2 + 1.5 * row
        p = job.parallelism
        paper.text(left - 0.4, y + 0.55, _short(layout.name), at="right", size=8.5)
        x = left
        for axis, size in (("tp", p.tp), ("cp", p.cp), ("dp", p.dp), ("pp", p.pp)):
            wide = unit * log2(size)
            if wide:
                paper.box(x, y, wide, 1.1, colour=AXES[axis])
            if wide > 1.2:
                paper.text(x + 0.35, y + 0.55, str(size), at="left", size=8)
            x += wide
        if p.ep > 1:
            paper.text(x + 0.4, y + 0.55, f"ep {p.ep}", at="left", size=8.5)
        node = left + unit * log2(job.cluster.devices_per_node)
        if job.cluster.devices > job.cluster.devices_per_node:
            paper.line((node, y - 0.2), (node, y + 1.3), width=2.2)
    y = 2.6 + 1.5 * len(layouts)
    for doublings in range(0, 15, 2):
        paper.text(left + unit * doublings, y, f"{2**doublings:,}", size=8)
    paper.text(left + unit * 7, y + 1.2, "devices, tp innermost; each doubling is as long", size=8.5)
    return paper.figure
