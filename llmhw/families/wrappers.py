"""Wrappers: models of pictures or sound around a text model, and what projects into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from llmhw.families.config import Config
from llmhw.families.towers import GATED, Encoder, Names, Part, TowerBuilder, block
from llmhw.families.vision import ENCODERS as VISION
from llmhw.model import Tower
from llmhw.units import LLMHWError, nearest, shown

ENCODERS: dict[str, Encoder] = {**VISION}


class Wrapped:
    """What the reader of a wrapper is given, and collects.

    c        the wrapper's own keys
    text     the text model's
    vision, audio   builders of its towers
    """

    def __init__(self, c: Part, text: Config, prefix: str) -> None:
        self.c = c
        self.text = text
        self.vision = TowerBuilder("vision", prefix)
        self.audio = TowerBuilder("audio", prefix)

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
        c = self.c.sub(key, ENCODERS[kind].defaults)
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

    def towers(self) -> tuple[Tower, ...]:
        return tuple(b.made(self.hidden) for b in (self.vision, self.audio) if b.tensors)


@dataclass(frozen=True)
class Wrapper:
    """All that the library knows about a wrapper.

    read       adds the tensors of its towers
    text       model_type of its text model, where `text_config` does not say or its keys lie beside the wrapper's
    tied       whether transformers ties embeddings and output head, where the wrapper does not say; None: as the text
               model's config says it, because the wrapper's flag counts for nothing
    either     a text model's flag ties, too
    prefix     what precedes the names of the towers
    defaults   what transformers applies for keys of the wrapper that are left out
    """

    read: Callable[[Wrapped], None]
    text: str
    tied: bool | None = False
    either: bool = False
    prefix: str = "model."
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _wrapper(read: Callable[[Wrapped], None], text: str, **facts: Any) -> Wrapper:
    own = {f.name: facts.pop(f.name) for f in fields(Wrapper) if f.name in facts}
    return Wrapper(read, text, defaults=facts, **own)


# -- projectors -------------------------------------------------------------------------------


def _two(b: TowerBuilder, first: int, out: int, into: int, *, bias: bool = True) -> None:
    b.chain(("linear_1", first), ("linear_2", out), into=into, bias=bias)


def _llava(w: Wrapped) -> None:
    v = w.sees("vision_tower", otherwise="clip_vision_model")
    bias = w.c.flag("multimodal_projector_bias")
    _two(w.vision.at("multi_modal_projector"), w.hidden, w.hidden, v.width * w.c.features, bias=bias)
    w.vision.tokens = w.c.get("image_seq_length")


def _llava_next(w: Wrapped) -> None:
    w.vision.plain("image_newline", w.hidden)
    _llava(w)


def _vipllava(w: Wrapped) -> None:
    v = w.sees("vision_tower", otherwise="clip_vision_model")
    p = w.vision.at("multi_modal_projector")
    p.norm("projector_layernorm", v.width * w.c.features)
    _two(p, w.hidden, w.hidden, v.width * w.c.features)


def _video_llava(w: Wrapped) -> None:
    w.sees("video_tower", otherwise="clip_vision_model")
    v = w.sees("image_tower", otherwise="clip_vision_model")
    bias = w.c.flag("multimodal_projector_bias")
    _two(w.vision.at("multi_modal_projector"), w.hidden, w.hidden, v.width * w.c.features, bias=bias)


def _visual(encoder: str) -> Callable[[Wrapped], None]:
    """An encoder that itself ends in the text model's width."""

    def read(w: Wrapped) -> None:
        v = w.sees("visual", encoder)
        w.vision.streams = 1 + len(v.listed_in("deepstack_visual_indexes"))

    return read


def _gemma3(w: Wrapped) -> None:
    v = w.sees("vision_tower", otherwise="siglip_vision_model")
    w.vision.plain("multi_modal_projector.mm_input_projection_weight", v.width, w.hidden, matmul=True)
    w.vision.rms("multi_modal_projector.mm_soft_emb_norm", v.width)
    w.vision.tokens = w.c.count("mm_tokens_per_image")


def _paligemma(w: Wrapped) -> None:
    v = w.sees("vision_tower", otherwise="siglip_vision_model")
    w.vision.linear(
        "multi_modal_projector.linear", v.count("projection_dim", default=w.c.count("projection_dim")), v.width
    )
    w.vision.tokens = v.patches


