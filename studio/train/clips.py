"""Clips to learn from, each a function of its index, so that a position is a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from studio.train import draws
from studio.world import SceneBatch, render

__all__ = ["ClipList", "Clips", "WorldClips"]


class Clips(Protocol):
    """A source of clips with their prompts."""

    def __call__(self, indices: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Pixels `[B, T, 3, H, W]` in [-1, 1] and prompts of the clips of those indices."""
        ...


class WorldClips:
    """Clips of the miniature's world, without an end.

    Args:
        frames: Frames of each.
        size: Pixels a side.
        seed: Seed of everything drawn.
        split: Which combinations of attributes are shown: "train", "held_out" or "all".
        device: Where they are painted.
        fps: Frames a second.
    """

    # Half a minute of first frames, so that no moment of the world is special.
    LATEST_START = 480

    def __init__(
        self,
        frames: int,
        size: int,
        *,
        seed: int = 0,
        split: str = "train",
        device: torch.device | str = "cpu",
        fps: float = 16,
    ) -> None:
        self.frames, self.size, self.seed, self.split, self.device, self.fps = frames, size, seed, split, device, fps

    def __call__(self, indices: Sequence[int]) -> tuple[Tensor, list[str]]:
        """See `Clips`."""
        pixels, prompts = [], []
        for index in indices:
            source = draws.generator(self.seed, "clip", index)
            scene = SceneBatch.sample(1, source, self.device, split=self.split)
            start = int(torch.randint(self.LATEST_START, (), generator=source))
            with torch.no_grad():
                pixels.append(render(scene, frames=self.frames, size=self.size, start=start, fps=self.fps).pixels)
            prompts += scene.captions(draws.key(self.seed, "caption", index))
        return torch.cat(pixels), prompts


class ClipList:
    """Given clips, over and over.

    Args:
        pixels: `[N, T, 3, H, W]` in [-1, 1].
        prompts: One a clip.

    Raises:
        ValueError: If there is no clip, or not one prompt a clip.
    """

    def __init__(self, pixels: Tensor, prompts: Sequence[str]) -> None:
        if pixels.dim() != 5 or not len(pixels) or len(pixels) != len(prompts):
            raise ValueError(
                f"`pixels` must be [N, T, 3, H, W] with one prompt a clip, got {list(pixels.shape)} "
                f"and {len(prompts)} prompts"
            )
        self.pixels, self.prompts = pixels, list(prompts)

    def __call__(self, indices: Sequence[int]) -> tuple[Tensor, list[str]]:
        """See `Clips`."""
        places = [index % len(self.prompts) for index in indices]
        return self.pixels[places], [self.prompts[place] for place in places]
