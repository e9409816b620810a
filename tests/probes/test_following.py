"""Residue of a take whose switches come unannounced: the same numbers as with the switch known beforehand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from studio.config import CacheConfig
from studio.probes import ResidueFollower, ResidueMeter, Watch, residue_over_take
from studio.sampler import rollout
from tests.contracts import tiny
from tests.probes import takes


def follow(entries, config=None, *, seed=0, told_from=0, **options):
    """Roll out a plan with a follower; returns what it found, block by block, and the latents."""
    dit, cache, made, found = tiny.dit(), tiny.cache(config), [], []
    follower = ResidueFollower(dit, cache, tiny.SAMPLER, lambda: made, **options)

    def told():
        for index, entry in enumerate(entries):
            if index >= told_from:
                follower.expect(entry)
            yield entry

    with Watch(dit, tiny.SAMPLER, follower, cache=cache):
        for block in rollout(dit, cache, told(), takes.noise(seed), tiny.SAMPLER):
            found.append(follower.made(block.latents))
            made.append(block.latents)
    return found, made


@pytest.mark.parametrize("policy", ["clear", "keep", "recache"])
@pytest.mark.parametrize("sink_policy", ["keep", "rewrite"])
def test_it_finds_what_a_meter_finds_that_was_there_from_the_start(policy, sink_policy):
    entries = takes.plan(7, {4: (policy, sink_policy)})
    found, made = follow(entries)
    plain = residue_over_take(tiny.dit(), tiny.cache(), entries, takes.noise(), tiny.SAMPLER)
    for index, (block, wanted) in enumerate(plain):
        assert torch.equal(block.latents, made[index])
        if index < 4:
            assert found[index] == ()
            continue
        assert [(r.block, r.moment) for r in found[index]] == [(r.block, r.moment) for r in wanted]
        for mine, other in zip(found[index], wanted, strict=True):
            # After the switch the block's own slots are free already.
            seen = [i for i, slot in enumerate(other.slots) if slot in mine.slots]
            assert mine.slots == tuple(other.slots[i] for i in seen)
            assert len(seen) == len(other.slots) - (
                3 if mine.moment == "after" and len(other.slots) == tiny.cache().capacity else 0
            )
            np.testing.assert_array_equal(mine.keys, other.keys[:, seen])
            np.testing.assert_array_equal(mine.values, other.values[:, seen])
            if len(seen) == len(other.slots):
                np.testing.assert_equal(mine.total, other.total)


def test_each_switch_is_measured_against_the_prompt_before_it():
    found, _ = follow(takes.plan(6, {2: ("keep", None), 4: ("recache", None)}))
    moments = [[r.moment for r in residues] for residues in found]
    both = ["before", "after", "made"]
    assert moments == [[], [], both, ["made"], both, ["made"]]
    assert found[2][0].total == pytest.approx(1, abs=1e-5)
    assert found[2][1].total == pytest.approx(1, abs=1e-5)


def test_a_switch_to_the_same_text_is_measured_against_the_last_one_that_differed():
    entries = takes.plan(6, {2: ("keep", None)})
    entries[4] = replace(entries[4], policy="recache", sink_policy="rewrite")
    found, _ = follow(entries)
    assert [r.moment for r in found[4]] == ["before", "after", "made"]
    assert found[4][1].total < found[4][0].total
    assert follow(takes.plan(3)[:1] + [replace(e, policy="recache") for e in takes.plan(3)[1:]])[0] == [(), (), ()]


@pytest.mark.parametrize(
    "earlier",
    [
        {5: ("recache", "rewrite")},
        {5: ("clear", None)},
        {5: ("clear", None), 7: ("recache", "keep")},
        {2: ("recache", "keep"), 8: ("keep", None)},
        {5: ("recache", "rewrite"), 9: ("recache", "keep"), 13: ("recache", "rewrite")},
    ],
)
def test_earlier_switches_are_taken_into_account_however_long_ago(earlier):
    config = CacheConfig(sink=3, window=6, positions="window")
    entries = takes.plan(22, {**earlier, 20: ("recache", "rewrite")})
    near, _ = follow(entries, config, reach=1)
    whole, _ = follow(entries, config, reach=9)
    for mine, exact in zip(near[20], whole[20], strict=True):
        assert mine.slots == exact.slots
        assert mine.total == pytest.approx(exact.total, abs=0.1)
    assert near[20][0].total > 0.9 and near[20][1].total < 1e-5 and near[21][0].total < 1e-5


@pytest.mark.parametrize("sink", [1, 2, 4])
@pytest.mark.parametrize("earlier", [{4: ("recache", "rewrite")}, {4: ("recache", "rewrite"), 6: ("clear", None)}])
def test_a_sink_rewritten_within_a_block_is_followed_as_by_a_meter_that_heard_all(sink, earlier):
    config, last = CacheConfig(sink=sink, window=6, positions="window"), 8
    entries = takes.plan(11, {**earlier, last: ("recache", "keep")})
    found, made = follow(entries, config)
    dit, cache = tiny.dit(), tiny.cache(config)
    meter = ResidueMeter(dit, cache, tiny.SAMPLER, old=entries[last - 1].text, new=entries[last].text)
    for index, entry in enumerate(entries):
        meter.switch(entry)
        (block,) = rollout(dit, cache, [entry], takes.noise(), tiny.SAMPLER)
        assert torch.equal(block.latents, made[index])
        meter.commit(block.latents)
        if index >= last:
            exact = meter.measure("made")
            assert found[index][-1].slots == exact.slots
            np.testing.assert_array_equal(found[index][-1].keys, exact.keys)
            np.testing.assert_array_equal(found[index][-1].values, exact.values)


@pytest.mark.parametrize("sink", [1, 2, 4])
def test_a_long_take_with_a_sink_rewritten_within_a_block_is_measured(sink):
    entries = takes.plan(20, {4: ("recache", "rewrite"), 18: ("recache", "rewrite")})
    found, _ = follow(entries, CacheConfig(sink=sink, window=6, positions="window"), reach=1)
    assert [r.moment for r in found[18]] == ["before", "after", "made"]
    assert found[18][0].total > 0.9 and found[18][1].total < 1e-5


@pytest.mark.parametrize("earlier", [{4: ("clear", None)}, {5: ("recache", "rewrite")}, {2: ("recache", "keep")}])
def test_a_follower_that_comes_late_finds_the_same(earlier):
    config = CacheConfig(sink=3, window=6, positions="window")
    entries = takes.plan(13, {**earlier, 11: ("recache", "rewrite")})
    late, _ = follow(entries, config, told_from=10, reach=5)
    whole, _ = follow(entries, config, reach=5)
    assert len(late[11]) == 3
    for mine, exact in zip(late[11], whole[11], strict=True):
        np.testing.assert_allclose(mine.keys, exact.keys, atol=1e-5)
        np.testing.assert_allclose(mine.values, exact.values, atol=1e-5)


def test_a_long_take_is_measured_from_its_sink_and_its_latest_blocks():
    config = CacheConfig(sink=3, window=6, positions="window")
    entries = takes.plan(14, {12: ("recache", None)})
    short, _ = follow(entries, config, reach=1)
    whole, _ = follow(entries, config, reach=5)
    moments = [(r.block, r.moment) for residues in short for r in residues]
    assert moments == [(r.block, r.moment) for residues in whole for r in residues]
    for mine, exact in zip(short[12], whole[12], strict=True):
        assert mine.total == pytest.approx(exact.total, abs=0.1)
        assert mine.slots == exact.slots
    assert short[12][1].total < 0.9 < short[12][0].total


def test_a_take_that_began_elsewhere_is_not_guessed_at():
    dit, cache, made = tiny.dit(), tiny.cache(), []
    entries = takes.plan(5, {3: ("keep", None)})
    follower = ResidueFollower(dit, cache, tiny.SAMPLER, lambda: made)
    for index, block in enumerate(rollout(dit, cache, iter(entries), takes.noise(), tiny.SAMPLER)):
        assert follower.made(block.latents) == ()
        if index + 1 < len(entries):
            follower.expect(entries[index + 1], entries[index].text)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="`reach` must be at least 1 window, got 0"):
        ResidueFollower(tiny.dit(), tiny.cache(), tiny.SAMPLER, list, reach=0)
