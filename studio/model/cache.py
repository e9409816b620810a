"""The KV cache: sink and rolling window of latent frames, allocated once, every slot with its provenance.

Each layer holds `capacity` slots of one latent frame. The sink takes the first slots and stays; the window's slots form
a ring, so that rolling moves an index and never a tensor. A block that begins evicts the oldest window frames and works
in their slots: denoising steps write there and nowhere else, and only `commit` makes the slots part of the cache.

Source: LongLive (ICLR 2026), section 3; the exact rules are those measured on its public v1.0 code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from studio.config import SINK_POLICIES, CacheConfig, DiTConfig, SinkPolicy
from studio.model.backends import FP8
from studio.model.rope import Rotary, rotary

__all__ = ["CacheCall", "KVCache", "Slot"]

Role = Literal["sink", "window", "empty"]
Written = Literal["commit", "recache"]


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where one slot of the cache comes from.

    Args:
        role: "sink", "window" or "empty".
        frame: Latent frame it holds, `None` when empty.
        prompt: Index of the prompt in force when it was written.
        written: How it was written: by a "commit" or by a "recache".
        block: Block during which it was written (for a recache: the block about to begin).
    """

    role: Role
    frame: int | None = None
    prompt: int | None = None
    written: Written | None = None
    block: int | None = None


EMPTY = Slot(role="empty")


@dataclass(frozen=True, kw_only=True)
class CacheCall:
    """What one pass over the network reads and writes: token ranges, rotary turns and a mask.

    Args:
        visible: Tokens of the cache that are attended to, as a slice.
        own: `[k]` cache tokens that the pass writes; contiguous ones are given as a slice.
        stored: Tokens of the pass whose keys and values are written (the rest only ask).
        query_turn: Rotary turn of the queries, and of the keys written when positions are absolute.
        key_turn: Rotary turn of all visible keys when positions are window-relative, else `None`.
        mask: `[queries, visible]` bool, `True` where a query may look, or `None` for everything.
    """

    visible: slice
    own: slice | Tensor
    stored: slice
    query_turn: Rotary
    key_turn: Rotary | None
    mask: Tensor | None = None


