"""Carries between a source and the pages that show it: events one way, playheads and commands the other."""

from __future__ import annotations

import math
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from studio.events import Consumer, DecodedBlock, ErrorReport, Event, Stats, Switch, TakeInfo
from studio.timeline import Timeline, Transition
from studio.timeline.past import turns
from studio.timeline.plain import transition_from_dict
from studio.widgets import protocol
from studio.widgets.again import Again
from studio.widgets.codec import encode_frames
from studio.widgets.desk import Desk, check_quick, takes_fields
from studio.widgets.files import Exports, Uploads
from studio.widgets.origins import name_of
from studio.widgets.outbox import Outbox
from studio.widgets.palette import Palette
from studio.widgets.quality import Level, Pacing
from studio.widgets.seeing import cache_message
from studio.widgets.source import CacheSource, CacheWatch, EditSource, FrameSource, Reading, TakeSource
from studio.widgets.thumbs import Thumbs

__all__ = ["Relay", "Steering", "shared_blocks"]

# A page that is shown or reloaded gets what was played last, so that it has a picture at once.
RECENT_BLOCKS = 4
KEPT_SWITCHES = 200
# Blocks that a page may ask for at a time.
MOST_WANTED = 8
# Readings of the cache that a page gets for looking back, the newest: as many as it keeps.
RECENT_READINGS = 400


class Steering(Protocol):
    """What the browser may ask for; the widget's own methods."""

    def play(self) -> None: ...
    def pause(self) -> None: ...
    def step(self) -> None: ...
    def restart(self, seed: int | None = None) -> None: ...
    def switch(
        self, prompt: str, *, policy: str | None = None, at: int | None = None, transition: Transition | None = None
    ) -> Switch: ...
    def watch(self, on: bool = True) -> None: ...
    def volume(self, word: int | str | None = None, block: int | None = None) -> Any: ...


