"""Configs of models of pictures or sound: the text model's keys, the towers around it, and what is left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from llmhw.families.config import Config
from llmhw.families.projectors import TABLE as WRAPPERS
from llmhw.families.towers import Part, renamed
from llmhw.families.wrapped import Wrapped, Wrapper
from llmhw.model import Tower
from llmhw.units import LLMHWError, shown

__all__ = ["REFUSED", "WRAPPERS", "Unwrapped", "unwrap"]

# Text models of wrappers whose towers transformers does not define, and whose keys lie beside theirs.
_REMOTE: dict[str, tuple[str, tuple[str, ...]]] = {
    "phi3_v": ("phi3", ("vision",)),
    "phi4mm": ("phi3", ("vision", "audio", "adapters")),
    "minicpmo": ("qwen2", ("vision", "audio", "speech")),
    "llava_llama": ("llama", ("vision",)),
    "llava_mistral": ("mistral", ("vision",)),
    "llava_qwen": ("qwen2", ("vision",)),
}
# What the text model of a wrapper is that does not say so.
_TEXT_OF = {"deepseek_vl_v2": "deepseek_v2"}
# The same, where a key `version` says which one it is.
_VERSIONS: dict[str, dict[str, str]] = {"minicpmv": {"2.5": "llama", "2.6": "qwen2", "4.5": "qwen3"}}
# Wrappers whose text part is no decoder alone, with the reason.
REFUSED: dict[str, str] = {
    "blip": "its text model is a BERT that attends to the picture in every layer",
    "diffusion_gemma": "it has the text model twice, as an encoder and as a decoder that denoises",
    "evolla": "its decoder attends to proteins in added layers",
    "florence2": "its text model is an encoder and a decoder",
    "git": "its text model is a BERT",
    "idefics": "its decoder attends to pictures in added layers; idefics2 and idefics3 are read",
    "kyutai_speech_to_text": "its decoder reads the codes of a codec beside its tokens",
    "pi0": "it moves a robot: an expert for actions beside a PaliGemma",
    "pix2struct": "its text model is a decoder that attends to an encoder",
    "pp_formulanet": "its text model is a decoder that attends to an encoder",
    "t5gemma2": "its text model is an encoder and a decoder",
    "udop": "its text model is an encoder and a decoder",
    "vision-encoder-decoder": "its text model is a decoder that attends to an encoder",
}
_TEXTS = ("text_config", "llm_config", "language_config", "llm_cfg")
_SPEECH = ("talker_config", "token2wav_config", "code2wav_config")  # what speaks in the Omni models
_SHARED = tuple("quantization_config compression_config hf_quant_config quantization dtype torch_dtype".split())


@dataclass(frozen=True)
class Unwrapped:
    """A config taken apart.

    text         the text model's keys
    model_type   and what it is; anything, if the config does not say
    read         makes the towers, and names what cannot be counted, given the text model's config
    stated       whether their sizes are in the config
    left_out     parts that are not counted
    """

    text: Mapping[str, Any]
    model_type: Any
    read: Callable[[Config], tuple[tuple[Tower, ...], tuple[str, ...]]] = lambda _: ((), ())
    stated: bool = True
    left_out: tuple[str, ...] = ()

    def towers(self, text: Config) -> tuple[tuple[Tower, ...], tuple[str, ...]]:
        """The towers, and the parts that are not counted."""
        made, unknown = self.read(text)
        if self.stated:
            return made, (*unknown, *self.left_out)
        return (), (*(tower.kind for tower in made), *self.left_out)


def unwrap(data: Mapping[str, Any]) -> Unwrapped:
    """Takes a config apart: the text model's keys, and what lies around it."""
    left_out = tuple(_short(key) for key in _SPEECH if isinstance(data.get(key), Mapping))
    if isinstance(data.get("thinker_config"), Mapping):
        thinker = data["thinker_config"]
        kept = {key: data[key] for key in (*_SHARED, "transformers_version") if key in data}
        data = {**kept, **thinker, "model_type": f"{data.get('model_type')}_thinker"}
    kind = data.get("model_type")
    if isinstance(kind, str) and kind in REFUSED:
        raise LLMHWError(f"model_type={shown(kind)} is not supported: {REFUSED[kind]}")
    key = next((k for k in _TEXTS if isinstance(data.get(k), Mapping)), None)
    wrapper = WRAPPERS.get(kind) if isinstance(kind, str) else None
    if wrapper and (key or any(_is_part(k) for k in data)):
        text = renamed(_merged(data, key, tied=_tie(data, data[key] if key else data, wrapper)), wrapper.words)
        model_type = (data[key].get("model_type") if key else None) or wrapper.text
        makes = partial(_towers_of, wrapper, Part(renamed(data, wrapper.aliases), wrapper.defaults, str(kind)))
        stated = wrapper.bare or any(_is_part(k) and k != key for k in data)
        return Unwrapped(text, model_type, makes, stated, left_out)
    if key:
        left_out += tuple(_short(k) for k, v in data.items() if _is_part(k) and isinstance(v, Mapping) and k != key)
        inner, outer = _flag_in(data[key]), _flag_in(data)
        text = _merged(data, key, tied=outer if inner is None else inner)
        return Unwrapped(text, text.get("model_type") or _TEXT_OF.get(str(kind), kind), left_out=left_out)
    if wrapper:
        return Unwrapped(data, wrapper.text)
    if isinstance(kind, str) and kind in _REMOTE:
        return Unwrapped(data, _REMOTE[kind][0], left_out=_REMOTE[kind][1])
    if isinstance(kind, str) and str(data.get("version")) in _VERSIONS.get(kind, {}):
        return Unwrapped(data, _VERSIONS[kind][str(data["version"])], left_out=("vision",))
    left_out += tuple(_short(k) for k, v in data.items() if _is_part(k) and isinstance(v, Mapping))
    return Unwrapped(data, kind, left_out=left_out)


