"""Reading clips with the probe, and counting what was read right."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from studio.config import from_dict
from studio.model.probe import Probe, ProbeConfig
from studio.model.weights import folder_of, load_checked, read
from studio.world import ATTRIBUTES, Scene

# Frames the probe looks at together; it was trained on windows of about this length.
WINDOW = 40
# Frames that may stay unread.
_SPARE = WINDOW // 4


def load_probe(model: str | Path, device: torch.device | str) -> Probe:
    """Load the probe that is shipped with a model.

    Args:
        model: the model's name or folder.
        device: where it runs.

    Returns:
        The probe, in evaluation mode.

    Raises:
        FileNotFoundError: if the model has no probe.
        ValueError: if the file is damaged or holds something else.
    """
    path = folder_of(model) / "probe.safetensors"
    config, state = read(path, kind="probe")
    probe = Probe(from_dict(ProbeConfig, config))
    load_checked(probe, state, path)
    return probe.to(device).eval().requires_grad_(False)


@torch.no_grad()
def attribute_scores(probe: Probe, pixels: Tensor) -> dict[str, Tensor]:
    """Probabilities of every attribute; those of long clips are averaged over several windows.

    Windows are as few as read all frames but at most a quarter of a window, and stand at equal distances from the first
    frame to the last; a clip of up to one and a quarter windows is read in one, from its first frame.

    Args:
        probe: the probe.
        pixels: [B, T, 3, H, W] in [-1, 1].

    Returns:
        Attribute to probabilities [B, values].
    """
    frames = pixels.shape[1]
    count = max(1, math.ceil((frames - _SPARE) / WINDOW))
    starts = [(frames - min(frames, WINDOW)) * i // max(1, count - 1) for i in range(count)]
    scores: dict[str, Tensor] = {}
    for start in starts:
        for name, logits in probe(pixels[:, start : start + WINDOW]).items():
            part = logits.float().softmax(1) / count
            scores[name] = scores[name] + part if name in scores else part
    return scores


@torch.no_grad()
def read_attributes(probe: Probe, pixels: Tensor) -> list[dict[str, str]]:
    """Read each clip's attributes; long clips in several windows whose scores are averaged.

    Args:
        probe: the probe.
        pixels: [B, T, 3, H, W] in [-1, 1].

    Returns:
        Attribute to value, a dictionary a clip.
    """
    scores = attribute_scores(probe, pixels)
    columns = {name: [ATTRIBUTES[name][i] for i in score.argmax(1).tolist()] for name, score in scores.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class Tally:
    """Counts by attribute how often something was right."""

    def __init__(self) -> None:
        self._right: dict[str, int] = defaultdict(int)
        self._all: dict[str, int] = defaultdict(int)

    def add(self, found: Sequence[Mapping[str, str]], wanted: Sequence[Scene], only: Sequence[Sequence[str]]) -> None:
        """Count a batch.

        Args:
            found: what was read, a dictionary a clip.
            wanted: what should have been there.
            only: attributes that count, clip by clip.
        """
        for got, scene, names in zip(found, wanted, only, strict=True):
            for name in names:
                self._all[name] += 1
                self._right[name] += got[name] == getattr(scene, name)

    def shares(self) -> dict[str, float]:
        """The share read right of every attribute that was counted, in the world's order."""
        return {name: round(self._right[name] / self._all[name], 4) for name in ATTRIBUTES if self._all[name]}
