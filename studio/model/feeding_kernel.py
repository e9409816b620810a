"""The Triton kernel of `studio.model.feeding`; only machines with Triton import it."""

from __future__ import annotations

import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]

__all__ = ["feed_kernel"]


@triton.jit
def feed_kernel(
    skip,
    y,
    bias,
    gain,
    before,
    kept,
    fed,
    remembered,
    frames,
    pixels,
    CHANNELS: tl.constexpr,
    PAST: tl.constexpr,
    PLACES: tl.constexpr,
    WITH_SKIP: tl.constexpr,
    WITH_BIAS: tl.constexpr,
    WITH_NORM: tl.constexpr,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One frame of the past or of the present, a few pixels of it: summed, normed, and put where it is read.

    `skip`, `y` and `kept`, which takes the sum, are `[B, frames, H, W, CHANNELS]`; `bias` and `gain` are `[CHANNELS]`;
    `before` and `remembered`, which takes the last frames of all, are `[B, PAST, H, W, CHANNELS]`. `fed` takes frame s
    as part p of frame s - p: `[B, PAST + frames - PLACES + 1, H, W, PLACES CHANNELS]`. What is not WITH, or not to
    KEEP, is not touched. A program works on ROWS of the `pixels` H W; WIDTH is the power of 2 that holds CHANNELS.
    """
    whole = frames + PAST
    outputs = whole - PLACES + 1
    video = tl.program_id(1) // whole
    frame = tl.program_id(1) % whole
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, WIDTH)
    mask = (pixel < pixels)[:, None] & (channel < CHANNELS)[None, :]
    within = pixel[:, None] * CHANNELS + channel[None, :]
    if frame < PAST:
        at = (video * PAST + frame).to(tl.int64) * pixels * CHANNELS
        value = tl.load(before + at + within, mask=mask, other=0.0)
    else:
        at = (video * frames + frame - PAST).to(tl.int64) * pixels * CHANNELS
        x = tl.load(y + at + within, mask=mask, other=0.0).to(tl.float32)
        if WITH_BIAS:
            x += tl.load(bias + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
        if WITH_SKIP:
            x += tl.load(skip + at + within, mask=mask, other=0.0).to(tl.float32)
        if KEEP:
            tl.store(kept + at + within, x.to(kept.dtype.element_ty), mask=mask)
        if WITH_NORM:
            scale = tl.rsqrt(tl.sum(x * x, axis=1) / CHANNELS + 1e-12)
            x = x * scale[:, None] * tl.load(gain + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
            x = x * tl.sigmoid(x)
        value = x.to(before.dtype.element_ty)
    for place in tl.static_range(PLACES):
        output = frame - place
        if (output >= 0) & (output < outputs):
            there = (video * outputs + output).to(tl.int64) * pixels * (PLACES * CHANNELS) + place * CHANNELS
            tl.store(fed + there + pixel[:, None] * (PLACES * CHANNELS) + channel[None, :], value, mask=mask)
    if frame >= frames:
        there = (video * PAST + frame - frames).to(tl.int64) * pixels * CHANNELS
        tl.store(remembered + there + within, value, mask=mask)
