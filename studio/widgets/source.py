"""What the widgets ask of whatever makes the frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from studio.events import Consumer, DecodedBlock, Listener, Stats, Switch, UnknownWord
from studio.timeline import Timeline

__all__ = ["FrameSource"]


@runtime_checkable
class FrameSource(Protocol):
    """Anything that makes a steered video block by block: a live session, a recording, a test double.

    All methods may be called from any thread and return at once; what comes of them is announced to the listeners.

    Args:
        name: Name of the model, as shown.
        fps: Frames a second of the video.
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
        seed: Seed of the current take.
        state: One of `studio.events.STATES`.
        device: What computes, as shown: "CPU, 2 threads".
        timeline: The prompts, by block; setting it steers the blocks not yet generated.
        stats: How fast the source is.
    """

    @property
    def name(self) -> str: ...
    @property
    def fps(self) -> float: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def timeline(self) -> Timeline: ...
    @timeline.setter
    def timeline(self, timeline: Timeline, /) -> None: ...
    @property
    def stats(self) -> Stats: ...

    def play(self) -> None:
        """Go on generating, after an error too."""
        ...

    def pause(self) -> None:
        """Stop generating after the current block."""
        ...

    def step(self) -> None:
        """Generate one block and pause."""
        ...

    def restart(self, seed: int | None = None) -> None:
        """Begin a new take from block 0, with the same seed unless another is given."""
        ...

    def switch(self, prompt: str, *, policy: str | None = None, at: int | None = None) -> Switch:
        """Change the prompt at block `at`, or at the next block not yet begun."""
        ...

    def block(self, index: int) -> DecodedBlock | None:
        """One of the recent blocks of this take that are still held, else None."""
        ...

    def unknown_words(self, text: str) -> list[UnknownWord]:
        """The words of `text` that the model has never seen."""
        ...

    def attach(self) -> Consumer:
        """Attach a consumer; the slowest one bounds how far generation runs ahead."""
        ...

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Announce events to `listener` until the returned function is called."""
        ...
