"""The recent blocks as pixels, within a budget of memory."""

from __future__ import annotations

from collections import OrderedDict

from studio.events import DecodedBlock

MEMORY = 64 * 2**20


class Ring:
    """Keeps the most recent blocks: as many as fit into a budget, and never fewer than `least`.

    Args:
        least: blocks kept whatever they weigh.
        budget: bytes of frames.
    """

    def __init__(self, least: int, budget: int = MEMORY) -> None:
        self.least, self.budget = least, budget
        self._blocks: OrderedDict[int, DecodedBlock] = OrderedDict()
        self._bytes = 0

    def add(self, block: DecodedBlock) -> None:
        """Take in a block and drop the oldest ones that no longer fit."""
        self._blocks[block.index] = block
        self._bytes += block.frames.nbytes
        while len(self._blocks) > self.least and self._bytes > self.budget:
            _, old = self._blocks.popitem(last=False)
            self._bytes -= old.frames.nbytes

    def get(self, index: int) -> DecodedBlock | None:
        """A block that is still held, else None."""
        return self._blocks.get(index)

    @property
    def oldest(self) -> int | None:
        """Number of the oldest block held, or None."""
        return next(iter(self._blocks), None)

    def clear(self) -> None:
        """Drop everything."""
        self._blocks.clear()
        self._bytes = 0
