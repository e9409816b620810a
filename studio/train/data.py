"""Clips for training, rendered on the fly: nothing is stored on disk, and new clips keep coming."""

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
        fast: compile the painter on a GPU.
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
            switch: change some attributes at a random frame of this range (first, last), counted from the clip's
                start; None: no switch.

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


class ClipPool:
    """The newest clips of a source, kept as bytes on the device, because painting costs more than a training step.

    Args:
        source: where clips come from.
        capacity: clips kept.
        frames: frames of each.
        chunk: clips rendered together.
        side: pixels a side that are kept; the source's size is averaged down to it.
        switch_every: one chunk in so many shows scene switches; 0 for none.
        switch: range of the switch, see `ClipSource.draw`.
    """

    def __init__(
        self,
        source: ClipSource,
        *,
        capacity: int,
        frames: int,
        chunk: int,
        side: int | None = None,
        switch_every: int = 0,
        switch: tuple[int, int] | None = None,
    ):
        self.source, self.capacity, self.frames, self.chunk = source, max(capacity, chunk), frames, chunk
        self.factor = source.size // (side or source.size)
        self.switch_every, self.switch = switch_every, switch
        side = source.size // self.factor
        shape = (self.capacity, frames, 4, side, side)
        # Red, green, blue and the figure's mask.
        self.bytes = torch.zeros(shape, dtype=torch.uint8, device=source.device)
        self.labels = {name: torch.zeros(self.capacity, dtype=torch.int64, device=source.device) for name in ATTRIBUTES}
        self.rendered = self.chunks = 0

    @property
    def held(self) -> int:
        """Clips in the pool."""
        return min(self.rendered, self.capacity)

    def refill(self, chunks: int = 1) -> None:
        """Render new clips over the oldest ones.

        Args:
            chunks: how many times `chunk` clips.
        """
        for _ in range(chunks):
            self.chunks += 1
            switch = self.switch if self.switch_every and self.chunks % self.switch_every == 0 else None
            scenes, clip = self.source.draw(self.chunk, self.frames, switch=switch)
            stacked = torch.cat([(clip.pixels + 1) / 2, clip.mask], dim=2)
            if self.factor > 1:
                stacked = torch.nn.functional.avg_pool3d(stacked, (1, self.factor, self.factor))
            at = torch.arange(self.rendered, self.rendered + self.chunk, device=self.bytes.device) % self.capacity
            self.bytes[at] = (stacked * 255).round().to(torch.uint8)
            for name, values in labels(scenes).items():
                self.labels[name][at] = values
            self.rendered += self.chunk

    def crops(self, clips: int, frames: int, side: int) -> tuple[Tensor, Tensor]:
        """Random pieces of random clips, around the figure rather than anywhere.

        Args:
            clips: how many.
            frames: frames of each.
            side: pixels a side of each.

        Returns:
            (pixels [B, frames, 3, side, side] in [-1, 1], mask [B, frames, 1, side, side] in [0, 1]).
        """
        pick = torch.randint(self.held, (clips,), device=self.bytes.device)
        first = torch.randint(self.frames - frames + 1, (clips,), device=self.bytes.device)
        top, left = self._around_figure(pick, first + frames // 2, side)
        line = torch.arange(side, device=self.bytes.device)
        time = torch.arange(frames, device=self.bytes.device)
        found = self.bytes[
            pick[:, None, None, None],
            (first[:, None] + time)[:, :, None, None],
            :,
            (top[:, None] + line)[:, None, :, None],
            (left[:, None] + line)[:, None, None, :],
        ]
        found = found.movedim(-1, 2).float() / 255
        return found[:, :, :3] * 2 - 1, found[:, :, 3:]

    def windows(self, clips: int, frames: int, *, end: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Windows of random clips with their labels.

        Args:
            clips: how many.
            frames: frames of each.
            end: the last frames of each clip, instead of a random window for all.

        Returns:
            (pixels [B, frames, 3, H, W] in [-1, 1], attribute to class index [B]).
        """
        pick = torch.randint(self.held, (clips,), device=self.bytes.device)
        last = self.frames - frames
        first = last if end else self.source.random.randint(0, last)
        pixels = self.bytes[:, first : first + frames, :3][pick].float() / 127.5 - 1
        return pixels, {name: values[pick] for name, values in self.labels.items()}

    def _around_figure(self, pick: Tensor, frame: Tensor, side: int) -> tuple[Tensor, Tensor]:
        mask = self.bytes[pick, frame, 3].float()
        whole = mask.shape[-1]
        line = torch.arange(whole, device=mask.device, dtype=torch.float32)
        total = mask.sum((1, 2)).clamp_min(1)
        places = []
        for across in (2, 1):
            middle = (mask.sum(across) * line).sum(1) / total
            jitter = torch.randn(len(pick), device=mask.device) * side / 4
            places.append((middle + jitter - side / 2).round().clamp(0, whole - side).long())
        return places[0], places[1]


def labels(batch: SceneBatch) -> dict[str, Tensor]:
    """The attributes of a batch as class indices.

    Args:
        batch: the scenes.

    Returns:
        Attribute to int64 [B].
    """
    return {name: getattr(batch, name) for name in ATTRIBUTES}
