"""Encoders of pictures into codes, and decoders of those: the tokenizers of models that read and write pictures."""

from __future__ import annotations

from collections.abc import Callable

from llmhw.families.towers import Names, Part, TowerBuilder, attend


def _vq_encoder(b: TowerBuilder, c: Part, attends: Callable[[int], bool], *, middle: bool = True) -> int:
    """The encoder of a VQ-GAN, and the way into its codes and out of them; its last channels.

    attends   whether blocks at this step of the way down have attention
    middle    whether there is attention at the bottom
    """
    base, latent, steps = c.count("base_channels"), c.count("latent_channels"), c.listed_in("channel_multiplier")
    deep, channels, e = c.count("embed_dim"), base, b.at("encoder")
    e.conv("conv_in", base, c.channels, 3, 3)
    for i, step in enumerate(steps):
        for j in range(c.blocks("num_res_blocks")):
            _residual(e.at(f"down.{i}.block.{j}"), channels, base * step)
            channels = base * step
            if attends(i):
                _attention_over_pixels(e.at(f"down.{i}.attn.{j}"), channels)
        if i < len(steps) - 1:
            e.conv(f"down.{i}.downsample.conv", channels, channels, 3, 3)
    _middle(e.at("mid"), channels, attends=middle)
    e.norm("norm_out", channels)
    e.conv("conv_out", latent * (2 if c.flag("double_latent") else 1), channels, 3, 3)
    b.table("quantize.embedding", c.count("num_embeddings"), deep)
    b.conv("quant_conv", deep, latent, 1, 1)
    b.conv("post_quant_conv", latent, deep, 1, 1)
    return channels


def chameleon(b: TowerBuilder, c: Part) -> None:
    """Chameleon's, which reads pictures only."""
    seen, side, vanilla = c.listed_in("attn_resolutions"), c.count("resolution"), c.text("attn_type") == "vanilla"
    _vq_encoder(b, c, lambda i: vanilla and side >> i in seen, middle=vanilla)


def vq_gan(b: TowerBuilder, c: Part) -> None:
    """A VQ-GAN: an encoder into codes, and a decoder of them."""
    base, latent, steps = c.count("base_channels"), c.count("latent_channels"), c.listed_in("channel_multiplier")
    blocks = c.blocks("num_res_blocks")
    channels = _vq_encoder(b, c, lambda i: i == len(steps) - 1)
    d = b.at("decoder")
    d.conv("conv_in", channels, latent, 3, 3)
    _middle(d.at("mid"), channels)
    for i, step in reversed(list(enumerate(steps))):
        for j in range(blocks + 1):
            _residual(d.at(f"up.{i}.block.{j}"), channels, base * step)
            channels = base * step
            if i == len(steps) - 1:
                _attention_over_pixels(d.at(f"up.{i}.attn.{j}"), channels)
        if i:
            d.conv(f"up.{i}.upsample.conv", channels, channels, 3, 3)
    d.norm("norm_out", channels)
    d.conv("conv_out", c.count("out_channels"), channels, 3, 3)


def _residual(b: TowerBuilder, into: int, out: int, codes: int = 0) -> None:
    """Two convolutions; `codes`: width of the codes that its norms read, if they do."""
    for name, width in (("norm1", into), ("norm2", out)):
        _spatial_norm(b.at(name), width, codes) if codes else b.norm(name, width)
    b.conv("conv1", out, into, 3, 3)
    b.conv("conv2", out, out, 3, 3)
    if into != out:
        b.conv("nin_shortcut", out, into, 1, 1)


def _attention_over_pixels(b: TowerBuilder, channels: int) -> None:
    b.norm("norm", channels)
    for name in ("q", "k", "v", "proj_out"):
        b.conv(name, channels, channels, 1, 1)


def _middle(b: TowerBuilder, channels: int, *, attends: bool = True) -> None:
    _residual(b.at("block_1"), channels, channels)
    if attends:
        _attention_over_pixels(b.at("attn_1"), channels)
    _residual(b.at("block_2"), channels, channels)


def emu3(b: TowerBuilder, c: Part) -> None:
    """Emu3's, which also folds frames."""
    base, latent, steps = c.count("base_channels"), c.count("latent_channels"), c.listed_in("channel_multiplier")
    blocks, deep, seen = c.blocks("num_res_blocks"), c.count("embed_dim"), c.listed_in("attn_resolutions")
    times = c.count("temporal_downsample_factor").bit_length() - 1
    out, top = latent * (2 if c.flag("double_latent") else 1), base * (steps[-1] if steps else 1)
    e, d, channels = b.at("encoder"), b.at("decoder"), base
    e.conv("conv_in", base, c.channels, 3, 3)
    for i, step in enumerate(steps):
        for j in range(blocks):
            _residual(e.at(f"down_block.down.{i}.block.{j}"), channels, base * step)
            channels = base * step
            if i in seen:
                attend(e.at(f"down_block.down.{i}.attn"), c.count("hidden_size"), Names(str(j)))
                e.norm(f"down_block.down.{i}.attn_norms.{j}", channels)
        if i < len(steps) - 1:
            e.conv(f"down_block.down.{i}.downsample.conv", channels, channels, 3, 3)
    _emu3_middle(e.at("middle_block"), c, top, 0)
    e.norm("norm_out", top)
    e.conv("conv_out", out, top, 3, 3)
    for side, width, kernel in ((e, out, 4), (d, latent, 3)):
        side.at("time_conv.*", times).conv("conv.conv", width, width, kernel, 3, 3)
        r = side.at("time_res_stack.*", blocks)
        for i in (1, 2):
            r.norm(f"norm{i}", width)
            r.conv(f"conv{i}.conv", width, width, 3, 3, 3)
    d.conv("conv_in", top, latent, 3, 3)
    _emu3_middle(d.at("middle_block"), c, top, deep)
    channels = top
    for i, step in reversed(list(enumerate(steps))):
        for j in range(blocks + 1):
            _residual(d.at(f"up_block.up.{i}.block.{j}"), channels, base * step, deep)
            channels = base * step
            if i in seen:
                attend(d.at(f"up_block.up.{i}.attn"), c.count("hidden_size"), Names(str(j)))
                _spatial_norm(d.at(f"up_block.up.{i}.attn_norms.{j}"), channels, deep)
        if i:
            d.conv(f"up_block.up.{i}.upsample.conv", channels, channels, 3, 3)
    _spatial_norm(d.at("norm_out"), channels, deep)
    d.conv("conv_out", c.count("out_channels"), channels, 3, 3)
    b.table("quantize.embedding", c.count("codebook_size"), deep)
    b.conv("quant_conv.conv", deep, latent, 3, 1, 1)
    b.conv("post_quant_conv.conv", latent, deep, 3, 1, 1)


def _emu3_middle(b: TowerBuilder, c: Part, channels: int, codes: int) -> None:
    _residual(b.at("block_1"), channels, channels, codes)
    attend(b, c.count("hidden_size"), Names("attn_1"))
    _spatial_norm(b.at("attn_norm"), channels, codes) if codes else b.norm("attn_norm", channels)
    _residual(b.at("block_2"), channels, channels, codes)


def _spatial_norm(b: TowerBuilder, channels: int, codes: int) -> None:
    """A norm whose scale and shift are read from the codes."""
    b.norm("norm_layer", channels)
    b.conv("conv_y", channels, codes, 1, 1)
    b.conv("conv_b", channels, codes, 1, 1)
