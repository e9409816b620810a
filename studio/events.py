"""Small values that a frame source hands to whoever watches it.

They belong to the words room, so that a live session, a recording and a test double can hand them out and the widgets
can read them, without either side importing the other. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

if TYPE_CHECKING:
    import numpy as np

State = Literal["idle", "warming", "playing", "paused", "waiting", "finished", "error", "closed"]
"""What a source is doing.

`idle`: never played; `warming`: loading or computing the first block; `playing`: generating; `waiting`: far enough
ahead of its slowest consumer, or without a consumer; `paused`: asked to pause; `finished`: every block of a timeline
with a length was generated; `error`: the generator raised (`play` goes on from the last good block); `closed`: over.
"""

EventKind = Literal["block", "state", "timeline", "switch", "stats", "restart", "takes", "error"]
"""Kinds of `Event`; `Event` says which payload each one carries."""

STATES: tuple[str, ...] = get_args(State)
EVENT_KINDS: tuple[str, ...] = get_args(EventKind)


@dataclass(frozen=True, kw_only=True)
class Switch:
    """A change of prompt: when it was asked for and when it takes effect.

    Args:
        prompt: the new prompt.
        policy: what happens to the cache: "recache", "keep" or "clear".
        requested_frame: the playhead (pixel frame) at the moment of the request.
        requested_block: the block that holds `requested_frame`.
        effective_block: the first block generated under the new prompt.
        effective_frame: the first pixel frame of `effective_block`.
        latency_s: seconds from the request to the moment the first frame under the new prompt was handed to a
            consumer; None until that happened, and for switches that were planned in a timeline.
    """

    prompt: str
    policy: str
    requested_frame: int
    requested_block: int
    effective_block: int
    effective_frame: int
    latency_s: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedBlock:
    """The pixel frames of one block.

    Args:
        index: block number, from 0.
        first_frame: pixel frame number of `frames[0]`.
        frames: uint8 `[T, H, W, 3]`, read-only.
        prompt: the prompt in force.
        segment: number of the timeline segment it came from; mere cuts, as a split leaves them, do not count.
        switch: the switch that took effect at this block, or None.
        take: number of the take, raised by every `restart`, so that a late block of an old take is recognised.
    """

    index: int
    first_frame: int
    frames: np.ndarray
    prompt: str
    segment: int
    switch: Switch | None = None
    take: int = 0

    def __repr__(self) -> str:
        height, width = self.frames.shape[1:3]
        where = f"frames {self.first_frame} to {self.end_frame - 1} of take {self.take}"
        return f"<DecodedBlock {self.index}: {where}, {width}x{height}, {self.prompt!r}>"

    @property
    def end_frame(self) -> int:
        """Pixel frame number just past the last frame."""
        return self.first_frame + len(self.frames)


@dataclass(frozen=True, kw_only=True)
class Stats:
    """How fast a source is; a figure is None until it has been measured.

    Times are medians over recent blocks, in milliseconds a block. The first block of a take is left out of them and of
    `generated_fps`: it holds fewer frames and pays for warming up.

    Args:
        generated_fps: pixel frames per second of generating time (waiting and warming up excluded).
        denoise_ms: the denoising steps.
        commit_ms: the clean pass that stores a finished block.
        recache_ms: recomputing the cache, median over the switches that did.
        vae_ms: streamed decoding, up to uint8 frames.
        first_frame_s: seconds from the first `play` (from opening, where the source was opened by name) to the first
            decoded block.
        switch_latency_s: `Switch.latency_s` of the last switch.
        generated_blocks: blocks decoded in this take.
        generated_frames: pixel frames decoded in this take.
        lead_s: seconds of video generated ahead of the slowest consumer.
        text_ms: encoding a prompt that was not known yet, last time.
        played_fps: pixel frames per second that the consumer furthest on has shown lately, by its reports and the
            source's clock; None while it stands still.
        next_frame_s: seconds until the block under way is expected to be there; None while none is.
        dropped_frames: frames of this take that consumers passed over because they were too slow to show them.
        device_state: what the device is doing, for people: "1.4 of 2 cores, 0.9 GB".
    """

    generated_fps: float | None = None
    denoise_ms: float | None = None
    commit_ms: float | None = None
    recache_ms: float | None = None
    vae_ms: float | None = None
    first_frame_s: float | None = None
    switch_latency_s: float | None = None
    generated_blocks: int = 0
    generated_frames: int = 0
    lead_s: float = 0.0
    text_ms: float | None = None
    played_fps: float | None = None
    next_frame_s: float | None = None
    dropped_frames: int = 0
    device_state: str = ""

    def __str__(self) -> str:
        """One figure a line, those that have been measured."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in found.items()}
        return "\n".join(f"{name:<17} {shown[name]}" for name, value in found.items() if value not in (None, ""))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


@dataclass(frozen=True, kw_only=True)
class TakeInfo:
    """A take of a source: one run of its timeline.

    Args:
        number: its number, from 0.
        name: its name.
        parent: number of the take that it forked from; None for one that began at block 0.
        forked_at: its first block that its parent does not have.
        blocks: blocks made, those shared with its parent included.
        seed: seed of the noise.
        current: whether it is the one being shown and made.
    """

    number: int
    name: str
    parent: int | None
    forked_at: int
    blocks: int
    seed: int
    current: bool


@dataclass(frozen=True, kw_only=True)
class UnknownWord:
    """A word of a prompt that the text encoder has never seen.

    Args:
        word: the word as it stands in the prompt.
        start: index of its first character in the prompt.
        end: index just past its last character.
        nearest: the known word closest to it, or None.
    """

    word: str
    start: int
    end: int
    nearest: str | None = None


@dataclass(frozen=True, kw_only=True)
class ErrorReport:
    """What went wrong in the generator.

    Args:
        message: one sentence.
        traceback: the whole traceback as text.
    """

    message: str
    traceback: str = ""


@dataclass(frozen=True, eq=False)
class Event:
    """Something a source announces to its listeners.

    Args:
        kind: "block" (payload `DecodedBlock`), "state" (a `State`), "timeline" (`Timeline`), "switch" (`Switch`, once
            when asked for and once more when its latency is known), "stats" (`Stats`), "restart" (int, the take that
            is current now), "takes" (tuple of `TakeInfo`) or "error" (`ErrorReport`).
        payload: as listed.

    Raises:
        ValueError: unknown kind.
    """

    kind: EventKind
    payload: Any

    def __post_init__(self) -> None:
        if self.kind not in EVENT_KINDS:
            raise ValueError(f"`kind` must be one of {', '.join(EVENT_KINDS)}, got {self.kind!r}")


Listener = Callable[[Event], None]
"""Called from the source's thread or from the one that made an edit, one event at a time; it must return at once."""


class Consumer(Protocol):
    """A viewer's handle: it tells the source how far playback has come, so that generation stays close ahead."""

    def played(self, frame: int, take: int | None = None, dropped: int = 0) -> None:
        """Report the pixel frame being shown, and the frames of this take that could not be shown in time.

        Reports for another take than the current one are ignored.
        """
        ...

    def close(self) -> None:
        """Detach; harmless when repeated."""
        ...
