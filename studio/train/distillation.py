"""Self-forcing DMD: the causal few-step generator learns on its own rollouts what the bidirectional teacher calls real.

Source: Self-Forcing (Huang et al., 2025, arXiv:2506.08009); figures of LongLive's public configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from studio.sampler import BlockPlan, make_cache, rollout
from studio.train import runtime
from studio.train.matching import Clip, Draw, MatchingTrainer
from studio.train.networks import Networks, open_networks
from studio.train.prompts import Prompts
from studio.train.recipe import MatchingConfig, from_preset
from studio.train.running import Playing, Run, run

__all__ = ["DISTILL_PRESETS", "DistillConfig", "Distillation", "distill", "distill_preset"]


@dataclass(frozen=True, kw_only=True)
class DistillConfig(MatchingConfig):
    """Self-forcing DMD; the defaults are the public recipe's figures, see `MatchingConfig` for every field."""


# What differs from the defaults: the miniature's schedule has shift 3, its guidance is that of its many-step teacher,
# and its networks are small enough to learn fast, on one GPU or more.
DISTILL_PRESETS: dict[str, dict[str, Any]] = {
    "miniature": {
        "generator": "miniature",
        "steps": 3500,
        "guidance": 1.5,
        "noise_shift": 3.0,
        "score_shift": 3.0,
        "timestep_shift": 3.0,
        "generator_rate": 2e-5,
        "critic_rate": 2e-5,
        "batch": 64,
        "average_from": 500,
        "precision": "bf16",
        "recompute": False,
        "compile": True,
        "draw": "process",
        "save_every": 1000,
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


def distill(
    config: DistillConfig,
    report: Callable[[str], None] = runtime.silent,
    *,
    networks: Networks | None = None,
    prompts: Prompts | None = None,
    wait: bool = True,
    show: bool | None = None,
    pausing: Iterable[Playing] = (),
) -> Run:
    """Distil a generator by self-forcing DMD; goes on from the newest checkpoint in the folder, if there is one.

    Args:
        config: The training.
        report: Takes a line of progress now and then.
        networks: Networks to train; `None` loads what the configuration names.
        prompts: Prompts to train on; `None` reads what the configuration names.
        wait: Whether to return at the end; else at once, with the training going on in the background.
        show: Whether to show progress as a widget; `None`: in a notebook.
        pausing: Sessions or studios that rest while it trains; all others play on beside it.

    Returns:
        The run, with its history and its networks.

    Raises:
        FileNotFoundError: If a model or file is not there.
        ImportError: If an extra is missing.
        MemoryError: If it will not fit, with settings that would.
        RuntimeError: If the training diverges.
        ValueError: If something does not fit, or the checkpoint is of another training.
    """
    return run(
        Distillation(config, networks or open_networks(config), prompts), report, wait=wait, show=show, pausing=pausing
    )


def distill_preset(name: str, **changes: Any) -> DistillConfig:
    """A preset's configuration.

    Args:
        name: A key of `DISTILL_PRESETS`.
        changes: Fields to set: at least `out`, and `teacher` for the miniature.

    Returns:
        The configuration.

    Raises:
        ValueError: If the name is unknown, or a field is unknown, missing or out of range.
    """
    return from_preset(DistillConfig, DISTILL_PRESETS, name, changes)
