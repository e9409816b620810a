"""The timeline: which prompt is in force at which block.

A timeline is an immutable value in model time. Its unit is the block; frames and seconds are views of it. Every edit
returns a new timeline, and a timeline that makes no sense cannot be built.
"""

from __future__ import annotations

import difflib
import itertools
import math
import operator
import re
import unicodedata
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from studio.config import POLICIES, SINK_POLICIES, VAEConfig
from studio.shapes import VideoClock

MAX_PROMPT = 2000
MAX_BLOCKS = 1_000_000
MAX_SEED = 2**53 - 1  # the largest integer that every reader of JSON, browsers included, keeps exactly
TEMPORAL_FACTOR = VAEConfig().temporal_factor
SEGMENT_BLOCKS = 7  # about five seconds: the length of a segment nobody gave a length

EXAMPLE = "a red fox runs in the snow"
_COLOUR = re.compile(r"#(?:[0-9a-fA-F]{3}|[0-9a-fA-F]{6})")
_LAYOUT = "\n\r\t"


def shorten(value: object, limit: int = 60) -> str:
    """Show a value in an error message without flooding the screen.

    Args:
        value: anything.
        limit: characters to keep.

    Returns:
        Its `repr`, cut in the middle.
    """
    text = repr(value[: 2 * limit] if isinstance(value, (str, bytes)) else value)
    if isinstance(value, (str, bytes)) and len(value) > 2 * limit:
        return f"{text[: limit - 10]}…{text[0]} ({len(value)} characters)"
    return text if len(text) <= limit else f"{text[: limit - 10]}…{text[-5:]}"


def nearest(word: str, known: Any, cutoff: float = 0.6) -> str | None:
    """Find the known word closest to a mistyped one.

    Args:
        word: the word as typed.
        known: the words to choose from.
        cutoff: least similarity, in [0, 1].

    Returns:
        The closest word, or None when nothing is similar enough.
    """
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def check_text(value: object, name: str, limit: int = MAX_PROMPT) -> str:
    """Check that a value is text that can be stored, sent and shown.

    Args:
        value: the candidate.
        name: what to call it in the error.
        limit: most characters.

    Returns:
        The text, unchanged.

    Raises:
        ValueError: it is no string, too long, or holds control characters or half a surrogate pair.
    """
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a string, got {shorten(value)} ({type(value).__name__}); put it in quotes")
    if len(value) > limit:
        raise ValueError(f"`{name}` must have at most {limit} characters, got {shorten(value)}; shorten it")
    for place, character in enumerate(value):
        category = unicodedata.category(character)
        if category == "Cs" or (category == "Cc" and character not in _LAYOUT):
            raise ValueError(
                f"`{name}` must not hold control characters, got U+{ord(character):04X} at character {place} of "
                f"{shorten(value)}; remove it"
            )
    return value


def check_prompt(prompt: object, name: str = "prompt") -> str:
    """Check a prompt; every door through which prompts come in uses this.

    Any language, emoji and right-to-left text are fine.

    Args:
        prompt: the candidate.
        name: what to call it in the error.

    Returns:
        The prompt, unchanged.

    Raises:
        ValueError: it is no string, empty, longer than `MAX_PROMPT` characters, or holds control characters.
    """
    text = check_text(prompt, name)
    if not text.strip():
        raise ValueError(f'`{name}` must not be empty, got {shorten(text)}; write what to see, as "{EXAMPLE}"')
    return text


def check_choice(value: object, name: str, choices: tuple[str, ...], default: str | None = None) -> str | None:
    """Check an option that is one of a few words or None.

    Args:
        value: the candidate.
        name: what to call it in the error.
        choices: the allowed words.
        default: what None stands for in the error's remedy.

    Returns:
        The value.

    Raises:
        ValueError: any other value.
    """
    if value is None or (isinstance(value, str) and value in choices):
        return value
    allowed = ", ".join(f'"{choice}"' for choice in choices)
    near = nearest(value, choices) if isinstance(value, str) else None
    remedy = f'did you mean "{near}"?' if near else f"leave it out for {default or 'the default'}"
    raise ValueError(f"`{name}` must be one of {allowed}, got {shorten(value)}; {remedy}")


def check_policy(policy: object, name: str = "policy") -> str | None:
    """Check a switch policy: "recache", "keep", "clear", or None for the session's own.

    Args:
        policy: the candidate.
        name: what to call it in the error.

    Returns:
        The policy.

    Raises:
        ValueError: any other value.
    """
    return check_choice(policy, name, POLICIES, "the session's policy")


