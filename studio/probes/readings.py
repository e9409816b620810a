"""What an attention probe has read, as values: arrays in float32, tables as lists of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from studio.model.cache import Slot
from studio.probes.passes import PassKind
from studio.probes.words import Word

__all__ = ["AttentionReading", "Point", "PointMap", "WordAttention"]

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A token of the picture whose gaze is wanted.

    Args:
        frame: Latent frame within the block, from 0.
        row: Token row.
        column: Token column.

    Raises:
        ValueError: If a number is negative.
    """

    frame: int
    row: int
    column: int

    def __post_init__(self) -> None:
        if min(self.frame, self.row, self.column) < 0:
            raise ValueError(
                f"`frame`, `row` and `column` must be at least 0, got {self.frame}, {self.row}, {self.column}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class PointMap:
    """Where one point looks.

    Args:
        point: The point.
        weights: Attention weights `[layers, heads, slots, rows, columns]`; they sum to 1 over the last three axes.
    """

    point: Point
    weights: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class WordAttention:
    """Attention to the words of a prompt in one pass.

    Args:
        block: Block of the pass.
        frames: Latent frames that ask.
        layers: Layers read.
        words: The words.
        mass: `[layers, heads, frames, words]`.
        rest: `[layers, heads, frames]`, what falls on the end of the prompt and on padding.
        maps: `[layers, frames, samples, words]`, the mean over heads at each sampled position.
        samples: (row, column) of the sampled positions.
    """

    block: int
    frames: tuple[int, ...]
    layers: tuple[int, ...]
    words: tuple[Word, ...]
    mass: np.ndarray
    rest: np.ndarray
    maps: np.ndarray
    samples: tuple[tuple[int, int], ...]

    def heat(self, word: int) -> np.ndarray:
        """Attention to one word over the picture.

        Args:
            word: Index of the word.

        Returns:
            `[layers, frames, rows, columns]` on the grid of the sampled positions, the mean over heads.

        Raises:
            ValueError: If there is no such word.
        """
        if not 0 <= word < len(self.words):
            raise ValueError(f"`word` must lie in 0..{len(self.words) - 1}, got {word}")
        rows = len({row for row, _ in self.samples})
        return self.maps[..., word].reshape(*self.maps.shape[:2], rows, -1)

    def rows(self) -> list[Row]:
        """A row for each layer, head, frame and word, ready for a data frame."""
        return [
            {
                "block": self.block,
                "layer": self.layers[i],
                "head": head,
                "frame": self.frames[j],
                "word": self.words[w].text,
                "index": w,
                "mass": float(value),
            }
            for (i, head, j, w), value in np.ndenumerate(self.mass)
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionReading:
    """What one pass looked at, from sampled queries.

    Args:
        kind: Which pass was read.
        block: Block of the pass.
        step: Denoising step, or `None`.
        timestep: Timestep of the pass.
        frames: Latent frames that ask.
        slots: What each visible slot held, sink first, then from old to new; the pass's own slots have no prompt yet.
        layers: Layers read.
        grid: Token rows and columns of a latent frame.
        samples: (row, column) of the sampled queries of each frame.
        mass: `[layers, heads, frames, slots]`, the mean over a frame's sampled queries; sums to 1 over slots.
        positions: `[layers, slots, rows, columns]`, the mean over queries and heads; sums to 1 over the last three
            axes. `None` when it was not asked for.
        text_mass: `[layers, heads, frames, text tokens]`, padding included; sums to 1 over text tokens.
        text_maps: `[layers, frames, samples, text tokens]`, the mean over heads at each sampled position.
        points: Where each chosen point looks.
    """

    kind: PassKind
    block: int
    step: int | None
    timestep: float
    frames: tuple[int, ...]
    slots: tuple[Slot, ...]
    layers: tuple[int, ...]
    grid: tuple[int, int]
    samples: tuple[tuple[int, int], ...]
    mass: np.ndarray
    positions: np.ndarray | None
    text_mass: np.ndarray
    text_maps: np.ndarray
    points: tuple[PointMap, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays take."""
        arrays = [self.mass, self.text_mass, self.text_maps, *(point.weights for point in self.points)]
        return sum(array.nbytes for array in arrays) + (0 if self.positions is None else self.positions.nbytes)

    def rows(self) -> list[Row]:
        """A row for each layer, head, asking frame and slot, ready for a data frame."""
        head = {"kind": self.kind, "block": self.block, "step": self.step}
        return [
            {
                **head,
                "layer": self.layers[i],
                "head": n,
                "frame": self.frames[j],
                "slot": s,
                "slot_frame": self.slots[s].frame,
                "slot_role": self.slots[s].role,
                "slot_prompt": self.slots[s].prompt,
                "mass": float(value),
            }
            for (i, n, j, s), value in np.ndenumerate(self.mass)
        ]

    def position_rows(self) -> list[Row]:
        """A row for each layer, slot and token position, ready for a data frame; none where positions were not kept."""
        if self.positions is None:
            return []
        return [
            {
                "kind": self.kind,
                "block": self.block,
                "step": self.step,
                "layer": self.layers[i],
                "slot": s,
                "slot_frame": self.slots[s].frame,
                "row": row,
                "column": column,
                "mass": float(value),
            }
            for (i, s, row, column), value in np.ndenumerate(self.positions)
        ]

    def point_rows(self) -> list[Row]:
        """A row for each point, layer, head, slot and token position, ready for a data frame."""
        return [
            {
                "block": self.block,
                "point": index,
                "point_frame": self.frames[found.point.frame],
                "point_row": found.point.row,
                "point_column": found.point.column,
                "layer": self.layers[i],
                "head": head,
                "slot": s,
                "slot_frame": self.slots[s].frame,
                "row": row,
                "column": column,
                "weight": float(value),
            }
            for index, found in enumerate(self.points)
            for (i, head, s, row, column), value in np.ndenumerate(found.weights)
        ]

    def by_word(self, words: Sequence[Word]) -> WordAttention:
        """Pool the text tokens into the words of the prompt in force.

        Args:
            words: What `words_of` found in that prompt.

        Returns:
            Attention to each word, the sum over its tokens.

        Raises:
            ValueError: If a word lies beyond the text tokens.
        """
        length = self.text_mass.shape[-1]
        beyond = next((word for word in words if not 0 <= word.start < word.stop <= length), None)
        if beyond is not None:
            raise ValueError(
                f"`words` must lie within the {length} text tokens, "
                f"got {beyond.text!r} at {beyond.start}..{beyond.stop}"
            )
        pool = np.zeros((length, len(words)), dtype=np.float32)
        for column, word in enumerate(words):
            pool[word.start : word.stop, column] = 1
        mass = self.text_mass @ pool
        return WordAttention(
            block=self.block,
            frames=self.frames,
            layers=self.layers,
            words=tuple(words),
            mass=mass,
            rest=self.text_mass.sum(-1) - mass.sum(-1),
            maps=self.text_maps @ pool,
            samples=self.samples,
        )
