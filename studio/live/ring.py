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

    def add(self, block: DecodedBlock) -> list[DecodedBlock]:
        """Take in a block.

        Returns:
            The oldest ones, which no longer fit and are dropped.
        """
        self._blocks[block.index] = block
        self._bytes += block.frames.nbytes
        dropped = []
        while len(self._blocks) > self.least and self._bytes > self.budget:
            _, old = self._blocks.popitem(last=False)
            self._bytes -= old.frames.nbytes
            dropped.append(old)
        return dropped

    def get(self, index: int) -> DecodedBlock | None:
        """A block that is still held, else None."""
        return self._blocks.get(index)

    def held(self) -> list[DecodedBlock]:
        """All blocks held, the oldest first."""
        return list(self._blocks.values())

    def clear(self) -> list[DecodedBlock]:
        """Drop everything and return it, the oldest first."""
        dropped = self.held()
        self._blocks.clear()
        self._bytes = 0
        return dropped
