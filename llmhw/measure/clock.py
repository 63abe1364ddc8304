"""How long a piece of PyTorch takes on this machine: the undisturbed time, and how it is told from disturbed ones."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from llmhw.units import LLMHWError, check_choice, check_count

DEVICES = ("auto", "cpu", "cuda")
# Number formats that are measured, as torch names them.
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_REPEATS, _MOST = 3, 200


@dataclass(frozen=True)
class Clock:
    """Times calls on one device.

    device    cpu or cuda
    threads   of PyTorch on a CPU
    budget    seconds that one figure may take; it is measured at least three times

    On a GPU the median between two events. On a CPU the fastest of the calls, since other programs only ever add; with
    one thread its CPU time, in which the time that other programs had the core does not count at all.

    >>> Clock("cpu", 1, budget=0.01).seconds(lambda: sum(range(1000))) > 0
    True
    """

    device: str
    threads: int
    budget: float = 0.3

    @property
    def name(self) -> str:
        """How times are taken, in words."""
        if self.device == "cuda":
            return "median between CUDA events"
        return "CPU time of the fastest call" if self.threads == 1 else "wall time of the fastest call"

    def wait(self) -> None:
        """Until the device has nothing left to do."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], Any]) -> float:
        """Time of a call, once it has been made twice."""
        for _ in range(2):
            call()
        self.wait()
        taken: list[float] = []
        begin = time.monotonic()
        while len(taken) < _REPEATS or (time.monotonic() - begin < self.budget and len(taken) < _MOST):
            taken.append(self._once(call))
        return statistics.median(taken) if self.device == "cuda" else min(taken)

    def _once(self, call: Callable[[], Any]) -> float:
        if self.device == "cuda":
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            call()
            last.record()
            torch.cuda.synchronize()
            return float(first.elapsed_time(last)) / 1e3
        now = time.thread_time if self.threads == 1 else time.perf_counter
        begin = now()
        call()
        return now() - begin


def pick_device(device: str) -> str:
    """cpu or cuda, of `DEVICES`."""
    check_choice("device", device, DEVICES)
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise LLMHWError("device='cuda' is not here: PyTorch sees no GPU; use device='cpu'")
    return "cuda" if there and device != "cpu" else "cpu"


@contextlib.contextmanager
def threads_of(count: int | None) -> Iterator[int]:
    """PyTorch with so many threads on the CPU meanwhile; None: as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(check_count("threads", count, 1, most=1024) if count is not None else before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
