"""The PyTorch module of what a caller names a model, on real or fake tensors; its specification and its name."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from llmhw.families import key_of
from llmhw.memory import PRECISIONS
from llmhw.model import ModelSpec
from llmhw.model import model as named_model
from llmhw.sources import config_of
from llmhw.units import LLMHWError, check_choice, shown

# Where torchao is installed, importing transformers imports it, and both complain of kernels that nothing here uses.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

# "flash" is the library's word for a fused kernel, "sdpa" is transformers' word for PyTorch's.
_IMPLEMENTATIONS = {"flash": "sdpa", "sdpa": "sdpa", "eager": "eager"}
_DROPOUTS = (
    "attention_dropout attn_pdrop embd_pdrop resid_pdrop hidden_dropout dropout activation_dropout layerdrop "
    "embed_dropout attn_dropout ffn_dropout residual_dropout classifier_dropout embedding_dropout resid_dropout"
).split()


def spec_of(model: Any) -> ModelSpec | None:
    """The specification of what a caller names a model; None for a module without a known config.

    What is not a module yet will be built as a language model, without towers.
    """
    if isinstance(model, torch.nn.Module):
        config: Any = getattr(model, "config", None)
        if not hasattr(config, "to_dict"):
            return None
        try:
            return ModelSpec.from_config(config.to_dict())
        except LLMHWError:  # a family the library does not know: measured all the same, without a prediction
            return None
    if isinstance(model, ModelSpec):
        found = model
    elif isinstance(model, Mapping):
        found = ModelSpec.from_config(model)
    elif hasattr(model, "to_dict"):
        found = ModelSpec.from_config(model.to_dict())
    else:
        found = named_model(model)
    return replace(found, towers=()) if found.towers else found


def name_of(model: Any) -> str:
    """What to call it in a title."""
    if isinstance(model, torch.nn.Module):
        return str(getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__)
    spec = spec_of(model)
    return spec.name if spec else type(model).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the advice that transformers, torch and what they load print about models that are only measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it loads
        from transformers.utils import logging as advice

    before, off = advice.get_verbosity(), logging.root.manager.disable
    advice.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        advice.set_verbosity(before)
        logging.disable(off)


@contextlib.contextmanager
def fake() -> Iterator[None]:
    """Shapes without storage, and what transformers would read from real tensors.

    From real position ids 0, 1, 2, ... transformers sees that no sequences are packed into one, and leaves the mask
    to the attention kernel. It cannot see that in fake ones, and would build a mask that a real run does not have.
    """
    from transformers import masking_utils

    packed = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        masking_utils.find_packed_sequence_indices = packed


def _config(model: Any) -> Any:
    """transformers' config object of a name, path, dict, spec or config."""
    try:
        from transformers import CONFIG_MAPPING, PreTrainedConfig
    except ImportError:
        raise LLMHWError(
            "measuring a model by its config needs transformers; install it with: pip install 'llmhw[torch]'"
        ) from None
    if isinstance(model, PreTrainedConfig):
        return type(model).from_dict(model.to_dict())
    if isinstance(model, ModelSpec):
        model = getattr(model, "config", None) or model.name
    if not isinstance(model, Mapping):
        model = config_of(model)[1]
    options = copy.deepcopy(dict(model))  # a spec's own cannot be changed, and transformers changes what it is given
    kind = options.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        raise LLMHWError(f"model_type={kind!r} is not one that the installed transformers knows; pass a torch module")
    try:
        return CONFIG_MAPPING[kind](**options)
    except Exception as error:  # each of transformers' checks raises a kind of its own
        raise _refused(kind, error) from None


def _refused(kind: str, error: Exception) -> LLMHWError:
    why = " ".join(f"{type(error).__name__}: {error}".split())
    return LLMHWError(f"transformers does not take this config of model_type={kind!r}: {shown(why, 200)}")


def build(model: Any, *, precision: str = "bf16", attention: str | None = None) -> Any:
    """transformers' causal language model of a config, in training mode, without dropout.

    model       catalog name, path of a `config.json`, its content as a dict, or transformers' config object
    precision   see `llmhw.memory.PRECISIONS`: the model is built in the number format it computes with
    attention   flash (PyTorch's SDPA) or eager; None: flash, or eager where transformers has no other

    Inside a `torch._subclasses.FakeTensorMode` the weights take no memory.
    """
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    config = _config(model)
    text = config.get_text_config()
    for part in {id(c): c for c in (config, text)}.values():
        for name in _DROPOUTS:
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    check_choice("precision", precision, PRECISIONS)
    dtype = torch.float32 if PRECISIONS[precision].compute == 4 else torch.bfloat16
    implementation = _IMPLEMENTATIONS[attention or "flash"]
    try:
        with no_init_weights():
            made = AutoModelForCausalLM.from_config(text, attn_implementation=implementation, dtype=dtype)
    except Exception as error:
        if not (isinstance(error, ValueError) and "attention implementation" in str(error)):
            raise _refused(text.model_type, error) from None
        if attention is None:
            return build(model, precision=precision, attention="eager")
        raise LLMHWError(
            f"attention={attention!r}: transformers does not run model_type={text.model_type!r} with it; use 'eager'"
        ) from None
    return made.train()


def _copy(module: torch.nn.Module) -> torch.nn.Module:
    """The same module on fresh tensors of the active mode, on the CPU; the caller's own is not touched."""
    memo: dict[int, Any] = {}
    for p in module.parameters():
        memo[id(p)] = torch.nn.Parameter(torch.empty_like(p, device="cpu"), requires_grad=p.requires_grad)
    for b in module.buffers():
        memo[id(b)] = torch.empty_like(b, device="cpu")
    made: torch.nn.Module = copy.deepcopy(module, memo)
    return made.train()


def made(model: Any, precision: str, attention: str | None) -> Any:
    """The module of a caller's model, on tensors of the active mode."""
    if isinstance(model, torch.nn.Module):
        return _copy(model)
    spec = spec_of(model)
    # transformers has a family's language model under the family's own name only
    if spec is not None and spec.model_type != key_of(spec.model_type):
        text = spec.config.get("text_config", spec.config)
        model = {
            "tie_word_embeddings": spec.tied,
            **{key: value for key, value in text.items() if key not in ("auto_map", "quantization_config")},
            "model_type": key_of(spec.model_type),
        }
    module = build(model, precision=precision, attention=attention)
    module.tie_weights()
    return module
