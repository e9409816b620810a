"""The timeline: which prompt is in force at which block.

A timeline is an immutable value in model time. Its unit is the block; frames and seconds are views of it. Every edit
returns a new timeline, and a timeline that makes no sense cannot be built.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.shapes import VideoClock
from studio.timeline.checks import (
    EXAMPLE,
    MAX_BLOCKS,
    check_rate,
    check_seconds,
    check_seed,
    check_whole,
    nearest,
    shorten,
)
from studio.timeline.segment import Marker, Segment
from studio.timeline.units import block_at_or_after, clock

if TYPE_CHECKING:
    from studio.timeline.mixing import Mix

SEGMENT_BLOCKS = 7  # about five seconds: the length of a segment nobody gave a length


@dataclass(frozen=True)
class Timeline:
    """Which prompt is in force at which block: an immutable value, every edit returns a new one.

    Args:
        segments: in order of their starts; the first starts at block 0.
        length: blocks in all; None for a video without an end.
        seed: seed of the noise.
        fps: pixel frames a second.
        block_latent_frames: latent frames a block.
        markers: named places, in order, at most one a block.

    Raises:
        ValueError: a value that makes no sense; the message names it and the remedy.
    """

    segments: tuple[Segment, ...]
    length: int | None = None
    seed: int = 0
    fps: float = field(default=16, kw_only=True)
    block_latent_frames: int = field(default=3, kw_only=True)
    markers: tuple[Marker, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", _check_segments(self.segments))
        object.__setattr__(self, "seed", check_seed(self.seed))
        object.__setattr__(self, "markers", _check_markers(self.markers))
        check_rate(self.fps)
        latent_frames = check_whole(self.block_latent_frames, "block_latent_frames", 1, 1000)
        object.__setattr__(self, "block_latent_frames", latent_frames)
        if self.length is not None:
            last = self.segments[-1].start
            object.__setattr__(self, "length", check_whole(self.length, "length", 1, MAX_BLOCKS, "use None for no end"))
            if self.length <= last:
                raise ValueError(
                    f"`length` must be more than the start of the last segment, block {last}, got {self.length}; "
                    f"use {last + 1} or more, or remove the segment"
                )

    def __str__(self) -> str:
        """What happens when: a line a segment or marker, with time and block."""
        length = "without an end" if self.length is None else f"of {self._time(self.length)}, {self.length} blocks"
        lines = [f"Timeline {length}, {self.fps:g} frames/s, seed {self.seed}"]
        places: list[tuple[int, str]] = [(item.start, str(item)) for item in self.segments]
        places += [(item.block, f"marker {item.name!r}") for item in self.markers]
        width = len(str(max(block for block, _ in places)))
        for block, text in sorted(places, key=lambda place: place[0]):
            lines.append(f"  {self._time(block)}  block {block:>{width}}  {text}")
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def _time(self, block: int) -> str:
        minutes, seconds = divmod(self.start_seconds(block), 60)
        return f"{minutes:.0f}:{seconds:05.2f}"

    @classmethod
    def of(cls, *prompts: str, blocks: int = SEGMENT_BLOCKS, seed: int = 0, length: int | None = None) -> Timeline:
        """Build a timeline of prompts that follow each other at equal distances.

        Args:
            prompts: one or more prompts.
            blocks: blocks from one to the next.
            seed: seed of the noise.
            length: blocks in all; None for no end.

        Returns:
            The timeline.

        Raises:
            ValueError: no prompt, or one that makes no sense.
        """
        check_whole(blocks, "blocks", 1, MAX_BLOCKS)
        return cls(tuple(Segment(prompt, i * blocks) for i, prompt in enumerate(prompts)), length, seed)

    # Reading

    def index_at(self, block: int) -> int:
        """Index of the segment in force at a block.

        Args:
            block: block number, from 0; past the end the last segment answers.

        Returns:
            Index into `segments`.

        Raises:
            ValueError: a negative block.
        """
        check_whole(block, "block", 0, 2**62)
        low, high = 0, len(self.segments)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.segments[middle].start <= block else (low, middle)
        return low

    def segment_at(self, block: int) -> Segment:
        """The segment in force at a block; see `index_at`."""
        return self.segments[self.index_at(block)]

    def starting_at(self, block: int) -> Segment | None:
        """The segment that starts exactly at a block, or None."""
        segment = self.segment_at(block)
        return segment if segment.start == block else None

    def switches(self) -> tuple[Segment, ...]:
        """The segments at whose start the prompt is switched: all but the first."""
        return self.segments[1:]

    def end_of(self, i: int) -> int | None:
        """Block just past segment `i`; None where the video has no end."""
        self._check_index(i)
        return self.segments[i + 1].start if i + 1 < len(self.segments) else self.length

    def mix_at(self, block: int) -> Mix:
        """What is in force at a block, transitions included; see `studio.timeline.mixing`."""
        from studio.timeline.mixing import mix_at

        return mix_at(self, block)

    def weights_at(self, block: int) -> dict[str, float]:
        """The share of every prompt at a block; they add up to 1."""
        return self.mix_at(block).weights

    @property
    def clock(self) -> VideoClock:
        """Counts the frames, blocks and seconds of this timeline."""
        return clock(self.fps, self.block_latent_frames)

    def start_frame(self, block: int) -> int:
        """First pixel frame of a block."""
        return self.clock.first_frame(block)

    def start_seconds(self, block: int) -> float:
        """Seconds of video before a block."""
        return self.clock.block_seconds(block)

    def block_at_or_after(self, seconds: float) -> int:
        """First block that starts at or after a time: a switch asked for at that time takes effect there."""
        return block_at_or_after(check_seconds(seconds, "seconds"), self.clock)

    # Editing: each returns a new timeline

    def append(self, prompt: str, start: int | None = None, **options: Any) -> Timeline:
        """Add a segment at the end.

        Args:
            prompt: its prompt.
            start: its block, after the start of the last segment; None puts it at the end of a timeline with a length,
                else about five seconds after the last start.
            options: other fields of `Segment`.

        Returns:
            The new timeline; a length that would end too early grows by about five seconds.

        Raises:
            ValueError: a start at or before that of the last segment.
        """
        last = self.segments[-1].start
        if start is None:
            start = self.length if self.length is not None else last + SEGMENT_BLOCKS
        segment = Segment(prompt, start, **options)
        if segment.start <= last:
            raise ValueError(
                f"`start` must be after the last segment, which starts at block {last}, got {segment.start}; "
                f"use {last + 1} or more, or `put` to place it further ahead"
            )
        return self._with((*self.segments, segment))

    def put(self, segment: Segment) -> Timeline:
        """Place a segment at its start, replacing one that starts there.

        Args:
            segment: what to place.

        Returns:
            The new timeline; a length that would end too early grows.
        """
        kept = [other for other in self.segments if other.start != segment.start]
        return self._with(tuple(sorted([*kept, segment], key=lambda item: item.start)))

    def edit(self, i: int, **changes: Any) -> Timeline:
        """Change fields of a segment.

        Args:
            i: index of the segment.
            changes: fields of `Segment`; for `start` see `move`.

        Returns:
            The new timeline.

        Raises:
            ValueError: an unknown field or a value that makes no sense.
        """
        self._check_index(i)
        known = [item.name for item in fields(Segment)]
        for name in changes:
            if name not in known:
                near = nearest(name, known)
                hint = f'did you mean "{near}"?' if near else f"use one of {', '.join(known)}"
                raise ValueError(f"a segment has no {shorten(name)}; {hint}")
        moved = self.move(i, changes.pop("start")) if "start" in changes else self
        segments = list(moved.segments)
        segments[i] = replace(segments[i], **changes)
        return replace(moved, segments=tuple(segments))

    def remove(self, i: int) -> Timeline:
        """Remove a segment; the one before it goes on, and without one before it the next starts at block 0.

        Args:
            i: index of the segment.

        Returns:
            The new timeline.

        Raises:
            ValueError: it is the only segment.
        """
        self._check_index(i)
        if len(self.segments) == 1:
            raise ValueError("a timeline needs at least one segment, and this is the last; edit its prompt instead")
        kept = [*self.segments[:i], *self.segments[i + 1 :]]
        kept[0] = replace(kept[0], start=0)
        return replace(self, segments=tuple(kept))

    def move(self, i: int, start: int) -> Timeline:
        """Let a segment start at another block, between its neighbours.

        Args:
            i: index of the segment; the first stays at block 0.
            start: its new first block.

        Returns:
            The new timeline.

        Raises:
            ValueError: the block is not between the neighbours' starts.
        """
        self._check_index(i)
        end = self.end_of(i)
        low = self.segments[i - 1].start + 1 if i else 0
        high = 0 if i == 0 else MAX_BLOCKS if end is None else end - 1
        why = "the first segment starts at block 0" if i == 0 else "a segment stays between its neighbours"
        segments = list(self.segments)
        segments[i] = replace(segments[i], start=check_whole(start, "start", low, high, why))
        return replace(self, segments=tuple(segments))

    def with_length(self, length: int | None) -> Timeline:
        """The same timeline, ending after `length` blocks, or never (None)."""
        return replace(self, length=length)

    def cut(self, length: int) -> Timeline:
        """The same timeline, ending after `length` blocks; what would lie later, segments and markers, is dropped."""
        length = check_whole(length, "length", 1, MAX_BLOCKS)
        segments = tuple(segment for segment in self.segments if segment.start < length)
        markers = tuple(marker for marker in self.markers if marker.block < length)
        return replace(self, segments=segments, markers=markers, length=length)

    def with_seed(self, seed: int) -> Timeline:
        """The same timeline under another seed."""
        return replace(self, seed=seed)

    # Files

    def to_json(self) -> str:
        """Write the timeline as the studio's JSON; see `studio.formats`."""
        from studio import formats

        return formats.to_json(self)

    @classmethod
    def from_json(cls, source: str | bytes | dict[str, Any]) -> Timeline:
        """Read the studio's JSON; see `studio.formats`."""
        from studio import formats

        return formats.from_json(source)

    @classmethod
    def from_text(cls, text: str, blocks: int = SEGMENT_BLOCKS) -> Timeline:
        """Read plain text, one prompt a line; see `studio.formats`."""
        from studio import formats

        return formats.from_text(text, blocks)

    @classmethod
    def load(cls, path: str | Path) -> Timeline:
        """Read a timeline from a .json or .txt file; see `studio.formats`."""
        from studio import formats

        return formats.load(path)

    def save(self, path: str | Path) -> None:
        """Write the timeline to a .json or .txt file; see `studio.formats`."""
        from studio import formats

        formats.save(self, path)

    def _with(self, segments: tuple[Segment, ...]) -> Timeline:
        last, length = segments[-1].start, self.length
        if length is not None and length <= last:
            length = last + SEGMENT_BLOCKS
        return replace(self, segments=segments, length=length)

    def _check_index(self, i: int) -> None:
        check_whole(i, "segment", 0, len(self.segments) - 1, f"there are {len(self.segments)}, counted from 0")


