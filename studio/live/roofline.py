"""The roofline: how much of what a matrix product reaches here a model reaches.

Operations are counted, not guessed: the transformer's by its sizes, the decoder's by running it where tensors have
sizes only. Multiplications and additions count one each.
"""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from studio.config import ModelConfig
from studio.model.vae import VideoVAE
from studio.probes.cost import pass_flops
from studio.shapes import VideoShape

__all__ = ["block_flops", "decode_flops", "matrix_product_flops", "recache_flops"]

REPEATS = 8


def block_flops(config: ModelConfig) -> int:
    """Operations of a block's denoising steps and its commit, once its window is full.

    Args:
        config: The model.
    """
    shape = VideoShape.of(config)
    queries, keys = (frames * shape.tokens_per_frame for frames in (shape.block, _visible(config)))
    steps = len(config.sampler.steps) * pass_flops(config.dit, queries, keys)
    return steps + pass_flops(config.dit, queries, keys, flow=False)


def recache_flops(config: ModelConfig) -> int:
    """Operations of a recache of everything that a block sees.

    Args:
        config: The model.
    """
    tokens = _visible(config) * VideoShape.of(config).tokens_per_frame
    return pass_flops(config.dit, tokens, tokens, flow=False)


def decode_flops(config: ModelConfig) -> int:
    """Operations of decoding one block of a stream that is under way.

    Args:
        config: The model.
    """
    shape = VideoShape.of(config)
    with torch.device("meta"), torch.no_grad():
        vae = VideoVAE(config.vae)
        vae.requires_grad_(False)
        stream = vae.stream()
        latents = torch.empty(shape.latents(1, shape.block))
        vae.decode(latents, stream)
        with FlopCounterMode(display=False) as counter:
            vae.decode(latents, stream)
    return counter.get_total_flops()


def matrix_product_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, the best of a few.

    Args:
        device: Where.
        dtype: Type of the factors, which are random: zeros would be faster than anything real.
    """
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    spans = []
    for _ in range(REPEATS + 2):
        _wait(device)
        started = time.perf_counter()
        torch.mm(a, b)
        _wait(device)
        spans.append(time.perf_counter() - started)
    return 2 * size**3 / min(spans[2:])


def _visible(config: ModelConfig) -> int:
    """Latent frames that a block sees when its window is full."""
    return config.cache.capacity or config.cache.attend or config.sampler.block


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
