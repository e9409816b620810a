"""Watching a network's passes: which block and step a pass belongs to, and which latent frame each key is of.

A watch hangs two hooks on the network and hands every listener the pass that begins and the pass that has ended. A
listener may answer with a tap, which the pass then takes along. Nothing is left behind once the watch is closed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol

from torch import Tensor

from studio.config import SamplerConfig
from studio.model.attention import CachedContext, FullContext, Tap
from studio.model.cache import CacheCall, KVCache, Slot
from studio.model.dit import Condition, WanDiT
from studio.schedule import FlowSchedule

__all__ = ["Listener", "Pass", "PassKind", "Watch"]

PassKind = Literal["denoise", "commit", "recache", "clip"]

# Warped timesteps are float32 of up to 1000; two different table entries lie further apart.
_SAME_TIMESTEP = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """One forward pass of the network and what its self-attention can see.

    Args:
        kind: "denoise", "commit" or "recache" of a cached rollout, or "clip" for the bidirectional network.
        block: Block that is made; for a recache the block about to begin, for a clip 0.
        step: Denoising step, from 0; `None` for any other pass.
        timestep: Timestep of the pass's first latent frame, 0 to 1000.
        frames: Latent frames that ask, in the order of the queries.
        slots: What each visible slot holds, in the order of the keys. Slots that the pass itself writes have their
            frame and role, but neither prompt nor way of writing yet.
        places: Physical slot of the cache that each visible slot is; for a clip its latent frame.
        stored: Latent frames whose keys and values the pass writes.
        grid: Token rows and columns of a latent frame.
        mask: `[queries, keys]` bool, `True` where a query may look, or `None` for everything.
        text: The text embeddings or the condition in force.
        cache: The cache, or `None` for a clip.
    """

    kind: PassKind
    block: int
    step: int | None
    timestep: float
    frames: tuple[int, ...]
    slots: tuple[Slot, ...]
    places: tuple[int, ...]
    stored: tuple[int, ...]
    grid: tuple[int, int]
    mask: Tensor | None
    text: Tensor | Condition
    cache: KVCache | None

    @property
    def tokens(self) -> int:
        """Tokens of one latent frame."""
        return self.grid[0] * self.grid[1]


class Listener(Protocol):
    """Hears of every pass; what it computes never changes one."""

    def begin(self, call: Pass) -> Tap | None:
        """A pass is about to run; the tap returned listens to it."""

    def end(self, call: Pass) -> None:
        """The pass has run; the cache's slots hold what it wrote, a commit is not yet in the provenance."""


