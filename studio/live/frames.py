"""Frames block by block, pulled by a loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from studio.events import DecodedBlock
from studio.live.core import LOOK, Core
from studio.timeline import check_whole

if TYPE_CHECKING:
    import numpy as np

    from studio.live.archive import Packed


class Frames:
    """An iterator over the frames of a session, block by block; `close` detaches it, and so does dropping it.

    Each element is uint8 `[T, H, W, 3]`. Generation stays close ahead of the loop; of several, ahead of the one that is
    furthest on, and where the video is played as well, ahead of the slowest player. The others find their blocks later.
    After a restart it goes on with its own first block of the new take; it ends with the video, with `stop` and with
    the session.

    Args:
        session: kept alive as long as the iterator is.
        core: the session's generator.
        start: first block; None goes on after the last block that was handed out.

    Raises:
        ValueError: `start` is no block number.
    """

    def __init__(self, session: Any, core: Core, start: int | None) -> None:
        self._session, self._core = session, core
        with core.changed:
            self._index = self._first(start)
            self._seat = core.seat_at(self._index, pulls=True)
            self._take, self._stops = core.take.number, core.stops
        self._taken, self._waiting = 0, False
        core.outbox.deliver()

    def _first(self, start: int | None) -> int:
        take = self._core.take
        if start is None:
            return take.next_pull
        return check_whole(start, "start", 0, 2**62)

    def __iter__(self) -> Frames:
        return self

    def __repr__(self) -> str:
        core = self._core
        take = core.take
        # After a restart it has yet to look where the new take begins.
        index = self._index if take.number == self._take else take.forked_at
        over = self._seat.closed or core.closed or core.closing or core.stops != self._stops
        if over or (core.finished and index >= take.made):
            state = "over"
        else:
            state = f"waiting for block {index}" if self._waiting else f"block {index} is next"
        return f"<Frames: {self._taken} block{'' if self._taken == 1 else 's'} taken, {state}>"

    def __next__(self) -> np.ndarray:
        """The next block's frames; waits until they are there.

        Raises:
            StopIteration: the video, the session or this iterator is over.
            RuntimeError: the generator failed.
        """
        return self.next_block().frames

    def next_block(self) -> DecodedBlock:
        """The next block with all that is known about it; as `__next__` otherwise."""
        core = self._core
        while True:
            with core.changed:
                block = self._look()
                if block is not None:
                    self._index = core.take.next_pull = self._index + 1
                    self._taken += 1
            if block is not None:
                return block if isinstance(block, DecodedBlock) else block.get()
            core.outbox.deliver()
            with core.changed:
                if self._look() is None:
                    self._waiting = True
                    try:
                        core.changed.wait(LOOK)
                    finally:  # also when the loop is interrupted
                        self._waiting = False

    def _look(self) -> DecodedBlock | Packed | None:
        core, seat = self._core, self._seat
        if seat.closed or core.closed or core.closing or core.stops != self._stops:
            raise StopIteration
        take = core.take
        if take.number != self._take:
            self._take, self._index = take.number, take.forked_at
        block = take.block(self._index)
        if block is not None:
            return block
        if core.error is not None:
            raise RuntimeError(f"the generator failed: {core.error.message}") from core.cause
        if core.finished:
            raise StopIteration
        core.place(seat, self._index)
        return None

    def close(self) -> None:
        """Detach from the session; harmless when repeated."""
        self._seat.close()

    def __enter__(self) -> Frames:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
