"""Meters on finished frames: flicker at block boundaries, and drift of brightness and colour.

Source: luma weights of ITU-R BT.709; the measures are plain statistics of frame differences and means.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from studio.shapes import VideoShape

__all__ = ["Drift", "Flicker", "block_boundaries", "measure_drift", "measure_flicker"]

_LUMA = np.array([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True, kw_only=True, eq=False)
class Flicker:
    """Whether pictures jump where one block ends and the next begins.

    Args:
        differences: `[T - 1]`, mean absolute difference of each frame to the one before, in levels of 255.
        boundaries: First frames of the later blocks, in 1..T - 1.
        at_boundaries: Mean difference over the boundaries.
        inside: Mean difference over all other frames.
    """

    differences: np.ndarray
    boundaries: tuple[int, ...]
    at_boundaries: float
    inside: float

    @property
    def ratio(self) -> float:
        """Difference at boundaries over that inside blocks: 1 without flicker; NaN for a still picture."""
        if self.inside == 0:
            return float("nan") if self.at_boundaries == 0 else float("inf")
        return self.at_boundaries / self.inside

    def rows(self) -> list[dict[str, Any]]:
        """A row for each frame after the first, ready for a data frame."""
        return [
            {"frame": i, "boundary": i in self.boundaries, "difference": float(value)}
            for i, value in enumerate(self.differences, start=1)
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Drift:
    """How brightness and colour move over a video.

    Args:
        seconds: `[T]`, time of each frame.
        brightness: `[T]`, mean luma in levels of 255.
        colour: `[T, 3]`, mean red, green and blue in levels of 255.
        brightness_slope: Levels a second, by least squares.
        colour_slope: The same for red, green and blue.
    """

    seconds: np.ndarray
    brightness: np.ndarray
    colour: np.ndarray
    brightness_slope: float
    colour_slope: tuple[float, float, float]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each frame, ready for a data frame."""
        return [
            {
                "frame": i,
                "seconds": float(self.seconds[i]),
                "brightness": float(self.brightness[i]),
                "red": float(red),
                "green": float(green),
                "blue": float(blue),
            }
            for i, (red, green, blue) in enumerate(self.colour)
        ]


def block_boundaries(shape: VideoShape, frames: int, *, first_block: int = 0) -> tuple[int, ...]:
    """Frames at which a new block begins.

    Args:
        shape: The model's video shape.
        frames: Frames of the excerpt, at least 0.
        first_block: Block that the excerpt begins with.

    Returns:
        Indices within the excerpt, in 1..frames - 1.

    Raises:
        ValueError: If a number is negative.
    """
    if min(frames, first_block) < 0:
        raise ValueError(f"`frames` and `first_block` must be at least 0, got {frames} and {first_block}")
    found, block, start = [], first_block + 1, shape.first_frame(first_block)
    while (begin := shape.first_frame(block) - start) < frames:
        found.append(begin)
        block += 1
    return tuple(found)


def measure_flicker(frames: np.ndarray, boundaries: Sequence[int]) -> Flicker:
    """Compare the jumps at block boundaries with the motion inside blocks.

    Args:
        frames: uint8 `[T, H, W, 3]`.
        boundaries: First frames of the later blocks, as `block_boundaries` gives them.

    Returns:
        The differences and their means.

    Raises:
        ValueError: If the frames are no uint8 pictures, or there is no frame at or none off a boundary.
    """
    _check(frames)
    marks = tuple(sorted({int(i) for i in boundaries}))
    if not marks or marks[0] < 1 or marks[-1] >= len(frames) or len(marks) == len(frames) - 1:
        raise ValueError(
            f"`boundaries` must be some, but not all, of the frames 1..{len(frames) - 1}, got {list(boundaries)}"
        )
    differences = np.array([np.abs(b.astype(np.int16) - a).mean() for a, b in itertools.pairwise(frames)])
    there = np.zeros(len(differences), dtype=bool)
    there[np.array(marks) - 1] = True
    return Flicker(
        differences=differences,
        boundaries=marks,
        at_boundaries=float(differences[there].mean()),
        inside=float(differences[~there].mean()),
    )


def measure_drift(frames: np.ndarray, fps: float) -> Drift:
    """Follow mean brightness and colour over a video.

    Args:
        frames: uint8 `[T, H, W, 3]`, at least two.
        fps: Frames a second, positive.

    Returns:
        The curves and their slopes.

    Raises:
        ValueError: If the frames are no uint8 pictures, fewer than two, or `fps` is not positive.
    """
    _check(frames)
    if not 0 < fps < float("inf"):
        raise ValueError(f"`fps` must be positive and finite, got {fps}")
    if len(frames) < 2:
        raise ValueError(f"`frames` must be at least two pictures, got {len(frames)}")
    seconds = np.arange(len(frames)) / fps
    colour = np.array([frame.mean(axis=(0, 1)) for frame in frames])
    brightness = colour @ _LUMA
    centred = seconds - seconds.mean()
    red, green, blue = (centred @ colour / (centred @ centred)).tolist()
    return Drift(
        seconds=seconds,
        brightness=brightness,
        colour=colour,
        brightness_slope=float(centred @ brightness / (centred @ centred)),
        colour_slope=(red, green, blue),
    )


def _check(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"`frames` must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
