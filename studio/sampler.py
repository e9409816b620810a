"""Loop: denoise a block, commit it, recache at a switch, and roll a whole video out of these three.

One rollout serves playing and training. It knows no ranks, loggers or files; live prompts and training switches enter
by the same plan, which is asked once at each block boundary.

Source: Self-Forcing (arXiv:2506.08009) for the cached few-step rollout; LongLive (ICLR 2026) for the recache.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from studio.config import POLICIES, SINK_POLICIES, ModelConfig, Policy, SamplerConfig, SinkPolicy
from studio.model.attention import CachedContext, Tap
from studio.model.cache import KVCache
from studio.model.dit import Condition, WanDiT
from studio.schedule import FlowSchedule
from studio.shapes import VideoShape

__all__ = [
    "Block",
    "BlockPlan",
    "NoiseSource",
    "PartsWatch",
    "Revoked",
    "commit",
    "denoise_block",
    "make_cache",
    "recache",
    "rollout",
    "switch",
]


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """What the next block is made of.

    Args:
        text: Text embeddings `[B, text_len, text_dim]`.
        prompt: Index of the prompt, for the cache's provenance.
        policy: A switch at this block's start, and how the cache takes it; `None` for no switch.
        sink_policy: Overrides the cache's sink policy for this switch.
        exit_step: Denoising step after which the block is taken as it is; `None` for the last.
        gradient: Whether the exit step carries gradient.

    Raises:
        ValueError: If there is no such policy or sink policy.
    """

    text: Tensor
    prompt: int = 0
    policy: Policy | None = None
    sink_policy: SinkPolicy | None = None
    exit_step: int | None = None
    gradient: bool = False

    def __post_init__(self) -> None:
        asked = ("policy", self.policy, POLICIES), ("sink_policy", self.sink_policy, SINK_POLICIES)
        for name, value, choices in asked:
            if value is not None and value not in choices:
                raise ValueError(f"`{name}` must be None or one of {', '.join(choices)}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One finished block.

    Args:
        index: Index of the block in the video.
        first_frame: Its first latent frame.
        latents: Clean latents `[B, block, C, H, W]`; with gradient if the plan asked for it.
        prompt: Index of the prompt in force.
        policy: The switch taken at its start, or `None`.
        seconds: Seconds of "recache", "denoise" and "commit"; asking for them waits for a GPU to end the block.
    """

    index: int
    first_frame: int
    latents: Tensor
    prompt: int
    policy: Policy | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


Noise = Callable[[int, int], Tensor]


class Revoked(Exception):
    """Raised by the noise of a rollout to give up the block under way; the plan is then asked for the block again."""


