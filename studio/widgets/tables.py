"""Readings of the cache as tables: lists of rows, ready for a data frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from studio.widgets.source import Reading

__all__ = [
    "PARTS",
    "curve_rows",
    "gaze_rows",
    "head_kinds",
    "head_rows",
    "parts",
    "position_rows",
    "reading_at",
    "slot_rows",
    "trace_rows",
    "until",
    "word_rows",
]

Row = dict[str, Any]

PARTS = ("sink", "between", "own")
"""What a head can look at: the sink, the block itself, and the rest of the window between the two."""


def reading_at(readings: Sequence[Reading], block: int | None) -> Reading:
    """Find the reading of a block.

    Args:
        readings: Old to new.
        block: The block; `None` for the latest.

    Returns:
        The reading.

    Raises:
        ValueError: If it is not among them.
    """
    if not readings:
        raise ValueError("nothing was read of the cache yet; let a block be generated, or call `session.reread()`")
    found = readings[-1] if block is None else next((r for r in readings if r.block == block), None)
    if found is None:
        first, last = readings[0].block, readings[-1].block
        if block is not None and first <= block <= last:
            raise ValueError(f"block {block} was not read; `session.reread()` reads what was missed")
        raise ValueError(f"`block` must lie in {first}..{last}, got {block}")
    return found


def until(readings: Sequence[Reading], block: int | None) -> list[Reading]:
    """The readings up to a block; see `reading_at`."""
    last = reading_at(readings, block)
    return [reading for reading in readings if reading.block <= last.block]


def parts(reading: Reading) -> np.ndarray:
    """Share of the attention `[layers, heads, PARTS]` on each part of the cache.

    Frames of the sink that the block itself made count as its own; slots out of sight count for nothing.
    """
    own = np.array([slot.frame in reading.own for slot in reading.slots])
    sink = np.array([slot.role == "sink" for slot in reading.slots]) & ~own
    rest = ~own & ~sink
    mass = np.nan_to_num(reading.mass)
    return np.stack([mass[..., part].sum(axis=-1) for part in (sink, rest, own)], axis=-1)


def slot_rows(readings: Iterable[Reading]) -> list[Row]:
    """A row for each block and slot."""
    return [
        {
            "take": reading.take,
            "block": reading.block,
            "in_force": reading.prompt,
            "policy": reading.policy,
            "slot": index,
            "role": slot.role,
            "frame": slot.frame,
            "own": slot.frame in reading.own,
            "prompt": None if slot.prompt is None else reading.prompts[slot.prompt],
            "written": slot.written,
            "written_at": slot.block,
            "attention": float(share),
        }
        for reading in readings
        for index, (slot, share) in enumerate(zip(reading.slots, reading.mass.mean(axis=(0, 1)), strict=True))
    ]


def curve_rows(readings: Iterable[Reading]) -> list[Row]:
    """A row for each block and prompt judged ("alignment", of the prompt) and each residue ("residue", at a moment)."""
    return [row for reading in readings for row in reading.curve_rows()]


def gaze_rows(readings: Iterable[Reading]) -> list[Row]:
    """A row for each block whose point was read, slot in sight and token position; the rows of a block sum to 1."""
    rows = []
    for reading in readings:
        if reading.gaze is not None:
            point = reading.point
            asked = {"point_frame": reading.own[point.frame], "point_row": point.row, "point_column": point.column}
            rows += _by_position(reading, reading.gaze, asked)
    return rows


def word_rows(readings: Iterable[Reading]) -> list[Row]:
    """A row for each block and word of the prompt in force; blocks whose words are not known have none."""
    return [
        {
            "take": reading.take,
            "block": reading.block,
            "prompt": reading.prompt,
            "index": index,
            "word": word.text,
            "attention": float(share),
        }
        for reading in readings
        if reading.words is not None
        for index, (word, share) in enumerate(
            zip(reading.words.words, reading.words.mass.mean(axis=(0, 1, 2)), strict=True)
        )
    ]


def trace_rows(readings: Iterable[Reading]) -> list[Row]:
    """A row for each block and word that is in its cache, those of old prompts too."""
    return [
        {
            "take": reading.take,
            "block": reading.block,
            "prompt": reading.prompts.get(word.prompt, ""),
            "in_force": reading.prompts.get(word.prompt) == reading.prompt,
            "index": word.index,
            "word": word.text,
            "through_cache": word.share,
        }
        for reading in readings
        if reading.trace is not None
        for word in reading.trace.words
    ]


def position_rows(readings: Iterable[Reading]) -> list[Row]:
    """A row for each block, slot in sight and token position that it looks at; the rows of a block sum to 1."""
    known = (reading for reading in readings if reading.positions is not None)
    return [row for reading in known for row in _by_position(reading, reading.positions, {})]


def _by_position(reading: Reading, shares: Any, more: Row) -> list[Row]:
    return [
        {
            "take": reading.take,
            "block": reading.block,
            **more,
            "slot": index,
            "frame": slot.frame,
            "row": row,
            "column": column,
            "attention": float(share),
        }
        for index, slot in enumerate(reading.slots)
        if slot.frame is not None
        for (row, column), share in np.ndenumerate(shares[index])
    ]


def head_kinds(readings: Iterable[Reading], majority: float = 0.5) -> np.ndarray | None:
    """What each head is for, as `studio.probes.classify_heads` says, which reads the passes themselves.

    Args:
        readings: Blocks of one take; those that cannot see sink, themselves and something between do not count.
        majority: Share of the attention from which on a head belongs to what it looks at.

    Returns:
        "sink", "self_block" or "dynamic", `[layers, heads]`; `None` where no block counts.
    """
    shares = [parts(reading) for reading in readings if _telling(reading)]
    if not shares:
        return None
    sink, _, own = np.moveaxis(np.mean(shares, axis=0), -1, 0)
    return np.where(sink >= majority, "sink", np.where(own >= majority, "self_block", "dynamic"))


def _telling(reading: Reading) -> bool:
    own = [slot for slot in reading.slots if slot.frame in reading.own]
    between = any(slot.role == "window" and slot.frame not in reading.own for slot in reading.slots)
    return reading.mass.size > 0 and between and all(slot.role != "sink" for slot in own)


def head_rows(readings: Iterable[Reading]) -> list[Row]:
    """A row for each block, layer and head; "kind" is the head's over all blocks given, `None` where none tells."""
    readings = list(readings)
    kinds = head_kinds(readings)
    return [
        {
            "take": reading.take,
            "block": reading.block,
            "layer": reading.layers[layer],
            "head": head,
            "kind": None if kinds is None else str(kinds[layer, head]),
            **{part: float(value) for part, value in zip(PARTS, found[layer, head], strict=True)},
        }
        for reading in readings
        for found in [parts(reading)]
        for layer, head in np.ndindex(found.shape[:2])
    ]
