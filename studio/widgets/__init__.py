"""Widgets: show a video being generated and let it be steered, in a notebook, and show the cache that makes it.

They work against the small protocol of `studio.widgets.source` and import no torch, so that a live session, a recording
and a test double all fit.
"""

from __future__ import annotations

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
