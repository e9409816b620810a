"""What speed costs in accuracy: a fast model beside the plain one in float32, on the same inputs.

Both begin with the same cache, noise, prompts and latents, so that each figure is the fault of one block, one commit,
one recache or one decoding and of nothing before it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from studio.model.cache import KVCache
from studio.sampler import NoiseSource, commit, denoise_block, make_cache, recache
from studio.schedule import FlowSchedule
from studio.shapes import VideoShape

__all__ = ["accuracy", "relative_error"]

PROMPTS = ("a red fox runs in the snow", "a blue rabbit jumps in the forest")
# A pass is recorded at its second time, so that from the third on what is compared was replayed.
_TIMES = 3


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Length of the difference over the length of what is right.

    Args:
        found: Any shape and type.
        exact: Same shape.
    """
    exact = exact.double()
    return float((found.to(exact.device).double() - exact).norm() / exact.norm())


@torch.inference_mode()
def accuracy(fast: Any, exact: Any) -> dict[str, float]:
    """Compare a model with the plain one.

    Args:
        fast: The networks as they play.
        exact: The same weights in float32, neither quantised nor compiled, attention by PyTorch.

    Returns:
        "latents_error" after a block's steps, "commit_error" of the keys and values that its commit writes,
        "recache_error" of all that a recache writes, each relative; "decode_psnr_db" of a decoded block's pixels, with
        the whole range as the peak (infinite where they are equal).
    """
    config = fast.config  # a memory mode may have cut its window
    shape = VideoShape.of(config)
    # One prompt's embedding for both: how the text encoder computes is another matter.
    texts = [exact.text.encode([prompt]) for prompt in PROMPTS]
    mine, yours = ([models.dit.condition(text) for text in texts] for models in (fast, exact))
    device = next(exact.dit.parameters()).device
    noise = NoiseSource(1, shape.latents(1, shape.block), device=device)
    # The cache of a video that is under way: that of any latents will do, and costs a single pass.
    frames = None if config.cache.window is not None else (config.cache.attend or 0) + 4 * shape.block
    plain = make_cache(config, frames=frames, device=device)
    held = plain.capacity // shape.block - (0 if frames is None else 2)
    count = held * shape.block
    plain.restore(NoiseSource(2, shape.latents(1, count), device=device)(0, 0), end=count)
    recache(exact.dit, plain, yours[0], config.sampler)
    quick = make_cache(config, frames=frames, device=device, dtype=fast.dit.cache_dtype)
    quick.restore_state(plain.state(), plain.tensors())
    schedule = FlowSchedule(shift=config.sampler.shift).to(device)

    def block(models: Any, cache: KVCache, condition: Any) -> Tensor:
        return denoise_block(models.dit, cache, condition, noise, config.sampler, schedule)

    wanted = block(exact, plain, yours[0])
    found = [block(fast, quick, mine[0]) for _ in range(_TIMES)][-1]
    errors = {"latents_error": relative_error(found, wanted)}
    own = plain.begin().own
    for models, cache, condition in ((exact, plain, yours[0]), (fast, quick, mine[0])):
        commit(models.dit, cache, wanted, condition, config.sampler)
    errors["commit_error"] = _cache_error(quick, plain, own)
    quick.restore_state(plain.state(), plain.tensors())  # the recache of both begins with the same latents and sink
    for models, cache, condition in ((exact, plain, yours[1]), (fast, quick, mine[1])):
        recache(models.dit, cache, condition, config.sampler)
    errors["recache_error"] = _cache_error(quick, plain, slice(None))
    return {**errors, "decode_psnr_db": _psnr(fast.vae, exact.vae, wanted)}


def _cache_error(found: KVCache, exact: KVCache, tokens: Any) -> float:
    """The largest relative error of a layer's keys or values."""
    sides = ((found.keys, exact.keys), (found.values, exact.values))
    return max(
        relative_error(a[:, tokens], b[:, tokens]) for ones, others in sides for a, b in zip(ones, others, strict=True)
    )


def _psnr(fast: Any, exact: Any, latents: Tensor) -> float:
    streams, pixels = (fast.stream(), exact.stream()), []
    for _ in range(3):  # the fast path begins with the second chunk
        pixels = [
            vae.decode(latents.to(next(vae.parameters())), stream).float()
            for vae, stream in zip((fast, exact), streams, strict=True)
        ]
    worst = float((pixels[0] - pixels[1]).square().mean())
    return 10 * math.log10(4 / worst) if worst else math.inf
