"""Sizes of cached keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studio.model.backends import widened
from studio.model.cache import KVCache, Slot

__all__ = ["CacheNorms", "cache_norms", "slot_rms"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CacheNorms:
    """Root mean square of the cached keys and values.

    Args:
        block: Block about to be made.
        slots: The occupied slots, sink first, then from old to new.
        keys: `[layers, slots]` float32.
        values: `[layers, slots]` float32.
    """

    block: int
    slots: tuple[Slot, ...]
    keys: np.ndarray
    values: np.ndarray

    def rows(self) -> list[dict[str, Any]]:
        """A row for each layer and slot, ready for a data frame."""
        return [
            {
                "block": self.block,
                "layer": layer,
                "slot": index,
                "frame": slot.frame,
                "role": slot.role,
                "prompt": slot.prompt,
                "keys": float(self.keys[layer, index]),
                "values": float(self.values[layer, index]),
            }
            for layer in range(len(self.keys))
            for index, slot in enumerate(self.slots)
        ]


def cache_norms(cache: KVCache) -> CacheNorms:
    """Measure every occupied slot of a cache, all videos of the batch together.

    Args:
        cache: The cache, between two blocks.

    Returns:
        The sizes; nothing is copied but the result.
    """
    held = [(index, slot) for index, slot in zip(cache.order(), cache.slots, strict=True) if slot.frame is not None]
    order = [index for index, _ in held]
    keys, values = (
        torch.stack([slot_rms(tensor, cache.tokens) for tensor in tensors])[:, order].cpu().numpy()
        for tensors in (cache.keys, cache.values)
    )
    return CacheNorms(block=cache.end // cache.block, slots=tuple(slot for _, slot in held), keys=keys, values=values)


@torch.no_grad()
def slot_rms(x: Tensor, tokens: int) -> Tensor:
    """Root mean square of each slot of keys or values.

    Args:
        x: `[B, slots * tokens, N, D]`.
        tokens: Tokens of a slot.

    Returns:
        `[slots]` float32; not finite where an entry is not.
    """
    parts = widened(x)[0].unflatten(1, (-1, tokens))
    size = parts[:, 0].numel()
    return torch.linalg.vector_norm(parts, dim=(0, 2, 3, 4), dtype=torch.float32) / size**0.5
