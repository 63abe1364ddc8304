"""Which hardware a language model needs, what it will do there, and what it will cost.

>>> import llmhw
>>> spec = llmhw.model("llama-3-70b")
>>> spec.parameters.total
70553706496
>>> llmhw.kv_cache(spec, seq_len=8192).total / 2**30
2.5

`llmhw.search(job, clusters)` ranks every layout, `llmhw.messages.collectives(job)` lists what every rank sends, and
`llmhw.measure` (extra `torch`) takes the same quantities from PyTorch.
"""

from typing import TYPE_CHECKING, Any

from llmhw.fit import fit
from llmhw.flops import backward_flops, convention_flops, forward_flops, training_flops
from llmhw.formula import Estimate, explain, formulas
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

if TYPE_CHECKING:
    from llmhw.job import Parallelism, ServingJob, TrainingJob
    from llmhw.launch import emit
    from llmhw.planning import plan
    from llmhw.search import search
    from llmhw.service import ServingEstimate, serve
    from llmhw.serving import ServingMemory, serving_memory
    from llmhw.simulation import simulate
    from llmhw.training import TrainingEstimate, train
    from llmhw.training import memory as training_memory

__version__ = "0.1.0"

# Layouts are loaded when they are first asked for, so that `import llmhw` stays quick.
_LATER = {
    "Parallelism": ("llmhw.job", "Parallelism"),
    "ServingEstimate": ("llmhw.service", "ServingEstimate"),
    "ServingJob": ("llmhw.job", "ServingJob"),
    "ServingMemory": ("llmhw.serving", "ServingMemory"),
    "TrainingEstimate": ("llmhw.training", "TrainingEstimate"),
    "TrainingJob": ("llmhw.job", "TrainingJob"),
    "emit": ("llmhw.launch", "emit"),
    "plan": ("llmhw.planning", "plan"),
    "search": ("llmhw.search", "search"),
    "serve": ("llmhw.service", "serve"),
    "serving_memory": ("llmhw.serving", "serving_memory"),
    "simulate": ("llmhw.simulation", "simulate"),
    "train": ("llmhw.training", "train"),
    "training_memory": ("llmhw.training", "memory"),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "exercises":  # a room of its own, not a name of one
        return import_module("llmhw.exercises")
    if name not in _LATER:
        raise AttributeError(f"module 'llmhw' has no attribute {name!r}")
    module, attribute = _LATER[name]
    return getattr(import_module(module), attribute)


__all__ = [
    "Accelerator",
    "Cluster",
    "Estimate",
    "Instance",
    "LLMHWError",
    "Link",
    "ModelSpec",
    "NumberFormat",
    "Parallelism",
    "ServingEstimate",
    "ServingJob",
    "ServingMemory",
    "TrainingEstimate",
    "TrainingJob",
    "accelerator",
    "accelerators",
    "backward_flops",
    "convention_flops",
    "emit",
    "explain",
    "fit",
    "formulas",
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
    "plan",
    "prices",
    "search",
    "serve",
    "serving_memory",
    "simulate",
    "train",
    "training_flops",
    "training_memory",
    "training_states",
    "weights",
]
