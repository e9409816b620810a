"""Frames to JPEG: the bytes that travel to the browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["QUALITY", "encode_frames", "film_strip", "require_simplejpeg"]

# The pictures are small and looked at closely: full colour resolution and few artefacts cost little at this size.
QUALITY = 92


def encode_frames(
    frames: np.ndarray, quality: int = QUALITY, *, subsampling: str = "444", shrink: int = 1
) -> list[bytes]:
    """Compress frames one by one.

    Args:
        frames: uint8 `[T, H, W, 3]`, RGB.
        quality: JPEG quality, 1 to 100.
        subsampling: "444" keeps the colours of every pixel, "420" of every fourth.
        shrink: 2 for half the width and height, by the mean of four pixels.

    Returns:
        One JPEG file a frame.

    Raises:
        ImportError: If simplejpeg is missing.
        ValueError: If `frames` has another type or shape.
    """
    encode = require_simplejpeg().encode_jpeg
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"`frames` must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    whole = np.ascontiguousarray(_halved(frames) if shrink > 1 else frames)
    # The quick transform is not seen at the qualities that colours of every fourth pixel go with.
    options = {"colorspace": "RGB", "colorsubsampling": subsampling, "fastdct": subsampling != "444"}
    return [encode(frame, quality=quality, **options) for frame in whole]


def _halved(frames: np.ndarray) -> np.ndarray:
    rows, columns = frames.shape[1] // 2 * 2, frames.shape[2] // 2 * 2
    if not rows or not columns:
        return frames
    cut = frames[:, :rows, :columns].astype(np.uint16)
    rowwise = cut[:, ::2] + cut[:, 1::2]
    return ((rowwise[:, :, ::2] + rowwise[:, :, 1::2] + 2) >> 2).astype(np.uint8)


def film_strip(frames: Sequence[np.ndarray], quality: int = QUALITY) -> bytes:
    """Lay frames side by side in one JPEG picture.

    Args:
        frames: At least one frame, uint8 `[H, W, 3]`, all of one height.
        quality: JPEG quality, 1 to 100.

    Returns:
        A JPEG file.

    Raises:
        ValueError: If there is no frame.
    """
    if not frames:
        raise ValueError("`frames` must hold at least one frame, got none")
    return encode_frames(np.concatenate(list(frames), axis=1)[None], quality)[0]


def require_simplejpeg() -> Any:
    """Import the JPEG library.

    Returns:
        The module.

    Raises:
        ImportError: If it is missing.
    """
    try:
        import simplejpeg
    except ImportError as error:
        raise ImportError("the widgets need simplejpeg to send frames; run: pip install simplejpeg") from error
    return simplejpeg
