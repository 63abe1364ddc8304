"""Drawings of serving: what a token leaves in the cache, what an engine does with a card, passes, batches, costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import llmhw
from llmhw.drawings.canvas import BLUE, GREEN, GREY, LIGHT, ORANGE, PINK, RED, Canvas, drawing
from llmhw.units import GIB, KIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from llmhw.job import ServingJob
    from llmhw.ownership import Ownership
    from llmhw.queueing import StepModel
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


def _eight() -> ServingJob:
    """The machine of chapter 10: Llama 3 70B in 16 bit on eight H100."""
    from llmhw.job import ServingJob

    return ServingJob(model=llmhw.model("llama-3-70b"), cluster=llmhw.Cluster("h100", 8), tp=8)


@drawing
def prefill_and_decode(tokens: int = 2000, loads: Sequence[int] = (1, 64, 256)) -> Figure:
    """What a pass reads and what it makes of it: a prompt, and decoding for some loads, as many tokens cached each."""
    spec = _eight().model
    weights, token = llmhw.weights(spec).total, llmhw.kv_cache_bytes_per_token(spec)
    passes = [(f"prefill of {tokens:,} tokens", 1, tokens, 0)]
    passes += [(f"decode for {n} user{'s' * (n > 1)}", n, 1, tokens) for n in loads]
    most = weights + max(loads) * tokens * token
    paper, wide = Canvas(36, 2.4 + 4.2 * len(passes)), 16.5
    paper.legend({"weights, read once": BLUE, "KV cache, read": GREEN, "a token computed": ORANGE}, 0.5, 0.9)
    for i, (name, sequences, each, past) in enumerate(passes):
        y, cached = 3.0 + 4.2 * i, sequences * past * token
        flops = llmhw.forward_flops(spec, batch=sequences, seq_len=each, past=past, causal=True, logits="last").total
        paper.text(0.5, y, name, at="left", bold=True)
        paper.box(0.5, y + 0.8, wide * weights / most, 1.7, f"{weights / GIB:.0f} GiB", BLUE)
        if cached:
            inside = f"{cached / GIB:.0f} GiB" if cached > most / 6 else ""
            paper.box(0.5 + wide * weights / most, y + 0.8, wide * cached / most, 1.7, inside, GREEN)
        right = 0.5 + wide * (weights + cached) / most
        paper.arrow((right + 0.3, y + 1.65), (18.2, y + 1.65))
        count = sequences * each
        squares = min(count, 40)
        for j in range(squares):
            paper.box(18.6 + 0.5 * (j % 20), y + 0.85 + 0.85 * (j // 20), 0.4, 0.7, colour=ORANGE, fill=0.5)
        if count > squares:
            paper.text(29.0, y + 1.3, f"... {count:,}", at="left", size=8.5)
        intensity = flops / (weights + cached + each * sequences * token)
        paper.text(29.0, y + 2.3, f"{intensity:,.0f} FLOP/B", at="left", size=8.5, bold=True)
    return paper.figure


@drawing
def step_at_loads(step: StepModel | None = None, context: int = 1500) -> Figure:
    """A step is what is paid once and what each sequence adds: at a quarter of the knee, at it, at twice and thrice."""
    if step is None:
        from llmhw.service import engine_for, step_model

        step = step_model(engine_for(_eight()), context=context, running=256)
    knee, each = step.knee(context), step.each_seconds(context)
    loads = [max(1, round(knee * share)) for share in (0.25, 1, 2, 3)]
    paper, scale = Canvas(36, 2.2 + 2.6 * len(loads)), 17 / (step.base_seconds + loads[-1] * each)
    paper.legend({"paid once: t0": BLUE, "each sequence adds t1": ORANGE}, 6.0, 0.9)
    for i, load in enumerate(loads):
        y, seconds = 2.2 + 2.6 * i, step.base_seconds + load * each
        paper.text(5.5, y + 0.9, f"{load} users", at="right", bold=load == loads[1])
        paper.box(6.0, y, scale * step.base_seconds, 1.8, f"{1e3 * step.base_seconds:.0f} ms", BLUE)
        label = f"{1e3 * load * each:.0f} ms" if scale * load * each > 3 else ""
        paper.box(6.0 + scale * step.base_seconds, y, scale * load * each, 1.8, label, ORANGE)
        share = load * each / seconds
        paper.text(23.6, y + 0.9, f"{load / seconds:,.0f} tokens/s, {share:.0%}", at="left", size=8.5)
    return paper.figure


@drawing
def speculation(draft: str = "llama-3.2-1b", guesses: int = 4, accepted: int = 2) -> Figure:
    """Plain decoding, and guessing ahead: the draft's passes, one pass that checks, what is kept; on one time axis."""
    from dataclasses import replace

    from llmhw.service import engine_for

    job = _eight()
    one = engine_for(job).seconds(decoding=1, context=1500)
    each = engine_for(replace(job, model=llmhw.model(draft))).seconds(decoding=1, context=1500)
    seconds, plain = one + guesses * each, accepted + 1
    paper, scale = Canvas(36, 13.0), 35 / (plain * one)
    paper.text(0.5, 0.9, f"plain: {plain} passes of {1e3 * one:.1f} ms, {plain} tokens", at="left", bold=True)
    for i in range(plain):
        paper.box(0.5 + i * scale * one, 1.9, scale * one - 0.15, 1.8, "large model", BLUE)
    told = f"guessing: {guesses} x {1e3 * each:.1f} ms and a pass, {accepted + 1} tokens in {1e3 * seconds:.1f} ms"
    paper.text(0.5, 5.3, told, at="left", bold=True)
    for i in range(guesses):
        paper.box(0.5 + i * scale * each, 6.3, scale * each - 0.1, 1.8, f"g{i + 1}", ORANGE)
    checked = 0.5 + guesses * scale * each
    paper.box(checked, 6.3, scale * one, 1.8, f"checks {guesses + 1} places", BLUE)
    for i in range(guesses + 1):
        kept = i < accepted
        colour, text = (GREEN, f"g{i + 1}") if kept else (BLUE, "own") if i == accepted else (GREY, "")
        x = 0.5 + 2.3 * i
        paper.box(x, 9.4, 2.1, 1.6, text or f"g{i}", colour, dashed=not text)
    paper.legend({"accepted": GREEN, "the large model's own": BLUE, "thrown away": GREY}, 0.5, 12.1)
    return paper.figure


