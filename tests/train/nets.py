"""Tiny networks of every kind that a training needs: small enough for a step in a fraction of a second."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from studio.config import CacheConfig, DiTConfig, ModelConfig, TextConfig, VAEConfig
from studio.model.dit import WanDiT
from studio.model.text import TextEncoder, WordTokenizer
from studio.model.vae import VideoVAE
from studio.train.networks import Networks
from studio.train.prompts import PromptList

CONFIG = ModelConfig(
    name="tiny",
    height=8,
    width=12,
    dit=DiTConfig(
        dim=24, ffn_dim=32, heads=2, layers=2, in_channels=4, out_channels=4, text_dim=12, text_len=5, freq_dim=16
    ),
    vae=VAEConfig(
        dim=8, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,), z_dim=4, mean=(0.5,) * 4, std=(2.0,) * 4
    ),
    text=TextConfig(vocab=8, dim=12, attn_dim=12, ffn_dim=12, heads=2, layers=1, text_len=5),
    cache=CacheConfig(sink=3, window=6),
)
PROMPTS = PromptList([("a fox", "a red fox"), ("a cat", "a blue cat"), ("rain", "snow")])


def dit(seed: int, config: ModelConfig = CONFIG, spread: float = 0.1) -> WanDiT:
    torch.manual_seed(seed)
    network = WanDiT(config.dit)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return network


def reader(config: ModelConfig = CONFIG) -> TextEncoder:
    """A text encoder that computes, where `encode` is a table."""
    return TextEncoder(config.text, WordTokenizer(("a", "fox", "red", "cat")))


def encode(prompts: list[str]) -> Tensor:
    """A fixed random embedding a prompt."""
    found = []
    for prompt in prompts:
        seed = int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=4).digest(), "big")
        found.append(torch.randn(5, 12, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(found)


def networks(config: ModelConfig = CONFIG) -> Networks:
    """A generator, a teacher, a critic that equals the teacher, and a VAE: all random, always the same."""
    torch.manual_seed(9)
    vae = VideoVAE(config.vae)
    return Networks(config=config, generator=dit(0), teacher=dit(1), critic=dit(1), encode=encode, vae=vae)


def reading() -> Networks:
    """Networks whose texts are read by an encoder, which can be exported and whose precision can be told."""
    whole = networks()
    torch.manual_seed(4)
    whole.text = reader()
    whole.encode = whole.text.encode
    return whole
