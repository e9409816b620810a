"""Attention: the contexts that say what a query can see.

The transformer asks its context for attention and knows nothing of caches or masks. `FullContext` is the bidirectional
network, `CachedContext` a pass over the KV cache, `TeacherForcedContext` a whole clip at once under the cache's rules.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from studio.config import CacheConfig
from studio.model.backends import Backend, attention, widened
from studio.model.cache import CacheCall, KVCache
from studio.model.rope import Rotary, rotary, rotate

__all__ = ["CachedContext", "Context", "FullContext", "Tap", "TeacherForcedContext"]


class Tap(Protocol):
    """Listens to a forward pass; what it computes is its own affair and never changes the pass."""

    def self_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Rotated queries `[B, Lq, N, D]` and the keys and values `[B, Lk, N, D]` they see."""

    def cross_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Queries `[B, Lq, N, D]` and the prompt's keys and values `[B, Lt, N, D]`."""


class Context(Protocol):
    """What the queries of one forward pass can see in self-attention."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, tap: Tap | None = None, backend: Backend = attention
    ) -> Tensor:
        """Attention of `q` `[B, L, N, D]` over the context and the pass's own `k` and `v`, by a back end; as `q`."""
        ...


class FullContext:
    """Every token sees every token of the pass: the bidirectional network.

    Args:
        turn: Rotary turn of the pass's tokens.
    """

    def __init__(self, turn: Rotary) -> None:
        self.turn = turn

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, tap: Tap | None = None, backend: Backend = attention
    ) -> Tensor:
        """See `Context.attend`."""
        q, k = rotate(q, self.turn), rotate(k, self.turn)
        if tap is not None:
            tap.self_attention(layer, q, k, v)
        return backend(q, k, v)


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
        self._held: dict[int, tuple[Tensor, Tensor]] = {}

    def frozen(self, layer: int) -> CachedContext:
        """The same pass over a copy of one layer's keys and values as they are now.

        Activation checkpointing runs a layer again when the cache has long gone on; over this copy it computes what it
        computed then.

        Args:
            layer: The layer that will be run again.

        Returns:
            A context for that layer, for passes with gradients only.
        """
        frozen = CachedContext(self.cache, self.call)
        seen = slice(0, self.call.visible.stop)
        frozen._held = {layer: (self.cache.keys[layer][:, seen].clone(), self.cache.values[layer][:, seen].clone())}
        return frozen

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, tap: Tap | None = None, backend: Backend = attention
    ) -> Tensor:
        """See `Context.attend`."""
        call = self.call
        q = rotate(q, call.query_turn)
        keys, values = self.store(layer, k, v)
        if call.key_turn is not None:
            keys = rotate(keys, call.key_turn)
        q = q.type_as(values)
        if tap is not None:
            tap.self_attention(layer, *widened(q, keys, values))
        return backend(q, keys, values, call.mask)

    def store(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the pass's own keys and values.

        Args:
            layer: The layer.
            k: Keys of all of the pass's tokens `[B, L, N, D]`, not turned.
            v: Values, likewise.

        Returns:
            What the pass sees then, as `held`.
        """
        # Window-relative keys are held as they are, and turned when they are read.
        return self.placed(layer, k if self.call.key_turn is not None else rotate(k, self.call.query_turn), v)

    def written(self, layer: int) -> tuple[Tensor, Tensor]:
        """The slots that the pass's own keys and values go to, as views `[B, L, N, D]` of the cache.

        Args:
            layer: The layer.

        Raises:
            RuntimeError: If they have no such slots: they are kept in part, lie apart, or need gradients.
        """
        if not self.plain:
            raise RuntimeError("this pass does not write all of its keys and values side by side; use `attend`")
        return self.cache.keys[layer][:, self.call.own], self.cache.values[layer][:, self.call.own]

    @property
    def plain(self) -> bool:
        """Whether all of the pass's keys and values go into the cache, side by side."""
        own, stored = self.call.own, self.call.stored
        whole = isinstance(own, slice) and stored.start == 0 and own.stop - own.start == stored.stop
        return whole and stored.stop == len(self.call.query_turn[0]) and not self._held

    def held(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values as they are held of what the pass sees in a layer, `[B, visible, N, D]` views each.

        Args:
            layer: The layer.
        """
        visible = self.call.visible
        return self.cache.keys[layer][:, visible], self.cache.values[layer][:, visible]

    def placed(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the pass's own keys, turned if they are held so, and values; what it sees then, as `held`.

        Args:
            layer: The layer.
            k: Keys of all of the pass's tokens `[B, L, N, D]`; those are stored that the call says.
            v: Values, likewise.
        """
        k, v = k[:, self.call.stored], v[:, self.call.stored]
        own, visible = self.call.own, self.call.visible
        keys, values = self._held.get(layer) or (self.cache.keys[layer], self.cache.values[layer])
        if torch.is_grad_enabled():
            keys, values = keys.to(k.dtype, copy=True), values.to(v.dtype, copy=True)
        keys[:, own] = k.type_as(keys)
        values[:, own] = v.type_as(values)
        return keys[:, visible], values[:, visible]


class TeacherForcedContext:
    """A whole clip under the cache's rules in one pass: the sequence is [clean frames | noisy frames].

    A clean frame plays the committed cache, a noisy one the block being denoised. Each block asks only the frames that
    the cache would show it. After a switch at `recached` the earlier frames see each other fully, as a recache computes
    them. On a GPU the blocks that see nothing of each other cost nothing (FlexAttention); elsewhere, and where a clip
    is shorter than such a block or heads are too narrow, a mask hides them. No tap hears such a pass, because its keys
    are not those of one query.

    Args:
        config: Sink, window and positions.
        frames: Latent frames of the clip, a multiple of `block`.
        block: Latent frames of a block.
        grid: Token rows and columns of a latent frame.
        head_dim: Channels of a head.
        recached: Latent frame before which everything was recached, or `None`; at most the cache's capacity.
        device: Where the tables live.
        flex: Whether FlexAttention attends; `None`: on a GPU, where it can and has something to leave out.

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
        flex: bool | None = None,
    ) -> None:
        capacity = config.capacity
        if capacity is None:
            raise ValueError("teacher forcing needs a cache with a window, got `window=None`")
        if frames < block or frames % block:
            raise ValueError(f"`frames` must be a multiple of the block size {block}, got {frames}")
        if recached is not None and not 0 < recached <= capacity:
            raise ValueError(f"`recached` must lie in 1..{capacity}, the cache's capacity, got {recached}")
        self.frames, self.tokens = frames, grid[0] * grid[1]
        sights = [self._seen(config, start, block, recached) for start in range(0, frames, block)]
        sights += [self._noisy(config, start, block, frames) for start in range(0, frames, block)]
        # Where the window has rolled on, the sink's keys are turned once more, to the places that the cache gives them.
        moved: dict[tuple[int, int], int] = {}
        allowed = []
        for index, sight in enumerate(sights):
            own = index * block
            away = own % frames - sight.index(own) if config.positions == "window" else 0
            row = [False] * (2 * frames + frames // block * config.sink)
            for slot, frame in enumerate(sight):
                at = slot + away if config.positions == "window" else frame % frames
                row[frame if at == frame % frames else moved.setdefault((frame, at), 2 * frames + len(moved))] = True
            allowed += [row] * block
        table = torch.tensor(allowed, device=device)[:, : 2 * frames + len(moved)]
        positions = torch.arange(frames, device=device).repeat(2)
        self.turn = rotary(positions, *grid, head_dim)
        self.moved = torch.tensor([frame for frame, _ in moved], dtype=torch.long, device=device)
        self.moved_turn = rotary(torch.tensor([at for _, at in moved], device=device), *grid, head_dim)
        flex = _flexes(torch.device(device).type, head_dim, self.frames * self.tokens) if flex is None else flex
        self.sight = _Sight(table, self.tokens, flex)
        self.noisy_sight = _Sight(table[frames:], self.tokens, flex)
        self.memory: dict[int, tuple[Tensor, Tensor]] | None = None

    @staticmethod
    def _seen(config: CacheConfig, start: int, block: int, recached: int | None) -> list[int]:
        if recached is not None and start < recached:
            return list(range(recached))
        stop = start + block
        if stop <= (config.capacity or stop):
            return list(range(stop))
        return [*range(config.sink), *range(stop - (config.window or stop), stop)]

    @classmethod
    def _noisy(cls, config: CacheConfig, start: int, block: int, frames: int) -> list[int]:
        seen = cls._seen(config, start, block, None)
        return [f if f < start else frames + f for f in seen]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, tap: Tap | None = None, backend: Backend = attention
    ) -> Tensor:
        """See `Context.attend`."""
        if self.memory is not None:
            clean = self.frames * self.tokens
            self.memory[layer] = (k[:, :clean].detach(), v[:, :clean].detach())
        return self.sight.attend(rotate(q, self.turn), *self.placed(k, v))

    def placed(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys in their places, and the values, of all frames and of the sink wherever it has moved to."""
        if not len(self.moved):
            return rotate(k, self.turn), v
        extra_k, extra_v = (x.unflatten(1, (-1, self.tokens)).index_select(1, self.moved).flatten(1, 2) for x in (k, v))
        return torch.cat([rotate(k, self.turn), rotate(extra_k, self.moved_turn)], dim=1), torch.cat(
            [v, extra_v], dim=1
        )

    def remember(self) -> None:
        """From now on keep the clean frames' keys and values of each pass, for `noisy_only`."""
        self.memory = {}

    def noisy_only(self) -> _NoisyContext:
        """The same context for passes over the noisy frames alone, against the clean frames of the last pass.

        Raises:
            RuntimeError: If no pass was remembered.
        """
        if not self.memory:
            raise RuntimeError("no clean frames are remembered; call `remember()` and run a whole pass first")
        return _NoisyContext(self)


class _NoisyContext:
    """The noisy half of a teacher-forced pass, against remembered clean frames."""

    def __init__(self, whole: TeacherForcedContext) -> None:
        self.memory = whole.memory or {}
        self.whole = whole
        count = whole.frames * whole.tokens
        self.turn = (whole.turn[0][count:], whole.turn[1][count:])

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, tap: Tap | None = None, backend: Backend = attention
    ) -> Tensor:
        """See `Context.attend`."""
        clean_k, clean_v = self.memory[layer]
        k, v = torch.cat([clean_k.type_as(k), k], dim=1), torch.cat([clean_v.type_as(v), v], dim=1)
        return self.whole.noisy_sight.attend(rotate(q, self.turn), *self.whole.placed(k, v))


class _Sight:
    """Which frames the tokens of each frame see.

    Args:
        table: Bool `[frames that ask, frames that are asked]`.
        tokens: Tokens of a frame.
        flex: Whether FlexAttention attends.
    """

    def __init__(self, table: Tensor, tokens: int, flex: bool) -> None:
        self.mask, self.blocks = None, None
        if flex:
            from torch.nn.attention.flex_attention import create_block_mask

            self.flex_attention = _flex(table.device.type)
            # Runs of columns instead of a look-up of every pair: rows are looked up once, and comparing costs little.
            begin, end = (bound * tokens for bound in _runs(table))

            def sees(batch: Tensor, head: Tensor, asking: Tensor, asked: Tensor) -> Tensor:
                row = asking // tokens
                seen = (asked >= begin[0, row]) & (asked < end[0, row])
                for run in range(1, len(begin)):
                    seen = seen | ((asked >= begin[run, row]) & (asked < end[run, row]))
                return seen

            sizes = [count * tokens for count in table.shape]
            self.blocks = create_block_mask(sees, None, None, *sizes, device=table.device)
        else:
            self.mask = table.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Exact attention `[B, Lq, N, D]` over what each query sees of `[B, Lk, N, D]`."""
        if self.blocks is None:
            return attention(q, k, v, self.mask)
        q, k, v = (x.transpose(1, 2) for x in (q.type_as(v), k.type_as(v), v))
        return self.flex_attention(q, k, v, block_mask=self.blocks).transpose(1, 2)


def _runs(table: Tensor) -> tuple[Tensor, Tensor]:
    """Begins and ends `[R, rows]` of the runs of true columns of each row of a bool table; spare runs are empty."""
    rows = []
    for row in table.tolist():
        edges = [i for i, (a, b) in enumerate(zip([False, *row], [*row, False], strict=True)) if a != b]
        rows.append(list(zip(edges[::2], edges[1::2], strict=True)))
    most = max(len(runs) for runs in rows)
    filled = torch.tensor([[*runs, *[(0, 0)] * (most - len(runs))] for runs in rows], device=table.device)
    return filled[:, :, 0].T.contiguous(), filled[:, :, 1].T.contiguous()


def _flexes(device: str, head_dim: int, asking: int) -> bool:
    """Whether FlexAttention serves: its products have 16 channels or more, and it leaves out 128 tokens at a time."""
    return device == "cuda" and head_dim >= 16 and asking >= 128


@functools.cache
def _flex(device: str) -> Callable[..., Any]:
    # Imported here, because it takes longer to load than all of this room. On a GPU it is compiled by itself as well:
    # uncompiled it would hold every score in memory.
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False) if device == "cuda" else flex_attention
