"""What each attention head is for: the sink, its own block, or neither.

Source: attention sinks (Xiao et al., 2024, arXiv:2309.17453); the three classes and their threshold are this
project's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from studio.probes.readings import AttentionReading

__all__ = ["HeadKind", "HeadTaxonomy", "classify_heads"]

HeadKind = Literal["sink", "self_block", "dynamic"]


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadTaxonomy:
    """Where each head looks over a take.

    Args:
        layers: Layers read.
        readings: How many readings it rests on.
        sink: `[layers, heads]`, mean share of the attention on the sink.
        own: `[layers, heads]`, mean share on the block itself.
        window: `[layers, heads]`, mean share on the rest of the window; the three sum to 1.
        spread: `[layers, heads]`, standard deviation over the readings of the share that varies most.
        kinds: For each layer, the kind of each head.
    """

    layers: tuple[int, ...]
    readings: int
    sink: np.ndarray
    own: np.ndarray
    window: np.ndarray
    spread: np.ndarray
    kinds: tuple[tuple[HeadKind, ...], ...]

    def count(self, kind: HeadKind) -> int:
        """Heads of one kind."""
        return sum(found == kind for layer in self.kinds for found in layer)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each layer and head, ready for a data frame."""
        return [
            {
                "layer": self.layers[i],
                "head": head,
                "kind": kind,
                "sink": float(self.sink[i, head]),
                "own": float(self.own[i, head]),
                "window": float(self.window[i, head]),
                "spread": float(self.spread[i, head]),
            }
            for i, layer in enumerate(self.kinds)
            for head, kind in enumerate(layer)
        ]


def classify_heads(readings: Iterable[AttentionReading], *, majority: float = 0.5) -> HeadTaxonomy:
    """Sort the heads of a take by where they look.

    A head is a sink head when at least `majority` of its attention falls on the sink, a self-block head when as much
    falls on its own block, and dynamic otherwise. Only denoising steps count that can see all three: blocks that are
    themselves the sink, or see nothing between it and themselves, are passed over.

    Args:
        readings: Readings of one take and one set of layers.
        majority: Share of the attention, in [0.5, 1]; at 0.5 a tie goes to the sink.

    Returns:
        The shares and kinds.

    Raises:
        ValueError: If no reading counts, the readings differ in layers, or `majority` is out of range.
    """
    if not 0.5 <= majority <= 1:
        raise ValueError(f"`majority` must lie in [0.5, 1], got {majority}")
    parts, layers = [], set()
    for reading in readings:
        shares = _shares(reading)
        if shares is not None:
            parts.append(shares)
            layers.add(reading.layers)
    if not parts:
        raise ValueError(
            "`readings` must hold a denoising step that sees more than the sink and its own block, got none; "
            "read a longer take"
        )
    if len(layers) > 1:
        raise ValueError(f"`readings` must all be of the same layers, got {sorted(layers)}")
    every = np.stack(parts)
    sink, own, window = every.mean(axis=0)
    kinds = np.where(sink >= majority, "sink", np.where(own >= majority, "self_block", "dynamic"))
    return HeadTaxonomy(
        layers=layers.pop(),
        readings=len(parts),
        sink=sink,
        own=own,
        window=window,
        spread=every.std(axis=0).max(axis=0),
        kinds=tuple(tuple(row) for row in kinds.tolist()),
    )


def _shares(reading: AttentionReading) -> np.ndarray | None:
    """Shares `[3, layers, heads]` of sink, own block and the rest, or `None` where one of them is not there."""
    own = np.array([slot.frame in reading.frames for slot in reading.slots])
    sink = np.array([slot.role == "sink" for slot in reading.slots])
    rest = ~own & ~sink
    if reading.kind != "denoise" or (own & sink).any() or not rest.any():
        return None
    mass = reading.mass.mean(axis=2)
    return np.stack([mass[..., part].sum(axis=-1) for part in (sink, own, rest)])
