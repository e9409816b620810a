"""Contracts of the rollout: one for playing and training, gradient in the exit step only, one seed one video."""

from __future__ import annotations

import pytest
import torch

from studio.model.lora import Adapters, LoRA, Pair
from studio.sampler import BlockPlan, NoiseSource, denoise_block, rollout
from studio.schedule import FlowSchedule
from tests.contracts import tiny

LAST = len(tiny.SAMPLER.steps) - 1


def noise(seed: int = 0) -> NoiseSource:
    return NoiseSource(seed, (1, 3, *tiny.LATENT))


def roll(dit, plan, seed: int = 0) -> torch.Tensor:
    return torch.cat([b.latents for b in rollout(dit, tiny.cache(), plan, noise(seed), tiny.SAMPLER)], dim=1)


def test_training_at_the_last_exit_step_equals_playing():
    dit = tiny.dit()
    playing = roll(dit, [BlockPlan(text=tiny.text())] * 6)
    dit.requires_grad_(True)
    plan = [BlockPlan(text=tiny.text(), exit_step=LAST, gradient=True)] * 6
    training = roll(dit, plan)
    assert training.requires_grad
    torch.testing.assert_close(training.detach(), playing, atol=1e-6, rtol=1e-5)


def test_the_same_seed_and_plan_give_the_same_bits():
    dit = tiny.dit()
    plan = [BlockPlan(text=tiny.text())] * 3 + [BlockPlan(text=tiny.text(5), prompt=1, policy="recache")] * 2
    assert torch.equal(roll(dit, plan), roll(dit, plan))
    assert not torch.equal(roll(dit, plan), roll(dit, plan, seed=1))


def test_the_first_step_of_every_block_has_noise_of_its_own():
    source = noise()
    seen = [source(block, step) for block in range(4) for step in range(4)]
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])
    assert torch.equal(source(2, 1), noise()(2, 1))


@pytest.mark.parametrize("where", ["blocks.1.cross_attn.k", "blocks.0.cross_attn.v", "text_embedding.2"])
@pytest.mark.parametrize("change", ["add", "set", "switch", "remove"])
def test_adapters_on_the_way_of_the_prompt_are_heard_from_the_next_block_on(where, change):
    """As if each block were given its text anew, of which the rollout keeps nothing."""
    torch.manual_seed(0)
    layer = tiny.dit().get_submodule(where)
    pair = Pair(down=torch.randn(2, layer.in_features), up=torch.randn(layer.out_features, 2), scale=1.0)
    films = []
    for text in (tiny.text(), None):
        dit = tiny.dit()
        adapters = Adapters(dit)
        steps = [
            lambda adapters=adapters: adapters.add(LoRA(name="style", layers={where: pair})),
            lambda adapters=adapters: adapters.set("style", 0.5),
            lambda adapters=adapters: adapters.switch("style", False),
            lambda adapters=adapters: adapters.remove("style"),
        ]
        count = ["add", "set", "switch", "remove"].index(change)
        for step in steps[:count]:
            step()
        if change == "remove":
            adapters.switch("style", True)
        plan = (BlockPlan(text=tiny.text() if text is None else text) for _ in range(3))
        blocks = []
        for block in rollout(dit, tiny.cache(), plan, noise(), tiny.SAMPLER):
            blocks.append(block.latents)
            if block.index == 0:
                steps[count]()
        films.append(blocks)
    assert all(torch.equal(one, other) for one, other in zip(*films, strict=True))
    unchanged = roll(tiny.dit(), [BlockPlan(text=tiny.text())] * 3)
    assert torch.equal(torch.cat(films[0], dim=1)[:, :3], unchanged[:, :3]) is (change == "add")
    assert not torch.equal(films[0][1], unchanged[:, 3:6])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"policy": "recahce"}, "`policy` must be None or one of recache, keep, clear, got 'recahce'"),
        ({"policy": "rewrite"}, "`policy` must be None or one of recache, keep, clear, got 'rewrite'"),
        (
            {"policy": "recache", "sink_policy": "KEEP"},
            "`sink_policy` must be None or one of keep, rewrite, got 'KEEP'",
        ),
    ],
)
def test_policies_are_checked_where_a_block_is_planned(given, message):
    with pytest.raises(ValueError, match=message):
        BlockPlan(text=tiny.text(), **given)