class KVCache:
    """Keys and values of the latent frames that the next block can see, for every layer.

    Args:
        config: Sink, window, positions and policies.
        dit: Sizes of the network the cache belongs to.
        grid: Token rows and columns of a latent frame.
        latents: Channels, rows and columns of a latent frame (kept for the recache).
        block: Latent frames of a block.
        batch: Videos side by side.
        frames: Length of the video in latent frames; needed, and used, only when `config.window` is `None`.
        device: Where the cache lives.
        dtype: Type of keys, values and latents; latents stay bfloat16 where keys and values are FP8.

    Raises:
        ValueError: If `frames` is missing for a cache without a window, or a size is not positive.

    Attributes:
        keys: One tensor a layer, `[B, capacity * tokens, N, D]`; un-rotated for window-relative positions.
        values: One tensor a layer, same shape.
        end: Latent frames committed so far, which is the next block's first frame.
        origin: First latent frame since the cache was last cleared (or since its sink was last rewritten).
    """

    def __init__(
        self,
        config: CacheConfig,
        dit: DiTConfig,
        *,
        grid: tuple[int, int],
        latents: tuple[int, int, int],
        block: int,
        batch: int = 1,
        frames: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        capacity = config.capacity if config.capacity is not None else frames
        if capacity is None:
            raise ValueError("`frames` must be given for a cache without a window; use the length in latent frames")
        if min(capacity, block, batch) < 1:
            raise ValueError(f"`frames`, `block` and `batch` must be at least 1, got {capacity}, {block}, {batch}")
        if capacity < block:
            raise ValueError(f"the cache must hold at least one block of {block} latent frames, got {capacity}")
        self.config, self.grid, self.block, self.capacity = config, grid, block, capacity
        self.head_dim, self.tokens = dit.head_dim, grid[0] * grid[1]
        shape = (batch, capacity * self.tokens, dit.heads, dit.head_dim)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(dit.layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(dit.layers)]
        kept = torch.bfloat16 if dtype == FP8 else dtype
        self._recent = torch.zeros((batch, capacity, *latents), device=device, dtype=kept)
        self._slots = [EMPTY] * capacity
        self.end = self.origin = 0
        self.abandoned = 0
        self._begun: int | None = None

    @property
    def device(self) -> torch.device:
        """Where the cache lives."""
        return self._recent.device

    @property
    def length(self) -> int:
        """Tokens that a layer holds when it is full."""
        return self.capacity * self.tokens

    @property
    def nbytes(self) -> int:
        """Bytes allocated, constant for the cache's life."""
        tensors = [*self.keys, *self.values, self._recent]
        return sum(t.numel() * t.element_size() for t in tensors)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Provenance in logical order: the sink, then the window from old to new, then empty slots."""
        return tuple(self._slots[i] for i in self.order())

    @property
    def begun(self) -> bool:
        """Whether a block has begun and is not committed yet."""
        return self._begun is not None

    @property
    def rolled(self) -> bool:
        """Whether a frame has been evicted since the origin."""
        return self.end - self.origin > self.capacity

    def order(self) -> list[int]:
        """Physical slot of each logical position: sink first, then the window from old to new, then empty ones."""
        sink = self.config.sink

        def key(index: int) -> tuple[int, int]:
            slot = self._slots[index]
            if slot.role == "empty":
                return 2, index
            return (0 if index < sink else 1), slot.frame or 0

        return sorted(range(self.capacity), key=key)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer in logical order (a copy, for views and tests).

        Args:
            index: Layer, 0 to layers - 1.

        Returns:
            Two tensors `[B, capacity * tokens, N, D]`.
        """
        ids = self._token_index(self.order())
        return self.keys[index][:, ids], self.values[index][:, ids]

    def visible_frames(self) -> tuple[int, ...]:
        """Latent frames of the occupied slots in logical order."""
        return tuple(slot.frame for slot in self.slots if slot.frame is not None)

    # -- one block ----------------------------------------------------------------------------------------------

    def begin(self) -> CacheCall:
        """Make room for the next block and describe the passes over it.

        Evicts the oldest window frames where the cache is full. Calling it again before the commit changes nothing.

        Returns:
            What each denoising step and the commit of this block read and write.

        Raises:
            RuntimeError: If a cache without a window has no room left.
        """
        frames = range(self.end, self.end + self.block)
        if self.config.window is None and frames.stop - self.origin > self.capacity:
            raise RuntimeError(
                f"the cache holds {self.capacity} latent frames and they are used up; "
                "make it with a larger `frames` or with a window"
            )
        own = [self._slot_of(frame) for frame in frames]
        if self._begun != self.end:
            for index in own:
                self._slots[index] = EMPTY
            self._begun = self.end
        return self._call(list(frames), own, slice(0, len(frames)))

    def commit(self, latents: Tensor, *, prompt: int) -> None:
        """Take over the block whose keys and values the commit pass has just written.

        Args:
            latents: Clean latents of the block `[B, block, C, H, W]`.
            prompt: Index of the prompt in force.

        Raises:
            RuntimeError: If no block has begun.
            ValueError: If `latents` has another shape.
        """
        if self._begun != self.end:
            raise RuntimeError("no block has begun; call `begin()` and run the commit pass first")
        expected = (self._recent.shape[0], self.block, *self._recent.shape[2:])
        if tuple(latents.shape) != expected:
            raise ValueError(f"`latents` must have shape {list(expected)}, got {list(latents.shape)}")
        for i in range(self.block):
            frame = self.end + i
            index = self._slot_of(frame)
            self._slots[index] = self._slot(index, frame, prompt, "commit")
            self._recent[:, frame % self.capacity] = latents[:, i].detach()
        self.end += self.block
        self._begun = None

    def abandon(self) -> None:
        """Give the block up that has begun, if one has: it may begin again, after a switch as well.

        The frames that it evicted stay evicted, as they would be seen by no later block; a recache makes them again.
        """
        if self._begun is not None:
            self.abandoned += 1
            self._begun = None

    # -- a switch -----------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget every slot; the next block sees only itself and becomes the new sink. The frame count goes on."""
        for tensor in (*self.keys, *self.values):
            tensor.zero_()
        self._slots = [EMPTY] * self.capacity
        self.origin, self._begun = self.end, None

    def begin_recache(self, sink_policy: SinkPolicy | None = None) -> tuple[Tensor, CacheCall]:
        """Describe the single pass that recomputes the cache from the latents it was made of.

        Under "keep", once the window has rolled, the sink's slots stay as they are: the first recached frames ask, but
        their keys and values are dropped. Under "rewrite" they become the new sink.

        Args:
            sink_policy: Overrides the configuration's.

        Returns:
            The latents to run, `[B, f, C, H, W]`, and the call.

        Raises:
            ValueError: If there is no such sink policy.
            RuntimeError: If nothing was generated since the cache was cleared, or a block is half done.
        """
        if sink_policy is not None and sink_policy not in SINK_POLICIES:
            raise ValueError(f"`sink_policy` must be one of {', '.join(SINK_POLICIES)} or None, got {sink_policy!r}")
        if self._begun is not None:
            raise RuntimeError("a block has begun; commit it before a recache")
        if self.end == self.origin:
            raise RuntimeError("the cache is empty; there is nothing to recache")
        count = self._recached()
        first = self.end - count
        frames = list(range(first, self.end))
        kept = 0
        if self.rolled and self.config.window is not None:
            if (sink_policy or self.config.sink_policy) == "keep":
                kept = self.config.sink
            else:
                self.clear()
                self.origin = first
        own = [self._slot_of(frame) for frame in frames[kept:]]
        latents = torch.stack([self._recent[:, frame % self.capacity] for frame in frames], dim=1)
        call = self._call(frames, own, slice(kept, count), recache=True)
        return latents, call

    def end_recache(self, *, prompt: int) -> None:
        """Record that the recache pass has rewritten its slots.

        Args:
            prompt: Index of the new prompt.
        """
        for frame in range(self.end - self._recached(), self.end):
            index = self._slot_of(frame)
            holds = self._slots[index]
            if self.rolled and index < self.config.sink:
                continue  # an old sink that was kept
            if holds.frame in (None, frame):
                self._slots[index] = self._slot(index, frame, prompt, "recache")

    def restore(self, latents: Tensor, *, end: int, keep_sink: bool = False) -> None:
        """Take over a video generated elsewhere, so that a recache can rebuild the cache from it.

        Args:
            latents: The last latent frames of the video `[B, f, C, H, W]`; with `f` below the capacity, all that the
                cache was made of. Any number will do: a rewritten sink may begin within a block.
            end: Latent frames of the whole video, a multiple of the block size.
            keep_sink: Leave the sink's slots and the origin as they are: the video goes on from a later frame.

        Raises:
            ValueError: If the frames do not fit, or with `keep_sink` the video has not rolled by `end`.
        """
        count = latents.shape[1]
        if count > end:
            raise ValueError(f"`latents` must be at most the {end} frames of `end`, got {count}")
        if end % self.block:
            raise ValueError(f"`end` must be a multiple of the block size {self.block}, got {end}")
        keep = min(count, self.capacity)
        if keep_sink:
            if end - self.origin <= self.capacity:
                raise ValueError(f"`end` must be past the {self.capacity} frames since {self.origin}, got {end}")
            self._slots[self.config.sink :] = [EMPTY] * (self.capacity - self.config.sink)
            self.end, self._begun = end, None
        else:
            self.clear()
            self.end, self.origin = end, end - keep
        for i, frame in enumerate(range(end - keep, end)):
            self._recent[:, frame % self.capacity] = latents[:, count - keep + i].detach()

    def tensors(self) -> dict[str, Tensor]:
        """The cache's own tensors by name, to be kept with `state`."""
        found = {f"keys.{layer}": tensor for layer, tensor in enumerate(self.keys)}
        found |= {f"values.{layer}": tensor for layer, tensor in enumerate(self.values)}
        return {**found, "recent": self._recent}

    def state(self) -> dict[str, Any]:
        """What the next block depends on besides `tensors`, ready for JSON.

        Raises:
            RuntimeError: If a block is half done.
        """
        if self._begun is not None:
            raise RuntimeError("a block has begun; commit it before the cache is kept")
        return {"end": self.end, "origin": self.origin, "slots": [dataclasses.asdict(slot) for slot in self._slots]}

    def restore_state(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Become the cache whose `state` and `tensors` were kept.

        Args:
            state: What `state` gave; other keys are left alone.
            tensors: What `tensors` gave, on any device; other names are left alone.

        Raises:
            ValueError: If something is missing, misshapen or of another kind; nothing was changed then.
        """
        mine = self.tensors()
        for name, tensor in mine.items():
            if not isinstance(kept := tensors.get(name), Tensor) or kept.shape != tensor.shape:
                raise ValueError(f"`{name}` of a kept cache must have shape {list(tensor.shape)}")
        given = state.get("slots")
        if not isinstance(given, (list, tuple)) or len(given) != self.capacity:
            raise ValueError(f"`slots` of a kept cache must be {self.capacity}, the capacity")
        slots = [_kept_slot(slot, number) for number, slot in enumerate(given)]
        end, origin = (_kept_whole(state.get(name), name) for name in ("end", "origin"))
        if end % self.block or origin > end:
            raise ValueError(
                f"`end` of a kept cache must be whole blocks of {self.block}, not before `origin` {origin}, got {end}"
            )
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])
        self._slots, self.end, self.origin, self._begun = slots, end, origin, None

    # -- inside -------------------------------------------------------------------------------------------------

    def _recached(self) -> int:
        """Latent frames that a recache runs: the latest that the next block can see."""
        limit = self.capacity if self.config.attend is None else min(self.capacity, self.config.attend)
        return min(limit, self.end - self.origin)

    def _slot_of(self, frame: int) -> int:
        local, sink = frame - self.origin, self.config.sink
        if local < self.capacity:
            return local
        return sink + (local - sink) % (self.capacity - sink)

    def _slot(self, index: int, frame: int, prompt: int, written: Written) -> Slot:
        role: Role = "sink" if index < self.config.sink else "window"
        return Slot(role=role, frame=frame, prompt=prompt, written=written, block=self.end // self.block)

    def _token_index(self, slots: list[int]) -> Tensor:
        starts = _sent(slots, self.device) * self.tokens
        return (starts[:, None] + torch.arange(self.tokens, device=self.device)).flatten()

    def _tokens(self, slots: list[int]) -> slice | Tensor:
        if slots == list(range(slots[0], slots[0] + len(slots))):
            return slice(slots[0] * self.tokens, (slots[-1] + 1) * self.tokens)
        return self._token_index(slots)

    def _turn(self, positions: list[int]) -> Rotary:
        return rotary(_sent(positions, self.device), *self.grid, self.head_dim)

    def _call(self, frames: list[int], own: list[int], stored: slice, recache: bool = False) -> CacheCall:
        stop = min(frames[-1] + 1 - self.origin, self.capacity)
        start = 0 if self.config.attend is None else max(0, stop - self.config.attend)
        holds = {index: slot.frame for index, slot in enumerate(self._slots)}
        holds.update(zip(own, frames[stored], strict=True))
        if self.config.positions == "window":
            ages = sorted(range(start, stop), key=lambda i: (i >= self.config.sink, holds[i] or 0))
            rank = {index: position for position, index in enumerate(ages)}
            last = stop - start
            query_turn = self._turn(list(range(last - len(frames), last)))
            key_turn = self._turn([rank[index] for index in range(start, stop)])
        else:
            query_turn, key_turn = self._turn(frames), None
        mask = None
        if recache and self.config.recache_mask == "block_causal":
            mask = self._block_causal(frames, [holds[index] or 0 for index in range(start, stop)])
        token = self.tokens
        return CacheCall(
            visible=slice(start * token, stop * token),
            own=self._tokens(own),
            stored=slice(stored.start * token, stored.stop * token),
            query_turn=query_turn,
            key_turn=key_turn,
            mask=mask,
        )

    def _block_causal(self, queries: list[int], keys: list[int]) -> Tensor:
        asks = torch.tensor(queries, device=self.device) // self.block
        holds = torch.tensor(keys, device=self.device) // self.block
        frames = asks[:, None] >= holds[None, :]
        return frames.repeat_interleave(self.tokens, 0).repeat_interleave(self.tokens, 1)


def _kept_slot(given: Any, number: int) -> Slot:
    """One slot of a kept cache, checked."""
    where, names = f"slots[{number}]", [field.name for field in dataclasses.fields(Slot)]
    if not isinstance(given, Mapping) or "role" not in given or not set(given) <= set(names):
        raise ValueError(f"`{where}` of a kept cache must have the keys {', '.join(names)}, got {given!r}")
    empty = given["role"] == "empty"
    if given["role"] not in get_args(Role) or given.get("written") not in ((None,) if empty else get_args(Written)):
        raise ValueError(f"`{where}` of a kept cache must have a known role and way it was written, got {given!r}")
    for name in ("frame", "prompt", "block"):
        if given.get(name) is not None or (name == "frame" and not empty):
            _kept_whole(given.get(name), f"{where}.{name}")
    return Slot(**given)


def _kept_whole(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"`{name}` of a kept cache must be a whole number of at least 0, got {value!r}")
    return value


def _sent(numbers: list[int], device: torch.device) -> Tensor:
    """Whole numbers on a device, without waiting for it."""
    first, count = numbers[0], len(numbers)
    if numbers == list(range(first, first + count)):
        return torch.arange(first, first + count, device=device)
    pinned = device.type == "cuda"
    return torch.tensor(numbers, pin_memory=pinned).to(device, non_blocking=pinned)
