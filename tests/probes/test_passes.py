"""A watch names every pass and every key rightly, and leaves nothing behind."""

from __future__ import annotations

import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from studio.config import CacheConfig, SamplerConfig
from studio.model.attention import CachedContext, TeacherForcedContext
from studio.probes import AttentionProbe, Watch
from studio.sampler import commit, rollout
from tests.contracts import tiny
from tests.probes import takes

STEPS = len(tiny.SAMPLER.steps)
CONFIGS = [
    CacheConfig(),
    CacheConfig(positions="window", sink_policy="rewrite"),
    CacheConfig(sink=1, window=9),
    CacheConfig(sink=0, window=3, positions="window"),
    CacheConfig(sink=4, window=6),
]


def heard(config=None, switches=None, blocks=6, sampler=tiny.SAMPLER):
    dit, cache, spy = tiny.dit(), tiny.cache(config), takes.Spy()
    with Watch(dit, sampler, spy):
        list(takes.roll(dit, cache, takes.plan(blocks, switches), sampler=sampler))
    return spy, cache


def test_every_pass_of_a_rollout_is_heard_in_order():
    spy, _ = heard(switches={2: ("recache", None)}, blocks=3)
    block = [("denoise", step) for step in range(STEPS)] + [("commit", None)]
    expected = [(0, *x) for x in block] + [(1, *x) for x in block] + [(2, "recache", None)] + [(2, *x) for x in block]
    assert [(call.block, call.kind, call.step) for call in spy.passes] == expected
    assert spy.ended == spy.passes


def test_a_commit_with_a_steps_own_timestep_is_still_a_commit():
    sampler = SamplerConfig(steps=(1000, 500), shift=1.0, context_timestep=500.0)
    spy, _ = heard(blocks=2, sampler=sampler)
    assert [call.kind for call in spy.passes] == ["denoise", "denoise", "commit"] * 2
    assert [call.step for call in spy.passes] == [0, 1, None] * 2


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("policy", [("recache", "keep"), ("recache", "rewrite"), ("clear", None), ("keep", None)])
def test_every_key_belongs_to_the_frame_it_is_said_to(config, policy):
    """Values carry no position, so the value of a committed frame can be found again in every later pass."""
    dit, cache = tiny.dit(), tiny.cache(config)
    spy = takes.Spy()
    written: dict[int, torch.Tensor] = {}
    checked = 0
    with Watch(dit, tiny.SAMPLER, spy):
        for _ in takes.roll(dit, cache, takes.plan(9, {5: policy, 7: policy})):
            for call, tensors in zip(spy.passes, spy.tensors, strict=True):
                values = tensors["self"][1][2].unflatten(1, (-1, cache.tokens))
                assert values.shape[1] == len(call.slots)
                for index, slot in enumerate(call.slots):
                    if slot.frame not in call.stored:
                        assert torch.equal(values[:, index], written[slot.frame])
                        checked += 1
                if call.kind != "denoise":
                    written |= {s.frame: values[:, i] for i, s in enumerate(call.slots) if s.frame in call.stored}
            spy.passes.clear(), spy.tensors.clear()
    assert checked or config.capacity == 3


@pytest.mark.parametrize("config", CONFIGS)
def test_the_slots_of_a_commit_are_those_of_the_cache_afterwards(config):
    dit, cache, spy = tiny.dit(), tiny.cache(config), takes.Spy()
    with Watch(dit, tiny.SAMPLER, spy):
        for _ in takes.roll(dit, cache, takes.plan(8, {4: ("recache", None)})):
            last = spy.passes[-1]
            held = {(s.frame, s.role) for s in cache.slots if s.frame is not None}
            assert {(s.frame, s.role) for s in last.slots} == held
            assert last.frames == last.stored == tuple(range(cache.end - 3, cache.end))


def test_a_limited_view_names_only_what_is_seen():
    dit, spy = tiny.dit(), takes.Spy()
    cache = tiny.cache(CacheConfig(sink=0, window=None, attend=6), frames=12)
    with Watch(dit, tiny.SAMPLER, spy):
        list(takes.roll(dit, cache, takes.plan(4, {3: ("recache", None)})))
    assert [s.frame for s in spy.passes[-1].slots] == [6, 7, 8, 9, 10, 11]
    recached = next(call for call in spy.passes if call.kind == "recache")
    assert recached.frames == recached.stored == tuple(range(3, 9))


def test_the_bidirectional_network_is_a_clip():
    dit, spy = tiny.dit(), takes.Spy()
    with Watch(dit, tiny.SAMPLER, spy):
        dit(tiny.latents(5), torch.full((1,), 400.0), tiny.text())
    call = spy.passes[0]
    assert (call.kind, call.frames, call.timestep, call.cache) == ("clip", (0, 1, 2, 3, 4), 400.0, None)


def test_only_the_named_cache_is_heard():
    dit, mine, other, spy = tiny.dit(), tiny.cache(), tiny.cache(), takes.Spy()
    with Watch(dit, tiny.SAMPLER, spy, cache=mine):
        for cache in (other, mine):
            commit(dit, cache, tiny.latents(3), tiny.text(), tiny.SAMPLER)
        dit(tiny.latents(3), torch.zeros(1), tiny.text())
    assert [call.cache for call in spy.passes] == [mine]


