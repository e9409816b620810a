"""Pretraining of a bidirectional teacher by flow matching, on clips of the miniature's world or any others.

It begins with the weights of any model of the same sizes, a causal one too: both are the same classes.

Source: flow matching (Lipman et al., 2023, arXiv:2210.02747); guidance by left-out prompts (Ho and Salimans, 2022,
arXiv:2207.12598).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio.config import ModelConfig
from studio.schedule import shift_sigma
from studio.solvers import EulerSolver, solve
from studio.train import draws
from studio.train.clips import Clips, WorldClips
from studio.train.dmd import guided
from studio.train.networks import TrainedNetworks, open_generator
from studio.train.prompts import PromptPair, Prompts
from studio.train.recipe import TrainConfig, check_number, check_shares, check_whole
from studio.train.recompute import recomputed
from studio.train.runtime import sent
from studio.train.trainer import LossTrainer
from studio.train.training import Training
from studio.train.worldpool import WorldPool

__all__ = ["PRETRAIN_PRESETS", "PretrainConfig", "Pretraining", "pretrain", "pretrain_preset"]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """Pretraining of a bidirectional network; see `TrainConfig` for all other fields.

    Args:
        shift: Flow shift of the drawn noise levels.
        drop: Share of prompts left out, for guidance.
        pool: Clips kept as latents, by each process; `None` for ever new ones.
        renew_every: Steps after which a chunk of the pool is replaced by new clips of the world; `None`: never, the
            pool's clips are gone through again and again.
        chunk: Clips rendered together, where the pool is renewed.
        switched: Share of the renewed chunks whose scene changes soon after its beginning, as where a chunk of long
            tuning overlaps with the scene before a switch; the prompt tells what comes after.
        switch_frame: Latent frame of that change.
        guidance: Scale of the guidance in previews.
        solver_steps: Network calls of a preview.

    Raises:
        ValueError: If a value is out of range.
    """

    steps: int = 10000
    generator_rate: float = 1e-4
    beta1: float = 0.9
    clip_norm: float = 1.0
    average: float | None = 0.999
    recompute: bool = False
    shift: float = 3.0
    drop: float = 0.1
    pool: int | None = None
    renew_every: int | None = None
    chunk: int = 32
    switched: float = 0.0
    switch_frame: int = 3
    guidance: float = 1.5
    solver_steps: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts is not None:
            raise ValueError(
                f"`prompts` alone teach a network nothing of pictures, got {self.prompts!r}; leave them out for the "
                "miniature's world, or give `clips` with their prompts"
            )
        check_number(self, "shift", above=True)
        check_number(self, "guidance", above=False)
        check_whole(self, "solver_steps", 1)
        if self.pool is not None:
            check_whole(self, "pool", 1)
        check_shares(self, "drop", "switched")
        check_whole(self, "chunk", 1)
        if self.renew_every is not None:
            check_whole(self, "renew_every", 1)
            if self.pool is None:
                raise ValueError("`renew_every` needs a `pool` that is renewed, got None; use pool=2048")
        if self.switched and not 0 < self.switch_frame < self.frames:
            remedy = f"use {min(3, self.frames - 1)}" if self.frames > 1 else "use switched=0"
            raise ValueError(f"`switch_frame` must lie in 1..{self.frames - 1}, got {self.switch_frame}; {remedy}")


PRETRAIN_PRESETS: dict[str, dict[str, Any]] = {
    # On one GPU or more: clips are rendered and encoded there, about 30 times each is met under other noise.
    "miniature": {
        "generator": "miniature",
        "steps": 4200,
        "batch": 48,
        "generator_rate": 3e-4,
        "warmup": 200,
        "floor": 0.02,
        "precision": "bf16",
        "compile": True,
        "draw": "process",
        "pool": 2048,
        "renew_every": 20,
        "switched": 0.25,
        "save_every": 1000,
        "export": True,
    },
    "pocket": {
        "generator": "pocket",
        "steps": 400,
        "batch": 16,
        "frames": 9,
        "generator_rate": 1.5e-3,
        "average": 0.98,
        "average_from": 20,
        "pool": 96,
        "guidance": 0.5,
        "solver_steps": 12,
    },
}


class Pretraining(LossTrainer):
    """The trainer of a bidirectional network.

    Args:
        config: The training.
        networks: Its networks, with a VAE; moved to the device and changed in place.
        clips: What it learns from; `None`: the miniature's world.

    Raises:
        ImportError: If an extra is missing.
        ValueError: If configuration and networks do not fit.
    """

    config: PretrainConfig

    def __init__(self, config: PretrainConfig, networks: TrainedNetworks, clips: Clips | None = None) -> None:
        if networks.vae is None:
            raise ValueError("`networks` must have a VAE, which makes the clips' latents, got None")
        super().__init__(config, networks)
        given = clips is not None
        if clips is None:
            shape = self.shape
            if shape.height != shape.width:
                raise ValueError(f"the miniature's world is square, got {shape.height}x{shape.width}; give `clips`")
            frames = shape.frames_of(config.frames)
            clips = WorldClips(frames, shape.height, seed=config.seed, device=self.device, fps=shape.fps)
        if given:
            self.prompts = _prompts_of(clips)
        self.clips = clips
        self._pooled: dict[int, tuple[Tensor, Tensor]] = {}
        self._network = self.fast(networks.generator)
        self._world: WorldPool | None = None
        if config.renew_every is not None:
            if given:
                raise ValueError("`renew_every` renews the world's clips; leave it out where `clips` are given")
            assert config.pool is not None
            self._world = WorldPool(
                networks.config, networks.vae, networks.encode, frames=config.frames, clips=config.pool,
                chunk=config.chunk, renew_every=config.renew_every, switched=config.switched,
                switch_frame=config.switch_frame, seed=config.seed, rank=self.rank,
            )  # fmt: skip

    def loss(self, micro: int) -> Tensor:
        """Mean squared error of the flow.

        Args:
            micro: Micro-batch of the update.

        Returns:
            A scalar.
        """
        config = self.config
        index = self.done * config.accumulate + micro
        x0, text = self.batch(index)
        uniform, dropped = self._levels(index)
        sigma = shift_sigma(uniform, config.shift)[:, None].expand(x0.shape[:2])
        text = torch.where((dropped < config.drop)[:, None, None], self.negative.expand_as(text), text)
        noise, level = self.drawn(x0.shape[1], "flow", index), sigma[..., None, None, None]
        with self.autocast(), recomputed(self.networks.generator, config.recompute):
            flow = self._network((1 - level) * x0 + level * noise, 1000 * sigma, text)
        return (flow.float() - (noise - x0)).square().mean()

    def _levels(self, index: int) -> tuple[Tensor, Tensor]:
        """Two uniform numbers a clip: for its noise level, and for whether its prompt is left out."""
        seed, count = self.config.seed, self.config.batch
        if self.config.draw == "process":
            drawn = torch.rand(count, 2, generator=draws.generator(seed, "level", index, "process", self.rank))
        else:
            drawn = torch.stack([torch.rand(2, generator=draws.generator(seed, "level", index, r)) for r in self.rows])
        uniform, dropped = sent(drawn, self.device).unbind(1)
        return uniform, dropped

    @torch.no_grad()
    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Latents `[B, F, C, H, W]` and text embeddings of this rank's clips of a batch.

        Args:
            index: Which batch.
        """
        if self._world is not None:
            return self._world.batch(index // self.config.accumulate, index, self.config.batch)
        first = index * self.accelerator.num_processes * self.config.batch
        wanted = [first + row for row in self.rows]
        if self.config.pool is None:
            return self._encoded_clips(wanted)
        wanted = [place % self.config.pool for place in wanted]
        for place in wanted:
            if place not in self._pooled:
                latents, text = self._encoded_clips([place])
                self._pooled[place] = latents[0], text[0]
        latents, text = zip(*(self._pooled[place] for place in wanted), strict=True)
        return torch.stack(latents), torch.stack(text)

    def _encoded_clips(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        assert self.networks.vae is not None
        pixels, prompts = self.clips(indices)
        latents = self.networks.vae.encode(pixels.to(self.device)).float()
        if latents.shape[1] != self.config.frames:
            raise ValueError(f"clips must have {self.config.frames} latent frames (`frames`), got {latents.shape[1]}")
        return latents, self.networks.encode(prompts).to(self.device)

    def release(self) -> None:
        """See `Trainer.release`."""
        super().release()
        self._pooled = {}

    @property
    def exported_config(self) -> ModelConfig:
        """The same model, as one that makes whole clips."""
        return dataclasses.replace(self.networks.config, causal=False)

    @torch.no_grad()
    def sample(self, text: Tensor, *parts: int | str) -> Tensor:
        """See `Trainer.sample`; a whole clip at once, by Euler steps."""
        config = self.config
        source = draws.generator(config.seed, "sample", *parts)
        noise = torch.randn(self.shape.latents(len(text), config.frames), generator=source).to(self.device)
        blank = self.negative.expand_as(text)

        def flow(x: Tensor, timestep: Tensor) -> Tensor:
            times = timestep[:, None].expand(x.shape[:2]).repeat(2, 1)
            with self.autocast():
                pair = self.networks.generator(x.repeat(2, 1, 1, 1, 1), times, torch.cat([text, blank])).float()
            prompted, unprompted = pair.chunk(2)
            return guided(prompted, unprompted, config.guidance)

        return solve(EulerSolver(config.solver_steps, shift=config.shift), flow, noise)


def _prompts_of(clips: Clips) -> Prompts:
    """The prompts of given clips, which previews take."""

    def pair(index: int) -> PromptPair:
        (prompt,) = clips([index])[1]
        return prompt, prompt

    return pair


def _open(config: PretrainConfig) -> TrainedNetworks:
    return TrainedNetworks.of(open_generator(config.generator))


pretrain = Training(
    name="pretrain",
    teaches="a bidirectional network by flow matching on clips",
    config=PretrainConfig,
    trainer=Pretraining,
    opens=_open,
    presets=PRETRAIN_PRESETS,
)
pretrain_preset = pretrain.preset
