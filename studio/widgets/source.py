"""What the widgets ask of whatever makes the frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from studio.events import Consumer, DecodedBlock, Listener, Stats, Switch, TakeInfo, UnknownWord
from studio.timeline import Operation, Timeline

__all__ = [
    "CacheSource",
    "CacheWatch",
    "EditSource",
    "EditorLike",
    "ExportLike",
    "ExportSource",
    "FrameSource",
    "Reading",
    "SlotLike",
    "StartSource",
    "TakeSource",
    "TakesLike",
]


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


class SlotLike(Protocol):
    """Where one slot of the cache comes from; frame, prompt, way and block of writing are `None` when it is empty."""

    @property
    def role(self) -> str: ...
    @property
    def frame(self) -> int | None: ...
    @property
    def prompt(self) -> int | None: ...
    @property
    def written(self) -> str | None: ...
    @property
    def block(self) -> int | None: ...


class Reading(Protocol):
    """What one block saw of the cache; `studio.live.watching.BlockReading` says what each value is."""

    @property
    def take(self) -> int: ...
    @property
    def block(self) -> int: ...
    @property
    def prompt(self) -> str: ...
    @property
    def policy(self) -> str | None: ...
    @property
    def prompts(self) -> Mapping[int, str]: ...
    @property
    def slots(self) -> Sequence[SlotLike]: ...
    @property
    def before(self) -> Sequence[SlotLike] | None: ...
    @property
    def layers(self) -> Sequence[int]: ...
    @property
    def mass(self) -> np.ndarray: ...
    @property
    def words(self) -> Any: ...
    @property
    def own(self) -> Sequence[int]: ...
    @property
    def grid(self) -> tuple[int, int]: ...
    @property
    def point(self) -> Any: ...
    @property
    def gaze(self) -> np.ndarray | None: ...
    @property
    def pictures(self) -> np.ndarray: ...
    @property
    def warnings(self) -> Sequence[Any]: ...
    @property
    def seconds(self) -> float: ...
    @property
    def residues(self) -> Sequence[Any]: ...
    @property
    def alignment(self) -> Mapping[int, float]: ...
    @property
    def gazes(self) -> np.ndarray | None: ...
    @property
    def positions(self) -> np.ndarray | None: ...
    @property
    def trace(self) -> Any: ...

    def look(self, layer: int | None = None, head: int | None = None) -> np.ndarray | None:
        """Where the point looks, of one layer or head; `None` where that was not read."""
        ...

    def curve_rows(self) -> list[dict[str, Any]]:
        """A row for each prompt judged and each residue measured."""
        ...


class CacheWatch(Protocol):
    """A hold on a watched source: its readings so far and to come."""

    @property
    def readings(self) -> Sequence[Reading]: ...

    def subscribe(self, reader: Callable[[Any], None]) -> Callable[[], None]:
        """Hand each new reading to `reader` until the returned function is called; it must return at once."""
        ...

    @property
    def active(self) -> bool: ...
    @property
    def trouble(self) -> str | None: ...

    def warn(self, alarm: Callable[[str], None]) -> Callable[[], None]:
        """Say to `alarm` why watching or measuring ended by itself, until the returned function is called."""
        ...

    def look(self, frame: int, row: int, column: int) -> None:
        """Read where a point of the picture looks, from the next block that begins."""
        ...

    def look_away(self) -> None:
        """Read no point any more."""
        ...

    def measure_residue(self, on: bool = True) -> None:
        """Measure what is left of the prompt before the last switch, or no more."""
        ...

    @property
    def measures_residue(self) -> bool: ...

    def close(self) -> None:
        """Let go; harmless when repeated."""
        ...


@runtime_checkable
class CacheSource(Protocol):
    """A source whose cache can be watched."""

    def watch(self) -> CacheWatch:
        """Watch the cache from the next block on."""
        ...


class EditorLike(Protocol):
    """Edits a timeline by operations, with undo and redo; `studio.live.editing.Editor` says what each method does."""

    def apply(
        self, operation: Operation | dict[str, Any], *, past: str | None = None, version: int | None = None
    ) -> Timeline:
        """Make an edit."""
        ...

    def undo(self, *, past: str | None = None) -> Timeline:
        """Take the last edit back."""
        ...

    def redo(self, *, past: str | None = None) -> Timeline:
        """Do the edit again that was undone last."""
        ...

    def describe(self) -> dict[str, Any]:
        """The timeline as a screen shows it, with its "history"."""
        ...

    def obey(self, message: Any) -> dict[str, Any]:
        """Do what a message asks for, and say how it went."""
        ...


class TakesLike(Protocol):
    """The takes of a source, a sequence; `studio.live.takes.Takes` says what each method does."""

    def __iter__(self) -> Iterator[TakeInfo]: ...

    def choose(self, take: int | str) -> TakeInfo:
        """Make a take the current one."""
        ...

    def rename(self, take: int | str, name: str) -> TakeInfo:
        """Give a take another name."""
        ...

    def remove(self, take: int | str) -> None:
        """Forget a take."""
        ...

    def fork(self, at: int, *, take: int | str | None = None) -> TakeInfo:
        """Begin another take with the first blocks of one."""
        ...


@runtime_checkable
class EditSource(Protocol):
    """A source whose timeline is edited by operations and whose takes can be chosen."""

    @property
    def editor(self) -> EditorLike: ...
    @property
    def takes(self) -> TakesLike: ...


@runtime_checkable
class TakeSource(Protocol):
    """A source that keeps what it made, in takes, and goes on from any block of them."""

    @property
    def takes(self) -> TakesLike: ...

    def block(self, index: int, take: int | None = None) -> DecodedBlock | None:
        """A block of a take, of the current one unless another is named; None where it was not made."""
        ...

    def fork(
        self, at: int, *, prompt: str | None = None, policy: str | None = None, seed: int | None = None, name: str = ""
    ) -> TakeInfo:
        """Begin another take with the first `at` blocks of the current one."""
        ...


@runtime_checkable
class StartSource(Protocol):
    """A source that can start from a picture or a clip."""

    def start_from(self, source: bytes, *, prompt: str | None = None) -> TakeInfo:
        """Begin another take with the bytes of an image or a clip; waits until it is encoded."""
        ...


class ExportLike(Protocol):
    """An export under way; `studio.live.exporting.Export` says what each member is."""

    changed: Callable[[], None]

    @property
    def path(self) -> Any: ...
    @property
    def progress(self) -> tuple[int, int]: ...
    @property
    def state(self) -> str: ...
    @property
    def error(self) -> str | None: ...

    def cancel(self) -> None:
        """Give it up."""
        ...


@runtime_checkable
class ExportSource(Protocol):
    """A source whose video can be written to a file."""

    def export(
        self, path: Any, *, format: str | None = None, start: int = 0, stop: int | None = None, force: bool = False
    ) -> ExportLike:
        """Write a range of frames to a file, in a thread of its own."""
        ...