def check_whole(value: object, name: str, low: int, high: int, remedy: str = "") -> int:
    """Check a whole number within bounds.

    Args:
        value: the candidate; integers of numpy are fine, floats and truth values are not.
        name: what to call it in the error.
        low: smallest value.
        high: largest value.
        remedy: what to do instead.

    Returns:
        The number as an int.

    Raises:
        ValueError: not a whole number, or out of bounds.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        message = f"`{name}` must be a whole number from {low} to {high}, got {shorten(value)}"
        raise ValueError(message + (f"; {remedy}" if remedy else "")) from None
    if not low <= number <= high:
        remedy = remedy or f"use {low if number < low else high}"
        raise ValueError(f"`{name}` must be a whole number from {low} to {high}, got {shorten(number)}; {remedy}")
    return number


def check_seed(seed: object, name: str = "seed") -> int:
    """Check a seed: a whole number from 0 to 2^53 - 1.

    Args:
        seed: the candidate.
        name: what to call it in the error.

    Returns:
        The seed as an int.

    Raises:
        ValueError: not such a number.
    """
    return check_whole(seed, name, 0, MAX_SEED)


def clock(fps: float, block_latent_frames: int) -> VideoClock:
    """The units of time of a video whose picture does not matter.

    Args:
        fps: pixel frames a second.
        block_latent_frames: latent frames a block.

    Returns:
        Counts frames, blocks and seconds.
    """
    return VideoClock(block=block_latent_frames, temporal_factor=TEMPORAL_FACTOR, fps=fps)


@dataclass(frozen=True)
class Segment:
    """A stretch of the timeline under one prompt; it lasts until the next segment starts.

    Args:
        prompt: what to see; at most 2000 characters.
        start: block at which it takes effect.
        policy: what a switch to it does to the cache: "recache", "keep", "clear"; None for the session's own.
        sink_policy: whether that switch keeps or rewrites the sink: "keep", "rewrite"; None for the model's own.
        colour: "#rrggbb"; None for the colour that its place in the palette gives.
        note: free text for people.

    Raises:
        ValueError: a value that makes no sense; the message names it and the remedy.
    """

    prompt: str
    start: int = 0
    policy: str | None = field(default=None, kw_only=True)
    sink_policy: str | None = field(default=None, kw_only=True)
    colour: str | None = field(default=None, kw_only=True)
    note: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        object.__setattr__(self, "start", check_whole(self.start, "start", 0, MAX_BLOCKS))
        check_policy(self.policy)
        check_choice(self.sink_policy, "sink_policy", SINK_POLICIES, "the model's own")
        if self.colour is not None and not (isinstance(self.colour, str) and _COLOUR.fullmatch(self.colour)):
            raise ValueError(f'`colour` must look like "#e69f00", got {shorten(self.colour)}; or leave it out')
        check_text(self.note, "note")


@dataclass(frozen=True)
class Timeline:
    """Which prompt is in force at which block: an immutable value, every edit returns a new one.

    Args:
        segments: in order of their starts; the first starts at block 0.
        length: blocks in all; None for a video without an end.
        seed: seed of the noise.
        fps: pixel frames a second.
        block_latent_frames: latent frames a block.

    Raises:
        ValueError: a value that makes no sense; the message names it and the remedy.
    """

    segments: tuple[Segment, ...]
    length: int | None = None
    seed: int = 0
    fps: float = field(default=16, kw_only=True)
    block_latent_frames: int = field(default=3, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", _check_segments(self.segments))
        object.__setattr__(self, "seed", check_seed(self.seed))
        check_rate(self.fps)
        check_whole(self.block_latent_frames, "block_latent_frames", 1, 1000)
        if self.length is not None:
            last = self.segments[-1].start
            object.__setattr__(self, "length", check_whole(self.length, "length", 1, MAX_BLOCKS, "use None for no end"))
            if self.length <= last:
                raise ValueError(
                    f"`length` must be more than the start of the last segment, block {last}, got {self.length}; "
                    f"use {last + 1} or more, or remove the segment"
                )

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
        """The same timeline, ending after `length` blocks; segments that would start later are dropped."""
        length = check_whole(length, "length", 1, MAX_BLOCKS)
        return replace(self, segments=tuple(s for s in self.segments if s.start < length), length=length)

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


def block_at_or_after(seconds: float, units: VideoClock) -> int:
    """First block that starts at or after a time.

    Args:
        seconds: time in the video, from 0 up.
        units: see `clock`.

    Returns:
        The block number.
    """
    return units.blocks_for(seconds) if seconds > 0 else 0


def check_rate(fps: object) -> None:
    """Check a frame rate.

    Args:
        fps: pixel frames a second.

    Raises:
        ValueError: not a finite number above 0 and at most 1000.
    """
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps <= 1000:
        raise ValueError(f"`fps` must be a number above 0 and at most 1000, got {shorten(fps)}; use 16")


def check_seconds(value: object, name: str) -> float:
    """Check a time in seconds.

    Args:
        value: the candidate.
        name: what to call it in the error.

    Returns:
        The time as a float.

    Raises:
        ValueError: not a finite number from 0 up.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"`{name}` must be a finite number of seconds from 0 up, got {shorten(value)}")
    return float(value)


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
