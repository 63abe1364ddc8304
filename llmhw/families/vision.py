"""Vision encoders."""

from __future__ import annotations

from itertools import accumulate, pairwise
from math import log, prod
from operator import mul

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
    _patch(b, c, "embeddings.patch_embedding")
    b.table("embeddings.position_embedding", c.patches, c.width)
    names = Names(out="projection_layer", qkv_bias=c.flag("attention_bias"))
    layer = b.at("encoder.layers.*", c.depth)
    block(layer, c.width, int(c.width * c.number("mlp_ratio")), names)
    for name in _qk_norm(c):
        layer.norm(f"self_attn.{name}", c.width)
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


def _gemma4(b: TowerBuilder, c: Part) -> None:
    down, across = c.pair("patch_size")
    b.linear("patch_embedder.input_proj", c.width, 3 * down * across, bias=False)
    b.plain("patch_embedder.position_embedding_table", 2, c.count("position_embedding_size"), c.width)
    mlp = ("mlp.gate_proj.linear", "mlp.up_proj.linear", "mlp.down_proj.linear")
    names = Names(qkv=("q_proj.linear", "k_proj.linear", "v_proj.linear"), out="o_proj.linear", mlp=mlp,
        norms=_FOUR, norm_bias=False, qkv_bias=False, out_bias=False, mlp_bias=False,
        qk_norm=("q_norm", "k_norm"))  # fmt: skip
    sizes = {"width": c.heads * c.head_dim, "kv": c.kv_heads * c.head_dim, "head": c.head_dim}
    block(b.at("encoder.layers.*", c.depth), c.width, c.inner, names, **sizes)


_FOUR = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


