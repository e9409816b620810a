"""The blocks in few large pieces: the same latents, caches and listeners as the blocks one by one."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from studio.config import CacheConfig
from studio.model import fused
from studio.model.cache import KVCache
from studio.model.compiling import anew
from studio.model.lora import Adapters, LoRA, Pair
from studio.model.quantize import Fp8Linear, Int8Linear, quantized, stacked
from studio.sampler import BlockPlan, NoiseSource, rollout
from tests.contracts import tiny

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


class Ear:
    """Keeps what it hears."""

    def __init__(self):
        self.heard = []

    def self_attention(self, layer, q, k, v):
        self.heard.append(("self", layer, q.clone(), k.clone(), v.clone()))

    def cross_attention(self, layer, q, k, v):
        self.heard.append(("cross", layer, q.clone(), k.clone(), v.clone()))


def story(seed, blocks=9):
    """A plan with switches of all kinds, drawn by a seed."""
    draw, prompt = random.Random(seed), 0
    for block in range(blocks):
        policy = draw.choice(["recache", "keep", "clear"]) if block and draw.random() < 0.5 else None
        sink = draw.choice(["keep", "rewrite", None]) if policy == "recache" else None
        prompt += policy is not None
        yield BlockPlan(text=tiny.text(prompt + 1, 2), prompt=prompt, policy=policy, sink_policy=sink)


def film(dit, config, seed, tap=None):
    cache = tiny.cache(config, batch=2)
    noise = NoiseSource(seed, (2, 3, *tiny.LATENT))
    blocks = [block.latents for block in rollout(dit, cache, story(seed), noise, tiny.SAMPLER, tap=tap)]
    return torch.cat(blocks, dim=1), cache


def assert_same_cache(one, other):
    assert one.slots == other.slots
    for layer in range(len(one.keys)):
        for mine, yours in zip(one.layer(layer), other.layer(layer), strict=True):
            torch.testing.assert_close(mine, yours, **CLOSE)


@pytest.mark.parametrize("positions", ["absolute", "window"])
@pytest.mark.parametrize("seed", range(6))
def test_latents_and_caches_are_those_of_the_plain_blocks(positions, seed):
    config = CacheConfig(sink=3, window=6, positions=positions)
    plain, first = film(tiny.dit(), config, seed)
    quick, second = film(tiny.dit().fuse(compiled=False), config, seed)
    torch.testing.assert_close(quick, plain, **CLOSE)
    assert_same_cache(first, second)


def test_a_cache_without_a_window_and_one_that_attends_to_a_part():
    dit = tiny.dit()
    for config in (CacheConfig(sink=0, window=None), CacheConfig(sink=0, window=None, attend=6)):
        found = []
        for network in (dit, tiny.dit().fuse(compiled=False)):
            cache = tiny.cache(config, frames=15)
            plan = [BlockPlan(text=tiny.text())] * 5
            noise = NoiseSource(3, (1, 3, *tiny.LATENT))
            found.append(torch.cat([b.latents for b in rollout(network, cache, plan, noise, tiny.SAMPLER)], dim=1))
        torch.testing.assert_close(found[1], found[0], **CLOSE)


def test_a_listener_hears_the_same_and_changes_nothing():
    config = CacheConfig(sink=3, window=6)
    plain, quick = Ear(), Ear()
    film(tiny.dit(), config, 1, plain)
    dit = tiny.dit().fuse(compiled=False)
    heard, _ = film(dit, config, 1, quick)
    unheard, _ = film(dit, config, 1)
    assert torch.equal(heard, unheard)
    assert [entry[:2] for entry in quick.heard] == [entry[:2] for entry in plain.heard]
    for mine, yours in zip(quick.heard, plain.heard, strict=True):
        for got, expected in zip(mine[2:], yours[2:], strict=True):
            torch.testing.assert_close(got, expected, **CLOSE)


@pytest.mark.parametrize("mixed", [True, False])
def test_halves_are_those_of_the_plain_blocks_where_products_end_with_the_gelu(monkeypatch, mixed):
    """As on a GPU: under autocast weights are wider than what reaches them, else both are halves."""
    monkeypatch.setattr(fused, "_GELU_ENDS", "cpu")
    taken, product = [], torch.ops.aten._addmm_activation
    monkeypatch.setattr(torch.ops.aten, "_addmm_activation", lambda *a, **k: taken.append(1) or product(*a, **k))
    kind, found = torch.float32 if mixed else torch.bfloat16, []
    noise, config = NoiseSource(3, (1, 3, *tiny.LATENT)), CacheConfig(sink=3, window=6)
    for fuse in (False, True):
        network = tiny.dit().to(kind)
        network = network.fuse(compiled=False) if fuse else network
        cache = KVCache(config, tiny.DIT, grid=tiny.GRID, latents=tiny.LATENT, block=3, dtype=torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            plan = [BlockPlan(text=tiny.text())] * 5
            blocks = [block.latents for block in rollout(network, cache, plan, noise, tiny.SAMPLER)]
        found.append(torch.cat(blocks, dim=1).float())
    assert bool(taken) is not mixed
    assert (found[1] - found[0]).norm() < 0.05 * found[0].norm()


def test_passes_with_gradients_and_whole_clips_run_the_plain_blocks(monkeypatch):
    dit = tiny.dit().fuse(compiled=False)
    monkeypatch.setattr(fused.Fused, "__call__", lambda *_: pytest.fail("ran"))
    clip = tiny.latents(6)
    torch.testing.assert_close(dit(clip, torch.zeros(1), tiny.text()), tiny.dit()(clip, torch.zeros(1), tiny.text()))


def test_the_weights_are_shared_and_not_doubled():
    dit = tiny.dit()
    names = list(dit.state_dict())
    before = {name: value.clone() for name, value in dit.state_dict().items()}
    dit.fuse(compiled=False)
    assert list(dit.state_dict()) == names
    assert all(torch.equal(value, before[name]) for name, value in dit.state_dict().items())
    # A change in place reaches the pieces: as when an adapter is merged.
    config, changed = CacheConfig(sink=3, window=6), tiny.dit()
    with torch.no_grad():
        for network in (dit, changed):
            network.blocks[0].self_attn.k.weight.mul_(1.5)
            network.blocks[1].self_attn.v.bias.add_(0.5)
    torch.testing.assert_close(film(dit, config, 2)[0], film(changed, config, 2)[0], **CLOSE)


def test_live_adapters_count_from_the_next_call_on():
    torch.manual_seed(5)
    size = tiny.DIT.dim
    layers = {
        f"blocks.{i}.self_attn.{part}": Pair(down=torch.randn(4, size), up=torch.randn(size, 4), scale=0.1)
        for i in range(2)
        for part in "qv"
    }
    config, films = CacheConfig(sink=3, window=6), []
    for network in (tiny.dit(), tiny.dit().fuse(compiled=False)):
        adapters, found = Adapters(network), []
        adapters.add(LoRA(name="style", layers=layers))
        found.append(film(network, config, 3)[0])
        adapters.set("style", 0.3)
        found.append(film(network, config, 3)[0])
        adapters.remove("style")
        found.append(film(network, config, 3)[0])
        films.append(found)
    for plain, quick in zip(*films, strict=True):
        torch.testing.assert_close(quick, plain, **CLOSE)
    assert not torch.allclose(films[0][0], films[0][2], atol=1e-3)


LAYERS = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.o", "ffn.0", "ffn.2")


def beside_all(dit, rank=2, blocks=(0, 1)):
    draw = torch.Generator().manual_seed(rank)
    layers = {}
    for path in (f"blocks.{block}.{layer}" for block in blocks for layer in LAYERS):
        layer = dit.get_submodule(path)
        down = torch.randn(rank, layer.in_features, generator=draw)
        layers[path] = Pair(down=down, up=torch.randn(layer.out_features, rank, generator=draw), scale=0.1)
    return LoRA(name="style", layers=layers)


@pytest.fixture
def graphs(monkeypatch):
    """Names of the pieces that were compiled, by a compiler that only records them."""
    made = []

    def recorded(piece):
        def backend(graph, inputs):
            made.append(piece.__name__)
            return graph.forward

        return torch.compile(anew(piece), fullgraph=True, dynamic=False, backend=backend)

    monkeypatch.setattr(fused, "_compiled", recorded)
    torch._dynamo.reset()
    yield made
    torch._dynamo.reset()


def short(dit):
    cache, noise = tiny.cache(CacheConfig(sink=3, window=6)), NoiseSource(3, (1, 3, *tiny.LATENT))
    plan = [BlockPlan(text=tiny.text())] * 2
    return torch.cat([block.latents for block in rollout(dit, cache, plan, noise, tiny.SAMPLER)], dim=1)


def test_compiled_pieces_hear_adapters_that_come_later_on_every_layer(graphs):
    networks = tiny.dit(), tiny.dit().fuse()
    adapters, before = [Adapters(network) for network in networks], [short(network) for network in networks]
    for mine, network in zip(adapters, networks, strict=True):
        mine.add(beside_all(network))
    plain, quick = (short(network) for network in networks)
    torch.testing.assert_close(quick, plain, **CLOSE)
    assert not torch.allclose(plain, before[0], atol=1e-3)
    adapters[1].remove("style")
    assert torch.equal(short(networks[1]), before[1])


@torch._dynamo.config.patch(recompile_limit=2)
def test_adapters_that_come_and_go_are_compiled_once(graphs):
    """More often and of more kinds than a compiler puts up with, and after warming up."""
    dit, counts = tiny.dit().fuse(), []
    adapters, before = Adapters(dit), short(dit)
    dit.fused.settled = True
    for turn in range(12):
        adapters.add(beside_all(dit, blocks=(turn % 2,)))
        heard = short(dit)
        adapters.remove("style")
        assert torch.equal(short(dit), before)
        assert not torch.allclose(heard, before, atol=1e-3)
        counts.append(len(graphs))
    assert 0 < counts[0] < counts[1] == counts[-1]


def test_with_too_many_kinds_of_adapters_the_pieces_run_as_they_are_written(graphs, monkeypatch):
    monkeypatch.setattr(fused, "_KINDS", 1)
    networks = tiny.dit(), tiny.dit().fuse()
    for network in networks:
        Adapters(network).add(beside_all(network, blocks=(1,)))
    torch.testing.assert_close(short(networks[1]), short(networks[0]), **CLOSE)
    assert not graphs


def test_hooks_of_others_are_heard():
    config, dit, heard = CacheConfig(sink=3, window=6), tiny.dit().fuse(compiled=False), []
    handle = dit.blocks[1].ffn[2].register_forward_hook(lambda *_: heard.append(1))
    film(dit, config, 3)
    count = len(heard)
    handle.remove()
    film(dit, config, 3)
    assert count == len(heard) > 0


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_adapters_beside_layers_of_few_bits(quantization):
    config, films = CacheConfig(sink=3, window=6), []
    for fuse in (False, True):
        network = quantized(tiny.dit(), quantization)
        network = network.fuse(compiled=False) if fuse else network
        Adapters(network).add(beside_all(network))
        films.append(film(network, config, 4)[0])
    torch.testing.assert_close(films[1], films[0], **CLOSE)


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_layers_of_few_bits_are_laid_side_by_side_as_well(quantization):
    config = CacheConfig(sink=3, window=6)
    plain, _ = film(quantized(tiny.dit(), quantization), config, 4)
    quick, _ = film(quantized(tiny.dit(), quantization).fuse(compiled=False), config, 4)
    torch.testing.assert_close(quick, plain, **CLOSE)


def test_the_pieces_can_be_captured_whole(monkeypatch):
    """Every piece is one graph: nothing in it falls back to Python, whatever then compiles it."""
    calls = []

    def captured(piece):
        def backend(graph, inputs):
            calls.append(piece.__name__)
            return graph.forward

        return torch.compile(piece, fullgraph=True, dynamic=False, backend=backend)

    monkeypatch.setattr(fused, "_compiled", captured)
    torch._dynamo.reset()
    config = CacheConfig(sink=3, window=6)
    plain, _ = film(tiny.dit(), config, 0)
    quick, _ = film(tiny.dit().fuse(), config, 0)
    torch.testing.assert_close(quick, plain, **CLOSE)
    # One graph a piece and shape, not one a layer or a block: what a new place in the cache must not cost.
    assert {name: calls.count(name) <= fused._SHAPES for name in calls} == dict.fromkeys(
        ("_enter", "_middle", "_joint", "_leave"), True
    )
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", [None, Int8Linear, Fp8Linear])
def test_stacked_layers_are_the_layers(kind):
    torch.manual_seed(1)
    layers = [nn.Linear(8, width) for width in (4, 8, 12)]
    layers = layers if kind is None else [kind.of(layer) for layer in layers]
    x = torch.randn(3, 8)
    expected = torch.cat([layer(x) for layer in layers], dim=-1)
    whole = stacked(layers)
    assert whole is not None
    torch.testing.assert_close(whole(x), expected)
    torch.testing.assert_close(torch.cat([layer(x) for layer in layers], dim=-1), expected)
    assert layers[1].weight.untyped_storage().data_ptr() == whole.weight.untyped_storage().data_ptr()


def test_layers_that_cannot_be_stacked():
    assert stacked([nn.Linear(8, 8), Int8Linear.of(nn.Linear(8, 8))]) is None
    assert stacked([nn.Linear(8, 8), nn.Linear(8, 8, bias=False)]) is None
    assert stacked([nn.Linear(8, 8), nn.Linear(4, 8)]) is None
    assert stacked([nn.Linear(8, 8), nn.Linear(8, 8).double()]) is None
    assert stacked([nn.Identity()]) is None
