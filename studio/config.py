"""Words: every size and switch of a model, as frozen dataclasses with presets in Python.

A configuration is data. It is validated when it is built, printed as it is, and written to and read from JSON by
`to_dict` and `from_dict`; an unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import sys
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

__all__ = [
    "PRESETS",
    "CacheConfig",
    "DiTConfig",
    "ModelConfig",
    "SamplerConfig",
    "TextConfig",
    "VAEConfig",
    "from_dict",
    "preset",
    "to_dict",
]

Positions = Literal["absolute", "window"]
SinkPolicy = Literal["keep", "rewrite"]
RecacheMask = Literal["full", "block_causal"]
Policy = Literal["recache", "keep", "clear"]

POLICIES: tuple[Policy, ...] = ("recache", "keep", "clear")
SINK_POLICIES: tuple[SinkPolicy, ...] = ("keep", "rewrite")


def _require_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}")


_hints = functools.cache(typing.get_type_hints)

_WORDS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "truth values"),
    int: ("a whole number", "whole numbers"),
    float: ("a finite number", "finite numbers"),
    str: ("a text", "texts"),
    type(None): ("None", "None"),
}


def _require_kinds(config: Any) -> None:
    """Check every field against its annotation: a text is no truth value, a truth value no number, 9.0 not whole."""
    for name, kind in _hints(type(config)).items():
        value = getattr(config, name)
        if not _is(value, kind):
            raise ValueError(f"`{name}` must be {_told(kind)}, got {value!r}")


def _is(value: Any, kind: Any) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_is(value, option) for option in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple:
        kinds = inner[:1] * len(value) if isinstance(value, tuple) and inner[-1] is ... else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is, value, kinds))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _told(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_told, inner))
    if origin is Literal:
        return f"one of {', '.join(inner)}"
    if origin is tuple:
        count = "" if inner[-1] is ... else f"{len(inner)} "
        return f"a tuple of {count}{_WORDS[inner[0]][1]}"
    return _WORDS[kind][0] if kind in _WORDS else f"a {kind.__name__}"


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Sizes of the diffusion transformer.

    Args:
        dim: Width of the residual stream; a multiple of `heads` with an even head size.
        ffn_dim: Hidden width of the feed-forward layers.
        heads: Attention heads.
        layers: Transformer blocks.
        in_channels: Latent channels read.
        out_channels: Latent channels written.
        patch: Latent frames, rows and columns of one token.
        text_dim: Width of the text encoder's output.
        text_len: Text tokens attended to, padding included.
        freq_dim: Width of the sinusoidal time embedding; even.
        eps: Epsilon of the normalisations.
        qk_norm: Whether queries and keys are RMS-normalised.
        cross_attn_norm: Whether the input of cross-attention is normalised with an affine norm.

    Raises:
        ValueError: If a field is of another kind, out of range, or does not fit the others.

    Source: Wan2.1 (Wan Team, 2025, arXiv:2503.20314).
    """

    dim: int
    ffn_dim: int
    heads: int
    layers: int
    in_channels: int = 16
    out_channels: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    text_dim: int = 4096
    text_len: int = 512
    freq_dim: int = 256
    eps: float = 1e-6
    qk_norm: bool = True
    cross_attn_norm: bool = True

    def __post_init__(self) -> None:
        _require_positive(
            self, "dim", "ffn_dim", "heads", "layers", "in_channels", "out_channels", "text_dim", "text_len", "freq_dim"
        )
        _require_kinds(self)
        if self.dim % (2 * self.heads):
            raise ValueError(f"`dim` must be a multiple of twice the {self.heads} heads, got {self.dim}")
        if self.freq_dim % 2:
            raise ValueError(f"`freq_dim` must be even, got {self.freq_dim}")
        if self.patch[0] != 1 or min(self.patch) < 1:
            raise ValueError(f"`patch` must be (1, rows, columns) with positive sizes, got {self.patch}")
        if self.eps <= 0:
            raise ValueError(f"`eps` must be positive, got {self.eps}")

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.heads


