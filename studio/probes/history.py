"""Provenance of every cache slot over a whole take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from studio.config import Policy
from studio.model.cache import KVCache, Slot
from studio.sampler import Block

__all__ = ["History", "Snapshot"]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The cache's slots when a block had been committed, which are also the slots that the block saw, itself included.

    Args:
        block: The block.
        prompt: Prompt in force.
        policy: The switch taken at its start, or `None`.
        slots: Sink first, then the window from old to new, then empty slots.
    """

    block: int
    prompt: int
    policy: Policy | None
    slots: tuple[Slot, ...]

    @property
    def prompts(self) -> tuple[int, ...]:
        """Prompts that the occupied slots were written under, each once, in order."""
        return tuple(sorted({slot.prompt for slot in self.slots if slot.prompt is not None}))

    def rows(self) -> list[dict[str, Any]]:
        """A row for each slot, ready for a data frame."""
        return [
            {
                "block": self.block,
                "in_force": self.prompt,
                "policy": self.policy,
                "slot": index,
                "role": slot.role,
                "frame": slot.frame,
                "prompt": slot.prompt,
                "written": slot.written,
                "written_at": slot.block,
            }
            for index, slot in enumerate(self.slots)
        ]


class History:
    """Records the provenance of a cache block by block.

    Args:
        cache: The cache of the take.
    """

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._snapshots: dict[int, Snapshot] = {}

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks recorded, in order."""
        return tuple(self._snapshots)

    def __len__(self) -> int:
        return len(self._snapshots)

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(tuple(self._snapshots.values()))

    def record(self, block: Block) -> Snapshot:
        """Take a snapshot; call it when a rollout has given a block and before it makes the next.

        Args:
            block: The block that was just committed.

        Returns:
            The snapshot.

        Raises:
            RuntimeError: If the cache does not end with this block, or the block was recorded before.
        """
        cache = self._cache
        if cache.end != (block.index + 1) * cache.block:
            raise RuntimeError(
                f"block {block.index} must be the last one committed, but the cache ends at latent frame {cache.end}; "
                "record each block before the next one is made"
            )
        if block.index in self._snapshots:
            raise RuntimeError(f"block {block.index} is recorded already; start a new history for a new take")
        snapshot = Snapshot(block=block.index, prompt=block.prompt, policy=block.policy, slots=cache.slots)
        self._snapshots[block.index] = snapshot
        return snapshot

    def follow(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Record every block of a rollout on its way.

        Args:
            blocks: What `rollout` gives.

        Yields:
            The same blocks.
        """
        for block in blocks:
            self.record(block)
            yield block

    def at(self, block: int) -> Snapshot:
        """Snapshot of a block.

        Raises:
            KeyError: If that block was not recorded.
        """
        if block not in self._snapshots:
            raise KeyError(f"block {block} is not recorded; recorded are {list(self._snapshots)}")
        return self._snapshots[block]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each block and slot, ready for a data frame."""
        return [row for snapshot in self for row in snapshot.rows()]