def _radio(b: TowerBuilder, c: Part) -> None:
    e, (down, across), most = b.at("embeddings"), c.pair("patch_size"), c.count("max_img_size")
    pixels = c.channels * down * across
    e.plain("position_embedding", 1, (most // down) * (most // across), c.width)
    e.plain("cls_register_token", c.count("num_cls_tokens", least=0) + c.count("num_registers", least=0), c.width)
    e.linear("patch_projection", c.width, pixels, bias=False)
    if c.get("video_temporal_patch_size"):
        e.linear("video_patch_projection", c.width, pixels * c.count("video_temporal_patch_size"), bias=False)
    inner = int(c.width * c.number("mlp_ratio"))
    mlp: tuple[str, ...] = ("mlp.fc1", "mlp.fc2")
    if c.flag("use_swiglu_ffn"):
        inner, mlp = (int(inner * 2 / 3) + 7) // 8 * 8, GATED
    layer = b.at("encoder.layer.*", c.depth)
    names = Names("attention", out="o_proj", mlp=mlp, norms=("norm1", "norm2"), qkv_bias=c.flag("qkv_bias"))
    block(layer, c.width, inner, names, width=c.heads * c.head_dim)
    layer.plain("layer_scale1.lambda1", c.width)
    layer.plain("layer_scale2.lambda1", c.width)


def _ovis2(b: TowerBuilder, c: Part) -> None:
    t = b.at("transformer")
    _patch(t, c, "embeddings.patch_embedding")
    t.table("embeddings.position_embedding", c.patches, c.width)
    t.rms("embeddings.rms_norm", c.width)
    bias = c.flag("qkv_bias")
    names = Names("attention", mlp=("ffn.gate_proj", "ffn.up_proj", "ffn.down_proj"), norms=("rms_norm1", "rms_norm2"),
        norm_bias=False, qkv_bias=bias, out_bias=bias, mlp_bias=c.flag("mlp_bias"))  # fmt: skip
    block(t.at("encoder.layers.*", c.depth), c.width, c.inner, names)
    t.rms("rms_norm", c.width)
    words = c.count("vocab_size") - c.count("num_visual_indicator_tokens", least=0)
    b.linear("head_linear", words, c.width * c.count("hidden_stride") ** 2, bias=False)
    b.norm("head_norm", words)


def _minimax_m3(b: TowerBuilder, c: Part) -> None:
    _patch(b, c, "embeddings.proj", bias=False, frames=c.count("temporal_patch_size"))
    b.norm("pre_layrnorm", c.width)
    block(b.at("layers.*", c.depth), c.width, c.inner)


def _ernie(b: TowerBuilder, c: Part) -> None:
    _flat_patch(b, c, "patch_embed.proj", bias=False)
    block(b.at("blocks.*", c.depth), c.width, c.inner, _SHORT)
    b.norm("ln", c.width)


def _dots3(b: TowerBuilder, c: Part) -> None:
    """Its last layers have experts, and each its own number of them."""
    _patch(b, c, "patch_embed.proj")
    b.rms("patch_embed.norm", c.width)
    kinds, own = c.listed_in("mlp_layer_types", str), c.sub("per_layer_config", {})
    if routed := c.listed_in("pyramid_num_routed"):  # older files: experts of every layer, -1 for none
        kinds = tuple("sparse" if count > 0 else "dense" for count in routed)
        own = Part({str(i): {"num_local_experts": n} for i, n in enumerate(routed)}, {}, own.model_type)
    if len(kinds) != c.depth:
        raise LLMHWError(f"{c.named('mlp_layer_types')} must list one entry for each of {c.depth} layers")
    bias = c.flag("attention_bias")
    layer, names = b.at("blocks.*", c.depth), Names("attn", ("qkv",), "proj", qkv_bias=bias, out_bias=bias,
        qk_norm=("q_norm", "k_norm"))  # fmt: skip
    attend(layer, c.width, names, head=c.width // c.heads)
    layer.rms("norm1", c.width)
    layer.rms("norm2", c.width)
    b.at("blocks.*.mlp", kinds.count("dense")).gated(c.width, c.inner, bias=c.flag("mlp_bias"))
    inner = c.count("moe_intermediate_size")
    for i in (i for i, kind in enumerate(kinds) if kind == "sparse"):
        experts = own.sub(str(i), {}).count("num_local_experts", default=c.count("num_local_experts"))
        m = b.at("blocks.*.mlp")
        m.plain("experts.gate_up_proj", experts, 2 * inner, c.width, matmul=True)
        m.plain("experts.down_proj", experts, c.width, inner, matmul=True)
        m.linear("gate", experts, c.width, bias=False)
    into = c.count("adapter_in_dim")
    joined = into * c.count("adapter_merge_size") ** 2
    b.norm("merger.ln_q", into)
    b.at("merger").chain(("mlp.0", joined), ("mlp.2", c.count("adapter_out_dim")), into=joined)
    b.rms("norm", c.width)


def _scaled_layers(b: TowerBuilder, c: Part, inner: int) -> None:
    layer = b.at("layers.*", c.depth)
    block(layer, c.width, inner, _SCALED)
    layer.plain("lambda_1", c.width)
    layer.plain("lambda_2", c.width)


def _step3p5(b: TowerBuilder, c: Part) -> None:
    _patch(b, c, "embeddings.patch_embedding", bias=False)
    b.table("embeddings.position_embedding", c.patches, c.width)
    b.norm("pre_layernorm", c.width)
    _scaled_layers(b, c, int(c.width * c.number("mlp_ratio")))
    b.conv("downsampler1", 2 * c.width, c.width, 3, 3)
    b.conv("downsampler2", 4 * c.width, 2 * c.width, 3, 3)


def _inkling2(b: TowerBuilder, c: Part) -> None:
    b.plain("embeddings.class_embedding", c.width)
    b.plain("embeddings.cls_position_embedding", c.width)
    _flat_patch(b, c, "embeddings.patch_embedding", bias=False)
    b.table("embeddings.position_embedding", c.count("posemb_grid_size") ** 2, c.width)
    b.norm("pre_layernorm", c.width)
    _scaled_layers(b, c, c.inner)
    m, joined = b.at("merger"), c.width * c.count("spatial_merge_size") ** 2
    out, bias = c.count("text_hidden_size"), c.flag("projector_bias")
    m.chain(("linear_1", c.count("projection_hidden_dim")), ("linear_2", out), into=joined, bias=bias)


def _lfm3(b: TowerBuilder, c: Part) -> None:
    """Short convolutions over the image between layers of attention."""
    _flat_patch(b, c, "patch_embed", bias=False, frames=c.count("temporal_patch_size"))
    b.rms("embedding_norm", c.width)
    kinds = c.listed_in("layer_types", str)
    if len(kinds) != c.depth:
        raise LLMHWError(f"{c.named('layer_types')} must list one entry for each of {c.depth} layers")
    layer = b.at("layers.*", c.depth)
    layer.chain(("feed_forward.w1", c.inner), ("feed_forward.w2", c.width), into=c.width, bias=False)
    layer.linear("feed_forward.w3", c.inner, c.width, bias=False)
    layer.rms("operator_norm", c.width)
    layer.rms("ffn_norm", c.width)
    short, kernel = b.at("layers.*.conv", kinds.count("conv")), c.count("conv_kernel_size")
    short.linear("in_proj", 3 * c.width, c.width, bias=False)
    short.conv("spatial_conv", c.width, 1, kernel, kernel, bias=False)
    short.linear("out_proj", c.width, c.width, bias=False)
    names = Names(qkv_bias=False, out_bias=False, qk_norm=("q_norm", "k_norm"))
    head = c.width // c.heads
    attend(b.at("layers.*", len(kinds) - kinds.count("conv")), c.width, names, kv=c.kv_heads * head, head=head)


def _muse(b: TowerBuilder, c: Part) -> None:
    down, across = c.pair("patch_size")
    e = b.at("patch_embedder")
    e.linear("patch_embedding", c.width, c.count("patch_temporal") * 3 * down * across, bias=False)
    e.table("position_embedding_table", c.count("pos_emb_height") * c.count("pos_emb_width"), c.width)
    b.norm("ln_pre", c.width)
    block(b.at("layers.*", c.depth), c.width, c.inner, _SEPARATE)
    b.norm("ln_post", c.width)


def _molmo2(b: TowerBuilder, c: Part) -> None:
    b.plain("positional_embedding", c.count("num_position_embeddings"), c.width)
    _flat_patch(b, c, "patch_embedding")
    bias = c.flag("attention_bias")
    sizes = {"width": c.heads * c.head_dim, "kv": c.kv_heads * c.head_dim}
    names = Names(out="o_proj", qkv_bias=bias, out_bias=bias)
    block(b.at("layers.*", c.depth), c.width, c.inner, names, **sizes)


def _granite_docling(b: TowerBuilder, c: Part) -> None:
    """SigLIP, and the connector that it ends in: one or two ways of joining patches."""
    _siglip(b, c)
    n, out, scale = b.at("connector"), c.count("out_hidden_size"), c.count("scale_factor")
    n.norm("ln_in", c.width)
    stacked = len(c.listed_in("deepstack_visual_indexes"))
    for name, factor in (("coarse", scale), *((("fine", scale // 2),) if c.flag("use_fine_route") else ())):
        joined = c.width * factor**2
        n.linear(f"{name}.projection", out, joined, bias=False)
        m = n.at(f"{name}.deepstack_mergers.*", stacked)
        m.norm("layer_norm", joined)
        m.chain(("linear_1", out), ("linear_2", out), into=joined)
    n.norm("ln_mid", out)
    n.linear("mlp_fc2", out, out, bias=False)
    n.norm("ln_out", out)


def _unlimited(b: TowerBuilder, c: Part) -> None:
    """Segment Anything's encoder, whose outputs CLIP takes for patches."""
    clip = c.sub("encoder_config", _CLIP_LARGE)
    _sam_down(b.at("sam_encoder"), c.sub("sam_config", _SAM_DOWN))
    e = b.at("vision_encoder")
    e.plain("embeddings.class_embedding", clip.width)
    e.table("embeddings.position_embedding", clip.patches + 1, clip.width)
    e.norm("pre_layrnorm", clip.width)
    block(e.at("encoder.layers.*", clip.depth), clip.width, clip.inner)


def _kosmos2_5(b: TowerBuilder, c: Part) -> None:
    """Pix2Struct's: rows and columns of patches have embeddings of their own."""
    e = b.at("embeddings")
    e.linear("patch_projection", c.width, c.count("patch_embed_hidden_size"))
    e.table("row_embedder", c.count("max_num_patches"), c.width)
    e.table("column_embedder", c.count("max_num_patches"), c.width)
    names = Names("attention", ("query", "key", "value"), "output", ("mlp.wi_0", "mlp.wi_1", "mlp.wo"),
        ("pre_mlp_layer_norm", "pre_attention_layer_norm"), norm_bias=False, qkv_bias=False, out_bias=False,
        mlp_bias=False)  # fmt: skip
    block(b.at("encoder.layer.*", c.depth), c.width, c.inner, names, width=c.heads * c.head_dim)
    b.rms("layernorm", c.width)


def _hunyuan(b: TowerBuilder, c: Part) -> None:
    width, out, side = c.width, c.count("text_hidden_size"), c.count("max_image_size") // c.count("patch_size")
    _patch(b, c, "embeddings.patch_embedding")
    b.table("embeddings.position_embedding", side**2 + 1, width)
    block(b.at("layers.*", c.depth), width, c.inner, Names(out="o_proj"), width=c.heads * c.head_dim)
    m, merge = b.at("patch_merger"), c.count("spatial_merge_size")
    m.conv("proj_conv", 2 * width, width, merge, merge)
    m.conv("proj_out", 4 * width, 2 * width, 1, 1)
    m.linear("mlp", out, 4 * width)
    m.plain("image_newline", 4 * width)
    for name in ("image_begin", "image_end", "image_sep"):
        m.plain(name, out)
    m.rms("before_rms", width)
    m.rms("after_rms", out)


def _sam_and(b: TowerBuilder, c: Part) -> None:
    """DeepSeek-OCR 2: Segment Anything's encoder, then a decoder of Qwen 2 that reads its patches and queries."""
    sam, e = c.sub("sam_config", _SAM_DOWN), c.sub("encoder_config", _QWEN2_ENCODER)
    _sam_down(b.at("sam_encoder"), sam)
    v, head = b.at("vision_encoder"), e.width // e.heads
    names = Names(out="o_proj", mlp=GATED, norms=_LLAMA.norms, norm_bias=False, out_bias=False, mlp_bias=False)
    block(v.at("layers.*", e.depth), e.width, e.inner, names, width=e.heads * head, kv=e.kv_heads * head)
    v.rms("norm", e.width)
    b.table("query_768_resolution", 144, e.width)
    b.table("query_1024_resolution", 256, e.width)


def _sam_down(b: TowerBuilder, c: Part) -> None:
    """Segment Anything's, and two convolutions that shrink the image."""
    _sam(b, c)
    channels = c.listed_in("downsample_channels")
    if len(channels) < 2:
        raise LLMHWError(f"{c.named('downsample_channels')} must list two numbers")
    b.conv("proj.conv1", channels[0], c.count("output_channels"), 3, 3, bias=False)
    b.conv("proj.conv2", channels[1], channels[0], 3, 3, bias=False)


def _inkling(b: TowerBuilder, c: Part) -> None:
    """Linear layers that fold the patch together, by one prime factor of its sides after the other."""
    scales, out = _folds(c), c.count("text_hidden_size")
    for i, (start, end) in enumerate(pairwise(scales)):
        last = i == len(scales) - 2
        width, folded = out if last else end[3], prod(e // s for s, e in zip(start[:3], end[:3], strict=True))
        b.linear(f"encoder_layers.{i}.projection", width, start[3] * folded, bias=False)
        if not last:
            b.rms(f"encoder_layers.{i}.layer_norm", width)
    b.rms("final_norm", out)


def _folds(c: Part) -> list[tuple[int, int, int, int]]:
    """Frames, height, width and channels before and behind every layer of `_inkling`.

    A layer ends at the size that is nearest, in powers, to its share of the way from a pixel to the patch.
    """
    frames, side, depth = c.count("temporal_patch_size"), c.count("patch_size"), c.depth
    scales = [(1, 1, 1, c.channels)]
    for high in accumulate(_primes(side), mul):
        scales.append((1, high, high, -(-(high**2) * c.channels // 64) * 64))
    scales += [(t, side, side, side**2 * c.channels * t * 64) for t in accumulate(_primes(frames), mul)]
    if depth < len(scales):
        raise LLMHWError(
            f"{c.named('num_hidden_layers')}={depth} must be at least {len(scales)}, the factors of a patch"
        )
    whole = log(side * side * frames * c.channels)
    sizes = [log(t * high * wide) for t, high, wide, _ in scales]
    chosen = [min(range(len(scales)), key=lambda k: abs(i * whole / depth - sizes[k])) for i in range(depth + 1)]
    return [scales[k] for k in (0, *chosen[1:-1], len(scales) - 1)]


def _primes(number: int) -> list[int]:
    """Prime factors, largest first."""
    found, factor = [], 2
    while factor * factor <= number:
        while number % factor == 0:
            found.append(factor)
            number //= factor
        factor += 1
    return sorted([*found, *([number] if number > 1 else [])], reverse=True)


_VIT_SIZES = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_SO400M = {"hidden_size": 1152, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 16}
_SAM = {"hidden_size": 768, "output_channels": 256, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 1024, "patch_size": 16, "qkv_bias": True, "use_abs_pos": True, "use_rel_pos": True,
    "window_size": 14, "global_attn_indexes": [2, 5, 8, 11], "mlp_dim": 3072}  # fmt: skip
_CLIP_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 14}  # fmt: skip
_SAM_DOWN = {**_SAM, "downsample_channels": [512, 1024]}
_QWEN2_ENCODER = {"hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32}  # fmt: skip
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
        num_attention_heads=16, image_size=384, patch_size=16, attention_bias=True, depth=2, projection_dim=2048),
    "llama4_vision_model": encoder(_llama4, hidden_size=768, intermediate_size=5632, num_hidden_layers=34,
        num_attention_heads=16, image_size=448, patch_size=14, projector_input_dim=4096, projector_output_dim=4096,
        pixel_shuffle_ratio=0.5),
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
    "gemma4_vision": encoder(_gemma4, hidden_size=768, intermediate_size=3072, num_hidden_layers=16,
        num_attention_heads=12, num_key_value_heads=12, head_dim=64, patch_size=16, position_embedding_size=10240),
    "radio": encoder(_radio, hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, mlp_ratio=4.0,
        max_img_size=2048, patch_size=16, num_cls_tokens=3, num_registers=7, qkv_bias=True),
    "ovis2_vision": encoder(_ovis2, hidden_size=1024, intermediate_size=2816, num_hidden_layers=24,
        num_attention_heads=8, image_size=224, patch_size=14, vocab_size=16384, num_visual_indicator_tokens=5,
        hidden_stride=1),
    "minimax_m3_vl_vision": encoder(_minimax_m3, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
        num_attention_heads=16, image_size=2016, patch_size=14, temporal_patch_size=2, spatial_merge_size=2),
    "ernie4_5_vl_moe_vision": encoder(_ernie, hidden_size=1280, intermediate_size=5120, depth=32, num_heads=16,
        in_channels=3, patch_size=14, spatial_merge_size=2, temporal_merge_size=2),
    "dots3_note_vision_encoder": encoder(_dots3, {"embed_dim": "hidden_size", "num_heads": "num_attention_heads",
        "use_bias": "attention_bias"}, hidden_size=1536, intermediate_size=4224, num_hidden_layers=42,
        num_attention_heads=24, patch_size=14, moe_intermediate_size=2112, num_local_experts=64, adapter_in_dim=1536,
        adapter_out_dim=5120, adapter_merge_size=2, mlp_layer_types=25 * ["dense"] + 17 * ["sparse"],
        per_layer_config={str(i): {"num_local_experts": 4 * (i - 24)} for i in range(25, 40)}),
    "step3p5_vision": encoder(_step3p5, {"width": "hidden_size", "layers": "num_hidden_layers",
        "heads": "num_attention_heads"}, hidden_size=1536, mlp_ratio=8960 / 1536, num_hidden_layers=47,
        num_attention_heads=16, image_size=728, patch_size=14),
    "inkling2_vision": encoder(_inkling2, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23,
        num_attention_heads=16, patch_size=20, posemb_grid_size=32, spatial_merge_size=2, projection_hidden_dim=4096,
        text_hidden_size=4608),
    "lfm3_vl_vision": encoder(_lfm3, hidden_size=1024, intermediate_size=2560, num_hidden_layers=14,
        num_attention_heads=16, num_key_value_heads=8, in_channels=3, patch_size=16, temporal_patch_size=2,
        spatial_merge_size=2, conv_kernel_size=3,
        layer_types=["conv", "conv", *5 * ["full_attention", "conv"], "full_attention", "conv"]),
    "muse_vision": encoder(_muse, hidden_size=1536, intermediate_size=8960, num_hidden_layers=50,
        num_attention_heads=16, patch_size=14, patch_temporal=2, pos_emb_height=32, pos_emb_width=32),
    "molmo2_vision": encoder(_molmo2, {"image_default_input_size": "image_size", "image_patch_size": "patch_size",
        "image_num_pos": "num_position_embeddings"}, hidden_size=1152, intermediate_size=4304, num_hidden_layers=25,
        num_attention_heads=16, num_key_value_heads=16, head_dim=72, image_size=[378, 378], patch_size=14,
        num_position_embeddings=729, attention_bias=True),
    "cosmos3_edge_vision": encoder(_siglip2, hidden_size=1152, intermediate_size=4304, num_hidden_layers=27,
        num_attention_heads=16, num_patches=256, patch_size=16, spatial_merge_size=2),
    "granite_docling_vision": encoder(_granite_docling, **_VIT_SIZES, image_size=512, patch_size=16,
        out_hidden_size=1024, scale_factor=4, deepstack_visual_indexes=[3, 7, 10], use_fine_route=True),
    "unlimited_ocr_vision": encoder(_unlimited),
    "deepseek_ocr2_vision": encoder(_sam_and),
    "hunyuan_vl_vision": encoder(_hunyuan, hidden_size=1152, intermediate_size=4304, num_hidden_layers=27,
        num_attention_heads=16, patch_size=16, spatial_merge_size=2, max_image_size=2048, text_hidden_size=3072),
    "inkling_vision": encoder(_inkling, {"num_hidden_layers": "n_layers"}, patch_size=40, temporal_patch_size=2,
        n_layers=24, text_hidden_size=6144),
    "phi4_multimodal_vision": encoder(_siglip, hidden_size=1152, intermediate_size=4304, num_hidden_layers=27,
        num_attention_heads=16, image_size=448, patch_size=14, vision_use_head=True),
    "kosmos_2_vision_model": encoder(_clip, **_CLIP_LARGE),
    "kosmos_2_5_vision_model": encoder(_kosmos2_5, hidden_size=1536, intermediate_size=3968, num_hidden_layers=18,
        num_attention_heads=24, head_dim=64, max_num_patches=4096, patch_embed_hidden_size=768),
}
# fmt: on
