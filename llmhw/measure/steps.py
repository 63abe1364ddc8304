"""Parameters, FLOPs, optimizer states and the peak memory of a whole training step, taken from PyTorch.

Almost everything runs on fake tensors (`torch._subclasses.FakeTensorMode`): shapes and lifetimes are real, storage
and arithmetic are not. So the training step of an 8B model is measured on a laptop in seconds.
"""

from __future__ import annotations

import contextlib
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llmhw.flops import backward_flops, forward_flops
from llmhw.hardware import accelerator
from llmhw.measure.modules import fake, made, name_of, quiet, spec_of
from llmhw.measure.report import Measurement, Row
from llmhw.memory import OPTIMIZERS, PRECISIONS, training_states
from llmhw.model import ModelSpec
from llmhw.peak import StepPeak, step_peak
from llmhw.units import LLMHWError, check_choice, check_count, format_quantity

# Real tensors for models of at most so many parameters; fake ones, of the same sizes, above.
SMALL = 20_000_000

PRECISIONS_RUN = ("fp32", "bf16", "bf16-mixed", "bf16-mixed-fp32-grads")
OPTIMIZERS_RUN = ("adamw", "sgd", "sgd-momentum", "adafactor", "muon")
STEP_OPTIMIZERS = ("adamw", "sgd", "sgd-momentum", "adafactor")
STEP_PRECISIONS = ("fp32", "bf16")
STEP_RECOMPUTE = ("none", "full")
ATTENTION = ("flash", "eager")


# -- what a module is --------------------------------------------------------------------------


def _precision_of(module: torch.nn.Module) -> str | None:
    """fp32 or bf16 if all weights are of that type."""
    kinds = {p.dtype for p in module.parameters()}
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}.get(kinds.pop()) if len(kinds) == 1 else None


def _has_dropout(module: torch.nn.Module) -> bool:
    config = getattr(module, "config", None)
    rates = [getattr(config, name, 0) for name in ("attention_dropout", "attn_pdrop", "attn_dropout")]
    rates += [m.p for m in module.modules() if isinstance(m, torch.nn.Dropout)]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def _set_experts(module: Any, implementation: str) -> None:
    """How transformers multiplies experts. The loop over experts depends on the data, which fake tensors have not."""
    for config in {id(m.config): m.config for m in module.modules() if hasattr(m, "config")}.values():
        with contextlib.suppress(ValueError, AttributeError):
            config._experts_implementation = implementation


def _check_length(spec: ModelSpec | None, seq_len: int) -> None:
    """Learned positions end somewhere; fake tensors would not notice."""
    for t in spec.tensors if spec else ():
        if t.part == "positions" and spec and seq_len > (spec.max_seq_len or seq_len):
            raise LLMHWError(
                f"seq_len={seq_len} is more than the {spec.max_seq_len} positions that {spec.name} has learned"
            )


# -- parameters -------------------------------------------------------------------------------


