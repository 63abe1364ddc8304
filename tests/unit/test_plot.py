"""Figures hold what they are given. How they look is checked in the built pages."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from matplotlib.container import BarContainer, ErrorbarContainer

import llmhw
from llmhw import plot
from llmhw.formula import Estimate, Part, Term
from llmhw.step_time import PARTS
from llmhw.training import TrainingEstimate, train
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


def test_bars_have_their_parts_in_one_order_and_labels_clear_of_lines() -> None:
    gib = float(GIB)
    trained = Estimate("full", "bytes", tuple(_part(name, 20 * gib) for name in ("weights", "activations")))
    tuned = Estimate("LoRA", "bytes", tuple(_part(name, 20 * gib) for name in ("frozen weights", "activations")))
    axes = plot.memory_bars({"full": trained, "LoRA": tuned}, capacities={"card": 41 * gib}).axes[0]
    assert [c.get_label() for c in axes.containers] == ["weights", "frozen weights", "activations"]
    labels = [text for text in axes.texts if text.get_text().strip() == "40.0"]
    assert [text.xy[0] for text in labels] == [41, 41], "to the right of the line, which would strike it through"


def _part(name: str, size: float) -> Part:
    return Part(name, (Term(name, "given", (), 1, size),))


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
    assert (drawn["<"], drawn[">"]) == ([0.4], [2.5])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"]
    assert len(axes.patches) == 1


def test_points_are_vertical_lines() -> None:
    axes = plot.lines({"a": [(1, 2), (1024, 4)]}, x="x", y="y", log_x=True, points={"a message": 32}).axes[0]
    assert list(axes.lines[1].get_xdata()) == [32, 32]
    assert [text.get_text() for text in axes.texts] == ["a message"]


@pytest.fixture(scope="module")
def steps() -> dict[str, TrainingEstimate]:
    cluster = llmhw.Cluster("h100", 64, inter_link="InfiniBand NDR 4x")
    layouts = {
        "3D": llmhw.Parallelism(dp=2, tp=8, pp=4, zero=1, sequence_parallel=True),
        "FSDP": llmhw.Parallelism(dp=64, zero=3),
    }
    job: dict[str, Any] = {
        "model": llmhw.model("llama-3-8b"),
        "cluster": cluster,
        "global_batch": 64,
        "kernels": "megatron",
    }
    return {name: train(llmhw.TrainingJob(**job, parallelism=p)) for name, p in layouts.items()}


@pytest.mark.parametrize("share", [False, True])
def test_bars_of_a_step_add_up_to_its_time(steps: dict[str, TrainingEstimate], share: bool) -> None:
    axes = plot.step_bars(steps, share=share).axes[0]
    bars = [c for c in axes.containers if isinstance(c, BarContainer)]
    drawn = [sum(bar.patches[i].get_width() for bar in bars) for i in range(len(steps))]
    wanted = [100.0 if share else found.step_seconds for found in steps.values()]
    # parts thinner than a pixel of the longest bar are not drawn
    assert drawn == pytest.approx(wanted, abs=0.03 * max(wanted))


def test_line_of_a_step_runs_from_least_to_most(steps: dict[str, TrainingEstimate]) -> None:
    axes = plot.step_bars(steps).axes[0]
    lines = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    for line, found in zip(lines, steps.values(), strict=True):
        (least, _), (most, _) = line.lines[2][0].get_segments()[0]
        assert least == pytest.approx(sum(low for low, _, _ in found.bounds.values()))
        assert most == pytest.approx(sum(high for _, _, high in found.bounds.values()))


def test_every_part_of_a_step_has_a_colour() -> None:
    drawn = [part for parts in plot.STEP_GROUPS.values() for part in parts]
    assert sorted(drawn) == sorted(PARTS)
    assert len(plot.STEP_GROUPS) <= len(plot.PALETTE)


@pytest.mark.parametrize(("value", "text"), [(1, "1"), (4096, "4,096"), (131072, "131 K"), (7e9, "7 B"), (1e12, "1 T")])
def test_ticks(value: float, text: str) -> None:
    assert plot._tick(value) == text


def test_an_axis_of_bytes_counts_in_binary_units() -> None:
    figure = plot.lines({"a": [(512, 1), (2**33, 2)]}, x="bytes", y="y", log_x=True)
    figure.canvas.draw()
    texts = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert {"4 KiB", "2 MiB", "1 GiB"} <= set(texts)
    assert not [text for text in texts if text.endswith((" K", " M"))], "1.07 B bytes reads as one byte"
