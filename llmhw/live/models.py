"""What a question is about: a model of the catalog, or the reader's own, as a config.json's text; and a device."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llmhw.hardware import Accelerator, accelerator
from llmhw.live.typed import Code
from llmhw.model import ModelSpec, model
from llmhw.names import find_model, unknown_model
from llmhw.units import LLMHWError, shown

# The longest config.json that is known has 90,000 letters.
MOST_CONFIG = 500_000
_WAY_OUT = "paste the text of a config.json"


@dataclass(frozen=True)
class Chosen:
    """A model, and how one asks for it.

    python   an expression that gives it
    word     what the command takes
    """

    spec: ModelSpec
    python: Code
    word: str


def chosen(settings: Mapping[str, Any]) -> Chosen:
    """The model of `config`, the text that a reader pasted, if there is one; else of `model`, a name of the catalog.

    >>> chosen({"model": "Llama 3 8B"}).python
    llmhw.model('llama-3-8b')
    """
    if (text := settings.get("config")) is not None:
        spec = _own(text)
        file = _file(spec)
        return Chosen(spec, Code(f"llmhw.model({file!r})"), file)
    name = settings["model"]
    if find_model(name) is None:  # the catalog alone: no path, nothing of a cache
        raise unknown_model("model", name, "type a few letters and choose one, or paste its config.json")
    spec = model(name)
    word = spec.name if model(spec.name) == spec else name  # "Llama 3 8B AWQ" is that model in a format
    return Chosen(spec, Code(f"llmhw.model({word!r})"), word)


def device_of(settings: Mapping[str, Any]) -> Accelerator:
    """The accelerator of `device`, a name of the catalog.

    >>> device_of({"device": "rtx4090"}).name
    'RTX 4090'
    """
    name = settings["device"]
    if name.lower().endswith((".csv", ".json")):  # which stand for files elsewhere
        raise LLMHWError(f"device={shown(name)} is not known; type a few letters and choose one")
    return accelerator(name)


def _file(spec: ModelSpec) -> str:
    """What a reader has on the disk, as far as the config tells."""
    if spec.quantization != "gguf":
        return "config.json"
    plain = re.fullmatch(r"\w[\w.-]*", spec.name, re.ASCII)
    return f"{spec.name if plain else 'model'}.gguf"


@lru_cache(maxsize=4)
def _read(text: str) -> ModelSpec:
    from llmhw.sources.local import of_text

    name, config = of_text(text, "config", way_out=_WAY_OUT)
    return ModelSpec.from_config(config, name=name or None)


def _own(text: Any) -> ModelSpec:
    if not isinstance(text, str):
        raise LLMHWError(f"config={shown(text)} must be a text; {_WAY_OUT}")
    if len(text) > MOST_CONFIG:
        raise LLMHWError(f"config has {len(text):,} letters, more than {MOST_CONFIG:,}; {_WAY_OUT}")
    if not text.strip():
        raise LLMHWError(f"config is empty; {_WAY_OUT}")
    return _read(text)


def header(data: Any, size: int, name: str) -> dict[str, Any]:
    """What a page does with the first bytes of a GGUF file: {"config": text}, or {"more": True} if these are too few.

    data   bytes, or what is like them
    size   of the whole file
    name   of the file

    The text is a config.json with a `quantization_config` that says what the file stores how, and can be a setting
    from then on. Raises `LLMHWError` for what is no model in GGUF.

    >>> header(b"GGUF", 10**9, "model.gguf")
    {'more': True}
    """
    from llmhw.sources.gguf import read_head

    found = read_head(data, size, name)
    if found is None:
        return {"more": True}
    called, config = found
    return {"config": json.dumps({"_name_or_path": called, **config})}
