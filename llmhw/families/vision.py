"""Vision encoders."""

from __future__ import annotations

from llmhw.families.towers import GATED, Encoder, Names, Part, TowerBuilder, attend, block, encoder
from llmhw.units import LLMHWError

_SHORT = Names("attn", ("qkv",), "proj", norms=("norm1", "norm2"))
_SEPARATE = Names("attn", out="proj", norms=("norm1", "norm2"))
_SCALED = Names(norms=("layernorm_before", "layernorm_after"))


def _patch(b: TowerBuilder, c: Part, name: str, *, bias: bool = True, frames: int = 0) -> None:
    """The convolution that makes a vector of a patch; with `frames` of so many pictures at once."""
    kernel = (*((frames,) if frames else ()), *c.pair("patch_size"))
    b.conv(name, c.width, c.channels, *kernel, bias=bias)


def _flat_patch(b: TowerBuilder, c: Part, name: str, *, frames: int = 1, bias: bool = True) -> None:
    """The same as one matrix."""
    down, across = c.pair("patch_size")
    b.linear(name, c.width, c.channels * frames * down * across, bias=bias)


def _clip(b: TowerBuilder, c: Part) -> None:
    e = b.at("embeddings")
    e.plain("class_embedding", c.width)
    _patch(e, c, "patch_embedding", bias=False)
    e.table("position_embedding", c.patches + 1, c.width)
    b.norm("pre_layrnorm", c.width)
    block(b.at("encoder.layers.*", c.depth), c.width, c.inner)
    b.norm("post_layernorm", c.width)


def _pooled(b: TowerBuilder, c: Part) -> None:
    """SigLIP's head, which attends with one learned query."""
    h = b.at("head")
    h.plain("probe", 1, 1, c.width)
    h.plain("attention.in_proj_weight", 3 * c.width, c.width, matmul=True)
    h.plain("attention.in_proj_bias", 3 * c.width)
    h.linear("attention.out_proj", c.width, c.width)
    h.norm("layernorm", c.width)
    h.chain(("mlp.fc1", c.inner), ("mlp.fc2", c.width), into=c.width)


def _siglip(b: TowerBuilder, c: Part) -> None:
    _patch(b, c, "embeddings.patch_embedding")
    if c.flag("position_embedding", True):
        b.table("embeddings.position_embedding", c.patches, c.width)
    _siglip_layers(b, c)


def _siglip_layers(b: TowerBuilder, c: Part) -> None:
    block(b.at("encoder.layers.*", c.depth), c.width, c.inner)
    b.norm("post_layernorm", c.width)
    if c.flag("vision_use_head"):
        _pooled(b, c)


def _siglip2(b: TowerBuilder, c: Part) -> None:
    _flat_patch(b, c, "embeddings.patch_embedding")
    b.table("embeddings.position_embedding", c.count("num_patches"), c.width)
    _siglip_layers(b, c)


def _minicpm(b: TowerBuilder, c: Part) -> None:
    """SigLIP with a layer that merges windows of patches half-way."""
    _siglip(b, c)
    m = b.at("vit_merger")
    attend(m, c.width)
    m.norm("layer_norm1", c.width)
    down, across = c.pair("window_kernel_size")
    joined = c.width * down * across
    m.norm("pre_norm", joined)
    m.chain(("linear_1", c.inner * down * across), ("linear_2", c.width), into=joined)


def _qwen2_vl(b: TowerBuilder, c: Part) -> None:
    _patch(b, c, "patch_embed.proj", bias=False, frames=c.count("temporal_patch_size"))
    block(b.at("blocks.*", c.depth), c.width, int(c.width * c.number("mlp_ratio")), _SHORT)
    _merger(b.at("merger"), c, c.count("hidden_size"))


