"""A Jupyter studio for live, steerable video diffusion.

The public names load on first use, so that `import studio` is instant and loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from studio.screens import show_by

if TYPE_CHECKING:
    from studio.config import preset
    from studio.events import Switch
    from studio.live import Session
    from studio.live.clip import clip
    from studio.live.recording import open_recording
    from studio.model.weights import load
    from studio.opening import compare, open
    from studio.timeline import Segment, Timeline
    from studio.widgets import CacheStrip, Curves, HeadGrid, PointGaze, RecacheLab, Studio, Volume, WordsOverTime

__version__ = "0.1.0"
__all__ = [
    "CacheStrip",
    "Curves",
    "HeadGrid",
    "PointGaze",
    "RecacheLab",
    "Segment",
    "Session",
    "Studio",
    "Switch",
    "Timeline",
    "Volume",
    "WordsOverTime",
    "clip",
    "compare",
    "load",
    "open",
    "open_recording",
    "preset",
]

_HOMES = {
    "CacheStrip": "studio.widgets",
    "Curves": "studio.widgets",
    "HeadGrid": "studio.widgets",
    "PointGaze": "studio.widgets",
    "RecacheLab": "studio.widgets",
    "Segment": "studio.timeline",
    "Session": "studio.live",
    "Studio": "studio.widgets",
    "Switch": "studio.events",
    "Timeline": "studio.timeline",
    "Volume": "studio.widgets",
    "WordsOverTime": "studio.widgets",
    "clip": "studio.live.clip",
    "compare": "studio.opening",
    "load": "studio.model.weights",
    "open": "studio.opening",
    "open_recording": "studio.live.recording",
    "preset": "studio.config",
}
_ROOMS = (
    "cli",
    "config",
    "evaluate",
    "live",
    "model",
    "probes",
    "sampler",
    "schedule",
    "shapes",
    "solvers",
    "train",
    "world",
)


def __getattr__(name: str) -> Any:
    if name in _HOMES or name in _ROOMS:
        importlib.import_module("studio.calm")  # before anything that loads torch
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"studio.{name}")
    raise AttributeError(f"module 'studio' has no attribute {name!r}; it has {', '.join(__all__)}")


def _player(source: Any) -> Any:
    return __getattr__("Studio")(source, inspect=False)


show_by(_player)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