def _numberless(name: str) -> str:
    """A tensor's name with `*` for the numbers in it."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


def _component(known: Mapping[str, str], name: str) -> str:
    """The component of a tensor of transformers: `known` names those of a layer relative to it."""
    name = _numberless(name)
    while name and name not in known:
        name = name.partition(".")[2]
    return known.get(name, "other")


def measure_params(model: Any) -> Measurement:
    """Parameters of the model as PyTorch builds it, by component; no memory is taken.

    model   catalog name, path of a `config.json`, its content as a dict, a `ModelSpec`, or a `torch.nn.Module`

    Tied weights count once. A module that the library does not know is counted without a prediction.

    >>> measure_params("gpt2").total
    Row(name='parameters', measured=124439808, predicted=124439808)
    """
    spec = spec_of(model)
    known = {_numberless(t.name): t.component for t, _ in (*spec.all_tensors(), *spec.tower_tensors())} if spec else {}
    with quiet(), fake():
        module = model if isinstance(model, torch.nn.Module) else made(model, "bf16", "eager")
        found: dict[str, int] = {}
        for name, p in module.named_parameters():
            component = _component(known, name)
            found[component] = found.get(component, 0) + p.numel()
    predicted = spec.parameters.by_component if spec else {}
    order = [*predicted, *(c for c in found if c not in predicted)]
    parts = tuple(
        Row(c, found.get(c, 0), predicted.get(c, 0) if spec else None)
        for c in order
        if found.get(c) or predicted.get(c)
    )
    total = Row("parameters", sum(found.values()), spec.parameters.total if spec else None)
    if spec is None:  # components are the library's words for a language model
        parts = ()
    return Measurement(f"parameters of {name_of(model)}", "count", total, parts)


# -- FLOPs ------------------------------------------------------------------------------------


def measure_flops(
    model: Any,
    *,
    batch: int = 1,
    seq_len: int = 128,
    inputs: Mapping[str, Any] | tuple[Any, ...] | None = None,
) -> Measurement:
    """FLOPs of a forward and a backward pass, as `torch.utils.flop_counter` counts them.

    model            as in `measure_params`
    batch, seq_len   sequences and tokens of each, for a language model
    inputs           what to call a module with, if it is no language model

    Runs on fake tensors, with unfused attention: torch's counter misses the fused kernel there. Experts are
    multiplied as batches, which is the arithmetic of the tokens that are routed to them.

    >>> measure_flops("gpt2", seq_len=64).ratio
    1.0
    """
    from torch.utils.flop_counter import FlopCounterMode

    batch, seq_len = check_count("batch", batch), check_count("seq_len", seq_len)
    spec = spec_of(model)
    with quiet(), fake():
        module = made(model, "fp32", "eager")
        if hasattr(module, "set_attn_implementation"):
            module.set_attn_implementation("eager")
        _set_experts(module, "batched_mm")
        given = _inputs(module, batch, seq_len, inputs)
        given.pop("labels", None) if isinstance(given, dict) else None
        with _possible(module), FlopCounterMode(display=False) as counter:
            output = module(**given) if isinstance(given, dict) else module(*given)
        forward = counter.get_total_flops()
        with _possible(module), FlopCounterMode(display=False) as counter:
            _first_float(output).sum().backward()
        backward = counter.get_total_flops()
    known = spec is not None and inputs is None
    ours = forward_flops(spec, batch=batch, seq_len=seq_len).total if known and spec else None
    theirs = backward_flops(spec, batch=batch, seq_len=seq_len).total if known and spec else None
    both = None if ours is None or theirs is None else ours + theirs
    parts = (Row("forward", forward, ours), Row("backward", backward, theirs))
    title = f"FLOPs of {name_of(model)}" + (f", batch {batch}, {seq_len} tokens" if inputs is None else "")
    other = spec.family.arithmetic if spec and known else ""
    total = Row("forward and backward", forward + backward, both)
    return Measurement(title, "FLOP", total, parts, (other,) if other else ())


@contextlib.contextmanager
def _possible(module: Any) -> Iterator[None]:
    """Operations whose result's size depends on numbers have no fake answer: say so in one line."""
    try:
        yield
    except DynamicOutputShapeException as error:
        raise LLMHWError(
            f"{type(module).__name__} cannot be measured without real numbers: the size of what {error.func} returns "
            "depends on them, as in a loop over experts; measure a small one with run='real'"
        ) from None


def _first_float(output: Any) -> Any:
    """The logits of a language model, or the first tensor with a gradient of any other output."""
    if getattr(output, "logits", None) is not None:
        return output.logits
    for leaf in tree_leaves(output):
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
            return leaf
    raise LLMHWError("the module's output holds no tensor with a gradient, so there is no backward pass to measure")


