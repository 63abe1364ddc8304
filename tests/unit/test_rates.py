"""Operations on one device: tiles, waves, and which limit binds; what a device and a training software reach."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmhw import accelerator
from llmhw.block import Matmul
from llmhw.catalog import read_calibration
from llmhw.rates import IDEAL as PERFECT
from llmhw.rates import (
    OPERAND_BYTES,
    TILES,
    Rates,
    TrainingConstants,
    cautious,
    family_of,
    matmul_bytes,
    matmul_seconds,
    tiled_flops,
    training_constants,
    training_rates,
)
from llmhw.trainers import trainer, trainer_names

# An H100 that reaches its datasheet.
PEAK, BANDWIDTH = 989.4e12, 3.35e12
IDEAL = Rates(
    flops_per_second={"bf16": PEAK, "fp8": 2 * PEAK},
    forward_flops_per_second=PEAK,
    backward_flops_per_second=PEAK,
    state_flops_per_second=PEAK,
    bandwidth_bytes_per_second=BANDWIDTH,
    units=None,
    fill=0.0,
    ramp=0.0,
    unaligned=1.0,
    gap_seconds=0.0,
)
sizes = st.integers(1, 4096).map(lambda n: 8 * n)


def seconds(rates: Rates, fmt: str, **lengths: int) -> float:
    op, element = Matmul(name="", part="", **lengths), OPERAND_BYTES[fmt]
    return float(matmul_seconds(**rates.product(fmt, op, a_bytes=element, b_bytes=element)))


def test_a_large_product_takes_its_flops_at_the_peak() -> None:
    assert seconds(IDEAL, "bf16", m=8192, n=8192, k=8192) == pytest.approx(2 * 8192**3 / PEAK)


def test_a_thin_product_takes_its_traffic() -> None:
    """One row times a matrix: the matrix is read, 2 bytes an element."""
    thin = seconds(IDEAL, "bf16", m=1, n=8192, k=8192)
    assert thin == pytest.approx((8192 * 8192 + 2 * 8192) * 2 / BANDWIDTH)
    assert seconds(IDEAL, "fp8", m=1, n=8192, k=8192) == pytest.approx(thin / 2, rel=1e-3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(m=sizes, n=sizes, k=sizes, groups=st.integers(1, 8))
def test_no_product_beats_the_roofline(m: int, n: int, k: int, groups: int) -> None:
    arithmetic = 2 * groups * max(m, 16) * n * k / PEAK  # Williams et al. 2009: the slower of the two
    least = max(arithmetic, matmul_bytes(m=m, n=n, k=k, groups=groups) / BANDWIDTH)
    dealt = replace(IDEAL, units=132)
    times = [seconds(r, "bf16", m=m, n=n, k=k, groups=groups) for r in (IDEAL, dealt, replace(dealt, fill=128.0))]
    assert times[0] == pytest.approx(least)
    assert times == sorted(times)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(m=sizes, n=sizes, k=sizes)
def test_half_the_product_never_takes_longer(m: int, n: int, k: int) -> None:
    rates = replace(IDEAL, units=132, fill=128.0, gap_seconds=3e-6)
    whole = seconds(rates, "bf16", m=2 * m, n=2 * n, k=2 * k)
    for size in ({"m": m, "n": 2 * n, "k": 2 * k}, {"m": 2 * m, "n": n, "k": 2 * k}, {"m": 2 * m, "n": 2 * n, "k": k}):
        assert seconds(rates, "bf16", **size) <= whole


def test_waves_by_hand() -> None:
    """4096 x 4096 in tiles of 256 x 128 is 512 tiles: 4 waves of 132 units, which have room for 528."""
    cost = tiled_flops(m=4096, n=4096, k=4096, tile_m=256, tile_n=128, units=132)
    assert cost / (2 * 4096**3) == 528 / 512
    # one tile more in a row begins a fifth wave of rows: 17 x 32 = 544 tiles
    more = tiled_flops(m=4096 + 1, n=4096, k=4096, tile_m=256, tile_n=128, units=132)
    assert more / cost == 5 / 4


def test_the_best_tile_is_chosen() -> None:
    """A product of 64 rows wastes three quarters of a tile of 256; the small tile reaches half of the rate."""
    rates = replace(IDEAL, units=1, bandwidth_bytes_per_second=float("inf"))
    assert seconds(rates, "bf16", m=64, n=64, k=65536) == pytest.approx(2 * 64 * 64 * 65536 / 0.5 / PEAK)
    assert [share for *_, share in TILES] == sorted((share for *_, share in TILES), reverse=True)


def test_odd_lengths_leave_the_tensor_cores() -> None:
    rates = replace(IDEAL, unaligned=0.1)
    even, odd = (seconds(rates, "bf16", m=4096, n=n, k=4096) for n in (4096, 4097))
    assert odd / even == pytest.approx(10, rel=1e-3)


def test_bytes_of_operands() -> None:
    """mxfp8 has a scale of a byte for 32 elements, nvfp4 one for 16."""
    assert OPERAND_BYTES["mxfp8"] == (32 + 1) / 32
    assert OPERAND_BYTES["nvfp4"] == (16 * 0.5 + 1) / 16


# -- what a device and a training software reach ----------------------------------------------

KNOWN = read_calibration("training_time")


@pytest.mark.parametrize("software", trainer_names())
@pytest.mark.parametrize("device", ["a100 80gb sxm", "h100", "b200", "rtx 4090"])
def test_a_more_special_constant_wins(device: str, software: str) -> None:
    """What holds for all, then for the family of devices, then for the software, which may scale what was found."""
    found = training_constants(accelerator(device), trainer(software))
    running: dict[str, Any] = {}
    for name, word in trainer(software).switches:
        running |= KNOWN["switches"].get(name, {}).get(word, {})
    family = KNOWN["families"][family_of(TrainingConstants, accelerator(device))]
    for f in fields(TrainingConstants):
        told = next((group[f.name] for group in (running, family, KNOWN["common"]) if f.name in group), f.default)
        if f.name == "attention":
            told = family.get(running.get("attention_kernel"), told)
        assert getattr(found, f.name) == pytest.approx(told * running.get(f"{f.name}_share", 1.0)), f.name


def test_nothing_that_was_measured_is_better_than_ideal() -> None:
    """Nor worse than what is called cautious."""
    shares = ("matmul", "matmul8", "matmul4", "attention", "state", "bandwidth", "inside", "between", "unaligned")
    lost = ("fill", "gap", "ramp", "cast", "host", "inside_latency", "between_latency", "contention", "jitter")
    hidden = ("tp_exposed", "ep_exposed", "pp_exposed", "dp_exposed", "gather_exposed")
    for software in trainer_names():
        found = training_constants(accelerator("h100"), trainer(software))
        careful = cautious(found)
        for name in shares:
            assert getattr(careful, name) <= getattr(found, name) <= getattr(PERFECT, name), name
        for name in (*lost, *hidden):
            assert getattr(careful, name) >= getattr(found, name) >= getattr(PERFECT, name), name
        assert all(getattr(careful, name) >= 1 for name in hidden)


def test_a_board_short_of_power_runs_all_tensor_cores_slower() -> None:
    """At 700 W and 5e11 FLOP/J an H100 feeds 350 of its 989.4 TFLOP/s, in 8 bit twice as many."""
    device = accelerator("h100")
    full, short = (training_rates(device, replace(PERFECT, per_joule=j), "fp8") for j in (1e15, 5e11))
    share = 700 * 5e11 / device.peak("bf16")
    assert short.flops_per_second == pytest.approx({f: share * rate for f, rate in full.flops_per_second.items()})
    assert full.flops_per_second == pytest.approx({"bf16": device.peak("bf16"), "fp8": device.peak("fp8")})
    assert short.forward_flops_per_second == pytest.approx(share * full.forward_flops_per_second)
    assert short.bandwidth_bytes_per_second == full.bandwidth_bytes_per_second
