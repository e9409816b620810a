"""Keys and values in FP8: half the memory, near the same video, and listeners that hear what attention reads."""

from __future__ import annotations

import pytest
import torch

from studio.config import CacheConfig
from studio.model.backends import Backend, attention
from studio.model.cache import KVCache
from studio.model.quantize import FP8, quantized
from studio.sampler import BlockPlan, NoiseSource, rollout
from tests.contracts import tiny


class Ear:
    def __init__(self):
        self.heard = []

    def self_attention(self, layer, q, k, v):
        self.heard.append((q, k, v))

    def cross_attention(self, layer, q, k, v):
        pass


def film(dit, positions="absolute", tap=None):
    config = CacheConfig(sink=3, window=6, positions=positions)
    cache = KVCache(config, tiny.DIT, grid=tiny.GRID, latents=tiny.LATENT, block=3, dtype=dit.cache_dtype)
    policies = {3: "recache", 5: "clear", 7: "keep"}
    plan = [BlockPlan(text=tiny.text(1 + (i >= 3)), prompt=i, policy=policies.get(i)) for i in range(9)]
    noise = NoiseSource(0, (1, 3, *tiny.LATENT))
    return torch.cat([b.latents for b in rollout(dit, cache, plan, noise, tiny.SAMPLER, tap=tap)], dim=1), cache


@pytest.mark.parametrize("positions", ["absolute", "window"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_video_stays_near_through_every_policy(positions, fused):
    found = {}
    for kind in ("fp8", "fp8-kv"):
        dit = quantized(tiny.dit(), kind)
        found[kind] = film(dit.fuse(compiled=False) if fused else dit, positions)
    (exact, wide), (near, small) = found["fp8"], found["fp8-kv"]
    error = float((near.float() - exact.float()).norm() / exact.float().norm())
    assert 0 < error < 0.1
    assert wide.slots == small.slots
    for mine, yours in zip(wide.tensors().items(), small.tensors().values(), strict=True):
        name, tensor = mine
        assert yours.dtype == (torch.bfloat16 if name == "recent" else FP8)
        assert bool(torch.isfinite(yours.float()).all()) and tensor.shape == yours.shape


def test_listeners_hear_the_numbers_that_attention_reads():
    ear = Ear()
    dit = quantized(tiny.dit(), "fp8-kv")
    film(dit, tap=ear)
    for heard in ear.heard:
        for tensor in heard:
            assert tensor.dtype == torch.bfloat16  # holds every FP8 number
            assert torch.equal(tensor.to(FP8).to(torch.bfloat16), tensor)


def test_a_listener_changes_no_bit():
    plain, _ = film(quantized(tiny.dit(), "fp8-kv"))
    heard, _ = film(quantized(tiny.dit(), "fp8-kv"), tap=Ear())
    assert torch.equal(plain, heard)


def test_back_ends_without_fp8_are_given_what_they_can_read():
    given = []

    def kernel(q, k, v):
        given.append({x.dtype for x in (q, k, v)})
        return attention.kernel(q, k, v)

    x = torch.randn(1, 4, 2, 8).to(FP8)
    out = Backend(name="flash3", kernel=kernel)(torch.randn(1, 4, 2, 8), x, x)
    assert given == [{torch.bfloat16}] and out.dtype == torch.bfloat16
    mask = torch.ones(4, 4, dtype=torch.bool)
    torch.testing.assert_close(
        Backend(name="pytorch", kernel=kernel)(torch.zeros(1, 4, 2, 8), x, x, mask)[0, 0],
        out[0, 0] * 0 + x.float().mean(1)[0].bfloat16(),
        atol=2e-2,
        rtol=2e-2,
    )


def test_other_networks_and_types_keep_their_caches():
    assert quantized(tiny.dit(), "fp8").cache_dtype == torch.float32
    assert tiny.dit().cache_dtype == torch.float32
    assert quantized(tiny.dit(), "fp8-kv").cache_dtype == FP8
