"""Residue: how much of the old prompt is left in the cache.

A cached slot is compared with what it would hold had the new prompt always been in force: the same latents, committed
block by block into a second cache under the new prompt. The distance is given in units of the distance between the
caches under the two prompts, so that 1 is "as if nothing had been switched" and 0 is "as if it had always been the new
prompt".

Source: the measure belongs to this project; what it looks at is the KV-recache of LongLive (ICLR 2026), section 3.1.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from studio.config import SamplerConfig
from studio.model.cache import KVCache, Slot
from studio.model.dit import WanDiT
from studio.sampler import Block, BlockPlan, Noise, commit, recache, rollout, switch
from studio.schedule import FlowSchedule

__all__ = ["Moment", "Residue", "ResidueMeter", "residue_over_take"]

Moment = Literal["before", "after", "made"]

# Two prompts whose caches differ by less than this share of their size cannot be told apart in float32.
_NOTHING = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Residue:
    """What is left of the old prompt in each occupied slot.

    Args:
        block: Block that is about to be made ("before" and "after" its switch), or that was just "made".
        moment: When it was measured.
        slots: The occupied slots, sink first, then from old to new.
        keys: `[layers, slots]` float32; NaN where the two prompts do not differ, as in the first layer, whose keys
            come before any cross-attention.
        values: `[layers, slots]` float32, likewise.
        total: Root of the summed squared distances over layers and slots, as a share of that between the prompts; the
            mean of keys and values. NaN for an empty cache.
    """

    block: int
    moment: Moment
    slots: tuple[Slot, ...]
    keys: np.ndarray
    values: np.ndarray
    total: float

    def rows(self) -> list[dict[str, Any]]:
        """A row for each layer and slot, ready for a data frame."""
        return [
            {
                "block": self.block,
                "moment": self.moment,
                "layer": layer,
                "slot": index,
                "frame": slot.frame,
                "role": slot.role,
                "prompt": slot.prompt,
                "written": slot.written,
                "keys": float(self.keys[layer, index]),
                "values": float(self.values[layer, index]),
            }
            for layer in range(len(self.keys))
            for index, slot in enumerate(self.slots)
        ]


class ResidueMeter:
    """Measures a take's cache against the caches that each of two prompts alone would have made of its latents.

    Each block costs two more commit passes. What those wrote is kept for the frames that the measured cache
    holds or could bring back.

    Args:
        dit: The network.
        cache: The cache to be measured; nothing committed yet.
        sampler: Gives the timestep of the commits.
        old: Text embeddings of the old prompt `[B, text_len, text_dim]`.
        new: Those of the new one.

    Raises:
        RuntimeError: If the cache holds something already.
        ValueError: If the two texts are equal.
    """

    def __init__(self, dit: WanDiT, cache: KVCache, sampler: SamplerConfig, *, old: Tensor, new: Tensor) -> None:
        if cache.end:
            raise RuntimeError(f"the cache must be empty, but it ends at latent frame {cache.end}; use a new one")
        self._begin(dit, cache, sampler, old, new)

    @classmethod
    def late(cls, dit: WanDiT, cache: KVCache, sampler: SamplerConfig, *, old: Tensor, new: Tensor) -> ResidueMeter:
        """A meter for a cache that holds something already: give it the blocks so far by `commit` before measuring.

        Args:
            dit: The network.
            cache: The cache to be measured.
            sampler: Gives the timestep of the commits.
            old: Text embeddings of the old prompt `[B, text_len, text_dim]`.
            new: Those of the new one.

        Returns:
            The meter.

        Raises:
            ValueError: If the two texts are equal.
        """
        meter = cls.__new__(cls)
        meter._begin(dit, cache, sampler, old, new)
        return meter

    def _begin(self, dit: WanDiT, cache: KVCache, sampler: SamplerConfig, old: Tensor, new: Tensor) -> None:
        if old.shape == new.shape and torch.equal(old, new):
            raise ValueError("`old` and `new` must be different texts, got the same twice")
        self._cache = cache
        self._old, self._new = (_Alone(dit, cache, sampler, text) for text in (old, new))

    def fork(self, cache: KVCache) -> ResidueMeter:
        """A meter that goes on by itself with another cache that holds the same.

        Args:
            cache: The other cache.

        Returns:
            The meter.
        """
        other = type(self).__new__(type(self))
        other._cache, other._old, other._new = cache, self._old.fork(), self._new.fork()
        return other

    def commit(self, latents: Tensor) -> None:
        """Take over a finished block.

        Args:
            latents: Its clean latents `[B, block, C, H, W]`.
        """
        self._old.commit(latents)
        self._new.commit(latents)

    def leap(self, latents: Tensor, *, end: int) -> None:
        """Leave out blocks of a long take: keep the sink and fill the window by one recache under each prompt.

        Args:
            latents: The latent frames before the leap's end `[B, capacity, C, H, W]`.
            end: Latent frames of the take up to there.

        Raises:
            ValueError: If the cache has not rolled by then.
            RuntimeError: If no block was given to `commit` before.
        """
        self._old.leap(latents, end)
        self._new.leap(latents, end)

    @torch.no_grad()
    def measure(self, moment: Moment) -> Residue:
        """Measure the cache as it is.

        Args:
            moment: "before" or "after" a switch, or "made" after a block's commit.

        Returns:
            The residue of each occupied slot.

        Raises:
            RuntimeError: If the cache holds a frame that was not given to `commit`.
            ValueError: If there is no such moment.
        """
        if moment not in get_args(Moment):
            raise ValueError(f"`moment` must be one of {', '.join(get_args(Moment))}, got {moment!r}")
        cache = self._cache
        held = [(index, slot) for index, slot in zip(cache.order(), cache.slots, strict=True) if slot.frame is not None]
        frames = [slot.frame or 0 for _, slot in held]
        missing = sorted(set(frames) - set(self._new.frames))
        if missing:
            raise RuntimeError(f"latent frames {missing} were never given to `commit`; give it every block")
        distances = []
        for part, tensors in enumerate((cache.keys, cache.values)):
            now = [[_slot(tensor, index, cache.tokens) for index, _ in held] for tensor in tensors]
            old, new = (
                [[alone.frames[frame][part][layer] for frame in frames] for layer in range(len(tensors))]
                for alone in (self._old, self._new)
            )
            distances.append((_distances(now, new), _distances(old, new), _sizes(new)))
        # A recache that rewrites the sink brings back any of the last frames, so these are kept as well.
        recent = range(cache.end - cache.capacity, cache.end)
        for alone in (self._old, self._new):
            alone.forget_all_but({*frames, *recent})
        shares = [_shares(*found) for found in distances]
        return Residue(
            block=cache.end // cache.block - (moment == "made"),
            moment=moment,
            slots=tuple(slot for _, slot in held),
            keys=shares[0][0],
            values=shares[1][0],
            total=(shares[0][1] + shares[1][1]) / 2,
        )


class _Alone:
    """The cache of the same latents under one prompt alone, and what it wrote for each frame."""

    def __init__(self, dit: WanDiT, like: KVCache, sampler: SamplerConfig, text: Tensor) -> None:
        self._dit, self._like, self._sampler = dit, like, sampler
        with torch.no_grad():
            self._condition = dit.condition(text)
        self._cache: KVCache | None = None
        self.frames: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def fork(self) -> _Alone:
        """The same once more, to go on by itself."""
        other = copy.copy(self)
        other._cache, other.frames = copy.deepcopy(self._cache), dict(self.frames)
        return other

    def commit(self, latents: Tensor) -> None:
        """Commit a block and remember what it wrote."""
        cache = self._cache = self._cache or _empty_like(self._like, self._dit, latents)
        commit(self._dit, cache, latents, self._condition, self._sampler)
        where = {slot.frame: index for index, slot in zip(cache.order(), cache.slots, strict=True)}
        for frame in range(cache.end - cache.block, cache.end):
            keys, values = (
                [_slot(tensor, where[frame], cache.tokens).clone() for tensor in tensors]
                for tensors in (cache.keys, cache.values)
            )
            self.frames[frame] = keys, values

    def leap(self, latents: Tensor, end: int) -> None:
        """Go on from a later frame."""
        if self._cache is None:
            raise RuntimeError("no block was committed; the sink must be there before a leap")
        self._cache.restore(latents, end=end, keep_sink=True)
        recache(self._dit, self._cache, self._condition, self._sampler, sink_policy="keep")

    def forget_all_but(self, frames: Set[int]) -> None:
        """Let go of frames that can never be asked for again."""
        self.frames = {frame: written for frame, written in self.frames.items() if frame in frames}


def _empty_like(cache: KVCache, dit: WanDiT, latents: Tensor) -> KVCache:
    _, _, channels, rows, columns = latents.shape
    return KVCache(
        cache.config,
        dit.config,
        grid=cache.grid,
        latents=(channels, rows, columns),
        block=cache.block,
        batch=len(latents),
        frames=cache.capacity,
        device=cache.device,
        dtype=cache.keys[0].dtype,
    )


def _slot(tensor: Tensor, index: int, tokens: int) -> Tensor:
    return tensor[:, index * tokens : (index + 1) * tokens]


def _distances(a: list[list[Tensor]], b: list[list[Tensor]]) -> np.ndarray:
    """Distance `[layers, slots]` of two lists of slots a layer, in float64."""
    return np.array(
        [[float((x.float() - y.float()).norm()) for x, y in zip(*pair, strict=True)] for pair in zip(a, b, strict=True)]
    )


def _sizes(a: list[list[Tensor]]) -> np.ndarray:
    return np.array([[float(x.float().norm()) for x in layer] for layer in a])


def _shares(now: np.ndarray, prompts: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, float]:
    """Distances as shares of those between the prompts, each and in total."""
    told = prompts > _NOTHING * sizes
    shares = np.full(now.shape, np.nan, dtype=np.float32)
    shares[told] = now[told] / prompts[told]
    total = float(np.sqrt((now[told] ** 2).sum() / (prompts[told] ** 2).sum())) if told.any() else float("nan")
    return shares, total


def residue_over_take(
    dit: WanDiT,
    cache: KVCache,
    plan: Sequence[BlockPlan],
    noise: Noise,
    sampler: SamplerConfig,
    *,
    schedule: FlowSchedule | None = None,
) -> Iterator[tuple[Block, tuple[Residue, ...]]]:
    """Roll out a take with one switch and measure the residue all along it.

    Args:
        dit: The network.
        cache: An empty cache.
        plan: One entry a block, with one switch, not at the first block.
        noise: Noise by block and step.
        sampler: Steps and block size.
        schedule: The flow schedule; `None` makes the sampler's own.

    Yields:
        Each block, the same that `rollout` gives, with its measurements: "made", and at the switch "before" and
        "after" as well.

    Raises:
        RuntimeError: If the cache is not empty.
        ValueError: If the plan has not exactly one switch.
    """
    at = _switch_of(plan)
    meter = ResidueMeter(dit, cache, sampler, old=plan[at - 1].text, new=plan[at].text)
    for index, entry in enumerate(plan):
        found, seconds = [], 0.0
        if index == at:
            found.append(meter.measure("before"))
            seconds = _switch_now(dit, cache, sampler, entry)
            found.append(meter.measure("after"))
        (block,) = rollout(dit, cache, [replace(entry, policy=None)], noise, sampler, schedule=schedule)
        meter.commit(block.latents)
        found.append(meter.measure("made"))
        seconds = {**block.seconds, "recache": seconds if entry.policy == "recache" else 0.0}
        yield replace(block, policy=entry.policy, seconds=seconds), tuple(found)


def _switch_of(plan: Sequence[BlockPlan]) -> int:
    switches = [index for index, entry in enumerate(plan) if entry.policy is not None]
    texts = [index for index in range(1, len(plan)) if plan[index].text is not plan[index - 1].text]
    if len(switches) != 1 or switches[0] == 0 or any(index != switches[0] for index in texts):
        raise ValueError(
            f"`plan` must hold one switch after its first block, got switches at {switches} "
            f"and new texts at {texts}; measure several switches one by one"
        )
    return switches[0]


@torch.no_grad()
def _switch_now(dit: WanDiT, cache: KVCache, sampler: SamplerConfig, entry: BlockPlan) -> float:
    started = time.perf_counter()
    switch(dit, cache, dit.condition(entry.text), sampler, entry)
    if cache.device.type == "cuda":
        torch.cuda.synchronize(cache.device)
    return time.perf_counter() - started
