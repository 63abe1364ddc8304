"""Activations measured: what autograd really keeps between the forward and the backward pass.

PyTorch calls a hook for every tensor that an operation saves for its backward pass
(`torch.autograd.graph.saved_tensors_hooks`). We count each distinct storage once, leave weights and buffers out,
and add what activation checkpointing keeps alive to run a layer again.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmhw.activations import activations
from llmhw.formula import Estimate
from llmhw.measure.modules import build, name_of, quiet, spec_of
from llmhw.measure.modules import fake as fake_tensors
from llmhw.measure.report import Measured, Row
from llmhw.units import LLMHWError, check_choice, check_count

try:
    import torch
    from torch.overrides import TorchFunctionMode
except ImportError:  # pragma: no cover - the tests have torch
    raise LLMHWError("llmhw.measure needs PyTorch; install it with: pip install 'llmhw[torch]'") from None

RECOMPUTE = ("none", "selective", "full", "block")
ATTENTION = ("flash", "sdpa", "eager")


@dataclass(frozen=True, slots=True)
class Kept:
    """One storage that stays alive for the backward pass.

    module   name of the module whose forward first saved it ("model.layers.0.mlp"); "" for the model itself
    op       the PyTorch function that saved it, or "checkpoint" for what a recomputed part needs
    shape    shape of the tensor as saved; a view of a larger storage keeps all of it
    dtype    "bfloat16", "float32", ...
    bytes    bytes of the storage
    """

    module: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True, slots=True, repr=False)
class SavedActivations(Measured):
    """What `measure_activations` found.

    kept        every distinct storage that the backward pass needs
    outputs     bytes of the module's outputs that nothing saved (the logits): they live as long as the caller
                holds them
    estimate    the library's prediction; None for a module it does not know
    notes       how it was measured; why there is no prediction
    """

    title: str
    kept: tuple[Kept, ...]
    outputs: int
    estimate: Estimate | None = None
    notes: tuple[str, ...] = ()
    unit: str = "bytes"

    @property
    def total(self) -> int:
        """Bytes kept for the backward pass."""
        return sum(item.bytes for item in self.kept)

    @property
    def whole(self) -> Row:
        return Row("activations", self.total, None if self.estimate is None else int(self.estimate.total))

    def figures(self) -> tuple[Row, ...]:
        """Modules of all layers together, and the whole."""
        modules = self.by_module(join_layers=True).items()
        return (*(Row(name or "loss and outermost", size) for name, size in modules), self.whole)

    def by_module(self, *, join_layers: bool = False) -> dict[str, int]:
        """Bytes by module name; `join_layers` adds the layers up, with * for their number."""
        found: dict[str, int] = {}
        for item in self.kept:
            name = re.sub(r"\.\d+(?=\.|$)", ".*", item.module) if join_layers else item.module
            found[name] = found.get(name, 0) + item.bytes
        return found

    def by_op(self) -> dict[str, int]:
        """Bytes by the PyTorch function that saved them."""
        found: dict[str, int] = {}
        for item in self.kept:
            found[item.op] = found.get(item.op, 0) + item.bytes
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers in bytes."""
        return self._summary(by_module=self.by_module(), by_op=self.by_op(), outputs=self.outputs)

    def records(self) -> list[dict[str, Any]]:
        """Every kept storage."""
        return [{field: getattr(kept, field) for field in Kept.__slots__} for kept in self.kept]


class _Held:
    """A tensor as autograd holds it, and who saved it. It dies when autograd drops it."""

    __slots__ = ("__weakref__", "module", "op", "tensor")

    def __init__(self, tensor: torch.Tensor, module: str, op: str) -> None:
        self.tensor, self.module, self.op = tensor, module, op


class _CurrentOp(TorchFunctionMode):
    """Knows which torch function is running."""

    def __init__(self) -> None:
        super().__init__()
        self.name = ""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before, self.name = self.name, getattr(func, "__name__", "")
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.name = before


