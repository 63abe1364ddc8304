"""Figures hold what they are given. How they look is checked in the built pages."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

import llmhw
from llmhw import plot
from llmhw.units import GIB


@pytest.fixture(autouse=True)
def _style() -> object:
    mpl.use("Agg")
    plot.style()
    yield
    plt.close("all")


def test_bars_add_up_to_the_totals() -> None:
    spec = llmhw.model("llama-3-8b")
    estimates = {"AdamW": llmhw.training_states(spec), "QLoRA": llmhw.lora_states(spec, base_format="nf4-dq")}
    axes = plot.memory_bars(estimates, capacities={"H100": llmhw.accelerator("h100").memory_bytes}).axes[0]
    by_bar = {0: 0.0, 1: 0.0}
    for container in axes.containers:
        for i, bar in enumerate(container):
            by_bar[i] += bar.get_width()
    totals = [e.total / GIB for e in estimates.values()]
    # parts thinner than a pixel of the longest bar are not drawn
    assert list(by_bar.values()) == pytest.approx(totals, abs=0.01 * max(totals))
    assert [text.get_text() for text in axes.get_yticklabels()] == list(estimates)


def test_roofs_meet_at_the_ridge() -> None:
    h100 = llmhw.accelerator("h100")
    axes = plot.roofline([h100], points={"decode": 1.0}).axes[0]
    roof, ridge = axes.lines[0], axes.lines[1]
    assert max(roof.get_ydata()) == pytest.approx(h100.peak("bf16") / 1e12)
    assert ridge.get_xdata()[0] == pytest.approx(h100.ridge("bf16"))


def test_lines_and_levels() -> None:
    figure = plot.lines(
        {"a": [(1, 2), (1024, 4)], "b": [(1, 1), (1024, 8)]}, x="x", y="y", log_x=True, levels={"cap": 3}
    )
    axes = figure.axes[0]
    assert len(axes.lines) == 3
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_ratios_beyond_the_limits_stay_at_the_edge() -> None:
    axes = plot.ratios(
        {"a": {"dense": [0.9, 1.1, 7.0, 0.1]}, "b": {"experts": [1.0]}},
        bands={"dense": (0.9, 1.2), "experts": (0.8, 1.3)},
        x="measured / predicted",
    ).axes[0]
    drawn = {
        line.get_marker(): list(line.get_xdata())
        for line in axes.lines
        if list(line.get_ydata()) and max(line.get_ydata()) < 0.5
    }
    assert drawn["o"] == [0.9, 1.1]
    assert (drawn["<"], drawn[">"]) == ([0.5], [2.0])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    assert len(axes.patches) == 2


@pytest.mark.parametrize(("value", "text"), [(1, "1"), (4096, "4,096"), (131072, "131 K"), (7e9, "7 B"), (1e12, "1 T")])
def test_ticks(value: float, text: str) -> None:
    assert plot._tick(value) == text
