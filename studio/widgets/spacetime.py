"""The attention of a word or of a point over space and time, as a volume: time, rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from studio.widgets.source import Reading
from studio.widgets.tables import reading_at, until

__all__ = ["SpaceTime", "space_time"]

# Latent frames that a word's volume goes back.
LONGEST = 48


@dataclass(frozen=True, kw_only=True, eq=False)
class SpaceTime:
    """Attention by latent frame and position.

    Args:
        values: `[frames, rows, columns]` float32. Of a point: the share of its attention on each token, summing to 1.
            Of a word: the share of each sampled position's cross-attention that falls on it, the mean over heads.
        frames: The latent frames.
        block: The block.
        what: What it is of, in words.
    """

    values: np.ndarray
    frames: tuple[int, ...]
    block: int
    what: str

    def rows(self) -> list[dict[str, Any]]:
        """A row for each frame and position, ready for a data frame."""
        return [
            {
                "block": self.block,
                "of": self.what,
                "frame": self.frames[t],
                "row": row,
                "column": column,
                "attention": float(value),
            }
            for (t, row, column), value in np.ndenumerate(self.values)
        ]


def space_time(readings: Sequence[Reading], word: int | str | None = None, block: int | None = None) -> SpaceTime:
    """The volume of a word, or of the point whose gaze was read.

    Args:
        readings: Old to new.
        word: A word of the prompt in force or its place in it; `None` for the point.
        block: The block; `None` for the latest.

    Returns:
        Of a word: all frames made under the prompt up to the block. Of a point: all frames in the cache, in the order
        of time.

    Raises:
        ValueError: If that block was not read, there is no such word in its prompt, or no point of it.
    """
    reading = reading_at(readings, block)
    return _of_point(reading) if word is None else _of_word(until(readings, reading.block), word)


def _of_point(reading: Reading) -> SpaceTime:
    if reading.gaze is None:
        raise ValueError(f"no point was read at block {reading.block}; call `look(frame, row, column, block)`")
    held = [
        (slot.frame, gaze) for slot, gaze in zip(reading.slots, reading.gaze, strict=True) if slot.frame is not None
    ]
    held.sort(key=lambda each: each[0])
    row, column = reading.point.row, reading.point.column
    return SpaceTime(
        values=np.nan_to_num(np.stack([gaze for _, gaze in held])).astype(np.float32),
        frames=tuple(frame for frame, _ in held),
        block=reading.block,
        what=f"the point at row {row + 1}, column {column + 1} of latent frame {reading.own[reading.point.frame]}",
    )


def _of_word(readings: Sequence[Reading], word: int | str) -> SpaceTime:
    last = readings[-1]
    words = [] if last.words is None else [each.text for each in last.words.words]
    index = words.index(word) if isinstance(word, str) and word in words else word
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(words):
        known = ", ".join(words) or "none: its text encoder does not tell its words"
        raise ValueError(f"`word` must be one of the prompt of block {last.block} ({known}), got {word!r}")
    frames: list[int] = []
    heat: list[np.ndarray] = []
    for reading in reversed(readings):
        if reading.prompt != last.prompt or reading.words is None or len(frames) >= LONGEST:
            break
        rows = len({row for row, _ in reading.words.samples})
        maps = reading.words.maps[..., index].mean(axis=0)
        heat.insert(0, maps.reshape(len(maps), rows, -1))
        frames[:0] = reading.own
    return SpaceTime(
        values=np.concatenate(heat).astype(np.float32), frames=tuple(frames), block=last.block, what=f"“{words[index]}”"
    )