def _mistral3(w: Wrapped, tower: str = "vision_tower", projector: str = "multi_modal_projector") -> None:
    v = w.sees(tower, otherwise="pixtral")
    p = w.vision.at(projector)
    p.rms("norm", v.width)
    p.linear("patch_merger.merging_layer", v.width, v.width * w.c.count("spatial_merge_size") ** 2, bias=False)
    bias = w.c.flag("multimodal_projector_bias")
    _two(p, w.hidden, w.hidden, v.width * w.c.features, bias=bias)
    down, across = v.grid
    merge = w.c.count("spatial_merge_size")
    w.vision.tokens = (down // merge) * (across // merge + 1)  # each row ends in a token of its own


def _lighton(w: Wrapped) -> None:
    _mistral3(w, "vision_encoder", "vision_projection")


def _internvl(w: Wrapped) -> None:
    v = w.sees("vision_tower", otherwise="internvl_vision")
    into = v.width * int(1 / (w.c.number("downsample_ratio") or 1)) ** 2
    p = w.vision.at("multi_modal_projector")
    p.norm("layer_norm", into)
    _two(p, w.hidden, w.hidden, into)
    w.vision.tokens = w.c.get("image_seq_length")


def _kimi(w: Wrapped) -> None:
    v = w.sees("vision_tower", "kimi_k25_vision")
    down, across = v.pair("merge_kernel_size")
    joined = v.width * down * across
    p = w.vision.at("mm_projector")
    p.norm("pre_norm", w.c.count("projection_hidden_size"))
    p.chain(("in_proj", joined), ("out_proj", w.hidden), into=joined)


def _idefics2(w: Wrapped) -> None:
    v = w.sees("vision_model", "idefics2_vision")
    c = w.c.sub("perceiver_config", _PERCEIVER)
    width, head = c.width, c.count("resampler_head_dim")
    queries, keys = c.count("resampler_n_heads") * head, c.count("num_key_value_heads") * head
    b = w.vision.at("connector")
    m, inner = b.at("modality_projection"), w.text.intermediate
    m.gated(v.width, inner, out=w.hidden)
    r = b.at("perceiver_resampler")
    r.plain("latents", c.count("resampler_n_latents"), width)
    names = Names("self_attn", out="o_proj", mlp=GATED, norms=_PERCEIVER_NORMS, norm_bias=False, qkv_bias=False,
        out_bias=False, mlp_bias=False)  # fmt: skip
    block(r.at("layers.*", c.blocks("resampler_depth")), width, 4 * width, names, width=queries, kv=keys)
    r.rms("norm", width)
    w.vision.tokens = c.count("resampler_n_latents")


def _idefics3(w: Wrapped) -> None:
    v = w.sees("vision_model", "idefics3_vision")
    scale = w.c.count("scale_factor")
    w.vision.linear("connector.modality_projection.proj", w.hidden, v.width * scale**2, bias=False)
    w.vision.tokens = v.patches // scale**2


def _lfm2(w: Wrapped) -> None:
    v = w.sees("vision_tower", otherwise="siglip2_vision_model")
    into = v.width * w.c.count("downsample_factor") ** 2
    p = w.vision.at("multi_modal_projector")
    if w.c.flag("projector_use_layernorm"):
        p.norm("layer_norm", into)
    _two(p, w.c.count("projector_hidden_size"), w.hidden, into, bias=w.c.flag("projector_bias"))


def _llama4(w: Wrapped) -> None:
    v = w.sees("vision_model", "llama4_vision_model")
    w.vision.linear("multi_modal_projector.linear_1", w.hidden, v.count("vision_output_dim", default=7680), bias=False)
    w.vision.tokens = int(v.patches * v.number("pixel_shuffle_ratio") ** 2)


def _mllama(w: Wrapped) -> None:
    v = w.sees("vision_model", "mllama_vision_model")
    w.vision.linear("multi_modal_projector", w.hidden, v.count("vision_output_dim", default=7680))


_PERCEIVER = {"hidden_size": 4096, "resampler_n_latents": 64, "resampler_depth": 3, "resampler_n_heads": 16,
    "resampler_head_dim": 96, "num_key_value_heads": 4}  # fmt: skip
_PERCEIVER_NORMS = ("input_latents_norm", "input_context_norm", "post_attention_layernorm")
_CLIP: dict[str, Any] = {"vision_feature_layer": -2, "vision_config": {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "patch_size": 14, "image_size": 336}}  # fmt: skip
_PIXTRAL: dict[str, Any] = {"spatial_merge_size": 2, "vision_config": {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "patch_size": 14, "image_size": 1540}}  # fmt: skip
_SIGLIP: dict[str, Any] = {"vision_feature_layer": -1, "vision_config": {"model_type": "siglip_vision_model",
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26, "num_attention_heads": 16,
    "patch_size": 14, "image_size": 384, "vision_use_head": False}}  # fmt: skip

# fmt: off
WRAPPERS: dict[str, Wrapper] = {
    "llava": _wrapper(_llava, "llama", **_CLIP, multimodal_projector_bias=True, image_seq_length=576),
    "llava_next": _wrapper(_llava_next, "llama", **_CLIP, multimodal_projector_bias=True),
    "llava_next_video": _wrapper(_llava_next, "llama", **_CLIP, multimodal_projector_bias=True),
    "llava_onevision": _wrapper(_llava_next, "qwen2", **_SIGLIP, multimodal_projector_bias=True),
    "vipllava": _wrapper(_vipllava, "llama", **{**_CLIP, "vision_feature_layer": [-2, -5, -8, -11, 6]}),
    "video_llava": _wrapper(_video_llava, "llama", multimodal_projector_bias=True, vision_feature_layer=-2,
        vision_config={**_CLIP["vision_config"], "image_size": 224}),
    "qwen2_vl": _wrapper(_visual("qwen2_vl_vision"), "qwen2_vl_text", either=True),
    "qwen2_5_vl": _wrapper(_visual("qwen2_5_vl_vision"), "qwen2_5_vl_text", either=True),
    "qwen3_vl": _wrapper(_visual("qwen3_vl_vision"), "qwen3_vl_text"),
    "cosmos3_omni": _wrapper(_visual("qwen3_vl_vision"), "qwen3_vl_text"),
    "qwen3_vl_moe": _wrapper(_visual("qwen3_vl_vision"), "qwen3_vl_moe_text"),
    "qwen3_5": _wrapper(_visual("qwen3_5_vision"), "qwen3_5_text"),
    "qwen3_5_moe": _wrapper(_visual("qwen3_5_vision"), "qwen3_5_moe_text"),
    "exaone4_5": _wrapper(_visual("exaone4_5_vision"), "exaone4"),
    "glm4v": _wrapper(_visual("glm4v_vision"), "glm4v_text", either=True),
    "glm46v": _wrapper(_visual("glm4v_vision"), "glm4v_text"),
    "glmga": _wrapper(_visual("glm4v_vision"), "glm4v_text"),
    "glm4v_moe": _wrapper(_visual("glm4v_vision"), "glm4v_moe_text", either=True),
    "glm_ocr": _wrapper(_visual("glm_ocr_vision"), "glm_ocr_text", either=True),
    "glm5_next": _wrapper(_visual("glm5_next_vision"), "glm5_next_text"),
    "gemma3": _wrapper(_gemma3, "gemma3_text", tied=True, mm_tokens_per_image=256),
    "shieldgemma2": _wrapper(_gemma3, "gemma3_text", mm_tokens_per_image=256),
    "paligemma": _wrapper(_paligemma, "gemma", tied=True, projection_dim=2048, vision_config={
        **_SIGLIP["vision_config"], "intermediate_size": 4096, "image_size": 224, "num_hidden_layers": 27}),
    "mistral3": _wrapper(_mistral3, "mistral", tied=True, **_PIXTRAL),
    "mistral_large4": _wrapper(_mistral3, "mistral_large4_text", spatial_merge_size=2, vision_config={
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 30, "num_attention_heads": 16,
        "patch_size": 14, "image_size": 1540}),
    "lighton_ocr": _wrapper(_lighton, "qwen3", tied=True, **_PIXTRAL),
    "internvl": _wrapper(_internvl, "qwen2", tied=True, downsample_ratio=0.5, image_seq_length=256),
    "qianfan_ocr": _wrapper(_internvl, "qwen3", downsample_ratio=0.5, image_seq_length=256),
    "kimi_k25": _wrapper(_kimi, "deepseek_v3", tied=True, projection_hidden_size=1152),
    "idefics2": _wrapper(_idefics2, "mistral"),
    "idefics3": _wrapper(_idefics3, "llama", scale_factor=2),
    "smolvlm": _wrapper(_idefics3, "llama", scale_factor=2),
    "lfm2_vl": _wrapper(_lfm2, "lfm2", tied=True, downsample_factor=2, projector_hidden_size=2560,
        projector_bias=True, projector_use_layernorm=True),
    "llama4": _wrapper(_llama4, "llama4_text", tied=None, prefix=""),
    "mllama": _wrapper(_mllama, "mllama_text_model"),
}
# fmt: on

# Text models of wrappers whose towers transformers does not define, and whose keys lie beside theirs.
_REMOTE: dict[str, tuple[str, tuple[str, ...]]] = {
    "phi3_v": ("phi3", ("vision",)),
    "phi4mm": ("phi3", ("vision", "audio", "adapters")),
    "minicpmo": ("qwen2", ("vision", "audio", "speech")),
    "llava_llama": ("llama", ("vision",)),
    "llava_mistral": ("mistral", ("vision",)),
    "llava_qwen": ("qwen2", ("vision",)),
}
_TEXTS = ("text_config", "llm_config", "language_config", "llm_cfg")
_SPEECH = ("talker_config", "token2wav_config", "code2wav_config")  # what speaks in the Omni models
_SHARED = ("quantization_config", "dtype", "torch_dtype")


@dataclass(frozen=True)
class Unwrapped:
    """A config taken apart.

    text         the text model's keys
    model_type   and what it is; anything, if the config does not say
    towers       makes the towers, given the text model's config
    left_out     parts that are not counted
    """

    text: Mapping[str, Any]
    model_type: Any
    towers: Callable[[Config], tuple[Tower, ...]] = lambda _: ()
    left_out: tuple[str, ...] = ()


def unwrap(data: Mapping[str, Any]) -> Unwrapped:
    """Takes a config apart: the text model's keys, and what lies around it."""
    left_out = tuple(_short(key) for key in _SPEECH if isinstance(data.get(key), Mapping))
    if isinstance(data.get("thinker_config"), Mapping):
        thinker = data["thinker_config"]
        kept = {key: data[key] for key in (*_SHARED, "transformers_version") if key in data}
        data = {**kept, **thinker, "model_type": f"{data.get('model_type')}_thinker"}
    kind = data.get("model_type")
    key = next((k for k in _TEXTS if isinstance(data.get(k), Mapping)), None)
    wrapper = WRAPPERS.get(kind) if isinstance(kind, str) else None
    if wrapper and (key or any(k.endswith("_config") and k != "quantization_config" for k in data)):
        text = _merged(data, key, tied=_tie(data, data[key] if key else data, wrapper))

        def towers(text: Config) -> tuple[Tower, ...]:
            wrapped = Wrapped(Part(data, wrapper.defaults, str(kind)), text, wrapper.prefix)
            wrapper.read(wrapped)
            return wrapped.towers()

        return Unwrapped(text, (data[key].get("model_type") if key else None) or wrapper.text, towers, left_out)
    if key:
        left_out += tuple(_short(k) for k, v in data.items() if _is_part(k, v) and k != key)
        flags = (source.get("tie_word_embeddings") for source in (data[key], data))
        text = _merged(data, key, tied=next((flag for flag in flags if flag is not None), None))
        return Unwrapped(text, text.get("model_type", kind), left_out=left_out)
    if wrapper:
        return Unwrapped(data, wrapper.text)
    if isinstance(kind, str) and kind in _REMOTE:
        return Unwrapped(data, _REMOTE[kind][0], left_out=_REMOTE[kind][1])
    return Unwrapped(data, kind)


def _is_part(key: str, value: Any) -> bool:
    """Whether a key holds the config of a part of the model."""
    stem, _, end = key.rpartition("_")
    return end in ("config", "cfg") and isinstance(value, Mapping) and stem not in ("quantization", "generation")


def _short(key: str) -> str:
    return key.rpartition("_")[0]


def _merged(data: Mapping[str, Any], key: str | None, tied: Any) -> dict[str, Any]:
    """The text model's keys, with those of the wrapper that hold for it, too."""
    merged = {**{k: data[k] for k in _SHARED if k in data}, **(data[key] if key else data)}
    return {**merged, "tie_word_embeddings": tied}


def _tie(data: Mapping[str, Any], text: Mapping[str, Any], wrapper: Wrapper) -> Any:
    """Whether the embeddings are the output head, too; None for the text model's own default.

    transformers 4 went by the text model's flag, transformers 5 goes by the wrapper's. A file says which of them wrote
    it; of one that does not, the wrapper's flag counts if there is one.
    """
    outer, inner = data.get("tie_word_embeddings"), text.get("tie_word_embeddings")
    version = data.get("transformers_version")
    if wrapper.tied is None:
        return inner
    if isinstance(version, str) and version.partition(".")[0].isdigit() and int(version.partition(".")[0]) >= 5:
        flag = wrapper.tied if outer is None else outer
        return flag or (inner if wrapper.either else False)
    first, second = (inner, outer) if version else (outer, inner)
    return second if first is None else first
