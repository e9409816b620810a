"""Tiny takes for the probes: a plan of switches, and the rollout that makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from studio.config import CacheConfig
from studio.model.cache import KVCache
from studio.model.dit import WanDiT
from studio.sampler import Block, BlockPlan, NoiseSource, rollout
from tests.contracts import tiny


def noise(seed: int = 0) -> NoiseSource:
    return NoiseSource(seed, (1, 3, *tiny.LATENT))


def plan(blocks: int, switches: dict[int, tuple[str, str | None]] | None = None) -> list[BlockPlan]:
    """Switches map a block to (policy, sink policy); each brings the next prompt."""
    entries, prompt = [], 0
    entry = BlockPlan(text=tiny.text(100), prompt=0)
    for block in range(blocks):
        policy, sink_policy = None, None
        if switches and block in switches:
            prompt += 1
            policy, sink_policy = switches[block]
            entry = BlockPlan(text=tiny.text(100 + prompt), prompt=prompt)
        entries.append(replace(entry, policy=policy, sink_policy=sink_policy))
    return entries


def roll(
    dit: WanDiT, cache: KVCache, entries: Sequence[BlockPlan], seed: int = 0, sampler=tiny.SAMPLER
) -> Iterator[Block]:
    return rollout(dit, cache, entries, noise(seed), sampler)


def latents(dit: WanDiT, config: CacheConfig | None, entries: Sequence[BlockPlan], seed: int = 0) -> torch.Tensor:
    return torch.cat([block.latents for block in roll(dit, tiny.cache(config), entries, seed)], dim=1)


class Spy:
    """A listener that keeps every pass with the queries and keys of its layers."""

    def __init__(self, then: Callable | None = None) -> None:
        self.passes, self.ended, self.tensors = [], [], []
        self._then = then

    def begin(self, call):
        self.passes.append(call)
        self.tensors.append({"self": {}, "cross": {}})
        return self

    def self_attention(self, layer, q, k, v):
        self.tensors[-1]["self"][layer] = (q.clone(), k.clone(), v.clone())

    def cross_attention(self, layer, q, k, v):
        self.tensors[-1]["cross"][layer] = (q.clone(), k.clone(), v.clone())

    def end(self, call):
        self.ended.append(call)
        if self._then is not None:
            self._then(call)