class Watch:
    """Context manager: notes what autograd saves while a module runs.

    Enter it, run the forward pass, leave it, then ask `kept()` while the output is still alive: tensors whose
    graph is gone by then are not counted.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._refs: list[weakref.ref[_Held]] = []
        self._names = [""]
        self._op = _CurrentOp()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Watch:
        for name, module in self._module.named_modules():
            if name:
                before = module.register_forward_pre_hook(functools.partial(self._push, name))
                after = module.register_forward_hook(self._pop, always_call=True)
                self._stack.callback(before.remove)
                self._stack.callback(after.remove)
        self._stack.enter_context(torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack))
        self._stack.enter_context(self._op)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _push(self, name: str, *_: Any) -> None:
        self._names.append(name)

    def _pop(self, *_: Any) -> None:
        self._names.pop()

    def _pack(self, tensor: torch.Tensor) -> _Held:
        return self.hold(tensor, self._op.name)

    @staticmethod
    def _unpack(held: _Held) -> torch.Tensor:
        return held.tensor

    def hold(self, tensor: torch.Tensor, op: str) -> _Held:
        """Note a tensor for as long as the returned object lives."""
        held = _Held(tensor, self._names[-1], op)
        self._refs.append(weakref.ref(held))
        return held

    def checkpoint(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`torch.utils.checkpoint.checkpoint` without reentry; notes the tensors its closure keeps alive."""
        from torch.utils.checkpoint import checkpoint

        kwargs.pop("use_reentrant", None)
        held = [self.hold(t, "checkpoint") for t in _tensors((args, kwargs, getattr(function, "keywords", {})))]

        def run(*inputs: Any, **named: Any) -> Any:
            # named here so that autograd's reference to this function keeps them, and drops them with it
            _ = held
            return function(*inputs, **named)

        # the state of the random generator lies on the host and there is nothing random to repeat
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    def kept(self) -> tuple[Kept, ...]:
        """Every distinct storage still held, without the module's weights and buffers."""
        own = {_storage(t) for t in (*self._module.parameters(), *self._module.buffers())}
        found: dict[int, Kept] = {}
        for ref in self._refs:
            held = ref()
            if held is None or _storage(held.tensor) in own:
                continue
            t = _local(held.tensor)
            found.setdefault(
                _storage(t),
                Kept(held.module, held.op, tuple(t.shape), str(t.dtype)[6:], t.untyped_storage().nbytes()),
            )
        return tuple(found.values())


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor that is spread over ranks (DTensor)."""
    return getattr(tensor, "_local_tensor", tensor)


def _storage(tensor: torch.Tensor) -> int:
    """Identity of a tensor's storage; works for real, meta and fake tensors, and for this rank's part of a DTensor."""
    identity: int = _local(tensor).untyped_storage()._cdata
    return identity


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor inside nested tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from _tensors(inner)


# -- recompute --------------------------------------------------------------------------------


def _checkpoint_layers(model: Any, watch: Watch, layers: int | None) -> None:
    """transformers' gradient checkpointing on the first `layers` layers (None: all), through our watch."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    if not getattr(model, "supports_gradient_checkpointing", False):
        raise LLMHWError(
            f"{type(model).__name__} does not support gradient checkpointing; measure it with recompute='none'"
        )
    model._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=watch.checkpoint)
    blocks = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for block in blocks[layers:] if layers is not None else ():
        block.gradient_checkpointing = False


