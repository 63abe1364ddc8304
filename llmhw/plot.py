"""Figures of answers and of the book, legible in light and in dark pages. Needs matplotlib (extra `plot`).

`memory`, `train`, `serve`, `simulate`, `cost` and `validate` draw what the commands of these names answer. Every
function returns a matplotlib Figure; notebooks show it with `plt.show()`, and `write` puts it into a file. `style` sets
how all of them look. Axes are as wide as what they hold: bars, lines of capacities and limits, and the labels of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from math import isfinite
from os import PathLike
from typing import TYPE_CHECKING, Any

from llmhw.formula import Estimate
from llmhw.hardware import Accelerator
from llmhw.training import JobMemory, TrainingEstimate
from llmhw.units import GIB, KIB, MIB, LLMHWError, check_count, format_quantity, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmhw.ownership import Ownership, Swing
    from llmhw.service import ServingEstimate, SimulatedService
    from llmhw.simulation import PageTable, RequestTrace, SimulationResult, Spread
    from llmhw.validation import Validation

# Okabe and Ito's palette: distinguishable for colour-blind readers, on white and on dark grey.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#B8A500")
WIDTH = 6.0  # inches: on a phone, where it is shown at 60 %, letters of 10 points can still be read
INK = "#767676"  # contrast of at least 4.5 to 1 on white, and legible on the dark theme's background


def style() -> None:
    """Set the style of all figures: transparent background, mid-grey ink, colour-blind-safe palette."""
    matplotlib = _matplotlib()
    from cycler import cycler

    inked = ("axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "grid.color", "text.color")
    looks: dict[Any, Any] = {
        **dict.fromkeys((*inked, "xtick.color", "ytick.color"), INK),
        **dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor"), "none"),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
        **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
        "axes.prop_cycle": cycler(color=PALETTE),
        "figure.figsize": (WIDTH, 3.4),
        "figure.dpi": 110,
        "grid.alpha": 0.25,
        "font.size": 10,
        "svg.hashsalt": "llmhw",  # the same figure is the same file
        "svg.fonttype": "none",  # letters stay letters, which a page can colour, find and read aloud
    }
    matplotlib.rcParams.update(looks)
    _sharp_in_notebooks()


def _sharp_in_notebooks() -> None:
    """Notebooks hold figures as drawings, sharp at any size, without the date that would make every run a change."""
    import sys

    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise LLMHWError("figures need matplotlib; install it with: pip install 'llmhw[plot]'") from None
    return matplotlib


FORMS = ("svg", "png", "pdf")


def write(figure: Figure, path: str | PathLike[str], *, inputs: Iterable[str | PathLike[str]] = ()) -> None:
    """Write a figure to a file, whole or not at all, in the form that the file's ending says: svg, png or pdf.

    inputs   files that the figure was made from, which are never written onto

    Raises `LLMHWError` for another ending, and if the path cannot be written.
    """
    from io import BytesIO

    from llmhw.files import check_output, write_whole

    check_output(path, inputs)
    form = str(path).rpartition(".")[2].lower()
    if form not in FORMS:
        raise LLMHWError(f"path={shown(str(path))} must end in .{', .'.join(FORMS)}")
    made = BytesIO()
    figure.savefig(made, format=form, dpi=160, metadata={} if form == "png" else {_DATES[form]: None})
    write_whole(path, made.getvalue, inputs=inputs)


# What matplotlib calls the date of a file, which would make every one different.
_DATES = {"svg": "Date", "pdf": "CreationDate"}


def _figure(height: float, ax: Any = None) -> tuple[Figure, Any]:
    """A new figure with its axes, or those that are given."""
    _matplotlib()
    if ax is not None:
        return ax.get_figure(), ax
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(WIDTH, height), layout="constrained")
    return figure, axes


def _hold(figure: Figure, axes: Any) -> Figure:
    """Widen the axes until they hold all labels that were put at places of theirs."""
    for _ in range(4):
        figure.draw_without_rendering()
        box, found = axes.get_window_extent(), [text.get_window_extent() for text in axes.texts if text.get_text()]
        # a label above the axes, on purpose, counts by its width only
        left, right = min((t.x0 for t in found), default=box.x0), max((t.x1 for t in found), default=box.x1)
        inner = [t for t in found if t.y0 < box.y1 - 1]
        low, high = min((t.y0 for t in inner), default=box.y0), max((t.y1 for t in inner), default=box.y1)
        if left >= box.x0 - 1 and right <= box.x1 + 1 and low >= box.y0 - 1 and high <= box.y1 + 1:
            break
        # in the axes' own scale, so that it works on logarithmic ones
        for name, before, after, size in (
            ("x", max(0.0, box.x0 - left), max(0.0, right - box.x1), box.width),
            ("y", max(0.0, box.y0 - low), max(0.0, high - box.y1), box.height),
        ):
            _widen(axes, name, 1.1 * before / size, 1.1 * after / size)
    return figure


def _widen(axes: Any, name: str, before: float, after: float) -> None:
    """Move the ends of an axis by these shares of it."""
    if before <= 0 and after <= 0:
        return
    transform = getattr(axes, f"{name}axis").get_transform()
    start, end = transform.transform(getattr(axes, f"get_{name}lim")())
    ends = (start - before * (end - start), end + after * (end - start))
    getattr(axes, f"set_{name}lim")(*transform.inverted().transform(ends))


def _check_shown(name: str, values: Iterable[float], *, above: bool = False) -> None:
    """Raise `LLMHWError` for what has no place on an axis."""
    for value in values:
        if not isfinite(value) or (above and value <= 0):
            rule = "above 0 on a logarithmic axis" if above else "finite"
            raise LLMHWError(f"{name}={value!r} cannot be drawn; it must be {rule}")


def _stacked(axes: Any, labels: Sequence[str], parts: Iterable[tuple[str, Sequence[float], str]]) -> list[float]:
    """Draw bars, the first label on top, of parts: name, a width for each bar, colour. Returns where the bars end."""
    if not labels:
        raise LLMHWError("estimates={} has nothing to draw; give at least one")
    ends = [0.0] * len(labels)
    for name, widths, colour in parts:
        axes.barh(labels, widths, left=ends, label=name, color=colour)
        ends = [a + b for a, b in zip(ends, widths, strict=True)]
    if not any(ends):
        axes.barh(labels, ends)  # nothing to see, but a place for each label
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return ends


def _points(axes: Any, points: Mapping[str, float] | None, at: float) -> None:
    """Labelled vertical lines; `at`: how high the label begins or ends, as a share of the axis."""
    for label, x in (points or {}).items():
        axes.axvline(x, color=INK, linestyle=":", linewidth=1)
        side = "bottom" if at < 0.5 else "top"
        axes.annotate(label, (x, at), xycoords=("data", "axes fraction"), rotation=90, ha="right", va=side)


def _dots(axes: Any, dots: Mapping[str, tuple[float, float]] | None) -> None:
    """Labelled points."""
    for i, (label, place) in enumerate((dots or {}).items()):
        axes.plot(*([value] for value in place), "o", color=PALETTE[5], markersize=5, zorder=3)
        # turn about, so that neighbours do not lie on each other
        above = {"xytext": (-4, 4), "ha": "right"} if i % 2 else {"xytext": (5, -11)}
        axes.annotate(label, place, textcoords="offset points", fontsize="small", **above)


def _merged(orders: Sequence[Sequence[str]]) -> list[str]:
    """All names once, each order kept: a name that is new stands before those it precedes.

    >>> _merged([["weights", "activations"], ["frozen", "adapters", "activations"]])
    ['weights', 'frozen', 'adapters', 'activations']
    """
    found: list[str] = []
    for order in orders:
        at = len(found)
        for name in reversed(order):
            if name in found:
                at = found.index(name)
            else:
                found.insert(at, name)
    return found


def memory_bars(
    estimates: Mapping[str, Estimate], *, capacities: Mapping[str, float] | None = None, title: str = "", ax: Any = None
) -> Figure:
    """Stacked bars of bytes by part, one bar an estimate, in GiB (of small ones: MiB or KiB).

    estimates    label of the bar -> estimate in bytes
    capacities   label -> bytes, drawn as vertical lines: what devices hold
    ax           axes to draw into; default: those of a new figure
    """
    held = dict(capacities or {})
    # a title takes its lines, and a single bar is too low for a legend that hangs on it
    roomy = bool(title) or len(estimates) == 1
    above = 0.2 * (title.count("\n") + 1 + len(held)) if title else 0.0
    figure, axes = _figure(1.1 + 0.5 * len(estimates) + 0.6 * roomy + above, ax)
    totals = [float(e.total) for e in estimates.values()]
    _check_shown("total", totals)
    _check_shown("capacity", held.values())
    names = _merged([[part.name for part in e] for e in estimates.values()])
    largest = max(totals, default=0.0)
    most = max([largest, *held.values()])
    unit, size = ("GiB", GIB) if most >= 0.1 * GIB else ("MiB", MIB) if most >= MIB else ("KiB", KIB)
    names = [n for n in names if any(p.name == n and p.value > 0.002 * largest for e in estimates.values() for p in e)]
    bars = [[sum(p.value for p in e if p.name == name) / size for e in estimates.values()] for name in names]
    ends = _stacked(axes, list(estimates), zip(names, bars, cycle(PALETTE), strict=False))
    lines = sorted((value / size, label) for label, value in held.items())
    right = max([1.15 * max(ends), *(1.05 * line for line, _ in lines)]) or 1.0
    for y, (total, end) in enumerate(zip((t / size for t in totals), ends, strict=True)):
        for line, _ in lines:
            if end < line < end + 0.1 * right:  # would run through the label
                end = line
        digits = ",.0f" if total >= 100 else ",.1f" if total >= 0.05 or not total else ".1g"
        axes.annotate(f"{total:{digits}}", (end, y), xytext=(3, 0), textcoords="offset points", va="center")
    for level, (line, label) in enumerate(lines):
        axes.axvline(line, color=INK, linestyle="--", linewidth=1)
        place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "bottom"}
        # one above the other, each beside its line, on the side that has room
        side = -3 if 2 * line > right else 3
        place |= {"ha": "right" if side < 0 else "left", "xytext": (side, 13 * level)}
        axes.annotate(label, (line, 1.0), **place)
    axes.set_xlim(0, right)
    axes.set_xlabel(unit)
    if names and roomy and ax is None:
        figure.legend(loc="outside lower center", ncols=min(4, len(names)))
    elif names:
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.55 / (0.4 + 0.5 * len(estimates))), ncols=min(4, len(names))
        )
    if title:
        axes.set_title(title, loc="left", pad=6 + 13 * len(lines), fontsize=_SMALL)
    return _hold(figure, axes)


# Values of `llmhw.ownership` with their units.
_OWNED = {
    "purchase_price": "a device, $",
    "life_months": "life, months",
    "upkeep": "upkeep, share a year",
    "server_factor": "server / its devices",
    "network_factor": "network / its servers",
    "electricity": "electricity, $ a kWh",
    "interest": "interest, share a year",
    "staff": "staff, $ a device-month",
    "hosting": "hosting, $ a kW-month",
    "idle_fraction": "idle power, share",
}


def swings(
    found: Iterable[Swing], at: float, *, names: Mapping[str, str] | None = None,
    limits: Mapping[str, float] | None = None, ax: Any = None,
) -> Figure:  # fmt: skip
    """Bars of what a cost becomes when one value at a time is at the ends of its range; narrow ones are left out.

    found    what `llmhw.ownership.swings` gives
    at       dollars of the cost with no value moved, where all bars meet
    names    argument -> how it is written, where not as usual
    limits   label -> dollars, drawn as vertical lines: a budget, what the alternative costs
    ax       axes to draw into; default: those of a new figure
    """
    listed = [swing for swing in found if swing.dollars > 0.01 * at]
    _check_shown("dollars", [at, *(d for s in listed for d in (s.dollars_low, s.dollars_high))])
    figure, axes = _figure(1.2 + 0.42 * len(listed), ax)
    labels = [(_OWNED | dict(names or {})).get(s.argument, s.argument) for s in listed]
    for label, swing in zip(labels, listed, strict=True):
        for end, dollars, colour in (
            (swing.low, swing.dollars_low, PALETTE[0]),
            (swing.high, swing.dollars_high, PALETTE[1]),
        ):
            axes.barh(label, (dollars - at) / 1e3, left=at / 1e3, color=colour)
            after = dollars > at
            axes.annotate(
                f"{end:,.0f}" if end >= 1000 else f"{end:.3g}", (dollars / 1e3, label),
                xytext=(3 if after else -3, 0), textcoords="offset points", ha="left" if after else "right",
                va="center", fontsize="small",
            )  # fmt: skip
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.axvline(at / 1e3, color=INK, linewidth=1)
    _points(axes, {label: value / 1e3 for label, value in (limits or {}).items()}, 0.02)
    axes.set_xlabel("thousand dollars")
    return _hold(figure, axes)


def memory(answer: JobMemory | TrainingEstimate, ax: Any = None) -> Figure:
    """Memory of a training job: a bar a pipeline stage, by part, and a line at what a device holds.

    answer   what `llmhw.training_memory` or `llmhw.train` gives; neighbours that hold the same are one bar
    ax       axes to draw into; default: those of a new figure
    """
    held = answer if isinstance(answer, JobMemory) else answer.memory
    bars: dict[str, Estimate] = {}
    stages = list(held.shown())
    start = 0
    for i, stage in enumerate(stages):
        following = stages[i + 1] if i + 1 < len(stages) else None
        if following is not None and _parts(following) == _parts(stage):
            continue
        bars[f"stage {start}" if start == i else f"stages {start} to {i}"] = stage
        start = i + 1
    device = held.job.cluster.accelerator
    return memory_bars(bars, capacities={device.name: float(held.capacity_bytes)}, title=_title(held.title), ax=ax)


def _parts(estimate: Estimate) -> list[tuple[str, float]]:
    return [(part.name, float(part.value)) for part in estimate]


# Size of titles that are whole lines, and letters that a line of that size has room for.
_SMALL, _LETTERS = 9, 63


def _title(text: str, most: int = _LETTERS) -> str:
    """The first line, folded where it is long."""
    from textwrap import fill

    return fill(text.splitlines()[0] if text else "", most)


# Parts of a step that are drawn as one; each has the same colour in every figure.
STEP_GROUPS = {
    "computation": ("matrix products", "attention", "elementwise"),
    "tensor-parallel": ("tensor-parallel",),
    "pipeline": ("pipeline bubble", "pipeline sends"),
    "gradient reduction": ("gradient reduction",),
    "recompute": ("recompute",),
    "weight gathering": ("weight gathering",),
    "the rest": ("reference model", "waiting for the host", "optimizer", "host memory", "stragglers", "fixed"),
    "context- and expert-parallel": ("context-parallel", "expert-parallel"),
}


def step_bars(
    estimates: Mapping[str, TrainingEstimate], *, share: bool = False, title: str = "", ax: Any = None
) -> Figure:
    """Stacked bars of the seconds of a training step by part, one bar an estimate, with a line from least to most.

    estimates   label of the bar -> estimate
    share       parts as shares of their step in place of seconds, and no line
    ax          axes to draw into; default: those of a new figure
    """
    above = 0.3 + 0.2 * title.count("\n") if title else 0.0
    figure, axes = _figure(1.4 + 0.42 * len(estimates) + above, ax)
    bounds = [e.bounds for e in estimates.values()]
    totals = [e.step_seconds for e in estimates.values()]
    _check_shown("step_seconds", totals)
    scale = [100 / total if share and total else 1.0 for total in totals]
    longest = max((total * by for total, by in zip(totals, scale, strict=True)), default=0.0)
    bars = [
        (name, [sum(b[part][1] for part in parts) * by for b, by in zip(bounds, scale, strict=True)], colour)
        for (name, parts), colour in zip(STEP_GROUPS.items(), PALETTE, strict=True)
    ]
    ends = _stacked(axes, list(estimates), (bar for bar in bars if max(bar[1], default=0) > 0.003 * longest))
    if not share:
        ends = [max(end, sum(most for _, _, most in b.values())) for end, b in zip(ends, bounds, strict=True)]
    for y, (found, b, total) in enumerate(zip(estimates.values(), bounds, totals, strict=True)):
        if not share:
            low = sum(least for least, _, _ in b.values())
            line = {"color": INK, "capsize": 3, "linewidth": 1.2, "label": "" if y else "least to most"}
            axes.errorbar(total, y, xerr=[[max(0.0, total - low)], [max(0.0, ends[y] - total)]], **line)
        # a drawing's file keeps no spaces at the ends of its labels
        text, aside = f"{format_quantity(total, 'seconds')}, MFU {found.mfu:.0%}", {"textcoords": "offset points"}
        axes.annotate(text, (ends[y], y), xytext=(6, 0), va="center", **aside)
    axes.set_xlim(0, 1.3 * max(ends) or 1.0)
    if share:
        axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("share of the step, %" if share else "seconds of a step")
    if title:
        axes.set_title(title, loc="left", fontsize=_SMALL)
    if ax is None:
        figure.legend(loc="outside lower center", ncols=4)
    else:
        axes.legend(ncols=2, fontsize="small")
    return _hold(figure, axes)


def train(answer: TrainingEstimate, ax: Any = None) -> Figure:
    """A training step by part: computation, communication, waiting; with a line from the least to the most it may take.

    answer   what `llmhw.train` gives
    ax       axes to draw into; default: those of a new figure
    """
    return step_bars({"step": answer}, title=_title(answer.title), ax=ax)


def serve(answer: ServingEstimate, ax: Any = None) -> Figure:
    """Throughput over latency: tokens per second of all users over the time of a token, from one request to all.

    answer   what `llmhw.service.serve` gives: the load that was asked for is a diamond, loads that miss a limit are
             hollow, and the limit on the time of a token is a line
    ax       axes to draw into; default: those of a new figure
    """
    figure, axes = _figure(3.8, ax)
    curve = [p for p in answer.curve if isfinite(p.tpot_seconds) and isfinite(p.tokens_per_second)]
    if not curve:
        raise LLMHWError("curve=() has nothing to draw: no request fits, so there is no speed")
    ttft, tpot = answer.slo

    def keeps(p: Any) -> bool:
        return (ttft is None or p.ttft_seconds <= ttft) and (tpot is None or p.tpot_seconds <= tpot)

    axes.plot([1e3 * p.tpot_seconds for p in curve], [p.tokens_per_second for p in curve], color=PALETTE[0], zorder=1)
    for kept, label in ((True, "keeps the limits" if (ttft, tpot) != (None, None) else ""), (False, "misses a limit")):
        chosen = [p for p in curve if keeps(p) is kept]
        if chosen:
            where = [1e3 * p.tpot_seconds for p in chosen], [p.tokens_per_second for p in chosen]
            face = PALETTE[0] if kept else "white"
            axes.plot(*where, "o", color=PALETTE[0], markerfacecolor=face, label=label or "requests at a time")
    for p in curve:
        place = (1e3 * p.tpot_seconds, p.tokens_per_second)
        axes.annotate(
            f"{p.concurrency:,}", place, xytext=(7, 0), textcoords="offset points", fontsize="small", va="center"
        )
    point = answer.point
    if isfinite(point.tpot_seconds):
        label = f"asked: {point.concurrency:,} at a time"
        axes.plot([1e3 * point.tpot_seconds], [point.tokens_per_second], "D", color=PALETTE[5], label=label)
    if tpot is not None:
        _points(axes, {f"limit {1e3 * tpot:g} ms": 1e3 * tpot}, 0.02)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("milliseconds a token of each user")
    axes.set_ylabel("tokens/s of all users")
    axes.set_title(_title(answer.title), loc="left", fontsize=_SMALL)
    axes.legend(loc="lower right")
    return _hold(figure, axes)


# Rows of `simulate`, and percentiles with their marker.
_TIMES = {"first token": "ttft", "a token": "tpot", "whole answer": "latency", "wait in the queue": "wait"}
_SHARES = {"p50": "o", "p90": "s", "p95": "^", "p99": "D", "largest": "|"}


def simulate(answer: SimulatedService | SimulationResult, ax: Any = None) -> Figure:
    """Percentiles of the times of requests: first token, time of a token, whole answer, wait; with the limits.

    answer   what `llmhw.service.simulate_service` or `llmhw.simulate` gives
    ax       axes to draw into; default: those of a new figure
    """
    result: Any = getattr(answer, "result", answer)
    figure, axes = _figure(3.2, ax)
    spreads: dict[str, Spread] = {label: getattr(result, name) for label, name in _TIMES.items()}
    values = [v for spread in spreads.values() for q in _SHARES if (v := getattr(spread, q)) is not None and v > 1e-9]
    if not values:
        raise LLMHWError("requests=0 has nothing to draw: no request was answered")
    for (share, marker), colour in zip(_SHARES.items(), PALETTE, strict=False):
        found = [(getattr(spread, share), y) for y, spread in enumerate(spreads.values())]
        # no time at all has no place on a logarithmic axis
        places = [(v, y) for v, y in found if v is not None and v > 1e-9]
        axes.plot([v for v, _ in places], [y for _, y in places], marker, color=colour, label=share, markersize=7)
    axes.set_xscale("log")
    slo = result.slo
    for y, limit in ((0, "ttft_seconds"), (1, "tpot_seconds")):
        value = None if slo is None else getattr(slo, limit)
        if value and isfinite(value):
            values.append(value)
            axes.plot([value, value], [y - 0.35, y + 0.35], color=INK, linestyle="--")
            axes.annotate(" limit", (value, y - 0.3), va="center", fontsize="small")
    axes.set_xlim(min(values) / 1.5, max(values) * 1.5)
    axes.xaxis.set_major_formatter(lambda value, _: format_quantity(value, "seconds"))
    axes.set_yticks(range(len(spreads)), list(spreads))
    axes.set_ylim(len(spreads) - 0.5, -0.5)
    axes.set_title(_title(result.title), loc="left", fontsize=_SMALL)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=len(_SHARES))
    return _hold(figure, axes)


# Dots of `validate`, at most: more would hide each other.
_MOST_DOTS = 4000


def cost(answer: Ownership, ax: Any = None) -> Figure:
    """What owning and renting have cost, month by month: machines are paid at once, rent as it comes.

    answer   what `llmhw.ownership.rent_or_buy` gives; the rent it compares with, and the dearest on demand
    ax       axes to draw into; default: those of a new figure
    """
    running = (answer.dollars - float(answer.owned["lost value"])) / answer.months
    demand = [offer for offer in answer.offers if offer.price.kind == "on_demand"]
    rents = [offer for offer in [answer.chosen, *demand[-1:]] if offer is not None]
    crossed = [offer.break_even_months for offer in rents if isfinite(offer.break_even_months)]
    months = max(answer.months, *(1.2 * each for each in crossed), 1.0)
    shown = {"owning": [(0.0, answer.purchase), (months, answer.purchase + running * months)]}
    for offer in rents:
        rate = format_quantity(offer.price.dollars_per_device_hour, "dollars")
        place = offer.price.provider or "the price given"
        shown[f"renting, {place} at {rate}"] = [(0.0, 0.0), (months, offer.dollars / answer.months * months)]
    figure = lines(shown, x="months", y="spent", points={"compared": answer.months}, ax=ax)
    axes = figure.axes[0] if ax is None else ax
    axes.yaxis.set_major_formatter(lambda value, _: format_quantity(value, "dollars"))
    axes.set_title(_title(answer.title))
    return figure


def validate(answer: Validation, ax: Any = None) -> Figure:
    """Predicted over measured values, one dot a configuration, one colour a meter; on the line a prediction is perfect.

    answer   what `llmhw.validation.validate` gives; of very many configurations every n-th is drawn
    ax       axes to draw into; default: those of a new figure
    """
    figure, axes = _figure(4.4, ax)
    groups = [g for g in answer.groups if g.predicted > 0 and g.measured > 0]
    if not groups:
        raise LLMHWError("groups=() has nothing to draw: no row was predicted")
    groups = groups[:: -(-len(groups) // _MOST_DOTS)]
    kinds = list(dict.fromkeys((g.meter, g.unit) for g in groups))
    for i, kind in enumerate(kinds):
        same = [g for g in groups if (g.meter, g.unit) == kind]
        label = ", ".join(filter(None, kind)) or "all"
        dots = {"color": PALETTE[i % len(PALETTE)], "markersize": 3.5, "alpha": 0.7, "label": label}
        axes.plot([g.measured for g in same], [g.predicted for g in same], "o", **dots)
    ends = [v for g in groups for v in (g.measured, g.predicted)]
    low, high = min(ends) / 1.5, max(ends) * 1.5
    axes.loglog([low, high], [low, high], color=INK, linewidth=1)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    units = list(dict.fromkeys(unit for _, unit in kinds))
    for axis, name in ((axes.xaxis, "measured"), (axes.yaxis, "predicted")):
        axis.set_label_text(f"{name}, {' or '.join(units)}" if len(units) < 3 else f"{name}, each in its unit")
        if len(units) == 1:
            axis.set_major_formatter(lambda value, _: format_quantity(value, units[0]))
    axes.minorticks_off()
    axes.set_title(_title(answer.verdict), loc="left", fontsize=_SMALL)
    axes.legend(loc="lower right", fontsize="small")
    return _hold(figure, axes)


def roofline(
    accelerators: Sequence[Accelerator],
    *,
    number_format: str = "bf16",
    points: Mapping[str, float] | None = None,
    dots: Mapping[str, tuple[float, float]] | None = None,
    ax: Any = None,
) -> Figure:
    """Attainable FLOP/s over arithmetic intensity, one roof a device.

    points   label -> arithmetic intensity in FLOP/byte, drawn as vertical lines
    dots     label -> intensity and FLOP/s that were reached
    ax       axes to draw into; default: those of a new figure
    """
    _check_shown("point", (points or {}).values(), above=True)
    figure, axes = _figure(4.0, ax)
    intensities = [2 ** (i / 4) for i in range(-8, 53)]
    for i, a in enumerate(accelerators):
        roof = [min(a.peak(number_format), x * a.memory_bandwidth_bytes_per_second) / 1e12 for x in intensities]
        axes.loglog(intensities, roof, color=PALETTE[i % len(PALETTE)], label=a.name)
        ridge = a.ridge(number_format)
        axes.plot([ridge], [a.peak(number_format) / 1e12], "o", color=PALETTE[i % len(PALETTE)])
    _points(axes, points, 0.02)
    _dots(axes, {label: (x, y / 1e12) for label, (x, y) in (dots or {}).items()})
    axes.set_xlabel("arithmetic intensity, FLOP per byte")
    axes.set_ylabel(f"attainable TFLOP/s, dense {number_format}")
    axes.legend(loc="upper left")
    return _hold(figure, axes)


def _tick(value: float, unit: str = "count") -> str:
    """A short label: bytes with KiB, MiB or GiB; else whole below 100,000, then with K, M, B or T."""
    if unit == "count" and abs(value) < 1e5:
        return f"{value:,.0f}"
    number, unit = format_quantity(value, unit).split()
    return f"{float(number.replace(',', '')):g} {unit}"


def request(trace: RequestTrace, ax: Any = None) -> Figure:
    """One request on a line of time: what it waits for, and what TTFT, TPOT and latency measure of it.

    trace   of a simulated request, with at least two tokens
    ax      axes to draw into; default: those of a new figure
    """
    figure, axes = _figure(1.9, ax)
    start = trace.arrival_seconds
    at = [1e3 * (t - start) for t in (start, trace.admitted_seconds, trace.first_token_seconds, trace.finish_seconds)]
    gap = (at[3] - at[2]) / (trace.output_tokens - 1)
    names = ("waits in the queue", "prefill: its prompt is read", "decode: a token each step")
    for i, name in enumerate(names):
        axes.barh([0], [at[i + 1] - at[i]], left=[at[i]], height=0.5, label=name, color=(INK, *PALETTE[1::-1])[i],
                  alpha=(0.3, 0.6, 0.35)[i])  # fmt: skip
    tokens = [at[2] + gap * i for i in range(trace.output_tokens)]
    axes.plot(tokens, [0] * len(tokens), "|", color=PALETTE[0], markersize=17, markeredgewidth=2)
    for y, (left, right), label in (
        (0.55, (at[0], at[2]), "TTFT"),
        (0.55, (tokens[-2], tokens[-1]), "TPOT"),
        (1.05, (at[0], at[3]), "latency"),
    ):
        bracket = {"arrowstyle": "|-|, widthA=0.25, widthB=0.25", "color": INK}
        axes.annotate("", (left, y), (right, y), arrowprops=bracket)
        axes.annotate(f"{label} {right - left:.0f} ms", ((left + right) / 2, y + 0.09), ha="center")
    axes.set(ylim=(-0.35, 1.5), yticks=[], xlabel="milliseconds since the request came")
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def batching(runs: Mapping[str, SimulationResult]) -> Figure:
    """The same requests under several kinds of batching: strips of time, one row a place in the batch.

    runs   label -> result with all its requests and steps traced (`trace_requests=` their number)

    A light block is a prompt being read, a full one a token; hatched is a place that is held and does nothing, as in a
    batch that runs until its longest answer ends. Where prompts have a machine of their own, it is the first row.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    _check_shown("seconds", (run.seconds for run in runs.values()))
    rows = [1 + max(t.spans[0][0] for t in run.requests_trace) for run in runs.values()]
    rows = [n + (run.mode == "disaggregated") for n, run in zip(rows, runs.values(), strict=True)]
    figure, all_axes = plt.subplots(
        len(runs), 1, sharex=True, figsize=(WIDTH, 1.1 + sum(0.55 + 0.26 * n for n in rows)), layout="constrained",
        height_ratios=[0.9 + n for n in rows], squeeze=False,
    )  # fmt: skip
    for axes, (label, run), n in zip(all_axes[:, 0], runs.items(), rows, strict=True):
        apart = run.mode == "disaggregated"
        for trace in sorted(run.requests_trace):
            place, since, gone = trace.spans[0]
            y, colour = place + apart, PALETTE[trace.number % len(PALETTE)]
            begin, first, end = trace.admitted_seconds, trace.first_token_seconds, trace.finish_seconds
            reads = 0 if apart else y
            axes.barh([reads], [first - begin], 0.8, [begin], color=colour, alpha=0.35)
            for step in run.steps_trace:
                each = (step.end_seconds - step.start_seconds) / step.steps
                lefts = (step.start_seconds + each * i for i in range(step.steps if step.decode_sequences else 0))
                for left in lefts:
                    if max(first, since) <= left + each / 2 < end:
                        axes.barh([y], [0.85 * each], 0.8, [left], color=colour)
            if run.mode in ("static", "dynamic"):  # the place is free when the whole batch ends
                gone = max(t.finish_seconds for t in run.requests_trace if t.admitted_seconds == begin)
                axes.barh([y], [gone - end], 0.8, [end], facecolor="none", edgecolor=INK, hatch="////", alpha=0.4)
            letter = chr(ord("A") + trace.number)
            axes.annotate(letter, (trace.arrival_seconds, -0.75), ha="center", color=colour, weight="bold")
            axes.annotate(letter, ((begin + first) / 2, reads), ha="center", va="center", weight="bold")
        axes.set(ylim=(n - 0.5, -1.1), yticks=[])
        axes.set_title(label, loc="left", fontsize=_SMALL, weight="bold")
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
    whole = max(t.finish_seconds for run in runs.values() for t in run.requests_trace)
    axes.set_xlim(-0.02 * whole, 1.02 * whole)
    axes.set_xlabel("seconds; a letter above a strip: the request comes")
    shades: list[dict[str, Any]] = [{"alpha": 0.35, "color": INK}, {"color": INK}]
    shades += [{"facecolor": "none", "edgecolor": INK, "hatch": "////"}]
    handles = [Patch(**shade) for shade in shades]
    names = ("a prompt is read", "a token is written", "held, does nothing")
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