def _merger(m: TowerBuilder, c: Part, out: int, *, bias: bool = True, behind: bool = False) -> None:
    """Joins neighbouring patches into one vector of the text model; its norm before that, or `behind`."""
    joined = c.width * c.count("spatial_merge_size") ** 2
    m.norm("ln_q", joined if behind else c.width, bias=bias)
    m.chain(("mlp.0", joined), ("mlp.2", out), into=joined)


def _qwen2_5_vl(b: TowerBuilder, c: Part) -> None:
    """Also EXAONE 4.5's, with grouped heads, and Omni's, with separate queries, keys and values."""
    _patch(b, c, "patch_embed.proj", bias=False, frames=c.count("temporal_patch_size"))
    qkv = ("q", "k", "v") if c.flag("separate") else ("qkv",)
    names = Names("attn", qkv, "proj", GATED, ("norm1", "norm2"), norm_bias=False)
    block(b.at("blocks.*", c.depth), c.width, c.inner, names, kv=c.head_dim * c.kv_heads)
    _merger(b.at("merger"), c, c.count("out_hidden_size"), bias=False)


def _qwen3_vl(b: TowerBuilder, c: Part) -> None:
    """Also Qwen3-Omni's, whose mergers have other names."""
    omni, out = c.flag("omni"), c.count("out_hidden_size")
    joined = c.width * c.count("spatial_merge_size") ** 2
    _patch(b, c, "patch_embed.proj", frames=c.count("temporal_patch_size"))
    b.table("pos_embed", c.count("num_position_embeddings"), c.width)
    mlp = ("mlp.linear_fc1", "mlp.linear_fc2")
    block(b.at("blocks.*", c.depth), c.width, c.inner, Names("attn", ("qkv",), "proj", mlp, ("norm1", "norm2")))
    stacked = len(c.listed_in("deepstack_visual_indexes"))
    for name, times, width in (("merger", 1, c.width), (c.text("stack"), stacked, joined)):
        m = b.at(name, times)
        if omni:
            _merger(m, c, out, behind=name != "merger")
        else:
            m.norm("norm", width)
            m.chain(("linear_fc1", joined), ("linear_fc2", out), into=joined)


def _pixtral(b: TowerBuilder, c: Part) -> None:
    _patch(b, c, "patch_conv", bias=False)
    b.rms("ln_pre", c.width)
    mlp = ("feed_forward.gate_proj", "feed_forward.up_proj", "feed_forward.down_proj")
    names = Names("attention", out="o_proj", mlp=mlp, norms=("attention_norm", "ffn_norm"), norm_bias=False,
        qkv_bias=False, out_bias=False, mlp_bias=False)  # fmt: skip
    block(b.at("transformer.layers.*", c.depth), c.width, c.inner, names, width=c.heads * c.head_dim)


def _internvl(b: TowerBuilder, c: Part) -> None:
    e = b.at("embeddings")
    e.plain("cls_token", 1, 1, c.width)
    if c.flag("use_mask_token"):
        e.plain("mask_token", 1, 1, c.width)
    if c.flag("use_absolute_position_embeddings"):
        e.plain("position_embeddings", 1, c.patches + 1, c.width)
    _patch(e, c, "patch_embeddings.projection")
    rms = c.text("norm_type") == "rms_norm"
    layer = b.at(c.text("layers"), c.depth)
    layer.plain("lambda_1", c.width)
    layer.plain("lambda_2", c.width)
    names = Names("attention", out="projection_layer", norms=_SCALED.norms, norm_bias=not rms,
        qkv_bias=c.flag("attention_bias"), qk_norm=_qk_norm(c))  # fmt: skip
    block(layer, c.width, c.inner, names, head=c.width)
    if not c.flag("use_mean_pooling"):
        b.norm("layernorm", c.width)


def _qk_norm(c: Part) -> tuple[str, ...]:
    return ("q_norm", "k_norm") if c.flag("use_qk_norm") else ()


