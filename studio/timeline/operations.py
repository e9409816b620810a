"""Operations: every edit of a timeline as a value that can be applied, undone, stored and sent.

An operation names places by block and segments by index. `apply` returns a new timeline, or raises ValueError and
changes nothing. As JSON: {"op": "split", "at": 12}.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from studio.timeline.checks import MAX_BLOCKS, check_choice, check_seed, check_whole, nearest, shorten
from studio.timeline.clips import Clip
from studio.timeline.plain import (
    OPTIONS,
    blend_from_list,
    blend_to_list,
    check_keys,
    check_list,
    marker_from_dict,
    marker_to_dict,
    segment_from_dict,
    segment_to_dict,
    transition_from_dict,
    transition_to_dict,
)
from studio.timeline.segment import Marker, Segment
from studio.timeline.spans import Span, check_indices, cut_at, lay, shifted, spans_of
from studio.timeline.value import SEGMENT_BLOCKS, Timeline

EDGES = ("start", "end")
MAX_BATCH = 1000
_CODECS: dict[str, tuple[Any, Any]] = {
    "segment": (segment_to_dict, segment_from_dict),
    "marker": (marker_to_dict, marker_from_dict),
    "clip": (Clip.to_dict, Clip.from_dict),
    "timeline": (lambda line: json.loads(line.to_json()), Timeline.from_json),
    "segments": (lambda indices: [_plain(i) for i in indices], lambda items: tuple(check_list(items, "segments"))),
    "changes": (lambda changes: _changes_to_dict(changes), lambda item: _changes_from_dict(item)),
    "operations": (
        lambda operations: [operation.to_dict() for operation in operations],
        lambda items: tuple(from_dict(_single(item)) for item in check_list(items, "operations")),
    ),
}


class Operation:
    """An edit of a timeline."""

    op: ClassVar[str] = ""
    """Its name in JSON and in an undo menu."""

    def apply(self, timeline: Timeline) -> Timeline:
        """Make the edit.

        Args:
            timeline: what to edit; it stays as it is.

        Returns:
            The edited timeline.

        Raises:
            ValueError: the edit makes no sense there; the message names the value and the remedy.
        """
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The operation as JSON holds it; `from_dict` reads it back."""
        out: dict[str, Any] = {"op": self.op}
        for name in _fields(type(self)):
            value = getattr(self, name)
            out[name] = _CODECS[name][0](value) if name in _CODECS else _plain(value)
        return out


@dataclass(frozen=True)
class Put(Operation):
    """Put a segment at its start, in place of one that starts there; the one before it ends there."""

    op = "put"
    segment: Segment

    def apply(self, timeline: Timeline) -> Timeline:
        """See `Timeline.put`."""
        _check(self.segment, Segment, "segment")
        return timeline.put(self.segment)


@dataclass(frozen=True)
class Paste(Operation):
    """Paste a clip at a block: what is there moves to the right, or with `over` is replaced."""

    op = "paste"
    at: int
    clip: Clip
    over: bool = False

    def apply(self, timeline: Timeline) -> Timeline:
        """Insert or overwrite; a segment that is cut goes on after the clip."""
        _check(self.clip, Clip, "clip")
        _check(self.over, bool, "over")
        at, count = check_whole(self.at, "at", 0, MAX_BLOCKS), self.clip.length
        before, after = cut_at(timeline, at)
        if not self.over:
            move = shifted(timeline.markers, lambda block: block + count if block >= at else block)
            return lay(timeline, [*before, *self.clip.spans, *after], move)
        short = timeline.length is not None and at + count >= timeline.length
        rest = [] if short else cut_at(timeline, at + count)[1]
        return lay(timeline, [*before, *self.clip.spans, *rest])


@dataclass(frozen=True)
class Insert(Operation):
    """Insert a prompt at a block for some blocks; what is there moves to the right."""

    op = "insert"
    segment: Segment
    blocks: int = SEGMENT_BLOCKS

    def apply(self, timeline: Timeline) -> Timeline:
        """See `Paste`; the segment's start says where."""
        _check(self.segment, Segment, "segment")
        clip = Clip((replace(self.segment, start=0),), check_whole(self.blocks, "blocks", 1, MAX_BLOCKS))
        return Paste(self.segment.start, clip).apply(timeline)


