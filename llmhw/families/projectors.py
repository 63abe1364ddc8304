"""Projectors: what wrappers have between their encoders and the text model, and which encoders those are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmhw.families.codes import chameleon, emu3, vq_gan
from llmhw.families.towers import GATED, Names, Part, TowerBuilder, attend, block
from llmhw.families.vision import sam_neck
from llmhw.families.wrapped import Wrapped, Wrapper, wrapper
from llmhw.units import LLMHWError


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


# Of the largest picture that their image processors let through: longest_edge (max_pixels) over the pixels of a token.
_QWEN_TOKENS = 16384


def _visual(encoder: str) -> Callable[[Wrapped], None]:
    """An encoder that itself ends in the text model's width."""

    def read(w: Wrapped) -> None:
        v = w.sees("visual", encoder)
        w.vision.streams = 1 + len(v.listed_in("deepstack_visual_indexes"))
        if encoder.startswith("qwen"):
            w.vision.tokens = _QWEN_TOKENS

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


def _gemma4(w: Wrapped) -> None:
    """Either tower may be missing."""
    for key, name, b, see in (
        ("vision_config", "vision", w.vision, w.sees),
        ("audio_config", "audio", w.audio, w.hears),
    ):
        if w.c.get(key) is not None:
            v = see(f"{name}_tower", otherwise=f"gemma4_{name}")
            into = v.count("output_proj_dims") if name == "audio" else v.width
            b.linear(f"embed_{name}.embedding_projection", w.hidden, into, bias=False)


def _gemma4_unified(w: Wrapped) -> None:
    """No encoders: patches and frames are projected."""
    if w.c.get("vision_config") is not None:
        v, e = w.c.sub("vision_config", _UNIFIED), w.vision.at("embed_vision")
        pixels, width = 3 * (v.count("patch_size") * v.count("pooling_kernel_size")) ** 2, v.count("mm_embed_dim")
        e.norm("patch_ln1", pixels)
        e.linear("patch_dense", width, pixels)
        e.norm("patch_ln2", width)
        e.plain("pos_embedding", v.count("mm_posemb_size"), 2, width)
        e.norm("pos_norm", width)
        into = v.count("output_proj_dims")
        e.linear("multimodal_embedder.embedding_projection", w.hidden, into, bias=False)
    if w.c.get("audio_config") is not None:
        a = w.c.sub("audio_config", {"audio_embed_dim": 640})
        into = a.count("output_proj_dims", default=a.count("audio_embed_dim"))
        w.audio.linear("embed_audio.embedding_projection", w.hidden, into, bias=False)


def _aria(w: Wrapped) -> None:
    v = w.sees("vision_tower", otherwise="idefics3_vision")
    p, width = w.vision.at("multi_modal_projector"), v.width
    p.plain("query", w.c.count("max_value_projector_patch_to_query_dict", default=_queries(w.c)), width)
    a = p.at("cross_attn")
    for name in ("q_proj", "k_proj", "v_proj"):
        a.linear(name, width, width, bias=False)
    a.plain("multihead_attn.in_proj_weight", 3 * width, width, matmul=True)
    a.plain("multihead_attn.in_proj_bias", 3 * width)
    a.linear("multihead_attn.out_proj", width, width)
    a.linear("linear", width, width)
    a.norm("layer_norm", width)
    a.norm("layer_norm_kv", width)
    p.norm("layer_norm", width)
    p.at("feed_forward").chain(("linear_in", w.hidden), ("linear_out", w.hidden), into=width, bias=False)


def _queries(c: Part) -> int:
    """The most queries that any number of patches has."""
    sizes = c.sub("projector_patch_to_query_dict", {})
    return max((sizes.count(key) for key in sizes.data), default=256)


