"""One teacher-forced pass over a clip sees exactly what the cached rollout sees, block by block."""

from __future__ import annotations

import pytest
import torch

from studio.config import CacheConfig
from studio.model.attention import CachedContext, TeacherForcedContext
from studio.sampler import commit, recache
from tests.contracts import tiny

FRAMES = 21


def block_by_block(dit, config, clean, noisy, times, text, switch=None, old_text=None):
    cache = tiny.cache(config, batch=len(clean))
    flows = []
    for first in range(0, FRAMES, 3):
        now = text if switch is None or first >= switch else old_text
        if first == switch:
            recache(dit, cache, text, tiny.SAMPLER, prompt=1)
        span = slice(first, first + 3)
        flows.append(dit(noisy[:, span], times[:, span], now, context=CachedContext(cache, cache.begin())))
        commit(dit, cache, clean[:, span], now, tiny.SAMPLER)
    return torch.cat(flows, dim=1)


def at_once(dit, config, clean, noisy, times, text, recached=None):
    context = TeacherForcedContext(
        config, frames=FRAMES, block=3, grid=tiny.GRID, head_dim=tiny.DIT.head_dim, recached=recached
    )
    both = torch.cat([clean, noisy], dim=1)
    timestep = torch.cat([torch.zeros_like(times), times], dim=1)
    return dit(both, timestep, text, context=context)[:, FRAMES:]


def inputs(batch: int = 2):
    times = torch.rand(batch, FRAMES // 3, generator=torch.Generator().manual_seed(5)).mul(1000).repeat_interleave(3, 1)
    return tiny.latents(FRAMES, 3, batch), tiny.latents(FRAMES, 4, batch), times


@torch.no_grad()
@pytest.mark.parametrize("positions", ["absolute", "window"])
@pytest.mark.parametrize(("sink", "window"), [(3, 9), (3, 6), (0, 9), (3, 18), (1, 6)])
def test_equals_cached_blocks(positions, sink, window):
    dit, config = tiny.dit(), CacheConfig(sink=sink, window=window, positions=positions)
    clean, noisy, times = inputs()
    text = tiny.text(batch=2)
    expected = block_by_block(dit, config, clean, noisy, times, text)
    got = at_once(dit, config, clean, noisy, times, text)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["absolute", "window"])
@pytest.mark.parametrize("switch", [3, 6, 12])
def test_equals_cached_blocks_after_a_recache(positions, switch):
    dit, config = tiny.dit(), CacheConfig(positions=positions)
    clean, noisy, times = inputs()
    old, new = tiny.text(7, 2), tiny.text(8, 2)
    expected = block_by_block(dit, config, clean, noisy, times, new, switch, old)
    got = at_once(dit, config, clean, noisy, times, new, recached=switch)
    torch.testing.assert_close(got[:, switch:], expected[:, switch:], atol=2e-5, rtol=1e-4)
    assert not torch.allclose(got[:, :switch], expected[:, :switch], atol=1e-3), "the old prompt must matter"


@torch.no_grad()
@pytest.mark.parametrize("positions", ["absolute", "window"])
@pytest.mark.parametrize("recached", [None, 6])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_both_ways_to_hide_frames_agree(positions, recached):
    dit, (clean, noisy, times), text = tiny.dit(), inputs(), tiny.text(batch=2)
    both, timestep = torch.cat([clean, noisy], dim=1), torch.cat([torch.zeros_like(times), times], dim=1)
    flows = []
    for flex in (False, True):
        context = TeacherForcedContext(
            CacheConfig(positions=positions), frames=FRAMES, block=3, grid=tiny.GRID, head_dim=tiny.DIT.head_dim,
            recached=recached, flex=flex,
        )  # fmt: skip
        flows.append(dit(both, timestep, text, context=context))
    torch.testing.assert_close(*flows, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("recached", [None, 6])
def test_noisy_frames_alone_against_remembered_clean_ones(recached):
    dit, config = tiny.dit(), CacheConfig(positions="window")
    clean, noisy, times = inputs()
    text = tiny.text(batch=2)
    context = TeacherForcedContext(
        config, frames=FRAMES, block=3, grid=tiny.GRID, head_dim=tiny.DIT.head_dim, recached=recached
    )
    with pytest.raises(RuntimeError, match="remember"):
        context.noisy_only()
    context.remember()
    both, timestep = torch.cat([clean, noisy], dim=1), torch.cat([torch.zeros_like(times), times], dim=1)
    whole = dit(both, timestep, text, context=context)[:, FRAMES:]
    other = tiny.latents(FRAMES, 9, 2)
    dit(torch.cat([clean, other], dim=1), timestep, text, context=context)
    torch.testing.assert_close(dit(noisy, times, text, context=context.noisy_only()), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 20}, "multiple of the block size 3, got 20"),
        ({"frames": 0}, "got 0"),
        ({"recached": 13}, "1..12"),
        ({"recached": 0}, "1..12"),
    ],
)
def test_bad_clips_are_refused(change, message):
    options = {"frames": FRAMES, "block": 3, "grid": tiny.GRID, "head_dim": 24} | change
    with pytest.raises(ValueError, match=message):
        TeacherForcedContext(CacheConfig(), **options)


def test_needs_a_window():
    with pytest.raises(ValueError, match="window=None"):
        TeacherForcedContext(CacheConfig(sink=0, window=None), frames=21, block=3, grid=tiny.GRID, head_dim=24)
