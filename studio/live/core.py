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
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from studio.events import DecodedBlock, ErrorReport, Stats, Switch
from studio.live.archive import Archive, Packed
from studio.live.blockreading import BlockReading
from studio.live.consumers import Attachment, Gate
from studio.live.device import DeviceMeter
from studio.live.engine import Abandoned, Engine, Made, Models, Order, Texts
from studio.live.judging import Judge
from studio.live.log import Origin, TakeLog
from studio.live.origin import origin_of, seen_again
from studio.live.outbox import Outbox
from studio.live.rereading import reread, reread_block, switches_of
from studio.live.steering import check_units, switch_block
from studio.live.take import Take
from studio.live.turns import short_turns
from studio.live.vault import Vault
from studio.live.watching import Observer, Past
from studio.probes import Point
from studio.shapes import VideoShape
from studio.timeline import Operation, Segment, Timeline, shorten
from studio.timeline.operations import Put
from studio.timeline.past import check_past

logger = logging.getLogger(__name__)

# How soon a sleeping generator notices that its session or a consumer was dropped. Those are noticed without a lock,
# because they may be dropped by the garbage collector in the middle of anything.
LOOK = 0.25
PATIENCE = 60.0
LINE = 300


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
        check_units(timeline, self.units, self.config.name)
        self.models: Any = models
        self.texts: Any = Texts(models.text)
        self.policy, self.load_s = policy, load_s
        self.changed = threading.Condition()
        self.outbox, self.gate = Outbox(), Gate(self.units, lead)
        self.vault = Vault()
        self.archive = Archive(self.vault)
        self.take = Take(0, lead + 4, timeline, self.vault, self.archive)
        self.takes: dict[int, Take] = {0: self.take}
        self._highest = 0
        self.origin: Origin | None = None
        self.error: ErrorReport | None = None
        self.cause: BaseException | None = None
        self.observer: Observer | None = None
        self.judge: Judge | None = None
        self.stops = 0
        self.closed = self.closing = self.dropped = False
        self._thread: threading.Thread | None = None
        self._wanted = self._busy = self._quit = self._ever = False
        self._steps = 0
        self._asked: float | None = None
        self._first_frame_s: float | None = None
        self._announced = "idle"
        self._seat: Attachment | None = None
        self._unreadable: set[str] = set()
        self._begun_at = 0.0
        self._device: DeviceMeter | None = DeviceMeter(next(models.dit.parameters()).device)
        _ALL.add(self)

    # What is going on

    @property
    def timeline(self) -> Timeline:
        """The prompts of the current take."""
        return self.take.history.timeline

    @property
    def finished(self) -> bool:
        """Whether every block of a timeline with a length was made."""
        return self.timeline.length is not None and self.take.made >= self.timeline.length

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
            return "playing" if self.take.made else "warming"
        if self.finished:
            return "finished"
        if self._wanted:
            return "waiting"
        return "paused" if self._ever else "idle"

    def _may_begin(self) -> bool:
        if self.error or self.finished:
            return False
        # The block that a live switch begins with need not wait for the playhead: it is what the viewer waits for.
        ahead = int(self.take.hurried == self.take.made)
        return self._steps > 0 or (self._wanted and self.gate.allows(self.take.made - ahead))

    def stats(self) -> Stats:
        """How fast it goes; see `Stats`."""
        with self.changed:
            meter, end = self.take.meter, self.units.first_frame(self.take.made)
            slowest = self.gate.slowest()
            text = self.texts.seconds if self.texts else None
            return Stats(
                generated_fps=meter.fps,
                denoise_ms=meter.ms("denoise"),
                commit_ms=meter.ms("commit"),
                recache_ms=meter.ms("recache"),
                vae_ms=meter.ms("vae"),
                first_frame_s=self._first_frame_s,
                switch_latency_s=self.take.latency,
                generated_blocks=self.take.made,
                generated_frames=end,
                lead_s=0.0 if slowest is None else max(0, end - slowest) / self.units.fps,
                text_ms=None if text is None else 1000 * text,
                played_fps=self.gate.rate(time.perf_counter()),
                next_frame_s=self._next_frame(),
                dropped_frames=self.gate.dropped(),
                device_state="" if self._device is None else self._device.describe(),
            )

    def _next_frame(self) -> float | None:
        """Seconds until the block under way is expected, by the time that recent ones took."""
        usual = self.take.meter.ms("total")
        if not self._busy or usual is None:
            return None
        return max(0.0, usual / 1000 - (time.perf_counter() - self._begun_at))

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
            self.error = self.cause = None
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
            timeline = self.timeline.with_seed(seed)
            if not self.take.made:
                self.take.leave(self.takes.values())
                self.take.clear()
                del self.takes[self.take.number]
            self._turn_to(self.take.fork(self.new_number(), 0, timeline, self.new_name()))
            self.take.parent = self.take.origin = None
            self.announce_takes()
        self.outbox.deliver()

    # Takes

    def new_number(self) -> int:
        """The number of the next take; that of a removed one is never given again, as what is kept goes by it."""
        return self._highest + 1

    def new_name(self) -> str:
        """A name for the next take that no other has: "take N", N being one more than its number or the first free."""
        number, names = self.new_number() + 1, {take.name for take in self.takes.values()}
        while (name := f"take {number}") in names:
            number += 1
        return name

    def turn_to(self, take: Take) -> None:
        """Make another take the current one; what it has is shown from its fork on."""
        with self.changed:
            self.turn(take)
        self.outbox.deliver()

    def turn(self, take: Take) -> None:
        """As `turn_to`, for callers who hold the lock and deliver later."""
        self.check_open()
        self._turn_to(take)
        self.announce_takes()

    def _turn_to(self, take: Take) -> None:
        before, timeline = self.take, self.timeline
        if take is before:
            return
        before.rest()
        self.takes[take.number] = self.take = take
        self._highest = max(self._highest, take.number)
        self.gate.rewind(take.number, self.units.first_frame(take.forked_at))
        self.error = self.cause = None
        self._steps = 0
        if self.timeline != timeline:
            self.outbox.post("timeline", self.timeline)
        self.outbox.post("restart", take.number)
        if self._wanted:
            self._start_thread()
        self._settle()

    def announce_takes(self) -> None:
        """Queue what there is to know of all takes, for callers who hold the lock and deliver later."""
        self.outbox.post("takes", tuple(take.info(take is self.take) for take in self.takes.values()))

    def describe(self) -> Origin:
        """What makes the takes; computed once, but for adapters, which come and go."""
        if self.origin is None:
            self.check_open()
            self.origin = origin_of(self.models)
        elif (models := self.models) is not None:
            self.origin = seen_again(self.origin, models)
        return self.origin

    def attach(self) -> Attachment:
        """Give a consumer a seat at the block being made next."""
        with self.changed:
            seat = self.seat_at(self.take.made)
        self.outbox.deliver()
        return seat

    def seat_at(self, block: int, *, pulls: bool = False) -> Attachment:
        """Give a consumer a seat, for callers who hold the lock and deliver later."""
        self.check_open()
        seat = Attachment(self.units.first_frame(block), self.take.number, self.wake, pulls=pulls)
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
                self._seat = self.seat_at(self.take.made)
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

    def set_timeline(self, timeline: object) -> None:
        """Steer the blocks that have not begun; what has begun stays as it is."""
        timeline = check_units(timeline, self.units, self.config.name)
        with self.changed:
            self.check_open()
            check_past(self.timeline, timeline, self.take.begun)
            self.take_over(timeline)
        self.outbox.deliver()

    def take_over(
        self, timeline: Timeline, operation: Operation | None = None, go: Callable[[], Timeline] | None = None
    ) -> None:
        """Put a timeline into force, for callers who hold the lock, have checked the past and deliver later.

        Args:
            timeline: the timeline.
            operation: the edit that led to it, for the history.
            go: a step of the history that gives it, instead of a new one.
        """
        if timeline == self.timeline:
            return
        if go is None:
            self.take.history.record(operation, timeline)
        else:
            go()
        self.take.forget_replaced(timeline)
        self.outbox.post("timeline", timeline)
        self._settle()

    def switch(self, segment: Segment, at: int | None) -> Switch:
        """Put another prompt into force at block `at`, or at the first one that can still be made under it."""
        asked = time.perf_counter()
        with self.changed:
            self.check_open()
            if at is None:
                self.take.revoke()
            block = switch_block(at, self.take.begun, self.timeline.length)
            policy = segment.policy or self.policy
            # The policy goes into the timeline, so that it says what happened even if the session's changes later.
            segment = replace(segment, start=block, policy=policy if block else segment.policy)
            frame = self._playhead()
            switch = Switch(
                prompt=segment.prompt,
                policy=policy,
                requested_frame=frame,
                requested_block=self.units.block_at(frame),
                effective_block=block,
                effective_frame=self.units.first_frame(block),
            )
            self.take_over(self.timeline.put(segment), Put(segment))
            self.take.expect(switch, asked if at is None else None)
            if at is None:
                self.take.hurried = block
            self.outbox.post("switch", switch)
        self.outbox.deliver()
        return switch

    def _playhead(self) -> int:
        frame = self.gate.furthest()
        return self.units.first_frame(self.take.made) if frame is None else frame

    # The thread

    def _start_thread(self) -> None:
        self._quit = False
        if self._thread is None:
            self._thread = threading.Thread(target=_work, args=(self,), name="studio-generator", daemon=True)
            self._thread.start()

    def await_work(self) -> bool:
        """Sleep until a block may begin.

        Returns:
            False when the thread is to end.
        """
        while True:
            prompt = None
            with self.changed:
                if self.closing or self.dropped or self._quit:
                    self._thread = None
                    return False
                self._busy = busy = self._may_begin()
                self._begun_at = time.perf_counter()
                announced = self._settle()
                if not busy:
                    prompt = self._unread()
                    if prompt is None and not announced:
                        self.changed.wait(LOOK)
            self.outbox.deliver()
            if busy:
                return True
            if prompt is not None:
                self._read_ahead(prompt)

    def _unread(self) -> str | None:
        """A prompt that comes next and was not encoded yet: waiting time is well spent on it."""
        if not self.take.made:
            return None
        for segment in self.timeline.segments[self.timeline.index_at(self.take.begun) :][:2]:
            if segment.prompt not in self.texts and segment.prompt not in self._unreadable:
                return segment.prompt
        return None

    def _read_ahead(self, prompt: str) -> None:
        try:
            self.texts(prompt)
        except Exception:
            # The block that needs it will say so; until then the prompt may still be replaced.
            logger.debug("could not encode %s ahead of its block", shorten(prompt), exc_info=True)
            self._unreadable.add(prompt)

    def work(self) -> None:
        """Make one block."""
        with self.changed:
            take, rests = self.take, self.take.rests
        try:
            with short_turns():
                engine = self._ready(take, rests)
                made = engine.next()
            if made is not None:
                self._publish(made, engine, take, rests)
        except Abandoned:
            pass
        except Exception as error:
            self._fail(error, take, rests)
        finally:
            with self.changed:
                self._busy = False

    def _ready(self, take: Take, rests: int) -> Engine:
        """The take's engine, built at its first block and rebuilt after an error."""
        with self.changed:
            self._check(take, rests)
            if take.engine is not None:
                return take.engine
            timeline, latents = self.timeline, take.latents
            orders = [record.order for record in take.records]
        engine = Engine(
            self.models,
            self.texts,
            seed=timeline.seed,
            order=lambda: self._order(take, rests, timeline.seed),
            check=lambda: self._check(take, rests),
            revoked=lambda last: self._revoked(take, last),
            blocks=timeline.length,
            take=take.number,
            observer=lambda: self.observer,
        )
        if orders:
            engine.rebuild(latents, orders, take.stream)
        with self.changed:
            self._check(take, rests)
            take.engine, take.resumed = engine, bool(orders)
            take.meter.cool()
        return engine

    def _left(self, take: Take, rests: int) -> bool:
        """Whether another take was turned to meanwhile, even if this one is the current one again."""
        return take is not self.take or take.rests != rests

    def _check(self, take: Take, rests: int) -> None:
        if self.closing or self.dropped or self._left(take, rests):
            raise Abandoned

    def _order(self, take: Take, rests: int, seed: int) -> Order | None:
        with self.changed:
            self._check(take, rests)
            if seed != self.timeline.seed:  # edited before the first block, after the engine was built
                take.engine = None
                raise Abandoned
            self._begun_at = time.perf_counter()
            return take.begin(self.timeline, self.policy)

    def _revoked(self, take: Take, last: bool) -> bool:
        with self.changed:
            return take.stepped(last)

    def _publish(self, made: Made, engine: Engine, take: Take, rests: int) -> None:
        kept = take.keep(made.block.latents)
        with self.changed:
            if self._left(take, rests) or self.closing:
                return
            now = time.perf_counter()
            block, switched = take.add(made, kept, engine, self.units, self.timeline.seed, now)
            if self._first_frame_s is None and self._asked is not None:
                self._first_frame_s = self.load_s + now - self._asked
            self._steps = 0 if self.finished else max(0, self._steps - 1)
            self._busy = False
            if switched:
                self.outbox.post("switch", block.switch)
            self.outbox.post("block", block)
            self.outbox.post("stats", self.stats())
            self._settle()
        self.outbox.deliver()

    def _fail(self, error: Exception, take: Take, rests: int) -> None:
        with self.changed:
            if self._left(take, rests) or self.closing:
                return
            text = "".join(traceback.format_exception(error))
            traceback.clear_frames(error.__traceback__)  # they would keep the cache alive
            self.error, self.cause = ErrorReport(message=_headline(error), traceback=text), error
            self._wanted, self._steps, self._busy = False, 0, False
            take.fail()
            self.outbox.post("error", self.error)
            self._settle()
        self.outbox.deliver()
        logger.warning("the generator stopped: %s", _headline(error))

    # The end

    def stop(self) -> None:
        """End the thread after the current block; everything made is kept, and `run` goes on from there."""
        with self.changed:
            self._wanted, self._steps, self._quit = False, 0, True
            self.stops += 1
            thread = self._thread
            self.changed.notify_all()
        _join(thread, PATIENCE)
        self.wake()

    def close(self, patience: float = PATIENCE) -> None:
        """End the thread before its next step and let go of everything."""
        with self.changed:
            if self.closed:
                return
            self.closing = True
            self._settle()
            thread = self._thread
        _join(thread, patience)
        with self.changed:
            if self.closed:
                return
            self.closed, self._thread = True, None
            self.release()
            self.changed.notify_all()
        self.outbox.finish()

    def watch(self, samples: int) -> Observer:
        """Whoever hears of the blocks: the one that does already, else a new one."""
        with self.changed:
            self.check_open()
            observer = self.observer
            if observer is None or observer.over:
                observer = self.observer = Observer(
                    samples=samples,
                    gone=self._unwatch,
                    past=self._past,
                    judge=self.judge,
                    current=lambda: self.take.number,
                    maker=self._maker,
                )
            elif observer.samples != samples:
                raise ValueError(f"`samples` is {observer.samples} already, got {samples}; close the other watch first")
            return observer

    def reread(self, residue: bool) -> None:
        """Read what was made of the current take while nobody watched, for the current observer."""
        self._read_again(lambda **given: reread(**given), residue=residue)

    def look_back(self, block: int, point: Point | None) -> BlockReading:
        """Read one block that was made already, and where a point of it looks, for the current observer."""
        return self._read_again(lambda **given: [reread_block(**given, at=block)], point=point)[-1]

    def _read_again(
        self, read: Callable[..., Iterable[BlockReading]], *, residue: bool = False, point: Point | None = None
    ) -> list[BlockReading]:
        """Read the current take with an observer of its own, and hand the current one what it finds."""
        with self.changed:
            self.check_open()
            take, wanted, models = self.take, self.observer, self.models
            log, latents = TakeLog(take.records, self.describe, take.name), take.latents
        if not len(log):
            raise ValueError("there is nothing to read yet; play first")

        def check() -> None:
            if self.closed or self.closing or self.take is not take:
                raise Abandoned

        reader = Observer(gone=lambda _: None, judge=self.judge)
        reader.residue = residue
        reader.look(point)
        holder = reader.hold()
        found = []
        try:
            for reading in read(
                log=log, models=models, texts=Texts(models.text), latents=latents,
                block=lambda index: self._picture(take, index), take=take.number, observer=reader, check=check,
            ):  # fmt: skip
                found = [reading]
                if wanted is not None:
                    wanted.adopt(reading)
        except Abandoned:
            raise RuntimeError("the take was left while it was being read; choose it again") from None
        finally:
            reader.release(holder)
        return found

    @staticmethod
    def _picture(take: Take, index: int) -> DecodedBlock | None:
        found = take.block(index)
        return found.get() if isinstance(found, Packed) else found

    def _past(self) -> Past:
        """What was made of the current take, for who begins to look."""
        take = self.take
        text = self.texts(take.records[-1].order.text) if take.records else None
        return Past(
            latents=take.latents,
            prompts={r.segment: r.prompt for r in take.records},
            text=text,
            switches=switches_of(take.records),
        )

    def _maker(self, take: int, block: int) -> int:
        """Number of the take that made a block of one, or will make it; needs no lock."""
        found = self.takes.get(take)
        records = [] if found is None else found.records
        return records[block].take if block < len(records) else take

    def _unwatch(self, observer: Observer) -> None:
        if self.observer is observer:
            self.observer = None

    def release(self) -> None:
        """Let go of the networks, the cache, latents, frames and consumers."""
        if self.observer is not None:
            self.observer.stop()
        if self.models is not None and any(take.made for take in self.takes.values()):
            # The logs outlive the networks.
            self.origin = origin_of(self.models) if self.origin is None else seen_again(self.origin, self.models)
        for take in [self.take, *self.takes.values()]:
            take.clear()
        self.archive.close()
        self.vault.close()
        self.gate.clear()
        self.cause = self.models = self.texts = self._device = None


def _headline(error: Exception) -> str:
    """One line that says what went wrong."""
    detail = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {detail[0]}" if detail else type(error).__name__
    return line if len(line) <= LINE else line[: LINE - 1] + "…"


def _join(thread: threading.Thread | None, patience: float) -> None:
    # A listener may close the session from the generator's own thread, which cannot wait for itself.
    if thread is not None and thread is not threading.current_thread():
        thread.join(patience)


def _work(core: Core) -> None:
    # Asking for the number of threads makes this thread take over the process's setting at once. Without it the first
    # products may be split another way, and a take that went on in another thread would differ in the last bits.
    torch.get_num_threads()
    while core.await_work():
        core.work()
    if core.dropped or core.closing:
        with core.changed:
            core.release()


_ALL: weakref.WeakSet[Core] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # A daemon thread inside a kernel while the interpreter goes down would crash it.
    for core in list(_ALL):
        core.close(patience=10.0)
