"""Memory by accounting: what each part of a model holds, and which mode fits a card. Needs no torch.

Weights and caches are counted exactly. Working sets are counted as the widest moment of a pass, in copies of its
largest activation; what a driver, kernels' workspaces and fragmentation add is a margin. Measured peaks replace these
figures where there are any; these say what to expect before anything is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from studio.config import DiTConfig, ModelConfig, TextConfig, VAEConfig
from studio.shapes import VideoShape

__all__ = [
    "MODES",
    "MemoryMode",
    "dit_parameters",
    "mode_for",
    "mode_named",
    "peak_bytes",
    "text_parameters",
    "vae_parameters",
]

GIB = 2**30
HALF = 2
# Context of the driver, loaded kernels and their workspaces, and what the allocator cannot reuse.
_DRIVER = GIB // 2
_FRAGMENTS = 1.05
# Of a card's memory, what other programs and the screen leave.
_USABLE = 0.95
# Copies of the widest activation that a residual block of the VAE holds at once: its input, the normed one, the one
# with its past in front, and the result.
_VAE_COPIES = 4
# Rows of the model's width that a transformer block holds at once besides the feed-forward's two.
_BLOCK_COPIES = 8

Place = Literal["device", "int8 on the device", "cpu"]


@dataclass(frozen=True, kw_only=True)
class MemoryMode:
    """How a model is spread to fit a card.

    Args:
        name: What to call it.
        card: Size of the cards it is meant for, in GiB.
        quantization: Of the transformer, as `studio.load` takes it.
        text: Where the text encoder is while it encodes.
        vae_frames: Latent frames decoded at once; fewer take less memory and a little longer. None: the whole block.
        window: Longest window of the cache in latent frames; shorter remembers less. None: the model's own.
    """

    name: str
    card: int
    quantization: Literal["int8"] | None
    text: Place
    vae_frames: int | None
    window: int | None = None

    def applied(self, config: ModelConfig) -> ModelConfig:
        """The model with its window cut to the mode's."""
        window = config.cache.window
        if self.window is None or window is None or window <= self.window:
            return config
        return replace(config, cache=replace(config.cache, window=self.window))

    def options(self) -> dict[str, str]:
        """Keywords for `studio.load` beyond the device and the type."""
        options: dict[str, str] = {}
        if self.quantization is not None:
            options["quantization"] = self.quantization
        if self.text == "cpu":
            options["text_device"] = "cpu"
        elif self.text != "device":
            options["text_quantization"] = "int8"
        return options


# From the most generous to the thriftiest.
MODES: tuple[MemoryMode, ...] = (
    MemoryMode(name="80 GB", card=80, quantization=None, text="device", vae_frames=None),
    MemoryMode(name="24 GB", card=24, quantization=None, text="int8 on the device", vae_frames=None),
    MemoryMode(name="12 GB", card=12, quantization=None, text="cpu", vae_frames=1),
    MemoryMode(name="8 GB", card=8, quantization="int8", text="cpu", vae_frames=1, window=3),
)


def dit_parameters(config: DiTConfig) -> int:
    """Parameters of a transformer.

    Args:
        config: Its sizes.
    """
    return _dit_plain(config) + config.layers * _block_weights(config)


def text_parameters(config: TextConfig) -> int:
    """Parameters of a text encoder, the tied embedding once.

    Args:
        config: Its sizes.
    """
    norms = config.layers * 2 * config.dim + config.dim
    bias = config.layers * config.buckets * config.heads
    return config.vocab * config.dim + config.layers * _text_weights(config) + norms + bias


def vae_parameters(config: VAEConfig) -> int:
    """Parameters of a video VAE without spatial attention besides the middle.

    Args:
        config: Its sizes.
    """
    return (
        _encoder_parameters(config)
        + _decoder_parameters(config)
        + _conv(2 * config.z_dim, 2 * config.z_dim, 1)
        + (_conv(config.z_dim, config.z_dim, 1))
    )


