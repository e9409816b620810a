"""What self-forcing DMD and streaming long tuning share: the losses of a clip and the order of updates.

Trainings differ only in the clips that their generator makes; everything from a clip to the weights is here.

Source: Self-Forcing (arXiv:2506.08009) and LongLive (ICLR 2026), with DMD2's alternating updates (arXiv:2405.14867).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from studio.model.dit import WanDiT
from studio.sampler import Noise, NoiseSource
from studio.shapes import VideoShape
from studio.train import draws
from studio.train.dmd import ScoreSchedules, critic_loss, dmd_gradient, dmd_loss, draw_timestep, guided
from studio.train.learner import Learner, WeightAverage, make_accelerator
from studio.train.lora import add_lora
from studio.train.networks import Networks
from studio.train.prompts import Prompts, WorldPrompts, read_prompts
from studio.train.recipe import MatchingConfig
from studio.train.recompute import recomputed

__all__ = ["Clip", "Draw", "MatchingTrainer"]

Role = Literal["generator", "critic"]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What one micro-batch's randomness is counted by.

    Args:
        role: Whose update it is.
        step: Steps done before.
        micro: Micro-batch of the update.
    """

    role: Role
    step: int
    micro: int


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What the generator made and how it counts.

    Args:
        latents: Clean latents `[B, F, C, H, W]`, with gradient if it was asked for.
        text: Text embeddings that teacher and critic get, `[B, text_len, text_dim]`.
        mask: Bool `[B, F, 1, 1, 1]`, `True` where a frame counts; `None` counts all.
    """

    latents: Tensor
    text: Tensor
    mask: Tensor | None = None


class MatchingTrainer(ABC):
    """Alternates generator and critic updates over the clips that a subclass makes.

    Args:
        config: The training.
        networks: Its networks; moved to the device and changed in place.
        prompts: Its prompts; `None` reads what the configuration names.

    Raises:
        ImportError: If an extra is missing.
        ValueError: If configuration and networks do not fit.

    Attributes:
        done: Steps done.
        average: The averaged generator weights, once begun.
    """

    def __init__(self, config: MatchingConfig, networks: Networks, prompts: Prompts | None = None) -> None:
        block = networks.config.sampler.block
        if config.frames % block:
            low = max(block, config.frames // block * block)
            raise ValueError(
                f"`frames` must be a multiple of the block size {block}, got {config.frames}; "
                f"use {low} or {low + block}"
            )
        self.config, self.networks = config, networks
        self.prompts = prompts or (read_prompts(config.prompts, config.seed) if config.prompts else None)
        self.prompts = self.prompts or WorldPrompts(config.seed)
        self.accelerator = make_accelerator(config)
        self.device: torch.device = self.accelerator.device
        self._place()
        self.schedules = ScoreSchedules(noise_shift=config.noise_shift, score_shift=config.score_shift).to(self.device)
        self.generator = Learner(networks.generator, config.generator_rate, config, self.accelerator)
        self.critic = Learner(networks.critic, config.critic_rate, config, self.accelerator)
        self.average: WeightAverage | None = None
        self.done = 0
        with torch.no_grad():
            self.negative = networks.encode([config.negative]).to(self.device)

    def _place(self) -> None:
        nets = self.networks
        # Weights that stay as they are need no more bits than the passes use.
        frozen = torch.bfloat16 if self.config.precision == "bf16" else None
        nets.teacher.requires_grad_(False).to(dtype=frozen)
        for network in (nets.generator, nets.critic):
            network.requires_grad_(True)
            if self.config.lora is not None:
                network.to(dtype=frozen)
                add_lora(network, self.config.lora, seed=draws.key(self.config.seed, "lora"))
        for network in (nets.generator, nets.critic, nets.teacher, nets.vae):
            if network is not None:
                network.to(self.device).eval()
        if nets.vae is not None:
            nets.vae.requires_grad_(False)

    @property
    def rank(self) -> int:
        """This process among all."""
        return self.accelerator.process_index

    @property
    def rows(self) -> range:
        """This process's clips among those of all; randomness counts by them, so that it knows no processes."""
        return range(self.rank * self.config.batch, (self.rank + 1) * self.config.batch)

    @property
    def shape(self) -> VideoShape:
        """Sizes of the generator's video."""
        return VideoShape.of(self.networks.config)

    @property
    def cache_dtype(self) -> torch.dtype:
        """Type of keys, values and kept latents."""
        return torch.bfloat16 if self.config.precision == "bf16" else self.networks.generator.dtype

    def step(self) -> dict[str, float]:
        """One critic update, and before every few of them one generator update.

        Returns:
            Losses and gradient norms of what was updated.

        Raises:
            RuntimeError: If a gradient is not finite.
        """
        metrics: dict[str, float] = {}
        if self.done % self.config.critic_updates == 0:
            loss, norm = self.generator.update(self._generator_loss)
            metrics |= {"generator_loss": loss, "generator_norm": norm}
        loss, norm = self.critic.update(self._critic_loss)
        metrics |= {"critic_loss": loss, "critic_norm": norm}
        self.done += 1
        if self.config.average is not None and self.done >= self.config.average_from:
            self._follow("generator_loss" in metrics)
        return metrics

    def _follow(self, changed: bool) -> None:
        if self.average is None:
            self.average = WeightAverage(self.networks.generator, self.config.average or 0.0)
        elif changed:
            self.average.update(self.networks.generator)

    # -- a clip ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def clip(self, draw: Draw, *, gradient: bool) -> Clip:
        """Let the generator make a clip.

        Args:
            draw: What the randomness is counted by.
            gradient: Whether each block's exit step carries gradient.

        Returns:
            The clip.
        """

    def state(self) -> dict[str, Any]:
        """What a subclass must keep between two steps besides the weights: tensors and plain values."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave.

        Args:
            state: Such a dictionary.

        Raises:
            ValueError: If it does not fit.
        """
        if state:
            raise ValueError(f"{type(self).__name__} keeps nothing between steps, got {', '.join(state)}")

    def exit_step(self, *parts: int | str) -> int:
        """A denoising step to take blocks at, the same on every rank.

        Args:
            parts: What the draw is for.
        """
        drawn = draws.choice(len(self.networks.config.sampler.steps), self.config.seed, "exit", *parts)
        return draws.agreed(drawn, self.device)

    def encoded(self, index: int) -> tuple[Tensor, Tensor]:
        """Text embeddings `[B, text_len, text_dim]` of the `index`-th batch's prompts and of their switches."""
        first = index * self.accelerator.num_processes * self.config.batch
        assert self.prompts is not None
        pairs = [self.prompts(first + row) for row in self.rows]
        with torch.no_grad():
            return tuple(self.networks.encode(list(texts)).to(self.device) for texts in zip(*pairs, strict=True))  # type: ignore[return-value]

    def noise(self, *parts: int | str) -> Noise:
        """Noise by block and step for a rollout of this rank's clips.

        Args:
            parts: What the rollout is for.

        Returns:
            A function of block and step, giving `[B, block, C, H, W]`.
        """
        shape = self.shape.latents(1, self.networks.config.sampler.block)
        sources = [
            NoiseSource(draws.key(self.config.seed, "noise", *parts, row), shape, device=self.device)
            for row in self.rows
        ]
        return lambda block, step: torch.cat([source(block, step) for source in sources])

    def autocast(self) -> AbstractContextManager[Any]:
        """The mixed precision of every pass."""
        if self.config.precision == "no":
            return nullcontext()
        # A copy of the weights that a pass without gradients has cached must never serve one with gradients.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    # -- losses ---------------------------------------------------------------------------------------------------

    def _generator_loss(self, micro: int) -> Tensor:
        draw = Draw(role="generator", step=self.done, micro=micro)
        with self.autocast(), recomputed(self.networks.generator, self.config.recompute):
            clip = self.clip(draw, gradient=True)
        x = clip.latents
        with torch.no_grad():
            noisy, _, timestep = self._noised(x.detach(), draw)
            scale = self.config.critic_guidance
            fake = self._clean(self.networks.critic, noisy, timestep, clip.text, scale)
            real = self._clean(self.networks.teacher, noisy, timestep, clip.text, self.config.guidance)
        return dmd_loss(x, dmd_gradient(x.detach(), fake, real).gradient, self._mask(clip))

    def _critic_loss(self, micro: int) -> Tensor:
        draw = Draw(role="critic", step=self.done, micro=micro)
        with torch.no_grad(), self.autocast():
            clip = self.clip(draw, gradient=False)
        x = clip.latents.detach()
        noisy, noise, timestep = self._noised(x, draw)
        with self.autocast(), recomputed(self.networks.critic, self.config.recompute):
            flow = self.networks.critic(noisy, timestep, clip.text).float()
        return critic_loss(flow, x, noise, noisy, timestep, self.schedules, self._mask(clip))

    @staticmethod
    def _mask(clip: Clip) -> Tensor | None:
        return None if clip.mask is None else clip.mask.expand_as(clip.latents)

    def _noised(self, x: Tensor, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        parts = (config.seed, "score", draw.role, draw.step, draw.micro)
        sources = [draws.generator(*parts, row) for row in self.rows]
        limits = {"lowest": config.lowest_timestep, "highest": config.highest_timestep}
        drawn = [draw_timestep(1, x.shape[1], shift=config.timestep_shift, generator=s, **limits) for s in sources]
        timestep = torch.cat(drawn).to(self.device)
        noise = torch.cat([torch.randn(1, *x.shape[1:], generator=source) for source in sources]).to(self.device)
        return self.schedules.noising.add_noise(x, noise, timestep), noise, timestep

    def _clean(self, network: WanDiT, noisy: Tensor, timestep: Tensor, text: Tensor, scale: float) -> Tensor:
        def predict(prompt: Tensor) -> Tensor:
            with self.autocast():
                flow = network(noisy, timestep, prompt)
            return self.schedules.score.x0_from_flow(flow.float(), noisy, timestep)

        prompted = predict(text)
        return prompted if scale == 0 else guided(prompted, predict(self.negative.expand_as(text)), scale)
