"""One take under way: text, rollout and streamed decoding, block by block, without threads or locks."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from studio.config import ModelConfig
from studio.live.orders import Order as Order
from studio.live.rebuild import goes_on, rebuild_cache, rebuild_stream
from studio.live.texts import Texts as Texts
from studio.live.watching import Observer
from studio.sampler import Block, BlockPlan, NoiseSource, PartsWatch, Revoked, make_cache, rollout
from studio.shapes import VideoShape


class Models(Protocol):
    """The networks of a model and their configuration, as `studio.load` gives them."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def dit(self) -> Any: ...
    @property
    def vae(self) -> Any: ...
    @property
    def text(self) -> Any: ...


class Abandoned(Exception):
    """Leaves a block between two denoising steps."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """One finished block.

    Args:
        block: what the rollout gave; its latents are `[1, f, C, H, W]`, on the CPU.
        frames: its pixels, uint8 `[T, H, W, 3]`, read-only.
        seconds: seconds by part: "text", "recache", "denoise", "commit", "vae" (made of "decode" and "transport", which
            is the change to bytes and the way to the CPU), and "total".
        digest: SHA-256 of the latents' bytes.
    """

    block: Block
    frames: np.ndarray
    seconds: dict[str, float]
    digest: str


class Engine:
    """Makes the blocks of one take.

    Args:
        models: the networks.
        texts: embeddings of prompts.
        seed: seed of the noise.
        order: asked for each block's order as it begins; None ends the take.
        check: called before every denoising step; it may raise `Abandoned`.
        revoked: asked before every denoising step, with whether it is the last one, whether the block is to begin again
            with another order; None never asks, so that a GPU's steps are queued without waiting for any.
        blocks: length of the take, needed where the model keeps every frame.
        decode: whether to make pixels; without, `Made.frames` is empty.
        take: number of the take.
        observer: asked at each block for who looks on; None for nobody.

    Raises:
        ValueError: the model keeps every frame and the take has no end.
    """

    def __init__(
        self,
        models: Models,
        texts: Texts,
        *,
        seed: int,
        order: Callable[[], Order | None],
        check: Callable[[], None],
        revoked: Callable[[bool], bool] | None = None,
        blocks: int | None = None,
        decode: bool = True,
        take: int = 0,
        observer: Callable[[], Observer | None] = lambda: None,
    ) -> None:
        self._models, self._texts, self._order, self._check, self._revoked = models, texts, order, check, revoked
        self._take, self._observer, self._decode = take, observer, decode
        config, parameter = models.config, next(models.dit.parameters())
        self._device, self._dtype = parameter.device, models.dit.cache_dtype
        self._pixels = next(models.vae.parameters())  # decoding happens where and as the decoder's weights are
        shape, self._last = VideoShape.of(config), len(config.sampler.steps) - 1
        if config.cache.window is None and blocks is None:
            raise ValueError(
                f"`{config.name}` keeps every latent frame and needs a video with an end; give the timeline a length"
            )
        frames = None if config.cache.window is not None else (blocks or 0) * shape.block
        self._cache = make_cache(config, frames=frames, device=self._device, dtype=self._dtype)
        self._noise = NoiseSource(seed, shape.latents(1, shape.block), device=self._device)
        self._stream = models.vae.stream()
        self._text_seconds = 0.0
        self._strengths = strengths_of(models)
        self._blocks = self._rollout()

    @property
    def cache(self) -> Any:
        """The KV cache, for probes and views; only a commit or a recache writes it."""
        return self._cache

    @property
    def models(self) -> Models:
        """The networks."""
        return self._models

    @property
    def take(self) -> int:
        """Number of the take."""
        return self._take

    @property
    def strengths(self) -> tuple[tuple[str, float], ...] | None:
        """Strengths of the live adapters as the last block began; see `strengths_of`."""
        return self._strengths

    def fork(
        self, order: Callable[[], Order | None], observer: Callable[[], Observer | None], check: Callable[[], None]
    ) -> Engine:
        """Another engine that goes on from here with a cache and a decoder of its own, which hold the same.

        Args:
            order: its orders.
            observer: who looks on at it.
            check: called before every denoising step.

        Returns:
            The other engine; its noise is that of this one.
        """
        other = copy.copy(self)
        other._order, other._observer, other._check, other._revoked = order, observer, check, None
        with torch.inference_mode():
            other._cache, other._stream = copy.deepcopy(self._cache), self._stream.clone()
        other._blocks = other._rollout()
        return other

    def rebuild(self, latents: Sequence[Tensor], orders: Sequence[Order], stream: Any = None) -> None:
        """Take over blocks that were already made, as for a fork or after an error.

        Args:
            latents: the latents of all blocks so far, each `[1, f, C, H, W]`.
            orders: what each was made of.
            stream: the decoder's stream; where it is not the one after the last block, it is decoded again as far as
                it matters.
        """
        config = self._models.config
        with torch.inference_mode():
            rebuild_cache(self._models.dit, self._cache, self._texts, config, latents, orders)
            if goes_on(stream, len(latents), orders, config.sampler.block):
                self._stream = stream.clone()
            elif self._decode:
                self._stream = rebuild_stream(self._models.vae, latents, orders, config.sampler.block)

    @property
    def stream(self) -> Any:
        """The decoder's stream after the last block; each block goes on with it, so `clone` it before use."""
        return self._stream

    def next(self) -> Made | None:
        """Make the next block.

        Returns:
            The block, or None at the end of the take.

        Raises:
            Abandoned: `check` asked for it; the take is over.
        """
        started = time.perf_counter()
        with torch.inference_mode():
            block = next(self._blocks, None)
            if block is None:
                return None
            watch = PartsWatch(self._pixels.device)
            latents = _Fetched(block.latents)
            pixels = self._pixels_of(block, watch)
        # A GPU is still decoding while this is done.
        kept = latents.read()
        digest = digest_of(kept)
        if self._device.type == "cuda":
            self._noise.ahead(block.index + 1, 0)
        with torch.inference_mode():
            frames = self._frames_of(pixels, watch)
        ended = time.perf_counter()
        if (observer := self._observer()) is not None:
            observer.end(self, block, frames)
        block = replace(block, latents=kept)
        spent = {**block.seconds, **watch.read(), "text": self._text_seconds, "total": ended - started}
        seconds = {**spent, "vae": spent["decode"] + spent["transport"]}
        return Made(block=block, frames=frames, seconds=seconds, digest=digest)

    def _pixels_of(self, block: Block, watch: PartsWatch) -> Tensor | None:
        if not self._decode:
            watch.split("decode")
            return None
        # No copy goes first, which would hold every convolution's past twice: a chunk that fails spoils the stream.
        latents = block.latents.to(self._pixels)
        pixels = self._models.vae.decode(latents, self._stream, cut=block.policy == "clear")
        watch.split("decode")
        return pixels

    def _frames_of(self, pixels: Tensor | None, watch: PartsWatch) -> np.ndarray:
        config = self._models.config
        frames = np.zeros((0, config.height, config.width, 3), np.uint8) if pixels is None else to_uint8(pixels)
        watch.split("transport")
        return frames

    def close(self) -> None:
        """Let go of the rollout; the take is over. A block under way in another thread ends at its next step."""
        with suppress(ValueError):  # a generator that is running cannot be closed
            self._blocks.close()

    def _rollout(self) -> Generator[Block, None, None]:
        config = self._models.config
        # A generator, so that it can be closed.
        yield from rollout(self._models.dit, self._cache, self._plan(), self._step, config.sampler)

    def _plan(self) -> Iterator[BlockPlan]:
        while (order := self._order()) is not None:
            started, self._strengths = time.perf_counter(), strengths_of(self._models)
            text = self._texts(order.text)
            self._text_seconds = time.perf_counter() - started
            entry = BlockPlan(text=text, prompt=order.number, policy=order.policy, sink_policy=order.sink_policy)
            if (observer := self._observer()) is not None:
                observer.begin(self, entry, order.prompt)
            yield entry

    def _step(self, block: int, step: int) -> Tensor:
        noise = self._noise(block, step)
        if self._revoked is not None and self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # a step that is queued cannot be revoked any more
        self._check()
        if self._revoked is not None and self._revoked(step == self._last):
            raise Revoked
        return noise