class Watch:
    """Lets listeners hear every pass of a network until it is closed.

    Works wherever the network is called: in a rollout, a live session or by hand. Passes of whole clips under the
    cache's rules (teacher forcing) are not heard. Use it as a context manager.

    Args:
        dit: The network.
        sampler: Steps and commit timestep of the rollout, by which passes are told apart.
        listeners: Who hears of the passes, in this order.
        cache: Hear only passes over this cache, where several takes share a network; `None` hears all.
        schedule: The rollout's schedule; `None` for the sampler's own.

    Raises:
        ValueError: If there is no listener.
    """

    def __init__(
        self,
        dit: WanDiT,
        sampler: SamplerConfig,
        *listeners: Listener,
        cache: KVCache | None = None,
        schedule: FlowSchedule | None = None,
    ) -> None:
        if not listeners:
            raise ValueError("`listeners` must name at least one listener, got none; give a probe or a check")
        schedule = schedule or FlowSchedule(shift=sampler.shift)
        self._dit, self._sampler, self._listeners, self._cache = dit, sampler, listeners, cache
        self._timesteps = [float(t) for t in schedule.warp(sampler.steps)]
        self._open: dict[int, Pass] = {}
        # Cache, block, how often blocks were given up, and denoising passes heard since.
        self._made: tuple[int, int, int, int] = (-1, -1, 0, 0)
        self._handles = [
            dit.register_forward_pre_hook(self._before, with_kwargs=True),
            dit.register_forward_hook(self._after, with_kwargs=True),
        ]

    def close(self) -> None:
        """Stop listening; calling it again does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Where another thread closes the watch just as a pass begins, torch calls the hooks without the keywords.
    def _before(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        if kwargs is None:
            return None
        thread = threading.get_ident()
        self._open.pop(thread, None)  # a pass that failed never ends
        call = self._describe(*args, **kwargs)
        if call is None:
            return None
        self._open[thread] = call
        given = kwargs.get("tap")
        taps = [tap for tap in (given, *(listener.begin(call) for listener in self._listeners)) if tap is not None]
        if not taps:
            return None
        return args, {**kwargs, "tap": taps[0] if len(taps) == 1 else _Taps(taps)}

    def _after(self, *_: Any) -> None:
        call = self._open.pop(threading.get_ident(), None)
        if call is not None:
            for listener in self._listeners:
                listener.end(call)

    def _describe(
        self, x: Tensor, timestep: Tensor, text: Tensor | Condition, *, context: Any = None, **_: Any
    ) -> Pass | None:
        grid = self._dit.grid(x)
        now = float(timestep.flatten()[0])
        if context is None or isinstance(context, FullContext):
            return None if self._cache is not None else _clip(x.shape[1], now, grid, text)
        if not isinstance(context, CachedContext) or (self._cache is not None and context.cache is not self._cache):
            return None
        cache, call = context.cache, context.call
        if x.shape[1] * cache.tokens != len(call.query_turn[0]):
            return None  # the network itself says what is wrong
        # A block has begun exactly when its passes run; only a recache runs without one.
        if not cache.begun:
            kind, step, frames = "recache", None, tuple(range(cache.end - x.shape[1], cache.end))
        else:
            kind, step = self._place(cache, now)
            frames = tuple(range(cache.end, cache.end + x.shape[1]))
        stored = frames[call.stored.start // cache.tokens : call.stored.stop // cache.tokens]
        places = tuple(range(call.visible.start // cache.tokens, call.visible.stop // cache.tokens))
        holds = _holds(cache, call, stored)
        return Pass(
            kind=kind,
            block=cache.end // cache.block,
            step=step,
            timestep=now,
            frames=frames,
            slots=tuple(holds[place] for place in places),
            places=places,
            stored=stored,
            grid=grid,
            mask=call.mask,
            text=text,
            cache=cache,
        )

    def _place(self, cache: KVCache, now: float) -> tuple[PassKind, int | None]:
        block = cache.end // cache.block
        if self._made[:3] != (id(cache), block, cache.abandoned):
            self._made = (id(cache), block, cache.abandoned, 0)
        count = self._made[3]
        step = next((i for i, t in enumerate(self._timesteps) if abs(t - now) < _SAME_TIMESTEP), None)
        commits = abs(now - self._sampler.context_timestep) < _SAME_TIMESTEP
        # Where the commit has the timestep of a step, the step comes first.
        if commits and (step is None or count > step):
            return "commit", None
        self._made = (id(cache), block, cache.abandoned, count + 1)
        return "denoise", count if step is None else step


class _Taps:
    """Several taps as one."""

    def __init__(self, taps: Sequence[Tap]) -> None:
        self._taps = taps

    def self_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> None:
        """See `Tap.self_attention`."""
        for tap in self._taps:
            tap.self_attention(layer, q, k, v)

    def cross_attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> None:
        """See `Tap.cross_attention`."""
        for tap in self._taps:
            tap.cross_attention(layer, q, k, v)


def _clip(count: int, timestep: float, grid: tuple[int, int], text: Tensor | Condition) -> Pass:
    frames = tuple(range(count))
    return Pass(
        kind="clip",
        block=0,
        step=None,
        timestep=timestep,
        frames=frames,
        slots=tuple(Slot(role="window", frame=frame, block=0) for frame in frames),
        places=frames,
        stored=(),
        grid=grid,
        mask=None,
        text=text,
        cache=None,
    )


def _holds(cache: KVCache, call: CacheCall, stored: tuple[int, ...]) -> dict[int, Slot]:
    """What each physical slot holds during a pass."""
    holds = dict(zip(cache.order(), cache.slots, strict=True))
    for index, frame in zip(_own_slots(cache, call), stored, strict=True):
        role = "sink" if index < cache.config.sink else "window"
        holds[index] = Slot(role=role, frame=frame, block=cache.end // cache.block)
    return holds


def _own_slots(cache: KVCache, call: CacheCall) -> list[int]:
    if isinstance(call.own, slice):
        return list(range(call.own.start // cache.tokens, call.own.stop // cache.tokens))
    return (call.own[:: cache.tokens] // cache.tokens).tolist()
