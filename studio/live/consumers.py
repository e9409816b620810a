"""Who watches, and how far each viewer has come."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from studio.shapes import VideoShape
from studio.timeline import check_whole


class Attachment:
    """A consumer's handle: it reports the playhead, so that generation stays close ahead of it.

    A handle that is dropped without being closed counts as closed.

    Args:
        frame: pixel frame at which it starts.
        take: the take it belongs to.
        moved: called after each report and at the end.
    """

    def __init__(self, frame: int, take: int, moved: Callable[[], None]) -> None:
        self.frame, self.take, self.closed = frame, take, False
        self._moved = moved

    def played(self, frame: int, take: int | None = None) -> None:
        """Report the pixel frame being shown.

        Args:
            frame: its number, from 0.
            take: the take it belongs to; reports for another than the current one are ignored. None: the current one.

        Raises:
            ValueError: no whole number, or a negative one.
        """
        frame = check_whole(frame, "frame", 0, 2**62)
        if take is None or take == self.take:
            self.frame = frame
            self._moved()

    def close(self) -> None:
        """Detach; harmless when repeated."""
        self.closed = True
        self._moved()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Gate:
    """Says how many blocks may be generated ahead of the slowest consumer.

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
        """Playhead of the slowest consumer as a pixel frame, or None without consumers."""
        return min((seat.frame for seat in self.seats()), default=None)

    def furthest(self) -> int | None:
        """Playhead of the consumer that has come furthest, or None without consumers."""
        return max((seat.frame for seat in self.seats()), default=None)

    def allows(self, block: int) -> bool:
        """Whether a block may be generated now; never without a consumer."""
        slowest = self.slowest()
        return slowest is not None and block <= self.units.block_at(slowest) + self.lead

    def rewind(self, take: int, frame: int = 0) -> None:
        """Send every consumer to a frame of another take."""
        for seat in self.seats():
            seat.frame, seat.take = frame, take

    def clear(self) -> None:
        """Detach everyone."""
        for seat in self.seats():
            seat.closed = True