def peak_bytes(config: ModelConfig, mode: MemoryMode, *, frames: int | None = None) -> dict[str, int]:
    """Bytes on the card while a model plays, by part, in bfloat16.

    Args:
        config: The model.
        mode: How it is spread.
        frames: Latent frames of the video, for a model that keeps all of them; None: those that it attends to.

    Returns:
        Part to bytes; "peak" is their sum with the margin. Denoising and decoding take turns, so only the larger of
        their working sets counts.
    """
    config = mode.applied(config)
    parts = {
        "transformer": _dit_bytes(config.dit, mode),
        "text encoder": _text_bytes(config.text, mode),
        "VAE": HALF * vae_parameters(config.vae),
        "K/V cache": _cache_bytes(config, frames),
        "VAE stream": _stream_bytes(config),
        "working set": max(_pass_bytes(config), _decode_bytes(config, mode)),
    }
    return {**parts, "peak": _DRIVER + int(_FRAGMENTS * sum(parts.values()))}


def mode_for(config: ModelConfig, card: int) -> MemoryMode | None:
    """The most generous mode whose peak fits a card.

    Args:
        config: The model.
        card: Memory of the card in bytes.

    Returns:
        The mode, or None where not even the thriftiest fits.
    """
    return next((mode for mode in MODES if peak_bytes(config, mode)["peak"] <= _USABLE * card), None)


def mode_named(name: str | MemoryMode | None, config: ModelConfig, card: int | None) -> MemoryMode | None:
    """Find the mode that a caller means.

    Args:
        name: A mode or its name, "auto" for what fits the card, or None for none.
        config: The model.
        card: Memory of the card in bytes; None: there is no card.

    Returns:
        The mode; None where nothing is to be changed, as by "auto" without a card.

    Raises:
        ValueError: If there is no such mode, or not even the thriftiest fits the card.
    """
    if name is None or isinstance(name, MemoryMode):
        return name
    if name == "auto":
        if card is None:
            return None
        found = mode_for(config, card)
        if found is None:
            least = peak_bytes(config, MODES[-1])["peak"] / GIB
            raise ValueError(
                f"`{config.name}` needs about {least:.1f} GiB in its thriftiest mode, this card has {card / GIB:.1f}; "
                'use a smaller model or device="cpu"'
            )
        return found
    for mode in MODES:
        if mode.name == name:
            return mode
    raise ValueError(f'`mode` must be "auto" or one of {", ".join(mode.name for mode in MODES)}, got {name!r}')


def _block_weights(config: DiTConfig) -> int:
    dim, hidden = config.dim, config.ffn_dim
    attention = 2 * (4 * (dim * dim + dim) + (2 * dim if config.qk_norm else 0))
    feed_forward = 2 * dim * hidden + dim + hidden
    return attention + feed_forward + 6 * dim + (2 * dim if config.cross_attn_norm else 0)


def _dit_plain(config: DiTConfig) -> int:
    dim = config.dim
    patch = config.patch[0] * config.patch[1] * config.patch[2]
    embeddings = config.in_channels * patch * dim + dim
    embeddings += (config.text_dim * dim + dim) + (dim * dim + dim) + (config.freq_dim * dim + dim) + (dim * dim + dim)
    return (
        embeddings + 6 * dim * dim + 6 * dim + dim * patch * config.out_channels + patch * config.out_channels + 2 * dim
    )


def _dit_bytes(config: DiTConfig, mode: MemoryMode) -> int:
    if mode.quantization is None:
        return HALF * dit_parameters(config)
    linear = config.layers * (8 * config.dim**2 + 2 * config.dim * config.ffn_dim)
    rows = config.layers * (8 * config.dim + config.ffn_dim + config.dim)
    return linear + 4 * rows + HALF * (dit_parameters(config) - linear)


def _text_weights(config: TextConfig) -> int:
    return 4 * config.dim * config.attn_dim + 3 * config.dim * config.ffn_dim


def _text_bytes(config: TextConfig, mode: MemoryMode) -> int:
    if mode.text == "cpu":
        return 0
    if mode.text == "device":
        return HALF * text_parameters(config)
    linear = config.layers * _text_weights(config)
    rows = config.layers * (3 * config.attn_dim + 2 * config.dim + 2 * config.ffn_dim)
    return linear + 4 * rows + HALF * (text_parameters(config) - linear)


def _cache_frames(config: ModelConfig, frames: int | None) -> int:
    return config.cache.capacity or frames or config.cache.attend or config.sampler.block


def _cache_bytes(config: ModelConfig, frames: int | None) -> int:
    video = _cache_frames(config, frames) * VideoShape.of(config).tokens_per_frame
    return 2 * config.dit.layers * (video + config.dit.text_len) * config.dit.dim * HALF


