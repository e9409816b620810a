"""Residue against one teacher-forced pass over the whole take, which shares no code with the cache."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from studio.config import CacheConfig
from studio.model.attention import TeacherForcedContext
from studio.model.lora import Adapters, LoRA, Pair
from studio.model.rope import rotary, rotate
from studio.probes.residue import ResidueMeter, residue_over_take
from studio.sampler import BlockPlan, commit, recache
from tests.contracts import tiny
from tests.probes import takes

OLD, NEW = tiny.text(100), tiny.text(101)


@torch.no_grad()
def remembered(dit, config, latents, text, recached=None, first=0):
    """Keys and values of every clean frame under one prompt, by one masked pass: {layer: (k, v)} `[F, T, N, D]`."""
    frames = latents.shape[1]
    context = TeacherForcedContext(
        config, frames=frames, block=3, grid=tiny.GRID, head_dim=tiny.DIT.head_dim, recached=recached
    )
    context.remember()
    dit(torch.cat([latents, latents], dim=1), torch.zeros(1, 2 * frames), text, context=context)
    turn = rotary(first + torch.arange(frames), *tiny.GRID, tiny.DIT.head_dim)
    found = {}
    for layer, (k, v) in context.memory.items():
        k = rotate(k, turn) if config.positions == "absolute" else k
        found[layer] = tuple(x[0].unflatten(0, (frames, -1)) for x in (k, v))
    return found


def measured(config, blocks=7, at=5, policy="keep", sink_policy=None):
    dit, cache = tiny.dit(), tiny.cache(config)
    entries = takes.plan(blocks, {at: (policy, sink_policy)})
    steps = list(residue_over_take(dit, cache, entries, takes.noise(), tiny.SAMPLER))
    return dit, cache, entries, steps


def by_moment(steps):
    return {(r.block, r.moment): r for _, found in steps for r in found}


def test_a_meter_hears_of_adapters_that_change():
    torch.manual_seed(0)
    dit, cache, latents = tiny.dit(), tiny.cache(), tiny.latents(3)
    size, adapters = tiny.DIT.dim, Adapters(dit)
    pair = Pair(down=torch.randn(2, size), up=torch.randn(size, 2), scale=1.0)
    meter = ResidueMeter(dit, cache, tiny.SAMPLER, old=OLD, new=NEW)
    adapters.add(LoRA(name="style", layers={"blocks.0.cross_attn.v": pair}))
    commit(dit, cache, latents, NEW, tiny.SAMPLER)
    meter.commit(latents)
    assert meter.measure("made").total == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("positions", ["absolute", "window"])
@pytest.mark.parametrize(
    ("policy", "sink_policy", "at"),
    [("keep", None, 5), ("recache", "keep", 3), ("recache", "rewrite", 2), ("clear", None, 4)],
)
def test_every_number_equals_a_teacher_forced_pass(positions, policy, sink_policy, at):
    config = CacheConfig(positions=positions, window=6)
    dit, cache, _, steps = measured(config, at=at, policy=policy, sink_policy=sink_policy)
    residue = steps[-1][1][-1]
    first = 3 * at if policy == "clear" else 0
    latents = torch.cat([block.latents for block, _ in steps], dim=1)[:, first:]
    recached = 3 * at if policy == "recache" else None
    old, new = (remembered(dit, config, latents, text, recached, first) for text in (OLD, NEW))
    assert [s.frame for s in residue.slots] == list(cache.visible_frames())
    assert_equal_to(residue, cache, old, new, first)


def assert_equal_to(residue, cache, old, new, first=0):
    for layer in range(tiny.DIT.layers):
        held = [x[0].unflatten(0, (cache.capacity, -1)) for x in cache.layer(layer)]
        for part, found in enumerate((residue.keys, residue.values)):
            for index, slot in enumerate(residue.slots):
                a, b = (side[layer][part][slot.frame - first] for side in (old, new))
                between = (a - b).double().square().sum().sqrt()
                if layer == 0:
                    assert math.isnan(found[layer, index]) and between < 1e-4
                else:
                    now = (held[part][index] - b).double().square().sum().sqrt()
                    assert found[layer, index] == pytest.approx(float(now / between), abs=2e-4)


@torch.no_grad()
def under_one_prompt(dit, config, blocks, at, sink_policy, text):
    """Keys and values by frame of a cache that went the same way under one prompt alone: {layer: (k, v)} by frame."""
    cache = tiny.cache(config)
    for index, block in enumerate(blocks):
        if index == at:
            recache(dit, cache, text, tiny.SAMPLER, sink_policy=sink_policy)
        commit(dit, cache, block.latents, text, tiny.SAMPLER)
    frames = cache.visible_frames()
    return {
        layer: tuple(
            dict(zip(frames, x[0].unflatten(0, (cache.capacity, -1)), strict=True)) for x in cache.layer(layer)
        )
        for layer in range(tiny.DIT.layers)
    }


@pytest.mark.parametrize("sink_policy", ["keep", "rewrite"])
def test_a_recache_of_a_rolled_window_is_counted_in(sink_policy):
    config = CacheConfig(window=6)
    dit, cache, _, steps = measured(config, policy="recache", sink_policy=sink_policy)
    blocks = [block for block, _ in steps]
    old, new = (under_one_prompt(dit, config, blocks, 5, sink_policy, text) for text in (OLD, NEW))
    assert_equal_to(steps[-1][1][-1], cache, old, new)


def test_the_total_sums_squares_over_layers_and_slots():
    config = CacheConfig(window=6)
    dit, cache, _, steps = measured(config)
    latents = torch.cat([block.latents for block, _ in steps], dim=1)
    old, new = (remembered(dit, config, latents, text)[1] for text in (OLD, NEW))
    held = [x[0].unflatten(0, (cache.capacity, -1)) for x in cache.layer(1)]
    parts = []
    for part in (0, 1):
        frames = list(cache.visible_frames())
        now = (held[part] - new[part][frames]).double().square().sum()
        parts.append(float((now / (old[part][frames] - new[part][frames]).double().square().sum()).sqrt()))
    assert steps[-1][1][-1].total == pytest.approx(sum(parts) / 2, abs=2e-4)


@pytest.mark.parametrize("policy", ["keep", "recache", "clear"])
def test_the_blocks_are_those_of_a_plain_rollout(policy):
    _, _, entries, steps = measured(CacheConfig(window=6), policy=policy)
    plain = list(takes.roll(tiny.dit(), tiny.cache(CacheConfig(window=6)), entries))
    for (block, _), other in zip(steps, plain, strict=True):
        assert torch.equal(block.latents, other.latents)
        assert (block.index, block.prompt, block.policy) == (other.index, other.prompt, other.policy)
        assert set(block.seconds) == set(other.seconds)


def test_before_a_switch_everything_is_old_and_keeping_changes_nothing():
    steps = measured(CacheConfig(window=6), policy="keep")[3]
    found = by_moment(steps)
    for key in ((4, "made"), (5, "before"), (5, "after")):
        np.testing.assert_allclose(found[key].keys[1:], 1, atol=1e-5)
        np.testing.assert_allclose(found[key].values[1:], 1, atol=1e-5)
        assert found[key].total == pytest.approx(1, abs=1e-5)
    assert np.isnan(found[5, "before"].keys[0]).all()


def test_moments_come_in_order():
    steps = measured(CacheConfig(window=6))[3]
    moments = [(r.block, r.moment) for _, found in steps for r in found]
    assert moments == [*((b, "made") for b in range(5)), (5, "before"), (5, "after"), (5, "made"), (6, "made")]


@pytest.mark.parametrize("recache_mask", ["full", "block_causal"])
@pytest.mark.parametrize(("at", "sink_policy"), [(2, "keep"), (3, "keep"), (5, "rewrite")])
def test_a_recache_of_every_slot_leaves_nothing(recache_mask, at, sink_policy):
    config = CacheConfig(window=6, recache_mask=recache_mask)
    found = by_moment(measured(config, at=at, policy="recache", sink_policy=sink_policy)[3])
    assert found[at, "before"].total == pytest.approx(1, abs=1e-5)
    assert found[at, "after"].total < 1e-5 and found[6, "made"].total < 1e-5


def test_a_recache_takes_the_old_prompt_out_and_a_kept_sink_holds_it():
    steps = measured(CacheConfig(window=6), policy="recache", sink_policy="keep")[3]
    kept = by_moment(steps)[5, "after"]
    np.testing.assert_allclose(kept.keys[1, :3], 1, atol=1e-5)
    assert [s.frame for s in kept.slots[:3]] == [0, 1, 2] and {s.prompt for s in kept.slots[3:]} == {1}
    # What is left in the window is what it heard from the sink.
    assert kept.values[1, 3:].max() < kept.values[1, :3].min() and 0 < kept.total < 1
    assert 0 < by_moment(steps)[6, "made"].total < 1


def test_after_a_clear_there_is_nothing_to_measure():
    found = by_moment(measured(CacheConfig(window=6), policy="clear")[3])
    empty = found[5, "after"]
    assert empty.slots == () and empty.keys.shape == (tiny.DIT.layers, 0) and math.isnan(empty.total)
    assert [s.frame for s in found[6, "made"].slots] == list(range(15, 21))


def test_a_cleared_sink_is_measured_long_after_the_reference_has_forgotten_it():
    residue = measured(CacheConfig(window=3), blocks=8, at=2, policy="clear")[3][-1][1][-1]
    assert [s.frame for s in residue.slots] == [6, 7, 8, 21, 22, 23]
    assert np.isfinite(residue.keys[1]).all()


def test_a_take_that_was_always_the_new_prompts_has_none():
    dit, cache = tiny.dit(), tiny.cache(CacheConfig(window=6))
    meter = ResidueMeter(dit, cache, tiny.SAMPLER, old=OLD, new=NEW)
    for block in takes.roll(dit, cache, [BlockPlan(text=NEW, prompt=1)] * 5):
        meter.commit(block.latents)
        assert meter.measure("made").total < 1e-6


@torch.no_grad()
def test_a_cache_without_a_window_and_a_batch_are_measured_as_well():
    dit = tiny.dit()
    cache = tiny.cache(CacheConfig(sink=0, window=None, attend=6), frames=9, batch=2)
    old, new = (tiny.text(seed, batch=2) for seed in (1, 2))
    meter = ResidueMeter(dit, cache, tiny.SAMPLER, old=old, new=new)
    for seed in range(3):
        latents = tiny.latents(3, seed, batch=2)
        commit(dit, cache, latents, old, tiny.SAMPLER)
        meter.commit(latents)
    assert meter.measure("made").total == pytest.approx(1, abs=1e-5)
    recache(dit, cache, new, tiny.SAMPLER, prompt=1)
    meter.switch(BlockPlan(text=new, prompt=1, policy="recache"))
    residue = meter.measure("after")
    assert [s.prompt for s in residue.slots] == [0, 0, 0] + [1] * 6
    np.testing.assert_allclose(residue.keys[1, :3], 1, atol=1e-5)
    np.testing.assert_allclose(residue.keys[1, 3:], 0, atol=1e-5)


def test_a_moment_that_is_none_is_refused():
    with pytest.raises(ValueError, match="`moment` must be one of before, after, made"):
        ResidueMeter(tiny.dit(), tiny.cache(), tiny.SAMPLER, old=OLD, new=NEW).measure("later")


def test_rows_name_every_layer_and_slot():
    residue = measured(CacheConfig(window=6))[3][-1][1][-1]
    rows = residue.rows()
    assert len(rows) == residue.keys.size
    assert {row["frame"] for row in rows} == {slot.frame for slot in residue.slots}
    assert rows[-1]["keys"] == pytest.approx(float(residue.keys[-1, -1]))


def test_the_same_prompt_twice_is_refused():
    with pytest.raises(ValueError, match="must be different texts"):
        ResidueMeter(tiny.dit(), tiny.cache(), tiny.SAMPLER, old=OLD, new=OLD.clone())


def test_texts_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="must have one shape"):
        ResidueMeter(tiny.dit(), tiny.cache(), tiny.SAMPLER, old=OLD, new=OLD[:, :-1])


def test_a_cache_under_way_is_refused():
    dit, cache = tiny.dit(), tiny.cache()
    commit(dit, cache, tiny.latents(3), OLD, tiny.SAMPLER)
    with pytest.raises(RuntimeError, match="must be empty"):
        ResidueMeter(dit, cache, tiny.SAMPLER, old=OLD, new=NEW)


def test_a_block_that_was_left_out_is_named():
    dit, cache = tiny.dit(), tiny.cache()
    meter = ResidueMeter(dit, cache, tiny.SAMPLER, old=OLD, new=NEW)
    list(takes.roll(dit, cache, takes.plan(1)))
    with pytest.raises(RuntimeError, match=r"\[0, 1, 2\] were never given"):
        meter.measure("made")


@pytest.mark.parametrize("switches", [{}, {0: ("keep", None)}, {1: ("keep", None), 3: ("clear", None)}])
def test_a_plan_without_exactly_one_switch_is_refused(switches):
    entries = takes.plan(5, switches)
    with pytest.raises(ValueError, match="one switch after its first block"):
        next(residue_over_take(tiny.dit(), tiny.cache(), entries, takes.noise(), tiny.SAMPLER))


def test_a_text_that_changes_without_a_switch_is_refused():
    entries = takes.plan(5, {2: ("keep", None)})
    entries[4] = replace(entries[4], text=tiny.text(7))
    with pytest.raises(ValueError, match="one switch"):
        next(residue_over_take(tiny.dit(), tiny.cache(), entries, takes.noise(), tiny.SAMPLER))
