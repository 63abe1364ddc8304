"""Which hardware a language model needs, what it will do there, and what it will cost.

>>> import llmhw
>>> spec = llmhw.model("llama-3-70b")
>>> spec.parameters.total
70553706496
>>> llmhw.kv_cache(spec, seq_len=8192).total / 2**30
2.5
"""

from llmhw.fit import fit
from llmhw.flops import backward_flops, convention_flops, forward_flops, training_flops
from llmhw.formula import FORMULAS, Estimate, explain
from llmhw.hardware import (
    Accelerator,
    Cluster,
    Instance,
    Link,
    accelerator,
    accelerators,
    instance,
    instances,
    link,
    links,
    prices,
)
from llmhw.memory import kv_cache, kv_cache_bytes_per_token, lora_states, training_states, weights
from llmhw.model import ModelSpec, model, models
from llmhw.precision import NumberFormat, number_format, number_formats
from llmhw.units import LLMHWError

__version__ = "0.1.0"

__all__ = [
    "FORMULAS",
    "Accelerator",
    "Cluster",
    "Estimate",
    "Instance",
    "LLMHWError",
    "Link",
    "ModelSpec",
    "NumberFormat",
    "accelerator",
    "accelerators",
    "backward_flops",
    "convention_flops",
    "explain",
    "fit",
    "forward_flops",
    "instance",
    "instances",
    "kv_cache",
    "kv_cache_bytes_per_token",
    "link",
    "links",
    "lora_states",
    "model",
    "models",
    "number_format",
    "number_formats",
    "prices",
    "training_flops",
    "training_states",
    "weights",
]
