"""Configuration of the trainings by distribution matching."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from studio.config import from_dict

__all__ = ["MatchingConfig", "from_preset"]

Config = TypeVar("Config", bound="MatchingConfig")


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """What every training by distribution matching is told.

    Args:
        out: Folder of the results.
        generator: Name or folder of the model that is trained.
        teacher: Name or folder of the frozen bidirectional model; the critic begins as a copy of it.
        prompts: File of prompts, `None` for the miniature's world.
        negative: Prompt of the unguided prediction.
        steps: Critic updates in all.
        batch: Clips of one rank and micro-batch.
        accumulate: Micro-batches of an update.
        frames: Latent frames of the clip that teacher and critic see.
        critic_updates: Critic updates for each generator update.
        generator_rate: Learning rate of the generator.
        critic_rate: Learning rate of the critic.
        beta1: First moment's decay of both optimisers.
        beta2: Second moment's decay.
        weight_decay: Of both optimisers.
        clip_norm: Largest gradient norm.
        guidance: Scale of the teacher's guidance, prompted + scale * (prompted - negative).
        critic_guidance: The same of the critic's.
        noise_shift: Flow shift of the noising.
        score_shift: Flow shift by which score networks turn flow to clean latents; 8 is the public code's, the same as
            `noise_shift` the mended one.
        timestep_shift: Flow shift of the drawn timesteps.
        lowest_timestep: Smallest timestep drawn.
        highest_timestep: Largest timestep drawn.
        average: Decay of the averaged generator, `None` for none.
        average_from: Generator weights are averaged from this step on.
        lora: Rank of the adapters on generator and critic, `None` to tune all weights.
        precision: "no" or "bf16": type of the mixed precision.
        recompute: Whether activations are dropped and computed again in the backward pass.
        seed: Seed of everything.
        device: "cpu" to stay off the accelerator; `None`: whatever there is.
        save_every: Steps between checkpoints.
        keep: Checkpoints kept.

    Raises:
        ValueError: If a value is out of range.
    """

    out: str
    generator: str
    teacher: str
    prompts: str | None = None
    negative: str = ""
    steps: int = 700
    batch: int = 1
    accumulate: int = 1
    frames: int = 21
    critic_updates: int = 5
    generator_rate: float = 2e-6
    critic_rate: float = 4e-7
    beta1: float = 0.0
    beta2: float = 0.999
    weight_decay: float = 0.01
    clip_norm: float = 10.0
    guidance: float = 3.0
    critic_guidance: float = 0.0
    noise_shift: float = 5.0
    score_shift: float = 8.0
    timestep_shift: float = 5.0
    lowest_timestep: float = 20.0
    highest_timestep: float = 980.0
    average: float | None = 0.99
    average_from: int = 200
    lora: int | None = None
    precision: str = "no"
    recompute: bool = True
    seed: int = 0
    device: str | None = None
    save_every: int = 100
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "frames", "critic_updates", "save_every", "keep"):
            _whole(self, name, 1)
        _whole(self, "average_from", 0)
        if self.lora is not None:
            _whole(self, "lora", 1)
        for name in ("generator_rate", "critic_rate", "clip_norm", "noise_shift", "score_shift", "timestep_shift"):
            _number(self, name, above=True)
        for name in ("weight_decay", "guidance", "critic_guidance"):
            _number(self, name, above=False)
        for name in ("beta1", "beta2", "average"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"`{name}` must lie in [0, 1), got {value}; use 0.99")
        if not 0 <= self.lowest_timestep < self.highest_timestep <= 1000:
            raise ValueError(
                "`lowest_timestep` < `highest_timestep` must lie in [0, 1000], got "
                f"{self.lowest_timestep} and {self.highest_timestep}; use 20 and 980"
            )
        if self.precision not in ("no", "bf16"):
            raise ValueError(f"`precision` must be one of no, bf16, got {self.precision!r}")
        if self.device not in (None, "cpu"):
            raise ValueError(f"`device` must be 'cpu' or None, got {self.device!r}; choose a GPU when launching")

    @property
    def video_frames(self) -> int:
        """Latent frames of the longest video that is rolled out."""
        return self.frames


def _whole(config: Any, name: str, least: int) -> None:
    value = getattr(config, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}")


def _number(config: Any, name: str, *, above: bool) -> None:
    value = getattr(config, name)
    if not math.isfinite(value) or value < 0 or (above and value == 0):
        raise ValueError(f"`{name}` must be finite and {'positive' if above else 'at least 0'}, got {value}")


def from_preset(
    cls: type[Config], presets: Mapping[str, Mapping[str, Any]], name: str, changes: Mapping[str, Any]
) -> Config:
    """Build a configuration from a preset's fields and others.

    Args:
        cls: The configuration's class.
        presets: Preset name to its fields.
        name: A key of `presets`.
        changes: Fields that are set, over the preset's.

    Returns:
        The configuration.

    Raises:
        ValueError: If the name is unknown, naming the nearest, or a field is unknown, missing or out of range.
    """
    if name not in presets:
        near = difflib.get_close_matches(str(name), presets, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`name` must be one of {', '.join(presets)}, got {name!r}{hint}")
    return from_dict(cls, {**presets[name], **changes})
