"""Clips for training, rendered on the fly: nothing is stored, every batch is new."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from studio.train.runtime import Compiled
from studio.world import ATTRIBUTES, Clip, SceneBatch, compiled_painter, render, switched
from studio.world.paint import paint

# Latest first frame of a clip: half a minute, so that no moment of the world is special.
_LATEST_START = 480


class ClipSource:
    """An endless, seeded source of rendered clips.

    Args:
        device: where clips are rendered.
        seed: seed of scenes, starts and switches.
        split: "train", "held_out" or "all", see `studio.world`.
        size: pixels a side.
        fast: compile the painter on a GPU; then keep clips x frames constant, a new number compiles anew.
    """

    def __init__(
        self, device: torch.device | str, seed: int, *, split: str = "train", size: int = 128, fast: bool = False
    ):
        self.device, self.split, self.size = torch.device(device), split, size
        self.generator = torch.Generator().manual_seed(seed)
        self.random = random.Random(seed)
        self.painter = Compiled(paint, False)
        if fast and self.device.type == "cuda":
            # The world compiles itself layer by layer; whole, it would take minutes.
            self.painter.fast, self.painter.mode = compiled_painter(), "compiled"

    def draw(self, clips: int, frames: int, *, switch: tuple[int, int] | None = None) -> tuple[SceneBatch, Clip]:
        """A batch of new clips.

        Args:
            clips: how many.
            frames: frames of each.
            switch: change some attributes at a random frame of this range (first, last), counted from the clip's start;
                None: no switch.

        Returns:
            (scenes as they are at the end, clip).
        """
        batch = SceneBatch.sample(clips, self.generator, self.device, split=self.split)
        start = torch.randint(0, _LATEST_START, (clips,), generator=self.generator).to(self.device)
        if switch is None:
            return batch, self._render(batch, frames, start=start)
        after = switched(batch, self._some_attributes(), self.generator)
        at = torch.randint(switch[0], switch[1] + 1, (clips,), generator=self.generator).to(self.device)
        # A switch before the world's first frame would be outside its time.
        at = (start + at).clamp_min(1)
        return after, self._render(batch, frames, start=start, after=after, switch_frame=at)

    def _some_attributes(self) -> list[str]:
        names = list(ATTRIBUTES)
        return self.random.sample(names, self.random.choice((1, 1, 2)))

    def _render(self, batch: SceneBatch, frames: int, **when: SceneBatch | Tensor) -> Clip:
        with torch.no_grad():
            return render(batch, frames=frames, size=self.size, painter=self.painter, **when)  # type: ignore[arg-type]


def labels(batch: SceneBatch) -> dict[str, Tensor]:
    """The attributes of a batch as class indices.

    Args:
        batch: the scenes.

    Returns:
        Attribute to int64 [B].
    """
    return {name: getattr(batch, name) for name in ATTRIBUTES}