def _janus(b: TowerBuilder, c: Part) -> None:
    if c.flag("use_qk_norm"):
        raise LLMHWError(f"{c.named('use_qk_norm')}=true is not covered: it has norms with biases for each head")
    _patch(b, c, "embeddings.patch_embedding")
    b.table("embeddings.position_embedding", c.patches, c.width)
    names = Names(out="projection_layer", qkv_bias=c.flag("attention_bias"))
    block(b.at("encoder.layers.*", c.depth), c.width, int(c.width * c.number("mlp_ratio")), names)
    b.norm("post_layernorm", c.width)


_LLAMA = Names(out="o_proj", norms=("input_layernorm", "post_attention_layernorm"))


def _llama4(b: TowerBuilder, c: Part) -> None:
    b.plain("class_embedding", c.width)
    b.plain("positional_embedding_vlm", c.patches + 1, c.width)
    _flat_patch(b, c, "patch_embedding.linear", bias=False)
    b.norm("layernorm_pre", c.width)
    b.norm("layernorm_post", c.width)
    block(b.at("model.layers.*", c.depth), c.width, c.inner, _LLAMA)
    m, out = b.at("vision_adapter.mlp"), c.count("projector_output_dim")
    m.linear("fc1", c.count("projector_input_dim"), c.inner, bias=False)
    m.linear("fc2", out, out, bias=False)


def _mllama(b: TowerBuilder, c: Part) -> None:
    width, tiles, seen = c.width, c.count("max_num_tiles"), c.patches + 1
    shapes = _count_of_lists(c, "supported_aspect_ratios") + 1
    b.plain("class_embedding", width)
    _patch(b, c, "patch_embedding", bias=False)
    g = b.at("gated_positional_embedding")
    g.plain("gate", 1)
    g.plain("embedding", seen, width)
    g.table("tile_embedding", shapes, tiles * seen * width)
    for name in ("pre_tile_positional_embedding", "post_tile_positional_embedding"):
        b.plain(f"{name}.gate", 1)
        b.table(f"{name}.embedding", shapes, tiles * width)
    b.norm("layernorm_pre", width)
    b.norm("layernorm_post", width)
    names = Names(out="o_proj", norms=_LLAMA.norms, qkv_bias=False, out_bias=False)
    block(b.at("transformer.layers.*", c.depth), width, c.inner, names)
    last = b.at("global_transformer.layers.*", c.blocks("num_global_layers"))
    last.plain("gate_attn", 1)
    last.plain("gate_ffn", 1)
    block(last, width, c.inner, names)


def _count_of_lists(c: Part, key: str) -> int:
    found = c.get(key, default=())
    if not isinstance(found, (list, tuple)) or len(found) > 10**3:
        raise LLMHWError(f"{c.named(key)} must be a list of at most 1,000 pairs")
    return len(found)


def _blip2(b: TowerBuilder, c: Part) -> None:
    e = b.at("embeddings")
    e.plain("class_embedding", 1, 1, c.width)
    e.plain("position_embedding", 1, c.patches + 1, c.width)
    e.conv("patch_embedding", c.width, 3, *c.pair("patch_size"))
    names = Names(qkv=("qkv",), out="projection", qkv_bias=c.flag("qkv_bias"))
    block(b.at("encoder.layers.*", c.depth), c.width, c.inner, names)
    b.norm("post_layernorm", c.width)


def _sam(b: TowerBuilder, c: Part) -> None:
    """Segment Anything's: windows in most layers, with learned relative positions."""
    down, across = c.grid
    head, chosen = c.width // c.heads, set(c.listed_in("global_attn_indexes"))
    whole = len([i for i in chosen if 0 <= i < c.depth])
    if c.flag("use_abs_pos"):
        b.plain("pos_embed", 1, down, across, c.width)
    _patch(b, c, "patch_embed.projection")
    layers = b.at("layers.*", c.depth)
    names = Names("attn", ("qkv",), "proj", ("mlp.lin1", "mlp.lin2"), qkv_bias=c.flag("qkv_bias"))
    block(layers, c.width, c.count("mlp_dim"), names)
    window = c.count("window_size")
    for times, (high, wide) in ((whole, (down, across)), (c.depth - whole, (window, window))):
        if c.flag("use_rel_pos"):
            b.at("layers.*", times).plain("attn.rel_pos_h", 2 * high - 1, head)
            b.at("layers.*", times).plain("attn.rel_pos_w", 2 * wide - 1, head)
    sam_neck(b.at("neck"), c)


