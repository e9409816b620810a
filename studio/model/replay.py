"""Passes over the cache recorded once and replayed: one launch in the place of hundreds.

A block's denoising steps are the same pass with other numbers in it: noisy latents, time, rotary turn and the prompt's
keys and values. All of these go through buffers that stay where they are, so that one CUDA graph serves each place in
the ring of the cache, and another the commit there, whose last layer ends early. What differs in more than numbers (a
recache, a listener, an adapter beside the weights) runs as it always does.

Source: CUDA graphs as in `torch.cuda.CUDAGraph`.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from studio.model.attention import CachedContext
from studio.model.backends import Backend
from studio.model.cache import CacheCall, KVCache
from studio.model.layers import PromptKV

__all__ = ["Recorder", "Replays", "cuda_recorder"]

logger = logging.getLogger(__name__)

Run = Callable[[], Tensor]
Prompt = tuple[PromptKV, ...]
# Latents, timesteps, prompt, context, no listener, and whether the flow is wanted.
Pass = Callable[[Tensor, Tensor, Prompt, CachedContext, None, bool], Tensor]
# Caches that live side by side, as forks do; each needs recordings of its own.
_CACHES = 2


class Recorder(Protocol):
    """Records a run over buffers that stay where they are."""

    def __call__(self, run: Run) -> tuple[Callable[[], None], Tensor]:
        """What repeats the run, and where each repetition leaves its result."""
        ...


def cuda_recorder(device: torch.device) -> Recorder:
    """Records runs as CUDA graphs that share one pool of memory.

    Args:
        device: The GPU.
    """
    pool = torch.cuda.graph_pool_handle()

    def record(run: Run) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(device)
        # Other threads may go on to use the GPU while this one records.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            out = run()
        return graph.replay, out

    return record


@dataclass(kw_only=True)
class _Recordings:
    """What was recorded over one cache.

    Args:
        call: The pass that was recorded, its turns being buffers.
        x: Buffer of the latents.
        timestep: Buffer of the timesteps.
        prompt: Buffers of the prompt's keys and values.
        filled: The prompt that they hold.
        inference: Whether the buffers are of inference mode, in which alone they may be written then.
        made: By place in the cache, what repeats the pass there and its result.
    """

    call: CacheCall
    x: Tensor
    timestep: Tensor
    prompt: Prompt
    filled: weakref.ref[Any] | None
    inference: bool
    made: dict[Any, tuple[Callable[[], None], Tensor]]


class Replays:
    """Runs passes of one shape over caches, recorded when they come by for the second time.

    Args:
        run: The pass: latents, timesteps, the prompt's keys and values, the context, no tap and whether the flow is
            wanted, to the flow.
        modules: The network's modules; a hook on one of them is not replayed, so the pass is not either.
        recorder: What records; `None` for CUDA graphs on the device of the first pass.

    Attributes:
        fault: Why nothing is recorded, a sentence; empty while all is well.
    """

    def __init__(self, run: Pass, modules: nn.Module, recorder: Callable[[], Recorder] | None = None) -> None:
        self._run = run
        self._hooked = [module._forward_hooks for module in modules.modules() if module is not modules]
        self._recorder, self._record = recorder, None
        self._of: weakref.WeakKeyDictionary[KVCache, _Recordings] = weakref.WeakKeyDictionary()
        self._met: weakref.WeakKeyDictionary[KVCache, set[Any]] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self.fault = ""

    @property
    def recorded(self) -> int:
        """Recordings there are."""
        return sum(len(recordings.made) for recordings in self._of.values())

    def runs(self, context: Any) -> bool:
        """Whether a pass can be replayed, or recorded to be replayed later."""
        if self.fault or not isinstance(context, CachedContext) or torch.is_grad_enabled() or any(self._hooked):
            return False
        # Until a window is full its blocks see more and more, and what is recorded would not come by again.
        full = context.cache.config.window is not None and _ends(context.call.visible) == (0, context.cache.length)
        return full and context.plain and context.call.mask is None

    def __call__(
        self,
        x: Tensor,
        timestep: Tensor,
        condition: Any,
        context: CachedContext,
        backend: Backend,
        flow: bool = True,
    ) -> Tensor | None:
        """Replay a pass.

        Args:
            x: Latents `[B, F, C, H, W]`.
            timestep: `[B, F]`.
            condition: The prompt's keys and values as `layers`.
            context: The pass over the cache.
            backend: What computes attention.
            flow: Whether the flow is wanted.

        Returns:
            The flow `[B, F, C, H, W]`, if wanted; `None` if the pass has to be run as it is, as the first at its place.
        """
        cache, call = context.cache, context.call
        key = (*_ends(call.own), tuple(x.shape), tuple(timestep.shape), backend.name, flow)
        met = self._met.setdefault(cache, set())
        if key not in met:
            met.add(key)
            return None
        # Recordings share their memory, so that no two of them may be under way, whoever asks.
        with self._lock:
            buffers = self._buffers(cache, x, timestep, condition, call)
            if buffers is None:
                return None
            self._fill(buffers, x, timestep, condition, call)
            if key not in buffers.made:
                try:
                    buffers.made[key] = self._recording(buffers, cache, call, flow)
                except Exception as error:  # Whatever a driver or a kernel has against it, the pass itself can be run.
                    self._give_up(error)
                    return None
            repeat, out = buffers.made[key]
            repeat()
            return out.clone()

    def _give_up(self, error: Exception) -> None:
        first = error
        while first.__context__ is not None and isinstance(first.__context__, Exception):
            first = first.__context__  # What went wrong in a recording, before what ended it complained as well.
        self.fault = f"{type(first).__name__}: {(str(first).strip() or 'no reason given').splitlines()[0]}"
        self._of.clear()
        logger.warning("passes are not recorded: %s", self.fault)

    def _recording(
        self, buffers: _Recordings, cache: KVCache, call: CacheCall, flow: bool
    ) -> tuple[Callable[[], None], Tensor]:
        if self._record is None or not self.recorded:
            # The memory that recordings share goes with the last of them, and so does the recorder.
            self._record = self._recorder() if self._recorder else cuda_recorder(cache.device)
        context = CachedContext(cache, replace(buffers.call, own=call.own, visible=call.visible))

        def run() -> Tensor:
            return self._run(buffers.x, buffers.timestep, buffers.prompt, context, None, flow)

        run()  # Whatever has to be compiled or set up for these buffers cannot be while a recording is under way.
        return self._record(run)

    def _buffers(
        self, cache: KVCache, x: Tensor, timestep: Tensor, condition: Any, call: CacheCall
    ) -> _Recordings | None:
        found, mode = self._of.get(cache), torch.is_inference_mode_enabled()
        if found is not None and found.inference != mode:
            # Compiled kernels are made for one kind of tensors as well: those of the passes as they come by.
            del self._of[cache]
            found = None
        if found is None and len(self._of) < _CACHES:
            turns = _like(call.query_turn), None if call.key_turn is None else _like(call.key_turn)
            found = self._of[cache] = _Recordings(
                call=replace(call, query_turn=turns[0], key_turn=turns[1]),
                x=torch.empty_like(x),
                timestep=torch.empty_like(timestep, memory_format=torch.contiguous_format),
                prompt=tuple((torch.empty_like(k), torch.empty_like(v)) for k, v in condition.layers),
                filled=None,
                inference=mode,
                made={},
            )
        return found

    @staticmethod
    def _fill(buffers: _Recordings, x: Tensor, timestep: Tensor, condition: Any, call: CacheCall) -> None:
        buffers.x.copy_(x)
        buffers.timestep.copy_(timestep)
        turns = [(buffers.call.query_turn, call.query_turn)]
        if buffers.call.key_turn is not None and call.key_turn is not None:
            turns.append((buffers.call.key_turn, call.key_turn))
        for held, given in turns:
            for mine, yours in zip(held, given, strict=True):
                mine.copy_(yours)
        if buffers.filled is None or buffers.filled() is not condition:
            for held, given in zip(buffers.prompt, condition.layers, strict=True):
                for mine, yours in zip(held, given, strict=True):
                    mine.copy_(yours)
            buffers.filled = weakref.ref(condition)


def _ends(tokens: Any) -> tuple[int, int]:
    return tokens.start, tokens.stop


def _like(turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.empty_like(turn[0]), torch.empty_like(turn[1])
