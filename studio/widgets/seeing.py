"""What a block saw of the cache, as a message to the browser: a small header, numbers and pictures in binary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from studio.widgets.codec import encode_frames
from studio.widgets.source import Reading, SlotLike

__all__ = ["PICTURE_QUALITY", "cache_message", "finite"]

PICTURE_QUALITY = 85


def cache_message(reading: Reading) -> tuple[dict[str, Any], list[bytes]]:
    """Describe a reading.

    Args:
        reading: The reading.

    Returns:
        The message, and two buffers: little-endian float32 numbers in the order of `counts`, and JPEG files back to
        back in the order of `own`, as long as `sizes` says; none where nothing was decoded. The numbers are the share
        of attention by layer, head and slot; by layer, head and word; by layer and head on what is no word; by own
        frame, sampled position and word; for a point that was asked for, by slot, token row and column, and the same by
        layer and head where that is kept; and of the block as a whole, by slot, token row and column.
    """
    heads = int(reading.mass.shape[1])
    words = reading.words
    nothing = np.zeros(0, dtype=np.float32)
    parts = [reading.mass]
    if words is not None:
        # The browser shows a block as a whole, so the asking frames are averaged here; heat keeps them apart.
        parts += [words.mass.mean(axis=2), words.rest.mean(axis=2), words.maps.mean(axis=0)]
    else:
        parts += [nothing] * 3
    parts += [nothing if part is None else part for part in (reading.gaze, reading.gazes, reading.positions)]
    jpegs = encode_frames(reading.pictures, PICTURE_QUALITY)
    samples = () if words is None else words.samples
    message = {
        "type": "cache",
        "take": reading.take,
        "block": reading.block,
        "prompt": reading.prompt,
        "policy": reading.policy,
        "prompts": {str(number): text for number, text in reading.prompts.items()},
        "slots": _slots(reading.slots),
        "before": None if reading.before is None else _slots(reading.before),
        "own": list(reading.own),
        "layers": list(reading.layers),
        "heads": heads,
        "tokens": list(reading.grid),
        "point": None if reading.point is None else [reading.point.frame, reading.point.row, reading.point.column],
        "words": None if words is None else [word.text for word in words.words],
        "grid": [len({row for row, _ in samples}), len({column for _, column in samples})],
        "counts": [int(part.size) for part in parts],
        "sizes": [len(jpeg) for jpeg in jpegs],
        "residue": {found.moment: finite(found.total) for found in reading.residues},
        "left": _left(reading),
        "trace": _trace(reading),
        "alignment": {str(number): finite(value) for number, value in reading.alignment.items()},
        "warnings": [
            {
                "kind": fault.kind,
                "block": fault.block,
                "layer": fault.layer,
                "slot": fault.slot,
                "message": fault.message,
            }
            for fault in reading.warnings
        ],
    }
    numbers = np.concatenate([np.ascontiguousarray(part, dtype="<f4").ravel() for part in parts])
    return message, [numbers.tobytes(), b"".join(jpegs)]


def finite(value: float) -> float | None:
    """A number for JSON, which knows neither infinity nor NaN."""
    return float(value) if math.isfinite(value) else None


def _left(reading: Reading) -> list[float | None]:
    """What is left of the prompt before in each slot when the block was made: the mean over layers, keys and values."""
    made = next((found for found in reading.residues if found.moment == "made"), None)
    if made is None:
        return []
    told = np.concatenate([made.keys, made.values])
    known = np.isfinite(told).sum(axis=0)
    by_slot = dict(zip(made.slots, zip(np.nan_to_num(told).sum(axis=0), known, strict=True), strict=True))
    shares = [by_slot.get(slot, (0.0, 0)) for slot in reading.slots]
    return [float(total / count) if count else None for total, count in shares]


def _trace(reading: Reading) -> dict[str, Any] | None:
    """What the block finds of each word in the cache, the words of old prompts too."""
    if reading.trace is None:
        return None
    words = [[word.prompt, word.index, word.text, word.share] for word in reading.trace.words]
    return {"words": words, "rest": reading.trace.rest, "unheard": reading.trace.unheard}


def _slots(slots: Sequence[SlotLike]) -> list[list[Any]]:
    return [[slot.frame, slot.role, slot.prompt, slot.written, slot.block] for slot in slots]
