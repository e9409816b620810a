"""A block's reading of the cache as JSON and arrays, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from studio.live.blockreading import BlockReading
from studio.model.cache import Slot
from studio.probes import CacheWarning, Point, Residue, TracedWord, Word, WordAttention, WordTrace

__all__ = ["reading_from", "reading_to"]

_PLAIN = ("take", "block", "prompt", "policy", "seconds", "spent")
_MAPS = ("gaze", "gazes", "positions")


def reading_to(reading: BlockReading) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Take a reading apart.

    Args:
        reading: The reading.

    Returns:
        What JSON can hold, and the arrays by name.
    """
    words = reading.words
    fields = {
        **{name: getattr(reading, name) for name in _PLAIN},
        "prompts": {str(number): text for number, text in reading.prompts.items()},
        "slots": [asdict(slot) for slot in reading.slots],
        "before": None if reading.before is None else [asdict(slot) for slot in reading.before],
        "layers": list(reading.layers),
        "own": list(reading.own),
        "grid": list(reading.grid),
        "point": None if reading.point is None else asdict(reading.point),
        "warnings": [asdict(fault) for fault in reading.warnings],
        "alignment": [[number, value if np.isfinite(value) else None] for number, value in reading.alignment.items()],
        "residues": [
            {"block": r.block, "moment": r.moment, "slots": [asdict(slot) for slot in r.slots]}
            for r in reading.residues
        ],
        "trace": None if reading.trace is None else asdict(reading.trace),
        "words": None
        if words is None
        else {
            "frames": list(words.frames),
            "layers": list(words.layers),
            "samples": [list(place) for place in words.samples],
            "words": [asdict(word) for word in words.words],
        },
    }
    arrays = {"mass": reading.mass, "pictures": reading.pictures}
    arrays |= {name: array for name in _MAPS if (array := getattr(reading, name)) is not None}
    if words is not None:
        arrays |= {"word_mass": words.mass, "word_rest": words.rest, "word_maps": words.maps}
    for index, residue in enumerate(reading.residues):
        # The total may be NaN, which JSON does not know.
        total = np.array(residue.total)
        arrays |= {f"keys{index}": residue.keys, f"values{index}": residue.values, f"total{index}": total}
    return fields, arrays


def reading_from(fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> BlockReading:
    """Put a reading together.

    Args:
        fields: What `reading_to` gave, through JSON.
        arrays: The arrays.

    Returns:
        The reading.

    Raises:
        KeyError: If something is missing.
        TypeError: If something is of another kind.
    """
    # Recordings made before there were traces have none.
    words, trace = fields["words"], fields.get("trace")
    residues = [
        Residue(
            block=each["block"],
            moment=each["moment"],
            slots=_slots(each["slots"]),
            keys=arrays[f"keys{index}"],
            values=arrays[f"values{index}"],
            total=float(arrays[f"total{index}"]),
        )
        for index, each in enumerate(fields["residues"])
    ]
    optional: dict[str, Any] = {name: arrays.get(name) for name in _MAPS}
    return BlockReading(
        **{name: fields[name] for name in _PLAIN if name in fields},
        prompts={int(number): str(text) for number, text in fields["prompts"].items()},
        slots=_slots(fields["slots"]),
        before=None if fields["before"] is None else _slots(fields["before"]),
        layers=tuple(fields["layers"]),
        mass=arrays["mass"],
        words=None
        if words is None
        else WordAttention(
            block=fields["block"],
            frames=tuple(words["frames"]),
            layers=tuple(words["layers"]),
            words=tuple(Word(**word) for word in words["words"]),
            mass=arrays["word_mass"],
            rest=arrays["word_rest"],
            maps=arrays["word_maps"],
            samples=tuple((row, column) for row, column in words["samples"]),
        ),
        own=tuple(fields["own"]),
        grid=(fields["grid"][0], fields["grid"][1]),
        point=None if fields["point"] is None else Point(**fields["point"]),
        trace=None if trace is None else WordTrace(**{**trace, "words": _traced(trace["words"])}),
        **optional,
        pictures=arrays["pictures"],
        warnings=tuple(CacheWarning(**fault) for fault in fields["warnings"]),
        residues=tuple(residues),
        alignment={number: float("nan") if value is None else float(value) for number, value in fields["alignment"]},
    )


def _traced(words: list[dict[str, Any]]) -> tuple[TracedWord, ...]:
    return tuple(TracedWord(**word) for word in words)


def _slots(slots: list[dict[str, Any]]) -> tuple[Slot, ...]:
    return tuple(Slot(**slot) for slot in slots)
