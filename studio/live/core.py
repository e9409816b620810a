"""The generator behind a session: one daemon thread, one lock, one take at a time.

The thread never refers to the `Session`, so that a session nobody holds any more can be collected and ends it. All
state is guarded by one condition; nothing slow and no listener ever runs while it is held.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import traceback
import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from studio.events import DecodedBlock, ErrorReport, Stats, Switch
from studio.live.consumers import Attachment, Gate
from studio.live.engine import Abandoned, Engine, Made, Models, Order, Texts
from studio.live.log import BlockRecord
from studio.live.meter import Meter
from studio.live.outbox import Outbox
from studio.live.ring import Ring
from studio.shapes import VideoShape
from studio.timeline import Segment, Timeline, check_whole, shorten

logger = logging.getLogger(__name__)

# How soon a sleeping generator notices that its session or a consumer was dropped. Those are noticed without a lock,
# because they may be dropped by the garbage collector in the middle of anything.
LOOK = 0.25
PATIENCE = 60.0


class Core:
    """What a session and its thread share.

    Args:
        models: the networks.
        timeline: the prompts by block.
        policy: what a switch does to the cache where neither it nor its segment says so.
        lead: blocks generated ahead of the slowest consumer.
        load_s: seconds that loading took, part of the time to the first frame.
    """

    def __init__(self, models: Models, timeline: Timeline, *, policy: str, lead: int, load_s: float) -> None:
        self.config, self.units = models.config, VideoShape.of(models.config)
        self.models: Any = models
        self.texts: Any = Texts(models.text)
        self.policy, self.load_s = policy, load_s
        self.changed = threading.Condition()
        self.outbox, self.gate, self.ring = Outbox(), Gate(self.units, lead), Ring(lead + 4)
        self.take, self.stops = 0, 0
        self.closed = self.closing = self.dropped = False
        self._thread: threading.Thread | None = None
        self._wanted = self._busy = self._quit = self._ever = False
        self._steps = 0
        self._asked: float | None = None
        self._first_frame_s: float | None = None
        self._announced = "idle"
        self._seat: Attachment | None = None
        self._unread_for_good: set[str] = set()
        self._begin_take()
        self.timeline = timeline
        self.check_units(timeline)
        _ALL.add(self)

    def _begin_take(self) -> None:
        self.begun = 0
        self.latents: list[Tensor] = []
        self.records: list[BlockRecord] = []
        self.meter = Meter()
        self.error: ErrorReport | None = None
        self.cause: BaseException | None = None
        self.next_pull = 0
        self._pending: dict[int, tuple[Switch, float | None]] = {}
        self._latency: float | None = None
        self._stream: Any = None
        self._engine: Engine | None = None
        self._resumed = False
        self.ring.clear()

    # What is going on

    @property
    def made(self) -> int:
        """Blocks finished in this take."""
        return len(self.records)

    @property
    def finished(self) -> bool:
        """Whether every block of a timeline with a length was made."""
        return self.timeline.length is not None and self.made >= self.timeline.length

    @property
    def state(self) -> str:
        """One of `studio.events.STATES`."""
        with self.changed:
            return self._state()

    def _state(self) -> str:
        if self.closed or self.closing:
            return "closed"
        if self.error:
            return "error"
        if self._busy or self._may_begin():
            return "playing" if self.made else "warming"
        if self.finished:
            return "finished"
        if self._wanted:
            return "waiting"
        return "paused" if self._ever else "idle"

    def _may_begin(self) -> bool:
        if self.error or self.finished:
            return False
        return self._steps > 0 or (self._wanted and self.gate.allows(self.made))

    def stats(self) -> Stats:
        """How fast it goes; see `Stats`."""
        with self.changed:
            end = self.units.first_frame(self.made)
            slowest = self.gate.slowest()
            text = self.texts.seconds if self.texts else None
            return Stats(
                generated_fps=self.meter.fps,
                denoise_ms=self.meter.ms("denoise"),
                commit_ms=self.meter.ms("commit"),
                recache_ms=self.meter.ms("recache"),
                vae_ms=self.meter.ms("vae"),
                first_frame_s=self._first_frame_s,
                switch_latency_s=self._latency,
                generated_blocks=self.made,
                generated_frames=end,
                lead_s=0.0 if slowest is None else max(0, end - slowest) / self.units.fps,
                text_ms=None if text is None else 1000 * text,
            )

    def _settle(self) -> bool:
        """Wake who waits, and announce the state where it changed."""
        self.changed.notify_all()
        state = self._state()
        if state == self._announced:
            return False
        self._announced = state
        self.outbox.post("state", state)
        return True

    # What callers ask for

    def check_open(self) -> None:
        """Raise RuntimeError when the session is over."""
        if self.closed or self.closing:
            raise RuntimeError("the session is closed; open a new one with `studio.open`")

    def run(self, *, steps: int = 0) -> None:
        """Generate on and on, or a number of blocks; after an error from the last good block on."""
        with self.changed:
            self.check_open()
            if self.error:
                self.error = self.cause = None
                self._resumed = bool(self.records)
            if steps:
                self._wanted, self._steps = False, self._steps + steps
            else:
                self._wanted = True
            self._ever = True
            self._asked = self._asked or time.perf_counter()
            if not self.finished:
                self._start_thread()
            self._settle()
        self.outbox.deliver()

    def pause(self) -> None:
        """Stop after the current block."""
        with self.changed:
            self.check_open()
            self._wanted, self._steps = False, 0
            self._settle()
        self.outbox.deliver()

    def restart(self, seed: int) -> None:
        """Begin a new take of the same timeline."""
        with self.changed:
            self.check_open()
            self.take += 1
            self._drop_engine()
            self._begin_take()
            self.gate.rewind(self.take)
            self._steps = 0
            if seed != self.timeline.seed:
                self.timeline = self.timeline.with_seed(seed)
                self.outbox.post("timeline", self.timeline)
            self.outbox.post("restart", self.take)
            if self._wanted:
                self._start_thread()
            self._settle()
        self.outbox.deliver()

    def attach(self, block: int | None = None) -> Attachment:
        """Give a consumer a seat at a block, by default the one being made next."""
        with self.changed:
            seat = self.seat_at(self.made if block is None else block)
        self.outbox.deliver()
        return seat

    def seat_at(self, block: int) -> Attachment:
        """As `attach`, for callers who hold the lock and deliver later."""
        self.check_open()
        seat = Attachment(self.units.first_frame(block), self.take, self.wake)
        self.gate.add(seat)
        self._settle()
        return seat

    def place(self, seat: Attachment, block: int) -> None:
        """Move a seat to a block, for callers who hold the lock and deliver later."""
        frame = self.units.first_frame(block)
        if seat.frame != frame:
            seat.frame = frame
            self._settle()

    def own_seat(self) -> Attachment:
        """The seat of the consumer that has no handle."""
        with self.changed:
            if self._seat is None or self._seat.closed:
                self._seat = self.seat_at(self.made)
            seat = self._seat
        self.outbox.deliver()
        return seat

    def wake(self) -> None:
        """Let the generator look again whether it may go on."""
        with self.changed:
            if not self.closed:
                self._settle()
        self.outbox.deliver()

    # Steering

    def check_units(self, timeline: object) -> Timeline:
        """Check that a value is a timeline that counts as the model does."""
        if not isinstance(timeline, Timeline):
            raise ValueError(f"`timeline` must be a studio.Timeline, got {shorten(timeline)}; see Timeline.of(prompt)")
        wants = (self.units.fps, self.units.block)
        if (timeline.fps, timeline.block_latent_frames) != wants:
            raise ValueError(
                f"`timeline` counts {timeline.fps:g} frames/s and {timeline.block_latent_frames} latent frames a "
                f"block, but `{self.config.name}` has {wants[0]:g} and {wants[1]}; set fps and block_latent_frames so"
            )
        return timeline

    def set_timeline(self, timeline: object) -> None:
        """Steer the blocks that have not begun; what has begun stays as it is."""
        timeline = self.check_units(timeline)
        with self.changed:
            self.check_open()
            self._check_past(timeline)
            self._take_over(timeline)
        self.outbox.deliver()

    def _take_over(self, timeline: Timeline) -> None:
        if timeline == self.timeline:
            return
        self.timeline = timeline
        for block, (switch, _) in list(self._pending.items()):
            segment = timeline.starting_at(block)
            if segment is None or segment.prompt != switch.prompt:
                del self._pending[block]
        self.outbox.post("timeline", timeline)
        self._settle()

    def _check_past(self, timeline: Timeline) -> None:
        begun = self.begun
        remedy = f"change block {begun} or a later one, or restart()"
        if timeline.length is not None and timeline.length < begun:
            raise ValueError(f"`length` must be at least the {begun} blocks begun, got {timeline.length}; use {begun}")
        if begun and timeline.seed != self.timeline.seed:
            raise ValueError(f"`seed` cannot change after a block has begun, got {timeline.seed}; use restart(seed)")
        before, after = ([_essence(s) for s in line.segments if s.start < begun] for line in (self.timeline, timeline))
        for old, new in zip(before, after, strict=False):
            if old != new:
                raise ValueError(
                    f"the past cannot be edited: block {old[0]} was made under {shorten(old[1])}, "
                    f"got {shorten(new[1])} from block {new[0]}; {remedy}"
                )
        if len(before) != len(after):
            odd = (before if len(before) > len(after) else after)[min(len(before), len(after))]
            what = "removed" if len(before) > len(after) else "added"
            raise ValueError(
                f"the past cannot be edited: {shorten(odd[1])} was {what} at block {odd[0]}, but {begun} blocks have "
                f"begun; {remedy}"
            )

    def switch(self, segment: Segment, at: int | None) -> Switch:
        """Put another prompt into force at block `at` or at the next one that has not begun."""
        asked = time.perf_counter()
        with self.changed:
            self.check_open()
            block = self._switch_block(at)
            if block and segment.policy is None:
                segment = replace(segment, policy=self.policy)
            timeline = self.timeline.put(replace(segment, start=block))
            frame = self._playhead()
            switch = Switch(
                prompt=segment.prompt,
                policy=segment.policy or self.policy,
                requested_frame=frame,
                requested_block=self.units.block_at(frame),
                effective_block=block,
                effective_frame=self.units.first_frame(block),
            )
            self._take_over(timeline)
            self._pending[block] = (switch, asked if at is None else None)
            self.outbox.post("switch", switch)
        self.outbox.deliver()
        return switch

    def _switch_block(self, at: int | None) -> int:
        block = self.begun if at is None else check_whole(at, "at", 0, 2**62)
        if block < self.begun:
            raise ValueError(
                f"`at` must be a block that has not begun, {self.begun} or later, got {block}; "
                f"use {self.begun}, or leave it out for the next one"
            )
        length = self.timeline.length
        if length is not None and block >= length:
            raise ValueError(
                f"`at` must be before the end of the video, block {length}, got {block}; lengthen it: "
                f"session.timeline = session.timeline.with_length({block + 1}) or more, or None for no end"
            )
        return block

    def _playhead(self) -> int:
        frame = self.gate.furthest()
        return self.units.first_frame(self.made) if frame is None else frame

    # The thread

    def _start_thread(self) -> None:
        self._quit = False
        if self._thread is None:
            self._thread = threading.Thread(target=_work, args=(self,), name="studio-generator", daemon=True)
            self._thread.start()

    @property
    def thread(self) -> threading.Thread | None:
        """The generator's thread, or None."""
        return self._thread

    def await_work(self) -> bool:
        """Sleep until a block may begin.

        Returns:
            False when the thread is to end.
        """
        while True:
            prompt = None
            with self.changed:
                if self._leaving():
                    self._thread = None
                    return False
                self._busy = self._may_begin()
                announced = self._settle()
                if not self._busy:
                    prompt = self._unread()
                    if prompt is None and not announced:
                        self.changed.wait(LOOK)
                busy = self._busy
            self.outbox.deliver()
            if busy:
                return True
            if prompt is not None:
                self._read_ahead(prompt)

    def _leaving(self) -> bool:
        return self.closing or self.dropped or self._quit

    def _unread(self) -> str | None:
        """A prompt that comes next and was not encoded yet: waiting time is well spent on it."""
        if not self.made:
            return None
        for segment in self.timeline.segments[self.timeline.index_at(self.begun) :][:2]:
            if segment.prompt not in self.texts and segment.prompt not in self._unread_for_good:
                return segment.prompt
        return None

    def _read_ahead(self, prompt: str) -> None:
        try:
            self.texts(prompt)
        except Exception:
            # The block that needs it will say so; until then the prompt may still be replaced.
            logger.debug("could not encode %s ahead of its block", shorten(prompt), exc_info=True)
            self._unread_for_good.add(prompt)

    def work(self) -> None:
        """Make one block."""
        engine = None
        try:
            engine = self._ready()
            made = engine.next()
            if made is not None:
                self._publish(made, engine)
        except Abandoned:
            pass
        except Exception as error:
            self._fail(error, engine)
        finally:
            with self.changed:
                self._busy = False

    def _ready(self) -> Engine:
        with self.changed:
            if self._engine is not None:
                return self._engine
            take, timeline, latents = self.take, self.timeline, list(self.latents)
            last, stream = (self.records[-1] if self.records else None), self._stream
        engine = Engine(
            self.models,
            self.texts,
            seed=timeline.seed,
            order=lambda: self._order(take),
            check=lambda: self._check(take),
            blocks=timeline.length,
        )
        if last is not None:
            engine.rebuild(latents, last.prompt, timeline.index_at(last.block), stream)
        with self.changed:
            self._check(take)
            self._engine = engine
            self.meter.cool()
        return engine

    def _check(self, take: int) -> None:
        if self.closing or self.dropped or take != self.take:
            raise Abandoned

    def _order(self, take: int) -> Order | None:
        with self.changed:
            self._check(take)
            block = self.begun
            if self.timeline.length is not None and block >= self.timeline.length:
                return None
            number = self.timeline.index_at(block)
            segment = self.timeline.segments[number]
            switched = block > 0 and segment.start == block
            self.begun = block + 1
            self._order_now = Order(
                prompt=segment.prompt,
                number=number,
                policy=(segment.policy or self.policy) if switched else None,  # type: ignore[arg-type]
                sink_policy=segment.sink_policy if switched else None,  # type: ignore[arg-type]
            )
            return self._order_now

    def _publish(self, made: Made, engine: Engine) -> None:
        with self.changed:
            if engine is not self._engine or self.closing:
                return
            order, index, now = self._order_now, made.block.index, time.perf_counter()
            switch, asked = self._pending.pop(index, (None, None))
            if switch is not None and asked is not None:
                self._latency = now - asked
                switch = replace(switch, latency_s=self._latency)
                self.outbox.post("switch", switch)
            first = self.units.first_frame(index)
            self.records.append(self._record(order, index, first, switch))
            self.latents.append(made.block.latents)
            self._stream, self._resumed = engine.stream, False
            block = DecodedBlock(
                index=index,
                first_frame=first,
                frames=made.frames,
                prompt=order.prompt,
                segment=order.number,
                switch=switch or self._planned(order, index, first),
                take=self.take,
            )
            self.ring.add(block)
            self.meter.add(len(made.frames), made.seconds["total"], made.seconds)
            if self._first_frame_s is None and self._asked is not None:
                self._first_frame_s = self.load_s + now - self._asked
            self._steps = 0 if self.finished else max(0, self._steps - 1)
            self._busy = False
            self.outbox.post("block", block)
            self.outbox.post("stats", self.stats())
            self._settle()
        self.outbox.deliver()

    def _record(self, order: Order, index: int, first: int, switch: Switch | None) -> BlockRecord:
        return BlockRecord(
            take=self.take,
            block=index,
            first_frame=first,
            prompt=order.prompt,
            seed=self.timeline.seed,
            policy=order.policy,
            sink_policy=order.sink_policy,
            requested_frame=None if switch is None else switch.requested_frame,
            resumed=self._resumed,
        )

    def _planned(self, order: Order, index: int, first: int) -> Switch | None:
        if order.policy is None:
            return None
        return Switch(
            prompt=order.prompt,
            policy=order.policy,
            requested_frame=first,
            requested_block=index,
            effective_block=index,
            effective_frame=first,
        )

    def _fail(self, error: Exception, engine: Engine | None) -> None:
        with self.changed:
            if self.closing or (engine is not None and engine is not self._engine):
                return
            text = "".join(traceback.format_exception(error))
            detail = str(error).strip().splitlines()
            message = f"{type(error).__name__}: {detail[0]}" if detail else type(error).__name__
            traceback.clear_frames(error.__traceback__)  # they would keep the cache alive
            self.error, self.cause = ErrorReport(message=shorten_line(message), traceback=text), error
            self._wanted, self._steps, self._busy = False, 0, False
            self.begun = self.made
            self._drop_engine()
            self.outbox.post("error", self.error)
            self._settle()
        self.outbox.deliver()
        logger.warning("the generator stopped: %s", message)

    def _drop_engine(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    # The end

    def stop(self) -> None:
        """End the thread after the current block; everything made is kept, and `run` goes on from there."""
        with self.changed:
            self._wanted, self._steps, self._quit = False, 0, True
            self.stops += 1
            thread = self._thread
            self.changed.notify_all()
        self._join(thread, PATIENCE)
        with self.changed:
            if not self.closed:
                self._settle()
        self.outbox.deliver()

    def close(self, patience: float = PATIENCE) -> None:
        """End the thread before its next step and let go of everything."""
        with self.changed:
            if self.closed:
                return
            self.closing = True
            self._settle()
            thread = self._thread
        self._join(thread, patience)
        with self.changed:
            if self.closed:
                return
            self.closed, self._thread = True, None
            self.release()
            self.changed.notify_all()
        self.outbox.deliver()
        self.outbox.clear()

    def release(self) -> None:
        """Let go of cache, latents, frames and consumers."""
        self._drop_engine()
        self.gate.clear()
        self.ring.clear()
        self.latents.clear()
        self.cause = self._stream = None
        self.models = self.texts = None

    def _join(self, thread: threading.Thread | None, patience: float) -> None:
        # A listener may close the session from the generator's own thread, which cannot wait for itself.
        if thread is not None and thread is not threading.current_thread():
            thread.join(patience)


def shorten_line(text: str, limit: int = 300) -> str:
    """Cut a line that is too long to read."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _work(core: Core) -> None:
    # Asking for the number of threads makes this thread take over the process's setting at once. Without it the first
    # products may be split another way, and a take that went on in another thread would differ in the last bits.
    torch.get_num_threads()
    while core.await_work():
        core.work()
    if core.dropped or core.closing:
        with core.changed:
            core.release()


def _essence(segment: Segment) -> tuple[int, str, str | None, str | None]:
    """What of a segment decides the picture; its colour and its note may be edited at any time."""
    return segment.start, segment.prompt, segment.policy, segment.sink_policy


_ALL: weakref.WeakSet[Core] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # A daemon thread inside a kernel while the interpreter goes down would crash it.
    for core in list(_ALL):
        core.close(patience=10.0)
