"""Widgets: show a video being generated and let it be steered, in a notebook, and show the cache that makes it.

They work against the small protocol of `studio.widgets.source` and import no torch, so that a live session, a recording
and a test double all fit. The public names load on first use: colours and tables are of use where there is no notebook.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.widgets.lab import RecacheLab
    from studio.widgets.labsource import LabSource
    from studio.widgets.source import CacheSource, FrameSource
    from studio.widgets.studio import Studio
    from studio.widgets.views import CacheStrip, Curves, HeadGrid, PointGaze, Volume, WordsOverTime

__all__ = [
    "CacheSource",
    "CacheStrip",
    "Curves",
    "FrameSource",
    "HeadGrid",
    "LabSource",
    "PointGaze",
    "RecacheLab",
    "Studio",
    "Volume",
    "WordsOverTime",
]

_ROOMS = {
    "lab": ("RecacheLab",),
    "labsource": ("LabSource",),
    "source": ("CacheSource", "FrameSource"),
    "studio": ("Studio",),
    "views": ("CacheStrip", "Curves", "HeadGrid", "PointGaze", "Volume", "WordsOverTime"),
}
_HOMES = {name: f"studio.widgets.{room}" for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'studio.widgets' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
