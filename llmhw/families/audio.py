"""Audio encoders."""

from __future__ import annotations

from llmhw.families.towers import GATED, Encoder, Names, Part, TowerBuilder, attend, block, encoder, renamed
from llmhw.units import LLMHWError

# Whisper's keys have no bias.
_WHISPER = Names(mlp=("fc1", "fc2"), norms=("self_attn_layer_norm", "final_layer_norm"), key_bias=False)


def _convs(b: TowerBuilder, c: Part) -> None:
    """Two convolutions over the spectrum."""
    b.conv("conv1", c.width, c.count("num_mel_bins"), 3)
    b.conv("conv2", c.width, c.width, 3)


def _whisper(b: TowerBuilder, c: Part) -> None:
    _convs(b, c)
    b.table("embed_positions", c.count("max_source_positions"), c.width)
    block(b.at("layers.*", c.depth), c.width, c.inner, _WHISPER)
    b.norm("layer_norm", c.width)


def _qwen2_5_omni(b: TowerBuilder, c: Part) -> None:
    _convs(b, c)
    out = c.count("output_dim")
    b.table("audio_bos_eos_token", 2, out)
    block(b.at("layers.*", c.depth), c.width, c.inner, _WHISPER)
    b.norm("ln_post", c.width)
    b.linear("proj", out, c.width)


def _qwen3(b: TowerBuilder, c: Part) -> None:
    """Qwen3-Omni's and Qwen3-ASR's: three convolutions over time and frequency."""
    inner, bins = c.count("downsample_hidden_size"), c.count("num_mel_bins")
    for name, into in (("conv2d1", 1), ("conv2d2", inner), ("conv2d3", inner)):
        b.conv(name, inner, into, 3, 3)
        bins = (bins + 1) // 2
    b.linear("conv_out", c.width, inner * bins, bias=False)
    names = Names(mlp=_WHISPER.mlp, norms=_WHISPER.norms)
    block(b.at("layers.*", c.depth), c.width, c.inner, names)
    b.norm("ln_post", c.width)
    if c.flag("projects"):
        b.chain(("proj1", c.width), ("proj2", c.count("output_dim")), into=c.width)


def _glmasr(b: TowerBuilder, c: Part) -> None:
    _convs(b, c)
    names = Names(out="o_proj", norms=("input_layernorm", "post_attention_layernorm"), key_bias=False)
    sizes = {"width": c.heads * c.head_dim, "kv": c.kv_heads * c.head_dim}
    block(b.at("layers.*", c.depth), c.width, c.inner, names, **sizes)
    b.norm("norm", c.width)


def _realtime(b: TowerBuilder, c: Part) -> None:
    _convs(b.at("embedder"), c)
    names = Names(out="o_proj", mlp=GATED, norms=_WHISPER.norms, norm_bias=False, mlp_bias=False, down_bias=True,
        key_bias=False)  # fmt: skip
    sizes = {"width": c.heads * c.head_dim, "kv": c.kv_heads * c.head_dim}
    block(b.at("layers.*", c.depth), c.width, c.inner, names, **sizes)
    b.rms("norm", c.width)