@pytest.mark.parametrize("exit_step", range(LAST + 1))
def test_gradient_flows_in_the_exit_step_only(exit_step):
    dit = tiny.dit().requires_grad_(True)
    calls = []
    dit.register_forward_hook(lambda _m, _a, out: calls.append(out.requires_grad))
    plan = [BlockPlan(text=tiny.text(), exit_step=exit_step, gradient=True)] * 2
    blocks = list(rollout(dit, tiny.cache(), plan, noise(), tiny.SAMPLER))
    per_block = [False] * exit_step + [True] + [False]
    assert calls == per_block * 2
    blocks[0].latents.square().mean().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in dit.parameters())
    assert dit.blocks[0].self_attn.k.weight.grad.abs().sum() > 0


def test_no_gradient_crosses_blocks():
    dit = tiny.dit().requires_grad_(True)
    cache = tiny.cache()
    list(rollout(dit, cache, [BlockPlan(text=tiny.text(), gradient=True)] * 2, noise(), tiny.SAMPLER))
    assert not any(t.requires_grad for t in (*cache.keys, *cache.values))


def test_gradient_mode_is_never_held_across_a_yield():
    dit = tiny.dit().requires_grad_(True)
    plan = [BlockPlan(text=tiny.text(), gradient=i % 2 == 0) for i in range(4)]
    with torch.enable_grad():
        for _ in rollout(dit, tiny.cache(), plan, noise(), tiny.SAMPLER):
            assert torch.is_grad_enabled()
    with torch.no_grad():
        for _ in rollout(dit, tiny.cache(), plan, noise(), tiny.SAMPLER):
            assert not torch.is_grad_enabled()


def test_the_plan_is_asked_once_a_block_and_only_when_the_block_begins():
    dit, asked = tiny.dit(), []

    def plan():
        for index in range(3):
            asked.append(index)
            yield BlockPlan(text=tiny.text())

    running = rollout(dit, tiny.cache(), plan(), noise(), tiny.SAMPLER)
    assert asked == []
    for expected in range(3):
        assert next(running).index == expected
        assert asked == list(range(expected + 1))
    assert next(running, None) is None


def test_each_block_says_what_it_cost_and_where_it_stands():
    plan = [BlockPlan(text=tiny.text()), BlockPlan(text=tiny.text(4), prompt=1, policy="recache")]
    first, second = rollout(tiny.dit(), tiny.cache(), plan, noise(), tiny.SAMPLER)
    assert (first.first_frame, second.first_frame, second.prompt, second.policy) == (0, 3, 1, "recache")
    assert set(second.seconds) == {"recache", "denoise", "commit"}
    assert all(value >= 0 for value in second.seconds.values()) and second.seconds["recache"] > 0


@pytest.mark.parametrize("exit_step", [-1, LAST + 1])
def test_an_exit_step_outside_the_sampler_is_refused(exit_step):
    with pytest.raises(ValueError, match=f"0..{LAST}"):
        denoise_block(tiny.dit(), tiny.cache(), tiny.text(), noise(), tiny.SAMPLER, FlowSchedule(), exit_step=exit_step)


@pytest.mark.parametrize(
    ("latents", "timestep", "text", "message"),
    [
        (tiny.latents(3)[:, :, :3], torch.zeros(1), tiny.text(), "`x` must have shape"),
        (tiny.latents(3)[..., :5], torch.zeros(1), tiny.text(), "multiples of 2"),
        (tiny.latents(3), torch.zeros(2), tiny.text(), "`timestep` must have shape"),
        (tiny.latents(3), torch.zeros(1), tiny.text()[:, :3], "`text` must have shape"),
    ],
)
def test_misshapen_inputs_are_named(latents, timestep, text, message):
    with pytest.raises(ValueError, match=message):
        tiny.dit()(latents, timestep, text)
