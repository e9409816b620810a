"""One endless rollout of streaming long tuning: what is kept of a video between two chunks, and nothing more.

Kept are the KV cache, the VAE's state, the latent frames that the next clip overlaps with, and the first of them as an
image latent. All of it is constant in the length of the video, and none of it carries gradient.

Source: streaming long tuning of LongLive (ICLR 2026), section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from studio.config import SinkPolicy
from studio.model.cache import KVCache
from studio.model.vae import VAEStream, VideoVAE
from studio.sampler import BlockPlan

__all__ = ["Stream", "chunk_plan"]


@dataclass(kw_only=True, eq=False, repr=False)
class Stream:
    """A batch of videos that is being rolled out chunk by chunk.

    Args:
        video: Which batch of videos of the training this is.
        cache: Their KV cache; the rollout goes on from where it ends.
        pixels: The VAE's state, decoding up to the first overlapping latent frame.
        text: Text embeddings `[B, text_len, text_dim]` of the first prompts.
        after: Those of the prompts they switch to.
        switch: Latent frame of the switch, or `None`.
        overlap: The last latent frames `[B, overlap, C, H, W]`, once there are some.
        image: The first of them as the first latent frame of a video `[B, 1, C, H, W]`.
    """

    video: int
    cache: KVCache
    pixels: VAEStream
    text: Tensor
    after: Tensor
    switch: int | None
    overlap: Tensor | None = field(default=None)
    image: Tensor | None = field(default=None)

    def __repr__(self) -> str:
        turn = "no switch" if self.switch is None else f"switch at {self.switch}"
        return f"<Stream: video {self.video}, {self.length} latent frames, {turn}>"

    @property
    def length(self) -> int:
        """Latent frames generated so far."""
        return self.cache.end

    def switched(self, frame: int) -> bool:
        """Whether latent frame `frame` lies at or after the switch."""
        return self.switch is not None and frame >= self.switch

    def clip(self, new: Tensor) -> tuple[Tensor, Tensor]:
        """The full clip that teacher and critic see.

        Args:
            new: The chunk's new latent frames `[B, f, C, H, W]`, with or without gradient.

        Returns:
            The overlap, its first frame as an image latent, before the new frames `[B, F, C, H, W]`; and a bool mask
            `[1, F, 1, 1, 1]`, `True` on the new ones.
        """
        past = [] if self.image is None or self.overlap is None else [self.image, self.overlap[:, 1:]]
        whole = torch.cat([*past, new], dim=1)
        mask = torch.ones(1, whole.shape[1], 1, 1, 1, dtype=torch.bool, device=new.device)
        mask[:, : whole.shape[1] - new.shape[1]] = False
        return whole, mask

    @torch.no_grad()
    def advance(self, new: Tensor, overlap: int, vae: VideoVAE) -> None:
        """Take a chunk over into the past.

        Args:
            new: The new latent frames `[B, f, C, H, W]`, just committed to the cache.
            overlap: Latent frames that the next clip begins with, fewer than a clip.
            vae: The VAE that decodes up to the first of them and encodes it as an image.
        """
        new = new.detach()
        known = new if self.overlap is None else torch.cat([self.overlap[:, 1:], new], dim=1)
        fresh = known[:, : known.shape[1] - overlap + 1]
        frame = None
        for part in fresh.split(self.cache.block, dim=1):
            frame = vae.decode(part, self.pixels)[:, -1:]
        assert frame is not None
        self.image = vae.encode(frame).to(new.dtype)
        # A copy, so that the rest of the chunk is not kept alive.
        self.overlap = known[:, -overlap:].clone()

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that is kept between two chunks, by name."""
        found = self.cache.tensors()
        found |= {f"pixels.{i}": part for i, part in enumerate(self.pixels.history) if part is not None}
        named = {"overlap": self.overlap, "image": self.image}
        return found | {name: tensor for name, tensor in named.items() if tensor is not None}

    def plain(self) -> dict[str, Any]:
        """Everything else that is kept, ready for JSON."""
        return {
            "video": self.video,
            "decoded": self.pixels.decoded,
            **self.cache.state(),
        }

    def fill(self, state: dict[str, Any]) -> None:
        """Take over what `tensors` and `plain` gave.

        Args:
            state: Both, in one dictionary.

        Raises:
            ValueError: If a tensor is missing or misshapen.
        """
        device = self.cache.device
        self.cache.restore_state(state, state)
        self.pixels.decoded = state["decoded"]
        for index in range(len(self.pixels.history)):
            part = state.get(f"pixels.{index}")
            self.pixels.history[index] = None if part is None else part.to(device)
        self.overlap, self.image = (state[name].to(device) if name in state else None for name in ("overlap", "image"))


def chunk_plan(
    stream: Stream, frames: int, *, exit_step: int, gradient: bool, sink_policy: SinkPolicy | None = None
) -> Iterator[BlockPlan]:
    """The plan of a chunk, as a player would give it to the same rollout.

    Args:
        stream: The videos.
        frames: New latent frames, whole blocks.
        exit_step: Denoising step after which blocks are taken.
        gradient: Whether that step carries gradient.
        sink_policy: Overrides the cache's own at the switch.

    Yields:
        One entry a block; the one at the switch recaches.
    """
    start, block = stream.length, stream.cache.block
    for first in range(start, start + frames, block):
        after = stream.switched(first)
        yield BlockPlan(
            text=stream.after if after else stream.text,
            prompt=int(after),
            policy="recache" if first == stream.switch else None,
            sink_policy=sink_policy,
            exit_step=exit_step,
            gradient=gradient,
        )
