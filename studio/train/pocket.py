"""The pocket model: the miniature's classes, VAE and world at a size that learns on a laptop's processor in minutes.

It is there to try every training on; its pictures are of the size of a thumbnail.
"""

from __future__ import annotations

from studio.config import CacheConfig, DiTConfig, ModelConfig, SamplerConfig, TextConfig, preset
from studio.model.weights import Models
from studio.train.networks import fresh_models

__all__ = ["POCKET", "pocket_models"]

_MINIATURE = preset("miniature")
_CHANNELS = _MINIATURE.vae.z_dim

POCKET = ModelConfig(
    name="pocket",
    height=32,
    width=32,
    dit=DiTConfig(
        dim=96, ffn_dim=256, heads=4, layers=3, in_channels=_CHANNELS, out_channels=_CHANNELS,
        text_dim=32, text_len=16, freq_dim=64,
    ),
    vae=_MINIATURE.vae,
    text=TextConfig(vocab=512, dim=32, attn_dim=32, ffn_dim=64, heads=2, layers=1, text_len=16),
    cache=CacheConfig(sink=3, window=3, positions="window", sink_policy="rewrite"),
    sampler=SamplerConfig(shift=3.0),
)  # fmt: skip


def pocket_models(seed: int = 0) -> Models:
    """The pocket model with fresh weights and the miniature's trained VAE.

    Args:
        seed: Seed of the weights.

    Returns:
        The networks on the CPU.

    Raises:
        FileNotFoundError: If the miniature's VAE is not there.
    """
    return fresh_models(POCKET, vae="miniature", seed=seed)
