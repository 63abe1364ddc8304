"""A machine that was measured, as a file: its device, and the constants of time that hold on it.

`llmhw measure device --fit here.json` writes one; wherever a device is named, "here.json" names this one, in `train`,
`serve`, `plan`, `fit`, `simulate` and all the rest. What was measured stands over what was fitted to other machines
(`catalog/calibration.json`); what was not measured stays as it is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

from llmhw.catalog import check_constants
from llmhw.checks import check_mapping, check_text
from llmhw.files import read_json
from llmhw.hardware import Accelerator, accelerator
from llmhw.units import LLMHWError, shown

# Changes where a file that was written before could no longer be read.
FORMAT = "llmhw machine 1"
_WAY_OUT = "give a file that `llmhw measure device --fit` wrote"
_SUBJECTS = ("training_time", "serving_time")


def read_machine(path: str | PathLike[str]) -> Accelerator:
    """The device of a file that `llmhw measure device --fit` wrote, with what was measured on it.

    Raises `LLMHWError` for a file that is not there, is none of this format, or holds what no machine can have.
    """
    return replace(machine_of(read_json(path, argument="accelerator", way_out=_WAY_OUT)), source=str(path))


def machine_of(found: Mapping[str, Any]) -> Accelerator:
    """The device of such a file's content: see `read_machine`.

    >>> rates = {"training_time": {"matmul": 0.9}, "training_time eager": {"host": 2e-5}}
    >>> here = machine_of({"format": FORMAT, "device": {"like": "h100"}, "constants": rates})
    >>> here.name, here.reached["training_time"]["matmul"]
    ('H100 SXM5 80GB', 0.9)
    """
    made = check_mapping("machine", found)
    if made.get("format") != FORMAT:
        raise LLMHWError(f"machine: format={shown(made.get('format'))} is not {FORMAT!r}; {_WAY_OUT}")
    constants = check_mapping("machine constants", made.get("constants"))
    for name, values in constants.items():
        subject = check_text("machine constants", name).partition(" ")[0]
        if subject not in _SUBJECTS:
            raise LLMHWError(f"machine constants={shown(name)} must begin with {' or '.join(_SUBJECTS)}; {_WAY_OUT}")
        check_constants(f"constants.{name}", values)
    facts = dict(check_mapping("machine device", made.get("device")))
    like = facts.pop("like", None)
    device = Accelerator.from_row(facts, "machine device") if like is None else accelerator(check_text("like", like))
    return replace(device, reached=constants, status="measured")
