"""What one rank of `llmhw.measure.distributed` does: build, wrap, run a step, count.

Only PyTorch's own wrappers cut the model and send its tensors: DistributedDataParallel, `fully_shard`,
`parallelize_module`, `torch.distributed.pipelining`, its ring attention, its all-to-all.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

# Imported here, and so once before the ranks are forked, though some are first used deep inside PyTorch
import torch._dynamo
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from llmhw.job import Parallelism
from llmhw.measure.decoder import Decoder
from llmhw.model import ModelSpec
from llmhw.sharding import Place, place_of, stage_layers
from llmhw.units import LLMHWError

# c10d operators, and the functional ones that DTensor uses, under one name; what the argument with the tensor is
_KINDS = {
    "c10d.allreduce_": ("all-reduce", 0),
    "c10d.allreduce_coalesced_": ("all-reduce", 0),
    "c10d._allgather_base_": ("all-gather", 1),
    "c10d.allgather_into_tensor_coalesced_": ("all-gather", 1),
    "c10d.allgather_": ("all-gather", 1),
    "c10d._reduce_scatter_base_": ("reduce-scatter", 1),
    "c10d.reduce_scatter_tensor_coalesced_": ("reduce-scatter", 1),
    "c10d.reduce_scatter_": ("reduce-scatter", 1),
    "c10d.alltoall_base_": ("all-to-all", 1),
    "c10d.alltoall_": ("all-to-all", 1),
    "c10d.broadcast_": ("broadcast", 0),
    "c10d.send": ("send", 0),
    "c10d.recv_": ("recv", 0),
    "_c10d_functional.all_reduce": ("all-reduce", 0),
    "_c10d_functional.all_reduce_": ("all-reduce", 0),
    "_c10d_functional.all_gather_into_tensor": ("all-gather", 0),
    "_c10d_functional.reduce_scatter_tensor": ("reduce-scatter", 0),
    "_c10d_functional.all_to_all_single": ("all-to-all", 0),
    "_c10d_functional.broadcast": ("broadcast", 0),
}
_NO_TENSOR = ("wait_tensor", "_wrap_tensor_autograd", "barrier", "monitored_barrier_", "check_for_nan")


def _leaves(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)


class Recorder(TorchDispatchMode):
    """Counts every collective that passes PyTorch's dispatcher: kind, ranks of the group, bytes handed in."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[str, tuple[int, ...], int]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # let it come apart into local tensors and collectives first
        namespace, _, name = str(getattr(func, "_overloadpacket", func)).partition(".")
        if namespace in ("c10d", "_c10d_functional") and name not in _NO_TENSOR:
            key = f"{namespace}.{name}"
            if key not in _KINDS:
                raise LLMHWError(f"collective={key!r} is not one that is counted")
            kind, at = _KINDS[key]
            size = sum(t.numel() * t.element_size() for t in _leaves(args[at]))
            self.calls[kind, self._ranks(args), size] += 1
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _ranks(args: Any) -> tuple[int, ...]:
        for arg in args:
            if isinstance(arg, torch.ScriptObject) and "ProcessGroup" in str(arg._type()):
                return tuple(dist.get_process_group_ranks(dist.ProcessGroup.unbox(arg)))
        group = dist.distributed_c10d._resolve_process_group(args[-1])
        return tuple(dist.get_process_group_ranks(group))


# -- wrapping ---------------------------------------------------------------------------------


