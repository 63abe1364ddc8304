"""What the readers of wrappers are given: models of pictures or sound around a text model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from llmhw.families.audio import ENCODERS as AUDIO
from llmhw.families.config import Config
from llmhw.families.towers import Encoder, Part, TowerBuilder
from llmhw.families.vision import ENCODERS as VISION
from llmhw.model import Tower
from llmhw.units import LLMHWError, nearest, shown

ENCODERS: dict[str, Encoder] = {**VISION, **AUDIO}


class Wrapped:
    """What the reader of a wrapper is given, and collects.

    c        the wrapper's own keys
    text     the text model's
    vision, audio   builders of its towers
    left_out        parts that cannot be counted
    """

    def __init__(self, c: Part, text: Config, prefix: str) -> None:
        self.c = c
        self.text = text
        self.vision = TowerBuilder("vision", prefix)
        self.audio = TowerBuilder("audio", prefix)
        self.left_out: list[str] = []

    @property
    def hidden(self) -> int:
        return self.text.hidden

    def part(self, key: str, encoder: str = "", otherwise: str = "") -> Part:
        """The config under a key.

        encoder     which one it is of, where the wrapper has no other
        otherwise   which one it is of, if it does not say
        """
        found = self.c.get(key)
        kind = encoder or (found.get("model_type") if isinstance(found, Mapping) else None) or otherwise
        if not isinstance(kind, str) or kind not in ENCODERS:
            close = nearest(kind, ENCODERS) if isinstance(kind, str) else []
            hint = f"; the nearest are {', '.join(close)}" if close else ""
            raise LLMHWError(f"config key {key}.model_type={shown(kind)} is no encoder that is supported{hint}")
        c = self.c.sub(key, ENCODERS[kind].defaults, ENCODERS[kind].aliases)
        c.encoder = kind
        return c

    def sees(self, name: str, encoder: str = "", otherwise: str = "", key: str = "vision_config") -> Part:
        """Adds a vision encoder under this name."""
        c = self.part(key, encoder, otherwise)
        ENCODERS[c.encoder].read(self.vision.at(name), c)
        return c

    def hears(self, name: str, encoder: str = "", otherwise: str = "", key: str = "audio_config") -> Part:
        """Adds an audio encoder under this name."""
        c = self.part(key, encoder, otherwise)
        ENCODERS[c.encoder].read(self.audio.at(name), c)
        return c

    def made(self) -> tuple[tuple[Tower, ...], tuple[str, ...]]:
        """The towers, and the parts that cannot be counted."""
        return tuple(b.made(self.hidden) for b in (self.vision, self.audio) if b.tensors), tuple(self.left_out)


@dataclass(frozen=True)
class Wrapper:
    """All that the library knows about a wrapper.

    read       adds the tensors of its towers
    text       model_type of its text model, where `text_config` does not say or its keys lie beside the wrapper's
    tied       whether transformers ties embeddings and output head, where the wrapper does not say; None: as the text
               model's config says it, because the wrapper's flag counts for nothing
    either     a text model's flag ties, too
    ties       False: the head is never the embedding table, whatever a config says
    prefix     what precedes the names of the towers
    bare       its towers have no configs of their own
    aliases    other names of its keys, in older files, and the key
    words      other names of the text model's keys
    defaults   what transformers applies for keys of the wrapper that are left out
    """

    read: Callable[[Wrapped], None]
    text: str
    tied: bool | None = False
    either: bool = False
    ties: bool = True
    bare: bool = False
    prefix: str = "model."
    aliases: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


def wrapper(read: Callable[[Wrapped], None], text: str, **facts: Any) -> Wrapper:
    own = {f.name: facts.pop(f.name) for f in fields(Wrapper) if f.name in facts}
    return Wrapper(read, text, defaults=facts, **own)
