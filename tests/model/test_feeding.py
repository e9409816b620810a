"""The kernel that feeds convolutions against the same in plain steps, on GPUs or in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from studio.model import feeding
from studio.model.decoding import _feed
from studio.model.vaelayers import RMSNorm

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
kernel = [
    needs_triton,
    pytest.mark.skipif(
        not INTERPRETED and not torch.cuda.is_available(),
        reason="needs a GPU, or TRITON_INTERPRET=1 before Triton loads",
    ),
]
DEVICE = "cpu" if INTERPRETED else "cuda"
EXACT = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(shape, dtype=torch.float64).to(DEVICE, dtype)
    return x.contiguous(memory_format=torch.channels_last_3d) if len(shape) == 5 else x


def compare(skip, y, bias, norm, before, keep, taps, overwrite=False):
    """The kernel's results and those of the plain steps, which are taken in float64."""
    exact_norm = None
    if norm is not None:
        exact_norm = RMSNorm(y.shape[1], 3).double()
        exact_norm.gamma.data = norm.gamma.data.double().cpu()
    wide = [None if x is None else x.double().cpu() for x in (skip, bias)]
    expected = _feed(wide[0], y.double().cpu(), wide[1], exact_norm, before.double().cpu(), keep, taps)
    gain = None if norm is None else norm.gamma
    found = feeding.feed(skip, y, bias, gain, before, keep, taps, overwrite)
    assert (found[0] is None) == (not keep)
    for mine, exact in zip(found, expected, strict=True):
        if exact is not None and mine is not None:
            assert mine.dtype == y.dtype
            assert mine.shape == exact.shape
            assert mine.movedim(1, -1).is_contiguous()
            tolerance = EXACT[y.dtype]
            torch.testing.assert_close(mine.double().cpu(), exact, atol=tolerance, rtol=tolerance)
    return found


@pytest.mark.parametrize("mark", [pytest.param(None, marks=kernel)])
@pytest.mark.parametrize("channels", [16, 96, 192, 384])
@pytest.mark.parametrize("frames", [1, 2, 3, 4])
@pytest.mark.parametrize("taps", [0, 3])
@torch.no_grad()
def test_frames_are_normed_and_put_where_they_are_read(mark, channels, frames, taps):
    torch.manual_seed(channels + frames)
    batch, height, width = 1 + frames % 2, 5, 7
    norm = RMSNorm(channels, 3).to(DEVICE)
    norm.gamma.data = drawn(*norm.gamma.shape)
    skip, y, before = (drawn(batch, channels, t, height, width) for t in (frames, frames, 2))
    compare(skip, y, drawn(channels), norm, before, True, taps)


@pytest.mark.parametrize("mark", [pytest.param(None, marks=kernel)])
@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("given", ["skip", "bias", "norm", "skip bias", "skip norm", "bias norm", ""])
@pytest.mark.parametrize(("keep", "taps"), [(True, 0), (False, 3), (True, 3)])
@torch.no_grad()
def test_what_is_missing_is_left_out(mark, dtype, given, keep, taps):
    torch.manual_seed(0)
    norm = RMSNorm(12, 3).to(DEVICE, dtype) if "norm" in given else None
    skip = drawn(1, 12, 3, 3, 3, dtype=dtype) if "skip" in given else None
    bias = drawn(12, dtype=dtype) if "bias" in given else None
    y, before = drawn(1, 12, 3, 3, 3, dtype=dtype), drawn(1, 12, 2, 3, 3, dtype=dtype)
    copies = [None if x is None else x.clone() for x in (skip, y, bias, before)]
    kept, *_ = compare(skip, y, bias, norm, before, keep, taps)
    for tensor, copy in zip((skip, y, bias, before), copies, strict=True):
        assert tensor is None or (copy is not None and torch.equal(tensor, copy))
    compare(skip, y, bias, norm, before, keep, taps, overwrite=True)
    if kept is not None and (skip is not None or bias is not None):
        assert torch.equal(y if skip is None else skip, kept)


@pytest.mark.parametrize("mark", [pytest.param(None, marks=kernel)])
@torch.no_grad()
def test_frames_that_lie_otherwise_and_a_past_without_a_stride(mark):
    torch.manual_seed(0)
    y, before = torch.randn(2, 8, 3, 4, 5, device=DEVICE), torch.randn(2, 8, 5, 4, 5, device=DEVICE)[:, :, 1:3]
    compare(None, y, drawn(8), None, before, True, 3)
    one = drawn(1, 8, 2, 4, 5)
    compare(None, y[:1], drawn(8), None, one.as_strided(one.shape, (one.numel(), *one.stride()[1:])), False, 0)


@pytest.mark.parametrize("mark", [pytest.param(None, marks=needs_triton)])
def test_types_and_widths_it_cannot_do(mark):
    assert not feeding.can_feed(torch.zeros(1, 2, 1, 1, 1, dtype=torch.float64))
    assert not feeding.can_feed(torch.zeros(1, 2048, 1, 1, 1))


def test_without_a_gpu_it_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not feeding.can_feed(torch.zeros(1, 2, 1, 1, 1))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(feeding.importlib.util, "find_spec", lambda name: None)
    assert not feeding.can_feed(torch.zeros(1, 2, 1, 1, 1))