# Per-channel statistics of Wan2.1's latents, part of the public model (Wan2.1, `wan/modules/vae.py`).
WAN_LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Sizes of the causal video VAE.

    Args:
        dim: Width of the encoder's first level.
        decoder_dim: Width of the decoder's last level; `None` means `dim`.
        z_dim: Latent channels.
        dim_mult: Width multipliers of the levels, shallow to deep; one spatial halving between two levels.
        num_res_blocks: Residual blocks a level of the encoder; the decoder has one more.
        decoder_res_blocks: The same for the decoder; `None` means `num_res_blocks`.
        attn_scales: Scales with spatial attention besides the middle.
        temporal_downsample: For each halving, whether time is halved too.
        patch: Pixels folded into channels before the first level (1: none).
        mean: Mean of each latent channel, subtracted by the scaling.
        std: Standard deviation of each latent channel.

    Raises:
        ValueError: If a field is of another kind or out of range, or the lengths do not fit.

    Source: Wan2.1's video VAE; the patch is that of Wan2.2.
    """

    dim: int = 96
    decoder_dim: int | None = None
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    decoder_res_blocks: int | None = None
    attn_scales: tuple[float, ...] = ()
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    patch: int = 1
    mean: tuple[float, ...] = WAN_LATENT_MEAN
    std: tuple[float, ...] = WAN_LATENT_STD

    def __post_init__(self) -> None:
        _require_positive(self, "dim", "z_dim", "num_res_blocks", "patch")
        _require_kinds(self)
        if self.decoder_dim is not None:
            _require_positive(self, "decoder_dim")
        if self.decoder_res_blocks is not None and self.decoder_res_blocks < 0:
            raise ValueError(f"`decoder_res_blocks` must be at least 0, got {self.decoder_res_blocks}")
        if not self.dim_mult or min(self.dim_mult) < 1:
            raise ValueError(f"`dim_mult` must hold at least one level, each at least 1, got {self.dim_mult}")
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"`temporal_downsample` needs one entry a halving, {len(self.dim_mult) - 1}, "
                f"got {len(self.temporal_downsample)}"
            )
        if len(self.mean) != self.z_dim or len(self.std) != self.z_dim:
            raise ValueError(
                f"`mean` and `std` need {self.z_dim} entries (`z_dim`), got {len(self.mean)} and {len(self.std)}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"`std` must be positive, got {min(self.std)}")

    @property
    def spatial_factor(self) -> int:
        """Pixels a latent cell spans in each direction."""
        return self.patch * 2 ** (len(self.dim_mult) - 1)

    @property
    def temporal_factor(self) -> int:
        """Frames that each latent frame after the first decodes to."""
        return 2 ** sum(self.temporal_downsample)


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Sizes of the umt5 text encoder.

    Args:
        vocab: Entries of the embedding table.
        dim: Width of the residual stream and of the output.
        attn_dim: Width of the attention, all heads together.
        ffn_dim: Hidden width of the gated feed-forward layers.
        heads: Attention heads.
        layers: Encoder layers.
        buckets: Buckets of the relative position bias.
        max_distance: Distance at which the last bucket begins.
        text_len: Tokens of an encoded prompt, padding included.

    Raises:
        ValueError: If a size is no positive whole number or the heads do not divide `attn_dim`.

    Source: UMT5 (Chung et al., 2023, arXiv:2304.09151), as used by Wan2.1.
    """

    vocab: int = 256384
    dim: int = 4096
    attn_dim: int = 4096
    ffn_dim: int = 10240
    heads: int = 64
    layers: int = 24
    buckets: int = 32
    max_distance: int = 128
    text_len: int = 512

    def __post_init__(self) -> None:
        _require_positive(
            self, "vocab", "dim", "attn_dim", "ffn_dim", "heads", "layers", "buckets", "max_distance", "text_len"
        )
        if self.attn_dim % self.heads:
            raise ValueError(f"`attn_dim` must be a multiple of the {self.heads} heads, got {self.attn_dim}")


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """What a block can see, and what a switch does to it. All lengths in latent frames.

    Args:
        sink: First latent frames, kept for ever.
        window: Most recent latent frames, the current block included; `None` keeps everything.
        attend: Without a window, the most recent latent frames that are attended to; `None`: all.
        positions: "absolute" rotary positions, or "window": relative to the cache's slots, without an end.
        sink_policy: What a recache does to the sink once the window has rolled: "keep" the old prompt's K/V, or
            "rewrite" it with the first frames of the recached window. While nothing was evicted, a recache rewrites
            all of it under either.
        recache_mask: Whether recached frames see each other fully ("full", what released weights expect) or only
            their past ("block_causal").

    Raises:
        ValueError: If a field is of another kind, a length is negative or the window is empty.

    Source: LongLive (ICLR 2026), section 3; Infinity-RoPE for window-relative positions.
    """

    sink: int = 3
    window: int | None = 9
    attend: int | None = None
    positions: Positions = "absolute"
    sink_policy: SinkPolicy = "keep"
    recache_mask: RecacheMask = "full"

    def __post_init__(self) -> None:
        _require_kinds(self)
        if self.sink < 0:
            raise ValueError(f"`sink` must be at least 0 latent frames, got {self.sink}")
        if self.window is not None and self.window < 1:
            raise ValueError(f"`window` must be at least 1 latent frame, got {self.window}; use None to keep all")
        if self.window is None and self.sink:
            raise ValueError(f"`sink` must be 0 when the window keeps everything, got {self.sink}")
        if self.attend is not None and (self.window is not None or self.attend < 1):
            raise ValueError(f"`attend` limits only a cache without a window, got {self.attend}")

    @property
    def capacity(self) -> int | None:
        """Latent frames the cache holds, or `None` without a window."""
        return None if self.window is None else self.sink + self.window


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How a block is denoised.

    Args:
        steps: Timesteps of the denoising calls before warping, falling, in (0, 1000].
        shift: Flow shift, positive; warps a sigma s to shift*s / (1 + (shift-1)*s).
        block: Latent frames denoised together.
        context_timestep: Timestep of the commit.

    Raises:
        ValueError: If a field is of another kind or out of range, or the steps do not fall.

    Source: Self-Forcing (Huang et al., 2025, arXiv:2506.08009); LongLive (ICLR 2026).
    """

    steps: tuple[int, ...] = (1000, 750, 500, 250)
    shift: float = 5.0
    block: int = 3
    context_timestep: float = 0.0

    def __post_init__(self) -> None:
        _require_positive(self, "block")
        _require_kinds(self)
        if not self.steps or any(not 0 < s <= 1000 for s in self.steps):
            raise ValueError(f"`steps` must be timesteps in (0, 1000], got {self.steps}")
        if any(a <= b for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError(f"`steps` must fall, got {self.steps}")
        if self.shift <= 0:
            raise ValueError(f"`shift` must be positive, got {self.shift}")
        if not 0 <= self.context_timestep < 1000:
            raise ValueError(f"`context_timestep` must be in [0, 1000), got {self.context_timestep}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that makes one model: networks, cache, sampler and picture size.

    Args:
        name: The model's name, as `studio.open` takes it.
        height: Height of a frame in pixels.
        width: Width of a frame in pixels.
        fps: Frames a second.
        causal: Whether the model generates block by block (else a clip at a time).
        dit: Sizes of the diffusion transformer.
        vae: Sizes of the video VAE.
        text: Sizes of the text encoder.
        cache: What a block can see.
        sampler: How a block is denoised.

    Raises:
        ValueError: If a field is of another kind, or the parts do not fit each other.
    """

    name: str
    height: int
    width: int
    dit: DiTConfig
    vae: VAEConfig = field(default_factory=VAEConfig)
    text: TextConfig = field(default_factory=TextConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    fps: int = 16
    causal: bool = True

    def __post_init__(self) -> None:
        _require_positive(self, "height", "width", "fps")
        _require_kinds(self)
        for name, patch in (("height", self.dit.patch[1]), ("width", self.dit.patch[2])):
            unit = self.vae.spatial_factor * patch
            value = getattr(self, name)
            if value % unit:
                low = max(unit, value // unit * unit)
                raise ValueError(f"`{name}` must be a multiple of {unit}, got {value}; use {low} or {low + unit}")
        if self.dit.in_channels != self.vae.z_dim:
            raise ValueError(f"`dit.in_channels` must equal `vae.z_dim` {self.vae.z_dim}, got {self.dit.in_channels}")
        if self.dit.out_channels != self.dit.in_channels:
            raise ValueError(
                f"`dit.out_channels` must equal `dit.in_channels` {self.dit.in_channels}, got {self.dit.out_channels}"
            )
        if self.dit.text_dim != self.text.dim:
            raise ValueError(f"`dit.text_dim` must equal `text.dim` {self.text.dim}, got {self.dit.text_dim}")
        if self.dit.text_len != self.text.text_len:
            raise ValueError(f"`dit.text_len` must equal `text.text_len` {self.text.text_len}, got {self.dit.text_len}")
        window, block = self.cache.window, self.sampler.block
        if window is not None and window % block:
            low = max(block, window // block * block)
            raise ValueError(
                f"`window` must be a multiple of the block size {block}, got {window}; use {low} or {low + block}"
            )
        if self.cache.attend is not None and self.cache.attend < block:
            raise ValueError(f"`attend` must be at least the block size {block}, got {self.cache.attend}")


Config = TypeVar("Config")


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a configuration into plain, JSON-ready data.

    Args:
        config: Any dataclass of this module, or one built like them.

    Returns:
        A nested dictionary with lists for tuples.

    Raises:
        TypeError: If `config` is no dataclass instance.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    return plain(dataclasses.asdict(config))


def _rebuild(kind: Any, value: Any) -> Any:
    options = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, dict):
            return from_dict(option, value)  # type: ignore[arg-type]
        if typing.get_origin(option) is tuple and isinstance(value, (list, tuple)):
            return tuple(value)
    return value


def from_dict(cls: type[Config], data: dict[str, Any]) -> Config:
    """Build a configuration from plain data.

    Args:
        cls: The dataclass to build.
        data: What `to_dict` gave, or the same written by hand; missing keys take their defaults.

    Returns:
        The validated configuration.

    Raises:
        ValueError: If a key is unknown or a required one is missing, naming the nearest known key.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{cls.__name__} must be read from a mapping, got {type(data).__name__}")
    kinds = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in data:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(names)}"
            raise ValueError(f"`{key}` is not a key of {cls.__name__}; {hint}")
    try:
        return cls(**{key: _rebuild(kinds[key], value) for key, value in data.items()})
    except TypeError as error:
        raise ValueError(f"{cls.__name__} could not be built: {error}") from error


_WAN_1_3B = DiTConfig(dim=1536, ffn_dim=8960, heads=12, layers=30)
_WAN_14B = DiTConfig(dim=5120, ffn_dim=13824, heads=40, layers=40)

# The miniature's latent statistics are measured at the end of its VAE's training and stored with the weights.
MINIATURE = ModelConfig(
    name="miniature",
    height=128,
    width=128,
    dit=DiTConfig(
        dim=256,
        ffn_dim=896,
        heads=4,
        layers=8,
        in_channels=8,
        out_channels=8,
        text_dim=128,
        text_len=32,
        freq_dim=128,
    ),
    vae=VAEConfig(
        dim=16,
        dim_mult=(3, 4, 7),
        num_res_blocks=1,
        temporal_downsample=(True, True),
        patch=2,
        z_dim=8,
        mean=(0.0,) * 8,
        std=(1.0,) * 8,
    ),
    text=TextConfig(vocab=512, dim=128, attn_dim=128, ffn_dim=256, heads=4, layers=3, text_len=32),
    cache=CacheConfig(positions="window", sink_policy="rewrite"),
    sampler=SamplerConfig(shift=3.0),
)

PRESETS: dict[str, ModelConfig] = {
    "miniature": MINIATURE,
    "wan2.1-t2v-1.3b": ModelConfig(name="wan2.1-t2v-1.3b", height=480, width=832, dit=_WAN_1_3B, causal=False),
    "wan2.1-t2v-14b": ModelConfig(name="wan2.1-t2v-14b", height=480, width=832, dit=_WAN_14B, causal=False),
    "self-forcing-1.3b": ModelConfig(
        name="self-forcing-1.3b",
        height=480,
        width=832,
        dit=_WAN_1_3B,
        cache=CacheConfig(sink=0, window=None, attend=21),
    ),
    "causvid-1.3b": ModelConfig(
        name="causvid-1.3b",
        height=480,
        width=832,
        dit=_WAN_1_3B,
        cache=CacheConfig(sink=0, window=None, attend=21),
        sampler=SamplerConfig(shift=8.0),
    ),
    "longlive-1.3b": ModelConfig(name="longlive-1.3b", height=480, width=832, dit=_WAN_1_3B),
}


def preset(name: str) -> ModelConfig:
    """Look up a named model configuration.

    Args:
        name: A key of `PRESETS`.

    Returns:
        The configuration.

    Raises:
        ValueError: If the name is unknown, naming the nearest known one.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}?" if near else "it must be one of the known names"
        raise ValueError(f"`name` {name!r} is not a known model; {hint} Known: {', '.join(PRESETS)}")
    return PRESETS[name]
