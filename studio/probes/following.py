"""Residue along a take whose switches nobody knows beforehand: from each switch on, beside the take itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from studio.config import Policy, SamplerConfig, SinkPolicy
from studio.model.attention import Tap
from studio.model.cache import KVCache
from studio.model.dit import WanDiT
from studio.probes.passes import Pass
from studio.probes.residue import Residue, ResidueMeter
from studio.sampler import BlockPlan

__all__ = ["ResidueFollower"]

# Windows of latents that a reference cache is built from. Early in a take that is all of it.
REACH = 2


class ResidueFollower:
    """Measures at each switch what is left of the prompt before it, and again after every block from there on.

    A listener of `Watch`. What the cache would hold under each prompt alone is computed when the switch comes, from the
    latents made so far: from all of them up to `reach` windows, beyond that from the sink's and the latest ones. At the
    switch this costs two commits for each of those blocks and two recaches, then two commits a block; before the first
    switch nothing. What the cache held before it was cleared or wholly recached is not needed, whoever saw that.

    Args:
        dit: The network.
        cache: The cache of the take.
        sampler: Gives the timestep of the commits.
        past: Gives the latents of each block so far, `[B, block, C, H, W]`.
        reach: Windows of latents to look back on, at least 1.
        switches: Policy and sink policy of each switch so far, by its block, where the take began before this follower.

    Raises:
        ValueError: If `reach` is below 1.
    """

    def __init__(
        self,
        dit: WanDiT,
        cache: KVCache,
        sampler: SamplerConfig,
        past: Callable[[], Sequence[Tensor]],
        *,
        reach: int = REACH,
        switches: Mapping[int, tuple[Policy, SinkPolicy | None]] | None = None,
    ) -> None:
        if reach < 1:
            raise ValueError(f"`reach` must be at least 1 window, got {reach}")
        self._dit, self._cache, self._sampler, self._past = dit, cache, sampler, past
        self._blocks = reach * -(-cache.capacity // cache.block)
        self._text: Tensor | None = None
        self._meter: ResidueMeter | None = None
        self._awaited = False
        self._found: list[Residue] = []
        self._switches = dict(switches or {})

    def expect(self, entry: BlockPlan, previous: Tensor | None = None) -> None:
        """Say what the next block is planned to be, before its switch touches the cache.

        Args:
            entry: The plan's entry.
            previous: Text embeddings of the block before, where this follower has not heard of it.
        """
        self._found, self._awaited = [], False
        before, self._text = self._text if previous is None else previous, entry.text
        if entry.policy is None or self._cache.end == self._cache.origin:
            return
        if before is not None and before.shape == entry.text.shape and not torch.equal(before, entry.text):
            self._meter = self._measuring(before, entry.text)
        if self._meter is not None:
            self._found.append(self._meter.measure("before"))
            self._meter.switch(entry)
            self._awaited = True
        self.note(entry)

    def note(self, entry: BlockPlan) -> None:
        """Remember a switch without measuring: what the cache would hold under one prompt was recached there as well.

        Args:
            entry: The next block's plan, before its switch touches the cache.
        """
        if entry.policy is not None:
            self._switches[self._cache.end // self._cache.block] = entry.policy, entry.sink_policy

    def stop(self) -> None:
        """Measure nothing more until the next switch; go on noting switches."""
        self._meter, self._awaited, self._found = None, False, []

    def begin(self, call: Pass) -> Tap | None:
        """See `Listener.begin`."""
        if self._awaited and self._meter is not None and call.kind == "denoise":
            self._awaited = False
            self._found.append(self._meter.measure("after"))
        return None

    def end(self, call: Pass) -> None:
        """See `Listener.end`."""

    def made(self, latents: Tensor) -> tuple[Residue, ...]:
        """Take over a finished block.

        Args:
            latents: Its clean latents `[B, block, C, H, W]`.

        Returns:
            What was measured since `expect`: "before" its switch; "after" it, of the slots that the block could see
            besides its own; and "made".
        """
        if self._meter is not None:
            self._meter.commit(latents)
            self._found.append(self._meter.measure("made"))
        found, self._found = tuple(self._found), []
        return found

    def _measuring(self, old: Tensor, new: Tensor) -> ResidueMeter | None:
        cache = self._cache
        count, past = cache.end // cache.block, self._past()
        if len(past) < count:
            return None  # the take began elsewhere, and what its cache was made of is not known
        meter = ResidueMeter.late(self._dit, cache, self._sampler, old=old, new=new)
        first = self._base(meter, past)
        for block in self._history(meter, past, first, count):
            if block in self._switches and block > first:
                policy, sink_policy = self._switches[block]
                meter.switch(BlockPlan(text=new, policy=policy, sink_policy=sink_policy))
            meter.commit(past[block].to(cache.device))
        return meter if meter.complete else None

    def _base(self, meter: ResidueMeter, past: Sequence[Tensor]) -> int:
        """The first block to commit: after the latest switch that left nothing of what was before it, or the first.

        The cache tells: its oldest slot was written by a recache of all slots, or its origin lies where it was cleared.
        """
        cache = self._cache
        oldest = cache.slots[0]
        if oldest.written == "recache" and oldest.block is not None:
            at, frames = oldest.block, min(oldest.block * cache.block - cache.origin, cache.capacity)
        else:
            at, frames = cache.origin // cache.block, 0
        if at:
            meter.begin(_frames(past, at, frames, cache), end=at * cache.block)
        return at

    def _history(self, meter: ResidueMeter, past: Sequence[Tensor], first: int, count: int) -> Iterator[int]:
        """The blocks to commit; those in the middle of a long take are leapt over."""
        cache = self._cache
        window = -(-cache.capacity // cache.block)
        sink = max(1, -(-cache.config.sink // cache.block))
        start = count - self._blocks
        if cache.config.window is None or start - window < first + sink or start <= first + window:
            yield from range(first, count)
            return
        yield from range(first, first + sink)
        meter.leap(_frames(past, start, window * cache.block, cache), end=start * cache.block)
        yield from range(start, count)


def _frames(past: Sequence[Tensor], end: int, count: int, cache: KVCache) -> Tensor:
    """The last `count` latent frames before block `end`."""
    blocks = past[end - max(1, -(-count // cache.block)) : end]
    latents = torch.cat(list(blocks), dim=1)
    return latents[:, latents.shape[1] - count :].to(cache.device)
