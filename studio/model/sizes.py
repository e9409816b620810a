"""Sizes of a network, read off the shapes of its tensors, so that a checkpoint needs no configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping

from studio.config import WAN_LATENT_MEAN, WAN_LATENT_STD, DiTConfig, TextConfig, VAEConfig

__all__ = ["dit_sizes", "text_sizes", "vae_sizes"]

Shapes = Mapping[str, tuple[int, ...]]
# Every released Wan transformer has heads of this size; shapes do not tell it.
_HEAD_DIM = 128


def dit_sizes(shapes: Shapes, *, heads: int | None = None, text_len: int | None = None) -> DiTConfig:
    """Sizes of a transformer.

    Args:
        shapes: Official name to shape.
        heads: Attention heads where a configuration tells them; None: heads of the size of every released one.
        text_len: Text tokens where a configuration tells them.

    Returns:
        The configuration that these shapes fit, if any does.

    Raises:
        ValueError: If telling tensors are missing, naming them, or one has the wrong number of axes or none.
    """
    _require(
        shapes,
        "patch_embedding.weight",
        "blocks.0.ffn.0.weight",
        "head.head.weight",
        "text_embedding.0.weight",
        "time_embedding.0.weight",
    )
    dim, channels, *patch = _shape(shapes, "patch_embedding.weight", 5)
    rows = patch[0] * patch[1] * patch[2]
    return DiTConfig(
        dim=dim,
        ffn_dim=_shape(shapes, "blocks.0.ffn.0.weight", 2)[0],
        heads=heads or max(1, dim // _HEAD_DIM),
        layers=_count(shapes, "blocks"),
        in_channels=channels,
        out_channels=_shape(shapes, "head.head.weight", 2)[0] // rows,
        patch=(patch[0], patch[1], patch[2]),
        text_dim=_shape(shapes, "text_embedding.0.weight", 2)[1],
        text_len=text_len or DiTConfig.text_len,
        freq_dim=_shape(shapes, "time_embedding.0.weight", 2)[1],
        qk_norm="blocks.0.self_attn.norm_q.weight" in shapes,
        cross_attn_norm="blocks.0.norm3.weight" in shapes,
    )


def vae_sizes(
    shapes: Shapes, *, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> VAEConfig:
    """Sizes of a video VAE.

    Args:
        shapes: Official name to shape.
        mean: Mean of each latent channel where a configuration tells it; None: Wan2.1's.
        std: Deviation of each latent channel, likewise.

    Returns:
        The configuration that these shapes fit, if any does.

    Raises:
        ValueError: If telling tensors are missing, naming them, or nothing tells the latents' statistics.
    """
    _require(
        shapes,
        "encoder.conv1.weight",
        "encoder.downsamples.0.residual.6.weight",
        "decoder.upsamples.0.residual.6.weight",
        "decoder.head.0.gamma",
        "conv2.weight",
    )
    dim, colours = _shape(shapes, "encoder.conv1.weight", 5)[:2]
    z_dim = _shape(shapes, "conv2.weight", 5)[0]
    if mean is None and z_dim != len(WAN_LATENT_MEAN):
        raise ValueError(
            f"the VAE must have the {len(WAN_LATENT_MEAN)} latent channels of Wan2.1 or bring their mean and "
            f"deviation, got {z_dim} channels; give a folder with a configuration"
        )
    mults, temporal, blocks = _levels(shapes, dim)
    decoder_blocks = _count(shapes, "decoder.upsamples") - (len(mults) - 1)
    width = _shape(shapes, "decoder.head.0.gamma", 4)[0] // mults[0]
    return VAEConfig(
        dim=dim,
        decoder_dim=None if width == dim else width,
        z_dim=z_dim,
        dim_mult=mults,
        num_res_blocks=blocks,
        decoder_res_blocks=_unless(decoder_blocks // len(mults) - 1, blocks),
        temporal_downsample=temporal,
        patch=max(1, round((colours / 3) ** 0.5)),
        mean=mean or WAN_LATENT_MEAN,
        std=std or WAN_LATENT_STD,
    )


def text_sizes(shapes: Shapes, *, text_len: int | None = None) -> TextConfig:
    """Sizes of a umt5 encoder.

    Args:
        shapes: Official name to shape.
        text_len: Tokens of a prompt where a configuration tells them.

    Returns:
        The configuration that these shapes fit, if any does.

    Raises:
        ValueError: If telling tensors are missing, naming them.
    """
    _require(
        shapes,
        "token_embedding.weight",
        "blocks.0.pos_embedding.embedding.weight",
        "blocks.0.attn.q.weight",
        "blocks.0.ffn.fc1.weight",
    )
    vocab, dim = _shape(shapes, "token_embedding.weight", 2)
    buckets, heads = _shape(shapes, "blocks.0.pos_embedding.embedding.weight", 2)
    return TextConfig(
        vocab=vocab,
        dim=dim,
        attn_dim=_shape(shapes, "blocks.0.attn.q.weight", 2)[0],
        ffn_dim=_shape(shapes, "blocks.0.ffn.fc1.weight", 2)[0],
        heads=heads,
        layers=_count(shapes, "blocks"),
        buckets=buckets,
        text_len=text_len or TextConfig.text_len,
    )


def _levels(shapes: Shapes, dim: int) -> tuple[tuple[int, ...], tuple[bool, ...], int]:
    """Width multipliers, temporal halvings and residual blocks a level, off the encoder's list of layers."""
    mults: list[int] = []
    temporal: list[bool] = []
    blocks = width = 0
    for index in range(_count(shapes, "encoder.downsamples")):
        name = f"encoder.downsamples.{index}"
        if f"{name}.resample.1.weight" in shapes:
            mults.append(width // dim)
            temporal.append(f"{name}.time_conv.weight" in shapes)
        elif f"{name}.residual.6.weight" in shapes:
            width = shapes[f"{name}.residual.6.weight"][0]
            blocks += not mults
    mults.append(width // dim)
    if 0 in mults:
        raise ValueError(
            f"`encoder.downsamples` must be levels at least as wide as its first {dim} channels, got {width} in the "
            "last; is the file whole?"
        )
    return tuple(mults), tuple(temporal), blocks


def _unless(value: int, usual: int) -> int | None:
    return None if value == usual else value


def _require(shapes: Shapes, *names: str) -> None:
    missing = [f"`{name}`" for name in names if name not in shapes]
    if missing:
        verbs = "is missing, which tells" if len(missing) == 1 else "are missing, which tell"
        raise ValueError(f"{', '.join(missing)} {verbs} the sizes; is the file whole?")


def _shape(shapes: Shapes, name: str, axes: int) -> tuple[int, ...]:
    if len(shapes[name]) != axes or 0 in shapes[name]:
        raise ValueError(
            f"`{name}` must have {axes} axes with something in each, got {list(shapes[name])}; is this the right file?"
        )
    return shapes[name]


def _count(shapes: Shapes, stem: str) -> int:
    pattern = re.compile(re.escape(stem) + r"\.(\d+)\.")
    return 1 + max((int(found[1]) for name in shapes if (found := pattern.match(name))), default=-1)
