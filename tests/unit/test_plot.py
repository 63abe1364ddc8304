"""Figures hold what they are given. How they look is checked in the built pages."""

from __future__ import annotations

import math
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import llmhw
from llmhw import plot
from llmhw.formula import Estimate, Part, Term
from llmhw.service import serve, simulate_service
from llmhw.simulation import Engine, PageTable, Request, Spread, StepModel, simulate
from llmhw.step_time import PARTS
from llmhw.training import JobMemory, TrainingEstimate, train
from llmhw.units import GIB, LLMHWError
from llmhw.validation import Prediction, Validation
from llmhw.validation.statistics import groups
from tests.unit.stated import published


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


# -- axes hold what they draw -----------------------------------------------------------------


def check_held(figure: Figure) -> None:
    """Every bar, line, dot and label lies inside the axes; a label above them, inside the figure and their width."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that had no room warns
        figure.canvas.draw()
    whole = figure.bbox
    for axes in figure.axes:
        (left, right), (low, high) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
        slack = 1e-9 * max(abs(right), abs(left)), 1e-9 * max(abs(high), abs(low))
        box = axes.get_window_extent()
        for line in axes.lines:
            xs, ys = (np.asarray(v, dtype=float) for v in (line.get_xdata(), line.get_ydata()))
            upright, level = (
                line.get_transform() == t for t in (axes.get_xaxis_transform(), axes.get_yaxis_transform())
            )
            if not level:
                assert all(left - slack[0] <= x <= right + slack[0] for x in xs), line
            if not upright:
                assert all(low - slack[1] <= y <= high + slack[1] for y in ys), line
        for patch in axes.patches:
            if isinstance(patch, Rectangle) and patch.get_transform().contains_branch(axes.transData):
                assert left - slack[0] <= patch.get_x(), patch
                assert patch.get_x() + patch.get_width() <= right + slack[0], patch
        for text in axes.texts:
            found = text.get_window_extent()
            assert box.x0 - 2 <= found.x0, text
            assert found.x1 <= box.x1 + 2, text
            assert whole.y0 - 2 <= found.y0, text
            assert found.y1 <= whole.y1 + 2, text
        title = axes.title.get_window_extent() if axes.title.get_text() else None
        for text in (axes._left_title, title and axes.title):  # type: ignore[attr-defined]
            if text and text.get_text():
                assert text.get_window_extent().x1 <= whole.x1 + 2, text


def estimate(*sizes: float) -> Estimate:
    return Estimate("one", "bytes", tuple(_part(f"part {i}", size) for i, size in enumerate(sizes)))


@pytest.mark.parametrize("size", [0.0, 1.0, 46.8 * GIB, 3e15])
@pytest.mark.parametrize("capacity", [0.0, 53.8 * GIB, 1e15])
@pytest.mark.parametrize("bars", [1, 5])
def test_bars_of_memory_hold_their_capacities(size: float, capacity: float, bars: int) -> None:
    estimates = {f"bar {i}": estimate(size, size / 3) for i in range(bars)}
    lines = {"H100 SXM5 80GB": capacity, "limit of the allocator": 0.9 * capacity}
    figure = plot.memory_bars(estimates, capacities=lines, title="some job")
    check_held(figure)
    assert len(figure.axes[0].lines) == 2


def test_a_capacity_beyond_the_bars_is_drawn() -> None:
    """A bar of 46.8 GiB beside a device of 79.6."""
    axes = plot.memory_bars({"a": estimate(46.8 * GIB)}, capacities={"H100": 79.6 * GIB}).axes[0]
    assert axes.get_xlim()[1] > 79.6
    assert axes.get_xlabel() == "GiB"
    small = plot.memory_bars({"a": estimate(5e5)}).axes[0]
    assert small.get_xlabel() == "KiB"
    assert small.texts[0].get_text() == "488"


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize(("log_x", "log_y"), [(False, False), (True, True), (True, False)])
def test_lines_hold_levels_and_points(scale: float, log_x: bool, log_y: bool) -> None:
    series = {"one": [(scale, 2 * scale), (1024 * scale, 4 * scale)], "two": [(2 * scale, scale)]}
    figure = plot.lines(
        series,
        x="x",
        y="y",
        log_x=log_x,
        log_y=log_y,
        levels={"a level far above": 1e3 * scale, "a low one": scale / 10},
        points={"a point to the left": scale / 50, "one to the right": 1e5 * scale},
    )
    check_held(figure)


def test_other_figures_hold_what_they_draw(steps: dict[str, TrainingEstimate]) -> None:
    h100, old = llmhw.accelerator("h100"), llmhw.accelerator("v100 sxm2 32gb")
    check_held(plot.roofline([h100, old], number_format="fp16", points={"tiny": 1e-4, "huge": 1e6}))
    check_held(plot.step_bars(steps))
    check_held(plot.step_bars(steps, share=True))
    check_held(plot.step_bars({"3D": steps["3D"]}, title="one\ntwo"))
    for points in ({}, {"a": {"dense": []}}, {"a": {"dense": [1e-9, 0.0, 1.0, 1e9], "experts": [2.5]}}):
        bands = {"dense": (0.01, 1.2), "experts": (0.8, 100.0)}
        check_held(plot.ratios(points, bands=bands, x="measured / predicted"))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot.memory_bars({}), r"estimates=\{\} has nothing to draw"),
        (lambda: plot.step_bars({}), r"estimates=\{\} has nothing to draw"),
        (lambda: plot.memory_bars({"a": estimate(math.inf)}), "total=inf cannot be drawn; it must be finite"),
        (lambda: plot.memory_bars({"a": estimate(1)}, capacities={"b": math.nan}), "capacity=nan cannot be drawn"),
        (lambda: plot.lines({"a": [(0, 1)]}, x="x", y="y", log_x=True), "x=0 cannot be drawn; it must be above 0"),
        (lambda: plot.lines({}, x="x", y="y", levels={"a": math.inf}), "y=inf cannot be drawn"),
        (lambda: plot.roofline([], points={"a": 0.0}), "point=0.0 cannot be drawn"),
        (lambda: plot.ratios({}, bands={}, x="x", limits=(2, 1)), r"limits=\(2, 1\) must be two numbers above 0"),
    ],
)
def test_what_has_no_place_is_refused(draw: Any, message: str) -> None:
    with pytest.raises(LLMHWError, match=message):
        draw()


# -- figures of answers -----------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 8])
def test_memory_of_a_job(layers: int) -> None:
    cluster = llmhw.Cluster("b200", 8)
    job = llmhw.TrainingJob(
        model=llmhw.model("llama-3.2-1b"),
        cluster=cluster,
        parallelism=llmhw.Parallelism(dp=8 // layers, pp=layers),
        global_batch=8 * layers,
    )
    found = llmhw.training_memory(job)
    figure = plot.memory(found)
    check_held(figure)
    axes = figure.axes[0]
    assert axes.get_xlim()[1] > found.capacity_bytes / GIB
    assert cluster.accelerator.name in [text.get_text() for text in axes.texts]
    first, last = axes.get_yticklabels()[0].get_text(), axes.get_yticklabels()[-1].get_text()
    assert first.startswith("stage")
    assert last.endswith(str(layers - 1))


def test_neighbours_that_hold_the_same_are_one_bar() -> None:
    stages = tuple(estimate(size) for size in (3, 2, 2, 2, 1))

    class Held(JobMemory):
        def __init__(self) -> None: ...

        job = SimpleNamespace(cluster=llmhw.Cluster("h100", 1))
        title, capacity_bytes = "five stages", 5.0

        def shown(self) -> Any:
            return stages

    labels = [text.get_text() for text in plot.memory(Held()).axes[0].get_yticklabels()]
    assert labels == ["stage 0", "stages 1 to 3", "stage 4"]


def test_a_step_of_a_job(steps: dict[str, TrainingEstimate]) -> None:
    figure = plot.train(steps["3D"])
    check_held(figure)
    assert [c for c in figure.axes[0].containers if isinstance(c, ErrorbarContainer)]
    check_held(plot.memory(steps["3D"]))


def service(**more: Any) -> Any:
    return llmhw.ServingJob(
        model=llmhw.model("llama-3-8b"), cluster=llmhw.Cluster("h100", 1), max_model_len=8192, **more
    )


@pytest.mark.parametrize("limits", [{}, {"slo_tpot": 0.02}, {"slo_tpot": 1e-6, "slo_ttft": 1e-6}, {"slo_tpot": 5.0}])
def test_the_curve_of_a_service(limits: dict[str, float]) -> None:
    found = serve(service(), input_tokens=1000, output_tokens=500, concurrency=48, **limits)
    figure = plot.serve(found)
    check_held(figure)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "asked: 48 at a time" in labels
    asked = next(line for line in figure.axes[0].lines if line.get_marker() == "D")
    assert asked.get_ydata()[0] == found.point.tokens_per_second
    assert ("misses a limit" in labels) == (limits not in ({}, {"slo_tpot": 5.0}))


@pytest.mark.parametrize("slo", [{}, {"slo_ttft": 0.5, "slo_tpot": 0.05}, {"slo_ttft": 600}])
@pytest.mark.parametrize("length", [1, 200])
def test_times_of_a_simulation(slo: dict[str, float], length: int) -> None:
    found = simulate_service(service(), rate=2, requests=60, input_tokens=100, output_tokens=length, **slo)
    for answer in (found, found.result):
        figure = plot.simulate(answer)
        check_held(figure)
        p50 = next(line for line in figure.axes[0].lines if line.get_label() == "p50")
        assert p50.get_xdata()[0] == found.result.ttft.p50
    empty = replace(found.result, ttft=NONE, tpot=NONE, latency=NONE, wait=NONE)
    with pytest.raises(LLMHWError, match="no request was answered"):
        plot.simulate(empty)


NONE = Spread(0, None, None, None, None, None, None)


def test_dots_of_a_validation() -> None:
    figure = plot.validate(published("training-memory"))
    check_held(figure)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    # rows that leave something open are apart
    assert {label.replace(", something assumed", "") for label in labels} == {
        *("allocated, bytes", "reserved, bytes", "device, bytes")
    }
    row = Prediction(predicted=1e-12, measured=1e12, unit="s", id="a")
    for rows in ((row,), tuple(replace(row, configuration=(str(i),)) for i in range(9000))):
        found = Validation(rows, (), tuple(groups(rows)))
        figure = plot.validate(found)
        check_held(figure)
        assert len(figure.axes[0].lines[0].get_xdata()) == (1 if len(rows) == 1 else 3000)
    with pytest.raises(LLMHWError, match="no row was predicted"):
        plot.validate(Validation((), (), ()))


@pytest.mark.parametrize("draw", ["memory", "train", "simulate", "validate"])
def test_axes_that_are_given_are_used(draw: str, steps: dict[str, TrainingEstimate]) -> None:
    answers: dict[str, Any] = {
        "memory": steps["3D"],
        "train": steps["3D"],
        "simulate": simulate_service(service(), concurrency=2, requests=20, output_tokens=20),
        "validate": published("training-memory"),
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 5), layout="constrained")
    assert getattr(plot, draw)(answers[draw], ax=right) is figure
    assert right.get_title(loc="left")
    assert not left.lines
    assert not left.patches


# -- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "start"), [("a.svg", b"<?xml"), ("b.PNG", b"\x89PNG"), ("c.pdf", b"%PDF")])
def test_a_figure_is_written_whole_and_always_alike(tmp_path: Path, name: str, start: bytes) -> None:
    path = tmp_path / name
    written = []
    for _ in range(2):
        plot.write(plot.memory_bars({"a": estimate(GIB)}), path)
        written.append(path.read_bytes())
        plt.close("all")
    assert written[0].startswith(start)
    assert written[0] == written[1]
    assert os.listdir(tmp_path) == [name]


def test_files_that_no_figure_is_written_to(tmp_path: Path) -> None:
    figure = plot.memory_bars({"a": estimate(GIB)})
    for name in ("a.jpg", "a", "a.svg.gz"):
        with pytest.raises(LLMHWError, match=r"must end in \.svg, \.png, \.pdf"):
            plot.write(figure, tmp_path / name)
    with pytest.raises(LLMHWError, match="cannot be written"):
        plot.write(figure, tmp_path / "missing" / "a.svg")
    table, link = tmp_path / "table.csv", tmp_path / "link.svg"
    table.write_text("a,b\n", encoding="utf-8")
    os.link(table, link)
    with pytest.raises(LLMHWError, match="is the file that is read"):
        plot.write(figure, link, inputs=[table])
    assert table.read_text(encoding="utf-8") == "a,b\n"


def test_without_matplotlib_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (plot.style, lambda: plot.memory_bars({"a": estimate(1)}), lambda: plot.lines({}, x="x", y="y")):
        with pytest.raises(LLMHWError, match=r"figures need matplotlib; install it with: pip install 'llmhw\[plot\]'"):
            draw()


def test_drawings_of_batches_and_pages() -> None:
    """What is drawn is what was simulated: tokens, prompts, and places that are held for nothing."""
    step = StepModel(0.01, prefill_token_seconds=2e-5)
    requests = [Request(0.0, 1000, 4), Request(0.01, 1500, 2), Request(0.05, 800, 5)]
    how = {"static": {"mode": "static", "early_return": True}, "continuous": {}, "apart": {"mode": "disaggregated"}}
    runs = {
        name: simulate(Engine(step, max_sequences=2, **options), requests, trace_requests=3)
        for name, options in how.items()
    }
    figure = plot.batching(runs)
    check_held(figure)
    for axes, run in zip(figure.axes, runs.values(), strict=True):
        blocks = [patch for patch in axes.patches if patch.get_alpha() is None]
        # the first token of an answer comes with its prompt
        assert len(blocks) == sum(request.output_tokens - 1 for request in requests), run.mode
    hatched = [[patch for patch in axes.patches if patch.get_hatch() and patch.get_width()] for axes in figure.axes]
    assert [len(found) for found in hatched] == [1, 0, 0]

    check_held(plot.request(runs["static"].requests_trace[0]))
    table = PageTable(blocks=6, block_tokens=4)
    table.add("A", 6)
    table.fork("A", "B")
    assert list(table) == ["A", "B"]
    assert len(plot.page_table(table).axes[0].patches) > 2 * table.blocks
    assert len(plot.pages({"a": [("A", 0.5), ("", 0)], "b": [("B", 1.0)]}).axes) == 2
    both = plot.reserved_and_paged(table, 12)  # A has a block of three pages, B another; both share two pages
    letters = [[text.get_text() for text in axes.texts if text.get_text()] for axes in both.axes]
    assert letters == [["A", "A", "B", "B"], ["B", "B"]]
