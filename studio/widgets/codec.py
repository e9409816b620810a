"""Frames to JPEG: the bytes that travel to the browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["QUALITY", "encode_frames", "film_strip", "require_simplejpeg"]

# The pictures are small and looked at closely: full colour resolution and few artefacts cost little at this size.
QUALITY = 92


def encode_frames(frames: np.ndarray, quality: int = QUALITY) -> list[bytes]:
    """Compress frames one by one.

    Args:
        frames: uint8 `[T, H, W, 3]`, RGB.
        quality: JPEG quality, 1 to 100.

    Returns:
        One JPEG file a frame.

    Raises:
        ImportError: If simplejpeg is missing.
        ValueError: If `frames` has another type or shape.
    """
    encode = require_simplejpeg().encode_jpeg
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"`frames` must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    whole = np.ascontiguousarray(frames)
    return [encode(frame, quality=quality, colorspace="RGB", colorsubsampling="444", fastdct=False) for frame in whole]


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
