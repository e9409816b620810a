"""Gradient checkpointing of the transformer's blocks, safe beside a cache that goes on.

A block's activations are dropped and computed again in the backward pass. By then later commits have written the cache,
so each checkpointed block gets a copy of its own layer's keys and values as they were.

Source: Chen et al., 2016, arXiv:1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from studio.model.attention import CachedContext, Context, Tap
from studio.model.dit import WanDiT
from studio.model.layers import PromptKV

__all__ = ["recomputed"]


@contextmanager
def recomputed(dit: WanDiT, enabled: bool = True) -> Iterator[WanDiT]:
    """Checkpoint every block of the network for the passes made inside; the backward pass may come later.

    Args:
        dit: The network; nothing of this is left on it afterwards.
        enabled: Whether to do it at all.

    Yields:
        The network.
    """
    blocks = list(dit.blocks) if enabled else []
    try:
        for block in blocks:
            block.forward = _checkpointed(block.forward)
        yield dit
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def _checkpointed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(
        x: Tensor, modulation: Tensor, prompt: PromptKV, context: Context, layer: int, tap: Tap | None = None
    ) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(x, modulation, prompt, context, layer, tap)
        if isinstance(context, CachedContext):
            context = context.frozen(layer)
        # A listener hears each pass once: it is left out of the second run.
        taps: list[Tap | None] = [tap]

        def once(*tensors: Any) -> Tensor:
            heard = taps.pop() if taps else None
            return forward(*tensors, context, layer, heard)

        # No layer draws random numbers, so no random state has to be kept.
        return checkpoint(once, x, modulation, prompt, use_reentrant=False, preserve_rng_state=False)

    return run