@dataclass(frozen=True)
class Remove(Operation):
    """Remove segments; the one before goes on, or with `ripple` what follows moves to the left."""

    op = "remove"
    segments: tuple[int, ...]
    ripple: bool = False

    def apply(self, timeline: Timeline) -> Timeline:
        """Remove them, from the last to the first."""
        _check(self.ripple, bool, "ripple")
        for i in reversed(check_indices(timeline, self.segments)):
            timeline = self._close(timeline, i) if self.ripple else timeline.remove(i)
        return timeline

    @staticmethod
    def _close(timeline: Timeline, i: int) -> Timeline:
        spans = spans_of(timeline)
        start, blocks = timeline.segments[i].start, spans[i].blocks
        if blocks is None:
            return timeline.remove(i)
        end = start + blocks
        markers = shifted(
            timeline.markers, lambda block: block if block < start else None if block < end else block - blocks
        )
        return lay(timeline, [*spans[:i], *spans[i + 1 :]], markers)


@dataclass(frozen=True)
class Split(Operation):
    """Split the segment in force at a block in two, which changes nothing of the video until one of them is edited."""

    op = "split"
    at: int

    def apply(self, timeline: Timeline) -> Timeline:
        """The second half begins with the policy "keep", so that the cache is left alone."""
        at = check_whole(self.at, "at", 1, MAX_BLOCKS)
        if timeline.length is not None and at >= timeline.length:
            raise ValueError(f"`at` must be before the end, block {timeline.length}, got {at}")
        segment = timeline.segment_at(at)
        if segment.start == at:
            raise ValueError(f"block {at} is a boundary already; split inside a segment")
        mixed = 0 if segment.transition is None or not segment.start else segment.transition.blocks
        if at < segment.start + mixed:
            ready = segment.start + mixed
            raise ValueError(
                f"`at` must be after the transition, which ends at block {ready}, got {at}; shorten it first"
            )
        return timeline.put(replace(segment, start=at, policy="keep", sink_policy=None, transition=None))


@dataclass(frozen=True)
class Duplicate(Operation):
    """Copy segments to just after the last of them; what follows moves to the right."""

    op = "duplicate"
    segments: tuple[int, ...]

    def apply(self, timeline: Timeline) -> Timeline:
        """The copies are as long as the originals; one without an end gets the usual length."""
        chosen, spans = check_indices(timeline, self.segments), spans_of(timeline)
        last = chosen[-1] + 1
        if spans[last - 1].blocks is None:
            spans[last - 1] = Span(spans[last - 1].segment, SEGMENT_BLOCKS)
        copies = [spans[i] for i in chosen]
        at = timeline.segments[last - 1].start + (spans[last - 1].blocks or 0)
        count = sum(span.blocks or 0 for span in copies)
        markers = shifted(timeline.markers, lambda block: block + count if block >= at else block)
        return lay(timeline, [*spans[:last], *copies, *spans[last:]], markers)


@dataclass(frozen=True)
class Reorder(Operation):
    """Move segments, with their lengths, to another place in the order."""

    op = "reorder"
    segments: tuple[int, ...]
    to: int

    def apply(self, timeline: Timeline) -> Timeline:
        """They come to stand before the segment that has index `to` now; the number of segments puts them last."""
        chosen, spans = check_indices(timeline, self.segments), spans_of(timeline)
        to = check_whole(self.to, "to", 0, len(spans))
        moved = [spans[i] for i in chosen]
        before = [span for i, span in enumerate(spans) if i < to and i not in chosen]
        after = [span for i, span in enumerate(spans) if i >= to and i not in chosen]
        return lay(timeline, [*before, *moved, *after])


@dataclass(frozen=True)
class Slide(Operation):
    """Move a segment in time with its length: the one before it grows or shrinks, and the one after it."""

    op = "slide"
    segment_index: int
    to: int

    def apply(self, timeline: Timeline) -> Timeline:
        """The neighbours keep at least one block; the last segment of a video with an end moves that end."""
        (i,) = check_indices(timeline, (self.segment_index,))
        if i == 0:
            raise ValueError(
                "the first segment starts at block 0 and cannot slide; reorder it, or insert one before it"
            )
        spans = spans_of(timeline)
        low, start = timeline.segments[i - 1].start + 1, timeline.segments[i].start
        following = spans[i + 1].blocks if i + 1 < len(spans) else None
        high = MAX_BLOCKS if following is None else start + following - 1
        by = check_whole(self.to, "to", low, high, "a segment stays between its neighbours") - start
        spans[i - 1] = _grown(spans[i - 1], by)
        if following is not None:
            spans[i + 1] = _grown(spans[i + 1], -by)
        return lay(timeline, spans)


