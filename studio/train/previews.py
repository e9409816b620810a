"""The clips of a training, for the player: each new one is played from its beginning, in place of the one before."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from studio.events import DecodedBlock, Event, EventKind, Listener, Stats, Switch, UnknownWord
from studio.timeline import Segment, Timeline

__all__ = ["Previews"]


class Previews:
    """A frame source whose video is the newest preview; it can be watched and looked back on, but not steered.

    Args:
        name: What is trained.
        size: Height and width of a frame in pixels.
        fps: Frames a second.
        device: What computes.
        prompt: What the previews show.
    """

    def __init__(self, name: str, *, size: tuple[int, int], fps: float, device: str, prompt: str) -> None:
        self.name, self.fps, self.device, self.seed = name, float(fps), device, 0
        self.height, self.width = size
        self.state = "idle"
        self._timeline = Timeline((Segment(prompt, 0),))
        self._take = -1
        self._blocks: tuple[DecodedBlock, ...] = ()
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()

    @property
    def timeline(self) -> Timeline:
        """The clip's prompt, as far as the clip goes.

        Raises:
            RuntimeError: When set.
        """
        return self._timeline

    @timeline.setter
    def timeline(self, timeline: Timeline) -> None:
        self._refuse()

    @property
    def stats(self) -> Stats:
        """How much of it there is."""
        frames = self._blocks[-1].end_frame if self._blocks else 0
        return Stats(generated_blocks=len(self._blocks), generated_frames=frames)

    def show(self, frames: np.ndarray, prompt: str) -> None:
        """Play a new clip.

        Args:
            frames: `[T, H, W, 3]` uint8.
            prompt: What it is to show.
        """
        with self._lock:
            self._take += 1
            timeline = Timeline((Segment(prompt, 0),))
            starts = [0]
            while starts[-1] < len(frames):
                starts.append(timeline.start_frame(len(starts)))
            self._timeline = timeline.with_length(len(starts) - 1)
            self._blocks = tuple(
                DecodedBlock(
                    index=index, first_frame=first, frames=frames[first:end], prompt=prompt, segment=0, take=self._take
                )
                for index, (first, end) in enumerate(itertools.pairwise(starts))
            )
            self._announce()

    def _announce(self) -> None:
        self._tell("restart", self._take)
        self._tell("timeline", self._timeline)
        self._become("playing")
        for block in self._blocks:
            self._tell("block", block)
        self._tell("stats", self.stats)
        self._become("finished")

    def _become(self, state: str) -> None:
        self.state = state
        self._tell("state", state)

    def _tell(self, kind: EventKind, payload: Any) -> None:
        for listener in tuple(self._listeners):
            listener(Event(kind, payload))

    # What a source does

    def play(self) -> None:
        """The training makes the clips; whoever shows them plays them."""

    def pause(self) -> None:
        """The training goes on."""

    def step(self) -> None:
        """The training makes the clips."""

    def restart(self, seed: int | None = None) -> None:
        """Play the clip once more.

        Args:
            seed: Every preview has the same; another one is not taken.
        """
        with self._lock:
            if self._blocks:
                self.show(np.concatenate([block.frames for block in self._blocks]), self._blocks[0].prompt)

    def switch(self, prompt: str, *, policy: str | None = None, at: int | None = None) -> Switch:
        """A preview cannot be steered.

        Raises:
            RuntimeError: Always.
        """
        self._refuse()
        raise AssertionError("unreachable: it was refused")

    def _refuse(self) -> None:
        raise RuntimeError("a preview cannot be steered; use run.preview('...'), or play the exported model")

    def block(self, index: int) -> DecodedBlock | None:
        """A block of the newest clip, or `None` beyond its end."""
        blocks = self._blocks
        return blocks[index] if 0 <= index < len(blocks) else None

    def unknown_words(self, text: str) -> list[UnknownWord]:
        """None: nothing is typed to it."""
        return []

    def attach(self) -> _Watcher:
        """Attach a consumer, which holds nothing back."""
        return _Watcher()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Announce events to `listener` until the returned function is called."""
        with self._lock:
            self._listeners.append(listener)

        def leave() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return leave


class _Watcher:
    """A consumer of previews."""

    def played(self, frame: int, take: int | None = None, dropped: int = 0) -> None:
        """Nothing depends on it."""

    def close(self) -> None:
        """Nothing is held."""