def _pass_bytes(config: ModelConfig) -> int:
    # A recache runs everything that is visible at once.
    rows = _cache_frames(config, None) * VideoShape.of(config).tokens_per_frame
    return rows * (_BLOCK_COPIES * config.dit.dim + 2 * config.dit.ffn_dim) * HALF


def _decoder_levels(config: VAEConfig) -> list[tuple[int, int, int, int]]:
    """Of each level of the decoder, deep to shallow: channels in and out, and pixels' factors in space and time."""
    width, mults = config.decoder_dim or config.dim, config.dim_mult[::-1]
    dims = [width * mult for mult in (mults[0], *mults)]
    levels, space, time = [], 1, 1
    for level, (inputs, outputs) in enumerate(pairwise(dims)):
        levels.append((inputs if level == 0 else inputs // 2, outputs, space, time))
        if level < len(mults) - 1:
            space *= 2
            time *= 2 if config.temporal_downsample[::-1][level] else 1
    return levels


def _decode_bytes(config: ModelConfig, mode: MemoryMode) -> int:
    shape = VideoShape.of(config)
    cells = shape.latent_height * shape.latent_width * (mode.vae_frames or config.sampler.block)
    widest = max(max(inputs, outputs) * space**2 * time for inputs, outputs, space, time in _decoder_levels(config.vae))
    return _VAE_COPIES * widest * cells * HALF


def _stream_bytes(config: ModelConfig) -> int:
    """Two frames of the input of each causal convolution of the decoder."""
    shape = VideoShape.of(config)
    cells = shape.latent_height * shape.latent_width
    blocks = _decoder_blocks(config.vae)
    total = 0
    levels = _decoder_levels(config.vae)
    for level, (inputs, outputs, space, _) in enumerate(levels):
        channels = inputs + (2 * blocks - 1) * outputs
        doubles = level < len(levels) - 1 and config.vae.temporal_downsample[::-1][level]
        total += 2 * (channels + (outputs if doubles else 0)) * cells * space**2
    deep, shallow = levels[0][0], levels[-1]
    total += 2 * (config.vae.z_dim + 4 * deep) * cells + 2 * shallow[1] * cells * shallow[2] ** 2
    return total * HALF


def _decoder_blocks(config: VAEConfig) -> int:
    return 1 + (config.num_res_blocks if config.decoder_res_blocks is None else config.decoder_res_blocks)


def _conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel + outputs


def _residual(inputs: int, outputs: int) -> int:
    shortcut = _conv(inputs, outputs, 1) if inputs != outputs else 0
    return inputs + _conv(inputs, outputs, 27) + outputs + _conv(outputs, outputs, 27) + shortcut


def _middle(channels: int) -> int:
    attention = channels + _conv(channels, 3 * channels, 1) + _conv(channels, channels, 1)
    return 2 * _residual(channels, channels) + attention


def _encoder_parameters(config: VAEConfig) -> int:
    dims = [config.dim, *(config.dim * mult for mult in config.dim_mult)]
    total = _conv(3 * config.patch**2, dims[0], 27)
    for level, (inputs, outputs) in enumerate(pairwise(dims)):
        total += _residual(inputs, outputs) + (config.num_res_blocks - 1) * _residual(outputs, outputs)
        if level < len(config.dim_mult) - 1:
            total += _conv(outputs, outputs, 9) + config.temporal_downsample[level] * _conv(outputs, outputs, 3)
    return total + _middle(dims[-1]) + dims[-1] + _conv(dims[-1], 2 * config.z_dim, 27)


def _decoder_parameters(config: VAEConfig) -> int:
    levels, blocks = _decoder_levels(config), _decoder_blocks(config)
    deep, shallow = levels[0][0], levels[-1][1]
    total = _conv(config.z_dim, deep, 27) + _middle(deep)
    for level, (inputs, outputs, _, _) in enumerate(levels):
        total += _residual(inputs, outputs) + (blocks - 1) * _residual(outputs, outputs)
        if level < len(levels) - 1:
            temporal = config.temporal_downsample[::-1][level]
            total += _conv(outputs, outputs // 2, 9) + temporal * _conv(outputs, 2 * outputs, 3)
    return total + shallow + _conv(shallow, 3 * config.patch**2, 27)
