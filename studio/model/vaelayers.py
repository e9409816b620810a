"""Layers of the video VAE: causal convolutions, residual and attention blocks, the encoder and the decoder.

Activations are [B, C, T, H, W], channels last. Modules hold weights only, and names of modules and parameters are
Wan2.1's, so that official checkpoints load as they are.

Source: Wan2.1 (Wan Team, 2025), section on Wan-VAE.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from studio.config import VAEConfig

__all__ = [
    "AttentionBlock",
    "CausalConv3d",
    "Convolutions",
    "Decoder",
    "Encoder",
    "History",
    "RMSNorm",
    "ResidualBlock",
    "Upsample",
    "channels_last",
    "enlarged",
    "interleaved",
    "stacked_frames",
]

# What causal convolutions remember: one entry a convolution, the last input frames it saw. None: a whole clip.
History = list["Tensor | None"]

# Three equal ways to convolve in 3-D. "volume": as one 3-D convolution. "stacked": as one 2-D convolution over the
# channels of all frames of the kernel. "taps": as a sum of 2-D convolutions, one a frame of the kernel; on CPUs as fast
# as the best 3-D one, and it never falls back to a slow path.
Convolutions = Literal["volume", "stacked", "taps"]


class CausalConv3d(nn.Conv3d):
    """A 3-D convolution whose output frame depends on its own and `past` earlier input frames only."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int, int],
        *,
        stride: int | tuple[int, int, int] = 1,
        padding: int = 0,
        past: int = 0,
    ):
        super().__init__(inputs, outputs, kernel, stride=stride, padding=(0, padding, padding))
        self.past = past
        self.slot = -1
        self.mode: Convolutions | None = None

    def forward(self, x: Tensor, history: History | None = None) -> Tensor:
        """Frames [B, C, T, H, W] after those in `history`, which is brought up to date."""
        return self.valid(self._with_past(x, history) if self.past else x)

    def valid(self, x: Tensor) -> Tensor:
        """The convolution without padding in time: [B, C, past + T, H, W] to [B, C', T / stride, H, W]."""
        mode = self.mode or ("taps" if x.device.type == "cpu" else "volume")
        if mode == "volume":
            return super().forward(x)
        step, taps = self.stride[0], self.kernel_size[0]
        frames = (x.shape[2] - taps) // step + 1
        if mode == "stacked":
            weight = self.weight.transpose(1, 2).flatten(1, 2)
            y = F.conv2d(stacked_frames(x, taps, step), weight, self.bias, padding=self.padding[1:])
            return _unfold_time(y, x.shape[0])
        parts = [_fold_time(x[:, :, tap : tap + (frames - 1) * step + 1 : step]) for tap in range(taps)]
        total = self._tap(0, parts[0], self.bias)
        for tap in range(1, taps):
            total += self._tap(tap, parts[tap], None)
        return _unfold_time(total, x.shape[0])

    def _tap(self, tap: int, x: Tensor, bias: Tensor | None) -> Tensor:
        weight = self.weight[:, :, tap]
        if self.kernel_size[1:] == (1, 1):
            return F.linear(x.movedim(1, -1), weight[:, :, 0, 0], bias).movedim(-1, 1)
        return F.conv2d(x, weight, bias, padding=self.padding[1:])

    def _with_past(self, x: Tensor, history: History | None) -> Tensor:
        before = None if history is None else history[self.slot]
        # Before the first frame of a video there is black: zeros.
        x = F.pad(x, (0, 0, 0, 0, self.past, 0)) if before is None else torch.cat([before, x], dim=2)
        if history is not None:
            # Cloned, because a view would keep the whole chunk alive.
            history[self.slot] = x[:, :, -self.past :].clone()
        return x


