"""The `Studio` widget: watch a video being generated and steer it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets as t

from studio.comms import keep_subshell
from studio.events import Stats, Switch
from studio.timeline import Operation, Timeline, Transition
from studio.widgets.cells import Replacing
from studio.widgets.codec import require_simplejpeg
from studio.widgets.relay import Relay
from studio.widgets.source import EditorLike, EditSource, FrameSource, Reading
from studio.widgets.still import STRIP_FRAMES, Still, clip, still_html, strip
from studio.widgets.volume import Scenes
from studio.widgets.width import check_width

__all__ = ["Studio"]

STATIC = Path(__file__).parent / "static"

KEPT_ERRORS = 100

_replacing = Replacing()


class Studio(Scenes, anywidget.AnyWidget):
    """A player with a prompt box and a timeline of prompts, for JupyterLab and other notebook front ends.

    Everything the mouse can do, one line of Python can do; both stay in step.

    Args:
        source: What makes the frames, as `studio.open("miniature")`.
        width: Width of the widget: CSS text as "800px" or "100%", or a number of pixels.
        autoplay: Whether a source that was never played starts as soon as somebody looks.
        inspect: Whether the inspector, which shows the cache, is open from the start; closed it costs nothing.
        quick_prompts: Prompts by name, at most 9: the keys 1 to 9 switch to them at once.

    Raises:
        ImportError: If the library that compresses frames is missing.
        TypeError: If `source` is not a frame source.
        ValueError: If `width` is not a width.
    """

    _esm = STATIC / "studio.js"
    _css = STATIC / "studio.css"

    width = t.Union([t.Unicode(), t.Int()], default_value="100%", help="Width of the widget.").tag(sync=True)
    key = t.Unicode(help="Name of this widget in the front end.").tag(sync=True)
    view = t.Unicode("studio", help="What the front end shows.").tag(sync=True)
    errors = t.List(t.Unicode(), help="What went wrong in the front end or in a message, newest last.")

    # Whether the pages get the frames, or only what is said about them.
    _frames = True

    def __init__(
        self,
        source: FrameSource,
        *,
        width: str | int = "100%",
        autoplay: bool = True,
        inspect: bool = True,
        quick_prompts: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    ):
        missing = [name for name in _NEEDED if not hasattr(source, name)]
        if missing:
            raise TypeError(
                f"`source` must be a frame source, got {type(source).__name__} without {', '.join(missing)}; "
                'use studio.open("miniature")'
            )
        require_simplejpeg()
        self._lock = threading.RLock()
        key = uuid.uuid4().hex
        super().__init__(width=width, key=key, model_id=key)
        keep_subshell(self.comm)
        # `send` is looked up at each message: it goes by the comm of that moment.
        self._relay: Relay | None = Relay(
            source,
            self,
            lambda content, buffers: self.send(content, buffers),
            self._note,
            autoplay=autoplay,
            frames=self._frames,
            watch=inspect,
        )
        self._relay.set_quick(quick_prompts)
        # Only what shows frames has a picture to leave behind.
        self._still = Still(key, self._recent_frames, source.fps, self._told, self._note) if self._frames else None
        self._unstill: Callable[[], None] = lambda: None
        self.on_msg(self._receive)
        _replacing.add(self)

    @t.validate("width")
    def _check_width(self, proposal: Any) -> str:
        return check_width(proposal["value"])

    # Steering, by one line each

    @property
    def source(self) -> FrameSource:
        """What makes the frames.

        Raises:
            RuntimeError: If the widget is closed.
        """
        if self._relay is None:
            raise RuntimeError("this widget is closed; make another with studio.Studio(session)")
        return self._relay.source

    @property
    def timeline(self) -> Timeline:
        """The prompts, by block; setting it steers the blocks not yet generated."""
        return self.source.timeline

    @timeline.setter
    def timeline(self, timeline: Timeline) -> None:
        self.source.timeline = timeline

    @property
    def stats(self) -> Stats:
        """How fast the source is."""
        return self.source.stats

    @property
    def state(self) -> str:
        """What the source is doing: "playing", "paused", ..."""
        return self.source.state

    @property
    def playhead(self) -> int:
        """The frame that the browser last reported as shown."""
        return 0 if self._relay is None else self._relay.playhead

    def play(self) -> None:
        """Go on, after an error too."""
        self.source.play()

    def pause(self) -> None:
        """Hold playback and generation."""
        self.source.pause()

    def step(self) -> None:
        """Generate and show one block."""
        self.source.step()

    def restart(self, seed: int | None = None) -> None:
        """Begin again at block 0.

        Args:
            seed: Another seed; None keeps the one in use.
        """
        self.source.restart(seed)

    def switch(
        self, prompt: str, *, policy: str | None = None, at: int | None = None, transition: Transition | None = None
    ) -> Switch:
        """Change the prompt.

        Args:
            prompt: The new prompt.
            policy: What happens to the cache: "recache", "keep" or "clear"; None for the session's own.
            at: Block at which it takes effect; None for the next one not yet begun.
            transition: How the prompt before goes over into it; None for at once.

        Returns:
            When it was asked for and when it takes effect.

        Raises:
            ValueError: If the prompt, policy or block makes no sense.
        """
        options: dict[str, Any] = {} if transition is None else {"transition": transition}
        return self.source.switch(prompt, policy=policy, at=at, **options)

    def append(self, prompt: str, start: int | None = None) -> None:
        """Add a prompt at the end of the timeline.

        Args:
            prompt: The prompt.
            start: Block at which it takes effect, after the last one; None for about five seconds after it.

        Raises:
            ValueError: If the prompt or block makes no sense.
        """
        self.source.timeline = self.source.timeline.append(prompt, start)

    def edit(self, index: int, prompt: str) -> None:
        """Change the text of a segment of the timeline.

        Args:
            index: The segment, from 0.
            prompt: Its new prompt.

        Raises:
            ValueError: If there is no such segment or the prompt makes no sense.
        """
        self.source.timeline = self.source.timeline.edit(index, prompt=prompt)

    def remove(self, index: int) -> None:
        """Remove a segment of the timeline.

        Args:
            index: The segment, from 0.

        Raises:
            ValueError: If there is no such segment, or it is the only one.
        """
        self.source.timeline = self.source.timeline.remove(index)

    @property
    def editor(self) -> EditorLike:
        """Edits the timeline by operations.

        Raises:
            RuntimeError: If the widget is closed.
            ValueError: If the timeline of the source cannot be edited.
        """
        if not isinstance(self.source, EditSource):
            raise ValueError(f"the timeline of `{self.source.name}` cannot be edited; open a live session")
        return self.source.editor

    def apply(self, operation: Operation | dict[str, Any], *, past: str | None = None) -> Timeline:
        """Edit the timeline by an operation, as a drag or a key does.

        Args:
            operation: The edit, as `studio.timeline.operations.Split(12)`, or the dictionary that stands for it.
            past: What to do where it changes what was generated: "keep", "fork" or "regenerate"; None refuses it.

        Returns:
            The timeline in force now.

        Raises:
            ValueError: If it makes no sense there, or changes the past.
        """
        return self.editor.apply(operation, past=past)

    def undo(self, *, past: str | None = None) -> Timeline:
        """Take the last edit back, whoever made it.

        Args:
            past: As for `apply`.

        Returns:
            The timeline in force now.

        Raises:
            RuntimeError: If there is nothing to undo.
            ValueError: If that changes the past.
        """
        return self.editor.undo(past=past)

    def redo(self, *, past: str | None = None) -> Timeline:
        """Do the edit again that was undone last.

        Args:
            past: As for `apply`.

        Returns:
            The timeline in force now.

        Raises:
            RuntimeError: If there is nothing to redo.
            ValueError: If that changes the past.
        """
        return self.editor.redo(past=past)

    @property
    def quick_prompts(self) -> dict[str, str]:
        """Prompts by name, in the order of the keys 1 to 9 that switch to them; pages may edit them too."""
        return {} if self._relay is None else dict(self._relay.quick)

    @quick_prompts.setter
    def quick_prompts(self, prompts: Mapping[str, str] | Sequence[tuple[str, str]]) -> None:
        if self._relay is None:
            raise RuntimeError("this widget is closed; make another with studio.Studio(session)")
        self._relay.set_quick(prompts)

    def watch(self, on: bool = True) -> None:
        """Open or close the inspector, and with it begin or end watching the cache.

        Args:
            on: Whether to watch.

        Raises:
            RuntimeError: If the widget or its source is closed.
            ValueError: If the source does not let its cache be watched.
        """
        if self._relay is None:
            raise RuntimeError("this widget is closed; make another with studio.Studio(session)")
        self._relay.watch(on)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """What each recent block saw of the cache, old to new; empty while nothing is watched."""
        return () if self._relay is None else tuple(self._relay.readings)

    def close(self) -> None:
        """Take the widget away and let go of its thread, its frames and its source; the source stays open."""
        # A source that nobody else holds may end: notebooks remember every widget they ever showed.
        relay, self._relay = getattr(self, "_relay", None), None
        if relay is not None:
            self._unstill()
            self._still, self._unstill = None, lambda: None
            relay.close()
            self.drop_scene()
        super().close()

    # Behind it

    def _receive(self, _widget: object, content: object, buffers: object) -> None:
        if self._relay is not None:
            self._relay.receive(content, buffers)

    def _note(self, text: str) -> None:
        with self._lock:
            self.errors = [*self.errors, text][-KEPT_ERRORS:]

    # Without a kernel

    def film_strip(self, count: int = STRIP_FRAMES) -> bytes:
        """A picture of the last seconds: frames side by side.

        Args:
            count: Number of frames, at least 1.

        Returns:
            A JPEG file.

        Raises:
            RuntimeError: If nothing was generated yet.
        """
        frames = self._recent_frames()
        if not frames:
            raise RuntimeError("there is no frame to show yet; call play() and wait for the first one")
        return strip(frames, count)

    def _recent_frames(self) -> list[Any]:
        recent = [] if self._relay is None else self._relay.recent()
        return [frame for block in recent for frame in block.frames]

    def __repr__(self) -> str:
        if self._relay is None:
            return "Studio(closed)"
        source = self.source
        return f"Studio({source.name}, {source.width}x{source.height}, {source.fps:g} frames/s, {source.state})"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        data["text/html"] = self._fallback()
        if self._still is not None and self._still.show():
            self._unstill = self.source.subscribe(self._still.listen)
        return data, metadata

    def _fallback(self) -> str:
        """What a saved notebook shows where no kernel runs."""
        frames = self._recent_frames()
        return still_html(self._told(), strip(frames) if frames else None, clip(frames, self.source.fps))

    def _told(self) -> str:
        if self._relay is None:
            return "Run the cell to steer it live."
        source = self.source
        return f"{source.name}: “{source.timeline.segments[-1].prompt}”. Run the cell to steer it live."


_NEEDED = (
    *("name", "fps", "width", "height", "seed", "state", "device", "timeline", "stats"),
    *("play", "pause", "step", "restart", "switch", "block", "unknown_words", "attach", "subscribe"),
)
