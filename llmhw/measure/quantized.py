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
from collections.abc import Iterable, Iterator
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
    import peft
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
    with tempfile.TemporaryDirectory() as folder, chdir(folder), _older_names():
        yield folder


@contextmanager
def _older_names() -> Iterator[None]:
    """peft and Neural Compressor ask for names that transformers deprecates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def linears(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The layers' matrices by name: linear layers of a plain model, of a quantized one what replaced them."""
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


# Zeros that Neural Compressor adds to each matrix, and tables of bitsandbytes that are the same for all of them
_MADE_UP = ("bias", "scale_bf16_to_fp8", "weight.quant_map", "weight.nested_quant_map")


def packed(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that a matrix is held in: packed integers, scales, zero points, group indices."""
    found = {n: t for n, t in module.state_dict().items() if n not in _MADE_UP and ".quant_state" not in n}
    for name, tensor in list(found.items()):
        for part in getattr(tensor, "tensor_data_names", ()):  # torchao's tensors are several in one
            found[f"{name}.{part}"] = getattr(tensor, part)
            found.pop(name, None)
    return found


def held_bytes(model: torch.nn.Module) -> int:
    """Bytes of the layers' matrices as they are held.

    Of a model of bitsandbytes ask before its first pass: on some processors that packs the weights anew.
    """
    return sum(t.nbytes for module in linears(model).values() for t in packed(module).values())


def with_adapters(model: torch.nn.Module, modules: Iterable[str], rank: int) -> Any:
    """The model with peft's adapters of this rank beside the modules of these names; all else is frozen."""
    with _older_names():
        return peft.get_peft_model(model, peft.LoraConfig(r=rank, target_modules=list(modules)))


def loaded(model: Any, quantization: Any) -> Any:
    """The model saved, and read again as transformers' quantization config says: as one loads a checkpoint."""
    with elsewhere() as folder:
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder, quantization_config=quantization)


def file_bytes(model: torch.nn.Module) -> int:
    """Bytes of a safetensors file of the model without its header; what is no matrix of a layer is in BF16."""
    from safetensors.torch import save_file

    own = linears(model)
    held = {f"{n}.{part}": t for n, module in own.items() for part, t in packed(module).items()}
    rest = {n: t.bfloat16() for n, t in model.state_dict().items() if not n.startswith(tuple(own))}
    with elsewhere():
        save_file({n: t.clone().contiguous() for n, t in (held | rest).items()}, "model.safetensors")
        with open("model.safetensors", "rb") as file:
            header = int.from_bytes(file.read(8), "little")
            return os.stat(file.fileno()).st_size - 8 - header


def trained_by_peft(config: dict[str, Any], modules: Iterable[str], rank: int) -> tuple[int, int]:
    """Parameters that peft trains in a model of this `config.json`, and bytes of AdamW's averages for them, in FP32.

    modules   names of the linear layers that get adapters, see `llmhw.memory.lora_modules`

    On the meta device: tensors have shapes and no memory.
    """
    own = copy.deepcopy(dict(config))  # transformers writes into it
    kind = own.pop("model_type")
    of = transformers.AutoConfig.for_model(kind, **own)
    with torch.device("meta"):
        plain = transformers.AutoModelForCausalLM.from_config(of)
        model = with_adapters(plain, modules, rank)
    trained = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(trained)
    for p in trained:
        p.grad = torch.zeros_like(p)
    adam.step()
    held = sum(t.nbytes for state in adam.state.values() for name, t in state.items() if name != "step")
    return sum(p.numel() for p in trained), held