class RMSNorm(nn.Module):
    """Scales each position's channel vector to length sqrt(C), times a learned gain."""

    def __init__(self, channels: int, spatial_dims: int):
        super().__init__()
        self.scale = channels**0.5
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * spatial_dims))

    def forward(self, x: Tensor) -> Tensor:
        # Over the last dimension, where the channels lie in memory.
        x, gain = x.movedim(1, -1), self.gamma.flatten()
        if not x.is_cuda:
            return (F.normalize(x, dim=-1) * (self.scale * gain)).movedim(-1, 1)
        # The same in one kernel, and in the type of its input where autocast would widen it.
        with torch.autocast("cuda", enabled=False):
            return F.rms_norm(x, x.shape[-1:], gain.to(x.dtype), eps=1e-12).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """Twice norm, SiLU and a causal 3x3x3 convolution, added to the input."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        # The positions in the list are those of the official state dict; 5 is where it has its dropout.
        self.residual = nn.Sequential(
            RMSNorm(inputs, 3),
            nn.SiLU(),
            CausalConv3d(inputs, outputs, 3, padding=1, past=2),
            RMSNorm(outputs, 3),
            nn.SiLU(),
            nn.Identity(),
            CausalConv3d(outputs, outputs, 3, padding=1, past=2),
        )
        self.shortcut = CausalConv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, history: History | None = None) -> Tensor:
        skip = self.shortcut(x)
        return skip + _through(self.residual, x, history)


class AttentionBlock(nn.Module):
    """Single-head attention among the positions of one frame, added to the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = RMSNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, channels * 3, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, _, height, width = x.shape
        qkv = self.to_qkv(self.norm(_fold_time(x))).movedim(1, -1)
        q, k, v = rearrange(qkv, "n h w (three c) -> three n 1 (h w) c", three=3).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        out = rearrange(out, "n 1 (h w) c -> n h w c", h=height, w=width).movedim(-1, 1)
        return x + _unfold_time(self.proj(out), batch)