@drawing
def tensor_parallel_or_replicas(sizes: Sequence[int] = (8, 4, 2)) -> Figure:
    """Eight cards as one engine or as several: which share of the weights each card reads in a step, who sends."""
    job = _eight()
    weights = llmhw.weights(job.model, "fp8").total
    paper = Canvas(36, 1.8 + 4.6 * len(sizes))
    paper.legend({"its share of the weights": BLUE, "two all-reduces a layer": ORANGE}, 0.5, 0.9)
    for i, tp in enumerate(sizes):
        y = 2.6 + 4.6 * i
        paper.text(0.5, y + 0.7, f"tp={tp}", at="left", bold=True)
        paper.text(0.5, y + 1.8, f"x {8 // tp}", at="left", bold=True)
        for card in range(8):
            x = 4.2 + 4.0 * card
            paper.box(x, y, 3.5, 2.2, f"{weights / tp / GIB:.0f} GiB", BLUE, fill=min(0.45, 0.9 / tp))
            if card % tp == 0:
                end = x + 4.0 * (tp - 1) + 3.5
                paper.arrow((x, y + 2.9), (end, y + 2.9), colour=ORANGE, both=True)
    return paper.figure


@drawing
def triton_ensemble() -> Figure:
    """Triton in front of a language model: an ensemble of three models, and where each kind of batch is made."""
    paper = Canvas(36, 13.4)
    paper.box(0.3, 1.8, 35.4, 7.8, colour=GREY, fill=0.0, dashed=True)
    paper.text(18, 0.9, "Triton Inference Server: an ensemble", bold=True)
    steps = (("text to tokens", "CPU", ORANGE), ("the engine", "GPU", BLUE), ("tokens to text", "CPU", ORANGE))
    for i, (name, where, colour) in enumerate(steps):
        x = 3.6 + 10.4 * i
        paper.box(x, 3.0, 8.0, 2.6, f"{name}\n{where}", colour)
        if i:
            paper.arrow((x - 2.4, 4.3), (x, 4.3))
    paper.arrow((0.6, 4.3), (3.6, 4.3))
    paper.arrow((32.4, 4.3), (35.4, 4.3))
    paper.text(7.6, 6.6, "dynamic batcher:", size=8.5)
    paper.text(7.6, 7.8, "whole requests", size=8.5)
    paper.text(18.0, 6.6, "in-flight batching:", size=8.5)
    paper.text(18.0, 7.8, "at every step", size=8.5)
    paper.text(28.4, 6.6, "token by token", size=8.5)
    paper.text(0.5, 10.9, "right: one pass a request, all equally long", at="left", colour=ORANGE)
    paper.text(0.5, 12.3, "right: many steps, and nobody knows how many", at="left", colour=BLUE)
    return paper.figure


