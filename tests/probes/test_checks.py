"""Checks fire on planted faults, once and with the block, and never on healthy takes."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from studio.config import CacheConfig, DiTConfig, SamplerConfig
from studio.model.attention import CachedContext
from studio.model.cache import KVCache
from studio.model.dit import WanDiT
from studio.model.lora import Adapters, LoRA, Pair
from studio.probes import Watch, checks
from studio.probes.checks import HealthCheck
from studio.probes.faults import CacheFault
from studio.sampler import BlockPlan, NoiseSource, recache, rollout
from tests.contracts import tiny
from tests.probes import takes


def take(
    *,
    config: CacheConfig | None = None,
    switches: dict | None = None,
    blocks: int = 6,
    fault: Callable | None = None,
    after: int = 3,
    entries: Callable = lambda check, plan: check.plan(plan),
    **options,
) -> list:
    """Roll out a take; `fault(dit, cache)` strikes when block `after` has been made. Returns its warnings."""
    dit, cache = tiny.dit(), tiny.cache(config)
    check = HealthCheck(dit, tell=lambda warning: None, **options)
    with Watch(dit, tiny.SAMPLER, check):
        plan = entries(check, takes.plan(blocks, switches))
        for block in rollout(dit, cache, plan, takes.noise(), tiny.SAMPLER):
            if fault is not None and block.index == after:
                fault(dit, cache)
    return check.warnings


def slot(tensor, index, tokens=6):
    return tensor[:, index * tokens : (index + 1) * tokens]


def fill(index, value, layers=(0, 1), keys=True, values=True):
    def strike(_dit, cache):
        for layer in layers:
            for side in [cache.keys] * keys + [cache.values] * values:
                slot(side[layer], index).fill_(value)

    return strike


def test_adapters_that_change_are_no_other_text():
    torch.manual_seed(0)
    size = tiny.DIT.dim
    pair = Pair(down=torch.randn(2, size), up=torch.randn(size, 2), scale=1.0)

    def add(dit, _cache):
        Adapters(dit).add(LoRA(name="style", layers={"blocks.0.cross_attn.k": pair}))

    assert not take(fault=add, switches={5: ("recache", None)})


# -- planted faults -----------------------------------------------------------------------------------------------


def test_a_zeroed_sink_is_reported_once_with_its_block():
    def strike(dit, cache):
        for index in range(3):
            fill(index, 0)(dit, cache)

    (warning,) = take(fault=strike, blocks=9)
    assert (warning.kind, warning.block, warning.layer, warning.slot) == ("zero_slot", 4, 0, 0)
    assert "sink slots [0, 1, 2] (latent frames [0, 1, 2]" in warning.message and "recache" in warning.message


@pytest.mark.parametrize("side", [{"keys": False}, {"values": False}])
@pytest.mark.parametrize("layer", [0, 1])
def test_one_zeroed_tensor_of_one_layer_is_enough(side, layer):
    (warning,) = take(fault=fill(1, 0, layers=(layer,), **side))
    assert (warning.kind, warning.layer, warning.slot) == ("zero_slot", layer, 1)


def test_a_zeroed_window_slot_names_its_place_in_the_order_of_age():
    def strike(dit, cache):
        place = {s.frame: i for i, s in zip(cache.order(), cache.slots, strict=True)}[15]
        fill(place, 0)(dit, cache)

    (warning,) = take(fault=strike, blocks=9, after=6)
    # Block 7 sees the sink and frames 15 to 23.
    assert (warning.kind, warning.block, warning.slot) == ("zero_slot", 7, 3) and "window slots [3]" in warning.message


def test_a_fault_that_heals_and_returns_is_reported_again():
    dit, cache = tiny.dit(), tiny.cache(CacheConfig(window=3))
    check = HealthCheck(dit, tell=lambda warning: None)
    with Watch(dit, tiny.SAMPLER, check):
        for block in takes.roll(dit, cache, takes.plan(8)):
            if block.index in (1, 5):
                saved = [slot(x, 0).clone() for x in (*cache.keys, *cache.values)]
                fill(0, 0)(dit, cache)
            if block.index == 3:
                for x, old in zip((*cache.keys, *cache.values), saved, strict=True):
                    slot(x, 0).copy_(old)
    assert [(w.kind, w.block) for w in check.warnings] == [("zero_slot", 2), ("zero_slot", 6)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_reported(value):
    found = take(fault=fill(2, value, layers=(1,), keys=False))
    assert (found[0].kind, found[0].block, found[0].layer, found[0].slot) == ("not_finite", 4, 1, 2)
    assert "float32" in found[0].message


def test_a_network_that_breaks_is_reported_in_the_block_it_breaks_in():
    def strike(dit, _cache):
        dit.blocks[0].ffn[0].weight.fill_(float("nan"))

    found = take(fault=strike)
    assert [(w.kind, w.block, w.layer) for w in found] == [("not_finite", 4, 0)]


def test_exploding_values_are_reported():
    def strike(dit, _cache):
        dit.blocks[1].self_attn.v.weight.mul_(1000)

    (warning,) = take(fault=strike)
    assert (warning.kind, warning.block, warning.layer) == ("exploding_norm", 4, 1)
    assert "more than 10 times" in warning.message
    assert take(fault=strike, explode=1e9) == []


def skip_one(frame):
    """A recache that leaves one slot as it was, and says that it did not."""

    def strike(dit, cache):
        place = {s.frame: i for i, s in zip(cache.order(), cache.slots, strict=True)}[frame]
        saved = [slot(x, place).clone() for x in (*cache.keys, *cache.values)]
        recache(dit, cache, tiny.text(101), tiny.SAMPLER, prompt=1)
        for x, old in zip((*cache.keys, *cache.values), saved, strict=True):
            slot(x, place).copy_(old)

    return strike


def test_a_slot_that_the_recache_skipped_is_reported():
    (warning,) = take(fault=skip_one(8), entries=lambda _check, plan: plan)
    assert (warning.kind, warning.block, warning.slot) == ("stale_slot", 4, 5)
    assert "latent frames [8]" in warning.message and "recache once more" in warning.message


def test_a_recache_that_was_never_recorded_is_reported():
    def strike(dit, cache):
        cache.end_recache = lambda *, prompt: None
        recache(dit, cache, tiny.text(101), tiny.SAMPLER, prompt=1)

    (warning,) = take(fault=strike, entries=lambda _check, plan: plan, after=2)
    assert (warning.kind, warning.block, warning.slot) == ("stale_slot", 3, 0)


def test_a_planned_recache_that_never_ran_is_reported():
    def lost(check, plan):
        return (replace(entry, policy=None) for entry in check.plan(plan))

    (warning,) = take(switches={4: ("recache", None)}, entries=lost)
    assert (warning.kind, warning.block) == ("stale_slot", 4)


def test_another_text_than_the_plans_is_reported():
    def stuck(check, plan):
        return (replace(entry, text=plan[0].text) for entry in check.plan(plan))

    found = take(switches={2: ("keep", None), 4: ("keep", None)}, entries=stuck)
    assert [(w.kind, w.block, w.layer) for w in found] == [("wrong_text", 2, 0)]
    assert "prompt 1" in found[0].message and "condition anew" in found[0].message


def test_a_cross_attention_that_was_not_reset_in_one_layer_is_reported():
    dit, check = tiny.dit(), None
    old = dit.condition(tiny.text(100)).layers[1]
    check = HealthCheck(dit, tell=lambda warning: None)
    original = dit.condition
    entries = takes.plan(3, {1: ("keep", None)})

    def stuck(text):
        fresh = original(text)
        return replace(fresh, layers=(fresh.layers[0], old))

    def plan():
        for entry in check.plan(entries):
            dit.condition = stuck
            yield entry

    with Watch(dit, tiny.SAMPLER, check):
        running = rollout(dit, tiny.cache(), plan(), takes.noise(), tiny.SAMPLER)
        next(running)
        # The checker asks the network itself; the fault is in what the rollout got.
        check._dit = tiny.dit()
        list(running)
    assert [(w.kind, w.block, w.layer) for w in check.warnings] == [("wrong_text", 1, 1)]


def test_a_text_in_a_training_pass_is_compared_too():
    dit = tiny.dit()
    check = HealthCheck(dit, tell=lambda warning: None)
    entries = [BlockPlan(text=tiny.text(100), gradient=True)] * 2
    with Watch(dit, tiny.SAMPLER, check):
        plan = (replace(e, text=tiny.text(5)) if i else e for i, e in enumerate(check.plan(entries)))
        list(rollout(dit, tiny.cache(), plan, takes.noise(), tiny.SAMPLER))
    assert [(w.kind, w.block) for w in check.warnings] == [("wrong_text", 1)]


def test_positions_past_a_table_are_reported_once():
    (warning,) = take(table=10)
    assert (warning.kind, warning.block) == ("position_past_table", 3)
    assert 'position 11, but the table has 10; use `positions="window"`' in warning.message
    assert take(table=18) == []


def test_window_positions_only_need_the_cache_in_the_table():
    config = CacheConfig(positions="window")
    assert take(config=config, table=12) == []
    (warning,) = take(config=config, table=11)
    assert (warning.kind, warning.block) == ("position_past_table", 3) and "shorter window" in warning.message


def test_several_faults_are_several_warnings():
    def strike(dit, cache):
        fill(0, 0)(dit, cache)
        fill(1, float("nan"), layers=(1,), keys=False)(dit, cache)

    assert {w.kind for w in take(fault=strike, table=12)} == {"zero_slot", "not_finite", "position_past_table"}


def test_a_new_take_begins_with_a_clean_sheet():
    dit = tiny.dit()
    check = HealthCheck(dit, tell=lambda warning: None)
    with Watch(dit, tiny.SAMPLER, check):
        for _ in range(2):
            cache = tiny.cache()
            for block in takes.roll(dit, cache, takes.plan(3)):
                if block.index == 0:
                    fill(0, 0)(dit, cache)
    assert [(w.kind, w.block) for w in check.warnings] == [("zero_slot", 1)] * 2


def test_without_a_listener_a_fault_is_a_python_warning():
    dit, cache = tiny.dit(), tiny.cache()
    with Watch(dit, tiny.SAMPLER, HealthCheck(dit)):
        running = takes.roll(dit, cache, takes.plan(3))
        next(running)
        fill(0, 0)(dit, cache)
        with pytest.warns(CacheFault, match="zero"):
            next(running)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            next(running)


def test_a_warning_is_a_value():
    (warning,) = take(fault=fill(0, 0))
    with pytest.raises(FrozenInstanceError):
        warning.block = 3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"table": 0}, "`table`"), ({"explode": 1.0}, "`explode`"), ({"explode": float("nan")}, "`explode`")],
)
def test_an_impossible_check_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HealthCheck(tiny.dit(), **options)


# -- healthy takes ------------------------------------------------------------------------------------------------


def healthy(kind: str):
    """Recaches by hand and takes that a check must let pass."""
    return {
        "kept sink": {"switches": {5: ("recache", "keep")}, "config": CacheConfig(window=6)},
        "rewritten sink": {"switches": {5: ("recache", "rewrite")}, "config": CacheConfig(window=6)},
        "recache at once": {"switches": {0: ("recache", None), 1: ("recache", None)}},
        "cleared": {"switches": {2: ("clear", None), 3: ("recache", None), 4: ("recache", None)}},
        "without sink": {"switches": {4: ("recache", "keep")}, "config": CacheConfig(sink=0, window=6)},
        "sink longer than a block": {"switches": {4: ("recache", "keep")}, "config": CacheConfig(sink=4, window=6)},
    }[kind]


KINDS = ["kept sink", "rewritten sink", "recache at once", "cleared", "without sink", "sink longer than a block"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_healthy_switch_is_let_pass(kind):
    assert take(blocks=8, **healthy(kind)) == []


def test_a_recache_under_the_same_text_is_let_pass():
    def again(dit, cache):
        recache(dit, cache, tiny.text(100), tiny.SAMPLER)

    config = CacheConfig(recache_mask="block_causal")
    assert take(fault=again, config=config, entries=lambda _check, plan: plan) == []


def test_a_take_rebuilt_from_its_latents_is_let_pass():
    dit, cache = tiny.dit(), tiny.cache()
    check = HealthCheck(dit, tell=lambda warning: None)
    made = []
    with Watch(dit, tiny.SAMPLER, check):
        for block in takes.roll(dit, cache, takes.plan(6)):
            made.append(block.latents)
            if block.index == 3:
                cache.restore(torch.cat(made, dim=1), end=12)
                recache(dit, cache, tiny.text(100), tiny.SAMPLER)
    assert check.warnings == []


def test_a_take_restored_without_a_recache_looks_at_zeros():
    def strike(_dit, cache):
        cache.restore(tiny.latents(12), end=12)

    found = take(fault=strike)
    assert [(w.kind, w.block, w.slot) for w in found] == [("zero_slot", 4, 0)]


SMALL = DiTConfig(
    dim=16, ffn_dim=16, heads=2, layers=2, in_channels=2, out_channels=2, text_dim=3, text_len=2, freq_dim=2
)


def random_take(seed: int) -> list:
    """A take of a random network, cache, plan and noise; its warnings."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    dit = WanDiT(SMALL).eval().requires_grad_(False)
    if rng.random() < 0.5:
        dit.init_weights()
    config = CacheConfig(
        sink=rng.randrange(5),
        window=rng.choice([3, 6, 9]),
        positions=rng.choice(["absolute", "window"]),
        sink_policy=rng.choice(["keep", "rewrite"]),
        recache_mask=rng.choice(["full", "block_causal"]),
    )
    entries, prompt = [], 0
    entry = BlockPlan(text=torch.randn(1, 2, 3))
    for _ in range(rng.randrange(1, 9)):
        policy = rng.choice([None, None, None, "keep", "clear", "recache"])
        if policy is not None:
            prompt += 1
            entry = BlockPlan(text=torch.randn(1, 2, 3) if rng.random() < 0.9 else entry.text, prompt=prompt)
        entries.append(replace(entry, policy=policy, sink_policy=rng.choice([None, "keep", "rewrite"])))
    sampler = SamplerConfig(steps=rng.choice([(1000,), (1000, 500)]))
    cache = KVCache(config, SMALL, grid=(1, 2), latents=(2, 2, 4), block=3)
    check = HealthCheck(dit, table=64)
    with Watch(dit, sampler, check), warnings.catch_warnings():
        warnings.simplefilter("error", CacheFault)
        list(rollout(dit, cache, check.plan(entries), NoiseSource(seed, (1, 3, 2, 2, 4)), sampler))
    return check.warnings


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_random_healthy_takes_never_warn(first):
    for seed in range(first, first + 50):
        assert random_take(seed) == [], f"take {seed}"


