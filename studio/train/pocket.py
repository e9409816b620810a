"""The pocket model: the miniature's classes, VAE and world at a size that learns on a laptop's processor in minutes.

It is there to try every training on; its pictures are of the size of a thumbnail.
"""

from __future__ import annotations

from studio.config import CacheConfig, DiTConfig, ModelConfig, SamplerConfig, TextConfig, preset

__all__ = ["POCKET"]

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
