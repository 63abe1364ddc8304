"""Messages between ranks of this machine: bus bandwidth of each collective, over gloo on CPUs and NCCL on GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from llmhw.measure.launch import run_cases

_SIZES = (2**12, 2**20, 2**24, 2**26)
_TOY = (2**12, 2**16)


@dataclass(frozen=True, slots=True)
class Talk:
    """What the ranks are told: plain values only. `collectives` tells a rank that this is its job."""

    ranks: int
    sizes: tuple[int, ...]
    repeats: int = 5
    collectives: bool = True


def bus_share(kind: str, ranks: int) -> float:
    """Bytes that cross a rank's link over the bytes of the whole message, as nccl-tests count bus bandwidth.

    >>> bus_share("all-reduce", 4), bus_share("all-gather", 4), bus_share("broadcast", 4)
    (1.5, 0.75, 1.0)
    """
    part = (ranks - 1) / ranks
    return {"all-reduce": 2 * part, "all-gather": part, "reduce-scatter": part, "all-to-all": part}.get(kind, 1.0)


def run_talk(case: dict[str, Any], device: str) -> dict[str, Any]:
    """What one rank does: each collective at each size; the fastest of some, as the slowest rank sees it."""
    import torch
    import torch.distributed as dist

    ranks, found = case["ranks"], []
    for size in case["sizes"]:
        count = max(1, size // 4 // ranks) * ranks
        whole, part = torch.ones(count, device=device), torch.ones(count // ranks, device=device)
        other = torch.empty_like(whole)
        calls: dict[str, Callable[[], Any]] = {
            "all-reduce": partial(dist.all_reduce, whole),
            "all-gather": partial(dist.all_gather_into_tensor, whole, part),
            "reduce-scatter": partial(dist.reduce_scatter_tensor, part, whole),
            "all-to-all": partial(dist.all_to_all_single, other, whole),
            "broadcast": partial(dist.broadcast, whole, 0),
        }
        for kind, call in calls.items():
            taken = []
            for _ in range(case["repeats"] + 1):
                dist.barrier()
                begin = time.perf_counter()
                call()
                if device == "cuda":
                    torch.cuda.synchronize()
                taken.append(time.perf_counter() - begin)
            slowest = torch.tensor(taken[1:], dtype=torch.float64, device=device)
            dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
            found.append({"kind": kind, "bytes": 4 * count, "seconds": float(slowest.min())})
    return {"collectives": found}


def measured_collectives(ranks: int, device: str, *, toy: bool = False) -> list[dict[str, Any]]:
    """Kind, bytes and seconds of each collective between so many ranks of this machine."""
    case = Talk(ranks, _TOY if toy else _SIZES)
    found: list[dict[str, Any]] = run_cases([case], device=device)[0][0]["collectives"]
    return found
