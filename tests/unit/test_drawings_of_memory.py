"""What drawings of work and memory tell is what the library counts. About 3 s."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib")

import matplotlib
import matplotlib.pyplot as plt

import llmhw
from llmhw.activations import activations
from llmhw.drawings import problems
from llmhw.drawings.compute import bounds, intensities, intensity_rows
from llmhw.drawings.memory import accumulation, flash_tiles, kept_layer, ladder, state_shards, step_life
from llmhw.peak import step_moments, step_peak
from llmhw.units import GIB

matplotlib.use("Agg")


def words(figure: matplotlib.figure.Figure) -> str:
    assert not problems(figure)
    said = " | ".join(text.get_text() for axes in figure.axes for text in axes.texts)
    plt.close(figure)
    return said


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_the_moments_of_a_step_are_in_order_and_hold_its_peak(recompute: str) -> None:
    spec = llmhw.model("tinyllama-1.1b")
    moments = step_moments(spec, seq_len=2048, recompute=recompute)
    peak = step_peak(spec, seq_len=2048, recompute=recompute)
    phases = [m.phase for m in moments]
    assert phases == sorted(phases, key=("forward", "backward", "optimizer").index)
    assert max(m.total for m in moments) == peak.total
    gradients = [float(m["gradients"]) for m in moments]
    kept = [float(m["activations"]) for m in moments if m.phase == "backward"]
    assert gradients == sorted(gradients)
    assert kept[0] > kept[-1]
    assert gradients[-1] == llmhw.training_states(spec, precision="bf16")["gradients"]


@pytest.mark.parametrize("model", ["llama-3-8b", "llama-2-7b", "mistral-7b"])
def test_a_drawn_layer_keeps_what_a_whole_model_keeps_of_it(model: str) -> None:
    """Two layers of a whole model less one: the sum of the drawing, found another way."""
    spec = llmhw.model(model)
    each = sum(
        (activations(spec, seq_len=1024, layers=range(n), head=False).total * sign) for n, sign in ((2, 1), (1, -1))
    )
    assert f"in all {each / 1024 / 2**10:.0f} KiB a token" in words(kept_layer(model, 1024))


def test_a_model_with_other_layers_is_refused() -> None:
    with pytest.raises(llmhw.LLMHWError, match="the drawing knows layers as Llama has them"):
        kept_layer("gpt2")


def test_scores_are_six_bytes_a_pair_and_head() -> None:
    said = words(flash_tiles("llama-3-8b", 2048))
    assert f"{6 * 32 * 2048**2 / GIB:.2f} GiB" in said or f"{6 * 32 * 2048**2 / 2**20:.0f} MiB" in said


def test_bounds_are_never_further_apart_than_two() -> None:
    for tokens in (180, 256, 295, 400):
        said = words(bounds(tokens))
        factor = float(said.split("the sum is ")[1].split(" times")[0])
        assert 1 <= factor <= 2


def test_what_a_byte_is_used_for() -> None:
    rows = intensity_rows("llama-3-70b")
    assert rows["dot product"] == 0.5
    assert rows["matrix, 1 token"] == pytest.approx(1, rel=0.001)
    assert rows["attention, decode"] == pytest.approx(64 / 8, rel=0.001)
    assert intensity_rows("llama-2-7b")["attention, decode"] == pytest.approx(1, rel=0.001)
    words(intensities("llama-2-7b", "l4"))


@pytest.mark.parametrize(("batch", "steps"), [(32, 8), (8, 2)])
def test_accumulation_divides_activations(batch: int, steps: int) -> None:
    one = activations(llmhw.model("llama-2-7b"), seq_len=4096, batch=batch // steps).total
    assert f"{one / GIB:.0f} GiB each time" in words(accumulation(batch=batch, steps=steps))


def test_a_life_tells_the_peaks_of_its_phases() -> None:
    for recompute in ("none", "full"):
        said = words(step_life("tinyllama-1.1b", 4, 2048, recompute))
        peak = step_peak(llmhw.model("tinyllama-1.1b"), batch=4, seq_len=2048, recompute=recompute)
        assert all(f"{phase.total / GIB:.1f}" in said for phase in peak.phases.values())


def test_rungs_are_open_until_they_are_known() -> None:
    rungs = {"whole": 200 * GIB, "small": 20 * GIB}
    assert [words(ladder(rungs, known=list(rungs)[:n], capacity=48 * GIB)).count("?") for n in range(3)] == [2, 1, 0]
    said = words(ladder(rungs, known=list(rungs), capacity=48 * GIB))
    assert "20.0 GiB fits" in said
    assert "200 GiB fits" not in said


def test_shards_add_up() -> None:
    said = words(state_shards("llama-2-7b", ranks=(1, 2)))
    assert {"100.4 GiB each", "50.2 GiB each"} <= set(said.split(" | "))