def _plan(model: Decoder, sequence_parallel: bool) -> dict[str, Any]:
    """The tensor-parallel style of every module, as PyTorch's tutorials and torchtitan have it."""
    spread = Shard(1) if sequence_parallel else Replicate()
    plan: dict[str, Any] = {}
    if model.first:
        plan["model.embed_tokens"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=spread)
    for number in model.model.layers:
        block = f"model.layers.{number}"
        plan |= {
            f"{block}.self_attn": PrepareModuleInput(
                input_layouts=(spread, None), desired_input_layouts=(Replicate(), None)
            ),
            f"{block}.mlp": PrepareModuleInput(input_layouts=(spread,), desired_input_layouts=(Replicate(),)),
            **{f"{block}.self_attn.{name}_proj": ColwiseParallel() for name in "qkv"},
            f"{block}.self_attn.o_proj": RowwiseParallel(output_layouts=spread),
            f"{block}.mlp.gate_proj": ColwiseParallel(),
            f"{block}.mlp.up_proj": ColwiseParallel(),
            f"{block}.mlp.down_proj": RowwiseParallel(output_layouts=spread),
        }
        if sequence_parallel:
            plan |= {f"{block}.{name}": SequenceParallel() for name in ("input_layernorm", "post_attention_layernorm")}
    if model.last:
        if sequence_parallel:
            plan["model.norm"] = SequenceParallel()
        plan["lm_head"] = ColwiseParallel(input_layouts=spread, use_local_output=False)
    return plan


class _Ring(torch.autograd.Function):
    """PyTorch's ring attention with its CPU kernel; on CUDA its own flash attention is used in the same way."""

    @staticmethod
    def forward(ctx: Any, group: Any, q: Any, k: Any, v: Any) -> Any:
        from torch.distributed.tensor.experimental._context_parallel import _attention as ring

        out, lse = ring._templated_ring_attention(
            group, 2, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu, q, k, v, is_causal=True
        )
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.group = group
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        from torch.distributed.tensor.experimental._context_parallel import _attention as ring

        def kernel(
            *, query: Any, key: Any, value: Any, grad_out: Any, out: Any, logsumexp: Any, is_causal: bool
        ) -> Any:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad_out, query, key, value, out, logsumexp, 0.0, is_causal
            )

        q, k, v, out, lse = ctx.saved_tensors
        grads = ring._templated_ring_attention_backward(
            ctx.group, 2, kernel, grad.contiguous(), "grad_out", q, k, v, out, lse, True
        )
        return None, *grads[:3]


