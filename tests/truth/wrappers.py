"""Random small configs of wrappers: sizes and flags of every part, around a random text model."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from llmhw.families import key_of
from llmhw.families.wrappers import WRAPPERS
from tests.truth.variants import VARIANTS
from tests.truth.variants.common import sizes

Draw = st.DrawFn
_HEADS = ("num_attention_heads", "num_heads", "attention_heads", "encoder_attention_heads")
_WIDTHS = ("hidden_size", "embed_dim", "d_model", "hidden_dim")
_SIZES = """intermediate_size encoder_ffn_dim mlp_dim out_hidden_size projection_dim projector_hidden_size output_dim
    alignment_intermediate_size projector_input_dim projector_output_dim vision_output_dim encoder_hidden_size
    projection_hidden_size merged_hidden_size output_channels max_position_embeddings num_position_embeddings
    max_source_positions num_mel_bins num_query_tokens vocab_size downsample_hidden_size pos_emb_height pos_emb_width
    num_patches resampler_n_latents resampler_head_dim mm_tokens_per_image latent_query_num""".split()
_LAYERS = """num_hidden_layers depth encoder_layers num_layers num_global_layers resampler_depth num_blocks
    n_layers""".split()
_FLAGS = """attention_bias qkv_bias use_qk_norm vision_use_head mlp_bias use_mean_pooling use_mask_token
    use_absolute_position_embeddings multimodal_projector_bias projector_bias projector_use_layernorm use_rel_pos
    use_abs_pos use_qformer_text_input""".split()
_SMALL = "spatial_merge_size downsample_factor scale_factor temporal_patch_size window_size".split()


def shrunk(draw: Draw, config: dict[str, Any]) -> dict[str, Any]:
    """The same keys with small random sizes."""
    made = dict(config)
    heads = draw(st.sampled_from([2, 4]))
    width = heads * draw(st.sampled_from([8, 16, 24])) * 2
    strategies: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(_HEADS, st.just(heads)),
        **dict.fromkeys(_WIDTHS, st.just(width)),
        **dict.fromkeys(_SIZES, st.integers(2, 12).map(lambda n: 8 * n)),
        **dict.fromkeys(_LAYERS, st.integers(1, 4)),
        **dict.fromkeys(_FLAGS, st.booleans()),
        **dict.fromkeys(_SMALL, st.integers(1, 3)),
        "num_key_value_heads": st.sampled_from([1, 2, heads]),
        "head_dim": st.just(width // heads),
        "image_size": st.integers(2, 5).map(lambda n: 8 * n),
        "patch_size": st.sampled_from([4, 8]),
        "deepstack_visual_indexes": st.lists(st.integers(0, 3), max_size=3, unique=True),
        "global_attn_indexes": st.lists(st.integers(0, 3), max_size=3, unique=True),
    }
    for key, value in config.items():
        if isinstance(value, dict) and key.endswith("_config") and value:
            made[key] = shrunk(draw, value)
        elif key in strategies and value is not None:
            drawn = draw(strategies[key])
            made[key] = [drawn, drawn] if isinstance(value, list) and isinstance(drawn, int) else drawn
    return {key: value for key, value in made.items() if not key.endswith("token_id")}


def base(wrapper: str) -> dict[str, Any]:
    """transformers' default config of a wrapper, with the parts that it leaves out by default."""
    parts = {key: CONFIG_MAPPING[kind]() for key, kind in _PARTS.get(wrapper, {}).items()}
    made: dict[str, Any] = CONFIG_MAPPING[wrapper](**parts, **_BASES.get(wrapper, {})).to_dict()
    return made


