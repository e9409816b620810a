"""The probe's numbers against full softmax attention in float64, and the latents against those without a probe."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from studio.config import PRESETS, CacheConfig
from studio.model.attention import CachedContext
from studio.probes import AttentionProbe, AttentionSampling, HealthCheck, History, Point, Watch
from studio.probes.cost import Cost, pass_flops, side_pass_flops
from studio.probes.softmax import attention_weights, pool_over_slots, sample_positions
from studio.sampler import BlockPlan, NoiseSource, rollout
from studio.schedule import FlowSchedule
from studio.shapes import VideoShape
from tests.contracts import tiny
from tests.probes import takes

STEPS = len(tiny.SAMPLER.steps)
EVERYTHING = AttentionSampling(
    samples=4,
    steps=None,
    commit=True,
    recache=True,
    points=(Point(frame=1, row=1, column=2), Point(frame=0, row=0, column=0)),
)


def full(q, k, mask=None):
    """Every weight `[N, Lq, Lk]` by plain float64 sums."""
    q, k = q[0].double().transpose(0, 1), k[0].double().transpose(0, 1)
    logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    if mask is not None:
        logits[:, ~mask] = -math.inf
    weights = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return weights.numpy()


def read(config=None, sampling=EVERYTHING, switches=None, blocks=5, seed=0):
    dit, cache, spy = tiny.dit(), tiny.cache(config), takes.Spy()
    probe = AttentionProbe(tiny.DIT, steps=STEPS, sampling=sampling)
    with Watch(dit, tiny.SAMPLER, spy, probe):
        list(takes.roll(dit, cache, takes.plan(blocks, switches), seed))
    return probe, spy, cache


def pooled_by_hand(weights, call, samples, tokens):
    """Loops only: mass by head, frame and held frame; by held frame and position."""
    heads, frames = weights.shape[0], len(call.frames)
    held = [slot.frame for slot in call.slots]
    mass, places = {}, {}
    for n in range(heads):
        for f in range(frames):
            for row, column in samples:
                line = weights[n, f * tokens + row * call.grid[1] + column]
                for s, frame in enumerate(held):
                    for t in range(tokens):
                        w = line[s * tokens + t]
                        mass[n, f, frame] = mass.get((n, f, frame), 0) + w / len(samples)
                        places[frame, t] = places.get((frame, t), 0) + w / (len(samples) * heads * frames)
    return mass, places


@pytest.mark.parametrize("positions", ["absolute", "window"])
@pytest.mark.parametrize("mask", ["full", "block_causal"])
def test_every_number_equals_brute_force(positions, mask):
    config = CacheConfig(positions=positions, recache_mask=mask, window=6)
    probe, spy, cache = read(config, switches={4: ("recache", "rewrite")})
    assert len(probe.readings) == len(spy.passes)
    # One pass of each kind, the caches full and rolled.
    for index in (len(spy.passes) - i for i in (1, 2, 6)):
        reading, call, tensors = probe.readings[index], spy.passes[index], spy.tensors[index]
        assert reading.kind == call.kind
        frames = [slot.frame for slot in reading.slots]
        assert frames == sorted(frames)
        for layer in range(tiny.DIT.layers):
            weights = full(*tensors["self"][layer][:2], call.mask)
            mass, places = pooled_by_hand(weights, call, reading.samples, cache.tokens)
            for (n, f, s), value in np.ndenumerate(reading.mass[layer]):
                assert abs(value - mass[n, f, frames[s]]) < 1e-5
            for (s, t), value in np.ndenumerate(reading.positions[layer].reshape(len(frames), -1)):
                assert abs(value - places[frames[s], t]) < 1e-5
            order = [[slot.frame for slot in call.slots].index(frame) for frame in frames]
            for point in reading.points:
                p = point.point
                line = weights[:, (p.frame * 2 + p.row) * 3 + p.column].reshape(2, len(frames), 2, 3)[:, order]
                assert np.abs(point.weights[layer] - line).max() < 1e-5
            text = full(*tensors["cross"][layer][:2]).reshape(2, len(call.frames), 6, -1)
            sampled = text[:, :, [row * 3 + column for row, column in reading.samples]]
            assert np.abs(reading.text_mass[layer] - sampled.mean(2)).max() < 1e-5
            assert np.abs(reading.text_maps[layer] - sampled.mean(0)).max() < 1e-5


def test_a_recache_that_keeps_its_sink_is_read_as_it_ran():
    probe, _, _ = read(CacheConfig(window=6), switches={4: ("recache", "keep")})
    reading = next(r for r in probe.readings if r.kind == "recache")
    assert reading.frames == tuple(range(3, 12))
    assert [s.frame for s in reading.slots] == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert [s.prompt for s in reading.slots[:3]] == [0, 0, 0]


def test_all_mass_is_accounted_for():
    probe, _, _ = read()
    for reading in probe.readings:
        np.testing.assert_allclose(reading.mass.sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(reading.positions.sum((1, 2, 3)), 1, atol=1e-5)
        np.testing.assert_allclose(reading.text_mass.sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(reading.points[0].weights.sum((-1, -2, -3)), 1, atol=1e-5)
        np.testing.assert_allclose(reading.positions.sum((2, 3)), reading.mass.mean((1, 2)), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("positions", ["absolute", "window"])
def test_latents_are_the_same_bits_with_a_probe(dtype, positions):
    dit, config = tiny.dit().to(dtype), CacheConfig(positions=positions)

    def roll(*listeners):
        cache = tiny.cache(config)
        cache.keys, cache.values = ([t.to(dtype) for t in x] for x in (cache.keys, cache.values))
        watch = Watch(dit, tiny.SAMPLER, *listeners) if listeners else None
        try:
            entries = takes.plan(6, {3: ("recache", None)})
            return torch.cat([b.latents for b in rollout(dit, cache, entries, takes.noise(), tiny.SAMPLER)], dim=1)
        finally:
            if watch is not None:
                watch.close()

    probe = AttentionProbe(tiny.DIT, steps=STEPS, sampling=EVERYTHING)
    without, within, after = roll(), roll(probe), roll()
    assert torch.equal(without, within) and torch.equal(without, after) and probe.readings
    assert torch.isfinite(without).all()


def test_everything_listening_at_once_changes_nothing_and_agrees():
    dit, config = tiny.dit(), CacheConfig(window=6)
    entries = takes.plan(7, {3: ("recache", "keep"), 5: ("recache", "rewrite")})
    cache = tiny.cache(config)
    probe, check, history = AttentionProbe(tiny.DIT, steps=STEPS), HealthCheck(dit), History(cache)
    with Watch(dit, tiny.SAMPLER, probe, check):
        blocks = list(history.follow(takes.roll(dit, cache, check.plan(entries))))
    assert torch.equal(torch.cat([b.latents for b in blocks], dim=1), takes.latents(dit, config, entries))
    for reading in probe.readings:
        held = history.at(reading.block).slots
        for slot, later in zip(reading.slots, held, strict=False):
            assert (slot.frame, slot.role) == (later.frame, later.role)
            assert slot.frame in reading.frames or slot == later


def test_sampling_says_which_passes_and_layers_are_read():
    def kinds(**options):
        probe, _, _ = read(sampling=AttentionSampling(**options), switches={2: ("recache", None)}, blocks=3)
        return [(r.block, r.kind, r.step, r.layers) for r in probe.readings]

    both = (0, 1)
    assert kinds() == [(b, "denoise", STEPS - 1, both) for b in range(3)]
    assert kinds(steps=(), commit=True, layers=(1,)) == [(b, "commit", None, (1,)) for b in range(3)]
    assert kinds(steps=(), recache=True) == [(2, "recache", None, both)]
    assert kinds(steps=(0, -1)) == [(b, "denoise", s, both) for b in range(3) for s in (0, STEPS - 1)]


def test_a_probe_keeps_the_latest_readings_and_leaves_out_what_was_not_asked_for():
    dit, probe = tiny.dit(), AttentionProbe(tiny.DIT, steps=STEPS, sampling=AttentionSampling(positions=False), keep=2)
    with Watch(dit, tiny.SAMPLER, probe):
        list(takes.roll(dit, tiny.cache(), takes.plan(4)))
    assert [r.block for r in probe.readings] == [2, 3]
    assert all(r.positions is None and r.points == () for r in probe.readings)
    assert probe.readings[0].position_rows() == probe.readings[0].point_rows() == []
    reading = probe.readings[0]
    assert reading.nbytes == 4 * (reading.mass.size + reading.text_mass.size + reading.text_maps.size)


def test_rows_hold_every_number_once():
    probe, _, _ = read(blocks=2)
    reading = probe.readings[-1]
    rows = reading.rows()
    assert len(rows) == reading.mass.size
    for row in rows[:: len(rows) // 7]:
        s = [slot.frame for slot in reading.slots].index(row["slot_frame"])
        value = reading.mass[row["layer"], row["head"], reading.frames.index(row["frame"]), s]
        assert row["mass"] == pytest.approx(float(value)) and row["slot"] == s and row["block"] == 1
    positions, points = reading.position_rows(), reading.point_rows()
    assert len(positions) == reading.positions.size
    assert len(points) == sum(point.weights.size for point in reading.points)
    for row in positions[::5]:
        assert row["mass"] == float(reading.positions[row["layer"], row["slot"], row["row"], row["column"]])
    for row in points[::11]:
        weights = reading.points[row["point"]].weights
        assert row["weight"] == float(weights[row["layer"], row["head"], row["slot"], row["row"], row["column"]])
        assert row["slot_frame"] == reading.slots[row["slot"]].frame
    assert {row["point_frame"] for row in points} == {3, 4}


def test_each_video_of_a_batch_can_be_read():
    dit, spy = tiny.dit(), takes.Spy()
    probe = AttentionProbe(tiny.DIT, steps=STEPS, sampling=AttentionSampling(video=1))
    with Watch(dit, tiny.SAMPLER, spy, probe):
        source = NoiseSource(0, (2, 3, *tiny.LATENT))
        list(rollout(dit, tiny.cache(batch=2), [BlockPlan(text=tiny.text(batch=2))], source, tiny.SAMPLER))
    q, k, _ = spy.tensors[STEPS - 1]["self"][0]
    expected = full(q[1:], k[1:]).reshape(2, 3, 6, 3, 6).mean(2).sum(-1)
    np.testing.assert_allclose(probe.readings[0].mass[0], expected, atol=1e-5)


def test_the_clip_of_a_bidirectional_network_is_read():
    dit, spy, probe = tiny.dit(), takes.Spy(), AttentionProbe(tiny.DIT, steps=STEPS)
    with Watch(dit, tiny.SAMPLER, spy, probe):
        dit(tiny.latents(4), torch.full((1,), 400.0), tiny.text())
    expected = full(*spy.tensors[0]["self"][1][:2]).reshape(2, 4, 6, 4, 6).mean(2).sum(-1)
    np.testing.assert_allclose(probe.readings[0].mass[1], expected, atol=1e-5)


# -- the sample ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "columns", "samples", "shape"),
    [
        (2, 3, 16, (2, 3)),
        (30, 52, 16, (4, 4)),
        (8, 8, 16, (4, 4)),
        (1, 9, 4, (1, 4)),
        (9, 1, 4, (4, 1)),
        (4, 4, 1, (1, 1)),
        (30, 52, None, (30, 52)),
        (3, 40, 12, (1, 12)),
        (10, 10, 7, (1, 7)),
    ],
)
def test_sampled_positions_form_an_even_grid(rows, columns, samples, shape):
    found = sample_positions(rows, columns, samples)
    down, across = sorted({r for r, _ in found}), sorted({c for _, c in found})
    assert len(found) == len(set(found)) == len(down) * len(across)
    if (rows, columns) in ((30, 52), (8, 8), (2, 3), (1, 9), (9, 1), (4, 4)):
        assert (len(down), len(across)) == shape
    assert samples is None or len(found) <= samples
    assert all(0 <= r < rows and 0 <= c < columns for r, c in found)
    assert found == sample_positions(rows, columns, samples)
    for places, size in ((down, rows), (across, columns)):
        assert abs(places[0] - (size - 1 - places[-1])) <= 1, "the grid must stand in the middle"


@pytest.mark.parametrize("bad", [(0, 3, 4), (3, 0, 4), (3, 3, 0), (3, 3, -1)])
def test_an_impossible_sample_is_refused(bad):
    with pytest.raises(ValueError, match="at least 1"):
        sample_positions(*bad)


def test_a_long_pass_is_pooled_in_parts(monkeypatch):
    q, k = torch.randn(2, 6, 2, 8), torch.randn(5 * 6, 2, 8)
    mask = torch.rand(2, 6, 30) < 0.7
    whole = pool_over_slots(q, k, 6, mask)
    monkeypatch.setattr("studio.probes.softmax._AT_ONCE", 2 * 2 * 30)
    for a, b in zip(whole, pool_over_slots(q, k, 6, mask), strict=True):
        torch.testing.assert_close(a, b)


def test_large_logits_do_not_overflow():
    weights = attention_weights(torch.full((1, 1, 4), 300.0), torch.full((3, 1, 4), 300.0))
    torch.testing.assert_close(weights, torch.full((1, 1, 3), 1 / 3))


# -- cost ---------------------------------------------------------------------------------------------------------


def operations(run):
    # Torch counts the plain kernel's products and not the CPU's fused one's.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_counted_operations_are_those_of_torch():
    dit, cache, probe = tiny.dit(), tiny.cache(), AttentionProbe(tiny.DIT, steps=STEPS)
    list(takes.roll(dit, cache, takes.plan(2)))
    condition, x = dit.condition(tiny.text()), tiny.latents(3)
    context = CachedContext(cache, cache.begin())
    time = FlowSchedule(shift=tiny.SAMPLER.shift).warp(tiny.SAMPLER.steps[-1:])
    once = operations(lambda: dit(x, time, condition, context=context))
    assert once - operations(lambda: dit.embed_time(time)) == pass_flops(tiny.DIT, 18, 54)
    with Watch(dit, tiny.SAMPLER, probe):
        watched = operations(lambda: dit(x, time, condition, context=context))
    assert probe.cost.flops == watched - once
    assert probe.cost.network_flops == pass_flops(tiny.DIT, 18, 54) and probe.cost.passes == 1
    assert probe.cost.seconds > 0


def test_the_default_sample_costs_little_on_every_model():
    for name in ("miniature", "longlive-1.3b"):
        config = PRESETS[name]
        shape, dit = VideoShape.of(config), config.dit
        queries, keys = shape.block * shape.tokens_per_frame, (config.cache.capacity or 0) * shape.tokens_per_frame
        passes = len(config.sampler.steps) + 1
        asked = 16 * shape.block
        side = dit.layers * side_pass_flops(asked, keys + dit.text_len, dit.heads, dit.head_dim)
        assert side < 0.02 * passes * pass_flops(dit, queries, keys), name


def test_the_share_of_time_is_of_the_time_without_the_probe():
    assert Cost(seconds=1.0).time_share(11.0) == pytest.approx(0.1)
    assert Cost().flops_share == 0
    assert Cost(flops=1, network_flops=4).flops_share == 0.25
    with pytest.raises(ValueError, match="must exceed"):
        Cost(seconds=1.0).time_share(1.0)


# -- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "`samples` must be at least 1"),
        ({"layers": ()}, "`layers` must be"),
        ({"layers": (-1,)}, "`layers` must be"),
        ({"layers": (2,)}, r"`layers` must lie in 0..1, got 2"),
        ({"steps": (STEPS,)}, "`steps` must lie in"),
        ({"steps": (-STEPS - 1,)}, "`steps` must lie in"),
        ({"video": -1}, "`video` must be at least 0"),
    ],
)
def test_an_impossible_sampling_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AttentionProbe(tiny.DIT, steps=STEPS, sampling=AttentionSampling(**options))


def test_an_empty_memory_is_refused():
    with pytest.raises(ValueError, match="`keep` must be at least 1"):
        AttentionProbe(tiny.DIT, steps=STEPS, keep=0)


@pytest.mark.parametrize("point", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_a_negative_point_is_refused(point):
    with pytest.raises(ValueError, match="at least 0"):
        Point(frame=point[0], row=point[1], column=point[2])


@pytest.mark.parametrize(
    "options",
    [
        {"points": (Point(frame=3, row=0, column=0),)},
        {"points": (Point(frame=0, row=2, column=0),)},
        {"points": (Point(frame=0, row=0, column=3),)},
        {"video": 1},
    ],
)
def test_what_is_not_in_the_pass_is_named(options):
    with pytest.raises(ValueError, match="must lie"):
        read(sampling=AttentionSampling(**options), blocks=1)
