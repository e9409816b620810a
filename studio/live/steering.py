"""What may be asked of a video under way: the future is open, the past is made."""

from __future__ import annotations

from studio.shapes import VideoShape
from studio.timeline import Segment, Timeline, check_whole, shorten


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


def check_past(before: Timeline, after: Timeline, begun: int) -> None:
    """Check that an edit leaves the blocks that have begun as they are; colours and notes are free.

    Args:
        before: the timeline in force.
        after: the edited one.
        begun: blocks that have begun.

    Raises:
        ValueError: it changes one of them; the message names the first change and where edits may begin.
    """
    remedy = f"change block {begun} or a later one, or restart()"
    if after.length is not None and after.length < begun:
        raise ValueError(f"`length` must be at least the {begun} blocks begun, got {after.length}; use {begun}")
    if begun and after.seed != before.seed:
        raise ValueError(f"`seed` cannot change after a block has begun, got {after.seed}; use restart(seed)")
    old, new = ([_essence(s) for s in line.segments if s.start < begun] for line in (before, after))
    for was, now in zip(old, new, strict=False):
        if was != now:
            raise ValueError(
                f"the past cannot be edited: block {was[0]} was made under {shorten(was[1])}, "
                f"got {shorten(now[1])} from block {now[0]}; {remedy}"
            )
    if len(old) != len(new):
        longer, what = (old, "removed") if len(old) > len(new) else (new, "added")
        odd = longer[min(len(old), len(new))]
        raise ValueError(
            f"the past cannot be edited: {shorten(odd[1])} was {what} at block {odd[0]}, but {begun} blocks have "
            f"begun; {remedy}"
        )


def _essence(segment: Segment) -> tuple[int, str, str | None, str | None]:
    """What of a segment decides the picture."""
    return segment.start, segment.prompt, segment.policy, segment.sink_policy


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
