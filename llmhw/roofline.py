"""The roofline: which limit binds, arithmetic or memory bandwidth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmhw.formula import formula
from llmhw.units import ceil_div, maximum, minimum


@formula(source="Williams, Waterman and Patterson 2009", unit="FLOP/byte")
def arithmetic_intensity(*, flops: Any, memory_bytes: Any) -> Any:
    """FLOPs done for each byte moved between memory and chip.

    >>> arithmetic_intensity(flops=2 * 70e9, memory_bytes=2 * 70e9)
    1.0
    """
    return flops / memory_bytes


@formula(source="Williams, Waterman and Patterson 2009", unit="FLOP/byte")
def ridge_point(*, peak_flops_per_second: Any, bandwidth_bytes_per_second: Any) -> Any:
    """Arithmetic intensity above which a device is limited by arithmetic, below by bandwidth.

    >>> round(ridge_point(peak_flops_per_second=989.4e12, bandwidth_bytes_per_second=3.35e12))
    295
    """
    return peak_flops_per_second / bandwidth_bytes_per_second


@formula(source="Williams, Waterman and Patterson 2009", unit="seconds")
def roofline_seconds(
    *, flops: Any, memory_bytes: Any, peak_flops_per_second: Any, bandwidth_bytes_per_second: Any
) -> Any:
    """Least time of an operation: the slower of its arithmetic and its memory traffic.

    A lower bound: nothing reaches both peaks, and the sum of the two is an upper bound when nothing overlaps.

    >>> roofline_seconds(flops=140e9, memory_bytes=140e9, peak_flops_per_second=1e15, bandwidth_bytes_per_second=3.5e12)
    0.04
    """
    return maximum(flops / peak_flops_per_second, memory_bytes / bandwidth_bytes_per_second)


@formula(source="the energy of an operation does not depend on the clock, to a first approximation", unit="fraction")
def power_share(*, watts: Any, flops_per_joule: Any, flops_per_second: Any) -> Any:
    """Share of a rate that the board's power can feed; at most 1.

    >>> power_share(watts=350, flops_per_joule=1e12, flops_per_second=500e12)
    0.7
    """
    return minimum(1.0, watts * flops_per_joule / flops_per_second)


@formula(source="every weight and cached element is read once per step; lower bound of the step's time", unit="token/s")
def decode_tokens_per_second_bound(
    *, batch: Any, weight_bytes: Any, cache_bytes: Any, bandwidth_bytes_per_second: Any
) -> Any:
    """Most tokens per second that generation can reach, over all sequences of a batch.

    batch                       sequences decoded together
    weight_bytes                weights read in a step (of a mixture of experts: those the batch touches)
    cache_bytes                 key-value cache of the whole batch
    bandwidth_bytes_per_second  memory bandwidth of all devices together

    >>> round(decode_tokens_per_second_bound(batch=1, weight_bytes=140e9, cache_bytes=0,
    ...                                      bandwidth_bytes_per_second=8 * 3.35e12))
    191
    """
    return batch * bandwidth_bytes_per_second / (weight_bytes + cache_bytes)


# -- what a device reaches ----------------------------------------------------------------------

# Output tiles that matrix kernels offer (rows, columns), and the share of the best rate that each reaches: a larger
# tile reuses what it loads more often. CUTLASS's default shapes.
TILES = ((256, 128, 1.0), (128, 256, 1.0), (128, 128, 0.94), (128, 64, 0.78), (64, 64, 0.5))


@formula(source="tile and wave quantization: NVIDIA, Matrix Multiplication Background User's Guide (2023)", unit="FLOP")
def tiled_flops(
    *, m: Any, n: Any, k: Any, groups: Any = 1, tile_m: Any, tile_n: Any, fill: Any = 0, units: Any = 1
) -> Any:
    """FLOPs that a matrix product costs once it is cut into tiles and the tiles are dealt to the multiprocessors.

    m, n, k   rows, columns and inner length
    groups    products of that size done together
    tile_m, tile_n   output tile of one multiprocessor
    fill      inner length that a tile loses while its pipeline fills and its result is written
    units     multiprocessors; the last wave of tiles may leave some of them idle

    >>> tiled_flops(m=4096, n=4096, k=4096, tile_m=256, tile_n=128, units=108) / (2 * 4096**3)
    1.0546875
    """
    tiles = groups * ceil_div(m, tile_m) * ceil_div(n, tile_n)
    waves = ceil_div(tiles, units)
    return waves * units * 2 * tile_m * tile_n * (k + fill)


@formula(source="every operand once from memory, the result once to it", unit="bytes")
def matmul_bytes(
    *, m: Any, n: Any, k: Any, groups: Any = 1, a_bytes: Any = 2, b_bytes: Any = 2, out_bytes: Any = 2
) -> Any:
    """Least memory traffic of a matrix product, with the bytes of an element of each operand and of the result.

    >>> matmul_bytes(m=1, n=4096, k=4096)
    33570816
    """
    return groups * (m * k * a_bytes + k * n * b_bytes + m * n * out_bytes)


@dataclass(frozen=True, slots=True)
class Rates:
    """What operations reach on one device.

    matmul_flops_per_second      large matrix products, by number format
    forward_, backward_flops_per_second   attention's core, over the pairs that the masks leave
    state_flops_per_second       linear attention's state
    bandwidth_bytes_per_second   streaming kernels
    units                        multiprocessors that tiles are dealt to; None: not known, no waves
    fill                         see `tiled_flops`
    ramp                         tokens of a sequence at which attention's core reaches half of its rate
    unaligned                    share of the rate that products reach whose inner or outer length is no multiple of 8:
                                 tensor cores read 16 bytes at a time
    gap_seconds                  from the end of one kernel to the full speed of the next
    """

    matmul_flops_per_second: Mapping[str, float]
    forward_flops_per_second: float
    backward_flops_per_second: float
    state_flops_per_second: float
    bandwidth_bytes_per_second: float
    units: int | None
    fill: float
    ramp: float
    unaligned: float
    gap_seconds: float


# Bytes of an element that a product reads in each format; scales of blocks are counted in.
OPERAND_BYTES = {
    "fp32": 4.0,
    "tf32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "fp8-block": 1.0 + 4 / 128,
    "mxfp8": 1.0 + 1 / 32,
    "nvfp4": 0.5 + 1 / 16,
}


def matmul_seconds(
    rates: Rates, fmt: str, *, m: float, n: float, k: float, groups: int = 1, out_bytes: float = 2, accumulate: int = 0
) -> float:
    """Time of a matrix product on a device: the best tile shape, or the memory traffic if that takes longer.

    accumulate   1 if the result is added to what is there, which is read first
    """
    rate = rates.matmul_flops_per_second[fmt]
    if rates.units is None:
        least = 2.0 * groups * m * n * (k + rates.fill) / rate
    else:
        least = (
            min(
                tiled_flops(m=m, n=n, k=k, groups=groups, tile_m=tm, tile_n=tn, fill=rates.fill, units=rates.units)
                / share
                for tm, tn, share in TILES
            )
            / rate
        )
    if k % 8 or n % 8:
        least /= rates.unaligned
    size = OPERAND_BYTES[fmt]
    moved = matmul_bytes(
        m=m, n=n, k=k, groups=groups, a_bytes=size, b_bytes=size, out_bytes=out_bytes * (1 + accumulate)
    )
    return float(max(least, moved / rates.bandwidth_bytes_per_second)) + rates.gap_seconds
