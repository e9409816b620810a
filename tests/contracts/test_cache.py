"""Contracts of the cache: who may write it, what it holds, how it rolls, and what a switch does to it."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from studio.config import CacheConfig
from studio.model.attention import CachedContext, attention
from studio.model.rope import rotary, rotate
from studio.sampler import BlockPlan, NoiseSource, commit, denoise_block, recache, rollout, switch
from studio.schedule import FlowSchedule
from tests.contracts import tiny

SCHEDULE = FlowSchedule(shift=tiny.SAMPLER.shift)


def noise(seed: int = 0, batch: int = 1) -> NoiseSource:
    return NoiseSource(seed, (batch, 3, *tiny.LATENT))


def filled(dit, blocks: int, config: CacheConfig | None = None, seed: int = 0):
    cache = tiny.cache(config)
    plan = [BlockPlan(text=tiny.text())] * blocks
    latents = [block.latents for block in rollout(dit, cache, plan, noise(seed), tiny.SAMPLER)]
    return cache, torch.cat(latents, dim=1)


class BlockCausal:
    """One whole clip under an explicit block-causal mask, written independently of the cache."""

    def __init__(self, frames: int, positions: int = 0) -> None:
        tokens = tiny.GRID[0] * tiny.GRID[1]
        block = torch.arange(frames).repeat_interleave(tokens) // 3
        self.mask = block[:, None] >= block[None, :]
        self.turn = rotary(torch.arange(frames) + positions, *tiny.GRID, tiny.DIT.head_dim)
        self.keys: dict[int, torch.Tensor] = {}

    def attend(self, layer, q, k, v, tap=None, backend=None):
        self.keys[layer] = rotate(k, self.turn)
        return attention(rotate(q, self.turn), self.keys[layer], v, self.mask)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["absolute", "window"])
def test_block_by_block_equals_one_block_causal_pass(positions):
    dit, clip, text = tiny.dit(), tiny.latents(12), tiny.text()
    cache = tiny.cache(CacheConfig(sink=3, window=9, positions=positions))
    for first in range(0, 12, 3):
        commit(dit, cache, clip[:, first : first + 3], text, tiny.SAMPLER)
    whole = BlockCausal(12)
    dit(clip, torch.zeros(1, 12), text, context=whole)
    for layer, expected in whole.keys.items():
        keys, _ = cache.layer(layer)
        got = keys if positions == "absolute" else rotate(keys, whole.turn)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_only_commit_writes_the_cache():
    dit = tiny.dit()
    cache, _ = filled(dit, 3)
    before = [(k.clone(), v.clone()) for k, v in (cache.layer(i) for i in range(tiny.DIT.layers))]
    slots, end = cache.slots, cache.end
    with torch.no_grad():
        x0 = denoise_block(dit, cache, tiny.text(), noise(1), tiny.SAMPLER, SCHEDULE)
    held = 9 * cache.tokens
    for layer, (k, v) in enumerate(before):
        assert torch.equal(cache.keys[layer][:, :held], k[:, :held])
        assert torch.equal(cache.values[layer][:, :held], v[:, :held])
    assert (cache.slots, cache.end) == (slots, end)
    commit(dit, cache, x0, tiny.text(), tiny.SAMPLER)
    assert cache.end == end + 3 and cache.slots != slots


def test_a_denoising_step_leaves_every_visible_committed_slot_untouched_once_rolled():
    dit = tiny.dit()
    cache, _ = filled(dit, 6)
    visible = {s.frame: i for i, s in zip(cache.order(), cache.slots, strict=True) if s.frame is not None}
    oldest = sorted(f for f in visible if f >= 3)[:3]
    before = [k.clone() for k in cache.keys]
    with torch.no_grad():
        denoise_block(dit, cache, tiny.text(), noise(1), tiny.SAMPLER, SCHEDULE)
    for frame, slot in visible.items():
        span = slice(slot * cache.tokens, (slot + 1) * cache.tokens)
        same = all(torch.equal(k[:, span], b[:, span]) for k, b in zip(cache.keys, before, strict=True))
        assert same == (frame not in oldest), "only the evicted frames' slots may be worked in"


def test_memory_is_allocated_once():
    dit = tiny.dit()
    cache = tiny.cache()
    where, size = [t.data_ptr() for t in (*cache.keys, *cache.values)], cache.nbytes
    list(rollout(dit, cache, [BlockPlan(text=tiny.text())] * 12, noise(), tiny.SAMPLER))
    assert [t.data_ptr() for t in (*cache.keys, *cache.values)] == where
    assert cache.nbytes == size


def test_every_slot_knows_its_provenance():
    dit = tiny.dit()
    cache = tiny.cache()
    plan = [BlockPlan(text=tiny.text(), prompt=0)] * 5
    plan += [BlockPlan(text=tiny.text(9), prompt=1, policy="recache"), BlockPlan(text=tiny.text(9), prompt=1)]
    list(rollout(dit, cache, plan, noise(), tiny.SAMPLER))
    slots = cache.slots
    assert [s.frame for s in slots] == [0, 1, 2, *range(12, 21)]
    assert [s.role for s in slots] == ["sink"] * 3 + ["window"] * 9
    assert {(s.prompt, s.written) for s in slots[:3]} == {(0, "commit")}, "a kept sink stays the old prompt's"
    assert {(s.prompt, s.written, s.block) for s in slots[3:6]} == {(1, "recache", 5)}
    assert {(s.prompt, s.written, s.block) for s in slots[9:]} == {(1, "commit", 6)}
    assert all(s.role == "empty" and s.frame is None for s in tiny.cache().slots)


@torch.no_grad()
def test_a_rewriting_recache_makes_the_window_the_new_sink():
    dit = tiny.dit()
    cache, _ = filled(dit, 6, CacheConfig(sink_policy="rewrite"))
    recache(dit, cache, tiny.text(9), tiny.SAMPLER, prompt=1)
    assert [s.frame for s in cache.slots] == list(range(6, 18))
    assert {(s.prompt, s.written) for s in cache.slots} == {(1, "recache")}
    commit(dit, cache, tiny.latents(3), tiny.text(9), tiny.SAMPLER, prompt=1)
    assert [s.frame for s in cache.slots] == [6, 7, 8, *range(12, 21)]


@torch.no_grad()
@pytest.mark.parametrize("policy", ["keep", "clear", "recache"])
def test_what_each_policy_leaves_behind(policy):
    dit = tiny.dit()
    cache, _ = filled(dit, 3)
    before = [k.clone() for k in cache.keys]
    plan = BlockPlan(text=tiny.text(9), prompt=1, policy=policy)
    switch(dit, cache, plan.text, tiny.SAMPLER, plan)
    same = [torch.equal(a, b) for a, b in zip(cache.keys, before, strict=True)]
    held = list(cache.visible_frames())
    if policy == "keep":
        assert all(same) and held == list(range(9))
    elif policy == "clear":
        assert held == [] and all(not k.any() for k in cache.keys)
    else:
        # The first layer's keys come before any cross-attention, so the prompt changes the later ones only.
        assert held == list(range(9)) and not any(same[1:])


@torch.no_grad()
def test_a_recache_under_the_same_prompt_and_causal_mask_changes_nothing():
    dit = tiny.dit()
    config = CacheConfig(recache_mask="block_causal")
    cache, _ = filled(dit, 4, config)
    before = [cache.layer(i) for i in range(tiny.DIT.layers)]
    recache(dit, cache, tiny.text(), tiny.SAMPLER)
    for layer, (k, v) in enumerate(before):
        now_k, now_v = cache.layer(layer)
        torch.testing.assert_close(now_k, k, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(now_v, v, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("sink", [1, 2, 4])
def test_restore_begins_where_a_rewritten_sink_does_within_a_block_too(sink):
    dit, config = tiny.dit(), CacheConfig(sink=sink, window=6, sink_policy="rewrite")
    cache, latents = filled(dit, 5, config)
    recache(dit, cache, tiny.text(7), tiny.SAMPLER, prompt=1)
    other = tiny.cache(config)
    other.restore(latents[:, -cache.capacity :], end=15)
    recache(dit, other, tiny.text(7), tiny.SAMPLER, prompt=1)
    assert (other.slots, other.origin, other.end) == (cache.slots, 15 - cache.capacity, 15)
    for layer in range(tiny.DIT.layers):
        assert torch.equal(other.keys[layer], cache.keys[layer])
        assert torch.equal(other.values[layer], cache.values[layer])


@torch.no_grad()
def test_restore_and_recache_rebuild_the_cache_of_a_video():
    dit = tiny.dit()
    config = CacheConfig(recache_mask="block_causal", positions="window")
    cache, latents = filled(dit, 4, config)
    other = tiny.cache(config)
    other.restore(latents, end=12)
    recache(dit, other, tiny.text(), tiny.SAMPLER)
    for layer in range(tiny.DIT.layers):
        torch.testing.assert_close(other.layer(layer)[0], cache.layer(layer)[0], atol=1e-5, rtol=1e-4)
    assert other.end == 12 and list(other.visible_frames()) == list(range(12))


def test_window_positions_never_leave_the_trained_range_and_absolute_ones_have_no_end():
    dit = tiny.dit()
    for positions in ("window", "absolute"):
        cache = tiny.cache(CacheConfig(positions=positions))
        cache.restore(tiny.latents(12), end=3 * 500)
        plan = [BlockPlan(text=tiny.text(), policy="recache"), BlockPlan(text=tiny.text())]
        for block in rollout(dit, cache, plan, noise(), tiny.SAMPLER):
            assert torch.isfinite(block.latents).all()
        assert cache.end == 1506


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (lambda c: c.commit(tiny.latents(3), prompt=0), RuntimeError, "no block has begun"),
        (lambda c: (c.begin(), c.commit(tiny.latents(2), prompt=0)), ValueError, "must have shape"),
        (lambda c: c.begin_recache(), RuntimeError, "nothing to recache"),
        (lambda c: c.begin_recache("forget"), ValueError, "one of keep, rewrite or None, got 'forget'"),
        (
            lambda c: c.restore(tiny.latents(6), end=11),
            ValueError,
            "`end` must be a multiple of the block size 3, got 11",
        ),
        (lambda c: c.restore(tiny.latents(6), end=3), ValueError, "at most the 3 frames of `end`, got 6"),
    ],
)
def test_misuse_is_named(action, error, message):
    with pytest.raises(error, match=message):
        action(tiny.cache())


def test_a_begun_block_forbids_a_recache():
    cache, _ = filled(tiny.dit(), 2)
    cache.begin()
    with pytest.raises(RuntimeError, match="commit it before"):
        cache.begin_recache()


def test_a_cache_without_a_window_says_when_it_is_full():
    config = CacheConfig(sink=0, window=None, attend=6)
    with pytest.raises(ValueError, match="`frames` must be given"):
        tiny.cache(config)
    cache = tiny.cache(config, frames=6)
    plan = [BlockPlan(text=tiny.text())] * 3
    with pytest.raises(RuntimeError, match="larger `frames`"):
        list(rollout(tiny.dit(), cache, plan, noise(), tiny.SAMPLER))


def test_a_cache_smaller_than_a_block_is_refused():
    with pytest.raises(ValueError, match="at least one block"):
        tiny.cache(CacheConfig(sink=0, window=2))


def test_slots_are_values():
    slot = tiny.cache().slots[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        slot.frame = 3  # type: ignore[misc]


@torch.no_grad()
def test_the_context_of_a_denoising_step_reads_the_buffers_in_place():
    dit = tiny.dit()
    cache, _ = filled(dit, 3)
    seen = []

    class Tap:
        def self_attention(self, layer, q, k, v):
            seen.append(k.untyped_storage().data_ptr() == cache.keys[layer].untyped_storage().data_ptr())

        def cross_attention(self, layer, q, k, v):
            pass

    x = tiny.latents(3)
    dit(x, torch.full((1, 3), 500.0), tiny.text(), context=CachedContext(cache, cache.begin()), tap=Tap())
    assert seen == [True] * tiny.DIT.layers


def test_a_kept_cache_goes_on_as_the_one_it_was():
    dit = tiny.dit()
    config = CacheConfig(sink=3, window=6)
    plan = [BlockPlan(text=tiny.text())] * 4
    one, two = (tiny.cache(config) for _ in range(2))
    list(rollout(dit, one, plan, noise(), tiny.SAMPLER))
    kept = {name: tensor.clone() for name, tensor in one.tensors().items()}
    two.restore_state(json.loads(json.dumps(one.state())), kept)
    assert two.slots == one.slots and two.end == one.end
    after = [BlockPlan(text=tiny.text(8), prompt=1, policy="recache"), BlockPlan(text=tiny.text(8), prompt=1)]
    mine, theirs = (list(rollout(dit, cache, after, noise(), tiny.SAMPLER)) for cache in (one, two))
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(mine, theirs, strict=True))


def test_only_a_fitting_cache_between_two_blocks_is_kept():
    cache = tiny.cache(CacheConfig(sink=3, window=6))
    state, tensors = cache.state(), cache.tensors()
    with pytest.raises(ValueError, match=r"`keys\.0` of a kept cache must have shape"):
        tiny.cache(CacheConfig(sink=3, window=9)).restore_state(state, tensors)
    with pytest.raises(ValueError, match="`slots` of a kept cache must be 9"):
        cache.restore_state({**state, "slots": state["slots"][:-1]}, tensors)
    cache.begin()
    with pytest.raises(RuntimeError, match="commit it before the cache is kept"):
        cache.state()


@torch.no_grad()
def test_a_kept_cache_that_makes_no_sense_changes_nothing():
    cache, _ = filled(tiny.dit(), 3, CacheConfig(sink=3, window=6))
    state, before = cache.state(), {name: tensor.clone() for name, tensor in cache.tensors().items()}
    zeros = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    first, *rest = state["slots"]
    for bad, message in (
        ({name: value for name, value in state.items() if name != "end"}, "`end` .* got None"),
        ({**state, "end": "nine"}, "`end` .* got 'nine'"),
        ({**state, "end": True}, "`end` .* got True"),
        ({**state, "end": 10}, "`end` .* whole blocks of 3"),
        ({**state, "origin": 12}, "not before `origin` 12"),
        ({**state, "origin": -3}, "`origin` .* got -3"),
        ({**state, "slots": None}, "`slots` .* must be 9"),
        ({**state, "slots": [{**first, "x": 1}, *rest]}, r"`slots\[0\]` .* keys"),
        ({**state, "slots": [*rest, 3]}, r"`slots\[8\]` .* keys"),
        ({**state, "slots": [{**first, "role": "sinks"}, *rest]}, r"`slots\[0\]` .* role"),
        ({**state, "slots": [{**first, "written": None}, *rest]}, r"`slots\[0\]` .* written"),
        ({**state, "slots": [{**first, "frame": 1.5}, *rest]}, r"`slots\[0\].frame` .* got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            cache.restore_state(bad, zeros)
        assert cache.state() == state
        assert all(torch.equal(tensor, before[name]) for name, tensor in cache.tensors().items())
    with pytest.raises(ValueError, match=r"`keys\.0` of a kept cache must have shape"):
        cache.restore_state(state, {**zeros, "keys.0": before["keys.0"].tolist()})  # type: ignore[dict-item]