@dataclass(frozen=True)
class Resize(Operation):
    """Move an edge of a segment: "roll" takes from the neighbour, "ripple" moves all that follows."""

    op = "resize"
    segment_index: int
    edge: str
    to: int
    ripple: bool = False

    def apply(self, timeline: Timeline) -> Timeline:
        """Under ripple, the start stays where it is and the segment loses or gains at its front."""
        (i,) = check_indices(timeline, (self.segment_index,))
        if check_choice(self.edge, "edge", EDGES) is None:
            raise ValueError('`edge` must be "start" or "end", got None')
        _check(self.ripple, bool, "ripple")
        if self.ripple:
            return self._ripple(timeline, i)
        if self.edge == "start":
            return timeline.move(i, self.to)
        if i + 1 < len(timeline.segments):
            return timeline.move(i + 1, self.to)
        return timeline.with_length(check_whole(self.to, "to", timeline.segments[i].start + 1, MAX_BLOCKS))

    def _ripple(self, timeline: Timeline, i: int) -> Timeline:
        spans, start, end = spans_of(timeline), timeline.segments[i].start, timeline.end_of(i)
        if end is None:
            if self.edge == "end":
                return timeline.with_length(check_whole(self.to, "to", start + 1, MAX_BLOCKS))
            raise ValueError("the last segment has no end, so nothing can ripple; roll its start instead")
        to = check_whole(self.to, "to", start + 1 if self.edge == "end" else -MAX_BLOCKS, MAX_BLOCKS)
        by = to - end if self.edge == "end" else start - to
        spans[i] = _grown(spans[i], by)
        markers = shifted(timeline.markers, lambda block: block + by if block >= end else min(block, end + by))
        return lay(timeline, spans, markers)


@dataclass(frozen=True)
class Change(Operation):
    """Change prompt, weights, policy, sink policy, transition, colour or note of segments."""

    op = "change"
    segments: tuple[int, ...]
    changes: Mapping[str, Any] = field(hash=False)

    def apply(self, timeline: Timeline) -> Timeline:
        """Every named segment gets all changes; None gives an option back to its default."""
        check_keys(dict(self.changes), ("prompt", *OPTIONS), "changes")
        if not self.changes:
            raise ValueError(f"`changes` must name at least one of prompt, {', '.join(OPTIONS)}, got none")
        defaults = {"note": "", "weight": 1.0, "blend": ()}
        wanted = {name: defaults.get(name) if value is None else value for name, value in self.changes.items()}
        for i in check_indices(timeline, self.segments):
            timeline = timeline.edit(i, **wanted)
        return timeline


@dataclass(frozen=True)
class Mark(Operation):
    """Set a marker, in place of one at the same block."""

    op = "mark"
    marker: Marker

    def apply(self, timeline: Timeline) -> Timeline:
        """Add it to the timeline's markers."""
        _check(self.marker, Marker, "marker")
        kept = [marker for marker in timeline.markers if marker.block != self.marker.block]
        return replace(timeline, markers=tuple(sorted([*kept, self.marker], key=lambda marker: marker.block)))


@dataclass(frozen=True)
class Unmark(Operation):
    """Remove the marker at a block."""

    op = "unmark"
    at: int

    def apply(self, timeline: Timeline) -> Timeline:
        """Leave the other markers."""
        _marker_at(timeline, self.at)
        return replace(timeline, markers=tuple(marker for marker in timeline.markers if marker.block != self.at))


@dataclass(frozen=True)
class MoveMark(Operation):
    """Move the marker at a block to another block without one."""

    op = "move mark"
    at: int
    to: int

    def apply(self, timeline: Timeline) -> Timeline:
        """Keep its name and colour."""
        marker = _marker_at(timeline, self.at)
        if self.to != self.at and any(other.block == self.to for other in timeline.markers):
            raise ValueError(f"there is a marker at block {self.to} already; remove it first")
        return Mark(replace(marker, block=self.to)).apply(Unmark(self.at).apply(timeline))


@dataclass(frozen=True)
class SetLength(Operation):
    """Let the video end after some blocks, or never (None)."""

    op = "length"
    length: int | None

    def apply(self, timeline: Timeline) -> Timeline:
        """See `Timeline.with_length`."""
        return timeline.with_length(self.length)


