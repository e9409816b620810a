"""Gradient checkpointing: the same gradients as without, though the cache has gone on before the backward pass."""

from __future__ import annotations

import copy

import pytest
import torch

from studio.config import CacheConfig
from studio.sampler import BlockPlan, NoiseSource, rollout
from studio.train.recompute import recomputed
from tests.contracts import tiny


def gradients(enabled: bool, positions: str, exit_step: int = 3, blocks: int = 7):
    """Gradients after a rolled cache and a recache have overwritten what the first blocks saw."""
    dit = tiny.dit().requires_grad_(True)
    cache = tiny.cache(CacheConfig(positions=positions, sink_policy="rewrite"))
    plan = [BlockPlan(text=tiny.text(), exit_step=exit_step, gradient=True)] * blocks
    plan += [BlockPlan(text=tiny.text(8), prompt=1, policy="recache", exit_step=exit_step, gradient=True)]
    with recomputed(dit, enabled):
        clip = [b.latents for b in rollout(dit, cache, plan, NoiseSource(0, (1, 3, *tiny.LATENT)), tiny.SAMPLER)]
    torch.cat(clip, dim=1).square().mean().backward()
    return {name: parameter.grad for name, parameter in dit.named_parameters()}


@pytest.mark.parametrize("positions", ["absolute", "window"])
@pytest.mark.parametrize("exit_step", [0, 3])
def test_gradients_are_those_without_checkpointing(positions, exit_step):
    plain, checkpointed = (gradients(enabled, positions, exit_step) for enabled in (False, True))
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        if gradient is None:
            assert checkpointed[name] is None
        else:
            torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_the_test_sees_a_mutated_cache(monkeypatch):
    from studio.model.attention import CachedContext

    monkeypatch.setattr(CachedContext, "frozen", lambda self, layer: self)
    plain, wrong = (gradients(enabled, "absolute") for enabled in (False, True))
    worst = max((plain[n] - wrong[n]).abs().max().item() for n in plain if plain[n] is not None)
    assert worst > 1e-5


def test_less_is_saved():
    saved = []
    for enabled in (False, True):
        dit = tiny.dit().requires_grad_(True)
        seen = {}

        def pack(tensor, seen=seen):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), recomputed(dit, enabled):
            dit(tiny.latents(12), torch.full((1,), 500.0), tiny.text())
        saved.append(sum(seen.values()))
    assert saved[1] < saved[0] / 2


def test_a_listener_hears_each_layer_once():
    heard = []

    class Tap:
        def self_attention(self, layer, q, k, v):
            heard.append(layer)

        def cross_attention(self, layer, q, k, v):
            pass

    dit = tiny.dit().requires_grad_(True)
    with recomputed(dit):
        out = dit(tiny.latents(3), torch.full((1,), 500.0), tiny.text(), tap=Tap())
    out.mean().backward()
    assert heard == list(range(tiny.DIT.layers))


def test_nothing_is_left_on_the_network_even_after_an_error():
    dit = tiny.dit()
    with pytest.raises(ValueError, match="`x` must have shape"), recomputed(dit):
        dit(torch.zeros(1), torch.zeros(1), tiny.text())
    assert all("forward" not in block.__dict__ for block in dit.blocks)
    assert torch.equal(copy.deepcopy(dit).blocks[0].ffn[0].weight, dit.blocks[0].ffn[0].weight)