def _inputs(module: Any, batch: int, seq_len: int, inputs: Any) -> Any:
    """What to call the module with; tensors of the active mode."""
    if inputs is None:
        if not hasattr(module, "config"):
            raise LLMHWError(f"inputs=None: say what to call {type(module).__name__} with, as a tuple or a dict")
        ids = torch.zeros((batch, seq_len), dtype=torch.long)
        return {"input_ids": ids, "labels": ids, "use_cache": False}

    def fresh(value: Any) -> Any:
        return torch.zeros_like(value, device="cpu") if isinstance(value, torch.Tensor) else value

    if isinstance(inputs, Mapping):
        return {key: fresh(value) for key, value in inputs.items()}
    return tuple(fresh(value) for value in (inputs if isinstance(inputs, tuple) else (inputs,)))


# -- optimizer --------------------------------------------------------------------------------


def _is_block_matrix(name: str, parameter: torch.Tensor) -> bool:
    outside = ("embed", "wte", "wpe", "lm_head", "project_in", "project_out", "norm", "ln_")
    return parameter.ndim == 2 and not any(word in name for word in outside)


class _AnyNumber(TorchDispatchMode):
    """Lets an optimizer read a number from a fake tensor (Adafactor's norms): it scales an update, and no size."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0
        return func(*args, **(kwargs or {}))


def _optimizers(name: str, named: list[tuple[str, Any]]) -> list[torch.optim.Optimizer]:
    """torch's own optimizers, with `foreach` as CUDA has it by default."""
    parameters = [p for _, p in named]
    if name == "adamw":
        return [torch.optim.AdamW(parameters, foreach=True)]
    if name == "sgd":
        return [torch.optim.SGD(parameters, foreach=True)]
    if name == "sgd-momentum":
        return [torch.optim.SGD(parameters, momentum=0.9, foreach=True)]
    if name == "adafactor":
        return [torch.optim.Adafactor(parameters, foreach=False)]
    blocks = [p for n, p in named if _is_block_matrix(n, p)]
    stacked = [n for n, p in named if p.ndim > 2]
    if stacked:
        raise LLMHWError(f"optimizer='muon' takes matrices only, and {stacked[0]} is a stack of experts; use adamw")
    chosen = {id(p) for p in blocks}
    return [torch.optim.Muon(blocks), torch.optim.AdamW([p for p in parameters if id(p) not in chosen], foreach=True)]


def _state_tensors(optimizers: list[torch.optim.Optimizer]) -> Iterator[tuple[str, torch.Tensor]]:
    for optimizer in optimizers:
        for state in optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    yield key, value


def _nbytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


_STATE_NAMES = {
    "exp_avg": "momentum",
    "momentum_buffer": "momentum",
    "exp_avg_sq": "variance",
    "row_var": "variance",
    "col_var": "variance",
    "variance": "variance",
    "step": "step counters",
}


