"""Configurations of trainings: frozen, checked when they are made, printable, and kept as JSON."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from studio.config import from_dict, to_dict
from studio.train.runtime import write_json

__all__ = ["MatchingConfig", "TrainConfig", "check_number", "check_shares", "check_whole", "from_preset"]

Config = TypeVar("Config", bound="TrainConfig")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every training is told; files and folders may be given as paths too.

    Args:
        out: Folder of the results.
        generator: Name or folder of the model that is trained; "pocket" begins with fresh weights.
        prompts: File of prompts, `None` for the miniature's world.
        switch_prompts: File of what they switch to, line by line; `None`: the pairs in `prompts`, or one another.
        negative: Prompt of the unguided prediction.
        steps: Updates in all.
        seconds: Time after which it stops, with a checkpoint to go on from, counted from its start or its going on;
            `None` for no limit.
        batch: Clips of one rank and micro-batch.
        accumulate: Micro-batches of an update.
        frames: Latent frames of a clip.
        generator_rate: Learning rate of the generator.
        warmup: Steps over which the learning rates rise to their values.
        floor: Share of the learning rates that is left at the last step, by a cosine; 1 leaves them as they are.
        beta1: First moment's decay of every optimiser.
        beta2: Second moment's decay.
        weight_decay: Of every optimiser.
        optimizer: "adamw", or "adamw8bit" for moments of eight bits, on a GPU.
        clip_norm: Largest gradient norm.
        average: Decay of the averaged generator, `None` for none.
        average_from: Generator weights are averaged from this step on.
        lora: Rank of the adapters on what learns, `None` to tune all weights.
        precision: "no" or "bf16": type of the mixed precision.
        recompute: Whether activations are dropped and computed again in the backward pass.
        compile: Whether passes over whole clips are compiled, on a GPU.
        draw: How noise is drawn: by "clips", on the CPU, the same on any device and for any number of processes; or by
            "process", on the device at once, which is quicker where clips are many and small.
        shard: Whether networks are spread over the processes, by FSDP2.
        seed: Seed of everything.
        device: "cpu" to stay off the accelerator; `None`: whatever there is.
        trackers: Trackers that accelerate writes to, such as "tensorboard"; none by default.
        preview_every: Steps between preview clips, `None` for none.
        save_every: Steps between checkpoints.
        keep: Checkpoints kept.
        export: Whether a whole model is written at the end, as `Run.export` does.

    Raises:
        ValueError: If a value is out of range.
    """

    out: str
    generator: str
    prompts: str | None = None
    switch_prompts: str | None = None
    negative: str = ""
    steps: int = 700
    seconds: float | None = None
    batch: int = 1
    accumulate: int = 1
    frames: int = 21
    generator_rate: float = 2e-6
    warmup: int = 0
    floor: float = 1.0
    beta1: float = 0.0
    beta2: float = 0.999
    weight_decay: float = 0.01
    optimizer: str = "adamw"
    clip_norm: float = 10.0
    average: float | None = 0.99
    average_from: int = 200
    lora: int | None = None
    precision: str = "no"
    recompute: bool = True
    compile: bool = False
    draw: str = "clips"
    shard: bool = False
    seed: int = 0
    device: str | None = None
    trackers: tuple[str, ...] = ()
    preview_every: int | None = None
    save_every: int = 100
    keep: int = 2
    export: bool = False

    def __post_init__(self) -> None:
        _settle(self)
        for name in ("steps", "batch", "accumulate", "frames", "save_every", "keep"):
            check_whole(self, name, 1)
        for name in ("average_from", "warmup", "seed"):
            check_whole(self, name, 0)
        for name in ("lora", "preview_every"):
            if getattr(self, name) is not None:
                check_whole(self, name, 1)
        for name in ("generator_rate", "clip_norm"):
            check_number(self, name, above=True)
        check_number(self, "weight_decay", above=False)
        if self.seconds is not None:
            check_number(self, "seconds", above=True)
        if self.switch_prompts is not None and self.prompts is None:
            raise ValueError(f"`switch_prompts` needs `prompts` that switch to them, got {self.switch_prompts!r} alone")
        check_number(self, "floor", above=False)
        if self.floor > 1:
            raise ValueError(f"`floor` must lie in [0, 1], got {self.floor}; use 0.05")
        if self.compile and (self.recompute or self.shard):
            raise ValueError("`compile` goes neither with `recompute` nor with `shard`; set these to False")
        check_shares(self, "beta1", "beta2", use=0.9)
        if self.average is not None:
            check_shares(self, "average", use=0.99)
        if self.precision not in ("no", "bf16"):
            raise ValueError(f"`precision` must be one of no, bf16, got {self.precision!r}")
        if self.optimizer not in ("adamw", "adamw8bit"):
            raise ValueError(f"`optimizer` must be one of adamw, adamw8bit, got {self.optimizer!r}")
        if self.draw not in ("clips", "process"):
            raise ValueError(f"`draw` must be one of clips, process, got {self.draw!r}")
        if self.device not in (None, "cpu"):
            raise ValueError(f"`device` must be 'cpu' or None, got {self.device!r}; choose a GPU when launching")
        named = isinstance(self.trackers, tuple) and all(isinstance(name, str) and name for name in self.trackers)
        if not named:
            raise ValueError(f"`trackers` must be names, got {self.trackers!r}; use ('tensorboard',)")

    def __str__(self) -> str:
        """One field a line."""
        fields = (f"    {field.name}={getattr(self, field.name)!r}," for field in dataclasses.fields(self))
        return "\n".join((f"{type(self).__name__}(", *fields, ")"))

    def save(self, path: Path | str) -> Path:
        """Write the configuration as JSON.

        Args:
            path: The file; its folder is made.

        Returns:
            The file.
        """
        write_json(path, to_dict(self))
        return Path(path)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote, or the same written by hand.

        Args:
            path: The file.

        Returns:
            The configuration.

        Raises:
            FileNotFoundError: If it is not there.
            ValueError: If it is no JSON, or a field is unknown, missing or out of range.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} must be JSON ({error}); write it by `config.save`") from error
        return from_dict(cls, data)

    @property
    def video_frames(self) -> int:
        """Latent frames of the longest video that is rolled out."""
        return self.frames

    @property
    def learns_by_rollout(self) -> bool:
        """Whether the generator learns through its cache."""
        return False

    @property
    def frames_in_pass(self) -> int:
        """Latent frames of one pass of the network that learns without a cache."""
        return self.frames


