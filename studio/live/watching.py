"""Watching a session's cache: who wrote each slot, who looks at it, and what should not be, block by block.

The engine tells an `Observer` of each block's plan and of the finished block; the observer hangs probes on the network
meanwhile. Nobody watching means no observer, no hooks and no work.
"""

from __future__ import annotations

import logging
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from studio.live.blockreading import BlockReading, check_point
from studio.live.judging import Judge
from studio.live.probed import EngineLike, Past, Probed
from studio.probes import CacheFault, CacheWarning, Point
from studio.probes.tracing import Heard
from studio.sampler import Block, BlockPlan

__all__ = ["BlockReading", "Observer", "Past", "Watching"]

logger = logging.getLogger(__name__)

BUDGET = 64 * 1024 * 1024
SAMPLES = 16
FAULTS = 1000

Reader = Callable[["BlockReading"], None]


def _itself(take: int, block: int) -> int:
    return take


class Observer:
    """Hears of every block of a session from its engine, on the generator's thread.

    Args:
        samples: Queries sampled of each latent frame.
        budget: Bytes that the kept readings may take; those of other takes go first, then the oldest.
        gone: Called when nobody watches any more.
        past: Tells what was made of the take so far.
        judge: Tells how well frames show a prompt; `None` for nobody.
        current: Tells the number of the current take, whose readings alone are given; `None` for whichever take the
            engine makes.
        maker: Tells which take made a block of one, by number of take and block: what was read of it holds for every
            take that has it. `None` where no take forks.

    Attributes:
        past: As above.
        residue: Whether the residue is measured; see `ResidueFollower` for what that costs.
        trouble: Why watching, or measuring the residue, ended by itself; `None` while all is well.
    """

    def __init__(
        self,
        *,
        samples: int = SAMPLES,
        budget: int = BUDGET,
        gone: Callable[[Observer], None],
        past: Callable[[], Past] = Past,
        judge: Judge | None = None,
        current: Callable[[], int] | None = None,
        maker: Callable[[int, int], int] = _itself,
    ) -> None:
        self.samples, self._budget, self._gone = samples, budget, gone
        self._current, self._maker = current, maker
        self.past, self._judge, self.residue = past, judge, False
        self._lock = threading.RLock()
        # Readings and faults are kept under the take that made their block.
        self._readings: list[BlockReading] = []
        self._bytes = 0
        self._readers: dict[int, Reader] = {}
        # A cache that is broken for good has a fault at every block: the oldest go.
        self._faults: deque[tuple[int, CacheWarning]] = deque(maxlen=FAULTS)
        self._point: Point | None = None
        self._probed: Probed | None = None
        self._heard: tuple[int, dict[int, Heard]] | None = None
        self._alarms: dict[int, Callable[[str], None]] = {}
        self.trouble: str | None = None
        self._numbers = 0
        self._holders: set[int] = set()
        self._over = False

    # On the generator's thread

    def begin(self, engine: EngineLike, entry: BlockPlan, prompt: str) -> None:
        """A block is about to begin, before its switch touches the cache."""
        with self._guard(), self._lock:
            if self._over:
                return
            self._on(engine).begin(entry, prompt, self._point, self.residue)

    def end(self, engine: EngineLike, block: Block, frames: np.ndarray) -> None:
        """A block was committed and decoded."""
        with self._guard():
            with self._lock:
                probed = self._probed
                # Whoever came in the middle of a block reads from the next one on.
                if self._over or probed is None or probed.cache is not engine.cache or not probed.begun:
                    return
                reading = probed.end(block, frames)
                if not self._is_current(reading.take):
                    return
                self._keep(reading)
                readers = list(self._readers.values())
            for reader in readers:
                reader(reading)

    def prepare(self, engine: EngineLike, number: int, prompt: str) -> None:
        """A block is about to be put back into the cache, without being made: only how it is written is heard."""
        with self._guard(), self._lock:
            if self._over:
                return
            self._on(engine).expect(number, prompt)

    def _on(self, engine: EngineLike) -> Probed:
        """The probes of an engine's cache, made anew where they hear another one."""
        if self._probed is not None and self._probed.cache is engine.cache:
            return self._probed
        if self._probed is not None:
            self._heard = self._probed.take, self._probed.tracer.heard
            self._probed.close()
        tell = partial(self._tell, engine.take)
        self._probed = Probed(engine, self.samples, tell, self.past, self._judge, self)
        # What was heard of the same take still holds: its slots were made again as they were.
        if self._heard is not None and self._heard[0] == engine.take and engine.cache.end > 0:
            self._probed.tracer.heard = dict(self._heard[1])
        return self._probed

    def _is_current(self, take: int) -> bool:
        # Asked anew each time: the take changes under a lock that this observer must never wait for.
        return self._current is None or self._current() == take

    def _own(self) -> list[BlockReading]:
        """What is kept of the current take, old to new, as it is kept."""
        if self._current is None:
            found = list(self._readings)
        else:
            take = self._current()
            found = [each for each in self._readings if self._maker(take, each.block) == each.take]
        return sorted(found, key=lambda each: each.block)

    def _remove(self, reading: BlockReading) -> None:
        self._readings = [each for each in self._readings if each is not reading]
        self._bytes -= reading.nbytes

    def _keep(self, reading: BlockReading) -> None:
        reading = replace(reading, take=self._maker(reading.take, reading.block))
        # A block that was left before it was announced is made once more when its take goes on.
        for again in [each for each in self._readings if (each.take, each.block) == (reading.take, reading.block)]:
            self._remove(again)
        self._readings.append(reading)
        self._bytes += reading.nbytes
        if self._bytes <= self._budget:
            return
        own = self._own()
        mine, held = {id(each) for each in own}, {slot.frame for each in own[-1:] for slot in each.slots}

        def worth(each: BlockReading) -> int:
            # What other takes have goes first, and last of all whose pictures the cache's own slots need.
            return 0 if id(each) not in mine else 2 if held & set(each.own) else 1

        for each in sorted(self._readings, key=worth):
            if self._bytes > self._budget and each is not reading:
                self._remove(each)

    def _tell(self, take: int, fault: CacheWarning) -> None:
        with self._lock:
            self._faults.append((self._maker(take, fault.block), fault))
        with suppress(CacheFault):  # a filter that turns warnings into errors must not end the video
            warnings.warn(fault.message, CacheFault, stacklevel=2)

    def _guard(self) -> _Guard:
        return _Guard(self.lose)

    def lose(self, error: Exception) -> None:
        """What looks on must never stop what it looks at: it is told, and nothing is read any more."""
        logger.warning("the cache is no longer watched: %s", _said(error), exc_info=error)
        self.stop(f"the cache is no longer watched: {_said(error)}")

    def lose_residue(self, error: Exception) -> None:
        """The residue cannot be measured any more; everything else is still read."""
        logger.warning("the residue is no longer measured: %s", _said(error), exc_info=error)
        self.residue = False
        self._alarm(f"the residue is no longer measured: {_said(error)}")

    def _alarm(self, trouble: str) -> None:
        with self._lock:
            self.trouble = trouble
            alarms = list(self._alarms.values())
        for alarm in alarms:
            try:
                alarm(trouble)
            except Exception:
                logger.exception("whoever was told of the trouble failed")

    # For those who watch

    def hold(self) -> int:
        """Count somebody in; returns their number.

        Raises:
            RuntimeError: If nobody watches any more, and the session has let go.
        """
        with self._lock:
            if self._over:
                raise RuntimeError("this observer is over; call `session.watch()` again")
            self._numbers += 1
            self._holders.add(self._numbers)
            return self._numbers

    def release(self, holder: int) -> None:
        """Count somebody out; the last one ends it."""
        with self._lock:
            self._holders.discard(holder)
            if self._holders:
                return
        self.stop()

    def stop(self, trouble: str | None = None) -> None:
        """Take the probes off the network.

        Args:
            trouble: Why, where nobody asked for it.
        """
        with self._lock:
            if self._over:
                return
            self._over = True
            probed, self._probed = self._probed, None
            self._readers.clear()
        if probed is not None:
            probed.close()
        self._gone(self)
        if trouble is not None:
            self._alarm(trouble)

    @property
    def over(self) -> bool:
        """Whether nothing will be read any more."""
        return self._over

    @property
    def readings(self) -> tuple[BlockReading, ...]:
        """The kept readings of the current take, old to new."""
        with self._lock:
            own = self._own()
            if self._current is None:
                return tuple(own)
            take = self._current()
            return tuple(each if each.take == take else replace(each, take=take) for each in own)

    @property
    def faults(self) -> tuple[CacheWarning, ...]:
        """The faults of the current take so far; of very many the newest."""
        with self._lock:
            if self._current is None:
                return tuple(fault for _, fault in self._faults)
            take = self._current()
            return tuple(fault for of, fault in self._faults if self._maker(take, fault.block) == of)

    def adopt(self, reading: BlockReading) -> None:
        """Take in a reading that was made elsewhere, of a block of this take.

        Args:
            reading: The reading. Of a block that was read already only what is new counts: a point, which takes the
                place of the one before, and the residue where it was not measured. Of another take than the current
                one nothing counts.
        """
        with self._lock:
            if self._over or not self._is_current(reading.take):
                return
            held = next((each for each in self._own() if each.block == reading.block), None)
            if held is not None:
                pointed = reading.gaze is not None and held.point != reading.point
                if not pointed and (held.residues or not reading.residues):
                    return
                self._remove(held)
                reading = replace(
                    replace(held, take=reading.take),
                    residues=held.residues or reading.residues,
                    **({name: getattr(reading, name) for name in ("point", "gaze", "gazes")} if pointed else {}),
                )
            else:
                of = self._maker(reading.take, reading.block)
                self._faults.extend((of, fault) for fault in reading.warnings)
            self._keep(reading)
            readers = list(self._readers.values())
        for reader in readers:
            reader(reading)

    def inherit(self, other: Observer, take: int) -> None:
        """Know what another observer heard of how the slots were written that a fork of its engine begins with."""
        if other._probed is not None:
            self._heard = take, other._probed.tracer.heard

    def mend(self) -> None:
        """Begin anew with the next block, after something failed."""
        with self._lock:
            self.trouble = None
            probed, self._probed = self._probed, None
            if probed is not None:
                self._heard = probed.take, probed.tracer.heard
                probed.close()

    def look(self, point: Point | None) -> None:
        """Read where a point looks from the next block on; `None` for no point."""
        with self._lock:
            self._point = point

    def subscribe(self, reader: Reader) -> Callable[[], None]:
        """Hand each new reading to a reader until the returned function is called."""
        with self._lock:
            self._numbers += 1
            number = self._numbers
            self._readers[number] = reader
        return lambda: self._forget(number)

    def warn(self, alarm: Callable[[str], None]) -> Callable[[], None]:
        """Tell somebody when watching or measuring ends by itself, until the returned function is called."""
        with self._lock:
            self._numbers += 1
            number = self._numbers
            self._alarms[number] = alarm
        return lambda: self._forget(number)

    def _forget(self, number: int) -> None:
        with self._lock:
            self._readers.pop(number, None)
            self._alarms.pop(number, None)