class Relay:
    """The thin side of a widget, without the widget: what to send when, and what to do about what comes in.

    Args:
        source: What makes the frames.
        steering: Carries out what the browser asks for.
        send: Sends a message with its buffers; may raise when the connection goes down.
        note: Keeps a text about something that went wrong.
        autoplay: Whether a source that was never played starts as soon as somebody looks.
        frames: Whether the pages show the frames; those that do not never hold generation back.
        watch: Whether the cache is watched as soon as somebody looks, where the source lets it be.
        measure: Whether the residue is measured as well then.
    """

    def __init__(
        self,
        source: FrameSource,
        steering: Steering,
        send: Callable[[dict[str, Any], list[bytes] | None], None],
        note: Callable[[str], None],
        *,
        autoplay: bool = True,
        frames: bool = True,
        watch: bool = False,
        measure: bool = False,
    ):
        self.source, self._steering, self._send, self.note = source, steering, send, note
        self._autoplay, self._frames = autoplay and frames, frames
        self._wants_watch, self._measures = watch and self.watchable, measure
        self._watch: CacheWatch | None = None
        self._trouble: str | None = None
        self._unread: Callable[[], Any] = lambda: None
        self._lock = threading.RLock()
        self._consumer: Consumer | None = None
        self._playheads: dict[str, tuple[int, bool]] = {}
        self._dropped: dict[str, int] = {}
        self._has_takes = isinstance(source, EditSource)
        self._take = next((take.number for take in self.takes if take.current), 0)
        # The take that the pages were told of, and the blocks of it whose readings they were sent or will be.
        self._announced = self._take
        self._told: set[int] = set()
        self._last_block = 0
        self.playhead = 0
        self._palette = Palette()
        self._desk = Desk(source)
        self._quick: tuple[tuple[str, str], ...] = ()
        self._switches: dict[int, Switch] = {}
        report = getattr(source, "error", None)
        self._last_error = protocol.error_message(report) if isinstance(report, ErrorReport) else None
        pacing = Pacing(source.width, source.height, source.fps)
        self.outbox = Outbox(self._transmit, self._encode, pacing, silent=self._detach, fetch=self._fetch)
        self._again = Again(source, self.outbox.post)
        self._uploads, self._exports = Uploads(source), Exports(source, self.outbox.post)
        self._thumbs = Thumbs(source.block, self.outbox.post, note)
        self._unsubscribe = source.subscribe(self.listen)

    def close(self) -> None:
        """Let go of the source, the thread and the pages."""
        self._unsubscribe()
        self.watch(False)
        self._thumbs.close()
        self.outbox.close()
        self._detach()

    # Quick prompts

    @property
    def quick(self) -> tuple[tuple[str, str], ...]:
        """Names and prompts of the keys 1 to 9."""
        return self._quick

    def set_quick(self, candidate: object) -> None:
        """Set the quick prompts and tell the pages.

        Raises:
            ValueError: If one makes no sense; see `check_quick`.
        """
        self._quick = check_quick(candidate)
        self.outbox.post(self._quick_message())

    def _quick_message(self) -> dict[str, Any]:
        return {"type": "quick", "prompts": [{"name": name, "prompt": prompt} for name, prompt in self._quick]}

    # The cache

    @property
    def watchable(self) -> bool:
        """Whether the source lets its cache be watched."""
        return isinstance(self.source, CacheSource)

    def watch(self, on: bool) -> None:
        """Begin or end watching the cache.

        Raises:
            RuntimeError: If the source is closed.
            ValueError: If the source does not let its cache be watched.
        """
        if on:
            self._begin_to_watch()
            self._tell_readings(anew=True)
        else:
            with self._lock:
                self._wants_watch, self._trouble = False, None
            self._unwatch()
        self.outbox.post(self._watch_message())

    def _begin_to_watch(self) -> None:
        if not isinstance(self.source, CacheSource):
            raise ValueError(f"the cache of `{self.source.name}` cannot be watched; open a live session")
        if self._watch is None:
            watch = self.source.watch()
            with self._lock:
                mine = self._watch is None
                if mine:
                    ends = watch.subscribe(self._read), watch.warn(self._warned)
                    self._watch, self._unread = watch, lambda: [end() for end in ends]
            if not mine:
                watch.close()
            elif self._measures:
                watch.measure_residue()
        with self._lock:
            self._wants_watch, self._trouble = True, None

    def _watch_message(self) -> dict[str, Any]:
        watch = self._watch
        trouble = self._trouble if watch is None else watch.trouble
        return {"type": "watch", "on": self._wants_watch, "measuring": self.measuring, "trouble": trouble}

    def _warned(self, trouble: str) -> None:
        """Watching, or measuring, ended by itself; called from the source's thread."""
        watch = self._watch
        if watch is not None and not watch.active:
            with self._lock:
                self._wants_watch, self._trouble = False, trouble
            self._unwatch()
        self.outbox.post(self._watch_message())

    def measure(self, on: bool) -> None:
        """Measure the residue of the prompt before the last switch, or no more.

        Raises:
            RuntimeError: If the cache is not watched.
        """
        watch = self._watch
        if watch is None:
            raise RuntimeError("the cache is not watched; open the inspector first")
        watch.measure_residue(on)
        self.outbox.post(self._watch_message())

    def reread(self, block: int | None = None) -> None:
        """Read the cache of what was made while nobody watched; the readings come by and by.

        Args:
            block: This block alone; `None` for all that was missed.

        Raises:
            RuntimeError: If the cache is not watched, or is being read already.
            ValueError: If the source cannot make its blocks once more.
        """
        if self._again.possible and self._watch is None:
            raise RuntimeError("the cache is not watched; open the inspector first")
        self._again.reread(self.measuring, block)

    @property
    def measuring(self) -> bool:
        """Whether the residue is measured, or will be as soon as somebody looks."""
        watch = self._watch
        return self._measures if watch is None else watch.measures_residue

    def look(self, frame: int | None, row: int | None, column: int | None, block: int | None = None) -> None:
        """Read where a point looks from the next block on; `None` for no point any more.

        Args:
            frame: Latent frame within the block, from 0.
            row: Token row.
            column: Token column.
            block: A block that was made already, of which the point is read as well.

        Raises:
            RuntimeError: If the cache is not watched.
            ValueError: If there is no such point.
        """
        watch = self._watch
        if watch is None:
            raise RuntimeError("the cache is not watched; open the inspector first")
        if frame is None or row is None or column is None:
            watch.look_away()
        elif block is None or not self._again.pointed:
            watch.look(frame, row, column)
        else:
            with suppress(RuntimeError):  # a recording has no next block
                watch.look(frame, row, column)
            self._again.look_back(block, frame, row, column)

    def _unwatch(self) -> None:
        with self._lock:
            watch, self._watch = self._watch, None
            unread, self._unread = self._unread, lambda: None
        unread()
        if watch is not None:
            watch.close()

    @property
    def readings(self) -> Sequence[Reading]:
        """The readings of the cache that are still held, old to new."""
        watch = self._watch
        return () if watch is None else watch.readings

    def _read(self, reading: Reading) -> None:
        # Compressing three small pictures takes a millisecond or two; nothing here waits.
        if not self.outbox.clients or not self._is_shown(reading):
            return
        message, buffers = self._describe(reading)
        with self._lock:
            # The take may have changed while it was described; a take that comes back asks for what it lacks.
            if message["take"] == self._announced:
                self._told.add(reading.block)
                self.outbox.post(message, buffers)

    def _is_shown(self, reading: Reading) -> bool:
        """Whether a reading is of the take that the pages show; a source without takes has but one."""
        return reading.take == self._announced or not self._has_takes

    def _describe(self, reading: Reading) -> tuple[dict[str, Any], list[bytes]]:
        message, buffers = cache_message(reading)
        return message if self._has_takes else {**message, "take": self._announced}, buffers

    def _described(self, reading: Reading) -> tuple[dict[str, Any], list[bytes]] | None:
        try:
            return self._describe(reading)
        except Exception:
            self.note(traceback.format_exc())
            return None

    def _tell_readings(self, *, anew: bool = False) -> None:
        """Have the readings sent that the pages lack, the newest first, behind the pictures; encoded in their turn.

        Args:
            anew: Whether they may lack any of them.
        """
        with self._lock:
            if anew:
                self._told = set()
        for reading in reversed(self.readings[-RECENT_READINGS:]):
            with self._lock:
                if reading.block not in self._told and self._is_shown(reading):
                    self._told.add(reading.block)
                    self.outbox.post_later(self._announced, reading.block, partial(self._described, reading))

    # Events of the source; called from its thread, so nothing here waits

    def listen(self, event: Event) -> None:
        """Pass on an event of the source."""
        if event.kind == "block":
            self._announce_block(event.payload)
        elif event.kind == "timeline":
            self.outbox.post(self._timeline_message(event.payload))
        elif event.kind == "stats":
            self.outbox.post(self._stats_message(event.payload))
        elif event.kind == "switch":
            self._switches[event.payload.effective_block] = event.payload
            self.outbox.post(protocol.switch_message(event.payload))
        elif event.kind == "state":
            self._last_error = self._last_error if event.payload == "error" else None
            self.outbox.post({"type": "state", "state": event.payload})
        elif event.kind == "error":
            self._last_error = protocol.error_message(event.payload)
            self.outbox.post(self._last_error)
        elif event.kind == "restart":
            self._begin_take(event.payload)
        elif event.kind == "takes":
            self.outbox.post({"type": "takes", "takes": takes_fields(event.payload)})

    def _announce_block(self, block: DecodedBlock) -> None:
        with self._lock:
            self._take, self._last_block = block.take, block.index
        if not self._frames:
            return
        # The first picture of a take and of a switch is waited for: half a block is there sooner.
        self.outbox.post_block(block, parts=2 if block.index == 0 or block.switch is not None else 1)

    def _begin_take(self, take: int) -> None:
        source, takes = self.source, self.takes
        info = next((item for item in takes if item.number == take), None)
        blocks = 0 if info is None else info.blocks
        made = source.timeline.start_frame(blocks)
        # A fork that has made nothing yet shows the last frame that it shares.
        start = 0 if info is None else min(source.timeline.start_frame(info.forked_at), max(0, made - 1))
        with self._lock:
            former, self._announced = self._announced, take
            shared = shared_blocks(takes, former, take)
            # What was not sent of the former take is sent as the new one's.
            self._told = {block for block in self._told if block < shared} - self.outbox.drop_blocks(take)
            self._take, self._last_block, self.playhead = take, max(0, blocks - 1), start
            self._switches, self._dropped = {}, {}
            self._playheads = {client: (start, hidden) for client, (_, hidden) in self._playheads.items()}
            self.outbox.post(
                {
                    "type": "restart",
                    "take": take,
                    "former": former,
                    "shared": shared,
                    "seed": source.seed,
                    "start": start,
                    "live": blocks,
                    "made": made,
                }
            )
        self.outbox.post(self._timeline_message(source.timeline))
        self._tell_readings()

    # Takes, and what was made long ago

    @property
    def takes(self) -> list[TakeInfo]:
        """The takes of the source; none where it keeps none."""
        return list(self.source.takes) if isinstance(self.source, EditSource) else []

    def _fetch(self, take: int, index: int) -> DecodedBlock | None:
        try:
            block = self._block_of(take, index)
            if block is None:
                there = self._next_held(take, index)
                self.outbox.post({"type": "missing", "take": take, "block": index, "next": there})
            return block
        except Exception:
            self.note(traceback.format_exc())
            return None

    def _block_of(self, take: int, index: int) -> DecodedBlock | None:
        source: Any = self.source
        if isinstance(source, TakeSource):
            return source.block(index, take)
        return source.block(index) if take == self._take else None

    def _next_held(self, take: int, index: int) -> int:
        """The first block after one that is gone which is still there; looking on would be for nothing before it."""
        last = self._last_block
        return next((at for at in range(index + 1, last + 1) if self._block_of(take, at) is not None), last + 1)

    # Messages from the browser; called on the main thread or on a subshell

    def receive(self, content: object, buffers: object = None) -> None:
        """Act on a message from the browser, with its buffers; never raises."""
        try:
            message = protocol.parse(content, buffers)
        except ValueError as error:
            self.note(f"a message from the browser was not understood: {error}")
            return
        try:
            self._handle(message)
        except Exception:
            self.note(traceback.format_exc())

    def _handle(self, message: protocol.Incoming) -> None:
        client, kind = message.client, message.kind
        if kind == "bye":
            self._lose(client)
            return
        known = self.outbox.heard(client, message.fields.get("hidden"))
        # A page that has said goodbye may still confirm what was under way.
        if kind == "ready" or (not known and kind not in ("ack", "failure")):
            self._welcome(client, message.fields.get("hidden", False))
        if kind == "ack":
            self.outbox.ack(client, message["serial"])
        elif kind == "played":
            self._played(client, message)
        elif kind == "want":
            first = message["block"]
            self.outbox.want(client, message["take"], range(first, first + min(message["count"], MOST_WANTED)))
        elif kind == "ping":
            # The page takes silence for a lost kernel, whatever the source may say to what follows.
            self.outbox.post({"type": "pong", "client": client, "id": message["id"]})
            # Another page may have vanished since: this one need not wait for it any longer.
            self._advance()
        elif kind == "words":
            found = self.source.unknown_words(message["text"])
            self.outbox.post({**protocol.words_message(message["id"], found), "client": client})
        elif kind == "thumbs":
            self._thumbs.ask(message["take"], message["blocks"])
        elif kind == "failure":
            self.note(f"{message['message']}\n{message['stack']}".strip())
        elif kind == "upload":
            self._upload(message)
        elif kind in protocol.COMMANDS:
            self._command(message, lambda: self._obey(message))

    def _upload(self, message: protocol.Incoming) -> None:
        def take() -> dict[str, Any]:
            start = self._uploads.take(message.client, message.fields, message.data)
            if start is not None:
                start()
            return {}

        if message["part"] + 1 < message["parts"]:
            self._command(message, take)
            return
        # Encoding takes a while; meanwhile other messages want to be heard.
        threading.Thread(target=self._command, args=(message, take), name="studio-widget-upload", daemon=True).start()

    def _command(self, message: protocol.Incoming, obey: Callable[[], dict[str, Any]]) -> None:
        reply: dict[str, Any] = {"type": "reply", "client": message.client, "id": message["id"], "error": None}
        try:
            reply.update(obey())
        except (ValueError, RuntimeError, OSError) as error:
            # What the user asked for does not make sense: the sentence goes to them, not to the log.
            reply["error"] = str(error)
            self.outbox.post(self._timeline_message(self.source.timeline))
        except Exception as error:
            reply["error"] = f"{type(error).__name__}: {error}"
            self.note(traceback.format_exc())
        self.outbox.post(reply)

    def _obey(self, message: protocol.Incoming) -> dict[str, Any]:
        """Do what a command asks for; returns what its reply says besides."""
        kind = message.kind
        if kind == "switch":
            asked = message["transition"]
            # A source need not know transitions unless one is asked for.
            options = {} if asked is None else {"transition": transition_from_dict(asked)}
            switch = self._steering.switch(message["prompt"], policy=message["policy"], at=message["at"], **options)
            return {"effective_block": switch.effective_block}
        if kind in ("edit", "paste", "import", "export", "take"):
            return self._desk.obey(kind, message.fields)
        if kind == "restart":
            self._steering.restart(message["seed"])
        elif kind == "quick":
            self.set_quick(message["prompts"])
        elif kind == "fork":
            self._fork(message.fields)
        elif kind == "save":
            self._exports.begin(message.fields)
        elif kind == "unsave":
            self._exports.cancel()
        elif kind == "watch":
            self._steering.watch(message["on"])
        elif kind == "volume":
            self._steering.volume(message["word"], message["block"])
        elif kind == "reread":
            self.reread(message["block"])
        elif kind == "measure":
            self.measure(message["on"])
        elif kind == "look":
            self.look(message["frame"], message["row"], message["column"], message["block"])
        else:
            getattr(self._steering, kind)()
        return {}

    def _fork(self, fields: dict[str, Any]) -> None:
        source = self.source
        if not isinstance(source, TakeSource):
            raise ValueError(f"`{source.name}` cannot be forked; open a live session")
        source.fork(**{name: value for name, value in fields.items() if name != "id"})

    # Pages

    def _welcome(self, client: str, hidden: bool) -> None:
        self.outbox.join(client, hidden)
        with self._lock:
            self._playheads[client] = (self.playhead, hidden)
        if self._frames:
            self._attach()
        recent = self.recent() if self._frames else []
        self._watch_if_wanted()
        while not self._greet(self._hello(recent)):  # the take changed meanwhile
            recent = self.recent() if self._frames else []
        for block in recent:
            self.outbox.post_block(block)
        self._tell_readings(anew=True)
        if self._autoplay and self.source.state == "idle":
            self._autoplay = False
            self.source.play()

    def _greet(self, hello: dict[str, Any]) -> bool:
        with self._lock:
            fits = hello["take"] == self._take
            if fits:
                self._announced = self._take
                self.outbox.post(hello)
            return fits

    def _watch_if_wanted(self) -> None:
        if self._watch is not None or not self._wants_watch or self.source.state == "closed":
            return
        try:
            self._begin_to_watch()
        except Exception as error:
            # What cannot be watched is shown all the same; the page says why there is no inspector.
            with self._lock:
                self._wants_watch, self._trouble = False, f"the cache cannot be watched: {error}"
            if not isinstance(error, (ValueError, RuntimeError)):
                self.note(traceback.format_exc())

    def _attach(self) -> None:
        # The source is never called under the lock: it may be announcing something from another thread.
        if self._consumer is not None or self.source.state == "closed":
            return
        consumer = self.source.attach()
        with self._lock:
            mine = self._consumer is None
            if mine:
                self._consumer = consumer
        if not mine:
            consumer.close()
        elif self.playhead:
            consumer.played(self.playhead, self._take)

    def _hello(self, recent: Sequence[DecodedBlock] = ()) -> dict[str, Any]:
        source, timeline = self.source, self.source.timeline
        stats = source.stats
        return {
            "type": "hello",
            "version": protocol.VERSION,
            "name": source.name,
            "fps": source.fps,
            "width": source.width,
            "height": source.height,
            "grid": protocol.grid_of(timeline),
            "take": self._take,
            "playhead": self.playhead,
            "live": recent[0].index if recent else stats.generated_blocks,
            "made": max(stats.generated_frames, recent[-1].end_frame if recent else 0),
            "forkable": isinstance(source, TakeSource),
            "startable": self._uploads.possible,
            "exportable": self._exports.possible,
            "export": self._exports.describe(),
            "frames": self._frames,
            "watchable": self.watchable,
            "watching": self._wants_watch,
            "measuring": self.measuring,
            "trouble": self._watch_message()["trouble"],
            "rereads": self._again.possible,
            "looks_back": self._again.pointed,
            "again": self._again.describe(),
            "origin": name_of(source),
            "editable": self._desk.editable,
            "takes": self._desk.takes(),
            "quick": self._quick_message()["prompts"],
            "state": source.state,
            "timeline": self._timeline_message(timeline),
            "switches": [protocol.switch_fields(switch) for switch in list(self._switches.values())[-KEPT_SWITCHES:]],
            "stats": self._stats_message(stats),
            "error": self._last_error,
        }

    def recent(self) -> list[DecodedBlock]:
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

    def _played(self, client: str, message: protocol.Incoming) -> None:
        with self._lock:
            if message["take"] != self._take or client not in self._playheads:
                return
            self._playheads[client] = (message["frame"], message["hidden"])
            self._dropped[client] = message["dropped"] or 0
        self._advance()
        # Figures change while nothing is generated as well: what is ahead, and how fast it is shown.
        self.outbox.post(self._stats_message(self.source.stats))

    def _advance(self) -> None:
        """Tell the source where the slowest page is that somebody can see."""
        confirming = set(self.outbox.clients)
        with self._lock:
            watched = [at for name, (at, unseen) in self._playheads.items() if not unseen and name in confirming]
            if not watched:
                return
            self.playhead, take, consumer = min(watched), self._take, self._consumer
            dropped = sum(self._dropped.values())
        if consumer is not None:
            consumer.played(self.playhead, take, dropped)

    def _lose(self, client: str) -> None:
        self.outbox.leave(client)
        self._uploads.forget(client)
        with self._lock:
            self._playheads.pop(client, None)
            self._dropped.pop(client, None)
        if self.outbox.clients:
            self._advance()
        else:
            self._detach()

    def _detach(self) -> None:
        with self._lock:
            consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    # Sending

    def _encode(self, frames: Any, level: Level) -> list[bytes]:
        try:
            return encode_frames(frames, level.quality, subsampling=level.subsampling, shrink=level.shrink)
        except Exception:
            self.note(traceback.format_exc())
            return []

    def _transmit(self, content: dict[str, Any], buffers: list[bytes] | None) -> None:
        try:
            self._send(content, buffers)
        except Exception:
            # The connection is going down or is closed; the pages ask again when there is a new one.
            self.note(traceback.format_exc())

    def colours(self) -> list[int | str]:
        """For each prompt its colour by its number, as the pages show it; mere cuts do not count."""
        timeline = self.source.timeline
        with self._lock:
            found = self._palette.colours(timeline)
        return [found[index] for index in turns(timeline)]

    def _timeline_message(self, timeline: Timeline) -> dict[str, Any]:
        # The editor takes the source's lock; it is asked before ours.
        history = self._desk.history()
        with self._lock:
            colours, shades = self._palette.colours(timeline), self._palette.shades(timeline)
        return protocol.timeline_message(timeline, colours, shades, history)

    def _stats_message(self, stats: Stats) -> dict[str, Any]:
        return protocol.stats_message(stats, self.source.seed, self.source.device, self._take)


def shared_blocks(takes: Sequence[TakeInfo], one: int, other: int) -> int:
    """How many leading blocks two takes have in common, as far as is known.

    Args:
        takes: The takes that there are.
        one: Number of a take.
        other: Number of another one, or of the same.

    Returns:
        The number of blocks; 0 where nothing is known.
    """
    infos = {take.number: take for take in takes}

    def line(number: int) -> dict[int, float]:
        """A take and those that it comes from, with the blocks that it has of each."""
        found, blocks = {number: math.inf}, math.inf
        while (info := infos.get(number)) is not None and info.parent is not None and info.parent not in found:
            number, blocks = info.parent, min(blocks, info.forked_at)
            found[number] = blocks
        return found

    mine, others = line(one), line(other)
    most = max((min(blocks, others[number]) for number, blocks in mine.items() if number in others), default=0)
    return int(min(most, *(infos[number].blocks if number in infos else 0 for number in (one, other))))
