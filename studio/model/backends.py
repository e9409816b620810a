"""Attention back ends: which kernel computes exact attention, chosen once and shown.

All take queries `[B, Lq, N, D]` and keys and values `[B, Lk, N, D]` and give `[B, Lq, N, D]`. A mask is PyTorch's
affair: the packages below know none.

Sources: FlashAttention-2 (arXiv:2307.08691), FlashAttention-3 (arXiv:2407.08608); PyTorch's
`torch.nn.attention.SDPBackend`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "BACKENDS",
    "FP8",
    "Backend",
    "attention",
    "available",
    "backend_named",
    "choose",
    "use_backend",
    "widened",
]

VARIABLE = "STUDIO_ATTENTION"

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
FP8 = torch.float8_e4m3fn


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A way to compute attention.

    Args:
        name: As in `BACKENDS`.
        kernel: What computes it, without a mask.
    """

    name: str
    kernel: Kernel

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Exact softmax attention with scale 1 / sqrt(D).

        Args:
            q: Queries `[B, Lq, N, D]`.
            k: Keys `[B, Lk, N, D]`.
            v: Values `[B, Lk, N, D]`.
            mask: Bool, broadcast to `[B, N, Lq, Lk]`, `True` where a query may look, or `None`.

        Returns:
            `[B, Lq, N, D]` in `v`'s type; bfloat16 if that is FP8.
        """
        if v.dtype == FP8 and (mask is not None or self.name != "flash3" or not v.is_cuda):
            q, k, v = widened(q, k, v)  # only FlashAttention-3 multiplies in FP8
        q, k = q.type_as(v), k.type_as(v)
        return _pytorch(q, k, v, mask) if mask is not None else self.kernel(q, k, v)


def widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The same tensors, those in FP8 as bfloat16, which holds their numbers exactly."""
    return tuple(x.to(torch.bfloat16) if x.dtype == FP8 else x for x in tensors)


def _pytorch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def _cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return _pytorch(q, k, v)


# Package and function of each; the first module that can be loaded serves.
_MODULES = {
    "flash3": ("flash_attn_interface", "fa3_fwd_interface"),
    "flash4": ("flash_attn.cute", "flash_attn_4"),
    "flash2": ("flash_attn",),
}
BACKENDS = ("flash3", "cudnn", "flash4", "flash2", "pytorch")
_HALVES = (torch.float16, torch.bfloat16)


def _package(name: str) -> Any:
    """The module of a package; raises ImportError with all that was tried."""
    tried = []
    for module in _MODULES[name]:
        try:
            found = importlib.import_module(module)
        except Exception as error:  # A wheel of another build fails in ways of its own.
            tried.append(f"{module}: {error}")
            continue
        if hasattr(found, "flash_attn_func"):
            return found
        tried.append(f"{module} has no `flash_attn_func`")
    raise ImportError("; ".join(tried))


def _flash(name: str) -> Kernel:
    function = _package(name).flash_attn_func

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = function(q, k, v)
        return out[0] if isinstance(out, tuple) else out

    return kernel


def backend_named(name: str) -> Backend:
    """The back end of a name.

    Args:
        name: One of `BACKENDS`.

    Returns:
        The back end, not tried on any device yet.

    Raises:
        ValueError: If there is none of that name.
        ImportError: If its package cannot be loaded.
    """
    if name not in BACKENDS:
        raise ValueError(f"`attention` must be one of {', '.join(BACKENDS)}, got {name!r}; leave it out for the best")
    kernels: dict[str, Kernel] = {"pytorch": _pytorch, "cudnn": _cudnn}
    return Backend(name=name, kernel=kernels.get(name) or _flash(name))


def why_not(name: str, device: torch.device | str, dtype: torch.dtype, head_dim: int) -> str:
    """Why a back end cannot serve here: a sentence, or nothing if it can. A small attention is computed to know.

    Args:
        name: One of `BACKENDS`.
        device: Where it would compute.
        dtype: Type of queries, keys and values.
        head_dim: Channels of a head.
    """
    device = torch.device(device)
    if name == "pytorch":
        return ""
    if device.type != "cuda":
        return f"it needs an NVIDIA GPU, and this is {device}"
    if dtype not in _HALVES:
        return f"it needs float16 or bfloat16, and this is {dtype}".replace("torch.", "")
    try:
        backend = backend_named(name)
        q = torch.randn(1, 64, 2, head_dim, device=device, dtype=dtype)
        k, v = (torch.randn(1, 192, 2, head_dim, device=device, dtype=dtype) for _ in range(2))
        off = (backend(q, k, v).float() - _pytorch(q.float(), k.float(), v.float())).abs().max()
    except Exception as error:  # Kernels of another architecture fail in ways of their own.
        return str(error).strip().split("\n")[0] or type(error).__name__
    return "" if off < 0.05 else f"its result is off by {float(off):.2g}"


def available(device: torch.device | str, dtype: torch.dtype = torch.bfloat16, head_dim: int = 128) -> dict[str, str]:
    """Every back end, best first, with the reason why it cannot serve here, or an empty one.

    Args:
        device: Where it would compute.
        dtype: Type of queries, keys and values.
        head_dim: Channels of a head.
    """
    return {name: why_not(name, device, dtype, head_dim) for name in BACKENDS}


def choose(
    name: str | None, device: torch.device | str, dtype: torch.dtype = torch.bfloat16, head_dim: int = 128
) -> Backend:
    """Choose a back end; what was asked for and cannot serve is an error, never something else in silence.

    Args:
        name: One of `BACKENDS`; `None` for what the environment variable STUDIO_ATTENTION names, else the first that
            serves.
        device: Where it computes.
        dtype: Type of queries, keys and values.
        head_dim: Channels of a head.

    Returns:
        The back end.

    Raises:
        ValueError: If there is no such back end, or it cannot serve.
    """
    asked = name or os.environ.get(VARIABLE) or None
    if asked is None:
        return next(backend_named(one) for one in BACKENDS if not why_not(one, device, dtype, head_dim))
    if asked not in BACKENDS:
        backend_named(asked)
    if reason := why_not(asked, device, dtype, head_dim):
        where = "`attention`" if name else VARIABLE
        raise ValueError(f"{where} asks for {asked!r}, which cannot serve here: {reason}; leave it out for the best")
    return backend_named(asked)


attention = Backend(name="pytorch", kernel=_pytorch)


def use_backend(network: nn.Module, backend: Backend) -> None:
    """Let every attention layer of a transformer compute with a back end.

    Args:
        network: The transformer, changed in place.
        backend: The back end.
    """
    for module in network.modules():
        if isinstance(vars(module).get("backend"), Backend):
            setattr(module, "backend", backend)  # noqa: B010 - to a type checker every attribute is a tensor