def _check_segments(candidate: object) -> tuple[Segment, ...]:
    if isinstance(candidate, (str, bytes)) or not hasattr(candidate, "__iter__"):
        raise ValueError(f"`segments` must be a sequence of Segment, got {shorten(candidate)}; use (Segment(...),)")
    segments = tuple(candidate)  # type: ignore[arg-type]
    if not segments:
        raise ValueError(f'`segments` must hold at least one segment, got none; add Segment("{EXAMPLE}")')
    for i, segment in enumerate(segments):
        if not isinstance(segment, Segment):
            raise ValueError(f"`segments[{i}]` must be a Segment, got {shorten(segment)}; use Segment(prompt, start)")
    if segments[0].start != 0:
        raise ValueError(f"the first segment must start at block 0, got {segments[0].start}; set its start to 0")
    for i, (before, after) in enumerate(itertools.pairwise(segments), 1):
        if after.start <= before.start:
            what = "overlap" if after.start == before.start else "are not in order"
            raise ValueError(
                f"segments {i - 1} and {i} {what}: they start at blocks {before.start} and {after.start}; "
                f"let segment {i} start at block {before.start + 1} or later"
            )
    return segments


def _check_markers(candidate: object) -> tuple[Marker, ...]:
    if isinstance(candidate, (str, bytes)) or not isinstance(candidate, Iterable):
        raise ValueError(f"`markers` must be a sequence of Marker, got {shorten(candidate)}; use (Marker(block),)")
    markers = tuple(candidate)
    for i, marker in enumerate(markers):
        if not isinstance(marker, Marker):
            raise ValueError(f"`markers[{i}]` must be a Marker, got {shorten(marker)}; use Marker(block, name)")
    for before, after in itertools.pairwise(markers):
        if after.block <= before.block:
            what = "stand at the same block" if after.block == before.block else "are not in order"
            raise ValueError(f"markers {what}: {before.block} and {after.block}; sort them, one a block")
    return markers
