"""Latent clips with their captions, rendered and encoded while training goes on.

A pool on the device holds the newest clips of every kind; each step some are rendered and encoded into it and a batch
is drawn from it, so that a clip is met a few times under other noise and then replaced. Openings, the first blocks of
videos, are cut from the same pictures: every piece of a clip is the start of a video when it is encoded by itself.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from studio.config import ModelConfig
from studio.model.vae import VideoVAE
from studio.shapes import VideoShape
from studio.train.runtime import autocast, sent
from studio.world import ATTRIBUTES, Scene, SceneBatch, caption, compiled_painter, render, switched
from studio.world.paint import paint
from studio.world.renderer import Painter

__all__ = ["ClipKind", "LatentBatch", "LatentPool", "MadeClips", "default_kinds", "make_clips"]


@dataclass(frozen=True, kw_only=True)
class ClipKind:
    """One kind of clip.

    Args:
        switch: Latent frame at which the scene changes, a multiple of the block size; `None` for no switch.
        weight: Share of the batches.
    """

    switch: int | None = None
    weight: float = 1.0


def default_kinds(capacity: int, block: int) -> tuple[ClipKind, ...]:
    """Half plain clips, half with a switch early or late in what the cache holds.

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
        ClipKind(switch=capacity, weight=2.0),
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


@dataclass(frozen=True, kw_only=True)
class MadeClips:
    """Clips fresh from the painter and the encoder.

    Args:
        pixels: `[B, T, 3, H, W]` in [-1, 1].
        latents: `[B, F, C, h, w]`.
        before: Their scenes before the switch.
        shown: Their scenes after it; the same where there is none.
    """

    pixels: Tensor
    latents: Tensor
    before: list[Scene]
    shown: list[Scene]


@torch.no_grad()
def make_clips(
    vae: VideoVAE,
    shape: VideoShape,
    kind: ClipKind,
    *,
    clips: int,
    frames: int,
    generator: torch.Generator,
    words: random.Random,
    split: str = "train",
    painter: Painter = paint,
) -> MadeClips:
    """Render and encode clips of one kind.

    Args:
        vae: The VAE, on the device where they are made.
        shape: Sizes of the video.
        kind: Whether and where they switch.
        clips: How many.
        frames: Latent frames of each.
        generator: Draws scenes and starts, on the CPU.
        words: Draws what a switch changes.
        split: Which captions' combinations are shown.
        painter: Paints.

    Returns:
        The clips.
    """
    device = next(vae.parameters()).device
    batch = SceneBatch.sample(clips, generator, device, split=split)
    # A clip begins anywhere in a minute.
    start = torch.randint(0, 960, (clips,), generator=generator).to(device)
    options: dict = {"painter": painter}
    shown = batch
    if kind.switch is not None:
        names = words.sample(list(ATTRIBUTES), words.choice((1, 1, 1, 2, 4)))
        shown = switched(batch, names, generator)
        options |= {"after": shown, "switch_frame": start + shape.frames_of(kind.switch)}
    pixels = render(
        batch, frames=shape.frames_of(frames), start=start, size=shape.height, fps=shape.fps, **options
    ).pixels
    with autocast(device):
        latents = vae.encode(pixels).float()
    return MadeClips(pixels=pixels, latents=latents, before=batch.scenes(), shown=shown.scenes())


class LatentPool:
    """Renders, encodes, keeps and hands out latent clips.

    Args:
        config: The model whose latents they are.
        vae: Its VAE, on the device.
        frames: Latent frames of a clip.
        kinds: Kinds of clips and their shares.
        capacity: Clips kept of all kinds together.
        openings: Openings kept; 0 for none.
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
        openings: int = 0,
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
        half = torch.float16 if self.device.type == "cuda" else torch.float32
        self.latents = [
            torch.zeros(room, *self.shape.latents(1, frames)[1:], dtype=half, device=self.device) for room in self.room
        ]
        size = self.shape.latents(1, self.shape.block)[1:]
        self.opening_latents = torch.zeros(openings, *size, dtype=half, device=self.device)
        self.opening_scenes: list = []
        self.openings = openings
        self.opened = 0
        self.scenes: list[list] = [[] for _ in kinds]
        self.written = [0] * len(kinds)
        self.rendered = 0
        self.painter = compiled_painter() if fast and self.device.type == "cuda" else paint

    @torch.no_grad()
    def refill(self, plain: bool = False) -> None:
        """Render and encode one chunk of a kind drawn by weight, over the oldest of that kind.

        Args:
            plain: Of the first kind, without a switch, from which openings are cut.
        """
        index = 0 if plain else self._draw_kind()
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
        latents = self.latents[index][sent(rows, self.device)].float()
        scenes = [self.scenes[index][row] for row in rows.tolist()]
        captions = [caption(shown, self.random) for _, shown in scenes]
        before = [caption(old, self.random) for old, _ in scenes] if self.kinds[index].switch else captions
        return LatentBatch(latents=latents, captions=captions, before=before, kind=self.kinds[index])

    def opening(self, size: int) -> LatentBatch:
        """Draw a batch of openings, one block each.

        Args:
            size: Openings.

        Returns:
            The batch, of the kind without a switch.

        Raises:
            ValueError: If the pool keeps none.
        """
        if not self.openings:
            raise ValueError("this pool keeps no openings; make it with `openings` of some thousands")
        if not self.opening_scenes:
            self.refill(plain=True)
        rows = torch.randint(len(self.opening_scenes), (size,), generator=self.generator)
        latents = self.opening_latents[sent(rows, self.device)].float()
        captions = [caption(self.opening_scenes[row], self.random) for row in rows.tolist()]
        return LatentBatch(latents=latents, captions=captions, before=captions, kind=ClipKind())

    def _draw_kind(self) -> int:
        return self.random.choices(range(len(self.kinds)), weights=[kind.weight for kind in self.kinds])[0]

    def _make(self, kind: ClipKind) -> tuple[list, Tensor]:
        made = make_clips(
            self.vae, self.shape, kind, clips=self.chunk, frames=self.frames, split=self.split,
            generator=self.generator, words=self.random, painter=self.painter,
        )  # fmt: skip
        self.rendered += self.chunk
        if self.openings and kind.switch is None:
            self._open(made.pixels, made.before)
        return list(zip(made.before, made.shown, strict=True)), made.latents

    def _open(self, pixels: Tensor, scenes: list) -> None:
        length = self.shape.frames_of(self.shape.block)
        pieces = pixels.shape[1] // length
        cut = pixels[:, : pieces * length].unflatten(1, (pieces, length)).flatten(0, 1)
        with autocast(self.device):
            latents = self.vae.encode(cut)
        at = torch.arange(self.opened, self.opened + len(latents)) % self.openings
        self.opening_latents[at.to(self.device)] = latents.type_as(self.opening_latents)
        for row, scene in zip(at.tolist(), (scene for scene in scenes for _ in range(pieces)), strict=True):
            if row < len(self.opening_scenes):
                self.opening_scenes[row] = scene
            else:
                self.opening_scenes.append(scene)
        self.opened += len(latents)
