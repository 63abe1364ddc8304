"""Training software: what it overlaps, fuses and keeps, and what one run may switch otherwise."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from llmhw.units import unknown_name

ELEMENTWISE = ("eager", "compiled", "fused")
CUDA_GRAPHS = ("none", "partial", "full")
DISPATCHERS = ("alltoall", "allgather", "deepep", "hybridep")
GRAD_REDUCE = ("fp32", "bf16")
# FlashAttention 1 and 2; cuDNN's, and FlashAttention 3 and later, which are as fast; that of XLA on TPUs.
ATTENTION_KERNELS = ("flash1", "flash2", "cudnn", "splash")
# What a run may switch, by the field of a `Trainer`.
SWITCHES = ("tp_overlap", "grad_overlap", "gather_prefetch", "cuda_graph", "dispatcher", "a2a_overlap", "grad_reduce")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """One trainer: a row of the catalog's `trainers.csv`.

    meaning          in words
    kernels          whose activations are kept, torch or megatron: see `llmhw.activations`
    elementwise      eager, compiled or fused: how often elementwise kernels pass over their tensors
    attention        kernel of attention: flash1, flash2, cudnn (FlashAttention 3 too) or splash
    tp_overlap       tensor-parallel messages run beside the products that they feed
    regathers        what sequence parallelism split is gathered again for the gradients of weights
    grad_overlap     gradients are reduced beside the backward pass
    gather_prefetch  sharded weights are gathered a block ahead
    send_overlap     pipeline stages send beside their work
    grad_reduce      format in which gradients are reduced; "": that of the job's precision
    buckets          what goes into one message of gradients: megatron, ddp, block or parameter
    cuda_graph       what is launched as a graph: none, partial (attention, router) or full (the whole step)
    sharding         whose ZeRO, by what it holds beside the states: fsdp1, fsdp2, deepspeed, internevo; "": its own
    kbit             QLoRA on one card runs norms, embedding and head in fp32 (peft's prepare_model_for_kbit_training)
    adapters         format of LoRA's adapters
    reentrant        layers are recomputed inside a backward pass of their own (transformers 4's default)
    expert_loop      experts run one after the other, not as one grouped product
    dispatcher       what takes tokens to experts
    a2a_overlap      that runs beside other work
    accumulate       gradients are added up by kernels of their own
    blocking         the host waits for every kernel
    rails            adapters of a node that collectives use: all or one
    dealt            pipeline stages are dealt by layers or by cost
    loss             plain, fused or chunked
    source           where that stands

    >>> trainer("megatron-bridge").grad_reduce, trainer("unsloth").loss
    ('bf16', 'fused')
    """

    name: str
    aliases: tuple[str, ...]
    meaning: str
    kernels: str
    elementwise: str
    attention: str
    tp_overlap: bool
    regathers: bool
    grad_overlap: bool
    gather_prefetch: bool
    send_overlap: bool
    grad_reduce: str
    buckets: str
    cuda_graph: str
    sharding: str
    kbit: bool
    adapters: str
    reentrant: bool
    expert_loop: bool
    dispatcher: str
    a2a_overlap: bool
    accumulate: bool
    blocking: bool
    rails: str
    dealt: str
    loss: str
    source: str

    @property
    def switches(self) -> tuple[tuple[str, str], ...]:
        """Places under `switches` in `calibration.json` that may hold constants for it, in order.

        >>> trainer("composer").switches[:3]
        (('elementwise', 'eager'), ('attention', 'flash1'), ('tp_overlap', 'no'))
        """
        return tuple((name, _word(getattr(self, name))) for name in _SWITCHED)


# Fields whose values have constants.
_SWITCHED = (
    "elementwise attention tp_overlap grad_overlap gather_prefetch send_overlap dispatcher cuda_graph a2a_overlap "
    "accumulate blocking rails"
).split()


def _word(value: bool | str) -> str:
    return value if isinstance(value, str) else "yes" if value else "no"


@cache
def _trainers() -> dict[str, Trainer]:
    from llmhw.catalog import read_table

    flags = {f.name for f in fields(Trainer) if f.type == "bool"}
    found = {}
    for row in read_table("trainers"):
        values: dict[str, Any] = {name: cell == "yes" if name in flags else cell for name, cell in row.items()}
        values["aliases"] = tuple(filter(None, row["aliases"].split(";")))
        found[row["name"]] = Trainer(**values)
    return found


@cache
def _called() -> dict[str, Trainer]:
    return {name: found for found in _trainers().values() for name in (found.name, *found.aliases)}


def trainer_names() -> dict[str, str]:
    """The trainers that are known, with what each is.

    >>> "torchtitan" in trainer_names()
    True
    """
    return {name: found.meaning for name, found in _trainers().items()}


def trainer(name: str) -> Trainer:
    """The trainer of that name or alias. An unknown one raises `LLMHWError` with near names.

    >>> trainer("NeMo").name
    'megatron-bridge'
    """
    found = _called().get(name.strip().lower().replace(" ", "-").replace("_", "-"))
    if found is None:
        raise unknown_name("software", name, _trainers())
    return found
