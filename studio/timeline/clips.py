"""Clips: segments cut out of a timeline, for the clipboard, within one studio and between studios."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from typing import Any

from studio.timeline.checks import MAX_BLOCKS, check_whole, shorten
from studio.timeline.plain import check_keys, check_list, segment_from_dict, segment_to_dict
from studio.timeline.segment import Segment
from studio.timeline.spans import Span, check_indices, spans_of
from studio.timeline.value import SEGMENT_BLOCKS, Timeline

FORMAT = "studio-clip"
VERSION = 1


@dataclass(frozen=True)
class Clip:
    """Segments that follow each other, apart from any timeline.

    Args:
        segments: in order of their starts; the first starts at block 0.
        length: blocks in all.

    Raises:
        ValueError: a value that makes no sense, as for a `Timeline`.
    """

    segments: tuple[Segment, ...]
    length: int = SEGMENT_BLOCKS

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", check_whole(self.length, "length", 1, MAX_BLOCKS))
        object.__setattr__(self, "segments", Timeline(self.segments, self.length).segments)

    @classmethod
    def of(cls, prompt: str, blocks: int = SEGMENT_BLOCKS, **options: Any) -> Clip:
        """A clip of one prompt.

        Args:
            prompt: what to see.
            blocks: its length.
            options: other fields of `Segment`.
        """
        return cls((Segment(prompt, 0, **options),), blocks)

    @property
    def spans(self) -> list[Span]:
        """The segments with their lengths."""
        return spans_of(Timeline(self.segments, self.length))

    def to_dict(self) -> dict[str, Any]:
        """The clip as a dictionary."""
        segments = [segment_to_dict(segment) for segment in self.segments]
        return {"format": FORMAT, "version": VERSION, "length_blocks": self.length, "segments": segments}

    @classmethod
    def from_dict(cls, item: Any) -> Clip:
        """Read what `to_dict` writes.

        Raises:
            ValueError: anything else; the message names it.
        """
        check_keys(item, ("format", "version", "length_blocks", "segments"), "the clip")
        if item.get("format") != FORMAT or item.get("version") != VERSION:
            found = (item.get("format"), item.get("version"))
            raise ValueError(f'a clip must be of format "{FORMAT}", version {VERSION}, got {shorten(found)}')
        items = check_list(item.get("segments"), "segments")
        segments = tuple(segment_from_dict(entry, f"segments[{i}]") for i, entry in enumerate(items))
        return cls(segments, item.get("length_blocks", SEGMENT_BLOCKS))

    def to_json(self) -> str:
        """The clip as text for the clipboard."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Clip:
        """Read text of the clipboard: a clip, or plain text with one prompt a line.

        Raises:
            ValueError: neither.
        """
        if not isinstance(text, str):
            raise ValueError(f"a clip must be text, got {shorten(text)}")
        if text.lstrip().startswith("{"):
            try:
                return cls.from_dict(json.loads(text))
            except (json.JSONDecodeError, RecursionError):
                raise ValueError(f"not a clip: {shorten(text)}; copy it again") from None
        line = Timeline.from_text(text)
        return cls(line.segments, len(line.segments) * SEGMENT_BLOCKS)


def copy(timeline: Timeline, segments: tuple[int, ...]) -> Clip:
    """Copy segments into a clip, without the gaps between them.

    Args:
        timeline: where they are.
        segments: their indices.

    Returns:
        The clip; a segment without an end gets the usual length.

    Raises:
        ValueError: no such segment.
    """
    spans = [spans_of(timeline)[i] for i in check_indices(timeline, segments)]
    lengths = [SEGMENT_BLOCKS if span.blocks is None else span.blocks for span in spans]
    starts = [0, *itertools.accumulate(lengths)]
    placed = (replace(span.segment, start=start) for span, start in zip(spans, starts, strict=False))
    return Clip(tuple(placed), starts[-1])
