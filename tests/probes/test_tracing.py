"""Words traced through the cache, against loops over every pass of the take, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from studio.config import CacheConfig
from studio.probes import AttentionProbe, AttentionSampling, Watch, Word, WordTracer
from tests.contracts import tiny
from tests.probes import takes

# The text of five tokens: two words of the first prompt, one of two tokens in the second, the rest is none.
WORDS = {
    0: (Word(text="red", start=0, stop=1), Word(text="fox", start=1, stop=2)),
    1: (Word(text="rabbit", start=0, stop=2),),
}
STEPS = len(tiny.SAMPLER.steps)


def softmax(q, k):
    q, k = q[0].double().transpose(0, 1), k[0].double().transpose(0, 1)
    weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).exp()
    return (weights / weights.sum(-1, keepdim=True)).numpy()


def trace(policy, sink_policy=None, blocks=7, at=3, late=False):
    """A take with one switch; every pass by a spy, and the trace after each block."""
    entries = takes.plan(blocks, {at: (policy, sink_policy)})
    dit, cache, spy, tracer = (
        tiny.dit(),
        tiny.cache(CacheConfig(sink=3, window=6)),
        takes.Spy(),
        WordTracer(samples=None),
    )
    sampling = AttentionSampling(samples=None)
    probe = AttentionProbe(tiny.DIT, steps=STEPS, sampling=sampling)
    found = []

    def told():
        for entry in entries:
            tracer.expect(entry.prompt, WORDS[entry.prompt])
            yield entry

    rolled = takes.rollout(dit, cache, told(), takes.noise(), tiny.SAMPLER)
    listeners = (probe, tracer, spy)
    if late:
        next(rolled)
        found.append(None)
    with Watch(dit, tiny.SAMPLER, *listeners, cache=cache):
        for _ in rolled:
            found.append(tracer.trace(probe.readings[-1]))
    return found, spy


def by_hand(spy, block):
    """Shares by (prompt, word or None) of a block: loops over the passes before it, none of the probe's own sums."""
    tokens = tiny.GRID[0] * tiny.GRID[1]
    heard: dict[int, tuple[int, list]] = {}
    for call, tensors in zip(spy.passes, spy.tensors, strict=True):
        if call.kind in ("commit", "recache") and (
            call.block < block or (call.kind == "recache" and call.block == block)
        ):
            prompt = 0 if call.block < 3 else 1
            for index, frame in enumerate(call.frames):
                if frame not in call.stored:
                    continue
                layers = []
                for q, k, _ in (tensors["cross"][layer] for layer in range(2)):
                    weights = softmax(q, k)[:, index * tokens : (index + 1) * tokens]
                    layers.append(weights.mean(axis=(0, 1)))
                heard[frame] = prompt, layers
        if call.kind == "denoise" and call.block == block and call.step == STEPS - 1:
            q, k, _ = tensors["self"][1]
            shares = {}
            weights = softmax(q, k).mean(axis=(0, 1))
            for place, slot in enumerate(call.slots):
                if slot.frame in call.frames or slot.frame is None:
                    continue
                mass = weights[place * tokens : (place + 1) * tokens].sum()
                prompt, layers = heard[slot.frame]
                # Two layers: the notes of the second hold what the first heard.
                left = 1.0
                for index, word in enumerate(WORDS[prompt]):
                    share = layers[0][word.start : word.stop].sum()
                    left -= share
                    shares[prompt, index] = shares.get((prompt, index), 0) + mass * share
                shares["rest"] = shares.get("rest", 0) + mass * left
            return shares
    raise AssertionError("the block was not heard")


