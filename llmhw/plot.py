"""Figures of the book, legible in light and in dark pages. Needs matplotlib (extra `plot`).

Every function returns a matplotlib Figure; notebooks show it with `plt.show()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from llmhw.formula import Estimate
from llmhw.hardware import Accelerator
from llmhw.training import TrainingEstimate
from llmhw.units import GIB, LLMHWError, format_quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette: distinguishable for colour-blind readers, on white and on dark grey.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#B8A500")
INK = "#767676"  # contrast of at least 4.5 to 1 on white, and legible on the dark theme's background


def style() -> None:
    """Set the style of all figures: transparent background, mid-grey ink, colour-blind-safe palette."""
    try:
        import matplotlib
        from cycler import cycler
    except ImportError:
        raise LLMHWError("figures need matplotlib; install it with: pip install 'llmhw[plot]'") from None
    inked = ("axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "grid.color", "text.color")
    looks: dict[Any, Any] = {
        **dict.fromkeys((*inked, "xtick.color", "ytick.color"), INK),
        **dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor"), "none"),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
        **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
        "axes.prop_cycle": cycler(color=PALETTE),
        "figure.figsize": (7.2, 3.6),
        "figure.dpi": 110,
        "grid.alpha": 0.25,
        "font.size": 10,
    }
    matplotlib.rcParams.update(looks)


def _figure(height: float) -> tuple[Figure, Any]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, height), layout="constrained")
    return figure, axes


def _stacked(axes: Any, labels: Sequence[str], parts: Iterable[tuple[str, Sequence[float], str]]) -> list[float]:
    """Draw bars, the first label on top, of parts: name, a width for each bar, colour. Returns where the bars end."""
    ends = [0.0] * len(labels)
    for name, widths, colour in parts:
        axes.barh(labels, widths, left=ends, label=name, color=colour)
        ends = [a + b for a, b in zip(ends, widths, strict=True)]
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return ends


def _points(axes: Any, points: Mapping[str, float] | None, at: float) -> None:
    """Labelled vertical lines; `at`: how high the label begins or ends, as a share of the axis."""
    for label, x in (points or {}).items():
        axes.axvline(x, color=INK, linestyle=":", linewidth=1)
        side = "bottom" if at < 0.5 else "top"
        axes.annotate(label, (x, at), xycoords=("data", "axes fraction"), rotation=90, ha="right", va=side)


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
    estimates: Mapping[str, Estimate], *, capacities: Mapping[str, float] | None = None, title: str = ""
) -> Figure:
    """Stacked bars of bytes by part, one bar an estimate, in GiB.

    estimates    label of the bar -> estimate in bytes
    capacities   label -> bytes, drawn as vertical lines: what devices hold
    """
    figure, axes = _figure(1.1 + 0.5 * len(estimates))
    names = _merged([[part.name for part in e] for e in estimates.values()])
    largest = max(float(e.total) for e in estimates.values())
    names = [n for n in names if any(p.name == n and p.value > 0.002 * largest for e in estimates.values() for p in e)]
    bars = [[sum(p.value for p in e if p.name == name) / GIB for e in estimates.values()] for name in names]
    ends = _stacked(axes, list(estimates), zip(names, bars, cycle(PALETTE), strict=False))
    right = max(ends) * 1.15
    for y, estimate in enumerate(estimates.values()):
        total, end = estimate.total / GIB, ends[y]
        for line in sorted(value / GIB for value in (capacities or {}).values()):
            if end < line < end + 0.07 * right:  # would run through the label
                end = line
        axes.annotate(f" {total:,.1f}" if total < 100 else f" {total:,.0f}", (end, y), va="center")
    for label, value in (capacities or {}).items():
        axes.axvline(value / GIB, color=INK, linestyle="--", linewidth=1)
        axes.annotate(f"{label} ", (value / GIB, 1.0), xycoords=("data", "axes fraction"), ha="right", va="bottom")
    axes.set_xlim(right=right)
    axes.set_xlabel("GiB")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.55 / (0.4 + 0.5 * len(estimates))), ncols=min(4, len(names))
    )
    if title:
        axes.set_title(title, loc="left", pad=18 if capacities else 6)
    return figure


# Parts of a step that are drawn as one; each has the same colour in every figure.
STEP_GROUPS = {
    "computation": ("matrix products", "attention", "elementwise"),
    "tensor-parallel": ("tensor-parallel",),
    "pipeline": ("pipeline bubble", "pipeline sends"),
    "gradient reduction": ("gradient reduction",),
    "recompute": ("recompute",),
    "weight gathering": ("weight gathering",),
    "the rest": ("waiting for the host", "optimizer", "stragglers", "fixed"),
    "context- and expert-parallel": ("context-parallel", "expert-parallel"),
}


def step_bars(estimates: Mapping[str, TrainingEstimate], *, share: bool = False) -> Figure:
    """Stacked bars of the seconds of a training step by part, one bar an estimate, with a line from least to most.

    estimates   label of the bar -> estimate
    share       parts as shares of their step in place of seconds, and no line
    """
    figure, axes = _figure(1.4 + 0.42 * len(estimates))
    bounds = [e.bounds for e in estimates.values()]
    totals = [e.step_seconds for e in estimates.values()]
    scale = [100 / total if share else 1.0 for total in totals]
    longest = max(total * by for total, by in zip(totals, scale, strict=True))
    bars = [
        (name, [sum(b[part][1] for part in parts) * by for b, by in zip(bounds, scale, strict=True)], colour)
        for (name, parts), colour in zip(STEP_GROUPS.items(), PALETTE, strict=True)
    ]
    ends = _stacked(axes, list(estimates), (bar for bar in bars if max(bar[1]) > 0.003 * longest))
    if not share:
        ends = [sum(most for _, _, most in b.values()) for b in bounds]
    for y, (found, b, total) in enumerate(zip(estimates.values(), bounds, totals, strict=True)):
        if not share:
            low = sum(least for least, _, _ in b.values())
            line = {"color": INK, "capsize": 3, "linewidth": 1.2, "label": "" if y else "least to most"}
            axes.errorbar(total, y, xerr=[[total - low], [ends[y] - total]], **line)
        axes.annotate(f"  {format_quantity(total, 'seconds')}, MFU {found.mfu:.0%}", (ends[y], y), va="center")
    axes.set_xlim(0, 1.3 * max(ends))
    if share:
        axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("share of the step, %" if share else "seconds of a step")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def roofline(
    accelerators: Sequence[Accelerator], *, number_format: str = "bf16", points: Mapping[str, float] | None = None
) -> Figure:
    """Attainable FLOP/s over arithmetic intensity, one roof a device.

    points   label -> arithmetic intensity in FLOP/byte, drawn as vertical lines
    """
    figure, axes = _figure(4.0)
    intensities = [2 ** (i / 4) for i in range(-8, 53)]
    for i, a in enumerate(accelerators):
        roof = [min(a.peak(number_format), x * a.memory_bandwidth_bytes_per_second) / 1e12 for x in intensities]
        axes.loglog(intensities, roof, color=PALETTE[i % len(PALETTE)], label=a.name)
        ridge = a.ridge(number_format)
        axes.plot([ridge], [a.peak(number_format) / 1e12], "o", color=PALETTE[i % len(PALETTE)])
    _points(axes, points, 0.02)
    axes.set_xlabel("arithmetic intensity, FLOP per byte")
    axes.set_ylabel(f"attainable TFLOP/s, dense {number_format}")
    axes.legend(loc="upper left")
    return figure


def _tick(value: float, unit: str = "count") -> str:
    """A short label: bytes with KiB, MiB or GiB; else whole below 100,000, then with K, M, B or T."""
    if unit == "count" and abs(value) < 1e5:
        return f"{value:,.0f}"
    number, unit = format_quantity(value, unit).split()
    return f"{float(number.replace(',', '')):g} {unit}"


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    log_x: bool = False,
    log_y: bool = False,
    levels: Mapping[str, float] | None = None,
    points: Mapping[str, float] | None = None,
) -> Figure:
    """Line chart: label -> (x, y) pairs; `levels` are labelled horizontal lines, `points` vertical ones.

    x, y   labels of the axes; "bytes" on a logarithmic x is marked in KiB, MiB and GiB
    """
    figure, axes = _figure(3.8)
    for label, pairs in series.items():
        axes.plot([a for a, _ in pairs], [b for _, b in pairs], label=label)
    for label, value in (levels or {}).items():
        axes.axhline(value, color=INK, linestyle="--", linewidth=1)
        axes.annotate(label, (0.01, value), xycoords=("axes fraction", "data"), va="bottom")
    _points(axes, points, 0.98)
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
    return figure


def ratios(
    points: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    bands: Mapping[str, tuple[float, float]],
    x: str,
    limits: tuple[float, float] = (0.4, 2.5),
) -> Figure:
    """Dots of ratios, one row a source, one colour a kind, on a logarithmic axis; 1 is a perfect prediction.

    points   label of the row -> kind -> ratios
    bands    kind -> an interval, drawn behind all rows: the first shaded, the others as two lines in the kind's colour
    limits   ends of the axis; what lies beyond is drawn as a triangle at the edge
    """
    figure, axes = _figure(1.2 + 0.3 * len(points))
    colours = dict(zip(bands, PALETTE, strict=False))
    for i, (kind, ends) in enumerate(bands.items()):
        if i == 0:
            axes.axvspan(*ends, color=colours[kind], alpha=0.15, linewidth=0)
        for end in ends:
            axes.axvline(end, color=colours[kind], linestyle="-" if i == 0 else "--", linewidth=1, alpha=0.8)
    low, high = limits
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
    axes.set_ylim(len(points) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(x)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(bands), handletextpad=0.2)
    return figure