def measure_optimizer(model: Any, *, optimizer: str = "adamw", precision: str = "fp32") -> Measurement:
    """Weights, gradients and optimizer states that stay after a real step of `torch.optim`.

    model       as in `measure_params`; a module keeps its own number format, and `precision` is not looked at
    optimizer   adamw, sgd, sgd-momentum, adafactor or muon
    precision   fp32, bf16, bf16-mixed, bf16-mixed-fp32-grads: see `llmhw.memory.PRECISIONS`

    Models of up to 20 million parameters take a step on real tensors, larger ones on fake tensors of the same
    sizes. Optimizers that torch does not have (8-bit AdamW, Lion) are refused.

    >>> print(measure_optimizer("gpt2", precision="bf16-mixed").ratio)
    1.0
    """
    if isinstance(optimizer, str) and optimizer in OPTIMIZERS and optimizer not in OPTIMIZERS_RUN:
        raise LLMHWError(
            f"optimizer={optimizer!r} is not in torch.optim, so there is nothing to measure; "
            f"use one of {', '.join(OPTIMIZERS_RUN)}"
        )
    check_choice("optimizer", optimizer, OPTIMIZERS_RUN)
    check_choice("precision", precision, PRECISIONS_RUN)
    spec, own = spec_of(model), _precision_of(model) if isinstance(model, torch.nn.Module) else precision
    given = isinstance(model, torch.nn.Module)
    recipe = PRECISIONS[own or "fp32"]
    with quiet(), fake():
        module = model if given else made(model, precision, "eager")
        shapes = [(n, tuple(p.shape), p.dtype) for n, p in module.named_parameters() if p.requires_grad]
    size = sum(_count(shape) for _, shape, _ in shapes)
    with contextlib.nullcontext() if size <= SMALL else FakeTensorMode():
        named = [(n, torch.nn.Parameter(torch.zeros(shape, dtype=dtype))) for n, shape, dtype in shapes]
        weights, held, master = [p for _, p in named], 0, 0
        if recipe.master:
            held = _nbytes(weights)  # gradients, as wide as the weights unless the recipe says fp32
            held *= recipe.gradients // recipe.weights
            named = [(n, torch.nn.Parameter(p.detach().float())) for n, p in named]
            master = _nbytes(p for _, p in named)
        for _, p in named:
            p.grad = torch.zeros_like(p)
        gradients = held or _nbytes(p.grad for _, p in named)
        optimizers = _optimizers(optimizer, named)
        with contextlib.nullcontext() if size <= SMALL else _AnyNumber():
            for one in optimizers:
                one.step()
        states: dict[str, int] = {}
        for key, value in _state_tensors(optimizers):
            name = _STATE_NAMES.get(key, key)
            states[name] = states.get(name, 0) + _nbytes([value])
        found = {"weights": _nbytes(weights), "gradients": gradients}
        if master:
            found["master copy"] = master
        found |= states
    predicted = training_states(spec, optimizer=optimizer, precision=own) if spec and own else None
    expected = {part.name: part.value for part in predicted} if predicted else {}
    order = [*expected, *(name for name in found if name not in expected)]
    parts = tuple(Row(name, found.get(name, 0), expected.get(name, 0) if predicted else None) for name in order)
    total = Row("training states", sum(found.values()), predicted.total if predicted else None)
    how = "a step on real tensors" if size <= SMALL else "a step on fake tensors"
    title = f"training states of {name_of(model)}: {optimizer}, {own or 'mixed number formats'}"
    return Measurement(title, "bytes", total, parts, (how,))


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


# -- the peak of a whole step -----------------------------------------------------------------


