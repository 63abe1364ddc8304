"""The same quantities taken from PyTorch, beside what the library predicts.

Needs PyTorch (extra `torch`). Nothing here is imported by `import llmhw`.

>>> from llmhw.measure import measure
>>> measure("params", "gpt2").ratio
1.0
"""

from __future__ import annotations

from typing import Any

from llmhw.units import LLMHWError, check_choice

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise LLMHWError("llmhw.measure needs PyTorch; install it with: pip install 'llmhw[torch]'") from None

from llmhw.measure.activations import measure_activations
from llmhw.measure.device import DeviceMeasurement, measure_device
from llmhw.measure.report import Measurement, Row
from llmhw.measure.step import StepMeasurement, measure_step
from llmhw.measure.steps import measure_flops, measure_memory, measure_optimizer, measure_params

__all__ = [
    "QUANTITIES",
    "DeviceMeasurement",
    "Measurement",
    "Row",
    "StepMeasurement",
    "measure",
    "measure_activations",
    "measure_device",
    "measure_flops",
    "measure_memory",
    "measure_optimizer",
    "measure_params",
    "measure_step",
]

QUANTITIES = {
    "params": measure_params,
    "flops": measure_flops,
    "activations": measure_activations,
    "memory": measure_memory,
    "optimizer": measure_optimizer,
    "step": measure_step,
}


def measure(what: str, model: Any, **options: Any) -> Any:
    """Measure one quantity of a model in PyTorch.

    what      params, flops, activations, memory, optimizer or step
    model     catalog name, path of a `config.json`, its content as a dict, a `ModelSpec`, or a `torch.nn.Module`
    options   those of the function `measure_<what>`

    Returns what that function returns; print it, or take `.to_dict()`.

    >>> measure("optimizer", "gpt2", precision="fp32").ratio
    1.0
    """
    import inspect

    check_choice("what", what, QUANTITIES)
    function: Any = QUANTITIES[what]
    known = [name for name in inspect.signature(function).parameters if name != "model"]
    for name in options:
        if name not in known:
            raise LLMHWError(f"option={name!r} is not one of measure_{what}; it takes {', '.join(known)}")
    return function(model, **options)
