"""The roofline: which limit binds, arithmetic or memory bandwidth."""

from __future__ import annotations

from typing import Any

from llmhw.formula import formula
from llmhw.units import maximum


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