def sam_neck(b: TowerBuilder, c: Part) -> None:
    out = c.count("output_channels")
    b.conv("conv1", out, c.width, 1, 1, bias=False)
    b.norm("layer_norm1", out)
    b.conv("conv2", out, out, 3, 3, bias=False)
    b.norm("layer_norm2", out)


def _kimi(b: TowerBuilder, c: Part) -> None:
    _patch(b, c, "patch_embed.proj")
    b.plain("patch_embed.pos_emb.position_embeddings", c.count("pos_emb_height"), c.count("pos_emb_width"), c.width)
    block(b.at("layers.*", c.depth), c.width, c.inner, _SEPARATE)
    b.norm("final_layernorm", c.width)


def _glm4v(b: TowerBuilder, c: Part) -> None:
    """GLM-4V's; GLM-OCR's has norms of queries and keys, biases, and no learned positions."""
    ocr, out = c.flag("ocr"), c.count("out_hidden_size")
    bias = c.flag("attention_bias")
    _patch(b, c, "patch_embed.proj", frames=c.count("temporal_patch_size"))
    if not ocr:
        b.table("embeddings.position_embedding", c.patches, c.width)
        b.rms("post_conv_layernorm", c.width)
    names = Names("attn", ("qkv",), "proj", GATED, ("norm1", "norm2"), norm_bias=False, qkv_bias=bias,
        out_bias=ocr and bias, mlp_bias=ocr and bias, qk_norm=("q_norm", "k_norm") if ocr else ())  # fmt: skip
    block(b.at("blocks.*", c.depth), c.width, c.inner if ocr else out, names, head=c.width // c.heads)
    m = b.at("merger")
    m.linear("proj", out, out, bias=False)
    m.norm("post_projection_norm", out)
    m.gated(out, c.count("projection_intermediate_size", default=out * c.channels if ocr else c.inner))
    merge = c.count("spatial_merge_size")
    b.conv("downsample", out, c.width, merge, merge)
    b.rms("post_layernorm", c.width)


_VIT_SIZES = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_SO400M = {"hidden_size": 1152, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 16}
_SAM = {"hidden_size": 768, "output_channels": 256, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 1024, "patch_size": 16, "qkv_bias": True, "use_abs_pos": True, "use_rel_pos": True,
    "window_size": 14, "global_attn_indexes": [2, 5, 8, 11], "mlp_dim": 3072}  # fmt: skip
_INTERNVL = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": [448, 448], "patch_size": [14, 14], "use_absolute_position_embeddings": True,
    "use_mean_pooling": True, "norm_type": "layer_norm"}  # fmt: skip
_BLIP2 = {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 14, "qkv_bias": True}  # fmt: skip
_QWEN2_5 = {"depth": 32, "hidden_size": 3584, "intermediate_size": 3420, "num_heads": 16, "in_channels": 3,
    "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 3584}  # fmt: skip
_QWEN3 = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "in_channels": 3,
    "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 3584,
    "num_position_embeddings": 2304, "stack": "deepstack_merger_list.*"}  # fmt: skip
_DEEPSTACK = {"deepstack_visual_indexes": [8, 16, 24]}
_GLM_OCR = {"ocr": True, "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16,
    "in_channels": 3, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 1536,
    "attention_bias": True}  # fmt: skip