def test_a_text_that_fits_is_compared_once_and_a_wrong_one_in_every_block(monkeypatch):
    dit, compared, first_difference = tiny.dit(), [], checks._first_difference
    monkeypatch.setattr(checks, "_first_difference", lambda a, b: compared.append(a) or first_difference(a, b))
    texts = [tiny.text(seed) for seed in (1, 2)]
    plan = [BlockPlan(text=texts[0])] * 4 + [BlockPlan(text=texts[1], prompt=1, policy="keep")] * 3
    check = HealthCheck(dit)
    with Watch(dit, tiny.SAMPLER, check):
        list(rollout(dit, tiny.cache(), check.plan(plan), NoiseSource(0, (1, 3, *tiny.LATENT)), tiny.SAMPLER))
    assert len(compared) == 2
    assert not check.warnings
    compared.clear()
    other, check = dit.condition(texts[1]), HealthCheck(dit, tell=lambda _: None)
    with Watch(dit, tiny.SAMPLER, check):
        check.expect(BlockPlan(text=texts[0]))
        cache = tiny.cache()
        for _ in range(3):
            call = CachedContext(cache, cache.begin())
            with torch.no_grad():
                dit(tiny.latents(3), torch.zeros(1, 3), other, context=call)
            cache.commit(tiny.latents(3), prompt=0)
    assert [warning.kind for warning in check.warnings] == ["wrong_text"]
    assert len(compared) == 3