class MemoryTracker(TorchDispatchMode):
    """Adds up the storages that are alive, operation by operation, and keeps the highest sum.

    Works for fake and for real tensors. Counts what PyTorch's operations return; what a kernel allocates inside
    itself and gives back before it returns is not seen, nor is the allocator's rounding.

    Where two gradients meet, autograd adds the second into the first unless that is a view, but makes a new tensor
    while a mode like this one listens. Such a sum is therefore looked at only once its inputs are gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = 0
        self.peak = 0
        self.by_kind: dict[str, int] = {}
        self.at_peak: dict[str, int] = {}
        self._live: dict[int, tuple[Any, int, str]] = {}
        self._unseen = False

    def add(self, tensor: torch.Tensor, kind: str = "activations and temporaries") -> None:
        """Count a storage from now on, under this kind; or move it there if it is counted already."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._live:
            reference, size, before = self._live[key]
            if before != kind:
                self._live[key] = reference, size, kind
                self.by_kind[before] -= size
                self.by_kind[kind] = self.by_kind.get(kind, 0) + size
            return

        def gone(_: Any, key: int = key) -> None:
            _, size, kind = self._live.pop(key)
            self.current -= size
            self.by_kind[kind] -= size

        self._live[key] = weakref.ref(storage, gone), size, kind
        self.current += size
        self.by_kind[kind] = self.by_kind.get(kind, 0) + size

    def look(self) -> None:
        """Compare the present sum with the peak."""
        self._unseen = False
        if self.current > self.peak:
            self.peak, self.at_peak = self.current, dict(self.by_kind)

    def restart(self) -> None:
        """Begin a new phase: the peak is what is alive now."""
        self.peak, self.at_peak = self.current, dict(self.by_kind)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._unseen:
            self.look()
        out = func(*args, **(kwargs or {}))
        if func.namespace == "prim":  # questions about a tensor, such as its device; most calls are these
            return out
        before = self.current
        for leaf in (out,) if isinstance(out, torch.Tensor) else tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in self._live:
                self.add(leaf)
        if self.current > before:
            if func is torch.ops.aten.add.Tensor and not torch.is_grad_enabled() and not args[0]._is_view():
                self._unseen = True
            else:
                self.look()
        return out


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes alive in one training step: at rest, at the peak of each phase, and by kind at the highest peak."""

    at_rest: int
    forward: int
    backward: int
    optimizer: int
    at_peak: Mapping[str, int]

    @property
    def peak(self) -> int:
        return max(self.forward, self.backward, self.optimizer)

    @property
    def phase(self) -> str:
        """The phase that holds the peak."""
        phases = {"forward": self.forward, "backward": self.backward, "optimizer": self.optimizer}
        return max(phases, key=phases.__getitem__)


def run_step(
    module: Any,
    inputs: Any,
    optimizer: str = "adamw",
    loss: Callable[[Any], Any] | None = None,
    steps: int = 1,
) -> StepMemory:
    """Run forward, loss, backward and optimizer step once the optimizer's states exist, and watch the memory.

    The module's tensors and the inputs must be of the active mode. The step is the plain loop

        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    in which nothing but the loss outlives the forward pass, and gradients are freed after the update.
    """
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    optimizers = _optimizers(optimizer, named)
    for _, p in named:
        p.grad = torch.zeros_like(p)
    with _AnyNumber():
        for one in optimizers:
            one.step()
            one.zero_grad()
    tracker = MemoryTracker()
    for p in module.parameters():
        tracker.add(p, "weights")
    for b in module.buffers():
        tracker.add(b, "buffers and inputs")
    for leaf in tree_leaves(inputs):
        if isinstance(leaf, torch.Tensor):
            tracker.add(leaf, "buffers and inputs")
    for key, value in _state_tensors(optimizers):
        # step counters stay on the host under CUDA
        tracker.add(value, "step counters" if key == "step" else "optimizer states")
    hooks = [
        p.register_post_accumulate_grad_hook(lambda p: tracker.add(p.grad, "gradients") if p.grad is not None else None)
        for _, p in named
    ]
    found: dict[str, tuple[int, dict[str, int]]] = {}
    try:
        with tracker:
            tracker.restart()
            at_rest = tracker.current
            value = _loss(module, inputs, loss)
            found["forward"] = tracker.peak, tracker.at_peak
            tracker.restart()
            value.backward()
            tracker.look()
            found["backward"] = tracker.peak, tracker.at_peak
            tracker.restart()
            with _AnyNumber():
                for one in optimizers:
                    one.step()
            found["optimizer"] = tracker.peak, tracker.at_peak
            for one in optimizers:
                one.zero_grad()
    finally:
        for hook in hooks:
            hook.remove()
    highest = max(found.values(), key=lambda pair: pair[0])
    return StepMemory(
        at_rest,
        found["forward"][0],
        found["backward"][0],
        found["optimizer"][0],
        {kind: size for kind, size in highest[1].items() if size},
    )


def _loss(module: Any, inputs: Any, loss: Callable[[Any], Any] | None) -> Any:
    """The loss alone: whatever else the module returns dies here, as it does in a trainer."""
    output = module(**inputs) if isinstance(inputs, dict) else module(*inputs)
    if loss is not None:
        return loss(output)
    if getattr(output, "loss", None) is not None:
        return output.loss
    return _first_float(output).float().sum()


RUNS = ("fake", "real")


def measure_memory(
    model: Any,
    *,
    batch: int = 1,
    seq_len: int = 128,
    optimizer: str = "adamw",
    precision: str = "bf16",
    recompute: str = "none",
    attention: str | None = None,
    device_memory: int | float | str | None = None,
    run: str = "fake",
    inputs: Mapping[str, Any] | tuple[Any, ...] | None = None,
    loss: Callable[[Any], Any] | None = None,
) -> Measurement:
    """Peak memory of a whole training step: forward, loss, backward, optimizer step.

    model            as in `measure_params`; a module keeps its own number format, attention and dropout
    batch, seq_len   sequences and tokens of each
    optimizer        adamw, sgd, sgd-momentum, adafactor
    precision        fp32 or bf16: of weights, gradients and optimizer states (no autocast)
    recompute        none, or full: transformers' gradient checkpointing of every layer
    attention        flash (PyTorch's scaled_dot_product_attention) or eager; None: flash, or eager where
                     transformers has no other
    device_memory    bytes of a device, or an accelerator's name: notes say whether the step fits
    run              fake: nothing is allocated. real: a step is also run on CUDA, else on the CPU, and its
                     allocator asked, unless it does not fit there
    inputs, loss     what to call a module with, and a function from its output to the loss

    The step is one of many: optimizer states exist, gradients are freed after each update, the logits are not held
    once the loss is known. Counted are the tensors of PyTorch's operations. Not counted: what a kernel allocates
    inside itself, rounding and fragmentation of the allocator, the context of the device. See `llmhw.peak`.

    Dropout is off in a model built from a config. Raises `LLMHWError` where an operation needs real numbers.
    """
    batch, seq_len = check_count("batch", batch), check_count("seq_len", seq_len)
    check_choice("optimizer", optimizer, STEP_OPTIMIZERS)
    check_choice("precision", precision, STEP_PRECISIONS)
    check_choice("recompute", recompute, STEP_RECOMPUTE)
    if attention is not None:
        check_choice("attention", attention, ATTENTION)
    check_choice("run", run, RUNS)
    spec = spec_of(model)
    _check_length(spec, seq_len)
    limit = _device_bytes(device_memory)

    def prepare() -> tuple[Any, Any]:
        module = made(model, precision, attention)
        if recompute == "full":
            _checkpoint(module)
        _check_experts(module)
        return module, _inputs(module, batch, seq_len, inputs)

    with quiet(), fake():
        module, given = prepare()
        with _possible(module):
            step = run_step(module, given, optimizer, loss)
        del module, given
    sizes = {"batch": batch, "seq_len": seq_len}
    options = {"optimizer": optimizer, "precision": precision, "recompute": recompute, "attention": attention}
    predicted, why = None, "the module is not a language model that the library knows"
    if spec is not None and inputs is None:
        predicted, why = _predict(model, spec, sizes | options)
    parts = _moments(step, predicted)
    notes = [f"measured on fake tensors; the peak is in the {step.phase} phase"]
    notes += [f"no prediction: {why}"] if why else []
    if limit is not None:
        notes.append(_verdict(step.peak, limit, device_memory))
    if run == "real":
        where, free = _host()
        free = free if limit is None else min(free, limit)
        if step.peak > 0.9 * free:
            needs, has = (format_quantity(size, "bytes") for size in (step.peak, free))
            notes.append(f"not run for real: the step needs {needs}, and {where} has {has}")
        else:
            with quiet():
                parts.append(Row(f"peak of the allocator, run on {where}", _really(prepare, where, optimizer, loss)))
    own = _precision_of(model) or "its own number formats" if isinstance(model, torch.nn.Module) else precision
    of = f"batch {batch}, {seq_len} tokens, " if inputs is None else ""
    title = f"memory of a training step of {name_of(model)}: {of}{optimizer}, {own}, recompute {recompute}"
    peak = Row("peak", step.peak, predicted.total if predicted else None)
    return Measurement(title, "bytes", peak, tuple(parts), tuple(notes))


def _verdict(peak: int, limit: int, of: int | float | str | None) -> str:
    """Whether a step fits so many bytes of a device."""
    room, more = (format_quantity(size, "bytes") for size in (limit, peak - limit))
    return f"fits in {room} of {of}" if peak <= limit else f"does not fit in {room} of {of}: {more} too much"


def _moments(step: StepMemory, predicted: StepPeak | None) -> list[Row]:
    """What is alive at rest, at the highest moment of each phase, and of each kind at the peak."""

    def row(name: str, measured: int, phase: str) -> Row:
        return Row(name, measured, predicted.phases[phase].total if predicted else None)

    return [
        Row("at rest", step.at_rest, predicted["weights"] + predicted["optimizer states"] if predicted else None),
        row("forward", step.forward, "forward"),
        row("backward", step.backward, "backward"),
        row("optimizer step", step.optimizer, "optimizer"),
        *(Row(f"at the peak: {kind}", size) for kind, size in step.at_peak.items()),
    ]


def _check_experts(module: Any) -> None:
    """The loop over experts needs real numbers; the grouped product that replaces it takes bf16 only."""
    stacked = [n for n, p in module.named_parameters() if ".experts." in n and p.ndim == 3]
    if stacked and _precision_of(module) != "bf16":
        raise LLMHWError(
            f"precision: {type(module).__name__} has experts, and torch's grouped matrix product takes bf16 only; "
            "use precision='bf16'"
        )


def _predict(model: Any, spec: ModelSpec, options: dict[str, Any]) -> tuple[StepPeak | None, str]:
    """The closed form, or why there is none."""
    if isinstance(model, torch.nn.Module):
        own = _precision_of(model)
        if own is None:
            return None, "the module's weights are of several number formats, or neither fp32 nor bf16"
        if _has_dropout(model):
            return None, "the module has dropout, whose masks the closed form leaves out"
        chosen = str(getattr(getattr(model, "config", None), "_attn_implementation", "sdpa"))
        options = options | {"precision": own, "attention": {"sdpa": "flash"}.get(chosen, chosen)}
        if any(getattr(m, "gradient_checkpointing", False) for m in model.modules()):
            options["recompute"] = "full"
    try:
        return step_peak(spec, **options), ""
    except LLMHWError as error:  # a family without an op-by-op profile
        return None, str(error)


def _checkpoint(module: Any) -> None:
    """transformers' gradient checkpointing, without reentry, which is its default."""
    if not getattr(module, "supports_gradient_checkpointing", False):
        raise LLMHWError(
            f"{type(module).__name__} does not support gradient checkpointing; measure it with recompute='none'"
        )
    enable = getattr(module, "activation_checkpointing_enable", None) or module.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _device_bytes(device: int | float | str | None) -> int | None:
    if device is None:
        return None
    if isinstance(device, str):
        return accelerator(device).memory_bytes
    return check_count("device_memory", device)


def _host() -> tuple[str, int]:
    """Where a real step would run, and the bytes that are free there."""
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return "cuda", int(free)
    import os

    return "cpu", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _really(
    prepare: Callable[[], tuple[Any, Any]], where: str, optimizer: str, loss: Callable[[Any], Any] | None
) -> int:
    """Peak bytes that PyTorch's allocator handed out in the second of two real steps."""
    module, inputs = prepare()
    module = module.to(where)
    inputs = {k: v.to(where) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    optimizers = _optimizers(optimizer, named)

    def one_step() -> None:
        value = _loss(module, inputs, loss)
        value.backward()
        for one in optimizers:
            one.step()
            one.zero_grad()

    one_step()
    if where == "cuda":
        torch.cuda.reset_peak_memory_stats()
        one_step()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated())
    import os

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages are not for the reader
    from torch.profiler import ProfilerActivity, profile

    held = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in _alive(module, inputs, optimizers)}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        one_step()
    changes = [e for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    current = peak = sum(held.values())
    for event in sorted(changes, key=lambda e: e.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return int(peak)


def _alive(module: Any, inputs: Any, optimizers: list[torch.optim.Optimizer]) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
    yield from (leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor))
    yield from (value for _, value in _state_tensors(optimizers))
