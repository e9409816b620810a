"""Latent clips with their captions, rendered and encoded while training goes on.

A pool on the device holds the newest clips of every kind; each step some are rendered and encoded into it and a batch
is drawn from it, so that a clip is met a few times under other noise and then replaced.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from studio.config import ModelConfig
from studio.model.vae import VideoVAE
from studio.shapes import VideoShape
from studio.train.runtime import autocast
from studio.world import ATTRIBUTES, SceneBatch, caption, compiled_painter, render, switched
from studio.world.paint import paint

__all__ = ["ClipKind", "LatentBatch", "LatentPool", "default_kinds"]


@dataclass(frozen=True, kw_only=True)
class ClipKind:
    """One kind of clip.

    Args:
        switch: Latent frame at which the scene changes, a multiple of the block size; `None` for no switch.
        skip: Latent frames rendered before the clip and dropped, so that its first frame is no video's first.
        weight: Share of the batches.
    """

    switch: int | None = None
    skip: int = 0
    weight: float = 1.0


def default_kinds(capacity: int, block: int) -> tuple[ClipKind, ...]:
    """Half plain clips, half with a switch early, late, or late in a video that has already rolled.

    Args:
        capacity: Latent frames that the cache holds.
        block: Latent frames of a block.

    Returns:
        The kinds.
    """
    half = max(block, capacity // 2 // block * block)
    return (
        ClipKind(weight=4.0),
        ClipKind(switch=half, weight=1.0),
        ClipKind(switch=capacity - block, weight=1.0),
        ClipKind(switch=capacity, weight=1.0),
        ClipKind(switch=capacity, skip=2 * block, weight=1.0),
    )


@dataclass(frozen=True, kw_only=True)
class LatentBatch:
    """A batch of one kind.

    Args:
        latents: `[B, F, C, H, W]`.
        captions: What the clip shows, after its switch if it has one.
        before: What it showed before its switch; the same captions where it has none.
        kind: The kind.
    """

    latents: Tensor
    captions: list[str]
    before: list[str]
    kind: ClipKind


class LatentPool:
    """Renders, encodes, keeps and hands out latent clips.

    Args:
        config: The model whose latents they are.
        vae: Its VAE, on the device.
        frames: Latent frames of a clip.
        kinds: Kinds of clips and their shares.
        capacity: Clips kept of all kinds together.
        seed: Seed of everything drawn.
        split: Which captions' combinations are shown.
        chunk: Clips rendered and encoded together.
        fast: Whether the painter is compiled on a GPU.

    Raises:
        ValueError: If a switch is no block boundary inside the clip.
    """

    def __init__(
        self,
        config: ModelConfig,
        vae: VideoVAE,
        *,
        frames: int,
        kinds: tuple[ClipKind, ...],
        capacity: int = 8192,
        seed: int = 0,
        split: str = "train",
        chunk: int = 16,
        fast: bool = True,
    ) -> None:
        self.shape, self.vae, self.kinds, self.frames, self.split, self.chunk = (
            VideoShape.of(config),
            vae,
            kinds,
            frames,
            split,
            chunk,
        )
        for kind in kinds:
            if kind.switch is not None and (kind.switch % self.shape.block or not 0 < kind.switch < frames):
                raise ValueError(f"`switch` must be a block boundary inside {frames} latent frames, got {kind.switch}")
        self.device = next(vae.parameters()).device
        self.generator = torch.Generator().manual_seed(seed)
        self.random = random.Random(seed)
        total = sum(kind.weight for kind in kinds)
        self.room = [max(chunk, int(capacity * kind.weight / total)) for kind in kinds]
        # Plain clips keep the frames that others skip, so that a batch can begin anywhere in them.
        self.skip = max(kind.skip for kind in kinds)
        lengths = [frames + (self.skip if kind.switch is None else 0) for kind in kinds]
        half = torch.float16 if self.device.type == "cuda" else torch.float32
        self.latents = [
            torch.zeros(room, *self.shape.latents(1, length)[1:], dtype=half, device=self.device)
            for room, length in zip(self.room, lengths, strict=True)
        ]
        self.scenes: list[list] = [[] for _ in kinds]
        self.written = [0] * len(kinds)
        self.rendered = 0
        self.painter = compiled_painter() if fast and self.device.type == "cuda" else paint

    @torch.no_grad()
    def refill(self) -> None:
        """Render and encode one chunk of a kind drawn by weight, over the oldest of that kind."""
        index = self._draw_kind()
        kind = self.kinds[index]
        scenes, latents = self._make(kind)
        room, store = self.room[index], self.scenes[index]
        for row, scene in enumerate(scenes):
            at = self.written[index] % room
            self.latents[index][at] = latents[row]
            if at < len(store):
                store[at] = scene
            else:
                store.append(scene)
            self.written[index] += 1

    def batch(self, size: int) -> LatentBatch:
        """Draw a batch of one kind, with a fresh caption for each clip.

        Args:
            size: Clips.

        Returns:
            The batch.
        """
        index = self._draw_kind()
        while not self.scenes[index]:
            self.refill()
        filled = len(self.scenes[index])
        rows = torch.randint(filled, (size,), generator=self.generator)
        begin = self._begin(self.kinds[index])
        latents = self.latents[index][rows.to(self.device), begin : begin + self.frames].float()
        scenes = [self.scenes[index][row] for row in rows.tolist()]
        captions = [caption(shown, self.random) for _, shown in scenes]
        before = [caption(old, self.random) for old, _ in scenes] if self.kinds[index].switch else captions
        return LatentBatch(latents=latents, captions=captions, before=before, kind=self.kinds[index])

    def _begin(self, kind: ClipKind) -> int:
        # Half of the plain clips begin where a video begins, since its first latent frame is unlike all others.
        later = range(self.shape.block, self.skip + 1, self.shape.block)
        return self.random.choice(later) if kind.switch is None and later and self.random.random() < 0.5 else 0

    def _draw_kind(self) -> int:
        return self.random.choices(range(len(self.kinds)), weights=[kind.weight for kind in self.kinds])[0]

    def _make(self, kind: ClipKind) -> tuple[list, Tensor]:
        batch = SceneBatch.sample(self.chunk, self.generator, self.device, split=self.split)
        frames = self.shape.frames_of(self.frames + self.skip)
        # All kinds render as many frames, so that shapes stay the same; a clip begins anywhere in a minute.
        start = torch.randint(0, 960, (self.chunk,), generator=self.generator).to(self.device)
        options: dict = {"painter": self.painter}
        shown = batch
        if kind.switch is not None:
            names = self.random.sample(list(ATTRIBUTES), self.random.choice((1, 1, 1, 2, 4)))
            shown = switched(batch, names, self.generator)
            at = self.shape.frames_of(kind.switch + kind.skip)
            options |= {"after": shown, "switch_frame": start + at}
        pixels = render(batch, frames=frames, start=start, size=self.shape.height, **options).pixels
        with autocast(self.device):
            latents = self.vae.encode(pixels).float()
        self.rendered += self.chunk
        if kind.switch is not None:
            latents = latents[:, kind.skip : kind.skip + self.frames]
        return list(zip(batch.scenes(), shown.scenes(), strict=True)), latents
