"""A frame source without a model: it draws a ball in the colours of the prompt, the same for the same seed."""

from __future__ import annotations

import colorsys
import re
import threading
import time
import traceback
import zlib
from collections import deque
from collections.abc import Callable

import numpy as np

from studio.events import DecodedBlock, ErrorReport, Event, Listener, Stats, Switch, TakeInfo, UnknownWord
from studio.timeline import History, Segment, Timeline, Transition, nearest
from studio.timeline.messages import describe, describe_history
from studio.timeline.operations import from_dict
from studio.timeline.past import PastEdit, check_past, keep_past

WORDS = "a the red blue green fox ball runs jumps sleeps rolls in at by over snow night sea desert forest"
KNOWN = tuple(WORDS.split())
HELD_BLOCKS = 8


class DoubleConsumer:
    """A viewer of a `Double`."""

    def __init__(self, owner: Double):
        self.owner, self.frame = owner, 0

    def played(self, frame: int, take: int | None = None, dropped: int = 0) -> None:
        self.owner.note_played(self, frame, take)

    def close(self) -> None:
        self.owner.detach(self)


class DoubleEditor:
    """Edits the timeline of a `Double`; of the past it can only keep what was made."""

    def __init__(self, owner: Double):
        self.owner = owner

    def apply(self, operation, *, past: str | None = None, version: int | None = None) -> Timeline:
        operation = from_dict(operation) if isinstance(operation, dict) else operation
        if version is not None and version != self.owner.history.version:
            raise ValueError("the timeline has changed meanwhile; look at it and try again")
        return self._go(operation.apply(self.owner.timeline), operation, None, past)

    def undo(self, *, past: str | None = None) -> Timeline:
        return self._go(self.owner.history.undo_target(), None, self.owner.history.undo, past)

    def redo(self, *, past: str | None = None) -> Timeline:
        return self._go(self.owner.history.redo_target(), None, self.owner.history.redo, past)

    def _go(self, after: Timeline, operation, step, past: str | None) -> Timeline:
        owner = self.owner
        before = owner.timeline
        if past is None:
            check_past(before, after, owner.begun)
        elif past == "keep":
            kept = keep_past(before, after, owner.begun)
            after, step = kept, step if kept == after else None
        else:
            raise ValueError("a double has one take only; keep the past")
        if step is None:
            owner.history.record(operation, after)
        else:
            step()
        if before != after:
            owner._emit("timeline", after)
        return after

    def describe(self) -> dict:
        owner = self.owner
        return {**describe(owner.timeline, owner.begun), "history": describe_history(owner.history), "take": owner.take}

    def obey(self, message: dict) -> dict:
        reply = {"error": None, "past": None}
        try:
            if message["do"] == "apply":
                self.apply(message["operation"], past=message.get("past"), version=message.get("version"))
            else:
                {"undo": self.undo, "redo": self.redo}[message["do"]](past=message.get("past"))
        except PastEdit as error:
            reply["error"] = str(error)
            reply["past"] = {"block": error.block, "begun": error.begun, "choices": list(error.choices)}
        except (ValueError, RuntimeError) as error:
            reply["error"] = str(error)
        return {**reply, "version": self.owner.history.version}


class DoubleTakes(list[TakeInfo]):
    """The one take of a `Double`."""

    def rename(self, take: int | str, name: str) -> TakeInfo:
        self.owner.title = name
        self.owner._emit("takes", tuple(self.owner.takes))
        return self.owner.takes[0]

    def choose(self, take: int | str) -> TakeInfo:
        raise ValueError(f"there is no take {take}")

    def remove(self, take: int | str) -> None:
        raise ValueError(f"there is no take {take}")

    def fork(self, at: int, *, take: int | str | None = None) -> TakeInfo:
        raise ValueError("a double has one take only")

    def __init__(self, owner: Double, infos: list[TakeInfo]):
        super().__init__(infos)
        self.owner = owner