@dataclass(frozen=True, kw_only=True)
class MatchingConfig(TrainConfig):
    """What every training by distribution matching is told; see `TrainConfig` for all other fields.

    Args:
        teacher: Name or folder of the frozen bidirectional model; the critic begins as a copy of it.
        steps: Critic updates in all.
        frames: Latent frames of the clip that teacher and critic see.
        critic_updates: Critic updates for each generator update.
        critic_rate: Learning rate of the critic.
        guidance: Scale of the teacher's guidance, prompted + scale * (prompted - negative).
        critic_guidance: The same of the critic's.
        noise_shift: Flow shift of the noising.
        score_shift: Flow shift by which score networks turn flow to clean latents; 8 is the public code's, the same as
            `noise_shift` the mended one.
        timestep_shift: Flow shift of the drawn timesteps.
        lowest_timestep: Smallest timestep drawn.
        highest_timestep: Largest timestep drawn.
        fuse: Whether passes of the rollout without gradient, which are most, run in few compiled pieces, on a GPU.

    Raises:
        ValueError: If a value is out of range.
    """

    teacher: str
    critic_updates: int = 5
    critic_rate: float = 4e-7
    guidance: float = 3.0
    critic_guidance: float = 0.0
    noise_shift: float = 5.0
    score_shift: float = 8.0
    timestep_shift: float = 5.0
    lowest_timestep: float = 20.0
    highest_timestep: float = 980.0
    fuse: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "critic_updates", 1)
        if self.fuse and (self.lora is not None or self.shard):
            raise ValueError("`fuse` goes neither with `lora` nor with `shard`; leave it out")
        for name in ("critic_rate", "noise_shift", "score_shift", "timestep_shift"):
            check_number(self, name, above=True)
        for name in ("guidance", "critic_guidance", "lowest_timestep", "highest_timestep"):
            check_number(self, name, above=False)
        if not 0 <= self.lowest_timestep < self.highest_timestep <= 1000:
            raise ValueError(
                "`lowest_timestep` < `highest_timestep` must lie in [0, 1000], got "
                f"{self.lowest_timestep} and {self.highest_timestep}; use 20 and 980"
            )

    @property
    def learns_by_rollout(self) -> bool:
        """Whether the generator learns through its cache."""
        return True


def check_whole(config: Any, name: str, least: int) -> None:
    """Refuse a field that is no whole number of at least `least`.

    Raises:
        ValueError: Naming the field.
    """
    value = getattr(config, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}")


def check_number(config: Any, name: str, *, above: bool) -> None:
    """Refuse a field that is not finite, negative, or, if `above`, zero.

    Raises:
        ValueError: Naming the field.
    """
    value = getattr(config, name)
    if not _is_number(value) or not math.isfinite(value) or value < 0 or (above and value == 0):
        raise ValueError(f"`{name}` must be finite and {'positive' if above else 'at least 0'}, got {value!r}")


def check_shares(config: Any, *names: str, use: float = 0.1) -> None:
    """Refuse fields that are no numbers in [0, 1), with a hint at one that is.

    Raises:
        ValueError: Naming the field.
    """
    for name in names:
        value = getattr(config, name)
        if not _is_number(value) or not 0 <= value < 1:
            raise ValueError(f"`{name}` must lie in [0, 1), got {value!r}; use {use}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _settle(config: Any) -> None:
    """Turn paths into texts and lists into tuples, as JSON gives them back; refuse other kinds of texts and switches.

    Raises:
        ValueError: Naming the field.
    """
    for field in dataclasses.fields(config):
        kind, value = str(field.type), getattr(config, field.name)
        if isinstance(value, (os.PathLike, list)):
            value = tuple(value) if isinstance(value, list) else os.fspath(value)
            object.__setattr__(config, field.name, value)
        if kind == "bool" and not isinstance(value, bool):
            raise ValueError(f"`{field.name}` must be True or False, got {value!r}")
        if kind.startswith("str") and not isinstance(value, str) and not (value is None and kind.endswith("None")):
            raise ValueError(f"`{field.name}` must be a text, got {value!r}")


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