@contextlib.contextmanager
def _checkpoint_attention(model: Any, watch: Watch) -> Iterator[None]:
    """Recompute the attention core only: scores, softmax and the product with the values.

    The core is the function that transformers looks up in its attention registry between the rotary embedding and
    the output projection; it is wrapped in `torch.utils.checkpoint.checkpoint`, which keeps its inputs (queries, keys
    and values; Megatron-LM's selective recompute does the same).
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    chosen = model.config._attn_implementation
    calls = 0
    name = f"llmhw_selective_{chosen}"

    def core(module: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if chosen == "eager":
            function = sys.modules[type(module).__module__].eager_attention_forward
        else:
            function = ALL_ATTENTION_FUNCTIONS[chosen]
        return watch.checkpoint(functools.partial(function, module, **kwargs), *args)

    ALL_ATTENTION_FUNCTIONS.register(name, core)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[chosen])
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    for config in configs.values():
        config._attn_implementation_internal = name
    try:
        yield
    finally:
        for config in configs.values():
            config._attn_implementation_internal = chosen
    if not calls:
        raise LLMHWError(
            f"recompute='selective': the attention of {type(model).__name__} cannot be run again by itself; use 'full'"
        )


# -- the measurement --------------------------------------------------------------------------


def measure_activations(
    model: Any,
    *,
    batch: int = 1,
    seq_len: int = 128,
    precision: str = "bf16",
    attention: str | None = None,
    recompute: str = "none",
    recompute_layers: int = 0,
    loss: bool = True,
    fake: bool | None = None,
    inputs: Mapping[str, Any] | tuple[Any, ...] | None = None,
    backward: bool = False,
) -> SavedActivations:
    """Bytes of activations that autograd keeps for the backward pass, storage by storage.

    model             any `torch.nn.Module` (it keeps its own number format and attention), or what `build` takes:
                      a catalog name, the path of a `config.json`, a dict, a config object of transformers
    batch, seq_len    sequences and tokens of each, for a language model
    precision         number format of a model built here: fp32, bf16, ... (autocast is not used)
    attention         flash (PyTorch's SDPA, which is a flash kernel on CPU as well) or eager, of a model built here;
                      None: flash, or eager where transformers has no other
    recompute         none; selective (the attention core runs again in the backward pass); full (transformers'
                      gradient checkpointing, without reentry, on every layer); block (on the first
                      `recompute_layers` layers)
    loss              also run the loss, as a training step does
    fake              no numbers, only shapes: measures a model that would not fit in memory. None: for a model
                      built here, which keeps the same either way
    inputs            what to call a module with: needed if it is no language model. There is no prediction then
    backward          then run the backward pass from the loss, too: gradients are left in the module

    Counted: each distinct storage that an operation saved and that lives on after the forward pass, whole, even
    where a view of it was saved; and what a recomputed part needs to run again. Not counted: weights and buffers,
    the outputs themselves (their size is in `.outputs`), temporaries of the forward pass, the generator's state,
    the key-value cache (`use_cache=False`). Dropout is off in a model built here.
    Raises `LLMHWError` for a recompute mode that the module does not support.
    """
    check_choice("recompute", recompute, RECOMPUTE)
    if attention is not None:
        check_choice("attention", attention, ATTENTION)
    batch, seq_len = check_count("batch", batch), check_count("seq_len", seq_len)
    own_inputs = inputs is not None
    with contextlib.ExitStack() as stack:
        given = isinstance(model, torch.nn.Module)
        if fake or (fake is None and not given):
            stack.enter_context(fake_tensors())
        if not given:
            stack.enter_context(quiet())
        module = model if given else build(model, precision=precision, attention=attention)
        language = hasattr(module, "_set_gradient_checkpointing")
        if inputs is None and not language:
            raise LLMHWError(f"inputs=None: say what to call {type(module).__name__} with, as a tuple or a dict")
        if recompute != "none" and not language:
            raise LLMHWError(
                f"recompute={recompute!r} switches transformers' models only; {type(module).__name__} is none: put "
                "torch.utils.checkpoint in it and measure with recompute='none'"
            )
        if inputs is None:
            device = next(module.parameters()).device
            ids = torch.zeros((batch, seq_len), dtype=torch.long, device=device)
            inputs = {"input_ids": ids, "use_cache": False, **({"labels": ids.clone()} if loss else {})}
        kept, outputs = _kept(module, inputs, recompute, recompute_layers, backward)
    case = f"{recompute} recompute" if recompute != "none" else "no recompute"
    title = f"activations kept by {type(model).__name__ if given else name_of(model)}: {case}"
    if own_inputs:
        return SavedActivations(title, kept, outputs)
    parameter = next(module.parameters())
    options: dict[str, Any] = {
        "batch": batch,
        "seq_len": seq_len,
        "precision": "fp32" if parameter.dtype == torch.float32 else "bf16",
        "attention": "eager" if module.config._attn_implementation == "eager" else "flash",
        "recompute": recompute,
        "recompute_layers": recompute_layers,
        "loss": loss,
    }
    title += f", batch {batch}, {seq_len} tokens, {options['precision']}, {options['attention']} attention"
    estimate, notes = _predict(model, options)
    return SavedActivations(title, kept, outputs, estimate, notes)


def _kept(
    module: Any, inputs: Any, recompute: str, recompute_layers: int, backward: bool
) -> tuple[tuple[Kept, ...], int]:
    """Run a module under watch: the storages it keeps, and bytes of its outputs that nothing saved."""
    was = [(m, m.gradient_checkpointing) for m in module.modules() if hasattr(m, "gradient_checkpointing")]
    watch = Watch(module)
    with contextlib.ExitStack() as stack:
        try:
            if recompute in ("full", "block"):
                _checkpoint_layers(module, watch, recompute_layers if recompute == "block" else None)
            elif recompute == "selective":
                stack.enter_context(_checkpoint_attention(module, watch))
            with watch:
                output = module(**inputs) if isinstance(inputs, Mapping) else module(*inputs)
            kept = watch.kept()
            counted = {_storage(h.tensor) for h in (ref() for ref in watch._refs) if h is not None}
            rest = {_storage(t): _local(t).untyped_storage().nbytes() for t in _tensors(output)}
            if backward:
                output.loss.backward()
        finally:
            for m, on in was:
                m.gradient_checkpointing = on
    return kept, sum(size for key, size in rest.items() if key not in counted)


def _predict(model: Any, options: Mapping[str, Any]) -> tuple[Estimate | None, tuple[str, ...]]:
    """The library's answer to the same question, or why it has none."""
    try:
        spec = spec_of(model)
        if spec is None:
            return None, ("no prediction: the library does not know this module",)
        return activations(spec, **options), ()
    except LLMHWError as error:
        return None, (f"no prediction: {error}",)
