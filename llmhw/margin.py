"""Whether a need fits what is offered: well, barely, or not, by how far predictions of its kind are off.

One rule for every question. What is predicted to need no more than there is fits; it fits barely where one of ten
measured needs is so far above its prediction that it would not.
"""

from __future__ import annotations

from functools import cache

from llmhw.catalog import read_calibration
from llmhw.checks import checked
from llmhw.hardware import Accelerator
from llmhw.language import said
from llmhw.units import check_choice, format_quantity, format_range

# Kind of prediction -> where `calibration.json` says how far it is off.
_RESIDUALS = {
    "training": ("training_memory", "all"),
    "paged": ("serving_memory", "kv-capacity, share of the budget"),
    "llama.cpp": ("serving_memory", "inference-memory, whole device"),
    "generate": ("serving_memory", "inference-memory, reserved"),
}


@cache
def known_error(kind: str) -> float:
    """Share of a predicted need that nine of ten measured needs are within.

    kind   training; paged: what an engine holds beside its cache, as a share of its budget; llama.cpp; generate: of
           transformers

    >>> 0 < known_error("llama.cpp") < known_error("training") < 0.1 and 0 < known_error("paged") < 0.1
    True
    """
    subject, entry = _RESIDUALS[check_choice("kind", kind, _RESIDUALS)]
    return float(read_calibration(subject)["residuals"][entry]["p90_abs_error"])


@checked
def visible_bytes(device: Accelerator) -> float:
    """Memory of a device that a program gets: CUDA shows less than nvidia-smi, by what the driver keeps.

    >>> from llmhw import accelerator
    >>> round(visible_bytes(accelerator("RTX 3090")) / 2**30, 2)  # start-up logs of vLLM: 23.55 to 23.58
    23.55
    """
    driver = read_calibration("serving_memory")["driver_bytes"] if device.vendor == "NVIDIA" else 0.0
    return device.memory_bytes - float(driver)


def barely(needed: float, offered: float, error: float) -> bool:
    """Whether a need fits, but by less than the known error.

    >>> barely(10, 10.5, 0.08), barely(10, 11, 0.08), barely(10, 9, 0.08)
    (True, False, False)
    """
    return needed <= offered < needed * (1 + error)


def fit_words(needed: float, offered: float, error: float, *, shown: float | None = None) -> str:
    """The verdict in words.

    shown   the need that is printed, where it is not the one that is judged

    >>> fit_words(20 * 2**30, 21 * 2**30, 0.08)
    'Fits barely: 20.0 of 21.0 GiB a device, within the error of one prediction in ten, 8.0 %'
    """
    room, held = format_range((offered, needed if shown is None else shown), "bytes")
    unit = held.split()[-1]
    of = said("{used} of {room}", used=held.removesuffix(f" {unit}"), room=room)
    if needed > offered:
        return said(
            "Does not fit: short by {short} on each device ({of})",
            short=format_quantity(needed - offered, "bytes"),
            of=of,
        )
    if barely(needed, offered, error):
        percent = format_quantity(error, "fraction")
        return said(
            "Fits barely: {of} a device, within the error of one prediction in ten, {percent}", of=of, percent=percent
        )
    return said("Fits: {of} a device", of=of)
