"""Loop: probes that look into a rollout without touching it.

A `Watch` on the network tells its listeners of every pass; an `AttentionProbe` reads what the passes look at, `History`
who wrote each slot of the cache.
"""

from __future__ import annotations

from studio.probes.attention import AttentionProbe, AttentionSampling
from studio.probes.cost import Cost
from studio.probes.history import History, Snapshot
from studio.probes.passes import Listener, Pass, Watch
from studio.probes.readings import AttentionReading, Point, PointMap, WordAttention
from studio.probes.words import Word, words_of

__all__ = [
    "AttentionProbe",
    "AttentionReading",
    "AttentionSampling",
    "Cost",
    "History",
    "Listener",
    "Pass",
    "Point",
    "PointMap",
    "Snapshot",
    "Watch",
    "Word",
    "WordAttention",
    "words_of",
]
