"""Tiny models with random weights, and helpers to wait for a session."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from studio.config import CacheConfig, DiTConfig, ModelConfig, SamplerConfig, TextConfig, VAEConfig
from studio.model.dit import WanDiT
from studio.model.text import WordTokenizer
from studio.model.vae import VideoVAE

TEXT_LEN, TEXT_DIM = 6, 16
WORDS = ("a", "red", "blue", "fox", "rabbit", "runs", "jumps", "in", "the", "snow", "sea")


def tiny_config(**cache: Any) -> ModelConfig:
    """A model of the real classes at the smallest sizes that make sense."""
    return ModelConfig(
        name="tiny",
        height=16,
        width=24,
        dit=DiTConfig(
            dim=32, ffn_dim=32, heads=2, layers=2, in_channels=4, out_channels=4, text_dim=TEXT_DIM, text_len=TEXT_LEN,
            freq_dim=16,
        ),
        vae=VAEConfig(
            dim=8, z_dim=4, dim_mult=(1, 1, 1), num_res_blocks=1, temporal_downsample=(True, True),
            mean=(0.0,) * 4, std=(1.0,) * 4,
        ),
        text=TextConfig(
            vocab=16, dim=TEXT_DIM, attn_dim=TEXT_DIM, ffn_dim=16, heads=2, layers=1, text_len=TEXT_LEN
        ),
        cache=CacheConfig(**{"sink": 3, "window": 6, "positions": "window", **cache}),
        sampler=SamplerConfig(steps=(1000, 500)),
    )  # fmt: skip


class HashText:
    """A text encoder that turns a prompt into noise of its own."""

    def __init__(self) -> None:
        self.tokenizer = SimpleNamespace(words=WORDS)
        self.calls: list[str] = []

    def encode(self, prompts: list[str]) -> Tensor:
        self.calls += prompts
        if any("boom" in prompt for prompt in prompts):
            raise RuntimeError("the text encoder choked on boom")
        seeds = [zlib.crc32(prompt.encode()) for prompt in prompts]
        return torch.stack([torch.randn(TEXT_LEN, TEXT_DIM, generator=_generator(seed)) for seed in seeds])

    def unknown_words(self, text: str) -> list[str]:
        return [word for word in text.lower().split() if word not in WORDS]


@dataclass
class TinyModels:
    config: ModelConfig
    dit: WanDiT
    vae: VideoVAE
    text: Any = field(default_factory=HashText)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _shake(module: nn.Module, seed: int) -> None:
    generator = _generator(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            gain = 0.5 if parameter.dim() > 1 else 0.1
            noise = torch.randn(parameter.shape, generator=generator)
            fan = parameter[0].numel() if parameter.dim() > 1 else 1
            parameter.copy_(noise * gain / fan**0.5 + (1.0 if "gamma" in name or "norm" in name else 0.0))


def tiny_models(**cache: Any) -> TinyModels:
    """Random weights, none of them zero, so that prompts matter."""
    config = tiny_config(**cache)
    dit, vae = WanDiT(config.dit), VideoVAE(config.vae)
    _shake(dit, 1)
    _shake(vae, 2)
    return TinyModels(config, dit.eval(), vae.eval())


def worded_models(**cache: Any) -> TinyModels:
    """The same, with a tokenizer that tells words apart."""
    models = tiny_models(**cache)
    models.text.tokenizer = WordTokenizer(WORDS)
    return models


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until a condition holds and return its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.005)
    raise AssertionError(f"{condition} did not come true within {seconds} s")


def generators() -> list[threading.Thread]:
    """Threads of sessions that are alive."""
    return [thread for thread in threading.enumerate() if thread.name == "studio-generator" and thread.is_alive()]


class Blocker:
    """Holds the network inside one of its calls until released."""

    def __init__(self, models: TinyModels, call: int) -> None:
        self.reached, self.release = threading.Event(), threading.Event()
        self._count, self._call = 0, call
        self._handle = models.dit.register_forward_pre_hook(self._hook)

    def _hook(self, *_: Any) -> None:
        self._count += 1
        if self._count == self._call:
            self.reached.set()
            assert self.release.wait(120)

    def remove(self) -> None:
        self.release.set()
        self._handle.remove()