class NoiseSource:
    """Noise by seed, block and step alone, so that any block can be drawn again without its past.

    Args:
        seed: Any whole number.
        shape: Shape of a block's latents `[B, f, C, H, W]`.
        device: Where the noise is wanted; it is drawn on the CPU, so that devices agree.
        dtype: Its type.
    """

    def __init__(
        self,
        seed: int,
        shape: tuple[int, ...],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.seed, self.shape, self.device, self.dtype = int(seed), tuple(shape), device, dtype
        self._ahead: tuple[tuple[int, int], Tensor] | None = None

    def ahead(self, block: int, step: int) -> None:
        """Draw noise that will be asked for next, while a GPU is still busy.

        Args:
            block: As in a call.
            step: As in a call.
        """
        self._ahead = (block, step), self._drawn(block, step)

    def __call__(self, block: int, step: int) -> Tensor:
        """Noise of one step of one block.

        Args:
            block: Block index, at least 0.
            step: 0 for the block's first input, s for the noise that re-noises before step s.

        Returns:
            Standard normal noise of the source's shape.
        """
        which, drawn = self._ahead or (None, None)
        if drawn is None or which != (block, step):
            drawn = self._drawn(block, step)
        self._ahead = None
        return drawn.to(self.device, non_blocking=drawn.is_pinned()).to(self.dtype)

    def _drawn(self, block: int, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(_mix(self.seed, block, step))
        # From pinned memory a GPU fetches it by itself, while this thread goes on to queue what needs it.
        return torch.randn(self.shape, generator=generator, pin_memory=torch.device(self.device).type == "cuda")


def _mix(*parts: int) -> int:
    # splitmix64 over the parts: neighbouring seeds, blocks and steps must not share streams.
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state + (part & 0xFFFFFFFFFFFFFFFF) + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state & 0x7FFFFFFFFFFFFFFF


def make_cache(
    config: ModelConfig,
    *,
    batch: int = 1,
    frames: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> KVCache:
    """Allocate the cache that a model's rollout needs.

    Args:
        config: The model's configuration.
        batch: Videos side by side.
        frames: Length in latent frames, for a cache without a window.
        device: Where it lives.
        dtype: Its type.

    Returns:
        An empty cache.
    """
    shape = VideoShape.of(config)
    return KVCache(
        config.cache,
        config.dit,
        grid=shape.grid,
        latents=(shape.latent_channels, shape.latent_height, shape.latent_width),
        block=config.sampler.block,
        batch=batch,
        frames=frames,
        device=device,
        dtype=dtype,
    )


def denoise_block(
    dit: WanDiT,
    cache: KVCache,
    text: Tensor | Condition,
    noise: Noise,
    sampler: SamplerConfig,
    schedule: FlowSchedule,
    *,
    exit_step: int | None = None,
    gradient: bool = False,
    tap: Tap | None = None,
) -> Tensor:
    """Denoise the next block against the cache, without making it part of the cache.

    Args:
        dit: The network.
        cache: The cache; its next block begins here.
        text: Text embeddings `[B, text_len, text_dim]` or the condition made of them.
        noise: Noise by block and step.
        sampler: Steps and block size.
        schedule: The flow schedule.
        exit_step: Step whose prediction is returned; `None` for the last.
        gradient: Whether that step carries gradient; no other step ever does.
        tap: Listener to the exit step's attention.

    Returns:
        Clean latents `[B, block, C, H, W]`.

    Raises:
        ValueError: If `exit_step` is out of range.
    """
    last = len(sampler.steps) - 1
    stop = last if exit_step is None else exit_step
    if not 0 <= stop <= last:
        raise ValueError(f"`exit_step` must lie in 0..{last}, got {exit_step}")
    block = cache.end // cache.block
    context = CachedContext(cache, cache.begin())
    timesteps = schedule.warp(sampler.steps).to(cache.device)
    x = noise(block, 0)
    for step in range(stop + 1):
        timestep = timesteps[step].expand(x.shape[:2])
        with torch.set_grad_enabled(gradient and step == stop):
            flow = dit(x, timestep, text, context=context, tap=tap if step == stop else None)
            x0 = schedule.x0_from_flow(flow, x, timestep)
        if step == stop:
            return x0
        x = schedule.add_noise(x0, noise(block, step + 1), timesteps[step + 1].expand(x.shape[:2]))
    raise AssertionError("unreachable: the loop returns at the exit step")


@torch.no_grad()
def commit(
    dit: WanDiT,
    cache: KVCache,
    latents: Tensor,
    text: Tensor | Condition,
    sampler: SamplerConfig,
    *,
    prompt: int = 0,
    tap: Tap | None = None,
) -> None:
    """Store a finished block's keys and values by a clean forward pass.

    Args:
        dit: The network.
        cache: The cache.
        latents: The block's clean latents `[B, block, C, H, W]`.
        text: Text embeddings or the condition made of them.
        sampler: Gives the timestep of the pass.
        prompt: Index of the prompt, for the provenance.
        tap: Listener to the pass.
    """
    latents = latents.detach()
    timestep = latents.new_full(latents.shape[:2], sampler.context_timestep, dtype=torch.float32)
    dit(latents, timestep, text, context=CachedContext(cache, cache.begin()), tap=tap, flow=False)
    cache.commit(latents, prompt=prompt)


@torch.no_grad()
def recache(
    dit: WanDiT,
    cache: KVCache,
    text: Tensor | Condition,
    sampler: SamplerConfig,
    *,
    prompt: int = 0,
    sink_policy: SinkPolicy | None = None,
    tap: Tap | None = None,
) -> None:
    """Recompute the visible cache under another prompt, in one pass over the latents it was made of.

    Args:
        dit: The network.
        cache: The cache; something must have been committed.
        text: The new prompt's text embeddings, or the condition made of them.
        sampler: Gives the timestep of the pass.
        prompt: Index of the new prompt, for the provenance.
        sink_policy: Overrides the cache's sink policy.
        tap: Listener to the pass.

    Source: LongLive (ICLR 2026), section 3.1; the pass is fully bidirectional as in its public code.
    """
    latents, call = cache.begin_recache(sink_policy)
    timestep = latents.new_full(latents.shape[:2], sampler.context_timestep, dtype=torch.float32)
    dit(latents, timestep, text, context=CachedContext(cache, call), tap=tap, flow=False)
    cache.end_recache(prompt=prompt)


def switch(dit: WanDiT, cache: KVCache, text: Tensor | Condition, sampler: SamplerConfig, plan: BlockPlan) -> None:
    """Let the cache take a switch as the plan's policy says.

    Args:
        dit: The network.
        cache: The cache.
        text: The new prompt's text embeddings, or the condition made of them.
        sampler: Gives the timestep of a recache.
        plan: The block's plan; nothing happens when it has no policy or nothing was generated yet.
    """
    if plan.policy is None or cache.end == cache.origin:
        return
    if plan.policy == "clear":
        cache.clear()
    elif plan.policy == "recache":
        recache(dit, cache, text, sampler, prompt=plan.prompt, sink_policy=plan.sink_policy)


class PartsWatch:
    """Splits the time of a block between its parts.

    A GPU notes its own times as it comes by, so that it is never waited for and never stands still between two parts.

    Args:
        device: Where the work runs; `None` to measure nothing.
    """

    def __init__(self, device: torch.device | None) -> None:
        self._device, self._names = device, list[str | None]()
        self._marks: list[Any] = [self._mark()]

    def _mark(self) -> Any:
        if self._device is None or self._device.type != "cuda":
            return time.perf_counter()
        with torch.cuda.device(self._device):
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        return event

    def split(self, name: str | None) -> None:
        """Note that a part has ended; one without a name is not told."""
        self._marks.append(self._mark())
        self._names.append(name)

    def read(self) -> dict[str, float]:
        """Seconds of each part; on a GPU this waits for the last."""
        if self._device is None or self._device.type != "cuda":
            spans = [after - before for before, after in pairwise(self._marks)]
        else:
            self._marks[-1].synchronize()
            spans = [before.elapsed_time(after) / 1000 for before, after in pairwise(self._marks)]
        return {name: span for name, span in zip(self._names, spans, strict=True) if name}


class _Seconds(Mapping[str, float]):
    """What a stopwatch says, read when somebody asks."""

    def __init__(self, watch: PartsWatch) -> None:
        self._watch = watch

    @functools.cached_property
    def _read(self) -> dict[str, float]:
        return {"recache": 0.0, **self._watch.read()}

    def __getitem__(self, part: str) -> float:
        return self._read[part]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


def rollout(
    dit: WanDiT,
    cache: KVCache,
    plan: Iterable[BlockPlan],
    noise: Noise,
    sampler: SamplerConfig,
    *,
    schedule: FlowSchedule | None = None,
    tap: Tap | None = None,
    timed: bool = True,
) -> Iterator[Block]:
    """Roll out a video block by block.

    The plan is asked for its next entry when a block begins, so that a live switch enters by it; the rollout ends when
    the plan ends. A block whose noise raises `Revoked` begins again with the plan's next entry, as if it had not begun
    before. Where adapters beside the weights were changed, the next block reads its prompt under them; see
    `WanDiT.revision`. Gradient mode is set inside a step and never held across a yield.

    Args:
        dit: The network.
        cache: The cache; the rollout goes on from where it ends.
        plan: One entry a block.
        noise: Noise by block and step.
        sampler: Steps and block size.
        schedule: The flow schedule; `None` makes the sampler's own.
        tap: Listener to each block's exit step.
        timed: Whether each block's `seconds` are measured.

    Yields:
        One finished and committed block after the other.
    """
    schedule = schedule or FlowSchedule(shift=sampler.shift).to(cache.device)
    condition: Condition | None = None
    source: Tensor | None = None
    revision = dit.revision
    for entry in plan:
        watch = PartsWatch(cache.device if timed else None)
        with torch.no_grad():
            if condition is None or source is not entry.text or revision != dit.revision:
                revision = dit.revision  # Before the weights are read: a change meanwhile is met at the next block.
                condition, source = dit.condition(entry.text), entry.text
            switch(dit, cache, condition, sampler, entry)
        watch.split("recache" if entry.policy == "recache" else None)
        first = cache.end
        try:
            with torch.no_grad():
                latents = denoise_block(
                    dit,
                    cache,
                    entry.text if entry.gradient else condition,
                    noise,
                    sampler,
                    schedule,
                    exit_step=entry.exit_step,
                    gradient=entry.gradient,
                    tap=tap,
                )
        except Revoked:
            cache.abandon()
            continue
        watch.split("denoise")
        commit(dit, cache, latents, condition, sampler, prompt=entry.prompt)
        watch.split("commit")
        yield Block(
            index=first // cache.block,
            first_frame=first,
            latents=latents,
            prompt=entry.prompt,
            policy=entry.policy,
            seconds=_Seconds(watch) if timed else {},
        )
