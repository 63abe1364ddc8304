"""Random small configs of wrappers: sizes and flags of every part, around a random text model."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from llmhw.families import key_of
from llmhw.families.wrappers import WRAPPERS
from tests.truth.variants import VARIANTS

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


def kwargs(draw: Draw, wrapper: str) -> dict[str, Any]:
    """Keyword arguments of a random small config of this wrapper."""
    made = shrunk(draw, {k: v for k, v in CONFIG_MAPPING[wrapper]().to_dict().items() if k != "text_config"})
    made = {k: v for k, v in made.items() if k not in ("model_type", "transformers_version", "architectures", "dtype")}
    key = key_of(WRAPPERS[wrapper].text)
    made["text_config"] = {"model_type": WRAPPERS[wrapper].text, **VARIANTS[key](draw)}
    if WRAPPERS[wrapper].tied is not None:
        made["tie_word_embeddings"] = draw(st.booleans())
    return made
