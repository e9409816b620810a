"""Triton's own conversion of a type, to compare kernels with: its interpreter rounds FP8 otherwise than a GPU does.

Where rounding carries into the exponent, as 31.4 to 32, Triton 3.6's interpreter loses the carry and stores 16.
"""
# Neither the language nor its compiler is there without a GPU.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportIndexIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _convert(x, y, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < SIZE, other=0.0).to(y.dtype.element_ty), mask=i < SIZE)


def converted(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers in another type, as a kernel of this machine converts them."""
    x = x.float().contiguous()
    y = torch.empty_like(x, dtype=dtype)
    _convert[(1,)](x, y, SIZE=x.numel(), BLOCK=triton.next_power_of_2(x.numel()))
    return y