@drawing
def clustered_arrivals(load: float = 0.8, requests: int = 14, seed: int = 4) -> Figure:
    """Why requests wait before a machine is full: the same load evenly spaced and at random, service blocks below."""
    from random import Random

    random, service = Random(seed), 1.0
    even = [i / load for i in range(requests)]
    chance, now = list[float](), 0.0
    for _ in range(requests):
        chance.append(now)
        now += random.expovariate(load)
    paper = Canvas(36, 12.6)
    scale = 34 / max(even[-1] + 1, chance[-1] + 1, requests / load)
    for top, name, times in ((0.9, "evenly", even), (6.7, "at random", chance)):
        free, waited = 0.0, 0.0
        for at in times:
            begins = max(at, free)
            x, y = 1.0 + scale * at, top + 1.1
            paper.line((x, y), (x, y + 0.9), colour=ORANGE, width=1.6)
            if begins > at:
                paper.line((x, y + 0.9), (1.0 + scale * begins, y + 2.0), colour=ORANGE, dashed=True, width=0.7)
            paper.box(1.0 + scale * begins, y + 2.0, 0.94 * scale * service, 1.2, colour=BLUE)
            waited, free = waited + begins - at, begins + service
        told = f"{name}, load {load:.0%}: each waits {waited / len(times):.1f} service times on average"
        paper.text(1.0, top, told, at="left", bold=True)
    paper.legend({"a request comes": ORANGE, "it is served": BLUE}, 1.0, 11.9)
    return paper.figure


@drawing
def bill_of_a_run(
    model: str = "llama-3.1-405b", card: str = "h100", tokens: float = 15.6e12, mfu: float = 0.4
) -> Figure:
    """From parameters and tokens to dollars: three quotients, each with its unit, for one run."""
    active, device = llmhw.model(model).parameters.active, llmhw.accelerator(card)
    flops = 6 * active * tokens
    hours = flops / (mfu * device.peak("bf16")) / 3600
    price = min(p.dollars_per_device_hour for p in device.prices if p.kind == "on_demand")
    rows = (
        (
            "6 FLOP",
            f"x {active / 1e9:,.0f} billion parameters",
            f"x {tokens / 1e12:,.1f} T tokens",
            f"{flops:.1e} FLOP",
        ),
        (
            "the work",
            f"/ {mfu:.0%} of {device.peak('bf16') / 1e12:,.0f} TFLOP/s",
            "/ 3,600 s",
            f"{hours / 1e6:,.1f} M h",
        ),
        ("the hours", f"x ${price:.2f} an hour", "if nothing fails", f"${hours * price / 1e6:,.0f} M"),
    )
    paper = Canvas(36, 12.6)
    for i, (first, second, third, result) in enumerate(rows):
        y, colour = 0.6 + 4.2 * i, (BLUE, ORANGE, GREEN)[i]
        for x, width, text in ((0.3, 6.0, first), (6.7, 13.2, second), (20.3, 7.2, third)):
            paper.box(x, y, width, 2.2, text, GREY, fill=0.12, size=8.5)
        paper.box(29.0, y, 6.8, 2.2, result, colour, bold=True, size=8.5)
        paper.arrow((27.6, y + 1.1), (28.9, y + 1.1))
        if i < 2:
            paper.line((32.4, y + 2.2), (32.4, y + 3.2), (3.3, y + 3.2), colour=colour)
            paper.arrow((3.3, y + 3.2), (3.3, y + 4.2), colour=colour)
    return paper.figure


@drawing
def watts_of_a_device(card: str = "h100") -> Figure:
    """What a training device draws from the grid: its board's share, its part of the host, and the building's."""
    from llmhw.cost import HOST, POWER

    board = POWER.value * llmhw.accelerator(card).tdp_watts
    whole = board + HOST.value
    pue = next(float(line.split("=")[1].split(":")[0]) for line in _assumed() if line.startswith("pue="))
    parts = (
        (f"{POWER.value:.0%} of the board", board, BLUE),
        ("its host", HOST.value, ORANGE),
        ("the building", whole * (pue - 1), GREY),
    )
    paper, x, scale = Canvas(36, 7.4), 0.5, 35 / (whole * pue)
    for _name, watts, colour in parts:
        paper.box(x, 0.6, watts * scale, 2.2, f"{watts:,.0f} W", colour)
        x += watts * scale
    paper.bracket(0.5, 0.5 + whole * scale, 3.3, f"the machine, {whole:,.0f} W a device", above=False)
    paper.legend({name: colour for name, _, colour in parts}, 0.5, 6.5)
    return paper.figure


