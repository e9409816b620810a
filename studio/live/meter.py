"""Measures how fast blocks are made."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median

RECENT = 32
KEPT = 4096


class Meter:
    """Medians over the recent blocks; the first block after a start pays for warming up and is left out."""

    def __init__(self) -> None:
        self._blocks: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self._parts: dict[str, deque[float]] = {}
        self._history: deque[dict[str, float]] = deque(maxlen=KEPT)
        self._warm = False

    def cool(self) -> None:
        """Leave the next block out: it pays for a start."""
        self._warm = False

    def add(self, frames: int, seconds: float, parts: Mapping[str, float]) -> None:
        """Take in one block.

        Args:
            frames: pixel frames made.
            seconds: from its beginning to its frames.
            parts: seconds by part: "denoise", "commit", "recache", "vae".
        """
        if not self._warm:
            self._warm = True
            return
        self._blocks.append((frames, seconds))
        self._history.append(dict(parts))
        for name, value in parts.items():
            if value > 0:
                self._parts.setdefault(name, deque(maxlen=RECENT)).append(value)

    @property
    def history(self) -> list[dict[str, float]]:
        """Seconds by part of each recent block, oldest first."""
        return list(self._history)

    @property
    def fps(self) -> float | None:
        """Pixel frames per second of generating time, or None before the second block."""
        spent = sum(seconds for _, seconds in self._blocks)
        return sum(frames for frames, _ in self._blocks) / spent if spent > 0 else None

    def ms(self, part: str) -> float | None:
        """Median milliseconds of a part a block, or None when it was never measured."""
        values = self._parts.get(part)
        return 1000 * median(values) if values else None
