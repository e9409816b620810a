"""Plain text, one prompt a line."""

from __future__ import annotations

from studio.formats.losses import Losses
from studio.timeline.checks import shorten
from studio.timeline.value import SEGMENT_BLOCKS, Timeline


def to_text(timeline: Timeline) -> str:
    """Write the prompts of a timeline, one a line.

    Args:
        timeline: what to write; its times, policies, notes, length and seed do not fit into plain text.

    Returns:
        Text; `lost_in_text` lists what it cannot hold.

    Raises:
        ValueError: a prompt that holds a line break.
    """
    for i, segment in enumerate(timeline.segments):
        if len(segment.prompt.splitlines()) > 1:
            raise ValueError(
                f"plain text holds one prompt a line, but the prompt of segment {i} has line breaks: "
                f"{shorten(segment.prompt)}; use JSON, or replace them by spaces"
            )
    return "".join(segment.prompt.strip() + "\n" for segment in timeline.segments)


def lost_in_text(timeline: Timeline) -> tuple[str, ...]:
    """Say what plain text cannot hold of a timeline.

    Args:
        timeline: what would be written.

    Returns:
        Short descriptions; empty when nothing is lost.
    """
    plain = Timeline.of(*(segment.prompt for segment in timeline.segments))
    lost = []
    if _come_back(timeline) is False:
        lost.append("white space, line separators and byte order marks at the ends of prompts")
    if [segment.start for segment in timeline.segments] != [segment.start for segment in plain.segments]:
        lost.append("the starts of the segments")
    plurals = {"policy": "policies", "sink_policy": "sink policies", "colour": "colours", "note": "notes"}
    for name, plural in plurals.items():
        if any(getattr(segment, name) for segment in timeline.segments):
            lost.append(f"the {plural}")
    lost += Losses(timeline).of("blends", "transitions", "markers")
    if timeline.length is not None:
        lost.append(f"the length of {timeline.length} blocks")
    if timeline.seed:
        lost.append(f"the seed {timeline.seed}")
    if (timeline.fps, timeline.block_latent_frames) != (plain.fps, plain.block_latent_frames):
        lost.append("the frame rate and the block size")
    return tuple(lost)


def _come_back(timeline: Timeline) -> bool | None:
    """Whether all prompts come back from plain text as they are; None where it holds them not at all."""
    try:
        text = to_text(timeline)
    except ValueError:
        return None
    try:
        back = from_text(text)
    except ValueError:
        return False
    return [segment.prompt for segment in back.segments] == [segment.prompt for segment in timeline.segments]


def from_text(text: str, blocks: int = SEGMENT_BLOCKS) -> Timeline:
    """Read plain text, one prompt a line; empty lines are passed over.

    Args:
        text: the prompts.
        blocks: blocks from one prompt to the next.

    Returns:
        A timeline without an end.

    Raises:
        ValueError: no prompt, or one that makes no sense.
    """
    if not isinstance(text, str):
        raise ValueError(f"`text` must be a string, got {shorten(text)}; read the file as UTF-8 text first")
    prompts = [line.strip() for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"`text` must hold at least one prompt, got {shorten(text)}; write one prompt a line")
    return Timeline.of(*prompts, blocks=blocks)
