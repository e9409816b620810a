"""What self-forcing DMD and streaming long tuning share: the losses of a clip and the order of updates.

Trainings differ only in the clips that their generator makes; everything from a clip to the weights is here.

Source: Self-Forcing (arXiv:2506.08009) and LongLive (ICLR 2026), with DMD2's alternating updates (arXiv:2405.14867).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from studio.model.dit import WanDiT
from studio.train import draws
from studio.train.dmd import ScoreSchedules, critic_loss, dmd_gradient, dmd_loss, draw_timestep, guided
from studio.train.networks import Networks
from studio.train.prompts import GivenPrompts
from studio.train.recipe import MatchingConfig
from studio.train.recompute import recomputed
from studio.train.runtime import sent
from studio.train.trainer import Trainer

__all__ = ["MATCHING_PRESETS", "Clip", "Draw", "MatchingTrainer"]

Role = Literal["generator", "critic"]

# What differs from the defaults in every training of this kind. The miniature's schedule has shift 3, and its networks
# are small enough to learn fast; its presets are what the shipped weights were trained with, on one GPU.
MATCHING_PRESETS: dict[str, dict[str, Any]] = {
    "miniature": {
        "generator": "miniature",
        "critic_updates": 3,
        "generator_rate": 3e-5,
        "critic_rate": 6e-5,
        "guidance": 2.0,
        "noise_shift": 3.0,
        "score_shift": 3.0,
        "timestep_shift": 3.0,
        "precision": "bf16",
        "recompute": False,
        "compile": True,
        "fuse": True,
        "draw": "process",
        "save_every": 250,
        "export": True,
    },
    "pocket": {
        "generator": "pocket",
        "steps": 120,
        "batch": 8,
        "frames": 9,
        "critic_updates": 2,
        "generator_rate": 3e-4,
        "critic_rate": 6e-4,
        "guidance": 0.0,
        "noise_shift": 3.0,
        "score_shift": 3.0,
        "timestep_shift": 3.0,
        "average": 0.95,
        "average_from": 20,
        "recompute": False,
    },
    "wan2.1-t2v-1.3b": {
        "generator": "longlive-1.3b",
        "teacher": "wan2.1-t2v-1.3b",
        "precision": "bf16",
    },
}


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


class MatchingTrainer(Trainer):
    """Alternates generator and critic updates over the clips that a subclass makes; see `Trainer`."""

    config: MatchingConfig
    networks: Networks

    def __init__(self, config: MatchingConfig, networks: Networks, prompts: GivenPrompts | None = None) -> None:
        super().__init__(config, networks, prompts)
        self.schedules = ScoreSchedules(noise_shift=config.noise_shift, score_shift=config.score_shift).to(self.device)
        self.generator = self.learners["generator"]
        self.critic = self.learn("critic", networks.critic, config.critic_rate)
        self.judging = {network: self.fast(network) for network in (networks.critic, networks.teacher)}

    def _place(self) -> None:
        super()._place()
        if self.config.fuse and self.device.type == "cuda":
            # Before there is an optimiser: weights that are read together are laid side by side.
            self.networks.generator.fuse()

    def step(self) -> dict[str, float]:
        """One critic update, and before every few of them one generator update.

        Returns:
            Losses and gradient norms of what was updated.

        Raises:
            RuntimeError: If a gradient is not finite.
        """
        metrics: dict[str, float] = {}
        if self.done % self.config.critic_updates == 0:
            loss, norm = self.generator.update(self._generator_loss, self.share)
            metrics |= {"generator_loss": loss, "generator_norm": norm}
        loss, norm = self.critic.update(self._critic_loss, self.share)
        metrics |= {"critic_loss": loss, "critic_norm": norm}
        self.finish_step("generator_loss" in metrics)
        return metrics

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

    def exit_step(self, *parts: int | str) -> int:
        """A denoising step to take blocks at, the same on every rank.

        Args:
            parts: What the draw is for.
        """
        drawn = draws.choice(len(self.networks.config.sampler.steps), self.config.seed, "exit", *parts)
        return draws.agreed(drawn)

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
            flow = self.judging[self.networks.critic](noisy, timestep, clip.text).float()
        return critic_loss(flow, x, noise, noisy, timestep, self.schedules, self._mask(clip))

    @staticmethod
    def _mask(clip: Clip) -> Tensor | None:
        return None if clip.mask is None else clip.mask.expand_as(clip.latents)

    def _noised(self, x: Tensor, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        parts = (config.seed, "score", draw.role, draw.step, draw.micro)
        limits = {"lowest": config.lowest_timestep, "highest": config.highest_timestep}
        if config.draw == "process":
            source = draws.generator(*parts, "process", self.rank)
            drawn = draw_timestep(len(x), x.shape[1], shift=config.timestep_shift, generator=source, **limits)
            noise = self.at_once(x.shape, *parts[1:])
        else:
            sources = [draws.generator(*parts, row) for row in self.rows]
            each = [draw_timestep(1, x.shape[1], shift=config.timestep_shift, generator=s, **limits) for s in sources]
            drawn = torch.cat(each)
            noise = sent(torch.cat([torch.randn(1, *x.shape[1:], generator=s) for s in sources]), self.device)
        timestep = sent(drawn, self.device)
        return self.schedules.noising.add_noise(x, noise, timestep), noise, timestep

    def _clean(self, network: WanDiT, noisy: Tensor, timestep: Tensor, text: Tensor, scale: float) -> Tensor:
        def predict(prompt: Tensor) -> Tensor:
            with self.autocast():
                flow = self.judging[network](noisy, timestep, prompt)
            return self.schedules.score.x0_from_flow(flow.float(), noisy, timestep)

        prompted = predict(text)
        return prompted if scale == 0 else guided(prompted, predict(self.negative.expand_as(text)), scale)