@pytest.mark.parametrize(
    ("policy", "sink_policy"), [("keep", None), ("recache", "keep"), ("recache", "rewrite"), ("clear", None)]
)
def test_the_trace_is_what_loops_over_all_passes_find(policy, sink_policy) -> None:
    found, spy = trace(policy, sink_policy)
    for block in range(7):
        wanted = by_hand(spy, block)
        assert found[block].block == block
        told = {(word.prompt, word.index): word.share for word in found[block].words}
        assert set(told) == set(wanted) - {"rest"}
        for key, share in told.items():
            assert share == pytest.approx(wanted[key], abs=1e-5)
        assert found[block].rest == pytest.approx(wanted.get("rest", 0), abs=1e-5)
        assert found[block].unheard == 0


POLICIES = {
    "keep": ("keep", None),
    "kept sink": ("recache", "keep"),
    "rewritten": ("recache", "rewrite"),
    "clear": ("clear", None),
}


def test_old_words_fade_as_the_policy_says() -> None:
    old = {}
    for name, (policy, sink) in POLICIES.items():
        found, _ = trace(policy, sink, blocks=9, at=5)
        assert found[4].share(0) > 0 and found[4].share(1) == 0
        old[name] = [each.share(0) for each in found[5:]]
    assert old["rewritten"] == [0, 0, 0, 0]
    assert old["clear"] == [0, 0, 0, 0]
    # The window rolls the old words out; a kept sink holds on to its own.
    assert old["keep"][0] > old["kept sink"][0] > 0
    assert old["keep"][0] > old["keep"][1] > old["keep"][2] > 0
    assert min(old["kept sink"]) > 0


def test_what_was_not_heard_is_named_and_never_guessed() -> None:
    found, _ = trace("keep", late=True)
    assert found[1].unheard > 0 and found[1].words == ()
    assert found[1].looked == pytest.approx(found[1].unheard + found[1].rest)
    # By block 6 the window has rolled through; the sink stays unheard for ever.
    assert found[6].unheard > 0 and {word.prompt for word in found[6].words} == {1}
    assert found[6].looked == pytest.approx(found[6].unheard + found[6].rest + found[6].share(1))


def test_the_parts_are_the_look_into_the_cache() -> None:
    found, spy = trace("keep")
    for block, each in enumerate(found):
        assert each.looked == pytest.approx(sum(by_hand(spy, block).values()), abs=1e-5)
        assert [row["word"] for row in each.rows()] == [word.text for word in each.words]


def test_a_text_without_words_is_unheard() -> None:
    dit, cache, tracer = tiny.dit(), tiny.cache(), WordTracer()
    probe = AttentionProbe(tiny.DIT, steps=STEPS)
    with Watch(dit, tiny.SAMPLER, probe, tracer, cache=cache):
        for _ in takes.roll(dit, cache, takes.plan(2)):
            pass
    found = tracer.trace(probe.readings[-1])
    assert found is not None and found.words == () and found.unheard == pytest.approx(found.looked)


def test_a_reading_of_some_layers_cannot_be_traced() -> None:
    dit, cache, tracer = tiny.dit(), tiny.cache(), WordTracer()
    probe = AttentionProbe(tiny.DIT, steps=STEPS, sampling=AttentionSampling(layers=(1,)))
    tracer.expect(0, WORDS[0])
    with Watch(dit, tiny.SAMPLER, probe, tracer, cache=cache):
        list(takes.roll(dit, cache, takes.plan(2)))
    # One layer alone looks like a network whose notes hear nothing.
    assert tracer.trace(probe.readings[-1]) is None
    probe.readings[-1].__dict__["mass"] = np.repeat(probe.readings[-1].mass, 3, axis=0)
    with pytest.raises(ValueError, match="must be of all 2 layers, got 3"):
        tracer.trace(probe.readings[-1])


def test_tracing_changes_nothing() -> None:
    entries = takes.plan(5, {3: ("recache", None)})
    wanted = takes.latents(tiny.dit(), None, entries)
    dit, cache = tiny.dit(), tiny.cache()
    with Watch(dit, tiny.SAMPLER, WordTracer(), cache=cache):
        made = [block.latents for block in takes.roll(dit, cache, entries)]
    assert torch.equal(torch.cat(made, dim=1), wanted)