class _Groups:
    """The process groups of this rank, made from the layout: every rank makes all of them, in the same order."""

    def __init__(self, p: Parallelism, place: Place, device: str) -> None:
        self.p, self.place, self.device = p, place, device
        replicas = p.replicas if p.zero == 3 else 1
        # fully_shard takes one dimension to shard over: where cp shares the data ranks' work, it is one with them
        shape = (p.pp, replicas, p.shards if p.zero == 3 else p.dp * p.cp, p.tp)
        self.mesh = init_device_mesh(device, shape, mesh_dim_names=("pp", "replicate", "shard", "tp"))
        self.fsdp = self.mesh["replicate", "shard"] if replicas > 1 else self.mesh["shard"]
        inside = p.dp * p.cp * p.tp
        self.dp = self._group(
            [[s * inside + d * p.tp + t for d in range(p.dp * p.cp)] for s in range(p.pp) for t in range(p.tp)]
        )
        self.ep = self._group([[b * p.ep + e for e in range(p.ep)] for b in range(p.devices // p.ep)])
        self.cp = self._group([[r + c * p.tp for c in range(p.cp)] for r in range(p.devices) if r // p.tp % p.cp == 0])

    def _group(self, members: list[list[int]]) -> Any:
        mine = None
        for ranks in members:
            group = dist.new_group(ranks)
            if self.place.rank in ranks:
                mine = group
        return mine


def _wrap(model: Decoder, groups: _Groups, case: dict[str, Any]) -> Any:
    """The chunk under tensor, context, expert and data parallelism."""
    p = groups.p
    experts = [block.mlp.experts for block in model.model.layers.values() if hasattr(block.mlp, "experts")]
    if p.tp > 1:
        parallelize_module(model, groups.mesh["tp"], _plan(model, p.sequence_parallel))
    if p.cp > 1:
        from torch.distributed.tensor.experimental._context_parallel import _attention as ring

        method = ring._RotateMethod.ALL_TO_ALL if p.cp_kind == "ring" else ring._RotateMethod.ALL_GATHER
        ring._cp_options.rotate_method = method
        group = groups.cp
        for block in model.model.layers.values():
            block.self_attn.attend = lambda q, k, v: _Ring.apply(group, q, k, v)
    if p.ep > 1:
        from torch.distributed._functional_collectives import all_to_all_single, all_to_all_single_autograd

        def exchange(x: torch.Tensor, out: Any, into: Any) -> torch.Tensor:
            send = all_to_all_single_autograd if x.is_floating_point() else all_to_all_single
            result = send(x, out, into, groups.ep)
            return torch.ops._c10d_functional.wait_tensor(result) if not x.is_floating_point() else result

        for block in model.model.layers.values():
            block.mlp.exchange = exchange
    if p.zero == 3:
        # in a pipeline weights stay whole from the first micro-batch to the last, as torchtitan has it
        options: dict[str, Any] = {"mesh": groups.fsdp} | ({"reshard_after_forward": False} if p.pp > 1 else {})
        if experts and p.ep > 1:
            if p.expert_shards > 1:
                for module in experts:
                    fully_shard(module, **options | {"mesh": _expert_mesh(groups)})
            else:
                options["ignored_params"] = {q for module in experts for q in module.parameters()}
        for block in model.model.layers.values():
            fully_shard(block, **options)
        return fully_shard(model, **options)
    if p.dp * p.cp > 1:
        if p.ep > 1:
            names = [name for name, _ in model.named_parameters() if ".experts." in name]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)
        return DistributedDataParallel(model, process_group=groups.dp, bucket_cap_mb=case["bucket_cap_mb"])
    return model


def _expert_mesh(groups: _Groups) -> Any:
    """Ranks that hold the same experts."""
    p = groups.p
    inside = p.dp * p.cp * p.tp
    start = groups.place.pp * inside
    ranks = [start + block * p.ep + groups.place.ep for block in range(inside // p.ep)]
    return DeviceMesh.from_group(groups._group(_all_like(ranks, p)), groups.device)


def _all_like(ranks: list[int], p: Parallelism) -> list[list[int]]:
    inside = p.dp * p.cp * p.tp
    return [
        [s * inside + block * p.ep + e for block in range(inside // p.ep)] for s in range(p.pp) for e in range(p.ep)
    ]


# -- one step ---------------------------------------------------------------------------------


def _bytes(tensors: Iterator[Any]) -> int:
    total = 0
    for tensor in tensors:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        total += local.numel() * local.element_size()
    return total


def _my_tokens(tokens: torch.Tensor, p: Parallelism, place: Place) -> torch.Tensor:
    """This rank's sequences, and of each the two parts that balance a causal mask over the cp ranks."""
    mine = tokens.chunk(p.dp)[place.dp]
    if p.cp > 1:
        parts = mine.chunk(2 * p.cp, dim=1)
        mine = torch.cat((parts[place.cp], parts[2 * p.cp - 1 - place.cp]), dim=1)
    return mine.contiguous()


def _loss(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def _pipeline(chunks: list[Any], groups: _Groups, case: dict[str, Any], events: list[Any]) -> Any:
    """PyTorch's schedule over this rank's chunks, its actions written down as they happen."""
    p, place = groups.p, groups.place
    stages = [
        PipelineStage(
            chunk, v * p.pp + place.pp, p.pp * p.vpp, _torch_device(groups.device), group=groups.mesh["pp"].get_group()
        )
        for v, chunk in enumerate(chunks)
    ]
    for stage in stages:
        _listen(stage, events)
    kinds = {
        "gpipe": ScheduleGPipe,
        "1f1b": Schedule1F1B,
        "interleaved": ScheduleInterleaved1F1B,
        "zero-bubble": ScheduleInterleavedZeroBubble,
    }
    single = p.pipeline_schedule in ("gpipe", "1f1b")
    return kinds[p.pipeline_schedule](stages[0] if single else stages, case["micro_batches"], loss_fn=_loss)


def _listen(stage: Any, events: list[Any]) -> None:
    """Write down each forward, backward and weight-gradient that a stage runs."""

    def listening(function: Callable[..., Any], name: Callable[[dict[str, Any]], str]) -> Callable[..., Any]:
        def run(number: int, *args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            result = function(number, *args, **kwargs)
            events.append((name(kwargs), stage.stage_index, number, begin, time.perf_counter()))
            return result

        return run

    stage.forward_one_chunk = listening(stage.forward_one_chunk, lambda _: "F")
    stage.backward_one_chunk = listening(
        stage.backward_one_chunk, lambda kwargs: "B" if kwargs.get("full_backward", True) else "I"
    )
    stage.backward_weight_one_chunk = listening(stage.backward_weight_one_chunk, lambda _: "W")


def run_case(case: dict[str, Any], device: str) -> dict[str, Any]:
    """One rank's part of a case; the process group exists. Returns plain numbers."""
    p = Parallelism(**case["parallelism"])
    place = place_of(p, dist.get_rank())
    config = case["config"]
    spec = ModelSpec.from_config(config)
    groups = _Groups(p, place, device)
    events: list[Any] = []
    chunks, models = [], []
    for v, numbers in enumerate(stage_layers(spec, p, place.pp)):
        chunk = v * p.pp + place.pp
        first, last = chunk == 0, chunk == p.pp * p.vpp - 1
        model = Decoder(config, numbers, first=first, last=last, ep=p.ep, ep_rank=place.ep).to(device)
        model.recompute = case["recompute"] == "full"
        model.positions = _my_tokens(torch.arange(case["seq_len"]).repeat(p.dp, 1), p, place)[0].to(device)
        models.append(model)
        chunks.append(_wrap(model, groups, case))
    parameters = [q for model in models for q in model.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    draw = torch.Generator().manual_seed(7)
    shape = (case["global_batch"], case["seq_len"])
    tokens = _my_tokens(torch.randint(config["vocab_size"], shape, generator=draw), p, place).to(device)
    labels = _my_tokens(torch.randint(config["vocab_size"], shape, generator=draw), p, place).to(device)
    schedule = _pipeline(chunks, groups, case, events) if p.pp > 1 else None

    def step() -> float | None:
        if schedule is None:
            return _plain_step(chunks[0], tokens, labels, case["micro_batches"])
        losses: list[torch.Tensor] = []
        last = place.pp == p.pp - 1
        inputs = (tokens,) if place.pp == 0 else ()
        schedule.step(*inputs, **({"target": labels, "losses": losses} if last else {}))
        return float(torch.stack(losses).detach().mean()) if last else None

    with _parallel_loss(p):
        # The first step also sets up optimizer states and the shapes that stages pass on, the second DDP's buckets
        for _ in range(2):
            step()
            optimizer.step()
            optimizer.zero_grad()
            events.clear()
        if case["fail_rank"] == place.rank:
            raise RuntimeError("stopped on request")
        if case["hang_rank"] == place.rank:
            time.sleep(3600)
        with Recorder() as recorder:
            loss = step()
            held = _bytes(q.grad for q in parameters if q.grad is not None)
            optimizer.step()
    states = (value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value))
    return {
        "rank": place.rank,
        "loss": loss,
        "parameters": _bytes(iter(parameters)),
        "gradients": held,
        "optimizer": _bytes(states),
        "collectives": [[kind, list(ranks), size, n] for (kind, ranks, size), n in sorted(recorder.calls.items())],
        "events": [list(event) for event in events],
    }


def _plain_step(model: Any, tokens: torch.Tensor, labels: torch.Tensor, micro_batches: int) -> float:
    """Forward and backward of all micro-batches, gradients reduced as the wrapper does it."""
    total = 0.0
    for number, (x, y) in enumerate(zip(tokens.chunk(micro_batches), labels.chunk(micro_batches), strict=True)):
        last = number == micro_batches - 1
        hold = model.no_sync() if hasattr(model, "no_sync") and not last else contextlib.nullcontext()
        with hold:
            loss = _loss(model(x), y) / micro_batches
            loss.backward()
        loss = loss.detach()
        total += float(loss.full_tensor() if hasattr(loss, "full_tensor") else loss)
    return total


def _parallel_loss(p: Parallelism) -> Any:
    return loss_parallel() if p.tp > 1 else contextlib.nullcontext()


def _torch_device(kind: str) -> Any:
    """This rank's device, with its number."""
    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
