"""What a causal convolution reads, made in one pass over memory where Triton can run.

Sum, norm, SiLU, the past in front, and each frame put side by side with its neighbours: a compiler makes several
kernels of that, each of which goes through the whole activation. Here each number is read once and written where it is
needed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

__all__ = ["can_feed", "feed"]

KINDS = (torch.bfloat16, torch.float16, torch.float32)
WIDEST = 1024  # channels that one program holds
NUMBERS, WARPS = 4096, 4  # numbers that a program works on, and its warps


def can_feed(x: Tensor) -> bool:
    """Whether the kernel can run for such activations, `[B, C, T, H, W]`: on a GPU with Triton, in a usual type."""
    if x.dtype not in KINDS or x.shape[1] > WIDEST or importlib.util.find_spec("triton") is None:
        return False
    return x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"


def feed(
    skip: Tensor | None,
    y: Tensor,
    bias: Tensor | None,
    gain: Tensor | None,
    before: Tensor,
    keep: bool,
    taps: int,
    overwrite: bool = False,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Sum up `skip + y + bias`, norm it, apply SiLU, and lay it after its past.

    Within, numbers are float32; what is returned is rounded once.

    Args:
        skip: `[B, C, T, H, W]`, or nothing to add; like all others best with its channels last in memory.
        y: `[B, C, T, H, W]`.
        bias: `[C]`, or nothing to add.
        gain: Of the norm over channels, any shape with C entries; without it there is neither norm nor SiLU.
        before: The past, `[B, C, P, H, W]`.
        keep: Whether the sum is returned.
        taps: Frames to lay side by side; 0: frames one after another.
        overwrite: Whether the sum may be put into the memory of `skip` or `y`.

    Returns:
        The sum `[B, C, T, H, W]` or nothing; what the convolution reads, `[B, C, P + T, H, W]` or
        `[B (P + T - taps + 1), taps C, H, W]`; the last P frames, `[B, C, P, H, W]`.
    """
    from studio.model.feeding_kernel import feed_kernel

    kernel: Any = feed_kernel
    batch, channels, frames, height, width = y.shape
    past, places = before.shape[2], taps or 1
    y, before, skip = _last(y), _last(before), None if skip is None else _last(skip)
    summed = skip is not None or bias is not None
    kept = y
    if keep and summed:
        kept = y.new_empty(y.shape) if not overwrite else y if skip is None else skip
    outputs = past + frames - places + 1
    fed = y.new_empty(batch, outputs, height, width, places * channels)
    remembered = y.new_empty(before.shape)
    span = 1 << (channels - 1).bit_length()
    rows = max(NUMBERS // span, 1)
    # Triton launches on the current GPU, wherever its operands are.
    with torch.cuda.device(y.device) if y.is_cuda else contextlib.nullcontext():
        kernel[(-(-height * width // rows), batch * (past + frames))](
            y if skip is None else skip,
            y,
            y if bias is None else bias,
            y if gain is None else gain,
            before,
            kept,
            fed,
            remembered,
            frames,
            height * width,
            CHANNELS=channels,
            PAST=past,
            PLACES=places,
            WITH_SKIP=skip is not None,
            WITH_BIAS=bias is not None,
            WITH_NORM=gain is not None,
            KEEP=keep and summed,
            ROWS=rows,
            WIDTH=span,
            num_warps=WARPS,
        )
    ready = fed.flatten(0, 1).movedim(-1, 1) if taps else fed.movedim(-1, 1)
    return kept.movedim(-1, 1) if keep else None, ready, remembered.movedim(-1, 1)


def _last(x: Tensor) -> Tensor:
    """The same numbers as `[B, T, H, W, C]`, copied only where they do not lie like that."""
    return x.movedim(1, -1).contiguous()
