"""The probes on every back end and device: they change no bit of the latents, and read the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studio.model.backends import BACKENDS, Backend, backend_named, use_backend, why_not
from studio.probes import AttentionProbe, AttentionSampling, Guarded, HealthCheck, Watch, Word, WordTracer
from studio.sampler import rollout
from tests.contracts import tiny
from tests.probes import takes

HERE = "cuda" if torch.cuda.is_available() else "cpu"
HEAD = tiny.DIT.dim // tiny.DIT.heads


def spelled_out(q, k, v):
    """What a kernel computes, another way: a stand-in for packages that are not here."""
    weights = torch.einsum("bqnd,bknd->bnqk", q.float(), k.float() / q.shape[-1] ** 0.5).softmax(-1)
    return torch.einsum("bnqk,bknd->bqnd", weights, v.float()).type_as(v)


def take(device, *, probes: bool, dtype=torch.float32, backend=None, fused=False):
    """A take with a recache; its latents, readings, trace and faults."""
    dit = tiny.dit().to(device, dtype)
    if backend is not None:
        use_backend(dit, backend)
    if fused:
        dit.fuse(compiled=False)
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


def unchanged(device, **options) -> None:
    plain = take(device, probes=False, **options)[0]
    watched, probe, _, check, spent = take(device, probes=True, **options)
    assert torch.equal(plain, watched)
    assert probe.readings and check.warnings == []
    assert all(seconds > 0 for part in spent for seconds in part.values())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", BACKENDS)
def test_probes_change_no_bit_of_a_take(name, dtype, fused) -> None:
    if reason := why_not(name, HERE, dtype, HEAD):
        pytest.skip(f"{name}: {reason}")
    unchanged(HERE, dtype=dtype, backend=backend_named(name), fused=fused)


def test_nor_with_a_kernel_that_is_none_of_ours() -> None:
    unchanged("cpu", backend=Backend(name="other", kernel=spelled_out))


@pytest.mark.gpu
def test_a_gpu_reads_what_the_cpu_reads() -> None:
    (_, here, there, _, _), (_, probe, tracer, _, _) = take("cuda", probes=True), take("cpu", probes=True)
    for mine, wanted in zip(here.readings, probe.readings, strict=True):
        assert mine.slots == wanted.slots
        np.testing.assert_allclose(mine.mass, wanted.mass, atol=1e-3)
    mine, wanted = there.trace(here.readings[-1]), tracer.trace(probe.readings[-1])
    assert mine is not None and wanted is not None
    np.testing.assert_allclose([w.share for w in mine.words], [w.share for w in wanted.words], atol=1e-3)
