"""Any frame of what was made, ranges of frames, and loops over them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from studio.events import DecodedBlock
from studio.live.core import Core
from studio.timeline import check_whole

LOOKED_AT = 4


class Scrub:
    """Gives frames by their number; the blocks looked at last are kept as they are.

    Args:
        core: the session's generator.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._recent: dict[tuple[int, int], DecodedBlock] = {}

    def block(self, index: int, take: int | None = None) -> DecodedBlock | None:
        """A block of a take.

        Args:
            index: its number.
            take: number of the take; None for the current one.

        Returns:
            The block, or None where it was not made yet, and where there is no such take.
        """
        core = self._core
        with core.changed:
            owner = core.take if take is None else core.takes.get(take)
            found = None if owner is None else owner.block(index)
        if owner is None or found is None:
            return None
        if isinstance(found, DecodedBlock):
            return found
        key = (owner.number, index)
        block = self._recent.pop(key, None) or replace(found.get(), take=owner.number)
        self._recent[key] = block
        while len(self._recent) > LOOKED_AT:
            self._recent.pop(next(iter(self._recent)), None)
        return block

    @property
    def made(self) -> int:
        """Frames of the current take."""
        with self._core.changed:
            return self._core.units.first_frame(self._core.take.made)

    def frame(self, index: int) -> np.ndarray:
        """A frame.

        Args:
            index: its number, from 0.

        Returns:
            uint8 `[H, W, 3]`, read-only.

        Raises:
            RuntimeError: the session is closed.
            ValueError: it was not made.
        """
        self._core.check_open()
        made = self.made
        index = check_whole(index, "frame", 0, made - 1, _remedy(made))
        block = self.block(self._core.units.block_at(index))
        if block is None:
            raise ValueError(f"frame {index} is no longer there; the take has changed meanwhile")
        return block.frames[index - block.first_frame]

    def clip(self, start: int, stop: int) -> np.ndarray:
        """A range of frames.

        Args:
            start: first frame.
            stop: frame just past the last.

        Returns:
            uint8 `[stop - start, H, W, 3]`.

        Raises:
            ValueError: a frame that was not made, or an empty range.
        """
        start, stop = self._range(start, stop)
        return np.stack([self.frame(i) for i in range(start, stop)])

    def loop(self, start: int, stop: int, *, step: int = 1) -> Iterator[np.ndarray]:
        """Frames of a range, over and over.

        Args:
            start: first frame.
            stop: frame just past the last.
            step: from one to the next; -1 plays backwards.

        Returns:
            An endless iterator of uint8 `[H, W, 3]`.

        Raises:
            ValueError: a frame that was not made, an empty range, or a step of 0.
        """
        start, stop = self._range(start, stop)
        made = self.made
        if check_whole(step, "step", -made, made) == 0:
            raise ValueError("`step` must not be 0, got 0; use 1, or -1 to play backwards")
        return self._around(start, stop, step)

    def _range(self, start: int, stop: int) -> tuple[int, int]:
        self._core.check_open()
        made = self.made
        start = check_whole(start, "start", 0, made - 1, _remedy(made))
        return start, check_whole(stop, "stop", start + 1, made, f"use {start + 1} to {made}")

    def _around(self, start: int, stop: int, step: int) -> Iterator[np.ndarray]:
        count, place = stop - start, 0 if step > 0 else stop - start - 1
        while True:
            yield self.frame(start + place)
            place = (place + step) % count


def _remedy(made: int) -> str:
    return f"{made} frames were made, counted from 0" if made else "no frame was made yet; play first"
