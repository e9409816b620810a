"""Self-forcing DMD: the causal few-step generator learns on its own rollouts what the bidirectional teacher calls real.

Source: Self-Forcing (Huang et al., 2025, arXiv:2506.08009); figures of LongLive's public configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from studio.sampler import BlockPlan, make_cache, rollout
from studio.train.matching import MATCHING_PRESETS, Clip, Draw, MatchingTrainer
from studio.train.networks import open_networks
from studio.train.recipe import MatchingConfig
from studio.train.training import Training

__all__ = ["DISTILL_PRESETS", "DistillConfig", "Distillation", "distill", "distill_preset"]


@dataclass(frozen=True, kw_only=True)
class DistillConfig(MatchingConfig):
    """Self-forcing DMD; the defaults are the public recipe's figures, see `MatchingConfig` for every field."""


DISTILL_PRESETS: dict[str, dict[str, Any]] = {
    **MATCHING_PRESETS,
    "miniature": {
        **MATCHING_PRESETS["miniature"],
        "steps": 265,
        "batch": 64,
        "average_from": 90,
    },
}


class Distillation(MatchingTrainer):
    """The trainer of self-forcing DMD: each clip is one whole rollout from an empty cache."""

    def clip(self, draw: Draw, *, gradient: bool) -> Clip:
        """See `MatchingTrainer.clip`."""
        config, nets = self.config, self.networks
        sampler, parts = nets.config.sampler, (draw.role, draw.step, draw.micro)
        counter = (2 * draw.step + (draw.role == "critic")) * config.accumulate + draw.micro
        text, _ = self.encoded(counter)
        cache = make_cache(
            nets.config, batch=config.batch, frames=config.frames, device=self.device, dtype=self.cache_dtype
        )
        entry = BlockPlan(text=text, exit_step=self.exit_step(*parts), gradient=gradient)
        plan = [entry] * (config.frames // sampler.block)
        blocks = [
            block.latents for block in rollout(nets.generator, cache, plan, self.noise(*parts), sampler, timed=False)
        ]
        return Clip(latents=torch.cat(blocks, dim=1).float(), text=text)


distill = Training(
    name="distill",
    teaches="a causal few-step generator by self-forcing DMD",
    config=DistillConfig,
    trainer=Distillation,
    opens=open_networks,
    presets=DISTILL_PRESETS,
)
distill_preset = distill.preset
