"""Attention back ends: chosen once, shown, and never another one in silence."""

from __future__ import annotations

import pytest
import torch

from studio.model import backends
from studio.model.backends import BACKENDS, Backend, available, backend_named, choose, use_backend, why_not
from tests.contracts import tiny

HERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def by_hand(q, k, v, mask=None):
    scores = torch.einsum("bqnd,bknd->bnqk", q.double(), k.double()) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.einsum("bnqk,bknd->bqnd", scores.softmax(-1), v.double())


@pytest.mark.parametrize("name", BACKENDS)
def test_every_back_end_that_serves_is_exact(name):
    dtype = torch.bfloat16 if HERE.type == "cuda" else torch.float32
    if reason := why_not(name, HERE, dtype, 64):
        pytest.skip(f"{name}: {reason}")
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, length, 3, 64, device=HERE, dtype=dtype) for length in (40, 120, 120))
    off = (backend_named(name)(q, k, v).double() - by_hand(q, k, v)).abs().max()
    assert off < (0.02 if dtype == torch.bfloat16 else 1e-5)


def test_a_mask_hides_and_types_follow_the_values():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, length, 2, 16) for length in (5, 7, 7))
    mask = torch.rand(5, 7) > 0.3
    mask[:, 0] = True
    backend = Backend(name="other", kernel=lambda q, k, v: pytest.fail("a kernel that knows no mask was asked"))
    torch.testing.assert_close(backend(q, k, v, mask).double(), by_hand(q, k, v, mask), atol=1e-5, rtol=1e-4)
    assert backend_named("pytorch")(q.double(), k.double(), v).dtype == torch.float32


def test_without_a_gpu_pytorch_serves_and_the_others_say_why():
    found = available("cpu")
    assert found["pytorch"] == ""
    assert all("needs an NVIDIA GPU" in reason for name, reason in found.items() if name != "pytorch")
    assert choose(None, "cpu").name == "pytorch"
    assert choose("pytorch", "cpu").name == "pytorch"


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "pytorch"])
def test_what_was_asked_for_and_cannot_serve_is_an_error(name, monkeypatch):
    with pytest.raises(ValueError, match=f"`attention` asks for '{name}', which cannot serve here: it needs an NVIDIA"):
        choose(name, "cpu")
    monkeypatch.setenv("STUDIO_ATTENTION", name)
    with pytest.raises(ValueError, match="STUDIO_ATTENTION asks for"):
        choose(None, "cpu")
    assert choose("pytorch", "cpu").name == "pytorch"  # What is said in code goes before.


@pytest.mark.parametrize("name", ["flash", "", "PyTorch", "cuda"])
def test_a_name_that_is_none(name, monkeypatch):
    with pytest.raises(ValueError, match="must be one of flash3, cudnn"):
        backend_named(name)
    if name:
        monkeypatch.setenv("STUDIO_ATTENTION", name)
        with pytest.raises(ValueError, match="must be one of"):
            choose(None, "cpu")


def test_a_kernel_that_is_off_or_breaks_is_found_out(monkeypatch):
    """As if there were a GPU whose kernels are wrong: a small attention is computed to know."""

    class Place:
        type = "cuda"

    real = torch.device
    monkeypatch.setattr(backends.torch, "device", lambda name: Place() if name == "pretended" else real(name))
    monkeypatch.setattr(backends.torch, "randn", lambda *shape, device, dtype: torch.rand(shape).to(dtype))
    wrong = Backend(name="flash3", kernel=lambda q, k, v: q + 1)
    monkeypatch.setattr(backends, "backend_named", lambda name: wrong)
    assert "is off by" in why_not("flash3", "pretended", torch.bfloat16, 16)

    def breaks(q, k, v):
        raise RuntimeError("no kernel image for this device\nand much more")

    monkeypatch.setattr(backends, "backend_named", lambda name: Backend(name="flash3", kernel=breaks))
    assert why_not("flash3", "pretended", torch.bfloat16, 16) == "no kernel image for this device"
    assert "needs float16 or bfloat16" in why_not("flash3", "pretended", torch.float32, 16)


def test_a_package_without_its_function_is_named(monkeypatch):
    monkeypatch.setattr(backends, "_MODULES", {"flash2": ("json", "no_such_module_at_all")})
    with pytest.raises(ImportError, match="json has no `flash_attn_func`; no_such_module_at_all: No module"):
        backend_named("flash2")


def test_a_network_computes_with_what_it_was_given():
    asked = []

    def kernel(q, k, v):
        asked.append(q.shape)
        return backends.attention.kernel(q, k, v)

    dit, clip = tiny.dit(), tiny.latents(3)
    expected = dit(clip, torch.zeros(1), tiny.text())
    use_backend(dit, Backend(name="counted", kernel=kernel))
    assert torch.equal(dit(clip, torch.zeros(1), tiny.text()), expected)
    assert len(asked) == 2 * tiny.DIT.layers
