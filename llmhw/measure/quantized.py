"""Libraries that quantize, and what they make of a model: needs the extra `quantize`.

They log while they are imported, of what the machine lacks and of what they are about to do; only what they call an
error is let through. Whoever imports peft gets bitsandbytes and torchao with it, so that this import goes first.
"""

from __future__ import annotations

import copy
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from typing import Any

import torch

# CUDA kernels of torchao cannot be loaded; KernelPreference is an Enum that torch knows by itself now;
# bitsandbytes finds no kernels of the Hub; Neural Compressor tells each layer; a 0.8-million-parameter model loads
for _name in ("torchao", "torch.utils._pytree", "bitsandbytes", "neural_compressor"):
    logging.getLogger(_name).setLevel(logging.ERROR)

_asked = os.environ.get("LOGLEVEL")
os.environ["LOGLEVEL"] = "ERROR"  # what Neural Compressor's logger reads while it is imported
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of their own imports: nothing here can mend them
    import bitsandbytes  # noqa: F401
    import neural_compressor.torch.quantization as _nc
    import peft  # noqa: F401
    import torchao  # noqa: F401
    import transformers

if _asked is None:
    del os.environ["LOGLEVEL"]
else:
    os.environ["LOGLEVEL"] = _asked
transformers.utils.logging.disable_progress_bar()  # bars are lines of stderr


@contextmanager
def elsewhere() -> Iterator[str]:
    """Work in a folder of its own, which goes with what is written there."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder), warnings.catch_warnings():
        # names that transformers deprecates and Neural Compressor still asks for
        warnings.simplefilter("ignore", FutureWarning)
        yield folder


def linears(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Modules of the layers' matrices by name: of a plain model the linear layers, of a quantized one what replaced them."""
    ends = ("_proj", "_proj.linear")
    return {n: m for n, m in model.named_modules() if n.endswith(ends) and not list(m.children())}


def in_layers(module: torch.nn.Module, name: str) -> bool:
    """Whether torchao is to quantize this one: the head stays as it is, as GPTQ, AWQ and bitsandbytes leave it."""
    return isinstance(module, torch.nn.Linear) and name.endswith("_proj")


def calibrated(model: torch.nn.Module, config: Any, rows: torch.Tensor, **options: Any) -> torch.nn.Module:
    """A copy of the model, quantized by Neural Compressor.

    config    its `RTNConfig`, `GPTQConfig` or `AWQConfig`
    rows      token ids, [batch, seq_len], that GPTQ and AWQ look at
    options   of its `prepare`
    """
    if isinstance(config, _nc.GPTQConfig):
        config.model_path = "."  # GPTQ asks the Hub for the name "" otherwise
    with elsewhere(), torch.no_grad():
        found = _nc.prepare(copy.deepcopy(model), config, **options)
        for batch in rows.split(8):
            try:
                found(input_ids=batch)
            except ValueError:  # GPTQ stops each pass behind the first layer, whose inputs it collects
                continue
        done: torch.nn.Module = _nc.convert(found)
    return done


_MADE_UP = ("bias", "scale_bf16_to_fp8")  # zeros that Neural Compressor adds to each matrix; no engine reads them


def held_bytes(model: torch.nn.Module) -> int:
    """Bytes of the layers' matrices as they are held: packed integers, scales, zero points, group indices."""
    return sum(_bytes(t) for m in linears(model).values() for n, t in m.state_dict().items() if _weighs(n))


def _weighs(name: str) -> bool:
    # parts of a bitsandbytes weight are counted with the weight
    return name not in _MADE_UP and not name.startswith("weight.")


def _bytes(tensor: torch.Tensor) -> int:
    parts = [getattr(tensor, name) for name in getattr(tensor, "tensor_data_names", ())]
    return sum(part.nbytes for part in parts) if parts else tensor.nbytes
