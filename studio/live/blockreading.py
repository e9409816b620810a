"""What one block of a session saw of its cache, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from studio.config import Policy
from studio.model.cache import Slot
from studio.probes import AttentionReading, CacheWarning, Point, Residue, WordAttention, WordTrace
from studio.shapes import VideoShape

__all__ = ["BlockReading", "check_point", "gazes_of", "mass_of", "pictures_of", "positions_of"]

PICTURE_ROWS = 72
# Bytes up to which the gaze of a point is kept by layer and head.
GAZES = 2**20


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockReading:
    """What one block saw of the cache.

    Args:
        take: Number of the take.
        block: The block.
        prompt: The prompt in force.
        policy: The switch taken at its start, or `None`.
        prompts: The text of each prompt that a slot was written under, by its number.
        slots: The cache when the block had been committed, which is what the block saw, itself included: sink first,
            then the window from old to new, then empty slots.
        before: The cache before the switch, or `None` where there was none.
        layers: Layers read.
        mass: `[layers, heads, slots]` float32: share of the last denoising step's attention on each slot, the mean
            over sampled queries; 0 for slots that hold nothing, NaN for those out of sight. Sums to 1 over slots.
        words: Attention to the words of the prompt, or `None` where the text encoder does not tell its words.
        own: Latent frames that the block itself made.
        grid: Token rows and columns of a latent frame.
        point: The point of the block whose gaze was asked for, or `None`.
        gaze: `[slots, rows, columns]` float32: where that point looks, the mean over layers and heads; 0 for slots
            that hold nothing, NaN for those out of sight. Sums to 1. `None` without a point.
        gazes: The same by layer and head, `[layers, heads, slots, rows, columns]`; `None` as well where that would take
            more than `GAZES` bytes, as with large models.
        positions: `[slots, rows, columns]` float32: where the block as a whole looks, the mean over layers, heads and
            sampled queries; otherwise as `gaze`.
        pictures: uint8 `[own frames, rows, columns, 3]`, the last frame that each of them decodes to, made smaller.
        warnings: Faults that appeared with this block.
        seconds: Seconds that the probes took within the block's passes, so that its own time is known without them.
        spent: The same by kind of pass: "recache", "denoise" and "commit".
        trace: How much of every prompt's words reaches the block through the cache, or `None` where that is not known.
        residues: How far the cache is from the prompt in force, towards the one before the last switch, where that was
            measured: "before" and "after" a switch at this block, and when the block was "made". See `Residue`.
        alignment: How well the latest frames show each of the last prompts, by their number, as the session's judge
            says; NaN where it cannot tell.
    """

    take: int
    block: int
    prompt: str
    policy: Policy | None
    prompts: dict[int, str]
    slots: tuple[Slot, ...]
    before: tuple[Slot, ...] | None
    layers: tuple[int, ...]
    mass: np.ndarray
    words: WordAttention | None
    own: tuple[int, ...]
    grid: tuple[int, int]
    point: Point | None
    gaze: np.ndarray | None
    pictures: np.ndarray
    warnings: tuple[CacheWarning, ...]
    seconds: float
    gazes: np.ndarray | None = None
    positions: np.ndarray | None = None
    spent: dict[str, float] = field(default_factory=dict)
    trace: WordTrace | None = None
    residues: tuple[Residue, ...] = ()
    alignment: dict[int, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        told = [f"{len(self.slots)} slots", *([self.policy] if self.policy else []), f"{len(self.warnings)} warnings"]
        return f"<BlockReading {self.block} of take {self.take}: {', '.join(told)}>"

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays take."""
        words = [] if self.words is None else [self.words.mass, self.words.rest, self.words.maps]
        others = [array for array in (self.gaze, self.gazes, self.positions) if array is not None]
        return sum(array.nbytes for array in (self.mass, self.pictures, *words, *others))

    def shares(self, layer: int | None = None, head: int | None = None) -> np.ndarray:
        """Share of the attention on each slot.

        Args:
            layer: One of `layers`; `None` for the mean over all.
            head: One head; `None` for the mean over all.

        Returns:
            `[slots]`.

        Raises:
            ValueError: If there is no such layer or head.
        """
        return self._pinned(self.mass, layer, head)

    def look(self, layer: int | None = None, head: int | None = None) -> np.ndarray | None:
        """Where the point looks.

        Args:
            layer: One of `layers`; `None` for the mean over all.
            head: One head; `None` for the mean over all.

        Returns:
            `[slots, rows, columns]`; `None` without a point, or where single heads would be too large to keep.

        Raises:
            ValueError: If there is no such layer or head.
        """
        if self.gaze is None or (layer is None and head is None):
            return self.gaze
        return None if self.gazes is None else self._pinned(self.gazes, layer, head)

    def _pinned(self, values: np.ndarray, layer: int | None, head: int | None) -> np.ndarray:
        if layer is not None:
            if layer not in self.layers:
                raise ValueError(f"`layer` must be one of {list(self.layers)}, got {layer}")
            values = values[[self.layers.index(layer)]]
        if head is not None:
            if not 0 <= head < values.shape[1]:
                raise ValueError(f"`head` must lie in 0..{values.shape[1] - 1}, got {head}")
            values = values[:, [head]]
        return values.mean(axis=(0, 1))

    def rows(self) -> list[dict[str, Any]]:
        """A row for each slot, ready for a data frame."""
        return [
            {
                "take": self.take,
                "block": self.block,
                "in_force": self.prompt,
                "policy": self.policy,
                "slot": index,
                "role": slot.role,
                "frame": slot.frame,
                "prompt": None if slot.prompt is None else self.prompts[slot.prompt],
                "written": slot.written,
                "written_at": slot.block,
                "attention": float(share),
            }
            for index, (slot, share) in enumerate(zip(self.slots, self.shares(), strict=True))
        ]

    def head_rows(self) -> list[dict[str, Any]]:
        """A row for each layer, head and slot, ready for a data frame."""
        return [
            {
                "take": self.take,
                "block": self.block,
                "layer": self.layers[layer],
                "head": head,
                "slot": slot,
                "frame": self.slots[slot].frame,
                "role": self.slots[slot].role,
                "attention": float(share),
            }
            for (layer, head, slot), share in np.ndenumerate(self.mass)
        ]

    def gaze_rows(self) -> list[dict[str, Any]]:
        """A row for each slot and token position that the point looks at; none without a point."""
        if self.gaze is None or self.point is None:
            return []
        return [
            {
                "take": self.take,
                "block": self.block,
                "point_frame": self.own[self.point.frame],
                "point_row": self.point.row,
                "point_column": self.point.column,
                "slot": slot,
                "frame": self.slots[slot].frame,
                "row": row,
                "column": column,
                "attention": float(share),
            }
            for (slot, row, column), share in np.ndenumerate(self.gaze)
        ]

    def position_rows(self) -> list[dict[str, Any]]:
        """A row for each slot and token position that the block as a whole looks at, ready for a data frame."""
        if self.positions is None:
            return []
        return [
            {
                "take": self.take,
                "block": self.block,
                "slot": slot,
                "frame": self.slots[slot].frame,
                "row": row,
                "column": column,
                "attention": float(share),
            }
            for (slot, row, column), share in np.ndenumerate(self.positions)
        ]

    def residue(self, moment: str = "made") -> float:
        """How far the cache was from the prompt in force, in units of the distance to the prompt before it.

        Args:
            moment: "before" or "after" a switch at this block, or when the block was "made".

        Returns:
            0 where it is what it would always have been under the prompt in force, 1 where nothing was switched; above
            1 where a third prompt is still in it. NaN where it was not measured or the cache was empty.
        """
        return next((found.total for found in self.residues if found.moment == moment), float("nan"))

    def curve_rows(self) -> list[dict[str, Any]]:
        """A row for each prompt judged and each residue measured, ready for a data frame."""
        head = {"take": self.take, "block": self.block, "in_force": self.prompt}
        judged = [
            {**head, "what": "alignment", "of": self.prompts.get(number, ""), "value": value}
            for number, value in self.alignment.items()
        ]
        return judged + [
            {**head, "what": "residue", "of": found.moment, "value": found.total} for found in self.residues
        ]

    def word_rows(self) -> list[dict[str, Any]]:
        """A row for each word of the prompt in force, ready for a data frame; none where words are not known."""
        if self.words is None:
            return []
        mean = self.words.mass.mean(axis=(0, 1, 2))
        return [
            {"take": self.take, "block": self.block, "index": i, "word": word.text, "attention": float(share)}
            for i, (word, share) in enumerate(zip(self.words.words, mean, strict=True))
        ]

    def trace_rows(self) -> list[dict[str, Any]]:
        """A row for each word that is in the cache, those of old prompts too, ready for a data frame."""
        return [] if self.trace is None else [{"take": self.take, **row} for row in self.trace.rows()]