def _towers_of(wrapper: Wrapper, c: Part, text: Config) -> tuple[tuple[Tower, ...], tuple[str, ...]]:
    wrapped = Wrapped(c, text, wrapper.prefix)
    wrapper.read(wrapped)
    return wrapped.made()


_PARTS = re.compile(
    r"(.*_)?(vision|visual|vit|image|video|audio|sound|speech|whisper|encoder|vq|codec|projector|adapt[eo]r|perceiver"
    r"|qformer|resampler|talker|dit)(_.*)?_(config|cfg)"
)


@lru_cache(maxsize=4096)
def _is_part(key: str) -> bool:
    """Whether a key holds the config of a part beside the text model."""
    return bool(_PARTS.fullmatch(key))


def _short(key: str) -> str:
    return key.rpartition("_")[0]


def _merged(data: Mapping[str, Any], key: str | None, tied: Any) -> dict[str, Any]:
    """The text model's keys, with those of the wrapper that hold for it, too."""
    merged = {**{k: data[k] for k in _SHARED if k in data}, **(data[key] if key else data)}
    # what stands on the blocks is said by the wrapper, too
    outer = {"tie_word_embeddings": tied, "architectures": data.get("architectures")}
    left = ("architectures",) if tied is None else ("architectures", *_TIES)
    inner = {name: value for name, value in merged.items() if name not in left}
    return inner | {name: value for name, value in outer.items() if value is not None}


_TIES = ("tie_word_embeddings", "tie_embedding")


def _flag_in(data: Mapping[str, Any]) -> Any:
    """What a config says of its embeddings, under either name of the key."""
    return next((data[name] for name in _TIES if data.get(name) is not None), None)


def _tie(data: Mapping[str, Any], text: Mapping[str, Any], wrapper: Wrapper) -> Any:
    """Whether the embeddings are the output head, too; None for the text model's own default.

    transformers 4 went by the text model's flag, transformers 5 goes by the wrapper's. A file says which of them wrote
    it; of one that does not, the wrapper's flag counts if there is one.
    """
    outer, inner = _flag_in(data), _flag_in(text)
    version = data.get("transformers_version")
    if not wrapper.ties:
        return False
    if wrapper.tied is None:
        return inner
    if isinstance(version, str) and version.partition(".")[0].isdigit() and int(version.partition(".")[0]) >= 5:
        flag = wrapper.tied if outer is None else outer
        return flag or (inner if wrapper.either else False)
    first, second = (inner, outer) if version else (outer, inner)
    return second if first is None else first
