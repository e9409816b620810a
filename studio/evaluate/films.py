"""Films with acts: several videos side by side, act after act, read window by window without keeping their frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from studio.config import CacheConfig, Policy
from studio.evaluate.reading import attribute_scores
from studio.model.probe import Probe
from studio.model.weights import Models
from studio.sampler import BlockPlan, NoiseSource, make_cache, rollout
from studio.shapes import VideoShape
from studio.world import ATTRIBUTES, Scene

__all__ = ["Act", "Piece", "Reading", "act_blocks", "play", "read_window"]


@dataclass(frozen=True, kw_only=True)
class Act:
    """A part of a film under one prompt a video.

    Args:
        scenes: What each of the B videos should show.
        texts: Their B prompts.
        seconds: Length, more than 0.

    Raises:
        ValueError: If there is no video, the counts differ, or the length is not positive and finite.
    """

    scenes: Sequence[Scene]
    texts: Sequence[str]
    seconds: float

    def __post_init__(self) -> None:
        if not self.scenes or len(self.scenes) != len(self.texts):
            raise ValueError(f"an act wants a text for each scene, got {len(self.texts)} for {len(self.scenes)}")
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"`seconds` must be positive and finite, got {self.seconds}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """One block of all videos.

    Args:
        act: Index of its act.
        block: Index of the block in the film.
        frame: Its first pixel frame.
        pixels: `[B, T, 3, H, W]` in [-1, 1].
        seconds: Wall-clock seconds of "recache", "denoise" and "commit", for all videos together.
        switched: Whether another prompt began with this block.
    """

    act: int
    block: int
    frame: int
    pixels: Tensor
    seconds: dict[str, float] = field(default_factory=dict)
    switched: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What the probe sees in a window, and how light it is.

    Args:
        scores: Attribute to probabilities `[B, values]`.
        brightness: `[B]`, mean luma in levels of 255 (weights of ITU-R BT.709).
        contrast: `[B]`, standard deviation of the luma over space, mean over time, in levels of 255.
    """

    scores: dict[str, Tensor]
    brightness: Tensor
    contrast: Tensor

    def probability(self, scenes: Sequence[Scene], name: str) -> Tensor:
        """`[B]`: the probability of what each scene says about one attribute."""
        values = [ATTRIBUTES[name].index(getattr(scene, name)) for scene in scenes]
        table = self.scores[name]
        return table[torch.arange(len(scenes)), torch.tensor(values)]

    def right(self, scenes: Sequence[Scene], name: str) -> Tensor:
        """`[B]`: 1 where the likeliest value is what the scene says, else 0."""
        values = torch.tensor([ATTRIBUTES[name].index(getattr(scene, name)) for scene in scenes])
        return (self.scores[name].argmax(1) == values).float()

    def alignment(self, scenes: Sequence[Scene]) -> Tensor:
        """`[B]`: the mean probability of all that each scene names."""
        return torch.stack([self.probability(scenes, name) for name in ATTRIBUTES]).mean(0)


def act_blocks(shape: VideoShape, acts: Sequence[Act]) -> list[int]:
    """First block of each act, and the end: a boundary is the first block that begins at its time or later.

    Args:
        shape: The model's video shape.
        acts: The acts.

    Returns:
        One number an act and the number of all blocks; strictly rising.

    Raises:
        ValueError: If an act is shorter than a block.
    """
    found, time, block = [0], 0.0, 0
    for index, act in enumerate(acts):
        time += act.seconds
        while shape.first_frame(block) < round(time * shape.fps):
            block += 1
        if block == found[-1]:
            raise ValueError(f"act {index} of {act.seconds} s is shorter than a block; give it more seconds")
        found.append(block)
    return found


@torch.no_grad()
def play(
    models: Models,
    acts: Sequence[Act],
    *,
    seed: int,
    policy: Policy = "recache",
    cache: CacheConfig | None = None,
) -> Iterator[Piece]:
    """Generate a film block by block, by the rollout that plays and trains.

    Args:
        models: The networks.
        acts: At least one, all of the same number of videos.
        seed: Seed of the noise; the same for the same number of videos.
        policy: What the switch at the beginning of an act does to the cache.
        cache: The cache's lengths; `None` for those of the model.

    Yields:
        One piece a block.

    Raises:
        ValueError: If there is no act, or they do not fit together.
    """
    count = {len(act.scenes) for act in acts}
    if len(count) != 1:
        raise ValueError(f"acts must be some, all of the same number of videos, got {sorted(count)}")
    config = models.config if cache is None else replace(models.config, cache=cache)
    shape = VideoShape.of(config)
    starts = act_blocks(shape, acts)
    device, batch = next(models.dit.parameters()).device, count.pop()
    texts = [models.text.encode(list(act.texts)) for act in acts]
    frames = None if config.cache.window is not None else starts[-1] * shape.block
    slots = make_cache(config, batch=batch, frames=frames, device=device)
    noise = NoiseSource(seed, shape.latents(batch, shape.block), device=device)

    def plan() -> Iterator[BlockPlan]:
        for act, (begin, end) in enumerate(pairwise(starts)):
            for block in range(begin, end):
                yield BlockPlan(text=texts[act], prompt=act, policy=policy if act and block == begin else None)

    act, stream = 0, models.vae.stream()
    for block in rollout(models.dit, slots, plan(), noise, config.sampler):
        act = block.prompt
        yield Piece(
            act=act,
            block=block.index,
            frame=shape.first_frame(block.index),
            pixels=models.vae.decode(block.latents, stream, cut=block.policy == "clear"),
            seconds=dict(block.seconds),
            switched=block.policy is not None,
        )


_LUMA = (0.2126, 0.7152, 0.0722)


@torch.no_grad()
def read_window(probe: Probe, pixels: Tensor) -> Reading:
    """Read a window of all videos.

    Args:
        probe: The probe.
        pixels: `[B, T, 3, H, W]` in [-1, 1].

    Returns:
        Its numbers, on the CPU.
    """
    light = (pixels.float() * pixels.new_tensor(_LUMA, dtype=torch.float32).view(3, 1, 1)).sum(2) * 127.5 + 127.5
    return Reading(
        scores={name: table.cpu() for name, table in attribute_scores(probe, pixels).items()},
        brightness=light.mean((1, 2, 3)).cpu(),
        contrast=light.flatten(2).std(2).mean(1).cpu(),
    )
