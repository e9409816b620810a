"""Warm-up: everything that a model does while it plays, done once, so that nothing holds up the first minute.

What is compiled is compiled here, and what has several equal ways is timed here; both are kept on disk, so that the
next start takes seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from studio.config import ModelConfig
from studio.sampler import BlockPlan, NoiseSource, make_cache, recache, rollout
from studio.shapes import VideoShape

__all__ = ["Progress", "warm_up"]

Progress = Callable[[str, float], None]
PROMPT = "a red fox runs in the snow"
# A stream's first chunk, the first that goes on, and one more for what the second one left behind.
_CHUNKS = 3


def warm_up(models: Any, progress: Progress | None = None) -> dict[str, float]:
    """Run a block, a recache and a few decoded chunks at the sizes of a video that is under way.

    A model that is not compiled is warmed up as well, which loads its kernels. What was not met here is not compiled
    later: it runs as it is written.

    Args:
        models: the networks, as `studio.load` gives them.
        progress: told what is being done and the share that is done, in [0, 1].

    Returns:
        Seconds by part: "text", "block", "recache" and "decoder".
    """
    say = progress or (lambda what, share: None)
    device, seconds = next(models.dit.parameters()).device, {}
    steps = {
        "text": ("reading a prompt", 0.05),
        "block": ("making a block", 0.4),
        "recache": ("recaching", 0.2),
        "decoder": ("decoding", 0.35),
    }
    done = 0.0
    for part, work in _work(models):
        what, share = steps[part]
        say(what, done)
        started = time.perf_counter()
        with torch.inference_mode():
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds[part] = time.perf_counter() - started
        done += share
    if models.dit.fused is not None:
        models.dit.fused.settled = True
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the cache that was filled for this is needed no more
    say("warm", 1.0)
    return seconds


def _work(models: Any) -> list[tuple[str, Callable[[], None]]]:
    config: ModelConfig = models.config
    shape, parameter = VideoShape.of(config), next(models.dit.parameters())
    found: dict[str, Any] = {}

    def text() -> None:
        found["text"] = models.text.encode([PROMPT])

    def block() -> None:
        # The cache of a video that has rolled on: what it holds is of no account.
        frames = None if config.cache.window is not None else (config.cache.attend or 0) + 4 * shape.block
        cache = make_cache(config, frames=frames, device=parameter.device, dtype=models.dit.cache_dtype)
        held = cache.capacity // shape.block - (0 if frames is None else 2)
        noise = NoiseSource(0, shape.latents(1, held * shape.block), device=parameter.device)
        cache.restore(noise(0, 0).to(parameter.dtype), end=held * shape.block)
        found["cache"] = cache
        noise = NoiseSource(1, shape.latents(1, shape.block), device=parameter.device)
        list(rollout(models.dit, cache, [BlockPlan(text=found["text"])] * 2, noise, config.sampler))

    def again() -> None:
        cache = found.pop("cache")
        # Here it is freed, before the decoder needs room.
        recache(models.dit, cache, models.dit.condition(found["text"]), config.sampler)

    def decoder() -> None:
        like, quick = next(models.vae.parameters()), models.vae.quick
        latents = NoiseSource(0, shape.latents(1, shape.block), device=like.device)(0, 0).to(like.dtype)
        stream = models.vae.stream()
        for chunk in range(_CHUNKS):
            if quick is not None:
                quick.tuning = chunk == 1
            models.vae.decode(latents, stream)

    return [("text", text), ("block", block), ("recache", again), ("decoder", decoder)]