class Double:
    """Honours the frame-source protocol; `make` draws one block, and `start` lets a thread do so at the right pace.

    Args:
        prompt: First prompt.
        size: Height and width of a frame in pixels.
        block_s: Seconds that a block takes.
        lead: Blocks drawn ahead of the slowest consumer.
        threaded: Whether a thread draws.
        fail_at: Block at which drawing fails once.
    """

    name, fps, device = "double", 16.0, "drawn by hand"

    def __init__(
        self,
        prompt: str = "a red ball rolls in the snow",
        *,
        size: tuple[int, int] = (128, 128),
        block_s: float = 0.4,
        lead: int = 1,
        threaded: bool = True,
        fail_at: int | None = None,
        seed: int = 7,
    ):
        self.height, self.width = size
        self.seed, self.state, self.take = seed, "idle", 0
        self.block_s, self.lead, self.fail_at = block_s, lead, fail_at
        self.consumers: list[DoubleConsumer] = []
        self.listeners: list[Listener] = []
        self.history = History(Timeline((Segment(prompt, 0),), seed=seed))
        self.editor, self.title = DoubleEditor(self), "take 1"
        self._held: deque[DecodedBlock] = deque(maxlen=HELD_BLOCKS)
        self._next, self._begun, self._wanted = 0, False, 0
        self._pending: dict[int, Switch] = {}
        self._spent: deque[float] = deque(maxlen=8)
        self._latency: float | None = None
        self._asked: dict[int, float] = {}
        self._wake = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        if threaded:
            self._start()

    # The protocol

    @property
    def timeline(self) -> Timeline:
        return self.history.timeline

    @timeline.setter
    def timeline(self, timeline: Timeline) -> None:
        self.history.record(None, timeline)
        self._emit("timeline", timeline)

    @property
    def takes(self) -> DoubleTakes:
        number, blocks = self.take, self._next
        info = TakeInfo(
            number=number, name=self.title, parent=None, forked_at=0, blocks=blocks, seed=self.seed, current=True
        )
        return DoubleTakes(self, [info])

    @property
    def begun(self) -> int:
        return self._next + (1 if self._begun else 0)

    @property
    def stats(self) -> Stats:
        frames = self.timeline.start_frame(self._next)
        mean = sum(self._spent) / len(self._spent) if self._spent else None
        ms = None if mean is None else mean * 1000
        return Stats(
            generated_fps=None if not mean else 12 / mean,
            denoise_ms=ms and 0.6 * ms,
            commit_ms=ms and 0.15 * ms,
            vae_ms=ms and 0.25 * ms,
            switch_latency_s=self._latency,
            generated_blocks=self._next,
            generated_frames=frames,
            lead_s=max(0.0, (frames - self._slowest()) / self.fps),
        )

    def play(self) -> None:
        with self._wake:
            self._wanted = -1
            self._set_state("warming" if self._next == 0 else "playing")
            self._wake.notify_all()

    def pause(self) -> None:
        with self._wake:
            self._wanted = 0
            self._set_state("paused")

    def step(self) -> None:
        with self._wake:
            self._wanted = 1
            self._set_state("warming" if self._next == 0 else "playing")
            self._wake.notify_all()

    def restart(self, seed: int | None = None) -> None:
        with self._wake:
            self.seed = self.seed if seed is None else seed
            self.take += 1
            self._next = 0
            self._held.clear()
            self._pending.clear()
            for consumer in self.consumers:
                consumer.frame = 0
            self._emit("restart", self.take)
            self._wake.notify_all()

    def switch(
        self, prompt: str, *, policy: str | None = None, at: int | None = None, transition: Transition | None = None
    ) -> Switch:
        with self._wake:
            block = max(self.begun, at or 0)
            self.timeline = self.timeline.put(Segment(prompt, block, policy=policy, transition=transition))
            frame = self._slowest()
            switch = Switch(
                prompt=prompt,
                policy=policy or "recache",
                requested_frame=frame,
                requested_block=self.timeline.clock.block_at(frame),
                effective_block=block,
                effective_frame=self.timeline.start_frame(block),
            )
            self._pending[block] = switch
            self._asked[block] = time.monotonic()
        self._emit("switch", switch)
        return switch

    def block(self, index: int) -> DecodedBlock | None:
        return next((block for block in self._held if block.index == index), None)

    def unknown_words(self, text: str) -> list[UnknownWord]:
        return [
            UnknownWord(word=m[0], start=m.start(), end=m.end(), nearest=nearest(m[0].lower(), KNOWN))
            for m in re.finditer(r"\w+", text)
            if m[0].lower() not in KNOWN
        ]

    def attach(self) -> DoubleConsumer:
        with self._wake:
            consumer = DoubleConsumer(self)
            self.consumers.append(consumer)
            self._wake.notify_all()
        return consumer

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener) if listener in self.listeners else None

    def close(self) -> None:
        with self._wake:
            self._set_state("closed")
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=5)

    # Behind it

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="double", daemon=True)
        self._thread.start()

    def note_played(self, consumer: DoubleConsumer, frame: int, take: int | None) -> None:
        with self._wake:
            if take is None or take == self.take:
                consumer.frame = frame
                self._wake.notify_all()

    def detach(self, consumer: DoubleConsumer) -> None:
        with self._wake:
            if consumer in self.consumers:
                self.consumers.remove(consumer)

    def make(self) -> DecodedBlock:
        """Draw the next block and announce it."""
        with self._wake:
            index, take, self._begun = self._next, self.take, True
        begun = time.monotonic()
        if index == self.fail_at:
            self.fail_at = None
            raise ValueError("the ball rolled off the table; go on to put it back")
        segment = self.timeline.index_at(index)
        first, end = self.timeline.start_frame(index), self.timeline.start_frame(index + 1)
        frames = np.stack([self._draw(frame, self.timeline.segments[segment].prompt) for frame in range(first, end)])
        frames.setflags(write=False)
        if self.block_s:
            time.sleep(max(0.0, self.block_s - (time.monotonic() - begun)))
        with self._wake:
            self._begun = False
            block = DecodedBlock(
                index=index,
                first_frame=first,
                frames=frames,
                prompt=self.timeline.segments[segment].prompt,
                segment=segment,
                switch=self._pending.pop(index, None),
                take=take,
            )
            if take != self.take:
                return block
            self._next = index + 1
            self._held.append(block)
            self._spent.append(time.monotonic() - begun)
            if index in self._asked:
                self._latency = time.monotonic() - self._asked.pop(index)
        self._emit("block", block)
        self._emit("stats", self.stats)
        return block

    def _draw(self, frame: int, prompt: str) -> np.ndarray:
        hue = zlib.crc32(prompt.encode()) / 2**32
        rows, columns = np.mgrid[0 : self.height, 0 : self.width].astype(np.float32)
        ground = np.array(colorsys.hsv_to_rgb(hue, 0.45, 0.55)), np.array(colorsys.hsv_to_rgb(hue, 0.15, 0.95))
        mix = (rows / self.height)[..., None]
        picture = ground[0] * mix + ground[1] * (1 - mix)
        angle = 0.11 * frame + self.seed
        y = self.height * (0.72 - 0.34 * abs(np.sin(angle)))
        x = self.width * (0.5 + 0.3 * np.cos(0.37 * angle))
        radius = 0.16 * self.height
        inside = np.clip(radius - np.hypot(rows - y, columns - x), 0, 1)[..., None]
        light = np.clip(1.15 - np.hypot(rows - y + radius / 3, columns - x - radius / 3) / (2 * radius), 0.3, 1.1)
        ball = np.array(colorsys.hsv_to_rgb((hue + 0.5) % 1, 0.8, 0.9)) * light[..., None]
        return (np.clip(picture * (1 - inside) + ball * inside, 0, 1) * 255).astype(np.uint8)

    def _slowest(self) -> int:
        return min((consumer.frame for consumer in self.consumers), default=0)

    def _may_make(self) -> bool:
        if self._wanted == 0 or not self.consumers:
            return False
        at = self.timeline.clock.block_at(self._slowest())
        return self._next <= at + self.lead

    def _finished(self) -> bool:
        return self.timeline.length is not None and self._next >= self.timeline.length

    def _set_state(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self._emit("state", state)

    def _emit(self, kind, payload) -> None:
        for listener in list(self.listeners):
            listener(Event(kind, payload))

    def _run(self) -> None:
        while self.state != "closed":
            with self._wake:
                if self._finished() and self._wanted:
                    self._wanted = 0
                    self._set_state("finished")
                if not self._may_make():
                    if self._wanted != 0:
                        self._set_state("waiting" if self._next else "warming")
                    self._wake.wait(0.5)
                    continue
                self._set_state("playing" if self._next else "warming")
            try:
                self.make()
            except Exception as error:
                with self._wake:
                    self._begun, self._wanted = False, 0
                    self._emit("error", ErrorReport(message=str(error), traceback=traceback.format_exc()))
                    self._set_state("error")
                continue
            with self._wake:
                if self._wanted > 0:
                    self._wanted -= 1
                    if self._wanted == 0:
                        self._set_state("paused")
