"""Who watches, and how far each viewer has come."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable

from studio.shapes import VideoShape
from studio.timeline import check_whole

# A consumer that reports nothing for so long stands still; its rate is taken over so long.
STILL_S = 1.6
RATE_S = 4.0
# More frames a second than this are no playing.
FASTEST = 240.0


class Attachment:
    """A consumer's handle: it reports the playhead, so that generation stays close ahead of it.

    A handle that is dropped without being closed counts as closed.

    Args:
        frame: pixel frame at which it starts.
        take: the take it belongs to.
        moved: called after each report and at the end.
        pulls: whether it takes blocks when it likes, instead of playing them; it misses nothing by lagging behind.
    """

    def __init__(self, frame: int, take: int, moved: Callable[[], None], *, pulls: bool = False) -> None:
        self.frame, self.take, self.closed, self.pulls = frame, take, False, pulls
        self.dropped = 0
        self._moved = moved
        self._reports: deque[tuple[float, int]] = deque(maxlen=64)

    def played(self, frame: int, take: int | None = None, dropped: int = 0) -> None:
        """Report the pixel frame being shown.

        Args:
            frame: its number, from 0.
            take: the take it belongs to; reports for another than the current one are ignored. None: the current one.
            dropped: frames of this take that it passed over because it was too slow to show them.

        Raises:
            ValueError: no whole number, or a negative one.
        """
        frame = check_whole(frame, "frame", 0, 2**62)
        if take is None or take == self.take:
            now = time.perf_counter()
            if frame < self.frame or (
                self._reports and frame - self.frame > FASTEST * (now - self._reports[-1][0] + 1)
            ):
                self._reports.clear()  # it was put elsewhere: what it does now is another stretch
            self.frame, self.dropped = frame, check_whole(dropped, "dropped", 0, 2**62)
            self._reports.append((now, frame))
            self._moved()

    def rewind(self, take: int, frame: int) -> None:
        """Go to a frame of another take."""
        self.frame, self.take, self.dropped = frame, take, 0
        self._reports.clear()

    def rate(self, now: float) -> float | None:
        """Frames a second that it has shown lately, or None while it stands still.

        Args:
            now: time, as `time.perf_counter` has it.
        """
        recent = [report for report in list(self._reports) if now - report[0] <= RATE_S]
        if len(recent) < 2 or now - recent[-1][0] > STILL_S:
            return None
        (begun, first), (ended, last) = recent[0], recent[-1]
        return (last - first) / (ended - begun) if ended - begun > 0.2 and last > first else None

    def close(self) -> None:
        """Detach; harmless when repeated."""
        self.closed = True
        self._moved()

    def __repr__(self) -> str:
        dropped = f", {self.dropped} dropped" if self.dropped else ""
        return f"<Attachment: frame {self.frame} of take number {self.take}{dropped}{', closed' * self.closed}>"

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Gate:
    """Says how many blocks may be generated ahead of the slowest player.

    Where nobody plays, the loop over the frames that is furthest on counts: one that lags behind or was left standing
    finds every block later, and must not hold up the others.

    Args:
        units: counts frames and blocks.
        lead: blocks ahead of the one being shown.
    """

    def __init__(self, units: VideoShape, lead: int) -> None:
        self.units, self.lead = units, lead
        self._seats: weakref.WeakSet[Attachment] = weakref.WeakSet()

    def add(self, seat: Attachment) -> None:
        """Let a consumer take its seat."""
        self._seats.add(seat)

    def seats(self) -> list[Attachment]:
        """Those attached now."""
        return [seat for seat in list(self._seats) if not seat.closed]

    def slowest(self) -> int | None:
        """Playhead of the consumer that bounds generation as a pixel frame, or None without consumers."""
        seats = self.seats()
        players = [seat.frame for seat in seats if not seat.pulls]
        return min(players) if players else max((seat.frame for seat in seats), default=None)

    def furthest(self) -> int | None:
        """Playhead of the consumer that has come furthest, or None without consumers."""
        return max((seat.frame for seat in self.seats()), default=None)

    def rate(self, now: float) -> float | None:
        """Frames a second that the consumer furthest on has shown lately."""
        seats = sorted(self.seats(), key=lambda seat: seat.frame, reverse=True)
        return next((rate for seat in seats if (rate := seat.rate(now)) is not None), None)

    def dropped(self) -> int:
        """Frames that consumers passed over."""
        return sum(seat.dropped for seat in self.seats())

    def allows(self, block: int) -> bool:
        """Whether a block may be generated now; never without a consumer."""
        slowest = self.slowest()
        return slowest is not None and block <= self.units.block_at(slowest) + self.lead

    def rewind(self, take: int, frame: int = 0) -> None:
        """Send every consumer to a frame of another take."""
        for seat in self.seats():
            seat.rewind(take, frame)

    def clear(self) -> None:
        """Detach everyone."""
        for seat in self.seats():
            seat.closed = True