def pages(caches: Mapping[str, Sequence[tuple[str, float]]], *, across: int = 8) -> Figure:
    """Pages of KV caches, drawn as grids of cells: whose each one is and how full.

    caches   title -> pages in order: name of the sequence, "" if the page is free, and its share that holds tokens
    across   pages in a row
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    rows = [-(-len(held) // across) for held in caches.values()]
    figure, all_axes = plt.subplots(
        len(caches), 1, figsize=(5.2, 0.5 + sum(0.4 + 0.3 * n for n in rows)), layout="constrained",
        height_ratios=rows, squeeze=False,
    )  # fmt: skip
    for axes, (title, held), n in zip(all_axes[:, 0], caches.items(), rows, strict=True):
        names = list(dict.fromkeys(name for name, _ in held if name))
        for i, (name, share) in enumerate(held):
            corner = (i % across + 0.05, i // across + 0.1)
            colour = PALETTE[names.index(name) % len(PALETTE)] if name else INK
            axes.add_patch(Rectangle(corner, 0.9 * share, 0.8, color=colour, linewidth=0, alpha=0.35))
            axes.add_patch(Rectangle(corner, 0.9, 0.8, fill=False, edgecolor=colour, alpha=1.0 if name else 0.3))
            if share:
                axes.annotate(name, (corner[0] + 0.45, corner[1] + 0.42), ha="center", va="center", weight="bold")
        axes.set(xlim=(0, across), ylim=(n, 0))
        axes.set_title(title, loc="left", fontsize=_SMALL)
        axes.axis("off")
    told = "a letter: whose the page is; filled: tokens; outline: held and empty; grey: free"
    figure.supxlabel(told, fontsize=_SMALL)
    return figure


def reserved_and_paged(table: PageTable, most_tokens: int) -> Figure:
    """The same cache twice: a block of `most_tokens` reserved for each sequence as long as there are blocks, and paged.

    table         of the paged cache, with its sequences; those that find no block are only in the lower picture
    most_tokens   of the longest sequence that is allowed, whole pages
    """
    whole = check_count("most_tokens", most_tokens, most=table.blocks * table.block_tokens) // table.block_tokens
    paged, reserved = [("", 0.0)] * table.blocks, list[tuple[str, float]]()
    for number, name in enumerate(table):
        letter, pages_held = chr(ord("A") + number % 26), table.tokens_of(name) / table.block_tokens
        shares = [min(1.0, max(0.0, pages_held - i)) for i in range(max(whole, len(table.blocks_of(name))))]
        for page, share in zip(table.blocks_of(name), shares, strict=False):
            paged[page] = (letter, share)
        if len(reserved) + whole <= table.blocks:
            reserved += [(letter, share) for share in shares[:whole]]
    reserved += [("", 0.0)] * (table.blocks - len(reserved))
    titles = f"reserved: {most_tokens} tokens for each sequence", f"paged: the same memory, {len(table)} sequences"
    return pages(dict(zip(titles, (reserved, paged), strict=True)))


def page_table(table: PageTable, ax: Any = None) -> Figure:
    """Pages as sequences see them, and where these lie in memory, with the table that joins the two.

    table   of a cache with few pages; one that several sequences hold is striped in their colours
    ax      axes to draw into; default: those of a new figure
    """
    figure, axes = _figure(2.3, ax)
    owners: dict[int, list[str]] = {}
    x = 0.0
    for name, colour in zip(table, cycle(PALETTE), strict=False):
        axes.annotate(f"{name}", (x, -0.55), weight="bold", color=colour)
        for j, block in enumerate(table.blocks_of(name)):
            tokens = min(table.block_tokens, table.tokens_of(name) - j * table.block_tokens)
            _cell(axes, x, 0, tokens / table.block_tokens, colour, f"{block}")
            arrow = {"arrowstyle": "->", "color": colour, "alpha": 0.8}
            axes.annotate("", (block + 0.45, 1.95), (x + 0.45, 0.45), arrowprops=arrow)
            owners.setdefault(block, []).append(colour)
            x += 1
        x += 0.5
    for block in range(table.blocks):
        held = owners.get(block, [])
        for k, colour in enumerate(held):
            low = 2 + 0.8 * k / len(held)
            axes.barh([low], [0.9], 0.8 / len(held), [block], color=colour, alpha=0.35, align="edge")
        _cell(axes, block, 2.4, 0.0, INK, f"{block}")
    axes.annotate("what a sequence sees: its pages in order, each with its number in the table", (0, -1.1))
    axes.annotate("the memory of the GPU, page by page; white is free", (0, 3.3))
    axes.set(xlim=(-0.1, max(x - 0.5, table.blocks)), ylim=(3.5, -1.4))
    axes.axis("off")
    return _hold(figure, axes)


def _cell(axes: Any, x: float, y: float, share: float, colour: str, text: str) -> None:
    """A page, filled as far as it has tokens."""
    axes.barh([y], [0.9 * share], 0.8, [x], color=colour, alpha=0.35, align="center")
    axes.barh([y], [0.9], 0.8, [x], facecolor="none", edgecolor=colour, align="center")
    axes.annotate(text, (x + 0.45, y), ha="center", va="center", weight="bold")


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    log_x: bool = False,
    log_y: bool = False,
    levels: Mapping[str, float] | None = None,
    points: Mapping[str, float] | None = None,
    dots: Mapping[str, tuple[float, float]] | None = None,
    ax: Any = None,
) -> Figure:
    """Line chart: label -> (x, y) pairs; `levels` are labelled horizontal lines, `points` vertical ones, `dots` points.

    x, y   labels of the axes; "bytes" on a logarithmic x is marked in KiB, MiB and GiB
    ax     axes to draw into; default: those of a new figure
    """
    _check_shown("x", [*(a for pairs in series.values() for a, _ in pairs), *(points or {}).values()], above=log_x)
    _check_shown("y", [*(b for pairs in series.values() for _, b in pairs), *(levels or {}).values()], above=log_y)
    figure, axes = _figure(3.8, ax)
    for label, pairs in series.items():
        axes.plot([a for a, _ in pairs], [b for _, b in pairs], label=label)
    for label, value in (levels or {}).items():
        axes.axhline(value, color=INK, linestyle="--", linewidth=1)
        axes.annotate(label, (0.01, value), xycoords=("axes fraction", "data"), va="bottom")
    _points(axes, points, 0.98)
    _dots(axes, dots)
    if log_x:
        axes.set_xscale("log", base=2)
        unit = "bytes" if x == "bytes" else "count"
        axes.xaxis.set_major_formatter(lambda value, _: _tick(value, unit))
    if log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if len(series) > 1:
        axes.legend()
    return _hold(figure, axes)


def ratios(
    points: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    bands: Mapping[str, tuple[float, float]],
    x: str,
    limits: tuple[float, float] = (0.4, 2.5),
    ax: Any = None,
) -> Figure:
    """Dots of ratios, one row a source, one colour a kind, on a logarithmic axis; 1 is a perfect prediction.

    points   label of the row -> kind -> ratios
    bands    kind -> an interval, drawn behind all rows: the first shaded, the others as two lines in the kind's colour
    limits   ends of the axis; what lies beyond is drawn as a triangle at the edge
    ax       axes to draw into; default: those of a new figure
    """
    low, high = limits
    if not 0 < low < high < float("inf"):
        raise LLMHWError(f"limits={limits!r} must be two numbers above 0, the lower one first")
    figure, axes = _figure(1.2 + 0.3 * len(points), ax)
    colours = dict(zip(bands, PALETTE, strict=False))
    for i, (kind, band) in enumerate(bands.items()):
        ends = tuple(min(max(end, low), high) for end in band)
        if i == 0:
            axes.axvspan(*ends, color=colours[kind], alpha=0.15, linewidth=0)
        for end in ends:
            axes.axvline(end, color=colours[kind], linestyle="-" if i == 0 else "--", linewidth=1, alpha=0.8)
    for row, kinds in enumerate(points.values()):
        for kind, values in kinds.items():
            # spread evenly inside the row, the same on every run
            places = [row + 0.64 * ((i * 0.618034) % 1 - 0.5) for i in range(len(values))]
            for marker, chosen in {
                "<": [(low, y) for v, y in zip(values, places, strict=True) if v <= low],
                "o": [(v, y) for v, y in zip(values, places, strict=True) if low < v < high],
                ">": [(high, y) for v, y in zip(values, places, strict=True) if v >= high],
            }.items():
                if chosen:  # a line without points, not clipped, would stretch the figure to its corner
                    xs, ys = [v for v, _ in chosen], [y for _, y in chosen]
                    axes.plot(xs, ys, marker, color=colours[kind], markersize=3.5, alpha=0.75, clip_on=False)
    for kind, colour in colours.items():
        axes.plot([], [], "o", color=colour, markersize=5, label=kind)
    axes.axvline(1.0, color=INK, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [t for t in (0.25, 0.4, 0.5, 0.65, 0.8, 1, 1.25, 1.5, 2, 2.5, 4) if low <= t <= high]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(points)), list(points))
    axes.set_ylim(max(1, len(points)) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(x)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(bands), handletextpad=0.2)
    return figure


def paired(rows: Mapping[str, tuple[float, float]], *, names: tuple[str, str], x: str) -> Figure:
    """Two dots on a line for each row, on a logarithmic axis of per cent: what a hidden source costs.

    rows    label -> two errors, as shares
    names   of the first, filled, and of the second, open dot
    x       label of the axis
    """
    _check_shown("error", (value for pair in rows.values() for value in pair), above=True)
    figure, axes = _figure(0.9 + 0.24 * len(rows), None)
    for i, (first, second) in enumerate(rows.values()):
        axes.plot([100 * first, 100 * second], [i, i], color=INK, linewidth=1)
    lines = range(len(rows))
    axes.plot([100 * a for a, _ in rows.values()], lines, "o", color=PALETTE[0], markersize=6, label=names[0])
    hollow: dict[str, Any] = {"color": PALETTE[1], "markersize": 7, "fillstyle": "none", "markeredgewidth": 1.6}
    axes.plot([100 * b for _, b in rows.values()], lines, "o", label=names[1], **hollow)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.set_yticks(lines, list(rows))
    axes.invert_yaxis()
    axes.set_xlabel(x)
    axes.legend(loc="upper right", fontsize="small")
    return _hold(figure, axes)


def decades(
    points: Mapping[str, Sequence[tuple[float, float]]], *, band: tuple[float, float], x: str, y: str
) -> Figure:
    """Predicted against measured values over several decades; on the line a prediction is perfect.

    points   label -> pairs of measured and predicted
    band     least and most of measured over predicted: the shaded interval
    x, y     labels of the axes
    """
    _check_shown("value", (value for some in points.values() for pair in some for value in pair), above=True)
    figure, axes = _figure(4.6, None)
    ends = [value for some in points.values() for pair in some for value in pair]
    low, high = min(ends) / 1.5, max(ends) * 1.5
    grid = [low * (high / low) ** (i / 40) for i in range(41)]
    shade = {"color": PALETTE[0], "alpha": 0.2, "linewidth": 0, "label": "80 % interval, dense"}
    axes.fill_between(grid, [v / band[1] for v in grid], [v / band[0] for v in grid], **shade)
    axes.plot(grid, grid, color=INK, linewidth=1)
    for i, (label, some) in enumerate(points.items()):
        dots = {"color": PALETTE[i % len(PALETTE)], "markersize": 3.5, "alpha": 0.7, "label": label}
        axes.plot([a for a, _ in some], [b for _, b in some], "o^s"[i % 3], linestyle="none", **dots)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.minorticks_off()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(loc="upper left", fontsize="small")
    return _hold(figure, axes)


def arrows(rows: Mapping[str, tuple[float, float, float]], *, x: str) -> Figure:
    """Constants from their priors to what a fit made of them, each over its prior.

    rows   label -> prior, its spread as a share, fitted
    x      label of the axis
    """
    _check_shown("constant", (value for row in rows.values() for value in row), above=True)
    figure, axes = _figure(0.9 + 0.28 * len(rows), None)
    for i, (prior, spread, fitted) in enumerate(rows.values()):
        bar: dict[str, Any] = {"color": PALETTE[4], "linewidth": 7, "alpha": 0.4, "solid_capstyle": "butt"}
        axes.plot([1 / (1 + spread), 1 + spread], [i, i], **bar, label=None if i else "the prior, one spread")
        arrow = {"arrowstyle": "-|>", "color": PALETTE[5], "linewidth": 1.6}
        axes.annotate("", (fitted / prior, i), (1.0, i), arrowprops=arrow)
        axes.plot([fitted / prior], [i], ".", color=PALETTE[5], label=None if i else "fitted")
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel(x)
    axes.legend(loc="center right", fontsize="small")
    return _hold(figure, axes)
