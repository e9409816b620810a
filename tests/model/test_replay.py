"""Recorded passes: the same latents and caches as the passes themselves, and never one too many."""

from __future__ import annotations

import gc

import pytest
import torch

from studio.config import CacheConfig
from studio.model.backends import Backend, attention, use_backend
from studio.model.lora import Adapters, LoRA, Pair
from studio.model.replay import Replays
from studio.sampler import BlockPlan, NoiseSource, rollout
from tests.contracts import tiny
from tests.model.test_fused import Ear, assert_same_cache, film


class Tape:
    """Records as a CUDA graph does: whatever was no buffer keeps the value that it had."""

    def __init__(self):
        self.runs = self.repeats = 0

    def __call__(self):
        return self.record

    def record(self, run):
        self.runs += 1
        out = run().clone()

        def repeat():
            self.repeats += 1
            out.copy_(run())

        return repeat, out


def taped(dit):
    tape = Tape()
    dit.fuse(compiled=False)
    dit.replays = Replays(dit._run, dit, tape)
    return dit, tape


@pytest.mark.parametrize("positions", ["absolute", "window"])
@pytest.mark.parametrize("seed", range(4))
def test_latents_and_caches_are_those_of_the_passes(positions, seed):
    config = CacheConfig(sink=3, window=6, positions=positions)
    plain, first = film(tiny.dit().fuse(compiled=False), config, seed)
    dit, tape = taped(tiny.dit())
    replayed, second = film(dit, config, seed)
    assert torch.equal(replayed, plain)
    assert_same_cache(first, second)
    assert tape.repeats > 0


def test_one_recording_a_place_in_the_ring():
    """One for the denoising steps and one for the commit; prompts and positions are only other numbers in them."""
    dit, tape = taped(tiny.dit())
    cache = tiny.cache(CacheConfig(sink=3, window=6))
    texts = [tiny.text(seed) for seed in (1, 2)]
    plan = (BlockPlan(text=texts[i // 8], prompt=i // 8, policy="keep" if i == 8 else None) for i in range(14))
    list(rollout(dit, cache, plan, NoiseSource(0, (1, 3, *tiny.LATENT)), tiny.SAMPLER))
    # The third block fills the cache; from then on the two places of the window take turns.
    assert tape.runs == dit.replays.recorded == 2 * 2
    assert tape.repeats == 12 * 5 - 4


def test_what_is_no_such_pass_is_run():
    ear, config = Ear(), CacheConfig(sink=3, window=6)
    dit, tape = taped(tiny.dit())
    film(dit, config, 1, ear)
    assert len(ear.heard) > 0
    clip = tiny.latents(9)
    tape.runs = tape.repeats = 0
    torch.testing.assert_close(dit(clip, torch.zeros(1), tiny.text()), tiny.dit()(clip, torch.zeros(1), tiny.text()))
    assert tape.runs == tape.repeats == 0


def test_an_adapter_beside_the_weights_is_not_replayed():
    pair = Pair(down=torch.randn(4, tiny.DIT.dim), up=torch.randn(tiny.DIT.dim, 4), scale=0.1)
    config, films = CacheConfig(sink=3, window=6), []
    dit, tape = taped(tiny.dit())
    for network in (tiny.dit(), dit):
        adapters = Adapters(network)
        before = film(network, config, 2)[0]
        repeats = tape.repeats
        adapters.add(LoRA(name="style", layers={"blocks.1.self_attn.q": pair}))
        films.append((before, film(network, config, 2)[0]))
        assert tape.repeats == repeats
    for plain, quick in zip(*films, strict=True):
        torch.testing.assert_close(quick, plain, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(*films[0])


def test_another_back_end_is_another_recording():
    dit, tape = taped(tiny.dit())
    cache = tiny.cache(CacheConfig(sink=3, window=6))
    noise = NoiseSource(0, (1, 3, *tiny.LATENT))
    list(rollout(dit, cache, [BlockPlan(text=tiny.text())] * 6, noise, tiny.SAMPLER))
    runs = tape.runs
    use_backend(dit, Backend(name="halved", kernel=lambda q, k, v: attention.kernel(q, k, v) / 2))
    list(rollout(dit, cache, [BlockPlan(text=tiny.text())] * 2, noise, tiny.SAMPLER))
    assert tape.runs == runs + 2


def test_what_cannot_be_recorded_is_run_and_says_why(caplog):
    config = CacheConfig(sink=3, window=6)
    dit = tiny.dit().fuse(compiled=False)
    expected, _ = film(dit, config, 3)

    def refuse(run):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    dit.replays = Replays(dit._run, dit, lambda: refuse)
    assert torch.equal(film(dit, config, 3)[0], expected)
    assert dit.replays.fault == "RuntimeError: operation not permitted when stream is capturing"
    assert dit.replays.recorded == 0
    assert [record.message for record in caplog.records if "not recorded" in record.message]


def test_a_third_cache_is_run_until_one_is_let_go():
    dit, _ = taped(tiny.dit())
    dit.replays._recorder = lambda: lambda run: (lambda out: ((lambda: None), out))(run().clone())
    caches = [tiny.cache(CacheConfig(sink=3, window=6)) for _ in range(3)]

    def play(cache):
        noise = NoiseSource(0, (1, 3, *tiny.LATENT))
        list(rollout(dit, cache, [BlockPlan(text=tiny.text())] * 3, noise, tiny.SAMPLER))
        return dit.replays.recorded

    assert [play(cache) for cache in caches] == [1, 2, 2]
    caches[0] = None
    gc.collect()
    assert dit.replays.recorded == 1
    assert play(caches[2]) > 1


def test_a_recorder_goes_with_its_last_recording():
    """The memory that recordings share is given back with them; the next needs one that is alive."""
    made = []

    def recorder():
        made.append(0)

        def record(run):
            made[-1] += 1
            out = run().clone()
            return (lambda: None), out  # as a graph, it holds no cache

        return record

    dit = tiny.dit()
    dit.fuse(compiled=False)
    dit.replays = Replays(dit._run, dit, recorder)
    for _ in range(2):
        film(dit, CacheConfig(sink=3, window=6), 1)
        gc.collect()
        assert dit.replays.recorded == 0
    assert len(made) == 2 and all(made)
