"""A tiny random model for the contracts: every size small, every weight non-zero."""

from __future__ import annotations

import torch
from torch import Tensor

from studio.config import CacheConfig, DiTConfig, SamplerConfig
from studio.model.cache import KVCache
from studio.model.dit import WanDiT

DIT = DiTConfig(
    dim=48, ffn_dim=96, heads=2, layers=2, in_channels=4, out_channels=4, text_dim=12, text_len=5, freq_dim=16
)
SAMPLER = SamplerConfig()
GRID = (2, 3)
LATENT = (4, 4, 6)


def dit(seed: int = 0) -> WanDiT:
    torch.manual_seed(seed)
    net = WanDiT(DIT)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return net.eval().requires_grad_(False)


def cache(config: CacheConfig | None = None, *, batch: int = 1, frames: int | None = None, block: int = 3) -> KVCache:
    return KVCache(config or CacheConfig(), DIT, grid=GRID, latents=LATENT, block=block, batch=batch, frames=frames)


def text(seed: int = 1, batch: int = 1) -> Tensor:
    return torch.randn(batch, DIT.text_len, DIT.text_dim, generator=torch.Generator().manual_seed(seed))


def latents(frames: int, seed: int = 2, batch: int = 1) -> Tensor:
    return torch.randn(batch, frames, *LATENT, generator=torch.Generator().manual_seed(seed))
