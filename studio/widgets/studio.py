"""The `Studio` widget: watch a video being generated and steer it."""

from __future__ import annotations

import base64
import html
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets as t

from studio.events import Consumer, DecodedBlock, Event, Stats, Switch
from studio.timeline import Timeline
from studio.widgets import protocol
from studio.widgets.cells import Replacing
from studio.widgets.codec import encode_frames, film_strip
from studio.widgets.guard import keep_subshell
from studio.widgets.outbox import Outbox
from studio.widgets.palette import Palette
from studio.widgets.source import FrameSource

__all__ = ["Studio"]

STATIC = Path(__file__).parent / "static"

# A page that is shown or reloaded gets what was played last, so that it has a picture at once.
RECENT_BLOCKS = 4
STRIP_FRAMES = 6
KEPT_ERRORS = 100
KEPT_SWITCHES = 200

_replacing = Replacing()


class Studio(anywidget.AnyWidget):
    """A player with a prompt box and a timeline of prompts, for JupyterLab and other notebook front ends.

    Everything the mouse can do, one line of Python can do; both stay in step.

    Args:
        source: What makes the frames, as `studio.open("miniature")`.
        width: Width of the widget: CSS text as "800px" or "100%", or a number of pixels.
        autoplay: Whether a source that was never played starts as soon as somebody looks.

    Raises:
        TypeError: If `source` is not a frame source.
        ValueError: If `width` is not a width.
    """

    _esm = STATIC / "studio.js"
    _css = STATIC / "studio.css"

    width = t.Union([t.Unicode(), t.Int()], default_value="100%", help="Width of the widget.").tag(sync=True)
    errors = t.List(t.Unicode(), help="What went wrong in the front end or in a message, newest last.")

    def __init__(self, source: FrameSource, *, width: str | int = "100%", autoplay: bool = True):
        missing = [name for name in _NEEDED if not hasattr(source, name)]
        if missing:
            raise TypeError(
                f"`source` must be a frame source, got {type(source).__name__} without {', '.join(missing)}; "
                'use studio.open("miniature")'
            )
        self._lock = threading.RLock()
        self._source: FrameSource | None = source
        self._consumer: Consumer | None = None
        self._playheads: dict[str, tuple[int, bool]] = {}
        self._take = self._last_block = self._playhead = 0
        self._palette = Palette()
        self._switches: dict[int, Switch] = {}
        self._autoplay = autoplay
        self._last_error: dict[str, Any] | None = None
        self._unsubscribe: Callable[[], object] = _nothing
        self._outbox = Outbox(self._transmit, encode_frames, silent=self._detach)
        super().__init__(width=width)
        keep_subshell(self.comm)
        self.on_msg(self._receive)
        self._unsubscribe = source.subscribe(self._listen)
        _replacing.add(self)

    @t.validate("width")
    def _check_width(self, proposal: Any) -> str | int:
        width = proposal["value"]
        text = f"{width}px" if isinstance(width, int) else width.strip()
        number = text.removesuffix("px") if text.endswith("px") else text.removesuffix("%")
        if number == text or not number.isascii() or not number.isdigit() or int(number) == 0:
            raise ValueError(f'`width` must be a width like 800, "800px" or "100%", got {width!r}')
        return text

    # Steering, by one line each

    @property
    def source(self) -> FrameSource:
        """What makes the frames.

        Raises:
            RuntimeError: If the widget is closed.
        """
        if self._source is None:
            raise RuntimeError("this widget is closed; make another with studio.Studio(session)")
        return self._source

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
        return self._playhead

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

    def switch(self, prompt: str, *, policy: str | None = None, at: int | None = None) -> Switch:
        """Change the prompt.

        Args:
            prompt: The new prompt.
            policy: What happens to the cache: "recache", "keep" or "clear"; None for the session's own.
            at: Block at which it takes effect; None for the next one not yet begun.

        Returns:
            When it was asked for and when it takes effect.

        Raises:
            ValueError: If the prompt, policy or block makes no sense.
        """
        return self.source.switch(prompt, policy=policy, at=at)

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

    def close(self) -> None:
        """Take the widget away and let go of its thread, its frames and its source; the source stays open."""
        if getattr(self, "_source", None) is not None:
            self._unsubscribe()
            self._outbox.close()
            self._detach()
            # A source that nobody else holds may end: notebooks remember every widget they ever showed.
            self._source, self._unsubscribe = None, _nothing
            self._last_error, self._switches = None, {}
        super().close()

    # Events of the source; called from its thread, so nothing here waits

    def _listen(self, event: Event) -> None:
        if event.kind == "block":
            self._announce_block(event.payload)
        elif event.kind == "timeline":
            self._outbox.post(self._timeline_message(event.payload))
        elif event.kind == "stats":
            self._outbox.post(self._stats_message(event.payload))
        elif event.kind == "switch":
            self._switches[event.payload.effective_block] = event.payload
            self._outbox.post(protocol.switch_message(event.payload))
        elif event.kind == "state":
            self._last_error = self._last_error if event.payload == "error" else None
            self._outbox.post({"type": "state", "state": event.payload})
        elif event.kind == "error":
            self._last_error = protocol.error_message(event.payload)
            self._outbox.post(self._last_error)
        elif event.kind == "restart":
            self._begin_take(event.payload)

    def _announce_block(self, block: DecodedBlock) -> None:
        with self._lock:
            self._take, self._last_block = block.take, block.index
        # The first picture of a take and of a switch is waited for: half a block is there sooner.
        self._outbox.post_block(block, parts=2 if block.index == 0 or block.switch is not None else 1)

    def _begin_take(self, take: int) -> None:
        self._outbox.drop_blocks()
        with self._lock:
            self._take, self._last_block, self._playhead = take, 0, 0
            self._switches = {}
            self._playheads = {client: (0, hidden) for client, (_, hidden) in self._playheads.items()}
        self._outbox.post({"type": "restart", "take": take, "seed": self.source.seed})

    # Messages from the browser; called on the main thread or on a subshell

    def _receive(self, _widget: object, content: object, _buffers: object) -> None:
        try:
            message = protocol.parse(content)
        except ValueError as error:
            self._note(f"a message from the browser was not understood: {error}")
            return
        try:
            self._handle(message)
        except Exception:
            self._note(traceback.format_exc())

    def _handle(self, message: protocol.Incoming) -> None:
        client, kind = message.client, message.kind
        if kind == "bye":
            self._lose(client)
            return
        known = self._outbox.heard(client, message.fields.get("hidden"))
        # A page that has said goodbye may still confirm what was under way.
        if kind == "ready" or (not known and kind not in ("ack", "failure")):
            self._welcome(client, message.fields.get("hidden", False))
        if kind == "ack":
            self._outbox.ack(client, message["serial"])
        elif kind == "played":
            self._played(client, message["frame"], message["take"], message["hidden"])
        elif kind == "ping":
            self._outbox.post({"type": "pong", "client": client, "id": message["id"]})
        elif kind == "words":
            found = self.source.unknown_words(message["text"])
            self._outbox.post({**protocol.words_message(message["id"], found), "client": client})
        elif kind == "failure":
            self._note(f"{message['message']}\n{message['stack']}".strip())
        elif kind in protocol.COMMANDS:
            self._command(message)

    def _command(self, message: protocol.Incoming) -> None:
        reply: dict[str, Any] = {"type": "reply", "client": message.client, "id": message["id"], "error": None}
        try:
            switch = self._obey(message)
            if switch is not None:
                reply["effective_block"] = switch.effective_block
        except (ValueError, RuntimeError) as error:
            # What the user asked for does not make sense: the sentence goes to them, not to the log.
            reply["error"] = str(error)
            self._outbox.post(self._timeline_message(self.source.timeline))
        except Exception as error:
            reply["error"] = f"{type(error).__name__}: {error}"
            self._note(traceback.format_exc())
        self._outbox.post(reply)

    def _obey(self, message: protocol.Incoming) -> Switch | None:
        kind = message.kind
        if kind == "switch":
            return self.switch(message["prompt"], policy=message["policy"], at=message["at"])
        if kind == "restart":
            self.restart(message["seed"])
        elif kind == "append":
            self.append(message["prompt"], message["start"])
        elif kind in ("edit", "remove"):
            self._expect(message["index"], message["start"])
            self.edit(message["index"], message["prompt"]) if kind == "edit" else self.remove(message["index"])
        else:
            {"play": self.play, "pause": self.pause, "step": self.step}[kind]()
        return None

    def _expect(self, index: int, start: int) -> None:
        """Refuse an edit of a segment that is not the one the user saw."""
        segments = self.source.timeline.segments
        if index >= len(segments) or segments[index].start != start:
            raise ValueError("the timeline has changed meanwhile; look at it and try again")

    # Pages

    def _welcome(self, client: str, hidden: bool) -> None:
        self._outbox.join(client, hidden)
        with self._lock:
            self._playheads[client] = (self._playhead, hidden)
            if self._consumer is None:
                self._consumer = self.source.attach()
                if self._playhead:
                    self._consumer.played(self._playhead, self._take)
        self._outbox.post(self._hello())
        for block in self._recent():
            self._outbox.post_block(block)
        if self._autoplay and self.source.state == "idle":
            self._autoplay = False
            self.source.play()

    def _hello(self) -> dict[str, Any]:
        source, timeline = self.source, self.source.timeline
        return {
            "type": "hello",
            "version": protocol.VERSION,
            "name": source.name,
            "fps": source.fps,
            "width": source.width,
            "height": source.height,
            "grid": protocol.grid_of(timeline),
            "take": self._take,
            "playhead": self._playhead,
            "state": source.state,
            "timeline": self._timeline_message(timeline),
            "switches": [protocol.switch_fields(switch) for switch in list(self._switches.values())[-KEPT_SWITCHES:]],
            "stats": self._stats_message(source.stats),
            "error": self._last_error,
        }

    def _recent(self) -> list[DecodedBlock]:
        """The blocks around the playhead that the source still holds, oldest first."""
        last = max(self._last_block, self.source.stats.generated_blocks - 1)
        found: list[DecodedBlock] = []
        for index in range(last, max(-1, last - RECENT_BLOCKS), -1):
            block = self.source.block(index)
            if block is None:
                break
            found.append(block)
        if found:
            self._take = found[-1].take
        return found[::-1]

    def _played(self, client: str, frame: int, take: int, hidden: bool) -> None:
        with self._lock:
            if take != self._take or client not in self._playheads:
                return
            self._playheads[client] = (frame, hidden)
            confirming = set(self._outbox.clients)
            watched = [at for name, (at, unseen) in self._playheads.items() if not unseen and name in confirming]
            if not watched:
                return
            self._playhead = min(watched)
            consumer = self._consumer
        if consumer is not None:
            consumer.played(self._playhead, take)

    def _lose(self, client: str) -> None:
        self._outbox.leave(client)
        with self._lock:
            self._playheads.pop(client, None)
        if not self._outbox.clients:
            self._detach()

    def _detach(self) -> None:
        with self._lock:
            consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    # Sending

    def _transmit(self, content: dict[str, Any], buffers: list[bytes] | None) -> None:
        try:
            self.send(content, buffers)
        except Exception:
            # The connection is going down or is closed; the pages ask again when there is a new one.
            self._note(traceback.format_exc())

    def _timeline_message(self, timeline: Timeline) -> dict[str, Any]:
        with self._lock:
            return protocol.timeline_message(timeline, self._palette.colours(timeline))

    def _stats_message(self, stats: Stats) -> dict[str, Any]:
        return protocol.stats_message(stats, self.source.seed, self.source.device)

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
        frames = [frame for block in self._recent() for frame in block.frames]
        if not frames:
            raise RuntimeError("there is no frame to show yet; call play() and wait for the first one")
        count = min(max(1, count), len(frames))
        picked = [frames[round(i * (len(frames) - 1) / max(1, count - 1))] for i in range(count)]
        return film_strip(picked)

    def __repr__(self) -> str:
        source = self._source
        if source is None:
            return "Studio(closed)"
        return f"Studio({source.name}, {source.width}x{source.height}, {source.fps:g} frames/s, {source.state})"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        data["text/html"] = self._fallback()
        return data, metadata

    def _fallback(self) -> str:
        """What a saved notebook shows where no kernel runs."""
        source = self.source
        text = html.escape(f"{source.name}: “{source.timeline.segments[-1].prompt}”. Run the cell to steer it live.")
        try:
            picture = base64.b64encode(self.film_strip()).decode()
        except RuntimeError:
            return f"<p>{text}</p>"
        return f'<p><img alt="{text}" style="max-width:100%" src="data:image/jpeg;base64,{picture}"><br>{text}</p>'


def _nothing() -> None:
    pass


_NEEDED = (
    *("name", "fps", "width", "height", "seed", "state", "device", "timeline", "stats"),
    *("play", "pause", "step", "restart", "switch", "block", "unknown_words", "attach", "subscribe"),
)