def _dots3(b: TowerBuilder, c: Part) -> None:
    old = c.sub("whisper_config", {})
    c = Part({**c.data, **renamed(old.data, _WHISPER_KEYS)}, c.defaults, c.model_type)
    inner = c.count("downsample_hidden_size")
    for i, into in enumerate((1, inner, inner)):
        b.conv(f"conv_stem.convs.{i}", inner, into, 3, 3)
    read = c.count("conv_output_size", default=inner * ((c.count("feature_size") + 7) // 8))
    b.linear("conv_stem.conv_out", c.width, read, bias=False)
    layer, bias, queries = b.at("layers.*", c.depth), c.flag("attention_bias"), c.heads * c.head_dim
    a = layer.at("self_attn")
    a.linear("q_proj", queries, c.width, bias=bias)
    a.linear("k_proj", c.width, c.width, bias=False)
    a.linear("v_proj", c.kv_heads * c.head_dim, c.width, bias=bias)
    a.linear("o_proj", c.width, queries, bias=bias)
    layer.linear("mlp.gate_up_proj", 2 * c.inner, c.width)
    layer.linear("mlp.down_proj", c.width, c.inner)
    layer.rms("input_layernorm", c.width)
    layer.rms("post_attention_layernorm", c.width)
    b.rms("layer_norm", c.width)
    into, out = c.count("adapter_input_size"), c.count("adapter_out_dim")
    b.norm("adapter.norm", into)
    b.at("adapter").chain(("fc1", out), ("fc2", out), into=into)


def _granite(b: TowerBuilder, c: Part) -> None:
    """A conformer whose attention has learned relative positions."""
    width, inner, out = c.width, c.count("num_heads") * c.count("dim_head"), c.count("output_dim")
    b.linear("input_linear", width, c.count("input_dim"))
    layer = b.at("layers.*", c.depth)
    for name in ("ff1", "ff2"):
        layer.norm(f"{name}.pre_norm", width)
        layer.at(name).chain(("up_proj", width * c.count("feedforward_mult")), ("down_proj", width), into=width)
    a = layer.at("attn")
    a.norm("pre_norm", width)
    a.linear("to_q", inner, width, bias=False)
    a.linear("to_kv", 2 * inner, width, bias=False)
    a.linear("to_out", width, inner)
    a.table("rel_pos_emb", 2 * c.count("max_pos_emb") + 1, c.count("dim_head"))
    v, wide = layer.at("conv"), width * c.count("conv_expansion_factor")
    v.norm("norm", width)
    v.conv("up_conv", 2 * wide, width, 1)
    v.conv("depth_conv.conv", wide, 1, c.count("conv_kernel_size"), bias=False)
    v.norm("batch_norm", wide)
    v.conv("down_conv", width, wide, 1)
    layer.norm("post_norm", width)
    b.linear("out", out, width)
    b.linear("out_mid", width, out)


def _phi4(b: TowerBuilder, c: Part) -> None:
    """A conformer behind convolutions that shorten the spectrum."""
    width, channels, times = c.width, c.count("nemo_conv_channels"), c.count("time_reduction").bit_length() - 1
    b.conv("embed.conv.0", channels, 1, 3, 3)
    bins = c.count("input_size")
    for i in range(times):
        bins = (bins - 1) // 2 + 1
        if i:
            b.conv(f"embed.conv.{3 * i - 1}", channels, 1, 3, 3)
            b.conv(f"embed.conv.{3 * i}", channels, channels, 1, 1)
    b.linear("embed.out", width, channels * bins)
    buckets = c.count("bias_max_distance") * (1 if c.flag("bias_symmetric") else 2)
    b.table("relative_attention_bias_layer.bias_values", buckets, c.heads)
    layer = b.at("encoders.*", c.depth)
    for name in ("feed_forward_in", "feed_forward_out"):
        layer.norm(f"{name}.layer_norm", width)
        layer.linear(f"{name}.gate_up_proj", 2 * c.inner, width)
        layer.linear(f"{name}.down_proj", width, c.inner)
    attend(layer, width, Names(out="o_proj"))
    v, out = layer.at("conv"), c.count("ext_pw_out_channel")
    v.norm("layer_norm", width)
    v.plain("glu.b1", 1, out, 1)
    v.plain("glu.b2", 1, out, 1)
    v.conv("glu.ext_pw_conv_1d", 2 * out, width, 1)
    deep, kernel = width * c.count("depthwise_multiplier"), c.count("kernel_size")
    v.conv("dw_sep_conv_1d.dw_conv", deep, 1, kernel)
    v.conv("dw_sep_conv_1d.pw_conv", c.count("depthwise_separable_out_channel"), deep, 1)
    v.conv("ext_pw_conv_1d", out, width, 1)
    layer.norm("layer_norm_att", width)
    layer.norm("layer_norm", width)


def _gemma4(b: TowerBuilder, c: Part) -> None:
    """A conformer with convolutions that see the past only."""
    channels, width = c.listed_in("subsampling_conv_channels"), c.width
    if len(channels) != 2:
        raise LLMHWError(f"{c.named('subsampling_conv_channels')} must list two numbers")
    for i, into in enumerate((1, channels[0])):
        b.conv(f"subsample_conv_projection.layer{i}.conv", channels[i], into, 3, 3, bias=False)
        b.rms(f"subsample_conv_projection.layer{i}.norm", channels[i])
    joined = channels[0] // 4 * channels[1]
    b.linear("subsample_conv_projection.input_proj_linear", width, joined, bias=False)
    layer = b.at("layers.*", c.depth)
    for name in ("feed_forward1", "feed_forward2"):
        layer.linear(f"{name}.ffw_layer_1.linear", 4 * width, width, bias=False)
        layer.linear(f"{name}.ffw_layer_2.linear", width, 4 * width, bias=False)
        layer.rms(f"{name}.pre_layer_norm", width)
        layer.rms(f"{name}.post_layer_norm", width)
    a = layer.at("self_attn")
    for name in ("q_proj.linear", "k_proj.linear", "v_proj.linear", "post.linear", "relative_k_proj"):
        a.linear(name, width, width, bias=False)
    a.plain("per_dim_scale", width // c.heads)
    v = layer.at("lconv1d")
    v.linear("linear_start.linear", 2 * width, width, bias=False)
    v.linear("linear_end.linear", width, width, bias=False)
    v.conv("depthwise_conv1d", width, 1, c.count("conv_kernel_size"), bias=False)
    v.rms("pre_layer_norm", width)
    v.rms("conv_norm", width)
    for name in ("norm_pre_attn", "norm_post_attn", "norm_out"):
        layer.rms(name, width)
    b.linear("output_proj", c.count("output_proj_dims"), width)


def _gemma3n(b: TowerBuilder, c: Part) -> None:
    """A conformer; its convolutions are padded in time so that they see the past only."""
    width, bins, into = c.width, c.count("input_feat_size"), 1
    kernels, strides = _pairs(c, "sscp_conv_kernel_size"), _pairs(c, "sscp_conv_stride_size")
    channels = c.listed_in("sscp_conv_channel_size")
    s = b.at("subsample_conv_projection")
    for i, (out, kernel, stride) in enumerate(zip(channels, kernels, strides, strict=False)):
        s.conv(f"conv_{i}.conv", out, into, *kernel, bias=False)
        s.rms(f"conv_{i}.norm", out)
        bins, into = (bins + 2 - kernel[1]) // stride[1] + 1, out
    s.linear("input_proj_linear", width, into * bins, bias=False)
    layer = b.at("conformer.*", c.blocks("conf_num_hidden_layers"))
    for name in ("ffw_layer_start", "ffw_layer_end"):
        layer.rms(f"{name}.pre_layer_norm", width)
        layer.at(name).chain(("ffw_layer_1", 4 * width), ("ffw_layer_2", width), into=width, bias=False)
        layer.rms(f"{name}.post_layer_norm", width)
    a = layer.at("attention")
    for name in ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.relative_position_embedding.pos_proj", "post"):
        a.linear(name, width, width, bias=False)
    a.plain("attn.per_dim_scale", width // c.count("conf_num_attention_heads"))
    a.rms("pre_attn_norm", width)
    a.rms("post_norm", width)
    v = layer.at("lconv1d")
    v.rms("pre_layer_norm", width)
    v.linear("linear_start", 2 * width, width, bias=False)
    v.conv("depthwise_conv1d", width, 1, c.count("conf_conv_kernel_size"), bias=False)
    v.rms("conv_norm", width)
    v.linear("linear_end", width, width, bias=False)
    layer.rms("norm", width)


def _pairs(c: Part, key: str) -> list[tuple[int, int]]:
    """Kernels or strides, each over time and frequency."""
    found = c.get(key)
    if not isinstance(found, (list, tuple)) or len(found) > 10:
        raise LLMHWError(f"{c.named(key)} must be a list of pairs")
    return [Part({"pair": entry}, {}, f"{c.model_type}.{key}").pair("pair") for entry in found]


def _parakeet(b: TowerBuilder, c: Part) -> None:
    """FastConformer."""
    width, channels, kernel = c.width, c.count("subsampling_conv_channels"), c.count("subsampling_conv_kernel_size")
    times, stride = c.count("subsampling_factor").bit_length() - 1, c.count("subsampling_conv_stride")
    b.conv("subsampling.layers.0", channels, 1, kernel, kernel)
    for i in range(1, times):
        b.conv(f"subsampling.layers.{3 * i - 1}", channels, 1, kernel, kernel)
        b.conv(f"subsampling.layers.{3 * i}", channels, channels, 1, 1)
    b.linear("subsampling.linear", width, channels * (c.count("num_mel_bins") // stride**times))
    layer, bias, conv_bias = b.at("layers.*", c.depth), c.flag("attention_bias"), c.flag("convolution_bias")
    for name in ("feed_forward1", "feed_forward2"):
        layer.at(name).chain(("linear1", c.inner), ("linear2", width), into=width, bias=bias)
        layer.norm(f"norm_{name}", width)
    queries = c.heads * c.head_dim
    attend(layer, width, Names(out="o_proj", qkv_bias=bias, out_bias=bias), width=queries, kv=c.kv_heads * c.head_dim)
    layer.linear("self_attn.relative_k_proj", queries, width, bias=False)
    layer.plain("self_attn.bias_u", c.heads, c.head_dim)
    layer.plain("self_attn.bias_v", c.heads, c.head_dim)
    v = layer.at("conv")
    v.conv("pointwise_conv1", 2 * width, width, 1, bias=conv_bias)
    v.conv("depthwise_conv", width, 1, c.count("conv_kernel_size"), bias=conv_bias)
    v.norm("norm", width)
    v.conv("pointwise_conv2", width, width, 1, bias=conv_bias)
    for name in ("norm_self_att", "norm_conv", "norm_out"):
        layer.norm(name, width)


def _fun_asr(b: TowerBuilder, c: Part) -> None:
    """Attention beside a convolution (SAN-M); the first layer reads stacked frames."""
    into, depth = c.count("num_mel_bins") * c.count("num_stacked_frames"), c.depth
    for times, read in ((1, into), (depth - 1, c.width)):
        layer = b.at("layers.*", times)
        for name in ("q_proj", "k_proj", "v_proj"):
            layer.linear(f"self_attn.{name}", c.width, read)
        layer.norm("input_layernorm", read)
    layer = b.at("layers.*", depth)
    layer.linear("self_attn.o_proj", c.width, c.width)
    layer.conv("self_attn.fsmn.conv", c.width, 1, c.count("fsmn_kernel_size"), bias=False)
    layer.chain(("mlp.fc1", c.inner), ("mlp.fc2", c.width), into=c.width)
    layer.norm("post_attention_layernorm", c.width)
    ends = {depth - c.count("num_timestamp_prediction_layers", least=0) - 1, depth - 1}
    b.at("layers.*", len([i for i in ends if i >= 0])).norm("final_layernorm", c.width)


def _muse_spark(b: TowerBuilder, c: Part) -> None:
    """Stages of convolutions, each wider than the one before."""
    widths, depths = c.listed_in("hidden_sizes"), c.listed_in("depths")
    into = 1
    for i, (width, depth, patch) in enumerate(zip(widths, depths, c.listed_in("patch_sizes"), strict=False)):
        b.linear(f"layers.{i}.patch_embedder.proj", width, into * patch)
        b.rms(f"layers.{i}.patch_embedder.norm", width)
        layer, inner = b.at(f"layers.{i}.conv_blocks.*", depth), int(width * c.number("mlp_ratio"))
        layer.conv("conv", width, 1, c.count("conv_kernel_size"))
        layer.rms("norm", width)
        layer.chain(("mlp.fc1", inner), ("mlp.fc2", width), into=width)
        into = width
    out = c.count("out_hidden_size")
    b.rms("norm", into)
    b.linear("proj", out, into)
    b.rms("post_proj_norm", out)


def _inkling(b: TowerBuilder, c: Part) -> None:
    out = c.count("text_hidden_size")
    b.table("embed_audio_tokens.embed_audio_tokens", c.count("mel_vocab_size") * c.count("n_mel_bins"), out)
    b.rms("norm", out)


def _vibevoice(b: TowerBuilder, c: Part) -> None:
    """Stages of convolutions; each halves, or more, the samples and doubles the channels."""
    kernel, channels, scale = c.count("kernel_size"), c.count("num_filters"), c.count("ffn_expansion")
    depths, ratios = c.listed_in("depths"), c.listed_in("downsampling_ratios")
    if len(ratios) < len(depths) - 1:
        raise LLMHWError(f"{c.named('downsampling_ratios')} must list {len(depths) - 1} numbers, one between depths")
    b.conv("stem.conv.conv", channels, c.count("channels"), kernel)
    for i, depth in enumerate(depths):
        name = f"conv_layers.{i - 1}" if i else "stem"
        if i:
            b.conv(f"{name}.conv.conv", 2 * channels, channels, 2 * ratios[i - 1])
            channels *= 2
        layer = b.at(f"{name}.stage.*", depth)
        for part in ("gamma", "ffn_gamma"):
            layer.plain(part, channels)
        for part in ("norm", "ffn_norm"):
            layer.rms(part, channels)
        layer.chain(("ffn.linear1", scale * channels), ("ffn.linear2", channels), into=channels)
        layer.conv("mixer.conv", channels, 1, kernel)
    b.conv("head.conv", c.count("hidden_size"), channels, kernel)


_WHISPER_KEYS = {"d_model": "hidden_size", "encoder_attention_heads": "num_attention_heads",
    "encoder_layers": "num_hidden_layers", "encoder_ffn_dim": "intermediate_size",
    "num_mel_bins": "feature_size"}  # fmt: skip
_AUDIO = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "num_mel_bins": 128}  # fmt: skip
_D_MODEL = {"d_model": 1280, "encoder_ffn_dim": 5120, "encoder_layers": 32, "encoder_attention_heads": 20,
    "num_mel_bins": 128}  # fmt: skip
_QWEN3_AUDIO = {"downsample_hidden_size": 480, "output_dim": 3584}
_PARAKEET = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 8,
    "num_mel_bins": 80, "convolution_bias": True, "conv_kernel_size": 9, "subsampling_factor": 8,
    "subsampling_conv_channels": 256, "subsampling_conv_kernel_size": 3, "subsampling_conv_stride": 2}  # fmt: skip

# fmt: off
ENCODERS: dict[str, Encoder] = {
    "voxtral_encoder": encoder(_whisper, **_AUDIO, max_source_positions=1500),
    "qwen2_audio_encoder": encoder(_whisper, **_D_MODEL, max_source_positions=1500),
    "moss_transcribe_diarize_audio": encoder(_whisper, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
        num_attention_heads=16, num_mel_bins=80, max_source_positions=1500),
    "qwen2_5_omni_audio_encoder": encoder(_qwen2_5_omni, **_D_MODEL, output_dim=3584),
    "qwen3_omni_moe_audio_encoder": encoder(_qwen3, **_D_MODEL, **_QWEN3_AUDIO, projects=True),
    "qwen3_asr_encoder": encoder(_qwen3, d_model=1024, encoder_ffn_dim=4096, encoder_layers=24,
        encoder_attention_heads=16, num_mel_bins=128, **_QWEN3_AUDIO),
    "glmasr_encoder": encoder(_glmasr, **_AUDIO),
    "voxtral_realtime_encoder": encoder(_realtime, **{**_AUDIO, "num_attention_heads": 32}, head_dim=64),
    "dots3_note_audio_encoder": encoder(_dots3, {"whisper_adapter_in_dim": "adapter_input_size",
        "whisper_adapter_out_dim": "adapter_out_dim"}, hidden_size=1280, intermediate_size=5120,
        num_hidden_layers=32, num_attention_heads=20, feature_size=128, attention_bias=True,
        downsample_hidden_size=480, adapter_input_size=1280, adapter_out_dim=5120),
    "granite_speech_encoder": encoder(_granite, hidden_dim=1024, num_layers=10, num_heads=8, dim_head=128,
        input_dim=160, output_dim=42, feedforward_mult=4, max_pos_emb=512, conv_kernel_size=15,
        conv_expansion_factor=2),
    "phi4_multimodal_audio": encoder(_phi4, hidden_size=1024, intermediate_size=1536, num_blocks=24,
        num_attention_heads=16, input_size=80, nemo_conv_channels=1024, time_reduction=8, bias_max_distance=1000,
        ext_pw_out_channel=1024, depthwise_separable_out_channel=1024, depthwise_multiplier=1, kernel_size=3),
    "gemma4_audio": encoder(_gemma4, hidden_size=1024, num_hidden_layers=12, num_attention_heads=8,
        subsampling_conv_channels=[128, 32], conv_kernel_size=5, output_proj_dims=1536),
    "gemma3n_audio": encoder(_gemma3n, hidden_size=1536, input_feat_size=128, vocab_size=128,
        conf_num_hidden_layers=12, conf_num_attention_heads=8, conf_conv_kernel_size=5,
        sscp_conv_channel_size=[128, 32], sscp_conv_kernel_size=[[3, 3], [3, 3]],
        sscp_conv_stride_size=[[2, 2], [2, 2]]),
    "parakeet_encoder": encoder(_parakeet, **_PARAKEET, attention_bias=True),
    "nemotron_sound": encoder(_parakeet, **_PARAKEET, attention_bias=False),
    "fun_asr_nano_encoder": encoder(_fun_asr, hidden_size=512, intermediate_size=2048, num_hidden_layers=70,
        num_mel_bins=80, num_stacked_frames=7, fsmn_kernel_size=11, num_timestamp_prediction_layers=20),
    "muse_spark_audio": encoder(_muse_spark, hidden_sizes=[256, 512, 1024, 2048], depths=[2, 2, 2, 2],
        patch_sizes=[16, 6, 5, 4], mlp_ratio=4.0, conv_kernel_size=7, out_hidden_size=8192),
    "inkling_audio": encoder(_inkling, mel_vocab_size=256, n_mel_bins=80, text_hidden_size=6144),
    "vibevoice_acoustic_tokenizer_encoder": encoder(_vibevoice, channels=1, hidden_size=64, kernel_size=7,
        num_filters=32, ffn_expansion=4, depths=[3, 3, 3, 3, 3, 3, 8], downsampling_ratios=[2, 2, 4, 5, 5, 8]),
}
# fmt: on