class _Enlarge(nn.Module):
    """Doubles height and width by repeating pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """See `enlarged`."""
        return enlarged(x)


class Upsample(nn.Module):
    """Doubles height and width, halves the channels; with `temporal` doubles the frames, the video's first excepted."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        # Position 0 of the official list enlarges; it has no weights.
        self.resample = nn.Sequential(_Enlarge(), nn.Conv2d(channels, channels // 2, 3, padding=1))
        self.time_conv = CausalConv3d(channels, channels * 2, (3, 1, 1), past=2) if temporal else None

    def forward(self, x: Tensor, history: History | None = None) -> Tensor:
        if self.time_conv is not None:
            x = self._double_frames(x, self.time_conv, history)
        return _unfold_time(self.resample(_fold_time(x)), x.shape[0])

    def _double_frames(self, x: Tensor, conv: CausalConv3d, history: History | None) -> Tensor:
        if history is not None and history[conv.slot] is not None:
            return interleaved(conv(x, history))
        # The first frame of a video stays one frame, and the convolution never sees it.
        if history is not None:
            history[conv.slot] = channels_last(torch.zeros_like(x[:, :, :1]).repeat(1, 1, conv.past, 1, 1))
        if x.shape[2] == 1:
            return x
        return torch.cat([x[:, :, :1], interleaved(conv(x[:, :, 1:], history))], dim=2)


class Downsample(nn.Module):
    """Halves height and width, and with `temporal` the frames, the video's first excepted."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = CausalConv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1), past=1) if temporal else None

    def forward(self, x: Tensor, history: History | None = None) -> Tensor:
        x = _unfold_time(self.resample(_fold_time(x)), x.shape[0])
        return x if self.time_conv is None else self._halve_frames(x, self.time_conv, history)

    def _halve_frames(self, x: Tensor, conv: CausalConv3d, history: History | None) -> Tensor:
        if history is not None and history[conv.slot] is not None:
            return conv(x, history)
        # The first frame of a video passes unchanged and is the past of those after it.
        first = x[:, :, :1]
        if history is not None:
            history[conv.slot] = x[:, :, -1:].clone()
        if x.shape[2] == 1:
            return first
        return torch.cat([first, conv.valid(x)], dim=2)


class Encoder(nn.Module):
    """Pixels [B, c, T, H, W] to moments [B, 2 z, F, h, w], before the 1x1x1 convolution."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        dims = [config.dim, *(config.dim * mult for mult in config.dim_mult)]
        self.conv1 = CausalConv3d(3 * config.patch**2, dims[0], 3, padding=1, past=2)
        layers: list[nn.Module] = []
        scale = 1.0
        for level, (inputs, outputs) in enumerate(pairwise(dims)):
            layers += _level(inputs, outputs, config.num_res_blocks, scale in config.attn_scales)
            if level < len(config.dim_mult) - 1:
                layers.append(Downsample(outputs, config.temporal_downsample[level]))
                scale /= 2
        self.downsamples = nn.Sequential(*layers)
        self.middle = _middle(dims[-1])
        self.head = _head(dims[-1], config.z_dim * 2)

    def forward(self, x: Tensor, history: History | None = None) -> Tensor:
        x = self.conv1(x, history)
        for part in (self.downsamples, self.middle, self.head):
            x = _through(part, x, history)
        return x


class Decoder(nn.Module):
    """Latents [B, z, F, h, w] to pixels [B, c, T, H, W]."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        width, mults = config.decoder_dim or config.dim, config.dim_mult[::-1]
        blocks = 1 + (config.num_res_blocks if config.decoder_res_blocks is None else config.decoder_res_blocks)
        dims = [width * mult for mult in (mults[0], *mults)]
        self.conv1 = CausalConv3d(config.z_dim, dims[0], 3, padding=1, past=2)
        self.middle = _middle(dims[0])
        layers: list[nn.Module] = []
        temporal = config.temporal_downsample[::-1]
        scale = 1.0 / 2 ** (len(mults) - 2)
        for level, (inputs, outputs) in enumerate(pairwise(dims)):
            # Each upsampling before this level has halved the channels.
            layers += _level(inputs if level == 0 else inputs // 2, outputs, blocks, scale in config.attn_scales)
            if level < len(mults) - 1:
                layers.append(Upsample(outputs, temporal[level]))
                scale *= 2
        self.upsamples = nn.Sequential(*layers)
        self.head = _head(dims[-1], 3 * config.patch**2)

    def forward(self, x: Tensor, history: History | None = None) -> Tensor:
        x = self.conv1(x, history)
        for part in (self.middle, self.upsamples, self.head):
            x = _through(part, x, history)
        return x


def _through(layers: nn.Module, x: Tensor, history: History | None) -> Tensor:
    for layer in layers.children():
        x = layer(x, history) if isinstance(layer, (CausalConv3d, ResidualBlock, Upsample, Downsample)) else layer(x)
    return x


def _level(inputs: int, outputs: int, blocks: int, attention: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for index in range(blocks):
        layers.append(ResidualBlock(inputs if index == 0 else outputs, outputs))
        if attention:
            layers.append(AttentionBlock(outputs))
    return layers


def _middle(channels: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(channels, channels), AttentionBlock(channels), ResidualBlock(channels, channels))


def _head(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(RMSNorm(inputs, 3), nn.SiLU(), CausalConv3d(inputs, outputs, 3, padding=1, past=2))


def stacked_frames(x: Tensor, taps: int, step: int = 1) -> Tensor:
    """The frames that each output of a causal convolution sees, side by side.

    Args:
        x: [B, C, T, H, W].
        taps: Frames of its kernel.
        step: Its stride in time.

    Returns:
        [B T', taps C, H, W], channels last.
    """
    frames = (x.shape[2] - taps) // step + 1
    parts = [x[:, :, tap : tap + (frames - 1) * step + 1 : step].movedim(1, -1) for tap in range(taps)]
    return torch.cat(parts, dim=-1).flatten(0, 1).movedim(-1, 1)


def enlarged(x: Tensor) -> Tensor:
    """Frames [N, C, H, W] to [N, C, 2 H, 2 W], channels last, each pixel four times."""
    return repeat(x.movedim(1, -1), "n h w c -> n (h p) (w q) c", p=2, q=2).movedim(-1, 1)


def interleaved(x: Tensor) -> Tensor:
    """Frames [B, 2 C, T, H, W] that hold two each to [B, C, 2 T, H, W]."""
    # Through the layout with the channels last, which a plain reshape would lose.
    return rearrange(x.movedim(1, -1), "b t h w (two c) -> b (t two) h w c", two=2).movedim(-1, 1)


def _fold_time(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _unfold_time(x: Tensor, batch: int) -> Tensor:
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def channels_last(x: Tensor) -> Tensor:
    """The same frames [B, C, T, H, W], laid out with the channels last."""
    return x.contiguous(memory_format=torch.channels_last_3d)