def test_a_tap_that_was_given_hears_as_well():
    dit, cache, spy = tiny.dit(), tiny.cache(), takes.Spy()
    mine = takes.Spy()
    mine.begin(None)
    with Watch(dit, tiny.SAMPLER, spy):
        commit(dit, cache, tiny.latents(3), tiny.text(), tiny.SAMPLER, tap=mine)
    assert set(mine.tensors[0]["self"]) == set(spy.tensors[0]["self"]) == {0, 1}


def test_a_pass_that_fails_ends_for_nobody():
    dit, spy = tiny.dit(), takes.Spy()
    with Watch(dit, tiny.SAMPLER, spy):
        with pytest.raises(ValueError, match="`x` must have shape"):
            dit(tiny.latents(3)[:, :, :2], torch.zeros(1), tiny.text())
        dit(tiny.latents(3), torch.zeros(1), tiny.text())
    assert len(spy.ended) == 1


def test_a_failed_pass_does_not_end_with_the_next_one():
    dit, mine, other, spy = tiny.dit(), tiny.cache(), tiny.cache(), takes.Spy()
    with Watch(dit, tiny.SAMPLER, spy, cache=mine):
        with pytest.raises(ValueError, match="`text` must have shape"):
            commit(dit, mine, tiny.latents(3), tiny.text()[:, :2], tiny.SAMPLER)
        commit(dit, other, tiny.latents(3), tiny.text(), tiny.SAMPLER)
    assert spy.ended == [] and len(spy.passes) == 1


def test_misshapen_latents_fail_as_they_do_without_a_watch():
    dit, spy, errors = tiny.dit(), takes.Spy(), []
    for watch in (Watch(dit, tiny.SAMPLER, spy), None):
        with pytest.raises(RuntimeError) as error:
            commit(dit, tiny.cache(), tiny.latents(2), tiny.text(), tiny.SAMPLER)
        errors.append(str(error.value))
        if watch is not None:
            watch.close()
    assert errors[0] == errors[1] and spy.passes == []


def test_teacher_forced_clips_are_not_heard():
    dit, spy = tiny.dit(), takes.Spy()
    context = TeacherForcedContext(CacheConfig(), frames=6, block=3, grid=tiny.GRID, head_dim=tiny.DIT.head_dim)
    with Watch(dit, tiny.SAMPLER, spy):
        dit(tiny.latents(12), torch.zeros(1, 12), tiny.text(), context=context)
    assert spy.passes == []


def test_takes_in_two_threads_are_told_apart():
    dit = tiny.dit()
    alone = takes.latents(dit, None, takes.plan(4))
    caches, spies, made = [tiny.cache(), tiny.cache()], [takes.Spy(), takes.Spy()], {}

    def run(index):
        made[index] = torch.cat([b.latents for b in takes.roll(dit, caches[index], takes.plan(4))], dim=1)

    watches = [Watch(dit, tiny.SAMPLER, spy, cache=cache) for spy, cache in zip(spies, caches, strict=True)]
    threads = [threading.Thread(target=run, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for watch in watches:
        watch.close()
    for index, spy in enumerate(spies):
        assert torch.equal(made[index], alone)
        assert [call.kind for call in spy.passes] == (["denoise"] * STEPS + ["commit"]) * 4
        assert spy.ended == spy.passes and {id(call.cache) for call in spy.passes} == {id(caches[index])}


def test_a_watch_needs_listeners():
    with pytest.raises(ValueError, match="at least one listener"):
        Watch(tiny.dit(), tiny.SAMPLER)


class Operations(TorchDispatchMode):
    """Every operation of a stretch of code and the bytes it returned."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        size = out.numel() * out.element_size() if isinstance(out, torch.Tensor) else 0
        self.seen.append((str(func), size))
        return out


def operations(dit):
    cache = tiny.cache()
    with Operations() as mode:
        list(rollout(dit, cache, takes.plan(3), takes.noise(), tiny.SAMPLER))
    return mode.seen


def test_a_closed_watch_costs_nothing():
    dit = tiny.dit()
    before = operations(dit)
    watch = Watch(dit, tiny.SAMPLER, AttentionProbe(tiny.DIT, steps=STEPS))
    during = operations(dit)
    watch.close()
    watch.close()
    assert not dit._forward_hooks and not dit._forward_pre_hooks
    assert operations(dit) == before and len(during) > len(before)


def test_a_watch_inside_inference_mode_and_inside_training():
    dit, cache = tiny.dit(), tiny.cache()
    probe = AttentionProbe(tiny.DIT, steps=STEPS)
    with Watch(dit, tiny.SAMPLER, probe), torch.inference_mode():
        commit(dit, cache, tiny.latents(3), tiny.text(), tiny.SAMPLER)
    dit.requires_grad_(True)
    with Watch(dit, tiny.SAMPLER, probe):
        x = dit(tiny.latents(3), torch.zeros(1), tiny.text(), context=CachedContext(cache, cache.begin()))
    x.sum().backward()
    assert dit.blocks[0].self_attn.q.weight.grad is not None
