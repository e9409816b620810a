"""Contracts of a block that begins again: nothing of its first beginning is left, whatever the switch and the cache."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from studio.config import POLICIES, CacheConfig
from studio.probes import HealthCheck, Watch
from studio.sampler import BlockPlan, NoiseSource, Revoked, rollout
from tests.contracts import tiny

STEPS = len(tiny.SAMPLER.steps)
CACHES = {
    "window": CacheConfig(),
    "rewritten sink": CacheConfig(sink_policy="rewrite"),
    "no sink": CacheConfig(sink=0, window=6),
    "positions of the window": CacheConfig(positions="window"),
    "attends to less": CacheConfig(sink=0, window=None, attend=6),
    "block-causal recache": CacheConfig(recache_mask="block_causal"),
    "everything": CacheConfig(sink=0, window=None),
}


class Revoking:
    """Noise that gives blocks up at some steps, once each."""

    def __init__(self, where: set[tuple[int, int]]) -> None:
        self._noise, self.where = NoiseSource(3, (1, 3, *tiny.LATENT)), set(where)

    def __call__(self, block: int, step: int) -> torch.Tensor:
        if (block, step) in self.where:
            self.where.remove((block, step))
            raise Revoked
        return self._noise(block, step)


def played(dit, config: CacheConfig, plan: list[BlockPlan], noise, first: dict[int, BlockPlan]):
    """Roll out; `first` is what blocks were to be made of before they began again."""
    cache, asked = tiny.cache(config, frames=3 * len(plan)), []

    def entries():
        while cache.end // cache.block < len(plan):
            block = cache.end // cache.block
            again = block in asked
            asked.append(block)
            yield plan[block] if again else first.get(block, plan[block])

    blocks = list(rollout(dit, cache, entries(), noise, tiny.SAMPLER))
    return cache, blocks


@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_block_that_begins_again_is_what_it_would_have_been(name, policy):
    dit, draw = tiny.dit(), random.Random(f"{name} {policy}")
    plan, where, first = [], set(), {}
    texts = [tiny.text(seed) for seed in range(4)]
    for block in range(9):
        switches = block in (3, 6, 7)
        before = plan[-1] if plan else BlockPlan(text=texts[0])
        entry = replace(before, policy=None)
        if switches:
            prompt = before.prompt + 1
            entry = BlockPlan(text=texts[prompt], prompt=prompt, policy=policy)
        if block and (switches or draw.random() < 0.5):
            where.add((block, draw.randrange(STEPS)))
            first[block] = replace(before, policy=None)
        plan.append(entry)
    cache, blocks = played(dit, CACHES[name], plan, noise := Revoking(where), first)
    assert not noise.where
    straight, wanted = played(dit, CACHES[name], plan, Revoking(set()), {})
    assert [block.index for block in blocks] == list(range(9))
    assert [(block.policy, block.prompt) for block in blocks] == [(block.policy, block.prompt) for block in wanted]
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(blocks, wanted, strict=True))
    assert cache.slots == straight.slots
    for mine, other in zip((*cache.keys, *cache.values), (*straight.keys, *straight.values), strict=True):
        assert torch.equal(mine, other)


def test_probes_find_nothing_wrong_in_blocks_that_begin_again():
    dit, heard = tiny.dit(), []
    texts = [tiny.text(seed) for seed in range(2)]
    plan = [BlockPlan(text=texts[0])] * 4 + [BlockPlan(text=texts[1], prompt=1, policy="recache")]
    plan += [replace(plan[-1], policy=None)] * 3

    class Ear:
        def begin(self, call):
            heard.append((call.kind, call.block, call.step))

        def end(self, call):
            pass

    cache, check, noise = tiny.cache(), HealthCheck(dit), Revoking({(4, 2), (6, 3)})
    order = iter([*plan[:4], plan[3], *plan[4:6], plan[6], *plan[6:]])
    with Watch(dit, tiny.SAMPLER, check, Ear(), cache=cache):
        list(rollout(dit, cache, check.plan(order), noise, tiny.SAMPLER))
    assert not check.warnings
    assert [step for kind, block, step in heard if block == 4] == [0, 1, None, 0, 1, 2, 3, None]
    assert [step for kind, block, step in heard if block == 6] == [0, 1, 2, 0, 1, 2, 3, None]


def test_steps_are_told_apart_where_the_commit_has_the_timestep_of_a_step():
    dit, heard = tiny.dit(), []
    sampler = replace(tiny.SAMPLER, steps=(1000, 500), context_timestep=500.0, shift=1.0)
    cache, noise = tiny.cache(), Revoking({(1, 1)})

    class Ear:
        def begin(self, call):
            heard.append((call.kind, call.step))

        def end(self, call):
            pass

    with Watch(dit, sampler, Ear(), cache=cache):
        list(rollout(dit, cache, [BlockPlan(text=tiny.text())] * 3, noise, sampler))
    whole = [("denoise", 0), ("denoise", 1), ("commit", None)]
    assert heard == [*whole, whole[0], *whole]


def test_a_cache_forgets_a_block_only_where_one_has_begun():
    cache = tiny.cache()
    cache.abandon()
    assert (cache.abandoned, cache.begun) == (0, False)
    cache.begin()
    cache.abandon()
    assert (cache.abandoned, cache.begun) == (1, False)
    with pytest.raises(RuntimeError, match="no block has begun"):
        cache.commit(tiny.latents(3), prompt=0)
    with pytest.raises(RuntimeError, match="nothing to recache"):
        cache.begin_recache()


def test_a_plan_that_ends_after_a_block_was_given_up_leaves_a_whole_cache():
    dit, cache = tiny.dit(), tiny.cache()
    plan = [BlockPlan(text=tiny.text())] * 3
    blocks = list(rollout(dit, cache, plan, Revoking({(2, 1)}), tiny.SAMPLER))
    assert [block.index for block in blocks] == [0, 1]
    assert cache.end == 6
    assert not cache.begun
    assert cache.state()["end"] == 6
