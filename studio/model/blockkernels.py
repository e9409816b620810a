"""Triton kernels for the transformer's blocks; see `studio.model.kernels`, which loads them.

Each reads its input once and writes its result once, a row of tokens a program. Inside they compute in float32 and
round at the end.

Source: Triton (Tillet et al., MAPL 2019), https://triton-lang.org.
"""
# Neither the language nor its compiler is there without a GPU.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportArgumentType=false, reportIndexIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from studio.model.backends import FP8
from studio.model.rope import Rotary

__all__ = ["attention_inputs", "gelu_rows"]


@triton.jit
def _normed_and_turned(x, gain, cosine, sine, eps, D: tl.constexpr, BLOCK: tl.constexpr, TURN: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < D, other=0.0).to(tl.float32)
    value = value * tl.rsqrt(tl.sum(value * value, axis=0) / D + eps)
    value = value * tl.load(gain + i, mask=i < D, other=0.0).to(tl.float32)
    if TURN:
        even, odd = tl.split(tl.reshape(value, (BLOCK // 2, 2)))
        value = tl.reshape(tl.join(even * cosine - odd * sine, even * sine + odd * cosine), (BLOCK,))
    return value


@triton.jit
def _attention_inputs(
    qkv,
    q_gain,
    k_gain,
    cosine,
    sine,
    q,
    k,
    v,
    length,
    k_batch,
    v_batch,
    q_eps,
    k_eps,
    D: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCK: tl.constexpr,
    TURN_KEYS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // length, row % length
    i = tl.arange(0, BLOCK)
    pair = tl.arange(0, BLOCK // 2)
    angle = token * PAIRS + pair % PAIRS
    c = tl.load(cosine + angle, mask=pair < D // 2, other=0.0)
    s = tl.load(sine + angle, mask=pair < D // 2, other=0.0)
    own = qkv + row * 3 * D
    asked = _normed_and_turned(own, q_gain, c, s, q_eps, D, BLOCK, True)
    tl.store(q + row * D + i, asked.to(q.dtype.element_ty), mask=i < D)
    key = _normed_and_turned(own + D, k_gain, c, s, k_eps, D, BLOCK, TURN_KEYS)
    tl.store(k + batch * k_batch + token * D + i, key.to(k.dtype.element_ty), mask=i < D)
    value = tl.load(own + 2 * D + i, mask=i < D, other=0.0)
    tl.store(v + batch * v_batch + token * D + i, value.to(tl.float32).to(v.dtype.element_ty), mask=i < D)


def attention_inputs(
    qkv: Tensor,
    gains: tuple[Tensor, Tensor],
    eps: tuple[float, float],
    turn: Rotary,
    slots: tuple[Tensor, Tensor],
    *,
    turn_keys: bool,
) -> Tensor:
    """Norm and rotary turn of queries and keys; keys and values go straight into the cache's slots.

    Args:
        qkv: Queries, keys and values side by side `[B, L, 3 D]`, contiguous.
        gains: Of the RMS norms of queries and keys, `[D]` each.
        eps: Of the same norms.
        turn: Cosine and sine, each `[L, 1, head / 2]` float32.
        slots: Views of the cache for keys and values, `[B, L, N, head]` each, contiguous but for the batch.
        turn_keys: Whether keys are turned as well; not where positions are window-relative.

    Returns:
        Queries `[B, L, N, head]` in the cache's type.
    """
    batch, length, heads, head = slots[0].shape
    dim = heads * head
    q = torch.empty((batch, length, heads, head), device=qkv.device, dtype=slots[0].dtype)
    _attention_inputs[(batch * length,)](
        qkv,
        *gains,
        turn[0],
        turn[1],
        q,
        *slots,
        length,
        slots[0].stride(0),
        slots[1].stride(0),
        *eps,
        D=dim,
        PAIRS=head // 2,
        BLOCK=triton.next_power_of_2(dim),
        TURN_KEYS=turn_keys,
        num_warps=4,
    )
    return q


@triton.jit
def _gelu_rows(x, rows, scales, D: tl.constexpr, BLOCK: tl.constexpr, LARGEST: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    value = tl.load(x + row * D + i, mask=i < D, other=0.0).to(tl.float32)
    # tanh(z) = 2 sigmoid(2 z) - 1, with sqrt(2 / pi) = 0.7978845608.
    value = value * tl.sigmoid(1.5957691216057308 * (value + 0.044715 * value * value * value))
    largest = tl.max(tl.abs(value), axis=0)
    scale = tl.where(largest > 0, largest / LARGEST, 1.0)
    value = tl.minimum(tl.maximum(value / scale, -LARGEST), LARGEST)
    tl.store(rows + row * D + i, value.to(rows.dtype.element_ty), mask=i < D)
    tl.store(scales + row, scale)


@torch.library.triton_op("studio::gelu_rows", mutates_args={})
def gelu_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """GELU (by tanh), then each row scaled to the range of FP8 and rounded.

    Args:
        x: `[rows, D]`, contiguous.

    Returns:
        (`[rows, D]` float8_e4m3fn, `[rows]` float32 scales; a row of zeros has scale 1).
    """
    rows, scales = torch.empty_like(x, dtype=FP8), torch.empty(x.shape[0], device=x.device)
    torch.library.wrap_triton(_gelu_rows)[(x.shape[0],)](
        x,
        rows,
        scales,
        D=x.shape[1],
        BLOCK=triton.next_power_of_2(x.shape[1]),
        LARGEST=torch.finfo(FP8).max,
        num_warps=8,
    )
    return rows, scales