def _cohere2(w: Wrapped, norm: str = "", inner: int | None = None) -> None:
    v = w.sees("vision_tower", otherwise="siglip_vision_model")
    into, inner = v.width * w.c.count("downsample_factor") ** 2, w.c.count("alignment_intermediate_size", default=inner)
    p = w.vision.at("multi_modal_projector")
    if norm:
        p.norm(norm, into)
    p.linear("linear_1", inner, into)
    p.linear("linear_2", w.hidden, inner // 2)


def _aya(w: Wrapped) -> None:
    _cohere2(w, "layernorm", w.hidden)


def _edge(w: Wrapped) -> None:
    v = w.sees("visual", "cosmos3_edge_vision")
    p = w.vision.at("projector")
    p.norm("norm", v.width)
    first = ("linear_fc1", w.c.count("projector_hidden_size"))
    p.chain(first, ("linear_fc2", w.hidden), into=v.width * v.count("spatial_merge_size") ** 2)


def _deepseek_vl(w: Wrapped) -> None:
    v = w.sees("vision_model", otherwise="siglip_vision_model")
    w.vision.at("aligner").chain(("linear1", w.hidden), ("linear2", w.hidden), into=v.width)
    w.vision.tokens = v.patches


def _deepseek_hybrid(w: Wrapped) -> None:
    v = w.sees("vision_model", otherwise="siglip_vision_model")
    s = w.sees("high_res_vision_model.vision_encoder", "sam_vision_model", key="high_res_vision_config")
    out, b = s.count("output_channels"), w.vision
    b.plain("high_res_vision_alpha", 1)
    sam_neck(b.at("high_res_vision_neck"), s)
    b.conv("high_res_vision_proj.conv1", 2 * out, out, 3, 3, bias=False)
    b.conv("high_res_vision_proj.conv2", 4 * out, 2 * out, 3, 3, bias=False)
    b.linear("aligner.vision_proj", w.hidden // 2, v.width)
    b.linear("aligner.high_res_vision_proj", w.hidden // 2, 4 * out)
    b.linear("aligner.proj", w.hidden, w.hidden)
    w.vision.tokens = v.patches


def _got_ocr2(w: Wrapped) -> None:
    v = w.sees("vision_tower", "sam_vision_model")
    p, out = w.vision.at("multi_modal_projector"), v.count("output_channels")
    p.conv("conv_upsampler1", 2 * out, out, 3, 3, bias=False)
    p.conv("conv_upsampler2", w.hidden, 2 * out, 3, 3, bias=False)
    p.linear("multimodal_projector", w.hidden, w.hidden)


def _unlimited(w: Wrapped) -> None:
    v = w.sees("vision_tower", "unlimited_ocr_vision")
    channels = v.sub("sam_config", {"downsample_channels": [512, 1024]}).listed_in("downsample_channels")
    into = channels[-1] + v.sub("encoder_config", {"hidden_size": 1024}).width
    w.vision.linear("multi_modal_projector", w.hidden, into)
    w.vision.plain("view_separator", w.hidden)
    w.vision.plain("image_newline", w.hidden)


def _deepseek_ocr2(w: Wrapped) -> None:
    v = w.sees("vision_tower", "deepseek_ocr2_vision")
    width = v.sub("encoder_config", {"hidden_size": 4096}).width
    w.vision.linear("multi_modal_projector", w.hidden, width)
    w.vision.plain("view_separator", w.hidden)


def _ernie(w: Wrapped) -> None:
    v = w.sees("vision_tower", "ernie4_5_vl_moe_vision")
    r, space = w.vision.at("resampler_model"), v.width * v.count("spatial_merge_size") ** 2
    for name, into in (("spatial_linear", space), ("temporal_linear", space * v.count("temporal_merge_size"))):
        r.at(name).chain(("fc1", space), ("fc2", space), into=into)
        r.norm(f"{name}.ln", space)
    r.linear("mlp", w.hidden, space)
    r.rms("after_norm", w.hidden)


def _dots3(w: Wrapped) -> None:
    w.sees("vision_tower", "dots3_note_vision_encoder")
    w.hears("audio_tower", "dots3_note_audio_encoder")


def _fuyu(w: Wrapped) -> None:
    down, across = w.c.pair("patch_size")
    w.vision.linear("vision_embed_tokens", w.hidden, down * across * w.c.channels)


def _granite_docling(w: Wrapped) -> None:
    v = w.sees("vision_model", "granite_docling_vision")
    w.vision.streams = 1 + len(v.listed_in("deepstack_visual_indexes"))
    w.vision.tokens = v.patches // v.count("scale_factor") ** 2
    if w.c.get("density_router_hidden_size") is not None:
        r, inner = w.vision.at("density_router"), w.c.count("density_router_hidden_size")
        r.linear("att", 1, v.width)
        r.norm("norm", v.width)
        r.chain(("fc1", inner), ("fc2", 1), into=v.width)


def _hyperclovax(w: Wrapped) -> None:
    v = w.sees("vision_model", otherwise="qwen2_5_vl_vision")
    w.vision.linear("projector", w.hidden, v.count("out_hidden_size"))


def _inkling(w: Wrapped) -> None:
    w.sees("vision_tower", "inkling_vision")
    w.hears("audio_tower", "inkling_audio")


def _alone(name: str, encoder: str) -> Callable[[Wrapped], None]:
    """A vision tower that ends in the text model's width, under this name."""

    def read(w: Wrapped) -> None:
        w.sees(name, encoder)

    return read


def _janus(w: Wrapped) -> None:
    """Images are read by one encoder, and written as the codes of a second one."""
    v = w.sees("vision_model", "janus_vision_model")
    width = v.count("projection_dim")
    w.vision.linear("aligner.fc1", width, v.width)
    w.vision.at("aligner", v.blocks("depth") - 1).linear("hidden_layers.*", width, width)
    q = w.c.sub("vq_config", _JANUS_CODES)
    vq_gan(w.vision.at("vqmodel"), q)
    words, deep, out = q.count("num_embeddings"), q.count("embed_dim"), q.count("projection_dim")
    w.vision.table("generation_embeddings", words, deep)
    w.vision.linear("generation_aligner.fc1", out, deep)
    w.vision.at("generation_aligner", q.depth - 1).linear("hidden_layers.*", out, out)
    w.vision.linear("generation_head.proj_out", out, q.count("image_token_embed_dim"))
    w.vision.linear("generation_head.vision_head", words, out)
    w.vision.tokens = v.patches


def _lfm3(w: Wrapped) -> None:
    v = w.sees("vision_tower", "lfm3_vl_vision")
    p = w.vision.at("multi_modal_projector")
    p.norm("layer_norm", v.width)
    into = v.width * v.count("spatial_merge_size") ** 2
    _two(p, w.c.count("projector_hidden_size"), w.hidden, into, bias=w.c.flag("projector_bias"))


def _minicpm(w: Wrapped) -> None:
    v = w.sees("vision_tower", "minicpm_vision")
    down, across = w.c.pair("merge_kernel_size")
    joined, times = v.width * down * across, w.c.blocks("merger_times")
    for count, out in ((times - 1, v.width), (1, w.hidden)):
        m = w.vision.at("merger.mlp.*", count)
        m.norm("pre_norm", joined)
        _two(m, joined, out, joined)


def _minimax_m3(w: Wrapped) -> None:
    v = w.sees("vision_tower", "minimax_m3_vl_vision")
    p, inner = w.vision.at("multi_modal_projector"), w.c.count("projector_hidden_size")
    _two(p, inner, w.hidden, v.width)
    merged = w.c.count("merged_hidden_size")
    p.chain(("merge_linear_1", inner), ("merge_linear_2", w.hidden), into=merged)


def _molmo2(w: Wrapped) -> None:
    a = w.c.sub("adapter_config", _MOLMO2, {"vit_layers": "vision_feature_layer"})
    layers = a.listed_in("vision_feature_layer")
    if "vit_config" in w.c.data:  # an older file names layers behind those that are read; its checkpoint has none
        v = w.part("vision_config", "molmo2_vision")
        depth = max((i % max(v.depth, 1) for i in layers), default=0) + 1
        old = {**w.c.data, "vision_config": {**v.data, "num_hidden_layers": depth}}
        w.c = Part(old, w.c.defaults, w.c.model_type)
    w.sees("vision_tower", "molmo2_vision")
    into = a.width * len(layers)
    bias = a.flag("attention_bias")
    p = w.vision.at("multi_modal_projector")
    queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim
    for name, out in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
        p.linear(f"image_pooling_2d.{name}", out, into, bias=bias)
    p.linear("image_pooling_2d.o_proj", a.width, queries, bias=bias)
    m, mlp_bias = p.at("image_projector"), a.flag("mlp_bias")
    m.linear("gate_proj", a.inner, a.width, bias=mlp_bias)
    m.linear("up_proj", a.inner, a.width, bias=mlp_bias)
    m.linear("down_proj", a.count("text_hidden_size"), a.inner, bias=False)


def _muse(w: Wrapped) -> None:
    w.sees("vision_tower", "muse_vision")
    inner = w.c.count("projector_hidden_size")
    a = w.vision.at("vision_adapter")
    a.chain(("fc1", inner), ("fc2", inner), into=w.c.count("out_hidden_size"), bias=False)
    w.vision.linear("vision_projection", w.hidden, inner, bias=False)


def _muse_spark(w: Wrapped) -> None:
    _muse(w)
    w.hears("audio_tower", "muse_spark_audio")


def _nemotron_omni(w: Wrapped) -> None:
    v = w.sees("vision_model", otherwise="radio")
    if w.text.get("num_nextn_predict_layers", default=0):
        w.vision.norm("vision_final_layernorm", w.c.count("vision_hidden_size", default=v.width))
    into = w.c.count("vision_hidden_size", default=v.width) * int(1 / (w.c.number("downsample_ratio") or 1)) ** 2
    inner, p = w.c.count("projector_hidden_size"), w.vision.at("multi_modal_projector")
    p.rms("layer_norm", into)
    _two(p, inner, w.hidden, into, bias=False)
    if w.c.get("audio_config") is not None:
        a = w.hears("audio_tower", "nemotron_sound")
        e = w.audio.at("embed_audio")
        e.rms("layer_norm", a.width)
        inner, bias = a.count("projection_hidden_size", default=4096), a.flag("projection_bias")
        _two(e, inner, w.hidden, a.width, bias=bias)


def _ovis2(w: Wrapped) -> None:
    v = w.sees("vision_tower", "ovis2_vision")
    w.vision.table("visual_embeddings_table", v.count("vocab_size"), w.c.count("hidden_size"))


def _paddleocr(w: Wrapped) -> None:
    v = w.sees("visual.vision_model", "paddleocr_vl_vision")
    joined = v.width * v.count("spatial_merge_size", default=2) ** 2
    w.vision.norm("projector.pre_norm", v.width)
    _two(w.vision.at("projector"), joined, w.hidden, joined)


def _step3p7(w: Wrapped) -> None:
    v = w.sees("vision_model", "step3p5_vision")
    w.vision.linear("multi_modal_projector", w.hidden, 4 * v.width, bias=w.c.flag("projector_bias"))


def _video_llama_3(w: Wrapped) -> None:
    v = w.sees("vision_model", "video_llama_3_vision")
    w.vision.at("projector.readout").chain(("0", w.hidden), ("2", w.hidden), into=v.width)


def _kosmos(name: str, encoder: str) -> Callable[[Wrapped], None]:
    def read(w: Wrapped) -> None:
        v = w.sees(name, encoder)
        p = w.vision.at("image_to_text_projection")
        p.plain("latent_query", w.c.count("latent_query_num"), w.hidden)
        p.linear("dense", w.hidden, v.width)
        attend(p, w.hidden, Names("x_attn"))
        w.vision.tokens = w.c.count("latent_query_num")

    return read


def _qformer(b: TowerBuilder, c: Part) -> None:
    """BLIP-2's: learned queries that attend to an encoder's outputs in every n-th layer."""
    n, crossed = c.depth, -(-c.depth // c.count("cross_attention_frequency"))
    text = c.flag("use_qformer_text_input")
    if c.flag("embeds"):
        b.table("embeddings.word_embeddings", c.count("vocab_size"), c.width)
        b.table("embeddings.position_embeddings", c.count("max_position_embeddings"), c.width)
        b.norm("embeddings.layernorm", c.width)
    else:
        b.norm("layernorm", c.width)
    for name, times, into in (("attention", n, c.width), ("crossattention", crossed, c.count("encoder_hidden_size"))):
        a = b.at(f"encoder.layer.*.{name}", times)
        for part, read in (("query", c.width), ("key", into), ("value", into)):
            a.linear(f"attention.{part}", c.width, read)
        a.linear("output.dense", c.width, c.width)
        a.norm("output.LayerNorm", c.width)
    layer = b.at("encoder.layer.*", n)
    for suffix in ("_query", *(("",) if text else ())):
        layer.linear(f"intermediate{suffix}.dense", c.inner, c.width)
        layer.linear(f"output{suffix}.dense", c.width, c.inner)
        layer.norm(f"output{suffix}.LayerNorm", c.width)


def _blip2(w: Wrapped, instructed: bool = False) -> None:
    w.sees("vision_model", "blip_2_vision_model")
    own = {"use_qformer_text_input": True, "embeds": True} if instructed else {}
    q = w.c.sub("qformer_config", {**_QFORMER, **own})
    w.vision.plain("query_tokens", 1, w.c.count("num_query_tokens"), q.width)
    _qformer(w.vision.at("qformer"), q)
    w.vision.linear("language_projection", w.hidden, q.width)
    w.vision.tokens = w.c.count("num_query_tokens")


def _instructblip(w: Wrapped) -> None:
    _blip2(w, instructed=True)


def _granite4_vision(w: Wrapped) -> None:
    v = w.sees("vision_tower", otherwise="clip_vision_model")
    w.vision.plain("image_newline", w.hidden)
    query, _, window = w.c.text("downsample_rate").partition("/")
    if not (query.isdigit() and window.isdigit() and max(len(query), len(window)) < 5):
        raise LLMHWError(f"{w.c.named('downsample_rate')} must be two numbers, such as '1/4'")
    pairs = w.c.get("deepstack_layer_map", default=())
    if not isinstance(pairs, (list, tuple)) or len(pairs) > 10**3:
        raise LLMHWError(f"{w.c.named('deepstack_layer_map')} must be a list of at most 1,000 pairs")
    own = {**_QFORMER, "num_hidden_layers": 1, "cross_attention_frequency": 1}
    q = w.c.sub("qformer_config", own)
    q = Part({**q.data, "hidden_size": v.width, "encoder_hidden_size": v.width}, own, "qformer_config")
    for name, times in (("layerwise_projectors.*", len(pairs)), ("spatial_projectors.*", 4)):
        p = w.vision.at(name, times)
        _qformer(p.at("qformer"), q)
        p.norm("norm", v.width)
        p.plain("query", 1, int(query) ** 2, v.width)
        p.plain("image_positions", 1, int(window) ** 2, v.width)
        p.linear("out_linear", w.hidden, v.width)
    w.vision.streams = len(pairs) + 4


# -- sound


def _chameleon(w: Wrapped) -> None:
    chameleon(w.vision.at("vqmodel"), w.c.sub("vq_config", _CHAMELEON))


def _emu3(w: Wrapped) -> None:
    emu3(w.vision.at("vqmodel"), w.c.sub("vq_config", _EMU3_CODES))


def _stacked(b: TowerBuilder, c: Part, *, normed: bool) -> None:
    """Nemotron's encoders of stacked frames; `normed`: heads have norms."""
    b.linear("embedder.projection", c.width, c.count("subsampling_factor") * c.count("num_mel_bins"), bias=False)
    _frames(b, c, normed=normed)


def _frames(b: TowerBuilder, c: Part, *, normed: bool) -> None:
    b.norm("input_layer_norm", c.width)
    layer, head = b.at("layers.*", c.depth), c.head_dim
    sizes = {"width": c.heads * head, "kv": c.kv_heads * head, "values": c.heads * head}
    block(layer, c.width, c.inner, Names(out="o_proj", qkv_bias=False), **sizes)
    for name in ("q_norm", "k_norm") if normed else ():
        layer.norm(f"self_attn.{name}", head)
    b.norm("layer_norm", c.width)


def _nemo(w: Wrapped) -> None:
    """Nemotron 3.5 Transcribe: what is said, who says it, and when each word is."""
    audio = w.c.sub("audio_config", {})
    asr, who = audio.sub("asr_config", _NEMO_ASR), audio.sub("diarization_config", {})
    heard, head, when = (
        who.sub("audio_config", _NEMO_WHO),
        who.sub("head_config", _NEMO_HEAD),
        w.c.sub("word_timestamp_config", _NEMO_WHEN),
    )
    _stacked(w.audio.at("audio_tower.asr_encoder"), asr, normed=True)
    d = w.audio.at("audio_tower.diarization_model")
    d.plain("silence_embeds", heard.width)
    _stacked(d.at("model.audio_tower"), heard, normed=False)
    width, people = head.width, head.count("num_speakers")
    d.linear("model.proj", width, head.count("audio_hidden_size"))
    d.conv("model.upsampler.conv", width * head.count("subsampling_factor"), width, 3)
    d.chain(("classifier.dense", width), ("classifier.out_proj", people), into=width)
    w.audio.norm("audio_tower.asr_norm", asr.width)
    w.audio.norm("audio_tower.speaker_norm", people)
    w.audio.linear("multi_modal_projector", w.hidden, asr.width)
    t, factor = w.audio.at("word_timestamp_encoder"), when.count("upsampling_factor")
    t.conv("upsampler", when.width, when.width, factor)
    _frames(t, when, normed=True)
    TowerBuilder("audio", "", into=w.audio).conv("word_timestamp_head", when.count("vocab_size"), when.width, 1)


def _gemma3n(w: Wrapped) -> None:
    """The encoder of pictures is one of the timm library, whose sizes the config does not hold."""
    a = w.hears("audio_tower", "gemma3n_audio")
    v = w.c.sub("vision_config", {"hidden_size": 2048, "vocab_size": 128})
    w.left_out.append("vision encoder")
    for name, b, c in (("vision", w.vision, v), ("audio", w.audio, a)):
        e = b.at(f"embed_{name}")
        e.table("embedding", c.count("vocab_size"), c.width)
        e.rms("hard_embedding_norm", c.width)
        e.rms("soft_embedding_norm", c.width)
        e.linear("embedding_projection", w.hidden, c.width, bias=False)


def _timm(w: Wrapped) -> None:
    """FastVLM's and the Perception LM's: as above; here the projector."""
    v = w.c.sub("vision_config", {"hidden_size": 3072})
    sizes = v.sub("model_args", {})
    width = sizes.count("embed_dim", default=v.width)
    w.left_out.append("vision encoder")
    bias = w.c.flag("multimodal_projector_bias", True)
    _two(w.vision.at("multi_modal_projector"), w.hidden, w.hidden, width, bias=bias)


def _whispered(encoder: str, projector: Callable[[Wrapped, Part], None]) -> Callable[[Wrapped], None]:
    def read(w: Wrapped) -> None:
        projector(w, w.hears("audio_tower", encoder))

    return read


def _voxtral(w: Wrapped, a: Part) -> None:
    _two(w.audio.at("multi_modal_projector"), w.hidden, w.hidden, a.inner, bias=False)
    w.audio.tokens = a.count("max_source_positions") * a.width // a.inner


def _realtime(w: Wrapped, a: Part) -> None:
    into = a.width * w.c.count("downsample_factor")
    _two(w.audio.at("multi_modal_projector"), w.hidden, w.hidden, into, bias=False)


def _qwen2_audio(w: Wrapped, a: Part) -> None:
    w.audio.linear("multi_modal_projector.linear", w.hidden, a.width)
    w.audio.tokens = a.count("max_source_positions") // 2


def _glmasr(w: Wrapped, a: Part) -> None:
    _two(w.audio.at("multi_modal_projector"), 2 * w.hidden, w.hidden, a.inner)


def _qwen3_asr(w: Wrapped, a: Part) -> None:
    _two(w.audio.at("multi_modal_projector"), a.width, a.count("output_dim"), a.width)


def _qwen2_5_omni(w: Wrapped) -> None:
    w.hears("audio_tower", "qwen2_5_omni_audio_encoder")
    w.sees("visual", "qwen2_5_omni_vision_encoder")


def _qwen3_omni(w: Wrapped) -> None:
    w.hears("audio_tower", "qwen3_omni_moe_audio_encoder")
    v = w.sees("visual", "qwen3_omni_moe_vision_encoder")
    w.vision.streams = 1 + len(v.listed_in("deepstack_visual_indexes"))


def _granite_speech(w: Wrapped) -> None:
    w.hears("encoder", "granite_speech_encoder", key="encoder_config")
    q, p = w.c.sub("projector_config", _QFORMER), w.audio.at("projector")
    p.plain("query", 1, w.c.count("window_size") // w.c.count("downsample_rate"), q.width)
    _qformer(p.at("qformer"), q)
    p.linear("linear", w.hidden, q.width)


def _phi4(w: Wrapped) -> None:
    image = w.vision.at("embed_tokens_extend.image_embed")
    v = w.sees("embed_tokens_extend.image_embed.img_processor", "phi4_multimodal_vision")
    image.plain("global_img_feature_extensor", 1, 1, v.width)
    image.plain("sub_img_feature_extensor", 1, 1, 1, v.width)
    image.chain(("img_projection_up", w.hidden), ("img_projection_down", w.hidden), into=v.width)
    a = w.hears("embed_tokens_extend.audio_embed.encoder", "phi4_multimodal_audio")
    into, sound = a.width * a.count("downsample_rate", default=1), w.audio.at("embed_tokens_extend.audio_embed")
    for kind in ("speech", "vision_speech"):
        sound.chain((f"up_proj_for_{kind}", w.hidden), (f"down_proj_for_{kind}", w.hidden), into=into)


def _fun_asr(w: Wrapped) -> None:
    e, c = w.hears("audio_tower", "fun_asr_nano_encoder"), w.c.sub("adaptor_config", _ADAPTOR)
    p = w.audio.at("multi_modal_projector")
    _two(p, c.count("projector_hidden_size"), c.width, e.width)
    names = Names(out="o_proj", norms=("input_layernorm", "post_attention_layernorm"))
    block(p.at("layers.*", c.depth), c.width, c.inner, names)


def _moss(w: Wrapped) -> None:
    e, p = w.hears("audio_tower", "moss_transcribe_diarize_audio"), w.audio.at("multi_modal_projector")
    _two(p, w.hidden, w.hidden, e.width * w.c.count("audio_merge_size"), bias=w.c.flag("projector_bias"))
    p.norm("norm", w.hidden)


def _vibevoice(w: Wrapped) -> None:
    p = w.audio.at("multi_modal_projector")
    for kind in ("acoustic", "semantic"):
        key = f"{kind}_tokenizer_encoder"
        e = w.hears(key, "vibevoice_acoustic_tokenizer_encoder", key=f"{key}_config")
        p.chain((f"{kind}_linear_1", w.hidden), (f"{kind}_linear_2", w.hidden), into=e.width)
        p.rms(f"{kind}_norm", w.hidden)


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

_QFORMER: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "cross_attention_frequency": 2, "encoder_hidden_size": 1408, "vocab_size": 30522,
    "max_position_embeddings": 512}  # fmt: skip
_MOLMO2 = {"hidden_size": 1152, "intermediate_size": 18944, "num_attention_heads": 16, "num_key_value_heads": 16,
    "head_dim": 72, "text_hidden_size": 3584, "attention_bias": True, "vision_feature_layer": [24, 18]}  # fmt: skip
_ADAPTOR = {"hidden_size": 1024, "intermediate_size": 256, "num_hidden_layers": 2,
    "projector_hidden_size": 2048}  # fmt: skip
_JANUS_CODES = {"embed_dim": 8, "num_embeddings": 16384, "latent_channels": 256, "in_channels": 3, "out_channels": 3,
    "base_channels": 128, "channel_multiplier": [1, 1, 2, 2, 4], "num_res_blocks": 2, "num_hidden_layers": 2,
    "projection_dim": 2048, "image_token_embed_dim": 2048}  # fmt: skip
_EMU3_CODES = {"codebook_size": 32768, "embed_dim": 4, "latent_channels": 4, "in_channels": 3, "out_channels": 3,
    "temporal_downsample_factor": 4, "base_channels": 256, "channel_multiplier": [1, 2, 2, 4], "num_res_blocks": 2,
    "attn_resolutions": [3], "hidden_size": 1024}  # fmt: skip
_NEMO_ASR = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 10,
    "num_mel_bins": 128, "subsampling_factor": 8}  # fmt: skip
_NEMO_WHO = {**_NEMO_ASR, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 31,
    "num_attention_heads": 8}  # fmt: skip
_NEMO_HEAD = {"hidden_size": 192, "num_speakers": 8, "audio_hidden_size": 512, "subsampling_factor": 8}
_NEMO_WHEN = {"hidden_size": 1280, "intermediate_size": 640, "num_hidden_layers": 2, "num_attention_heads": 16,
    "vocab_size": 23863, "upsampling_factor": 2}  # fmt: skip
_KOSMOS = {"embed_dim": "hidden_size", "layers": "num_hidden_layers", "attention_heads": "num_attention_heads"}
_CHAMELEON = {**_JANUS_CODES, "embed_dim": 256, "num_embeddings": 8192, "resolution": 512, "attn_type": "vanilla"}
_UNIFIED = {"patch_size": 16, "pooling_kernel_size": 3, "mm_embed_dim": 3840, "mm_posemb_size": 1120,
    "output_proj_dims": 3840}  # fmt: skip
_MINICPM = {"merge_kernel_size": [2, 2], "merger_times": 1}
_MUSE = {"out_hidden_size": 6144, "projector_hidden_size": 4096}

# fmt: off
TABLE: dict[str, Wrapper] = {
    "llava": wrapper(_llava, "llama", **_CLIP, multimodal_projector_bias=True, image_seq_length=576),
    "llava_next": wrapper(_llava_next, "llama", **_CLIP, multimodal_projector_bias=True),
    "llava_next_video": wrapper(_llava_next, "llama", **_CLIP, multimodal_projector_bias=True),
    "llava_onevision": wrapper(_llava_next, "qwen2", **_SIGLIP, multimodal_projector_bias=True),
    "vipllava": wrapper(_vipllava, "llama", **{**_CLIP, "vision_feature_layer": [-2, -5, -8, -11, 6]}),
    "video_llava": wrapper(_video_llava, "llama", multimodal_projector_bias=True, vision_feature_layer=-2,
        vision_config={**_CLIP["vision_config"], "image_size": 224}),
    "qwen2_vl": wrapper(_visual("qwen2_vl_vision"), "qwen2_vl_text", either=True),
    "qwen2_5_vl": wrapper(_visual("qwen2_5_vl_vision"), "qwen2_5_vl_text", either=True),
    "qwen3_vl": wrapper(_visual("qwen3_vl_vision"), "qwen3_vl_text"),
    "cosmos3_omni": wrapper(_visual("qwen3_vl_vision"), "qwen3_vl_text"),
    "qwen3_vl_moe": wrapper(_visual("qwen3_vl_vision"), "qwen3_vl_moe_text"),
    "qwen3_5": wrapper(_visual("qwen3_5_vision"), "qwen3_5_text"),
    "qwen3_5_moe": wrapper(_visual("qwen3_5_vision"), "qwen3_5_moe_text"),
    "exaone4_5": wrapper(_visual("exaone4_5_vision"), "exaone4"),
    "glm4v": wrapper(_visual("glm4v_vision"), "glm4v_text", either=True),
    "glm46v": wrapper(_visual("glm4v_vision"), "glm4v_text"),
    "glmga": wrapper(_visual("glm4v_vision"), "glm4v_text"),
    "glm4v_moe": wrapper(_visual("glm4v_vision"), "glm4v_moe_text", either=True),
    "glm_ocr": wrapper(_visual("glm_ocr_vision"), "glm_ocr_text", either=True),
    "glm5_next": wrapper(_visual("glm5_next_vision"), "glm5_next_text"),
    "gemma3": wrapper(_gemma3, "gemma3_text", tied=True, mm_tokens_per_image=256),
    "shieldgemma2": wrapper(_gemma3, "gemma3_text", mm_tokens_per_image=256),
    "paligemma": wrapper(_paligemma, "gemma", tied=True, projection_dim=2048, vision_config={
        **_SIGLIP["vision_config"], "intermediate_size": 4096, "image_size": 224, "num_hidden_layers": 27}),
    "mistral3": wrapper(_mistral3, "mistral", tied=True, **_PIXTRAL),
    "mistral_large4": wrapper(_mistral3, "mistral_large4_text", spatial_merge_size=2, vision_config={
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 30, "num_attention_heads": 16,
        "patch_size": 14, "image_size": 1540}),
    "lighton_ocr": wrapper(_lighton, "qwen3", tied=True, **_PIXTRAL),
    "internvl": wrapper(_internvl, "qwen2", tied=True, downsample_ratio=0.5, image_seq_length=256),
    "qianfan_ocr": wrapper(_internvl, "qwen3", downsample_ratio=0.5, image_seq_length=256),
    "kimi_k25": wrapper(_kimi, "deepseek_v3", tied=True, projection_hidden_size=1152),
    "idefics2": wrapper(_idefics2, "mistral"),
    "idefics3": wrapper(_idefics3, "llama", scale_factor=2),
    "smolvlm": wrapper(_idefics3, "llama", scale_factor=2),
    "lfm2_vl": wrapper(_lfm2, "lfm2", tied=True, downsample_factor=2, projector_hidden_size=2560,
        projector_bias=True, projector_use_layernorm=True),
    "llama4": wrapper(_llama4, "llama4_text", tied=None, prefix=""),
    "mllama": wrapper(_mllama, "mllama_text_model", ties=False),
    "gemma4": wrapper(_gemma4, "gemma4_text", tied=True),
    "gemma4_unified": wrapper(_gemma4_unified, "gemma4_unified_text", tied=True),
    "aria": wrapper(_aria, "aria_text"),
    "cohere2_vision": wrapper(_cohere2, "cohere2", tied=True, downsample_factor=2, alignment_intermediate_size=36864),
    "aya_vision": wrapper(_aya, "cohere2", tied=True, downsample_factor=2, vision_config={
        **_SIGLIP["vision_config"], "num_attention_heads": 14}),
    "cohere_compass": wrapper(_visual("qwen3_vl_vision"), "cohere_compass_text"),
    "qwen4_exp": wrapper(_visual("qwen3_5_vision"), "qwen4_exp_text"),
    "cosmos3_edge": wrapper(_edge, "cosmos3_edge_text", projector_hidden_size=11520, ties=False),
    "deepseek_vl": wrapper(_deepseek_vl, "llama", tied=True),
    "deepseek_vl_hybrid": wrapper(_deepseek_hybrid, "llama", tied=True),
    "deepseek_ocr2": wrapper(_deepseek_ocr2, "deepseek_ocr2_text"),
    "unlimited_ocr": wrapper(_unlimited, "unlimited_ocr_text"),
    "got_ocr2": wrapper(_got_ocr2, "qwen2", tied=True),
    "pp_chart2table": wrapper(_got_ocr2, "qwen2", tied=True),
    "ernie4_5_vl_moe": wrapper(_ernie, "ernie4_5_vl_moe_text", tied=True),
    "dots3_note": wrapper(_dots3, "dots3_note_text"),
    "fuyu": wrapper(_fuyu, "persimmon", bare=True, patch_size=30, num_channels=3),
    "granite_docling": wrapper(_granite_docling, "granite_docling_text", tied=True),
    "granite4_vision": wrapper(_granite4_vision, "granite4_vision_text"),
    "hunyuan_vl": wrapper(_alone("vision_tower", "hunyuan_vl_vision"), "hunyuan_vl_text", tied=True),
    "hyperclovax_vision_v2": wrapper(_hyperclovax, "hyperclovax", tied=True),
    "inkling2": wrapper(_alone("vision_tower", "inkling2_vision"), "inkling2_text", ties=False),
    "inkling_mm_model": wrapper(_inkling, "inkling_text", ties=False),
    "janus": wrapper(_janus, "llama", tied=True),
    "lfm3_vl": wrapper(_lfm3, "lfm3", tied=True, projector_hidden_size=4096, projector_bias=True),
    "minicpm_ocr": wrapper(_minicpm, "qwen3_5_text", tied=True, **_MINICPM),
    "minicpmv4_6": wrapper(_minicpm, "qwen3_5_text", **_MINICPM),
    "minicpmv4_7": wrapper(_minicpm, "qwen3_5_text", **_MINICPM),
    "minimax_m3_vl": wrapper(_minimax_m3, "minimax_m3_vl_text", projector_hidden_size=6144,
        merged_hidden_size=24576),
    "molmo2": wrapper(_molmo2, "molmo2_text", aliases={"vit_config": "vision_config"}, ties=False),
    "muse_glimmer": wrapper(_muse, "muse_glimmer_text", **_MUSE),
    "muse_spark": wrapper(_muse_spark, "muse_spark_text", **_MUSE, ties=False),
    "nemotron_h_omni": wrapper(_nemotron_omni, "nemotron_h", prefix="", projector_hidden_size=4096, tied=None,
        downsample_ratio=0.5, aliases={"sound_config": "audio_config", "vit_hidden_size": "vision_hidden_size"}),
    "ovis2": wrapper(_ovis2, "qwen2", tied=True, hidden_size=1536),
    "paddleocr_vl": wrapper(_paddleocr, "paddleocr_vl_text", tied=True, either=True),
    "step3p7": wrapper(_step3p7, "step3p5"),
    "video_llama_3": wrapper(_video_llama_3, "qwen2"),
    "kosmos-2": wrapper(_kosmos("vision_model.model", "kosmos_2_vision_model"), "kosmos_2_text_model", tied=True,
        either=True, prefix="", words=_KOSMOS, latent_query_num=64),
    "kosmos-2.5": wrapper(_kosmos("vision_model", "kosmos_2_5_vision_model"), "kosmos_2_5_text_model", tied=None,
        prefix="", words=_KOSMOS, latent_query_num=2048),
    "blip-2": wrapper(_blip2, "opt", tied=None, prefix="", num_query_tokens=32),
    "instructblip": wrapper(_instructblip, "opt", tied=None, prefix="", num_query_tokens=32),
    "instructblipvideo": wrapper(_instructblip, "opt", tied=None, prefix="", num_query_tokens=32),
    "voxtral": wrapper(_whispered("voxtral_encoder", _voxtral), "llama", ties=False),
    "voxtral_realtime": wrapper(_whispered("voxtral_realtime_encoder", _realtime), "voxtral_realtime_text",
        tied=True, downsample_factor=4),
    "qwen2_audio": wrapper(_whispered("qwen2_audio_encoder", _qwen2_audio), "qwen2", ties=False),
    "qwen3_asr": wrapper(_whispered("qwen3_asr_encoder", _qwen3_asr), "qwen3", tied=True),
    "glmasr": wrapper(_whispered("glmasr_encoder", _glmasr), "llama", tied=True),
    "qwen2_5_omni_thinker": wrapper(_qwen2_5_omni, "qwen2_5_omni_text"),
    "qwen3_omni_moe_thinker": wrapper(_qwen3_omni, "qwen3_omni_moe_text"),
    "granite_speech": wrapper(_granite_speech, "granite", tied=True, window_size=15, downsample_rate=5),
    "granite_speech_plus": wrapper(_granite_speech, "granite", tied=True, window_size=15, downsample_rate=5),
    "phi4_multimodal": wrapper(_phi4, "phi3"),
    "fun_asr_nano": wrapper(_fun_asr, "qwen3", tied=True),
    "moss_transcribe_diarize": wrapper(_moss, "qwen3", tied=True, audio_merge_size=4, projector_bias=True),
    "chameleon": wrapper(_chameleon, "chameleon"),
    "emu3": wrapper(_emu3, "emu3_text_model"),
    "nemo_speechlm": wrapper(_nemo, "nemotron_h", ties=False),
    "gemma3n": wrapper(_gemma3n, "gemma3n_text", tied=True),
    "fast_vlm": wrapper(_timm, "qwen2"),
    "perception_lm": wrapper(_timm, "llama"),
    "vibevoice_asr": wrapper(_vibevoice, "qwen2", semantic_tokenizer_encoder_config={"hidden_size": 128}, ties=False),
}
# fmt: on