# fmt: off
ENCODERS: dict[str, Encoder] = {
    "clip_vision_model": encoder(_clip, **_VIT_SIZES, image_size=224, patch_size=32),
    "siglip_vision_model": encoder(_siglip, **_VIT_SIZES, image_size=224, patch_size=16, vision_use_head=True),
    "siglip2_vision_model": encoder(_siglip2, **_VIT_SIZES, num_patches=256, patch_size=16, vision_use_head=True),
    "idefics2_vision": encoder(_siglip, **_VIT_SIZES, image_size=224, patch_size=32),
    "idefics3_vision": encoder(_siglip, **_SO400M, image_size=224, patch_size=32),
    "smolvlm_vision": encoder(_siglip, **_SO400M, image_size=224, patch_size=32),
    "paddleocr_vl_vision": encoder(_siglip, hidden_size=1152, intermediate_size=4304, num_hidden_layers=27,
        num_attention_heads=16, image_size=384, patch_size=14),
    "video_llama_3_vision": encoder(_siglip, **_VIT_SIZES, patch_size=16, position_embedding=False),
    "minicpm_vision": encoder(_minicpm, **_VIT_SIZES, image_size=224, patch_size=16, window_kernel_size=[2, 2]),
    "qwen2_vl_vision": encoder(_qwen2_vl, depth=32, embed_dim=1280, hidden_size=3584, mlp_ratio=4, num_heads=16,
        in_channels=3, patch_size=14, spatial_merge_size=2, temporal_patch_size=2),
    "qwen2_5_vl_vision": encoder(_qwen2_5_vl, **_QWEN2_5),
    "qwen2_5_omni_vision_encoder": encoder(_qwen2_5_vl, **_QWEN2_5, separate=True),
    "exaone4_5_vision": encoder(_qwen2_5_vl, **_QWEN2_5, num_key_value_heads=8),
    "qwen3_vl_vision": encoder(_qwen3_vl, **_QWEN3, **_DEEPSTACK),
    "qwen3_5_vision": encoder(_qwen3_vl, **_QWEN3),
    "qwen3_omni_moe_vision_encoder": encoder(_qwen3_vl, **{**_QWEN3, "stack": "merger_list.*"}, **_DEEPSTACK,
        omni=True),
    "pixtral": encoder(_pixtral, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
        num_attention_heads=16, image_size=1024, patch_size=16),
    "internvl_vision": encoder(_internvl, **_INTERNVL, layers="encoder.layer.*"),
    "qianfan_ocr_vision": encoder(_internvl, **_INTERNVL, layers="layers.*", attention_bias=True),
    "janus_vision_model": encoder(_janus, hidden_size=1024, mlp_ratio=4.0, num_hidden_layers=24,
        num_attention_heads=16, image_size=384, patch_size=16, attention_bias=True),
    "llama4_vision_model": encoder(_llama4, hidden_size=768, intermediate_size=5632, num_hidden_layers=34,
        num_attention_heads=16, image_size=448, patch_size=14, projector_input_dim=4096, projector_output_dim=4096),
    "mllama_vision_model": encoder(_mllama, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
        num_global_layers=8, attention_heads=16, image_size=448, patch_size=14, max_num_tiles=4,
        supported_aspect_ratios=[[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]),
    "blip_2_vision_model": encoder(_blip2, **_BLIP2),
    "sam_vision_model": encoder(_sam, **_SAM),
    "kimi_k25_vision": encoder(_kimi, **{**_SO400M, "intermediate_size": 4304, "num_hidden_layers": 27},
        patch_size=14, pos_emb_height=64, pos_emb_width=64),
    "glm4v_vision": encoder(_glm4v, depth=24, hidden_size=1536, intermediate_size=13696, num_heads=12, in_channels=3,
        image_size=336, patch_size=14, spatial_merge_size=2, temporal_patch_size=2, out_hidden_size=4096),
    "glm_ocr_vision": encoder(_glm4v, **_GLM_OCR),
    "glm5_next_vision": encoder(_glm4v, **_GLM_OCR, projection_intermediate_size=10240),
}
# fmt: on