class _Fetched:
    """Latents on their way to the CPU while a GPU goes on.

    Args:
        latents: on any device.
    """

    def __init__(self, latents: Tensor) -> None:
        self._found, self._there = latents, None
        if latents.is_cuda:
            self._found = torch.empty(latents.shape, dtype=latents.dtype, pin_memory=True)
            self._found.copy_(latents, non_blocking=True)
            self._there = torch.cuda.Event()
            self._there.record()

    def read(self) -> Tensor:
        """A copy on the CPU; made outside inference mode it may be used for anything, training included."""
        if self._there is not None:
            self._there.synchronize()
        return self._found.to("cpu", copy=True)


def strengths_of(models: Models) -> tuple[tuple[str, float], ...] | None:
    """Name and strength of each adapter beside the weights of some networks; None where there is none."""
    adapters = getattr(models, "adapters", None)
    return None if adapters is None else tuple(adapters.strengths.items()) or None


def digest_of(latents: Tensor) -> str:
    """SHA-256 of the bytes of latents, to compare them bit for bit.

    Args:
        latents: on the CPU.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(latents.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def to_uint8(pixels: Tensor) -> np.ndarray:
    """Turn the pixels of one video into bytes for the screen.

    Args:
        pixels: `[1, T, 3, H, W]` in [-1, 1].

    Returns:
        uint8 `[T, H, W, 3]`, read-only.
    """
    scaled = pixels[0].float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)
    found = scaled.permute(0, 2, 3, 1).contiguous()
    if found.is_cuda:
        # Pinned memory is used again when nobody holds the frames any more; fresh pages would cost more than the copy.
        found = torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found)
    frames = found.numpy()
    frames.setflags(write=False)
    return frames
