"""A tiny random model with all its parts, to save, load and generate with."""

from __future__ import annotations

import torch

from studio.config import DiTConfig, ModelConfig, TextConfig, VAEConfig
from studio.model.dit import WanDiT
from studio.model.text import TextEncoder, WordTokenizer
from studio.model.vae import VideoVAE
from studio.model.weights import Models

WORDS = ("a", "fox", "red", "runs")


def tiny_models() -> Models:
    vae = VAEConfig(
        dim=8, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,), z_dim=4, mean=(0.5,) * 4, std=(2.0,) * 4
    )
    config = ModelConfig(
        name="tiny",
        height=16,
        width=16,
        dit=DiTConfig(
            dim=32, ffn_dim=32, heads=2, layers=2, in_channels=4, out_channels=4, text_dim=16, text_len=8, freq_dim=16
        ),
        vae=vae,
        text=TextConfig(vocab=8, dim=16, attn_dim=16, ffn_dim=16, heads=2, layers=1, text_len=8),
    )
    torch.manual_seed(0)
    text = TextEncoder(config.text, WordTokenizer(WORDS))
    return Models(config=config, dit=WanDiT(config.dit), vae=VideoVAE(config.vae), text=text)
