"""The probes on a GPU: they change no bit of the latents there, and read what they read on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studio.probes import AttentionProbe, AttentionSampling, Guarded, HealthCheck, Watch, Word, WordTracer
from studio.sampler import rollout
from tests.contracts import tiny
from tests.probes import takes

pytestmark = pytest.mark.gpu


def take(device, *, probes: bool, dtype=torch.float32):
    """A take with a recache; its latents, readings, trace and faults."""
    dit = tiny.dit().to(device, dtype)
    cache = takes.KVCache(
        tiny.cache().config, tiny.DIT, grid=tiny.GRID, latents=tiny.LATENT, block=3, batch=1, device=device, dtype=dtype
    )
    entries = [
        takes.replace(entry, text=entry.text.to(device, dtype)) for entry in takes.plan(6, {4: ("recache", None)})
    ]
    drawn = takes.noise()
    probe = AttentionProbe(tiny.DIT, steps=len(tiny.SAMPLER.steps), sampling=AttentionSampling(samples=None))
    check, tracer = HealthCheck(dit), WordTracer(samples=None)
    tracer.expect(0, (Word(text="fox", start=0, stop=2),))
    failed: list[Exception] = []
    listeners = [Guarded(listener, failed.append) for listener in (probe, check, tracer)] if probes else []
    watch = Watch(dit, tiny.SAMPLER, *listeners, cache=cache) if probes else None
    latents = [
        block.latents for block in rollout(dit, cache, entries, lambda *at: drawn(*at).to(device, dtype), tiny.SAMPLER)
    ]
    if watch is not None:
        watch.close()
    assert failed == []
    spent = [guarded.spent() for guarded in listeners]
    return torch.cat(latents, dim=1), probe, tracer, check, spent


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_probes_change_no_bit_of_a_take_on_a_gpu(dtype) -> None:
    plain = take("cuda", probes=False, dtype=dtype)[0]
    watched, _, _, check, spent = take("cuda", probes=True, dtype=dtype)
    assert torch.equal(plain, watched)
    assert check.warnings == []
    assert all(seconds > 0 for part in spent for seconds in part.values())


def test_a_gpu_reads_what_the_cpu_reads() -> None:
    (_, here, there, _, _), (_, probe, tracer, _, _) = take("cuda", probes=True), take("cpu", probes=True)
    for mine, wanted in zip(here.readings, probe.readings, strict=True):
        assert mine.slots == wanted.slots
        np.testing.assert_allclose(mine.mass, wanted.mass, atol=1e-3)
    mine, wanted = there.trace(here.readings[-1]), tracer.trace(probe.readings[-1])
    assert mine is not None and wanted is not None
    np.testing.assert_allclose([w.share for w in mine.words], [w.share for w in wanted.words], atol=1e-3)
