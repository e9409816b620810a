"""What may be asked of a video under way: the future is open, the past is made."""

from __future__ import annotations

from studio.shapes import VideoShape
from studio.timeline import Timeline, check_whole, shorten


def check_units(timeline: object, units: VideoShape, name: str) -> Timeline:
    """Check that a value is a timeline that counts as a model does.

    Args:
        timeline: the candidate.
        units: the model's.
        name: the model's name.

    Returns:
        The timeline.

    Raises:
        ValueError: it is none, or has another frame rate or block size.
    """
    if not isinstance(timeline, Timeline):
        raise ValueError(f"`timeline` must be a studio.Timeline, got {shorten(timeline)}; see Timeline.of(prompt)")
    if (timeline.fps, timeline.block_latent_frames) != (units.fps, units.block):
        raise ValueError(
            f"`timeline` counts {timeline.fps:g} frames/s and {timeline.block_latent_frames} latent frames a block, "
            f"but `{name}` has {units.fps:g} and {units.block}; set fps and block_latent_frames so"
        )
    return timeline


def switch_block(at: int | None, begun: int, length: int | None) -> int:
    """Choose the block at which a switch takes effect.

    Args:
        at: the block asked for; None for the next one that has not begun.
        begun: blocks that have begun.
        length: blocks in all, or None.

    Returns:
        The block.

    Raises:
        ValueError: it has begun, or lies past the end.
    """
    block = begun if at is None else check_whole(at, "at", 0, 2**62)
    if block < begun:
        raise ValueError(
            f"`at` must be a block that has not begun, {begun} or later, got {block}; "
            f"use {begun}, or leave it out for the next one"
        )
    if length is not None and block >= length:
        raise ValueError(
            f"`at` must be before the end of the video, block {length}, got {block}; lengthen it: "
            f"session.timeline = session.timeline.with_length({block + 1}) or more, or None for no end"
        )
    return block
