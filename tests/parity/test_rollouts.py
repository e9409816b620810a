"""Cached rollouts against the reference: plain, with prompt switches, and with window-relative positions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from studio.config import CacheConfig, SamplerConfig
from studio.model.cache import KVCache
from studio.sampler import BlockPlan, rollout
from studio.schedule import FlowSchedule
from tests.parity.fixtures import assert_close, load, variant_params
from tests.parity.models import dit_of

KINDS = ("causal_wan_rollout", "kv_recache", "infinity_rope")
LONG_SINK = "the reference keeps K/V of a noisy step where the sink is longer than a block; here only commits write"


def cache_config(variant: dict) -> CacheConfig:
    size, sink = variant["local_attn_size"], variant["sink_size"]
    return CacheConfig(
        sink=sink,
        window=None if size == -1 else size - sink,
        attend=variant.get("global_cap_frames") if size == -1 else None,
        positions="window" if variant.get("infinity") else "absolute",
        sink_policy="keep" if variant.get("global_sink", True) else "rewrite",
    )


class Recorder:
    """Notes every call of the network, and the caches whenever a recache has just run."""

    def __init__(self, dit, cache: KVCache) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []
        self.recaches: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        self.recache_flows: dict[int, Tensor] = {}
        self.cache = cache
        dit.register_forward_hook(self._note)
        self._end_recache = cache.end_recache
        cache.end_recache = self._after_recache  # type: ignore[method-assign]

    def _note(self, _module, arguments, flow) -> None:
        self.calls.append((arguments[0], arguments[1], flow))

    def _after_recache(self, *, prompt: int) -> None:
        self._end_recache(prompt=prompt)
        layers = [self.cache.layer(i) for i in range(len(self.cache.keys))]
        self.recaches[self.cache.end] = ([k for k, _ in layers], [v for _, v in layers])
        self.recache_flows[self.cache.end] = self.calls.pop()[2]


def prompt_of(tensors: dict[str, Tensor], name: str | list[str], batch: int) -> Tensor:
    names = [name] * batch if isinstance(name, str) else name
    return torch.stack([tensors[f"in.prompt.{one}"] for one in names])


def plans(variant: dict, tensors: dict[str, Tensor], batch: int):
    block = variant["num_frame_per_block"]
    segments = variant.get("segments") or [variant["prompt"]]
    switches = list(variant.get("switch", []))
    texts = [prompt_of(tensors, name, batch) for name in segments]
    now = 0
    for first in range(0, variant["latent_frames"], block):
        policy = None
        while now < len(switches) and first >= switches[now]:
            now, policy = now + 1, "recache"
        yield BlockPlan(text=texts[now], prompt=now, policy=policy)


def run(path: Path, name: str):
    info, tensors = load(path)
    variant = info["variants"][name]
    if variant["sink_size"] > variant["num_frame_per_block"]:
        pytest.skip(LONG_SINK)
    batch, block = tensors["in.noise"].shape[0], variant["num_frame_per_block"]
    dit = dit_of(info, tensors)
    height, width = tensors["in.noise"].shape[-2:]
    cache = KVCache(
        cache_config(variant),
        dit.config,
        grid=(height // dit.config.patch[1], width // dit.config.patch[2]),
        latents=tuple(tensors["in.noise"].shape[2:]),
        block=block,
        batch=batch,
        frames=variant["latent_frames"],
    )
    sampler = SamplerConfig(
        steps=tuple(variant["denoising_step_list"]),
        shift=variant["shift"],
        block=block,
        context_timestep=float(variant.get("context_noise", 0)),
    )

    def noise(index: int, step: int) -> Tensor:
        if step == 0:
            return tensors["in.noise"][:, index * block : (index + 1) * block]
        return tensors["in.renoise"][index, step - 1]

    recorder = Recorder(dit, cache)
    blocks = list(rollout(dit, cache, plans(variant, tensors, batch), noise, sampler))
    out = {key.removeprefix(f"out.{name}."): t for key, t in tensors.items() if key.startswith(f"out.{name}.")}
    return variant, out, cache, recorder, blocks, sampler


def by_block(recorder: Recorder, sampler: SamplerConfig, part: int) -> Tensor:
    per_block = len(sampler.steps) + 1
    calls = torch.stack([call[part] for call in recorder.calls])
    return calls.unflatten(0, (-1, per_block))


@pytest.mark.parametrize(("path", "name"), [p for kind in KINDS for p in variant_params(kind)])
def test_rollout(path: Path, name: str):
    variant, out, cache, recorder, blocks, sampler = run(path, name)
    assert_close(torch.cat([b.latents for b in blocks], dim=1), out["latents"], "latents")
    flows, inputs, times = (by_block(recorder, sampler, part) for part in (2, 0, 1))
    assert_close(flows, out["flow"], "flow of every call")
    assert_close(times, out["timestep"], "timestep of every call", tolerance=1e-3)
    if "x0" in out:
        schedule = FlowSchedule(shift=sampler.shift)
        assert_close(schedule.x0_from_flow(flows, inputs, times), out["x0"], "x0 of every call")
    for layer in range(len(cache.keys)):
        keys, values = cache.layer(layer)
        assert_close(keys, out[f"cache_k.layer{layer}"], f"keys of layer {layer}")
        assert_close(values, out[f"cache_v.layer{layer}"], f"values of layer {layer}")
    held = [frame for frame in variant["final_cache_slot_frames"] if frame is not None]
    assert list(cache.visible_frames()) == held


@pytest.mark.parametrize(("path", "name"), [p for kind in KINDS[1:] for p in variant_params(kind)])
def test_caches_right_after_each_recache(path: Path, name: str):
    _, out, _, recorder, _, _ = run(path, name)
    moments = {int(key.split("_at")[1].split(".")[0]) for key in out if key.startswith("post_recache_at")}
    assert set(recorder.recaches) == moments
    for frame in moments:
        keys, values = recorder.recaches[frame]
        for layer, (k, v) in enumerate(zip(keys, values, strict=True)):
            assert_close(k, out[f"post_recache_at{frame}.cache_k.layer{layer}"], f"recached keys of layer {layer}")
            assert_close(v, out[f"post_recache_at{frame}.cache_v.layer{layer}"], f"recached values of layer {layer}")
        assert_close(recorder.recache_flows[frame], out[f"recache_at{frame}.flow"], "flow of the recache pass")
