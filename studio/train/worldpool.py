"""Latent clips of the miniature's world with their prompts, kept on the device and renewed while training goes on.

What the pool holds at a step is a function of the step alone: a run that goes on from a checkpoint renders the newest
clips once more and draws the batches that it would have drawn. Nothing of it is in a checkpoint.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from studio.config import ModelConfig
from studio.model.vae import VideoVAE
from studio.shapes import VideoShape
from studio.train import draws
from studio.train.latents import ClipKind, make_clips
from studio.train.runtime import sent
from studio.world import caption, compiled_painter
from studio.world.paint import paint

__all__ = ["WorldPool"]

# Captions of each clip; which one a batch takes is drawn anew each time.
_CAPTIONS = 4


class WorldPool:
    """A ring of clips on the device; every so many steps a chunk of new ones comes over the oldest.

    Args:
        config: The model whose latents they are.
        vae: Its VAE, on the device.
        encode: Prompts to text embeddings `[B, text_len, text_dim]`.
        frames: Latent frames of a clip.
        clips: Clips kept, a multiple of `chunk`.
        chunk: Clips rendered together.
        renew_every: Steps between two chunks.
        switched: Share of the chunks whose scene changes at `switch_frame`; their prompts are those after it.
        switch_frame: Latent frame of that change.
        seed: Seed of everything drawn.
        rank: Process; each has clips of its own.

    Raises:
        ValueError: If `clips` is not whole chunks.
    """

    def __init__(
        self,
        config: ModelConfig,
        vae: VideoVAE,
        encode: Callable[[list[str]], Tensor],
        *,
        frames: int,
        clips: int,
        chunk: int,
        renew_every: int,
        switched: float = 0.0,
        switch_frame: int = 0,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        if clips % chunk:
            low = max(chunk, clips // chunk * chunk)
            raise ValueError(f"`pool` must be a multiple of `chunk` {chunk}, got {clips}; use {low} or {low + chunk}")
        self.shape, self.vae, self.encode = VideoShape.of(config), vae, encode
        self.frames, self.chunk, self.renew_every, self.places = frames, chunk, renew_every, clips // chunk
        self.switched, self.switch_frame, self.seed, self.rank = switched, switch_frame, seed, rank
        self.device = next(vae.parameters()).device
        kind = torch.float16 if self.device.type == "cuda" else torch.float32
        sizes = (self.shape.latents(1, frames)[1:], (_CAPTIONS, config.dit.text_len, config.dit.text_dim))
        self.latents, self.texts = (torch.zeros(clips, *size, dtype=kind, device=self.device) for size in sizes)
        self.held: list[int | None] = [None] * self.places
        self.painter = compiled_painter() if self.device.type == "cuda" else paint

    def batch(self, step: int, index: int, size: int) -> tuple[Tensor, Tensor]:
        """Latents `[B, F, C, H, W]` and text embeddings `[B, text_len, text_dim]` of a batch.

        Args:
            step: Steps done, which say what the pool holds.
            index: Which batch.
            size: Clips.
        """
        newest = step // self.renew_every + self.places
        for number in range(newest - self.places, newest):
            if self.held[number % self.places] != number:
                self._renew(number)
        source = draws.generator(self.seed, "pool", index, self.rank)
        # Drawn together and sent once: each copy to the device has its price.
        drawn = torch.stack([torch.randint(n, (size,), generator=source) for n in (len(self.latents), _CAPTIONS)])
        rows, words = sent(drawn, self.device)
        return self.latents[rows].float(), self.texts[rows, words].float()

    @torch.no_grad()
    def _renew(self, number: int) -> None:
        source = draws.generator(self.seed, "chunk", number, self.rank)
        words = random.Random(draws.key(self.seed, "words", number, self.rank))
        switch = self.switch_frame if words.random() < self.switched else None
        made = make_clips(
            self.vae, self.shape, ClipKind(switch=switch), clips=self.chunk, frames=self.frames, generator=source,
            words=words, painter=self.painter,
        )  # fmt: skip
        captions = [caption(scene, words) for scene in made.shown for _ in range(_CAPTIONS)]
        at = number % self.places
        rows = slice(at * self.chunk, (at + 1) * self.chunk)
        self.latents[rows] = made.latents
        self.texts[rows] = self.encode(captions).unflatten(0, (self.chunk, _CAPTIONS))
        self.held[at] = number
