"""Layers of the transformer: norms, self-attention, cross-attention, feed-forward and modulation.

Names of modules and parameters are Wan2.1's, so that official checkpoints load as they are.

Source: Wan2.1 (Wan Team, 2025, arXiv:2503.20314); adaLN-single of PixArt-alpha (arXiv:2310.00426).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.config import DiTConfig
from studio.model.attention import CachedContext, Context, Tap
from studio.model.backends import Backend, attention

__all__ = ["Block", "CrossAttention", "Head", "LayerNorm", "RMSNorm", "SelfAttention", "sinusoid"]

PromptKV = tuple[Tensor, Tensor]


def sinusoid(timestep: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding of timesteps, computed in float64.

    Args:
        timestep: `[M]` in [0, 1000].
        dim: Even width.

    Returns:
        `[M, dim]` float32, cosines first.
    """
    half = dim // 2
    rates = 10000.0 ** (-torch.arange(half, device=timestep.device).double() / half)
    angle = torch.outer(timestep.double(), rates)
    return torch.cat([angle.cos(), angle.sin()], dim=1).float()


class RMSNorm(nn.Module):
    """RMS normalisation over the last axis, in float32, with a gain."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` `[..., dim]`."""
        return F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).type_as(x) * self.weight


class LayerNorm(nn.LayerNorm):
    """Layer normalisation computed in float32 whatever the input's type."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` `[..., dim]`."""
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).type_as(x)


class _Projections(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q = RMSNorm(config.dim, config.eps) if config.qk_norm else nn.Identity()
        self.norm_k = RMSNorm(config.dim, config.eps) if config.qk_norm else nn.Identity()
        self.backend: Backend = attention

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


class SelfAttention(_Projections):
    """Self-attention over whatever the context lets a token see."""

    def forward(self, x: Tensor, context: Context, layer: int, tap: Tap | None) -> Tensor:
        """Attend from `x` `[B, L, dim]`; same shape."""
        q, k, v = self._split(self.norm_q(self.q(x))), self._split(self.norm_k(self.k(x))), self._split(self.v(x))
        return self.o(context.attend(layer, q, k, v, tap, self.backend).flatten(2))

    def store(self, x: Tensor, context: CachedContext, layer: int) -> None:
        """Store the keys and values of `x` `[B, L, dim]` in the cache, and nothing more."""
        context.store(layer, self._split(self.norm_k(self.k(x))), self._split(self.v(x)))


class CrossAttention(_Projections):
    """Attention from the picture to the prompt; padding tokens are attended to as well, as Wan2.1 does."""

    def prompt(self, text: Tensor) -> PromptKV:
        """Keys and values of embedded text `[B, Lt, dim]`, each `[B, Lt, N, D]`."""
        return self._split(self.norm_k(self.k(text))), self._split(self.v(text))

    def forward(self, x: Tensor, prompt: PromptKV, layer: int, tap: Tap | None) -> Tensor:
        """Attend from `x` `[B, L, dim]` to the prompt; same shape."""
        q = self._split(self.norm_q(self.q(x)))
        if tap is not None:
            tap.cross_attention(layer, q, *prompt)
        return self.o(self.backend(q, *prompt).flatten(2))


class Block(nn.Module):
    """One transformer block: modulated self-attention, cross-attention, modulated feed-forward."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.dim, config.eps, elementwise_affine=False)
        self.self_attn = SelfAttention(config)
        self.norm3 = LayerNorm(config.dim, config.eps) if config.cross_attn_norm else nn.Identity()
        self.cross_attn = CrossAttention(config)
        self.norm2 = LayerNorm(config.dim, config.eps, elementwise_affine=False)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, config.dim)
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)

    def forward(
        self, x: Tensor, modulation: Tensor, prompt: PromptKV, context: Context, layer: int, tap: Tap | None = None
    ) -> Tensor:
        """Run the block.

        Args:
            x: Tokens `[B, L, dim]`.
            modulation: `[B, M, 6, dim]`, one entry for the whole pass (M = 1) or one a latent frame.
            prompt: This layer's keys and values of the prompt.
            context: What self-attention can see.
            layer: Index of the block.
            tap: Listener, or `None`.

        Returns:
            Tokens `[B, L, dim]`.
        """
        spans = modulation.shape[1]
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation.float() + modulation).type_as(x).unbind(2)
        y = self.self_attn(modulate(self.norm1(x), shift1, scale1, spans), context, layer, tap)
        x = x + gate(y, gate1, spans)
        x = x + self.cross_attn(self.norm3(x), prompt, layer, tap)
        y = self.ffn(modulate(self.norm2(x), shift2, scale2, spans))
        return x + gate(y, gate2, spans)

    def store(self, x: Tensor, modulation: Tensor, context: CachedContext, layer: int) -> None:
        """Run the block as far as the cache needs: its keys and values are stored.

        Args:
            x: Tokens `[B, L, dim]`.
            modulation: `[B, M, 6, dim]`, as in `forward`.
            context: The pass over the cache.
            layer: Index of the block.
        """
        shift, scale, *_ = (self.modulation.float() + modulation).type_as(x).unbind(2)
        self.self_attn.store(modulate(self.norm1(x), shift, scale, modulation.shape[1]), context, layer)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, spans: int) -> Tensor:
    """x * (1 + scale) + shift, with `[B, spans, dim]` factors over `spans` equal stretches of tokens."""
    stretched = x.unflatten(1, (spans, -1))
    return (stretched * (1 + scale.unsqueeze(2)) + shift.unsqueeze(2)).flatten(1, 2)


def gate(x: Tensor, factor: Tensor, spans: int) -> Tensor:
    """x * factor, with a `[B, spans, dim]` factor over `spans` equal stretches of tokens."""
    return (x.unflatten(1, (spans, -1)) * factor.unsqueeze(2)).flatten(1, 2)


class Head(nn.Module):
    """The last norm, modulation and projection to the patch's pixels."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        rows, columns = config.patch[1:]
        self.norm = LayerNorm(config.dim, config.eps, elementwise_affine=False)
        self.head = nn.Linear(config.dim, rows * columns * config.out_channels)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Project tokens `[B, L, dim]` under a time embedding `[B, M, dim]` to `[B, L, patch pixels]`."""
        shift, scale = (self.modulation.float().unsqueeze(1) + time.unsqueeze(2)).type_as(x).unbind(2)
        return self.head(modulate(self.norm(x), shift, scale, time.shape[1]))