def check_point(frames: int, grid: tuple[int, int], frame: int, row: int, column: int) -> Point:
    """A point of a block's picture.

    Args:
        frames: Latent frames of a block.
        grid: Token rows and columns.
        frame: Latent frame within the block, from 0.
        row: Token row.
        column: Token column.

    Raises:
        ValueError: If there is no such point.
    """
    point = Point(frame=frame, row=row, column=column)
    rows, columns = grid
    if frame >= frames or row >= rows or column >= columns:
        raise ValueError(
            f"the point must lie within {frames} frames, {rows} rows and {columns} columns, "
            f"got {frame}, {row}, {column}"
        )
    return point


def mass_of(slots: tuple[Slot, ...], attention: AttentionReading | None) -> np.ndarray:
    """Attention `[layers, heads, slots]` in the order of the cache's slots."""
    if attention is None:
        return np.full((0, 0, len(slots)), np.nan, dtype=np.float32)
    return _placed(slots, attention, attention.mass.mean(axis=2), 2)


def gazes_of(
    slots: tuple[Slot, ...], attention: AttentionReading | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Where the point looks, `[slots, rows, columns]` and by layer and head, in the order of the cache's slots."""
    if attention is None or not attention.points:
        return None, None
    weights = attention.points[0].weights
    whole = _placed(slots, attention, weights.mean(axis=(0, 1)), 0)
    size = weights.nbytes // max(1, weights.shape[2]) * len(slots)
    return whole, _placed(slots, attention, weights, 2) if size <= GAZES else None


def positions_of(slots: tuple[Slot, ...], attention: AttentionReading | None) -> np.ndarray | None:
    """Where the block as a whole looks `[slots, rows, columns]`, in the order of the cache's slots."""
    if attention is None or attention.positions is None:
        return None
    return _placed(slots, attention, attention.positions.mean(axis=0), 0)


def _placed(slots: tuple[Slot, ...], attention: AttentionReading, values: np.ndarray, axis: int) -> np.ndarray:
    """Values by slot in the order of the cache's slots: 0 for those that hold nothing, NaN for those out of sight."""
    seen = {slot.frame: index for index, slot in enumerate(attention.slots)}
    values = np.moveaxis(values, axis, 0)
    placed = np.full((len(slots), *values.shape[1:]), np.nan, dtype=np.float32)
    for index, slot in enumerate(slots):
        if slot.frame is None:
            placed[index] = 0
        elif slot.frame in seen:
            placed[index] = values[seen[slot.frame]]
    return np.ascontiguousarray(np.moveaxis(placed, 0, axis))


def pictures_of(frames: np.ndarray, own: tuple[int, ...], shape: VideoShape) -> np.ndarray:
    """A small picture of each latent frame: the last pixel frame it decodes to, averaged down; none without pixels."""
    if len(frames) == 0:
        return np.zeros((0, 1, 1, 3), dtype=np.uint8)
    start = shape.first_frame(own[0] // shape.block)
    picked = frames[[shape.frames_of(frame + 1) - 1 - start for frame in own]]
    factor = max(1, -(-picked.shape[1] // PICTURE_ROWS))
    rows, columns = picked.shape[1] // factor, picked.shape[2] // factor
    cut = picked[:, : rows * factor, : columns * factor]
    # Rows first: whole lines are added up, and little is left to do in the other direction.
    small = np.uint16 if factor < 256 else np.uint32
    sums = cut.reshape(len(own), rows, factor, -1).sum(axis=2, dtype=small)
    sums = sums.reshape(len(own), rows, columns, factor, 3).sum(axis=3, dtype=np.uint32)
    return np.rint(sums / factor**2).astype(np.uint8)
