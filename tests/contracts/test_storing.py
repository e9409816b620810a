"""Contracts of passes that only write the cache: they write what whole passes write, and stop there."""

from __future__ import annotations

import pytest
import torch

from studio.config import CacheConfig
from studio.model.attention import CachedContext
from studio.sampler import BlockPlan, NoiseSource, rollout
from tests.contracts import tiny

CONFIGS = [
    CacheConfig(sink=3, window=6),
    CacheConfig(sink=3, window=6, positions="window", sink_policy="rewrite"),
    CacheConfig(sink=0, window=6, recache_mask="block_causal"),
    CacheConfig(sink=0, window=None, attend=6),
]
TEXTS = [tiny.text(seed) for seed in (1, 2)]
PLAN = [BlockPlan(text=TEXTS[i // 4], prompt=i // 4, policy="recache" if i == 4 else None) for i in range(7)]


def film(dit, config):
    cache = tiny.cache(config, frames=3 * len(PLAN))
    blocks = rollout(dit, cache, PLAN, NoiseSource(0, (1, 3, *tiny.LATENT)), tiny.SAMPLER)
    return torch.cat([block.latents for block in blocks], dim=1), cache


def whole(dit):
    """The same network, whose passes all run to their end."""
    dit.register_forward_hook(lambda *_: None)
    return dit


def assert_same(mine, other):
    assert mine.slots == other.slots
    for one, two in zip((*mine.keys, *mine.values), (*other.keys, *other.values), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("config", CONFIGS)
def test_the_cache_is_that_of_whole_passes(config, fused):
    first, second = (tiny.dit().fuse(compiled=False) if fused else tiny.dit() for _ in range(2))
    latents, cache = film(first, config)
    wanted, other = film(whole(second), config)
    assert torch.equal(latents, wanted)
    assert_same(cache, other)


@pytest.mark.parametrize("fused", [False, True])
def test_the_last_layer_ends_where_its_keys_are_stored(fused):
    dit = tiny.dit().fuse(compiled=False) if fused else tiny.dit()
    cache, ran = tiny.cache(), []
    for layer, block in enumerate(dit.blocks):
        block.cross_attn.q.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    dit.head.register_forward_hook(lambda *_: ran.append("head"))
    call = CachedContext(cache, cache.begin())
    with torch.no_grad():
        nothing = dit(tiny.latents(3), torch.zeros(1, 3), tiny.text(), context=call, flow=False)
    assert nothing.numel() == 0
    assert ran == list(range(len(dit.blocks) - 1))
    assert cache.keys[-1].any()
    assert cache.values[-1].any()


class Ear:
    def __init__(self):
        self.heard = []

    def self_attention(self, layer, q, k, v):
        self.heard.append(layer)

    def cross_attention(self, layer, q, k, v):
        self.heard.append(layer)


def test_who_listens_hears_every_layer():
    dit, cache, ear, flows = tiny.dit(), tiny.cache(), Ear(), []
    given = tiny.latents(3), torch.zeros(1, 3), tiny.text()
    with torch.no_grad():
        dit(*given, context=CachedContext(cache, cache.begin()), tap=ear, flow=False)
        handle = dit.register_forward_hook(lambda _module, _given, flow: flows.append(flow))
        dit(*given, context=CachedContext(cache, cache.begin()), flow=False)
        handle.remove()
        wanted = dit(*given, context=CachedContext(cache, cache.begin()))
    assert sorted(set(ear.heard)) == list(range(len(dit.blocks)))
    assert torch.equal(flows[0], wanted)


def test_a_pass_over_no_cache_always_gives_its_flow():
    dit = tiny.dit()
    with torch.no_grad():
        wanted = dit(tiny.latents(3), torch.zeros(1), tiny.text())
        assert torch.equal(dit(tiny.latents(3), torch.zeros(1), tiny.text(), flow=False), wanted)
