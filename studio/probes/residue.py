"""Residue: how much of the old prompt is left in the cache.

A cached slot is compared with what it would hold had the new prompt always been in force and nothing else been
different: the same latents, committed block by block and recached where the cache was, into a second cache under the
new prompt. The distance is given in units of the distance between the caches under the two prompts, so that 1 is "as
if nothing had been switched" and 0 is "as if it had always been the new prompt". It is a distance and no share: where a
third prompt is still in the cache, that may lie further from the new one than the old one does, and it exceeds 1.

Source: the measure belongs to this project; what it looks at is the KV-recache of LongLive (ICLR 2026), section 3.1.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from studio.config import SamplerConfig
from studio.model.cache import KVCache, Slot
from studio.model.dit import Condition, WanDiT
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
            mean of keys and values; 0 or more. NaN for an empty cache.
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

    Both are kept as one cache of twice the batch: each block costs one more commit pass of that size, each recache one
    more recache.

    Args:
        dit: The network.
        cache: The cache to be measured; nothing committed yet.
        sampler: Gives the timestep of the commits.
        old: Text embeddings of the old prompt `[B, text_len, text_dim]`.
        new: Those of the new one, of the same shape.

    Raises:
        RuntimeError: If the cache holds something already.
        ValueError: If the two texts are equal or differ in shape.
    """

    def __init__(self, dit: WanDiT, cache: KVCache, sampler: SamplerConfig, *, old: Tensor, new: Tensor) -> None:
        if cache.end:
            raise RuntimeError(f"the cache must be empty, but it ends at latent frame {cache.end}; use a new one")
        self._begin(dit, cache, sampler, old, new)

    @classmethod
    def late(cls, dit: WanDiT, cache: KVCache, sampler: SamplerConfig, *, old: Tensor, new: Tensor) -> ResidueMeter:
        """A meter for a cache that holds something already: give it what happened so far before measuring.

        Args:
            dit: The network.
            cache: The cache to be measured.
            sampler: Gives the timestep of the commits.
            old: Text embeddings of the old prompt `[B, text_len, text_dim]`.
            new: Those of the new one.

        Returns:
            The meter.

        Raises:
            ValueError: If the two texts are equal or differ in shape.
        """
        meter = cls.__new__(cls)
        meter._begin(dit, cache, sampler, old, new)
        return meter

    def _begin(self, dit: WanDiT, cache: KVCache, sampler: SamplerConfig, old: Tensor, new: Tensor) -> None:
        if old.shape != new.shape:
            raise ValueError(f"`old` and `new` must have one shape, got {list(old.shape)} and {list(new.shape)}")
        if torch.equal(old, new):
            raise ValueError("`old` and `new` must be different texts, got the same twice")
        self._cache, self._dit, self._sampler = cache, dit, sampler
        self._text = torch.cat([old, new])
        self._read: tuple[int, Condition] | None = None
        self._prompts()
        # The prompts' own caches, old and then new along the batch; made when the latents' shape is known.
        self._alone: KVCache | None = None

    @torch.no_grad()
    def _prompts(self) -> Condition:
        """Both prompts' keys and values, anew where adapters beside the weights changed."""
        revision = self._dit.revision
        if self._read is None or self._read[0] != revision:
            self._read = revision, self._dit.condition(self._text)
        return self._read[1]

    def fork(self, cache: KVCache) -> ResidueMeter:
        """A meter that goes on by itself with another cache that holds the same.

        Args:
            cache: The other cache.

        Returns:
            The meter.
        """
        other = copy.copy(self)
        other._cache, other._alone = cache, copy.deepcopy(self._alone)
        return other

    @torch.no_grad()
    def commit(self, latents: Tensor) -> None:
        """Take over a finished block.

        Args:
            latents: Its clean latents `[B, block, C, H, W]`.
        """
        both = torch.cat([latents, latents])
        commit(self._dit, self._references(latents), both, self._prompts(), self._sampler)

    @torch.no_grad()
    def switch(self, entry: BlockPlan) -> None:
        """Take part in a switch of the measured cache: the prompts' own caches are recached or cleared as well.

        Args:
            entry: The block's plan.
        """
        if self._alone is not None:
            switch(self._dit, self._alone, self._prompts(), self._sampler, replace(entry, text=self._text))

    @torch.no_grad()
    def begin(self, latents: Tensor, *, end: int) -> None:
        """Begin where a recache rewrote all slots of the measured cache, or where it was cleared.

        Args:
            latents: The latent frames that were recached `[B, frames, C, H, W]`; no frames where it was cleared.
            end: Latent frames of the take up to there.
        """
        alone = self._references(latents)
        alone.restore(torch.cat([latents, latents]), end=end)
        if latents.shape[1]:
            recache(self._dit, alone, self._prompts(), self._sampler, sink_policy="rewrite")

    @torch.no_grad()
    def leap(self, latents: Tensor, *, end: int) -> None:
        """Leave out blocks of a long take: keep the sink and fill the window by one recache under each prompt.

        Args:
            latents: The latent frames before the leap's end `[B, capacity, C, H, W]`.
            end: Latent frames of the take up to there.

        Raises:
            ValueError: If the cache has not rolled by then.
            RuntimeError: If nothing was given to `commit` or `begin` before.
        """
        if self._alone is None:
            raise RuntimeError("no block was committed; the sink must be there before a leap")
        self._alone.restore(torch.cat([latents, latents]), end=end, keep_sink=True)
        recache(self._dit, self._alone, self._prompts(), self._sampler, sink_policy="keep")

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
        cache, alone = self._cache, self._alone
        held, known = _places(cache), {} if alone is None else {slot.frame: at for at, slot in _places(alone)}
        if missing := self._missing():
            raise RuntimeError(f"latent frames {missing} were never given to `commit`; give it every block")
        shares = []
        for part in ("keys", "values"):
            layers = range(len(getattr(cache, part)))
            now, old, new = (np.zeros((len(layers), len(held))) for _ in range(3))
            for layer in layers:
                mine = getattr(cache, part)[layer].float()
                prompts = getattr(alone, part)[layer].float().chunk(2) if held else ()
                for column, (at, slot) in enumerate(held):
                    a, b = (_slot(prompt, known[slot.frame], cache.tokens) for prompt in prompts)
                    now[layer, column] = float((_slot(mine, at, cache.tokens) - b).norm())
                    old[layer, column], new[layer, column] = float((a - b).norm()), float(b.norm())
            shares.append(_shares(now, old, new))
        return Residue(
            block=cache.end // cache.block - (moment == "made"),
            moment=moment,
            slots=tuple(slot for _, slot in held),
            keys=shares[0][0],
            values=shares[1][0],
            total=(shares[0][1] + shares[1][1]) / 2,
        )

    @property
    def complete(self) -> bool:
        """Whether every frame that the cache holds was given, so that it can be measured."""
        return not self._missing()

    def _missing(self) -> list[int]:
        known = () if self._alone is None else {slot.frame for slot in self._alone.slots}
        return sorted(slot.frame for slot in self._cache.slots if slot.frame is not None and slot.frame not in known)

    def _references(self, latents: Tensor) -> KVCache:
        if self._alone is None:
            self._alone = _empty_like(self._cache, self._dit, latents)
        return self._alone


def _places(cache: KVCache) -> list[tuple[int, Slot]]:
    """The occupied slots with their indices, sink first, then from old to new."""
    return [(index, slot) for index, slot in zip(cache.order(), cache.slots, strict=True) if slot.frame is not None]


def _empty_like(cache: KVCache, dit: WanDiT, latents: Tensor) -> KVCache:
    """An empty cache of the same kind for two prompts at once."""
    batch, _, channels, rows, columns = latents.shape
    return KVCache(
        cache.config,
        dit.config,
        grid=cache.grid,
        latents=(channels, rows, columns),
        block=cache.block,
        batch=2 * batch,
        frames=cache.capacity,
        device=cache.device,
        dtype=cache.keys[0].dtype,
    )


def _slot(tensor: Tensor, index: int, tokens: int) -> Tensor:
    return tensor[:, index * tokens : (index + 1) * tokens]


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
            meter.switch(entry)
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
