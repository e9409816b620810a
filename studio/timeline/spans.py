"""A timeline as lengths laid end to end: what moving, inserting and removing are done on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from studio.timeline.checks import check_whole, shorten
from studio.timeline.segment import Marker, Segment
from studio.timeline.value import SEGMENT_BLOCKS, Timeline


@dataclass(frozen=True)
class Span:
    """A segment with its length instead of its start.

    Args:
        segment: its start does not matter.
        blocks: its length; None for one that goes on for ever, which only the last can.
    """

    segment: Segment
    blocks: int | None


def spans_of(timeline: Timeline) -> list[Span]:
    """The segments of a timeline with their lengths."""
    ends = [timeline.end_of(i) for i in range(len(timeline.segments))]
    return [
        Span(segment, None if end is None else end - segment.start)
        for segment, end in zip(timeline.segments, ends, strict=True)
    ]


def lay(timeline: Timeline, spans: Sequence[Span], markers: Sequence[Marker] | None = None) -> Timeline:
    """Lay spans end to end from block 0.

    Args:
        timeline: gives everything else; one without an end stays without.
        spans: at least one; an endless one that is not the last any more gets the usual length.
        markers: the new markers; None for those of the timeline.

    Returns:
        The new timeline.

    Raises:
        ValueError: no span is left, or it becomes too long.
    """
    if not spans:
        raise ValueError("a timeline needs at least one segment, and none would be left; edit its prompt instead")
    start, segments = 0, []
    for span in spans:
        segments.append(replace(span.segment, start=start))
        start += SEGMENT_BLOCKS if span.blocks is None else span.blocks
    return replace(
        timeline,
        segments=tuple(segments),
        length=None if timeline.length is None else start,
        markers=timeline.markers if markers is None else tuple(markers),
    )


def cut_at(timeline: Timeline, block: int) -> tuple[list[Span], list[Span]]:
    """Cut a timeline in two.

    Args:
        timeline: what to cut.
        block: where; from 0 to its end.

    Returns:
        What lies before and after. A segment that is cut goes on afterwards without its transition.

    Raises:
        ValueError: the block lies past the end.
    """
    if timeline.length is not None and block > timeline.length:
        raise ValueError(f"`at` must be at most the length of {timeline.length} blocks, got {block}")
    before, after, start = [], [], 0
    for span in spans_of(timeline):
        end = None if span.blocks is None else start + span.blocks
        if end is not None and end <= block:
            before.append(span)
        elif start >= block:
            after.append(span)
        else:
            before.append(Span(span.segment, block - start))
            rest = None if end is None else end - block
            after.append(Span(replace(span.segment, transition=None), rest))
        start = end or 0
    return before, after


def shifted(markers: Sequence[Marker], move: Callable[[int], int | None]) -> tuple[Marker, ...]:
    """Move markers.

    Args:
        markers: in order.
        move: the new block of a marker at a block, or None to drop it.

    Returns:
        The markers in order; where two would stand at one block, the one that came later is dropped.
    """
    found: dict[int, Marker] = {}
    for marker in markers:
        block = move(marker.block)
        if block is not None and block not in found:
            found[block] = replace(marker, block=block)
    return tuple(found[block] for block in sorted(found))


def check_indices(timeline: Timeline, candidate: object) -> tuple[int, ...]:
    """Check that a value names segments of a timeline, each once.

    Args:
        timeline: has the segments.
        candidate: their indices, in any order.

    Returns:
        The indices in order.

    Raises:
        ValueError: none, one twice, or one that is not there.
    """
    if not isinstance(candidate, (list, tuple)) or not candidate:
        raise ValueError(f"`segments` must name at least one segment by its index, got {shorten(candidate)}; use (0,)")
    count = len(timeline.segments)
    found = [check_whole(i, "segment", 0, count - 1, f"there are {count}, counted from 0") for i in candidate]
    if len(set(found)) != len(found):
        raise ValueError(f"`segments` names one twice, got {shorten(candidate)}; name each once")
    return tuple(sorted(found))
