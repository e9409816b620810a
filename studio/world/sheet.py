"""Contact sheets: rows of frames with their captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor


def sheet(pixels: Tensor, captions: Sequence[str] | None = None, *, columns: int = 6, zoom: int = 1) -> Image.Image:
    """Lay clips out as rows of evenly spaced frames.

    Args:
        pixels: `[B, T, 3, H, W]` in [-1, 1].
        captions: one text a clip, written above its row.
        columns: frames a row.
        zoom: whole factor of enlargement.

    Returns:
        The picture.

    Raises:
        ValueError: the captions do not match the clips.
    """
    clips, frames, _, height, width = pixels.shape
    if captions is not None and len(captions) != clips:
        raise ValueError(f"`captions` must hold {clips} texts, got {len(captions)}; pass one a clip")
    picks = np.linspace(0, frames - 1, min(columns, frames)).round().astype(int)
    bar = 14 if captions is not None else 0
    high, wide = height * zoom + bar, width * zoom
    page = Image.new("RGB", (wide * len(picks), high * clips), "white")
    draw = ImageDraw.Draw(page)
    for row in range(clips):
        shown = ((pixels[row, picks].clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        for column, frame in enumerate(shown):
            tile = Image.fromarray(frame).resize((wide, height * zoom), Image.Resampling.NEAREST)
            page.paste(tile, (column * wide, row * high + bar))
        if captions is not None:
            draw.text((3, row * high + 1), captions[row], fill="black")
    return page