def _assumed() -> list[str]:
    """What owning eight H100 assumes, a value a line."""
    from llmhw.ownership import rent_or_buy

    return [line.removeprefix("assumed ") for line in rent_or_buy(llmhw.Cluster("h100", 8), months=18).footer()]


@drawing
def owned_node(plan: Ownership | None = None) -> Figure:
    """What owning a machine costs for some months, part by part, beside the rent of the same hours."""
    if plan is None:
        from llmhw.ownership import rent_or_buy

        plan = rent_or_buy(llmhw.Cluster("h100", 8), months=18, utilization=0.6)
    colours = (BLUE, LIGHT, ORANGE, RED, GREEN, PINK)
    parts = {name: float(plan.owned[name]) for name, _, _ in plan.rows() if name != "total"}
    rent = plan.chosen.dollars if plan.chosen else 0.0
    paper, scale = Canvas(36, 14.0), 35 / max(plan.dollars, rent)
    paper.text(0.5, 0.9, f"owning for {plan.months:.0f} months: ${plan.dollars:,.0f}", at="left", bold=True)
    x = 0.5
    for (_name, value), colour in zip(parts.items(), colours, strict=False):
        paper.box(x, 1.9, value * scale, 2.2, colour=colour)
        x += value * scale
    for i, ((name, value), colour) in enumerate(zip(parts.items(), colours, strict=False)):
        paper.legend({f"{name}: ${value:,.0f}": colour}, 0.5 + 18 * (i % 2), 5.5 + 1.3 * (i // 2))
    paper.text(0.5, 10.2, f"renting the hours that are used: ${rent:,.0f}", at="left", bold=True)
    paper.box(0.5, 11.2, rent * scale, 2.2, colour=GREY)
    return paper.figure


@drawing
def funnel(model: str = "llama-3-70b", card: str = "h100", devices: int = 64) -> Figure:
    """How a search picks a layout: all combinations, those that are valid, those that fit, the fastest."""
    from llmhw.job import TrainingJob
    from llmhw.search import search

    place = llmhw.Cluster(card, devices, inter_link="infiniband ndr")
    job = TrainingJob(model=llmhw.model(model), cluster=place, kernels="megatron", global_batch=64)
    found = search(job, best=1)
    rows = (
        (f"{found.tried:,} combinations", "of tp, pp, vpp, cp, ep, ZeRO, micro-batch, recompute", GREY),
        (f"{found.valid:,} are valid", "they divide heads, layers, batch and devices", LIGHT),
        (f"{found.fitting:,} fit", f"into {devices} x {place.accelerator.name}", BLUE),
        (f"the fastest: {found.best[0].seconds:.2f} s a step", f"{model}", GREEN),
    )
    paper = Canvas(36, 14.4)
    for i, (many, why, colour) in enumerate(rows):
        wide, y = 34.0 - 5.0 * i, 0.5 + 3.6 * i
        paper.box(18 - wide / 2, y, wide, 2.6, f"{many}\n{why}" if i < 3 else many, colour)
        if i < 3:
            paper.arrow((18, y + 2.6), (18, y + 3.6))
    return paper.figure


@drawing
def buyers(found: Mapping[str, Sequence[str]] | None = None) -> Figure:
    """Three buyers, the question that decides for each, and what a plan answers.

    found   buyer -> the job, the limit that decides, the answer in one or two lines; default: from memory alone
    """
    if found is None:
        card, params = llmhw.accelerator("h100"), llmhw.model("llama-3-70b").parameters.total
        serve, train = (-(-params * each // card.memory_bytes) for each in (2, 16))
        found = {
            "serving": ("70B in 16 bit", "memory", f"at least {serve:.0f} x H100\nfor the weights"),
            "training": ("all of 70B", "memory", f"at least {train:.0f} x H100\nfor the states"),
        }
    colours = (BLUE, ORANGE, GREEN)
    paper = Canvas(36, 2.2 + 4.6 * len(found))
    for x, head in ((3.6, "who"), (11.4, "the job"), (19.6, "what decides"), (29.8, "the plan's answer")):
        paper.text(x, 0.9, head, bold=True)
    for i, ((who, (job, limit, answer)), colour) in enumerate(zip(found.items(), colours, strict=False)):
        y = 2.2 + 4.6 * i
        for x, width, text in ((0.3, 6.6, who), (7.9, 7.0, job), (15.9, 7.4, limit)):
            paper.box(x, y, width, 3.4, text, colour, fill=0.15, size=8.5)
            paper.arrow((x + width, y + 1.7), (x + width + 1.0, y + 1.7))
        paper.box(24.3, y, 11.4, 3.4, answer, colour, size=8.5, bold=True)
    return paper.figure