class Watching:
    """A hold on a watched session; see `Session.watch`. Drop or close every hold, and watching ends.

    Args:
        observer: What hears of the blocks.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._end = weakref.finalize(self, observer.release, observer.hold())
        self._end.atexit = False

    def __repr__(self) -> str:
        count, faults = len(self.readings), len(self.warnings)
        state = f"ended: {self.trouble}" if self.trouble else f"{faults} warnings"
        return f"<Watching: {count} blocks read, {state}>"

    @property
    def readings(self) -> tuple[BlockReading, ...]:
        """The kept readings of the current take, old to new; the oldest go when they take too much memory."""
        return self._observer.readings

    @property
    def latest(self) -> BlockReading | None:
        """The last finished block's reading."""
        readings = self._observer.readings
        return readings[-1] if readings else None

    @property
    def warnings(self) -> tuple[CacheWarning, ...]:
        """The faults of the current take so far; of very many the newest."""
        return self._observer.faults

    @property
    def trouble(self) -> str | None:
        """Why watching, or measuring the residue, ended by itself; `None` while all is well."""
        return self._observer.trouble

    def warn(self, alarm: Callable[[str], None]) -> Callable[[], None]:
        """Be told when watching, or measuring the residue, ends by itself.

        Args:
            alarm: Called with the reason on the generator's thread; it must return at once.

        Returns:
            A function that ends it, harmless when repeated.
        """
        return self._observer.warn(alarm)

    @property
    def active(self) -> bool:
        """Whether blocks are still being read."""
        return not self._observer.over

    def at(self, block: int) -> BlockReading | None:
        """The reading of a block, or `None` when it is no longer held or was not read."""
        return next((reading for reading in self._observer.readings if reading.block == block), None)

    def look(self, frame: int, row: int, column: int) -> None:
        """Read where a point of the picture looks, from the next block that begins.

        Args:
            frame: Latent frame within the block, from 0.
            row: Token row; `BlockReading.grid` says how many there are.
            column: Token column.

        Raises:
            ValueError: If there is no such point.
        """
        latest = self.latest
        if latest is None:
            raise ValueError("`row` and `column` cannot be placed before the first block was read; wait for it")
        self._observer.look(check_point(len(latest.own), latest.grid, frame, row, column))

    def look_away(self) -> None:
        """Read no point any more, from the next block that begins."""
        self._observer.look(None)

    def measure_residue(self, on: bool = True) -> None:
        """Measure from the next switch on what is left in the cache of the prompt before it, or no more.

        That takes time: at the switch two commits for each block of the last two windows, then two more a block.

        Args:
            on: Whether to measure.
        """
        if on and self._observer.trouble is not None and not self._observer.over:
            self._observer.mend()
        self._observer.residue = on

    @property
    def measures_residue(self) -> bool:
        """Whether the residue is measured."""
        return self._observer.residue

    def subscribe(self, reader: Reader) -> Callable[[], None]:
        """Be handed each new reading.

        Args:
            reader: Called on the generator's thread just before the block is announced; it must return at once.

        Returns:
            A function that ends it, harmless when repeated.
        """
        return self._observer.subscribe(reader)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each kept block and slot, ready for a data frame."""
        return [row for reading in self.readings for row in reading.rows()]

    def word_rows(self) -> list[dict[str, Any]]:
        """A row for each kept block and word of the prompt in force, ready for a data frame."""
        return [row for reading in self.readings for row in reading.word_rows()]

    def trace_rows(self) -> list[dict[str, Any]]:
        """A row for each kept block and word in its cache, those of old prompts too, ready for a data frame."""
        return [row for reading in self.readings for row in reading.trace_rows()]

    def close(self) -> None:
        """Let go; harmless when repeated."""
        self._end()

    def __enter__(self) -> Watching:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Guard:
    """Hands an exception on instead of raising it."""

    def __init__(self, fail: Callable[[Exception], None]) -> None:
        self._fail = fail

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self._fail(error)
            return True
        return False


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