@dataclass(frozen=True)
class SetSeed(Operation):
    """Set the seed of the noise."""

    op = "seed"
    seed: int

    def apply(self, timeline: Timeline) -> Timeline:
        """See `Timeline.with_seed`."""
        return timeline.with_seed(check_seed(self.seed))


@dataclass(frozen=True)
class Replace(Operation):
    """Put another timeline in place of the whole one, as after an import."""

    op = "replace"
    timeline: Timeline

    def apply(self, timeline: Timeline) -> Timeline:
        """Return it."""
        return _check(self.timeline, Timeline, "timeline")


@dataclass(frozen=True)
class Batch(Operation):
    """Several operations, none of them a batch, as one step of the history: all of them or none."""

    op = "batch"
    operations: tuple[Operation, ...]

    def apply(self, timeline: Timeline) -> Timeline:
        """Apply them in order."""
        if not isinstance(self.operations, (list, tuple)) or not 0 < len(self.operations) <= MAX_BATCH:
            raise ValueError(f"`operations` must be 1 to {MAX_BATCH} operations, got {shorten(self.operations)}")
        for operation in self.operations:
            timeline = _single(_check(operation, Operation, "operations")).apply(timeline)
        return timeline


OPERATIONS: dict[str, type[Operation]] = {
    kind.op: kind
    for kind in (
        Put, Paste, Insert, Remove, Split, Duplicate, Reorder, Slide, Resize, Change, Mark, Unmark, MoveMark, SetLength,
        SetSeed, Replace, Batch,
    )
}  # fmt: skip
"""Every operation by its name."""


def from_dict(item: Any) -> Operation:
    """Read an operation from what `Operation.to_dict` wrote.

    Args:
        item: the dictionary, as JSON holds it.

    Returns:
        The operation.

    Raises:
        ValueError: an unknown operation, a missing or unknown key, or a value that makes no sense.
    """
    name = item.get("op") if isinstance(item, dict) else item
    if not isinstance(item, dict) or not isinstance(name, str) or name not in OPERATIONS:
        near = nearest(name, OPERATIONS) if isinstance(name, str) else None
        hint = f'did you mean "{near}"?' if near else f"known are {', '.join(OPERATIONS)}"
        raise ValueError(f"`op` must name an operation, got {shorten(name)}; {hint}")
    kind = OPERATIONS[name]
    names = _fields(kind)
    check_keys(item, ("op", *names), f"`{name}`")
    values = {key: _CODECS[key][1](item[key]) if key in _CODECS else item[key] for key in names if key in item}
    try:
        return kind(**values)
    except TypeError:
        missing = [key for key in names if key not in item]
        raise ValueError(f"`{name}` is not complete; add {', '.join(missing)}") from None


def _single(item: Any) -> Any:
    """Check that what stands in a batch is no batch itself: nested ones could be deeper than Python can follow."""
    if isinstance(item, Batch) or (isinstance(item, dict) and item.get("op") == Batch.op):
        raise ValueError("`operations` must hold no batch, got one within another; write its operations in its place")
    return item


def _plain(value: Any) -> Any:
    """A whole number, of numpy too, as the int that JSON can hold; anything else as it is."""
    try:
        return value if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return value


def _fields(kind: type[Operation]) -> tuple[str, ...]:
    return tuple(kind.__dataclass_fields__)  # type: ignore[attr-defined]


def _changes_to_dict(changes: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(changes)
    if out.get("blend") is not None:
        out["blend"] = blend_to_list(out["blend"])
    if out.get("transition") is not None:
        out["transition"] = transition_to_dict(out["transition"])
    return out


def _changes_from_dict(item: Any) -> dict[str, Any]:
    out = dict(check_keys(item, ("prompt", *OPTIONS), "changes"))
    if out.get("blend") is not None:
        out["blend"] = blend_from_list(out["blend"])
    if out.get("transition") is not None:
        out["transition"] = transition_from_dict(out["transition"])
    return out


def _check(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"`{name}` must be a {kind.__name__}, got {shorten(value)}")
    return value


def _grown(span: Span, by: int) -> Span:
    if span.blocks is None:
        return span
    if span.blocks + by < 1:
        raise ValueError(f"a segment must keep at least one block, got {span.blocks + by}; remove it instead")
    return Span(span.segment, span.blocks + by)


def _marker_at(timeline: Timeline, block: object) -> Marker:
    for marker in timeline.markers:
        if marker.block == block:
            return marker
    raise ValueError(f"there is no marker at block {shorten(block)}; they are at {[m.block for m in timeline.markers]}")