def fitting(draw: Draw, wrapper: str, made: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """What a wrapper wants of its parts, beside this text model."""
    hidden = text.get("hidden_size") or text.get("n_embd", 64)
    vision = made.get("vision_config") or {}
    layers = vision.get("num_hidden_layers")
    if wrapper in ("dots3_note", "lfm3_vl", "muse_glimmer", "muse_spark"):
        names = {"dots3_note": ("dense", "sparse"), "lfm3_vl": ("conv", "full_attention")}
        kinds = st.sampled_from(names.get(wrapper, ("full_attention", "window_attention")))
        key = "mlp_layer_types" if wrapper == "dots3_note" else "layer_types"
        vision[key] = [draw(kinds) for _ in range(layers)]
    if wrapper == "dots3_note":
        sparse = [i for i, kind in enumerate(vision["mlp_layer_types"]) if kind == "sparse"]
        vision |= {"per_layer_config": {i: {"num_local_experts": draw(st.integers(2, 5))} for i in sparse}}
        vision |= {"adapter_in_dim": vision["hidden_size"], "adapter_merge_size": vision["spatial_merge_size"]}
        vision["mlp_bias"] = vision["mlp_bias"] and not sparse
        vision["adapter_out_dim"] = hidden
        made["audio_config"] |= {"adapter_input_size": made["audio_config"]["hidden_size"], "adapter_out_dim": hidden}
    elif wrapper == "deepseek_ocr2":
        del vision["encoder_config"]["layer_types"]
    elif wrapper == "granite4_vision":
        vision |= {"hidden_size": 64 * draw(st.integers(1, 3)), "num_attention_heads": 2, "image_size": 32}
    elif wrapper == "muse_spark":
        made["audio_config"] |= {"num_hidden_layers": 4, "out_hidden_size": hidden}
    elif wrapper == "nemotron_h_omni":
        made["audio_config"] |= {"projection_hidden_size": 24, "projection_bias": draw(st.booleans())}
    elif wrapper == "deepseek_vl_hybrid":
        made["high_res_vision_config"]["global_attn_indexes"] = [0]
    elif wrapper == "granite_docling":
        vision |= {"out_hidden_size": hidden, "scale_factor": 2, "image_size": 32, "patch_size": 4}
        made["density_router_hidden_size"] = draw(st.sampled_from([None, 8]))
        vision["deepstack_visual_indexes"] = list(range(draw(st.integers(0, layers))))
    elif wrapper == "chameleon":
        made["vq_config"] |= {
            "base_channels": 32,
            "resolution": 32,
            "attn_resolutions": draw(st.sampled_from([None, [8]])),
        }
        made["vocabulary_map"] = {"<image>": 3}
    elif wrapper == "emu3":
        vq = made["vq_config"]
        vq |= {"base_channels": 32, "hidden_size": 32 * vq["channel_multiplier"][-1], "num_attention_heads": 4}
        made["vocabulary_map"] = {"<image>": 3}
        text["pad_token_id"] = 0
    elif wrapper == "nemo_speechlm":
        who = made["audio_config"]["diarization_config"]
        who["head_config"]["audio_hidden_size"] = who["audio_config"]["hidden_size"]
        width = made["audio_config"]["asr_config"]["hidden_size"]
        made["word_timestamp_config"] |= {"hidden_size": width, "blank_token_id": 0}
    elif wrapper == "ovis2":
        made |= {"hidden_size": hidden, "vocab_size": text["vocab_size"]}
    elif wrapper == "molmo2":
        made["adapter_config"]["vision_feature_layer"] = [draw(st.integers(0, layers - 1)) for _ in range(2)]
    elif wrapper == "fun_asr_nano":
        made["adaptor_config"] |= {"hidden_size": hidden, "intermediate_size": hidden // 4}
        made["audio_config"]["num_timestamp_prediction_layers"] = draw(st.integers(0, 2))
        made["audio_config"]["num_hidden_layers"] = draw(st.integers(3, 5))
    elif wrapper == "inkling2":
        vision["text_hidden_size"] = hidden
    elif wrapper == "inkling_mm_model":
        vision |= {
            "patch_size": draw(st.sampled_from([4, 6, 12])),
            "n_layers": draw(st.integers(7, 12)),
            "temporal_patch_size": 2,
        }
    return made


def _text(draw: Draw, key: str) -> dict[str, Any]:
    """Keyword arguments of a random small text model."""
    if key in VARIANTS:
        return VARIANTS[key](draw)
    made = sizes(draw)
    if key == "mllama_text_model":
        return made | {"cross_attention_layers": list(range(0, made["num_hidden_layers"], 2))}
    if key.startswith("kosmos"):
        names = {"hidden_size": "embed_dim", "num_hidden_layers": "layers", "num_attention_heads": "attention_heads"}
        made = {names.get(name, name): value for name, value in made.items()}
        return made | {"ffn_dim": 24} | {"hidden_size": made["embed_dim"]}
    return made


# Parts that wrappers have none of by default, and keys without a default.
_PARTS = {
    "gemma4": {"vision_config": "gemma4_vision", "audio_config": "gemma4_audio"},
    "gemma4_unified": {"vision_config": "gemma4_unified_vision", "audio_config": "gemma4_unified_audio"},
    "nemotron_h_omni": {"audio_config": "parakeet_encoder"},
}
_BASES: dict[str, dict[str, Any]] = {
    "aya_vision": {"vision_config": {"model_type": "siglip_vision_model", "num_attention_heads": 12}},
    "granite4_vision": {"downsample_rate": "1/4", "deepstack_layer_map": [[0, 0], [1, 2]]},
}


def kwargs(draw: Draw, wrapper: str) -> dict[str, Any]:
    """Keyword arguments of a random small config of this wrapper."""
    made = shrunk(draw, {k: v for k, v in base(wrapper).items() if k != "text_config"})
    made = {k: v for k, v in made.items() if k not in ("model_type", "transformers_version", "architectures", "dtype")}
    text = {"model_type": WRAPPERS[wrapper].text, **_text(draw, key_of(WRAPPERS[wrapper].text))}
    made = fitting(draw, wrapper, made, text)
    if "text_config" in base(wrapper):
        made["text_config"] = text
    else:  # its keys lie beside the wrapper's
        made |= {key: value for key, value in text.items() if key != "model_type"}
    if WRAPPERS[wrapper].tied is not None:
        made["tie_word_embeddings"] = draw(st.booleans())
    return made
