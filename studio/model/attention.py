"""Attention: one exact kernel, and the contexts that say what a query can see.

The transformer asks its context for attention and knows nothing of caches or masks. `FullContext` is the bidirectional
network, `CachedContext` one pass over the KV cache, `TeacherForcedContext` a whole clip at once under the cache's rules.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from studio.config import CacheConfig
from studio.model.cache import CacheCall, KVCache
from studio.model.rope import Rotary, rotary, rotate

__all__ = ["CachedContext", "Context", "FullContext", "Tap", "TeacherForcedContext", "attention"]


class Tap(Protocol):
    """Listens to a forward pass; what it computes is its own affair and never changes the pass."""

    def self_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Rotated queries `[B, Lq, N, D]` and the keys and values `[B, Lk, N, D]` they see."""

    def cross_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Queries `[B, Lq, N, D]` and the prompt's keys and values `[B, Lt, N, D]`."""


class Context(Protocol):
    """What the queries of one forward pass can see in self-attention."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, tap: Tap | None = None) -> Tensor:
        """Attention of `q` `[B, L, N, D]` over the context and the pass's own `k` and `v`; same shape as `q`."""
        ...


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Exact softmax attention with scale 1 / sqrt(D).

    Args:
        q: Queries `[B, Lq, N, D]`.
        k: Keys `[B, Lk, N, D]`.
        v: Values `[B, Lk, N, D]`.
        mask: `[Lq, Lk]` bool, `True` where a query may look, or `None`.

    Returns:
        `[B, Lq, N, D]` in `v`'s type.
    """
    q, k, v = (x.transpose(1, 2) for x in (q.type_as(v), k.type_as(v), v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


class FullContext:
    """Every token sees every token of the pass: the bidirectional network.

    Args:
        turn: Rotary turn of the pass's tokens.
    """

    def __init__(self, turn: Rotary) -> None:
        self.turn = turn

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, tap: Tap | None = None) -> Tensor:
        """See `Context.attend`."""
        q, k = rotate(q, self.turn), rotate(k, self.turn)
        if tap is not None:
            tap.self_attention(layer, q, k, v)
        return attention(q, k, v)


class CachedContext:
    """One pass over the KV cache: a denoising step, a commit or a recache.

    Without gradients, keys and values go into the cache's own slots and attention reads the buffers in place. With
    gradients the pass works on a copy, so that nothing autograd has saved is ever written to.

    Args:
        cache: The cache.
        call: What `cache.begin()` or `cache.begin_recache()` gave.
    """

    def __init__(self, cache: KVCache, call: CacheCall) -> None:
        self.cache, self.call = cache, call

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, tap: Tap | None = None) -> Tensor:
        """See `Context.attend`."""
        call = self.call
        q = rotate(q, call.query_turn)
        if call.key_turn is None:
            k = rotate(k, call.query_turn)
        keys, values = self._placed(layer, k[:, call.stored], v[:, call.stored])
        if call.key_turn is not None:
            keys = rotate(keys, call.key_turn)
        if tap is not None:
            tap.self_attention(layer, q, keys, values)
        return attention(q, keys, values, call.mask)

    def _placed(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        own, visible = self.call.own, self.call.visible
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        if torch.is_grad_enabled():
            keys, values = keys.to(k.dtype, copy=True), values.to(v.dtype, copy=True)
        keys[:, own] = k.type_as(keys)
        values[:, own] = v.type_as(values)
        return keys[:, visible], values[:, visible]


class TeacherForcedContext:
    """A whole clip under the cache's rules in one pass: the sequence is [clean frames | noisy frames].

    A clean frame plays the committed cache, a noisy one the block being denoised. With window-relative positions, the
    sink's distance stops growing once the window rolls; each late block therefore sees its own turned copy of the
    sink's keys. After a switch at `recached` the earlier frames see each other fully, as a recache computes them.

    Args:
        config: Sink, window and positions.
        frames: Latent frames of the clip, a multiple of `block`.
        block: Latent frames of a block.
        grid: Token rows and columns of a latent frame.
        head_dim: Channels of a head.
        recached: Latent frame before which everything was recached, or `None`; at most the cache's capacity.
        device: Where the tables live.

    Raises:
        ValueError: If the frames are not whole blocks, the cache has no window, or `recached` is too late.

    Source: teacher forcing as in CausVid and Self-Forcing's initialisation, with LongLive's sink and window.
    """

    def __init__(
        self,
        config: CacheConfig,
        *,
        frames: int,
        block: int,
        grid: tuple[int, int],
        head_dim: int,
        recached: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        capacity = config.capacity
        if capacity is None:
            raise ValueError("teacher forcing needs a cache with a window, got `window=None`")
        if frames < block or frames % block:
            raise ValueError(f"`frames` must be a multiple of the block size {block}, got {frames}")
        if recached is not None and not 0 < recached <= capacity:
            raise ValueError(f"`recached` must lie in 1..{capacity}, the cache's capacity, got {recached}")
        late = [stop for stop in range(block, frames + 1, block) if stop > capacity]
        copies = late if config.positions == "window" else []
        positions = [*range(frames), *range(frames)]
        for stop in copies:
            positions += [i + stop - capacity for i in range(config.sink)]
        turns = rotary(torch.tensor(positions, device=device), *grid, head_dim)
        tokens = grid[0] * grid[1]
        count = 2 * frames * tokens
        self.query_turn = (turns[0][:count], turns[1][:count])
        self.copy_turn = (turns[0][count:], turns[1][count:])
        self.sink_tokens, self.copies = config.sink * tokens, len(copies)
        allowed = self._frame_mask(config, frames, block, copies, recached)
        self.mask = allowed.to(device).repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)

    @staticmethod
    def _frame_mask(
        config: CacheConfig, frames: int, block: int, copies: list[int], recached: int | None
    ) -> Tensor:
        capacity, sink = config.capacity or 0, config.sink
        mask = torch.zeros(2 * frames, 2 * frames + len(copies) * sink, dtype=torch.bool)
        for start in range(0, frames, block):
            stop = start + block
            first = 0 if stop <= capacity else stop - (capacity - sink)
            clean, noisy = mask[start:stop], mask[frames + start : frames + stop]
            clean[:, first:stop] = True
            noisy[:, first:start] = True
            noisy[:, frames + start : frames + stop] = True
            if stop <= capacity:
                continue
            column = 2 * frames + copies.index(stop) * sink if copies else 0
            clean[:, column : column + sink] = noisy[:, column : column + sink] = True
        if recached is not None:
            mask[:recached, :recached] = True
        return mask

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, tap: Tap | None = None) -> Tensor:
        """See `Context.attend`."""
        q, turned = rotate(q, self.query_turn), rotate(k, self.query_turn)
        if self.copies:
            sink = k[:, : self.sink_tokens].repeat(1, self.copies, 1, 1)
            turned = torch.cat([turned, rotate(sink, self.copy_turn)], dim=1)
            v = torch.cat([v, v[:, : self.sink_tokens].repeat(1, self.copies, 1, 1)], dim=1)
        if tap is not None:
            tap.self_attention(layer, q, turned, v)
        return attention(q, turned, v, self.mask)
