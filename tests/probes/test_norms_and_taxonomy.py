"""Sizes of keys and values, and kinds of heads, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from studio.config import CacheConfig
from studio.model.cache import Slot
from studio.probes import AttentionProbe, AttentionSampling, Watch
from studio.probes.norms import cache_norms
from studio.probes.readings import AttentionReading
from studio.probes.taxonomy import classify_heads
from tests.contracts import tiny
from tests.probes import takes

STEPS = len(tiny.SAMPLER.steps)


def reading(sink, own, window, *, kind="denoise", block=3, heads=1, layers=(0,), jitter=0.0):
    """A reading of one frame over six slots with given masses on two sink, two window and two own slots."""
    frames = [0, 1, 5, 6, 7, 8]
    slots = tuple(Slot(role="sink" if f < 2 else "window", frame=f, block=0) for f in frames)
    mass = np.array([sink / 2 + jitter, sink / 2, window / 2, window / 2 - jitter, own / 2, own / 2], dtype=np.float32)
    return AttentionReading(
        kind=kind, block=block, step=0, timestep=500.0, frames=(7, 8), slots=slots, layers=layers, grid=(1, 1),
        samples=((0, 0),), mass=np.broadcast_to(mass, (len(layers), heads, 2, 6)), positions=None,
        text_mass=np.ones((len(layers), heads, 2, 1)), text_maps=np.ones((len(layers), 2, 1, 1)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shares", "kind"),
    [
        ((0.6, 0.3, 0.1), "sink"),
        ((0.5, 0.5, 0.0), "sink"),
        ((0.2, 0.7, 0.1), "self_block"),
        ((0.3, 0.3, 0.4), "dynamic"),
        ((0.1, 0.1, 0.8), "dynamic"),
    ],
)
def test_a_head_is_named_by_where_most_of_it_looks(shares, kind):
    found = classify_heads([reading(*shares)])
    assert found.kinds == ((kind,),) and found.count(kind) == 1
    assert (found.sink[0, 0], found.own[0, 0], found.window[0, 0]) == pytest.approx(shares)


def test_shares_are_means_over_the_take_and_the_spread_is_theirs():
    found = classify_heads([reading(0.2, 0.2, 0.6), reading(0.2, 0.2, 0.6, jitter=0.2)])
    assert found.readings == 2
    assert float(found.sink[0, 0]) == pytest.approx(0.3) and float(found.window[0, 0]) == pytest.approx(0.5)
    assert float(found.spread[0, 0]) == pytest.approx(0.1)


def test_a_stricter_majority_makes_more_heads_dynamic():
    assert classify_heads([reading(0.6, 0.2, 0.2)], majority=0.7).kinds == (("dynamic",),)


def test_the_heads_of_a_take_against_loops_over_rows():
    dit, probe = tiny.dit(), AttentionProbe(tiny.DIT, steps=STEPS, sampling=AttentionSampling(commit=True))
    with Watch(dit, tiny.SAMPLER, probe):
        list(takes.roll(dit, tiny.cache(CacheConfig(window=6)), takes.plan(6)))
    found = classify_heads(probe.readings)
    # Block 0 is the sink and block 1 sees nothing between the sink and itself.
    assert found.readings == 4
    sums = np.zeros((3, tiny.DIT.layers, tiny.DIT.heads))
    for r in probe.readings:
        if r.kind == "denoise" and r.block >= 2:
            for row in r.rows():
                part = 0 if row["slot_role"] == "sink" else 1 if row["slot_frame"] in r.frames else 2
                sums[part, row["layer"], row["head"]] += row["mass"] / (3 * 4)
    for part, shares in enumerate((found.sink, found.own, found.window)):
        np.testing.assert_allclose(shares, sums[part], atol=1e-5)
    rows = found.rows()
    assert len(rows) == tiny.DIT.layers * tiny.DIT.heads
    assert sum(found.count(kind) for kind in ("sink", "self_block", "dynamic")) == len(rows)
    assert all(row["sink"] + row["own"] + row["window"] == pytest.approx(1, abs=1e-4) for row in rows)


@pytest.mark.parametrize("readings", [[], [reading(0.5, 0.2, 0.3, kind="commit")]])
def test_a_take_without_a_full_view_is_refused(readings):
    with pytest.raises(ValueError, match="read a longer take"):
        classify_heads(readings)


def test_readings_of_different_layers_are_refused():
    with pytest.raises(ValueError, match="the same layers"):
        classify_heads([reading(0.5, 0.2, 0.3), reading(0.5, 0.2, 0.3, layers=(1,))])


@pytest.mark.parametrize("majority", [0.4, 1.1, float("nan")])
def test_a_majority_that_is_none_is_refused(majority):
    with pytest.raises(ValueError, match="`majority` must lie"):
        classify_heads([reading(0.5, 0.2, 0.3)], majority=majority)


@pytest.mark.parametrize("blocks", [0, 2, 6])
def test_norms_are_root_mean_squares_of_each_slot(blocks):
    dit, cache = tiny.dit(), tiny.cache(CacheConfig(window=6))
    list(takes.roll(dit, cache, takes.plan(blocks)))
    norms = cache_norms(cache)
    held = min(9, 3 * blocks)
    assert [slot.frame for slot in norms.slots] == list(cache.visible_frames()) and norms.block == blocks
    assert norms.keys.shape == norms.values.shape == (tiny.DIT.layers, held)
    for layer in range(tiny.DIT.layers):
        for part, found in zip(cache.layer(layer), (norms.keys, norms.values), strict=True):
            for index in range(held):
                numbers = part[0, index * 6 : (index + 1) * 6].double().flatten().tolist()
                assert found[layer, index] == pytest.approx((sum(x * x for x in numbers) / len(numbers)) ** 0.5)
    assert len(norms.rows()) == norms.keys.size
