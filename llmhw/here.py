"""The accelerators of this machine, as the tools of their drivers print them.

Nothing is run when this module is imported. `devices_here()` asks `nvidia-smi`, `amd-smi`, `rocm-smi` and, on a Mac,
`sysctl` and `system_profiler`; what they print is looked up in the catalog.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmhw.hardware import Accelerator, fitting, given
from llmhw.units import MIB, LLMHWError, shown

# Tools answer within a second; a driver that hangs must not hang us.
SECONDS = 20.0
# Drivers of different years print totals that differ by that much: 16160 and 16384 MiB of a V100.
_SAME = 0.02
_BY_HAND = (
    "give the device by hand: --gpu NAME (`llmhw gpus` lists them), or --gpu-memory, --gpu-bandwidth, --gpu-tflops"
)


@dataclass(frozen=True, slots=True)
class Card:
    """One accelerator as a tool prints it.

    tool           the program that printed it
    name           the product, in the driver's words
    memory_bytes   what the driver offers in all; None if it does not say
    as_sold        whether `memory_bytes` is the capacity as sold, which a Mac prints
    slices         what MIG cuts it into; empty if it is whole
    """

    tool: str
    name: str
    memory_bytes: int | None
    as_sold: bool = False
    slices: tuple[str, ...] = ()

    def __str__(self) -> str:
        memory = "" if self.memory_bytes is None else f" with {self.memory_bytes // MIB:,} MiB"
        return f"{self.name}{memory}"


# -- what the tools print ---------------------------------------------------------------------


def _run(*command: str) -> str | None:
    """What a program prints; None if there is none of that name. A failure raises `LLMHWError`."""
    from shutil import which
    from subprocess import DEVNULL, PIPE, STDOUT, TimeoutExpired, run

    path, tool = which(command[0]), command[0]
    if path is None:
        return None
    try:
        done = run([path, *command[1:]], stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, timeout=SECONDS, check=False)
    except TimeoutExpired:
        raise LLMHWError(f"{tool} did not answer in {SECONDS:g} seconds; {_BY_HAND}") from None
    except OSError as error:
        raise LLMHWError(f"{tool} cannot be run: {error.strerror or error}; {_BY_HAND}") from None
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        raise LLMHWError(f"{tool} failed: {_first(text) or f'exit code {done.returncode}'}; {_BY_HAND}")
    return text


def _first(text: str) -> str:
    """The first line that says something, in characters that print."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return "".join(c for c in line[:160] if c.isprintable()).rstrip(".")


def _unreadable(tool: str, text: str) -> LLMHWError:
    return LLMHWError(f"{tool} printed what cannot be read: {shown(_first(text))}; {_BY_HAND}")


