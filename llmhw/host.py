"""A machine's processor and its memory, and the link that one device hangs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmhw.formula import formula
from llmhw.hardware import Accelerator, Link, accelerator, given, link_of
from llmhw.units import minimum

# Share of a link's rate that copies from pinned host memory reach, where the catalog has none: PCIe's of nvbandwidth.
_LINK_SHARE = 0.8


@formula(
    source="host memory comes over the device's own link, from a memory that all devices of the host share",
    unit="seconds",
)
def host_read_seconds(
    *, memory_bytes: Any, link_bytes_per_second: Any, host_bytes_per_second: Any, devices: Any = 1
) -> Any:
    """Time in which each of several devices reads so many bytes of host memory.

    >>> host_read_seconds(memory_bytes=5e9, link_bytes_per_second=25e9, host_bytes_per_second=40e9, devices=2)
    0.25
    """
    return memory_bytes / minimum(link_bytes_per_second, host_bytes_per_second / devices)


@dataclass(frozen=True)
class Host:
    """A machine's processor and its memory, and the link that one device hangs on.

    >>> host_of("h100").cpu.name, round(host_of("rtx 4090", "60GB/s").link_bytes_per_second / 1e9)
    ('EPYC 9654', 24)
    """

    cpu: Accelerator
    link_bytes_per_second: float


def host_of(device: Accelerator | str, wanted: str | None = None) -> Host:
    """The host of a device: the processor that was asked for, or one that is usual beside such a device.

    wanted   a processor of the catalog, or the bandwidth of the host's memory: "83GB/s"
    """
    device = accelerator(device) if isinstance(device, str) else device
    link = link_of("host_link", device.require("host_link"))
    assert isinstance(link, Link)
    reached = link.measured_bytes_per_second or link.bytes_per_second * (link.efficiency or _LINK_SHARE)
    return Host(host_cpu(device, wanted), reached)


def host_cpu(device: Accelerator, wanted: str | None = None) -> Accelerator:
    """The processor beside a device; [inferred] unless asked for: a desktop's beside GDDR, a server's beside HBM."""
    usual = accelerator("EPYC 9654" if "HBM" in device.memory_type else "Ryzen 9 7950X")
    if wanted is None:
        return usual
    return given(usual, bandwidth=wanted) if wanted.lower().endswith("b/s") else accelerator(wanted)
