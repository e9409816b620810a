"""The units of time of a timeline: blocks, of which frames and seconds are views."""

from __future__ import annotations

from studio.config import VAEConfig
from studio.shapes import VideoClock

TEMPORAL_FACTOR = VAEConfig().temporal_factor


def clock(fps: float, block_latent_frames: int) -> VideoClock:
    """The units of time of a video whose picture does not matter.

    Args:
        fps: pixel frames a second.
        block_latent_frames: latent frames a block.

    Returns:
        Counts frames, blocks and seconds.
    """
    return VideoClock(block=block_latent_frames, temporal_factor=TEMPORAL_FACTOR, fps=fps)


def block_at_or_after(seconds: float, units: VideoClock) -> int:
    """First block that starts at or after a time.

    Args:
        seconds: time in the video, from 0 up.
        units: see `clock`.

    Returns:
        The block number.

    Raises:
        ValueError: a time past the longest video, see `VideoClock.blocks_for`.
    """
    return units.blocks_for(seconds) if seconds > 0 else 0