def _nvidia() -> list[Card]:
    fields = "name,memory.total,mig.mode.current"
    try:
        text = _run("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits")
    except LLMHWError as error:
        if "No devices were found" in str(error):
            return []
        if "not a valid field" not in str(error):  # of an old driver, that knows no MIG
            raise
        text = _run("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    cards = []
    for line in lines:
        name, *cells = (cell.strip() for cell in line.split(","))
        if not cells or not re.match(r"[A-Za-z]", name) or re.search(r"\berr", name, re.IGNORECASE):
            raise _unreadable("nvidia-smi", line)
        memory = int(cells[0].split()[0]) * MIB if re.fullmatch(r"\d+( MiB)?", cells[0]) else None
        if memory is None and not re.fullmatch(r"\[?(n/a|not supported)\]?", cells[0], re.IGNORECASE):
            raise _unreadable("nvidia-smi", line)
        split = cells[1:2] == ["Enabled"]
        cards.append(Card("nvidia-smi", name, memory, slices=_slices() if split else ()))
    return cards


def _slices() -> tuple[str, ...]:
    found = re.findall(r"^\s+MIG (\S+)", _run("nvidia-smi", "-L") or "", re.MULTILINE)
    return tuple(f"{count} x {name}" for name, count in Counter(found).items()) or ("none made yet",)


def _json(tool: str, text: str) -> Any:
    # warnings of the tool may stand before it
    begin = min((i for i in (text.find("{"), text.find("[")) if i >= 0), default=-1)
    try:
        return json.loads(text[begin:]) if begin >= 0 else None
    except (ValueError, RecursionError):
        raise _unreadable(tool, text) from None


def _number(value: Any) -> int | None:
    text = str(value).strip()
    return int(text) if re.fullmatch(r"\d{1,18}", text) else None


def _amd() -> list[Card]:
    text = _run("amd-smi", "static", "--asic", "--vram", "--json")
    if text is None:
        return []
    found = _json("amd-smi", text)
    found = found.get("gpu_data", found) if isinstance(found, Mapping) else found
    cards = []
    for one in found if isinstance(found, list) else []:
        asic, vram = (one.get(key) if isinstance(one, Mapping) else None for key in ("asic", "vram"))
        size = vram.get("size") if isinstance(vram, Mapping) else None
        mib = _number(size.get("value")) if isinstance(size, Mapping) else None
        name = asic.get("market_name") if isinstance(asic, Mapping) else None
        if not isinstance(name, str) or not re.search(r"[A-Za-z]{2}", name) or name == "N/A":
            raise _unreadable("amd-smi", text)
        cards.append(Card("amd-smi", name, mib * MIB if mib else None))
    return cards


def _rocm() -> list[Card]:
    text = _run("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json")
    if text is None:
        return []
    found = _json("rocm-smi", text)
    cards = []
    for key, one in (found or {}).items() if isinstance(found, Mapping) or not found else ():
        if not key.startswith("card") or not isinstance(one, Mapping):
            continue
        cells = {name.casefold(): value for name, value in one.items()}
        names = [str(cells.get(name, "")) for name in ("card series", "card model", "market name")]
        name = next((name for name in names if re.search(r"[A-Za-z]{2}", name) and not name.startswith("0x")), "")
        if not name or name.upper() == "N/A":
            raise _unreadable("rocm-smi", text)
        cards.append(Card("rocm-smi", name, _number(cells.get("vram total memory (b)"))))
    return cards


def _mac() -> list[Card]:
    try:
        text = _run("sysctl", "-n", "machdep.cpu.brand_string", "hw.memsize")
    except LLMHWError:  # the sysctl of another system
        return []
    lines = (text or "").split("\n")
    memory = _number(lines[1]) if len(lines) > 1 else None
    if not lines[0].startswith("Apple "):
        return []
    if memory is None:
        raise _unreadable("sysctl", text or "")
    profile = _run("system_profiler", "SPDisplaysDataType", "-json")
    cores = re.search(r'"sppci_cores"\s*:\s*"(\d+)"', profile or "")
    name = f"{lines[0].strip()} {cores[1]}-core" if cores else lines[0].strip()
    return [Card("sysctl", name, memory, as_sold=True)]


_TOOLS: tuple[Callable[[], list[Card]], ...] = (_nvidia, _amd, _rocm, _mac)


def cards() -> list[Card]:
    """All accelerators of this machine, as the first tool that shows any prints them.

    Raises `LLMHWError`, in one line, where a tool fails or prints what cannot be read and no other shows a card.
    """
    failed = None
    for tool in _TOOLS:
        try:
            found = tool()
        except LLMHWError as error:
            failed = failed or error
            continue
        if found:
            return found
    if failed:
        raise failed
    return []


def processor() -> str:
    """The name of this machine's CPU; "" if the system does not say it in /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")[:10_000]
    except OSError:
        return ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


# -- the catalog's devices for them -----------------------------------------------------------


def device_of(card: Card) -> Accelerator:
    """The catalog's device for a card, with the memory that the card shows where that differs.

    Raises `LLMHWError`, in one line, for a card that is not in the catalog or is cut into slices.
    """
    if card.slices:
        raise LLMHWError(
            f"{card.tool} shows {card}, cut by MIG: {', '.join(card.slices)}; give what a slice has by --gpu-memory, "
            "--gpu-bandwidth and --gpu-tflops"
        )
    try:
        found = fitting(card.name)
    except LLMHWError:
        size = f"{card.memory_bytes // MIB}MiB" if card.memory_bytes else "24GB"
        raise LLMHWError(
            f"{card.tool} shows {card}, which the catalog does not have; give --gpu-memory {size} with --gpu-bandwidth "
            "and --gpu-tflops, as in --gpu-bandwidth 1008GB/s --gpu-tflops bf16=165"
        ) from None
    if card.memory_bytes is None:
        return _one(card, found)
    if card.as_sold:
        return _one(card, [a for a in found if a.memory_vendor == f"{card.memory_bytes // 2**30} GB"] or found)
    best = _nearest(card.memory_bytes, found)
    if best is None:
        return _of_memory(card, _one(card, found))
    return _of_memory(card, best) if abs(card.memory_bytes / best.memory_bytes - 1) > _SAME else best


def _one(card: Card, found: list[Accelerator]) -> Accelerator:
    if len(found) == 1:
        return found[0]
    raise LLMHWError(
        f"{card.tool} shows {card}, which may be {' or '.join(a.name for a in found[:6])}; give one of them by --gpu"
    )


def _nearest(memory: int, found: Iterable[Accelerator]) -> Accelerator | None:
    """The one whose memory is that, with or without ECC; None if none is near, or two are."""
    off = [
        (min(abs(memory / size - 1) for size in (a.memory_bytes, a.memory_ecc_bytes or a.memory_bytes)), a)
        for a in found
    ]
    near = sorted((pair for pair in off if pair[0] <= 0.03), key=lambda pair: pair[0])
    return near[0][1] if near and (len(near) == 1 or near[1][0] > near[0][0]) else None


def _of_memory(card: Card, device: Accelerator) -> Accelerator:
    made = given(device, memory=f"{(card.memory_bytes or 0) // MIB}MiB")
    return replace(made, memory_status="measured", memory_source=f"as {card.tool} shows it")


def devices_here() -> tuple[Accelerator, int]:
    """The device of this machine, and how many of it there are.

    Raises `LLMHWError`, in one line, where there is none, or where there are several kinds.
    """
    found = cards()
    if not found:
        raise LLMHWError(
            "no accelerator is here: none of nvidia-smi, amd-smi, rocm-smi and macOS's sysctl shows one; " + _BY_HAND
        )
    kinds = Counter(found)
    if len(kinds) > 1:
        listed = " and ".join(f"{count} x {card}" for card, count in kinds.items())
        raise LLMHWError(f"{found[0].tool} shows {listed}; give one of them by --gpu, and how many by --gpus")
    return device_of(found[0]), len(found)
