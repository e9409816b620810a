"""The past of a timeline, whose blocks are made, and its future, which is open."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from studio.timeline.checks import shorten
from studio.timeline.segment import Segment
from studio.timeline.value import Timeline

CHOICES = ("keep", "fork", "regenerate")
"""What can be done about an edit of the past: keep what was made and edit only the future, make a fork from there on
as another take, or make the video again from there on in place of this take."""


class PastEdit(ValueError):
    """An edit changes blocks that have begun.

    Args:
        message: what is wrong and what can be done.
        block: the first block it changes.
        begun: blocks that have begun.

    Attributes:
        choices: what can be done about it; see `CHOICES`.
    """

    choices = CHOICES

    def __init__(self, message: str, block: int, begun: int) -> None:
        super().__init__(message)
        self.block, self.begun = block, begun


def first_change(before: Timeline, after: Timeline, begun: int) -> int | None:
    """The first block of the past that an edit changes; colours, notes, markers and mere cuts change nothing.

    Args:
        before: the timeline in force.
        after: the edited one.
        begun: blocks that have begun.

    Returns:
        The block, below `begun`; None when the past stays as it is.
    """
    if begun and after.seed != before.seed:
        return 0
    old, new = (essences(line, begun) for line in (before, after))
    for was, now in itertools.zip_longest(old, new):
        if was != now:
            return min(entry[0] for entry in (was, now) if entry is not None)
    if after.length is not None and after.length < begun:
        return after.length
    return None


def check_past(before: Timeline, after: Timeline, begun: int) -> None:
    """Check that an edit leaves the blocks that have begun as they are; see `first_change` for what is free.

    Args:
        before: the timeline in force.
        after: the edited one.
        begun: blocks that have begun.

    Raises:
        PastEdit: it changes one of them; the message names the first change and where edits may begin.
    """
    first = first_change(before, after, begun)
    if first is not None:
        raise PastEdit(_reason(before, after, begun), first, begun)


def keep_past(before: Timeline, after: Timeline, begun: int) -> Timeline:
    """The edit for the future alone: what has begun stays as it is.

    Args:
        before: the timeline in force.
        after: the edited one.
        begun: blocks that have begun.

    Returns:
        `before` up to block `begun` and `after` from there on.
    """
    if not begun:
        return after
    past = [segment for segment in before.segments if segment.start < begun]
    future = [segment for segment in after.segments if segment.start >= begun]
    length = None if after.length is None else max(after.length, begun)
    ends = length is not None and length <= begun
    rest, last = after.segment_at(begun), past[-1]
    if not ends and rest.start < begun and rest.parts != last.parts:
        future.insert(0, replace(rest, start=begun, transition=None))
    return replace(after, segments=(*past, *future), length=length, seed=before.seed)


def essence(i: int, segment: Segment) -> tuple[Any, ...]:
    """What of a segment decides the picture.

    Args:
        i: its index; a transition of the first has no effect.
        segment: the segment.
    """
    transition = segment.transition if i else None
    return segment.start, segment.prompt, segment.policy, segment.sink_policy, segment.parts, transition


def turns(timeline: Timeline) -> list[int]:
    """Indices of the segments that decide something; a mere cut, as a split leaves it, does not.

    Args:
        timeline: the prompts.
    """
    found: list[int] = []
    settled = 0
    for i, segment in enumerate(timeline.segments):
        cut = segment.policy == "keep" and segment.sink_policy is None and segment.transition is None
        if i and cut and segment.start >= settled and segment.parts == timeline.segments[i - 1].parts:
            continue
        mixed = 0 if segment.transition is None or not i else segment.transition.blocks
        settled = segment.start + mixed
        found.append(i)
    return found


def essences(timeline: Timeline, begun: int) -> list[tuple[Any, ...]]:
    """What decides the blocks that have begun; see `essence`.

    Args:
        timeline: the prompts.
        begun: blocks that have begun.
    """
    found = ((i, timeline.segments[i]) for i in turns(timeline))
    return [essence(i, segment) for i, segment in found if segment.start < begun]


def _reason(before: Timeline, after: Timeline, begun: int) -> str:
    if after.length is not None and after.length < begun:
        return f"`length` must be at least the {begun} blocks begun, got {after.length}; use {begun}"
    if after.seed != before.seed:
        return f"`seed` cannot change after a block has begun, got {after.seed}; use restart(seed) or fork"
    remedy = f"change block {begun} or a later one, fork, or restart()"
    old, new = (essences(line, begun) for line in (before, after))
    for was, now in zip(old, new, strict=False):
        if was != now:
            return (
                f"the past cannot be edited: block {was[0]} was made under {shorten(was[1])}, "
                f"got {shorten(now[1])} from block {now[0]}; {remedy}"
            )
    longer, what = (old, "removed") if len(old) > len(new) else (new, "added")
    odd = longer[min(len(old), len(new))]
    return (
        f"the past cannot be edited: {shorten(odd[1])} was {what} at block {odd[0]}, but {begun} blocks have "
        f"begun; {remedy}"
    )
